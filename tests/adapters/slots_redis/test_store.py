"""Slots that processes share: turns, order, limits that change, processes that end, fork or are killed."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.errors import ConfigurationError, LayerError, PortError
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, NotEntered, SlotClaim
from tenantguard.testing import ManualClock

from .conftest import child, turn, watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Process


def test_a_turn_is_told_to_another_process_without_asking(process: Callable[..., Process]) -> None:
    """A+9: its next beat is a quarter of an hour away."""
    here, there = process(lease_s=3600), process(lease_s=3600)
    first = here.inside()
    second, promise = there.waits()
    assert promise.patient
    assert promise.deadline_s == pytest.approx(60, abs=1)
    here.leave(first)
    entered = turn(promise)
    assert isinstance(entered, Entered)
    assert entered.fence > 0
    assert here.standing() == [(second, True)]


def test_what_is_queued_by_several_processes_is_served_in_order(process: Callable[..., Process]) -> None:
    """A-30: a thousand."""
    processes = [process(lease_s=3600), process(lease_s=3600)]
    inside = [(each, each.inside(2, key="acme|q")) for each in processes]
    waiting = [(each := processes[number % 2], *each.waits(2, key="acme|q")) for number in range(1000)]
    fences = []
    for each, asked, promise in waiting:
        leaver, left = inside.pop(0)
        leaver.leave(left)
        answer = turn(promise)
        assert isinstance(answer, Entered)
        fences.append(answer.fence)
        inside.append((each, asked))
    assert fences == sorted(fences)
    assert len(set(fences)) == 1000
    assert len(processes[0].store.standing()) == 2


def test_a_process_that_is_killed_gives_its_slots_back_after_its_lease(
    process: Callable[..., Process], redis: Any
) -> None:
    """A+5."""
    here = process(lease_s=1)
    other = child(redis.uri, 1, 2, 2)
    try:
        asked, promise = here.waits(2)
        assert sum(holds for _, holds in here.standing()) == 2
        other.send_signal(signal.SIGKILL)
        assert isinstance(turn(promise), Entered)
        assert here.standing() == [(asked, True)]
    finally:
        other.kill()
        other.wait()


def test_a_process_that_lives_keeps_its_slots_beyond_its_lease(process: Callable[..., Process]) -> None:
    here, there = process(lease_s=0.4), process(lease_s=0.4)
    inside = here.inside()
    _, answer = there.enter(queue=0)
    waits, promise = there.waits()
    assert isinstance(answer, Crowded)
    assert not promise.wait(1.2)
    assert there.standing() == [(inside, True), (waits, False)]


def test_limits_are_raised_and_lowered_for_all(process: Callable[..., Process]) -> None:
    """A+2."""
    here, there = process(), process()
    inside = here.inside(1)
    _, waits = there.waits(1)
    here.inside(3)
    assert isinstance(turn(waits), Entered)
    _, lowered = here.waits(1)
    here.leave(inside)
    assert len(here.standing()) == 3
    assert not lowered.wait(0)


def test_who_leaves_the_queue_frees_its_place(process: Callable[..., Process]) -> None:
    """A+3, A-27."""
    here, there = process(), process()
    inside = here.inside(queue=1)
    gone, told = there.waits(queue=1)
    _, refused = there.enter(queue=1)
    assert refused.reason is NotEntered.QUEUE_FULL
    there.leave(gone)
    assert told.result() == Crowded(NotEntered.ENDED, ())
    _, next_one = there.waits(queue=1)
    here.leave(inside)
    assert isinstance(turn(next_one), Entered)


def test_who_waits_too_long_is_told_by_whoever_comes_next(process: Callable[..., Process]) -> None:
    clock = ManualClock()
    here, there = process(lease_s=3600, test_clock=clock), process(lease_s=3600, test_clock=clock)
    here.inside()
    asked = b"late-waiter-0001"
    promise = there.store.execute(EnterSlot(asked, "acme", (SlotClaim("acme|t", 1, 9, 50_000_000),)))
    assert promise.wait(5)
    promise = promise.result()
    clock.advance(0.05)
    assert not promise.wait(0)
    here.enter(queue=0)
    told = turn(promise)
    assert isinstance(told, Crowded)
    assert told.reason is NotEntered.WAITED
    there.store.execute(LeaveSlot(asked))
    assert len(here.standing()) == 1


def test_a_message_that_is_lost_is_made_up_for_by_a_beat(process: Callable[..., Process]) -> None:
    here, there = process(), process(lease_s=1.2)
    there.store.read = lambda message: None
    inside = here.inside()
    _, promise = there.waits()
    here.leave(inside)
    assert isinstance(turn(promise), Entered)


def test_a_beat_of_many_tickets_is_said_in_parts(process: Callable[..., Process]) -> None:
    """Of ten thousand at once the server would be silent for longer than a deadline."""
    clock = ManualClock()
    here = process(clock=clock)
    inside = {here.inside(2000) for _ in range(1100)}
    trips = watched(here)
    clock.advance(6)
    here.store.beat_when_due()
    here.until(lambda: inside == {asked for trip in trips for beat in trip for asked in beat._ids})
    assert max(sum(len(beat._ids) for beat in trip) for trip in trips) <= 512


def test_threads_never_pass_a_limit_and_lose_no_slot(process: Callable[..., Process]) -> None:
    """A+1."""
    processes = [process(), process()]
    inside: list[int] = []
    peaks: list[int] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        mine = processes[thread % 2]
        for number in range(30):
            asked, answer = mine.enter(3)
            if number % 7 == 3:
                mine.leave(asked)
                continue
            if not isinstance(answer, Entered):
                answer = turn(answer)
            assert isinstance(answer, Entered)
            with lock:
                inside.append(thread)
                peaks.append(len(inside))
            with lock:
                inside.remove(thread)
            mine.leave(asked)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(peaks) <= 3
    for each in processes:
        each.until(lambda each=each: not each.store._leaving)
    for each in processes:
        assert each.standing() == []
        assert not each.store._asking
        assert not each.store._waiting
        assert not each.store._held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_is_another_process(process: Callable[..., Process]) -> None:
    here = process()
    inside = here.inside(2)
    parents = here.store._caller.process
    forked = os.fork()
    if forked == 0:
        fresh = here.store._held == {} and here.store._caller.process != parents
        _, second = here.enter(2, queue=0)
        _, third = here.enter(2, queue=0)
        os._exit(0 if fresh and isinstance(second, Entered) and isinstance(third, Crowded) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert len(here.standing()) == 2
    here.leave(inside)
    assert len(here.standing()) == 1


def test_what_makes_no_sense_is_refused(process: Callable[..., Process]) -> None:
    for options in ({"deadline_ms": 0}, {"lease_s": 0}, {"processes": 0}, {"waiting_max": -1}):
        with pytest.raises(ConfigurationError, match="at least 1"):
            RedisSlots("redis://localhost", **options)
    with pytest.raises(ConfigurationError, match="slots: nosuch:// is no address"):
        RedisSlots("nosuch://localhost")
    with pytest.raises(LayerError, match="16 bytes"):
        process().store.execute(EnterSlot(b"short", "acme", (SlotClaim("acme|t", 1),)))


def test_closing_gives_places_in_the_queue_back(process: Callable[..., Process]) -> None:
    here, there = process(), process()
    inside = here.inside()
    _, promise = there.waits()
    there.store.close()
    with pytest.raises(PortError, match="closed"):
        promise.result()
    assert here.standing() == [(inside, True)]
    assert repr(here.store) == "RedisSlots(1 inside, 0 waiting, 1 processes)"
    _, again = there.waits()
    here.leave(inside)
    assert isinstance(turn(again), Entered)
