"""Calling a script with many commands at once: bytes, without a connection.

A script has three arguments: the instant in a test, else nothing; the last microsecond at which something may still
be taken, else nothing; and the commands. Its reply begins with the instant of its decisions, and every answer stands
behind the one before it. Of an instant there are two numbers: microseconds, and the attoseconds beyond them.
"""

from __future__ import annotations

import struct
from hashlib import sha1
from typing import TYPE_CHECKING, Final

from tenantguard.model.rate import TICKS_PER_NANO

if TYPE_CHECKING:
    from collections.abc import Iterable

TICKS_PER_MICRO: Final = 1000 * TICKS_PER_NANO

KEYS_MAX: Final = 2000
"""The most keys of one command. A script may read all keys of a call at once, which may be those of two such; Lua
puts at most 8000 values onto its stack."""

_HEAD: Final = struct.Struct("<dd")
NOW_SIZE: Final = _HEAD.size
"""How long the instant at the head of a reply is."""


class Script:
    """A script by its text."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._sha = sha1(text, usedforsecurity=False).hexdigest().encode()

    def call(
        self, keys: Iterable[bytes], count: int, commands: Iterable[bytes], last_us: int | None, now: bytes
    ) -> bytes:
        """One call for a server that has the script already: ``keys`` are arguments, ``count`` of them.

        Nothing is taken after ``last_us``. ``now`` is empty, or a test's :func:`instant`.
        """
        head = b"*%d\r\n$7\r\nEVALSHA\r\n%b" % (6 + count, argument(self._sha))
        return head + _called(keys, count, commands, last_us, now)

    def loading_call(
        self, keys: Iterable[bytes], count: int, commands: Iterable[bytes], last_us: int | None, now: bytes
    ) -> bytes:
        """As :meth:`call`, for a server that does not have the script."""
        head = b"*%d\r\n$4\r\nEVAL\r\n%b" % (6 + count, argument(self.text))
        return head + _called(keys, count, commands, last_us, now)


def argument(value: bytes) -> bytes:
    """One argument of a Redis command."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def instant(nanos: int) -> bytes:
    """A test's time."""
    micros, rest = divmod(nanos * TICKS_PER_NANO, TICKS_PER_MICRO)
    return _HEAD.pack(micros, rest)


def read_now(reply: bytes) -> int:
    """The instant of every decision in a reply, in ticks; they stand behind its first :data:`NOW_SIZE` bytes."""
    micros, rest = _HEAD.unpack_from(reply)
    return int(micros) * TICKS_PER_MICRO + int(rest)


def _called(keys: Iterable[bytes], count: int, commands: Iterable[bytes], last_us: int | None, now: bytes) -> bytes:
    number, asked = b"%d" % count, b"".join(commands)
    last = b"" if last_us is None else b"%d" % last_us
    return b"$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(number), number, b"".join(keys), len(now), now, len(last), last, len(asked), asked,
    )  # fmt: skip
