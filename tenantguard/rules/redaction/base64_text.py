"""Values in base64: those that are text are seen through, those that are binary are left alone."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Final, NamedTuple

from tenantguard.rules.redaction.text.rule import is_opaque

_DATA_URL: Final = re.compile(r"data:[\w.+/-]{0,127}(?:;[\w.=+-]{0,127}){0,8};base64,", re.ASCII | re.IGNORECASE)

OPAQUE: Final = "base64"
"""What binary values in base64 count as, where what is skipped is counted."""


_URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]{256,}+={0,2}+")
_URL_ALPHABET: Final = b"-_"


class Encoded(NamedTuple):
    """A value that is base64 from character ``start`` on, and the text that it stands for; None if it is binary.

    ``for_urls``: in the alphabet for URLs (RFC 4648 section 5); ``bare``: without padding.
    """

    start: int
    text: str | None
    for_urls: bool = False
    bare: bool = False

    def written(self, text: str) -> str:
        """``text`` in base64, as the value is."""
        coded = b64encode(text.encode("utf-8", "surrogatepass"), _URL_ALPHABET if self.for_urls else None).decode()
        return coded.rstrip("=") if self.bare else coded


def read_base64(value: str) -> Encoded | None:
    """A string that is a ``data:`` URL in base64, or base64 of some length, and nothing else; None for any other.

    Base64 for URLs, or without padding, is only what decodes to text: a long name may look like it. Text is what
    decodes as UTF-8: of 192 random bytes, the fewest that count without a ``data:``, none ever does.
    """
    if value[:5].lower() != "data:":
        if is_opaque(value):
            return Encoded(0, _text(value))
        if _URL_SAFE.fullmatch(value) is None:
            return None
        text = _text(value + "=" * (-len(value) % 4), _URL_ALPHABET)
        return Encoded(0, text, for_urls=True, bare=len(value) % 4 != 0) if text is not None else None
    head = _DATA_URL.match(value)
    if head is None:
        return None
    text = _text(value[head.end() :])
    return Encoded(head.end(), text) if text is not None or is_opaque(value) else None


def _text(coded: str, alphabet: bytes | None = None) -> str | None:
    try:
        return b64decode(coded, alphabet, validate=True).decode("utf-8")
    except ValueError:
        return None
