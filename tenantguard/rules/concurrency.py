"""Which slots a request claims: the rules of a policy that it meets, and the key of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from tenantguard.model.concurrency import ConcurrencySection, WhenFull
from tenantguard.model.sections import Combine, PlanSection, Scope
from tenantguard.model.slots import SlotClaim
from tenantguard.rules.scopes import WIDTH, Scoped, calls_model, digest, most_specific, names_of

if TYPE_CHECKING:
    from tenantguard.model.concurrency import ConcurrencyRule
    from tenantguard.model.policy import Policy
    from tenantguard.model.route import Route
    from tenantguard.model.tenant import Tenant

_MEMBERS_MAX: Final = 256

Groups: TypeAlias = Mapping[tuple[str, ...], str]
"""The group of a request by each ``by`` of a plan, which is a tuple of paths."""


class SlotLimit(Scoped):
    """One rule with its name. The limit is no part of its slots' key: a new one counts for those who are inside."""

    __slots__ = ("rule",)

    def __init__(self, rule: ConcurrencyRule, name: str, plan: str | None) -> None:
        super().__init__("concurrency", name, rule.scope, rule.group, plan)
        self.rule = rule

    def claim(self, tenant: Tenant | None, route: str, model: str | None, groups: Groups) -> SlotClaim:
        """What a request claims; ``groups`` are those that the rule's plan has found in its body."""
        rule = self.rule
        key = self.key(tenant, route, model)
        if rule.by:
            key = f"{key}|{groups[rule.by]}"
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
        self._by = tuple(dict.fromkeys([rule.by for rule in section.rules if rule.by]))

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
        return bool(self._by) or self.needs_model(route)

    def groups(self, body: Any) -> Groups:
        """Which groups a request is in by its JSON, None where it has none."""
        return {paths: _group(paths, body) for paths in self._by}

    def applying(self, route: Route, model: str | None) -> list[SlotLimit]:
        """The limits of a request, widest first."""
        limits = [limit for limit in self.limits if limit.covers(route, model)]
        return most_specific(limits) if self.section.combine is Combine.OVERRIDE else limits


def _group(paths: tuple[str, ...], body: Any) -> str:
    """What tells groups of requests apart: the values at dotted paths, as canonical JSON, hashed.

    The order of the paths does not matter. What is not there, or has too many members, is null; only objects are
    walked into.
    """
    values = {path: _at(body, path) for path in paths}
    return digest(json.dumps(values, sort_keys=True, separators=(",", ":")))


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value if _is_small(value) else None


def _is_small(value: Any) -> bool:
    """Whether it has few members. Of a million the encoder would hold the interpreter for half a second."""
    members = 0
    within = [value]
    while within:
        each = within.pop()
        if isinstance(each, dict | list):
            members += len(each)
            if members > _MEMBERS_MAX:
                return False
            within += each.values() if isinstance(each, dict) else each
    return True
