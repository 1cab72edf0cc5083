"""The model server, as the official SDKs see it over the loopback, and byte by byte where they hide something."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tenantguard.testing import SequentialIds
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10.0
BROKEN = r"incomplete chunked read|Connection error"
SAID = "write to alice@example.com today"
CHAT: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": SAID}]}
TALK: dict[str, Any] = {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": SAID}]}
LOOKUP: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}}


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer(ids=SequentialIds())


@pytest.fixture(scope="module")
def base(model: ModelServer) -> Iterator[str]:
    with serve(model) as base:
        yield base


@pytest.fixture(scope="module")
def chat(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base}/v1", api_key="sk-test", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def claude(base: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base, api_key="sk-test", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


def behave(behaviour: str) -> dict[str, Any]:
    return {"extra_headers": {"x-behaviour": behaviour}}


# --- OpenAI ---


def test_a_chat_repeats_the_last_user_message_and_counts_words(chat: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]},
    ]
    answer = chat.chat.completions.create(model="gpt-5-mini", messages=messages)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-5-mini"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 3, 10)


def test_each_answer_has_an_id_of_its_own(chat: openai.OpenAI) -> None:
    ids = {chat.chat.completions.create(**CHAT).id for _ in range(3)}
    assert len(ids) == 3


def test_a_streamed_chat_comes_in_small_deltas_without_usage_unless_asked(chat: openai.OpenAI) -> None:
    chunks = list(chat.chat.completions.create(**CHAT, stream=True))
    said = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(said) == SAID
    assert max(map(len, said)) == 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_include_usage_adds_null_to_each_chunk_and_one_more_chunk(chat: openai.OpenAI) -> None:
    chunks = list(chat.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4, 4)


def test_several_choices_are_interleaved_in_a_stream_and_all_counted(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(**CHAT, n=2)
    assert [choice.message.content for choice in answer.choices] == [SAID, SAID]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    said = ["", ""]
    order = []
    for chunk in chat.chat.completions.create(**CHAT, n=2, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        order.append(chunk.choices[0].index)
    assert said == [SAID, SAID]
    assert order[:4] == [0, 1, 0, 1]


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_cap(chat: openai.OpenAI, cap: str) -> None:
    caps: dict[str, Any] = {cap: 2}
    answer = chat.chat.completions.create(**CHAT, **caps)
    assert answer.choices[0].message.content == "write to"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    last = list(chat.chat.completions.create(**CHAT, **caps, stream=True))[-1]
    assert last.choices[0].finish_reason == "length"


def test_fixed_says_as_many_words_as_asked(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(**CHAT, **behave("fixed=3"))
    assert answer.choices[0].message.content == "word0 word1 word2"
    answer = chat.chat.completions.create(**(CHAT | {"model": "fixed"}))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10


def test_a_tool_is_called_with_what_the_user_said(chat: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "lookup", "parameters": LOOKUP}}]
    answer = chat.chat.completions.create(**CHAT, tools=tools, **behave("tool"))
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "lookup"
    assert json.loads(call.function.arguments) == {"text": SAID}


def test_a_tool_calls_arguments_are_streamed_in_pieces(chat: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "lookup", "parameters": LOOKUP}}]
    with chat.chat.completions.stream(**CHAT, tools=tools, **behave("tool")) as stream:
        pieces = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert len(pieces) > 5
    assert json.loads("".join(pieces)) == {"text": SAID}
    assert json.loads(call.function.arguments) == {"text": SAID}


def test_no_usage_tells_none(chat: openai.OpenAI) -> None:
    assert chat.chat.completions.create(**CHAT, **behave("no-usage")).usage is None
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    assert all(chunk.usage is None for chunk in chat.chat.completions.create(**CHAT, **options, **behave("no-usage")))


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("error-401", openai.AuthenticationError),
        ("error-429", openai.RateLimitError),
        ("error-500", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdks_own(
    chat: openai.OpenAI, behaviour: str, error: type[Exception], *, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        chat.chat.completions.create(**CHAT, stream=stream, **behave(behaviour))
    if behaviour == "error-429":
        assert isinstance(caught.value, openai.APIStatusError)
        assert caught.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"model": 1}', b'{"model": "m"}', b'{"model": "m", "messages": []}'],
)
def test_a_bad_request_is_told_in_the_providers_shape(base: str, body: bytes) -> None:
    status, answer = post(base, "/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


def test_an_unknown_behaviour_is_told(base: str) -> None:
    status, answer = post(base, "/v1/chat/completions", json.dumps(CHAT).encode(), {"x-behaviour": "dance"})
    assert (status, answer["error"]["message"]) == (400, "there is no behaviour 'dance'")


def test_an_unknown_route_is_not_found(base: str) -> None:
    assert post(base, "/v1/nothing", b"{}")[0] == 404


def test_a_stream_that_dies_has_its_deltas_and_no_end(chat: openai.OpenAI) -> None:
    said = ""
    with pytest.raises(Exception, match=BROKEN):  # noqa: PT012 - it breaks while it is read
        for chunk in chat.chat.completions.create(**CHAT, stream=True, **behave("die-mid-stream=2")):
            said += chunk.choices[0].delta.content or ""
    assert said == SAID[:10]


def test_an_answer_that_dies_is_shorter_than_it_said(chat: openai.OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        chat.chat.completions.create(**CHAT, **behave("die-mid-stream"))


def test_a_stream_that_stops_short_ends_without_the_protocols_own_end(base: str) -> None:
    response = raw(base, "/v1/chat/completions", json.dumps(CHAT | {"stream": True}).encode(), "stop-short=2")
    data = response.read()
    assert data.count(b"data: ") == 3
    assert b"[DONE]" not in data


def test_a_slow_answer_waits_for_release(base: str, model: ModelServer) -> None:
    response = raw(base, "/v1/chat/completions", json.dumps(CHAT | {"stream": True}).encode(), "slow")
    request = model.requests[-1]
    assert request.waiting.wait(PATIENCE_S)
    assert not request.answered.is_set()
    model.release()
    assert response.read().endswith(b"data: [DONE]\n\n")
    assert request.answered.wait(PATIENCE_S)
    assert not request.left.is_set()


def test_a_slow_answer_waits_no_longer_than_it_was_told(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(**CHAT, **behave("slow=0"))
    assert answer.choices[0].message.content == SAID


def test_a_client_that_leaves_a_slow_answer_is_noticed(chat: openai.OpenAI, model: ModelServer) -> None:
    with chat.chat.completions.create(**CHAT, stream=True, **behave("slow")) as stream:
        next(iter(stream))
    request = model.requests[-1]
    assert request.left.wait(PATIENCE_S)
    assert not request.answered.is_set()


def test_what_was_received_can_be_read_afterwards(chat: openai.OpenAI, model: ModelServer) -> None:
    before = len(model.requests)
    chat.chat.completions.create(**CHAT, extra_headers={"x-team": "red"})
    [request] = model.requests[before:]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.body == CHAT
    assert request.headers["authorization"] == "Bearer sk-test"
    assert request.headers["x-team"] == "red"
    assert SAID not in repr(request)


def test_embeddings_are_the_same_for_the_same_text(chat: openai.OpenAI) -> None:
    answer = chat.embeddings.create(model="text-embedding-x", input=["one two", "three", "one two"])
    vectors = [one.embedding for one in answer.data]
    assert [len(vector) for vector in vectors] == [8, 8, 8]
    assert vectors[0] == vectors[2] != vectors[1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5


def test_embeddings_as_floats_are_those_of_base64(chat: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "text-embedding-x", "input": "one two", "dimensions": 3}
    [packed] = chat.embeddings.create(**ask).data
    [plain] = chat.embeddings.create(**ask, encoding_format="float").data
    assert len(packed.embedding) == 3
    assert packed.embedding == plain.embedding


def test_embeddings_of_tokens_count_each(chat: openai.OpenAI) -> None:
    assert chat.embeddings.create(model="m", input=[1, 2, 3]).usage.prompt_tokens == 3
    answer = chat.embeddings.create(model="m", input=[[1, 2, 3], [4]])
    assert (len(answer.data), answer.usage.prompt_tokens) == (2, 4)


# --- Anthropic ---


def test_a_message_repeats_what_the_user_said_and_counts_the_system_prompt(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**TALK, system="be brief")
    assert [block.text for block in answer.content if block.type == "text"] == [SAID]
    assert (answer.stop_reason, answer.model) == ("end_turn", "claude-x")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (6, 4)
    assert answer.usage.cache_read_input_tokens == 0


def test_a_streamed_message_comes_in_small_deltas_and_its_usage_is_the_sum(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(**TALK) as stream:
        said = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(said) == SAID
    assert max(map(len, said)) == 5
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 4, 4)


def test_a_stream_of_messages_has_the_events_of_the_protocol_in_order(claude: anthropic.Anthropic) -> None:
    kinds = [event.type for event in claude.messages.create(**(TALK | {"max_tokens": 1}), stream=True)]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_message_is_cut_at_the_cap_which_must_be_given(claude: anthropic.Anthropic, base: str) -> None:
    answer = claude.messages.create(**(TALK | {"max_tokens": 2}))
    assert [block.text for block in answer.content if block.type == "text"] == ["write to"]
    assert answer.stop_reason == "max_tokens"
    status, refused = post(base, "/v1/messages", json.dumps(CHAT).encode())
    assert (status, refused["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used_with_what_the_user_said(claude: anthropic.Anthropic, *, stream: bool) -> None:
    tools: Any = [{"name": "lookup", "input_schema": LOOKUP}]
    if stream:
        with claude.messages.stream(**TALK, tools=tools, **behave("tool")) as streamed:
            answer: Any = streamed.get_final_message()
    else:
        answer = claude.messages.create(**TALK, tools=tools, **behave("tool"))
    [block] = answer.content
    assert (block.type, block.name, block.input) == ("tool_use", "lookup", {"text": SAID})
    assert answer.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("error-429", anthropic.RateLimitError), ("error-500", anthropic.InternalServerError)],
)
def test_errors_are_the_other_sdks_own(claude: anthropic.Anthropic, behaviour: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        claude.messages.create(**TALK, **behave(behaviour))


def test_a_stream_of_messages_can_die_too(claude: anthropic.Anthropic) -> None:
    said = ""
    with pytest.raises(Exception, match=BROKEN):  # noqa: PT012, SIM117 - it breaks while it is read
        with claude.messages.stream(**TALK, **behave("die-mid-stream=2")) as stream:
            for piece in stream.text_stream:
                said += piece
    assert said == SAID[:10]


def test_a_message_without_usage_tells_none(base: str) -> None:
    _, answer = post(base, "/v1/messages", json.dumps(TALK).encode(), {"x-behaviour": "no-usage"})
    assert "usage" not in answer


# --- by hand ---


def connection_to(base: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(base.removeprefix("http://"), timeout=PATIENCE_S)


def raw(base: str, path: str, body: bytes, behaviour: str) -> http.client.HTTPResponse:
    """A response whose body is still to be read, after which its connection closes."""
    connection = connection_to(base)
    connection.request("POST", path, body, {"x-behaviour": behaviour, "connection": "close"})
    return connection.getresponse()


def post(base: str, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = connection_to(base)
    try:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
