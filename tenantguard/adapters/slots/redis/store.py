"""Slots that machines share: the slot store of Redis and Valkey.

The server decides, by one script, as :mod:`tenantguard.rules.slots` says. A process sends its commands in order over
one connection (:mod:`tenantguard.adapters.redis.lane`); what the command of another process decides of its tickets it
reads from a list of its own (:mod:`.keeper`). It knows its own tickets, those that wait and those that are inside,
and says with every beat which these are: so nothing that was lost on the way stays lost, and a server that has
forgotten everything learns it again.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.adapters.processes import watch
from tenantguard.adapters.promise import safely
from tenantguard.adapters.redis.lane import BATCH_MAX
from tenantguard.adapters.redis.script import instant
from tenantguard.adapters.redis.servers import open_servers
from tenantguard.adapters.slots.memory import WAITING_MAX, check
from tenantguard.adapters.slots.redis import wire
from tenantguard.adapters.slots.redis.commands import Beat, Entering, Leaving, Restoring, View, Waiting
from tenantguard.adapters.slots.redis.keeper import Keeper
from tenantguard.adapters.slots.redis.local import LocalSlots
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, LayerError, PortError, PortTimeout
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, NotEntered
from tenantguard.model.sections import OnError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis.connection import ConnectionInterface

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.redis.lane import Asked
    from tenantguard.adapters.slots.redis.wire import News, Outcome
    from tenantguard.flow.ports import Clock, LeaveSlot, Standing

DEADLINE_MS: Final = 50
LEASE_S: Final = 20.0
BEATS: Final = 4
"""How many beats a lease has."""

_WAITED: Final = 0.9
"""The part of a deadline in which the server may answer. The rest is for deciding without it, a crowd of them too."""

_AGAIN_NS: Final = 250_000_000
_TOGETHER: Final = 512
"""The most tickets that a beat names."""

_PAGE: Final = 256
_ENDED: Final = Crowded(NotEntered.ENDED, ())


class _Held(NamedTuple):
    command: EnterSlot
    fence: int
    since_ns: int


class RedisSlots:
    """A slot store in Redis or Valkey, for any number of processes; ``uri`` is a storage address of ``limits``.

    Whether a request may enter, has to wait or is refused is answered within ``deadline_ms``: by the server, or as
    the command's ``on_error`` says. ``LOCAL`` decides with slots of this process, each limit divided by
    ``processes``, or, by default, by as many as the server sees.

    A process that was not heard of for ``lease_s`` seconds loses what it holds; it beats four times in these. At most
    ``waiting_max`` requests wait at the server. ``options`` are redis-py's, as ``limits`` hands them on.

    ``test_clock`` makes the script believe in another time; for tests.
    """

    def __init__(
        self,
        uri: str,
        clock: Clock | None = None,
        *,
        deadline_ms: int = DEADLINE_MS,
        lease_s: float = LEASE_S,
        processes: int | None = None,
        waiting_max: int = WAITING_MAX,
        options: Mapping[str, Any] | None = None,
        test_clock: Clock | None = None,
    ) -> None:
        if deadline_ms < 1 or lease_s <= 0 or waiting_max < 0 or (processes is not None and processes < 1):
            raise ConfigurationError(
                "slots: deadline_ms and processes are at least 1, lease_s is more and waiting_max no less than 0"
            )
        self._clock = clock or SystemClock()
        self._now_ns = self._clock.monotonic_ns
        self.deadline_s = _WAITED * deadline_ms / 1000
        self._lease_ns = int(lease_s * 1e9)
        self._waiting_max = waiting_max
        self._processes = processes or 1
        self._counts = processes is None
        self._servers = open_servers(
            uri,
            "slots",
            wire.SCRIPT,
            self._now_ns,
            self.deadline_s,
            options or {},
            links=1,
            together=True,
            tidy=None,
            test_now=None if test_clock is None else lambda: instant(test_clock.wall_ns()),
        )
        self.slot = self._servers.slot_of(wire.KEY)
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._caller = wire.Caller(secrets.token_bytes(16), self._lease_ns)
        self._keeper: Keeper | None = None
        self._beat_at = 0
        self._lock = threading.Lock()
        self._asking: dict[bytes, Entering] = {}
        self._waiting: dict[bytes, Waiting] = {}
        self._held: dict[bytes, _Held] = {}
        self._leaving: set[bytes] = set()
        self._local: LocalSlots | None = None

    def execute(self, command: EnterSlot | LeaveSlot, /) -> Any:
        """A promise for who enters, whose answer may be another, of a turn; None for who leaves."""
        if isinstance(command, EnterSlot):
            return self._enter(command)
        return self._leave(command.id)

    def standing(self, prefix: str = "") -> list[Standing]:
        """Who is inside and who waits, of keys that begin with ``prefix``: by key, those inside first.

        As the server has it; :class:`PortError` where that does not answer.
        """
        rows: list[tuple[int, Standing]] = []
        after = b""
        while True:
            view = View(self, self._now_ns(), wire.view_command(_PAGE, after))
            if not self._send(view):
                raise PortError("slots", "the server does not answer")
            if not view.wait(self.deadline_s):
                raise PortTimeout("slots", self.deadline_s)
            found, after = view.result()
            rows += found
            if not after:
                break
        rows = [row for row in rows if row[1].key.startswith(prefix)]
        rows.sort(key=lambda row: (row[1].key, not row[1].holds, -row[1].for_ns, row[0]))
        return [row for _, row in rows]

    def close(self) -> None:
        """Refuse whoever waits, send what is queued, and end threads and connections.

        Who is inside stays there until it leaves, or for a lease.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            local, self._local = self._local, None
            keeper, self._keeper = self._keeper, None
            self._leaving |= waiting.keys()
        for each in waiting.values():
            each.fail(PortError("slots", "closed while a request waited for a slot"))
        if local is not None:
            local.close()
        if keeper is not None:
            keeper.end()
        self._send_leavings(list(waiting))
        self._servers.close()

    def forget(self) -> None:
        """In a forked child: what is held, and who waits, is the parent's."""
        self._servers.begin()
        self._begin()

    def __repr__(self) -> str:
        return f"RedisSlots({len(self._held)} inside, {len(self._waiting)} waiting, {self._processes} processes)"

    # entering and leaving

    def _enter(self, command: EnterSlot) -> Entering:
        check(command)
        if len(command.id) != wire.ID_BYTES:
            raise LayerError(f"an id of {wire.ID_BYTES} bytes names who enters")
        packed = wire.enter_command(self._caller, command, self._waiting_max)
        entering = Entering(self, self._now_ns(), command, packed)
        with self._lock:
            first = self._asking.setdefault(command.id, entering)
            if first is not entering:
                return first
            if self._keeper is None:
                self._start()
        if entering.begun_ns >= self._beat_at:  # a slot whose leaving was lost is free for this one
            self.beat_when_due()
        if not self._send(entering):
            self.lost(entering, PortError("slots", "the server does not answer"), None)
        return entering

    def _start(self) -> None:
        """Say that this process is there, and begin to listen."""
        self.beat_when_due()
        beat_s = self._lease_ns / BEATS / 1e9

        def connection() -> ConnectionInterface:
            return self._servers.connection(self.slot, beat_s + 2 * self.deadline_s)

        self._keeper = Keeper(self, wire.news_key(self._caller.process), connection)

    def _leave(self, left: bytes) -> None:
        with self._lock:
            entering = self._asking.pop(left, None)
            if entering is not None and not entering.claim():
                entering = None
            waiting = self._waiting.pop(left, None)
            known = self._held.pop(left, None) is not None or entering is not None or waiting is not None
            local = self._local
            if known:
                self._leaving.add(left)
            if local is not None:
                local.leave(left)
                if local.is_idle and self._servers.breaker_of(self.slot).closed:
                    self._local = None
        for promise in (entering, waiting):
            if promise is not None:
                promise.keep(_ENDED)
        if known or local is None:  # who was never seen is barred
            self._send(*self._leavings([left]))

    def decided(self, entering: Entering, outcome: Outcome, bells: set[Bell]) -> None:
        """What became of an entering."""
        command, answer = entering.entering, outcome
        with self._lock:
            is_mine = entering.claim()
            if is_mine:
                self._asking.pop(command.id, None)
                if isinstance(outcome, Entered):
                    self._hold(command, outcome)
                elif isinstance(outcome, wire.Waits):
                    answer = self._wait(entering, outcome)
            elif isinstance(outcome, Entered | wire.Waits):  # nobody waits for it any more
                self._leaving.add(command.id)
        if not is_mine:
            if isinstance(outcome, Entered | wire.Waits):
                self._send(*self._leavings([command.id]))
        elif isinstance(outcome, wire.Late):
            self._answer_alone(entering, PortError("slots", "the server is too slow"), bells)
        else:
            entering.keep(answer, bells)

    def _hold(self, command: EnterSlot, entered: Entered) -> None:
        self._held[command.id] = _Held(command, entered.fence, self._now_ns())
        if self._local is not None:
            self._local.hold(command, self._processes)

    def _wait(self, entering: Entering, waits: wire.Waits) -> Any:
        """The turn of a ticket, or what has been decided of it meanwhile."""
        command = entering.entering
        waiting = self._waiting.get(command.id)
        if waiting is not None and waiting.number == waits.number:
            return waiting
        for news in entering.early:
            if news.number == waits.number:
                if isinstance(news.outcome, Entered):
                    self._hold(command, news.outcome)
                return news.outcome
        waiting = self._waiting[command.id] = Waiting(command, waits.number, waits.left_ns, self._now_ns())
        return waiting

    def told(self, news: Iterable[News], bells: set[Bell]) -> None:
        """What was decided of tickets that wait."""
        for one in news:
            with self._lock:
                waiting = self._waiting.get(one.id)
                if waiting is None or waiting.number != one.number:
                    entering = self._asking.get(one.id)
                    if entering is not None:
                        entering.early.append(one)
                    continue
                del self._waiting[one.id]
                if isinstance(one.outcome, Entered):
                    self._hold(waiting.entering, one.outcome)
            waiting.keep(one.outcome, bells)

    # without the server

    def lost(self, entering: Entering, problem: PortError, bells: set[Bell] | None) -> None:
        """The server gives no answer to an entering."""
        if self._take_back(entering, sent=entering.sent):
            self._answer_alone(entering, problem, bells)
            if entering.sent:
                self._send(*self._leavings([entering.entering.id]))
        self.missed(bells)

    def late(self, entering: Entering) -> Any:
        """What is answered to who has waited long enough."""
        if not self._take_back(entering, sent=True):  # or about to be
            return entering.settled()
        self._answer_alone(entering, PortTimeout("slots", self.deadline_s), None)
        self._send(*self._leavings([entering.entering.id]))
        return entering.result()

    def _take_back(self, entering: Entering, *, sent: bool) -> bool:
        """Whether the caller is to answer; what the server made or will make of one that was sent is to be ended."""
        with self._lock:
            if not entering.claim():
                return False
            self._asking.pop(entering.entering.id, None)
            if sent:
                self._leaving.add(entering.entering.id)
            return True

    def _answer_alone(self, entering: Entering, problem: PortError, bells: set[Bell] | None) -> None:
        try:
            answer = self._alone(entering.entering, problem)
        except PortError as failed:
            entering.fail(failed, bells)
        else:
            entering.keep(answer, bells)

    def _alone(self, command: EnterSlot, problem: PortError) -> Any:
        """As ``on_error`` says. No :class:`PortTimeout`: that would say that the request's turn did not come."""
        if command.on_error is OnError.CLOSED:
            raise PortError("slots", problem.problem)
        if command.on_error is OnError.OPEN:
            return Entered(0, degraded=True)
        with self._lock:
            local = self._local
            if local is None:
                local = self._local = LocalSlots(self._clock, self._waiting_max)
                for held in self._held.values():
                    local.hold(held.command, self._processes)
            return local.enter(command, self._processes)

    def missed(self, bells: set[Bell] | None) -> None:
        """Where the server is believed dead, whoever waits there for a turn waits, or is answered, here.

        Else the next beat is due: it says what was lost.
        """
        if self._servers.breaker_of(self.slot).closed:
            self._beat_at = 0
            return
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._leaving |= waiting.keys()
        problem = PortError("slots", "the server does not answer")
        for each in waiting.values():
            left_ns = each.until_ns - self._now_ns()
            try:
                each.keep(self._alone(_shortened(each.entering, left_ns), problem), bells)
            except PortError as failed:
                each.fail(failed, bells)

    # what keeps it true

    def left(self, leaving: bytes) -> None:
        """The server has ended a ticket."""
        self._leaving.discard(leaving)

    def heard(
        self,
        ids: Sequence[bytes],
        outcomes: Sequence[Outcome],
        processes: int,
        rest: Sequence[bytes],
        bells: set[Bell],
    ) -> None:
        """Compare where the server says that tickets stand with where they should."""
        now_ns = self._now_ns()
        self._beat_at = now_ns + self._lease_ns // BEATS
        if self._counts:
            self._processes = max(1, processes)
        for asked, outcome in zip(ids, outcomes, strict=True):
            with self._lock:
                held, waiting = self._held.get(asked), self._waiting.get(asked)
                if waiting is not None and isinstance(outcome, wire.Waits):
                    waiting.number = outcome.number
            if waiting is not None and isinstance(outcome, Entered):
                self.told([wire.News(asked, waiting.number, outcome)], bells)
            elif isinstance(outcome, wire.Unknown):
                self._restore(asked, held, waiting, now_ns, bells)
        if rest:
            self._beat(rest)

    def _restore(
        self, asked: bytes, held: _Held | None, waiting: Waiting | None, now_ns: int, bells: set[Bell]
    ) -> None:
        if held is not None:
            packed = wire.enter_command(
                self._caller, held.command, self._waiting_max, fence=held.fence, age_ns=now_ns - held.since_ns
            )
        elif waiting is not None:
            left_ns = waiting.until_ns - now_ns
            if left_ns <= 0:
                self.told([wire.News(asked, waiting.number, Crowded(NotEntered.WAITED, ()))], bells)
                return
            packed = wire.enter_command(self._caller, _shortened(waiting.entering, left_ns), self._waiting_max)
        else:
            return
        with self._lock:  # between a look and a leaving nothing is put back
            if asked in self._held or asked in self._waiting:
                self._send(Restoring(self, now_ns, asked, packed))

    def restored(self, asked: bytes, outcome: Outcome, bells: set[Bell]) -> None:
        """What became of a ticket that the server had forgotten."""
        with self._lock:
            waiting = self._waiting.get(asked)
            if waiting is not None and isinstance(outcome, wire.Waits):
                waiting.number = outcome.number
        if waiting is not None and isinstance(outcome, Entered | Crowded):
            self.told([wire.News(asked, waiting.number, outcome)], bells)

    # the keeper's

    def beat_when_due(self) -> float:
        """Say that this process lives, and what it has, where that is due; seconds until it is due again."""
        now_ns = self._now_ns()
        if now_ns >= self._beat_at and self._servers.breaker_of(self.slot).closed:
            self._beat_at = now_ns + min(_AGAIN_NS, self._lease_ns // BEATS)
            self._beat([*list(self._held), *list(self._waiting)])
            self._send_leavings(list(self._leaving))
        return (self._beat_at - now_ns) / 1e9

    def _beat(self, ids: Sequence[bytes]) -> None:
        """Name some tickets; the others follow when the server has answered, and meanwhile it answers others."""
        some, rest = ids[:_TOGETHER], ids[_TOGETHER:]
        self._send(Beat(self, self._now_ns(), some, rest, wire.beat_command(self._caller, some)))

    def is_reachable(self) -> bool:
        """Whether the server is to be asked; where it is not, a probe is sent when that is due."""
        breaker = self._servers.breaker_of(self.slot)
        if not breaker.closed:
            self._beat_at = 0
            self.missed(None)
            self._send()
        return breaker.closed

    def read(self, message: bytes) -> None:
        """What another process's command decided."""
        bells: set[Bell] = set()
        self.told(wire.read_message(message), bells)
        for bell in bells:
            safely(bell)

    def unheard(self, failure: Exception) -> None:
        """The keeper's connection failed: find out by a beat whether the server has."""
        self._servers.breaker_of(self.slot).failed(type(failure).__name__, self._now_ns())
        self._beat_at = 0

    def _leavings(self, ids: Iterable[bytes]) -> list[Leaving]:
        now_ns = self._now_ns()
        return [Leaving(self, now_ns, each, wire.leave_command(self._caller, each)) for each in ids]

    def _send_leavings(self, ids: Sequence[bytes]) -> None:
        for at in range(0, len(ids), BATCH_MAX):  # a trip takes all that is sent together
            self._send(*self._leavings(ids[at : at + BATCH_MAX]))

    def _send(self, *asked: Asked) -> bool:
        """Send commands; False where the server is not asked now, but for a probe when that is due."""
        breaker = self._servers.breaker_of(self.slot)
        if breaker.closed:
            return not asked or self._servers.submit(asked)
        if breaker.due(self._now_ns()):
            self._servers.probe(self.slot)
        return False


def _shortened(command: EnterSlot, left_ns: int) -> EnterSlot:
    """The same for whoever has waited already."""
    left_ns = max(left_ns, 1000)
    claims = tuple([replace(claim, wait_ns=min(claim.wait_ns, left_ns)) for claim in command.claims])
    return replace(command, claims=claims, deadline_ns=None)
