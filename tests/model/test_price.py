"""Prices: exact rates, immutable books."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import Amount
from tenantguard.model.price import PriceBook, TokenPrice, UnknownModel, parse_rate

PRICE = TokenPrice(1, 2, 3, 4, "USD")
OTHER = TokenPrice(5, 6, 7, 8, "USD")


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0.25 USD/1M", 250_000_000),
        ("2.00 USD/1M", 2_000_000_000),
        ("0 USD/1M", 0),
        ("15 USD/1K", 15_000_000_000_000),
        ("0.00015 USD / 1K", 150_000_000),
        ("0.000000001 USD/1M", 1),
        ("0.000000000001 USD/1K", 1),
        ("0.0250000000000000 USD/1M", 25_000_000),
    ],
)
def test_a_rate_is_read_exactly(text: str, nanos: int) -> None:
    assert parse_rate(text) == Amount(nanos, "USD")


@given(st.integers(0, 10**9), st.integers(0, 10**9 - 1), st.sampled_from(["M", "K"]))
def test_a_rate_is_what_exact_decimals_say(whole: int, fraction: int, per: str) -> None:
    text = f"{whole}.{fraction:09d}"
    exact = Decimal(text).scaleb(9) * (1000 if per == "K" else 1)
    if exact > 2**63 - 1:
        with pytest.raises(ConfigurationError):
            parse_rate(f"{text} USD/1{per}")
    else:
        assert parse_rate(f"{text} USD/1{per}").nanos == exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.25",
        "0.25 USD",
        "0.25 USD/1B",
        "0.25 USD/2M",
        "-1 USD/1M",
        "1e3 USD/1M",
        "nan USD/1M",
        ".5 USD/1M",
        "0,25 USD/1M",
        "0.25 usd/1M",
        "0.25 QQQ/1M",
        "0.0000000001 USD/1M",
        "0.0000000000001 USD/1K",
        "9999999999999 USD/1M",
        "٣ USD/1M",
    ],
)
def test_a_rate_that_is_not_exact_or_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_rate(text)


def test_all_four_rates_are_mandatory() -> None:
    """E-43: nothing is derived; E-44: a zero rate is written as zero."""
    with pytest.raises(TypeError):
        TokenPrice.parse(input="1 USD/1M", output="1 USD/1M", cache_read="0 USD/1M")  # type: ignore[call-arg]
    price = TokenPrice.parse(
        input="0.25 USD/1M",
        output="2.00 USD/1M",
        cache_read="0.025 USD/1M",
        cache_write="0 USD/1M",
    )
    assert price == TokenPrice(250_000_000, 2_000_000_000, 25_000_000, 0, "USD")


def test_one_price_has_one_currency() -> None:
    with pytest.raises(ConfigurationError, match="currency"):
        TokenPrice.parse(input="1 USD/1M", output="1 EUR/1M", cache_read="0 USD/1M", cache_write="0 USD/1M")


@pytest.mark.parametrize("rate", [-1, True, 0.5, float("nan"), 2**63])
def test_an_impossible_rate_is_refused(rate: object) -> None:
    with pytest.raises(ConfigurationError):
        TokenPrice(1, 2, rate, 4, "USD")  # type: ignore[arg-type]


def test_a_model_is_found_by_its_exact_name() -> None:
    book = PriceBook({"gpt-5-mini": PRICE})
    assert book.find("gpt-5-mini") == PRICE
    assert book.find("gpt-5-mini-2026-01-01") is None
    assert book.find("GPT-5-mini") is None


def test_the_version_follows_from_the_content() -> None:
    book = PriceBook({"a": PRICE, "b": OTHER})
    assert book.version == PriceBook({"b": OTHER, "a": PRICE}).version
    assert len({book.version, PriceBook({"a": PRICE}).version, book.with_model("a", OTHER).version}) == 3
    assert PriceBook({"a": PRICE}, UnknownModel.WARN).version != PriceBook({"a": PRICE}).version
    assert PriceBook({"a": PRICE}, version="2026-01").version == "2026-01"
    assert PriceBook({}, version="2026-01").with_model("a", PRICE).version == PriceBook({"a": PRICE}).version


def test_one_changed_model_leaves_the_others_and_the_old_book() -> None:
    """E-54, E-55"""
    book = PriceBook({"a": PRICE, "b": PRICE}, UnknownModel.DEFAULT, OTHER)
    changed = book.with_model("a", OTHER).with_model("c", PRICE)
    assert dict(changed.models) == {"a": OTHER, "b": PRICE, "c": PRICE}
    assert (changed.unknown, changed.default) == (UnknownModel.DEFAULT, OTHER)
    assert dict(book.models) == {"a": PRICE, "b": PRICE}


def test_a_book_is_isolated_from_the_mapping_that_it_was_made_from() -> None:
    """E-55"""
    models = {"a": PRICE}
    book = PriceBook(models)
    models["a"] = OTHER
    assert book.find("a") == PRICE
    with pytest.raises(TypeError):
        book.models["a"] = OTHER  # type: ignore[index]


def test_a_default_price_and_its_policy_go_together() -> None:
    with pytest.raises(ConfigurationError):
        PriceBook({}, UnknownModel.DEFAULT)
    with pytest.raises(ConfigurationError):
        PriceBook({}, UnknownModel.REFUSE, PRICE)
    with pytest.raises(ConfigurationError):
        PriceBook({"": PRICE})
