"""Token buckets in the memory of one process.

How memory stays bounded without ever forgetting a drained bucket: buckets live in shards, and in each in two
generations. Each new bucket pays for a look at a few of the old generation: full ones are dropped, since a full
bucket is the same as none, and the others move to the young one. When none are left, and the young generation has
twice as many as moved there, it becomes the old. So what is kept stays within a small multiple of the buckets that
are not full, no operation takes longer the more there are, and nothing sweeps. Shards bound how long a dictionary may
take to grow.

How threads stay out of each other's way: a shard belongs to a lock, and so does an id. Who takes acquires every lock
that its id and its buckets belong to, in the order of their numbers, before it looks at anything. Who ends an id
first makes the grant its own under the id's lock and lets that go, and then acquires the locks of the buckets
likewise. So nobody who holds a lock waits for one with a lower number, and no circle of waiting can close. Where the
interpreter lets only one thread run at a time, one lock is as good as many, and cheaper.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, overload

from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Taken, TakeTokens, TokenGrant
from tenantguard.model.rate import NANOS_PER_SECOND, TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import dipped, level, overdrawn, settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tenantguard.flow.ports import Clock, Level, Take
    from tenantguard.rules.bucket import Dips, Draw

_Key: TypeAlias = str | Rate
"""A bucket's own key, or the rate whose overflow bucket stands in for it."""

_BARRED_TICKS: Final = 60 * NANOS_PER_SECOND * TICKS_PER_NANO
"""How long, at least, an id that ended before it took anything cannot take."""

_SHARD_KEYS: Final = 16_384
"""A dictionary of so many keys grows and is freed in a quarter of a millisecond."""

_SHARDS_MIN: Final = 64
_UNSHARDED_KEYS: Final = 4096
_LOOKS: Final = 8

ENDED: Final = Shortage((), None, ())
"""The answer to a taking whose id was ended before: nothing was taken, and no bucket is to blame."""

log = logging.getLogger(__name__)


class _Shard:
    """The buckets whose keys have one remainder.

    ``watched`` are those of which something was taken that can still be given back: how many such takings, and the
    bucket's dips. ``forgotten`` is the latest instant at which a full bucket was dropped: a bucket that is not kept
    was full then, and a clock that goes back does not fill it earlier.
    """

    __slots__ = (
        "forgotten",
        "keys_max",
        "lock",
        "lock_number",
        "old",
        "overflowed",
        "told",
        "turn_at",
        "watched",
        "young",
    )

    def __init__(self, keys_max: int, lock: threading.Lock, lock_number: int, told: list[bool]) -> None:
        self.told = told  # of all shards together: that there was no room
        self.keys_max = keys_max
        self.lock = lock
        self.lock_number = lock_number
        self.young: dict[_Key, int] = {}
        self.old: dict[_Key, int] = {}
        self.watched: dict[_Key, tuple[int, Dips]] = {}
        self.forgotten = 0
        self.turn_at = _LOOKS
        self.overflowed = 0

    def find(self, take: Take, now: int) -> tuple[_Key, int]:
        """The bucket that a take draws on, kept from now on unless nothing is taken, and its TAT."""
        key: _Key = take.bucket
        tat = self.kept(key, -1)
        if tat >= 0:
            return key, tat
        if take.cost == 0:
            return key, self.forgotten
        self._make_room(now)
        # A bucket inherits what its takes may have drawn from the overflow bucket while there was no room for it.
        tat = self.kept(take.rate, self.forgotten) if self.overflowed else self.forgotten
        if len(self.young) + len(self.old) >= self.keys_max:
            if not self.told:
                self.told.append(True)
                log.warning("there is no room for another bucket: further ones share an overflow bucket")
            self.overflowed += 1
            key = take.rate
        self.young[key] = tat
        return key, tat

    def kept(self, key: _Key, default: int) -> int:
        """The TAT of a bucket, which is in the young generation from now on, or ``default`` for one not kept."""
        tat = self.young.get(key)
        if tat is None:
            tat = self.old.pop(key, None)
            if tat is None:
                return default
            self.young[key] = tat
        return tat

    def unwatch(self, key: _Key) -> None:
        """It can no longer."""
        takings, dips = self.watched[key]
        if takings == 1:
            del self.watched[key]
        else:
            self.watched[key] = takings - 1, dips

    def settle(self, key: _Key, need: int, used: int, taken_at: int, now: int, rate: Rate) -> None:
        """What was taken used another amount."""
        takings, dips = self.watched[key]
        before = self.kept(key, now)
        tat, dips = settled(need, used, taken_at, before, dips, now, rate, takings)
        if tat != before:
            self.young[key] = tat
            self.watched[key] = takings, dips

    def _make_room(self, now: int) -> None:
        if not self.old:
            if len(self.young) < min(self.turn_at, self.keys_max):
                return
            self.old, self.young = self.young, {}
        for _ in range(min(_LOOKS, len(self.old))):
            key, tat = self.old.popitem()
            if tat > now:
                self.young[key] = tat
            elif now > self.forgotten:
                self.forgotten = now
        if not self.old:
            self.old = {}  # an emptied dictionary keeps its table
            self.turn_at = max(2 * len(self.young), _LOOKS)


_WATCHED: Final[tuple[int, Dips]] = (1, ())


class _Together:
    """Several locks as one, acquired in the order given."""

    __slots__ = ("_locks",)

    def __init__(self, locks: list[threading.Lock]) -> None:
        self._locks = locks

    def acquire(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def release(self) -> None:
        for lock in self._locks:
            lock.release()


_Drawn: TypeAlias = "tuple[_Shard, _Key, int, Take | None]"
"""A shard and a bucket, its TAT before, and what was taken of it, None where that was nothing."""


class _Granted(TokenGrant):
    """What each take came to, and when; ``drawn`` is empty once that has ended."""

    __slots__ = ("drawn", "store", "taken_at")

    def __init__(self, store: MemoryLimits, taken: Taken, taken_at: int, drawn: list[_Drawn]) -> None:
        self.store = store
        self.taken = taken
        self.taken_at = taken_at
        self.drawn = drawn

    def end(self, costs: tuple[int | None, ...] | None) -> None:
        self.store.end(self, costs)


class MemoryLimits:
    """A limit store for the threads and event loops of one process.

    At most ``max_keys`` buckets that are not full are kept, as many in each shard. Further ones of a shard share one
    overflow bucket per rate until there is room, which is strict: no bucket is ever refilled by making room for
    another. ``overflowed`` counts the takes that met it; the first is logged.

    An id stays known until it is settled or returned, so there are as many as exchanges between the two.

    ``locks`` (a power of two) is how many threads can be in the store at once; by default one where the interpreter
    runs one thread at a time, and else one for each shard.
    """

    def __init__(self, clock: Clock, max_keys: int = 1_000_000, *, locks: int | None = None) -> None:
        if max_keys < 1:
            raise ConfigurationError("a limit store needs room for at least one bucket")
        shards = _shards_for(max_keys)
        if locks is None:
            locks = 1 if getattr(sys, "_is_gil_enabled", lambda: True)() else shards
        if locks < 1 or locks & (locks - 1):
            raise ConfigurationError("the number of locks must be a power of two")
        self._monotonic_ns = clock.monotonic_ns
        self._latest = 0  # instant of a take that can be given back: none is dated earlier where the clock goes back
        self._locks = [threading.Lock() for _ in range(locks)]
        self._locks_mask = locks - 1
        numbers = [number & (locks - 1) for number in range(shards)]
        told: list[bool] = []
        self._shards = [_Shard(-(-max_keys // shards), self._locks[number], number, told) for number in numbers]
        self._mask = shards - 1
        self._grants: dict[bytes, _Granted | Shortage] = {}
        self._barring = threading.Lock()
        self._barred: set[bytes] = set()
        self._barred_before: set[bytes] = set()
        self._barred_since = 0

    @property
    def overflowed(self) -> int:
        """How many takes met an overflow bucket."""
        return sum(shard.overflowed for shard in self._shards)

    def execute(self, command: TakeTokens | ReturnTokens | SettleTokens, /) -> Taken | Shortage | None:
        """Answer at once."""
        if isinstance(command, TakeTokens):
            return self._take(command.id, command.takes)
        self._end(command)
        return None

    def take_in_place(self, takes: tuple[Take, ...], /, *, final: bool = True) -> Taken | TokenGrant | Shortage:
        """Take: finally in two thirds of the time of ``execute`` where every bucket is kept and has enough."""
        shards, mask = self._shards, self._mask
        lock = self._lock_of(None, takes) if self._locks_mask else self._locks[0]
        lock.acquire()
        try:
            if not final:
                return self._decide(takes, keep=True)
            now = self._monotonic_ns() * TICKS_PER_NANO
            before: list[int] = []
            levels: list[Level] = []
            for take in takes:
                key = take.bucket
                shard = shards[hash(key) & mask]
                tat = shard.young.get(key, -1)
                cost, rate = take.cost, take.rate
                unit_ticks = rate.unit_ticks
                missing = cost * unit_ticks
                if tat > now:
                    missing += tat - now
                left = rate.burst_ticks - missing
                if left < 0 or cost <= 0 or tat < 0 or key in shard.watched:
                    break
                shard.young[key] = now + missing
                before.append(tat)
                levels.append((left // unit_ticks, -(-missing // TICKS_PER_NANO)))
            else:
                return Taken(tuple(levels))
            for take, tat in zip(reversed(takes[: len(before)]), reversed(before), strict=True):
                shards[hash(take.bucket) & mask].young[take.bucket] = tat
            return self._decide(takes, keep=False)
        finally:
            lock.release()

    def acquire(self, take: Take) -> tuple[bool, int, int | None, int]:
        """One take that is final at once, answered in plain numbers, for whoever asks in a hot loop.

        Whether it was granted, the whole units left, the nanoseconds after which it would be (0 where it was; None:
        never), and those until the bucket is full: what ``execute`` says of it, in half of the time.
        """
        key = take.bucket
        shard = self._shards[hash(key) & self._mask]
        lock = shard.lock
        lock.acquire()  # a with statement takes twice as long
        try:
            young = shard.young
            tat = young[key]
            cost = take.cost
            if cost > 0 and not (shard.watched and key in shard.watched):
                now = self._monotonic_ns() * TICKS_PER_NANO
                rate = take.rate
                unit_ticks = rate.unit_ticks
                missing = cost * unit_ticks
                if tat > now:
                    missing += tat - now
                left = rate.burst_ticks - missing
                if left >= 0:
                    young[key] = now + missing
                    return True, left // unit_ticks, 0, -(-missing // TICKS_PER_NANO)
        except KeyError:
            pass
        finally:
            lock.release()
        answer = self._take(None, (take,))
        remaining, full_in_ns = answer.levels[0]
        if isinstance(answer, Taken):
            return not answer.shadowed, remaining, 0, full_in_ns
        return False, remaining, answer.retry_after_ns, full_in_ns

    def drain(self, take: Take, missing_ticks: int) -> None:
        """Leave the bucket of ``take`` at least so far from full, as another store knew it to be."""
        lock = self._lock_of(None, (take,)) if self._locks_mask else self._locks[0]
        lock.acquire()
        try:
            now = max(self._monotonic_ns() * TICKS_PER_NANO, self._latest)
            shard = self._shards[hash(take.bucket) & self._mask]
            key, tat = shard.find(take, now)
            if tat < now + missing_ticks:
                if key in shard.watched:
                    takings, dips = shard.watched[key]
                    shard.watched[key] = takings, dipped(dips, tat, now, takings)
                shard.young[key] = now + missing_ticks
        finally:
            lock.release()

    def refill(self, bucket: str) -> None:
        """Make a bucket full at once; nothing that was taken of it before can be given back to it any more."""
        shard = self._shards[hash(bucket) & self._mask]
        with shard.lock:
            watched = shard.watched.get(bucket)
            if watched is None:
                shard.young.pop(bucket, None)
                shard.old.pop(bucket, None)
            else:
                takings, dips = watched
                now = max(self._monotonic_ns() * TICKS_PER_NANO, self._latest)
                shard.young[bucket] = now
                shard.old.pop(bucket, None)
                shard.watched[bucket] = takings, dipped(dips, now, now, takings)

    def close(self) -> None:
        """Nothing to release; the buckets stay."""

    def snapshot(self) -> dict[str, int]:
        """Every bucket that is not full, and nanoseconds until it is; overflow buckets aside. Looks at everything."""
        now = self._monotonic_ns() * TICKS_PER_NANO
        found: dict[str, int] = {}
        for shard in self._shards:
            with shard.lock:
                found |= {
                    key: -(-(tat - now) // TICKS_PER_NANO)
                    for generation in (shard.old, shard.young)
                    for key, tat in generation.items()
                    if tat > now and isinstance(key, str)
                }
        return found

    def __repr__(self) -> str:
        buckets = sum(len(shard.young) + len(shard.old) for shard in self._shards)
        return f"MemoryLimits({buckets} buckets, {len(self._grants)} open ids)"

    # taking

    def _take(self, taking: bytes | None, takes: tuple[Take, ...]) -> Taken | Shortage:
        lock = self._lock_of(taking, takes) if self._locks_mask else self._locks[0]
        lock.acquire()
        try:
            if taking is None:
                return self._decide(takes, keep=False)
            grant = self._grants.get(taking)
            if grant is None:
                if taking in self._barred or taking in self._barred_before:
                    return ENDED
                grant = self._grants[taking] = self._decide(takes, keep=True)
            return grant.taken if isinstance(grant, _Granted) else grant
        finally:
            lock.release()

    @overload
    def _decide(self, takes: tuple[Take, ...], *, keep: Literal[True]) -> _Granted | Shortage: ...

    @overload
    def _decide(self, takes: tuple[Take, ...], *, keep: Literal[False]) -> Taken | Shortage: ...

    def _decide(self, takes: tuple[Take, ...], *, keep: bool) -> Taken | _Granted | Shortage:
        """Take from all or none, as ``draw_all`` does; where something fails, ``overdrawn`` says why.

        Each bucket is written at once, so that two takes of one add up, and put back where a later one fails. With
        ``keep`` it can be given back.
        """
        shards, mask = self._shards, self._mask
        now = self._monotonic_ns() * TICKS_PER_NANO
        if now > self._latest:
            if keep:
                self._latest = now
        else:
            now = self._latest
        drawn: list[_Drawn] = []
        levels: list[Level] = []
        shadowed: tuple[int, ...] = ()
        for take in takes:
            key: _Key = take.bucket
            shard = shards[hash(key) & mask]
            tat = shard.young.get(key)
            if tat is None:
                key, tat = shard.find(take, now)
            cost, rate = take.cost, take.rate
            unit_ticks = rate.unit_ticks
            missing = cost * unit_ticks
            if tat > now:
                missing += tat - now
            left = rate.burst_ticks - missing
            if cost > 0 and left >= 0:
                if keep or shard.watched:
                    watched = shard.watched.get(key)
                    if watched is not None:
                        shard.watched[key] = watched[0] + keep, dipped(watched[1], tat, now, watched[0])
                    elif keep:
                        shard.watched[key] = _WATCHED
                shard.young[key] = now + missing
                drawn.append((shard, key, tat, take))
            elif cost > 0 and not take.shadow:
                drawn.append((shard, key, tat, None))
                return self._refuse(takes, drawn, now, keep=keep)
            else:
                assert cost >= 0, "a negative cost would mint tokens"
                if cost:
                    shadowed += (len(drawn),)
                drawn.append((shard, key, tat, None))
                levels.append(level(tat, rate, now))
                continue
            levels.append((left // unit_ticks, -(-missing // TICKS_PER_NANO)))
        taken = Taken(tuple(levels), shadowed)
        return _Granted(self, taken, now, drawn) if keep else taken

    def _refuse(self, takes: tuple[Take, ...], drawn: list[_Drawn], now: int, *, keep: bool) -> Shortage:
        """Put back what was taken so far, and say of all buckets why nothing is."""
        if len(takes) == 1:
            take, (_, key, tat, _) = takes[0], drawn[0]
            return _shortage([(key, tat, take.rate, take.cost, take.shadow)], now)
        keys: list[_Key] = []
        before: dict[_Key, int] = {}
        for _, key, tat, _ in drawn:
            keys.append(key)
            before.setdefault(key, tat)
        for shard, key, tat, taken in reversed(drawn):
            if taken is not None:
                shard.old.pop(key, None)  # finding another bucket may have turned the generations
                shard.young[key] = tat
                if keep:
                    shard.unwatch(key)
        for take in takes[len(drawn) :]:
            key, tat = self._shards[hash(take.bucket) & self._mask].find(take, now)
            keys.append(key)
            before.setdefault(key, tat)
        return _shortage(
            [(key, before[key], take.rate, take.cost, take.shadow) for key, take in zip(keys, takes, strict=True)],
            now,
        )

    # ending

    def _end(self, command: ReturnTokens | SettleTokens) -> None:
        ended = command.id
        lock = self._locks[hash(ended) & self._locks_mask]
        lock.acquire()
        try:
            grant = self._grants.get(ended)
            if grant is None:
                self._bar(ended)
                return
            costs = command.costs if isinstance(command, SettleTokens) else None
            if costs and isinstance(grant, _Granted):
                _check(costs, grant.drawn)
            del self._grants[ended]
        finally:
            lock.release()
        if isinstance(grant, _Granted):
            self.end(grant, costs)

    def end(self, grant: _Granted, costs: tuple[int | None, ...] | None) -> None:
        """End what was granted; it may have ended before."""
        if costs:
            _check(costs, grant.drawn)
        lock: threading.Lock | _Together = self._locks[0]
        if self._locks_mask:
            lock = self._lock_of(None, [take for _, _, _, take in grant.drawn if take is not None])
        lock.acquire()
        try:
            drawn, grant.drawn = grant.drawn, []
            if costs is None:
                self._settle(drawn, (0,) * len(drawn), grant.taken_at)
            elif costs and drawn:
                self._settle(drawn, costs, grant.taken_at)
            for shard, key, _, take in drawn:
                if take is not None:
                    shard.unwatch(key)
        finally:
            lock.release()

    def _settle(self, drawn: list[_Drawn], costs: tuple[int | None, ...], taken_at: int) -> None:
        now = max(self._monotonic_ns() * TICKS_PER_NANO, self._latest)
        for (shard, key, _, take), cost in zip(drawn, costs, strict=True):
            if take is not None and cost is not None and cost != take.cost:
                unit_ticks = take.rate.unit_ticks
                shard.settle(key, take.cost * unit_ticks, cost * unit_ticks, taken_at, now, take.rate)

    def _bar(self, ended: bytes) -> None:
        with self._barring:
            now = self._monotonic_ns() * TICKS_PER_NANO
            if now - self._barred_since >= _BARRED_TICKS:
                self._barred_before, self._barred, self._barred_since = self._barred, set(), now
            self._barred.add(ended)

    def _lock_of(self, taking: bytes | None, takes: Iterable[Take]) -> _Together:
        """The locks of an id and of buckets, each once, in the order of their numbers."""
        numbers = {self._shards[hash(take.bucket) & self._mask].lock_number for take in takes}
        if taking is not None:
            numbers.add(hash(taking) & self._locks_mask)
        return _Together([self._locks[number] for number in sorted(numbers)])


def _shortage(draws: Sequence[Draw[_Key]], now: int) -> Shortage:
    """Why these are not granted, as the rule says it."""
    refused = overdrawn(draws, now)
    levels = tuple([level(tat, rate, now) for _, tat, rate, _, _ in draws])
    return Shortage(refused.failing, refused.retry_after_ns, levels, refused.shadowed)


def _check(costs: tuple[int | None, ...], drawn: list[_Drawn]) -> None:
    """Refuse what nothing can be settled with."""
    if drawn and len(costs) != len(drawn):
        raise LayerError("what is settled has one number for each take, or none at all")
    if any(cost is not None and cost < 0 for cost in costs):
        raise LayerError("what is settled is never negative: it would mint tokens")


def _shards_for(max_keys: int) -> int:
    if max_keys < _UNSHARDED_KEYS:
        return 1
    shards = _SHARDS_MIN
    while shards * _SHARD_KEYS < max_keys:
        shards *= 2
    return shards
