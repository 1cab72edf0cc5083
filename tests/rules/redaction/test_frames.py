"""The messages of a WebSocket, each redacted by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.fields import Scope
from tenantguard.rules.redaction.frames import MessageText
from tenantguard.rules.redaction.json_text import LLM_JSON
from tenantguard.rules.redaction.text.rule import MalformedTextError, apply, text_edits


@given(data=st.data())
def test_text_is_redacted_in_json_and_outside_of_it(tools: Any, data: st.DataObject) -> None:
    text = data.draw(tools.prose)
    expected = apply(text, text_edits(tools.scrub(), text))
    assert json.loads(MessageText(tools.scrub()).message(json.dumps({"a": [text]}))) == {"a": [expected]}
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        assert MessageText(tools.scrub()).message(text) == expected
        assert MessageText(tools.scrub()).message(text.encode()) == expected.encode()


@pytest.mark.parametrize("text", ["[12:03] mail a@b.io", "{a@b.io}", '"a@b.io" he said', '  {"to":"a\\u0040b.io"}'])
def test_what_only_looks_like_json_is_text(tools: Any, text: str) -> None:
    said = MessageText(tools.scrub()).message(text)
    assert "b.io" not in said
    assert "<EMAIL_ADDRESS_" in said


@pytest.mark.parametrize("text", ['{a: "b\\u0040c.io"}', "[" * 2000 + '"\\u0040"', '["https:\\/\\/b.io",]'])
def test_escapes_in_what_another_reader_may_take_for_json_are_refused(tools: Any, text: str) -> None:
    with pytest.raises(MalformedTextError) as caught:
        MessageText(tools.scrub()).message(text)
    assert "b.io" not in str(caught.value)


@pytest.mark.parametrize("head", ["42", "42/room,17", "451-", "a", " 0"])
def test_json_behind_the_head_of_a_packet_is_json(tools: Any, head: str) -> None:
    message = head + '["say",{"to":"a\\u0040b.io"}]'
    said = MessageText(tools.scrub()).message(message)
    assert isinstance(said, str)
    assert said.startswith(head + '["say",{"to":"<EMAIL_ADDRESS_')
    vault = tools.vault()
    token = vault.mint("X", 'of "two" \\ parts')
    told = MessageText(tools.scrub(vault, restore=True)).message(f'{head}["{token}"]')
    assert isinstance(told, str)
    assert json.loads(told[len(head) :]) == ['of "two" \\ parts']
    assert "b.io" not in MessageText(tools.scrub()).message(f'to/a@b.io,{head}["x"]')


@pytest.mark.parametrize("text", ["to: a\\u0040b.io", "2 [a\\u0040b.io]", '42["a\\u0040b.io",]', "x = 'a\\x40b.io'"])
def test_escapes_hide_nothing_in_other_text(tools: Any, text: str) -> None:
    said = MessageText(tools.scrub()).message(text)
    assert "b.io" not in said
    assert "<EMAIL_ADDRESS_" in said


def test_keys_and_numbers_of_messages_are_redacted_by_option(tools: Any) -> None:
    message = '{"a@b.io":4111111111111111}'
    assert MessageText(tools.scrub()).message(message) == message
    said = MessageText(tools.scrub(), scope=Scope(keys=True, numbers=True)).message(message)
    assert "b.io" not in said
    assert "4111" not in said


def test_binary_messages_are_text_or_refused_or_passed(tools: Any) -> None:
    picture = b"\x89PNG\xff"
    assert MessageText(tools.scrub(), unknown=Unknown.PASS).message(picture) == picture
    for unknown in (Unknown.SCRUB, Unknown.BLOCK):
        with pytest.raises(MalformedTextError):
            MessageText(tools.scrub(), unknown=unknown).message(picture)
    with pytest.raises(MalformedTextError):
        MessageText(tools.scrub(), unknown=Unknown.BLOCK).message(b"text")


def test_a_binary_message_may_end_as_stomp_does_and_is_no_wide_text(tools: Any) -> None:
    frame = b'SEND\nto:/x\n\n{"a":"a\\u0040b.io"}\0\n'
    said = MessageText(tools.scrub()).message(frame)
    assert isinstance(said, bytes)
    assert b"b.io" not in said
    assert said.endswith(b'"}\0\n')
    assert b"b.io" not in MessageText(tools.scrub()).message(b"a@b.io\0")  # type: ignore[operator]
    with pytest.raises(MalformedTextError):
        MessageText(tools.scrub()).message("a@b.io".encode("utf-16-le"))


def test_identifiers_of_a_provider_stay(tools: Any) -> None:
    message = '{"type": "message", "id": "m-4111-1111-1111-1111", "text": "hi"}'
    assert MessageText(tools.scrub(), LLM_JSON).message(message) == message
    assert MessageText(tools.scrub()).message(message) != message
