"""What is replaced in one text, and by what: the request's rule and the response's."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from tenantguard.errors import BadRequestError, PortError
from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import LITERAL, PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenantguard.rules.placeholders import Vault

Detect: TypeAlias = "Callable[[str], Sequence[Match]]"

_MINTED: Final = "PLACEHOLDER"
_OPAQUE_CHARS_MIN: Final = 256
_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_DATA_URL: Final = re.compile(
    r"data:(?:(?:image|audio|video|font)/[\w.+-]+|application/(?:pdf|octet-stream))(?:;[\w.=+-]+)*;base64," + _BASE64,
    re.ASCII | re.IGNORECASE,
)
_BLOB: Final = re.compile(r"(?=[^a-z ]*+[a-z])(?=[^A-Z ]*+[A-Z])(?=[^0-9 ]*+[0-9])" + _BASE64)


class MalformedTextError(BadRequestError):
    """Bytes are not what their type says (JSON, UTF-8, an event stream), or more than may be read."""


class Edit(NamedTuple):
    """``text[start:end]`` becomes ``new``."""

    start: int
    end: int
    new: str


class TextRule(Protocol):
    """Finds what to replace in a text, and says by what. ``replaced`` counts by entity, never values."""

    replaced: dict[str, int]

    def find(self, text: str) -> list[Match]:
        """What to replace, by start, not overlapping."""
        ...

    def replace(self, entity: str, value: str) -> str:
        """What stands in place of ``value``."""
        ...


class RequestMask:
    """Replaces personal data of the request by placeholders that the vault can undo.

    With ``escape``, text that looks like a placeholder is replaced too, so that a restored response holds the user's
    own text again and nobody can ask for a value by writing its placeholder.
    """

    __slots__ = ("_detect", "_escape", "_vault", "replaced")

    def __init__(self, detect: Detect, vault: Vault, *, escape: bool) -> None:
        self.replaced: dict[str, int] = {}
        self._detect = detect
        self._vault = vault
        self._escape = escape

    def find(self, text: str) -> list[Match]:
        """Detected matches and, with ``escape``, what looks like a placeholder."""
        matches = _checked(self._detect(text), text)
        if not self._escape or "<" not in text:
            return matches
        literals = [Match(LITERAL, *found.span(), 1.0) for found in PLACEHOLDER.finditer(text)]
        return _united(matches, literals) if literals else matches

    def replace(self, entity: str, value: str) -> str:
        """The value's placeholder, which can be restored."""
        self.replaced[entity] = self.replaced.get(entity, 0) + 1
        return self._vault.mint(entity, value)


class ResponseScrub:
    """Replaces personal data that the application wrote and, with ``restore``, puts the request's own values back.

    A placeholder minted in this exchange is opaque: nothing is looked for in it, and what is restored for it is not
    looked at again. Any other placeholder is text like any other.
    """

    __slots__ = ("_detect", "_restore", "_vault", "replaced")

    def __init__(self, detect: Detect, vault: Vault, *, restore: bool) -> None:
        self.replaced: dict[str, int] = {}
        self._detect = detect
        self._vault = vault
        self._restore = restore

    def find(self, text: str) -> list[Match]:
        """Detected matches outside minted placeholders, and those placeholders."""
        matches = _checked(self._detect(text), text)
        if not self._vault.count or "<" not in text:
            return matches
        minted = [
            Match(_MINTED, *found.span(), 1.0)
            for found in PLACEHOLDER.finditer(text)
            if self._vault.value(found[0]) is not None
        ]
        return sorted([*_outside(matches, minted), *minted], key=_start) if minted else matches

    def replace(self, entity: str, value: str) -> str:
        """The request's value of a minted placeholder, else the placeholder of what was found."""
        token = value if entity == _MINTED else self._vault.mask(entity, value)
        minted = self._vault.value(token) if self._restore else None
        if minted is not None:
            return minted
        if entity != _MINTED:
            self.replaced[entity] = self.replaced.get(entity, 0) + 1
        return token


def text_edits(rule: TextRule, text: str) -> list[Edit]:
    """Every change that ``rule`` makes in a whole text.

    Base64 that is a picture, a sound or another blob (a ``data:`` URL of such a type, or at least 256 characters of
    nothing else) is left alone, as a binary body is: what patterns find in it is noise, and replacing destroys it.
    """
    if not text or is_opaque(text):
        return []
    edits: list[Edit] = []
    for match in rule.find(text):
        value = text[match.start : match.end]
        new = rule.replace(match.entity, value)
        if new != value:
            edits.append(Edit(match.start, match.end, new))
    return edits


def is_opaque(text: str) -> bool:
    """Whether the whole text is a binary value in base64."""
    if text[:5].lower() == "data:":
        return _DATA_URL.fullmatch(text) is not None
    return len(text) >= _OPAQUE_CHARS_MIN and _BLOB.fullmatch(text) is not None


def apply(text: str, edits: Sequence[Edit]) -> str:
    """``text`` with ``edits``, which are in order and do not overlap, inserted literally."""
    pieces: list[str] = []
    at = 0
    for start, end, new in edits:
        pieces += (text[at:start], new)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def _checked(matches: Sequence[Match], text: str) -> list[Match]:
    at = 0
    for match in matches:
        if not at <= match.start < match.end <= len(text):
            raise PortError("detector", "its matches overlap, are out of order or lie outside the text")
        at = match.end
    return list(matches)


def _start(match: Match) -> int:
    return match.start


def _united(matches: list[Match], others: list[Match]) -> list[Match]:
    united: list[Match] = []
    for match in sorted([*matches, *others], key=lambda match: (match.start, -match.end)):
        last = united[-1] if united else None
        if last is not None and match.start < last.end:
            united[-1] = Match(last.entity, last.start, max(last.end, match.end), last.score)
        else:
            united.append(match)
    return united


def _outside(matches: list[Match], holes: list[Match]) -> list[Match]:
    outside: list[Match] = []
    first = 0
    for match in matches:
        at = match.start
        while first < len(holes) and holes[first].end <= at:
            first += 1
        for hole in islice(holes, first, None):
            if hole.start >= match.end:
                break
            if at < hole.start:
                outside.append(Match(match.entity, at, hole.start, match.score))
            at = hole.end
        if at < match.end:
            outside.append(Match(match.entity, at, match.end, match.score))
    return outside
