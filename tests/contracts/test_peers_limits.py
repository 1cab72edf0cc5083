"""What other limiters were seen to get wrong, each a sentence about every store of ours.

What is not here stands with what it is about: a server that hangs or refuses in ``limits_redis/test_failures.py``
and, through slowapi, in ``test_limits_plugin.py``; keys that run together in ``test_limits.py``; buckets that are
never forgotten in ``test_memory_limits.py`` and ``limits_redis/test_script.py``.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_py

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.adapters.limits.redis.wire import redis_key
from tenantguard.adapters.system import SystemClock
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate

from .test_limits import STORES, Buckets, Clock, _shared, one

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["_shared"]

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@pytest.fixture(params=sorted(STORES))
def buckets(request: pytest.FixtureRequest) -> Buckets:
    return Buckets(request.param)


def test_two_thousand_others_do_not_fill_a_tenants_bucket_again(buckets: Buckets) -> None:
    """throttled-py keeps 1024 keys: after as many others, 10 an hour is 20."""
    rate = Rate(10, HOUR)
    assert buckets.admitted(one(rate, "victim"), 20) == 10
    for number in range(0, 2048, 16):
        assert isinstance(buckets.ask(*[one(rate, f"other-{number + each}") for each in range(16)]), Taken)
    assert buckets.admitted(one(rate, "victim"), 20) == 0


@pytest.mark.parametrize("burst", [49, 1, 60])
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_what_refills_in_less_than_half_a_second_is_limited_too(redis: Any, kind: str, burst: int) -> None:
    """throttled-py lets a key live for whole seconds, rounded down to none: 1000 of 1000. By real clocks here."""
    redis.flush()
    clock = SystemClock()
    store = MemoryLimits(clock) if kind == "memory" else RedisLimits(redis.uri, processes=1, deadline_ms=30_000)
    take = one(Rate(100, SECOND, burst))
    began = clock.monotonic_ns()
    admitted = sum(isinstance(answered(store, TakeTokens(None, (take,))), Taken) for _ in range(1000))
    assert burst <= admitted <= burst + 100 * (clock.monotonic_ns() - began) / SECOND + 1
    store.close()


@pytest.mark.parametrize("a_minute", [54, 90, 110])
def test_who_polls_gets_all_of_an_odd_rate(buckets: Buckets, a_minute: int) -> None:
    """throttled-py counts whole seconds and rounds down: 55, 67 and 54 % of these."""
    take = one(Rate(a_minute, MINUTE))
    assert buckets.admitted(take, 200) == a_minute
    granted = 0
    for _ in range(3 * 120):
        buckets.wait(SECOND // 2)
        granted += buckets.admitted(take, 1)
    assert granted == 3 * a_minute


def test_clients_do_not_share_what_is_each_ones_own(buckets: Buckets) -> None:
    """fastapi-limiter, as its README says: the second client's first request is refused."""
    rate = Rate(2, 5 * SECOND)
    assert [buckets.admitted(one(rate, client), 3) for client in ("a", "b")] == [2, 2]


def test_what_is_refused_for_its_size_consumes_nothing(buckets: Buckets) -> None:
    """limits' fixed window: a cost of 1000 of 100 a minute is refused, and then everything is."""
    rate = Rate(100, MINUTE)
    assert isinstance(buckets.ask(one(rate, cost=1000)), Shortage)
    assert buckets.admitted(one(rate), 150) == 100


def test_of_two_limits_the_wider_counts_what_was_admitted(buckets: Buckets) -> None:
    """A-6; limits: of 50 tries 5 are admitted, and the wider is charged 50."""
    wide, tight = one(Rate(100, MINUTE), "wide"), one(Rate(5, MINUTE), "tight")
    answers = [buckets.ask(wide, tight) for _ in range(50)]
    assert sum(isinstance(answer, Taken) for answer in answers) == 5
    assert buckets.level(wide)[0] == 95


def test_a_changed_plan_goes_on_with_its_bucket(buckets: Buckets) -> None:
    """limits has the limit in the key: who goes from 10 a minute to 20 begins anew, with 20."""
    assert buckets.admitted(one(Rate(10, MINUTE)), 20) == 10
    assert buckets.admitted(one(Rate(20, MINUTE)), 40) == 0
    buckets.wait(MINUTE // 2)
    assert buckets.admitted(one(Rate(20, MINUTE)), 40) == 10


@pytest.fixture
def hurry() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurry")
def test_eight_threads_admit_as_many_as_one(buckets: Buckets) -> None:
    """A+10: check and record are one step. limits in memory: in 8 of 600 tries more than 5, or fewer; a dictionary
    without a lock: twice as many.
    """
    for number in range(20):
        take = one(Rate(1, HOUR, 5), f"t{number}")
        answers: list[Any] = []
        gate = threading.Barrier(8)

        def work(take: Take = take, answers: list[Any] = answers, gate: threading.Barrier = gate) -> None:
            gate.wait()
            answers.extend(buckets.execute(TakeTokens(None, (take,))) for _ in range(3))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 24
        assert sum(isinstance(answer, Taken) for answer in answers) == 5


@pytest.mark.parametrize("apart_ns", [SECOND // 2, HOUR])
def test_machines_whose_clocks_differ_admit_no_more_together(redis: Any, apart_ns: int) -> None:
    """A bucket of (tokens, time of the client) admits 10 000 of 10 000 where clocks are half a second apart."""
    redis.flush()
    server = Clock(1_790_000_000 * SECOND)
    clocks = [Clock(server.now_ns - apart_ns), Clock(server.now_ns + apart_ns)]
    stores = [RedisLimits(redis.uri, clock, deadline_ms=30_000, processes=2, test_clock=server) for clock in clocks]
    take = one(Rate(100, SECOND))
    admitted = 0
    for _ in range(200):
        for clock in (server, *clocks):
            clock.now_ns += SECOND // 100
        for store in stores:
            admitted += sum(isinstance(answered(store, TakeTokens(None, (take,))), Taken) for _ in range(5))
    assert admitted == 100 + 199
    for store in stores:
        store.close()


@pytest.mark.parametrize("name", sorted(STORES))
def test_a_fast_rate_is_exact_at_todays_time(name: str) -> None:
    """A Lua number told with 14 digits is a tenth of a millisecond: 2000 of 2000 at 100 000 a second, burst 500."""
    buckets = Buckets(name)
    buckets.clock.now_ns = 1_790_000_000 * SECOND + 123_456_789
    take = one(Rate(100_000, SECOND, 500))
    assert buckets.admitted(take, 1000) == 500
    buckets.wait(10_000)
    assert buckets.admitted(take, 5) == 1


def test_a_million_tokens_are_sixteen_bytes(redis: Any) -> None:
    """limits' moving window: a key of 20 MB, and a server that stands still for half a second."""
    redis.flush()
    store = RedisLimits(redis.uri, processes=1, deadline_ms=30_000)
    take = one(Rate(10**7, MINUTE), cost=10**6)
    assert isinstance(answered(store, TakeTokens(None, (take,))), Taken)
    with redis_py.Redis(unix_socket_path=str(redis.socket)) as client:
        assert client.strlen(redis_key(take.bucket)) == 16
        assert client.dbsize() == 1
    store.close()


def answered(store: Any, command: TakeTokens) -> Any:
    answer = store.execute(command)
    if isinstance(answer, Promise):
        answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
    assert not answer.degraded
    return answer
