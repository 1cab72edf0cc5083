"""Redaction: personal data in texts, JSON and event streams replaced, whole or while they stream. Pure."""
