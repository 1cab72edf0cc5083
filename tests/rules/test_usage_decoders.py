"""What holds for every usage decoder: any split of the bytes gives the same, and nothing impossible is believed."""

from __future__ import annotations

import json
import struct
import zlib
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError
from tenantguard.model.usage import Usage
from tenantguard.rules.requests.shapes import SHAPES
from tenantguard.rules.usage import DECODERS, CallableDecoder, UnitSource, make_decoder, stream_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.rules.usage import UsageDecoder

SSE = "text/event-stream"
LINES = "application/x-ndjson"
AMAZON = "application/vnd.amazon.eventstream"
JSON = "application/json"


def data(**members: Any) -> bytes:
    return b"data: " + json.dumps(members, separators=(",", ":")).encode() + b"\n\n"


def named(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\n".encode() + data(type=kind, **members)


def line(**members: Any) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def message(kind: str, name: str, **payload: Any) -> bytes:
    said = {":event-type" if kind == "event" else ":exception-type": name, ":message-type": kind}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\7" + len(value).to_bytes(2, "big") + value.encode()
        for key, value in said.items()
    )
    body = json.dumps(payload).encode()
    lengths = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    whole = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))


def gemini(text: str, output: int, **members: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}]}, **members}
    counts = {"promptTokenCount": 9, "candidatesTokenCount": output, "totalTokenCount": 9 + output}
    names = {"modelVersion": "gemini-2.5-pro", "responseId": "mAitaLmkHPPlz7IPvtfUqQ4"}
    return {"candidates": [candidate], "usageMetadata": counts, **names}


GEMINI = [gemini("é", 1), gemini('"\n', 2), gemini("", 3, finishReason="STOP")]
COUNTS = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
RESPONSE = {"id": "resp_68af1f03c2d481a2", "model": "gpt-5-mini"}
TOKENS = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
TALK = {"delta": {"content": "é\n"}}

STREAMS: dict[str, tuple[str, str, list[bytes]]] = {
    "openai-chat": ("openai-chat", SSE, [data(choices=[TALK]), data(choices=[], usage=COUNTS), b"data: [DONE]\n\n"]),
    "vllm": (
        "openai-chat",
        SSE,
        [data(choices=[TALK], usage={**COUNTS, "completion_tokens": n}) for n in (1, 3)] + [b"data: [DONE]\n\n"],
    ),
    "mistral": ("mistral-chat", SSE, [data(choices=[TALK]), data(choices=[TALK], usage=COUNTS), b"data: [DONE]\n\n"]),
    "openai-responses": (
        "openai-responses",
        SSE,
        [
            named("response.created", response={**RESPONSE, "usage": None}),
            named("response.output_text.delta", delta="é\n"),
            named("response.completed", response={**RESPONSE, "usage": TOKENS}),
        ],
    ),
    "openai-images": (
        "openai-images",
        SSE,
        [
            named("image_generation.partial_image", b64_json="iVBO"),
            named("image_generation.completed", b64_json="iVBO", usage=TOKENS),
        ],
    ),
    "openai-audio": (
        "openai-audio",
        SSE,
        [data(type="transcript.text.delta", delta="é\n"), data(type="transcript.text.done", text="é", usage=TOKENS)],
    ),
    "anthropic-messages": (
        "anthropic-messages",
        SSE,
        [
            named("message_start", message={"id": "msg_01XFDUDYJgAACzvn", "model": "claude-x", "usage": TOKENS}),
            named("content_block_delta", index=0, delta={"type": "text_delta", "text": "é\n"}),
            named("message_delta", delta={}, usage={"output_tokens": 3}),
            named("message_stop"),
        ],
    ),
    "gemini-generate": ("gemini-generate", SSE, [data(**chunk) for chunk in GEMINI]),
    "gemini-generate, CRLF": (
        "gemini-generate",
        SSE,
        [data(**chunk).replace(b"\n\n", b"\r\n\r\n") for chunk in GEMINI],
    ),
    "gemini-generate, pretty array": (
        "gemini-generate",
        JSON,
        [b"[", *[b",\r\n".join(json.dumps(chunk, indent=2).encode() for chunk in GEMINI)], b"\n]\n"],
    ),
    "gemini-generate, plain array": ("gemini-generate", JSON, [json.dumps(GEMINI).encode()]),
    "bedrock-converse": (
        "bedrock-converse",
        AMAZON,
        [
            message("event", "messageStart", role="assistant"),
            message("event", "contentBlockDelta", contentBlockIndex=0, delta={"text": "é\n"}),
            message("event", "messageStop", stopReason="end_turn"),
            message("event", "metadata", usage={"inputTokens": 9, "outputTokens": 3}),
        ],
    ),
    "ollama": (
        "ollama",
        LINES,
        [
            line(model="llama3.2", message={"content": "é\n"}, done=False),
            line(model="llama3.2", message={"content": ""}, done=True, prompt_eval_count=9, eval_count=3),
        ],
    ),
}
DOCUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-chat": ("openai-chat", {"choices": [], "usage": COUNTS}),
    "openai-embeddings": ("openai-embeddings", {"data": [], "usage": COUNTS}),
    "openai-responses": ("openai-responses", {**RESPONSE, "usage": TOKENS}),
    "openai-images": ("openai-images", {"data": [{"b64_json": "iVBO" * 2000}], "usage": TOKENS}),
    "openai-audio": ("openai-audio", {"text": "é", "usage": TOKENS}),
    "anthropic-messages": ("anthropic-messages", {"content": [], "usage": TOKENS}),
    "gemini-generate": ("gemini-generate", GEMINI[-1]),
    "bedrock-converse": ("bedrock-converse", {"usage": {"inputTokens": 9, "outputTokens": 3}}),
    "ollama": ("ollama", {"done": True, "prompt_eval_count": 9, "eval_count": 3}),
    "ollama-embed": ("ollama-embed", {"embeddings": [], "prompt_eval_count": 9}),
    "mistral-chat": ("mistral-chat", {"choices": [], "usage": COUNTS}),
}
PLACES = st.lists(st.integers(min_value=0), max_size=12)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


def state(decoder: UsageDecoder) -> tuple[Any, ...]:
    names = ("ended", "broken", "failed", "usage", "usage_so_far", "model", "response_id", "output_bytes")
    return tuple(getattr(decoder, name) for name in names)


def decode(make: Callable[[], UsageDecoder], chunks: Iterable[bytes]) -> UsageDecoder:
    decoder = make()
    for chunk in chunks:
        assert decoder.feed(chunk) == chunk
    assert decoder.finish() == b""
    return decoder


def split_alike(make: Callable[[], UsageDecoder], whole: bytes, parts: list[bytes], places: list[int]) -> None:
    """Every way to cut gives what the whole gives, at the end and in the middle."""
    expected = state(decode(make, [whole]))
    for chunks in (cut(whole, places), parts, [whole[at : at + 1] for at in range(len(whole))]):
        assert state(decode(make, chunks)) == expected
    prefix = whole[: places[0] % (len(whole) + 1)] if places else whole
    at_once, by_pieces = make(), make()
    at_once.feed(prefix)
    for chunk in cut(prefix, places):
        by_pieces.feed(chunk)
    assert state(at_once) == state(by_pieces)


@pytest.mark.parametrize("case", STREAMS)
def test_a_whole_stream_is_decoded(case: str) -> None:
    name, content_type, parts = STREAMS[case]
    decoder = decode(lambda: make_decoder(name, content_type=content_type), parts)
    assert (decoder.ended, decoder.broken, decoder.failed) == (True, False, False)
    assert decoder.usage is not None
    counted = decoder.usage.input_tokens + decoder.usage.audio_input_tokens
    put_out = decoder.usage.output_tokens + decoder.usage.image_output_tokens
    assert (counted, put_out, decoder.usage.requests) == (9, 3, 1)


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_stops_before_its_last_word_has_not_ended(case: str) -> None:
    name, content_type, parts = STREAMS[case]
    for length in range(len(parts)):
        decoder = decode(lambda: make_decoder(name, content_type=content_type), parts[:length])
        assert (decoder.ended, decoder.broken) == (False, True)
        if not case.startswith("openai-chat"):
            assert decoder.usage is None or case == "anthropic-messages"


@settings(max_examples=30)
@given(PLACES, st.sampled_from(sorted(STREAMS)))
def test_any_split_of_a_stream_gives_the_same(places: list[int], case: str) -> None:
    name, content_type, parts = STREAMS[case]
    split_alike(lambda: make_decoder(name, content_type=content_type), b"".join(parts), parts, places)


@pytest.mark.parametrize("case", STREAMS)
def test_byte_by_byte_gives_the_same(case: str) -> None:
    name, content_type, parts = STREAMS[case]
    split_alike(lambda: make_decoder(name, content_type=content_type), b"".join(parts), parts, [])


@settings(max_examples=60)
@given(PLACES, st.lists(st.tuples(st.sampled_from(sorted(STREAMS)), st.integers(0, 9)), max_size=6), st.data())
def test_any_split_of_anything_gives_the_same(
    places: list[int], mixed: list[tuple[str, int]], drawn: st.DataObject
) -> None:
    parts = [STREAMS[case][2][index % len(STREAMS[case][2])] for case, index in mixed]
    parts.insert(drawn.draw(st.integers(0, len(parts))), drawn.draw(st.binary(max_size=20)))
    name, content_type, _ = STREAMS[drawn.draw(st.sampled_from(sorted(STREAMS)))]
    split_alike(lambda: make_decoder(name, content_type=content_type), b"".join(parts), parts, places)


@settings(max_examples=30)
@given(PLACES, st.sampled_from(sorted(DOCUMENTS)))
def test_any_split_of_a_document_gives_the_same(places: list[int], name: str) -> None:
    body = json.dumps(DOCUMENTS[name][1]).encode()
    split_alike(lambda: make_decoder(name, content_type=JSON), body, [body], places)
    decoder = decode(lambda: make_decoder(name, content_type=JSON), [body])
    assert decoder.ended
    assert decoder.usage is not None
    assert not decode(lambda: make_decoder(name, content_type=JSON), [body[:-1]]).ended


NO_COUNTS = [-1, True, 0.5, float("nan"), float("inf"), "3", [], {}, 2**53 + 1]


def spoiled(value: Any, no_count: Any) -> Iterable[Any]:
    """The same with each of its numbers in turn replaced."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        inside = value[key]
        others = spoiled(inside, no_count) if isinstance(inside, dict | list) else ()
        for other in [no_count] if type(inside) is int else others:
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = other
            yield copy


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("no_count", NO_COUNTS)
def test_an_impossible_count_is_missing_and_never_mended(name: str, no_count: Any) -> None:
    """Totals, which no price needs, are the one exception."""
    document = DOCUMENTS[name][1]
    for other in spoiled(document, no_count):
        totals = ("total_tokens", "totalTokenCount", "completion_tokens" if name == "openai-embeddings" else "-")
        usage = decode(lambda: make_decoder(name, content_type=JSON), [json.dumps(other).encode()]).usage
        spared = any(_at(other, total) != _at(document, total) for total in totals)
        assert (usage is None) or spared


def _at(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        found = [value[name]] if name in value else [_at(inside, name) for inside in value.values()]
        return next((item for item in found if item is not None), None)
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_zero_is_a_value(name: str) -> None:
    """An explicit zero is charged as zero, not as missing."""
    text = json.dumps(DOCUMENTS[name][1])
    for number in ("9", "3", "12"):
        text = text.replace(f": {number},", ": 0,").replace(f": {number}}}", ": 0}")
    usage = decode(lambda: make_decoder(name, content_type=JSON), [text.encode()]).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.requests) == (0, 0, 1)


# the registry


def test_there_is_a_decoder_for_every_request_that_can_be_read() -> None:
    assert set(DECODERS) == set(SHAPES)


def test_an_unknown_decoder_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="openai-chat"):
        make_decoder("gemini", content_type=None)
    with pytest.raises(ConfigurationError, match="openai-chat"):
        stream_types("gemini")


def test_what_a_request_asked_for_decides_where_the_response_names_no_type() -> None:
    for case in ("openai-chat", "bedrock-converse", "ollama"):
        name, content_type, parts = STREAMS[case]
        assert stream_types(name) == {content_type}
        assert decode(partial(make_decoder, name, content_type="", streamed=True), parts).ended
        assert not decode(partial(make_decoder, name, content_type=None), parts).ended
    assert decode(
        lambda: make_decoder("openai-embeddings", content_type="", streamed=True),
        [json.dumps(DOCUMENTS["openai-embeddings"][1]).encode()],
    ).ended


# applications of their own


def units(source: str, content_type: str, *chunks: bytes, values: tuple[str, ...] = ()) -> UsageDecoder:
    return decode(lambda: UnitSource.parse(source).decoder("rows", content_type=content_type, values=values), chunks)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (("12",), 12),
        ((" 0 ",), 0),
        (("12", "12"), 12),
        (("12", "13"), None),
        (("-1",), None),
        (("1.0",), None),
        (("",), None),
        ((), None),
        (("9" * 17,), None),
        ((str(2**53 + 1),), None),
        (("\u0661",), None),
    ],
)
def test_a_header_says_how_many_units(values: tuple[str, ...], count: int | None) -> None:
    decoder = units("header:X-Usage-Tokens", "text/html", b"<p>", values=values)
    assert decoder.ended
    assert decoder.usage == (None if count is None else Usage(requests=1, units={"rows": count}))


@pytest.mark.parametrize(
    ("path", "document", "count"),
    [
        ("usage.total", {"usage": {"total": 7}}, 7),
        ("usage.total", {"usage": {"total": 0}}, 0),
        ("total", [], None),
        ("0.rows", [{"rows": 3}], 3),
        ("1.rows", [{"rows": 3}], None),
        ("usage.total", {"usage": 7}, None),
        ("usage", {"usage": True}, None),
        ("usage", {"usage": 7.0}, None),
        ("usage", {"usage": -7}, None),
        ("usage", {"usage": "7"}, None),
        ("usage", {}, None),
    ],
)
def test_a_member_of_the_response_says_how_many_units(path: str, document: Any, count: int | None) -> None:
    decoder = units(f"json:{path}", JSON, json.dumps(document).encode())
    assert decoder.ended
    assert decoder.usage == (None if count is None else Usage(requests=1, units={"rows": count}))


def test_the_last_event_that_says_it_counts() -> None:
    events = [data(usage={"total": 1}), data(text="usage total"), data(usage={"total": 5}), data(done=True)]
    assert units("json:usage.total", SSE, *events).usage == Usage(requests=1, units={"rows": 5})
    lines = [line(usage={"total": 1}), line(usage={"total": 5}), b"\n", line(done=True)[:-1]]
    assert units("json:usage.total", LINES, *lines).usage == Usage(requests=1, units={"rows": 5})
    assert units("json:usage.total", SSE, *events, data(usage={"total": "x"})).usage is None
    assert units("json:usage.total", LINES, *lines[:2], line(usage={"total": -1})).usage is None
    assert units("json:usage.total", SSE).usage is None
    assert units("json:usage.total", LINES).usage is None


@settings(max_examples=30)
@given(PLACES, st.booleans())
def test_any_split_of_what_an_application_says_gives_the_same(places: list[int], lines: bool) -> None:  # noqa: FBT001
    one = line if lines else data
    parts = [one(usage={"total": 1}), one(text="é"), one(usage={"total": 5})]
    source = UnitSource.parse("json:usage.total")
    split_alike(lambda: source.decoder("rows", content_type=LINES if lines else SSE), b"".join(parts), parts, places)


@pytest.mark.parametrize(
    "text", ["header:", "header:a b", "json:", "json:a..b", "json:.a", "xml:a", "openai-chat", ""]
)
def test_a_source_that_cannot_be_read_is_the_operators_fault(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"json:usage\.total"):
        UnitSource.parse(text)


def test_an_applications_own_function_reads_its_document() -> None:
    def read(document: dict[str, Any]) -> Usage | None:
        return Usage(units={"pages": document["pages"]}) if "pages" in document else None

    for document, usage in (({"pages": 3}, Usage(units={"pages": 3})), ({}, None)):
        decoder = decode(lambda: CallableDecoder(read), [json.dumps(document).encode()])
        assert (decoder.ended, decoder.usage) == (True, usage)
    assert not decode(lambda: CallableDecoder(read), [b"<p>"]).ended


def test_what_an_applications_own_function_raises_goes_through() -> None:
    decoder = CallableDecoder(lambda document: Usage(document["tokens"]))
    decoder.feed(b"{}")
    with pytest.raises(KeyError):
        decoder.finish()
