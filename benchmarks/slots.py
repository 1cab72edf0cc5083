"""What slots cost, in memory and over Redis, and how soon whoever waits is woken.

    python -m benchmarks.slots

Beside the store stands ``threading.Semaphore``, which knows no tenants, no ids, no bound and no deadline. Measured
are entering and leaving where there is room, and a queue that moves on by one, in CPU time of the process; and the
time from a leaving to the next one's waking, on the clock on the wall, on one event loop and between two threads.

Over Redis, on loopback, fifty tasks of one event loop enter and leave, and one alone; the bare script is two times
`EVALSHA` of `return 1` through redis-py. Processor time is this process's, threads included, and that of the server
is from its own ``INFO``. A turn is handed over within one store, and from one to another, as between processes.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio

from benchmarks.rounds import Target, interleave, print_table, print_targets, progress
from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.adapters.system import SystemClock, TimeOrderedIds
from tenantguard.asgi.waiting import kept
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Entered, EnterSlot, LeaveSlot, SlotClaim
from tests.conftest import Redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS: Final = 21
HANDOVERS: Final = 2000
WAIT_NS: Final = 60 * 10**9
WAKE_MS: Final = 5.0
REDIS_ROUNDS: Final = 9
REDIS_TIMES: Final = 1000
TASKS: Final = 50
ONE: Final = (SlotClaim("acme|tenant|tenant", 10, 10**6, WAIT_NS),)
FOUR: Final = (
    SlotClaim("|global|global", 100, 10**6, WAIT_NS),
    SlotClaim("acme|tenant|tenant", 10, 10**6, WAIT_NS),
    SlotClaim("acme|route|route|chat", 10, 10**6, WAIT_NS),
    SlotClaim("acme|identity|identity|dev", 10, 10**6, WAIT_NS),
)

new_id = TimeOrderedIds().new


def in_and_out(claims: tuple[SlotClaim, ...]) -> Callable[[int], None]:
    store = MemorySlots(SystemClock())

    def run(times: int) -> None:
        for _ in range(times):
            one = new_id()
            store.execute(EnterSlot(one, "acme", claims))
            store.execute(LeaveSlot(one))

    return run


def semaphore() -> Callable[[int], None]:
    slots = threading.Semaphore(10)

    def run(times: int) -> None:
        for _ in range(times):
            with slots:
                pass

    return run


def queue(waiting: int, owners: int) -> Callable[[int], None]:
    """One joins the queue, one leaves, and the next comes in: it stays as long as it is."""
    store = MemorySlots(SystemClock(), waiting_max=10**6)
    numbers = count()
    inside: list[bytes] = []

    def join() -> None:
        owner = f"t{next(numbers) % owners}"
        one = new_id()
        own = SlotClaim(f"{owner}|tenant|tenant", 9, 10**6, WAIT_NS)
        answer = store.execute(EnterSlot(one, owner, (SlotClaim("|global|global", 1, 10**6, WAIT_NS), own)))
        if isinstance(answer, Entered):
            inside.append(one)
        else:
            answer.then(partial(inside.append, one))

    for _ in range(waiting + 1):
        join()

    def run(times: int) -> None:
        for _ in range(times):
            join()
            store.execute(LeaveSlot(inside.pop()))

    return run


def waits_on_a_loop() -> list[float]:
    """Milliseconds from a leaving to the waking of the next, where everything is on one event loop."""
    store = MemorySlots(SystemClock())
    claims = (SlotClaim("acme|t", 1, 10**6, WAIT_NS),)
    found: list[float] = []
    left_at = 0

    async def one(ready: asyncio.Event) -> None:
        nonlocal left_at
        one = new_id()
        answer = store.execute(EnterSlot(one, "acme", claims))
        if isinstance(answer, Promise):
            await kept(answer)
            found.append((time.perf_counter_ns() - left_at) / 1e6)
        await ready.wait()
        await asyncio.sleep(0)
        left_at = time.perf_counter_ns()
        store.execute(LeaveSlot(one))

    async def scene() -> None:
        ready = asyncio.Event()
        tasks = [asyncio.ensure_future(one(ready)) for _ in range(HANDOVERS)]
        await asyncio.sleep(0)
        ready.set()
        await asyncio.gather(*tasks)

    asyncio.run(scene())
    return found


def waits_of_a_thread() -> list[float]:
    """Milliseconds from a leaving to the waking of a thread that waits."""
    store = MemorySlots(SystemClock())
    claims = (SlotClaim("acme|t", 1, 10**6, WAIT_NS),)
    found: list[float] = []
    for _ in range(HANDOVERS // 4):
        first, second = new_id(), new_id()
        store.execute(EnterSlot(first, "acme", claims))
        promise = store.execute(EnterSlot(second, "acme", claims))
        woken_at: list[int] = []
        begun = threading.Event()

        def wait(promise: Any = promise, woken_at: list[int] = woken_at, begun: threading.Event = begun) -> None:
            begun.set()
            promise.wait(60)
            woken_at.append(time.perf_counter_ns())

        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        time.sleep(0.0005)  # until it waits
        left_at = time.perf_counter_ns()
        store.execute(LeaveSlot(first))
        thread.join()
        store.execute(LeaveSlot(second))
        found.append((woken_at[0] - left_at) / 1e6)
    return found


async def answered(store: Any, command: EnterSlot) -> Any:
    answer = store.execute(command)
    while isinstance(answer, Promise):
        answer = answer.result() if await kept(answer) else answer.late()
    return answer


async def over_redis(running: Redis) -> None:
    """What a slot costs the client and the server."""
    store = RedisSlots(running.tcp, deadline_ms=5000)
    client = redis.asyncio.Redis.from_url(running.tcp, protocol=2)
    sha = await client.script_load("return 1")

    def in_and_out_of(claims: tuple[SlotClaim, ...]) -> Callable[[], Awaitable[None]]:
        wide = tuple([SlotClaim(claim.key, 1000) for claim in claims])

        async def work() -> None:
            one = new_id()
            answer = await answered(store, EnterSlot(one, "acme", wide))
            assert answer.fence, "the server was too slow: nothing is measured"
            store.execute(LeaveSlot(one))

        return work

    async def bare() -> None:
        await client.evalsha(sha, 0)
        await client.evalsha(sha, 0)

    cases = {
        "bare EVALSHA of `return 1`, twice": bare,
        "in and out, 1 limit": in_and_out_of(ONE),
        "in and out, 4 limits, all or none": in_and_out_of(FOUR),
    }
    seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for tasks in (TASKS, 1):
        for _ in range(REDIS_ROUNDS):
            for name, work in cases.items():
                seen.setdefault((name, tasks), []).append(await _spent(work, tasks, client))
    store.close()
    await client.aclose()
    rows = [
        (f"{name}, {tasks} at once", *[f"{statistics.median(column):.1f}" for column in zip(*found, strict=True)])
        for (name, tasks), found in seen.items()
    ]
    print_table("Over Redis: CPU time, us", ("operation", "client", "server"), rows)


async def _spent(work: Callable[[], Awaitable[None]], tasks: int, client: Any) -> tuple[float, float]:
    async def times() -> None:
        for _ in range(REDIS_TIMES // tasks):
            await work()

    async def server_s() -> float:
        info = await client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    before, began = await server_s(), time.process_time_ns()
    await asyncio.gather(*[times() for _ in range(tasks)])
    spent = time.process_time_ns() - began
    return spent / 1000 / REDIS_TIMES, (await server_s() - before) * 1e6 / REDIS_TIMES


async def turns_over_redis(leaver: RedisSlots, waiter: RedisSlots) -> list[float]:
    """Milliseconds from a leaving in one store to the waking of who waits in another, or the same."""
    claims = (SlotClaim("acme|t", 1, 10, WAIT_NS),)
    found = []
    inside = new_id()
    await answered(leaver, EnterSlot(inside, "acme", claims))
    for _ in range(HANDOVERS // 4):
        next_one = new_id()
        turn = waiter.execute(EnterSlot(next_one, "acme", claims))
        await kept(turn)
        turn = turn.result()
        began = time.perf_counter_ns()
        leaver.execute(LeaveSlot(inside))
        await kept(turn)
        found.append((time.perf_counter_ns() - began) / 1e6)
        assert isinstance(turn.result(), Entered)
        leaver, waiter, inside = waiter, leaver, next_one
    leaver.execute(LeaveSlot(inside))
    return found


def main() -> None:
    cases = {
        "in and out, 1 limit": in_and_out(ONE),
        "in and out, 4 limits, all or none": in_and_out(FOUR),
        "threading.Semaphore, in and out": semaphore(),
        "hand-over, 10 wait, 1 tenant": queue(10, 1),
        "hand-over, 1000 wait, 1 tenant": queue(1000, 1),
        "hand-over, 1000 wait, 1000 tenants": queue(1000, 1000),
        "hand-over, 100 000 wait, 1000 tenants": queue(100_000, 1000),
    }
    progress("entering, leaving, handing over")
    samples = interleave(cases, ROUNDS)
    print_table("CPU time", ("operation", "us"), [(name, f"{samples.median(name):.2f}") for name in cases])
    progress("waking who waits")
    waking = {"on one event loop": waits_on_a_loop(), "between two threads": waits_of_a_thread()}
    progress("over Redis")
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:
        running = Redis(Path(folder))
        try:
            asyncio.run(over_redis(running))
            stores = [RedisSlots(running.tcp, deadline_ms=5000) for _ in range(2)]
            waking["over Redis, within one store"] = asyncio.run(turns_over_redis(stores[0], stores[0]))
            waking["over Redis, between two stores"] = asyncio.run(turns_over_redis(stores[0], stores[1]))
            for store in stores:
                store.close()
        finally:
            running.kill()
    tails = {name: statistics.quantiles(found, n=100)[98] for name, found in waking.items()}
    rows = [
        (name, f"{statistics.median(found):.3f}", f"{tails[name]:.3f}", f"{max(found):.3f}")
        for name, found in waking.items()
    ]
    print_table("From a leaving to the next one's waking, ms", ("where", "median", "99 %", "worst"), rows)
    longer = samples.ratio("hand-over, 100 000 wait, 1000 tenants", "hand-over, 10 wait, 1 tenant")
    print_targets(
        [
            *[
                Target(f"waking {name}, 99 %", f"< {WAKE_MS:g} ms", f"{tail:.3f} ms", tail < WAKE_MS)
                for name, tail in tails.items()
            ],
            Target("hand-over with 100 000 waiting", "<= 4x that with 10", f"{longer:.2f}x", longer <= 4),
        ]
    )


if __name__ == "__main__":
    main()
