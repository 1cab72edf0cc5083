"""What slots in memory cost, and how soon whoever waits is woken.

    python -m benchmarks.slots

Beside the store stands ``threading.Semaphore``, which knows no tenants, no ids, no bound and no deadline. Measured
are entering and leaving where there is room, and a queue that moves on by one, in CPU time of the process; and the
time from a leaving to the next one's waking, on the clock on the wall, on one event loop and between two threads.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from benchmarks.rounds import Target, interleave, print_table, print_targets, progress
from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.system import SystemClock, TimeOrderedIds
from tenantguard.asgi.waiting import kept
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Entered, EnterSlot, LeaveSlot, SlotClaim

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 21
HANDOVERS: Final = 2000
WAIT_NS: Final = 60 * 10**9
WAKE_MS: Final = 5.0
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
