"""The token bucket in `limits`: as its own strategies and storages are used, in memory and over Redis, in frameworks.

What `limits` and its friends get wrong, and what must not go wrong here, has a sentence of its own at the end.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import limits
import limits.aio.strategies
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from limits.storage import storage_from_string

from tenantguard.adapters.limits.plugin.storages import rate_of
from tenantguard.errors import PortError
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import ReturnTokens, Take, Taken, TakeTokens
from tenantguard.limits import (
    STRATEGY,
    AsyncMemoryStorage,
    AsyncRedisStorage,
    AsyncTokenBucketRateLimiter,
    MemoryStorage,
    RedisStorage,
    TokenBucketItem,
    TokenBucketRateLimiter,
    parse,
)
from tenantguard.model.rate import Rate
from tenantguard.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Redis

SECOND = 10**9
TEN = limits.parse("10/minute")


class World:
    """A strategy over a storage with a clock that stands still; asynchronous ones answer in a loop of their own."""

    def __init__(self, open_storage: Callable[..., Any], strategy: type, uri: str) -> None:
        self.clock = ManualClock()
        self._open, self._strategy, self._uri = open_storage, strategy, uri
        self._storages: list[Any] = []
        self.configure()

    def configure(self, **options: Any) -> None:
        """As new, with these options."""
        self.storage = self._open(self._uri, clock=self.clock, **options)
        if hasattr(self.storage, "close"):
            from tenantguard.adapters.limits.redis.store import RedisLimits

            self.storage.store.close()
            self.storage.store = RedisLimits(
                self.storage.configured.address, self.clock, deadline_ms=5000, test_clock=self.clock
            )
        self._storages.append(self.storage)
        self.limiter = self._strategy(self.storage)

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def run(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        answer = call(*args, **named)
        return self.loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def hit(self, item: Any, *identifiers: Any, cost: int = 1) -> bool:
        return bool(self.run(self.limiter.hit, item, *identifiers, cost=cost))

    def hits(self, item: Any, *identifiers: Any, times: int) -> int:
        return sum(self.hit(item, *identifiers) for _ in range(times))

    def test(self, item: Any, *identifiers: Any, cost: int = 1) -> bool:
        return bool(self.run(self.limiter.test, item, *identifiers, cost=cost))

    def stats(self, item: Any, *identifiers: Any) -> tuple[float, int]:
        """Seconds until the reset, and units left."""
        at, remaining = self.run(self.limiter.get_window_stats, item, *identifiers)
        return float(Fraction(at) - Fraction(self.clock.wall_ns(), SECOND)), remaining

    def clear(self, item: Any, *identifiers: Any) -> None:
        self.run(self.limiter.clear, item, *identifiers)

    def close(self) -> None:
        for storage in self._storages:
            if hasattr(storage, "close"):
                self.run(storage.close)
        if "loop" in vars(self):
            self.loop.close()


MEMORY: dict[str, tuple[Any, type]] = {
    "tenantguard+memory://": (MemoryStorage, TokenBucketRateLimiter),
    "async+tenantguard+memory://": (AsyncMemoryStorage, AsyncTokenBucketRateLimiter),
}
REDIS: dict[str, tuple[Any, type]] = {
    "tenantguard+": (RedisStorage, TokenBucketRateLimiter),
    "async+tenantguard+": (AsyncRedisStorage, AsyncTokenBucketRateLimiter),
}


@pytest.fixture(params=[*MEMORY, *REDIS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param in MEMORY:
        opened = World(*MEMORY[request.param], request.param)
    else:
        server: Redis = request.getfixturevalue("redis")
        server.flush()
        opened = World(*REDIS[request.param], request.param + server.uri)
    yield opened
    opened.close()


@pytest.fixture(params=MEMORY)
def in_memory(request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(*MEMORY[request.param], request.param)
    yield opened
    opened.close()


# the bucket


def test_a_new_key_admits_its_amount_at_once_and_then_one_unit_as_it_refills(world: World) -> None:
    """E-27, E-28, E-29."""
    assert world.hits(TEN, "ann", times=11) == 10
    world.clock.advance(5.9)
    assert not world.hit(TEN, "ann")
    world.clock.advance(0.1)
    assert world.hits(TEN, "ann", times=2) == 1


def test_keys_do_not_affect_each_other(world: World) -> None:
    """E-30."""
    assert world.hits(TEN, "ann", times=11) == 10
    assert world.hit(TEN, "bob")
    assert world.hit(limits.parse("10/hour"), "ann")


def test_a_cost_takes_so_many_units_or_none(world: World) -> None:
    assert world.hit(TEN, "ann", cost=8)
    assert not world.hit(TEN, "ann", cost=3)
    assert world.hit(TEN, "ann", cost=2)
    assert not world.hit(TEN, "ann")


def test_a_cost_of_nothing_passes_an_empty_bucket(world: World) -> None:
    """E-32."""
    assert world.hit(TEN, "ann", cost=10)
    assert world.hit(TEN, "ann", cost=0)
    assert world.test(TEN, "ann", cost=0)


def test_a_cost_above_the_burst_is_never_granted_and_takes_nothing(world: World) -> None:
    """E-31, and rate-limits D0: a rejected hit of `limits`' fixed window consumes and locks the tenant out."""
    assert not world.hit(TEN, "ann", cost=1000)
    assert world.stats(TEN, "ann")[1] == 10
    assert world.hit(TEN, "ann", cost=10)


def test_a_negative_cost_mints_nothing(world: World) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        world.hit(TEN, "ann", cost=-1)


def test_a_limit_of_nothing_admits_nothing(world: World) -> None:
    closed = limits.parse("0/minute")
    assert not world.hit(closed, "ann")
    assert not world.test(closed, "ann")
    assert world.hit(closed, "ann", cost=0)
    assert world.stats(closed, "ann") == (60.0, 0)
    world.clear(closed, "ann")


def test_testing_takes_nothing(world: World) -> None:
    assert all(world.test(TEN, "ann", cost=10) for _ in range(3))
    assert not world.test(TEN, "ann", cost=11)
    assert world.hit(TEN, "ann", cost=4)
    assert world.test(TEN, "ann", cost=6)
    assert not world.test(TEN, "ann", cost=7)


def test_clearing_makes_a_bucket_full(world: World) -> None:
    assert world.hits(TEN, "ann", times=11) == 10
    assert world.hits(TEN, "bob", times=11) == 10
    world.clear(TEN, "ann")
    assert world.stats(TEN, "ann")[1] == 10
    assert world.hits(TEN, "bob", times=1) == 0


def test_nothing_is_given_back_to_a_bucket_that_was_cleared_meanwhile(world: World) -> None:
    def answered(answer: Any) -> Any:
        if isinstance(answer, Promise):
            assert answer.wait(5)
            return answer.result()
        return answer

    bucket, rate = parse("10/minute").key_for("ann"), Rate(10, 60 * SECOND)
    for number in range(2):
        command = TakeTokens(bytes([number]), (Take(bucket, rate, 4),))
        assert isinstance(answered(world.storage.store.execute(command)), Taken)
    world.clock.advance(1)
    world.clear(parse("10/minute"), "ann")
    assert world.hit(parse("10/minute"), "ann", cost=5)
    for number in range(2):
        answered(world.storage.store.execute(ReturnTokens(bytes([number]))))
    assert world.stats(parse("10/minute"), "ann")[1] == 5


def test_the_window_is_told_whole_and_never_too_early(world: World) -> None:
    assert world.stats(TEN, "ann") == (0.0, 10)
    assert world.hits(TEN, "ann", times=11) == 10
    assert world.stats(TEN, "ann") == (6.0, 0)
    world.clock.advance(0.5)
    assert world.stats(TEN, "ann") == (5.5, 0)  # whole seconds of the clock
    world.clock.advance(5.5)
    assert world.stats(TEN, "ann")[1] == 1
    assert world.hit(TEN, "ann")


def test_after_a_refusal_the_reset_is_when_what_was_refused_fits(world: World) -> None:
    """E+3."""
    assert world.hit(TEN, "ann", cost=9)
    assert not world.hit(TEN, "ann", cost=4)
    wait, remaining = world.stats(TEN, "ann")
    assert (wait, remaining) == (18.0, 1)
    world.clock.advance(17.9)
    assert not world.hit(TEN, "ann", cost=4)
    world.clock.advance(0.1)
    assert world.hit(TEN, "ann", cost=4)
    assert world.stats(TEN, "ann") == (6.0, 0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_window_admits_more_than_burst_and_refill_and_every_reset_is_true(data: st.DataObject) -> None:
    """E+1, E+3."""
    amount, seconds, burst = (data.draw(st.integers(1, 50)) for _ in range(3))
    item = TokenBucketItem(Rate(amount, seconds * SECOND, burst))
    world = World(*MEMORY["tenantguard+memory://"], "tenantguard+memory://")
    began, admitted = world.clock.monotonic_ns(), 0
    for _ in range(data.draw(st.integers(1, 30))):
        cost = data.draw(st.integers(1, burst))
        if world.hit(item, "ann", cost=cost):
            admitted += cost
        else:
            wait, remaining = world.stats(item, "ann")
            assert remaining < cost
            if data.draw(st.booleans()):
                world.clock.advance(wait)
                assert world.hit(item, "ann", cost=cost)
                admitted += cost
        world.clock.advance(data.draw(st.floats(0, 10)))
        elapsed = Fraction(world.clock.monotonic_ns() - began, SECOND)
        assert admitted <= burst + elapsed * amount / seconds + Fraction(1, 10**6)
    world.close()


# bursts and notation


def test_an_item_can_have_a_burst(world: World) -> None:
    assert world.hits(parse("10/minute burst 15"), "ann", times=16) == 15
    assert world.hits(parse("10/minute burst 1"), "bob", times=2) == 1


def test_plain_items_get_their_burst_from_the_storage(world: World) -> None:
    world.configure(bursts=["10/minute burst 15"])
    assert world.hits(TEN, "ann", times=16) == 15
    assert world.hits(limits.parse("10 per 60 second"), "bob", times=16) == 15
    assert world.hits(limits.parse("9/minute"), "ann", times=16) == 9


@pytest.mark.parametrize(
    ("text", "amount", "seconds", "burst"),
    [
        ("10/second", 10, 1, 10),
        ("1.5/second", 3, 2, 2),
        ("10/week", 10, 7 * 86_400, 10),
        ("500 per 5 minutes burst 20", 500, 300, 20),
        ("100000 tokens/minute", 100_000, 60, 100_000),
    ],
)
def test_items_are_read_in_our_notation(text: str, amount: int, seconds: int, burst: int) -> None:
    item = parse(text)
    assert (item.amount, item.get_expiry(), item.burst) == (amount, seconds, burst)
    assert item == parse(text)
    assert {item: 1}[parse(text)] == 1
    assert item != limits.parse("10/second")
    assert str(burst) in repr(item)


@pytest.mark.parametrize("text", ["10/fortnight", "", "ten/second", "10/second; 5/minute", "0/second"])
def test_what_cannot_be_read_is_a_value_error_as_in_limits(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse(text)


def test_a_unit_is_a_namespace_so_requests_and_tokens_do_not_share_a_bucket(world: World) -> None:
    assert world.hit(parse("10/minute"), "ann", cost=10)
    assert world.hit(parse("10 tokens/minute"), "ann", cost=10)
    assert world.hit(parse("10 tokens/minute", namespace="images"), "ann", cost=10)


def test_the_notation_of_limits_itself_is_as_before() -> None:
    with pytest.raises(ValueError):
        limits.parse("10/week")
    assert type(limits.parse("1/second")) is limits.RateLimitItemPerSecond


# as limits uses strategies and storages


def test_storages_are_found_by_their_schemes(redis: Redis) -> None:
    found: dict[str, type] = {
        "tenantguard+memory://": MemoryStorage,
        "async+tenantguard+memory://": AsyncMemoryStorage,
        f"tenantguard+{redis.uri}": RedisStorage,
        f"tenantguard+{redis.tcp}": RedisStorage,
        f"async+tenantguard+{redis.tcp.replace('redis', 'valkey')}": AsyncRedisStorage,
    }
    for uri, kind in found.items():
        assert type(storage_from_string(uri)) is kind


def test_importing_registers_nothing_until_asked_and_then_replaces_nothing() -> None:
    script = """
import json, sys
import tenantguard
from tenantguard import Guard, RateLimit
Guard([RateLimit("1/second")])
asked_for_nothing = "tenantguard.limits" in sys.modules
import limits, limits.aio
from limits._storage_scheme import SCHEMES
from limits.strategies import STRATEGIES
from limits.aio.strategies import STRATEGIES as ASYNC
before, named, asynchronous = dict(SCHEMES), dict(STRATEGIES), dict(ASYNC)
import tenantguard.limits
kept = all(SCHEMES[k] is v for k, v in before.items()) and all(STRATEGIES[k] is v for k, v in named.items())
kept = kept and all(ASYNC[k] is v for k, v in asynchronous.items())
print(json.dumps([asked_for_nothing, any("tenantguard" in k for k in before), kept,
    sorted(set(STRATEGIES) - set(named)), sorted(set(ASYNC) - set(asynchronous)),
    all("tenantguard+" in k for k in set(SCHEMES) - set(before)), "redis" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(done.stdout) == [False, False, True, [STRATEGY], [STRATEGY], True, False]


def test_a_strategy_of_limits_with_the_same_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tenantguard.adapters.limits.plugin.strategies import register

    theirs: Any = object()
    monkeypatch.setitem(limits.strategies.STRATEGIES, STRATEGY, theirs)
    register()
    assert limits.strategies.STRATEGIES[STRATEGY] is theirs


def test_other_storages_are_refused_with_the_remedy(redis: Redis) -> None:
    plain = storage_from_string(redis.uri)
    with pytest.raises(NotImplementedError, match=r"'tenantguard\+' in front"):
        TokenBucketRateLimiter(plain)
    with pytest.raises(NotImplementedError, match=r"'async\+tenantguard\+'"):
        AsyncTokenBucketRateLimiter(MemoryStorage())
    with pytest.raises(NotImplementedError):
        TokenBucketRateLimiter(AsyncMemoryStorage())


def test_the_plain_memory_storage_gets_buckets_beside_it() -> None:
    """slowapi and Flask-Limiter fall back on it."""
    limiter = TokenBucketRateLimiter(storage_from_string("memory://"))
    assert sum(limiter.hit(TEN, "ann") for _ in range(12)) == 10
    other = AsyncTokenBucketRateLimiter(storage_from_string("async+memory://"))
    assert asyncio.run(other.hit(TEN, "ann", cost=10))


def test_a_storage_is_checked_cleared_and_reset_as_any(world: World) -> None:
    assert world.run(world.storage.check)
    assert world.hits(TEN, "ann", times=10) == 10
    if hasattr(world.storage, "close"):
        with pytest.raises(NotImplementedError, match="clear"):
            world.run(world.storage.reset)
        return
    assert world.run(world.storage.reset) == 1
    assert world.hits(TEN, "ann", times=11) == 10


def test_fixed_windows_still_work_over_our_storages_and_the_others_say_that_they_do_not(world: World) -> None:
    strategies = (
        limits.aio.strategies if isinstance(world.limiter, AsyncTokenBucketRateLimiter) else limits.strategies
    )
    fixed = strategies.FixedWindowRateLimiter(world.storage)
    assert [world.run(fixed.hit, limits.parse("2/hour"), "ann") for _ in range(3)] == [True, True, False]
    assert world.run(fixed.get_window_stats, limits.parse("2/hour"), "ann").remaining == 0
    world.run(fixed.clear, limits.parse("2/hour"), "ann")
    assert world.run(fixed.test, limits.parse("2/hour"), "ann")
    for unable in (strategies.MovingWindowRateLimiter, strategies.SlidingWindowCounterRateLimiter):
        with pytest.raises(NotImplementedError):
            unable(world.storage)


@pytest.mark.parametrize("options", [{"max_key": 5}, {"max_keys": 0}, {"bursts": ["ten"]}])
@pytest.mark.parametrize("uri", MEMORY)
def test_wrong_options_are_a_configuration_error_of_limits(uri: str, options: dict[str, Any]) -> None:
    with pytest.raises(limits.errors.ConfigurationError):
        storage_from_string(uri, **options)


@pytest.mark.parametrize("options", [{"on_error": "maybe"}, {"deadline_ms": 0}, {"bursts": ["ten"]}])
@pytest.mark.parametrize("prefix", REDIS)
def test_wrong_options_of_redis_too(redis: Redis, prefix: str, options: dict[str, Any]) -> None:
    with pytest.raises(limits.errors.ConfigurationError):
        storage_from_string(prefix + redis.uri, **options)


@pytest.mark.parametrize("kind", [MemoryStorage, AsyncMemoryStorage, RedisStorage, AsyncRedisStorage])
def test_an_address_of_another_scheme_is_refused(kind: Any) -> None:
    with pytest.raises(limits.errors.ConfigurationError, match=r"begins with (async\+)?tenantguard\+"):
        kind("memory://")


# by the names of limits' own proposal


def test_the_methods_that_limits_may_come_to_use_are_there(world: World) -> None:
    """alisaifee/limits#364: capacity, units a second, a safety expiry, and (tokens, now)."""
    acquire, get = world.storage.acquire_token_bucket, world.storage.get_token_bucket
    rate = 10 / 60
    assert [world.run(acquire, "LIMITER/ann/10/1/minute", 10, rate, 60) for _ in range(11)] == [True] * 10 + [False]
    world.clock.advance(9)
    tokens, now = world.run(get, "LIMITER/ann/10/1/minute", 10, rate, 60)
    assert tokens == pytest.approx(1.5)
    assert now == world.clock.wall_ns() / 1e9
    assert not world.run(acquire, "LIMITER/ann/10/1/minute", 10, rate, 60, amount=2)
    assert not world.run(acquire, "LIMITER/ann/10/1/minute", 10, rate, 60, amount=11)


@given(st.integers(1, 10**6), st.sampled_from([1, 60, 3600, 86_400, 2_592_000, 31_104_000]), st.integers(1, 50))
def test_a_rate_in_floating_point_is_made_exact(amount: int, seconds: int, multiple: int) -> None:
    assume(seconds * multiple <= 366 * 86_400)
    rate = rate_of(amount, amount / (seconds * multiple))
    assert Fraction(rate.amount * SECOND, rate.period_ns) == Fraction(amount, seconds * multiple)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-9, float("nan"), float("inf")])
def test_a_rate_of_nothing_is_refused(rate: float) -> None:
    """E-33."""
    with pytest.raises(ValueError, match="one unit in 366 days"):
        rate_of(1, rate)


# what others get wrong


def test_identifiers_never_run_together(world: World) -> None:
    """rate-limits A.1: ("acme/eu", "chat") and ("acme", "eu/chat") are one key in `limits`."""
    lists: list[tuple[Any, ...]] = [
        ("acme/eu", "chat"), ("acme", "eu/chat"), ("acme|eu", "chat"), ("acme", "eu|chat"), ("acme%7Ceu", "chat"),
        ("acme", "eu", "chat"), (), ("",), ("", ""), ("limits",), (1,), (1.0,), (True,),
    ]  # fmt: skip
    for item in (limits.parse("1/hour"), parse("1/day")):
        for identifiers in lists:
            assert world.hit(item, *identifiers), identifiers
        for identifiers in lists:
            assert not world.hit(item, *identifiers), identifiers


@given(
    st.lists(st.lists(st.text(alphabet="a|%7C/:", max_size=4), max_size=3), min_size=2, max_size=2, unique_by=tuple)
)
def test_different_identifiers_have_different_keys(lists: list[list[str]]) -> None:
    item = parse("1/hour")
    assert item.key_for(*lists[0]) != item.key_for(*lists[1])


def test_two_plain_limits_of_one_period_are_two_buckets_as_in_limits(world: World) -> None:
    assert world.hit(TEN, "ann", cost=10)
    assert world.hit(limits.parse("20/minute"), "ann", cost=20)


def test_a_changed_amount_of_an_item_of_ours_goes_on_with_its_bucket(world: World) -> None:
    """rate-limits A.1: a changed plan starts with a fresh, full bucket in `limits`."""
    assert world.hit(parse("10/minute"), "ann", cost=10)
    assert not world.hit(parse("20/minute"), "ann", cost=11)
    world.clock.advance(60)
    assert world.hit(parse("20/minute"), "ann", cost=20)


def test_what_is_refused_in_a_flood_takes_nothing(world: World) -> None:
    """E+1: a client that polls is granted at the nominal time."""
    assert world.hit(TEN, "ann", cost=10)
    for _ in range(59):
        world.clock.advance(0.1)
        assert not world.hit(TEN, "ann")
    world.clock.advance(0.1)
    assert world.hit(TEN, "ann")


@pytest.fixture
def eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_threads_never_admit_more_than_the_limit() -> None:
    """rate-limits D0: `limits` over-admits in 8 of 600 such trials, and under-admits in 6."""
    limiter = TokenBucketRateLimiter(MemoryStorage())
    item = limits.parse("5/day")
    for trial in range(50):
        start, admitted = threading.Barrier(8), []

        def work(start: threading.Barrier = start, admitted: list[bool] = admitted, trial: int = trial) -> None:
            start.wait()
            admitted.extend(limiter.hit(item, f"user-{trial}") for _ in range(5))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(admitted) == 5


def test_full_buckets_are_forgotten_and_nothing_runs_for_that(in_memory: World) -> None:
    """rate-limits A.1: `limits` never drops empty keys of a moving window, sweeps all keys, and starts timers."""
    before = threading.active_count()
    item = limits.parse("1/second")
    for number in range(5000):
        in_memory.hit(item, f"user-{number}")
        in_memory.clock.advance(0.001)
    kept = repr(in_memory.storage.store)
    assert int(kept.split("(")[1].split()[0]) <= 3 * 1000
    assert threading.active_count() == before


def test_a_drained_bucket_is_never_refilled_by_making_room(in_memory: World) -> None:
    """E+2, and rate-limits D0: 1024 other keys let an exhausted one in again."""
    in_memory.configure(max_keys=64)
    item = limits.parse("10/hour")
    assert in_memory.hits(item, "ann", times=11) == 10
    for number in range(2048):
        in_memory.hit(item, f"user-{number}")
    assert not in_memory.hit(item, "ann")


def test_a_clock_that_goes_back_mints_nothing(world: World) -> None:
    """E+4."""
    assert world.hit(TEN, "ann", cost=10)
    world.clock.advance(-3600)
    assert not world.hit(TEN, "ann")
    world.clock.advance(3600)
    assert not world.hit(TEN, "ann")


def test_a_large_cost_is_as_cheap_as_a_small_one(world: World) -> None:
    """rate-limits D0: one hit of a million units writes 20 MB in a moving window of `limits`."""
    tokens = parse("1000000000 tokens/minute")
    assert world.hit(tokens, "ann", cost=999_999_999)
    assert world.stats(tokens, "ann")[1] == 1


def test_what_was_asked_lately_is_remembered_up_to_a_bound(in_memory: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantguard.adapters.limits.plugin.items._COMMANDS_MAX", 8)
    monkeypatch.setattr("tenantguard.adapters.limits.plugin.strategies._REFUSED_MAX", 8)
    for number in range(100):
        assert in_memory.hit(TEN, f"user-{number}", cost=10)
        assert not in_memory.hit(TEN, f"user-{number}", cost=2)
        assert in_memory.stats(TEN, f"user-{number}") == (12.0, 0)
    assert len(in_memory.storage.configured.commands._known) <= 8
    assert len(in_memory.limiter._refused._costs) <= 8


# a server that is gone


@pytest.mark.parametrize("prefix", REDIS)
def test_a_server_that_hangs_is_answered_for_in_time(own_redis: Redis, prefix: str) -> None:
    """rate-limits D0: the others give no answer within 12 s. Here each process goes on by itself."""
    world = World(*REDIS[prefix], prefix + own_redis.uri)
    storage = storage_from_string(prefix + own_redis.uri, deadline_ms=50, processes=1)
    limiter: Any = type(world.limiter)(storage)
    assert world.run(limiter.hit, TEN, "ann", cost=4)
    own_redis.hang()
    try:
        assert [world.run(limiter.hit, TEN, "ann") for _ in range(7)] == [True] * 6 + [False]
        assert not world.run(storage.check)
    finally:
        own_redis.go_on()
        world.run(storage.close)
        world.close()


@pytest.mark.parametrize("prefix", REDIS)
@pytest.mark.parametrize(("wrap", "error"), [(False, PortError), (True, limits.errors.StorageError)])
def test_where_a_failure_is_to_be_seen_it_is_an_error_that_can_be_wrapped(
    prefix: str, *, wrap: bool, error: type[Exception]
) -> None:
    uri = f"{prefix}redis://:secret@127.0.0.1:1/0"
    storage = storage_from_string(uri, wrap_exceptions=wrap, on_error="closed", deadline_ms=200)
    world = World(*REDIS[prefix], uri)
    limiter: Any = type(world.limiter)(storage)
    with pytest.raises(error) as failed:
        world.run(limiter.hit, TEN, "ann")
    assert "secret" not in str(failed.value)
    assert not world.run(storage.check)
    world.run(storage.close)
    world.close()


# frameworks, unmodified


def test_slowapi_runs_on_it() -> None:
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    clock = ManualClock()
    limiter = Limiter(
        key_func=lambda request: request.headers["x-user"],
        strategy=STRATEGY,
        storage_uri="tenantguard+memory://",
        storage_options={"clock": clock, "bursts": ["2/minute burst 3"]},  # type: ignore[dict-item]
        headers_enabled=True,
    )

    @limiter.limit("2/minute")
    async def home(request: Any) -> Any:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", home)])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    with TestClient(app) as client:
        answers = [client.get("/", headers={"x-user": "ann"}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[0].headers["x-ratelimit-remaining"] == "2"
        assert client.get("/", headers={"x-user": "bob"}).status_code == 200
        clock.advance(30)
        again = [client.get("/", headers={"x-user": "ann"}).status_code for _ in range(2)]
        assert again == [200, 429]
        limiter.reset()
        assert client.get("/", headers={"x-user": "ann"}).status_code == 200


def test_slowapi_falls_back_on_memory_where_the_server_is_gone() -> None:
    """rate-limits D0: a refused connection is a 500 there, even where errors are to be swallowed."""
    from slowapi import Limiter
    from starlette.requests import Request

    def limiter(**options: Any) -> Any:
        return Limiter(
            key_func=lambda request: "ann",
            strategy=STRATEGY,
            storage_uri="tenantguard+redis://127.0.0.1:1/0",
            **options,
        )

    def statuses(limited: Any, times: int) -> list[bool]:
        from slowapi.errors import RateLimitExceeded

        @limited.limit("2/minute")
        def view(request: Request) -> str:
            return "hello"

        found = []
        for _ in range(times):
            request = Request({"type": "http", "path": "/", "method": "GET", "headers": [], "app": SimpleNamespace()})
            request.scope["app"].state = SimpleNamespace(limiter=limited)
            try:
                view(request)
            except RateLimitExceeded:
                found.append(False)
            else:
                found.append(True)
        return found

    ours = limiter()  # this process decides by itself
    assert statuses(ours, 3) == [True, True, False]
    theirs = limiter(storage_options={"on_error": "closed"}, in_memory_fallback_enabled=True)
    assert statuses(theirs, 3) == [True, True, False]
    for each in (ours, theirs):
        each._storage.close()


def test_flask_limiter_runs_on_it() -> None:
    from flask import Flask
    from flask_limiter import Limiter

    clock = ManualClock()
    app = Flask(__name__)
    limiter = Limiter(
        key_func=lambda: "ann",
        app=app,
        strategy=STRATEGY,
        storage_uri="tenantguard+memory://",
        storage_options={"clock": clock},  # type: ignore[dict-item]
        headers_enabled=True,
    )

    @app.route("/")
    @limiter.limit("2/minute")
    def home() -> str:
        return "hello"

    @app.route("/large")
    @limiter.limit("10/minute", cost=4)
    def large() -> str:
        return "hello"

    client = app.test_client()
    answers = [client.get("/") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["X-RateLimit-Remaining"] == "0"
    clock.advance(30)
    assert [client.get("/").status_code for _ in range(2)] == [200, 429]
    assert [client.get("/large").status_code for _ in range(3)] == [200, 200, 429]
    clock.advance(12)
    assert client.get("/large").status_code == 200
    limiter.reset()
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("moment_s", [0.0, 0.3, 0.999])
def test_a_retry_after_of_either_framework_is_true(monkeypatch: pytest.MonkeyPatch, moment_s: float) -> None:
    """E+3: Flask-Limiter cuts it to whole seconds, and would promise up to a second too early."""
    from flask import Flask
    from flask_limiter import Limiter

    clock = ManualClock()
    clock.advance(moment_s)
    monkeypatch.setattr("flask_limiter._extension.time", SimpleNamespace(time=lambda: clock.wall_ns() / 1e9))
    app = Flask(__name__)
    limiter = Limiter(
        key_func=lambda: "ann", app=app, strategy=STRATEGY, storage_uri="tenantguard+memory://",
        storage_options={"clock": clock}, headers_enabled=True,
    )  # type: ignore[arg-type] # fmt: skip

    @app.route("/")
    @limiter.limit("7/minute")
    def home() -> str:
        return "hello"

    client = app.test_client()
    for _ in range(20):
        answer = client.get("/")
        if answer.status_code == 429:
            clock.advance(int(answer.headers["Retry-After"]))
            assert client.get("/").status_code == 200
        clock.advance(0.37)
