"""What operators book: refunds never exceed the charge, grants end, corrections stay within 64 bits."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.errors import LayerError
from tenantguard.model.ledger import UNITS_MAX, Booked, EntryKind, Exhausted, Held, Leg, Resolved, Unbookable
from tenantguard.model.ledger import HoldState as State
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tests.rules.ledger.scenes import (
    ACME,
    DAY,
    HOLD,
    HOUR,
    NOW,
    OP,
    OP2,
    OTHER,
    THIRD,
    account_at,
    charge,
    conserved,
    correct,
    grant,
    leg,
    only_account,
    picture,
    place,
    refund,
    review,
    settle,
    void,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BAD: list[Any] = [True, 1.0, math.nan, math.inf, Decimal(1), "1", None]


def bad(value: Any) -> str:
    return repr(value)


# refunds


def test_a_refund_gives_back_and_makes_room() -> None:
    books = Books()
    charge(books, 100, HOLD)
    assert isinstance(place(books, leg(1), hold=OTHER), Exhausted)
    assert refund(books, 30) == Booked((30,))
    assert only_account(books).spent == 70
    assert place(books, leg(31), hold=OTHER) == Exhausted(0, 31, 30, 70, 0, only_account(books).window_ends_ns)
    assert place(books, leg(30), hold=OTHER) == Held((30,))
    line = books.lines[-1]
    assert (line.op, line.kind, line.amount, line.absorbed, line.of) == (OP, EntryKind.REFUND, -30, 0, HOLD)
    assert (line.leg, line.tenant, line.reason, line.evidence, line.at_ns) == (0, ACME, "a complaint", "{}", NOW)
    conserved(books)


def test_a_refund_of_nothing_in_particular_gives_back_all_that_is_left() -> None:
    books = Books()
    place(books, leg(10), leg(20, budget="c"), leg(30, budget="d"))
    settle(books, 10, 0, 25)
    assert refund(books, 4, 0, 0) == Booked((4, 0, 0))
    assert refund(books, op=OP2) == Booked((6, 0, 25))
    assert [(line.leg, line.amount) for line in books.lines[-2:]] == [(0, -6), (2, -25)]
    assert [account.spent for account in books.accounts.values()] == [0, 0, 0]
    assert refund(books, op=b"3") == Unbookable("nothing is left to give back")
    conserved(books)


def test_refunds_together_never_exceed_the_charge_of_any_leg() -> None:
    books = Books()
    place(books, leg(10), leg(20, budget="c"))
    settle(books, 10, 15)
    charge(books, 50, OTHER)
    charge(books, 50, THIRD, budget="c")
    assert isinstance(refund(books, 10, 16), Unbookable)
    assert isinstance(refund(books, 11, 0), Unbookable)
    assert refund(books, 6, 0) == Booked((6, 0))
    before = picture(books)
    assert isinstance(refund(books, 5, 15, op=OP2), Unbookable)
    assert picture(books) == before
    assert refund(books, 4, 15, op=OP2) == Booked((4, 15))
    conserved(books)


@pytest.mark.parametrize("state", [None, "pending", "review", "expired", "voided", "barred"])
def test_only_what_was_charged_is_refunded(state: str | None) -> None:
    books = Books()
    if state not in {None, "barred"}:
        place(books, leg(10))
    if state == "review":
        review(books)
    elif state == "expired":
        books.lose(HOLD, NOW)
    elif state in {"voided", "barred"}:
        void(books)
    before = picture(books)
    assert refund(books) == Unbookable("nothing was charged under this hold")
    assert picture(books) == before


def test_what_was_absorbed_is_not_refunded() -> None:
    books = Books()
    place(books, leg(10))
    assert settle(books, 25) == Resolved(State.SETTLED, (10,))
    assert isinstance(refund(books, 11), Unbookable)
    assert refund(books, op=OP2) == Booked((10,))


def test_a_refund_belongs_to_the_window_of_its_hold() -> None:
    books = Books()
    charge(books, 50, HOLD)
    charge(books, 50, OTHER, now=NOW + DAY)
    refund(books, 20, now=NOW + DAY)
    assert (account_at(books, 0).spent, account_at(books, 1).spent) == (30, 50)
    assert books.lines[-1].at_ns == NOW + DAY


def test_a_refund_that_a_correction_took_away_already_is_refused() -> None:
    books = Books()
    charge(books, 10, HOLD)
    correct(books, -8, op=OP2)
    before = picture(books)
    assert isinstance(refund(books), Unbookable)
    assert isinstance(refund(books, 3), Unbookable)
    assert picture(books) == before
    assert refund(books, 2) == Booked((2,))
    conserved(books)


def test_legs_of_one_account_are_refunded_at_most_what_the_account_has_spent() -> None:
    books = Books()
    place(books, leg(10), leg(10))
    settle(books, 10, 10)
    correct(books, -10, op=OP2)
    assert isinstance(refund(books), Unbookable)
    assert refund(books, 5, 5) == Booked((5, 5))
    conserved(books)


def test_an_external_id_stays_charged_when_its_charge_is_refunded() -> None:
    books = Books()
    place(books, leg(10))
    settle(books, 10, outside="resp-1")
    refund(books)
    place(books, leg(10), hold=OTHER)
    assert settle(books, 10, hold=OTHER, outside="resp-1") == Resolved(State.VOIDED, (0,))


@pytest.mark.parametrize("amounts", [(1, 2), (-1,), *[(value,) for value in BAD]], ids=bad)
def test_a_refund_of_no_amounts_changes_nothing(amounts: tuple[Any, ...]) -> None:
    books = Books()
    charge(books, 10, HOLD)
    before = picture(books)
    with pytest.raises(LayerError):
        refund(books, *amounts)
    assert picture(books) == before


# grants


def test_a_grant_raises_the_limit_of_its_window() -> None:
    books = Books()
    assert grant(books, leg(50)) == Booked((50,))
    assert place(books, leg(151)) == Exhausted(0, 151, 150, 0, 0, only_account(books).window_ends_ns)
    assert place(books, leg(150)) == Held((150,))
    assert place(books, leg(150, 0), hold=OTHER, now=NOW + DAY) == Held((100,))
    line = books.lines[0]
    assert (line.op, line.leg, line.kind, line.amount, line.tenant) == (OP, 0, EntryKind.GRANT, 50, ACME)
    conserved(books)


def test_a_grant_ends_at_its_nanosecond() -> None:
    books = Books()
    grant(books, leg(50), NOW + HOUR)
    grant(books, leg(7), op=OP2)
    assert place(books, leg(200, 0), now=NOW + HOUR - 1) == Held((157,))
    void(books)
    assert place(books, leg(200, 0), hold=OTHER, now=NOW + HOUR) == Held((107,))
    conserved(books)


def test_when_a_grant_has_ended_only_what_follows_is_refused() -> None:
    books = Books()
    grant(books, leg(50), NOW + HOUR)
    place(books, leg(150))
    assert settle(books, 150, now=NOW + HOUR) == Resolved(State.SETTLED, (150,))
    assert place(books, leg(1), hold=OTHER, now=NOW + HOUR) == Exhausted(
        0, 1, 0, 150, 0, only_account(books).window_ends_ns
    )
    conserved(books)


def test_a_late_settling_finds_no_grant_that_has_ended() -> None:
    books = Books()
    grant(books, leg(50), NOW + HOUR)
    place(books, leg(150))
    books.lose(HOLD, NOW)
    assert settle(books, 150, now=NOW + HOUR) == Resolved(State.SETTLED, (100,))
    assert books.lines[-1].absorbed == 50


def test_grants_add_up_while_they_last() -> None:
    books = Books()
    for number in range(5):
        grant(books, leg(10), NOW + HOUR + number, op=bytes([number]))
    grant(books, leg(1), op=OP, now=NOW + HOUR)
    assert [only_account(books).granted(NOW + HOUR + number) for number in (-1, 0, 1, 4)] == [51, 41, 31, 1]


def test_a_grant_that_would_have_ended_already_is_refused() -> None:
    books = Books()
    assert grant(books, leg(50), NOW) == Unbookable("the grant would have expired already")
    assert grant(books, leg(0)) == Unbookable("a grant of nothing")
    assert not books.accounts
    assert not books.lines


def test_grants_of_one_window_fit_in_64_bits() -> None:
    books = Books()
    assert grant(books, leg(UNITS_MAX)) == Booked((UNITS_MAX,))
    assert isinstance(grant(books, leg(1), op=OP2), Unbookable)
    assert isinstance(grant(Books(), leg(UNITS_MAX + 1)), Unbookable)
    assert place(books, leg(2**70, 0)) == Held((UNITS_MAX,))
    conserved(books)


@pytest.mark.parametrize("expires", [1.5, math.nan, True, "later"], ids=bad)
def test_a_grant_ends_at_a_whole_nanosecond_or_never(expires: Any) -> None:
    books = Books()
    with pytest.raises(LayerError):
        grant(books, leg(50), expires)
    assert not books.accounts


@pytest.mark.parametrize("amount", [-1, *BAD], ids=bad)
def test_a_grant_of_no_amount_changes_nothing(amount: Any) -> None:
    books = Books()
    with pytest.raises(LayerError):
        grant(books, leg(amount))
    assert not books.accounts
    assert not books.lines


# corrections


def test_a_correction_adds_or_takes_away() -> None:
    books = Books()
    charge(books, 60, HOLD)
    assert correct(books, 30) == Booked((30,))
    assert only_account(books).spent == 90
    assert correct(books, -80, op=OP2) == Booked((-80,))
    assert only_account(books).spent == 10
    assert [(line.kind, line.amount) for line in books.lines[1:]] == [
        (EntryKind.CORRECTION, 30),
        (EntryKind.CORRECTION, -80),
    ]
    assert correct(books, -10, op=b"3") == Booked((-10,))
    assert only_account(books).spent == 0
    assert {(line.leg, line.tenant, line.reason) for line in books.lines[1:]} == {(0, ACME, "an invoice")}
    conserved(books)


def test_a_correction_is_what_was_spent_even_beyond_the_limit() -> None:
    books = Books()
    assert correct(books, 130) == Booked((130,))
    assert place(books, leg(1)) == Exhausted(0, 1, 0, 130, 0, only_account(books).window_ends_ns)


def test_a_correction_is_bounded_by_nothing_spent_and_by_64_bits() -> None:
    books = Books()
    charge(books, 10, HOLD)
    place(books, leg(5), hold=OTHER)
    before = picture(books)
    for amount in (0, -11, UNITS_MAX - 14, 2**80, -(2**80)):
        assert isinstance(correct(books, amount), Unbookable)
    assert picture(books) == before
    assert correct(books, UNITS_MAX - 15) == Booked((UNITS_MAX - 15,))
    assert settle(books, 5, hold=OTHER) == Resolved(State.SETTLED, (5,))
    assert only_account(books).spent == UNITS_MAX
    conserved(books)


@pytest.mark.parametrize("amount", BAD, ids=bad)
def test_a_correction_of_no_amount_changes_nothing(amount: Any) -> None:
    books = Books()
    with pytest.raises(LayerError):
        correct(books, amount)
    assert not books.accounts


@pytest.mark.parametrize("limit", [1.5, math.nan, True, "100"], ids=bad)
def test_a_leg_whose_limit_is_no_amount_is_neither_granted_nor_corrected(limit: Any) -> None:
    books = Books()
    with pytest.raises(LayerError):
        correct(books, 5, Leg(("b",), Period.DAY, "USD", limit, 0, 0))
    with pytest.raises(LayerError):
        grant(books, Leg(("b",), Period.DAY, "USD", limit, 5, 5))
    assert not books.accounts


# all of them


def test_every_booking_is_made_once_and_answers_again_as_the_first_time() -> None:
    books = Books()
    charge(books, 50, HOLD)
    first = refund(books, 20, op=b"r"), grant(books, leg(30), op=b"g"), correct(books, 7, op=b"c")
    assert first == (Booked((20,)), Booked((30,)), Booked((7,)))
    before = picture(books)
    assert refund(books, 5, op=b"r", now=NOW + DAY) == Booked((20,))
    assert grant(books, leg(99), NOW, op=b"g", now=NOW + DAY) == Booked((30,))
    assert correct(books, -(10**30), op=b"c", now=NOW + DAY) == Booked((7,))
    assert picture(books) == before


def test_what_could_not_be_booked_may_be_booked_later_under_the_same_id() -> None:
    books = Books()
    assert isinstance(refund(books, op=b"r"), Unbookable)
    assert isinstance(correct(books, -1, op=b"c"), Unbookable)
    charge(books, 50, HOLD)
    assert refund(books, op=b"r") == Booked((50,))
    charge(books, 50, OTHER)
    assert correct(books, -1, op=b"c") == Booked((-1,))


def test_a_booking_touches_what_whoever_stores_must_store() -> None:
    books = Books()
    charge(books, 50, HOLD)
    commands: list[Callable[[], object]] = [
        lambda: refund(books, 20, op=b"r"),
        lambda: grant(books, leg(30), op=b"g"),
        lambda: correct(books, 7, op=b"c"),
    ]
    for command in commands:
        books.touched.clear()
        books.lines.clear()
        command()
        assert list(books.touched.values()) == [only_account(books)]
        assert len(books.lines) == 1


bookings = st.lists(
    st.tuples(
        st.sampled_from(["charge", "refund", "all", "grant", "correct"]),
        st.integers(0, 4),
        st.integers(0, 120),
        st.one_of(st.none(), st.integers(1, 40)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(bookings)
def test_whatever_is_booked_money_is_conserved_and_no_placing_passes_limit_and_grants(
    steps: list[tuple[str, int, int, int | None]],
) -> None:
    """Promise: a placing never makes spent + held pass limit + granted."""
    books = Books()
    for minute, (what, number, amount, lasts) in enumerate(steps):
        now = NOW + minute
        hold = bytes([number])
        op = bytes([minute])
        if what == "charge":
            before = books.holds.get(hold)
            answer = place(books, leg(amount), hold=hold, now=now)
            if isinstance(answer, Held) and before is None:
                account = only_account(books)
                room = 100 + account.granted(now)
                assert account.spent + account.held <= max(room, account.spent if amount == 0 else 0)
                settle(books, amount, hold=hold, now=now)
        elif what == "refund":
            before = books.holds.get(hold)
            if isinstance(refund(books, amount, op=op, hold=hold, now=now), Booked):
                assert before is not None
                assert sum(before.refunded) <= sum(before.charged)
        elif what == "all":
            refund(books, op=op, hold=hold, now=now)
        elif what == "grant":
            grant(books, leg(amount), None if lasts is None else now + lasts, op=op, now=now)
        else:
            correct(books, amount - 60, op=op, now=now)
        conserved(books)
