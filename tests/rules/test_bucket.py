"""The bucket rule against exact rational arithmetic, and what it promises over time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import (
    DIPS_MAX,
    DIPS_MIN,
    SHARED,
    Overdrawn,
    bucket_key,
    dipped,
    draw,
    draw_all,
    left_of,
    level,
    next_unit_in_ns,
    owner_of,
    settled,
    undipped,
)

SECOND = 10**9

RATES = st.one_of(
    st.builds(Rate, st.integers(1, 20), st.sampled_from([1, 7, 1000, SECOND, 60 * SECOND]), st.integers(0, 20)),
    st.builds(Rate, st.integers(1, 10**12), st.integers(SECOND, 3600 * SECOND), st.integers(0, 10**12)),
)
STARTS = st.integers(0, 10**18)


class ExactBucket:
    """A token bucket as the textbook has it: a fraction of units, refilled with time, cut at the burst."""

    def __init__(self, rate: Rate, now_ns: int) -> None:
        self.rate = rate
        self.units = Fraction(rate.burst)
        self.at_ns = now_ns

    def take(self, cost: int, now_ns: int) -> bool:
        refilled = Fraction((now_ns - self.at_ns) * TICKS_PER_NANO, self.rate.unit_ticks)
        self.units = min(self.units + refilled, Fraction(self.rate.burst))
        self.at_ns = now_ns
        if cost > self.units:
            return False
        self.units -= cost
        return True


@st.composite
def visits(draw_: st.DrawFn) -> tuple[Rate, list[tuple[int, int]]]:
    """A rate, and instants in order with what is asked then: often about a unit apart, often about a burst."""
    rate = draw_(RATES)
    unit_ns = rate.unit_ticks // TICKS_PER_NANO
    pauses = st.one_of(
        st.just(0),
        st.integers(0, 2 * unit_ns + 2),
        st.integers(-2, 2).map(lambda off: max(0, unit_ns + off)),
        st.integers(0, rate.burst * unit_ns + 1),
    )
    costs = st.one_of(st.integers(0, 3), st.integers(0, rate.burst + 1))
    now_ns = draw_(STARTS)
    asked = []
    for pause, cost in draw_(st.lists(st.tuples(pauses, costs), max_size=30)):
        now_ns += pause
        asked.append((now_ns, cost))
    return rate, asked


@given(RATES)
def test_a_unit_takes_its_share_of_the_period_and_never_longer(rate: Rate) -> None:
    exact = Fraction(rate.period_ns * TICKS_PER_NANO, rate.amount)
    assert exact * (1 - Fraction(1, 10**6)) <= rate.unit_ticks <= exact


@given(visits())
def test_it_decides_as_exact_arithmetic_does(visited: tuple[Rate, list[tuple[int, int]]]) -> None:
    rate, asked = visited
    tat = 0
    exact: ExactBucket | None = None
    for now_ns, cost in asked:
        exact = exact or ExactBucket(rate, now_ns)
        now = now_ns * TICKS_PER_NANO
        end = draw(tat, rate, cost, now)
        assert exact.take(cost, now_ns) == (not isinstance(end, Overdrawn))
        if not isinstance(end, Overdrawn):
            tat = end
        missing = (rate.burst - exact.units) * rate.unit_ticks / TICKS_PER_NANO
        assert level(tat, rate, now) == (exact.units // 1, -(-missing // 1))


@given(visits())
def test_no_window_admits_more_than_a_burst_and_what_refills_in_it(
    visited: tuple[Rate, list[tuple[int, int]]],
) -> None:
    rate, asked = visited
    tat = 0
    admitted: list[tuple[int, int]] = []
    for now_ns, cost in asked:
        end = draw(tat, rate, cost, now_ns * TICKS_PER_NANO)
        if not isinstance(end, Overdrawn):
            tat = end
            admitted.append((now_ns, cost))
    for first, (from_ns, _) in enumerate(admitted):
        units = 0
        for until_ns, cost in admitted[first:]:
            units += cost
            assert units <= rate.burst + Fraction((until_ns - from_ns) * TICKS_PER_NANO, rate.unit_ticks)


@given(RATES.filter(lambda rate: rate.burst <= 1000), STARTS)
def test_a_full_bucket_gives_exactly_its_burst_however_it_is_asked_for(rate: Rate, now_ns: int) -> None:
    """E-27."""
    now = now_ns * TICKS_PER_NANO
    at_once = tat = draw(0, rate, rate.burst, now)
    assert not isinstance(tat, Overdrawn)
    assert isinstance(draw(tat, rate, 1, now), Overdrawn)
    tat = 0
    for _ in range(rate.burst):
        end = draw(tat, rate, 1, now)
        assert not isinstance(end, Overdrawn)
        tat = end
    assert tat == at_once


@given(visits())
def test_who_waits_as_told_is_admitted_and_a_nanosecond_sooner_is_not(
    visited: tuple[Rate, list[tuple[int, int]]],
) -> None:
    """E-28, E+3."""
    rate, asked = visited
    tat = 0
    for now_ns, cost in asked:
        end = draw(tat, rate, cost, now_ns * TICKS_PER_NANO)
        if not isinstance(end, Overdrawn):
            tat = end
        elif end.retry_after_ns is None:
            assert cost > rate.burst
        else:
            then = (now_ns + end.retry_after_ns) * TICKS_PER_NANO
            assert end.retry_after_ns >= 1
            assert not isinstance(draw(tat, rate, cost, then), Overdrawn)
            assert isinstance(draw(tat, rate, cost, then - TICKS_PER_NANO), Overdrawn)


@given(visits())
def test_the_next_unit_is_there_when_said(visited: tuple[Rate, list[tuple[int, int]]]) -> None:
    rate, asked = visited
    tat = 0
    for now_ns, cost in asked:
        now = now_ns * TICKS_PER_NANO
        end = draw(tat, rate, cost, now)
        tat = tat if isinstance(end, Overdrawn) else end
        units, full_in_ns = level(tat, rate, now)
        then = now + next_unit_in_ns(full_in_ns, rate) * TICKS_PER_NANO
        assert level(tat, rate, then)[0] > 0
        if units == 0:
            assert level(tat, rate, then - 2 * TICKS_PER_NANO)[0] == 0


BUCKETS = st.sampled_from(["a", "b", "c"])
RATE_OF = {"a": Rate(3, SECOND), "b": Rate(1, SECOND, 5), "c": Rate(10, 7)}


@st.composite
def commands(draw_: st.DrawFn) -> tuple[list[tuple[str, int, Rate, int, bool]], int]:
    now = draw_(STARTS) * TICKS_PER_NANO
    before = {key: now + draw_(st.integers(-5, 5)) * rate.unit_ticks for key, rate in RATE_OF.items()}
    keys = draw_(st.lists(BUCKETS, max_size=6))
    shadow = draw_(st.none() | BUCKETS)  # a bucket is a shadow's or it is not
    return [(key, before[key], RATE_OF[key], draw_(st.integers(0, 4)), key == shadow) for key in keys], now


@given(commands())
def test_several_draws_are_taken_one_after_the_other_or_not_at_all(
    command: tuple[list[tuple[str, int, Rate, int, bool]], int],
) -> None:
    draws, now = command
    tats: dict[str, int] = {}
    ends: list[int] = []
    shadowed: list[int] = []
    fit = True
    for index, (key, tat, rate, cost, shadow) in enumerate(draws):
        end = draw(tats.get(key, tat), rate, cost, now)
        if isinstance(end, Overdrawn):
            end = tats.get(key, tat)
            fit = fit and shadow
            shadowed += [index] if shadow else []
        elif cost:
            tats[key] = end
        else:
            end = tats.get(key, tat)
        ends.append(end)
    taken = draw_all(draws, now)
    assert fit == (not isinstance(taken, Overdrawn))
    if not isinstance(taken, Overdrawn):
        assert taken == (ends, tuple(shadowed))


@given(commands())
def test_the_longest_wait_lets_all_pass_and_every_draw_that_fails_is_named(
    command: tuple[list[tuple[str, int, Rate, int, bool]], int],
) -> None:
    draws, now = command
    refused = draw_all(draws, now)
    if not isinstance(refused, Overdrawn):
        return
    needs: dict[str, int] = {}
    for index, (key, tat, rate, cost, shadow) in enumerate(draws):
        together = needs.get(key, 0) + cost
        fails = cost > 0 and isinstance(draw(tat, rate, together, now), Overdrawn)
        assert fails == (index in (refused.shadowed if shadow else refused.failing))
        if not (fails and shadow):
            needs[key] = together
    if refused.retry_after_ns is None:
        assert isinstance(draw_all(draws, now + 10**6 * SECOND * TICKS_PER_NANO), Overdrawn)
    else:
        then = now + refused.retry_after_ns * TICKS_PER_NANO
        assert not isinstance(draw_all(draws, then), Overdrawn)
        assert isinstance(draw_all(draws, then - TICKS_PER_NANO), Overdrawn)


@given(RATES, STARTS, st.integers(0, 10**13))
def test_nothing_is_always_there_and_takes_nothing(rate: Rate, now_ns: int, ahead: int) -> None:
    """E-32."""
    tat = now_ns * TICKS_PER_NANO + ahead * rate.unit_ticks
    assert draw(tat, rate, 0, now_ns * TICKS_PER_NANO) == tat
    assert draw_all([("a", tat, rate, 0, False)], now_ns * TICKS_PER_NANO) == ([tat], ())


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(AssertionError):
        draw(0, Rate(1, 1), -1, 0)
    with pytest.raises(AssertionError):
        draw_all([("a", 0, Rate(1, 1), -1, False)], 0)


@given(RATES, STARTS, st.integers(0, 10**6))
def test_more_than_a_burst_never_fits(rate: Rate, now_ns: int, more: int) -> None:
    """E-31, which gives way: a decision, not an error."""
    now = now_ns * TICKS_PER_NANO
    assert draw(0, rate, rate.burst + 1 + more, now) == Overdrawn((0,), None)
    assert draw_all([("a", 0, rate, rate.burst, False), ("a", 0, rate, 1 + more, False)], now) == Overdrawn(
        (1,), None
    )


def test_what_was_taken_under_a_larger_burst_refills_first() -> None:
    taken = draw(0, Rate(1, SECOND, 10), 10, 0)
    assert not isinstance(taken, Overdrawn)
    assert draw(taken, Rate(1, SECOND, 2), 1, 0) == Overdrawn((0,), 9 * SECOND)
    assert level(taken, Rate(1, SECOND, 2), 0) == (0, 10 * SECOND)


# giving back


EVENTS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 12), st.integers(0, 25)), max_size=14
)
"""Takes: a pause before, the ticks that are needed and that turn out to be used, and after how long that is known."""

WIDE = Rate(1000, 1)
"""A burst of a thousand million ticks: no debt of these tests comes near."""


class Book:
    """One bucket by the rule, and every take of it that really was used, and when."""

    def __init__(self) -> None:
        self.tat = self.now = 0
        self.dips: tuple[tuple[int, int], ...] = ()
        self.open: list[tuple[int, int, int, int]] = []
        self.history: list[list[int]] = []

    def take(self, need: int, used: int, due: int) -> None:
        self.dips = dipped(self.dips, self.tat, self.now, len(self.open))
        self.tat = max(self.tat, self.now) + need
        self.open.append((due, need, used, len(self.history)))
        self.history.append([self.now, need])

    def settle(self, one: tuple[int, int, int, int]) -> None:
        _, need, used, index = one
        self.open.remove(one)
        before = max(self.tat, self.now)
        at = self.history[index][0]
        self.tat, self.dips = settled(need, used, at, self.tat, self.dips, self.now, WIDE, len(self.open))
        if used <= need:
            self.history[index][1] = used
        else:
            self.history.append([self.now, self.tat - before])

    def advance(self, until: int) -> None:
        for one in sorted(self.open):
            if one[0] <= until:
                self.now = max(self.now, one[0])
                self.settle(one)
        self.now = max(self.now, until)

    def exact(self) -> int:
        tat = 0
        for at, need in self.history:
            tat = max(tat, at) + need if need else tat
        return tat


@settings(max_examples=1000)
@given(EVENTS)
@example([(0, 10, 0, 15), (10, 5, 5, 20)])
def test_what_is_given_back_leaves_a_bucket_as_if_it_had_never_been_taken(
    events: list[tuple[int, int, int, int]],
) -> None:
    """The example: ten taken and refilled in an idle gap, then five taken; ten back would credit those five."""
    book = Book()
    for pause, need, used, due in events:
        book.advance(book.now + pause)
        book.take(need, used, book.now + due)
        assert max(book.tat, book.now) == max(book.exact(), book.now)
    while book.open:
        book.advance(min(one[0] for one in book.open))
        assert max(book.tat, book.now) == max(book.exact(), book.now)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 4), st.integers(0, 90)), max_size=60))
def test_with_many_takes_at_once_never_more_is_given_back(events: list[tuple[int, int, int, int]]) -> None:
    """Then dips are put together; what is given back can only become less."""
    book = Book()
    for pause, need, used, due in events:
        book.advance(book.now + pause)
        book.take(need, min(used, need), book.now + due)
        assert len(book.dips) <= DIPS_MIN + len(book.open)
        assert max(book.tat, book.now) >= max(book.exact(), book.now)


@given(EVENTS)
def test_dips_rise_in_time_and_height(events: list[tuple[int, int, int, int]]) -> None:
    book = Book()
    for pause, need, used, due in events:
        book.advance(book.now + pause)
        book.take(need, used, book.now + due)
        for (early, low), (late, high) in zip(book.dips, book.dips[1:], strict=False):
            assert early < late
            assert 0 <= low < high


def test_of_too_many_dips_the_latest_stands_for_those_after_it() -> None:
    dips: tuple[tuple[int, int], ...] = ()
    for now in range(1, DIPS_MIN + 10):
        dips = dipped(dips, now + 100 * (now - 1), now, 3)
    assert len(dips) == DIPS_MIN + 3
    assert dips[:2] == ((1, 0), (2, 100))
    assert dips[-1] == (DIPS_MIN + 9, 100 * (DIPS_MIN + 2))
    for now in range(100, 100 + 2 * DIPS_MAX):
        dips = dipped(dips, now + 100 * now, now, 10 * DIPS_MAX)
    assert len(dips) == DIPS_MAX


def test_a_long_climb_loses_nothing_of_a_take_before_it() -> None:
    dips: tuple[tuple[int, int], ...] = ()
    tat = need = 500
    for now in range(1, 10_001):
        dips = dipped(dips, tat, now, 1)
        tat += 2
    assert left_of(need, 0, tat, dips, now) == need - 1


@given(st.permutations(range(60)))
def test_any_number_of_takes_at_once_come_back_whole_in_any_order(order: list[int]) -> None:
    """Refused by a budget after they were admitted, a hundred requests at one time leave no trace."""
    book = Book()
    for number in order:
        book.now += 1
        book.take(1000, 0, number)
    for one in sorted(book.open):
        book.now += 1
        book.settle(one)
    assert book.tat <= book.now


@given(need=st.integers(1, 10**24), late=st.integers(0, 10**24), start=st.integers(0, 10**24))
def test_giving_back_to_a_bucket_that_was_full_leaves_it_full(need: int, late: int, start: int) -> None:
    end = start + need
    now = start + late
    back = left_of(need, start, end, (), now)
    assert end - back <= now or end <= now
    assert back <= need
    assert back == max(0, min(need, end - now))


def test_giving_back_lowers_the_dips_since() -> None:
    assert undipped(((1, 5), (3, 20), (6, 30)), 2, 14) == ((1, 5), (3, 6), (6, 16))
    assert undipped(((1, 5), (3, 20), (6, 30)), 2, 15) == ((3, 5), (6, 15))
    assert undipped(((3, 20), (6, 30)), 2, 15) == ((3, 5), (6, 15))
    assert undipped(((3, 20), (6, 30)), 9, 15) == ((3, 20), (6, 30))


@given(RATES, STARTS, st.integers(0, 10**12), st.integers(0, 3))
def test_debt_is_one_burst_at_most_and_never_forgiven(rate: Rate, now_ns: int, used: int, bursts: int) -> None:
    now = now_ns * TICKS_PER_NANO
    tat = now + bursts * rate.burst_ticks
    end, _ = settled(0, used * rate.unit_ticks, now, tat, (), now, rate, 0)
    assert end == max(tat, min(tat + used * rate.unit_ticks, now + 2 * rate.burst_ticks))


# keys


PARTS = st.lists(st.text(alphabet="a%|7C2 5é{}", max_size=6), min_size=1, max_size=4)


@given(PARTS, PARTS)
def test_parts_of_keys_never_run_together(left: list[str], right: list[str]) -> None:
    assert (bucket_key(*left) == bucket_key(*right)) == (left == right)


@given(PARTS)
def test_the_owner_of_a_key_is_what_it_begins_with(parts: list[str]) -> None:
    assert owner_of(bucket_key(*parts)) == bucket_key(parts[0])
    assert owner_of(bucket_key(SHARED, "global")) == SHARED
