"""A guard that has nothing to do changes nothing: generated applications, bare and guarded, before one server."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.asgi import ASGIGuard
from tenantguard.flow.layer import check, observe
from tenantguard.guard import Guard
from tenantguard.layers.audit import Audit
from tenantguard.layers.charge import Charge
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.layers.redaction import Redaction
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.policy import EMPTY_POLICY
from tenantguard.testing import memory_ports
from tenantguard.wsgi import WSGIGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Passing:
    def handle(self, exchange: Any, proceed: Any) -> Any:
        return (yield from proceed(exchange))


@check
def nothing(exchange: Any) -> None:
    return None


@observe
def ignored(exchange: Any, outcome: Any) -> None: ...


def no_detector(section: object) -> Any:
    raise AssertionError("no policy redacts")


STACKS: dict[str, Callable[[], list[Any]]] = {
    "no layer": list,
    "layers that do nothing": lambda: [Passing(), nothing, ignored, Passing()],
    "the built-in layers without a policy": lambda: [
        Audit(),
        TenantContext(mode="single"),
        RateLimit(),
        Redaction(no_detector, b"k" * 32),
        Charge(PriceTable({})),
    ],
}
NO_POLICY = StaticPolicies({}, fallback=EMPTY_POLICY)
GUARDS = {name: Guard(make(), ports=memory_ports(policies=NO_POLICY)) for name, make in STACKS.items()}
any_guard = pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS.keys())


class FaultError(Exception):
    pass


class BaseFaultError(BaseException):
    pass


FAULTS: list[Callable[[], BaseException]] = [
    FaultError,
    BaseFaultError,
    OSError,
    asyncio.CancelledError,
    SystemExit,
    KeyError,
]
STATUSES = [200, 201, 204, 304, 404, 500, 299]
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "x-a", "X-B", "set-cookie", "etag", "content-length", "content-encoding"]),
        st.sampled_from(["a", "b", "3", "0"]),
    ),
    max_size=4,
)
CHUNKS = st.lists(st.binary(max_size=4), max_size=5)


# --- ASGI ---


@dataclass(frozen=True)
class Asgi:
    """What an application does, step by step."""

    reads: int
    status: int
    headers: list[tuple[str, str]]
    chunks: list[bytes]
    end: str  # "empty", "last", "bare" (neither body nor more_body), "never", "trailers"
    fails_at: int | None
    fault: Callable[[], BaseException]
    reads_late: bool
    early: bool
    leaves: int | None  # the client, after so many messages


ASGI_APPS = st.builds(
    Asgi,
    reads=st.integers(0, 3),
    status=st.sampled_from(STATUSES),
    headers=HEADERS,
    chunks=CHUNKS,
    end=st.sampled_from(["empty", "last", "bare", "never", "trailers"]),
    fails_at=st.none() | st.integers(0, 8),
    fault=st.sampled_from(FAULTS),
    reads_late=st.booleans(),
    early=st.booleans(),
    leaves=st.none() | st.integers(0, 5),
)


@dataclass
class Log:
    """What a server saw, and what the application saw of it."""

    sent: list[Any] = field(default_factory=list)
    received: list[Any] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    raised: BaseException | None = None
    fault: BaseException | None = None

    def compared(self) -> Any:
        raised = type(self.raised), None if self.raised is None else self.raised is self.fault
        return self.sent, self.received, self.scope, raised


def asgi_app(what: Asgi, log: Log) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        log.scope = {name: value for name, value in scope.items() if name != "state"}
        steps = 0

        async def step(message: Any = None) -> None:
            nonlocal steps
            if what.fails_at == steps:
                log.fault = what.fault()
                raise log.fault
            steps += 1
            if message is not None:
                await send(message)

        for _ in range(what.reads):
            await step()
            log.received.append(await receive())
        if what.early:
            await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        headers = [(key.encode(), value.encode()) for key, value in what.headers]
        start = {"type": "http.response.start", "status": what.status, "headers": headers}
        await step({**start, "trailers": True} if what.end == "trailers" else start)
        for position, chunk in enumerate(what.chunks):
            last = what.end == "last" and position == len(what.chunks) - 1
            await step({"type": "http.response.body", "body": chunk, "more_body": not last})
        if what.end in {"empty", "trailers"}:
            await step({"type": "http.response.body", "body": b"", "more_body": False})
        if what.end == "bare":
            await step({"type": "http.response.body"})
        if what.end == "trailers":
            await step({"type": "http.response.trailers", "headers": [], "more_trailers": False})
        if what.reads_late:
            log.received.append(await receive())
        await step()

    return app


async def serve(wrap: Callable[[Any], Any], what: Asgi) -> Log:
    log = Log()
    incoming = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": False},
    ]

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if what.leaves is not None and len(log.sent) >= what.leaves:
            log.fault = BrokenPipeError("gone")
            raise log.fault
        log.sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"q=1",
        "root_path": "",
        "headers": [(b"content-length", b"3"), (b"x-a", b"b")],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
        "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
    }
    try:
        await wrap(asgi_app(what, log))(scope, receive, send)
    except BaseException as failure:  # noqa: BLE001 - a server sees everything
        log.raised = failure
    return log


@any_guard
@settings(max_examples=60, deadline=None)
@given(what=ASGI_APPS)
def test_a_guard_that_has_nothing_to_do_changes_nothing_under_asgi(guard: Guard, what: Asgi) -> None:
    async def both() -> tuple[Log, Log]:
        return await serve(lambda app: app, what), await serve(lambda app: ASGIGuard(app, guard=guard), what)

    bare, guarded = asyncio.run(both())
    assert guarded.compared() == bare.compared()


@dataclass(frozen=True)
class Span:
    startup: str  # "complete", "failed", "raises", "silent"
    shutdown: str
    state: bool


SPANS = st.builds(
    Span,
    startup=st.sampled_from(["complete", "failed", "raises"]),
    shutdown=st.sampled_from(["complete", "failed", "raises"]),
    state=st.booleans(),
)


@any_guard
@settings(max_examples=30, deadline=None)
@given(span=SPANS)
def test_a_guard_that_has_nothing_to_do_changes_nothing_in_a_lifespan(guard: Guard, span: Span) -> None:
    async def run(wrap: Callable[[Any], Any]) -> Log:
        log = Log()
        incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for what in (span.startup, span.shutdown):
                message = await receive()
                log.received.append(message)
                if what == "raises":
                    log.fault = FaultError()
                    raise log.fault
                if "state" in scope:
                    scope["state"][message["type"]] = 1
                await send({"type": f"{message['type']}.{what}", "message": "why"})
                if what == "failed":
                    return

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            log.sent.append(message)

        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}}
        if span.state:
            scope["state"] = {}
        try:
            await wrap(app)(scope, receive, send)
        except FaultError as failure:
            log.raised = failure
        log.scope = scope
        return log

    async def both() -> tuple[Log, Log]:
        return await run(lambda app: app), await run(lambda app: ASGIGuard(app, guard=guard))

    bare, guarded = asyncio.run(both())
    assert guarded.compared() == bare.compared()


@any_guard
@settings(max_examples=25, deadline=None)
@given(
    accepts=st.booleans(),
    frames=st.lists(st.text(max_size=3), max_size=3),
    closes=st.none() | st.sampled_from([1000, 1001, 1011, 4000]),
    fails=st.booleans(),
    leaves=st.booleans(),
)
def test_a_guard_that_has_nothing_to_do_changes_nothing_on_a_websocket(
    guard: Guard, *, accepts: bool, frames: list[str], closes: int | None, fails: bool, leaves: bool
) -> None:
    async def run(wrap: Callable[[Any], Any]) -> Log:
        log = Log()
        incoming: list[Any] = [{"type": "websocket.connect"}]
        incoming += [{"type": "websocket.receive", "text": frame} for frame in frames]
        incoming += [{"type": "websocket.disconnect", "code": 1006}]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            log.received.append(await receive())
            if accepts:
                await send({"type": "websocket.accept", "subprotocol": "x", "headers": [(b"a", b"b")]})
                for _ in frames:
                    message = await receive()
                    log.received.append(message)
                    await send({"type": "websocket.send", "text": message["text"]})
            if leaves:
                log.received.append(await receive())
            if fails:
                log.fault = FaultError()
                raise log.fault
            if closes is not None:
                await send({"type": "websocket.close", "code": closes, "reason": "why"})

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            log.sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "client": None,
            "extensions": {},
        }
        try:
            await wrap(app)(scope, receive, send)
        except FaultError as failure:
            log.raised = failure
        return log

    async def both() -> tuple[Log, Log]:
        return await run(lambda app: app), await run(lambda app: ASGIGuard(app, guard=guard))

    bare, guarded = asyncio.run(both())
    if leaves and not accepts:
        bare.received = bare.received[:2]
    assert guarded.compared() == bare.compared()


# --- WSGI ---


@dataclass(frozen=True)
class Wsgi:
    """What an application does, step by step."""

    shape: str  # "list", "tuple", "generator" (calls start_response when iterated), "iterator", "write"
    reads: bool
    status: int
    headers: list[tuple[str, str]]
    chunks: list[bytes]
    fails_at: int | None
    fault: Callable[[], BaseException]
    error_page_at: int | None
    close_fails: bool
    stops_after: int | None


WSGI_APPS = st.builds(
    Wsgi,
    shape=st.sampled_from(["list", "tuple", "generator", "iterator", "write"]),
    reads=st.booleans(),
    status=st.sampled_from(STATUSES),
    headers=HEADERS,
    chunks=CHUNKS,
    fails_at=st.none() | st.integers(0, 6),
    fault=st.sampled_from([FaultError, BaseFaultError, OSError, SystemExit, KeyError]),
    error_page_at=st.none() | st.integers(0, 6),
    close_fails=st.booleans(),
    stops_after=st.none() | st.integers(0, 4),
)


@dataclass
class WsgiLog:
    """As :class:`Log`. A head counts when it is sent: with the first bytes, or at the end (PEP 3333)."""

    head: Any = None
    sent_head: Any = None
    chunks: list[bytes] = field(default_factory=list)
    read: bytes = b""
    closed: int = 0
    raised: BaseException | None = None
    fault: BaseException | None = None
    length: int | None = None

    def compared(self) -> Any:
        raised = type(self.raised), None if self.raised is None else self.raised is self.fault
        return self.sent_head, self.chunks, self.read, self.closed, raised, self.length


def wsgi_app(what: Wsgi, log: WsgiLog) -> Any:
    def maybe_fail(step: int, start_response: Any) -> None:
        if what.fails_at == step:
            log.fault = what.fault()
            raise log.fault
        if what.error_page_at == step:
            log.fault = FaultError()
            try:
                raise log.fault
            except FaultError:
                start_response("500 Broken", [("x-page", "error")], sys.exc_info())

    class Chunks:
        def __init__(self, start_response: Any) -> None:
            self._chunks = make(start_response)

        def __iter__(self) -> Iterator[bytes]:
            return self._chunks

        def close(self) -> None:
            log.closed += 1
            if what.close_fails:
                if log.fault is None:
                    log.fault = FaultError()
                raise log.fault

    def make(start_response: Any) -> Iterator[bytes]:
        for position, chunk in enumerate(what.chunks):
            maybe_fail(position + 2, start_response)
            yield chunk

    def app(environ: Any, start_response: Any) -> Any:
        if what.reads:
            log.read = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        maybe_fail(0, start_response)
        if what.shape == "generator":
            return generate(start_response)
        write = start_response(f"{what.status} As it says", list(what.headers))
        maybe_fail(1, start_response)
        if what.shape == "list":
            return list(what.chunks)
        if what.shape == "tuple":
            return tuple(what.chunks)
        if what.shape == "write":
            for chunk in what.chunks:
                write(chunk)
            return []
        return Chunks(start_response)

    def generate(start_response: Any) -> Iterator[bytes]:
        start_response(f"{what.status} As it says", list(what.headers))
        yield from make(start_response)

    return app


def serve_wsgi(wrap: Callable[[Any], Any], what: Wsgi) -> WsgiLog:
    log = WsgiLog()

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and any(log.chunks):
            raise exc_info[1]
        assert exc_info is not None or log.head is None
        log.head = (status, list(headers))
        return write

    def write(chunk: bytes) -> None:
        log.sent_head = log.sent_head or (log.head if chunk else None)
        log.chunks.append(chunk)

    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a",
        "QUERY_STRING": "q=1",
        "CONTENT_LENGTH": "3",
        "HTTP_X_A": "b",
        "wsgi.input": BytesIO(b"abc"),
        "wsgi.url_scheme": "http",
    }
    iterable: Any = None
    try:
        try:
            iterable = wrap(wsgi_app(what, log))(environ, start_response)
            if what.shape != "write" and hasattr(iterable, "__len__"):  # else what was written comes before them
                log.length = len(iterable)
            for position, chunk in enumerate(iterable):
                if what.stops_after == position:
                    break
                write(chunk)
            else:
                log.sent_head = log.sent_head or log.head
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
    except BaseException as failure:  # noqa: BLE001 - a server sees everything
        log.raised = failure
    return log


def possible(what: Wsgi) -> bool:
    """Leave out an error page before there was a head, two faults in one run, and a server that stops reading what
    was given to ``write()``: that is buffered, which the driver's documentation says. And a fault behind empty chunks
    alone: the application is asked for its first bytes at once, so that these chunks are not given before it."""
    if what.shape == "write" and what.stops_after is not None:
        return False
    if what.fails_at is not None and what.fails_at > 2 and not any(what.chunks[: what.fails_at - 2]):
        return False
    return what.error_page_at is None or (what.error_page_at > 0 and what.fails_at is None)


@any_guard
@settings(max_examples=80, deadline=None)
@given(what=WSGI_APPS.filter(possible))
def test_a_guard_that_has_nothing_to_do_changes_nothing_under_wsgi(guard: Guard, what: Wsgi) -> None:
    bare = serve_wsgi(lambda app: app, what)
    guarded = serve_wsgi(lambda app: WSGIGuard(app, guard=guard), what)
    assert guarded.compared() == bare.compared()
