"""Real OpenAI and Anthropic SDKs through the guarded proxy: every number afterwards is right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.conftest import INPUT, KEYS, OUTPUT

if TYPE_CHECKING:
    from tests.e2e.conftest import World

EMAIL = "jane.roe@example.com"
CARD = "4012888888881881"


def ask(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": text}], **options}


def behave(behaviour: str) -> dict[str, str]:
    return {"x-behaviour": behaviour}


def cost(input_tokens: int, output_tokens: int) -> int:
    return input_tokens * INPUT + output_tokens * OUTPUT


def test_a_chat_is_answered_and_charged_its_usage(world: World) -> None:
    before = world.standing("plain")
    answer = world.openai("plain").chat.completions.create(**ask("one two three"))
    record = world.recorder.next()
    assert answer.choices[0].message.content == "one two three"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert world.change("plain", before) == (cost(3, 3), 1)
    assert (record.ending, record.status, record.tenant) == ("completed", 200, "plain")


def test_the_output_cap_of_the_route_is_sent_where_the_request_has_none(world: World) -> None:
    world.openai("plain").chat.completions.create(**ask("hello"))
    world.recorder.next()
    assert world.model.requests[-1].body["max_completion_tokens"] == 50


def test_the_guards_own_key_does_not_reach_the_upstream(world: World) -> None:
    world.openai("plain").chat.completions.create(**ask("hello"))
    world.recorder.next()
    assert KEYS["plain"] not in json.dumps(world.model.requests[-1].headers)


def test_a_streamed_chat_is_charged_by_the_usage_that_was_asked_for_on_its_behalf(world: World) -> None:
    before = world.standing("plain")
    chunks = list(world.openai("plain").chat.completions.create(**ask("one two three", stream=True)))
    world.recorder.next()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert all(chunk.usage is None for chunk in chunks), "the caller did not ask for usage"
    assert all(chunk.choices for chunk in chunks)
    assert world.model.requests[-1].body["stream_options"] == {"include_usage": True}
    assert world.change("plain", before) == (cost(3, 3), 1)


def test_a_caller_that_asks_for_usage_gets_it(world: World) -> None:
    before = world.standing("plain")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(world.openai("plain").chat.completions.create(**ask("one two three", **options)))
    world.recorder.next()
    assert chunks[-1].usage.completion_tokens == 3
    assert world.change("plain", before) == (cost(3, 3), 1)


def test_embeddings_are_charged_by_their_input(world: World) -> None:
    before = world.standing("plain")
    answer = world.openai("plain").embeddings.create(model="small", input=["one two", "three"])
    world.recorder.next()
    assert len(answer.data) == 2
    assert world.change("plain", before) == (cost(3, 0), 1)


def test_an_anthropic_message_is_charged_whole_and_streamed(world: World) -> None:
    client = world.anthropic("plain")
    before = world.standing("plain")
    answer = client.messages.create(**ask("one two three", max_tokens=20))
    world.recorder.next()
    assert answer.content[0].text == "one two three"
    assert world.change("plain", before) == (cost(answer.usage.input_tokens, answer.usage.output_tokens), 1)
    before = world.standing("plain")
    with client.messages.stream(**ask("one two three", max_tokens=20)) as stream:
        assert "".join(stream.text_stream) == "one two three"
        usage = stream.get_final_message().usage
    world.recorder.next()
    assert world.change("plain", before) == (cost(usage.input_tokens, usage.output_tokens), 1)


def test_personal_data_never_reaches_the_model_and_is_restored_in_the_answer(world: World) -> None:
    answer = world.openai("acme").chat.completions.create(**ask(f"write to {EMAIL} about {CARD}"))
    world.recorder.next()
    seen = world.model.requests[-1].data.decode()
    assert EMAIL not in seen
    assert CARD not in seen
    assert answer.choices[0].message.content == f"write to {EMAIL} about {CARD}"


def test_an_address_split_across_chunks_is_redacted_and_restored_in_both_directions(world: World) -> None:
    """E+9. The model server answers in deltas of five characters."""
    stream = world.openai("acme").chat.completions.create(**ask(f"write to {EMAIL} now", stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    world.recorder.next()
    assert EMAIL not in world.model.requests[-1].data.decode()
    assert text == f"write to {EMAIL} now"
    with world.anthropic("acme").messages.stream(**ask(f"write to {EMAIL} now", max_tokens=40)) as message:
        text = "".join(message.text_stream)
    world.recorder.next()
    assert EMAIL not in world.model.requests[-1].data.decode()
    assert text == f"write to {EMAIL} now"


def test_an_address_that_the_model_says_in_pieces_never_reaches_the_client(world: World) -> None:
    """E+9. No delta of five characters holds it whole."""
    before = world.standing("scrubbed")
    stream = world.openai("scrubbed").chat.completions.create(**ask(f"write to {EMAIL} now", stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    world.recorder.next()
    assert re.fullmatch(r"write to <EMAIL_ADDRESS_[a-z2-7]+> now", text)
    with world.anthropic("scrubbed").messages.stream(**ask(f"write to {EMAIL} now", max_tokens=40)) as message:
        assert "".join(message.text_stream) == text
    world.recorder.next()
    assert EMAIL in world.model.requests[-1].data.decode()
    assert world.change("scrubbed", before) == (2 * cost(4, 4), 2)


@pytest.mark.parametrize("split", [1, EMAIL.index("@"), len(EMAIL) - 1])
def test_an_address_that_arrives_in_two_pieces_never_reaches_the_model(world: World, split: int) -> None:
    """E+9, for the request."""
    body = json.dumps(ask(f"write to {EMAIL} now")).encode()
    at = body.index(EMAIL.encode()) + split
    response = httpx.post(
        f"{world.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEYS['acme']}", "content-type": "application/json"},
        content=iter([body[:at], body[at:]]),
    )
    world.recorder.next()
    assert response.json()["choices"][0]["message"]["content"] == f"write to {EMAIL} now"
    assert EMAIL not in world.model.requests[-1].data.decode()


def test_tool_arguments_are_redacted_on_the_way_in_and_restored_as_valid_json(world: World) -> None:
    tool = {"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}
    options = ask(f'say "hi" to {EMAIL}', tools=[tool], extra_headers=behave("tool"))
    before = world.standing("acme")
    answer = world.openai("acme").chat.completions.create(**options)
    world.recorder.next()
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"text": f'say "hi" to {EMAIL}'}
    arguments = ""
    for chunk in world.openai("acme").chat.completions.create(**options, stream=True):
        for part in chunk.choices[0].delta.tool_calls or ():
            arguments += part.function.arguments or ""
    world.recorder.next()
    assert json.loads(arguments) == {"text": f'say "hi" to {EMAIL}'}
    assert EMAIL not in world.model.requests[-1].data.decode()
    assert world.change("acme", before) == (2 * cost(4, 5), 2)


def test_no_record_holds_a_value_of_the_request(world: World) -> None:
    world.openai("acme").chat.completions.create(**ask(f"write to {EMAIL}"))
    record = world.recorder.next()
    assert EMAIL not in repr(record)
    assert KEYS["acme"] not in repr(record)


def test_over_the_rate_the_sdk_raises_its_own_error_with_a_true_wait(worlds: Any) -> None:
    world = worlds()
    client = world.openai("limited")
    for _ in range(2):
        client.chat.completions.create(**ask("hi"))
        world.recorder.next()
    spent = world.spent("limited")
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**ask("hi"))
    assert world.recorder.next().ending == "refused"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30
    assert refused.value.code == "rate.exceeded"
    assert world.spent("limited") == spent
    with pytest.raises(anthropic.RateLimitError):
        world.anthropic("limited").messages.create(**ask("hi", max_tokens=5))
    assert world.recorder.next().ending == "refused"
    assert len(world.model.requests) == 2


def test_without_budget_the_call_is_refused_with_402_and_not_retried(world: World) -> None:
    calls = len(world.model.requests)
    with pytest.raises(openai.APIStatusError) as refused:
        world.openai("poor").chat.completions.create(**ask("hi"))
    assert world.recorder.next().ending == "refused"
    assert refused.value.status_code == 402
    assert refused.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(anthropic.APIStatusError) as refused_too:
        world.anthropic("poor").messages.create(**ask("hi", max_tokens=5))
    assert world.recorder.next().ending == "refused"
    assert refused_too.value.status_code == 402
    assert world.standing("poor") == (0, 0)
    assert len(world.model.requests) == calls


def test_an_unknown_key_is_the_sdks_own_authentication_error(world: World) -> None:
    client = world.openai("plain")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-nobody").chat.completions.create(**ask("hi"))
    assert world.recorder.next().ending == "refused"


def test_a_failing_upstream_is_relayed_as_it_is_and_costs_nothing(world: World) -> None:
    """E+7."""
    before = world.standing("plain")
    with pytest.raises(openai.InternalServerError):
        world.openai("plain").chat.completions.create(**ask("hi", extra_headers=behave("error-500")))
    assert world.recorder.next().ending == "failed"
    assert world.change("plain", before) == (0, 1)


def test_an_upstream_that_dies_in_mid_stream_costs_nothing_and_never_looks_complete(world: World) -> None:
    before = world.standing("plain")
    stream = world.openai("plain").chat.completions.create(
        **ask("a text of several words", stream=True, extra_headers=behave("die-mid-stream=2")),
    )
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        list(stream)
    assert world.recorder.next().ending == "failed"
    assert world.change("plain", before) == (0, 1)


def test_a_stream_that_stops_without_its_marker_costs_nothing(world: World) -> None:
    before = world.standing("plain")
    list(
        world.openai("plain").chat.completions.create(
            **ask("a text of several words", stream=True, extra_headers=behave("stop-short=2")),
        ),
    )
    record = world.recorder.next()
    assert (record.ending, record.reason) == ("failed", "response.marker_missing")
    assert world.change("plain", before) == (0, 1)


def test_an_answer_without_usage_costs_the_hold(world: World) -> None:
    before = world.standing("plain")
    world.openai("plain").chat.completions.create(**ask("hi", extra_headers=behave("no-usage")))
    world.recorder.next()
    sent = world.model.requests[-1].data
    assert world.change("plain", before) == (len(sent) * INPUT + 50 * OUTPUT, 1)


def test_a_client_that_leaves_in_mid_stream_is_charged_the_real_usage(world: World) -> None:
    """E+8. The stream is drained: the application does not hear of it and finishes."""
    before = world.standing("plain")
    stream = world.openai("plain").chat.completions.create(
        **ask("one two three four", stream=True, extra_headers=behave("slow=20")),
    )
    next(iter(stream))
    request = world.model.requests[-1]
    assert request.waiting.wait(20)
    stream.close()
    world.model.release()
    record = world.recorder.next()
    assert record.ending in {"left", "completed"}
    assert request.answered.is_set()
    assert world.change("plain", before) == (cost(4, 4), 1)


def test_the_charge_is_committed_when_the_client_has_the_end(world: World) -> None:
    before = world.standing("plain")
    with httpx.stream(
        "POST",
        f"{world.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {KEYS['plain']}"},
        json=ask("one two three", stream=True),
    ) as response:
        seen = b""
        for chunk in response.iter_raw():
            seen += chunk
            if b"[DONE]" in seen:
                balance = world.balance("plain")
                assert balance is not None
                assert (balance.spent - before[0], balance.held) == (cost(3, 3), 0)
                break
        else:
            raise AssertionError("no end was seen")
    world.recorder.next()


def test_a_path_that_no_route_names_is_not_served(world: World) -> None:
    calls = len(world.model.requests)
    response = httpx.post(
        f"{world.url}/v1/chat/completions/",
        headers={"authorization": f"Bearer {KEYS['plain']}"},
        json=ask("hi"),
    )
    assert world.recorder.next().ending == "refused"
    assert response.status_code == 404
    assert len(world.model.requests) == calls
