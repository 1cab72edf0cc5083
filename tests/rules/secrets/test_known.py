"""Known values: found exactly, the longest first, and never shown."""

from __future__ import annotations

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.rules.secrets.known import KnownSecrets


def test_the_longest_value_comes_first() -> None:
    known = KnownSecrets([("short", "abcd"), ("long one", "abcdefgh")])
    assert known.values == ("abcdefgh", "abcd")
    assert known.entities == {"KNOWN_SHORT", "KNOWN_LONG_ONE"}
    assert list(known.find(0, "xabcdefghx", 0, 10)) == [("KNOWN_LONG_ONE", 1, 9)]


def test_nothing_shows_a_value() -> None:
    known = KnownSecrets([("db", "s3cr3t-value")])
    assert "s3cr3t" not in repr(known)
    assert "KNOWN" not in repr(known)


@pytest.mark.parametrize(("name", "value"), [("db", "abc"), ("db", "  a  "), ("", "abcdef"), ("--", "abcdef")])
def test_what_cannot_be_a_secret_is_refused_without_its_value(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KnownSecrets([(name, value)])
    assert value not in str(refused.value)


def test_a_value_of_four_bytes_is_enough() -> None:
    assert KnownSecrets([("a", "éé")]).values == ("éé",)


def test_only_values_of_several_words_reach_beyond_one() -> None:
    assert KnownSecrets([("a", "abcd.(e)fgh")]).reach == 0
    assert KnownSecrets([("a", "correct horse")]).reach == len("correct horse")
    assert KnownSecrets([("a", "密码，打开门")]).reach == len("密码，打开门")  # noqa: RUF001 - full-width is meant


def test_a_long_value_is_found_by_its_beginning_at_the_end_of_a_text_alone() -> None:
    value = "ab" * 40 + "c" * 80
    known = KnownSecrets([("a", value)])
    for size, found in ((64, [("KNOWN_A", 1, 65)]), (159, [("KNOWN_A", 1, 160)]), (63, [])):
        text = f"x{value[:size]}"
        assert list(known.find(0, text, 0, len(text))) == found
        assert list(known.find(0, f"{text} ", 0, len(text) + 1)) == []


def test_a_long_name_still_fits_a_placeholder() -> None:
    (entity,) = KnownSecrets([("x" * 100, "abcdef")]).entities
    assert len(entity) == 40
