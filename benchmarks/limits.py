"""What a decision in memory costs: one and four buckets against the fixed windows of ``limits``, and a bare dict.

    python -m benchmarks.limits

A decision of TenantGuard is a take and its keep: atomic over all buckets, idempotent by its id, with the units left
and the time to full of each. A hit of ``limits`` answers yes or no for one window, so four scopes are four hits. The
floor reads the clock and writes one dictionary entry a bucket. CPU time of the process; rounds are interleaved and
the best of each is shown, since other programs only ever make a round slower.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING

import limits
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.system import SystemClock
from tenantguard.flow.ports import KeepTokens, ReturnTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 40
OPERATIONS = 2000
DISTINCT = 200_000
KEYS = (("global",), ("tenant", "acme"), ("route", "acme", "POST /v1/chat"), ("identity", "acme", "acme-dev"))
OPEN = Rate(10**9, 10**9)
DRAINED = Rate(1, 86_400 * 10**9)
ID = bytes(16)


def decide(store: MemoryLimits, command: TakeTokens, end: KeepTokens | ReturnTokens, times: int) -> None:
    for _ in range(times):
        store.execute(command)
        store.execute(end)


def hit(
    limiter: FixedWindowRateLimiter, item: limits.RateLimitItem, keys: tuple[tuple[str, ...], ...], times: int
) -> None:
    for _ in range(times):
        for key in keys:
            limiter.hit(item, *key)


def touch(kept: dict[tuple[str, ...], int], keys: tuple[tuple[str, ...], ...], times: int) -> None:
    for _ in range(times):
        now = time.monotonic_ns()
        for key in keys:
            kept[key] = max(kept.get(key, 0), now) + 1


def nanos_each(subjects: dict[str, Callable[[int], None]]) -> dict[str, float]:
    best = dict.fromkeys(subjects, float("inf"))
    for _ in range(ROUNDS):
        for name, run in subjects.items():
            began = time.process_time_ns()
            run(OPERATIONS)
            best[name] = min(best[name], (time.process_time_ns() - began) / OPERATIONS)
    return best


def decisions() -> None:
    store = MemoryLimits(SystemClock())
    takes = tuple(Take(key, OPEN) for key in KEYS)
    assert isinstance(store.execute(TakeTokens(b"check", takes)), Taken)
    store.execute(TakeTokens(b"drain", (Take(("drained",), DRAINED),)))
    refused = TakeTokens(ID, (Take(("drained",), DRAINED),))
    assert isinstance(store.execute(refused), Shortage)
    store.execute(ReturnTokens(ID))
    limiter = FixedWindowRateLimiter(MemoryStorage())
    item = limits.parse("1000000000/minute")
    kept: dict[tuple[str, ...], int] = {}
    measured = nanos_each(
        {
            "floor 1": partial(touch, kept, KEYS[1:2]),
            "floor 4": partial(touch, kept, KEYS),
            "ours 1": partial(decide, store, TakeTokens(ID, takes[1:2]), KeepTokens(ID)),
            "ours 4": partial(decide, store, TakeTokens(ID, takes), KeepTokens(ID)),
            "refused 1": partial(decide, store, refused, ReturnTokens(ID)),
            "limits 1": partial(hit, limiter, item, KEYS[1:2]),
            "limits 4": partial(hit, limiter, item, KEYS),
        },
    )
    print(f"{'decision':<44}{'ns':>8}{'x floor':>9}{'x limits':>10}")
    for name, label, scopes in (
        ("floor 1", "clock and dict, 1 bucket", 1),
        ("limits 1", "limits, fixed window in memory, 1 hit", 1),
        ("ours 1", "take and keep, 1 bucket", 1),
        ("refused 1", "refused and returned, 1 bucket", 1),
        ("floor 4", "clock and dict, 4 buckets", 4),
        ("limits 4", "limits, fixed window in memory, 4 hits", 4),
        ("ours 4", "take and keep, 4 buckets, all or none", 4),
    ):
        nanos = measured[name]
        floor, peer = measured[f"floor {scopes}"], measured[f"limits {scopes}"]
        print(f"{label:<44}{nanos:>8.0f}{nanos / floor:>9.1f}{nanos / peer:>10.2f}")


def drain_distinct(store: MemoryLimits, block: int) -> list[int]:
    """CPU nanoseconds of each block of distinct keys; making the commands is left out."""
    keep = KeepTokens(ID)
    spent = []
    for first in range(0, DISTINCT, block):
        keys = [("identity", "acme", f"key-{number}") for number in range(first, first + block)]
        commands = [TakeTokens(ID, (Take(key, DRAINED),)) for key in keys]
        began = time.process_time_ns()
        for command in commands:
            store.execute(command)
            store.execute(keep)
        spent.append(time.process_time_ns() - began)
    assert store.overflowed == 0
    return spent


def distinct_keys() -> None:
    each = sum(drain_distinct(MemoryLimits(SystemClock(), DISTINCT), 1000)) / DISTINCT
    slowest = max(drain_distinct(MemoryLimits(SystemClock(), DISTINCT), 1))
    tracemalloc.start()
    store = MemoryLimits(SystemClock(), DISTINCT)
    drain_distinct(store, 1000)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del store
    print(f"\n{DISTINCT} distinct drained buckets: {each:.0f} ns each, the slowest {slowest / 1e6:.1f} ms;")
    print(f"{size / DISTINCT:.0f} bytes a bucket with its key")


if __name__ == "__main__":
    decisions()
    distinct_keys()
