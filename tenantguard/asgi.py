"""The event-loop driver: runs flows around an ASGI application on asyncio and trio.

A flow is resumed from inside the application's own ``send``, so a layer costs no task, queue or thread.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from tenantguard.errors import ClientLeftError, LayerError, PortError, PortTimeout, ResponseCut
from tenantguard.flow.effects import Ask, CallApp, Compute, Promise, ReadBody
from tenantguard.flow.exchange import CURRENT, Exchange
from tenantguard.flow.http import (
    Body,
    Headers,
    Request,
    Response,
    Unreadable,
    declared_length,
    describe_body,
    length_mismatch,
    too_large,
)
from tenantguard.flow.ports import PortEffect
from tenantguard.flow.session import Session
from tenantguard.guard import (
    COMPUTE_IN_PLACE_BYTES,
    Guard,
    cut_refusal,
    describe_failure,
    log,
    resolve_guard,
    settle_refusal,
    store_refusal,
)
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import OnDisconnect, Success

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.layer import Layer

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE_KEY: Final = "tenantguard"
"""Where the exchange travels in ``scope["state"]`` (``request.state.tenantguard`` in Starlette)."""

_BODY: Final = "http.response.body"
_BYPASSES: Final = ("http.response.pathsend", "http.response.zerocopysend")
_DISCONNECT: Final = "http.disconnect"

_PEEK_ROUNDS: Final = 2
"""Rounds of the loop in which a message that is there is given: one for the task, one for a checkpoint of its own."""

T = TypeVar("T")


class ASGIGuard:
    """A guard as ASGI middleware: ``Middleware(ASGIGuard, guard=guard)`` or ``Middleware(ASGIGuard, layers=[...])``.

    ``lifespan`` passes through; the guard's ports are closed when it ends, and nothing depends on it.
    """

    def __init__(self, app: App, *, guard: Guard | None = None, layers: Iterable[Layer] | None = None) -> None:
        self.app = app
        self.guard = resolve_guard(guard, layers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        kind = scope["type"]
        if kind == "http":
            await _HTTPRun(self, scope, receive, send).run()
        elif kind == "websocket":
            await _WebSocketRun(self, scope, receive, send).run()
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


# --- waiting for other threads ---


class _Mailbox:
    """Wakes one event loop once for all promises that are kept together."""

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox]] = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._kept: deque[asyncio.Future[bool]] = deque()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Mailbox:
        mailbox = cls._of_loop.get(loop)
        if mailbox is None:
            mailbox = cls._of_loop[loop] = cls(loop)
        return mailbox

    def post(self, future: asyncio.Future[bool]) -> Callable[[], None]:
        self._kept.append(future)
        return self._ring

    def _ring(self) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # that loop has closed; nobody waits there any more
            self._kept.clear()

    def _deliver(self) -> None:
        while self._kept:
            _wake(self._kept.popleft(), kept=True)


def _wake(future: asyncio.Future[bool], *, kept: bool) -> None:
    if not future.done():
        future.set_result(kept)


async def _kept(promise: Promise[Any]) -> bool:
    """Wait until ``promise`` is kept; False at its deadline."""
    if promise.wait(0):
        return True
    if _library() == "trio":
        return await _kept_trio(promise)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    promise.then(partial(_Mailbox.of(loop).post, future))
    deadline = loop.call_later(promise.deadline_s, partial(_wake, future, kept=False))
    try:
        return await future
    finally:
        deadline.cancel()


async def _kept_trio(promise: Promise[Any]) -> bool:
    import trio  # noqa: PLC0415 - only where trio already runs the application

    event = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def keep() -> None:
        try:
            token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            return

    promise.then(keep)
    with trio.move_on_after(promise.deadline_s) as scope:
        await event.wait()
    return not scope.cancelled_caught


def _library() -> str:
    """``asyncio`` or ``trio``; asking asyncio itself is ten times cheaper than sniffing."""
    return "asyncio" if asyncio._get_running_loop() is not None else "trio"  # noqa: SLF001 - its cheap public twin raises


# --- one exchange ---


class _Run:
    """What HTTP and WebSocket runs share: advancing the flow, and ending it exactly once."""

    # Defaults stand on the class: an exchange pays for the fields that it changes.
    _cancelled: BaseException | None = None  # came while resolvers or observers ran, and is raised after them
    _settled_event: anyio.Event | None = None
    _observed = False

    def __init__(self, owner: ASGIGuard, scope: Scope, receive: Receive, send: Send) -> None:
        guard = owner.guard
        self.app = owner.app
        self.guard = guard
        self.scope = scope
        self.receive = receive
        self.send = send
        state = scope.get("state")
        client = scope.get("client")
        method = scope.get("method", "GET")
        self.exchange = Exchange(
            Request(
                method,
                scope["path"],
                headers=Headers(scope["headers"]),
                query=scope.get("query_string", b""),
                client=client[0] if client else None,
                protocol=scope["type"],
            ),
            guard.ports.system,
            route=guard.routes.find(method, scope["path"]),
            outer=state.get(STATE_KEY) if state is not None else None,
        )
        self.session = Session(self.exchange)
        self._flow: Flow[Response] = guard.handler(self.exchange)

    def inner_scope(self) -> Scope:
        """The application's scope: its own copy, with the exchange in its state and no way around the guard."""
        scope = dict(self.scope)
        state = scope.get("state")
        if state is None:
            state = scope["state"] = {}
        state[STATE_KEY] = self.exchange
        extensions = scope.get("extensions")
        if extensions and self.guard.layers and any(name in extensions for name in _BYPASSES):
            scope["extensions"] = {name: value for name, value in extensions.items() if name not in _BYPASSES}
        headers = self.exchange.request.headers.raw
        if headers is not scope["headers"]:
            scope["headers"] = headers
        return scope

    def leave(self) -> None:
        """Back out: between two guards, the state names the outer one's exchange again."""
        outer = self.exchange.outer
        if outer is not None:
            self.scope["state"][STATE_KEY] = outer

    async def advance(self, answer: Response | Exception | None) -> CallApp | Response:
        """Run the flow until it calls the application or returns its response; a failed port becomes a refusal."""
        flow = self._flow
        session = self.session
        try:
            effect = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
            while session.called or not isinstance(effect, CallApp):
                try:
                    value = await self.answer(effect)
                except Exception as failure:  # noqa: BLE001 - the layer decides what a failure means
                    effect = flow.throw(failure)
                else:
                    effect = flow.send(value)
        except StopIteration as stop:
            if not isinstance(stop.value, Response):
                raise LayerError("a layer's handle must return a Response") from None
            return stop.value
        except PortError as failure:
            if failure is answer:  # the application's own
                raise
            return self.exchange.deny(store_refusal(failure))
        session.call()
        return effect

    async def answer(self, effect: Effect[Any]) -> Any:
        """Answer one effect."""
        if isinstance(effect, PortEffect):
            answer = effect.perform(self.guard.ports)
            if isinstance(answer, Promise):
                if not await _kept(answer):
                    raise PortTimeout(answer.port, answer.deadline_s)
                return answer.result()
            return await answer if isawaitable(answer) else answer
        if isinstance(effect, ReadBody):
            return await self.read_body(effect.limit)
        if isinstance(effect, Compute):
            if effect.size <= COMPUTE_IN_PLACE_BYTES:
                return effect.call()
            return await anyio.to_thread.run_sync(effect.call)
        if isinstance(effect, Ask):
            if effect.inline or iscoroutinefunction(effect.call):
                answer = effect.call()
            else:
                (answer,) = await anyio.to_thread.run_sync(lambda: (effect.call(),))  # trio refuses a bare awaitable
            return await answer if isawaitable(answer) else answer
        if isinstance(effect, CallApp):
            self.session.call()  # says what is wrong with a second one
        raise LayerError(f"a layer yielded {type(effect).__name__}, which is no effect")

    async def read_body(self, limit: int) -> Body | Unreadable:
        """Read the request's body; only HTTP requests have one."""
        del limit
        return Body(b"")

    async def settle(self, outcome: Outcome) -> bool:
        """End everything taken, innermost first. False where money could not be ended and ``strict`` said so.

        Who comes second waits until that is done. A cancellation that comes meanwhile waits for ``raise_cancelled``.
        """
        session = self.session
        if session.settled:
            if self._settled_event is not None and not self._settled_event.is_set():
                await self._undisturbed(self._settled_event.wait())
            return True
        session.settle(outcome)
        if not self.exchange.resolvers and self._settled_event is None:
            session.finish()
            return True
        if self._settled_event is None:
            self._settled_event = anyio.Event()
        try:
            sound = await self._shielded(self._resolve(outcome))
        finally:
            session.finish()
            self._settled_event.set()
        return sound

    async def _resolve(self, outcome: Outcome) -> bool:
        sound = True
        resolvers = self.exchange.resolvers
        while resolvers:
            resolver, strict = resolvers.pop()
            try:
                flow = resolver(outcome)
                if flow is not None:
                    await self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - each resolver is isolated from the others
                log.error("a resolver failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))
                sound = sound and not strict
        return sound

    async def observe(self) -> None:
        """Tell the outcome to whoever wants to hear it; once, after the hand-off."""
        if self._observed or self.session.outcome is None:
            return
        self._observed = True
        if self.exchange.observers:
            await self._shielded(self._tell(self.session.final()))

    async def _tell(self, outcome: Outcome) -> None:
        for observer in self.exchange.observers:
            try:
                flow = observer(outcome)
                if flow is not None:
                    await self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - an observer can neither delay nor change the outcome
                log.error("an observer failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))

    async def _drive(self, flow: Flow[None]) -> None:
        """Run the flow of a resolver or observer to its end, whatever cancels us meanwhile."""
        try:
            effect = flow.send(None)
            while True:
                try:
                    value = await self._answer_undisturbed(effect)
                except Exception as failure:  # noqa: BLE001 - the flow decides what a failure means
                    effect = flow.throw(failure)
                else:
                    effect = flow.send(value)
        except StopIteration:
            return

    def close_flow(self) -> None:
        """End the flow where it stands; what its layers took is ended by resolvers, so nothing may stop these."""
        try:
            self._flow.close()
        except Exception as failure:  # noqa: BLE001
            log.error(
                "a layer failed while it was being closed (it must not yield there, but register ends with "
                "exchange.resolve): exchange=%s error=%s",
                self.exchange.id,
                describe_failure(failure),
            )

    # A cancellation must not come between a store and its answer. Under trio a shield does that. Under asyncio a
    # shield stops anyio's scopes but not ``task.cancel()``, so the waits themselves go on; both are remembered, and
    # raised when everything has run. Nothing of this costs anything until a cancellation comes.

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        if _library() == "trio":
            with anyio.CancelScope(shield=True):
                return await work
        return await work

    async def _answer_undisturbed(self, effect: Effect[Any]) -> Any:
        if isinstance(effect, PortEffect):
            answer = effect.perform(self.guard.ports)
            if isinstance(answer, Promise):
                if not await self._kept_undisturbed(answer):
                    raise PortTimeout(answer.port, answer.deadline_s)
                return answer.result()
            return await self._undisturbed(answer) if isawaitable(answer) else answer
        return await self._undisturbed(self.answer(effect))

    async def _kept_undisturbed(self, promise: Promise[Any]) -> bool:
        try:
            return await _kept(promise)
        except asyncio.CancelledError as cancelled:
            self._cancelled = cancelled
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await _kept(promise)
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled

    async def _undisturbed(self, work: Awaitable[T]) -> T:
        """Await ``work`` to its end, in a task of its own under asyncio."""
        if _library() == "trio":
            with anyio.CancelScope(shield=True):
                return await work
        task = asyncio.ensure_future(work)
        while not task.done():
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([task])
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled
        if task.cancelled():
            raise PortError("task", "cancelled by something else before it had answered")
        return task.result()

    def raise_cancelled(self) -> None:
        """Raise the cancellation that came while something had to be done first."""
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise cancelled


class _HTTPRun(_Run):
    """One HTTP exchange."""

    _bare = False  # the head is out and nothing but counting is left to do
    _busy = False  # a message of the application is being handled
    _turn: anyio.Lock | None = None
    _idle: anyio.Event | None = None
    _head: Message | None = None  # held until the first bytes leave
    _closed = False  # what the application still sends goes nowhere
    _stop: Exception | None = None  # raised into the application, so that it stops
    _abort: Exception | None = None  # raised to the server, so that the connection breaks off
    _receiving = 0
    _looking: anyio.Event | None = None  # for the client, at this moment
    _peeked: asyncio.Future[Message] | None = None
    _gone = False  # the client has left
    _draining = False
    _drain_place = False  # among the guard's ``drains_max``
    _drain_ends_ns = 0
    _parked: list[tuple[bytes, Message]] | None = None  # the end of a "returned" response
    _parked_event: anyio.Event | None = None
    _replay: deque[Message] | None = None  # what was received, but not by the application

    async def run(self) -> None:
        """Serve the exchange from its head to its end."""
        token = CURRENT.set(self.exchange)
        try:
            step = await self.advance(None)
            if isinstance(step, Response):
                await self._answer_by_layer(step)
            else:
                await self._call_app()
            await self.observe()
            self.raise_cancelled()
        except GeneratorExit:  # the loop is gone, and nothing can be awaited: what is held expires
            raise
        except BaseException as failure:
            left = isinstance(failure, ClientLeftError) and not self.session.called
            if isinstance(failure, anyio.get_cancelled_exc_class()):
                await self._look_for_client()
            self.close_flow()
            await self.settle(self.session.conclude(error=None if left else failure, left=self._gone))
            await self.observe()
            if isinstance(failure, Exception):
                self.raise_cancelled()
            if not left:
                raise
        finally:
            CURRENT.reset(token)
            self.leave()
            self._give_up_drain()
            if self._peeked is not None:
                self._peeked.cancel()

    # the request's body

    async def read_body(self, limit: int) -> Body | Unreadable:
        """Buffer the request's body once; what was read is replayed to the application either way."""
        request = self.exchange.request
        known = request.body_read
        if not isinstance(known, Body):
            if self.session.called:
                raise LayerError("the application reads the body now: ReadBody belongs before proceed")
            known = request.body_read = await self._buffer_body(limit)
        if isinstance(known, Body) and len(known.data) > limit:
            return too_large(limit)
        return known

    async def _buffer_body(self, limit: int) -> Body | Unreadable:
        declared = declared_length(self.exchange.request.headers)
        if isinstance(declared, Unreadable):
            return declared
        if declared is not None and declared > limit:
            return too_large(limit)
        replay = self._replay = self._replay or deque()
        chunks: list[bytes] = [message.get("body", b"") for message in replay]  # read up to a smaller limit
        read = sum(map(len, chunks))
        more = not replay or replay[-1].get("more_body", False)
        while more and read <= limit:
            message = await self.receive()
            if message["type"] == _DISCONNECT:
                self._gone = True
                raise ClientLeftError("the client left while its body was being read")
            replay.append(message)
            chunk = message.get("body", b"")
            chunks.append(chunk)
            read += len(chunk)
            more = message.get("more_body", False)
        if read > limit:
            return too_large(limit)
        if declared is not None and declared != read:
            return length_mismatch()
        return Body(b"".join(chunks) if len(chunks) > 1 else bytes(chunks[0]))

    # the application

    async def _call_app(self) -> None:
        request = self.exchange.request
        if isinstance(request.body_read, Body):
            self._replay = deque([{"type": "http.request", "body": request.body_read.data, "more_body": False}])
            if request.replaced:
                describe_body(request.headers, len(request.body_read.data))
        scope = self.inner_scope()
        try:
            if self.exchange.route.success is Success.RETURNED:
                await self._call_until_returned(scope)
            else:
                await self.app(scope, self._receive, self._send)
        except Exception as failure:
            if self._stop is None or not _stems_from(failure, self._stop):
                if self.session.response is not None or self.session.settled:
                    raise
                step = await self.advance(failure)
                assert isinstance(step, Response)
                await self._answer_by_layer(step, error=failure)
                return
        await self._app_returned()

    async def _app_returned(self) -> None:
        if self._parked:
            await self._release()
        session = self.session
        if not session.settled:
            self.close_flow()
            await self.settle(session.conclude(error=self._abort, left=await self._client_gone()))
            self.raise_cancelled()
        if self._abort is not None:
            raise self._abort
        if self._head is not None:  # never followed by a body: forwarded so
            head, self._head = self._head, None
            await self._hand_over(head)

    async def _call_until_returned(self, scope: Scope) -> None:
        """Hold the end of the response until the application has returned, at most the guard's bound."""
        failed: BaseException | None = None
        self._parked = []
        self._parked_event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._release_late)
            try:
                await self.app(scope, self._receive, self._send)
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
                for out, message in parked:
                    await self._emit(out, message)
        finally:
            self._rest()

    # messages towards the client

    async def _send(self, message: Message) -> None:
        if self._bare and not self.exchange.resolvers:
            await self._pass(message)
            return
        if self._busy:
            await self._wait_turn()
        self._busy = True
        try:
            if self._stop is not None:
                raise self._stop
            if not self._closed:
                kind = message["type"]
                if kind == _BODY:
                    await self._body(message)
                elif kind == "http.response.start":
                    await self._start(message)
                elif kind in _BYPASSES and self.guard.layers:
                    raise RuntimeError(f"the application sent {kind}, which was not offered to it")
                else:
                    await self._hand_over(message)
        finally:
            self._rest()
        if self._cancelled is not None:
            self.raise_cancelled()

    async def _wait_turn(self) -> None:
        """Frameworks send from several tasks: one message is handled after the other."""
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
        """Nothing rewrites and nothing ends with this response: forward what comes, as it comes."""
        session = self.session
        kind = message["type"]
        if kind == _BODY or kind in _BYPASSES:
            session.count(message.get("body", b""), more=message.get("more_body", False))
        try:
            await self.send(message)
        except OSError:
            self._gone = True
            raise
        if session.end_seen and not session.settled:
            session.settle_bare(left=self._gone)
            await self.observe()
            if self._cancelled is not None:
                self.raise_cancelled()

    async def _start(self, message: Message) -> None:
        session = self.session
        if session.response is not None:
            raise RuntimeError("the application started its response twice")
        raw = message.get("headers", ())
        response = Response(message["status"], Headers(raw))
        try:
            step = await self.advance(response)
        except Exception as failure:
            self._stop = self._abort = failure  # a layer's fault, whatever the application makes of it
            raise
        assert isinstance(step, Response)
        if step.body is not None:
            await self._answer_by_layer(step)
            return
        session.respond(step)
        if step.headers.raw is not raw or step.status != message["status"]:
            message = {**message, "status": step.status, "headers": step.headers.raw}
        if session.holds_head:
            self._head = message
            return
        self._bare = session.bare and self.exchange.route.success is not Success.RETURNED
        await self._hand_over(message)

    async def _body(self, message: Message) -> None:
        session = self.session
        if session.response is None:
            raise RuntimeError("the application sent a body before it started its response")
        given = message.get("body", b"")
        chunk = given if isinstance(given, bytes) else bytes(given)  # frameworks send memoryviews too
        more: bool = message.get("more_body", False)
        if session.rewrites and len(chunk) > COMPUTE_IN_PLACE_BYTES:
            out = await self._undisturbed(anyio.to_thread.run_sync(partial(session.feed, chunk, more=more)))
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
            self._closed = True
            self._stop = ResponseCut("the client left")
            raise self._stop

    async def _settle_held(self) -> bool:
        """Settle at the settling point; where money could not be ended, what is held never leaves."""
        session = self.session
        sound = await self.settle(session.conclude(left=await self._client_gone()))
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
        if not await self.settle(session.conclude(error=error, left=self._gone)):
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
        else:
            response.headers.set("content-length", str(len(body)))
        if self.session.bodiless(response):
            body = b""
        await self._hand_over(
            {"type": "http.response.start", "status": response.status, "headers": response.headers.raw},
        )
        await self._hand_over({"type": _BODY, "body": body, "more_body": False})

    # messages from the client

    async def _receive(self) -> Message:
        while self._looking is not None:  # one reader at a time, or messages would change places
            await self._looking.wait()
        if self._replay:
            return self._replay.popleft()
        if self._draining:
            return await self._parked_disconnect()
        self._receiving += 1
        try:
            if self._peeked is not None:
                peeked, self._peeked = self._peeked, None
                message = await peeked
            else:
                message = await self.receive()
        finally:
            self._receiving -= 1
        if message["type"] == _DISCONNECT and not self.session.settled and self._client_left():
            return await self._parked_disconnect()
        return message

    def _client_left(self) -> bool:
        """The client has gone. True where the application is to finish unheard, so that real usage is charged."""
        self._gone = True
        exchange = self.exchange
        if self.session.settled or exchange.on_disconnect is not OnDisconnect.DRAIN or not exchange.resolvers:
            return False
        if not self._draining and self.guard.start_drain():
            self._draining = self._drain_place = True
            clock = self.guard.ports.system.clock
            self._drain_ends_ns = clock.monotonic_ns() + int(self.guard.drain_s * 1e9)
        return self._draining

    def _drain_left_s(self) -> float:
        return (self._drain_ends_ns - self.guard.ports.system.clock.monotonic_ns()) / 1e9

    async def _end_drain(self) -> None:
        self._give_up_drain()
        await self.settle(self.session.conclude(left=True))
        self.raise_cancelled()

    def _give_up_drain(self) -> None:
        if self._drain_place:
            self._drain_place = False
            self.guard.end_drain()

    async def _parked_disconnect(self) -> Message:
        """While draining, the application hears that the client left only once settled, or at the bound."""
        if not self.session.settled:
            if self._settled_event is None:
                self._settled_event = anyio.Event()
            with anyio.move_on_after(max(0.0, self._drain_left_s())):
                await self._settled_event.wait()
            if not self.session.settled:
                await self._end_drain()
        return {"type": _DISCONNECT}

    async def _client_gone(self, rounds: int = _PEEK_ROUNDS) -> bool:
        """Look for the client at the settling point; what was read is replayed."""
        if self._gone or self._receiving or self.exchange.on_disconnect is None or not self.exchange.resolvers:
            return self._gone
        if self._head is not None and self.exchange.request.headers.get("expect") is not None:
            return False  # reading would tell a client that waits with its body to send it
        if self._looking is not None:
            await self._looking.wait()
            return self._gone
        self._looking = anyio.Event()
        try:
            await self._look(rounds)
        finally:
            self._looking.set()
            self._looking = None
        return self._gone

    async def _look(self, rounds: int) -> None:
        for _ in range(2):  # the end of a body that nobody read may stand before the disconnect
            message = await self._peek(rounds)
            if message is None:
                return
            if self._replay is None:
                self._replay = deque()
            self._replay.append(message)
            if message["type"] == _DISCONNECT:
                self._gone = True
            if self._gone or message.get("more_body", False):
                return

    async def _look_for_client(self) -> None:
        """Middleware further out cancels what runs in it when its client leaves: then that is why."""
        try:
            with anyio.CancelScope(shield=True):
                await self._client_gone(5 * _PEEK_ROUNDS)  # that middleware hands messages on by tasks of its own
        except asyncio.CancelledError:
            return

    async def _peek(self, rounds: int) -> Message | None:
        if _library() == "trio":
            found: list[Message] = []

            async def read() -> None:
                found.append(await self.receive())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for _ in range(rounds + 1):  # trio runs the tasks of one round in random order
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            return found[0] if found else None
        if self._peeked is None:
            self._peeked = asyncio.ensure_future(self.receive())
        for _ in range(rounds):
            await asyncio.sleep(0)
            if self._peeked.done():
                peeked, self._peeked = self._peeked, None
                return peeked.result()
        return None


def _stems_from(failure: BaseException, origin: BaseException) -> bool:
    """Whether ``failure`` is ``origin``, or what an application made of it: another exception, or a group."""
    left: list[BaseException | None] = [failure]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is origin:
            return True
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return False


class _WebSocketRun(_Run):
    """One WebSocket: the flow runs at connect; completed means closed with 1000 or 1001 and no exception."""

    _closed = False  # refused after the application had accepted: what it still sends goes nowhere

    async def run(self) -> None:
        """Serve the socket from connect to close."""
        token = CURRENT.set(self.exchange)
        try:
            step = await self.advance(None)
            if isinstance(step, Response):
                await self.receive()  # the connect
                await self._refuse(step)
            else:
                await self.app(self.inner_scope(), self._receive, self._send)
                await self._end(None, left=False)
            await self.observe()
            self.raise_cancelled()
        except BaseException as failure:
            await self._end(None, left=False, error=failure)
            await self.observe()
            if isinstance(failure, Exception):
                self.raise_cancelled()
            raise
        finally:
            CURRENT.reset(token)
            self.leave()

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
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            await self._end(message.get("code", 1005), left=True)
            self.raise_cancelled()
        return message


def _frame_length(message: Message) -> int:
    data = message.get("bytes")
    return len(data) if data is not None else len((message.get("text") or "").encode())
