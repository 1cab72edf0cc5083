"""Bodies that are kept whole, so that a language model reads each text as a whole before anything leaves."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.pii import Match
from tenantguard.rules.media import content_of
from tenantguard.rules.redaction import buffered
from tenantguard.rules.redaction.bodies import Terms, body_for
from tenantguard.rules.redaction.buffered import VALUE_CHARS_MAX, Buffered, Named, Reading
from tenantguard.rules.redaction.text.conflicts import settle
from tenantguard.rules.redaction.text.rule import MalformedTextError, ResponseScrub, apply, text_edits

if TYPE_CHECKING:
    from collections.abc import Sequence

PEOPLE = re.compile(r"Ada Lovelace|Grace|Al\b|Zoë|张三")
MAIL = "ann@example.com"


class Model:
    """Takes names of a list for persons, and remembers the texts that it saw."""

    def __init__(self, pattern: re.Pattern[str] = PEOPLE) -> None:
        self.seen: list[str] = []
        self._pattern = pattern

    def names(self, text: str) -> Sequence[Match]:
        self.seen.append(text)
        return [Match("PERSON", *one.span(), 0.85) for one in self._pattern.finditer(text)]


def through(
    tools: Any, kind: str, chunks: Sequence[bytes], *, model_call: bool = False, limit: int = 100_000
) -> tuple[bytes, Model, ResponseScrub]:
    """A body kept whole, and what the model saw of it."""
    model, reading = Model(), Reading()
    named = Named(tools.detecting(tools.detect), settle)
    rule = ResponseScrub(named, tools.vault(), restore=False)
    content = content_of([(b"content-type", kind.encode())])
    bodies: list[Any] = [body_for(content, one, Terms(model_call=model_call)) for one in (reading, rule)]
    body = Buffered(bodies[0], reading, model, named, bodies[1], limit)
    assert [body.feed(chunk) for chunk in chunks] == [b""] * len(chunks)
    return body.finish(), model, rule


def deltas(*texts: str) -> bytes:
    """A stream of OpenAI's with one choice."""
    choices = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    return b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in choices) + b"data: [DONE]\n\n"


def said(stream: bytes) -> str:
    events = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@given(st.lists(st.integers(1, 12), max_size=30))
def test_each_channel_of_a_stream_is_read_as_a_whole_however_it_is_cut(tools: Any, sizes: list[int]) -> None:
    text = f"I am Ada Lovelace, and Ada Lovelace is not Grace. Write to {MAIL} or Zoë!"
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    out, model, rule = through(tools, "text/event-stream", [deltas(*pieces, text[at:])], model_call=True)
    assert text in model.seen
    new = said(out)
    assert not re.search(r"Ada|Lovelace|Grace|Zoë|ann@", new)
    assert re.sub(r"<([A-Z_]+)_[a-z2-7]{10}>", r"<\1>", new) == (
        "I am <PERSON>, and <PERSON> is not <PERSON>. Write to <EMAIL_ADDRESS> or <PERSON>!"
    )
    assert rule.replaced == {"PERSON": 4, "EMAIL_ADDRESS": 1}


def test_two_channels_are_two_texts(tools: Any) -> None:
    events = [
        {"choices": [{"index": index, "delta": {"content": text}}]}
        for index, text in ((0, "Gr"), (1, "Ada Love"), (0, "ace"), (1, "lace"))
    ]
    stream = b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in events)
    out, model, _ = through(tools, "text/event-stream", [stream], model_call=True)
    assert {"Grace", "Ada Lovelace"} <= set(model.seen)
    assert b"ace" not in out.replace(b"<", b"")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps({"a": "Ada Lovelace", "b": ["Grace", 1]})),
        ("application/json", '{"a": "\\u0041da Lovelace"}'),
        ("text/plain", "Ada Lovelace " * 900 + "and Grace"),
        ("application/x-www-form-urlencoded", "name=Ada+Lovelace&other=Grace"),
        ("application/x-ndjson", '{"a": "Ada Lovelace"}\n{"a": "Grace"}\n'),
        (
            "multipart/form-data; boundary=b",
            '--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nGrace\r\n--b--\r\n',
        ),
    ],
)
def test_names_are_replaced_in_every_kind_of_body(tools: Any, kind: str, body: str) -> None:
    out, model, _ = through(tools, kind, [body.encode()])
    assert model.seen
    assert not re.search(rb"Ada|Lovelace|Grace|u0041", out)
    assert b"PERSON_" in out


def test_a_body_that_is_empty_or_without_names_leaves_as_it_is(tools: Any) -> None:
    assert through(tools, "application/json", [])[0] == b""
    assert through(tools, "application/json", [b'{ "a" : "nobody" }'])[0] == b'{ "a" : "nobody" }'


def test_a_body_over_its_limit_is_refused(tools: Any) -> None:
    with pytest.raises(MalformedTextError, match="more than 10 bytes"):
        through(tools, "text/plain", [b"0123456789", b"0"], limit=10)


def test_more_text_than_a_model_may_read_is_refused(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "TEXT_CHARS_MAX", 100)
    monkeypatch.setattr(Reading, "reach", 100)
    assert through(tools, "application/json", [json.dumps(["a" * 60, "a" * 60]).encode()])
    for kind, body in (
        ("application/json", json.dumps(["a" * 60, "b" * 60])),
        ("text/event-stream", deltas(*["word "] * 200).decode()),
    ):
        with pytest.raises(MalformedTextError, match="than a language model may read"):
            through(tools, kind, [body.encode()], model_call=True)


def named(tools: Any, text: str, pattern: str, *, within: str = "") -> list[str]:
    """What is found in ``text`` once the model read ``within``, or it."""
    found = Named(tools.detecting(tools.detect), settle)
    found.learn([within or text], Model(re.compile(pattern)))
    matches = found.detect(text)
    assert not (matches and found.clears(text))
    return [text[one.start : one.end] for one in matches]


def test_a_name_is_found_as_a_word_unless_the_model_found_it_in_one(tools: Any) -> None:
    assert named(tools, "Al and Alan, (Al) Al's", r"\bAl\b") == ["Al", "Al", "Al"]
    assert named(tools, "我是张三先生", "张三") == ["张三"]
    assert named(tools, "McGrace", "Grace", within="Grace") == []
    assert named(tools, "Ada Lovelace met Ada and Lovelace", "Ada Lovelace|Ada|Lovelace") == [
        "Ada Lovelace", "Ada", "Lovelace",
    ]  # fmt: skip


def test_a_pattern_with_a_higher_score_wins_over_a_name(tools: Any) -> None:
    found = Named(tools.detecting(tools.detect), settle)
    found.learn([f"to {MAIL}"], Model(re.compile(re.escape(MAIL))))
    assert [one.entity for one in found.detect(f"to {MAIL}")] == ["EMAIL_ADDRESS"]


@given(
    st.text(st.sampled_from("ab ]-^\\张"), max_size=60),
    st.text(st.sampled_from("ab ]-^\\张"), min_size=1, max_size=4),
)
def test_whatever_the_model_found_is_found_again_where_it_was(tools: Any, text: str, name: str) -> None:
    found = Named(tools.detecting(lambda _: []), settle)
    found.learn([text], Model(re.compile(re.escape(name))))
    covered = {at for one in found.detect(text) for at in range(one.start, one.end)}
    assert {at for one in re.finditer(re.escape(name), text) for at in range(*one.span())} <= covered


def test_a_long_name_is_replaced_whole(tools: Any) -> None:
    name = "Ada " * 100 + "Ada"
    found = Named(tools.detecting(lambda _: []), settle)
    found.learn([name], Model(re.compile("Ada[Ada ]*")))
    assert found.reach == VALUE_CHARS_MAX
    rule = ResponseScrub(found, tools.vault(), restore=False)
    assert "Ada" not in apply(name, text_edits(rule, name))


def test_no_text_and_no_name_is_shown(tools: Any) -> None:
    reading = Reading()
    reading.find("Grace")
    found = Named(tools.detecting(lambda _: []), settle)
    found.learn(reading.texts, Model())
    assert "Grace" not in repr(reading) + repr(found)
