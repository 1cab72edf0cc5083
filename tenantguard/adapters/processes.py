"""What an adapter with a thread must know of its process: when it forks, and when it ends.

A database library keeps locks for the whole process. A child that is forked while another thread is inside the
library inherits them locked, with nobody to unlock them; so a fork waits until all threads are outside.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import Final, Protocol

FORK_PATIENCE_S: Final = 10.0
"""How long a fork waits for the threads inside. Longer than a lock of another process is waited for by default."""


class Gate:
    """``with gate:`` around every stay in a database library. A fork shuts it, waits, and opens it again."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Open, with nobody inside: also in a forked child, where those inside do not exist."""
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, and wait until nobody is inside, or for ``FORK_PATIENCE_S``."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: not self._inside, timeout=FORK_PATIENCE_S)

    def reopen(self) -> None:
        """Let in who waits."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()


class Resident(Protocol):
    """What lives in one process: closed at its end, and started over in a forked child."""

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        ...

    def forget(self) -> None:
        """Let go of everything that belongs to the parent, without touching it."""
        ...


_log: Final = logging.getLogger("tenantguard")
GATE: Final = Gate()
_residents: Final[weakref.WeakKeyDictionary[Resident, None]] = weakref.WeakKeyDictionary()
"""In the order in which they came."""


def watch(resident: Resident) -> None:
    """Tell ``resident`` of forks and of the end, for as long as it is there."""
    _residents[resident] = None


def _start_over() -> None:
    GATE.begin()
    for resident in list(_residents):
        resident.forget()


def _close_all() -> None:
    """The last that came first: it may need those before it, whose threads nobody can start any more."""
    for resident in reversed(list(_residents)):
        try:
            resident.close()
        except Exception as failure:  # noqa: BLE001 - what others have queued must not be lost with it
            _log.error("closing %s at exit failed: error=%s", type(resident).__name__, type(failure).__name__)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=GATE.shut, after_in_parent=GATE.reopen, after_in_child=_start_over)
