"""Several processes lease blocks of one budget: nothing is overshot, and once all have closed everything adds up."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.ledger.backend import LEASE_S
from tenantguard.adapters.ledger.leased import LeasedLedger
from tenantguard.adapters.system import real_system
from tenantguard.errors import PortError
from tenantguard.flow.ports import Exhausted, Held, Leg, PlaceHold, ResolveHold, System
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from tenantguard.flow.ports import Clock, Ledger, LedgerCommand

ACME = TenantId("acme")
AMOUNT = 7
FITS = 2003
LIMIT = FITS * AMOUNT + AMOUNT - 1
AT_ONCE = 20
PATIENCE_S = 60.0


class Later:
    """The clock of a process that comes when the leases of those before it have lapsed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns()

    def wall_ns(self) -> int:
        return self._clock.wall_ns() + int(1.1 * LEASE_S * 1e9)


def open_ledger(where: str, *, later: bool = False) -> Ledger:
    system = real_system()
    if later:
        system = System(Later(system.clock), system.ids)
    if where.startswith("postgresql:"):
        from tenantguard.adapters.ledger.postgres import PostgresLedger

        return PostgresLedger(where, system, deadline_s=PATIENCE_S, now_ns=system.clock.wall_ns if later else None)
    from tenantguard.adapters.ledger.sqlite import SQLiteLedger

    return SQLiteLedger(where, system, deadline_s=PATIENCE_S)


def leased(where: str) -> LeasedLedger:
    return LeasedLedger(open_ledger(where), real_system())


def legs() -> tuple[Leg, ...]:
    return (
        Leg(("tenant", "acme"), Period.LIFETIME, "USD", LIMIT, AMOUNT, AMOUNT),
        Leg(("tenant", "acme"), Period.LIFETIME, "calls", 2 * FITS, 1, 1),
    )


def done(ledger: Ledger, commands: list[LedgerCommand]) -> list[Any]:
    """The answers to commands that are asked at once; the same again where the ledger failed."""
    answers: list[Any] = []
    promises = [(command, ledger.submit(command)) for command in commands]
    for command, first in promises:
        promise = first
        while True:
            assert promise.wait(PATIENCE_S)
            try:
                answers.append(promise.result())
                break
            except PortError:
                promise = ledger.submit(command)
    return answers


def admit(ledger: Ledger, number: int) -> list[bytes]:
    new_id = real_system().ids.new
    ids = [new_id() for _ in range(number)]
    answers = done(ledger, [PlaceHold(each, ACME, legs()) for each in ids])
    assert all(isinstance(answer, Held | Exhausted) for answer in answers)
    return [each for each, answer in zip(ids, answers, strict=True) if isinstance(answer, Held)]


def ask_for_more_than_fits(where: str, seed: int, start: Barrier, results: Any) -> None:
    """One of the processes: places until nothing fits any more, charges most of it and voids some meanwhile."""
    ledger, chance = leased(where), random.Random(seed)
    start.wait(PATIENCE_S)
    kept: list[bytes] = []
    charged = 0
    full = False
    while not full:
        held = admit(ledger, AT_ONCE)
        full = len(held) < AT_ONCE
        for each in held:
            fate = chance.random()
            if fate < 0.2:
                done(ledger, [ResolveHold(each, None, "failed")])
            elif fate < 0.8:
                done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed")])
                charged += 1
            else:
                kept.append(each)
    start.wait(PATIENCE_S)
    ledger.close()  # what nobody uses comes back, what is in flight does not
    results.put((charged, len(kept)))
    start.wait(PATIENCE_S)
    start.wait(PATIENCE_S)
    done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed") for each in kept])
    ledger.close()


def die_with_blocks(where: str, results: Any) -> None:
    ledger = leased(where)
    held = admit(ledger, 50)
    done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed") for each in held[:30]])
    held += admit(ledger, 10)
    results.put(len(held))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    import psycopg

    uri = request.getfixturevalue("postgres").uri
    with psycopg.connect(uri, autocommit=True) as db:
        db.execute("CREATE DATABASE leasing")
    yield uri.replace("/postgres?", "/leasing?")
    with psycopg.connect(uri, autocommit=True) as db:
        db.execute("DROP DATABASE leasing WITH (FORCE)")


def balances(ledger: Ledger) -> tuple[int, int, int, int]:
    money, calls = sorted(ledger.balances(), key=lambda balance: balance.unit)
    return money.spent, money.held, calls.spent, calls.held


@pytest.mark.parametrize("processes", [2, 4])
def test_leasing_processes_pass_no_limit_and_admit_all_that_fits_in_the_end(where: str, processes: int) -> None:
    """L-3: overshoot 0; what one process holds for itself is there for the others once it has returned it."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes + 1), context.SimpleQueue()
    children = [
        context.Process(target=ask_for_more_than_fits, args=(where, seed, start, results))
        for seed in range(processes)
    ]
    for child in children:
        child.start()
    ledger = open_ledger(where)
    start.wait(PATIENCE_S)
    start.wait(PATIENCE_S)
    counts = [results.get() for _ in children]
    start.wait(PATIENCE_S)
    charged, kept = map(sum, zip(*counts, strict=True))
    assert balances(ledger) == (charged * AMOUNT, kept * AMOUNT, charged, kept)
    assert charged + kept <= FITS
    rest = admit(ledger, FITS - charged - kept + 5)
    assert len(rest) == FITS - charged - kept
    done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed") for each in rest])
    start.wait(PATIENCE_S)
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    assert balances(ledger) == (FITS * AMOUNT, 0, FITS, 0)
    assert len(ledger.entries(limit=10_000)) == 2 * FITS
    assert ledger.holds() == []
    ledger.close()
    assert ledger.audit() == []


def test_the_blocks_of_a_killed_process_are_free_once_its_lease_has_lapsed(where: str) -> None:
    """F.5: nothing that was charged is lost, and no more stays behind than its blocks, for 20 seconds."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=die_with_blocks, args=(where, results))
    child.start()
    held = results.get()
    child.join(PATIENCE_S)
    assert child.exitcode == -signal.SIGKILL
    ledger = open_ledger(where)
    spent, stranded, calls, _ = balances(ledger)
    assert (held, spent, calls) == (60, 30 * AMOUNT, 30)
    assert 30 * AMOUNT <= stranded <= (LIMIT - spent) // 2
    ledger.close()
    later = open_ledger(where, later=True)
    assert len(admit(later, FITS)) == FITS - 30
    assert later.audit() == []
    assert [hold.state for hold in later.holds()] == ["pending"] * (FITS - 30)
    later.close()
