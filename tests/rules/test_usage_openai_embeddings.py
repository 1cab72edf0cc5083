"""The decoder of OpenAI embeddings: one document, counted by its input alone."""

from __future__ import annotations

import json

import pytest

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import UsageDecoder, make_decoder


def decode(body: bytes) -> UsageDecoder:
    decoder = make_decoder("openai-embeddings", content_type="application/json", strip_usage=True)
    assert decoder.feed(body) == body
    assert decoder.finish() == b""
    return decoder


@pytest.mark.parametrize(("counts", "usage"), [
    ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, requests=1)),
    ({"prompt_tokens": 0, "total_tokens": 0}, Usage(requests=1)),
    ({"total_tokens": 8}, None),
    ({"prompt_tokens": -8}, None),
    (None, None),
])  # fmt: skip
def test_embeddings_are_counted_by_their_input(counts: object, usage: Usage | None) -> None:
    decoder = decode(json.dumps({"object": "list", "data": [], "model": "embed-3", "usage": counts}).encode())
    assert (decoder.usage, decoder.ended, decoder.failed) == (usage, True, False)
    assert (decoder.model, decoder.response_id, decoder.rewrites) == ("embed-3", None, False)


def test_a_truncated_document_has_not_ended() -> None:
    assert not decode(b'{"object":"list","data":[').ended


def test_an_error_is_a_failure() -> None:
    assert decode(b'{"error":{"message":"no"}}').failed
