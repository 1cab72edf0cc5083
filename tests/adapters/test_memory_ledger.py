"""What the ledger in memory forgets, and what it never does."""

from __future__ import annotations

from typing import Any

import pytest

from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import PortError
from tenantguard.flow.ports import Held, Leg, PlaceHold, ResolveHold, System
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

ACME = TenantId("acme")
MINUTE_NS = 60 * 10**9


class Clock:
    now_ns = 1_750_000_000 * 10**9

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


def leg(budget: str, period: Period = Period.MINUTE, limit: int = 10**6) -> Leg:
    return Leg((budget,), period, "USD", limit, 10, 10)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


def run(ledger: MemoryLedger, number: int, *legs: Leg, settle: bool = True) -> Any:
    answer = ledger.submit(PlaceHold(hold(number), ACME, legs)).result()
    if settle:
        ledger.submit(ResolveHold(hold(number), (7,) * len(legs), "completed", {}, "s", f"resp-{number}")).result()
    return answer


def test_history_is_bounded_and_balances_stay_exact() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=10)
    run(ledger, 0, leg("b", Period.LIFETIME), settle=False)
    for number in range(1, 200):
        run(ledger, number, leg("b", Period.LIFETIME))
        assert ledger.audit() == []
    (balance,) = ledger.balances()
    assert (balance.spent, balance.held) == (199 * 7, 10)
    assert 10 <= len(ledger.entries(limit=10**6)) <= 30
    assert len(ledger._books.charged) <= 30
    assert len(ledger._books.holds) <= 31


def test_a_pending_hold_is_never_forgotten() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=2)
    for number in range(50):
        assert run(ledger, number, leg("b"), settle=False) == Held((10,))
    for number in range(100, 150):
        run(ledger, number, leg("b"))
    (balance,) = ledger.balances()
    assert (balance.spent, balance.held) == (50 * 7, 50 * 10)
    assert ledger.submit(PlaceHold(hold(0), ACME, ())).result() == Held((10,))
    assert ledger.audit() == []


def test_accounts_of_past_windows_make_room_and_live_ones_are_never_dropped() -> None:
    clock = Clock()
    ledger = MemoryLedger(System(clock, TimeOrderedIds()), history_max=3)
    for number in range(20):
        run(ledger, number, leg("b"))
        clock.now_ns += MINUTE_NS
        assert ledger.audit() == []
    assert len(ledger.balances()) <= 6
    for number in range(3):
        run(ledger, 100 + number, leg(f"live-{number}", Period.YEAR), settle=False)
        clock.now_ns += MINUTE_NS
    assert {balance.budget for balance in ledger.balances()} >= {(f"live-{number}",) for number in range(3)}


def test_beyond_its_accounts_a_new_one_is_refused_and_known_ones_go_on() -> None:
    """Every map that a caller can grow is bounded, with a typed outcome."""
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=3)
    for number in range(6):
        run(ledger, number, leg(f"b{number}", Period.LIFETIME))
    with pytest.raises(PortError, match="6 accounts"):
        run(ledger, 9, leg("b0", Period.LIFETIME), leg("new", Period.LIFETIME))
    assert run(ledger, 9, leg("b0", Period.LIFETIME)) == Held((10,))
    assert ledger.audit() == []


def test_a_broken_balance_is_found() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()))
    run(ledger, 1, leg("b"))
    run(ledger, 2, leg("b"), settle=False)
    (account,) = ledger._books.accounts.values()
    account.spent += 1
    account.held -= 1
    ledger._books.lines.append(ledger._books.lines[0])
    assert len(ledger.audit()) == 3
