"""Text as it is read, where it is written to be overlooked: full-width characters, and characters without a width.

A full-width ``4111`` is searched as ``4111``, and ``4111<U+200B>1111`` as ``41111111``; what is found there is mapped
back to the text as it was written. That is searched as it stands as well: a character without a width may part words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantguard.model.pii import Match
from tenantguard.rules.redaction.text.matches import united

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.rules.redaction.text.rule import Detecting

_WIDE: Final = {0x3000: " ", **{point: chr(point - 0xFEE0) for point in range(0xFF01, 0xFF5F)}}
"""The full-width forms of ASCII (Unicode block FF00) and the ideographic space."""

_UNSEEN: Final = frozenset(
    "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
)
"""The soft hyphen, joiners, marks of direction and other characters of Unicode's category Cf that show nothing."""

_READ: Final = _WIDE | dict.fromkeys(map(ord, _UNSEEN), "")


class Normalized:
    """A detector that also searches a text as it is read. ASCII costs nothing more."""

    __slots__ = ("_detector", "reach")

    def __init__(self, detector: Detecting) -> None:
        self._detector = detector
        self.reach = detector.reach

    @property
    def passed(self) -> int:
        """As the detector's."""
        return self._detector.passed

    def clears(self, text: str) -> bool:
        """Whether nothing is found in any part of ``text``, however it is read."""
        if not self._detector.clears(text):
            return False
        return text.isascii() or (read := text.translate(_READ)) == text or self._detector.clears(read)

    def detect(self, text: str, after: int = 0) -> Sequence[Match]:
        """Matches in ``text`` as it is written and as it is read, by start, not overlapping."""
        found = self._detector.detect(text, after)
        if text.isascii() or (read := text.translate(_READ)) == text:
            return found
        places = [at for at, char in enumerate(text) if char not in _UNSEEN]
        hidden = [
            Match(match.entity, places[match.start], places[match.end - 1] + 1, match.score)
            for match in self._detector.detect(read)
        ]
        return united(hidden, found)
