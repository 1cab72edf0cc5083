"""SQLAlchemy's asyncio extension over ``aiosqlite``, as a peer of the ledger: expressions of its Core, a transaction
for each operation, on the tables that :mod:`benchmarks.ledger_peers` uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, Table, Text, delete, event, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from benchmarks.ledger_peers import Command, entry_of, hold_of, placing_of, posting_of
from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.flow.ports import Held, PlaceHold, ResolveHold

if TYPE_CHECKING:
    from pathlib import Path

_TABLES: Final = MetaData()
ACCOUNT: Final = Table(
    "account",
    _TABLES,
    Column("id", BigInteger, primary_key=True),
    *(Column(name, Text) for name in ("budget", "period", "unit", "tenant")),
    *(Column(name, BigInteger) for name in ("window_starts_ns", "ceiling", "spent", "held", "carried")),
)
HOLD: Final = Table(
    "hold",
    _TABLES,
    Column("id", LargeBinary, primary_key=True),
    Column("owner", LargeBinary),
    Column("placed_ns", BigInteger),
    *(Column(name, Text) for name in ("tenant", "state", "on_orphan", "legs")),
)
ENTRY: Final = Table(
    "entry",
    _TABLES,
    Column("seq", BigInteger, primary_key=True),
    Column("op", LargeBinary),
    *(Column(name, BigInteger) for name in ("leg", "kind", "account", "held", "amount", "absorbed", "at_ns")),
    *(Column(name, Text) for name in ("tenant", "unit", "reason", "evidence")),
)


class SQLAlchemyAsync:
    """One pooled connection, for which transactions wait in line."""

    def __init__(self, path: Path) -> None:
        LedgerFile(path, 5.0).connect().close()
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0, pool_timeout=120
        )
        event.listen(self._engine.sync_engine, "connect", _prepare)
        event.listen(self._engine.sync_engine, "begin", _begin)

    async def __call__(self, command: Command) -> Any:
        async with self._engine.begin() as connection:
            if isinstance(command, PlaceHold):
                return await _place(connection, command)
            return await _resolve(connection, command)

    async def close(self) -> None:
        await self._engine.dispose()


def _prepare(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None  # the documented recipe: transactions begin in _begin
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _place(connection: AsyncConnection, command: PlaceHold) -> Held:
    placing = placing_of(command)
    most = placing["most"]
    take = (
        update(ACCOUNT)
        .where(
            ACCOUNT.c.budget == placing["budget"],
            ACCOUNT.c.period == placing["period"],
            ACCOUNT.c.unit == placing["unit"],
            ACCOUNT.c.window_starts_ns == 0,
            ACCOUNT.c.spent + ACCOUNT.c.held + most <= placing["limit"],
        )
        .values(held=ACCOUNT.c.held + most)
        .returning(ACCOUNT.c.id)
    )
    account = (await connection.execute(take)).scalar_one_or_none()
    if account is None:
        line = {name: placing[name] for name in ("budget", "period", "unit", "tenant")}
        opened = {"window_starts_ns": 0, "ceiling": placing["limit"], "spent": 0, "held": 0, "carried": 0}
        await connection.execute(insert(ACCOUNT).values(**line, **opened))
        account = (await connection.execute(take)).scalar_one()
    hold = hold_of(command, account)
    await connection.execute(
        insert(HOLD).values(
            id=hold["id"],
            tenant=hold["tenant"],
            state="pending",
            on_orphan="void",
            owner=b"\0",
            placed_ns=hold["at_ns"],
            legs=hold["legs"],
        )
    )
    return Held((most,))


async def _resolve(connection: AsyncConnection, command: ResolveHold) -> None:
    end = delete(HOLD).where(HOLD.c.id == command.id).returning(HOLD.c.legs)
    posting = posting_of(command, (await connection.execute(end)).scalar_one())
    post = (
        update(ACCOUNT)
        .where(ACCOUNT.c.id == posting["account"])
        .values(held=ACCOUNT.c.held - posting["held"], spent=ACCOUNT.c.spent + posting["amount"])
        .returning(ACCOUNT.c.tenant, ACCOUNT.c.unit)
    )
    tenant, unit = (await connection.execute(post)).one()
    entry = entry_of(command, posting, tenant, unit)
    entry["op"] = entry.pop("id")
    await connection.execute(insert(ENTRY).values(**entry, leg=0, kind=0, absorbed=0))
