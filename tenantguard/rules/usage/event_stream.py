"""Amazon's binary event stream (``application/vnd.amazon.eventstream``): split into messages, each one checked.

Wire facts from the AWS SDK's developer documentation ("Event stream encoding", Smithy's "Amazon event stream"): a
message is its length, the length of its headers and a CRC-32 of those eight bytes, the headers, the payload, and a
CRC-32 of all before it; numbers are big-endian. A header is the length of its name, the name, a type, and a value.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final, TypeAlias

from tenantguard.rules.sse import EVENT_BYTES_MAX

_PRELUDE: Final = struct.Struct(">III")
_CHECKSUM: Final = struct.Struct(">I")
_OVERHEAD_BYTES: Final = _PRELUDE.size + _CHECKSUM.size
_LENGTHS_BYTES: Final = 8
_STRING: Final = 7
_FIXED_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""How long a value is by its type: true, false, byte, short, int, long, timestamp, uuid."""
_COUNTED: Final = frozenset({6, _STRING})
_HEADS_MAX: Final = 32
_TEXT: Final = re.compile(rb"[\x20-\x7e]*")


Message: TypeAlias = tuple[str, str, bytes]
"""The type of a message and its name, as its headers say, and its payload."""


class EventStreamFramer:
    """Splits a byte stream into messages, the same however it was cut. Incremental and linear in time.

    A message that fails a check, or is larger than ``limit`` bytes, sets ``corrupt``: messages before it are still
    given, then nothing any more.
    """

    __slots__ = ("_heads", "_limit", "_needed", "_rest", "corrupt")

    def __init__(self, limit: int = EVENT_BYTES_MAX) -> None:
        self._limit = limit
        self._needed = 0
        self._rest = bytearray()
        self._heads: dict[bytes, tuple[str, str]] = {}
        self.corrupt = False

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes; return the messages that they complete. Nothing is taken once ``corrupt``."""
        messages: list[Message] = []
        if self.corrupt:
            return messages
        if self._rest:
            self._rest += chunk
            if len(self._rest) < self._needed:
                return messages
            chunk = bytes(self._rest)
            self._rest.clear()
        at = 0
        while (needed := self._measure(chunk, at)) and len(chunk) - at >= needed:
            body = chunk[at : at + needed - _CHECKSUM.size]
            intact = zlib.crc32(body) == _CHECKSUM.unpack_from(chunk, at + len(body))[0]
            split = _PRELUDE.size + _CHECKSUM.unpack_from(body, _CHECKSUM.size)[0]
            head = self._head(body[_PRELUDE.size : split]) if intact else None
            if head is None:
                needed = 0
                break
            messages.append((*head, body[split:]))
            at += needed
        self._needed = needed
        self.corrupt = not needed
        if needed:
            self._rest += chunk[at:]
        return messages

    @property
    def waiting(self) -> int:
        """How many bytes are in no message so far."""
        return len(self._rest)

    def _measure(self, data: bytes, at: int) -> int:
        """How many bytes the message at ``at`` has, or has at least; 0 for none."""
        if len(data) - at < _PRELUDE.size:
            return _PRELUDE.size
        size, headed, checksum = _PRELUDE.unpack_from(data, at)
        intact = zlib.crc32(data[at : at + _LENGTHS_BYTES]) == checksum
        return size if intact and headed + _OVERHEAD_BYTES <= size <= self._limit else 0

    def _head(self, headers: bytes) -> tuple[str, str] | None:
        head = self._heads.get(headers)  # a stream says the same few over and over
        if head is None:
            head = _read_head(headers)
            if head is not None and len(self._heads) < _HEADS_MAX:
                self._heads[headers] = head
        return head


def _read_head(headers: bytes) -> tuple[str, str] | None:
    """What kind of message it is and its name, or None for headers that cannot be read."""
    found: dict[bytes, str] = {}
    at = 0
    while at < len(headers):
        name = headers[at + 1 : at + 1 + headers[at]]
        at += 1 + headers[at]
        if at >= len(headers):
            return None
        kind = headers[at]
        at += 1
        if kind in _COUNTED:
            size = int.from_bytes(headers[at : at + 2], "big")
            at += 2
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            return None
        value = headers[at : at + size]
        at += size
        if at > len(headers):
            return None
        if kind == _STRING and _TEXT.fullmatch(value):
            found[name] = value.decode("ascii")
    kind_of = found.get(b":message-type", "")
    return kind_of, found.get(b":event-type" if kind_of == "event" else b":exception-type", "")
