"""Several processes on one ledger at once: what fits is accepted to the last one, and nothing more."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.system import real_system
from tenantguard.errors import PortError
from tenantguard.flow.ports import Exhausted, Held, HoldState, Leg, PlaceHold, ResolveHold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from tenantguard.flow.ports import Ledger, LedgerCommand

ACME = TenantId("acme")
AMOUNT = 7
FITS = 401
LIMIT = FITS * AMOUNT + AMOUNT - 1
CALLS_FIT = FITS + 50
"""A second leg with more room: it must have exactly what the first lets through."""

AT_ONCE = 40
PATIENCE_S = 60.0


def open_ledger(where: str) -> Ledger:
    if where.startswith("postgresql:"):
        from tenantguard.adapters.ledger.postgres import PostgresLedger

        return PostgresLedger(where, real_system(), deadline_s=PATIENCE_S)
    from tenantguard.adapters.ledger.sqlite import SQLiteLedger

    return SQLiteLedger(where, real_system(), deadline_s=PATIENCE_S)


def legs() -> tuple[Leg, ...]:
    return (
        Leg(("tenant", "acme"), Period.LIFETIME, "USD", LIMIT, AMOUNT, AMOUNT),
        Leg(("tenant", "acme"), Period.LIFETIME, "calls", CALLS_FIT, 1, 1),
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


def ask_for_more_than_fits(where: str, start: Barrier, results: Any) -> None:
    """One of the processes: accepts until nothing fits any more, and charges every other hold meanwhile."""
    ledger, new_id = open_ledger(where), real_system().ids.new
    start.wait(PATIENCE_S)
    accepted: list[bytes] = []
    charged = 0
    full = False
    while not full:
        ids = [new_id() for _ in range(AT_ONCE)]
        answers = done(ledger, [PlaceHold(each, ACME, legs()) for each in ids])
        assert all(isinstance(answer, Held | Exhausted) for answer in answers)
        held = [each for each, answer in zip(ids, answers, strict=True) if isinstance(answer, Held)]
        ends = done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed") for each in held[::2]])
        charged += sum(end.state is HoldState.SETTLED for end in ends)
        accepted += held
        full = len(held) < AT_ONCE
    results.put((len(accepted), charged))
    start.wait(PATIENCE_S)  # a process that ends here would still hold what the others count
    done(ledger, [ResolveHold(each, (AMOUNT, 1), "completed") for each in accepted])
    ledger.close()


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    import psycopg

    uri = request.getfixturevalue("postgres").uri
    with psycopg.connect(uri, autocommit=True) as db:
        db.execute("CREATE DATABASE many")
    yield uri.replace("/postgres?", "/many?")
    with psycopg.connect(uri, autocommit=True) as db:
        db.execute("DROP DATABASE many WITH (FORCE)")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_accept_exactly_what_the_limit_carries(where: str, processes: int) -> None:
    """Promise 1, L-3: overshoot 0, accepted is the floor of limit by amount. They make the tables together, too."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(processes + 1), context.SimpleQueue()
    target: Callable[..., None] = ask_for_more_than_fits
    children = [context.Process(target=target, args=(where, start, results)) for _ in range(processes)]
    for child in children:
        child.start()
    start.wait(PATIENCE_S)
    counts = [results.get() for _ in children]
    ledger = open_ledger(where)
    accepted, charged = map(sum, zip(*counts, strict=True))
    assert accepted == LIMIT // AMOUNT
    money, calls = sorted(ledger.balances(), key=lambda balance: balance.unit)
    assert (money.spent, money.held) == (charged * AMOUNT, (accepted - charged) * AMOUNT)
    assert (calls.spent, calls.held) == (charged, accepted - charged)
    (refused,) = done(ledger, [PlaceHold(real_system().ids.new(), ACME, legs())])
    assert isinstance(refused, Exhausted)
    start.wait(PATIENCE_S)
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    money, calls = sorted(ledger.balances(), key=lambda balance: balance.unit)
    assert (money.spent, money.held, calls.spent, calls.held) == (FITS * AMOUNT, 0, FITS, 0)
    assert len(ledger.entries(limit=10_000)) == 2 * FITS
    ledger.close()
    assert ledger.audit() == []
