"""The driver looks for the client at the settling point while the application may be reading too."""

from __future__ import annotations

import asyncio
from typing import Any

from tenantguard.flow.effects import ask
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


class Slow:
    """Takes twice; the inner end lasts until ``go``, the outer is for what it took first."""

    name = "slow"

    def __init__(self) -> None:
        self.entered, self.go = asyncio.Event(), asyncio.Event()
        self.told: list[str] = []

    def handle(self, exchange: Any, proceed: Any) -> Any:
        exchange.resolve(lambda outcome: self.told.append("outer"))
        exchange.resolve(lambda outcome: self._end())
        exchange.observe(lambda outcome: self.told.append("observer"))
        return (yield from proceed(exchange))

    def _end(self) -> Any:
        yield from ask(self._wait)
        self.told.append("inner")

    async def _wait(self) -> None:
        self.entered.set()
        await self.go.wait()


def test_an_application_that_returns_while_another_task_settles_ends_nothing_early() -> None:
    """What was taken further out is ended too, and observers hear of it afterwards."""

    async def main() -> list[str]:
        layer = Slow()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            tasks.append(asyncio.ensure_future(send({"type": "http.response.body", "body": b"ok"})))
            await layer.entered.wait()
            asyncio.get_running_loop().call_later(0, layer.go.set)

        async def receive() -> Any:
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            layer.told.append(message["type"])

        tasks: list[Any] = []
        await Guard([layer]).asgi(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
        await asyncio.gather(*tasks)
        return layer.told

    told = asyncio.run(main())
    assert told[:2] == ["inner", "outer"]
    assert told.count("observer") == 1
    assert "http.response.body" in told
