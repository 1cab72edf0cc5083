"""Prices: exact rates, immutable books."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import Amount
from tenantguard.model.price import NAME_MAX, PriceBook, PriceList, PriceRow, TokenPrice, UnknownModel, parse_rate
from tenantguard.model.token_price import Tier

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


# all kinds, tiers and service tiers


def test_other_kinds_are_read_where_they_are_said() -> None:
    four = {"input": "1 USD/1M", "output": "2 USD/1M", "cache_read": "0 USD/1M", "cache_write": "0 USD/1M"}
    price = TokenPrice.parse(**four, audio_input="3 USD/1M", reasoning="4 USD/1M")
    assert (price.audio_input, price.reasoning, price.image_output) == (3 * 10**9, 4 * 10**9, None)
    with pytest.raises(ConfigurationError, match="currency"):
        TokenPrice.parse(**four, audio_input="3 EUR/1M")
    with pytest.raises(ConfigurationError, match="no rate 'audio'"):
        TokenPrice.parse(**four, audio="3 USD/1M")


@pytest.mark.parametrize("name", ["cache_write_1h", "audio_input", "request"])
@pytest.mark.parametrize("rate", [-1, True, 0.5, 2**63])
def test_an_impossible_rate_of_another_kind_is_refused(name: str, rate: object) -> None:
    kinds: dict[str, Any] = {name: rate}
    with pytest.raises(ConfigurationError, match=name):
        TokenPrice(1, 2, 3, 4, "USD", **kinds)


def test_a_request_is_free_or_priced_but_never_unsaid() -> None:
    with pytest.raises(ConfigurationError, match="request"):
        TokenPrice(1, 2, 3, 4, "USD", request=None)  # type: ignore[arg-type]


def tier(above: int) -> Tier:
    return Tier(1, 1, 1, 1, above=above)


@pytest.mark.parametrize("above", [(2, 1), (1, 1), (-1,), (True,), (0.5,)])
def test_tiers_rise_from_whole_numbers_of_tokens(above: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="tier"):
        TokenPrice(1, 2, 3, 4, "USD", tiers=tuple(map(tier, above)))


def test_the_highest_tier_that_the_input_is_above_has_the_rates() -> None:
    price = TokenPrice(1, 2, 3, 4, "USD", tiers=(tier(10), tier(20)))
    assert [price.rates(tokens) for tokens in (0, 10, 11, 20, 21)] == [
        price,
        price,
        price.tiers[0],
        price.tiers[0],
        price.tiers[1],
    ]


@pytest.mark.parametrize(
    "services",
    [
        (("", Fraction(1)),),
        (("default", Fraction(1)),),
        (("batch", Fraction(-1)),),
        (("batch", Fraction(1)), ("batch", Fraction(2))),
        (("batch", TokenPrice(1, 2, 3, 4, "EUR")),),
        (("batch", TokenPrice(1, 2, 3, 4, "USD", services=(("flex", Fraction(1)),))),),
    ],
)
def test_an_impossible_service_tier_is_refused(services: Any) -> None:
    with pytest.raises(ConfigurationError, match="tier"):
        TokenPrice(1, 2, 3, 4, "USD", services=services)


def test_prices_are_values() -> None:
    half = TokenPrice(1, 2, 3, 4, "USD", tiers=(tier(1),), services=(("batch", Fraction(1, 2)),))
    same = TokenPrice(1, 2, 3, 4, "USD", tiers=(tier(1),), services=(("batch", Fraction(1, 2)),))
    assert len({half, same, TokenPrice(1, 2, 3, 4, "USD")}) == 2


# published prices


def row(model: str, rate: int, provider: str | None = None, from_ns: int = 0, **names: tuple[str, ...]) -> PriceRow:
    return PriceRow(model, TokenPrice(rate, rate, rate, rate, "USD"), provider, from_ns, **names)


def found(rows: list[PriceRow], model: str, *providers: str, now_ns: int = 0) -> int | None:
    chosen = PriceList(tuple(rows)).find(model, providers, now_ns)
    return None if chosen is None else chosen.price.input


def test_an_exact_name_goes_before_a_pattern_and_a_longer_pattern_before_a_shorter() -> None:
    rows = [
        row("a", 1, patterns=("m*",)),
        row("b", 2, patterns=("m-1*",)),
        row("m-12", 3),
        row("c", 4, aliases=("m-13",)),
    ]
    assert [found(rows, name) for name in ("m", "m-1", "m-12", "m-13", "m-14", "n")] == [1, 2, 3, 4, 2, None]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("m-####", ["m-2026"], ["m-202", "m-20266", "m-abcd", "m-\u0661\u0661\u0661\u0661"]),
        ("*.m", ["eu.m", ".m"], ["m", "eu.m.x", "eu\n.m"]),
        ("a*b*c", ["abc", "axbxc"], ["ab", "acb"]),
        ("m.1[x]*", ["m.1[x]", "m.1[x]y"], ["mm1x", "m.1x"]),
    ],
)
def test_a_star_is_any_text_and_a_hash_is_one_digit(pattern: str, matching: list[str], others: list[str]) -> None:
    rows = [row("a", 1, patterns=(pattern,))]
    assert [found(rows, name) for name in matching] == [1] * len(matching)
    assert [found(rows, name) for name in others] == [None] * len(others)


@pytest.mark.parametrize("pattern", ["", "*", "##", "m", "*a*b*c*d"])
def test_a_pattern_that_matches_all_or_only_itself_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        row("a", 1, patterns=(pattern,))


def test_a_name_that_is_too_long_matches_no_pattern() -> None:
    rows = [row("a", 1, patterns=("m*",))]
    assert found(rows, "m" * NAME_MAX) == 1
    assert found(rows, "m" * (NAME_MAX + 1)) is None


def test_names_from_callers_do_not_grow_the_memory() -> None:
    prices = PriceList((row("a", 1, patterns=("m*",)),))
    for number in range(3000):
        assert prices.find(f"m{number}") == prices.rows[0]
        assert prices.find(f"n{number}") is None
    assert len(prices._matched) <= 1024


def test_the_latest_row_that_has_begun_holds() -> None:
    rows = [row("m", 3, from_ns=30), row("m", 1, from_ns=10), row("m", 2, from_ns=20)]
    assert [found(rows, "m", now_ns=now_ns) for now_ns in (9, 10, 19, 20, 29, 30, 99)] == [None, 1, 1, 2, 2, 3, 3]


def test_of_several_sellers_the_first_that_is_preferred_counts() -> None:
    rows = [row("m", 1, "one"), row("m", 2, "two"), row("m", 3)]
    assert found(rows, "m", "two", "one") == 2
    assert found(rows, "m", "three", "one") == 1
    assert found(rows, "m", "three") == 3
    assert found(rows[:2], "m", "three") is None


def test_without_a_preference_all_sellers_must_agree() -> None:
    assert found([row("m", 1, "one"), row("m", 1, "two")], "m") == 1
    assert found([row("m", 1, "one"), row("m", 2, "two")], "m") is None
    assert found([row("m", 1, "one"), row("m", 1, "two"), row("m", 2, "two", 10)], "m", now_ns=10) is None


def test_a_preferred_sellers_pattern_goes_before_a_price_of_nobody_preferred() -> None:
    rows = [row("m", 1, "one"), row("x", 2, "two", patterns=("m*",))]
    assert found(rows, "m", "two") == 2


def test_every_seller_of_a_model_can_be_listed() -> None:
    rows = (row("m", 1, "one"), row("x", 2, "two", patterns=("m*",)), row("m", 3, "one", 10))
    assert PriceList(rows).sellers("m", 0) == rows[:2]
    assert PriceList(rows).sellers("m", 10) == (rows[2], rows[1])


def test_two_prices_for_one_name_from_one_time_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="of 'one' for 'm'"):
        PriceList((row("m", 1, "one"), row("x", 2, "one", aliases=("m",))))
    PriceList((row("m", 1, "one"), row("m", 1, "two"), row("m", 1, "one", 1)))


@pytest.mark.parametrize("wrong", [{"model": ""}, {"provider": ""}, {"aliases": ("",)}, {"from_ns": 1.5}])
def test_a_row_needs_names_and_a_time(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PriceRow(**{"model": "m", "price": PRICE, **wrong})


def test_the_version_of_a_book_follows_from_its_list_too() -> None:
    listed = PriceList((row("m", 1),), "list-1")
    book = PriceBook(listed=listed)
    assert book.version.startswith("list-1+")
    others = [PriceBook(), PriceBook(listed=listed, providers=("one",)), book.with_model("m", PRICE)]
    assert len({book.version, *(other.version for other in others)}) == 4
    assert book.with_model("m", PRICE).listed == listed
    assert PriceList((row("m", 1),)).version == PriceList((row("m", 1),)).version != PriceList((row("m", 2),)).version
