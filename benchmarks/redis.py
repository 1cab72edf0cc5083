"""What a decision in Redis costs its client: exact, coalesced and leased, against a bare script and `limits`.

    python -m benchmarks.redis

Fifty tasks of one event loop (uvloop) ask at once, and one alone; each decision takes from four buckets, all or none,
of a thousand tenants. Those of leases are one tenant's, asked for in place first, as the rate layer does. `limits`
hits its four limits one after the other, which is neither one decision nor one trip.
The bare script is `EVALSHA` of `return 1` through redis-py: what any decision through it costs at least. A server is
started for the run, over loopback. Cases take turns; processor time is this process's, threads included, and that of
the server is from its own ``INFO``. Rates share two cores with the server: read their ratios.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import limits
import redis.asyncio
import uvloop
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from benchmarks.rounds import Target, print_table, print_targets, progress
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.asgi.waiting import kept
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import SettleTokens, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.rules.bucket import bucket_key
from tests.conftest import Redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROUNDS: Final = 9
TASKS: Final = 50
TENANTS: Final = 1000
DECISIONS: Final = 2000
OPEN: Final = Rate(10**6, 10**9, 10**6)
PROCESSES: Final = 4
SHARED: Final = Rate(1000, 10**9, 1000)

EXACT: Final = "exact, 4 buckets"
COALESCED: Final = "coalesced, 4 buckets"
LEASED: Final = "leases of 64, 4 buckets"
LEASED_ONE: Final = "leases of 64, 1 bucket"
BARE: Final = "bare EVALSHA of `return 1`"
LIMITS: Final = "limits, fixed window, 4 hits"


def takes_of(tenant: int) -> tuple[Take, ...]:
    owner = f"t{tenant}"
    return (
        Take(bucket_key("", "global", "global-1s"), OPEN),
        Take(bucket_key(owner, "tenant", "tenant-1s"), OPEN),
        Take(bucket_key(owner, "route", "route-1s", "POST /v1/chat"), OPEN),
        Take(bucket_key(owner, "identity", "identity-1s", f"{owner}-dev"), OPEN),
    )


class Case:
    """Decisions by one store, as a driver waits for them."""

    def __init__(
        self, store: RedisLimits, takes: list[tuple[Take, ...]], *, settled: bool = False, leased: bool = False
    ) -> None:
        self.store = store
        self.leased = leased
        self.commands = cycle([TakeTokens(None, each) for each in takes])
        self.takes = cycle(takes)
        self.ids = TimeOrderedIds() if settled else None

    async def __call__(self) -> None:
        if self.ids is None and self.leased:
            answer = self.store.take_in_place(next(self.takes))
            if answer is not None:
                assert isinstance(answer, Taken)
                return
        command = next(self.commands) if self.ids is None else TakeTokens(self.ids.new(), next(self.takes))
        answer = self.store.execute(command)
        if isinstance(answer, Promise):
            answer = answer.result() if await kept(answer) else answer.late()
        assert isinstance(answer, Taken)
        assert not answer.degraded, "the server was too slow: nothing is measured"
        if command.id is not None:
            self.store.execute(SettleTokens(command.id))


@contextmanager
def server() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        running = Redis(Path(folder))
        try:
            yield running
        finally:
            running.kill()


async def tasks(case: Callable[[], Awaitable[Any]], count: int, decisions: int) -> None:
    left = iter(range(decisions))

    async def work() -> None:
        for _ in left:  # of all tasks together: none has ended before the last decision is made
            await case()

    await asyncio.gather(*[work() for _ in range(count)])


async def measure(running: Redis) -> list[Target]:
    stores = {
        EXACT: RedisLimits(running.tcp, coalesce=False, processes=1, deadline_ms=5000),
        COALESCED: RedisLimits(running.tcp, processes=1, deadline_ms=5000),
        LEASED: RedisLimits(running.tcp, processes=1, lease=64, deadline_ms=5000),
    }
    four = [takes_of(tenant) for tenant in range(TENANTS)]
    one = [each[1:2] for each in four]
    client = redis.asyncio.Redis.from_url(running.tcp, protocol=2)
    sha = await client.script_load("return 1")
    storage = RedisStorage(f"async+{running.tcp}", implementation="redispy")
    item = limits.parse("1000000000/minute")
    keys = cycle([[take.bucket for take in each] for each in four])

    def hits(limiter: Any) -> Callable[[], Awaitable[None]]:
        async def hit() -> None:
            for key in next(keys):
                await limiter.hit(item, key)

        return hit

    cases: dict[str, Callable[[], Awaitable[Any]]] = {
        BARE: lambda: client.evalsha(sha, 0),
        EXACT: Case(stores[EXACT], four),
        "exact, 1 bucket": Case(stores[EXACT], one),
        COALESCED: Case(stores[COALESCED], four),
        "coalesced, 1 bucket": Case(stores[COALESCED], one),
        "coalesced, 4 buckets, with an id and settled": Case(stores[COALESCED], four, settled=True),
        LEASED: Case(stores[LEASED], four[:1], leased=True),
        LEASED_ONE: Case(stores[LEASED], one[:1], leased=True),
        LIMITS: hits(FixedWindowRateLimiter(storage)),
        "limits, sliding window, 4 hits": hits(SlidingWindowCounterRateLimiter(storage)),
    }
    seen: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for count in (TASKS, 1):
        progress(f"{count} at once")
        for case in cases.values():
            await tasks(case, count, 400)
        for _ in range(ROUNDS):
            for name, case in cases.items():
                decisions = (DECISIONS if count > 1 else DECISIONS // 4) * (10 if "leases" in name else 1)
                gc.collect()
                server_s, began, wall = used(running), time.process_time(), time.perf_counter()
                await tasks(case, count, decisions)
                wall, spent = time.perf_counter() - wall, time.process_time() - began
                seen.setdefault((name, count), []).append(
                    (spent * 1e6 / decisions, (used(running) - server_s) * 1e6 / decisions, decisions / wall)
                )
    await client.aclose()
    for store in stores.values():
        store.close()
    for count in (TASKS, 1):
        print_table(
            f"A decision, {count} at once",
            ("", "client us", "server us", "a second", "client, to the bare script"),
            [
                [
                    name,
                    *[f"{statistics.median(one[at] for one in seen[name, count]):.1f}" for at in (0, 1)],
                    f"{statistics.median(one[2] for one in seen[name, count]):,.0f}",
                    f"{ratio(seen, name, BARE, count, 0):.2f}",
                ]
                for name in cases
            ],
        )
    return targets_of(seen) + shared_by_processes(running)


def hammer(uri: str, seconds: float, results: Any) -> None:
    store = RedisLimits(uri, processes=PROCESSES, lease=64, deadline_ms=5000)
    takes = (Take(bucket_key("acme", "shared"), SHARED),)
    admitted = 0
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        answer = store.take_in_place(takes)
        if answer is None:
            answer = store.execute(TakeTokens(None, takes))
            if isinstance(answer, Promise):
                answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
        assert not answer.degraded
        admitted += isinstance(answer, Taken)
    results.put(admitted)
    store.close()


def shared_by_processes(running: Redis, seconds: float = 3.0) -> list[Target]:
    """What processes with leases admit of one rate, all of which ask for more."""
    progress(f"{PROCESSES} processes with leases")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    began = time.perf_counter()
    workers = [context.Process(target=hammer, args=(running.tcp, seconds, results)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    admitted = sum(results.get() for _ in workers)
    most = SHARED.burst + SHARED.amount * (time.perf_counter() - began)
    for worker in workers:
        worker.join()
    least = SHARED.burst + SHARED.amount * seconds
    bound = PROCESSES * min(64, SHARED.amount // 10 // PROCESSES, SHARED.burst // 4 // PROCESSES)
    over, under = max(0, admitted - int(most)), max(0, int(least) - admitted)
    return [
        Target(f"{PROCESSES} processes with leases: admitted beyond the rate, units", "0", f"{over}", not over),
        Target("  not admitted of it", f"<= {bound}", f"{under}", under <= bound),
    ]


def targets_of(seen: dict[tuple[str, int], list[tuple[float, float, float]]]) -> list[Target]:
    exact = ratio(seen, EXACT, BARE, TASKS, 0)
    less = ratio(seen, LIMITS, EXACT, TASKS, 0)
    faster = ratio(seen, COALESCED, LIMITS, TASKS, 2)
    cheaper = ratio(seen, LIMITS, COALESCED, TASKS, 0)
    lease = statistics.median(one[0] for one in seen[LEASED_ONE, TASKS])
    return [
        Target("exact, four buckets: client CPU, to a bare EVALSHA", "<= 1.5x", f"{exact:.2f}x", exact <= 1.5),
        Target("  less than limits", ">= 3x", f"{less:.1f}x", less >= 3),
        Target("coalesced: decisions a second, to limits", ">= 8x", f"{faster:.1f}x", faster >= 8),
        Target("  client CPU, less than limits", "", f"{cheaper:.1f}x", met=True),
        Target("a lease of 64: client CPU", "<= 2.5 us", f"{lease:.2f} us", lease <= 2.5),
    ]


def ratio(seen: dict[Any, list[tuple[float, float, float]]], name: str, to: str, count: int, at: int) -> float:
    pairs = zip(seen[name, count], seen[to, count], strict=True)
    return statistics.median(a[at] / b[at] for a, b in pairs)


def used(running: Redis) -> float:
    """Processor seconds of the server."""
    with open(f"/proc/{running.process.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> list[Target]:
    with server() as running:
        return uvloop.run(measure(running))


if __name__ == "__main__":
    print_targets(main())
    sys.exit(0)
