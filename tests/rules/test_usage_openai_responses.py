"""The decoder of OpenAI responses: usage in the last event, and failures that are events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from tenantguard.rules.usage import UsageDecoder

ID = "resp_68af1f03c2d481a2a9b0c1d2e3f4"
COUNTS = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 15},
    "total_tokens": 120,
}
WHOLE = Usage(30, 20, 60, 10, requests=1, reasoning_tokens=15, service_tier="flex")


def response(status: str, usage: Any = COUNTS, **members: Any) -> dict[str, Any]:
    names = {"id": ID, "object": "response", "model": "gpt-5-mini", "service_tier": "flex"}
    return {**names, "status": status, "usage": usage, **members}


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def said(kind: str, text: str) -> bytes:
    members = json.dumps({"type": f"response.{kind}.delta", "delta": text}, separators=(",", ":"))
    return f"event: response.{kind}.delta\ndata: {members}\n\n".encode()


CREATED = event("response.created", response=response("in_progress", None))
COMPLETED = event("response.completed", response=response("completed"))


def stream(*chunks: bytes) -> UsageDecoder:
    decoder = make_decoder("openai-responses", content_type="text/event-stream", strip_usage=True)
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    return decoder


def document(**members: Any) -> UsageDecoder:
    decoder = make_decoder("openai-responses", content_type="application/json")
    decoder.feed(json.dumps(members).encode())
    decoder.finish()
    return decoder


@pytest.mark.parametrize("tools", [b"[" * 100_000 + b"]" * 100_000, b"1" * 5_000], ids=["nested", "digits"])
@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"response.%b","response":{"tools":%b}}',
        b'{"response":{"tools":%b,"type":"response.completed"},"type":"response.%b"}',
    ],
    ids=["first", "last"],
)
def test_a_stream_that_repeats_more_than_python_reads_has_ended_without_usage(data: bytes, tools: bytes) -> None:
    """A caller whose tools nest just deeply enough had such a stream for nothing."""

    def ends(kind: bytes) -> UsageDecoder:
        told = (kind, tools) if data.startswith(b'{"type"') else (tools, kind)
        return stream(CREATED, b"data: " + data % told + b"\n\n")

    completed = ends(b"completed")
    assert (completed.ended, completed.failed, completed.usage) == (True, False, None)
    assert ends(b"failed").failed
    assert not ends(b"created").ended


def test_a_last_event_that_breaks_off_is_no_end() -> None:
    assert not stream(CREATED, b'data: {"type":"response.completed","response":{"tools":' + b"[" * 100_000).ended
    assert not stream(CREATED, b'data: {"type":"response.completed","response":{"tools":[}}\n\n').ended


def test_a_stream_ends_with_completed_and_its_usage() -> None:
    decoder = stream(CREATED, said("output_text", "Hel"), said("output_text", "lo"), COMPLETED)
    assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, WHOLE)
    assert (decoder.model, decoder.response_id, decoder.output_bytes) == ("gpt-5-mini", ID, 5)


def test_an_output_cap_that_was_met_is_a_success() -> None:
    decoder = stream(CREATED, event("response.incomplete", response=response("incomplete")))
    assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, WHOLE)
    assert not document(**response("incomplete")).failed


@pytest.mark.parametrize(
    "last", [event("response.failed", response=response("failed", None)), event("response.failed")]
)
def test_failed_is_the_end_and_no_success(last: bytes) -> None:
    decoder = stream(CREATED, last)
    assert (decoder.ended, decoder.failed) == (True, True)


@pytest.mark.parametrize(
    "error", [event("error", code="server_error", message="no"), b'data: {"type":"error","message":"no"}\n\n']
)
def test_an_error_in_mid_stream_is_a_failure(error: bytes) -> None:
    decoder = stream(CREATED, error)
    assert (decoder.ended, decoder.failed, decoder.usage) == (False, True, None)


def test_a_document_that_failed_is_no_success() -> None:
    assert document(**response("failed", None)).failed
    assert document(**response("completed", error={"code": "server_error"})).failed
    assert document(error={"message": "no"}).failed


def test_the_response_of_a_background_call_has_no_usage_yet() -> None:
    decoder = document(**response("queued", None))
    assert (decoder.ended, decoder.failed, decoder.usage, decoder.response_id) == (True, False, None, ID)


def test_every_kind_of_generated_text_is_counted_and_sound_is_not() -> None:
    kinds = ["output_text", "refusal", "reasoning_text", "function_call_arguments", "custom_tool_call_input"]
    assert stream(*(said(kind, "é\n") for kind in kinds)).output_bytes == 3 * len(kinds)
    assert stream(event("response.output_text.delta", delta="é\n")).output_bytes == 3
    assert stream(event("response.audio.delta", delta="UklGRg==")).output_bytes == 0
    assert stream(event("response.output_text.done", text="whole again")).output_bytes == 0


@pytest.mark.parametrize(
    "text",
    [
        '"type":"response.completed"',
        '{"type":"response.failed"}',
        '\n\nevent: error\ndata: {"type":"error"}\n\n',
        '","type":"response.completed","response":{"usage":{"input_tokens":0,"output_tokens":0}},"x":"',
    ],
)
def test_model_text_cannot_pass_for_the_protocol(text: str) -> None:
    for parts in ([said("output_text", text)], [event("response.output_text.delta", delta=text)]):
        decoder = stream(CREATED, *parts)
        assert (decoder.ended, decoder.failed, decoder.usage) == (False, False, None)
        assert decoder.output_bytes == len(text.encode())


def test_an_item_that_is_completed_does_not_end_the_response() -> None:
    item = {"type": "response.completed", "status": "completed"}
    decoder = stream(CREATED, event("response.output_item.done", item=item))
    assert (decoder.ended, decoder.usage) == (False, None)


@pytest.mark.parametrize(
    "counts",
    [
        None,
        {},
        {"input_tokens": 1},
        {**COUNTS, "input_tokens": 69},
        {**COUNTS, "output_tokens": 14},
        {**COUNTS, "output_tokens": 20.0},
        {**COUNTS, "input_tokens_details": []},
        {**COUNTS, "input_tokens_details": {"cached_tokens": True}},
    ],
)
def test_counts_are_exact_or_missing(counts: Any) -> None:
    decoder = document(**response("completed", counts))
    assert (decoder.usage, decoder.ended) == (None, True)
    assert stream(event("response.completed", response=response("completed", counts))).usage is None
