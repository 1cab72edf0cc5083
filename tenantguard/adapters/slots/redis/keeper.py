"""The thread that hears of turns that other processes hand over, and says in time that this process lives."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.connection import ConnectionInterface

_PAUSE_S: Final = 0.25
_LEAST_S: Final = 0.02
_END_S: Final = 5.0


class Kept(Protocol):
    """The store, as its keeper sees it."""

    def beat_when_due(self) -> float:
        """Beat, where that is due; the answer is how many seconds may pass until the next time."""
        ...

    def is_reachable(self) -> bool:
        """Whether the server is to be asked; where it is not, a probe is sent when that is due."""
        ...

    def read(self, message: bytes) -> None:
        """A message from another process's command."""
        ...

    def unheard(self, failure: Exception) -> None:
        """The connection, or something of the store, failed."""
        ...


class Keeper:
    """Reads the list ``key`` on a connection of its own, blocking: a turn is told at once, and nothing polls.

    What is on the list stays there until it is read, so a connection that breaks loses at most the message that was
    on its way; the next beat finds out what became of that ticket.
    """

    def __init__(self, store: Kept, key: bytes, connection: Callable[[], ConnectionInterface]) -> None:
        self._store = store
        self._key = key
        self._new_connection = connection
        self._connection: ConnectionInterface | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tenantguard-slots-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let go of the connection, and end the thread."""
        self._ended.set()
        connection = self._connection
        if connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                wait_s = max(self._store.beat_when_due(), _LEAST_S)
                if not self._store.is_reachable():
                    self._drop()
                    self._ended.wait(_PAUSE_S)
                    continue
                message = self._pop(wait_s)
                if message is not None:
                    self._store.read(message)
            except Exception as failed:  # noqa: BLE001 - whatever it is, the thread must live
                self._drop()
                if self._ended.is_set():
                    break
                self._store.unheard(failed)
                self._ended.wait(_PAUSE_S * random.uniform(0.5, 1))  # noqa: S311
        self._drop()

    def _pop(self, wait_s: float) -> bytes | None:
        connection = self._connection
        if connection is None:
            connection = self._new_connection()
            connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection
        connection.send_command("BLPOP", self._key, f"{wait_s:.3f}")  # type: ignore[no-untyped-call]
        if self._ended.is_set():
            return None
        reply = connection.read_response(disable_decoding=True)
        return None if reply is None else bytes(reply[1])

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
