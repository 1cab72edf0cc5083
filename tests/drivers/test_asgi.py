"""What only the event-loop driver has to keep: cancellation, tasks, disconnects, lifespan and WebSockets."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tenantguard.asgi import STATE_KEY, ASGIGuard
from tenantguard.errors import ConfigurationError, LayerError, PortError, PortTimeout, ResponseCut
from tenantguard.flow.effects import Promise, ReadBody, ask, compute
from tenantguard.flow.exchange import current
from tenantguard.flow.http import Cut, Outcome, Response
from tenantguard.flow.layer import check
from tenantguard.flow.ports import PortEffect
from tenantguard.guard import Guard
from tenantguard.model.route import OnDisconnect, Route, Success
from tenantguard.testing import memory_ports
from tests.drivers.asgi_client import body, http_scope, idle, start
from tests.drivers.world import App, AppError, Holding, Till, Watching, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BACKENDS = ["asyncio", "trio"]


async def never() -> Any:
    await anyio.sleep_forever()


async def empty_body() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


class Server:
    """Sends a request's messages and keeps what comes back."""

    def __init__(self, *incoming: Any) -> None:
        self.incoming = list(incoming)
        self.sent: list[Any] = []
        self.left = anyio.Event()

    async def receive(self) -> Any:
        if self.incoming:
            return self.incoming.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


def guarded(app: Any, layers: list[Any], *, till: Till | None = None, **options: Any) -> ASGIGuard:
    ports = memory_ports()
    ports.limits = till  # type: ignore[assignment]
    return ASGIGuard(app, guard=Guard(layers, ports=ports, **options))


# --- tasks ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_arrives_second_waits_until_settling_is_done(backend: str) -> None:
    notes: list[str] = []
    go_on = []

    class Slow:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            async def settle() -> None:
                notes.append("settling")
                go_on[0].set()
                await go_on[1].wait()
                await idle()
                notes.append("settled")

            def end(outcome: Outcome) -> Any:
                yield from ask(settle)

            exchange.resolve(end)
            return (yield from proceed(exchange))

    async def main() -> None:
        go_on[:] = [anyio.Event(), anyio.Event()]
        async with anyio.create_task_group() as tasks:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await send(start())
                tasks.start_soon(send, body(b"end"))
                await go_on[0].wait()
                notes.append("app fails")
                go_on[1].set()
                raise AppError

            server = Server()
            with pytest.raises(AppError):
                await guarded(app, [Slow()])(http_scope(), server.receive, server.send)
            notes.append("run over")

    anyio.run(main, backend=backend)
    assert notes == ["settling", "app fails", "settled", "run over"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_sends_of_several_tasks_are_handled_one_after_the_other(backend: str) -> None:
    inside = 0
    worst = 0
    fed: list[bytes] = []
    sent: list[bytes] = []

    class Tap:
        rewrites = True

        def feed(self, chunk: bytes) -> bytes | Cut:
            fed.append(chunk)
            return chunk

        def finish(self) -> bytes | Cut:
            return b""

    class Taps:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            response.transforms.append(Tap())
            return response

    async def send(message: Any) -> None:
        nonlocal inside, worst
        inside += 1
        worst = max(worst, inside)
        await idle()
        inside -= 1
        if message.get("body"):
            sent.append(message["body"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(send, body(b"%d" % number, more=True))
        await send(body(b""))

    anyio.run(partial(guarded(app, [Taps(), Holding()], till=Till()), http_scope(), never, send), backend=backend)
    assert worst == 1
    assert len(sent) == 10
    assert fed == [*sent, b""]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sender_cancelled_while_it_waits_its_turn_lets_the_others_go_on(backend: str) -> None:
    server = Server()

    async def main() -> None:
        gate = anyio.Event()

        async def send(message: Any) -> None:
            if message.get("body") == b"first":
                await gate.wait()
            await server.send(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, body(b"first", more=True))
                await idle()
                with anyio.CancelScope() as waiting:

                    async def cancel() -> None:
                        await idle()
                        waiting.cancel()

                    tasks.start_soon(send, body(b"third", more=True))
                    tasks.start_soon(cancel)
                    await send(body(b"second", more=True))
                await idle()
                gate.set()
            await send(body(b""))

        await guarded(app, [Holding()], till=Till())(http_scope(), never, send)

    anyio.run(main, backend=backend)
    assert server.bodies[0] == b"first"
    assert server.bodies[-1] == b""
    assert b"third" in server.bodies


# --- ports that answer later ---


class FromThread(Promise[str]):
    """A promise that a thread keeps, or nobody."""

    port = "threaded"

    def __init__(self, deadline_s: float, *, answers: bool = True, fails: Exception | None = None) -> None:
        self.deadline_s = deadline_s
        self._event = threading.Event()
        self._calls: list[Callable[[], Any]] = []
        self._fails = fails
        if answers:
            threading.Thread(target=self._keep).start()

    def _keep(self) -> None:
        self._event.set()
        for call in self._calls:
            bell = call()
            if bell is not None:
                bell()

    def then(self, call: Callable[[], Any]) -> None:
        self._calls.append(call)
        if self._event.is_set():
            bell = call()
            if bell is not None:
                bell()

    def wait(self, timeout_s: float) -> bool:
        return False if timeout_s == 0 else self._event.wait(timeout_s)

    def result(self) -> str:
        if self._fails is not None:
            raise self._fails
        return "kept"


@dataclass(frozen=True)
class AskThread(PortEffect[str]):
    make: Callable[[], FromThread]

    def perform(self, ports: Any) -> Any:
        return self.make()


class Threaded:
    def __init__(self, make: Callable[[], FromThread]) -> None:
        self.answers: list[Any] = []
        self._make = make

    def handle(self, exchange: Any, proceed: Any) -> Any:
        try:
            self.answers.append((yield from AskThread(self._make)))
        except PortError as failure:
            self.answers.append(failure)
        return (yield from proceed(exchange))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_promise_kept_by_another_thread_wakes_the_loop(backend: str) -> None:
    layer = Threaded(lambda: FromThread(30))
    app = guarded(App().asgi, [layer])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                server = Server()
                tasks.start_soon(app, http_scope(), server.receive, server.send)

    anyio.run(main, backend=backend)
    assert layer.answers == ["kept"] * 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_promise_that_nobody_keeps_fails_at_its_deadline(backend: str) -> None:
    layer = Threaded(lambda: FromThread(0.01, answers=False))
    server = Server()
    anyio.run(partial(guarded(App().asgi, [layer]), http_scope(), server.receive, server.send), backend=backend)
    assert isinstance(layer.answers[0], PortTimeout)
    assert layer.answers[0].port == "threaded"


def test_a_promise_that_fails_raises_in_the_layer() -> None:
    layer = Threaded(lambda: FromThread(30, fails=PortError("threaded", "no")))
    server = Server()
    anyio.run(guarded(App().asgi, [layer]), http_scope(), server.receive, server.send)
    assert isinstance(layer.answers[0], PortError)


def test_one_guard_serves_two_loops_in_two_threads() -> None:
    layer = Threaded(lambda: FromThread(30))
    app = guarded(App().asgi, [Holding(), layer], till=Till())

    async def serve() -> None:
        for _ in range(20):
            server = Server()
            await app(http_scope(), server.receive, server.send)
            assert server.bodies == [b"hello ", b"world", b""]

    threads = [threading.Thread(target=anyio.run, args=(serve,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.answers == ["kept"] * 40


def test_a_closed_loop_is_not_kept_alive() -> None:
    layer = Threaded(lambda: FromThread(30))
    server_app = guarded(App().asgi, [layer])
    loops: list[Any] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        server = Server()
        await server_app(http_scope(), server.receive, server.send)

    anyio.run(main)
    gc.collect()
    assert loops[0]() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_async_user_code_is_awaited_and_plain_user_code_runs_in_a_worker(backend: str) -> None:
    threads: list[int] = []

    async def soon() -> str:
        await idle()
        return "soon"

    def starts() -> Awaitable[str]:
        return soon()

    def here() -> str:
        threads.append(threading.get_ident())
        return "now"

    answers: list[Any] = []

    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            answers.append((yield from ask(soon)))
            answers.append((yield from ask(starts)))
            answers.append((yield from ask(here)))
            answers.append((yield from ask(here, inline=True)))
            answers.append((yield from compute(here, 10)))
            answers.append((yield from compute(here, 1_000_000)))
            return (yield from proceed(exchange))

    server = Server()
    anyio.run(partial(guarded(App().asgi, [Asks()]), http_scope(), server.receive, server.send), backend=backend)
    assert answers == ["soon", "soon", "now", "now", "now", "now"]
    mine = threading.get_ident()
    assert [thread == mine for thread in threads] == [False, True, True, False]


@check
async def closed(exchange: Any) -> Any:
    await idle()
    return refusal("closed", 403)


def test_an_async_check_is_awaited() -> None:
    server = Server()
    anyio.run(guarded(App().asgi, [closed]), http_scope(), server.receive, server.send)
    assert server.sent[0]["status"] == 403


# --- disconnects ---


def draining(*, on: OnDisconnect = OnDisconnect.DRAIN) -> Any:
    class Drains:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            exchange.on_disconnect = on
            return (yield from proceed(exchange))

    return Drains()


class LikeStarlette:
    """Streams while another task listens for the disconnect, as StreamingResponse does before ASGI 2.4."""

    def __init__(self, chunks: int, server: Server, leave_at: int) -> None:
        self.made = 0
        self.heard_after: int | None = None
        self._chunks = chunks
        self._server = server
        self._leave_at = leave_at

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        self.heard_after = self.made
                        tasks.cancel_scope.cancel()
                        return

            async def stream() -> None:
                await send(start())
                for number in range(self._chunks):
                    if number == self._leave_at:
                        self._server.left.set()
                        await idle()
                    self.made += 1
                    await send(body(b"%d" % number, more=True))
                    await idle()
                await send(body(b""))
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            await stream()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_drained_application_does_not_hear_that_its_client_left(backend: str) -> None:
    till, watching = Till(), Watching()
    servers: list[Server] = []
    apps: list[LikeStarlette] = []

    async def main() -> None:
        server = Server(await empty_body())
        app = LikeStarlette(5, server, 2)
        servers.append(server)
        apps.append(app)
        await guarded(app, [watching, draining(), Holding()], till=till)(http_scope(), server.receive, server.send)

    anyio.run(main, backend=backend)
    assert apps[0].made == 5
    assert apps[0].heard_after in {None, 5}  # at most when everything was settled
    assert servers[0].bodies == [b"0", b"1"]
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", True)
    assert till.held == set()


@pytest.mark.parametrize("on", [OnDisconnect.VOID, OnDisconnect.OBSERVED])
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_drain_the_application_hears_that_its_client_left(backend: str, on: OnDisconnect) -> None:
    till, watching = Till(), Watching()

    async def main() -> None:
        server = Server(await empty_body())
        app = LikeStarlette(5, server, 2)
        layers = [watching, draining(on=on), Holding()]
        await guarded(app, layers, till=till)(http_scope(), server.receive, server.send)
        assert app.heard_after == 2

    anyio.run(main, backend=backend)
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", False)
    assert till.held == set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_application_that_waits_for_the_disconnect_hears_it_at_the_bound(backend: str) -> None:
    till, watching = Till(), Watching()
    places: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"one", more=True))
        assert (await receive())["type"] == "http.disconnect"
        assert till.endings == ["left"]  # the drain ended there, whatever the application does now
        places.append(guard.guard.start_drain())
        assert (await receive())["type"] == "http.disconnect"

    guard = guarded(app, [watching, draining(), Holding()], till=till, drain_s=0.01, drains_max=1)

    async def main() -> None:
        server = Server()
        server.left.set()
        await guard(http_scope(), server.receive, server.send)

    anyio.run(main, backend=backend)
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", False)
    assert places == [True]


@pytest.mark.parametrize("headed", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_sent_after_the_bound_stops_the_application(backend: str, *, headed: bool) -> None:
    """The drain ended in ``receive``: a head is cut as a body is, and no layer is asked about it."""
    till, watching = Till(), Watching()
    cut: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if headed:
            await send(start())
        assert (await receive())["type"] == "http.disconnect"
        for message in (body(b"late"),) if headed else (start(), body(b"late")):
            with pytest.raises(ResponseCut, match="the client left"):
                await send(message)
            cut.append(message["type"])
        await send(body(b"last"))

    sent: list[Any] = []

    async def main() -> None:
        server = Server()
        server.left.set()
        guard = guarded(app, [watching, draining(), Holding()], till=till, drain_s=0.01)
        await guard(http_scope(), server.receive, server.send)
        sent.extend(server.sent)

    anyio.run(main, backend=backend)
    assert cut == [*([] if headed else ["http.response.start"]), "http.response.body"]
    assert (watching.outcome.ending, watching.outcome.ended, watching.outcome.status) == ("left", False, 200 * headed)
    assert till.endings == ["left"]
    assert [message["type"] for message in sent] == ["http.response.start"] * headed


def test_the_client_is_looked_for_at_the_settling_point_and_what_was_read_is_replayed() -> None:
    """The application never calls ``receive`` before its end, so only the driver can see that its client has left."""
    till, watching = Till(), Watching()
    later: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"all"))
        later.extend([await receive(), await receive()])

    async def main() -> None:
        server = Server(await empty_body())
        server.left.set()
        await guarded(app, [watching, Holding()], till=till)(http_scope(), server.receive, server.send)

    anyio.run(main)
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", True)
    assert [message["type"] for message in later] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_client_that_is_there_is_waited_for_no_longer_than_a_moment(backend: str) -> None:
    till, watching = Till(), Watching()
    later: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"request"
        await send(start())
        await send(body(b"all"))
        servers[0].left.set()
        later.append(await receive())

    servers: list[Server] = []

    async def main() -> None:
        servers.append(Server({"type": "http.request", "body": b"request", "more_body": False}))
        await guarded(app, [watching, Holding()], till=till)(http_scope(), servers[0].receive, servers[0].send)
        await idle()
        if backend == "asyncio":
            assert len(asyncio.all_tasks()) == 1

    anyio.run(main, backend=backend)
    assert watching.outcome.ending == "completed"
    assert [message["type"] for message in later] == ["http.disconnect"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leaves", [True, False])
def test_an_application_may_begin_to_read_while_the_client_is_looked_for(backend: str, *, leaves: bool) -> None:
    till, watching = Till(), Watching()
    heard: list[str] = []

    async def main() -> None:
        server = Server(await empty_body())
        reading = anyio.Event()

        async def receive() -> Any:
            message = await server.receive()
            reading.set()
            return message

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with anyio.create_task_group() as tasks:

                async def listen() -> None:
                    await reading.wait()
                    while not heard or heard[-1] != "http.disconnect":
                        heard.append((await receive())["type"])

                tasks.start_soon(listen)
                await idle()
                await send(start())
                if leaves:
                    server.left.set()
                await send(body(b"all"))
                server.left.set()

        await guarded(app, [watching, Holding()], till=till)(http_scope(), receive, server.send)

    anyio.run(main, backend=backend)
    assert heard == ["http.request", "http.disconnect"]
    assert till.endings == ["left" if leaves else "completed"]
    assert len(watching.outcomes) == 1


def test_a_drain_without_anything_to_charge_is_none() -> None:
    watching = Watching()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        assert (await receive())["type"] == "http.disconnect"

    async def main() -> None:
        server = Server()
        server.left.set()
        await guarded(app, [watching, draining()])(http_scope(), server.receive, server.send)

    anyio.run(main)
    assert watching.outcome.ending == "left"


def test_nobody_looks_for_the_client_where_nothing_depends_on_it() -> None:
    ended: list[Outcome] = []

    class Resolves:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            exchange.resolve(ended.append)
            return (yield from proceed(exchange))

    async def receive() -> Any:
        raise AssertionError("nobody asked")

    server = Server()
    anyio.run(guarded(App().asgi, [Resolves()]), http_scope(), receive, server.send)
    assert [outcome.ending for outcome in ended] == ["completed"]


def test_looking_for_the_client_leaves_no_task_behind() -> None:
    async def main() -> None:
        server = Server()
        await guarded(App().asgi, [Holding()], till=Till())(http_scope(), server.receive, server.send)
        await idle()
        assert len(asyncio.all_tasks()) == 1

    anyio.run(main)


def test_a_drain_ends_at_its_bound_whatever_the_application_makes_of_it() -> None:
    till, watching = Till(), Watching()
    ports = memory_ports()
    ports.limits = till  # type: ignore[assignment]
    ended: list[list[str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"one", more=True))
        ports.system.clock.advance(31)  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(ResponseCut):
                await send(body(b"two", more=True))
            ended.append(list(till.endings))

    async def send(message: Any) -> None:
        if message.get("body"):
            raise ConnectionResetError

    guard = Guard([watching, draining(), Holding()], ports=ports, drain_s=30.0)
    anyio.run(ASGIGuard(app, guard=guard), http_scope(), never, send)
    assert ended == [["left"], ["left"]]
    assert watching.outcome.received == 6


def test_an_application_that_is_stopped_while_a_drain_ends_waits_for_its_settling() -> None:
    """The task that hears of the bound settles, and the application stops that task when its own ``send`` fails."""
    notes: list[str] = []

    class Slow:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            async def settle() -> None:
                settling.set()
                await go_on.wait()
                notes.append("settled")

            def end(outcome: Outcome) -> Any:
                yield from ask(settle)

            exchange.on_disconnect = OnDisconnect.DRAIN
            exchange.resolve(end)
            exchange.observe(lambda outcome: notes.append("observed"))
            return (yield from proceed(exchange))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        listening = asyncio.ensure_future(receive())
        await settling.wait()
        try:
            await send(body(b"more", more=True))
        finally:
            listening.cancel()
            tasks.append(asyncio.ensure_future(commit()))

    async def commit() -> None:
        await idle(20)
        go_on.set()

    async def main() -> None:
        server = Server()
        server.left.set()
        guard = Guard([Slow()], ports=memory_ports(), drain_s=0.0)
        await ASGIGuard(app, guard=guard)(http_scope(), server.receive, server.send)
        notes.append("run over")

    tasks: list[asyncio.Task[None]] = []
    settling, go_on = asyncio.Event(), asyncio.Event()
    asyncio.run(main())
    assert notes == ["settled", "observed", "run over"]


def test_looking_for_the_client_leaves_a_body_that_nobody_reads_where_it_is() -> None:
    till = Till()
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    server = Server()
    anyio.run(guarded(App().asgi, [Holding()], till=till), http_scope(), receive, server.send)
    assert read == 1


def test_a_client_that_waits_for_100_continue_is_not_told_to_go_on() -> None:
    """A server answers ``receive`` with 100 Continue where the response has not started (RFC 9110 10.1.1)."""
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 1
        return await empty_body()

    server = Server()
    app = App(status=413, headers=[("content-length", "3")], chunks=[b"big"])
    scope = http_scope(headers=[(b"expect", b"100-continue")])
    anyio.run(guarded(app.asgi, [Holding()], till=Till()), scope, receive, server.send)
    assert server.sent[0]["status"] == 413
    assert read == 0


def test_a_client_that_leaves_while_its_body_is_read_ends_the_exchange_and_the_application_is_not_called() -> None:
    till, watching = Till(), Watching()

    class Reads:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from ReadBody(100)
            return (yield from proceed(exchange))

    app = App()
    server = Server({"type": "http.request", "body": b"a", "more_body": True})
    server.left.set()
    anyio.run(guarded(app.asgi, [watching, Holding(), Reads()], till=till), http_scope(), server.receive, server.send)
    assert app.calls == 0
    assert server.sent == []
    assert (watching.outcome.ending, watching.outcome.called) == ("left", False)
    assert till.endings == ["left"]


def test_an_application_that_never_ends_its_body_is_forwarded_so_and_is_no_success() -> None:
    till, watching = Till(), Watching()
    for headers in ((), ((b"content-length", b"9"),)):

        async def app(scope: Any, receive: Any, send: Any, headers: Any = headers) -> None:
            await send(start(headers=headers))
            await send(body(b"one", more=True))

        server = Server()
        anyio.run(guarded(app, [watching, Holding()], till=till), http_scope(), server.receive, server.send)
        assert server.sent[-1] == body(b"one", more=True)
    assert [outcome.ending for outcome in watching.outcomes] == ["failed", "failed"]
    assert {outcome.reason for outcome in watching.outcomes} == {"response.unfinished"}
    assert till.held == set()


def test_a_head_without_any_body_is_forwarded_too() -> None:
    watching = Watching()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=((b"content-length", b"9"),)))

    server = Server()
    anyio.run(guarded(app, [watching, Holding()], till=Till()), http_scope(), server.receive, server.send)
    assert [message["type"] for message in server.sent] == ["http.response.start"]
    assert watching.outcome.reason == "response.unfinished"


def test_an_application_that_answers_nothing_is_no_success() -> None:
    watching = Watching()

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    server = Server()
    anyio.run(guarded(app, [watching, Holding()], till=Till()), http_scope(), server.receive, server.send)
    assert server.sent == []
    assert (watching.outcome.reason, watching.outcome.status) == ("response.unfinished", 0)


# --- what a cut application may do ---


class CutAtOnce:
    rewrites = True

    def __init__(self, tail: bytes) -> None:
        self._tail = tail

    def feed(self, chunk: bytes) -> bytes | Cut:
        return Cut("test.cut", self._tail)

    def finish(self) -> bytes | Cut:
        return b""


class Cutting:
    def __init__(self, tail: bytes) -> None:
        self._tail = tail

    def handle(self, exchange: Any, proceed: Any) -> Any:
        response = yield from proceed(exchange)
        response.transforms.append(CutAtOnce(self._tail))
        return response


async def raises_another(send: Any) -> None:
    try:
        await send(body(b"x", more=True))
    except OSError:
        raise AppError from None


async def raises_a_group(send: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, body(b"x", more=True))


async def swallows(send: Any) -> None:
    for _ in range(3):
        with suppress(ResponseCut):
            await send(body(b"x", more=True))


@pytest.mark.parametrize("reaction", [raises_another, raises_a_group, swallows])
@pytest.mark.parametrize("tail", [b"", b"tail"])
def test_whatever_a_cut_application_makes_of_it_the_server_sees_the_cut_alone(reaction: Any, tail: bytes) -> None:
    """Starlette turns an OSError of ``send`` into its ClientDisconnect; task groups wrap it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await reaction(send)

    server = Server()
    run = partial(anyio.run, guarded(app, [Cutting(tail)]), http_scope(), server.receive, server.send)
    if tail:
        run()
        assert server.sent[-1] == body(b"tail")
    else:
        with pytest.raises(ResponseCut):
            run()
        assert len(server.sent) == 1


def test_a_failure_of_a_cut_application_that_has_nothing_to_do_with_it_is_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        with suppress(ResponseCut):
            await send(body(b"x", more=True))
        raise AppError

    server = Server()
    with pytest.raises(AppError):
        anyio.run(guarded(app, [Cutting(b"tail")]), http_scope(), server.receive, server.send)


def test_a_layers_failure_reaches_the_server_even_if_the_application_swallows_it() -> None:
    class Fails:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from proceed(exchange)
            raise AppError("a layer")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            with suppress(AppError):
                await send(start())

    watching, server = Watching(), Server()
    with pytest.raises(AppError, match="a layer"):
        anyio.run(guarded(app, [watching, Fails()]), http_scope(), server.receive, server.send)
    assert server.sent == []
    assert (watching.outcome.ending, watching.outcome.reason) == ("failed", "AppError")


def test_two_heads_or_a_body_before_the_head_are_the_applications_fault() -> None:
    async def twice(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(start())

    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send(body(b"x"))

    for app in (twice, early):
        server = Server()
        with pytest.raises(RuntimeError, match="the application"):
            anyio.run(guarded(app, [Holding()], till=Till()), http_scope(), server.receive, server.send)


@pytest.mark.parametrize("failing", ["http.response.start", "http.response.body"])
def test_a_failing_server_send_reaches_the_application(failing: str) -> None:
    watching = Watching()

    async def send(message: Any) -> None:
        if message["type"] == failing:
            raise BrokenPipeError

    app = App()
    with pytest.raises(BrokenPipeError):
        anyio.run(guarded(app.asgi, [watching]), http_scope(), never, send)
    assert isinstance(app.stopped, BrokenPipeError)
    assert watching.outcome.ending == "left"


def test_where_nobody_watches_the_server_is_awaited_itself_and_later_ends_are_told_of_every_byte() -> None:
    """Nothing of the driver's own stands between an unwatched response and the server, and all of it is counted."""
    awaited: list[object] = []
    watching = Watching()

    def send(message: Any) -> Any:
        awaited.append(future := asyncio.get_running_loop().create_future())
        future.set_result(None)
        return future

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sends = [send(start(headers=((b"content-length", b"7"),))), send(body(b"one", more=True))]
        assert sends == awaited
        for sent in sends:
            await sent
        current().observe(watching.outcomes.append)
        await send(body(b"more", more=True))

    class Passes:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            return (yield from proceed(exchange))

    anyio.run(guarded(app, [Passes()]), http_scope(), never, send)
    assert len(awaited) == 3
    assert (watching.outcome.ending, watching.outcome.received, watching.outcome.sent) == ("completed", 7, 7)


def test_an_application_that_fails_after_an_end_that_nobody_watched_fails_with_the_same_exception() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"all"))
        raise AppError

    server = Server()
    with pytest.raises(AppError):
        anyio.run(guarded(app, []), http_scope(), server.receive, server.send)
    assert server.bodies == [b"all"]


# --- success = "returned" ---

RETURNED = [Route(match="/**", success=Success.RETURNED)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_returned_route_waits_for_background_work(backend: str) -> None:
    till = Till()
    server = Server()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=((b"content-length", b"3"),)))
        await send(body(b"all"))
        await idle()
        assert server.sent == []
        assert len(till.held) == 1

    guard = guarded(app, [Holding()], till=till, routes=RETURNED)
    anyio.run(partial(guard, http_scope(), server.receive, server.send), backend=backend)
    assert server.bodies == [b"all"]
    assert till.endings == ["completed"]


@pytest.mark.parametrize("fault", [AppError(), type("Stop", (BaseException,), {})()])
def test_on_a_returned_route_a_failure_after_the_end_is_a_failure_and_the_same_exception(
    fault: BaseException,
) -> None:
    till, server = Till(), Server()
    app = App(fails="end", fault=fault)
    guard = guarded(app.asgi, [Holding()], till=till, routes=RETURNED)
    with pytest.raises(type(fault)) as caught:
        anyio.run(guard, http_scope(), server.receive, server.send)
    assert caught.value is fault
    assert server.bodies == [b"hello ", b"world"]
    assert till.endings == ["failed"]


class Signalling(Till):
    def __init__(self) -> None:
        super().__init__()
        self.ending = anyio.Event()

    def end(self, hold_id: bytes, name: str, outcome: Outcome) -> None:
        self.ending.set()
        super().end(hold_id, name, outcome)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_returned_route_waits_no_longer_than_its_bound(backend: str) -> None:
    till, server = Signalling(), Server()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"one", more=True))
        await send(body(b""))
        await till.ending.wait()
        await send(body(b"beyond the end"))
        raise AppError

    guard = guarded(app, [Holding()], till=till, routes=RETURNED, return_wait_s=0.01)
    with pytest.raises(AppError):
        anyio.run(partial(guard, http_scope(), server.receive, server.send), backend=backend)
    assert till.endings == ["completed"]
    assert server.sent[-2:] == [body(b""), body(b"beyond the end")]


def test_a_strict_failure_at_that_bound_breaks_off_and_says_so_to_application_and_server() -> None:
    till, server = Signalling(), Server()
    till.break_ending = PortError("till", "down")
    heard: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"one", more=True))
        await send(body(b""))
        await till.ending.wait()
        try:
            await send(body(b""))
        except ResponseCut as cut:
            heard.append(cut)

    guard = guarded(app, [Holding()], till=till, routes=RETURNED, return_wait_s=0.01)
    with pytest.raises(ResponseCut) as caught:
        anyio.run(guard, http_scope(), server.receive, server.send)
    assert caught.value is heard[0]
    assert server.bodies == [b"one"]


# --- the scope ---


async def scope_of(scope: dict[str, Any], layers: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    server = Server()
    await guarded(app, layers)(scope, server.receive, server.send)
    return found


def test_ways_around_the_guard_are_not_offered_to_the_application() -> None:
    extensions: dict[str, Any] = {
        "http.response.pathsend": {},
        "http.response.zerocopysend": {},
        "http.response.trailers": {},
    }
    scope = http_scope(extensions=extensions)
    inner = anyio.run(scope_of, scope, [Watching()])
    assert inner["extensions"] == {"http.response.trailers": {}}
    assert len(extensions) == 3
    assert anyio.run(scope_of, scope, [])["extensions"] is extensions


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
def test_an_application_that_takes_such_a_way_all_the_same_is_stopped(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({"type": kind, "path": "/etc/passwd"})

    server = Server()
    with pytest.raises(RuntimeError, match="not offered"):
        anyio.run(guarded(app, [Holding()], till=Till()), http_scope(), server.receive, server.send)
    assert len(server.sent) == 1


def test_a_guard_without_layers_lets_a_file_pass() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({"type": "http.response.pathsend", "path": "/x"})

    server = Server()
    anyio.run(guarded(app, []), http_scope(), server.receive, server.send)
    assert server.sent[1]["path"] == "/x"


def test_the_exchange_travels_in_the_state_and_the_outer_one_comes_back() -> None:
    watching, inner = Watching(), Watching()
    found: list[Any] = []
    state: dict[str, Any] = {"db": 1}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["theirs"] = 2
        found.append(scope["state"][STATE_KEY])
        await App().asgi(scope, receive, send)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await guarded(app, [inner])(scope, receive, send)
        found.append(scope["state"][STATE_KEY])

    server = Server()
    anyio.run(guarded(between, [watching]), http_scope(state=state), server.receive, server.send)
    assert found == [inner.exchanges[0], watching.exchanges[0]]
    assert (state["db"], state["theirs"]) == (1, 2)


def test_a_scope_of_an_unknown_type_passes_untouched() -> None:
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    scope = {"type": "something"}
    anyio.run(guarded(app, [Watching()]), scope, never, never)
    assert seen == [scope, never, never]


def test_headers_that_nobody_changed_are_the_servers_own() -> None:
    headers = [(b"a", b"b")]
    assert anyio.run(scope_of, http_scope(headers=headers), [Watching()])["headers"] is headers


class Upper:
    rewrites = True

    def feed(self, chunk: bytes) -> bytes | Cut:
        return chunk.upper()

    def finish(self) -> bytes | Cut:
        return b""


class Uppers:
    def handle(self, exchange: Any, proceed: Any) -> Any:
        response = yield from proceed(exchange)
        response.transforms.append(Upper())
        return response


def test_an_application_may_send_memoryviews() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({"type": "http.response.body", "body": memoryview(b"view")})

    server = Server()
    anyio.run(guarded(app, [Uppers()]), http_scope(), server.receive, server.send)
    assert server.bodies == [b"VIEW"]


def test_other_messages_of_the_application_pass() -> None:
    early = {"type": "http.response.early_hint", "links": []}
    trailers = {"type": "http.response.trailers", "headers": [], "more_trailers": False}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(early)
        await send({**start(), "trailers": True})
        await send(body(b"all"))
        await send(trailers)

    for layers in ([], [Holding()]):
        watching, server = Watching(), Server()
        anyio.run(guarded(app, [watching, *layers], till=Till()), http_scope(), server.receive, server.send)
        assert [server.sent[0], server.sent[-1]] == [early, trailers]
        assert watching.outcome.ending == "completed"


def test_trailers_of_a_body_that_was_rewritten_leave_without_what_they_tell() -> None:
    """They may be a digest of another body, or say what was taken out of it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**start(), "trailers": True})
        await send(body(b"all"))
        await send({"type": "http.response.trailers", "headers": [(b"x", b"all")], "more_trailers": False})

    server = Server()
    anyio.run(guarded(app, [Uppers()]), http_scope(), server.receive, server.send)
    assert b"".join(server.bodies) == b"ALL"
    assert server.sent[-1] == {"type": "http.response.trailers", "headers": [], "more_trailers": False}


# --- lifespan ---


class Lifespan:
    def __init__(self, *, fails_at: str = "") -> None:
        self.sent: list[str] = []
        self._fails_at = fails_at
        self._incoming = ["lifespan.startup", "lifespan.shutdown"]

    async def receive(self) -> Any:
        return {"type": self._incoming.pop(0)}

    async def send(self, message: Any) -> None:
        self.sent.append(message["type"])


async def lifespan_app(scope: Any, receive: Any, send: Any) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})


class Closing(Till):
    def __init__(self, fails: Exception | None = None) -> None:
        super().__init__()
        self.closed = 0
        self._fails = fails

    def close(self) -> None:
        self.closed += 1
        if self._fails is not None:
            raise self._fails


def test_lifespan_passes_through_and_closes_the_guard() -> None:
    till, server = Closing(), Lifespan()
    scope = {"type": "lifespan", "state": {}}
    anyio.run(guarded(lifespan_app, [Holding()], till=till), scope, server.receive, server.send)
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert till.closed == 1


def test_a_port_that_cannot_be_closed_does_not_disturb_the_applications_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    till, server = Closing(OSError("secret")), Lifespan()
    anyio.run(guarded(lifespan_app, [], till=till), {"type": "lifespan"}, server.receive, server.send)
    assert server.sent[-1] == "lifespan.shutdown.complete"
    assert "OSError" in caplog.text
    assert "secret" not in caplog.text


def test_an_application_without_lifespan_says_so_itself() -> None:
    fault = AppError()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise fault

    with pytest.raises(AppError) as caught:
        anyio.run(guarded(app, []), {"type": "lifespan"}, never, never)
    assert caught.value is fault


def test_a_guard_is_used_without_lifespan_and_after_it() -> None:
    till = Closing()
    app = guarded(App().asgi, [Holding()], till=till)
    for _ in range(2):
        server = Server()
        anyio.run(app, http_scope(), server.receive, server.send)
        assert server.bodies[-1] == b""
        app.guard.close()
    assert till.closed == 2


def test_a_guard_takes_either_a_guard_or_layers() -> None:
    for arguments in ({}, {"guard": Guard([], ports=memory_ports()), "layers": []}):
        with pytest.raises(ConfigurationError, match=r"guard=.* or layers="):
            ASGIGuard(App().asgi, **arguments)  # type: ignore[arg-type]


def test_layers_alone_make_a_guard() -> None:
    server = Server()
    anyio.run(ASGIGuard(App().asgi, layers=[Watching()]), http_scope(), server.receive, server.send)
    assert server.bodies == [b"hello ", b"world", b""]


# --- WebSocket ---


class Socket:
    """A server's side of a WebSocket."""

    def __init__(self, *incoming: Any, denial: bool = False) -> None:
        self.incoming = [{"type": "websocket.connect"}, *incoming]
        self.sent: list[Any] = []
        self.scope = {
            **http_scope(),
            "type": "websocket",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}} if denial else {},
        }
        del self.scope["method"]

    async def receive(self) -> Any:
        return self.incoming.pop(0) if self.incoming else await never()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.sent]

    def serve(self, app: Any, layers: list[Any], till: Till | None = None) -> None:
        anyio.run(guarded(app, layers, till=till), self.scope, self.receive, self.send)


def leaves(code: int) -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


def text(data: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": data}


@pytest.mark.parametrize(
    ("code", "ending", "reason"),
    [
        (1000, "completed", None),
        (1001, "completed", None),
        (1005, "left", "websocket.1005"),
        (1006, "left", "websocket.1006"),
    ],
)
def test_a_socket_ends_as_its_client_closes_it(code: int, ending: str, reason: str | None) -> None:
    till, watching = Till(), Watching()
    socket = Socket(text("a"), text("é"), leaves(code))
    socket.serve(echo, [watching, Holding()], till)
    assert socket.kinds == ["websocket.accept", "websocket.send", "websocket.send"]
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.status, outcome.called) == (ending, reason, 101, True)
    assert (outcome.received, outcome.sent) == (3, 3)
    assert till.endings == [ending]


@pytest.mark.parametrize(
    ("close", "ending", "reason"),
    [
        ({"code": 1000}, "completed", None),
        ({}, "completed", None),
        ({"code": 1011}, "failed", "websocket.1011"),
    ],
)
def test_a_socket_ends_as_the_application_closes_it_and_what_it_took_has_ended_before(
    close: dict[str, Any], ending: str, reason: str | None
) -> None:
    till, watching = Till(), Watching()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"1234"})
        assert len(till.held) == 1
        await send({"type": "websocket.close", **close})

    socket = Socket()
    seen: list[int] = []
    original = socket.send

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            seen.append(len(till.held))
        await original(message)

    socket.send = send  # type: ignore[method-assign]
    socket.serve(app, [watching, Holding()], till)
    assert seen == [0]
    assert (watching.outcome.ending, watching.outcome.reason, watching.outcome.sent) == (ending, reason, 4)


def test_a_socket_that_the_application_never_closes_is_no_success() -> None:
    watching = Watching()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    Socket().serve(app, [watching])
    assert (watching.outcome.ending, watching.outcome.reason) == ("failed", "response.unfinished")


@pytest.mark.parametrize("accepts", [True, False])
def test_a_socket_whose_application_fails_is_a_failure_and_the_same_exception(*, accepts: bool) -> None:
    till, watching, fault = Till(), Watching(), AppError()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if accepts:
            await send({"type": "websocket.accept"})
        raise fault

    with pytest.raises(AppError) as caught:
        Socket().serve(app, [watching, Holding()], till)
    assert caught.value is fault
    assert (watching.outcome.ending, watching.outcome.reason) == ("failed", "AppError")
    assert till.held == set()


def test_a_refused_socket_is_closed_with_1008() -> None:
    till, watching, app = Till(), Watching(), App()
    till.refuse = True
    socket = Socket()
    socket.serve(app.asgi, [watching, Holding()], till)
    assert socket.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert socket.incoming == []  # the connect was taken
    assert app.calls == 0
    assert (watching.outcome.ending, watching.outcome.reason, watching.outcome.status) == (
        "refused",
        "till.empty",
        402,
    )


def test_a_refused_socket_gets_a_denial_response_where_the_server_can() -> None:
    till = Till()
    till.refuse = True
    socket = Socket(denial=True)
    socket.serve(App().asgi, [Holding()], till)
    assert socket.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert socket.sent[0]["status"] == 402
    assert b"till.empty" in socket.sent[1]["body"]


def test_a_port_that_fails_refuses_a_socket() -> None:
    till = Till()
    till.break_taking = PortError("till", "down")
    socket = Socket(denial=True)
    socket.serve(App().asgi, [Holding()], till)
    assert socket.sent[0]["status"] == 503


def test_a_layer_may_refuse_a_socket_when_the_application_accepts_it() -> None:
    class Refuses:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            assert response.status == 101
            return exchange.deny(refusal("test.no", 403))

    till, watching = Till(), Watching()
    socket = Socket(text("a"), leaves(1006))
    socket.serve(echo, [watching, Holding(), Refuses()], till)
    assert socket.kinds == ["websocket.close"]
    assert (watching.outcome.ending, watching.outcome.reason) == ("cut", "test.no")
    assert till.held == set()


def test_a_layers_headers_are_on_the_accept_message() -> None:
    class Adds:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            response.headers.set("x-a", "b")
            return response

    socket = Socket(leaves(1000))
    socket.serve(echo, [Adds()])
    assert socket.sent[0]["headers"] == [(b"x-a", b"b")]


def test_frames_are_never_sent_past_a_transform_that_would_have_rewritten_them() -> None:
    socket = Socket(text("a"), leaves(1006), denial=True)
    socket.serve(echo, [Cutting(b"")])
    assert socket.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert socket.sent[0]["status"] == 502


class Shouting:
    """Capital letters towards the application, a mark towards the client; ``!`` inward or ``?`` outward is cut."""

    def __init__(self, work: int = 1, fault: Exception | None = None) -> None:
        self.work = work
        self._fault = fault

    def handle(self, exchange: Any, proceed: Any) -> Any:
        response = yield from proceed(exchange)
        response.frames = (*response.frames, self)
        return response

    def inbound(self, message: str | bytes) -> str | bytes | Cut:
        if "!" in str(message):
            return Cut("test.loud", code=1008)
        return message.upper()

    def outbound(self, message: str | bytes) -> str | bytes | Cut:
        if "?" in str(message):
            if self._fault is not None:
                raise self._fault
            return Cut("test.question")
        return message + "." if isinstance(message, str) else message + b"."


@pytest.mark.parametrize("work", [1, 1_000_000])
def test_messages_pass_the_frames_whole_in_both_directions(work: int) -> None:
    watching, heard = Watching(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(2):
            message = await receive()
            heard.append(message)
            await send({**message, "type": "websocket.send"})
        heard.append(await receive())

    socket = Socket(
        text("é"), {"type": "websocket.receive", "bytes": b"b", "text": None}, {**leaves(1000), "reason": "r"}
    )
    socket.serve(app, [watching, Shouting(work), Shouting(work)])
    assert heard == [
        {"type": "websocket.receive", "text": "É"},
        {"type": "websocket.receive", "bytes": b"B"},
        {"type": "websocket.disconnect", "code": 1000, "reason": "R"},
    ]
    assert socket.sent[1:] == [{"type": "websocket.send", "text": "É.."}, {"type": "websocket.send", "bytes": b"B.."}]
    assert (watching.outcome.ending, watching.outcome.received, watching.outcome.sent) == ("completed", 3, 7)


def test_both_kinds_of_data_in_one_message_never_pass_beside_each_other() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"b", "text": "raw"})
        await send({"type": "websocket.close", "reason": "é" * 61})

    socket = Socket()
    socket.serve(app, [Shouting()])
    assert socket.sent[1] == {"type": "websocket.send", "bytes": b"b."}
    assert socket.sent[2]["reason"] == "é" * 61 + "."
    socket = Socket()
    socket.serve(app, [Shouting(), Shouting()])
    assert socket.sent[2]["reason"] == ""


@pytest.mark.parametrize("fault", [None, ValueError("raw")])
def test_a_message_that_is_cut_closes_the_socket_and_stops_the_application(fault: Exception | None) -> None:
    till, watching, stopped = Till(), Watching(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for data in ("fine", "what?", "more"):
            try:
                await send({"type": "websocket.send", "text": data})
            except OSError as stop:
                stopped.append(stop)
        stopped.append(await receive())
        raise RuntimeError("stopped") from stopped[0]

    socket = Socket(text("a"))
    socket.serve(app, [watching, Holding(), Shouting(fault=fault)], till)
    assert socket.sent[1:] == [
        {"type": "websocket.send", "text": "fine."},
        {"type": "websocket.close", "code": 1011, "reason": ""},
    ]
    assert len(stopped) == 3
    assert stopped[2]["code"] == 1011
    reason = "test.question" if fault is None else "frames.ValueError"
    assert (watching.outcome.ending, watching.outcome.reason) == ("cut", reason)
    assert till.endings == ["cut"]


def test_a_message_of_the_clients_that_is_cut_is_a_disconnect_to_the_application() -> None:
    watching, heard = Watching(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(3):
            heard.append(await receive())
        await send({"type": "websocket.send", "text": "late"})

    socket = Socket(text("loud!"), text("raw"))
    socket.serve(app, [watching, Shouting()])
    assert [message["type"] for message in heard[1:]] == ["websocket.disconnect"] * 2
    assert socket.sent[1:] == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert (watching.outcome.ending, watching.outcome.reason) == ("cut", "test.loud")


def test_a_receive_that_is_cancelled_while_its_message_is_rewritten_loses_nothing() -> None:
    begun, go, heard = threading.Event(), threading.Event(), []

    class Waits(Shouting):
        def inbound(self, message: str | bytes) -> str | bytes | Cut:
            begun.set()
            assert go.wait(10)
            return message.upper()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        first = asyncio.ensure_future(receive())
        await anyio.to_thread.run_sync(begun.wait)
        first.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        heard.append(await receive())
        await send({"type": "websocket.close"})

    Socket(text("a")).serve(app, [Waits(1_000_000)])
    assert heard == [{"type": "websocket.receive", "text": "A"}]


def test_an_application_may_refuse_a_socket_itself() -> None:
    async def closes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 4000})

    async def denies(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    for app, reason, status in ((closes, "response.unfinished", 0), (denies, "response.status", 403)):
        till, watching, socket = Till(), Watching(), Socket(denial=True)
        socket.serve(app, [watching, Holding()], till)
        assert (watching.outcome.ending, watching.outcome.reason) == ("failed", reason)
        assert watching.outcome.status == status
        assert till.endings == ["failed"]


def test_what_an_application_answers_a_socket_with_ends_as_any_response() -> None:
    async def redirects(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 307, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"els", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"ewhere"})

    till, watching, socket = Till(), Watching(), Socket(denial=True)
    socket.serve(redirects, [watching, Holding()], till)
    outcome = watching.outcome
    assert (outcome.ending, outcome.status, outcome.received, outcome.sent) == ("completed", 307, 9, 9)
    assert [message["body"] for message in socket.sent[1:]] == [b"els", b"ewhere"]


@pytest.mark.parametrize("first", ["accept", "close", "http.response.start"])
@pytest.mark.parametrize("second", ["accept", "http.response.start"])
def test_a_socket_that_is_answered_twice_is_the_applications_fault(first: str, second: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": f"websocket.{first}", "status": 403, "headers": []})
        await send({"type": f"websocket.{second}", "status": 403, "headers": []})

    socket = Socket(denial=True)
    with pytest.raises(RuntimeError, match="the application started its response twice"):
        socket.serve(app, [Holding()], Till())
    assert socket.kinds == [f"websocket.{first}"]


@pytest.mark.parametrize("tail", [b"", b"end"])
def test_what_an_application_refuses_a_socket_with_passes_the_transforms(tail: bytes) -> None:
    async def denies(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": [(b"content-length", b"6")]})
        await send({"type": "websocket.http.response.body", "body": b"raw", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"raw"})

    watching, socket = Watching(), Socket(denial=True)
    socket.serve(denies, [watching, Cutting(tail)])
    assert socket.sent[0]["headers"] == []
    assert socket.sent[1:] == [{"type": "websocket.http.response.body", "body": tail, "more_body": False}]
    assert watching.outcome.ending == "cut"


def test_a_client_that_leaves_before_it_was_accepted_has_left() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    watching = Watching()
    Socket(leaves(1006)).serve(app, [watching])
    assert watching.outcome.ending == "left"


def test_current_and_state_know_the_sockets_exchange() -> None:
    watching = Watching()
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.extend([current(), scope["state"][STATE_KEY], current().request.protocol])
        await send({"type": "websocket.close"})

    Socket().serve(app, [watching])
    assert found == [watching.exchanges[0], watching.exchanges[0], "websocket"]
    with pytest.raises(LookupError):
        current()


def test_a_cancelled_socket_ends_what_it_took() -> None:
    till, watching = Till(), Watching()

    async def main() -> None:
        socket = Socket()
        with anyio.CancelScope() as scope:

            async def app(*given: Any) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await guarded(app, [watching, Holding()], till=till)(socket.scope, socket.receive, socket.send)

    anyio.run(main)
    assert till.held == set()
    assert watching.outcome.ending == "failed"


def test_reading_the_body_of_a_socket_gives_an_empty_one() -> None:
    bodies: list[Any] = []

    class Reads:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            bodies.append((yield from ReadBody(10)))
            return (yield from proceed(exchange))

    Socket(leaves(1000)).serve(echo, [Reads()])
    assert bodies[0].data == b""


def test_an_unused_response_class_is_no_way_to_stop_a_layer() -> None:
    """A layer that returns nothing is told so at connect as well."""

    class Nothing:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from proceed(exchange)

    with pytest.raises(LayerError, match=Response.__name__):
        Socket().serve(echo, [Nothing()])
