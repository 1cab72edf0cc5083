"""Which slots a request claims: the rules of a policy that it meets, and the key of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from tenantguard.model.concurrency import ConcurrencySection, WhenFull
from tenantguard.model.sections import Combine, PlanSection, Scope
from tenantguard.model.slots import SlotClaim
from tenantguard.rules.scopes import WIDTH, Scoped, calls_model, digest, most_specific, names_of

if TYPE_CHECKING:
    from tenantguard.model.concurrency import ConcurrencyRule
    from tenantguard.model.policy import Policy
    from tenantguard.model.route import Route
    from tenantguard.model.tenant import Tenant


class SlotLimit(Scoped):
    """One rule with its name. The limit is no part of its slots' key: a new one counts for those who are inside."""

    __slots__ = ("rule",)

    def __init__(self, rule: ConcurrencyRule, name: str, plan: str | None) -> None:
        super().__init__("concurrency", name, rule.scope, rule.group, plan)
        self.rule = rule

    def claim(self, tenant: Tenant | None, route: str, model: str | None, body: Any) -> SlotClaim:
        """What a request claims; ``body`` is its JSON, None where it has none."""
        rule = self.rule
        key = self.key(tenant, route, model)
        if rule.by:
            key = f"{key}|{group_key(rule.by, body)}"
        queues = rule.when_full is WhenFull.QUEUE
        return SlotClaim(key, rule.limit, rule.queue if queues else 0, rule.wait_ns if queues else 0, rule.weight)

    def needs_model(self, route: Route) -> bool:
        """Whether the model that a request on ``route`` asks for must be known."""
        if not calls_model(route):
            return False
        return self.scope is Scope.MODEL or bool(self.models)


class SlotPlan:
    """The limits of one concurrency section, worked out once; widest first, as slots are handed over."""

    __slots__ = ("_by", "limits", "policy", "section")

    def __init__(
        self,
        section: ConcurrencySection,
        plan: str | None = None,
        *,
        prefix: str = "",
        policy: Policy | None = None,
    ) -> None:
        self.section = section
        self.policy = policy  # kept, so that no other has its id
        names = names_of([(rule.name, f"{prefix}{rule.scope}") for rule in section.rules])
        limits = [SlotLimit(rule, name, plan) for rule, name in zip(section.rules, names, strict=True)]
        self.limits = tuple(sorted(limits, key=lambda limit: WIDTH[limit.scope]))
        self._by = any(rule.by for rule in section.rules)

    @classmethod
    def of(cls, policy: Policy) -> Self | None:
        """The plan of a policy, None where nothing is limited."""
        section = policy.section(ConcurrencySection)
        if section is None or not section.rules:
            return None
        plan = policy.section(PlanSection)
        return cls(section, plan.name if plan is not None else None, policy=policy)

    def needs_model(self, route: Route) -> bool:
        """Whether the model that a request on ``route`` asks for must be known."""
        return any(limit.needs_model(route) for limit in self.limits)

    def needs_body(self, route: Route) -> bool:
        """Whether what a request on ``route`` claims depends on its body."""
        return self._by or self.needs_model(route)

    def applying(self, route: Route, model: str | None) -> list[SlotLimit]:
        """The limits of a request, widest first."""
        limits = [limit for limit in self.limits if limit.covers(route, model)]
        return most_specific(limits) if self.section.combine is Combine.OVERRIDE else limits


def group_key(paths: tuple[str, ...], body: Any) -> str:
    """What tells groups of requests apart: the values at dotted paths, as canonical JSON, hashed.

    The order of the paths does not matter. What is not there is null; only objects are walked into.
    """
    values = {path: _at(body, path) for path in paths}
    return digest(json.dumps(values, sort_keys=True, separators=(",", ":")))


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
