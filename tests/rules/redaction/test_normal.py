"""Text that is written to be overlooked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.redaction.text.normal import Normalized

HIDING = st.sampled_from(["\u200b", "\u2060", "\ufeff", "\u00ad", ""])


def wide(text: str) -> str:
    """The full-width form of ASCII."""
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def found(tools: Any, text: str) -> list[str]:
    normalized = Normalized(tools.detecting(tools.detect))
    matches = normalized.detect(text)
    if matches:
        assert not normalized.clears(text)
    return [text[match.start : match.end] for match in matches]


@pytest.mark.parametrize(
    "text",
    [
        wide("ann@example.com"),
        "an\u200bn@exam\u200dple.com",
        "ann\uff20example.com",
        "a\u00adnn@example.c\u2060om",
    ],
)
def test_a_value_is_found_as_it_is_read_and_replaced_as_it_is_written(tools: Any, text: str) -> None:
    """E+15."""
    assert found(tools, f"to {text}, \u00e9") == [text]


def test_a_character_without_a_width_that_parts_words_hides_nothing() -> None:
    class Glued:
        reach = passed = 0

        def clears(self, text: str) -> bool:
            return False

        def detect(self, text: str, after: int = 0) -> list[Match]:
            return [Match("N", *found.span(), 1.0) for found in re.finditer(r"\b4111\b", text)]

    text = "foo\u200b4111"
    assert [text[match.start : match.end] for match in Normalized(Glued()).detect(text)] == ["4111"]


@given(st.data())
def test_whatever_is_put_between_its_characters_a_value_is_found_whole(tools: Any, data: st.DataObject) -> None:
    value = "ann@example.com"
    hidden = value[0] + "".join(data.draw(HIDING) + char for char in value[1:])
    before, after = (
        data.draw(st.sampled_from(["", "caf\u00e9 ", "\u200b "])),
        data.draw(st.sampled_from(["", " \u3042"])),
    )
    assert found(tools, before + hidden + after) == [hidden]


def test_ascii_is_searched_once(tools: Any) -> None:
    asked: list[str] = []

    def detect(text: str) -> list[Match]:
        asked.append(text)
        return []

    normalized = Normalized(tools.detecting(detect))
    normalized.detect("plain")
    normalized.detect("caf\u00e9")
    assert asked == ["plain", "caf\u00e9"]


def test_clean_text_is_cleared_however_it_is_written(tools: Any) -> None:
    normalized = Normalized(tools.detecting(tools.detect))
    assert normalized.clears(wide("clean"))
    assert not normalized.clears(wide("ann@example.com"))
