"""The charge layer: hold the most that a request can cost before the application runs, settle what it did cost.

What a request costs is the sum of its route's ``price``, its ``unit_price`` for every unit that the application
reports, and the tokens that the route's usage decoder reads in the response. The hold is an upper bound of that sum,
so a budget is never overshot: input tokens are bounded by the bytes of the body as it is sent (a byte-level token is
at least one byte), output tokens by the output cap, which is written into the request where it has none.

What each ending is charged is one table, kept in ``docs/charging.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Body, Ending, Unreadable
from tenantguard.flow.ports import Exhausted, Held, Leg, PlaceHold, ResolveHold
from tenantguard.model.charge import Charged, Reported
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.money import NANOS_MAX, Amount
from tenantguard.model.policy import Policy
from tenantguard.model.route import OnDisconnect, OnMissingUsage
from tenantguard.model.sections import BudgetSection, Period, Scope
from tenantguard.model.tenant import Tenant
from tenantguard.model.usage import Usage
from tenantguard.rules.media import EVENT_STREAM, read_media
from tenantguard.rules.pricing import shown_model
from tenantguard.rules.requests import prepare, read_call
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Headers, Outcome, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import PriceSource
    from tenantguard.rules.media import Media
    from tenantguard.rules.pricing import Quote
    from tenantguard.rules.requests import Call, Prepared
    from tenantguard.rules.usage import UsageDecoder

_BYTES_PER_TOKEN: Final = 4
"""The usual estimate for English text; only used to count a stream that was cut before it reported usage."""


@dataclass(slots=True)
class _Bill:
    """One exchange's price, from hold to settlement."""

    currency: str
    flat_nanos: int = 0
    unit: str | None = None
    unit_nanos: int = 0
    quote: Quote | None = None
    input_bytes: int = 0
    bound_nanos: int = 0
    stream: bool = False
    strip_usage: bool = False
    failed: bool = False  # the application's own status is no success, whatever the client is told in its place
    decoder: UsageDecoder | None = None
    refused: bool = False


class Charge:
    """Price, hold, settle. ``prices`` knows the models; bodies of decoded routes are read up to ``body_limit`` bytes.

    Requests on routes without any price pass untouched.
    """

    name = "charge"
    requires = (Tenant, Policy)

    def __init__(self, prices: PriceSource, *, body_limit: int = BODY_LIMIT_BYTES) -> None:
        self._prices = prices
        self._body_limit = body_limit

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Hold before ``proceed``, tap the response after it; the resolver settles."""
        bill = yield from self._bill(exchange)
        if isinstance(bill, Deny):
            return exchange.deny(bill)
        if bill is None:
            return (yield from proceed(exchange))
        if bill.bound_nanos > NANOS_MAX:
            return exchange.deny(_deny(Reason.OUTPUT_UNBOUNDED, 400, "The request asks for more than can be priced."))
        if bill.bound_nanos > 0:
            refused = yield from self._hold(exchange, bill)
            if refused is not None:
                return exchange.deny(refused)
        decoder = exchange.route.usage
        if decoder is not None:  # a part of a response says nothing of its usage
            exchange.request.headers.remove("accept-encoding", "range", "if-range")
        response = yield from proceed(exchange)
        bill.failed = response.status >= 400
        if decoder is None or response.body is not None or bill.failed:
            return response
        media = _media(response.headers)
        if media.problem is not None or not _is_decodable(exchange, response, media):
            return exchange.deny(_deny(Reason.RESPONSE_UNREADABLE, 502, "The upstream's response cannot be read."))
        content_type = media.type or (EVENT_STREAM if bill.stream else "")
        bill.decoder = make_decoder(decoder, content_type=content_type, strip_usage=bill.strip_usage)
        response.transforms.append(bill.decoder)
        response.marker = bill.decoder
        return response

    def _bill(self, exchange: Exchange) -> Flow[_Bill | Deny | None]:
        """Price the request as it will be sent; bound its output."""
        route = exchange.route
        priced = route.price or route.unit_price
        if route.usage is None and priced is None:
            return None
        bill = _Bill(currency=priced.currency if priced is not None else "")
        if route.price is not None:
            bill.flat_nanos = bill.bound_nanos = route.price.nanos
        if route.unit_price is not None and route.max_units is not None:
            bill.unit, bill.unit_nanos = route.unit, route.unit_price.nanos
            bill.bound_nanos += bill.unit_nanos * route.max_units
        if route.usage is not None:
            problem = _media(exchange.request.headers).problem
            if problem is not None:
                return _deny(Reason.BODY_ENCODED, 415, f"The request body {problem}.")
            body = yield from ReadBody(self._body_limit)
            if isinstance(body, Unreadable):
                return _deny(body.reason, body.status, body.message)
            read = yield from compute(partial(_read, route.usage, body, route.max_output), len(body.data))
            if isinstance(read, BadRequestError):
                return _deny(Reason.BODY_MALFORMED, 400, f"The request body cannot be read: {read}.")
            denial = self._bound_tokens(exchange, bill, *read)
            if denial is not None:
                return denial
        return bill

    def _bound_tokens(self, exchange: Exchange, bill: _Bill, call: Call, prepared: Prepared) -> Deny | None:
        quote = self._prices.quote(call.model)
        if quote is None:
            return _deny(Reason.PRICE_UNKNOWN, 403, "This model has no price here, so it cannot be used.")
        if prepared.output_tokens is None:
            return _deny(Reason.OUTPUT_UNBOUNDED, 400, "The request must say how many tokens it may put out.")
        if quote.price is not None:
            if bill.currency not in {"", quote.price.currency}:
                raise ConfigurationError(f"route {exchange.route.name!r} and its models are priced in two currencies")
            bill.currency = quote.price.currency
        exchange.request.body = prepared.body
        bill.quote = quote
        bill.input_bytes = len(prepared.body)
        bill.stream = call.stream
        bill.strip_usage = prepared.strip_usage
        bill.bound_nanos += quote.bound_nanos(len(prepared.body), prepared.output_tokens)
        return None

    def _hold(self, exchange: Exchange, bill: _Bill) -> Flow[Deny | None]:
        tenant = exchange.get(Tenant)
        legs = _legs(exchange, bill)
        hold_id = exchange.new_id()
        exchange.on_disconnect = _on_disconnect(exchange)
        exchange.resolve(partial(self._end, exchange, bill, hold_id, len(legs)), strict=True)
        answer = yield from PlaceHold(hold_id, tenant.id, legs)
        bill.refused = not isinstance(answer, Held)
        held = Amount(bill.bound_nanos, bill.currency)
        if isinstance(answer, Held):
            exchange.allow(self.name, "hold", held=str(held))
            return None
        details: dict[str, Any] = {"held": str(held)}
        if isinstance(answer, Exhausted):
            leg = legs[answer.leg]
            details |= {
                "budget": "/".join(leg.budget),
                "limit": str(Amount(leg.limit or 0, leg.unit)),
                "spent": str(Amount(answer.spent, leg.unit)),
                "in_flight": str(Amount(answer.held, leg.unit)),
                "available": str(Amount(answer.available, leg.unit)),
            }
        return Deny(
            Charge.name,
            Reason.BUDGET_EXHAUSTED,
            402,
            "The budget does not cover this request.",
            details=details,
        )

    def _end(
        self,
        exchange: Exchange,
        bill: _Bill,
        hold_id: bytes,
        legs: int,
        outcome: Outcome,
    ) -> Flow[None] | None:
        """End the hold, unless the ledger said that there is none: then no trace is left in it."""
        return None if bill.refused else self._settle(exchange, bill, hold_id, legs, outcome)

    def _settle(self, exchange: Exchange, bill: _Bill, hold_id: bytes, legs: int, outcome: Outcome) -> Flow[None]:
        nanos, basis, usage = _price_of(exchange, bill, outcome)
        evidence: dict[str, Any] = {"exchange": exchange.id, "route": exchange.route.name, "basis": basis}
        if bill.quote is not None:
            model = bill.quote.model if bill.quote.matched_by == "model" else shown_model(bill.quote.model)
            evidence |= {"model": model, "price_version": bill.quote.version}
        if bill.decoder is not None:
            served = bill.decoder.model
            evidence |= {
                "served_model": None if served is None else shown_model(served),
                "response_id": bill.decoder.response_id,
            }
        if usage is not None:
            evidence["usage"] = {
                "input": usage.input_tokens,
                "output": usage.output_tokens,
                "cache_read": usage.cache_read_tokens,
                "cache_write": usage.cache_write_tokens,
            }
        answer = yield from ResolveHold(
            hold_id,
            None if nanos is None else (nanos,) * legs,
            outcome.ending.value,
            evidence,
        )
        charged = max(answer.amounts, default=0)
        held = Amount(bill.bound_nanos, bill.currency)
        exchange.put(Charged(Amount(charged, bill.currency), held, basis, usage))


def _media(headers: Headers) -> Media:
    return read_media(headers.all("content-type"), headers.all("content-encoding"))


def _read(decoder: str, body: Body, max_output: int | None) -> tuple[Call, Prepared] | BadRequestError:
    try:
        call = read_call(decoder, body.json())
        return call, prepare(decoder, body.data, call, max_output)
    except BadRequestError as failure:
        return failure
    finally:
        body.release()  # a response may take minutes


def _is_decodable(exchange: Exchange, response: Response, media: Media) -> bool:
    """Whether a decoder can read the response, or there is nothing to read.

    A caller can ask some servers for another form (binary embeddings, lines of JSON), whose usage nobody would see.
    """
    if media.type in {"", EVENT_STREAM} or media.is_json or response.status >= 300:
        return True
    return (
        exchange.request.method == "HEAD" or response.status == 204 or response.headers.get("content-length") == "0"
    )


def _price_of(exchange: Exchange, bill: _Bill, outcome: Outcome) -> tuple[int | None, str, Usage | None]:
    """What this ending costs: nanos (None voids the hold), what that rests on, and the usage."""
    ending = outcome.ending
    decoder = bill.decoder
    usage = decoder.usage if decoder is not None else None
    if ending is Ending.COMPLETED:
        return _full_price(exchange, bill, usage)
    if ending is Ending.CUT:
        if bill.failed or (decoder is not None and (decoder.failed or decoder.broken)):
            return None, "nothing", None
        if exchange.route.usage is None:
            return _full_price(exchange, bill, None) if outcome.sent else (None, "nothing", None)
        if usage is None and decoder is not None:
            usage = _counted(bill, decoder)
            return _token_nanos(bill, usage) + bill.flat_nanos, "counted", usage
        return _full_price(exchange, bill, usage)
    if ending is Ending.LEFT and outcome.called:
        if exchange.on_disconnect is OnDisconnect.DRAIN:
            return _full_price(exchange, bill, usage if outcome.ended else None)
        if exchange.on_disconnect is OnDisconnect.OBSERVED and decoder is not None:
            usage = usage if usage is not None else _counted(bill, decoder)
            return _token_nanos(bill, usage) + bill.flat_nanos, "counted", usage
    return None, "nothing", None


def _counted(bill: _Bill, decoder: UsageDecoder) -> Usage:
    """What a stream used up to where it was cut: as announced, else counted by its bytes."""
    output = -(-decoder.output_bytes // _BYTES_PER_TOKEN)
    announced = decoder.usage_so_far
    if announced is None:
        return Usage(input_tokens=-(-bill.input_bytes // _BYTES_PER_TOKEN), output_tokens=output)
    return replace(announced, output_tokens=max(announced.output_tokens, output))


def _full_price(exchange: Exchange, bill: _Bill, usage: Usage | None) -> tuple[int | None, str, Usage | None]:
    reported = exchange.find(Reported)
    if reported is not None and reported.price is not None:
        if reported.price.currency != bill.currency:
            return bill.bound_nanos, "hold", usage
        return reported.price.nanos, "reported", usage
    nanos, basis = bill.flat_nanos, "price"
    if bill.unit is not None:
        nanos += bill.unit_nanos * (reported.units.get(bill.unit, 0) if reported is not None else 0)
        basis = "units"
    if exchange.route.usage is not None:
        if reported is not None and reported.usage is not None:
            usage, basis = reported.usage, "reported"
        elif usage is not None:
            basis = "usage"
        elif exchange.route.on_missing_usage is OnMissingUsage.VOID:
            return None, "nothing", None
        else:
            return bill.bound_nanos, "hold", None
        nanos += _token_nanos(bill, usage)
    return nanos, basis, usage


def _token_nanos(bill: _Bill, usage: Usage) -> int:
    return bill.quote.cost_nanos(usage) if bill.quote is not None else 0


def _legs(exchange: Exchange, bill: _Bill) -> tuple[Leg, ...]:
    """One leg a budget; spending without a budget is recorded by month."""
    tenant = exchange.get(Tenant)
    section = exchange.get(Policy).section(BudgetSection)
    rules = section.rules if section is not None else ()
    amount = bill.bound_nanos
    legs = []
    for rule in rules:
        if rule.limit.currency != bill.currency:
            raise ConfigurationError(f"a budget in {rule.limit.currency} cannot hold prices in {bill.currency}")
        budget = _budget_name(exchange, tenant, rule.scope)
        legs.append(Leg((*budget, rule.per.value), rule.per, bill.currency, rule.limit.nanos, amount, amount))
    if not legs:
        legs.append(Leg(("tenant", tenant.id, "month"), Period.MONTH, bill.currency, None, amount, amount))
    return tuple(legs)


def _budget_name(exchange: Exchange, tenant: Tenant, scope: Scope) -> tuple[str, ...]:
    if scope is Scope.GLOBAL:
        return ("global",)
    if scope is Scope.ROUTE:
        return ("route", tenant.id, exchange.route.name)
    if scope is Scope.IDENTITY:
        return ("identity", tenant.id, tenant.identity.id if tenant.identity is not None else "")
    return ("tenant", tenant.id)


def _on_disconnect(exchange: Exchange) -> OnDisconnect:
    route = exchange.route
    if route.on_disconnect is not None:
        return route.on_disconnect
    return OnDisconnect.DRAIN if route.usage is not None else OnDisconnect.VOID


def _deny(reason: str, status: int, message: str) -> Deny:
    return Deny(Charge.name, reason, status, message)
