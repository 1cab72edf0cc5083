"""A text redacted while it arrives is the text redacted at once, whatever the pieces."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.text.hold import HOLD_CHARS_MAX, OVERLONG, TextStream, join
from tenantguard.rules.redaction.text.rule import ResponseScrub, TextRule, apply, text_edits
from tenantguard.rules.secrets import pem


def stream(rule: TextRule, pieces: list[str], most: int = HOLD_CHARS_MAX) -> str:
    text = TextStream(rule)
    out = []
    for piece in pieces:
        out.append(join(text.feed(piece)))
        assert text.held <= most
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


def test_capitals_leave_once_a_small_letter_follows(tools: Any) -> None:
    text = TextStream(tools.scrub())
    assert [join(text.feed(piece)) for piece in ("I", " ", " ", "a", "m OK", "\ns", "o")] == [
        "", "", "", "I  ", "am ", "OK\n", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "said", ["AB 1", "AB C", "AB é", "DE89 ABCD e", "EXT a", "X a", "A1 b", "АБ b", "A. b", "ABCD-"]
)
def test_other_capitals_wait_for_the_word_that_ends_them(tools: Any, said: str) -> None:
    assert join(TextStream(tools.scrub()).feed(said)) == ""


CODES = re.compile(r"(?<!\w)[A-Z]{1,4}(?: [A-Z0-9]{1,4}){1,4}(?!\w)")


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("AAB  c1\n，/+"), max_size=600), places=st.lists(st.integers(min_value=0)))  # noqa: RUF001
def test_values_that_begin_with_capitals_are_found_at_every_split(tools: Any, text: str, places: list[int]) -> None:
    def search(text: str) -> list[Match]:
        return [Match("CODE", *found.span(), 1.0) for found in CODES.finditer(text)]

    def rule() -> ResponseScrub:
        return ResponseScrub(tools.detecting(search), tools.vault(), restore=False)

    at_once = stream(rule(), [text])
    assert stream(rule(), tools.cut(text, places)) == at_once
    assert stream(rule(), list(text)) == at_once
    if len(text) <= HOLD_CHARS_MAX:
        assert at_once == apply(text, text_edits(rule(), text))


def test_capitals_too_many_for_the_bound_are_cut_where_they_are_character_by_character(tools: Any) -> None:
    for count in range(HOLD_CHARS_MAX - 4, HOLD_CHARS_MAX + 5):
        text = "1" * (count - 3) + " AB cd " + "1" * count
        assert stream(tools.scrub(), [text]) == stream(tools.scrub(), list(text))


def test_a_placeholder_leaves_with_the_separator_behind_it(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    text = TextStream(tools.scrub(vault, restore=True))
    assert join(text.feed(f"to {token}, ")) == "to a@b.io, "
    assert join(text.feed(f"{token}+1 415 ")) == ""
    assert join(text.feed("555-2671 now ")).startswith("a@b.io<PHONE_NUMBER_")


def test_a_long_run_without_separators_does_not_grow_the_buffer(tools: Any) -> None:
    assert stream(tools.scrub(), ["b" * 50] * 100) == "b" * 5000


def test_a_long_piece_costs_linear_time(tools: Any) -> None:
    rule = ResponseScrub(tools.detecting(lambda _: []), Vault(b"k" * 32), restore=False)
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


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_listed_phrases_are_found_at_every_split(tools: Any, data: st.DataObject) -> None:
    listed = ("hello a", "call write to me please now", "I don't", "4111 hello", "to")
    words = st.sampled_from(["hello", "a", "call", "write", "to", "me", "please", "now", "I", "don't", *listed])
    parts = data.draw(st.lists(st.tuples(words | st.just("a@b.io"), st.sampled_from([" ", " ", ", ", "\n"]))))
    text = "".join("".join(part) for part in parts) + data.draw(tools.prose)[:100]
    whole = apply(text, text_edits(tools.phrases(*listed), text))
    assert stream(tools.phrases(*listed), tools.cut(text, data.draw(tools.places)), most=1024) == whole
    assert stream(tools.phrases(*listed), list(text), most=1024) == whole


def test_phrases_that_overlap_without_end_are_replaced_in_parts(tools: Any) -> None:
    text = "tick tock " * 500 + "done with it all"
    rule = tools.phrases("tick tock tick", "tock tick tock")
    pieces = {
        re.sub(r"<[^>]*>", "#", stream(rule, [text[at : at + size] for at in range(0, len(text), size)], most=1024))
        for size in (1, 7, 5000)
    }
    assert len(pieces) == 1
    said = pieces.pop()
    assert said.endswith("# done with it all")
    assert "tick" not in said


KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA/+longwordsonly\n" * 40 + "-----END RSA PRIVATE KEY-----"


def keys(tools: Any) -> TextRule:
    def search(text: str) -> list[Match]:
        begins = [found.start() for found in pem.BEGIN.finditer(text)]
        return [Match(pem.PRIVATE_KEY, begin, pem.block_end(text, begin), 1.0) for begin in begins[:1]]

    return ResponseScrub(tools.detecting(search), tools.vault(), restore=False)


@pytest.mark.parametrize(
    "text",
    [
        f"here it is: {KEY} and more",
        f"{KEY}\n",
        KEY[:200],
        f"mine -----BEGIN is no key, {KEY}",
        "-----BEGIN PUBLIC KEY-----\nMIIEpAIBAAKCAQEA and so on",
        "-----BEGIN RSA PRIVATE KEY----- is how it begins, he said, and went on to talk about other things for long",
        "-----BEGIN " + "PRIVATE KEY " * 40 + "end",
        "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA " * 2000 + "and the end",
        "so -----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA" * 2000 + " and the end",
    ],
)
def test_a_private_key_is_one_placeholder_at_every_split(tools: Any, text: str) -> None:
    """C-39."""
    whole = apply(text, text_edits(keys(tools), text))
    most = pem.PEM_CHARS_MAX + HOLD_CHARS_MAX + 4096
    assert stream(keys(tools), list(text), most=most) == stream(keys(tools), [text], most=most) == whole
    if len(text) < 3000:
        for at in range(0, len(text), 3):
            assert stream(keys(tools), [text[:at], text[at:]], most=most) == whole


def test_a_label_alone_holds_nothing_back_for_long(tools: Any) -> None:
    text = TextStream(keys(tools))
    assert join(text.feed("-----BEGIN CERTIFICATE-----\nabcdefgh of it ")).startswith("-----BEGIN CERTIFICATE-----\n")


def test_a_match_that_began_in_what_has_left_is_replaced_from_there_on(tools: Any) -> None:
    def search(text: str) -> list[Match]:
        at = text.find("word secret")
        return [Match("X", at, at + 11, 1.0)] if at >= 0 else []

    rule = ResponseScrub(tools.detecting(search), tools.vault(), restore=False)
    assert stream(rule, ["word ", "secret"]).startswith("word <X_")
