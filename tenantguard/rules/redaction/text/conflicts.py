"""Conflicts between matches that overlap, settled as Presidio's anonymizer settles them.

Two things are not Presidio's, and change nothing where there are no such matches: a secret gives way to nothing, and
an entity that is kept hides nothing that is not.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from tenantguard.model.pii import Match
from tenantguard.model.redact_section import NOTHING_KEPT
from tenantguard.rules.redaction.text.matches import outside

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from tenantguard.model.redact_section import Kept

_start: Final = attrgetter("start")


def distinct(matches: Iterable[Match]) -> list[Match]:
    """Without matches of score 0, and those that lie in another of their entity with an equal or higher score.

    Presidio's analyzer does so with the results of each recogniser, and again with those of all.
    """
    groups: dict[str, list[Match]] = {}
    for match in matches:
        if match.score > 0.0:
            groups.setdefault(match.entity, []).append(match)
    kept: list[Match] = []
    for _, group in sorted(groups.items()):
        group.sort(key=_start)
        kept += group if _apart(group) else _distinct(group)
    return kept


def _distinct(matches: Iterable[Match]) -> list[Match]:
    """The same, of one entity."""
    kept: list[Match] = []
    around: list[Match] = []  # those that do not end before the running match
    for match in sorted(matches, key=lambda match: (match.start, -match.end, -match.score)):
        around = [other for other in around if other.end >= match.start]
        if not any(match.end <= other.end and match.score <= other.score for other in around):
            kept.append(match)
            around.append(match)
    return kept


def _apart(ordered: Sequence[Match]) -> bool:
    """Whether none of these, by start, is empty, and no two overlap."""
    return all(one.start < one.end for one in ordered) and all(
        one.end <= other.start for one, other in pairwise(ordered)
    )


def settle(matches: Iterable[Match], secrets: Container[str] = (), kept: Kept = NOTHING_KEPT) -> list[Match]:
    """Settle conflicts by rank, and with :func:`resolve` within a rank; the result is by start and does not overlap.

    First are the entities of ``secrets``, last those that are ``kept``, secrets too. What overlaps with a match of a
    higher rank keeps the rest of its span.
    """
    ranks: tuple[list[Match], list[Match], list[Match]] = ([], [], [])
    for match in matches:
        ranks[2 if match.entity in kept else 0 if match.entity in secrets else 1].append(match)
    settled: list[Match] = []
    for rank in ranks:
        if not settled:
            settled = resolve(rank)
        elif rank:
            settled = sorted([*settled, *outside(resolve(rank), settled)], key=_start)
    return settled


def resolve(matches: Iterable[Match]) -> list[Match]:
    """Settle conflicts as Presidio's anonymizer does with ``REMOVE_INTERSECTIONS``; the result does not overlap.

    Matches of one entity that overlap become one with the higher score. One that lies in another is dropped, of two
    with the same span the one with the lower score, and the earlier one on a tie. Of two that overlap otherwise, the
    one with the lower score (the later on a tie) gives way and keeps the rest of its span.
    """
    ordered = sorted(matches, key=lambda match: (match.start, match.end))
    remaining = _uncontained(_merged(ordered))
    if _apart(remaining):
        return remaining
    kept: list[Match] = []
    for match in sorted(remaining, key=lambda match: (-match.score, match.start)):
        for start, end in _gaps(match, kept):
            whole = start == match.start and end == match.end
            insort(kept, match if whole else Match(match.entity, start, end, match.score), key=_start)
    return kept


def _gaps(match: Match, kept: list[Match]) -> list[tuple[int, int]]:
    """The parts of a match's span that no match of ``kept`` covers."""
    gaps: list[tuple[int, int]] = []
    start = match.start
    for at in range(max(bisect_right(kept, start, key=_start) - 1, 0), len(kept)):
        if kept[at].start >= match.end:
            break
        if start < kept[at].start:
            gaps.append((start, kept[at].start))
        start = max(start, kept[at].end)
    if start < match.end:
        gaps.append((start, match.end))
    return gaps


def _merged(ordered: Iterable[Match]) -> list[Match]:
    """Matches with those of one entity that overlap united, in the place of the last of them."""
    merged: list[Match | None] = []
    last: dict[str, int] = {}
    for match in ordered:
        place = last.get(match.entity)
        other = merged[place] if place is not None else None
        if place is not None and other is not None and match.start < other.end:
            merged[place] = None
            match = Match(match.entity, other.start, max(other.end, match.end), max(other.score, match.score))  # noqa: PLW2901
        last[match.entity] = len(merged)
        merged.append(match)
    return [match for match in merged if match is not None]


def _uncontained(matches: list[Match]) -> list[Match]:
    order = sorted(range(len(matches)), key=lambda at: (matches[at].start, -matches[at].end, -matches[at].score, -at))
    kept: list[Match] = []
    for at in order:
        if not kept or matches[at].end > kept[-1].end:
            kept.append(matches[at])
    return kept
