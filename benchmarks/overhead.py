"""What a guard adds to a request in process: CPU microseconds, under ASGI and WSGI, and with the durable ledger.

    python -m benchmarks.overhead

The application is called as a server calls it, with no server and no socket: the smallest cost that a request can
have, so that what middleware adds stands out.
"""

from __future__ import annotations

import asyncio
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.rounds import Target, interleave, interleave_async, print_table, print_targets, progress
from benchmarks.subjects import (
    API_KEY,
    CHUNKS,
    FIGURES,
    STACK,
    TEXT,
    BaseHTTP,
    PlainWSGI,
    PureASGI,
    asgi_app,
    asgi_stream,
    drain,
    guard_with,
    nest,
    trivial_guard,
    wsgi_app,
    wsgi_stream,
)
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.model.redact_section import Find

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from benchmarks.rounds import Samples
    from tenantguard.guard import Guard

ROUNDS: Final = 15
CONCURRENT: Final = 64

BARE: Final = "bare application"
FIVE: Final = f"all five layers ({' + '.join(STACK)})"
PASSING: Final = "  + charge = all five"
HELD: Final = "all five, a hold on every request"

_HEADERS: Final = [
    (b"host", b"jobs.example"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"authorization", b"Bearer " + API_KEY.encode()),
]
_ENVIRON: Final[dict[str, Any]] = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "QUERY_STRING": "",
    "REMOTE_ADDR": "127.0.0.1",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "jobs.example",
    "HTTP_ACCEPT": "application/json",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "HTTP_CONNECTION": "keep-alive",
    "HTTP_USER_AGENT": "python-httpx/0.28.1",
    "HTTP_AUTHORIZATION": f"Bearer {API_KEY}",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}


def _receive() -> Any:
    """What a server hands an application: an empty body, then nothing until the client leaves (as hypercorn)."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    return messages.get


async def _send(message: Any) -> None:
    assert message.get("status", 200) == 200, message


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 54321),
        "scheme": "http",
        "root_path": "",
        "headers": list(_HEADERS),
        "state": {},
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }


def requests_of(app: Any, path: str = "/jobs") -> Callable[[int], Awaitable[None]]:
    """Requests one after the other."""

    async def run(requests: int) -> None:
        for _ in range(requests):
            await app(_scope(path), _receive(), _send)

    return run


def _concurrent(app: Any, path: str) -> Callable[[int], Awaitable[None]]:
    """Requests of many callers at once, each of which sends one after the other; a multiple of ``CONCURRENT``."""

    async def run(requests: int) -> None:
        each, rest = divmod(requests, CONCURRENT)
        assert not rest
        one_after_the_other = requests_of(app, path)
        await asyncio.gather(*(one_after_the_other(each) for _ in range(CONCURRENT)))

    return run


def _wsgi(app: Any) -> Callable[[int], None]:
    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        del headers, exc_info
        assert status == "200 OK", status

    def run(requests: int) -> None:
        for _ in range(requests):
            response = app({**_ENVIRON, "PATH_INFO": "/jobs", "wsgi.input": BytesIO()}, start_response)
            for _ in response:
                pass
            close = getattr(response, "close", None)
            if close is not None:
                close()

    return run


def _drained(guard: Guard, run: Callable[[int], Any]) -> Callable[[int], Any]:
    """Runs whose audit records are dropped before the next one."""

    def draining(requests: int) -> Any:
        drain(guard)
        return run(requests)

    return draining


def _rows(samples: Samples, base: str, compared: Mapping[str, str]) -> list[list[str]]:
    """A row for each candidate: its cost, what it adds to ``base``, and its ratio to the one it is compared with."""
    rows = []
    for name in samples.rounds:
        other = compared.get(name)
        ratio = f"{samples.ratio(name, other):.2f}" if other is not None else ""
        rows.append([name, f"{samples.median(name):.1f}", f"{samples.added(name, base):.1f}", ratio])
    return rows


_COLUMNS: Final = ("", "us", "added", "ratio to pure")


def trivial(targets: list[Target]) -> None:
    """Layers that add a header, under ASGI: one body, and a stream."""
    progress("ASGI, trivial layers")
    app = asgi_app(FIGURES)
    cases = {BARE: app}
    cases |= {f"{count} pure ASGI": nest(app, PureASGI, count) for count in (1, 3, 6)}
    cases |= {f"guard, {count} layers": trivial_guard(count).asgi(app) for count in (0, 1, 3, 6)}
    cases |= {f"{count} BaseHTTPMiddleware": nest(app, BaseHTTP, count) for count in (1, 3, 6)}
    samples = asyncio.run(interleave_async({name: requests_of(case) for name, case in cases.items()}, ROUNDS))
    compared = {name: f"{count} pure ASGI" for name in cases for count in (1, 3, 6) if f"{count} " in name}
    print_table(
        "ASGI, in process: CPU of one request; a layer adds one header",
        _COLUMNS,
        _rows(samples, BARE, compared),
    )
    to_pure = samples.ratio("guard, 6 layers", "6 pure ASGI")
    targets.append(Target("six trivial layers, to six pure ASGI", "<= 1.5x", f"{to_pure:.2f}x", to_pure <= 1.5))
    cheaper = samples.ratio("6 BaseHTTPMiddleware", "guard, 6 layers")
    targets.append(Target("six BaseHTTPMiddleware, to six layers", ">= 20x", f"{cheaper:.0f}x", cheaper >= 20))

    progress("ASGI, a stream")
    streams = {
        BARE: asgi_stream,
        "6 pure ASGI": nest(asgi_stream, PureASGI, 6),
        "guard, 0 layers": trivial_guard(0).asgi(asgi_stream),
        "guard, 6 layers": trivial_guard(6).asgi(asgi_stream),
        "6 BaseHTTPMiddleware": nest(asgi_stream, BaseHTTP, 6),
    }
    samples = asyncio.run(interleave_async({name: requests_of(case) for name, case in streams.items()}, ROUNDS))
    print_table(
        f"ASGI, in process: CPU of a stream of {CHUNKS} chunks",
        _COLUMNS,
        _rows(samples, BARE, {"guard, 6 layers": "6 pure ASGI", "6 BaseHTTPMiddleware": "6 pure ASGI"}),
    )


def mission(targets: list[Target]) -> None:
    """The layers of the product, one more each time; no price, so that nothing is held."""
    progress("ASGI, the five layers (Presidio is loaded)")
    app = asgi_app(FIGURES)
    cases = {BARE: requests_of(app), "guard, 0 layers": requests_of(trivial_guard(0).asgi(app))}
    for count, layer in enumerate(STACK, 1):
        guard = guard_with(STACK[:count])
        name = PASSING if count == len(STACK) else f"  + {layer}"
        cases[name] = _drained(guard, requests_of(guard.asgi(app)))
    picture = asgi_app(FIGURES, b"image/png")
    cases["all five, a response that is no text"] = _drained(guard, requests_of(guard.asgi(picture)))
    text = asgi_app(TEXT, b"text/plain")
    cases["all five, a text to search"] = _drained(guard, requests_of(guard.asgi(text)))
    detector = PresidioDetector(Find(entities=("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER")))

    async def detect(times: int) -> None:
        for _ in range(times):
            detector.detect(TEXT.decode())

    cases["Presidio alone on that text"] = detect
    samples = asyncio.run(interleave_async(cases, ROUNDS))
    print_table(
        "ASGI, in process: CPU of one request without a body; limits and ledger in memory, no price",
        ("", "us", "added"),
        [row[:3] for row in _rows(samples, BARE, {})],
    )
    added = samples.added(PASSING, BARE)
    targets.append(Target("all five layers, the ledger aside: CPU added", "<= 60 us", f"{added:.0f} us", added <= 60))


def wsgi() -> None:
    """The same under WSGI."""
    progress("WSGI")
    app = wsgi_app(FIGURES)
    cases: dict[str, Callable[[int], None]] = {BARE: _wsgi(app)}
    cases |= {f"{count} plain WSGI": _wsgi(nest(app, PlainWSGI, count)) for count in (1, 3, 6)}
    cases |= {f"guard, {count} layers": _wsgi(trivial_guard(count).wsgi(app)) for count in (0, 1, 3, 6)}
    guard = guard_with(STACK)
    cases["all five layers"] = _drained(guard, _wsgi(guard.wsgi(app)))
    samples = interleave(cases, ROUNDS)
    compared = {name: f"{count} plain WSGI" for name in cases for count in (1, 3, 6) if f"{count} " in name}
    print_table(
        "WSGI, in process: CPU of one request",
        ("", "us", "added", "ratio to plain"),
        _rows(samples, BARE, compared),
    )
    streams = {
        BARE: _wsgi(wsgi_stream),
        "6 plain WSGI": _wsgi(nest(wsgi_stream, PlainWSGI, 6)),
        "guard, 0 layers": _wsgi(trivial_guard(0).wsgi(wsgi_stream)),
        "guard, 6 layers": _wsgi(trivial_guard(6).wsgi(wsgi_stream)),
    }
    samples = interleave(streams, ROUNDS)
    print_table(
        f"WSGI, in process: CPU of a stream of {CHUNKS} chunks",
        ("", "us", "added", "ratio to plain"),
        _rows(samples, BARE, {"guard, 6 layers": "6 plain WSGI"}),
    )


def durable(targets: list[Target]) -> None:
    """All five layers with a hold placed and settled in the SQLite file by every request."""
    progress("the durable ledger")
    app = asgi_app(FIGURES)
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd()) as folder:
        held = guard_with(STACK, ledger="sqlite:///ledger.db", folder=Path(folder))
        memory = guard_with(STACK)
        guarded, in_memory = held.asgi(app), memory.asgi(app)
        many = {
            BARE: _concurrent(app, "/priced"),
            "all five, no price": _drained(memory, _concurrent(in_memory, "/jobs")),
            "all five, held in memory": _drained(memory, _concurrent(in_memory, "/priced")),
            HELD: _drained(held, _concurrent(guarded, "/priced")),
        }
        together = asyncio.run(interleave_async(many, ROUNDS, operations=20 * CONCURRENT))
        one = {BARE: requests_of(app, "/priced"), HELD: _drained(held, requests_of(guarded, "/priced"))}
        alone = asyncio.run(interleave_async(one, ROUNDS))
        held.close()
    columns = ("", "us", "added")
    print_table(
        f"ASGI, in process, {CONCURRENT} at once: CPU of one, all threads; one leg, SQLite, synchronous=FULL",
        columns,
        [row[:3] for row in _rows(together, BARE, {})],
    )
    print_table(
        "The same, one request at a time: two commits each", columns, [row[:3] for row in _rows(alone, BARE, {})]
    )
    added = together.added(HELD, BARE)
    what = f"all five layers with the durable ledger, {CONCURRENT} at once: CPU added"
    targets.append(Target(what, "<= 150 us", f"{added:.0f} us", added <= 150))
    added = alone.added(HELD, BARE)
    targets.append(Target("  one at a time", "about 300 us", f"{added:.0f} us", met=added <= 350))


def run() -> list[Target]:
    """Measure, print the tables and return what was aimed at."""
    targets: list[Target] = []
    trivial(targets)
    mission(targets)
    wsgi()
    durable(targets)
    return targets


if __name__ == "__main__":
    print_targets(run())
