"""One WebSocket, from connect to close."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.to_thread

from tenantguard.asgi.run import Run, stems_from
from tenantguard.asgi.waiting import workers
from tenantguard.errors import ClientLeftError, ResponseCut
from tenantguard.flow.effects import COMPUTE_IN_PLACE_BYTES
from tenantguard.flow.exchange import CURRENT
from tenantguard.flow.http import (
    Cut,
    Headers,
    Response,
)
from tenantguard.guard import (
    cut_refusal,
)
from tenantguard.model.decision import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tenantguard.guard import Guard

_REASON_BYTES_MAX: Final = 123
"""Of a close's reason: RFC 6455 5.5 gives a control frame 125 bytes, and the code takes two."""

Rewrite: TypeAlias = "Callable[[str | bytes], str | bytes | Cut]"


class WebSocketRun(Run):
    """One WebSocket: the flow runs at connect; completed means closed with 1000 or 1001 and no exception.

    Each message passes the response's frames whole, one after the other. Where one is cut, nothing more passes: the
    client sees a close, the application what it sees of a lost client.
    """

    _ahead: deque[Message] | None = None  # read while the flow waited, and not by the application
    _closed = False  # refused after the application had accepted: what it still sends goes nowhere
    _stop: ResponseCut | None = None  # a message was cut: raised into the application, so that it stops
    _code = 1011  # and what its socket was closed with
    _inbound: Sequence[Rewrite] = ()
    _outbound: Sequence[Rewrite] = ()
    _work = 1
    _taken: Message | None = None  # received, and not handed on yet: a cancelled ``receive`` loses nothing

    def __init__(self, app: ASGIApp, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(app, guard, scope, receive, send)
        self._inward = anyio.Lock(fast_acquire=True)
        self._outward = anyio.Lock(fast_acquire=True)

    async def run(self) -> None:
        """Serve the socket from connect to close."""
        token = CURRENT.set(self.exchange)
        try:
            step = self.advance(self._flow.send, None) or await self.resume()
            if isinstance(step, Response):
                await self._next()  # the connect
                await self._refuse(step)
            else:
                await self._call_app()
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

    async def _call_app(self) -> None:
        try:
            await self.app(self.inner_scope(), self._receive, self._send)
        except Exception as failure:
            if self._stop is None or not stems_from(failure, self._stop):
                raise
        await self._end(None, left=False)

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
        if self._stop is not None:
            raise self._stop
        if self._closed:
            return
        session = self.session
        kind = message["type"]
        if kind == "websocket.send":
            session.received += _frame_length(message)
            if self._outbound:
                async with self._outward:
                    rewritten = await self._through(message, self._outbound)
                if rewritten is None:
                    assert self._stop is not None
                    raise self._stop
                message = rewritten
        elif kind == "websocket.accept":
            await self._accept(message)
            return
        elif kind == "websocket.close":
            message = _with_reason(message, self._outbound)
            await self._end(message.get("code", 1000), left=False)
            self.raise_cancelled()
        elif kind == "websocket.http.response.start":
            await self._deny(message)
            return
        elif kind == "websocket.http.response.body" and session.response is not None:
            message = self._denied(message)
        await self.send(message)
        if kind == "websocket.send":
            session.sent += _frame_length(message)
        elif kind == "websocket.http.response.body":
            session.sent += len(message.get("body", b""))

    async def _head_of(self, message: Message, status: int) -> Response:
        """The application's head, when it has passed the layers, or a response of theirs."""
        if self.session.response is not None or self.session.settled:
            raise RuntimeError("the application started its response twice")
        response = Response(status, Headers(message.get("headers", ())))
        step = self.advance(self._flow.send, response) or await self.resume()
        assert isinstance(step, Response)
        return step

    async def _accept(self, message: Message) -> None:
        step = await self._head_of(message, 101)
        if step.body is None and any(transform.rewrites for transform in step.transforms):
            step = self.exchange.deny(cut_refusal(Reason.RESPONSE_UNREADABLE))  # a body's, which a socket has none of
        if step.body is not None:
            await self._refuse(step)
            return
        if step.frames:
            self._inbound = [frames.inbound for frames in reversed(step.frames)]
            self._outbound = [frames.outbound for frames in step.frames]
            self._work = max(getattr(frames, "work", 1) for frames in step.frames)
        self.session.respond(step)
        await self.send({**message, "headers": step.headers.raw})

    async def _deny(self, message: Message) -> None:
        """The application refuses with a response of its own, which passes the layers as any other."""
        step = await self._head_of(message, message["status"])
        if step.body is not None:
            await self._refuse(step)
            return
        self.session.respond(step)
        await self.send({**message, "status": step.status, "headers": step.headers.raw})

    def _denied(self, message: Message) -> Message:
        session = self.session
        more = message.get("more_body", False)
        out = session.feed(message.get("body", b""), more=more)
        self._closed = session.cut is not None
        return {**message, "body": out, "more_body": more and not self._closed}

    async def _receive(self) -> Message:
        async with self._inward:
            message = self._taken or await self._next()
            if self._stop is None and self._inbound and message["type"] == "websocket.receive":
                self._taken = message
                rewritten = await self._through(message, self._inbound)
                self._taken = None
                message = rewritten or message
        if self._stop is not None:
            return {"type": "websocket.disconnect", "code": self._code, "reason": ""}
        if message["type"] == "websocket.disconnect":
            message = _with_reason(message, self._inbound)
            await self._end(message.get("code", 1005), left=True)
            self.raise_cancelled()
        return message

    async def _through(self, message: Message, rewrites: Sequence[Rewrite]) -> Message | None:
        """What passes in place of a message; None where none may, and the socket is closed."""
        data = _data(message)
        rewrite = partial(_rewritten, data, rewrites)
        if len(data) * self._work > COMPUTE_IN_PLACE_BYTES:
            new = await self._undisturbed(anyio.to_thread.run_sync(rewrite, limiter=workers()))
            self.raise_cancelled()
        else:
            new = rewrite()
        if self._stop is not None:  # cut meanwhile, on its other way
            return None
        if isinstance(new, Cut):
            await self._cut(new)
            return None
        others = {name: value for name, value in message.items() if name not in {"text", "bytes"}}
        return {**others, "text" if isinstance(new, str) else "bytes": new}

    async def _cut(self, cut: Cut) -> None:
        """Nothing passes any more, in either direction."""
        self._stop = ResponseCut(cut.reason)
        self._code = cut.code
        self.session.cut = cut
        await self._end(None, left=False)
        with suppress(OSError):  # the client has left
            await self.send({"type": "websocket.close", "code": cut.code, "reason": ""})
        self.raise_cancelled()


def _rewritten(data: str | bytes, rewrites: Sequence[Rewrite]) -> str | bytes | Cut:
    try:
        for rewrite in rewrites:
            new = rewrite(data)
            if isinstance(new, Cut):
                return new
            data = new
    except Exception as failure:  # noqa: BLE001 - whatever it raises, nothing raw may pass
        return Cut(f"frames.{type(failure).__name__}")
    return data


def _with_reason(message: Message, rewrites: Sequence[Rewrite]) -> Message:
    """A closing message; its reason is a text as well, and is left out where it cannot pass or is too long then."""
    reason = message.get("reason")
    if not rewrites or not reason:
        return message
    new = _rewritten(reason, rewrites)
    fits = isinstance(new, str) and len(new.encode()) <= _REASON_BYTES_MAX
    return {**message, "reason": new if fits else ""}


def _data(message: Message) -> str | bytes:
    data: bytes | None = message.get("bytes")
    return bytes(data) if data is not None else message.get("text") or ""


def _frame_length(message: Message) -> int:
    data = _data(message)
    return len(data.encode()) if isinstance(data, str) else len(data)
