"""What a guard's money costs under a real server: a hold before and its charge before the last byte of each response.

    python -m benchmarks.money [--rounds N]

Each application runs in a uvicorn process of its own, the load in one more: 64 connections, each in a closed loop.
One leg, one tenant, a SQLite file with ``synchronous=FULL``. First the server's processor time (``/proc``, Linux) for
a request; then, with an application that takes 200 ms, what the client waits: where all connections go in step, so
that 64 requests come at once (the aim is for these), and where they are spread. Afterwards the ledger must pass its
audit, hold nothing, and have charged every request that was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import drive, warm_up
from benchmarks.proxy_app import start
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from benchmarks.subjects import API_KEY, FIGURES, DroppedRecords, asgi_app, guard_with
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.proxy_app import Server

ROUNDS: Final = 5
SECONDS: Final = 1.0
SLOW_SECONDS: Final = 2.0
CONNECTIONS: Final = 64
TAKES_S: Final = 0.2
PRICE: Final = 10_000_000
"""0.01 USD, as the ledger counts: the price of ``GET /priced`` in ``subjects.py``."""

LEDGER: Final = "ledger.db"
LAYERS: Final = ("audit", "tenant", "rate")

BARE: Final = "bare application"
GUARD: Final = "guard without money"
UNPRICED: Final = "  with the charge layer, no price"
MEMORY: Final = "  held and charged in memory"
DURABLE: Final = "  held and charged, durable"
SLOW: Final = "200 ms: "
SPREAD: Final = ", spread"


def request(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: jobs.example\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
        f"Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\nAuthorization: Bearer {API_KEY}\r\n\r\n"
    ).encode()


PRICED: Final = request("/priced")
PATHS: Final[Mapping[str, bytes]] = {UNPRICED: request("/jobs")}


def _slow(app: Any) -> Any:
    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(TAKES_S)
        await app(scope, receive, send)

    return waiting


def subject(argument: str) -> Any:
    """One application of the tables, in the process that is measured: ``NAME@FOLDER``."""
    name, _, folder = argument.partition("@")
    app = asgi_app(FIGURES)
    if name.startswith(SLOW):
        app = _slow(app)
    kind = name.removeprefix(SLOW)
    if kind == BARE:
        return app
    layers = LAYERS if kind == GUARD else (*LAYERS, "charge")
    ledger = f"sqlite:///{LEDGER}" if kind == DURABLE else "memory://"
    guard = guard_with(layers, ledger=ledger, folder=Path(folder))
    guard.ports.audits = (DroppedRecords(),)
    return guard.asgi(app)


def _check(folder: Path, answered: int) -> None:
    books = SQLiteLedger(folder / LEDGER, real_system())
    if broken := books.audit():
        raise SystemExit(f"the ledger is broken: {broken[0]}")
    balances = books.balances()
    charged = sum(balance.spent for balance in balances) // PRICE
    held = sum(balance.held for balance in balances)
    if charged < answered or held:
        raise SystemExit(f"{answered} requests were answered, {charged} charged, {held // PRICE} are held")


def costs(servers: Mapping[str, Server], rounds: int) -> tuple[Samples, int]:
    """Processor time for a request, and how many the durable one answered."""
    samples, answered = Samples(), 0
    for number in range(rounds):
        progress(f"processor time, round {number + 1} of {rounds}")
        for name, server in servers.items():
            before = server.cpu_ns()
            seen = drive(server, SECONDS, PATHS.get(name, PRICED), mark=FIGURES, connections=CONNECTIONS)
            samples.add(name, (server.cpu_ns() - before) / seen.right / 1000)
            answered += seen.right if name == DURABLE else 0
    return samples, answered


def waits(servers: Mapping[str, Server], rounds: int) -> tuple[Samples, Samples, int]:
    """The medians and 99th percentiles in milliseconds, and as above."""
    p50, p99, answered = Samples(), Samples(), 0
    for number in range(rounds):
        progress(f"an application of 200 ms, round {number + 1} of {rounds}")
        for spread_s, how in ((0.0, ""), (TAKES_S, SPREAD)):
            for name, server in servers.items():
                seen = drive(server, SLOW_SECONDS, PRICED, mark=FIGURES, connections=CONNECTIONS, spread_s=spread_s)
                p50.add(name + how, seen.p50_ms)
                p99.add(name + how, seen.p99_ms)
                answered += seen.right if name == SLOW + DURABLE else 0
    return p50, p99, answered


def started(names: tuple[str, ...], folder: Path, stack: ExitStack) -> dict[str, Server]:
    """Start one server for each name."""
    servers = {
        name: stack.enter_context(start("target", "benchmarks.money:subject", f"{name}@{folder}")) for name in names
    }
    for name, server in servers.items():
        warm_up(server, PATHS.get(name, PRICED), CONNECTIONS)
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.money")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd()) as folder, ExitStack() as stack:
        fast = stack.enter_context(ExitStack())
        cpu, at_once = costs(started((BARE, GUARD, UNPRICED, MEMORY, DURABLE), Path(folder), fast), rounds)
        fast.close()
        names = tuple(SLOW + name for name in (BARE, GUARD, DURABLE))
        p50, p99, slowly = waits(started(names, Path(folder), stack), rounds)
        stack.close()
        _check(Path(folder), at_once + slowly)

    print_table(
        f"Under uvicorn, {CONNECTIONS} connections: CPU of the server's process for one request",
        ("", "us", "to bare", "to the guard"),
        [
            [name, f"{cpu.median(name):.0f}", f"{cpu.added(name, BARE):.0f}", f"{cpu.added(name, GUARD):.0f}"]
            for name in cpu.rounds
        ],
    )
    bare = SLOW + BARE
    print_table(
        f"The same with an application that takes {TAKES_S * 1000:.0f} ms: what the client waits, in ms",
        ("", "p50", "p99", "p99 to bare"),
        [
            [
                name.removeprefix(SLOW),
                f"{p50.median(name):.1f}",
                f"{p99.median(name):.1f}",
                f"{p99.added(name, bare + SPREAD if name.endswith(SPREAD) else bare):+.1f}",
            ]
            for name in p99.rounds
        ],
    )
    added, later = cpu.added(DURABLE, GUARD), p99.added(SLOW + DURABLE, bare)
    print_targets(
        [
            Target("hold and charge, durable: CPU added a request", "<= 100 us", f"{added:.0f} us", added <= 100),
            Target("200 ms, 64 in step: p99 to the bare server", "<= +15 ms", f"{later:+.1f} ms", later <= 15),
        ]
    )


if __name__ == "__main__":
    main()
