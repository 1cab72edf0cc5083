"""Recognisers of a user's own, as a policy names them (``"module:attribute"``)."""

from __future__ import annotations

from typing import Any

from presidio_analyzer import EntityRecognizer, Pattern, PatternRecognizer, RecognizerResult

badges = PatternRecognizer("BADGE", patterns=[Pattern("badge", r"\bBDG-\d{4}\b", 0.6)], context=["badge"])
shouted = PatternRecognizer("SHOUTED", patterns=[Pattern("number", r"\b\d{5}\b", 0.1)], context=["DNI"])
letters = PatternRecognizer("LETTERS", patterns=[Pattern("property", r"\p{Greek}{3}", 0.6)])
"""Only the package ``regex`` knows this syntax."""
slow = PatternRecognizer("SLOW", patterns=[Pattern("catastrophe", r"(?:a|aa)+(?<=[!a]!)", 0.6)])
choosy = PatternRecognizer("CHOOSY", patterns=[Pattern("number", r"\b\d{5}\b", 0.6)])
choosy.score_thresholds = {"CHOOSY": 0.7}
nothing = object()


class Failing(PatternRecognizer):
    """Its validator fails, and says on what."""

    def __init__(self) -> None:
        super().__init__("FAILING", patterns=[Pattern("number", r"\b\d{5}\b", 0.1)])

    def validate_result(self, pattern_text: str) -> bool:
        raise ValueError(pattern_text)


class Names(EntityRecognizer):
    """No patterns at all."""

    def __init__(self) -> None:
        super().__init__(["FIRST_NAME"])

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[RecognizerResult]:
        at = text.find("Ann")
        return [RecognizerResult("FIRST_NAME", at, at + 3, 0.8)] if at >= 0 else []


class Broken(Names):
    """Fails, and says on what."""

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[RecognizerResult]:
        raise ValueError(text)
