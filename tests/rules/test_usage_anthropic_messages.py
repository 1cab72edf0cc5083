"""The decoder of Anthropic messages: usage, end and failure, for any split of the bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.usage import UsageDecoder

ID = "msg_01XFDUDYJgAACzvnptvVoYEL"
START = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": None,
    "output_tokens": 1,
    "service_tier": "standard",
}


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def start(usage: Any = START) -> bytes:
    return event("message_start", message={"id": ID, "type": "message", "model": "claude-x", "usage": usage})


def said(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def end(usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


STOP = event("message_stop")
PLAIN = [
    start(),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    said("Hel"),
    said("lo"),
    event("content_block_stop", index=0),
    end({"output_tokens": 15}),
    STOP,
]
WHOLE = Usage(25, 15, 0, 3, requests=1, service_tier="standard")
PLACES = st.lists(st.integers(min_value=0), max_size=12)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[first:last] for first, last in pairwise(edges)]


def state(decoder: UsageDecoder) -> tuple[Any, ...]:
    names = ("ended", "failed", "usage", "usage_so_far", "model", "response_id", "output_bytes")
    return tuple(getattr(decoder, name) for name in names)


def stream(chunks: Iterable[bytes]) -> UsageDecoder:
    decoder = make_decoder("anthropic-messages", content_type="text/event-stream", strip_usage=True)
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    assert not decoder.rewrites
    return decoder


def document(body: bytes) -> UsageDecoder:
    decoder = make_decoder("anthropic-messages", content_type="application/json")
    assert decoder.feed(body) == body
    assert decoder.finish() == b""
    return decoder


def test_a_whole_stream_is_decoded_and_leaves_untouched() -> None:
    assert state(stream(PLAIN)) == (True, False, WHOLE, WHOLE, "claude-x", ID, 5)


@given(PLACES, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.integers(min_value=0))
def test_any_split_gives_the_same(places: list[int], line_end: bytes, until: int) -> None:
    whole = b"".join(PLAIN).replace(b"\n", line_end)
    expected = state(stream(PLAIN))
    assert state(stream(cut(whole, places))) == expected
    assert state(stream([whole[at : at + 1] for at in range(len(whole))])) == expected
    prefix = whole[: until % (len(whole) + 1)]
    assert state(stream(cut(prefix, places))) == state(stream([prefix]))


def test_the_end_is_known_as_soon_as_its_data_line_is_whole() -> None:
    decoder = make_decoder("anthropic-messages", content_type="text/event-stream")
    decoder.feed(b"".join(PLAIN[:-1]))
    decoder.feed(STOP[:-2])
    assert not decoder.ended
    decoder.feed(b"\n")
    assert decoder.ended


def test_a_stream_cut_before_its_last_word_has_only_what_was_announced() -> None:
    """The output count of ``message_start`` is no usage: settling by it would make the output free."""
    decoder = stream(PLAIN[:5])
    assert (decoder.ended, decoder.usage, decoder.usage_so_far) == (False, None, replace(WHOLE, output_tokens=1))
    assert decoder.output_bytes == 5


@pytest.mark.parametrize(
    ("last", "usage"),
    [
        ({"output_tokens": 0}, replace(WHOLE, output_tokens=0)),
        ({"output_tokens": 15, "input_tokens": None, "cache_read_input_tokens": None}, WHOLE),
        (
            {"output_tokens": 15, "input_tokens": 30, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 0},
            Usage(30, 15, 7, 0, requests=1, service_tier="standard"),
        ),
        ({"output_tokens": -1}, None),
        ({"output_tokens": True}, None),
        ({"output_tokens": 15.0}, None),
        ({"output_tokens": 15, "cache_read_input_tokens": -1}, None),
        (None, None),
        ([], None),
    ],
)
def test_running_totals_replace_what_was_announced_where_they_say_anything(last: Any, usage: Usage | None) -> None:
    assert stream([start(), end(last), STOP]).usage == usage


def test_several_running_totals_are_not_added_up() -> None:
    assert stream([start(), end({"output_tokens": 5}), end({"output_tokens": 15}), STOP]).usage == WHOLE


def test_without_the_announcement_usage_is_missing_unless_the_last_word_has_it_all() -> None:
    assert stream([end({"output_tokens": 5}), STOP]).usage is None
    assert stream([end({"output_tokens": 5, "input_tokens": 2}), STOP]).usage == Usage(2, 5, requests=1)
    assert stream([event("message_start", message="?"), end({"output_tokens": 5}), STOP]).usage is None


@pytest.mark.parametrize(
    "error",
    [
        event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        b'data: {"type":"error","error":{"type":"api_error"}}\n\n',
        b"event: error\ndata: not json\n\n",
    ],
)
def test_an_error_in_mid_stream_is_a_failure_even_if_an_end_follows(error: bytes) -> None:
    decoder = stream([*PLAIN[:4], error])
    assert (decoder.failed, decoder.ended) == (True, False)
    assert stream([*PLAIN[:4], error, STOP]).failed


SPOOFS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "message_stop",
            "message_delta",
            "error",
            "content_block_delta",
            '{"type":"message_stop"}',
            '"},"type":"message_stop","x":{"y":"',
            '\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
            '\r\revent: error\rdata: {"type":"error"}\r\r',
            '"usage":{"output_tokens":0}',
            '"text":"xxxxxxxxxxxxx"',
        ],
    ),
)


@given(st.lists(SPOOFS, max_size=5), PLACES, SPOOFS)
def test_model_text_cannot_pass_for_the_protocol(texts: list[str], places: list[int], stop: str) -> None:
    """A stop sequence is the caller's own text, and comes back beside the usage."""
    last = event("message_delta", delta={"stop_sequence": stop}, usage={"output_tokens": 15})
    whole = [start(), *map(said, texts), last, STOP]
    decoder = stream(cut(b"".join(whole), places))
    assert state(stream(whole)) == state(decoder)
    size = sum(len(text.encode()) for text in texts)
    assert state(decoder) == (True, False, WHOLE, WHOLE, "claude-x", ID, size)
    before = stream([start(), *map(said, texts)])
    assert (before.usage, before.ended, before.failed) == (None, False, False)


def test_every_kind_of_generated_text_is_counted() -> None:
    parts = [
        said("four"),
        event("content_block_delta", index=1, delta={"type": "thinking_delta", "thinking": "hmm"}),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"a":'}),
        event("content_block_delta", index=3, delta={"type": "signature_delta", "signature": "no text"}),
    ]
    assert stream(parts).output_bytes == 4 + 3 + 5


def message(**members: Any) -> bytes:
    usage = {**START, "output_tokens": 15}
    return json.dumps({"id": ID, "type": "message", "model": "claude-x", "usage": usage, **members}).encode()


def test_a_document_is_decoded_at_its_end() -> None:
    assert state(document(message())) == (True, False, WHOLE, None, "claude-x", ID, 0)


def test_input_tokens_leave_out_the_cache() -> None:
    """Opposite to OpenAI: what was read from the cache may exceed the other input."""
    counts = {"input_tokens": 2, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 8, "output_tokens": 0}
    assert document(message(usage=counts)).usage == Usage(2, 0, 500, 8, requests=1)


@pytest.mark.parametrize("counts", [None, [], {}, {"input_tokens": 1}, {"input_tokens": 1, "output_tokens": "2"}])
def test_counts_are_exact_or_missing(counts: Any) -> None:
    decoder = document(message(usage=counts))
    assert (decoder.usage, decoder.ended) == (None, True)


def test_an_error_document_is_a_failure() -> None:
    decoder = document(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert (decoder.failed, decoder.usage) == (True, None)


def test_a_truncated_document_has_not_ended() -> None:
    assert not document(message()[:-1]).ended


@pytest.mark.parametrize(
    ("counts", "five", "hour"),
    [
        ({}, 8, 0),
        ({"cache_creation": None}, 8, 0),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 8, "ephemeral_1h_input_tokens": 0}}, 8, 0),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 5}}, 3, 5),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 8}}, 0, 8),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}}, None, None),
        ({"cache_creation": {"ephemeral_5m_input_tokens": -1, "ephemeral_1h_input_tokens": 9}}, None, None),
        ({"cache_creation": 8}, None, None),
    ],
)
def test_what_is_kept_for_an_hour_is_counted_apart(
    counts: dict[str, Any], five: int | None, hour: int | None
) -> None:
    whole = {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 8, **counts}
    usage = document(message(usage=whole)).usage
    expected = Usage(1, 2, 0, five, requests=1, cache_write_1h_tokens=hour or 0) if five is not None else None
    assert usage == expected


@pytest.mark.parametrize(
    ("split", "five", "hour"),
    [((3, 0), 10, 0), ((0, 3), 0, 10), ((0, 0), 10, 0), ((1, 2), None, None)],
)
def test_a_total_that_grew_keeps_its_split_if_that_had_one_kind(
    split: tuple[int, int], five: int | None, hour: int | None
) -> None:
    """The running totals of the end say no split."""
    names = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    counts = {
        "input_tokens": 1,
        "output_tokens": 1,
        "cache_creation_input_tokens": sum(split),
        "cache_creation": dict(zip(names, split, strict=True)),
    }
    last = end({"output_tokens": 2, "cache_creation_input_tokens": 10})
    expected = Usage(1, 2, 0, five, requests=1, cache_write_1h_tokens=hour or 0) if five is not None else None
    assert stream([start(counts), last, STOP]).usage == expected


def test_a_faster_mode_is_a_tier_of_its_own() -> None:
    assert document(message(usage={**START, "output_tokens": 1, "speed": "fast"})).usage == Usage(
        25, 1, 0, 3, requests=1, service_tier="fast"
    )
    assert document(message(usage={**START, "output_tokens": 15, "speed": "standard"})).usage == WHOLE


def test_searches_are_units_and_thinking_is_a_part_of_the_output() -> None:
    counts = {
        "input_tokens": 1,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 5},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    units = {"web_search_requests": 2, "web_fetch_requests": 0}
    assert document(message(usage=counts)).usage == Usage(1, 9, requests=1, units=units, reasoning_tokens=5)
    assert document(message(usage={**counts, "output_tokens_details": {"thinking_tokens": 10}})).usage is None
    assert document(message(usage={**counts, "server_tool_use": {"web_search_requests": -2}})).usage is None


def test_a_compaction_comes_on_top_of_the_totals_and_an_advisor_has_no_price_here() -> None:
    own = {"type": "message", "input_tokens": 1, "output_tokens": 9}
    beside = {"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 4}
    counts = {"input_tokens": 1, "output_tokens": 9, "iterations": [own, beside]}
    assert document(message(usage=counts)).usage == Usage(101, 29, 4, requests=1)
    assert stream([start(counts), end(counts), STOP]).usage == Usage(101, 29, 4, requests=1)
    for odd in (
        [{**own, "type": "advisor_message", "model": "claude-y"}],
        [own, 7],
        "?",
        [{**beside, "input_tokens": -1}],
    ):
        assert document(message(usage={**counts, "iterations": odd})).usage is None
