"""The PostgreSQL ledger against the world: several processes, cuts, crashes, hangs, forks, foreign schemas, roles."""

from __future__ import annotations

import errno
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import tenantguard
from tenantguard.adapters.ledger import postgres_schema, postgres_statements
from tenantguard.adapters.ledger.postgres import PostgresBackend, PostgresLedger
from tenantguard.adapters.ledger.postgres_link import Database, Link
from tenantguard.adapters.ledger.postgres_schema import AUDIT, MIGRATIONS, PRIVILEGES
from tenantguard.adapters.system import TimeOrderedIds, real_system
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.ports import (
    Barred,
    Claim,
    Correct,
    Exhausted,
    Grant,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    PlaceHold,
    Repeated,
    Resolved,
    ResolveHold,
    System,
)
from tenantguard.model.ledger import Terms
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.effects import Promise

ROOT = Path(tenantguard.__file__).parents[1]
ACME = TenantId("acme")
AMOUNT = 7
PORT = ".s.PGSQL.5432"

PRELUDE = """
import os, sys
from tenantguard.adapters.ledger.postgres import PostgresLedger
from tenantguard.adapters.system import real_system
from tenantguard.flow.ports import Held, Leg, OnOrphan, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

system = real_system()
ledger = PostgresLedger(sys.argv[1], system, deadline_s=30.0, schema=sys.argv[2])
limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
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
def schema(postgres: Any) -> str:
    return str(postgres.schema())


@pytest.fixture
def ledger(postgres: Any, schema: str, clock: Clock) -> Iterator[PostgresLedger]:
    ledger = made(postgres.uri, schema, clock)
    yield ledger
    ledger.close()
    assert ledger.audit() == []


@pytest.fixture
def db(postgres: Any, schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.uri, autocommit=True) as db:
        db.execute(f"SET search_path = {schema}")
        yield db


def made(uri: str, schema: str, clock: Clock, deadline_s: float = 30.0) -> PostgresLedger:
    system = System(clock, TimeOrderedIds())
    return PostgresLedger(uri, system, deadline_s=deadline_s, schema=schema, now_ns=clock.wall_ns)


def leg(most: int = AMOUNT, limit: int | None = 100, unit: str = "USD", period: Period = Period.LIFETIME) -> Leg:
    return Leg(("tenant", "acme"), period, unit, limit, most, most)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


def answer(promise: Promise[Any]) -> Any:
    assert promise.wait(60)
    return promise.result()


def place(ledger: PostgresLedger, number: int, *, limit: int | None = 100) -> Any:
    return answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=limit),))))


def settle(ledger: PostgresLedger, number: int) -> Any:
    return answer(ledger.submit(ResolveHold(hold(number), (AMOUNT,), "completed")))


def balance(ledger: PostgresLedger) -> tuple[int, int]:
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


def test_two_processes_accept_exactly_what_the_limit_carries(
    postgres: Any, schema: str, ledger: PostgresLedger
) -> None:
    """Promise 1. Both also make the schema, at the same moment."""
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
    children = [child(script, postgres.uri, schema, limit) for _ in range(2)]
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


def race(postgres: Any, schema: str, *commands: Any) -> list[Any]:
    """The answers to commands that as many connections apply at the same moment."""
    system = real_system()
    databases = [Database(postgres.uri, schema, 30.0) for _ in commands]
    backends = [PostgresBackend(database, system, None) for database in databases]
    for backend in backends:
        backend.apply(())
    barrier = threading.Barrier(len(commands))
    answers: list[Any] = [None] * len(commands)

    def apply(number: int) -> None:
        barrier.wait()
        (answers[number],) = backends[number].apply([commands[number]])

    threads = [threading.Thread(target=apply, args=(number,)) for number in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for backend in backends:
        backend.close()
    return answers


def test_what_several_processes_do_under_one_name_at_once_happens_once(
    postgres: Any, schema: str, ledger: PostgresLedger
) -> None:
    """The same hold, claim, external id or top-up; a placing and the end that bars it."""
    for first in range(10, 100, 10):
        name = f"key-{first}"
        one, two = hold(first), hold(first + 1)
        unlimited = (leg(limit=None),)
        assert race(postgres, schema, *[PlaceHold(one, ACME, unlimited)] * 3) == [Held((AMOUNT,))] * 3
        claims = race(
            postgres,
            schema,
            *[PlaceHold(each, ACME, unlimited, claim=Claim(name, b"f")) for each in (two, hold(first + 2))],
        )
        assert sorted(type(each).__name__ for each in claims) == ["Held", "Repeated"]
        placed = two if isinstance(claims[0], Held) else hold(first + 2)
        (repeated,) = [each for each in claims if isinstance(each, Repeated)]
        assert (repeated.hold, repeated.state) == (placed, HoldState.PENDING)
        charges = race(
            postgres,
            schema,
            *[ResolveHold(each, (AMOUNT,), "completed", {}, "openai", name) for each in (one, placed)],
        )
        assert sorted(each.state for each in charges) == [HoldState.SETTLED, HoldState.VOIDED]
        grants = race(postgres, schema, *[Grant(hold(first + 3), ACME, leg(5), None, "paid")] * 2)
        assert grants[0] == grants[1]
        ended, barred = race(
            postgres,
            schema,
            ResolveHold(hold(first + 4), None, "cancelled"),
            PlaceHold(hold(first + 4), ACME, unlimited),
        )
        assert (ended, barred) in {
            (Resolved(HoldState.VOIDED, ()), Barred()),
            (Resolved(HoldState.VOIDED, (0,)), Held((AMOUNT,))),
        }
    (account,) = ledger.balances()
    assert (account.spent, account.held, account.granted) == (9 * AMOUNT, 0, 9 * 5)


@pytest.mark.parametrize("period", ["rolling 60 minutes / 60 buckets", "rolling 24 hours", "minute"])
def test_processes_that_open_a_window_together_share_one(
    postgres: Any, schema: str, ledger: PostgresLedger, period: str
) -> None:
    for number in range(8):
        limited = (Leg((str(number),), Period.parse(period), "USD", 10, 6, 6, Terms()),)
        ids = real_system().ids
        answers = race(postgres, schema, *[PlaceHold(ids.new(), ACME, limited) for _ in range(3)])
        assert sum(isinstance(each, Held) for each in answers) == 1 or period == "minute"
    assert all(each.held == 6 for each in ledger.balances())


@pytest.mark.parametrize(
    ("on_orphan", "spent", "held"),
    [(OnOrphan.VOID, 0, 0), (OnOrphan.CHARGE_HOLD, AMOUNT, 0), (OnOrphan.REVIEW, 0, AMOUNT)],
)
def test_what_a_lost_process_held_ends_once_its_lease_has_lapsed(
    postgres: Any, schema: str, ledger: PostgresLedger, clock: Clock, on_orphan: OnOrphan, spent: int, held: int
) -> None:
    """Its own late settling, if it was only slow, is still taken."""
    script = f"""
answer(ledger.submit(PlaceHold(bytes(16), TenantId("acme"), legs, OnOrphan({str(on_orphan)!r}))))
os.write(1, b"held\\n")
os.kill(os.getpid(), 9)
"""
    assert child(script, postgres.uri, schema, 100).communicate(timeout=60)[0] == b"held\n"
    for ahead_s, expected in ((0, (0, AMOUNT)), (15, (0, AMOUNT)), (10, (spent, held))):
        clock.ahead_ns += ahead_s * 10**9
        answer(ledger.submit(ResolveHold(os.urandom(16), None, "wakes the writer")))
        assert balance(ledger) == expected
    late = ledger.submit(ResolveHold(bytes(16), (AMOUNT,), "late"))
    assert answer(late) == Resolved(HoldState.SETTLED, (AMOUNT,))
    assert balance(ledger) == (AMOUNT, 0)


def test_a_live_process_keeps_its_holds_however_long_they_last(
    postgres: Any, schema: str, ledger: PostgresLedger, clock: Clock
) -> None:
    other = made(postgres.uri, schema, clock)
    place(ledger, 1)
    for number in range(10, 20):
        clock.ahead_ns += 10 * 10**9
        settle(ledger, number)
        answer(other.submit(ResolveHold(hold(100 + number), None, "beats")))
    other.close()
    assert balance(ledger) == (0, AMOUNT)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))


def test_more_orphans_than_one_transaction_takes_are_all_ended(postgres: Any, schema: str, clock: Clock) -> None:
    lost = made(postgres.uri, schema, clock)
    promises = [lost.submit(PlaceHold(hold(number), ACME, (leg(limit=None),))) for number in range(1_200)]
    assert all(isinstance(answer(promise), Held) for promise in promises)
    lost.close()
    clock.ahead_ns += 30 * 10**9
    ledger = made(postgres.uri, schema, clock)
    for number in range(2_000, 2_003):
        settle(ledger, number)
    assert balance(ledger) == (0, 0)
    ledger.close()
    assert ledger.audit() == []


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
def test_a_forked_child_has_a_connection_of_its_own_and_leaves_its_parents_alone(ledger: PostgresLedger) -> None:
    """Design 3.9: threads and connections of the parent are dropped after a fork."""
    place(ledger, 1)
    backend = ledger._writer._backend
    assert isinstance(backend, PostgresBackend)
    parents_owner = backend._owner

    def task() -> None:
        assert backend._db is None
        assert len(backend._inherited) == 1
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
def test_a_fork_while_others_submit_leaves_no_lock_behind(ledger: PostgresLedger) -> None:
    stop = threading.Event()

    def submit() -> None:
        number = 1_000
        while not stop.is_set():
            number += 1
            place(ledger, number, limit=None)

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        for number in range(5):
            assert forked(lambda number=number: place(ledger, number, limit=None)) == 0
    finally:
        stop.set()
        thread.join()


# a connection that is cut


class Proxy:
    """Between a ledger and its server. ``cut`` is what happens to what is to come: ``("request", n)`` loses the n-th
    thing that the client says, ``("answer", n)`` lets the server do it and loses what it says; both cut.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.uri = f"postgresql://postgres@/postgres?host={folder}"
        self.cut: tuple[str, int] | None = None
        self.cuts = 0
        self.refuses = False
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / PORT))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            thread = threading.Thread(target=self._relay, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._server))
            said_by = selectors.DefaultSelector()
            said_by.register(client, selectors.EVENT_READ, (client, server))
            said_by.register(server, selectors.EVENT_READ, (server, client))
            lost = False
            with said_by, suppress(OSError):
                while True:
                    for key, _ in said_by.select():
                        speaker, hearer = key.data
                        said = speaker.recv(1 << 20)
                        if not said or (lost and speaker is server):
                            return
                        if speaker is client and self._cuts():
                            self.cuts += 1
                            lost = True
                            if self._lost == "request":
                                return
                        hearer.sendall(said)

    def _cuts(self) -> bool:
        """Whether this is the thing that is lost, or whose answer is."""
        if self.cut is None:
            return False
        self._lost, left = self.cut
        self.cut = None if left == 1 else (self._lost, left - 1)
        return left == 1


@pytest.fixture
def proxy(postgres: Any) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix="tg-") as folder:  # a socket's path is short
        proxy = Proxy(Path(folder), Path(postgres.uri.partition("host=")[2]) / PORT)
        yield proxy
        proxy.close()


@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("exchange", [1, 2])
@pytest.mark.parametrize("command", [place, settle])
def test_a_connection_that_is_cut_loses_and_doubles_nothing(
    proxy: Any, schema: str, clock: Clock, what: str, exchange: int, command: Callable[..., Any]
) -> None:
    """Cut while the batch is loaded, while it is stored, and between its commit and the answer."""
    ledger = made(proxy.uri, schema, clock)
    place(ledger, 1)
    if command is settle:
        place(ledger, 2)
    proxy.cut = (what, exchange)
    expected = Held((AMOUNT,)) if command is place else Resolved(HoldState.SETTLED, (AMOUNT,))
    assert command(ledger, 2) == expected
    assert proxy.cuts == 1
    assert command(ledger, 2) == expected
    assert balance(ledger) == ((0, 2 * AMOUNT) if command is place else (AMOUNT, AMOUNT))
    ledger.close()
    assert ledger.audit() == []


def test_what_is_booked_without_a_hold_is_booked_once_though_its_answer_was_lost(
    proxy: Any, schema: str, clock: Clock
) -> None:
    ledger = made(proxy.uri, schema, clock)
    place(ledger, 1)
    for number, command in enumerate((Grant(b"paid", ACME, leg(5), None, ""), Correct(b"mend", ACME, leg(), 3, ""))):
        proxy.cut = ("answer", 2)
        answer(ledger.submit(command))
        assert proxy.cuts == number + 1
    (account,) = ledger.balances()
    assert (account.granted, account.spent, len(ledger.entries())) == (5, 3, 2)
    ledger.close()


def test_while_no_connection_can_be_made_promises_break_and_nothing_queued_is_lost(
    proxy: Any, schema: str, clock: Clock
) -> None:
    ledger = made(proxy.uri, schema, clock)
    place(ledger, 1)
    proxy.refuses, proxy.cut = True, ("request", 2)
    broken = ledger.submit(PlaceHold(hold(2), ACME, (leg(),)))
    with pytest.raises(PortError) as raised:
        answer(broken)
    assert "\n" not in str(raised.value)
    proxy.refuses = False
    assert place(ledger, 3) == Held((AMOUNT,))
    assert balance(ledger) == (0, 3 * AMOUNT)
    ledger.close()


@pytest.mark.parametrize("what", ["driver", "link"])
def test_a_machine_without_file_descriptors_loses_no_charge(
    postgres: Any, schema: str, clock: Clock, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one went to the socket, and waiting for it takes one more."""
    ledger = made(postgres.uri, schema, clock)
    place(ledger, 1)
    ledger.close()
    kept = []
    connect = psycopg.connect

    def exhausted(*_args: Any, **_options: Any) -> Any:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def connected(**options: Any) -> Any:
        kept.append(connect(**options))
        monkeypatch.setattr("tenantguard.adapters.ledger.postgres_link.selectors.DefaultSelector", exhausted)
        return kept[-1]

    monkeypatch.setattr(psycopg, "connect", exhausted if what == "driver" else connected)
    with pytest.raises(PortError, match="Too many open files"):
        settle(ledger, 1)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
    assert balance(ledger) == (AMOUNT, 0)
    assert all(connection.closed for connection in kept)
    ledger.close()
    assert len(ledger.entries()) == 1


def test_a_connection_that_was_closed_while_idle_is_not_noticed(
    ledger: PostgresLedger, db: psycopg.Connection[Any]
) -> None:
    place(ledger, 1)
    db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenantguard'")
    assert place(ledger, 2) == Held((AMOUNT,))


@pytest.mark.parametrize("exchange", [1, 2])
@pytest.mark.parametrize(
    "state",
    [
        "0A000", "23505", "25006", "25P03", "40001", "40P01", "42501", "42P01", "53100", "53200", "53300", "55P03",
        "57014", "57P01", "57P03", "58030", "XX000", "",
    ],
)  # fmt: skip
def test_whatever_the_server_says_instead_a_charge_is_booked_once(
    ledger: PostgresLedger, state: str, exchange: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans that changed, read-only after a failover, conflicts, a right or table that is gone, a full disk."""
    place(ledger, 1)
    said = Link.exchange
    numbers = iter(range(1, 10_000))

    def failing(link: Link, statements: Any) -> Any:
        if next(numbers) == exchange:
            raise psycopg.errors.lookup(state)("server says no") if state else psycopg.OperationalError("no more")
        return said(link, statements)

    monkeypatch.setattr(Link, "exchange", failing)
    with suppress(PortError):
        settle(ledger, 1)
    assert next(numbers) > exchange
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
    assert balance(ledger) == (AMOUNT, 0)
    assert [entry.amount for entry in ledger.entries()] == [AMOUNT]


# a server that stops, crashes or hangs


def test_nothing_that_was_acknowledged_is_lost_when_the_server_crashes(own_postgres: Any, clock: Clock) -> None:
    ledger = made(own_postgres.uri, "crashing", clock)
    placed = [number for number in range(50) if place(ledger, number, limit=None) == Held((AMOUNT,))]
    waiting = [ledger.submit(PlaceHold(hold(100 + n), ACME, (leg(limit=None),))) for n in range(50)]
    own_postgres.crash()
    promise = ledger.submit(PlaceHold(hold(1_000), ACME, (leg(limit=None),)))
    with pytest.raises(PortError):
        answer(promise)
    own_postgres.start()
    assert place(ledger, 1_001, limit=None) == Held((AMOUNT,))
    assert all(each.wait(30) for each in waiting)
    assert balance(ledger) == (0, (len(placed) + 50 + 2) * AMOUNT)
    ledger.close()
    assert ledger.audit() == []


def test_a_hung_server_breaks_the_promise_within_the_deadline_and_the_operation_is_kept(
    own_postgres: Any, clock: Clock
) -> None:
    deadline_s = 1.0
    ledger = made(own_postgres.uri, "hanging", clock, deadline_s)
    place(ledger, 1)
    processes = [own_postgres.pid, *children_of(own_postgres.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        promise = ledger.submit(PlaceHold(hold(2), ACME, (leg(),)))
        assert promise.wait(deadline_s)
        with pytest.raises(PortError, match="has not answered"):
            promise.result()
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    final = place_when_possible(ledger, 3)
    assert final == Held((AMOUNT,))
    assert balance(ledger) == (0, 3 * AMOUNT)
    ledger.close()
    assert ledger.audit() == []


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


def place_when_possible(ledger: PostgresLedger, number: int) -> Any:
    """Operations are tried again by themselves; who asked meanwhile was told to come back."""
    for _ in range(20):
        promise = ledger.submit(PlaceHold(hold(number), ACME, (leg(),)))
        with suppress(PortError):
            return answer(promise)
    raise AssertionError


def test_a_lock_that_somebody_keeps_breaks_the_promise_and_the_operation_is_kept(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any]
) -> None:
    ledger = made(postgres.uri, schema, clock, deadline_s=0.5)
    place(ledger, 1)
    with db.transaction():
        db.execute("SELECT 1 FROM account FOR UPDATE")
        promise = ledger.submit(PlaceHold(hold(2), ACME, (leg(),)))
        assert promise.wait(10)
        with pytest.raises(PortError, match="lock timeout"):
            promise.result()
    assert place_when_possible(ledger, 3) == Held((AMOUNT,))
    assert balance(ledger) == (0, 3 * AMOUNT)
    ledger.close()


# schemas, roles, addresses


def test_several_processes_that_start_at_once_make_one_schema(postgres: Any, schema: str) -> None:
    failures: list[Exception] = []
    barrier = threading.Barrier(5)

    def start() -> None:
        barrier.wait()
        try:
            PostgresLedger(postgres.uri, real_system(), schema=schema).open()
        except (ConfigurationError, PortError) as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_schema_of_every_earlier_version_is_brought_forward_with_what_is_in_it(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = made(postgres.uri, schema, clock)
    place(ledger, 1)
    ledger.close()
    assert db.execute("SELECT number FROM version").fetchall() == [(len(MIGRATIONS),)]
    slow = "SELECT pg_sleep(0.3)"  # longer than a deadline: what is moved on may be large
    steps = ("ALTER TABLE account ADD COLUMN note text",), (slow, "UPDATE account SET note = 'moved'")
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, *steps))
    for _ in range(2):
        made(postgres.uri, schema, clock, deadline_s=0.2).open()
        assert db.execute("SELECT number FROM version").fetchall() == [(len(MIGRATIONS) + 2,)]
    assert db.execute("SELECT held, note FROM account").fetchall() == [(AMOUNT, "moved")]
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match=r"newer TenantGuard.*upgrade"):
        made(postgres.uri, schema, clock).open()


def test_a_migration_that_fails_leaves_everything_as_it_was(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = made(postgres.uri, schema, clock)
    ledger.open()
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, ("DROP TABLE claim", "SELECT 1 / 0")))
    with pytest.raises(PortError, match="division by zero"):
        made(postgres.uri, schema, clock).open()
    monkeypatch.undo()
    assert place(ledger, 1) == Held((AMOUNT,))
    ledger.close()


def test_another_programs_schema_is_refused_and_left_as_it_is(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any]
) -> None:
    db.execute(f"CREATE SCHEMA {schema}")
    db.execute("CREATE TABLE account (id int)")
    with pytest.raises(ConfigurationError, match="another program's: choose another"):
        made(postgres.uri, schema, clock).open()
    ledger = made(postgres.uri, schema, clock)
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(),)))
    with pytest.raises(PortError, match="another program's"):
        answer(promise)
    ledger.close()
    assert db.execute(
        "SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace", (schema,)
    ).fetchall() == [(1,)]


def test_a_schema_that_lost_its_version_is_refused_and_what_was_queued_waits(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any]
) -> None:
    made(postgres.uri, schema, clock).open()
    db.execute("DELETE FROM version")
    with pytest.raises(ConfigurationError, match="does not say its version: restore"):
        made(postgres.uri, schema, clock).open()
    ledger = made(postgres.uri, schema, clock)
    with pytest.raises(PortError, match="does not say its version"):
        place(ledger, 1)
    db.execute("INSERT INTO version VALUES (%s)", (len(MIGRATIONS),))
    place(ledger, 2)
    assert balance(ledger) == (0, 2 * AMOUNT)
    ledger.close()


@pytest.mark.parametrize("name", ["", "Ledger", "a-b", 'a"; DROP', "pg_mine", "a" * 64, "é"])
def test_a_schemas_name_that_would_need_quotes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="lower case"):
        PostgresLedger("postgresql://", real_system(), schema=name)


def test_a_role_with_no_more_than_the_documented_privileges_is_enough_and_less_is_refused(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any]
) -> None:
    made(postgres.uri, schema, clock).open()
    role = f"role_{schema}"
    db.execute(f"CREATE ROLE {role} LOGIN")
    db.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    for table, privileges in PRIVILEGES.items():
        db.execute(f"GRANT {privileges} ON {schema}.{table} TO {role}")
    ledger = made(postgres.uri.replace("postgres:@", f"{role}@"), schema, clock)
    place(ledger, 1)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (AMOUNT,))
    answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(500),), claim=Claim("k", b"f"))))
    assert ledger.outbox() == []
    assert len(ledger.denials()) == 1
    ledger.close()
    assert ledger.audit() == []
    db.execute(f"REVOKE INSERT ON {schema}.entry FROM {role}")
    with pytest.raises(ConfigurationError, match=f"lacks INSERT on entry in the schema '{schema}': grant"):
        made(postgres.uri.replace("postgres:@", f"{role}@"), schema, clock).open()
    with pytest.raises(ConfigurationError, match="may not do"):
        made(postgres.uri.replace("postgres:@", f"{role}@"), f"{schema}_other", clock).open()
    db.execute(f"REVOKE USAGE ON SCHEMA {schema} FROM {role}")
    db.execute(f"CREATE SCHEMA {schema}_empty")
    for other in (schema, f"{schema}_empty"):
        with pytest.raises(ConfigurationError, match=f"lacks USAGE on the schema '{other}': grant"):
            made(postgres.uri.replace("postgres:@", f"{role}@"), other, clock).open()


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("postgresql://me:s3cr3t@[broken/x", ConfigurationError),
        ("postgresql://me:s3cr3t@localhost:what/x", None),
        ("postgresql://me:s3cr3t@127.0.0.1:1/x", PortError),
        ("postgresql://me:s3cr3t@127.0.0.1:1/x?connect_timeout=s3cr3t", None),
        ("postgresql://me:s3cr3t@/x?s3cr3t=1", ConfigurationError),
    ],
)
def test_the_password_is_never_told(uri: str, kind: type[Exception] | None, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((ConfigurationError, PortError)) as raised:
        PostgresLedger(uri, real_system()).open()
    assert kind is None or isinstance(raised.value, kind)
    shown = "".join(map(str, [raised.value, raised.value.__cause__, caplog.text]))
    assert "s3cr3t" not in shown
    with suppress(ConfigurationError):
        ledger = PostgresLedger(uri, real_system())
        assert "s3cr3t" not in repr(vars(ledger))


def test_a_database_that_is_not_there_or_not_in_utf8_is_refused_with_a_remedy(
    postgres: Any, clock: Clock, db: psycopg.Connection[Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist.*create it"):
        made(postgres.uri.replace("/postgres?", "/nowhere?"), "tenantguard", clock).open()
    db.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigurationError, match="not encoded in UTF-8: create"):
        made(postgres.uri.replace("/postgres?", "/latin?"), "tenantguard", clock).open()


def test_every_commit_waits_for_the_disk_whatever_the_database_says(
    postgres: Any, schema: str, db: psycopg.Connection[Any]
) -> None:
    db.execute("CREATE DATABASE hasty")
    db.execute("ALTER DATABASE hasty SET synchronous_commit = off")
    database = Database(postgres.uri.replace("/postgres?", "/hasty?"), schema, 5.0)
    with closing(database.connect()) as link:
        assert link.rows("SHOW synchronous_commit") == [("on",)]
        assert link.rows("SHOW transaction_isolation") == [("read committed",)]


# what the database itself refuses, and what audit finds


def test_a_value_that_the_database_does_not_take_spoils_no_other_operation(ledger: PostgresLedger) -> None:
    odd = ledger.submit(PlaceHold(hold(1), ACME, (leg(unit="\ud800"),)))
    rest = [ledger.submit(PlaceHold(hold(number), ACME, (leg(),))) for number in range(2, 9)]
    assert [answer(promise) for promise in rest] == [Held((AMOUNT,))] * 7
    with pytest.raises(PortError, match="cannot be stored"):
        answer(odd)


def test_text_with_what_postgresql_has_no_place_for_is_written_out(ledger: PostgresLedger) -> None:
    place(ledger, 1)
    odd = 'nul \0 quote " backslash \\ brace { comma , NULL snowman \N{SNOWMAN}'
    settling = ResolveHold(hold(1), (AMOUNT,), odd, {odd: odd}, odd, odd)
    assert answer(ledger.submit(settling)) == Resolved(HoldState.SETTLED, (AMOUNT,))
    (entry,) = ledger.entries()
    assert entry.reason == entry.source == entry.external_id == odd.replace("\0", "\\x00")
    assert entry.evidence == {odd: odd}
    place(ledger, 2)
    again = ResolveHold(hold(2), (AMOUNT,), odd, {}, odd, odd)
    assert answer(ledger.submit(again)).state is HoldState.VOIDED
    for number, kind in ((3, Held), (4, Repeated)):
        placing = PlaceHold(hold(number), ACME, (leg(),), claim=Claim(odd, b"f"))
        assert isinstance(answer(ledger.submit(placing)), kind)
    settling = ResolveHold(hold(3), (AMOUNT,), "", answer=(odd, b"kept"))
    assert answer(ledger.submit(settling)).state is HoldState.SETTLED
    repeated = answer(ledger.submit(PlaceHold(hold(5), ACME, (leg(),), claim=Claim(odd, b"f"))))
    assert repeated.answer == b"kept"


def test_names_of_any_length_are_taken(ledger: PostgresLedger) -> None:
    """An index entry of PostgreSQL is at most 2704 bytes long."""
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 4_000)))
    placing = PlaceHold(hold(1), ACME, (Leg((long,), Period.DAY, "USD", 100, 7, 7),), claim=Claim(long, b"f"))
    assert answer(ledger.submit(placing)) == Held((7,))
    settling = ResolveHold(hold(1), (7,), "", {}, long, long, answer=(long, b"kept"))
    assert answer(ledger.submit(settling)).state is HoldState.SETTLED
    ledger.close()
    repeated = answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(),), claim=Claim(long, b"f"))))
    assert isinstance(repeated, Repeated)
    assert repeated.answer == b"kept"


def test_entries_can_be_neither_changed_nor_removed(ledger: PostgresLedger, db: psycopg.Connection[Any]) -> None:
    place(ledger, 1)
    settle(ledger, 1)
    for statement in ("UPDATE entry SET amount = 0", "DELETE FROM entry", "TRUNCATE entry"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="entries never change"):
            db.execute(statement)
    assert len(ledger.entries()) == 1


def test_nothing_is_said_that_only_newer_servers_than_the_oldest_understand() -> None:
    """The server of these tests is newer: before PostgreSQL 18 bytes have no least and no greatest."""
    binary = set(re.findall(r"^\s*\"?(\w+)\"? bytea", "\n".join(MIGRATIONS[0]), re.MULTILINE))
    assert {"op", "hold", "digest", "of"} <= binary
    said = [*AUDIT, *(text for text in vars(postgres_statements).values() if isinstance(text, str))]
    compared = {column for text in said for column in re.findall(r"\b(?:min|max)\([\w.]*?\"?(\w+)\"?\)", text)}
    assert "seq" in compared
    assert not compared & binary


BOOK = """
    INSERT INTO entry (op, leg, kind, account, amount, "of", external_id, source, tenant, held, absorbed, unit, at_ns,
        reason, evidence)
    SELECT *, 'openai', 'acme', 0, 0, 'USD', 0, '', '{{}}' FROM (SELECT {values}) AS booked
"""


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE account SET spent = spent + 1", "spent 8, its entries say 7"),
        ("UPDATE account SET held = held - 1", "holds 6, its open legs say 7"),
        ("UPDATE account SET grants = '[[5,null]]'", "was granted 5, its entries say 0"),
        ("UPDATE account SET previous = id", "which is no earlier window of it"),
        ("UPDATE hold SET held = '{6}' WHERE state = 'pending'", "holds 7, its open legs say 6"),
        ("UPDATE hold SET accounts = '{99}' WHERE state = 'pending'", "is of no account"),
        ("UPDATE hold SET state = 'voided' WHERE state = 'settled'", "charges a hold that is voided"),
        ("UPDATE hold SET charged = '{6}' WHERE state = 'settled'", "does not fit its leg"),
        ("UPDATE hold SET charged = '{1}', state = 'expired' WHERE state = 'pending'", "no entry shows it"),
        (BOOK.format(values="'\\x00'::bytea, 0, 1, account, -8, op, NULL FROM entry"), "was given back 8 of 7"),
        (BOOK.format(values="'\\x00'::bytea, 0, 1, account, 0, NULL::bytea, NULL FROM entry"), "refunds no hold"),
        (BOOK.format(values="'\\x00'::bytea, 0, 2, 99, 0, NULL::bytea, NULL FROM entry"), "is of no account"),
        (BOOK.format(values="id, 5, 0, 1, 0, NULL::bytea, 'r' FROM hold"), "one external id for two holds"),
        ("INSERT INTO claim VALUES ('\\x00', 'globex', 'k', '\\x00', '', 0, NULL)", "of no hold of that tenant"),
    ],
)
def test_audit_finds_what_is_broken(
    postgres: Any, schema: str, clock: Clock, db: psycopg.Connection[Any], tampering: str, finding: str
) -> None:
    ledger = made(postgres.uri, schema, clock)
    place(ledger, 1)
    place(ledger, 2)
    settle(ledger, 1)
    ledger.close()
    assert ledger.audit() == []
    db.execute(tampering)
    assert any(finding in sentence for sentence in ledger.audit())


def test_a_hot_account_is_updated_within_its_page(ledger: PostgresLedger, db: psycopg.Connection[Any]) -> None:
    for number in range(200):
        place(ledger, number, limit=None)
    assert db.execute("SELECT pg_relation_size('account'), count(*) FROM account").fetchall() == [(8192, 1)]
