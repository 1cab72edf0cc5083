"""The rule of slots against one written as it is told: lists, searched anew for every decision."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenantguard.model.slots import Crowded, Entered, NotEntered, SlotClaim
from tenantguard.rules.slots import Slots

if TYPE_CHECKING:
    from tenantguard.rules.slots import Answer

LEASE = 20
OWNERS = ("a", "b", "c")
WEIGHTS = {"a": 1, "b": 2, "c": 4}
NUMBERS = st.integers(0, 20)


@dataclass
class Ticket:
    id: bytes
    owner: str
    claims: tuple[SlotClaim, ...]
    number: int
    deadline: int
    expires: int
    inside: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(claim.key for claim in self.claims)

    @property
    def line(self) -> tuple[str, ...]:
        return (self.owner, *self.keys)


class Told:
    """What the rule says of itself, word by word. Virtual time is a fraction."""

    def __init__(self) -> None:
        self.now = 0
        self.number = 0
        self.tickets: list[Ticket] = []
        self.limits: dict[str, int] = {}
        self.waits_at: dict[tuple[str, ...], tuple[str, Fraction]] = {}  # of each line: where, and its start tag
        self.virtual: dict[str, Fraction] = {}
        self.finished: dict[tuple[str, str], Fraction] = {}
        self.news: list[tuple[bytes, NotEntered | None]] = []

    def inside(self, key: str) -> int:
        return sum(ticket.inside and key in ticket.keys for ticket in self.tickets)

    def full(self, key: str) -> bool:
        return self.inside(key) >= self.limits[key]

    def first(self, line: tuple[str, ...]) -> Ticket:
        return min((t for t in self.tickets if t.line == line and not t.inside), key=lambda ticket: ticket.number)

    def wait_at(self, line: tuple[str, ...], key: str) -> None:
        tag = max(self.virtual.get(key, Fraction(0)), self.finished.get((key, line[0]), Fraction(0)))
        self.waits_at[line] = (key, tag)

    def serve(self, key: str) -> None:
        while not self.full(key):
            lines = [line for line, (at, _) in self.waits_at.items() if at == key]
            if not lines:
                break
            for line in lines:  # lines of one owner share its tags
                tag = max(self.waits_at[line][1], self.finished.get((key, line[0]), Fraction(0)))
                self.waits_at[line] = (key, tag)
            line = min(lines, key=lambda line: (self.waits_at[line][1], self.first(line).number))
            ticket = self.first(line)
            blocking = next((other for other in ticket.keys if self.full(other)), None)
            if blocking is not None:
                self.wait_at(line, blocking)
                continue
            tag = self.waits_at[line][1]
            self.virtual[key] = tag
            self.finished[key, line[0]] = tag + Fraction(1, WEIGHTS[line[0]])
            ticket.inside = True
            self.news.append((ticket.id, None))
            self.tidy_line(line)
        self.tidy_place(key)

    def tidy_line(self, line: tuple[str, ...]) -> None:
        if not any(t.line == line and not t.inside for t in self.tickets):
            key, _ = self.waits_at.pop(line)
            self.tidy_place(key)

    def tidy_place(self, key: str) -> None:
        if not any(at == key for at, _ in self.waits_at.values()):
            self.virtual.pop(key, None)
            self.finished = {(at, owner): tag for (at, owner), tag in self.finished.items() if at != key}

    def tick(self) -> None:
        for ticket in [t for t in self.tickets if not t.inside and min(t.deadline, t.expires) <= self.now]:
            self.tickets.remove(ticket)
            self.tidy_line(ticket.line)
            waited = ticket.deadline <= self.now
            self.news.append((ticket.id, NotEntered.WAITED if waited else NotEntered.ENDED))
        lapsed = [t for t in self.tickets if t.inside and t.expires <= self.now]
        for ticket in lapsed:
            self.tickets.remove(ticket)
        for ticket in sorted(lapsed, key=lambda t: (t.expires, t.number)):
            for key in ticket.keys:
                self.serve(key)

    def enter(self, asked: bytes, owner: str, claims: tuple[SlotClaim, ...]) -> NotEntered | bool:
        """True: it is inside; False: it waits."""
        self.tick()
        known = next((t for t in self.tickets if t.id == asked), None)
        if known is not None:
            return known.inside
        raised = [claim.key for claim in claims if claim.limit > self.limits.get(claim.key, 0)]
        self.limits |= {claim.key: claim.limit for claim in claims}
        for key in raised:
            self.serve(key)
        waiting = [t for t in self.tickets if not t.inside]
        for claim in claims:
            there = self.inside(claim.key) + sum(claim.key in t.keys for t in waiting)
            if not claim.queue and there >= claim.limit:
                return NotEntered.FULL
        full = [claim for claim in claims if self.full(claim.key)]
        wait = min([claim.wait_ns for claim in claims if claim.queue], default=0)
        self.number += 1
        ticket = Ticket(asked, owner, claims, self.number, self.now + wait, self.now + LEASE, inside=not full)
        if full and wait == 0:
            return NotEntered.FULL
        for claim in full:
            if sum(claim.key in t.keys and t.owner == owner for t in waiting) >= claim.queue:
                return NotEntered.QUEUE_FULL
        self.tickets.append(ticket)
        if full and ticket.line not in self.waits_at:
            self.wait_at(ticket.line, full[0].key)
        return not full

    def leave(self, asked: bytes) -> None:
        self.tick()
        ticket = next((t for t in self.tickets if t.id == asked), None)
        if ticket is None:
            return
        self.tickets.remove(ticket)
        if not ticket.inside:
            self.tidy_line(ticket.line)
            return
        for key in ticket.keys:
            self.serve(key)


class SlotsMachine(RuleBasedStateMachine):
    """Commands of three owners over shared and own places, a clock that jumps, and processes that are lost."""

    @initialize(sizes=st.tuples(st.integers(1, 4), st.integers(1, 3)))
    def begin(self, sizes: tuple[int, int]) -> None:
        self.slots = Slots(lease_ns=LEASE)
        self.told = Told()
        self.numbers = 0
        self.live: list[bytes] = []
        self.limits = {"|g": sizes[0], "|p": 3, **dict.fromkeys((f"{owner}|t" for owner in OWNERS), sizes[1])}

    def compare(self) -> None:
        news = [(asked, answer.reason if isinstance(answer, Crowded) else None) for asked, answer in self.slots.told]
        self.slots.told.clear()
        assert sorted(news, key=str) == sorted(self.told.news, key=str)
        entered = [asked for asked, reason in news if reason is None]
        assert entered == [asked for asked, reason in self.told.news if reason is None]  # in one order
        self.told.news.clear()

    @rule(
        owner=st.sampled_from(OWNERS),
        shape=st.sampled_from(["g", "t", "gt", "gpt", "pt"]),
        queue=st.sampled_from([0, 3, 50, 50, 50]),
        wait=st.sampled_from([0, 4, 40, 40]),
    )
    def enter(self, owner: str, shape: str, queue: int, wait: int) -> None:
        self.numbers += 1
        asked = self.numbers.to_bytes(4, "big")
        keys = [f"|{letter}" if letter != "t" else f"{owner}|t" for letter in shape]
        claims = tuple(SlotClaim(key, self.limits[key], queue, wait if queue else 0, WEIGHTS[owner]) for key in keys)
        self.ask(asked, owner, claims)

    def ask(self, asked: bytes, owner: str, claims: tuple[SlotClaim, ...]) -> None:
        answer: Answer | None = self.slots.enter(asked, owner, claims, None, self.told.now)
        expected = self.told.enter(asked, owner, claims)
        if isinstance(answer, Crowded):
            assert answer.reason is expected
        else:
            assert isinstance(answer, Entered) is expected
            self.live.append(asked)
        self.compare()

    @rule(index=NUMBERS)
    def repeat(self, index: int) -> None:
        if self.told.tickets:
            ticket = self.told.tickets[index % len(self.told.tickets)]
            if min(ticket.expires, ticket.deadline if not ticket.inside else ticket.expires) > self.told.now:
                self.ask(ticket.id, ticket.owner, ticket.claims)

    @rule(index=NUMBERS)
    def leave(self, index: int) -> None:
        if self.live:
            asked = self.live.pop(index % len(self.live))
            self.slots.leave(asked, self.told.now)
            self.told.leave(asked)
            self.compare()

    @rule(index=NUMBERS, key=st.sampled_from(["|g", "|p", "a|t"]), limit=st.integers(1, 6))
    def change(self, index: int, key: str, limit: int) -> None:
        self.limits[key] = limit

    @rule(span=st.integers(0, 12), lost=st.sets(NUMBERS, max_size=4))
    def wait(self, span: int, lost: set[int]) -> None:
        """All but those of processes that were lost are heard of."""
        for index, ticket in enumerate(self.told.tickets):
            if index not in lost and self.slots.renew(ticket.id, self.told.now):
                ticket.expires = self.told.now + LEASE
        self.told.tick()
        self.compare()
        self.told.now += span
        self.slots.tick(self.told.now)
        self.told.tick()
        self.compare()

    @invariant()
    def nobody_waits_where_there_is_room(self) -> None:
        told = getattr(self, "told", None)
        for key, _ in told.waits_at.values() if told is not None else ():
            assert told.full(key)

    @invariant()
    def what_is_kept_is_what_stands_there(self) -> None:
        if hasattr(self, "told"):
            standing = {(each.key, each.id, each.holds) for each in self.slots.standing(self.told.now)}
            assert standing == {(key, t.id, t.inside) for t in self.told.tickets for key in t.keys}
            assert self.slots._places.keys() == {key for key, _, _ in standing}


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
