"""A bounded queue of audit records that a thread of its own writes, many at a time.

Writing takes longer than recording, so it is taken off the request. The thread lets records gather for a moment,
since one that wakes for each takes the interpreter from the event loop each time: behind a busy proxy that cost a
request 300 us. Beyond the queue's bound records are dropped and counted; a record whose writing fails is dropped too,
and the thread goes on.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.processes import watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.model.audit import AuditRecord

QUEUE_MAX: Final = 10_000
BATCH_MAX: Final = 500
GATHER_S: Final = 0.05
"""How long a record waits for others, at most."""

_log: Final = logging.getLogger("tenantguard")


class DrainedSink:
    """What the audit sinks share; they say how records are written.

    The thread starts with the first record in a process, also after a fork, and ends at ``close`` or at exit, when
    everything queued has been written. ``dropped`` counts the records lost to a full queue or a failing write.
    """

    def __init__(self, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[AuditRecord | None] = SimpleQueue()
        self._closing = threading.Event()
        self.dropped = 0

    def record(self, record: AuditRecord) -> None:
        """Queue one record."""
        with self._lock:
            if self._thread is None:
                self._start()
            if self._queue.qsize() < self._queue_max:
                self._queue.put(record)
            else:
                self.dropped += 1

    def close(self) -> None:
        """Write what is queued and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._closing.set()
            self._queue.put(None)
        thread.join()

    def forget(self) -> None:
        """In a forked child: start over; the thread and the records queued before are the parent's."""
        self._begin()

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Write these, in the thread; :meth:`drop` what cannot be written. Never raises."""
        raise NotImplementedError

    def drop(self, failure: Exception, count: int = 1) -> None:
        """Count records that could not be written; only the class of the failure is logged, never its text."""
        with self._lock:
            self.dropped += count
        _log.error("an audit record could not be written: error=%s", type(failure).__name__)

    def _start(self) -> None:
        """Each thread has a queue of its own, so that none takes the end of another."""
        self._queue = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._drain, args=(self._queue, self._closing), name="tenantguard-audit", daemon=True
        )
        self._thread.start()

    def _drain(self, queue: SimpleQueue[AuditRecord | None], closing: threading.Event) -> None:
        while (record := queue.get()) is not None:
            closing.wait(GATHER_S)
            batch = [record]
            with suppress(Empty):
                while len(batch) < BATCH_MAX and (record := queue.get_nowait()) is not None:
                    batch.append(record)
            self.write(batch)
            if record is None:
                return
