"""Storages of `limits` that decide on token buckets, under schemes of their own.

Each is a limit store of this package behind the face of a `limits` storage, synchronous or asynchronous. What is
counted in fixed windows is left to the storage of `limits` at the same address, which is only opened for that.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from limits.aio.storage import Storage as AsyncStorage
from limits.errors import ConfigurationError as LimitsConfigurationError
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.plugin.items import Commands
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Take, Taken, TakeTokens
from tenantguard.model.rate import NANOS_PER_SECOND, Rate
from tenantguard.model.sections import OnError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tenantguard.adapters.limits.redis.store import RedisLimits
    from tenantguard.flow.ports import Clock, Shortage

SCHEME: Final = "tenantguard+"
ASYNC_SCHEME: Final = f"async+{SCHEME}"

Numbers: TypeAlias = tuple[bool, int, "int | None", int]
"""Whether it was granted, the whole units left, nanoseconds until it would be (None: never), and until it is full."""

_MEMORY: Final = [f"{SCHEME}memory"]
_ASYNC_MEMORY: Final = [f"async+{scheme}" for scheme in _MEMORY]
_REDIS: Final = [
    f"{SCHEME}{name}{kind}" for name in ("redis", "valkey") for kind in ("", "s", "+unix", "+sentinel", "+cluster")
]
_ASYNC_REDIS: Final = [f"async+{scheme}" for scheme in _REDIS]
_BOUNDED: Final = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
_DENOMINATOR_MAX: Final = 366 * 86_400
_PROBE: Final = TakeTokens(None, (Take("limits|check", Rate(1, NANOS_PER_SECOND), 0),), OnError.CLOSED)


class _Configured:
    """What every storage here has: the address below our scheme, a clock, and what is asked of its store."""

    def __init__(
        self, uri: str, scheme: str, clock: Clock | None, bursts: Iterable[str], on_error: str = OnError.LOCAL
    ) -> None:
        if not uri.startswith(scheme):
            raise LimitsConfigurationError(f"the address of this storage begins with {scheme}")
        self.address = uri.removeprefix(scheme)
        self.options: dict[str, Any] = {}  # of the client of Redis
        self.clock = clock or SystemClock()
        try:
            self.commands = Commands(bursts, OnError(on_error))
        except ValueError as wrong:
            raise LimitsConfigurationError(str(wrong)) from None

    def memory(self, max_keys: int, options: Mapping[str, Any]) -> MemoryLimits:
        """A store in memory."""
        if options:
            raise LimitsConfigurationError(
                f"{SCHEME}memory:// has no option {min(options)!r}, only bursts, max_keys and clock"
            )
        try:
            return MemoryLimits(self.clock, max_keys)
        except ConfigurationError as wrong:
            raise LimitsConfigurationError(str(wrong)) from None

    def redis(self, options: Mapping[str, Any], bounds: Mapping[str, Any]) -> RedisLimits:
        """A store in Redis. Its options are redis-py's; its bounds are those of the store, where not None."""
        from tenantguard.adapters.limits.redis.store import RedisLimits  # noqa: PLC0415 - only where Redis is used

        self.options = {**_BOUNDED, **options}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        try:
            return RedisLimits(self.address, self.clock, options=options, **given)
        except ConfigurationError as wrong:
            raise LimitsConfigurationError(str(wrong)) from None

    def windows(self, prefix: str, wrap_exceptions: bool, **more: Any) -> Any:  # noqa: FBT001 - handed through
        """The storage of `limits` at the same address, with the client of Redis for Valkey too."""
        address = prefix + self.address.replace("valkey", "redis", 1)
        return storage_from_string(address, wrap_exceptions=wrap_exceptions, **more, **self.options)

    def asked(self, key: str, capacity: int, rate: float, amount: int) -> TakeTokens:
        """What #364's methods ask."""
        return TakeTokens(None, (Take(key, rate_of(capacity, rate), amount),), self.commands.on_error)

    def held(self, capacity: int, rate: float, full_in_ns: int) -> tuple[float, float]:
        """The units in a bucket, with the part of the next, and the time in seconds since 1970."""
        units = capacity - full_in_ns * rate / NANOS_PER_SECOND
        return max(0.0, units), self.clock.wall_ns() / NANOS_PER_SECOND


@lru_cache(maxsize=1024)
def rate_of(capacity: int, rate: float) -> Rate:
    """The rate of a bucket of ``capacity`` units that refills at ``rate`` units a second.

    ``rate`` is a quotient of whole numbers, units and seconds, in floating point; here it becomes exact again.
    """
    if not (isfinite(rate) and rate * _DENOMINATOR_MAX >= 1):
        raise ValueError("a bucket refills by at least one unit in 366 days")
    exact = Fraction(rate).limit_denominator(_DENOMINATOR_MAX)
    return Rate(exact.numerator, exact.denominator * NANOS_PER_SECOND, capacity)


def numbers(answer: Taken | Shortage) -> Numbers:
    """An answer for one take."""
    remaining, full_in_ns = answer.levels[0]
    if isinstance(answer, Taken):
        return True, remaining, 0, full_in_ns
    return False, remaining, answer.retry_after_ns, full_in_ns


def _raised(windows: Any) -> tuple[type[Exception], ...]:
    if windows is None:
        return (PortError,)
    others = windows.base_exceptions
    return (PortError, *(others if isinstance(others, tuple) else (others,)))


def waited(answer: Any) -> Any:
    """The answer of a store, blocking until it is there."""
    if not isinstance(answer, Promise):
        return answer
    return answer.result() if answer.wait(answer.deadline_s) else answer.late()


async def awaited(answer: Any) -> Any:
    """The answer of a store, in a task of asyncio."""
    if not isinstance(answer, Promise):
        return answer
    if not answer.wait(0):
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def ring() -> None:
            with suppress(RuntimeError):  # that loop has closed; nobody waits there any more
                loop.call_soon_threadsafe(wake)

        answer.then(ring)
        timer = loop.call_later(answer.deadline_s, wake)
        try:
            await future
        finally:
            timer.cancel()
    return answer.result() if answer.wait(0) else answer.late()


class _InMemory:
    """What both storages in memory are made of. ``_scheme`` is that of their kind."""

    _scheme: ClassVar[str]

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002 - as every storage of limits
        *,
        bursts: Iterable[str] = (),
        max_keys: int = 1_000_000,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions)  # type: ignore[call-arg] # that of limits comes next
        self.configured = _Configured(uri or f"{self._scheme}memory://", self._scheme, clock, bursts)
        self._max_keys = max_keys
        self.store = self.configured.memory(max_keys, options)

    def _forget(self) -> int:
        """Forget all buckets; how many were not full."""
        forgotten, self.store = self.store, self.configured.memory(self._max_keys, {})
        return len(forgotten.snapshot())


class _InRedis:
    """What both storages over Redis are made of; as :class:`_InMemory`."""

    _scheme: ClassVar[str]

    def __init__(
        self,
        uri: str,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002 - as every storage of limits
        *,
        bursts: Iterable[str] = (),
        on_error: str = OnError.LOCAL,
        deadline_ms: int | None = None,
        processes: int | None = None,
        coalesce: bool | None = None,
        lease: int | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions)  # type: ignore[call-arg] # that of limits comes next
        self.configured = _Configured(uri, self._scheme, clock, bursts, on_error)
        self.store = self.configured.redis(
            options, {"deadline_ms": deadline_ms, "processes": processes, "coalesce": coalesce, "lease": lease}
        )


class TokenBucketStorage(Storage):
    """A synchronous storage of token buckets.

    ``take`` answers in full. ``acquire_token_bucket`` and ``get_token_bucket`` are its methods by the names that
    `limits` itself may come to use (alisaifee/limits#364), for a strategy of `limits`' own.
    """

    configured: _Configured
    _windows: Any = None

    @abstractmethod
    def take(self, command: TakeTokens) -> Numbers:
        """Take the one take of a command, or say why not; a take of nothing tells how a bucket is."""

    @abstractmethod
    def refill(self, key: str) -> None:
        """Make a bucket full at once."""

    def acquire_token_bucket(self, key: str, capacity: int, rate: float, expiry: int, amount: int = 1) -> bool:
        """Take ``amount`` of a bucket of ``capacity`` units that refills at ``rate`` units a second.

        ``expiry`` is not needed: a bucket is kept for as long as it is not full.
        """
        del expiry
        return self.take(self.configured.asked(key, capacity, rate, amount))[0]

    def get_token_bucket(self, key: str, capacity: int, rate: float, expiry: int) -> tuple[float, float]:
        """The units that a bucket holds, with the part of the next, and the time in seconds since 1970."""
        del expiry
        full_in_ns = self.take(self.configured.asked(key, capacity, rate, 0))[3]
        return self.configured.held(capacity, rate, full_in_ns)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What is raised where a store cannot be asked."""
        return _raised(self._windows)

    @property
    def windows(self) -> Any:
        """The storage of `limits` at the same address."""
        if self._windows is None:
            self._windows = self.configured.windows("", self.wrap_exceptions)
        return self._windows

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in a fixed window, as `limits` does."""
        return int(self.windows.incr(key, expiry, amount))

    def get(self, key: str) -> int:
        """What was counted in a fixed window."""
        return int(self.windows.get(key))

    def get_expiry(self, key: str) -> float:
        """When a fixed window ends, in seconds since 1970."""
        return float(self.windows.get_expiry(key))

    def clear(self, key: str) -> None:
        """Forget what was taken of a bucket or counted in a fixed window."""
        self.refill(key)
        if self._windows is not None:
            self.windows.clear(key)


class MemoryStorage(_InMemory, TokenBucketStorage):
    """Token buckets of one process, for any number of threads.

    ``bursts`` are those of limits that are written elsewhere, as text that has none: ``"100/minute burst 200"`` is
    for every ``"100/minute"``. At most ``max_keys`` buckets that are not full are kept; further ones share strict
    ones, see :class:`~tenantguard.adapters.limits.memory.MemoryLimits`.
    """

    STORAGE_SCHEME = _MEMORY
    _scheme = SCHEME

    def take(self, command: TakeTokens) -> Numbers:
        """Take, or say why not."""
        return self.store.acquire(command.takes[0])

    def refill(self, key: str) -> None:
        """Make a bucket full at once."""
        self.store.refill(key)

    def check(self) -> bool:
        """True."""
        return True

    def reset(self) -> int:
        """Forget everything; how many buckets were not full, and windows not over."""
        return self._forget() + (self._windows.reset() or 0 if self._windows is not None else 0)


class RedisStorage(_InRedis, TokenBucketStorage):
    """Token buckets in Redis or Valkey, for any number of processes.

    ``bursts`` as in :class:`MemoryStorage`; ``on_error``, ``deadline_ms``, ``processes``, ``coalesce`` and ``lease``
    as in :class:`~tenantguard.adapters.limits.redis.store.RedisLimits`; further options are redis-py's.
    """

    STORAGE_SCHEME = _REDIS
    _scheme = SCHEME

    def take(self, command: TakeTokens) -> Numbers:
        """Take, or say why not."""
        try:
            return numbers(waited(self.store.execute(command)))
        except PortError as failed:
            if self.wrap_exceptions:
                raise StorageError(failed) from failed
            raise

    def refill(self, key: str) -> None:
        """Make a bucket full; another process that has just refused may do so for a quarter of a second more."""
        waited(self.store.refill(key))

    def check(self) -> bool:
        """Whether the server decides in time."""
        try:
            waited(self.store.execute(_PROBE))
        except PortError:
            return False
        return True

    def reset(self) -> int | None:
        """Not offered: it would look at every key of a server that others may use as well."""
        raise NotImplementedError("buckets in Redis are not reset all at once: clear them one by one")

    def close(self) -> None:
        """End threads and connections; usable again afterwards."""
        self.store.close()
        if self._windows is not None:
            self.windows.storage.close()
            self._windows = None


class AsyncTokenBucketStorage(AsyncStorage):
    """An asynchronous storage of token buckets; as :class:`TokenBucketStorage`."""

    configured: _Configured
    _windows: Any = None

    @abstractmethod
    async def take(self, command: TakeTokens) -> Numbers:
        """Take the one take of a command, or say why not; a take of nothing tells how a bucket is."""

    @abstractmethod
    async def refill(self, key: str) -> None:
        """Make a bucket full at once."""

    async def acquire_token_bucket(self, key: str, capacity: int, rate: float, expiry: int, amount: int = 1) -> bool:
        """Take ``amount`` of a bucket of ``capacity`` units that refills at ``rate`` units a second."""
        del expiry
        return (await self.take(self.configured.asked(key, capacity, rate, amount)))[0]

    async def get_token_bucket(self, key: str, capacity: int, rate: float, expiry: int) -> tuple[float, float]:
        """The units that a bucket holds, with the part of the next, and the time in seconds since 1970."""
        del expiry
        full_in_ns = (await self.take(self.configured.asked(key, capacity, rate, 0)))[3]
        return self.configured.held(capacity, rate, full_in_ns)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What is raised where a store cannot be asked."""
        return _raised(self._windows)

    @property
    def windows(self) -> Any:
        """The storage of `limits` at the same address; over Redis with redis-py."""
        if self._windows is None:
            client = {"implementation": "redispy"} if self.configured.options else {}
            self._windows = self.configured.windows("async+", self.wrap_exceptions, **client)
        return self._windows

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in a fixed window, as `limits` does."""
        return int(await self.windows.incr(key, expiry, amount))

    async def get(self, key: str) -> int:
        """What was counted in a fixed window."""
        return int(await self.windows.get(key))

    async def get_expiry(self, key: str) -> float:
        """When a fixed window ends, in seconds since 1970."""
        return float(await self.windows.get_expiry(key))

    async def clear(self, key: str) -> None:
        """Forget what was taken of a bucket or counted in a fixed window."""
        await self.refill(key)
        if self._windows is not None:
            await self.windows.clear(key)


class AsyncMemoryStorage(_InMemory, AsyncTokenBucketStorage):
    """Token buckets of one process, for any number of event loops; as :class:`MemoryStorage`."""

    STORAGE_SCHEME = _ASYNC_MEMORY
    _scheme = ASYNC_SCHEME

    async def take(self, command: TakeTokens) -> Numbers:
        """Take, or say why not."""
        return self.store.acquire(command.takes[0])

    async def refill(self, key: str) -> None:
        """Make a bucket full at once."""
        self.store.refill(key)

    async def check(self) -> bool:
        """True."""
        return True

    async def reset(self) -> int:
        """Forget everything; how many buckets were not full, and windows not over."""
        return self._forget() + (await self._windows.reset() or 0 if self._windows is not None else 0)


class AsyncRedisStorage(_InRedis, AsyncTokenBucketStorage):
    """Token buckets in Redis or Valkey, for tasks of asyncio; as :class:`RedisStorage`."""

    STORAGE_SCHEME = _ASYNC_REDIS
    _scheme = ASYNC_SCHEME

    async def take(self, command: TakeTokens) -> Numbers:
        """Take, or say why not."""
        try:
            return numbers(await awaited(self.store.execute(command)))
        except PortError as failed:
            if self.wrap_exceptions:
                raise StorageError(failed) from failed
            raise

    async def refill(self, key: str) -> None:
        """Make a bucket full; another process that has just refused may do so for a quarter of a second more."""
        await awaited(self.store.refill(key))

    async def check(self) -> bool:
        """Whether the server decides in time."""
        try:
            await awaited(self.store.execute(_PROBE))
        except PortError:
            return False
        return True

    async def reset(self) -> int | None:
        """Not offered: it would look at every key of a server that others may use as well."""
        raise NotImplementedError("buckets in Redis are not reset all at once: clear them one by one")

    async def close(self) -> None:
        """End threads and connections; usable again afterwards."""
        await asyncio.to_thread(self.store.close)
        if self._windows is not None:
            await self.windows.bridge.get_connection().aclose()
            self._windows = None
