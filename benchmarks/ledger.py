"""What a durable operation costs: the group-commit writer against what people write by hand.

    python -m benchmarks.ledger [--rounds N]

An operation is one hold placed or one hold settled, durable (``synchronous=FULL``) before its caller goes on. The
peers (``ledger_peers.py``, ``ledger_sqlalchemy.py``) do the same on the same tables and commit every operation;
afterwards every file must pass the audit and show what was spent. Rounds are interleaved: a ratio is the median of
the rounds' ratios, and of each figure the best round is shown, since other programs only ever make a round slower. A
further leg is one more account that the same hold touches. The aims are those for 100 callers.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.ledger_peers import AioSQLite, Command, Store, ToThread
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from tenantguard.adapters.ledger.leased import LeasedLedger
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.asgi.waiting import kept
from tenantguard.flow.ports import Held, Ledger, Leg, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS: Final = 5
EVIDENCE: Final = {"input": 812, "output": 304, "price": "2026-01"}
LIMIT: Final = 10**15
HELD: Final = 9_000
CHARGED: Final = 7_000
INSTALL: Final = "pip install 'tenantguard[bench]'"


class Grouped:
    """The ledger itself, awaited as the ASGI driver does."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, command: Command, /) -> Any:
        promise = self._ledger.submit(command)
        if not await kept(promise):
            raise TimeoutError
        return promise.result()

    async def close(self) -> None:
        self._ledger.close()


def grouped(path: Path) -> Store:
    return Grouped(SQLiteLedger(path, real_system()))


def leased(path: Path) -> Store:
    system = real_system()
    return Grouped(LeasedLedger(SQLiteLedger(path, system), system))


def in_memory(path: Path) -> Store:
    del path
    return Grouped(MemoryLedger(real_system()))


def sqlalchemy(path: Path) -> Store:
    from benchmarks.ledger_sqlalchemy import SQLAlchemyAsync  # noqa: PLC0415 - where it is installed

    return SQLAlchemyAsync(path)


@dataclass(frozen=True)
class Case:
    """``callers`` at once, each placing and settling ``pairs`` holds one after the other."""

    name: str
    make: Callable[[Path], Store]
    callers: int
    pairs: int
    tenants: int = 1
    legs: int = 1

    @property
    def title(self) -> str:
        return f"{self.name}, {self.callers}"


NAIVE: Final = "a commit each, to_thread"
AIOSQLITE: Final = "a commit each, aiosqlite"
SQLALCHEMY: Final = "a commit each, SQLAlchemy async"
GROUP: Final = "group commit"
LEASED: Final = "leased, group commit"
LEASED_MANY: Final = "leased, 100 tenants"
CASES: Final = (
    Case(NAIVE, ToThread, 1, 100),
    Case(AIOSQLITE, AioSQLite, 1, 100),
    Case(SQLALCHEMY, sqlalchemy, 1, 50),
    Case(GROUP, grouped, 1, 100),
    Case(NAIVE, ToThread, 16, 25),
    Case(GROUP, grouped, 16, 100),
    Case(NAIVE, ToThread, 100, 8),
    Case(AIOSQLITE, AioSQLite, 100, 4),
    Case(SQLALCHEMY, sqlalchemy, 100, 2),
    Case(GROUP, grouped, 100, 100),
    Case("group commit, 3 legs", grouped, 100, 60, legs=3),
    Case("group commit, 100 tenants", grouped, 100, 100, tenants=100),
    Case(LEASED, leased, 1, 100),
    Case(LEASED, leased, 100, 100),
    Case(LEASED_MANY, leased, 100, 100, tenants=100),
    Case("memory, nothing durable", in_memory, 100, 100),
)


async def drive(perform: Store, case: Case, pairs: int) -> None:
    ids = real_system().ids
    names = [TenantId(f"tenant-{number}") for number in range(case.tenants)]

    async def caller(number: int) -> None:
        tenant = names[number % case.tenants]
        legs = tuple(
            Leg(("tenant", tenant, f"budget-{leg}"), Period.MONTH, "USD", LIMIT, HELD, HELD)
            for leg in range(case.legs)
        )
        for _ in range(pairs):
            hold_id = ids.new()
            held = await perform(PlaceHold(hold_id, tenant, legs))
            if not isinstance(held, Held):
                raise TypeError(held)
            await perform(ResolveHold(hold_id, (CHARGED,) * case.legs, "completed", EVIDENCE))

    await asyncio.gather(*(caller(number) for number in range(case.callers)))


def check(case: Case, path: Path, pairs: int) -> None:
    """Every candidate has to have done the work that it is measured by."""
    books = SQLiteLedger(path, real_system())
    if broken := books.audit():
        raise SystemExit(f"{case.title}: {broken[0]}")
    balances = books.balances()
    spent, held = sum(each.spent for each in balances), sum(each.held for each in balances)
    if (spent, held) != (case.callers * pairs * case.legs * CHARGED, 0):
        raise SystemExit(f"{case.title}: {spent} was spent and {held} is held")


async def measure(case: Case, path: Path, wall: Samples, cpu: Samples) -> None:
    store = case.make(path)
    await drive(store, case, 1)
    began_ns, used_ns = time.perf_counter_ns(), time.process_time_ns()
    await drive(store, case, case.pairs)
    used_ns, took_ns = time.process_time_ns() - used_ns, time.perf_counter_ns() - began_ns
    await store.close()
    operations = 2 * case.callers * case.pairs
    wall.add(case.title, took_ns / operations / 1000)
    cpu.add(case.title, used_ns / operations / 1000)


def compare(cases: list[Case], wall: Samples, cpu: Samples) -> list[Target]:
    """Print the table; the targets."""
    targets = []
    rows = []
    for case in cases:
        us, rate = min(cpu.rounds[case.title]), 1e6 / min(wall.rounds[case.title])
        naive = f"{NAIVE}, {case.callers}"
        ratios = [f"{cpu.ratio(naive, case.title):.1f}", f"{wall.ratio(naive, case.title):.1f}"]
        rows.append([case.name, str(case.callers), f"{us:.1f}", ratios[0], f"{rate:,.0f}", ratios[1]])
    columns = ("", "callers", "CPU us/op", "x less", "ops/s", "x naive")
    print_table("One operation: a hold placed or settled; one leg", columns, rows)

    measured = {case.title for case in cases}
    one, three = f"{GROUP}, 100", "group commit, 3 legs, 100"
    for name, aim in ((NAIVE, 6), (AIOSQLITE, 14), (SQLALCHEMY, 55)):
        peer = f"{name}, 100"
        if peer in measured:
            faster, cheaper = wall.ratio(peer, one), cpu.ratio(peer, one)
            seen = f"{faster:.1f}x (CPU {cheaper:.1f}x)"
            targets.append(Target(f"operations a second, to {name}", f">= {aim}x", seen, faster >= aim))
    faster, cheaper = wall.ratio(f"{NAIVE}, 1", f"{GROUP}, 1"), cpu.ratio(f"{NAIVE}, 1", f"{GROUP}, 1")
    seen = f"{faster:.2f}x (CPU {cheaper:.2f}x)"
    targets.append(Target("the same with one caller, to to_thread", ">= 0.95x", seen, faster >= 0.95))
    us = min(cpu.rounds[one])
    targets.append(Target("CPU an operation, one leg", "<= 25 us", f"{us:.1f} us", us <= 25))
    further = (min(cpu.rounds[three]) - us) / 2
    targets.append(Target("CPU for each further leg", "<= 12 us", f"{further:.1f} us", further <= 12))
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    missing = {
        peer: module
        for peer, modules in ((AIOSQLITE, ("aiosqlite",)), (SQLALCHEMY, ("sqlalchemy", "greenlet", "aiosqlite")))
        for module in modules
        if find_spec(module) is None
    }
    for peer, module in missing.items():
        print(f"'{peer}' is left out, since {module} is not installed: {INSTALL}")
    cases = [case for case in CASES if case.name not in missing]
    alone = [case for case in cases if case.callers == 1]
    turns = [*cases, *alone * 3]  # one caller waits for other programs at every operation, so it is asked more often
    wall, cpu = Samples(), Samples()
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd()) as folder:
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for number, case in enumerate(turns):
                path = Path(folder, f"{turn}-{number}.db")
                asyncio.run(measure(case, path, wall, cpu))
                if path.exists():
                    check(case, path, case.pairs + 1)
                    path.unlink()
    python = sys.version.split(maxsplit=1)[0]
    print(f"\nPython {python}, SQLite {sqlite3.sqlite_version}, synchronous=FULL, {rounds} rounds")
    print_targets(compare(cases, wall, cpu))


if __name__ == "__main__":
    main()
