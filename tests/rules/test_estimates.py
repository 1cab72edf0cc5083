"""Tokens before and after a call."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.charge import Reported
from tenantguard.model.outcome import Ending, Outcome
from tenantguard.model.usage import Usage
from tenantguard.rules.estimates import Estimate, estimate, tokens_of, tokens_used
from tenantguard.rules.requests import read_call
from tenantguard.rules.usage import UsageDecoder, make_decoder

CHAT = "openai-chat"


def call(**members: object) -> object:
    return read_call(CHAT, {"model": "m", "messages": [], **members})


@pytest.mark.parametrize(
    ("members", "max_output", "tokens", "explicit"),
    [
        ({}, None, 100, False),
        ({}, 50, 150, False),
        ({"n": 3}, 50, 250, False),
        ({"max_tokens": 30}, None, 130, True),
        ({"max_tokens": 30, "n": 2}, 50, 160, True),
        ({"max_tokens": 30, "max_completion_tokens": 700}, None, 800, True),
        ({"max_tokens": 9000}, 50, 150, True),
    ],
)
def test_an_estimate_is_the_prompt_and_the_largest_cap(
    members: dict[str, object], max_output: int | None, tokens: int, *, explicit: bool
) -> None:
    """A smaller cap beside a larger one hides nothing."""
    assert estimate(call(**members), 400, max_output) == Estimate(tokens, explicit)  # type: ignore[arg-type]


def test_an_embedding_is_its_prompt() -> None:
    embedding = read_call("openai-embeddings", {"model": "m", "input": "x"})
    assert estimate(embedding, 41, None) == Estimate(11, explicit=False)


@given(st.integers(0, 10**7), st.booleans(), st.integers(1, 10**6))
def test_a_guess_always_fits_a_full_bucket_and_what_is_asked_for_stays(size: int, explicit: bool, burst: int) -> None:  # noqa: FBT001
    estimated = estimate(call(max_tokens=5) if explicit else call(), size, 1000)  # type: ignore[arg-type]
    assert estimated.tokens >= 1
    assert estimated.within(burst) == (estimated.tokens if explicit else min(estimated.tokens, burst))


def test_every_token_counts_once() -> None:
    usage = Usage(1, 2, 4, 8, 1000, {"pages": 1000}, 16, 32, 64, 128, 1, 1)
    assert tokens_of(usage) == 255


def streamed(*documents: object, done: bool = True) -> UsageDecoder:
    decoder = make_decoder(CHAT, content_type="text/event-stream")
    for document in documents:
        decoder.feed(b"data: " + json.dumps(document).encode() + b"\n\n")
    if done:
        decoder.feed(b"data: [DONE]\n\n")
        decoder.finish()
    return decoder


DELTA = {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}


@pytest.mark.parametrize(
    ("ending", "decoder", "reported", "used"),
    [
        (Ending.COMPLETED, streamed(DELTA, USAGE), None, 12),
        (Ending.COMPLETED, streamed(DELTA), None, None),
        (Ending.COMPLETED, None, None, None),
        (Ending.COMPLETED, streamed(DELTA, USAGE), Reported(Usage(100, 1)), 101),
        (Ending.FAILED, streamed(DELTA, USAGE), Reported(Usage(100, 1)), 0),
        (Ending.LEFT, streamed(DELTA, DELTA, done=False), None, 10 + 20),
        (Ending.CUT, streamed(DELTA, done=False), None, 10 + 10),
        (Ending.LEFT, None, None, None),
        (Ending.LEFT, streamed(DELTA, USAGE), None, 12),
    ],
)
def test_what_was_used_is_what_anybody_knows(
    ending: Ending, decoder: UsageDecoder | None, reported: Reported | None, used: int | None
) -> None:
    assert tokens_used(Outcome(ending, status=200), decoder, reported, 40) == used
