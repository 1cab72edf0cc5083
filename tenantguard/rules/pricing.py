"""From usage to money: exact integer arithmetic, one rounding per entry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tenantguard.model.price import UnknownModel

if TYPE_CHECKING:
    from tenantguard.model.price import PriceBook, TokenPrice
    from tenantguard.model.usage import Usage

_TOKENS_PER_RATE: Final = 1_000_000
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def cost_nanos(price: TokenPrice, usage: Usage) -> int:
    """What ``usage`` costs, in billionths of the currency's unit, rounded once: half to even."""
    whole, rest = divmod(
        price.input * usage.input_tokens
        + price.output * usage.output_tokens
        + price.cache_read * usage.cache_read_tokens
        + price.cache_write * usage.cache_write_tokens,
        _TOKENS_PER_RATE,
    )
    return whole + (2 * rest + (whole & 1) > _TOKENS_PER_RATE)


def bound_nanos(price: TokenPrice, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens can cost, rounded up: all input at the dearest of its three rates.

    No usage with at most ``input_tokens`` in, of whatever kind, and ``output_tokens`` out costs more.
    """
    dearest = max(price.input, price.cache_read, price.cache_write)
    return -(-(dearest * input_tokens + price.output * output_tokens) // _TOKENS_PER_RATE)


def shown_model(model: str) -> str:
    """The name of a model that no settings hold, as it may be kept and logged.

    It came from a caller, and many servers say it again: what looks like no name may be anything, of any length.
    """
    return model if _PLAIN_NAME.fullmatch(model) else "(withheld)"


@dataclass(frozen=True, slots=True)
class Quote:
    """The price that one call is held and charged at, whatever changes meanwhile.

    ``price`` is None for an unknown model that goes free. ``version`` is the book's; ``matched_by`` is ``model``,
    ``default`` or ``unpriced``.
    """

    model: str
    price: TokenPrice | None
    version: str
    matched_by: str

    def cost_nanos(self, usage: Usage) -> int:
        """As :func:`cost_nanos`; 0 where the model goes free."""
        return 0 if self.price is None else cost_nanos(self.price, usage)

    def bound_nanos(self, input_tokens: int, output_tokens: int) -> int:
        """As :func:`bound_nanos`; 0 where the model goes free."""
        return 0 if self.price is None else bound_nanos(self.price, input_tokens, output_tokens)


def quote(book: PriceBook, model: str) -> Quote | None:
    """The price of a call to ``model`` by this book, or None: an unknown model, and the book refuses those."""
    price = book.find(model)
    if price is not None:
        return Quote(model, price, book.version, "model")
    if book.unknown is UnknownModel.REFUSE:
        return None
    return Quote(model, book.default, book.version, "default" if book.default is not None else "unpriced")
