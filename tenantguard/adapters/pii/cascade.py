"""The cascade: scan, open windows, let each finder look where it must, score by context, settle conflicts.

With context scoring off the matches are those of Presidio's ``AnalyzerEngine`` without a language model: the same
entities, spans and scores. There is one exception, which changes nothing of a redacted text: telephone numbers are
not looked for within what another match of a score of at least 0.5 covers. Where the bounds on work end a search,
what could not be looked at is reported as found, and counted.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.adapters.pii.context import ContextScores
from tenantguard.adapters.pii.finder import Budget
from tenantguard.adapters.pii.patterns import PatternFinder, finder_of
from tenantguard.adapters.pii.prefilter import REACH_MAX, plan
from tenantguard.adapters.pii.probes import probes_of, prove
from tenantguard.adapters.pii.recognizers import quiet, recognizers_for
from tenantguard.adapters.pii.scanning import scanner
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match
from tenantguard.rules.redaction.text.conflicts import distinct, settle
from tenantguard.rules.secrets.entities import secret_entities

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from tenantguard.adapters.pii.finder import Finder, Span
    from tenantguard.adapters.pii.prefilter import Plan
    from tenantguard.flow.ports import Detector
    from tenantguard.model.redact_section import Find, Kept

_CLAIM_SCORE_MIN: Final = 0.5


class _Step(NamedTuple):
    """A finder in the cascade."""

    finder: Finder
    whole: tuple[int, ...]
    """Expressions that cannot be scanned for: their window is every text."""
    always: bool
    """Whether it looks at texts in which nothing was scanned."""
    words: tuple[str, ...]
    """What raises a match's score where it stands before it, in small letters."""
    thresholds: Mapping[str, float]
    """The recogniser's own least scores, by entity or ``default``."""


class CascadeDetector:
    """Finds what ``find`` asks for; Presidio is loaded and everything compiled when it is built (seconds).

    ``fast``: scan with hyperscan (None: if it is installed). ``others`` are finders beside Presidio's recognisers,
    which are there unless ``recognizers`` is False. ``elsewhere`` are entities that something else finds. Raises
    :class:`ConfigurationError` for what Presidio does not know, if ``fast`` is True without hyperscan, and where it
    does not find what it was built to find.
    """

    def __init__(
        self,
        find: Find,
        *,
        fast: bool | None = None,
        others: Sequence[Finder] = (),
        recognizers: bool = True,
        elsewhere: Collection[str] = (),
    ) -> None:
        used, self.entities = recognizers_for(find, elsewhere) if recognizers else ([], [])
        self._wanted = {*self.entities, *(entity for finder in others for entity in finder.entities)}
        self._threshold = find.threshold
        self._secrets = secret_entities(find.known) if find.secrets else frozenset()
        self._kept = find.kept
        self._context = ContextScores(find.languages[0]) if find.context else None
        self._steps: list[_Step] = []
        self._owners: list[tuple[int, int]] = []  # of each plan: the step, and its expression
        self.passed = 0
        self.reach = 0
        plans: list[Plan] = []
        with quiet:
            for one in used:
                self._add(finder_of(one), plans, tuple(map(str.lower, one.context or ())), one.score_thresholds)
        for finder in others:
            self._add(finder, plans, (), {"default": 0.0})
        self._always = any(step.always for step in self._steps)
        try:
            self._scanner = scanner(plans, fast=fast)
        except ImportError:
            raise ConfigurationError("redact: fast scanning needs the extra 'fast' (hyperscan)") from None
        prove(probes_of(used, find, secrets=find.secrets and bool(others)), self.analyze)

    def _add(
        self, finder: Finder, plans: list[Plan], words: tuple[str, ...], thresholds: Mapping[str, float]
    ) -> None:
        whole = []
        reach = finder.reach
        for at, expression in enumerate(finder.expressions):
            made = plan(expression)
            if made is None:
                whole.append(at)
            else:
                self._owners.append((len(self._steps), at))
                plans.append(made)
            if isinstance(finder, PatternFinder):  # the groups of an IBAN, a SliceFinder's, are known to hold.py
                reach = max(reach, REACH_MAX if made is None else made.reach)
        always = bool(whole) or not finder.expressions
        self.reach = max(self.reach, reach)
        self._steps.append(_Step(finder, tuple(whole), always, words, thresholds))

    def clears(self, text: str) -> bool:
        """Whether certainly nothing is found in any part of ``text``: one scan, 10 us for 2 KB with hyperscan."""
        return not self._always and self._scanner.clears(text)

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """Matches in ``text``, by start, not overlapping; those that end at or before ``after`` are left out.

        Raises :class:`PortError` if a recogniser fails; the error tells nothing of the text.
        """
        return [match for match in self.settle(self.analyze(text)) if match.end > after]

    def analyze(self, text: str) -> list[Match]:
        """Every match in ``text`` of a sufficient score, in any order, before conflicts are settled."""
        budget = Budget()
        matches = self._matches(text, 0, budget, self._kept)
        self.passed += budget.passed
        return matches

    def settle(self, matches: Iterable[Match]) -> list[Match]:
        """Conflicts settled; the result is by start and does not overlap."""
        return settle(matches, self._secrets, self._kept)

    def keeping(self, kept: Kept) -> CascadeDetector:
        """This detector where other entities are kept. What is costly is shared."""
        other = copy.copy(self)
        other._kept = kept  # noqa: SLF001 - its own
        other.passed = 0
        return other

    def bounded(self) -> Detector:
        """This detector for the texts of one body, whose work is bounded together."""
        return _Body(self)

    def _matches(self, text: str, after: int, budget: Budget, kept: Kept) -> list[Match]:
        windows = self._scanner.windows(text, after)
        if not windows and not self._always:
            return []
        failure = ""
        try:
            with quiet:
                return self._found(text, windows, budget, kept)
        except PortError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may be personal
            failure = type(error).__name__
        raise PortError("detector", f"a recogniser failed with {failure}")

    def _found(self, text: str, windows: Mapping[int, Sequence[Span]], budget: Budget, kept: Kept) -> list[Match]:
        budget.earn(len(text))
        of_step: dict[int, dict[int, Sequence[Span]]] = {at: {} for at, step in enumerate(self._steps) if step.always}
        for at, spans in windows.items():
            owner, expression = self._owners[at]
            of_step.setdefault(owner, {})[expression] = spans
        found: list[Match] = []
        claimed: list[Span] = []
        for at in sorted(of_step, key=lambda at: (self._steps[at].finder.late, at)):
            step = self._steps[at]
            for expression in step.whole:
                of_step[at][expression] = [(0, len(text))]
            for match in step.finder.search(text, of_step[at], claimed if step.finder.late else (), budget):
                if match.entity not in self._wanted:
                    continue
                score = self._score(text, match, step)
                least = step.thresholds.get(match.entity, step.thresholds.get("default", self._threshold))
                if score < least:
                    continue
                found.append(match if score == match.score else Match(match.entity, match.start, match.end, score))
                if match.score >= _CLAIM_SCORE_MIN and match.entity not in kept:
                    claimed.append((match.start, match.end))
        return distinct(found)

    def _score(self, text: str, match: Match, step: _Step) -> float:
        if self._context is None or not step.words:
            return match.score
        return self._context.scored(text, match, step.words)

    def __repr__(self) -> str:
        return f"CascadeDetector({len(self.entities)} entities)"


class _Body:
    """A cascade for the texts of one body."""

    __slots__ = ("_budget", "_cascade", "clears", "passed", "reach")

    def __init__(self, cascade: CascadeDetector) -> None:
        self.clears: Callable[[str], bool] = cascade.clears
        self.reach = cascade.reach
        self.passed = 0
        self._cascade = cascade
        self._budget: Budget | None = None  # most bodies are clear

    def detect(self, text: str, after: int = 0) -> list[Match]:
        cascade = self._cascade
        if self._budget is None:
            self._budget = Budget()
        matches = cascade._matches(text, after, self._budget, cascade._kept)  # noqa: SLF001 - a view of it
        self.passed = self._budget.passed
        if not matches:
            return matches
        matches = cascade.settle(matches)
        return [match for match in matches if match.end > after] if after else matches
