"""Server-sent events redacted: their data as JSON events or text, their other lines as plain text.

Events keep their order, framing and every byte that is not redacted. A comment, and a field other than ``data`` that
is no identifier, is a plain text by itself. Any other line ends the stream: no reader of events is told of it, but
whoever reads the bytes is (another kind of body under the name of an event stream).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events.json_events import JsonEvents, waits
from tenantguard.rules.redaction.fields import EVERYWHERE
from tenantguard.rules.redaction.json_text import broken_edits, decode_utf8, escape
from tenantguard.rules.redaction.text.rule import MalformedTextError, apply, text_edits
from tenantguard.rules.sse import BYTE_ORDER_MARK, SSEFramer, read_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.events.json_events import Usual
    from tenantguard.rules.redaction.events.view import Said
    from tenantguard.rules.redaction.fields import Scope
    from tenantguard.rules.redaction.text.rule import TextRule
    from tenantguard.rules.sse import SSEEvent

_DONE: Final = b"[DONE]"
_LINES: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:(?:(?:data|event|id|retry)(?::[^\r\n]*+)?|:[^\r\n]*+)?+(?:\r\n|\r|\n|\Z))*+",
)
"""Comments and the fields of the WHATWG HTML standard, section 9.2.6, and nothing else."""

_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]{0,4096}+")
"""What stands in a JSON string as it is; of a stream that says little at once."""

_OWN: Final = re.compile(rb"(?![^A-Za-z]{7})[A-Za-z0-9_./+-]*+")
"""What is left alone where a protocol has something of its own, if it is too short for a secret."""

_BREAK: Final = re.compile(r"[\r\n]")
_USUAL_LINES: Final = re.compile(
    rb"(?:(?:data:[^\r\n]*+|(?:event|id|retry): ?(?:[0-9]{0,6}+|(?=[^\r\n]*[A-Za-z])[A-Za-z0-9_.:/+=-]*+)|:)?+"
    rb"(?:\r\n|\r|\n))*+",
)
"""Of these, nothing but data can be personal."""


class EventStream:
    """Redacts the bytes of one event stream by ``rule``.

    With ``protocol``, the stream must be that of a model provider: data that is neither JSON nor ``[DONE]`` is a
    :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError`. Without it, such data is text, each event's by
    itself. ``unknown`` says what happens to that, and to JSON of no known shape; ``scope`` whether keys and numbers
    are looked at too.
    """

    def __init__(
        self, rule: TextRule, *, protocol: bool, unknown: Unknown = Unknown.SCRUB, scope: Scope = EVERYWHERE
    ) -> None:
        self._rule = rule
        self._protocol = protocol
        self._unknown = unknown
        self._framer = SSEFramer()
        self._events = JsonEvents(rule, protocol=protocol, unknown=unknown, scope=scope)
        self._waiting: tuple[SSEEvent, str] | None = None
        self._names = b""  # those of the last event that has some, which tell no secret
        self._usual: _Usual | None = None  # how the next event may be read at a glance

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        if self._usual is not None and not self._framer.inside:
            said = self._usual.rewritten(chunk, self._events)
            if said is not None:
                return said
        events = self._framer.feed(chunk)
        out = self._read(events[0]) if len(events) == 1 else b"".join([self._event(event) for event in events])
        if self._framer.overflowed:
            raise MalformedTextError("an event of the stream is too large")
        return out

    def finish(self) -> bytes:
        """The stream has ended; return the rest of it. An unfinished event with data is an error."""
        out = rest = b""
        if self._framer.inside:
            last = SSEFramer()
            out = b"".join([self._read(event) for event in last.feed(self._framer.finish() + b":")])  # of a last CR
            rest = last.finish()[:-1]
            unfinished = b"".join(event.data for event in SSEFramer().feed(rest + b"\n\n"))
            if unfinished.strip() not in {b"", _DONE}:
                raise MalformedTextError("the stream ended inside an event")
        out += self._let_go(last=True) + _written(self._events.close())
        return out + self._lines(rest) if rest else out

    def failure(self, code: str, message: str) -> bytes:
        """The event with which this stream ends where it is cut; empty where the dialect of refusals has it."""
        said = self._events.failure(code, message)
        return b"" if said is None else _written([said])

    def _is_usual(self, event: SSEEvent) -> bool:
        """Whether nothing but data can be personal in the lines of an event, and its names tell no secret."""
        if event.is_line:
            return True
        if _USUAL_LINES.fullmatch(event.raw) is None:
            return False
        line = b"data: %b\n\n" % event.data
        names = event.raw.removesuffix(line)
        if names != self._names:
            if self._rule.own(names.decode("utf-8", "replace")):
                return False
            self._names = names
        return True

    def _event(self, event: SSEEvent) -> bytes:
        said = self._usual.rewritten(event.raw, self._events) if self._usual is not None else None
        return self._read(event) if said is None else said

    def _read(self, event: SSEEvent) -> bytes:
        is_usual = self._is_usual(event)
        if not is_usual:
            event = event._replace(raw=self._lines(event.raw))
        data = event.data.strip()
        if not data:
            return self._let_go() + event.raw
        if data == _DONE:
            return self._let_go(last=True) + _written(self._events.close()) + event.raw
        text = decode_utf8(event.data)
        before = self._let_go(text) if self._waiting is not None else b""
        if waits(text):
            self._waiting = event, text
            self._usual = None
            return before
        said = self._rewritten(event, text)
        self._usual = self._usual_after(event, text) if is_usual else None
        return before + said if before else said

    def _usual_after(self, event: SSEEvent, text: str) -> _Usual | None:
        """How an event is read that follows this usual one, whose JSON is ``text``, and differs in one text."""
        before = self._usual
        usual = self._events.usual(text, before.usual if before is not None else None)
        if usual is None:
            return None
        raw = event.raw
        if before is not None and usual is before.usual and raw.startswith(before.head):
            return before
        line = b"data: %b\n\n" % event.data
        if not raw.endswith(line):
            return None
        return _Usual(raw[: -len(line)] + b"data: ", usual, self._rule.name_chars_min)

    def _let_go(self, following: str = "", *, last: bool = False) -> bytes:
        """The event that waited for what follows it."""
        if self._waiting is None:
            return b""
        (event, text), self._waiting = self._waiting, None
        return self._rewritten(event, text, following, last=last)

    def _rewritten(self, event: SSEEvent, text: str, following: str = "", *, last: bool = False) -> bytes:
        try:
            before, new = self._events.event(text, last=last, following=following)
        except MalformedTextError:
            if self._protocol or self._unknown is Unknown.BLOCK or text.lstrip()[:1] in {"{", "["}:
                raise
            before, new = [], self._plain(text)
        said = _written(before) if before else b""
        return said + (event.raw if new == text else event.with_data(new.encode()))

    def _plain(self, text: str) -> str:
        if self._unknown is Unknown.PASS:
            self._rule.skipped["event"] = self._rule.skipped.get("event", 0) + 1
            return text
        return apply(text, broken_edits(text, self._rule))

    def _lines(self, raw: bytes) -> bytes:
        """``raw`` with what is no data in it redacted, line by line."""
        if _LINES.fullmatch(raw) is None:
            raise MalformedTextError("a line of the stream is no field of an event")
        lines = raw.splitlines(keepends=True)
        for position, line in enumerate(lines):
            if read_field(line.removeprefix(BYTE_ORDER_MARK), b"data") is None:
                text = decode_utf8(line)
                new = apply(text, text_edits(self._rule, text))
                if new != text and _BREAK.search(new.rstrip("\r\n")):
                    raise MalformedTextError("what belongs into a line of the stream has lines of its own")
                lines[position] = new.encode()
        return b"".join(lines)


class _Usual:
    """An event that says more of the one text of which the last one did, and is else the same to the byte.

    Most events of most streams are, and are read in a third of the time. ``usual`` is how its JSON is written,
    ``lines`` what stands before that. An identifier that may differ is shorter than ``secret_bytes_min``.
    """

    __slots__ = ("_between", "_secret_bytes_min", "_tail", "head", "usual")

    def __init__(self, lines: bytes, usual: Usual, secret_bytes_min: int) -> None:
        self.usual = usual
        self._secret_bytes_min = secret_bytes_min
        self.head = b'%b%b"' % (lines, usual.head.encode())
        self._between = b'"%b"' % usual.between.encode() if usual.between else b""
        self._tail = b'"%b\n\n' % usual.tail.encode()

    def rewritten(self, chunk: bytes, events: JsonEvents) -> bytes | None:
        """What leaves for a chunk that is such an event; None if it is not, or holds what is not plain ASCII."""
        head, between, tail = self.head, self._between, self._tail
        if not chunk.startswith(head):
            return None
        end = chunk.find(b'"', len(head))
        rest = chunk[end:]
        if not _PLAIN.fullmatch(chunk, len(head), end) or not rest.endswith(tail):
            return None
        if between:
            start, stop = len(between), len(rest) - len(tail)
            if not rest.startswith(between) or not _OWN.fullmatch(rest, start, stop):
                return None
            if stop - start >= self._secret_bytes_min:
                return None
        elif len(rest) != len(tail):
            return None
        text = chunk[len(head) : end].decode("ascii")
        new = events.more(self.usual, text)
        if new is None or new == text:
            return None if new is None else chunk
        return head + rest if not new else b"%b%b%b" % (head, escape(new).encode(), rest)


def _written(events: Iterable[Said]) -> bytes:
    """Events of our own as bytes."""
    lines = [f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n" for name, data in events]
    return "".join(lines).encode()
