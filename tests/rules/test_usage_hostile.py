"""Usage decoders before responses that no provider writes: they decode or they do not, and never raise."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.usage import DECODERS, make_decoder, stream_types
from tenantguard.rules.usage.decoder import JSON_LINES

NAMES = [
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "x_groq",
    "error",
    "choices",
    "delta",
    "content",
    "id",
    "model",
    "type",
    "message",
    "iterations",
    "cache_creation",
    "server_tool_use",
    "usageMetadata",
    "promptTokenCount",
    "candidates",
    "parts",
    "functionCall",
    "args",
    "finishReason",
    "promptFeedback",
    "promptTokensDetails",
    "candidatesTokenCount",
    "done",
    "tool_calls",
    "function",
    "arguments",
    "prompt_eval_count",
    "response",
    "status",
    "input_tokens",
    "output_tokens",
    "cost",
    "seconds",
    "data",
    "cacheDetails",
]
KINDS = ("message_start", "message_delta", "error", "response.completed", "image_generation.completed")
WORDS = st.sampled_from([None, True, 0, -1, 12.5, 1e308, 2**70, "", "x", "\ud800", *KINDS])
VALUES = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=5)
    ),
    max_leaves=12,
)
FORMS = [(name, media) for name in DECODERS for media in ("application/json", *stream_types(name))]


@pytest.mark.parametrize(("name", "media"), [form for form in FORMS if "amazon" not in form[1]])
@given(documents=st.lists(VALUES, min_size=1, max_size=3), listed=st.booleans(), whole=st.booleans())
def test_no_response_makes_a_decoder_raise(
    name: str, media: str, documents: list[Any], *, listed: bool, whole: bool
) -> None:
    """What raises at the settling point leaves its hold behind."""
    texts = [json.dumps(document).encode() for document in documents]
    if media == "application/json":
        data = json.dumps(documents).encode() if listed else texts[0]
    elif media == JSON_LINES:
        data = b"".join([text + b"\n" for text in texts])
    else:
        data = b"".join([b"data: " + text + b"\n\n" for text in texts])
    decoder = make_decoder(name, content_type=media, streamed=True)
    decoder.feed(data)
    if whole:
        decoder.finish()
    assert decoder.output_bytes >= 0
    assert decoder.usage_so_far is None or decoder.usage_so_far.output_tokens >= 0


def test_gemini_s_array_takes_time_in_proportion_to_its_length() -> None:
    """Its size is asked for at every piece, and the caller chooses this form: 350 kB took three seconds."""

    def seconds(chunks: int) -> float:
        decoder = make_decoder("gemini-generate", content_type="application/json", streamed=True)
        chunk = json.dumps({"candidates": [{"content": {"parts": [{"text": "word " * 20}]}}]}, indent=2).encode()
        started = time.thread_time()
        for number in range(chunks):
            decoder.feed((b",\n" if number else b"[") + chunk)
            assert decoder.output_bytes == 100 * (number + 1)
        return time.thread_time() - started

    assert seconds(1600) < 32 * min(seconds(100) for _ in range(5))  # in proportion: 16 times; before: 256


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_gemini_s_array_counts_the_same_however_it_is_cut(step: int) -> None:
    parts = [{"text": 'é"}{'}, {"functionCall": {"name": "f", "args": {"a": "ü}"}}}]
    chunks = [{"candidates": [{"content": {"parts": parts}}], "usageMetadata": {}} for _ in range(3)]
    data = "\ufeff".encode() + json.dumps(chunks, ensure_ascii=False, indent=1).encode() + b'\xff "}'
    decoder = make_decoder("gemini-generate", content_type="application/json", streamed=True)
    seen = []
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        seen.append(decoder.output_bytes)
    one = len('é"}{'.encode()) + len('{"a":"ü}"}'.encode())
    assert seen[-1] == 3 * one
    assert seen == sorted(seen)
