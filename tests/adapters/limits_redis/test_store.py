"""What the store does around the script: ids, refusals that it remembers, trips, processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.limits.memory import ENDED
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.asgi.waiting import kept
from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate

from .conftest import SECOND, Asked, one

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600 * SECOND


def calls(server: Any) -> int:
    """How many calls of the script the server has seen."""
    import redis

    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        seen = client.info("commandstats")
        return sum(seen.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


async def decide(store: RedisLimits, command: Any) -> Any:
    answer = store.execute(command)
    if isinstance(answer, Promise):
        return answer.result() if await kept(answer) else answer.late()
    return answer


# refusals that are remembered


def test_a_refusal_is_remembered_until_it_would_be_granted(asked: Callable[..., Asked], own_redis: Any) -> None:
    store = asked(own_redis.uri)
    take = one(Rate(20, SECOND, 1))
    assert store.admitted(take, 1) == 1
    first = store.take(take)
    assert isinstance(first, Shortage)
    before = calls(own_redis)
    again = store.take(take)
    assert isinstance(again, Shortage)
    assert first.retry_after_ns is not None
    assert again.retry_after_ns is not None
    assert 0 < again.retry_after_ns <= first.retry_after_ns
    assert calls(own_redis) == before
    store.until(lambda: isinstance(store.take(take), Taken))
    assert calls(own_redis) <= before + 2


def test_what_costs_less_than_what_was_refused_is_asked_for(asked: Callable[..., Asked]) -> None:
    store = asked()
    take = one(Rate(1, HOUR, 10))
    store.admitted(take, 6)
    assert isinstance(store.take(Take(take.bucket, take.rate, 5)), Shortage)
    assert isinstance(store.take(Take(take.bucket, take.rate, 4)), Taken)


def test_a_return_ends_what_was_remembered(asked: Callable[..., Asked]) -> None:
    store = asked()
    take = one(Rate(1, HOUR, 2))
    taking = TakeTokens(store.new_id(), (Take(take.bucket, take.rate, 2),))
    store.execute(taking)
    assert isinstance(store.take(take), Shortage)
    store.execute(ReturnTokens(taking.id or b""))
    assert isinstance(store.take(take), Taken)


def test_what_another_process_gives_back_is_seen_within_a_quarter_of_a_second(asked: Callable[..., Asked]) -> None:
    store, other = asked(), asked()
    take = one(Rate(1, HOUR, 2))
    taking = TakeTokens(store.new_id(), (Take(take.bucket, take.rate, 2),))
    other.execute(taking)
    assert isinstance(store.take(take), Shortage)
    other.execute(ReturnTokens(taking.id or b""))
    began = time.perf_counter()
    store.until(lambda: isinstance(store.take(take), Taken))
    assert time.perf_counter() - began < 0.5


# trips


def test_decisions_that_wait_together_travel_together(asked: Callable[..., Asked], own_redis: Any) -> None:
    """Fifty tasks, ten decisions each; and one by one where that is asked for."""
    trips = {}
    for coalesce in (True, False):
        store = asked(own_redis.uri, coalesce=coalesce, deadline_ms=5000)
        takes = (one(Rate(1, HOUR, 1000)), one(Rate(1, HOUR, 1000)))
        store.take(*takes)
        before = calls(own_redis)

        async def work(store: RedisLimits = store.store, takes: tuple[Take, ...] = takes) -> None:
            for _ in range(10):
                assert isinstance(await decide(store, TakeTokens(None, takes)), Taken)

        async def crowd(work: Any = work) -> None:
            await asyncio.gather(*[work() for _ in range(50)])

        asyncio.run(crowd())
        trips[coalesce] = calls(own_redis) - before
        assert store.level(takes[0])[0] == 1000 - 501
    assert trips[False] == 500
    assert trips[True] <= 120


def test_one_store_serves_two_loops_and_threads_at_once(asked: Callable[..., Asked]) -> None:
    store = asked(deadline_ms=5000)
    take = one(Rate(1, HOUR, 100))
    granted: list[Any] = []

    async def loop_work() -> None:
        answers = await asyncio.gather(*[decide(store.store, TakeTokens(None, (take,))) for _ in range(40)])
        granted.extend(answers)

    threads = [threading.Thread(target=lambda: asyncio.run(loop_work())) for _ in range(2)]
    threads += [
        threading.Thread(target=lambda: granted.extend(store.take(take) for _ in range(40))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 160
    assert sum(isinstance(answer, Taken) for answer in granted) == 100


def test_it_waits_on_trio_too(asked: Callable[..., Asked]) -> None:
    import trio

    store = asked(deadline_ms=5000).store
    assert isinstance(trio.run(decide, store, TakeTokens(None, (one(Rate(1, SECOND)),))), Taken)


def test_the_script_is_sent_again_where_a_server_has_forgotten_it(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    store = asked(own_redis.uri)
    take = one(Rate(1, HOUR, 10))
    store.take(take)
    own_redis.ask("SCRIPT", "FLUSH")
    assert store.take(take) == Taken(((8, 2 * HOUR),)) or not store.take(take).degraded


# ids


def test_who_leaves_before_the_answer_leaves_no_trace(asked: Callable[..., Asked]) -> None:
    store = asked()
    take = one(Rate(1, HOUR, 10))
    barred = 0
    for _ in range(50):
        command = TakeTokens(store.new_id(), (take,))
        promise = store.store.execute(command)
        store.execute(ReturnTokens(command.id or b""))
        assert isinstance(promise, Promise)
        if promise.result() is ENDED:  # nobody was quicker
            assert store.execute(command) is ENDED
            barred += 1
    store.until(lambda: store.level(take) == (10, 0))
    assert not store.store._open
    assert barred


def test_ids_do_not_pile_up(asked: Callable[..., Asked]) -> None:
    store = asked()
    take = one(Rate(10**6, SECOND))
    for end in (ReturnTokens, SettleTokens):
        for _ in range(50):
            command = TakeTokens(store.new_id(), (take,))
            store.execute(command)
            store.execute(end(command.id or b""))
    assert repr(store.store) == "RedisLimits(0 open ids, 1 processes)"


def test_settling_what_nobody_could_have_used_is_the_layer_authors_fault(asked: Callable[..., Asked]) -> None:
    store = asked()
    command = TakeTokens(store.new_id(), (one(Rate(10, SECOND)),))
    store.execute(command)
    with pytest.raises(LayerError, match="one number for each take"):
        store.execute(SettleTokens(command.id or b"", (1, 2)))
    with pytest.raises(LayerError, match="never negative"):
        store.execute(SettleTokens(command.id or b"", (-1,)))


# processes


def test_processes_are_counted(asked: Callable[..., Asked], own_redis: Any) -> None:
    stores = [asked(own_redis.uri, processes=None) for _ in range(3)]
    for store in stores:
        store.take(one(Rate(1, SECOND)))
    stores[-1].until(lambda: stores[-1].store.processes == 3)


def hammer(uri: str, bucket: str, seconds: float, admitted: Any) -> None:
    store = Asked(uri, processes=4, deadline_ms=5000)
    take = Take(bucket, Rate(200, SECOND, 50))
    ends = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < ends:
        answer = store.take(take)
        assert not answer.degraded
        count += isinstance(answer, Taken)
    admitted.put(count)
    store.store.close()


def test_four_processes_together_admit_a_burst_and_what_refills(own_redis: Any) -> None:
    context = multiprocessing.get_context("fork")
    admitted = context.SimpleQueue()
    began = time.perf_counter()
    workers = [context.Process(target=hammer, args=(own_redis.uri, "acme|shared", 0.6, admitted)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    assert [worker.exitcode for worker in workers] == [0] * 4
    counts = [admitted.get() for _ in workers]
    assert 50 + 0.2 * 200 * 0.6 <= sum(counts) <= 50 + 200 * took


def test_a_forked_child_uses_connections_of_its_own(asked: Callable[..., Asked]) -> None:
    store = asked(deadline_ms=5000)
    take = one(Rate(1, HOUR, 100))
    assert store.admitted(take, 10) == 10
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, bytes([store.admitted(take, 10), store.store._open == {} or 1]))
        os._exit(0)
    assert store.admitted(take, 10) == 10
    assert os.read(reads, 2)[0] == 10
    os.waitpid(child, 0)
    assert store.level(take)[0] == 70


def test_a_closed_store_opens_again(asked: Callable[..., Asked]) -> None:
    store = asked()
    take = one(Rate(1, HOUR, 10))
    for left in (9, 8, 7):
        store.take(take)
        store.store.close()
        assert store.level(take)[0] == left
    store.store.close()
    assert not [thread for thread in store.store._servers._lane._threads if thread.is_alive()]  # type: ignore[attr-defined]


def test_a_hundred_thousand_tenants_are_limited_each_and_bounded_here(own_redis: Any) -> None:
    """Every limit holds while all others come by; what is kept of them here is bounded."""
    store = RedisLimits(own_redis.uri, processes=1, deadline_ms=20_000)
    rate = Rate(1, HOUR)

    async def crowd() -> int:
        refused = 0
        for start in range(0, 100_000, 1000):
            tenants = [Take(f"t{number}|tenant", rate) for number in range(start, start + 1000)]
            commands = [TakeTokens(None, tuple(tenants[at : at + 5])) for at in range(0, 1000, 5)]
            answers = await asyncio.gather(*[decide(store, command) for command in commands])
            refused += sum(isinstance(answer, Shortage) for answer in answers)
        return refused

    assert asyncio.run(crowd()) == 0
    for number in (0, 7, 50_000, 99_999):
        answer = asyncio.run(decide(store, TakeTokens(None, (Take(f"t{number}|tenant", rate, 1),))))
        assert isinstance(answer, Shortage)
    assert len(store._plans) + len(store._plans_before) <= 16_384
    assert len(store._keys) <= 16_384
    assert len(store._fallback._known) + len(store._fallback._known_before) <= 100_100
    store.close()


def test_plans_of_takes_that_come_once_go_a_few_at_a_time_and_others_stay() -> None:
    """The takes of calls that are priced by their size are new with each request."""
    store = RedisLimits("redis://127.0.0.1:1/0")
    rate = Rate(1, HOUR)
    often = (Take("acme|tenant", rate),)
    plan = store._planned(often)
    most = 0
    for number in range(40_000):
        store._planned((Take(f"t{number % 100}|tenant", rate),))
        most = max(most, len(store._plans) + len(store._plans_before))
        if number % 500 == 0:
            assert (store._plans.get(id(often)) or store._planned(often)) is plan
    assert 8192 <= most <= 2 * 8192


# settings


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://secret@host",
        "mysql://:secret@[::1",
        "memory://",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host:26379/limits?ssl=yes",
        "redis+cluster://:secret@host",
        "redis+cluster://:secret@host:7000,other",
        "redis+cluster://:secret@host:port",
        "redis+cluster://:secret@[::1",
        "redis+cluster://",
        "valkey+cluster://:secret@host:7000?ssl=yes",
    ],
)
def test_an_address_that_nobody_understands_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RedisLimits(uri)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("options", [{"deadline_ms": 0}, {"processes": 0}, {"lease": -1}])
def test_impossible_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="at least"):
        RedisLimits("redis://localhost", **options)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_every_way_to_write_an_address_of_one_server(redis: Any, asked: Callable[..., Asked], scheme: str) -> None:
    for uri in (
        f"{scheme}://127.0.0.1:{redis.port}",
        f"{scheme}://127.0.0.1:{redis.port}/3?socket_keepalive=yes",
        f"{scheme}+unix://{redis.socket}",
    ):
        assert not asked(uri, deadline_ms=5000).take(one(Rate(1, SECOND))).degraded
