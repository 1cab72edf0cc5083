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
4. What is given back leaves a bucket as if it had never been taken, so it is never credited twice; see below.

Giving back. The *backlog* of a bucket is how far its TAT is ahead of now. A take adds to it; the part of it that is
still there later is the smaller of what was added and the lowest backlog since: where the backlog fell below, the
bucket refilled what the take had emptied. So what must be known of a bucket while takes of it can still be given back
is how low its backlog has been since each of them. That is its *dips*: pairs of an instant and the backlog there,
just before something more was taken, later and higher ones last. An earlier dip that was no lower than a later one
tells nothing, so there is hardly more than one for each take that is open. Where there are ``DIPS_MIN`` more, or
``DIPS_MAX``, the latest stands for those after it, which can only make what is given back smaller. While no take of a
bucket is open, its dips are of no use and are dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from tenantguard.model.frozen import frozen
from tenantguard.model.rate import TICKS_PER_NANO

if TYPE_CHECKING:
    from tenantguard.model.rate import Rate

K = TypeVar("K", bound=Hashable)

Draw: TypeAlias = "tuple[K, int, Rate, int, bool]"
"""A bucket, its TAT before (the same in every draw of one bucket), its rate, the units asked of it (0 or more), and
whether it is a shadow, which refuses nothing and takes nothing where it does not fit."""

Dips: TypeAlias = tuple[tuple[int, int], ...]
"""Instants, and the lowest backlog from just after the instant before to this one; both rise."""

DIPS_MIN: Final = 16
DIPS_MAX: Final = 1024

SHARED: Final = ""
"""The owner of a bucket that tenants share."""


def bucket_key(owner: str, *parts: str) -> str:
    """The key of a bucket: whose it is (a tenant, or :data:`SHARED`), and what it counts.

    The parts stand between bars; a bar or percent sign inside one is written ``%7C`` or ``%25``, so parts never run
    together, and :func:`owner_of` is what stands before the first bar. Whatever else a part holds stays as it is:
    a store that keeps keys with characters of its own (``{}`` in Redis) hashes or escapes them.
    """
    return "|".join([escaped(part) for part in (owner, *parts)])


def escaped(part: str) -> str:
    """One part of a key."""
    if "%" in part or "|" in part:
        return part.replace("%", "%25").replace("|", "%7C")
    return part


def owner_of(key: str) -> str:
    """The owner in a key, escaped as it is there."""
    return key.partition("|")[0]


@frozen
class Overdrawn:
    """Nothing is taken. ``failing`` are the indexes of the draws that do not fit now, ``shadowed`` of such shadows.

    Asking again after ``retry_after_ns`` succeeds, no sooner, if nobody else takes meanwhile; None: it never will.
    """

    failing: tuple[int, ...]
    retry_after_ns: int | None
    shadowed: tuple[int, ...] = ()


def draw(tat: int, rate: Rate, cost: int, now: int) -> int | Overdrawn:
    """Take ``cost`` units from one bucket; the answer is its TAT after."""
    assert cost >= 0, "a negative cost would mint tokens"
    need = cost * rate.unit_ticks
    end = (tat if tat > now else now) + need  # noqa: FURB136 - max() takes three times as long
    excess = end - now - rate.burst_ticks
    if excess <= 0 or cost == 0:
        return end
    return Overdrawn((0,), -(-excess // TICKS_PER_NANO) if need <= rate.burst_ticks else None)


def draw_all(draws: Sequence[Draw[K]], now: int) -> tuple[list[int], tuple[int, ...]] | Overdrawn:
    """Take every draw or none; two of one bucket must fit one after the other.

    The answer has the TAT of its bucket after each draw, and the indexes of the shadows that did not fit.
    """
    ends: list[int] = []
    shadowed: tuple[int, ...] = ()
    taken: dict[K, int] = {}
    for index, (key, tat, rate, cost, shadow) in enumerate(draws):
        assert cost >= 0, "a negative cost would mint tokens"
        begin = taken.get(key, tat)
        end = max(begin, now) + cost * rate.unit_ticks
        if cost == 0:
            ends.append(begin)
        elif end - now <= rate.burst_ticks:
            taken[key] = end
            ends.append(end)
        elif shadow:
            shadowed += (index,)
            ends.append(begin)
        else:
            return overdrawn(draws, now)
    return ends, shadowed


def overdrawn(draws: Sequence[Draw[K]], now: int) -> Overdrawn:
    """Why not all of these can be taken, of which at least one does not fit."""
    failing: list[int] = []
    shadowed: list[int] = []
    longest = 0
    never = False
    needs: dict[K, int] = {}
    for index, (key, tat, rate, cost, shadow) in enumerate(draws):
        need = needs.get(key, 0) + cost * rate.unit_ticks
        excess = max(tat, now) + need - now - rate.burst_ticks
        if shadow and cost and excess > 0:
            shadowed.append(index)
            continue
        needs[key] = need
        if cost and excess > 0:
            failing.append(index)
            longest = max(longest, excess)
            never = never or need > rate.burst_ticks
    return Overdrawn(tuple(failing), None if never else -(-longest // TICKS_PER_NANO), tuple(shadowed))


def level(tat: int, rate: Rate, now: int) -> tuple[int, int]:
    """The whole units that a bucket holds, and nanoseconds, rounded up, until it is full."""
    missing = tat - now
    if missing <= 0:
        return rate.burst, 0
    left = rate.burst_ticks - missing
    return left // rate.unit_ticks if left > 0 else 0, -(-missing // TICKS_PER_NANO)


def next_unit_in_ns(full_in_ns: int, rate: Rate, units: int = 1) -> int:
    """Nanoseconds until a bucket that will be full in ``full_in_ns`` holds so many units, at most one too many."""
    missing = full_in_ns * TICKS_PER_NANO - rate.burst_ticks + units * rate.unit_ticks
    return max(0, -(-missing // TICKS_PER_NANO))


def dipped(dips: Dips, tat: int, now: int, takings: int) -> Dips:
    """The dips of a bucket whose TAT is ``tat`` and from which something is about to be taken.

    ``takings`` is how many takes of it are open.
    """
    backlog = tat - now if tat > now else 0
    kept = len(dips)
    while kept and dips[kept - 1][1] >= backlog:
        kept -= 1
    if kept and dips[kept - 1][0] == now:  # at one instant the lowest counts
        return dips[:kept]
    if kept >= min(DIPS_MIN + takings, DIPS_MAX):
        return (*dips[: kept - 1], (now, dips[kept - 1][1]))
    return (*dips[:kept], (now, backlog))


def left_of(need: int, taken_at: int, tat: int, dips: Dips, now: int) -> int:
    """The ticks that are still there of ``need`` ticks taken at ``taken_at``: the most that can be given back."""
    left = min(need, tat - now)
    since = bisect_right(dips, taken_at, key=itemgetter(0))
    if since < len(dips):
        left = min(left, dips[since][1])
    return max(left, 0)


def undipped(dips: Dips, taken_at: int, back: int) -> Dips:
    """The dips as they would have been if ``back`` ticks had not been taken at ``taken_at``."""
    since = bisect_right(dips, taken_at, key=itemgetter(0))
    if since == len(dips):
        return dips
    kept, lowest = since, dips[since][1] - back
    while kept and dips[kept - 1][1] >= lowest:
        kept -= 1
    return (*dips[:kept], *[(at, backlog - back) for at, backlog in dips[since:]])


def settled(
    need: int, used: int, taken_at: int, tat: int, dips: Dips, now: int, rate: Rate, takings: int
) -> tuple[int, Dips]:
    """A bucket's TAT and dips after a take of ``need`` ticks turned out to use ``used`` of them.

    What was not used is given back, as far as it is still there. What was used beyond is taken now, fit or not, but
    leaves the bucket at most one burst below empty: one bad estimate locks nobody out for longer.
    """
    if used <= need:
        back = left_of(need - used, taken_at, tat, dips, now)
        return (tat - back, undipped(dips, taken_at, back)) if back else (tat, dips)
    start = max(tat, now)
    end = min(start + used - need, max(start, now + 2 * rate.burst_ticks))
    return (end, dipped(dips, tat, now, takings)) if end > start else (tat, dips)
