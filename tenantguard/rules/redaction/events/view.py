"""What a protocol's module says of one event, and what such modules share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from tenantguard.rules.redaction.json_text import LLM_JSON, Kind, decode
from tenantguard.rules.redaction.text.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.json_text import Path, Place

Key: TypeAlias = tuple[str, ...]
"""A channel, as its protocol names it; the last step is the field that it is said in."""

JSON_FIELDS: Final = LLM_JSON.json_keys
"""Fields whose deltas join to JSON."""

ARGUMENT_FIELDS: Final = JSON_FIELDS | {"input", "code", "command"}
"""Fields in which a tool is told what to do."""


_BRACKETS: Final = frozenset("{[")


class Said(NamedTuple):
    """An event of our own: its name where the protocol names events, and its data."""

    name: str
    data: str


class Event:
    """The values of one event's JSON by their paths, as they are written; of a container the first bracket."""

    __slots__ = ("_heads", "values")

    def __init__(self, values: dict[Path, str]) -> None:
        self.values = values
        self._heads: tuple[Iterable[str], str] = ((), "")

    @classmethod
    def of(cls, found: Iterable[Place], text: str) -> Event:
        """The event whose text has these places."""
        return cls(
            {path: written_at(text, kind, start, end) for kind, start, end, path in found if kind is not Kind.KEY}
        )

    def string(self, *path: str | int) -> str:
        """The string at ``path``, "" where there is none."""
        raw = self.values.get(path, "")
        return decode(raw) if raw[:1] == '"' else ""

    def raw(self, *path: str | int) -> str:
        """What is written at ``path``, "" where nothing is or it is a container."""
        raw = self.values.get(path, "")
        return "" if raw in _BRACKETS else raw

    def head(self, names: Iterable[str]) -> str:
        """The members of these names, as they are written, if not personal; behind each a comma."""
        known, head = self._heads
        if known is not names:
            head = "".join([f'"{name}":{raw},' for name in names if (raw := self.plain(name))])
            self._heads = names, head
        return head

    def plain(self, name: str) -> str:
        """What is written under ``name``, "" unless it is a number, a literal or an identifier."""
        raw = self.raw(name)
        return raw if raw[:1] != '"' or LLM_JSON.leaves((name,), decode(raw)) else ""


class View(Protocol):
    """One event as its protocol reads it.

    ``sort``, of a closed set, is what beside the paths that it has tells which strings are deltas, and which repeat.
    """

    sort: str

    def channel(self, path: Path) -> Key | None:
        """The channel of the string at ``path``, None where it is no delta."""
        ...

    def repeats(self, path: Path) -> str | None:
        """The field that the string at ``path`` says again as a whole; None where it is a text by itself."""
        ...

    def ends(self, key: Key) -> bool:
        """Whether nothing follows in that channel after this event."""
        ...

    def delta(self, key: Key, text: str) -> Said:
        """An event that says ``text`` in that channel."""
        ...

    def failure(self, code: str, message: str) -> Said | None:
        """The event with which such a stream ends when it fails; None where the dialect of refusals has it."""
        ...


def written_at(text: str, kind: Kind, start: int, end: int) -> str:
    """What is written at a place of a text; of a container the first bracket."""
    return text[start] if kind is Kind.CONTAINER else text[start:end]


def number(raw: str) -> str:
    """``raw`` if it is a plain index, else 0: it goes into an event of our own."""
    return raw if raw.isascii() and raw.isdigit() and len(raw) < 10 else "0"


def plain_index(raw: str) -> str:
    """An index as it is written, without the quotes of a text that is a number: a reader may take both for the same.

    Any other number (``0.0``, ``-0``, ``1e0``) is a :class:`MalformedTextError`: it is another name for a plain one.
    """
    if raw[:1] == '"':
        return raw[1:-1] if raw[1:-1].isascii() and raw[1:-1].isdigit() else raw
    if raw[:1] in "-0123456789" and raw and not (raw.isdigit() and (raw == "0" or raw[0] != "0")):
        raise MalformedTextError("an index in the stream is no plain number")
    return raw
