"""Events of one form: what all of them have is learned once, what differs is found again without a parser.

Of the events of a stream most differ in some strings and numbers alone. A *mould* is how all JSON texts are cut that
differ only so; it is a function of the text with its values emptied, so it tells nothing of them, and is remembered
from one stream to the next, with what its strings are to each protocol and with which mould came next. A *form* is
what one stream's events of a mould have in common beside that: identifiers, and the channels that their texts belong
to. It is worth its making from the second event on.

What streams share holds no value of any event. Its keys are identifiers: an object that somebody's data are the keys
of has no mould.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.rules.redaction.events import gemini, openai_chat, openai_responses
from tenantguard.rules.redaction.events.view import written_at
from tenantguard.rules.redaction.json_text import LITERAL, LLM_JSON, STRING, Kind, decode, places
from tenantguard.rules.redaction.text.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tenantguard.rules.redaction.events.view import Key, View
    from tenantguard.rules.redaction.json_text import Path

    Hole: TypeAlias = Callable[[str, int], re.Match[str] | None]

NUMBER: Final = re.compile("(?<![0-9.eE+-])(?:0|[1-9][0-9]{0,15})(?![0-9.eE])")
"""A number that counts something."""

_CHARS_MAX: Final = 2048  # finding tokens in what is no JSON may cost the square of this
_MOULDS: Final = 256
_READ: Final = frozenset({"type", "index", "finish_reason", *openai_responses.PLACE})
"""What views tell events and channels apart by."""

_HEADS: Final = frozenset({*openai_chat.HEAD, *gemini.HEAD})
_TOKENS: Final = re.compile(f"({STRING}|{NUMBER.pattern})")
_SPACES: Final = " \t\n\r"
_KEY: Final = re.compile(r"[A-Za-z_]{1,64}[0-9]{0,2}")
OWN: Final = r"(?![^A-Za-z]{7})[A-Za-z0-9_.:/+=-]*+"
"""What is left alone where a protocol has something of its own; of those that are, most."""

_OWN_LITERAL: Final = re.compile(f'"{OWN}"')


@dataclass(frozen=True, slots=True)
class Cut:
    """Texts that have the same ``pieces``, one more than ``holes``, and in each hole a string or a number."""

    pieces: Sequence[str]
    holes: Sequence[Hole]

    def read(self, text: str) -> list[str] | None:
        """What stands in the holes, None for another text."""
        at = 0
        filled: list[str] = []
        pieces = self.pieces
        for piece, hole in zip(pieces, self.holes, strict=False):
            if not text.startswith(piece, at):
                return None
            found = hole(text, at + len(piece))
            if found is None:
                return None
            filled.append(found[0])
            at = found.end()
        return filled if text[at:] == pieces[-1] else None

    def written(self, filled: list[str]) -> str:
        """The text with this in its holes."""
        parts = [""] * (2 * len(filled) + 1)
        parts[::2] = self.pieces
        parts[1::2] = filled
        return "".join(parts)

    def start(self, filled: Sequence[str], hole: int) -> int:
        """Where in the text with this in its holes that one begins."""
        return sum(map(len, self.pieces[: hole + 1])) + sum(map(len, filled[:hole]))


class _Value(NamedTuple):
    """What is in a hole of a mould; ``stays``: in a stream it is always the same, or tells something else apart."""

    path: Path
    is_string: bool
    stays: bool


class _Part(NamedTuple):
    """What a string is to a protocol: a delta of a channel, a field said again, or a text by itself.

    ``own``: it stays where it looks like an identifier; ``free``: and may be another in each event of a stream.
    """

    hole: int
    path: Path
    is_delta: bool
    again: str | None
    own: bool
    free: bool


@dataclass(frozen=True, slots=True, eq=False)
class Mould:
    """How JSON texts are cut that differ in no more than strings and plain numbers, keys aside.

    ``values`` are what is in the holes, ``written`` what stands at every path: a hole, or what is written there.
    ``number`` is the hole with an event's number, ``parts`` the strings by the kind of event, of closed sets.
    """

    cut: Cut
    values: Sequence[_Value]
    written: Sequence[tuple[Path, int, str]]
    number: int | None
    parts: dict[tuple[type[View], str], Sequence[_Part]] = field(default_factory=dict)

    def read(self, text: str) -> list[str] | None:
        """What stands in the holes."""
        return self.cut.read(text)

    def written_in(self, filled: Sequence[str]) -> dict[Path, str]:
        """What is written at every path of a text with this in its holes."""
        return {path: filled[hole] if hole >= 0 else raw for path, hole, raw in self.written}

    def parts_in(self, view: View) -> Sequence[_Part]:
        """What the strings are in an event that ``view`` sees."""
        kind = type(view), view.sort
        parts = self.parts.get(kind)
        if parts is None:
            parts = self.parts[kind] = [
                _part(hole, value, view) for hole, value in enumerate(self.values) if value.is_string
            ]
        return parts


def _part(hole: int, value: _Value, view: View) -> _Part:
    path = value.path
    is_delta = view.channel(path) is not None
    again = None if is_delta else view.repeats(path)
    own = not is_delta and again is None and LLM_JSON.leaves(path, "")
    return _Part(hole, path, is_delta, again, own, own and not value.stays)


def read_mould(text: str, after: After) -> tuple[Mould, list[str]] | None:
    """The mould of a text and what stands in its holes; None where it has none.

    The one that came ``after`` the same in the last stream is tried first: finding one takes four times as long.
    """
    mould = _NEXT.get(after)
    filled = mould.read(text) if mould is not None else None
    if mould is not None and filled is not None:
        return mould, filled
    mould = mould_of(text)
    filled = mould.read(text) if mould is not None else None
    if mould is None or filled is None:
        return None
    if len(_NEXT) >= _MOULDS:
        _NEXT.clear()
    _NEXT[after] = mould
    return mould, filled


def mould_of(text: str) -> Mould | None:
    """The mould of a text; None if it is no JSON, long, or says something twice."""
    if len(text) > _CHARS_MAX:
        return None
    parts = _TOKENS.split(text)
    for at in range(1, len(parts), 2):
        after = parts[at + 1]
        if parts[at][0] != '"':
            parts[at] = "0"
        elif after[:1] != ":" and after.lstrip(_SPACES)[:1] != ":":
            parts[at] = '""'
    try:
        return _mould("".join(parts))
    except MalformedTextError:
        return None


@lru_cache(maxsize=_MOULDS)
def _mould(emptied: str) -> Mould | None:
    """The mould of a JSON text in which strings that are values are empty, and plain numbers 0.

    None where something is said twice, or an index is a container. One with a key that is not written as an
    identifier is a :class:`MalformedTextError`, so that it is not remembered.
    """
    pieces: list[str] = []
    holes: list[Hole] = []
    values: list[_Value] = []
    written: list[tuple[Path, int, str]] = []
    number: int | None = None
    at = 0
    for kind, start, end, path in places(emptied):
        if kind is Kind.KEY:
            if _KEY.fullmatch(emptied, start + 1, end - 1) is None:
                raise MalformedTextError("a key of the event is no identifier")
            continue
        last = path[-1] if path else ""
        is_string = kind is Kind.STRING
        if is_string or (kind is Kind.SCALAR and NUMBER.fullmatch(emptied, start, end)):
            if path == ("sequence_number",) and not is_string:
                number = len(holes)
            written.append((path, len(holes), ""))
            values.append(_Value(path, is_string, last in _READ or (len(path) == 1 and last in _HEADS)))
            pieces.append(emptied[at:start])
            holes.append(LITERAL.match if is_string else NUMBER.match)
            at = end
            continue
        written.append((path, -1, written_at(emptied, kind, start, end)))
        if kind is Kind.CONTAINER and (last == "index" or (last in LLM_JSON.copy_keys and end - start > len("[]"))):
            return None
    if len({path for path, _, _ in written}) < len(written):
        return None  # a key is there twice
    pieces.append(emptied[at:])
    return Mould(Cut(pieces, holes), values, written, number)


After: TypeAlias = "tuple[Mould | None, bool]"
"""The mould of the latest event that was read without a form, None at the beginning; and whether it has one now."""

_NEXT: Final[dict[After, Mould]] = {}
"""What came after what. Two threads may write here at once; either is right."""


@dataclass(slots=True)
class Form:
    """How the events of one stream are read that have the same mould and in it the same of what ``stays``.

    ``texts`` are the strings to be redacted: which hole, its path, its channel, whether an identifier stays;
    ``repeats`` those that say a field again; ``number`` is the hole with the event's number. A hole of ``same`` has
    the same string in all of them, that of ``free`` an identifier that tells nothing apart.
    """

    view: View
    cut: Cut
    texts: list[tuple[int, Path, Key | None, bool]] = field(default_factory=list)
    repeats: list[tuple[int, str]] = field(default_factory=list)
    same: list[tuple[int, str]] = field(default_factory=list)
    number: int | None = None
    free: int | None = None
    ended: dict[Key, bool] = field(default_factory=dict)

    def read(self, text: str) -> list[str] | None:
        """What stands in the holes, None for an event of another form."""
        filled = self.cut.read(text)
        if filled is None or not self.same:
            return filled
        return filled if all(filled[hole] == literal for hole, literal in self.same) else None

    def ends(self, key: Key) -> bool:
        """Whether nothing follows in that channel after such an event."""
        ended = self.ended.get(key)
        if ended is None:
            ended = self.ended[key] = self.view.ends(key)
        return ended

    def ending(self, channels: Iterable[Key]) -> list[Key]:
        """Which of these channels end with such an event."""
        return [key for key in channels if self.ends(key)]


def form_alone(view: View, mould: Mould) -> Form:
    """The form of one event of a mould, of which no other is known."""
    form = Form(view, mould.cut, number=mould.number)
    for hole, path, is_delta, again, own, free in mould.parts_in(view):
        if free:
            form.free = hole
        if again is not None:
            form.repeats.append((hole, again))
        else:
            form.texts.append((hole, path, view.channel(path) if is_delta else None, own))
    return form


def form_of(view: View, mould: Mould, filled: list[str]) -> Form:
    """The form of all events that are like one which is ``filled`` into a mould."""
    pieces = [mould.cut.pieces[0]]
    holes: list[Hole] = []
    form = Form(view, Cut(pieces, holes))
    parts = {part.hole: part for part in mould.parts_in(view)}
    for at, (raw, hole, piece) in enumerate(zip(filled, mould.cut.holes, mould.cut.pieces[1:], strict=True)):
        part = parts.get(at)
        stays = mould.values[at].stays
        if stays and (part is None or LLM_JSON.leaves(part.path, decode(raw))):
            pieces[-1] += raw + piece
            continue
        if stays:
            form.same.append((len(holes), raw))
        if part is None:
            if at == mould.number:
                form.number = len(holes)
        elif part.again is not None:
            form.repeats.append((len(holes), part.again))
        else:
            key = view.channel(part.path) if part.is_delta else None
            form.free = len(holes) if part.free else form.free
            form.texts.append((len(holes), part.path, key, part.own))
        holes.append(hole)
        pieces.append(piece)
    return form


def is_own(literal: str) -> bool:
    """Whether a string certainly is an identifier; a protocol's own, it stays."""
    return _OWN_LITERAL.fullmatch(literal) is not None
