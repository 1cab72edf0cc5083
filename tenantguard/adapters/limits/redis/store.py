"""Token buckets that machines share: the limit store of Redis and Valkey.

Who asks is answered by a promise, which a thread of :mod:`.lane` keeps. Whether that thread or the one that waits
gives the answer is decided by a claim, which only one of them gets: so a decision that the server gave too late is
given back, and nobody waits beyond the deadline, whatever the server, the network or the thread does.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.limits.memory import ENDED
from tenantguard.adapters.limits.redis import wire
from tenantguard.adapters.limits.redis.commands import Count, Decision, End, Plan, Refill
from tenantguard.adapters.limits.redis.fallback import Fallback, unlimited
from tenantguard.adapters.limits.redis.leases import Leases
from tenantguard.adapters.processes import watch
from tenantguard.adapters.redis.script import instant
from tenantguard.adapters.redis.servers import open_servers
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, LayerError, PortError, PortTimeout
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Taken, TakeTokens
from tenantguard.model.rate import TICKS_PER_NANO, Rate
from tenantguard.model.sections import OnError
from tenantguard.rules.bucket import Overdrawn, draw_all, level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.redis.lane import Asked
    from tenantguard.flow.ports import Clock, Level, Take
    from tenantguard.rules.bucket import Draw

DEADLINE_MS: Final = 50
LINKS: Final = 2

_WAITED: Final = 0.9
"""The part of a deadline in which the server may answer. The rest is for deciding without it, a crowd of them too."""

_DENIED_NS: Final = 250_000_000
_DENIED_MAX: Final = 16_384
_PLANS_MAX: Final = 8192
_KEYS_MAX: Final = 16_384
_BARRED_NS: Final = 60_000_000_000
_COUNTED_NS: Final = 10_000_000_000
_TENTH_NS: Final = 100_000_000


class RedisLimits:
    """A limit store in Redis or Valkey, for any number of processes; ``uri`` is a storage address of ``limits``.

    Every decision is answered within ``deadline_ms``, connecting included: by the server, or as the command's
    ``on_error`` says. ``LOCAL`` decides with buckets of this process, each with its share of the rate: one of
    ``processes``, or, by default, of as many as the server has seen in the last half minute.

    ``coalesce`` lets one call of the script decide for all that wait. ``lease`` takes up to so many units of a bucket
    at once, for decisions without the server (:mod:`.leases` says how many are stranded at most); 0 does that only in
    a cluster, for the buckets that tenants share. After a refusal the same is refused by this process, until it would
    be granted or for a quarter of a second. ``options`` are redis-py's, as ``limits`` hands them on.

    ``test_clock`` makes the script believe in another time; for tests.
    """

    def __init__(
        self,
        uri: str,
        clock: Clock | None = None,
        *,
        deadline_ms: int = DEADLINE_MS,
        processes: int | None = None,
        coalesce: bool = True,
        lease: int = 0,
        options: Mapping[str, Any] | None = None,
        test_clock: Clock | None = None,
    ) -> None:
        if deadline_ms < 1 or lease < 0 or (processes is not None and processes < 1):
            raise ConfigurationError("limits: deadline_ms and processes are at least 1, lease at least 0")
        self._clock = clock or SystemClock()
        self.deadline_s = _WAITED * deadline_ms / 1000
        self.now_ns: Callable[[], int] = self._clock.monotonic_ns
        self.processes = processes or 1
        self._counts = processes is None
        self._lease = min(lease, wire.UNITS_MAX)
        self._servers = open_servers(
            uri,
            "limits",
            wire.SCRIPT,
            self.now_ns,
            self.deadline_s,
            options or {},
            links=LINKS,
            together=coalesce,
            tidy=self._tidy if lease or "+cluster:" in uri else None,
            test_now=None if test_clock is None else lambda: instant(test_clock.wall_ns()),
        )
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._process = secrets.token_bytes(16)
        self._count_at = 0
        self._fallback = Fallback(self._clock)
        self._leases = Leases(self)
        self._plans: dict[int, Plan] = {}
        self._plans_before: dict[int, Plan] = {}
        self._keys: dict[str, bytes] = {}
        self._open: dict[bytes, Decision] = {}
        self._denied: dict[str, tuple[int, int]] = {}  # until when, and how much later its TAT may be
        self._barring = threading.Lock()
        self._barred: set[bytes] = set()
        self._barred_before: set[bytes] = set()
        self._barred_since = 0

    def execute(self, command: TakeTokens | ReturnTokens | SettleTokens, /) -> Any:
        """The command's answer, or a promise of it."""
        if isinstance(command, TakeTokens):
            return self._take(command)
        return self._end(command)

    def refill(self, bucket: str) -> Refill:
        """Make a bucket full: a promise of None, or :class:`PortError` where the server cannot be asked.

        Another process that was refused a moment ago may refuse for a quarter of a second more.
        """
        self._denied.pop(bucket, None)
        self._fallback.refill(bucket)
        refill = Refill(self, self.now_ns(), self.key_of(bucket))
        if not self.send(refill):
            raise PortError("limits", "the server does not answer")
        return refill

    def take_in_place(self, takes: tuple[Take, ...], /, *, final: bool = True) -> Taken | Shortage | None:
        """Take finally, where leases have enough; refuse where a refusal is remembered; else None."""
        if not final:
            return self._denial(takes, self.now_ns()) if self._denied else None
        plan = self._plans.get(id(takes)) or self._planned(takes)
        now_ns = self.now_ns()
        if plan.leases and not plan.asked:
            return self._leases.at_once(plan, now_ns)
        return self._denial(takes, now_ns) if self._denied else None

    def close(self) -> None:
        """Give leases back, send what is queued, and end threads and connections."""
        self._leases.give_back()
        self._servers.close()

    def forget(self) -> None:
        """In a forked child: what is leased, open or on its way is the parent's."""
        self._servers.begin()
        self._begin()

    def __repr__(self) -> str:
        return f"RedisLimits({len(self._open)} open ids, {self.processes} processes)"

    # taking

    def _take(self, command: TakeTokens) -> Any:
        taking, takes = command.id, command.takes
        plan = self._plans.get(id(takes)) or self._planned(takes)
        now_ns = self.now_ns()
        if plan.leases and taking is None and not plan.asked:
            answer = self._leases.at_once(plan, now_ns)
            if answer is not None:
                return answer
        decision = Decision(self, now_ns, command, plan)
        if taking is not None:
            if taking in self._barred or taking in self._barred_before:
                return ENDED
            first = self._open.setdefault(taking, decision)
            if first is not decision:
                return first
        if now_ns >= self._count_at and self._counts:
            self._count(now_ns)
        if self._denied:
            denial = self._denial(takes, now_ns)
            if denial is not None:
                decision.answer_with(denial, None)
                return denial
        if not plan.leased or self._leases.draw(decision, now_ns):
            return self.go_on(decision, None)
        return decision

    def go_on(self, decision: Decision, bells: set[Bell] | None) -> Any:
        """Ask the server for what is not leased; the answer is there at once where that is nothing."""
        plan = decision.plan
        if not plan.asked:
            if not decision.claim():
                self._leases.put_back(decision)
                return decision
            answer = self._leases.taken(decision, self.now_ns())
            decision.keep(answer, bells)
            return answer
        if plan.leased and not decision.waits():
            self._leases.put_back(decision)
            return decision
        decision.prepare()
        if not self.send(decision):
            decision.lose(PortError("limits", "the server does not answer"), bells)
        return decision

    def send(self, *asked: Asked) -> bool:
        """Send commands of one slot; False where the server is not asked now, but for a probe when that is due."""
        slot = asked[0].slot
        breaker = self._servers.breaker_of(slot)
        if breaker.closed:
            return self._servers.submit(asked)
        if breaker.due(self.now_ns()):
            self._servers.probe(slot)
        return False

    def decided(self, decision: Decision, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """The server's answer to a decision that was claimed."""
        plan = decision.plan
        takes = plan.asked
        status = reply[at]
        tats = wire.read_tats(reply, at, len(takes))
        self.saw(takes, tats, now, sent_ns)
        if status == wire.LATE:
            self.alone(decision, None, bells)
            return
        answer: Taken | Shortage
        if status == wire.TAKEN:
            levels = [level(tat, take.rate, now) for take, tat in zip(takes, tats, strict=True)]
            answer = Taken(tuple(levels), wire.read_shadowed(reply, at, len(takes)))
        elif status == wire.REFUSED:
            answer = self._refusal(takes, tats, now, sent_ns)
        elif status == wire.ENDED:
            answer = ENDED
        else:
            raise PortError("limits", "no status that there is")
        if plan.leased and answer is not ENDED:
            answer = self._leases.joined(decision, answer, sent_ns)
        if isinstance(answer, Shortage):
            self._leases.put_back(decision)
        decision.keep(answer, bells)

    def _refusal(self, takes: tuple[Take, ...], tats: list[int], now: int, sent_ns: int) -> Shortage:
        draws: list[Draw[str]] = [
            (take.bucket, tat, take.rate, take.cost, take.shadow) for take, tat in zip(takes, tats, strict=True)
        ]
        refused = draw_all(draws, now)
        assert isinstance(refused, Overdrawn), "the rule grants what the script refuses"
        levels = tuple([level(tat, rate, now) for _, tat, rate, _, _ in draws])
        if refused.retry_after_ns is not None:
            if len(self._denied) >= _DENIED_MAX:
                self._denied.clear()
            denial = sent_ns + min(refused.retry_after_ns, _DENIED_NS), self.now_ns() - sent_ns
            for index in refused.failing:
                self._denied[takes[index].bucket] = denial
        return Shortage(refused.failing, refused.retry_after_ns, levels, refused.shadowed)

    def _denial(self, takes: tuple[Take, ...], now_ns: int) -> Shortage | None:
        """The refusal that the server would give, where one of these was refused a moment ago."""
        denied = self._denied
        doubt_ns = -1
        for take in takes:
            denial = denied.get(take.bucket)
            if denial is not None:
                if now_ns < denial[0]:
                    doubt_ns = max(doubt_ns, denial[1])
                else:
                    denied.pop(take.bucket, None)
        if doubt_ns < 0:
            return None
        now, last_seen = now_ns * TICKS_PER_NANO, self._fallback.last_seen
        draws: list[Draw[str]] = [
            (take.bucket, last_seen(take.bucket), take.rate, take.cost, take.shadow) for take in takes
        ]
        refused = draw_all(draws, now)
        if not isinstance(refused, Overdrawn) or not any(takes[index].bucket in denied for index in refused.failing):
            return None
        wait_ns = refused.retry_after_ns
        if wait_ns is not None:
            wait_ns += doubt_ns
        levels: list[Level] = [level(tat, rate, now) for _, tat, rate, _, _ in draws]
        return Shortage(refused.failing, wait_ns, tuple(levels), refused.shadowed)

    def alone(self, decision: Decision, problem: PortError | None, bells: set[Bell] | None) -> None:
        """Answer a decision that was claimed, as its ``on_error`` says; without a problem, it was too late."""
        self._leases.put_back(decision)
        command = decision.taking
        if command.on_error is OnError.CLOSED:
            decision.fail(problem or PortTimeout("limits", self.deadline_s), bells)
        elif command.on_error is OnError.OPEN:
            decision.keep(unlimited(command.takes), bells)
        else:
            decision.local = True
            retry_ns = self._servers.breaker_of(decision.slot).retry_after_ns(self.now_ns())
            decision.keep(self._fallback.take(command, self.processes, retry_ns), bells)

    def saw(self, takes: Sequence[Take], tats: list[int], now: int, sent_ns: int) -> None:
        """Remember buckets as the server has them: on this process's clock no later than they are."""
        self._fallback.saw(takes, tats, sent_ns * TICKS_PER_NANO - now)

    def last_level(self, take: Take, now_ns: int) -> Level:
        """A bucket as it was last seen."""
        return level(self._fallback.last_seen(take.bucket), take.rate, now_ns * TICKS_PER_NANO)

    # ending

    def _end(self, command: ReturnTokens | SettleTokens) -> End | None:
        ended = command.id
        decision = self._open.get(ended)
        if decision is None:
            self._bar(ended)
            return None
        if decision.claim():  # whoever asked has gone before there was an answer
            self._bar(ended)
            self._open.pop(ended, None)
            self._leases.put_back(decision)
            decision.keep(ENDED)
            if decision.sent:
                self.undo(decision)
            return None
        try:
            answer = decision.settled()
        except PortError:
            answer = None
        plan = decision.plan
        costs = _costs(command, answer, len(plan.takes))
        if self._open.pop(ended, None) is None:
            return None
        if decision.local:
            self._fallback.end(command)
        if answer is None or answer.degraded:
            if decision.sent:
                self.undo(decision)
            return None
        if isinstance(answer, Shortage):
            return None
        if decision.drawn:
            self._leases.end(decision.drawn, costs)
        return self._end_asked(ended, plan, costs) if plan.asked else None

    def _end_asked(self, ended: bytes, plan: Plan, costs: tuple[int | None, ...]) -> End | None:
        """End what the server decided. Nobody waits for it where all that was taken stays so."""
        units = [costs[index] if costs else None for index in plan.indexes]
        used = [(take.cost, unit) for take, unit in zip(plan.asked, units, strict=True)]
        changes = any(unit is not None and unit != cost for cost, unit in used)
        if changes:
            for take in plan.asked:
                self._denied.pop(take.bucket, None)
        end = End(self, self.now_ns(), ended, plan, used)
        return end if self.send(end) and changes else None

    def undo(self, decision: Decision) -> None:
        """Give back what the server may have taken, and bar the id where it has not yet."""
        plan, taking = decision.plan, decision.taking.id
        if taking is not None and plan.asked:
            self.send(End(self, self.now_ns(), taking, plan, [(take.cost, 0) for take in plan.asked]))

    def _bar(self, ended: bytes) -> None:
        with self._barring:
            now_ns = self.now_ns()
            if now_ns - self._barred_since >= _BARRED_NS:
                self._barred_before, self._barred, self._barred_since = self._barred, set(), now_ns
            self._barred.add(ended)

    # the rest

    def _planned(self, takes: tuple[Take, ...]) -> Plan:
        """The plan of takes that are asked for again, or for the first time. Of older ones a few go each time."""
        before = self._plans_before
        plan = before.pop(id(takes), None) or self._plan(takes)
        with suppress(KeyError):  # thousands at once would hold everybody up for 40 ms
            before.popitem()
            before.popitem()
        if len(self._plans) >= _PLANS_MAX and not before:
            self._plans_before, self._plans = self._plans, {}
        self._plans[id(takes)] = plan
        return plan

    def _plan(self, takes: tuple[Take, ...]) -> Plan:
        leased = tuple([index for index, take in enumerate(takes) if self._is_leased(take)])
        keys = [self.key_of(take.bucket) for index, take in enumerate(takes) if index not in leased]
        return Plan(takes, leased, keys, self._servers.slot_of(keys[0]) if keys else 0)

    def _is_leased(self, take: Take) -> bool:
        if self._servers.clustered and wire.is_shared(take.bucket):
            return True
        return self._lease > 0 and not take.shadow and self.chunk_of(take.rate) > 1

    def chunk_of(self, rate: Rate) -> int:
        """How many units a lease takes at once."""
        a_tenth = rate.amount * _TENTH_NS // rate.period_ns
        most = min(a_tenth, rate.burst // 4) // self.processes
        return max(1, min(self._lease or wire.UNITS_MAX, most))

    def key_of(self, bucket: str) -> bytes:
        """The key of a bucket."""
        key = self._keys.get(bucket)
        if key is None:
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
            key = self._keys[bucket] = wire.redis_key(bucket)
        return key

    def slot_of(self, key: bytes) -> int:
        """The slot of a key."""
        return self._servers.slot_of(key)

    def _count(self, now_ns: int) -> None:
        self._count_at = now_ns + _COUNTED_NS
        self.send(Count(self, now_ns, self._process, self._counted))

    def _counted(self, processes: int) -> None:
        self.processes = processes

    def _tidy(self) -> None:
        self._leases.sweep(self.now_ns())


def _costs(
    command: ReturnTokens | SettleTokens, answer: Taken | Shortage | None, takes: int
) -> tuple[int | None, ...]:
    """What each take is settled with; empty where all stays as it is."""
    if isinstance(command, ReturnTokens):
        return (0,) * takes
    costs = command.costs
    if costs and isinstance(answer, Taken) and len(costs) != takes:
        raise LayerError("what is settled has one number for each take, or none at all")
    if any(cost is not None and cost < 0 for cost in costs):
        raise LayerError("what is settled is never negative: it would mint tokens")
    return costs
