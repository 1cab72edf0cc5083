"""A promise that costs less than a :class:`concurrent.futures.Future`: no lock and no condition until one waits."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from tenantguard.flow.effects import Promise

if TYPE_CHECKING:
    from collections.abc import Callable

_log: Final = logging.getLogger("tenantguard.ledger")


class LedgerPromise(Promise[Any]):
    """The answer to one command. ``keep`` and ``fail`` are its ledger's; the first of them counts.

    Thread-safe without a lock: whoever adds a call and whoever gives the answer both run what is listed afterwards,
    and taking a call off the list hands it to exactly one of them.
    """

    __slots__ = ("_answer", "_calls", "_done", "_problem", "deadline_s")
    port = "ledger"

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._calls: list[Callable[[], None]] = []
        self._done = False
        self._answer: Any = None
        self._problem: Exception | None = None

    def keep(self, answer: Any) -> None:
        """Give the answer and tell who waits."""
        if not self._done:
            self._answer = answer
            self._done = True
            self._run()

    def fail(self, problem: Exception) -> None:
        """Break the promise and tell who waits."""
        if not self._done:
            self._problem = problem
            self._done = True
            self._run()

    def then(self, call: Callable[[], None]) -> None:
        """Call ``call`` once the answer is there: at once if it is, else from the answering thread."""
        self._calls.append(call)
        if self._done:
            self._run()

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

    def _run(self) -> None:
        while self._calls:
            try:
                call = self._calls.pop()
            except IndexError:
                return
            try:
                call()
            except Exception:  # noqa: BLE001 - one waiter's fault must not keep the others waiting
                _log.exception("a call that waited for the ledger failed")
