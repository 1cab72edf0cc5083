"""The same work on the same tables, written by hand as a competent user would: each commits every operation.

All three keep one connection and give it to one transaction after the other, since SQLite has one writer and waiting
for its lock is slower than waiting in line. They do the least that a hold of one leg needs: no windows, no retries by
id, no claims, no alerts, no other process.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.flow.ports import Held, PlaceHold, ResolveHold

if TYPE_CHECKING:
    from pathlib import Path

Command = PlaceHold | ResolveHold

TAKE: Final = """
    UPDATE account SET held = held + :most
    WHERE budget = :budget AND period = :period AND unit = :unit AND window_starts_ns = 0
    AND spent + held + :most <= :limit RETURNING id
"""
OPEN: Final = """
    INSERT INTO account (budget, period, unit, window_starts_ns, tenant, ceiling, spent, held, carried)
    VALUES (:budget, :period, :unit, 0, :tenant, :limit, 0, 0, 0)
"""
HOLD: Final = """
    INSERT INTO hold (id, tenant, state, on_orphan, owner, placed_ns, legs)
    VALUES (:id, :tenant, 'pending', 'void', x'00', :at_ns, :legs)
"""
END: Final = "DELETE FROM hold WHERE id = :id RETURNING legs"
POST: Final = """
    UPDATE account SET held = held - :held, spent = spent + :amount WHERE id = :account RETURNING tenant, unit
"""
ENTRY: Final = """
    INSERT INTO entry (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason, evidence)
    VALUES (:id, 0, 0, :account, :tenant, :held, :amount, 0, :unit, :at_ns, :reason, :evidence)
"""


class Store(Protocol):
    """What performs commands and is durable before it answers."""

    async def __call__(self, command: Command, /) -> Any: ...

    async def close(self) -> None: ...


def placing_of(command: PlaceHold) -> dict[str, Any]:
    (leg,) = command.legs
    return {
        "most": leg.most,
        "limit": leg.limit,
        "budget": json.dumps(leg.budget),
        "period": str(leg.period),
        "unit": leg.unit,
        "tenant": str(command.tenant),
    }


def hold_of(command: PlaceHold, account: int) -> dict[str, Any]:
    legs = json.dumps([[account, command.legs[0].most]])
    return {"id": command.id, "tenant": str(command.tenant), "at_ns": time.time_ns(), "legs": legs}


def posting_of(command: ResolveHold, legs: str) -> dict[str, Any]:
    (amount,) = command.amounts or (0,)
    ((account, held),) = json.loads(legs)
    return {"account": account, "held": held, "amount": amount}


def entry_of(command: ResolveHold, posting: dict[str, Any], tenant: str, unit: str) -> dict[str, Any]:
    evidence = json.dumps(dict(command.evidence))
    more = {"id": command.id, "tenant": tenant, "unit": unit, "reason": command.reason, "evidence": evidence}
    return {**posting, **more, "at_ns": time.time_ns()}


class ToThread:
    """The standard library: ``sqlite3`` in worker threads."""

    def __init__(self, path: Path) -> None:
        LedgerFile(path, 5.0).connect().close()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = FULL")
        self._lock = threading.Lock()

    async def __call__(self, command: Command) -> Any:
        return await asyncio.to_thread(self._perform, command)

    def _perform(self, command: Command) -> Any:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                answer: Held | None = None
                if isinstance(command, PlaceHold):
                    answer = self._place(command)
                else:
                    self._resolve(command)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return answer

    def _place(self, command: PlaceHold) -> Held:
        db, placing = self._db, placing_of(command)
        rows = db.execute(TAKE, placing).fetchall()
        if not rows:
            db.execute(OPEN, placing)
            rows = db.execute(TAKE, placing).fetchall()
        db.execute(HOLD, hold_of(command, rows[0][0]))
        return Held((placing["most"],))

    def _resolve(self, command: ResolveHold) -> None:
        db = self._db
        ((legs,),) = db.execute(END, {"id": command.id}).fetchall()
        posting = posting_of(command, legs)
        ((tenant, unit),) = db.execute(POST, posting).fetchall()
        db.execute(ENTRY, entry_of(command, posting, tenant, unit))

    async def close(self) -> None:
        self._db.close()


class AioSQLite:
    """``aiosqlite``: a thread of its own behind one connection, a hop to it for every statement."""

    def __init__(self, path: Path) -> None:
        LedgerFile(path, 5.0).connect().close()
        self._path = path
        self._db: Any = None
        self._lock = asyncio.Lock()

    async def __call__(self, command: Command) -> Any:
        async with self._lock:
            if self._db is None:
                import aiosqlite  # noqa: PLC0415 - where it is installed

                self._db = await aiosqlite.connect(self._path, isolation_level=None)
                await self._db.execute("PRAGMA synchronous = FULL")
            await self._db.execute("BEGIN IMMEDIATE")
            try:
                perform: Any = self._place if isinstance(command, PlaceHold) else self._resolve
                answer = await perform(command)
            except BaseException:
                await self._db.rollback()
                raise
            await self._db.commit()
        return answer

    async def _place(self, command: PlaceHold) -> Held:
        db, placing = self._db, placing_of(command)
        rows = await db.execute_fetchall(TAKE, placing)
        if not rows:
            await db.execute(OPEN, placing)
            rows = await db.execute_fetchall(TAKE, placing)
        await db.execute(HOLD, hold_of(command, rows[0][0]))
        return Held((placing["most"],))

    async def _resolve(self, command: ResolveHold) -> None:
        db = self._db
        ((legs,),) = await db.execute_fetchall(END, {"id": command.id})
        posting = posting_of(command, legs)
        ((tenant, unit),) = await db.execute_fetchall(POST, posting)
        await db.execute(ENTRY, entry_of(command, posting, tenant, unit))

    async def close(self) -> None:
        if self._db is not None:
            await self._db.close()
