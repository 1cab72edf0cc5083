"""Immutable vocabulary: validation and no other behaviour."""
