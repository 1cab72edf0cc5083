"""Alerts that leave the ledger: at its outbox stands :class:`~.delivery.Alerts`, which hands each to its senders.

``log.py`` and ``webhook.py`` are the senders, ``payload.py`` says what is told, ``signature.py`` signs it and helps
receivers to verify it.
"""
