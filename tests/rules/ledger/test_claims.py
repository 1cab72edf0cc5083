"""Idempotency keys of callers: one hold under each, until it is certain that nothing was charged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.ledger import Claim, Conflict, Exhausted, Held, HoldState, OnOrphan, Repeated, Resolved
from tenantguard.rules.ledger import CLAIM_KEPT_NS, Books
from tests.rules.ledger.scenes import (
    DAY,
    HOLD,
    NOW,
    OTHER,
    THIRD,
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

P, S, R = HoldState.PENDING, HoldState.SETTLED, HoldState.REVIEW
KEY = Claim("key-1", b"body-a")
CHANGED = Claim("key-1", b"body-b")


def repeated(hold: bytes, state: HoldState, amounts: tuple[int, ...], answer: bytes | None = None) -> Repeated:
    return Repeated(hold, state, amounts, answer, ("USD",))


def claimed() -> Books:
    books = Books()
    assert place(books, leg(10), claim=KEY) == Held((10,))
    return books


def test_a_key_is_kept_for_a_week_and_is_told_to_whoever_stores() -> None:
    assert CLAIM_KEPT_NS == 7 * DAY
    assert claimed().claimed == {("acme", "key-1")}


def test_a_key_whose_hold_nobody_knows_any_more_is_free() -> None:
    books = claimed()
    settle(books, 7)
    del books.holds[HOLD]
    assert place(books, leg(10), hold=OTHER, claim=CHANGED) == Held((10,))


def test_while_the_first_is_open_a_second_is_refused_and_names_it() -> None:
    books = claimed()
    before = picture(books)
    assert place(books, leg(10), hold=OTHER, claim=KEY) == repeated(HOLD, P, ())
    assert picture(books) == before
    assert OTHER not in books.holds


def test_after_a_charge_a_second_is_refused_with_what_was_charged() -> None:
    """S+5: a retried request with the same idempotency key is charged once."""
    books = claimed()
    settle(books, 7)
    assert place(books, leg(10), hold=OTHER, claim=KEY) == repeated(HOLD, S, (7,))
    refund(books)
    last = NOW + CLAIM_KEPT_NS - 1
    assert place(books, leg(10), hold=OTHER, claim=KEY, now=last) == repeated(HOLD, S, (7,))
    assert place(books, leg(10), hold=OTHER, claim=CHANGED, now=last + 1) == Held((10,))
    conserved(books)


def test_an_open_hold_keeps_its_key_for_as_long_as_it_takes() -> None:
    books = claimed()
    assert place(books, leg(10), hold=OTHER, claim=KEY, now=NOW + 2 * CLAIM_KEPT_NS) == repeated(HOLD, P, ())


def test_a_hold_under_review_keeps_its_key() -> None:
    books = claimed()
    review(books)
    assert place(books, leg(10), hold=OTHER, claim=KEY) == repeated(HOLD, R, (0,))


@pytest.mark.parametrize("end", [void, lambda books: books.lose(HOLD, NOW)])
@pytest.mark.parametrize("again", [KEY, CHANGED])
def test_a_key_whose_hold_was_voided_or_expired_is_free_for_anything(end: object, again: Claim) -> None:
    books = claimed()
    assert callable(end)
    end(books)
    assert place(books, leg(20), hold=OTHER, claim=again) == Held((20,))
    assert books.claims["acme", "key-1"].hold == OTHER
    assert place(books, leg(20), hold=THIRD, claim=again) == repeated(OTHER, P, ())
    conserved(books)


@pytest.mark.parametrize("ended", [False, True])
def test_the_same_key_for_something_else_is_a_conflict(ended: object) -> None:
    books = claimed()
    if ended:
        settle(books, 7)
    before = picture(books)
    assert place(books, leg(10), hold=OTHER, claim=CHANGED) == Conflict()
    assert picture(books) == before


def test_a_late_settling_takes_the_key_back_while_nobody_else_has_it() -> None:
    books = claimed()
    books.lose(HOLD, NOW)
    settle(books, 7)
    assert place(books, leg(10), hold=OTHER, claim=KEY) == repeated(HOLD, S, (7,))


def test_a_late_settling_does_not_take_the_key_from_the_hold_that_has_it_now() -> None:
    books = claimed()
    books.lose(HOLD, NOW)
    place(books, leg(10), hold=OTHER, claim=KEY)
    settle(books, 7, answer=("key-1", b"late"))
    assert books.claims["acme", "key-1"].hold == OTHER
    assert books.claims["acme", "key-1"].answer is None
    assert place(books, leg(10), hold=THIRD, claim=KEY) == repeated(OTHER, P, ())


def test_a_placing_that_is_sent_again_under_its_own_id_is_no_second_request() -> None:
    books = claimed()
    assert place(books, leg(10), claim=KEY) == Held((10,))
    settle(books, 7)
    assert place(books, leg(10), claim=KEY) == Held((10,))


def test_a_refused_placing_does_not_take_its_key() -> None:
    """A denial does not burn the key."""
    books = Books()
    assert isinstance(place(books, leg(101), claim=KEY), Exhausted)
    assert not books.claims
    assert not books.claimed
    assert place(books, leg(1), hold=OTHER, claim=CHANGED) == Held((1,))


def test_tenants_and_keys_do_not_meet() -> None:
    """L-13."""
    books = claimed()
    assert place(books, leg(10), hold=OTHER, tenant="globex", claim=CHANGED) == Held((10,))
    assert place(books, leg(10), hold=THIRD, claim=Claim("key-2", b"body-b")) == Held((10,))


def test_the_answer_is_kept_with_the_first_settling_only() -> None:
    books = claimed()
    books.claimed.clear()
    settle(books, 7, answer=("key-1", b"200 OK"))
    assert books.claimed == {("acme", "key-1")}
    settle(books, 7, answer=("key-1", b"another"))
    assert place(books, leg(10), hold=OTHER, claim=KEY) == repeated(HOLD, S, (7,), b"200 OK")
    assert place(books, leg(10), hold=OTHER, claim=CHANGED) == Conflict()


def test_an_answer_is_kept_under_no_key_that_the_hold_does_not_have() -> None:
    books = claimed()
    place(books, leg(10), hold=OTHER)
    settle(books, 7, hold=OTHER, answer=("key-1", b"forged"))
    settle(books, 7, answer=("key-2", b"nowhere"))
    assert [claim.answer for claim in books.claims.values()] == [None]


def test_no_answer_is_kept_where_nothing_was_charged() -> None:
    books = claimed()
    books.resolve(HOLD, None, "failed", "{}", None, None, NOW, answer=("key-1", b"500"))
    assert books.claims["acme", "key-1"].answer is None


def test_a_second_charge_for_one_external_id_frees_the_key_that_it_had() -> None:
    books = claimed()
    place(books, leg(10), hold=OTHER)
    settle(books, 7, hold=OTHER, outside="resp-1")
    assert settle(books, 7, outside="resp-1", answer=("key-1", b"200")) == Resolved(HoldState.VOIDED, (0,))
    assert books.claims["acme", "key-1"].answer is None
    assert place(books, leg(10), hold=THIRD, claim=CHANGED) == Held((10,))


ends = st.sampled_from(["settle", "void", "lose", "review"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([KEY, CHANGED]), st.one_of(st.none(), ends)), max_size=25)
)
def test_at_most_one_hold_under_a_key_is_open_or_was_charged_while_no_late_one_is_settled(
    steps: list[tuple[int, Claim, str | None]],
) -> None:
    books = Books()
    for number, claim, end in steps:
        hold = bytes([number])
        known = books.holds.get(hold)
        if end is None:
            place(books, leg(1, limit=None), hold=hold, claim=claim, on_orphan=OnOrphan.VOID)
        elif known is None or known.state is HoldState.EXPIRED:
            continue
        elif end == "settle":
            settle(books, 1, hold=hold)
        elif end == "void":
            void(books, hold)
        elif end == "lose":
            books.lose(hold, NOW)
        else:
            review(books, hold)
        counting = [hold for hold in books.holds.values() if hold.state in {P, S, R}]
        assert len(counting) <= 1
        if books.accounts:
            assert only_account(books).spent + only_account(books).held <= 1
