"""The outside world, each part behind a port of ``flow/ports.py``."""
