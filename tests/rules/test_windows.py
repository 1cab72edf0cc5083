"""Calendar windows in UTC."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.sections import Period
from tenantguard.rules.windows import window

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOUNDED = [period for period in Period if period is not Period.LIFETIME]

periods = st.sampled_from(BOUNDED)
moments = st.integers(-(10**12), 10**12).map(lambda tenth: EPOCH + timedelta(milliseconds=tenth * 9))


def ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


@given(periods, moments, st.integers(0, 999))
def test_a_moment_lies_in_its_window_and_windows_leave_no_gap_and_never_overlap(
    period: Period, moment: datetime, below_us: int
) -> None:
    now = ns(moment) + below_us
    start, end = window(period, now)
    assert start is not None
    assert end is not None
    assert start <= now < end
    assert window(period, start) == window(period, end - 1) == (start, end)
    assert window(period, end)[0] == end
    assert window(period, start - 1)[1] == start


@given(moments)
def test_each_period_begins_where_the_calendar_says(moment: datetime) -> None:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    expected = {
        Period.MINUTE: (moment.replace(second=0, microsecond=0), timedelta(minutes=1)),
        Period.HOUR: (moment.replace(minute=0, second=0, microsecond=0), timedelta(hours=1)),
        Period.DAY: (midnight, timedelta(days=1)),
        Period.WEEK: (midnight - timedelta(days=moment.isoweekday() - 1), timedelta(days=7)),
        Period.MONTH: (midnight.replace(day=1), timedelta(days=monthrange(moment.year, moment.month)[1])),
        Period.YEAR: (midnight.replace(month=1, day=1), timedelta(days=365 + (monthrange(moment.year, 2)[1] == 29))),
    }
    for period, (start, length) in expected.items():
        assert window(period, ns(moment)) == (ns(start), ns(start + length)), period


@given(moments)
def test_every_moment_of_a_week_has_the_same_iso_week_number(moment: datetime) -> None:
    start, end = window(Period.WEEK, ns(moment))
    assert start is not None
    assert end is not None
    first = EPOCH + timedelta(microseconds=start // 1000)
    last = EPOCH + timedelta(microseconds=end // 1000 - 1)
    assert first.isocalendar()[:2] == last.isocalendar()[:2] == moment.isocalendar()[:2]
    assert first.isoweekday() == 1


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        (Period.MONTH, "2024-02-29T23:59:59", "2024-02-01", "2024-03-01"),
        (Period.MONTH, "2025-12-31T23:59:59", "2025-12-01", "2026-01-01"),
        (Period.YEAR, "2024-12-31T23:59:59", "2024-01-01", "2025-01-01"),
        (Period.WEEK, "2021-01-03T12:00:00", "2020-12-28", "2021-01-04"),  # the 53rd week of 2020
        (Period.WEEK, "1970-01-01T00:00:00", "1969-12-29", "1970-01-05"),
        (Period.DAY, "1969-12-31T23:59:59", "1969-12-31", "1970-01-01"),
    ],
)
def test_the_edges_of_the_calendar(period: Period, now: str, start: str, end: str) -> None:
    def at(text: str) -> int:
        return ns(datetime.fromisoformat(text).replace(tzinfo=UTC))

    assert window(period, at(now)) == (at(start), at(end))


@given(st.integers())
def test_a_lifetime_has_neither_start_nor_end(now: int) -> None:
    assert window(Period.LIFETIME, now) == (None, None)


def test_the_last_nanosecond_of_a_window_is_still_inside() -> None:
    assert window(Period.MINUTE, 60 * SECOND - 1) == (0, 60 * SECOND)
    assert window(Period.MINUTE, 60 * SECOND) == (60 * SECOND, 120 * SECOND)
