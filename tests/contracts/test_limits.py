"""What every limit store answers: the same as the pure rule, command by command."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.errors import LayerError
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import (
    ReturnTokens,
    SettleTokens,
    Shortage,
    Take,
    TakeInPlace,
    Taken,
    TakeTokens,
    TokenGrant,
)
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.rules.bucket import Overdrawn, bucket_key, dipped, draw_all, level, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.ports import Level, LimitStore
    from tenantguard.rules.bucket import Dips

SECOND = 10**9


class Clock:
    def __init__(self, now_ns: int = 10 * SECOND) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


class Shared:
    """A Redis, emptied for each store; the store before is closed."""

    server: ClassVar[Any]
    store: ClassVar[RedisLimits | None] = None

    @classmethod
    def store_of(cls, clock: Clock) -> RedisLimits:
        cls.close()
        cls.server.flush()
        cls.store = RedisLimits(cls.server.uri, clock, deadline_ms=10_000, processes=1, test_clock=clock)
        return cls.store

    @classmethod
    def close(cls) -> None:
        if cls.store is not None:
            cls.store.close()
            cls.store = None


@pytest.fixture(scope="module", autouse=True)
def _shared(redis: Any) -> Iterator[None]:
    Shared.server = redis
    yield
    Shared.close()


STORES: dict[str, Callable[[Clock], LimitStore]] = {
    "memory": MemoryLimits,
    "memory, many locks": lambda clock: MemoryLimits(clock, locks=64),
    "redis": Shared.store_of,
}
"""Each from a clock; a store that is its own clock is told the time of this one in tests."""

NAMES = st.sampled_from(sorted(STORES))


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
        answer = self.store.execute(command)
        if isinstance(answer, Promise):
            return answer.result() if answer.wait(answer.deadline_s) else answer.late()
        return answer

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
    return Take(bucket_key(key, "tenant"), rate, cost)


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
    for parts in (("a", "b"), ("a|b",), ("a%7Cb",), ("a", "|b"), ("a|", "b"), ("", "a", "b")):
        assert isinstance(buckets.ask(Take(bucket_key(*parts), rate)), Taken)


def test_more_than_a_burst_is_a_decision_without_a_wait(buckets: Buckets) -> None:
    """E-31, which gives way: never an error, and nothing is taken."""
    rate = Rate(10, SECOND)
    assert buckets.ask(one(rate, cost=11)) == Shortage((0,), None, ((10, 0),))
    assert buckets.admitted(one(rate), 20) == 10


def test_nothing_is_granted_by_an_empty_bucket(buckets: Buckets) -> None:
    """E-32."""
    take = one(Rate(1, SECOND))
    buckets.ask(take)
    assert buckets.ask(one(take.rate, cost=0)) == Taken(((0, SECOND),))
    assert buckets.level(one(take.rate, "never seen")) == (1, 0)


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
    wide, narrow = Take(bucket_key("", "global"), Rate(100, SECOND)), one(Rate(5, SECOND))
    answers = [buckets.ask(wide, narrow) for _ in range(50)]
    assert [isinstance(answer, Taken) for answer in answers] == [True] * 5 + [False] * 45
    assert buckets.level(wide)[0] == 95
    assert answers[-1] == Shortage((1,), SECOND // 5, ((95, 50_000_000), (0, SECOND)))


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
    assert buckets.ask(one(rate, cost=3), one(rate, cost=3)) == Shortage((1,), None, ((5, 0), (5, 0)))
    assert buckets.ask(one(rate, cost=3), one(rate, cost=2)) == Taken(((2, 3 * SECOND // 5), (0, SECOND)))
    refused = buckets.ask(one(rate, cost=1), one(rate, cost=2))
    assert isinstance(refused, Shortage)
    assert refused.failing == (0, 1)
    assert refused.retry_after_ns == 3 * SECOND // 5


def test_asking_for_nothing_at_all_is_granted(buckets: Buckets) -> None:
    assert buckets.ask() == Taken(())


# ids


def test_a_call_that_is_asked_for_again_and_again_counts_once(buckets: Buckets) -> None:
    """S-69: of 2 the third call is denied; one id is one charge with the same answer; another still consumes."""
    rate = Rate(2, 60 * SECOND)
    first, second, third = [TakeTokens(buckets.new_id(), (one(rate),)) for _ in range(3)]
    answers = [buckets.execute(first) for _ in range(5)]
    assert answers == [Taken(((1, 30 * SECOND),))] * 5
    assert isinstance(buckets.execute(second), Taken)
    assert [isinstance(buckets.execute(third), Shortage) for _ in range(3)] == [True] * 3


def test_a_thousand_callers_never_collide_and_what_is_long_past_denies_nothing(buckets: Buckets) -> None:
    """S-70."""
    takes = [one(Rate(1, 60 * SECOND), f"caller-{number}") for number in range(1100)]
    for expected in (Taken, Shortage):
        assert all(isinstance(buckets.execute(TakeTokens(None, (take,))), expected) for take in takes)
    buckets.wait(60 * SECOND)
    assert all(isinstance(buckets.execute(TakeTokens(None, (take,))), Taken) for take in takes)


def test_a_repeated_taking_gives_the_first_answer_and_takes_once(buckets: Buckets) -> None:
    rate = Rate(5, SECOND)
    command = TakeTokens(buckets.new_id(), (one(rate),))
    first = buckets.execute(command)
    buckets.wait(SECOND // 10)
    assert buckets.execute(command) == first == Taken(((4, SECOND // 5),))
    assert buckets.level(one(rate)) == (4, SECOND // 10)


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
        assert buckets.level(take)[0] == 4
        assert buckets.level(other) == (5, 0)


def test_what_is_kept_cannot_be_returned(buckets: Buckets) -> None:
    command = TakeTokens(buckets.new_id(), (one(Rate(5, SECOND)),))
    buckets.execute(command)
    assert buckets.execute(SettleTokens(command.id)) is None
    buckets.execute(ReturnTokens(command.id))
    assert buckets.level(command.takes[0])[0] == 4


@pytest.mark.parametrize("end", [ReturnTokens, SettleTokens])
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
    assert buckets.level(command.takes[0]) == (5, 0)


def test_a_return_after_an_idle_gap_credits_nothing_twice(buckets: Buckets) -> None:
    """Ten taken and refilled in the gap, then five taken by another: those stay taken."""
    rate = Rate(10, SECOND)
    early = TakeTokens(buckets.new_id(), (one(rate, cost=10),))
    buckets.execute(early)
    buckets.wait(SECOND)
    buckets.ask(one(rate, cost=5))
    buckets.execute(ReturnTokens(early.id))
    assert buckets.level(one(rate))[0] == 5


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
    assert buckets.level(one(rate))[0] == 15


@given(order=st.permutations(range(6)), pauses=st.lists(st.integers(0, 10**6), min_size=12, max_size=12), name=NAMES)
def test_returned_in_whatever_order_they_leave_no_trace(order: list[int], pauses: list[int], name: str) -> None:
    """What six requests took at about one time, and a refusal gave back, is all there again."""
    buckets = Buckets(name)
    rate = Rate(10, SECOND)
    commands = [TakeTokens(buckets.new_id(), (one(rate),)) for _ in order]
    for command, pause in zip(commands, pauses, strict=False):
        buckets.execute(command)
        buckets.wait(pause)
    for index, pause in zip(order, pauses[6:], strict=True):
        buckets.execute(ReturnTokens(commands[index].id))
        buckets.wait(pause)
    assert buckets.level(one(rate)) == (10, 0)


# settling


def test_what_was_not_used_is_given_back(buckets: Buckets) -> None:
    rate = Rate(100, 60 * SECOND)
    command = TakeTokens(buckets.new_id(), (one(rate, cost=80), one(rate, "other", cost=80)))
    buckets.execute(command)
    assert buckets.execute(SettleTokens(command.id, (30, None))) is None
    assert buckets.level(one(rate)) == (70, 18 * SECOND)
    assert buckets.level(one(rate, "other")) == (20, 48 * SECOND)


def test_settling_with_nothing_gives_all_back_and_never_more(buckets: Buckets) -> None:
    rate = Rate(100, 60 * SECOND)
    command = TakeTokens(buckets.new_id(), (one(rate, cost=80),))
    buckets.execute(command)
    buckets.wait(SECOND)
    buckets.execute(SettleTokens(command.id, (0,)))
    assert buckets.level(one(rate)) == (100, 0)


def test_only_the_first_end_of_an_id_counts(buckets: Buckets) -> None:
    rate = Rate(100, 60 * SECOND)
    command = TakeTokens(buckets.new_id(), (one(rate, cost=80),))
    buckets.execute(command)
    buckets.execute(SettleTokens(command.id, (30,)))
    for again in (SettleTokens(command.id, (0,)), SettleTokens(command.id, (99,)), ReturnTokens(command.id)):
        buckets.execute(again)
        assert buckets.level(one(rate))[0] == 70


def test_what_was_used_beyond_is_owed_and_refills_first(buckets: Buckets) -> None:
    take = one(Rate(60, 60 * SECOND), cost=60)
    command = TakeTokens(buckets.new_id(), (take,))
    buckets.execute(command)
    buckets.execute(SettleTokens(command.id, (75,)))
    assert buckets.level(take) == (0, 75 * SECOND)
    refused = buckets.ask(one(take.rate))
    assert isinstance(refused, Shortage)
    assert refused.retry_after_ns == 16 * SECOND
    buckets.wait(16 * SECOND)
    assert isinstance(buckets.ask(one(take.rate)), Taken)


def test_debt_is_one_burst_at_most(buckets: Buckets) -> None:
    """One bad estimate does not lock a tenant out for an hour."""
    take = one(Rate(60, 60 * SECOND), cost=60)
    for _ in range(3):
        command = TakeTokens(buckets.new_id(), (one(take.rate, cost=1),))
        buckets.execute(command)
        buckets.execute(SettleTokens(command.id, (10**9,)))
        assert buckets.level(take) == (0, 120 * SECOND)


def test_an_unused_rest_is_given_back_after_any_time_at_the_limit(buckets: Buckets) -> None:
    """A tenant at its limit with long streams gets what it paid for: estimates of four times the use cost nothing."""
    rate = Rate(100, SECOND)
    stream = TakeTokens(buckets.new_id(), (one(rate, cost=40),))
    buckets.execute(stream)
    for _ in range(50):
        while isinstance(buckets.ask(one(rate, cost=10)), Taken):
            pass
        buckets.wait(SECOND // 10)
    before = buckets.level(one(rate))[0]
    buckets.execute(SettleTokens(stream.id, (10,)))
    assert buckets.level(one(rate))[0] == before + 30


def test_a_rest_that_has_refilled_meanwhile_is_not_given_back_again(buckets: Buckets) -> None:
    rate = Rate(10, SECOND)
    streams = [TakeTokens(buckets.new_id(), (one(rate, cost=10),)) for _ in range(3)]
    for stream in streams:  # each finds a full bucket
        buckets.execute(stream)
        buckets.wait(SECOND)
    assert buckets.admitted(one(rate), 20) == 10
    for stream in streams:
        buckets.execute(SettleTokens(stream.id, (0,)))
    assert buckets.admitted(one(rate), 20) == 0


def test_a_take_without_an_id_is_final(buckets: Buckets) -> None:
    command = TakeTokens(None, (one(Rate(2, SECOND)),))
    answers = [isinstance(buckets.execute(command), Taken) for _ in range(3)]
    assert answers == [True, True, False]


# shadows


def test_what_is_taken_in_place_is_final_and_where_it_cannot_be_nothing_is_taken(buckets: Buckets) -> None:
    take = one(Rate(2, SECOND))
    first = buckets.store.take_in_place((take,))
    if first is None:
        assert buckets.level(take) == (2, 0)
        return
    assert first == Taken(((1, SECOND // 2),))
    assert buckets.ask(take) == Taken(((0, SECOND),))
    assert buckets.store.take_in_place((take,)) == Shortage((0,), SECOND // 2, ((0, SECOND),))


def test_what_is_granted_in_place_ends_once_and_is_known_to_the_store_in_full(buckets: Buckets) -> None:
    take = one(Rate(2, SECOND))
    grant = buckets.store.take_in_place((take,), final=False)
    if grant is None:
        assert buckets.level(take) == (2, 0)
        return
    assert isinstance(grant, TokenGrant)
    assert grant.taken == Taken(((1, SECOND // 2),))
    grant.end(None)
    assert buckets.level(take) == (2, 0)
    assert buckets.admitted(take, 3) == 2
    grant.end(None)
    grant.end((0,))
    assert buckets.level(take)[0] == 0


@pytest.mark.parametrize("costs", [(1, 1), (-1,)])
def test_what_a_grant_cannot_be_settled_with_is_refused_and_it_stays_open(
    buckets: Buckets, costs: tuple[int, ...]
) -> None:
    take = one(Rate(2, SECOND))
    grant = buckets.store.take_in_place((take,), final=False)
    if isinstance(grant, TokenGrant):
        with pytest.raises(LayerError, match="what is settled"):
            grant.end(costs)
        grant.end(None)
    assert buckets.level(take) == (2, 0)


def test_a_shadow_refuses_nothing_and_says_that_it_would(buckets: Buckets) -> None:
    rate = Rate(2, SECOND)
    shadow, free = Take(bucket_key("acme", "dark"), rate, 1, shadow=True), one(Rate(10, SECOND))
    answers = [buckets.ask(shadow, free) for _ in range(4)]
    assert [answer.shadowed for answer in answers] == [(), (), (0,), (0,)]
    assert all(isinstance(answer, Taken) for answer in answers)
    assert buckets.level(free)[0] == 6
    assert buckets.level(shadow) == (0, SECOND)  # what would have been refused takes nothing of it


def test_a_shadow_is_told_beside_a_refusal_and_is_no_reason_for_it(buckets: Buckets) -> None:
    shadow, tight = Take(bucket_key("acme", "dark"), Rate(1, 9 * SECOND), 5, shadow=True), one(Rate(1, SECOND))
    assert isinstance(buckets.ask(shadow, tight), Taken)
    refused = buckets.ask(shadow, tight)
    assert isinstance(refused, Shortage)
    assert (refused.failing, refused.shadowed, refused.retry_after_ns) == ((1,), (0,), SECOND)


def test_what_a_shadow_took_is_returned_with_the_rest(buckets: Buckets) -> None:
    shadow = Take(bucket_key("acme", "dark"), Rate(2, SECOND), 1, shadow=True)
    command = TakeTokens(buckets.new_id(), (shadow,))
    buckets.execute(command)
    buckets.execute(ReturnTokens(command.id))
    assert buckets.level(shadow) == (2, 0)


# against the model


class Model:
    """The meaning of the commands by the pure rule, and the exact history beside it."""

    def __init__(self) -> None:
        self.tats: dict[str, int] = {}
        self.dips: dict[str, tuple[int, Dips]] = {}
        self.taken: dict[bytes, tuple[Taken | Shortage, int, list[Take | None]]] = {}
        self.barred: set[bytes] = set()
        self.forgotten: set[bytes] = set()
        self.history: list[tuple[str, int, list[int]]] = []
        """A bucket, an instant, and the ticks taken then, which settling changes."""
        self.marks: dict[bytes, list[list[int] | None]] = {}

    def take(self, command: TakeTokens, now: int) -> Taken | Shortage:
        taking = command.id
        if taking in self.taken:
            return self.taken[taking][0]
        if taking in self.barred:
            return Shortage((), None, ())
        draws = [
            (take.bucket, self.tats.get(take.bucket, 0), take.rate, take.cost, take.shadow) for take in command.takes
        ]
        drawn = draw_all(draws, now)
        answer: Taken | Shortage
        kept: list[Take | None] = []
        if isinstance(drawn, Overdrawn):
            levels = tuple(self.level(take, now) for take in command.takes)
            answer = Shortage(drawn.failing, drawn.retry_after_ns, levels, drawn.shadowed)
        else:
            ends, shadowed = drawn
            levels = tuple(level(end, take.rate, now) for end, take in zip(ends, command.takes, strict=True))
            answer = Taken(levels, shadowed)
            kept = [None if take.cost == 0 or index in shadowed else take for index, take in enumerate(command.takes)]
            for take, end in zip(kept, ends, strict=True):
                if take is not None:
                    open_takes, dips = self.dips.get(take.bucket, (0, ()))
                    if open_takes:
                        dips = dipped(dips, self.tats.get(take.bucket, 0), now, open_takes)
                    if taking is not None or open_takes:
                        self.dips[take.bucket] = open_takes + (taking is not None), dips
                    self.tats[take.bucket] = end
        marks = [None if take is None else [take.cost * take.rate.unit_ticks] for take in kept]
        self.history += [
            (take.bucket, now, mark) for take, mark in zip(kept, marks, strict=True) if take and mark is not None
        ]
        if taking is not None:
            self.taken[taking], self.marks[taking] = (answer, now, kept), marks
        return answer

    def level(self, take: Take, now: int) -> Level:
        return level(self.tats.get(take.bucket, 0), take.rate, now)

    def end(self, command: ReturnTokens | SettleTokens, now: int) -> None:
        if command.id not in self.taken:
            self.barred.add(command.id)
            return
        self.forgotten.add(command.id)
        _, at, kept = self.taken.pop(command.id)
        costs = command.costs if isinstance(command, SettleTokens) else (0,) * len(kept)
        for index, (take, mark) in enumerate(zip(kept, self.marks.pop(command.id), strict=True)):
            if take is None or mark is None:
                continue
            cost = costs[index] if costs else None
            key, unit = take.bucket, take.rate.unit_ticks
            before = max(self.tats[key], now)
            if cost is not None:
                open_takes, dips = self.dips[key]
                tat, dips = settled(take.cost * unit, cost * unit, at, before, dips, now, take.rate, open_takes)
                self.tats[key], self.dips[key] = tat, (open_takes, dips)
                if cost <= take.cost:
                    mark[0] = cost * unit
                else:
                    self.history.append((key, now, [tat - before]))
        for take in kept:
            if take is not None:
                open_takes, dips = self.dips[take.bucket]
                self.dips[take.bucket] = (open_takes - 1, dips) if open_takes > 1 else (0, ())

    def exact(self, key: str) -> int:
        """The bucket as if nobody had ever taken more than was used."""
        tat = 0
        for bucket, now, need in self.history:
            if bucket == key and need[0]:
                tat = max(tat, now) + need[0]
        return tat


RATES = {"|global": Rate(3, SECOND, 6), "a|tenant": Rate(1, SECOND, 4), "b|tenant": Rate(7, 3 * SECOND)}
IDS = st.integers(1, 20).map(lambda number: number.to_bytes(16, "big"))
TAKES = st.builds(
    lambda key, cost, shadow: Take(key, RATES[key], cost, shadow == 0),
    st.sampled_from(sorted(RATES)),
    st.integers(0, 4),
    st.integers(0, 5),
)
TAKINGS = st.builds(
    TakeTokens, st.one_of(IDS, IDS, IDS, st.none()), st.lists(TAKES, min_size=1, max_size=4).map(tuple)
)
COSTS = st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=4, max_size=4).map(tuple)
SETTLINGS = st.one_of(st.builds(SettleTokens, IDS), st.builds(SettleTokens, IDS, COSTS))
WAITS = st.one_of(st.integers(0, SECOND), st.sampled_from([SECOND // 3, SECOND // 2, SECOND]))
IN_PLACE = st.builds(TakeInPlace, st.lists(TAKES, min_size=1, max_size=4).map(tuple), st.booleans())
GRANT_ENDS = st.tuples(st.integers(0, 3), st.one_of(st.none(), st.just(()), COSTS))
"""Which of the grants that are open ends, counted from the latest, and how."""

STEPS = st.one_of(TAKINGS, TAKINGS, IN_PLACE, GRANT_ENDS, st.builds(ReturnTokens, IDS), SETTLINGS, WAITS)


@settings(max_examples=400)
@given(steps=st.lists(STEPS, min_size=20, max_size=60), name=NAMES)
def test_a_store_answers_as_the_rule_does_and_settling_leaves_what_never_taking_would_have(
    steps: list[TakeTokens | TakeInPlace | ReturnTokens | SettleTokens | tuple[int, Any] | int], name: str
) -> None:
    """Twelve thousand commands and more, with the levels of all buckets after each."""
    buckets = Buckets(name)
    model = Model()
    grants: list[tuple[bytes, TokenGrant]] = []
    for step in steps:
        now = buckets.clock.now_ns * TICKS_PER_NANO
        if isinstance(step, int):
            buckets.wait(step)
        elif isinstance(step, TakeTokens):
            if step.id in model.forgotten:
                continue  # a store may still know it, or not
            assert buckets.execute(step) == model.take(step, now)
        elif isinstance(step, TakeInPlace):
            answer = buckets.store.take_in_place(step.takes, final=step.final)
            if answer is not None:
                taking = None if step.final else buckets.new_id()
                granted = answer.taken if isinstance(answer, TokenGrant) else answer
                assert granted == model.take(TakeTokens(taking, step.takes), now)
                assert isinstance(answer, TokenGrant) == (isinstance(granted, Taken) and not step.final)
                if taking is not None and isinstance(answer, TokenGrant):
                    grants.append((taking, answer))
        elif isinstance(step, tuple):
            back, costs = step
            if back < len(grants):
                taking, grant = grants.pop(-1 - back)
                costs = costs and costs[: len(model.taken[taking][2])]
                grant.end(costs)
                model.end(ReturnTokens(taking) if costs is None else SettleTokens(taking, costs), now)
        else:
            taken = model.taken.get(step.id)
            if isinstance(step, SettleTokens) and step.costs and taken is not None and taken[2]:
                step.costs = step.costs[: len(taken[2])]
            assert buckets.execute(step) is None
            model.end(step, now)
        now = buckets.clock.now_ns * TICKS_PER_NANO
        for key, rate in RATES.items():
            assert buckets.level(Take(key, rate)) == level(model.tats.get(key, 0), rate, now)
            assert max(model.tats.get(key, 0), now) == max(model.exact(key), now)
