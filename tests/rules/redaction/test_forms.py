"""Events of one form are read once: what is learned of one event never changes what is made of another."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.redaction.events import EventStream, json_events
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule

TEXTS = st.sampled_from([
    "", "Hi ", "write to john@", "smith.com", " a@b.io ", '"', "\\", "\n", "é", "\ud83d", '{"to":',
    '"a@b.io"}', "stop", "x",
])  # fmt: skip
NAMES = st.sampled_from(["m", "gpt-5", "a@b.io", "two words"])
INDEX = st.sampled_from([0, 1, "0", "1", None, {"a": "0"}, {"a": "1"}])


def openai(
    name: str, index: Any, field: str, said: str, more: str, *, ended: bool = False, **rest: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": {field: said}, "finish_reason": more if ended else None}
    return {"id": "c", "model": name, "choices": [choice], "obfuscation": more, **rest}


def tool(name: str, index: Any, said: str, more: str) -> dict[str, Any]:
    call = {"index": index, "id": more, "type": "function", "function": {"name": name, "arguments": said}}
    return {"model": name, "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def anthropic(kind: str, index: Any, delta: str, field: str, said: str) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"type": delta, field: said}}


FIELDS = st.sampled_from(["content", "refusal", "role"])
KINDS = st.sampled_from(["content_block_delta", "content_block_stop", "message_stop", "error", "other"])
OPENAI = st.lists(
    st.builds(openai, NAMES, INDEX, FIELDS, TEXTS, TEXTS)
    | st.builds(partial(openai, ended=True), NAMES, INDEX, FIELDS, TEXTS, TEXTS)
    | st.builds(openai, NAMES, INDEX, FIELDS, TEXTS, TEXTS, logprobs=st.just({"content": ["a"]}))
    | st.builds(tool, NAMES, INDEX, TEXTS, TEXTS)
)
ANTHROPIC = st.lists(
    st.builds(
        anthropic, KINDS, INDEX, st.sampled_from(["text_delta", "thinking_delta"]),
        st.sampled_from(["text", "thinking", "partial_json"]), TEXTS,
    )
)  # fmt: skip


def responses(kind: str, number: Any, index: Any, said: str, item: str, **rest: Any) -> dict[str, Any]:
    place = {"item_id": item, "output_index": index, "content_index": 0}
    return {"type": f"response.output_text.{kind}", "sequence_number": number, **place, kind: said, **rest}


def gemini(index: Any, said: str, thought: bool, finish: Any, count: int) -> dict[str, Any]:  # noqa: FBT001
    part = {"text": said, "thought": thought}
    candidate = {"content": {"parts": [part], "role": "model"}, "index": index, "finishReason": finish}
    return {"candidates": [candidate], "usageMetadata": {"totalTokenCount": count}, "modelVersion": "g"}


NUMBERS = st.integers(min_value=0, max_value=12) | st.sampled_from([1.5, -1, "3", None, 10**20])
RESPONSES = st.lists(
    st.builds(responses, st.sampled_from(["delta", "done"]), NUMBERS, INDEX, TEXTS, NAMES)
    | st.builds(responses, st.just("delta"), NUMBERS, INDEX, TEXTS, NAMES, logprobs=st.sampled_from([[], ["a@b.io"]]))
)
GEMINI = st.lists(
    st.builds(gemini, INDEX, TEXTS, st.booleans(), st.sampled_from([None, "STOP"]), st.integers(min_value=0))
)


def feed(rule: TextRule, chunks: list[bytes], forms: int | None) -> list[bytes]:
    """What leaves after each chunk; None: events have no form, so each is read place by place."""
    with pytest.MonkeyPatch.context() as patch:
        if forms is None:
            patch.setattr(json_events, "read_mould", lambda *_: None)
        else:
            patch.setattr(json_events, "_FORMS_MAX", forms)
        stream = EventStream(rule, protocol=True)
        return [*map(stream.feed, chunks), stream.finish()]


def test_a_text_ends_with_a_reason_to_finish_though_events_before_it_had_an_empty_one(tools: Any) -> None:
    texts = ("m", "", ""), ("gpt-5", "", ""), ("gpt-5", "write to john@", "stop")
    said = [openai(name, 0, "refusal", text, reason, ended=True) for name, text, reason in texts]
    chunks = [f"data: {json.dumps(one)}\n\n".encode() for one in said]
    assert feed(tools.scrub(), chunks, 16) == feed(tools.scrub(), chunks, None)


@settings(deadline=None)
@given(said=OPENAI | ANTHROPIC | RESPONSES | GEMINI)
def test_an_event_becomes_what_it_becomes_to_who_has_seen_no_other(tools: Any, said: list[dict[str, Any]]) -> None:
    chunks = [f"data: {json.dumps(one)}\n\n".encode() for one in said]
    plain = tools.scrub()
    expected = feed(plain, chunks, None)
    for forms in (0, 1, 16):
        rule = tools.scrub()
        assert feed(rule, chunks, forms) == expected
        assert rule.replaced == plain.replaced


@pytest.mark.parametrize(
    "broken",
    ['{"choices":[{"index":0,"delta":{"content":"a"x}}]}', '{"choices":[{"index":0,"delta":{"content":"\\q"}}]}',
     '{"choices":[{"index":0,"delta":{"content":"a}}]}', '{"choices":[{"index":0,"delta":{"content":"\x01"}}]}',
     '{"choices":[{"index":0,"delta":{"content":"a""b"}}]}'],
)  # fmt: skip
def test_an_event_that_is_no_json_is_an_error_after_others_of_its_form(tools: Any, broken: str) -> None:
    stream = EventStream(tools.scrub(), protocol=True)
    for said in ("a", "b", "c"):
        stream.feed(f'data: {{"choices":[{{"index":0,"delta":{{"content":"{said}"}}}}]}}\n\n'.encode())
    with pytest.raises(MalformedTextError):
        stream.feed(f"data: {broken}\n\n".encode())
