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
from tenantguard.rules.redaction.rule import MalformedTextError, apply, text_edits
from tenantguard.rules.sse import BYTE_ORDER_MARK, SSEFramer, read_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.events.json_events import Channel
    from tenantguard.rules.redaction.events.view import Said
    from tenantguard.rules.redaction.fields import Scope
    from tenantguard.rules.redaction.rule import TextRule
    from tenantguard.rules.sse import SSEEvent

_DONE: Final = b"[DONE]"
_LINES: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:(?:(?:data|event|id|retry)(?::[^\r\n]*+)?|:[^\r\n]*+)?+(?:\r\n|\r|\n|\Z))*+",
)
"""Comments and the fields of the WHATWG HTML standard, section 9.2.6, and nothing else."""

_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]*+")
"""What stands in a JSON string as it is."""

_OWN: Final = re.compile(rb"(?![^A-Za-z]{7})[A-Za-z0-9_./+-]{0,15}+")
"""What is left alone where a protocol has something of its own; no secret is as short, save known ones."""

_BREAK: Final = re.compile(r"[\r\n]")
_USUAL_LINES: Final = re.compile(
    rb"(?:(?:data:[^\r\n]*+|(?:event|id|retry): ?(?:[0-9]{0,6}+|(?=[^\r\n]*[A-Za-z])[A-Za-z0-9_.:/+=-]*+)|:)?+"
    rb"(?:\r\n|\r|\n))*+",
)
"""Of these, nothing but data can be personal."""


class EventStream:
    """Redacts the bytes of one event stream by ``rule``.

    With ``protocol``, the stream must be that of a model provider: data that is neither JSON nor ``[DONE]`` is a
    :class:`~tenantguard.rules.redaction.rule.MalformedTextError`. Without it, such data is text, each event's by
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
            said = self._usual.rewritten(chunk)
            if said is not None:
                return said
        out = [self._event(event) for event in self._framer.feed(chunk)]
        if self._framer.overflowed:
            raise MalformedTextError("an event of the stream is too large")
        return b"".join(out)

    def finish(self) -> bytes:
        """The stream has ended; return the rest of it. An unfinished event with data is an error."""
        last = SSEFramer()
        out = [self._event(event) for event in last.feed(self._framer.finish() + b":")]  # what a last CR waited for
        rest = last.finish()[:-1]
        unfinished = b"".join(event.data for event in SSEFramer().feed(rest + b"\n\n"))
        if unfinished.strip() not in {b"", _DONE}:
            raise MalformedTextError("the stream ended inside an event")
        return b"".join(out) + self._let_go(last=True) + _written(self._events.close()) + self._lines(rest)

    def failure(self, code: str, message: str) -> bytes:
        """The event with which this stream ends where it is cut; empty where the dialect of refusals has it."""
        said = self._events.failure(code, message)
        return b"" if said is None else _written([said])

    def _usual_after(self, event: SSEEvent) -> _Usual | None:
        """How an event is read that follows this one and differs in no more than one text."""
        line = b"data: %b\n\n" % event.data
        usual = self._events.usual()
        if usual is None or not event.raw.endswith(line) or not self._is_usual(event):
            return None
        head = event.raw[: -len(line)] + b"data: "
        pieces = [piece.encode() for piece in usual.pieces]
        return _Usual(head + pieces[0], pieces[1:-1], pieces[-1] + b"\n\n", usual.channel)

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
        if self._usual is not None:
            said = self._usual.rewritten(event.raw)
            if said is not None:
                return said
        said = self._read(event)
        self._usual = self._usual_after(event) if self._waiting is None else None
        return said

    def _read(self, event: SSEEvent) -> bytes:
        if not self._is_usual(event):
            event = event._replace(raw=self._lines(event.raw))
        data = event.data.strip()
        if not data:
            return self._let_go() + event.raw
        if data == _DONE:
            return self._let_go(last=True) + _written(self._events.close()) + event.raw
        text = decode_utf8(event.data)
        before = self._let_go() if self._waiting is not None else b""
        if waits(text):
            self._waiting = event, text
            return before
        return before + self._rewritten(event, text)

    def _let_go(self, *, last: bool = False) -> bytes:
        """The event that waited for what follows it."""
        if self._waiting is None:
            return b""
        (event, text), self._waiting = self._waiting, None
        return self._rewritten(event, text, last=last)

    def _rewritten(self, event: SSEEvent, text: str, *, last: bool = False) -> bytes:
        try:
            before, new = self._events.event(text, last=last)
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

    Most events of most streams are, and are read in a third of the time. ``channel`` is the text; where there is a
    ``between``, an identifier that may differ stands between it and the ``tail``.
    """

    __slots__ = ("_between", "_channel", "_head", "_tail")

    def __init__(self, head: bytes, between: list[bytes], tail: bytes, channel: Channel) -> None:
        self._head = head + b'"'
        self._between = b'"%b"' % between[0] if between else b""
        self._tail = b'"' + tail
        self._channel = channel

    def rewritten(self, chunk: bytes) -> bytes | None:
        """What leaves for a chunk that is such an event; None if it is not, or holds what is not plain ASCII."""
        head, between, tail = self._head, self._between, self._tail
        end = chunk.find(b'"', len(head))
        rest = chunk[end:]
        if not chunk.startswith(head) or not _PLAIN.fullmatch(chunk, len(head), end) or not rest.endswith(tail):
            return None
        if between:
            if not rest.startswith(between) or not _OWN.fullmatch(rest, len(between), len(rest) - len(tail)):
                return None
        elif len(rest) != len(tail):
            return None
        text = chunk[len(head) : end].decode("ascii")
        new = self._channel.feed(text)
        return chunk if new == text else b"%b%b%b" % (head, escape(new).encode(), rest)


def _written(events: Iterable[Said]) -> bytes:
    """Events of our own as bytes."""
    lines = [f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n" for name, data in events]
    return "".join(lines).encode()
