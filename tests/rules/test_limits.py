"""Which limits apply to a request, and which buckets they draw on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.rate import Rate
from tenantguard.model.route import Route
from tenantguard.model.sections import Combine, Group, PlanSection, RateRule, RateSection, Scope
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.bucket import owner_of
from tenantguard.rules.limits import LimitPlan

SECOND = 10**9
RATE = Rate(10, SECOND)
ACME = Tenant(TenantId("acme"), Identity("dev", TenantId("acme")))
CHAT = Route("POST /chat", name="chat", usage="openai-chat")
PLAIN = Route("POST /pictures", name="pictures", takes=(("pictures", 2),))


def plan_of(*rules: RateRule, combine: Combine = Combine.ALL, plan: str | None = "gold") -> LimitPlan:
    return LimitPlan(RateSection(rules, combine), plan)


def names(plan: LimitPlan, route: Route, model: str | None = None) -> list[str]:
    return [limit.name for limit in plan.applying(route, model)]


@pytest.mark.parametrize(
    ("scope", "key"),
    [
        (Scope.GLOBAL, "|global|x"),
        (Scope.PLAN, "|plan|x|gold"),
        (Scope.TENANT, "acme|tenant|x"),
        (Scope.GROUP, "acme|group|x"),
        (Scope.ROUTE, "acme|route|x|chat"),
        (Scope.MODEL, "acme|model|x|gpt-5"),
        (Scope.IDENTITY, "acme|identity|x|dev"),
    ],
)
def test_every_scope_has_buckets_of_its_own(scope: Scope, key: str) -> None:
    group = Group(("chat",)) if scope is Scope.GROUP else None
    (limit,) = plan_of(RateRule(RATE, scope, group=group, name="x")).limits
    assert limit.key(ACME, "chat", "gpt-5") == key
    assert owner_of(key) == ("" if scope in {Scope.GLOBAL, Scope.PLAN} else "acme")


@given(st.text(alphabet="a|%/7C", max_size=5), st.text(alphabet="a|%/7C", max_size=5), st.text(max_size=5))
def test_names_of_tenants_routes_and_models_never_run_together(route: str, other: str, model: str) -> None:
    (by_route, by_model) = plan_of(RateRule(RATE, Scope.ROUTE), RateRule(RATE, Scope.MODEL)).limits
    assert (by_route.key(ACME, route, None) == by_route.key(ACME, other, None)) == (route == other)
    assert by_model.key(ACME, route, model) != by_route.key(ACME, route, None)


def test_a_model_with_an_endless_name_has_a_short_key() -> None:
    (limit,) = plan_of(RateRule(RATE, Scope.MODEL)).limits
    long = limit.key(ACME, "chat", "m" * 1_000_000)
    assert len(long) < 100
    assert long != limit.key(ACME, "chat", "m" * 1_000_001)
    assert limit.key(ACME, "chat", "\ud800" * 200)


def test_a_rate_by_plan_needs_one() -> None:
    with pytest.raises(ConfigurationError, match="plan = 'gold'"):
        plan_of(RateRule(RATE, Scope.PLAN), plan=None)


def test_tenants_of_one_plan_share_its_bucket() -> None:
    section = RateSection((RateRule(RATE, Scope.PLAN),))
    plans = [LimitPlan.of(Policy.of(name, [section, PlanSection("gold")])) for name in ("acme", "globex")]
    buckets = {plan.limits[0].key(Tenant(TenantId(str(at))), "chat", None) for at, plan in enumerate(plans) if plan}
    assert buckets == {"|plan|plan-1s|gold"}


@pytest.mark.parametrize("policy", [EMPTY_POLICY, Policy.of("acme", [RateSection(())])])
def test_a_policy_without_rates_has_no_plan(policy: Policy) -> None:
    assert LimitPlan.of(policy) is None


def test_a_unit_counts_where_requests_take_it() -> None:
    plan = plan_of(
        RateRule(RATE), RateRule(RATE, unit="tokens"), RateRule(RATE, unit="pictures"), RateRule(RATE, Scope.MODEL)
    )
    assert names(plan, CHAT, "gpt-5") == ["tenant-1s", "tenant-tokens-1s", "model-1s"]
    assert names(plan, PLAIN) == ["tenant-1s", "tenant-pictures-1s"]
    assert plan.needs_call(CHAT)
    assert not plan.needs_call(PLAIN)


def test_the_call_is_not_looked_at_where_nothing_asks_for_it() -> None:
    other = Group(("other",))
    assert not plan_of(RateRule(RATE)).needs_call(CHAT)
    assert not plan_of(RateRule(RATE, unit="tokens", group=other)).needs_call(CHAT)
    assert plan_of(RateRule(RATE, group=Group(models=("m",)))).needs_call(CHAT)


def test_a_group_is_its_routes_and_its_models() -> None:
    plan = plan_of(RateRule(RATE, Scope.GROUP, group=Group(("pictures",), ("gpt-5",))))
    assert names(plan, PLAIN) == ["group-1s"]
    assert names(plan, CHAT, "gpt-5") == ["group-1s"]
    assert names(plan, CHAT, "gpt-4") == []
    (limit,) = plan.limits
    assert limit.key(ACME, "pictures", None) == limit.key(ACME, "chat", "gpt-5")


def test_the_most_specific_overrides_unit_by_unit_and_shadows_override_nothing() -> None:
    plan = plan_of(
        RateRule(RATE, Scope.GLOBAL, name="wide"),
        RateRule(RATE, name="second"),
        RateRule(Rate(100, 60 * SECOND), name="minute"),
        RateRule(RATE, Scope.IDENTITY, shadow=True, name="dark"),
        RateRule(RATE, Scope.MODEL, group=Group(models=("gpt-5",)), name="large"),
        RateRule(RATE, unit="tokens", name="tokens"),
        combine=Combine.OVERRIDE,
    )
    assert names(plan, PLAIN) == ["second", "minute", "dark"]
    assert names(plan, CHAT, "gpt-4") == ["second", "minute", "dark", "tokens"]
    assert names(plan, CHAT, "gpt-5") == ["dark", "large", "tokens"]


def test_names_are_made_and_never_one_for_two() -> None:
    rules = [RateRule(RATE), RateRule(RATE, name="tenant-1s"), RateRule(RATE), RateRule(RATE, unit="tokens")]
    made = [limit.name for limit in plan_of(*rules).limits]
    assert made == ["tenant-1s-2", "tenant-1s", "tenant-1s-3", "tenant-tokens-1s"]


@pytest.mark.parametrize(
    "fields",
    [{"scope": Scope.GROUP}, {"unit": "Tokens"}, {"unit": ""}, {"name": ""}, {"name": 'a"b'}, {"name": "a|b"}],
)
def test_rules_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="rate:"):
        RateRule(RATE, **fields)
    with pytest.raises(ConfigurationError, match="rename one"):
        RateSection((RateRule(RATE, name="a"), RateRule(RATE, name="a")))
