"""The decoder of Bedrock Converse, and the binary framing of its streams."""

from __future__ import annotations

import json
import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import make_decoder
from tenantguard.rules.usage.event_stream import EventStreamFramer

if TYPE_CHECKING:
    from tenantguard.rules.usage import UsageDecoder

COUNTS = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}


def sealed(headers: bytes, body: bytes) -> bytes:
    lengths = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    whole = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))


def header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\7" + len(value).to_bytes(2, "big") + value.encode()


def event(name: str, kind: str = "event", **payload: Any) -> bytes:
    label = ":event-type" if kind == "event" else ":exception-type"
    headers = header(label, name) + header(":content-type", "application/json") + header(":message-type", kind)
    return sealed(headers, json.dumps(payload).encode())


def said(**delta: Any) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=0, delta=delta, p="abcdef")


START = event("messageStart", role="assistant")
STOP = event("messageStop", stopReason="end_turn")
METADATA = event("metadata", usage=COUNTS, metrics={"latencyMs": 9})
PLAIN = [START, said(text="Hel"), said(text="lo"), event("contentBlockStop", contentBlockIndex=0), STOP, METADATA]


def stream(*chunks: bytes) -> UsageDecoder:
    decoder = make_decoder("bedrock-converse", content_type="application/vnd.amazon.eventstream")
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    return decoder


def document(**members: Any) -> UsageDecoder:
    decoder = make_decoder("bedrock-converse", content_type="application/json")
    decoder.feed(json.dumps(members).encode())
    decoder.finish()
    return decoder


def test_a_whole_stream_ends_with_its_metadata() -> None:
    decoder = stream(*PLAIN)
    assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, Usage(10, 5, requests=1))
    assert (decoder.model, decoder.response_id, decoder.output_bytes) == (None, None, 5)
    assert stream(b"".join(PLAIN) + b"anything").ended


def test_a_stream_without_its_metadata_has_no_end() -> None:
    assert (stream(*PLAIN[:-1]).ended, stream(*PLAIN[:-1]).usage) == (False, None)
    assert not stream(*PLAIN[:-2], METADATA).ended
    assert not stream(b"".join(PLAIN)[:-1]).ended


@pytest.mark.parametrize("kind", ["exception", "error"])
def test_an_exception_in_mid_stream_is_a_failure(kind: str) -> None:
    decoder = stream(*PLAIN[:3], event("modelStreamErrorException", kind, message="no"))
    assert (decoder.ended, decoder.failed) == (False, True)


def test_every_kind_of_generated_text_is_counted() -> None:
    parts = [said(text="é\n"), said(reasoningContent={"text": "hmm"}), said(toolUse={"input": '{"a":1}'})]
    assert stream(*parts).output_bytes == 3 + 3 + 7


@given(st.data())
def test_a_stream_with_one_bit_flipped_has_no_end(drawn: st.DataObject) -> None:
    """CRC-32 finds every error of one bit."""
    whole = bytearray(b"".join(PLAIN))
    at = drawn.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << drawn.draw(st.integers(0, 7))
    decoder = stream(bytes(whole))
    assert (decoder.ended, decoder.usage) == (False, None)


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        ({"usage": COUNTS}, Usage(10, 5, requests=1)),
        (
            {"usage": {**COUNTS, "cacheReadInputTokens": 2000, "cacheWriteInputTokens": 300}},
            Usage(10, 5, 2000, 300, requests=1),
        ),
        (
            {
                "usage": {
                    **COUNTS,
                    "cacheWriteInputTokens": 300,
                    "cacheDetails": [{"ttl": "1h", "inputTokens": 100}, {"ttl": "5m", "inputTokens": 200}],
                }
            },
            Usage(10, 5, 0, 200, requests=1, cache_write_1h_tokens=100),
        ),
        ({"usage": COUNTS, "serviceTier": {"type": "flex"}}, Usage(10, 5, requests=1, service_tier="flex")),
        (
            {"usage": COUNTS, "performanceConfig": {"latency": "optimized"}},
            Usage(10, 5, requests=1, service_tier="optimized"),
        ),
        ({"usage": {**COUNTS, "cacheWriteInputTokens": 3, "cacheDetails": [{"ttl": "1h", "inputTokens": 4}]}}, None),
        ({"usage": {**COUNTS, "cacheWriteInputTokens": 3, "cacheDetails": [{"ttl": "9h", "inputTokens": 3}]}}, None),
        ({"usage": {**COUNTS, "cacheDetails": "1h"}}, None),
        ({"usage": {**COUNTS, "cacheReadInputTokens": -1}}, None),
        ({"usage": {"inputTokens": 10}}, None),
        ({"usage": {"inputTokens": True, "outputTokens": 5}}, None),
        ({"usage": COUNTS, "serviceTier": 7}, None),
        ({}, None),
    ],
)
def test_counts_are_exact_or_missing(members: dict[str, Any], usage: Usage | None) -> None:
    """What was read from or written to the cache comes on top of the input."""
    assert (document(**members).usage, document(**members).ended) == (usage, True)
    assert stream(START, STOP, event("metadata", **members)).usage == usage


def test_metadata_that_is_no_json_has_no_usage() -> None:
    broken = sealed(header(":event-type", "metadata") + header(":message-type", "event"), b"{")
    assert (stream(STOP, broken).ended, stream(STOP, broken).usage) == (True, None)


# framing

MESSAGES = st.lists(st.tuples(st.sampled_from(["messageStart", "metadata", "x" * 200]), st.binary(max_size=60)))
PLACES = st.lists(st.integers(min_value=0), max_size=12)


@given(MESSAGES, PLACES)
def test_messages_are_the_same_however_they_are_cut(messages: list[tuple[str, bytes]], places: list[int]) -> None:
    whole = b"".join(
        sealed(header(":message-type", "event") + header(":event-type", name), body) for name, body in messages
    )
    expected = [("event", name, body) for name, body in messages]
    edges = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    for chunks in (
        [whole[start:end] for start, end in pairwise(edges)],
        [whole[at : at + 1] for at in range(len(whole))],
    ):
        framer = EventStreamFramer()
        assert [message for chunk in chunks for message in framer.feed(chunk)] == expected
        assert (framer.corrupt, framer.waiting) == (False, 0)


def test_headers_of_every_type_are_passed_over() -> None:
    values = [(0, b""), (1, b""), (2, b"a"), (3, b"ab"), (4, b"abcd"), (5, b"a" * 8), (8, b"a" * 8), (9, b"a" * 16)]
    headers = b"".join(b"\1h" + bytes([kind]) + value for kind, value in values)
    headers += b"\1h\6\0\2\xff\xff" + b"\1h\7\0\1\xff" + header(":message-type", "event") + header(":event-type", "x")
    assert EventStreamFramer().feed(sealed(headers, b"{}")) == [("event", "x", b"{}")]


@pytest.mark.parametrize("headers", [b"\1", b"\1h", b"\1h\x0a", b"\1h\7\0\5ab", b"\1h\5abc", b"\xffh"])
def test_headers_that_cannot_be_read_are_corrupt(headers: bytes) -> None:
    framer = EventStreamFramer()
    assert framer.feed(PLAIN[0] + sealed(headers, b"{}") + PLAIN[1]) == [
        ("event", "messageStart", b'{"role": "assistant"}')
    ]
    assert (framer.corrupt, framer.waiting, framer.feed(PLAIN[0])) == (True, 0, [])


def test_a_message_above_the_limit_or_below_the_least_is_corrupt() -> None:
    for size, headed in ((101, 0), (15, 0), (20, 5)):
        framer = EventStreamFramer(limit=100)
        lengths = struct.pack(">II", size, headed)
        assert framer.feed(lengths + struct.pack(">I", zlib.crc32(lengths))) == []
        assert framer.corrupt
