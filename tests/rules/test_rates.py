"""Exchange rates: exact, versioned, and rounded against the tenant by less than a billionth."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.rules.rates import Conversion, RateTable, parse_exchange_rate

TABLE = RateTable.parse("2026-11-20", "USD", {"EUR": "1.0876 USD", "GBP": "1.3 USD"})


def converted(nanos: int, source: str, target: str) -> int:
    conversion = TABLE.conversion(source, target)
    assert conversion is not None
    return conversion.nanos(nanos)


def test_into_the_base_a_unit_is_what_the_table_says() -> None:
    assert converted(10**9, "EUR", "USD") == 1_087_600_000


def test_out_of_the_base_the_rate_is_the_exact_inverse_rounded_up() -> None:
    assert converted(1_087_600_000, "USD", "EUR") == 10**9
    assert converted(1_087_600_001, "USD", "EUR") == 10**9 + 1


def test_two_other_currencies_meet_in_the_base_without_rounding_there() -> None:
    conversion = TABLE.conversion("EUR", "GBP")
    assert conversion == Conversion("EUR", "GBP", Fraction("1.0876") / Fraction("1.3"), "2026-11-20")
    assert conversion.evidence() == {"from": "EUR", "to": "GBP", "rate": "2719/3250", "version": "2026-11-20"}


def test_one_currency_needs_no_conversion() -> None:
    assert TABLE.conversion("EUR", "EUR") is None
    assert RateTable("1", "USD", {}).conversion("CHF", "CHF") is None


RATES = st.builds(Fraction, st.integers(1, 10**9), st.integers(1, 10**9))


@given(st.integers(0, 2**63), RATES)
def test_converting_loses_the_tenant_less_than_a_billionth(nanos: int, rate: Fraction) -> None:
    got = Conversion("EUR", "USD", rate, "1").nanos(nanos)
    assert type(got) is int
    assert 0 <= got - nanos * rate < 1


@given(st.integers(0, 2**63), RATES)
def test_there_and_back_never_gains(nanos: int, rate: Fraction) -> None:
    there = Conversion("EUR", "USD", rate, "1").nanos(nanos)
    assert Conversion("USD", "EUR", 1 / rate, "1").nanos(there) >= nanos


def test_a_currency_without_a_rate_is_the_operators_mistake() -> None:
    with pytest.raises(ConfigurationError, match="no rate for CHF"):
        TABLE.conversion("CHF", "USD")
    with pytest.raises(ConfigurationError, match="no rate for CHF"):
        TABLE.conversion("USD", "CHF")


@pytest.mark.parametrize(
    "text",
    ["", "1.0876", "USD", "1,08 USD", "-1 USD", "0 USD", "0.000 USD", "1e3 USD", "1.0876 EUR", "nan USD", "1 usd"],
)
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="exchange rate"):
        parse_exchange_rate(text, "USD")


def test_a_rate_is_read_exactly() -> None:
    assert parse_exchange_rate(" 0.000000000001 USD ", "USD") == Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("version", "base", "rates"),
    [
        ("", "USD", {}),
        ("1 2", "USD", {}),
        ("1", "QQQ", {}),
        ("1", "USD", {"QQQ": Fraction(1)}),
        ("1", "USD", {"USD": Fraction(1)}),
        ("1", "USD", {"EUR": Fraction(0)}),
        ("1", "USD", {"EUR": Fraction(-1)}),
        ("1", "USD", {"EUR": 1.1}),
    ],
)
def test_an_impossible_table_is_refused(version: str, base: str, rates: dict[str, Fraction]) -> None:
    with pytest.raises(ConfigurationError):
        RateTable(version, base, rates)


def test_a_table_does_not_change_with_the_mapping_that_it_was_made_from() -> None:
    rates = {"EUR": Fraction(2)}
    table = RateTable("1", "USD", rates)
    rates["EUR"] = Fraction(3)
    assert table.conversion("EUR", "USD") == Conversion("EUR", "USD", Fraction(2), "1")
