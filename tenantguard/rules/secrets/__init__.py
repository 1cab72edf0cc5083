"""Secrets: what vendors' keys look like, and keys that look like nothing but chance. Pure data and functions."""
