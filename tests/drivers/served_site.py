"""What the real servers serve: an ASGI and a WSGI application under one guard with a durable ledger.

``SITE_SETTINGS`` names the settings. With ``SITE_PRELOAD`` a request is served when this module is imported, so that
everything a guard begins with its first use has begun before a server forks.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tenantguard import current, load
from tests.drivers.reporting import port_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


guard = load(os.environ["SITE_SETTINGS"])


def about() -> dict[str, Any]:
    return {"pid": os.getpid(), "id": current().id}


# ASGI


async def plain(request: Any) -> JSONResponse:
    return JSONResponse(about())


async def gated(request: Any) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps(about()).encode() + b"\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(request.url.query, "gate"))
        await reader.read(1)
        writer.close()
        await writer.wait_closed()
        yield b"end\n"

    return StreamingResponse(chunks())


async def endless(request: Any) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


asgi = guard.asgi(
    Starlette(routes=[Route("/plain", plain), Route("/gated", gated), Route("/endless", endless)]),
)


# WSGI


def answer(environ: Any, start_response: Any) -> Iterator[bytes]:
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    start_response("200 OK", [("content-type", "text/plain")])
    yield json.dumps(about()).encode() + b"\n"
    if path == "/gated":
        with socket.create_connection(("127.0.0.1", port_of(query, "gate")), timeout=10) as gate:
            gate.recv(1)
        yield b"end\n"
    while path == "/endless":
        yield b"x" * 1000


wsgi = guard.wsgi(answer)

if "SITE_PRELOAD" in os.environ:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    first = wsgi(environ | {"PATH_INFO": "/plain"}, lambda *given: None)
    assert len(list(first)) == 1
    first.close()
