"""The decoder of OpenAI chat completions: usage, end and failure, for any split of the bytes."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.money import Amount
from tenantguard.model.usage import Usage
from tenantguard.rules.sse import EVENT_BYTES_MAX
from tenantguard.rules.usage import make_decoder
from tenantguard.rules.usage.decoder import DOCUMENT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.rules.usage import UsageDecoder

ID = "chatcmpl-CJ7x2v9QkP3mN8sT4uV6"
COUNTS = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
DONE = b"data: [DONE]\n\n"


def event(**members: Any) -> bytes:
    whole = {"id": ID, "object": "chat.completion.chunk", "model": "gpt-5-mini", **members}
    return b"data: " + json.dumps(whole, separators=(",", ":")).encode() + b"\n\n"


def delta(usage: Any = None, **said: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": said, "finish_reason": None}], usage=usage)


USAGE_EVENT = event(choices=[], usage=COUNTS)
PLAIN = [delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta(), USAGE_EVENT, DONE]
AZURE = [event(id="", model="", choices=[], prompt_filter_results=[{"prompt_index": 0}]), *PLAIN]
CRLF = [part.replace(b"\n", b"\r\n") for part in PLAIN]
MARKED = [b"\xef\xbb\xbf" + PLAIN[1], *PLAIN[2:]]
CR = [part.replace(b"\n", b"\r") for part in PLAIN]
NOISY = [b"\xef\xbb\xbf: hi\n\n", b"retry: 5\n\n", *PLAIN[:3], b": ping\n\n\n", *PLAIN[3:]]
SPREAD = [
    json.dumps({"choices": [], "usage": COUNTS, "id": ID}, indent=1)
    .replace("\n", "\ndata: ")
    .join(["data: ", "\n\n"])
    .encode(),
    DONE,
]
STREAMS = st.sampled_from([b"".join(stream) for stream in (PLAIN, AZURE, CRLF, CR, NOISY, SPREAD, PLAIN[:-2])])
PLACES = st.lists(st.integers(min_value=0), max_size=12)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


def by_event(stream: bytes) -> list[bytes]:
    return re.findall(rb".*?\n\n|.+\Z", stream, re.DOTALL)


def state(decoder: UsageDecoder) -> tuple[Any, ...]:
    names = ("ended", "failed", "usage", "usage_so_far", "model", "response_id", "output_bytes")
    return tuple(getattr(decoder, name) for name in names)


def stream(chunks: Iterable[bytes], *, strip: bool = False) -> tuple[bytes, UsageDecoder]:
    decoder = make_decoder("openai-chat", content_type="text/event-stream; charset=utf-8", strip_usage=strip)
    out = b"".join([decoder.feed(chunk) for chunk in chunks])
    return out + decoder.finish(), decoder


def document(body: bytes, *, pieces: int = 1) -> UsageDecoder:
    decoder = make_decoder("openai-chat", content_type="application/json")
    size = max(1, len(body) // pieces)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(decoder.feed(chunk) for chunk in chunks) == body
    assert decoder.finish() == b""
    return decoder


# streams


@pytest.mark.parametrize("parts", [PLAIN, CRLF, CR, NOISY, MARKED], ids=["lf", "crlf", "cr", "noisy", "marked"])
def test_a_whole_stream_is_decoded_and_leaves_untouched(parts: list[bytes]) -> None:
    out, decoder = stream(parts)
    assert out == b"".join(parts)
    assert state(decoder) == (True, False, Usage(12, 5, requests=1), None, "gpt-5-mini", ID, 5)
    assert not decoder.rewrites


@given(STREAMS, PLACES, st.booleans())
def test_any_split_gives_the_same(whole: bytes, places: list[int], strip: bool) -> None:  # noqa: FBT001
    out, decoder = stream([whole], strip=strip)
    for chunks in (cut(whole, places), by_event(whole), [whole[at : at + 1] for at in range(len(whole))]):
        out_again, again = stream(chunks, strip=strip)
        assert out_again == out
        assert state(again) == state(decoder)


SOUP = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            b"\xef\xbb\xbf",
            b"data: ",
            b"data:",
            b"event: error",
            b": note",
            b"[DONE]",
            b'{"choices":[],',
            b'"usage":{"prompt_tokens":1,"completion_tokens":2}}',
            b'{"choices":[{"delta":{"content":"abc"}}]}',
            USAGE_EVENT,
            PLAIN[1],
        ],
    ),
    max_size=20,
).map(b"".join)


@given(SOUP, PLACES, st.booleans())
def test_any_split_of_anything_gives_the_same(whole: bytes, places: list[int], strip: bool) -> None:  # noqa: FBT001
    out, decoder = stream([whole[at : at + 1] for at in range(len(whole))], strip=strip)
    for chunks in (cut(whole, places), by_event(whole), [whole]):
        out_again, again = stream(chunks, strip=strip)
        assert out_again == out
        assert state(again) == state(decoder)


@given(STREAMS, PLACES, st.integers(min_value=0), st.booleans())
def test_what_is_known_mid_stream_depends_on_the_bytes_alone(
    whole: bytes,
    places: list[int],
    until: int,
    strip: bool,  # noqa: FBT001
) -> None:
    prefix = whole[: until % (len(whole) + 1)]
    one = make_decoder("openai-chat", content_type="text/event-stream", strip_usage=strip)
    many = make_decoder("openai-chat", content_type="text/event-stream", strip_usage=strip)
    one_out = one.feed(prefix)
    assert b"".join([many.feed(chunk) for chunk in cut(prefix, places)]) == one_out
    assert state(one) == state(many)


@given(PLACES, st.sampled_from([PLAIN, AZURE, CRLF, CR, NOISY]))
def test_the_usage_event_alone_is_stripped(places: list[int], parts: list[bytes]) -> None:
    out, decoder = stream(cut(b"".join(parts), places), strip=True)
    assert out == b"".join(part for part in parts if b"prompt_tokens" not in part)
    assert (decoder.usage, decoder.ended, decoder.rewrites) == (Usage(12, 5, requests=1), True, True)


def test_an_empty_list_of_choices_alone_is_no_usage_event() -> None:
    azure = event(choices=[], prompt_filter_results=[])
    null = event(choices=[], usage=None)
    out, decoder = stream([azure, null, DONE], strip=True)
    assert out == azure + null + DONE
    assert decoder.usage is None


def test_usage_beside_a_choice_is_not_stripped() -> None:
    last = delta(usage=COUNTS, content="x")
    out, decoder = stream([last, DONE], strip=True)
    assert out == last + DONE
    assert decoder.usage == Usage(12, 5, requests=1)


def test_a_usage_event_with_impossible_counts_is_stripped_and_missing() -> None:
    out, decoder = stream([event(choices=[], usage={"prompt_tokens": -1}), DONE], strip=True)
    assert (out, decoder.usage, decoder.ended) == (DONE, None, True)


def test_continuous_usage_is_cumulative_so_the_last_word_counts() -> None:
    parts = [delta(usage={**COUNTS, "completion_tokens": count}, content="x") for count in (1, 2, 3)]
    _, decoder = stream([*parts, event(choices=[], usage={**COUNTS, "completion_tokens": 3}), DONE])
    assert decoder.usage == Usage(12, 3, requests=1)


def test_the_end_is_known_as_soon_as_its_line_is_whole() -> None:
    decoder = make_decoder("openai-chat", content_type="text/event-stream")
    for byte in b"".join(PLAIN[:-1]) + b"data: [DONE]":
        decoder.feed(bytes([byte]))
        assert not decoder.ended
    decoder.feed(b"\n")
    assert decoder.ended


@pytest.mark.parametrize("strip", [True, False])
def test_what_follows_the_end_passes_unread(strip: bool) -> None:  # noqa: FBT001
    more = event(choices=[], usage={**COUNTS, "completion_tokens": 9}) + b"data: {"
    for parts in ([b"".join(PLAIN[:2]) + b"data: [DONE]\r\n\r\n" + more, more], [DONE, more, more]):
        out, decoder = stream(parts, strip=strip)
        assert out.endswith(more + more)
        assert (decoder.ended, decoder.usage) == (True, None)


@pytest.mark.parametrize("ending", [b"", DONE[:-2], DONE[:-1]])
def test_a_stream_without_its_last_line_break_is_read_to_the_end(ending: bytes) -> None:
    out, decoder = stream([*PLAIN[:-1], ending], strip=True)
    assert out == b"".join(PLAIN[:-2]) + ending
    assert decoder.ended == bool(ending)


def test_a_cut_stream_has_no_end_and_counts_what_it_said() -> None:
    whole = b"".join(PLAIN)
    for length in range(len(whole) - 3):
        _, decoder = stream([whole[:length]])
        assert not decoder.ended
        seen = [text for text in (b"Hel", b"lo") if b'"content":"%s"' % text in whole[:length]]
        assert decoder.output_bytes == len(b"".join(seen))


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"error":{"message":"overloaded","code":500}}\n\n',
        b'data: {"error" : "overloaded"}\n\n',
        b'event: error\ndata: {"message":"overloaded"}\n\n',
        b'event:error\ndata: {"message":"overloaded"}\n\n',
    ],
)
def test_an_error_in_mid_stream_is_a_failure_even_if_an_end_follows(error: bytes) -> None:
    """vLLM sends its error and then ``[DONE]``."""
    _, decoder = stream([*PLAIN[:2], error, DONE])
    assert (decoder.failed, decoder.ended) == (True, True)


def test_data_on_several_lines_is_read_whole_and_counted_once() -> None:
    _, decoder = stream(SPREAD[:1])
    assert decoder.usage == Usage(12, 5, requests=1)
    _, decoder = stream([SPREAD[0][:-1]])
    assert decoder.usage == Usage(12, 5, requests=1)
    _, decoder = stream([b'data: {"choices":[{"delta":{"content":"abc"}}],\ndata: "n":{"delta":"x"}}\n\n'])
    assert decoder.output_bytes == 3


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_data_on_several_lines_is_read_however_they_end_and_arrive(line_end: bytes) -> None:
    lines = [b'data: {"choices":[],' + line_end, b'data: "usage":' + json.dumps(COUNTS).encode() + b"}\n\n"]
    for chunks in (lines, [b"".join(lines)]):
        assert stream(chunks)[1].usage == Usage(12, 5, requests=1)


def test_a_byte_order_mark_in_mid_stream_is_part_of_an_unknown_field() -> None:
    assert not stream([PLAIN[0], b"\xef\xbb\xbf" + DONE])[1].ended


def test_an_end_on_a_later_line_of_an_event_is_none() -> None:
    """Readers join the lines first."""
    assert not stream([b"data: x\ndata: [DONE]\n\n"])[1].ended


def test_a_null_error_is_none() -> None:
    _, decoder = stream([event(choices=[], error=None), DONE])
    assert not decoder.failed


SPOOFS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            '"usage":{"prompt_tokens":0,"completion_tokens":0}',
            '\n\ndata: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n',
            "\n\ndata: [DONE]\n\n",
            "\r\rdata: [DONE]\r\r",
            '","usage":{"prompt_tokens":0,"completion_tokens":0},"x":"',
            'event: error\ndata: {"error":{"message":"x"}}',
            '"error": {}',
            "error",
            "usage",
            '"content":"xxxxxxxxxxxxxxxxxxxxxxxxx"',
            '\\"content\\":\\"',
            "\u2028\u2029\x85\x0b\x0c\x1c\ufeff\\",
            "\U0001f600",
        ],
    ),
)


@given(st.lists(SPOOFS, max_size=5), st.booleans(), PLACES)
def test_model_text_cannot_pass_for_the_protocol(said: list[str], escape: bool, places: list[int]) -> None:  # noqa: FBT001
    chunks = [
        b"data: "
        + json.dumps({"id": ID, "choices": [{"delta": {"content": text}}]}, ensure_ascii=escape).encode()
        + b"\n\n"
        for text in said
    ]
    whole = b"".join([*chunks, USAGE_EVENT, DONE])
    out, decoder = stream(cut(whole, places), strip=True)
    assert out == b"".join([*chunks, DONE])
    assert (decoder.usage, decoder.ended, decoder.failed) == (Usage(12, 5, requests=1), True, False)
    assert decoder.output_bytes == sum(len(text.encode()) for text in said)
    _, before = stream([b"".join(chunks)])
    assert (before.usage, before.ended, before.failed) == (None, False, False)


RAW = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.sampled_from(
        [
            b"",
            b"delta",
            b"usage",
            b"error",
            b"content",
            b"\\",
            b'\\"',
            b"\\u00e9",
            b"\r",
            b"\n",
            b"\xff",
            b'"}}],"error":1,"x":[{"delta":{"content":"',
            b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"x":"',
            b'","reasoning":"think',
            b'"}}]}\n\ndata: [DONE]\n\ndata: {"choices":[{"delta":{"content":"',
            b'"}}]}\n\nevent: error\ndata: {"choices":[{"delta":{"content":"',
        ],
    ),
)
FORMS = st.sampled_from(
    [
        (b'data: {"choices":[{"delta":{"content":"', b'"}}]}\n\n'),
        (b'data: {"choices": [{"delta": {"reasoning": "', b'" , "role": null}}], "usage": null}\n\n'),
        (b'data: {"choices":[{"delta":{"content":"a"}},{"delta":{"content":"', b'"}}]}\n\n'),
        (b'data: {"choices":[{"delta":{"content":"', b'","reasoning_content":"b"}}]}\n\n'),
        (b'data: {"choices":[{"delta":{"content":"', b'":{}}}]}\n\n'),
        (b'event: x\ndata: {"choices":[{"delta":{"content":"', b'"}}]}\n\n'),
    ]
)


@given(FORMS, st.lists(st.tuples(FORMS, RAW), max_size=12), st.integers(0, 12), st.booleans())
def test_events_of_one_form_are_read_as_each_by_itself(
    usual: tuple[bytes, bytes],
    said: list[tuple[tuple[bytes, bytes], bytes]],
    usage_at: int,
    strip: bool,  # noqa: FBT001
) -> None:
    events = [
        before + text + after
        for number, (form, text) in enumerate(said)
        for before, after in [form if number % 4 == 3 else usual]
    ]
    chunks = [PLAIN[0], *events[:usage_at], USAGE_EVENT, *events[usage_at:], DONE]
    whole = b"".join(chunks)
    out, decoder = stream([whole[at : at + 1] for at in range(len(whole))], strip=strip)
    by_chunk, again = stream(chunks, strip=strip)
    assert by_chunk == out
    assert state(again) == state(decoder)


def test_an_event_that_only_begins_and_ends_like_the_one_before_is_read_anew() -> None:
    """Whatever stands in the place of a text and is more than that counts, and fails, as anywhere else."""
    other = delta(content='x"}}],"error":"late","more":[{"delta":{"content":"').replace(b'\\"', b'"')
    assert stream([PLAIN[0], delta(content="a"), other, DONE])[1].failed
    two = delta(content="bc") + delta(content="def")
    assert stream([PLAIN[0], delta(content="a"), two])[1].output_bytes == 6
    ended = delta(content="bc") + DONE + delta(content="not read")
    assert stream([PLAIN[0], delta(content="a"), ended])[1].output_bytes == 3
    assert stream([PLAIN[0], delta(content="a"), delta(content="\n\u00e9")])[1].output_bytes == 4
    begins, ends = delta(content="|").split(b"|")
    _, decoder = stream([PLAIN[0], delta(content="a"), begins + ends[1:]])
    assert decoder.output_bytes == 1 + len(b"},")
    assert stream([PLAIN[0], delta(content="a"), DONE, delta(content="bc")])[1].output_bytes == 1
    assert stream([PLAIN[0], delta(content="a"), b": a comment ", delta(content="bc")])[1].output_bytes == 1
    odd = [b'data: {"choices":[{"delta":{"content":"%b":{}}}]}\n\n' % name for name in (b"a", b"usage")]
    assert stream([PLAIN[0], odd[0], USAGE_EVENT, odd[1], DONE])[1].usage is None


def test_every_kind_of_generated_text_is_counted_once() -> None:
    tool = [{"index": 0, "function": {"name": "f", "arguments": '{"a":"b"}'}}]
    parts = [
        delta(content="four"),
        delta(refusal="no"),
        delta(tool_calls=tool),
        delta(reasoning_content="think", reasoning="think"),
        delta(reasoning="think"),
        event(choices=[{"delta": {"content": "é\n"}}, {"delta": {"content": "b"}}]),
        event(content="not a delta", choices=[]),
    ]
    assert stream(parts)[1].output_bytes == 4 + 2 + 9 + 5 + 5 + 3 + 1


def test_a_broken_escape_is_counted_as_written() -> None:
    assert stream([b'data: {"choices":[{"delta":{"content":"\\q"}}]}\n\n'])[1].output_bytes == 2


HUGE = b"data: " + b"x" * EVENT_BYTES_MAX
MANY_LINES = b"data: x\n" * (EVENT_BYTES_MAX // 8 + 1)


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("huge", [HUGE, MANY_LINES + b"data: x", b": a\n" + HUGE], ids=["line", "lines", "comment"])
def test_an_event_above_the_limit_passes_unread_and_what_follows_is_read(
    huge: bytes, end: bytes, *, strip: bool
) -> None:
    huge = huge.replace(b"\n", end) + end + end
    first, *following = [part.replace(b"\n", end) for part in PLAIN[1:]]
    without, expected = stream([first, *following], strip=strip)
    for parts in (
        [huge, *following],
        [huge[:100], huge[100:], *following],
        [huge[:-1], huge[-1:], *following],
        [*[huge[at : at + 2_000_000] for at in range(0, len(huge), 2_000_000)], *following],
        [huge + following[0], *following[1:]],
        [huge + b"".join(following)],
    ):
        out, decoder = stream([first, *parts], strip=strip)
        assert out == first + huge + without[len(first) :]
        assert (decoder.ended, decoder.usage) == (True, expected.usage)


@pytest.mark.parametrize(
    ("after", "ended", "failed"),
    [
        ([], True, False),
        ([b": ping\n\n"], True, False),
        ([b"data: {"], False, False),
        ([b'data: {"error":{"message":"x"}}\n\n'], False, True),
    ],
)
def test_where_an_event_above_the_limit_may_have_been_the_end_usage_is_missing(
    after: list[bytes], *, ended: bool, failed: bool
) -> None:
    """What left whole is not given away; what broke off behind it, or reported an error, is no success."""
    decoder = stream([PLAIN[1], HUGE + b"\n\n", *after])[1]
    assert (decoder.ended, decoder.failed, decoder.usage) == (ended, failed, None)


def test_an_event_above_the_limit_that_is_not_whole_is_no_end() -> None:
    decoder = stream([PLAIN[1], HUGE])[1]
    assert (decoder.ended, decoder.broken) == (False, True)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_may_be_longer_than_the_limit_of_one_event(end: bytes) -> None:
    long = delta(content="x" * (EVENT_BYTES_MAX // 4)).replace(b"\n", end)
    _, decoder = stream([*[long] * 5, *PLAIN])
    assert (decoder.ended, decoder.output_bytes) == (True, 5 * (EVENT_BYTES_MAX // 4) + 5)


def test_only_events_that_can_matter_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def loads(data: bytes) -> Any:
        parsed.append(data)
        return json.JSONDecoder().decode(data.decode())

    monkeypatch.setattr("tenantguard.rules.usage.decoder.json.loads", loads)
    stream([PLAIN[0], *[event(choices=[{"delta": {"content": "a"}}], error=None)] * 1000, *PLAIN[3:]], strip=True)
    assert len(parsed) == 2


# documents


def completion(**members: Any) -> bytes:
    return json.dumps({"id": ID, "model": "gpt-5-mini", "choices": [], "usage": COUNTS, **members}).encode()


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_a_document_is_decoded_at_its_end(pieces: int) -> None:
    decoder = document(completion(), pieces=pieces)
    assert state(decoder) == (True, False, Usage(12, 5, requests=1), None, "gpt-5-mini", ID, 0)
    assert not decoder.rewrites


def test_a_document_is_not_ended_before_its_end() -> None:
    decoder = make_decoder("openai-chat", content_type="application/json")
    decoder.feed(completion())
    assert (decoder.ended, decoder.usage) == (False, None)


@pytest.mark.parametrize("body", [completion()[:-1], b"", b"[]", b"null", b"<html>", b"\xff", b"[" * 10_000, b"{}{}"])
def test_what_is_no_whole_document_has_not_ended(body: bytes) -> None:
    """E+17"""
    decoder = document(body)
    assert (decoder.ended, decoder.usage) == (False, None)


def test_an_error_document_is_a_failure() -> None:
    decoder = document(b'{"error":{"message":"no","type":"server_error"}}')
    assert (decoder.failed, decoder.usage) == (True, None)
    assert not document(completion(error=None)).failed


def test_usage_of_a_document_above_the_limit_is_missing_but_its_end_is_seen() -> None:
    padding = " " * DOCUMENT_BYTES_MAX
    for body in (completion(padding=padding), completion() + padding.encode(), padding.encode() + completion()):
        for pieces in (1, 7):
            decoder = document(body, pieces=pieces)
            assert (decoder.ended, decoder.usage) == (True, None)
    assert not document(completion(padding=padding)[:-2]).ended


# counts


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (COUNTS, Usage(12, 5, requests=1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(requests=1)),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 10}}, Usage(2, 5, 10, requests=1)),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 12}}, Usage(0, 5, 12, requests=1)),
        (
            {**COUNTS, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}},
            Usage(5, 5, 4, 3, requests=1),
        ),
        ({**COUNTS, "prompt_tokens_details": None}, Usage(12, 5, requests=1)),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": None}}, Usage(12, 5, requests=1)),
        (
            {**COUNTS, "completion_tokens_details": {"reasoning_tokens": 4}},
            Usage(12, 5, requests=1, reasoning_tokens=4),
        ),
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 6}}, None),
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": -1}}, None),
        (
            {**COUNTS, "prompt_tokens_details": {"audio_tokens": 10, "cached_tokens": 1}},
            Usage(1, 5, 1, requests=1, audio_input_tokens=10),
        ),
        (
            {**COUNTS, "completion_tokens_details": {"audio_tokens": 3, "image_tokens": 1}},
            Usage(12, 1, requests=1, audio_output_tokens=3, image_output_tokens=1),
        ),
        ({**COUNTS, "completion_tokens_details": {"audio_tokens": 6}}, None),
        ({**COUNTS, "prompt_tokens_details": {"audio_tokens": 13}}, None),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 13}}, None),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 3}}, None),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": -1}}, None),
        ({**COUNTS, "prompt_tokens_details": {"cached_tokens": False}}, None),
        ({**COUNTS, "prompt_tokens_details": []}, None),
        ({"prompt_tokens": 12}, None),
        ({"completion_tokens": 5}, None),
        ({**COUNTS, "prompt_tokens": None}, None),
        ({**COUNTS, "prompt_tokens": -1}, None),
        ({**COUNTS, "completion_tokens": -1}, None),
        ({**COUNTS, "completion_tokens": True}, None),
        ({**COUNTS, "prompt_tokens": 12.0, "completion_tokens": 5.0}, Usage(12, 5, requests=1)),
        ({**COUNTS, "completion_tokens": 5.5}, None),
        ({**COUNTS, "completion_tokens": -5.0}, None),
        ({**COUNTS, "completion_tokens": float("nan")}, None),
        ({**COUNTS, "completion_tokens": "5"}, None),
        ({**COUNTS, "completion_tokens": 2**53 + 1}, None),
        ({}, None),
        ([], None),
        ("5", None),
        (None, None),
    ],
)
def test_counts_are_exact_or_missing(counts: Any, usage: Usage | None) -> None:
    """Zero is a value; what is impossible is missing, never mended."""
    assert document(completion(usage=counts)).usage == usage
    assert stream([event(choices=[], usage=counts), DONE])[1].usage == usage


@pytest.mark.parametrize("short", ["chatcmpl-373", "", 7, None, "x" * 257])
def test_an_id_that_may_come_back_is_none(short: object) -> None:
    assert document(completion(id=short)).response_id is None


def test_the_model_is_named_by_the_first_event_that_names_one() -> None:
    _, decoder = stream([b"".join(AZURE)])
    assert (decoder.model, decoder.response_id) == ("gpt-5-mini", ID)
    _, decoder = stream([PLAIN[0], event(model="another", id="chatcmpl-another-response", usage=COUNTS)])
    assert (decoder.model, decoder.response_id) == ("gpt-5-mini", ID)


# servers that differ


def test_counts_in_groqs_own_member_are_read() -> None:
    last = event(
        choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq={"id": "req_1", "usage": COUNTS}
    )
    assert stream([PLAIN[1], last, DONE])[1].usage == Usage(12, 5, requests=1)
    assert stream([PLAIN[1], last])[1].usage is None
    _, decoder = stream([PLAIN[1], event(choices=[], x_groq={"error": "over_capacity"}), DONE])
    assert decoder.failed


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4}, Usage(4, 5, 8, requests=1)),
        ({"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 12}, Usage(12, 5, requests=1)),
        ({"prompt_cache_hit_tokens": 8}, Usage(4, 5, 8, requests=1)),
        (
            {
                "prompt_cache_hit_tokens": 8,
                "prompt_cache_miss_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
            Usage(4, 5, 8, requests=1),
        ),
        ({"prompt_cache_hit_tokens": 8, "prompt_tokens_details": {"cached_tokens": 7}}, None),
        ({"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 5}, None),
        ({"prompt_cache_hit_tokens": 13, "prompt_cache_miss_tokens": 0}, None),
        ({"prompt_cache_hit_tokens": -1, "prompt_cache_miss_tokens": 13}, None),
    ],
)
def test_deepseeks_hits_and_misses_are_the_prompt(counts: dict[str, Any], usage: Usage | None) -> None:
    assert document(completion(usage={**COUNTS, **counts})).usage == usage


def test_reasoning_that_the_total_counts_besides_the_completion_is_output() -> None:
    """xAI: 32 + 9 + 94 = 135. OpenAI: 32 + 103 = 135, of which 94 are reasoning."""
    details = {"completion_tokens_details": {"reasoning_tokens": 94}}
    beside = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135, **details}
    inside = {"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135, **details}
    for counts in (beside, inside):
        assert document(completion(usage=counts)).usage == Usage(32, 103, requests=1, reasoning_tokens=94)
    assert document(completion(usage={**beside, "total_tokens": 41})).usage is None


@pytest.mark.parametrize(
    ("said", "nanos"),
    [
        ({"cost": 0.95}, 950_000_000),
        ({"cost": 0}, 0),
        ({"cost": 1.5e-7}, 150),
        ({"cost": 0.0000000005}, 0),
        ({"cost": 0.0000000015}, 2),
        ({"cost": 0.1, "cost_details": {"upstream_inference_cost": 0.2}}, 100_000_000),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 300_000_000),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0360795}}, 36_079_500),
        ({"cost": 0, "is_byok": True}, None),
        ({"cost": 0, "is_byok": True, "cost_details": 7}, None),
        ({"cost": -0.1}, None),
        ({"cost": float("nan")}, None),
        ({"cost": float("inf")}, None),
        ({"cost": 1e300}, None),
        ({"cost": 9_223_372_036.5, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}}, None),
        ({"cost": "0.1"}, None),
        ({"cost": True}, None),
        ({"cost": {"total_cost": 0.1}}, None),
        ({}, None),
    ],
)
def test_a_cost_that_the_provider_reports_is_kept_to_the_billionth(said: dict[str, Any], nanos: int | None) -> None:
    """A cost that is none leaves the counts as they are."""
    cost = None if nanos is None else Amount(nanos, "USD")
    usage = Usage(12, 5, requests=1, reported_cost=cost)
    assert document(completion(usage={**COUNTS, **said})).usage == usage
    assert stream([event(choices=[], usage={**COUNTS, **said}), DONE])[1].usage == usage


@pytest.mark.parametrize(
    ("tier", "kept"),
    [("flex", "flex"), ("default", "default"), (None, None), (7, None), ("", None), ("a b", None), ("x" * 33, None)],
)
def test_the_service_tier_is_the_responses_own(tier: object, kept: str | None) -> None:
    assert document(completion(service_tier=tier)).usage == Usage(12, 5, requests=1, service_tier=kept)


def test_running_totals_are_the_usage_so_far_until_the_end_is_seen() -> None:
    parts = [delta(usage={**COUNTS, "completion_tokens": count}, content="x") for count in (1, 2, 3)]
    _, cut_off = stream(parts)
    assert (cut_off.usage, cut_off.usage_so_far) == (None, Usage(12, 3, requests=1))
    _, whole = stream([*parts, DONE])
    assert (whole.usage, whole.usage_so_far) == (Usage(12, 3, requests=1), None)
    _, spoiled = stream([*parts, delta(usage={"prompt_tokens": -1}), DONE])
    assert spoiled.usage is None
    _, later = stream([USAGE_EVENT, parts[0], DONE])
    assert later.usage == Usage(12, 1, requests=1)


def test_running_totals_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def loads(data: bytes) -> Any:
        parsed.append(data)
        return json.JSONDecoder().decode(data.decode())

    monkeypatch.setattr("tenantguard.rules.usage.decoder.json.loads", loads)
    stream([delta(usage=COUNTS, content="x")] * 1000 + [DONE])
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "content_type", ["text/event-stream", "Text/Event-Stream;charset=UTF-8", " text/event-stream "]
)
def test_the_content_type_says_whether_it_is_a_stream(content_type: str) -> None:
    assert make_decoder("openai-chat", content_type=content_type, strip_usage=True).rewrites
    assert not make_decoder("openai-chat", content_type="application/json", strip_usage=True).rewrites
    assert not make_decoder("openai-chat", content_type=None, strip_usage=True).rewrites
