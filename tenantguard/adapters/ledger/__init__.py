"""Ledgers. ``MemoryLedger`` lives and dies with its process; ``SQLiteLedger`` is durable and shared by processes.

Both take every decision with ``rules/ledger.py``. A database is a :class:`~.backend.Backend` behind the group-commit
:class:`~.writer.Writer`: it loads what a batch of commands touches, lets the rule decide, stores what changed, and
commits once.
"""
