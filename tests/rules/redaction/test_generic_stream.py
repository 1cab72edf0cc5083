"""Event streams of no model provider: text, JSON of any shape, JSON-RPC, and what a policy says of the unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.fields import EVERYWHERE, Scope
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule


def run(
    rule: TextRule,
    *chunks: bytes,
    unknown: Unknown = Unknown.SCRUB,
    protocol: bool = False,
    scope: Scope = EVERYWHERE,
) -> bytes:
    stream = EventStream(rule, protocol=protocol, unknown=unknown, scope=scope)
    return b"".join([*(stream.feed(one) for one in chunks), stream.finish()])


def rpc(**members: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n\n"


STRANGE = [b'data: {"note":"a@b.io"}\n\n', b"data: mail a@b.io\n\n", b'data: ["a@b.io"]\n\n', b'data: "a@b.io"\n\n']


@pytest.mark.parametrize("event", STRANGE)
def test_what_is_of_no_known_shape_is_scrubbed_blocked_or_passed(tools: Any, event: bytes) -> None:
    rule = tools.scrub()
    assert b"a@b.io" not in run(rule, event)
    assert rule.skipped == {}
    assert run(rule, event, unknown=Unknown.PASS) == event
    assert rule.skipped == {"event": 1}
    with pytest.raises(MalformedTextError):
        run(tools.scrub(), event, unknown=Unknown.BLOCK)


@pytest.mark.parametrize("unknown", list(Unknown))
def test_what_is_known_is_redacted_whatever_becomes_of_the_rest(tools: Any, unknown: Unknown) -> None:
    known = [
        b'data: {"choices":[{"index":0,"delta":{"content":"a@b.io "}}]}\n\n',
        b'data: {"error":{"message":"a@b.io"}}\n\n',
        b": a@b.io\n\n",
        b"id: a@b.io\ndata:\n\n",
        rpc(id=1, result={"content": [{"type": "text", "text": "a@b.io"}]}),
    ]
    for event in known:
        assert b"a@b.io" not in run(tools.scrub(), event, unknown=unknown)


@given(data=st.data())
def test_tools_of_mcp_are_redacted_and_the_protocol_stays(tools: Any, data: st.DataObject) -> None:
    """E-78."""
    arguments = {"to": "a@b.io", "id": "4111 1111 1111 1111"}
    stream = rpc(id="r-1", method="tools/call", params={"name": "mail", "arguments": arguments})
    stream += rpc(id="r-1", result={"content": [{"type": "text", "text": "sent to a@b.io"}], "isError": False})
    stream += rpc(method="notifications/progress", params={"progressToken": "t-1", "message": "a@b.io"})
    redacted = run(tools.scrub(), *tools.cut(stream, data.draw(tools.places)))
    assert b"a@b.io" not in redacted
    assert b"4111" not in redacted
    read = [json.loads(line[6:]) for line in redacted.splitlines() if line.startswith(b"data: ")]
    assert [(one["jsonrpc"], one.get("id"), one.get("method")) for one in read] == [
        ("2.0", "r-1", "tools/call"), ("2.0", "r-1", None), ("2.0", None, "notifications/progress"),
    ]  # fmt: skip
    assert read[0]["params"]["name"] == "mail"


def test_text_of_several_lines_keeps_its_lines(tools: Any) -> None:
    stream = b"event: say\r\ndata: one\r\ndata: mail a@b.io now\r\ndata:\r\n\r\n"
    assert run(tools.scrub(), stream).count(b"\r\ndata: ") == 3
    assert run(tools.scrub(), stream).endswith(b" now\r\ndata: \r\n\r\n")


def test_what_looks_like_json_and_is_none_is_an_error(tools: Any) -> None:
    for unknown in Unknown:
        with pytest.raises(MalformedTextError):
            run(tools.scrub(), b"data: {a@b.io\n\n", unknown=unknown)


def test_an_unknown_event_of_a_provider_is_scrubbed_or_blocked(tools: Any) -> None:
    event = b'data: {"type":"something.new","text":"a@b.io","id":"x-1"}\n\n'
    redacted = run(tools.scrub(), event, protocol=True)
    assert b"a@b.io" not in redacted
    assert b'"id":"x-1"' in redacted
    with pytest.raises(MalformedTextError):
        run(tools.scrub(), event, protocol=True, unknown=Unknown.BLOCK)


def of_chat(**more: Any) -> bytes:
    said = {"choices": [{"index": 0, "delta": {"content": "hello "}}], **more}
    return b"data: " + json.dumps(said).encode() + b"\n\n"


@pytest.mark.parametrize(
    "event", [of_chat(**{"a@b.io": {"n": 4111111111111111}}), b'data: {"a@b.io":[4111111111111111]}\n\n']
)
def test_keys_and_numbers_of_events_are_redacted_by_option(tools: Any, event: bytes) -> None:
    assert run(tools.scrub(), event) == event
    for scope, left in ((Scope(keys=True), b"4111111111111111"), (Scope(numbers=True), b"a@b.io")):
        said = run(tools.scrub(), event, event, scope=scope)
        assert [mark in said for mark in (b"a@b.io", b"4111111111111111")] == [left == b"a@b.io", left != b"a@b.io"]
        assert said.count(b"hello ") == event.count(b"hello ") * 2


def test_no_event_of_our_own_says_a_key_that_is_redacted(tools: Any) -> None:
    said = b'data: {"choices":[{"index":0,"delta":{"a@b.io":"call 415"}}]}\n\n'
    assert b"b.io" not in run(tools.scrub(), said, b"data: [DONE]\n\n", protocol=True, scope=Scope(keys=True))
