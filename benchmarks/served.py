"""What a guard adds to a request under uvicorn: CPU microseconds of the server's process.

    python -m benchmarks.served

Each application runs in a uvicorn process of its own (uvloop and httptools where they are installed); the load, 16
connections, is one more process. A load ends every round, so that the processor time read from ``/proc`` (Linux) is
that of the requests counted.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import cpu_us, warm_up
from benchmarks.proxy_app import CONNECTIONS, start
from benchmarks.rounds import Samples, print_table, progress
from benchmarks.subjects import (
    API_KEY,
    FIGURES,
    STACK,
    BaseHTTP,
    DroppedRecords,
    PureASGI,
    asgi_app,
    guard_with,
    nest,
    trivial_guard,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 5
SECONDS: Final = 0.5
BARE: Final = "bare application"
REQUEST: Final = (
    "GET /jobs HTTP/1.1\r\nHost: jobs.example\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
    f"Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\nAuthorization: Bearer {API_KEY}\r\n\r\n"
).encode()


def _all_five(app: Any) -> Any:
    guard = guard_with(STACK)
    guard.ports.audits = (DroppedRecords(),)
    return guard.asgi(app)


SUBJECTS: Final[dict[str, Callable[[Any], Any]]] = {
    BARE: lambda app: app,
    "1 pure ASGI": lambda app: nest(app, PureASGI, 1),
    "3 pure ASGI": lambda app: nest(app, PureASGI, 3),
    "6 pure ASGI": lambda app: nest(app, PureASGI, 6),
    "guard, 0 layers": lambda app: trivial_guard(0).asgi(app),
    "guard, 1 layer": lambda app: trivial_guard(1).asgi(app),
    "guard, 3 layers": lambda app: trivial_guard(3).asgi(app),
    "guard, 6 layers": lambda app: trivial_guard(6).asgi(app),
    "1 BaseHTTPMiddleware": lambda app: nest(app, BaseHTTP, 1),
    "3 BaseHTTPMiddleware": lambda app: nest(app, BaseHTTP, 3),
    "6 BaseHTTPMiddleware": lambda app: nest(app, BaseHTTP, 6),
    "all five layers": _all_five,
}


def subject(name: str) -> Any:
    """One application of the table, in the process that is measured."""
    return SUBJECTS[name](asgi_app(FIGURES))


def run() -> None:
    """Measure and print the table."""
    samples = Samples()
    with ExitStack() as stack:
        progress(f"uvicorn, {len(SUBJECTS)} servers")
        servers = {name: stack.enter_context(start("target", "benchmarks.served:subject", name)) for name in SUBJECTS}
        for server in servers.values():
            warm_up(server, REQUEST)
        for number in range(ROUNDS):
            progress(f"uvicorn, round {number + 1} of {ROUNDS}")
            for name, server in servers.items():
                samples.add(name, cpu_us(server, SECONDS, REQUEST, mark=FIGURES))
    rows = [
        [name, f"{samples.median(name):.0f}", f"{samples.added(name, BARE):.0f}", f"{samples.ratio(name, BARE):.2f}"]
        for name in SUBJECTS
    ]
    print_table(
        f"Under uvicorn: CPU of the server's process for one request, {CONNECTIONS} connections; limits in memory",
        ("", "us", "added", "x bare"),
        rows,
    )


if __name__ == "__main__":
    run()
