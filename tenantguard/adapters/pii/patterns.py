"""Presidio's recognisers as finders: their own expressions and validators, run in windows instead of whole texts.

A ``PatternRecognizer`` whose class leaves ``analyze`` alone is run here as Presidio runs it, without the objects that
explain each result. The one of IBANs, which has an ``analyze`` of its own, is given slices. Any other recogniser sees
every text as a whole.

An expression that takes longer than :data:`PATTERN_TIMEOUT_S` in one window is not skipped, as Presidio would: what
it has not searched of the window is reported as found, and the body has no work left for another such attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.pii.factoring import factored
from tenantguard.adapters.pii.finder import Expression
from tenantguard.model.pii import Match
from tenantguard.rules.redaction.text.conflicts import distinct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenantguard.adapters.pii.finder import Budget, Finder, Span

PATTERN_TIMEOUT_S: Final = 0.5
"""Presidio's expressions need at most 50 ms for 20,000 characters of anything that is known."""

_TIMED_CHARS: Final = 512
"""In a shorter window Presidio's own expressions are not timed, which takes longer than such a window."""

_VALUE_CHARS_MAX: Final = 512
"""A longer value is reported unchecked. No address is longer than 320; validators may be quadratic."""

_PRESIDIO: Final = "presidio_analyzer."


def finder_of(recognizer: Any) -> Finder:
    """The finder that finds what ``recognizer`` finds."""
    from presidio_analyzer import PatternRecognizer  # noqa: PLC0415 - two seconds
    from presidio_analyzer.predefined_recognizers import IbanRecognizer, PhoneRecognizer  # noqa: PLC0415

    from tenantguard.adapters.pii.phone import PhoneSearch  # noqa: PLC0415 - imports phonenumbers

    analyze = type(recognizer).analyze
    if isinstance(recognizer, PhoneRecognizer):
        numbers = PhoneSearch(recognizer)
        return numbers if analyze is PhoneRecognizer.analyze else TriggeredFinder(recognizer, numbers.expressions)
    patterns: list[Any] = getattr(recognizer, "patterns", None) or []
    if isinstance(recognizer, PatternRecognizer) and patterns:
        if analyze is PatternRecognizer.analyze:
            return PatternFinder(recognizer)
        if analyze is IbanRecognizer.analyze:
            return SliceFinder(recognizer)
    return WholeFinder(recognizer)


class PatternFinder:
    """The patterns of a ``PatternRecognizer``, each in its own windows."""

    reach = 0
    late = False

    def __init__(self, recognizer: Any) -> None:
        import regex  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with Presidio
        from presidio_analyzer import PatternRecognizer as Base  # noqa: PLC0415

        flags = int(recognizer.global_regex_flags or 0)
        kind = type(recognizer)
        self.name: str = recognizer.name
        self.entities = frozenset(recognizer.supported_entities)
        self.expressions = tuple(Expression(pattern.regex, flags) for pattern in recognizer.patterns)
        self._entity: str = recognizer.supported_entities[0]
        self._patterns = [
            (regex.compile(factored(pattern.regex), flags), float(pattern.score)) for pattern in recognizer.patterns
        ]
        own = recognizer.__dict__
        validates = kind.validate_result is not Base.validate_result or "validate_result" in own
        invalidates = kind.invalidate_result is not Base.invalidate_result or "invalidate_result" in own
        self._validate = recognizer.validate_result if validates else None
        self._invalidate = recognizer.invalidate_result if invalidates else None
        self._is_timed = not kind.__module__.startswith(_PRESIDIO) or kind is Base

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """See :class:`~tenantguard.adapters.pii.finder.Finder`."""
        del claimed
        found: list[Match] = []
        for at, spans in windows.items():
            compiled, score = self._patterns[at]
            for start, end in spans:
                if not self._is_timed and end - start <= _TIMED_CHARS:
                    matches = [match.span() for match in compiled.finditer(text, start, end)]
                elif (timed := self._timed(compiled, text, (start, end), budget)) is not None:
                    matches = timed
                else:
                    found.append(Match(self._entity, start, end, 1.0))
                    continue
                for span in matches:
                    self._judge(text, span, score, found, budget)
        return distinct(found)

    def _timed(self, compiled: Any, text: str, window: Span, budget: Budget) -> list[tuple[int, int]] | None:
        if compiled not in budget.slow:
            try:
                return [match.span() for match in compiled.finditer(text, *window, timeout=PATTERN_TIMEOUT_S)]
            except TimeoutError:
                budget.slow.add(compiled)
        budget.passed += 1
        return None

    def _judge(
        self,
        text: str,
        span: tuple[int, int],
        score: float,
        found: list[Match],
        budget: Budget,
    ) -> None:
        """Note a match with its score; one that its validator cannot judge is reported unchecked."""
        value = text[slice(*span)]
        if not value:
            return
        if len(value) > _VALUE_CHARS_MAX and (self._validate or self._invalidate):
            budget.passed += 1
            found.append(Match(self._entity, *span, 1.0))
            return
        try:
            valid = None if self._validate is None else self._validate(value)
            if valid is not None:
                score = 1.0 if valid else 0.0
            if self._invalidate is not None and self._invalidate(value):
                score = 0.0
        except Exception:  # noqa: BLE001 - some of Presidio's fail on digits of other scripts
            budget.passed += 1
            score = 1.0
        if score > 0.0:
            found.append(Match(self._entity, *span, score))


class _Asking:
    """What finders have in common that ask the recogniser's own ``analyze``."""

    reach = 0
    late = False

    def __init__(self, recognizer: Any, expressions: tuple[Expression, ...] = ()) -> None:
        from presidio_analyzer.nlp_engine import NoOpNlpEngine  # noqa: PLC0415 - two seconds

        self.name: str = recognizer.name
        self.entities = frozenset(recognizer.supported_entities)
        self.expressions = expressions
        self._recognizer = recognizer
        self._language: str = recognizer.supported_language
        self._engine = NoOpNlpEngine([{"lang_code": self._language, "model_name": "no_op"}])
        self._engine.load()

    def _ask(self, text: str, start: int = 0) -> list[Match]:
        artifacts = self._engine.process_text(text, self._language)
        results = self._recognizer.analyze(text, sorted(self.entities), artifacts) or ()
        return [Match(one.entity_type, one.start + start, one.end + start, float(one.score)) for one in results]


class SliceFinder(_Asking):
    """A ``PatternRecognizer`` whose ``analyze`` is its own but looks no further than its patterns, on slices."""

    def __init__(self, recognizer: Any) -> None:
        flags = int(recognizer.global_regex_flags or 0)
        super().__init__(recognizer, tuple(Expression(pattern.regex, flags) for pattern in recognizer.patterns))

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """See :class:`~tenantguard.adapters.pii.finder.Finder`."""
        del claimed, budget
        spans = sorted({span for spans in windows.values() for span in spans})
        return [match for start, end in spans for match in self._ask(text[start:end], start)]


class TriggeredFinder(_Asking):
    """A recogniser of telephone numbers with an ``analyze`` of its own: on whole texts that may hold one.

    Its work is that of a matcher of ``phonenumbers``, at most 7 us for each character of a window.
    """

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """See :class:`~tenantguard.adapters.pii.finder.Finder`."""
        del claimed
        spans = [span for spans in windows.values() for span in spans]
        if budget.take(sum(end - start for start, end in spans)):
            return self._ask(text)
        return [Match(entity, *span, 1.0) for span in spans for entity in self.entities]


class WholeFinder(_Asking):
    """A recogniser of which nothing else is known: every text as a whole."""

    def search(
        self, text: str, windows: Mapping[int, Sequence[Span]], claimed: Sequence[Span], budget: Budget
    ) -> list[Match]:
        """See :class:`~tenantguard.adapters.pii.finder.Finder`."""
        del windows, claimed, budget
        return self._ask(text)
