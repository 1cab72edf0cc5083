"""A durable ledger in one SQLite file, shared by the processes of one machine.

Commands go through the group-commit writer to :class:`~.sqlite_backend.SQLiteBackend`. What operators read, and the
outbox, goes straight to the file, each time over a connection of its own.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.backend import OUTBOX_LEASE_NS
from tenantguard.adapters.ledger.encoding import (
    ACCOUNT_COLUMNS,
    DENIAL_COLUMNS,
    NOTICE_COLUMNS,
    OPEN_COLUMNS,
    SHOWN_COLUMNS,
    account_of,
    balance,
    counts,
    denial_of,
    entry_of,
    notice_of,
    open_holds,
)
from tenantguard.adapters.ledger.schema import AUDIT, LedgerFile, port_errors
from tenantguard.adapters.ledger.sqlite_backend import SQLiteBackend
from tenantguard.adapters.ledger.writer import QUEUE_MAX, Writer
from tenantguard.adapters.processes import GATE
from tenantguard.errors import PortError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from tenantguard.adapters.ledger.promise import LedgerPromise
    from tenantguard.flow.ports import Balance, Denial, Entry, LedgerCommand, Notice, OpenHold, System
    from tenantguard.model.tenant import TenantId

_DUE: Final = "delivered_ns IS NULL AND due_ns <= ?1"


class SQLiteLedger:
    """Durable, and exact across processes and crashes. ``path`` is a file on a local disk, made if missing.

    Nothing is opened before the first use in a process; ``open`` finds beforehand what cannot work. ``deadline_s``
    is how long an answer may take and how long another process's lock is waited for; ``queue_max`` placings wait to
    be written at most. What blocks raises :class:`~tenantguard.errors.PortError` where the file fails.
    """

    def __init__(
        self, path: str | os.PathLike[str], system: System, *, deadline_s: float = 5.0, queue_max: int = QUEUE_MAX
    ) -> None:
        self._file = LedgerFile(path, deadline_s)
        self._clock = system.clock
        self._backend = SQLiteBackend(self._file, system)
        self._writer = Writer(self._backend, deadline_s=deadline_s, queue_max=queue_max)

    def open(self) -> None:
        """Check the file, make it where it is missing, bring it forward where it is of an earlier version.

        Raises :class:`ConfigurationError` with a remedy.
        """
        with GATE:
            self._file.connect().close()

    def submit(self, command: LedgerCommand) -> LedgerPromise:
        """Queue ``command``. The promise is kept once it is committed; it breaks while the file cannot be written."""
        return self._writer.submit(command)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call ``call`` from the writer's thread every few seconds in which nothing is asked."""
        self._writer.idle = call

    def balances(self, tenant: TenantId | None = None, *, at_ns: int | None = None) -> list[Balance]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        rows = self._read(
            f"SELECT id, {ACCOUNT_COLUMNS} FROM account WHERE {'?1 IS NULL' if tenant is None else 'tenant = ?1'} AND"
            " (?2 IS NULL OR window_ends_ns IS NULL OR window_ends_ns > ?2 OR period LIKE 'rolling%') ORDER BY id",
            (tenant and str(tenant), at_ns),
        )
        seen_ns = self._clock.wall_ns() if at_ns is None else at_ns
        with _readable():
            found = [balance(account_of(number, row), seen_ns) for number, *row in rows]
        return found if at_ns is None else [each for each in found if counts(each, at_ns)]

    def entries(
        self,
        tenant: TenantId | None = None,
        limit: int = 100,
        *,
        after_seq: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> list[Entry]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        rows = self._read(
            f"SELECT {SHOWN_COLUMNS} FROM entry e JOIN account a ON a.id = e.account"
            " WHERE seq > ?1 AND (?2 IS NULL OR e.tenant = ?2) AND (?3 IS NULL OR at_ns >= ?3)"
            f" AND (?4 IS NULL OR at_ns < ?4) ORDER BY seq {'DESC' if after_seq is None else 'ASC'} LIMIT ?5",
            (after_seq or 0, tenant and str(tenant), since_ns, until_ns, max(limit, 0)),
        )
        with _readable():
            return [entry_of(row) for row in rows]

    def holds(self, tenant: TenantId | None = None) -> list[OpenHold]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        rows = self._read(
            f"SELECT {OPEN_COLUMNS}, json_extract(leg.value, '$[1]') FROM hold h LEFT JOIN json_each(h.legs) AS leg"
            " LEFT JOIN account a ON a.id = json_extract(leg.value, '$[0]')"
            " WHERE ?1 IS NULL OR h.tenant = ?1 ORDER BY h.id, leg.key",
            (tenant and str(tenant),),
        )
        with _readable():
            return open_holds(rows)

    def denials(self, tenant: TenantId | None = None, limit: int = 100) -> list[Denial]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; at most ``DENIALS_MAX``, and 7 days, are kept.

        Those of other processes are seen within five seconds: refusing waits for no disk.
        """
        limit = max(limit, 0)
        waiting = [denial_of(row) for row in reversed(self._backend.denied)]
        found = [denial for denial in waiting if tenant is None or denial.tenant == tenant][:limit]
        rows = self._read(
            f"SELECT {DENIAL_COLUMNS} FROM decision WHERE ?1 IS NULL OR tenant = ?1 ORDER BY seq DESC LIMIT ?2",
            (tenant and str(tenant), limit - len(found)),
        )
        with _readable():
            return found + [denial_of(row) for row in rows]

    def audit(self) -> list[str]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        with GATE, port_errors(), closing(self._file.connect()) as db:
            db.execute("BEGIN")
            return [sentence for query in AUDIT for (sentence,) in db.execute(query)]

    def outbox(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`; the lease is ``OUTBOX_LEASE_NS``."""
        now_ns = self._clock.wall_ns()
        with GATE, port_errors(), closing(self._file.connect()) as db:
            if limit <= 0 or not db.execute(f"SELECT 1 FROM outbox WHERE {_DUE} LIMIT 1", (now_ns,)).fetchall():
                return []
            rows = db.execute(
                "UPDATE outbox SET due_ns = ?2, tries = tries + 1 WHERE seq IN"
                f" (SELECT seq FROM outbox WHERE {_DUE} ORDER BY seq LIMIT ?3)"
                f" RETURNING {NOTICE_COLUMNS}",
                (now_ns, now_ns + OUTBOX_LEASE_NS, limit),
            ).fetchall()
        with _readable():
            return [notice_of(row) for row in sorted(rows)]

    def delivered(self, seq: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        now_ns = self._clock.wall_ns()
        self._change("UPDATE outbox SET delivered_ns = ?2 WHERE seq = ?1 AND delivered_ns IS NULL", (seq, now_ns))

    def retry(self, seq: int, due_ns: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        self._change("UPDATE outbox SET due_ns = ?2 WHERE seq = ?1 AND delivered_ns IS NULL", (seq, due_ns))

    def notices(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        rows = self._read(
            f"SELECT {NOTICE_COLUMNS} FROM outbox WHERE delivered_ns IS NULL ORDER BY seq DESC LIMIT ?1",
            (max(limit, 0),),
        )
        with _readable():
            return [notice_of(row) for row in rows]

    def close(self) -> None:
        """Commit what is queued and close the file; usable again afterwards."""
        self._writer.close()

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with GATE, port_errors(), closing(self._file.connect()) as db:
            return db.execute(query, values).fetchall()

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with GATE, port_errors(), closing(self._file.connect()) as db:
            db.execute(statement, values)


@contextmanager
def _readable() -> Iterator[None]:
    """A row that makes no sense is that of a damaged file. What is in it is not told."""
    try:
        yield
    except (LookupError, TypeError, ValueError):
        raise PortError("ledger", "the file is damaged: restore it from a backup") from None
