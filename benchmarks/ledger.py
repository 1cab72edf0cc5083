"""What a durable operation costs: the group-commit writer against one commit per operation in a worker thread.

    python -m benchmarks.ledger

An operation is one hold placed or one hold settled, durable (``synchronous=FULL``) before its caller goes on. The
naive way uses the same tables, hand-written statements, one connection and ``asyncio.to_thread``. Rounds are
interleaved and the best of each is shown, since other programs only ever make a round slower.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.flow.ports import Held, Ledger, Leg, PlaceHold, ResolveHold
from tenantguard.model.sections import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenantguard.flow.effects import Promise

EVIDENCE = {"input": 812, "output": 304, "price": "2026-01"}
LIMIT = 10**15
ROUNDS = 3
TAKE = (
    "UPDATE account SET held = held + ?1 WHERE spent + held + ?1 <= ?2"
    " AND budget = ?3 AND period = ?4 AND unit = ?5 AND window_starts_ns = 0 RETURNING id"
)
OPEN = (
    "INSERT INTO account (budget, period, unit, window_starts_ns, tenant, ceiling, spent, held)"
    " VALUES (?, ?, ?, 0, ?, ?, 0, 0)"
)


class Awaiting:
    """Awaits a ledger's promises, waking the loop once for all that were kept together, as the ASGI driver does."""

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._loop = loop
        self._kept: deque[asyncio.Future[None]] = deque()
        self._awake = False

    async def __call__(self, command: PlaceHold | ResolveHold) -> Any:
        promise: Promise[Any] = self._ledger.submit(command)
        if not promise.wait(0):
            future = self._loop.create_future()
            promise.then(partial(self._post, future))
            await future
        return promise.result()

    def _post(self, future: asyncio.Future[None]) -> Callable[[], None]:
        self._kept.append(future)
        return self._ring

    def _ring(self) -> None:
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._awake = False
        while self._kept:
            self._kept.popleft().set_result(None)


class Naive:
    """One transaction and one commit per operation, on a connection that worker threads share."""

    def __init__(self, path: Path) -> None:
        LedgerFile(path, 5.0).connect().close()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        self._lock = threading.Lock()

    async def __call__(self, command: PlaceHold | ResolveHold) -> Any:
        return await asyncio.to_thread(self._perform, command)

    def _perform(self, command: PlaceHold | ResolveHold) -> Any:
        return self._place(command) if isinstance(command, PlaceHold) else self._resolve(command)

    def _place(self, command: PlaceHold) -> Any:
        leg = command.legs[0]
        account = (json.dumps(leg.budget), str(leg.period), leg.unit)
        with self._lock:
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            rows = db.execute(TAKE, (leg.most, leg.limit, *account)).fetchall()
            if not rows:
                db.execute(OPEN, (*account, str(command.tenant), leg.limit))
                rows = db.execute(TAKE, (leg.most, leg.limit, *account)).fetchall()
            db.execute(
                "INSERT INTO hold VALUES (?, ?, 'pending', 'void', x'00', ?, NULL, NULL)",
                (command.id, str(command.tenant), time.time_ns()),
            )
            db.execute("INSERT INTO leg VALUES (?, 0, ?, ?)", (command.id, rows[0][0], leg.most))
            db.execute("COMMIT")
        return Held((leg.most,))

    def _resolve(self, command: ResolveHold) -> Any:
        (amount,) = command.amounts or (0,)
        with self._lock:
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "UPDATE hold SET state = 'settled', ended_ns = ?, reason = ? WHERE id = ? AND state = 'pending'",
                (time.time_ns(), command.reason, command.id),
            )
            ((account, held),) = db.execute(
                "SELECT account, amount FROM leg WHERE hold = ?", (command.id,)
            ).fetchall()
            db.execute("UPDATE account SET held = held - ?, spent = spent + ? WHERE id = ?", (held, amount, account))
            db.execute(
                "INSERT INTO entry (hold, leg, account, tenant, amount, absorbed, unit, at_ns, reason, evidence)"
                " SELECT ?, 0, id, tenant, ?, 0, unit, ?, ?, ? FROM account WHERE id = ?",
                (command.id, amount, time.time_ns(), command.reason, json.dumps(dict(command.evidence)), account),
            )
            db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


async def drive(perform: Callable[[Any], Awaitable[Any]], tasks: int, pairs: int, tenants: int) -> None:
    """``tasks`` callers, each placing and settling ``pairs`` holds one after the other."""
    ids = real_system().ids
    names = [TenantId(f"tenant-{number}") for number in range(tenants)]

    async def caller(number: int) -> None:
        tenant = names[number % tenants]
        legs = (Leg(("tenant", tenant, "month"), Period.MONTH, "USD", LIMIT, 9_000, 9_000),)
        for _ in range(pairs):
            hold_id = ids.new()
            held = await perform(PlaceHold(hold_id, tenant, legs))
            if not isinstance(held, Held):
                raise TypeError(held)
            await perform(ResolveHold(hold_id, (7_000,), "completed", EVIDENCE))

    await asyncio.gather(*(caller(number) for number in range(tasks)))


def measure(make: Callable[[], Any], tasks: int, pairs: int, tenants: int) -> tuple[float, float]:
    """Operations per second, and microseconds of this process's CPU per operation."""

    async def run() -> tuple[float, float]:
        store = make()
        perform = store if isinstance(store, Naive) else Awaiting(store, asyncio.get_running_loop())
        await drive(perform, tasks, 2, tenants)
        wall, cpu = time.perf_counter(), time.process_time()
        await drive(perform, tasks, pairs, tenants)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        store.close()
        if isinstance(store, SQLiteLedger) and (broken := store.audit()):
            raise ValueError(broken)
        operations = 2 * tasks * pairs
        return operations / wall, cpu / operations * 1e6

    return asyncio.run(run())


def main() -> int:
    folder = tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd())
    files = iter(range(10**6))

    def path() -> Path:
        return Path(folder.name) / f"{next(files)}.db"

    def naive() -> Naive:
        return Naive(path())

    def grouped() -> SQLiteLedger:
        return SQLiteLedger(path(), real_system())

    def memory() -> MemoryLedger:
        return MemoryLedger(real_system())

    cases: list[tuple[str, Callable[[], Any], int, int, int]] = [
        ("one commit per operation, to_thread", naive, 1, 300, 1),
        ("group commit", grouped, 1, 300, 1),
        ("one commit per operation, to_thread", naive, 100, 10, 1),
        ("group commit", grouped, 100, 100, 1),
        ("group commit, 100 tenants", grouped, 100, 100, 100),
        ("memory, nothing durable", memory, 100, 100, 1),
    ]
    best: dict[int, tuple[float, float]] = {}
    with folder:
        for _ in range(ROUNDS):
            for number, (_name, make, tasks, pairs, tenants) in enumerate(cases):
                rate, cpu = measure(make, tasks, pairs, tenants)
                rate_before, cpu_before = best.get(number, (0.0, float("inf")))
                best[number] = (max(rate, rate_before), min(cpu, cpu_before))
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, synchronous=FULL, best of {ROUNDS}\n")
    print(f"{'':38}{'callers':>8}{'ops/s':>10}{'x naive':>9}{'CPU us/op':>11}{'x naive':>9}")
    baseline: dict[int, tuple[float, float]] = {}
    for number, (name, _make, tasks, _pairs, _tenants) in enumerate(cases):
        rate, cpu = best[number]
        rate_naive, cpu_naive = baseline.setdefault(tasks, (rate, cpu))
        print(f"{name:38}{tasks:>8}{rate:>10,.0f}{rate / rate_naive:>9.1f}{cpu:>11.1f}{cpu / cpu_naive:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
