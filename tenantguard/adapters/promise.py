"""A promise that costs less than a :class:`concurrent.futures.Future`: no lock and no condition until one waits."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from tenantguard.flow.effects import Promise

if TYPE_CHECKING:
    from collections.abc import Callable

    Bell: TypeAlias = Callable[[], None]

T = TypeVar("T")

_log: Final = logging.getLogger("tenantguard.promise")


class StorePromise(Promise[Any]):
    """The answer to one command. ``keep`` and ``fail`` are its store's; the first of them counts.

    Thread-safe without a lock: whoever adds a call and whoever gives the answer both run what is listed afterwards,
    and taking a call off the list hands it to exactly one of them. Its class says whose it is, ``port``.
    """

    __slots__ = ("_answer", "_calls", "_done", "_problem", "deadline_s")

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._calls: list[Callable[[], Bell | None]] = []
        self._done = False
        self._answer: Any = None
        self._problem: Exception | None = None

    def keep(self, answer: Any, bells: set[Bell] | None = None) -> None:
        """Give the answer and tell who waits. Bells are gathered in ``bells`` for its owner to ring, if given."""
        if not self._done:
            self._answer = answer
            self._done = True
            self._tell(bells)

    def fail(self, problem: Exception, bells: set[Bell] | None = None) -> None:
        """Break the promise and tell who waits; as :meth:`keep`."""
        if not self._done:
            self._problem = problem
            self._done = True
            self._tell(bells)

    def then(self, call: Callable[[], Bell | None]) -> None:
        """Call ``call`` once the answer is there: at once if it is, else from the answering thread."""
        self._calls.append(call)
        if self._done:
            self._tell(None)

    def wait(self, timeout_s: float) -> bool:
        """Block until the answer is there; False if ``timeout_s`` seconds passed first."""
        if self._done or timeout_s <= 0:
            return self._done
        closed = threading.Lock()
        closed.acquire()
        self.then(closed.release)
        return closed.acquire(timeout=timeout_s)

    def result(self) -> Any:
        """The answer, or the exception it failed with. Only once it is there."""
        if self._problem is not None:
            raise self._problem
        return self._answer

    def _tell(self, bells: set[Bell] | None) -> None:
        while self._calls:
            try:
                call = self._calls.pop()
            except IndexError:  # another thread took the last one
                return
            bell = safely(call)
            if bell is None:
                continue
            if bells is None:
                safely(bell)
            else:
                bells.add(bell)


def safely(call: Callable[[], T]) -> T | None:
    """Call what belongs to a waiter; its failure must not keep the others waiting."""
    try:
        return call()
    except Exception:  # noqa: BLE001 - whatever it is, it is not the store's
        _log.exception("a call that waited for a store failed")
        return None
