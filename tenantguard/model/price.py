"""What tokens cost: rates by model, as an immutable book with a version that every charge records."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import NANOS_MAX, Amount, known_currency

if TYPE_CHECKING:
    from collections.abc import Mapping

_RATE: Final = re.compile(
    r"\A\s*(?P<whole>[0-9]{1,19})(?:\.(?P<fraction>[0-9]{1,30}))?\s*(?P<currency>[A-Z]{3})\s*/\s*1(?P<per>[KM])\s*\Z",
)
_DECIMALS: Final = {"M": 9, "K": 12}


def parse_rate(text: str) -> Amount:
    """Read ``"0.25 USD/1M"`` or ``"0.00025 USD/1K"`` as the price of one million tokens.

    Exact, or :class:`ConfigurationError`: per million, a rate has at most nine decimals.
    """
    matched = _RATE.match(text)
    if matched is None:
        raise ConfigurationError(f"cannot read the price {text!r}: write for example '0.25 USD/1M' or '0.01 USD/1K'")
    decimals = _DECIMALS[matched["per"]]
    fraction = (matched["fraction"] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ConfigurationError(f"the price {text!r} is finer than a billionth per million tokens")
    return Amount(int(matched["whole"] + fraction.ljust(decimals, "0")), known_currency(matched["currency"]))


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Rates in whole billionths of the currency's unit per million tokens. All four must be said; 0 is a rate.

    None is ever derived from another.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    currency: str

    def __post_init__(self) -> None:
        for name in ("input", "output", "cache_read", "cache_write"):
            rate = getattr(self, name)
            if type(rate) is not int or not 0 <= rate <= NANOS_MAX:
                raise ConfigurationError(f"a price's {name} rate must be a whole number of billionths, at least 0")

    @classmethod
    def parse(cls, *, input: str, output: str, cache_read: str, cache_write: str) -> TokenPrice:  # noqa: A002 - the key of the settings
        """Read four rates written as :func:`parse_rate` reads them, all in one currency."""
        rates = [parse_rate(text) for text in (input, output, cache_read, cache_write)]
        if len({rate.currency for rate in rates}) > 1:
            raise ConfigurationError("the four rates of a price must be in one currency")
        nanos = [rate.nanos for rate in rates]
        return cls(nanos[0], nanos[1], nanos[2], nanos[3], rates[0].currency)


class UnknownModel(StrEnum):
    """What becomes of a call whose model has no price.

    ``refuse`` it (the default); let it go free with one warning per name (``warn``); or charge the ``default`` price.
    """

    REFUSE = "refuse"
    WARN = "warn"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Prices by exact model name (no aliases, no prefixes), and what holds for every other name.

    ``version`` is derived from the content unless given: equal books have equal versions whatever process built them.
    """

    models: Mapping[str, TokenPrice] = field(default_factory=dict, hash=False)
    unknown: UnknownModel = UnknownModel.REFUSE
    default: TokenPrice | None = None
    version: str = ""

    def __post_init__(self) -> None:
        if (self.unknown is UnknownModel.DEFAULT) != (self.default is not None):
            raise ConfigurationError("prices: a default price and unknown = 'default' go together")
        if "" in self.models:
            raise ConfigurationError("prices: a model's name must be non-empty")
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        if not self.version:
            shown = repr((sorted(self.models.items()), self.unknown.value, self.default))
            object.__setattr__(self, "version", hashlib.blake2s(shown.encode(), digest_size=6).hexdigest())

    def find(self, model: str) -> TokenPrice | None:
        """The price of exactly this model, or None."""
        return self.models.get(model)

    def with_model(self, model: str, price: TokenPrice) -> PriceBook:
        """A new book in which ``model`` has this price; all else is as it was, and the version is derived anew."""
        return PriceBook({**self.models, model: price}, self.unknown, self.default)
