"""The policy section that makes a tenant's prices differ from the price book's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tenantguard.errors import ConfigurationError

_PERCENT: Final = re.compile(r"\A\s*(?P<whole>[0-9]{1,5})(?:\.(?P<fraction>[0-9]{1,6}))?\s*%\s*\Z")
_ZERO: Final = Fraction(0)


def parse_percent(text: str) -> Fraction:
    """Read ``"15%"`` or ``"2.5%"`` exactly; at most six decimals. Raises :class:`ConfigurationError`."""
    matched = _PERCENT.match(text)
    if matched is None:
        raise ConfigurationError(f"cannot read the percentage {text!r}: write for example '15%'")
    return Fraction(f"{matched['whole']}.{matched['fraction'] or 0}") / 100


@dataclass(frozen=True, slots=True)
class PricingSection:
    """What a tenant pays of what models cost: more by ``markup``, or less by ``discount``; shares, 1 is 100 %.

    It changes prices of models alone: what routes cost, and what an application reports, are the operator's own
    figures already.
    """

    markup: Fraction = _ZERO
    discount: Fraction = _ZERO

    def __post_init__(self) -> None:
        if type(self.markup) is not Fraction or type(self.discount) is not Fraction:
            raise ConfigurationError("pricing: markup and discount are exact fractions")
        if self.markup and self.discount:
            raise ConfigurationError("pricing: write a markup or a discount, not both")
        if self.markup < 0 or not 0 <= self.discount <= 1:
            raise ConfigurationError("pricing: a markup is at least 0%, a discount from 0% to 100%")

    @property
    def factor(self) -> Fraction:
        """What the price book's prices are multiplied by."""
        return 1 + self.markup - self.discount

    def __str__(self) -> str:
        if self.discount:
            return f"discount {_percent(self.discount)}"
        return f"markup {_percent(self.markup)}"


def _percent(share: Fraction) -> str:
    whole, rest = divmod(share * 100 * 10**6, 10**6)
    return f"{whole}.{int(rest):06d}".rstrip("0").rstrip(".") + "%"
