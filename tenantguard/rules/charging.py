"""What one exchange may cost, and what its ending costs: the table of ``docs/charging.md``.

Amounts are in billionths of the unit of :attr:`Bill.held_in`, the currency of the tenant's budgets, into which prices
in another one are converted by the rate that the bill was made with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.model.outcome import Ending
from tenantguard.model.route import OnDisconnect, OnMissingUsage
from tenantguard.model.usage import Usage
from tenantguard.rules.estimates import BYTES_PER_TOKEN
from tenantguard.rules.pricing import shown_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.model.charge import Reported
    from tenantguard.model.outcome import Outcome
    from tenantguard.model.route import Route
    from tenantguard.rules.pricing import Quote
    from tenantguard.rules.rates import Conversion
    from tenantguard.rules.usage import UsageDecoder

_SELDOM: Final = {
    "cache_write_1h_tokens": "cache_write_1h",
    "reasoning_tokens": "reasoning",
    "audio_input_tokens": "audio_input",
    "audio_output_tokens": "audio_output",
    "image_input_tokens": "image_input",
    "image_output_tokens": "image_output",
}
"""Counts that are told where they are not 0, with their names in an entry."""
_seldom_of: Final = attrgetter(*_SELDOM)

_PREFIX: Final = re.compile(r"\A[a-z]{1,12}[-_]")
"""``chatcmpl-``, ``resp_``, ``msg_``: what servers write before the id proper."""
_OWN_BYTES_MIN: Final = 6
"""Shorter values of a header are in an id by chance; with the longest prefix they make no id of 16 characters."""


@dataclass(slots=True)
class Bill:
    """One exchange's price, from hold to settlement. ``currency`` is its prices', empty where it costs nothing.

    ``decoder`` reads the response. ``failed``: the application's own status is no success, whatever the client is
    told in its place.
    """

    route: Route
    currency: str = ""
    flat_nanos: int = 0
    unit_nanos: int = 0
    quote: Quote | None = None
    conversion: Conversion | None = None
    input_bytes: int = 0
    brought_tokens: int = 0  # what it makes the model read beside these
    output_tokens: int = 0
    service_tier: str | None = None
    held_nanos: int = 0
    decoder: UsageDecoder | None = None
    failed: bool = False
    _worked_out: tuple[Usage, int, tuple[int, str | None]] | None = field(default=None, init=False, repr=False)

    @property
    def held_in(self) -> str:
        """The currency of the hold and the charge."""
        return self.conversion.target if self.conversion is not None else self.currency

    def bound(self, output_tokens: int) -> int:
        """The most that the request can cost if it puts out so many tokens."""
        extra = self.flat_nanos + self.unit_nanos * (self.route.max_units or 0)
        if self.quote is not None:
            return self.quote.bound_nanos(
                self.input_bytes + self.brought_tokens,
                output_tokens,
                service_tier=self.service_tier,
                extra_nanos=extra,
                conversion=self.conversion,
            )
        return self._converted(extra)

    def affordable(self, nanos: int, least: int) -> int:
        """The most output tokens, ``least`` or more, that are bounded by ``nanos``; ``least`` is known to be."""
        low, high = least, self.output_tokens
        while low < high:
            middle = (low + high + 1) // 2
            if self.bound(middle) <= nanos:
                low = middle
            else:
                high = middle - 1
        return low

    def cost(self, usage: Usage | None, units: int) -> int:
        """What ``usage`` and ``units`` of the route's own unit cost."""
        if self.quote is None or usage is None:
            return self._converted(self.flat_nanos + self.unit_nanos * units)
        said = usage.reported_cost
        if said is not None and self.route.charge_reported and said.currency == self.quote.currency:
            extra = self.flat_nanos + self.unit_nanos * units
            return self.quote.reported_nanos(said.nanos, extra_nanos=extra, conversion=self.conversion)
        return self._quoted(self.quote, usage, units)[0]

    def evidence(self, price: Price) -> dict[str, Any]:
        """What an entry records of model, price, exchange and usage, and the exact cost where it was rounded."""
        usage = price.usage
        told: dict[str, Any] = {}
        quote = self.quote
        if quote is not None:
            told["model"] = quote.model if quote.matched_by == "model" else shown_model(quote.model)
            told.update(quote.evidence())
            if price.own:
                told.pop("price_factor", None)
        if self.conversion is not None:
            told["exchange_rate"] = self.conversion.evidence()
        if self.decoder is not None:
            served = self.decoder.model
            told["served_model"] = None if served is None else shown_model(served)
            told["response_id"] = self.decoder.response_id
        if usage is not None:
            told["usage"] = _told(usage)
            if quote is not None:
                nanos, exact = self._quoted(quote, usage, price.units)
                if exact is not None and nanos == price.nanos:
                    told["exact_cost"] = exact
        return told

    def _quoted(self, quote: Quote, usage: Usage, units: int) -> tuple[int, str | None]:
        """What they cost by the price, and exactly where that was rounded; worked out once for charge and entry."""
        known = self._worked_out
        if known is None or known[0] is not usage or known[1] != units:
            extra = self.flat_nanos + self.unit_nanos * units
            known = usage, units, quote.cost(usage, extra_nanos=extra, conversion=self.conversion)
            self._worked_out = known
        return known[2]

    def _converted(self, nanos: int) -> int:
        return nanos if self.conversion is None else self.conversion.nanos(nanos)


class Price(NamedTuple):
    """What an ending costs: None voids the hold; what that rests on; the usage, if known; the units of the route.

    ``review``: nobody can say, and an operator must. ``own``: it is the application's figure, which no mark-up or
    discount changed.
    """

    nanos: int | None
    basis: str
    usage: Usage | None = None
    units: int = 0
    review: bool = False
    own: bool = False


_NOTHING: Final = Price(None, "nothing")


def is_callers_own(response_id: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the caller may have chosen the id of a response, by one of its request's ``headers``.

    vLLM calls the response as ``X-Request-Id`` says, and other servers take trace ids. Who sends the same again gets
    another response, under the id of the first.
    """
    given = _folded(response_id.encode("latin-1", "ignore"))
    tail = _folded(_PREFIX.sub("", response_id).encode("latin-1", "ignore"))
    values = [value for _, value in headers if len(value) >= _OWN_BYTES_MIN]
    if not values:
        return False
    all_said = _folded(b"\n".join(values))  # no value has a line break
    return tail in all_said or any(map(given.__contains__, all_said.split(b"\n")))


def _folded(name: bytes) -> bytes:
    return name.lower().replace(b"-", b"")


def price_of(bill: Bill, outcome: Outcome, on_disconnect: OnDisconnect, reported: Reported | None) -> Price:
    """What this ending costs."""
    ending = outcome.ending
    decoder = bill.decoder
    usage = decoder.usage if decoder is not None else None
    if ending is Ending.COMPLETED:
        return _full(bill, usage, reported)
    if ending is Ending.CUT:
        if bill.failed or (decoder is not None and (decoder.failed or decoder.broken)):
            return _NOTHING
        if bill.route.usage is None:
            return _full(bill, None, reported) if outcome.sent else _NOTHING
        if usage is None and decoder is not None:
            return _counted(bill, decoder)
        return _full(bill, usage, reported)
    if ending is Ending.LEFT and outcome.called:
        if on_disconnect is OnDisconnect.DRAIN:
            return _full(bill, usage if outcome.ended else None, reported)
        if on_disconnect is OnDisconnect.OBSERVED and decoder is not None:
            return _counted(bill, decoder) if usage is None else _used(bill, usage)
    return _NOTHING


def on_disconnect(route: Route) -> OnDisconnect:
    """What the route says, or what follows from its ``usage``."""
    if route.on_disconnect is not None:
        return route.on_disconnect
    return OnDisconnect.DRAIN if route.usage is not None else OnDisconnect.VOID


def _full(bill: Bill, usage: Usage | None, reported: Reported | None) -> Price:
    route = bill.route
    units, basis = 0, "price"
    if route.unit is not None:
        basis = "units"
        if reported is not None:
            units = reported.units.get(route.unit, 0)
    if reported is not None and reported.price is not None:
        if route.unit is not None and not units and usage is not None:
            units = usage.units.get(route.unit, 0)
        if reported.price.currency == bill.held_in:
            return Price(reported.price.nanos, "reported", usage, units, own=True)
        if bill.conversion is not None and reported.price.currency == bill.currency:
            return Price(bill.conversion.nanos(reported.price.nanos), "reported", usage, units, own=True)
        return Price(bill.held_nanos, "hold", usage, units)
    if route.usage is not None:
        if reported is not None and reported.usage is not None:
            usage, basis = reported.usage, "reported"
        elif usage is not None:
            basis = "usage"
        elif not (route.counts_units and units):
            return _missing(bill)
        if route.unit is not None and not units and usage is not None:
            units = usage.units.get(route.unit, 0)
    return Price(bill.cost(usage, units), basis, usage, units)


def _missing(bill: Bill) -> Price:
    """A response that completed without saying what it used."""
    route = bill.route
    choice = route.on_missing_usage
    if choice is None:
        choice = OnMissingUsage.VOID if route.counts_units else OnMissingUsage.CHARGE_HOLD
    if choice is OnMissingUsage.VOID:
        return _NOTHING
    if choice is OnMissingUsage.REVIEW:
        return Price(None, "review", review=True)
    if choice is OnMissingUsage.ESTIMATE and bill.decoder is not None:
        return _counted(bill, bill.decoder)
    return Price(bill.held_nanos, "hold", units=route.max_units or 0)


def _counted(bill: Bill, decoder: UsageDecoder) -> Price:
    """What a response used up to where it stopped: as announced, else counted by its bytes."""
    output = -(-decoder.output_bytes // BYTES_PER_TOKEN)
    if not output:
        output = min(-(-decoder.document_bytes // BYTES_PER_TOKEN), bill.output_tokens)
    announced = decoder.usage_so_far
    if announced is None:
        usage = Usage(input_tokens=-(-bill.input_bytes // BYTES_PER_TOKEN), output_tokens=output)
    else:
        usage = replace(announced, output_tokens=max(announced.output_tokens, output))
    return _used(bill, usage)


def _used(bill: Bill, usage: Usage) -> Price:
    units = usage.units.get(bill.route.unit, 0) if bill.route.unit is not None else 0
    return Price(bill.cost(usage, units), "counted", usage, units)


def _told(usage: Usage) -> dict[str, Any]:
    told: dict[str, Any] = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
    }
    if any(counts := _seldom_of(usage)):
        told |= {short: count for short, count in zip(_SELDOM.values(), counts, strict=True) if count}
    if usage.units:
        told["units"] = dict(usage.units)
    if usage.service_tier is not None:
        told["service_tier"] = usage.service_tier
    if usage.reported_cost is not None:
        told["reported_cost"] = str(usage.reported_cost)
    return told
