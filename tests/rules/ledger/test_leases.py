"""Leases: a share of what is left, drawn from part by part; what all accounts hold together never changes by that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.errors import LayerError
from tenantguard.model.ledger import (
    UNITS_MAX,
    CarryOver,
    Drawn,
    Exhausted,
    Held,
    HoldState,
    OnOrphan,
    Resolved,
    Terms,
    Threshold,
)
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tests.rules.ledger.scenes import (
    ACME,
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
    review,
    settle,
    void,
)

if TYPE_CHECKING:
    from tenantguard.model.ledger import Leg

LEASE = b"lease-0000000001"
S, V, E = HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED


def lease(
    books: Books, *legs: Leg, share: int | None = 25, hold: bytes = LEASE, on_orphan: OnOrphan = OnOrphan.VOID
) -> object:
    return books.place(hold, ACME, legs, on_orphan, NOW, None, share)


def draw(
    books: Books,
    *portions: int,
    used: tuple[int, ...] | None,
    hold: bytes = HOLD,
    of: bytes = LEASE,
    now: int = NOW,
    asks_review: bool = False,
) -> Resolved:
    drawn = Drawn(of, portions)
    return books.resolve(hold, used, "completed", "{}", None, None, now, review=asks_review, drawn=drawn)


# shares


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 500), st.integers(0, 500), st.integers(1, 100))
def test_a_lease_gets_at_most_its_share_of_what_is_left(
    limit: int, before: int, least: int, more: int, share: int
) -> None:
    books = Books()
    place(books, leg(before, 0, limit=limit), hold=OTHER)
    part = max(limit - before, 0) * share // 100
    answer = lease(books, leg(least + more, least, limit=limit), share=share)
    if least <= part:
        assert answer == Held((min(least + more, part),))
    else:
        assert isinstance(answer, Exhausted)
        assert (answer.needed, answer.available) == (least, part)
    conserved(books)


def test_leases_shrink_with_what_is_left() -> None:
    """Ledger.md F.7: `lease` ... auto-shrinks."""
    books = Books()
    assert lease(books, leg(1000, 2)) == Held((25,))
    assert lease(books, leg(1000, 2), hold=OTHER) == Held((18,))
    assert lease(books, leg(10, 2), hold=THIRD) == Held((10,))
    assert only_account(books).held == 53


def test_two_legs_of_a_lease_on_one_account_share_what_it_has() -> None:
    books = Books()
    assert lease(books, leg(100, 0), leg(100, 0)) == Held((25, 18))


def test_a_lease_that_is_refused_is_no_denial_and_leaves_no_trace() -> None:
    """Nobody who asked was denied anything."""
    books = Books()
    before = picture(books)
    assert isinstance(lease(books, leg(50, 26)), Exhausted)
    assert books.refusals == []
    assert picture(books) == before


@pytest.mark.parametrize("share", [0, 101, -1, 25.0, True, "25"])
def test_a_share_is_a_whole_percentage(share: object) -> None:
    with pytest.raises(LayerError, match="percentage from 1 to 100"):
        lease(Books(), leg(1), share=share)  # type: ignore[arg-type]


def test_the_whole_share_is_all_that_is_left() -> None:
    assert lease(Books(), leg(500, 100), share=100) == Held((100,))


# drawing


def test_what_is_drawn_moves_from_the_lease_and_is_charged_as_any_hold() -> None:
    books = Books()
    lease(books, leg(100, 0))
    assert draw(books, 10, used=(7,)) == Resolved(S, (7,))
    assert (only_account(books).spent, only_account(books).held) == (7, 15)
    assert [amount for _, amount in books.holds[LEASE].legs] == [15]
    assert [amount for _, amount in books.holds[HOLD].legs] == [10]
    assert books.holds[HOLD].tenant == ACME
    assert [(line.op, line.amount, line.absorbed) for line in books.lines] == [(HOLD, 7, 0)]
    conserved(books)
    void(books, LEASE)
    assert (only_account(books).spent, only_account(books).held) == (7, 0)
    conserved(books)


def test_a_drawn_hold_charges_at_most_its_portion() -> None:
    books = Books()
    lease(books, leg(100, 0))
    assert draw(books, 10, used=(12,)) == Resolved(S, (10,))
    assert [line.absorbed for line in books.lines] == [2]


def test_what_is_drawn_and_voided_is_released() -> None:
    """That is how the rest of a lease is returned while others still draw on it."""
    books = Books()
    lease(books, leg(100, 0))
    assert draw(books, 10, used=None) == Resolved(V, (0,))
    assert only_account(books).held == 15
    conserved(books)


def test_what_is_drawn_for_review_goes_on_holding() -> None:
    books = Books()
    lease(books, leg(100, 0))
    assert draw(books, 10, used=None, asks_review=True) == Resolved(HoldState.REVIEW, (0,))
    void(books, LEASE)
    assert only_account(books).held == 10
    assert settle(books, 10) == Resolved(S, (10,))
    conserved(books)


def test_more_than_the_lease_still_holds_is_not_drawn() -> None:
    books = Books()
    lease(books, leg(100, 0))
    assert draw(books, 20, used=(20,)) == Resolved(S, (20,))
    assert draw(books, 20, used=(20,), hold=OTHER) == Resolved(S, (5,))
    assert draw(books, 1, used=(1,), hold=THIRD) == Resolved(S, (0,))
    assert (only_account(books).spent, only_account(books).held) == (25, 0)
    conserved(books)


def test_drawing_again_changes_nothing_and_answers_as_the_first_time() -> None:
    books = Books()
    lease(books, leg(100, 0))
    first = draw(books, 10, used=(7,))
    before = picture(books)
    assert draw(books, 10, used=(7,)) == first
    assert draw(books, 3, used=None) == first
    assert picture(books) == before


def test_a_hold_that_was_placed_is_not_drawn() -> None:
    books = Books()
    lease(books, leg(100, 0))
    place(books, leg(5))
    assert draw(books, 10, used=(5,)) == Resolved(S, (5,))
    assert [amount for _, amount in books.holds[LEASE].legs] == [25]
    conserved(books)


def test_every_leg_moves() -> None:
    books = Books()
    lease(books, leg(100, 0, budget="a"), leg(40, 0, budget="b"))
    draw(books, 10, 4, used=(10, 1))
    assert [(account.spent, account.held) for account in books.accounts.values()] == [(10, 15), (1, 21)]
    conserved(books)


def test_what_changed_of_a_lease_is_to_be_stored() -> None:
    books = Books()
    lease(books, leg(100, 0))
    books.stored()
    draw(books, 10, used=(7,))
    assert books.changed == {LEASE: HoldState.PENDING, HOLD: None}
    books.stored()
    void(books, LEASE)
    books.stored()
    draw(books, 10, used=(7,), hold=OTHER)
    assert books.changed == {OTHER: None}


# leases that have ended


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_drawn_from_a_lease_that_has_ended_is_late(lost: bool) -> None:  # noqa: FBT001
    """This process was taken for dead: its charges take what the limit still allows, and the rest is absorbed."""
    books = Books()
    lease(books, leg(100, 0))
    if lost:
        books.lose(LEASE, NOW)
    else:
        void(books, LEASE)
    place(books, leg(95), hold=OTHER)
    assert draw(books, 10, used=(8,)) == Resolved(S, (5,))
    assert (only_account(books).spent, only_account(books).held) == (5, 95)
    assert [line.absorbed for line in books.lines] == [3]
    assert [amount for _, amount in books.holds[LEASE].legs] == [25]
    conserved(books)


def test_a_late_portion_is_at_most_what_the_lease_held() -> None:
    books = Books()
    lease(books, leg(100, 0))
    books.lose(LEASE, NOW)
    assert draw(books, 2**70, used=(2**70,)) == Resolved(S, (25,))
    assert books.lines[-1].absorbed == UNITS_MAX
    conserved(books)


def test_nothing_is_released_for_what_is_voided_late() -> None:
    books = Books()
    lease(books, leg(100, 0))
    books.lose(LEASE, NOW)
    place(books, leg(5), hold=OTHER)
    assert draw(books, 10, used=None) == Resolved(V, (0,))
    assert only_account(books).held == 5


def test_a_lease_under_review_is_no_lease_any_more() -> None:
    """It holds until somebody ends it, so what is drawn must fit beside it."""
    books = Books()
    lease(books, leg(100, 0))
    review(books, LEASE)
    place(books, leg(70), hold=OTHER)
    assert draw(books, 10, used=(8,)) == Resolved(S, (5,))
    assert only_account(books).held == 95
    conserved(books)


def test_a_lost_lease_releases_what_was_not_drawn() -> None:
    books = Books()
    lease(books, leg(100, 0))
    draw(books, 10, used=(10,))
    books.lose(LEASE, NOW + DAY)
    assert (only_account(books).spent, only_account(books).held) == (10, 0)
    conserved(books)


# what is no lease


@pytest.mark.parametrize("barred", [False, True])
def test_drawing_from_what_is_no_lease_bars_the_id(barred: bool) -> None:  # noqa: FBT001
    books = Books()
    if barred:
        void(books, LEASE)
    assert draw(books, 10, used=(10,)) == Resolved(V, ())
    assert books.holds[HOLD].tenant is None
    assert books.lines == []


@pytest.mark.parametrize(
    ("portions", "used"),
    [((), (1,)), ((1, 1), (1,)), ((-1,), (1,)), ((1.0,), (1,)), ((True,), (1,)), ((1,), (1, 1)), ((1,), (-1,))],
)
def test_portions_and_amounts_fit_the_lease_or_nothing_happens(
    portions: tuple[int, ...], used: tuple[int, ...]
) -> None:
    books = Books()
    lease(books, leg(100, 0))
    before = picture(books)
    with pytest.raises(LayerError):
        draw(books, *portions, used=used)
    assert picture(books) == before


def test_nothing_is_drawn_in_a_rolling_period() -> None:
    books = Books()
    lease(books, leg(100, 0, period=Period.parse("rolling 60 minutes / 4 buckets")))
    before = picture(books)
    with pytest.raises(LayerError, match="rolling"):
        draw(books, 10, used=(10,))
    assert picture(books) == before


# conservation

terms = st.sampled_from(
    [Terms(), Terms(strict=False), Terms(carry=CarryOver.UNUSED, cap=50), Terms(thresholds=(Threshold(50),))]
)
steps = st.lists(
    st.tuples(
        st.sampled_from("ldddppsvxrt"),
        st.integers(0, 7),
        st.integers(0, 7),
        st.tuples(st.integers(0, 40), st.integers(0, 40)),
        st.none() | st.tuples(st.integers(0, 40), st.integers(0, 40)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(terms, steps)
def test_money_is_conserved_and_no_strict_limit_passed(
    of: Terms, story: list[tuple[str, int, int, tuple[int, int], tuple[int, int] | None]]
) -> None:
    books, now = Books(), NOW
    for what, one, other, amounts, used in story:
        hold, of_lease = b"%016d" % one, b"%016d" % other
        both = tuple(
            [leg(amount, 0, budget=name, terms=of) for amount, name in zip(amounts, ("a", "b"), strict=True)]
        )
        if what == "l":
            books.place(hold, ACME, both, OnOrphan(sorted(OnOrphan)[other % 3]), now, None, 25)
        elif what == "d":
            held = sum(account.held + account.spent for account in books.accounts.values())
            unknown = hold not in books.holds
            pending = of_lease in books.holds and books.holds[of_lease].state is HoldState.PENDING
            draw(books, *amounts, used=used, hold=hold, of=of_lease, now=now)
            if unknown and pending and of.strict:
                assert sum(account.held + account.spent for account in books.accounts.values()) <= held
        elif what == "p":
            place(books, *both, hold=hold, now=now)
        elif what == "s" and hold in books.holds and books.holds[hold].legs:
            settle(books, *amounts, hold=hold, now=now)
        elif what == "v":
            void(books, hold, now=now)
        elif what == "r":
            review(books, hold, now=now)
        elif what == "x" and hold in books.holds:
            books.lose(hold, now)
        elif what == "t":
            now += DAY // 2
        conserved(books)
        if of.strict and of.carry is CarryOver.NONE:
            assert all(account.spent + account.held <= 100 for account in books.accounts.values())
