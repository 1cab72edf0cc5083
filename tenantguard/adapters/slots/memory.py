"""Slots in the memory of one process, decided by the pure rule.

No thread watches over who waits: a driver that has waited for a promise's deadline gives the place in the queue up
itself, and every command ends what is over. A slot has no lease, since whoever holds it ends with the process.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from tenantguard.adapters.processes import watch
from tenantguard.adapters.promise import StorePromise, safely
from tenantguard.errors import ConfigurationError, LayerError, PortError
from tenantguard.flow.ports import Crowded, EnterSlot, LeaveSlot, NotEntered
from tenantguard.rules.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.adapters.promise import Bell
    from tenantguard.flow.ports import Clock, Entered, Standing

WAITING_MAX: Final = 10_000


class SlotPromise(StorePromise):
    """The answer to whoever waits for slots."""

    __slots__ = ()
    port = "slots"
    patient = True


_Told: TypeAlias = "tuple[SlotPromise, Entered | Crowded]"


class MemorySlots:
    """A slot store for the threads and event loops of one process.

    At most ``waiting_max`` requests wait in it, whatever their policies say. A forked child begins without any.
    """

    promise: ClassVar[type[SlotPromise]] = SlotPromise

    def __init__(self, clock: Clock, *, waiting_max: int = WAITING_MAX) -> None:
        if waiting_max < 0:
            raise ConfigurationError("a slot store lets no less than 0 requests wait")
        self._monotonic_ns = clock.monotonic_ns
        self._waiting_max = waiting_max
        self.forget()
        watch(self)

    def forget(self) -> None:
        """Let go of what belongs to another process."""
        self._lock = threading.Lock()
        self._slots = Slots(waiting_max=self._waiting_max)
        self._promises: dict[bytes, SlotPromise] = {}

    def execute(self, command: EnterSlot | LeaveSlot, /) -> Any:
        """Answer at once, or by a promise for whoever has to wait."""
        answer: Any = None
        with self._lock:
            slots = self._slots
            now = self._monotonic_ns()
            if isinstance(command, EnterSlot):
                check(command)
                answer = slots.enter(command.id, command.owner, command.claims, command.deadline_ns, now)
            else:
                slots.leave(command.id, now)
            told = self._told() if slots.told else []
            if isinstance(command, LeaveSlot):
                left = self._promises.pop(command.id, None)
                if left is not None:  # somebody else waits under this id
                    told.append((left, Crowded(NotEntered.ENDED, ())))
            elif answer is None:
                answer = self._promise(command.id, now)
        if told:
            tell(told)
        return answer

    def standing(self, prefix: str = "") -> list[Standing]:
        """Who is inside and who waits, of keys that begin with ``prefix``: by key, those inside first."""
        with self._lock:
            return self._slots.standing(self._monotonic_ns(), prefix)

    def close(self) -> None:
        """Refuse whoever waits. Who is inside stays there until it leaves."""
        with self._lock:
            waiting, self._promises = self._promises, {}
            now = self._monotonic_ns()
            for waiter in waiting:
                self._slots.leave(waiter, now)
            self._slots.told.clear()
        for promise in waiting.values():
            promise.fail(PortError("slots", "closed while a request waited for a slot"))

    def __repr__(self) -> str:
        waiting = self._slots.waiting
        return f"MemorySlots({len(self._slots) - waiting} inside, {waiting} waiting)"

    def _told(self) -> list[_Told]:
        """Take what was decided of those who wait."""
        told = [(self._promises.pop(waiter), news) for waiter, news in self._slots.told]
        self._slots.told.clear()
        return told

    def _promise(self, waiter: bytes, now: int) -> SlotPromise:
        promise = self._promises.get(waiter)
        if promise is None:
            promise = self._promises[waiter] = self.promise((self._slots.deadline(waiter) - now) / 1e9)
        return promise


def tell(told: Iterable[_Told]) -> None:
    """Answer those who wait; each event loop is woken once for all of its own."""
    bells: set[Bell] = set()
    for promise, news in told:
        promise.keep(news, bells)
    for bell in bells:
        safely(bell)


def check(command: EnterSlot) -> None:
    """Raise :class:`LayerError` where no store could answer."""
    claims = command.claims
    if len(claims) > 1 and len({claim.key for claim in claims}) < len(claims):
        raise LayerError("two claims of one command are for the same slots: claim each key once")
