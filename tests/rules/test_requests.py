"""Model calls: what a request says, and how its body is bounded."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.rules.requests import Call, Prepared, prepare, read_call

CHAT = "openai-chat"
MESSAGES = "anthropic-messages"
EMBEDDINGS = "openai-embeddings"


def ready(decoder: str, members: dict[str, Any], max_output: int | None = None) -> tuple[dict[str, Any], Prepared]:
    body = json.dumps(members).encode()
    prepared = prepare(decoder, body, members, read_call(decoder, members), max_output)
    return json.loads(prepared.body), prepared


def test_a_chat_call_is_read() -> None:
    assert read_call(CHAT, {"model": "m"}) == Call("m")
    assert read_call(
        CHAT,
        {
            "model": "m",
            "stream": True,
            "n": 3,
            "max_tokens": 7,
            "max_completion_tokens": 5,
            "stream_options": {"include_usage": True, "include_obfuscation": False},
        },
    ) == Call(
        "m",
        stream=True,
        caps=(("max_completion_tokens", 5), ("max_tokens", 7)),
        choices=3,
        include_usage=True,
    )


def test_null_is_absent() -> None:
    nulls = {"stream": None, "n": None, "max_tokens": None, "max_completion_tokens": None, "stream_options": None}
    assert read_call(CHAT, {"model": "m", **nulls}) == Call("m")
    assert read_call(CHAT, {"model": "m", "stream_options": {"include_usage": None}}) == Call("m")


def test_the_largest_of_several_caps_counts() -> None:
    assert read_call(CHAT, {"model": "m", "max_tokens": 7, "max_completion_tokens": 5}).output_cap == 7
    assert read_call(CHAT, {"model": "m"}).output_cap is None


def test_an_embeddings_call_has_no_output() -> None:
    call = read_call(EMBEDDINGS, {"model": "m", "input": "x", "max_tokens": "any"})
    assert prepare(EMBEDDINGS, b"as it is", {}, call, 10) == (b"as it is", 0, False)


def test_a_messages_call_is_read() -> None:
    assert read_call(MESSAGES, {"model": "m", "max_tokens": 9, "stream": True, "n": "any"}) == Call(
        "m",
        stream=True,
        caps=(("max_tokens", 9),),
        service_tier="standard",
    )
    assert read_call(MESSAGES, {"model": "m", "max_tokens": 0}).output_cap == 0


@pytest.mark.parametrize(
    ("decoder", "members", "tier"),
    [
        (CHAT, {}, None),
        (CHAT, {"service_tier": "auto"}, None),
        (CHAT, {"service_tier": "flex"}, "flex"),
        (MESSAGES, {}, "standard"),
        (MESSAGES, {"service_tier": "auto"}, "standard"),
        (MESSAGES, {"speed": "fast"}, "fast"),
    ],
)
def test_the_service_tier_that_a_call_can_be_billed_at_is_read(
    decoder: str, members: dict[str, Any], tier: str | None
) -> None:
    assert read_call(decoder, {"model": "m", **members}).service_tier == tier


@pytest.mark.parametrize("decoder", [CHAT, EMBEDDINGS, MESSAGES])
@pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"model": None}, {"model": ""}, {"model": 4}])
def test_a_call_without_a_model_is_refused(decoder: str, body: object) -> None:
    with pytest.raises(BadRequestError):
        read_call(decoder, body)


@pytest.mark.parametrize(
    "member",
    [
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 1.0},
        {"max_tokens": True},
        {"max_tokens": "7"},
        {"max_tokens": 2**53 + 1},
        {"max_tokens": float("inf")},
        {"max_completion_tokens": []},
        {"n": 0},
        {"n": 2.0},
        {"n": True},
        {"stream": 1},
        {"stream": "true"},
        {"stream_options": []},
        {"stream_options": True},
        {"stream_options": {"include_usage": "yes"}},
    ],
)
def test_an_impossible_member_is_refused_by_name(member: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="|".join([*member, "include_usage"])):
        read_call(CHAT, {"model": "m", **member})


@pytest.mark.parametrize(
    "name", ["Max_Tokens", "MAX_COMPLETION_TOKENS", "\u017ftream", "N", "Model", "Stream_Options"]
)
def test_a_member_that_differs_only_in_case_is_refused(name: str) -> None:
    """Servers that ignore case would obey it instead of the cap that was held."""
    with pytest.raises(BadRequestError, match="must be written"):
        read_call(CHAT, {"model": "m", "max_tokens": 5, name: 10_000})


def test_an_unknown_decoder_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="openai-chat"):
        read_call("gemini", {"model": "m"})


def test_a_cap_is_written_where_the_request_has_none() -> None:
    assert ready(CHAT, {"model": "m"}, 100)[0] == {"model": "m", "max_completion_tokens": 100}
    assert ready(CHAT, {"model": "m", "max_tokens": None}, 100)[0]["max_completion_tokens"] == 100
    assert ready(MESSAGES, {"model": "m"}, 100)[0] == {"model": "m", "max_tokens": 100}


def test_an_explicit_cap_above_the_routes_is_lowered_and_one_below_stays() -> None:
    members, prepared = ready(CHAT, {"model": "m", "max_tokens": 500, "max_completion_tokens": 40}, 100)
    assert members == {"model": "m", "max_tokens": 100, "max_completion_tokens": 40}
    assert prepared.output_tokens == 100
    members, prepared = ready(MESSAGES, {"model": "m", "max_tokens": 40}, 100)
    assert (members["max_tokens"], prepared.output_tokens) == (40, 40)


def test_every_choice_may_use_its_whole_cap() -> None:
    assert ready(CHAT, {"model": "m", "n": 4, "max_tokens": 10})[1].output_tokens == 40
    assert ready(CHAT, {"model": "m", "n": 4}, 100)[1].output_tokens == 400


def test_without_any_cap_there_is_no_bound() -> None:
    assert ready(CHAT, {"model": "m"})[1].output_tokens is None
    assert ready(MESSAGES, {"model": "m"})[1].output_tokens is None


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_a_stream_is_made_to_report_usage_and_that_is_stripped(options: dict[str, Any]) -> None:
    members, prepared = ready(CHAT, {"model": "m", "stream": True, **options}, 100)
    assert members["stream_options"] == {"include_usage": True}
    assert prepared.strip_usage


def test_a_stream_that_reports_usage_anyway_stays_as_it_is() -> None:
    asked = {"model": "m", "stream": True, "max_tokens": 5, "stream_options": {"include_usage": True}}
    assert ready(CHAT, asked) == (asked, (json.dumps(asked).encode(), 5, False))
    plain = {"model": "m", "max_tokens": 5}
    assert ready(CHAT, plain) == (plain, (json.dumps(plain).encode(), 5, False))
    messages = {"model": "m", "max_tokens": 5, "stream": True}
    assert ready(MESSAGES, messages) == (messages, (json.dumps(messages).encode(), 5, False))


@given(
    st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens", "n"]), st.integers(1, 1000)),
    st.integers(1, 1000),
    st.booleans(),
)
def test_what_is_sent_never_asks_for_more_than_is_held(caps: dict[str, int], max_output: int, stream: bool) -> None:  # noqa: FBT001
    members, prepared = ready(CHAT, {"model": "m", "stream": stream, "extra": 1e300, **caps}, max_output)
    sent = read_call(CHAT, members)
    assert sent.output_cap is not None
    assert sent.output_cap <= max_output
    assert prepared.output_tokens == sent.output_cap * sent.choices
    assert (sent.stream, sent.include_usage) == (stream, stream)


def test_names_that_callers_make_up_do_not_stay_in_memory() -> None:
    """1024 of them stayed, whatever their length: gigabytes, by requests that were refused."""
    tracemalloc.start()
    try:
        for number in range(8):
            read_call("openai-chat", {"model": "m", f"{number}{'k' * 1_000_000}": 1})
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
