"""The thread driver: runs flows around a WSGI application (PEP 3333) in the server's own thread.

The application, every ``next`` of its iterable and its ``close`` run in one copied context, so that its context
variables live as long as its response.
"""

from __future__ import annotations

import contextvars
import sys
from collections import deque
from http import HTTPStatus
from inspect import isawaitable
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tenantguard.errors import LayerError, PortError, PortTimeout, ResponseCut
from tenantguard.flow.effects import Ask, CallApp, Compute, PortEffect, Promise, ReadBody
from tenantguard.flow.exchange import CURRENT, Exchange
from tenantguard.flow.http import (
    Body,
    Cut,
    Headers,
    Request,
    Response,
    Unreadable,
    declared_length,
    describe_body,
    length_mismatch,
    too_large,
)
from tenantguard.flow.session import Session
from tenantguard.guard import (
    Guard,
    cut_refusal,
    describe_failure,
    log,
    resolve_guard,
    settle_refusal,
    store_refusal,
)
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import OnDisconnect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.layer import Layer

    Environ: TypeAlias = dict[str, Any]
    StartResponse: TypeAlias = Callable[..., Any]
    App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

ENVIRON_KEY: Final = "tenantguard.exchange"
"""Where the exchange travels in the environ."""

_READ_BYTES: Final = 65_536
_UNPREFIXED: Final = {"CONTENT_TYPE": b"content-type", "CONTENT_LENGTH": b"content-length"}


class WSGIGuard:
    """A guard as WSGI middleware: ``app.wsgi_app = WSGIGuard(app.wsgi_app, guard=guard)``."""

    def __init__(self, app: App, *, guard: Guard | None = None, layers: Iterable[Layer] | None = None) -> None:
        self.app = app
        self.guard = resolve_guard(guard, layers)
        self.guard.refuse_asynchronous()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return _Run(self, environ, start_response).run()


class _Run:
    """One exchange: advances its flow, feeds its session, and ends it exactly once."""

    _started = False  # the server has been given the head
    _head_seen = False  # the application has called start_response
    _observed = False
    _closed = False
    _exhausted = False
    _iterable: Iterable[bytes] = ()
    _iterator: Iterator[bytes] | None = None

    def __init__(self, owner: WSGIGuard, environ: Environ, start_response: StartResponse) -> None:
        guard = owner.guard
        self.app = owner.app
        self.guard = guard
        self.environ = environ
        self.start_response = start_response
        method = environ.get("REQUEST_METHOD", "GET")
        path = _text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")) or "/"
        self._lines = _request_headers(environ)
        self.exchange = Exchange(
            Request(
                method,
                path,
                headers=Headers(self._lines),
                query=environ.get("QUERY_STRING", "").encode("latin-1"),
                client=environ.get("REMOTE_ADDR"),
            ),
            guard.ports.system,
            route=guard.routes.find(method, path),
            outer=environ.get(ENVIRON_KEY),
        )
        self.session = Session(self.exchange)
        self.context = contextvars.copy_context()
        self._flow: Flow[Response] = guard.handler(self.exchange)
        self._ready: deque[bytes] = deque()  # written by the application, or pulled to find its head
        self._status_line = ""
        self._head_lines: list[tuple[str, str]] = []
        self._raw: list[tuple[bytes, bytes]] = []

    def run(self) -> Iterable[bytes]:
        """Serve the exchange up to the head; the rest happens while the server iterates."""
        self.context.run(CURRENT.set, self.exchange)
        try:
            try:
                step = self.advance(None)
            except PortError as failure:
                step = self.exchange.deny(store_refusal(failure))
            if isinstance(step, Response):
                self.session.refuse(step)
                self.settle(self.session.conclude())
                return self._whole(step)
            return self._call_app()
        except BaseException as failure:
            self._fail(failure)
            raise

    # the flow

    def advance(self, answer: Response | BaseException | None) -> CallApp | Response:
        """Run the flow until it calls the application or returns its response."""
        flow = self._flow
        try:
            effect = flow.throw(answer) if isinstance(answer, BaseException) else flow.send(answer)
            while not isinstance(effect, CallApp):
                try:
                    value = self.answer(effect)
                except Exception as failure:  # noqa: BLE001 - the layer decides what a failure means
                    effect = flow.throw(failure)
                else:
                    effect = flow.send(value)
        except StopIteration as stop:
            if not isinstance(stop.value, Response):
                raise LayerError("a layer's handle must return a Response") from None
            return stop.value
        self.session.call()
        return effect

    def answer(self, effect: Effect[Any]) -> Any:
        """Answer one effect, in this thread."""
        if isinstance(effect, PortEffect):
            answer = effect.perform(self.guard.ports)
            if isinstance(answer, Promise):
                if not answer.wait(answer.deadline_s):
                    raise PortTimeout(answer.port, answer.deadline_s)
                return answer.result()
            return _at_once(answer)
        if isinstance(effect, ReadBody):
            return self.read_body(effect.limit)
        if isinstance(effect, Compute):
            return effect.call()
        if isinstance(effect, Ask):
            return _at_once(self.context.run(effect.call))
        raise LayerError(f"a layer yielded {type(effect).__name__}, which is no effect")

    def read_body(self, limit: int) -> Body | Unreadable:
        """Buffer the request's body once; the application reads it again from memory."""
        request = self.exchange.request
        known = request.body_read
        if isinstance(known, Unreadable):
            return known
        if known is None:
            known = request.body_read = self._buffer_body(limit)
        if isinstance(known, Body) and len(known.data) > limit:
            return too_large(limit)
        return known

    def _buffer_body(self, limit: int) -> Body | Unreadable:
        declared = declared_length(self.exchange.request.headers)
        if isinstance(declared, Unreadable):
            return declared
        if declared is not None and declared > limit:
            return too_large(limit)
        stream = self.environ["wsgi.input"]
        if declared is None and not self.environ.get("wsgi.input_terminated"):
            return Body(b"")  # without a length WSGI promises no end to read to
        chunks: list[bytes] = []
        read = 0
        while declared is None or read < declared:
            wanted = _READ_BYTES if declared is None else min(_READ_BYTES, declared - read)
            chunk = stream.read(wanted)
            if not chunk:
                break
            chunks.append(chunk)
            read += len(chunk)
            if read > limit:
                return too_large(limit)
        if declared is not None and read != declared:
            return length_mismatch()
        return Body(b"".join(chunks))

    def settle(self, outcome: Outcome) -> bool:
        """End everything taken, innermost first. False where money could not be ended and ``strict`` said so."""
        session = self.session
        if session.settled:
            return True
        session.settle(outcome)
        sound = True
        resolvers, self.exchange.resolvers = self.exchange.resolvers, []
        for resolver, strict in reversed(resolvers):
            try:
                flow = resolver(outcome)
                if flow is not None:
                    self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - each resolver is isolated from the others
                log.error("a resolver failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))
                sound = sound and not strict
        session.finish()
        return sound

    def _drive(self, flow: Flow[None]) -> None:
        try:
            effect = flow.send(None)
            while True:
                try:
                    value = self.answer(effect)
                except Exception as failure:  # noqa: BLE001 - the resolver decides what a failure means
                    effect = flow.throw(failure)
                else:
                    effect = flow.send(value)
        except StopIteration:
            return

    def observe(self) -> None:
        """Tell the outcome to whoever wants to hear it; once, after the hand-off."""
        outcome = self.session.outcome
        if self._observed or outcome is None:
            return
        self._observed = True
        for observer in self.exchange.observers:
            try:
                flow = observer(outcome)
                if flow is not None:
                    self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - an observer can neither delay nor change the outcome
                log.error("an observer failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))

    def _fail(self, failure: BaseException) -> None:
        self._close_flow()
        self.settle(self.session.conclude(error=failure))
        self._close_app()
        self.observe()

    def _close_flow(self) -> None:
        try:
            self._flow.close()
        except RuntimeError:
            log.error("a layer yields while it is being closed: register ends with exchange.resolve instead")

    # the application

    def _inner_environ(self) -> Environ:
        request = self.exchange.request
        environ = dict(self.environ)
        environ[ENVIRON_KEY] = self.exchange
        if self.guard.layers:
            environ.pop("wsgi.file_wrapper", None)
        if isinstance(request.body_read, Body):
            environ["wsgi.input"] = BytesIO(request.body_read.data)
            environ["wsgi.input_terminated"] = True
            if request.replaced:
                describe_body(request.headers, len(request.body_read.data))
        if request.headers.raw is not self._lines:
            for name in [name for name in environ if name.startswith("HTTP_") or name in _UNPREFIXED]:
                del environ[name]
            for key, value in request.headers.raw:
                name = key.decode("latin-1").upper().replace("-", "_")
                environ[name if name in _UNPREFIXED else f"HTTP_{name}"] = value.decode("latin-1")
        return environ

    def _call_app(self) -> Iterable[bytes]:
        try:
            self._iterable = self.context.run(self.app, self._inner_environ(), self._inner_start_response)
            self._iterator = self.context.run(iter, self._iterable)
            while not self._head_seen:
                try:
                    self._ready.append(self.context.run(next, self._iterator))
                except StopIteration:
                    self._exhausted = True
                    break
        except Exception as failure:
            if self._head_seen:
                raise
            step = self.advance(failure)
            assert isinstance(step, Response)
            return self._replace(step, error=failure)
        if not self._head_seen:
            raise AssertionError("the application returned without calling start_response")
        return self._answer_head()

    def _answer_head(self) -> Iterable[bytes]:
        response = Response(int(self._status_line[:3]), Headers(self._raw))
        try:
            step = self.advance(response)
        except PortError as failure:
            step = self.exchange.deny(store_refusal(failure))
        assert isinstance(step, Response)
        if step.body is not None:
            return self._replace(step)
        self.session.respond(step)
        if self.session.bare and isinstance(self._iterable, list | tuple):
            return _SizedBody(self, len(self._iterable))
        return _Body(self)

    def _inner_start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Callable[[bytes], object]:
        if exc_info is not None:
            try:
                if self._started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # as PEP 3333 asks, against a reference cycle
        elif self._head_seen:
            raise AssertionError("the application called start_response twice")
        self._status_line = status
        self._head_lines = headers
        self._raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head_seen = True
        response = self.session.response
        if response is not None:  # an error page instead of the head that the layers saw
            response.status = int(status[:3])
            response.headers = Headers(self._raw)
        return self._ready.append

    def _next_of_app(self) -> bytes | None:
        """The application's next bytes, None at its end."""
        if self._ready:
            return self._ready.popleft()
        if self._exhausted:
            return None
        assert self._iterator is not None
        try:
            chunk: bytes = self.context.run(next, self._iterator)
        except StopIteration:
            self._exhausted = True
            return None
        if self._ready:  # write() was called meanwhile, and comes first
            self._ready.append(chunk)
            return self._ready.popleft()
        return chunk

    # towards the server

    def next_chunk(self) -> bytes:
        """The next bytes for the server; the settling point's only once resolvers have run."""
        if self._closed:
            raise StopIteration
        try:
            return self._next_chunk()
        except StopIteration:
            self.observe()
            raise
        except BaseException as failure:
            self._fail(failure)
            raise

    def _next_chunk(self) -> bytes:
        session = self.session
        while True:
            chunk = self._next_of_app()
            if chunk is None and session.end_seen:
                self._start(b"")
                raise StopIteration
            out = session.feed(chunk or b"", more=chunk is not None)
            if session.due and not self.settle(session.conclude()):
                session.cut = Cut(Reason.SETTLE_FAILED)
                return self._break_off(settle_refusal())
            if session.cut is not None:
                if session.cut.tail and self._started:
                    self._stop_app()
                    session.sent += len(out)
                    return out
                return self._break_off(cut_refusal(session.cut.reason))
            if out or (chunk is not None and not session.transforms):
                self._start(out)
                session.sent += len(out)
                return out

    def _start(self, out: bytes) -> None:
        """Give the server the head, once."""
        if self._started:
            return
        self._started = True
        session = self.session
        response = session.response
        assert response is not None
        if session.rewrites and session.end_seen:
            response.headers.set("content-length", str(len(out)))
        unchanged = response.headers.raw is self._raw
        lines = self._head_lines if unchanged else _response_lines(response.headers)
        same = self._status_line.startswith(str(response.status))
        self.start_response(self._status_line if same else _status_line(response.status), lines)

    def _stop_app(self) -> None:
        self._exhausted = True
        self._ready.clear()
        self.session.end_seen = True
        self._close_app()

    def _break_off(self, denial: Deny) -> bytes:
        self._stop_app()
        refusal = self.exchange.deny(denial)
        if self._started:
            raise ResponseCut(denial.reason)
        self._started = True
        self.start_response(_status_line(refusal.status), _response_lines(refusal.headers))
        body = refusal.body or b""
        self.session.sent += len(body)
        return body

    def _replace(self, response: Response, *, error: Exception | None = None) -> Iterable[bytes]:
        """A layer answers instead of the application."""
        session = self.session
        if error is None:
            last = self.exchange.decisions[-1] if self.exchange.decisions else None
            session.cut = Cut(last.reason if isinstance(last, Deny) else "response.replaced")
        session.refuse(response)
        self.settle(session.conclude(error=error))
        self._stop_app()
        return self._whole(response)

    def _whole(self, response: Response) -> Iterable[bytes]:
        body = response.body or b""
        if response.headers.get("content-length") is None:
            response.headers.set("content-length", str(len(body)))
        self._started = True
        self.start_response(_status_line(response.status), _response_lines(response.headers))
        if self.exchange.request.method == "HEAD":
            body = b""
        self.session.sent += len(body)
        self.session.end_seen = True
        self._exhausted = True
        return _Whole(self, body)

    def close(self) -> None:
        """The server is done: a body not read to its end means that the client has left."""
        if self._closed:
            return
        session = self.session
        try:
            if not session.settled:
                if self.exchange.on_disconnect is OnDisconnect.DRAIN and self.guard.start_drain():
                    try:
                        self._drain()
                    finally:
                        self.guard.end_drain()
                if not session.settled:
                    self.settle(session.conclude(left=True))
        except BaseException as failure:
            self._fail(failure)
            raise
        finally:
            self._closed = True
            try:
                self._close_app()
            finally:
                self.observe()

    def _drain(self) -> None:
        """Let the application finish unheard, so that its real usage is charged."""
        session = self.session
        clock = self.guard.ports.system.clock
        ends_ns = clock.monotonic_ns() + int(self.guard.drain_s * 1e9)
        while not session.settled and clock.monotonic_ns() < ends_ns:
            chunk = self._next_of_app()
            session.feed(chunk or b"", more=chunk is not None)
            if session.due or chunk is None:
                self.settle(session.conclude(left=True))

    def _close_app(self) -> None:
        """Close the application's iterable exactly once."""
        iterable, self._iterable = self._iterable, ()
        close = getattr(iterable, "close", None)
        if close is not None:
            self.context.run(close)


class _Body:
    """The response as the server iterates it."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._run.next_chunk()

    def close(self) -> None:
        """End the exchange, where it has not ended by itself."""
        self._run.close()

    def __del__(self) -> None:
        # A server that drops the iterable without closing it must not keep money held.
        if not sys.is_finalizing():
            self._run.close()


class _SizedBody(_Body):
    """As many chunks as the application's list: servers derive a content-length from a single one."""

    def __init__(self, run: _Run, length: int) -> None:
        super().__init__(run)
        self._length = length

    def __len__(self) -> int:
        return self._length


class _Whole(_Body):
    """A refusal: one chunk, decided already."""

    def __init__(self, run: _Run, body: bytes) -> None:
        super().__init__(run)
        self._body: bytes | None = body

    def __len__(self) -> int:
        return 1

    def __next__(self) -> bytes:
        if self._body is None:
            self._run.observe()
            raise StopIteration
        body, self._body = self._body, None
        return body


def _at_once(answer: Any) -> Any:
    if isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise LayerError("a layer asked async code under WSGI: make it a plain function")
    return answer


def _text(path: str) -> str:
    """PEP 3333 hands bytes over as latin-1 text; paths are UTF-8."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _request_headers(environ: Environ) -> list[tuple[bytes, bytes]]:
    lines = []
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            lines.append((name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
        elif name in _UNPREFIXED and value:
            lines.append((_UNPREFIXED[name], value.encode("latin-1")))
    return lines


def _response_lines(headers: Headers) -> list[tuple[str, str]]:
    return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers.raw]


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
