"""Rates and slots of two plans: who is refused, who waits, who is next, and what callers are told.

A tour of requests in process, on a clock that is set by hand (it needs httpx)::

    python examples/rates.py

Served::

    uvicorn --factory --app-dir examples rates:serve
    curl -i -X POST localhost:8000/pictures -H "authorization: Bearer tg_example_acme_0123456789"
"""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tenantguard import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard import Guard

SETTINGS = Path(__file__).with_name("rates.toml")
KEY = "Bearer tg_example_{}_0123456789"


class Renderer:
    """Renders pictures and films; each is ready when it is told so."""

    def __init__(self) -> None:
        self.ready = asyncio.Semaphore(0)
        self.begun: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - it reads no body
        """Answer one request."""
        headers = dict(scope["headers"])
        self.begun.append(headers.get(b"x-name", b"a picture").decode())
        await self.ready.acquire()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"rendered\n"})


def serve() -> Any:
    """For ``uvicorn --factory``."""
    app = Renderer()
    for _ in range(1000):
        app.ready.release()  # a server does not wait for a word of ours
    return load(SETTINGS).asgi(app)


async def rates(client: httpx.AsyncClient, app: Renderer) -> None:
    """A burst is used up, and what is too large for it is told apart."""
    for served in (True, True, True, False):
        if served:
            app.ready.release()
        response = await client.post("/pictures", headers={"authorization": KEY.format("acme")})
        print(f"acme: a picture  {response.status_code} {told(response)}")
    response = await client.post("/films", headers={"authorization": KEY.format("acme")})
    print(f"acme: a film     {response.status_code} {told(response)}")


async def slots(client: httpx.AsyncClient, app: Renderer, guard: Guard) -> None:
    """Two are rendered at a time; who waits is served in turns, and who cannot wait is told at once."""
    app.begun.clear()

    async def render(name: str) -> httpx.Response:
        tenant, _, _ = name.partition(" ")
        return await client.post("/pictures", headers={"authorization": KEY.format(tenant), "x-name": name})

    tasks = []
    for name in ("globex 1", "globex 2", "globex 3", "globex 4", "globex 5", "initech 1"):
        tasks.append(asyncio.create_task(render(name)))
        await until(lambda: len({each.id for each in guard.ports.slots.standing()}) == len(tasks))
    print(f"\nrendered now: {', '.join(app.begun)}; {len(tasks) - len(app.begun)} wait")
    response = await render("globex 6")
    print(f"globex 6 comes too:   {response.status_code} {told(response)}")
    for served in range(1, len(tasks) + 1):
        app.ready.release()
        await until(lambda served=served: len(app.begun) == min(served + 2, len(tasks)))
    await asyncio.gather(*tasks)
    print(f"begun in this order:  {', '.join(app.begun)}")


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until it holds."""
    while not condition():  # noqa: ASYNC110 - in process nothing takes time
        await asyncio.sleep(0)


def told(response: httpx.Response) -> str:
    """What a caller reads of it."""
    limit = response.headers.get("ratelimit", "")
    words = response.text.strip() if response.is_success else response.json()["code"]
    wait = response.headers.get("retry-after")
    return ", ".join(part for part in (words, limit, wait and f"Retry-After: {wait}") if part)


async def tour() -> None:
    app = Renderer()
    guard = load(SETTINGS)
    guard.ports.audits = ()  # each exchange would be logged between the lines printed here
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard.asgi(app)), base_url="http://tour") as client:
        await rates(client, app)
        await slots(client, app, guard)
    guard.close()


if __name__ == "__main__":
    asyncio.run(tour())
