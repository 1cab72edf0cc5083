"""Plain text, JSON kept until it ends, and event streams of unknown shape."""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenantguard.errors import PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import Unknown
from tenantguard.rules.media import _CHARSETS, content_of
from tenantguard.rules.redaction.bodies import Passing, Refused, Terms, TextBody, body_for, charset_of
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.text.rule import MalformedTextError, RequestMask, ResponseScrub, apply, text_edits


@settings(max_examples=150, deadline=None)
@given(data=st.data(), charset=st.sampled_from(["", "utf-8", "utf-16-le", "utf-32-be"]))
def test_a_text_is_redacted_in_any_chunks(tools: Any, data: st.DataObject, charset: str) -> None:
    """E+9, E+10."""
    text = data.draw(tools.prose)[:200]
    body = TextBody(tools.scrub(), charset)
    chunks = tools.cut(text.encode(charset or "utf-8"), data.draw(tools.places))
    out = b"".join([*(body.feed(chunk) for chunk in chunks), body.finish()])
    assert out.decode(charset or "utf-8") == apply(text, text_edits(tools.scrub(), text))


FORM = "application/x-www-form-urlencoded"


def whole(body: Any, data: bytes) -> bytes:
    return body.feed(data) + body.finish()


def body_of(rule: Any, head: str, **terms: Any) -> Any:
    return body_for(content_of([(b"content-type", head.encode())] if head else []), rule, Terms(**terms))


@pytest.mark.parametrize(
    ("charset", "encoded"),
    [
        ("iso-8859-1", "café a@b.io ".encode("latin-1")),
        ("windows-1252", "€ a@b.io é".encode("cp1252")),
        ("utf-16", codecs.BOM_UTF16_BE + "é a@b.io".encode("utf-16-be")),
        ("utf-16", codecs.BOM_UTF16_LE + "é a@b.io".encode("utf-16-le")),
        ("utf-32", codecs.BOM_UTF32_LE + "é a@b.io".encode("utf-32-le")),
        ("utf-16-le", "é a@b.io".encode("utf-16-le")),
        ("utf-8", codecs.BOM_UTF8 + "é a@b.io".encode()),
        ("", codecs.BOM_UTF16_LE + "é a@b.io".encode("utf-16-le")),
    ],
)
def test_a_text_keeps_its_charset_and_its_byte_order_mark(tools: Any, charset: str, encoded: bytes) -> None:
    for chunks in ([encoded], [encoded[at : at + 1] for at in range(len(encoded))]):
        vault = tools.vault()
        token = vault.mint("EMAIL_ADDRESS", "a@b.io")
        body = body_of(tools.mask(vault), f"text/csv; charset={charset}" if charset else "text/csv")
        out = b"".join([*(body.feed(chunk) for chunk in chunks), body.finish()])
        name, _ = charset_of(
            encoded,
            content_of([(b"content-type", b"a/b; charset=" + (charset or "utf-8").encode())])[1] if charset else "",
        )
        assert out == encoded.replace("a@b.io".encode(name), token.encode(name))


@pytest.mark.parametrize(
    "charset", [*{content for content in _CHARSETS.values() if content.startswith(("iso", "cp"))}]
)
def test_every_byte_that_a_charset_knows_comes_back(tools: Any, charset: str) -> None:
    known = bytes(byte for byte in range(1, 256) if bytes([byte]).decode(charset, "ignore"))
    assert whole(TextBody(tools.scrub(), charset), known) == known
    assert len(known) > 200


@pytest.mark.parametrize(
    ("charset", "data"),
    [
        ("utf-8", b"caf\xe9 "), ("utf-8", "é".encode()[:1]), ("cp1252", b"a \x81"), ("utf-16", b"a\0b\0"),
        ("utf-16-le", b"a\0b"), ("utf-32-le", b"\xff\xff\xff\xff"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_in_their_charset_are_an_error(tools: Any, charset: str, data: bytes) -> None:
    with pytest.raises(MalformedTextError):
        whole(TextBody(tools.scrub(), charset), data)


def test_a_value_that_the_charset_cannot_say_is_an_error_that_does_not_tell_it(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "张三@example.com")
    with pytest.raises(MalformedTextError) as caught:
        whole(TextBody(tools.scrub(vault, restore=True), "iso-8859-1"), token.encode())
    assert "example" not in str(caught.value)


def test_a_json_body_leaves_when_it_has_ended(tools: Any) -> None:
    body = body_of(tools.scrub(), "application/json")
    assert [body.feed(piece) for piece in (b'{"a":"x@', b'b.io"', b"}")] == [b"", b"", b""]
    assert b"<EMAIL_ADDRESS_" in body.finish()


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("text", ['{"a":"é a@b.io"}', '"a@b.io"', "1", "[]", " [\n]"])
def test_json_is_read_in_every_unicode_encoding(tools: Any, codec: str, text: str) -> None:
    vault = tools.vault()
    token = vault.mint("EMAIL_ADDRESS", "a@b.io")
    data = text.encode(codec)
    body = body_of(tools.mask(vault), "application/json")
    assert whole(body, data) == text.replace("a@b.io", token).encode(codec)


def test_json_in_another_encoding_than_it_says_is_an_error(tools: Any) -> None:
    for charset, codec in (
        ("utf-8", "utf-16-le"),
        ("utf-16-le", "utf-16-be"),
        ("utf-8", "latin-1"),
        ("utf-16", "utf-16-le"),
    ):
        with pytest.raises(MalformedTextError):
            whole(body_of(tools.mask(), f"application/json; charset={charset}"), '{"é":"é"}'.encode(codec))
    assert isinstance(body_of(tools.mask(), "application/json; charset=latin-1"), Refused)


@pytest.mark.parametrize("head", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_an_empty_body_stays_empty(tools: Any, head: str) -> None:
    assert whole(body_of(tools.scrub(), head), b"") == b""


def test_a_body_over_its_limit_or_unfinished_is_an_error(tools: Any) -> None:
    with pytest.raises(MalformedTextError, match="more than 10 bytes"):
        body_of(tools.scrub(), "application/json", limit=10).feed(b"[" * 11)
    body = body_of(tools.scrub(), "application/json")
    body.feed(b'{"a":"secr')
    with pytest.raises(MalformedTextError) as caught:
        body.finish()
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("image/png", "image"), ("IMAGE/x-4111111111111111", "image"), ("audio/mpeg", "audio"),
        ("application/pdf", "application/pdf"), ("application/octet-stream", "application/octet-stream"),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "application"),
    ],
)  # fmt: skip
def test_a_binary_body_passes_and_is_counted_by_a_kind_that_tells_nothing(tools: Any, head: str, kind: str) -> None:
    rule = tools.scrub()
    assert body_of(rule, head) == Passing(kind)
    assert rule.skipped == {kind: 1}


@pytest.mark.parametrize(
    "head",
    ["text/html", "text/markdown; charset=utf-8", "application/xml", "image/svg+xml", "application/xhtml+xml",
     "text/javascript", "application/yaml", "text/plain", "text/csv;header=present"],
)  # fmt: skip
@pytest.mark.parametrize("unknown", Unknown)
def test_texts_are_redacted_whatever_is_done_with_what_is_unknown(tools: Any, head: str, unknown: Unknown) -> None:
    assert b"a@b.io" not in whole(body_of(tools.scrub(), head, unknown=unknown), b"<p>a@b.io</p>")


@pytest.mark.parametrize("head", ["text/x-json", "text/uri-list", "application/soap+xml", "image/svg+xml"])
def test_json_under_the_type_of_another_text_hides_nothing_in_escapes(tools: Any, head: str) -> None:
    for data in (b'{"a":"a\\u0040b.io"}', b'"a\\u0040b.io"', b'call({"a":"a\\u0040b.io"})'):
        assert b"b.io" not in whole(body_of(tools.scrub(), head), data)


@pytest.mark.parametrize("head", ["", "application/x-thing", "foo/bar"])
def test_an_unknown_body_is_scrubbed_blocked_or_passed_as_the_policy_says(tools: Any, head: str) -> None:
    rule = tools.scrub()
    for data in (b"mail a@b.io", b'{"a":"a\\u0040b.io"}', b'["a@b.io", {"a@b.io": broken a@b.io'):
        out = whole(body_of(rule, head), data)
        assert b"b.io" not in out
        assert b"<EMAIL_ADDRESS_" in out
    with pytest.raises(MalformedTextError):
        whole(body_of(rule, head), b"\xff\xfe\xfd a@b.io")
    assert rule.skipped == {}
    assert body_of(rule, head, unknown=Unknown.PASS) == Passing("unknown")
    assert rule.skipped == {"unknown": 1}
    blocked = body_of(rule, head, unknown=Unknown.BLOCK)
    if head:
        assert isinstance(blocked, Refused)
    else:
        assert whole(blocked, b"") == b""
        with pytest.raises(MalformedTextError):
            blocked.feed(b"x")


def test_a_plain_text_that_is_json_hides_nothing_in_escapes(tools: Any) -> None:
    data = b' {"a":"a\\u0040b.io", "n":4111111111111111}'
    out = whole(body_of(tools.scrub(), "text/plain"), data)
    assert b"u0040" not in out
    assert json.loads(out)["n"] == 4111111111111111
    assert isinstance(json.loads(whole(body_of(tools.scrub(), "text/plain", numbers=True), data))["n"], str)


@pytest.mark.parametrize(
    "text",
    ["[1] see a@b.io", "[4111 1111 1111 1111]", '{"a": a@b.io}', '{"a":"a@b.io"', "{} a@b.io", "[a@b.io",
     '["a\\u0040b.io" x', "[\r\na@b.io\r\n", '{"a":"a\\u0040b.io', "  [x] a@b.io ", "[1.5.a@b.io]"],
)  # fmt: skip
def test_a_plain_text_that_only_begins_as_json_is_text(tools: Any, text: str) -> None:
    for size in (1, 3, 100):
        body = body_of(tools.scrub(), "text/plain")
        chunks = [text.encode()[at : at + size] for at in range(0, len(text), size)]
        out = b"".join([*map(body.feed, chunks), body.finish()]).decode()
        assert out[:1] == text[:1]
        assert "b.io" not in out
        assert "1111" not in out


@pytest.mark.parametrize(
    "text",
    [
        "{a: 'a\\u0040b.io'}", "{a: 'a\\x40b.io', /* it */}", "[1] of \\u{40} a\\u{40}b.io", "{'a@\\\nb.io', x}",
        "{'a@\\\r\nb.io', x}", "[1,] C:\\ a\\@b.io", "[x] \\ud83d\\ude00 a\\u0040b.io \\ud83d", "{,\\u00",
    ],
)  # fmt: skip
def test_escapes_hide_nothing_in_a_plain_text_that_a_tolerant_reader_takes_for_json(tools: Any, text: str) -> None:
    for size in (1, 2, 3, 100):
        body = body_of(tools.scrub(), "text/plain")
        chunks = [text.encode()[at : at + size] for at in range(0, len(text), size)]
        out = b"".join([*map(body.feed, chunks), body.finish()]).decode()
        assert "b.io" not in out
        start = text.find("a\\") if "b.io" in text else len(text)
        assert out.startswith(text[: start if start >= 0 else text.find("a@")])


@given(data=st.data())
def test_a_text_with_escapes_leaves_as_it_came_where_nothing_is_found(tools: Any, data: st.DataObject) -> None:
    pieces = st.sampled_from([
        "\\", "\\u", "\\u00e9", "\\x4", "\\x41", "\\\n", "\\\r\n", "\r", "\\u{1f600}", "\\ud83d", "\\ude00", "\\n",
        "x", " ", "é", '"', "\\u{", "}",
    ])  # fmt: skip
    text = "[x " + "".join(data.draw(st.lists(pieces)))
    body = body_of(tools.scrub(), "text/plain")
    chunks = tools.cut(text.encode(), data.draw(tools.places))
    assert b"".join([*map(body.feed, chunks), body.finish()]) == text.encode()


def test_what_is_restored_in_a_text_is_escaped_only_where_something_escaped_stood(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("X", 'a "b"')
    texts = {f"[1] {token}": '[1] a "b"', f"[1] \\u003c{token[1:]}": '[1] a \\"b\\"'}
    for text, told in texts.items():
        assert whole(body_of(tools.scrub(vault, restore=True), "text/plain"), text.encode()) == told.encode()


@pytest.mark.parametrize("head", ["", "text/plain", "text/html", "application/x-thing", "application/x-ndjson", FORM])
@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_text_in_a_wide_charset_that_nobody_named_is_an_error(tools: Any, head: str, charset: str) -> None:
    """Its null characters stand between those of a value, which no pattern would find."""
    with pytest.raises(MalformedTextError):
        whole(body_of(tools.scrub(), head), "mail a@b.io\n".encode(charset))


def test_a_text_that_turns_out_to_be_none_leaves_as_it_comes(tools: Any) -> None:
    body = body_of(tools.scrub(), "text/plain")
    assert body.feed(b"[1] According to the") == b"[1] According to "
    assert body.feed(b" plan, ") == b"the plan, "


def test_a_text_that_stays_json_is_held_back_to_its_end_and_to_its_limit(tools: Any) -> None:
    body = body_of(tools.scrub(), "text/plain", limit=300_000)
    for _ in range(200_000 // 4):
        assert body.feed(b'["a"') + body.feed(b",") == b"" if _ == 0 else body.feed(b'"a",') == b""
    with pytest.raises(MalformedTextError, match="more than 300000"):
        body.feed(b'"a",' * 30_000)
    with pytest.raises(MalformedTextError, match="too deeply"):
        body_of(tools.scrub(), "text/plain").feed(b"[" * 10_000)


@pytest.mark.parametrize("head", ["application/x-ndjson", "application/jsonl; charset=utf-8", "application/json-seq"])
def test_lines_of_json_are_redacted_line_by_line(tools: Any, head: str) -> None:
    mark = b"\x1e" if "seq" in head else b""
    body = body_of(tools.scrub(), head)
    assert b"<EMAIL_ADDRESS_" in body.feed(mark + b'{"a":"a\\u0040b.io"}\n')
    assert body.feed(mark + b'{"a":1}\n') + body.finish() == mark + b'{"a":1}\n'


@pytest.mark.parametrize(
    "data", [b'[{"a":"a@b.io"}]', b'{"a":"a@b.io"}', b'["a@b.io"]', b"[]", b"[[1.5]]", b'"a@b.io"']
)
@pytest.mark.parametrize("model_call", [False, True])
def test_json_of_a_model_may_be_an_array(tools: Any, data: bytes, *, model_call: bool) -> None:
    out = whole(body_of(tools.scrub(), "application/json", model_call=model_call), data)
    assert b"a@b.io" not in out
    if b"@" not in data:
        assert out == data


def test_a_model_call_without_a_type_is_json(tools: Any) -> None:
    with pytest.raises(MalformedTextError):
        whole(body_of(tools.scrub(), "", model_call=True), b"mail a@b.io")


@pytest.mark.parametrize(
    "head",
    ["nonsense", "multipart/form-data", "text/event-stream; charset=latin-1",
     "application/x-www-form-urlencoded; charset=utf-16", "text/plain; charset=utf-7"],
)  # fmt: skip
def test_what_cannot_be_redacted_is_refused_with_a_reason(tools: Any, head: str) -> None:
    refused = body_of(tools.scrub(), head)
    assert isinstance(refused, Refused)
    assert refused.problem.startswith(("is ", "has ", "names "))


def test_events_of_unknown_shape_are_redacted_one_by_one(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=False)
    out = stream.feed(
        b": note\nevent: tick\r\ndata: mail a@b.io\r\ndata: now\r\n\r\n"
        b'data: {"id":"4111-1111-1111-1111","deep":[{"x":"a@b.io"}]}\n\ndata\n\nretry: 5\n\ndata: [DONE]\n\n',
    )
    first, second, *rest = out.replace(b"\r\n", b"\n").split(b"\n\n")
    assert first.startswith(b": note\nevent: tick\ndata: mail <EMAIL_ADDRESS_")
    assert first.endswith(b">\ndata: now")
    assert json.loads(second[6:])["id"].startswith("<CREDIT_CARD_")
    assert rest == [b"data", b"retry: 5", b"data: [DONE]", b""]
    assert b"a@b.io" not in out


def test_an_event_that_a_last_carriage_return_ends_is_an_event(tools: Any) -> None:
    stream = EventStream(tools.scrub(), protocol=True)
    out = stream.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a@b.io"},"finish_reason":"stop"}]}\r\r')
    out += stream.finish()
    assert b"a@b.io" not in out
    assert b"<EMAIL_ADDRESS_" in out
    assert out.endswith(b"\r\r")


def test_a_request_value_that_looks_like_a_placeholder_comes_back_as_it_was(tools: Any) -> None:
    vault = tools.vault()
    stolen = vault.mint("EMAIL_ADDRESS", "john@smith.com")
    forged = f"print {stolen} and <EMAIL_ADDRESS_aaaaaaaaaa>"
    mask = tools.mask(vault)
    sent = apply(forged, text_edits(mask, forged))
    assert stolen not in sent
    assert mask.replaced == {"LITERAL": 2}
    scrub = tools.scrub(vault, restore=True)
    assert apply(sent, text_edits(scrub, sent)) == forged


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_the_request_said_comes_back_exactly(tools: Any, data: st.DataObject) -> None:
    vault = tools.vault()
    token = st.just(tools.vault().mint("EMAIL_ADDRESS", "a@b.io"))
    text = "".join(data.draw(st.lists(tools.prose | token)))
    sent = apply(text, text_edits(tools.mask(vault), text))
    found = {match.entity for match in tools.scrub(vault).find(sent)}
    assert "EMAIL_ADDRESS" not in found
    assume(found <= {"PLACEHOLDER"})  # what a placeholder stands beside may be something now, and be replaced
    echoed = apply(sent, text_edits(tools.scrub(vault, restore=True), sent))
    assert echoed == text


def test_an_answer_in_the_requests_own_words_is_the_requests_own(tools: Any) -> None:
    vault = tools.vault()
    vault.mint("EMAIL_ADDRESS", "john@smith.com")
    text = "john@smith.com and eve@evil.com"
    restored = apply(text, text_edits(tools.scrub(vault, restore=True), text))
    assert restored.startswith("john@smith.com and <EMAIL_ADDRESS_")
    assert "smith" not in apply(text, text_edits(tools.scrub(vault), text))


def test_restored_text_is_not_looked_at_again(tools: Any) -> None:
    vault = tools.vault()
    inner = vault.mint("A", "x")
    outer = vault.mint("LITERAL", inner)
    assert apply(outer, text_edits(tools.scrub(vault, restore=True), outer)) == inner


def test_a_match_around_a_minted_placeholder_takes_only_what_is_beside_it(tools: Any) -> None:
    vault = tools.vault()
    token = vault.mint("A", "x")
    everything = ResponseScrub(tools.detecting(lambda text: [Match("ALL", 0, len(text), 1.0)]), vault, restore=True)
    text = f"left {token} right"
    redacted = apply(text, text_edits(everything, text))
    assert redacted == f"{vault.mask('ALL', 'left ')}x{vault.mask('ALL', ' right')}"


def test_a_match_that_meets_a_forged_placeholder_is_replaced_with_it(tools: Any) -> None:
    vault = tools.vault()
    forged = "<EMAIL_ADDRESS_aaaaaaaaaa>"
    text = f"see {forged} ok"
    mask = RequestMask(
        tools.detecting(lambda text: [Match("URL", 2, 10, 1.0), Match("URL", 25, 32, 1.0)]), vault, escape=True
    )
    sent = apply(text, text_edits(mask, text))
    assert forged not in sent
    assert apply(sent, text_edits(ResponseScrub(tools.detecting(lambda text: []), vault, restore=True), sent)) == text


@pytest.mark.parametrize("matches", [[(0, 3), (2, 5)], [(3, 5), (0, 2)], [(0, 99)], [(2, 2)], [(-1, 2)]])
def test_a_detector_that_answers_nonsense_is_an_error(tools: Any, matches: list[tuple[int, int]]) -> None:
    rule = RequestMask(
        tools.detecting(lambda text: [Match("X", *span, 1.0) for span in matches]), tools.vault(), escape=True
    )
    with pytest.raises(PortError):
        text_edits(rule, "some text")
