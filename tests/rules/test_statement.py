"""A statement adds up, whatever was booked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import Balance, Entry, EntryKind
from tenantguard.model.period import Period
from tenantguard.rules import statement as module
from tenantguard.rules.statement import BY, Part, Statement, model_of, tokens
from tenantguard.rules.windows import window

DAY_NS = 86_400 * 10**9
NOW = 1_795_000_000 * 10**9
MONTH = window(Period.MONTH, NOW)
PERIODS = (Period.DAY, Period.MONTH, Period.parse("rolling 24 hours"), Period.LIFETIME)


def entry(
    amount: int,
    at_ns: int,
    *,
    kind: EntryKind = EntryKind.CHARGE,
    period: Period = Period.MONTH,
    window_of_ns: int | None = None,
    evidence: dict[str, Any] | None = None,
    seq: int = 1,
) -> Entry:
    starts_ns = window(period, at_ns if window_of_ns is None else window_of_ns)[0]
    budget = ("tenant", "acme", str(period))
    return Entry(
        seq, b"op", 0, kind, "acme", budget, str(period), "USD", starts_ns, amount, 0, at_ns, "r", evidence or {}
    )


def balances_of(entries: list[Entry]) -> list[Balance]:
    """The accounts that these entries make."""
    spent: dict[tuple[str, int | None], int] = {}
    for one in entries:
        key = (one.period, one.window_starts_ns)
        spent[key] = spent.get(key, 0) + (0 if one.kind is EntryKind.GRANT else one.amount)
    return [
        Balance(
            ("tenant", "acme", period), period, "USD", "acme", 10**12, total, 0, 0, 0, starts_ns,
            None if starts_ns is None else window(Period.parse(period), starts_ns)[1],
        )
        for (period, starts_ns), total in spent.items()
    ]  # fmt: skip


@st.composite
def bookings(draw: st.DrawFn) -> Entry:
    placed_ns = NOW + draw(st.integers(-40, 40)) * DAY_NS + draw(st.integers(0, DAY_NS))
    late_ns = draw(st.sampled_from([0, 1, DAY_NS, 35 * DAY_NS]))
    kind = draw(st.sampled_from(EntryKind))
    amount = draw(st.integers(0, 10**9))
    evidence = {"model": draw(st.sampled_from(["a", "b"])), "route": "r", "usage": {"input": 3, "output": 2}}
    return entry(
        -amount if kind is EntryKind.REFUND else amount,
        placed_ns + late_ns,
        kind=kind,
        period=draw(st.sampled_from(PERIODS)),
        window_of_ns=placed_ns,
        evidence=evidence,
    )


def made(entries: list[Entry], stretch: tuple[int, int], by: tuple[str, ...] = BY) -> Statement:
    statement = Statement(*stretch, by=by)
    balances = balances_of(entries)
    statement.look(balances)
    since_ns = statement.reads_from_ns
    for one in entries:
        if since_ns is None or one.at_ns >= since_ns:
            statement.add(one)
    statement.look(balances)
    return statement


@given(st.lists(bookings(), max_size=40), st.integers(-40, 40), st.integers(1, 40))
def test_before_in_and_after_are_what_the_account_says(entries: list[Entry], first: int, days: int) -> None:
    start = NOW + first * DAY_NS
    statement = made(entries, (start, start + days * DAY_NS))
    assert statement.problems() == []
    for section in statement.sections.values():
        assert not section.is_shared
        assert section.booked.spent == sum(part.booked.spent for part in section.parts.values())
        assert section.booked.entries == sum(sums.entries for sums in section.groups.values())


@given(st.lists(bookings(), max_size=40), st.lists(st.integers(-60, 60), min_size=1, max_size=4, unique=True))
def test_statements_that_follow_one_another_have_every_entry_once(entries: list[Entry], cuts: list[int]) -> None:
    edges = [0, *(NOW + cut * DAY_NS for cut in sorted(cuts)), 2**63 - 1]
    counted = [
        sum(section.booked.entries for section in made(entries, stretch).sections.values())
        for stretch in pairwise(edges)
    ]
    assert sum(counted) == len(entries)


@given(st.lists(bookings(), min_size=1, max_size=20), st.data())
def test_an_entry_that_is_missing_is_told(entries: list[Entry], data: st.DataObject) -> None:
    missing = data.draw(st.integers(0, len(entries) - 1))
    statement = Statement(0, 2**63 - 1)
    statement.look(balances_of(entries))
    for number, one in enumerate(entries):
        if number != missing:
            statement.add(one)
    lost = entries[missing]
    assert bool(statement.problems()) == bool(lost.kind is not EntryKind.GRANT and lost.amount)


def test_an_account_that_is_not_the_tenants_is_shown_as_its_part() -> None:
    assert MONTH[0] is not None
    statement = Statement(MONTH[0], MONTH[1] or 0)
    statement.add(entry(5, NOW))
    (section,) = statement.sections.values()
    assert section.is_shared
    assert section.booked.spent == 5
    (part,) = section.parts.values()
    assert (part.left, part.difference) == (None, 0)
    assert statement.problems() == []


def test_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS_MAX", 3)
    statement = Statement(0, 2**63 - 1, by=("model",))
    for number in range(3):
        statement.add(entry(1, NOW, evidence={"model": f"m{number}"}))
    with pytest.raises(ConfigurationError, match="groups"):
        statement.add(entry(1, NOW, evidence={"model": "m3"}))


@pytest.mark.parametrize("stretch", [(5, 5), (6, 5)])
def test_a_stretch_that_ends_before_it_begins_is_refused(stretch: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="ends after"):
        Statement(*stretch)
    with pytest.raises(ConfigurationError, match="day, model, route"):
        Statement(1, 2, by=("hour",))


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({}, (0, 0)),
        ({"usage": None}, (0, 0)),
        ({"usage": {"input": 1, "cache_read": 2, "cache_write": 3, "cache_write_1h": 4, "audio_input": 5}}, (15, 0)),
        ({"usage": {"output": 1, "audio_output": 2, "image_output": 4, "reasoning": 100}}, (0, 7)),
        ({"usage": {"input": True, "output": -1, "cache_read": 1.5, "cache_write": "9"}}, (0, 0)),
    ],
)
def test_tokens_are_those_of_all_kinds_and_nothing_else(evidence: dict[str, Any], expected: tuple[int, int]) -> None:
    assert tokens(evidence) == expected


def test_the_model_that_served_goes_before_the_one_that_was_asked_for() -> None:
    assert model_of({"served_model": "a", "model": "b"}) == "a"
    assert model_of({"served_model": "(withheld)", "model": "b"}) == "b"
    assert model_of({"served_model": None, "model": ""}) is None


def test_an_entry_before_its_window_counts_in_its_first_moment() -> None:
    """A clock that was set back between a hold and its charge."""
    start, end = MONTH
    assert start is not None
    assert end is not None
    statement = Statement(start, end)
    statement.add(entry(5, start - 1, window_of_ns=start))
    (section,) = statement.sections.values()
    assert section.booked.spent == 5


def test_a_window_that_ends_where_the_stretch_begins_has_no_part_in_it() -> None:
    start, end = MONTH
    assert start is not None
    assert end is not None
    for stretch in ((end, end + 1), (start - 1, start)):
        statement = Statement(*stretch)
        statement.look(balances_of([entry(5, NOW)]))
        assert statement.sections == {}


def test_what_is_left_counts_grants_and_what_was_carried_over() -> None:
    balance = Balance(("b",), "month", "USD", "acme", 100, 30, 7, 20, -4, 0, 1)
    assert Part(0, 1, balance).left == 100 + 20 - 4 - 30 - 7
    assert Part(0, 1).left is None
