"""What is made of an expression to be scanned for matches whatever the expression matches, and more."""

# ruff: noqa: RUF001 - a long s is meant

from __future__ import annotations

import re
from random import Random

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.pii.factoring import factored
from tenantguard.adapters.pii.finder import Expression
from tenantguard.adapters.pii.prefilter import REACH_MAX, boundless, plan, written
from tenantguard.adapters.pii.shadow import shadow
from tests.adapters.pii.sampled import drawn, parsed

PRESIDIOS = int(regex.DOTALL | regex.MULTILINE | regex.IGNORECASE)
CHARACTERS = st.text(st.one_of(st.characters(), st.sampled_from("09aZ_ .-@:/éßſKİ٣\u3000\u00a0€\u0301")), max_size=40)

EXPRESSIONS = [
    r"\b(\d{3})[- ]?\d{2}\b",
    r"(?<!\w)(?!000)[a-k]{2,3}(?i:x)\s+\d(?=\w)",
    r"(['\"])[^'\"\s]*\1@\w+(?:\.\w+)+",
    r"[^a-z\s][\W\d]\S\D",
    r"(?:ab|a(?>bc)|é[ß-ü])++k",
    r"^ſ[^\W_]{1,90}\.(com|co|community)$",
    r"(a)?(?(1)b|c)s.{2}",
]


@given(CHARACTERS)
def test_a_shadow_has_the_texts_length_and_its_words_digits_and_white_space(text: str) -> None:
    seen = shadow(text).decode("ascii")
    assert len(seen) == len(text)
    for kind in (r"\w", r"\d", r"\s"):
        assert [bool(regex.match(kind, one)) for one in seen] == [bool(regex.match(kind, one)) for one in text]
    if text.isascii():
        assert seen == text


@pytest.mark.parametrize("pattern", EXPRESSIONS)
def test_every_match_of_an_expression_holds_its_core_in_its_shadow(pattern: str) -> None:
    made = plan(Expression(pattern, PRESIDIOS))
    assert made is not None
    core = re.compile(written(made.core).encode())
    loose = re.compile(written(boundless(made.core)).encode())
    compiled = regex.compile(pattern, PRESIDIOS)
    rng = Random(pattern)
    found = 0
    for _ in range(300):
        text = "".join(
            [
                "".join(rng.choices("ab1 .é€K\n", k=rng.randrange(4))),
                drawn(rng, parsed(pattern)),
                "".join(rng.choices("ab1 .é€ſ\n", k=rng.randrange(4))),
            ]
        )
        for match in compiled.finditer(text):
            found += 1
            scanned = shadow(text)
            assert core.search(scanned, max(match.start() - 1, 0), match.end() + 1), (text, match)
            assert loose.search(shadow(match[0])), (text, match)
    assert found


@pytest.mark.parametrize(
    ("pattern", "flags"),
    [
        (r"\p{Lu}\d{3}", PRESIDIOS),  # the package `regex` alone has properties,
        (r"(?:word){e<=1}", PRESIDIOS),  # errors,
        (r"[[:alpha:]]\d", PRESIDIOS),  # and classes by name
        (r"\d{3}", PRESIDIOS | int(regex.VERSION1)),
        (r"\d*", PRESIDIOS),  # nothing at all matches
        (r"(?=\d)", PRESIDIOS),
    ],
)
def test_what_has_no_superset_is_searched_for_in_whole_texts(pattern: str, flags: int) -> None:
    assert plan(Expression(pattern, flags)) is None


def test_flags_within_an_expression_hold_for_all_of_it_as_in_presidio() -> None:
    made = plan(Expression(r"\bab(?i)c\d", 0))
    assert made is not None
    assert re.fullmatch(written(boundless(made.core)).encode(), b"AbC7")


@pytest.mark.parametrize(
    ("pattern", "reach"),
    [
        (r"\d{3} \d{3}", 0),  # a digit holds a stream back
        (r"[A-Z]{2,3} \d{4}", 0),  # so do at most four capitals
        (r"[A-Z]{2} +[A-Z]\d", 0),
        (r"[A-Z]{2} [a-z]{3}", 6),  # which a small letter lets go
        (r"[A-Z]{5} \d{4}", 10),
        (r"(?i)[A-Z]{2} \d{4}", 7),
        (r"hr[ab]\s*\d{1,6}", REACH_MAX),
        (r"name: \w+", REACH_MAX),
        (r"\w+@\w+\.\w+", 0),
        (r"a\d(?= of \w)", 7),
    ],
)
def test_a_pattern_reaches_on_after_a_plain_word_as_far_as_it_is_wide(pattern: str, reach: int) -> None:
    made = plan(Expression(pattern, 0))
    assert made is not None
    assert made.reach == reach


WORDS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=16, max_size=40)


@given(WORDS, st.text("abc'", max_size=12))
def test_choices_that_are_brought_together_match_the_same(words: list[str], text: str) -> None:
    pattern = rf"(?:{'|'.join(f'(?:{word})' for word in words)})'?"
    quick = factored(pattern)
    assert [found.span() for found in regex.finditer(quick, text)] == [
        found.span() for found in regex.finditer(pattern, text)
    ]
    longer = pattern.replace("'?", "'")
    assert [found.span() for found in regex.finditer(factored(longer), text)] == [
        found.span() for found in regex.finditer(longer, text)
    ]
