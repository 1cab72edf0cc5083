"""Decoders read an application's own response bytes on their way out, and keep as few of them as they can."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tenantguard.rules.sse import BLANK_LINES, BYTE_ORDER_MARK, EVENT_BYTES_MAX, SSELines, read_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.model.usage import Usage

JSON_LINES: Final = "application/x-ndjson"
DOCUMENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""The longest document that is copied to be decoded; the usage of a longer one is missing."""
_ONE_EVENT: Final = re.compile(rb"(?:event: (.*+)\n)?data: (.*+)\n\n")
"""A chunk that is one whole event, as nearly every chunk is: it is read in half the time of the general way."""
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""A line's ending, and a blank line behind it."""
_EVENT_END_BYTES: Final = 4
_LINE_END: Final = re.compile(rb"[\r\n]")
_READER: Final = json.JSONDecoder()
_JSON_SPACE: Final = b" \t\r\n"
_ID_CHARS_MIN: Final = 16
_ID_CHARS_MAX: Final = 256


class UsageDecoder:
    """A transform and a marker for one response. Every attribute is a function of the bytes, however they were cut.

    ``ended``: the protocol's own end was seen. ``broken``: the body ended without it. ``failed``: it reported an
    error; then the response is no success even if it ended. ``usage``: the counts of the whole response, None while
    and where they are missing or impossible. ``usage_so_far``: what a protocol announces before its last word
    (Anthropic: the input, with an output count that is too low; Gemini and vLLM: running totals), None elsewhere.
    ``model`` and ``response_id`` are the provider's.

    ``output_bytes`` counts the UTF-8 bytes of generated text, reasoning and tool arguments in the stream events that
    went by; 0 for a document. A token is about four such bytes of English and never less than one (byte-level
    vocabularies), so it is an upper bound of visible output tokens, by which a stream cut before its usage can be
    settled. Reasoning that a provider keeps to itself is not in it. ``document_bytes`` is how much of a document went
    by, 0 for a stream.
    """

    __slots__ = (
        "_text_bytes",
        "broken",
        "ended",
        "failed",
        "model",
        "response_id",
        "rewrites",
        "usage",
    )

    def __init__(self, *, rewrites: bool = False) -> None:
        self.rewrites = rewrites
        self.broken = False
        self.ended = False
        self.failed = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self.response_id: str | None = None
        self._text_bytes = 0

    @property
    def usage_so_far(self) -> Usage | None:
        """What was announced before the protocol's last word; worked out when it is asked for."""
        return None

    @property
    def output_bytes(self) -> int:
        """The UTF-8 bytes of what was generated, in the events that went by."""
        return self._text_bytes

    @property
    def document_bytes(self) -> int:
        """The bytes of a document that went by."""
        return 0

    def feed(self, chunk: bytes) -> bytes:
        """Read the next bytes and return what may leave."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """The body has ended: read and return what was held back."""
        raise NotImplementedError

    def read_names(self, document: Mapping[str, Any], *, model: str = "model", response_id: str = "id") -> None:
        """Take the model and the response's id from a part of the response, the first that says them.

        An id of less than 16 characters is none: Ollama's are three random digits, and an id that comes back names
        another response (github.com/ollama/ollama, pull request 15089).
        """
        name = document.get(model)
        if self.model is None and isinstance(name, str) and name:
            self.model = name
        given = document.get(response_id)
        if self.response_id is None and isinstance(given, str):
            self.response_id = given if _ID_CHARS_MIN <= len(given) <= _ID_CHARS_MAX else None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the responses of one protocol are decoded: its documents, and its streams by media type.

    ``document`` builds a decoder of one JSON document; ``streams`` one of a stream, given whether the usage event is
    to be taken out. The first of ``streams`` is the one that a protocol has where a response names no type.
    """

    document: Callable[[], UsageDecoder]
    streams: Mapping[str, Callable[[bool], UsageDecoder]] = field(default_factory=dict)


class DocumentDecoder(UsageDecoder):
    """One JSON object, copied up to ``DOCUMENT_BYTES_MAX`` and decoded at its end.

    ``ended`` once the whole object was parsed. Of one that is longer, nests too deeply to be parsed or has a number
    of thousands of digits, only the closing brace is known, and no usage.
    """

    __slots__ = ("_copy", "_fed", "_last")

    def __init__(self) -> None:
        super().__init__()
        self._copy: bytearray | None = bytearray()
        self._fed = 0
        self._last = b""

    @property
    def document_bytes(self) -> int:
        """The bytes of the document that went by."""
        return self._fed

    def feed(self, chunk: bytes) -> bytes:
        """Copy the next bytes; they leave as they are."""
        self._fed += len(chunk)
        self.copy(chunk)
        return chunk

    def copy(self, chunk: bytes) -> None:
        """Keep the next bytes; a protocol may leave out what it does not need."""
        copy = self._copy
        if copy is None:
            self._last = chunk.rstrip(_JSON_SPACE)[-1:] or self._last
        elif len(copy) + len(chunk) <= DOCUMENT_BYTES_MAX:
            copy += chunk
        else:
            self._last = chunk.rstrip(_JSON_SPACE)[-1:] or bytes(copy.rstrip(_JSON_SPACE)[-1:])
            self._copy = None

    def finish(self) -> bytes:
        """Decode the copy."""
        if self._copy is None:
            self.ended = self._last == b"}"
        else:
            self.parse(self.copied())
            if self.ended:
                self._copy = None
        self.broken = not self.ended
        return b""

    def copied(self) -> bytes:
        """What was copied of a document that has not ended."""
        return bytes(self._copy or b"")

    def parse(self, data: bytes) -> None:
        """Parse the whole document and take it."""
        is_plain = data[:1] == b"{" and data[1:2] > b"\0"  # UTF-8 and no mark: what ``json`` takes longer to find out
        try:
            document = _READER.decode(data.decode("utf-8", "surrogatepass")) if is_plain else json.loads(data)
        except UnicodeDecodeError:
            if is_plain:
                self.parse(data.decode("utf-8", "replace").encode())
        except json.JSONDecodeError:
            return
        except (RecursionError, ValueError):  # ValueError: a number with more digits than Python reads
            self.ended = data.rstrip(_JSON_SPACE).endswith(b"}")
        else:
            self.take(document)

    def take(self, document: Any) -> None:
        """Take the whole document: an object, and nothing else is one."""
        if isinstance(document, dict):
            self.ended = True
            self.read(document)

    def read(self, document: dict[str, Any]) -> None:
        """Take what the protocol's document says."""
        raise NotImplementedError


class StreamDecoder(UsageDecoder):
    """Server-sent events. Only the unfinished line is kept; where it strips, the unfinished event.

    A subclass reads an event's data as soon as its first data line is complete, and once more, whole, at the end of
    an event that has several. It sets ``_extra`` in an event that only our own request brought forth, which then does
    not leave. Whatever follows the protocol's end passes unread, as does an event above ``EVENT_BYTES_MAX``. Where
    one of these may have been the protocol's end, since the body ends behind a whole event, ``ended`` is true: a
    response that left whole is no failure, and its usage is missing.
    """

    __slots__ = (
        "_before",
        "_begun",
        "_between",
        "_data",
        "_extra",
        "_held",
        "_lines",
        "_passing",
        "_size",
        "_skipped",
        "_unread",
    )

    def __init__(self, *, rewrites: bool = False) -> None:
        super().__init__(rewrites=rewrites)
        self._lines = SSELines()
        self._begun = False
        self._between = True
        self._before = 0
        self._passing = False
        self._data: list[bytes] = []
        self._size = 0
        self._held: list[bytes] = []
        self._extra = False
        self._skipped = False
        self._unread: bytes | None = None  # the last bytes of an event that passes unread

    def feed(self, chunk: bytes) -> bytes:
        """Read the lines that the next bytes complete."""
        if self._passing:
            return chunk
        if self._unread is not None:
            return self._skip(chunk)
        if self._between and len(chunk) <= EVENT_BYTES_MAX:
            if b"\r" not in chunk:
                one = _ONE_EVENT.fullmatch(chunk)
                if one is not None:
                    return self._take_event(chunk, *one.groups())
            elif chunk.startswith(b"data: ") and chunk.endswith(b"\r\n\r\n"):
                data = chunk[6:-4]
                if b"\n" not in data and b"\r" not in data:
                    return self._take_event(chunk, None, data)
        leaving = self._feed_lines(chunk)
        self._between = not self._size and not self._lines.waiting
        return leaving

    def _take_event(self, chunk: bytes, name: bytes | None, data: bytes) -> bytes:
        self._begun = True
        if name == b"error":
            self.failed = True
        self.read_data(data)
        self._passing = self.ended
        return b"".join(self._release()) if self._extra else chunk

    def _feed_lines(self, chunk: bytes) -> bytes:
        lines = self._lines.feed(chunk)
        leaving: list[bytes] = []
        read = 0
        for line in lines:
            read += 1
            if self.rewrites:
                self._held.append(line)
            if self._take(line):
                break
            if self.rewrites and line in BLANK_LINES:
                leaving += self._release()
        else:
            if not self._lines.overflowed:
                return b"".join(leaving) if self.rewrites else chunk
        rest = b"".join([*lines[read:], self._lines.finish()])
        leaving += self._held
        self._held = []
        self._data.clear()
        if self.ended:
            self._passing = True
        else:
            self._begin_to_skip(lines[read - 1] if read else b"")
            rest = self._skip(rest)
        return b"".join([*leaving, rest]) if self.rewrites else chunk

    def _begin_to_skip(self, line: bytes) -> None:
        """The event whose last line so far is given is too long to be read."""
        self._skipped = True
        self._unread = line[-_EVENT_END_BYTES:]
        self._lines = SSELines()
        self._size = 0
        self._extra = False

    def _skip(self, chunk: bytes) -> bytes:
        """Let what belongs to that event pass, and read what follows it."""
        assert self._unread is not None
        seen = self._unread + chunk
        end = _EVENT_END.search(seen)
        if end is None:
            self._unread = seen[-_EVENT_END_BYTES:]
            return chunk
        self._unread = None
        self._between = True
        following = seen[end.end() :]
        return chunk[: len(chunk) - len(following)] + (self.feed(following) if following else b"")

    def finish(self) -> bytes:
        """Read what is left as the last line of the last event."""
        rest = self._lines.finish()
        if rest:
            self._held.append(rest)
            self._take(rest)
        is_between = not self._size and self._unread is None
        self._end_event()
        if not self._passing:
            self.conclude()
        if self._skipped and is_between and not (self.ended or self.failed):
            self.ended, self.usage = True, None
        self.broken = not self.ended
        return b"".join(self._release()) if self.rewrites else b""

    def conclude(self) -> None:
        """The body has ended and was read to its end: where a protocol has no last word, that may be its end too."""

    def read_data(self, data: bytes) -> None:
        """Take what the data of one event says."""
        raise NotImplementedError

    def _take(self, line: bytes) -> bool:
        """Read one line; True if all that follows passes unread."""
        if len(line) <= 2 and line in BLANK_LINES:
            self._end_event()
            return False
        if not self._begun:
            self._begun = True
            line = line.removeprefix(BYTE_ORDER_MARK)
        self._size += len(line)
        if line.startswith(b"data:"):
            data = (line[6:] if line.startswith(b" ", 5) else line[5:]).rstrip(b"\r\n")
            self._data.append(data)
            if len(self._data) == 1:
                self._before = self._text_bytes
                self.read_data(data)
        elif read_field(line, b"event") == b"error":
            self.failed = True
        return self.ended or self._size > EVENT_BYTES_MAX

    def _end_event(self) -> None:
        if len(self._data) > 1:
            self._text_bytes = self._before  # the first line is in the whole, once
            self.read_data(b"\n".join(self._data))
        self._data.clear()
        self._size = 0

    def _release(self) -> list[bytes]:
        held = [] if self._extra else self._held
        self._held = []
        self._extra = False
        return held


class LineDecoder(UsageDecoder):
    """One JSON object a line. Only the unfinished line is kept.

    Whatever follows the protocol's end passes unread, as does a line above ``EVENT_BYTES_MAX``. Where the body ends
    behind a whole line and one of these may have been the protocol's end, ``ended`` is true, and usage is missing.
    """

    __slots__ = ("_lines", "_passing", "_skipped", "_skipping")

    def __init__(self) -> None:
        super().__init__()
        self._lines = SSELines()
        self._passing = False
        self._skipped = False
        self._skipping = False

    def feed(self, chunk: bytes) -> bytes:
        """Read the lines that the next bytes complete; they leave as they are."""
        data = chunk
        while data and not self._passing:
            data = self._behind(data) if self._skipping else self._read(data)
        return chunk

    def _read(self, data: bytes) -> bytes:
        """Read lines; return what follows them where one is too long."""
        for line in self._lines.feed(data):
            self.read_line(line)
            if self.ended:
                self._passing = True
                return b""
        if not self._lines.overflowed:
            return b""
        rest = self._lines.finish()
        self._lines = SSELines()
        self._skipped = self._skipping = True
        return rest

    def _behind(self, data: bytes) -> bytes:
        """What follows the line that is too long."""
        end = _LINE_END.search(data)
        if end is None:
            return b""
        self._skipping = False
        return data[end.end() :]

    def finish(self) -> bytes:
        """Read what is left as the last line."""
        if not self._passing:
            rest = self._lines.finish()
            if rest:
                self.read_line(rest)
            if not self.ended:
                self.conclude()
            if self._skipped and not (rest or self._skipping or self.ended or self.failed):
                self.ended, self.usage = True, None
        self.broken = not self.ended
        return b""

    def read_line(self, line: bytes) -> None:
        """Take what one line says; it may be blank."""
        raise NotImplementedError

    def conclude(self) -> None:
        """The body has ended and was read to its end: where a protocol has no last word, that may be its end too."""


def parse_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in ``data``, or None if it is none or nests too deeply."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def is_beyond_python(data: bytes) -> bool:
    """Whether ``data`` may be an object that nests deeper, or has a longer number, than Python reads."""
    try:
        json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (RecursionError, ValueError):
        return data.rstrip(_JSON_SPACE).endswith(b"}")
    return False


def text_bytes(escaped: bytes) -> int:
    """How many UTF-8 bytes the JSON string with this inside stands for."""
    if b"\\" not in escaped:
        return len(escaped)
    try:
        return len(json.loads(b'"' + escaped + b'"').encode("utf-8", "surrogatepass"))
    except ValueError:
        return len(escaped)
