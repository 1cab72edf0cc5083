"""Rates that count in windows, as the strategies of `limits` do, beside token buckets.

`limits` decides on one window at a time, and over several threads admits too many. Here one lock is around it, all
windows of a request are tested before any is hit, and its buckets are taken in between: so it is all or none, in this
process. What was counted in a window is not given back: a request that a layer further in refuses stays counted.
"""

from __future__ import annotations

import itertools
import threading
from math import ceil
from typing import TYPE_CHECKING, Final

from limits.limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from tenantguard.errors import LayerError
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Taken, TakeTokens
from tenantguard.model.rate import NANOS_PER_SECOND
from tenantguard.model.sections import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from limits.strategies import RateLimiter

    from tenantguard.adapters.limits.memory import MemoryLimits
    from tenantguard.flow.ports import Clock, Level, Take, TakeWithWindows, TokenGrant

_MARGIN_S: Final = 0.001
"""`limits` counts seconds since 1970 in floating point; a wait that is told must not end just before it is over."""


class _Item(RateLimitItemPerSecond):
    """A window whose key is the bucket's, without its amount: a changed limit goes on with what was counted."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        """The only identifier."""
        return str(identifiers[0])


class _Windows:
    """The windows themselves, for one thread at a time."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        self._storage = MemoryStorage()
        self._strategies: dict[Strategy, RateLimiter] = {
            Strategy.FIXED_WINDOW: FixedWindowRateLimiter(self._storage),
            Strategy.MOVING_WINDOW: MovingWindowRateLimiter(self._storage),
            Strategy.SLIDING_WINDOW: SlidingWindowCounterRateLimiter(self._storage),
        }

    def fits(self, take: Take, units: int) -> bool:
        """Whether so many units fit into a window now."""
        return units <= take.rate.amount and self._strategies[take.strategy].test(
            _item(take), take.bucket, cost=units
        )

    def hit(self, take: Take) -> None:
        """Count what was found to fit."""
        counted = self._strategies[take.strategy].hit(_item(take), take.bucket, cost=take.cost)
        assert counted, "a window refuses what it has just said fits"

    def level(self, take: Take) -> Level:
        """The units left, and nanoseconds until there are more; 0 where nothing is counted."""
        remaining = max(0, self._strategies[take.strategy].get_window_stats(_item(take), take.bucket).remaining)
        if remaining >= take.rate.amount:
            return take.rate.amount, 0
        return remaining, self.wait_ns(take, remaining + 1)

    def wait_ns(self, take: Take, units: int) -> int:
        """Nanoseconds after which so many units fit, if nothing is counted meanwhile; they are an amount at most."""
        item, key, amount = _item(take), take.bucket, take.rate.amount
        period, now = item.get_expiry(), self._wall_ns() / NANOS_PER_SECOND
        if take.strategy is Strategy.FIXED_WINDOW:
            wait = self._storage.get_expiry(key) - now
        elif take.strategy is Strategy.MOVING_WINDOW:
            oldest, counted = self._storage.get_moving_window(key, amount, period)
            # Only the oldest unit is known; where more must leave, all have left after a period.
            wait = oldest + period - now if counted + units - amount <= 1 else float(period)
        else:
            previous, previous_ttl, current, current_ttl = self._storage.get_sliding_window(key, period)
            if current + units <= amount:
                wait = previous_ttl - (amount - units - current) * period / max(previous, 1)
            else:
                wait = current_ttl - (amount - units) * period / current
        return max(0, ceil((wait + _MARGIN_S) * NANOS_PER_SECOND))

    def close(self) -> None:
        """End the timer of `limits`."""
        self._storage.timer.cancel()


class WindowLimits:
    """A limit store in memory that keeps windows beside the buckets of another.

    Windows cost what they cost in `limits`: a look at every key now and then, keys of moving windows that stay, and
    an entry for each unit of a moving window. They are not bounded. Commands without windows go to the other store as
    they are.
    """

    def __init__(self, buckets: MemoryLimits, clock: Clock) -> None:
        self._buckets = buckets
        self._windows = _Windows(clock.wall_ns)
        self._lock = threading.Lock()
        self._open: dict[bytes, tuple[Taken | Shortage, tuple[int, ...], int]] = {}
        self._numbers = itertools.count()

    def execute(self, command: TakeTokens | ReturnTokens | SettleTokens, /) -> Taken | Shortage | None:
        """Answer at once."""
        if isinstance(command, TakeTokens):
            return self._buckets.execute(command)
        opened = self._open.pop(command.id, None)
        if opened is not None and isinstance(command, SettleTokens) and command.costs:
            _, buckets, takes = opened
            if len(command.costs) != takes:
                raise LayerError("what is settled has one number for each take, or none at all")
            command = SettleTokens(command.id, tuple([command.costs[index] for index in buckets]))
        return self._buckets.execute(command)

    def take_in_place(self, takes: tuple[Take, ...], /, *, final: bool = True) -> Taken | TokenGrant | Shortage:
        """Take from buckets alone."""
        return self._buckets.take_in_place(takes, final=final)

    def execute_with_windows(self, command: TakeWithWindows, /) -> Taken | Shortage:
        """Answer at once."""
        with self._lock:
            if command.id is not None and command.id in self._open:
                return self._open[command.id][0]
            takes = command.takes
            buckets = tuple([index for index, take in enumerate(takes) if take.strategy is Strategy.TOKEN_BUCKET])
            # Taken under an id, so that it can be given back.
            taking = command.id if command.id is not None else b"window-%d" % next(self._numbers)
            taken = self._buckets.execute(TakeTokens(taking, tuple([takes[index] for index in buckets])))
            assert taken is not None
            if len(taken.levels) != len(buckets):  # its id had ended before
                return taken
            answer = self._decide(takes, buckets, taken)
            if isinstance(answer, Shortage) and isinstance(taken, Taken):
                self._buckets.execute(ReturnTokens(taking))
            elif command.id is None:
                self._buckets.execute(SettleTokens(taking))
            if command.id is not None:
                self._open[command.id] = answer, buckets, len(takes)
            return answer

    def close(self) -> None:
        """End the timer of `limits`; what was counted stays."""
        self._windows.close()
        self._buckets.close()

    def _decide(self, takes: tuple[Take, ...], buckets: tuple[int, ...], taken: Taken | Shortage) -> Taken | Shortage:
        """Hit every window, if they all fit and the buckets did."""
        windows = self._windows
        failing = [buckets[index] for index in taken.failing] if isinstance(taken, Shortage) else []
        shadowed = [buckets[index] for index in taken.shadowed]
        waits = [taken.retry_after_ns] if isinstance(taken, Shortage) else []
        units: dict[str, int] = {}
        for index, take in enumerate(takes):
            if take.strategy is Strategy.TOKEN_BUCKET or not take.cost:
                continue
            wanted = units.get(take.bucket, 0) + take.cost
            if windows.fits(take, wanted):
                units[take.bucket] = wanted
            elif take.shadow:
                shadowed.append(index)
            else:
                failing.append(index)
                waits.append(windows.wait_ns(take, wanted) if wanted <= take.rate.amount else None)
        if not failing:
            for index, take in enumerate(takes):
                if take.strategy is not Strategy.TOKEN_BUCKET and take.cost and index not in shadowed:
                    windows.hit(take)
        told = iter(taken.levels)
        levels = tuple(
            [next(told) if take.strategy is Strategy.TOKEN_BUCKET else windows.level(take) for take in takes]
        )
        if not failing:
            return Taken(levels, tuple(sorted(shadowed)))
        known = [wait for wait in waits if wait is not None]
        retry_after_ns = max(known) if len(known) == len(waits) else None
        return Shortage(tuple(sorted(failing)), retry_after_ns, levels, tuple(sorted(shadowed)))


def _item(take: Take) -> _Item:
    return _Item(take.rate.amount, take.rate.period_ns // NANOS_PER_SECOND)
