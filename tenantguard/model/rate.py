"""Rates: how many units refill in which time, and how many may be taken at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import gcd
from typing import Final

from tenantguard.errors import ConfigurationError

NANOS_PER_SECOND: Final = 1_000_000_000
TICKS_PER_NANO: Final = 1_000_000_000
"""Buckets count time in attoseconds, so that a unit of any rate is a whole number of ticks within 1e-6 of its own."""

REQUESTS: Final = "requests"
"""The unit of which every request takes one."""

TOKENS: Final = "tokens"
"""What a model reads and writes: reserved by estimate, settled by what the response says."""

_BURST: Final = re.compile(r"\A(?P<rate>.*?)\s+burst\s+(?P<burst>[0-9]{1,13})\s*\Z", re.IGNORECASE | re.DOTALL)
_OURS: Final = re.compile(
    r"\s*(?P<whole>[0-9]{1,13})(?:\.(?P<part>[0-9]{1,9}))?(?:\s+(?!per\s)(?P<unit>[a-z][a-z0-9_.-]{0,63}))?"
    r"\s*(?:/|\bper)\s*(?P<count>[0-9]{1,6})?\s*(?P<period>[a-z]+)\s*",
    re.IGNORECASE,
)
_SHORT: Final = {
    "s": "second", "sec": "second", "secs": "second", "min": "minute", "mins": "minute", "h": "hour", "hr": "hour",
    "hrs": "hour", "d": "day", "w": "week", "wk": "week", "weeks": "week",
}  # fmt: skip
_NO_PERIOD: Final = re.compile(r"(?:/|per)\s*0+\s*[a-z]", re.IGNORECASE)
_PERIODS_NS: Final = {
    name: seconds * NANOS_PER_SECOND
    for name, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
}
_EMISSION_MAX_NS: Final = 366 * 86_400 * NANOS_PER_SECOND
_COUNT_MAX: Final = 10**12
_UNITS_PER_NANO_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` units every ``period_ns`` nanoseconds, at most ``burst`` at once (default: ``amount``).

    Impossible numbers raise :class:`ConfigurationError`: amounts and bursts are 1 to 10**12, and one unit takes at
    least a picosecond and at most 366 days to come back.

    ``unit_ticks`` is that time and ``burst_ticks`` that of a whole burst, derived for the bucket rule. A unit is
    rounded down to a tick (the rate runs fast by less than 1e-6 of itself, by less than 1e-12 below a million units
    a second), and a burst is whole units: a full bucket gives exactly ``burst`` of them, however they are asked for.
    """

    amount: int
    period_ns: int
    burst: int = 0
    unit_ticks: int = field(init=False, repr=False, compare=False)
    burst_ticks: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.burst == 0:
            object.__setattr__(self, "burst", self.amount)
        for name in ("amount", "period_ns", "burst"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"a rate's {name} must be a whole number of at least 1")
        if self.amount > _COUNT_MAX or self.burst > _COUNT_MAX:
            raise ConfigurationError("a rate's amount and burst are at most 10**12")
        if self.period_ns > self.amount * _EMISSION_MAX_NS:
            raise ConfigurationError("a rate must give at least one unit in 366 days")
        if self.amount > self.period_ns * _UNITS_PER_NANO_MAX:
            raise ConfigurationError("a rate gives at most 10**12 units a second")
        object.__setattr__(self, "unit_ticks", self.period_ns * TICKS_PER_NANO // self.amount)
        object.__setattr__(self, "burst_ticks", self.burst * self.unit_ticks)

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate of requests, see :func:`parse_rate`; one that names another unit is refused."""
        rate, unit = parse_rate(text)
        if unit != REQUESTS:
            raise ConfigurationError(f"the rate {text!r} counts {unit}: here it must count requests")
        return rate

    def __str__(self) -> str:
        for name, length_ns in _PERIODS_NS.items():
            count, rest = divmod(self.period_ns, length_ns)
            if count and not rest:
                return f"{self.amount} per {name if count == 1 else f'{count} {name}s'}, burst {self.burst}"
        return f"{self.amount} per {self.period_ns} ns, burst {self.burst}"


def parse_rate(text: str) -> tuple[Rate, str]:
    """Read ``"10/second"``, ``"500 per 5 minutes burst 100"``, ``"100000 tokens/minute"``: a rate, and its unit.

    The notation is that of ``limits``, and beyond it a burst, the name of a unit (:data:`REQUESTS` by default),
    decimals (``"1.5/second"``), weeks, and short names of periods (``s sec min h hr d w wk``). A month is 30 days and
    a year 360, as in ``limits``; limits that must reset on a calendar boundary are budgets or quotas, not rates.

    Without a burst it is the amount, rounded up. Raises :class:`ConfigurationError` for anything else, in the words
    of ``limits`` where it is the one to refuse.
    """
    import limits  # noqa: PLC0415 - 60 ms that only those who write a rate as text pay

    matched = _BURST.match(text)
    notation = matched["rate"] if matched else text
    ours = _OURS.fullmatch(notation)
    scale, unit = 1, REQUESTS
    plain = notation
    if ours is not None:
        scale = 10 ** len(ours["part"] or "")
        unit = (ours["unit"] or REQUESTS).lower()
        period = _SHORT.get(ours["period"].lower(), ours["period"])
        count = int(ours["count"]) if ours["count"] else 1
        if period.lower() == "week":
            period, count = "day", 7 * count
        plain = f"{ours['whole']}{ours['part'] or ''}/{count} {period}"
    try:
        item, *more = limits.parse_many(plain)
    except ValueError as failed:
        raise ConfigurationError(
            f"cannot read the rate {text!r}: {failed}. Write for example '10/second', '500 per 5 minutes', "
            "'100/minute burst 200' or '100000 tokens/minute'",
        ) from None
    if more:
        raise ConfigurationError(f"the rate {text!r} is several: write each as one of its own")
    burst = int(matched["burst"]) if matched else -(-item.amount // scale)
    if burst == 0 or item.amount == 0 or _NO_PERIOD.search(notation):  # limits reads "per 0 seconds" as per second
        raise ConfigurationError(f"the rate {text!r} would never let anything through")
    shared = gcd(item.amount, scale)
    period_ns = item.get_expiry() * NANOS_PER_SECOND * (scale // shared)
    return Rate(item.amount // shared, period_ns, burst), unit
