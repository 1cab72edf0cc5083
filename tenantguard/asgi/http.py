"""One HTTP exchange, from its head to its end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from tenantguard.asgi.client import ClientWatch
from tenantguard.asgi.run import BYPASSES, stems_from
from tenantguard.asgi.waiting import workers
from tenantguard.errors import ClientLeftError, ResponseCut
from tenantguard.flow.effects import COMPUTE_IN_PLACE_BYTES
from tenantguard.flow.exchange import CURRENT
from tenantguard.flow.http import (
    Headers,
    Response,
    describe_body,
)
from tenantguard.flow.session import State
from tenantguard.guard import (
    cut_refusal,
    settle_refusal,
)
from tenantguard.model.route import Success

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message

    from tenantguard.flow.effects import CallApp
    from tenantguard.model.decision import Deny


_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_BODIES: Final = frozenset({_BODY, *BYPASSES})
_TRAILERS: Final = "http.response.trailers"


class HTTPRun(ClientWatch):
    """One HTTP exchange."""

    _bare = False  # the head is out and nothing but counting is left to do
    _busy = False  # a message of the application is being handled
    _turn: anyio.Lock | None = None
    _idle: anyio.Event | None = None
    _closed = False  # what the application still sends goes nowhere
    _stop: Exception | None = None  # raised into the application, so that it stops
    _abort: Exception | None = None  # raised to the server, so that the connection breaks off
    _parked: list[tuple[bytes, Message]] | None = None  # the end of a "returned" response
    _parked_event: anyio.Event | None = None

    async def run(self) -> None:
        """Serve the exchange from its head to its end."""
        exchange, session = self.exchange, self.session
        token = CURRENT.set(exchange)
        try:
            step = self.advance(self._flow.send, None) or await self.resume()
            if isinstance(step, Response):
                await self._answer_by_layer(step)
            else:
                if exchange.request.replaced:
                    self._replace_body()
                try:
                    if exchange.route.success is Success.RETURNED:
                        await self._call_until_returned()
                    else:
                        await self.app(self.inner_scope(), self._receive, self._send)
                except Exception as failure:
                    if not await self._is_answered(failure):
                        raise
                else:
                    if session.state is not State.DONE or session.outcome is not None:  # else it has ended in passing
                        await self._app_returned()
            if session.outcome is not None and not self._observed:
                await self.observe()
            if self._cancelled is not None:
                self.raise_cancelled()
        except GeneratorExit:  # the loop is gone, and nothing can be awaited: what is held expires
            raise
        except BaseException as failure:
            left = isinstance(failure, ClientLeftError) and not session.called
            if isinstance(failure, anyio.get_cancelled_exc_class()):
                await self._look_for_client()
            self.close_flow()
            drained = self._draining and isinstance(failure, Exception)  # else it was stopped
            error = None if left else failure
            await self.settle(session.conclude(error=error, left=self._gone, drained=drained))
            await self.observe()
            if isinstance(failure, Exception):
                self.raise_cancelled()
            if not left:
                raise
        finally:
            CURRENT.reset(token)
            if exchange.outer is not None:
                self.leave()
            if self._drain_place:
                self._give_up_drain()
            if self._peeked is not None:
                self._peeked.cancel()

    # the application

    def _replace_body(self) -> None:
        """The application receives what a layer has put in the body's place, and a head that describes it."""
        request = self.exchange.request
        data = request.body
        self._replay = deque([{"type": "http.request", "body": data, "more_body": False}])
        describe_body(request.headers, len(data))

    async def _is_answered(self, failure: Exception) -> bool:
        """The application has failed: whether a layer answers in its place, or it stopped because it was told to."""
        if self._stop is not None and stems_from(failure, self._stop):
            await self._app_returned()
            return True
        if self.session.response is not None or self.session.settled:
            return False
        self._failed = failure
        step = self.advance(self._flow.throw, failure) or await self.resume()
        assert isinstance(step, Response)
        await self._answer_by_layer(step, error=failure)
        return True

    async def _app_returned(self) -> None:
        if self._parked:
            with suppress(ResponseCut):  # that is for the application, which has returned
                await self._release()
        if self._busy:  # a task of the application's sends still: that message is handled first, and settles
            await self._wait_turn()
        session = self.session
        if not session.settled:
            self.close_flow()
            left = await self._client_gone()
            await self.settle(session.conclude(error=self._abort, left=left, drained=self._draining))
            self.raise_cancelled()
        elif session.state is State.SETTLING:  # in another task of the application's, at the end of a drain
            await self._undisturbed(self.settled_event().wait())
        if self._abort is not None:
            raise self._abort
        if self._head is not None:  # never followed by a body: forwarded so
            head, self._head = self._head, None
            await self._hand_over(head)

    async def _call_until_returned(self) -> None:
        """Hold the end of the response until the application has returned, at most the guard's bound."""
        failed: BaseException | None = None
        self._parked = []
        self._parked_event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._release_late)
            try:
                await self.app(self.inner_scope(), self._receive, self._send)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as failure:  # noqa: BLE001 - raised below: a group would wrap it
                failed = failure
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _release_late(self) -> None:
        assert self._parked_event is not None
        await self._parked_event.wait()
        await anyio.sleep(self.guard.return_wait_s)
        with anyio.CancelScope(shield=True):
            try:
                await self._release()
            except Exception as failure:  # noqa: BLE001 - the application is still running: it hears it from ``send``
                self._stop = self._stop or failure

    async def _release(self) -> None:
        if self._busy:
            await self._wait_turn()
        self._busy = True
        try:
            parked, self._parked = self._parked, None
            if parked and await self._settle_held():
                if self.session.cut is not None:
                    await self._cut(b"")
                for out, message in parked:
                    await self._emit(out, message)
        finally:
            self._rest()

    # messages towards the client

    def _send(self, message: Message) -> Awaitable[None]:
        """Handle a message: at once where nothing has to be waited for, else when its turn has come.

        What nobody rewrites and nobody watches costs no coroutine: the server's own ``send`` is what is awaited.
        """
        kind = message["type"]
        if self._bare and not self.exchange.resolvers:
            if self.exchange.observers:
                return self._pass(message)
            if kind in _BODIES and self.session.count(message.get("body", b""), more=message.get("more_body", False)):
                self.session.settle_bare(left=False)
            return self.send(message)
        if kind == _BODY:
            return self._in_turn(self._body, message)
        if kind != _START:
            return self._in_turn(self._other, message)
        if self._busy or self._closed or self._stop is not None:
            return self._in_turn(self._start, message)
        step = self._meet(message)
        if not isinstance(step, Response) or step.body is not None:
            return self._in_turn(self._answered_head, message, step)
        head = self._lead(message, step)
        if head is None:
            return _nothing()
        if not self._bare:
            return self._in_turn(self._hand_over, head)
        return self._hand_over(head) if self.exchange.observers else self.send(head)

    async def _in_turn(self, handle: Callable[..., Awaitable[None]], *given: Any) -> None:
        """Frameworks send from several tasks: one message is handled after the other."""
        if self._busy:
            await self._wait_turn()
        self._busy = True
        try:
            if self._stop is not None:
                raise self._stop
            if not self._closed:
                await handle(*given)
        finally:
            self._busy = False
            if self._idle is not None:
                self._rest()
        if self._cancelled is not None:
            self.raise_cancelled()

    async def _wait_turn(self) -> None:
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:
            while self._is_busy():
                self._idle = anyio.Event()
                await self._idle.wait()

    def _is_busy(self) -> bool:
        return self._busy

    def _rest(self) -> None:
        self._busy = False
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    async def _pass(self, message: Message) -> None:
        """Nothing rewrites and nothing ends with this response, but it is watched: forward it as it comes."""
        session = self.session
        ends = message["type"] in _BODIES and session.count(
            message.get("body", b""), more=message.get("more_body", False)
        )
        try:
            await self.send(message)
        except OSError:
            self._gone = True
            raise
        if ends and not session.settled:  # nor meanwhile
            session.settle_bare(left=self._gone)
            await self.observe()
            if self._cancelled is not None:
                self.raise_cancelled()

    def _meet(self, message: Message) -> CallApp | Response | None:
        """The application's head meets the layers: what they make of it, None where one of them waits."""
        if self.session.response is not None:
            raise RuntimeError("the application started its response twice")
        response = Response(message["status"], Headers(message.get("headers", ())))
        try:
            return self.advance(self._flow.send, response)
        except Exception as failure:
            self._stop = self._abort = failure  # a layer's fault, whatever the application makes of it
            raise

    def _lead(self, message: Message, response: Response) -> Message | None:
        """The head as it leaves; None where it waits for the first bytes."""
        session = self.session
        session.respond(response)
        if response.headers.raw is not message.get("headers") or response.status != message["status"]:
            message = {**message, "status": response.status, "headers": response.headers.raw}
        if session.holds_head:
            self._head = message
            return None
        self._bare = session.bare and self.exchange.route.success is not Success.RETURNED
        return message

    async def _start(self, message: Message) -> None:
        await self._answered_head(message, self._meet(message))

    async def _answered_head(self, message: Message, step: CallApp | Response | None) -> None:
        if step is None:
            try:
                step = await self.resume()
            except Exception as failure:
                self._stop = self._abort = failure  # as above
                raise
        assert isinstance(step, Response)
        if step.body is not None:
            await self._answer_by_layer(step)
            return
        head = self._lead(message, step)
        if head is not None:
            await self._hand_over(head)

    async def _other(self, message: Message) -> None:
        kind = message["type"]
        if kind in BYPASSES and self.guard.layers:
            raise RuntimeError(f"the application sent {kind}, which was not offered to it")
        if kind == _TRAILERS and self.session.rewrites:
            message = {**message, "headers": []}  # they tell of a body that is another now
        await self._hand_over(message)

    async def _body(self, message: Message) -> None:
        session = self.session
        if session.response is None:
            raise RuntimeError("the application sent a body before it started its response")
        given = message.get("body", b"")
        chunk = given if isinstance(given, bytes) else bytes(given)  # frameworks send memoryviews too
        more: bool = message.get("more_body", False)
        size = len(chunk)
        if session.rewrites and (not more or session.received + size == session.declared):
            size += session.received  # what was held back is searched now
        if session.rewrites and size * session.work > COMPUTE_IN_PLACE_BYTES:
            feed = partial(session.feed, chunk, more=more)
            out = await self._undisturbed(anyio.to_thread.run_sync(feed, limiter=workers()))
            self.raise_cancelled()
        else:
            out = session.feed(chunk, more=more)
        if session.due:
            if self._parked is not None and session.cut is None:
                self._parked.append((out, message))
                assert self._parked_event is not None
                self._parked_event.set()
                return
            if not await self._settle_held():
                return
        if session.cut is not None:
            await self._cut(out)
        elif out or not more or not session.rewrites:
            await self._emit(out, message)
        if self._draining and not session.settled and self._drain_left_s() <= 0:
            await self._end_drain()
            assert self._stop is not None
            raise self._stop

    async def _end_drain(self) -> None:
        """The bound has passed, in the application's ``send`` or ``receive``: what it sends from now on stops it."""
        self._closed = True
        self._stop = self._stop or ResponseCut("the client left")
        await super()._end_drain()

    async def _settle_held(self) -> bool:
        """Settle at the settling point; where money could not be ended, what is held never leaves."""
        session = self.session
        left = self._gone if self._sees_client() else await self._client_gone()
        sound = await self.settle(session.conclude(left=left, drained=self._draining))
        self.raise_cancelled()
        if not sound:
            await self._break_off(settle_refusal())
        return sound

    async def _cut(self, tail: bytes) -> None:
        """End the response here: cleanly where its protocol can say so, else by breaking the connection off."""
        session = self.session
        assert session.cut is not None
        if session.cut.tail and self._head is None:
            self._closed = True
            self._stop = ResponseCut(session.cut.reason)
            await self._hand_over({"type": _BODY, "body": tail, "more_body": False})
            await self.observe()
            raise self._stop
        await self._break_off(cut_refusal(session.cut.reason))

    async def _break_off(self, denial: Deny) -> None:
        self._closed = True
        self._stop = ResponseCut(denial.reason)
        refusal = self.exchange.deny(denial)
        if self._head is not None:
            self._head = None
            self.session.withhold(denial.reason, refusal)
            await self._send_whole(refusal)
        else:
            self.session.withhold(denial.reason, None)
            self._abort = self._stop
        await self.observe()
        raise self._stop

    async def _emit(self, out: bytes, message: Message) -> None:
        head = self._head
        if head is not None:
            self._head = None
            session = self.session
            if session.rewrites and session.end_seen:
                assert session.response is not None
                session.response.headers.set("content-length", str(len(out)))
                head["headers"] = session.response.headers.raw
            await self._hand_over(head)
        if out is not message.get("body", b""):
            message = {**message, "body": out}
        await self._hand_over(message)
        if not message.get("more_body", False):
            await self.observe()

    async def _hand_over(self, message: Message) -> None:
        """Give the server a message; a client that has left is no reason to stop where it is being drained."""
        if self._draining:
            return
        try:
            await self.send(message)
        except OSError:
            if not self._client_left():
                raise
        else:
            self.session.sent += len(message.get("body", b""))

    async def _answer_by_layer(self, response: Response, *, error: Exception | None = None) -> None:
        """A layer answers, and the application, where it was called, goes on unheard.

        What was taken is ended before the answer leaves.
        """
        session = self.session
        self._closed = True
        if not session.refuse(response, error=error):
            assert session.cut is not None
            response = session.response = self.exchange.deny(cut_refusal(session.cut.reason))
        if not await self.settle(session.conclude(error=error, left=self._gone, drained=self._draining)):
            denial = settle_refusal()
            response = self.exchange.deny(denial)
            session.withhold(denial.reason, response)
        self.raise_cancelled()
        await self._send_whole(response)
        await self.observe()

    async def _send_whole(self, response: Response) -> None:
        body = response.body or b""
        if response.status in {204, 304}:
            response.headers.remove("content-length")  # RFC 9110 8.6
        elif (b"content-length", b"%d" % len(body)) not in response.headers.raw:
            response.headers.set("content-length", str(len(body)))
        if self.session.bodiless(response):
            body = b""
        await self._hand_over(
            {"type": _START, "status": response.status, "headers": response.headers.raw},
        )
        await self._hand_over({"type": _BODY, "body": body, "more_body": False})


async def _nothing() -> None:
    """For who awaits a ``send`` that has nothing to send yet."""
