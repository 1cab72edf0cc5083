"""The pure rule against a slow and obvious model: every command, in any order, over the edges of many windows.

The model keeps what happened, as a list of holds and one of bookings, and adds it up again for every question. It
counts windows one by one where the rule divides, and knows neither running sums nor states beyond their names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenantguard.errors import LayerError
from tenantguard.model.ledger import (
    PLAIN,
    UNITS_MAX,
    Barred,
    Booked,
    CarryOver,
    Claim,
    Conflict,
    Counted,
    Exhausted,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    Repeated,
    Resolved,
    Terms,
    Threshold,
    Unbookable,
)
from tenantguard.model.period import Period
from tenantguard.rules.ledger import Books
from tenantguard.rules.windows import window
from tests.rules.ledger.scenes import DAY, HOUR, conserved, picture

P, S, V, E, R = HoldState.PENDING, HoldState.SETTLED, HoldState.VOIDED, HoldState.EXPIRED, HoldState.REVIEW
START = 1_761_300_000 * 10**9  # 24 October 2025: clocks change in Berlin on the 26th, in Havana on 2 November
CLAIM_LASTS = 7 * DAY
UNUSED = Terms(carry=CarryOver.UNUSED, cap=150, thresholds=(Threshold(50), Threshold(80, Counted.COMMITTED)))
SOFT_DEBT = Terms(strict=False, carry=CarryOver.DEBT, thresholds=(Threshold(50), Threshold(150)))
DEBT = Terms(carry=CarryOver.DEBT, thresholds=(Threshold(100, Counted.COMMITTED),))
WATCHED = Terms(thresholds=(Threshold(50), Threshold(100, Counted.COMMITTED), Threshold(100)))
LINES = {
    "for ever": Period.LIFETIME,
    "by day": Period.parse("day in America/Havana"),
    "by hour": Period.HOUR,
    "rolling": Period.parse("rolling 24 hours / 4 buckets"),
    "by month": Period.parse("month from day 15 in Europe/Berlin"),
    "by week": Period.parse("week from sunday"),
}
ROLLS = {"rolling": (6 * HOUR, 4)}
"""The length of a sub-bucket, and how many before the current one count."""

Place = tuple[str, "int | None"]
"""A line and the start of its window."""


@dataclass
class Happened:
    """A hold as the model knows it: what was held and charged and given back at which place."""

    at: list[tuple[Place, int]]
    on_orphan: OnOrphan = OnOrphan.VOID
    state: HoldState = P
    charged: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.state in {P, R}


@lru_cache(maxsize=100_000)
def ends(line: str, at: int) -> int | None:
    return window(LINES[line], at)[1]


def recorded(limit: int | None) -> int | None:
    return None if limit is None else min(max(limit, 0), UNITS_MAX)


@dataclass
class Model:
    """What must be true, computed the slow and obvious way."""

    holds: dict[bytes, Happened] = field(default_factory=dict)
    corrections: list[tuple[Place, int]] = field(default_factory=list)
    grants: list[tuple[Place, int, int | None]] = field(default_factory=list)
    booked: dict[bytes, Booked] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[bytes, bytes, int]] = field(default_factory=dict)
    answers: dict[tuple[str, str], bytes] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    limits: dict[Place, int | None] = field(default_factory=dict)
    terms: dict[Place, Terms] = field(default_factory=dict)
    carried: dict[Place, int] = field(default_factory=dict)
    tenants: dict[Place, set[str]] = field(default_factory=dict)
    told: dict[Place, set[str]] = field(default_factory=dict)
    alerts: list[tuple[Place, str]] = field(default_factory=list)
    entries: list[tuple[bytes, int, str, int, int]] = field(default_factory=list)

    # sums

    def spent(self, place: Place) -> int:
        charges = sum(
            charged - back
            for hold in self.holds.values()
            for (at, _), charged, back in zip(hold.at, hold.charged, hold.back, strict=False)
            if at == place
        )
        return charges + sum(amount for at, amount in self.corrections if at == place)

    def held(self, place: Place) -> int:
        return sum(amount for hold in self.holds.values() if hold.is_open for at, amount in hold.at if at == place)

    def used(self, place: Place) -> int:
        return self.spent(place) + self.held(place)

    def granted(self, place: Place, now: int) -> int:
        return sum(amount for at, amount, until in self.grants if at == place and (until is None or now < until))

    def counting(self, place: Place, now: int) -> list[Place]:
        """The places that count beside this one now, and it."""
        line, _ = place
        if line not in ROLLS:
            return [place]
        length, before = ROLLS[line]
        starts = [now - now % length - number * length for number in range(before + 1)]
        return [place] + [
            (line, start) for start in starts if (line, start) != place and (line, start) in self.limits
        ]

    def ceiling(self, place: Place, limit: int | None, carried: int, now: int) -> int:
        if limit is None:
            return UNITS_MAX
        granted = sum(self.granted(each, now) for each in self.counting(place, now))
        return min(max(limit + carried + granted, 0), UNITS_MAX)

    def room(self, place: Place, limit: int | None, terms: Terms, carried: int, now: int) -> int:
        most = self.ceiling(place, limit, carried, now) if terms.strict else UNITS_MAX
        return max(most - sum(self.used(each) for each in self.counting(place, now)), 0)

    def inherited(self, place: Place, limit: int | None, terms: Terms) -> int:
        """Go through every window from the one that was touched last."""
        line, start = place
        earlier = [
            at for name, at in self.limits if name == line and at is not None and start is not None and at < start
        ]
        if not earlier or terms.carry is CarryOver.NONE:
            return 0
        last = max(earlier)
        end, of_last = ends(line, last), self.limits[line, last]
        if of_last is None or end is None or start is None:
            return 0

        def kept(left: int) -> int:
            return min(max(left, 0), terms.cap) if terms.carry is CarryOver.UNUSED else max(min(left, 0), -UNITS_MAX)

        granted = self.granted((line, last), end - 1)
        if terms.carry is CarryOver.DEBT:
            granted = sum(amount for at, amount, _ in self.grants if at == (line, last))
        carried = kept(of_last + self.carried[line, last] + granted - self.used((line, last)))
        while end is not None and end < start:
            if limit is not None:
                carried = kept(max(limit, 0) + carried)
            end = ends(line, end)
        return carried

    # commands

    def touch(self, place: Place, tenant: str, limit: int | None, terms: Terms) -> None:
        if place not in self.limits:
            self.limits[place] = recorded(limit)
            self.terms[place] = terms
            self.carried[place] = 0
            self.tenants[place] = {tenant}
            self.told[place] = set()

    def tell(self, place: Place, now: int) -> None:
        limit = self.limits[place]
        counting = self.counting(place, now)
        if limit is None or (place[0] in ROLLS and place[1] not in self.current(place[0], now)):
            return
        spent = sum(self.spent(each) for each in counting)
        committed = sum(self.used(each) for each in counting)
        most = self.ceiling(place, limit, self.carried[place], now)
        for threshold in self.terms[place].thresholds:
            amount = spent if threshold.of is Counted.SPENT else committed
            told = set[str]().union(*[self.told[each] for each in counting])
            if amount and amount * 100 >= threshold.percent * most and threshold.name not in told:
                self.told[place].add(threshold.name)
                self.alerts.append((place, threshold.name))

    def current(self, line: str, now: int) -> list[int]:
        length, before = ROLLS[line]
        return [now - now % length - number * length for number in range(before + 1)]

    def place(
        self, hold_id: bytes, tenant: str, legs: list[Leg], on_orphan: OnOrphan, claim: Claim | None, now: int
    ) -> object:
        known = self.holds.get(hold_id)
        if known is not None:
            return (
                Barred() if known.state is V and not known.charged else Held(tuple(amount for _, amount in known.at))
            )
        if claim is not None and (tenant, claim.key) in self.claims:
            first, fingerprint, at = self.claims[tenant, claim.key]
            holder = self.holds[first]
            if holder.is_open or (holder.state is S and now < at + CLAIM_LASTS):
                if fingerprint != claim.fingerprint:
                    return Conflict()
                answer, units = self.answers.get((tenant, claim.key)), ("USD",) * len(holder.at)
                return Repeated(first, holder.state, tuple(holder.charged), answer, units)
        placed: list[tuple[Place, int]] = []
        carried = []
        for index, leg in enumerate(legs):
            place = (leg.budget[0], window(leg.period, now)[0])
            carried.append(self.inherited(place, leg.limit, leg.terms))
            left = self.room(place, leg.limit, leg.terms, carried[-1], now)
            left = max(left - sum(amount for at, amount in placed if at == place), 0)
            if left < leg.least and leg.terms.strict:
                counting = self.counting(place, now)
                spent, held = sum(map(self.spent, counting)), sum(map(self.held, counting))
                return Exhausted(index, leg.least, left, spent, held, ends(leg.budget[0], now))
            placed.append((place, min(leg.most, left)))
        self.holds[hold_id] = Happened(placed, on_orphan)
        for (place, _), leg, inherited in zip(placed, legs, carried, strict=True):
            self.touch(place, tenant, leg.limit, leg.terms)
            self.limits[place] = recorded(leg.limit)
            self.terms[place], self.carried[place] = leg.terms, inherited
            self.tenants[place].add(tenant)
        for place, _ in placed:
            self.tell(place, now)
        if claim is not None:
            self.claims[tenant, claim.key] = hold_id, claim.fingerprint, now
            self.answers.pop((tenant, claim.key), None)
        return Held(tuple(amount for _, amount in placed))

    def resolve(
        self, hold_id: bytes, amounts: tuple[int, ...] | None, external_id: str | None, now: int,
        *, review: bool = False, answer: bytes | None = None,
    ) -> object:  # fmt: skip
        hold = self.holds.get(hold_id)
        if hold is None:
            self.holds[hold_id] = Happened([], state=V)
            return Resolved(V, ())
        if hold.state in {S, V}:
            return Resolved(hold.state, tuple(hold.charged))
        if review:
            return self.end(hold, R if hold.state is P else hold.state)
        if amounts is None:
            return self.end(hold, V)
        if len(amounts) != len(hold.at) or any(amount < 0 for amount in amounts):
            return LayerError
        if external_id in self.outside:
            return self.end(hold, V)
        self.charge(hold_id, hold, amounts, now)
        if external_id is not None and any(amounts):
            self.outside.add(external_id)
        if answer is not None:
            for key, (first, _, _) in self.claims.items():
                if first == hold_id:
                    self.answers[key] = answer
        return Resolved(S, tuple(hold.charged))

    def end(self, hold: Happened, state: HoldState) -> object:
        hold.state = state
        hold.charged = [0] * len(hold.at)
        return Resolved(state, tuple(hold.charged))

    def charge(self, hold_id: bytes, hold: Happened, amounts: tuple[int, ...], now: int) -> None:
        late, hold.state = hold.state is E, S
        hold.charged, hold.back = [], [0] * len(hold.at)
        for index, ((place, held), asked) in enumerate(zip(hold.at, amounts, strict=True)):
            limit, terms = self.limits[place], self.terms[place]
            if not terms.strict:
                fits = min(asked, UNITS_MAX - self.used(place))
            elif late:
                left = self.room(place, limit, terms, self.carried[place], now)
                end = ends(place[0], place[1]) if place[1] is not None else None
                if terms.carry is CarryOver.UNUSED and end is not None and end <= now:
                    left -= terms.cap  # it may have been carried over
                fits = max(min(asked, held, left), 0)
            else:
                fits = min(asked, held)
            hold.charged.append(fits)
            if asked:
                self.entries.append((hold_id, index, "charge", fits, min(asked - fits, UNITS_MAX)))
        for (place, _), asked in zip(hold.at, amounts, strict=True):
            if asked:
                self.tell(place, now)

    def lose(self, hold_id: bytes, now: int) -> object:
        hold = self.holds[hold_id]
        if hold.state is not P:
            return Resolved(hold.state, tuple(hold.charged))
        if hold.on_orphan is OnOrphan.CHARGE_HOLD:
            self.charge(hold_id, hold, tuple(amount for _, amount in hold.at), now)
            return Resolved(S, tuple(hold.charged))
        return self.end(hold, E if hold.on_orphan is OnOrphan.VOID else R)

    def refund(self, op: bytes, hold_id: bytes, amounts: tuple[int, ...] | None) -> object:
        if op in self.booked:
            return self.booked[op]
        hold = self.holds.get(hold_id)
        if hold is None or hold.state is not S:
            return Unbookable
        left = [charged - back for charged, back in zip(hold.charged, hold.back, strict=True)]
        if amounts is None:
            amounts = tuple(left)
        if len(amounts) != len(left):
            return LayerError
        if not any(amounts) or any(amount > rest for amount, rest in zip(amounts, left, strict=True)):
            return Unbookable
        for place in {at for at, _ in hold.at}:
            if sum(n for (at, _), n in zip(hold.at, amounts, strict=True) if at == place) > self.spent(place):
                return Unbookable
        hold.back = [back + amount for back, amount in zip(hold.back, amounts, strict=True)]
        self.entries += [(op, index, "refund", -amount, 0) for index, amount in enumerate(amounts) if amount]
        self.booked[op] = Booked(amounts)
        return self.booked[op]

    def grant(self, op: bytes, tenant: str, leg: Leg, expires: int | None, now: int) -> object:
        if op in self.booked:
            return self.booked[op]
        place = (leg.budget[0], window(leg.period, now)[0])
        given = sum(amount for at, amount, _ in self.grants if at == place)
        if leg.most == 0 or (expires is not None and expires <= now) or given + leg.most > UNITS_MAX:
            return Unbookable
        self.touch(place, tenant, leg.limit, leg.terms)
        if leg.terms.carry is not CarryOver.NONE:
            self.carried[place] = self.inherited(place, leg.limit, leg.terms)
        self.grants.append((place, leg.most, expires))
        self.entries.append((op, 0, "grant", leg.most, 0))
        self.booked[op] = Booked((leg.most,))
        return self.booked[op]

    def correct(self, op: bytes, tenant: str, leg: Leg, amount: int, now: int) -> object:
        if op in self.booked:
            return self.booked[op]
        place = (leg.budget[0], window(leg.period, now)[0])
        if amount == 0 or self.spent(place) + amount < 0 or self.used(place) + amount > UNITS_MAX:
            return Unbookable
        self.touch(place, tenant, leg.limit, leg.terms)
        if leg.terms.carry is not CarryOver.NONE:
            self.carried[place] = self.inherited(place, leg.limit, leg.terms)
        self.corrections.append((place, amount))
        self.tell(place, now)
        self.entries.append((op, 0, "correction", amount, 0))
        self.booked[op] = Booked((amount,))
        return self.booked[op]


small = st.integers(0, 40)
amounts = st.one_of(small, small, small, small, st.sampled_from([70, 100, UNITS_MAX, 2**64]))
lines = st.sampled_from(sorted(LINES))
which = st.integers(0, 7)
"""Of the latest holds or bookings, so many back."""
several = st.tuples(amounts, amounts, amounts, amounts)
orphans = st.sampled_from([OnOrphan.VOID, OnOrphan.VOID, OnOrphan.CHARGE_HOLD, OnOrphan.REVIEW])
tenants = st.sampled_from(["acme", "acme", "globex"])
claims = st.one_of(st.none(), st.none(), st.builds(Claim, st.just("key"), st.sampled_from([b"a", b"a", b"b"])))


class BooksMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.model = Model()
        self.now = START
        self.policies: dict[str, tuple[int | None, Terms]] = {
            "for ever": (100, PLAIN),
            "by day": (100, UNUSED),
            "by hour": (20, SOFT_DEBT),
            "rolling": (100, WATCHED),
            "by month": (200, DEBT),
            "by week": (None, PLAIN),
        }
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self.ids = 0

    def leg(self, line: str, least: int, more: int) -> Leg:
        limit, terms = self.policies[line]
        return Leg((line,), LINES[line], "USD", limit, least + more, least, terms)

    def run(self, name: str, *args: Any) -> None:
        """Do it in both, and compare what they answer, what they tell, and that a refusal changed nothing."""
        self.sent.append((name, args))
        self.model.alerts.clear()
        self.books.alerts.clear()
        before = picture(self.books)
        answer: object
        try:
            answer = getattr(self, f"_{name}")(*args)
        except LayerError as failure:
            answer = failure
        expected = self.expected(name, args)
        assert answer == expected or isinstance(answer, expected if isinstance(expected, type) else ()), (
            answer,
            expected,
        )
        if isinstance(answer, (LayerError, Exhausted, Barred, Conflict, Repeated, Unbookable)):
            assert picture(self.books) == before
        told = [((alert.budget[0], alert.window_starts_ns), alert.threshold.name) for alert in self.books.alerts]
        assert sorted(map(repr, told)) == sorted(map(repr, self.model.alerts))

    def expected(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "refund":
            return self.model.refund(*args)
        if name == "settle":
            hold, asked, answer = args
            return self.model.resolve(hold, asked, None, self.now, answer=answer)
        if name == "review":
            return self.model.resolve(args[0], None, None, self.now, review=True)
        return getattr(self.model, name)(*args, self.now)

    def _place(self, hold: bytes, tenant: str, legs: list[Leg], on_orphan: OnOrphan, claim: Claim | None) -> object:
        return self.books.place(hold, tenant, tuple(legs), on_orphan, self.now, claim)

    def _resolve(self, hold: bytes, amounts: tuple[int, ...] | None, external_id: str | None) -> object:
        return self.books.resolve(hold, amounts, "why", "{}", "provider", external_id, self.now)

    def _settle(self, hold: bytes, amounts: tuple[int, ...], answer: bytes) -> object:
        return self.books.resolve(hold, amounts, "why", "{}", None, None, self.now, answer=("key", answer))

    def _review(self, hold: bytes) -> object:
        return self.books.resolve(hold, None, "why", "{}", None, None, self.now, review=True)

    def _lose(self, hold: bytes) -> object:
        return self.books.lose(hold, self.now)

    def _refund(self, op: bytes, hold: bytes, amounts: tuple[int, ...] | None) -> object:
        return self.books.refund(op, hold, amounts, "why", "{}", self.now)

    def _grant(self, op: bytes, tenant: str, leg: Leg, expires: int | None) -> object:
        return self.books.grant(op, tenant, leg, expires, "why", "{}", self.now)

    def _correct(self, op: bytes, tenant: str, leg: Leg, amount: int) -> object:
        return self.books.correct(op, tenant, leg, amount, "why", "{}", self.now)

    def new(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(16, "big")

    def known(self, back: int) -> bytes:
        """One of the latest holds that were placed; before there is one, an id that nobody placed."""
        placed = [hold_id for hold_id, hold in self.model.holds.items() if hold.at]
        return placed[-1 - back % len(placed)] if placed else b"nobody"

    def fitting(self, hold: bytes, asked: tuple[int, ...]) -> tuple[int, ...]:
        """As many amounts as the hold has legs: callers know."""
        known = self.model.holds.get(hold)
        return asked[: len(known.at)] if known is not None else asked[:1]

    asked = st.lists(st.tuples(lines, small, amounts), min_size=1, max_size=4)

    @rule(tenant=tenants, asked=asked, on_orphan=orphans, claim=claims)
    def place(self, tenant: str, asked: list[tuple[str, int, int]], on_orphan: OnOrphan, claim: Claim | None) -> None:
        self.run("place", self.new(), tenant, [self.leg(*each) for each in asked], on_orphan, claim)

    @rule(line=lines, amount=small, on_orphan=orphans, claim=claims)
    def place_one(self, line: str, amount: int, on_orphan: OnOrphan, claim: Claim | None) -> None:
        self.run("place", self.new(), "acme", [self.leg(line, 0, amount)], on_orphan, claim)

    @rule(line=lines, amount=small, more=small)
    def charge(self, line: str, amount: int, more: int) -> None:
        """Place and settle, at most what was held or beyond it."""
        hold = self.new()
        self.run("place", hold, "acme", [self.leg(line, 0, amount + more)], OnOrphan.VOID, None)
        self.run("resolve", hold, self.fitting(hold, (amount,)), None)

    @rule(
        line=lines, amount=st.integers(30, 100), other=st.integers(30, 100), ahead=st.sampled_from([0, 7 * HOUR, DAY])
    )
    def come_back_late(self, line: str, amount: int, other: int, ahead: int) -> None:
        """A process was lost, others used what it had held, and then it settles after all."""
        first = self.new()
        self.run("place", first, "acme", [self.leg(line, 0, amount)], OnOrphan.VOID, None)
        self.run("lose", first)
        self.run("place", self.new(), "globex", [self.leg(line, 0, other)], OnOrphan.VOID, None)
        self.now += ahead
        self.run("resolve", first, self.fitting(first, (amount,)), None)

    @rule(back=which, line=lines)
    def place_under_an_id_that_is_known(self, back: int, line: str) -> None:
        self.run("place", self.known(back), "acme", [self.leg(line, 0, 9)], OnOrphan.VOID, None)

    @rule(back=which, asked=several, external=st.sampled_from([None] * 6 + ["r1", "r2"]))
    def settle(self, back: int, asked: tuple[int, ...], external: str | None) -> None:
        hold = self.known(back)
        self.run("resolve", hold, self.fitting(hold, asked), external)

    @rule(back=which, asked=several, answer=st.sampled_from([b"200", b"201"]))
    def settle_with_an_answer(self, back: int, asked: tuple[int, ...], answer: bytes) -> None:
        hold = self.known(back)
        self.run("settle", hold, self.fitting(hold, asked), answer)

    @rule(back=which, asked=st.lists(st.integers(-1, 40), max_size=4))
    def settle_anything(self, back: int, asked: list[int]) -> None:
        self.run("resolve", self.known(back), tuple(asked), None)

    @rule(back=which)
    def void(self, back: int) -> None:
        self.run("resolve", self.known(back), None, None)

    @rule()
    def void_what_nobody_placed(self) -> None:
        self.run("resolve", self.new(), None, None)

    @rule(back=which)
    def review(self, back: int) -> None:
        self.run("review", self.known(back))

    @rule(back=which)
    def lose(self, back: int) -> None:
        if self.known(back) in self.model.holds:
            self.run("lose", self.known(back))

    @rule(back=which, asked=st.one_of(st.none(), st.tuples(small, small, small, small)))
    def refund(self, back: int, asked: tuple[int, ...] | None) -> None:
        hold = self.known(back)
        self.run("refund", self.new(), hold, None if asked is None else self.fitting(hold, asked))

    @rule(
        tenant=tenants,
        line=lines,
        amount=amounts,
        lasts=st.sampled_from([None, None, 0, 1, HOUR, 7 * HOUR, 40 * DAY]),
    )
    def grant(self, tenant: str, line: str, amount: int, lasts: int | None) -> None:
        expires = None if lasts is None else self.now + lasts
        self.run("grant", self.new(), tenant, self.leg(line, 0, amount), expires)

    @rule(tenant=tenants, line=lines, amount=st.one_of(st.integers(-60, 60), st.just(UNITS_MAX)))
    def correct(self, tenant: str, line: str, amount: int) -> None:
        self.run("correct", self.new(), tenant, self.leg(line, 0, 0), amount)

    @rule(line=lines, limit=st.sampled_from([0, 40, 100, 100, 10**20, None]), strict=st.booleans())
    def change_the_policy(self, line: str, limit: int | None, *, strict: bool) -> None:
        _, terms = self.policies[line]
        self.policies[line] = limit, Terms(strict, terms.carry, terms.cap, terms.thresholds)

    @rule(line=lines, carry=st.sampled_from([(CarryOver.NONE, 0), (CarryOver.UNUSED, 30), (CarryOver.DEBT, 0)]))
    def change_what_is_carried(self, line: str, carry: tuple[CarryOver, int]) -> None:
        limit, terms = self.policies[line]
        if line not in {*ROLLS, "for ever"}:
            self.policies[line] = limit, Terms(terms.strict, *carry, terms.thresholds)

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 20))
    def send_again(self, back: int) -> None:
        """A caller that heard no answer asks again, perhaps much later."""
        name, args = self.sent[-min(back, len(self.sent))]
        self.run(name, *args)

    @rule(ahead=st.sampled_from([1, 10**9, HOUR, 7 * HOUR, DAY, 33 * DAY]))
    def wait(self, ahead: int) -> None:
        self.now += ahead

    @invariant()
    def the_books_say_what_happened(self) -> None:
        conserved(self.books)
        assert {(key[0][0], key[3]) for key in self.books.accounts} == set(self.model.limits)
        for key, account in self.books.accounts.items():
            place = key[0][0], key[3]
            assert (account.spent, account.held) == (self.model.spent(place), self.model.held(place))
            assert (account.limit, account.carried) == (self.model.limits[place], self.model.carried[place])
            assert account.granted(self.now) == self.model.granted(place, self.now)
            assert account.alerted == self.model.told[place]
            shared = self.model.tenants[place]
            assert account.tenant == (next(iter(shared)) if len(shared) == 1 else None)
        lines = [(line.op, line.leg, str(line.kind), line.amount, line.absorbed) for line in self.books.lines]
        assert lines == self.model.entries


TestBooksMachine = BooksMachine.TestCase
TestBooksMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
