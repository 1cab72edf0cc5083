"""Calendar windows in UTC: which span of time a budget counts over, computed from a time, never from a clock."""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from tenantguard.model.sections import Period

_SECOND_NS: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * _SECOND_NS
_LENGTHS_NS: Final = {Period.MINUTE: 60 * _SECOND_NS, Period.HOUR: 3_600 * _SECOND_NS, Period.DAY: _DAY_NS}
_EPOCH: Final = date(1970, 1, 1).toordinal()


def window(period: Period, now_ns: int) -> tuple[int | None, int | None]:
    """The window of ``period`` that contains ``now_ns``: its first nanosecond and the first one after it.

    Nanoseconds since 1970-01-01 UTC, which has no leap seconds and no daylight saving, so windows never overlap and
    leave no gap. A week begins on Monday (ISO 8601). A lifetime has neither start nor end: ``(None, None)``.
    Years 1 to 9998; outside them a week, month or year raises :class:`OverflowError` or :class:`ValueError`.
    """
    length_ns = _LENGTHS_NS.get(period)
    if length_ns is not None:
        start_ns = now_ns - now_ns % length_ns
        return start_ns, start_ns + length_ns
    if period is Period.LIFETIME:
        return None, None
    return _days(period, now_ns // _DAY_NS)


@lru_cache(maxsize=64)
def _days(period: Period, day: int) -> tuple[int, int]:
    """The window that contains a day, counted from 1970-01-01. Cached: one answer serves a whole day."""
    today = date.fromordinal(_EPOCH + day)
    if period is Period.WEEK:
        first = today - timedelta(days=today.weekday())
        after = first + timedelta(days=7)
    elif period is Period.MONTH:
        first = today.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        first = date(today.year, 1, 1)
        after = date(today.year + 1, 1, 1)
    return (first.toordinal() - _EPOCH) * _DAY_NS, (after.toordinal() - _EPOCH) * _DAY_NS
