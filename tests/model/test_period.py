"""Periods: one value and one text for each, and what is said to those who write no period."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.period import Period, PeriodError, Step

ZONES = ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Kathmandu"]
CONSTANTS = ["MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR", "LIFETIME"]

WORDS = [
    "0",
    "1",
    "15",
    "99",
    "day",
    "days",
    "week",
    "month",
    "year",
    "rolling",
    "from",
    "at",
    "in",
    "04-01",
    "UTC",
    "/",
]

clock = st.integers(0, 1439)
in_zones = st.sampled_from(["UTC", *ZONES])
periods = st.one_of(
    st.sampled_from([getattr(Period, name) for name in CONSTANTS]),
    st.builds(Period, st.just(Step.MINUTE), st.sampled_from([n for n in range(1, 1440) if 1440 % n == 0]), in_zones),
    st.builds(Period, st.just(Step.DAY), zone=in_zones, minute=clock),
    st.builds(Period, st.just(Step.WEEK), zone=in_zones, weekday=st.integers(1, 7), minute=clock),
    st.builds(Period, st.just(Step.MONTH), zone=in_zones, day=st.integers(1, 31), minute=clock),
    st.builds(
        Period,
        st.just(Step.MONTH),
        st.sampled_from([2, 3, 4, 6, 12]),
        in_zones,
        month=st.integers(1, 12),
        day=st.integers(1, 29),
        minute=clock,
    ),
    st.builds(
        lambda per_bucket, buckets: Period(Step.MINUTE, per_bucket * buckets, buckets=buckets),
        st.integers(1, 1440),
        st.integers(1, 366),
    ),
)


@given(periods)
def test_the_text_of_a_period_reads_as_the_same_period(period: Period) -> None:
    again = Period.parse(str(period))
    assert again == period
    assert hash(again) == hash(period)
    assert str(again) == str(period)
    assert all(getattr(again, name) == getattr(period, name) for name in Period.__slots__)
    assert Period.parse(str(period)) is again
    assert eval(repr(period), {"Period": Period}) == period


@given(periods, periods)
def test_periods_are_equal_exactly_where_their_fields_are(one: Period, other: Period) -> None:
    same = all(getattr(one, name) == getattr(other, name) for name in Period.__slots__)
    assert (one == other) is same
    assert (str(one) == str(other)) is same


@given(periods)
def test_copies_of_a_period_are_equal_to_it(period: Period) -> None:
    for copied in (copy.deepcopy(period), pickle.loads(pickle.dumps(period))):
        assert copied == period
        assert {period: 1}[copied] == 1


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_common_periods_are_one_object_each(name: str) -> None:
    period = getattr(Period, name)
    assert str(period) == name.lower()
    assert Period.parse(name.lower()) is period
    assert Period.parse(f"  1  {name} ") is period


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Month  From DAY 15  in Europe/Berlin", "month from day 15 in Europe/Berlin"),
        ("month from day 1", "month"),
        ("month in UTC", "month"),
        ("month at 00:00", "month"),
        ("month from day 31 at 09:30 in Asia/Kathmandu", "month from day 31 at 09:30 in Asia/Kathmandu"),
        ("week from monday", "week"),
        ("week from sunday", "week from sunday"),
        ("year from 01-01", "year"),
        ("year from 04-01", "year from 04-01"),
        ("year from 02-29", "year from 02-29"),
        ("12 months", "year"),
        ("4 quarters from 04-01", "year from 04-01"),
        ("3 months", "quarter"),
        ("2 quarters", "6 months"),
        ("quarter from 02-01 in America/New_York", "quarter from 02-01 in America/New_York"),
        ("15 minutes", "15 minutes"),
        ("60 minutes", "hour"),
        ("120 minutes", "2 hours"),
        ("90 minutes in Asia/Kathmandu", "90 minutes in Asia/Kathmandu"),
        ("24 hours", "day"),
        ("1440 minutes in Europe/Berlin", "day in Europe/Berlin"),
        ("days", "day"),
        ("day at 06:00 in Asia/Tokyo", "day at 06:00 in Asia/Tokyo"),
        ("rolling 24 hours", "rolling 24 hours"),
        ("rolling 24 hours / 24 buckets", "rolling 24 hours"),
        ("rolling 1 day", "rolling 24 hours"),
        ("rolling day/48 buckets", "rolling 24 hours / 48 buckets"),
        ("rolling 168 hours", "rolling 7 days"),
        ("rolling 60 minutes / 1 bucket", "rolling 1 hour / 1 bucket"),
        ("rolling 90 minutes", "rolling 90 minutes"),
        ("LIFETIME", "lifetime"),
    ],
)
def test_what_means_the_same_is_one_text(text: str, canonical: str) -> None:
    assert str(Period.parse(text)) == canonical


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"every": "month"}, "month"),
        ({"every": "month", "from": "day 15", "in": "Europe/Berlin"}, "month from day 15 in Europe/Berlin"),
        ({"in": "Asia/Tokyo", "at": "06:00", "every": "day"}, "day at 06:00 in Asia/Tokyo"),
        ({"every": "15 minutes"}, "15 minutes"),
        ({"rolling": "24 hours"}, "rolling 24 hours"),
        ({"rolling": "7 days", "buckets": 7}, "rolling 7 days / 7 buckets"),
    ],
)
def test_a_table_says_the_same_as_a_text(table: dict[str, Any], text: str) -> None:
    assert Period.parse(table) is Period.parse(text)


@pytest.mark.parametrize(
    ("notation", "suggestion"),
    [
        ("", "write for example 'month'"),
        ("dya", "did you mean 'day'?"),
        ("monthly", "did you mean 'month'?"),
        ("month form day 15", "did you mean 'from'?"),
        ("month from 15", "write 'from day 1' to 'from day 31'"),
        ("month from day 0", "write 'from day 1' to 'from day 31'"),
        ("month from day 32", "write 'from day 1' to 'from day 31'"),
        ("month from 04-01", "write 'from day 1' to 'from day 31'"),
        ("year from day 15", "for example 'from 04-01'"),
        ("year from 13-01", "for example 'from 04-01'"),
        ("year from 02-30", "for example 'from 04-01'"),
        ("quarter from april", "for example 'from 04-01'"),
        ("week from sundai", "did you mean 'sunday'?"),
        ("week from 7", "write for example 'week from sunday'"),
        ("day from sunday", "leave it out"),
        ("lifetime from 04-01", "leave it out"),
        ("day at 6:00", "write 'at 00:00' to 'at 23:59'"),
        ("day at 24:00", "write 'at 00:00' to 'at 23:59'"),
        ("hour at 06:00", "leave out 'at'"),
        ("lifetime at 06:00", "leave out 'at'"),
        ("lifetime in Europe/Berlin", "leave out 'in'"),
        ("month in europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("month in Berlin", "did you mean 'Europe/Berlin'?"),
        ("month in New York", "did you mean 'America/New_York'?"),
        ("month in Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("month in ../../etc/passwd", "write an IANA name"),
        ("month in right/Europe/Berlin", "did you mean 'Europe/Berlin'?"),
        ("0 minutes", "write for example 'month'"),
        ("7 minutes", "'rolling 7 minutes'"),
        ("36 hours", "'rolling 36 hours'"),
        ("7 days", "write 'week', or 'rolling 7 days'"),
        ("2 days", "write 'day', or 'rolling 2 days'"),
        ("2 weeks", "write 'week', or 'rolling 14 days'"),
        ("5 months", "choose 1, 2, 3, 4, 6 or 12"),
        ("2 years", "choose 1, 2, 3, 4, 6 or 12"),
        ("2 lifetime", "write 'lifetime'"),
        ("1.5 hours", "write for example 'month'"),
        ("-1 hours", "write for example 'month'"),
        ("\u0661 hour", "write for example 'month'"),
        ("1234567 minutes", "write for example 'month'"),
        ("rolling", "'rolling 24 hours'"),
        ("rolling month", "'rolling 24 hours'"),
        ("rolling 24h", "'rolling 24 hours'"),
        ("rolling 0 hours", "write for example 'month'"),
        ("rolling 367 days", "write 'year', or fewer days"),
        ("rolling 24 hours in Europe/Berlin", "leave out 'from', 'at' and 'in'"),
        ("rolling 24 hours from sunday", "leave out 'from', 'at' and 'in'"),
        ("rolling 24 hours / 0 buckets", "'rolling 24 hours / 24 buckets'"),
        ("rolling 24 hours / 7 buckets", "choose a number of buckets that divides it"),
        ("rolling 24 hours / 1000 buckets", "from 0 to 366"),
        ({}, '{ every = "month" }'),
        ({"evry": "month"}, "did you mean 'every'?"),
        ({"every": "month", "length": "3"}, "known are every"),
        ({"every": "month", "rolling": "24 hours"}, '{ every = "month" }'),
        ({"every": 3}, "write for example 'month'"),
        ({"rolling": "24 hours", "buckets": "24"}, "write for example 'month'"),
        ({"rolling": "24 hours", "buckets": True}, "write for example 'month'"),
        ({"every": "month", "buckets": 24}, "write for example 'month'"),
        ("month " * 20, "write for example 'month'"),
        (30, "write for example 'month'"),
        (None, "write for example 'month'"),
    ],
)
def test_what_is_no_period_is_refused_with_what_to_write(notation: Any, suggestion: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Period.parse(notation)
    assert isinstance(refused.value, PeriodError)
    assert suggestion in refused.value.suggestion
    assert str(refused.value) == f"{refused.value.problem}; {refused.value.suggestion}"


@given(st.text() | st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_any_text_is_a_period_or_a_configuration_error(text: str) -> None:
    try:
        period = Period.parse(text)
    except ConfigurationError:
        return
    assert Period.parse(str(period)) is period


@pytest.mark.parametrize(
    "fields",
    [
        {"step": Step.DAY, "count": True},
        {"step": Step.MINUTE, "count": 15.0},
        {"step": Step.MINUTE, "count": 1440},
        {"step": Step.DAY, "minute": 1440},
        {"step": Step.DAY, "minute": -1},
        {"step": Step.DAY, "day": 2},
        {"step": Step.DAY, "month": 2},
        {"step": Step.DAY, "weekday": 2},
        {"step": Step.WEEK, "day": 2},
        {"step": Step.MONTH, "month": 2},
        {"step": Step.MONTH, "count": 12, "month": 4, "day": 31},
        {"step": Step.MONTH, "buckets": 2},
        {"step": Step.MINUTE, "count": 60, "buckets": 2, "zone": "Europe/Berlin"},
        {"step": Step.MINUTE, "count": 60, "buckets": 2, "minute": 1},
        {"step": Step.LIFETIME, "count": 2},
        {"step": Step.DAY, "zone": ""},
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Period(**fields)


def test_every_zone_of_the_time_zone_data_is_known() -> None:
    for zone in available_timezones():
        assert Period.parse(f"month in {zone}").zone == zone
