"""Token buckets in the memory of one process.

How memory stays bounded without ever forgetting a drained bucket: buckets live in two generations. Each new bucket
pays for a look at two of the old generation: full ones are dropped, since a full bucket is the same as none, and the
others move to the young one; when none are left, the young generation becomes the old. So what is kept stays within
a small multiple of the buckets that are not full, no operation takes longer the more there are, and nothing sweeps.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import KeepTokens, Level, ReturnTokens, Shortage, Taken, TakeTokens
from tenantguard.model.rate import NANOS_PER_SECOND, TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import Overdrawn, draw, draw_all, level, refund

if TYPE_CHECKING:
    from tenantguard.flow.ports import Clock, Take
    from tenantguard.rules.bucket import Draw

_Key: TypeAlias = tuple[str, ...] | Rate
"""A bucket's own key, or the rate whose overflow bucket stands in for it."""

_Grant: TypeAlias = tuple[Taken | Shortage, dict[_Key, tuple[int, int]]]
"""An answer, and for each bucket that it took from: the ticks taken and the TAT right after."""

_BARRED_TICKS: Final = 60 * NANOS_PER_SECOND * TICKS_PER_NANO
"""How long, at least, an id that ended before it took anything cannot take."""

ENDED: Final = Shortage((), None, ())
"""The answer to a taking whose id was ended before: nothing was taken, and no bucket is to blame."""

log = logging.getLogger(__name__)


class MemoryLimits:
    """A limit store for the threads and event loops of one process.

    At most ``max_keys`` buckets that are not full are kept. Further ones share one overflow bucket per rate until
    there is room, which is strict: no bucket is ever refilled by making room for another. ``overflowed`` counts the
    takes that met it; the first is logged.

    An id stays known until it is kept or returned, so there are as many as exchanges between the two.
    """

    def __init__(self, clock: Clock, max_keys: int = 1_000_000) -> None:
        if max_keys < 1:
            raise ConfigurationError("a limit store needs room for at least one bucket")
        self.overflowed = 0
        self._max_keys = max_keys
        self._monotonic_ns = clock.monotonic_ns
        self._now_ns = 0
        self._lock = threading.Lock()
        self._young: dict[_Key, int] = {}
        self._old: dict[_Key, int] = {}
        self._grants: dict[bytes, _Grant] = {}
        self._barred: set[bytes] = set()
        self._barred_before: set[bytes] = set()
        self._barred_since = 0

    def execute(self, command: TakeTokens | ReturnTokens | KeepTokens, /) -> Taken | Shortage | None:
        """Answer at once."""
        self._lock.acquire()  # a with statement takes twice as long
        try:
            if isinstance(command, TakeTokens):
                return self._take(command)
            self._end(command)
            return None
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing to release; the buckets stay."""

    def snapshot(self) -> dict[tuple[str, ...], int]:
        """Every bucket that is not full, and nanoseconds until it is; overflow buckets aside."""
        with self._lock:
            now = self._now()
            return {
                key: -(-(tat - now) // TICKS_PER_NANO)
                for generation in (self._old, self._young)
                for key, tat in generation.items()
                if tat > now and not isinstance(key, Rate)
            }

    def __repr__(self) -> str:
        return f"MemoryLimits({len(self._young) + len(self._old)} buckets, {len(self._grants)} open ids)"

    def _take(self, command: TakeTokens) -> Taken | Shortage:
        grant = self._grants.get(command.id)
        if grant is None:
            if command.id in self._barred or command.id in self._barred_before:
                return ENDED
            takes = command.takes
            grant = self._take_one(takes[0]) if len(takes) == 1 else self._take_all(takes)
            self._grants[command.id] = grant
        return grant[0]

    def _take_one(self, take: Take) -> _Grant:
        """What ``_take_all`` does, in two thirds of the time, for the one bucket that most requests ask."""
        now = self._now()
        rate = take.rate
        key: _Key = take.bucket
        tat = self._young.get(key)
        if tat is None:
            key, tat = self._find(take, now)
        end = draw(tat, rate, take.cost, now)
        if isinstance(end, Overdrawn):
            return Shortage(end.failing, end.retry_after_ns, (Level(*level(tat, rate, now)),)), {}
        answer = Taken((Level(*level(end, rate, now)),))
        if take.cost == 0:
            return answer, {}
        self._young[key] = end
        return answer, {key: (take.cost * rate.unit_ticks, end)}

    def _take_all(self, takes: tuple[Take, ...]) -> _Grant:
        now = self._now()
        young = self._young
        draws: list[Draw[_Key]] = []
        for take in takes:
            key: _Key = take.bucket
            tat = young.get(key)
            if tat is None:
                key, tat = self._find(take, now)
            draws.append((key, tat, take.rate, take.cost))
        taken = draw_all(draws, now)
        if isinstance(taken, Overdrawn):
            levels = [Level(*level(tat, rate, now)) for _, tat, rate, _ in draws]
            return Shortage(taken.failing, taken.retry_after_ns, tuple(levels)), {}
        for key, (_, end) in taken.items():
            self._young[key] = end
        if self._young is not young:  # finding a new bucket turned the generations
            for key in taken:
                self._old.pop(key, None)
        ends = [taken[key][1] if key in taken else tat for key, tat, _, _ in draws]
        levels = [Level(*level(end, take.rate, now)) for end, take in zip(ends, takes, strict=True)]
        return Taken(tuple(levels)), taken

    def _end(self, command: ReturnTokens | KeepTokens) -> None:
        grant = self._grants.get(command.id)
        if grant is None:
            self._bar(command.id)
            return
        if isinstance(command, ReturnTokens):
            self._give_back(command.id, grant[1])
        del self._grants[command.id]

    def _give_back(self, ended: bytes, taken: dict[_Key, tuple[int, int]]) -> None:
        now = self._now()
        refunds = {}
        for key, (need, end) in taken.items():
            back = refund(need, end, now)
            if back:
                self._young[key] = self._kept(key, now) - back
                refunds[key] = back
        if not refunds:
            return
        # As refund() asks of whoever returns; a take is mostly returned at once, so few began since.
        for later, (_, taken_later) in reversed(self._grants.items()):
            if later == ended:
                break
            for key in refunds.keys() & taken_later.keys():
                need, end = taken_later[key]
                taken_later[key] = need, end - refunds[key]

    def _find(self, take: Take, now: int) -> tuple[_Key, int]:
        """The bucket that a take draws on, kept from now on unless nothing is taken, and its TAT."""
        key: _Key = take.bucket
        tat = self._kept(key, -1)
        if tat >= 0:
            return key, tat
        if take.cost == 0:
            return key, now
        self._make_room(now)
        # A bucket inherits what its takes may have drawn from the overflow bucket while there was no room for it.
        tat = self._kept(take.rate, now) if self.overflowed else now
        if len(self._young) + len(self._old) >= self._max_keys:
            if self.overflowed == 0:
                log.warning("%d buckets are not full: further ones share an overflow bucket", self._max_keys)
            self.overflowed += 1
            key = take.rate
        self._young[key] = tat
        return key, tat

    def _kept(self, key: _Key, default: int) -> int:
        """The TAT of a bucket, which is in the young generation from now on, or ``default`` for one not kept."""
        tat = self._young.get(key)
        if tat is None:
            tat = self._old.pop(key, None)
            if tat is None:
                return default
            self._young[key] = tat
        return tat

    def _make_room(self, now: int) -> None:
        for _ in range(2):
            if not self._old:
                self._old, self._young = self._young, {}
                if not self._old:
                    return
            key, tat = self._old.popitem()
            if tat > now:
                self._young[key] = tat

    def _bar(self, ended: bytes) -> None:
        now = self._now()
        if now - self._barred_since >= _BARRED_TICKS:
            self._barred_before, self._barred, self._barred_since = self._barred, set(), now
        self._barred.add(ended)

    def _now(self) -> int:
        """The time in ticks; it stands still while the clock is back."""
        now_ns = self._monotonic_ns()
        if now_ns > self._now_ns:  # noqa: PLR1730 - max() takes three times as long
            self._now_ns = now_ns
        return self._now_ns * TICKS_PER_NANO
