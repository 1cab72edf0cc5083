"""Slots that machines share, in Redis or Valkey."""
