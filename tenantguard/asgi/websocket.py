"""One WebSocket, from connect to close."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tenantguard.asgi.run import Run
from tenantguard.errors import ClientLeftError
from tenantguard.flow.exchange import CURRENT
from tenantguard.flow.http import (
    Headers,
    Response,
)
from tenantguard.guard import (
    cut_refusal,
)
from tenantguard.model.decision import Reason

if TYPE_CHECKING:
    from starlette.types import Message


class WebSocketRun(Run):
    """One WebSocket: the flow runs at connect; completed means closed with 1000 or 1001 and no exception."""

    _ahead: deque[Message] | None = None  # read while the flow waited, and not by the application
    _closed = False  # refused after the application had accepted: what it still sends goes nowhere

    async def run(self) -> None:
        """Serve the socket from connect to close."""
        token = CURRENT.set(self.exchange)
        try:
            step = await self.advance(None)
            if isinstance(step, Response):
                await self._next()  # the connect
                await self._refuse(step)
            else:
                await self.app(self.inner_scope(), self._receive, self._send)
                await self._end(None, left=False)
            await self.observe()
            self.raise_cancelled()
        except BaseException as failure:
            left = isinstance(failure, ClientLeftError) and not self.session.called
            await self._end(None, left=left, error=None if left else failure)
            await self.observe()
            if isinstance(failure, Exception):
                self.raise_cancelled()
            if not left:
                raise
        finally:
            CURRENT.reset(token)
            self.leave()
            if self._peeked is not None:
                self._peeked.cancel()

    async def client_left(self) -> bool:
        """Wait until the client has left; before it is accepted it sends nothing else."""
        if self._ahead is None:
            self._ahead = deque()
        while True:
            message = await self.read_ahead()
            self._ahead.append(message)
            if message["type"] == "websocket.disconnect":
                return True

    async def _next(self) -> Message:
        return self._ahead.popleft() if self._ahead else await self.next_message()

    async def _end(self, code: int | None, *, left: bool, error: BaseException | None = None) -> None:
        if not self.session.settled:
            self.close_flow()
        await self.settle(self.session.conclude_socket(code, left=left, error=error))

    async def _refuse(self, response: Response) -> None:
        """Refuse before accepting: by the denial-response extension, else close code 1008 (policy violation)."""
        session = self.session
        self._closed = True
        if not session.refuse(response):
            assert session.cut is not None
            response = session.response = self.exchange.deny(cut_refusal(session.cut.reason))
        await self.settle(session.conclude())
        self.raise_cancelled()
        if "websocket.http.response" in (self.scope.get("extensions") or {}):
            body = response.body or b""
            response.headers.set("content-length", str(len(body)))
            kind = "websocket.http.response"
            await self.send({"type": f"{kind}.start", "status": response.status, "headers": response.headers.raw})
            await self.send({"type": f"{kind}.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def _send(self, message: Message) -> None:
        if self._closed:
            return
        session = self.session
        kind = message["type"]
        if kind == "websocket.send":
            session.received += _frame_length(message)
        elif kind == "websocket.accept":
            await self._accept(message)
            return
        elif kind == "websocket.close":
            await self._end(message.get("code", 1000), left=False)
            self.raise_cancelled()
        elif kind == "websocket.http.response.start" and session.response is None:
            session.respond(Response(message["status"]))
        await self.send(message)
        if kind == "websocket.send":
            session.sent += _frame_length(message)

    async def _accept(self, message: Message) -> None:
        step = await self.advance(Response(101, Headers(message.get("headers", ()))))
        assert isinstance(step, Response)
        if step.body is None and any(transform.rewrites for transform in step.transforms):
            step = self.exchange.deny(cut_refusal(Reason.RESPONSE_UNREADABLE))  # frames are not rewritten
        if step.body is not None:
            await self._refuse(step)
            return
        self.session.respond(step)
        await self.send({**message, "headers": step.headers.raw})

    async def _receive(self) -> Message:
        message = await self._next()
        if message["type"] == "websocket.disconnect":
            await self._end(message.get("code", 1005), left=True)
            self.raise_cancelled()
        return message


def _frame_length(message: Message) -> int:
    data = message.get("bytes")
    return len(data) if data is not None else len((message.get("text") or "").encode())
