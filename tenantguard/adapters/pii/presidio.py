"""Presidio's ``AnalyzerEngine`` as it is, as a detector: for audits, and to compare the cascade with.

It has no language model, no network, and nothing of a text in a log (``recognizers.py``). What it does by default and
this module does not: a pattern that times out is skipped with a warning, so the rest of the text is not searched.
Here it is an error. The one recogniser that runs its pattern by itself (IBAN) is linear and needs milliseconds for a
window.
"""

from __future__ import annotations

import copy
import re
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.pii.finder import Expression
from tenantguard.adapters.pii.prefilter import REACH_MAX, plan
from tenantguard.adapters.pii.probes import probes_of, prove
from tenantguard.adapters.pii.recognizers import quiet, recognizers_for
from tenantguard.errors import PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Find
from tenantguard.rules.redaction.text.conflicts import settle
from tenantguard.rules.secrets.entities import secret_entities

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from contextlib import AbstractContextManager

    from presidio_analyzer import RecognizerResult

    from tenantguard.adapters.pii.cascade import CascadeDetector
    from tenantguard.flow.ports import Detector
    from tenantguard.model.redact_section import Kept

    _Detect = Callable[[str, AbstractContextManager[None]], list[Match]]

WINDOW_CHARS: Final = 20_000
OVERLAP_CHARS: Final = 512
"""Longer texts are searched in windows that overlap by this much on both sides and meet at white space."""

PROCESSOR_S_MAX: Final = 10.0
"""What the texts of one body may take of the processor together: that of 10 MB of prose, or 150 kB of numbers."""

PATTERN_TIMEOUT_S: Final = 1.0
"""A pattern needs about 20 ms of processor time for a window of prose."""

_MEETING_CHARS: Final = 2_000
_SPACE: Final = re.compile(r"\s(?=\S*\Z)")
_MARK: Final = re.compile(r"[\"'<>()](?=[^\"'<>()]*\Z)")  # in no address


class PresidioDetector:
    """Finds what ``find`` asks for with Presidio's engine, which is loaded when it is built (seconds).

    Its own context scores need a language model, so it has none. ``beside`` finds what Presidio does not (secrets),
    ``elsewhere`` are entities that something else finds. Names that Presidio does not know, and what is not found
    though it was asked for, are a :class:`ConfigurationError`.
    """

    passed = 0
    """Always: what takes too long is an error."""

    def __init__(
        self,
        find: Find = Find(),  # noqa: B008 - frozen
        beside: CascadeDetector | None = None,
        elsewhere: Collection[str] = (),
    ) -> None:
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415 - two seconds
        from presidio_analyzer.nlp_engine import NoOpNlpEngine  # noqa: PLC0415

        recognizers, self.entities = recognizers_for(find, elsewhere)
        for one in recognizers:
            _secure(one)
        self._beside = beside
        self._secrets = secret_entities(find.known) if find.secrets else frozenset()
        self._kept = find.kept
        self._language = language = find.languages[0]
        with quiet:
            self._analyzer = AnalyzerEngine(
                registry=RecognizerRegistry(recognizers=recognizers, supported_languages=[language]),
                nlp_engine=NoOpNlpEngine([{"lang_code": language, "model_name": "no_op"}]),
                supported_languages=[language],
                default_score_threshold=find.threshold,
            )
        self.reach = max([*map(_reach, recognizers), beside.reach if beside is not None else 0])
        prove(probes_of(recognizers, find, secrets=False), self.analyze)

    def clears(self, text: str) -> bool:  # noqa: ARG002 - there is no cheap look
        """Never: only a whole search can tell."""
        return False

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """Matches in ``text``, by start, not overlapping; those that end at or before ``after`` are left out.

        Raises :class:`PortError` if Presidio fails or a pattern takes too long; the error tells nothing of the text.
        """
        return [match for match in self._detect(text, nullcontext()) if match.end > after]

    def analyze(self, text: str) -> list[Match]:
        """Every match in ``text`` of a sufficient score, in any order, before conflicts are settled."""
        return self._all(text, nullcontext())

    def settle(self, matches: Iterable[Match]) -> list[Match]:
        """Conflicts settled; the result is by start and does not overlap."""
        return settle(matches, self._secrets, self._kept)

    def keeping(self, kept: Kept) -> PresidioDetector:
        """This detector where other entities are kept. What is costly is shared."""
        other = copy.copy(self)
        other._kept = kept  # noqa: SLF001 - its own
        return other

    def bounded(
        self, processor_s: float = PROCESSOR_S_MAX, processor_ns: Callable[[], int] = time.thread_time_ns
    ) -> Detector:
        """This detector for the texts of one body: a :class:`PortError` once they took ``processor_s`` together.

        ``processor_ns`` tells what the running thread has used of the processor.
        """
        return _Bounded(self._detect, self.reach, int(processor_s * 1e9), processor_ns)

    def _detect(self, text: str, meter: AbstractContextManager[None]) -> list[Match]:
        return self.settle(self._all(text, meter))

    def _all(self, text: str, meter: AbstractContextManager[None]) -> list[Match]:
        failure = ""
        found: list[Match] = []
        try:
            with quiet:
                for start, end in _windows(text):
                    with meter:
                        found += self._search(text, start, end)
            if self._beside is not None:
                found += self._beside.analyze(text)
        except PortError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may be personal
            failure = type(error).__name__
        if failure:
            raise PortError("detector", f"Presidio failed with {failure}")
        return found

    def _search(self, text: str, start: int, end: int) -> Iterator[Match]:
        """Matches that begin in ``text[start:end]``."""
        if not self.entities:  # Presidio takes that for all
            return
        before = max(start - OVERLAP_CHARS, 0)
        window = text if len(text) <= WINDOW_CHARS else text[before : end + OVERLAP_CHARS]
        results: list[RecognizerResult] = self._analyzer.analyze(window, self._language, entities=self.entities)
        for result in results:
            if start <= result.start + before < end:
                yield Match(result.entity_type, result.start + before, result.end + before, result.score)

    def __repr__(self) -> str:
        return f"PresidioDetector({len(self.entities)} entities, {self._language})"


class _Bounded:
    """Adds up what the processor spends within it; entering it again once too much was spent is an error."""

    __slots__ = ("_begun_ns", "_detect", "_left_ns", "_processor_ns", "passed", "reach")

    def __init__(self, detect: _Detect, reach: int, most_ns: int, processor_ns: Callable[[], int]) -> None:
        self.reach = reach
        self.passed = 0
        self._detect = detect
        self._left_ns = most_ns
        self._processor_ns = processor_ns
        self._begun_ns = 0

    def clears(self, text: str) -> bool:  # noqa: ARG002
        return False

    def detect(self, text: str, after: int = 0) -> list[Match]:
        return [match for match in self._detect(text, self) if match.end > after]

    def __enter__(self) -> None:
        if self._left_ns <= 0:
            raise PortError("detector", "the texts of one body took too long")
        self._begun_ns = self._processor_ns()

    def __exit__(self, *_: object) -> None:
        self._left_ns -= self._processor_ns() - self._begun_ns


def _windows(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > WINDOW_CHARS:
        end = start + WINDOW_CHARS
        meeting = _SPACE.search(text, end - _MEETING_CHARS, end) or _MARK.search(text, end - _MEETING_CHARS, end)
        end = meeting.end() if meeting is not None else end
        yield start, end
        start = end
    yield start, len(text)


def _reach(recognizer: Any) -> int:
    """The reach of a recogniser (see ``finder.py``); how those that have 0 go on is known to ``hold.py``."""
    from presidio_analyzer import PatternRecognizer  # noqa: PLC0415
    from presidio_analyzer.predefined_recognizers import IbanRecognizer, PhoneRecognizer  # noqa: PLC0415

    if isinstance(recognizer, (PhoneRecognizer, IbanRecognizer)):
        return 0
    if not isinstance(recognizer, PatternRecognizer):
        return REACH_MAX
    patterns: list[Any] = recognizer.__dict__["patterns"]
    plans = [plan(Expression(pattern.regex, int(recognizer.global_regex_flags or 0))) for pattern in patterns]
    return max((REACH_MAX if made is None else made.reach for made in plans), default=0)


def _secure(recognizer: Any) -> None:
    """Give a recogniser patterns that fail instead of being skipped."""
    from presidio_analyzer import PatternRecognizer  # noqa: PLC0415

    if isinstance(recognizer, PatternRecognizer):
        patterns: list[Any] = recognizer.__dict__["patterns"]
        for pattern in patterns:
            pattern.compiled_regex = _StrictPattern(pattern.regex, recognizer.global_regex_flags or 0)
            pattern.compiled_with_flags = recognizer.global_regex_flags


class _StrictPattern:
    """A compiled pattern whose time-out is no ``TimeoutError``, which Presidio would skip with a warning."""

    def __init__(self, pattern: str, flags: int) -> None:
        import regex  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with Presidio

        self._compiled = regex.compile(pattern, flags)

    def finditer(self, text: str, timeout: float) -> Iterator[Any]:  # noqa: ARG002 - Presidio's own is never reached
        slow = False
        try:
            yield from self._compiled.finditer(text, timeout=PATTERN_TIMEOUT_S)
        except TimeoutError:
            slow = True
        if slow:
            raise PortError("detector", "a pattern took too long")
