"""Gemini's streams, as events and as one array: what a client reads is redacted, whatever the chunks and parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.redaction.bodies import WholeBody
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.json_lines import JsonArray
from tenantguard.rules.redaction.json_text import LLM_JSON, rewrite_json
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule, apply, text_edits

HEAD = {"modelVersion": "gemini-3-flash", "responseId": "abc"}


def chunk(text: str, finish: str | None = None, index: int = 0, **part: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text, **part}], "role": "model"}, "index": index}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3}, **HEAD}


def events(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in chunks)


def array(chunks: list[dict[str, Any]]) -> bytes:
    return b"[" + b",\r\n".join(json.dumps(one, indent=2).encode() for one in chunks) + b"\n]\n"


def run(rule: TextRule, stream: bytes, places: list[int], tools: Any) -> list[dict[str, Any]]:
    redacted = EventStream(rule, protocol=True)
    out = b"".join([*map(redacted.feed, tools.cut(stream, places)), redacted.finish()])
    return [json.loads(line.removeprefix("data: ")) for line in out.decode().splitlines() if line]


def run_array(rule: TextRule, body: bytes, places: list[int], tools: Any) -> bytes:
    redacted = JsonArray(rule, WholeBody(lambda data: rewrite_json(data, rule, LLM_JSON)))
    return b"".join([*map(redacted.feed, tools.cut(body, places)), redacted.finish()])


def said(chunks: list[dict[str, Any]], index: int = 0, *, thought: bool = False) -> str:
    return "".join(
        part.get("text", "")
        for one in chunks
        for candidate in one.get("candidates", [])
        if candidate["index"] == index
        for part in candidate.get("content", {}).get("parts", [])
        if part.get("thought", False) is thought
    )


@settings(max_examples=80, deadline=None)
@given(data=st.data(), always=st.booleans())
def test_any_parts_in_any_chunks_give_the_redacted_text(tools: Any, data: st.DataObject, *, always: bool) -> None:
    """E+9, E+10."""
    text = data.draw(tools.prose)[:200]
    parts = tools.cut(text, data.draw(tools.places)) or [""]
    chunks = [chunk(part, "STOP" if always else None) for part in parts]
    chunks[-1] = chunk(parts[-1], "STOP")
    expected = apply(text, text_edits(tools.scrub(), text))
    places = data.draw(tools.places)
    redacted = run(tools.scrub(), events(chunks), places, tools)
    assert said(redacted) == expected
    assert len(redacted) == len(chunks)
    written = run_array(tools.scrub(), array(chunks), places, tools)
    assert said(json.loads(written)) == expected
    assert run_array(tools.scrub(), array(chunks), [], tools) == written


def test_thoughts_and_candidates_are_texts_of_their_own_and_calls_are_redacted(tools: Any) -> None:
    call = {"functionCall": {"name": "mail", "args": {"to": "a@b.io", "deep": [{"x": "4111 1111 1111 1111"}]}}}
    signed = {"text": "", "thoughtSignature": "EqoB+/=="}
    chunks = [
        chunk("mail jo", thought=True), chunk("mail ev"), chunk("mail al", index=1), chunk("hn@a.io", thought=True),
        chunk("e@a.io"), chunk("ice@a.io", index=1),
        {"candidates": [{"content": {"parts": [call, signed]}, "finishReason": "STOP", "index": 0}], **HEAD},
    ]  # fmt: skip
    redacted = run(tools.scrub(), events(chunks), [], tools)
    for text in (said(redacted, thought=True), said(redacted), said(redacted, 1)):
        assert text.startswith("mail <EMAIL_ADDRESS_")
    assert b"a@b.io" not in json.dumps(redacted).encode()
    assert "4111" not in json.dumps(redacted)
    assert "EqoB+/==" in json.dumps(redacted)


def test_a_stream_without_personal_data_keeps_its_bytes(tools: Any) -> None:
    """E-67."""
    chunks = [chunk("Hello "), chunk("dear "), chunk("friend ", "STOP")]
    for body in (array(chunks), b"[]", b" [\n] ", b'{"candidates":[]}', b"", b"[" + b" " * 99 + b"]"):
        assert run_array(tools.scrub(), body, [3, 9, 100], tools) == body
    stream = EventStream(tools.scrub(), protocol=True)
    assert stream.feed(events(chunks)) + stream.finish() == events(chunks)


def test_a_body_that_is_no_array_is_redacted_as_a_whole(tools: Any) -> None:
    for body in (chunk("mail a@b.io"), ["a@b.io"], [["a@b.io"], {}], "a@b.io"):
        for places in ([], [1, 2, 40], list(range(200))):
            redacted = run_array(tools.scrub(), json.dumps(body).encode(), places, tools)
            assert b"a@b.io" not in redacted
            assert b"<EMAIL_ADDRESS_" in redacted


@pytest.mark.parametrize(
    "body",
    [b'[{"a":1},1]', b'[{"a":1}', b'[{"a":1}] x', b'[{"a":"\\"}]', b"[{]}]", b"[{\xff}]", b"[{]", b'[{"a":"'],
)
def test_an_array_that_cannot_be_read_is_an_error(tools: Any, body: bytes) -> None:
    for places in ([], list(range(len(body)))):
        with pytest.raises(MalformedTextError):
            run_array(tools.scrub(), body, places, tools)


def test_an_element_without_end_is_an_error_before_it_fills_the_memory(tools: Any) -> None:
    body = JsonArray(tools.scrub(), WholeBody(bytes), limit=1000)
    assert body.feed(b'[{"a":"' + b"x" * 900) == b"["
    with pytest.raises(MalformedTextError):
        body.feed(b"x" * 200)


def test_a_failure_ends_both_forms_in_their_own_way(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=True)
    stream.feed(events([chunk("Hello ")]))
    error = json.loads(stream.failure("redaction.failed", "sorry").decode().removeprefix("data: "))["error"]
    assert (error["code"], error["message"], error["status"]) == (500, "sorry", "INTERNAL")
    body = JsonArray(tools.scrub(), WholeBody(bytes))
    sent = body.feed(array([chunk("Hello "), chunk("dear ")])[:-3] + b",{")
    assert json.loads(sent + body.failure("redaction.failed", "sorry"))[2]["error"]["message"] == "sorry"


def test_an_index_in_quotes_names_the_same_text(tools: Any) -> None:
    first, second = chunk("ann@smi"), chunk("th.com ")
    second["candidates"][0]["index"] = "0"
    assert "smi" not in repr(run(tools.scrub(), events([first, second]), [], tools))
