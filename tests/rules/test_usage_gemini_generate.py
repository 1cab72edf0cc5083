"""The decoder of Gemini: running totals, an end without a last word, and counts that are left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.model.usage import Usage
from tenantguard.rules.usage import make_decoder

if TYPE_CHECKING:
    from tenantguard.rules.usage import UsageDecoder

ID = "mAitaLmkHPPlz7IPvtfUqQ4"
COUNTS = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
STOP = {"finishReason": "STOP"}


def chunk(text: str = "", usage: Any = COUNTS, *, candidate: dict[str, Any] | None = None, **members: Any) -> Any:
    said = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **(candidate or {})}
    whole = {"candidates": [said], "modelVersion": "gemini-2.5-pro", "responseId": ID, **members}
    return whole if usage is None else {**whole, "usageMetadata": usage}


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


def stream(*documents: Any) -> UsageDecoder:
    decoder = make_decoder("gemini-generate", content_type="text/event-stream")
    for document in documents:
        part = event(document)
        assert decoder.feed(part) == part
    assert decoder.finish() == b""
    return decoder


def array(*documents: Any, indent: int | None = 2, end: bytes = b"]") -> UsageDecoder:
    decoder = make_decoder("gemini-generate", content_type="application/json; charset=UTF-8")
    decoder.feed(b"[")
    for number, document in enumerate(documents):
        decoder.feed((b",\r\n" if number else b"") + json.dumps(document, indent=indent).encode())
    decoder.feed(end)
    decoder.finish()
    return decoder


def one(document: Any) -> UsageDecoder:
    decoder = make_decoder("gemini-generate", content_type="application/json")
    decoder.feed(json.dumps(document).encode())
    decoder.finish()
    return decoder


def every_way(*documents: Any) -> list[UsageDecoder]:
    return [stream(*documents), array(*documents), array(*documents, indent=None)]


def test_running_totals_are_not_added_up() -> None:
    totals = [{**COUNTS, "candidatesTokenCount": count, "totalTokenCount": 10 + count} for count in (1, 2, 30)]
    for decoder in every_way(chunk("a", totals[0]), chunk("b", totals[1]), chunk("c", totals[2], candidate=STOP)):
        assert (decoder.ended, decoder.failed, decoder.usage) == (True, False, Usage(10, 30, requests=1))
        assert (decoder.model, decoder.response_id) == ("gemini-2.5-pro", ID)


def test_the_end_is_not_known_before_the_end_of_the_body() -> None:
    """Some models gave every chunk a reason to finish."""
    decoder = make_decoder("gemini-generate", content_type="text/event-stream")
    decoder.feed(event(chunk("a", {**COUNTS, "candidatesTokenCount": 1}, candidate=STOP)))
    assert (decoder.ended, decoder.usage) == (False, None)
    decoder.feed(event(chunk("b", candidate=STOP)))
    decoder.finish()
    assert (decoder.ended, decoder.usage) == (True, Usage(10, 5, requests=1))


def test_a_last_chunk_without_a_reason_to_finish_is_no_end() -> None:
    for decoder in every_way(chunk("a", candidate=STOP), chunk("b")):
        assert (decoder.ended, decoder.broken, decoder.usage is None or not decoder.ended) == (False, True, True)


def test_an_array_that_was_cut_off_has_no_end_but_what_it_said() -> None:
    decoder = array(chunk("abc"), chunk("dé", candidate=STOP), end=b"")
    assert (decoder.ended, decoder.broken, decoder.usage) == (False, True, None)
    assert (decoder.usage_so_far, decoder.output_bytes) == (Usage(10, 5, requests=1), 6)


def test_what_an_array_has_so_far_is_known_in_mid_stream() -> None:
    decoder = make_decoder("gemini-generate", content_type="application/json")
    assert (decoder.usage_so_far, decoder.output_bytes) == (None, 0)
    decoder.feed(b"[" + json.dumps(chunk("abc")).encode()[:-1])
    assert (decoder.usage_so_far, decoder.output_bytes) == (None, 0)
    decoder.feed(b"},")
    assert (decoder.usage_so_far, decoder.output_bytes) == (Usage(10, 5, requests=1), 3)
    decoder.feed(b"7")
    assert decoder.output_bytes == 3


def test_a_prompt_that_was_blocked_is_an_answer() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "gemini-2.5-pro"}
    counts = {"promptTokenCount": 10, "totalTokenCount": 10}
    for decoder in [*every_way({**blocked, "usageMetadata": counts}), one({**blocked, "usageMetadata": counts})]:
        assert (decoder.ended, decoder.usage) == (True, Usage(10, requests=1))


def test_usage_after_the_last_words_counts_and_older_usage_does_not() -> None:
    late = {"usageMetadata": {**COUNTS, "candidatesTokenCount": 7}}
    for decoder in every_way(chunk("a"), chunk("b", None, candidate=STOP), late):
        assert (decoder.ended, decoder.usage) == (True, Usage(10, 7, requests=1))
    for decoder in every_way(chunk("a"), chunk("b", None, candidate=STOP)):
        assert (decoder.ended, decoder.usage) == (True, None)


def test_an_error_in_mid_stream_is_a_failure() -> None:
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    for decoder in [*every_way(chunk("a"), error), *every_way(chunk("a", candidate=STOP), error), one(error)]:
        assert decoder.failed


def test_what_a_model_calls_with_cannot_pass_for_the_protocol() -> None:
    """The arguments of a call are objects of the model's own."""
    spoof = {"finishReason": "STOP", "error": {"code": 1}, "usageMetadata": {"promptTokenCount": 0}}
    call = {"content": {"parts": [{"functionCall": {"name": "f", "args": spoof}}]}}
    decoder = stream(chunk(None, candidate=call))  # type: ignore[arg-type]
    assert (decoder.ended, decoder.failed, decoder.usage_so_far) == (False, False, Usage(10, 5, requests=1))
    assert decoder.output_bytes == len(json.dumps(spoof, separators=(",", ":")))
    cut_off = array(chunk("a", candidate=call), end=b"")
    assert (cut_off.ended, cut_off.usage_so_far) == (False, Usage(10, 5, requests=1))


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (COUNTS, Usage(10, 5, requests=1)),
        # thoughts are output, on top of the candidates or, if the total says so, inside
        (
            {**COUNTS, "thoughtsTokenCount": 3, "totalTokenCount": 18},
            Usage(10, 8, requests=1, reasoning_tokens=3),
        ),
        ({**COUNTS, "thoughtsTokenCount": 3}, Usage(10, 5, requests=1, reasoning_tokens=3)),
        # what was cached is inside the prompt, tokens of tool use come on top
        ({**COUNTS, "cachedContentTokenCount": 4}, Usage(6, 5, 4, requests=1)),
        ({**COUNTS, "cachedContentTokenCount": 10}, Usage(0, 5, 10, requests=1)),
        ({**COUNTS, "cachedContentTokenCount": 11}, None),
        ({**COUNTS, "toolUsePromptTokenCount": 7, "totalTokenCount": 22}, Usage(17, 5, requests=1)),
        # a zero is left out, and the total shows it
        ({"promptTokenCount": 10, "totalTokenCount": 10}, Usage(10, requests=1)),
        (
            {"promptTokenCount": 10, "thoughtsTokenCount": 3, "totalTokenCount": 13},
            Usage(10, 3, requests=1, reasoning_tokens=3),
        ),
        ({"promptTokenCount": 10, "toolUsePromptTokenCount": 2, "totalTokenCount": 12}, Usage(12, requests=1)),
        ({"promptTokenCount": 10, "totalTokenCount": 15}, None),
        ({"promptTokenCount": 10}, None),
        ({"candidatesTokenCount": 5}, None),
        # other kinds than text
        (
            {
                **COUNTS,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 2},
                    {"modality": "AUDIO", "tokenCount": 8},
                ],
                "cachedContentTokenCount": 4,
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}, {"modality": "TEXT", "tokenCount": 1}],
            },
            Usage(1, 5, 4, requests=1, audio_input_tokens=5),
        ),
        (
            {
                **COUNTS,
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 3},
                    {"modality": "AUDIO", "tokenCount": 1},
                    {"modality": "TEXT"},
                ],
            },
            Usage(10, 1, requests=1, audio_output_tokens=1, image_output_tokens=3),
        ),
        ({**COUNTS, "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 6}]}, None),
        ({**COUNTS, "candidatesTokensDetails": [7]}, None),
        ({**COUNTS, "promptTokensDetails": {"modality": "AUDIO"}}, None),
        (
            {**COUNTS, "trafficType": "PROVISIONED_THROUGHPUT"},
            Usage(10, 5, requests=1, service_tier="PROVISIONED_THROUGHPUT"),
        ),
        ({**COUNTS, "promptTokenCount": -1}, None),
        ({**COUNTS, "candidatesTokenCount": 5.0}, None),
        ([], None),
    ],
)
def test_counts_are_exact_or_missing(counts: Any, usage: Usage | None) -> None:
    for decoder in [*every_way(chunk("a", counts, candidate=STOP)), one(chunk("a", counts, candidate=STOP))]:
        assert (decoder.ended, decoder.usage) == (True, usage)


@pytest.mark.parametrize("odd", [[1], [{"candidates": 7}], [[]], 7, "x"])
def test_what_is_no_answer_has_not_ended(odd: Any) -> None:
    assert not one(odd).ended


@pytest.mark.parametrize("content", [7, {"parts": 7}, {"parts": [7]}, {"parts": [{"functionCall": 7}]}])
def test_parts_of_another_shape_are_passed_over(content: Any) -> None:
    decoder = stream(chunk("", candidate={"content": content, **STOP}))
    assert (decoder.ended, decoder.output_bytes) == (True, 0)
    assert stream({"candidates": [7], "functionCall": 1, "usageMetadata": COUNTS}).ended is False


def test_a_line_that_is_no_json_is_passed_over() -> None:
    decoder = make_decoder("gemini-generate", content_type="text/event-stream")
    decoder.feed(b"data: finishReason\n\ndata: x\n\n" + event(chunk("a", candidate=STOP)))
    decoder.finish()
    assert (decoder.ended, decoder.usage) == (True, Usage(10, 5, requests=1))
