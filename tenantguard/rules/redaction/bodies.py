"""Whole bodies that arrive in chunks: JSON, kept until it is complete, and plain text, redacted as it comes."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.hold import TextStream, join
from tenantguard.rules.redaction.json_text import rewrite_json
from tenantguard.rules.redaction.rule import MalformedTextError

if TYPE_CHECKING:
    from tenantguard.rules.redaction.json_text import Shape
    from tenantguard.rules.redaction.rule import TextRule

JSON_BYTES_MAX: Final = 16 * 1024 * 1024


class JsonBody:
    """A JSON body of at most ``limit`` bytes, held back until it has ended; an empty one stays empty."""

    __slots__ = ("_data", "_limit", "_rule", "_shape")

    def __init__(self, rule: TextRule, shape: Shape, limit: int = JSON_BYTES_MAX) -> None:
        self._rule = rule
        self._shape = shape
        self._limit = limit
        self._data: bytes | bytearray = b""

    def feed(self, chunk: bytes) -> bytes:
        """Keep the next bytes."""
        data = self._data
        if len(data) + len(chunk) > self._limit:
            raise MalformedTextError(f"the JSON body has more than {self._limit} bytes")
        if not data:
            self._data = chunk  # most bodies come in one piece
        elif isinstance(data, bytearray):
            data += chunk
        else:
            self._data = bytearray(data) + chunk
        return b""

    def finish(self) -> bytes:
        """The body has ended; return it redacted."""
        data, self._data = bytes(self._data), b""
        return rewrite_json(data, self._rule, self._shape) if data else data


class TextBody:
    """A plain text in UTF-8, redacted as it comes."""

    def __init__(self, rule: TextRule) -> None:
        self._text = TextStream(rule)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        return join(self._text.feed(self._decoded(chunk))).encode()

    def finish(self) -> bytes:
        """The text has ended; return the rest of it."""
        rest = self._text.feed(self._decoded(b"", final=True))
        return join([*rest, *self._text.finish()]).encode()

    def _decoded(self, chunk: bytes, *, final: bool = False) -> str:
        try:
            return self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            raise MalformedTextError("the text is not UTF-8") from None


class NoBody:
    """A body of unknown type, which must be empty."""

    def feed(self, chunk: bytes) -> bytes:
        """Refuse the first byte."""
        if chunk:
            raise MalformedTextError("the body has no type")
        return b""

    def finish(self) -> bytes:
        """The body was empty."""
        return b""
