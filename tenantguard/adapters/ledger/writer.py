"""The group-commit writer: one thread per process that commits many operations in one transaction.

It takes whatever is queued when it is free, up to ``BATCH_MAX`` operations: alone, an operation is committed at once;
under load, the time of one commit is shared by all that came meanwhile. What one turn of an event loop asks comes
together, when the turn is over: woken by the first of many, the thread would fight with the loop for the lock of the
interpreter, and commit a few. No timer, no tuning.

Rules of this file
1. The thread begins with the first operation in a process, is bound to no event loop, is dropped in a forked child
   and closed at exit.
2. An operation that was queued stays queued until it is committed, whether anybody still waits or not. Where the
   database fails, who waits hears :class:`PortError` at once, and the operation is tried again.
3. All is refused at ``queue_max`` but endings, only at twice that: what was taken must be able to end.
4. A hung database breaks the circuit: while it has kept a batch for a whole deadline, all but endings is refused at
   once. Its answer, or its failure, closes the circuit.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.promise import LedgerPromise, safely
from tenantguard.adapters.processes import GATE, watch
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import PortError
from tenantguard.flow.ports import ResolveHold

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from tenantguard.adapters.ledger.backend import Backend
    from tenantguard.adapters.ledger.promise import Bell
    from tenantguard.flow.ports import LedgerCommand

BATCH_MAX: Final = 512
BEAT_S: Final = 5.0
QUEUE_MAX: Final = 10_000
"""How many placings wait to be written at most, unless told otherwise."""
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_LONGEST_S: Final = 1.0

_log: Final = logging.getLogger("tenantguard.ledger")


class Writer:
    """Queues operations for ``backend`` and keeps their promises once they are durable.

    ``idle`` is called whenever nothing was queued for ``BEAT_S``.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        deadline_s: float,
        queue_max: int,
        monotonic_ns: Callable[[], int] = SystemClock.monotonic_ns,
    ) -> None:
        self._backend = backend
        self._monotonic_ns = monotonic_ns
        self._deadline_s = deadline_s
        self._queue_max = queue_max
        self.idle: Callable[[], None] | None = None
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._turns: deque[tuple[LedgerCommand, LedgerPromise]] = deque()
        self._turning: set[AbstractEventLoop] = set()
        self._inbox: queue.SimpleQueue[tuple[LedgerCommand, LedgerPromise] | None] = queue.SimpleQueue()
        self._backlog: deque[tuple[LedgerCommand, LedgerPromise]] = deque()
        self._thread: threading.Thread | None = None
        self._leaving = threading.Event()
        self._last_seen = False
        self._suspects = 0
        self._pause_s = _PAUSE_FIRST_S
        self._began_ns: int | None = None

    def submit(self, command: LedgerCommand) -> LedgerPromise:
        """Queue ``command``; a full queue or a hung database breaks the promise at once. Never blocks."""
        promise = LedgerPromise(self._deadline_s, self._hasten)
        room = 2 * self._queue_max
        if not isinstance(command, ResolveHold):
            room = self._queue_max
            problem = self._hung()
            if problem is not None:
                promise.fail(problem)
                return promise
        loop = _running_loop()
        with self._lock:
            if len(self._turns) + self._inbox.qsize() + len(self._backlog) < room:
                self._turns.append((command, promise))
                if loop is None:
                    self._let_in()
                elif loop not in self._turning:
                    self._turning.add(loop)
                    loop.call_soon(self._end_turn, loop)
                return promise
        promise.fail(PortError("ledger", f"{room} operations are waiting to be written; retry later"))
        return promise

    def _end_turn(self, loop: AbstractEventLoop) -> None:
        with self._lock:
            self._turning.discard(loop)
            self._let_in()

    def _hasten(self) -> None:
        """Somebody blocks: if it is a loop, its turn will not be over before the answer is there."""
        if self._turns:
            with self._lock:
                self._let_in()

    def _let_in(self) -> None:
        """Hand what was asked to the thread. Under the lock."""
        while self._turns:
            self._inbox.put(self._turns.popleft())
        if self._thread is None and not self._inbox.empty():
            self._start()

    def _hung(self) -> PortError | None:
        """Why it is no use to take anything now."""
        began_ns = self._began_ns
        if began_ns is not None and self._monotonic_ns() - began_ns > self._deadline_s * 1e9:
            return PortError("ledger", f"the database has not answered for {self._deadline_s:g} s")
        return None

    def close(self) -> None:
        """Finish what is queued and end the thread. Where the database fails now, what is queued is given up."""
        with self._lock:
            self._let_in()
            thread = self._thread
            if thread is None:
                return
            self._leaving.set()
            self._inbox.put(None)
        thread.join()

    def forget(self) -> None:
        """In a forked child: start over; thread, queue and connection are the parent's."""
        self._backend.forget()
        self._begin()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="tenantguard-ledger", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        while True:
            self._receive()
            if self._backlog:
                self._write()
            elif self._last_seen:
                self._leave()
                return
            else:
                self._beat()

    def _receive(self) -> None:
        """Move what is queued to the backlog; wait for the first operation if there is none."""
        if self._last_seen:
            return
        try:
            item = self._inbox.get(block=not self._backlog, timeout=BEAT_S)
            while item is not None:
                self._backlog.append(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return
        self._last_seen = True

    def _write(self) -> None:
        batch = list(islice(self._backlog, 1 if self._suspects else BATCH_MAX))
        answers: list[Any]
        self._began_ns = self._monotonic_ns()
        try:
            with GATE:
                answers = self._backend.apply([command for command, _ in batch])
        except PortError as error:
            self._retry_later(error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the others
            if len(batch) > 1:
                self._suspects = len(batch)
                self._began_ns = None
                return
            _log.exception("an operation cannot be stored")
            answers = [PortError("ledger", f"the operation cannot be stored ({type(error).__name__})")]
        self._began_ns = None
        self._suspects = max(0, self._suspects - len(batch))
        self._pause_s = _PAUSE_FIRST_S
        for _ in batch:
            self._backlog.popleft()
        bells: set[Bell] = set()
        for (_, promise), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                promise.fail(answer, bells)
            else:
                promise.keep(answer, bells)
        for bell in bells:
            safely(bell)

    def _retry_later(self, error: PortError) -> None:
        self._began_ns = None
        self._receive()
        while self._leaving.is_set() and not self._last_seen:
            self._receive()
        for _, promise in self._backlog:
            promise.fail(PortError(error.port, error.problem))
        if self._last_seen:
            _log.error("closed while the database failed (%s): %d operations lost", error, len(self._backlog))
            self._backlog.clear()
            self._suspects = 0
            return
        _log.warning("%s; %d operations wait and are tried again", error, len(self._backlog))
        self._leaving.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _PAUSE_LONGEST_S)

    def _beat(self) -> None:
        with self._lock:  # a loop that was stopped ends no turn
            self._turning.clear()
            self._let_in()
        try:
            with GATE:
                self._backend.apply(())
        except Exception as error:  # noqa: BLE001 - the next operation will hear of it
            _log.warning("the ledger's heart did not beat: %s", error)
        if self.idle is not None:
            safely(self.idle)

    def _leave(self) -> None:
        with GATE:
            self._backend.close()
        with self._lock:
            self._last_seen = False
            self._leaving.clear()
            self._thread = None
            self._let_in()


def _running_loop() -> AbstractEventLoop | None:
    """The loop that runs in this thread. Where nobody has imported asyncio there is none, and nothing to import."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001 - its public twin raises
