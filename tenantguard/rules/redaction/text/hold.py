"""Redaction of a text that arrives in pieces: what may leave now, and what must wait for more.

The rules, on which every split of a text into pieces gives the same result:

1. A *token* is a run of characters between separators (white space, full-width punctuation). Its end is known once a
   separator follows.
2. A token is *plain* if no entity of several tokens can go on beyond it: it holds a letter, no digit, ``@``, ``+`` or
   bracket, is not one of at most four capitals and no word before a telephone extension, and no group of an IBAN in
   small letters, which are known by the letters and digits that it begins with. Of a token with a placeholder, what
   follows the placeholder counts. At most four capitals are plain all the same ("I am") once a small letter follows.
3. Behind each separator that follows a plain token the text can be cut: what is before can leave, scanned together
   with the ``CONTEXT_CHARS`` characters that left before it. Full-width punctuation behind a ``/`` may belong to an
   address, and only white space ends that. A full-width form of ASCII's (a colon) may belong to one, too, where
   normalisation reads it as such: there is no cut behind it, unless another script stands before it. Whether a place
   is a cut depends on nothing that comes after it, behind capitals on the first character.
4. Where the rule has a ``reach`` (listed phrases, whose words are plain), a cut counts only once there is another so
   many characters behind it, up to which the text is scanned; a match that crosses the cut moves it to its own start.
5. A private key (PEM) is held from its first line on, and leaves as one placeholder once its last line is there, or
   ``PEM_CHARS_MAX`` characters of it.
6. Where ``HOLD_CHARS_MAX`` characters (and the reach) hold no cut, the text is cut by force, at a separator if there
   is one, and never inside a match, a minted placeholder or the last 128 characters. A match that fills all that is
   held may go on: it is waited for, up to ``MATCH_CHARS_MAX`` characters (a long token, which is found by its
   beginning too). One that is longer is replaced, and swallowed up to the end of its run, and so is at once a run
   without separators that has begun as an address (``@``, ``://``) and does not end. What came before a run began to
   look like anything has left by then.

Rule 2 fits the recognisers on by default, whose entities never begin with a word in small letters; a detector must
need no more context than rule 3 gives. Measured against whole texts: see ``tests/adapters/pii``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import PLACEHOLDER
from tenantguard.rules.secrets import pem
from tenantguard.rules.separators import FULL_STOPS, WIDE_MARKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.rules.redaction.text.rule import TextRule

HOLD_CHARS_MAX: Final = 256
MATCH_CHARS_MAX: Final = 8192
"""A JSON web token has some hundred characters, and up to 8 KB where a server takes it in a header."""

CONTEXT_CHARS: Final = 96
_KEPT_CHARS: Final = 128  # more than placeholders have, and all that is bounded but some tokens
_TAKEN_CHARS: Final = 4096  # at a time, so that a long piece costs linear time
OVERLONG: Final = "OVERLONG"
"""The entity of a run that began as an address and did not end within ``HOLD_CHARS_MAX`` characters."""

_SEPARATORS: Final = rf"\s{FULL_STOPS}"
_TOKEN: Final = re.compile(rf"(?P<token>[^{_SEPARATORS}]*+)(?P<separators>\s++|[{FULL_STOPS}])")
_LAST_SEPARATOR: Final = re.compile(rf"[{_SEPARATORS}](?=[^{_SEPARATORS}]*\Z)")
_SPACE: Final = re.compile(r"\s")
_TERMINATOR: Final = re.compile(rf"[{_SEPARATORS}\"'<>()]")
_ADDRESS: Final = re.compile(r"@|://")
_OPEN: Final = re.compile(r"[\d@+()\[\]（）［］]")  # noqa: RUF001
_MARK: Final = pem.MARK.rstrip()
_LABEL: Final = re.compile(re.escape(pem.MARK) + "[A-Z0-9 ]*+")
_IBAN_HEAD: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}[A-Za-z\d-]*\Z")
_IBAN_GROUPS: Final = re.compile(r"[A-Za-z\d-]+")
_IBAN_CHARS_MAX: Final = 44  # 34 (ISO 13616) and a space before each group of four, and some
_EXTENSION: Final = frozenset({"x", "xt", "xtn", "ext", "extn", "extension", "extensión", "int", "anexo", "доб"})
_WIDE_EXTENSION: Final = frozenset({"ｘ", "ｘｔ", "ｘｔｎ", "ｅｘｔ", "ｅｘｔｎ", "ｉｎｔ"})  # noqa: RUF001
_ANY_EXTENSION: Final = _EXTENSION | _WIDE_EXTENSION
_OTHER_SCRIPT: Final = re.compile(r"[^\x00-\x7f\uff01-\uff5e]\Z")
_FIRST: Final = re.compile(rf"[^{_SEPARATORS}]")
_CAPITALS: Final = re.compile(rf"(?!(?i:{'|'.join(sorted(_EXTENSION))})\Z)[A-Z]{{1,4}}")
_WORDS: Final = re.compile(
    rf"(?:(?!(?i:{'|'.join(sorted(_EXTENSION))})[.,;:!?]*+[ \n])[A-Z]?[a-z]{{1,40}}[.,;:!?]{{0,3}}[ \n])++"
)
"""Plain tokens, as most of a text is, each with one separator."""


class Piece(NamedTuple):
    """A piece of the text that may leave: as it is where ``new`` is None, else as ``new``."""

    source: str
    new: str | None = None


def join(pieces: Iterable[Piece]) -> str:
    """The text of pieces as it leaves."""
    return "".join([source if new is None else new for source, new in pieces])


def whole(rule: TextRule, text: str) -> str:
    """What a stream makes of ``text``, however it is cut into pieces."""
    if rule.clears(text) and _ADDRESS.search(text) is None:
        return text
    stream = TextStream(rule)
    return join([*stream.feed(text), *stream.finish()])


class TextStream:
    """One text that arrives in pieces, redacted by ``rule``. See the rules at the top of this file."""

    __slots__ = (
        "_block", "_capitals", "_cleared", "_cuts", "_held", "_iban", "_least", "_limit", "_open", "_path", "_rule",
        "_searched", "_seen", "_swallowing", "_tail",
    )  # fmt: skip

    def __init__(self, rule: TextRule) -> None:
        self._rule = rule
        self._least = HOLD_CHARS_MAX + rule.reach
        self._limit = self._least
        self._tail = ""
        self._held = ""
        self._seen = 0  # so far, held tokens have been looked at
        self._cuts: list[int] = []  # in what was looked at; without reach only the last
        self._open = False  # the last whole token is not plain
        self._capitals = False  # unless a small letter follows
        self._iban = 0  # so many characters further, an IBAN may go on in any letters
        self._path = False  # an address may go on beyond full-width punctuation
        self._block: int | None = None  # where a private key may begin
        self._searched = 0  # one does, and does not end before here
        self._cleared = 0  # before here, none begins
        self._swallowing = False

    @property
    def held(self) -> int:
        """How many characters wait: at most ``HOLD_CHARS_MAX`` if the rule has no reach and no secret has begun."""
        return len(self._held)

    def feed(self, text: str) -> list[Piece]:
        """Take the next piece; return what may leave."""
        pieces: list[Piece] = []
        if len(text) <= _TAKEN_CHARS:
            self._held += text
            self._let_go(pieces)
            return pieces
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
            known = self._cuts[-1:]
            stuck = self._look()
            if self._cuts[-1:] != known:
                self._cut(pieces)
            if self._block is not None:
                if self._pass_block(pieces):
                    continue
                break
            if not stuck:
                break
            self._force(pieces)

    def _look(self) -> bool:
        """Look at the tokens that are whole now; whether there is a gap between cuts that is too long."""
        if self._block is not None:
            return False
        held, cuts = self._held, self._cuts
        last = cuts[-1] if cuts else 0
        if self._seen == last and not (self._iban or self._path or self._rule.reach):
            words = _WORDS.match(held, last)
            if words is not None:  # each could be cut behind, so the last is
                self._seen = last = words.end()
                self._open = False
                cuts[:] = (last,)
        while True:
            if self._capitals and (after := _FIRST.match(held, self._seen)) is not None:
                self._capitals = False
                if "a" <= after[0] <= "z":
                    if after.end() - last > self._limit:
                        return True
                    last = self._seen
                    if not self._rule.reach:
                        cuts.clear()
                    cuts.append(last)
            found = _TOKEN.match(held, self._seen)
            if found is None:
                return len(held) - last > self._limit
            token, separators = found.groups()
            cut = found.start(2)
            if token.endswith(_MARK) and cut > self._cleared and cut + 1 - last <= self._limit:
                self._block = cut - len(_MARK)
                return False
            self._seen = found.end()
            if token:
                self._open = self._goes_on(token, separators)
            else:
                self._iban = 0
            self._path = self._path or "/" in token or "\uff0f" in token
            if separators in WIDE_MARKS and not _OTHER_SCRIPT.search(token):
                self._capitals = False
                continue
            if self._path:
                space = _SPACE.search(held, cut, found.end())
                if space is None:
                    continue
                self._path, cut = False, space.start()
            if self._open:
                if token:
                    self._capitals = len(token) <= 4 and not self._iban and _CAPITALS.fullmatch(token) is not None
                continue
            if cut + 1 - last > self._limit:
                return True
            last = found.end()
            if not self._rule.reach:
                cuts.clear()
            cuts.append(last)

    def _goes_on(self, token: str, separators: str) -> bool:
        """Whether an entity may go on beyond this token, which is the next one."""
        is_open = not _is_plain(token)
        if is_open and _IBAN_HEAD.search(token):
            self._iban = _IBAN_CHARS_MAX
        elif self._iban > 0:
            self._iban = self._iban - len(token) - 1 if _IBAN_GROUPS.fullmatch(token) else 0
            is_open = is_open or self._iban > 0
        if separators != " ":
            self._iban = 0
        return is_open

    def _cut(self, pieces: list[Piece]) -> None:
        """Release what is before the last cut, or before what a match of the rule's reach may cross."""
        cuts, reach = self._cuts, self._rule.reach
        end = cuts[-1]
        if not reach:
            text = self._tail + self._held[:end]
            if self._rule.clears(text):
                self._pass(end, text, pieces)
            else:
                self._release(end, self._find(end), pieces)
            return
        usable = bisect_right(cuts, end - reach)
        if not usable:
            return
        cut = cuts[usable - 1]
        matches = list(self._parted(self._find(end)))
        crossing = next((match for match in matches if match.start < cut < match.end), None)
        if crossing is not None:
            cut = crossing.start
        if cut:
            self._release(cut, matches, pieces)

    def _pass(self, end: int, text: str, pieces: list[Piece]) -> None:
        """Release what is before the only cut as it is; ``text`` ends there, and nothing is in it."""
        pieces.append(Piece(self._held[:end]))
        self._tail = text[-CONTEXT_CHARS:]
        self._held = self._held[end:]
        self._seen -= end
        self._cuts.clear()
        self._cleared = max(self._cleared - end, 0)
        if self._block is not None:
            self._block -= end

    def _parted(self, matches: Iterable[Match]) -> Iterator[Match]:
        """``matches``, those of phrases that overlap one another without end in parts."""
        cuts = self._cuts
        for match in matches:
            start = match.start
            while match.end - start > self._limit:
                at = bisect_right(cuts, start + self._limit)
                if at == len(cuts) or cuts[at] >= match.end:
                    break
                yield Match(match.entity, start, cuts[at], match.score)
                start = cuts[at]
            yield Match(match.entity, start, match.end, match.score)

    def _pass_block(self, pieces: list[Piece]) -> bool:
        """Release a private key as a whole, or learn that there is none; False while that needs more text."""
        held, begin = self._held, self._block
        assert begin is not None
        if not self._searched:
            found = pem.BEGIN.match(held, begin)
            if found is None and _may_begin(held, begin):
                return False
            if found is None or not any(one.start <= begin < one.end for one in self._find(found.end())):
                self._block, self._cleared = None, begin + len(_MARK)
                return True
            self._searched = found.end()
        most = begin + pem.PEM_CHARS_MAX
        end = pem.END.search(held, self._searched, most)
        if end is None and len(held) < most:
            self._searched = max(self._searched, len(held) - pem.END_CHARS_MAX)
            return False
        stop = end.end() if end is not None else most
        self._release(stop, self._find(stop), pieces)
        self._block, self._searched, self._iban, self._open, self._path = None, 0, 0, True, False
        return True

    def _find(self, end: int) -> list[Match]:
        """Matches in the first ``end`` held characters, counted from the first that has not left yet."""
        before = len(self._tail)
        text = self._tail + self._held[:end]
        if self._rule.clears(text):
            return []
        return [
            Match(match.entity, max(match.start - before, 0), match.end - before, match.score)
            for match in self._rule.find(text, before)
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
        self._limit = self._least
        self._seen = max(self._seen - end, 0)
        self._cuts = [cut - end for cut in self._cuts if cut > end]
        self._cleared = max(self._cleared - end, 0)
        if self._block is not None:
            self._block -= end

    def _force(self, pieces: list[Piece]) -> None:
        """Let go of some of the first characters, which hold no cut, or wait for more of a match of all of them."""
        window = self._held[: self._limit]
        matches = self._find(len(window))
        fills = bool(matches) and (matches[0].start, matches[0].end) == (0, len(window))
        if fills and len(window) < MATCH_CHARS_MAX and _ADDRESS.search(window) is None:
            self._limit *= 2
            return
        end = HOLD_CHARS_MAX - _KEPT_CHARS
        separator = _LAST_SEPARATOR.search(window, 0, end)
        if separator is not None:
            end = separator.end()
        elif (begin := _unclosed_address(window)) is not None:
            end = min(begin or end, end)
            if begin == 0 and not fills:
                matches = [Match(OVERLONG, 0, len(window), 1.0)]
        crossing = next((match for match in matches if match.start < end < match.end), None)
        if crossing is not None:
            end = crossing.start or crossing.end
        self._release(end, matches, pieces)
        self._seen, self._iban, self._open, self._path, self._capitals = 0, 0, True, False, False
        self._cuts.clear()
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


def _may_begin(held: str, begin: int) -> bool:
    """Whether a private key may begin there; more text is needed to tell."""
    label = _LABEL.match(held, begin)
    if label is None or (label.end() < len(held) and "PRIVATE KEY" not in label[0]):
        return False
    return len(held) - begin <= pem.BEGIN_CHARS_MAX


def _is_plain(token: str) -> bool:
    if token.isalpha():
        return not (len(token) <= 4 and token.isupper()) and token.lower() not in _ANY_EXTENSION
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
    return word.lower() not in _ANY_EXTENSION


def _unclosed_address(window: str) -> int | None:
    """Where the run begins that holds the last ``@`` or ``://``, None if there is none or it ends in the window."""
    marks = [*_ADDRESS.finditer(window)]
    if not marks or _TERMINATOR.search(window, marks[-1].end()):
        return None
    return max((found.end() for found in _TERMINATOR.finditer(window, 0, marks[-1].start())), default=0)
