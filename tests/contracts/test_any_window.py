"""No window of time admits more than a burst and what refills in it: in every store, from threads and processes."""

from __future__ import annotations

import bisect
import multiprocessing
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.adapters.system import SystemClock
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Take, Taken, TakeTokens
from tenantguard.model.rate import TICKS_PER_NANO, Rate

from .test_limits import NAMES, Buckets, _shared

__all__ = ["_shared"]

SECOND = 10**9
JUMPS = st.one_of(
    st.just(0),
    st.integers(0, 2 * SECOND),
    st.integers(-SECOND, 0),
    st.sampled_from([-3600 * SECOND, 3600 * SECOND, -1, 1]),
)
RATES = st.sampled_from([Rate(3, SECOND, 6), Rate(7, 3 * SECOND), Rate(1, 10 * SECOND, 4), Rate(1000, SECOND, 5)])


@settings(max_examples=300)
@given(rate=RATES, steps=st.lists(st.tuples(JUMPS, st.integers(0, 4)), min_size=10, max_size=50), name=NAMES)
def test_whatever_the_clock_does_no_window_admits_more(rate: Rate, steps: list[tuple[int, int]], name: str) -> None:
    """E+4. Time in a window is what the clock says between its first take and its last, be it less than nothing."""
    buckets = Buckets(name)
    buckets.clock.now_ns = 10_000 * SECOND
    seen: list[tuple[int, int]] = []
    for jump, cost in steps:
        buckets.wait(jump)
        answer = buckets.execute(TakeTokens(None, (Take("a|tenant", rate, cost),)))
        seen.append((buckets.clock.now_ns, cost if isinstance(answer, Taken) else 0))
    granted = [(now, cost) for now, cost in seen if cost]
    for first, (began, _) in enumerate(granted):
        used = 0
        for now, cost in granted[first:]:
            used += cost
            assert used * rate.unit_ticks <= rate.burst_ticks + (now - began) * TICKS_PER_NANO


RATE = Rate(300, SECOND, 60)
THREADS, TRIES = 2, 200


def ask(store: Any, bucket: str, granted: list[tuple[int, int]]) -> None:
    now_ns, take = SystemClock().monotonic_ns, Take(bucket, RATE)
    for _ in range(TRIES):
        began = now_ns()
        answer = store.execute(TakeTokens(None, (take,)))
        if isinstance(answer, Promise):
            answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
        assert not answer.degraded
        if isinstance(answer, Taken):
            granted.append((began, now_ns()))


def crowd(store: Any, bucket: str, threads: int) -> list[tuple[int, int]]:
    granted: list[tuple[int, int]] = []
    workers = [threading.Thread(target=ask, args=(store, bucket, granted)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return granted


def most_beyond(granted: list[tuple[int, int]]) -> float:
    """By how many units the worst window exceeds its refill: of those that were surely decided within it."""
    worst = 0.0
    ends: list[int] = []
    for began, ended in sorted(granted, reverse=True):
        bisect.insort(ends, ended)
        for count, last in enumerate(ends, 1):
            worst = max(worst, count - RATE.amount * (last - began) / RATE.period_ns)
    return worst


@pytest.mark.parametrize("locks", [1, 64])
def test_threads_in_memory(locks: int) -> None:
    granted = crowd(MemoryLimits(SystemClock(), locks=locks), "acme|tenant", 6)
    assert len(granted) >= RATE.burst
    assert most_beyond(granted) <= RATE.burst + 0.01


def process(uri: str, bucket: str, options: dict[str, Any], results: Any) -> None:
    store = RedisLimits(uri, processes=3, deadline_ms=60_000, **options)
    results.put(crowd(store, bucket, THREADS))
    store.close()


@pytest.mark.parametrize("options", [{"coalesce": False}, {}, {"lease": 64}], ids=["exact", "coalesced", "leased"])
def test_processes_with_threads_on_one_server(redis: Any, options: dict[str, Any]) -> None:
    """A microsecond, which is what the server's clock tells, is 0.0003 units."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    bucket = f"acme|{'-'.join(options)}"
    redis.flush()
    workers = [context.Process(target=process, args=(redis.uri, bucket, options, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    granted: list[tuple[int, int]] = []
    for _ in workers:
        granted += results.get()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    chunk = 0
    if "lease" in options:
        store = RedisLimits(redis.uri, processes=3, lease=64)
        chunk = store.chunk_of(RATE)
        store.close()
        assert chunk > 1
    assert len(granted) >= RATE.burst - 3 * chunk
    assert most_beyond(granted) <= RATE.burst + 3 * chunk + 0.01
