"""A SQLite file that is full, read-only, locked, damaged or cut off under load: typed errors, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tenantguard.adapters.ledger import writer as writer_module
from tenantguard.adapters.ledger.schema import LedgerFile
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.ports import Held, Leg, PlaceHold, Resolved, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
ACME = TenantId("acme")
AMOUNT = 7
LEGS = (
    Leg(("tenant", "acme"), Period.LIFETIME, "USD", 10**12, AMOUNT, AMOUNT),
    Leg(("tenant", "acme"), Period.LIFETIME, "calls", 10**12, 1, 1),
)
PATIENCE_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again soon."""
    monkeypatch.setattr(writer_module, "_PAUSE_FIRST_S", 0.005)
    monkeypatch.setattr(writer_module, "_PAUSE_LONGEST_S", 0.05)


class Load:
    """Threads that hold and charge, and remember what was acknowledged; every failure must be :class:`PortError`."""

    def __init__(self, ledger: SQLiteLedger, callers: int = 4) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self.charged: set[bytes] = set()
        self.failures: list[PortError] = []
        self.others: list[BaseException] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.others == []

    def until(self, condition: Callable[[Load], bool]) -> None:
        for _ in range(int(PATIENCE_S / 0.005)):
            if condition(self) or self.others:
                return
            self._stop.wait(0.005)
        raise AssertionError((len(self.charged), self.failures[-3:]))

    def more(self) -> None:
        """Until more was charged."""
        before = len(self.charged)
        self.until(lambda load: len(load.charged) >= before + 40)

    def fails(self) -> None:
        """Until callers have heard that it fails."""
        before = len(self.failures)
        self.until(lambda load: len(load.failures) >= before + 8)

    def _call(self) -> None:
        new_id = real_system().ids.new
        try:
            while not self._stop.is_set():
                hold_id = new_id()
                try:
                    held = self._answer(PlaceHold(hold_id, ACME, LEGS))
                    ended = self._answer(ResolveHold(hold_id, (AMOUNT, 1), "completed", {"exchange": hold_id.hex()}))
                except PortError as failure:
                    self._ledger.submit(ResolveHold(hold_id, None, "given up"))
                    self.failures.append(failure)
                    self._stop.wait(0.002)
                    continue
                assert isinstance(held, Held)
                assert isinstance(ended, Resolved)
                self.charged.add(hold_id)
        except BaseException as other:  # noqa: BLE001 - told by the thread that asserts
            self.others.append(other)

    def _answer(self, command: Any) -> Any:
        promise = self._ledger.submit(command)
        assert promise.wait(PATIENCE_S), "neither kept nor broken"
        return promise.result()


def charged(ledger: SQLiteLedger) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for entry in ledger.entries(limit=10**6):
        found.setdefault(entry.op, [0, 0])[entry.leg] += entry.amount
    return found


def assert_whole(ledger: SQLiteLedger, acknowledged: set[bytes]) -> None:
    """All that was acknowledged is charged, once; nothing is held; the audit is clean."""
    found = charged(ledger)
    assert acknowledged <= found.keys()
    assert all(amounts == [AMOUNT, 1] for amounts in found.values())
    assert [(each.held, each.spent) for each in ledger.balances()] == [(0, AMOUNT * len(found)), (0, len(found))]
    assert ledger.audit() == []


# full, read-only, locked


class Trouble(LedgerFile):
    """A file whose every transaction begins with ``pragma``."""

    pragma = ""

    def connect(self) -> Any:
        return _Troubled(super().connect(), self)


class _Troubled:
    def __init__(self, db: sqlite3.Connection, file: Trouble) -> None:
        self._db = db
        self._file = file

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "BEGIN IMMEDIATE" and self._file.pragma:
            self._db.execute(self._file.pragma)
        return self._db.execute(statement, *values)

    def close(self) -> None:
        self._db.close()


@pytest.mark.parametrize(
    ("trouble", "relief", "problem"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1073741823", "full"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "readonly"),
    ],
    ids=["full", "read-only"],
)
def test_a_file_that_takes_no_more_under_load_breaks_promises_and_loses_nothing(
    path: Path, trouble: str, relief: str, problem: str
) -> None:
    """Once there is room again all that was queued is written, and what was acknowledged was there all the time."""
    ledger = SQLiteLedger(path, real_system(), deadline_s=PATIENCE_S)
    ledger._file = ledger._writer._backend._file = file = Trouble(path, PATIENCE_S)  # type: ignore[attr-defined]
    with Load(ledger) as load:
        load.more()
        for _ in range(3):
            file.pragma = trouble
            load.fails()
            acknowledged = set(load.charged)
            assert acknowledged <= charged(ledger).keys()
            file.pragma = relief
            load.more()
    assert {failure.port for failure in load.failures} == {"ledger"}
    assert any(problem in failure.problem for failure in load.failures)
    ledger.close()
    assert_whole(SQLiteLedger(path, real_system()), load.charged)


def test_a_disk_that_is_full_breaks_promises_and_loses_nothing(path: Path) -> None:
    """The operating system refuses to let the file's log grow, as a full disk does; then there is room again."""
    script = """
import os, resource, sys
from pathlib import Path
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tests.kill.test_broken_files import Load
ledger = SQLiteLedger(sys.argv[1], real_system())
with Load(ledger) as load:
    load.more()
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1] + "-wal").stat().st_size, resource.RLIM_INFINITY))
    load.fails()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    load.more()
ledger.close()
print(*{failure.problem for failure in load.failures}, file=sys.stderr)
print(*[each.hex() for each in load.charged])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "disk I/O error" in done.stderr or "full" in done.stderr
    assert_whole(SQLiteLedger(path, real_system()), {bytes.fromhex(each) for each in done.stdout.split()})


def test_a_file_that_is_locked_under_load_breaks_promises_and_loses_nothing(path: Path) -> None:
    ledger = SQLiteLedger(path, real_system(), deadline_s=0.1)
    with Load(ledger) as load:
        load.more()
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as other:
            other.execute("BEGIN IMMEDIATE")
            load.fails()
            other.execute("ROLLBACK")
        load.more()
    assert any("locked" in failure.problem for failure in load.failures)
    ledger.close()
    assert_whole(SQLiteLedger(path, real_system()), load.charged)


# damaged


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, set[bytes]]:
    """A ledger's file, closed, and what was acknowledged in it."""
    path = tmp_path_factory.mktemp("good") / "ledger.db"
    ledger = SQLiteLedger(path, real_system())
    with Load(ledger) as load:
        load.until(lambda load: len(load.charged) >= 200)
    ledger.close()
    assert load.failures == []
    return path.read_bytes(), set(load.charged)


def flipped(data: bytearray, random: random.Random) -> None:
    """Some bytes of one page are others."""
    at = random.randrange(len(data))
    for place in range(at, min(at + random.choice([1, 16, 256]), len(data))):
        data[place] ^= random.randrange(1, 256)


def zeroed(data: bytearray, random: random.Random) -> None:
    """A sector was never written."""
    at = random.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)


def cut_off(data: bytearray, random: random.Random) -> None:
    """The end is missing."""
    del data[random.randrange(1, len(data)) :]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("damage", [flipped, zeroed, cut_off])
def test_a_damaged_file_is_refused_or_audited_or_has_all_that_was_acknowledged(
    path: Path, good: tuple[bytes, set[bytes]], damage: Callable[..., None], seed: int
) -> None:
    """Every error is the operator's or the world's, in words, whatever the damage hit."""
    data, acknowledged = bytearray(good[0]), good[1]
    damage(data, random.Random(seed))
    path.write_bytes(data)
    ledger = SQLiteLedger(path, real_system(), deadline_s=5.0)
    told = list(findings(ledger))
    ledger.close()
    if not told:
        found = charged(ledger)
        assert acknowledged <= found.keys()
        assert all(amounts == [AMOUNT, 1] for amounts in found.values())


def findings(ledger: SQLiteLedger) -> Iterator[str]:
    """What a ledger says against itself."""
    hold_id = real_system().ids.new()
    commands = (PlaceHold(hold_id, ACME, LEGS), ResolveHold(hold_id, (AMOUNT, 1), "completed"))
    questions: list[Callable[[], Any]] = [
        ledger.open,
        lambda: ledger.entries(limit=10**6),
        ledger.balances,
        ledger.holds,
        ledger.denials,
        ledger.notices,
        *[partial(asked, ledger, command) for command in commands],
    ]
    for ask in questions:
        try:
            ask()
        except (PortError, ConfigurationError) as failure:
            yield str(failure)
    try:
        yield from ledger.audit()
    except PortError as failure:
        yield str(failure)


def asked(ledger: SQLiteLedger, command: Any) -> Any:
    promise = ledger.submit(command)
    assert promise.wait(PATIENCE_S)
    return promise.result()


def test_evidence_that_is_no_json_is_told_by_the_audit_and_by_whoever_reads_it(path: Path) -> None:
    ledger = SQLiteLedger(path, real_system())
    for command in (PlaceHold(bytes(16), ACME, LEGS), ResolveHold(bytes(16), (AMOUNT, 1), "completed")):
        asked(ledger, command)
    ledger.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER entry_stays")
        db.execute("UPDATE entry SET evidence = '{secret' WHERE seq = 2")
    assert ledger.audit() == ["entry 2 has evidence that cannot be read"]
    with pytest.raises(PortError, match=r"is damaged: restore it from a backup$"):
        ledger.entries()


def test_a_file_that_is_cut_off_is_refused_with_a_remedy(path: Path, good: tuple[bytes, set[bytes]]) -> None:
    path.write_bytes(good[0][: len(good[0]) // 2])
    with pytest.raises(ConfigurationError, match=r"is damaged: restore it from a backup"):
        SQLiteLedger(path, real_system()).open()


def test_a_file_that_is_cut_off_under_load_is_never_taken_for_a_new_one(path: Path) -> None:
    """An empty file becomes a ledger, but not where the log of another one lies beside it."""
    script = """
import os, sys
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tests.kill.test_broken_files import Load
with Load(SQLiteLedger(sys.argv[1], real_system())) as load:
    load.more()
    os.truncate(sys.argv[1], 0)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    log = path.with_name(path.name + "-wal").read_bytes()
    ledger = SQLiteLedger(path, real_system())
    with pytest.raises(ConfigurationError, match=r"was cut off.*restore it from a backup"):
        ledger.open()
    with pytest.raises(PortError, match="was cut off"):
        asked(ledger, PlaceHold(bytes(16), ACME, LEGS))
    ledger.close()
    assert path.stat().st_size == 0
    assert path.with_name(path.name + "-wal").read_bytes() == log


def test_damage_under_load_breaks_promises_and_is_told_by_the_audit(path: Path) -> None:
    """The pages are overwritten while the ledger is open: nobody hears anything but PortError, or an answer."""
    ledger = SQLiteLedger(path, real_system(), deadline_s=5.0)
    with Load(ledger) as load:
        load.more()
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        load.until(lambda load: bool(load.failures) or len(load.charged) > 400)
    ledger.close()
    assert list(findings(ledger))
    ledger.close()
