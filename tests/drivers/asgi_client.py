"""A small ASGI server in process: one request, what comes back message by message, like uvicorn sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable


def http_scope(**fields: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
        **fields,
    }


def start(status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def idle(rounds: int = 4) -> None:
    for _ in range(rounds):
        await anyio.lowlevel.checkpoint()


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    probes: list[Any] = field(default_factory=list)
    ended: bool = False
    raised: BaseException | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    spec_version: str = "2.3",
    backend: str = "asyncio",
    leave_after: int | None = None,
    probe: Callable[[], Any] = lambda: None,
) -> Answer:
    """Serve one request. With ``leave_after`` the client leaves when it has so many chunks."""
    return anyio.run(
        partial(_call, app, path, method, body, headers or {}, spec_version, leave_after, probe), backend=backend
    )


async def _call(
    app: Any,
    path: str,
    method: str,
    body: bytes,
    headers: dict[str, str],
    spec_version: str,
    leave_after: int | None,
    probe: Callable[[], Any],
) -> Answer:
    answer = Answer()
    over = anyio.Event()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if incoming and not over.is_set():
            return incoming.pop(0)
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if leave_after is not None and over.is_set():
            if spec_version >= "2.4":
                raise ConnectionResetError
            return
        if message["type"] == "http.response.start":
            assert answer.status == 0
            answer.status = message["status"]
            answer.headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
        elif message["type"] == "http.response.body":
            assert not answer.ended
            if message.get("body"):
                answer.chunks.append(bytes(message["body"]))
                answer.probes.append(probe())
            answer.ended = not message.get("more_body", False)
            if answer.ended or len(answer.chunks) == leave_after:
                over.set()
        await anyio.lowlevel.checkpoint()

    lines = [(key.lower().encode(), value.encode()) for key, value in {"host": "test", **headers}.items()]
    scope = http_scope(method=method, path=path, raw_path=path.encode(), headers=lines, state={})
    scope["asgi"]["spec_version"] = spec_version
    try:
        await app(scope, receive, send)
    except Exception as failure:  # noqa: BLE001 - a server sees everything
        answer.raised = failure
    return answer
