"""A durable ledger in one SQLite file, shared by the processes of one machine.

Rules of this file
1. It loads, stores and commits; every decision is the rule's. A batch is one write transaction, begun IMMEDIATE, so
   that nothing it has read can change before it commits.
2. A batch takes few statements, each for many rows: that costs about half of a statement for every row.
3. What was loaded is kept for the next batch as long as no other connection has written (``PRAGMA data_version``)
   and every transaction succeeded; else it is loaded again.
4. Holds belong to an owner, this process, which renews a lease. What a lost owner held is found by its lapsed lease
   and ended by whoever notices first; the owner that was only slow settles late.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.backend import decide, storable
from tenantguard.adapters.ledger.schema import AUDIT, LedgerFile, port_errors
from tenantguard.adapters.ledger.writer import BEAT_S, Writer
from tenantguard.adapters.processes import GATE
from tenantguard.flow.ports import Balance, Entry, HoldState, OnOrphan, PlaceHold
from tenantguard.model.sections import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import Account, Books, Hold, account_key

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.adapters.ledger.backend import Command
    from tenantguard.adapters.ledger.promise import LedgerPromise
    from tenantguard.flow.ports import System
    from tenantguard.rules.ledger import AccountKey

QUEUE_MAX: Final = 10_000
LEASE_S: Final = 20.0
_ACCOUNTS_KEPT_MAX: Final = 100_000
_ORPHANS_AT_ONCE: Final = 512
_ROWS: Final = (128, 32, 8, 2, 1)
"""Statements are prepared for these numbers of rows: few texts to keep, few steps for a batch."""

_STATES: Final = {str(state): state for state in HoldState}
_ON_ORPHAN: Final = {str(choice): choice for choice in OnOrphan}
_PERIODS: Final = {str(period): period for period in Period}


class SQLiteLedger:
    """Durable, and exact across processes and crashes. ``path`` is a file on a local disk, made if missing.

    Nothing is opened before the first use in a process; ``open`` finds beforehand what cannot work. ``deadline_s``
    is how long an answer may take and how long another process's lock is waited for; ``queue_max`` placings wait to
    be written at most.
    """

    def __init__(
        self, path: str | os.PathLike[str], system: System, *, deadline_s: float = 5.0, queue_max: int = QUEUE_MAX
    ) -> None:
        self._file = LedgerFile(path, deadline_s)
        self._writer = Writer(SQLiteBackend(self._file, system), deadline_s=deadline_s, queue_max=queue_max)

    def open(self) -> None:
        """Check the file, and make it where it is missing. Raises :class:`ConfigurationError` with a remedy."""
        with GATE:
            self._file.connect().close()

    def submit(self, command: Command) -> LedgerPromise:
        """Queue ``command``. The promise is kept once it is committed; it breaks while the file cannot be written."""
        return self._writer.submit(command)

    def balances(self, tenant: TenantId | None = None) -> list[Balance]:
        """Every account (of one tenant) in every window that was touched, oldest first. Blocks."""
        rows = self._read(
            "SELECT budget, unit, ceiling, spent, held, period, window_starts_ns, window_ends_ns FROM account"
            " WHERE ?1 IS NULL OR tenant = ?1 ORDER BY id",
            (tenant and str(tenant),),
        )
        return [
            Balance(tuple(json.loads(budget)), unit, ceiling, spent, held, _starts_ns(period, starts_ns), ends_ns)
            for budget, unit, ceiling, spent, held, period, starts_ns, ends_ns in rows
        ]

    def entries(self, tenant: TenantId | None = None, limit: int = 100) -> list[Entry]:
        """The latest ``limit`` entries (of one tenant), newest first. Blocks."""
        rows = self._read(
            "SELECT e.hold, e.leg, e.tenant, budget, e.unit, amount, absorbed, at_ns, reason, evidence, source,"
            " external_id FROM entry e JOIN account a ON a.id = e.account"
            " WHERE ?1 IS NULL OR e.tenant = ?1 ORDER BY seq DESC LIMIT ?2",
            (tenant and str(tenant), max(limit, 0)),
        )
        return [
            Entry(
                hold=hold,
                leg=leg,
                tenant=TenantId(name),
                budget=tuple(json.loads(budget)),
                unit=unit,
                amount=amount,
                absorbed=absorbed,
                at_ns=at_ns,
                reason=reason,
                evidence=json.loads(evidence),
                source=source,
                external_id=external_id,
            )
            for hold, leg, name, budget, unit, amount, absorbed, at_ns, reason, evidence, source, external_id in rows
        ]

    def audit(self) -> list[str]:
        """Every broken invariant, as a sentence; an empty list is clean. Blocks, and reads the whole file."""
        with GATE, port_errors(), closing(self._file.connect()) as db:
            db.execute("BEGIN")
            return [sentence for query in AUDIT for (sentence,) in db.execute(query)]

    def close(self) -> None:
        """Commit what is queued and close the file; usable again afterwards."""
        self._writer.close()

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with GATE, port_errors(), closing(self._file.connect()) as db:
            return db.execute(query, values).fetchall()


class SQLiteBackend:
    """Applies batches of commands to one file. Opens it with the first, in the thread that calls."""

    def __init__(self, file: LedgerFile, system: System) -> None:
        self._file = file
        self._system = system
        self._inherited: list[sqlite3.Connection] = []
        self._begin()

    def _begin(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._owner = b""
        self._beat_due_ns = 0
        self._unload()

    def _unload(self) -> None:
        """Forget what was loaded."""
        self._books = Books()
        self._numbered: dict[int, Account] = {}
        self._version: int | None = None

    def apply(self, commands: Sequence[Command]) -> list[Any]:
        """Decide and commit ``commands``; see :class:`~tenantguard.adapters.ledger.backend.Backend`."""
        beats = self._system.clock.monotonic_ns() >= self._beat_due_ns
        if not commands and not beats:
            return []
        with port_errors():
            try:
                if self._db is None:
                    self._db = self._file.connect()
                return self._transact(self._db, commands, beats=beats)
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Release the file and, where nothing is pending, this process's ownership."""
        if self._db is not None:
            with suppress(Exception):  # the lease lapses by itself
                self._db.execute(
                    "DELETE FROM owner WHERE id = ?1 AND NOT EXISTS"
                    " (SELECT 1 FROM hold WHERE owner = ?1 AND state = 'pending')",
                    (self._owner,),
                )
        self._drop()

    def forget(self) -> None:
        """Start over in a forked child. SQLite forbids to use or even close an inherited connection."""
        if self._db is not None:
            self._inherited.append(self._db)
        self._begin()

    def _drop(self) -> None:
        db, self._db = self._db, None
        self._beat_due_ns = 0
        self._unload()
        if db is not None:
            with suppress(Exception):
                db.close()

    def _transact(self, db: sqlite3.Connection, commands: Sequence[Command], *, beats: bool) -> list[Any]:
        db.execute("BEGIN IMMEDIATE")
        now_ns = self._system.clock.wall_ns()
        ((version,),) = db.execute("PRAGMA data_version").fetchall()
        if version != self._version or len(self._books.accounts) > _ACCOUNTS_KEPT_MAX:
            self._unload()
            self._version = version
        all_ended = self._beat(db, now_ns) if beats else True
        before = self._load(db, commands, now_ns)
        answers = [decide(self._books, command, now_ns) for command in commands]
        self._store(db, before)
        db.execute("COMMIT")
        self._settle_down(before)
        if beats and all_ended:
            self._beat_due_ns = self._system.clock.monotonic_ns() + int(BEAT_S * 1e9)
        return answers

    # leases

    def _beat(self, db: sqlite3.Connection, now_ns: int) -> bool:
        """Renew the lease and end what lost owners held. False if there was too much of it for one transaction."""
        if not self._owner:
            self._owner = self._system.ids.new()
        db.execute(
            "INSERT INTO owner VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET lease_until_ns = excluded.lease_until_ns",
            (self._owner, now_ns + int(LEASE_S * 1e9)),
        )
        orphans = db.execute(
            "SELECT id FROM hold WHERE state = 'pending'"
            " AND owner NOT IN (SELECT id FROM owner WHERE lease_until_ns >= ?) LIMIT ?",
            (now_ns, _ORPHANS_AT_ONCE),
        ).fetchall()
        before: dict[bytes, HoldState | None] = {hold_id: HoldState.PENDING for (hold_id,) in orphans}
        self._load_holds(db, [hold_id for hold_id in before if hold_id not in self._books.holds])
        for hold_id in before:
            self._books.lose(hold_id, now_ns)
        self._store(db, before)
        self._settle_down(before)
        db.execute("DELETE FROM owner WHERE lease_until_ns < ?", (now_ns,))
        return len(orphans) < _ORPHANS_AT_ONCE

    # loading

    def _load(
        self, db: sqlite3.Connection, commands: Sequence[Command], now_ns: int
    ) -> dict[bytes, HoldState | None]:
        """Load what ``commands`` touch and is not there yet; return the states of their holds."""
        books = self._books
        keys: dict[AccountKey, None] = {}
        outside: list[str] = []
        for command in commands:
            if isinstance(command, PlaceHold):
                for leg in command.legs:
                    keys[account_key(leg, now_ns)] = None
            elif command.external_id is not None and command.source is not None:
                outside.append(storable(command.external_id))
        self._load_holds(db, sorted({command.id for command in commands} - books.holds.keys()))
        for key in keys:
            if key not in books.accounts:
                self._load_account(db, key)
        if outside:
            books.charged.update(
                _select(db, "SELECT source, external_id FROM entry WHERE external_id IN ({})", outside)
            )
        return {
            command.id: hold.state if (hold := books.holds.get(command.id)) is not None else None
            for command in commands
        }

    def _load_holds(self, db: sqlite3.Connection, ids: list[bytes]) -> None:
        if not ids:
            return
        rows = _select(
            db,
            "SELECT id, tenant, state, on_orphan, placed_ns, account, amount"
            " FROM hold LEFT JOIN leg ON leg.hold = hold.id WHERE hold.id IN ({}) ORDER BY hold.id, leg.leg",
            ids,
        )
        if not rows:
            return
        self._load_numbered(db, {row[5] for row in rows} - self._numbered.keys() - {None})
        for hold_id, tenant, state, on_orphan, placed_ns, number, amount in rows:
            hold = self._books.holds.get(hold_id)
            if hold is None:
                hold = Hold(hold_id, tenant, (), _ON_ORPHAN[on_orphan], placed_ns, _STATES[state])
                self._books.holds[hold_id] = hold
            if number is not None:
                hold.legs += ((self._numbered[number], amount),)
                if hold.state is not HoldState.PENDING:
                    hold.charged += (0,)
        settled = [hold_id for hold_id in ids if self._is_settled(hold_id)]
        for hold_id, leg, amount in _select(db, "SELECT hold, leg, amount FROM entry WHERE hold IN ({})", settled):
            hold = self._books.holds[hold_id]
            hold.charged = (*hold.charged[:leg], amount, *hold.charged[leg + 1 :])

    def _is_settled(self, hold_id: bytes) -> bool:
        hold = self._books.holds.get(hold_id)
        return hold is not None and hold.state is HoldState.SETTLED

    def _load_account(self, db: sqlite3.Connection, key: AccountKey) -> None:
        budget, period, unit, starts_ns = key
        numbers = db.execute(
            "SELECT id FROM account WHERE budget = ? AND period = ? AND unit = ? AND window_starts_ns = ?",
            (json.dumps(budget), str(period), unit, starts_ns or 0),
        ).fetchall()
        self._load_numbered(db, {number for (number,) in numbers})

    def _load_numbered(self, db: sqlite3.Connection, numbers: set[int]) -> None:
        rows = _select(
            db,
            "SELECT id, budget, period, unit, window_starts_ns, window_ends_ns, tenant, ceiling, spent, held"
            " FROM account WHERE id IN ({})",
            sorted(numbers),
        )
        for number, budget, period, unit, starts_ns, ends_ns, tenant, ceiling, spent, held in rows:
            key = (tuple(json.loads(budget)), _PERIODS[period], unit, _starts_ns(period, starts_ns))
            account = Account(key, tenant, ceiling, ends_ns, spent, held, number)
            self._books.accounts[key] = self._numbered[number] = account

    # storing

    def _store(self, db: sqlite3.Connection, before: dict[bytes, HoldState | None]) -> None:
        """Write every hold whose state is no longer what it was, its accounts, its legs if new, and the entries."""
        fresh: list[Hold] = []
        ended: dict[tuple[HoldState, int | None, str | None], list[bytes]] = {}
        accounts: dict[int, Account] = {}
        for hold_id, state in before.items():
            hold = self._books.holds.get(hold_id)
            if hold is None or hold.state is state:
                continue
            if state is None:
                fresh.append(hold)
            else:
                ended.setdefault((hold.state, *_ending(hold)), []).append(hold_id)
            for account, _ in hold.legs:
                accounts[id(account)] = account
        self._store_accounts(db, accounts.values())
        _write(
            db,
            "INSERT INTO hold VALUES {}",
            [
                (
                    hold.id,
                    None if hold.tenant is None else str(hold.tenant),
                    str(hold.state),
                    str(hold.on_orphan),
                    self._owner,
                    hold.placed_ns,
                    *_ending(hold),
                )
                for hold in fresh
            ],
        )
        _write(
            db,
            "INSERT INTO leg VALUES {}",
            [
                (hold.id, index, account.number, amount)
                for hold in fresh
                for index, (account, amount) in enumerate(hold.legs)
            ],
        )
        for (state, ended_ns, reason), ids in ended.items():
            statement = "UPDATE hold SET state = ?, ended_ns = ?, reason = ? WHERE id IN ({})"
            for part, size in _parts(ids):
                db.execute(_for_values(statement, size), (str(state), ended_ns, reason, *part))
        _write(
            db,
            "INSERT INTO entry (hold, leg, account, tenant, amount, absorbed, unit, at_ns, reason, evidence, source,"
            " external_id) VALUES {}",
            [
                (
                    line.hold.id,
                    line.leg,
                    line.hold.legs[line.leg][0].number,
                    str(line.hold.tenant),
                    line.amount,
                    line.absorbed,
                    line.hold.legs[line.leg][0].key[2],
                    line.at_ns,
                    line.reason,
                    line.evidence,
                    line.source,
                    line.external_id,
                )
                for line in self._books.lines
            ],
        )

    def _store_accounts(self, db: sqlite3.Connection, accounts: Iterable[Account]) -> None:
        known: list[tuple[Any, ...]] = []
        for account in accounts:
            tenant = None if account.tenant is None else str(account.tenant)
            if account.number:
                known.append((account.number, tenant, account.limit, account.spent, account.held))
                continue
            budget, period, unit, starts_ns = account.key
            ((account.number,),) = db.execute(
                "INSERT INTO account (budget, period, unit, window_starts_ns, window_ends_ns, tenant, ceiling, spent,"
                " held) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (
                    json.dumps(budget),
                    str(period),
                    unit,
                    starts_ns or 0,
                    account.window_ends_ns,
                    tenant,
                    account.limit,
                    account.spent,
                    account.held,
                ),
            ).fetchall()
            self._numbered[account.number] = account
        _write(
            db,
            "UPDATE account SET tenant = new.column2, ceiling = new.column3, spent = new.column4, held = new.column5"
            " FROM (VALUES {}) AS new WHERE id = new.column1",
            known,
        )

    def _settle_down(self, before: Iterable[bytes]) -> None:
        """Keep only what later commands are likely to touch: accounts and pending holds."""
        books = self._books
        for hold_id in before:
            hold = books.holds.get(hold_id)
            if hold is not None and hold.state is not HoldState.PENDING:
                del books.holds[hold_id]
        books.lines.clear()
        books.charged.clear()


def _parts(values: Sequence[Any]) -> Iterator[tuple[list[Any], int]]:
    """``values`` in parts, and the size of each: one of ``_ROWS``, filled up with the last value."""
    for start in range(0, len(values), _ROWS[0]):
        part = values[start : start + _ROWS[0]]
        size = min(size for size in _ROWS if size >= len(part))
        yield [*part, *[part[-1]] * (size - len(part))], size


def _select(db: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run ``query`` with ``values`` in the place of its ``{}``."""
    return [row for part, size in _parts(values) for row in db.execute(_for_values(query, size), part).fetchall()]


def _ending(hold: Hold) -> tuple[int | None, str | None]:
    """When and why a hold ended, where no entry says so. A row that does not grow is cheaper to update."""
    if hold.state is HoldState.SETTLED and any(hold.charged):
        return None, None
    return hold.resolved_ns, hold.reason


def _write(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run ``statement`` with ``rows`` in the place of its ``{}``, many rows at a time."""
    start = 0
    for size in _ROWS:
        while len(rows) - start >= size:
            part = rows[start : start + size]
            db.execute(_for_rows(statement, size, len(part[0])), list(chain.from_iterable(part)))
            start += size


@lru_cache(maxsize=256)
def _for_rows(statement: str, rows: int, columns: int) -> str:
    return statement.format(", ".join([f"({', '.join('?' * columns)})"] * rows))


@lru_cache(maxsize=256)
def _for_values(statement: str, values: int) -> str:
    return statement.format(", ".join("?" * values))


def _starts_ns(period: str, starts_ns: int) -> int | None:
    return None if period == Period.LIFETIME else starts_ns
