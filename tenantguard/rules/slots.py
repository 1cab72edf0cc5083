"""Slots and queues: who of many may be inside at a time, and who is next. A state machine in integers.

Whoever asks makes *claims*, each for one slot of a *place* (a key with a limit), and enters with a slot of every
claim, all or none, or waits. What is held or waited for under one id is a *ticket*.

Rules of this file
1. Instants are nanoseconds of the store's clock; one that goes back is taken to stand still.
2. A ticket that waits holds nothing, and waits *at* one place: the first of its claims that has no room. So no wait
   keeps a slot from others, and no circle of waiting can close.
3. Nobody waits at a place that has room, after any command. So whoever comes finds either room, and nobody who waits
   for it, or a queue, and goes to its end: there is no barging.
4. Tickets of one owner with the same claims stand in one line, first in, first out; only the first of a line is ever
   looked at. When it could enter but for another place, the line goes to wait there.
5. Lines of several owners at one place take turns in proportion to their weights; see below. When one ticket leaves
   several places, these are served in the order of its claims: list the widest first, where owners meet.
6. A ticket ends once: by being left, by waiting too long, or by its lease, where there is one. An id that was never
   seen and is ended cannot enter afterwards, for a minute at least.

Taking turns. Start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", IEEE/ACM
Transactions on Networking 5(5), 1997), each entering being one unit of service. A place has a virtual time, the start
tag of the line that it served last. A line that comes to wait there has the later of that and of its owner's last
finish tag as its start tag, and entering moves the owner's finish tag on by ``SHARE // weight``; the lowest start tag
is next, among equals who came first. An owner that was away, or waits elsewhere, saves nothing up, and none can be
kept from its share by however many requests of another. Several lines of an owner share its tags, so more routes are
not more turns. When nobody waits at a place any more, it forgets its tags.

How long it will take. Between arrivals that do not know of each other, what is left of a holder's time is as long as
what has passed of it, on average (D. R. Cox, "Renewal Theory", 1962, 5.1: age and residual life have one
distribution). So each of the slots comes free after about the mean age of the holders: a guess without any history,
good enough to say when to try again, and whether a deadline is worth waiting for.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.model.slots import Crowded, Entered, NotEntered, SlotClaim, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHARE: Final = 720_720
"""A turn of an owner of weight 1, in virtual time: divisible by every weight up to 16, and by others within 1/700."""

BARRED_NS: Final = 60 * 1_000_000_000
"""How long, at least, an id that ended before it was seen cannot enter."""

_SLACK: Final = 64
"""Stale entries that a heap may have beyond as many as are live."""

Answer: TypeAlias = Entered | Crowded


class _Place:
    """One key. ``owners`` are those with tickets that wait and claim a slot here, wherever they wait."""

    __slots__ = (
        "finished", "finished_max", "heap", "held", "key", "limit", "lines", "owners", "since_sum", "virtual",
        "waiting",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key = key
        self.limit = 0
        self.held = 0
        self.since_sum = 0  # of the instants at which its holders entered
        self.waiting = 0
        self.owners: Counter[str] = Counter()
        self.heap: list[_Entry] = []
        self.lines = 0  # that wait at this place
        self.virtual = 0
        self.finished: dict[str, int] = {}
        self.finished_max = _SLACK

    @property
    def is_full(self) -> bool:
        return self.held >= self.limit

    def forget_turns(self) -> None:
        """Nobody waits here any more."""
        self.heap.clear()
        self.finished.clear()
        self.virtual = 0

    def expected_ns(self, owner: str, now: int) -> int:
        """How long a new ticket of ``owner`` may have to wait: a guess, see above."""
        if not self.held:
            return 0
        age = (self.held * now - self.since_sum) // self.held
        ahead = min(self.waiting, self.owners[owner] * len(self.owners))
        return (ahead + 1) * age // self.limit


class _Line:
    """Tickets of one owner with the same claims. ``entry`` is what stands for it in the heap of ``at``."""

    __slots__ = ("at", "entry", "owner", "places", "tickets", "weights")

    def __init__(self, owner: str, places: tuple[_Place, ...]) -> None:
        self.owner = owner
        self.places = places
        self.weights: tuple[int, ...] = ()
        self.tickets: OrderedDict[bytes, _Ticket] = OrderedDict()
        self.at: _Place | None = None
        self.entry: _Entry | None = None

    def first(self) -> _Ticket:
        """Who is next in it."""
        return next(iter(self.tickets.values()))


_Entry: TypeAlias = tuple[int, int, _Line]
"""A start tag, the number of the first ticket, and the line."""


class _Ticket:
    """``since``: when it came, or entered. ``deadline`` bounds its wait, ``expires`` its lease, None: not at all."""

    __slots__ = ("deadline", "entered", "expires", "id", "line", "number", "since")

    def __init__(self, ticket_id: bytes, number: int, line: _Line, since: int, expires: int | None) -> None:
        self.id = ticket_id
        self.number = number
        self.line = line
        self.since = since
        self.deadline: int | None = None
        self.expires = expires
        self.entered: Entered | None = None

    def due(self) -> int | None:
        """When it ends by itself, as things stand."""
        if self.entered is not None or self.deadline is None:
            return self.expires
        return self.deadline if self.expires is None else min(self.deadline, self.expires)


class Slots:
    """All places of one store.

    With ``lease_ns`` a ticket ends that is not renewed in that time, waiting or inside. At most ``waiting_max``
    tickets wait. What a command decides about other tickets than its own is in ``told``: the store that called takes
    it from there, empties it, and answers those who wait.
    """

    def __init__(self, *, lease_ns: int | None = None, waiting_max: int = 10_000) -> None:
        self.told: list[tuple[bytes, Answer]] = []
        self._lease_ns = lease_ns
        self._waiting_max = waiting_max
        self._now = 0
        self._fence = 0
        self._numbers = 0
        self._waiting = 0
        self._places: dict[str, _Place] = {}
        self._lines: dict[tuple[str, ...], _Line] = {}
        self._tickets: dict[bytes, _Ticket] = {}
        self._alarms: list[tuple[int, int, _Ticket]] = []
        self._barred: set[bytes] = set()
        self._barred_before: set[bytes] = set()
        self._barred_since = 0

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return self._waiting

    # commands

    def enter(
        self, ticket_id: bytes, owner: str, claims: Sequence[SlotClaim], deadline_ns: int | None, now: int
    ) -> Answer | None:
        """Take a slot of every claim, or wait for them; None where it waits, and is told later.

        An id that waits or is inside already goes on with what it has. ``deadline_ns``, from now, is how long the
        request itself lets anybody wait. No two claims are for one key.
        """
        now = self.tick(now)
        known = self._tickets.get(ticket_id)
        if known is not None:
            return known.entered
        if ticket_id in self._barred or ticket_id in self._barred_before:
            return Crowded(NotEntered.ENDED, ())
        places = self._limited(claims, now)
        answer = self._enter(ticket_id, owner, claims, places, deadline_ns, now)
        if isinstance(answer, Crowded):
            self._tidy(places)
        return answer

    def hold(
        self, ticket_id: bytes, owner: str, claims: Sequence[SlotClaim], since: int, fence: int, now: int
    ) -> None:
        """Be inside since ``since``, whatever the limits: another store let it in. One that was ended stays out."""
        now = self.tick(now)
        if ticket_id in self._tickets or ticket_id in self._barred or ticket_id in self._barred_before:
            return
        ticket = self._ticket(ticket_id, _Line(owner, self._limited(claims, now)), now)
        self._fence = max(self._fence, fence)
        self._count_in(ticket, Entered(fence), min(since, now))

    def leave(self, ticket_id: bytes, now: int) -> None:
        """End a ticket: its slots go to whoever is next, or its place in the queue is free."""
        now = self.tick(now)
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            self._bar(ticket_id, now)
            return
        self._remove(ticket)
        if ticket.entered is not None:
            for place in ticket.line.places:
                self._serve(place, now)
        self._tidy(ticket.line.places)

    def renew(self, ticket_id: bytes, now: int) -> bool:
        """Begin the lease of a ticket again; False where it has ended."""
        now = self.tick(now)
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            return False
        if self._lease_ns is not None:
            ticket.expires = now + self._lease_ns  # its alarm finds that out
        return True

    def tick(self, now: int) -> int:
        """End what has waited too long or lost its lease; the answer is the time that counts."""
        now = self._now = max(self._now, now)
        lapsed: list[_Ticket] = []
        while self._alarms and self._alarms[0][0] <= now:
            ticket = heappop(self._alarms)[2]
            if self._tickets.get(ticket.id) is not ticket:
                continue
            due = ticket.due()
            if due is None:
                continue
            if due > now:
                heappush(self._alarms, (due, ticket.number, ticket))
                continue
            if ticket.entered is None:
                self._give_up(ticket, now)
            else:
                self._remove(ticket)
                lapsed.append(ticket)
        for ticket in lapsed:
            for place in ticket.line.places:
                self._serve(place, now)
            self._tidy(ticket.line.places)
        return now

    def deadline(self, ticket_id: bytes) -> int:
        """Until when a ticket waits that does."""
        deadline = self._tickets[ticket_id].deadline
        assert deadline is not None
        return deadline

    def standing(self, now: int, prefix: str = "") -> list[Standing]:
        """Who is inside and who waits, of keys that begin with ``prefix``: by key, those inside first."""
        now = max(self._now, now)
        found = [
            (place.key, ticket.entered is None, ticket.since, ticket.number, ticket)
            for ticket in self._tickets.values()
            for place in ticket.line.places
            if place.key.startswith(prefix)
        ]
        return [
            Standing(key, ticket.line.owner, ticket.id, not waits, now - since)
            for key, waits, since, _, ticket in sorted(found, key=lambda row: row[:4])
        ]

    # entering

    def _enter(
        self,
        ticket_id: bytes,
        owner: str,
        claims: Sequence[SlotClaim],
        places: tuple[_Place, ...],
        deadline_ns: int | None,
        now: int,
    ) -> Answer | None:
        full = tuple([index for index, place in enumerate(places) if place.is_full])
        closed = tuple(
            [
                index
                for index, (claim, place) in enumerate(zip(claims, places, strict=True))
                if not claim.queue and place.held + place.waiting >= place.limit
            ]
        )
        if closed:  # those that wait elsewhere and claim a slot here are as good as inside
            return self._crowded(NotEntered.FULL, closed, owner, places, now)
        if not full:
            ticket = self._ticket(ticket_id, _Line(owner, places), now)
            return self._inside(ticket, now)
        wait_ns = min(claim.wait_ns for claim in claims if claim.queue)
        if wait_ns <= 0:
            return self._crowded(NotEntered.FULL, full, owner, places, now)
        crammed = tuple([index for index in full if places[index].owners[owner] >= claims[index].queue])
        if crammed or self._waiting >= self._waiting_max:
            return self._crowded(NotEntered.QUEUE_FULL, crammed or full, owner, places, now)
        if deadline_ns is not None:
            if deadline_ns <= 0 or max(places[index].expected_ns(owner, now) for index in full) > deadline_ns:
                return self._crowded(NotEntered.DEADLINE, full, owner, places, now)
            wait_ns = min(wait_ns, deadline_ns)
        self._queue(ticket_id, owner, claims, places, now + wait_ns, now)
        return None

    def _limited(self, claims: Sequence[SlotClaim], now: int) -> tuple[_Place, ...]:
        """The places of claims, with the limits that these say; who waits is served first where there is more."""
        places = []
        raised = []
        for claim in claims:
            place = self._places.get(claim.key)
            if place is None:
                place = self._places[claim.key] = _Place(claim.key)
            if place.limit != claim.limit:
                if place.limit < claim.limit:
                    raised.append(place)
                place.limit = claim.limit
            places.append(place)
        for place in raised:
            self._serve(place, now)
        return tuple(places)

    def _queue(
        self,
        ticket_id: bytes,
        owner: str,
        claims: Sequence[SlotClaim],
        places: tuple[_Place, ...],
        deadline: int,
        now: int,
    ) -> None:
        keys = (owner, *[place.key for place in places])
        line = self._lines.get(keys)
        if line is None:
            line = self._lines[keys] = _Line(owner, places)
        line.weights = tuple([claim.weight for claim in claims])
        ticket = self._ticket(ticket_id, line, now)
        ticket.deadline = deadline
        line.tickets[ticket_id] = ticket
        self._waiting += 1
        for place in places:
            place.waiting += 1
            place.owners[owner] += 1
        if line.at is None:
            self._join(line, next(place for place in places if place.is_full))
        self._alarm(ticket)

    def _ticket(self, ticket_id: bytes, line: _Line, now: int) -> _Ticket:
        self._numbers += 1
        expires = None if self._lease_ns is None else now + self._lease_ns
        ticket = self._tickets[ticket_id] = _Ticket(ticket_id, self._numbers, line, now, expires)
        return ticket

    def _inside(self, ticket: _Ticket, now: int) -> Entered:
        self._fence += 1
        entered = Entered(self._fence, now - ticket.since)
        self._count_in(ticket, entered, now)
        return entered

    def _count_in(self, ticket: _Ticket, entered: Entered, since: int) -> None:
        ticket.entered = entered
        ticket.since = since
        for place in ticket.line.places:
            place.held += 1
            place.since_sum += since
        if ticket.deadline is None:  # else it has an alarm already
            self._alarm(ticket)

    def _crowded(
        self, reason: NotEntered, failing: tuple[int, ...], owner: str, places: tuple[_Place, ...], now: int
    ) -> Crowded:
        expected = max((places[index].expected_ns(owner, now) for index in failing), default=0)
        return Crowded(reason, failing, expected or None)

    # serving

    def _serve(self, place: _Place, now: int) -> None:
        """Let lines in for which there is room here, and send those on that wait for something else as well."""
        while place.lines and not place.is_full:
            entry = heappop(place.heap)
            tag, _, line = entry
            if line.entry is not entry:
                continue
            due = place.finished.get(line.owner, 0)
            if due > tag:  # another line of its owner was served meanwhile
                self._push(line, place, due)
                continue
            blocking = next((other for other in line.places if other.is_full), None)
            if blocking is not None:
                self._part(line)
                self._join(line, blocking)
                continue
            ticket = line.first()
            place.virtual = tag
            weight = line.weights[line.places.index(place)]
            place.finished[line.owner] = tag + SHARE // weight
            self._dequeue(ticket)
            self.told.append((ticket.id, self._inside(ticket, now)))
            if line.tickets:
                self._push(line, place, place.finished[line.owner])
            else:
                self._forget(line)
        if not place.lines:
            place.forget_turns()

    def _join(self, line: _Line, place: _Place) -> None:
        """Let a line wait at a place."""
        line.at = place
        place.lines += 1
        self._push(line, place, max(place.virtual, place.finished.get(line.owner, 0)))

    def _part(self, line: _Line) -> None:
        """Let it wait there no longer."""
        assert line.at is not None
        line.at.lines -= 1
        line.at = line.entry = None

    def _push(self, line: _Line, place: _Place, tag: int) -> None:
        line.entry = (tag, line.first().number, line)
        heappush(place.heap, line.entry)
        if len(place.heap) > 2 * place.lines + _SLACK:
            place.heap = [entry for entry in place.heap if entry[2].entry is entry]
            heapify(place.heap)
        if len(place.finished) > place.finished_max:  # a tag of the past says as much as none
            place.finished = {owner: tag for owner, tag in place.finished.items() if tag > place.virtual}
            place.finished_max = 2 * len(place.finished) + _SLACK

    def _forget(self, line: _Line) -> None:
        """Nobody stands in it any more."""
        self._part(line)
        del self._lines[(line.owner, *[place.key for place in line.places])]

    # ending

    def _remove(self, ticket: _Ticket) -> None:
        """Take a ticket away, wherever it is; nobody is served yet."""
        del self._tickets[ticket.id]
        line = ticket.line
        if ticket.entered is not None:
            for place in line.places:
                place.held -= 1
                place.since_sum -= ticket.since
            return
        was_first = line.first() is ticket
        self._dequeue(ticket)
        at = line.at
        assert at is not None
        assert line.entry is not None
        if not line.tickets:
            self._forget(line)
            if not at.lines:
                at.forget_turns()
        elif was_first:
            self._push(line, at, line.entry[0])

    def _dequeue(self, ticket: _Ticket) -> None:
        line = ticket.line
        del line.tickets[ticket.id]
        self._waiting -= 1
        for place in line.places:
            place.waiting -= 1
            place.owners[line.owner] -= 1
            if not place.owners[line.owner]:
                del place.owners[line.owner]

    def _give_up(self, ticket: _Ticket, now: int) -> None:
        """It has waited too long, or whoever waits was not heard of for a lease."""
        self._remove(ticket)
        places, owner = ticket.line.places, ticket.line.owner
        failing = tuple([index for index, place in enumerate(places) if place.is_full])
        waited = ticket.deadline is not None and ticket.deadline <= now
        reason = NotEntered.WAITED if waited else NotEntered.ENDED
        self.told.append((ticket.id, self._crowded(reason, failing, owner, places, now)))
        self._tidy(places)

    def _tidy(self, places: Iterable[_Place]) -> None:
        for place in places:
            if not place.held and not place.waiting:
                self._places.pop(place.key, None)

    def _alarm(self, ticket: _Ticket) -> None:
        due = ticket.due()
        if due is None:
            return
        heappush(self._alarms, (due, ticket.number, ticket))
        if len(self._alarms) > 2 * len(self._tickets) + _SLACK:
            self._alarms = [alarm for alarm in self._alarms if self._tickets.get(alarm[2].id) is alarm[2]]
            heapify(self._alarms)

    def _bar(self, ticket_id: bytes, now: int) -> None:
        if now - self._barred_since >= BARRED_NS:
            self._barred_before, self._barred, self._barred_since = self._barred, set(), now
        self._barred.add(ticket_id)
