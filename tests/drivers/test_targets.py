"""The query string and path of a request that a layer rewrote, as the application sees them under either driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tenantguard.asgi import ASGIGuard
from tenantguard.guard import Guard
from tenantguard.wsgi import WSGIGuard

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler


class Rewrite:
    """Puts another target in place of what was asked for."""

    name = "rewrite"

    def __init__(self, path: str | None = None, query: bytes | None = None, raw_path: bytes | None = None) -> None:
        self.path, self.query, self.raw_path = path, query, raw_path

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        request = exchange.request
        if self.path is not None:
            request.path, request.raw_path = self.path, self.raw_path
        if self.query is not None:
            request.query = self.query
        return (yield from proceed(exchange))


def asgi_scope(layer: Rewrite, **scope: Any) -> dict[str, Any]:
    """The scope that an application sees behind the layer."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    given = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", **scope}
    guarded = ASGIGuard(app, guard=Guard([layer]))
    anyio.run(guarded, given, receive, send)
    return seen


def wsgi_environ(layer: Rewrite, **environ: Any) -> dict[str, Any]:
    """The environ that an application sees behind the layer."""
    seen: dict[str, Any] = {}

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    given = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", **environ}
    iterable = WSGIGuard(app, guard=Guard([layer]))(given, lambda *_: lambda _: None)
    list(iterable)
    getattr(iterable, "close", lambda: None)()
    return seen


def test_an_asgi_application_sees_the_rewritten_path_and_query() -> None:
    seen = asgi_scope(Rewrite("/u/<X>/é", b"q=1"), path="/u/ann", raw_path=b"/u/ann", query_string=b"q=ann")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/u/<X>/é", b"/u/%3CX%3E/%C3%A9", b"q=1")
    seen = asgi_scope(Rewrite("/u/X", None, b"/u%2FX"), path="/u/ann", raw_path=b"/u%2Fann")
    assert (seen["path"], seen["raw_path"]) == ("/u/X", b"/u%2FX")


def test_an_asgi_application_sees_an_untouched_target_as_it_came() -> None:
    seen = asgi_scope(Rewrite(), path="/a b", raw_path=b"/a%20b", query_string=b"x=%41")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b", b"/a%20b", b"x=%41")


@pytest.mark.parametrize(("script", "info"), [("", "/u/<X>/é"), ("/u", "/<X>/é")])
def test_a_wsgi_application_sees_the_rewritten_path_and_query(script: str, info: str) -> None:
    seen = wsgi_environ(
        Rewrite("/u/<X>/é", b"q=1"),
        SCRIPT_NAME=script,
        PATH_INFO="/u/ann".removeprefix(script),
        QUERY_STRING="q=ann",
        REQUEST_URI="/u/ann?q=ann",
        RAW_URI="/u/ann?q=ann",
    )
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"].encode("latin-1").decode()) == (script, info)
    assert seen["QUERY_STRING"] == "q=1"
    assert "ann" not in str(seen.get("REQUEST_URI", "")) + str(seen.get("RAW_URI", ""))


def test_a_wsgi_application_sees_a_rewritten_mount_as_a_path() -> None:
    seen = wsgi_environ(Rewrite("/x/y"), SCRIPT_NAME="/ann", PATH_INFO="/y")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("", "/x/y")


def test_a_wsgi_application_sees_an_untouched_target_as_it_came() -> None:
    seen = wsgi_environ(Rewrite(), PATH_INFO="/\xff", QUERY_STRING="x=%41", REQUEST_URI="/%FF?x=%41")
    assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["REQUEST_URI"]) == ("/\xff", "x=%41", "/%FF?x=%41")
