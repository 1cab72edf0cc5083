"""Lines of JSON: each is an event, and what Ollama says in many is one text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.model.redact_section import Unknown
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.fields import Scope
from tenantguard.rules.redaction.json_lines import JsonLines
from tenantguard.rules.redaction.text.rule import MalformedTextError, TextRule, apply, text_edits


def run(rule: TextRule, body: bytes, cut: Any = None, **options: Any) -> bytes:
    lines = JsonLines(rule, **{"protocol": False, **options})
    return b"".join([*map(lines.feed, cut or [body]), lines.finish()])


def chat(text: str, *, done: bool = False) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": "llama3.2", "created_at": "2026-05-04T10:11:12.5Z", "message": message, "done": done}


@settings(max_examples=80, deadline=None)
@given(data=st.data(), field=st.sampled_from(["content", "thinking", "response"]))
def test_any_lines_in_any_chunks_give_the_redacted_text(tools: Any, data: st.DataObject, field: str) -> None:
    """E+9, E+10."""
    text = data.draw(tools.prose)[:200]
    head = {"model": "m", "created_at": "2026-05-04T10:11:12.5Z"}
    parts = [{field: part} for part in tools.cut(text, data.draw(tools.places))]
    lines = [{**head, **(part if field == "response" else {"message": part}), "done": False} for part in parts]
    last = {"response": ""} if field == "response" else {"message": {"role": "assistant", "content": ""}}
    lines.append({**head, **last, "done": True, "total_duration": 5})
    body = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    redacted = run(tools.scrub(), body, tools.cut(body, data.draw(tools.places)), protocol=True)
    read = [json.loads(line) for line in redacted.splitlines()]
    said = "".join(line.get(field, line.get("message", {}).get(field, "")) for line in read)
    assert said == apply(text, text_edits(tools.scrub(), text))
    assert read[-1]["done"] is True
    assert run(tools.scrub(), body, protocol=True) == redacted


def test_an_end_without_a_last_line_loses_nothing(tools: Any) -> None:
    for end in (b"", b"\n"):
        redacted = run(tools.scrub(), json.dumps(chat("call 415")).encode() + end, protocol=True)
        assert [json.loads(line)["message"]["content"] for line in redacted.splitlines()] == ["call ", "415"]


@given(data=st.data())
def test_lines_without_personal_data_keep_their_bytes(tools: Any, data: st.DataObject) -> None:
    """E-67."""
    body = b'\xef\xbb\xbf{"a": 1e400}\r\n\n \t\n\x1e{"b": ["x"]}\n"plain"\nnull\n[1]\nplain words\n\x1e{"c":{}}'
    assert run(tools.scrub(), body, tools.cut(body, data.draw(tools.places))) == body


def test_every_string_of_a_line_is_redacted_and_text_too(tools: Any) -> None:
    body = b'{"to":"a\\u0040b.io","n":[{"x":"a@b.io"}]}\nmail a@b.io\n"a@b.io"\n'
    redacted = run(tools.scrub(), body)
    assert b"b.io" not in redacted
    assert redacted.count(b"<EMAIL_ADDRESS_") == 4


@pytest.mark.parametrize("line", [b"{broken", b"[1,", b"\xff", b"x" * 2000])
def test_a_line_that_cannot_be_read_is_an_error(tools: Any, line: bytes) -> None:
    for cut in (None, [line[at : at + 1] for at in range(len(line))]):
        with pytest.raises(MalformedTextError) as caught:
            run(tools.scrub(), line, cut, limit=1000)
        assert "broken" not in str(caught.value)


def test_a_provider_sends_nothing_but_json(tools: Any) -> None:
    with pytest.raises(MalformedTextError):
        run(tools.scrub(), b"hello\n", protocol=True)


@pytest.mark.parametrize("line", [b'{"to":"a@b.io"}\n', b"mail a@b.io\n"])
def test_what_is_of_no_known_shape_is_scrubbed_blocked_or_passed(tools: Any, line: bytes) -> None:
    rule = tools.scrub()
    assert b"a@b.io" not in run(rule, line, unknown=Unknown.SCRUB)
    assert run(rule, line, unknown=Unknown.PASS) == line
    assert rule.skipped == {"event": 1}
    with pytest.raises(MalformedTextError):
        run(rule, line, unknown=Unknown.BLOCK)


def test_known_lines_are_redacted_whatever_becomes_of_others(tools: Any) -> None:
    for unknown in Unknown:
        body = json.dumps(chat("mail a@b.io ", done=True)).encode()
        assert b"a@b.io" not in run(tools.scrub(), body, unknown=unknown)


def test_a_failure_ends_the_lines_with_an_error(tools: Any) -> None:
    lines = JsonLines(tools.scrub(), protocol=True)
    assert lines.failure("redaction.failed", "sorry") == b""
    lines.feed(json.dumps(chat("hi ")).encode() + b"\n")
    assert json.loads(lines.failure("redaction.failed", "sorry")) == {"error": "sorry"}


@pytest.mark.parametrize("unbroken", [True, False])
def test_what_is_restored_in_a_line_of_text_stays_in_it(tools: Any, *, unbroken: bool) -> None:
    """A private key has lines of its own, which would be lines of the stream."""
    vault = tools.vault()
    token = vault.mint("PRIVATE_KEY", "of one line" if unbroken else 'of\n{"two": "lines"}')
    rule = tools.scrub(vault, restore=True)
    if unbroken:
        assert run(rule, f"it is {token}\n".encode()) == b"it is of one line\n"
        return
    with pytest.raises(MalformedTextError):
        run(rule, f"it is {token}\n".encode())


def test_keys_and_numbers_of_lines_are_redacted_by_option(tools: Any) -> None:
    line = b'{"a@b.io":4111111111111111,"n":12}\n'
    assert run(tools.scrub(), line) == line
    said = run(tools.scrub(), line, scope=Scope(keys=True, numbers=True))
    assert b"b.io" not in said
    assert b"4111" not in said
    assert json.loads(said)["n"] == 12


@pytest.mark.parametrize("line", ['"a\\u0040b.io",', "x = {a: 'a\\x40b.io'}"])
def test_escapes_hide_nothing_in_a_line_that_is_no_json(tools: Any, line: str) -> None:
    assert b"b.io" not in run(tools.scrub(), line.encode())
    assert b"b.io" not in b"".join(
        [(stream := EventStream(tools.scrub(), protocol=False)).feed(f"data: {line}\n\n".encode()), stream.finish()]
    )
