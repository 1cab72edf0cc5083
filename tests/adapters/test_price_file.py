"""Price files: strict, pinned, exact."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.pricing.file import (
    FORMAT,
    PriceFileError,
    decimal_text,
    parse_price_list,
    parse_time,
    read_price_list,
    render_price_list,
    show_decimal,
    show_time,
)
from tenantguard.errors import ConfigurationError
from tenantguard.model.price import PriceRow, TokenPrice
from tenantguard.model.token_price import Tier

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"model": "m", "currency": "USD", "input": "0.25", "output": "2", "cache_read": "0.025", "cache_write": "0"}
RATES = st.integers(0, 2**53)


def document(*rows: Any, **head: Any) -> str:
    return json.dumps({"format": FORMAT, "source": "us", "source_version": "1", "prices": list(rows), **head})


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(PriceFileError) as wrong:
        parse_price_list(text, "p.json")
    assert str(wrong.value).startswith("p.json has ")
    assert all(f"p.json: {problem}" in str(wrong.value) for problem in wrong.value.problems)
    return wrong.value.problems


def test_a_row_is_read_exactly() -> None:
    full = {
        **SMALL,
        "provider": "p",
        "aliases": ["m-2", "m-1"],
        "patterns": ["m-*"],
        "from": "2026-10-12",
        "audio_input": "1.000000001",
        "request": "0.5",
        "tiers": [{"above": 200000, "input": "0.5", "output": "4", "cache_read": "0", "cache_write": "0"}],
        "services": {
            "batch": {"multiplier": "0.5"},
            "priority": {"input": "1", "output": "1", "cache_read": "1", "cache_write": "1"},
        },
        "unpriced": ["web_searches"],
    }
    (row,) = parse_price_list(document(full)).rows
    assert row == PriceRow(
        "m",
        TokenPrice(
            250_000_000,
            2 * 10**9,
            25_000_000,
            0,
            "USD",
            audio_input=1_000_000_001,
            request=5 * 10**8,
            tiers=(Tier(5 * 10**8, 4 * 10**9, 0, 0, above=200_000),),
            services=(("batch", Fraction(1, 2)), ("priority", TokenPrice(10**9, 10**9, 10**9, 10**9, "USD"))),
        ),
        "p",
        1_791_763_200 * 10**9,
        ("m-1", "m-2"),
        ("m-*",),
        ("web_searches",),
    )


def test_the_version_is_derived_from_what_the_prices_say_not_from_how() -> None:
    read = parse_price_list(document(SMALL))
    other = {**SMALL, "model": "n"}
    assert read.version.startswith("us-1-")
    assert parse_price_list(document({**SMALL, "input": "0.250"})).version == read.version
    assert parse_price_list(document(SMALL, other)).version == parse_price_list(document(other, SMALL)).version
    assert parse_price_list(document({**SMALL, "input": "0.26"})).version != read.version
    assert parse_price_list(document(SMALL, version=read.version)) == read


def test_a_file_that_was_edited_under_its_version_is_refused() -> None:
    """A version that entries have recorded never comes to mean other prices."""
    version = parse_price_list(document(SMALL)).version
    (problem,) = problems(document({**SMALL, "input": "0.26"}, version=version))
    assert problem.startswith("version: is not that of these prices")
    assert "remove the key 'version'" in problem


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems(
        document(
            {**SMALL, "inptu": "1"},
            {**SMALL, "model": "n", "input": 0.25, "from": "yesterday", "aliases": "x"},
            {
                **SMALL,
                "model": "o",
                "tiers": [{"above": "9", "input": "1"}],
                "services": {"batch": {"multiplier": "x"}},
            },
            "m",
            {"model": "q"},
            surprise=1,
        )
    )
    assert [problem.split(";")[0] for problem in found] == [
        "surprise: unknown key",
        "prices[0] (m): inptu: unknown key",
        "prices[1] (n): from: must be a day or a time in UTC",
        "prices[1] (n): aliases: must be a list",
        "prices[1] (n): input: must be a decimal with at most nine decimals",
        "prices[2] (o): tiers[0].output: is missing",
        "prices[2] (o): tiers[0].cache_read: is missing",
        "prices[2] (o): tiers[0].cache_write: is missing",
        "prices[2] (o): tiers[0].above: must be a whole number of tokens",
        "prices[2] (o): services.batch.multiplier: must be a decimal with at most nine decimals",
        "prices[3]: must be an object",
        "prices[4] (q): currency: is missing",
        "prices[4] (q): currency: '?' is no ISO 4217 currency code: write for example 'USD'",
        "prices[4] (q): input: is missing",
        "prices[4] (q): output: is missing",
        "prices[4] (q): cache_read: is missing",
        "prices[4] (q): cache_write: is missing",
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"input": "-1"}, "input: must be a decimal"),
        ({"input": "1e3"}, "input: must be a decimal"),
        ({"input": "nan"}, "input: must be a decimal"),
        ({"input": "0.0000000001"}, "input: must be a decimal"),
        ({"input": "\u0661"}, "input: must be a decimal"),
        ({"input": "10000000000"}, "must be a whole number of billionths|must be a decimal"),
        ({"input": None}, "input: must be a decimal"),
        ({"input": True}, "input: must be a decimal"),
        ({"currency": "QQQ"}, "no ISO 4217"),
        ({"currency": 5}, "currency: must be text"),
        ({"model": ""}, "model: must be text"),
        ({"provider": ""}, "provider: must be text"),
        ({"patterns": ["*"]}, "the pattern '\\*'"),
        ({"aliases": [1]}, "aliases: must be a list of texts"),
        ({"from": 5}, "from: must be a day"),
        ({"from": "2026-10-12T08:00:00"}, "from: must be a day"),
        ({"tiers": [1]}, "tiers\\[0\\]: must be an object"),
        ({"tiers": {}}, "tiers: must be a list"),
        ({"tiers": [{**SMALL, "above": 1}]}, "tiers\\[0\\].model: unknown key"),
        ({"services": []}, "services: must be an object"),
        ({"services": {"batch": 1}}, "services.batch: must be an object"),
        ({"services": {"batch": {"multiplier": "1", "input": "1"}}}, "services.batch.input: unknown key"),
        ({"services": {"batch": {"services": {}}}}, "services.batch.services: unknown key"),
        ({"services": {"default": {"multiplier": "1"}}}, "no name for a service tier"),
    ],
)
def test_a_row_that_is_wrong_names_its_place_and_the_key(row: dict[str, Any], told: str) -> None:
    assert any(__import__("re").search(told, problem) for problem in problems(document({**SMALL, **row})))


def test_two_prices_for_one_name_are_refused_with_both_places() -> None:
    assert problems(document(SMALL, {**SMALL, "model": "n", "aliases": ["m"]})) == (
        "prices[1] (n): 'm' has a price from the same time on in prices[0]; keep one",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1, column 1: this is not JSON"),
        ('{\n"format": x}', "line 2, column 11"),
        ("[]", "must be an object"),
        ("{}", "format: must be 'tenantguard-prices/1'"),
        (json.dumps({"format": "tenantguard-prices/2"}), "prices update"),
        (document(), "prices: must be a list of prices, and not empty"),
        (document(SMALL, source=""), "source: must be text"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[" * 100_000, "not JSON that can be read"),
    ],
)
def test_what_is_no_price_file_says_where_and_what_to_do(text: str, told: str) -> None:
    assert any(told in problem for problem in problems(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match=r"none\.json: cannot be read: No such file"):
        read_price_list(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    with pytest.raises(PriceFileError, match=r"latin\.json: this is not UTF-8"):
        read_price_list(tmp_path / "latin.json")
    (tmp_path / "good.json").write_text(document(SMALL), encoding="utf-8-sig")
    assert len(read_price_list(tmp_path / "good.json").rows) == 1


# writing

PRICES = st.builds(
    lambda rates, tiers, services: TokenPrice(
        *rates[:4],
        "USD",
        cache_write_1h=rates[4],
        reasoning=rates[5],
        request=rates[6],
        tiers=tiers,
        services=services,
    ),
    st.tuples(RATES, RATES, RATES, RATES, st.none() | RATES, st.none() | RATES, RATES),
    st.lists(st.integers(0, 10**6), max_size=2, unique=True).map(
        lambda starts: tuple(Tier(1, 2, 3, 4, above=above) for above in sorted(starts))
    ),
    st.sampled_from([(), (("batch", Fraction(1, 2)), ("flex", TokenPrice(1, 2, 3, 4, "USD")))]),
)
ROWS = st.lists(
    st.builds(
        PriceRow,
        st.text(min_size=1, max_size=5),
        PRICES,
        st.none() | st.just("p"),
        st.integers(0, 2**37).map(lambda seconds: seconds * 10**9),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda row: (row.model, row.provider, row.from_ns),
)


@given(ROWS)
def test_what_is_written_is_read_back(rows: list[PriceRow]) -> None:
    text = render_price_list(rows, source="us", source_version="1")
    read = parse_price_list(text)
    assert set(read.rows) == set(rows)
    assert render_price_list(reversed(rows), source="us", source_version="1") == text
    assert json.loads(text)["version"] == read.version


@given(st.integers(0, 2**63 - 1))
def test_a_decimal_is_written_exactly(nanos: int) -> None:
    assert Decimal(show_decimal(nanos)).scaleb(9) == nanos


@pytest.mark.parametrize("text", ["2026-10-12", "2026-10-12T08:30:00Z", "1970-01-01", "2026-10-12T08:30:00.000001Z"])
def test_a_time_is_written_as_it_was_read(text: str) -> None:
    nanos = parse_time(text)
    assert nanos is not None
    assert show_time(nanos) == text


def test_another_offset_is_the_same_time() -> None:
    assert parse_time("2026-10-12T02:00:00+02:00") == parse_time("2026-10-12")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.18000000000000002", "0.18"),
        ("0.08333333333333334", "0.083333333"),
        ("2.5", "2.5"),
        ("0", "0"),
        ("0E+999999999", "0"),
        ("1E+3", "1000"),
        ("0.000000001", "0.000000001"),
    ],
)
def test_float_noise_is_rounded_away(value: str, text: str) -> None:
    assert decimal_text(Decimal(value)) == text


@pytest.mark.parametrize(
    "value", ["-1", "nan", "inf", "0.0000000012", "1e-10", "1e-999999999", "1e999999999", "1e10"]
)
def test_what_would_change_by_rounding_is_no_noise(value: str) -> None:
    with pytest.raises(ConfigurationError):
        decimal_text(Decimal(value))


@given(st.integers(0, 10**18))
def test_a_float_of_a_price_is_that_price_again(nanos: int) -> None:
    """What a source that computes with floats writes for a price with nine decimals."""
    written = Decimal(repr(nanos / 10**9))
    exact = Decimal(nanos).scaleb(-9)
    assert abs(Decimal(decimal_text(written)) - exact) <= abs(exact) * Decimal("1e-15") + Decimal("1e-9")
    if nanos < 10**15:
        assert decimal_text(written) == show_decimal(nanos)
