"""Scans a text for the expressions of all finders at once, and opens windows where they must look.

A text is scanned as its *shadow*: ASCII of the same length, so that offsets are the text's own. With the package
``hyperscan`` one pass over it reports every end of every core. Without it, *keys* are looked for first (``keys.py``),
short strings that every core of an expression holds, which is a search for bytes; only around them, the core itself
with ``re``. That reports matches that do not overlap, and every core begins within one of them.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from contextlib import suppress
from functools import lru_cache
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenantguard.adapters.pii.keys import STRIDE, Key, Keys, keys_of, places_of
from tenantguard.adapters.pii.prefilter import (
    WORD,
    boundless,
    set_of,
    written,
)
from tenantguard.adapters.pii.shadow import shadow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.adapters.pii.finder import Span
    from tenantguard.adapters.pii.prefilter import Plan

_MARGIN: Final = 1
"""What a window holds before and after all that a match can be and see: for word boundaries."""

_NARROW: Final = 64
"""So much before a core belongs to its window whatever stands there; what may be longer is measured."""

_HITS_MIN: Final = 4_096
"""A text may have so many hits and three for every two characters; one with more is scanned for cores that do not
overlap, of which there are fewer."""

_PLACE_BITS: Final = 40
_PLACE_MASK: Final = (1 << _PLACE_BITS) - 1
"""A hit is one number: the plan, and below it where its core ends. Sorted, they are by plan and in order."""


class Scanner(Protocol):
    """Scans for the cores of plans."""

    def clears(self, text: str) -> bool:
        """Whether no part of ``text`` holds a core."""
        ...

    def windows(self, text: str, after: int) -> dict[int, list[Span]]:
        """By the index of the plan, where its matches that end beyond ``after`` lie, in order and apart."""
        ...


def scanner(plans: Sequence[Plan], *, fast: bool | None) -> Scanner:
    """A scanner for ``plans``: with hyperscan if ``fast``, or if that is None and it is installed.

    Raises ``ImportError`` if ``fast`` is True and it is not.
    """
    slow = KeyScanner(plans, range(len(plans)))
    if fast is False or not plans:
        return slow
    try:
        accepted = (
            [at for at, plan in enumerate(plans) if _accepts(plan)] if not _accepts(*plans) else range(len(plans))
        )
        return FastScanner(plans, accepted, slow)
    except ImportError:
        if fast:
            raise
        return slow


def _accepts(*plans: Plan) -> bool:
    """Whether hyperscan can scan for them; a user's expression may be too large for it."""
    import hyperscan  # noqa: PLC0415 - the extra `fast`

    try:
        _databases(plans)
    except hyperscan.error:
        return False
    return True


class _Runs:
    """Extends places of one text over characters of a set, each run once."""

    __slots__ = ("_backward", "_forward", "_run", "_shadow")

    def __init__(self, mask: int) -> None:
        self._run = re.compile(f"{set_of(mask)}*+".encode())
        self._shadow = b""
        self._forward = (0, 0)
        self._backward = (0, 0)

    def begin(self, shadow: bytes) -> None:
        self._shadow = shadow
        self._forward = self._backward = (0, 0)

    def end(self, at: int) -> int:
        """Where the run ends that begins at or before ``at``."""
        start, end = self._forward
        if not start <= at < end:
            found = self._run.match(self._shadow, at)
            end = found.end() if found is not None else at
            self._forward = (at, end)
        return end

    def start(self, at: int) -> int:
        """Where the run begins that ends at or after ``at``, a place behind a character of the set."""
        start, end = self._backward
        if start < at <= end:
            return start
        start, size = at, 64
        while start:
            piece = self._shadow[max(start - size, 0) : start][::-1]
            found = self._run.match(piece)
            length = found.end() if found is not None else 0
            start -= length
            if length < len(piece):
                break
            size *= 4
        self._backward = (start, max(at, self.end(at)))
        return start


class _Opener:
    """Opens the windows of one plan around its cores, of one text after another."""

    __slots__ = ("_ahead", "_before", "_cores", "_fixed", "_follows", "_plan", "_starts", "_tails", "_words")

    def __init__(self, plan: Plan) -> None:
        before = _sum(plan.high, plan.head.width)
        after = _sum(plan.tail.width, plan.ahead.width)
        self._plan = plan
        self._before = before
        self._cores = _Runs(plan.mask)
        self._starts = _Runs(plan.mask | plan.head.mask) if before is None or before > _NARROW else None
        self._tails = _Runs(plan.mask | plan.tail.mask)
        self._ahead = _Runs(plan.ahead.mask)
        self._words = _Runs(WORD) if plan.by_word else None
        self._follows = re.compile(set_of(plan.tail.first).encode())
        self._fixed: tuple[int, int, int] | None = None
        # Where nothing is unbounded nor wide: how far windows go before and after a core, and a core's width.
        if self._starts is None and before is not None and after is not None and not plan.tail.width:
            self._fixed = (before + _MARGIN, after + _MARGIN, plan.high or 0)

    def ending(self, shadow: bytes, ends: Sequence[int], after: int) -> list[Span]:
        """The windows that end beyond ``after`` around the cores that end at ``ends``, in order."""
        if self._fixed is not None:
            left, right, _ = self._fixed
            windows: Iterable[tuple[int, int]] = ((end - left, end + right) for end in ends)
        else:
            self._begin(shadow)
            windows = self._measured(shadow, map(self._at_end, ends))
        return self._finished(shadow, windows, after)

    def within(self, shadow: bytes, cores: Iterable[tuple[int, int]], after: int) -> list[Span]:
        """The windows that end beyond ``after`` around all cores that begin in ``cores``, in order and apart."""
        if self._fixed is not None:
            left, right, width = self._fixed
            windows: Iterable[tuple[int, int]] = (
                (start - (left - width), end - 1 + width + right) for start, end in cores
            )
        else:
            self._begin(shadow)
            windows = self._measured(shadow, starmap(self._at_core, cores))
        return self._finished(shadow, windows, after)

    def _begin(self, shadow: bytes) -> None:
        for runs in (self._cores, self._starts, self._tails, self._ahead):
            if runs is not None:
                runs.begin(shadow)

    def _at_end(self, end: int) -> tuple[int, int, int]:
        """Where matches begin whose core ends at ``end``, and where that is: there."""
        left = 0 if self._before is None else end - self._before
        if self._starts is not None:
            left = max(left, self._starts.start(end))
        return left, end, end

    def _at_core(self, start: int, end: int) -> tuple[int, int, int]:
        """Where matches begin whose core begins in ``start..end``, and from where to where such cores end."""
        plan = self._plan
        left = 0 if plan.head.width is None else start - plan.head.width
        if self._starts is not None:
            left = max(left, self._starts.start(start + 1))
        last = self._cores.end(end - 1)
        if plan.high is not None:
            last = min(last, end - 1 + plan.high)
        return left, min(start + plan.low, end), last

    def _measured(self, shadow: bytes, cores: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
        """The windows of matches that begin at ``left`` or later and whose cores end in ``first..last``.

        The cores that end in a tail that ends where its run does need no look: their tails end there too.
        """
        tail, ahead = self._plan.tail, self._plan.ahead
        done = -1
        for left, first, last in cores:
            if last <= done:
                continue
            right = last
            goes_on = tail.width != 0 and self._follows.search(shadow, first, last + 1) is not None
            if not goes_on and not tail.nullable:
                continue
            if goes_on:
                right = max(self._tails.end(first - 1), last)
                if tail.width is not None:
                    right = min(right, last + tail.width)
                else:
                    done = right
            right = max(self._ahead.end(right), right) if ahead.width is None else right + ahead.width
            yield left - _MARGIN, right + _MARGIN

    def _finished(self, shadow: bytes, windows: Iterable[tuple[int, int]], after: int) -> list[Span]:
        """Windows, by start, within the text and apart; none ends within a word that its plan must see the end of."""
        starts: list[int] = []
        ends: list[int] = []
        for left, right in windows:
            if right <= after:
                continue
            if not ends or left > ends[-1]:
                starts.append(left)
                ends.append(right)
            elif right > ends[-1]:
                ends[-1] = right
        length = len(shadow)
        if self._words is not None:
            self._words.begin(shadow)
        finished: list[Span] = []
        for left, right in zip(starts, ends, strict=True):
            begin, stop = max(left, 0), min(right, length)
            if self._words is not None:
                stop = max(self._words.end(stop - 1), stop)
            if finished and finished[-1][1] >= begin:
                begin, before = finished.pop()
                stop = max(before, stop)
            finished.append((begin, stop))
        return finished


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class FastScanner:
    """With hyperscan: each thread has a scratch space of its own, since one may serve one scan at a time."""

    def __init__(self, plans: Sequence[Plan], accepted: Sequence[int], slow: Scanner) -> None:
        """``accepted``: the plans that hyperscan can scan for; ``slow`` scans for all."""
        self._plans = plans
        self._accepted = accepted
        self._slow = slow
        self._exact, self._loose = _databases([plans[at] for at in accepted])
        refused = sorted({*range(len(plans))} - {*accepted})
        self._refused = KeyScanner(plans, refused) if refused else None
        self._own = threading.local()

    def clears(self, text: str) -> bool:
        """See :class:`Scanner`."""
        hits: list[int] = []
        self._scan(self._loose, shadow(text), hits, 1)
        return not hits and (self._refused is None or self._refused.clears(text))

    def windows(self, text: str, after: int) -> dict[int, list[Span]]:
        """See :class:`Scanner`."""
        scanned = shadow(text)
        hits: list[int] = []
        most = _HITS_MIN + len(scanned) * 3 // 2
        self._scan(self._exact, scanned, hits, most)
        if len(hits) >= most:
            return self._slow.windows(text, after)
        hits.sort()
        opened: dict[int, list[Span]] = {}
        at = 0
        while at < len(hits):
            plan = hits[at] >> _PLACE_BITS
            begun, at = at, bisect_left(hits, (plan + 1) << _PLACE_BITS, at)
            opener = self._openers()[self._accepted[plan]]
            ends = [hit & _PLACE_MASK for hit in hits[begun:at]]
            if spans := opener.ending(scanned, ends, after):
                opened[self._accepted[plan]] = spans
        return opened if self._refused is None else {**opened, **self._refused.windows(text, after)}

    def _openers(self) -> list[_Opener]:
        try:
            return self._own.openers  # type: ignore[no-any-return]
        except AttributeError:
            self._own.openers = [_Opener(plan) for plan in self._plans]
            return self._own.openers  # type: ignore[no-any-return]

    def _scan(self, database: Any, scanned: bytes, hits: list[int], most: int) -> None:
        import hyperscan  # noqa: PLC0415 - the extra `fast`

        try:
            scratches = self._own.scratches
        except AttributeError:
            scratches = self._own.scratches = {one: hyperscan.Scratch(one) for one in (self._exact, self._loose)}
        with suppress(hyperscan.ScanTerminated):
            database.scan(scanned, match_event_handler=_seen, context=(hits, most), scratch=scratches[database])


def _seen(plan: int, _start: int, end: int, _flags: int, context: tuple[list[int], int]) -> bool:
    hits, most = context
    hits.append(plan << _PLACE_BITS | end)
    return len(hits) >= most


def _databases(plans: Sequence[Plan]) -> tuple[Any, Any]:
    """For the cores as they are, and without word boundaries for any part of a text."""
    exact = tuple(written(plan.core) for plan in plans)
    return _database(exact), _database(tuple(dict.fromkeys(written(boundless(plan.core)) for plan in plans)))


@lru_cache(maxsize=32)
def _database(expressions: tuple[str, ...]) -> Any:
    """A compiled database (0.1 to 0.5 s), which any number of detectors may share."""
    import hyperscan  # noqa: PLC0415 - the extra `fast`

    database = hyperscan.Database()
    database.compile(
        expressions=[expression.encode() for expression in expressions],
        ids=list(range(len(expressions))),
        elements=len(expressions),
        flags=[0] * len(expressions),
    )
    return database


_REGION_CHARS: Final = 128
"""A core that can be wider is looked for as far as characters go on that it can have."""

_WIDTHS: Final = (16, 32, 64, _REGION_CHARS)
"""Regions are shared by plans whose cores are at most so wide."""


class KeyScanner:
    """With ``re`` alone."""

    def __init__(self, plans: Sequence[Plan], used: Sequence[int]) -> None:
        """``used``: the plans that are scanned for."""
        self._plans = plans
        self._used = [
            (
                at,
                frozenset(keys_of(plans[at].core)),
                re.compile(written(plans[at].core).encode()),
                re.compile(written(boundless(plans[at].core)).encode()),
            )
            for at in used
        ]
        self._keys = Keys(frozenset[Key]().union(*(keys for _, keys, _, _ in self._used)))
        self._own = threading.local()

    def clears(self, text: str) -> bool:
        """See :class:`Scanner`."""
        scanned = shadow(text)
        there = self._keys.within(scanned)
        return not there or not any(
            not keys.isdisjoint(there) and loose.search(scanned) for _, keys, _, loose in self._used
        )

    def windows(self, text: str, after: int) -> dict[int, list[Span]]:
        """See :class:`Scanner`."""
        scanned = shadow(text)
        there = self._keys.within(scanned)
        if not there:
            return {}
        try:
            openers = self._own.openers
        except AttributeError:
            openers = self._own.openers = [_Opener(plan) for plan in self._plans]
        found: dict[int, list[Span]] = {}
        regions: dict[tuple[frozenset[Key], int], list[Span]] = {}
        for at, keys, exact, _ in self._used:
            present = keys.intersection(there)
            if not present:
                continue
            high = self._plans[at].high
            mask = self._plans[at].mask if high is None or high > _REGION_CHARS else 0
            width = _REGION_CHARS if high is None else next((size for size in _WIDTHS if high <= size), _REGION_CHARS)
            if (present, mask or width) not in regions:
                places = places_of(present, there)
                regions[present, mask or width] = (
                    _runs_around(scanned, places, mask) if mask else _around(places, width, len(scanned))
                )
            around = regions[present, mask or width]
            cores = (core.span() for region in around for core in exact.finditer(scanned, *region))
            if spans := openers[at].within(scanned, cores, after):
                found[at] = spans
        return found


def _around(places: Iterable[int], width: int, length: int) -> list[Span]:
    """Where cores of at most ``width`` characters can lie that hold a key at a place or less than a stride behind."""
    regions: list[Span] = []
    for at in places:
        start, end = max(at - width - _MARGIN, 0), min(at + STRIDE + width + _MARGIN, length)
        if regions and regions[-1][1] >= start:
            regions[-1] = (regions[-1][0], end)
        else:
            regions.append((start, end))
    return regions


def _runs_around(scanned: bytes, places: Iterable[int], mask: int) -> list[Span]:
    """Where cores made of characters of a set can lie that hold a key at a place or less than a stride behind."""
    runs = _Runs(mask)
    runs.begin(scanned)
    regions: list[Span] = []
    for at in places:
        if regions and regions[-1][1] >= min(at + STRIDE, len(scanned)):
            continue
        start, end = runs.start(at + 1), runs.end(at)
        while end < at + STRIDE and end < len(scanned):
            end = runs.end(end + 1)  # keys may stand in the next runs
        start, end = max(start - _MARGIN, 0), min(end + _MARGIN, len(scanned))
        while regions and regions[-1][1] >= start:
            before, behind = regions.pop()
            start, end = min(before, start), max(behind, end)
        regions.append((start, end))
    return regions
