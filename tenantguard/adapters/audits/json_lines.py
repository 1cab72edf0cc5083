"""Audit records as lines of JSON, many in one write: about 12 us of the thread's time a record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Protocol

from tenantguard.adapters.audits.draining import QUEUE_MAX, DrainedSink
from tenantguard.adapters.audits.events import event_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.model.audit import AuditRecord

_encode: Final = json.JSONEncoder(separators=(",", ":"), default=repr, check_circular=False).encode
"""What is no JSON is written as its ``repr``, as structlog does it; a circle is a RecursionError."""

_LINE_END: Final = ord("\n")


class Unbuffered(Protocol):
    """A file opened with ``buffering=0``: what a write could not take is not kept to be written later."""

    def write(self, data: bytes, /) -> int | None:
        """Write as much as fits; the number of bytes written."""
        ...


class JSONLinesSink(DrainedSink):
    """Writes every record as one line to ``file``, with the fields of the structlog event (``event`` is "exchange").

    Where the file takes no more (a full disk, a closed pipe), the records of that write are dropped and counted, and
    the next line says how many in ``records_dropped``; a line that was torn is ended before it.
    """

    def __init__(self, file: Unbuffered, queue_max: int = QUEUE_MAX) -> None:
        super().__init__(queue_max)
        self._file = file
        self._told = 0
        self._torn = False

    def forget(self) -> None:
        """In a forked child: start over."""
        super().forget()
        self._told = 0
        self._torn = False

    def write(self, records: Sequence[AuditRecord]) -> None:
        """Write these in one go, as far as the file takes them."""
        told = self._told
        lines: list[str] = []
        for record in records:
            dropped = self.dropped
            try:
                event = event_of(record)
                if dropped != told:
                    event["records_dropped"] = dropped
                lines.append(f'{{"event":"exchange",{_encode(event)[1:]}\n')
            except Exception as failure:  # noqa: BLE001 - the details of a layer of the user's may be no JSON
                self.drop(failure)
            else:
                told = dropped
        torn = self._torn
        data = ("\n" * torn + "".join(lines)).encode()
        written = 0
        problem: Exception = BlockingIOError()  # a pipe that takes nothing now gives None
        try:
            while written < len(data) and (taken := self._file.write(data[written:])):
                written += taken
        except Exception as raised:  # noqa: BLE001 - whatever a file raises, the thread goes on
            problem = raised
        if written < len(data):
            self.drop(problem, len(lines) - max(0, data.count(b"\n", 0, written) - torn))
        else:
            self._told = told
        if written:
            self._torn = data[written - 1] != _LINE_END
