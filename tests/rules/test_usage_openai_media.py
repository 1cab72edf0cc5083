"""The decoders of OpenAI's images and audio."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import make_decoder
from tenantguard.rules.usage.decoder import DOCUMENT_BYTES_MAX

if TYPE_CHECKING:
    from tenantguard.rules.usage import UsageDecoder

COUNTS = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 4160,
    "total_tokens": 4210,
}
HEARD = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 45,
    "total_tokens": 59,
}


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def stream(name: str, *chunks: bytes) -> UsageDecoder:
    decoder = make_decoder(name, content_type="text/event-stream")
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    return decoder


def document(name: str, body: bytes, pieces: int = 1) -> UsageDecoder:
    decoder = make_decoder(name, content_type="application/json")
    size = max(1, len(body) // pieces)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(decoder.feed(chunk) for chunk in chunks) == body
    decoder.finish()
    return decoder


def images(*data: str, **members: Any) -> bytes:
    return json.dumps({"created": 1, "data": [{"b64_json": text} for text in data], **members}).encode()


# images


def test_images_are_counted_and_their_tokens_are_output_of_their_own_kind() -> None:
    usage = Usage(50, requests=1, units={"images": 2}, image_output_tokens=4160, image_input_tokens=40)
    decoder = document("openai-images", images("iVBO", "iVBO", usage=COUNTS))
    assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, usage)


def test_text_that_an_image_model_puts_out_is_told_apart() -> None:
    split = {**COUNTS, "output_tokens_details": {"image_tokens": 4000, "text_tokens": 160}}
    usage = document("openai-images", images("iVBO", usage=split)).usage
    assert usage is not None
    assert (usage.output_tokens, usage.image_output_tokens) == (160, 4000)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"usage": None},
        {"usage": {**COUNTS, "output_tokens": -1}},
        {"usage": {**COUNTS, "input_tokens_details": {"image_tokens": 51}}},
        {"usage": {**COUNTS, "output_tokens_details": {"image_tokens": 4161}}},
    ],
)
def test_images_without_exact_usage_have_none(members: dict[str, Any]) -> None:
    assert document("openai-images", images("iVBO", **members)).usage is None


def test_images_larger_than_a_document_may_be_are_still_counted() -> None:
    body = images(*["A" * (DOCUMENT_BYTES_MAX // 2)] * 4, usage=COUNTS)
    for pieces in (1, 3, 1000):
        usage = document("openai-images", body, pieces).usage
        assert usage is not None
        assert usage.units == {"images": 4}


@given(st.lists(st.tuples(st.sampled_from('Ab=\\"{,'), st.integers(0, 3000)), max_size=8), st.integers(1, 4000))
def test_what_is_left_out_of_images_does_not_depend_on_how_they_are_cut(
    runs: list[tuple[str, int]], size: int
) -> None:
    body = images("".join(char * count for char, count in runs), usage=COUNTS)
    usage = Usage(50, requests=1, units={"images": 1}, image_output_tokens=4160, image_input_tokens=40)
    whole = make_decoder("openai-images", content_type="application/json")
    whole.feed(body)
    cut = make_decoder("openai-images", content_type="application/json")
    for start in range(0, len(body), size):
        cut.feed(body[start : start + size])
    assert whole.copied() == cut.copied()  # type: ignore[attr-defined]
    whole.finish()
    assert whole.usage == usage


@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_a_stream_of_images_ends_with_its_only_image(kind: str) -> None:
    parts = [event(f"{kind}.partial_image", b64_json="iVBO"), event(f"{kind}.completed", usage=COUNTS)]
    decoder = stream("openai-images", *parts)
    assert (decoder.ended, decoder.failed) == (True, False)
    assert decoder.usage == Usage(
        50, requests=1, units={"images": 1}, image_output_tokens=4160, image_input_tokens=40
    )
    assert not stream("openai-images", parts[0]).ended
    assert stream("openai-images", event(f"{kind}.completed")).usage is None


@pytest.mark.parametrize("name", ["openai-images", "openai-audio"])
@pytest.mark.parametrize("error", [event("error", message="no"), b'data: {"error":{"message":"no"}}\n\n'])
def test_an_error_in_mid_stream_is_a_failure(name: str, error: bytes) -> None:
    decoder = stream(name, error)
    assert (decoder.ended, decoder.failed) == (False, True)
    assert document(name, b'{"error":{"message":"no"}}').failed
    assert not stream(name, event("other", error=None)).failed


# audio


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (HEARD, Usage(4, 45, requests=1, audio_input_tokens=10)),
        ({**HEARD, "input_token_details": None}, Usage(0, 45, requests=1, audio_input_tokens=14)),
        ({**HEARD, "input_token_details": {"text_tokens": 4}}, Usage(4, 45, requests=1, audio_input_tokens=10)),
        ({**HEARD, "input_token_details": {"audio_tokens": 15}}, None),
        ({**HEARD, "input_token_details": {"text_tokens": -1}}, None),
        ({**HEARD, "output_tokens": None}, None),
        ({"type": "duration", "seconds": 9}, Usage(requests=1, units={"seconds": 9})),
        ({"type": "duration", "seconds": 9.0}, Usage(requests=1, units={"seconds": 9})),
        ({"type": "duration", "seconds": 9.01}, Usage(requests=1, units={"seconds": 10})),
        ({"type": "duration", "seconds": 0}, Usage(requests=1, units={"seconds": 0})),
        ({"type": "duration", "seconds": -1}, None),
        ({"type": "duration", "seconds": True}, None),
        ({"type": "duration", "seconds": float("nan")}, None),
        ({"type": "duration", "seconds": float("inf")}, None),
        ({"type": "duration"}, None),
        (None, None),
    ],
)
def test_a_transcription_counts_sound_or_seconds(counts: Any, usage: Usage | None) -> None:
    assert document("openai-audio", json.dumps({"text": "hi", "usage": counts}).encode()).usage == usage
    done = event("transcript.text.done", text="hi", usage=counts)
    decoder = stream("openai-audio", event("transcript.text.delta", delta="hi"), done)
    assert (decoder.ended, decoder.usage, decoder.output_bytes) == (True, usage, 2)


def test_speech_as_events_is_text_in_and_sound_out() -> None:
    parts = [event("speech.audio.delta", audio="UklG"), event("speech.audio.done", usage=HEARD)]
    decoder = stream("openai-audio", *parts)
    assert (decoder.ended, decoder.usage) == (True, Usage(14, requests=1, audio_output_tokens=45))
    assert decoder.output_bytes == 0
    assert stream("openai-audio", event("speech.audio.done")).usage is None
