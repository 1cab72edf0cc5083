"""What hostile clients, applications and tenants do to redaction: nothing raw passes or is restored elsewhere."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import logging
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.settings import parse_settings
from tenantguard.settings.building import build
from tenantguard.testing import RecordingSink
from tenantguard.testing.serving import serve
from tests.drivers.asgi_client import http_scope
from tests.e2e.hostile import talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tenantguard.guard import Guard

    Headers = list[tuple[bytes, bytes]]

MAIL = "ann.lee@example.com"
PARTS = ("ann.lee@exa", "mple.com")
CARD = "4111 1111 1111 1111"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
GITLAB = "glpat-" + "a1B2c3D4e5F6g7H8i9J0"
BASE64_LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
POLICIES = {
    "restoring": 'response = "restore"',
    "other": 'response = "restore"',
    "replacing": 'response = "replace"',
    "heads": 'response = "restore"\nheaders = ["cookie", "location"]\nrequest = { query = true, path = true }',
    "refusing": 'response = "restore"\nsecrets = "refuse"',
}
PLACEHOLDER = re.compile(rb"<[A-Z][A-Z0-9_]*_[a-z2-7]{10,20}>")
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
SSE = "text/event-stream"
MODEL = "/v1/chat/completions"
CALL = b'{"model":"small","messages":[]}'


def key_of(policy: str) -> str:
    return f"tg_test_key_of_{policy}_0123456789"


@dataclass
class Answer:
    """What the application saw (None: it was not called), and what came back."""

    seen: bytes | None = None
    target: tuple[Any, ...] = ()
    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    raised: BaseException | None = None

    @property
    def everything(self) -> str:
        """All that the caller can see."""
        return f"{self.status} {self.headers} {self.body.decode('latin-1')} {self.raised!r}"


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    folder: Path = tmp_path_factory.mktemp("hostile")
    keys = "\n".join(
        f'[[tenancy.keys]]\nid = "{name}-dev"\ntenant = "{name}"\nhash = "{hash_key(key_of(name))}"'
        for name in POLICIES
    )
    entities = 'entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "US_SSN"]'
    policies = "\n".join(f"[policies.{name}.redact]\n{entities}\n{rest}" for name, rest in POLICIES.items())
    text = f"""
[guard]
ledger = "memory://"
[redaction]
key = "a key for tests alone, of 32 bytes or more"
[tenancy]
from = ["api-key"]
{keys}
[[routes]]
match = "POST {MODEL}"
usage = "openai-chat"
max_output = 50
[pricing]
unknown_model = "warn"
[prices.small]
input = "1 USD/1M"
output = "2 USD/1M"
cache_read = "1 USD/1M"
cache_write = "1 USD/1M"
{policies}
"""
    made = build(parse_settings(text, folder=folder, environ={}))
    made.ports.audits = (RecordingSink(),)
    return made


def ask(
    guard: Guard,
    policy: str = "restoring",
    body: bytes = b"",
    kind: str | None = JSON,
    *more: tuple[bytes, bytes],
    path: str = "/x",
    query: bytes = b"",
    answer: Callable[[bytes], Iterable[bytes]] = lambda _: [b"{}"],
    answer_kind: str = JSON,
    answer_heads: Iterable[tuple[bytes, bytes]] = (),
    status: int = 200,
) -> Answer:
    """One request through the guard as ASGI middleware."""
    found = Answer()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.target = (scope["path"], scope["raw_path"], scope["query_string"], dict(scope["headers"]))
        data = b""
        more_body = True
        while more_body:
            message = await receive()
            data += message.get("body", b"")
            more_body = message.get("more_body", False)
        found.seen = data
        heads = [(b"content-type", answer_kind.encode()), *answer_heads]
        await send({"type": "http.response.start", "status": status, "headers": heads})
        for chunk in answer(data):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.status, found.headers = message["status"], list(message["headers"])
        else:
            found.body += bytes(message.get("body", b""))

    lines = [(b"host", b"t"), (b"authorization", f"Bearer {key_of(policy)}".encode())]
    lines += [(b"content-length", str(len(body)).encode())]
    lines += [(b"content-type", kind.encode())] if kind is not None else []
    scope = http_scope(
        method="POST", path=path, raw_path=path.encode(), query_string=query, headers=[*lines, *more], state={}
    )
    try:
        asyncio.run(guard.asgi(app)(scope, receive, send))
    except Exception as failure:  # noqa: BLE001 - a server sees everything
        found.raised = failure
    return found


def ask_wsgi(guard: Guard, policy: str, body: bytes = b"", **environ: Any) -> dict[str, str]:
    """One request through the guard as WSGI middleware; every text that the application sees, its body too."""
    seen: dict[str, str] = {}

    def app(inner: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update({name: value for name, value in inner.items() if isinstance(value, str)})
        seen["body"] = inner["wsgi.input"].read().decode("latin-1")
        start_response("200 OK", [("content-type", JSON)])
        return [b"{}"]

    outer = {
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "", "PATH_INFO": "/x", "QUERY_STRING": "", "CONTENT_TYPE": JSON,
        "CONTENT_LENGTH": str(len(body)), "HTTP_AUTHORIZATION": f"Bearer {key_of(policy)}",
        "wsgi.input": io.BytesIO(body), **environ,
    }  # fmt: skip
    answer: Any = guard.wsgi(app)(outer, lambda *_: None)
    b"".join(answer)
    answer.close()
    return seen


def said(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def multipart(head: str, content: bytes) -> bytes:
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n--x--\r\n"


# what a body says that it is


@pytest.mark.parametrize(
    "kind",
    [
        JSON, "application/json; charset=utf-7", "application/json;charset=utf-16", "application/json, image/png",
        "text/plain", "text/json", "APPLICATION/JSON;;;", "application/x-ndjson", "application/pdf+json",
        "audio/x+json", "application/csp-report", "application/xml", "*/*", " ", "x/y", None, FORM, "message/http",
        "multipart/form-data; boundary=x", "multipart/x-mixed-replace; boundary=x", SSE, "application/graphql",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/x", MODEL])
def test_json_under_any_type_that_is_not_binary_passes_redacted_or_not_at_all(
    guard: Guard, kind: str | None, path: str
) -> None:
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": f"{MAIL} a=b&c=d"}]}).encode()
    answer = ask(guard, "restoring", body, kind, path=path)
    assert MAIL.encode() not in (answer.seen or b"")
    assert answer.seen is not None or answer.status in {400, 415}
    assert MAIL not in answer.everything


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", 'video/mp4; x="a/b"', "application/pdf"])
def test_a_call_to_a_model_cannot_be_a_picture(guard: Guard, kind: str) -> None:
    answer = ask(guard, "restoring", CALL, kind, path=MODEL)
    assert (answer.seen, answer.status) == (None, 415)


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"ann.lee@example.com"}',
        b'{"text":"ann.lee@example.com","more":"a=b"}',
        b'{"text":"ann.lee\\u0040example.com"}',
        b'[{"a=b":"c"},"ann.lee@example.com"]',
        b"ann.lee@example.com",
        b"ann.lee%40example.com&a=b",
        b'{"broken":"ann.lee@example.com", a=b',
    ],
)
def test_what_is_sent_as_a_form_and_is_none_is_redacted_all_the_same(
    guard: Guard, protocol: str, body: bytes
) -> None:
    """Clients that are told no type (curl -d) name this one, and applications read JSON whatever its type."""
    if protocol == "asgi":
        seen = ask(guard, "restoring", body, FORM).seen
    else:
        seen = ask_wsgi(guard, "restoring", body, CONTENT_TYPE=FORM)["body"].encode("latin-1")
    assert seen is not None
    assert b"EMAIL_ADDRESS" in seen
    assert b"ann.lee" not in seen


def test_json_that_is_sent_as_a_form_stays_json_and_is_restored(guard: Guard) -> None:
    answer = ask(guard, "restoring", said(MAIL), FORM, answer=lambda seen: [seen])
    assert answer.seen is not None
    assert PLACEHOLDER.fullmatch(json.loads(answer.seen)["text"].encode())
    assert json.loads(answer.body) == {"text": MAIL}


@pytest.mark.parametrize(
    "charset", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32", "utf-8-sig"]
)
def test_json_in_a_charset_that_nobody_named_is_read_in_it(guard: Guard, charset: str) -> None:
    seen = ask(guard, "restoring", said(MAIL).decode().encode(charset)).seen
    assert seen is not None
    assert PLACEHOLDER.fullmatch(json.loads(seen.decode(charset))["text"].encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"ann.lee\xc1\x80example.com"}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"a":"ann.lee@example.com"}',
        b'{"a":"ann.lee@example.com",}',
        b'{"a":"ann.lee@example.com"/*x*/}',
        b"{'a':'ann.lee@example.com'}",
        b"[" * 1001 + b'"ann.lee@example.com"' + b"]" * 1001,
    ],
)
def test_json_that_readers_could_read_differently_is_refused(guard: Guard, body: bytes) -> None:
    answer = ask(guard, "restoring", body)
    assert (answer.seen, answer.status) == (None, 400)
    assert "ann.lee" not in answer.everything


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"ann.lee\\u0040example.com"}',
        b'{"a":"x","a":"ann.lee@example.com"}',
        b'{"a":"\\ud800 ann.lee@example.com \\udc00","n":NaN}',
        b"[" * 999 + b'"ann.lee@example.com"' + b"]" * 999,
        b'"ann.lee@example.com"',
        json.dumps({"data": "data:text/plain;base64," + base64.b64encode(MAIL.encode()).decode()}).encode(),
    ],
)
def test_json_hides_nothing_in_escapes_depth_or_keys_that_are_said_twice(guard: Guard, body: bytes) -> None:
    seen = ask(guard, "restoring", body).seen
    assert seen is not None
    assert b"ann.lee" not in seen
    assert base64.b64encode(MAIL.encode()) not in seen
    assert [seen.count(mark) for mark in b'"{[:'] == [body.count(mark) for mark in b'"{[:']


@pytest.mark.parametrize(
    "inner", [{"u": f"x\n{MAIL}"}, [{"u": MAIL}], {"u": "a\\b " + MAIL, "n": 1}, {"u": {"v": f'"{MAIL}"'}}]
)
@pytest.mark.parametrize("hide", ["@", "\\u0040"])
def test_json_in_a_string_of_json_is_redacted_and_stays_json(guard: Guard, inner: Any, hide: str) -> None:
    text = json.dumps(inner).replace("@", hide)
    answer = ask(guard, "restoring", said(text), answer=lambda seen: [seen])
    assert answer.seen is not None
    assert b"ann.lee" not in answer.seen
    json.loads(json.loads(answer.seen)["text"])
    assert json.loads(json.loads(answer.body)["text"]) == inner


@pytest.mark.parametrize("name", ["id", "model", "role", "type", "tool_call_id", "finish_reason", "call_id", "user"])
def test_an_identifier_is_no_place_to_hide_a_secret(guard: Guard, name: str) -> None:
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]} | {name: GITLAB}).encode()
    with capture_logs() as logs:
        refused = ask(guard, "refusing", body, path=MODEL)
        passed = ask(guard, "restoring", body, path=MODEL, answer=lambda seen: [seen])
    assert (refused.seen, refused.status) == (None, 403)
    told = ask(guard, "refusing", CALL, path=MODEL, answer=lambda _: [json.dumps({name: GITLAB}).encode()])
    assert passed.seen is not None
    assert json.loads(body).items() <= json.loads(passed.body).items()
    everything = f"{passed.seen!r} {refused.everything} {told.everything} {logs} {_sink(guard).records[-3:]}"
    assert GITLAB[6:] not in everything


@pytest.mark.parametrize("name", ["id", "model", "role", "type", "tool_call_id", "finish_reason", "call_id", "user"])
@pytest.mark.parametrize("value", ["078-05-1120", "4111111111111111", "+12125550123", MAIL])
def test_an_identifier_is_no_place_to_hide_a_number_or_an_address(guard: Guard, name: str, value: str) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "hi", name: value}]}
    answer = ask(guard, "restoring", json.dumps(body).encode(), path=MODEL)
    assert answer.seen is not None
    assert value.encode() not in answer.seen
    told = ask(guard, "replacing", CALL, path=MODEL, answer=lambda _: [json.dumps({name: value}).encode()])
    assert value not in told.body.decode()


# encodings


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(said(MAIL))),
        ("gzip, gzip", gzip.compress(gzip.compress(said(MAIL)))),
        ("deflate", zlib.compress(said(MAIL))),
        ("deflate", zlib.compress(said(MAIL))[2:-4]),
        ("gzip", gzip.compress(b"") + gzip.compress(said(MAIL))),
        ("gzip", b"\x1f\x8b\x08\x08" + bytes(6) + MAIL.encode() + b"\0" + gzip.compress(said(MAIL))[10:]),
    ],
)
def test_an_encoded_body_leaves_plain_and_redacted(guard: Guard, encoding: str, body: bytes) -> None:
    seen = ask(guard, "restoring", body, JSON, (b"content-encoding", encoding.encode())).seen
    assert seen is not None
    assert list(json.loads(seen)) == ["text"]
    assert MAIL.encode() not in seen


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("compress", said(MAIL), 415),
        ("gzip;q=1", gzip.compress(said(MAIL)), 415),
        ("gzip,gzip,gzip", gzip.compress(gzip.compress(gzip.compress(said(MAIL)))), 415),
        ("gzip", gzip.compress(said("a")) + MAIL.encode(), 400),
        ("gzip", said(MAIL), 400),
        ("gzip", gzip.compress(said(MAIL))[:-1], 400),
        ("deflate", zlib.compress(said("a")) + MAIL.encode(), 400),
        ("gzip", gzip.compress(bytes(20_000_000)), 400),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(20_000_000))), 400),
    ],
)
def test_an_encoding_that_hides_or_grows_is_refused(guard: Guard, encoding: str, body: bytes, status: int) -> None:
    answer = ask(guard, "restoring", body, JSON, (b"content-encoding", encoding.encode()))
    assert (answer.seen, answer.status) == (None, status)


# multipart bodies


@pytest.mark.parametrize(
    "head",
    [
        'content-disposition: form-data; name="a"; filename="ann.lee@example.com"',
        'content-disposition: form-data; name="a"; filename="ann.lee\\@example.com"',
        "content-disposition: form-data; name=\"a\"; filename*=utf-8''ann.lee%40example.com",
        "content-disposition: form-data; name=\"a\"; filename=b; filename*=utf-8'en'ann.lee@example.com",
        "content-disposition: form-data; name=\"a\"; filename*=iso-8859-1''ann.lee%40example.com",
        'x-sent-by: ann.lee@example.com\r\ncontent-disposition: form-data; name="a"',
        'content-disposition: form-data; name="a"\r\ncontent-description: of ann.lee@example.com',
    ],
)
def test_the_head_of_a_part_hides_nobody(guard: Guard, head: str) -> None:
    seen = ask(guard, "restoring", multipart(head, b"x"), "multipart/form-data; boundary=x").seen
    assert seen is not None
    assert b"ann.lee" not in seen
    assert b"EMAIL_ADDRESS" in seen


@pytest.mark.parametrize("name", ['filename=""', "filename*=utf-8''"])
def test_a_part_whose_file_has_no_name_is_a_field(guard: Guard, name: str) -> None:
    """Some readers take it for a field, others for a file."""
    body = multipart(f'content-disposition: form-data; name="a"; {name}', MAIL.encode())
    seen = ask(guard, "restoring", body, "multipart/form-data; boundary=x").seen
    assert seen is not None
    assert MAIL.encode() not in seen


@pytest.mark.parametrize(
    "body",
    [
        multipart('content-disposition: form-data; name="a";\r\n filename="b"', MAIL.encode()),
        multipart('content-disposition: form-data; name="a"; filename=""; filename="b"', MAIL.encode()),
        multipart('content-disposition: form-data; name="a"\r\ncontent-transfer-encoding: base64', b"YQ=="),
        multipart('content-disposition: form-data; name="a"\r\ncontent-type: multipart/mixed; boundary=y', b"--y--"),
        multipart('content-disposition: form-data; name="a"', b"x") + MAIL.encode(),
        MAIL.encode() + b"\r\n" + multipart('content-disposition: form-data; name="a"', b"x"),
        multipart('content-disposition: form-data; name="a"', MAIL.encode()).replace(b"\r\n", b"\n"),
    ],
)
def test_a_multipart_body_with_two_readings_is_refused(guard: Guard, body: bytes) -> None:
    answer = ask(guard, "restoring", body, "multipart/form-data; boundary=x")
    assert (answer.seen, answer.status) == (None, 400)


@pytest.mark.parametrize("cut", [0, 30, 110, 190])
def test_a_restored_value_cannot_end_a_part_of_a_multipart_answer(guard: Guard, cut: int) -> None:
    """A private key is whatever stands between its labels; the boundary too, if somebody knows it."""
    key = f"-----BEGIN PRIVATE KEY-----\r\n{BASE64_LINE}\r\n--x\r\n\r\nof nobody\r\n-----END PRIVATE KEY-----"

    def echo(seen: bytes) -> list[bytes]:
        (token,) = PLACEHOLDER.findall(seen)
        whole = multipart("content-type: text/plain", b"key " + token + b" ok")
        return [whole[:cut], whole[cut:]]

    answer = ask(guard, "restoring", said(key), answer=echo, answer_kind="multipart/mixed; boundary=x")
    assert b"of nobody" not in answer.body
    assert answer.raised is not None or answer.status == 502


# heads


@pytest.mark.parametrize(
    "value",
    [
        b"ann.lee@example.com",
        b"ann.lee%40example.com",
        b"a=bob@example.com; b=ann.lee%40example.com",
        b"b=ann.lee%40example.com; a=bob@example.com; c=ann.lee%40example.com",
        b"\xff ann.lee%40example.com",
        b'{"a":"ann.lee\\u0040example.com"}',
    ],
)
@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_a_header_that_the_policy_names_hides_nobody_behind_somebody(
    guard: Guard, protocol: str, value: bytes
) -> None:
    if protocol == "asgi":
        sent = ask(guard, "heads", b"", None, (b"cookie", value)).target[3][b"cookie"].decode("latin-1")
    else:
        sent = ask_wsgi(guard, "heads", HTTP_COOKIE=value.decode("latin-1"))["HTTP_COOKIE"]
    assert "ann.lee" not in sent
    assert "EMAIL_ADDRESS" in sent


def test_a_path_and_query_leave_no_copy_in_the_environ(guard: Guard) -> None:
    path, query = f"/of/{MAIL}", "a=ann.lee%40example.com"
    copies = dict.fromkeys(
        ["SCRIPT_URL", "DOCUMENT_URI", "ORIG_PATH_INFO", "REDIRECT_URL", "REDIRECT_SCRIPT_URL", "REDIRECT_PATH_INFO"],
        path,
    )
    copies |= dict.fromkeys(["REQUEST_URI", "RAW_URI", "UNENCODED_URL"], f"{path}?{query}")
    copies |= {"PATH_TRANSLATED": f"/srv{path}", "SCRIPT_URI": f"http://h{path}", "REDIRECT_QUERY_STRING": query}
    seen = ask_wsgi(guard, "heads", PATH_INFO=path, QUERY_STRING=query, **copies)
    assert {name for name, value in seen.items() if "ann.lee" in value} == set()
    assert "EMAIL_ADDRESS" in seen["PATH_INFO"]
    assert "EMAIL_ADDRESS" in seen["QUERY_STRING"]


def test_a_restored_value_cannot_break_a_header_line(guard: Guard) -> None:
    key = f"-----BEGIN PRIVATE KEY-----\r\n{BASE64_LINE}\r\nset-cookie: evil=1\r\n-----END PRIVATE KEY-----"
    token = PLACEHOLDER.findall(ask(guard, "heads", said(key)).seen or b"")[0]
    answer = ask(guard, "heads", said(key), answer_heads=[(b"location", b"/x?" + token)])
    assert answer.status == 502
    assert "evil" not in answer.everything


# placeholders


def test_nobody_gets_a_value_for_a_placeholder_that_was_minted_elsewhere(guard: Guard) -> None:
    """Neither in a later exchange, nor as another tenant, nor by writing it oneself."""
    token = PLACEHOLDER.findall(ask(guard, "restoring", said(MAIL)).seen or b"")[0]

    def leak(_: bytes) -> list[bytes]:
        return [said(token.decode())]

    for policy, text in [("restoring", "hi"), ("restoring", token.decode()), ("other", "hi"), ("other", MAIL)]:
        answer = ask(guard, policy, said(text), answer=leak)
        assert json.loads(answer.body) == {"text": token.decode()}, (policy, text)
    assert token not in (ask(guard, "other", said(MAIL)).seen or b"")


@pytest.mark.parametrize(
    "text",
    ["<EMAIL_ADDRESS_aaaaaaaaaa>", "<EMAIL_ADDRESS_<LITERAL_aaaaaaaaaa>aaaaaaaaaa>", f"<EMAIL_ADDRESS_{MAIL}>"],
)
def test_text_that_looks_like_a_placeholder_comes_back_as_it_was(guard: Guard, text: str) -> None:
    answer = ask(guard, "restoring", said(text), answer=lambda seen: [seen])
    assert json.loads(answer.body) == {"text": text}


# event streams


def chunk(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


END = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SPLIT = chunk(content=PARTS[0]) + chunk(content=PARTS[1] + " ok")
ARGUMENTS = [{"index": 0, "function": {"arguments": text}} for text in ('{"a":"ann.lee\\u00', '40example.com"}')]
_SAID = re.compile(r'"(?:content|text|token|transcript|arguments)": ?"(.*?)(?<!\\)"')
TOKENS = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"logprobs":{"content":[{"token":"%s"}]}}]}\n\n'


@pytest.mark.parametrize(
    "stream",
    [
        SPLIT + END,
        (SPLIT + END).replace(b"\n", b"\r"),
        (SPLIT + END).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + SPLIT + END,
        b": ann.lee@example.com\n\n" + END,
        b"id: ann.lee@example.com\n" + END,
        b"event: ann.lee@example.com\n" + END,
        chunk(content="x") + b": ann.lee@example.com",
        chunk(content="x") + b"data: " + said(MAIL),
        b"data: ann.lee@example.com\n\n" + END,
        b"ann.lee@example.com\n\n" + END,
        b'data: {"choices":[{"index":0,"delta":\ndata: {"content":"ann.lee@example.com"}}]}\n\n' + END,
        chunk(tool_calls=ARGUMENTS[:1]) + chunk(tool_calls=ARGUMENTS[1:]) + END,
        chunk(content=[{"type": "text", "text": PARTS[0]}])
        + chunk(content=[{"type": "text", "text": PARTS[1] + " ok"}])
        + END,
        chunk(content=PARTS[0]) + chunk(content=PARTS[1] + " ok").replace(b'"index": 0', b'"index": 0.0') + END,
        b"id: 078-05-1120\nevent: 4111111111111111\n" + chunk(content="x") + END,
        chunk(audio={"transcript": PARTS[0]}) + chunk(audio={"transcript": PARTS[1] + " "}) + END,
        chunk(annotations=[{"url_citation": {"title": MAIL}}]) + END,
        chunk(content="x") + b'data: {"error":{"message":"bad key of ann.lee@example.com"}}\n\n',
        b'data: {"choices":[],"usage":{"who":"ann.lee@example.com"}}\n\n' + END,
        b"".join(TOKENS % (part, part) for part in (b"ann.lee", b"@example.com", b" ok", b" bye")) + END,
        b'data: "\xff ann.lee@example.com"\n\n' + END,
    ],
)
@pytest.mark.parametrize("size", [1_000_000, 17, 1])
def test_no_event_stream_says_an_address(guard: Guard, stream: bytes, size: int) -> None:
    """E-67."""
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    answer = ask(guard, "replacing", CALL, path=MODEL, answer=lambda _: pieces, answer_kind=SSE)
    assert answer.seen is not None
    joined = "".join(_SAID.findall(answer.body.decode()))
    for value in ("ann.lee", "078-05-1120", "4111111111111111"):
        assert value not in answer.everything
        assert value not in joined


@pytest.mark.parametrize("size", [1_000_000, 5])
def test_a_stream_that_says_its_end_too_early_says_no_more_than_it_said(guard: Guard, size: int) -> None:
    stream = chunk(content=f"{MAIL} ") + b"data: [DONE]\n\n" + chunk(content=f"{MAIL} ") + END
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    answer = ask(guard, "replacing", CALL, path=MODEL, answer=lambda _: pieces, answer_kind=SSE)
    assert len(PLACEHOLDER.findall(answer.body)) == 2
    assert MAIL not in answer.everything


# responses


@pytest.mark.parametrize(
    ("kind", "status", "heads", "body"),
    [
        (JSON, 206, [(b"content-range", b"bytes 0-9/20")], said(MAIL)),
        ("image/png", 206, [(b"content-range", b"bytes 0-9/20")], said(MAIL)),
        (JSON, 200, [(b"content-type", b"image/png")], said(MAIL)),
        (JSON, 200, [(b"content-encoding", b"compress")], said(MAIL)),
        ("application/json; charset=utf-7", 200, [], said(MAIL)),
    ],
)
def test_an_answer_that_cannot_be_read_is_withheld(
    guard: Guard, kind: str, status: int, heads: Headers, body: bytes
) -> None:
    answer = ask(guard, answer=lambda _: [body], answer_kind=kind, answer_heads=heads, status=status)
    assert answer.status == 502
    assert MAIL not in answer.everything


@pytest.mark.parametrize("more", [(b"content-length", b"0"), (b"transfer-encoding", b"chunked")])
def test_an_answer_that_says_it_is_empty_is_believed_only_where_nothing_contradicts_it(
    guard: Guard, more: tuple[bytes, bytes]
) -> None:
    heads = [(b"content-length", b"0"), more]
    answer = ask(guard, "replacing", answer=lambda _: [said(MAIL)], answer_heads=heads)
    assert MAIL not in answer.everything


@pytest.mark.parametrize("body", [said(MAIL)[:-3], MAIL.encode(), b"\xff" + said(MAIL)])
def test_an_answer_that_is_not_what_it_says_ends_before_it_begins(guard: Guard, body: bytes) -> None:
    answer = ask(guard, answer=lambda _: [body])
    assert (answer.body, str(answer.raised)) == (b"", "response.unreadable")


def test_an_encoded_answer_leaves_plain_with_nothing_that_describes_it(guard: Guard) -> None:
    body = gzip.compress(said(MAIL))
    heads = [(b"content-encoding", b"gzip"), (b"etag", b'"x"'), (b"content-length", str(len(body)).encode())]
    answer = ask(guard, "replacing", answer=lambda _: [body], answer_heads=heads)
    assert PLACEHOLDER.fullmatch(json.loads(answer.body)["text"].encode())
    assert not {b"content-encoding", b"etag"} & {name for name, _ in answer.headers}


# sockets


async def _socket(guard: Guard, inward: list[Any], outward: list[Any], policy: str) -> tuple[list[Any], list[Any]]:
    heard: list[Any] = []
    told: list[Any] = []
    left = {"type": "websocket.disconnect", "code": 1000, "reason": MAIL}
    incoming = [{"type": "websocket.connect"}, *({"type": "websocket.receive", **one} for one in inward), left]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for message in outward:
            await send(message)
        while not heard or heard[-1]["type"] != "websocket.disconnect":
            heard.append(await receive())

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        told.append(message)

    heads = [(b"authorization", f"Bearer {key_of(policy)}".encode())]
    scope = {**http_scope(headers=heads, state={}), "type": "websocket", "subprotocols": [], "extensions": {}}
    await guard.asgi(app)(scope, receive, send)
    return heard, told


@pytest.mark.parametrize(
    "frame",
    [
        {"text": MAIL},
        {"bytes": MAIL.encode()},
        {"bytes": None, "text": MAIL},
        {"bytes": b"x", "text": MAIL},
        {"text": '{"a":"ann.lee\\u0040example.com"}'},
        {"text": '{"a":"ann.lee\\u0040example.com",}'},
        {"bytes": b"\xff" + MAIL.encode()},
    ],
)
def test_no_message_of_a_socket_and_no_word_of_its_close_says_an_address(guard: Guard, frame: Any) -> None:
    """E+16."""
    close = {"type": "websocket.close", "code": 1000, "reason": MAIL}
    sends = [{"type": "websocket.send", **frame}, close]
    for inward, outward in ([frame], []), ([], sends), ([], [close]):
        heard, told = asyncio.run(_socket(guard, inward, outward, "replacing"))
        assert "ann.lee" not in repr(heard) + repr(told)


# secrets, logs, records


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps({"messages": [{"content": f"my key is {TOKEN}"}]}).encode(), JSON),
        (json.dumps({f"of {MAIL}": f"my key is {TOKEN}"}).encode(), JSON),
        (f"{TOKEN[:10]}=1&a={TOKEN}".encode(), FORM),
        (TOKEN.encode(), FORM),
        (f"my key is {TOKEN}".encode(), "text/plain"),
        (multipart('content-disposition: form-data; name="a"', TOKEN.encode()), "multipart/form-data; boundary=x"),
        (
            multipart(f'content-disposition: form-data; name="a"; filename="{TOKEN}"', b"x"),
            "multipart/mixed; boundary=x",
        ),
    ],
)
def test_a_refusal_tells_where_a_secret_was_and_nothing_of_it(guard: Guard, body: bytes, kind: str) -> None:
    with capture_logs() as logs:
        answer = ask(guard, "refusing", body, kind)
    assert (answer.seen, answer.status) == (None, 403)
    record = _sink(guard).records[-1]
    told = answer.everything + repr(logs) + repr(record)
    assert TOKEN[4:] not in told
    assert MAIL not in told


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (said(MAIL), JSON),
        (b'{"ann.lee@example.com":NaN,}', JSON),
        (b"\xff" + MAIL.encode(), "text/plain"),
        (MAIL.encode() + b"=%ff", FORM),
        (MAIL.encode(), SSE),
        (MAIL.encode(), MAIL),
        (b"{}", f"application/json; charset={MAIL}"),
        (b"--x\r\n" + MAIL.encode() + b"\r\n\r\n--x--", "multipart/form-data; boundary=x"),
    ],
)
@pytest.mark.parametrize("policy", ["restoring", "heads", "refusing"])
def test_no_log_record_or_error_says_an_address(
    guard: Guard, caplog: pytest.LogCaptureFixture, policy: str, body: bytes, kind: str
) -> None:
    """S-64."""
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        refused = ask(guard, policy, body, kind, query=f"a=%ff{MAIL}".encode())
        broken = ask(guard, policy, said(MAIL), answer=lambda _: [said(MAIL)[:-2]])
    told = repr(logs) + caplog.text + repr(_sink(guard).records[-2:]) + refused.everything + broken.everything
    assert "ann.lee" not in told


def _sink(guard: Guard) -> RecordingSink:
    (sink,) = guard.ports.audits
    assert isinstance(sink, RecordingSink)
    return sink


# over a real server


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_what_a_real_server_reads_and_writes_is_redacted_both_ways(guard: Guard, http: str) -> None:
    heard: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message.get("body", b""), message.get("more_body", False)
        heard.append(data)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", JSON.encode())]})
        for piece in (data[:9], data[9:-1] + b',"card":"4111 1111 11', b'11 1111"}'):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    body = said(MAIL)
    head = f"POST /x HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key_of('restoring')}\r\nconnection: close\r\n"
    chunks = b"".join(b"%x;%s\r\n%s\r\n" % (len(part), b"ext=1", part) for part in (body[:13], body[13:]))
    with serve(guard.asgi(app), http=http) as url:
        chunked = talk(
            url, f"{head}content-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
        )
        lying = talk(
            url,
            f"{head}content-type: {JSON}\r\ncontent-type: image/png\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body,
        )
    (seen,) = heard
    assert MAIL.encode() not in seen
    assert MAIL.encode() in chunked
    assert b"4111 1111" not in chunked
    assert b"CREDIT_CARD" in chunked
    assert lying.startswith(b"HTTP/1.1 415 ")
