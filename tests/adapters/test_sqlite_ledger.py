"""The SQLite ledger against the world: several processes, kills, forks, bad files, a database that hangs."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tenantguard
from tenantguard.adapters.ledger import sqlite_backend
from tenantguard.adapters.ledger.backend import BESIDE_NS
from tenantguard.adapters.ledger.schema import APPLICATION_ID, SCHEMA_VERSION
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.ledger.sqlite_backend import SQLiteBackend
from tenantguard.adapters.system import TimeOrderedIds, real_system
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.ports import (
    Barred,
    Claim,
    Exhausted,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    PlaceHold,
    Resolved,
    ResolveHold,
    System,
)
from tenantguard.model.ledger import Counted, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import CLAIM_KEPT_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.effects import Promise

ROOT = Path(tenantguard.__file__).parents[1]
ACME = TenantId("acme")
AMOUNT = 7

PRELUDE = """
import os, sys
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.flow.ports import Held, Leg, OnOrphan, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

system = real_system()
ledger = SQLiteLedger(sys.argv[1], system, deadline_s=30.0)
limit = int(sys.argv[2]) if len(sys.argv) > 2 else None
legs = (Leg(("tenant", "acme"), Period.LIFETIME, "USD", limit, 7, 7),)

def place(hold_id):
    return ledger.submit(PlaceHold(hold_id, TenantId("acme"), legs))

def settle(hold_id):
    return ledger.submit(ResolveHold(hold_id, (7,), "completed", {"output": 1}, "openai", hold_id.hex()))

def answer(promise):
    assert promise.wait(60)
    return promise.result()
"""


class Clock:
    """This machine's wall clock, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_ns = 0
        self._real = real_system().clock

    def monotonic_ns(self) -> int:
        return self._real.monotonic_ns() + self.ahead_ns

    def wall_ns(self) -> int:
        return self._real.wall_ns() + self.ahead_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[SQLiteLedger]:
    ledger = SQLiteLedger(path, System(clock, TimeOrderedIds()), deadline_s=30.0)
    yield ledger
    ledger.close()
    assert ledger.audit() == []


def leg(most: int = AMOUNT, limit: int | None = 100, unit: str = "USD") -> Leg:
    return Leg(("tenant", "acme"), Period.LIFETIME, unit, limit, most, most)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


def answer(promise: Promise[Any]) -> Any:
    assert promise.wait(60)
    return promise.result()


def place(ledger: SQLiteLedger, number: int, *, limit: int | None = 100, on_orphan: OnOrphan = OnOrphan.VOID) -> Any:
    return answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=limit),), on_orphan)))


def settle(ledger: SQLiteLedger, number: int) -> Any:
    return answer(ledger.submit(ResolveHold(hold(number), (AMOUNT,), "completed")))


def balance(ledger: SQLiteLedger) -> tuple[int, int]:
    (balance,) = ledger.balances()
    return balance.spent, balance.held


def child(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# several processes


def test_two_processes_accept_exactly_what_the_limit_carries(path: Path, ledger: SQLiteLedger) -> None:
    """Promise 1. Both also make the file, at the same moment."""
    limit = 300 * AMOUNT + AMOUNT - 1
    script = """
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
accepted = 0
for _ in range(6):
    ids = [system.ids.new() for _ in range(50)]
    promises = [place(hold_id) for hold_id in ids]
    held = [hold_id for hold_id, promise in zip(ids, promises) if isinstance(answer(promise), Held)]
    for promise in [settle(hold_id) for hold_id in held[::2]]:
        answer(promise)
    accepted += len(held)
print(accepted); sys.stdout.flush()
sys.stdin.readline()
"""
    children = [child(script, path, limit) for _ in range(2)]
    pipes = [(each, each.stdin, each.stdout) for each in children]
    for _, _, out in pipes:
        assert out is not None
        assert out.readline() == b"ready\n"
    for _, into, _ in pipes:
        assert into is not None
        into.write(b"go\n")
        into.flush()
    accepted = [int(out.readline()) for _, _, out in pipes if out is not None]
    assert sum(accepted) == limit // AMOUNT
    assert isinstance(place(ledger, 1, limit=limit), Exhausted)
    assert sum(balance(ledger)) == limit // AMOUNT * AMOUNT
    for each in children:
        each.communicate(b"end\n", timeout=60)
        assert each.returncode == 0


def test_nothing_that_was_acknowledged_is_lost_when_a_process_is_killed(
    path: Path, ledger: SQLiteLedger, clock: Clock
) -> None:
    """A killed process loses no answer that it gave, charges nothing twice, and what it held comes free."""
    script = """
while True:
    ids = [system.ids.new() for _ in range(20)]
    for kind, promises in (("held", map(place, ids)), ("settled", map(settle, ids))):
        for hold_id, promise in zip(ids, list(promises)):
            answer(promise)
            os.write(1, f"{kind} {hold_id.hex()}\\n".encode())
"""
    settled: list[str] = []
    held: list[str] = []
    for after in (1, 25, 130, 333):
        process = child(script, path)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        rest = process.communicate(timeout=60)[0].splitlines(keepends=True)
        for line in [*lines, *rest]:
            if line.endswith(b"\n"):
                kind, hold_id = line.decode().split()
                (settled if kind == "settled" else held).append(hold_id)
        assert ledger.audit() == []
    charged = [entry.op.hex() for entry in ledger.entries(limit=10**6)]
    assert len(charged) == len(set(charged))
    assert set(settled) <= set(charged)
    with closing(sqlite3.connect(path)) as db:
        placed = {hold_id.hex() for (hold_id,) in db.execute("SELECT id FROM hold UNION SELECT op FROM entry")}
    assert set(held) <= placed
    clock.ahead_ns += 60 * 10**9
    place(ledger, 1, limit=None)
    assert balance(ledger) == (AMOUNT * len(charged), AMOUNT)


@pytest.mark.parametrize(
    ("on_orphan", "spent", "held", "late"),
    [
        (OnOrphan.VOID, 0, 0, Resolved(HoldState.SETTLED, (AMOUNT,))),
        (OnOrphan.CHARGE_HOLD, AMOUNT, 0, Resolved(HoldState.SETTLED, (AMOUNT,))),
        (OnOrphan.REVIEW, 0, AMOUNT, Resolved(HoldState.SETTLED, (AMOUNT,))),
    ],
)
def test_what_a_lost_process_held_ends_once_its_lease_has_lapsed(
    path: Path, ledger: SQLiteLedger, clock: Clock, on_orphan: OnOrphan, spent: int, held: int, late: Resolved
) -> None:
    """Its own late settling, if it was only slow, is still taken."""
    script = f"""
answer(ledger.submit(PlaceHold(bytes(16), TenantId("acme"), legs, OnOrphan({str(on_orphan)!r}))))
os.write(1, b"held\\n")
os.kill(os.getpid(), 9)
"""
    assert child(script, path, 100).communicate(timeout=60)[0] == b"held\n"
    ledger.submit(ResolveHold(hold(1), None, "wakes the writer")).wait(60)
    assert balance(ledger) == (0, AMOUNT)
    clock.ahead_ns += 15 * 10**9
    ledger.submit(ResolveHold(hold(2), None, "the lease still runs")).wait(60)
    assert balance(ledger) == (0, AMOUNT)
    clock.ahead_ns += 10 * 10**9
    ledger.submit(ResolveHold(hold(3), None, "the lease has lapsed")).wait(60)
    assert balance(ledger) == (spent, held)
    assert answer(ledger.submit(ResolveHold(bytes(16), (AMOUNT,), "late"))) == late
    assert balance(ledger) == (AMOUNT, 0)


def test_a_live_process_keeps_its_holds_however_long_they_last(
    path: Path, ledger: SQLiteLedger, clock: Clock
) -> None:
    other = SQLiteLedger(path, System(clock, TimeOrderedIds()))
    place(ledger, 1)
    for number in range(10, 20):
        clock.ahead_ns += 10 * 10**9
        settle(ledger, number)
        answer(other.submit(ResolveHold(hold(100 + number), None, "beats")))
    other.close()
    assert balance(ledger) == (0, AMOUNT)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))


def test_what_was_queued_is_committed_when_the_process_exits(path: Path, ledger: SQLiteLedger) -> None:
    process = child("ids = [place(system.ids.new()) for _ in range(100)]", path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert balance(ledger) == (0, 100 * AMOUNT)


# forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def forked(task: Any) -> int:
    """Run ``task`` in a forked child; its exit status. Newer Pythons warn of forking beside threads: our case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            task()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
def test_a_forked_child_starts_its_own_writer(ledger: SQLiteLedger) -> None:
    """Design 3.9: threads and connections of the parent are dropped after a fork."""
    place(ledger, 1)
    backend = ledger._writer._backend
    assert isinstance(backend, SQLiteBackend)
    parents_connection, parents_owner = backend._db, backend._owner

    def task() -> None:
        assert backend._db is None
        assert parents_connection in backend._inherited
        assert backend._owner != parents_owner
        assert place(ledger, 2) == Held((AMOUNT,))
        assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
        ledger.close()

    assert forked(task) == 0
    assert place(ledger, 3) == Held((AMOUNT,))
    assert forked(task) == 0
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
    assert balance(ledger) == (AMOUNT, 2 * AMOUNT)


@needs_fork
def test_a_ledger_built_before_the_fork_and_used_only_after_it_works(ledger: SQLiteLedger) -> None:
    """gunicorn --preload."""
    ledger.open()
    for number in (1, 2):
        assert forked(lambda number=number: place(ledger, number)) == 0
    assert place(ledger, 3) == Held((AMOUNT,))
    assert balance(ledger) == (0, 3 * AMOUNT)


@needs_fork
def test_a_fork_while_others_submit_leaves_no_lock_behind(ledger: SQLiteLedger) -> None:
    stop = threading.Event()

    def submit() -> None:
        number = 1_000
        while not stop.is_set():
            number += 1
            place(ledger, number, limit=None)

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        for number in range(10):
            assert forked(lambda number=number: place(ledger, number, limit=None)) == 0
    finally:
        stop.set()
        thread.join()


# a database that hangs


@pytest.fixture
def release(path: Path) -> Iterator[Callable[[], None]]:
    """Another process holds the write lock until this is called."""
    script = """
import sqlite3
ledger.open()
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
os.write(1, b"locked\\n")
sys.stdin.readline()
db.execute("ROLLBACK")
db.close()
"""
    process = child(script, path)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"locked\n"

    def release() -> None:
        if process.poll() is None:
            process.communicate(b"let go\n", timeout=60)

    yield release
    release()


def test_a_hung_database_breaks_the_promise_and_the_operation_is_kept(
    path: Path, release: Callable[[], None]
) -> None:
    ledger = SQLiteLedger(path, real_system(), deadline_s=0.1)
    first = ledger.submit(PlaceHold(hold(1), ACME, (leg(),)))
    assert first.deadline_s == 0.1
    assert first.wait(60)
    with pytest.raises(PortError, match="locked"):
        first.result()
    release()
    assert place(ledger, 1) == Held((AMOUNT,))
    assert balance(ledger) == (0, AMOUNT)
    ledger.close()
    assert ledger.audit() == []


def test_a_full_queue_refuses_at_once_and_nothing_queued_is_lost(path: Path, release: Callable[[], None]) -> None:
    ledger = SQLiteLedger(path, real_system(), deadline_s=30.0, queue_max=3)
    queued = [ledger.submit(PlaceHold(hold(number), ACME, (leg(),))) for number in range(3)]
    refused = ledger.submit(PlaceHold(hold(3), ACME, (leg(),)))
    assert refused.wait(0)
    with pytest.raises(PortError, match="retry"):
        refused.result()
    ending = ledger.submit(ResolveHold(hold(0), None, "cancelled"))
    release()
    assert [answer(promise) for promise in queued] == [Held((AMOUNT,))] * 3
    assert answer(ending) == Resolved(HoldState.VOIDED, (0,))
    assert balance(ledger) == (0, 2 * AMOUNT)
    ledger.close()


def test_closing_beside_a_hung_database_does_not_hang(path: Path, release: Callable[[], None]) -> None:
    ledger = SQLiteLedger(path, real_system(), deadline_s=0.05)
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(),)))
    ledger.close()
    assert promise.wait(0)
    with pytest.raises(PortError):
        promise.result()
    release()
    assert ledger.balances() == []


# bad files


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE books (title TEXT)")
        db.commit()


def other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 252006673")
        db.commit()


def newer_schema(path: Path) -> None:
    SQLiteLedger(path, real_system()).open()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def read_only(path: Path) -> None:
    SQLiteLedger(path, real_system()).open()
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("spoil", "problem", "remedy"),
    [
        (other_program, "another program's database", "name another file"),
        (other_application, "another program's database", "name another file"),
        (newer_schema, "newer TenantGuard", "upgrade"),
        (read_only, "read-only", "make it writable"),
        (lambda path: path.write_bytes(b"tenant,amount\n" * 100), "no database", "name another file"),
        (lambda path: path.mkdir(), "is a directory", "name a file in it"),
    ],
)
def test_a_file_that_cannot_work_is_refused_with_a_remedy_and_left_as_it_is(
    path: Path, spoil: Any, problem: str, remedy: str
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    ledger = SQLiteLedger(path, real_system())
    with pytest.raises(ConfigurationError, match=problem) as raised:
        ledger.open()
    assert remedy in str(raised.value)
    assert str(path) in str(raised.value)
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(),)))
    assert promise.wait(60)
    with pytest.raises(PortError, match=problem):
        promise.result()
    with pytest.raises(PortError, match=problem):
        ledger.balances()
    ledger.close()
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_ledger_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="ledger in memory"):
        SQLiteLedger(name, real_system())


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist: make"):
        SQLiteLedger(tmp_path / "missing" / "ledger.db", real_system()).open()


def test_a_file_system_that_fails_for_a_moment_loses_no_charge(
    ledger: SQLiteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(ledger, 1)
    ledger.close()

    def failing(_path: Path) -> bool:
        monkeypatch.undo()
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "is_dir", failing)
    with pytest.raises(PortError, match="cannot be looked at: Stale file handle"):
        settle(ledger, 1)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
    assert balance(ledger) == (AMOUNT, 0)


def test_a_name_that_no_file_can_have_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be looked at: File name too long"):
        SQLiteLedger(path.with_name("p" * 300), real_system()).open()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_READONLY_DIRECTORY", ConfigurationError),
        ("SQLITE_CANTOPEN", ConfigurationError),
        ("SQLITE_NOTADB", ConfigurationError),
        ("SQLITE_BUSY", PortError),
        ("SQLITE_IOERR_WRITE", PortError),
    ],
)
def test_what_opening_can_fail_with_is_the_operators_or_the_worlds(
    path: Path, name: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the user whom tests may run as, so the database's answer is made up."""

    def fail(_: object) -> None:
        error = sqlite3.OperationalError("no")
        error.sqlite_errorname = name
        raise error

    ledger = SQLiteLedger(path, real_system())
    monkeypatch.setattr(ledger._file, "_recognise", fail)
    with pytest.raises(kind):
        ledger.open()


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    SQLiteLedger(path, real_system()).open()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_relative_path_means_the_directory_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may change its directory before the first request."""
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    ledger = SQLiteLedger("ledger.db", real_system())
    monkeypatch.chdir(tmp_path)
    ledger.open()
    assert (tmp_path / "start" / "ledger.db").exists()


def test_one_id_many_times_in_one_batch_is_one_hold(ledger: SQLiteLedger) -> None:
    """A batch loads its holds in parts; none may be loaded twice."""
    place(ledger, 1)
    ledger.close()
    backend = ledger._writer._backend
    placing = PlaceHold(hold(1), ACME, (leg(),))
    settling = ResolveHold(hold(1), (AMOUNT,), "completed")
    assert backend.apply([placing] * 300 + [settling] * 300) == (
        [Held((AMOUNT,))] * 300 + [Resolved(HoldState.SETTLED, (AMOUNT,))] * 300
    )
    backend.close()


def test_only_pending_holds_are_kept_in_memory(ledger: SQLiteLedger) -> None:
    for number in range(20):
        place(ledger, number, limit=None)
    for number in range(15):
        settle(ledger, number)
    ledger.submit(ResolveHold(hold(99), None, "unknown")).wait(60)
    backend = ledger._writer._backend
    assert isinstance(backend, SQLiteBackend)
    assert set(backend._loaded.books.holds) == {hold(number) for number in range(15, 20)}


def test_every_commit_is_flushed_to_the_disk(ledger: SQLiteLedger) -> None:
    with closing(ledger._file.connect()) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


# what the database itself refuses, and what audit finds


def test_a_value_that_the_database_does_not_take_spoils_no_other_operation(ledger: SQLiteLedger) -> None:
    odd = ledger.submit(PlaceHold(hold(1), ACME, (leg(unit="\ud800"),)))
    rest = [ledger.submit(PlaceHold(hold(number), ACME, (leg(),))) for number in range(2, 9)]
    assert [answer(promise) for promise in rest] == [Held((AMOUNT,))] * 7
    assert odd.wait(60)
    with pytest.raises(PortError, match="cannot be stored"):
        odd.result()


def test_entries_can_be_neither_changed_nor_removed(path: Path, ledger: SQLiteLedger) -> None:
    place(ledger, 1)
    settle(ledger, 1)
    with closing(sqlite3.connect(path)) as db:
        for statement in ("UPDATE entry SET amount = 0", "DELETE FROM entry"):
            with pytest.raises(sqlite3.IntegrityError, match="entries never"):
                db.execute(statement)
    assert len(ledger.entries()) == 1


def entry(kind: int, account: int, amount: int, of: str) -> str:
    return f"""INSERT INTO entry
        (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason, evidence, of)
        VALUES (x'99', 0, {kind}, {account}, 'acme', 0, {amount}, 0, 'USD', 0, '', '{{}}', {of})"""


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE account SET spent = spent + 1", "spent 8, its entries say 7"),
        ("UPDATE account SET held = held - 1", "holds 6, its open legs say 7"),
        ("UPDATE hold SET legs = json_array(json_array(1, 6))", "holds 7, its open legs say 6"),
        (
            """INSERT INTO hold SELECT op, tenant, 'pending', 'void', x'00', 0, '[]', NULL FROM entry""",
            "is held and has ended",
        ),
        (
            """INSERT INTO ended SELECT op, tenant, 'voided', json_array(json_array(1, 7, 7)), 0, '' FROM entry""",
            "a hold that is voided",
        ),
        (
            """INSERT INTO ended SELECT op, tenant, 'settled', json_array(json_array(1, 7, 6)), 0, '' FROM entry""",
            "does not fit its leg",
        ),
        (
            """INSERT INTO ended VALUES (x'01', 'acme', 'settled', '[[1, 7, 0], [1, 7, 6]]', 0, '')""",
            "a charge that no entry shows",
        ),
        (
            """INSERT INTO entry (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason,
            evidence, source, external_id)
            SELECT id, 4 + row_number() OVER (), 0, 1, 'acme', 0, 0, 0, 'USD', 0, '', '{}', 'openai', 'r-1'
            FROM (SELECT id FROM hold UNION SELECT op FROM entry) LIMIT 2""",
            "charge one external id for two holds",
        ),
        (entry(1, 1, -8, "x'00000000000000000000000000000001'"), "was given back 8 of 7"),
        (entry(1, 1, -1, "x'07'"), "was given back 1 of 0"),
        (entry(1, 1, -1, "NULL"), "refunds no hold"),
        (entry(2, 9, 5, "NULL"), "is of no account"),
        (entry(3, 1, 5, "NULL"), "was granted 0, its entries say 5"),
        ("UPDATE account SET grants = '[[4, null]]'", "was granted 4, its entries say 0"),
        ("UPDATE account SET previous = id", "which is no earlier window of it"),
        ("INSERT INTO claim VALUES ('acme', 'k', x'00', x'07', 0, NULL)", "the claim k of acme is of no hold"),
        (
            "INSERT INTO claim SELECT 'globex', 'k', x'00', id, 0, NULL FROM hold",
            "the claim k of globex is of no hold of that tenant",
        ),
        (
            "INSERT INTO outbox (kind, payload, made_ns, due_ns, delivered_ns) VALUES ('alert', '{}', 0, 0, 1)",
            "notice 1 was delivered without a try",
        ),
    ],
)
def test_audit_finds_what_is_broken(path: Path, tampering: str, finding: str) -> None:
    ledger = SQLiteLedger(path, real_system())
    place(ledger, 1)
    place(ledger, 2)
    settle(ledger, 1)
    ledger.close()
    assert ledger.audit() == []
    with closing(sqlite3.connect(path)) as db:
        db.execute(tampering)
        db.commit()
    assert any(finding in sentence for sentence in ledger.audit())


def test_the_database_itself_takes_no_second_charge_and_no_amount_of_the_wrong_sign(
    path: Path, ledger: SQLiteLedger
) -> None:
    place(ledger, 1)
    settle(ledger, 1)
    again = """INSERT INTO entry
        (op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason, evidence)
        SELECT op, leg, {}, account, tenant, held, {}, absorbed, unit, at_ns, reason, evidence FROM entry"""
    with closing(sqlite3.connect(path)) as db:
        for kind, amount in ((0, 7), (1, 1), (2, 0), (3, -1), (4, 1)):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(again.format(kind, amount))


def test_a_hold_leaves_what_is_held_when_it_ends_and_is_known_all_the_same(path: Path, ledger: SQLiteLedger) -> None:
    """What is held stays a small table; how each hold ended is known for ever, from its entries where it has some."""
    placed = PlaceHold(hold(2), ACME, (leg(), leg(2, unit="calls")))
    place(ledger, 1)
    answer(ledger.submit(placed))
    answer(ledger.submit(PlaceHold(hold(3), ACME, ())))
    settle(ledger, 1)
    answer(ledger.submit(ResolveHold(hold(2), (0, 1), "half")))
    answer(ledger.submit(ResolveHold(hold(3), (), "free")))
    answer(ledger.submit(ResolveHold(hold(4), None, "never placed")))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM hold").fetchall() == [(0,)]
        assert [row[0][-1] for row in db.execute("SELECT id FROM ended ORDER BY id")] == [2, 3, 4]
    ledger.close()
    assert place(ledger, 1) == Held((AMOUNT,))
    assert answer(ledger.submit(placed)) == Held((AMOUNT, 2))
    assert isinstance(place(ledger, 4), Barred)
    for number, amounts in ((1, (AMOUNT,)), (2, (0, 1)), (3, ())):
        again = ResolveHold(hold(number), (AMOUNT,) * len(amounts), "again")
        assert answer(ledger.submit(again)) == Resolved(HoldState.SETTLED, amounts)
    assert len(ledger.entries()) == 2


def test_more_orphans_than_one_transaction_takes_are_all_ended(path: Path, clock: Clock) -> None:
    lost = SQLiteLedger(path, System(clock, TimeOrderedIds()))
    promises = [lost.submit(PlaceHold(hold(number), ACME, (leg(limit=None),))) for number in range(1_200)]
    assert all(isinstance(answer(promise), Held) for promise in promises)
    lost.close()
    clock.ahead_ns += 30 * 10**9
    ledger = SQLiteLedger(path, System(clock, TimeOrderedIds()))
    for number in range(2_000, 2_003):
        settle(ledger, number)
    assert balance(ledger) == (0, 0)
    ledger.close()
    assert ledger.audit() == []


# what stands beside the books


def test_the_denials_of_a_long_time_ago_are_dropped(path: Path, clock: Clock, ledger: SQLiteLedger) -> None:
    for number in range(1_200):
        ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=1),)))
    place(ledger, 2_000)
    assert len(ledger.denials(limit=10_000)) == 1_200
    clock.ahead_ns += BESIDE_NS
    for number in range(2_001, 2_005):
        place(ledger, number)
    assert ledger.denials(limit=10_000) == []
    ledger.submit(PlaceHold(hold(9_999), ACME, (leg(limit=1),))).wait(60)
    assert [denial.hold for denial in ledger.denials()] == [hold(9_999)]


def test_refusing_writes_nothing_until_something_else_is_written(path: Path, ledger: SQLiteLedger) -> None:
    place(ledger, 1)
    before = (path.parent / f"{path.name}-wal").stat().st_size
    for number in range(100, 200):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=1),))))
    assert (path.parent / f"{path.name}-wal").stat().st_size == before
    assert len(ledger.denials(limit=1_000)) == 100
    ledger.close()
    assert len(SQLiteLedger(path, real_system()).denials(limit=1_000)) == 100


def test_no_more_denials_are_kept_than_there_may_be(
    ledger: SQLiteLedger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_backend, "DENIALS_MAX", 5)
    for number in range(20):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=1),))))
    clock.ahead_ns += 10 * 10**9
    place(ledger, 50)
    assert [denial.hold for denial in ledger.denials()] == [hold(number) for number in range(19, 14, -1)]


def test_claims_are_dropped_when_they_refuse_nothing_any_more(path: Path, clock: Clock, ledger: SQLiteLedger) -> None:
    for number in range(3):
        claim = Claim(f"key {number}", b"asked")
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(),), claim=claim)))
    settle(ledger, 0)
    answer(ledger.submit(ResolveHold(hold(1), None, "failed")))
    clock.ahead_ns += CLAIM_KEPT_NS
    place(ledger, 9)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT key FROM claim").fetchall() == [("key 2",)]


def test_notices_that_were_delivered_are_dropped_and_their_numbers_never_used_again(
    path: Path, clock: Clock, ledger: SQLiteLedger
) -> None:
    alerting = Terms(thresholds=(Threshold(1, Counted.COMMITTED),))
    for number, unit in enumerate(("USD", "EUR")):
        asked = Leg(("b",), Period.LIFETIME, unit, 100, 7, 7, alerting)
        answer(ledger.submit(PlaceHold(hold(number), ACME, (asked,))))
        (notice,) = ledger.outbox()
        assert notice.seq == number + 1
        ledger.delivered(notice.seq)
        clock.ahead_ns += BESIDE_NS + 10 * 10**9
        place(ledger, 10 + number)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM outbox").fetchall() == [(0,)]
    assert ledger.audit() == []


def test_two_processes_that_look_at_once_are_given_different_notices(path: Path, clock: Clock) -> None:
    ledgers = [SQLiteLedger(path, System(clock, TimeOrderedIds())) for _ in range(4)]
    alerting = Terms(thresholds=tuple(Threshold(percent, Counted.COMMITTED) for percent in range(1, 41)))
    answer(ledgers[0].submit(PlaceHold(hold(1), ACME, (Leg(("b",), Period.LIFETIME, "USD", 100, 40, 40, alerting),))))
    taken: list[int] = []

    def take(ledger: SQLiteLedger) -> None:
        while notices := ledger.outbox(3):
            taken.extend(notice.seq for notice in notices)

    threads = [threading.Thread(target=take, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    assert sorted(taken) == list(range(1, 41))


def test_what_another_process_wrote_counts_in_a_rolling_period(path: Path, clock: Clock) -> None:
    """A span that was loaded once is loaded again after somebody else wrote."""
    mine, other = (SQLiteLedger(path, System(clock, TimeOrderedIds())) for _ in range(2))
    rolling = Leg(("b",), Period.parse("rolling 60 minutes / 4 buckets"), "USD", 100, 30, 30)
    for number, ledger in enumerate((mine, other, mine)):
        assert answer(ledger.submit(PlaceHold(hold(number), ACME, (rolling,)))) == Held((30,))
        answer(ledger.submit(ResolveHold(hold(number), (30,), "completed")))
        clock.ahead_ns += 15 * 60 * 10**9
    for ledger in (mine, other):
        refused = answer(ledger.submit(PlaceHold(hold(9), ACME, (rolling,))))
        assert (refused.available, refused.spent) == (10, 90)
        ledger.close()
    assert mine.audit() == []


def test_a_late_settling_takes_what_is_left_of_a_rolling_period(path: Path, clock: Clock) -> None:
    """What others spent in its other parts is loaded for it."""
    rolling = Leg(("b",), Period.parse("rolling 60 minutes / 4 buckets"), "USD", 100, 60, 60)
    slow, other = (SQLiteLedger(path, System(clock, TimeOrderedIds())) for _ in range(2))
    answer(slow.submit(PlaceHold(hold(1), ACME, (rolling,))))
    clock.ahead_ns += 15 * 60 * 10**9
    answer(other.submit(PlaceHold(hold(2), ACME, (rolling,))))
    answer(other.submit(ResolveHold(hold(2), (60,), "completed")))
    clock.ahead_ns += 15 * 60 * 10**9
    assert answer(slow.submit(ResolveHold(hold(1), (60,), "late"))) == Resolved(HoldState.SETTLED, (40,))
    assert [(entry.amount, entry.absorbed) for entry in slow.entries()] == [(40, 20), (60, 0)]
    for ledger in (slow, other):
        ledger.close()
    assert slow.audit() == []


def test_an_orphan_that_is_charged_reaches_the_threshold_of_a_rolling_period(path: Path, clock: Clock) -> None:
    terms = Terms(thresholds=(Threshold(90),))
    rolling = Leg(("b",), Period.parse("rolling 60 minutes / 4 buckets"), "USD", 100, 45, 45, terms)
    lost = SQLiteLedger(path, System(clock, TimeOrderedIds()))
    for number in range(2):
        answer(lost.submit(PlaceHold(hold(number), ACME, (rolling,), OnOrphan.CHARGE_HOLD)))
        if number == 0:
            answer(lost.submit(ResolveHold(hold(0), (45,), "completed")))
            clock.ahead_ns += 15 * 60 * 10**9
    lost.close()
    clock.ahead_ns += 30 * 10**9
    ledger = SQLiteLedger(path, System(clock, TimeOrderedIds()))
    place(ledger, 9)
    assert [notice.payload["spent"] for notice in ledger.notices()] == [90]
    ledger.close()
    assert ledger.audit() == []
