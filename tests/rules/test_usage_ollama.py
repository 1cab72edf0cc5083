"""The decoder of Ollama's own API: lines of JSON, of which the last has the counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.model.usage import Usage
from tenantguard.rules.sse import EVENT_BYTES_MAX
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from tenantguard.rules.usage import UsageDecoder

DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 5}


def line(**members: Any) -> bytes:
    return json.dumps({"model": "llama3.2", **members}, separators=(",", ":")).encode() + b"\n"


def said(text: str, **message: Any) -> bytes:
    return line(message={"role": "assistant", "content": text, **message}, done=False)


def stream(*chunks: bytes) -> UsageDecoder:
    decoder = make_decoder("ollama", content_type="application/x-ndjson; charset=utf-8")
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    return decoder


def document(name: str = "ollama", **members: Any) -> UsageDecoder:
    decoder = make_decoder(name, content_type="application/json; charset=utf-8")
    decoder.feed(json.dumps({"model": "llama3.2", **members}).encode())
    decoder.finish()
    return decoder


def test_a_stream_ends_with_the_line_that_is_done() -> None:
    decoder = stream(said("Hel"), b"\n", said("lo"), line(**DONE), b"after the end")
    assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, Usage(26, 5, requests=1))
    assert (decoder.model, decoder.response_id, decoder.output_bytes) == ("llama3.2", None, 5)
    assert stream(line(**DONE)[:-1]).ended
    assert stream(json.dumps(DONE).encode()).ended


def test_a_stream_without_that_line_has_no_end() -> None:
    decoder = stream(said("Hel"), said("lo"))
    assert (decoder.ended, decoder.broken, decoder.usage) == (False, True, None)
    assert not stream(line(**DONE)[:-2]).ended


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({}, Usage(26, 5, requests=1)),
        ({"prompt_eval_cached_count": 20}, Usage(6, 5, 20, requests=1)),
        ({"prompt_eval_cached_count": 27}, None),
        ({"prompt_eval_count": None}, None),
        ({"prompt_eval_count": 0}, Usage(0, 5, requests=1)),
        ({"eval_count": None}, None),
        ({"eval_count": 0}, Usage(26, requests=1)),
        ({"eval_count": -1}, None),
        ({"eval_count": 5.0}, None),
        ({"done": False}, None),
        ({"done": "true"}, None),
    ],
)
def test_counts_are_exact_or_missing(counts: dict[str, Any], usage: Usage | None) -> None:
    """A count that is left out, as older versions did for cached prompts, is not zero."""
    assert document(**{**DONE, **counts}).usage == usage
    assert stream(line(**{**DONE, **counts})).usage == usage


def test_embeddings_are_counted_by_their_input() -> None:
    assert document("ollama-embed", embeddings=[[0.1]], prompt_eval_count=8).usage == Usage(8, requests=1)
    assert document("ollama-embed", embeddings=[[0.1]]).usage is None
    assert document("ollama-embed", error="no").failed


def test_an_error_in_mid_stream_is_a_failure() -> None:
    decoder = stream(said("Hel"), b'{"error":"an error was encountered while running the model"}\n')
    assert (decoder.ended, decoder.failed) == (False, True)
    assert document(error="no").failed


def test_every_kind_of_generated_text_is_counted() -> None:
    call = {"function": {"name": "f", "arguments": {"a": "é"}}}
    assert stream(said("é\n"), said("", thinking="hmm"), line(response="ok", done=False)).output_bytes == 3 + 3 + 2
    assert stream(said("", tool_calls=[call])).output_bytes == len('{"a":"é"}'.encode())
    for odd in (7, [7], [{"function": 7}]):
        assert stream(said("", tool_calls=odd)).output_bytes == 0


def test_what_a_model_calls_with_cannot_pass_for_the_protocol() -> None:
    spoof = {"function": {"name": "f", "arguments": DONE}}
    decoder = stream(said("x", tool_calls=[spoof]), said('"done":true'))
    assert (decoder.ended, decoder.usage) == (False, None)


def test_a_line_above_the_limit_passes_unread_and_may_have_been_the_end() -> None:
    huge = b" " * EVENT_BYTES_MAX
    for parts in ([huge + line(**DONE)], [huge, line(**DONE)], [said("a"), huge, b" ", line(**DONE)]):
        decoder = stream(*parts)
        assert (decoder.ended, decoder.usage) == (True, None)
    for parts in ([huge, b"  "], [huge + b"\n", b'{"half'], [huge + b"\n", line(error="x")]):
        decoder = stream(*parts)
        assert not decoder.ended or decoder.failed


def test_what_follows_a_line_above_the_limit_is_read() -> None:
    huge = b" " * (EVENT_BYTES_MAX + 1) + b"\n"
    for parts in ([huge + line(**DONE)], [huge, line(**DONE)], [said("a"), huge[:-1], b"\n" + line(**DONE)]):
        decoder = stream(*parts)
        assert decoder.ended
        assert decoder.usage == stream(line(**DONE)).usage
