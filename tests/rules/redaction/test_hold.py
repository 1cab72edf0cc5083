"""A text redacted while it arrives is the text redacted at once, whatever the pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.hold import HOLD_CHARS_MAX, OVERLONG, TextStream, join
from tenantguard.rules.redaction.rule import ResponseScrub, TextRule, apply, text_edits


def stream(rule: TextRule, pieces: list[str]) -> str:
    text = TextStream(rule)
    out = []
    for piece in pieces:
        out.append(join(text.feed(piece)))
        assert text.held <= HOLD_CHARS_MAX
    return "".join(out) + join(text.finish())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_split_gives_what_the_whole_text_gives(tools: Any, data: st.DataObject) -> None:
    """E+9."""
    text = data.draw(tools.prose)[:HOLD_CHARS_MAX]
    whole = apply(text, text_edits(tools.scrub(), text))
    assert stream(tools.scrub(), tools.cut(text, data.draw(tools.places))) == whole
    assert stream(tools.scrub(), list(text)) == whole


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same_where_text_must_be_cut_by_force(tools: Any, data: st.DataObject) -> None:
    text = data.draw(tools.long)
    at_once = stream(tools.scrub(), [text])
    assert stream(tools.scrub(), tools.cut(text, data.draw(tools.places))) == at_once
    assert stream(tools.scrub(), list(text)) == at_once


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_text_that_came_in(tools: Any, data: st.DataObject) -> None:
    text = data.draw(tools.long)
    redacted = TextStream(tools.scrub())
    pieces = [piece for part in tools.cut(text, data.draw(tools.places)) for piece in redacted.feed(part)]
    assert "".join(piece.source for piece in [*pieces, *redacted.finish()]) == text


@pytest.mark.parametrize(
    "value",
    ["john@smith.com", "4111 1111 1111 1111", "+1 415 555-2671", "DE89 3704 0044 0532 0130 00", "https://e.io/a?b=1"],
)
def test_a_value_is_found_at_every_split_position(tools: Any, value: str) -> None:
    """E+9."""
    text = f"please write {value} down, thanks"
    results = {stream(tools.scrub(), [text[:at], text[at:]]) for at in range(len(text) + 1)}
    assert len(results) == 1
    assert value not in results.pop()


def test_plain_words_leave_as_soon_as_the_next_begins(tools: Any) -> None:
    """E-67."""
    text = TextStream(tools.scrub())
    assert [join(text.feed(piece)) for piece in ["Hello", " dear", " world", "."]] == ["", "Hello ", "dear ", ""]
    assert join(text.finish()) == "world."


def test_digits_wait_for_the_word_that_ends_them(tools: Any) -> None:
    text = TextStream(tools.scrub())
    assert join(text.feed("card 4111 1111 1111 ")) == "card "
    assert join(text.feed("1111 ")) == ""
    assert join(text.feed("is mine ")).endswith("is mine ")


def test_a_placeholder_leaves_with_the_separator_behind_it(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    text = TextStream(tools.scrub(vault, restore=True))
    assert join(text.feed(f"to {token}, ")) == "to a@b.io, "
    assert join(text.feed(f"{token}+1 415 ")) == ""
    assert join(text.feed("555-2671 now ")).startswith("a@b.io<PHONE_NUMBER_")


def test_a_long_run_without_separators_does_not_grow_the_buffer(tools: Any) -> None:
    assert stream(tools.scrub(), ["b" * 50] * 100) == "b" * 5000


def test_a_long_piece_costs_linear_time() -> None:
    rule = ResponseScrub(lambda _: [], Vault(b"k" * 32), restore=False)
    text = "Ab1/" * 500_000
    assert stream(rule, [text]) == text


def test_an_address_that_never_ends_is_replaced_at_once_and_swallowed(tools: Any) -> None:
    rule = tools.scrub()
    text = TextStream(rule)
    said = join(text.feed("see john" + "@a" * 200))
    assert said.startswith(f"see <{OVERLONG}_")
    assert "@" not in said
    assert join(text.feed("a" * 1000)) == ""
    assert join(text.feed(".com, and more ")) == " and more "
    assert rule.replaced == {OVERLONG: 1}


def test_a_long_link_becomes_one_placeholder(tools: Any) -> None:
    rule = tools.scrub()
    link = "https://example.com/" + "p" * 2000
    redacted = stream(rule, [f"go to {link} now"[at : at + 7] for at in range(0, 2100, 7)])
    assert rule.replaced == {"URL": 1}
    assert redacted.startswith("go to <URL_")
    assert redacted.endswith("> now")


def test_cards_in_a_table_longer_than_the_bound_are_all_found(tools: Any) -> None:
    rule = tools.scrub()
    stream(rule, list("4111 1111 1111 1111 | " * 40))
    assert rule.replaced == {"CREDIT_CARD": 40}


def test_a_match_that_began_in_what_has_left_is_replaced_from_there_on(tools: Any) -> None:
    class Late:
        replaced = tools.scrub().replaced

        def find(self, text: str) -> list[Match]:
            at = text.find("word secret")
            return [Match("X", at, at + 11, 1.0)] if at >= 0 else []

        def replace(self, entity: str, value: str) -> str:
            return f"[{value}]"

    assert stream(Late(), ["word ", "secret"]) == "word [secret]"
