"""What every slot store answers: the same as the pure rule, command by command."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.errors import LayerError, PortError
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, NotEntered, SlotClaim
from tenantguard.rules.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.ports import SlotStore
    from tenantguard.rules.slots import Answer

SECOND = 10**9
MICRO = 1000
"""Stores may count time in these."""


class Clock:
    def __init__(self, now_ns: int = 10 * SECOND) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


LEASE_S = 3600


def redis_slots(clock: Clock, server: Any) -> RedisSlots:
    server.flush()
    return RedisSlots(server.uri, test_clock=clock, lease_s=LEASE_S, deadline_ms=2000)


STORES: dict[str, tuple[Callable[[Clock, Any], SlotStore], int | None]] = {
    "memory": (lambda clock, server: MemorySlots(clock), None),
    "redis": (redis_slots, LEASE_S * SECOND),
}
"""Each from a clock and a server, with its lease; one that is its own clock is told the time of this one in tests."""


class Room:
    """One store with a clock, and what each id was answered so far.

    A guess of a store is its own, and so is how its fences grow: here they are 1, 2, 3.
    """

    def __init__(self, name: str, server: Any) -> None:
        make, self.lease_ns = STORES[name]
        self.clock = Clock()
        self.store = make(self.clock, server)
        self.pending: dict[bytes, Promise[Any]] = {}
        self.given: dict[bytes, Answer] = {}
        self._fences: list[int] = []
        self._ids = count(1)

    @property
    def answers(self) -> dict[bytes, Answer]:
        """Those so far."""
        return {
            asked: replace(answer, fence=self._fences.index(answer.fence) + 1)
            if isinstance(answer, Entered)
            else replace(answer, retry_after_ns=None)
            for asked, answer in self.given.items()
        }

    def new_id(self) -> bytes:
        return next(self._ids).to_bytes(16, "big")

    def enter(self, *claims: SlotClaim, owner: str = "acme", entering: bytes | None = None, **terms: Any) -> bytes:
        entering = entering if entering is not None else self.new_id()
        answer = self.store.execute(EnterSlot(entering, owner, claims, **terms))
        if isinstance(answer, Promise) and not answer.patient:
            assert answer.wait(10)
            answer = answer.result()
        self.gather()  # what was told of this id before it was decided anew
        self._keep(entering, answer)
        return entering

    def leave(self, entered: bytes) -> None:
        assert self.store.execute(LeaveSlot(entered)) is None
        self.store.standing()  # asked last, answered last
        self.gather()

    def gather(self) -> None:
        """Take the answers that promises have meanwhile."""
        for waiter, promise in list(self.pending.items()):
            if promise.wait(0):
                del self.pending[waiter]
                self._keep(waiter, promise.result())

    def _keep(self, asked: bytes, answer: Answer | Promise[Any]) -> None:
        if isinstance(answer, Promise):
            self.pending[asked] = answer
            if answer.wait(0):
                del self.pending[asked]
                self._keep(asked, answer.result())
            return
        self.given[asked] = answer
        if isinstance(answer, Entered) and answer.fence not in self._fences:
            self._fences = sorted([*self._fences, answer.fence])


@pytest.fixture(params=sorted(STORES))
def room(request: pytest.FixtureRequest, redis: Any) -> Iterator[Room]:
    found = Room(request.param, redis)
    yield found
    found.store.close()


def claim(
    limit: int = 1, queue: int = 100, wait_ns: int = 60 * SECOND, key: str = "acme|t", weight: int = 1
) -> SlotClaim:
    return SlotClaim(key, limit, queue, wait_ns, weight)


def test_a_slot_is_handed_over_to_who_waits(room: Room) -> None:
    first, second = room.enter(claim()), room.enter(claim())
    assert room.answers == {first: Entered(1)}
    assert room.pending.keys() == {second}
    room.clock.now_ns += SECOND
    room.leave(first)
    assert room.answers[second] == Entered(2, SECOND)


def test_a_promise_lasts_as_long_as_the_wait(room: Room) -> None:
    room.enter(claim())
    waits = room.pending[room.enter(claim(wait_ns=5 * SECOND))]
    assert waits.port == "slots"
    assert waits.patient
    assert waits.deadline_s == 5.0
    assert room.pending[room.enter(claim(), deadline_ns=3 * SECOND)].deadline_s == 3.0


def test_two_waits_under_one_id_are_one(room: Room) -> None:
    """A+4."""
    first, second = room.enter(claim()), room.enter(claim())
    promise = room.pending[second]
    room.enter(claim(), entering=second)
    assert len(room.store.standing()) == 2
    room.leave(first)
    assert promise.result() == room.given[second]
    assert room.answers[second] == Entered(2)


def test_who_waits_under_an_id_that_another_ends_is_told(room: Room) -> None:
    room.enter(claim())
    waits = room.enter(claim())
    room.leave(waits)
    assert room.answers[waits] == Crowded(NotEntered.ENDED, ())


def test_who_asks_again_after_its_time_has_passed_waits_anew(room: Room) -> None:
    room.enter(claim())
    waits = room.enter(claim(wait_ns=SECOND))
    early = room.pending[waits]
    room.clock.now_ns += SECOND
    room.enter(claim(wait_ns=SECOND), entering=waits)
    assert early.result().reason is NotEntered.WAITED
    assert room.pending[waits] is not early


def test_an_id_that_ended_first_cannot_enter(room: Room) -> None:
    late = room.new_id()
    room.leave(late)
    room.enter(claim(), entering=late)
    assert room.answers[late] == Crowded(NotEntered.ENDED, ())
    assert room.store.standing() == []


def test_two_claims_for_one_key_are_a_mistake(room: Room) -> None:
    with pytest.raises(LayerError, match="each key once"):
        room.enter(claim(1), claim(2))
    assert room.store.standing() == []


def test_whoever_stands_there_is_shown_with_the_time(room: Room) -> None:
    inside = room.enter(claim())
    room.clock.now_ns += SECOND
    waits = room.enter(claim(), claim(9, key="acme|u"), owner="globex")
    room.enter(claim(key="other|t"))
    room.clock.now_ns += SECOND
    seen = [(each.key, each.owner, each.id, each.holds, each.for_ns) for each in room.store.standing("acme|")]
    assert seen == [
        ("acme|t", "acme", inside, True, 2 * SECOND),
        ("acme|t", "globex", waits, False, SECOND),
        ("acme|u", "globex", waits, False, SECOND),
    ]


def test_closing_refuses_who_waits_and_keeps_who_is_inside(room: Room) -> None:
    inside = room.enter(claim())
    promise = room.pending[room.enter(claim())]
    room.store.close()
    with pytest.raises(PortError, match="closed"):
        promise.result()
    room.pending.clear()
    assert [each.id for each in room.store.standing()] == [inside]
    again = room.enter(claim())
    room.leave(inside)
    assert isinstance(room.answers[again], Entered)


OWNERS = ("a", "b", "c")
TENANTS = {owner: f"{owner}|tenant" for owner in OWNERS}


@st.composite
def claims_of(draw: st.DrawFn, owner: str) -> tuple[SlotClaim, ...]:
    keys = draw(st.sampled_from([("|g",), (TENANTS[owner],), ("|g", TENANTS[owner]), ("|g", "|p", TENANTS[owner])]))
    return tuple(
        [
            SlotClaim(
                key,
                draw(st.integers(1, 3)) if draw(st.integers(0, 9)) == 0 else 2,
                queue := draw(st.sampled_from([0, 2, 9, 9, 9])),
                draw(st.integers(0, 8)) * MICRO if queue else 0,
                {"a": 1, "b": 2, "c": 5}[owner],
            )
            for key in keys
        ]
    )


@st.composite
def commands(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(1, 60))):
        kind = draw(st.sampled_from(["enter", "enter", "enter", "leave", "leave", "wait"]))
        number = draw(st.integers(0, 25))
        if kind == "enter":
            owner = draw(st.sampled_from(OWNERS))
            deadline = draw(st.one_of(st.none(), st.none(), st.integers(-1, 6).map(lambda micros: micros * MICRO)))
            found.append((kind, number, owner, draw(claims_of(owner)), deadline))
        elif kind == "leave":
            found.append((kind, number))
        else:
            found.append((kind, draw(st.integers(-3, 5)) * MICRO))
    return found


@pytest.mark.parametrize("name", sorted(STORES))
def test_every_store_answers_as_the_rule(name: str, redis: Any) -> None:
    """About 10 000 commands in memory; over Redis fewer, and the rest by the script's own tests."""

    @given(commands())
    @settings(max_examples=400 if name == "memory" else 80, deadline=None)
    def every_sequence(listed: list[tuple[Any, ...]]) -> None:
        room = Room(name, redis)
        try:
            follow(room, listed)
        finally:
            room.store.close()

    every_sequence()


def follow(room: Room, listed: list[tuple[Any, ...]]) -> None:
    rule = Slots(lease_ns=room.lease_ns)
    expected: dict[bytes, Answer] = {}
    owners: dict[int, tuple[str, tuple[SlotClaim, ...]]] = {}

    def keep(asked: bytes, answer: Answer) -> None:
        expected[asked] = replace(answer, retry_after_ns=None) if isinstance(answer, Crowded) else answer

    for command in listed:
        if command[0] == "wait":
            room.clock.now_ns += command[1]
            continue
        asked = int(command[1]).to_bytes(16, "big")
        now = room.clock.now_ns
        if command[0] == "leave":
            waits = any(each.id == asked and not each.holds for each in rule.standing(now))
            rule.leave(asked, now)
            if waits and asked not in [told for told, _ in rule.told]:
                keep(asked, Crowded(NotEntered.ENDED, ()))
            room.leave(asked)
            told = [answer for waiter, answer in rule.told if waiter == asked]
            if told and room.given[asked] == Crowded(NotEntered.ENDED, ()):  # it left when its time had passed
                room.given[asked] = told[0]
        else:
            owner, claims = owners.setdefault(command[1], command[2:4])  # an id asks for the same again
            answer = rule.enter(asked, owner, claims, command[4], now)
            for waiter, told in rule.told:  # before it was decided itself
                keep(waiter, told)
            rule.told.clear()
            if answer is not None:
                keep(asked, answer)
            room.enter(*claims, owner=owner, entering=asked, deadline_ns=command[4])
        for waiter, told in rule.told:
            keep(waiter, told)
        rule.told.clear()
        assert room.answers == expected
        assert room.store.standing() == rule.standing(now)
