"""From one currency to another: by a table with a version, once, when a hold is placed; never when money is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import known_currency

if TYPE_CHECKING:
    from collections.abc import Mapping

_RATE: Final = re.compile(r"\A\s*(?P<number>[0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(?P<currency>[A-Z]{3})\s*\Z")
_VERSION: Final = re.compile(r"\A[A-Za-z0-9._:+-]{1,64}\Z")


def parse_exchange_rate(text: str, base: str) -> Fraction:
    """Read ``"1.0876 USD"``: how many units of ``base`` one unit of some currency is. At most twelve decimals."""
    matched = _RATE.match(text)
    if matched is None:
        raise ConfigurationError(f"cannot read the exchange rate {text!r}: write for example '1.0876 {base}'")
    if matched["currency"] != base:
        raise ConfigurationError(f"the exchange rate {text!r} must be in {base}, the base of the table")
    rate = Fraction(matched["number"])
    if not rate:
        raise ConfigurationError("an exchange rate must be above 0")
    return rate


@dataclass(frozen=True, slots=True)
class Conversion:
    """How money of ``source`` becomes money of ``target``: pinned when a hold is placed, and used to settle it.

    ``rate`` is how many units of ``target`` one unit of ``source`` is, exactly; ``version`` is the table's.
    """

    source: str
    target: str
    rate: Fraction
    version: str

    def nanos(self, nanos: int) -> int:
        """``nanos`` of ``source`` in ``target``, rounded up: against the tenant by less than a billionth."""
        return -(-nanos * self.rate.numerator // self.rate.denominator)

    def evidence(self) -> dict[str, str]:
        """What an entry records of it. The rate is a fraction where no decimal is exact."""
        return {"from": self.source, "to": self.target, "rate": str(self.rate), "version": self.version}


@dataclass(frozen=True, slots=True)
class RateTable:
    """Exchange rates: how many units of ``base`` one unit of each other currency is."""

    version: str
    base: str
    rates: Mapping[str, Fraction] = field(hash=False)

    def __post_init__(self) -> None:
        if not _VERSION.match(self.version):
            raise ConfigurationError("rates: version must be 1 to 64 letters, digits or . _ : + -, like a date")
        for currency, rate in self.rates.items():
            known_currency(currency)
            if type(rate) is not Fraction or rate <= 0:
                raise ConfigurationError(f"rates: the rate of {currency} must be an exact fraction above 0")
        if self.base in self.rates:
            raise ConfigurationError(f"rates: {self.base} is the base, so it has no rate of its own")
        object.__setattr__(self, "base", known_currency(self.base))
        object.__setattr__(self, "rates", MappingProxyType(dict(self.rates)))

    @classmethod
    def parse(cls, version: str, base: str, rates: Mapping[str, str]) -> RateTable:
        """Make a table of rates as :func:`parse_exchange_rate` reads them."""
        return cls(version, base, {currency: parse_exchange_rate(text, base) for currency, text in rates.items()})

    def conversion(self, source: str, target: str) -> Conversion | None:
        """How ``source`` becomes ``target``; None where they are one. Raises where the table lacks either."""
        if source == target:
            return None
        return Conversion(source, target, self._in_base(source) / self._in_base(target), self.version)

    def _in_base(self, currency: str) -> Fraction:
        if currency == self.base:
            return Fraction(1)
        try:
            return self.rates[currency]
        except KeyError:
            raise ConfigurationError(
                f"rates: there is no rate for {currency}; write \"{currency}\" = '<number> {self.base}'"
            ) from None
