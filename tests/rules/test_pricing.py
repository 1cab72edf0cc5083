"""Pricing: exact, rounded once, and never above its bound."""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tenantguard.model.money import NANOS
from tenantguard.model.price import PriceBook, PriceList, PriceRow, TokenPrice, UnknownModel
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.token_price import STANDARD_TIERS, Rates, Tier
from tenantguard.model.usage import COUNT_MAX, Usage
from tenantguard.rules.pricing import WITHHELD, Quote, bound_nanos, cost_nanos, exact_text, quote, shown_model
from tenantguard.rules.rates import Conversion
from tenantguard.rules.secrets.catalog import FORMATS
from tests.rules.secrets.examples import example, value_of

if TYPE_CHECKING:
    from tenantguard.rules.secrets.format import SecretFormat

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

# prices with every kind, tiers and service tiers, and usages of every kind
OTHERS = ("cache_write_1h", "audio_input", "image_input", "audio_output", "image_output", "reasoning")
KINDS = st.fixed_dictionaries(
    dict.fromkeys(("input", "output", "cache_read", "cache_write"), RATES),
    optional=dict.fromkeys((*OTHERS, "request"), RATES),
)
TIERS = st.lists(st.tuples(KINDS, st.integers(0, 20_000)), max_size=3, unique_by=lambda tier: tier[1]).map(
    lambda found: tuple(Tier(**kinds, above=above) for kinds, above in sorted(found, key=lambda tier: tier[1]))
)
PLAIN = st.builds(lambda kinds, tiers: TokenPrice(**kinds, currency="USD", tiers=tiers), KINDS, TIERS)
FACTORS = st.builds(Fraction, st.integers(0, 5000), st.integers(1, 3000))
SERVICES = st.dictionaries(st.sampled_from(["batch", "flex", "priority"]), st.one_of(FACTORS, PLAIN))
RICH = st.builds(
    lambda kinds, tiers, services: TokenPrice(
        **kinds, currency="USD", tiers=tiers, services=tuple(sorted(services.items(), key=lambda pair: pair[0]))
    ),
    KINDS,
    TIERS,
    SERVICES,
)
SERVED = st.sampled_from([None, "default", "standard", "batch", "flex", "priority", "auto", "unheard-of"])
CONVERSIONS = st.none() | st.builds(Conversion, st.just("USD"), st.just("EUR"), FACTORS.filter(bool), st.just("1"))


@st.composite
def rich_usages(draw: st.DrawFn) -> Usage:
    into, out = draw(COUNTS), draw(COUNTS)
    return Usage(
        into,
        out,
        draw(COUNTS),
        draw(COUNTS),
        cache_write_1h_tokens=draw(COUNTS),
        audio_input_tokens=draw(COUNTS),
        image_input_tokens=draw(st.integers(0, into)),
        audio_output_tokens=draw(COUNTS),
        image_output_tokens=draw(COUNTS),
        reasoning_tokens=draw(st.integers(0, out)),
        service_tier=draw(SERVED),
    )


def all_in(usage: Usage) -> int:
    cached = usage.cache_read_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens
    return usage.input_tokens + cached + usage.audio_input_tokens


def all_out(usage: Usage) -> int:
    return usage.output_tokens + usage.audio_output_tokens + usage.image_output_tokens


def exact_nanos(price: TokenPrice, usage: Usage) -> Fraction:
    """The cost as the definition says it: a part of the usage at a time, with fractions."""
    factor = Fraction(1)
    for name, service in price.services:
        if name == usage.service_tier:
            if isinstance(service, Fraction):
                factor = service
            else:
                price = service
    rates: Rates = price
    for tier in price.tiers:
        if all_in(usage) > tier.above:
            rates = tier
    parts = [
        (rates.input, usage.input_tokens - usage.image_input_tokens),
        (rates.input if rates.image_input is None else rates.image_input, usage.image_input_tokens),
        (rates.cache_read, usage.cache_read_tokens),
        (rates.cache_write, usage.cache_write_tokens),
        (rates.cache_write if rates.cache_write_1h is None else rates.cache_write_1h, usage.cache_write_1h_tokens),
        (rates.input if rates.audio_input is None else rates.audio_input, usage.audio_input_tokens),
        (rates.output, usage.output_tokens - usage.reasoning_tokens),
        (rates.output if rates.reasoning is None else rates.reasoning, usage.reasoning_tokens),
        (rates.output if rates.audio_output is None else rates.audio_output, usage.audio_output_tokens),
        (rates.output if rates.image_output is None else rates.image_output, usage.image_output_tokens),
    ]
    return (sum(Fraction(rate * count, 1_000_000) for rate, count in parts) + rates.request) * factor


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


# every kind, tiers, service tiers


@given(RICH, rich_usages())
def test_every_kind_tier_and_service_tier_is_priced_exactly(price: TokenPrice, usage: Usage) -> None:
    assert cost_nanos(price, usage) == round(exact_nanos(price, usage))


@given(RICH, rich_usages(), st.data())
def test_no_usage_of_any_kind_costs_more_than_its_bound(price: TokenPrice, usage: Usage, data: st.DataObject) -> None:
    """A hold that names no service tier is enough for each, at any size up to its bytes."""
    room = data.draw(st.integers(0, 1000))
    assert cost_nanos(price, usage) <= bound_nanos(price, all_in(usage) + room, all_out(usage) + room)


@given(RICH, rich_usages())
def test_a_named_service_tier_is_held_for_itself_and_for_the_standard_one(price: TokenPrice, usage: Usage) -> None:
    into, out = all_in(usage), all_out(usage)
    whole = bound_nanos(price, into, out)
    named = bound_nanos(price, into, out, usage.service_tier)
    assert cost_nanos(price, usage) <= named <= whole
    assert bound_nanos(price, into, out, "default") <= named


@given(RICH, rich_usages(), FACTORS, CONVERSIONS, st.integers(0, 10**12))
def test_no_settled_amount_is_above_its_hold_whatever_is_applied(
    price: TokenPrice, usage: Usage, factor: Fraction, conversion: Conversion | None, extra: int
) -> None:
    answer = Quote("a", price, "1", "model", factor=factor)
    cost = answer.cost_nanos(usage, extra_nanos=extra, conversion=conversion)
    held = answer.bound_nanos(all_in(usage), all_out(usage), extra_nanos=extra, conversion=conversion)
    assert type(cost) is int
    assert type(held) is int
    assert cost <= held
    exact = (exact_nanos(price, usage) * factor + extra) * (1 if conversion is None else conversion.rate)
    if conversion is None:
        assert cost == round(exact)
    else:
        assert 0 <= cost - exact < 1
    assert Fraction(answer.exact_cost(usage, extra_nanos=extra, conversion=conversion)) * NANOS == exact


@given(PRICES, USAGES)
def test_a_quote_with_nothing_applied_is_the_plain_price(price: TokenPrice, usage: Usage) -> None:
    answer = Quote("a", price, "1", "model")
    assert answer.cost_nanos(usage) == cost_nanos(price, usage)
    assert answer.bound_nanos(all_in(usage), all_out(usage)) == bound_nanos(price, all_in(usage), all_out(usage))


LONG = TokenPrice(
    1_000_000,
    2_000_000,
    0,
    0,
    "USD",
    tiers=(Tier(3_000_000, 2_000_000, 0, 0, above=100), Tier(0, 0, 0, 0, above=1000)),
)


def test_a_tier_prices_the_whole_request_from_the_first_token_above() -> None:
    assert cost_nanos(LONG, Usage(100)) == 100
    assert cost_nanos(LONG, Usage(101)) == 303
    assert cost_nanos(LONG, Usage(1, cache_read_tokens=100)) == 3
    assert cost_nanos(LONG, Usage(1001)) == 0


def test_a_tier_counts_in_the_hold_only_where_the_input_can_reach_it() -> None:
    assert bound_nanos(LONG, 100, 0) == 100
    assert bound_nanos(LONG, 101, 0) == 303
    assert bound_nanos(LONG, 2000, 0) == 6000, "cheaper tiers further up leave the hold as it is"


def test_the_hold_is_for_the_dearest_kind_of_each_side() -> None:
    price = TokenPrice(1_000_000, 1_000_000, 0, 0, "USD", audio_input=5_000_000, image_output=9_000_000, request=7)
    assert bound_nanos(price, 1, 1) == 5 + 9 + 7


TIERED = TokenPrice(
    1_000_000,
    1_000_000,
    0,
    0,
    "USD",
    services=(("batch", Fraction(1, 2)), ("priority", TokenPrice(4_000_000, 4_000_000, 0, 0, "USD"))),
)


@pytest.mark.parametrize(
    ("served", "nanos"), [(None, 10), ("default", 10), ("unheard-of", 10), ("batch", 5), ("priority", 40)]
)
def test_the_service_tier_of_the_response_sets_the_price(served: str | None, nanos: int) -> None:
    assert cost_nanos(TIERED, Usage(10, service_tier=served)) == nanos


@pytest.mark.parametrize(
    ("asked", "nanos"),
    [(None, 40), ("auto", 40), ("priority", 40), ("batch", 10), *((name, 10) for name in STANDARD_TIERS)],
)
def test_the_hold_is_for_the_service_tiers_that_the_request_can_get(asked: str | None, nanos: int) -> None:
    assert bound_nanos(TIERED, 10, 0, asked) == nanos


@given(RICH, rich_usages())
def test_a_multiplier_of_one_changes_nothing(price: TokenPrice, usage: Usage) -> None:
    assume(not price.services)
    same = TokenPrice(*_four(price), "USD", **_others(price), tiers=price.tiers, services=(("batch", Fraction(1)),))
    assert cost_nanos(same, usage) == cost_nanos(price, usage)


def _four(price: TokenPrice) -> tuple[int, int, int, int]:
    return price.input, price.output, price.cache_read, price.cache_write


def _others(price: TokenPrice) -> dict[str, int]:
    return {name: getattr(price, name) for name in (*OTHERS, "request")}


# what is applied to a price


def test_a_tenants_markup_is_applied_before_the_one_rounding() -> None:
    dear = Quote("a", TokenPrice(1_500_000, 0, 0, 0, "USD"), "1", "model").for_tenant(
        PricingSection(markup=Fraction(15, 100))
    )
    assert dear.cost_nanos(Usage(1)) == 2  # 1.725
    assert dear.exact_cost(Usage(1)) == "0.000000001725"
    assert dear.bound_nanos(1, 0) == 2
    assert dear.evidence() == {"price_version": "1", "price_factor": "1.15"}


def test_a_tenant_without_a_pricing_section_pays_the_book() -> None:
    answer = Quote("a", PRICE, "1", "model", "openai")
    assert answer.for_tenant(None) == answer
    assert answer.evidence() == {"price_version": "1", "provider": "openai"}


def test_what_the_route_costs_is_not_marked_up_but_converted() -> None:
    double = Quote("a", TokenPrice(1_000_000, 0, 0, 0, "USD"), "1", "model", factor=Fraction(2))
    assert double.cost_nanos(Usage(1), extra_nanos=100) == 102
    assert (
        double.cost_nanos(Usage(1), extra_nanos=100, conversion=Conversion("USD", "EUR", Fraction(1, 2), "1")) == 51
    )


def test_a_model_that_goes_free_still_costs_what_its_route_does() -> None:
    free = Quote("a", None, "1", "unpriced")
    assert (free.currency, free.cost_nanos(Usage(5), extra_nanos=7), free.bound_nanos(5, 5, extra_nanos=7)) == (
        None,
        7,
        7,
    )
    assert free.exact_cost(Usage(5)) == "0"


def test_a_cost_that_the_provider_reported_is_marked_up_and_converted_too() -> None:
    dear = Quote("a", PRICE, "1", "model", factor=Fraction(3, 2))
    assert dear.reported_nanos(5) == 8  # 7.5, half to even
    assert dear.reported_nanos(5, conversion=Conversion("USD", "EUR", Fraction(1, 2), "1")) == 4  # 3.75, up


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(5), "5"),
        (Fraction(1, 8), "0.125"),
        (Fraction(1, 10**12), "0.000000000001"),
        (Fraction(1001, 1000), "1.001"),
        (Fraction(1, 3), "1/3"),
        (Fraction(-1, 4), "-0.25"),
    ],
)
def test_an_exact_value_is_a_decimal_or_a_fraction_never_rounded(value: Fraction, text: str) -> None:
    assert exact_text(value) == text


# which price


NOW = 100
LISTED = PriceList(
    (
        PriceRow("m", TokenPrice(1, 1, 1, 1, "USD"), "one"),
        PriceRow("m", TokenPrice(2, 2, 2, 2, "USD"), "one", NOW),
        PriceRow("m", TokenPrice(3, 3, 3, 3, "USD"), "two"),
        PriceRow("dated", TokenPrice(4, 4, 4, 4, "USD"), "one", patterns=("dated-*",)),
    ),
    "list-1",
)


def rate(book: PriceBook, model: str, provider: str | None = None, now_ns: int = NOW) -> int | None:
    answer = quote(book, model, provider=provider, now_ns=now_ns)
    return None if answer is None or answer.price is None else answer.price.input


def test_the_row_in_force_at_the_hold_is_quoted() -> None:
    book = PriceBook(listed=LISTED, providers=("one",))
    assert [rate(book, "m", now_ns=now_ns) for now_ns in (0, NOW - 1, NOW, NOW + 1)] == [1, 1, 2, 2]


def test_a_quote_keeps_its_row_whatever_begins_meanwhile() -> None:
    """The same row holds and settles."""
    held = quote(PriceBook(listed=LISTED, providers=("one",)), "m", now_ns=NOW - 1)
    assert held is not None
    assert (held.price, held.version[:7], held.provider) == (TokenPrice(1, 1, 1, 1, "USD"), "list-1+", "one")


def test_the_operators_price_wins_over_the_list() -> None:
    book = PriceBook({"m": PRICE}, listed=LISTED, providers=("one",))
    answer = quote(book, "m", now_ns=NOW)
    assert answer == Quote("m", PRICE, book.version, "model")
    assert rate(book, "dated-2026") == 4


def test_a_provider_named_by_the_call_wins_over_the_books_order() -> None:
    book = PriceBook(listed=LISTED, providers=("two", "one"))
    assert (rate(book, "m"), rate(book, "m", "one"), rate(book, "m", "three")) == (3, 2, None)


def test_a_model_that_two_sell_for_different_prices_is_unknown_until_the_operator_chooses() -> None:
    assert quote(PriceBook(listed=LISTED), "m", now_ns=NOW) is None


def test_a_name_that_only_a_pattern_knows_says_so() -> None:
    answer = quote(PriceBook(listed=LISTED), "dated-2026-01-01")
    assert answer is not None
    assert answer.matched_by == "pattern"


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o-mini-2024-07-18", "claude-sonnet-4-20250514", "claude-3-5-sonnet@20241022", "o3", "x",
        "phi-3.5-mini-128k", "meta-llama/Llama-3.3-70B-Instruct",
        "us.anthropic.claude-3-5-sonnet-20241022-v2:0", "mixtral-8x22b", "GLM-4.6",
        "@cf/qwen/qwen2.5-coder-32b-instruct", "Qwen/Qwen3-235B-A22B-Instruct-2507",
        "gemini-2.5-pro-preview-05-06", "deepseek-r1-distill-llama-70b",
        "cognitivecomputations/dolphin-mixtral-8x7b", "amazon.nova-pro-v1:0",
    ],
)  # fmt: skip
def test_the_name_of_a_model_is_shown_where_it_is_made_as_names_are(name: str) -> None:
    assert shown_model(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "ann@example.com", "ann@20241022.com", "4111-1111-1111-1111", "m-4111-1111-1111-1111", "m-078-05-1120",
        "m:415-555-2671", "m-20240718-20240718", "DE89370400440532013000", "gb-82-west-1234-5698-7654-32",
        "192.168.1.10", "550e8400-e29b-41d4-a716-446655440000", "q7Vw2Zk9Tn4Xb8Lr3Jd6Hs1Gf5Mc0PyKeRu",
        "x" * 25, "gpt 4", "", "gpt-4\n", "a-" * 41, "\u0661\u0662", "Größe",
    ],
)  # fmt: skip
def test_what_may_be_a_secret_or_somebodys_is_not_shown_as_the_name_of_a_model(name: str) -> None:
    assert shown_model(name) == WITHHELD


@pytest.mark.parametrize("secret", FORMATS, ids=lambda secret: secret.entity)
def test_no_key_of_any_vendor_is_shown_as_the_name_of_a_model(secret: SecretFormat) -> None:
    random = Random(3)
    for _ in range(20):
        text = example(secret, random)
        if secret.generic:
            assert shown_model(text) == WITHHELD
        else:
            assert shown_model(value_of(secret, text)) == WITHHELD
