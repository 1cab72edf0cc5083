"""Rolling periods: what counts is the current sub-bucket and as many before it as the period has."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.ledger import UNITS_MAX, Exhausted, Held, HoldState, Resolved
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tests.rules.ledger.scenes import (
    HOLD,
    HOUR,
    NOW,
    OTHER,
    THIRD,
    account_at,
    charge,
    conserved,
    grant,
    leg,
    place,
    refund,
    settle,
)

ROLLING = Period.parse("rolling 24 hours / 4 buckets")
BUCKET = 6 * HOUR
START = NOW - NOW % BUCKET


def test_what_was_spent_counts_until_its_bucket_has_fallen_out() -> None:
    books = Books()
    charge(books, 60, HOLD, period=ROLLING, now=START)
    place(books, leg(30, period=ROLLING), hold=OTHER, now=START + 2 * BUCKET)
    for number in (2, 3, 4):
        now = START + number * BUCKET
        assert place(books, leg(11, period=ROLLING), hold=THIRD, now=now) == Exhausted(
            0, 11, 10, 60, 30, now + BUCKET
        )
    assert place(books, leg(11, period=ROLLING), hold=THIRD, now=START + 5 * BUCKET - 1) == Exhausted(
        0, 11, 10, 60, 30, START + 5 * BUCKET
    )
    assert place(books, leg(70, period=ROLLING), hold=THIRD, now=START + 5 * BUCKET) == Held((70,))
    assert len(books.accounts) == 3
    conserved(books)


def test_a_hold_is_booked_on_the_bucket_in_which_it_was_placed() -> None:
    books = Books()
    place(books, leg(60, period=ROLLING), now=START)
    settle(books, 50, now=START + 3 * BUCKET)
    refund(books, 20, now=START + 9 * BUCKET)
    assert [(account.key[3], account.spent) for account in books.accounts.values()] == [(START, 30)]


def test_a_late_settling_is_bounded_by_what_counts_beside_it() -> None:
    books = Books()
    place(books, leg(60, period=ROLLING), now=START)
    books.lose(HOLD, START)
    place(books, leg(70, period=ROLLING), hold=OTHER, now=START + BUCKET)
    assert settle(books, 50, now=START + BUCKET) == Resolved(HoldState.SETTLED, (30,))
    assert books.lines[-1].absorbed == 20
    assert account_at(books, 0).spent == 30
    conserved(books)


def test_a_grant_counts_as_long_as_its_bucket() -> None:
    books = Books()
    grant(books, leg(40, period=ROLLING), now=START)
    charge(books, 120, HOLD, period=ROLLING, now=START + BUCKET)
    assert place(books, leg(30, 0, period=ROLLING), hold=OTHER, now=START + 4 * BUCKET) == Held((20,))
    assert place(books, leg(30, 0, period=ROLLING), hold=THIRD, now=START + 5 * BUCKET) == Held((0,))
    conserved(books)


def test_rolling_amounts_fit_in_64_bits_together() -> None:
    books = Books()
    for number in range(4):
        place(
            books,
            leg(UNITS_MAX // 2, 0, limit=None, period=ROLLING),
            hold=bytes([number]),
            now=START + number * BUCKET,
        )
    assert sum(account.held for account in books.accounts.values()) == UNITS_MAX
    conserved(books)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9 * HOUR), st.integers(0, 80), st.integers(0, 100), st.booleans()), max_size=40)
)
def test_no_stretch_as_long_as_the_period_ever_holds_more_than_the_limit(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    books, now = Books(), START
    placed: list[tuple[int, bytes]] = []
    for number, (later, most, used, ends) in enumerate(steps):
        now += later
        hold = bytes([number])
        if isinstance(place(books, leg(most, period=ROLLING), hold=hold, now=now), Held):
            placed.append((now, hold))
            if ends:
                settle(books, used, hold=hold, now=now)
        conserved(books)
    amounts = [
        (at, sum(hold.charged if hold.state is HoldState.SETTLED else [amount for _, amount in hold.legs]))
        for at, hold in [(at, books.holds[hold]) for at, hold in placed]
    ]
    for end, _ in amounts:
        assert sum(amount for at, amount in amounts if end - 24 * HOUR < at <= end) <= 100
