"""One application description, run under both drivers in process, as a server and its client see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import anyio

from tenantguard.asgi import ASGIGuard
from tenantguard.flow.exchange import current
from tenantguard.flow.ports import PortEffect
from tenantguard.guard import Guard
from tenantguard.model.route import OnDisconnect
from tenantguard.testing import memory_ports
from tenantguard.wsgi import WSGIGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.ports import Ports


class AppError(Exception):
    """What a failing application raises."""


@dataclass
class App:
    """An application: what it answers, where it fails, whether it reads its body, and what it saw.

    ``fails`` is the moment at which it raises ``fault``: ``"head"`` (before it), a number (before that chunk) or
    ``"end"`` (after its end). With ``whole`` its last chunk is its final message, else an empty one follows.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "text/plain"),)
    chunks: Sequence[bytes] = (b"hello ", b"world")
    fails: str | int | None = None
    fault: BaseException = field(default_factory=lambda: AppError("the app failed"))
    reads: bool = False
    whole: bool = False
    inside: Callable[[], Any] | None = None
    # what it saw
    calls: int = 0
    body: bytes | None = None
    request_headers: dict[str, str] = field(default_factory=dict)
    exchange: Exchange | None = None
    found: Any = None
    stopped: BaseException | None = None
    chunks_made: int = 0
    closed: int = 0

    def enter(self) -> None:
        self.calls += 1
        try:
            self.exchange = current()
        except LookupError:
            self.exchange = None
        if self.inside is not None:
            self.found = self.inside()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._asgi(scope, receive, send)
        except OSError as stop:
            self.stopped = stop
            raise

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.request_headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.enter()
        if self.reads:
            self.body = b""
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                self.body += message.get("body", b"")
                more = message.get("more_body", False)
        if self.fails == "head":
            raise self.fault
        lines = [(key.encode(), value.encode()) for key, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": lines})
        for position, chunk in enumerate(self.chunks):
            if self.fails == position:
                raise self.fault
            self.chunks_made += 1
            last = self.whole and position == len(self.chunks) - 1
            await send({"type": "http.response.body", "body": chunk, "more_body": not last})
        if self.fails == len(self.chunks):
            raise self.fault
        if not (self.whole and self.chunks):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.fails == "end":
            raise self.fault

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.request_headers = {
            name.removeprefix("HTTP_").lower().replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or (name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value)
        }
        self.enter()
        if self.reads:
            length = environ.get("CONTENT_LENGTH")
            self.body = environ["wsgi.input"].read(int(length) if length else 0)
        if self.fails == "head":
            raise self.fault
        start_response(f"{self.status} Whatever", list(self.headers))
        return _Iterable(self)


class _Iterable:
    def __init__(self, app: App) -> None:
        self._app = app
        self._chunks = self._make()

    def _make(self) -> Iterator[bytes]:
        app = self._app
        for position, chunk in enumerate(app.chunks):
            if app.fails == position:
                raise app.fault
            app.chunks_made += 1
            yield chunk
        if app.fails == len(app.chunks):
            raise app.fault

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._app.closed += 1
        if self._app.fails == "end":
            raise self._app.fault


@dataclass
class Seen:
    """What the server and the client saw. Chunks are those with bytes; ``probes`` stand beside them."""

    status: int = 0
    lines: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    probes: list[Any] = field(default_factory=list)
    head_probe: Any = None
    end_probe: Any = None
    heads: int = 0
    ended: bool = False
    broken: BaseException | None = None
    read: int = 0  # bytes of the request's body

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.lines if key.lower() == name]
        assert len(values) < 2, values
        return values[0] if values else None


class Till:
    """A fake store: what is held now, every settlement, and what should fail. It takes the place of a port."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        self.settled: list[tuple[str, Outcome]] = []
        self.refuse = False
        self.break_taking: Exception | None = None
        self.break_ending: Exception | None = None

    def take(self, hold_id: bytes) -> bool:
        if self.break_taking is not None:
            raise self.break_taking
        if self.refuse:
            return False
        self.held.add(hold_id)
        return True

    def end(self, hold_id: bytes, name: str, outcome: Outcome) -> None:
        if self.break_ending is not None:
            raise self.break_ending
        self.held.discard(hold_id)
        self.settled.append((name, outcome))

    @property
    def endings(self) -> list[str]:
        return [outcome.ending.value for _, outcome in self.settled]

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True)
class TakeFromTill(PortEffect[bool]):
    id: bytes

    def perform(self, ports: Ports) -> Any:
        return ports.limits.take(self.id)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class EndInTill(PortEffect[None]):
    id: bytes
    name: str
    outcome: Outcome

    def perform(self, ports: Ports) -> Any:
        return ports.limits.end(self.id, self.name, self.outcome)  # type: ignore[attr-defined]


class Holding:
    """Takes before the application runs, and ends what it took when the exchange ends."""

    def __init__(self, name: str = "holding", *, strict: bool = True) -> None:
        self.name = name
        self._strict = strict

    def handle(self, exchange: Exchange, proceed: Any) -> Any:
        hold_id = exchange.new_id()
        exchange.on_disconnect = exchange.on_disconnect or OnDisconnect.OBSERVED

        def end(outcome: Outcome) -> Any:
            yield from EndInTill(hold_id, self.name, outcome)

        exchange.resolve(end, strict=self._strict)
        if not (yield from TakeFromTill(hold_id)):
            return exchange.deny(refusal("till.empty"))
        return (yield from proceed(exchange))


def refusal(reason: str, status: int = 402) -> Any:
    from tenantguard.model.decision import Deny

    return Deny("test", reason, status, "no")


class Watching:
    """Hears outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.exchanges: list[Exchange] = []

    def handle(self, exchange: Exchange, proceed: Any) -> Any:
        self.exchanges.append(exchange)
        exchange.observe(self.outcomes.append)
        return (yield from proceed(exchange))

    @property
    def outcome(self) -> Outcome:
        assert len(self.outcomes) == 1, "an outcome is told once"
        return self.outcomes[0]


class World:
    """Runs one request through guards around an application, under one of the protocols."""

    def __init__(self, protocol: str, backend: str = "asyncio") -> None:
        self.protocol = protocol
        self._backend = backend
        self.till = Till()
        self.ports = memory_ports()
        self.ports.limits = self.till  # type: ignore[assignment]

    def guard(self, layers: Iterable[Any], **options: Any) -> Guard:
        return Guard(layers, ports=self.ports, **options)

    def run(
        self,
        layers: Sequence[Any],
        app: App | None = None,
        *,
        method: str = "GET",
        path: str = "/",
        headers: Sequence[tuple[str, str]] = (),
        body: Sequence[bytes] = (),
        probe: Callable[[], Any] = lambda: None,
        leave_after: int | None = None,
        **options: Any,
    ) -> Seen:
        """``layers`` is one guard's list, or several guards, outermost first."""
        app = app if app is not None else App()
        guards = [one if isinstance(one, Guard) else None for one in layers]
        stacked = [one for one in guards if one is not None] or [self.guard(layers, **options)]
        wrapped: Any = app.asgi if self.protocol == "asgi" else app.wsgi
        for one in reversed(stacked):
            wrapped = ASGIGuard(wrapped, guard=one) if self.protocol == "asgi" else WSGIGuard(wrapped, guard=one)
        request = _Request(method, path, list(headers), list(body), leave_after)
        if self.protocol == "asgi":
            return anyio.run(serve_asgi, wrapped, request, probe, backend=self._backend)
        return serve_wsgi(wrapped, request, probe)


@dataclass
class _Request:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: list[bytes]
    leave_after: int | None


async def serve_asgi(app: Any, request: _Request, probe: Callable[[], Any]) -> Seen:
    seen = Seen()
    pieces = list(request.body) or [b""]

    async def receive() -> Any:
        if pieces:
            piece = pieces.pop(0)
            seen.read += len(piece)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        if request.leave_after is None or len(seen.chunks) < request.leave_after:
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if request.leave_after is not None and len(seen.chunks) >= request.leave_after:
            raise BrokenPipeError("the client has left")
        if message["type"] == "http.response.start":
            seen.heads += 1
            seen.status = message["status"]
            seen.lines = [(key.decode(), value.decode()) for key, value in message["headers"]]
            seen.head_probe = probe()
            return
        assert seen.heads == 1, "body before head"
        assert not seen.ended, "a message after the end"
        if message.get("body"):
            seen.chunks.append(message["body"])
            seen.probes.append(probe())
        if not message.get("more_body", False):
            seen.ended = True
            seen.end_probe = probe()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in request.headers],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except BaseException as failure:  # noqa: BLE001 - a server sees everything
        seen.broken = failure
    return seen


def serve_wsgi(app: Any, request: _Request, probe: Callable[[], Any]) -> Seen:
    seen = Seen()
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and seen.chunks:
            raise exc_info[1]
        assert exc_info is not None or not head, "start_response was called twice"
        head[:] = [status, headers]
        return seen.chunks.append

    def give_head() -> None:
        if not seen.heads:
            seen.heads += 1
            seen.status = int(head[0][:3])
            seen.lines = [(key.lower(), value) for key, value in head[1]]
            seen.head_probe = probe()

    class Input(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            seen.read += len(data)
            return data

    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Input(b"".join(request.body)),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for key, value in request.headers:
        name = key.upper().replace("-", "_")
        environ[name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"] = value
    if request.headers and any(key == "transfer-encoding" for key, _ in request.headers):
        environ["wsgi.input_terminated"] = True
    iterable: Any = ()
    try:
        try:
            iterable = app(environ, start_response)
            for chunk in iterable:
                if chunk:
                    give_head()
                    seen.chunks.append(chunk)
                    seen.probes.append(probe())
                    if request.leave_after is not None and len(seen.chunks) >= request.leave_after:
                        break
            else:
                give_head()
                seen.ended = True
                seen.end_probe = probe()
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
    except BaseException as failure:  # noqa: BLE001 - a server sees everything
        seen.broken = failure
    return seen
