"""Commands of slots on their way to a server. What they are answered by, the store decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tenantguard.adapters.promise import StorePromise
from tenantguard.adapters.redis.sent import Sent
from tenantguard.adapters.slots.redis import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.slots.redis.wire import News, Outcome
    from tenantguard.errors import PortError
    from tenantguard.flow.ports import EnterSlot, Standing


class Host(Protocol):
    """The store, as its commands see it."""

    deadline_s: float
    slot: int

    def told(self, news: Sequence[News], bells: set[Bell]) -> None:
        """What was decided of tickets that wait."""
        ...

    def decided(self, entering: Entering, outcome: Outcome, bells: set[Bell]) -> None:
        """What became of an entering."""
        ...

    def lost(self, entering: Entering, problem: PortError, bells: set[Bell] | None) -> None:
        """The server gives no answer to an entering."""
        ...

    def late(self, entering: Entering) -> Any:
        """What is answered to who has waited long enough."""
        ...

    def left(self, leaving: bytes) -> None:
        """The server has ended a ticket."""
        ...

    def heard(
        self,
        ids: Sequence[bytes],
        outcomes: Sequence[Outcome],
        processes: int,
        rest: Sequence[bytes],
        bells: set[Bell],
    ) -> None:
        """Where tickets of this process stand, and how many processes there are; ``rest`` is still to be asked."""
        ...

    def restored(self, asked: bytes, outcome: Outcome, bells: set[Bell]) -> None:
        """What became of a ticket that the server had forgotten."""
        ...

    def missed(self, bells: set[Bell] | None) -> None:
        """The server did not answer something for which nobody waits."""
        ...


class Waiting(StorePromise):
    """The turn of a ticket that waits at the server as ``number``, until ``until_ns`` of this machine."""

    __slots__ = ("entering", "number", "until_ns")
    port = "slots"
    patient = True

    def __init__(self, entering: EnterSlot, number: int, left_ns: int, now_ns: int) -> None:
        super().__init__(left_ns / 1e9)
        self.entering = entering
        self.number = number
        self.until_ns = now_ns + left_ns


class Entering(Sent):
    """Whether a ticket may enter; where it has to wait, the answer is a :class:`Waiting`.

    ``early`` is what was told of it before the answer was read.
    """

    __slots__ = ("early", "entering")
    port = "slots"
    host: Host

    def __init__(self, host: Host, begun_ns: int, entering: EnterSlot, command: bytes) -> None:
        super().__init__(host, begun_ns)
        self.entering = entering
        self.early: list[News] = []
        self.keys, self.count, self.command, self.slot = wire.KEYS, 1, command, host.slot

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """Decided."""
        news, here = wire.read_news(reply, at)
        self.host.told(news, bells)
        outcome, end = wire.read_outcome(reply, here)
        self.size = end - at
        self.host.decided(self, outcome, bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """It is decided without the server."""
        self.host.lost(self, problem, bells)

    def late(self) -> Any:
        """The answer of this process, where the server gave none in time."""
        return self.host.late(self)


class Unheard:
    """A command that is to arrive, though nobody waits for it."""

    def __init__(self, host: Host, begun_ns: int, command: bytes) -> None:
        self.host = host
        self.begun_ns = begun_ns
        self.keys, self.count, self.command, self.slot = wire.KEYS, 1, command, host.slot
        self.size = 0

    def leave(self) -> bool:
        """It is wanted."""
        return True

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """Done."""
        news, here = wire.read_news(reply, at)
        self.host.told(news, bells)
        self.size = self.read(reply, here, bells) - at

    def read(self, reply: bytes, at: int, bells: set[Bell]) -> int:
        """Read what is this command's own; the answer is where it ends."""
        raise NotImplementedError

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """The next beat says it again, in other words."""
        self.host.missed(bells)


class Leaving(Unheard):
    """Ends a ticket."""

    def __init__(self, host: Host, begun_ns: int, leaving: bytes, command: bytes) -> None:
        super().__init__(host, begun_ns, command)
        self._leaving = leaving

    def read(self, reply: bytes, at: int, bells: set[Bell]) -> int:
        """It has ended."""
        self.host.left(self._leaving)
        return at


class Beat(Unheard):
    """Says that the process lives, and asks where its tickets stand: of ``ids``, before ``rest``."""

    def __init__(
        self, host: Host, begun_ns: int, ids: Sequence[bytes], rest: Sequence[bytes], command: bytes
    ) -> None:
        super().__init__(host, begun_ns, command)
        self._ids = ids
        self._rest = rest

    def read(self, reply: bytes, at: int, bells: set[Bell]) -> int:
        """There they stand."""
        processes, at = wire.read_number(reply, at)
        outcomes = []
        for _ in self._ids:
            outcome, at = wire.read_outcome(reply, at)
            outcomes.append(outcome)
        self.host.heard(self._ids, outcomes, processes, self._rest, bells)
        return at


class Restoring(Unheard):
    """Puts back a ticket that the server has forgotten."""

    def __init__(self, host: Host, begun_ns: int, asked: bytes, command: bytes) -> None:
        super().__init__(host, begun_ns, command)
        self._asked = asked

    def read(self, reply: bytes, at: int, bells: set[Bell]) -> int:
        """It is there again, or may not be."""
        outcome, at = wire.read_outcome(reply, at)
        self.host.restored(self._asked, outcome, bells)
        return at


class View(Sent):
    """Some of all tickets; the answer is rows, and after which the next ones are."""

    __slots__ = ()
    port = "slots"
    host: Host

    def __init__(self, host: Host, begun_ns: int, command: bytes) -> None:
        super().__init__(host, begun_ns)
        self.keys, self.count, self.command, self.slot = wire.KEYS, 1, command, host.slot

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """These."""
        _, here = wire.read_news(reply, at)
        rows: list[tuple[int, Standing]]
        rows, after, end = wire.read_view(reply, here)
        self.size = end - at
        self.keep((rows, after), bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """Nobody knows."""
        self.fail(problem, bells)
