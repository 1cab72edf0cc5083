"""The promises of ledgers."""

# ruff: noqa: PLC0414 - what rings and calls beside them is offered here
from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.adapters.promise import StorePromise
from tenantguard.adapters.promise import safely as safely

if TYPE_CHECKING:
    from tenantguard.adapters.promise import Bell as Bell


class LedgerPromise(StorePromise):
    """The answer to one command of a ledger."""

    __slots__ = ()
    port = "ledger"
