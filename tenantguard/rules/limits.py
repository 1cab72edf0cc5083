"""Which limits of a policy apply to a request, and which buckets they draw on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS
from tenantguard.model.sections import Combine, PlanSection, RateSection, Scope, Strategy
from tenantguard.rules.bucket import next_unit_in_ns
from tenantguard.rules.scopes import Scoped, calls_model, most_specific, names_of

if TYPE_CHECKING:
    from tenantguard.model.policy import Policy
    from tenantguard.model.rate import Rate
    from tenantguard.model.route import Route
    from tenantguard.model.sections import RateRule


class Limit(Scoped):
    """One rule with its name, which stands in its buckets' keys, in headers and in decisions.

    The name has the period and not the amount: a new amount goes on with the buckets as they are, and time to refill
    under another period would mean something else.
    """

    __slots__ = ("_amount_ns", "_is_bucket", "policy", "rate", "rule", "shadow", "state", "strategy", "unit")

    def __init__(self, rule: RateRule, name: str, plan: str | None) -> None:
        super().__init__("rate", name, rule.scope, rule.group, plan)
        self.rule = rule
        self.rate: Rate = rule.rate
        self.unit = rule.unit
        self.shadow = rule.shadow
        self.strategy = rule.strategy
        self._is_bucket = rule.strategy is Strategy.TOKEN_BUCKET
        self._amount_ns = rule.rate.amount * NANOS_PER_SECOND
        self.policy = self._policy()
        """The item of ``RateLimit-Policy``."""
        self.state = f'"{name}";r=%d;t=%d'.encode()
        """The item of ``RateLimit``, but for the units and seconds."""

    def applies(self, route: Route, model: str | None) -> bool:
        """Whether a request on ``route`` for ``model`` takes of its unit; None where it asks for no model."""
        if not self.covers(route, model):
            return False
        return self.unit == REQUESTS or (
            calls_model(route) if self.unit == TOKENS else self.unit in dict(route.takes)
        )

    def needs_call(self, route: Route) -> bool:
        """Whether the model or the tokens of a request on ``route`` must be known to say what it takes."""
        group = self.group
        if self.models:
            return True
        if group is not None and route.name not in group.routes:
            return False
        return self.scope is Scope.MODEL or self.unit == TOKENS

    def _policy(self) -> str:
        """``w`` is in whole seconds; other periods have none."""
        seconds, rest = divmod(self.rate.period_ns, NANOS_PER_SECOND)
        window = "" if rest else f";w={seconds}"
        burst = "" if self.rate.burst == self.rate.amount else f";tenantguard-burst={self.rate.burst}"
        unit = "" if self.unit == REQUESTS else f';tenantguard-unit="{self.unit}"'
        return f'"{self.name}";q={self.rate.amount}{window}{burst}{unit}'

    def window_s(self, remaining: int, full_in_ns: int) -> int:
        """Seconds in which no more than the units left can be used: so long as those take to come back at least.

        Of a window, ``full_in_ns`` is when it has more.
        """
        if remaining and self._is_bucket:
            return -(-remaining * self.rate.period_ns // self._amount_ns)
        more_in_ns = next_unit_in_ns(full_in_ns, self.rate) if self._is_bucket else full_in_ns
        return max(1, -(-more_in_ns // NANOS_PER_SECOND))


class LimitPlan:
    """The limits of one rate section, worked out once."""

    __slots__ = ("limits", "policy", "section")

    def __init__(
        self, section: RateSection, plan: str | None = None, *, prefix: str = "", policy: Policy | None = None
    ) -> None:
        self.section = section
        self.policy = policy  # kept, so that no other has its id
        names = names_of([(rule.name, prefix + _stem(rule)) for rule in section.rules])
        self.limits = tuple(Limit(rule, name, plan) for rule, name in zip(section.rules, names, strict=True))

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
        return calls_model(route) and any(limit.needs_call(route) for limit in self.limits)

    def applying(self, route: Route, model: str | None) -> tuple[Limit, ...]:
        """The limits of a request, in the order of the rules.

        Where the most specific override, only those of the narrowest scope count of each unit; shadows override
        nothing, and are told beside them.
        """
        limits = [limit for limit in self.limits if limit.applies(route, model)]
        if self.section.combine is Combine.OVERRIDE:
            units = {limit.unit for limit in limits}
            counted = [
                limit
                for unit in units
                for limit in most_specific([one for one in limits if one.unit == unit and not one.shadow])
            ]
            limits = [limit for limit in limits if limit.shadow or limit in counted]
        return tuple(limits)


def _stem(rule: RateRule) -> str:
    """What a rule without a name is called: by scope, unit and period."""
    unit = "" if rule.unit == REQUESTS else f"{rule.unit}-"
    return f"{rule.scope}-{unit}{_seconds_text(rule.rate.period_ns)}"


def _seconds_text(period_ns: int) -> str:
    seconds, rest = divmod(period_ns, NANOS_PER_SECOND)
    return f"{seconds}s" if rest == 0 else f"{period_ns}ns"
