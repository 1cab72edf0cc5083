"""What a window leaves to the next: unused up to a cap, or debt, over windows in which nothing happened."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.ledger import UNITS_MAX, CarryOver, Exhausted, Held, Terms
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tests.rules.ledger.scenes import (
    DAY,
    HOLD,
    HOUR,
    NOW,
    OTHER,
    THIRD,
    account_at,
    charge,
    conserved,
    correct,
    grant,
    leg,
    place,
    refund,
    settle,
    void,
)

UNUSED = Terms(carry=CarryOver.UNUSED, cap=30)
ALL = Terms(carry=CarryOver.UNUSED, cap=10_000)
DEBT = Terms(carry=CarryOver.DEBT)
SOFT_DEBT = Terms(strict=False, carry=CarryOver.DEBT)
SOFT_UNUSED = Terms(strict=False, carry=CarryOver.UNUSED, cap=30)
NONE = Terms()


def inherits(books: Books, terms: Terms, at: int = NOW + DAY, limit: int | None = 100, hold: bytes = b"probe") -> int:
    """What the window at ``at`` has carried, once something is placed on it."""
    assert isinstance(
        place(books, leg(0, limit=limit, terms=terms), hold=hold + bytes([len(books.holds)]), now=at), Held
    )
    return account_at(books).carried


@pytest.mark.parametrize(
    ("terms", "spent", "carried"),
    [
        (UNUSED, 95, 5), (UNUSED, 70, 30), (UNUSED, 60, 30), (UNUSED, 0, 30), (UNUSED, 100, 0),
        (ALL, 40, 60), (SOFT_UNUSED, 160, 0),
        (DEBT, 40, 0), (DEBT, 100, 0), (SOFT_DEBT, 160, -60), (SOFT_DEBT, 40, 0), (NONE, 40, 0),
    ],
)  # fmt: skip
def test_what_was_not_spent_or_spent_beyond_is_carried(terms: Terms, spent: int, carried: int) -> None:
    books = Books()
    charge(books, spent, HOLD, terms=terms)
    assert inherits(books, terms) == carried
    strict = Terms(carry=terms.carry, cap=terms.cap)
    end = account_at(books).window_ends_ns
    assert place(books, leg(101 + carried, terms=strict), hold=OTHER, now=NOW + DAY) == Exhausted(
        0, 101 + carried, 100 + carried, 0, 0, end
    )
    assert place(books, leg(100 + carried, terms=strict), hold=OTHER, now=NOW + DAY) == Held((100 + carried,))
    conserved(books)


def test_nothing_is_carried_into_the_first_window_or_from_a_line_of_another_name() -> None:
    books = Books()
    charge(books, 10, HOLD, terms=ALL, budget="other")
    charge(books, 10, OTHER, terms=ALL, period=Period.HOUR)
    assert inherits(books, ALL) == 0


def test_what_is_still_held_counts_as_spent_until_it_resolves() -> None:
    books = Books()
    place(books, leg(40, terms=ALL))
    assert inherits(books, ALL) == 60
    settle(books, 15)
    assert inherits(books, ALL) == 85
    refund(books)
    assert inherits(books, ALL) == 100
    conserved(books)


def test_a_hold_of_the_window_before_that_is_voided_makes_room_at_the_next_placing() -> None:
    books = Books()
    place(books, leg(100, terms=ALL))
    assert isinstance(place(books, leg(101, terms=ALL), hold=OTHER, now=NOW + DAY), Exhausted)
    void(books, now=NOW + DAY)
    assert place(books, leg(200, terms=ALL), hold=OTHER, now=NOW + DAY) == Held((200,))


def test_carried_amounts_are_carried_on_up_to_the_cap() -> None:
    books = Books()
    two = Terms(carry=CarryOver.UNUSED, cap=250)
    carried = []
    for day in range(4):
        charge(books, 10, bytes([day]), terms=two, now=NOW + day * DAY)
        carried.append(account_at(books).carried)
    assert carried == [0, 90, 180, 250]


@pytest.mark.parametrize(
    ("terms", "spent", "days", "carried"),
    [
        (UNUSED, 95, 2, 30), (ALL, 40, 2, 160), (ALL, 40, 5, 460), (SOFT_DEBT, 350, 1, -250),
        (SOFT_DEBT, 350, 2, -150), (SOFT_DEBT, 350, 3, -50), (SOFT_DEBT, 350, 4, 0), (SOFT_DEBT, 350, 400, 0),
        (DEBT, 10, 9, 0), (NONE, 10, 9, 0),
    ],
)  # fmt: skip
def test_windows_in_which_nothing_was_placed_add_their_limit(
    terms: Terms, spent: int, days: int, carried: int
) -> None:
    books = Books()
    charge(books, spent, HOLD, terms=terms)
    assert inherits(books, terms, NOW + days * DAY) == carried


def test_windows_of_unequal_length_are_counted_as_windows() -> None:
    """Months have 28 to 31 days, and a day on which the clocks change has 23 or 25 hours."""
    books = Books()
    for period, steps in ((Period.MONTH, 62), (Period.parse("day in Europe/Berlin"), 2)):
        autumn = 1_761_300_000 * 10**9  # 24 October 2025, 10:00 UTC; the clocks change on the 26th
        books = Books()
        charge(books, 0, HOLD, terms=ALL, period=period, now=autumn)
        later = autumn + steps * DAY + DAY
        place(books, leg(0, terms=ALL, period=period), hold=OTHER, now=later)
        place(books, leg(0, terms=ALL, period=period), hold=THIRD, now=later)
        assert account_at(books).carried == (200 if period is Period.MONTH else 300)


def test_debt_comes_off_the_limit_and_never_makes_it_negative() -> None:
    books = Books()
    charge(books, 350, HOLD, terms=SOFT_DEBT)
    assert inherits(books, DEBT) == -250
    assert place(books, leg(1, terms=DEBT), hold=OTHER, now=NOW + DAY) == Exhausted(
        0, 1, 0, 0, 0, account_at(books).window_ends_ns
    )
    grant(books, leg(260, terms=DEBT), now=NOW + DAY)
    assert place(books, leg(500, 0, terms=DEBT), hold=OTHER, now=NOW + DAY) == Held((110,))


def test_a_limit_that_was_lowered_under_what_is_spent_leaves_a_debt() -> None:
    books = Books()
    charge(books, 90, HOLD, terms=DEBT)
    place(books, leg(0, limit=50, terms=DEBT), hold=OTHER)
    assert inherits(books, DEBT, limit=50) == -40


def test_unused_grants_are_carried_but_not_those_that_ended_before_their_window() -> None:
    books = Books()
    charge(books, 60, HOLD, terms=ALL)
    grant(books, leg(5, terms=ALL), op=b"a")
    grant(books, leg(7, terms=ALL), NOW + 1, op=b"b")
    grant(books, leg(11, terms=ALL), NOW + 9 * DAY, op=b"c")
    assert inherits(books, ALL) == 56


def test_a_grant_that_lasted_to_the_end_of_its_window_is_unused_to_the_nanosecond() -> None:
    for early, carried in ((1, 100), (0, 107)):
        books = Books()
        charge(books, 0, HOLD, terms=ALL)
        end = account_at(books).window_ends_ns
        assert end is not None
        grant(books, leg(7, terms=ALL), end - early)
        assert inherits(books, ALL) == carried


def test_what_a_grant_had_paid_for_is_no_debt_when_it_has_ended() -> None:
    books = Books()
    grant(books, leg(50, terms=DEBT), NOW + HOUR)
    charge(books, 150, HOLD, terms=DEBT)
    assert inherits(books, DEBT) == 0
    books = Books()
    grant(books, leg(50, terms=SOFT_DEBT), NOW + HOUR)
    charge(books, 160, HOLD, terms=SOFT_DEBT)
    assert inherits(books, SOFT_DEBT) == -10


def test_debt_over_debt_fits_in_64_bits() -> None:
    books = Books()
    for day in range(3):
        correct(books, UNITS_MAX, leg(0, terms=SOFT_DEBT), op=bytes([day]), now=NOW + day * DAY)
    assert inherits(books, SOFT_DEBT, NOW + 3 * DAY) == -UNITS_MAX


def test_a_limit_below_nothing_adds_no_debt() -> None:
    books = Books()
    charge(books, 350, HOLD, terms=SOFT_DEBT)
    assert inherits(books, SOFT_DEBT, NOW + 5 * DAY, limit=-10) == -250


def test_after_a_clock_went_back_the_latest_window_is_still_the_one_before() -> None:
    books = Books()
    charge(books, 350, HOLD, terms=SOFT_DEBT, now=NOW + DAY)
    charge(books, 10, OTHER, terms=SOFT_DEBT, now=NOW)
    assert inherits(books, SOFT_DEBT, NOW + 2 * DAY) == -250


def test_a_window_that_was_only_granted_or_corrected_passes_on_what_it_inherited() -> None:
    books = Books()
    charge(books, 350, HOLD, terms=SOFT_DEBT)
    correct(books, 5, leg(0, terms=SOFT_DEBT), now=NOW + DAY)
    assert inherits(books, SOFT_DEBT, NOW + 2 * DAY) == -155
    books = Books()
    charge(books, 350, HOLD, terms=SOFT_DEBT)
    grant(books, leg(5, terms=SOFT_DEBT), now=NOW + DAY)
    assert inherits(books, SOFT_DEBT, NOW + 2 * DAY) == -145


def test_a_policy_that_carries_nothing_any_more_has_nothing_carried() -> None:
    books = Books()
    charge(books, 60, HOLD, terms=ALL)
    assert inherits(books, ALL) == 40
    assert place(books, leg(200, 0), hold=OTHER, now=NOW + DAY) == Held((100,))


def test_a_refused_placing_leaves_what_was_carried_alone() -> None:
    books = Books()
    place(books, leg(100, terms=ALL))
    assert inherits(books, ALL) == 0
    void(books)
    books.touched.clear()
    assert isinstance(place(books, leg(500, terms=ALL), hold=OTHER, now=NOW + DAY), Exhausted)
    assert account_at(books).carried == 0
    assert not books.touched


def test_lifetimes_and_accounts_without_a_limit_carry_nothing() -> None:
    books = Books()
    charge(books, 10, HOLD, terms=ALL, limit=None)
    assert inherits(books, ALL) == 0
    charge(books, 10, OTHER, terms=ALL, period=Period.LIFETIME, budget="life")
    place(books, leg(1, terms=ALL, period=Period.LIFETIME, budget="life"), hold=THIRD, now=NOW + 900 * DAY)
    assert [account.carried for account in books.accounts.values()] == [0, 0, 0]


def test_a_clock_that_goes_back_over_the_edge_inherits_nothing_from_the_future() -> None:
    books = Books()
    charge(books, 10, HOLD, terms=ALL, now=NOW + DAY)
    place(books, leg(0, terms=ALL), hold=OTHER, now=NOW)
    assert account_at(books, 0).carried == 0
    assert account_at(books, 0).previous is None
    assert inherits(books, ALL) == 0


def test_a_long_gap_costs_no_more_than_a_short_one() -> None:
    """A year of minutes is half a million windows; a placing must not count them one by one for each request."""
    minute = Period.MINUTE
    books = Books()
    big = Terms(strict=False, carry=CarryOver.DEBT)
    place(books, leg(10**9, limit=1, terms=big, period=minute))
    settle(books, 10**9)
    for number in range(20):
        place(books, leg(0, limit=1, terms=big, period=minute), hold=bytes([number]), now=NOW + 30 * DAY)
    assert account_at(books).carried == -(10**9) + 30 * 24 * 60


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.booleans()), max_size=12),
    st.sampled_from([UNUSED, ALL, DEBT, SOFT_DEBT, NONE]),
    st.sampled_from([60, 100]),
)
def test_windows_carry_what_a_slow_count_of_every_window_says(
    steps: list[tuple[int, int, bool]], terms: Terms, limit: int
) -> None:
    books, day = Books(), 0
    spent: dict[int, int] = {}
    for number, (days, amount, ends) in enumerate(steps):
        day += days
        now = NOW + day * DAY
        if isinstance(place(books, leg(amount, 0, limit=limit, terms=terms), hold=bytes([number]), now=now), Held):
            held = books.holds[bytes([number])].legs[0][1]
            if ends:
                settle(books, amount, hold=bytes([number]), now=now)
            spent[day] = spent.get(day, 0) + (min(amount, held) if terms.strict or not ends else amount)
        carried, first = 0, min(spent)
        for each in range(first, day):
            left = limit + carried - spent.get(each, 0)
            if terms.carry is CarryOver.UNUSED:
                carried = min(max(left, 0), terms.cap)
            else:
                carried = min(left, 0) if terms.carry is CarryOver.DEBT else 0
        assert account_at(books).carried == carried
        conserved(books)


@settings(deadline=None)
@given(
    st.sampled_from([ALL, Terms(carry=CarryOver.UNUSED, cap=UNITS_MAX), SOFT_DEBT]),
    st.integers(0, 2**64),
    st.integers(0, 2**64),
)
def test_what_is_carried_fits_in_64_bits(terms: Terms, limit: int, amount: int) -> None:
    books = Books()
    place(books, leg(amount, 0, limit=limit, terms=terms))
    settle(books, amount)
    place(books, leg(amount, 0, limit=limit, terms=terms), hold=OTHER, now=NOW + 5 * DAY)
    assert abs(account_at(books).carried) <= UNITS_MAX
    conserved(books)
