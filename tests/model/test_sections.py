"""What budgets, quotas and what goes with them accept."""

from __future__ import annotations

from typing import Any

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.sections import (
    NO_CARRY,
    BudgetRule,
    BudgetSection,
    Carry,
    CarryOver,
    Counted,
    Mode,
    QuotaRule,
    QuotaSection,
    Scope,
    Threshold,
)

TEN = Amount.parse("10.00 USD")
UNUSED = Carry(CarryOver.UNUSED, Amount.parse("5.00 USD"))
DEBT = Carry(CarryOver.DEBT)


def test_a_budget_is_strict_carries_nothing_and_alerts_nobody_unless_it_says_so() -> None:
    rule = BudgetRule(TEN, Period.MONTH)
    assert rule == BudgetRule(TEN, Period.MONTH, Scope.TENANT, Mode.STRICT, NO_CARRY, ())
    assert len({rule, BudgetRule(TEN, Period.parse("1 month"))}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"per": Period.MONTH, "carry": UNUSED},
        {"per": Period.parse("quarter from 04-01 in Asia/Tokyo"), "carry": DEBT},
        {"per": Period.DAY, "thresholds": (Threshold(50), Threshold(50, Counted.COMMITTED), Threshold(100))},
        {"per": Period.DAY, "mode": Mode.SOFT, "thresholds": (Threshold(100), Threshold(150))},
        {"per": Period.LIFETIME},
        {"per": Period.parse("rolling 24 hours"), "thresholds": (Threshold(80),)},
    ],
)
def test_budgets_that_can_work(fields: dict[str, Any]) -> None:
    assert BudgetRule(TEN, **fields).limit is TEN


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"limit": Amount(-1, "USD")}, "must not be negative"),
        ({"per": "month"}, "must be a period"),
        ({"per": Period.LIFETIME, "carry": DEBT}, "leave 'carry' out"),
        ({"per": Period.parse("rolling 24 hours"), "carry": UNUSED}, "leave 'carry' out"),
        ({"carry": Carry(CarryOver.UNUSED, Amount.parse("5.00 EUR"))}, "an amount in USD"),
        ({"carry": Carry(CarryOver.UNUSED, 5)}, "an amount in USD"),
        ({"carry": Carry(CarryOver.UNUSED, Amount(0, "USD"))}, "above 0"),
        ({"thresholds": (Threshold(80), Threshold(80))}, "stands twice"),
        ({"thresholds": (Threshold(120),)}, "never passed"),
    ],
)
def test_budgets_that_cannot_work_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        BudgetRule(**{"limit": TEN, "per": Period.MONTH, **fields})


def test_the_budgets_of_a_section_are_in_one_currency() -> None:
    euros = BudgetRule(Amount.parse("10 EUR"), Period.DAY)
    with pytest.raises(ConfigurationError, match="one currency"):
        BudgetSection((BudgetRule(TEN, Period.DAY), euros))


def test_what_is_left_is_carried_up_to_a_cap_and_nothing_else_has_one() -> None:
    with pytest.raises(ConfigurationError, match="needs a cap"):
        Carry(CarryOver.UNUSED)
    for over in (CarryOver.NONE, CarryOver.DEBT):
        with pytest.raises(ConfigurationError, match="leave it out"):
            Carry(over, 5)


@pytest.mark.parametrize("percent", [0, -5, 1001, 50.0, True, "50"])
def test_a_threshold_is_a_whole_percentage(percent: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole percentage"):
        Threshold(percent)


def test_units_are_used_up_or_come_back() -> None:
    """L-6: each named unit is a quota of its own. Quotas of running and of all executions are both expressible."""
    section = QuotaSection(
        (
            QuotaRule("events", 10_000, Period.DAY),
            QuotaRule("events", 1_000_000, Period.MONTH, carry=Carry(CarryOver.UNUSED, 50_000)),
            QuotaRule("jobs", 100, Period.DAY, Scope.IDENTITY),
            QuotaRule("pipeline_runs", 50, Period.parse("week in Europe/Berlin")),
            QuotaRule("executions", 100_000, Period.LIFETIME),
            QuotaRule("executions.running", 5, Period.LIFETIME, returned=True),
            QuotaRule("sessions", 10, Period.LIFETIME, returned=True, thresholds=(Threshold(90, Counted.COMMITTED),)),
        )
    )
    assert [rule.unit for rule in section.rules if rule.returned] == ["executions.running", "sessions"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"unit": ""}, "a name in lower case"),
        ({"unit": "USD"}, "a name in lower case"),
        ({"unit": "jobs a day"}, "a name in lower case"),
        ({"unit": "j" * 65}, "a name in lower case"),
        ({"limit": -1}, "a whole number"),
        ({"limit": 1.5}, "a whole number"),
        ({"limit": True}, "a whole number"),
        ({"limit": 2**63}, "a whole number"),
        ({"per": "day"}, "must be a period"),
        ({"carry": UNUSED}, "whole jobs"),
        ({"carry": Carry(CarryOver.UNUSED, 0)}, "whole jobs"),
        ({"per": Period.LIFETIME, "carry": DEBT}, "leave 'carry' out"),
        ({"returned": True}, "leave 'per' out"),
        ({"returned": True, "per": Period.LIFETIME, "thresholds": (Threshold(90),)}, "alert on 'committed'"),
        ({"thresholds": (Threshold(101),)}, "never passed"),
    ],
)
def test_quotas_that_cannot_work_are_refused(fields: dict[str, Any], told: str) -> None:
    """A+7: what does not exist is an error when it is configured, not a warning when it is used."""
    with pytest.raises(ConfigurationError, match=told):
        QuotaRule(**{"unit": "jobs", "limit": 10, "per": Period.DAY, **fields})


def test_the_quotas_of_a_section_do_not_contradict_one_another() -> None:
    with pytest.raises(ConfigurationError, match="one limit for each period and scope"):
        QuotaSection((QuotaRule("jobs", 10, Period.DAY), QuotaRule("jobs", 20, Period.parse("24 hours"))))
    with pytest.raises(ConfigurationError, match="either used up or returned"):
        QuotaSection((QuotaRule("jobs", 10, Period.DAY), QuotaRule("jobs", 2, Period.LIFETIME, returned=True)))


def test_two_budgets_of_one_period_and_scope_would_share_an_account_and_are_refused() -> None:
    rule = BudgetRule(Amount.parse("10 USD"), Period.MONTH)
    with pytest.raises(ConfigurationError, match="one limit for each period and scope"):
        BudgetSection((rule, BudgetRule(Amount.parse("20 USD"), Period.MONTH)))
