"""The typed sections of a policy that the built-in layers read. A user's own section is any frozen dataclass."""

# ruff: noqa: PLC0414 - the ledger's words that a rule is written with are offered here beside it
from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import PERCENT_MAX as PERCENT_MAX
from tenantguard.model.ledger import UNITS_MAX
from tenantguard.model.ledger import CarryOver as CarryOver
from tenantguard.model.ledger import Counted as Counted
from tenantguard.model.ledger import Threshold as Threshold
from tenantguard.model.period import Period
from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS, parse_rate

if TYPE_CHECKING:
    from tenantguard.model.money import Amount
    from tenantguard.model.rate import Rate

_UNIT: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_RULE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a limit counts, from wide to narrow.

    Everybody, all tenants of one plan, one tenant, and of one tenant a group of routes or models, one route, one
    model, one identity.
    """

    GLOBAL = "global"
    PLAN = "plan"
    TENANT = "tenant"
    GROUP = "group"
    ROUTE = "route"
    MODEL = "model"
    IDENTITY = "identity"


ACCOUNT_SCOPES: Final = frozenset({Scope.GLOBAL, Scope.TENANT, Scope.ROUTE, Scope.IDENTITY})
"""What budgets and quotas can count over."""


class Mode(StrEnum):
    """What happens at the limit of a budget or quota: ``soft`` refuses nothing, it counts and alerts."""

    STRICT = "strict"
    SOFT = "soft"


class Combine(StrEnum):
    """How the rules of a section that count the same unit stand to each other.

    ``ALL``: every one must pass. ``OVERRIDE``: of those that apply to a request only the most specific count.
    """

    ALL = "all"
    OVERRIDE = "override"


class Strategy(StrEnum):
    """How a rate counts: in a token bucket, or in a window as the strategies of `limits` with these names do.

    ``FIXED_WINDOW``: so many from the first request until the period is over; around the end of one, twice as many.
    ``MOVING_WINDOW``: so many in any period, each unit remembered. ``SLIDING_WINDOW``: about so many in any period.
    """

    TOKEN_BUCKET = "token-bucket"  # noqa: S105 - no password
    FIXED_WINDOW = "fixed-window"
    MOVING_WINDOW = "moving-window"
    SLIDING_WINDOW = "sliding-window-counter"


class OnError(StrEnum):
    """What happens where a store that machines share cannot decide in time.

    ``LOCAL``: this process decides by itself, with its share of the rate. ``CLOSED``: the request is refused with
    503. ``OPEN``: it goes on unlimited. All three are visible in the decision.
    """

    LOCAL = "local"
    CLOSED = "closed"
    OPEN = "open"


class Signals(StrEnum):
    """How callers are told of their limits (:mod:`tenantguard.rules.signals`); ``AUTO``: by the route's dialect."""

    AUTO = "auto"
    IETF = "ietf"
    LEGACY = "legacy"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PlanSection:
    """The plan that the tenant is on; tenants that name the same one share what is limited by ``Scope.PLAN``."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("plan: a plan has a name, for example 'gold'")


@dataclass(frozen=True, slots=True)
class Group:
    """Some routes, by the names that settings give them, and some models, by the names that requests ask for."""

    routes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.routes or self.models):
            raise ConfigurationError("group: name at least one route or model")


@dataclass(frozen=True, slots=True)
class RateRule:
    """One token bucket per ``scope``: so many of ``unit`` at ``rate``.

    ``unit`` is ``requests``, ``tokens``, or what a route ``takes``. A ``group`` is what the rule is for, everything
    by default; ``Scope.GROUP`` needs one, and counts all of it in one bucket. A ``shadow`` rule is evaluated and
    told, and refuses nothing. ``name`` is what headers, decisions and buckets call it; without it, it is made of
    scope, unit and period. A ``strategy`` of another kind counts in windows of whole seconds that give nothing back:
    it has no burst, and counts no tokens.
    """

    rate: Rate
    scope: Scope = Scope.TENANT
    unit: str = REQUESTS
    group: Group | None = None
    shadow: bool = False
    name: str | None = None
    strategy: Strategy = Strategy.TOKEN_BUCKET

    def __post_init__(self) -> None:
        if self.strategy is not Strategy.TOKEN_BUCKET:
            _check_window(self.rate, self.unit, self.strategy)
        if _UNIT.fullmatch(self.unit) is None:
            raise ConfigurationError("rate: unit is a name in lower case, for example 'tokens'")
        if self.scope is Scope.GROUP and self.group is None:
            raise ConfigurationError("rate: scope = 'group' needs a group: the routes or models that it counts")
        if self.name is not None and _RULE_NAME.fullmatch(self.name) is None:
            raise ConfigurationError("rate: name is 1 to 64 letters, digits or . _ -, like 'tokens-per-minute'")

    @classmethod
    def parse(
        cls,
        text: str,
        scope: Scope = Scope.TENANT,
        *,
        group: Group | None = None,
        shadow: bool = False,
        name: str | None = None,
    ) -> RateRule:
        """The rule of ``"100000 tokens/minute burst 200000"``, see :func:`~tenantguard.model.rate.parse_rate`."""
        rate, unit = parse_rate(text)
        return cls(rate, scope, unit, group, shadow, name)


def _check_window(rate: Rate, unit: str, strategy: Strategy) -> None:
    if rate.burst != rate.amount:
        raise ConfigurationError(f"rate: a {strategy} has no burst; leave the burst or the strategy out")
    if rate.period_ns % NANOS_PER_SECOND:
        raise ConfigurationError(f"rate: a {strategy} counts in whole seconds; write a period of those")
    if unit == TOKENS:
        raise ConfigurationError(
            f"rate: tokens are reserved and given back, and a {strategy} gives nothing back; leave the strategy out"
        )


@dataclass(frozen=True, slots=True)
class RateSection:
    """Rules that are taken together, all or none; ``combine`` says which of them count for a request."""

    rules: tuple[RateRule, ...]
    combine: Combine = Combine.ALL
    on_error: OnError = OnError.LOCAL
    signals: Signals = Signals.AUTO

    def __post_init__(self) -> None:
        named = [rule.name for rule in self.rules if rule.name is not None]
        if len(set(named)) < len(named):
            raise ConfigurationError("rate: two rules have one name, so they would share their buckets; rename one")


@dataclass(frozen=True, slots=True)
class Carry:
    """What a window leaves to the next one.

    ``unused`` raises its limit by what was left, ``debt`` lowers it by what was spent beyond.

    What was left is the limit, with what was carried into it, less what was spent and is still held; at most ``cap``
    of it is carried. ``cap`` is in the words of the rule's limit: an amount of money, or whole units.
    """

    over: CarryOver = CarryOver.NONE
    cap: Amount | int | None = None

    def __post_init__(self) -> None:
        if self.over is CarryOver.UNUSED and self.cap is None:
            raise ConfigurationError(
                "carry: 'unused' needs a cap, or it would grow for ever; give it the limit's size"
            )
        if self.over is not CarryOver.UNUSED and self.cap is not None:
            raise ConfigurationError("carry: only 'unused' has a cap; leave it out")


NO_CARRY: Final = Carry()


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """At most ``limit`` in each ``per``, counted over ``scope``."""

    limit: Amount
    per: Period
    scope: Scope = Scope.TENANT
    mode: Mode = Mode.STRICT
    carry: Carry = NO_CARRY
    thresholds: tuple[Threshold, ...] = ()

    def __post_init__(self) -> None:
        if self.limit.nanos < 0:
            raise ConfigurationError("budget: limit must not be negative")
        _check_scope("budget", self.scope)
        cap = self.carry.cap
        if cap is not None and (isinstance(cap, int) or cap.currency != self.limit.currency or cap.nanos <= 0):
            raise ConfigurationError(
                f"budget: the cap of 'carry' must be an amount in {self.limit.currency}, above 0"
            )
        _check_counting("budget", self.per, self.mode, self.carry, self.thresholds)


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """Every budget must have room for the hold; all in one currency."""

    rules: tuple[BudgetRule, ...]

    def __post_init__(self) -> None:
        if len({rule.limit.currency for rule in self.rules}) > 1:
            raise ConfigurationError("the budgets of one policy must be in one currency")
        if len({(rule.per, rule.scope) for rule in self.rules}) < len(self.rules):
            raise ConfigurationError("budget: there is one limit for each period and scope; leave the others out")


@dataclass(frozen=True, slots=True)
class QuotaRule:
    """At most ``limit`` whole units named ``unit`` in each ``per``, counted over ``scope``.

    Units are used up, unless ``returned``: then they come back when what took them has ended (sessions, running
    jobs), and the limit is how many there are at a time, over the lifetime. ``unit`` is lower case (``"jobs"``,
    ``"pipeline_runs"``), so that it is never taken for a currency.
    """

    unit: str
    limit: int
    per: Period
    scope: Scope = Scope.TENANT
    mode: Mode = Mode.STRICT
    carry: Carry = NO_CARRY
    thresholds: tuple[Threshold, ...] = ()
    returned: bool = False

    def __post_init__(self) -> None:
        if _UNIT.fullmatch(self.unit) is None:
            raise ConfigurationError("quota: unit is a name in lower case, for example 'jobs' or 'pipeline_runs'")
        _check_scope("quota", self.scope)
        if type(self.limit) is not int or not 0 <= self.limit <= UNITS_MAX:
            raise ConfigurationError(f"quota: limit of {self.unit!r} must be a whole number from 0 to 2**63 - 1")
        cap = self.carry.cap
        if cap is not None and (type(cap) is not int or not 1 <= cap <= UNITS_MAX):
            raise ConfigurationError(f"quota: the cap of 'carry' must be whole {self.unit}, at least 1")
        if self.returned and self.per != Period.LIFETIME:
            raise ConfigurationError(f"quota: {self.unit!r} come back, so they have no period; leave 'per' out")
        if self.returned and any(threshold.of is Counted.SPENT for threshold in self.thresholds):
            raise ConfigurationError(f"quota: {self.unit!r} come back and are never spent; alert on 'committed'")
        _check_counting("quota", self.per, self.mode, self.carry, self.thresholds)


@dataclass(frozen=True, slots=True)
class QuotaSection:
    """Every quota of a unit must have room for what takes it; a unit is either used up or returned."""

    rules: tuple[QuotaRule, ...]

    def __post_init__(self) -> None:
        counted = [(rule.unit, rule.per, rule.scope) for rule in self.rules]
        if len(set(counted)) < len(counted):
            raise ConfigurationError("quota: a unit has one limit for each period and scope; leave the others out")
        if len({rule.unit for rule in self.rules}) < len({(rule.unit, rule.returned) for rule in self.rules}):
            raise ConfigurationError("quota: a unit is either used up or returned, in all its rules")


def _check_scope(what: str, scope: Scope) -> None:
    if scope not in ACCOUNT_SCOPES:
        known = ", ".join(repr(str(scope)) for scope in Scope if scope in ACCOUNT_SCOPES)
        raise ConfigurationError(f"{what}: scope must be one of {known}; {str(scope)!r} is for rates")


def _check_counting(what: str, per: Period, mode: Mode, carry: Carry, thresholds: tuple[Threshold, ...]) -> None:
    """What budgets and quotas have in common."""
    if not isinstance(per, Period):
        raise ConfigurationError(f"{what}: per must be a period, for example Period.parse('month')")
    if carry.over is not CarryOver.NONE and (per == Period.LIFETIME or per.buckets):
        raise ConfigurationError(f"{what}: no window follows one of {str(per)!r}; leave 'carry' out")
    if len(set(thresholds)) < len(thresholds):
        raise ConfigurationError(f"{what}: the same threshold stands twice; leave one out")
    if mode is Mode.STRICT and any(threshold.percent > 100 for threshold in thresholds):
        raise ConfigurationError(f"{what}: a strict limit is never passed; write thresholds of at most 100 percent")
