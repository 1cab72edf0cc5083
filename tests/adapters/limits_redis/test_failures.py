"""A server that hangs, dies, comes back, is slow, forgets or refuses, and a network that is cut."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.redis.breaker import Breaker
from tenantguard.asgi.waiting import kept
from tenantguard.errors import PortError, PortTimeout
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.model.sections import OnError

from .conftest import SECOND, crowd_in_time, in_time, one

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Asked, Proxy


def test_a_mute_server_costs_a_deadline_three_times_and_then_nothing(
    asked: Callable[..., Asked], mute: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first three trips are waited for; then only probes are, by a thread of the store's own."""
    store = asked(mute, deadline_ms=50)
    take = one(Rate(1, 3600 * SECOND, 10))
    with caplog.at_level(logging.WARNING):
        answers = [store.take(take) for _ in range(60)]
    assert all(answer.degraded for answer in answers)
    assert sum(isinstance(answer, Taken) for answer in answers) == 10
    assert sum(wait > 0.02 for wait in store.waited_s) <= 6
    in_time(store.waited_s)
    assert len([record for record in caplog.records if "does not answer" in record.message]) == 1


def test_who_waits_on_an_event_loop_is_answered_within_the_deadline(asked: Callable[..., Asked], mute: str) -> None:
    """All of fifty."""
    take = one(Rate(100, SECOND))

    async def ask(store: Any) -> float:
        began = time.perf_counter()
        promise = store.execute(TakeTokens(None, (take,)))
        assert isinstance(promise, Promise)
        answer = promise.result() if await kept(promise) else promise.late()
        assert answer.degraded
        return time.perf_counter() - began

    async def crowd() -> float:
        store = asked(mute, deadline_ms=50).store
        return max(await asyncio.gather(*[ask(store) for _ in range(50)]))

    crowd_in_time(crowd)


def test_closed_refuses_with_an_error_and_open_lets_everything_through(
    asked: Callable[..., Asked], mute: str
) -> None:
    store = asked(mute, deadline_ms=20)
    take = one(Rate(1, 3600 * SECOND))
    with pytest.raises(PortTimeout, match="limits"):
        store.take(take, on_error=OnError.CLOSED)
    for _ in range(5):
        with pytest.raises(PortError, match="limits"):
            store.take(take, on_error=OnError.CLOSED)
    for _ in range(5):
        assert store.take(take, on_error=OnError.OPEN) == Taken(((1, 0),), degraded=True)
    in_time(store.waited_s, 0.02)


def test_a_closed_refusal_of_an_id_stays_one_and_its_end_is_no_error(asked: Callable[..., Asked], mute: str) -> None:
    store = asked(mute, deadline_ms=20)
    command = TakeTokens(store.new_id(), (one(Rate(1, SECOND)),), OnError.CLOSED)
    for _ in range(2):
        with pytest.raises(PortTimeout):
            store.execute(command)
    assert store.execute(ReturnTokens(command.id or b"")) is None
    assert store.execute(SettleTokens(store.new_id())) is None


def test_each_process_goes_on_with_its_share_from_where_the_bucket_was_last_seen(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    """Together they admit what the rate says, not as many times as there are of them."""
    stores = [asked(own_redis.uri, processes=4) for _ in range(4)]
    rate = Rate(1, 3600 * SECOND, 80)
    used, fresh = one(rate), one(rate)
    assert stores[0].admitted(used, 60) == 60
    for store in stores:
        store.take(Take(used.bucket, rate, 0))  # all have seen it
    own_redis.kill()
    assert sum(store.admitted(used, 40) for store in stores) in range(12, 21)  # a quarter of 20 each, rounded down
    assert sum(store.admitted(fresh, 40) for store in stores) == 80
    for store in stores:
        in_time(store.waited_s, 5)


def test_what_fits_a_burst_but_not_a_share_of_it_is_told_to_come_back(asked: Callable[..., Asked], mute: str) -> None:
    store = asked(mute, processes=4, deadline_ms=50)
    refused = store.take(one(Rate(100, SECOND), cost=50))
    assert isinstance(refused, Shortage)
    assert refused.retry_after_ns is not None
    assert 0 < refused.retry_after_ns <= 5 * SECOND
    impossible = store.take(one(Rate(100, SECOND), cost=101))
    assert isinstance(impossible, Shortage)
    assert impossible.retry_after_ns is None


def test_what_was_taken_here_is_settled_here(asked: Callable[..., Asked], mute: str) -> None:
    store = asked(mute, deadline_ms=50)
    rate = Rate(1, 3600 * SECOND, 100)
    command = TakeTokens(store.new_id(), (one(rate, "acme", 80),))
    assert store.execute(command).degraded
    assert store.execute(command).degraded  # the first answer
    store.execute(SettleTokens(command.id or b"", (30,)))
    assert store.level(one(rate, "acme"))[0] == 70


def test_a_server_that_hung_takes_nothing_late(asked: Callable[..., Asked], own_redis: Any) -> None:
    """It reads when it comes back what was given up long ago."""
    store = asked(own_redis.uri, deadline_ms=300)
    take = one(Rate(1, 3600 * SECOND, 100))
    store.take(take)
    own_redis.hang()
    for _ in range(5):
        assert store.take(take).degraded
    in_time(store.waited_s, 0.3)
    own_redis.go_on()
    store.recovers(Take(take.bucket, take.rate, 0))
    assert store.level(take)[0] == 99


def test_a_killed_server_is_noticed_at_once_and_one_that_comes_back_is_asked_again(
    asked: Callable[..., Asked], own_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The script is not there any more either."""
    store = asked(own_redis.uri)
    take = one(Rate(1, 3600 * SECOND, 10))
    assert store.admitted(take, 4) == 4
    own_redis.kill()
    assert store.admitted(take, 20) == 6
    in_time(store.waited_s)  # a refused connection is no wait
    own_redis.start()
    with caplog.at_level(logging.WARNING):
        store.recovers(Take(take.bucket, take.rate, 0))
    assert len([record for record in caplog.records if "answers again" in record.message]) == 1
    assert store.admitted(one(take.rate), 20) == 10


def test_a_flushed_server_is_full_again_and_settles_nothing_twice(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    """What was forgotten is at most a burst more; what was open then is not given back to what came after."""
    store = asked(own_redis.uri)
    rate = Rate(1, 3600 * SECOND, 10)
    command = TakeTokens(store.new_id(), (one(rate, "acme", 6),))
    store.execute(command)
    own_redis.flush()
    own_redis.ask("SCRIPT", "FLUSH")
    assert store.admitted(one(rate, "acme"), 4) == 4
    store.execute(ReturnTokens(command.id or b""))
    assert store.level(one(rate, "acme"))[0] == 6


def test_a_slow_server_is_waited_for_no_longer_than_the_deadline(asked: Callable[..., Asked], proxy: Proxy) -> None:
    store = asked(proxy.uri, deadline_ms=400)
    take = one(Rate(1, 3600 * SECOND, 1000))
    assert not store.take(take).degraded
    proxy.delay_s = 0.05  # each way
    assert not store.take(take).degraded
    proxy.delay_s = 0.5
    answers = [store.take(take) for _ in range(12)]
    assert all(answer.degraded for answer in answers)
    in_time(store.waited_s, 0.4)
    proxy.delay_s = 0.0
    store.recovers(take)


def test_what_a_slow_server_decided_too_late_is_given_back(asked: Callable[..., Asked], proxy: Proxy) -> None:
    store = asked(proxy.uri, deadline_ms=300)
    take = one(Rate(1, 3600 * SECOND, 50))
    store.take(take)
    proxy.passes.clear()
    late = TakeTokens(store.new_id(), (Take(take.bucket, take.rate, 30),))
    assert store.execute(late).degraded
    proxy.passes.set()
    store.execute(SettleTokens(late.id or b""))
    store.recovers(Take(take.bucket, take.rate, 0))
    store.until(lambda: store.level(take)[0] == 49)


def test_a_cut_network_is_bridged_and_mended_by_one_probe(asked: Callable[..., Asked], proxy: Proxy) -> None:
    """However many ask meanwhile: no herd comes back with the network."""
    store = asked(proxy.uri)
    take = one(Rate(1, 3600 * SECOND, 1000))
    assert not store.take(take).degraded
    proxy.cut()
    asked_before = proxy.links
    for _ in range(2000):
        assert store.take(take).degraded
    assert proxy.links - asked_before <= 6  # three trips on two connections
    in_time(store.waited_s)
    proxy.mend()
    asked_before = proxy.links
    store.recovers(take)
    assert proxy.links - asked_before <= 4


def test_probes_come_after_longer_and_longer_pauses() -> None:
    """Each a little shorter or longer than that of other processes."""
    breaker = Breaker("limits", "redis")
    now_ns = 0
    for _ in range(3):
        breaker.failed("gone", now_ns)
    for pause_ms in (250, 500, 1000, 2000, 4000, 4000):
        assert not breaker.due(now_ns + pause_ms * 3 * SECOND // 4000 - 1)
        now_ns += pause_ms * 5 * SECOND // 4000
        assert breaker.due(now_ns)
        assert not breaker.due(now_ns)  # another is out
        breaker.failed("gone", now_ns)


@pytest.mark.parametrize("trouble", ["read only", "full"])
def test_a_server_that_cannot_write_is_as_one_that_does_not_answer(
    asked: Callable[..., Asked], own_redis: Any, trouble: str
) -> None:
    store = asked(own_redis.uri)
    take = one(Rate(1, 3600 * SECOND, 10))
    store.take(take)
    if trouble == "full":
        own_redis.ask("CONFIG", "SET", "maxmemory", "1")
    else:
        own_redis.ask("REPLICAOF", "127.0.0.1", "1")
    assert store.take(take).degraded
    assert store.admitted(take, 20) == 8
    in_time(store.waited_s)


def test_nobody_waits_for_a_name_that_does_not_resolve(asked: Callable[..., Asked]) -> None:
    store = asked("redis://no-such-host.invalid:6379/0", deadline_ms=50)
    assert all(store.take(one(Rate(1, SECOND))).degraded for _ in range(5))
    in_time(store.waited_s)


def test_many_threads_are_all_answered_while_the_server_hangs_and_comes_back(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    store = asked(own_redis.uri, deadline_ms=50)
    take = one(Rate(1, 60 * SECOND, 10**6))
    ended = threading.Event()
    answers: list[Any] = []

    def work() -> None:
        while not ended.is_set():
            answers.append(store.take(take))
            ended.wait(0.001)  # or threads would only wait for one another

    def more(*, degraded: bool) -> None:
        """Wait for a hundred more of these."""
        seen = len(answers)
        store.until(lambda: sum(answer.degraded is degraded for answer in answers[seen:]) > 100)

    threads = [threading.Thread(target=work) for _ in range(12)]
    store.take(take)
    for thread in threads:
        thread.start()
    try:
        more(degraded=False)
        own_redis.hang()
        more(degraded=True)
        own_redis.go_on()
        more(degraded=False)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(isinstance(answer, Taken) for answer in answers)
    in_time(store.waited_s)
