"""An event that is like the one before but for its text is read at a glance, and becomes what it always becomes."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.rules.placeholders import Vault
from tenantguard.rules.redaction.events import json_events, moulds, stream
from tenantguard.rules.redaction.events.stream import EventStream
from tenantguard.rules.redaction.json_text import LLM_JSON
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule

if TYPE_CHECKING:
    from random import Random

NAME = "OReilly\"\n\x01\\ 'é\ud83d"
"""A value that is written otherwise in JSON."""

TOKEN = Vault(b"k" * 32).mint("PERSON", NAME)
WORDS = st.sampled_from([
    "Hi ", "the ", "word ", "", "john@smi", "th.com ", "4111 1111 ", "1111 1111 ", TOKEN[:9], TOKEN[9:], "+1 415 ",
    "555-2671 ", "é ", '" ', "\\", "\n", "{", "}", '"to": ', '"a@b.io"', "x" * 300, "a" * 5000, "\x7f",
])  # fmt: skip
IDS = st.sampled_from(["abc", "xK3-_", "1234567", "12345678a", "a@b.io", "4111 1111 1111 1111", "", "é"])


def openai(choice: Any, field: str, said: str, finish: str | None, **more: Any) -> dict[str, Any]:
    delta: dict[str, Any] = {field: said}
    if field == "arguments":
        delta = {"tool_calls": [{"index": 0, "function": delta}]}
    return {
        "id": "c-1",
        "model": "m",
        "choices": [{"index": choice, "delta": delta, "finish_reason": finish}],
        **more,
    }


def anthropic(said: str, kind: str, index: int) -> dict[str, Any]:
    if kind == "content_block_stop":
        return {"type": kind, "index": index}
    field = {"text_delta": "text", "thinking_delta": "thinking"}.get(kind, "partial_json")
    return {"delta": {field: said, "type": kind}, "index": index, "type": "content_block_delta"}


def responses(said: str, kind: str, number: int | None, noise: str) -> dict[str, Any]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "obfuscation": noise}
    counted = {} if number is None else {"sequence_number": number}
    return {"type": f"response.output_text.{kind}", **counted, **place, "delta" if kind == "delta" else "text": said}


def gemini(said: str, role: str, finish: str | None) -> dict[str, Any]:
    ends = {} if finish is None else {"finishReason": finish}
    return {"candidates": [{"content": {"parts": [{"text": said}], "role": role}, "index": 0, **ends}]}


def cohere(said: str, kind: str, index: int) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"message": {"content": {"text": said}}}}


def ollama(said: str, done: bool) -> dict[str, Any]:  # noqa: FBT001
    return {"model": "m", "message": {"role": "assistant", "content": said}, "done": done}


def runs(*events: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Events of which many are alike but for what they say: each is repeated with other words."""
    repeated = st.tuples(st.one_of(*events), st.lists(WORDS, min_size=1, max_size=6))
    return st.lists(repeated, max_size=5).map(lambda found: [make(word) for make, words in found for word in words])


def made(make: Any, *fixed: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.tuples(*fixed), st.fixed_dictionaries({}, optional=named)).map(
        lambda given: lambda word: make(word, *given[0], **given[1])
    )


def chunk(word: str, choice: Any, field: str, finish: str | None, **more: Any) -> dict[str, Any]:
    return openai(choice, field, word, finish, **more)


ENDS = st.sampled_from([None, None, None, "stop"])
EVENTS = {
    "openai": runs(
        made(
            chunk,
            st.sampled_from([0, 0, 0, 1, "0"]),
            st.sampled_from(["content", "content", "arguments", "role"]),
            ENDS,
            obfuscation=IDS,
            usage=st.sampled_from([None, {"total_tokens": 3}]),
            name=IDS,
            logprobs=st.sampled_from([None, {"content": ["a"]}]),
        ),
        IDS.map(lambda noise: lambda word: openai(0, "content", word, None, obfuscation=noise)),
    ),
    "anthropic": runs(
        made(
            anthropic,
            st.sampled_from(["text_delta", "text_delta", "thinking_delta", "input_json_delta", "content_block_stop"]),
            st.sampled_from([0, 0, 1]),
        )
    ),
    "responses": runs(
        made(responses, st.sampled_from(["delta", "delta", "done"]), st.sampled_from([None, None, 4]), IDS)
    ),
    "gemini": runs(made(gemini, IDS, st.sampled_from([None, None, "STOP", "a b"]))),
    "cohere": runs(made(cohere, st.sampled_from(["content-delta", "content-end"]), st.sampled_from([0, 1]))),
    "ollama": runs(made(ollama, st.sampled_from([False, False, True]))),
}
OTHER = st.sampled_from([
    b": ping\n\n", b": a@b.io\n\n", b"data:\n\n", b"data: \n\n", b"\n", b"data: [DONE]\n\n", b"id: 7\nretry: 3\n\n",
    b'data: {"error":{"message":"a@b.io"}}\n\n', b"event: x\ndata: [DONE]\n\n", b'data: {"note":"a@b.io"}\n\n',
])  # fmt: skip
LINES = st.sampled_from([b"", b"", b"event: content_block_delta\n", b"id: 12\n", b"id: a@b.io\n", b":\n", b": x\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A stream, and where its events end."""
    said = draw(st.sampled_from(sorted(EVENTS)).flatmap(EVENTS.__getitem__))
    lines, noise = draw(LINES), draw(st.lists(st.tuples(st.integers(0, 40), OTHER), max_size=3))
    compact, plain = draw(st.sampled_from([(",", ":"), (", ", ": ")])), draw(st.booleans())
    events = [
        lines
        + b"data: "
        + json.dumps(one, separators=compact, ensure_ascii=plain).encode("utf-8", "replace")
        + b"\n\n"
        for one in said
    ]
    for at, other in noise:
        events.insert(at, other)
    if draw(st.integers(0, 9)) == 0:
        events = [event.replace(b"\n", b"\r\n") for event in events]
    first = b"\xef\xbb\xbf" if draw(st.integers(0, 9)) == 0 else b""
    events = [first + events[0], *events[1:]] if events else events
    return b"".join(events), [*accumulate(map(len, events))]


def run(rule: TextRule, chunks: list[bytes], how: str) -> tuple[list[bytes], bytes, str]:
    """What leaves after each chunk, the event of a failure, and how it ended; each event read ``how``."""
    with pytest.MonkeyPatch.context() as patch:
        if how != "at a glance":
            patch.setattr(stream.EventStream, "_usual_after", lambda *_: None)
        if how == "place by place":
            patch.setattr(json_events, "read_mould", lambda *_: None)
        events = EventStream(rule, protocol=True)
        out: list[bytes] = []
        try:
            for one in chunks:
                out.append(events.feed(one))
            out.append(events.finish())
        except MalformedTextError as error:
            return out, b"", str(error)
        return out, events.failure("code", "message"), ""


def restoring(tools: Any) -> TextRule:
    vault = tools.vault()
    vault.mint("PERSON", NAME)
    rule: TextRule = tools.scrub(vault, restore=True)
    return rule


@settings(max_examples=400, deadline=None)
@given(made=streams(), places=st.lists(st.integers(min_value=0), max_size=8), some=st.randoms(use_true_random=False))
def test_a_stream_read_at_a_glance_is_the_stream_read_as_a_whole(
    tools: Any, made: tuple[bytes, list[int]], places: list[int], some: Random
) -> None:
    """E+9, E-63: whatever the protocol, event by event and however the bytes are split."""
    data, ends = made
    starts = [0, *ends]
    by_event = [data[start:end] for start, end in zip(starts, ends, strict=False)]
    few = [end for end in ends if some.random() < 0.7] + [end - 3 for end in ends if some.random() < 0.1]
    for chunks in (by_event, tools.cut(data, places), tools.cut(data, few)):
        rules = [restoring(tools) for _ in range(3)]
        seen = [
            run(rule, chunks, how)
            for rule, how in zip(rules, ("at a glance", "by forms", "place by place"), strict=True)
        ]
        assert seen[0] == seen[1] == seen[2]
        assert rules[0].replaced == rules[1].replaced == rules[2].replaced


@given(
    literal=st.from_regex(moulds.OWN, fullmatch=True) | st.text(), key=st.sampled_from(sorted(LLM_JSON.protocol_keys))
)
def test_what_is_left_alone_at_a_glance_is_an_identifier_of_the_protocol(literal: str, key: str) -> None:
    if moulds.is_own(f'"{literal}"'):
        assert LLM_JSON.leaves((key,), literal)


def event(said: str, **more: Any) -> bytes:
    return f"data: {json.dumps(openai(0, 'content', said, None, **more))}\n\n".encode()


def begun(tools: Any, *events: bytes) -> EventStream:
    """A stream of which the next event may be read at a glance."""
    begun = EventStream(tools.scrub(), protocol=True)
    for one in events or (event("Hi "),):
        begun.feed(one)
    return begun


def test_the_second_event_that_says_more_is_read_without_a_parser(tools: Any) -> None:
    events = begun(tools)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_events, "read_mould", None)
        assert events.feed(event("there ")) == event("there ")
        assert events.feed(event("john@")) == event("")
        assert b"john" not in events.feed(event("smith.com now "))


def test_so_is_one_with_an_identifier_before_the_text(tools: Any) -> None:
    def part(said: str) -> bytes:
        shown = {"candidates": [{"content": {"role": "model", "parts": [{"text": said}]}}]}
        return f"data: {json.dumps(shown)}\n\n".encode()

    events = begun(tools, part("Hi "))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_events, "read_mould", None)
        assert events.feed(part("there ")) == part("there ")


def test_a_value_is_found_over_events_that_are_read_at_a_glance(tools: Any) -> None:
    events = begun(tools)
    said = ("to john", "@smith", ".com ", "and ", "4111 1111 ", "1111 1111 x ")
    out = b"".join([events.feed(event(one)) for one in said])
    assert b"smith" not in out
    assert b"4111" not in out
    assert b"1111" not in out


@pytest.mark.parametrize("noise", ["a@b.io", "4111 1111 1111 1111", "4111111111111111", "415-555-2671"])
def test_an_identifier_that_is_none_is_looked_at(tools: Any, noise: str) -> None:
    events = begun(tools, event("Hi ", obfuscation="abc"), event("Hi ", obfuscation="xyz"))
    assert noise.encode() not in events.feed(event("there ", obfuscation=noise))


def test_an_identifier_is_known_by_its_place(tools: Any) -> None:
    events = begun(tools, event("Hi ", obfuscation="abc"), event("Hi ", obfuscation="xyz"))
    assert b"415" not in events.feed(event("there ", information="x-415-555-2671"))


def test_a_string_that_was_looked_at_is_so_each_time(tools: Any) -> None:
    events = begun(tools, event("Hi ", name="x"), event("Hi ", name="a@b.io"))
    assert b"a@b.io" not in events.feed(event("there ", name="a@b.io"))


def test_what_kind_an_event_is_of_is_never_a_free_identifier(tools: Any) -> None:
    def part(said: str, kind: str) -> bytes:
        shown = {"index": 0, "delta": {"message": {"content": {"text": said}}}, "type": kind}
        return f"data: {json.dumps(shown)}\n\n".encode()

    events = begun(tools, part("call 415 ", "content-delta"))
    out = events.feed(part("", "content-end"))
    assert out.index(b"415") < out.index(b"content-end")


def test_the_event_that_ends_a_text_ends_it_though_it_begins_like_the_others(tools: Any) -> None:
    events = begun(tools, event("call 415 "), event("555-"))
    ended = f"data: {json.dumps(openai(0, 'content', '2671', 'stop'))}\n\n".encode()
    assert b"2671" not in events.feed(ended)


def test_texts_that_are_open_beside_one_another_are_told_apart(tools: Any) -> None:
    events = begun(tools)
    events.feed(f"data: {json.dumps(openai(1, 'content', 'call 415 ', None))}\n\n".encode())
    out = events.feed(event("555-2671 "))
    assert json.loads(out[6:])["choices"][0]["delta"]["content"] == ""
    said = b"".join(events.feed(one) for one in (event("to john@"), event("smith.com "), event("now ")))
    assert b"smith" not in said


def test_lines_that_came_before_leave_before(tools: Any) -> None:
    events = begun(tools)
    assert events.feed(b"id: 7\n") + events.feed(event("there ")) == b"id: 7\n" + event("there ")


def test_an_event_with_a_number_is_numbered_each_time(tools: Any) -> None:
    def said(kind: str, number: int, text: str) -> bytes:
        return f"data: {json.dumps(responses(text, kind, number, 'x'))}\n\n".encode()

    events = begun(tools, said("delta", 1, "call 415 "), said("done", 2, "call 415 "))  # an event of ours between
    for _ in range(3):
        assert json.loads(events.feed(said("delta", 3, "Hi "))[6:])["sequence_number"] == 4


def test_after_done_nothing_is_read_at_a_glance(tools: Any) -> None:
    events = begun(tools, event("call "), b"data: [DONE]\n\n")
    out = events.feed(event("415 ")) + events.finish()
    assert b"415" in out


def test_an_event_that_may_be_the_last_waits_though_others_like_it_were_let_go(tools: Any) -> None:
    def part(said: str, finish: str) -> bytes:
        return f"data: {json.dumps(gemini(said, 'model', finish))}\n\n".encode()

    events = begun(tools, part("call 415 ", "STOP"), b"data: \n\n")
    assert events.feed(part("555-", "STOP")) == b""


def test_another_event_is_told_by_its_name_and_the_rest_of_its_lines(tools: Any) -> None:
    events = begun(tools, b"id: 1\n" + event("Hi "))
    assert events.feed(b"id: 2\n" + event("there ")) == b"id: 2\n" + event("there ")
    assert b"a@b.io" not in events.feed(b"id: a@b.io\n" + event("there "))


def test_a_glance_never_takes_two_events_for_one(tools: Any) -> None:
    events = begun(tools)
    assert b"a@b.io" not in events.feed(event("a ") + event("mail a@b.io ") + event("b "))
    events = begun(tools, event("Hi ", obfuscation="x"))
    several = b"".join(event(said, obfuscation="y") for said in ("a ", "mail a@b.io ", "b "))
    assert b"a@b.io" not in events.feed(several)
    assert b"a@b.io" not in events.feed(event("a ", other="a@b.io", obfuscation="x"))


def test_an_event_that_comes_in_two_chunks_is_one(tools: Any) -> None:
    events = begun(tools)
    out = events.feed(event("mail a@b.io ") + event("now ")[:-1])
    assert b"a@b.io" not in out
    last = events.feed(b"\n")
    assert last.count(b"data: ") == 1
    assert last.endswith(b'> now "}, "finish_reason": null}]}\n\n')


def test_what_streams_share_holds_no_value(tools: Any) -> None:
    """Nothing that one tenant's stream said is kept for another's: not a text, not an identifier, not a key."""
    moulds._NEXT.clear()
    moulds._mould.cache_clear()
    names = {"obfuscation": "Kilimanjaro", "type": "Dodoma", "system_fingerprint": "Arusha"}
    secret = openai(0, "content", "Zanzibar ", None, **names)
    called = {"content": "", "tool_calls": [{"args": {"Mwanza@x.io": "Iringa"}}]}
    args = {"model": "m", "done": False, "message": called}
    for one in (secret, secret, responses("Tanga", "Moshi", 5, "Mbeya"), args):
        begun(tools, f"data: {json.dumps(one)}\n\n".encode()).finish()
    kept = repr(moulds._NEXT) + repr([mould.parts for mould in moulds._NEXT.values()])
    assert moulds._NEXT
    for name in ("Zanzibar", "Kilimanjaro", "Dodoma", "Arusha", "Tanga", "Moshi", "Mbeya", "Mwanza", "Iringa", "c-1"):
        assert name not in kept


def test_an_event_whose_keys_are_data_has_no_mould() -> None:
    moulds._mould.cache_clear()
    assert moulds.mould_of('{"choices":[{"delta":{"content":"a"}}]}') is not None
    kept = moulds._mould.cache_info().currsize
    for key in ("a@b.io", "4111111111111111", "two words", "DE89370400440532013000", "x" * 65, ""):
        assert moulds.mould_of(json.dumps({"choices": [], "by": {key: 1}})) is None
    assert moulds._mould.cache_info().currsize == kept
