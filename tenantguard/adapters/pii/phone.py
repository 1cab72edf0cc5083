"""Telephone numbers, as Presidio's recogniser finds them, at a fraction of its work.

Presidio runs the matcher of ``phonenumbers`` over the whole text, once for each region. The matcher cuts *candidates*
out of a text (figures, signs between them, an extension) and *tries* each, as a whole and then in parts, until a try
is a valid number of the region. Candidates and tries are the same for every region, only the verdict on one differs.
So here candidates are cut once and only where an expression matched, the tries of each are listed once, a try that
can be no number of a region is dropped by a regular expression, and what is left is asked of ``phonenumbers``. Its
own matcher cuts, lists and judges: nothing of it is rewritten here.

Nothing is remembered between two searches: a memory of numbers would hold the very data that is to be hidden.
"""

# ruff: noqa: SLF001 - a matcher's steps are taken one by one

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.adapters.pii.finder import Expression
from tenantguard.model.pii import Match

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    from tenantguard.adapters.pii.finder import Budget, Span

_VERDICT_STEPS: Final = 4
"""What ``phonenumbers`` takes for one verdict (parsing, validating): 40 us."""
_MARKED_STEPS: Final = 10
"""The same for a try with letters, which it takes apart in several ways: 100 us."""
_CHECKS_A_STEP: Final = 12
"""How often a step is enough to compare the figures of a try with the shape of a region's numbers: 0.8 us each."""
_LISTING_CHARS: Final = 24
"""Listing the tries of a candidate of n characters takes (n / 24) ** 2 steps: long white space makes it quadratic."""

_OUTSIDE: Final = r"[\x00-\x08\n-\x1f!\"$%&'*<>?@\\^_`{|}\x7fb-df-hj-mp-ru-wyzB-DF-HJ-MP-RU-WYZ]"
"""ASCII that stands in no candidate: all but figures, what may stand between them, and the letters and signs of
``ext``, ``extension``, ``anexo``, ``int``, ``x`` and ``;ext=``. A search may begin and end at each of them."""
_LAST_OUTSIDE: Final = re.compile(f"(?s:.*){_OUTSIDE}")
_NEXT_OUTSIDE: Final = re.compile(_OUTSIDE)

_MARK: Final = re.compile(r"[^\W\d]|[#\uff03~\uff5e,;]")
"""Letters and what else begins an extension: where there are none the figures alone say whether it is a number."""
_PLUS: Final = re.compile(r"[^+\uff0b\d]*[+\uff0b]")
_NO_FIGURES: Final = re.compile(r"\D+")
_RULE_FIGURES: Final = re.compile(r"(?<!\\)\d")
_LABEL: Final = r"\d[ \u00a0]{0,250}(?:e?xt|anexo|int)"


class _Region(NamedTuple):
    """What figures must be, at the least, to be a number as it is dialled in a region; ``least`` of them at home."""

    code: str
    least: int
    shape: re.Pattern[str]


class PhoneSearch:
    """The late finder of telephone numbers that a ``PhoneRecognizer`` of Presidio's describes.

    Finds what the recogniser's ``analyze`` finds in the whole text (the spans, the score), but for three things: a
    candidate that lies within a larger claimed span is not looked at; one that a budget does not suffice for is
    reported unchecked, up to where its figures end; and no text has too many tries (``phonenumbers`` gives up a text
    after 65,535).
    """

    reach = 0
    late = True

    def __init__(self, recognizer: PhoneRecognizer) -> None:
        from phonenumbers.phonemetadata import PhoneMetadata  # noqa: PLC0415

        PhoneMetadata.load_all()  # 50 ms, 1.5 MB; else the first number of a country would read a file in a request
        self.name: str = recognizer.name  # type: ignore[has-type]
        self.entities = frozenset(recognizer.supported_entities)
        self._entity: str = recognizer.supported_entities[0]
        self._score: float = recognizer.SCORE
        self._leniency: int = recognizer.leniency or 0
        self._regions = tuple(_region(code, self._leniency) for code in dict.fromkeys(recognizer.supported_regions))
        self._least = min([_least_anywhere(self._leniency), *[region.least for region in self._regions]])
        self.expressions = _expressions(self._least)

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """The telephone numbers around the windows, none inside another."""
        search = _Search(text, self._leniency, self._least, _Claimed(claimed), budget)
        for run in _runs(text, windows):
            search.look(run, self._regions)
        return [Match(self._entity, *span, self._score) for span in _outermost(search.found)]


class _Search:
    """One search of one text; ``found`` are spans of numbers."""

    def __init__(self, text: str, leniency: int, least: int, claimed: _Claimed, budget: Budget) -> None:
        self.found: set[Span] = set()
        self._text = text
        self._least = least
        self._claimed = claimed
        self._budget = budget
        self._tries: list[tuple[str, int]] = []
        self._run = (0, 0)
        # One matcher for each step; the first two stop where the next step would begin.
        self._cutter = _matcher(leniency)
        self._cutter._extract_match = lambda candidate, start: (candidate, start)
        self._lister = _matcher(leniency)
        self._lister._parse_and_verify = lambda part, at: self._tries.append((part, at))
        self._list_parts = self._lister._extract_inner_match
        self._lister._extract_inner_match = lambda _candidate, _start: None
        self._judge = _matcher(leniency)

    def look(self, run: Span, regions: Iterable[_Region]) -> None:
        """Find the numbers in a run, which no candidate crosses the ends of.

        A region goes on behind what it found, so after a number the regions may stand at different places.
        """
        offset, limit = run
        self._cutter.text = self._text[offset:limit]
        waiting = {0: [*regions]}
        while waiting:
            found = self._cutter._find(min(waiting))
            if found is None:
                return
            candidate, start = found
            here = [region for at in [*waiting] if at <= start for region in waiting.pop(at)]
            span = (offset + start, offset + start + len(candidate))
            for end, some in self._next(candidate, span, here, run).items():
                waiting.setdefault(end - offset, []).extend(some)

    def _next(self, candidate: str, span: Span, regions: list[_Region], run: Span) -> dict[int, list[_Region]]:
        """Note the numbers in a candidate; return where each region goes on."""
        first, last = span
        if self._claimed.covers(first, last):
            return {last: regions}
        ends: dict[int, list[_Region]] = {}
        begin = max(first - 1, 0)  # a verdict depends on the characters beside a number
        self._lister.text = self._judge.text = self._text[begin : last + 4]
        undecided = regions
        try:
            for part, at in self._list(candidate, first - begin):
                number = (begin + at, begin + at + len(part))
                accepting: list[_Region] = []
                for region in self._accepting(part, at, undecided):
                    if not accepting:
                        self.found.add(number)
                        if number == span and self._end_of_figures(span, run) == last:
                            return {last: regions}  # what others find in it lies in it, and all go on behind it
                    accepting.append(region)
                if accepting:
                    ends.setdefault(number[1], []).extend(accepting)
                    undecided = [region for region in undecided if region not in accepting]
                if not undecided:
                    break
        except _NothingLeftError:
            end = self._end_of_figures(span, run)
            self.found.add((first, end))
            ends.setdefault(end, []).extend(undecided)
            return ends
        if undecided:
            ends.setdefault(last, []).extend(undecided)
        return ends

    def _list(self, candidate: str, start: int) -> Iterator[tuple[str, int]]:
        """The tries of a candidate, in order: the whole unless it looks like a date, then its parts."""
        self._tries.clear()
        self._lister._extract_match(candidate, start)
        whole = [*self._tries]
        yield from whole
        if whole:
            self._spend((len(candidate) // _LISTING_CHARS) ** 2)
            self._tries.clear()
            self._list_parts(candidate, start)
            yield from [*self._tries]

    def _accepting(self, part: str, at: int, regions: list[_Region]) -> Iterator[_Region]:
        """The regions that take a try for a number of theirs, found one by one."""
        figures = _NO_FIGURES.sub("", part)
        if len(figures) < self._least and sum(map(str.isalnum, part)) < self._least:
            return
        steps = _MARKED_STEPS
        if not _MARK.search(part):
            steps = _VERDICT_STEPS
            if not figures.isascii():
                figures = "".join([str(int(one)) for one in figures])
            if not _PLUS.match(part):
                self._spend(1 + len(regions) // _CHECKS_A_STEP)
                regions = [one for one in regions if one.shape.fullmatch(figures)]
            elif _has_country(figures):  # then the region does not matter
                if self._is_number(part, at, regions[0], steps):
                    yield from regions
                return
        for region in regions:
            if self._is_number(part, at, region, steps):
                yield region

    def _is_number(self, part: str, at: int, region: _Region, steps: int) -> bool:
        self._spend(steps)
        self._judge.preferred_region = region.code
        return self._judge._parse_and_verify(part, at) is not None

    def _spend(self, steps: int) -> None:
        if not self._budget.take(steps):
            raise _NothingLeftError

    def _end_of_figures(self, span: Span, run: Span) -> int:
        """Where the last number may end that begins in a candidate: behind a number, candidates are cut anew."""
        offset, limit = run
        end = span[1]
        while True:
            last = end - 1
            while not self._text[last].isdecimal():
                last -= 1
            following, start = self._cutter._find(last - offset)
            further = max(self._end_of_run(last, limit), offset + start + len(following))
            if further <= end:
                return end
            end = further

    def _end_of_run(self, figure: int, limit: int) -> int:
        """Where the last figure of a run of figures and signs ends; measured once, since it may be all of a text."""
        start, end = self._run
        if not start <= figure < end:
            found = _figures().match(self._text, figure, limit)
            end = found.end() if found is not None else figure
            self._run = (figure, end)
        return end


def _matcher(leniency: int) -> Any:
    from phonenumbers import PhoneNumberMatcher  # noqa: PLC0415

    return PhoneNumberMatcher("", None, leniency, sys.maxsize)


class _NothingLeftError(Exception):
    """The budget does not suffice for what comes next."""


class _Claimed:
    """Which spans lie within a larger one that is claimed.

    Conflict resolution drops what lies within another match. Of equal spans the higher score wins, which words before
    it may yet change, so those are looked at.
    """

    def __init__(self, claimed: Sequence[Span]) -> None:
        spans = sorted(claimed)
        self._starts = [start for start, _ in spans]
        self._ends = [0, *accumulate((end for _, end in spans), max)]  # the furthest of the first n

    def covers(self, start: int, end: int) -> bool:
        begun = self._ends[bisect_right(self._starts, start)]
        return begun > end or (begun == end and self._ends[bisect_left(self._starts, start)] == end)


def _runs(text: str, windows: Mapping[int, Sequence[Span]]) -> Iterator[Span]:
    """The windows, each up to where no candidate can go on, in order and without overlap.

    What is in no run needs no look: a try that is a number holds a match of an expression, so its candidate overlaps
    a window, and it lies in one run with it.
    """
    done = 0
    for first, last in sorted(span for spans in windows.values() for span in spans):
        if last <= done:
            continue
        before = _LAST_OUTSIDE.match(text, done, first)
        start = before.end() if before is not None else done
        after = _NEXT_OUTSIDE.search(text, max(last, start))
        done = after.start() if after is not None else len(text)
        yield start, done


def _outermost(spans: Iterable[Span]) -> Iterator[Span]:
    """Without those that lie in another, which Presidio takes for the same number."""
    furthest = 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if end > furthest:
            furthest = end
            yield start, end


def _expressions(least: int) -> tuple[Expression, ...]:
    """What a try holds that is a number with at least so many figures.

    Between two figures of a try stand at most four signs (``x`` is one), unless its figures are those of an
    extension, which stand together. With three letters and more, letters count as figures as they are on a
    telephone: only ``x`` and the words before extensions can be letters of a candidate, and where such a word is not
    cut off with its extension it ends the try and follows figures and spaces; no try is longer than 250 characters.
    """
    from phonenumbers.phonenumberutil import _VALID_PUNCTUATION  # noqa: PLC0415

    figures = Expression(rf"[\dx](?:[{_VALID_PUNCTUATION}]{{0,4}}[\dx]){{{least - 1}}}", re.IGNORECASE)
    return figures, Expression(_LABEL, re.IGNORECASE)


@cache
def _figures() -> re.Pattern[str]:
    from phonenumbers.phonenumberutil import _PLUS_CHARS, _VALID_PUNCTUATION  # noqa: PLC0415

    return re.compile(rf"[{_VALID_PUNCTUATION}{_PLUS_CHARS}\d]*\d#?", re.IGNORECASE)


def _has_country(figures: str) -> bool:
    """Whether what follows a plus sign begins with the calling code of a country."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # noqa: PLC0415

    return figures[0] != "0" and any(int(figures[:size]) in COUNTRY_CODE_TO_REGION_CODE for size in (1, 2, 3))


def _least_anywhere(leniency: int) -> int:
    """The fewest figures of a number that is written with the calling code of its country."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # noqa: PLC0415

    return min(len(str(country)) + _least_dialled(country, leniency) for country in COUNTRY_CODE_TO_REGION_CODE)


def _least_dialled(country: int, leniency: int, *plans: Any) -> int:
    """The fewest figures of a number as it is dialled in a country, by its main plan or by ``plans``.

    A plan may put figures before what was dialled (those of an island, say).
    """
    shared = _plans(country)
    rules = [plan.national_prefix_transform_rule or "" for plan in (shared[0], *plans)]
    added = max(len(_RULE_FIGURES.findall(rule)) for rule in rules)
    return max(min(length for plan in shared for length in _lengths(plan, leniency)) - added, 1)


def _lengths(plan: Any, leniency: int) -> set[int]:
    kinds = [kind for kind in (plan.general_desc, *_kinds(plan)) if kind is not None]
    lengths = {length for kind in kinds for length in kind.possible_length}
    if not leniency:  # a number is possible that can be dialled only within its area
        lengths.update(plan.general_desc.possible_length_local_only)
    return {length for length in lengths if length > 0}


def _kinds(plan: Any) -> list[Any]:
    """The descriptions of the kinds of numbers (fixed, mobile, ...) in a region: those that make a number valid."""
    names = [name for name, kind in vars(plan).items() if hasattr(kind, "national_number_pattern")]
    kinds = [getattr(plan, name) for name in names if name not in {"general_desc", "no_international_dialling"}]
    return [kind for kind in kinds if kind.national_number_pattern]


def _plans(country: int) -> list[Any]:
    """The numbering plans of the regions that share a calling code, the main one first."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # noqa: PLC0415
    from phonenumbers.phonemetadata import PhoneMetadata  # noqa: PLC0415

    codes = COUNTRY_CODE_TO_REGION_CODE[country]
    return [PhoneMetadata.metadata_for_region_or_calling_code(country, code) for code in codes]


def _region(code: str, leniency: int) -> _Region:
    """What figures alone can be a number in a region.

    ``phonenumbers`` takes away a prefix for calls abroad, or the region's own calling code, then a national prefix
    (once more behind the calling code, by the rules of the main region), and compares what is left with the patterns
    of every region that shares the calling code. The shape allows each of these steps or none. What a rule makes of
    a prefix, and what follows a prefix for calls abroad, is left to ``phonenumbers``.
    """
    from phonenumbers.phonemetadata import PhoneMetadata  # noqa: PLC0415

    plan: Any = PhoneMetadata.metadata_for_region(code, None)
    if plan is None:
        return _Region(code, 1, re.compile("(?!)"))  # it knows no such region: only numbers with a plus sign
    country = plan.country_code
    least = _least_dialled(country, leniency, plan)
    if not leniency:
        return _Region(code, least, re.compile(r"\d+"))
    plans = _plans(country)
    dialled = [one for one in (plan, plans[0]) if one.national_prefix_for_parsing]
    prefixes = _any_of(one.national_prefix_for_parsing for one in dialled)
    ruled = _any_of(one.national_prefix_for_parsing for one in dialled if one.national_prefix_transform_rule)
    lengths = _any_of(rf"\d{{{length}}}" for one in plans for length in _lengths(one, leniency))
    numbers = _any_of(kind.national_number_pattern for one in plans for kind in _kinds(one))
    shapes = [rf"(?:{country})?(?:{prefixes})?(?:{prefixes})?(?=(?:{lengths})\Z)(?:{numbers})"]
    if plan.international_prefix:
        shapes.append(rf"(?:{plan.international_prefix})\d+")
    if ruled:
        shapes.append(rf"(?=\d{{{least}}})(?:{country})?(?:{ruled})\d*")
    return _Region(code, least, re.compile("|".join(shapes)))


def _any_of(patterns: Iterable[str]) -> str:
    return "|".join(dict.fromkeys(f"(?:{pattern})" for pattern in patterns))
