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

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from tenantguard.model.frozen import frozen
from tenantguard.model.rate import TICKS_PER_NANO

if TYPE_CHECKING:
    from tenantguard.model.rate import Rate

K = TypeVar("K", bound=Hashable)

Draw: TypeAlias = "tuple[K, int, Rate, int]"
"""A bucket, its TAT before (the same in every draw of one bucket), its rate, and the units asked of it, 0 or more."""


@frozen
class Overdrawn:
    """Nothing is taken. ``failing`` are the indexes of the draws that do not fit now.

    Asking again after ``retry_after_ns`` succeeds, no sooner, if nobody else takes meanwhile; None: it never will.
    """

    failing: tuple[int, ...]
    retry_after_ns: int | None


def draw(tat: int, rate: Rate, cost: int, now: int) -> int | Overdrawn:
    """Take ``cost`` units from one bucket; the answer is its TAT after."""
    assert cost >= 0, "a negative cost would mint tokens"
    need = cost * rate.unit_ticks
    end = (tat if tat > now else now) + need  # noqa: FURB136 - max() takes three times as long
    excess = end - now - rate.burst_ticks
    if excess <= 0 or cost == 0:
        return end
    return Overdrawn((0,), -(-excess // TICKS_PER_NANO) if need <= rate.burst_ticks else None)


def draw_all(draws: Sequence[Draw[K]], now: int) -> dict[K, tuple[int, int]] | Overdrawn:
    """Take every draw or none; two of one bucket must fit one after the other.

    The answer tells of each bucket that something is taken from how many ticks those units need to come back, and
    its TAT after.
    """
    taken: dict[K, tuple[int, int]] = {}
    for key, tat, rate, cost in draws:
        if cost <= 0:
            assert cost == 0, "a negative cost would mint tokens"
            continue
        need = cost * rate.unit_ticks
        if key in taken:
            before, tat = taken[key]  # noqa: PLW2901 - the second draw begins where the first ended
            end = tat + need
            need += before
        else:
            end = (tat if tat > now else now) + need  # noqa: FURB136 - max() takes three times as long
        if end - now > rate.burst_ticks:
            return _overdrawn(draws, now)
        taken[key] = need, end
    return taken


def _overdrawn(draws: Sequence[Draw[K]], now: int) -> Overdrawn:
    failing = []
    longest = 0
    never = False
    needs: dict[K, int] = {}
    for index, (key, tat, rate, cost) in enumerate(draws):
        need = needs[key] = needs.get(key, 0) + cost * rate.unit_ticks
        excess = max(tat, now) + need - now - rate.burst_ticks
        if cost and excess > 0:
            failing.append(index)
            longest = max(longest, excess)
            never = never or need > rate.burst_ticks
    return Overdrawn(tuple(failing), None if never else -(-longest // TICKS_PER_NANO))


def level(tat: int, rate: Rate, now: int) -> tuple[int, int]:
    """The whole units that a bucket holds, and nanoseconds, rounded up, until it is full."""
    missing = tat - now
    if missing <= 0:
        return rate.burst, 0
    left = rate.burst_ticks - missing
    return left // rate.unit_ticks if left > 0 else 0, -(-missing // TICKS_PER_NANO)


def next_unit_in_ns(full_in_ns: int, rate: Rate) -> int:
    """Nanoseconds until a bucket that will be full in ``full_in_ns`` holds one unit, at most one too many."""
    missing = full_in_ns * TICKS_PER_NANO - rate.burst_ticks + rate.unit_ticks
    return max(0, -(-missing // TICKS_PER_NANO))


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
