"""Redaction of a text that arrives in pieces: what may leave now, and what must wait for more.

The rules, on which every split of a text into pieces gives the same result:

1. A *token* is a run of characters between separators (white space, full-width punctuation). Its end is known once a
   separator follows.
2. A token is *plain* if no entity of several tokens can go on beyond it: it holds a letter, no digit, ``@``, ``+`` or
   bracket, is not one of at most four capitals (the groups of an IBAN) and no word before a telephone extension. Of
   a token with a placeholder, what follows the placeholder counts.
3. Behind each separator that follows a plain token the text can be cut: what is before can leave, scanned together
   with the 96 characters that left before it. Full-width punctuation behind a ``/`` may belong to an address, and
   only white space ends that. Whether a place is a cut depends on nothing that comes after it.
4. Where ``HOLD_CHARS_MAX`` characters hold no cut, the text is cut by force, at a separator if there is one, and
   never inside a match, a minted placeholder or the last 64 characters. A run without separators that has begun as
   an address (``@``, ``://``) and does not end is replaced at once and swallowed up to its end, and so is a match
   that fills all that is held. What came before a run began to look like anything has left by then.

Rule 2 fits the recognisers on by default, whose entities never begin with a word in small letters; a detector must
need no more context than rule 3 gives. Measured against whole texts: see ``tests/adapters/test_presidio.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import PLACEHOLDER, PLACEHOLDER_CHARS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.redaction.rule import TextRule

HOLD_CHARS_MAX: Final = 256
CONTEXT_CHARS: Final = 96
_KEPT_CHARS: Final = PLACEHOLDER_CHARS_MAX + 1  # no bounded pattern of the built-in set is longer by more than one
_TAKEN_CHARS: Final = 4096  # at a time, so that a long piece costs linear time
OVERLONG: Final = "OVERLONG"
"""The entity of a run that began as an address and did not end within ``HOLD_CHARS_MAX`` characters."""

_SEPARATORS: Final = r"\s，。、！？；：「」『』【】《》〈〉"  # noqa: RUF001 - full-width punctuation is meant
_TOKEN: Final = re.compile(rf"(?P<token>[^{_SEPARATORS}]*+)(?P<separators>[{_SEPARATORS}]++)")
_LAST_SEPARATOR: Final = re.compile(rf"[{_SEPARATORS}](?=[^{_SEPARATORS}]*\Z)")
_SPACE: Final = re.compile(r"\s")
_TERMINATOR: Final = re.compile(rf"[{_SEPARATORS}\"'<>()]")
_ADDRESS: Final = re.compile(r"@|://")
_OPEN: Final = re.compile(r"[\d@+()\[\]（）［］]")  # noqa: RUF001
_EXTENSION: Final = frozenset({"x", "xt", "xtn", "ext", "extn", "extension", "extensión", "int", "anexo", "доб"})


class Piece(NamedTuple):
    """A piece of the text that may leave: as it is where ``new`` is None, else as ``new``."""

    source: str
    new: str | None = None


def join(pieces: Iterable[Piece]) -> str:
    """The text of pieces as it leaves."""
    return "".join([source if new is None else new for source, new in pieces])


class TextStream:
    """One text that arrives in pieces, redacted by ``rule``. See the rules at the top of this file."""

    __slots__ = ("_held", "_open", "_path", "_rule", "_seen", "_swallowing", "_tail")

    def __init__(self, rule: TextRule) -> None:
        self._rule = rule
        self._tail = ""
        self._held = ""
        self._seen = 0  # so far, held tokens have been looked at, and none is plain
        self._open = False  # the last whole token is not plain
        self._path = False  # an address may go on beyond full-width punctuation
        self._swallowing = False

    @property
    def held(self) -> int:
        """How many characters wait: at most ``HOLD_CHARS_MAX``."""
        return len(self._held)

    def feed(self, text: str) -> list[Piece]:
        """Take the next piece; return what may leave."""
        pieces: list[Piece] = []
        for start in range(0, len(text), _TAKEN_CHARS):
            self._held += text[start : start + _TAKEN_CHARS]
            self._let_go(pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """The text has ended; return the rest of it."""
        pieces: list[Piece] = []
        if self._held:
            self._release(len(self._held), self._find(len(self._held)), pieces)
        return pieces

    def _let_go(self, pieces: list[Piece]) -> None:
        while self._held:
            if self._swallowing:
                self._swallow(pieces)
                continue
            cut, stuck = self._last_cut()
            if cut:
                self._release(cut, self._find(cut), pieces)
            if not stuck:
                break
            self._force(pieces)

    def _last_cut(self) -> tuple[int, bool]:
        """The last cut before a gap of more than ``HOLD_CHARS_MAX``, and whether there is such a gap."""
        last = 0
        while (found := _TOKEN.match(self._held, self._seen)) is not None:
            token, cut = found["token"], found.start("separators")
            self._seen = found.end()
            if token:
                self._open = not _is_plain(token)
            self._path = self._path or "/" in token
            if self._path:
                space = _SPACE.search(self._held, cut, found.end())
                if space is None:
                    continue
                self._path, cut = False, space.start()
            if self._open:
                continue
            if cut + 1 - last > HOLD_CHARS_MAX:
                return last, True
            last = found.end()
        return last, len(self._held) - last > HOLD_CHARS_MAX

    def _find(self, end: int) -> list[Match]:
        """Matches in the first ``end`` held characters, counted from the first that has not left yet."""
        before = len(self._tail)
        matches = self._rule.find(self._tail + self._held[:end])
        return [
            Match(match.entity, max(match.start - before, 0), match.end - before, match.score)
            for match in matches
            if match.end > before
        ]

    def _release(self, end: int, matches: Iterable[Match], pieces: list[Piece]) -> None:
        held = self._held
        at = 0
        for match in matches:
            if match.end > end:
                break
            if at < match.start:
                pieces.append(Piece(held[at : match.start]))
            value = held[match.start : match.end]
            pieces.append(Piece(value, self._rule.replace(match.entity, value)))
            at = match.end
        if at < end:
            pieces.append(Piece(held[at:end]))
        self._tail = (self._tail + held[:end])[-CONTEXT_CHARS:]
        self._held = held[end:]
        self._seen = max(self._seen - end, 0)

    def _force(self, pieces: list[Piece]) -> None:
        """Let go of some of the first ``HOLD_CHARS_MAX`` characters, which hold no cut."""
        window = self._held[:HOLD_CHARS_MAX]
        matches = self._find(len(window))
        end = HOLD_CHARS_MAX - _KEPT_CHARS
        separator = _LAST_SEPARATOR.search(window, 0, end)
        if separator is not None:
            end = separator.end()
        elif (begin := _unclosed_address(window)) is not None:
            end = min(begin or end, end)
            if begin == 0 and not (matches and (matches[0].start, matches[0].end) == (0, len(window))):
                matches = [Match(OVERLONG, 0, len(window), 1.0)]
        crossing = next((match for match in matches if match.start < end < match.end), None)
        if crossing is not None:
            end = crossing.start or crossing.end
        self._release(end, matches, pieces)
        self._seen, self._open, self._path = 0, True, False
        if end == len(window):
            self._swallowing = True
            self._tail = ""

    def _swallow(self, pieces: list[Piece]) -> None:
        end = _TERMINATOR.search(self._held)
        swallowed = end.start() if end is not None else len(self._held)
        if swallowed:
            pieces.append(Piece(self._held[:swallowed], ""))
        self._held = self._held[swallowed:]
        self._swallowing = end is None


def _is_plain(token: str) -> bool:
    placed = "<" in token and len(parts := PLACEHOLDER.split(token)) > 1
    if placed:
        token = parts[-1]
    if _OPEN.search(token):
        return False
    word = "".join(filter(str.isalnum, token))
    if not word:
        return placed
    if len(word) <= 4 and word.isupper():
        return False
    return word.lower() not in _EXTENSION


def _unclosed_address(window: str) -> int | None:
    """Where the run begins that holds the last ``@`` or ``://``, None if there is none or it ends in the window."""
    marks = [*_ADDRESS.finditer(window)]
    if not marks or _TERMINATOR.search(window, marks[-1].end()):
        return None
    return max((found.end() for found in _TERMINATOR.finditer(window, 0, marks[-1].start())), default=0)
