"""What one process decides by itself while the server cannot be asked in time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tenantguard.adapters.slots.memory import MemorySlots, SlotPromise, tell
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, SlotClaim

if TYPE_CHECKING:
    from tenantguard.flow.ports import Clock


class LocalSlots:
    """Slots of this process, with its share of every limit: one of so many processes, one slot at least.

    What the server let in counts as well, as long as it is :meth:`hold`. Fences are 0: nobody knows what others let
    in meanwhile.
    """

    def __init__(self, clock: Clock, waiting_max: int) -> None:
        self._store = _Store(clock, waiting_max=waiting_max)
        self._theirs: set[bytes] = set()

    @property
    def is_idle(self) -> bool:
        """Whether all that is inside was let in by the server."""
        return self._store.size() <= len(self._theirs)

    def hold(self, command: EnterSlot, processes: int) -> None:
        """The server has let this one in."""
        self._theirs.add(command.id)
        self._store.hold(command, _shares(command.claims, processes))

    def enter(self, command: EnterSlot, processes: int) -> Any:
        """Let it in, let it wait, or refuse it."""
        answer = self._store.execute(replace(command, claims=_shares(command.claims, processes)))
        return answer if isinstance(answer, Promise) else _degraded(answer)

    def leave(self, left: bytes) -> None:
        """End a ticket, whoever let it in."""
        self._theirs.discard(left)
        self._store.execute(LeaveSlot(left))

    def close(self) -> None:
        """Refuse whoever waits."""
        self._store.close()


class _Promise(SlotPromise):
    """A turn that this process gives."""

    __slots__ = ()

    def result(self) -> Any:
        return _degraded(super().result())


class _Store(MemorySlots):
    """Slots in memory that can be told who is inside already."""

    promise = _Promise

    def size(self) -> int:
        return len(self._slots)

    def hold(self, command: EnterSlot, claims: tuple[SlotClaim, ...]) -> None:
        with self._lock:
            now = self._monotonic_ns()
            self._slots.hold(command.id, command.owner, claims, now, 0, now)
            told = self._told()
        tell(told)


def _degraded(answer: Entered | Crowded) -> Entered | Crowded:
    if isinstance(answer, Entered):
        return replace(answer, fence=0, degraded=True)
    return replace(answer, degraded=True)


def _shares(claims: tuple[SlotClaim, ...], processes: int) -> tuple[SlotClaim, ...]:
    return tuple([replace(claim, limit=max(1, claim.limit // processes)) for claim in claims])
