"""The ledger's SQLite file: its tables, how it is recognised and opened, and what must be true in it.

A file is opened only after it was found to be ours, empty or new; nothing else is ever written to. One that an
earlier version wrote is brought forward when it is first opened, in one transaction.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError, PortError

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID: Final = int.from_bytes(b"TGld", "big")
SCHEMA_VERSION: Final = 2
_SQLITE_OLDEST: Final = (3, 37, 0)
"""The first with STRICT tables."""

_TABLES_2: Final = (
    """
    CREATE TABLE account (
        id INTEGER PRIMARY KEY,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        unit TEXT NOT NULL,
        window_starts_ns INTEGER NOT NULL,  -- 0 where the period is a lifetime
        window_ends_ns INTEGER,
        tenant TEXT,  -- NULL once several share it
        ceiling INTEGER,  -- the limit of the last placing
        spent INTEGER NOT NULL CHECK (spent >= 0),
        held INTEGER NOT NULL CHECK (held >= 0),
        carried INTEGER NOT NULL,
        grants TEXT,  -- JSON: [amount, expires_ns] for each
        terms TEXT,  -- JSON, of the last placing; NULL: strict and nothing else
        alerted TEXT,  -- JSON: the thresholds that were reached
        previous INTEGER,  -- the window before that was touched
        UNIQUE (budget, period, unit, window_starts_ns)
    ) STRICT
    """,
    "CREATE INDEX account_tenant ON account (tenant)",
    """
    CREATE TABLE hold (  -- what is held now: a row leaves when it ends
        id BLOB NOT NULL PRIMARY KEY,
        tenant TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'review')),
        on_orphan TEXT NOT NULL,
        owner BLOB NOT NULL,
        placed_ns INTEGER NOT NULL,
        legs TEXT NOT NULL,  -- JSON: [account, held] for each leg
        reason TEXT
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE ended (  -- how a hold ended, where no entries say so
        id BLOB NOT NULL PRIMARY KEY,
        tenant TEXT,  -- NULL: barred, nothing was ever placed
        state TEXT NOT NULL CHECK (state IN ('settled', 'voided', 'expired')),
        legs TEXT NOT NULL,  -- JSON: [account, held, charged] for each leg
        ended_ns INTEGER NOT NULL,
        reason TEXT
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY,
        op BLOB NOT NULL,  -- a charge's is its hold
        leg INTEGER NOT NULL,
        kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),  -- 0 charge, 1 refund, 2 correction, 3 grant
        account INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        held INTEGER NOT NULL,  -- on the leg of a charge
        amount INTEGER NOT NULL CHECK (CASE kind WHEN 1 THEN amount < 0 WHEN 2 THEN amount <> 0 ELSE amount >= 0 END),
        absorbed INTEGER NOT NULL CHECK (absorbed >= 0),
        unit TEXT NOT NULL,
        at_ns INTEGER NOT NULL,
        reason TEXT NOT NULL,
        evidence TEXT NOT NULL,
        source TEXT,
        external_id TEXT,
        of BLOB,  -- the hold whose charge is refunded
        UNIQUE (op, leg, kind)
    ) STRICT
    """,
    "CREATE UNIQUE INDEX entry_outside ON entry (external_id, source, leg) WHERE external_id IS NOT NULL",
    "CREATE INDEX entry_of ON entry (of) WHERE of IS NOT NULL",
    "CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT raise(ABORT, 'entries never change'); END",
    "CREATE TRIGGER entry_lasts BEFORE DELETE ON entry BEGIN SELECT raise(ABORT, 'entries never go'); END",
    """
    CREATE TABLE claim (  -- idempotency keys
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        hold BLOB NOT NULL,
        at_ns INTEGER NOT NULL,
        answer BLOB,  -- the response that was kept, sealed
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX claim_age ON claim (at_ns)",
    """
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        payload TEXT NOT NULL,  -- JSON
        made_ns INTEGER NOT NULL,
        due_ns INTEGER NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0,
        delivered_ns INTEGER
    ) STRICT
    """,
    "CREATE INDEX outbox_due ON outbox (due_ns) WHERE delivered_ns IS NULL",
    "CREATE INDEX outbox_done ON outbox (delivered_ns) WHERE delivered_ns IS NOT NULL",
    """
    CREATE TABLE decision (  -- placings that found no room, the latest of them
        seq INTEGER PRIMARY KEY,
        hold BLOB NOT NULL,
        tenant TEXT NOT NULL,
        budget TEXT NOT NULL,
        period TEXT NOT NULL,
        unit TEXT NOT NULL,
        window_starts_ns INTEGER NOT NULL,
        needed INTEGER NOT NULL,
        available INTEGER NOT NULL,
        at_ns INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE TABLE owner (id BLOB NOT NULL PRIMARY KEY, lease_until_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID",
)

SCHEMA: Final = (*_TABLES_2, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}")

_FROM_1: Final = (
    "DROP TRIGGER entry_stays",
    "DROP TRIGGER entry_lasts",
    "DROP INDEX entry_outside",
    "DROP INDEX hold_pending",
    *[f"ALTER TABLE {table} RENAME TO {table}_1" for table in ("account", "hold", "leg", "entry", "owner")],
    *_TABLES_2,
    """
    INSERT INTO account
    SELECT id, budget, period, unit, window_starts_ns, window_ends_ns, tenant, ceiling, spent, held, 0, NULL, NULL,
        NULL, lag(id) OVER (PARTITION BY budget, period, unit ORDER BY window_starts_ns)
    FROM account_1 ORDER BY id
    """,
    """
    INSERT INTO hold
    SELECT id, tenant, state, on_orphan, owner, placed_ns, coalesce((
        SELECT '[' || group_concat(leg, ',') || ']'
        FROM (SELECT json_array(account, amount) AS leg FROM leg_1 WHERE hold = id ORDER BY leg_1.leg)
    ), '[]'), reason
    FROM hold_1 WHERE state IN ('pending', 'review')
    """,
    """
    INSERT INTO ended
    SELECT id, tenant, state, coalesce((
        SELECT '[' || group_concat(leg, ',') || ']'
        FROM (
            SELECT json_array(l.account, l.amount, coalesce(e.amount, 0)) AS leg
            FROM leg_1 l LEFT JOIN entry_1 e ON e.hold = l.hold AND e.leg = l.leg WHERE l.hold = id ORDER BY l.leg
        )
    ), '[]'), coalesce(ended_ns, placed_ns), reason
    FROM hold_1 WHERE state NOT IN ('pending', 'review') AND (
        state <> 'settled' OR tenant IS NULL OR NOT EXISTS (SELECT 1 FROM leg_1 WHERE hold = id)
        OR (SELECT count(*) FROM leg_1 WHERE hold = id) <> (SELECT count(*) FROM entry_1 WHERE entry_1.hold = id)
    )
    """,
    """
    INSERT INTO entry
    SELECT seq, e.hold, e.leg, 0, e.account, tenant, l.amount, e.amount, absorbed, unit, at_ns, reason, evidence,
        source, external_id, NULL
    FROM entry_1 e JOIN leg_1 l ON l.hold = e.hold AND l.leg = e.leg ORDER BY seq
    """,
    "INSERT INTO owner SELECT * FROM owner_1",
    *[f"DROP TABLE {table}_1" for table in ("account", "hold", "leg", "entry", "owner")],
    "PRAGMA user_version = 2",
)
"""Version 1 kept every hold and a row for each of its legs for ever; now entries tell of most that have ended."""

MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {1: _FROM_1}
"""What leads from a version to the next. A version's tables never change once it was released."""

AUDIT: Final = (
    """
    SELECT 'account ' || id || ' spent ' || spent || ', its entries say ' || coalesce(total, 0)
    FROM account LEFT JOIN (
        SELECT account, sum(amount) AS total FROM entry WHERE kind <> 3 GROUP BY account
    ) ON account = id
    WHERE spent <> coalesce(total, 0)
    """,
    """
    SELECT 'account ' || id || ' holds ' || held || ', its open legs say ' || coalesce(total, 0)
    FROM account LEFT JOIN (
        SELECT json_extract(leg.value, '$[0]') AS account, sum(json_extract(leg.value, '$[1]')) AS total
        FROM hold JOIN json_each(hold.legs) AS leg GROUP BY 1
    ) ON account = id
    WHERE held <> coalesce(total, 0)
    """,
    """
    SELECT 'account ' || id || ' was granted ' || in_account || ', its entries say ' || coalesce(total, 0)
    FROM (
        SELECT id, (SELECT coalesce(sum(json_extract(value, '$[0]')), 0) FROM json_each(grants)) AS in_account
        FROM account
    ) LEFT JOIN (SELECT account, sum(amount) AS total FROM entry WHERE kind = 3 GROUP BY account) ON account = id
    WHERE in_account <> coalesce(total, 0)
    """,
    """
    SELECT 'account ' || account.id || ' follows ' || account.previous || ', which is no earlier window of it'
    FROM account LEFT JOIN account AS other ON other.id = account.previous
    WHERE account.previous IS NOT NULL AND (
        (other.budget, other.period, other.unit) IS NOT (account.budget, account.period, account.unit)
        OR other.window_starts_ns >= account.window_starts_ns
    )
    """,
    """
    SELECT 'hold ' || hex(id) || ' is held and has ended' FROM hold
    WHERE id IN (SELECT id FROM ended) OR id IN (SELECT op FROM entry WHERE kind = 0)
    """,
    """
    SELECT 'entry ' || seq || ' charges a hold that is ' || state
    FROM entry JOIN ended ON ended.id = entry.op WHERE kind = 0 AND state <> 'settled'
    """,
    """
    SELECT 'entry ' || seq || ' does not fit its leg'
    FROM entry JOIN ended ON ended.id = entry.op
    JOIN json_each(ended.legs) AS other ON other.key = entry.leg
    WHERE kind = 0 AND json(other.value) <> json_array(account, held, amount)
    """,
    """
    SELECT 'hold ' || hex(ended.id) || ' has ended with a charge that no entry shows'
    FROM ended JOIN json_each(ended.legs) AS leg
    WHERE json_extract(leg.value, '$[2]') > 0
    AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.op = ended.id AND entry.leg = leg.key AND kind = 0)
    """,
    """
    SELECT 'hold ' || hex(back.of) || ' leg ' || back.leg || ' was given back ' || total || ' of '
        || coalesce(charge.amount, 0)
    FROM (SELECT of, leg, account, -sum(amount) AS total FROM entry WHERE of IS NOT NULL GROUP BY 1, 2, 3) AS back
    LEFT JOIN entry AS charge
        ON charge.op = back.of AND charge.leg = back.leg AND charge.kind = 0 AND charge.account = back.account
    WHERE total > coalesce(charge.amount, 0)
    """,
    "SELECT 'entry ' || seq || ' has evidence that cannot be read' FROM entry WHERE NOT json_valid(evidence)",
    "SELECT 'entry ' || seq || ' refunds no hold' FROM entry WHERE (kind = 1) <> (of IS NOT NULL)",
    "SELECT 'entry ' || seq || ' is of no account' FROM entry WHERE account NOT IN (SELECT id FROM account)",
    """
    SELECT 'entry ' || min(seq) || ' and entry ' || max(seq) || ' charge one external id for two holds'
    FROM entry WHERE external_id IS NOT NULL GROUP BY external_id, source HAVING count(DISTINCT op) > 1
    """,
    """
    SELECT 'the claim ' || key || ' of ' || tenant || ' is of no hold of that tenant' FROM claim
    WHERE NOT EXISTS (SELECT 1 FROM hold WHERE id = claim.hold AND tenant = claim.tenant)
    AND NOT EXISTS (SELECT 1 FROM ended WHERE id = claim.hold AND tenant = claim.tenant)
    AND NOT EXISTS (SELECT 1 FROM entry WHERE op = claim.hold AND kind = 0 AND tenant = claim.tenant)
    """,
    """
    SELECT 'notice ' || seq || ' was delivered without a try' FROM outbox
    WHERE delivered_ns IS NOT NULL AND tries = 0
    """,
    """
    SELECT 'notice ' || max(seq) || ' is beyond the last that was numbered' FROM outbox
    HAVING max(seq) > (SELECT seq FROM sqlite_sequence WHERE name = 'outbox')
    """,
    "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
)
"""Each row that one of these gives is a broken invariant, as a sentence."""


class LedgerFile:
    """A path at which a ledger is or can be made. ``lock_wait_s``: how long another process's lock is waited for."""

    def __init__(self, path: str | os.PathLike[str], lock_wait_s: float) -> None:
        if os.fspath(path) in {"", ":memory:"}:
            raise ConfigurationError("the SQLite ledger needs a file: name one, or use the ledger in memory")
        self._path = Path(path).absolute()
        self._lock_wait_s = lock_wait_s

    def connect(self) -> sqlite3.Connection:
        """Open the file, or make it. The caller closes the connection, in the same thread.

        Raises :class:`ConfigurationError` for what can never be a ledger, :class:`PortError` for what fails now.
        """
        try:
            self._check_path()
        except OSError as error:  # of a file system that fails now, or a name that no file can have
            raise self._unusable("cannot be looked at", error.strerror or type(error).__name__) from None
        try:
            db = sqlite3.connect(self._path, timeout=self._lock_wait_s, isolation_level=None, cached_statements=256)
        except sqlite3.OperationalError:
            raise self._unusable("cannot be opened", "check the path and its permissions") from None
        try:
            self._recognise(db)
            _to_wal(db, self._lock_wait_s)
            db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            db.close()
            raise self._explain(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _check_path(self) -> None:
        path, folder = self._path, self._path.parent
        if sqlite3.sqlite_version_info < _SQLITE_OLDEST:
            raise ConfigurationError(f"the SQLite ledger needs SQLite 3.37, this is {sqlite3.sqlite_version}")
        if path.is_dir():
            raise self._unusable("is a directory", "name a file in it")
        if not folder.is_dir():
            raise self._unusable("is in a directory that does not exist", f"make {str(folder)!r}")
        if path.exists() and (not os.access(path, os.W_OK) or not path.stat().st_mode & 0o222):
            raise self._unusable("is read-only", "make it writable for this process or name another file")
        # the log first: it is there only once the file has something in it
        if _size(path.with_name(path.name + "-wal")) and path.exists() and not _size(path):
            raise self._unusable("was cut off, and its log is still there", "restore it from a backup")
        if not os.access(folder, os.W_OK):
            raise self._unusable("is in a read-only directory", "SQLite writes files beside it: make that possible")

    def _recognise(self, db: sqlite3.Connection) -> None:
        if self._version(db) == SCHEMA_VERSION:
            return
        db.execute("BEGIN IMMEDIATE")
        version = self._version(db)  # another process may have made or migrated it meanwhile
        if version is None:
            for statement in SCHEMA:
                db.execute(statement)
        else:
            for older in range(version, SCHEMA_VERSION):
                for statement in MIGRATIONS[older]:
                    db.execute(statement)
        db.execute("COMMIT")

    def _version(self, db: sqlite3.Connection) -> int | None:
        """A ledger's version, None for an empty database; anything else is refused."""
        ((application,),) = db.execute("PRAGMA application_id").fetchall()
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        ((tables,),) = db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        if (application, version, tables) == (0, 0, 0):
            return None
        if application != APPLICATION_ID:
            raise self._unusable("is another program's database", "name another file")
        if version > SCHEMA_VERSION:
            raise self._unusable(
                f"was written by a newer TenantGuard (schema {version}, this one knows {SCHEMA_VERSION})",
                "upgrade TenantGuard or name another file",
            )
        return int(version)

    def _explain(self, error: sqlite3.Error) -> ConfigurationError | PortError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_NOTADB"):
            return self._unusable("is no database", "name another file")
        if name.startswith("SQLITE_CORRUPT"):
            return self._unusable("is damaged", "restore it from a backup")
        if name.startswith("SQLITE_READONLY"):
            return self._unusable("cannot be written", "make it and its directory writable for this process")
        if name.startswith("SQLITE_CANTOPEN"):
            return self._unusable("cannot be opened", "check its permissions and those of its directory")
        return PortError("ledger", str(error))

    def _unusable(self, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"the ledger file {str(self._path)!r} {problem}: {remedy}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _to_wal(db: sqlite3.Connection, patience_s: float) -> None:
    """Switch to the write-ahead log, once in a file's life; SQLite does not wait for locks here, so try again."""
    tries = max(1, int(patience_s / 0.01))
    for last in (attempt == tries - 1 for attempt in range(tries)):
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            if last or not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def port_errors() -> Iterator[None]:
    """Turn what the database or its file can fail with into :class:`PortError`; a value it refuses passes through."""
    try:
        yield
    except ConfigurationError as error:
        raise PortError("ledger", str(error)) from error
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError):
        raise
    except sqlite3.DatabaseError as error:
        raise PortError("ledger", str(error)) from error
