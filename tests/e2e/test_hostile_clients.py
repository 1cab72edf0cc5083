"""What a hostile client does with targets, methods, bodies and its own leaving: nothing is free, leaks or starves."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from tenantguard.adapters.identity.keys import ApiKeys, hash_key
from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.guard import Guard
from tenantguard.layers.audit import Audit
from tenantguard.layers.charge import Charge
from tenantguard.layers.redaction import Redaction
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.money import Amount
from tenantguard.model.policy import Policy
from tenantguard.model.price import PriceBook, TokenPrice, UnknownModel
from tenantguard.model.redact_section import RedactSection
from tenantguard.model.route import Route
from tenantguard.model.tenant import Identity, TenantId
from tenantguard.settings import parse_settings
from tenantguard.settings.building import loopholes
from tenantguard.testing import manual_system, memory_ports
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve
from tests.e2e.hostile import PATIENCE_S, ScriptedUpstream, chat, lab, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.model.pii import Match
    from tests.e2e.hostile import Lab

KEY = "tg_test_key_of_acme_0123456789"
PRICE_NANOS = 100_000_000
ROUTES = """
[[routes]]
match = "POST /jobs/*"
price = "0.10 USD"

[[routes]]
match = "/jobs/**"

[[routes]]
match = "/free/**"
"""
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


# request targets and methods


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    scripted = ScriptedUpstream()
    scripted.answer = OK
    yield scripted
    scripted.close()


@pytest.fixture(scope="module", params=["h11", "httptools"])
def routed(upstream: ScriptedUpstream, request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(upstream.url, tmp_path_factory.mktemp("routed"), ROUTES, http=request.param) as served:
        yield served


@pytest.mark.parametrize("method", ["POST", "post", "Post", "pOST"])
def test_a_method_in_small_letters_is_no_way_around_a_price(
    routed: Lab, upstream: ScriptedUpstream, method: str
) -> None:
    """What sends the request on writes methods in capitals, whatever the client wrote."""
    spent, _ = routed.account("plain")
    answer = routed.talk(request("plain", b"x", method=method, path="/jobs/a"))
    if answer.startswith(b"HTTP/1.1 400 "):  # one of the servers refuses it itself
        assert method != "POST"
        return
    assert upstream.heads.get(timeout=PATIENCE_S).startswith(b"POST /jobs/a ")
    assert routed.recorder.next().method == ("POST" if method == "POST" else "(other)")
    assert routed.account("plain") == (spent + PRICE_NANOS, 0)


@pytest.mark.parametrize("method", ["post", "POST"])
@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_an_application_that_reads_methods_without_case_is_charged_for_alike(method: str, protocol: str) -> None:
    """Django and Werkzeug do."""
    guard = _guard([TenantContext(), Charge(PriceTable())], Route("POST /jobs", price=Amount.parse("0.10 USD")))
    if protocol == "asgi":
        assert asyncio.run(_call(guard.asgi(_say_ok), method=method)) == 200
    else:
        wsgi_call(guard, method)
    (balance,) = guard.ports.ledger.balances(TenantId("acme"))
    assert (balance.spent, balance.held) == (PRICE_NANOS, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/free/../jobs/a",
        "/free/%2e%2e/jobs/a",
        "/free/.%2E/jobs/a",
        "/free/..%2fjobs/a",
        "/free/..;/jobs/a",
        "/free/..;x=1/jobs/a",
        "/free/..%3b/jobs/a",
        "/free/.;/a",
        "/free/..\\jobs/a",
        "/free/%5c..%5cjobs/a",
        "/free/a%5cb",
    ],
)
def test_a_target_that_another_reader_could_take_elsewhere_is_refused(
    routed: Lab, upstream: ScriptedUpstream, path: str
) -> None:
    before = routed.account("plain")
    assert routed.talk(request("plain", b"x", path=path)).startswith(b"HTTP/1.1 400 ")
    routed.recorder.next()
    assert upstream.heads.empty()
    assert routed.account("plain") == before


@pytest.mark.parametrize(
    "target", ["//jobs/a", "/JOBS/a", "*", "/%6aobs%2f", "/v1/chat/completions/", "/v1/chat/completions;x", "/"]
)
def test_another_spelling_of_a_path_is_404(routed: Lab, upstream: ScriptedUpstream, target: str) -> None:
    answer = routed.talk(request("plain", b"x", path=target))
    record = routed.recorder.next()
    if target == "/%6aobs%2f":  # is the same path, percent-encoded
        assert record.route == "/jobs/**"
        upstream.heads.get(timeout=PATIENCE_S)
        return
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert upstream.heads.empty()


def test_a_target_in_absolute_form_has_the_price_of_its_path_or_none(routed: Lab, upstream: ScriptedUpstream) -> None:
    spent, _ = routed.account("plain")
    answer = routed.talk(request("plain", b"x", path="http://other/jobs/a"))
    record = routed.recorder.next()
    if answer.startswith(b"HTTP/1.1 404 "):
        assert record.ending == "refused"
        return
    assert upstream.heads.get(timeout=PATIENCE_S).startswith(b"POST /jobs/a ")
    assert routed.account("plain") == (spent + PRICE_NANOS, 0)


def test_a_length_beside_chunks_never_frames_what_the_upstream_reads(routed: Lab, upstream: ScriptedUpstream) -> None:
    """Request smuggling: what one reader takes for a body, another takes for the next request."""
    smuggled = b"GET /secret HTTP/1.1\r\nhost: x\r\n\r\n"
    body = b"%x\r\n" % len(smuggled) + smuggled + b"\r\n0\r\n\r\n"
    raw = request("plain", body, "transfer-encoding: chunked", "content-length: 4", path="/free/x", length=False)
    answer = routed.talk(raw)
    if answer.startswith(b"HTTP/1.1 400 "):
        assert upstream.heads.empty()
        return
    routed.recorder.next()
    head = upstream.heads.get(timeout=PATIENCE_S).lower()
    assert head.startswith(b"post /free/x ")
    lengths = [line for line in head.split(b"\r\n") if line.startswith((b"content-length:", b"transfer-encoding:"))]
    assert lengths in ([b"content-length: %d" % len(smuggled)], [b"transfer-encoding: chunked"])
    assert upstream.heads.empty()


def test_no_value_of_a_client_stands_in_the_audit_as_its_method(routed: Lab, upstream: ScriptedUpstream) -> None:
    answer = routed.talk(request("plain", b"", method="4012888888881881", path="/free/x"))
    if answer.startswith(b"HTTP/1.1 400 "):
        return
    upstream.heads.get(timeout=PATIENCE_S)
    assert routed.recorder.next().method == "(other)"


def test_a_free_route_around_a_priced_one_is_told_as_a_loophole() -> None:
    text = """
[tenancy]
mode = "single"
[guard]
ledger = "memory://"
[[routes]]
match = "POST /v1/chat"
price = "1 USD"
[[routes]]
match = "GET /v1/**"
[[routes]]
match = "/v1/**"
[[routes]]
match = "/other/**"
[policies.default]
"""
    told = [one for one in loopholes(parse_settings(text, environ={})) if "covers" in one]
    assert told == [
        "routes: '/v1/**' is free and covers 'POST /v1/chat': another spelling of that path may go free",
    ]


# bodies


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module", params=["h11", "httptools"])
def talking(model: ModelServer, request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with serve(model) as url, lab(url, tmp_path_factory.mktemp("talking"), http=request.param) as served:
        yield served


MESSAGES = b'"messages":[{"role":"user","content":"jane.roe@example.com"}]'


@pytest.mark.parametrize(
    "members",
    [
        b'"model":"small","\\u006dodel":"large"',
        b'"model":"small","stream_options":{"include_usage":false,"include_usage":true}',
        b'"model":"small","max_tokens":1,"max\\u005ftokens":9999',
        b'"model":"small","Max_Tokens":9999',
        '"model":"small","max_to\u212aens":9999'.encode(),
        '"model":"small","\u017ftream":true'.encode(),
        b'"model":"small","max_tokens":1.0',
        b'"model":"small","max_tokens":true',
        b'"model":"small","n":"2"',
        b'"model":"small","stream":"true"',
        b'"model":"small","n":9007199254740992',
        b'"model":"small","x":' + b"9" * 5000,
        b'"model":"small","x":' + b"[" * 100_000,
        b'"model":"small","x":"\xed\xa0\x80"',
        b'"model":"small","x":NaN',
        b'"model":["small"]',
        b'"model":""',
    ],
)
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_a_body_that_two_readers_may_take_differently_reaches_nobody(
    talking: Lab, model: ModelServer, members: bytes, tenant: str
) -> None:
    before, calls = talking.account(tenant), len(model.requests)
    body = b"{" + members + b"," + MESSAGES + b"}"
    answer = talking.talk(request(tenant, body, "content-type: application/json"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert talking.recorder.next().ending == "refused"
    assert talking.account(tenant) == before
    assert len(model.requests) == calls


@pytest.mark.parametrize("encoded", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7"])
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_a_body_in_another_encoding_reaches_nobody(
    talking: Lab, model: ModelServer, encoded: str, tenant: str
) -> None:
    calls = len(model.requests)
    body = chat("jane.roe@example.com").decode().encode(encoded)
    answer = talking.talk(request(tenant, body, f"content-type: application/json; charset={encoded}"))
    assert answer[9:12] in {b"400", b"415"}
    assert talking.recorder.next().ending == "refused"
    assert len(model.requests) == calls


@pytest.mark.parametrize(
    "lines",
    [
        ("content-type: application/json; charset=utf-7",),
        ("content-type: application/json", "content-encoding: gzip"),
        ("content-type: application/json", "content-encoding: identity, br"),
        ("content-type: application/json", "content-type: text/plain; charset=utf-16"),
    ],
)
def test_a_priced_body_is_read_as_its_headers_say_or_not_at_all(
    talking: Lab, model: ModelServer, lines: tuple[str, ...]
) -> None:
    """Some servers believe the charset: in UTF-7 the same bytes name another model."""
    calls = len(model.requests)
    answer = talking.talk(request("plain", chat(), *lines))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"body.encoded" in answer
    talking.recorder.next()
    assert len(model.requests) == calls


def test_a_part_of_an_answer_cannot_be_asked_for_where_its_usage_is_decoded(talking: Lab, model: ModelServer) -> None:
    talking.talk(request("plain", chat(), "range: bytes=0-9", "if-range: x", "accept-encoding: gzip"))
    talking.recorder.next()
    assert {"range", "if-range", "accept-encoding"}.isdisjoint(model.requests[-1].headers)


@pytest.mark.parametrize("name", ["jane.roe@example.com", "x" * 1_000_000])
def test_the_name_of_an_unknown_model_is_neither_kept_nor_logged(name: str) -> None:
    price = TokenPrice.parse(input="1 USD/1M", output="1 USD/1M", cache_read="1 USD/1M", cache_write="1 USD/1M")
    for unknown, default in ((UnknownModel.DEFAULT, price), (UnknownModel.WARN, None)):
        prices = PriceTable(PriceBook({}, unknown, default))
        guard = _guard([Audit(), TenantContext(), Charge(prices)], Route("/jobs", usage="openai-chat", max_output=9))
        body = json.dumps({"model": name, "messages": []}).encode()
        said = json.dumps({"model": name, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
        with capture_logs() as logs:
            assert asyncio.run(_call(guard.asgi(_say(said)), body)) == 200
        entries = guard.ports.ledger.entries(TenantId("acme"))
        kept = f"{[entry.evidence for entry in entries]} {logs} {vars(prices)['_warned']}"
        assert name not in kept
        assert "(withheld)" in kept


# one tenant's work and the others


class _Blocking:
    """A detector that is busy with a text until somebody else has been served."""

    def __init__(self) -> None:
        self.busy = threading.Event()
        self.served = threading.Event()
        self.reach = self.passed = 0

    def clears(self, text: str) -> bool:
        return False

    def detect(self, text: str, after: int = 0) -> list[Match]:
        if text.startswith("hard"):
            self.busy.set()
            assert self.served.wait(PATIENCE_S), "the event loop was busy with another tenant's text"
        return []


HARD = json.dumps({"content": "hard " + "1 " * 6000}).encode()


@pytest.mark.parametrize("direction", ["request", "response", "response by a small last chunk"])
def test_a_text_that_takes_long_holds_nobody_else_up(direction: str) -> None:
    """The body is small enough to be read in place by its size alone, and may take long all the same."""
    detector = _Blocking()
    section = RedactSection(response=None) if direction == "request" else RedactSection(request=None)
    guard = _guard([TenantContext(), Redaction(lambda _: detector, b"k" * 32)], sections=[section])
    pieces = [HARD] if direction == "response" else [HARD[:-1], HARD[-1:]]
    hard = guard.asgi(_say_ok if direction == "request" else _say(*pieces))

    async def both() -> list[int]:
        first = asyncio.ensure_future(_call(hard, HARD if direction == "request" else b""))
        await asyncio.to_thread(detector.busy.wait, PATIENCE_S)
        second = await _call(guard.asgi(_say_ok))
        detector.served.set()
        return [await first, second]

    assert asyncio.run(both()) == [200, 200]


# leaving


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tenant", ["plain", "acme"])
def test_a_client_that_leaves_at_any_byte_pays_what_was_used_and_leaves_nothing_held(
    talking: Lab, *, stream: bool, tenant: str
) -> None:
    """E-8, E-9, E+8: by hanging up or by a reset, while it sends and while it reads, alone and all at once."""
    cost = 7 * 1_000 + 7 * 2_000
    data = request(tenant, chat("one two three four five six seven", stream=stream), "content-type: application/json")
    spent, _ = talking.account(tenant)
    reads = [1, 20, 100, 200, 300, 400, 600, 800, 1000, 1400, 1800, 2000, 2100, 2200, 2400]
    leavings = [(data, read, reset) for read in reads for reset in (False, True)]
    leavings += [(data[:upto], 0, False) for upto in (len(data), len(data) - 1, len(data) - 40)]
    threads = [threading.Thread(target=_leave, args=(talking.url, *how)) for how in leavings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [talking.recorder.next() for _ in leavings]
    called = [record for record in records if record.charge is not None]
    assert talking.account(tenant) == (spent + cost * len(called), 0)
    assert {record.ending for record in records} <= {"completed", "left"}
    assert all(record.charge is None or record.charge.amount.nanos == cost for record in records)
    assert talking.guard._drains_left == 100
    assert talking.guard.ports.ledger.audit() == []


def _leave(url: str, data: bytes, read: int, reset: bool) -> None:  # noqa: FBT001 - a thread's arguments
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while read > 0 and (piece := connection.recv(read)):
                read -= len(piece)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# in process


def _guard(layers: list[Any], *routes: Route, sections: list[Any] | None = None) -> Guard:
    ports = memory_ports(
        manual_system(),
        policies=StaticPolicies({"acme": Policy.of("acme", sections or [])}),
        identities=ApiKeys({hash_key(KEY): Identity("acme-dev", TenantId("acme"))}),
    )
    return Guard(layers, ports=ports, routes=routes)


def _say(*pieces: bytes) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


_say_ok = _say(b"{}")


async def _call(app: Any, body: bytes = b"", *, method: str = "POST") -> int:
    """One request straight into the application: httpx would write the method in capitals."""
    heads = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": "/jobs", "headers": heads, "query_string": b""}
    statuses: list[int] = []
    received = False

    async def receive() -> Any:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await app(scope, receive, send)
    return statuses[0]


def wsgi_call(guard: Guard, method: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"ok"]

    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/jobs", "HTTP_X_API_KEY": KEY, "wsgi.input": io.BytesIO()}
    answer: Any = guard.wsgi(app)(environ, lambda *_: None)
    assert b"".join(answer) == b"ok"
    answer.close()
