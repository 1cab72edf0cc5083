"""What one process decides by itself while the servers cannot be asked in time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import TICKS_PER_NANO, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.ports import Clock

_KNOWN_MAX: Final = 50_000
_LONGEST_UNIT_NS: Final = 366 * 86_400 * 10**9


class Fallback:
    """Buckets of this process, each with its share of the rate, that begin where the shared ones were last seen.

    Of ``processes`` that share a rate, each admits a part of its burst and of its refill, so that together they admit
    about what the rate says. What was seen is remembered of the latest 50 000 buckets at least; another begins full.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._store = MemoryLimits(clock, 2 * _KNOWN_MAX)
        self._known: dict[str, int] = {}
        self._known_before: dict[str, int] = {}

    def saw(self, takes: Sequence[Take], tats: Sequence[int], shift: int) -> None:
        """The TATs of shared buckets, which are ticks of this process's clock once ``shift`` is added."""
        known = self._known
        for take, tat in zip(takes, tats, strict=True):
            known[take.bucket] = tat + shift
        if len(known) > _KNOWN_MAX:
            self._known_before, self._known = known, {}

    def last_seen(self, bucket: str) -> int:
        """The TAT that was seen last; 0 where none was."""
        tat = self._known.get(bucket)
        return tat if tat is not None else self._known_before.get(bucket, 0)

    def refill(self, bucket: str) -> None:
        """A bucket is full."""
        self._known.pop(bucket, None)
        self._known_before.pop(bucket, None)
        self._store.refill(bucket)

    def take(self, command: TakeTokens, processes: int, retry_after_ns: int) -> Taken | Shortage:
        """Take from this process's buckets.

        What fits into the burst but not into this process's part of it is refused for ``retry_after_ns``: a server
        that answers again may grant it.
        """
        takes = tuple(
            [Take(take.bucket, share_of(take.rate, processes), take.cost, take.shadow) for take in command.takes]
        )
        now = self._monotonic_ns() * TICKS_PER_NANO
        for take in takes:
            tat = self._known.pop(take.bucket, 0) or self._known_before.pop(take.bucket, 0)
            if tat > now and take.cost:
                self._store.drain(take, tat - now)
        answer = self._store.execute(TakeTokens(command.id, takes))
        assert answer is not None
        if isinstance(answer, Taken):
            return Taken(answer.levels, answer.shadowed, degraded=True)
        wait_ns = answer.retry_after_ns
        if wait_ns is None and all(take.cost <= take.rate.burst for take in command.takes):
            wait_ns = retry_after_ns
        return Shortage(answer.failing, wait_ns, answer.levels, answer.shadowed, degraded=True)

    def end(self, command: ReturnTokens | SettleTokens) -> None:
        """End what was taken here."""
        self._store.execute(command)


@lru_cache(maxsize=4096)
def share_of(rate: Rate, processes: int) -> Rate:
    """The part of a rate that each of so many processes has: one unit of burst at least."""
    if processes <= 1:
        return rate
    period_ns = min(rate.period_ns * processes, rate.amount * _LONGEST_UNIT_NS)
    return Rate(rate.amount, period_ns, max(1, rate.burst // processes))


def unlimited(takes: Sequence[Take]) -> Taken:
    """The answer where nothing is limited: what is left is not known, and told as full."""
    return Taken(tuple([(take.rate.burst, 0) for take in takes]), degraded=True)
