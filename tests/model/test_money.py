from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moneyed import Money

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import NANOS_MAX, Amount, format_nanos

nanos = st.integers(-NANOS_MAX, NANOS_MAX)
currencies = st.sampled_from(["USD", "EUR", "JPY", "KWD"])


@given(nanos.map(abs), currencies)
def test_an_amount_reads_back_what_it_writes(amount: int, currency: str) -> None:
    written = Amount(amount, currency)
    assert Amount.parse(str(written)) == written


@given(nanos, currencies)
def test_an_amount_is_the_same_money_in_the_public_api(amount: int, currency: str) -> None:
    written = Amount(amount, currency)
    assert Amount.of(written.money) == written
    assert written.money == Money(Decimal(amount) / 10**9, currency)


@given(nanos)
def test_what_is_shown_is_exact_and_has_two_decimals_at_least(amount: int) -> None:
    shown = format_nanos(amount)
    assert Decimal(shown) * 10**9 == amount
    assert 2 <= len(shown.partition(".")[2]) <= 9


@given(st.integers(0, 10**9), st.text("0123456789", min_size=1, max_size=60))
def test_no_digit_is_ever_dropped_in_silence(whole: int, decimals: str) -> None:
    text = f"{whole}.{decimals} USD"
    try:
        amount = Amount.parse(text)
    except ConfigurationError:
        assert len(decimals.rstrip("0")) > 9
        return
    assert amount.nanos == int(whole) * 10**9 + int(decimals.rstrip("0").ljust(9, "0"))


@pytest.mark.parametrize(
    "text",
    [
        "", "250", "USD", "250 usd", "250 US", "250 ABC", "-1 USD", "+1 USD", "1e3 USD", "1,000 USD", "1_000 USD",
        ".5 USD", "5. USD", "nan USD", "1.0000000001 USD", "9999999999.00 USD", "1 USD 2", "\u0661 USD",
        "1." + "0" * 30 + "1 USD",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Amount.parse(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e-10", "1e30", "0.1234567891"])
def test_money_that_cannot_be_kept_exactly_is_refused(number: str) -> None:
    with pytest.raises(ConfigurationError):
        Amount.of(Money(Decimal(number), "USD"))


@pytest.mark.parametrize("amount", [1.0, True, "1", Decimal(1), NANOS_MAX + 1, -NANOS_MAX - 1])
def test_an_amount_is_a_whole_number_that_fits_in_64_bits(amount: int) -> None:
    with pytest.raises(ConfigurationError):
        Amount(amount, "USD")
