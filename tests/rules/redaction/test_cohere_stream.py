"""Cohere's event streams: what a client reads is redacted, whatever the chunks and the deltas."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.text.rule import TextRule, apply, text_edits


def event(kind: str, index: int | None = 0, **message: Any) -> bytes:
    data = {"type": kind, "index": index, "delta": {"message": message}}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def run(rule: TextRule, *chunks: bytes) -> list[dict[str, Any]]:
    stream = EventStream(rule, protocol=True)
    redacted = b"".join([*map(stream.feed, chunks), stream.finish()])
    return [json.loads(line[6:]) for line in redacted.splitlines() if line.startswith(b"data: ")]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_deltas_in_any_chunks_give_the_redacted_text(tools: Any, data: st.DataObject) -> None:
    """E+9."""
    text = data.draw(tools.prose)[:200]
    parts = tools.cut(text, data.draw(tools.places))
    stream = event("content-start", content={"type": "text", "text": ""})
    stream += b"".join(event("content-delta", content={"text": part}) for part in parts)
    stream += event("content-end") + event("message-end", None)
    said = run(tools.scrub(), *tools.cut(stream, data.draw(tools.places)))
    written = "".join(one["delta"]["message"]["content"]["text"] for one in said if one["type"] == "content-delta")
    assert written == apply(text, text_edits(tools.scrub(), text))
    assert [one["type"] for one in said[-2:]] == ["content-end", "message-end"]


def test_plans_and_arguments_are_texts_of_their_own(tools: Any) -> None:
    """E-78."""
    arguments = json.dumps({"to": "john@smith.com"})
    events = [event("tool-plan-delta", None, tool_plan=part) for part in ("mail jo", "hn@smith.com")]
    events.append(event("tool-call-start", tool_calls={"id": "t", "function": {"name": "m", "arguments": ""}}))
    events += [event("tool-call-delta", tool_calls={"function": {"arguments": letter}}) for letter in arguments]
    said = run(tools.scrub(), *events, event("tool-call-end"), event("message-end", None))
    plan = "".join(one["delta"]["message"].get("tool_plan", "") for one in said)
    assert plan.startswith("mail <EMAIL_ADDRESS_")
    calls = [one["delta"]["message"]["tool_calls"] for one in said if one["type"] == "tool-call-delta"]
    assert json.loads("".join(one["function"]["arguments"] for one in calls))["to"].startswith("<EMAIL_ADDRESS_")
    assert "smith" not in json.dumps(said)


def test_an_index_in_quotes_names_the_same_text(tools: Any) -> None:
    stream = event("content-delta", content={"text": "ann@smi"})
    stream += event("content-delta", content={"text": "th.com "}).replace(b'"index": 0', b'"index": "0"')
    said = run(tools.scrub(), stream + event("message-end", None))
    assert "smi" not in repr(said)
