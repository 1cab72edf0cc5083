"""Anthropic's event streams: what the SDK reads is redacted, whatever the chunks and the deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.text.rule import TextRule, apply, text_edits

START = {"type": "message", "id": "msg_1", "role": "assistant", "model": "claude-sonnet-5", "content": []}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(index: int, kind: str = "text", **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def stop(index: int) -> bytes:
    return event("content_block_stop", index=index)


END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}) + event("message_stop")


def run(rule: TextRule, *chunks: bytes) -> bytes:
    stream = EventStream(rule, protocol=True)
    return b"".join([*(stream.feed(one) for one in chunks), stream.finish()])


def read(stream: bytes) -> list[dict[str, Any]]:
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def texts(stream: bytes) -> dict[tuple[int, str], str]:
    said: dict[tuple[int, str], str] = {}
    for one in read(stream):
        part = one.get("delta", {}) if one["type"] == "content_block_delta" else one.get("content_block", {})
        for field in ("text", "thinking", "partial_json"):
            if field in part:
                key = (one["index"], field)
                said[key] = said.get(key, "") + part[field]
    return said


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_deltas_in_any_chunks_give_the_redacted_text(tools: Any, data: st.DataObject) -> None:
    """E+9, E+10, E-63."""
    text = data.draw(tools.prose)[:200]
    parts = tools.cut(text, data.draw(tools.places))
    stream = event("message_start", message=START) + start(0, text="")
    stream += b"".join(delta(0, "text_delta", text=part) for part in parts) + stop(0) + END
    redacted = run(tools.scrub(), *tools.cut(stream, data.draw(tools.places)))
    assert texts(redacted)[0, "text"] == apply(text, text_edits(tools.scrub(), text))
    assert run(tools.scrub(), stream) == redacted


def test_what_is_held_leaves_before_its_block_stops(tools: Any) -> None:
    redacted = run(tools.scrub(), start(1, text="") + delta(1, "text_delta", text="call 415") + stop(1) + END)
    assert [(one["type"], one.get("delta", {}).get("text")) for one in read(redacted)] == [
        ("content_block_start", None),
        ("content_block_delta", "call "),
        ("content_block_delta", "415"),
        ("content_block_stop", None),
        ("message_delta", None),
        ("message_stop", None),
    ]


def test_blocks_are_texts_of_their_own_and_tool_input_stays_json(tools: Any) -> None:
    """E-78."""
    tool = json.dumps({"to": "john@smith.com", "say": '"hi" 4111 1111 1111 1111'})
    events = [start(0, "thinking", thinking="mail ", signature=""), start(1, text="to ")]
    events += [start(2, "tool_use", id="toolu_1", name="mail", input={})]
    events += [delta(0, "thinking_delta", thinking=letter) for letter in "john@smith.com "]
    events += [delta(1, "text_delta", text=letter) for letter in "eve@evil.com"]
    events += [delta(2, "input_json_delta", partial_json=letter) for letter in tool]
    events += [delta(0, "signature_delta", signature="EqoB+/="), stop(0), stop(1), stop(2), END]
    redacted = run(tools.scrub(), *events)
    said = texts(redacted)
    assert said[0, "thinking"].startswith("mail <EMAIL_ADDRESS_")
    assert said[1, "text"].startswith("to <EMAIL_ADDRESS_")
    assert list(json.loads(said[2, "partial_json"])) == ["to", "say"]
    assert b"smith" not in redacted
    assert b"1111" not in redacted
    assert b"EqoB+/=" in redacted


def test_restored_values_are_escaped_in_tool_input_and_not_in_text(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("URL", '"https://x.io"')
    stream = start(0, text="") + delta(0, "text_delta", text=f"see {token}") + stop(0)
    stream += (
        start(1, "tool_use", input={}) + delta(1, "input_json_delta", partial_json=f'{{"a":"{token}"}}') + stop(1)
    )
    said = texts(run(tools.scrub(vault, restore=True), stream))
    assert said[0, "text"] == 'see "https://x.io"'
    assert json.loads(said[1, "partial_json"]) == {"a": '"https://x.io"'}


@pytest.mark.parametrize(
    "one",
    [
        event("message_start", message={**START, "content": [{"type": "text", "text": "a@b.io"}]}),
        start(0, "web_search_tool_result", content=[{"type": "web_search_result", "title": "a@b.io"}]),
        delta(0, "citations_delta", citation={"cited_text": "a@b.io"}),
        delta(0, "something_new", field="a@b.io ") + stop(0),
        event("error", error={"type": "api_error", "message": "a@b.io"}),
        event("something_new", note={"deep": ["a@b.io"]}),
    ],
)
def test_every_other_string_of_an_event_is_redacted(tools: Any, one: bytes) -> None:
    redacted = run(tools.scrub(), one)
    assert b"a@b.io" not in redacted
    assert b"<EMAIL_ADDRESS_" in redacted


def test_a_stream_without_personal_data_keeps_its_events(tools: Any) -> None:
    """E-67."""
    stream = event("message_start", message=START) + start(0, text="") + event("ping")
    stream += delta(0, "text_delta", text="Hello ") + stop(0) + END
    assert run(tools.scrub(), stream) == stream


def test_text_of_a_block_that_never_stops_leaves_with_the_message(tools: Any) -> None:
    for end in (END, event("error", error={"type": "overloaded_error", "message": "busy"}), b""):
        redacted = run(tools.scrub(), start(0, text="") + delta(0, "text_delta", text="call 415") + end)
        assert texts(redacted)[0, "text"] == "call 415"
        assert redacted.endswith(end)


@pytest.mark.parametrize("other", ["textdelta", "", "thinking_delta", "of a@b.io"])
def test_a_text_is_one_whatever_type_its_deltas_say_that_they_are(tools: Any, other: str) -> None:
    """Readers join the texts of a block."""
    stream = start(0, text="") + delta(0, "text_delta", text="mail ann@smi") + delta(0, other, text="th.com or 415")
    redacted = run(tools.scrub(), stream + stop(0) + END)
    assert texts(redacted)[0, "text"].startswith("mail <EMAIL_ADDRESS_")
    assert texts(redacted)[0, "text"].endswith("> or 415")
    assert b"b.io" not in redacted
