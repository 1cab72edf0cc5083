"""What a broken or lying upstream sends: nothing raw leaves, a failure costs nothing, no end is made up."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.hostile import ScriptedUpstream, chat, lab, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.hostile import Lab

EMAIL = "jane.roe@example.com"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COST = 3 * 1_000 + 4 * 2_000
NAMES = {"id": "chatcmpl-0123456789abcdef", "created": 1, "model": "small"}
DOCUMENT = json.dumps(
    {
        **NAMES,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": EMAIL}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
).encode()
LAST = b"data: [DONE]\n\n"
JSON, EVENTS = "application/json", "text/event-stream"


def event(**delta: Any) -> bytes:
    chunk = {**NAMES, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def usage_event(counts: Any = USAGE) -> bytes:
    return b"data: " + json.dumps({**NAMES, "choices": [], "usage": counts}).encode() + b"\n\n"


def answer(body: bytes, content_type: str = JSON, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", *lines, "connection: close", f"content-length: {len(body)}"]
    head += [f"content-type: {content_type}"] if content_type else []
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    scripted = ScriptedUpstream()
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def between(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    more = '\n[[routes]]\nmatch = "POST /flat"\nprice = "0.01 USD"\n'
    with lab(upstream.url, tmp_path_factory.mktemp("hostile"), more) as served:
        yield served


class Told:
    """One exchange: what the client got, what was recorded, and what it cost."""

    def __init__(
        self,
        between: Lab,
        upstream: ScriptedUpstream,
        scripted: bytes,
        tenant: str,
        *,
        stream: bool = False,
        **how: Any,
    ) -> None:
        upstream.answer = scripted
        spent = between.account(tenant)[0]
        self.raw = between.talk(request(tenant, chat(stream=stream), "content-type: application/json", **how))
        self.record = between.recorder.next()
        after, held = between.account(tenant)
        assert held == 0
        self.cost = after - spent
        self.status = int(self.raw[9:12] or b"0")


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "429 Too Many Requests", "500 No", "502 No"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html", b"<html>"), ("", b"?"), (JSON, b"{"), (EVENTS, b"data: {\n\n"), (EVENTS, b"x"), (JSON, b"{}")],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/flat"])
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_an_error_of_the_upstream_costs_nothing_in_whatever_form_it_comes(
    between: Lab, upstream: ScriptedUpstream, status: str, content_type: str, body: bytes, path: str, tenant: str
) -> None:
    """E+7. Redaction withholds what it cannot read; that the upstream had failed before is no less true."""
    told = Told(between, upstream, answer(body, content_type, status=status), tenant, path=path)
    assert told.cost == 0
    assert told.status >= 400


@pytest.mark.parametrize(
    ("scripted", "stream"),
    [
        (answer(DOCUMENT, EVENTS), False),
        (answer(DOCUMENT + b"\n\n", EVENTS), False),
        (answer(event(content="a") + DOCUMENT + b"\n\n" + LAST, EVENTS), True),
        (answer(event(content="a") + f"text: {EMAIL}\n\n".encode() + LAST, EVENTS), True),
        (answer(event(content="a") + f"data {EMAIL}\n\n".encode() + LAST, EVENTS), True),
        (answer(event(content="a") + EMAIL.encode(), EVENTS), True),
        (answer(f": {EMAIL}\n\n".encode() + event(content="a") + LAST, EVENTS), True),
        (
            answer(
                f"\ufeff: {EMAIL}\rid: {EMAIL}\n".encode() + event(content="a") + LAST + b": " + EMAIL.encode(),
                EVENTS,
            ),
            True,
        ),
        (answer(f"event: {EMAIL}\nid: to {EMAIL}\n".encode() + event(content="a") + LAST, EVENTS), True),
        (answer(DOCUMENT, "application/octet-stream"), False),
        (answer(DOCUMENT, "image/png"), False),
        (answer(DOCUMENT, "application/x-ndjson"), False),
        (answer(DOCUMENT, "text/html"), False),
        (answer(DOCUMENT, ""), False),
        (answer(DOCUMENT + b"x", JSON), False),
        (answer(DOCUMENT.decode().encode("utf-16"), JSON), False),
        (answer(event(content=EMAIL) + usage_event() + LAST, JSON), True),
        (answer(event(content=EMAIL) + usage_event() + LAST, ""), True),
        (answer(event(content=EMAIL[:9]) + event(content=EMAIL[9:]) + usage_event() + LAST, EVENTS), True),
        (answer(event(content=EMAIL) + usage_event() + LAST + event(content=EMAIL), EVENTS), True),
        (answer(event(content="a") + b'data: {"error":{"message":"' + EMAIL.encode() + b'"}}\n\n', EVENTS), True),
        (
            answer(event(audio={"transcript": EMAIL[:9]}) + event(audio={"transcript": EMAIL[9:]}) + LAST, EVENTS),
            True,
        ),
        (answer(DOCUMENT, JSON, status="206 Partial Content"), False),
        (answer(gzip.compress(DOCUMENT), JSON, "content-encoding: identity", "content-encoding: gzip"), False),
    ],
)
def test_no_form_of_an_answer_lets_personal_data_through(
    between: Lab, upstream: ScriptedUpstream, *, scripted: bytes, stream: bool
) -> None:
    told = Told(between, upstream, scripted, "acme", stream=stream)
    said = told.raw.replace(b"\0", b"")
    assert EMAIL.encode() not in said
    assert b"example.com" not in said


@pytest.mark.parametrize(
    "scripted",
    [
        answer(DOCUMENT, "application/octet-stream"),
        answer(DOCUMENT, "application/x-ndjson"),
        answer(DOCUMENT, "application/msgpack"),
        answer(DOCUMENT, "text/plain"),
        answer(DOCUMENT, JSON, "content-type: text/event-stream"),
        answer(gzip.compress(DOCUMENT), JSON, "content-encoding: gzip"),
        answer(gzip.compress(DOCUMENT), JSON, "content-encoding: identity", "content-encoding: gzip"),
    ],
)
def test_an_answer_that_no_decoder_reads_is_withheld_and_not_given_away(
    between: Lab, upstream: ScriptedUpstream, scripted: bytes
) -> None:
    """A caller can ask some servers for another form, whose usage nobody sees."""
    told = Told(between, upstream, scripted, "plain")
    assert (told.status, told.record.reason) == (502, "response.unreadable")
    assert b"choices" not in told.raw
    assert told.cost > 0


@pytest.mark.parametrize("said", [b"[" * 100_000 + b"]" * 100_000, b"1" * 5_000], ids=["nested", "digits"])
def test_a_document_that_python_does_not_read_is_charged_as_one_without_usage(
    between: Lab, upstream: ScriptedUpstream, said: bytes
) -> None:
    """What a caller nests just deeply enough, an upstream may say again within something; a model writes numbers."""
    told = Told(between, upstream, answer(DOCUMENT[:-1] + b',"metadata":' + said + b"}"), "plain")
    assert told.record.ending == "completed"
    assert told.cost > COST


def test_a_document_with_bytes_that_are_no_text_is_charged_what_it_says(
    between: Lab, upstream: ScriptedUpstream
) -> None:
    """Some servers cut the text of a model within a character."""
    told = Told(between, upstream, answer(DOCUMENT[:-1] + b',"text":"\xe2\x82"}'), "plain")
    assert (told.record.ending, told.cost) == ("completed", COST)


@pytest.mark.parametrize("content_type", ["", EVENTS, "text/event-stream; charset=utf-8", "TEXT/EVENT-STREAM"])
def test_a_stream_is_read_as_the_stream_that_was_asked_for(
    between: Lab, upstream: ScriptedUpstream, content_type: str
) -> None:
    told = Told(
        between, upstream, answer(event(content="a") + usage_event() + LAST, content_type), "plain", stream=True
    )
    assert (told.record.ending, told.cost) == ("completed", COST)


@pytest.mark.parametrize(
    ("counts", "exact"),
    [
        ({"prompt_tokens": -3, "completion_tokens": -4}, False),
        ({"prompt_tokens": 3, "completion_tokens": 10**30}, False),
        ({"prompt_tokens": True, "completion_tokens": 4}, False),
        ({"prompt_tokens": "3", "completion_tokens": "4"}, False),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 9}}, False),
        ([], False),
        (USAGE, True),
    ],
)
def test_impossible_counts_cost_the_hold_and_never_give_money_back(
    between: Lab, upstream: ScriptedUpstream, *, counts: Any, exact: bool
) -> None:
    told = Told(
        between, upstream, answer(event(content="a") + usage_event(counts) + LAST, EVENTS), "plain", stream=True
    )
    assert told.record.ending == "completed"
    assert told.cost == COST if exact else told.cost > 100_000


@pytest.mark.parametrize(
    "text",
    [
        "[DONE]",
        "data: [DONE]\n\n",
        '"usage": {"prompt_tokens":0,"completion_tokens":0}',
        '","usage":{}',
        '{"error": 1}',
    ],
)
def test_what_a_model_says_passes_for_no_end_no_usage_and_no_error(
    between: Lab, upstream: ScriptedUpstream, text: str
) -> None:
    scripted = answer(event(content=text) + usage_event() + LAST, EVENTS)
    told = Told(between, upstream, scripted, "plain", stream=True)
    assert (told.record.ending, told.cost) == ("completed", COST)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_a_stream_with_other_line_ends_comments_and_a_byte_order_mark_is_charged_alike(
    between: Lab, upstream: ScriptedUpstream, line_end: bytes, tenant: str
) -> None:
    body = (
        b"\xef\xbb\xbf: hello\n\n" + event(content="one two three four") + usage_event() + b"id: 7\nretry: 9\n" + LAST
    )
    told = Told(between, upstream, answer(body.replace(b"\n", line_end), EVENTS), tenant, stream=True)
    assert (told.record.ending, told.cost) == ("completed", COST)


@pytest.mark.parametrize(
    "scripted",
    [
        answer(event(content="a") + usage_event(), EVENTS),
        answer(event(content="a") + usage_event() + b"data: [DON", EVENTS),
        answer(event(content="a") + usage_event() + LAST, EVENTS).replace(b"data: [DONE]", b"data: DONE  "),
        answer(DOCUMENT[:-1]).replace(b"connection", b"x-connection"),
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n" + DOCUMENT,
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"id"',
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n",
        answer(DOCUMENT, status="999 Odd"),
        answer(DOCUMENT, status="600 Odd"),
        answer(b"", status="101 Switching Protocols"),
        answer(DOCUMENT, JSON, "x: a\0b"),
        answer(DOCUMENT, JSON, "x: a\x01b"),
        answer(event(content="a") + usage_event() + LAST, EVENTS, "x: a\x7fb"),
    ],
)
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_what_broke_off_or_is_no_answer_costs_nothing_and_never_looks_complete(
    between: Lab, upstream: ScriptedUpstream, scripted: bytes, tenant: str
) -> None:
    told = Told(between, upstream, scripted, tenant, stream=b"event-stream" in scripted)
    assert told.cost == 0
    assert told.record.ending in {"failed", "cut"}
    assert b"[DONE]" not in told.raw
    whole = told.raw.endswith(b"0\r\n\r\n") or f"content-length: {len(DOCUMENT)}".encode() in told.raw
    assert told.status != 200 or not whole or b"event-stream" in scripted


def test_a_response_that_the_provider_gives_twice_is_charged_once(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A provider's response id is charged once for ever for a tenant, in whatever form it comes back."""
    stream = answer(event(content="a") + usage_event() + LAST, EVENTS)
    other = answer(DOCUMENT.replace(b"0123456789abcdef", b"fedcba9876543210"))
    with lab(upstream.url, tmp_path, chat="") as served:
        told = [
            Told(served, upstream, answer(DOCUMENT), "plain"),
            Told(served, upstream, answer(DOCUMENT), "plain"),
            Told(served, upstream, stream, "plain", stream=True),
            Told(served, upstream, other, "plain"),
            Told(served, upstream, answer(DOCUMENT), "limited"),
        ]
        assert [one.cost for one in told] == [COST, 0, 0, COST, COST]
        assert [one.record.ending for one in told] == ["completed"] * 5
        assert all(one.status == 200 for one in told)


@pytest.mark.parametrize("status", ["999 Odd", "600 Odd"])
def test_a_status_that_http_does_not_have_is_502(between: Lab, upstream: ScriptedUpstream, status: str) -> None:
    told = Told(between, upstream, answer(DOCUMENT, status=status), "plain")
    assert told.status == 502
    assert b"upstream.invalid" in told.raw
