"""Leased admission: holds in memory under blocks that the ledger holds; nothing is overshot, nothing stays behind."""

from __future__ import annotations

import gc
import os
import random
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.ledger.backend import LEASE_S
from tenantguard.adapters.ledger.leased import (
    GROWTH_MAX,
    IDLE_S,
    PAST_MAX,
    PAUSE_S,
    SILENT_S,
    TARGET,
    LeasedLedger,
)
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.ledger.writer import BEAT_S
from tenantguard.adapters.system import TimeOrderedIds, real_system
from tenantguard.errors import ConfigurationError, LayerError, PortError
from tenantguard.flow.ports import (
    Barred,
    Claim,
    Correct,
    Exhausted,
    FindClaim,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    PlaceHold,
    Resolved,
    ResolveHold,
    System,
)
from tenantguard.model.ledger import PLAIN, CarryOver, Counted, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenantguard.flow.effects import Promise
    from tenantguard.flow.ports import Ledger, LedgerCommand

START = 1_750_000_000 * 10**9
SECOND = 10**9
ACME, GLOBEX = TenantId("acme"), TenantId("globex")


class Clock:
    def __init__(self) -> None:
        self.now_ns = START

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


class Watched:
    """A ledger of which every command is seen, and which can be full, silent or away."""

    def __init__(self, ledger: Ledger) -> None:
        self.inner = ledger
        self.seen: list[LedgerCommand] = []
        self.problem: Exception | None = None
        self.waiting: list[tuple[LedgerCommand, LedgerPromise]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def submit(self, command: LedgerCommand) -> Promise[Any]:
        if self.problem is not None:
            promise = LedgerPromise(0.0)
            promise.fail(self.problem)
            return promise
        self.seen.append(command)
        if self.waiting is None:
            return self.inner.submit(command)
        promise = LedgerPromise(1.0)
        self.waiting.append((command, promise))
        return promise

    def answer(self) -> None:
        """Decide what waits, in the order in which it came, and what comes meanwhile behind it."""
        assert self.waiting is not None
        while self.waiting:
            command, promise = self.waiting.pop(0)
            promise.keep(self.inner.submit(command).result())
        self.waiting = None

    def leases(self) -> list[PlaceHold]:
        return [each for each in self.seen if isinstance(each, PlaceHold) and each.share not in {None, 100}]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(clock: Clock) -> Iterator[Watched]:
    watched = Watched(MemoryLedger(System(clock, TimeOrderedIds())))
    yield watched
    assert watched.inner.audit() == []


@pytest.fixture
def ledger(watched: Watched, clock: Clock) -> LeasedLedger:
    return LeasedLedger(watched, System(clock, TimeOrderedIds()))


def leg(
    most: int = 10,
    least: int | None = None,
    *,
    limit: int | None = 10_000,
    budget: str = "b",
    period: Period = Period.DAY,
    terms: Terms = PLAIN,
) -> Leg:
    return Leg((budget,), period, "USD", limit, most, most if least is None else least, terms)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


def answer(promise: Promise[Any]) -> Any:
    assert promise.wait(30)
    return promise.result()


def place(ledger: Ledger, number: int, *legs: Leg, tenant: TenantId = ACME, **words: Any) -> Any:
    return answer(ledger.submit(PlaceHold(hold(number), tenant, legs or (leg(),), **words)))


def settle(ledger: Ledger, number: int, *amounts: int) -> Any:
    return answer(ledger.submit(ResolveHold(hold(number), amounts or (10,), "completed")))


def void(ledger: Ledger, number: int) -> Any:
    return answer(ledger.submit(ResolveHold(hold(number), None, "failed")))


def catch_up(ledger: Ledger) -> None:
    """Whatever was queued is done, the block too that the last request asked for."""
    assert answer(ledger.submit(FindClaim(ACME, Claim("key", b"asked")))) is None


def sums(ledger: Ledger) -> tuple[int, int]:
    balances = ledger.balances()
    return sum(each.spent for each in balances), sum(each.held for each in balances)


# blocks


def test_the_first_request_is_placed_exactly_and_those_after_it_in_memory(
    ledger: LeasedLedger, watched: Watched
) -> None:
    for number in range(10):
        assert place(ledger, number) == Held((10,))
    exact, block = watched.seen
    assert isinstance(exact, PlaceHold)
    assert exact.id == hold(0)
    assert isinstance(block, PlaceHold)
    assert (block.legs[0].most, block.legs[0].least, block.share) == (TARGET * 10, 20, 25)
    assert sums(ledger) == (0, 10 + TARGET * 10)
    for number in range(10):
        assert settle(ledger, number, 7) == Resolved(HoldState.SETTLED, (7,))
    assert len(watched.seen) == 2 + 10
    assert sums(ledger) == (70, TARGET * 10 - 9 * 10)
    assert [entry.op for entry in ledger.entries()] == [hold(number) for number in reversed(range(10))]
    ledger.close()
    assert sums(ledger) == (70, 0)
    assert ledger.holds() == []


def test_a_block_is_given_out_to_the_last_unit(ledger: LeasedLedger, watched: Watched) -> None:
    for number in range(1 + TARGET):
        place(ledger, number)
    assert len(watched.seen) == 2
    place(ledger, 1 + TARGET)
    assert len(watched.seen) == 4


def test_what_is_voided_goes_back_into_its_block_and_is_never_written(ledger: LeasedLedger, watched: Watched) -> None:
    place(ledger, 0)
    before = len(watched.seen)
    for number in range(1, 5 * TARGET):
        assert place(ledger, number) == Held((10,))
        assert void(ledger, number) == Resolved(HoldState.VOIDED, (0,))
    assert len(watched.seen) == before


def test_a_block_is_a_share_of_what_is_left_and_shrinks_with_it(ledger: LeasedLedger, watched: Watched) -> None:
    """F.7: it falls back to exact where what is left is less than two blocks."""
    number = 0
    while isinstance(place(ledger, number, leg(limit=1000)), Held):
        settle(ledger, number)
        number += 1
    sizes = [
        len(held)
        for held in (
            [
                each
                for each in watched.seen
                if isinstance(each, ResolveHold) and each.drawn and each.drawn.lease == lease.id
            ]
            for lease in watched.leases()
        )
        if held
    ]
    assert number == 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 24
    assert sizes[-1] == 2
    assert sums(ledger) == (1000, 0)


def test_a_block_that_is_used_up_within_a_second_is_followed_by_one_twice_as_large(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    for number in range(100 * TARGET):
        place(ledger, number, leg(limit=None))
    sizes = [block.legs[0].most // (10 * TARGET) for block in watched.leases()]
    assert sizes[:6] == [1, 2, 4, 8, GROWTH_MAX, GROWTH_MAX]
    assert max(sizes) == GROWTH_MAX
    clock.pass_s(1)
    for number in range(100 * TARGET, 120 * TARGET):
        place(ledger, number, leg(limit=None))
    assert watched.leases()[len(sizes)].legs[0].most == TARGET * 10


def test_a_request_that_its_block_does_not_cover_has_the_rest_returned_first(ledger: LeasedLedger) -> None:
    place(ledger, 0)
    place(ledger, 1)
    assert place(ledger, 2, leg(10_000 - 20)) == Held((10_000 - 20,))
    assert sums(ledger) == (0, 10_000)


def test_requests_share_a_block_only_if_tenant_accounts_limit_and_terms_are_the_same(
    ledger: LeasedLedger, watched: Watched
) -> None:
    wide = {"limit": 10**9}
    different = [
        (ACME, leg(**wide)),
        (GLOBEX, leg(**wide)),
        (ACME, leg(limit=10**9 + 1)),
        (ACME, leg(**wide, budget="other")),
        (ACME, leg(**wide, period=Period.MONTH)),
        (ACME, leg(**wide, terms=Terms(thresholds=(Threshold(80),)))),
    ]
    for number, (tenant, asked) in enumerate(different * 2):
        place(ledger, number, asked, tenant=tenant)
    assert len(watched.leases()) == len(different)
    assert len(watched.seen) == 2 * len(different)


@pytest.mark.parametrize(
    "command",
    [
        PlaceHold(b"", ACME, (leg(period=Period.parse("rolling 60 minutes / 4 buckets")),)),
        PlaceHold(b"", ACME, (leg(terms=Terms(strict=False)),)),
        PlaceHold(b"", ACME, (leg(terms=Terms(carry=CarryOver.UNUSED, cap=5)),)),
        PlaceHold(b"", ACME, (leg(), leg(terms=Terms(thresholds=(Threshold(80, Counted.COMMITTED),))))),
        PlaceHold(b"", ACME, (leg(),), claim=Claim("key", b"asked")),
        PlaceHold(b"", ACME, (leg(),), OnOrphan.CHARGE_HOLD),
        PlaceHold(b"", ACME, (leg(),), OnOrphan.REVIEW),
        PlaceHold(b"", ACME, (leg(),), share=50),
        PlaceHold(b"", ACME, ()),
    ],
)
def test_what_needs_more_than_the_plain_rule_is_placed_exactly(
    ledger: LeasedLedger, watched: Watched, command: PlaceHold
) -> None:
    for number in range(3):
        ledger.submit(PlaceHold(hold(number), ACME, command.legs, command.on_orphan, command.claim, command.share))
    assert len(watched.seen) == 3


@pytest.mark.parametrize("wrong", [leg(10, 11), leg(-5), leg(1.5), leg(10, limit=1.5), leg(True)])  # type: ignore[arg-type] # noqa: FBT003
def test_a_leg_that_is_none_reaches_the_ledger_which_says_so(ledger: LeasedLedger, wrong: Leg) -> None:
    place(ledger, 0)
    place(ledger, 1)
    with pytest.raises(LayerError):
        place(ledger, 2, wrong)
    assert sums(ledger)[1] == 10 + TARGET * 10


def test_other_commands_are_handed_on(ledger: LeasedLedger) -> None:
    assert answer(ledger.submit(FindClaim(ACME, Claim("key", b"asked")))) is None
    answer(ledger.submit(Correct(hold(50), ACME, leg(0), 30, "invoice")))
    assert (len(ledger.balances(ACME)), len(ledger.entries(ACME)), ledger.outbox(), ledger.notices()) == (
        1,
        1,
        [],
        [],
    )
    assert (ledger.holds(ACME), ledger.denials(ACME)) == ([], [])
    ledger.delivered(1)
    ledger.retry(1, 0)


@pytest.mark.parametrize("words", [{"share": 0}, {"share": 101}, {"target": 1}])
def test_blocks_of_nothing_or_of_more_than_all_are_refused(watched: Watched, clock: Clock, words: Any) -> None:
    with pytest.raises(ConfigurationError):
        LeasedLedger(watched, System(clock, TimeOrderedIds()), **words)


# nobody is refused because of a block of this process


@pytest.mark.parametrize("budget", [1, 2, 7, 10, 100])
def test_a_budget_of_so_many_calls_admits_them_all(budget: int, clock: Clock) -> None:
    """Issue 3: a budget of 10 calls admits all 10 in the end."""
    inner = MemoryLedger(System(clock, TimeOrderedIds()))
    ledger = LeasedLedger(inner, System(clock, TimeOrderedIds()))
    answers = [place(ledger, number, leg(limit=10 * budget + 9)) for number in range(3 * budget)]
    assert [isinstance(each, Held) for each in answers] == [True] * budget + [False] * 2 * budget
    assert sums(ledger) == (0, 10 * budget)


def test_all_who_ask_at_once_are_admitted_while_there_is_room(ledger: LeasedLedger, watched: Watched) -> None:
    """The block is asked for behind the first and before all others, and its share comes back for those."""
    watched.waiting = []
    promises = [ledger.submit(PlaceHold(hold(number), ACME, (leg(limit=100),))) for number in range(30)]
    watched.answer()
    admitted = [isinstance(answer(promise), Held) for promise in promises]
    assert admitted == [True] * 10 + [False] * 20
    assert sums(ledger) == (0, 100)
    assert len({denial.hold for denial in ledger.denials()}) == len(ledger.denials()) == 20


def test_a_request_of_another_kind_gets_what_blocks_of_its_accounts_hold(ledger: LeasedLedger) -> None:
    shared = leg(limit=1000, budget="shared")
    for number in range(3):
        place(ledger, number, shared)
    assert sums(ledger)[1] > 30
    own, rest = leg(970, limit=None, budget="own"), leg(970, limit=1000, budget="shared")
    with_claim = PlaceHold(hold(9), GLOBEX, (own, rest), claim=Claim("key", b"asked"))
    assert answer(ledger.submit(with_claim)) == Held((970, 970))
    assert sums(ledger) == (0, 970 + 1000)
    void(ledger, 9)
    before = len(ledger.holds())
    place(ledger, 11, shared)
    assert len(ledger.holds()) == before + 1  # and no block, so soon after one had to be returned


def test_a_hold_that_accepts_less_gets_as_much_as_without_blocks(ledger: LeasedLedger) -> None:
    """A lower output cap is a small refusal."""
    for number in range(3):
        place(ledger, number, leg(limit=100))
    assert place(ledger, 3, leg(90, 5, limit=100), tenant=GLOBEX) == Held((70,))


def test_what_waits_for_a_second_answer_hears_of_it_and_of_failures(ledger: LeasedLedger, watched: Watched) -> None:
    place(ledger, 0)
    watched.waiting = []
    heard: list[str] = []
    promise = ledger.submit(PlaceHold(hold(1), GLOBEX, (leg(),)))
    promise.then(lambda: heard.append("first"))
    promise.then(lambda: lambda: heard.append("bell"))
    assert not promise.wait(0)
    watched.answer()
    assert answer(promise) == Held((10,))
    assert sorted(heard) == ["bell", "first"]
    watched.problem = PortError("ledger", "gone")
    with pytest.raises(PortError, match="gone"):
        place(ledger, 2, leg(20_000), tenant=GLOBEX)


def test_after_a_block_was_refused_placing_is_exact_for_a_moment(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    for number in range(3):
        place(ledger, number, leg(limit=50))
    assert len(watched.leases()) == 1
    clock.pass_s(PAUSE_S)
    place(ledger, 3, leg(limit=50))
    assert len(watched.leases()) == 2


# commands that come again


def test_a_placing_that_is_repeated_answers_the_same_and_takes_nothing_more(
    ledger: LeasedLedger, watched: Watched
) -> None:
    for number in (0, 1, 2):
        for _ in range(3):
            assert place(ledger, number) == Held((10,))
    settle(ledger, 1)
    void(ledger, 2)
    for number in (0, 1, 2):
        assert place(ledger, number) == Held((10,))
    assert void(ledger, 2) == Resolved(HoldState.VOIDED, (0,))
    assert settle(ledger, 2) == Resolved(HoldState.VOIDED, (0,))
    assert settle(ledger, 1, 3) == Resolved(HoldState.SETTLED, (10,))
    assert settle(ledger, 0) == Resolved(HoldState.SETTLED, (10,))
    ledger.close()
    assert sums(ledger) == (20, 0)


def test_what_was_placed_exactly_is_not_placed_in_memory_as_well(ledger: LeasedLedger) -> None:
    for _ in range(2):
        place(ledger, 0)
    void(ledger, 0)
    ledger.close()
    assert sums(ledger) == (0, 0)


def test_an_id_that_was_ended_first_is_barred(ledger: LeasedLedger) -> None:
    """Design 3.3: the end may come before the taking."""
    place(ledger, 0)
    void(ledger, 7)
    assert place(ledger, 7) == Barred()


def test_what_was_refused_is_asked_again_under_the_same_id(ledger: LeasedLedger) -> None:
    for number in range(10):
        place(ledger, number, leg(limit=100))
    assert isinstance(place(ledger, 10, leg(limit=100)), Exhausted)
    void(ledger, 3)
    assert place(ledger, 10, leg(limit=100)) == Held((10,))


def test_memory_of_what_was_placed_and_ended_is_bounded(ledger: LeasedLedger) -> None:
    for number in range(PAST_MAX + 10):
        place(ledger, number, leg(1, limit=None))
        void(ledger, number)
    assert len(ledger._past) == PAST_MAX


def test_a_settling_that_the_queue_did_not_take_is_asked_again_and_drawn_then(
    ledger: LeasedLedger, watched: Watched
) -> None:
    place(ledger, 0)
    place(ledger, 1)
    watched.problem = PortError("ledger", "full")
    with pytest.raises(PortError):
        settle(ledger, 1)
    watched.problem = None
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (10,))
    assert sums(ledger)[0] == 10


def test_until_a_settling_is_queued_its_money_stays_held(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    place(ledger, 0)
    place(ledger, 1)
    void(ledger, 0)
    ledger.close()
    watched.problem = PortError("ledger", "full")
    with pytest.raises(PortError):
        settle(ledger, 1)
    watched.problem = None
    clock.pass_s(1)
    ledger._tend()
    assert sums(ledger) == (0, 10)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (10,))
    assert sums(ledger) == (10, 0)


def test_a_settling_with_wrong_amounts_changes_nothing(ledger: LeasedLedger) -> None:
    place(ledger, 0)
    place(ledger, 1)
    with pytest.raises(LayerError):
        settle(ledger, 1, 1, 2)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (10,))


def test_wrong_amounts_that_a_database_tells_of_later_change_nothing_either(tmp_path: Path, clock: Clock) -> None:
    system = System(clock, TimeOrderedIds())
    ledger = LeasedLedger(SQLiteLedger(tmp_path / "ledger.db", system), system)
    place(ledger, 0)
    catch_up(ledger)
    place(ledger, 1)
    with pytest.raises(LayerError):
        settle(ledger, 1, 1, 2)
    assert settle(ledger, 1) == Resolved(HoldState.SETTLED, (10,))
    ledger.close()


def test_a_settling_whose_answer_was_lost_is_asked_again_and_charged_once(
    ledger: LeasedLedger, watched: Watched
) -> None:
    place(ledger, 0)
    place(ledger, 1)
    watched.waiting = []
    ending = ResolveHold(hold(1), (7,), "completed")
    promises = [ledger.submit(ending), ledger.submit(ending)]
    watched.answer()
    assert [answer(promise) for promise in promises] == [Resolved(HoldState.SETTLED, (7,))] * 2
    assert sums(ledger)[0] == 7


def test_a_hold_in_memory_can_be_left_to_an_operator(ledger: LeasedLedger) -> None:
    place(ledger, 0)
    place(ledger, 1)
    review = answer(ledger.submit(ResolveHold(hold(1), None, "no usage", review=True)))
    assert review.state is HoldState.REVIEW
    void(ledger, 0)
    ledger.close()
    assert [(each.id, each.state) for each in ledger.holds()] == [(hold(1), HoldState.REVIEW)]
    assert settle(ledger, 1, 4) == Resolved(HoldState.SETTLED, (4,))


# what is returned, and when


def test_a_block_that_nobody_uses_is_returned_by_whoever_comes_next(ledger: LeasedLedger, clock: Clock) -> None:
    place(ledger, 0)
    place(ledger, 1)
    settle(ledger, 0)
    settle(ledger, 1)
    clock.pass_s(IDLE_S - 1)
    place(ledger, 2, leg(budget="other"))
    assert ledger.balances()[0].held == TARGET * 10 - 10
    clock.pass_s(1)
    place(ledger, 3, leg(budget="other"))
    assert ledger.balances()[0].held == 0


def test_what_was_not_given_out_is_returned_while_the_rest_is_in_use(ledger: LeasedLedger, clock: Clock) -> None:
    """A stream may last for minutes."""
    place(ledger, 0)
    place(ledger, 1)
    place(ledger, 2)
    void(ledger, 0)
    clock.pass_s(IDLE_S)
    ledger._tend()
    assert sums(ledger) == (0, 20)
    assert void(ledger, 1) == Resolved(HoldState.VOIDED, (0,))
    assert sums(ledger) == (0, 10)
    assert settle(ledger, 2, 6) == Resolved(HoldState.SETTLED, (6,))
    assert sums(ledger) == (6, 0)
    assert ledger.holds() == []


def test_a_block_does_not_outlive_its_window(ledger: LeasedLedger, clock: Clock) -> None:
    clock.now_ns = START - START % (60 * SECOND) + 58 * SECOND
    minute = leg(period=Period.MINUTE, limit=1000)
    place(ledger, 0, minute)
    place(ledger, 1, minute)
    clock.pass_s(2)
    place(ledger, 2, minute)
    first, second = ledger.balances()
    assert (first.held, second.held) == (20, 10 + 990 // 4)
    settle(ledger, 1)
    assert [balance.spent for balance in ledger.balances()] == [10, 0]


def test_closing_returns_every_block_and_what_is_in_memory_can_still_be_ended(
    ledger: LeasedLedger, watched: Watched
) -> None:
    for number, budget in enumerate("aabb"):
        place(ledger, number, leg(budget=budget))
    watched.waiting = []
    ledger.submit(PlaceHold(hold(9), ACME, (leg(budget="c"),)))
    ledger.close()
    watched.answer()
    assert sums(ledger) == (0, 50)
    for number in (0, 1, 2, 3, 9):
        assert settle(ledger, number) == Resolved(HoldState.SETTLED, (10,))
    assert sums(ledger) == (50, 0)
    assert ledger.holds() == []
    assert place(ledger, 20) == Held((10,))


def test_a_block_that_is_refused_after_the_ledger_was_closed_is_nobodys(
    ledger: LeasedLedger, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.waiting = []
    ledger.submit(PlaceHold(hold(0), ACME, (leg(limit=20),)))
    ledger.close()
    watched.answer()
    assert caplog.text == ""
    assert sums(ledger) == (0, 10)


def test_a_return_that_the_queue_did_not_take_is_sent_again(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    place(ledger, 0)
    void(ledger, 0)
    clock.pass_s(IDLE_S)
    watched.problem = PortError("ledger", "full")
    ledger._tend()
    watched.problem = None
    assert sums(ledger) == (0, TARGET * 10)
    clock.pass_s(1)
    ledger._tend()
    assert sums(ledger) == (0, 0)


def test_a_block_whose_answer_is_a_failure_is_given_back_whatever_became_of_it(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    watched.waiting = []
    ledger.submit(PlaceHold(hold(0), ACME, (leg(),)))
    (_, first), (block, unanswered) = watched.waiting
    first.keep(watched.inner.submit(watched.waiting[0][0]).result())
    watched.inner.submit(block)
    watched.waiting = []
    unanswered.fail(PortError("ledger", "slow"))
    watched.answer()
    assert sums(ledger) == (0, 10)
    place(ledger, 1)
    assert len(watched.leases()) == 1
    clock.pass_s(IDLE_S)
    place(ledger, 2)
    assert len(watched.leases()) == 2


# a process that may count as lost


def test_nothing_is_given_out_once_the_ledger_has_been_silent(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    """Others end what a process holds that has not beaten for 20 s; it stops long before that."""
    assert SILENT_S + BEAT_S < LEASE_S
    place(ledger, 0)
    number = 1
    while clock.now_ns <= START + SILENT_S * SECOND:
        place(ledger, number)
        number += 1
        clock.pass_s(1)
    assert len(watched.seen) == 2
    watched.waiting = []
    waits = ledger.submit(PlaceHold(hold(number), ACME, (leg(),)))
    assert not waits.wait(0)
    watched.answer()
    assert answer(waits) == Held((10,))
    assert len(watched.leases()) == 2


def test_every_answer_says_that_the_ledger_is_there(ledger: LeasedLedger, watched: Watched, clock: Clock) -> None:
    for number in range(60):
        place(ledger, number)
        if number > 3:
            settle(ledger, number - 3)
        clock.pass_s(1)
    assert len(watched.leases()) == 1


def test_an_answer_that_was_long_in_coming_ends_the_blocks_of_before(
    ledger: LeasedLedger, watched: Watched, clock: Clock
) -> None:
    """Meanwhile others may have taken this process for lost."""
    place(ledger, 0)
    place(ledger, 1)
    place(ledger, 2)
    clock.pass_s(2)
    watched.waiting = []
    ledger.submit(ResolveHold(hold(1), (10,), "completed"))
    clock.pass_s(SILENT_S - 1)
    watched.answer()
    assert not ledger._blocks


def test_a_block_that_was_long_in_coming_is_returned(ledger: LeasedLedger, watched: Watched, clock: Clock) -> None:
    watched.waiting = []
    ledger.submit(PlaceHold(hold(0), ACME, (leg(),)))
    clock.pass_s(SILENT_S + 1)
    watched.answer()
    assert not ledger._blocks
    assert sums(ledger) == (0, 10)


def test_what_was_given_out_under_a_lost_lease_is_charged_as_far_as_the_limit_allows(
    ledger: LeasedLedger, watched: Watched
) -> None:
    for number in range(3):
        place(ledger, number, leg(limit=100))
    (block,) = ledger._blocks.values()
    watched.inner.submit(ResolveHold(block.id, None, "taken for lost"))
    place(watched.inner, 50, leg(85, limit=100), tenant=GLOBEX)
    assert settle(ledger, 1, 8) == Resolved(HoldState.SETTLED, (5,))
    assert settle(ledger, 2, 8) == Resolved(HoldState.SETTLED, (0,))
    assert [entry.absorbed for entry in ledger.entries()] == [8, 3]


# any interleaving

LIMITS = {"a": 300, "b": 120, "c": 1000}
asked = st.lists(st.tuples(st.sampled_from("aabc"), st.integers(0, 25), st.integers(0, 5)), min_size=1, max_size=2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(0, 2), asked),
        st.tuples(st.just("place"), st.integers(0, 2), asked),
        st.tuples(st.just("end"), st.integers(0, 60), st.none() | st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([0.05, 0.2, 2.0, 6.0, 12.0]), st.none()),
        st.tuples(st.sampled_from(["close", "hold back", "answer", "lose"]), st.integers(0, 2), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_no_interleaving_passes_a_limit_and_everything_adds_up(story: list[tuple[str, Any, Any]]) -> None:
    """Three processes with blocks of their own on one ledger; one may have a slow queue, or be taken for lost."""
    clock = Clock()
    inner = MemoryLedger(System(clock, TimeOrderedIds()))
    queues = [Watched(inner) for _ in range(3)]
    ledgers = [LeasedLedger(queue, System(clock, TimeOrderedIds()), target=4) for queue in queues]
    placed: list[tuple[int, bytes, PlaceHold, Promise[Any]]] = []
    ended: set[int] = set()
    ids = TimeOrderedIds()
    lost = False

    def conserved() -> None:
        assert inner.audit() == []
        for balance in inner.balances():
            assert balance.spent + balance.held <= LIMITS[balance.budget[0]]

    for what, which, more in story:
        if what == "place":
            legs = tuple(leg(least + extra, least, limit=LIMITS[name], budget=name) for name, least, extra in more)
            command = PlaceHold(ids.new(), ACME, legs)
            placed.append((which, command.id, command, ledgers[which].submit(command)))
        elif what == "end" and which < len(placed) and which not in ended:
            process, hold_id, command, promise = placed[which]
            if promise.wait(0) and isinstance(promise.result(), Held):
                ended.add(which)
                amounts = None if more is None else (more,) * len(command.legs)
                ledgers[process].submit(ResolveHold(hold_id, amounts, "completed"))
        elif what == "wait":
            clock.pass_s(which)
        elif what == "close" and queues[which].waiting is None:
            ledgers[which].close()
        elif what == "hold back" and queues[which].waiting is None:
            queues[which].waiting = []
        elif what == "answer" and queues[which].waiting is not None:
            queues[which].answer()
        elif what == "lose":
            lost = True
            for block in list(ledgers[which]._blocks.values()):
                if block.free is not None:
                    inner.submit(ResolveHold(block.id, None, "taken for lost"))
        conserved()
    for queue, ledger in zip(queues, ledgers, strict=True):
        if queue.waiting is not None:
            queue.answer()
        ledger.close()
    conserved()
    given_out = [
        (process, hold_id, answer(promise).amounts)
        for number, (process, hold_id, _, promise) in enumerate(placed)
        if number not in ended and isinstance(answer(promise), Held)
    ]
    if not lost:
        assert sum(balance.held for balance in inner.balances()) == sum(sum(amounts) for _, _, amounts in given_out)
    for process, hold_id, amounts in given_out:
        resolved = answer(ledgers[process].submit(ResolveHold(hold_id, amounts, "completed")))
        assert lost or resolved.amounts == amounts
    assert all(balance.held == 0 for balance in inner.balances())
    assert inner.holds() == []
    conserved()


# threads, processes, files


def test_many_threads_share_a_block_and_pass_no_limit(tmp_path: Path) -> None:
    system = real_system()
    ledger = LeasedLedger(SQLiteLedger(tmp_path / "ledger.db", system, deadline_s=60), system)
    admitted: list[bytes] = []

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        while True:
            hold_id = system.ids.new()
            if not isinstance(answer(ledger.submit(PlaceHold(hold_id, ACME, (leg(limit=5009),)))), Held):
                return
            if chance.random() < 0.3:
                answer(ledger.submit(ResolveHold(hold_id, None, "failed")))
                continue
            admitted.append(hold_id)
            if chance.random() < 0.7:
                answer(ledger.submit(ResolveHold(hold_id, (10,), "completed")))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert len(admitted) == 500
    assert sum(sums(ledger)) == 5000
    assert ledger.audit() == []
    for hold_id in admitted:
        ledger.submit(ResolveHold(hold_id, (10,), "completed"))
    ledger.close()
    assert sums(ledger) == (5000, 0)
    assert ledger.holds() == []


def test_the_writers_beat_returns_what_nobody_uses(tmp_path: Path, clock: Clock) -> None:
    system = System(clock, TimeOrderedIds())
    inner = SQLiteLedger(tmp_path / "ledger.db", system)
    ledger = LeasedLedger(inner, system)
    place(ledger, 0)
    catch_up(ledger)
    place(ledger, 1)
    void(ledger, 0)
    void(ledger, 1)
    clock.pass_s(IDLE_S)
    idle = inner._writer.idle
    assert idle is not None
    idle()
    inner.close()
    assert sums(ledger) == (0, 0)


def test_a_forked_child_gives_nothing_out_from_the_blocks_of_its_parent(tmp_path: Path) -> None:
    system = real_system()
    ledger = LeasedLedger(SQLiteLedger(tmp_path / "ledger.db", system, deadline_s=60), system)
    place(ledger, 0)
    catch_up(ledger)
    place(ledger, 1)
    with ledger._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert not ledger._blocks
                place(ledger, 50)
                settle(ledger, 50, 3)
                ledger.close()
                status = 0
            except BaseException:  # noqa: BLE001 - the parent shows it
                traceback.print_exc()
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    settle(ledger, 0)
    settle(ledger, 1)
    ledger.close()
    assert sums(ledger) == (23, 0)
    assert ledger.holds() == []
    assert ledger.audit() == []


def test_a_ledger_that_nobody_uses_any_more_is_let_go(clock: Clock) -> None:
    system = System(clock, TimeOrderedIds())
    ledger = LeasedLedger(MemoryLedger(system), system)
    place(ledger, 0)
    ledger.close()
    gone = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert gone() is None
