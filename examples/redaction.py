"""What a model sees of personal data, and what its caller reads: placeholders, masks, and a refused secret.

A tour in process (it needs httpx)::

    python examples/redaction.py

Served, with a model that only says what it heard::

    uvicorn --factory --app-dir examples redaction:serve
"""

# ruff: noqa: T201 - a tour prints
from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tenantguard import load

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = Path(__file__).with_name("redaction.toml")
ASKED = "Write to ann@example.com or call +1 415 555 2671 about card 4111 1111 1111 1111."


class Parrot:
    """A model that repeats what it was told, four characters at a time, as OpenAI streams it."""

    def __init__(self) -> None:
        self.heard = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - one kind of request
        """Answer one request."""
        self.heard = json.loads((await receive())["body"])["messages"][-1]["content"]
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for at in range(0, len(self.heard), 4):
            chunk = {"choices": [{"index": 0, "delta": {"content": self.heard[at : at + 4]}}]}
            event = f"data: {json.dumps(chunk)}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def tour() -> None:
    """Ask the model as two tenants."""
    parrot = Parrot()
    guard = load(SETTINGS)
    guard.ports.audits = ()  # each exchange would be logged between the lines printed here
    transport = httpx.ASGITransport(guard.asgi(parrot))
    async with httpx.AsyncClient(transport=transport, base_url="http://guarded") as client:
        print("acme asks:     ", ASKED)
        answer = await _ask(client, "acme", ASKED)
        print("the model sees:", parrot.heard)
        print("acme reads:    ", "".join(_said(answer.text)))

        answer = await _ask(client, "globex", "The password is in postgres://app:s3cret-9f2c@db/orders")
        print("globex sends one:", answer.status_code, answer.json()["error"]["message"])
    guard.close()


async def _ask(client: httpx.AsyncClient, tenant: str, text: str) -> httpx.Response:
    return await client.post(
        "/v1/chat/completions",
        headers={"authorization": f"Bearer tg_example_{tenant}_0123456789"},
        json={"model": "parrot", "stream": True, "messages": [{"role": "user", "content": text}]},
    )


def _said(stream: str) -> Iterator[str]:
    for line in stream.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])["choices"][0]["delta"].get("content", "")


def serve() -> Any:
    """The guarded parrot, for a server."""
    return load(SETTINGS).asgi(Parrot())


if __name__ == "__main__":
    asyncio.run(tour())
