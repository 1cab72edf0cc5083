"""What callers are told of their limits, in response headers: as the IETF's draft says, or as their clients read it.

``ietf``
    ``RateLimit-Policy`` with every limit as ``"<name>";q=<units>;w=<seconds>``, its burst as ``tenantguard-burst``
    where that differs, and ``RateLimit`` with the tightest: the units left ``r``, and the seconds ``t`` in which no
    more can be used (draft-ietf-httpapi-ratelimit-headers-11).
``legacy``
    ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset`` of the tightest limit of requests, else of any. The reset is
    in seconds since 1970, as GitHub, slowapi and Flask-Limiter write it.
``openai``
    ``x-ratelimit-limit-requests``, ``-remaining-requests`` and ``-reset-requests``, and the same of ``tokens``; a
    reset is how long that takes, as ``6m0s`` (OpenAI's guide to rate limits).
``anthropic``
    ``anthropic-ratelimit-requests-limit``, ``-remaining`` and ``-reset``, and the same of ``tokens``; a reset is an
    instant of RFC 3339 (Anthropic's reference of rate limits).

In the last three a limit is the bucket's burst, and the reset is when it is full again, rounded up. They take the
place of what the application wrote under these names, since each has one value; the draft's are lists, and stand
beside the application's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from tenantguard.model.rate import NANOS_PER_SECOND, REQUESTS, TOKENS
from tenantguard.model.route import Dialect
from tenantguard.model.sections import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenantguard.rules.limits import Limit

Level: TypeAlias = tuple[int, int]
"""The units left in a bucket, and nanoseconds until it is full."""

Line: TypeAlias = tuple[bytes, bytes]

Ranked: TypeAlias = tuple[int, int]
"""The index of a limit, and how many units a request takes of it, at least one."""

_BY_DIALECT: Final = {
    Dialect.PROBLEM: Signals.IETF,
    Dialect.OPENAI: Signals.OPENAI,
    Dialect.ANTHROPIC: Signals.ANTHROPIC,
}
_MILLI_NS: Final = 1_000_000
_LAST_S: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, after which RFC 3339 has no years."""


class Signal(Protocol):
    """Some limits, and how they are told."""

    @property
    def dated(self) -> bool:
        """Whether instants are told, so that the time is needed."""
        ...

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names of the application's headers whose place these take."""
        ...

    def told(self, tightest: int, levels: Sequence[Level], now_ns: int) -> Sequence[Line]:
        """The header lines, after a decision at ``now_ns`` (nanoseconds since 1970)."""
        ...

    def refused(self, tightest: int, levels: Sequence[Level], wait_s: int, now_ns: int) -> Sequence[Line]:
        """The same where the request was refused and must wait: no window that is told ends later than the wait."""
        ...


def signal_of(signals: Signals, dialect: Dialect, limits: Sequence[Limit], costs: Sequence[int]) -> Signal | None:
    """How limits of which a request takes ``costs`` are told; None where they are not.

    Shadows are never told: nobody has to obey them.
    """
    if signals is Signals.AUTO:
        signals = _BY_DIALECT[dialect]
    slowest = slowest_first(limits, costs)
    if signals is Signals.NONE or not slowest:
        return None
    if signals is Signals.IETF:
        return _Draft(limits)
    by_unit = {unit: [one for one in slowest if limits[one[0]].unit == unit] for unit in (REQUESTS, TOKENS)}
    if signals is Signals.LEGACY:
        return _Fields({"x-ratelimit-{}": by_unit[REQUESTS] or slowest}, limits, _epoch, dated=True)
    anthropic = signals is Signals.ANTHROPIC
    form = "anthropic-ratelimit-{1}-{0}" if anthropic else "x-ratelimit-{0}-{1}"
    units = {form.format("{}", unit): ranked for unit, ranked in by_unit.items() if ranked}
    return _Fields(units, limits, _instant if anthropic else _duration, dated=anthropic)


def slowest_first(limits: Sequence[Limit], costs: Sequence[int]) -> list[Ranked]:
    """The limits that can refuse, by how long what a request takes needs to come back."""
    told = [index for index, limit in enumerate(limits) if not limit.shadow]
    told.sort(key=lambda index: -costs[index] * limits[index].rate.unit_ticks)
    return [(index, costs[index] or 1) for index in told]


def tightest_of(slowest: Sequence[Ranked], levels: Sequence[Level]) -> int:
    """Of limits, slowest first, the one with the fewest such requests left; the slowest of several."""
    tightest, cost = slowest[0]
    if len(slowest) > 1:
        fewest = levels[tightest][0] // cost
        for index, cost in slowest:
            left = levels[index][0] // cost
            if left < fewest:
                tightest, fewest = index, left
    return tightest


class _Draft:
    """The fields of the draft."""

    __slots__ = ("_limits", "_policies")
    dated = False
    replaced: tuple[str, ...] = ()

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        policies = ", ".join([limit.policy for limit in limits if not limit.shadow])
        self._policies = (b"ratelimit-policy", policies.encode())

    def told(self, tightest: int, levels: Sequence[Level], now_ns: int) -> Sequence[Line]:
        del now_ns
        limit = self._limits[tightest]
        remaining, full_in_ns = levels[tightest]
        return self._policies, (b"ratelimit", limit.state % (remaining, limit.window_s(remaining, full_in_ns)))

    def refused(self, tightest: int, levels: Sequence[Level], wait_s: int, now_ns: int) -> Sequence[Line]:
        del now_ns
        return self._policies, (b"ratelimit", self._limits[tightest].state % (levels[tightest][0], wait_s))


class _Fields:
    """Three fields for each unit: what there is at most, what is left, and when all of it is back.

    ``units`` are forms of their names, each with the limits of one unit, slowest first.
    """

    __slots__ = ("_reset", "_units", "dated", "replaced")

    def __init__(
        self,
        units: dict[str, list[Ranked]],
        limits: Sequence[Limit],
        reset: Callable[[int, int], bytes],
        *,
        dated: bool,
    ) -> None:
        self._reset = reset
        self.dated = dated
        self.replaced = tuple([form.format(what) for form in units for what in ("limit", "remaining", "reset")])
        self._units = [
            (
                slowest,
                {index: (form.format("limit").encode(), b"%d" % limits[index].rate.burst) for index, _ in slowest},
                form.format("remaining").encode(),
                form.format("reset").encode(),
            )
            for form, slowest in units.items()
        ]

    def told(self, tightest: int, levels: Sequence[Level], now_ns: int) -> Sequence[Line]:
        del tightest  # of all units
        lines: list[Line] = []
        for slowest, limit, remaining, reset in self._units:
            index = tightest_of(slowest, levels)
            units, full_in_ns = levels[index]
            lines += limit[index], (remaining, b"%d" % units), (reset, self._reset(full_in_ns, now_ns))
        return lines

    def refused(self, tightest: int, levels: Sequence[Level], wait_s: int, now_ns: int) -> Sequence[Line]:
        del wait_s
        return self.told(tightest, levels, now_ns)


def _epoch(full_in_ns: int, now_ns: int) -> bytes:
    return b"%d" % -(-(now_ns + full_in_ns) // NANOS_PER_SECOND)


def _instant(full_in_ns: int, now_ns: int) -> bytes:
    seconds = min(-(-(now_ns + full_in_ns) // NANOS_PER_SECOND), _LAST_S)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _duration(full_in_ns: int, now_ns: int) -> bytes:
    """A length of time as Go writes it: ``17ms``, ``1.5s``, ``6m0s``, ``24h0m0s``."""
    del now_ns
    millis = -(-full_in_ns // _MILLI_NS)
    if 0 < millis < 1000:
        return b"%dms" % millis
    seconds, millis = divmod(millis, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    part = f".{millis:03}".rstrip("0") if millis else ""
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{larger}{seconds}{part}s".encode()
