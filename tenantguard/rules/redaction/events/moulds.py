"""Events of one form: what all of them have is learned once, what differs is found again without a parser.

Of the events of a stream most differ in some strings and numbers alone. A *mould* is how all JSON texts are cut that
differ only so; it is a function of the text with its values emptied, so it tells nothing of them, and is remembered
from one stream to the next. A *form* is what one stream's events of a mould have in common beside that: identifiers,
and the channels that their texts belong to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tenantguard.rules.redaction.events import gemini, openai_chat, openai_responses
from tenantguard.rules.redaction.events.view import written_at
from tenantguard.rules.redaction.json_text import LITERAL, LLM_JSON, STRING, Kind, decode, places
from tenantguard.rules.redaction.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tenantguard.rules.redaction.events.view import Key, View
    from tenantguard.rules.redaction.json_text import Path

    Hole: TypeAlias = Callable[[str, int], re.Match[str] | None]

NUMBER: Final = re.compile("(?<![0-9.eE+-])(?:0|[1-9][0-9]{0,15})(?![0-9.eE])")
"""A number that counts something."""

_CHARS_MAX: Final = 2048  # finding tokens in what is no JSON may cost the square of this
_MOULDS: Final = 256
_READ: Final = frozenset({"type", "index", *openai_responses.PLACE})
"""What views tell events and channels apart by."""

_HEADS: Final = frozenset({*openai_chat.HEAD, *gemini.HEAD})
_TOKENS: Final = re.compile(f"({STRING}|{NUMBER.pattern})")
_SPACES: Final = " \t\n\r"


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


class _Value(NamedTuple):
    """What is in a hole of a mould; ``stays``: in a stream it is always the same, or tells something else apart."""

    path: Path
    is_string: bool
    stays: bool


@dataclass(frozen=True, slots=True)
class Mould:
    """How JSON texts are cut that differ in no more than strings and plain numbers, keys aside.

    ``values`` are what is in the holes, ``written`` what stands at every path: a hole, or what is written there.
    """

    cut: Cut
    values: Sequence[_Value]
    written: Sequence[tuple[Path, int, str]]

    def read(self, text: str) -> list[str] | None:
        """What stands in the holes."""
        return self.cut.read(text)

    def written_in(self, filled: Sequence[str]) -> dict[Path, str]:
        """What is written at every path of a text with this in its holes."""
        return {path: filled[hole] if hole >= 0 else raw for path, hole, raw in self.written}


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

    None where something is said twice, or an index is a container.
    """
    pieces: list[str] = []
    holes: list[Hole] = []
    values: list[_Value] = []
    written: list[tuple[Path, int, str]] = []
    at = 0
    for kind, start, end, path in places(emptied):
        if kind is Kind.KEY:
            continue
        last = path[-1] if path else ""
        is_string = kind is Kind.STRING
        if is_string or (kind is Kind.SCALAR and NUMBER.fullmatch(emptied, start, end)):
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
    return Mould(Cut(pieces, holes), values, written)


@dataclass(slots=True)
class Form:
    """How the events of one stream are read that have the same mould and in it the same of what ``stays``.

    ``texts`` are the strings to be redacted: which hole, its path, its channel; ``repeats`` those that say a field
    again; ``number`` is the hole with the event's number. A hole of ``same`` has the same string in all of them.
    """

    view: View
    cut: Cut
    texts: list[tuple[int, Path, Key | None]] = field(default_factory=list)
    repeats: list[tuple[int, str]] = field(default_factory=list)
    same: list[tuple[int, str]] = field(default_factory=list)
    number: int | None = None
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


def form_of(view: View, mould: Mould, filled: list[str]) -> Form:
    """The form of an event that is ``filled`` into a mould."""
    pieces = [mould.cut.pieces[0]]
    holes: list[Hole] = []
    form = Form(view, Cut(pieces, holes))
    for value, raw, hole, piece in zip(mould.values, filled, mould.cut.holes, mould.cut.pieces[1:], strict=True):
        path, is_string, stays = value
        if stays and (not is_string or LLM_JSON.leaves(path, decode(raw))):
            pieces[-1] += raw + piece
            continue
        if stays:
            form.same.append((len(holes), raw))
        if is_string:
            key = view.channel(path)
            again = view.repeats(path) if key is None else None
            if again is None:
                form.texts.append((len(holes), path, key))
            else:
                form.repeats.append((len(holes), again))
        elif path == ("sequence_number",):
            form.number = len(holes)
        holes.append(hole)
        pieces.append(piece)
    return form
