"""Periods: the stretches of time over which a budget or a quota counts, as values that are read from one notation.

Calendar periods begin where a time zone's calendar says, rolling ones end now, a lifetime has neither start nor end.
Where the windows of a period lie is computed in ``rules/windows.py``; ``docs/periods.md`` has the notation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

BUCKETS_DEFAULT: Final = 24
"""The sub-buckets of a rolling period that names none. Part of the notation: it never changes."""

UTC_NAME: Final = "UTC"
_MINUTE_NS: Final = 60_000_000_000
_DAY_MINUTES: Final = 1440
_ROLLING_DAYS_MAX: Final = 366
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS_OF_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LENGTH_MAX: Final = 100
_RANGES: Final = {
    "count": (1, _ROLLING_DAYS_MAX * _DAY_MINUTES),
    "month": (1, 12),
    "day": (1, 31),
    "weekday": (1, 7),
    "minute": (0, _DAY_MINUTES - 1),
    "buckets": (0, 366),
}
_CALENDAR: Final = (
    r"(?:(?P<count>[0-9]{1,6}) )?(?P<unit>[a-z]+)(?: from (?P<start>[^ ]+(?: [0-9]+)?))?(?: at (?P<at>[^ ]+))?"
)
_ROLLING: Final = r"rolling (?:(?P<count>[0-9]{1,6}) )?(?P<unit>[a-z]+)(?: / (?P<buckets>[0-9]{1,6}) buckets?)?"
_KEYS: Final = ("every", "from", "at", "in", "rolling", "buckets")
_EXAMPLES: Final = (
    "write for example 'month', 'month from day 15 in Europe/Berlin', 'year from 04-01', '15 minutes', "
    "'rolling 24 hours', 'lifetime'"
)


class PeriodError(ConfigurationError):
    """What was written is no period: the ``problem``, and in ``suggestion`` what to write instead."""

    def __init__(self, problem: str, suggestion: str) -> None:
        super().__init__(f"{problem}; {suggestion}")
        self.problem = problem
        self.suggestion = suggestion


class Step(StrEnum):
    """What the windows of a period are counted in. An hour is 60 minutes, a quarter 3 and a year 12 months."""

    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


_UNITS: Final = {
    "minute": (Step.MINUTE, 1),
    "hour": (Step.MINUTE, 60),
    "day": (Step.DAY, 1),
    "week": (Step.WEEK, 1),
    "month": (Step.MONTH, 1),
    "quarter": (Step.MONTH, 3),
    "year": (Step.MONTH, 12),
    "lifetime": (Step.LIFETIME, 1),
}
_PLURALS: Final = {f"{unit}s": unit for unit in _UNITS if unit != "lifetime"}
_WORDS: Final = (*_UNITS, *_PLURALS, *_WEEKDAYS, "rolling", "buckets", "bucket", "from", "at", "in")
_ROLLING_MINUTES: Final = {"minute": 1, "hour": 60, "day": _DAY_MINUTES}


@dataclass(frozen=True, slots=True, repr=False)
class Period:
    """The stretch of time over which a limit counts. Made by :meth:`parse`; ``str`` gives its one canonical text.

    A window is ``count`` steps long: minutes that divide a day, counted from midnight; one day; one week; months that
    divide a year. It begins in ``zone`` (an IANA name) at ``minute`` of the day (0: midnight), a week on ``weekday``
    (ISO: Monday is 1), months on ``day`` (clamped to the last day of a shorter month), several months counted from
    ``month``. With ``buckets`` the period is rolling: the last ``count`` minutes, counted in that many sub-buckets.

    What does not fit together raises :class:`PeriodError`, a :class:`ConfigurationError`.
    """

    MINUTE: ClassVar[Period]
    HOUR: ClassVar[Period]
    DAY: ClassVar[Period]
    WEEK: ClassVar[Period]
    MONTH: ClassVar[Period]
    YEAR: ClassVar[Period]
    LIFETIME: ClassVar[Period]

    step: Step = field(compare=False)
    count: int = field(default=1, compare=False)
    zone: str = field(default=UTC_NAME, compare=False)
    month: int = field(default=1, compare=False)
    day: int = field(default=1, compare=False)
    weekday: int = field(default=1, compare=False)
    minute: int = field(default=0, compare=False)
    buckets: int = field(default=0, compare=False)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise PeriodError(f"a period's {name} is not {value!r}", f"it is a whole number from {low} to {high}")
        _check_length(self)
        _check_start(self)
        if self.zone != UTC_NAME:
            _check_zone(self.zone)
        object.__setattr__(self, "text", _rolling_text(self) if self.buckets else _calendar_text(self))

    @classmethod
    def parse(cls, notation: str | Mapping[str, object]) -> Period:
        """Read ``"month from day 15 in Europe/Berlin"``, or the same as ``{every = "month", from = "day 15", ...}``.

        The same text gives the same object. Raises :class:`PeriodError`, a :class:`ConfigurationError`, for anything
        that is no period, with what was probably meant.
        """
        if isinstance(notation, str):
            return _READY.get(notation) or _parsed(notation)
        if isinstance(notation, Mapping):
            return cls.parse(_as_text(notation))
        raise PeriodError("a period is text or a table", _EXAMPLES)

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Period.parse({self.text!r})"


@lru_cache(maxsize=1024)
def _parsed(notation: str) -> Period:
    if len(notation) > _LENGTH_MAX:
        raise PeriodError(f"no period takes more than {_LENGTH_MAX} characters", _EXAMPLES)
    words, _, zone = " ".join(notation.split()).partition(" in ")
    words = " ".join(words.lower().replace("/", " / ").split())
    rolling = words.startswith("rolling")
    if rolling and (zone or re.search(r" (?:from|at) ", words)):
        raise PeriodError(
            "a rolling period ends now, wherever that is",
            "leave out 'from', 'at' and 'in', for example 'rolling 24 hours'",
        )
    matched = re.fullmatch(_ROLLING if rolling else _CALENDAR, words)
    unit = _PLURALS.get(matched["unit"], matched["unit"]) if matched else ""
    if matched is None or unit not in (_ROLLING_MINUTES if rolling else _UNITS):
        raise PeriodError(f"cannot read the period {notation!r}", _meant(words, rolling=rolling))
    count = int(matched["count"] or 1)
    if count == 0:
        raise PeriodError(f"a period of no {unit} is none", _EXAMPLES)
    if rolling:
        minutes = count * _ROLLING_MINUTES[unit]
        if minutes > _ROLLING_DAYS_MAX * _DAY_MINUTES:
            raise PeriodError(
                f"a rolling period is at most {_ROLLING_DAYS_MAX} days long", "write 'year', or fewer days"
            )
        period = Period(Step.MINUTE, minutes, buckets=_buckets(matched["buckets"]))
    else:
        step, steps = _UNITS[unit]
        count *= steps
        if step is Step.MINUTE and count == _DAY_MINUTES:
            step, count = Step.DAY, 1
        start = _start(step, count, matched["start"])
        period = Period(step, count, zone or UTC_NAME, minute=_minute(matched["at"]), **start)
    return period if period.text == notation else Period.parse(period.text)


def _as_text(table: Mapping[str, object]) -> str:
    """The text that says the same as a table."""
    for key, value in table.items():
        if key not in _KEYS:
            raise PeriodError(
                f"a period has no key {key!r}", _near(str(key), _KEYS) or f"known are {', '.join(_KEYS)}"
            )
        if type(value) is not (int if key == "buckets" else str):
            wanted = "a whole number" if key == "buckets" else "text in quotes"
            raise PeriodError(f"a period's {key!r} is {wanted}", _EXAMPLES)
    if ("every" in table) == ("rolling" in table):
        raise PeriodError("a period has either 'every' or 'rolling'", 'write for example { every = "month" }')
    text = str(table.get("every") or f"rolling {table.get('rolling')}")
    for key in ("from", "at", "in"):
        if key in table:
            text += f" {key} {table[key]}"
    return f"{text} / {table['buckets']} buckets" if "buckets" in table else text


def _start(step: Step, count: int, text: str | None) -> dict[str, int]:
    """What stands behind ``from``, as fields."""
    if text is None:
        return {}
    if step is Step.WEEK:
        if text not in _WEEKDAYS:
            raise PeriodError(
                f"{text!r} is no day of the week", _near(text, _WEEKDAYS) or "write for example 'week from sunday'"
            )
        return {"weekday": _WEEKDAYS.index(text) + 1}
    if step is not Step.MONTH:
        raise PeriodError("only a week, months, a quarter or a year has a 'from'", "leave it out")
    if count == 1:
        matched = re.fullmatch(r"day ([0-9]{1,2})", text)
        if matched is None or not 1 <= int(matched[1]) <= 31:
            raise PeriodError(f"{text!r} is no day of the month", "write 'from day 1' to 'from day 31'")
        return {"day": int(matched[1])}
    matched = re.fullmatch(r"([0-9]{2})-([0-9]{2})", text)
    month, day = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not 1 <= month <= 12 or not 1 <= day <= _DAYS_OF_MONTHS[month - 1]:
        raise PeriodError(f"{text!r} is no day of the year", "write the month first, for example 'from 04-01'")
    return {"month": month, "day": day}


def _minute(text: str | None) -> int:
    """What stands behind ``at``, as a minute of the day."""
    if text is None:
        return 0
    matched = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", text)
    if matched is None:
        raise PeriodError(f"{text!r} is no time of day", "write 'at 00:00' to 'at 23:59'")
    return int(matched[1]) * 60 + int(matched[2])


def _buckets(text: str | None) -> int:
    buckets = BUCKETS_DEFAULT if text is None else int(text)
    if buckets == 0:
        raise PeriodError("a rolling period needs a bucket", "write for example 'rolling 24 hours / 24 buckets'")
    return buckets


def _check_length(period: Period) -> None:
    step, count, buckets = period.step, period.count, period.buckets
    if buckets:
        if step is not Step.MINUTE:
            raise PeriodError("only minutes, hours and days roll", "write for example 'rolling 30 days'")
        if count * _MINUTE_NS % buckets:
            remedy = f"choose a number of buckets that divides it, for example {BUCKETS_DEFAULT}"
            raise PeriodError(f"{_spoken(count)} cannot be divided into {buckets} equal buckets", remedy)
    elif step is Step.MINUTE and (count == _DAY_MINUTES or _DAY_MINUTES % count):
        remedy = f"write for example '15 minutes' or '6 hours', or 'rolling {_spoken(count)}'"
        raise PeriodError(f"a day cannot be divided into windows of {_spoken(count)}", remedy)
    elif step is Step.MONTH and 12 % count:
        raise PeriodError(f"{count} months do not divide a year", "choose 1, 2, 3, 4, 6 or 12")
    elif step in {Step.DAY, Step.WEEK} and count != 1:
        days = count if step is Step.DAY else 7 * count
        whole = Step.WEEK if days == 7 else step
        raise PeriodError(f"nothing says where {count} {step}s begin", f"write '{whole}', or 'rolling {days} days'")
    elif step is Step.LIFETIME and count != 1:
        raise PeriodError("there is one lifetime", "write 'lifetime'")


def _check_start(period: Period) -> None:
    step, months = period.step, period.step is Step.MONTH
    if step is not Step.WEEK and period.weekday != 1:
        raise PeriodError("only a week begins on a day of the week", "write for example 'week from sunday'")
    if not months and period.day != 1:
        raise PeriodError("only months begin on a day of the month", "write for example 'month from day 15'")
    if not (months and period.count > 1) and period.month != 1:
        raise PeriodError("only several months begin in a month", "write for example 'year from 04-01'")
    if months and period.count > 1 and period.day > _DAYS_OF_MONTHS[period.month - 1]:
        raise PeriodError(f"month {period.month} has no day {period.day}", "write for example 'year from 04-01'")
    if step in {Step.MINUTE, Step.LIFETIME} and period.minute:
        raise PeriodError("only a day, and what is longer, begins at a time of day", "leave out 'at'")
    if (step is Step.LIFETIME or period.buckets) and period.zone != UTC_NAME:
        raise PeriodError("what is no calendar period has no time zone", "leave out 'in'")


def _check_zone(name: str) -> None:
    if name not in _zones():
        known = {zone.rpartition("/")[2].casefold(): zone for zone in sorted(_zones())}
        known.update((zone.casefold(), zone) for zone in _zones())
        close = _closest(name.casefold().replace(" ", "_"), known)
        meant = f"did you mean {known[close]!r}?" if close else "write an IANA name, for example 'Europe/Berlin'"
        raise PeriodError(f"there is no time zone {name!r}", meant)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    from zoneinfo import available_timezones  # noqa: PLC0415 - 60 ms that only those who name a zone pay

    return frozenset(available_timezones())


def _calendar_text(period: Period) -> str:
    unit, count = str(period.step), period.count
    for name, (step, steps) in _UNITS.items():
        # "6 months" rather than "2 quarters", but "2 hours" rather than "120 minutes"
        if step is period.step and (period.count == steps or (name == "hour" and period.count % steps == 0)):
            unit, count = name, period.count // steps
    text = unit if count == 1 else f"{count} {unit}s"
    if period.weekday != 1:
        text += f" from {_WEEKDAYS[period.weekday - 1]}"
    elif (period.month, period.day) != (1, 1):
        text += f" from day {period.day}" if period.count == 1 else f" from {period.month:02}-{period.day:02}"
    if period.minute:
        text += f" at {period.minute // 60:02}:{period.minute % 60:02}"
    return text if period.zone == UTC_NAME else f"{text} in {period.zone}"


def _spoken(minutes: int) -> str:
    """A length of time in the largest unit that it is whole in; a day stays 24 hours."""
    unit, count = "minute", minutes
    if count % 60 == 0:
        unit, count = "hour", count // 60
        if count > 24 and count % 24 == 0:
            unit, count = "day", count // 24
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _rolling_text(period: Period) -> str:
    text = f"rolling {_spoken(period.count)}"
    if period.buckets == BUCKETS_DEFAULT:
        return text
    return f"{text} / {period.buckets} bucket{'' if period.buckets == 1 else 's'}"


def _meant(words: str, *, rolling: bool) -> str:
    """What to write instead of ``words``: a known word for the first that is none, else examples."""
    if rolling:
        return "write for example 'rolling 24 hours', 'rolling 7 days' or 'rolling 60 minutes / 12 buckets'"
    for word in re.findall(r"[^\W\d_]+", words):
        if word not in _WORDS:
            return _near(word, _WORDS) or _EXAMPLES
    return _EXAMPLES


def _near(word: str, known: Iterable[str]) -> str | None:
    close = _closest(word.lower(), known)
    return f"did you mean {close!r}?" if close else None


def _closest(word: str, known: Iterable[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only those who mistype pay

    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


Period.MINUTE = Period(Step.MINUTE)
Period.HOUR = Period(Step.MINUTE, 60)
Period.DAY = Period(Step.DAY)
Period.WEEK = Period(Step.WEEK)
Period.MONTH = Period(Step.MONTH)
Period.YEAR = Period(Step.MONTH, 12)
Period.LIFETIME = Period(Step.LIFETIME)

_READY: Final = {
    period.text: period
    for period in (
        Period.MINUTE, Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH, Period.YEAR, Period.LIFETIME
    )
}  # fmt: skip
"""So that the common periods are one object each, however they were written."""
