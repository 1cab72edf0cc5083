"""A durable ledger in PostgreSQL, shared by the processes of many machines.

Rules of this file
1. It loads, stores and commits; every decision is the rule's. A batch is one transaction of two round trips: all that
   its commands name is locked and read, then all that changed is written and committed.
2. What is decided upon cannot change before the commit. Accounts are locked first, in the order of their numbers;
   holds and claims are read after that, in statements of their own, which see what was committed until then. Every
   process does so, hence what is done to a hold or its accounts happens one after the other.
3. Who may make an account locks its line first (an advisory lock), so that its windows are made one after the other.
   Ids, claims and external ids that two processes insert at once meet in a unique index: the later one undoes its
   batch, reads again and finds what the earlier did.
4. The time is the server's, read once the locks are held: no decision is taken with a time before that of one that
   it builds on. Which windows that means is guessed beforehand; a wrong guess begins again.
5. A connection that fails is replaced and the batch applied once more; its ids tell what had been committed.
6. Holds belong to an owner, this process, which renews a lease. What a lost owner held is found by its lapsed lease
   and ended by whoever notices first; the owner that was only slow settles late.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tenantguard.adapters.ledger import postgres_statements as sql
from tenantguard.adapters.ledger.backend import BESIDE_NS, DENIALS_MAX, LEASE_S, OUTBOX_LEASE_NS, PRUNED_AT_ONCE
from tenantguard.adapters.ledger.encoding import (
    account_of,
    balance,
    counts,
    denial_of,
    entry_of,
    notice_of,
    open_holds,
)
from tenantguard.adapters.ledger.postgres_batch import Batch, BeginAgain, Known
from tenantguard.adapters.ledger.postgres_link import CONFLICTS, Database, NoAnswer, binary, port_errors
from tenantguard.adapters.ledger.postgres_schema import AUDIT
from tenantguard.adapters.ledger.writer import BEAT_S, QUEUE_MAX, Writer
from tenantguard.adapters.processes import GATE
from tenantguard.rules.ledger import CLAIM_KEPT_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tenantguard.adapters.ledger.postgres_link import Link
    from tenantguard.adapters.ledger.promise import LedgerPromise
    from tenantguard.flow.ports import Balance, Denial, Entry, LedgerCommand, Notice, OpenHold, System
    from tenantguard.model.tenant import TenantId

SCHEMA: Final = "tenantguard"
_ORPHANS_AT_ONCE: Final = 512
_ATTEMPTS: Final = 8
"""How often a batch begins again because of what other processes did, before it counts as failed."""


class PostgresLedger:
    """Durable, and exact across machines, processes and crashes. ``uri`` is ``postgresql://...``, as libpq reads it.

    Nothing is opened before the first use in a process; ``open`` finds beforehand what cannot work. ``deadline_s``
    is how long an answer may take, the server and other processes' locks included; ``queue_max`` placings wait to be
    written at most. Everything is kept in ``schema``. ``now_ns`` is for tests: the time instead of the server's.
    """

    def __init__(
        self,
        uri: str,
        system: System,
        *,
        deadline_s: float = 5.0,
        queue_max: int = QUEUE_MAX,
        schema: str = SCHEMA,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        self._database = Database(uri, schema, deadline_s)
        self._now_ns = now_ns
        backend = PostgresBackend(self._database, system, now_ns)
        self._writer = Writer(backend, deadline_s=deadline_s, queue_max=queue_max)

    def open(self) -> None:
        """Check the database, and make what is missing in it. Raises :class:`ConfigurationError` with a remedy."""
        with GATE:
            self._database.connect().close()

    def submit(self, command: LedgerCommand) -> LedgerPromise:
        """Queue ``command``. The promise is kept once it is committed; it breaks while the database fails."""
        return self._writer.submit(command)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call ``call`` from the writer's thread every few seconds in which nothing is asked."""
        self._writer.idle = call

    def balances(self, tenant: TenantId | None = None, *, at_ns: int | None = None) -> list[Balance]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        with self._patient() as db:
            (now, rows) = db.exchange([(sql.NOW, ()), (sql.BALANCES, (_text(tenant), _text(at_ns)))])
        seen_ns = self._time_ns(now) if at_ns is None else at_ns
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
        """See :class:`~tenantguard.flow.ports.LedgerBooks`.

        Several processes write at once: an entry can become visible after one with a greater ``seq``.
        """
        values = (str(after_seq or 0), _text(tenant), _text(since_ns), _text(until_ns), str(max(limit, 0)))
        with self._patient() as db:
            rows = db.rows(sql.LATEST_ENTRIES if after_seq is None else sql.FIRST_ENTRIES, *values)
        return [entry_of(row) for row in rows]

    def holds(self, tenant: TenantId | None = None) -> list[OpenHold]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        with self._patient() as db:
            return open_holds(db.rows(sql.OPEN_HOLDS, _text(tenant)))

    def denials(self, tenant: TenantId | None = None, limit: int = 100) -> list[Denial]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; at most ``DENIALS_MAX``, and 7 days, are kept."""
        with self._patient() as db:
            return [denial_of(row) for row in db.rows(sql.DENIALS, _text(tenant), str(max(limit, 0)))]

    def audit(self) -> list[str]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        with self._patient() as db:
            _, *found = db.exchange(
                [("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ()), *[(q, ()) for q in AUDIT]]
            )
        return [sentence for rows in found for (sentence,) in rows]

    def outbox(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`; the lease is ``OUTBOX_LEASE_NS``."""
        if limit <= 0:
            return []
        with self._hurried() as db:
            now_ns = self._time_ns(db.rows(sql.NOW))
            rows = db.rows(sql.TAKE_NOTICES, str(now_ns), str(now_ns + OUTBOX_LEASE_NS), str(limit))
        return [notice_of(row) for row in sorted(rows)]

    def delivered(self, seq: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._hurried() as db:
            db.rows(sql.DELIVERED, str(seq), str(self._time_ns(db.rows(sql.NOW))))

    def retry(self, seq: int, due_ns: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._hurried() as db:
            db.rows(sql.RETRY, str(seq), str(due_ns))

    def notices(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._hurried() as db:
            return [notice_of(row) for row in db.rows(sql.NOTICES, str(max(limit, 0)))]

    def close(self) -> None:
        """Commit what is queued and close the connection; usable again afterwards."""
        self._writer.close()

    def _time_ns(self, now: list[tuple[Any, ...]]) -> int:
        return int(now[0][0]) if self._now_ns is None else self._now_ns()

    @contextmanager
    def _hurried(self) -> Iterator[Link]:
        """A connection for one question."""
        with GATE, port_errors(self._database), closing(self._database.connect()) as db:
            yield db

    @contextmanager
    def _patient(self) -> Iterator[Link]:
        """A connection for questions of operators, whose answers may take long."""
        with GATE, port_errors(self._database), closing(self._database.connect(hurried=False)) as db:
            yield db


class PostgresBackend:
    """Applies batches of commands to one database. Connects with the first, in the thread that calls."""

    def __init__(self, database: Database, system: System, now_ns: Callable[[], int] | None) -> None:
        self._database = database
        self._system = system
        self._now_ns = now_ns
        self._inherited: list[Link] = []
        self._begin()

    def _begin(self) -> None:
        self._db: Link | None = None
        self._owner = self._system.ids.new()
        self._beat_due_ns = 0
        self._known = Known()

    def apply(self, commands: Sequence[LedgerCommand]) -> list[Any]:
        """Decide and commit ``commands``; see :class:`~tenantguard.adapters.ledger.backend.Backend`."""
        beats = self._system.clock.monotonic_ns() >= self._beat_due_ns
        if not commands and not beats:
            return []
        with port_errors(self._database):
            try:
                return self._insist(commands, beats=beats)
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Release the connection and, where nothing is pending, this process's ownership."""
        if self._db is not None:
            with suppress(Exception):  # the lease lapses by itself
                self._db.exchange([(sql.LEAVE, (binary(self._owner),))])
        self._drop()

    def forget(self) -> None:
        """Start over in a forked child; of the parent's connection only the copy of its socket is closed."""
        if self._db is not None:
            with suppress(Exception):
                self._db.leave()
            self._inherited.append(self._db)
        self._begin()

    def _drop(self) -> None:
        db, self._db = self._db, None
        self._beat_due_ns = 0
        self._known = Known()
        if db is not None:
            with suppress(Exception):
                db.close()

    def _insist(self, commands: Sequence[LedgerCommand], *, beats: bool) -> list[Any]:
        """Apply ``commands``: again where other processes were first, and once more where the connection was lost."""
        orphans: list[bytes] = []
        beaten = all_done = not beats
        for attempt in range(_ATTEMPTS):
            kept = self._db
            db = self._db = kept or self._database.connect()
            try:
                if not beaten:
                    orphans, all_done = self._beat(db)
                    beaten = True
                answers: list[Any] = []
                if commands or orphans:
                    batch = Batch(db, self._known, commands, orphans, self._owner, self._decided_ns)
                    answers = batch.apply(self._system.clock.wall_ns() + self._known.ahead_ns)
            except (BeginAgain, *CONFLICTS) as other:
                if attempt == _ATTEMPTS - 1 and not isinstance(other, BeginAgain):
                    raise
                db.exchange([("ROLLBACK", ())])
            except NoAnswer:
                raise
            except psycopg.OperationalError:
                if kept is None or not db.closed:
                    raise
                self._drop()
            else:
                if beats and all_done:
                    self._beat_due_ns = self._system.clock.monotonic_ns() + int(BEAT_S * 1e9)
                return answers
        raise psycopg.OperationalError("other processes were first again and again")

    def _decided_ns(self, server_ns: int) -> int:
        """The time of a decision: the server's, or that of a test."""
        now_ns = server_ns if self._now_ns is None else self._now_ns()
        self._known.ahead_ns = now_ns - self._system.clock.wall_ns()
        return now_ns

    def _beat(self, db: Link) -> tuple[list[bytes], bool]:
        """Renew the lease, drop what is old; what lost processes hold, and whether that was all."""
        now_ns = self._decided_ns(db.rows(sql.NOW)[0][0])
        lease_ns = now_ns + int(LEASE_S * 1e9)
        _, orphans, _, *dropped = db.exchange(
            [
                (sql.BEAT, (binary(self._owner), str(lease_ns))),
                (sql.ORPHANS, (str(now_ns), str(_ORPHANS_AT_ONCE))),
                (sql.LAPSE, (str(now_ns),)),
                (sql.DROP_CLAIMS, (str(now_ns - CLAIM_KEPT_NS), str(PRUNED_AT_ONCE))),
                (sql.DROP_NOTICES, (str(now_ns - BESIDE_NS), str(PRUNED_AT_ONCE))),
                (sql.DROP_DENIALS, (str(now_ns - BESIDE_NS), str(DENIALS_MAX), str(PRUNED_AT_ONCE))),
            ]
        )
        all_done = max(count for ((count,),) in dropped) < PRUNED_AT_ONCE and len(orphans) < _ORPHANS_AT_ONCE
        return [hold_id for (hold_id,) in orphans], all_done


def _text(value: TenantId | int | None) -> str:
    """A condition of an operator's question; empty where it sets none."""
    return "" if value is None else str(value)
