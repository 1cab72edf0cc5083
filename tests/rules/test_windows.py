"""Windows of all periods: calendar ones in every time zone, rolling ones, the lifetime."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.period import Period, Step
from tenantguard.rules import windows
from tenantguard.rules.windows import counts_until_ns, span, window, window_ends_ns

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = sorted(available_timezones())
BOUNDED = [Period.MINUTE, Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH, Period.YEAR]

in_zones = st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", *ZONES])
minutes = st.integers(0, 1439)
calendar_periods = st.one_of(
    st.builds(Period, st.just(Step.MINUTE), st.sampled_from([n for n in range(1, 1440) if 1440 % n == 0]), in_zones),
    st.builds(Period, st.just(Step.DAY), zone=in_zones, minute=minutes),
    st.builds(Period, st.just(Step.WEEK), zone=in_zones, weekday=st.integers(1, 7), minute=minutes),
    st.builds(Period, st.just(Step.MONTH), zone=in_zones, day=st.integers(1, 31), minute=minutes),
    st.builds(
        Period,
        st.just(Step.MONTH),
        st.sampled_from([2, 3, 4, 6, 12]),
        in_zones,
        month=st.integers(1, 12),
        day=st.integers(1, 29),
        minute=minutes,
    ),
)
rolling_periods = st.builds(
    lambda per_bucket, buckets: Period(Step.MINUTE, per_bucket * buckets, buckets=buckets),
    st.integers(1, 600),
    st.integers(1, 48),
)
plain = st.integers(-(10**12), 10**12).map(lambda tenth: EPOCH + timedelta(milliseconds=tenth * 9))
moments = st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def at(text: str) -> int:
    return ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


def local(now_ns: int, zone: ZoneInfo) -> datetime:
    return (EPOCH + timedelta(microseconds=now_ns // 1000)).astimezone(zone)


def bounds(period: Period, now_ns: int) -> tuple[int, int]:
    start, end = window(period, now_ns)
    assert start is not None
    assert end is not None
    return start, end


def walk(period: Period, from_ns: int, until_ns: int) -> list[tuple[int, int]]:
    """The windows from one instant to another, each asked for at its first instant."""
    found = [bounds(period, from_ns)]
    while found[-1][1] < until_ns:
        found.append(bounds(period, found[-1][1]))
    return found


# Any period


@given(st.one_of(st.sampled_from(BOUNDED), calendar_periods, rolling_periods), moments, st.integers(0, 999))
@settings(max_examples=300)
def test_a_moment_lies_in_its_window_and_windows_leave_no_gap_and_never_overlap(
    period: Period, moment: datetime, below_us: int
) -> None:
    now = ns(moment) + below_us
    start, end = bounds(period, now)
    assert start <= now < end
    assert window(period, start) == window(period, end - 1) == (start, end)
    assert window(period, end)[0] == end
    assert window(period, start - 1)[1] == start
    assert window_ends_ns(period, now) == end


@given(calendar_periods, moments, moments)
def test_an_answer_does_not_depend_on_what_was_asked_before(period: Period, one: datetime, other: datetime) -> None:
    first = window(period, ns(one))
    window(period, ns(other))
    assert window(period, ns(one)) == first
    windows._latest.clear()
    assert window(period, ns(one)) == first


def test_what_is_remembered_is_bounded() -> None:
    for minute in range(1300):
        window(Period(Step.DAY, minute=minute), 0)
    assert len(windows._latest) <= windows._LATEST_MAX


@given(st.integers())
def test_a_lifetime_has_neither_start_nor_end(now: int) -> None:
    assert window(Period.LIFETIME, now) == (None, None)
    assert span(Period.LIFETIME, now) == (None,)
    assert window_ends_ns(Period.LIFETIME, now) is None
    assert counts_until_ns(Period.LIFETIME, None) is None


def test_the_last_nanosecond_of_a_window_is_still_inside() -> None:
    assert window(Period.MINUTE, 60 * SECOND - 1) == (0, 60 * SECOND)
    assert window(Period.MINUTE, 60 * SECOND) == (60 * SECOND, 120 * SECOND)


# The calendar in UTC


@given(plain)
def test_each_period_begins_where_the_calendar_says(moment: datetime) -> None:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    quarter = midnight.replace(month=(moment.month - 1) // 3 * 3 + 1, day=1)
    expected = {
        Period.MINUTE: (moment.replace(second=0, microsecond=0), timedelta(minutes=1)),
        Period.parse("15 minutes"): (
            moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0),
            timedelta(minutes=15),
        ),
        Period.HOUR: (moment.replace(minute=0, second=0, microsecond=0), timedelta(hours=1)),
        Period.parse("6 hours"): (midnight.replace(hour=moment.hour // 6 * 6), timedelta(hours=6)),
        Period.DAY: (midnight, timedelta(days=1)),
        Period.WEEK: (midnight - timedelta(days=moment.isoweekday() - 1), timedelta(days=7)),
        Period.parse("week from sunday"): (midnight - timedelta(days=moment.isoweekday() % 7), timedelta(days=7)),
        Period.MONTH: (midnight.replace(day=1), timedelta(days=monthrange(moment.year, moment.month)[1])),
        Period.parse("quarter"): (
            quarter,
            timedelta(days=sum(monthrange(moment.year, quarter.month + more)[1] for more in range(3))),
        ),
        Period.YEAR: (midnight.replace(month=1, day=1), timedelta(days=365 + (monthrange(moment.year, 2)[1] == 29))),
    }
    for period, (start, length) in expected.items():
        assert window(period, ns(moment)) == (ns(start), ns(start + length)), period


@given(plain)
def test_every_moment_of_a_week_has_the_same_iso_week_number(moment: datetime) -> None:
    start, end = bounds(Period.WEEK, ns(moment))
    first, last = local(start, ZoneInfo("UTC")), local(end - 1, ZoneInfo("UTC"))
    assert first.isocalendar()[:2] == last.isocalendar()[:2] == moment.isocalendar()[:2]
    assert first.isoweekday() == 1


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("month", "2024-02-29T23:59:59", "2024-02-01", "2024-03-01"),
        ("month", "2025-12-31T23:59:59", "2025-12-01", "2026-01-01"),
        ("year", "2024-12-31T23:59:59", "2024-01-01", "2025-01-01"),
        ("week", "2021-01-03T12:00", "2020-12-28", "2021-01-04"),  # the 53rd week of 2020
        ("week", "1970-01-01T00:00", "1969-12-29", "1970-01-05"),
        ("week from wednesday", "1970-01-01T00:00", "1969-12-31", "1970-01-07"),
        ("day", "1969-12-31T23:59:59", "1969-12-31", "1970-01-01"),
        ("day at 06:30", "2026-03-02T06:29:59", "2026-03-01T06:30", "2026-03-02T06:30"),
        ("week from sunday at 22:00", "2026-03-01T21:59:59", "2026-02-22T22:00", "2026-03-01T22:00"),
        ("month from day 15", "2026-01-14T23:59:59", "2025-12-15", "2026-01-15"),
        ("month from day 31", "2026-01-30T12:00", "2025-12-31", "2026-01-31"),
        ("month from day 31", "2026-02-27T23:59:59", "2026-01-31", "2026-02-28"),
        ("month from day 31", "2026-02-28T00:00", "2026-02-28", "2026-03-31"),
        ("month from day 31", "2024-02-29T00:00", "2024-02-29", "2024-03-31"),
        ("month from day 31", "2026-04-30T00:00", "2026-04-30", "2026-05-31"),
        ("month from day 30 at 12:00", "2026-02-28T11:59:59", "2026-01-30T12:00", "2026-02-28T12:00"),
        ("year from 04-01", "2026-03-31T23:59:59", "2025-04-01", "2026-04-01"),
        ("year from 04-06", "2026-04-06T00:00", "2026-04-06", "2027-04-06"),
        ("year from 02-29", "2024-02-28T23:59:59", "2023-02-28", "2024-02-29"),
        ("year from 02-29", "2024-02-29T00:00", "2024-02-29", "2025-02-28"),
        ("quarter", "2026-06-30T23:59:59", "2026-04-01", "2026-07-01"),
        ("quarter from 02-01", "2026-01-15T00:00", "2025-11-01", "2026-02-01"),
        ("quarter from 01-31", "2026-05-01T00:00", "2026-04-30", "2026-07-31"),
        ("6 months from 10-01", "2026-01-15T00:00", "2025-10-01", "2026-04-01"),
        ("2 months", "2026-02-28T23:59:59", "2026-01-01", "2026-03-01"),
        ("90 minutes", "2026-01-01T02:59:59", "2026-01-01T01:30", "2026-01-01T03:00"),
    ],
)
def test_the_edges_of_the_calendar(period: str, now: str, start: str, end: str) -> None:
    assert window(Period.parse(period), at(now)) == (at(start), at(end))


@given(st.integers(1, 31), st.integers(1971, 2100), st.integers(1, 12))
def test_anchored_months_begin_on_their_day_or_the_last_one_there_is(day: int, year: int, month: int) -> None:
    last = monthrange(year, month)[1]
    start = datetime(year, month, min(day, last), tzinfo=UTC)
    period = Period(Step.MONTH, day=day)
    assert window(period, ns(start))[0] == ns(start)
    assert window(period, ns(start) - 1)[1] == ns(start)
    assert len(walk(period, ns(start), ns(start) + 366 * DAY)) in {12, 13}


# The calendar of a time zone


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        # Cairo, 26 April 2024: the clocks went from 00:00 to 01:00, there was no midnight
        ("day in Africa/Cairo", "2024-04-25T21:59:59", "2024-04-24T22:00", "2024-04-25T22:00"),
        ("day in Africa/Cairo", "2024-04-25T22:00", "2024-04-25T22:00", "2024-04-26T21:00"),
        ("day at 00:30 in Africa/Cairo", "2024-04-26T12:00", "2024-04-25T22:30", "2024-04-26T21:30"),
        # Havana, 3 November 2024: the clocks went from 01:00 to 00:00, there were two midnights
        ("day in America/Havana", "2024-11-03T04:00", "2024-11-03T04:00", "2024-11-04T05:00"),
        ("day in America/Havana", "2024-11-03T05:30", "2024-11-03T04:00", "2024-11-04T05:00"),
        ("month from day 3 in America/Havana", "2024-11-03T04:00", "2024-11-03T04:00", "2024-12-03T05:00"),
        # St. John's, 30 October 2005: from 00:01 back to 23:01, which belongs to the day that had begun
        ("day in America/St_Johns", "2005-10-30T02:30", "2005-10-30T02:30", "2005-10-31T03:30"),
        ("day in America/St_Johns", "2005-10-30T02:45", "2005-10-30T02:30", "2005-10-31T03:30"),
        # Apia went over the date line: there was no 30 December 2011
        ("day in Pacific/Apia", "2011-12-30T09:59:59", "2011-12-29T10:00", "2011-12-30T10:00"),
        ("day in Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        ("month from day 30 in Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2012-01-29T10:00"),
        # The clocks of Lord Howe go by half an hour, those of Troll by two
        ("day in Australia/Lord_Howe", "2025-04-06T00:00", "2025-04-05T13:00", "2025-04-06T13:30"),
        ("day in Antarctica/Troll", "2025-03-30T12:00", "2025-03-30T00:00", "2025-03-30T22:00"),
        ("month in Europe/Berlin", "2026-03-31T21:59:59", "2026-02-28T23:00", "2026-03-31T22:00"),
        ("year from 04-01 in Asia/Kolkata", "2026-03-31T18:30", "2026-03-31T18:30", "2027-03-31T18:30"),
        ("week in America/New_York", "2026-03-09T03:59:59", "2026-03-02T05:00", "2026-03-09T04:00"),
        # Minutes and hours pass: one o'clock that comes twice is two hours, the day's last window may be shorter
        ("hour in Europe/Berlin", "2025-10-26T00:30", "2025-10-26T00:00", "2025-10-26T01:00"),
        ("hour in Europe/Berlin", "2025-10-26T01:30", "2025-10-26T01:00", "2025-10-26T02:00"),
        ("hour in Asia/Kathmandu", "2026-01-01T00:00", "2025-12-31T23:15", "2026-01-01T00:15"),
        ("6 hours in Europe/Berlin", "2025-10-26T22:30", "2025-10-26T22:00", "2025-10-26T23:00"),
        ("6 hours in Europe/Berlin", "2025-03-30T20:00", "2025-03-30T17:00", "2025-03-30T22:00"),
        ("6 hours in Europe/Berlin", "2025-07-01T00:00", "2025-06-30T22:00", "2025-07-01T04:00"),
    ],
)
def test_days_begin_at_the_first_local_midnight(period: str, now: str, start: str, end: str) -> None:
    assert window(Period.parse(period), at(now)) == (at(start), at(end))


def test_the_days_around_every_change_of_every_clock_since_1970_partition_time() -> None:
    """All zones of tzdata: no gap, no overlap, each day begins with its date and lasts 21 to 27 hours.

    Days between changes are alike, so only the ten days around each change are walked: about half a million.
    """
    changes = 0
    for name in ZONES:
        zone = ZoneInfo(name)
        period = Period(Step.DAY, zone=name)
        samples = [datetime(1970, 1, 5, tzinfo=UTC) + timedelta(days=10 * n) for n in range(2500)]
        offsets = [sample.astimezone(zone).utcoffset() for sample in samples]
        for (before, after), (earlier, later) in zip(pairwise(samples), pairwise(offsets), strict=True):
            if earlier == later:
                continue
            changes += 1
            now = ns(before)
            while now < ns(after) + 2 * DAY:
                start, end = bounds(period, now)
                assert (start == now) or now == ns(before), (name, now)
                assert start <= now < end, (name, now)
                first = local(start, zone)
                assert local(start - SECOND, zone).date() < first.date(), (name, first)
                if name != "Antarctica/Vostok":  # its clocks went by seven hours in 1994, so days had 17 and 31
                    assert 21 * HOUR <= end - start <= 27 * HOUR, (name, first)
                now = end
    assert changes > 20_000


def test_weeks_months_and_years_of_all_zones_partition_time_and_begin_with_a_day() -> None:
    from_ns, until_ns = at("2009-06-15"), at("2012-06-15")
    for name in ZONES:
        for period in (
            Period(Step.WEEK, zone=name, weekday=7),
            Period(Step.MONTH, zone=name, day=30),
            Period(Step.MONTH, 12, zone=name, month=4),
        ):
            day = Period(Step.DAY, zone=name)
            found = walk(period, from_ns, until_ns)
            assert all(earlier[1] == later[0] < later[1] for earlier, later in pairwise(found)), (name, period)
            assert all(bounds(day, start)[0] == start for start, _ in found), (name, period)


@given(in_zones, moments, st.sampled_from(["minute", "15 minutes", "hour", "2 hours", "6 hours", "12 hours"]))
def test_minutes_and_hours_are_never_longer_than_they_say_and_fill_the_day(
    zone: str, moment: datetime, text: str
) -> None:
    period = Period.parse(f"{text} in {zone}")
    length = period.count * 60 * SECOND
    start, end = bounds(period, ns(moment))
    midnight, after = bounds(Period(Step.DAY, zone=zone), ns(moment))
    assert midnight <= start < end <= after
    assert (start - midnight) % length == 0
    assert end - start == length or (end == after and end - start < length)


# Rolling periods


def test_a_rolling_period_counts_its_sub_buckets_and_the_whole_oldest() -> None:
    period = Period.parse("rolling 24 hours")
    now = at("2026-03-02T10:20")
    assert window(period, now) == (at("2026-03-02T10:00"), at("2026-03-02T11:00"))
    starts = span(period, now)
    assert len(starts) == 25
    assert (starts[0], starts[-1]) == (at("2026-03-01T10:00"), at("2026-03-02T10:00"))
    assert counts_until_ns(period, starts[0]) == window_ends_ns(period, now) == at("2026-03-02T11:00")
    assert counts_until_ns(period, starts[-1]) == at("2026-03-03T11:00")


@given(rolling_periods, moments)
def test_the_span_covers_the_period_and_less_than_one_bucket_more(period: Period, moment: datetime) -> None:
    now = ns(moment)
    starts = [start for start in span(period, now) if start is not None]
    bucket = period.count * 60 * SECOND // period.buckets
    assert len(starts) == period.buckets + 1
    assert all(later - earlier == bucket for earlier, later in pairwise(starts))
    assert starts[-1] == window(period, now)[0]
    since = now - period.count * 60 * SECOND
    assert starts[0] <= since < starts[0] + bucket
    assert counts_until_ns(period, starts[0]) == starts[-1] + bucket


@given(calendar_periods, moments)
def test_a_calendar_window_counts_alone_until_it_ends(period: Period, moment: datetime) -> None:
    start, end = bounds(period, ns(moment))
    assert span(period, ns(moment)) == (start,)
    assert counts_until_ns(period, start) == end


@given(
    rolling_periods.filter(lambda period: period.count <= 600),
    st.lists(st.tuples(st.integers(0, 100 * 60), st.integers(1, 40)), min_size=1, max_size=60),
)
def test_no_stretch_as_long_as_a_rolling_period_ever_holds_more_than_the_limit(
    period: Period, asked: list[tuple[int, int]]
) -> None:
    limit, now, booked, accounts = 100, 0, [], dict[int | None, int]()
    for pause_s, amount in asked:
        now += pause_s * SECOND
        if sum(accounts.get(start, 0) for start in span(period, now)) + amount <= limit:
            start = window(period, now)[0]
            accounts[start] = accounts.get(start, 0) + amount
            booked.append((now, amount))
    length = period.count * 60 * SECOND
    for until, _ in booked:
        assert sum(amount for moment, amount in booked if until - length < moment <= until) <= limit
