"""JSON text that arrives in pieces (a tool call's arguments): its strings redacted, its structure never held back.

Each string, key or value, is a text of its own. What stands outside of strings may only be JSON's own marks, numbers
and literals; from the first character that is anything else on, the text counts as plain and is redacted as such, its
escapes seen through: a more tolerant reader would undo them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from tenantguard.rules.redaction.json_text import ANY_ESCAPE, SCALAR, escape, unescaped
from tenantguard.rules.redaction.text.hold import TextStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.text.hold import Piece
    from tenantguard.rules.redaction.text.rule import TextRule

_SCALAR_CHARS_MAX: Final = 64
_ANY: Final = re.compile(rf"[^\\]+|{ANY_ESCAPE.pattern}", re.DOTALL)
_BEGUN: Final = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3}|u\{[0-9a-fA-F]{0,6}|x[0-9a-fA-F]?|\r)?\Z"
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z",
)
"""An escape that more text may end, or make another one of."""

_TAKEN_CHARS: Final = 1024  # at a time, so that a long piece costs linear time
_MARKS: Final = re.compile(r"[\[\]{},:\s]+")
_SCALAR_RUN: Final = re.compile(r"[A-Za-z0-9+.-]+")
_PAIR: Final = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_IN_STRING: Final = re.compile(rf'[^"\\]+|{_PAIR}|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}})')
_UNFINISHED: Final = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z",
)


class JsonTextStream:
    """One JSON text that arrives in pieces, redacted by ``rule``; what was not replaced stays as it was written."""

    __slots__ = ("_begun", "_plain", "_rest", "_rule", "_sources", "_string")

    def __init__(self, rule: TextRule) -> None:
        self._rule = rule
        self._rest = ""
        self._begun = False
        self._plain: EscapedTextStream | None = None
        self._string: TextStream | None = None
        self._sources: list[str] = []

    def feed(self, text: str) -> str:
        """Take the next piece; return what may leave."""
        out: list[str] = []
        for start in range(0, len(text), _TAKEN_CHARS):
            taken = text[start : start + _TAKEN_CHARS]
            if self._plain is not None:
                out.append(self._plain.feed(taken))
                continue
            self._rest += taken
            while self._step(out):
                pass
        return "".join(out)

    def finish(self) -> str:
        """The text has ended; return the rest of it."""
        out: list[str] = []
        if self._string is not None:
            out += (self._written(self._string.finish()), self._rest)
        elif self._plain is None and self._rest:
            if SCALAR.fullmatch(self._rest):
                out.append(self._rest)
            else:
                self._become_plain(out)
        if self._plain is not None:
            out.append(self._plain.finish())
        self._rest = ""
        return "".join(out)

    def _step(self, out: list[str]) -> bool:
        if not self._rest:
            return False
        return self._inside(out) if self._string is not None else self._outside(out)

    def _outside(self, out: list[str]) -> bool:
        """Take one thing that is no string; False if more text is needed for it."""
        rest = self._rest
        if not self._begun:
            first = rest.lstrip()[:1]
            self._begun = first in {"{", "["}
            if first and not self._begun:
                self._become_plain(out)
                return False
        if rest[0] == '"':
            self._string = TextStream(self._rule)
            self._take(1, out)
            return True
        marks = _MARKS.match(rest)
        if marks is not None:
            self._take(marks.end(), out)
            return True
        scalar = _SCALAR_RUN.match(rest)
        if scalar is not None and scalar.end() <= _SCALAR_CHARS_MAX:
            if scalar.end() == len(rest):
                return False
            if SCALAR.fullmatch(scalar[0]):
                self._take(scalar.end(), out)
                return True
        self._become_plain(out)
        return False

    def _inside(self, out: list[str]) -> bool:
        """Take what there is of the open string; False if more text is needed for it."""
        string, rest = self._string, self._rest
        assert string is not None
        decoded: list[str] = []
        at = 0
        while at < len(rest) and rest[at] != '"' and _UNFINISHED.match(rest, at) is None:
            found = _IN_STRING.match(rest, at)
            if found is None:
                break
            at = found.end()
            if found[0][0] == "\\":
                decoded.append(json.loads(f'"{found[0]}"'))
                self._sources.append(found[0])
            else:
                decoded.append(found[0])
                self._sources.extend(found[0])
        out.append(self._written(string.feed("".join(decoded))))
        self._rest = rest[at:]
        if not self._rest or _UNFINISHED.match(self._rest):
            return False
        out.append(self._written(string.finish()))
        self._string = None
        if self._rest[0] == '"':
            self._take(1, out)
        else:
            self._become_plain(out)
        return True

    def _written(self, pieces: Iterable[Piece]) -> str:
        """Pieces of a string's value as they stand in the literal."""
        written: list[str] = []
        for source, new in pieces:
            sources = self._sources[: len(source)]
            del self._sources[: len(source)]
            written.append("".join(sources) if new is None else escape(new))
        return "".join(written)

    def _take(self, count: int, out: list[str]) -> None:
        out.append(self._rest[:count])
        self._rest = self._rest[count:]

    def _become_plain(self, out: list[str]) -> None:
        self._plain = EscapedTextStream(self._rule)
        out.append(self._plain.feed(self._rest))
        self._rest = ""


class EscapedTextStream:
    """A text that arrives in pieces and may be read as if it were JSON: what its escapes stand for is redacted.

    What is put in place of something with an escape in it is escaped, anything else is inserted as it is.
    """

    __slots__ = ("_lead", "_rest", "_sources", "_stream")

    def __init__(self, rule: TextRule) -> None:
        self._stream = TextStream(rule)
        self._rest = ""
        self._lead: list[str] = []  # what stands for nothing, and goes with what follows
        self._sources: list[str] = []

    def feed(self, text: str) -> str:
        """Take the next piece; return what may leave."""
        return "".join([self._taken(text[at : at + _TAKEN_CHARS]) for at in range(0, len(text), _TAKEN_CHARS)])

    def finish(self) -> str:
        """The text has ended; return the rest of it."""
        self._add(list(self._rest), self._rest)
        told = self._written([*self._stream.feed(self._rest), *self._stream.finish()])
        return told + "".join(self._lead)

    def _taken(self, text: str) -> str:
        rest = self._rest + text
        decoded: list[str] = []
        at = 0
        while at < len(rest) and _BEGUN.match(rest, at) is None:
            found = _ANY.match(rest, at)
            assert found is not None
            at = found.end()
            value = found[0] if found[0][0] != "\\" else unescaped(found)
            self._add([found[0]] if len(value) == 1 else list(value), found[0])
            decoded.append(value)
        self._rest = rest[at:]
        return self._written(self._stream.feed("".join(decoded)))

    def _add(self, sources: list[str], raw: str) -> None:
        """Remember how each of the next characters is written, all of them as ``raw``."""
        if not sources:
            self._lead.append(raw)
        elif self._lead:
            sources[0] = "".join([*self._lead, sources[0]])
            self._lead.clear()
        self._sources += sources

    def _written(self, pieces: Iterable[Piece]) -> str:
        written: list[str] = []
        for source, new in pieces:
            raw = "".join(self._sources[: len(source)])
            del self._sources[: len(source)]
            written.append(raw if new is None else escape(new) if "\\" in raw else new)
        return "".join(written)
