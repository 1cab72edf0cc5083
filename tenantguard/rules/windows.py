"""Windows: which stretch of time a limit counts over, computed from a period and a time, never from a clock.

Rules of this file
1. The windows of a period partition time: each begins where the one before ends, and every instant lies in one.
2. A day begins at local midnight (or the period's time of day) as PEP 495 reads it with ``fold=0``: of two midnights
   the first, and a missing one where the clocks went forward over it. Weeks and months begin with their first day.
   Days thus last 21 to 27 hours (in all zones since 1970 but for one research station), and a day that a zone
   skipped, at the date line, is empty.
3. Minutes and hours are counted from local midnight as time that passes, so none is ever longer than it says; where
   the day is not a whole number of them, its last window is shorter.
4. A rolling period is counted in sub-buckets on a fixed grid of UTC. Which of them count is said by :func:`span`.

A ledger keeps an account for each start of a window. What is available in any period is ``limit`` less what was
spent and is held on the accounts of :func:`span`; what is held and settled is booked on the last of them, the one of
:func:`window`. Amounts stay in the window in which they were held, however late they settle.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tenantguard.model.period import UTC_NAME, Period, Step

if TYPE_CHECKING:
    from datetime import tzinfo

_SECOND_NS: Final = 1_000_000_000
_MINUTE_NS: Final = 60 * _SECOND_NS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MAX: Final = 1024
_LIFETIME: Final = Step.LIFETIME
_FOREVER: Final = (None, None)

_latest: Final[dict[Period, tuple[int, int]]] = {}
"""The window last asked for of each period: time moves on slowly, and the next question is mostly about the same."""


def window(period: Period, now_ns: int) -> tuple[int, int] | tuple[None, None]:
    """The window of ``period`` that contains ``now_ns``: its first nanosecond and the first one after it.

    Nanoseconds since 1970-01-01 UTC. Of a rolling period the sub-bucket that contains ``now_ns``. A lifetime has
    neither start nor end: ``(None, None)``. Years 2 to 9998; outside them raises :class:`OverflowError` or
    :class:`ValueError`.
    """
    known = _latest.get(period)
    if known is not None and known[0] <= now_ns < known[1]:
        return known
    if period.step is _LIFETIME:
        return _FOREVER
    found = _minutes(period, now_ns) if period.step is Step.MINUTE else _days(period, now_ns)
    if len(_latest) >= _LATEST_MAX:
        _latest.clear()
    _latest[period] = found
    return found


def span(period: Period, now_ns: int) -> tuple[int | None, ...]:
    """The starts of the windows that count at ``now_ns``, oldest first; the last is the one that contains it.

    One, but for a rolling period: its current sub-bucket and as many before it as the period has, so that the oldest,
    of which only a part is still within the period, counts whole. What counts is never too little, and too much by
    less than one sub-bucket of time. The oldest falls out where the current one ends (:func:`window_ends_ns`).
    """
    start_ns, end_ns = window(period, now_ns)
    if start_ns is None or end_ns is None or not period.buckets:
        return (start_ns,)
    bucket_ns = end_ns - start_ns
    return tuple(range(start_ns - period.buckets * bucket_ns, end_ns, bucket_ns))


def window_ends_ns(period: Period, now_ns: int) -> int | None:
    """When something new counts: the end of the window, None for a lifetime. Waiting less changes nothing."""
    return window(period, now_ns)[1]


def counts_until_ns(period: Period, start_ns: int | None) -> int | None:
    """From when on the window that begins at ``start_ns`` counts no more; None: it counts for ever."""
    if start_ns is None:
        return None
    end_ns = window(period, start_ns)[1]
    return end_ns if end_ns is None else end_ns + period.buckets * (end_ns - start_ns)


def _minutes(period: Period, now_ns: int) -> tuple[int, int]:
    length_ns = period.count * _MINUTE_NS
    if period.buckets:
        bucket_ns = length_ns // period.buckets
        start_ns = now_ns - now_ns % bucket_ns
        return start_ns, start_ns + bucket_ns
    midnight_ns, next_ns = _days(_day_in(period.zone), now_ns)
    start_ns = now_ns - (now_ns - midnight_ns) % length_ns
    return start_ns, min(start_ns + length_ns, next_ns)


def _days(period: Period, now_ns: int) -> tuple[int, int]:
    """Windows are numbered; the local date tells the number, or its neighbour where clocks or starts were moved."""
    zone = _zone(period.zone)
    today = (_EPOCH + timedelta(seconds=now_ns // _SECOND_NS)).astimezone(zone)
    if period.step is Step.DAY:
        number = today.toordinal()
    elif period.step is Step.WEEK:
        number = (today.toordinal() - period.weekday) // 7
    else:
        number = (today.year * 12 + today.month - period.month) // period.count
    start_ns = _start_ns(period, zone, number)
    while start_ns > now_ns:
        number -= 1
        start_ns = _start_ns(period, zone, number)
    end_ns = _start_ns(period, zone, number + 1)
    while end_ns <= now_ns:
        number += 1
        start_ns, end_ns = end_ns, _start_ns(period, zone, number + 1)
    return start_ns, end_ns


def _start_ns(period: Period, zone: tzinfo, number: int) -> int:
    """Where the window of that number begins."""
    if period.step is Step.DAY:
        first = date.fromordinal(number)
    elif period.step is Step.WEEK:
        first = date.fromordinal(number * 7 + period.weekday)  # day 1, in the year 1, was a Monday
    else:
        year, month = divmod(number * period.count + period.month - 1, 12)
        first = date(year, month + 1, 1)
        if period.day > 1:
            last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
            first = first.replace(day=min(period.day, last.day))
    start = datetime.combine(first, time(period.minute // 60, period.minute % 60), zone)
    return (start.astimezone(UTC) - _EPOCH) // timedelta(seconds=1) * _SECOND_NS


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    if name == UTC_NAME:
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - 4 ms that only those who name a zone pay

    return ZoneInfo(name)


@lru_cache(maxsize=1024)
def _day_in(zone: str) -> Period:
    return Period(Step.DAY, zone=zone)
