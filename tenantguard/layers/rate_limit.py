"""The rate limit layer: one token bucket for everything that a limit counts, all taken or none.

Requests are counted when they are made: what one took stays taken once the application was called, and is given back
otherwise, so that a request which a layer further in refuses leaves no trace. Where there is no such layer, the take
is final. Tokens of a model are reserved by estimate, and settled with what the response says was used.

A store that answers in place is asked first: nothing can come between its answer and the layer, so that what it took
needs no id, and nothing is known of what it refused. One that must be waited for takes under an id, whose end is
registered before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.errors import BadRequestError, PortError
from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Unreadable
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import (
    EndTokenGrant,
    ReturnTokens,
    SettleTokens,
    Shortage,
    Take,
    TakeInPlace,
    TakeTokens,
    TakeWithWindows,
    TokenGrant,
)
from tenantguard.model.charge import Reported
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS, Rate
from tenantguard.model.sections import RateRule, RateSection, Scope, Signals, Strategy
from tenantguard.model.tenant import Tenant
from tenantguard.rules.estimates import estimate, tokens_used
from tenantguard.rules.limits import LimitPlan
from tenantguard.rules.media import media_of
from tenantguard.rules.requests import read_call, read_form
from tenantguard.rules.signals import signal_of, slowest_first, tightest_of
from tenantguard.rules.usage import UsageDecoder, make_decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Body, Outcome, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Taken
    from tenantguard.model.route import Route
    from tenantguard.rules.estimates import Estimate
    from tenantguard.rules.limits import Limit
    from tenantguard.rules.requests import Call
    from tenantguard.rules.signals import Line, Signal

_PLANS_MAX: Final = 4096
_ASKED_MAX: Final = 16_384
_FORM: Final = "multipart/form-data"

_Caller: TypeAlias = "tuple[int, str | None, str | None, int]"
"""A policy and a route by their ``id`` (what is kept under it keeps both), and the ids of tenant and identity."""


class _Shape:
    """What requests of one policy on one route have in common: which limits they meet, and how these are told.

    ``metered``: the limits depend on the model that is called, or on its tokens, so that this has none of them.
    """

    __slots__ = ("command", "costs", "limits", "metered", "plan", "replaced", "route", "signal", "slowest")

    def __init__(
        self,
        plan: LimitPlan,
        route: Route,
        limits: tuple[Limit, ...],
        costs: Sequence[int],
        signal: Signal | None,
        *,
        metered: bool = False,
    ) -> None:
        self.plan = plan
        self.route = route
        self.limits = limits
        self.costs = costs
        self.metered = metered
        self.slowest = slowest_first(limits, costs) or [(index, 1) for index in range(len(limits))]
        self.signal = signal
        self.replaced = signal.replaced if signal is not None else ()
        windows = any(limit.strategy is not Strategy.TOKEN_BUCKET for limit in limits)
        self.command = TakeWithWindows if windows else TakeTokens


class _Asked:
    """What one caller's requests take on one route: a take for each limit."""

    __slots__ = ("finally_in_place", "in_place", "shape", "takes")

    def __init__(self, shape: _Shape, tenant: Tenant | None, model: str | None = None) -> None:
        self.shape = shape
        route = shape.route.name
        self.takes = tuple(
            [
                Take(limit.key(tenant, route, model), limit.rate, cost, limit.shadow, limit.strategy)
                for limit, cost in zip(shape.limits, shape.costs, strict=True)
            ]
        )
        is_plain = shape.command is TakeTokens
        self.in_place = TakeInPlace(self.takes, final=False) if is_plain else None
        self.finally_in_place = TakeInPlace(self.takes) if is_plain else None


class _Planned(LimitPlan):
    """The limits of a policy, and what its requests on each route have in common, by the route's ``id``."""

    __slots__ = ("shapes",)

    def __init__(
        self, section: RateSection, plan: str | None = None, *, prefix: str = "", policy: Policy | None = None
    ) -> None:
        super().__init__(section, plan, prefix=prefix, policy=policy)
        self.shapes: dict[int, _Shape] = {}


class _Meter:
    """Counts the tokens of one call, for the end of its exchange."""

    __slots__ = ("call", "decoder", "estimate", "input_bytes")

    def __init__(self, call: Call, estimated: Estimate, input_bytes: int) -> None:
        self.call = call
        self.estimate = estimated
        self.input_bytes = input_bytes
        self.decoder: UsageDecoder | None = None

    def tap(self, exchange: Exchange, response: Response) -> None:
        """Read the response's usage: by the decoder of a layer further in, else by one of its own."""
        if isinstance(response.marker, UsageDecoder):
            self.decoder = response.marker
            return
        media = media_of(response.headers.raw)
        if response.body is None and response.status < 400 and media.problem is None:
            assert exchange.route.usage is not None
            self.decoder = make_decoder(exchange.route.usage, content_type=media.type, streamed=self.call.stream)
            response.transforms.append(self.decoder)


class _Taking:
    """What a request took, by the store's grant or under an id, until that ends."""

    __slots__ = ("asked", "exchange", "grant", "meter")

    def __init__(self, exchange: Exchange, asked: _Asked, meter: _Meter | None, grant: TokenGrant | bytes) -> None:
        self.exchange = exchange
        self.asked = asked
        self.meter = meter
        self.grant = grant

    def end(self, costs: tuple[int | None, ...] | None = ()) -> EndTokenGrant | ReturnTokens | SettleTokens:
        """What ends it; see :class:`EndTokenGrant` for the costs."""
        grant = self.grant
        if isinstance(grant, TokenGrant):
            return EndTokenGrant(grant, costs)
        return ReturnTokens(grant) if costs is None else SettleTokens(grant, costs)

    def __call__(self, outcome: Outcome) -> Flow[None]:
        """End it with its exchange."""
        if not outcome.called:
            yield self.end(None)
            return
        costs: tuple[int | None, ...] = ()
        meter = self.meter
        if meter is not None:
            used = tokens_used(outcome, meter.decoder, self.exchange.find(Reported), meter.input_bytes)
            if used is not None:
                costs = tuple([used if limit.unit == TOKENS else None for limit in self.asked.shape.limits])
        yield self.end(costs)


class RateLimit:
    """Takes from every bucket of the policy's rate section, or refuses with 429 and a true ``Retry-After``.

    With a ``rate`` (``"10/second burst 20"``, ``"100000 tokens/minute"`` or a :class:`Rate` of requests) it needs no
    policy: that is its one limit, ``by`` tenant, or whatever else it should count. Where no layer further out found a
    tenant, all callers share one bucket (one for each route with ``Scope.ROUTE``); where a tenant has no identity,
    ``Scope.IDENTITY`` counts the tenant. Guards that share a store share the buckets of layers with the same scope,
    unit and period.

    Tokens and models are known on routes with the ``usage`` of a model's protocol; there bodies are read, up to
    ``body_limit`` bytes, where a limit asks for either.

    ``signals`` (:class:`Signals` or its text) is how responses and refusals tell of the limits, in place of what
    policies say: by default as the route's dialect does, with the fields of the IETF's draft where it has none. See
    :mod:`tenantguard.rules.signals`.
    """

    name = "rate"
    requires: tuple[type, ...] = (Tenant, Policy)

    def __init__(
        self,
        rate: Rate | str | None = None,
        *,
        by: Scope = Scope.TENANT,
        signals: Signals | str | None = None,
        body_limit: int = BODY_LIMIT_BYTES,
    ) -> None:
        self._signals = Signals(signals) if signals is not None else None
        self._body_limit = body_limit
        self._plans: dict[int, _Planned] = {}
        self._asked: dict[_Caller, _Asked] = {}
        self._own: _Planned | None = None
        if rate is not None:
            self.requires = ()
            rule = RateRule.parse(rate, Scope(by)) if isinstance(rate, str) else RateRule(rate, Scope(by))
            self._own = _Planned(RateSection((rule,)), prefix="layer-")

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Take, and refuse with 429, or 422 where no waiting will help."""
        asked = self._asked_by(exchange)
        if asked is None:
            return (yield from proceed(exchange))
        shape = asked.shape
        meter: _Meter | None = None
        if shape.metered:
            read = yield from self._read(exchange)
            if isinstance(read, Deny):
                return exchange.deny(read)
            meter = read
            asked = self._metered(shape.plan, exchange, meter)
            shape = asked.shape
        if not asked.takes:
            return (yield from proceed(exchange))
        in_place = asked.finally_in_place if proceed is call_app and meter is None else asked.in_place
        given = (yield in_place) if in_place is not None else None
        answer: Taken | Shortage
        taking: _Taking | None = None
        if given is None:
            taking_id = exchange.new_id()
            taking = _Taking(exchange, asked, meter, taking_id)
            exchange.resolve(taking)
            answer = yield shape.command(taking_id, asked.takes, shape.plan.section.on_error)
        elif isinstance(given, TokenGrant):
            taking = _Taking(exchange, asked, meter, given)
            exchange.resolve(taking)
            answer = given.taken
        else:
            answer = given
        if isinstance(answer, Shortage):
            return exchange.deny(self._refusal(exchange, shape, answer))
        lines = self._allow(exchange, shape, answer)
        response = yield from proceed(exchange)
        if meter is not None:
            meter.tap(exchange, response)
        elif taking is not None and exchange.called:  # what was taken stays, before the end
            try:
                yield taking.end()
            except PortError:  # then as the end of the exchange, where it fails alone
                pass
            else:
                exchange.unresolve(taking)
        if lines and exchange.decisions[-1].kind == "allow":  # a refusal further in gives the units back
            if shape.replaced:
                response.headers.remove(*shape.replaced)
            response.headers.extend(lines)
        return response

    # what is asked

    def _asked_by(self, exchange: Exchange) -> _Asked | None:
        """What a request takes, as far as caller and route say; None where nothing is limited."""
        policy = exchange.get(Policy) if self._own is None else None
        tenant, route = exchange.find(Tenant), exchange.route
        identity = tenant.identity if tenant is not None else None
        key = (
            id(policy),
            tenant.id if tenant is not None else None,
            identity.id if identity is not None else None,
            id(route),
        )
        asked = self._asked.get(key)
        if asked is None:
            plan = self._planned(policy) if policy is not None else self._own
            if plan is None:
                return None
            shape = plan.shapes.get(id(route))
            if shape is None:
                metered = plan.needs_call(route)
                limits = () if metered else plan.applying(route, None)
                shape = plan.shapes[id(route)] = self._shape(plan, exchange, limits, metered=metered)
            if len(self._asked) >= _ASKED_MAX:
                self._asked.clear()
            asked = self._asked[key] = _Asked(shape, tenant)
        return asked

    def _planned(self, policy: Policy) -> _Planned | None:
        plan = self._plans.get(id(policy))
        if plan is None:
            plan = _Planned.of(policy)
            if plan is not None:
                if len(self._plans) >= _PLANS_MAX:  # policies that were replaced
                    self._plans.clear()
                self._plans[id(policy)] = plan
        return plan

    def _metered(self, plan: LimitPlan, exchange: Exchange, meter: _Meter) -> _Asked:
        model, tokens = meter.call.model, meter.estimate.tokens
        limits = plan.applying(exchange.route, model)
        bursts = [limit.rate.burst for limit in limits if limit.unit == TOKENS and not limit.shadow]
        shape = self._shape(plan, exchange, limits, meter.estimate.within(min(bursts, default=tokens)))
        return _Asked(shape, exchange.find(Tenant), model)

    def _shape(
        self,
        plan: LimitPlan,
        exchange: Exchange,
        limits: tuple[Limit, ...],
        tokens: int = 0,
        *,
        metered: bool = False,
    ) -> _Shape:
        units = {**dict(exchange.route.takes), REQUESTS: 1, TOKENS: tokens}
        costs = [units[limit.unit] for limit in limits]
        signals = self._signals if self._signals is not None else plan.section.signals
        signal = signal_of(signals, exchange.dialect, limits, costs)
        return _Shape(plan, exchange.route, limits, costs, signal, metered=metered)

    def _read(self, exchange: Exchange) -> Flow[_Meter | Deny]:
        """Read the call that the request makes, and estimate its tokens."""
        request, route = exchange.request, exchange.route
        assert route.usage is not None
        media = media_of(request.headers.raw)
        if media.problem is not None:
            return self._deny(Reason.BODY_ENCODED, 415, f"The request body {media.problem}.")
        body = yield from ReadBody(self._body_limit)
        if isinstance(body, Unreadable):
            return self._deny(body.reason, body.status, body.message)
        form = request.headers.get("content-type") if media.type == _FORM else None
        call = yield from compute(partial(_read_call, route.usage, body, request.path, form), len(body.data))
        if isinstance(call, BadRequestError):
            return self._deny(Reason.BODY_MALFORMED, 400, f"The request body cannot be read: {call}.")
        request.headers.remove("accept-encoding", "range", "if-range")  # what cannot be read has no known usage
        return _Meter(call, estimate(call, len(body.data), route.max_output), len(body.data))

    # what is told

    def _allow(self, exchange: Exchange, shape: _Shape, taken: Taken) -> Sequence[Line]:
        """Record the decision; the answer is what the response tells of it."""
        levels = taken.levels
        index = tightest_of(shape.slowest, levels) if len(levels) > 1 else 0
        details: dict[str, object] = {"remaining": levels[index][0]}
        if taken.shadowed:
            details["shadowed"] = [shape.limits[index].name for index in taken.shadowed]
        if taken.degraded:
            details["degraded"] = True
        exchange.decisions.append(Allow(self.name, shape.limits[index].name, details))
        signal = shape.signal
        if signal is None:
            return ()
        return signal.told(index, levels, exchange.system.clock.wall_ns() if signal.dated else 0)

    def _refusal(self, exchange: Exchange, shape: _Shape, shortage: Shortage) -> Deny:
        details: dict[str, object] = {"failing": [shape.limits[index].name for index in shortage.failing]}
        if shortage.shadowed:
            details["shadowed"] = [shape.limits[index].name for index in shortage.shadowed]
        if shortage.degraded:
            details["degraded"] = True
        if shortage.retry_after_ns is None:
            return self._deny(
                Reason.RATE_IMPOSSIBLE,
                422,
                "This request needs more units at once than its rate limit ever gives. Make it smaller.",
                details,
            )
        wait_s = -(-shortage.retry_after_ns // NANOS_PER_SECOND)
        failing = [one for one in shape.slowest if one[0] in shortage.failing]
        index = tightest_of(failing, shortage.levels)
        headers: Sequence[Line] = ()
        members: dict[str, object] = {}
        if shape.signal is not None:
            headers = shape.signal.refused(index, shortage.levels, wait_s, exchange.system.clock.wall_ns())
            members["violated-policies"] = details["failing"]
        return Deny(
            self.name,
            Reason.RATE_EXCEEDED,
            429,
            f"Too many {shape.limits[index].unit}. Try again in {wait_s} s.",
            retry_after_ms=-(-shortage.retry_after_ns // 1_000_000),
            headers=tuple(headers),
            details=details,
            members=members,
        )

    def _deny(self, reason: str, status: int, message: str, details: dict[str, object] | None = None) -> Deny:
        return Deny(self.name, reason, status, message, details=details or {})


def _read_call(decoder: str, body: Body, path: str, form: str | None) -> Call | BadRequestError:
    try:
        return read_call(decoder, body.json() if form is None else read_form(form, body.data), path)
    except BadRequestError as failure:
        return failure
