"""What is compared: applications, middleware written in each way, and guards with the layers of the product.

A trivial middleware adds one response header, since a middleware that does nothing would be no measure of anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware
from structlog.testing import capture_logs

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.guard import Guard
from tenantguard.settings import build, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler
    from tenantguard.model.audit import AuditRecord

API_KEY: Final = "sk-benchmark-0123456789abcdef"
CHUNKS: Final = 100
CHUNK: Final = b"one chunk of a stream\n"
FIGURES: Final = b'{"done": 12, "queued": 3}'
"""A response without any text to search."""

TEXT: Final = b"12 jobs are done, 3 are queued."
STACK: Final = ("audit", "tenant", "rate", "redaction", "charge")
"""The five layers of the mission, outermost first."""

_SETTINGS: Final = f"""
[guard]
ledger = "{{ledger}}"
layers = [{{layers}}]

[redaction]
key = "a key for benchmarks alone, of 32 bytes"

[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "{hash_key(API_KEY)}"

[policies.acme]
"""
_PRICED: Final = """

[[routes]]
match = "GET /priced"
price = "0.01 USD"
"""
_SECTIONS: Final = {
    "rate": 'rate = "1000000/second burst 1000000"',
    "redaction": 'redact = { request = "replace", response = "restore",'
    ' entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"] }',
    "charge": 'budget = { limit = "100000000 USD", per = "month" }',
}


class KeptAside:
    """An audit sink that only queues; whoever measures drains it outside the timed part."""

    def __init__(self) -> None:
        self._records: list[AuditRecord] = []

    def record(self, record: AuditRecord) -> None:
        self._records.append(record)

    def drain(self) -> None:
        self._records.clear()

    def close(self) -> None:
        """Nothing to release."""


class DroppedRecords:
    """An audit sink for a server that runs for long: records are dropped at once."""

    def record(self, record: AuditRecord) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing to release."""


def guard_with(layers: Sequence[str], *, ledger: str = "memory://", folder: Path | None = None) -> Guard:
    """The guard of a settings file with these layers of the product, and with what they need in the policy."""
    names = ", ".join(f'"{layer}"' for layer in layers)
    text = _SETTINGS.format(ledger=ledger, layers=names)
    text += "\n".join(_SECTIONS[layer] for layer in layers if layer in _SECTIONS)
    if "charge" in layers:
        text += _PRICED
    with capture_logs():  # it warns of a ledger in memory
        guard = build(parse_settings(text, folder=folder or Path(), environ={}))
    guard.ports.audits = (KeptAside(),)
    return guard


def drain(guard: Guard) -> None:
    """Empty the sinks of a guard."""
    for sink in guard.ports.audits:
        if isinstance(sink, KeptAside):
            sink.drain()


class AddHeader:
    """The trivial layer."""

    def __init__(self, name: str) -> None:
        self._name = name

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        response = yield from proceed(exchange)
        response.headers.add(self._name, "yes")
        return response


def trivial_guard(layers: int) -> Guard:
    """A guard of so many trivial layers."""
    return Guard([AddHeader(f"x-layer-{number}") for number in range(layers)])


def nest(app: Any, middleware: Callable[[Any, str], Any], layers: int) -> Any:
    """Put so many middlewares around an application, one around the other."""
    for number in range(layers):
        app = middleware(app, f"x-layer-{number}")
    return app


# --- ASGI ---


def asgi_app(body: bytes, content_type: bytes = b"application/json") -> Any:
    """Answers with one body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        if scope["type"] != "http":
            return
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def asgi_stream(scope: Any, receive: Any, send: Any) -> None:
    """Answers with a stream of many chunks and an empty final message, as Starlette does."""
    del scope, receive
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class PureASGI:
    """Middleware as Starlette's documentation teaches to write it by hand."""

    def __init__(self, app: Any, name: str) -> None:
        self.app = app
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.append(self.name, "yes")
            await send(message)

        await self.app(scope, receive, send_with_header)


class BaseHTTP(BaseHTTPMiddleware):
    """Middleware on Starlette's ``BaseHTTPMiddleware``."""

    def __init__(self, app: Any, name: str) -> None:
        super().__init__(app)
        self.name = name

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers.append(self.name, "yes")
        return response


# --- WSGI ---


def wsgi_app(body: bytes, content_type: str = "application/json") -> Any:
    """Answers with one body."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        del environ
        start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [body]

    return app


def wsgi_stream(environ: Any, start_response: Any) -> Iterable[bytes]:
    """Answers with a stream of many chunks."""
    del environ
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for _ in range(CHUNKS):
        yield CHUNK


class PlainWSGI:
    """Middleware written by hand: it touches the head, and hands the body on as it is."""

    def __init__(self, app: Any, name: str) -> None:
        self.app = app
        self.name = name

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        def start_with_header(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, [*headers, (self.name, "yes")], exc_info)

        return self.app(environ, start_with_header)
