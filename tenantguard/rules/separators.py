"""What parts the words of a text: white space, and the full-width punctuation of scripts that write without any."""

from __future__ import annotations

from typing import Final

FULL_STOPS: Final = "，。、！？；：「」『』【】《》〈〉"  # noqa: RUF001 - full-width punctuation is meant

WIDE_MARKS: Final = "，！？；："  # noqa: RUF001 - full-width punctuation is meant
"""Those of them that stand for ASCII's, which an address or number may hold."""


def is_parted(text: str) -> bool:
    """Whether a separator stands in ``text``, so that it is more than one word."""
    return any(char.isspace() or char in FULL_STOPS for char in text)
