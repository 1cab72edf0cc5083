"""The ledger's SQLite file: its tables, how it is recognised and opened, and what must be true in it.

A file is opened only after it was found to be ours, empty or new; nothing else is ever written to.
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
SCHEMA_VERSION: Final = 1
_SQLITE_OLDEST: Final = (3, 37, 0)
"""The first with STRICT tables."""

SCHEMA: Final = (
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
        UNIQUE (budget, period, unit, window_starts_ns)
    ) STRICT
    """,
    """
    CREATE TABLE hold (
        id BLOB NOT NULL PRIMARY KEY,
        tenant TEXT,  -- NULL: barred, nothing was ever placed
        state TEXT NOT NULL,
        on_orphan TEXT NOT NULL,
        owner BLOB NOT NULL,
        placed_ns INTEGER NOT NULL,
        ended_ns INTEGER,  -- these two where no entry says it
        reason TEXT
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX hold_pending ON hold (owner) WHERE state = 'pending'",
    """
    CREATE TABLE leg (
        hold BLOB NOT NULL,
        leg INTEGER NOT NULL,
        account INTEGER NOT NULL,
        amount INTEGER NOT NULL CHECK (amount >= 0),
        PRIMARY KEY (hold, leg)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY,
        hold BLOB NOT NULL,
        leg INTEGER NOT NULL,
        account INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        amount INTEGER NOT NULL CHECK (amount >= 0),
        absorbed INTEGER NOT NULL CHECK (absorbed >= 0),
        unit TEXT NOT NULL,
        at_ns INTEGER NOT NULL,
        reason TEXT NOT NULL,
        evidence TEXT NOT NULL,
        source TEXT,
        external_id TEXT,
        UNIQUE (hold, leg)
    ) STRICT
    """,
    "CREATE UNIQUE INDEX entry_outside ON entry (external_id, source, leg) WHERE external_id IS NOT NULL",
    "CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT raise(ABORT, 'entries never change'); END",
    "CREATE TRIGGER entry_lasts BEFORE DELETE ON entry BEGIN SELECT raise(ABORT, 'entries never go'); END",
    "CREATE TABLE owner (id BLOB NOT NULL PRIMARY KEY, lease_until_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

AUDIT: Final = (
    """
    SELECT 'account ' || id || ' spent ' || spent || ', its entries say ' || coalesce(total, 0)
    FROM account LEFT JOIN (SELECT account, sum(amount) AS total FROM entry GROUP BY account) ON account = id
    WHERE spent <> coalesce(total, 0)
    """,
    """
    SELECT 'account ' || id || ' holds ' || held || ', its open legs say ' || coalesce(total, 0)
    FROM account LEFT JOIN (
        SELECT account, sum(amount) AS total FROM hold JOIN leg ON leg.hold = hold.id
        WHERE state IN ('pending', 'review') GROUP BY account
    ) ON account = id
    WHERE held <> coalesce(total, 0)
    """,
    """
    SELECT 'entry ' || seq || ' charges a hold that is ' || coalesce(state, 'unknown')
    FROM entry LEFT JOIN hold ON hold.id = entry.hold WHERE state IS NOT 'settled'
    """,
    """
    SELECT 'entry ' || seq || ' does not fit its leg'
    FROM entry LEFT JOIN leg ON leg.hold = entry.hold AND leg.leg = entry.leg
    WHERE leg.account IS NOT entry.account OR entry.amount > leg.amount
    """,
    """
    SELECT 'entry ' || min(seq) || ' and entry ' || max(seq) || ' charge one external id for two holds'
    FROM entry WHERE external_id IS NOT NULL GROUP BY external_id, source HAVING count(DISTINCT hold) > 1
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
        self._check_path()
        try:
            db = sqlite3.connect(self._path, timeout=self._lock_wait_s, isolation_level=None, cached_statements=256)
        except sqlite3.OperationalError:
            raise self._unusable("cannot be opened", "check the path and its permissions") from None
        try:
            self._recognise(db)
            _to_wal(db, self._lock_wait_s)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 4000")
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
        if not os.access(folder, os.W_OK):
            raise self._unusable("is in a read-only directory", "SQLite writes files beside it: make that possible")

    def _recognise(self, db: sqlite3.Connection) -> None:
        if self._is_ours(db):
            return
        db.execute("BEGIN IMMEDIATE")
        if not self._is_ours(db):  # no other process made it meanwhile
            for statement in SCHEMA:
                db.execute(statement)
        db.execute("COMMIT")

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """True for a ledger, False for an empty database; anything else is refused."""
        ((application,),) = db.execute("PRAGMA application_id").fetchall()
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        ((tables,),) = db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        if (application, version, tables) == (0, 0, 0):
            return False
        if application != APPLICATION_ID:
            raise self._unusable("is another program's database", "name another file")
        if version > SCHEMA_VERSION:
            raise self._unusable(
                f"was written by a newer TenantGuard (schema {version}, this one knows {SCHEMA_VERSION})",
                "upgrade TenantGuard or name another file",
            )
        return True

    def _explain(self, error: sqlite3.Error) -> ConfigurationError | PortError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_NOTADB"):
            return self._unusable("is no database", "name another file")
        if name.startswith("SQLITE_READONLY"):
            return self._unusable("cannot be written", "make it and its directory writable for this process")
        if name.startswith("SQLITE_CANTOPEN"):
            return self._unusable("cannot be opened", "check its permissions and those of its directory")
        return PortError("ledger", str(error))

    def _unusable(self, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"the ledger file {str(self._path)!r} {problem}: {remedy}")


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
