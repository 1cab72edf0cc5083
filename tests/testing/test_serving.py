from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest

from tenantguard.errors import ConfigurationError
from tenantguard.testing.serving import serve


async def greet(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        headers = [(b"content-length", b"2"), (b"x-client", scope["client"][0].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hi"})


def ask(base: str) -> tuple[list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", "/", headers={"x-forwarded-for": "10.0.0.1"})
        response = connection.getresponse()
        return response.getheaders(), response.read()
    finally:
        connection.close()


def test_an_application_is_served_while_the_block_lasts() -> None:
    with serve(greet) as base:
        assert ask(base) == ([("content-length", "2"), ("x-client", "127.0.0.1")], b"hi")
    with pytest.raises(ConnectionRefusedError):
        ask(base)


def test_several_are_served_at_once() -> None:
    with serve(greet) as one, serve(greet, server_header=True) as other:
        assert one != other
        assert ("server", "uvicorn") not in ask(one)[0]
        assert ("server", "uvicorn") in ask(other)[0]


def test_a_start_up_that_fails_is_told() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(ConfigurationError, match="start-up failed"), serve(failing):
        pytest.fail("it must not be served")


def test_requests_that_still_run_are_cancelled_at_the_end() -> None:
    """A client that waits does not keep the block from ending."""
    waiting = socket.socket()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    with waiting, serve(endless, timeout_graceful_shutdown=0) as base:
        waiting.connect(("127.0.0.1", int(base.rsplit(":", 1)[1])))
        waiting.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        assert waiting.recv(12) == b"HTTP/1.1 200"
