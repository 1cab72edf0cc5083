"""The concurrency layer: a slot of every limit for as long as a request is served, or a place in its queue.

A slot is held until the exchange settles: until the response has ended, however long it streams, a WebSocket has
closed, or the request has failed. Who waits is woken by whoever leaves; a client that leaves frees its place.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.errors import BadRequestError, PortTimeout
from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Unreadable
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, NotEntered
from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.sections import Scope
from tenantguard.model.tenant import Tenant
from tenantguard.rules.concurrency import SlotPlan
from tenantguard.rules.deadlines import parse_timeout
from tenantguard.rules.media import media_of
from tenantguard.rules.requests import read_call, read_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Body, Outcome, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.model.slots import SlotClaim
    from tenantguard.rules.concurrency import Groups, SlotLimit

_PLANS_MAX: Final = 4096
_FORM: Final = "multipart/form-data"
_RETRY_LEAST_MS: Final = 1000
"""Nobody knows when a slot comes free: whoever was refused asks again after a second at the earliest."""


class _Told(NamedTuple):
    reason: Reason
    status: int
    message: str


_TOLD: Final = {
    NotEntered.FULL: _Told(Reason.CONCURRENCY_EXCEEDED, 429, "Too many requests at once: {limit} are being served."),
    NotEntered.QUEUE_FULL: _Told(
        Reason.CONCURRENCY_QUEUE_FULL,
        429,
        "Too many requests at once: {limit} are being served, and the queue is full.",
    ),
    NotEntered.WAITED: _Told(Reason.CONCURRENCY_TIMEOUT, 503, "Timeout: this request waited too long for its turn."),
    NotEntered.ENDED: _Told(Reason.CONCURRENCY_TIMEOUT, 503, "Timeout: the wait of this request was ended."),
    NotEntered.DEADLINE: _Told(
        Reason.CONCURRENCY_DEADLINE, 503, "The turn of this request is not expected within the time that it allows."
    ),
}


class _Stay:
    """What is asked of the store under one id; ``refused`` once it has said that nothing is held."""

    __slots__ = ("id", "refused")

    def __init__(self, stay_id: bytes) -> None:
        self.id = stay_id
        self.refused = False


class ConcurrencyLimit:
    """Takes a slot of every rule in the policy's concurrency section, waits for them, or refuses.

    With ``limit`` it needs neither tenants nor policies: so many requests at a time for each of what ``by`` counts;
    a :class:`~tenantguard.model.concurrency.ConcurrencyRule` says more. Where no layer further out found a tenant,
    all callers share the slots.

    ``deadline_header`` names a request header that says how long the whole request may take, see
    :func:`~tenantguard.rules.deadlines.parse_timeout`: nobody waits longer, and where the wait is expected to take
    longer the request is refused at once. Bodies are read, up to ``body_limit`` bytes, where a rule counts by their
    values or by models.

    It leaves the store's :class:`~tenantguard.model.slots.Entered` on the exchange, with its fence.
    """

    name = "concurrency"
    requires: tuple[type, ...] = (Tenant, Policy)
    provides: tuple[type, ...] = (Entered,)

    def __init__(
        self,
        limit: ConcurrencyRule | int | None = None,
        *,
        by: Scope = Scope.TENANT,
        deadline_header: str | None = None,
        body_limit: int = BODY_LIMIT_BYTES,
    ) -> None:
        self._deadline_header = deadline_header.lower() if deadline_header is not None else None
        self._body_limit = body_limit
        self._plans: dict[int, SlotPlan] = {}
        self._own: SlotPlan | None = None
        if limit is not None:
            self.requires = ()
            rule = limit if isinstance(limit, ConcurrencyRule) else ConcurrencyRule(limit, Scope(by))
            self._own = SlotPlan(ConcurrencySection((rule,)), prefix="layer-")

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Enter, or refuse with 429 or 503."""
        plan = self._own if self._own is not None else self._planned(exchange.get(Policy))
        if plan is None:
            return (yield from proceed(exchange))
        route = exchange.route
        model: str | None = None
        groups: Groups = {}
        if plan.needs_body(route):
            read = yield from self._read(exchange, plan)
            if isinstance(read, Deny):
                return exchange.deny(read)
            model, groups = read
        limits = plan.applying(route, model)
        if not limits:
            return (yield from proceed(exchange))
        deadline_ns = self._deadline_ns(exchange)
        if isinstance(deadline_ns, Deny):
            return exchange.deny(deadline_ns)
        tenant = exchange.find(Tenant)
        claims = tuple([limit.claim(tenant, route.name, model, groups) for limit in limits])
        stay = _Stay(exchange.new_id())
        exchange.resolve(partial(_end, stay))
        owner = tenant.id if tenant is not None else ""
        answer: Entered | Crowded
        try:
            answer = yield from EnterSlot(stay.id, owner, claims, deadline_ns, plan.section.on_error)
        except PortTimeout:
            answer = Crowded(NotEntered.WAITED, ())
        else:
            stay.refused = isinstance(answer, Crowded)
        if isinstance(answer, Crowded):
            return exchange.deny(self._refusal(limits, claims, answer))
        exchange.put(answer)
        self._allow(exchange, limits, answer)
        return (yield from proceed(exchange))

    def _planned(self, policy: Policy) -> SlotPlan | None:
        plan = self._plans.get(id(policy))
        if plan is None:
            plan = SlotPlan.of(policy)
            if plan is None:
                return None
            if len(self._plans) >= _PLANS_MAX:  # policies that were replaced
                self._plans.clear()
            self._plans[id(policy)] = plan
        return plan

    def _deadline_ns(self, exchange: Exchange) -> int | Deny | None:
        """How long the request still allows, None where it does not say."""
        name = self._deadline_header
        text = exchange.request.headers.get(name) if name is not None else None
        if name is None or text is None:
            return None
        try:
            timeout_ns = parse_timeout(name, text)
        except BadRequestError as wrong:
            return Deny(self.name, Reason.DEADLINE_INVALID, 400, f"A deadline cannot be read: {wrong}.")
        return timeout_ns - (exchange.system.clock.monotonic_ns() - exchange.started_ns)

    def _read(self, exchange: Exchange, plan: SlotPlan) -> Flow[tuple[str | None, Groups] | Deny]:
        """The model that the request asks for, None where that need not be known, and the groups that it is in."""
        request = exchange.request
        media = media_of(request.headers.raw)
        if media.problem is not None:
            return Deny(self.name, Reason.BODY_ENCODED, 415, f"The request body {media.problem}.")
        body = yield from ReadBody(self._body_limit)
        if isinstance(body, Unreadable):
            return Deny(self.name, body.reason, body.status, body.message)
        form = request.headers.get("content-type") if media.type == _FORM else None
        decoder = exchange.route.usage if plan.needs_model(exchange.route) else None
        read = yield from compute(partial(_read_body, plan, decoder, body, request.path, form), len(body.data))
        if isinstance(read, BadRequestError):
            message = f"The request body cannot be read: {read}."
            return Deny(self.name, Reason.BODY_MALFORMED, 400, message)
        return read

    def _allow(self, exchange: Exchange, limits: Sequence[SlotLimit], entered: Entered) -> None:
        details: dict[str, object] = {}
        if entered.waited_ns:
            details["waited_ms"] = entered.waited_ns // 1_000_000
        if entered.degraded:
            details["degraded"] = True
        exchange.allow(self.name, limits[-1].name, **details)

    def _refusal(self, limits: Sequence[SlotLimit], claims: Sequence[SlotClaim], crowded: Crowded) -> Deny:
        told = _TOLD[crowded.reason]
        details: dict[str, object] = {"failing": [limits[index].name for index in crowded.failing]}
        if crowded.degraded:
            details["degraded"] = True
        limit = claims[crowded.failing[0]].limit if crowded.failing else 0
        expected_ms = -(-(crowded.retry_after_ns or 0) // 1_000_000)
        return Deny(
            self.name,
            told.reason,
            told.status,
            told.message.format(limit=limit),
            retry_after_ms=max(expected_ms, _RETRY_LEAST_MS),
            details=details,
        )


def _end(stay: _Stay, _: Outcome) -> Flow[None]:
    if not stay.refused:
        yield from LeaveSlot(stay.id)


def _read_body(
    plan: SlotPlan, decoder: str | None, body: Body, path: str, form: str | None
) -> tuple[str | None, Groups] | BadRequestError:
    """What has no JSON counts as one without any values, unless a model must be known of it."""
    try:
        content = body.json() if form is None else read_form(form, body.data)
        return (read_call(decoder, content, path).model if decoder is not None else None), plan.groups(content)
    except BadRequestError as failure:
        return failure if decoder is not None else (None, plan.groups(None))
