"""The token bucket: a pure integer rule over one number per bucket.

A bucket is kept as the *theoretical arrival time* (TAT) of the generic cell rate algorithm (ITU-T I.371), which is
the token bucket written as one instant: when it will be full again. A take moves that instant into the future by the
time that its units need to come back, and fits while the bucket is then at most one burst away from full. No fraction
of a refill is ever lost, however often a bucket is asked. A changed rate keeps the instant: what was taken under a
larger burst refills first.

Rules of this file
1. Instants and spans are ticks (attoseconds) of the store's clock, which never goes back (the store sees to it).
2. What is refused changes nothing. Asking for nothing always fits and changes nothing.
3. A bucket at or before ``now`` is full: it may be forgotten, and one never seen counts as full.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from tenantguard.model.rate import TICKS_PER_NANO

if TYPE_CHECKING:
    from tenantguard.model.rate import Rate

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Verdict(Generic[K]):
    """What taking every draw, or none, comes to.

    ``failing`` are the indexes of the draws that do not fit now; where there are none, everything fits. Asking again
    after ``retry_after_ns`` succeeds, and no sooner, if nobody else takes meanwhile; None says that it never will.
    ``ends`` is the TAT of every bucket that is asked for something, once all of that is taken.
    """

    failing: tuple[int, ...]
    retry_after_ns: int | None
    ends: Mapping[K, int]


def draw_all(draws: Iterable[tuple[K, Rate, int]], tats: Mapping[K, int], now: int) -> Verdict[K]:
    """Judge draws (a bucket, its rate, a cost in units) together: two of one bucket must fit one after the other."""
    starts: dict[K, int] = {}
    ends: dict[K, int] = {}
    failing = []
    longest = 0
    never = False
    for index, (key, rate, cost) in enumerate(draws):
        if cost == 0:
            continue
        if key not in ends:
            starts[key] = ends[key] = drawn(tats.get(key, now), 0, now)
        end = ends[key] = drawn(ends[key], cost * rate.unit_ticks, now)
        short = excess(end, rate, now)
        if short > 0:
            failing.append(index)
            longest = max(longest, short)
            never = never or excess(end, rate, starts[key]) > 0
    return Verdict(tuple(failing), None if never else up_to_ns(longest), ends)


def drawn(tat: int, need: int, now: int) -> int:
    """The TAT once units that need ``need`` ticks to come back are taken, whether they fit or not."""
    assert need >= 0, "a negative cost would mint tokens"
    return (tat if tat > now else now) + need  # noqa: FURB136 - max() takes three times as long


def excess(end: int, rate: Rate, now: int) -> int:
    """The ticks by which a bucket that would be left at ``end`` is overdrawn; at most 0 where it fits."""
    return end - now - rate.burst_ticks


def level(tat: int, rate: Rate, now: int) -> tuple[int, int]:
    """The whole units that a bucket holds, and nanoseconds, rounded up, until it is full."""
    missing = tat - now
    if missing <= 0:
        return rate.burst, 0
    left = rate.burst_ticks - missing
    return left // rate.unit_ticks if left > 0 else 0, -(-missing // TICKS_PER_NANO)


def next_unit_in_ns(full_in_ns: int, rate: Rate) -> int:
    """Nanoseconds, rounded up, until a bucket that will be full in ``full_in_ns`` holds one unit."""
    return max(0, up_to_ns(full_in_ns * TICKS_PER_NANO - rate.burst_ticks + rate.unit_ticks))


def refund(need: int, end: int, now: int) -> int:
    """The ticks by which a bucket's TAT goes back when a take of ``need`` ticks that left it at ``end`` is returned.

    Never more than what a bucket without that take would be ahead by. All of ``need`` can be too much: where such a
    bucket would have been full at some moment since, the real one has used that time to fill the hole of the take,
    and units given back on top would be credited twice. At that moment the real bucket was behind by at least the
    rest of the way to ``end``, and it is still, so that much is safe; and where there was no such moment, so is all.

    It holds as long as the TAT never fell below ``end`` since. Returning an earlier take lowers it: whoever does that
    lowers the ``end`` of every later take of the bucket by the same ticks.
    """
    return min(need, max(0, end - now))


def up_to_ns(ticks: int) -> int:
    """Ticks as nanoseconds, rounded up."""
    return -(-ticks // TICKS_PER_NANO)
