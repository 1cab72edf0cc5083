"""Slots in memory: threads, forks, loops that are gone; what the contract says is tested with the other stores."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from tenantguard.adapters.slots.memory import MemorySlots, SlotPromise
from tenantguard.adapters.system import SystemClock
from tenantguard.asgi.waiting import kept
from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, NotEntered, SlotClaim
from tenantguard.testing import ManualClock

SECOND = 10**9


def entering(number: int, limit: int = 1, wait_ns: int = 60 * SECOND, owner: str = "acme") -> EnterSlot:
    return EnterSlot(number.to_bytes(16, "big"), owner, (SlotClaim("acme|t", limit, 10_000, wait_ns),))


def leaving(number: int) -> LeaveSlot:
    return LeaveSlot(number.to_bytes(16, "big"))


def test_threads_never_pass_a_limit_and_lose_no_slot() -> None:
    """A+1."""
    store = MemorySlots(SystemClock())
    inside: list[int] = []
    peaks: list[int] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        for turn in range(60):
            number = thread * 1000 + turn
            answer: Any = store.execute(entering(number, limit=3))
            if isinstance(answer, SlotPromise):
                if turn % 7 == 3:
                    store.execute(leaving(number))
                    continue
                assert answer.wait(30)
                answer = answer.result()
            assert isinstance(answer, Entered)
            with lock:
                inside.append(number)
                peaks.append(len(inside))
            with lock:
                inside.remove(number)
            store.execute(leaving(number))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(peaks) <= 3
    assert store.standing() == []
    assert store._promises == {}
    assert repr(store) == "MemorySlots(0 inside, 0 waiting)"


def test_a_waiter_is_told_by_whoever_leaves_from_another_thread() -> None:
    store = MemorySlots(SystemClock())
    store.execute(entering(1))
    waits = store.execute(entering(2))
    thread = threading.Thread(target=store.execute, args=(leaving(1),))
    thread.start()
    assert waits.wait(30)
    thread.join(30)
    assert isinstance(waits.result(), Entered)


def test_who_waited_on_a_loop_that_is_gone_gets_nothing_after_its_time() -> None:
    """Nothing ran at its end: what it could have taken goes to the next."""
    clock = ManualClock()
    store = MemorySlots(clock)
    store.execute(entering(1))
    waits = store.execute(entering(2, wait_ns=SECOND))
    behind = store.execute(entering(3))
    loop = asyncio.new_event_loop()
    task = loop.create_task(kept(waits))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]
    loop.close()
    clock.advance(1)
    store.execute(leaving(1))
    assert waits.result() == Crowded(NotEntered.WAITED, (0,), 2 * SECOND)  # one is ahead
    assert isinstance(behind.result(), Entered)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_begins_with_nobody_inside() -> None:
    store = MemorySlots(ManualClock())
    store.execute(entering(1))
    store.execute(entering(2))
    child = os.fork()
    if child == 0:
        os._exit(0 if store.standing() == [] and isinstance(store.execute(entering(3)), Entered) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store.standing()) == 2


def test_no_fewer_than_nobody_can_wait() -> None:
    with pytest.raises(ConfigurationError, match="no less than 0"):
        MemorySlots(ManualClock(), waiting_max=-1)
    store = MemorySlots(ManualClock(), waiting_max=0)
    store.execute(entering(1))
    assert store.execute(entering(2)).reason is NotEntered.QUEUE_FULL
