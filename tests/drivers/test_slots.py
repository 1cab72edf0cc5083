"""Slots in whole requests: held until the stream ends, handed over, and given back whatever happens."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.system import real_system
from tenantguard.asgi import ASGIGuard
from tenantguard.flow.effects import Promise
from tenantguard.flow.exchange import current
from tenantguard.flow.layer import observe
from tenantguard.flow.ports import Entered
from tenantguard.guard import Guard
from tenantguard.layers.concurrency import ConcurrencyLimit
from tenantguard.model.concurrency import ConcurrencyRule, WhenFull
from tenantguard.testing import memory_ports
from tenantguard.testing.serving import serve
from tenantguard.wsgi import WSGIGuard
from tests.drivers.asgi_client import body, http_scope, idle, start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.ports import SlotStore

MILLISECOND = 10**6
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class AppError(Exception):
    pass


@dataclass
class Hall:
    """A guarded application, with who is inside of it and how requests ended."""

    rule: ConcurrencyRule
    store: SlotStore | None = None
    inside: int = 0
    peak: int = 0
    served: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    fences: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ports = memory_ports(real_system() if self.store is not None else None)  # whose ids are nobody else's
        if self.store is not None:
            self.ports.slot_store = self.store
        self.lock = threading.Lock()

        @observe
        def hear(exchange: Exchange, outcome: Outcome) -> None:
            self.endings[outcome.ending] += 1

        self.guard = Guard([hear, ConcurrencyLimit(self.rule)], ports=self.ports)

    def standing(self) -> tuple[int, int]:
        """How many are inside, and how many wait."""
        found = Counter(each.holds for each in self.ports.slots.standing())
        return found[True], found[False]

    def enter(self, name: str) -> None:
        with self.lock:
            self.inside += 1
            self.peak = max(self.peak, self.inside)
            self.served.append(name)
            self.fences.append(current().get(Entered).fence)

    def in_order(self) -> list[str]:
        """Who was let in, in that order: a loop may run those of one moment in any."""
        return [name for _, name in sorted(zip(self.fences, self.served, strict=True))]

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1


# the event-loop driver


@dataclass
class Client:
    """One request over ASGI: its body in pieces, and when it leaves."""

    name: str
    pieces: tuple[bytes, ...] = (b"",)
    status: int = 0
    data: bytes = b""
    started: anyio.Event = field(default_factory=anyio.Event)
    leaves: anyio.Event = field(default_factory=anyio.Event)
    finishes: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def request(self, app: Any, *, kind: str = "http") -> None:
        incoming = list(self.pieces)
        if kind == "websocket":
            incoming = [b"connect"]

        async def receive() -> Any:
            await anyio.lowlevel.checkpoint()
            if incoming:
                piece = incoming.pop(0)
                if kind == "websocket":
                    return {"type": "websocket.connect"}
                return {"type": "http.request", "body": piece, "more_body": bool(incoming)}
            await self.leaves.wait()
            return {"type": f"{kind}.disconnect", "code": 1001}

        async def send(message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            if message["type"] in {"http.response.start", "websocket.accept"}:
                self.status = message.get("status", 101)
                self.started.set()
            elif message["type"] == "websocket.close":
                self.status = message["code"]
            else:
                if self.leaves.is_set():
                    raise ConnectionResetError
                self.data += message.get("body", b"")

        scope = http_scope(type=kind, path=f"/{self.name}", method="POST", headers=self.headers)
        with self.scope:
            await app(scope, receive, send)


def streaming(hall: Hall, clients: dict[str, Client], fails: Callable[[str], bool] = lambda name: False) -> Any:
    """An application that streams until its client lets it finish, or leaves."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"][1:]
        client = clients[name]
        hall.enter(name)
        try:
            whole, more = b"", True
            while more:
                message = await receive()
                whole += message.get("body", b"")
                more = message.get("more_body", False)
            hall.bodies.append(whole)
            await send(start())
            await send(body(b"one", more=True))
            await client.finishes.wait()
            await idle(2)
            if fails(name):
                raise AppError
            await send(body(b"two", more=True))
            hall.leave()
            await send(body(b""))
        except BaseException:
            hall.leave()
            raise

    return ASGIGuard(app, guard=hall.guard)


async def attempt(client: Client, app: Any, **kind: str) -> None:
    try:
        await client.request(app, **kind)
    except (AppError, OSError):
        return


async def settled() -> None:
    await idle(12)


def run(scene: Callable[[], Awaitable[None]], backend: str) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await scene()

    anyio.run(bounded, backend=backend)


@BACKENDS
def test_of_a_hundred_streams_five_are_inside_and_every_slot_returns(backend: str) -> None:
    """A+1, A+3: after exceptions, cancellations and disconnects, while they wait and while they stream."""

    async def scene() -> None:
        hall = Hall(ConcurrencyRule(5))
        clients = {f"{number}": Client(f"{number}") for number in range(100)}
        app = streaming(hall, clients, fails=lambda name: int(name) % 7 == 3)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(attempt, client, app)
                await idle(3)
            await settled()
            assert hall.standing() == (5, 95)
            waiting = list(clients.values())[5:]
            for client in waiting[::9]:
                client.leaves.set()  # while it waits
            for client in waiting[4::9]:
                client.scope.cancel()
            await settled()
            gone = {client.name for client in (*waiting[::9], *waiting[4::9])}
            assert hall.standing() == (5, 95 - len(gone))
            for number, name in enumerate(name for name in clients if name not in gone):
                client = clients[name]
                await client.started.wait()
                await idle(2)
                assert hall.standing()[0] == 5 or hall.standing()[1] == 0
                if number % 5 == 1:
                    client.leaves.set()
                if number % 5 == 2:
                    client.scope.cancel()
                client.finishes.set()
        assert hall.peak == 5
        assert hall.inside == 0
        assert hall.standing() == (0, 0)
        assert hall.in_order() == [name for name in clients if name not in gone]
        assert sum(hall.endings.values()) == 100

    run(scene, backend)


@BACKENDS
def test_a_thousand_queued_requests_are_served_in_order(backend: str) -> None:
    """A-30, A+9."""

    async def scene() -> None:
        hall = Hall(ConcurrencyRule(3, queue=1000))
        clients = {f"{number}": Client(f"{number}") for number in range(1000)}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(attempt, client, app)
                await settled()
            for client in clients.values():
                client.finishes.set()
        assert hall.peak == 3
        assert hall.in_order() == list(clients)
        assert hall.standing() == (0, 0)
        assert {client.status for client in clients.values()} == {200}

    run(scene, backend)


@BACKENDS
def test_a_client_that_leaves_while_it_waits_is_not_served(backend: str) -> None:
    """A+3."""

    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1))
        clients = {name: Client(name) for name in ("first", "leaver", "last")}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(attempt, client, app)
                await settled()
            clients["leaver"].leaves.set()
            await settled()
            assert hall.standing() == (1, 1)
            assert hall.endings == {"left": 1}
            for name in ("first", "last"):
                clients[name].finishes.set()
        assert hall.served == ["first", "last"]
        assert clients["leaver"].status == 0

    run(scene, backend)


@BACKENDS
def test_a_body_that_came_while_its_request_waited_reaches_the_application_whole(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1))
        pieces = (b"a" * 40_000, b"b" * 40_000, b"c" * 40_000, b"d")
        clients = {name: Client(name, pieces) for name in ("first", "second")}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(attempt, client, app)
                await settled()
            for client in clients.values():
                client.finishes.set()
        assert hall.bodies == [b"".join(pieces)] * 2

    run(scene, backend)


@BACKENDS
def test_a_client_that_waits_to_be_told_to_send_is_not_told_while_it_waits(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1))
        clients = {"first": Client("first"), "expects": Client("expects", headers=[(b"expect", b"100-continue")])}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(attempt, client, app)
                await settled()
            clients["expects"].leaves.set()  # nobody looks
            await settled()
            assert hall.standing() == (1, 1)
            for client in clients.values():
                client.finishes.set()

    run(scene, backend)


@BACKENDS
def test_who_waits_too_long_is_refused_and_its_place_is_free(backend: str) -> None:
    """A-18: by the driver's own timer; no thread watches over the queue."""

    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1, wait_ns=5 * MILLISECOND))
        clients = {name: Client(name) for name in ("first", "second")}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, clients["first"], app)
            await clients["first"].started.wait()
            await attempt(clients["second"], app)
            assert clients["second"].status == 503
            assert b"concurrency.timeout" in clients["second"].data
            assert hall.standing() == (1, 0)
            clients["first"].finishes.set()
        assert hall.standing() == (0, 0)

    run(scene, backend)


@BACKENDS
def test_without_a_queue_the_next_is_refused_at_once(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1, when_full=WhenFull.REJECT))
        clients = {name: Client(name) for name in ("first", "second")}
        app = streaming(hall, clients)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, clients["first"], app)
            await clients["first"].started.wait()
            await attempt(clients["second"], app)
            assert clients["second"].status == 429
            clients["first"].finishes.set()
        assert hall.standing() == (0, 0)

    run(scene, backend)


@BACKENDS
def test_a_failing_connection_of_one_who_waits_is_told_as_it_is(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1))
        clients = {"first": Client("first")}
        app = streaming(hall, clients)

        async def receive() -> Any:
            raise AppError

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt, clients["first"], app)
            await clients["first"].started.wait()
            with pytest.raises(AppError):
                await app(http_scope(path="/second"), receive, partial(pytest.fail, "nothing is sent"))
            assert hall.standing() == (1, 0)
            clients["first"].finishes.set()

    run(scene, backend)


# WebSockets


def sockets(hall: Hall, clients: dict[str, Client]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"][1:]
        assert (await receive())["type"] == "websocket.connect"
        hall.enter(name)
        await send({"type": "websocket.accept"})
        await clients[name].finishes.wait()
        hall.leave()
        await send({"type": "websocket.close", "code": 1000})

    return ASGIGuard(app, guard=hall.guard)


@BACKENDS
def test_a_socket_holds_its_slot_until_it_closes(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1))
        clients = {name: Client(name) for name in ("first", "leaver", "last")}
        app = sockets(hall, clients)
        async with anyio.create_task_group() as tasks:
            for client in clients.values():
                tasks.start_soon(partial(attempt, client, app, kind="websocket"))
                await settled()
            assert hall.standing() == (1, 2)
            clients["leaver"].leaves.set()
            await settled()
            assert hall.standing() == (1, 1)
            assert hall.endings == {"left": 1}
            clients["first"].finishes.set()
            await clients["last"].started.wait()
            assert hall.standing() == (1, 0)
            clients["last"].finishes.set()
        assert hall.served == ["first", "last"]
        assert hall.standing() == (0, 0)

    run(scene, backend)


@BACKENDS
def test_a_socket_that_waits_too_long_is_closed(backend: str) -> None:
    async def scene() -> None:
        hall = Hall(ConcurrencyRule(1, wait_ns=5 * MILLISECOND))
        clients = {name: Client(name) for name in ("first", "second")}
        app = sockets(hall, clients)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(attempt, clients["first"], app, kind="websocket"))
            await clients["first"].started.wait()
            await attempt(clients["second"], app, kind="websocket")
            assert clients["second"].status == 1008
            clients["first"].finishes.set()
        assert hall.standing() == (0, 0)

    run(scene, backend)


# a real server


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_connection_that_closes_while_its_request_waits_frees_the_place(http: str) -> None:
    """A+3, under uvicorn, which cancels nothing."""
    hall = Hall(ConcurrencyRule(1))
    entered, left, finishes = threading.Event(), threading.Event(), threading.Event()

    @observe
    def hear(exchange: Exchange, outcome: Outcome) -> None:
        if outcome.ending == "left":
            left.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        hall.enter(scope["path"])
        entered.set()
        await asyncio.to_thread(finishes.wait, 20)
        hall.leave()
        await send(start(headers=((b"content-length", b"2"),)))
        await send(body(b"ok"))

    class Watched(MemorySlots):
        queued = threading.Event()

        def execute(self, command: Any, /) -> Any:
            answer = super().execute(command)
            if isinstance(answer, Promise):
                self.queued.set()
            return answer

    hall.ports.slot_store = Watched(hall.ports.system.clock)
    guard = Guard([hear, *hall.guard.layers], ports=hall.ports)

    def ask(path: bytes) -> socket.socket:
        asking = socket.create_connection(address, timeout=20)
        asking.sendall(b"POST " + path + b" HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello")
        return asking

    with serve(guard.asgi(app), http=http) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with ask(b"/first") as first:
            assert entered.wait(20)
            with ask(b"/leaver"):
                assert Watched.queued.wait(20)
            assert left.wait(20)
            assert hall.standing() == (1, 0)
            finishes.set()
            assert first.recv(4096).startswith(b"HTTP/1.1 200")
        with ask(b"/next") as last:
            assert last.recv(4096).startswith(b"HTTP/1.1 200")
    assert hall.served == ["/first", "/next"]
    assert hall.standing() == (0, 0)


# the thread driver


def environ(path: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": ""}


def test_of_sixty_threads_three_are_inside_and_every_slot_returns() -> None:
    """A+1: some applications fail, some clients leave."""
    hall = Hall(ConcurrencyRule(3))

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        hall.enter(environ["PATH_INFO"])
        try:
            start_response("200 OK", [])
            yield b"one"
            if int(environ["PATH_INFO"][1:]) % 5 == 1:
                raise AppError
            yield b"two"
        finally:
            hall.leave()

    guarded = WSGIGuard(app, guard=hall.guard)
    statuses: list[str] = []

    def request(number: int) -> None:
        def start_response(status: str, headers: object, exc_info: object = None) -> Any:
            statuses.append(status)

        response = guarded(environ(f"/{number}"), start_response)
        try:
            for _ in response:
                if number % 5 == 2:
                    break
        except AppError:
            pass
        finally:
            response.close()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=request, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert hall.peak <= 3
    assert hall.inside == 0
    assert hall.standing() == (0, 0)
    assert len(hall.served) == 60
    assert statuses == ["200 OK"] * 60


def test_a_thread_waits_no_longer_than_its_rule_says() -> None:
    hall = Hall(ConcurrencyRule(1, wait_ns=5 * MILLISECOND))
    guarded = WSGIGuard(lambda environ, start_response: [start_response("200 OK", []) or b"x"], guard=hall.guard)
    statuses: list[str] = []

    def start_response(status: str, headers: object, exc_info: object = None) -> Any:
        statuses.append(status)

    first = guarded(environ("/first"), start_response)
    second = guarded(environ("/second"), start_response)
    assert b"concurrency.timeout" in b"".join(second)
    assert statuses[-1].startswith("503")
    first.close()  # type: ignore[attr-defined]
    assert hall.standing() == (0, 0)


def test_a_thread_and_an_event_loop_wait_in_one_queue() -> None:
    hall = Hall(ConcurrencyRule(1))
    order: list[str] = []
    inside, waits = threading.Event(), threading.Event()

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        order.append(environ["PATH_INFO"])
        inside.set()
        waits.wait(20)
        start_response("200 OK", [])
        return [b"x"]

    def request() -> None:
        response = WSGIGuard(wsgi, guard=hall.guard)(environ("/thread"), lambda *_: None)
        b"".join(response)
        response.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=request)
    thread.start()
    assert inside.wait(20)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        order.append(scope["path"])
        await send(start())
        await send(body(b"x"))

    async def scene() -> None:
        client = Client("loop")
        task = asyncio.ensure_future(client.request(ASGIGuard(asgi, guard=hall.guard)))
        await settled()
        assert hall.standing() == (1, 1)
        waits.set()
        await task
        assert client.status == 200

    asyncio.run(scene())
    thread.join(20)
    assert order == ["/thread", "/loop"]
    assert hall.standing() == (0, 0)
