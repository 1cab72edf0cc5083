"""What is written into columns is read back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.ledger.encoding import (
    KINDS,
    account_of,
    account_row,
    alert_json,
    budget_json,
    budget_of,
    evidence_json,
    legs_json,
    start_of,
    storable,
    stored_holds,
    stored_start,
    terms_json,
    terms_of,
)
from tenantguard.errors import LayerError
from tenantguard.model.ledger import (
    PLAIN,
    UNITS_MAX,
    Alert,
    CarryOver,
    Counted,
    EntryKind,
    HoldState,
    OnOrphan,
    Terms,
    Threshold,
)
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Account, Grant, Hold, read_alert

texts = st.text(max_size=8)
amounts = st.integers(0, UNITS_MAX)
budgets = st.lists(texts, max_size=3).map(tuple)
periods = st.sampled_from([Period.DAY, Period.LIFETIME, Period.parse("rolling 30 days"), Period.parse("15 minutes")])
starts = st.integers(-(2**60), 2**60)
thresholds = st.builds(Threshold, st.integers(1, 1000), st.sampled_from(Counted))
terms = st.builds(
    Terms,
    st.booleans(),
    st.sampled_from(CarryOver),
    amounts,
    st.lists(thresholds, unique=True, max_size=3).map(tuple),
)


@given(
    budgets,
    periods,
    starts,
    st.none() | texts.filter(storable),
    st.none() | amounts,
    amounts,
    st.integers(-UNITS_MAX, UNITS_MAX),
    st.lists(st.builds(Grant, amounts, st.none() | amounts), max_size=3).map(tuple),
    terms,
    st.sets(thresholds.map(lambda threshold: threshold.name), max_size=3).map(frozenset),
)
def test_an_account_is_read_as_it_was_written(
    budget: tuple[str, ...],
    period: Period,
    start: int,
    tenant: str | None,
    limit: int | None,
    amount: int,
    carried: int,
    grants: tuple[Grant, ...],
    terms: Terms,
    alerted: frozenset[str],
) -> None:
    key = (budget, period, "USD", None if period == Period.LIFETIME else start)
    before = Account(key, tenant, limit, 7, amount, 1, 5)
    account = Account(key, tenant, limit, 7, amount, 1, 9, carried, grants, terms, alerted, before)
    row = account_row(account)
    assert row[-1] == 5
    account.previous = None
    assert account_of(9, row) == account


@given(budgets)
def test_a_budget_is_always_the_same_ascii_text(budget: tuple[str, ...]) -> None:
    assert budget_json(budget).isascii()
    assert budget_of(budget_json(budget)) == budget


def test_plain_terms_are_nothing_and_equal_terms_one_object() -> None:
    assert terms_json(PLAIN) is None
    assert terms_json(Terms()) is None
    assert terms_of(None) is PLAIN
    text = terms_json(Terms(strict=False))
    assert terms_of(text) is terms_of(text) == Terms(strict=False)


def test_the_window_of_a_lifetime_has_no_start() -> None:
    assert start_of("lifetime", stored_start(None)) is None
    assert start_of("day", stored_start(0)) == 0


def test_the_numbers_of_kinds_are_those_of_every_file_ever_written() -> None:
    assert KINDS == (EntryKind.CHARGE, EntryKind.REFUND, EntryKind.CORRECTION, EntryKind.GRANT)


@given(budgets, periods, st.none() | texts, thresholds, st.lists(amounts, min_size=3, max_size=3))
def test_an_alert_is_read_as_it_was_written(
    budget: tuple[str, ...], period: Period, tenant: str | None, threshold: Threshold, numbers: list[int]
) -> None:
    alert = Alert(budget, period, "USD", None, tenant, threshold, *numbers, 1)
    assert read_alert(json.loads(alert_json(alert))) == alert


@pytest.mark.parametrize("charged", [(), (3, 0)])
def test_a_hold_is_read_as_it_was_written(charged: tuple[int, ...]) -> None:
    accounts = {
        number: Account((("b",), Period.LIFETIME, f"u{number}", None), "acme", 1, None, number=number)
        for number in (4, 9)
    }
    state = HoldState.EXPIRED if charged else HoldState.PENDING
    hold = Hold(b"h", "acme", ((accounts[9], 5), (accounts[4], UNITS_MAX)), OnOrphan.REVIEW, 3, state, charged)
    (stored,) = stored_holds([(b"h", "acme", str(state), "review", 3, legs_json(hold), 0)]).values()
    assert stored.hold(accounts, {}) == hold
    assert stored.hold(accounts, {1: 2}).refunded == (0, 2)


def test_a_hold_that_entries_alone_tell_of_is_put_together_from_them() -> None:
    accounts = {1: Account((("b",), Period.LIFETIME, "USD", None), "acme", 1, None, number=1)}
    rows = [(b"h", "acme", "settled", "void", 3, f"[[1,5,{leg}]]", leg) for leg in (1, 0)]
    (stored,) = stored_holds(rows).values()
    assert stored.hold(accounts, {}).charged == (0, 1)


def test_evidence_that_is_no_json_is_its_authors_error() -> None:
    assert evidence_json({}) == "{}"
    assert evidence_json({"a": Period.DAY}) == '{"a":"day"}'
    cycle: dict[str, object] = {}
    cycle["again"] = cycle
    for wrong in (cycle, {("a",): 1}):
        with pytest.raises(LayerError, match="evidence must be JSON"):
            evidence_json(wrong)  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=()), max_size=5))
def test_what_is_storable_is_utf8_and_stays_when_it_was(text: str) -> None:
    stored = storable(text)
    assert stored.encode().decode() == stored
    assert storable(stored) == stored
