"""Pricing: exact, rounded once, and never above its bound."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.money import NANOS
from tenantguard.model.price import PriceBook, TokenPrice, UnknownModel
from tenantguard.model.usage import COUNT_MAX, Usage
from tenantguard.rules.pricing import Quote, bound_nanos, cost_nanos, quote

PRICE = TokenPrice.parse(
    input="15 USD/1K",
    output="75 USD/1K",
    cache_read="1.5 USD/1K",
    cache_write="18.75 USD/1K",
)
RATES = st.integers(0, 10**15)
PRICES = st.builds(TokenPrice, RATES, RATES, RATES, RATES, st.just("USD"))
COUNTS = st.one_of(st.integers(0, 10_000), st.integers(0, COUNT_MAX))
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)


def test_input_and_output_are_priced_exactly() -> None:
    """E-41"""
    assert cost_nanos(PRICE, Usage(1000, 1000)) == 90 * NANOS


def test_all_four_kinds_are_priced_exactly() -> None:
    """E-42: 500 fresh input tokens, 200 out, 2000 read from and 800 written to the cache."""
    assert cost_nanos(PRICE, Usage(500, 200, 2000, 800)) == 40_500_000_000


def test_a_cache_read_costs_its_declared_rate() -> None:
    """E-43"""
    odd = TokenPrice(10, 10, 7_000_000, 10, "USD")
    assert cost_nanos(odd, Usage(cache_read_tokens=3)) == 21


@given(COUNTS)
def test_a_zero_rate_charges_nothing_for_any_volume(count: int) -> None:
    """E-44"""
    assert cost_nanos(TokenPrice(1, 1, 1, 0, "USD"), Usage(cache_write_tokens=count)) == 0


@given(PRICES)
def test_zero_usage_costs_nothing(price: TokenPrice) -> None:
    """E-47"""
    assert cost_nanos(price, Usage()) == 0
    assert bound_nanos(price, 0, 0) == 0


@given(PRICES, USAGES)
def test_the_cost_is_the_exact_sum_rounded_half_to_even(price: TokenPrice, usage: Usage) -> None:
    exact = Fraction(
        price.input * usage.input_tokens
        + price.output * usage.output_tokens
        + price.cache_read * usage.cache_read_tokens
        + price.cache_write * usage.cache_write_tokens,
        1_000_000,
    )
    assert cost_nanos(price, usage) == round(exact)
    assert type(cost_nanos(price, usage)) is int


def test_a_half_goes_to_the_even_neighbour() -> None:
    half = TokenPrice(500_000, 0, 0, 0, "USD")
    assert [cost_nanos(half, Usage(count)) for count in range(6)] == [0, 0, 1, 2, 2, 2]


@given(PRICES, USAGES)
def test_no_usage_costs_more_than_its_bound(price: TokenPrice, usage: Usage) -> None:
    everything_in = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    assert cost_nanos(price, usage) <= bound_nanos(price, everything_in, usage.output_tokens)


def test_the_bound_takes_the_dearest_input_rate_and_rounds_up() -> None:
    assert bound_nanos(TokenPrice(1, 10, 2, 3, "USD"), 1, 0) == 1
    assert bound_nanos(TokenPrice(1, 10, 2, 3_000_000, "USD"), 5, 0) == 15


def test_an_unknown_model_is_refused_unless_the_book_says_otherwise() -> None:
    """E-46 and weakness 6 of entelix-policy: refused before the call, so that nothing goes unpriced."""
    known = Quote("a", PRICE, PriceBook({"a": PRICE}).version, "model")
    assert quote(PriceBook({"a": PRICE}), "a") == known
    assert quote(PriceBook({"a": PRICE}), "b") is None


def test_an_unknown_model_goes_free_under_warn() -> None:
    """E-49, E-52"""
    book = PriceBook({"a": PRICE}, UnknownModel.WARN)
    free = quote(book, "b")
    assert free == Quote("b", None, book.version, "unpriced")
    assert (free.cost_nanos(Usage(1000, 1000)), free.bound_nanos(1000, 1000)) == (0, 0)
    known = quote(book, "a")
    assert known is not None
    assert known.cost_nanos(Usage(1000, 1000)) == 90 * NANOS


def test_an_unknown_model_costs_the_default_price() -> None:
    book = PriceBook({}, UnknownModel.DEFAULT, PRICE)
    answer = quote(book, "b")
    assert answer == Quote("b", PRICE, book.version, "default")
    assert answer.bound_nanos(1000, 1000) == bound_nanos(PRICE, 1000, 1000)
