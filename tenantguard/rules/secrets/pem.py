"""Private keys as PEM blocks (RFC 7468) and OpenPGP armour (RFC 9580 section 6.2): the one secret of many lines.

A block begins with its label *and* the first characters of what it holds, so that a text may speak of the label. From
there it goes on to the end label, or, where there is none, to the end of the text, at most ``PEM_CHARS_MAX``
characters: whoever reads a stream knows from the beginning alone that all that follows is secret.
"""

from __future__ import annotations

import re
from typing import Final

PRIVATE_KEY: Final = "PRIVATE_KEY"
PEM_CHARS_MAX: Final = 16_384
"""A 16384-bit RSA key has about 12 700 characters."""

MARK: Final = "-----BEGIN "
"""Nothing begins a block without it."""

TRIGGER: Final = "-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY"

_BEGIN: Final = TRIGGER + (r"(?: BLOCK)?-----(?:\s|\\[nr]|[\"'+,]){1,24}(?:[A-Za-z0-9+/]{16}|[A-Z][A-Za-z-]{3,20}: )")
BEGIN: Final = re.compile(_BEGIN)
"""What begins a block; all of it belongs to the secret."""

BEGIN_CHARS_MAX: Final = len(MARK) + 24 + len("PRIVATE KEY BLOCK-----") + 2 * 24 + 22
"""The most characters of a match of ``BEGIN``."""

END: Final = re.compile(r"-----END [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
END_CHARS_MAX: Final = len("-----END ") + 24 + len("PRIVATE KEY BLOCK-----")


def block_end(text: str, begin: int) -> int:
    """Where the block that begins at ``text[begin]`` ends."""
    most = begin + PEM_CHARS_MAX
    end = END.search(text, begin, most)
    return end.end() if end is not None else min(len(text), most)


def begun(text: str) -> int | None:
    """Where a block may have begun at the end of ``text``, which does not hold enough of it to tell; None: nowhere.

    A stream keeps what stands from there on until there is more of it: at most ``BEGIN_CHARS_MAX`` characters.
    """
    near = max(len(text) - BEGIN_CHARS_MAX, 0)
    begin = text.rfind(MARK, near)
    if begin >= 0:
        return None if BEGIN.match(text, begin) else begin
    for length in range(min(len(MARK) - 1, len(text)), 0, -1):
        if text.endswith(MARK[:length]):
            return len(text) - length
    return None
