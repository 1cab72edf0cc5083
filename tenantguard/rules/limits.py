"""Which limits of a policy apply to a request, and which buckets they draw on."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, Self

from tenantguard.errors import ConfigurationError
from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS
from tenantguard.model.sections import Combine, PlanSection, RateSection, Scope
from tenantguard.rules.bucket import SHARED, bucket_key, escaped, next_unit_in_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.model.policy import Policy
    from tenantguard.model.rate import Rate
    from tenantguard.model.route import Route
    from tenantguard.model.sections import RateRule
    from tenantguard.model.tenant import Tenant

_WIDTH: Final = {scope: width for width, scope in enumerate(Scope)}
"""From wide to narrow, as the words stand."""

_MODEL_CHARS: Final = 128
_SHARED_SCOPES: Final = frozenset({Scope.GLOBAL, Scope.PLAN})


class Limit:
    """One rule with its name, which stands in its buckets' keys, in headers and in decisions.

    The name has the period and not the amount: a new amount goes on with the buckets as they are, and time to refill
    under another period would mean something else.
    """

    __slots__ = ("_fixed", "name", "rate", "rule", "scope", "shadow", "unit")

    def __init__(self, rule: RateRule, name: str, plan: str | None) -> None:
        self.rule = rule
        self.name = name
        self.rate: Rate = rule.rate
        self.scope = rule.scope
        self.unit = rule.unit
        self.shadow = rule.shadow
        if rule.scope is Scope.PLAN:
            if plan is None:
                raise ConfigurationError(
                    f"the rate {name!r} is for all tenants of a plan, and the policy names none: write plan = 'gold'"
                )
            self._fixed = bucket_key(SHARED, rule.scope, name, plan)
        elif rule.scope is Scope.GLOBAL:
            self._fixed = bucket_key(SHARED, rule.scope, name)
        else:
            self._fixed = f"|{escaped(rule.scope)}|{escaped(name)}"

    def bucket(self, tenant: Tenant | None, route: str, model: str | None) -> str:
        """The key of the bucket that a request of ``tenant`` on ``route`` for ``model`` draws on.

        Where no tenant is known all callers share one; a tenant without an identity is its own.
        """
        scope = self.scope
        if scope in _SHARED_SCOPES:
            return self._fixed
        key = self._fixed if tenant is None else escaped(tenant.id) + self._fixed
        if scope is Scope.ROUTE:
            return f"{key}|{escaped(route)}"
        if scope is Scope.MODEL and model is not None:
            return f"{key}|{escaped(model) if len(model) <= _MODEL_CHARS else _digest(model)}"
        if scope is Scope.IDENTITY and tenant is not None and tenant.identity is not None:
            return f"{key}|{escaped(tenant.identity.id)}"
        return key

    def applies(self, route: Route, model: str | None) -> bool:
        """Whether a request on ``route`` for ``model`` counts; None where it asks for no model."""
        group = self.rule.group
        if group is not None and route.name not in group.routes and model not in group.models:
            return False
        if self.scope is Scope.MODEL and model is None:
            return False
        return self.unit == REQUESTS or (
            counts_tokens(route) if self.unit == TOKENS else self.unit in dict(route.takes)
        )

    def needs_call(self, route: Route) -> bool:
        """Whether the model or the tokens of a request on ``route`` must be known to say what it takes."""
        group = self.rule.group
        if _models(self.rule):
            return True
        if group is not None and route.name not in group.routes:
            return False
        return self.scope is Scope.MODEL or self.unit == TOKENS

    def policy(self) -> str:
        """The item of ``RateLimit-Policy``. ``w`` is in whole seconds; other periods have none."""
        seconds, rest = divmod(self.rate.period_ns, NANOS_PER_SECOND)
        window = "" if rest else f";w={seconds}"
        burst = "" if self.rate.burst == self.rate.amount else f";tenantguard-burst={self.rate.burst}"
        unit = "" if self.unit == REQUESTS else f';tenantguard-unit="{self.unit}"'
        return f'"{self.name}";q={self.rate.amount}{window}{burst}{unit}'

    def state(self, units: int, seconds: int) -> str:
        """The item of ``RateLimit``."""
        return f'"{self.name}";r={units};t={seconds}'

    def window_s(self, remaining: int, full_in_ns: int) -> int:
        """Seconds in which no more than the units left can be used: so long as those take to come back at least."""
        if remaining == 0:
            return max(1, -(-next_unit_in_ns(full_in_ns, self.rate) // NANOS_PER_SECOND))
        return max(1, -(-remaining * self.rate.period_ns // (self.rate.amount * NANOS_PER_SECOND)))


class LimitPlan:
    """The limits of one rate section, worked out once."""

    __slots__ = ("_may_need_call", "limits", "policy", "section")

    def __init__(
        self, section: RateSection, plan: str | None = None, *, prefix: str = "", policy: Policy | None = None
    ) -> None:
        self.section = section
        self.policy = policy  # kept, so that no other has its id
        names = _names(section.rules, prefix)
        self.limits = tuple(Limit(rule, name, plan) for rule, name in zip(section.rules, names, strict=True))
        self._may_need_call = any(
            limit.scope is Scope.MODEL or limit.unit == TOKENS or _models(limit.rule) for limit in self.limits
        )

    @classmethod
    def of(cls, policy: Policy) -> Self | None:
        """The plan of a policy, None where nothing is limited."""
        section = policy.section(RateSection)
        if section is None or not section.rules:
            return None
        plan = policy.section(PlanSection)
        return cls(section, plan.name if plan is not None else None, policy=policy)

    def needs_call(self, route: Route) -> bool:
        """Whether what a request on ``route`` takes depends on the call of a model that it makes."""
        return self._may_need_call and counts_tokens(route) and any(limit.needs_call(route) for limit in self.limits)

    def applying(self, route: Route, model: str | None) -> tuple[Limit, ...]:
        """The limits of a request, in the order of the rules.

        Where the most specific override, only those of the narrowest scope count of each unit; shadows override
        nothing, and are told beside them.
        """
        limits = [limit for limit in self.limits if limit.applies(route, model)]
        if self.section.combine is Combine.OVERRIDE:
            narrowest: dict[str, int] = {}
            for limit in limits:
                if not limit.shadow:
                    narrowest[limit.unit] = max(narrowest.get(limit.unit, 0), _WIDTH[limit.scope])
            limits = [limit for limit in limits if limit.shadow or _WIDTH[limit.scope] == narrowest[limit.unit]]
        return tuple(limits)


def counts_tokens(route: Route) -> bool:
    """Whether a request on this route is a call of a model whose tokens can be known."""
    return route.usage is not None and not route.counts_units


def _models(rule: RateRule) -> tuple[str, ...]:
    return rule.group.models if rule.group is not None else ()


def _digest(model: str) -> str:
    """A name that a caller made longer than any model's would fill the memory with keys."""
    return blake2s(model.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _names(rules: Sequence[RateRule], prefix: str) -> list[str]:
    """The names of rules: their own, or made of scope, unit and period, numbered where they are alike."""
    taken = {rule.name for rule in rules}
    alike: Counter[str] = Counter()
    names = []
    for rule in rules:
        if rule.name is not None:
            names.append(rule.name)
            continue
        unit = "" if rule.unit == REQUESTS else f"{rule.unit}-"
        stem = f"{prefix}{rule.scope}-{unit}{_seconds_text(rule.rate.period_ns)}"
        name = stem
        while name in taken or not alike[stem]:
            alike[stem] += 1
            name = stem if alike[stem] == 1 else f"{stem}-{alike[stem]}"
        taken.add(name)
        names.append(name)
    return names


def _seconds_text(period_ns: int) -> str:
    seconds, rest = divmod(period_ns, NANOS_PER_SECOND)
    return f"{seconds}s" if rest == 0 else f"{period_ns}ns"
