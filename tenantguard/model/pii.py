"""Personal data in a text: where a match stands and what it is."""

from __future__ import annotations

from typing import NamedTuple


class Match(NamedTuple):
    """``entity`` (Presidio's name, ``EMAIL_ADDRESS``) at ``text[start:end]``, with a score of 0 to 1.

    It never carries the text itself, so that its ``repr`` may be logged.
    """

    entity: str
    start: int
    end: int
    score: float
