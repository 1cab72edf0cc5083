from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.rate import NANOS_PER_SECOND, Rate

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 30 * 86_400, "year": 360 * 86_400}


@given(
    amount=st.integers(1, 10**6),
    several=st.integers(1, 12),
    unit=st.sampled_from(sorted(SECONDS)),
    burst=st.none() | st.integers(1, 10**12),
    per=st.sampled_from(["/", " / ", " per "]),
)
def test_the_notation_of_limits_is_read_with_a_burst(
    amount: int, several: int, unit: str, burst: int | None, per: str
) -> None:
    text = f"{amount}{per}{several if several > 1 else ''} {unit}{'s' if several > 1 else ''}"
    text += f" burst {burst}" if burst is not None else ""
    period_ns = several * SECONDS[unit] * NANOS_PER_SECOND
    if period_ns > amount * 366 * 86_400 * NANOS_PER_SECOND:
        with pytest.raises(ConfigurationError):
            Rate.parse(text)
        return
    rate = Rate.parse(text)
    assert (rate.amount, rate.period_ns, rate.burst) == (amount, period_ns, burst or amount)
    assert Rate.parse(str(rate).replace(",", "")) == rate


@pytest.mark.parametrize(
    "text",
    [
        "", "10", "10/", "/second", "10/secnd", "10/second;5/minute", "10/second,5/minute", "-1/second",
        "0/second", "0/second burst 5", "10/second burst 0", "10/second burst", "10/second burst -1", "nan/second",
        "10/0 seconds", "10 per 00 minutes", "10/second burst 1e3", "9999999999999/second", "1/2 years",
        "10/second burst 99999999999999", "burst 5", "\u0661/second",
    ],
)  # fmt: skip
def test_impossible_rates_are_refused(text: str) -> None:
    """E-33: a capacity of zero, no refill, NaN, less than one unit in a year."""
    with pytest.raises(ConfigurationError, match=r"rate"):
        Rate.parse(text)


@pytest.mark.parametrize(
    "numbers",
    [(0, 1, 1), (1, 0, 1), (1, 1, -1), (1.0, 1, 1), (1, 1e9, 1), (True, 1, 1), (1, 1, 10**12 + 1), (2000, 1, 1)],
)
def test_numbers_that_are_no_rate_are_refused(numbers: tuple[int, int, int]) -> None:
    """E-33."""
    with pytest.raises(ConfigurationError):
        Rate(*numbers)


def test_a_burst_is_the_amount_unless_it_is_said() -> None:
    assert Rate(10, NANOS_PER_SECOND).burst == 10
    assert Rate(10, NANOS_PER_SECOND, 1).burst == 1


def test_a_rate_is_shown_as_it_would_be_written() -> None:
    assert str(Rate.parse("10/second burst 20")) == "10 per second, burst 20"
    assert str(Rate.parse("500 per 5 minutes")) == "500 per 5 minutes, burst 500"
    assert str(Rate.parse("7/month")) == "7 per 30 days, burst 7"
    assert str(Rate(3, 1_500_000_000)) == "3 per 1500000000 ns, burst 3"
