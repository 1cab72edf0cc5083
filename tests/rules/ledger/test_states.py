"""Every state of a hold with every input."""

from __future__ import annotations

from itertools import product

import pytest

from tenantguard.model.ledger import Barred, Held, HoldState, OnOrphan, Resolved
from tenantguard.rules.ledger import HOLDING, TRANSITIONS, Books, Input
from tests.rules.ledger.scenes import (
    HOLD,
    NOW,
    conserved,
    leg,
    only_account,
    picture,
    place,
    refund,
    review,
    settle,
    void,
)

S, V, E, R, P = HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED, HoldState.REVIEW, HoldState.PENDING


def in_state(state: HoldState | None, on_orphan: OnOrphan = OnOrphan.VOID) -> Books:
    """Books in which ``HOLD`` is in ``state``, with 10 of 100 held unless it has ended; None: nobody placed it."""
    books = Books()
    if state is None:
        return books
    place(books, leg(10), on_orphan=on_orphan)
    if state is E:
        books.lose(HOLD, NOW)
    elif state is R:
        review(books)
    elif state is S:
        settle(books, 7)
    elif state is V:
        void(books)
    assert books.holds[HOLD].state is state
    return books


@pytest.mark.parametrize(
    ("state", "what", "answer", "spent", "held"),
    [
        (P, "settle", Resolved(S, (4,)), 4, 0),
        (P, "void", Resolved(V, (0,)), 0, 0),
        (P, "lose", Resolved(E, (0,)), 0, 0),
        (P, "review", Resolved(R, (0,)), 0, 10),
        (E, "settle", Resolved(S, (4,)), 4, 0),
        (E, "void", Resolved(V, (0,)), 0, 0),
        (E, "lose", Resolved(E, (0,)), 0, 0),
        (E, "review", Resolved(E, (0,)), 0, 0),
        (R, "settle", Resolved(S, (4,)), 4, 0),
        (R, "void", Resolved(V, (0,)), 0, 0),
        (R, "lose", Resolved(R, (0,)), 0, 10),
        (R, "review", Resolved(R, (0,)), 0, 10),
        (S, "settle", Resolved(S, (7,)), 7, 0),
        (S, "void", Resolved(S, (7,)), 7, 0),
        (S, "lose", Resolved(S, (7,)), 7, 0),
        (S, "review", Resolved(S, (7,)), 7, 0),
        (V, "settle", Resolved(V, (0,)), 0, 0),
        (V, "void", Resolved(V, (0,)), 0, 0),
        (V, "lose", Resolved(V, (0,)), 0, 0),
        (V, "review", Resolved(V, (0,)), 0, 0),
    ],
)
def test_every_input_in_every_state(state: HoldState, what: str, answer: Resolved, spent: int, held: int) -> None:
    books = in_state(state)
    inputs = {
        "settle": lambda: settle(books, 4),
        "void": lambda: void(books),
        "lose": lambda: books.lose(HOLD, NOW),
        "review": lambda: review(books),
    }
    assert inputs[what]() == answer
    assert (only_account(books).spent, only_account(books).held) == (spent, held)
    conserved(books)
    once = picture(books)
    assert inputs[what]() == answer
    assert picture(books) == once


def test_the_table_covers_every_state_and_only_ever_moves_on() -> None:
    assert set(TRANSITIONS) == set(HoldState)
    reached = {after for row in TRANSITIONS.values() for after in row.values()}
    assert P not in reached
    for before, what in product(HoldState, Input):
        after = TRANSITIONS[before].get(what)
        assert after is not before
        assert after is None or not before.is_final
    assert {P, R} == HOLDING


@pytest.mark.parametrize("state", list(HoldState))
def test_placing_again_answers_as_the_first_time_and_changes_nothing(state: HoldState) -> None:
    books = in_state(state)
    before = picture(books)
    assert place(books, leg(99), leg(99)) == Held((10,))
    assert picture(books) == before


@pytest.mark.parametrize("end", [void, review, lambda books: settle(books, 5)])
def test_ending_an_unknown_id_bars_it(end: object) -> None:
    books = in_state(None)
    assert callable(end)
    assert end(books) == Resolved(V, ())
    assert place(books, leg(1)) == Barred()
    assert end(books) == Resolved(V, ())
    assert not books.accounts
    assert not books.lines
    assert books.changed == {HOLD: None}


@pytest.mark.parametrize(
    ("on_orphan", "answer", "spent", "held"),
    [
        (OnOrphan.VOID, Resolved(E, (0,)), 0, 0),
        (OnOrphan.CHARGE_HOLD, Resolved(S, (10,)), 10, 0),
        (OnOrphan.REVIEW, Resolved(R, (0,)), 0, 10),
    ],
)
def test_a_lost_process_ends_its_holds_as_they_said(
    on_orphan: OnOrphan, answer: Resolved, spent: int, held: int
) -> None:
    books = Books()
    place(books, leg(10), on_orphan=on_orphan)
    assert books.lose(HOLD, NOW) == answer
    assert (only_account(books).spent, only_account(books).held) == (spent, held)
    conserved(books)


@pytest.mark.parametrize("on_orphan", list(OnOrphan))
def test_what_an_operator_is_to_look_at_outlives_its_process(on_orphan: OnOrphan) -> None:
    books = in_state(R, on_orphan)
    assert books.lose(HOLD, NOW) == Resolved(R, (0,))
    assert only_account(books).held == 10
    conserved(books)


def test_a_refund_leaves_the_state_alone() -> None:
    books = in_state(S)
    refund(books)
    assert books.holds[HOLD].state is S
    assert settle(books, 9) == Resolved(S, (7,))


def test_whoever_stores_learns_the_state_that_each_hold_was_in_at_first() -> None:
    books = in_state(E)
    assert books.changed == {HOLD: None}
    books.changed.clear()
    settle(books, 3)
    assert books.changed == {HOLD: E}
    void(books)
    assert books.changed == {HOLD: E}
