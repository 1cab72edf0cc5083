"""Server-sent events, byte by byte: split into lines and events that join to exactly what came in.

The grammar is the WHATWG HTML standard, section 9.2.6: lines end with LF, CR or CRLF, an empty line ends an event,
one byte order mark may open the stream, a line that begins with a colon is a comment. Everything given out is a
function of the bytes alone, never of how they were cut into chunks. A CR at the end of what has arrived waits for the
next byte, which may be the LF that belongs to it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
_BREAK: Final = re.compile(rb"\r\n|\r|\n")
_NAME: Final = re.compile(rb"event:[^\r\n]*+\n")
BLANK_LINES: Final = frozenset({b"\n", b"\r\n", b"\r"})
"""What ends an event."""


class SSEEvent(NamedTuple):
    """One event: ``raw`` is every byte of it, comments and the ending blank line included.

    ``event`` is its type (``message`` where it names none); ``data`` its data lines joined by a line feed, empty for
    an event without any (a comment, a stray blank line), which no reader is told of.
    """

    raw: bytes
    event: str
    data: bytes

    @property
    def is_line(self) -> bool:
        """Whether there is nothing but one line of data, as ``data: `` with what it says."""
        return len(self.raw) == len(self.data) + len(b"data: \n\n") and self.raw.startswith(b"data: ")

    def with_data(self, data: bytes) -> bytes:
        """``raw`` with other data in place of its own; every other line, and how lines end, stays.

        Data with line breaks becomes several lines. An event without data stays as it is.
        """
        line = b"data: %b\n\n" % self.data
        head = self.raw[: -len(line)]
        if self.raw.endswith(line) and (not head or _NAME.fullmatch(head)) and _BREAK.search(data) is None:
            return b"%bdata: %b\n\n" % (head, data)  # most are of one line
        pieces: list[bytes] = []
        written = False
        for line in self.raw.splitlines(keepends=True):
            mark = BYTE_ORDER_MARK if not pieces and line.startswith(BYTE_ORDER_MARK + b"data") else b""
            if read_field(line[len(mark) :], b"data") is None:
                pieces.append(line)
            elif not written:
                written = True
                end = line[len(line.rstrip(b"\r\n")) :]
                pieces.append(mark)
                pieces.extend(b"data: " + part + end for part in _BREAK.split(data))
        return b"".join(pieces)

    def __repr__(self) -> str:
        return f"SSEEvent({self.event!r}, {len(self.data)} bytes)"  # the data may be personal


class SSELines:
    """Splits a byte stream into whole lines, each with its own ending. Incremental and linear in time.

    A line of more than ``limit`` bytes sets ``overflowed``: lines before it are still given, then nothing any more,
    and ``finish`` gives the bytes that are in no line so far.
    """

    __slots__ = ("_limit", "_rest", "overflowed")

    def __init__(self, limit: int = EVENT_BYTES_MAX) -> None:
        self._limit = limit
        self._rest = bytearray()
        self.overflowed = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that they complete. Nothing is taken once ``overflowed``."""
        if self.overflowed:
            return []
        if self._rest:
            undecided = self._rest.endswith(b"\r")
            self._rest += chunk
            if not undecided and b"\n" not in chunk and b"\r" not in chunk:
                self.overflowed = len(self._rest) > self._limit
                return []
            chunk = bytes(self._rest)
            self._rest.clear()
        lines = chunk.splitlines(keepends=True)
        if len(chunk) > self._limit:
            for index, line in enumerate(lines):
                if len(line) > self._limit:
                    self.overflowed = True
                    self._rest += b"".join(lines[index:])
                    return lines[:index]
        if lines and not lines[-1].endswith(b"\n"):
            self._rest += lines.pop()
        return lines

    @property
    def waiting(self) -> int:
        """How many bytes are in no line so far."""
        return len(self._rest)

    def finish(self) -> bytes:
        """The bytes that no line has given out; afterwards there are none."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


class SSEFramer:
    """Splits a byte stream into events: the ``raw`` of all events, then ``finish()``, join to exactly the stream.

    An event of more than ``limit`` bytes sets ``overflowed``: events before it are still given, then nothing any
    more. Who rewrites events must look at it after each ``feed``, since what follows is not framed.
    """

    __slots__ = ("_begun", "_limit", "_lines", "_mark", "_open", "_size", "overflowed")

    def __init__(self, limit: int = EVENT_BYTES_MAX) -> None:
        self._limit = limit
        self._lines = SSELines(limit)
        self._open: list[bytes] = []
        self._size = 0
        self._begun = False
        self._mark = b""
        self.overflowed = False

    def feed(self, chunk: bytes) -> list[SSEEvent]:
        """Take the next bytes; return the events that they complete. Nothing is taken once ``overflowed``."""
        if self.overflowed:
            return []
        if not self.inside and len(chunk) <= self._limit:
            usual = _usual_events(chunk)
            if usual:
                self._begun = True
                return usual
        events: list[SSEEvent] = []
        for raw_line in self._lines.feed(chunk):
            line = raw_line if self._begun else self._begin(raw_line)
            self._open.append(line)
            self._size += len(line)
            if self._size > self._limit:
                self.overflowed = True
            elif line in BLANK_LINES:
                events.append(self._close())
        if self._lines.overflowed or self._size + self._lines.waiting > self._limit:
            self.overflowed = True
        return events

    @property
    def inside(self) -> bool:
        """Whether there are bytes that no event has given out."""
        return bool(self._open or self._lines.waiting)

    def finish(self) -> bytes:
        """The stream has ended, or overflowed: the bytes that no event has given out, as they came.

        A reader drops an unfinished event, so nobody is told of what these bytes say; only a rest that ends with a
        lone CR after another line ending was a whole event.
        """
        rest = self._mark + b"".join(self._open) + self._lines.finish()
        self._open = []
        self._size = 0
        self._mark = b""
        return rest

    def _begin(self, line: bytes) -> bytes:
        self._begun = True
        if line.startswith(BYTE_ORDER_MARK):
            self._mark = BYTE_ORDER_MARK
            return line[len(BYTE_ORDER_MARK) :]
        return line

    def _close(self) -> SSEEvent:
        data: list[bytes] = []
        name = b""
        for line in self._open:
            value = read_field(line, b"data")
            if value is not None:
                data.append(value)
            elif (value := read_field(line, b"event")) is not None:
                name = value
        raw = self._mark + b"".join(self._open)
        self._open = []
        self._size = 0
        self._mark = b""
        return SSEEvent(raw, name.decode("utf-8", "replace") or "message", b"\n".join(data))


def _usual_events(chunk: bytes) -> list[SSEEvent]:
    """The events of a chunk that is whole events of one line of data each, maybe after one with their type.

    None of any other chunk: it is read line by line, which takes three times as long.
    """
    if not chunk.endswith(b"\n\n") or b"\r" in chunk:
        return []
    events: list[SSEEvent] = []
    for lines in chunk[:-2].split(b"\n\n"):
        name, data = "message", lines
        if lines.startswith(b"event: "):
            first, _, data = lines.partition(b"\n")
            name = first[len(b"event: ") :].decode("utf-8", "replace") or name
        if not data.startswith(b"data: ") or b"\n" in data:
            return []
        events.append(SSEEvent(lines + b"\n\n", name, data[len(b"data: ") :]))
    return events


def read_field(line: bytes, name: bytes) -> bytes | None:
    """The value of a line that is the field ``name``, None for every other line.

    One space after the colon and the line's ending are no part of it; a line without a colon has an empty value.
    """
    if not line.startswith(name):
        return None
    value = line[len(name) :].rstrip(b"\r\n")
    if value.startswith(b": "):
        return value[2:]
    if value.startswith(b":"):
        return value[1:]
    return None if value else b""
