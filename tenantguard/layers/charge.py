"""The charge layer: hold the most that a request can cost before the application runs, settle what it did cost.

What a request costs is the sum of its route's ``price``, its ``unit_price`` for every unit that the application
reports, and the tokens that the route's usage decoder reads in the response. The hold is an upper bound of that sum,
so a budget is never overshot: input tokens are bounded by the bytes of the body as it is sent (a byte-level token is
at least one byte), output tokens by the output cap, which is written into the request where it has none, and lowered
where the budget does not cover it. The units of quotas are held and settled with the money, all or none.

What each ending is charged is one table, kept in ``rules/charging.py`` and ``docs/charging.md``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.flow.effects import Compute, ReadBody
from tenantguard.flow.http import BODY_LIMIT_BYTES, Body, Cut, Unreadable
from tenantguard.flow.ports import Claim, Conflict, Exhausted, Held, PlaceHold, Repeated, ResolveHold
from tenantguard.model.charge import Charged, Reported
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.money import NANOS_MAX, Amount
from tenantguard.model.policy import Policy
from tenantguard.model.rate import REQUESTS
from tenantguard.model.tenant import Tenant
from tenantguard.rules.charging import Bill, Price, is_callers_own, on_disconnect, price_of
from tenantguard.rules.idempotency import Recording, raced
from tenantguard.rules.legs import LegPlan
from tenantguard.rules.media import EVENT_STREAM, media_of
from tenantguard.rules.refusals import render_error_event
from tenantguard.rules.requests import caps_output, form_brought, prepare, read_brought, read_call, read_form
from tenantguard.rules.spent import Spent
from tenantguard.rules.usage import CallableDecoder, UnitSource, make_decoder, stream_types

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Leg, PriceSource
    from tenantguard.model.ledger import Resolved
    from tenantguard.model.route import Route
    from tenantguard.model.usage import Usage
    from tenantguard.rules.media import Media
    from tenantguard.rules.rates import RateTable
    from tenantguard.rules.requests import Brought, Call, Prepared
    from tenantguard.rules.usage import UsageDecoder

MAX_OUTPUT_HEADER: Final = "tenantguard-max-output"
"""Says on a response that the output cap was lowered to so many tokens a choice: the budget buys no more."""

_PLANS_MAX: Final = 4096
_FORM: Final = "multipart/form-data"
_BYTES_PER_TOKEN_MAX: Final = 32
"""More bytes than this a token, over a whole stream, come from no tokenizer: it put out more than its cap."""
_SLACK_BYTES: Final = 1024


class _Account:
    """What one exchange holds: its bill, and a leg for each budget and quota, the money first."""

    __slots__ = (
        "bill",
        "cap",
        "choices",
        "comes_back",
        "holds_money",
        "legs",
        "names_response",
        "placed",
        "prepared",
        "question",
        "stream",
    )

    def __init__(self, bill: Bill) -> None:
        self.bill = bill
        self.stream = False
        self.names_response = False  # the request says an id that its response may be given
        self.prepared: Prepared | None = None
        self.choices = 1
        self.cap: int | None = None  # of the output, where it had to be lowered
        self.legs: list[Leg] = []
        self.holds_money = 0  # so many of the legs are money
        self.comes_back: frozenset[str] = frozenset()  # units that are returned at the end
        self.question: Hashable = None  # what is asked and who pays, where a budget was just found spent
        self.placed = True  # as far as is known: False once the ledger has said that it holds nothing


class Charge:
    """Price, hold, settle. ``prices`` knows the models; bodies of decoded routes are read up to ``body_limit`` bytes.

    ``rates`` converts prices into the currency of a tenant's budgets where they differ. ``readers`` are functions
    that read usage from an application's JSON response, by the text by which a route names them as ``usage``.
    Requests on routes without any price pass untouched, unless the policy has a quota for what they take.
    """

    name = "charge"
    requires = (Tenant, Policy)

    def __init__(
        self,
        prices: PriceSource,
        *,
        rates: RateTable | None = None,
        readers: Mapping[str, Callable[[dict[str, Any]], Usage | None]] = MappingProxyType({}),
        body_limit: int = BODY_LIMIT_BYTES,
    ) -> None:
        self._prices = prices
        self._rates = rates
        self._readers = readers
        self._body_limit = body_limit
        self._plans: dict[int, LegPlan] = {}
        self._spent = Spent()

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Hold before ``proceed``, tap the response after it; the resolver settles."""
        route = exchange.route
        plan = self._plan(exchange.get(Policy))
        if not route.is_priced and not plan.units:
            return (yield from proceed(exchange))
        account = _Account(_bill(route))
        denial: Deny | None = None
        if route.usage is not None and not route.counts_units:
            denial = yield from self._price_tokens(exchange, plan, account)
        if denial is None:
            denial = self._convert(exchange, plan, account)
        if denial is None and account.legs:
            denial = yield from self._hold(exchange, account)
        if denial is not None:
            return exchange.deny(denial)
        if route.usage is not None:  # a part of a response says nothing of its usage
            exchange.request.headers.remove("accept-encoding", "range", "if-range")
        response = yield from proceed(exchange)
        if account.cap is not None:
            response.headers.set(MAX_OUTPUT_HEADER, str(account.cap))
        account.bill.failed = response.status >= 400
        if route.usage is None or response.body is not None or account.bill.failed:
            return response
        return self._tap(exchange, account, response)

    def _plan(self, policy: Policy) -> LegPlan:
        plan = self._plans.get(id(policy))
        if plan is None:
            if len(self._plans) >= _PLANS_MAX:  # policies that were replaced
                self._plans.clear()
            plan = self._plans[id(policy)] = LegPlan(policy)
        return plan

    # pricing

    def _price_tokens(self, exchange: Exchange, plan: LegPlan, account: _Account) -> Flow[Deny | None]:
        """Read the request as it will be sent, find its price, and bound its output."""
        request, route, bill = exchange.request, exchange.route, account.bill
        assert route.usage is not None
        media = media_of(request.headers.raw)
        if media.problem is not None:
            return _deny(Reason.BODY_ENCODED, 415, f"The request body {media.problem}.")
        body: Body | Unreadable = yield ReadBody(self._body_limit)  # a generator for each effect is felt
        if isinstance(body, Unreadable):
            return _deny(body.reason, body.status, body.message)
        if self._spent and exchange.find(Claim) is None:
            account.question = _question(exchange, plan, body.data)
            clock = exchange.system.clock
            again = self._spent.again(account.question, clock.monotonic_ns(), clock.wall_ns())
            if again is not None:
                return again
        form = request.headers.get("content-type") if media.type == _FORM else None
        reading = partial(_read, route.usage, body, request.path, form, route.max_output)
        read: tuple[Call, Prepared, Brought] | BadRequestError = yield Compute(reading, len(body.data))
        if isinstance(read, BadRequestError):
            return _deny(Reason.BODY_MALFORMED, 400, f"The request body cannot be read: {read}.")
        call, prepared, brought = read
        tokens = _brought_tokens(route, brought)
        if isinstance(tokens, Deny):
            return tokens
        quote = self._prices.quote(call.model)
        if quote is None:
            return _deny(Reason.PRICE_UNKNOWN, 403, "This model has no price here, so it cannot be used.")
        if prepared.output_tokens is None:
            return _deny(Reason.OUTPUT_UNBOUNDED, 400, "The request must say how many tokens it may put out.")
        if quote.currency is not None:
            if bill.currency not in {"", quote.currency}:
                raise ConfigurationError(f"route {route.name!r} and its models are priced in two currencies")
            bill.currency = quote.currency
        request.body = prepared.body
        bill.quote = quote.for_tenant(plan.pricing)
        bill.input_bytes = len(prepared.body)
        bill.brought_tokens = tokens
        bill.output_tokens = prepared.output_tokens
        bill.service_tier = call.service_tier
        account.prepared, account.stream, account.choices = prepared, call.stream, call.choices
        account.names_response = call.names_response
        return None

    def _convert(self, exchange: Exchange, plan: LegPlan, account: _Account) -> Deny | None:
        """Bound the price in the currency of the budgets, and make the legs."""
        bill, route = account.bill, exchange.route
        tenant = exchange.get(Tenant)
        if bill.currency and plan.currency is not None and self._rates is not None:
            bill.conversion = self._rates.conversion(bill.currency, plan.currency)
        bill.held_nanos = bill.bound(bill.output_tokens)
        if bill.held_nanos > NANOS_MAX:
            return _deny(Reason.OUTPUT_UNBOUNDED, 400, "The request asks for more than can be priced.")
        if bill.held_nanos > 0:
            least = bill.held_nanos
            least_output = self._least_output(account)
            if bill.output_tokens > least_output and caps_output(route.usage or ""):
                least = bill.bound(least_output)
            account.legs = plan.money(tenant, route.name, bill.held_in, bill.held_nanos, least)
            account.holds_money = len(account.legs)
        if plan.units:
            units = {REQUESTS: 1, **dict(route.takes)}
            if route.unit is not None and route.max_units is not None:
                units[route.unit] = units.get(route.unit, 0) + route.max_units
            quotas = plan.quotas(tenant, route.name, units)
            account.legs += [leg for leg, _ in quotas]
            account.comes_back = frozenset([leg.unit for leg, returned in quotas if returned])
        return None

    def _least_output(self, account: _Account) -> int:
        """The fewest tokens, over all choices, to which the output cap may be lowered."""
        return account.bill.route.min_output * account.choices

    # the hold

    def _hold(self, exchange: Exchange, account: _Account) -> Flow[Deny | None]:
        bill = account.bill
        tenant, claim, clock = exchange.get(Tenant), exchange.find(Claim), exchange.system.clock
        if claim is None and self._spent:
            spent = self._spent.find(account.legs, clock.monotonic_ns(), clock.wall_ns())
            if spent is not None:
                denial = _refusal(account, replace(spent[1], leg=spent[0]))
                if account.question is not None:
                    self._spent.keep(account.question, account.legs[spent[0]], denial)
                return denial
        hold_id = exchange.new_id()
        exchange.on_disconnect = on_disconnect(exchange.route)
        exchange.resolve(partial(self._end, exchange, account, hold_id), strict=True)
        legs = tuple(account.legs)
        answer: object = yield PlaceHold(hold_id, tenant.id, legs, exchange.route.on_orphan, claim)
        if isinstance(answer, Held):
            if account.holds_money:
                money = zip(legs[: account.holds_money], answer.amounts, strict=False)
                granted = min([amount for leg, amount in money if leg.terms.strict], default=bill.held_nanos)
                if granted < bill.held_nanos:
                    self._lower(exchange, account, granted)
                exchange.allow(self.name, "hold", held=Amount(bill.held_nanos, bill.held_in))
            else:
                exchange.allow(self.name, "quota")
            return None
        account.placed = False
        if isinstance(answer, Exhausted):
            self._spent.remember(legs[answer.leg], answer, clock.monotonic_ns())
        return _refusal(account, answer)

    def _lower(self, exchange: Exchange, account: _Account, granted: int) -> None:
        """The budget covers less than the output that was asked for: ask for what it does cover."""
        bill, request = account.bill, exchange.request
        assert account.prepared is not None
        assert bill.route.usage is not None
        least = self._least_output(account)
        account.cap = bill.affordable(granted, least) // account.choices
        bill.output_tokens = account.cap * account.choices
        body = Body(request.body)
        _, lowered = _prepared(bill.route.usage, body, request.path, None, account.cap)
        request.body = lowered.body
        bill.input_bytes = max(bill.input_bytes, len(lowered.body))
        bill.held_nanos = granted

    def _end(self, exchange: Exchange, account: _Account, hold_id: bytes, outcome: Outcome) -> Flow[None] | None:
        """End the hold, unless the ledger said that there is none: then no trace is left in it."""
        return self._settle(exchange, account, hold_id, outcome) if account.placed else None

    def _settle(self, exchange: Exchange, account: _Account, hold_id: bytes, outcome: Outcome) -> Flow[None]:
        bill = account.bill
        try:
            price = price_of(bill, outcome, on_disconnect(exchange.route), exchange.find(Reported))
            resolving = self._resolving(exchange, account, hold_id, outcome, price)
        except Exception:  # nobody knows the price: an operator finds the hold, and the end is withheld
            evidence = {"exchange": exchange.id, "route": exchange.route.name, "basis": "unknown"}
            yield from ResolveHold(hold_id, None, outcome.ending.value, evidence, review=True)
            raise
        answer: Resolved = yield resolving
        if bill.currency:
            charged = max(answer.amounts[: account.holds_money], default=0)
            held = Amount(bill.held_nanos, bill.held_in)
            exchange.put(Charged(Amount(charged, bill.held_in), held, price.basis, price.usage))

    def _resolving(
        self, exchange: Exchange, account: _Account, hold_id: bytes, outcome: Outcome, price: Price
    ) -> ResolveHold:
        """The command that ends the hold at ``price``."""
        bill, route = account.bill, exchange.route
        evidence: dict[str, Any] = {"exchange": exchange.id, "route": route.name, "basis": price.basis}
        evidence |= bill.evidence(price)
        source = external_id = None
        given = bill.decoder.response_id if bill.decoder is not None and route.charge_once else None
        if (
            given is not None
            and not account.names_response
            and not is_callers_own(given, exchange.request.headers.raw)
        ):
            source, external_id = f"{(route.usage or '').partition('-')[0]}:{exchange.get(Tenant).id}", given
        amounts = None if price.nanos is None else self._amounts(account, price.nanos, price.units)
        recording = exchange.find(Recording)
        kept = recording.answer(outcome) if recording is not None and amounts is not None else None
        return ResolveHold(
            hold_id, amounts, outcome.ending.value, evidence, source, external_id, review=price.review, answer=kept
        )

    def _amounts(self, account: _Account, nanos: int, units: int) -> tuple[int, ...]:
        """What each leg is settled with: money, units that were used, and nothing of units that come back."""
        money = (nanos,) * account.holds_money
        quotas = account.legs[account.holds_money :]
        if not quotas:
            return money
        route = account.bill.route
        used = {REQUESTS: 1, **dict(route.takes)}
        if route.unit is not None:
            used[route.unit] = used.get(route.unit, 0) + units
        return (*money, *[0 if leg.unit in account.comes_back else used[leg.unit] for leg in quotas])

    # the response

    def _tap(self, exchange: Exchange, account: _Account, response: Response) -> Response:
        """Put the usage decoder in the response's way: it sees the application's own bytes."""
        bill, usage = account.bill, exchange.route.usage
        assert usage is not None
        media = media_of(response.headers.raw)
        if media.problem is not None or not _is_decodable(exchange, response, media):
            return exchange.deny(_deny(Reason.RESPONSE_UNREADABLE, 502, "The upstream's response cannot be read."))
        reader = self._readers.get(usage)
        decoder: UsageDecoder
        if reader is not None:
            decoder = CallableDecoder(reader)
        elif exchange.route.counts_units:
            source = UnitSource.parse(usage)
            values = response.headers.all(source.header) if source.header is not None else ()
            decoder = source.decoder(exchange.route.unit or "", content_type=media.type, values=values)
        else:
            strip = account.prepared is not None and account.prepared.strip_usage
            decoder = make_decoder(usage, content_type=media.type, strip_usage=strip, streamed=account.stream)
        bill.decoder = decoder
        response.transforms.append(decoder)
        response.marker = decoder
        if account.stream and bill.output_tokens:
            response.transforms.append(_Ceiling(exchange, decoder, bill.output_tokens, media.type))
        return response


class _Ceiling:
    """Cuts a stream that puts out more than its hold pays for: its upstream does not obey the cap in the request."""

    rewrites = False

    def __init__(self, exchange: Exchange, decoder: UsageDecoder, tokens: int, media_type: str) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._tokens = tokens
        self._bytes = tokens * _BYTES_PER_TOKEN_MAX + _SLACK_BYTES
        self._is_event_stream = media_type in {"", EVENT_STREAM}

    def feed(self, chunk: bytes) -> bytes | Cut:
        """Let the chunk through while the output is within the bound: as it is announced, else by its bytes."""
        written = self._decoder.output_bytes
        if written <= self._tokens or (written <= self._bytes and not self._is_announced()):
            return chunk
        reason = str(Reason.OUTPUT_CEILING)
        if not self._is_event_stream:
            return Cut(reason)
        denial = _deny(Reason.OUTPUT_CEILING, 402, "The response reached what its budget pays for.")
        return Cut(reason, render_error_event(denial, self._exchange.dialect, self._exchange.id))

    def finish(self) -> bytes:
        """Nothing is held back."""
        return b""

    def _is_announced(self) -> bool:
        """Whether the stream itself says that it has put out more."""
        usage = self._decoder.usage_so_far
        return usage is not None and usage.output_tokens > self._tokens


def _bill(route: Route) -> Bill:
    """What the route says by itself."""
    bill = Bill(route)
    if route.price is not None:
        bill.currency, bill.flat_nanos = route.price.currency, route.price.nanos
    if route.unit_price is not None:
        bill.currency, bill.unit_nanos = route.unit_price.currency, route.unit_price.nanos
    return bill


def _question(exchange: Exchange, plan: LegPlan, data: bytes) -> Hashable:
    """All that decides what the request costs and who pays. Routes and prices outlive the moment that counts."""
    request, tenant = exchange.request, exchange.get(Tenant)
    kind = request.headers.get("content-type")
    digest = blake2b(data, digest_size=16).digest()
    return plan, id(exchange.route), tenant.id, tenant.identity and tenant.identity.id, request.path, kind, digest


def _read(
    decoder: str, body: Body, path: str, form: str | None, max_output: int | None
) -> tuple[Call, Prepared, Brought] | BadRequestError:
    try:
        call, prepared = _prepared(decoder, body, path, form, max_output)
        brought = read_brought(body.data, body.json()) if form is None else form_brought(decoder, body.data)
    except BadRequestError as failure:
        return failure
    else:
        return call, prepared, brought
    finally:
        body.release()  # a response may take minutes


def _prepared(decoder: str, body: Body, path: str, form: str | None, max_output: int | None) -> tuple[Call, Prepared]:
    parsed = body.json() if form is None else read_form(form, body.data)
    call = read_call(decoder, parsed, path)
    return call, prepare(decoder, body.data, parsed, call, max_output)


def _brought_tokens(route: Route, brought: Brought) -> int | Deny:
    """The most that a request makes the model read beside its bytes."""
    tokens = brought.images * route.image_tokens
    if not brought.files and not brought.context:
        return tokens
    for count, most, what in (
        (brought.files, route.file_tokens, "a file"),
        (int(brought.context), route.context_tokens, "an earlier conversation"),
    ):
        if count and most is None:
            message = f"The request brings {what}, whose size is not known here. Send its text instead."
            return _deny(Reason.INPUT_UNBOUNDED, 400, message)
        tokens += count * (most or 0)
    return tokens


def _is_decodable(exchange: Exchange, response: Response, media: Media) -> bool:
    """Whether a decoder can read the response, or there is nothing to read.

    A caller can ask some servers for another form (binary embeddings, lines of JSON), whose usage nobody would see.
    """
    usage = exchange.route.usage or ""
    if media.type in {"", EVENT_STREAM} or media.is_json or response.status >= 300:
        return True
    if exchange.route.counts_units:
        return True  # what has no units in it is missing usage, as the route says
    if media.type in stream_types(usage):
        return True
    return (
        exchange.request.method == "HEAD" or response.status == 204 or response.headers.get("content-length") == "0"
    )


def _refusal(account: _Account, answer: object) -> Deny:
    """Why nothing was held."""
    bill = account.bill
    if isinstance(answer, Conflict | Repeated):
        return raced(Charge.name, answer)
    details: dict[str, Any] = {"held": Amount(bill.held_nanos, bill.held_in)} if bill.currency else {}
    leg = account.legs[answer.leg] if isinstance(answer, Exhausted) else None
    if isinstance(answer, Exhausted) and leg is not None:
        money = answer.leg < account.holds_money
        details |= {"budget": "/".join(leg.budget)}
        numbers = {
            "limit": leg.limit or 0,
            "spent": answer.spent,
            "in_flight": answer.held,
            "available": answer.available,
        }
        details |= {name: Amount(number, leg.unit) if money else number for name, number in numbers.items()}
        if not money:
            details["unit"] = leg.unit
            message = f"The quota of {leg.unit} does not cover this request."
            return _deny(Reason.QUOTA_EXHAUSTED, 402, message, details)
    return _deny(Reason.BUDGET_EXHAUSTED, 402, "The budget does not cover this request.", details)


def _deny(reason: str, status: int, message: str, details: dict[str, Any] | None = None) -> Deny:
    return Deny(Charge.name, reason, status, message, details=details or {})
