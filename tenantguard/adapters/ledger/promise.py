"""The promises of ledgers."""

# ruff: noqa: PLC0414 - what rings and calls beside them is offered here
from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.adapters.promise import StorePromise
from tenantguard.adapters.promise import safely as safely

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.adapters.promise import Bell as Bell


class LedgerPromise(StorePromise):
    """The answer to one command of a ledger. ``hasten`` is called before a thread blocks for it."""

    __slots__ = ("_hasten",)
    port = "ledger"

    def __init__(self, deadline_s: float, hasten: Callable[[], None] | None = None) -> None:
        super().__init__(deadline_s)
        self._hasten = hasten

    def wait(self, timeout_s: float) -> bool:
        """Block until the answer is there; False if ``timeout_s`` seconds passed first."""
        if self._done or timeout_s <= 0:
            return self._done
        if self._hasten is not None:
            self._hasten()
        return super().wait(timeout_s)
