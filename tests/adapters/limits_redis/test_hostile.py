"""What a limit store in Redis must survive: garbage, forks, wrong options, nodes that leave, threads that die."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_py

from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.adapters.limits.redis.wire import COUNTED, SCRIPT, redis_key
from tenantguard.adapters.redis.breaker import Breaker
from tenantguard.adapters.redis.lane import QUEUE_MAX, Lane
from tenantguard.adapters.redis.script import KEYS_MAX
from tenantguard.adapters.redis.servers import Cluster
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, LayerError
from tenantguard.flow.ports import ReturnTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.testing import ManualClock

from .conftest import SECOND, one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Asked, Proxy

HOUR = 3600 * SECOND
NOW = SystemClock().monotonic_ns
PATIENT = {"deadline_ms": 5000}


class Liar:
    """Answers every command with what a test wants."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"
        self.says = b""
        self.heard = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError), near:
            while data := near.recv(65_536):
                if b"EVALSHA" in data:
                    self.heard += 1
                    near.sendall(self.says)
                else:
                    near.sendall(b"+OK\r\n" * max(1, data.count(b"*")))


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.close()


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


NAN = b"\0\0\0\0\0\0\xf8\x7f"
GARBAGE = {
    "an empty text": bulk(b""),
    "too short": bulk(b"\0" * 20),
    "noise": bulk(bytes(range(256)) * 4),
    "taken, and then no numbers": bulk(b"\0" * 16 + b"t\1"),
    "taken, of not a number": bulk(b"\0" * 16 + b"t\1" + NAN * 2),
    "refused, though the bucket is full": bulk(b"\0" * 16 + b"r\0" + b"\0" * 16),
    "a number": b":7\r\n",
    "nothing": b"$-1\r\n",
    "a list": b"*2\r\n:1\r\n:2\r\n",
    "no protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an error": b"-WRONG of all\r\n",
    "another server's slot": b"-MOVED 5 127.0.0.1:1\r\n",
}


@pytest.mark.parametrize("says", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("lease", [0, 64])
def test_a_reply_that_nobody_understands_is_decided_without(
    asked: Callable[..., Asked], liar: Liar, says: bytes, lease: int
) -> None:
    """As a server that fails: at once, by the rate, the threads go on, and it is soon not asked any more."""
    liar.says = says
    store = asked(liar.uri, lease=lease, **PATIENT)
    take = one(Rate(1000, HOUR, 10))
    answers = [store.take(take) for _ in range(20)]
    assert all(answer.degraded for answer in answers)
    assert sum(isinstance(answer, Taken) for answer in answers) == 10
    assert max(store.waited_s) < 4  # nobody waited for the deadline
    assert not store.store._servers.breaker_of(0).closed
    lane = store.store._servers._lane  # type: ignore[attr-defined]
    assert all(thread.is_alive() for thread in lane._threads)


def test_an_answer_that_was_claimed_and_never_given_is_an_error_and_no_none(
    asked: Callable[..., Asked], liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantguard.adapters.redis import sent
    from tenantguard.errors import PortTimeout

    monkeypatch.setattr(sent, "_CLAIM_S", 0.01)
    promise = asked(liar.uri, **PATIENT).store.execute(TakeTokens(None, (one(Rate(1, SECOND)),)))
    assert promise.claim()
    with pytest.raises(PortTimeout):
        promise.late()


def test_what_another_program_wrote_is_no_bucket_and_spoils_no_other(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    store = asked(own_redis.uri, **PATIENT)
    rate = Rate(1, HOUR, 10)
    with redis_py.Redis(unix_socket_path=str(own_redis.socket)) as client:
        texts = [b"x" * length for length in (0, 1, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 48)]
        numbers = [(math.inf, 0), (math.nan, 0), (-1e300, 0), (2e15, -1e300), (2e15, 1e12)]
        for value in texts + [struct.pack("<dd", *pair) for pair in numbers]:
            foreign = one(rate)
            client.set(redis_key(foreign.bucket), value)
            assert store.take(foreign, one(rate)) == Taken(((9, HOUR), (9, HOUR)))
        listed = one(rate)
        client.rpush(redis_key(listed.bucket), "a", "b")
        assert not store.take(listed, one(rate)).degraded


def test_what_another_program_wrote_where_processes_are_counted_costs_no_decision(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    own_redis.ask("SET", COUNTED.decode(), "x")
    store = asked(own_redis.uri, **{**PATIENT, "processes": None})
    assert not store.take(one(Rate(1, HOUR, 10))).degraded


def test_a_connection_that_the_server_closed_while_it_idled_costs_no_decision(
    asked: Callable[..., Asked], own_redis: Any
) -> None:
    """As servers with a ``timeout`` do, and what stands between."""
    clock = ManualClock()
    store = asked(own_redis.uri, clock=clock, coalesce=False, **PATIENT)
    rate = Rate(1, HOUR, 10)
    for _ in range(3):
        assert [store.take(one(rate)).degraded for _ in range(4)] == [False] * 4
        own_redis.ask("CLIENT", "KILL", "TYPE", "normal")
        clock.advance(1)


@pytest.mark.parametrize("lease", [0, 64])
def test_a_negative_cost_is_refused_and_mints_nothing(asked: Callable[..., Asked], lease: int) -> None:
    store = asked(lease=lease, **PATIENT)
    take = one(Rate(1000, HOUR, 100))
    store.take(Take(take.bucket, take.rate, 60))
    for taking in (None, store.new_id()):
        with pytest.raises(LayerError, match="mint"):
            store.execute(TakeTokens(taking, (Take(take.bucket, take.rate, -50),)))
    assert isinstance(store.take(Take(take.bucket, take.rate, 41)), Shortage)


def test_the_largest_decision_is_decided_also_beside_another_and_a_larger_one_is_refused(
    asked: Callable[..., Asked], proxy: Proxy
) -> None:
    store = asked(proxy.uri, **PATIENT)
    rate = Rate(1, HOUR, 3)
    store.take(one(rate))
    takes = tuple(one(rate) for _ in range(KEYS_MAX))
    proxy.passes.clear()  # what follows waits, and travels together
    promises = [store.store.execute(TakeTokens(None, (one(rate),))) for _ in range(2)]
    promises += [store.store.execute(TakeTokens(store.new_id(), each)) for each in (takes, takes)]
    proxy.passes.set()
    for promise in promises:
        assert promise.wait(5)
        assert isinstance(promise.result(), Taken)
        assert not promise.result().degraded
    with pytest.raises(LayerError, match="2000 buckets"):
        store.take(*takes, one(rate))


# options


@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+unix", "redis+sentinel"])
def test_an_option_that_nobody_knows_is_refused_when_the_store_is_made(kind: str) -> None:
    uri = f"{kind}://:secret@127.0.0.1:1/name" if kind != "redis+unix" else "redis+unix:///tmp/none.sock"
    with pytest.raises(ConfigurationError, match="none that redis-py") as refused:
        RedisLimits(uri, options={"no_such_option": 1})
    assert "secret" not in str(refused.value)


# threads, sockets, forks


def test_a_sentinel_that_is_gone_holds_nobody_up(asked: Callable[..., Asked]) -> None:
    """It is not tried again and again, with pauses of seconds: the next one would be asked so much later."""
    store = asked("redis+sentinel://127.0.0.1:1/limits")
    lane = store.store._servers._lane  # type: ignore[attr-defined]
    began = time.perf_counter()
    with pytest.raises(redis_py.RedisError):
        lane._make().connect()
    assert time.perf_counter() - began < 3  # without the pauses it takes milliseconds, with them five seconds
    assert all(store.take(one(Rate(1, SECOND))).degraded for _ in range(5))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tenantguard-limits")]


def test_stores_that_come_and_go_leave_no_thread_and_no_socket(own_redis: Any, asked: Callable[..., Asked]) -> None:
    """While the server is there, and while it is not."""
    first = asked(own_redis.uri, **PATIENT)
    first.take(one(Rate(1, SECOND)))
    first.store.close()  # or some of its links may be counted, which connect later
    gc.collect()
    before, threads = descriptors(), len(ours())
    for _ in range(10):
        store = asked(own_redis.uri, lease=8, **PATIENT)
        assert not store.take(one(Rate(1000, SECOND))).degraded
        store.store.close()
    own_redis.kill()
    for _ in range(10):
        store = asked(own_redis.uri, lease=8, **PATIENT)
        assert store.take(one(Rate(1000, SECOND))).degraded
        store.store.close()
    gc.collect()
    assert len(ours()) == threads
    assert descriptors() <= before


def test_a_broken_link_leaves_no_socket(asked: Callable[..., Asked], proxy: Proxy) -> None:
    gc.collect()
    before = descriptors()
    store = asked(proxy.uri, **PATIENT)
    take = one(Rate(1000, HOUR, 1000))
    store.take(take)
    for _ in range(10):
        proxy.cut()
        store.take(take)
        proxy.mend()
        store.until(lambda: not store.take(take).degraded, 30)
    store.store.close()
    proxy.cut()
    store.until(lambda: descriptors() <= before, 30)


def test_a_child_forked_while_the_server_was_away_asks_it_again(asked: Callable[..., Asked], own_redis: Any) -> None:
    """Also where the parent was just asking: nobody in the child would bring that to an end."""
    store = asked(own_redis.uri)
    take = one(Rate(1, HOUR, 100))
    own_redis.kill()
    breaker = store.store._servers.breaker_of(0)
    while breaker.closed:
        store.take(take)
    store.until(lambda: breaker.due(store.store.now_ns()))  # a probe is on its way, as far as the parent knows
    own_redis.start()
    child = os.fork()
    if not child:
        try:
            store.recovers(take)
        finally:
            os._exit(int(store.store._servers.breaker_of(0).closed) + 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_child_forked_while_a_breaker_is_locked_does_not_wait_for_it(asked: Callable[..., Asked]) -> None:
    store = asked(**PATIENT)
    take = one(Rate(1, HOUR, 100))
    store.take(take)
    with store.store._servers.breaker_of(0)._lock:
        child = os.fork()
        if not child:
            breaker = store.store._servers.breaker_of(0)
            for _ in range(3):
                breaker.failed("x", 0)
            os._exit(7 if not breaker.closed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_loop_that_has_closed_holds_nobody_up(asked: Callable[..., Asked], proxy: Proxy) -> None:
    """What it waited for is given back where it was ended, and another loop goes on."""
    from tenantguard.asgi.waiting import kept

    store = asked(proxy.uri, **PATIENT)
    take = one(Rate(1, HOUR, 100))
    store.take(take)
    proxy.passes.clear()
    command = TakeTokens(store.new_id(), (Take(take.bucket, take.rate, 50),))

    async def abandon() -> None:
        waiting = asyncio.ensure_future(kept(store.store.execute(command)))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(abandon())
    proxy.passes.set()
    store.execute(ReturnTokens(command.id or b""))
    store.until(lambda: store.level(take)[0] == 99)

    async def go_on() -> Any:
        promise = store.store.execute(TakeTokens(None, (take,)))
        return promise.result() if await kept(promise) else promise.late()

    assert not asyncio.run(go_on()).degraded


# the breaker


def test_a_probe_that_finds_no_place_in_the_queue_is_tried_again(own_redis: Any) -> None:
    """Else nobody would ever ask again."""
    lane = Lane(lambda: None, Breaker("limits", "x"), NOW, 0.05, SCRIPT, links=2, together=True)  # type: ignore[arg-type, return-value]
    lane._start = lambda: None  # type: ignore[method-assign]
    for _ in range(3):
        lane.breaker.failed("x", 0)
    for _ in range(QUEUE_MAX):
        assert lane.submit(())
    now_ns = SECOND
    assert lane.breaker.due(now_ns)
    lane._monotonic_ns = lambda: now_ns
    lane.probe()
    assert not lane.breaker.due(now_ns + SECOND // 10)
    assert lane.breaker.due(now_ns + 10 * SECOND)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next thread cannot be started; those after it can."""
    start = threading.Thread.start

    def fail(_: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


@pytest.mark.usefixtures("no_thread")
def test_a_thread_that_cannot_be_started_now_is_started_later(asked: Callable[..., Asked]) -> None:
    store = asked()
    with pytest.raises(RuntimeError):
        store.take(one(Rate(1, HOUR)))
    assert not store.take(one(Rate(1, HOUR))).degraded


def test_processes_that_lost_a_server_together_do_not_come_back_together() -> None:
    """Of a thousand, no tenth of the time in which they come back sees more than a quarter; one asks in each."""
    breakers = [Breaker("limits", "x") for _ in range(1000)]
    for breaker in breakers:
        for _ in range(3):
            breaker.failed("x", 0)
    came: list[int] = []
    for breaker in breakers:
        at = next(at for at in range(0, SECOND, SECOND // 1000) if breaker.due(at))
        assert not breaker.due(at + SECOND)
        came.append(at)
    first, last = min(came), max(came)
    assert SECOND // 4 * 0.74 <= first < last <= SECOND // 4 * 1.26
    tenth = (last - first) // 10 + 1
    assert max(sum(at // tenth == each for at in came) for each in range(first // tenth, last // tenth + 1)) <= 250


# clusters


class Client:
    """What a cluster's client says of who has which slots."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes
        self.fails: Exception | None = None
        self.nodes_manager = self

    @property
    def slots_cache(self) -> dict[int, list[Any]]:
        return {number: [SimpleNamespace(name=node)] for number, node in enumerate(self.nodes)}

    def initialize(self) -> None:
        if self.fails is not None:
            raise self.fails

    def get_redis_connection(self, node: Any) -> Any:
        return SimpleNamespace(connection_pool=node.name)

    def close(self) -> None:
        pass


class Dummy:
    """A lane that answers everything."""

    def __init__(self, name: str) -> None:
        self.breaker = Breaker("limits", name)
        self.ended = False

    def submit(self, asked: Any) -> bool:
        for each in asked:
            each.lose(None, None)
        return True

    def end(self) -> list[Any]:
        self.ended = True
        return []

    close = end


class Waits:
    """A command that says where it was answered."""

    slot = 0

    def __init__(self) -> None:
        self.answered = threading.Event()

    def lose(self, problem: object, bells: object) -> None:
        self.answered.set()


def test_nodes_that_left_a_cluster_leave_no_threads() -> None:
    client = Client("a", "b")
    cluster = Cluster("limits", lambda: client, lambda pool, name, moved: Dummy(pool), NOW)  # type: ignore[arg-type, return-value]
    cluster._discover()
    lanes: dict[str, Any] = dict(cluster._lanes)
    client.nodes = ("a", "c")
    cluster._discover()
    assert set(cluster._lanes) == {"a", "c"}
    assert (lanes["a"].ended, lanes["b"].ended) == (False, True)


def test_a_cluster_whose_servers_cannot_be_found_out_is_asked_again() -> None:
    """Whatever went wrong: the thread that finds them out goes on."""
    client = Client("a")
    client.fails = IndexError("nobody thought of that")
    cluster = Cluster("limits", lambda: client, lambda pool, name, moved: Dummy(pool), NOW)  # type: ignore[arg-type, return-value]
    cluster._client = client
    first, second = Waits(), Waits()
    assert cluster.submit((first,))  # type: ignore[arg-type]
    assert first.answered.wait(30)
    assert not cluster._slots
    client.fails = None
    assert cluster.submit((second,))  # type: ignore[arg-type]
    assert second.answered.wait(30)
    assert cluster._slots
    cluster.close()


@pytest.mark.usefixtures("no_thread")
def test_a_thread_that_cannot_find_out_a_cluster_now_is_started_later() -> None:
    cluster = Cluster("limits", lambda: Client("a"), lambda pool, name, moved: Dummy(pool), NOW)  # type: ignore[arg-type, return-value]
    first, second = Waits(), Waits()
    with pytest.raises(RuntimeError):
        cluster.submit((first,))  # type: ignore[arg-type]
    assert cluster.submit((second,))  # type: ignore[arg-type]
    assert second.answered.wait(10)
    cluster.close()


def test_a_node_to_which_nothing_can_be_sent_ends_no_thread_that_finds_out_others() -> None:
    class Broken(Dummy):
        def submit(self, asked: Any) -> bool:
            raise RuntimeError("can't start new thread")

    client = Client("a")
    lanes = [Dummy("a"), Broken("a")]
    cluster = Cluster("limits", lambda: client, lambda pool, name, moved: lanes.pop(), NOW)  # type: ignore[arg-type, return-value]
    first, second = Waits(), Waits()
    cluster.submit((first,))  # type: ignore[arg-type]
    assert first.answered.wait(10)
    client.nodes = ()
    cluster._discover()
    client.nodes = ("a",)
    cluster._map([second])  # type: ignore[list-item]
    assert second.answered.wait(10)
    cluster.close()


def test_what_waits_for_word_of_a_cluster_is_bounded() -> None:
    cluster = Cluster("limits", lambda: None, lambda pool, name, moved: Dummy(pool), NOW)  # type: ignore[arg-type, return-value]
    cluster._map = cluster._lost.put  # type: ignore[method-assign]
    asked: Any = (Waits(),)
    assert all(cluster.submit(asked) for _ in range(QUEUE_MAX))
    assert not cluster.submit(asked)
