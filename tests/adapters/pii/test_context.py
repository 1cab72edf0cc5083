"""Words before a match raise its score, as Presidio's enhancer does it with a language model."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, Final

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer import AnalysisExplanation, RecognizerResult
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine

from tenantguard.adapters.pii.cascade import CascadeDetector
from tenantguard.adapters.pii.context import CONTEXT_CHARS, ContextScores
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Find

CARD: Final = ("credit", "card", "visa", "cc ", "debit")
PHONE: Final = ("phone", "number", "telephone", "cell", "mobile", "call")
PASSPORT: Final = ("us", "passport", "passport#", "travel", "document")
WORDS: Final = {"card": CARD, "phone": PHONE, "passport": PASSPORT, "none": ()}
SCORES: Final = ContextScores("en")

# In brackets the match, before the bar its recogniser, after it whether the words before it speak for it.
SENTENCES: Final = [
    ("card", "my credit card is [4012888888881881]", True),
    ("card", "my CREDIT CARD is [4012888888881881]", True),
    ("card", "She owes me [4012888888881881] in total", False),
    ("card", "The creditcard: [4012888888881881]", True),
    ("card", "Two cards, [4012888888881881] and another", True),
    ("card", "[4012888888881881] is my card", False),
    ("card", "card ordered on Monday, order [4012888888881881]", True),
    ("card", "card lost near the river between old stone houses [4012888888881881]", False),
    ("card", "card, and it was not what I would have wanted from you [4012888888881881]", True),
    ("card", "cc [4012888888881881]", False),
    ("card", "visa=[4012888888881881]", True),
    ("card", "my discard pile [4012888888881881]", True),
    ("phone", "phone: [212 555 2671]", True),
    ("phone", "call [212 555 2671]", False),
    ("phone", "Please call me at [212 555 2671]", False),
    ("phone", "My cellphone, if you need it, is [+1 212 555 2671]", True),
    ("phone", "The number you asked for: [(212) 555-2671]", True),
    ("phone", "numbers\n[212 555 2671]", True),
    ("phone", "Invoice 2024-05-06, 3 pieces, 12.50 each [2125552671]", False),
    ("phone", "Telephone - [212-555-2671]", True),
    ("phone", "It's the mobile's [2125552671]", True),
    ("phone", "I don't have a mobile but this: [2125552671]", True),
    ("phone", "mobile one two three four five six seven eight nine ten eleven [2125552671]", True),
    ("phone", "mobile red green blue white black [2125552671]", False),
    ("phone", "mobile red, green; blue! white [2125552671]", True),
    ("passport", "passport# [A12345678]", True),
    ("passport", "passport#[A12345678]", True),
    ("passport", "us=[123456789]", True),
    ("passport", "give it to us [123456789]", False),
    ("passport", "My travel document ([A12345678])", True),
    ("passport", "The bus at 8:30 with line [A12345678]", True),
    ("passport", "They met on a train, in [A12345678]", False),
    ("passport", "[A12345678]", False),
    ("none", "my passport card number [A12345678]", False),
]


def _marked(text: str) -> tuple[str, int, int]:
    start, end = text.index("["), text.index("]") - 1
    return text.replace("[", "", 1).replace("]", "", 1), start, end


def _is_raised(recognizer: str, text: str, start: int, end: int) -> bool:
    score = SCORES.scored(text, Match("ENTITY", start, end, 0.3), WORDS[recognizer])
    assert score in {0.3, 0.3 + 0.35}
    return score > 0.3


@pytest.mark.parametrize(("recognizer", "text", "raised"), SENTENCES)
def test_words_before_a_match_speak_for_it(recognizer: str, text: str, *, raised: bool) -> None:
    assert _is_raised(recognizer, *_marked(text)) is raised


def test_scores_rise_by_presidios_figures() -> None:
    scores = [
        SCORES.scored("card 12345", Match("A", 5, 10, score), CARD) for score in (0.01, 0.05, 0.3, 0.5, 0.9, 1.0)
    ]
    assert scores == pytest.approx([0.4, 0.4, 0.65, 0.85, 1.0, 1.0])


@pytest.mark.parametrize("label", ["dni", "DNI", "Dni"])
def test_context_words_are_compared_in_small_letters(label: str) -> None:
    find = Find(recognizers=("tests.adapters.pii.own_recognizers:shouted",), threshold=0.0)
    (match,) = CascadeDetector(find).detect(f"mi {label}: 12345")
    assert match.score == pytest.approx(0.45)


def test_each_language_has_its_own_stop_words() -> None:
    text, match = "Karte der die das und ein wir sie es 1234", Match("A", 37, 41, 0.1)
    raised = [ContextScores(language).scored(text, match, ["karte"]) > 0.1 for language in ("de", "en", "zz")]
    assert raised == [True, False, False]


@given(
    st.lists(
        st.sampled_from(["card", "the", "visa", "x", "blue", "\n", "  ", "=", ":", "8.5", "it's", ",", "é"]),
        max_size=60,
    ),
    st.lists(st.sampled_from([" ", "", "-", "  "]), min_size=60, max_size=60),
    st.sampled_from(["4012888888881881", "(212) 555", "card@example.org"]),
)
def test_only_the_characters_kept_before_a_match_count(words: list[str], glue: list[str], value: str) -> None:
    before = "".join([word + between for word, between in zip(words, glue, strict=False)])
    whole = _is_raised("card", before + value, len(before), len(before) + len(value))
    kept = before[-CONTEXT_CHARS:]
    assert _is_raised("card", kept + value, len(kept), len(kept) + len(value)) is whole


def test_a_word_that_is_cut_off_does_not_count() -> None:
    for distance in range(CONTEXT_CHARS - 8, CONTEXT_CHARS + 3):
        text = "a discard" + "." * distance + " 1234"
        assert not _is_raised("card", text, len(text) - 4, len(text))


def test_long_texts_and_long_words_cost_no_more() -> None:
    class Counting(str):
        """A text that no step may look at as a whole."""

        __slots__ = ()

        def lower(self) -> str:
            raise AssertionError

        def __iter__(self) -> Any:
            raise AssertionError

    text = Counting("word " * 200_000 + "card 1234" + "5" * 1_000_000)
    start = 1_000_005
    assert SCORES.scored(text, Match("A", start, len(text), 0.1), CARD) == pytest.approx(0.45)


def _presidios(nlp: Any, text: str, found: list[tuple[int, int, str]]) -> list[float]:
    """Presidio's own enhancer; each word is its own lemma."""
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.nlp = {"en": nlp}
    doc = nlp(text)
    artifacts = NlpArtifacts([], doc, [token.idx for token in doc], [token.text for token in doc], engine, "en")
    results = []
    for start, end, recognizer in found:
        names = {
            RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: recognizer,
            RecognizerResult.RECOGNIZER_NAME_KEY: recognizer,
        }
        explanation = AnalysisExplanation(recognizer, 0.3)
        results.append(RecognizerResult("A", start, end, 0.3, explanation, names))
    recognizers: Any = [SimpleNamespace(id=name, name=name, context=[*words]) for name, words in WORDS.items()]
    raised = LemmaContextAwareEnhancer().enhance_using_context(text, results, artifacts, recognizers)
    return [result.score for result in raised]


FRAMES: Final = [
    "My {word} is {value}.",
    "The {word} that you asked me for, as far as I know: {value}",
    "{word} {value}",
    "{word}: {value}",
    "{value} is what she wrote",
    "In {value} we lost the {word} near the old harbour, he said",
    "Please find the {word} below:\n{value}",
    "{word} of a quiet neighbour who painted wooden doors: {value}",
    "They don't know it's {value}, the {word}'s",
    "seen on 2024-05-06 at 8:30, {word} for $12.50 ({value})",
]
VALUES: Final = [
    "4012888888881881",
    "212 555 2671",
    "+1 212 555 2671",
    "A12345678",
    "4012-8888-8888-1881",
    "192.0.2.1",
]


def test_agrees_with_presidios_enhancer() -> None:
    rng = random.Random("context")
    nlp = spacy.blank("en")
    agreed = total = 0
    for _ in range(200):
        text, found = "", []
        for _ in range(rng.randint(1, 4)):
            name = rng.choice([*WORDS])
            word = rng.choice([*WORDS[rng.choice(["card", "phone", "passport"])], "report", "river"]).strip()
            value = rng.choice(VALUES)
            text += rng.choice(FRAMES).format(word=word, value=value) + rng.choice([" ", "\n"])
            start = text.rindex(value)
            found.append((start, start + len(value), name))
        ours = [SCORES.scored(text, Match("A", start, end, 0.3), WORDS[name]) for start, end, name in found]
        for one, other in zip(ours, _presidios(nlp, text, found), strict=True):
            agreed += one == other
            total += 1
    assert agreed >= 0.99 * total


def test_agrees_with_presidios_enhancer_on_each_sentence() -> None:
    nlp = spacy.blank("en")
    for recognizer, marked, raised in SENTENCES:
        text, start, end = _marked(marked)
        assert [score > 0.3 for score in _presidios(nlp, text, [(start, end, recognizer)])] == [raised], marked
