"""A report beside the entries: what is equal has no drift, and what is not has all of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import Entry, EntryKind
from tenantguard.rules import reconcile as module
from tenantguard.rules.reconcile import DAY_NS, Drift, InvoiceLine, Reconciliation, Side

DAY = 20_000
MEASURES = ("input_tokens", "output_tokens", "cost")


def entry(
    nanos: int,
    *,
    day: int = DAY,
    model: str = "m",
    leg: int = 0,
    unit: str = "USD",
    kind: EntryKind = EntryKind.CHARGE,
    absorbed: int = 0,
    source: str | None = "openai:acme",
    **evidence: Any,
) -> Entry:
    told = {"model": model, "usage": {"input": 2, "output": 1}, **evidence}
    return Entry(
        1, b"op", leg, kind, "acme", ("b",), "month", unit, 0, nanos, absorbed, day * DAY_NS + 5, "r", told, source
    )


def total(found: Reconciliation) -> Drift:
    return found.rows()[-1]


days, models, nanos = st.integers(DAY, DAY + 3), st.sampled_from(["a", "b", "c"]), st.integers(0, 10**12)


@given(st.lists(st.tuples(days, models, nanos), min_size=1, max_size=30))
def test_a_report_of_the_ledgers_own_entries_has_no_drift(said: list[tuple[int, str, int]]) -> None:
    found = Reconciliation("openai")
    for day, model, amount in said:
        found.invoiced(InvoiceLine(day, model, 2, 1, Fraction(amount, 10**9), "USD"))
    for day, model, amount in said:
        found.entered(entry(amount, day=day, model=model))
    assert not any(row.is_beyond(Fraction(0), MEASURES) for row in found.rows())
    assert total(found).ledger.cost == Fraction(sum(amount for *_, amount in said), 10**9)


@given(st.lists(st.tuples(days, models, nanos, st.booleans()), min_size=1, max_size=30))
def test_the_drifts_of_days_add_up_to_those_of_models_and_of_all(said: list[tuple[int, str, int, bool]]) -> None:
    found = Reconciliation()
    for day, model, amount, _ in said:
        found.invoiced(InvoiceLine(day, model, None, None, Fraction(amount, 10**9), "USD"))
    for day, model, amount, there in said:
        if there:
            found.entered(entry(amount, day=day, model=model))
    rows = found.rows()
    lost = sum(amount for *_, amount, there in said if not there)
    for part in ([row for row in rows if row.day is not None], [row for row in rows if row.day is None][:-1]):
        assert sum(row.of("cost") for row in part) == rows[-1].of("cost") == Fraction(-lost, 10**9)


@pytest.mark.parametrize(
    "other",
    [
        {"leg": 1},
        {"unit": "jobs"},
        {"kind": EntryKind.REFUND},
        {"kind": EntryKind.CORRECTION},
        {"kind": EntryKind.GRANT},
        {"day": DAY - 1},
        {"day": DAY + 1},
        {"source": "anthropic:acme"},
        {"provider": "azure"},
        {"model": ""},
    ],
)
def test_what_the_provider_was_not_owed_does_not_count(other: dict[str, Any]) -> None:
    found = Reconciliation("openai")
    found.invoiced(InvoiceLine(DAY, "m", None, None, Fraction(1), "USD"))
    found.entered(entry(10**9))
    found.entered(entry(10**9, **other))
    assert total(found).of("cost") == 0


@pytest.mark.parametrize("other", [{"source": None}, {"provider": "openai", "source": "x:acme"}])
def test_an_entry_counts_where_nothing_says_that_it_is_anothers(other: dict[str, Any]) -> None:
    found = Reconciliation("openai")
    found.invoiced(InvoiceLine(DAY, "m", None, None, Fraction(1), "USD"))
    found.entered(entry(10**9, **other))
    assert total(found).of("cost") == 0


@pytest.mark.parametrize(
    ("invoiced", "served", "asked", "expected"),
    [
        (["gpt-5-2025-08-07"], "gpt-5-2025-08-07", "gpt-5", "gpt-5-2025-08-07"),
        (["gpt-5"], "gpt-5-2025-08-07", "gpt-5", "gpt-5"),
        (["Claude Haiku 4.5"], "claude-haiku-4-5-20251001", "claude-haiku-4-5", "Claude Haiku 4.5"),
        (["gpt-5-2025-08-07", "gpt-5-2025-10-01"], "gpt-5", "gpt-5", "gpt-5"),
        (["gpt-5"], "gpt-5-mini", "gpt-5-mini", "gpt-5-mini"),
        ([""], "gpt-5", "gpt-5", ""),
    ],
)
def test_names_are_matched_as_far_as_they_are_unambiguous(
    invoiced: list[str], served: str, asked: str, expected: str
) -> None:
    found = Reconciliation()
    for name in invoiced:
        found.invoiced(InvoiceLine(DAY, name, 0, None))
    found.entered(entry(10**9, model=asked, served_model=served))
    assert [row.model for row in found.rows() if row.day is not None and row.ledger.input_tokens] == [expected]


def test_only_what_the_report_tells_is_compared() -> None:
    found = Reconciliation()
    found.invoiced(InvoiceLine(DAY, "m", 2, 1))
    found.entered(entry(10**9, unit="EUR"))
    assert found.measures == ("input_tokens", "output_tokens")
    assert not total(found).is_beyond(Fraction(0), found.measures)
    assert total(found).is_beyond(Fraction(0), MEASURES)


def test_a_share_is_of_what_the_report_says_and_none_where_it_says_nothing() -> None:
    assert Drift(DAY, "m", Side(100), Side(99)).share("input_tokens") == Fraction(-1, 100)
    assert Drift(DAY, "m", Side(0), Side(1)).share("input_tokens") is None
    assert Drift(DAY, "m", Side(0), Side(0)).share("input_tokens") == 0
    on_the_edge = Drift(DAY, "m", Side(100), Side(99))
    assert not on_the_edge.is_beyond(Fraction(1, 100), ("input_tokens",))
    assert on_the_edge.is_beyond(Fraction(1, 101), ("input_tokens",))


def test_rows_are_bounded_and_currencies_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    found = Reconciliation()
    found.invoiced(InvoiceLine(DAY, "a", 1))
    found.invoiced(InvoiceLine(DAY, "b", 1))
    with pytest.raises(ConfigurationError, match="shorter time"):
        found.invoiced(InvoiceLine(DAY, "c", 1))
    other = Reconciliation()
    other.invoiced(InvoiceLine(DAY, "a", cost=Fraction(1), currency="USD"))
    with pytest.raises(ConfigurationError, match="one currency"):
        other.invoiced(InvoiceLine(DAY, "a", cost=Fraction(1), currency="EUR"))
