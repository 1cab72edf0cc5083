"""Commands on their way to a server, and who answers them: the thread that sent them, or the one that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tenantguard.adapters.limits.redis import wire
from tenantguard.adapters.redis import sent
from tenantguard.adapters.redis.script import argument
from tenantguard.errors import PortError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.redis.lane import Asked
    from tenantguard.flow.ports import Shortage, Take, Taken, TakeTokens
    from tenantguard.model.rate import Rate


class Plan:
    """How takes are asked for: what the server is told of those that it decides, and which are leased.

    ``indexes`` are those of ``asked``, which the server decides, and ``leased`` the others; ``leases`` are theirs,
    as they were last found.
    """

    __slots__ = (
        "asked", "beside", "count", "final", "indexes", "keys", "leased", "leases", "slot", "takes", "undoable",
    )  # fmt: skip

    def __init__(self, takes: tuple[Take, ...], leased: tuple[int, ...], keys: Sequence[bytes], slot: int) -> None:
        wire.check(takes)
        self.takes = takes
        self.leased = leased
        self.leases: Sequence[Any] = ()
        self.indexes = tuple([index for index in range(len(takes)) if index not in leased])
        self.asked = tuple([takes[index] for index in self.indexes])
        self.keys = b"".join([argument(key) for key in keys])
        self.beside = keys[0] if keys else b""
        self.count = len(keys)
        self.slot = slot
        drawn = wire.draws(self.asked)
        self.final = wire.take_command(drawn, with_id=False)
        self.undoable = wire.take_command(drawn, with_id=True)


class Host(Protocol):
    """The store, as its commands and leases see it."""

    deadline_s: float
    now_ns: Callable[[], int]

    def decided(self, decision: Decision, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """The server's answer to a decision that was claimed."""
        ...

    def alone(self, decision: Decision, problem: PortError | None, bells: set[Bell] | None) -> None:
        """Answer a decision that was claimed, without the server; without a problem, it was too late."""
        ...

    def undo(self, decision: Decision) -> None:
        """Give back what the server may have taken, and bar the id where it has not yet."""
        ...

    def go_on(self, decision: Decision, bells: set[Bell] | None) -> Any:
        """Ask the server for what is not leased."""
        ...

    def saw(self, takes: Sequence[Take], tats: list[int], now: int, sent_ns: int) -> None:
        """Remember buckets as the server has them."""
        ...

    def last_level(self, take: Take, now_ns: int) -> tuple[int, int]:
        """A bucket as it was last seen."""
        ...

    def chunk_of(self, rate: Rate) -> int:
        """How many units a lease takes at once."""
        ...

    def key_of(self, bucket: str) -> bytes:
        """The key of a bucket."""
        ...

    def slot_of(self, key: bytes) -> int:
        """The slot of a key."""
        ...

    def send(self, *asked: Asked) -> bool:
        """Send commands of one slot together; False where the server is not asked now."""
        ...


class Sent(sent.Sent):
    """A command of limits."""

    __slots__ = ()
    port = "limits"
    host: Host


class Decision(Sent):
    """A taking. ``drawn`` is what it has of leases; ``local`` says that this process decided by itself."""

    __slots__ = ("drawn", "local", "plan", "taking")

    def __init__(self, host: Host, begun_ns: int, taking: TakeTokens, plan: Plan) -> None:
        super().__init__(host, begun_ns)
        self.taking = taking
        self.plan = plan
        self.slot = plan.slot
        self.drawn: Sequence[Any] = ()
        self.local = False

    def prepare(self) -> None:
        """Make the command for the server."""
        plan, taking = self.plan, self.taking.id
        self.size = wire.size(plan.count)
        if taking is None:
            self.keys, self.count, self.command = plan.keys, plan.count, plan.final
        else:
            self.keys = argument(wire.id_key(plan.beside, taking)) + plan.keys
            self.count, self.command = plan.count + 1, plan.undoable

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """Decided; what comes too late is given back."""
        if self.claim():
            try:
                self.host.decided(self, reply, at, now, sent_ns, bells)
            except Exception:
                self.host.alone(self, PortError(self.port, "the server answers what nobody understands"), bells)
                raise
        elif reply[at] == wire.TAKEN:
            self.host.undo(self)

    def answer_with(self, answer: Taken | Shortage, bells: set[Bell] | None) -> None:
        """Answer without a server, unless somebody else did."""
        if self.claim():
            self.keep(answer, bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """Decide without the server."""
        if self.claim():
            self.host.alone(self, problem, bells)

    def late(self) -> Any:
        """The answer of this process, where the server gave none in time."""
        if self.claim():
            self.host.alone(self, None, None)
            return self.result()
        return self.settled()


class End(Sent):
    """The end of a taking; its answer is None, also where it is lost.

    ``used`` has for each take that the server decided the units that were taken and used, None for as many.
    """

    __slots__ = ("takes",)

    def __init__(
        self, host: Host, begun_ns: int, taking: bytes, plan: Plan, used: Sequence[tuple[int, int | None]]
    ) -> None:
        super().__init__(host, begun_ns)
        self.takes = plan.asked
        self.slot = plan.slot
        self.keys = argument(wire.id_key(plan.beside, taking)) + plan.keys
        self.count = plan.count + 1
        self.size = wire.size(plan.count)
        self.command = wire.settle_command(
            [(take.rate, cost, units) for take, (cost, units) in zip(plan.asked, used, strict=True)]
        )

    def leave(self) -> bool:
        """It is wanted, though nobody waits, but not for ever."""
        return self.host.now_ns() - self.begun_ns <= 2 * self.deadline_s * 1e9

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """Ended."""
        self.host.saw(self.takes, wire.read_tats(reply, at, len(self.takes)), now, sent_ns)
        if self.claim():
            self.keep(None, bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """What was taken stays taken; a server that suffers is not asked again."""
        if self.claim():
            self.keep(None, bells)

    def late(self) -> None:
        """It goes on without the caller."""


class Refill(Sent):
    """Makes a bucket full; its answer is None."""

    __slots__ = ()

    def __init__(self, host: Host, begun_ns: int, key: bytes) -> None:
        super().__init__(host, begun_ns)
        self.slot = host.slot_of(key)
        self.keys, self.count = argument(key), 1
        self.command, self.size = wire.REFILL_COMMAND, wire.size(1)

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """It is full."""
        self.keep(None, bells)

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """It may be as it was."""
        self.fail(problem, bells)


class Count(Sent):
    """Asks how many processes there are, and tells ``heard``."""

    __slots__ = ("_heard",)

    def __init__(self, host: Host, begun_ns: int, process: bytes, heard: Callable[[int], None]) -> None:
        super().__init__(host, begun_ns)
        self._heard = heard
        self.slot = host.slot_of(wire.COUNTED)
        self.keys, self.count = argument(wire.COUNTED), 1
        self.command, self.size = wire.count_command(process), wire.COUNT_SIZE

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """So many."""
        self._heard(max(1, wire.read_count(reply, at)))

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """It is asked again."""
