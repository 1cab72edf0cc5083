"""Presidio's pattern recognisers as a detector: no language model, no network, nothing of a text in a log.

Presidio is imported (2 s) and made ready when a detector is built, never by importing this module and never in a
request. What it does by default and this module does not:

* A pattern that times out is skipped with a warning, so the rest of the text is not searched. Here it is an error.
  The one recogniser that runs its pattern by itself (IBAN) is linear and needs milliseconds for a window.
* The first e-mail address makes ``tldextract`` fetch the public suffix list. Here the list in the package is used.
* ``Pattern`` objects belong to the classes and are shared by all engines. Here each detector has its own.
* Some recognisers log what they could not validate. Here what Presidio logs during a detection is dropped.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import re
import threading
import time
import warnings
from bisect import bisect_right, insort
from contextlib import nullcontext
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerResult

    from tenantguard.flow.ports import Detector

    _Detect = Callable[[str, AbstractContextManager[None]], list[Match]]

WINDOW_CHARS: Final = 20_000
OVERLAP_CHARS: Final = 512
"""Longer texts are searched in windows that overlap by this much on both sides and meet at white space."""

PROCESSOR_S_MAX: Final = 10.0
"""What the texts of one body may take of the processor together: that of 10 MB of prose, or 150 kB of numbers."""

PATTERN_TIMEOUT_S: Final = 1.0
"""A pattern needs about 20 ms of processor time for a window of prose."""

_PRESIDIO_TIMEOUT_S_MIN: Final = 10
_MEETING_CHARS: Final = 2_000
_SPACE: Final = re.compile(r"\s(?=\S*\Z)")
_MARK: Final = re.compile(r"[\"'<>()](?=[^\"'<>()]*\Z)")  # in no address
_MODULES: Final = (
    "presidio_analyzer.predefined_recognizers.generic.",
    "presidio_analyzer.predefined_recognizers.country_specific.",
)  # the others need a language model or a service
_WARM_UP: Final = "a@example.com, +1 415 555 2671, 192.0.2.1"


class PresidioDetector:
    """Finds personal data with Presidio's pattern recognisers, which are loaded when it is built (seconds).

    ``recognizers`` names Presidio's classes, those of the country packs too; none means those that Presidio has on
    by default for ``language``. ``entities`` restricts what is found to some of Presidio's entity names, and brings
    in the recognisers of those that are off by default. ``threshold`` is the lowest score that counts. Names that
    Presidio does not know are a :class:`ConfigurationError`.
    """

    def __init__(
        self,
        entities: Sequence[str] = (),
        threshold: float = 0.4,
        language: str = "en",
        recognizers: Sequence[str] = (),
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ConfigurationError("a detector's threshold must be between 0 and 1")
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._analyzer, self.entities = _load(tuple(entities), threshold, language, tuple(recognizers))
        self._language = language
        self.detect(_WARM_UP)

    def detect(self, text: str) -> list[Match]:
        """Matches in ``text``, by start, not overlapping.

        Raises :class:`PortError` if Presidio fails or a pattern takes too long; the error tells nothing of the text.
        """
        return self._detect(text, nullcontext())

    def bounded(
        self, processor_s: float = PROCESSOR_S_MAX, processor_ns: Callable[[], int] = time.thread_time_ns
    ) -> Detector:
        """This detector for the texts of one body: a :class:`PortError` once they took ``processor_s`` together.

        ``processor_ns`` tells what the running thread has used of the processor.
        """
        return _Bounded(self._detect, int(processor_s * 1e9), processor_ns)

    def _detect(self, text: str, meter: AbstractContextManager[None]) -> list[Match]:
        failure = ""
        found: list[Match] = []
        try:
            with _quiet:
                for start, end in _windows(text):
                    with meter:
                        found += self._search(text, start, end)
        except PortError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may be personal
            failure = type(error).__name__
        if failure:
            raise PortError("detector", f"Presidio failed with {failure}")
        return resolve(found)

    def _search(self, text: str, start: int, end: int) -> Iterator[Match]:
        """Matches that begin in ``text[start:end]``."""
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

    __slots__ = ("_begun_ns", "_detect", "_left_ns", "_processor_ns")

    def __init__(self, detect: _Detect, most_ns: int, processor_ns: Callable[[], int]) -> None:
        self._detect = detect
        self._left_ns = most_ns
        self._processor_ns = processor_ns
        self._begun_ns = 0

    def detect(self, text: str) -> list[Match]:
        return self._detect(text, self)

    def __enter__(self) -> None:
        if self._left_ns <= 0:
            raise PortError("detector", "the texts of one body took too long")
        self._begun_ns = self._processor_ns()

    def __exit__(self, *_: object) -> None:
        self._left_ns -= self._processor_ns() - self._begun_ns


def known_entities(language: str = "en") -> frozenset[str]:
    """Every entity name that a :class:`PresidioDetector` can be restricted to. Loads Presidio (seconds)."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frozenset(_entities_of(_build(one, language) for one in _classes().values()))


def resolve(matches: Iterable[Match]) -> list[Match]:
    """Settle conflicts as Presidio's anonymizer does with ``REMOVE_INTERSECTIONS``; the result does not overlap.

    Matches of one entity that overlap become one with the higher score. One that lies in another is dropped, of two
    with the same span the one with the lower score, and the earlier one on a tie. Of two that overlap otherwise, the
    one with the lower score (the later on a tie) gives way and keeps the rest of its span.
    """
    ordered = sorted(matches, key=lambda match: (match.start, match.end))
    kept: list[Match] = []
    for match in sorted(_uncontained(_merged(ordered)), key=lambda match: (-match.score, match.start)):
        for start, end in _gaps(match, kept):
            insort(kept, Match(match.entity, start, end, match.score), key=attrgetter("start"))
    return kept


def _gaps(match: Match, kept: list[Match]) -> list[tuple[int, int]]:
    """The parts of a match's span that no match of ``kept`` covers."""
    gaps: list[tuple[int, int]] = []
    start = match.start
    for at in range(max(bisect_right(kept, start, key=attrgetter("start")) - 1, 0), len(kept)):
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


def _windows(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > WINDOW_CHARS:
        end = start + WINDOW_CHARS
        meeting = _SPACE.search(text, end - _MEETING_CHARS, end) or _MARK.search(text, end - _MEETING_CHARS, end)
        end = meeting.end() if meeting is not None else end
        yield start, end
        start = end
    yield start, len(text)


def _load(
    entities: tuple[str, ...], threshold: float, language: str, recognizers: tuple[str, ...]
) -> tuple[AnalyzerEngine, list[str]]:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415 - two seconds
    from presidio_analyzer.nlp_engine import NoOpNlpEngine  # noqa: PLC0415

    logging.getLogger("presidio-analyzer").addFilter(_quiet)
    chosen = _named(recognizers, language) if recognizers else _on_by_default(language)
    if not recognizers:
        chosen += _off_by_default(set(entities) - _entities_of(chosen), language)
    known = _entities_of(chosen)
    for entity in entities:
        if entity not in known:
            raise ConfigurationError(f"Presidio finds no entity {entity!r}{_suggestion(entity, known)}")
    wanted = sorted(set(entities) or known)
    used = [recognizer for recognizer in chosen if set(recognizer.supported_entities) & set(wanted)]
    for recognizer in used:
        _secure(recognizer)
    analyzer = AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=used, supported_languages=[language]),
        nlp_engine=NoOpNlpEngine([{"lang_code": language, "model_name": "no_op"}]),
        supported_languages=[language],
        default_score_threshold=threshold,
    )
    return analyzer, wanted


def _on_by_default(language: str) -> list[EntityRecognizer]:
    from presidio_analyzer.recognizer_registry import RecognizerRegistryProvider  # noqa: PLC0415

    configuration = {"supported_languages": [language]}
    registry = RecognizerRegistryProvider(registry_configuration=configuration).create_recognizer_registry()
    return [one for one in registry.recognizers if type(one).__module__.startswith(_MODULES)]


def _off_by_default(entities: set[str], language: str) -> list[EntityRecognizer]:
    if not entities:
        return []
    everything = [_build(one, language) for one in _classes().values()]
    return [one for one in everything if entities & set(one.supported_entities)]


def _named(names: tuple[str, ...], language: str) -> list[EntityRecognizer]:
    classes = _classes()
    for name in names:
        if name not in classes:
            raise ConfigurationError(f"Presidio has no pattern recogniser {name!r}{_suggestion(name, classes)}")
    return [_build(classes[name], language) for name in dict.fromkeys(names)]


def _classes() -> dict[str, Any]:
    from presidio_analyzer import predefined_recognizers  # noqa: PLC0415

    return {
        name: found
        for name, found in vars(predefined_recognizers).items()
        if inspect.isclass(found) and found.__module__.startswith(_MODULES)
    }


def _build(recognizer: Any, language: str) -> EntityRecognizer:
    built: EntityRecognizer = recognizer(supported_language=language)
    return built


def _entities_of(recognizers: Iterable[EntityRecognizer]) -> set[str]:
    return {entity for recognizer in recognizers for entity in recognizer.supported_entities}


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""


def _secure(recognizer: Any) -> None:
    """Give a recogniser patterns of its own that fail instead of being skipped, and keep it off the network."""
    from presidio_analyzer import PatternRecognizer  # noqa: PLC0415
    from presidio_analyzer.predefined_recognizers import EmailRecognizer, IbanRecognizer  # noqa: PLC0415
    from presidio_analyzer.predefined_recognizers.generic import iban_recognizer  # noqa: PLC0415

    changed = recognizer
    if isinstance(recognizer, PatternRecognizer):
        changed.patterns = [_own(pattern, changed.global_regex_flags) for pattern in changed.patterns]
    if isinstance(recognizer, IbanRecognizer) and iban_recognizer.REGEX_TIMEOUT_SECONDS < _PRESIDIO_TIMEOUT_S_MIN:
        raise ConfigurationError(
            f"REGEX_TIMEOUT_SECONDS is less than {_PRESIDIO_TIMEOUT_S_MIN}: Presidio would let IBANs through",
        )
    if isinstance(recognizer, EmailRecognizer):
        from tldextract import TLDExtract  # noqa: PLC0415

        extract = TLDExtract(cache_dir=None, suffix_list_urls=())
        changed.validate_result = lambda pattern_text: extract(pattern_text).fqdn != ""


def _own(shared: Any, flags: int) -> Any:
    pattern = copy.copy(shared)
    pattern.compiled_regex = _StrictPattern(pattern.regex, flags)
    pattern.compiled_with_flags = flags
    return pattern


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


class _Quiet(logging.Filter, threading.local):
    """While it is entered, drops what this thread logs to the loggers that it filters."""

    _depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - whatever it says
        return self._depth == 0


_quiet: Final = _Quiet()
