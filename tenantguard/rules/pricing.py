"""From usage to money: exact integer arithmetic, one rounding per entry."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tenantguard.model.frozen import frozen
from tenantguard.model.price import UnknownModel
from tenantguard.model.token_price import STANDARD_TIERS
from tenantguard.rules.secrets.catalog import marked

if TYPE_CHECKING:
    from tenantguard.model.price import PriceBook, TokenPrice
    from tenantguard.model.pricing_section import PricingSection
    from tenantguard.model.token_price import Rates
    from tenantguard.model.usage import Usage
    from tenantguard.rules.rates import Conversion

_TOKENS_PER_RATE: Final = 1_000_000
_NAME_CHARS_MAX: Final = 80
_PIECE: Final = (
    r"(?:[A-Za-z]{1,24}|20\d{6}|\d{1,4}|(?=[A-Za-z\d]{1,12}(?![A-Za-z\d]))[A-Za-z]{0,9}\d{1,4}[A-Za-z]{0,4}"
    r"(?:\d{1,3}[A-Za-z]{0,2})?)"
)
_NAME: Final = re.compile(
    rf"[@~]?(?=[A-Za-z]){_PIECE}(?:(?:[._:/-]{{1,2}}|@(?=20\d{{6}}\Z)){_PIECE}){{0,11}}", re.ASCII
)
_DATE: Final = re.compile(r"(?<!\d)20\d\d(-?)(?:0[1-9]|1[0-2])\1[0-3]\d(?!\d)", re.ASCII)
_NUMBER: Final = re.compile(r"(?<![A-Za-z\d])\d+(?![A-Za-z\d])", re.ASCII)
_DIGITS_MAX: Final = 6
"""Of numbers beside a date, which are versions: those that are somebody's have seven and more."""
_ONE: Final = Fraction(1)

WITHHELD: Final = "(withheld)"
"""In place of the name of a model that may be anything."""


def cost_nanos(price: TokenPrice, usage: Usage) -> int:
    """What ``usage`` costs, in billionths of the currency's unit, rounded once: half to even.

    All input together chooses the tier, the response's service tier chooses the rates, and what a price does not know
    costs its standard rates.
    """
    return _half_even(*_cost(price, usage))


def bound_nanos(price: TokenPrice, input_tokens: int, output_tokens: int, service_tier: str | None = None) -> int:
    """The most that so many tokens can cost, rounded up: all at the dearest rates that the request can be billed at.

    No usage with at most ``input_tokens`` in and ``output_tokens`` out, of whatever kinds, costs more. Counted are
    the tiers that so much input can reach, and every service tier of the price, unless the request names one as
    ``service_tier``: then that one and the standard one, which providers fall back to.
    """
    nanos, per = _bound(price, input_tokens, output_tokens, service_tier)
    return -(-nanos // per)


def _cost(price: TokenPrice, usage: Usage) -> tuple[int, int]:
    """The exact cost: so many nanos, divided by the second."""
    times, per = 1, _TOKENS_PER_RATE
    service = price.service(usage.service_tier) if price.services else None
    if service is not None:  # most prices have none, and asking what kind of number it is costs more than the sum
        if isinstance(service, Fraction):
            times, per = service.numerator, service.denominator * _TOKENS_PER_RATE
        else:
            price = service
    rates: Rates = price
    if price.tiers:
        rates = price.rates(
            usage.input_tokens
            + usage.cache_read_tokens
            + usage.cache_write_tokens
            + usage.cache_write_1h_tokens
            + usage.audio_input_tokens
        )
    nanos = (
        rates.input * usage.input_tokens
        + rates.output * usage.output_tokens
        + rates.cache_read * usage.cache_read_tokens
        + rates.cache_write * usage.cache_write_tokens
    )
    if usage.cache_write_1h_tokens:
        nanos += _either(rates.cache_write_1h, rates.cache_write) * usage.cache_write_1h_tokens
    if usage.audio_input_tokens:
        nanos += _either(rates.audio_input, rates.input) * usage.audio_input_tokens
    if usage.image_input_tokens and rates.image_input is not None:
        nanos += (rates.image_input - rates.input) * usage.image_input_tokens
    if usage.audio_output_tokens:
        nanos += _either(rates.audio_output, rates.output) * usage.audio_output_tokens
    if usage.image_output_tokens:
        nanos += _either(rates.image_output, rates.output) * usage.image_output_tokens
    if usage.reasoning_tokens and rates.reasoning is not None:
        nanos += (rates.reasoning - rates.output) * usage.reasoning_tokens
    return (nanos + rates.request * _TOKENS_PER_RATE) * times, per


def _bound(price: TokenPrice, input_tokens: int, output_tokens: int, service_tier: str | None) -> tuple[int, int]:
    """The most by any row of rates that the request can be billed at; as :func:`_cost`."""
    standard = nanos = _reached(price, input_tokens, output_tokens)
    per = 1
    if price.services and service_tier not in STANDARD_TIERS:
        named = price.service(service_tier)
        for service in (service for _, service in price.services) if named is None else (named,):
            if isinstance(service, Fraction):
                most, divided = standard * service.numerator, service.denominator
            else:
                most, divided = _reached(service, input_tokens, output_tokens), 1
            if most * per > nanos * divided:
                nanos, per = most, divided
    return nanos, per * _TOKENS_PER_RATE


def _reached(price: TokenPrice, input_tokens: int, output_tokens: int) -> int:
    """The most by the rates of each tier that so much input can reach, in nanos per :data:`_TOKENS_PER_RATE`."""
    most = _at_dearest(price, input_tokens, output_tokens)
    for tier in price.tiers:
        if input_tokens > tier.above:
            most = max(most, _at_dearest(tier, input_tokens, output_tokens))
    return most


def _at_dearest(rates: Rates, input_tokens: int, output_tokens: int) -> int:
    return (
        rates.dearest_input * input_tokens + rates.dearest_output * output_tokens + rates.request * _TOKENS_PER_RATE
    )


def _either(own: int | None, otherwise: int) -> int:
    return otherwise if own is None else own


def _half_even(nanos: int, per: int) -> int:
    whole, rest = divmod(nanos, per)
    return whole + (2 * rest + (whole & 1) > per)


def shown_model(model: str) -> str:
    """The name of a model that no settings hold, as it may be kept and logged.

    It came from a caller, and many servers say it again, so it may be a secret or somebody's number. What is shown is
    made as vendors make names (of words, versions, sizes and one date, in short pieces), and has no secret's mark.
    """
    return _shown(model) if len(model) <= _NAME_CHARS_MAX else WITHHELD


@lru_cache(maxsize=256)  # callers choose names; each request and its response say one
def _shown(model: str) -> str:
    if _NAME.fullmatch(model) is None or marked(model):
        return WITHHELD
    digits = sum(map(len, _NUMBER.findall(_DATE.sub("", model, count=1))))
    return model if digits <= _DIGITS_MAX else WITHHELD


@frozen
class Quote:
    """The price that one call is held and charged at, whatever changes meanwhile.

    ``price`` is None for an unknown model that goes free. ``version`` is the book's. ``matched_by`` is ``model``,
    where the book holds this exact name, ``pattern``, ``default`` or ``unpriced``; ``provider`` is the one whose
    published price it is. ``factor`` is the tenant's mark-up or discount.

    Amounts are in billionths of the unit of :attr:`currency`, or, given a ``conversion``, of its target, and then
    rounded up even when they are posted: against the tenant, by less than a billionth. ``extra_nanos``, what the
    route itself costs in :attr:`currency`, is added before, so that an entry is rounded once.
    """

    model: str
    price: TokenPrice | None
    version: str
    matched_by: str
    provider: str | None = None
    factor: Fraction = _ONE

    @property
    def currency(self) -> str | None:
        """The currency of the price; None where the model goes free."""
        return None if self.price is None else self.price.currency

    def for_tenant(self, section: PricingSection | None) -> Quote:
        """The same quote with the mark-up or discount of a tenant's policy."""
        return self if section is None else replace(self, factor=section.factor)

    def cost_nanos(self, usage: Usage, *, extra_nanos: int = 0, conversion: Conversion | None = None) -> int:
        """As :func:`cost_nanos`; 0 where the model goes free."""
        return self.cost(usage, extra_nanos=extra_nanos, conversion=conversion)[0]

    def cost(
        self, usage: Usage, *, extra_nanos: int = 0, conversion: Conversion | None = None
    ) -> tuple[int, str | None]:
        """What :meth:`cost_nanos` says, and, where that was rounded, :meth:`exact_cost`, else None."""
        nanos, per = self._exact(usage, extra_nanos, conversion)
        whole, rest = divmod(nanos, per)
        if not rest:
            return whole, None
        rounded = _half_even(nanos, per) if conversion is None else whole + 1
        return rounded, exact_text(Fraction(nanos, per * 10**9))

    def bound_nanos(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        service_tier: str | None = None,
        extra_nanos: int = 0,
        conversion: Conversion | None = None,
    ) -> int:
        """As :func:`bound_nanos`; 0 where the model goes free."""
        nanos, per = (0, 1) if self.price is None else _bound(self.price, input_tokens, output_tokens, service_tier)
        nanos, per = self._adjusted(nanos, per, extra_nanos, conversion)
        return -(-nanos // per)

    def reported_nanos(self, nanos: int, *, extra_nanos: int = 0, conversion: Conversion | None = None) -> int:
        """What a cost comes to that the provider itself reported, in the price's currency."""
        nanos, per = self._adjusted(nanos, 1, extra_nanos, conversion)
        return _half_even(nanos, per) if conversion is None else -(-nanos // per)

    def exact_cost(self, usage: Usage, *, extra_nanos: int = 0, conversion: Conversion | None = None) -> str:
        """What :meth:`cost_nanos` rounds, in units of the currency: an exact decimal, or a fraction where none is."""
        nanos, per = self._exact(usage, extra_nanos, conversion)
        return exact_text(Fraction(nanos, per * 10**9))

    def evidence(self) -> dict[str, str]:
        """What an entry records of the price: its version, and what was applied to it."""
        told = {"price_version": self.version}
        if self.provider is not None:
            told["provider"] = self.provider
        if self.factor is not _ONE and self.factor != _ONE:
            told["price_factor"] = exact_text(self.factor)
        return told

    def _exact(self, usage: Usage, extra_nanos: int, conversion: Conversion | None) -> tuple[int, int]:
        nanos, per = (0, 1) if self.price is None else _cost(self.price, usage)
        return self._adjusted(nanos, per, extra_nanos, conversion)

    def _adjusted(self, nanos: int, per: int, extra_nanos: int, conversion: Conversion | None) -> tuple[int, int]:
        if self.factor is not _ONE:
            nanos, per = nanos * self.factor.numerator, per * self.factor.denominator
        if extra_nanos:
            nanos += extra_nanos * per
        if conversion is not None:
            nanos, per = nanos * conversion.rate.numerator, per * conversion.rate.denominator
        return nanos, per


def quote(book: PriceBook, model: str, *, provider: str | None = None, now_ns: int = 0) -> Quote | None:
    """The price of a call to ``model`` by this book, or None: an unknown model, and the book refuses those.

    Of published prices the row in force at ``now_ns`` counts, of this ``provider`` if one is named, else as
    :meth:`~tenantguard.model.price.PriceList.find` chooses among the book's ``providers``.
    """
    price = book.find(model)
    if price is not None:
        return Quote(model, price, book.version, "model")
    row = book.listed.find(model, book.providers if provider is None else (provider,), now_ns)
    if row is not None:
        return Quote(model, row.price, book.version, "model" if row.names(model) else "pattern", row.provider)
    if book.unknown is UnknownModel.REFUSE:
        return None
    return Quote(model, book.default, book.version, "default" if book.default is not None else "unpriced")


def exact_text(value: Fraction) -> str:
    """``value`` as an exact decimal, or as ``"n/d"`` where no decimal is exact."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest //= prime
            power += 1
        places = max(places, power)
    if rest != 1:
        return str(value)
    digits = value.numerator * 10**places // value.denominator
    if not places:
        return str(digits)
    whole, fraction = divmod(abs(digits), 10**places)
    return f"{'-' if digits < 0 else ''}{whole}.{fraction:0{places}d}"
