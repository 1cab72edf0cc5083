"""Placing and settling: what fits is held, at most what is held is charged, and nothing is decided twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenantguard.errors import LayerError
from tenantguard.model.ledger import (
    UNITS_MAX,
    CarryOver,
    Claim,
    EntryKind,
    Exhausted,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    Resolved,
    Terms,
    Threshold,
)
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tenantguard.rules.windows import window
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
    place,
    settle,
    void,
)

if TYPE_CHECKING:
    from collections.abc import Callable

S, V, E = HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED

SOFT = Terms(strict=False)

amounts = st.one_of(st.integers(0, 50), st.integers(0, 2**64))


# placing


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_placing_gets_all_that_fits_between_least_and_most(limit: int, before: int, least: int, more: int) -> None:
    assume(before <= limit)
    books = Books()
    place(books, leg(before, limit=limit), hold=OTHER)
    most, left = least + more, limit - before
    answer = place(books, leg(most, least, limit=limit))
    if least <= left:
        assert answer == Held((min(most, left),))
    else:
        assert answer == Exhausted(0, least, left, 0, before, window(Period.DAY, NOW)[1])
    conserved(books)


def test_a_refusal_names_the_first_failing_leg_and_leaves_no_trace() -> None:
    books = Books()
    place(books, leg(95, budget="b"), leg(99, budget="c"), hold=OTHER)
    legs = leg(1, budget="a"), leg(6, budget="b"), leg(2, budget="c")
    assert place(books, *legs) == Exhausted(1, 6, 5, 0, 95, window(Period.DAY, NOW)[1])
    assert {key[0] for key in books.accounts} == {("b",), ("c",)}
    assert HOLD not in books.holds
    conserved(books)


def test_what_was_refused_may_be_placed_later_under_the_same_id() -> None:
    """A denial does not burn its id."""
    books = Books()
    place(books, leg(100), hold=OTHER)
    assert isinstance(place(books, leg(1)), Exhausted)
    void(books, OTHER)
    assert place(books, leg(1)) == Held((1,))


def test_two_legs_on_one_account_share_what_it_has() -> None:
    books = Books()
    assert place(books, leg(60), leg(41)) == Exhausted(1, 41, 40, 0, 0, window(Period.DAY, NOW)[1])
    assert place(books, leg(60), leg(41, 0)) == Held((60, 40))
    assert only_account(books).held == 100
    assert settle(books, 10, 50) == Resolved(S, (10, 40))
    assert (only_account(books).spent, only_account(books).held) == (50, 0)
    assert [line.absorbed for line in books.lines] == [0, 10]
    conserved(books)


def test_a_hold_without_legs_holds_nothing_and_ends() -> None:
    books = Books()
    assert place(books) == Held(())
    assert place(books) == Held(())
    assert settle(books) == Resolved(S, ())


def test_lowering_a_limit_only_refuses_what_follows() -> None:
    books = Books()
    place(books, leg(50), hold=OTHER)
    assert place(books, leg(1, limit=20)) == Exhausted(0, 1, 0, 0, 50, window(Period.DAY, NOW)[1])
    assert settle(books, 50, hold=OTHER) == Resolved(S, (50,))
    assert place(books, leg(5, 0, limit=20)) == Held((0,))
    conserved(books)


def test_without_a_limit_spending_is_recorded_and_bounded_by_64_bits() -> None:
    books = Books()
    assert place(books, leg(UNITS_MAX, limit=None), hold=OTHER) == Held((UNITS_MAX,))
    assert place(books, leg(1, limit=None)) == Exhausted(0, 1, 0, 0, UNITS_MAX, window(Period.DAY, NOW)[1])
    assert settle(books, UNITS_MAX, hold=OTHER) == Resolved(S, (UNITS_MAX,))
    conserved(books)


@settings(deadline=None)
@given(st.integers(UNITS_MAX, 2**70), st.one_of(st.none(), st.integers(UNITS_MAX, 2**70)))
def test_amounts_beyond_64_bits_are_refused_or_cut_never_wrapped(amount: int, limit: int | None) -> None:
    books = Books()
    place(books, leg(1, limit=limit), hold=OTHER)
    answer = place(books, leg(amount, limit=limit))
    assert answer == Exhausted(0, amount, UNITS_MAX - 1, 0, 1, window(Period.DAY, NOW)[1])
    assert place(books, leg(amount, 0, limit=limit)) == Held((UNITS_MAX - 1,))
    assert settle(books, amount) == Resolved(S, (UNITS_MAX - 1,))
    assert all(0 <= line.absorbed <= UNITS_MAX for line in books.lines)
    assert only_account(books).limit in {None, UNITS_MAX}
    conserved(books)


def test_windows_periods_units_and_budgets_have_accounts_of_their_own() -> None:
    books = Books()
    for number, other in enumerate(
        [
            leg(100),
            leg(100, budget="c"),
            Leg(("b",), Period.MONTH, "USD", 100, 100, 100),
            Leg(("b",), Period.DAY, "EUR", 100, 100, 100),
        ]
    ):
        assert place(books, other, hold=bytes([number])) == Held((100,))
    assert books.place(b"later", "acme", (leg(100),), OnOrphan.VOID, NOW + DAY) == Held((100,))
    assert len(books.accounts) == 5


def test_an_account_that_two_tenants_share_belongs_to_neither() -> None:
    books = Books()
    place(books, leg(1), tenant="acme")
    assert only_account(books).tenant == "acme"
    place(books, leg(1), tenant="globex", hold=OTHER)
    assert only_account(books).tenant is None


# ending


@settings(deadline=None)
@given(st.integers(0, 100), amounts)
def test_a_settling_charges_at_most_what_is_held_and_absorbs_the_rest(held: int, used: int) -> None:
    books = Books()
    place(books, leg(held))
    charged = min(held, used)
    assert settle(books, used) == Resolved(S, (charged,))
    assert (only_account(books).spent, only_account(books).held) == (charged, 0)
    assert [(line.amount, line.absorbed) for line in books.lines] == (
        [(charged, min(used - charged, UNITS_MAX))] if used else []
    )
    conserved(books)


def test_a_soft_limit_refuses_nothing_and_is_charged_what_was_used() -> None:
    """Recorded, not refused: what was used is charged whole, also late."""
    books = Books()
    place(books, leg(500, terms=SOFT))
    assert settle(books, 700) == Resolved(S, (700,))
    place(books, leg(5, terms=SOFT), hold=OTHER)
    books.lose(OTHER, NOW)
    assert settle(books, 90, hold=OTHER) == Resolved(S, (90,))
    assert [(line.amount, line.absorbed) for line in books.lines] == [(700, 0), (90, 0)]
    conserved(books)


def test_a_soft_limit_refuses_nothing_where_64_bits_are_full() -> None:
    books = Books()
    place(books, leg(10, terms=SOFT))
    settle(books, UNITS_MAX)
    assert place(books, leg(10, terms=SOFT), hold=OTHER) == Held((0,))
    assert place(books, leg(10, budget="strict"), leg(10, terms=SOFT), hold=THIRD) == Held((10, 0))
    conserved(books)


def test_a_soft_account_keeps_within_64_bits_and_absorbs_the_rest() -> None:
    books = Books()
    place(books, leg(10, terms=SOFT))
    books.lose(HOLD, NOW)
    assert place(books, leg(UNITS_MAX, terms=SOFT), hold=OTHER) == Held((UNITS_MAX,))
    assert settle(books, 10) == Resolved(S, (0,))
    assert settle(books, UNITS_MAX + 5, hold=OTHER) == Resolved(S, (UNITS_MAX,))
    assert [(line.amount, line.absorbed) for line in books.lines] == [(0, 10), (UNITS_MAX, 5)]
    conserved(books)
    books = Books()
    place(books, leg(10, terms=SOFT), leg(10, terms=SOFT))
    assert settle(books, UNITS_MAX, 10) == Resolved(S, (UNITS_MAX, 0))
    conserved(books)


def test_a_strict_policy_caps_what_was_held_under_a_soft_one_and_the_other_way_round() -> None:
    books = Books()
    place(books, leg(10, terms=SOFT))
    place(books, leg(0), hold=OTHER)
    assert settle(books, 30) == Resolved(S, (10,))
    place(books, leg(10), hold=THIRD)
    place(books, leg(0, terms=SOFT), hold=b"4")
    assert settle(books, 30, hold=THIRD) == Resolved(S, (30,))
    conserved(books)


def test_a_limit_is_kept_within_64_bits() -> None:
    books = Books()
    for limit, kept in ((2**70, UNITS_MAX), (UNITS_MAX, UNITS_MAX), (0, 0), (-5, 0), (None, None)):
        place(books, leg(0, limit=limit), hold=str(limit).encode())
        assert only_account(books).limit == kept


def test_settling_nothing_makes_no_entry() -> None:
    """E-47."""
    books = Books()
    place(books, leg(10), leg(10, budget="c"))
    assert settle(books, 0, 3) == Resolved(S, (0, 3))
    assert [line.leg for line in books.lines] == [1]


def test_a_late_settling_charges_what_still_fits_and_absorbs_the_rest() -> None:
    books = Books()
    place(books, leg(60))
    books.lose(HOLD, NOW)
    assert only_account(books).held == 0
    place(books, leg(70), hold=OTHER)
    assert settle(books, 50) == Resolved(S, (30,))
    assert [(line.amount, line.absorbed) for line in books.lines] == [(30, 20)]
    assert (only_account(books).spent, only_account(books).held) == (30, 70)
    assert settle(books, 50) == Resolved(S, (30,))
    conserved(books)


def test_a_late_settling_of_what_counts_for_ever_finds_what_is_left() -> None:
    books = Books()
    place(books, leg(60, period=Period.LIFETIME))
    books.lose(HOLD, NOW)
    place(books, leg(70, period=Period.LIFETIME), hold=OTHER, now=NOW + 900 * DAY)
    assert settle(books, 50, now=NOW + 900 * DAY) == Resolved(S, (30,))


def test_a_late_settling_still_charges_at_most_what_was_held() -> None:
    books = Books()
    place(books, leg(10))
    books.lose(HOLD, NOW)
    assert settle(books, 25) == Resolved(S, (10,))
    assert [(line.amount, line.absorbed) for line in books.lines] == [(10, 15)]


def test_a_late_settling_leaves_alone_what_the_next_window_may_have_inherited() -> None:
    """Else what a lost hold had not spent could be spent twice: once carried over, once late."""
    books = Books()
    unused = Terms(carry=CarryOver.UNUSED, cap=30)
    place(books, leg(100, terms=unused))
    books.lose(HOLD, NOW)
    assert place(books, leg(130, terms=unused), hold=OTHER, now=NOW + DAY) == Held((130,))
    assert settle(books, 100, now=NOW + DAY) == Resolved(S, (70,))
    assert books.lines[0].absorbed == 30
    place(books, leg(100, terms=unused), hold=THIRD, now=NOW + 9 * DAY)
    books.lose(THIRD, NOW + 9 * DAY)
    assert settle(books, 100, hold=THIRD, now=NOW + 9 * DAY) == Resolved(S, (100,))
    conserved(books)


def test_a_charge_belongs_to_the_window_of_its_hold() -> None:
    books = Books()
    place(books, leg(10))
    later = NOW + 40 * DAY
    books.resolve(HOLD, (10,), "completed", "{}", None, None, later)
    assert only_account(books).spent == 10
    assert only_account(books).window_ends_ns == window(Period.DAY, NOW)[1]


def test_an_external_id_is_charged_once_for_ever() -> None:
    books = Books()
    place(books, leg(10))
    place(books, leg(10), hold=OTHER)
    assert settle(books, 7, outside="resp-1") == Resolved(S, (7,))
    assert settle(books, 7, outside="resp-1", hold=OTHER) == Resolved(V, (0,))
    assert settle(books, 7, outside="resp-1") == Resolved(S, (7,))
    assert only_account(books).spent == 7
    conserved(books)


def test_an_external_id_with_nothing_to_charge_is_not_used_up() -> None:
    books = Books()
    place(books, leg(10))
    place(books, leg(10), hold=OTHER)
    settle(books, 0, outside="resp-1")
    assert settle(books, 7, outside="resp-1", hold=OTHER) == Resolved(S, (7,))


@pytest.mark.parametrize(
    "broken",
    [
        Leg(("b",), Period.DAY, "USD", 100, 5, 6),
        Leg(("b",), Period.DAY, "USD", 100, 5, -1),
        Leg(("b",), Period.DAY, "USD", 100, 5.0, 5),  # type: ignore[arg-type]
        Leg(("b",), Period.DAY, "USD", 100, 5, least=False),
        Leg(("b",), Period.DAY, "USD", 9.5, 5, 5),  # type: ignore[arg-type]
    ],
)
def test_amounts_that_are_no_amounts_are_the_authors_fault_and_change_nothing(broken: Leg) -> None:
    books = Books()
    with pytest.raises(LayerError):
        place(books, leg(1), broken)
    assert not books.accounts
    assert not books.holds


@pytest.mark.parametrize("asked", [(), (1, 2), (-1,), (1.0,), (True,)])
def test_a_settling_that_does_not_fit_its_legs_changes_nothing(asked: tuple[int, ...]) -> None:
    books = Books()
    place(books, leg(10))
    with pytest.raises(LayerError):
        settle(books, *asked)
    assert books.holds[HOLD].state is HoldState.PENDING
    assert only_account(books).held == 10


commands = st.lists(
    st.tuples(
        st.sampled_from(["place", "settle", "void", "lose"]),
        st.integers(0, 5),
        st.integers(0, 40),
        st.integers(0, 40),
        st.one_of(st.none(), st.integers(0, 120)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(commands)
def test_no_command_passes_the_limit_that_it_brings(
    steps: list[tuple[str, int, int, int, int | None]],
) -> None:
    """Promise 1: no operation makes spent + held exceed the limit that it brings."""
    books = Books()
    for what, number, low, more, limit in steps:
        hold = bytes([number])
        if what == "place":
            sum_before = _sum(books)
            if isinstance(place(books, leg(low + more, low, limit=limit), hold=hold), Held) and limit is not None:
                assert _sum(books) <= max(limit, sum_before)
        elif what == "lose":
            if hold in books.holds:
                books.lose(hold, NOW)
        else:
            sum_before = _sum(books)
            known = books.holds.get(hold)
            late = known is not None and known.state is E
            books.resolve(
                hold, None if what == "void" else tuple([low] * (len(known.legs) if known else 1)),
                "completed", "{}", None, None, NOW,
            )  # fmt: skip
            ceiling = only_account(books).limit if books.accounts else None
            if late and ceiling is not None:
                assert _sum(books) <= max(ceiling, sum_before)
            elif not late:
                assert _sum(books) <= sum_before
        conserved(books)


def _sum(books: Books) -> int:
    return sum(account.spent + account.held for account in books.accounts.values())


# what whoever stores is told


def test_an_entry_says_who_was_charged_for_what() -> None:
    books = Books()
    place(books, leg(10), leg(10, budget="c"))
    books.resolve(HOLD, (4, 6), "completed", '{"model": "m"}', "openai:acme", "resp-1", NOW + 5)
    assert [
        (line.op, line.leg, line.kind, line.account.key[0], line.tenant, line.amount, line.at_ns, line.reason)
        for line in books.lines
    ] == [
        (HOLD, 0, EntryKind.CHARGE, ("b",), ACME, 4, NOW + 5, "completed"),
        (HOLD, 1, EntryKind.CHARGE, ("c",), ACME, 6, NOW + 5, "completed"),
    ]
    assert {(line.evidence, line.source, line.external_id, line.of) for line in books.lines} == {
        ('{"model": "m"}', "openai:acme", "resp-1", None)
    }


def test_an_id_without_a_source_or_a_source_without_an_id_is_charged_again() -> None:
    books = Books()
    for number, (source, external_id) in enumerate([(None, "resp"), ("provider", None), (None, None)] * 2):
        place(books, leg(1), hold=bytes([number]))
        books.resolve(bytes([number]), (1,), "completed", "{}", source, external_id, NOW)
    assert only_account(books).spent == 6
    assert not books.charged
    assert {(line.source, line.external_id) for line in books.lines} == {(None, None)}


@pytest.mark.parametrize(
    "end",
    [lambda books: settle(books, 0, 3), void, lambda books: books.lose(HOLD, NOW)],
    ids=["settle", "void", "lose"],
)
def test_every_account_that_a_command_changed_is_told(end: Callable[[Books], object]) -> None:
    books = Books()
    place(books, leg(10), leg(10, budget="c"))
    assert {account.key[0] for account in books.touched.values()} == {("b",), ("c",)}
    books.touched.clear()
    end(books)
    assert {account.key[0] for account in books.touched.values()} == {("b",), ("c",)}
    books.touched.clear()
    place(books, leg(1), hold=OTHER)
    assert {account.key[0] for account in books.touched.values()} == {("b",)}


def test_a_late_settling_tells_the_accounts_that_it_charged() -> None:
    books = Books()
    place(books, leg(10), leg(10, budget="c"))
    books.lose(HOLD, NOW)
    books.touched.clear()
    settle(books, 0, 3)
    assert {account.key[0] for account in books.touched.values()} == {("c",)}


def test_a_refused_placing_is_recorded_with_what_it_lacked() -> None:
    books = Books()
    place(books, leg(95), hold=OTHER)
    place(books, leg(1, budget="a"), leg(6))
    (refused,) = books.refusals
    assert (refused.hold, refused.tenant, refused.account, refused.needed, refused.available, refused.at_ns) == (
        HOLD, ACME, only_account(books), 6, 5, NOW,
    )  # fmt: skip


def test_what_was_stored_is_told_no_more_and_still_known() -> None:
    books = Books()
    place(books, leg(80, terms=Terms(thresholds=(Threshold(50),))), claim=Claim("key", b"body"))
    settle(books, 80, outside="resp-1")
    place(books, leg(50), hold=OTHER)
    told = (books.lines, books.alerts, books.refusals, books.changed, books.touched, books.claimed)
    assert all(told)
    books.stored()
    assert not any(told)
    assert (only_account(books).spent, len(books.holds), len(books.claims), len(books.charged)) == (80, 1, 1, 1)


def test_what_was_used_beyond_64_bits_is_absorbed_as_far_as_they_go() -> None:
    books = Books()
    place(books, leg(10))
    assert settle(books, 2**70) == Resolved(S, (10,))
    assert books.lines[0].absorbed == UNITS_MAX


def test_two_legs_of_one_account_with_two_limits_are_each_held_to_their_own() -> None:
    books = Books()
    end = window(Period.DAY, NOW)[1]
    assert place(books, leg(60), leg(1, limit=50)) == Exhausted(1, 1, 0, 0, 0, end)
    assert place(books, leg(60), leg(9, 0, limit=50)) == Held((60, 0))


def test_a_late_settling_in_a_window_with_little_left_charges_nothing_rather_than_less() -> None:
    books = Books()
    unused = Terms(carry=CarryOver.UNUSED, cap=30)
    place(books, leg(50, terms=unused))
    books.lose(HOLD, NOW)
    place(books, leg(90, terms=unused), hold=OTHER)
    end = only_account(books).window_ends_ns
    assert end is not None
    assert settle(books, 50, now=end) == Resolved(S, (0,))
    conserved(books)


@pytest.mark.parametrize(("terms", "before_the_end", "after"), [
    (Terms(carry=CarryOver.UNUSED, cap=30), 100, 70),
    (Terms(carry=CarryOver.DEBT), 100, 100),
    (Terms(cap=30), 100, 100),
])  # fmt: skip
def test_only_a_window_that_has_ended_may_have_been_carried_over(
    terms: Terms, before_the_end: int, after: int
) -> None:
    for late, charged in ((-1, before_the_end), (0, after)):
        books = Books()
        place(books, leg(100, terms=terms))
        books.lose(HOLD, NOW)
        end = only_account(books).window_ends_ns
        assert end is not None
        assert settle(books, 100, now=end + late) == Resolved(S, (charged,))
