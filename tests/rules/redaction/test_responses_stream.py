"""OpenAI's Responses events: deltas and the whole texts that repeat them say the same, and the SDK takes them all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.text.hold import whole
from tenantguard.rules.redaction.text.rule import TextRule, apply, text_edits

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1700000000, "status": "in_progress", "model": "gpt-5-mini",
    "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "instructions": None,
}  # fmt: skip


class Script:
    """The events of one response, numbered as they are written."""

    def __init__(self) -> None:
        self.number = -1
        self.chunks: list[bytes] = []

    def say(self, kind: str, **fields: Any) -> None:
        self.number += 1
        data = {"type": kind, "sequence_number": self.number, **fields}
        EVENT.validate_python(data)
        self.chunks.append(f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode())

    def message(self, output: int, deltas: list[str], item: str = "msg_1") -> dict[str, Any]:
        """One message; its item as the last event has it."""
        text = "".join(deltas)
        at = {"item_id": item, "output_index": output, "content_index": 0}
        whole = {"id": item, "type": "message", "role": "assistant", "status": "completed"}
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        self.say("response.output_item.added", output_index=output, item={**whole, "content": []})
        self.say("response.content_part.added", part={**part, "text": ""}, **at)
        for delta in deltas:
            self.say("response.output_text.delta", delta=delta, logprobs=[], **at)
        self.say("response.output_text.done", text=text, logprobs=[], **at)
        self.say("response.content_part.done", part=part, **at)
        item_done = {**whole, "content": [part]}
        self.say("response.output_item.done", output_index=output, item=item_done)
        return item_done

    def call(self, output: int, deltas: list[str]) -> dict[str, Any]:
        """One function call."""
        whole = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "mail", "arguments": ""}
        at = {"item_id": "fc_1", "output_index": output}
        self.say("response.output_item.added", output_index=output, item=whole)
        for delta in deltas:
            self.say("response.function_call_arguments.delta", delta=delta, **at)
        text = "".join(deltas)
        self.say("response.function_call_arguments.done", arguments=text, name="mail", **at)
        self.say("response.output_item.done", output_index=output, item={**whole, "arguments": text})
        return {**whole, "arguments": text}

    def complete(self, *output: dict[str, Any]) -> list[bytes]:
        self.say("response.completed", response={**RESPONSE, "status": "completed", "output": list(output)})
        return self.chunks


def run(rule: TextRule, *chunks: bytes) -> bytes:
    stream = EventStream(rule, protocol=True)
    return b"".join([*(stream.feed(one) for one in chunks), stream.finish()])


def read(stream: bytes) -> list[Any]:
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(EVENT.validate_json(data.removeprefix("data: ")))
        assert name == f"event: {events[-1].type}"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def said(events: list[Any], kind: str) -> str:
    return "".join(event.delta for event in events if event.type == f"response.{kind}.delta")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_deltas_and_whole_texts_say_the_redacted_text(tools: Any, data: st.DataObject) -> None:
    """E+9, E-63."""
    text = data.draw(tools.prose)[:200] or "a"
    script = Script()
    stream = b"".join(script.complete(script.message(0, tools.cut(text, data.draw(tools.places)))))
    redacted = run(tools.scrub(), *tools.cut(stream, data.draw(tools.places)))
    events = read(redacted)
    expected = apply(text, text_edits(tools.scrub(), text))
    assert said(events, "output_text") == expected
    by_type = {event.type: event for event in events}
    assert by_type["response.output_text.done"].text == expected
    assert by_type["response.content_part.done"].part.text == expected
    assert by_type["response.output_item.done"].item.content[0].text == expected
    assert by_type["response.completed"].response.output_text == expected
    assert run(tools.scrub(), stream) == redacted


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whole_texts_agree_with_deltas_where_these_are_cut_by_force(tools: Any, data: st.DataObject) -> None:
    text = data.draw(tools.long)[:1500] or "a"
    script = Script()
    script.complete(script.message(0, tools.cut(text, data.draw(tools.places))))
    events = read(run(tools.scrub(), *script.chunks))
    assert said(events, "output_text") == events[-1].response.output_text


def test_arguments_stay_json_in_deltas_and_whole(tools: Any) -> None:
    """E-78."""
    arguments = json.dumps({"to": "john@smith.com", "say": 'a "b" é\n4111 1111 1111 1111'})
    script = Script()
    call = script.call(1, list(arguments))
    events = read(run(tools.scrub(), *script.complete(script.message(0, ["call 415"]), call)))
    written = said(events, "function_call_arguments")
    assert json.loads(written)["to"].startswith("<EMAIL_ADDRESS_")
    last = events[-1].response
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert json.loads(written) == json.loads(last.output[1].arguments) == json.loads(done.arguments)
    assert last.output_text == "call 415"
    assert last.output[1].call_id == "call_1"


def test_what_is_held_leaves_in_an_event_that_the_following_ones_count(tools: Any) -> None:
    script = Script()
    stream = script.complete(script.message(0, ["Hello ", "call 415"]), script.message(1, ["a@b", ".io"], "msg_2"))
    events = read(run(tools.scrub(), *stream))
    assert len(events) == len(stream) + 2
    own = [event for event in events if event.type == "response.output_text.delta"]
    assert [(event.item_id, event.output_index, event.delta) for event in own] == [
        ("msg_1", 0, "Hello "), ("msg_1", 0, "call "), ("msg_1", 0, "415"),
        ("msg_2", 1, ""), ("msg_2", 1, ""), ("msg_2", 1, own[-1].delta),
    ]  # fmt: skip
    assert own[-1].delta.startswith("<EMAIL_ADDRESS_")


def test_deltas_of_one_output_are_one_text_though_each_names_another_item(tools: Any) -> None:
    """E+9: LiteLLM mints an id for every delta of a reasoning."""
    script = Script()
    at = {"output_index": 0, "content_index": 0}
    parts = ("mail jo", "hn@smi", "th.com ", "or 415 ", "555-", "2671")
    for number, part in enumerate(parts):
        script.say("response.output_text.delta", delta=part, logprobs=[], item_id=f"rs_{number}", **at)
    script.say("response.output_text.done", text="".join(parts), logprobs=[], item_id="rs_last", **at)
    events = read(run(tools.scrub(), *script.chunks))
    assert said(events, "output_text") == events[-1].text == whole(tools.scrub(), "".join(parts))
    assert {event.item_id for event in events[:-1]} == {f"rs_{number}" for number in range(len(parts))}


def test_deltas_that_name_no_output_are_told_apart_by_their_items(tools: Any) -> None:
    def delta(number: int, item: str, text: str) -> bytes:
        data = {"type": "response.output_text.delta", "sequence_number": number, "item_id": item, "delta": text}
        return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()

    parts = [("a", "mail john@sm"), ("b", "call 415 555"), ("a", "ith.com "), ("b", "-2671 x ")]
    stream = b"".join(delta(number, *part) for number, part in enumerate(parts))
    redacted = run(tools.scrub(), stream).decode()
    assert not any(part in redacted for part in ("john", "ith.com", "415", "2671"))


def test_token_probabilities_of_changed_text_are_dropped(tools: Any) -> None:
    def spoken(number: int, text: str) -> bytes:
        token = {"token": text, "logprob": -1.0, "top_logprobs": [{"token": text, "logprob": -1.0}]}
        data = {
            "type": "response.output_text.delta", "sequence_number": number, "item_id": "m", "output_index": 0,
            "content_index": 0, "delta": text, "logprobs": [token],
        }  # fmt: skip
        return f"event: response.output_text.delta\ndata: {json.dumps(data)}\n\n".encode()

    events = read(run(tools.scrub(), spoken(0, "clean "), spoken(1, "a@b"), spoken(2, ".io "), spoken(3, "is it ")))
    assert [len(event.logprobs) for event in events] == [1, 0, 0, 0]
    assert events[3].delta.endswith("is it ")


def test_reasoning_refusals_and_other_tools_input_are_channels(tools: Any) -> None:
    kinds = {
        "reasoning_summary_text": ("text", {"item_id": "rs", "output_index": 0, "summary_index": 0}),
        "reasoning_text": ("text", {"item_id": "rs", "output_index": 0, "content_index": 0}),
        "refusal": ("refusal", {"item_id": "m", "output_index": 1, "content_index": 0}),
        "custom_tool_call_input": ("input", {"item_id": "ct", "output_index": 2}),
        "code_interpreter_call_code": ("code", {"item_id": "ci", "output_index": 3}),
    }
    script = Script()
    for kind, (_, at) in kinds.items():
        for part in ("mail jo", "hn@smi", "th.com"):
            script.say(f"response.{kind}.delta", delta=part, **at)
    for kind, (field, at) in kinds.items():
        script.say(f"response.{kind}.done", **{field: "mail john@smith.com"}, **at)
    events = read(run(tools.scrub(), *script.chunks))
    expected = apply("mail john@smith.com", text_edits(tools.scrub(), "mail john@smith.com"))
    for kind, (field, _) in kinds.items():
        assert said(events, kind) == expected
        assert getattr(next(one for one in events if one.type == f"response.{kind}.done"), field) == expected


def test_every_other_string_is_redacted_and_identifiers_stay(tools: Any) -> None:
    script = Script()
    script.say(
        "response.created", response={**RESPONSE, "instructions": "be like a@b.io", "metadata": {"k": "a@b.io"}}
    )
    script.say("error", message="a@b.io is unknown", code="x", param=None)
    redacted = run(tools.scrub(), *script.chunks)
    assert b"a@b.io" not in redacted
    assert read(redacted)[0].response.id == "resp_1"


def test_a_stream_without_personal_data_keeps_its_bytes(tools: Any) -> None:
    """E-67."""
    script = Script()
    stream = b"".join(script.complete(script.message(0, ["Hello ", "dear ", "friend "])))
    assert run(tools.scrub(), stream) == stream


def test_placeholders_are_restored_in_text_and_arguments(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("PERSON", 'Bob "The\nBuilder"')
    script = Script()
    arguments = json.dumps({"to": token})
    call = script.call(1, [arguments[:9], arguments[9:15], arguments[15:]])
    item = script.message(0, [f"to {token[:7]}", f"{token[7:]} it "])
    last = read(run(tools.scrub(vault, restore=True), *script.complete(item, call)))[-1].response
    assert last.output_text == 'to Bob "The\nBuilder" it '
    assert json.loads(last.output[1].arguments) == {"to": 'Bob "The\nBuilder"'}


@pytest.mark.parametrize("events", [0, 3, 9])
def test_a_failure_ends_the_stream_with_a_numbered_error(tools: Any, events: int) -> None:
    script = Script()
    script.complete(script.message(0, ["call 415", "x"]))
    stream = EventStream(tools.scrub(), protocol=True)
    sent = b"".join(map(stream.feed, script.chunks[:events]))
    if not events:
        assert stream.failure("redaction.failed", "sorry") == b""
        return
    last = read(sent + stream.failure("redaction.failed", "sorry"))[-1]
    assert (last.type, last.code, last.message) == ("error", "redaction.failed", "sorry")
