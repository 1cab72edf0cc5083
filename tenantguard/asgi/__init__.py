"""The event-loop driver: runs flows around an ASGI application on asyncio and trio.

A flow is resumed from inside the application's own ``send``, so a layer costs no task, queue or thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

from tenantguard.asgi.http import HTTPRun
from tenantguard.asgi.run import STATE_KEY
from tenantguard.asgi.websocket import WebSocketRun
from tenantguard.guard import Guard, describe_failure, log, resolve_guard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tenantguard.flow.layer import Layer

__all__ = ["STATE_KEY", "ASGIGuard"]


class ASGIGuard:
    """A guard as ASGI middleware: ``Middleware(ASGIGuard, guard=guard)`` or ``Middleware(ASGIGuard, layers=[...])``.

    ``lifespan`` passes through; the guard's ports are closed when it ends, and nothing depends on it.
    """

    def __init__(self, app: ASGIApp, *, guard: Guard | None = None, layers: Iterable[Layer] | None = None) -> None:
        self.app = app
        self.guard = resolve_guard(guard, layers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        kind = scope["type"]
        if kind == "http":
            await HTTPRun(self.app, self.guard, scope, receive, send).run()
        elif kind == "websocket":
            await WebSocketRun(self.app, self.guard, scope, receive, send).run()
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                try:
                    await anyio.to_thread.run_sync(self.guard.close)
                except Exception as failure:  # noqa: BLE001 - the application has shut down well all the same
                    log.error("closing the guard failed: error=%s", describe_failure(failure))
            await send(message)

        await self.app(scope, receive, closing)
