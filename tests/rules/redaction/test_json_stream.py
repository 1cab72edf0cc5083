"""JSON text that arrives in pieces: redacted like the whole text, and JSON all the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.json_stream import JsonTextStream
from tenantguard.rules.redaction.json_text import json_edits, places
from tenantguard.rules.redaction.text.rule import ResponseScrub, TextRule, apply


def stream(rule: TextRule, pieces: list[str]) -> str:
    text = JsonTextStream(rule)
    return "".join([*(text.feed(piece) for piece in pieces), text.finish()])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_any_split_gives_what_the_whole_text_gives(
    tools: Any, data: st.DataObject, *, ascii_only: bool, indent: Any
) -> None:
    """E+9, E+10."""
    prose = tools.prose.map(lambda text: text[:200])
    value = data.draw(st.dictionaries(prose, prose | st.integers() | st.lists(prose | st.none())))
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    whole = apply(text, json_edits(places(text), text, tools.scrub(), keys=True))
    assert stream(tools.scrub(), tools.cut(text, data.draw(tools.places))) == whole
    assert stream(tools.scrub(), list(text)) == whole
    json.loads(whole)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_split_of_any_text_gives_the_same(tools: Any, data: st.DataObject) -> None:
    mark = st.sampled_from(
        ['{"', '":"', '","', '"}', "[", "1,", "tru", "\\u00", "e9", "\\", "\\ud83d", "\\ude00", "5" * 70]
    )
    text = "".join(data.draw(st.lists(mark | tools.prose)))
    at_once = stream(tools.scrub(), [text])
    assert stream(tools.scrub(), tools.cut(text, data.draw(tools.places))) == at_once
    assert stream(tools.scrub(), list(text)) == at_once


@settings(max_examples=100, deadline=None)
@given(data=st.data(), ascii_only=st.booleans())
def test_listed_phrases_are_found_at_every_split(tools: Any, data: st.DataObject, *, ascii_only: bool) -> None:
    listed = ("hello a", "call the Größe", "I don't write")
    words = st.lists(st.sampled_from(["hello", "a", "call", "the", "Größe", "I", "don't", "write", *listed]))
    value = data.draw(st.lists(words.map(" ".join) | tools.prose.map(lambda text: text[:100])))
    text = json.dumps({"to": value}, ensure_ascii=ascii_only)
    whole = apply(text, json_edits(places(text), text, tools.phrases(*listed), keys=True))
    assert stream(tools.phrases(*listed), tools.cut(text, data.draw(tools.places))) == whole
    assert stream(tools.phrases(*listed), list(text)) == whole


def test_an_address_is_found_at_every_split_position_however_it_is_escaped(tools: Any) -> None:
    text = r'{"to": "\u006aohn\u0040smith.com", "\ud83d\ude00": "see \"john@smith.com\""}'
    results = {stream(tools.scrub(), [text[:at], text[at:]]) for at in range(len(text) + 1)}
    assert len(results) == 1
    redacted = results.pop()
    assert "smith" not in redacted
    assert r"\ud83d\ude00" in redacted
    json.loads(redacted)


def test_a_long_piece_costs_linear_time(tools: Any) -> None:
    rule = ResponseScrub(tools.detecting(lambda _: []), Vault(b"k" * 32), restore=False)
    text = json.dumps([{"n": 1, "x": "y"}] * 20_000)
    assert stream(rule, [text]) == text


def test_structure_is_never_held_back(tools: Any) -> None:
    text = JsonTextStream(tools.scrub())
    assert [text.feed(piece) for piece in ['{"a', '": "b', '", "c', '":', " [1", ", 2", "]}"]] == [
        '{"', 'a": "', 'b", "', 'c":', " [", "1, ", "2]}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "write to a@b.io now",
        "'a@b.io'",
        '{"x": a@b.io}',
        '{"x": 415-555-2671 }',
        '["\\q", a@b.io]',
        '{"x": "a@b.io',
        '{"x": "y\na@b.io"}',
        '"a@b.io"',
        "(415) 555-2671",
        '["ok"] a@b.io',
    ],
)
def test_what_is_no_json_is_redacted_as_plain_text(tools: Any, text: str) -> None:
    for pieces in ([text], list(text)):
        redacted = stream(tools.scrub(), pieces)
        assert "a@b.io" not in redacted
        assert "555-2671" not in redacted


def test_restored_values_are_escaped(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("X", 'a "quoted"\n\\ value')
    redacted = stream(tools.scrub(vault, restore=True), list(json.dumps({"x": f"<{token}>"})))
    assert json.loads(redacted) == {"x": '<a "quoted"\n\\ value>'}
