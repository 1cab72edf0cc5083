"""Ledgers. ``MemoryLedger`` lives and dies with its process; the others are durable and shared by processes.

All take every decision with ``rules/ledger``, through ``backend.decide``. A database is a :class:`~.backend.Backend`
behind the group-commit :class:`~.writer.Writer`: it loads what a batch of commands touches, lets the rule decide,
stores what changed, and commits once. What databases have in common, from columns to what a batch must load, is in
``encoding.py``.
"""
