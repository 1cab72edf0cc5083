"""A command on its way to a server, and who answers it: the thread that sent it, or the one that waits."""

from __future__ import annotations

from typing import Any, Final, Protocol

from tenantguard.adapters.promise import StorePromise
from tenantguard.errors import PortTimeout

_CLAIM_S: Final = 1.0


class Host(Protocol):
    """Whose command it is, and how long that may take."""

    deadline_s: float


class Sent(StorePromise):
    """A command of ``host`` on its way. Only who claims it answers it."""

    __slots__ = ("_unclaimed", "begun_ns", "command", "count", "host", "keys", "sent", "size", "slot")

    host: Any
    keys: bytes
    count: int
    command: bytes
    size: int
    slot: int

    def __init__(self, host: Host, begun_ns: int) -> None:
        super().__init__(host.deadline_s)
        self.host = host
        self.begun_ns = begun_ns
        self.sent = False
        self._unclaimed = [True]

    def claim(self) -> bool:
        """Whether the caller is the one who answers."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def waits(self) -> bool:
        """Whether nobody has answered it yet."""
        return bool(self._unclaimed)

    def leave(self) -> bool:
        """Whether somebody still waits; it counts as sent from then on."""
        if not self._unclaimed:
            return False
        self.sent = True
        return True

    def settled(self) -> Any:
        """The answer of whoever claimed it, which is being given."""
        if not self.wait(_CLAIM_S):
            raise PortTimeout(self.port, _CLAIM_S)
        return self.result()
