"""Slots over Redis in whole requests, under both drivers, whatever becomes of clients, applications and workers."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.adapters.system import real_system
from tenantguard.asgi import ASGIGuard
from tenantguard.flow.exchange import current
from tenantguard.flow.ports import Entered
from tenantguard.guard import Guard
from tenantguard.layers.concurrency import ConcurrencyLimit
from tenantguard.model.concurrency import ConcurrencyRule, WhenFull
from tenantguard.testing import memory_ports
from tenantguard.wsgi import WSGIGuard
from tests.drivers.asgi_client import body, http_scope, start
from tests.drivers.test_slots import Client, Hall, attempt, streaming

from .conftest import child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
DEADLINE_MS = 10_000
"""No test here is about a slow server."""


@pytest.fixture
def stores(redis: Any) -> Iterator[list[RedisSlots]]:
    """Two processes."""
    redis.flush()
    found = [RedisSlots(redis.uri, deadline_ms=DEADLINE_MS, lease_s=1) for _ in range(2)]
    yield found
    for store in found:
        store.close()


class Branch(Hall):
    """One of several processes that serve the same, and how many were inside of all."""

    inside_all: list[str]
    peaks: list[int]

    def enter(self, name: str) -> None:
        super().enter(name)
        self.inside_all.append(name)
        self.peaks.append(len(self.inside_all))

    def leave(self) -> None:
        super().leave()
        self.inside_all.pop()


async def until(wanted: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not wanted():  # noqa: ASYNC110 - what it waits for is in other threads and processes
            await anyio.sleep(0.005)


@BACKENDS
def test_of_a_hundred_streams_five_are_inside_and_every_slot_returns(
    backend: str, stores: list[RedisSlots], redis: Any
) -> None:
    """A+1, A+3, A+5: after exceptions, cancellations, disconnects and a killed worker."""

    async def scene() -> None:
        halls = [Branch(ConcurrencyRule(5), store) for store in stores]
        for hall in halls:
            hall.inside_all, hall.peaks = halls[0].__dict__.setdefault("inside_all", []), []
        clients = {f"{number}": Client(f"{number}") for number in range(100)}
        apps = [streaming(hall, clients, fails=lambda name: int(name) % 7 == 3) for hall in halls]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, clients["0"], apps[0])
            await until(lambda: halls[0].standing() == (1, 0))
            key = stores[0].standing()[0].key
            worker = await anyio.to_thread.run_sync(child, redis.uri, 1, 2, 5, key)
            for number, client in enumerate(list(clients.values())[1:], 1):
                tasks.start_soon(attempt, client, apps[number % 2])
            await until(lambda: halls[0].standing() == (5, 97))
            await until(lambda: sum(hall.inside for hall in halls) == 3)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            await until(lambda: sum(client.started.is_set() for client in clients.values()) == 5)
            waiting = [client for client in clients.values() if not client.started.is_set()]
            for client in waiting[::9]:
                client.leaves.set()  # while it waits
            for client in waiting[4::9]:
                client.scope.cancel()
            gone = {client.name for client in (*waiting[::9], *waiting[4::9])}
            await until(lambda: halls[1].standing() == (5, len(waiting) - len(gone)))
            left = [client for client in clients.values() if client.name not in gone]
            while left:
                await until(lambda: any(client.started.is_set() for client in left))
                client = next(client for client in left if client.started.is_set())
                left.remove(client)
                if len(left) % 5 == 1:
                    client.leaves.set()
                if len(left) % 5 == 2:
                    client.scope.cancel()
                client.finishes.set()
        assert max(max(hall.peaks) for hall in halls) == 5
        await until(lambda: all(hall.standing() == (0, 0) for hall in halls))
        assert sum(sum(hall.endings.values()) for hall in halls) == 100

    anyio.run(scene, backend=backend)


@BACKENDS
def test_a_turn_that_does_not_come_is_refused_in_time(backend: str, stores: list[RedisSlots]) -> None:
    """A-18."""

    async def scene() -> None:
        halls = [Hall(ConcurrencyRule(1, wait_ns=30 * 10**6), store) for store in stores]
        clients = {name: Client(name) for name in ("first", "second")}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, clients["first"], streaming(halls[0], clients))
            await clients["first"].started.wait()
            await attempt(clients["second"], streaming(halls[1], clients))
            assert clients["second"].status == 503
            assert b"concurrency.timeout" in clients["second"].data
            clients["first"].finishes.set()
        await until(lambda: halls[1].standing() == (0, 0))

    anyio.run(scene, backend=backend)


def test_threads_and_an_event_loop_of_two_processes_wait_in_one_queue(stores: list[RedisSlots]) -> None:
    guards = [Guard([ConcurrencyLimit(ConcurrencyRule(1))], ports=memory_ports(real_system())) for _ in stores]
    for guard, store in zip(guards, stores, strict=True):
        guard.ports.slot_store = store
    served: list[tuple[int, str]] = []

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append((current().get(Entered).fence, environ["PATH_INFO"]))
        start_response("200 OK", [])
        return [b"ok"]

    def request(name: str) -> None:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": name, "SCRIPT_NAME": "", "QUERY_STRING": ""}
        response = WSGIGuard(wsgi, guard=guards[1])(environ, lambda *_: None)
        list(response)
        response.close()  # type: ignore[attr-defined]

    holds = anyio.Event()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        served.append((current().get(Entered).fence, scope["path"]))
        if scope["path"] == "/first":
            await holds.wait()
        await send(start())
        await send(body(b"ok"))

    async def get(path: str) -> None:
        async def receive() -> Any:
            await anyio.sleep_forever()

        async def send(message: Any) -> None:
            return

        await ASGIGuard(asgi, guard=guards[0])(http_scope(path=path), receive, send)

    async def scene() -> None:
        async with anyio.create_task_group() as tasks:
            for number, path in enumerate(("/first", "/thread-1", "/loop-2", "/thread-3")):
                if "thread" in path:
                    tasks.start_soon(anyio.to_thread.run_sync, request, path)
                else:
                    tasks.start_soon(get, path)
                await until(lambda number=number: len(stores[0].standing()) == number + 1)
            holds.set()

    anyio.run(scene)
    assert [name for _, name in sorted(served)] == ["/first", "/thread-1", "/loop-2", "/thread-3"]
    end = time.perf_counter() + 20
    while stores[0].standing():
        assert time.perf_counter() < end


def test_what_is_decided_while_the_server_is_away_says_so() -> None:
    """One of four is the share of each of four processes."""
    store = RedisSlots("redis://127.0.0.1:1/0", processes=4)
    rule = ConcurrencyRule(4, when_full=WhenFull.REJECT)
    entered: list[Entered] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.append(current().get(Entered))
        start_response("200 OK", [])
        return [b"ok"]

    def ask() -> Any:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": "", "QUERY_STRING": ""}
        return WSGIGuard(app, guard=guard)(environ, lambda *_: None)

    ports = memory_ports(real_system())
    ports.slot_store = store
    guard = Guard([ConcurrencyLimit(rule)], ports=ports)
    first, second = ask(), ask()
    told = b"".join(second)
    first.close()
    second.close()
    assert entered == [Entered(0, degraded=True)]
    assert b"concurrency.exceeded" in told
    store.close()
