"""How batches of commands become durable in a SQLite file.

Rules of this file
1. It loads, stores and commits; every decision is the rule's. A batch is one write transaction, begun IMMEDIATE, so
   that nothing it has read can change before it commits.
2. A batch takes few statements, each for many rows, and touches few pages: the account and the hold where one is
   placed, the same and the entry with its index where it is settled. That is why a hold is one row with its legs,
   leaves its table when it ends, and is known afterwards by its entries alone.
3. What was loaded is kept for the next batch as long as no other connection has written (``PRAGMA data_version``)
   and every transaction succeeded; else it is loaded again.
4. Holds belong to an owner, this process, which renews a lease. What a lost owner held is found by its lapsed lease
   and ended by whoever notices first; the owner that was only slow settles late.
5. What stands beside the books (claims, delivered notices, denials) is dropped when the heart beats, some rows at a
   time, once the rule or ``backend.py`` says that it is no longer kept.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.backend import BESIDE_NS, DENIALS_MAX, LEASE_S, PRUNED_AT_ONCE, decide
from tenantguard.adapters.ledger.encoding import (
    ACCOUNT_COLUMNS,
    DENIAL_COLUMNS,
    ENTRY_COLUMNS,
    TEXTS,
    account_row,
    alert_json,
    alerted_json,
    denial_row,
    entry_row,
    grants_json,
    legs_json,
    terms_json,
    terms_row,
)
from tenantguard.adapters.ledger.rows import delete, write
from tenantguard.adapters.ledger.schema import port_errors
from tenantguard.adapters.ledger.sqlite_loaded import Loaded
from tenantguard.adapters.ledger.writer import BEAT_S
from tenantguard.model.ledger import EntryKind
from tenantguard.rules.ledger import CLAIM_KEPT_NS, HOLDING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from tenantguard.adapters.ledger.schema import LedgerFile
    from tenantguard.flow.ports import LedgerCommand, System
    from tenantguard.rules.ledger import Account, Hold

_ACCOUNTS_KEPT_MAX: Final = 100_000
_ORPHANS_AT_ONCE: Final = 512
_CHANGE_SELDOM: Final = """
    UPDATE account SET tenant = new.column2, ceiling = new.column3, carried = new.column4, grants = new.column5,
        terms = new.column6, alerted = new.column7
    FROM (VALUES {}) AS new WHERE id = new.column1
"""
_NEW_ACCOUNT: Final = f"INSERT INTO account ({ACCOUNT_COLUMNS}) VALUES ({', '.join('?' * 14)}) RETURNING id"
_DENIED_MAX: Final = 10_000
"""How many refusals wait to be written at most; the oldest are forgotten."""

_PRUNE: Final = (
    (
        """
        DELETE FROM claim WHERE (tenant, key) IN (
            SELECT tenant, key FROM claim
            WHERE at_ns <= ? AND NOT EXISTS (SELECT 1 FROM hold WHERE id = claim.hold) ORDER BY at_ns LIMIT ?
        )
        """,
        CLAIM_KEPT_NS,
    ),
    ("DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE delivered_ns <= ? LIMIT ?)", BESIDE_NS),
    ("DELETE FROM decision WHERE at_ns <= ? AND seq IN (SELECT seq FROM decision ORDER BY seq LIMIT ?)", BESIDE_NS),
)
"""What is dropped, and how old it is then."""


class SQLiteBackend:
    """Applies batches of commands to one file. Opens it with the first, in the thread that calls."""

    def __init__(self, file: LedgerFile, system: System) -> None:
        self._file = file
        self._system = system
        self._inherited: list[sqlite3.Connection] = []
        self._denied: deque[tuple[Any, ...]] = deque(maxlen=_DENIED_MAX)
        self._begin()

    def _begin(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._owner = b""
        self._beat_due_ns = 0
        self._unload()

    def _unload(self) -> None:
        """Forget what was loaded."""
        self._loaded = Loaded()
        self._version: int | None = None

    def apply(self, commands: Sequence[LedgerCommand]) -> list[Any]:
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

    @property
    def denied(self) -> list[tuple[Any, ...]]:
        """Refusals that are not written yet, oldest first."""
        return list(self._denied)

    def close(self) -> None:
        """Release the file and, where nothing is pending, this process's ownership."""
        if self._db is not None:
            with suppress(Exception):  # the lease lapses by itself
                self._store_denied(self._db)
                self._denied.clear()
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
        self._denied.clear()
        self._begin()

    def _drop(self) -> None:
        db, self._db = self._db, None
        self._beat_due_ns = 0
        self._unload()
        if db is not None:
            with suppress(Exception):
                db.close()

    def _transact(self, db: sqlite3.Connection, commands: Sequence[LedgerCommand], *, beats: bool) -> list[Any]:
        db.execute("BEGIN IMMEDIATE")
        now_ns = self._system.clock.wall_ns()
        ((version,),) = db.execute("PRAGMA data_version").fetchall()
        if version != self._version or len(self._loaded.books.accounts) > _ACCOUNTS_KEPT_MAX:
            self._unload()
            self._version = version
        all_done = self._beat(db, now_ns) if beats else True
        loaded = self._loaded
        asked = loaded.load(db, commands, now_ns)
        books = loaded.books
        answers = [decide(books, command, now_ns) for command in commands]
        denied = [denial_row(refusal) for refusal in books.refusals]
        books.refusals.clear()
        writes = beats or bool(books.changed or books.lines)
        self._store(db, now_ns)
        if writes and not beats:
            self._store_denied(db)
        db.execute("COMMIT")
        if writes:
            self._denied.clear()
        self._denied += denied
        loaded.release(asked)
        loaded.release_others()
        if beats and all_done:
            self._beat_due_ns = self._system.clock.monotonic_ns() + int(BEAT_S * 1e9)
        return answers

    # the heart

    def _beat(self, db: sqlite3.Connection, now_ns: int) -> bool:
        """Renew the lease, end what lost owners held, drop what is old. False if there was too much of it."""
        if not self._owner:
            self._owner = self._system.ids.new()
        db.execute(
            "INSERT INTO owner VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET lease_until_ns = excluded.lease_until_ns",
            (self._owner, now_ns + int(LEASE_S * 1e9)),
        )
        rows = db.execute(
            "SELECT id FROM hold WHERE state = 'pending'"
            " AND owner NOT IN (SELECT id FROM owner WHERE lease_until_ns >= ?) LIMIT ?",
            (now_ns, _ORPHANS_AT_ONCE),
        ).fetchall()
        orphans = [hold_id for (hold_id,) in rows]
        self._loaded.load_orphans(db, orphans, now_ns)
        for hold_id in orphans:
            self._loaded.books.lose(hold_id, now_ns)
        self._store(db, now_ns)
        self._loaded.release(orphans)
        db.execute("DELETE FROM owner WHERE lease_until_ns < ?", (now_ns,))
        self._store_denied(db)
        return self._prune(db, now_ns) and len(orphans) < _ORPHANS_AT_ONCE

    def _prune(self, db: sqlite3.Connection, now_ns: int) -> bool:
        """Drop what is no longer kept. False if there was too much of it for one transaction."""
        dropped = [
            db.execute(statement, (now_ns - kept_ns, PRUNED_AT_ONCE)).rowcount for statement, kept_ns in _PRUNE
        ]
        db.execute("DELETE FROM decision WHERE seq <= (SELECT max(seq) FROM decision) - ?", (DENIALS_MAX,))
        return max(dropped) < PRUNED_AT_ONCE

    # storing

    def _store(self, db: sqlite3.Connection, now_ns: int) -> None:
        """Write what the books say has changed."""
        books = self._loaded.books
        if not books.changed and not books.lines:
            return
        self._store_accounts(db, books.touched.values())
        if books.changed:
            self._store_holds(db, now_ns)
            self._loaded.stored(books.changed)
        write(
            db,
            f"INSERT INTO entry ({ENTRY_COLUMNS}) VALUES {{}}",
            [entry_row(line, books) for line in books.lines],
        )
        if books.claimed or books.alerts:
            self._store_others(db, now_ns)
        self._loaded.release(books.changed)
        books.stored()

    def _store_holds(self, db: sqlite3.Connection, now_ns: int) -> None:
        books = self._loaded.books
        charged: dict[bytes, int] = {}
        for line in books.lines:
            if line.kind is EntryKind.CHARGE:
                charged[line.op] = charged.get(line.op, 0) + 1
        held: list[Hold] = []
        ended: list[Hold] = []
        released: list[bytes] = []
        revived: list[bytes] = []
        for hold_id, before in books.changed.items():
            hold = books.holds[hold_id]
            if before is not None:
                (released if before in HOLDING else revived).append(hold_id)
            if hold.state in HOLDING:
                held.append(hold)
            elif not hold.legs or charged.get(hold_id) != len(hold.legs):
                ended.append(hold)
        delete(db, "DELETE FROM hold WHERE id IN ({})", released)
        delete(db, "DELETE FROM ended WHERE id IN ({})", revived)
        write(
            db,
            "INSERT INTO hold VALUES {}",
            [
                (
                    hold.id,
                    str(hold.tenant),
                    TEXTS[hold.state],
                    TEXTS[hold.on_orphan],
                    self._owner,
                    hold.placed_ns,
                    legs_json(hold),
                    hold.reason,
                )
                for hold in held
            ],
        )
        write(
            db,
            "INSERT INTO ended VALUES {}",
            [
                (hold.id, hold.tenant and str(hold.tenant), TEXTS[hold.state], legs_json(hold), now_ns, hold.reason)
                for hold in ended
            ],
        )

    def _store_others(self, db: sqlite3.Connection, now_ns: int) -> None:
        """What stands beside the books."""
        books = self._loaded.books
        claims = [
            (str(tenant), key, claimed.fingerprint, claimed.hold, claimed.at_ns, claimed.answer)
            for (tenant, key), claimed in ((claim, books.claims[claim]) for claim in books.claimed)
        ]
        write(db, "INSERT OR REPLACE INTO claim VALUES {}", claims)
        write(
            db,
            "INSERT INTO outbox (kind, payload, made_ns, due_ns) VALUES {}",
            [("alert", alert_json(alert), now_ns, now_ns) for alert in books.alerts],
        )

    def _store_denied(self, db: sqlite3.Connection) -> None:
        """Write the refusals of before. A batch that only refuses leaves them to the next: it waits for no disk."""
        write(db, f"INSERT INTO decision ({DENIAL_COLUMNS}) VALUES {{}}", list(self._denied))

    def _store_accounts(self, db: sqlite3.Connection, accounts: Iterable[Account]) -> None:
        loaded = self._loaded
        amounts: list[tuple[int, int, int]] = []
        seldom: list[tuple[Any, ...]] = []
        for account in accounts:
            number, now = account.number, terms_row(account)
            if not number:
                ((number,),) = db.execute(_NEW_ACCOUNT, account_row(account)).fetchall()
                account.number = number
                loaded.numbered[number] = account
            else:
                amounts.append((number, account.spent, account.held))
                if now != loaded.seldom[number]:
                    tenant, ceiling, carried, grants, terms, alerted = now
                    texts = grants_json(grants), terms_json(terms), alerted_json(alerted)
                    seldom.append((number, tenant and str(tenant), ceiling, carried, *texts))
            loaded.seldom[number] = now
        if len(amounts) == 1:
            db.execute("UPDATE account SET spent = ?2, held = ?3 WHERE id = ?1", amounts[0])
        else:
            write(
                db,
                "UPDATE account SET spent = new.column2, held = new.column3 FROM (VALUES {}) AS new"
                " WHERE id = new.column1",
                amounts,
            )
        write(db, _CHANGE_SELDOM, seldom)
