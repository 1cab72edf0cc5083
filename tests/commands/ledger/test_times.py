"""Stretches of time, as operators write them, are the windows of periods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.commands.ledger.times import (
    common_zone,
    exact_time,
    read_stretch,
    read_time,
    show_day,
    show_time,
)
from tenantguard.model.period import Period
from tenantguard.rules.windows import window

NOW_NS = 1_795_000_000 * 10**9
ZONES = ["UTC", "Europe/Berlin", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Asia/Kathmandu"]
moments = st.integers(1980, 2034).flatmap(
    lambda year: st.integers(0, 364 * 86_400 - 1).map(
        lambda second: datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=second, microseconds=second % 10**6)
    )
)


@given(moments, st.sampled_from(ZONES))
def test_a_day_month_quarter_or_year_is_the_window_of_that_period(moment: datetime, zone: str) -> None:
    at_ns = int(moment.timestamp()) * 10**9
    for unit in ("day", "month", "quarter", "year"):
        start_ns, end_ns = window(Period.parse(f"{unit} in {zone}"), at_ns)
        assert start_ns is not None
        day = show_day(start_ns, zone)
        year, month = day[:4], int(day[5:7])
        text = {"day": day, "month": day[:7], "quarter": f"{year}-Q{month // 3 + 1}", "year": year}[unit]
        assert read_stretch(text, zone, NOW_NS) == (start_ns, end_ns)


@given(moments, st.sampled_from(ZONES))
def test_a_week_is_the_iso_week_of_that_zone(moment: datetime, zone: str) -> None:
    start_ns, end_ns = window(Period.parse(f"week in {zone}"), int(moment.timestamp()) * 10**9)
    assert start_ns is not None
    monday = datetime.fromisoformat(show_day(start_ns, zone))
    year, week, day = monday.isocalendar()
    if day == 1:  # the week of a zone that skipped its Monday begins later
        assert read_stretch(f"{year}-W{week:02}", zone, NOW_NS) == (start_ns, end_ns)


@pytest.mark.parametrize("text", ["month", "day", "15 minutes", "year from 04-01", "week from sunday"])
def test_a_period_is_its_running_window_in_the_zone(text: str) -> None:
    expected = window(Period.parse(f"{text} in Europe/Berlin"), NOW_NS)
    assert read_stretch(text, "Europe/Berlin", NOW_NS) == expected
    assert read_stretch(f"{text} in Asia/Tokyo", "Europe/Berlin", NOW_NS) == window(
        Period.parse(f"{text} in Asia/Tokyo"), NOW_NS
    )


def test_what_rolls_is_what_counts_now_and_a_lifetime_is_everything() -> None:
    from_ns, until_ns = read_stretch("rolling 7 days", "Europe/Berlin", NOW_NS)
    assert from_ns <= NOW_NS - 7 * 86_400 * 10**9 < NOW_NS < until_ns
    from_ns, until_ns = read_stretch("lifetime", "Europe/Berlin", NOW_NS)
    assert from_ns == 0
    assert until_ns == 2**63 - 1


@given(moments, st.sampled_from(ZONES))
def test_an_exact_time_is_read_as_what_it_was(moment: datetime, zone: str) -> None:
    at_ns = int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
    assert read_time(exact_time(at_ns, zone), zone) == at_ns


def test_times_are_shown_in_the_zone() -> None:
    assert show_time(NOW_NS, "Europe/Berlin") == "2026-11-18 12:06:40"
    assert exact_time(NOW_NS, "UTC") == "2026-11-18T11:06:40.000000Z"
    assert read_time("2026-11-18T12:06:40", "Europe/Berlin") == NOW_NS


def test_the_zone_is_the_one_that_all_periods_agree_on() -> None:
    assert common_zone(["month in Europe/Berlin", "day", "lifetime", "rolling 24 hours"]) == "Europe/Berlin"
    assert common_zone(["month in Europe/Berlin", "day in Asia/Tokyo"]) == "UTC"
    assert common_zone([]) == "UTC"
