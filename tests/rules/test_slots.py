"""Slots and queues, by their rule alone."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.slots import Crowded, Entered, NotEntered, SlotClaim, Standing
from tenantguard.rules.slots import BARRED_NS, Slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.rules.slots import Answer

SECOND = 10**9
LONG = 3600 * SECOND


class Room:
    """Slots with a clock, asked with short names."""

    def __init__(self, *, lease_ns: int | None = None, waiting_max: int = 100_000) -> None:
        self.slots = Slots(lease_ns=lease_ns, waiting_max=waiting_max)
        self.now = 10 * SECOND
        self.answers: dict[str, Answer] = {}
        self.entered: list[str] = []
        self._ids = count(1)

    def enter(self, name: str, *claims: SlotClaim, owner: str = "acme", deadline: int | None = None) -> Answer | None:
        answer = self.slots.enter(name.encode(), owner, claims, deadline, self.now)
        self._take_told()
        if answer is not None:
            self._keep(name, answer)
        return answer

    def leave(self, name: str) -> list[str]:
        """Who came in by that."""
        before = len(self.entered)
        self.slots.leave(name.encode(), self.now)
        self._take_told()
        return self.entered[before:]

    def wait(self, nanos: int) -> list[str]:
        """Who came in by that."""
        before = len(self.entered)
        self.now += nanos
        self.slots.tick(self.now)
        self._take_told()
        return self.entered[before:]

    def reason(self, name: str) -> NotEntered | None:
        answer = self.answers.get(name)
        return answer.reason if isinstance(answer, Crowded) else None

    @property
    def standing(self) -> list[Standing]:
        return self.slots.standing(self.now)

    def _take_told(self) -> None:
        for name, answer in self.slots.told:
            self._keep(name.decode(), answer)
        self.slots.told.clear()

    def _keep(self, name: str, answer: Answer) -> None:
        if isinstance(answer, Entered) and not isinstance(self.answers.get(name), Entered):
            self.entered.append(name)
        self.answers[name] = answer


def tenant(limit: int = 1, queue: int = 100_000, wait: int = LONG, key: str = "acme", weight: int = 1) -> SlotClaim:
    return SlotClaim(key, limit, queue, wait if queue else 0, weight)


def everybody(limit: int, weight: int = 1, queue: int = 100_000) -> SlotClaim:
    return SlotClaim("", limit, queue, LONG, weight)


def named(prefix: str, number: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(number)]


# one place


def test_as_many_are_inside_as_there_are_slots_and_further_ones_are_refused() -> None:
    """A-3, A-17."""
    room = Room()
    answers = [room.enter(name, tenant(2, queue=0)) for name in named("r", 3)]
    assert answers == [Entered(1), Entered(2), Crowded(NotEntered.FULL, (0,))]
    assert room.leave("r0") == []
    assert room.enter("r3", tenant(2, queue=0)) == Entered(3)


def test_the_first_passes_at_once_and_is_seen_inside() -> None:
    """A-15, A-19: before it there is nobody, and no queue."""
    room = Room()
    assert (room.standing, room.slots.waiting) == ([], 0)
    assert room.enter("r0", tenant()) == Entered(1)
    assert [(each.id, each.key, each.holds) for each in room.standing] == [(b"r0", "acme", True)]
    assert room.slots.waiting == 0


def test_whoever_waits_enters_in_the_order_of_coming() -> None:
    """A-16, A-20, A-21, A-23: a leaving reports who is next, and lets it in."""
    room = Room()
    assert room.enter("r0", tenant()) == Entered(1)
    assert [room.enter(name, tenant()) for name in ("r1", "r2", "r3")] == [None] * 3
    assert [room.leave(name) for name in named("r", 4)] == [["r1"], ["r2"], ["r3"], []]


@pytest.mark.parametrize("number", [100, 1000, 10_000])
def test_a_long_queue_leaves_in_order(number: int) -> None:
    """A-22, A-30: whatever the number of slots, and however fast each is."""
    room = Room()
    names = named("r", number)
    for name in names:
        room.enter(name, tenant(5))
    inside = list(names[:5])
    for turn in range(number):
        room.leave(inside.pop((turn * 7) % len(inside)))
        inside += room.entered[turn + 5 : turn + 6]
    assert room.entered == names
    assert len(room.slots) == 0


def test_those_that_leave_the_queue_do_not_hold_up_the_others() -> None:
    """A-27, A-30: cancelling positions 2, 5 and 8 of ten leaves seven."""
    room = Room()
    for name in named("r", 11):
        room.enter(name, tenant())
    for gone in ("r2", "r5", "r8", "r1"):
        assert room.leave(gone) == []
    for name in ("r0", "r3", "r4", "r6", "r7", "r9", "r10"):
        assert room.entered[-1] == name
        room.leave(name)
    assert room.standing == []


def test_nobody_passes_who_waits() -> None:
    """A-26: what came free is the first one's, who need not ask again; whoever comes now waits behind."""
    room = Room()
    for name in ("r0", "r1", "r2"):
        room.enter(name, tenant())
    room.leave("r0")
    assert room.enter("late", tenant()) is None
    assert room.entered == ["r0", "r1"]
    assert [room.leave("r1"), room.leave("r2")] == [["r2"], ["late"]]


def test_one_id_has_one_place_however_often_it_asks() -> None:
    """S-69, A+4."""
    room = Room()
    assert [room.enter("r0", tenant(2)) for _ in range(5)] == [Entered(1)] * 5
    room.enter("r1", tenant(2))
    assert [room.enter("r2", tenant(2)) for _ in range(3)] == [None] * 3
    room.enter("r3", tenant(2))
    assert room.leave("r0") == ["r2"]
    assert room.enter("r2", tenant(2)) == Entered(3)
    room.leave("r2")
    room.leave("r2")
    assert room.entered == ["r0", "r1", "r2", "r3"]


def test_a_full_queue_takes_no_more() -> None:
    """A-29."""
    room = Room()
    room.enter("r0", tenant(queue=2))
    room.wait(6 * SECOND)
    assert [room.enter(name, tenant(queue=2)) for name in ("r1", "r2")] == [None, None]
    assert room.enter("r3", tenant(queue=2)) == Crowded(NotEntered.QUEUE_FULL, (0,), 18 * SECOND)
    room.leave("r1")
    assert room.enter("r4", tenant(queue=2)) is None


def test_one_owner_cannot_fill_the_queue_of_all() -> None:
    room = Room()
    room.enter("r0", everybody(1, queue=2))
    answers = [room.enter(name, everybody(1, queue=2)) for name in ("r1", "r2", "r3")]
    assert [isinstance(answer, Crowded) for answer in answers] == [False, False, True]
    assert room.enter("other", everybody(1, queue=2), owner="globex") is None


def test_no_more_wait_in_all_than_a_store_has_room_for() -> None:
    room = Room(waiting_max=3)
    for number in range(5):
        room.enter(f"in{number}", tenant(key=f"t{number}"))
        room.enter(f"w{number}", tenant(key=f"t{number}"))
    assert [room.reason(f"w{number}") for number in range(5)] == [None] * 3 + [NotEntered.QUEUE_FULL] * 2
    assert room.slots.waiting == 3


def test_who_waits_too_long_is_told_so_and_gives_its_place_up() -> None:
    """A-18."""
    room = Room()
    room.enter("r0", tenant(wait=SECOND))
    room.enter("r1", tenant(wait=SECOND))
    room.wait(SECOND // 2)
    room.enter("r2", tenant(wait=SECOND))
    room.wait(SECOND // 2 - 1)
    assert room.reason("r1") is None
    room.wait(1)
    assert room.reason("r1") is NotEntered.WAITED
    assert room.leave("r0") == ["r2"]


def test_a_wait_of_nothing_is_one_attempt() -> None:
    """A+9."""
    room = Room()
    assert room.enter("r0", tenant(wait=0)) == Entered(1)
    assert room.enter("r1", tenant(wait=0)) == Crowded(NotEntered.FULL, (0,))


def test_nobody_gets_a_slot_after_its_deadline() -> None:
    room = Room()
    for name in ("r0", "r1", "r2"):
        room.enter(name, tenant(wait=SECOND if name == "r1" else LONG))
    room.now += 2 * SECOND
    assert room.leave("r0") == ["r2"]
    assert room.reason("r1") is NotEntered.WAITED


# limits that change


def test_a_lower_limit_counts_as_slots_come_free() -> None:
    """A+2."""
    room = Room()
    for name in named("r", 4):
        room.enter(name, tenant(4))
    room.enter("r4", tenant(2))
    assert [room.leave(name) for name in ("r0", "r1")] == [[], []]
    assert room.leave("r2") == ["r4"]


def test_a_higher_limit_lets_those_in_who_wait_and_then_the_one_who_brought_it() -> None:
    """A+2."""
    room = Room()
    for name in named("r", 4):
        room.enter(name, tenant(1))
    assert room.enter("r4", tenant(4)) is None
    assert room.entered == named("r", 4)
    assert room.enter("r5", tenant(6)) == Entered(6)
    assert room.entered == named("r", 6)


# several places


def test_owners_and_groups_do_not_affect_each_other() -> None:
    """A-24, A-25."""
    room = Room()
    for key in ("a", "b", "c"):
        for name in named(key, 3):
            room.enter(name, tenant(2, key=key), owner=key)
    assert room.leave("a0") == ["a2"]
    holding = [(each.key, each.holds) for each in room.standing]
    assert holding == [("a", True)] * 2 + [("b", True)] * 2 + [("b", False)] + [("c", True)] * 2 + [("c", False)]


def test_several_slots_are_taken_together_or_not_at_all() -> None:
    room = Room()
    room.enter("r0", everybody(2), tenant(1))
    assert room.enter("r1", everybody(2), tenant(1)) is None
    assert room.enter("other", everybody(2), owner="globex") == Entered(2)  # r1 waits, and keeps nothing from others
    assert room.enter("next", everybody(2), owner="globex") is None
    room.leave("other")
    assert room.entered == ["r0", "other", "next"]
    assert room.leave("r0") == ["r1"]


def test_who_waits_for_two_places_enters_when_both_have_room() -> None:
    room = Room()
    room.enter("wide", everybody(1), owner="globex")
    room.enter("narrow", tenant(1))
    room.enter("both", everybody(1), tenant(1))
    assert room.leave("wide") == []
    assert room.leave("narrow") == ["both"]
    room.enter("next", everybody(1), owner="globex")
    assert room.leave("both") == ["next"]


def test_whoever_waits_elsewhere_is_as_good_as_inside_where_nobody_may_wait() -> None:
    """Else it would find that place full when its turn comes."""
    room = Room()
    room.enter("other", everybody(1), owner="globex")
    assert [room.enter(name, everybody(1), tenant(2, queue=0)) for name in ("r0", "r1")] == [None, None]
    assert room.enter("r2", everybody(1), tenant(2, queue=0)) == Crowded(NotEntered.FULL, (1,))
    assert room.leave("other") == ["r0"]
    assert room.leave("r0") == ["r1"]


# taking turns


def turns(room: Room, owners: Sequence[str], number: int, limit: int = 1) -> list[str]:
    """The owners of as many as enter while all leave in the order in which they came."""
    assert room.entered
    served = len(room.entered)
    for name in room.entered[-limit:]:
        room.leave(name)
    while len(room.entered) < served + number:
        room.leave(room.entered[-1])
    return [name[0] for name in room.entered[served : served + number]]


def test_owners_take_turns_however_many_each_has_waiting() -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for name in named("a", 100):
        room.enter(name, everybody(1), owner="a")
    for name in (*named("b", 5), *named("c", 5)):
        room.enter(name, everybody(1), owner=name[0])
    assert "".join(turns(room, "abc", 18)) == "abc" * 5 + "aaa"


def test_turns_are_in_proportion_to_weights() -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for name in (*named("a", 100), *named("b", 100)):
        room.enter(name, everybody(1, weight=3 if name[0] == "a" else 1), owner=name[0])
    order = turns(room, "ab", 80)
    for start in range(0, 80, 8):
        assert order[start : start + 8].count("a") == 6


def test_who_was_away_has_saved_nothing_up() -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for name in named("a", 50):
        room.enter(name, everybody(1), owner="a")
    turns(room, "a", 30)
    for name in named("b", 10):
        room.enter(name, everybody(1), owner="b")
    order = turns(room, "ab", 10)
    assert 4 <= order.count("b") <= 6


def test_more_routes_are_not_more_turns() -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for number in range(60):
        room.enter(f"a{number}", everybody(1), tenant(9, key=f"a|{number % 3}"), owner="a")
        room.enter(f"b{number}", everybody(1), tenant(9, key="b"), owner="b")
    order = turns(room, "ab", 60)
    assert order.count("a") == order.count("b") == 30
    assert [name for name in room.entered if name[0] == "a"] == named("a", 30)


def test_among_equals_the_one_that_has_waited_longest_is_next_though_others_left_before_it() -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for name in ("a0", "b0", "a1"):
        room.enter(name, everybody(1), owner=name[0])
    room.leave("a0")
    assert room.leave("x") == ["b0"]


@pytest.mark.parametrize("last_leaves", [False, True])
def test_turns_are_forgotten_once_nobody_waits(*, last_leaves: bool) -> None:
    room = Room()
    room.enter("x", everybody(1), owner="x")
    for name in named("a", 5):
        room.enter(name, everybody(1), owner="a")
    turns(room, "a", 4 if last_leaves else 5)
    if last_leaves:
        room.leave("a4")
    for name in ("a5", "b0"):
        room.enter(name, everybody(1), owner=name[0])
    assert room.leave(room.entered[-1]) == ["a5"]


def test_who_is_held_up_by_its_own_limit_saves_nothing_up_meanwhile() -> None:
    room = Room()
    room.enter("own", tenant(1, key="a"), owner="a")
    room.enter("x", everybody(1), owner="x")
    for name in named("a", 20):
        room.enter(name, everybody(1), tenant(1, key="a"), owner="a")
    for name in (*named("b", 40), *named("c", 40)):
        room.enter(name, everybody(1), owner=name[0])
    assert set(turns(room, "bc", 20)) == {"b", "c"}
    room.leave("own")
    order = turns(room, "abc", 12)
    assert 3 <= order.count("a") <= 5


# deadlines and guesses


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    room = Room()
    room.enter("r0", tenant(2))
    room.enter("r1", tenant(2))
    room.wait(4 * SECOND)
    assert room.enter("no time", tenant(2), deadline=0) == Crowded(NotEntered.DEADLINE, (0,), 2 * SECOND)
    assert room.enter("too little", tenant(2), deadline=2 * SECOND - 1) == Crowded(
        NotEntered.DEADLINE, (0,), 2 * SECOND
    )
    assert room.enter("enough", tenant(2), deadline=2 * SECOND) is None
    assert room.enter("behind it", tenant(2), deadline=3 * SECOND) == Crowded(NotEntered.DEADLINE, (0,), 4 * SECOND)
    room.wait(2 * SECOND)
    assert room.reason("enough") is NotEntered.WAITED


def test_a_deadline_does_not_matter_where_there_is_room() -> None:
    assert Room().enter("r0", tenant(), deadline=0) == Entered(1)


# leases


def test_who_is_not_heard_of_for_a_lease_loses_its_slots() -> None:
    """A+5."""
    room = Room(lease_ns=SECOND)
    for name in ("r0", "r1"):
        room.enter(name, tenant())
    room.wait(SECOND - 1)
    assert room.slots.renew(b"r1", room.now)
    assert room.wait(1) == ["r1"]
    assert not room.slots.renew(b"r0", room.now)
    assert room.leave("r0") == []  # too late: it is another's now
    assert [each.id for each in room.standing] == [b"r1"]
    assert room.enter("r2", tenant()) is None


def test_a_renewed_slot_stays() -> None:
    room = Room(lease_ns=SECOND)
    room.enter("r0", tenant())
    for _ in range(10):
        room.wait(SECOND - 1)
        assert room.slots.renew(b"r0", room.now)
    assert len(room.slots) == 1
    room.wait(SECOND)
    assert len(room.slots) == 0


def test_who_waits_and_is_not_heard_of_is_no_longer_in_the_queue() -> None:
    room = Room(lease_ns=SECOND)
    for name in ("r0", "r1", "r2"):
        room.enter(name, tenant())
    room.wait(SECOND - 1)
    room.slots.renew(b"r0", room.now)
    room.slots.renew(b"r2", room.now)
    room.wait(1)
    assert room.reason("r1") is NotEntered.ENDED
    assert room.leave("r0") == ["r2"]


def test_fences_grow() -> None:
    room = Room()
    room.enter("r0", tenant())
    room.enter("r1", tenant())
    room.wait(7)
    room.leave("r0")
    assert (room.answers["r0"], room.answers["r1"]) == (Entered(1), Entered(2, 7))


# ids


def test_an_id_that_ended_before_it_was_seen_cannot_enter() -> None:
    room = Room()
    room.leave("r0")
    room.now += BARRED_NS - 1
    room.leave("r1")
    assert room.enter("r0", tenant()) == Crowded(NotEntered.ENDED, ())
    assert room.standing == []
    for _ in range(2):
        room.now += BARRED_NS
        room.leave("another")
    assert room.enter("r0", tenant()) == Entered(1)


def test_nothing_is_kept_of_what_is_over() -> None:
    """A-28: and nothing is there before the first."""
    room = Room()
    assert room.standing == []
    for number in range(2000):
        owner = f"t{number}"
        room.enter(f"{owner} in", everybody(1), tenant(key=owner), owner=owner)
        room.enter(f"{owner} waits", everybody(1), tenant(key=owner, wait=1), owner=owner)
        room.enter(f"{owner} refused", everybody(1), tenant(key=owner, queue=0), owner=owner)
        room.wait(1)
        for kept in (room.slots._alarms, room.slots._places[""].heap, room.slots._places):
            assert len(kept) <= 2 * len(room.slots) + 65
        if number % 50:
            room.leave(f"{owner} in")
    for each in room.standing:
        room.leave(each.id.decode())
    slots = room.slots
    assert [len(slots._places), len(slots._lines), len(slots), slots.waiting] == [0, 0, 0, 0]


@given(st.lists(st.integers(-5, 5), max_size=30))
def test_a_clock_that_goes_back_stands_still(jumps: list[int]) -> None:
    """E+4."""
    room = Room(lease_ns=10)
    room.enter("r0", tenant(wait=8))
    latest = room.now
    for jump in jumps:
        room.wait(jump)
        latest = max(latest, room.now)
    assert bool(room.slots) == (latest < 10 * SECOND + 10)


def test_what_another_store_let_in_is_inside_beyond_the_limit() -> None:
    room = Room()
    one = SlotClaim("acme|t", 1, 9, LONG)
    room.enter("first", one)
    room.slots.hold(b"second", "acme", (one,), room.now - SECOND, 40, room.now)
    room.slots.hold(b"second", "acme", (one,), room.now, 40, room.now)
    standing = [(each.id, each.for_ns) for each in room.slots.standing(room.now)]
    assert standing == [(b"second", SECOND), (b"first", 0)]
    room.enter("third", one)
    assert room.leave("first") == []
    assert room.leave("second") == ["third"]
    third = room.answers["third"]
    assert isinstance(third, Entered)
    assert third.fence == 41
    room.leave("third")
    assert room.slots.standing(room.now) == []


def test_what_has_ended_is_not_held_again() -> None:
    room = Room(lease_ns=10)
    one = SlotClaim("acme|t", 1)
    room.leave("gone")
    room.slots.hold(b"gone", "acme", (one,), room.now, 1, room.now)
    assert len(room.slots) == 0
    room.slots.hold(b"lost", "acme", (one,), room.now, 1, room.now)
    assert len(room.slots) == 1
    room.wait(10)
    assert len(room.slots) == 0
