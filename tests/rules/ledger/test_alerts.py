"""Alerts: each threshold once in its window, when what is spent, or spent and held, first reaches it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.ledger import Alert, CarryOver, Counted, Exhausted, Held, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tests.rules.ledger.scenes import (
    ACME,
    DAY,
    HOLD,
    HOUR,
    NOW,
    OTHER,
    THIRD,
    account_at,
    charge,
    correct,
    grant,
    leg,
    only_account,
    place,
    refund,
    settle,
    void,
)

HALF, FULL = Threshold(50), Threshold(100)
COMMITTED = Threshold(80, Counted.COMMITTED)
TERMS = Terms(thresholds=(HALF, FULL, COMMITTED))
SOFT = Terms(strict=False, thresholds=(HALF, Threshold(150)))
ROLLING = Period.parse("rolling 24 hours / 4 buckets")
BUCKET = 6 * HOUR


def names(books: Books) -> list[str]:
    raised = [alert.threshold.name for alert in books.alerts]
    books.alerts.clear()
    return raised


def test_a_threshold_of_what_is_spent_is_reached_by_settling() -> None:
    books = Books()
    place(books, leg(70, terms=TERMS))
    assert names(books) == []
    settle(books, 49)
    assert names(books) == []
    place(books, leg(1, terms=TERMS), hold=OTHER)
    settle(books, 1, hold=OTHER)
    account = only_account(books)
    assert books.alerts == [Alert(("b",), Period.DAY, "USD", account.key[3], ACME, HALF, 100, 50, 0, NOW)]
    assert account.alerted == {"spent:50"}


def test_a_threshold_of_what_is_committed_is_reached_by_placing() -> None:
    books = Books()
    place(books, leg(79, terms=TERMS))
    assert names(books) == []
    place(books, leg(1, terms=TERMS), hold=OTHER)
    account = only_account(books)
    assert books.alerts == [Alert(("b",), Period.DAY, "USD", account.key[3], ACME, COMMITTED, 100, 0, 80, NOW)]


def test_an_alert_is_raised_once_in_a_window_however_often_it_is_reached() -> None:
    books = Books()
    for number in range(5):
        place(books, leg(90, terms=TERMS), hold=bytes([number]))
        void(books, bytes([number]))
    assert names(books) == ["committed:80"]
    charge(books, 60, HOLD, terms=TERMS)
    refund(books, 60)
    charge(books, 60, OTHER, terms=TERMS)
    assert names(books) == ["spent:50"]


def test_the_next_window_raises_its_own() -> None:
    books = Books()
    charge(books, 60, HOLD, terms=TERMS)
    charge(books, 60, OTHER, terms=TERMS, now=NOW + DAY)
    assert names(books) == ["spent:50", "spent:50"]


def test_several_thresholds_may_be_reached_at_once() -> None:
    books = Books()
    charge(books, 100, HOLD, terms=TERMS)
    assert sorted(names(books)) == ["committed:80", "spent:100", "spent:50"]


def test_a_soft_limit_alerts_beyond_itself_and_refuses_nothing() -> None:
    books = Books()
    charge(books, 149, HOLD, terms=SOFT)
    assert names(books) == ["spent:50"]
    charge(books, 1, OTHER, terms=SOFT)
    assert names(books) == ["spent:150"]


def test_a_refused_placing_commits_nothing_that_could_alert() -> None:
    books = Books()
    assert isinstance(place(books, leg(101, terms=TERMS)), Exhausted)
    assert names(books) == []


def test_the_percentage_is_of_the_limit_with_grants_and_what_was_carried() -> None:
    books = Books()
    carry = Terms(carry=CarryOver.UNUSED, cap=100, thresholds=(HALF,))
    charge(books, 0, HOLD, terms=carry)
    grant(books, leg(50, terms=carry), now=NOW + DAY)
    charge(books, 124, OTHER, terms=carry, now=NOW + DAY)
    assert names(books) == []
    charge(books, 1, THIRD, terms=carry, now=NOW + DAY)
    assert [(alert.ceiling, alert.spent) for alert in books.alerts] == [(250, 125)]


def test_a_window_that_owes_more_than_its_limit_has_a_ceiling_of_nothing() -> None:
    books = Books()
    debt = Terms(strict=False, carry=CarryOver.DEBT, thresholds=(FULL,))
    charge(books, 350, HOLD, terms=debt)
    charge(books, 1, OTHER, terms=debt, now=NOW + DAY)
    assert [(alert.ceiling, alert.spent) for alert in books.alerts] == [(100, 350), (0, 1)]


def test_nothing_is_reached_without_a_limit_or_at_nothing() -> None:
    books = Books()
    charge(books, 10, HOLD, terms=TERMS, limit=None)
    assert names(books) == []
    charge(books, 0, OTHER, terms=TERMS, limit=0, budget="c")
    assert names(books) == []


def test_one_unit_reaches_every_threshold_of_a_soft_limit_of_nothing() -> None:
    books = Books()
    charge(books, 1, HOLD, terms=SOFT, limit=0)
    assert names(books) == ["spent:50", "spent:150"]


def test_a_correction_that_brings_what_is_spent_to_a_threshold_is_told() -> None:
    books = Books()
    charge(books, 1, HOLD, terms=TERMS)
    correct(books, 99, leg(0, terms=TERMS))
    assert isinstance(place(books, leg(1, terms=TERMS), hold=OTHER), Exhausted)
    assert sorted(set(names(books))) == ["committed:80", "spent:100", "spent:50"]


def test_a_rolling_limit_that_is_spent_is_told_though_all_that_follows_is_refused() -> None:
    books = Books()
    charge(books, 100, HOLD, terms=TERMS, period=ROLLING)
    assert isinstance(place(books, leg(1, terms=TERMS, period=ROLLING), hold=OTHER), Exhausted)
    assert sorted(names(books)) == ["committed:80", "spent:100", "spent:50"]


def test_a_rolling_threshold_is_told_again_only_when_the_bucket_that_told_it_has_fallen_out() -> None:
    books = Books()
    terms = Terms(thresholds=(Threshold(50, Counted.COMMITTED),))
    start = NOW - NOW % BUCKET
    told = []
    for number in range(11):
        now = start + number * BUCKET
        place(books, leg(11, 0, terms=terms, period=ROLLING), hold=bytes([number]), now=now)
        if names(books):
            told.append(number)
    assert told == [4, 9]


def test_a_bucket_that_counts_no_more_tells_nothing() -> None:
    books = Books()
    start = NOW - NOW % BUCKET
    place(books, leg(70, terms=TERMS, period=ROLLING), now=start)
    settle(books, 70, now=start + 5 * BUCKET)
    assert names(books) == []
    books = Books()
    place(books, leg(70, terms=TERMS, period=ROLLING), now=start)
    settle(books, 70, now=start + 5 * BUCKET - 1)
    assert names(books) == ["spent:50"]


def test_a_rolling_threshold_counts_all_buckets_of_its_period() -> None:
    books = Books()
    start = NOW - NOW % BUCKET
    for number in range(3):
        charge(books, 27, bytes([number]), terms=TERMS, period=ROLLING, now=start + number * BUCKET)
    place(books, leg(0, terms=TERMS, period=ROLLING), hold=HOLD, now=start + 3 * BUCKET)
    assert sorted(names(books)) == ["committed:80", "spent:50"]
    assert account_at(books).alerted <= {"spent:50", "committed:80"}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["place", "settle", "void"]), st.integers(0, 4), st.integers(0, 60)), max_size=30
    )
)
def test_an_alert_is_raised_when_and_only_when_its_threshold_was_first_reached(
    steps: list[tuple[str, int, int]],
) -> None:
    books = Books()
    reached: set[str] = set()
    for what, number, amount in steps:
        hold = bytes([number])
        known = books.holds.get(hold)
        if what == "place":
            place(books, leg(amount, 0, terms=TERMS), hold=hold)
        elif known is None:
            continue
        elif what == "settle":
            settle(books, amount, hold=hold)
        else:
            void(books, hold)
        account = only_account(books)
        for threshold in TERMS.thresholds:
            counted = account.spent + (account.held if threshold.of is Counted.COMMITTED else 0)
            if counted and counted * 100 >= threshold.percent * 100:
                reached.add(threshold.name)
        assert sorted(alert.threshold.name for alert in books.alerts) == sorted(reached)
        assert isinstance(place(books, leg(0, terms=TERMS), hold=b"probe"), Held)
