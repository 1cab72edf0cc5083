"""What only the store in memory has: threads, generations, and a bound."""

from __future__ import annotations

import logging
import sys
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens, TokenGrant
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import Overdrawn, draw_all
from tenantguard.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = 10**9
SLOW = Rate(1, 86_400 * SECOND)
FAST = Rate(1000, SECOND, 1)


def take(store: MemoryLimits, *keys: str, rate: Rate = SLOW, cost: int = 1) -> bool:
    """Take and keep."""
    command = TakeTokens(b"id", tuple(Take(key, rate, cost) for key in keys))
    answer = store.execute(command)
    store.execute(SettleTokens(command.id))
    return isinstance(answer, Taken)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("locks", [1, 64])
def test_threads_admit_exactly_the_burst(locks: int) -> None:
    store = MemoryLimits(SystemClock(), locks=locks)
    admitted = [0] * 8
    start = threading.Barrier(len(admitted))

    def worker(number: int) -> None:
        start.wait()
        for attempt in range(500):
            command = TakeTokens(f"{number}/{attempt}".encode(), (Take("a", SLOW_MANY), Take("b", SLOW_MORE)))
            if isinstance(store.execute(command), Taken):
                admitted[number] += attempt % 2
            store.execute((SettleTokens if attempt % 2 else ReturnTokens)(command.id))

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(len(admitted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == SLOW_MANY.burst
    assert not take(store, "a", rate=SLOW_MANY)
    assert take(store, "b", rate=SLOW_MORE, cost=SLOW_MORE.burst - SLOW_MANY.burst)
    assert not take(store, "b", rate=SLOW_MORE)


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("locks", [1, 2, 64])
def test_threads_that_take_many_buckets_in_every_order_never_wait_for_each_other_for_ever(locks: int) -> None:
    """Each holds some locks and wants others; then all that was returned is there, and what was settled is gone."""
    store = MemoryLimits(SystemClock(), locks=locks)
    keys = [f"key-{number}" for number in range(16)]
    start = threading.Barrier(6)

    def worker(number: int) -> None:
        start.wait()
        for attempt in range(300):
            at = (7 * number + 3 * attempt) % len(keys)
            mine = keys[at:] + keys[:at]
            chosen = (mine if (number + attempt) % 2 else mine[::-1])[:5]
            command = TakeTokens(f"{number}/{attempt}".encode(), tuple(Take(key, SLOW_MORE, 3) for key in chosen))
            assert isinstance(store.execute(command), Taken)
            store.execute(SettleTokens(command.id or b"", (0,) * 5))

    threads = [threading.Thread(target=worker, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert repr(store) == "MemoryLimits(16 buckets, 0 open ids)"
    assert all(take(store, key, rate=SLOW_MORE, cost=SLOW_MORE.burst) for key in keys)


SLOW_MANY = Rate(1, 86_400 * SECOND, 1000)
SLOW_MORE = Rate(1, 86_400 * SECOND, 5000)


def test_buckets_that_are_full_again_are_forgotten_and_others_never(clock: ManualClock) -> None:
    """E+2: many distinct keys come and go, and the drained one stays drained."""
    store = MemoryLimits(clock)
    assert take(store, "drained")
    tracemalloc.start()
    try:
        for number in range(30_000):
            assert take(store, f"key-{number}", rate=FAST)
            clock.advance(0.0005)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000  # kept for ever, they would be ten times that
    assert not take(store, "drained")
    clock.advance(1)
    assert list(store.snapshot()) == ["drained"]


def test_a_flood_of_distinct_keys_meets_the_bound_and_refills_no_key(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """E+2: further keys share one strict bucket; it is counted, and logged once."""
    store = MemoryLimits(clock, max_keys=2000)
    caplog.set_level(logging.WARNING)
    tracemalloc.start()
    try:
        admitted = sum(take(store, f"key-{number}") for number in range(20_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert admitted == 2000 + 1
    assert store.overflowed == 18_000
    assert peak < 2000 * 400
    assert [record.message for record in caplog.records] == [
        "there is no room for another bucket: further ones share an overflow bucket"
    ]
    assert not any(take(store, f"key-{number}") for number in range(0, 20_000, 7))


def test_refused_keys_take_no_room_for_good(clock: ManualClock) -> None:
    store = MemoryLimits(clock, max_keys=10)
    for number in range(1000):
        assert not take(store, f"key-{number}", cost=2)
    assert store.overflowed == 0
    assert store.snapshot() == {}


def test_each_rate_overflows_into_a_bucket_of_its_own(clock: ManualClock) -> None:
    store = MemoryLimits(clock, max_keys=1)
    assert take(store, "kept")
    assert take(store, "a", rate=Rate(1, SECOND, 2))
    assert take(store, "b", rate=Rate(1, SECOND, 2))
    assert not take(store, "c", rate=Rate(1, SECOND, 2))
    assert take(store, "c", rate=Rate(1, SECOND, 3))
    clock.advance(1)
    assert take(store, "c", rate=Rate(1, SECOND, 2))


def test_what_came_from_the_overflow_bucket_can_be_returned(clock: ManualClock) -> None:
    store = MemoryLimits(clock, max_keys=1)
    take(store, "kept")
    store.execute(TakeTokens(b"over", (Take("a", SLOW),)))
    assert not take(store, "b")
    store.execute(ReturnTokens(b"over"))
    assert take(store, "b")


def test_a_key_that_finds_room_again_begins_where_the_overflow_bucket_stands(clock: ManualClock) -> None:
    """Else a caller could take a burst from the shared bucket, and another from its own."""
    store = MemoryLimits(clock, max_keys=1)
    minute = Rate(1, 60 * SECOND)
    assert take(store, "kept", rate=Rate(1, SECOND))
    assert take(store, "a", rate=minute)
    clock.advance(2)
    assert take(store, "b", rate=Rate(1, SECOND))
    clock.advance(2)
    assert not take(store, "a", rate=minute)
    clock.advance(56)
    assert take(store, "a", rate=minute)


KEYS = [f"key-{number}" for number in range(12)]
VISITS = st.tuples(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 3))


@given(st.lists(VISITS, min_size=10, max_size=60))
def test_generations_change_no_answer(visited: list[tuple[list[str], int, int]]) -> None:
    """A plain dictionary that keeps every bucket for ever answers the same."""
    clock = ManualClock()
    store = MemoryLimits(clock)
    rates = {key: Rate(1, (1 + number % 4) * SECOND, 1 + number % 3) for number, key in enumerate(KEYS)}
    tats: dict[str, int] = {}
    for number, (keys, cost, pause) in enumerate(visited):
        clock.advance(pause)
        now = clock.monotonic_ns() * TICKS_PER_NANO
        taken = draw_all([(key, tats.get(key, 0), rates[key], cost, False) for key in keys], now)
        command = TakeTokens(str(number).encode(), tuple(Take(key, rates[key], cost) for key in keys))
        assert isinstance(store.execute(command), Taken) == (not isinstance(taken, Overdrawn))
        if not isinstance(taken, Overdrawn):
            tats.update(dict(zip(keys, taken[0], strict=True)) if cost else {})
        live = {key: -(-(tat - now) // TICKS_PER_NANO) for key, tat in tats.items() if tat > now}
        assert store.snapshot() == live


def test_closing_keeps_the_buckets(clock: ManualClock) -> None:
    store = MemoryLimits(clock)
    take(store, "a")
    store.close()
    assert not take(store, "a")


def test_a_barred_id_is_let_go_in_the_end(clock: ManualClock) -> None:
    store = MemoryLimits(clock)
    store.execute(ReturnTokens(b"early"))
    for _ in range(2):
        clock.advance(61)
        store.execute(ReturnTokens(b"other"))
    assert isinstance(store.execute(TakeTokens(b"early", (Take("a", SLOW),))), Taken)


def test_a_large_store_is_bounded_shard_by_shard(clock: ManualClock) -> None:
    """Each of 64 shards has an overflow bucket, and no drained key is let in again."""
    store = MemoryLimits(clock, max_keys=6400)
    admitted = sum(take(store, f"key-{number}") for number in range(20_000))
    assert 6400 < admitted <= 6400 + 64
    assert admitted + store.overflowed - 64 == 20_000
    assert not any(take(store, f"key-{number}") for number in range(0, 20_000, 7))


def test_a_hundred_thousand_tenants_keep_their_limits(clock: ManualClock) -> None:
    """A bounded cache that evicts would let exhausted tenants in again."""
    store = MemoryLimits(clock)
    tracemalloc.start()
    try:
        tenants = [f"tenant-{number}" for number in range(10_000)]
        assert all(take(store, tenant) for tenant in tenants)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000 * 200  # keys and all
    tenants += [f"tenant-{number}" for number in range(10_000, 100_000)]
    assert all(take(store, tenant) for tenant in tenants[10_000:])
    assert not any(take(store, tenant) for tenant in tenants)


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("locks", [1, 64])
def test_threads_that_take_in_place_admit_exactly_the_burst(locks: int) -> None:
    """The second bucket empties first, so that what a refused take wrote in the first is put back."""
    store = MemoryLimits(SystemClock(), locks=locks)
    takes = Take("a", SLOW_MORE), Take("b", SLOW_MANY)
    admitted = [0] * 8
    start = threading.Barrier(len(admitted))

    def worker(number: int) -> None:
        start.wait()
        for _ in range(500):
            admitted[number] += isinstance(store.take_in_place(takes), Taken)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(len(admitted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == SLOW_MANY.burst
    assert take(store, "a", rate=SLOW_MORE, cost=SLOW_MORE.burst - SLOW_MANY.burst)
    assert not take(store, "a", rate=SLOW_MORE)


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("locks", [1, 64])
def test_of_threads_that_end_one_grant_one_gives_its_units_back(locks: int) -> None:
    store = MemoryLimits(SystemClock(), locks=locks)
    takes = Take("a", SLOW_MANY, 1), Take("b", SLOW_MANY, 2)
    assert take(store, "a", rate=SLOW_MANY, cost=SLOW_MANY.burst - 100)
    grants = [store.take_in_place(takes, final=False) for _ in range(100)]
    start = threading.Barrier(4)

    def worker() -> None:
        start.wait()
        for grant in grants:
            assert isinstance(grant, TokenGrant)
            grant.end(None)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert take(store, "a", rate=SLOW_MANY, cost=100)
    assert not take(store, "a", rate=SLOW_MANY)
    assert take(store, "b", rate=SLOW_MANY, cost=SLOW_MANY.burst)
    assert not take(store, "b", rate=SLOW_MANY)


@pytest.mark.parametrize("take_", [Take("a", SLOW, 1), Take("a", SLOW, 2), Take("a", SLOW, 0), Take("a", FAST, 1)])
def test_acquiring_is_a_final_take_in_plain_numbers(clock: ManualClock, take_: Take) -> None:
    plain, full = MemoryLimits(clock), MemoryLimits(clock)
    for _ in range(3):
        answer = full.execute(TakeTokens(None, (take_,)))
        assert answer is not None
        granted = isinstance(answer, Taken)
        wait = 0 if isinstance(answer, Taken) else answer.retry_after_ns
        assert plain.acquire(take_) == (granted, answer.levels[0][0], wait, answer.levels[0][1])
        clock.advance(0.0001)


def test_acquiring_from_a_bucket_with_open_takes_is_not_credited_to_them(clock: ManualClock) -> None:
    store = MemoryLimits(clock)
    rate = Rate(10, SECOND)
    store.execute(TakeTokens(b"early", (Take("a", rate, 10),)))
    clock.advance(1)
    assert store.acquire(Take("a", rate, 5))[:2] == (True, 5)
    store.execute(ReturnTokens(b"early"))
    assert store.acquire(Take("a", rate, 6))[0] is False


def test_what_is_taken_in_place_beside_open_takes_is_not_credited_to_them(clock: ManualClock) -> None:
    store = MemoryLimits(clock)
    rate = Rate(10, SECOND)
    store.execute(TakeTokens(b"early", (Take("a", rate, 10),)))
    clock.advance(1)
    assert store.take_in_place((Take("a", rate, 5),)) == Taken(((5, SECOND // 2),))
    store.execute(ReturnTokens(b"early"))
    assert isinstance(store.take_in_place((Take("a", rate, 6),)), Shortage)


@pytest.mark.parametrize("costs", [(1,), (1, 2, 3), (-1, 0)])
def test_settling_with_numbers_that_cannot_be_is_the_layers_fault(clock: ManualClock, costs: tuple[int, ...]) -> None:
    store = MemoryLimits(clock)
    store.execute(TakeTokens(b"id", (Take("a", SLOW), Take("b", SLOW))))
    with pytest.raises(LayerError):
        store.execute(SettleTokens(b"id", costs))
    store.execute(ReturnTokens(b"id"))
    assert store.snapshot() == {}


@pytest.mark.parametrize("locks", [0, 3, -2])
def test_the_number_of_locks_is_a_power_of_two(clock: ManualClock, locks: int) -> None:
    with pytest.raises(ConfigurationError, match="power of two"):
        MemoryLimits(clock, locks=locks)


def test_a_store_without_room_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError):
        MemoryLimits(clock, max_keys=0)


def test_its_repr_shows_no_key(clock: ManualClock) -> None:
    store = MemoryLimits(clock)
    store.execute(TakeTokens(b"id", (Take("acme", SLOW),)))
    assert repr(store) == "MemoryLimits(1 buckets, 1 open ids)"
