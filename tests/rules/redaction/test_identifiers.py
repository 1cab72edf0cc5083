"""What a protocol has of its own is left as it is, and no place to hide a secret."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from typing import Any
from urllib.parse import unquote

import pytest

from tenantguard.model.pii import Match
from tenantguard.rules.media import Content
from tenantguard.rules.redaction.bodies import Passing, Refused, Terms, body_for
from tenantguard.rules.redaction.frames import MessageText
from tenantguard.rules.redaction.json_text import LLM_JSON, rewrite_json
from tenantguard.rules.redaction.text.rule import (
    Identifiers,
    MalformedTextError,
    RequestMask,
    ResponseScrub,
    SecretFoundError,
    TextRule,
)

KEY = "sk-a1B2c3D4e5F6g7H8"
CLEAN = "chatcmpl-a1B2c3D4e5F6g7H8"


def run(rule: TextRule, stream: bytes, kind: str = "text/event-stream", size: int = 1 << 20) -> bytes:
    body = body_for(Content(kind), rule, Terms(model_call=True))
    assert not isinstance(body, Passing | Refused)
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    return b"".join([*map(body.feed, chunks), body.finish()])


@pytest.mark.parametrize(
    "body",
    [
        {"model": KEY}, {"id": KEY, "choices": []}, {"messages": [{"role": KEY, "content": "hi"}]},
        {"messages": [{"tool_calls": [{"id": f"call:{KEY}", "function": {"arguments": "{}"}}]}]},
        {"model": KEY, "input": {"a": "b"}}, {"type": KEY, "text": "a@b.io"},
    ],
)  # fmt: skip
def test_a_secret_in_a_field_of_the_protocols_own_is_replaced_or_refused(tools: Any, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    assert KEY.encode() not in rewrite_json(data, tools.guarding(), LLM_JSON)
    with pytest.raises(SecretFoundError) as caught:
        rewrite_json(data, tools.refusing("API_KEY"), LLM_JSON)
    assert caught.value.location
    assert KEY not in caught.value.location
    assert json.dumps(body).replace(KEY, CLEAN).encode() in {
        rewrite_json(data.replace(KEY.encode(), CLEAN.encode()), tools.guarding(), LLM_JSON),
        json.dumps({"type": CLEAN, "text": "a@b.io"}).encode(),
    }


def test_a_secret_in_what_json_rpc_has_of_its_own_is_replaced(tools: Any) -> None:
    call = {"jsonrpc": "2.0", "id": KEY, "method": KEY, "params": {"name": KEY, "arguments": {"to": "a@b.io"}}}
    assert KEY.encode() not in rewrite_json(json.dumps(call).encode(), tools.guarding(), None)
    assert KEY not in MessageText(tools.guarding(), LLM_JSON).message(f'{{"id": "{KEY}", "text": "a@b.io"}}')  # type: ignore[operator]


def chat(content: str, **head: Any) -> dict[str, Any]:
    return {"id": CLEAN, "model": "m", "choices": [{"index": 0, "delta": {"content": content}}], **head}


def sse(*events: dict[str, Any], names: str = "") -> bytes:
    return b"".join(f"{names}data: {json.dumps(one)}\n\n".encode() for one in events)


def anthropic(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}, **more}


def responses(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "delta": text, **more}


@pytest.mark.parametrize(
    "stream",
    [
        sse(chat("one "), chat("two ", model=KEY), chat("three ")),
        sse(chat("one ", id=KEY), chat("two ", id=KEY), chat("three ", id=KEY)),
        sse(*(chat("one ", obfuscation=KEY if at == 3 else "x") for at in range(6))),
        sse(anthropic("one "), anthropic("two "), names=f"event: {KEY}\n"),
        sse(anthropic("one "), names="event: e\n") + sse(anthropic("two "), anthropic("more "), names=f"id: {KEY}\n"),
        sse(anthropic("one ", id=KEY), anthropic("two ", delta={"type": KEY, "text": "two "})),
        sse(responses("one "), responses("two ", item_id=KEY), responses("three ", item_id=KEY)),
        sse({"strange": "x", "id": KEY}, {"error": {"type": KEY}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_no_stream_tells_a_secret_in_the_protocols_own(tools: Any, stream: bytes, size: int) -> None:
    said = run(tools.guarding(), stream, size=size)
    assert KEY.encode() not in said
    for word in (b"one ", b"two ", b"three "):
        assert said.count(word) == stream.count(word)
    clean = stream.replace(KEY.encode(), CLEAN.encode())
    assert run(tools.guarding(), clean, size=size) == clean


def test_whole_events_are_read_at_a_glance_only_where_their_identifier_is_too_short_for_a_secret(tools: Any) -> None:
    events = [chat("one ", obfuscation=KEY if at == 3 else "x") for at in range(6)]
    body = body_for(Content("text/event-stream"), tools.guarding(), Terms(model_call=True))
    assert not isinstance(body, Passing | Refused)
    assert KEY.encode() not in b"".join([body.feed(sse(one)) for one in events])


def test_lines_and_elements_tell_none_either(tools: Any) -> None:
    lines = b"".join(
        json.dumps({"model": model, "message": {"content": "a "}, "done": False}).encode() + b"\n"
        for model in ("m", KEY, "m")
    )
    assert KEY.encode() not in run(tools.guarding(), lines, "application/x-ndjson")
    element = {"candidates": [{"content": {"parts": [{"text": "a "}]}}], "modelVersion": KEY}
    assert KEY.encode() not in run(tools.guarding(), json.dumps([element, element]).encode(), "application/json")


def test_what_is_held_where_events_name_a_secret_leaves_in_no_event_of_our_own(tools: Any) -> None:
    with pytest.raises(MalformedTextError) as caught:
        run(tools.guarding(), sse(chat("call 415", id=KEY)) + b"data: [DONE]\n\n")
    assert KEY not in str(caught.value)
    assert b'"415"' in run(tools.guarding(), sse(chat("call 415")) + b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", f'{{"{KEY}": 1, "a": [{{"{KEY}": "a@b.io"}}]}}'),
        ("application/json", f'{{"{KEY}": {{}}}}'),
        ("application/x-www-form-urlencoded", f"a=b&{KEY.replace('-', '%2D')}=1&{KEY}=2"),
        ("multipart/form-data", f'--x\r\nContent-Disposition: form-data; name="{KEY}"\r\n\r\nx\r\n--x--\r\n'),
        ("text/event-stream", f'data: {{"choices":[{{"index":0,"delta":{{"{KEY}":"a "}}}}]}}\n\n'),
        ("application/x-ndjson", f'{{"{KEY}":1}}\n'),
    ],
)  # fmt: skip
def test_a_key_or_name_is_no_place_to_hide_a_secret(tools: Any, kind: str, body: str) -> None:
    for rule in (tools.guarding(), tools.refusing("API_KEY")):
        made = body_for(Content(kind, boundary="x"), rule, Terms())
        assert not isinstance(made, Passing | Refused)
        if isinstance(rule, RequestMask):
            with pytest.raises(SecretFoundError):
                made.feed(body.encode()) + made.finish()
        else:
            said = made.feed(body.encode()) + made.finish()
            assert b"API_KEY" in said
            assert KEY[4:] not in unquote(said.decode())


@pytest.mark.parametrize("pin", ["k9-x", "z9Y8x7W6v5U4t3S"])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
def test_a_known_secret_is_found_in_an_identifier_however_short_it_is(tools: Any, pin: str, kind: str) -> None:
    """Also where the event is like those before it."""

    def pins(text: str) -> list[Match]:
        return [Match("KNOWN_PIN", *found.span(), 1.0) for found in re.finditer(pin, text)]

    rule = tools.scrub(identifiers=Identifiers(lambda: tools.detecting(pins), {"KNOWN_PIN"}, len(pin)))
    body = body_for(Content(kind), rule, Terms(model_call=True))
    assert not isinstance(body, Passing | Refused)
    begin = "" if kind == "application/x-ndjson" else "data: "
    events = [f"{begin}{json.dumps(chat('a ', obfuscation=one))}\n\n" for one in ("x", "yz", pin, f"{pin}7", "z")]
    said = b"".join([*(body.feed(event.encode()) for event in events), body.finish()]).decode()
    assert pin not in said
    assert said.count("<KNOWN_PIN_") == 2


TOKEN = b64encode(bytes(range(256)) * 2).decode()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", f'{{"SessionToken": "{TOKEN}", "of": [1]}}'),
        ("application/json", f'{{"jsonrpc": "2.0", "result": {{"token": "{TOKEN}"}}}}'),
        ("application/json", json.dumps({"arguments": json.dumps({"a": TOKEN})})),
        ("application/x-www-form-urlencoded", f"a={TOKEN.replace('+', '%2B').replace('/', '%2F')}"),
        ("text/event-stream", f'data: {{"a": "{TOKEN}"}}\n\n'),
        ("application/x-ndjson", f'{{"a": "{TOKEN}"}}\n'),
    ],
)
@pytest.mark.parametrize("terms", [Terms(), Terms(model_call=True)], ids=["any", "model"])
def test_a_known_secret_is_found_though_it_looks_like_a_binary_value(
    tools: Any, kind: str, body: str, terms: Terms
) -> None:
    """A token of some hundred characters is base64 of nothing that can be read, as a small picture is."""

    def tokens(text: str) -> list[Match]:
        return [Match("KNOWN_TOKEN", *found.span(), 1.0) for found in re.finditer(re.escape(TOKEN), text)]

    identifiers = Identifiers(lambda: tools.detecting(tokens), {"KNOWN_TOKEN"}, len(TOKEN))
    rule = ResponseScrub(tools.detecting(tokens), tools.vault(), restore=False, identifiers=identifiers)
    made = body_for(Content(kind), rule, terms)
    assert not isinstance(made, Passing | Refused)
    said = unquote((made.feed(body.encode()) + made.finish()).decode())
    assert said.count("<KNOWN_TOKEN_") == 1
    assert TOKEN[8:24] not in said


def test_a_key_hides_no_known_secret_behind_escapes_in_any_event_of_a_stream(tools: Any) -> None:
    def words(text: str) -> list[Match]:
        return [Match("KNOWN_WORD", *found.span(), 1.0) for found in re.finditer("hunter", text)]

    rule = tools.scrub(identifiers=Identifiers(lambda: tools.detecting(words), {"KNOWN_WORD"}, 6))
    event = sse(chat("a ", hunter=1)).replace(b"hunter", b"h\\u0075nter")
    said = run(rule, event * 5)
    assert said.count(b"<KNOWN_WORD_") == 5
    assert b"nter" not in said
