"""The shadow of a text: ASCII of the same length, to scan with the text's own offsets."""

from __future__ import annotations

import codecs
from typing import Final

CASED: Final = {0x130: ord("i"), 0x131: ord("i"), 0x17F: ord("s"), 0x212A: ord("k")}
"""Letters that IGNORECASE takes for one of ASCII's (as the package ``regex`` does; U+0131 for safety)."""

_IMAGES_MAX: Final = 65_536
"""So many characters are remembered at once."""

_SHADOW: Final = "tenantguard.shadow"


class _Images(dict[int, str]):
    """The shadow of each character that is not ASCII."""

    def __missing__(self, character: int) -> str:
        import regex  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with Presidio, whose patterns it runs

        text = chr(character)
        if character in CASED:
            image = chr(CASED[character])
        elif regex.match(r"\d", text):
            image = str(int(text)) if text.isdecimal() else "0"
        elif regex.match(r"\w", text):
            image = "_"
        else:
            image = " " if regex.match(r"\s", text) else "\x01"
        if len(self) >= _IMAGES_MAX:
            self.clear()
        self[character] = image
        return image


_images: Final = _Images()


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].translate(_images), error.end


codecs.register_error(_SHADOW, _replace)


def shadow(text: str) -> bytes:
    """``text`` in ASCII, one byte a character.

    Digits of other scripts are ASCII's, letters ``_``, white space a space, the letters that IGNORECASE takes for
    some of ASCII's are those, and all else is 0x01.
    """
    return text.encode("ascii", _SHADOW)
