"""The redaction layer as the script of its flow: masked on the way in, scrubbed and restored out, never open."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Body, Cut, Ending, Headers, Outcome, Response, Unreadable
from tenantguard.flow.layer import call_app, stack
from tenantguard.layers.redaction import Redaction
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.pii import Match
from tenantguard.model.policy import Policy
from tenantguard.model.redact_section import Find, RedactSection, Restore
from tenantguard.model.route import Dialect, Route
from tenantguard.model.tenant import Tenant, TenantId
from tenantguard.testing import Script, make_exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenantguard.flow.exchange import Exchange

KEY = b"k" * 32
RESTORE = RedactSection(restore=Restore.ALL)
REPLACE = RedactSection()
RESPONSE_ONLY = RedactSection(request=None)
REQUEST_ONLY = RedactSection(response=None)
CHAT = Route("POST /v1/chat/completions", usage="openai-chat")
MESSAGES = Route("POST /v1/messages", usage="anthropic-messages")
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream; charset=utf-8"}
ENDED = Outcome(Ending.COMPLETED, status=200)
ADDRESS = "john@smith.com"


class Mails:
    """Finds e-mail addresses, or fails with the text that it was given."""

    reach = 0
    passed = 0

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing

    def clears(self, text: str) -> bool:
        return "@" not in text

    def detect(self, text: str, after: int = 0) -> Sequence[Match]:
        if self.failing and "@" in text:
            raise ValueError(text)
        return [Match("EMAIL_ADDRESS", *found.span(), 1.0) for found in re.finditer(r"[\w.]+@[\w.]+\w", text)]


def layer(detector: Any = None, **limits: int) -> Redaction:
    return Redaction(lambda find: detector or Mails(), KEY, **limits)


def prepared(section: RedactSection, **limits: int) -> Redaction:
    made = layer(**limits)
    made.prepare(section)
    return made


def exchange_of(
    section: RedactSection | None,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    route: Route | None = None,
    tenant: str = "acme",
) -> Exchange:
    facts = (Tenant(TenantId(tenant)), Policy.of(tenant, [section] if section is not None else []))
    return make_exchange(
        method, "/", headers=JSON if headers is None else headers, body=body, route=route, facts=facts
    )


def response_of(headers: dict[str, str], status: int = 200, body: bytes | None = None) -> Response:
    return Response(status, Headers([(name.encode(), value.encode()) for name, value in headers.items()]), body)


def walk(
    guarded: Redaction, exchange: Exchange, app: Response | Callable[[Exchange], Response] | None = None
) -> tuple[Response, bool]:
    """Answer every question of the layer; return its response, and whether the application was called."""
    script = Script(guarded.handle(exchange, call_app))
    called = False
    while (effect := script.effect) is not None:
        if isinstance(effect, ReadBody):
            if exchange.request.body_read is None:
                exchange.request.body_read = Body(b"")
            script.answer(exchange.request.body_read)
        elif isinstance(effect, Compute):
            script.answer(effect.call())
        else:
            assert isinstance(effect, CallApp)
            called = True
            script.answer(app(exchange) if callable(app) else app or response_of({}, 204))
    return script.result, called


def send(response: Response, *chunks: bytes) -> bytes:
    (transform,) = response.transforms
    assert transform.rewrites
    out = [transform.feed(chunk) for chunk in chunks]
    out.append(transform.finish())
    assert all(isinstance(one, bytes) for one in out), out
    return b"".join(one for one in out if isinstance(one, bytes))


def end(exchange: Exchange) -> None:
    for resolver, _ in exchange.resolvers:
        assert resolver(ENDED) is None
    for observer in exchange.observers:
        assert observer(ENDED) is None


def denial_of(exchange: Exchange) -> Deny:
    denial = exchange.decisions[-1]
    assert isinstance(denial, Deny)
    return denial


@pytest.mark.parametrize("section", [None, RedactSection(None, None)])
def test_a_policy_without_redaction_passes_untouched(section: RedactSection | None) -> None:
    exchange = exchange_of(section, b'"john@smith.com"', {"accept-encoding": "gzip"})
    response, _ = walk(layer(), exchange, response_of({"content-type": "text/html"}))
    assert (response.transforms, exchange.request.body, exchange.resolvers) == ([], b'"john@smith.com"', [])
    assert exchange.request.headers.get("accept-encoding") == "gzip"


def test_the_application_sees_placeholders_and_the_client_its_own_words_again() -> None:
    """E-63, E-74."""
    body = json.dumps({"messages": [{"role": "user", "content": f"I am {ADDRESS}"}]}).encode()
    exchange = exchange_of(RESTORE, body, {**JSON, "digest": "x", "accept-encoding": "gzip", "range": "bytes=0-"})

    def app(exchange: Exchange) -> Response:
        request = exchange.request
        assert request.replaced
        assert ADDRESS not in request.body.decode()
        assert [request.headers.get(name) for name in ("digest", "accept-encoding", "range")] == [None] * 3
        return response_of(JSON)

    response, called = walk(layer(), exchange, app)
    assert called
    said = json.loads(exchange.request.body)["messages"][0]["content"]
    answer = json.dumps({"echo": said, "leak": "eve@evil.com"}).encode()
    redacted = json.loads(send(response, answer[:30], answer[30:]))
    assert redacted["echo"] == f"I am {ADDRESS}"
    assert redacted["leak"].startswith("<EMAIL_ADDRESS_")
    end(exchange)
    assert exchange.decisions == [
        Allow("redaction", "request", {"replaced": {"EMAIL_ADDRESS": 1}}),
        Allow("redaction", "response", {"replaced": {"EMAIL_ADDRESS": 1}}),
    ]


def test_without_restore_the_client_sees_placeholders() -> None:
    exchange = exchange_of(REPLACE, f'"{ADDRESS}"'.encode())
    response, _ = walk(layer(), exchange, response_of(JSON))
    token = json.loads(exchange.request.body)
    assert json.loads(send(response, exchange.request.body)) == token
    assert ADDRESS not in token


def test_a_response_alone_is_redacted_without_reading_the_request() -> None:
    exchange = exchange_of(RESPONSE_ONLY, f'"{ADDRESS}"'.encode())
    script = Script(prepared(RESPONSE_ONLY).handle(exchange, call_app))
    assert isinstance(script.effect, CallApp)
    script.answer(response_of({"content-type": "text/plain"}))
    assert b"smith" not in send(script.result, b"see john@sm", b"ith.com")
    assert ADDRESS in exchange.request.body.decode()


def test_a_request_alone_is_redacted_without_touching_the_response() -> None:
    exchange = exchange_of(REQUEST_ONLY, f'"{ADDRESS}"'.encode())
    response, _ = walk(layer(), exchange, response_of({"content-type": "text/html"}))
    assert ADDRESS not in exchange.request.body.decode()
    assert response.transforms == []


def test_tenants_share_no_placeholders_and_one_tenant_always_does() -> None:
    def masked(tenant: str) -> bytes:
        exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode(), tenant=tenant)
        walk(layer(), exchange)
        return exchange.request.body

    assert masked("acme") == masked("acme")
    assert masked("acme") != masked("globex")


def test_the_vault_is_empty_once_the_exchange_has_ended() -> None:
    exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode())
    response, _ = walk(layer(), exchange, response_of({"content-type": "text/plain"}))
    end(exchange)
    assert send(response, json.loads(exchange.request.body).encode()).startswith(b"<EMAIL_ADDRESS_")


def test_an_openai_stream_is_restored_while_it_streams() -> None:
    exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode(), route=CHAT)
    response, _ = walk(layer(), exchange, response_of(SSE))
    token = json.loads(exchange.request.body)
    parts = ["Hello ", token[:9], token[9:] + " and eve@", "evil.com"]
    chunks = [f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': one}}]})}\n\n" for one in parts]
    redacted = send(response, *(chunk.encode() for chunk in chunks), b"data: [DONE]\n\n").decode()
    events = [json.loads(line[6:]) for line in redacted.splitlines() if line.startswith("data: {")]
    said = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert said.startswith(f"Hello {ADDRESS} and <EMAIL_ADDRESS_")
    assert "evil" not in redacted
    assert redacted.endswith("data: [DONE]\n\n")


def test_an_anthropic_stream_is_restored_while_it_streams() -> None:
    exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode(), route=MESSAGES)
    response, _ = walk(layer(), exchange, response_of(SSE))
    token = json.loads(exchange.request.body)
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"to {token}"}}
    stop = {"type": "content_block_stop", "index": 0}
    chunks = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in (delta, stop)]
    assert f'"{ADDRESS}"' in send(response, *chunks).decode()


@pytest.mark.parametrize(
    ("headers", "body", "status", "reason"),
    [
        (JSON, b'{"a":', 400, Reason.BODY_MALFORMED),
        (JSON, b'"\xff"', 400, Reason.BODY_MALFORMED),
        (JSON, b"[" * 10_000, 400, Reason.BODY_MALFORMED),
        ({}, b"caf\xe9", 400, Reason.BODY_MALFORMED),
        ({"content-type": "text/plain"}, b"caf\xe9", 400, Reason.BODY_MALFORMED),
        ({"content-type": "multipart/form-data; boundary=x"}, b"no boundary", 400, Reason.BODY_MALFORMED),
        ({"content-type": "multipart/form-data"}, b"--x--", 415, Reason.BODY_ENCODED),
        ({**JSON, "content-encoding": "gzip"}, b"\x1f\x8b", 400, Reason.BODY_MALFORMED),
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 20_000_000), 400, Reason.BODY_MALFORMED),
        ({**JSON, "content-encoding": "identity, br"}, b"x", 415, Reason.BODY_ENCODED),
        ({**JSON, "content-encoding": "gzip, gzip, gzip"}, b"x", 415, Reason.BODY_ENCODED),
        ({"content-type": "application/json; charset=ebcdic"}, b"x", 415, Reason.BODY_ENCODED),
        ({"content-type": "application/json, image/png"}, b"{}", 415, Reason.BODY_ENCODED),
        ({"content-type": "nonsense"}, b"{}", 415, Reason.BODY_ENCODED),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(
    headers: dict[str, str], body: bytes, status: int, reason: Reason
) -> None:
    """E+12, E+17."""
    exchange = exchange_of(RESTORE, body, headers)
    response, called = walk(layer(), exchange)
    assert (response.status, denial_of(exchange).reason, called) == (status, reason, False)


def test_two_content_types_are_refused() -> None:
    exchange = exchange_of(RESTORE, b"{}")
    exchange.request.headers.add("content-type", "image/png")
    assert walk(layer(), exchange)[0].status == 415


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, JSON],
)
def test_a_request_without_a_body_goes_on(headers: dict[str, str]) -> None:
    assert walk(layer(), exchange_of(RESTORE, b"", headers))[1]


@pytest.mark.parametrize(
    "content_type", ["application/problem+json", 'Application/JSON ; charset="UTF-8"', "text/json"]
)
def test_json_is_known_by_any_of_its_names(content_type: str) -> None:
    exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode(), {"content-type": content_type})
    assert walk(layer(), exchange)[1]
    assert ADDRESS not in exchange.request.body.decode()


def test_a_picture_passes_unread_but_not_where_a_model_is_called() -> None:
    exchange = exchange_of(REQUEST_ONLY, None, {"content-type": "image/png"})
    assert isinstance(Script(prepared(REQUEST_ONLY).handle(exchange, call_app)).effect, CallApp)
    exchange = exchange_of(REQUEST_ONLY, b"\x89PNG", {"content-type": "image/png"}, route=CHAT)
    assert walk(layer(), exchange)[0].status == 415


def test_a_body_that_could_not_be_read_is_refused_for_its_reason() -> None:
    exchange = exchange_of(RESTORE)
    script = Script(prepared(RESTORE, request_limit=10).handle(exchange, call_app))
    assert script.effect == ReadBody(10)
    script.answer(Unreadable(Reason.BODY_TOO_LARGE, 413, "The body is too large."))
    assert script.result.status == 413


def test_the_messages_of_a_websocket_are_redacted_and_restored() -> None:
    exchange = exchange_of(RESTORE)
    exchange.request.protocol = "websocket"
    response, called = walk(layer(), exchange, response_of({}, 101))
    assert called
    (frames,) = response.frames
    sent = frames.inbound(json.dumps({"say": f"I am {ADDRESS}"}))
    assert isinstance(sent, str)
    assert ADDRESS not in sent
    assert json.loads(str(frames.outbound(sent))) == {"say": f"I am {ADDRESS}"}
    assert "evil" not in str(frames.outbound("eve@evil.com"))
    assert frames.inbound(b"\xff") == Cut(Reason.BODY_MALFORMED, code=1003)
    end(exchange)
    assert [decision.details for decision in exchange.decisions] == [
        {"replaced": {"EMAIL_ADDRESS": 1}},
        {"replaced": {"EMAIL_ADDRESS": 1}},
    ]
    assert frames.outbound(sent) == sent  # the vault is empty


def test_a_websocket_whose_detector_fails_is_cut_and_nothing_raw_passes() -> None:
    exchange = exchange_of(REPLACE)
    exchange.request.protocol = "websocket"
    response, _ = walk(layer(Mails(failing=True)), exchange, response_of({}, 101))
    (frames,) = response.frames
    assert frames.inbound(ADDRESS) == Cut(Reason.REDACTION_FAILED)
    assert frames.outbound(ADDRESS) == Cut(Reason.REDACTION_FAILED)


def test_a_detector_that_fails_refuses_the_request_and_tells_nothing() -> None:
    exchange = exchange_of(RESTORE, f'{{"a":"{ADDRESS}"}}'.encode())
    response, called = walk(layer(Mails(failing=True)), exchange)
    assert (response.status, called) == (503, False)
    denial = denial_of(exchange)
    assert (denial.reason, denial.details) == (Reason.REDACTION_FAILED, {"error": "ValueError"})
    assert "smith" not in repr(denial) + str(response.body)


@pytest.mark.parametrize(
    ("route", "ending"),
    [
        (CHAT, b'data: {"error":'),
        (MESSAGES, b'event: error\ndata: {"type":"error"'),
        (Route("/**"), b'data: {"type":"about:blank"'),
    ],
)
def test_a_detector_that_fails_cuts_a_stream_with_its_protocols_error(route: Route, ending: bytes) -> None:
    exchange = exchange_of(RESPONSE_ONLY, route=route)
    response, _ = walk(layer(Mails(failing=True)), exchange, response_of(SSE))
    (transform,) = response.transforms
    event = {"choices": [{"index": 0, "delta": {"content": f"{ADDRESS} is "}}]}
    cut = transform.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert isinstance(cut, Cut)
    assert cut.reason == Reason.REDACTION_FAILED
    assert cut.tail.startswith(ending)
    assert cut.tail.endswith(b"\n\n")
    assert b"[DONE]" not in cut.tail
    assert b"smith" not in cut.tail


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_detector_that_fails_cuts_any_other_response_without_a_word(content_type: str) -> None:
    exchange = exchange_of(RESPONSE_ONLY)
    response, _ = walk(layer(Mails(failing=True)), exchange, response_of({"content-type": content_type}))
    (transform,) = response.transforms
    said = [transform.feed(f'"{ADDRESS}" '.encode()), transform.finish()]
    assert Cut(Reason.REDACTION_FAILED) in said
    assert all(not isinstance(one, bytes) or b"smith" not in one for one in said)


@pytest.mark.parametrize(
    ("headers", "chunk"),
    [
        (SSE, b"data: {broken\n\n"),
        (SSE, b"data: \xff\n\n"),
        (JSON, b"{broken"),
        ({"content-type": "text/plain"}, b"caf\xe9 "),
        ({}, b"caf\xe9 "),
    ],
)
def test_a_response_that_is_not_what_it_says_is_cut(headers: dict[str, str], chunk: bytes) -> None:
    response, _ = walk(layer(), exchange_of(RESPONSE_ONLY), response_of(headers))
    (transform,) = response.transforms
    said = [transform.feed(chunk), transform.finish()]
    (cut,) = [one for one in said if isinstance(one, Cut)]
    assert cut.reason == Reason.RESPONSE_UNREADABLE
    assert b"broken" not in cut.tail


def test_a_json_response_over_its_limit_is_cut() -> None:
    response, _ = walk(layer(response_limit=8), exchange_of(RESPONSE_ONLY), response_of(JSON))
    (transform,) = response.transforms
    assert transform.feed(b"[1,2]") == b""
    assert transform.feed(b"[1,2]") == Cut(Reason.RESPONSE_UNREADABLE)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**JSON, "content-encoding": "br"}, 200),
        ({"content-type": "text/plain; charset=ebcdic"}, 200),
        ({"content-type": "multipart/mixed"}, 200),
        ({"content-type": ";"}, 200),
        (JSON, 206),
    ],
)
def test_a_response_that_cannot_be_read_is_replaced_by_502(headers: dict[str, str], status: int) -> None:
    """E+12."""
    exchange = exchange_of(RESPONSE_ONLY)
    response, _ = walk(layer(), exchange, response_of(headers, status))
    assert (response.status, response.transforms) == (502, [])
    assert denial_of(exchange).reason == Reason.RESPONSE_UNREADABLE


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {"content-type": "text/html"}, 200),
        ("GET", {}, 204),
        ("GET", {"content-type": "text/html"}, 304),
        ("GET", {"content-type": "text/html", "content-length": "0"}, 200),
        ("GET", {"content-type": "image/png"}, 200),
        ("GET", {"content-type": "application/octet-stream"}, 200),
        ("GET", {"content-type": "audio/mpeg", "content-encoding": "identity"}, 200),
    ],
)
def test_a_response_without_text_passes(method: str, headers: dict[str, str], status: int) -> None:
    """E+13."""
    response, _ = walk(layer(), exchange_of(RESPONSE_ONLY, b"", method=method), response_of(headers, status))
    assert (response.status, response.transforms) == (status, [])


def test_an_error_of_the_application_is_redacted_too() -> None:
    response, _ = walk(layer(), exchange_of(RESPONSE_ONLY), response_of(JSON, 500))
    assert b"smith" not in send(response, f'{{"error":"{ADDRESS}"}}'.encode())


def test_a_refusal_of_a_layer_further_in_stays_as_it_is() -> None:
    exchange = exchange_of(RESPONSE_ONLY)

    def refuse(exchange: Exchange) -> Response:
        return exchange.deny(Deny("budget", Reason.BUDGET_EXHAUSTED, 402, "No more."))

    response, _ = walk(layer(), exchange, refuse)
    assert (response.status, response.transforms) == (402, [])
    assert json.loads(response.body or b"")["instance"] == f"urn:uuid:{exchange.id}"


def test_a_whole_response_of_a_layer_further_in_is_redacted_and_measured_again() -> None:
    exchange = exchange_of(RESPONSE_ONLY)
    body = f'"{ADDRESS}"'.encode()
    headers = {**JSON, "content-length": str(len(body)), "etag": "x"}
    response, _ = walk(layer(), exchange, response_of(headers, body=body))
    assert response.body is not None
    assert b"smith" not in response.body
    assert response.headers.get("content-length") == str(len(response.body))
    assert response.headers.get("etag") is None
    response, _ = walk(layer(Mails(failing=True)), exchange, response_of(headers, body=body))
    assert response.status == 502


def test_a_detector_is_asked_for_where_there_is_text_and_the_vault_heard_of_where_something_is_in_it() -> None:
    asked: list[Find] = []

    def detector_for(find: Find) -> Any:
        asked.append(find)
        return Mails()

    guarded = Redaction(detector_for, KEY)
    exchange = exchange_of(RESTORE, b"")
    response, _ = walk(guarded, exchange, response_of({"content-type": "image/png"}))
    assert (exchange.observers, exchange.resolvers, response.transforms) == ([], [], [])
    assert exchange.decisions == [
        Allow("redaction", "request", {"replaced": {}}),
        Allow("redaction", "response", {"replaced": {}, "skipped": {"image": 1}}),
    ]
    asked.clear()
    walk(guarded, exchange_of(RESTORE, b'{"a":1}'), response_of(JSON))
    assert len(asked) == 2
    exchange = exchange_of(RESTORE, f'"{ADDRESS}"'.encode())
    walk(guarded, exchange)
    assert len(exchange.observers) == 1


def test_refusals_speak_the_dialect_of_the_route() -> None:
    response, _ = walk(layer(), exchange_of(RESTORE, b"{", route=CHAT))
    assert json.loads(response.body or b"")["error"]["code"] == Reason.BODY_MALFORMED
    route = Route("/x", dialect=Dialect.ANTHROPIC)
    response, _ = walk(layer(), exchange_of(RESTORE, b"{", route=route))
    assert json.loads(response.body or b"")["type"] == "error"


def test_a_short_key_and_a_stack_without_a_tenant_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="32"):
        Redaction(lambda section: Mails(), b"short")
    with pytest.raises(ConfigurationError, match="Tenant"):
        stack([layer()])


def test_nothing_that_is_shown_of_an_exchange_holds_a_value() -> None:
    exchange = exchange_of(RESTORE, f'{{"a":"{ADDRESS}"}}'.encode())
    response, _ = walk(layer(), exchange, response_of(JSON))
    send(response, exchange.request.body)
    end(exchange)
    assert "smith" not in repr([exchange, response, exchange.decisions, response.transforms, exchange.observers])
