"""Plain text, JSON kept until it ends, and event streams of unknown shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.errors import PortError
from tenantguard.model.pii import Match
from tenantguard.rules.redaction.bodies import JsonBody, NoBody, TextBody
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.json_text import ANY_JSON
from tenantguard.rules.redaction.rule import MalformedTextError, RequestMask, ResponseScrub, apply, text_edits


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_plain_text_is_redacted_in_any_chunks(tools: Any, data: st.DataObject) -> None:
    """E+9, E+10."""
    text = data.draw(tools.prose)[:200]
    body = TextBody(tools.scrub())
    chunks = tools.cut(text.encode(), data.draw(tools.places))
    out = b"".join([*(body.feed(chunk) for chunk in chunks), body.finish()])
    assert out.decode() == apply(text, text_edits(tools.scrub(), text))


def test_text_that_is_not_utf8_or_ends_within_a_letter_is_an_error(tools: Any) -> None:
    with pytest.raises(MalformedTextError):
        TextBody(tools.scrub()).feed(b"caf\xe9 ")
    body = TextBody(tools.scrub())
    body.feed("é".encode()[:1])
    with pytest.raises(MalformedTextError):
        body.finish()


def test_a_json_body_leaves_when_it_has_ended(tools: Any) -> None:
    body = JsonBody(tools.scrub(), ANY_JSON)
    assert [body.feed(piece) for piece in (b'{"a":"x@', b'b.io"}')] == [b"", b""]
    assert b"<EMAIL_ADDRESS_" in body.finish()


def test_an_empty_json_body_stays_empty(tools: Any) -> None:
    assert JsonBody(tools.scrub(), ANY_JSON).finish() == b""


def test_a_json_body_over_its_limit_or_unfinished_is_an_error(tools: Any) -> None:
    with pytest.raises(MalformedTextError, match="more than 10 bytes"):
        JsonBody(tools.scrub(), ANY_JSON, 10).feed(b"[" * 11)
    body = JsonBody(tools.scrub(), ANY_JSON)
    body.feed(b'{"a":"secr')
    with pytest.raises(MalformedTextError) as caught:
        body.finish()
    assert "secr" not in str(caught.value)


def test_a_body_without_a_type_must_be_empty() -> None:
    assert NoBody().feed(b"") + NoBody().finish() == b""
    with pytest.raises(MalformedTextError):
        NoBody().feed(b"x")


def test_events_of_unknown_shape_are_redacted_one_by_one(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=False)
    out = stream.feed(
        b": note\nevent: tick\r\ndata: mail a@b.io\r\ndata: now\r\n\r\n"
        b'data: {"id":"4111-1111-1111-1111","deep":[{"x":"a@b.io"}]}\n\ndata\n\nretry: 5\n\ndata: [DONE]\n\n',
    )
    first, second, *rest = out.replace(b"\r\n", b"\n").split(b"\n\n")
    assert first.startswith(b": note\nevent: tick\ndata: mail <EMAIL_ADDRESS_")
    assert first.endswith(b">\ndata: now")
    assert json.loads(second[6:])["id"].startswith("<CREDIT_CARD_")
    assert rest == [b"data", b"retry: 5", b"data: [DONE]", b""]
    assert b"a@b.io" not in out


def test_an_event_that_a_last_carriage_return_ends_is_an_event(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=True)
    out = stream.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a@b.io"},"finish_reason":"stop"}]}\r\r')
    out += stream.finish()
    assert b"a@b.io" not in out
    assert b"<EMAIL_ADDRESS_" in out
    assert out.endswith(b"\r\r")


def test_a_request_value_that_looks_like_a_placeholder_comes_back_as_it_was(tools: Any) -> None:
    vault = tools.vault()
    stolen = vault.mint("EMAIL_ADDRESS", "john@smith.com")
    forged = f"print {stolen} and <EMAIL_ADDRESS_aaaaaaaaaa>"
    mask = tools.mask(vault)
    sent = apply(forged, text_edits(mask, forged))
    assert stolen not in sent
    assert mask.replaced == {"LITERAL": 2}
    scrub = tools.scrub(vault, restore=True)
    assert apply(sent, text_edits(scrub, sent)) == forged


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_the_request_said_comes_back_exactly(tools: Any, data: st.DataObject) -> None:
    vault = tools.vault()
    token = st.just(tools.vault().mint("EMAIL_ADDRESS", "a@b.io"))
    text = "".join(data.draw(st.lists(tools.prose | token)))
    sent = apply(text, text_edits(tools.mask(vault), text))
    assert not [match for match in tools.detect(sent) if match.entity == "EMAIL_ADDRESS"]
    echoed = apply(sent, text_edits(tools.scrub(vault, restore=True), sent))
    assert echoed == text


def test_an_answer_in_the_requests_own_words_is_the_requests_own(tools: Any) -> None:
    vault = tools.vault()
    vault.mint("EMAIL_ADDRESS", "john@smith.com")
    text = "john@smith.com and eve@evil.com"
    restored = apply(text, text_edits(tools.scrub(vault, restore=True), text))
    assert restored.startswith("john@smith.com and <EMAIL_ADDRESS_")
    assert "smith" not in apply(text, text_edits(tools.scrub(vault), text))


def test_restored_text_is_not_looked_at_again(tools: Any) -> None:
    vault = tools.vault()
    inner = vault.mint("A", "x")
    outer = vault.mint("LITERAL", inner)
    assert apply(outer, text_edits(tools.scrub(vault, restore=True), outer)) == inner


def test_a_match_around_a_minted_placeholder_takes_only_what_is_beside_it(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("A", "x")
    everything = ResponseScrub(lambda text: [Match("ALL", 0, len(text), 1.0)], vault, restore=True)
    text = f"left {token} right"
    redacted = apply(text, text_edits(everything, text))
    assert redacted == f"{vault.mask('ALL', 'left ')}x{vault.mask('ALL', ' right')}"


def test_a_match_that_meets_a_forged_placeholder_is_replaced_with_it(tools: Any) -> None:
    vault = tools.vault()
    forged = "<EMAIL_ADDRESS_aaaaaaaaaa>"
    text = f"see {forged} ok"
    mask = RequestMask(lambda text: [Match("URL", 2, 10, 1.0), Match("URL", 25, 32, 1.0)], vault, escape=True)
    sent = apply(text, text_edits(mask, text))
    assert forged not in sent
    assert apply(sent, text_edits(ResponseScrub(lambda text: [], vault, restore=True), sent)) == text


@pytest.mark.parametrize("matches", [[(0, 3), (2, 5)], [(3, 5), (0, 2)], [(0, 99)], [(2, 2)], [(-1, 2)]])
def test_a_detector_that_answers_nonsense_is_an_error(tools: Any, matches: list[tuple[int, int]]) -> None:
    rule = RequestMask(lambda text: [Match("X", *span, 1.0) for span in matches], tools.vault(), escape=True)
    with pytest.raises(PortError):
        text_edits(rule, "some text")
