"""Policies to legs: which accounts a request draws on, and the quotas of two systems end to end on the rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.model.ledger import PLAIN, CarryOver, Counted, Exhausted, Held, Leg, OnOrphan, Terms, Threshold
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.rate import REQUESTS
from tenantguard.model.route import Route
from tenantguard.model.sections import BudgetRule, BudgetSection, Carry, Mode, QuotaRule, QuotaSection, Scope
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.ledger import Books
from tenantguard.rules.legs import LegPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_750_000_000 * 10**9
DAY = 86_400 * 10**9
ACME = Tenant(TenantId("acme"), Identity("alice", TenantId("acme")))
GLOBEX = Tenant(TenantId("globex"))
USD = Amount(250, "USD")
ALL_SCOPES = (Scope.GLOBAL, Scope.TENANT, Scope.ROUTE, Scope.IDENTITY)


def plan(*sections: object) -> LegPlan:
    return LegPlan(Policy.of("test", sections))


def quota(unit: str, limit: int, per: Period = Period.DAY, scope: Scope = Scope.TENANT, **more: Any) -> QuotaRule:
    return QuotaRule(unit, limit, per, scope, **more)


class World:
    """Requests that take units, one after the other, under one policy."""

    def __init__(self, *rules: QuotaRule) -> None:
        self.plan = plan(QuotaSection(rules))
        self.books = Books()
        self.now = NOW
        self.requests = 0

    def take(
        self, units: Mapping[str, int], tenant: Tenant = ACME, route: str = "/"
    ) -> tuple[bytes, Held | None, list[tuple[Leg, bool]]]:
        """Hold what a request takes; None where some quota has no room."""
        self.requests += 1
        hold = self.requests.to_bytes(16, "big")
        legs = self.plan.quotas(tenant, route, units)
        answer = self.books.place(hold, tenant.id, tuple(leg for leg, _ in legs), OnOrphan.VOID, self.now)
        return hold, answer if isinstance(answer, Held) else None, legs

    def end(self, taken: tuple[bytes, Held | None, list[tuple[Leg, bool]]]) -> None:
        """What took them has ended: what is used up is charged, what is returned comes back."""
        hold, _, legs = taken
        used = tuple(0 if returned else leg.most for leg, returned in legs)
        self.books.resolve(hold, used, "completed", "{}", None, None, self.now)

    def does(self, tenant: Tenant = ACME, route: str = "/", **units: int) -> bool:
        """Take, and end at once; whether there was room."""
        taken = self.take(units, tenant, route)
        if taken[1] is not None:
            self.end(taken)
        return taken[1] is not None

    def usage(self) -> dict[tuple[str, ...], tuple[int, int]]:
        return {(key[0][1], key[2]): (account.spent, account.held) for key, account in self.books.accounts.items()}


# legs


def test_each_scope_has_an_account_of_its_own() -> None:
    rules = [BudgetRule(USD, Period.MONTH, scope) for scope in ALL_SCOPES]
    legs = plan(BudgetSection(tuple(rules))).money(ACME, "chat", "USD", 9, 4)
    assert [leg.budget for leg in legs] == [
        ("global", "month"),
        ("tenant", "acme", "month"),
        ("route", "acme", "chat", "month"),
        ("identity", "acme", "alice", "month"),
    ]
    assert {(leg.period, leg.unit, leg.limit, leg.most, leg.least, leg.terms) for leg in legs} == {
        (Period.MONTH, "USD", 250, 9, 4, PLAIN)
    }


def test_tenants_share_only_what_counts_everybody() -> None:
    """L-13, A+6: a tenant's limit is shared across its routes and by no other tenant."""
    counted = plan(QuotaSection(tuple(quota("jobs", 5, scope=scope) for scope in ALL_SCOPES)))
    one = {leg.budget for leg, _ in counted.quotas(ACME, "a", {"jobs": 1})}
    two = {leg.budget for leg, _ in counted.quotas(GLOBEX, "a", {"jobs": 1})}
    three = {leg.budget for leg, _ in counted.quotas(ACME, "b", {"jobs": 1})}
    assert one & two == {("global", "day")}
    assert one - three == {("route", "acme", "a", "day")}


def test_who_acts_without_an_identity_shares_one_account() -> None:
    legs = plan(BudgetSection((BudgetRule(USD, Period.DAY, Scope.IDENTITY),))).money(GLOBEX, "a", "USD", 1, 1)
    assert legs[0].budget == ("identity", "globex", "", "day")


def test_without_a_budget_spending_is_recorded_by_month_in_its_own_currency() -> None:
    """E-36: no ceiling admits."""
    (leg,) = plan().money(ACME, "chat", "EUR", 9, 4)
    assert leg == Leg(("tenant", "acme", "month"), Period.MONTH, "EUR", None, 9, 4)
    assert LegPlan(EMPTY_POLICY).currency is None


def test_the_record_goes_on_in_the_same_account_when_a_budget_is_given() -> None:
    before = plan().money(ACME, "chat", "USD", 1, 1)[0]
    after = plan(BudgetSection((BudgetRule(USD, Period.MONTH),))).money(ACME, "chat", "USD", 1, 1)[0]
    assert (before.budget, before.period, before.unit) == (after.budget, after.period, after.unit)


def test_prices_in_another_currency_than_the_budgets_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a budget in USD cannot hold prices in EUR"):
        plan(BudgetSection((BudgetRule(USD, Period.MONTH),))).money(ACME, "chat", "EUR", 1, 1)


def test_what_a_rule_says_beside_its_limit_goes_with_its_legs() -> None:
    full = Threshold(100, Counted.COMMITTED)
    rules = (
        BudgetRule(USD, Period.DAY, mode=Mode.SOFT, thresholds=(Threshold(150),)),
        BudgetRule(USD, Period.WEEK, carry=Carry(CarryOver.UNUSED, Amount(7, "USD"))),
        BudgetRule(USD, Period.MONTH, carry=Carry(CarryOver.DEBT), thresholds=(full,)),
        BudgetRule(USD, Period.YEAR, thresholds=(full,)),
        BudgetRule(USD, Period.HOUR, mode=Mode.SOFT),
    )
    quotas = QuotaSection((quota("jobs", 3, carry=Carry(CarryOver.UNUSED, 2)),))
    planned = plan(BudgetSection(rules), quotas)
    assert [leg.terms for leg in planned.money(ACME, "a", "USD", 1, 1)] == [
        Terms(strict=False, thresholds=(Threshold(150),)),
        Terms(carry=CarryOver.UNUSED, cap=7),
        Terms(carry=CarryOver.DEBT, thresholds=(full,)),
        Terms(thresholds=(full,)),
        Terms(strict=False),
    ]
    assert [leg.terms for leg, _ in planned.quotas(ACME, "a", {"jobs": 1})] == [Terms(carry=CarryOver.UNUSED, cap=2)]


def test_a_request_draws_on_the_quotas_of_what_it_takes_and_on_no_others() -> None:
    planned = plan(QuotaSection((quota("jobs", 3), quota("images", 4), quota("jobs", 9, Period.MONTH))))
    assert planned.units == {"jobs", "images"}
    taken = planned.quotas(ACME, "a", {"jobs": 2, REQUESTS: 1})
    assert [(leg.unit, str(leg.period), leg.limit, leg.most, leg.least) for leg, _ in taken] == [
        ("jobs", "day", 3, 2, 2),
        ("jobs", "month", 9, 2, 2),
    ]
    assert planned.quotas(ACME, "a", {REQUESTS: 1}) == []


def test_money_and_a_unit_of_one_period_and_scope_have_accounts_of_their_own() -> None:
    planned = plan(BudgetSection((BudgetRule(USD, Period.DAY),)), QuotaSection((quota("usd", 1),)))
    legs = [*planned.money(ACME, "a", "USD", 200, 200), planned.quotas(ACME, "a", {"usd": 1})[0][0]]
    books = Books()
    assert books.place(b"1", "acme", tuple(legs), OnOrphan.VOID, NOW) == Held((200, 1))
    assert len(books.accounts) == 2


# quotas, end to end on the rule


def six_budgets(**limits: int) -> World:
    """Six classes of actions, each with a budget of units; sessions come back when they are closed."""
    kinds = {"events": 10, "sessions": 2, "jobs": 3, "pipeline_runs": 2, "pipeline_replays": 1, "mitigations": 1}
    return World(
        *[
            quota(unit, limit, Period.LIFETIME, returned=unit == "sessions")
            for unit, limit in (kinds | limits).items()
        ]
    )


def test_six_budgets_of_units_are_expressible() -> None:
    """L-3, L-4, L-6: what passes its class is refused and changes nothing, the last unit fits, classes are apart."""
    world = six_budgets()
    assert world.does(events=4)
    before = world.usage()
    assert not world.does(events=7)
    assert world.usage() == before
    assert world.does(events=6)
    assert not world.does(events=1)
    assert all([world.does(jobs=2), world.does(jobs=1), world.does(pipeline_runs=2), world.does(pipeline_replays=1)])
    assert not world.does(pipeline_replays=1)
    assert world.does(mitigations=1)
    assert world.usage() == {
        ("acme", "events"): (10, 0),
        ("acme", "jobs"): (3, 0),
        ("acme", "pipeline_runs"): (2, 0),
        ("acme", "pipeline_replays"): (1, 0),
        ("acme", "mitigations"): (1, 0),
    }


def test_an_action_of_two_classes_takes_both_or_none() -> None:
    """L-3."""
    world = six_budgets()
    assert world.does(jobs=3)
    assert not world.does(events=1, jobs=1)
    assert world.usage() == {("acme", "jobs"): (3, 0)}


def test_sessions_are_held_while_they_are_open_and_come_back() -> None:
    """L-3, L-4 for what is returned."""
    world = six_budgets()
    first, second = world.take({"sessions": 1}), world.take({"sessions": 1})
    assert first[1] == second[1] == Held((1,))
    assert world.usage() == {("acme", "sessions"): (0, 2)}
    assert not world.does(sessions=1)
    world.end(first)
    assert world.usage() == {("acme", "sessions"): (0, 1)}
    assert world.does(sessions=1)
    world.end(second)
    assert world.usage() == {("acme", "sessions"): (0, 0)}
    for _ in range(20):
        assert world.does(sessions=2)


def test_a_session_whose_process_was_lost_comes_back_too() -> None:
    """A+5: a crashed holder's slot is reclaimed."""
    world = six_budgets()
    lost = world.take({"sessions": 2})
    assert not world.does(sessions=1)
    world.books.lose(lost[0], NOW)
    assert world.does(sessions=2)


def test_a_tenant_that_has_used_up_its_units_changes_nothing_for_another() -> None:
    """L-13."""
    world = six_budgets()
    assert world.does(events=10)
    assert not world.does(events=1)
    assert world.does(GLOBEX, events=10)


@pytest.mark.parametrize("count", [0, -1])
def test_zero_or_negative_units_are_refused_as_invalid(count: int) -> None:
    """L-5: by the route that takes them."""
    with pytest.raises(ConfigurationError):
        Route("POST /jobs", takes=(("jobs", count),))


@pytest.mark.parametrize("count", [-1, 1.0, True])
def test_units_that_are_no_count_are_refused_by_the_rule(count: Any) -> None:
    """L-5."""
    world = six_budgets()
    with pytest.raises(LayerError):
        world.take({"jobs": count})
    assert world.usage() == {}


actions = st.lists(
    st.tuples(st.sampled_from(["events", "jobs", "sessions"]), st.integers(1, 4), st.booleans()), max_size=40
)


@settings(deadline=None)
@given(actions)
def test_usage_is_what_a_counter_of_each_class_says(steps: list[tuple[str, int, bool]]) -> None:
    """L-3, L-4, L-6 against plain counters."""
    world = six_budgets(sessions=6)
    used = {"events": 0, "jobs": 0}
    limits = {"events": 10, "jobs": 3, "sessions": 6}
    open_sessions: list[Any] = []
    for unit, count, closes in steps:
        now = used[unit] if unit in used else sum(taken[1].amounts[0] for taken in open_sessions)
        taken = world.take({unit: count})
        assert (taken[1] is not None) == (now + count <= limits[unit])
        if taken[1] is None:
            pass
        elif unit == "sessions":
            open_sessions.append(taken)
        else:
            used[unit] += count
            world.end(taken)
        if closes and open_sessions:
            world.end(open_sessions.pop(0))
    assert {unit: spent for (_, unit), (spent, _) in world.usage().items() if spent} == {
        unit: count for unit, count in used.items() if count
    }


def test_quotas_of_executions_are_expressible() -> None:
    """A-2, A-3, A-4, A-6, A-11, A-12: totals by period, compute and storage, how many run at once, at several scopes.

    The strictest level decides: a lenient wide one does not loosen a strict narrow one.
    """
    world = World(
        quota("executions", 4, Period.HOUR),
        quota("executions", 2, Period.HOUR, Scope.ROUTE),
        quota("executions", 6, Period.LIFETIME, Scope.GLOBAL),
        quota("cpu_seconds", 100, Period.DAY),
        quota("storage_mb", 50, Period.LIFETIME),
        quota("running", 2, Period.LIFETIME, returned=True),
    )

    def run(route: str, tenant: Tenant = ACME, **more: int) -> bool:
        return world.does(tenant, route, executions=1, **more)

    assert [run("deploy"), run("deploy"), run("deploy")] == [True, True, False]
    assert [run("build"), run("build"), run("test")] == [True, True, False]
    assert run("deploy", GLOBEX, cpu_seconds=100)
    assert not run("deploy", GLOBEX, cpu_seconds=1)
    world.now += 3600 * 10**9
    assert run("deploy", storage_mb=50)
    assert not run("build", storage_mb=1)
    assert not run("build"), "the six executions of everybody for ever are used up"
    first, second = world.take({"running": 1}), world.take({"running": 1})
    assert first[1] is not None
    assert second[1] is not None
    assert world.take({"running": 1})[1] is None
    world.end(first)
    assert world.take({"running": 1})[1] is not None


def test_a_refused_execution_is_counted_nowhere() -> None:
    """A-2: refused calls are not counted, in no level."""
    world = World(quota("executions", 9, Period.HOUR), quota("executions", 1, Period.HOUR, Scope.ROUTE))
    assert world.does(route="a", executions=1)
    for _ in range(20):
        assert not world.does(route="a", executions=1)
    assert [world.does(route=name, executions=1) for name in "bcdefghij"] == [True] * 8 + [False]


def test_a_refusal_names_the_level_and_its_numbers() -> None:
    """A-7: kind and all numbers."""
    world = World(quota("executions", 9), quota("executions", 2, scope=Scope.ROUTE))
    world.does(executions=2)
    legs = tuple(leg for leg, _ in world.plan.quotas(ACME, "/", {"executions": 1}))
    answer = world.books.place(b"last", "acme", legs, OnOrphan.VOID, NOW)
    assert isinstance(answer, Exhausted)
    assert (answer.leg, answer.needed, answer.available, answer.spent, answer.held) == (1, 1, 0, 2, 0)
    assert (legs[answer.leg].unit, legs[answer.leg].limit, legs[answer.leg].budget[0]) == ("executions", 2, "route")


def test_a_quota_without_a_name_or_with_no_whole_number_is_refused_when_it_is_made() -> None:
    """A+7, A-31."""
    for broken in (
        lambda: quota("Jobs", 1), lambda: quota("", 1), lambda: quota("USD", 1), lambda: quota("jobs", -1),
        lambda: quota("jobs", limit=True), lambda: quota("jobs", cast("int", 1.5)), lambda: quota("jobs", 2**63),
        lambda: quota("running", 1, returned=True),
        lambda: QuotaSection((quota("jobs", 1), quota("jobs", 2))),
        lambda: QuotaSection((quota("jobs", 1), quota("jobs", 2, Period.LIFETIME, returned=True))),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            broken()


def test_two_budgets_on_one_account_would_charge_every_request_twice() -> None:
    with pytest.raises(ConfigurationError):
        BudgetSection((BudgetRule(USD, Period.DAY), BudgetRule(Amount(9, "USD"), Period.DAY, mode=Mode.SOFT)))


@settings(deadline=None)
@given(st.integers(0, 50), st.lists(st.integers(1, 20), max_size=30))
def test_a_strict_quota_admits_exactly_what_fits(limit: int, asked: list[int]) -> None:
    """L-3, L-4; E+6: in order, each where the sum of the admitted stays within the limit."""
    world = World(quota("jobs", limit))
    total = 0
    for count in asked:
        fits = total + count <= limit
        assert world.does(jobs=count) is fits
        total += count if fits else 0
