"""Units that were taken from a shared bucket at once, for decisions that need no server.

A *chunk* is an ordinary taking under an id of its own, debited before any of it is used: so nothing is ever admitted
beyond the rate, and what a process that died had left is no more than lost to it. What is left of a chunk goes back
where the next one is taken, where its lease was not used for a second, and at the end; a chunk of which something can
still be settled stays open until that is.

How much is stranded: at most one chunk in each process, which for all processes together is what refills in a tenth
of a second and a quarter of a burst, and what was taken for requests that were given up meanwhile. What came for
those that another bucket refused goes back with its chunk.
"""

from __future__ import annotations

import secrets
import threading
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.adapters.limits.redis import wire
from tenantguard.adapters.limits.redis.commands import End, Plan, Sent
from tenantguard.adapters.redis.script import argument
from tenantguard.errors import PortError
from tenantguard.flow.ports import Shortage, Take, Taken
from tenantguard.model.rate import TICKS_PER_NANO
from tenantguard.rules.bucket import Overdrawn, draw, level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.adapters.limits.redis.commands import Decision, Host
    from tenantguard.adapters.promise import Bell
    from tenantguard.flow.ports import Level

_IDLE_NS: Final = 1_000_000_000
_REFUSED_NS: Final = 250_000_000
_SWEPT: Final = 512


class _Chunk:
    """``size`` units under an id, of which ``left`` are not used; ``open`` takings may still change that."""

    __slots__ = ("current", "id", "left", "open", "size")

    def __init__(self, taking: bytes, size: int) -> None:
        self.id = taking
        self.size = self.left = size
        self.open = 0
        self.current = True


class _Lease:
    """The chunk of a bucket that is drawn on, and who waits for another.

    ``tat`` is the bucket's on this process's clock, where it may be later by ``doubt_ns``.
    """

    __slots__ = (
        "asking",
        "chunk",
        "doubt_ns",
        "full_at_ns",
        "plan",
        "refused_until_ns",
        "remaining",
        "tat",
        "used_ns",
        "waiting",
        "wanted",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chunk = _Chunk(b"", 0)
        self.chunk.current = False
        self.waiting: list[Decision] = []
        self.wanted = 0
        self.asking = False
        self.used_ns = 0
        self.tat = self.doubt_ns = 0
        self.remaining, self.full_at_ns = plan.takes[0].rate.burst, 0
        self.refused_until_ns = 0


Drawn: TypeAlias = tuple[int, _Lease, _Chunk | None, int]
"""The index of a take, its lease, and the units that it has of a chunk; None where it took nothing."""

_Asked: TypeAlias = "dict[int, list[End | _Refill]]"
"""What is to be sent, by its slot."""


class Leases:
    """The leases of one process."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}

    def at_once(self, plan: Plan, now_ns: int) -> Taken | None:
        """Draw takes that are all leased and final; None where there is not enough."""
        takes, leases = plan.takes, plan.leases
        if leases[0].chunk.left < takes[0].cost:  # without the lock: whoever finds too little waits for a chunk
            return None
        levels: list[Level] = []
        with self._lock:
            for index, lease in enumerate(leases):
                chunk, cost = lease.chunk, takes[index].cost
                left = chunk.left - cost
                if left < 0:
                    _unspend(takes[:index], leases)
                    return None
                chunk.left = left
                lease.used_ns = now_ns
                full_in_ns = lease.full_at_ns - now_ns
                levels.append((lease.remaining + left, full_in_ns if full_in_ns > 0 else 0))  # noqa: FURB136 - max() takes three times as long
        return Taken(tuple(levels))

    def draw(self, decision: Decision, now_ns: int, bells: set[Bell] | None = None) -> bool:
        """Draw every leased take or none; False where the decision waits for a chunk, or was refused."""
        plan = decision.plan
        with self._lock:
            lease = plan.leases[0] if len(plan.leases) == 1 else None
            if lease is not None and lease.asking and now_ns >= lease.refused_until_ns:
                cost = plan.takes[plan.leased[0]].cost
                if cost > lease.chunk.left:  # as most who wait do: join those who wait for the same
                    lease.used_ns = now_ns
                    lease.waiting.append(decision)
                    lease.wanted += cost
                    return False
            missing = self._draw_or_wait(decision, now_ns)
        if missing is None:
            return True
        self._follow(decision, missing, bells)
        return False

    def _draw_or_wait(self, decision: Decision, now_ns: int) -> Shortage | _Asked | None:
        """Draw; else the refusal, or what is to be sent for the chunks that the decision waits for.

        It waits for the last of them, since those that are sent together come in their order.
        """
        needed = self._draw(decision, now_ns)
        if needed is None or isinstance(needed, Shortage):
            return needed
        asked: _Asked = {}
        for lease, cost in needed:
            lease.wanted += cost
            if not lease.asking:
                lease.asking = True
                sends = asked.setdefault(lease.plan.slot, [])
                sends += self._retire(lease)
                sends.append(_Refill(self, self._host, now_ns, lease, cost))
        needed[-1][0].waiting.append(decision)
        return asked

    def _follow(self, decision: Decision, missing: Shortage | _Asked, bells: set[Bell] | None) -> None:
        """Do what follows where a decision did not draw."""
        if isinstance(missing, Shortage):
            decision.answer_with(missing, bells)
            return
        for asked in missing.values():
            if not self._host.send(*asked):
                problem = PortError("limits", "the server does not answer")
                for one in asked:
                    one.lose(problem, bells)

    def _draw(self, decision: Decision, now_ns: int) -> Shortage | list[tuple[_Lease, int]] | None:
        """Draw; else the refusal, or the leases that need another chunk, each of so many units at least."""
        plan, opens = decision.plan, decision.taking.id is not None
        drawn: list[Drawn] = []
        needed: list[tuple[_Lease, int]] = []
        for index in plan.leased:
            take = plan.takes[index]
            lease = self._leases.get(take.bucket) or self._begun(take)
            lease.used_ns = now_ns
            chunk, cost = lease.chunk, take.cost
            if cost <= chunk.left:
                chunk.left -= cost
                chunk.open += opens
                drawn.append((index, lease, chunk, cost))
                continue
            refused = self._refused(lease, take, now_ns)
            if refused is None:
                needed.append((lease, cost))
            elif take.shadow:
                drawn.append((index, lease, None, cost))
            else:
                _put_back(drawn, opens=opens)
                return self._refusal(plan, now_ns)
        if needed:
            _put_back(drawn, opens=opens)
            return needed
        decision.drawn = drawn
        plan.leases = [lease for _, lease, _, _ in drawn]
        return None

    def _begun(self, take: Take) -> _Lease:
        key = self._host.key_of(take.bucket)
        lease = _Lease(Plan((take,), (), [key], self._host.slot_of(key)))
        self._leases[take.bucket] = lease
        return lease

    def _refused(self, lease: _Lease, take: Take, now_ns: int) -> Overdrawn | None:
        """Why the server would give no chunk for this take, where it refused one a moment ago."""
        if now_ns >= lease.refused_until_ns:
            return None
        drawn = draw(lease.tat, take.rate, take.cost, now_ns * TICKS_PER_NANO)
        return drawn if isinstance(drawn, Overdrawn) else None

    def _refusal(self, plan: Plan, now_ns: int) -> Shortage:
        failing: list[int] = []
        shadowed: list[int] = []
        waits: list[int | None] = []
        for index in plan.leased:
            take = plan.takes[index]
            lease = self._leases.get(take.bucket)
            if lease is None or take.cost <= lease.chunk.left:
                continue
            refused = self._refused(lease, take, now_ns)
            if refused is not None:
                (shadowed if take.shadow else failing).append(index)
                if not take.shadow:
                    wait_ns = refused.retry_after_ns
                    waits.append(wait_ns + lease.doubt_ns if wait_ns is not None else None)
        known = [wait for wait in waits if wait is not None]
        levels = tuple(
            [
                self._level(take, now_ns) if index in plan.leased else self._host.last_level(take, now_ns)
                for index, take in enumerate(plan.takes)
            ]
        )
        return Shortage(tuple(failing), max(known) if len(known) == len(waits) else None, levels, tuple(shadowed))

    def _level(self, take: Take, now_ns: int) -> Level:
        """What a bucket had when it was last asked, and what is left here."""
        lease = self._leases.get(take.bucket)
        if lease is None:
            return take.rate.burst, 0
        return lease.remaining + max(lease.chunk.left, 0), max(lease.full_at_ns - now_ns, 0)

    def taken(self, decision: Decision, now_ns: int) -> Taken:
        """The answer to a decision of which everything is leased."""
        levels: list[Level] = []
        shadowed: tuple[int, ...] = ()
        for index, lease, chunk, _ in decision.drawn:
            left = lease.chunk.left
            levels.append(
                (lease.remaining + left if left > 0 else lease.remaining, max(lease.full_at_ns - now_ns, 0))
            )
            if chunk is None:
                shadowed += (index,)
        return Taken(tuple(levels), shadowed)

    def joined(self, decision: Decision, answer: Taken | Shortage, now_ns: int) -> Taken | Shortage:
        """The answer of the server to some takes of a decision, as one to all."""
        plan = decision.plan
        levels: list[Level] = [(0, 0)] * len(plan.takes)
        for index, one in zip(plan.indexes, answer.levels, strict=True):
            levels[index] = one
        for index in plan.leased:
            levels[index] = self._level(plan.takes[index], now_ns)
        shadowed = [plan.indexes[index] for index in answer.shadowed]
        shadowed += [index for index, _, chunk, _ in decision.drawn if chunk is None]
        marks = tuple(sorted(shadowed))
        if isinstance(answer, Taken):
            return Taken(tuple(levels), marks)
        failing = tuple([plan.indexes[index] for index in answer.failing])
        return Shortage(failing, answer.retry_after_ns, tuple(levels), marks)

    # chunks

    def put_back(self, decision: Decision) -> None:
        """A decision that was refused, or that nobody waits for, took nothing."""
        if decision.drawn:
            with self._lock:
                drawn, decision.drawn = decision.drawn, []
                _put_back(drawn, opens=decision.taking.id is not None)
                ends = self._ends(drawn)
            self._send(ends)

    def end(self, drawn: Sequence[Drawn], costs: tuple[int | None, ...]) -> None:
        """What was drawn used so many units, ``costs`` by the index of its take; empty: as many."""
        with self._lock:
            for index, _, chunk, cost in drawn:
                if chunk is not None:
                    used = costs[index] if costs else None
                    chunk.open -= 1
                    if used is not None:
                        chunk.left += cost - used
            ends = self._ends(drawn)
        self._send(ends)

    def refilled(self, refill: _Refill, units: int, tat: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """The server gave a chunk, or refused (0 units); ``tat`` is the bucket's after that, ``now`` the instant."""
        lease = refill.lease
        take = lease.plan.takes[0]
        now_ns = self._host.now_ns()
        with self._lock:
            lease.doubt_ns = now_ns - sent_ns
            lease.tat = tat + sent_ns * TICKS_PER_NANO - now
            lease.remaining, full_in_ns = level(tat, take.rate, now)
            lease.full_at_ns = sent_ns + full_in_ns
            lease.asking = False
            if units:
                lease.chunk = _Chunk(refill.id, units)
            else:
                lease.refused_until_ns = sent_ns + _REFUSED_NS
            waiting, lease.waiting, lease.wanted = lease.waiting, [], 0
            served: list[Decision] = []
            others: list[tuple[Decision, Shortage | _Asked | None]] = []
            for decision in waiting:  # under one lock, so that nobody who comes now draws before them
                if decision.taking.id is None and _spend(decision.plan, now_ns):
                    if decision.claim():
                        served.append(decision)
                    else:
                        _unspend(decision.plan.takes, decision.plan.leases)
                elif decision.waits():
                    others.append((decision, self._draw_or_wait(decision, now_ns)))
            ends = self._surplus([decision.plan for decision, missing in others if isinstance(missing, Shortage)])
        self._send(ends)
        self._serve(served, now_ns, bells)
        for decision, missing in others:
            if missing is None:
                self._host.go_on(decision, bells)
            else:
                self._follow(decision, missing, bells)

    def _surplus(self, plans: Sequence[Plan]) -> list[End]:
        """The ends of chunks that have more than a chunk left, since those that some was meant for were refused."""
        leases = {id(lease): lease for plan in plans for lease in self._known(plan)}
        return [
            end
            for lease in leases.values()
            if lease.chunk.left > self._host.chunk_of(lease.plan.takes[0].rate)
            for end in self._retire(lease)
        ]

    def _known(self, plan: Plan) -> list[_Lease]:
        leases = [self._leases.get(plan.takes[index].bucket) for index in plan.leased]
        return [lease for lease in leases if lease is not None]

    def _serve(self, decisions: Sequence[Decision], now_ns: int, bells: set[Bell]) -> None:
        """Answer those that spent all that they take and were claimed: one plan has one answer, what is left now."""
        plan = answer = None
        for decision in decisions:
            if answer is None or decision.plan is not plan:
                plan = decision.plan
                answer = Taken(tuple([self._level(take, now_ns) for take in plan.takes]))
            decision.keep(answer, bells)

    def lost(self, lease: _Lease, problem: PortError, bells: set[Bell] | None) -> None:
        """No chunk came: those who wait for it decide without the server."""
        with self._lock:
            lease.asking = False
            waiting, lease.waiting, lease.wanted = lease.waiting, [], 0
        for decision in waiting:
            decision.lose(problem, bells)

    def sweep(self, now_ns: int) -> None:
        """Give back what was not used for a second, of some leases each time."""
        ends: list[End] = []
        with self._lock:
            for bucket in list(islice(self._leases, _SWEPT)):
                lease = self._leases.pop(bucket)
                if lease.asking or now_ns - lease.used_ns < _IDLE_NS:
                    self._leases[bucket] = lease
                else:
                    ends += self._retire(lease)
        self._send(ends)

    def give_back(self) -> None:
        """Give back everything now; what is still open has used what it took."""
        with self._lock:
            leases, self._leases = self._leases, {}
            for lease in leases.values():
                lease.chunk.open = 0
            ends = [end for lease in leases.values() for end in self._retire(lease)]
        self._send(ends)

    def _retire(self, lease: _Lease) -> list[End]:
        chunk = lease.chunk
        lease.chunk = _Chunk(b"", 0)
        lease.chunk.current = False
        if not chunk.current:
            return []
        chunk.current = False
        return [self._end_of(lease, chunk)] if not chunk.open else []

    def _ends(self, drawn: Sequence[Drawn]) -> list[End]:
        """The ends of chunks that nobody draws on any more, and of which nothing is open now."""
        done = {
            chunk.id: (lease, chunk) for _, lease, chunk, _ in drawn if chunk and not (chunk.current or chunk.open)
        }
        return [self._end_of(lease, chunk) for lease, chunk in done.values()]

    def _end_of(self, lease: _Lease, chunk: _Chunk) -> End:
        used = None if not chunk.left else chunk.size - chunk.left
        return End(self._host, self._host.now_ns(), chunk.id, lease.plan, [(chunk.size, used)])

    def _send(self, ends: Sequence[End]) -> None:
        for end in ends:
            self._host.send(end)


def _spend(plan: Plan, now_ns: int) -> bool:
    """Draw takes that are all leased and final, or none; as :meth:`Leases.at_once`, but for the levels."""
    if plan.asked or not plan.leases:
        return False
    for index, lease in enumerate(plan.leases):
        left = lease.chunk.left - plan.takes[index].cost
        if left < 0:
            _unspend(plan.takes[:index], plan.leases)
            return False
        lease.chunk.left = left
        lease.used_ns = now_ns
    return True


def _unspend(takes: Sequence[Take], leases: Sequence[_Lease]) -> None:
    for take, lease in zip(takes, leases, strict=False):
        lease.chunk.left += take.cost


def _put_back(drawn: Sequence[Drawn], *, opens: bool) -> None:
    for _, _, chunk, cost in drawn:
        if chunk is not None:
            chunk.left += cost
            chunk.open -= opens


class _Refill(Sent):
    """Asks for a chunk: of ``least`` units at least, at most for all who wait and one chunk beyond."""

    __slots__ = ("_leases", "_least", "id", "lease")

    def __init__(self, leases: Leases, host: Host, begun_ns: int, lease: _Lease, least: int) -> None:
        super().__init__(host, begun_ns)
        self._leases = leases
        self.lease = lease
        self.id = secrets.token_bytes(16)
        plan = lease.plan
        self.slot = plan.slot
        self.keys = argument(wire.id_key(plan.beside, self.id)) + plan.keys
        self.count = 2
        self.size = wire.CHUNK_SIZE
        self._least = least

    def leave(self) -> bool:
        """Now it is known who waits."""
        rate = self.lease.plan.takes[0].rate
        most = min(self.lease.wanted + self.host.chunk_of(rate), wire.UNITS_MAX)
        self.command = wire.chunk_command(rate, self._least, max(self._least, most))
        return True

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """A chunk, or none."""
        (tat,) = wire.read_tats(reply, at, 1)
        status = reply[at]
        if status in {wire.TAKEN, wire.REFUSED}:
            units = wire.read_units(reply, at) if status == wire.TAKEN else 0
            self._leases.refilled(self, units, tat, now, sent_ns, bells)
        else:
            self.lose(PortError("limits", "the server decided too late"), bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """No chunk. What the server may have taken all the same refills."""
        self._leases.lost(self.lease, problem, bells)
