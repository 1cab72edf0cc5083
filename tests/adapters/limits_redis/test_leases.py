"""Leases: never more than the rate admits, and no more stranded than is said."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.model.sections import OnError

from .conftest import SECOND, one

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Asked, Proxy

HOUR = 3600 * SECOND
FAST = Rate(1000, SECOND, 1000)


def test_most_decisions_need_no_server(asked: Callable[..., Asked], own_redis: Any) -> None:
    store = asked(own_redis.uri, lease=64)
    take = one(FAST)
    store.take(take)
    own_redis.ask("CONFIG", "RESETSTAT")
    for _ in range(300):
        assert isinstance(store.take(take), Taken)
    import redis

    with redis.Redis(unix_socket_path=str(own_redis.socket)) as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 300 / 64 + 2


def test_processes_with_leases_admit_a_burst_and_what_refills_and_strand_no_more_than_a_chunk_each(
    asked: Callable[..., Asked],
) -> None:
    """Over-admission is 0; what they do not admit is what they hold."""
    clock = Standing()
    options: dict[str, Any] = {"lease": 64, "clock": clock, "test_clock": clock, "deadline_ms": 30_000}
    stores = [asked(processes=4, **options) for _ in range(4)]
    rate = Rate(1000, SECOND, 2000)
    take = one(rate)
    admitted = [0, 0, 0, 0]

    def work(number: int) -> None:
        for _ in range(2100):
            answer = stores[number].take(take)
            assert not answer.degraded
            admitted[number] += isinstance(answer, Taken)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chunk = stores[0].store.chunk_of(rate)
    assert chunk == 25
    assert 2000 - 4 * chunk <= sum(admitted) <= 2000
    clock.now_ns += SECOND // 2
    for thread in [threading.Thread(target=work, args=(number,)) for number in range(4)]:
        thread.start()
        thread.join()
    assert 2500 - 4 * chunk <= sum(admitted) <= 2500


def test_what_refills_slowly_is_not_leased(asked: Callable[..., Asked]) -> None:
    """A chunk is a tenth of a second of the rate at most: a few units an hour are not kept from others."""
    store = asked(lease=64)
    assert store.store.chunk_of(Rate(1000, HOUR, 1000)) == 1
    assert store.store.chunk_of(Rate(200, SECOND, 1000)) == 20
    assert store.store.chunk_of(Rate(10**6, SECOND, 40)) == 10


def test_a_closed_store_gives_back_what_it_has(asked: Callable[..., Asked]) -> None:
    clock = Standing()
    store = asked(lease=64, clock=clock, test_clock=clock, deadline_ms=5000)
    other = asked(clock=clock, test_clock=clock, deadline_ms=5000)
    take = one(FAST)
    assert store.admitted(take, 3) == 3
    assert other.level(take)[0] == 1000 - 65  # for the one who waited, and a chunk
    store.store.close()
    other.until(lambda: other.level(take)[0] == 997)


def test_an_idle_lease_is_given_back_once_nothing_of_it_is_open(asked: Callable[..., Asked]) -> None:
    clock = Standing()
    store = asked(lease=64, clock=clock, test_clock=clock, deadline_ms=5000)
    other = asked(clock=clock, test_clock=clock, deadline_ms=5000)
    take = one(FAST, cost=2)
    streams = [TakeTokens(store.new_id(), (take,)) for _ in range(2)]
    for stream in streams:
        store.execute(stream)
    store.execute(SettleTokens(streams[0].id or b"", (1,)))
    clock.now_ns += 1_100_000_000
    store.store._tidy()
    store.execute(SettleTokens(streams[1].id or b"", (5,)))
    clock.now_ns -= 1_100_000_000
    other.until(lambda: other.level(take)[0] == 1000 - 6)
    assert store.admitted(take, 3) == 3


def test_an_idle_lease_is_given_back_while_the_server_is_asked_for_others(asked: Callable[..., Asked]) -> None:
    """Else what a tenant left would be stranded, and kept here, for as long as others come."""
    store = asked(lease=64, deadline_ms=30_000)
    left = [one(FAST) for _ in range(50)]
    for take in left:
        store.take(take)
    busy = one(Rate(1, SECOND, 10**6))  # not leased
    leases, ends = store.store._leases._leases, []

    def work() -> None:
        while not ends:
            store.take(busy)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        store.until(lambda: not any(take.bucket in leases for take in left), 30)
    finally:
        ends.append(True)
        for thread in threads:
            thread.join()


def test_what_was_settled_and_returned_adds_up(asked: Callable[..., Asked]) -> None:
    """Whatever the chunks were: in the end the bucket is short of what was used, and nothing else."""
    clock = Standing()
    stores = [asked(lease=50, processes=2, clock=clock, test_clock=clock, deadline_ms=5000) for _ in range(2)]
    other = asked(clock=clock, test_clock=clock, deadline_ms=5000)
    rate = Rate(10**6, SECOND, 10**6)
    take = one(rate)
    chance = random.Random(1)
    used = 0
    open_ids: list[tuple[Any, bytes, int]] = []
    for _ in range(600):
        store = chance.choice(stores)
        if open_ids and chance.random() < 0.45:
            held, taking, cost = open_ids.pop(chance.randrange(len(open_ids)))
            units = chance.choice([None, 0, cost // 2, cost, 2 * cost])
            if units is None:
                held.execute(ReturnTokens(taking))
            else:
                held.execute(SettleTokens(taking, (units,)))
                used += units
        else:
            cost = chance.choice([0, 1, 3, 20, 120])
            taking = store.new_id()
            if isinstance(store.execute(TakeTokens(taking, (Take(take.bucket, rate, cost),))), Taken):
                open_ids.append((store, taking, cost))
    for held, taking, cost in open_ids:
        held.execute(SettleTokens(taking))
        used += cost
    for store in stores:
        store.store.close()
    other.until(lambda: other.level(take)[0] == 10**6 - used)


def test_a_refusal_by_lease_names_a_wait_that_comes_true(asked: Callable[..., Asked]) -> None:
    clock = Standing()
    store = asked(lease=8, clock=clock, test_clock=clock, deadline_ms=5000)
    take = one(Rate(100, SECOND, 40))
    admitted = store.admitted(take, 60)
    assert admitted == 40
    refused = store.take(take)
    assert isinstance(refused, Shortage)
    assert refused.failing == (0,)
    assert refused.retry_after_ns == SECOND // 100
    clock.now_ns += SECOND // 100
    assert isinstance(store.take(take), Taken)
    assert isinstance(store.take(take), Shortage)
    impossible = store.take(Take(take.bucket, take.rate, 41))
    assert isinstance(impossible, Shortage)
    assert impossible.retry_after_ns is None


@pytest.mark.parametrize("lease", [0, 64])
def test_a_wait_that_a_process_tells_by_itself_is_true_however_slow_the_way_to_the_server(
    asked: Callable[..., Asked], proxy: Proxy, lease: int
) -> None:
    """When the server decided is only known to be between the question and the answer."""
    clock, theirs = Standing(), Standing()
    store = asked(proxy.uri, lease=lease, clock=clock, test_clock=theirs, deadline_ms=5000)
    bucket = one(FAST).bucket
    store.take(Take(bucket, FAST, 1000))
    takes = (Take(bucket, FAST, 500),)
    proxy.passes.clear()
    promise = store.store.execute(TakeTokens(None, takes))
    assert proxy.held.wait(5)
    clock.now_ns += SECOND // 50
    proxy.passes.set()
    assert promise.wait(5)
    for answer in (promise.result(), store.take(*takes)):
        assert isinstance(answer, Shortage)
        assert answer.retry_after_ns is not None
        assert answer.retry_after_ns >= SECOND // 2


def test_leased_and_exact_are_taken_together_or_not_at_all(asked: Callable[..., Asked]) -> None:
    clock = Standing()
    store = asked(lease=64, clock=clock, test_clock=clock, deadline_ms=5000)
    other = asked(clock=clock, test_clock=clock, deadline_ms=5000)
    leased, exact = one(FAST), one(Rate(1, HOUR, 3))
    answers = [store.take(leased, exact) for _ in range(10)]
    assert [isinstance(answer, Taken) for answer in answers] == [True] * 3 + [False] * 7
    assert answers[-1].levels[1][0] == 0
    assert isinstance(answers[-1], Shortage)
    assert answers[-1].failing == (1,)
    store.store.close()
    other.until(lambda: other.level(leased)[0] == 997)


def test_who_waits_for_a_chunk_is_served_in_the_order_of_coming(asked: Callable[..., Asked], proxy: Proxy) -> None:
    """Whatever their plans, and whether they have ids."""
    clock = Standing()
    store = asked(proxy.uri, lease=4, clock=clock, test_clock=clock)
    take = one(Rate(100, SECOND, 40))
    assert isinstance(store.take(Take(take.bucket, take.rate, 30)), Taken)  # leaves 10, 4 of them here
    assert store.admitted(take, 4) == 4
    commands = [TakeTokens(None, (take,)) for _ in range(3)]
    commands.append(TakeTokens(store.new_id(), (take,)))
    commands += [TakeTokens(None, (Take(take.bucket, take.rate, 1),)) for _ in range(3)]
    proxy.passes.clear()
    promises = [store.store.execute(command) for command in commands]
    assert proxy.held.wait(5)
    assert store.store.take_in_place(commands[0].takes) is None
    late = store.store.execute(TakeTokens(None, (Take(take.bucket, take.rate, 2),)))
    proxy.passes.set()
    assert all(promise.wait(5) for promise in [*promises, late])
    answers = [promise.result() for promise in promises]
    assert [isinstance(answer, Taken) for answer in answers] == [True] * 6 + [False]
    assert isinstance(late.result(), Shortage)
    assert store.level(take)[0] == 0


def test_buckets_that_run_out_together_are_asked_for_together(asked: Callable[..., Asked], own_redis: Any) -> None:
    """Four buckets need as many trips as one."""
    import redis

    store = asked(own_redis.uri, lease=64)
    takes = tuple([one(FAST) for _ in range(4)])
    store.take(*takes)
    own_redis.ask("CONFIG", "RESETSTAT")
    for _ in range(300):
        assert isinstance(store.execute(TakeTokens(None, takes)), Taken)
    with redis.Redis(unix_socket_path=str(own_redis.socket)) as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 300 / 64 + 2


def test_who_waits_for_several_chunks_is_served_in_the_order_of_coming(
    asked: Callable[..., Asked], proxy: Proxy
) -> None:
    clock = Standing()
    store = asked(proxy.uri, lease=4, clock=clock, test_clock=clock)
    scarce, plenty = one(Rate(100, SECOND, 40)), one(FAST)
    assert isinstance(store.take(Take(scarce.bucket, scarce.rate, 34)), Taken)  # leaves 6, 4 of them here
    takes = (plenty, scarce, one(FAST))
    commands = [TakeTokens(store.new_id() if number % 2 else None, takes) for number in range(9)]
    proxy.passes.clear()
    promises = [store.store.execute(command) for command in commands]
    proxy.passes.set()
    assert all(promise.wait(5) for promise in promises)
    assert [isinstance(promise.result(), Taken) for promise in promises] == [True] * 6 + [False] * 3


def test_what_came_for_who_was_refused_elsewhere_is_given_back(asked: Callable[..., Asked]) -> None:
    """More than a chunk is never kept from others."""
    clock = Standing()
    store = asked(lease=64, clock=clock, test_clock=clock)
    other = asked(clock=clock, test_clock=clock)
    spent, plenty = one(FAST), one(FAST, cost=100)
    assert isinstance(other.take(Take(spent.bucket, FAST, 1000)), Taken)
    refused = store.take(spent, plenty)
    assert isinstance(refused, Shortage)
    assert refused.failing == (0,)
    other.until(lambda: other.level(plenty)[0] == 1000)
    assert isinstance(store.take(plenty), Taken)
    assert other.level(plenty)[0] == 1000 - 164


def test_those_who_waited_for_one_chunk_are_told_what_is_left_of_it(
    asked: Callable[..., Asked], proxy: Proxy
) -> None:
    clock = Standing()
    store = asked(proxy.uri, lease=64, clock=clock, test_clock=clock)
    take = one(FAST)
    assert store.admitted(take, 65) == 65
    proxy.passes.clear()
    command = TakeTokens(None, (take,))
    promises = [store.store.execute(command) for _ in range(5)]
    proxy.passes.set()
    assert all(promise.wait(5) for promise in promises)
    assert [promise.result().levels[0][0] for promise in promises] == [1000 - 70] * 5
    assert store.store.take_in_place(command.takes).levels[0][0] == 1000 - 71


@pytest.mark.parametrize("with_id", [False, True])
def test_who_gave_up_gets_nothing_of_a_chunk(asked: Callable[..., Asked], proxy: Proxy, *, with_id: bool) -> None:
    clock = Standing()
    store = asked(proxy.uri, lease=64, clock=clock, test_clock=clock)
    other = asked(clock=clock, test_clock=clock)
    take = one(FAST)
    takes = (take,)
    assert store.admitted(take, 65) == 65
    proxy.passes.clear()
    commands = [TakeTokens(store.new_id() if with_id else None, takes, OnError.OPEN) for _ in range(5)]
    promises = [store.store.execute(command) for command in commands]
    assert proxy.held.wait(5)
    assert promises[1].late().degraded
    proxy.passes.set()
    assert all(promise.wait(5) for promise in promises)
    assert [promise.result().degraded for promise in promises] == [False, True, False, False, False]
    store.store.close()
    other.until(lambda: other.level(take)[0] == 1000 - 69)


def test_a_server_that_hangs_leaves_what_is_leased(asked: Callable[..., Asked], own_redis: Any) -> None:
    store = asked(own_redis.uri, lease=64, deadline_ms=300)
    take = one(Rate(1000, SECOND, 1000))
    store.take(take)
    own_redis.hang()
    answers = [store.take(take) for _ in range(70)]
    assert [answer.degraded for answer in answers].index(True) == 64
    assert all(isinstance(answer, Taken) for answer in answers)
    own_redis.go_on()


class Standing:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now_ns = 1_790_000_000 * SECOND

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns
