"""The rule of holds and accounts: every state with every input, and the arithmetic of one account."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tenantguard.errors import LayerError
from tenantguard.model.ledger import UNITS_MAX, Barred, Exhausted, Held, HoldState, Leg, OnOrphan, Resolved
from tenantguard.model.sections import Period
from tenantguard.rules.ledger import HOLDING, TRANSITIONS, Account, Books, Input
from tenantguard.rules.windows import window

NOW = 1_750_000_000 * 10**9
HOLD = b"hold-00000000001"
OTHER = b"hold-00000000002"
S, V, E, R, P = HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED, HoldState.REVIEW, HoldState.PENDING

amounts = st.one_of(st.integers(0, 50), st.integers(0, 2**64))


def leg(most: int, least: int | None = None, *, limit: int | None = 100, budget: str = "b") -> Leg:
    return Leg((budget,), Period.DAY, "USD", limit, most, most if least is None else least)


def place(
    books: Books, *legs: Leg, hold: bytes = HOLD, tenant: str = "acme", on_orphan: OnOrphan = OnOrphan.VOID
) -> Held | Exhausted | Barred:
    return books.place(hold, tenant, legs, on_orphan, NOW)


def settle(books: Books, *asked: int, hold: bytes = HOLD, outside: str | None = None) -> Resolved:
    source = None if outside is None else "provider"
    return books.resolve(hold, asked, "completed", "{}", source, outside, NOW)


def void(books: Books, hold: bytes = HOLD) -> Resolved:
    return books.resolve(hold, None, "failed", "{}", None, None, NOW)


def only_account(books: Books) -> Account:
    (account,) = books.accounts.values()
    return account


def check(books: Books) -> None:
    """Conservation: what accounts say follows from entries and open holds."""
    for account in books.accounts.values():
        entries = sum(line.amount for line in books.lines if line.hold.legs[line.leg][0] is account)
        open_legs = sum(
            amount
            for hold in books.holds.values()
            if hold.state in HOLDING
            for other, amount in hold.legs
            if other is account
        )
        assert (account.spent, account.held) == (entries, open_legs)
        assert 0 <= account.spent + account.held <= UNITS_MAX


# every state with every input


def in_state(state: HoldState | None) -> Books:
    """Books in which ``HOLD`` is in ``state``, with 10 of 100 held unless it has ended; None: nobody placed it."""
    books = Books()
    if state is None:
        return books
    place(books, leg(10), on_orphan=OnOrphan.REVIEW if state is HoldState.REVIEW else OnOrphan.VOID)
    if state in {HoldState.EXPIRED, HoldState.REVIEW}:
        books.lose(HOLD, NOW)
    elif state is HoldState.SETTLED:
        settle(books, 7)
    elif state is HoldState.VOIDED:
        void(books)
    assert books.holds[HOLD].state is state
    return books


@pytest.mark.parametrize(
    ("state", "what", "answer", "spent", "held"),
    [
        (P, "settle", Resolved(S, (4,)), 4, 0),
        (P, "void", Resolved(V, (0,)), 0, 0),
        (P, "lose", Resolved(E, (0,)), 0, 0),
        (E, "settle", Resolved(S, (4,)), 4, 0),
        (E, "void", Resolved(V, (0,)), 0, 0),
        (E, "lose", Resolved(E, (0,)), 0, 0),
        (R, "settle", Resolved(S, (4,)), 4, 0),
        (R, "void", Resolved(V, (0,)), 0, 0),
        (R, "lose", Resolved(R, (0,)), 0, 10),
        (S, "settle", Resolved(S, (7,)), 7, 0),
        (S, "void", Resolved(S, (7,)), 7, 0),
        (S, "lose", Resolved(S, (7,)), 7, 0),
        (V, "settle", Resolved(V, (0,)), 0, 0),
        (V, "void", Resolved(V, (0,)), 0, 0),
        (V, "lose", Resolved(V, (0,)), 0, 0),
    ],
)
def test_every_input_in_every_state(state: HoldState, what: str, answer: Resolved, spent: int, held: int) -> None:
    books = in_state(state)
    got = {"settle": lambda: settle(books, 4), "void": lambda: void(books), "lose": lambda: books.lose(HOLD, NOW)}
    assert got[what]() == answer
    assert (only_account(books).spent, only_account(books).held) == (spent, held)
    check(books)


def test_the_table_covers_every_state_and_only_ever_moves_on() -> None:
    assert set(TRANSITIONS) == set(HoldState)
    reached = {after for row in TRANSITIONS.values() for after in row.values()}
    assert HoldState.PENDING not in reached
    for before, what in product(HoldState, Input):
        after = TRANSITIONS[before].get(what)
        assert after is not before
        assert after is None or before in {P, E, R}


@pytest.mark.parametrize("state", list(HoldState))
def test_placing_again_answers_as_the_first_time_and_changes_nothing(state: HoldState) -> None:
    books = in_state(state)
    before = only_account(books).spent, only_account(books).held
    assert place(books, leg(99), leg(99)) == Held((10,))
    assert (only_account(books).spent, only_account(books).held) == before
    assert books.holds[HOLD].state is state


@pytest.mark.parametrize("end", [void, lambda books: settle(books, 5)])
def test_ending_an_unknown_id_bars_it(end: object) -> None:
    books = in_state(None)
    assert callable(end)
    assert end(books) == Resolved(V, ())
    assert place(books, leg(1)) == Barred()
    assert end(books) == Resolved(V, ())
    assert not books.accounts
    assert not books.lines


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
    check(books)


# placing


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
    check(books)


def test_a_refusal_names_the_first_failing_leg_and_leaves_no_trace() -> None:
    books = Books()
    place(books, leg(95, budget="b"), leg(99, budget="c"), hold=OTHER)
    legs = leg(1, budget="a"), leg(6, budget="b"), leg(2, budget="c")
    assert place(books, *legs) == Exhausted(1, 6, 5, 0, 95, window(Period.DAY, NOW)[1])
    assert {key[0] for key in books.accounts} == {("b",), ("c",)}
    assert HOLD not in books.holds
    check(books)


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
    check(books)


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
    check(books)


def test_without_a_limit_spending_is_recorded_and_bounded_by_64_bits() -> None:
    books = Books()
    assert place(books, leg(UNITS_MAX, limit=None), hold=OTHER) == Held((UNITS_MAX,))
    assert place(books, leg(1, limit=None)) == Exhausted(0, 1, 0, 0, UNITS_MAX, window(Period.DAY, NOW)[1])
    assert settle(books, UNITS_MAX, hold=OTHER) == Resolved(S, (UNITS_MAX,))
    check(books)


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
    check(books)


def test_windows_periods_units_and_budgets_have_accounts_of_their_own() -> None:
    books = Books()
    day = 86_400 * 10**9
    for number, other in enumerate(
        [
            leg(100),
            leg(100, budget="c"),
            Leg(("b",), Period.MONTH, "USD", 100, 100, 100),
            Leg(("b",), Period.DAY, "EUR", 100, 100, 100),
        ]
    ):
        assert place(books, other, hold=bytes([number])) == Held((100,))
    assert books.place(b"later", "acme", (leg(100),), OnOrphan.VOID, NOW + day) == Held((100,))
    assert len(books.accounts) == 5


def test_an_account_that_two_tenants_share_belongs_to_neither() -> None:
    books = Books()
    place(books, leg(1), tenant="acme")
    assert only_account(books).tenant == "acme"
    place(books, leg(1), tenant="globex", hold=OTHER)
    assert only_account(books).tenant is None


# ending


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
    check(books)


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
    check(books)


def test_a_late_settling_still_charges_at_most_what_was_held() -> None:
    books = Books()
    place(books, leg(10))
    books.lose(HOLD, NOW)
    assert settle(books, 25) == Resolved(S, (10,))
    assert [(line.amount, line.absorbed) for line in books.lines] == [(10, 15)]


def test_a_charge_belongs_to_the_window_of_its_hold() -> None:
    books = Books()
    place(books, leg(10))
    later = NOW + 40 * 86_400 * 10**9
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
    check(books)


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
    books = in_state(P)
    with pytest.raises(LayerError):
        settle(books, *asked)
    assert books.holds[HOLD].state is P
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
        check(books)


def _sum(books: Books) -> int:
    return sum(account.spent + account.held for account in books.accounts.values())
