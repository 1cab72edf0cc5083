"""The reverse proxy over the loopback: a real server and client on both sides, the upstream's bytes written by hand.

The proxy runs in a thread of its own, so a test plays client and upstream in turn, and nothing has to be waited for
but a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import http.client
import ipaddress
import json
import select
import socket
import ssl
import struct
import sys
import warnings
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.http_client import Connection, Pool
from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.proxy import Upstream, UpstreamLost, upstream_app
from tenantguard.testing.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 10.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


class Peer:
    """One end of a connection, read and written by hand."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self) -> tuple[str, list[tuple[str, str]]]:
        """The first line, and the header lines with their names in lower case."""
        first = self.file.readline().decode().rstrip("\r\n")
        lines = []
        while (line := self.file.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode("latin-1").partition(":")
            lines.append((name.lower(), value.strip()))
        return first, lines

    def read(self, length: int) -> bytes:
        return self.file.read(length)

    def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        length = int(self.file.readline(), 16)
        data = self.file.read(length)
        assert self.file.readline() == b"\r\n"
        return data

    def until_closed(self) -> bytes:
        """Whatever still comes until the other side closes, or resets."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.file.read1():
                found += piece
        return found

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Wire:
    """Both ends of the proxy: ``client()`` connects to it, ``upstream()`` accepts what it connects to."""

    def __init__(self, base: str, slot: list[Any], stack: contextlib.ExitStack) -> None:
        self._slot = slot
        self._stack = stack
        self.port = int(base.rsplit(":", 1)[1])
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(PATIENCE_S)
        self.authority = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.proxy()

    def proxy(self, path: str = "", **options: Any) -> None:
        """Put the proxy under test with these options."""
        self._slot.append(upstream_app(f"http://{self.authority}{path}", **options))

    def client(self, request: bytes = b"") -> Peer:
        peer = Peer(socket.create_connection(("127.0.0.1", self.port), PATIENCE_S))
        self._stack.callback(peer.close)
        peer.send(request)
        return peer

    def upstream(self) -> Peer:
        peer = Peer(self.listener.accept()[0])
        self._stack.callback(peer.close)
        return peer

    def exchange(self, request: bytes, answer: bytes) -> tuple[Peer, list[tuple[str, str]]]:
        """Send a request without a body, let the upstream answer; the client, and the head that the upstream saw."""
        client = self.client(request)
        upstream = self.upstream()
        _, seen = upstream.head()
        upstream.send(answer)
        return client, seen


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, list[Any]]]:
    """A server of the last application in the slot; each test puts its own proxy there."""
    slot: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await slot[-1](scope, receive, send)

    with serve(app, lifespan="off") as base:
        yield base, slot


@pytest.fixture
def wire(served: tuple[str, list[Any]]) -> Iterator[Wire]:
    with contextlib.ExitStack() as stack:
        yield Wire(*served, stack)


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: front.test", *lines, "", ""]).encode()


def values(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in headers if key == name]


def problem(client: Peer) -> tuple[str, dict[str, Any]]:
    """The status line and the problem details of a refusal."""
    first, headers = client.head()
    assert values(headers, "content-type") == ["application/problem+json"]
    return first, json.loads(client.read(int(values(headers, "content-length")[0])))


# --- the request ---


def test_the_request_reaches_the_upstream_as_it_was_sent(wire: Wire) -> None:
    body = b'{"prompt": "h\xc3\xa9llo"}'
    client = wire.client(
        b"POST /v1/a%2Fb/c;d?q=1&x=%20+&x HTTP/1.1\r\nHost: front.test\r\nX-One: 1\r\nX-Two: a\r\nX-Two: b\r\n"
        b"X-Name: J\xc3\xb6rg\r\nCookie: a=b\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body,
    )
    upstream = wire.upstream()
    first, headers = upstream.head()
    assert first == "POST /v1/a%2Fb/c;d?q=1&x=%20+&x HTTP/1.1"
    assert headers == [
        ("host", wire.authority),
        ("x-one", "1"),
        ("x-two", "a"),
        ("x-two", "b"),
        ("x-name", "Jörg".encode().decode("latin-1")),
        ("cookie", "a=b"),
        ("x-forwarded-host", "front.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("via", "1.1 tenantguard"),
        ("content-length", str(len(body))),
    ]
    assert upstream.read(len(body)) == body
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_an_upstream_with_a_prefix_gets_it_before_the_path(wire: Wire) -> None:
    wire.proxy("/prefix/")
    wire.client(get("/v1/models"))
    assert wire.upstream().head()[0] == "GET /prefix/v1/models HTTP/1.1"


def test_the_forwarding_chain_is_continued_and_what_the_client_claims_of_us_is_replaced(wire: Wire) -> None:
    _, seen = wire.exchange(
        get("/", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2", "X-Forwarded-Proto: https"),
        OK,
    )
    assert values(seen, "x-forwarded-for") == ["10.0.0.1, 10.0.0.2, 127.0.0.1"]
    assert values(seen, "x-forwarded-proto") == ["http"]


def test_hop_by_hop_headers_and_those_that_connection_names_stay_on_their_hop(wire: Wire) -> None:
    request = get(
        "/",
        "Connection: keep-alive, X-Mine, Via",
        "X-Mine: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic abc",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X-Sum",
        "X-Kept: 1",
    )
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-Sum\r\n"
        b"Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\nX-Kept: 2\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    client, seen = wire.exchange(request, answer)
    assert [name for name, _ in seen] == [
        "host",
        "x-kept",
        "x-forwarded-host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "via",
    ]
    _, headers = client.head()
    assert headers == [("x-kept", "2"), ("transfer-encoding", "chunked")]
    assert client.chunk() == b"ok"
    assert client.chunk() == b""


def test_the_callers_credentials_stay_here_and_the_upstreams_own_are_added(wire: Wire) -> None:
    keys = ("Authorization: Bearer ours", "X-Api-Key: ours", "Api-Key: ours", "X-Other: 1")
    _, seen = wire.exchange(get("/", *keys), OK)
    assert "ours" not in str(seen)
    wire.proxy(headers={"Authorization": "Bearer theirs", "x-other": "2"})
    _, seen = wire.exchange(get("/", *keys), OK)
    assert values(seen, "authorization") == ["Bearer theirs"]
    assert values(seen, "x-other") == ["2"]
    assert "ours" not in str(seen)
    wire.proxy(forward_credentials=True)
    _, seen = wire.exchange(get("/", *keys), OK)
    assert [values(seen, name) for name in ("authorization", "x-api-key", "api-key")] == [
        ["Bearer ours"],
        ["ours"],
        ["ours"],
    ]


def test_the_host_header_can_be_set_for_the_upstream(wire: Wire) -> None:
    wire.proxy(headers={"host": "model.internal"})
    _, seen = wire.exchange(get(), OK)
    assert values(seen, "host") == ["model.internal"]


def test_a_thousand_headers_pass(wire: Wire) -> None:
    _, seen = wire.exchange(get("/", *(f"X-Many: {number}" for number in range(1000))), OK)
    assert values(seen, "x-many") == [str(number) for number in range(1000)]


def test_the_request_body_is_streamed(wire: Wire) -> None:
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    upstream = wire.upstream()
    _, headers = upstream.head()
    assert values(headers, "transfer-encoding") == ["chunked"]
    assert upstream.chunk() == b"first"
    client.send(b"6\r\nsecond\r\n")
    assert upstream.chunk() == b"second"
    client.send(b"0\r\n\r\n")
    assert upstream.chunk() == b""
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_a_streamed_body_keeps_its_declared_length(wire: Wire) -> None:
    client = wire.client(b"PUT /file HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nfirst")
    upstream = wire.upstream()
    _, headers = upstream.head()
    assert values(headers, "content-length") == ["11"]
    assert values(headers, "transfer-encoding") == []
    assert upstream.read(5) == b"first"
    client.send(b"second")
    assert upstream.read(6) == b"second"
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_a_large_body_in_one_message_is_passed_on_with_its_length(wire: Wire) -> None:
    """What a guard that has read the body hands over; 3 MiB."""
    body = bytes(range(256)) * 4096 * 3
    sent: list[Any] = []

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        calling = loop.create_task(app(scope(method="POST"), messages(body), collect(sent)))
        seen = await loop.run_in_executor(None, answer)
        await calling
        assert seen == (["3145728"], body)
        await app.close()

    def answer() -> tuple[list[str], bytes]:
        upstream = wire.upstream()
        _, headers = upstream.head()
        received = upstream.read(len(body))
        upstream.send(OK)
        return values(headers, "content-length"), received

    asyncio.run(main())
    assert [message.get("status") for message in sent] == [200, None]


def test_an_expectation_is_met_here(wire: Wire) -> None:
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert client.head() == ("HTTP/1.1 100 Continue", [])
    client.send(b"hi")
    upstream = wire.upstream()
    _, headers = upstream.head()
    assert values(headers, "expect") == []
    assert upstream.read(2) == b"hi"
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_an_answer_before_the_end_of_the_request_is_passed_back(wire: Wire) -> None:
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nsome")
    upstream = wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
    assert client.head()[0].startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_request_without_a_body_has_none_upstream(wire: Wire, method: str) -> None:
    client = wire.client(f"{method} / HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    upstream = wire.upstream()
    first, headers = upstream.head()
    assert first.startswith(method)
    assert values(headers, "transfer-encoding") == []
    assert values(headers, "content-length") in ([], ["0"])
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert client.head()[0] == "HTTP/1.1 200 OK"


# --- the response ---


def test_the_response_reaches_the_client_as_it_was_sent(wire: Wire) -> None:
    """Statuses, duplicate headers and encoded bytes included: nothing is decoded, followed or kept."""
    answer = (
        b"HTTP/1.1 418 Short and stout\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nContent-Encoding: gzip\r\n"
        b"X-Odd: caf\xe9\r\nDate: then\r\nServer: theirs\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff"
    )
    client, _ = wire.exchange(get("/", "Accept-Encoding: gzip"), answer)
    first, headers = client.head()
    assert first.startswith("HTTP/1.1 418 ")
    assert headers == [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("content-encoding", "gzip"),
        ("x-odd", "café"),
        ("date", "then"),
        ("server", "theirs"),
        ("content-length", "4"),
    ]
    assert client.read(4) == b"\x1f\x8b\x00\xff"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_error_of_the_upstream_is_passed_back_as_it_is(wire: Wire, status: int) -> None:
    answer = b"HTTP/1.1 %d Oh\r\nretry-after: 7\r\ncontent-length: 3\r\n\r\nno!" % status
    client, _ = wire.exchange(get(), answer)
    first, headers = client.head()
    assert first.split()[1] == str(status)
    assert values(headers, "retry-after") == ["7"]
    assert client.read(3) == b"no!"


def test_a_redirect_is_passed_back_and_cookies_are_not_kept(wire: Wire) -> None:
    answer = (
        b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.test/x\r\nset-cookie: a=1\r\ncontent-length: 0\r\n\r\n"
    )
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(answer)
    _, headers = client.head()
    assert values(headers, "location") == ["http://elsewhere.test/x"]
    client.send(get())
    _, seen = upstream.head()
    assert values(seen, "cookie") == []


def test_head_204_and_304_have_no_body_and_leave_the_connection_usable(wire: Wire) -> None:
    client = wire.client(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream = wire.upstream()
    assert upstream.head()[0] == "HEAD / HTTP/1.1"
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
    assert client.head() == ("HTTP/1.1 200 OK", [("content-length", "1234")])
    client.send(get())
    upstream.head()
    upstream.send(b"HTTP/1.1 204 No Content\r\nx-kept: 1\r\n\r\n")
    assert client.head() == ("HTTP/1.1 204 No Content", [("x-kept", "1")])
    client.send(get("/", 'If-None-Match: "v1"'))
    upstream.head()
    upstream.send(b'HTTP/1.1 304 Not Modified\r\netag: "v1"\r\ncontent-length: 1234\r\n\r\n')
    assert client.head() == ("HTTP/1.1 304 Not Modified", [("etag", '"v1"')])
    client.send(get())
    upstream.head()
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"
    assert client.read(2) == b"ok"


def test_each_chunk_arrives_while_the_upstream_is_still_talking(wire: Wire) -> None:
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    assert client.head()[0] == "HTTP/1.1 200 OK"
    for number in range(5):
        event = b"data: %d\n\n" % number
        upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert client.chunk() == event
    upstream.send(b"0\r\n\r\n")
    assert client.chunk() == b""


def test_a_response_that_ends_with_its_connection_is_passed_back(wire: Wire) -> None:
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    upstream.close()
    assert client.head()[0] == "HTTP/1.1 200 OK"
    assert client.chunk() == b"all of it"
    assert client.chunk() == b""


def test_interim_responses_are_not_passed_back(wire: Wire) -> None:
    client, _ = wire.exchange(get(), b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK)
    assert client.head() == ("HTTP/1.1 200 OK", [("content-length", "2")])


def test_bytes_beyond_the_declared_length_are_nobodys(wire: Wire) -> None:
    """A second response smuggled behind the first is not taken for the answer to the next request."""
    client, _ = wire.exchange(get(), OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    client.head()
    assert client.read(2) == b"ok"
    client.send(get("/next"))
    upstream = wire.upstream()
    assert upstream.head()[0] == "GET /next HTTP/1.1"
    upstream.send(OK)
    client.head()
    assert client.read(2) == b"ok"


def fill(peer: Peer, piece: bytes, most: int) -> int:
    """Send until the other side takes no more; how many bytes it took."""
    taken = 0
    while taken < most and select.select([], [peer.sock], [], 0.5)[1]:
        taken += peer.sock.send(piece)
    return taken


def test_a_client_that_does_not_read_stops_the_upstream(wire: Wire) -> None:
    """Back-pressure: sockets' buffers fill, the proxy's own memory does not, and nothing is lost afterwards."""
    most = 256 * 1024 * 1024
    client = wire.client()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.send(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % most)
    taken = fill(upstream, bytes(65536), most)
    assert taken < 64 * 1024 * 1024
    assert client.head()[0] == "HTTP/1.1 200 OK"
    assert client.read(taken) == bytes(taken)


def test_an_upstream_that_does_not_read_stops_the_client(wire: Wire) -> None:
    most = 256 * 1024 * 1024
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % most)
    client.send(b"x")
    upstream = wire.upstream()
    taken = 1 + fill(client, bytes(65536), most)
    assert taken < 64 * 1024 * 1024
    upstream.head()
    assert upstream.read(taken) == b"x" + bytes(taken - 1)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends back the body in pieces as long as the query says."""
    size = int(scope["query_string"])
    body = b""
    while (message := await receive())["more_body"]:
        body += message["body"]
    body += message["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(body), size):
        await send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture(scope="module")
def echoing() -> Iterator[http.client.HTTPConnection]:
    with serve(echo, lifespan="off") as upstream, serve(upstream_app(upstream)) as base:
        connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=PATIENCE_S)
        yield connection
        connection.close()


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=6), repeat=st.sampled_from([1, 400]), data=st.data()
)
def test_whatever_the_chunking_the_bytes_are_the_same_both_ways(
    echoing: http.client.HTTPConnection,
    pieces: list[bytes],
    repeat: int,
    data: st.DataObject,
) -> None:
    body = b"".join(piece * repeat for piece in pieces)
    size = data.draw(st.integers(max(1, len(body) // 50), max(1, len(body))))
    chunked = data.draw(st.booleans())
    echoing.request(
        "POST",
        f"/?{size}",
        body=iter([piece * repeat for piece in pieces]) if chunked else body,
        headers={"transfer-encoding": "chunked"} if chunked else {},
        encode_chunked=chunked,
    )
    assert echoing.getresponse().read() == body


# --- what breaks off ---


def lose_its_thread(upstream: Peer) -> None:
    upstream.send(b"nonsense\r\n")


@pytest.mark.parametrize("break_off", [Peer.close, Peer.reset, lose_its_thread])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n9\r\nof a",
    ],
)
def test_an_upstream_that_dies_in_mid_body_never_looks_complete(
    wire: Wire,
    answer: bytes,
    break_off: Callable[[Peer], None],
) -> None:
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(answer)
    response = http.client.HTTPResponse(client.sock)
    response.begin()
    assert response.read1(4) == b"half"
    if break_off is lose_its_thread and b"content-length" in answer:
        upstream.send(b"of a")
        upstream.close()
    else:
        break_off(upstream)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        assert response.read() == b"must not end"


def test_the_application_says_so_itself_and_sends_no_final_message(wire: Wire) -> None:
    sent: list[Any] = []

    def break_off() -> None:
        upstream = wire.upstream()
        upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n9\r\nof a")
        upstream.close()

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        breaking = asyncio.get_running_loop().run_in_executor(None, break_off)
        with pytest.raises(UpstreamLost) as caught:
            await app(scope(), messages(), collect(sent))
        assert wire.authority not in str(caught.value)
        await breaking
        await app.close()

    asyncio.run(main())
    assert sent[0]["type"] == "http.response.start"
    assert all(message["more_body"] for message in sent[1:])


def test_what_breaks_while_the_client_is_taking_its_time_is_lost_too(wire: Wire) -> None:
    sent: list[Any] = []

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        upstreams: list[Peer] = []

        def begin() -> None:
            upstreams.append(wire.upstream())
            upstreams[0].head()
            upstreams[0].send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

        def break_off() -> None:
            lose_its_thread(upstreams[0])
            assert upstreams[0].until_closed() == b""

        async def send(message: Any) -> None:
            sent.append(message)
            await loop.run_in_executor(None, break_off)

        beginning = loop.run_in_executor(None, begin)
        with pytest.raises(UpstreamLost):
            await app(scope(), messages(), send)
        await beginning
        await app.close()

    asyncio.run(main())
    assert [message["type"] for message in sent] == ["http.response.start"]


def test_silence_in_mid_body_breaks_the_response_off(wire: Wire) -> None:
    wire.proxy(read_timeout_s=0.1)
    client, _ = wire.exchange(get(), b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    client.head()
    assert client.until_closed() == b"half"


@pytest.mark.parametrize("kind", LOOPS)
def test_a_response_without_a_length_that_we_hang_up_on_is_not_whole(
    wire: Wire, kind: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Its end is that the upstream hangs up, which nobody else does in its place."""

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()

        def begin() -> Peer:
            upstream = wire.upstream()
            upstream.head()
            upstream.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            return upstream

        async def send(message: Any) -> None:
            sent.append(message)
            if message.get("body"):
                await app.close()

        beginning = loop.run_in_executor(None, begin)
        with pytest.raises(UpstreamLost):
            await app(scope(), messages(), send)
        await beginning

    sent: list[Any] = []
    with asyncio.Runner(loop_factory=kind) as runner:
        runner.run(main())
    assert [message.get("body") for message in sent] == [None, b"half"]
    assert sent[-1]["more_body"]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("kind", LOOPS)
def test_over_tls_a_response_without_a_length_ends_where_the_upstream_says_so(
    wire: Wire,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[], asyncio.AbstractEventLoop],
    *,
    said: bool,
) -> None:
    """Anybody on the way can close a connection (RFC 9112 9.8)."""
    certificate, key = certified(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer() -> None:
        with context.wrap_socket(wire.listener.accept()[0], server_side=True) as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            if said:
                peer.unwrap()
            else:
                peer.shutdown(socket.SHUT_WR)

    async def main() -> None:
        app = upstream_app(f"https://{wire.authority}")
        answering = asyncio.get_running_loop().run_in_executor(None, answer)
        with contextlib.nullcontext() if said else pytest.raises(UpstreamLost):
            await app(scope(), messages(), collect(sent))
        await answering
        await app.close()

    sent: list[Any] = []
    with asyncio.Runner(loop_factory=kind) as runner:
        runner.run(main())
    assert b"".join(message.get("body", b"") for message in sent) == b"half"
    assert sent[-1]["more_body"] is not said


@pytest.mark.parametrize("endless", [b"0\r\nx-endless: ", b"2;"])
def test_what_an_upstream_sends_between_the_bytes_of_a_body_is_bounded(wire: Wire, endless: bytes) -> None:
    """A trailer is kept until its line has ended, and each read made it longer."""
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
    client.head()
    assert client.chunk() == b"ok"
    with contextlib.suppress(ConnectionError):  # the proxy hangs up before it has read all of that
        upstream.send(endless + b"x" * 300_000)
    assert client.until_closed() == b""


def test_a_body_that_cannot_be_read_stops_the_request(wire: Wire) -> None:
    """Middleware raises from ``receive`` what it answers with; the upstream is not left waiting for the rest."""

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        given = iter([{"type": "http.request", "body": b"half", "more_body": True}])

        async def receive() -> Any:
            for message in given:
                return message
            raise TimeoutError("the body is too slow")

        calling = loop.create_task(app(scope(method="POST"), receive, collect(sent)))
        upstream = await loop.run_in_executor(None, wire.upstream)
        with pytest.raises(TimeoutError, match="too slow"):
            async with asyncio.timeout(PATIENCE_S):
                await calling
        await loop.run_in_executor(None, upstream.head)
        assert await loop.run_in_executor(None, upstream.until_closed) == b"4\r\nhalf\r\n"
        await app.close()

    sent: list[Any] = []
    asyncio.run(main())
    assert sent == []


# --- what never comes ---


def test_an_upstream_that_cannot_be_reached_is_a_502_that_tells_nothing(wire: Wire) -> None:
    wire.listener.close()
    first, told = problem(wire.client(get()))
    assert first == "HTTP/1.1 502 Bad Gateway"
    assert told == {
        "type": "about:blank",
        "title": "Bad Gateway",
        "status": 502,
        "detail": "The upstream could not be reached, or hung up.",
        "code": "upstream.unreachable",
    }


def test_an_upstream_that_hangs_up_is_a_502_and_a_post_is_not_sent_twice(wire: Wire) -> None:
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    upstream = wire.upstream()
    upstream.head()
    upstream.close()
    assert problem(client)[1]["code"] == "upstream.unreachable"
    assert not select.select([wire.listener], [], [], 0)[0]


def used(wire: Wire, request: bytes) -> tuple[Peer, Peer]:
    """A client, and an upstream whose second exchange on one connection has begun with this request."""
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(OK)
    client.head()
    assert client.read(2) == b"ok"
    client.send(request)
    assert upstream.head()[0] == request.split(b"\r\n")[0].decode()
    return client, upstream


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_where_that_is_safe(wire: Wire) -> None:
    client, upstream = used(wire, get("/again"))
    upstream.close()
    other = wire.upstream()
    assert other.head()[0] == "GET /again HTTP/1.1"
    other.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_a_post_is_not_sent_twice_on_a_kept_connection_either(wire: Wire) -> None:
    client, upstream = used(wire, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    upstream.close()
    assert problem(client)[1]["code"] == "upstream.unreachable"
    assert not select.select([wire.listener], [], [], 0)[0]


def test_half_an_answer_on_a_kept_connection_is_no_reason_to_ask_again(wire: Wire) -> None:
    client, upstream = used(wire, get("/again"))
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    assert client.head()[0] == "HTTP/1.1 200 OK"
    upstream.close()
    assert client.until_closed() == b"half"
    assert not select.select([wire.listener], [], [], 0)[0]


@pytest.mark.parametrize("pieces", [[b"a", b"bc", b"GET /evil"], [b"a", b"b"], [b"abcd", b""]])
def test_a_body_that_is_not_as_long_as_it_was_declared_is_not_passed_on_as_if_it_were(
    wire: Wire, pieces: list[bytes]
) -> None:
    """What is too much would be read as another request."""
    sent: list[Any] = []
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left[-1]["more_body"] = False

    async def receive() -> Any:
        return left.pop(0)

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        await app(scope(method="POST", headers=[(b"content-length", b"3")]), receive, collect(sent))
        await app.close()

    asyncio.run(main())
    assert sent[0]["status"] == 502
    upstream = wire.upstream()
    assert b"evil" not in upstream.until_closed()


@pytest.mark.parametrize("trusted", [True, False])
def test_an_upstream_over_tls_is_who_its_certificate_says(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    certificate, key = certified(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    sent: list[Any] = []

    def answer() -> None:
        with (
            contextlib.suppress(ssl.SSLError),
            context.wrap_socket(wire.listener.accept()[0], server_side=True) as peer,
        ):
            assert peer.recv(65536).startswith(b"GET /v1 HTTP/1.1\r\nhost: 127.0.0.1:")
            peer.sendall(OK)

    async def main() -> None:
        app = upstream_app(f"https://{wire.authority}")
        answering = asyncio.get_running_loop().run_in_executor(None, answer)
        await app(scope(path="/v1"), messages(), collect(sent))
        await answering
        await app.close()

    asyncio.run(main())
    assert sent[0]["status"] == (200 if trusted else 502)


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.test ESMTP\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx-folded: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        b"HTTP/1.1 700 Odd\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\nx-endless: " + b"x" * 300_000,
    ],
)
def test_what_is_no_http_answer_is_a_502(wire: Wire, answer: bytes) -> None:
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    with contextlib.suppress(ConnectionError):  # the proxy may hang up before it has read all of that
        upstream.send(answer)
    assert problem(client)[1]["code"] == "upstream.invalid"


def test_an_answer_with_more_headers_than_can_be_read_is_a_502(wire: Wire) -> None:
    many = b"".join(b"x-many: %d\r\n" % number for number in range(5000))
    client, _ = wire.exchange(get(), b"HTTP/1.1 200 OK\r\n" + many + b"content-length: 0\r\n\r\n")
    assert problem(client)[1]["code"] == "upstream.invalid"


def test_an_upstream_that_does_not_answer_in_time_is_a_504(wire: Wire) -> None:
    wire.proxy(read_timeout_s=0.1)
    client = wire.client(get())
    upstream = wire.upstream()
    first, told = problem(client)
    assert (first, told["code"]) == ("HTTP/1.1 504 Gateway Timeout", "upstream.timeout")
    upstream.head()
    assert upstream.until_closed() == b""


def test_an_upstream_that_does_not_take_the_body_in_time_is_a_504(wire: Wire) -> None:
    wire.proxy(read_timeout_s=0.2)
    most = 256 * 1024 * 1024
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % most)
    client.send(b"x")
    wire.upstream()
    fill(client, bytes(65536), most)
    assert problem(client)[1]["code"] == "upstream.timeout"


def test_a_client_may_take_its_time_to_send_the_body(wire: Wire) -> None:
    """The upstream's time runs only while it is the upstream's turn."""
    wire.proxy(read_timeout_s=0.2)
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nfirst")
    upstream = wire.upstream()
    upstream.head()
    assert upstream.read(5) == b"first"
    assert not select.select([client.sock, upstream.sock], [], [], 0.4)[0]
    client.send(b"second")
    assert upstream.read(6) == b"second"
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"


def test_no_free_connection_in_time_is_a_504(wire: Wire) -> None:
    wire.proxy(pool=1, connect_timeout_s=0.1)
    busy = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    assert problem(wire.client(get()))[1]["code"] == "upstream.timeout"
    upstream.send(OK)
    assert busy.head()[0] == "HTTP/1.1 200 OK"


def test_who_waits_for_a_connection_gets_the_next_that_is_free(wire: Wire) -> None:
    wire.proxy(pool=1)
    first, second = wire.client(get("/first")), wire.client()
    upstream = wire.upstream()
    assert upstream.head()[0] == "GET /first HTTP/1.1"
    second.send(get("/second"))
    assert not select.select([wire.listener], [], [], 0.1)[0]
    upstream.send(OK)
    assert first.head()[0] == "HTTP/1.1 200 OK"
    assert upstream.head()[0] == "GET /second HTTP/1.1"
    upstream.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert second.head()[0] == "HTTP/1.1 200 OK"
    second.send(get("/third"))
    assert wire.upstream().head()[0] == "GET /third HTTP/1.1"


def test_who_stops_waiting_for_a_connection_keeps_the_others_in_order(wire: Wire) -> None:
    """Whoever gives up wakes nobody, and nobody loses a place by it."""

    async def main() -> None:
        pool = Pool(
            "127.0.0.1", wire.listener.getsockname()[1], secure=False, limit=1, connect_timeout_s=30, keepalive_s=30
        )
        taken: list[str] = []

        async def wait(name: str) -> None:
            connection = await pool.take()
            taken.append(name)
            pool.give_back(connection)

        connection = await pool.take()
        waiting = []
        for name in ("first", "second", "third"):
            waiting.append(asyncio.create_task(wait(name)))
            await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        for _ in range(5):
            await asyncio.sleep(0)
        pool.give_back(connection)
        await asyncio.gather(*waiting[1:])
        assert taken == ["second", "third"]
        await pool.close()

    asyncio.run(main())


class Answering(asyncio.Protocol):
    """An origin that answers whatever is sent to it."""

    connections: ClassVar[set[Answering]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connections.add(self)

    def data_received(self, data: bytes) -> None:
        del data
        self.transport.write(OK)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.connections.discard(self)


async def all_gone() -> None:
    while Answering.connections:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def pool_of(limit: int, stack: AsyncExitStack) -> tuple[Pool, list[Connection]]:
    """A pool whose connections are all taken, and have had an exchange that another can follow."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    await stack.enter_async_context(server)
    stack.push_async_callback(all_gone)
    port = server.sockets[0].getsockname()[1]
    pool = Pool("127.0.0.1", port, secure=False, limit=limit, connect_timeout_s=30, keepalive_s=30)
    stack.push_async_callback(pool.close)
    connections = [await pool.take() for _ in range(limit)]
    for connection in connections:
        connection.begin(get(), bodiless=False)
        while not connection.is_read:
            await connection.read()
        assert connection.is_reusable
    return pool, connections


@pytest.mark.parametrize("how", ["kept", "closed", "lost on the way"])
def test_a_newcomer_takes_no_connection_before_who_waits(how: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            pool, connections = await pool_of(2, stack)
            taken: list[str] = []

            async def wait(name: str) -> None:
                connection = await pool.take()
                taken.append(name)
                await asyncio.sleep(0)
                pool.give_back(connection)

            waiting = []
            for name in ("first", "second", "third"):
                waiting.append(asyncio.create_task(wait(name)))
                await asyncio.sleep(0)
            waiting += [asyncio.create_task(wait(name)) for name in ("fourth", "fifth")]
            for connection in connections:
                if how == "closed":
                    connection.abort()
                pool.give_back(connection)
                if how == "lost on the way":
                    connection.abort()
            await asyncio.gather(*waiting)
            assert taken == ["first", "second", "third", "fourth", "fifth"]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["kept", "closed"])
def test_whose_turn_comes_as_they_stop_waiting_hands_it_on(how: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            pool, (connection,) = await pool_of(1, stack)
            first, second = [asyncio.create_task(pool.take()) for _ in range(2)]
            await asyncio.sleep(0)
            if how == "closed":
                connection.abort()
                await asyncio.sleep(0)
            else:
                pool.give_back(connection)
            first.cancel()
            async with asyncio.timeout(20):
                pool.give_back(await second)
                assert first.cancelled()
                pool.give_back(await pool.take())

    asyncio.run(main())


def test_an_idle_connection_is_closed_after_its_time(wire: Wire) -> None:
    wire.proxy(keepalive_s=0.1)
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(OK)
    assert client.head()[0] == "HTTP/1.1 200 OK"
    assert upstream.until_closed() == b""


def test_an_upstream_that_speaks_unasked_is_hung_up_on(wire: Wire) -> None:
    """What it says would be taken for the answer to the next request."""
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    upstream.send(OK)
    client.head()
    assert client.read(2) == b"ok"
    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    assert upstream.until_closed() == b""
    client.send(get("/next"))
    assert wire.upstream().head()[0] == "GET /next HTTP/1.1"


# --- the client that leaves ---


def test_a_client_that_leaves_before_the_answer_aborts_the_upstreams_work(wire: Wire) -> None:
    client = wire.client(get())
    upstream = wire.upstream()
    upstream.head()
    client.close()
    assert upstream.until_closed() == b""


def test_a_client_that_leaves_in_mid_stream_aborts_the_upstreams_work(wire: Wire) -> None:
    client, upstream = wire.client(get()), wire.upstream()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    client.head()
    assert client.chunk() == b"first"
    client.close()
    assert upstream.until_closed() == b""


def test_a_client_that_leaves_is_no_error_and_gets_no_final_message(wire: Wire) -> None:
    sent: list[Any] = []

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        leaving = asyncio.Event()
        given = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if given:
                return given.pop()
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            leaving.set()

        calling = loop.create_task(app(scope(), receive, send))
        upstream = await loop.run_in_executor(None, wire.upstream)
        await loop.run_in_executor(None, upstream.head)
        await loop.run_in_executor(None, upstream.send, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await calling
        assert await loop.run_in_executor(None, upstream.until_closed) == b""
        await app.close()

    asyncio.run(main())
    assert all(message.get("more_body", True) for message in sent)


def test_a_client_that_leaves_in_mid_upload_aborts_the_request(wire: Wire) -> None:
    client = wire.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nsome")
    upstream = wire.upstream()
    upstream.head()
    assert upstream.read(4) == b"some"
    client.close()
    assert upstream.until_closed() == b""


def test_a_cancelled_request_aborts_the_upstreams_work(wire: Wire) -> None:
    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        calling = loop.create_task(app(scope(), messages(), collect([])))
        upstream = await loop.run_in_executor(None, wire.upstream)
        await loop.run_in_executor(None, upstream.head)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert await loop.run_in_executor(None, upstream.until_closed) == b""
        await app.close()

    asyncio.run(main())


def test_a_failing_send_aborts_the_upstreams_work(wire: Wire) -> None:
    """Which is how a guard stops its application, and a server may tell that the client is gone."""

    async def broken(message: Any) -> None:
        raise OSError("gone")

    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        loop = asyncio.get_running_loop()
        calling = loop.create_task(app(scope(), messages(), broken))
        upstream = await loop.run_in_executor(None, wire.upstream)
        await loop.run_in_executor(None, upstream.head)
        await loop.run_in_executor(None, upstream.send, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        with pytest.raises(OSError, match="gone"):
            await calling
        assert await loop.run_in_executor(None, upstream.until_closed) == b""
        await app.close()

    asyncio.run(main())


# --- what is refused ---


def scope(**changes: Any) -> dict[str, Any]:
    path = changes.get("path", "/")
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"front.test")],
        "client": None,
    } | changes


def messages(body: bytes = b"") -> Callable[[], Any]:
    """A client that sends this body at once, and stays."""
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if not given:
            await asyncio.Event().wait()
        return given.pop()

    return receive


def collect(sent: list[Any]) -> Callable[[Any], Any]:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


@pytest.mark.parametrize(
    "changes",
    [
        {"raw_path": b"@evil.test/"},
        {"raw_path": b"http://evil.test/"},
        {"raw_path": b"*"},
        {"raw_path": b"/v1/chat#x"},
        {"raw_path": b"/v1/chat?x"},
        {"raw_path": b"/a b"},
        {"raw_path": b"/a\r\nx: y"},
        {"raw_path": b"/caf\xe9"},
        {"query_string": b"a=b c"},
        {"query_string": b"a#b"},
        {"path": "/v1/x/../admin"},
        {"path": "/v1/x/..", "raw_path": b"/v1/x/%2e%2E"},
        {"path": "/./v1"},
    ],
)
def test_a_target_that_two_readers_may_understand_differently_is_refused(changes: dict[str, Any]) -> None:
    app = upstream_app("http://upstream.test/prefix")
    with pytest.raises(BadRequestError):
        app.target(scope(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"path": "/.well-known/x..y"}, "/.well-known/x..y"),
        ({"path": "//evil.test/x"}, "//evil.test/x"),
        ({"path": "/a", "query_string": b"b=%23&c"}, "/a?b=%23&c"),
        ({"path": "/caf\u00e9", "raw_path": None}, "/caf%C3%A9"),
        ({"path": "/llm/v1/x", "root_path": "/llm"}, "/v1/x"),
        ({"path": "/llm", "root_path": "/llm"}, "/"),
    ],
)
def test_a_target_is_passed_on_unchanged(changes: dict[str, Any], expected: str) -> None:
    assert upstream_app("http://upstream.test:81/p").target(scope(**changes)) == f"/p{expected}".encode()


def test_a_dot_segment_is_a_400_and_never_reaches_the_upstream(wire: Wire) -> None:
    assert problem(wire.client(get("/v1/%2e%2e/admin")))[1]["code"] == "request.invalid"
    assert not select.select([wire.listener], [], [], 0)[0]


def test_a_header_is_passed_on_byte_for_byte(wire: Wire) -> None:
    _, seen = wire.exchange(b"GET / HTTP/1.1\r\nHost: h\r\nX-Name: J\xf6rg\r\n\r\n", OK)
    assert values(seen, "x-name") == ["J\xf6rg"]


@pytest.mark.parametrize("value", [b"a\r\nevil: 1", b"a\nevil: 1", b"a\rb", b"a\0b"])
def test_a_header_that_would_be_read_as_two_is_a_400(value: bytes) -> None:
    """Whatever server or middleware lets it through."""
    sent: list[Any] = []
    app = upstream_app("http://upstream.test")
    asyncio.run(app(scope(headers=[(b"host", b"h"), (b"x", value)]), messages(), collect(sent)))
    assert [message.get("status") for message in sent] == [400, None]


def test_trace_would_show_our_credentials_and_is_refused(wire: Wire) -> None:
    first, told = problem(wire.client(b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"))
    assert (first, told["code"]) == ("HTTP/1.1 501 Not Implemented", "request.unsupported")


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []
    app = upstream_app("http://upstream.test")
    asyncio.run(app({"type": "websocket"}, messages(), collect(sent)))
    assert sent == [{"type": "websocket.close", "code": 1003, "reason": ""}]


# --- options and life ---


@pytest.mark.parametrize(
    "url",
    [
        "",
        "upstream.test",
        "ftp://x",
        "http://",
        "http://x:0",
        "http://x:99999",
        "http://[",
        "http://x/?q",
        "http://x/#f",
    ],
)
def test_an_upstream_that_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        upstream_app(url)


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        upstream_app("http://user:hunter2@upstream.test")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout_s": 0},
        {"read_timeout_s": -1},
        {"pool": 0},
        {"keepalive_s": float("nan")},
        {"headers": {"connection": "close"}},
        {"headers": {"content-length": "1"}},
        {"headers": {"a b": "x"}},
        {"headers": {"x": "secret\r\nevil: 1"}},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        upstream_app("http://upstream.test", **options)
    assert "secret" not in str(caught.value)


def test_a_missing_httptools_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tenantguard\[proxy\]'"):
        upstream_app("http://upstream.test")


def test_repr_names_the_upstream_and_no_header() -> None:
    app = upstream_app("http://upstream.test/v1/", headers={"authorization": "Bearer secret"})
    assert repr(app) == "Upstream('http://upstream.test/v1')"


async def call(app: Upstream, wire: Wire) -> int:
    """One request through the application; the status."""

    def answer() -> None:
        upstream = wire.upstream()
        upstream.head()
        upstream.send(OK)

    sent: list[Any] = []
    answering = asyncio.get_running_loop().run_in_executor(None, answer)
    await app(scope(), messages(), collect(sent))
    await answering
    return int(sent[0]["status"])


def test_one_application_serves_several_event_loops_and_leaves_nothing_open(wire: Wire) -> None:
    """Without a lifespan: a mounted application has none. The loop's own end closes its connections."""
    app = upstream_app(f"http://{wire.authority}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert asyncio.run(call(app, wire)) == 200
            gc.collect()


def test_the_end_of_the_lifespan_closes_the_connections(wire: Wire) -> None:
    async def main() -> None:
        app = upstream_app(f"http://{wire.authority}")
        assert await call(app, wire) == 200
        pool = (await app.home(asyncio.get_running_loop())).pool
        events = iter(["lifespan.startup", "lifespan.shutdown"])
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": next(events)}

        await app({"type": "lifespan"}, receive, collect(sent))
        assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert pool.closed
        assert await call(app, wire) == 200
        await app.close()

    asyncio.run(main())
