"""OpenAI's event streams: what the SDK reads is redacted, whatever the chunks and the deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.events.json_events import CHANNELS_MAX
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule, apply, text_edits

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return f"data: {json.dumps({**HEAD, 'choices': list(choices), **more})}\n\n".encode()


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish}


def call(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def run(rule: TextRule, *chunks: bytes, protocol: bool = True) -> bytes:
    stream = EventStream(rule, protocol=protocol)
    return b"".join([*(stream.feed(one) for one in chunks), stream.finish()])


def read(stream: bytes) -> list[dict[str, Any]]:
    datas = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(data) for data in datas if data != "[DONE]"]


def texts(stream: bytes) -> dict[tuple[Any, ...], str]:
    """What a client puts together, by choice and field."""
    said: dict[tuple[Any, ...], str] = {}
    for event in read(stream):
        for choice in event["choices"]:
            for field, value in choice["delta"].items():
                if field == "tool_calls":
                    for one in value:
                        key = (choice["index"], field, one["index"])
                        said[key] = said.get(key, "") + one["function"].get("arguments", "")
                elif field != "role" and value is not None:
                    key = (choice["index"], field)
                    said[key] = said.get(key, "") + value
    return said


def whole(rule: TextRule, text: str) -> str:
    return apply(text, text_edits(rule, text))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ascii_only=st.booleans())
def test_any_deltas_in_any_chunks_give_the_redacted_text(
    tools: Any, data: st.DataObject, *, ascii_only: bool
) -> None:
    """E+9, E+10, E-63."""
    content = data.draw(tools.prose)[:200]
    refusal = data.draw(tools.prose)[:200]
    first, second = ([*tools.cut(text, data.draw(tools.places))] for text in (content, refusal))
    length = max(len(first), len(second))
    events = []
    for at in range(length):
        choices = [delta(0, content=part) for part in first[at : at + 1]]
        choices += [delta(3, refusal=part) for part in second[at : at + 1]]
        events.append({**HEAD, "choices": choices})
    events += [{**HEAD, "choices": [delta(finish="stop"), delta(3, finish="stop")]}]
    stream = "".join(f"data: {json.dumps(event, ensure_ascii=ascii_only)}\n\n" for event in events).encode()
    stream += b"data: [DONE]\n\n"
    expected = {(0, "content"): whole(tools.scrub(), content), (3, "refusal"): whole(tools.scrub(), refusal)}
    redacted = run(tools.scrub(), *tools.cut(stream, data.draw(tools.places)))
    assert {key: text for key, text in texts(redacted).items() if text} == {k: t for k, t in expected.items() if t}
    assert run(tools.scrub(), stream) == redacted
    assert redacted.endswith(b"data: [DONE]\n\n")


def test_an_address_is_found_at_every_split_of_the_text_and_of_the_bytes(tools: Any) -> None:
    """E+9."""
    text = "é write to john@smith.com today"
    for at in range(len(text) + 1):
        stream = chunk(delta(content=text[:at])) + chunk(delta(content=text[at:])) + chunk(delta(finish="stop"))
        assert "john" not in texts(run(tools.scrub(), stream))[0, "content"]
    stream = chunk(delta(content=text[:12])) + chunk(delta(content=text[12:])) + chunk(delta(finish="stop"))
    assert len({run(tools.scrub(), stream[:at], stream[at:]) for at in range(len(stream) + 1)}) == 1


def test_a_clean_stream_keeps_every_byte_of_the_events_that_say_all_they_know(tools: Any) -> None:
    """E-67."""
    stream = (
        b": comment\n\n"
        + chunk(delta(role="assistant", content=""))
        + b'event: message\nid: 7\ndata: {"choices":[ {"index":0,"delta":{"content":"Hello "} } ],"n":1e400}\n\n'
        + chunk(delta(finish="stop"))
        + chunk(usage={"total_tokens": 3})
        + b"data: [DONE]\n\n"
    )
    assert run(tools.scrub(), stream) == stream


def test_what_is_held_leaves_in_a_delta_of_its_own_before_the_choice_ends(tools: Any) -> None:
    stream = chunk(delta(2, content="call 415")) + chunk(delta(2, finish="length")) + b"data: [DONE]\n\n"
    redacted = run(tools.scrub(), stream)
    assert read(redacted) == [
        {**HEAD, "choices": [delta(2, content="call ")]},
        {**HEAD, "choices": [delta(2, content="415")]},
        {**HEAD, "choices": [delta(2, finish="length")]},
    ]


def test_a_chunk_that_speaks_and_ends_says_everything_itself(tools: Any) -> None:
    stream = chunk(delta(content="write to a")) + chunk(delta(content="@b.io", finish="stop"))
    assert len(read(run(tools.scrub(), stream))) == 2
    assert "a@b.io" not in texts(run(tools.scrub(), stream))[0, "content"]


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]", b"data: [DONE]\n", b""])
def test_what_is_held_leaves_at_the_latest_before_the_end(tools: Any, end: bytes) -> None:
    redacted = run(tools.scrub(), chunk(delta(content="call 415")) + end)
    assert texts(redacted)[0, "content"] == "call 415"
    assert redacted.endswith(end)


def test_tool_arguments_stay_json_for_each_call(tools: Any) -> None:
    """E-66 gives way; E-78."""
    first = {"to": "john@smith.com", "body": "card 4111 1111 1111 1111"}
    second = ["+1 415 555-2671", {"n": 4111111111111111}]
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "mail", "arguments": ""}}
    events = [chunk(delta(tool_calls=[head]))]
    for index, value in enumerate((first, second)):
        events += [chunk(delta(tool_calls=[call(index, letter)])) for letter in json.dumps(value)]
    said = texts(run(tools.scrub(), *events, chunk(delta(finish="tool_calls"))))
    arguments = json.loads(said[0, "tool_calls", 0])
    assert arguments["to"].startswith("<EMAIL_ADDRESS_")
    assert arguments["body"].startswith("card <CREDIT_CARD_")
    assert json.loads(said[0, "tool_calls", 1])[0].startswith("<PHONE_NUMBER_")


def test_reasoning_and_every_other_text_of_a_delta_is_a_text_of_its_own(tools: Any) -> None:
    events = [
        chunk(delta(**{field: part}))
        for part in ("mail a", "@b.io ")
        for field in ("content", "reasoning_content", "reasoning", "refusal", "something_new")
    ]
    said = texts(run(tools.scrub(), *events, b"data: [DONE]\n\n"))
    assert len(said) == 5
    assert all(text.startswith("mail <EMAIL_ADDRESS_") for text in said.values())


def test_a_legacy_completion_and_a_legacy_function_call_are_joined_too(tools: Any) -> None:
    events = [chunk({"index": 0, "text": part, "finish_reason": None}) for part in ("mail a", "@b.io ")]
    events += [chunk(delta(1, function_call={"arguments": part})) for part in ('{"a":"x', '@b.io"}')]
    redacted = run(tools.scrub(), *events, b"data: [DONE]\n\n")
    assert b"@b.io" not in redacted
    said = [choice for event in read(redacted) for choice in event["choices"]]
    assert "".join(one.get("text", "") for one in said).startswith("mail <EMAIL_ADDRESS_")
    arguments = "".join(one["delta"]["function_call"]["arguments"] for one in said if one["index"] == 1)
    assert json.loads(arguments)["a"].startswith("<EMAIL_ADDRESS_")


def test_token_probabilities_of_changed_text_are_dropped(tools: Any) -> None:
    def spoken(text: str) -> bytes:
        return chunk({**delta(content=text), "logprobs": {"content": [{"token": text, "bytes": [*text.encode()]}]}})

    events = read(run(tools.scrub(), spoken("clean "), spoken("a@b.io "), chunk(delta(finish="stop"))))
    assert events[0]["choices"][0]["logprobs"]["content"][0]["token"] == "clean "
    assert all(event["choices"][0].get("logprobs") is None for event in events[1:])


def test_placeholders_are_restored_at_every_split_position(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "john@smith.com")
    text = f"I wrote to {token}, and to eve@evil.com."
    for at in range(len(text) + 1):
        rule = tools.scrub(vault, restore=True)
        stream = chunk(delta(content=text[:at])) + chunk(delta(content=text[at:])) + chunk(delta(finish="stop"))
        said = texts(run(rule, stream))[0, "content"]
        assert said.startswith("I wrote to john@smith.com, and to <EMAIL_ADDRESS_")
        assert rule.replaced == {"EMAIL_ADDRESS": 1}


def test_lone_surrogates_and_pairs_split_over_deltas_survive(tools: Any) -> None:
    """E+10."""
    stream = b'data: {"choices":[{"index":0,"delta":{"content":"12 \\ud83d"}}]}\n\n'
    stream += (
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00 a@b.io \\udc00"},"finish_reason":"stop"}]}\n\n'
    )
    redacted = run(tools.scrub(), stream)
    said = "".join(
        json.loads(line[6:])["choices"][0]["delta"]["content"] for line in redacted.decode().split("\n\n") if line
    )
    assert said.encode("utf-16", "surrogatepass").decode("utf-16", "replace").startswith("12 😀 <EMAIL_ADDRESS_")


def test_an_error_event_is_redacted_and_comes_after_what_was_held(tools: Any) -> None:
    stream = chunk(delta(content="call 415")) + b'data: {"error":{"message":"a@b.io is unknown","code":null}}\n\n'
    events = read(run(tools.scrub(), stream))
    assert events[1]["choices"][0]["delta"]["content"] == "415"
    assert events[2]["error"]["message"].startswith("<EMAIL_ADDRESS_")


@pytest.mark.parametrize(
    "stream",
    [
        b"data: {broken\n\n",
        b"data: hello\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":[{"delta":{"content":"a"}}]}',
        b"data: " + b"x" * (9 * 1024 * 1024),
    ],
)
def test_a_stream_that_cannot_be_read_is_an_error(tools: Any, stream: bytes) -> None:
    with pytest.raises(MalformedTextError) as caught:
        run(tools.scrub(), stream)
    assert "broken" not in str(caught.value)


def test_a_stream_of_more_texts_at_once_than_are_remembered_is_an_error(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=True)
    for index in range(CHANNELS_MAX):
        stream.feed(chunk(delta(index, content="a")))
    with pytest.raises(MalformedTextError):
        stream.feed(chunk(delta(CHANNELS_MAX, content="a")))


def parts_of(value: Any) -> str:
    """Every text of a nested delta, in order."""
    if isinstance(value, dict):
        return "".join(parts_of(one) for name, one in value.items() if name not in {"type", "index"})
    if isinstance(value, list):
        return "".join(map(parts_of, value))
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    "delta",
    [
        lambda text: {"content": [{"type": "text", "text": text}]},
        lambda text: {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]},
        lambda text: {"reasoning_details": [{"index": 0, "type": "reasoning.text", "text": text}]},
    ],
    ids=["content", "thinking", "details"],
)
def test_parts_of_a_delta_that_is_a_list_are_one_text(tools: Any, delta: Any) -> None:
    pieces = ["write to john@sm", "ith.com or jo", "hn@smith.com"]
    chunks = [
        f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta(piece)}]})}\n\n".encode() for piece in pieces
    ]
    redacted = run(tools.scrub(), *chunks, b"data: [DONE]\n\n")
    assert parts_of([event["choices"][0]["delta"] for event in read(redacted)]) == whole(
        tools.scrub(), "".join(pieces)
    )


@pytest.mark.parametrize("index", ["0.0", "-0", "0e0", "00"])
def test_another_name_for_an_index_is_refused(tools: Any, index: str) -> None:
    with pytest.raises(MalformedTextError):
        run(tools.scrub(), f'data: {{"choices":[{{"index":{index},"delta":{{"content":"a"}}}}]}}\n\n'.encode())


@pytest.mark.parametrize("line", [b"id: 078-05-1120", b"retry: 4111111111111111", b"event: +14155552671"])
def test_figures_in_other_fields_are_looked_at(tools: Any, line: bytes) -> None:
    seen: list[str] = []

    class Seen:
        def __init__(self, rule: Any) -> None:
            self._rule = rule

        def __getattr__(self, name: str) -> Any:
            return getattr(self._rule, name)

        def find(self, text: str, after: int = 0) -> Any:
            seen.append(text)
            return self._rule.find(text, after)

        def clears(self, text: str) -> bool:
            return False

    rule: Any = Seen(tools.scrub())
    run(rule, line + b'\ndata: {"choices":[]}\n\n')
    assert any(line.decode() in text for text in seen)


def test_an_event_that_says_a_delta_twice_ends_the_stream(tools: Any) -> None:
    """Readers take one of the two and join it with what was before; which one, nobody can tell."""
    said = b'data: {"choices":[{"index":0,"delta":{"content":"a@sm","content":"b"}}]}\n\n'
    with pytest.raises(MalformedTextError):
        run(tools.scrub(), said)
    assert run(tools.scrub(), said.replace(b'"content":"b"', b'"refusal":"b "'))


def test_a_reason_to_finish_that_is_empty_ends_nothing(tools: Any) -> None:
    """Some write it on every chunk."""
    said = [
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":""}]}\n\n' % part
        for part in (b"a@sm", b"ith.com", b" or")
    ]
    assert b"ith" not in run(tools.scrub(), *said)


def test_a_choice_that_goes_on_behind_its_reason_to_finish_has_not_ended(tools: Any) -> None:
    """E+9: some write the reason on every chunk, or on every one of the reasoning."""
    parts = ("mail jo", "hn@smi", "th.com or ", "call 415 ", "555-2671")
    every = [chunk(delta(content=part, finish="stop")) for part in parts]
    switch = [chunk(delta(reasoning=part, finish="stop")) for part in parts] + [chunk(delta(content="a b"))]
    calls = [chunk(delta(tool_calls=[call(0, part)], finish="tool_calls")) for part in ('{"a":"john@sm', 'ith.com"}')]
    for events, key in ((every, (0, "content")), (switch, (0, "reasoning")), (calls, (0, "tool_calls", 0))):
        stream = b"".join([*events, b"data: [DONE]\n\n"])
        redacted = run(tools.scrub(), stream)
        assert len({run(tools.scrub(), stream[:at], stream[at:]) for at in range(len(stream) + 1)} | {redacted}) == 1
        said = texts(redacted)[key]
        assert "<EMAIL_ADDRESS_" in said
        assert not any(part in said for part in ("john", "hn@", "415", "2671"))
        assert len(read(redacted)) >= len(events)


def test_a_choice_that_has_ended_says_what_it_held_before_anything_else_follows(tools: Any) -> None:
    """Another event behind the reason to finish ends the choice: the next text is of another answer."""
    ended = chunk(delta(content="call 415")) + chunk(delta(finish="stop"))
    for between in (chunk(delta(role="assistant", content="")), chunk(usage={"total_tokens": 3}), b": ping\n\n"):
        said = read(run(tools.scrub(), ended + between + chunk(delta(content="555-2671 "))))
        assert [one["choices"][0]["delta"].get("content") for one in said[:3]] == ["call ", "415", None]
