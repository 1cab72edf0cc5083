"""A price book that can be replaced while requests run, and who hears of models without a price."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.system import SystemClock
from tenantguard.model.price import PriceBook, UnknownModel
from tenantguard.rules.pricing import quote, shown_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.model.price import TokenPrice
    from tenantguard.rules.pricing import Quote

WARNED_MAX: Final = 1024
"""How many names of unknown models are remembered, so that callers cannot grow the memory: as entelix-policy."""


class PriceTable:
    """Holds the :class:`PriceBook` in force. Safe to share between threads; a quote never mixes two books.

    ``sink`` hears every attempt to call a model without a price, under every policy and before the decision, which
    is then taken by the book that was in force before: a sink that installs the missing price helps the next call.
    It is called without a lock held, and what it raises is logged and goes no further. ``now_ns`` tells the time by
    which published prices are chosen, in nanoseconds since 1970.
    """

    def __init__(
        self,
        book: PriceBook | None = None,
        *,
        sink: Callable[[str], None] | None = None,
        now_ns: Callable[[], int] = SystemClock.wall_ns,
    ) -> None:
        self._book = book if book is not None else PriceBook()
        self._sink = sink
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def snapshot(self) -> PriceBook:
        """The book in force: a value that later replacements do not change."""
        return self._book

    def replace(self, book: PriceBook) -> None:
        """Put another book in force, for every quote from now on."""
        with self._lock:
            self._book = book

    def replace_model(self, model: str, price: TokenPrice) -> None:
        """Give one model another price, or its first; the other models keep theirs."""
        with self._lock:
            self._book = self._book.with_model(model, price)

    def quote(self, model: str, *, provider: str | None = None) -> Quote | None:
        """The price of a call to ``model`` now, or None where it is unknown and must be refused.

        ``provider`` is whose published price counts, where the call is known to go there.
        """
        book = self._book
        now_ns = self._now_ns() if book.listed.rows else 0
        answer = quote(book, model, provider=provider, now_ns=now_ns)
        if answer is None or answer.matched_by in {"default", "unpriced"}:
            self._tell(model)
            if book.unknown is UnknownModel.WARN:
                self._warn(shown_model(model))
        return answer

    def _tell(self, model: str) -> None:
        if self._sink is None:
            return
        try:
            self._sink(model)
        except Exception:  # noqa: BLE001 - whoever listens must not decide over the request
            _log("price.sink_failed", shown_model(model))

    def _warn(self, model: str) -> None:
        with self._lock:
            if model in self._warned or len(self._warned) > WARNED_MAX:
                return
            if full := len(self._warned) == WARNED_MAX:
                self._warned.add("")  # no model's name: remembers that the memory is full was said
            else:
                self._warned.add(model)
        _log("price.warnings_full" if full else "price.unknown", model)


def _log(event: str, model: str) -> None:
    import structlog  # noqa: PLC0415 - only who has something to say pays for it

    structlog.get_logger("tenantguard").warning(event, model=model)
