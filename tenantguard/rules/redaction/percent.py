"""Percent-encoded text (forms, query strings, paths): read, changed, and written so that the rest stays as it was."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from tenantguard.rules.redaction.text.rule import Edit, apply

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNIT: Final = re.compile(r"%([0-9A-Fa-f]{2})|\+")


class Percent:
    """One percent-encoded text, given as latin-1, so that a character is a byte.

    ``plus``: a ``+`` is a space, as forms have it. A ``%`` without two hexadecimal digits is a character like any
    other. Raises :class:`UnicodeDecodeError` if the bytes are no text in ``charset``, which holds ASCII as it is.
    """

    __slots__ = ("_charset", "_plus", "_raw", "text")

    def __init__(self, raw: str, charset: str, *, plus: bool) -> None:
        self._raw = raw
        self._charset = charset
        self._plus = plus
        decoded = _UNIT.sub(self._byte, raw) if "%" in raw or (plus and "+" in raw) else raw
        self.text = decoded if decoded.isascii() else decoded.encode("latin-1").decode(charset)

    def changed(self, edits: Iterable[Edit]) -> str:
        """The raw text with ``edits``, which are those of ``text``, made in it; what they insert is encoded.

        Raises :class:`UnicodeEncodeError` if that cannot be written in the charset.
        """
        raw: list[Edit] = []
        units = _UNIT.finditer(self._raw)
        unit = next(units, None)
        gained = 0
        read = 0
        at = 0

        def place(offset: int) -> int:
            """Where the character at ``offset`` stands in the raw text; offsets rise from call to call."""
            nonlocal unit, gained, read, at
            at += len(self.text[read:offset].encode(self._charset))
            read = offset
            while unit is not None and unit.start() - gained < at:
                gained += len(unit[0]) - 1
                unit = next(units, None)
            return at + gained

        for start, end, new in edits:
            written = quote_from_bytes(new.encode(self._charset), safe="")
            raw.append(Edit(place(start), place(end), written.replace("%20", "+") if self._plus else written))
        return apply(self._raw, raw)

    def _byte(self, found: re.Match[str]) -> str:
        if found[1] is not None:
            return chr(int(found[1], 16))
        return " " if self._plus else "+"
