"""The strategy `token-bucket` of `limits`, synchronous and asynchronous, and its registration.

It answers yes or no, as `limits` asks, and what it refuses takes nothing. The reset time of a window is when one unit
more comes back, or, after a refusal, when what was refused would be granted: in whole seconds, rounded up, so that a
``Retry-After`` which slowapi or Flask-Limiter makes of it is never too early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import limits.aio.storage
import limits.aio.strategies
import limits.storage
import limits.strategies
from limits.util import WindowStats

from tenantguard.adapters.limits.plugin.storages import (
    AsyncMemoryStorage,
    AsyncTokenBucketStorage,
    MemoryStorage,
    TokenBucketStorage,
)
from tenantguard.model.rate import NANOS_PER_SECOND
from tenantguard.rules.bucket import next_unit_in_ns

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.storage import StorageTypes

    from tenantguard.adapters.limits.plugin.storages import Numbers
    from tenantguard.flow.ports import Clock, TakeTokens

STRATEGY: Final = "token-bucket"

_REFUSED_MAX: Final = 16_384


class _Refused:
    """What was refused of more than one unit and not granted since, by bucket; the latest of it."""

    def __init__(self) -> None:
        self._costs: dict[str, int] = {}

    def note(self, command: TakeTokens, *, granted: bool) -> None:
        """Remember an answer."""
        take = command.takes[0]
        if granted:
            self._costs.pop(take.bucket, None)
        elif take.cost > 1:
            if len(self._costs) >= _REFUSED_MAX:
                self._costs.clear()
            self._costs[take.bucket] = min(take.cost, take.rate.burst)

    def stats(self, command: TakeTokens, answer: Numbers, clock: Clock) -> WindowStats:
        """What a bucket holds, and when it holds more."""
        take = command.takes[0]
        _, remaining, _, full_in_ns = answer
        now_ns = clock.wall_ns()
        if not full_in_ns:
            return WindowStats(now_ns / NANOS_PER_SECOND, remaining)
        wanted = max(min(remaining + 1, take.rate.burst), self._costs.get(take.bucket, 0))
        return _reset(now_ns + next_unit_in_ns(full_in_ns, take.rate, wanted), remaining)

    def __bool__(self) -> bool:
        return bool(self._costs)


def _reset(at_ns: int, remaining: int) -> WindowStats:
    return WindowStats(float(-(-at_ns // NANOS_PER_SECOND)), remaining)


def _closed(item: RateLimitItem, clock: Clock) -> WindowStats:
    return _reset(clock.wall_ns() + item.get_expiry() * NANOS_PER_SECOND, 0)


def _unsupported(storage: object) -> NotImplementedError:
    return NotImplementedError(
        f"the strategy {STRATEGY} needs a storage of its own, and not {type(storage).__qualname__}: put "
        "'tenantguard+' in front of the storage's scheme, or 'async+tenantguard+', as in tenantguard+redis://host:6379"
    )


class TokenBucketRateLimiter(limits.strategies.RateLimiter):
    """Token buckets: a burst at once, and then units as they refill.

    In front of `limits`' own memory storage it keeps buckets of its own, so that what falls back on that where a
    server is gone works unchanged.
    """

    def __init__(self, storage: StorageTypes) -> None:
        if isinstance(storage, TokenBucketStorage):
            self._buckets: TokenBucketStorage = storage
        elif type(storage) is limits.storage.MemoryStorage:
            self._buckets = MemoryStorage()
        else:
            raise _unsupported(storage)
        super().__init__(storage)
        self._command = self._buckets.configured.commands.of
        self._clock = self._buckets.configured.clock
        self._refused = _Refused()

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take ``cost`` units, or nothing where there are fewer. More than a burst is never granted."""
        command = self._command(item, identifiers, cost)
        if command is None:
            return cost == 0
        granted = self._buckets.take(command)[0]
        if self._refused or not granted:
            self._refused.note(command, granted=granted)
        return granted

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether a hit of ``cost`` would be granted now."""
        asked = self._command(item, identifiers, 0)
        return cost <= 0 or (asked is not None and self._buckets.take(asked)[1] >= cost)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """The whole units left, and when there is more."""
        command = self._command(item, identifiers, 0)
        if command is None:
            return _closed(item, self._clock)
        return self._refused.stats(command, self._buckets.take(command), self._clock)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Make the bucket full."""
        command = self._command(item, identifiers, 0)
        if command is not None:
            self._buckets.clear(command.takes[0].bucket)
            self._refused.note(command, granted=True)


class AsyncTokenBucketRateLimiter(limits.aio.strategies.RateLimiter):
    """:class:`TokenBucketRateLimiter` over an asynchronous storage."""

    def __init__(self, storage: StorageTypes) -> None:
        if isinstance(storage, AsyncTokenBucketStorage):
            self._buckets: AsyncTokenBucketStorage = storage
        elif type(storage) is limits.aio.storage.MemoryStorage:
            self._buckets = AsyncMemoryStorage()
        else:
            raise _unsupported(storage)
        super().__init__(storage)
        self._command = self._buckets.configured.commands.of
        self._clock = self._buckets.configured.clock
        self._refused = _Refused()

    async def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take ``cost`` units, or nothing where there are fewer. More than a burst is never granted."""
        command = self._command(item, identifiers, cost)
        if command is None:
            return cost == 0
        granted = (await self._buckets.take(command))[0]
        if self._refused or not granted:
            self._refused.note(command, granted=granted)
        return granted

    async def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether a hit of ``cost`` would be granted now."""
        asked = self._command(item, identifiers, 0)
        return cost <= 0 or (asked is not None and (await self._buckets.take(asked))[1] >= cost)

    async def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """The whole units left, and when there is more."""
        command = self._command(item, identifiers, 0)
        if command is None:
            return _closed(item, self._clock)
        return self._refused.stats(command, await self._buckets.take(command), self._clock)

    async def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Make the bucket full."""
        command = self._command(item, identifiers, 0)
        if command is not None:
            await self._buckets.clear(command.takes[0].bucket)
            self._refused.note(command, granted=True)


def register() -> None:
    """Offer the strategy by its name, unless `limits` has one of that name; again does nothing."""
    known: tuple[tuple[Any, type], ...] = (
        (limits.strategies.STRATEGIES, TokenBucketRateLimiter),
        (limits.aio.strategies.STRATEGIES, AsyncTokenBucketRateLimiter),
    )
    for strategies, strategy in known:
        strategies.setdefault(STRATEGY, strategy)
