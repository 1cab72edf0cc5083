"""The accounts that a request draws on: one leg for each budget and each quota of its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import PLAIN, CarryOver, Leg, Terms
from tenantguard.model.period import Period
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.sections import BudgetSection, Mode, QuotaSection, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.policy import Policy
    from tenantguard.model.sections import BudgetRule, QuotaRule
    from tenantguard.model.tenant import Tenant


class _Line:
    """One rule, with everything that is the same for all requests under it."""

    __slots__ = ("limit", "period", "returned", "scope", "terms", "text", "unit")

    def __init__(self, rule: BudgetRule | QuotaRule, unit: str, limit: int, cap: int, *, returned: bool) -> None:
        self.scope = rule.scope
        self.period = rule.per
        self.text = str(rule.per)
        self.unit = unit
        self.limit = limit
        self.returned = returned
        strict = rule.mode is Mode.STRICT
        plain = strict and rule.carry.over is CarryOver.NONE and not rule.thresholds
        self.terms = PLAIN if plain else Terms(strict, rule.carry.over, cap, rule.thresholds)

    def leg(self, tenant: Tenant, route: str, most: int, least: int) -> Leg:
        """What a request asks of this line."""
        scope = self.scope
        budget: tuple[str, ...]
        if scope is _TENANT:
            budget = ("tenant", tenant.id, self.text)
        elif scope is _ROUTE:
            budget = ("route", tenant.id, route, self.text)
        elif scope is _IDENTITY:
            budget = ("identity", tenant.id, tenant.identity.id if tenant.identity is not None else "", self.text)
        else:
            budget = ("global", self.text)
        return Leg(budget, self.period, self.unit, self.limit, most, least, self.terms)


_TENANT, _ROUTE, _IDENTITY = Scope.TENANT, Scope.ROUTE, Scope.IDENTITY  # a look-up in an Enum costs more


class LegPlan:
    """The budgets and quotas of one policy, worked out once.

    ``currency`` is that of its budgets, None where it has none: then spending is recorded by month in whatever
    currency it has. ``units`` are those that its quotas count, ``pricing`` what it says of prices.
    """

    __slots__ = ("_money", "_quotas", "currency", "policy", "pricing", "units")

    def __init__(self, policy: Policy) -> None:
        budgets, quotas = policy.section(BudgetSection), policy.section(QuotaSection)
        self.policy = policy  # kept, so that no other has its id
        self.pricing = policy.section(PricingSection)
        self._money = [
            _Line(rule, rule.limit.currency, rule.limit.nanos, _cap_nanos(rule), returned=False)
            for rule in (budgets.rules if budgets is not None else ())
        ]
        self._quotas = [
            _Line(rule, rule.unit, rule.limit, _cap_units(rule), returned=rule.returned)
            for rule in (quotas.rules if quotas is not None else ())
        ]
        self.currency = self._money[0].unit if self._money else None
        self.units = frozenset(line.unit for line in self._quotas)

    def money(self, tenant: Tenant, route: str, currency: str, most: int, least: int) -> list[Leg]:
        """A leg for each budget, or for the month where there is none."""
        if not self._money:
            return [Leg(("tenant", tenant.id, "month"), Period.MONTH, currency, None, most, least)]
        if self.currency != currency:
            raise ConfigurationError(
                f"a budget in {self.currency} cannot hold prices in {currency}: write both in one currency, "
                "or a table of exchange rates",
            )
        return [line.leg(tenant, route, most, least) for line in self._money]

    def quotas(self, tenant: Tenant, route: str, units: Mapping[str, int]) -> list[tuple[Leg, bool]]:
        """A leg for each quota of a unit that the request takes, and whether what it takes comes back."""
        return [
            (line.leg(tenant, route, units[line.unit], units[line.unit]), line.returned)
            for line in self._quotas
            if line.unit in units
        ]


def _cap_nanos(rule: BudgetRule) -> int:
    cap = rule.carry.cap
    return 0 if cap is None or isinstance(cap, int) else cap.nanos


def _cap_units(rule: QuotaRule) -> int:
    return rule.carry.cap if isinstance(rule.carry.cap, int) else 0
