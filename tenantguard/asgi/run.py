"""What HTTP and WebSocket runs share: advancing the flow, and ending the exchange exactly once."""

from __future__ import annotations

import asyncio
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from tenantguard.asgi.waiting import kept, library, workers
from tenantguard.errors import ClientLeftError, LayerError, PortError
from tenantguard.flow.effects import CALL_APP, Ask, CallApp, Compute, Promise, ReadBody
from tenantguard.flow.exchange import Exchange
from tenantguard.flow.http import (
    Body,
    Headers,
    Request,
    Response,
    Unreadable,
)
from tenantguard.flow.session import Session, State
from tenantguard.flow.walk import begin, is_awaited, walk
from tenantguard.guard import (
    Guard,
    describe_failure,
    log,
    store_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.walk import Asked

STATE_KEY: Final = "tenantguard"
"""Where the exchange travels in ``scope["state"]`` (``request.state.tenantguard`` in Starlette)."""

BYPASSES: Final = ("http.response.pathsend", "http.response.zerocopysend")

T = TypeVar("T")


class Run:
    """What HTTP and WebSocket runs share: advancing the flow, and ending it exactly once."""

    # What few exchanges look at stands on the class. What all look at is set: it is found in a quarter of the time.
    _settled_event: anyio.Event | None = None
    _observed = False
    _failed: Exception | None = None  # of the application, thrown into the flow
    _asked: Asked  # by the flow, which waits for it

    def __init__(self, app: ASGIApp, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.app = app
        self.guard = guard
        self.scope = scope
        self.receive = receive
        self.send = send
        # A cancellation that came while resolvers or observers ran, and is raised after them.
        self._cancelled: BaseException | None = None
        self._peeked: asyncio.Future[Message] | None = None  # asked for ahead of the application
        state = scope.get("state")
        client = scope.get("client")
        method = scope.get("method", "GET")
        path = scope["path"]
        request = Request(  # by position, which costs a third of names
            method,
            path,
            Headers(scope["headers"]),
            scope.get("query_string", b""),
            client[0] if client else None,
            scope["type"],
            scope.get("raw_path"),
        )
        outer = state.get(STATE_KEY) if state else None
        self.exchange = Exchange(request, guard.ports.system, guard.routes.find(method, path), outer)
        self.session = Session(self.exchange)
        self._flow: Flow[Response] = guard.handler(self.exchange)
        if guard.ports.alerts is not None:
            guard.ports.alerts.start()

    def inner_scope(self) -> Scope:
        """The application's scope: its own copy, with the exchange in its state and no way around the guard."""
        scope = dict(self.scope)
        state = scope.get("state")
        if state is None:
            state = scope["state"] = {}
        state[STATE_KEY] = self.exchange
        extensions = scope.get("extensions")
        if extensions and self.guard.layers and any(name in extensions for name in BYPASSES):
            scope["extensions"] = {name: value for name, value in extensions.items() if name not in BYPASSES}
        request = self.exchange.request
        headers = request.headers.raw
        if headers is not scope["headers"]:
            scope["headers"] = headers
        if request.path != scope["path"]:
            scope["path"] = request.path
            scope["raw_path"] = request.raw_path if request.raw_path is not None else quote(request.path).encode()
        if request.query != scope.get("query_string", b""):
            scope["query_string"] = request.query
        return scope

    def leave(self) -> None:
        """Back out: between two guards, the state names the outer one's exchange again."""
        outer = self.exchange.outer
        if outer is not None:
            self.scope["state"][STATE_KEY] = outer

    def advance(self, resume: Callable[[Any], Effect[Any]], answer: object) -> CallApp | Response | None:
        """Run the flow until it calls the application or returns its response; a failed port becomes a refusal.

        ``resume`` is the flow's ``send`` or ``throw``. None where something has to be waited for: :meth:`resume` does
        that, and goes on. Most flows never wait, and a coroutine for each step would cost more than the step.
        """
        session = self.session
        try:
            effect = resume(answer)
            asked = effect if effect is CALL_APP else walk(self._flow, effect, self.guard.ports)
        except StopIteration as stop:
            if not isinstance(stop.value, Response):
                raise LayerError("a layer's handle must return a Response") from None
            return stop.value
        except PortError as failure:
            if failure is self._failed:
                raise
            return self.exchange.deny(store_refusal(failure))
        if isinstance(asked, CallApp) and not session.called:
            session.call()
            return asked
        self._asked = asked
        return None

    async def resume(self) -> CallApp | Response:
        """Wait for what the flow asks, and go on, until it calls the application or returns its response."""
        step = None
        while step is None:
            try:
                answer = await self.answer(self._asked)
            except Exception as failure:  # noqa: BLE001 - the layer decides what a failure means
                step = self.advance(self._flow.throw, failure)
            else:
                step = self.advance(self._flow.send, answer)
        return step

    async def answered(self, answer: Promise[T] | Awaitable[T]) -> T:
        """Wait for what a port answers later; for a turn in a queue only as long as the client does."""
        if not isinstance(answer, Promise):
            return await answer
        while True:
            must_queue = answer.patient and not answer.wait(0)
            is_kept = await (self._kept_patiently(answer) if must_queue else kept(answer))
            given = answer.result() if is_kept else answer.late()
            if not isinstance(given, Promise):
                return given
            answer = given

    async def _kept_patiently(self, promise: Promise[Any]) -> bool:
        """Wait until a promise is kept, False at its deadline; :class:`ClientLeftError` if the client leaves."""
        is_kept = has_left = False
        failed: Exception | None = None

        async def watch() -> None:
            nonlocal has_left, failed
            try:
                has_left = await self.client_left()
            except Exception as failure:  # noqa: BLE001 - raised below: a group would wrap it
                failed = failure
            if has_left or failed is not None:
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            is_kept = await kept(promise)
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed
        if has_left:
            raise ClientLeftError("the client left while its request waited for its turn")
        return is_kept

    async def client_left(self) -> bool:
        """Wait until the client has left; False where that cannot be seen. What is read meanwhile is replayed."""
        return False

    async def read_ahead(self) -> Message:
        """The client's next message; a cancellation loses none."""
        if library() == "trio":
            return await self.receive()
        if self._peeked is None:
            self._peeked = asyncio.ensure_future(self.receive())
        await asyncio.wait([self._peeked])
        return await self.next_message()

    async def next_message(self) -> Message:
        """The client's next message, which may have been asked for already."""
        if self._peeked is None:
            return await self.receive()
        peeked, self._peeked = self._peeked, None
        return await peeked

    def answer(self, asked: Asked) -> Awaitable[Any]:
        """Answer what :func:`walk` could not: an effect that no port answers, or what a port answers later."""
        if isinstance(asked, ReadBody):
            return self.read_body(asked.limit)
        return self.answered(asked) if is_awaited(asked) else self._answer_effect(asked)

    async def _answer_effect(self, effect: object) -> Any:
        if isinstance(effect, Compute):
            return await anyio.to_thread.run_sync(effect.call, limiter=workers())
        if isinstance(effect, Ask):
            if effect.inline or iscoroutinefunction(effect.call):
                answer = effect.call()
            else:
                (answer,) = await anyio.to_thread.run_sync(lambda: (effect.call(),))  # trio refuses a bare awaitable
            return await _answered(answer) if is_awaited(answer) else answer
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
            if session.state is State.SETTLING:
                await self._undisturbed(self.settled_event().wait())
            return True
        session.settle(outcome)
        try:
            return not self.exchange.resolvers or await self._shielded(self._resolve(outcome))
        finally:
            session.finish()
            if self._settled_event is not None:
                self._settled_event.set()

    def settled_event(self) -> anyio.Event:
        """Set once the exchange has settled; made for the first who waits for that."""
        if self._settled_event is None:
            self._settled_event = anyio.Event()
        return self._settled_event

    async def _resolve(self, outcome: Outcome) -> bool:
        sound = True
        resolvers = self.exchange.resolvers
        while resolvers:
            resolver, strict = resolvers.pop()
            try:
                flow = resolver(outcome)
                if flow is not None and (asked := begin(flow, self.guard.ports)) is not None:
                    await self._finish(flow, asked)
            except Exception as failure:  # noqa: BLE001 - each resolver is isolated from the others
                log.error("a resolver failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))
                sound = sound and not strict
        return sound

    async def observe(self) -> None:
        """Tell the outcome to whoever wants to hear it; once, after the hand-off.

        Each is let go of: it refers back to the exchange, which then needs no garbage collector.
        """
        if self._observed or self.session.outcome is None:
            return
        self._observed = True
        if not self.exchange.observers:
            return
        outcome = self.session.final()
        observers, self.exchange.observers = self.exchange.observers, []
        for observer in observers:
            try:
                flow = observer(outcome)
                if flow is not None and (asked := begin(flow, self.guard.ports)) is not None:
                    await self._shielded(self._finish(flow, asked))
            except Exception as failure:  # noqa: BLE001 - an observer can neither delay nor change the outcome
                log.error("an observer failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))

    async def _finish(self, flow: Flow[None], asked: Asked) -> None:
        """Run the flow of a resolver or observer, which has asked that, to its end, whatever cancels us meanwhile."""
        ports = self.guard.ports
        try:
            while True:
                try:
                    if is_awaited(asked):
                        answer = await self._answered_undisturbed(asked)
                    else:
                        answer = await self._undisturbed(self.answer(asked))
                except Exception as failure:  # noqa: BLE001 - the flow decides what a failure means
                    asked = walk(flow, flow.throw(failure), ports)
                else:
                    asked = walk(flow, flow.send(answer), ports)
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

    def _shielded(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return _shielded_trio(work) if library() == "trio" else work

    async def _answered_undisturbed(self, answer: Promise[T] | Awaitable[T]) -> T:
        if not isinstance(answer, Promise):
            return await self._undisturbed(answer)
        while True:
            try:
                is_kept = await kept(answer)
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled
                is_kept = await self._kept_undisturbed(answer)
            given = answer.result() if is_kept else answer.late()
            if not isinstance(given, Promise):
                return given
            answer = given

    async def _kept_undisturbed(self, promise: Promise[Any]) -> bool:
        """As :func:`kept`, cancelled already, and maybe once more."""
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await kept(promise)
            except asyncio.CancelledError as cancelled:
                self._cancelled = cancelled

    async def _undisturbed(self, work: Awaitable[T]) -> T:
        """Await ``work`` to its end, in a task of its own under asyncio."""
        if library() == "trio":
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


async def _shielded_trio(work: Coroutine[Any, Any, T]) -> T:
    with anyio.CancelScope(shield=True):
        return await work
    raise AssertionError("nobody cancels this scope")


async def _answered(answer: Promise[T] | Awaitable[T]) -> T:
    if not isinstance(answer, Promise):
        return await answer
    if not answer.wait(0) and not await kept(answer):
        return answer.late()
    return answer.result()


def stems_from(failure: BaseException, origin: BaseException) -> bool:
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
