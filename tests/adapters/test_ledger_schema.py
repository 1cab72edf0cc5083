"""Ledger files that earlier versions wrote are brought forward whole, or stay as they were."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tenantguard
from tenantguard.adapters.ledger import schema
from tenantguard.adapters.ledger.schema import MIGRATIONS, SCHEMA_VERSION
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.ports import Held, HoldState, Leg, PlaceHold, ResolveHold, System
from tenantguard.model.ledger import CarryOver, EntryKind, Terms
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(tenantguard.__file__).parents[1]
ACME = TenantId("acme")


class Clock:
    """Just after the last thing in the files of earlier versions."""

    now_ns = 1_751_728_000 * 10**9 + 1

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


@pytest.fixture(params=sorted(MIGRATIONS))
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file as that version wrote it."""
    path = tmp_path / "ledger.db"
    text = Path(__file__).with_name(f"ledger_schema_{request.param}.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(path)) as db:
        db.executescript(text)
    return path


@pytest.fixture
def ledger(path: Path) -> Iterator[SQLiteLedger]:
    ledger = SQLiteLedger(path, System(Clock(), TimeOrderedIds()))
    yield ledger
    ledger.close()
    assert ledger.audit() == []


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchall())]


def answer(ledger: SQLiteLedger, command: PlaceHold | ResolveHold) -> Any:
    promise = ledger.submit(command)
    assert promise.wait(60)
    return promise.result()


def test_there_is_a_way_from_every_version_to_this_one() -> None:
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_every_balance_and_entry_is_kept(path: Path, ledger: SQLiteLedger) -> None:
    balances = rows(
        path, "SELECT budget, period, unit, tenant, ceiling, spent, held, window_ends_ns FROM account ORDER BY id"
    )
    columns = "seq, hold, leg, tenant, amount, absorbed, unit, at_ns, reason, evidence, source, external_id"
    entries = rows(path, f"SELECT {columns} FROM entry ORDER BY seq")
    assert len(balances) > 5
    assert len(entries) > 10
    ledger.open()
    assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert ledger.audit() == []
    assert balances == [
        (json.dumps(b.budget), b.period, b.unit, b.tenant, b.limit, b.spent, b.held, b.window_ends_ns)
        for b in ledger.balances()
    ]
    assert entries == [
        (
            e.seq, e.op, e.leg, e.tenant, e.amount, e.absorbed, e.unit, e.at_ns, e.reason,
            json.dumps(e.evidence, separators=(",", ":")), e.source, e.external_id,
        )
        for e in ledger.entries(limit=1000, after_seq=0)
    ]  # fmt: skip
    assert {e.kind for e in ledger.entries(limit=1000)} == {EntryKind.CHARGE}


def test_every_hold_stands_as_it_stood(path: Path, ledger: SQLiteLedger) -> None:
    """Each of them answers a repeated command as before, and what was open can still end."""
    stood = {
        hold_id: (tenant, HoldState(state))
        for hold_id, tenant, state in rows(path, "SELECT id, tenant, state FROM hold")
    }
    held: dict[bytes, list[int]] = {hold_id: [] for hold_id in stood}
    for hold_id, amount in rows(path, "SELECT hold, amount FROM leg ORDER BY hold, leg"):
        held[hold_id].append(amount)
    charged = {(hold_id, leg): amount for hold_id, leg, amount in rows(path, "SELECT hold, leg, amount FROM entry")}
    ledger.open()
    assert {state for _, state in stood.values()} == set(HoldState)
    assert [hold.id for hold in ledger.holds()] == sorted(
        hold_id for hold_id, (_, state) in stood.items() if state in {HoldState.PENDING, HoldState.REVIEW}
    )
    for hold_id, (tenant, state) in stood.items():
        legs = held[hold_id]
        if tenant is not None:
            assert answer(ledger, PlaceHold(hold_id, TenantId(tenant), ())) == Held(tuple(legs))
        amounts = tuple([charged.get((hold_id, leg), 0) for leg in range(len(legs))])
        ended = answer(ledger, ResolveHold(hold_id, (1,) * len(legs), "again"))
        assert ended.state is (HoldState.VOIDED if state is HoldState.VOIDED else HoldState.SETTLED)
        if state.is_final:
            assert ended.amounts == amounts
    assert ledger.holds() == []
    assert all(balance.held == 0 for balance in ledger.balances())


def test_the_windows_of_a_budget_follow_each_other(ledger: SQLiteLedger) -> None:
    """A policy that carries over from now on finds the window before."""
    terms = Terms(carry=CarryOver.UNUSED, cap=10**6)
    leg = Leg(("tenant", "acme", "month"), Period.MONTH, "USD", 1000, 1, 1, terms)
    assert answer(ledger, PlaceHold(b"n" * 16, ACME, (leg,))) == Held((1,))
    june, july = [each for each in ledger.balances() if (each.budget, each.period) == (leg.budget, "month")]
    assert (june.carried, july.carried) == (0, 1000 - june.spent - june.held)


def test_a_migration_that_fails_anywhere_leaves_the_file_as_it_was(
    path: Path, ledger: SQLiteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(path)
    ((version,),) = rows(path, "PRAGMA user_version")
    statements = MIGRATIONS[version]
    for number in range(len(statements) + 1):
        broken = (*statements[:number], "SELECT * FROM nothing_of_that_name", *statements[number:])
        monkeypatch.setitem(schema.MIGRATIONS, version, broken)
        with pytest.raises(PortError, match="nothing_of_that_name"):
            ledger.open()
        assert dump(path) == before
    monkeypatch.undo()
    ledger.open()
    assert ledger.audit() == []


def test_a_process_that_is_killed_while_it_migrates_leaves_the_file_as_it_was(
    path: Path, ledger: SQLiteLedger
) -> None:
    before = dump(path)
    ((version,),) = rows(path, "PRAGMA user_version")
    script = f"""
import os, signal, sys
from tenantguard.adapters.ledger import schema
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system

def deadly(statements, number):
    yield from statements[:number]
    os.kill(os.getpid(), signal.SIGKILL)

schema.MIGRATIONS[{version}] = deadly(schema.MIGRATIONS[{version}], int(sys.argv[2]))
SQLiteLedger(sys.argv[1], real_system()).open()
"""
    last = len(MIGRATIONS[version])
    for number in (0, last // 2, last):
        command = [sys.executable, "-c", script, str(path), str(number)]
        killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert dump(path) == before
    ledger.open()
    assert ledger.audit() == []


def test_processes_that_open_an_old_file_at_once_migrate_it_once(path: Path) -> None:
    ledgers = [SQLiteLedger(path, System(Clock(), TimeOrderedIds())) for _ in range(8)]
    problems: list[Exception] = []

    def open_it(ledger: SQLiteLedger) -> None:
        try:
            ledger.open()
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=open_it, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert ledgers[0].audit() == []


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SQLiteLedger(path, System(Clock(), TimeOrderedIds()))
    ledger.open()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = dump(path)
    with pytest.raises(ConfigurationError, match="newer TenantGuard"):
        ledger.open()
    assert dump(path) == before
