"""What the ledger in memory forgets, and what it never does."""

from __future__ import annotations

from typing import Any

import pytest

from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import PortError
from tenantguard.flow.ports import Booked, Claim, Correct, Grant, Held, Leg, PlaceHold, Refund, ResolveHold, System
from tenantguard.model.ledger import PLAIN, CarryOver, Counted, Terms, Threshold, Unbookable
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


def leg(budget: str, period: Period = Period.MINUTE, limit: int = 10**6, terms: Terms = PLAIN) -> Leg:
    return Leg((budget,), period, "USD", limit, 10, 10, terms)


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


def test_what_operators_booked_is_forgotten_with_its_entries_and_balances_stay_exact() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=10)
    run(ledger, 0, leg("b", Period.LIFETIME))
    assert ledger.submit(Refund(hold(900), hold(0), (3,), "outage")).result() == Booked((3,))
    assert ledger.submit(Grant(hold(901), ACME, leg("b", Period.LIFETIME), None, "paid")).result() == Booked((10,))
    for number in range(1, 100):
        run(ledger, number, leg("b", Period.LIFETIME))
        ledger.submit(Correct(hold(1000 + number), ACME, leg("b", Period.LIFETIME), 1, "invoice")).result()
        assert ledger.audit() == []
    (balance,) = ledger.balances()
    assert (balance.spent, balance.granted) == (100 * 7 - 3 + 99, 10)
    assert len(ledger._books.booked) <= 30
    assert isinstance(ledger.submit(Refund(hold(902), hold(0), None, "too late")).result(), Unbookable)
    oldest = ledger.entries(after_seq=0)[0]
    newest = ledger.entries(limit=1)[0]
    assert (oldest.seq > 100, newest.seq) == (True, 201)
    assert ledger.entries(limit=1000, after_seq=newest.seq - 1) == [newest]


def test_a_window_that_leaves_something_to_the_next_is_not_forgotten() -> None:
    """However many windows of other budgets come and go meanwhile."""
    clock = Clock()
    ledger = MemoryLedger(System(clock, TimeOrderedIds()), history_max=3)
    terms = Terms(carry=CarryOver.UNUSED, cap=500)
    run(ledger, 0, leg("saver", limit=100, terms=terms))
    for number in range(1, 20):
        clock.now_ns += MINUTE_NS
        run(ledger, number, leg("other"))
    run(ledger, 50, leg("saver", limit=100, terms=terms))
    assert [balance.carried for balance in ledger.balances() if balance.budget == ("saver",)][-1] == 500
    assert ledger.audit() == []


def test_claims_are_forgotten_with_the_holds_that_have_them() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=5)
    for number in range(100):
        claim = Claim(f"key {number}", b"asked")
        ledger.submit(PlaceHold(hold(number), ACME, (leg("b", Period.LIFETIME),), claim=claim)).result()
        ledger.submit(ResolveHold(hold(number), (1,), "completed")).result()
    assert len(ledger._books.claims) <= 11


def test_notices_that_nobody_takes_are_bounded() -> None:
    ledger = MemoryLedger(System(Clock(), TimeOrderedIds()), history_max=5)
    terms = Terms(thresholds=tuple(Threshold(percent, Counted.COMMITTED) for percent in range(1, 11)))
    run(ledger, 1, leg("b", Period.LIFETIME, 10, terms))
    assert [notice.seq for notice in ledger.notices()] == [10, 9, 8, 7, 6]
