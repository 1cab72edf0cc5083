"""The process that is killed: a real server around a real guard. ``python -m tests.kill.site FOLDER LEDGER``.

It forks a server for every line ``serve`` that it reads, as preforking servers do, and that says where it listens and
its number. ``kill <number>`` kills that one, and is answered once it is dead. At the end of its input it kills those
that are left.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import structlog
import uvicorn

from tenantguard import current
from tenantguard.adapters.ledger import postgres, sqlite
from tenantguard.settings import load
from tests.kill.world import SETTINGS, SharedClock, open_ledger

PRELOADED = (psycopg, postgres, sqlite)


def application(folder: Path) -> Any:
    """Answers with the exchange's id, and writes first which exchange served which key: that outlives a kill."""
    runs = os.open(folder / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        exchange = current().id
        key = dict(scope["headers"])[b"idempotency-key"].decode()
        os.write(runs, f"{exchange} {key}\n".encode())
        chat = scope["path"] == "/v1/chat/completions"
        chunks = _events(exchange) if chat else [json.dumps({"exchange": exchange}).encode()]
        headers = [(b"content-type", b"text/event-stream" if chat else b"application/json")]
        if not chat:
            headers.append((b"content-length", b"%d" % len(chunks[0])))
        await asyncio.sleep(random.random() * 0.01)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(random.random() * 0.003)
        await send({"type": "http.response.body", "body": b""})

    return app


def _events(exchange: str) -> list[bytes]:
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": exchange}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}},
    ]
    told = {"id": exchange, "object": "chat.completion.chunk", "model": "m"}
    return [*(b"data: " + json.dumps(told | frame).encode() + b"\n\n" for frame in frames), b"data: [DONE]\n\n"]


def serve(folder: Path, where: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    guard = load(folder / "guard.toml")
    guard.ports.ledger = open_ledger(where, SharedClock(folder / "clock"))
    print(listener.getsockname()[1], os.getpid(), flush=True)  # noqa: T201 - that is how it answers
    config = uvicorn.Config(guard.asgi(application(folder)), lifespan="off", log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


def main(folder: Path, where: str) -> None:
    (folder / "guard.toml").write_text(SETTINGS)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    living: set[int] = set()
    for line in sys.stdin:
        what, *number = line.split()
        if what == "serve":
            child = os.fork()
            if child == 0:
                try:
                    serve(folder, where)
                finally:
                    os._exit(1)
            living.add(child)
        else:
            _end(int(number[0]))
            living.discard(int(number[0]))
            print("killed", *number, flush=True)  # noqa: T201
    for child in living:
        _end(child)


def _end(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
