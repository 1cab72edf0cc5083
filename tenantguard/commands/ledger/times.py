"""Times as an operator writes and reads them: days, stretches of time, and the zone that they are told in."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.errors import ConfigurationError
from tenantguard.model.period import UTC_NAME, Period, PeriodError
from tenantguard.rules.windows import span, window

if TYPE_CHECKING:
    from collections.abc import Iterable

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_STRETCH: Final = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?:(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2}))?|Q(?P<quarter>[1-4])|W(?P<week>[0-9]{2})))?"
)
_FOREVER_NS: Final = 2**63 - 1
_YEARS: Final = range(1900, 2200)
"""Nanoseconds in 64 bits end in 1677 and 2262; periods that reach beyond a time need some room."""
_ZONE_MAX: Final = 64
_EXAMPLES: Final = (
    "write for example 2026, 2026-Q4, 2026-11, 2026-W47, 2026-11-20, or the running 'month', 'day', 'rolling 7 days'"
)


class Stretch(NamedTuple):
    """From one time on to before another."""

    from_ns: int
    until_ns: int


def read_stretch(text: str, zone: str, now_ns: int) -> Stretch:
    """A year, quarter, month, week or day of the calendar in ``zone``, or the running window of a period."""
    matched = _STRETCH.fullmatch(text.strip())
    try:
        if matched is not None:
            first, following = _days(matched)
            return Stretch(_midnight_ns(first, zone), _midnight_ns(following, zone))
        period = Period.parse(text)
        if zone != UTC_NAME and period.zone == UTC_NAME and not period.buckets and period != Period.LIFETIME:
            period = Period.parse(f"{text} in {zone}")
        start_ns, end_ns = window(period, now_ns)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"there is no period {text!r}; {_EXAMPLES}") from None
    except PeriodError as wrong:
        meant = wrong.suggestion if wrong.suggestion.startswith("did you mean") else _EXAMPLES
        raise ConfigurationError(f"{wrong.problem}; {meant}") from None
    if start_ns is None or end_ns is None:
        return Stretch(0, _FOREVER_NS)
    return Stretch(span(period, now_ns)[0] or 0, end_ns)


def read_time(text: str, zone: str) -> int:
    """A day (its midnight in ``zone``), or a time with ``Z`` or an offset, or without one in ``zone``."""
    try:
        at = datetime.fromisoformat(text)
        check_year(at.year)
        if at.tzinfo is None:
            at = at.replace(tzinfo=_zone(zone))
        return (at.astimezone(UTC) - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no day or time of the years {_YEARS[0]} to {_YEARS[-1]}: "
            "write for example 2026-11-20 or 2026-11-20T08:00:00Z"
        ) from None


def check_year(year: int) -> int:
    """``year`` if a ledger can count its nanoseconds; raises :class:`ValueError` where it cannot."""
    if year not in _YEARS:
        raise ValueError(f"the year {year} is beyond a ledger's time")
    return year


def check_zone(name: str) -> str:
    """``name`` if it is a time zone; raises with a suggestion where it is none."""
    if not name.strip() or len(name) > _ZONE_MAX:
        raise ConfigurationError(f"--zone: {name[:20]!r} is no time zone: write an IANA name, like Europe/Berlin")
    return Period.parse(f"day in {name}").zone


def common_zone(periods: Iterable[str]) -> str:
    """The time zone that all calendar periods are in, so far as they name one; else UTC."""
    zones = {Period.parse(period).zone for period in periods} - {UTC_NAME}
    return zones.pop() if len(zones) == 1 else UTC_NAME


def show_time(at_ns: int, zone: str) -> str:
    """``2026-11-20 18:30:05``."""
    return f"{_local(at_ns, zone):%Y-%m-%d %H:%M:%S}"


def exact_time(at_ns: int, zone: str) -> str:
    """RFC 3339 with microseconds and the offset of ``zone``."""
    return _local(at_ns, zone).isoformat(timespec="microseconds").replace("+00:00", "Z")


def show_day(at_ns: int, zone: str) -> str:
    """``2026-11-20``: the day that begins then, a moment later where midnight is missing."""
    return f"{_local(at_ns, zone):%Y-%m-%d}"


def _local(at_ns: int, zone: str) -> datetime:
    return (_EPOCH + timedelta(microseconds=at_ns // 1000)).astimezone(_zone(zone))


def _zone(name: str) -> tzinfo:
    if name == UTC_NAME:
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - 4 ms that only those who name a zone pay

    return ZoneInfo(name)


def _days(matched: re.Match[str]) -> tuple[date, date]:
    """The first day, and the first after the last."""
    year = check_year(int(matched["year"]))
    if matched["week"]:
        first = date.fromisocalendar(year, int(matched["week"]), 1)
        return first, first + timedelta(days=7)
    if matched["day"]:
        first = date(year, int(matched["month"]), int(matched["day"]))
        return first, first + timedelta(days=1)
    months, month = 12, 1
    if matched["month"]:
        months, month = 1, int(matched["month"])
    elif matched["quarter"]:
        months, month = 3, 3 * int(matched["quarter"]) - 2
    years, following = divmod(month - 1 + months, 12)
    return date(year, month, 1), date(year + years, following + 1, 1)


def _midnight_ns(day: date, zone: str) -> int:
    """As the windows of periods begin: of two midnights the first."""
    start = datetime.combine(day, time(), _zone(zone))
    return (start.astimezone(UTC) - _EPOCH) // timedelta(seconds=1) * 10**9
