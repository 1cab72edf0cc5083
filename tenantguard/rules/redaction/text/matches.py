"""Matches in one text, put together: what a detector says is checked, lists are united, one is cut around another."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tenantguard.errors import PortError
from tenantguard.model.pii import Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def checked(matches: Sequence[Match], text: str) -> list[Match]:
    """What a detector answered, as a list; a :class:`PortError` if it overlaps, or lies outside the text."""
    at = 0
    for match in matches:
        if not at <= match.start < match.end <= len(text):
            raise PortError("detector", "its matches overlap, are out of order or lie outside the text")
        at = match.end
    return list(matches)


def united(matches: Iterable[Match], others: Iterable[Match], entity: str = "") -> list[Match]:
    """Both, by start, not overlapping: what overlaps becomes one match of all of it.

    It has the entity of the first of them, or ``entity`` where any of them has.
    """
    joined: list[Match] = []
    for match in sorted([*matches, *others], key=lambda match: (match.start, -match.end)):
        last = joined[-1] if joined else None
        if last is not None and match.start < last.end:
            name = match.entity if match.entity == entity else last.entity
            joined[-1] = Match(name, last.start, max(last.end, match.end), max(last.score, match.score))
        else:
            joined.append(match)
    return joined


def outside(matches: Iterable[Match], holes: Sequence[Match]) -> list[Match]:
    """What is left of ``matches`` beside ``holes``; both are by start and do not overlap among themselves."""
    left: list[Match] = []
    first = 0
    for match in matches:
        at = match.start
        while first < len(holes) and holes[first].end <= at:
            first += 1
        for hole in islice(holes, first, None):
            if hole.start >= match.end:
                break
            if at < hole.start:
                left.append(Match(match.entity, at, hole.start, match.score))
            at = hole.end
        if at < match.end:
            left.append(Match(match.entity, at, match.end, match.score))
    return left
