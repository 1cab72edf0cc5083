"""What every limit store answers: the same as the pure rule, command by command."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.flow.ports import KeepTokens, Level, LimitStore, ReturnTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import Overdrawn, draw_all, level, refund

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 10**9


class Clock:
    def __init__(self, now_ns: int = 10 * SECOND) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


STORES: dict[str, Callable[[Clock], LimitStore]] = {"memory": MemoryLimits}
"""Each from a clock; a store that is its own clock is told the time of this one in tests."""


class Buckets:
    """One store with a clock, asked with fresh ids."""

    def __init__(self, name: str) -> None:
        self.clock = Clock()
        self.store = STORES[name](self.clock)
        self._ids = count(1000)

    def new_id(self) -> bytes:
        return next(self._ids).to_bytes(16, "big")

    def ask(self, *takes: Take) -> Taken | Shortage:
        answer: Taken | Shortage = self.execute(TakeTokens(self.new_id(), takes))
        return answer

    def execute(self, command: Any) -> Any:
        return self.store.execute(command)

    def wait(self, nanos: int) -> None:
        self.clock.now_ns += nanos

    def admitted(self, take: Take, tries: int) -> int:
        return sum(isinstance(self.ask(take), Taken) for _ in range(tries))

    def level(self, take: Take) -> Level:
        answer = self.ask(Take(take.bucket, take.rate, 0))
        return answer.levels[0]


@pytest.fixture(params=sorted(STORES))
def buckets(request: pytest.FixtureRequest) -> Buckets:
    return Buckets(request.param)


def one(rate: Rate, key: str = "acme", cost: int = 1) -> Take:
    return Take(("tenant", key), rate, cost)


# the sentences of the token bucket


def test_a_new_bucket_admits_exactly_its_burst(buckets: Buckets) -> None:
    """E-27."""
    assert buckets.admitted(one(Rate(1, SECOND, 7)), 20) == 7


def test_an_empty_bucket_refuses_with_a_wait_that_comes_true(buckets: Buckets) -> None:
    """E-28, E+3."""
    take = one(Rate(3, SECOND))
    buckets.admitted(take, 3)
    refused = buckets.ask(take)
    assert isinstance(refused, Shortage)
    assert refused.retry_after_ns == 333_333_334
    buckets.wait(refused.retry_after_ns - 1)
    assert isinstance(buckets.ask(take), Shortage)
    buckets.wait(1)
    assert isinstance(buckets.ask(take), Taken)


def test_time_yields_whole_units_only(buckets: Buckets) -> None:
    """E-29."""
    take = one(Rate(1, SECOND, 5))
    buckets.admitted(take, 5)
    buckets.wait(1_500_000_000)
    assert buckets.admitted(take, 5) == 1
    buckets.wait(500_000_000)  # the half is not lost
    assert buckets.admitted(take, 5) == 1


def test_buckets_do_not_affect_each_other(buckets: Buckets) -> None:
    """E-30."""
    rate = Rate(1, SECOND)
    assert buckets.admitted(one(rate, "a"), 2) == 1
    assert buckets.admitted(one(rate, "b"), 2) == 1
    assert isinstance(buckets.ask(Take(("tenant", "a", "b"), rate)), Taken)
    assert isinstance(buckets.ask(Take(("tenant", "a/b"), rate)), Taken)


def test_more_than_a_burst_is_a_decision_without_a_wait(buckets: Buckets) -> None:
    """E-31, which gives way: never an error, and nothing is taken."""
    rate = Rate(10, SECOND)
    assert buckets.ask(one(rate, cost=11)) == Shortage((0,), None, (Level(10, 0),))
    assert buckets.admitted(one(rate), 20) == 10


def test_nothing_is_granted_by_an_empty_bucket(buckets: Buckets) -> None:
    """E-32."""
    take = one(Rate(1, SECOND))
    buckets.ask(take)
    assert buckets.ask(one(take.rate, cost=0)) == Taken((Level(0, SECOND),))
    assert buckets.level(one(take.rate, "never seen")) == Level(1, 0)


def test_half_a_unit_a_second_gives_one_in_two(buckets: Buckets) -> None:
    """E-34."""
    take = one(Rate(1, 2 * SECOND))
    buckets.ask(take)
    buckets.wait(SECOND)
    assert isinstance(buckets.ask(take), Shortage)
    buckets.wait(SECOND)
    assert isinstance(buckets.ask(take), Taken)


def test_one_a_minute_gives_one_in_a_minute(buckets: Buckets) -> None:
    """E-35."""
    take = one(Rate(1, 60 * SECOND))
    buckets.ask(take)
    buckets.wait(30 * SECOND)
    assert isinstance(buckets.ask(take), Shortage)
    buckets.wait(31 * SECOND)
    assert isinstance(buckets.ask(take), Taken)


def test_asking_often_does_not_put_off_the_next_unit(buckets: Buckets) -> None:
    """E+1: one unit in 10 s, asked for at 1 kHz."""
    take = one(Rate(1, 10 * SECOND))
    buckets.ask(take)
    asked = 0
    while isinstance(buckets.ask(take), Shortage):
        buckets.wait(1_000_000)
        asked += 1
    assert asked == 10_000


def test_a_clock_that_goes_back_mints_nothing(buckets: Buckets) -> None:
    """E+4."""
    take = one(Rate(1, SECOND, 5))
    buckets.admitted(take, 5)
    buckets.wait(2 * SECOND)
    assert buckets.admitted(take, 5) == 2
    for _ in range(3):
        buckets.wait(-9 * SECOND)
        assert buckets.admitted(take, 5) == 0
        buckets.wait(9 * SECOND)
        assert buckets.admitted(take, 5) == 0
    buckets.wait(SECOND)
    assert buckets.admitted(take, 5) == 1


# several buckets


def test_several_buckets_are_taken_all_or_none(buckets: Buckets) -> None:
    wide, narrow = Take(("global",), Rate(100, SECOND)), one(Rate(5, SECOND))
    answers = [buckets.ask(wide, narrow) for _ in range(50)]
    assert [isinstance(answer, Taken) for answer in answers] == [True] * 5 + [False] * 45
    assert buckets.level(wide).remaining == 95
    assert answers[-1] == Shortage((1,), SECOND // 5, (Level(95, 50_000_000), Level(0, SECOND)))


def test_every_bucket_that_is_short_is_named_with_the_longest_wait(buckets: Buckets) -> None:
    takes = [one(Rate(1, seconds * SECOND), f"t{seconds}") for seconds in (3, 5, 1)]
    free = one(Rate(100, SECOND), "free")
    buckets.ask(*takes)
    refused = buckets.ask(takes[0], free, takes[1], takes[2])
    assert isinstance(refused, Shortage)
    assert refused.failing == (0, 2, 3)
    assert refused.retry_after_ns == 5 * SECOND
    buckets.wait(5 * SECOND)
    assert isinstance(buckets.ask(takes[0], free, takes[1], takes[2]), Taken)


def test_two_takes_of_one_bucket_add_up(buckets: Buckets) -> None:
    rate = Rate(5, SECOND)
    assert buckets.ask(one(rate, cost=3), one(rate, cost=3)) == Shortage((1,), None, (Level(5, 0), Level(5, 0)))
    assert buckets.ask(one(rate, cost=3), one(rate, cost=2)) == Taken((Level(0, SECOND), Level(0, SECOND)))
    refused = buckets.ask(one(rate, cost=1), one(rate, cost=2))
    assert isinstance(refused, Shortage)
    assert refused.failing == (0, 1)
    assert refused.retry_after_ns == 3 * SECOND // 5


def test_asking_for_nothing_at_all_is_granted(buckets: Buckets) -> None:
    assert buckets.ask() == Taken(())


# ids


def test_a_repeated_taking_gives_the_first_answer_and_takes_once(buckets: Buckets) -> None:
    rate = Rate(5, SECOND)
    command = TakeTokens(buckets.new_id(), (one(rate),))
    first = buckets.execute(command)
    buckets.wait(SECOND // 10)
    assert buckets.execute(command) == first == Taken((Level(4, SECOND // 5),))
    assert buckets.level(one(rate)) == Level(4, SECOND // 10)


def test_a_repeated_refusal_stays_one(buckets: Buckets) -> None:
    take = one(Rate(1, SECOND))
    buckets.ask(take)
    command = TakeTokens(buckets.new_id(), (take,))
    first = buckets.execute(command)
    buckets.wait(SECOND)
    assert buckets.execute(command) == first
    assert isinstance(buckets.ask(take), Taken)


def test_what_is_returned_is_there_again_once(buckets: Buckets) -> None:
    take, other = one(Rate(5, SECOND)), one(Rate(5, SECOND), "other")
    command = TakeTokens(buckets.new_id(), (take, other))
    buckets.execute(command)
    buckets.ask(take)
    for _ in range(3):
        assert buckets.execute(ReturnTokens(command.id)) is None
        assert buckets.level(take).remaining == 4
        assert buckets.level(other) == Level(5, 0)


def test_what_is_kept_cannot_be_returned(buckets: Buckets) -> None:
    command = TakeTokens(buckets.new_id(), (one(Rate(5, SECOND)),))
    buckets.execute(command)
    assert buckets.execute(KeepTokens(command.id)) is None
    buckets.execute(ReturnTokens(command.id))
    assert buckets.level(command.takes[0]).remaining == 4


@pytest.mark.parametrize("end", [ReturnTokens, KeepTokens])
def test_an_id_that_ended_first_cannot_take(buckets: Buckets, end: Callable[[bytes], object]) -> None:
    """A taking may reach the store after its end: a cancelled request, a call that timed out."""
    command = TakeTokens(buckets.new_id(), (one(Rate(5, SECOND)),))
    buckets.execute(end(command.id))
    buckets.wait(59 * SECOND)
    for _ in range(100):
        buckets.execute(end(buckets.new_id()))
    answer = buckets.execute(command)
    assert isinstance(answer, Shortage)
    assert (answer.failing, answer.retry_after_ns) == ((), None)
    assert buckets.level(command.takes[0]) == Level(5, 0)


def test_a_return_after_an_idle_gap_credits_nothing_twice(buckets: Buckets) -> None:
    """Ten taken and refilled in the gap, then five taken by another: those stay taken."""
    rate = Rate(10, SECOND)
    early = TakeTokens(buckets.new_id(), (one(rate, cost=10),))
    buckets.execute(early)
    buckets.wait(SECOND)
    buckets.ask(one(rate, cost=5))
    buckets.execute(ReturnTokens(early.id))
    assert buckets.level(one(rate)).remaining == 5


def test_two_returns_after_an_idle_gap_credit_nothing_twice(buckets: Buckets) -> None:
    """The second began where the first ended, so without the first it would have refilled sooner."""
    rate = Rate(10, SECOND, 20)
    first, second = (TakeTokens(buckets.new_id(), (one(rate, cost=10),)) for _ in range(2))
    buckets.execute(first)
    buckets.execute(second)
    buckets.execute(ReturnTokens(first.id))
    buckets.wait(12 * SECOND // 10)
    buckets.ask(one(rate, cost=5))
    buckets.execute(ReturnTokens(second.id))
    assert buckets.level(one(rate)).remaining == 15


@given(order=st.permutations(range(6)), name=st.sampled_from(sorted(STORES)))
def test_returned_in_whatever_order_they_leave_no_trace(order: list[int], name: str) -> None:
    buckets = Buckets(name)
    rate = Rate(10, SECOND)
    commands = [TakeTokens(buckets.new_id(), (one(rate),)) for _ in order]
    for command in commands:
        buckets.execute(command)
    for index in order:
        buckets.execute(ReturnTokens(commands[index].id))
    assert buckets.level(one(rate)) == Level(10, 0)


# against the model


class Model:
    """The meaning of the commands, by the pure rule, and the exact history beside it."""

    def __init__(self) -> None:
        self.tats: dict[tuple[str, ...], int] = {}
        self.answers: dict[bytes, Taken | Shortage] = {}
        self.taken: dict[bytes, dict[tuple[str, ...], tuple[int, int]]] = {}
        self.barred: set[bytes] = set()
        self.forgotten: set[bytes] = set()
        self.history: list[tuple[bytes, tuple[str, ...], int, int]] = []
        self.returned: set[bytes] = set()

    def take(self, command: TakeTokens, now: int) -> Taken | Shortage:
        if command.id in self.answers:
            return self.answers[command.id]
        if command.id in self.barred:
            return Shortage((), None, ())
        draws = [(take.bucket, self.tats.get(take.bucket, 0), take.rate, take.cost) for take in command.takes]
        taken = draw_all(draws, now)
        answer: Taken | Shortage
        if isinstance(taken, Overdrawn):
            answer = Shortage(taken.failing, taken.retry_after_ns, self.levels(command, now))
            taken = {}
        else:
            for key, (need, end) in taken.items():
                self.tats[key] = end
                self.history.append((command.id, key, now, need))
            answer = Taken(self.levels(command, now))
        self.answers[command.id], self.taken[command.id] = answer, taken
        return answer

    def levels(self, command: TakeTokens, now: int) -> tuple[Level, ...]:
        return tuple(Level(*level(self.tats.get(take.bucket, 0), take.rate, now)) for take in command.takes)

    def end(self, ended: bytes, now: int, *, give_back: bool) -> None:
        if ended not in self.answers:
            self.barred.add(ended)
            return
        self.forgotten.add(ended)
        del self.answers[ended]
        later = list(self.taken)[list(self.taken).index(ended) + 1 :]
        taken = self.taken.pop(ended)
        if give_back:
            self.returned.add(ended)
            for key, (need, end) in taken.items():
                back = refund(need, end, now)
                self.tats[key] -= back
                for other in later:
                    if key in self.taken[other]:
                        needed, left = self.taken[other][key]
                        self.taken[other][key] = needed, left - back

    def exact(self, key: tuple[str, ...]) -> int:
        """The bucket as if what was returned had never been taken."""
        tat = 0
        for taker, bucket, now, need in self.history:
            if bucket == key and taker not in self.returned:
                tat = max(tat, now) + need
        return tat


RATES = {
    ("global",): Rate(3, SECOND, 6),
    ("tenant", "a"): Rate(1, SECOND, 4),
    ("tenant", "b"): Rate(7, 3 * SECOND),
}
IDS = st.integers(1, 20).map(lambda number: number.to_bytes(16, "big"))
TAKES = st.builds(lambda key, cost: Take(key, RATES[key], cost), st.sampled_from(sorted(RATES)), st.integers(0, 4))
TAKINGS = st.builds(TakeTokens, IDS, st.lists(TAKES, min_size=1, max_size=4).map(tuple))
WAITS = st.one_of(st.integers(0, SECOND), st.sampled_from([SECOND // 3, SECOND // 2, SECOND]))
STEPS = st.one_of(TAKINGS, TAKINGS, st.builds(ReturnTokens, IDS), st.builds(KeepTokens, IDS), WAITS)


@settings(max_examples=300)
@given(steps=st.lists(STEPS, min_size=20, max_size=50), name=st.sampled_from(sorted(STORES)))
def test_a_store_answers_as_the_rule_does_and_never_credits_more_than_was_taken(
    steps: list[TakeTokens | ReturnTokens | KeepTokens | int], name: str
) -> None:
    buckets = Buckets(name)
    model = Model()
    for step in steps:
        now = buckets.clock.now_ns * TICKS_PER_NANO
        if isinstance(step, int):
            buckets.wait(step)
        elif isinstance(step, TakeTokens):
            if step.id in model.forgotten:
                continue  # a store may still know it, or not
            assert buckets.execute(step) == model.take(step, now)
        else:
            assert buckets.execute(step) is None
            model.end(step.id, now, give_back=isinstance(step, ReturnTokens))
        now = buckets.clock.now_ns * TICKS_PER_NANO
        for key, rate in RATES.items():
            assert buckets.level(Take(key, rate)) == Level(*level(model.tats.get(key, 0), rate, now))
            assert max(model.tats.get(key, 0), now) >= max(model.exact(key), now)
