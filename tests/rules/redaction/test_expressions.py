"""What is said of a user's expression before it runs: its width, its ways, and whether it may hold white space."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.rules.redaction.text.expressions import Study, study


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("EMP-[0-9]{6}", Study(10, 1, spaced=False)),
        (r"\bEMP\b", Study(3, 1, spaced=False)),
        (r"[a-z]{1,63}@[a-z]{1,63}", Study(127, 3969, spaced=False)),
        (r"(?:\d{1,3}\.){3}\d{1,3}", Study(15, 81, spaced=False)),
        (r"John\sSmith", Study(10, 1, spaced=True)),
        ("a b", Study(3, 1, spaced=True)),
        ("张三，李四", Study(5, 1, spaced=True)),  # noqa: RUF001 - full-width punctuation is meant
        ("a[，。]b", Study(3, 1, spaced=True)),  # noqa: RUF001
        (r"[^\s]x", Study(2, 1, spaced=False)),
        (r"[^a]x", Study(2, 1, spaced=True)),
        (r"[\t-z]x", Study(2, 1, spaced=True)),
        (r"\W.", Study(2, 1, spaced=True)),
        ("a+", Study(None, 256, spaced=False)),
        ("abc|de", Study(3, 2, spaced=False)),
        ("(?>a{1,2})b++", Study(None, 512, spaced=False)),
    ],
)
def test_an_expression_is_studied(pattern: str, expected: Study) -> None:
    assert study(pattern) == expected


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|a){60}", "(a?){60}a", "(?:a{1,9}){1,9}" * 3, "(.*.*)x"])
def test_a_catastrophic_expression_has_very_many_ways(pattern: str) -> None:
    assert study(f"x{pattern}").ways > 65_536


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(secret", "no regular expression"),
        ("[", "no regular expression"),
        ("x*", "empty text"),
        ("(?:)", "empty text"),
        (r"(a)\1", "looks around"),
        ("a(?=secret)", "looks around"),
        ("(?<!a)secret", "looks around"),
        ("^secret", "leave them out"),
        ("secret$", "leave them out"),
        (r"secret\Z", "leave them out"),
    ],
)
def test_what_cannot_be_bounded_or_streamed_is_refused_without_quoting_it(pattern: str, problem: str) -> None:
    """E-69."""
    with pytest.raises(ConfigurationError, match=problem) as refused:
        study(pattern)
    assert "secret" not in str(refused.value)


@given(st.integers(0, 6), st.integers(0, 6), st.sampled_from([("a", 1), ("(?:ab|cd)", 2), ("(?:a{1,2}|c)", 3)]))
def test_the_ways_of_a_repetition_are_the_powers_of_those_of_what_it_repeats(
    least: int, more: int, body: tuple[str, int]
) -> None:
    pattern, ways = body
    expected = sum(ways**count for count in range(least, least + more + 1))
    assert study(f"x{pattern}{{{least},{least + more}}}").ways == expected
