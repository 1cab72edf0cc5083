"""The rate limit layer: one token bucket for everything that a limit counts, all taken or none.

What a request took stays taken once the application was called, and is given back otherwise: a request that a layer
further in refuses leaves no trace.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, TakeTokens
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.rate import NANOS_PER_SECOND, Rate
from tenantguard.model.sections import RateRule, RateSection, Scope
from tenantguard.model.tenant import Tenant
from tenantguard.rules.bucket import SHARED, bucket_key, next_unit_in_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Level

_PLANS_MAX: Final = 4096
_GLOBAL, _ROUTE, _IDENTITY = (
    Scope.GLOBAL,
    Scope.ROUTE,
    Scope.IDENTITY,
)  # a look-up in an Enum costs more than a comparison


class RateLimit:
    """Takes one unit from every bucket of the policy's rate section, or refuses with 429 and a true ``Retry-After``.

    With a ``rate`` (``"10/second burst 20"`` or a :class:`Rate`) it needs no policy: that is its one limit, ``by``
    tenant, or whatever else it should count. Where no layer further out found a tenant, all callers share one bucket
    (one for each route with ``Scope.ROUTE``); where a tenant has no identity, ``Scope.IDENTITY`` counts the tenant.
    Guards that share a store share the buckets of layers with the same scope and period.

    ``headers`` adds ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers-11) to responses and
    refusals: every limit as ``"<scope>-<period>";q=<units>;w=<seconds>``, with its burst as ``tenantguard-burst``
    where that differs, and of the tightest the units left ``r`` and the seconds ``t`` in which no more can be used.
    """

    name = "rate"
    requires: tuple[type, ...] = (Tenant, Policy)

    def __init__(self, rate: Rate | str | None = None, *, by: Scope = Scope.TENANT, headers: bool = True) -> None:
        self._headers = headers
        self._plans: dict[int, _Plan] = {}
        self._own: _Plan | None = None
        if rate is not None:
            self.requires = ()
            rule = RateRule(Rate.parse(rate) if isinstance(rate, str) else rate, Scope(by))
            self._own = _Plan(RateSection((rule,)), "layer-")

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Take, and refuse with 429, or 422 where no waiting will help."""
        plan = self._own if self._own is not None else self._planned(exchange.get(Policy))
        if plan is None:
            return (yield from proceed(exchange))
        taking = exchange.new_id()
        exchange.resolve(partial(_end, taking))
        answer = yield from TakeTokens(taking, plan.takes(exchange))
        if isinstance(answer, Shortage):
            return exchange.deny(self._refusal(plan, answer))
        limit, level = _tightest(plan.limits, answer.levels)
        exchange.allow(self.name, limit.name, remaining=level[0])
        response = yield from proceed(exchange)
        if self._headers and exchange.decisions[-1].kind == "allow":  # a refusal further in gives the units back
            response.headers.extend(plan.headers(limit.state(level[0], limit.window_s(level))))
        return response

    def _planned(self, policy: Policy) -> _Plan | None:
        section = policy.section(RateSection)
        if section is None or not section.rules:
            return None
        plan = self._plans.get(id(section))  # the plan keeps its section, so that no other has its id
        if plan is None:
            if len(self._plans) >= _PLANS_MAX:  # policies that were replaced
                self._plans.clear()
            plan = self._plans[id(section)] = _Plan(section)
        return plan

    def _refusal(self, plan: _Plan, shortage: Shortage) -> Deny:
        failing = [plan.limits[index] for index in shortage.failing]
        details = {"failing": [limit.name for limit in failing]}
        if shortage.retry_after_ns is None:
            return Deny(
                self.name,
                Reason.RATE_IMPOSSIBLE,
                422,
                "This request needs more units at once than its rate limit ever gives. Make it smaller.",
                details=details,
            )
        wait_s = _seconds_up(shortage.retry_after_ns)
        limit, level = _tightest(failing, [shortage.levels[index] for index in shortage.failing])
        state = limit.state(level[0], wait_s)
        return Deny(
            self.name,
            Reason.RATE_EXCEEDED,
            429,
            f"Too many requests. Try again in {wait_s} s.",
            retry_after_ms=-(-shortage.retry_after_ns // 1_000_000),
            headers=plan.headers(state) if self._headers else (),
            details=details,
        )


@dataclass(frozen=True, slots=True)
class _Limit:
    """One rule with its name, which begins its buckets' keys and stands in headers and decisions.

    The name has the period and not the amount: a new amount goes on with the buckets as they are, and time to refill
    under another period would mean something else.
    """

    name: str
    scope: Scope
    rate: Rate

    def bucket(self, tenant: Tenant | None, route: str) -> str:
        """The key of the bucket that a request of ``tenant`` on ``route`` draws on."""
        scope, name = self.scope, self.name
        if scope is _GLOBAL:
            return bucket_key(SHARED, scope, name)
        who = SHARED if tenant is None else tenant.id
        if scope is _ROUTE:
            return bucket_key(who, scope, name, route)
        if scope is _IDENTITY and tenant is not None and tenant.identity is not None:
            return bucket_key(who, scope, name, tenant.identity.id)
        return bucket_key(who, scope, name)

    def policy(self) -> str:
        """The item of ``RateLimit-Policy``. ``w`` is in whole seconds; other periods have none."""
        seconds, rest = divmod(self.rate.period_ns, NANOS_PER_SECOND)
        window = "" if rest else f";w={seconds}"
        burst = "" if self.rate.burst == self.rate.amount else f";tenantguard-burst={self.rate.burst}"
        return f'"{self.name}";q={self.rate.amount}{window}{burst}'

    def state(self, units: int, seconds: int) -> str:
        """The item of ``RateLimit``."""
        return f'"{self.name}";r={units};t={seconds}'

    def window_s(self, level: Level) -> int:
        """Seconds in which no more than the units left can be used: so long as those take to come back at least."""
        if level[0] == 0:
            return max(1, _seconds_up(next_unit_in_ns(level[1], self.rate)))
        return max(1, -(-level[0] * self.rate.period_ns // (self.rate.amount * NANOS_PER_SECOND)))


class _Plan:
    """What a rate section comes to, worked out once."""

    __slots__ = ("_policies", "limits", "section")

    def __init__(self, section: RateSection, prefix: str = "") -> None:
        names: list[str] = []
        alike: Counter[str] = Counter()
        for rule in section.rules:
            name = f"{prefix}{rule.scope}-{_seconds_text(rule.rate.period_ns)}"
            alike[name] += 1
            names.append(name if alike[name] == 1 else f"{name}-{alike[name]}")
        self.section = section
        self.limits = tuple(
            _Limit(name, rule.scope, rule.rate) for name, rule in zip(names, section.rules, strict=True)
        )
        self._policies = ", ".join(limit.policy() for limit in self.limits).encode()

    def takes(self, exchange: Exchange) -> tuple[Take, ...]:
        """One unit from every bucket."""
        tenant, route = exchange.find(Tenant), exchange.route.name
        return tuple([Take(limit.bucket(tenant, route), limit.rate) for limit in self.limits])

    def headers(self, state: str) -> tuple[tuple[bytes, bytes], ...]:
        """The two header lines."""
        return ((b"ratelimit-policy", self._policies), (b"ratelimit", state.encode()))


def _end(taking: bytes, outcome: Outcome) -> Flow[None]:
    yield from SettleTokens(taking) if outcome.called else ReturnTokens(taking)


def _tightest(limits: Sequence[_Limit], levels: Sequence[Level]) -> tuple[_Limit, Level]:
    """The limit with the fewest units left, and among those the one for which they must last longest."""
    if len(limits) == 1:
        return limits[0], levels[0]
    standing = zip(limits, levels, strict=True)
    return min(standing, key=lambda pair: (pair[1][0], -pair[0].window_s(pair[1])))


def _seconds_text(period_ns: int) -> str:
    seconds, rest = divmod(period_ns, NANOS_PER_SECOND)
    return f"{seconds}s" if rest == 0 else f"{period_ns}ns"


def _seconds_up(nanos: int) -> int:
    return -(-nanos // NANOS_PER_SECOND)
