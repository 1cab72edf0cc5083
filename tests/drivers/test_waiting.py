"""Waiting on asyncio for promises that a thread keeps: woken once for many, one timer for all of one deadline."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any
from unittest.mock import Mock

import pytest

from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.asgi.waiting import Mailbox, kept

LONG_S = 60.0


def keep_all(promises: list[LedgerPromise]) -> None:
    """As a ledger's thread does: all answers, then each bell once."""
    bells: set[Any] = set()
    for promise in promises:
        promise.keep("answer", bells)
    for bell in bells:
        bell()


def test_promises_that_are_kept_together_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait() -> list[bool]:
        loop = asyncio.get_running_loop()
        ring = Mock(wraps=loop.call_soon_threadsafe)
        monkeypatch.setattr(loop, "call_soon_threadsafe", ring)
        promises = [LedgerPromise(LONG_S) for _ in range(50)]
        tasks = [asyncio.ensure_future(kept(promise)) for promise in promises]
        await asyncio.sleep(0)
        thread = threading.Thread(target=keep_all, args=(promises,))
        thread.start()
        answers = await asyncio.gather(*tasks)
        thread.join()
        assert ring.call_count == 1
        return answers

    assert asyncio.run(wait()) == [True] * 50


def test_each_of_several_deadlines_is_kept_whatever_came_before_it() -> None:
    """A later waiter with a shorter deadline does not wait for an earlier one with a longer deadline."""

    async def wait() -> None:
        done: list[str] = []

        async def one(name: str, promise: LedgerPromise) -> None:
            done.append(f"{name} {await kept(promise)}")

        long, never, short = LedgerPromise(LONG_S), LedgerPromise(0.02), LedgerPromise(0.01)
        waits = [asyncio.ensure_future(one(*each)) for each in (("long", long), ("never", never), ("short", short))]
        await asyncio.gather(*waits[1:])
        assert done == ["short False", "never False"]
        keep_all([long])
        await waits[0]
        assert done[-1] == "long True"

    asyncio.run(wait())


def test_a_deadline_runs_from_when_each_waiting_began() -> None:
    """One timer for all of a deadline: what began later is neither woken early nor forgotten."""

    async def wait() -> None:
        loop = asyncio.get_running_loop()

        async def one() -> float:
            began = loop.time()
            assert not await kept(LedgerPromise(0.03))
            return loop.time() - began

        first = asyncio.ensure_future(one())
        await kept(LedgerPromise(0.01))
        assert min(await asyncio.gather(first, one(), one())) >= 0.029

    asyncio.run(wait())


def test_neither_answers_nor_cancelled_waits_leave_anything_behind() -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()
        promises = [LedgerPromise(0.01) for _ in range(20)]
        tasks = [asyncio.ensure_future(kept(promise)) for promise in promises]
        await asyncio.sleep(0)
        for task in tasks[:10]:
            task.cancel()
        keep_all(promises[10:])
        await asyncio.gather(*tasks, return_exceptions=True)
        keep_all(promises[:10])
        mailbox = Mailbox.of(loop)
        assert not any(mailbox._waiting.values())
        assert not await kept(LedgerPromise(0.02))
        assert not mailbox._waiting
        assert not mailbox._kept

    asyncio.run(wait())


def test_deadlines_that_callers_choose_leave_no_timers_behind() -> None:
    async def wait() -> int:
        loop = asyncio.get_running_loop()
        for number in range(2000):
            promise = LedgerPromise(LONG_S + number / 1000)
            task = asyncio.ensure_future(kept(promise))
            await asyncio.sleep(0)
            keep_all([promise])
            assert await task
        scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
        return len([timer for timer in scheduled if not timer.cancelled()]) + len(Mailbox.of(loop)._waiting)

    assert asyncio.run(wait()) < 40


def test_each_of_many_deadlines_is_kept() -> None:
    """Also of those for which there is no timer in common."""

    async def wait() -> int:
        loop = asyncio.get_running_loop()

        async def one(deadline_s: float) -> None:
            began = loop.time()
            assert not await kept(LedgerPromise(deadline_s))
            assert loop.time() - began >= deadline_s - time.get_clock_info("monotonic").resolution

        return len(await asyncio.gather(*[one((number + 1) / 1000) for number in range(30)]))

    assert asyncio.run(wait()) == 30


def test_a_loop_that_has_closed_is_not_kept_alive_and_its_promises_may_still_be_kept() -> None:
    late = LedgerPromise(LONG_S)

    async def wait() -> weakref.ref[asyncio.AbstractEventLoop]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kept(late), 0.001)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(wait())
    keep_all([late])
    gc.collect()
    assert loop() is None
