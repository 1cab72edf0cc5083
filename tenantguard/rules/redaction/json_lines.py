"""JSON values one after the other (NDJSON, JSON text sequences, an array that grows), each redacted as an event.

A value leaves once it is complete; what a model says in several is one text, as in a stream of events
(``events/json_events.py``). Everything between the values stays as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events.json_events import JsonEvents, waits
from tenantguard.rules.redaction.fields import EVERYWHERE
from tenantguard.rules.redaction.json_text import broken_edits, decode_utf8
from tenantguard.rules.redaction.text.rule import MalformedTextError, apply
from tenantguard.rules.sse import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.events.view import Said
    from tenantguard.rules.redaction.fields import Scope
    from tenantguard.rules.redaction.text.rule import TextRule

VALUE_BYTES_MAX: Final = 8 * 1024 * 1024
_BREAK: Final = re.compile(r"[\r\n]")
_OUTSIDE: Final = re.compile(rb'["\[\]{}]')
_INSIDE: Final = re.compile(rb'["\\]')
_OPENS: Final = b"[{"
_SPACES: Final = b" \t\r\n"
_RECORD: Final = b"\x1e" + _SPACES
_BETWEEN: Final = b" \t\r\n,"


class _Rewriting(Protocol):
    def feed(self, chunk: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class JsonLines:
    """Redacts lines of JSON by ``rule``, each of at most ``limit`` bytes; the last needs no line feed.

    A record separator before a line (RFC 7464) stays, and so do blank lines. With ``protocol``, the lines are those
    of a model provider, and one that is no JSON is a
    :class:`~tenantguard.rules.redaction.text.rule.MalformedTextError`; without it, such a line is text. ``unknown``
    says what happens to that, and to JSON of no known shape; ``scope`` whether keys and numbers are looked at too.
    """

    def __init__(
        self,
        rule: TextRule,
        *,
        protocol: bool,
        unknown: Unknown = Unknown.SCRUB,
        scope: Scope = EVERYWHERE,
        limit: int = VALUE_BYTES_MAX,
    ) -> None:
        self._rule = rule
        self._protocol = protocol
        self._unknown = unknown
        self._limit = limit
        self._events = JsonEvents(rule, protocol=protocol, unknown=unknown, scope=scope)
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        whole = chunk.rfind(b"\n") + 1
        out: list[bytes] = []
        if whole:
            lines = (self._rest + chunk[:whole]).split(b"\n")[:-1]
            self._rest.clear()
            for line in lines:
                self._check(len(line))
                out.append(self._line(bytes(line) + b"\n"))
        self._rest += chunk[whole:]
        self._check(len(self._rest))
        return b"".join(out)

    def finish(self) -> bytes:
        """The body has ended; return the rest of it."""
        out = self._line(bytes(self._rest)) if self._rest else b""
        self._rest.clear()
        held = self._written(self._events.close())
        return out + (b"\n" + held[:-1] if held and out and not out.endswith(b"\n") else held)

    def failure(self, code: str, message: str) -> bytes:
        """The line with which this body ends where it is cut; empty where its protocol has none."""
        said = self._events.failure(code, message)
        return b"" if said is None else self._written([said])

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise MalformedTextError(f"a line has more than {self._limit} bytes")

    def _line(self, line: bytes) -> bytes:
        value = line.removeprefix(BYTE_ORDER_MARK).lstrip(_RECORD)
        before = line[: len(line) - len(value)]
        after = value[len(value.rstrip(_SPACES)) :]
        value = value[: len(value) - len(after)]
        if not value:
            return line
        text = decode_utf8(value)
        try:
            said, new = self._events.event(text)
        except MalformedTextError:
            if self._protocol or self._unknown is Unknown.BLOCK or text[:1] in {"{", "["}:
                raise
            said, new = [], self._plain(text)
        return self._written(said) + (line if new == text else before + new.encode() + after)

    def _plain(self, text: str) -> str:
        if self._unknown is Unknown.PASS:
            self._rule.skipped["event"] = self._rule.skipped.get("event", 0) + 1
            return text
        new = apply(text, broken_edits(text, self._rule))
        if new != text and _BREAK.search(new):
            raise MalformedTextError("what belongs into a line has lines of its own")
        return new

    def _written(self, said: Iterable[Said]) -> bytes:
        return "".join([f"{data}\n" for _, data in said]).encode()


class JsonArray:
    """Redacts a model provider's JSON body: the objects of an array (Gemini's stream without ``alt=sse``) one by one.

    A body that is no array of objects is ``whole``'s. An element has at most ``limit`` bytes.
    """

    def __init__(
        self, rule: TextRule, whole: _Rewriting, *, unknown: Unknown = Unknown.SCRUB, limit: int = VALUE_BYTES_MAX
    ) -> None:
        self._events = JsonEvents(rule, protocol=True, unknown=unknown)
        self._whole = whole
        self._limit = limit
        self._rest = bytearray()
        self._array: bool | None = None  # the body is one; not known yet
        self._at = 0  # so far, the rest has been looked at
        self._start = 0  # where the open element begins in it
        self._depth = 0
        self._quoted = False
        self._begun = False
        self._ended = False
        self._waiting: tuple[bytes, str] | None = None  # the element that waits for the next, and what is before it

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return what may leave."""
        if self._array is None and not self._rest and chunk[:1] == b"{":
            self._array = False
        if self._array is False:
            return self._whole.feed(chunk)
        self._rest += chunk
        out: list[bytes] = []
        if self._array is None:
            head = self._rest.lstrip(_SPACES)
            first = head[1:].lstrip(_SPACES)[:1] if head[:1] == b"[" else b""
            if (not head or (head[:1] == b"[" and not first)) and len(self._rest) <= self._limit:
                return b""
            self._array = head[:1] == b"[" and first == b"{"
            if not self._array:
                return self._whole.feed(bytes(self._rest))
            self._at = self._rest.index(b"[") + 1
            out.append(self._taken())
        while self._step(out):
            pass
        if len(self._rest) > self._limit:
            raise MalformedTextError(f"an element of the body has more than {self._limit} bytes")
        return b"".join(out)

    def finish(self) -> bytes:
        """The body has ended; return the rest of it."""
        if self._array is None:
            return self._whole.feed(bytes(self._rest)) + self._whole.finish()
        if not self._array:
            return self._whole.finish()
        if not self._ended:
            raise MalformedTextError("the body ended inside an array")
        return b""

    def failure(self, code: str, message: str) -> bytes:
        """The element with which this body ends where it is cut; empty where none can stand there."""
        said = self._events.failure(code, message)
        if said is None or not self._array or self._ended:
            return b""
        return (b",\n" if self._begun else b"") + said.data.encode() + b"]"

    def _step(self, out: list[bytes]) -> bool:
        """Look at one thing more; False if more bytes are needed for it."""
        rest = self._rest
        if self._depth:
            return self._inside(out)
        while self._at < len(rest) and rest[self._at] in _BETWEEN:
            self._at += 1
        if self._at == len(rest):
            if self._ended:
                out.append(self._taken())
            return False
        mark = bytes(rest[self._at : self._at + 1])
        if self._ended or mark not in {b"{", b"]"}:
            raise MalformedTextError("the body is no array of objects")
        if mark == b"{":
            self._start = self._at
            self._depth = 1
        else:
            self._ended = True
            out.append(self._let_go(last=True))
            out.extend(self._written(self._events.close()))
        self._at += 1
        return True

    def _inside(self, out: list[bytes]) -> bool:
        found = (_INSIDE if self._quoted else _OUTSIDE).search(self._rest, self._at)
        if found is None:
            self._at = len(self._rest)
            return False
        mark = found[0]
        if mark == b"\\":
            if found.end() == len(self._rest):
                self._at = found.start()
                return False
            self._at = found.end() + 1
            return True
        self._at = found.end()
        if mark == b'"':
            self._quoted = not self._quoted
            return True
        self._depth += 1 if mark in _OPENS else -1
        if not self._depth:
            start = self._start
            element = self._taken()
            text = decode_utf8(element[start:])
            out.append(self._let_go(text))
            self._waiting = element[:start], text
            if not waits(text):
                out.append(self._let_go())
        return True

    def _let_go(self, following: str = "", *, last: bool = False) -> bytes:
        """The element that waited for what follows it."""
        if self._waiting is None:
            return b""
        (before, text), self._waiting = self._waiting, None
        said, new = self._events.event(text, last=last, following=following)
        self._begun = True
        return b"".join([*self._written(said), before, new.encode()])

    def _taken(self) -> bytes:
        taken = bytes(self._rest[: self._at])
        del self._rest[: self._at]
        self._at = 0
        return taken

    def _written(self, said: Iterable[Said]) -> list[bytes]:
        return [b",\n" + data.encode() for _, data in said]
