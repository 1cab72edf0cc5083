"""The driver looks for the client at the settling point while the application may be reading too."""

from __future__ import annotations

import asyncio
from typing import Any

from tenantguard.guard import Guard


class Takes:
    """A layer with something to end, so that the driver looks for the client."""

    name = "takes"

    def handle(self, exchange: Any, proceed: Any) -> Any:
        exchange.resolve(lambda outcome: None)
        return (yield from proceed(exchange))


def test_an_application_that_begins_to_read_at_the_settling_point_gets_its_response_out() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        looking = asyncio.ensure_future(receive())  # as a proxy looks for its client
        await send({"type": "http.response.body", "body": b"ok"})
        looking.cancel()

    messages = [{"type": "http.request", "body": b"x", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"1")]}
    asyncio.run(Guard([Takes()]).asgi(app)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
