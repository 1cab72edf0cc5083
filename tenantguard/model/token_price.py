"""What the tokens of one model cost: exact rates, those of long contexts, and those of other service tiers."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeAlias

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import NANOS_MAX, Amount, known_currency

_RATE: Final = re.compile(
    r"\A\s*(?P<whole>[0-9]{1,19})(?:\.(?P<fraction>[0-9]{1,30}))?\s*(?P<currency>[A-Z]{3})\s*/\s*1(?P<per>[KM])\s*\Z",
)
_DECIMALS: Final = {"M": 9, "K": 12}

BASE_KINDS: Final = ("input", "output", "cache_read", "cache_write")
"""The rates that every price must say."""

INPUT_KINDS: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_KINDS: Final = ("output", "audio_output", "image_output", "reasoning")
KINDS: Final = (*BASE_KINDS, *(kind for kind in INPUT_KINDS + OUTPUT_KINDS if kind not in BASE_KINDS))
"""All rates by tokens. Tokens of a kind without a rate of its own are those of the kind that it belongs to, as
providers bill them that publish one rate for all: of ``cache_write`` (for an hour), of ``input`` or of ``output``.
"""

STANDARD_TIERS: Final = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What APIs call the service tier that no name is needed for (OpenAI, Anthropic, Groq)."""


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
class Rates:
    """Whole billionths of a currency's unit per million tokens of each of :data:`KINDS`, and for the ``request``.

    The first four must be said, and 0 is a rate: none is ever derived from another. For the others see
    :data:`KINDS`. The dearest of each side are what a hold is for.
    """

    input: int
    output: int
    cache_read: int
    cache_write: int
    _: KW_ONLY
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None
    reasoning: int | None = None
    request: int = 0
    dearest_input: int = field(init=False, repr=False, compare=False)
    dearest_output: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (*KINDS, "request"):
            rate = getattr(self, name)
            if rate is None and name not in BASE_KINDS and name != "request":
                continue
            if type(rate) is not int or not 0 <= rate <= NANOS_MAX:
                raise ConfigurationError(f"a price's {name} rate must be a whole number of billionths, at least 0")
        for side, kinds in (("dearest_input", INPUT_KINDS), ("dearest_output", OUTPUT_KINDS)):
            object.__setattr__(self, side, max(getattr(self, kind) or 0 for kind in kinds))


@dataclass(frozen=True, slots=True)
class Tier(Rates):
    """Long context: the rates of a whole request with more than ``above`` tokens of input, of all kinds together."""

    above: int

    def __post_init__(self) -> None:
        Rates.__post_init__(self)  # super() does not know a class that slots made anew
        if type(self.above) is not int or self.above < 0:
            raise ConfigurationError("a tier begins above a whole number of tokens, at least 0")


Service: TypeAlias = "Fraction | TokenPrice"
"""What another service tier costs: so many times the standard price, or a price of its own."""


@dataclass(frozen=True, slots=True)
class TokenPrice(Rates):
    """What one model costs: rates in one currency, those of long contexts, and those of other service tiers.

    ``services`` are pairs of a name, as requests and responses write it (``batch``, ``flex``, ``priority``), and
    what it costs. A service tier without an entry costs the standard price.
    """

    currency: str
    _: KW_ONLY
    tiers: tuple[Tier, ...] = ()
    services: tuple[tuple[str, Service], ...] = ()

    def __post_init__(self) -> None:
        Rates.__post_init__(self)
        starts = [tier.above for tier in self.tiers]
        if starts != sorted(set(starts)):
            raise ConfigurationError("a price's tiers must rise, each above more tokens than the one before")
        names = [name for name, _ in self.services]
        if len(set(names)) < len(names):
            raise ConfigurationError("a price has two entries for one service tier")
        for name, service in self.services:
            if not name or name in STANDARD_TIERS:
                raise ConfigurationError(f"{name!r} is no name for a service tier beside the standard one")
            if isinstance(service, Fraction):
                if service < 0:
                    raise ConfigurationError(f"the multiplier of service tier {name!r} must be at least 0")
            elif service.services or service.currency != self.currency:
                raise ConfigurationError(f"service tier {name!r} needs plain rates, in the currency of its price")

    @classmethod
    def parse(
        cls,
        *,
        input: str,  # noqa: A002 - the key of the settings
        output: str,
        cache_read: str,
        cache_write: str,
        **others: str,
    ) -> TokenPrice:
        """Read rates written as :func:`parse_rate` reads them, all in one currency; ``others``: of :data:`KINDS`."""
        unknown = others.keys() - set(KINDS)
        if unknown:
            raise ConfigurationError(f"a price has no rate {min(unknown)!r}: known are {', '.join(KINDS)}")
        rates = [parse_rate(text) for text in (input, output, cache_read, cache_write, *others.values())]
        if len({rate.currency for rate in rates}) > 1:
            raise ConfigurationError("the rates of a price must be in one currency")
        nanos = [rate.nanos for rate in rates]
        kinds: dict[str, Any] = dict(zip(others, nanos[4:], strict=True))
        return cls(nanos[0], nanos[1], nanos[2], nanos[3], rates[0].currency, **kinds)

    def rates(self, input_tokens: int) -> Rates:
        """The rates of a request with so much input, caches and audio counted."""
        for tier in reversed(self.tiers):
            if input_tokens > tier.above:
                return tier
        return self

    def service(self, name: str | None) -> Service | None:
        """What the service tier of this name costs; None where it costs the standard price."""
        return next((service for known, service in self.services if known == name), None)
