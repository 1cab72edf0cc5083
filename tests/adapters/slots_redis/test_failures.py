"""A server that hangs, dies, comes back, is slow or forgets: every answer in time, and nothing stays wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.slots.redis import wire
from tenantguard.asgi.waiting import kept
from tenantguard.errors import PortError, PortTimeout
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, NotEntered, SlotClaim
from tenantguard.model.sections import OnError
from tenantguard.testing import ManualClock
from tests.adapters.limits_redis.conftest import Proxy, crowd_in_time, in_time

from .conftest import turn, watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Process


def test_a_mute_server_costs_a_deadline_a_few_times_and_then_nothing(
    process: Callable[..., Process], mute: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What this process has of a limit is its share."""
    here = process(mute, deadline_ms=50, processes=2)
    with caplog.at_level(logging.WARNING):
        answers = [here.enter(20, queue=0)[1] for _ in range(40)]
    assert all(answer.degraded for answer in answers)
    assert [answer.fence for answer in answers if isinstance(answer, Entered)] == [0] * 10
    assert sum(wait > 0.02 for wait in here.waited_s) <= 6
    in_time(here.waited_s)
    assert len([record for record in caplog.records if "slots: redis at 127.0.0.1:" in record.message]) == 1


def test_turns_are_given_here_while_the_server_is_away(process: Callable[..., Process], mute: str) -> None:
    here = process(mute, deadline_ms=20)
    inside = here.inside()
    asked, promise = here.waits()
    here.leave(inside)
    entered = turn(promise)
    assert isinstance(entered, Entered)
    assert entered.degraded
    here.leave(asked)
    in_time(here.waited_s, 0.02)


def test_closed_refuses_with_an_error_and_open_lets_everybody_in(process: Callable[..., Process], mute: str) -> None:
    """Never with a timeout, which would say that a turn did not come."""
    here = process(mute, deadline_ms=20)
    for _ in range(6):
        with pytest.raises(PortError, match="slots") as failed:
            here.enter(on_error=OnError.CLOSED)
        assert not isinstance(failed.value, PortTimeout)
    assert {here.enter(on_error=OnError.OPEN)[1] for _ in range(5)} == {Entered(0, degraded=True)}
    in_time(here.waited_s, 0.02)
    with pytest.raises(PortError):
        here.store.standing()


def test_who_waits_where_a_server_dies_waits_on_here(process: Callable[..., Process], own_redis: Any) -> None:
    """And what the server let in is counted."""
    here = process(own_redis.uri, deadline_ms=100)
    inside = here.inside()
    _, local = here.waits()
    _, closed = here.waits(on_error=OnError.CLOSED)
    _, opened = here.waits(on_error=OnError.OPEN)
    own_redis.kill()
    with pytest.raises(PortError, match="does not answer"):
        turn(closed)
    assert turn(opened) == Entered(0, degraded=True)
    assert local.wait(5)
    assert not local.result().wait(0)
    _, refused = here.enter(queue=0)
    assert refused == Crowded(NotEntered.FULL, (0,), refused.retry_after_ns, degraded=True)
    here.leave(inside)
    entered = turn(local)
    assert isinstance(entered, Entered)
    assert entered.degraded


def test_a_killed_server_that_comes_back_learns_again_who_is_inside(
    process: Callable[..., Process], own_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here = process(own_redis.uri, deadline_ms=100)
    inside = [here.inside(3) for _ in range(2)]
    own_redis.kill()
    assert here.enter(3)[1].degraded
    here.until(lambda: not here.store.is_reachable())  # its keeper finds out
    own_redis.start()
    with caplog.at_level(logging.WARNING):
        here.recovers()
    here.until(lambda: {(asked, True) for asked in inside} <= set(here.standing()))
    assert any("slots: redis+unix answers again" in record.message for record in caplog.records)
    _, third = here.enter(3)
    assert isinstance(third, Entered)
    assert not third.degraded
    assert isinstance(here.enter(3, queue=0)[1], Crowded)


def test_a_server_that_forgets_learns_everything_again(process: Callable[..., Process], own_redis: Any) -> None:
    """Fences go on; who waits keeps its order behind those that came meanwhile."""
    here, there = process(own_redis.uri, lease_s=2), process(own_redis.uri, lease_s=2)
    first, entered = here.enter()
    waiting = [there.waits() for _ in range(3)]
    own_redis.flush()
    own_redis.ask("SCRIPT", "FLUSH")
    here.until(lambda: len(here.standing()) == 4)
    assert here.standing()[0] == (first, True)
    fences = [entered.fence]
    here.leave(first)
    for asked, promise in waiting:
        got = turn(promise)
        assert isinstance(got, Entered)
        fences.append(got.fence)
        there.leave(asked)
    assert fences == sorted(set(fences))
    here.until(lambda: here.standing() == [])


def test_a_server_that_hung_lets_nobody_in_late(process: Callable[..., Process], own_redis: Any) -> None:
    here = process(own_redis.uri, deadline_ms=200)
    here.leave(here.inside(9))
    here.until(lambda: not here.store._leaving)
    here.waited_s.clear()
    own_redis.hang()
    answers = [here.enter(9) for _ in range(5)]
    assert all(answer.degraded for _, answer in answers)
    in_time(here.waited_s, 0.2)
    own_redis.go_on()
    here.recovers()
    here.until(lambda: not here.store._leaving)
    assert here.standing() == []
    for asked, _ in answers:
        here.leave(asked)
    assert here.store._local is None


def test_what_leaves_while_the_server_hangs_is_gone_when_it_is_back(
    process: Callable[..., Process], own_redis: Any
) -> None:
    here = process(own_redis.uri, deadline_ms=50)
    inside = [here.inside(9) for _ in range(4)]
    own_redis.hang()
    for asked in inside:
        here.leave(asked)
    for _ in range(4):
        here.leave(here.inside(9))
    own_redis.go_on()
    here.recovers()
    here.until(lambda: here.standing() == [])


def test_many_that_left_while_the_server_hung_are_told_to_it_in_parts(
    process: Callable[..., Process], own_redis: Any
) -> None:
    """Else it would be silent for the next deadline as well, to everybody."""
    here = process(own_redis.uri, deadline_ms=100)
    inside = [here.inside(600) for _ in range(500)]
    own_redis.hang()
    while here.store._servers.breaker_of(0).closed:
        here.enter(600, key="other|t")
    for asked in inside:
        here.leave(asked)
    trips = watched(here)
    own_redis.go_on()
    here.until(lambda: not here.store._leaving)
    assert here.standing() == []
    assert max(len(trip) for trip in trips) <= 128


def test_an_answer_that_comes_too_late_is_given_back(process: Callable[..., Process], redis: Any) -> None:
    proxy = Proxy(redis.port)
    try:
        here = process(proxy.uri, deadline_ms=200)
        here.leave(here.inside())
        here.until(lambda: not here.store._leaving)
        proxy.delay_s = 0.12  # each way
        _, answer = here.enter()
        assert answer.degraded
        proxy.delay_s = 0.0
        here.recovers()
        here.until(lambda: not here.store._leaving)
        assert here.standing() == []
    finally:
        proxy.close()


def test_a_connection_that_is_cut_costs_nobody_a_turn(process: Callable[..., Process], redis: Any) -> None:
    proxy = Proxy(redis.port)
    try:
        here, there = process(lease_s=2), process(proxy.uri, lease_s=2)
        inside = here.inside()
        _, promise = there.waits()
        proxy.cut()
        here.leave(inside)
        proxy.mend()
        entered = turn(promise)
        assert isinstance(entered, Entered)
        assert not entered.degraded
    finally:
        proxy.close()


def test_a_leaving_that_is_lost_keeps_its_slot_from_nobody_who_comes_next(
    process: Callable[..., Process], redis: Any
) -> None:
    """Though no beat is due, in a time that stands still."""
    import redis as redis_py

    here = process(clock=ManualClock())
    inside = here.inside()
    with redis_py.Redis(unix_socket_path=str(redis.socket)) as client:
        for each in client.client_list():
            if each["cmd"].startswith("eval"):
                client.client_kill_filter(_id=each["id"])
    here.leave(inside)

    def is_free() -> bool:
        asked, answer = here.enter(queue=0)
        here.leave(asked)
        return isinstance(answer, Entered) and not answer.degraded

    here.until(is_free)


def test_garbage_in_the_list_of_turns_costs_nobody_a_turn(process: Callable[..., Process], redis: Any) -> None:
    import redis as redis_py

    here, there = process(lease_s=2), process(lease_s=2)
    inside = here.inside()
    _, promise = there.waits()
    with redis_py.Redis(unix_socket_path=str(redis.socket)) as client:
        for garbage in (b"x", b"x" * 24 + b"e", b"x" * 24 + b"c\x09\x01" + b"\0" * 9):
            client.rpush(wire.news_key(there.store._caller.process), garbage)
        there.until(lambda: not client.exists(wire.news_key(there.store._caller.process)))
        here.leave(inside)
        assert isinstance(turn(promise), Entered)


@pytest.mark.parametrize("how", ["deleted", "overwritten"])
@pytest.mark.parametrize("part", ["", ":queues", ":lines", ":owned", ":due", ":processes"])
def test_a_key_that_is_lost_costs_nobody_a_turn_and_holds_no_server_up(
    process: Callable[..., Process], redis: Any, part: str, how: str
) -> None:
    """As by eviction: what is left of the others is forgotten with it, and taught again by the next beats."""
    import redis as redis_py

    here, there = process(lease_s=2), process(lease_s=2)
    inside = here.inside()
    waiting = [there.waits() for _ in range(3)]
    with redis_py.Redis(unix_socket_path=str(redis.socket)) as client:
        client.delete(wire.KEY + part.encode())
        if how == "overwritten":
            client.set(wire.KEY + part.encode(), "x")
    here.leave(inside)
    for asked, promise in waiting:
        entered = turn(promise)
        assert isinstance(entered, Entered)
        assert not entered.degraded
        there.leave(asked)
    here.until(lambda: here.standing() == [])


def test_turns_that_were_taken_before_everything_was_forgotten_put_nobody_last(
    process: Callable[..., Process], redis: Any
) -> None:
    import redis as redis_py

    here = process()
    inside = here.inside(key="|g")
    here.waits(key="|g")
    with redis_py.Redis(unix_socket_path=str(redis.socket)) as client:
        place = next(field[1:] for field in client.hkeys(wire.KEY) if field.startswith(b"p"))
        client.delete(wire.KEY)
        client.zadd(wire.KEY + b":turns:" + place, {"acme": 10**12})
    here.leave(inside)
    inside = here.inside(key="|g")
    first, promise = here.waits(key="|g")
    here.waits(key="|g", owner="other")
    here.leave(inside)
    assert isinstance(turn(promise), Entered)
    assert (first, True) in here.standing()


def test_a_crowd_on_an_event_loop_is_answered_within_the_deadline(process: Callable[..., Process], mute: str) -> None:
    """All of fifty."""

    async def ask(store: Any, number: int) -> float:
        began = time.perf_counter()
        answer = store.execute(EnterSlot(b"crowd-%010d" % number, "acme", (SlotClaim("acme|t", 100),)))
        while isinstance(answer, Promise):
            answer = answer.result() if await kept(answer) else answer.late()
        assert answer == Entered(0, degraded=True)
        return time.perf_counter() - began

    async def crowd() -> float:
        store = process(mute, deadline_ms=50).store
        return max(await asyncio.gather(*[ask(store, number) for number in range(50)]))

    crowd_in_time(crowd)
