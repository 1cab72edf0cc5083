"""The thread driver: runs flows around a WSGI application (PEP 3333) in the server's own thread.

The application, every ``next`` of its iterable and its ``close`` run in one copied context, so that its context
variables live as long as its response. What it gives to ``write()`` is buffered until it returns. Layers see its head
when its first bytes are there: until then an error page may take its place, and only one of them leaves.
"""

from __future__ import annotations

import contextvars
import sys
from collections import deque
from collections.abc import Sized
from http import HTTPStatus
from inspect import isawaitable
from io import BufferedReader, BytesIO, RawIOBase
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tenantguard.errors import ClientLeftError, LayerError, PortError, ResponseCut
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
    Guard,
    cut_refusal,
    describe_failure,
    log,
    resolve_guard,
    settle_refusal,
    store_refusal,
)
from tenantguard.model.route import OnDisconnect, Success

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.http import Outcome
    from tenantguard.flow.layer import Layer
    from tenantguard.model.decision import Deny

    Environ: TypeAlias = dict[str, Any]
    StartResponse: TypeAlias = Callable[..., Any]
    App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

ENVIRON_KEY: Final = "tenantguard.exchange"
"""Where the exchange travels in the environ."""

_READ_BYTES: Final = 65_536
_UNPREFIXED: Final = {"CONTENT_TYPE": b"content-type", "CONTENT_LENGTH": b"content-length"}

_TARGETS: Final = (
    "REQUEST_URI", "RAW_URI", "UNENCODED_URL", "DOCUMENT_URI", "SCRIPT_URL", "SCRIPT_URI", "PATH_TRANSLATED",
    "ORIG_PATH_INFO", "ORIG_PATH_TRANSLATED", "REDIRECT_URL", "REDIRECT_QUERY_STRING", "REDIRECT_PATH_INFO",
    "REDIRECT_SCRIPT_URL", "REDIRECT_SCRIPT_URI",
)  # fmt: skip
"""What servers (Apache, nginx, gunicorn, uWSGI, IIS; RFC 3875) add beside PEP 3333: the target as it came."""


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
    _written = False  # and what that returned
    _observed = False
    _closed = False
    _gone = False  # the server closed the response before its end: the client has left
    _draining = False
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
        if guard.ports.alerts is not None:
            guard.ports.alerts.start()
        self._read: list[bytes] = []  # of the request's body
        self._ready: deque[bytes] = deque()  # written by the application, or pulled to find its head
        self._status_line = ""
        self._head_lines: list[tuple[str, str]] = []
        self._raw: list[tuple[bytes, bytes]] = []

    def run(self) -> Iterable[bytes]:
        """Serve the exchange up to the head; the rest happens while the server iterates."""
        self.context.run(CURRENT.set, self.exchange)
        try:
            step = self.advance(None)
            return self._answer_by_layer(step) if isinstance(step, Response) else self._call_app()
        except BaseException as failure:
            self._fail(failure)
            if isinstance(failure, ClientLeftError) and failure.__cause__ is not None:
                raise failure.__cause__ from None  # what the server's own stream said
            raise

    # the flow

    def advance(self, answer: Response | Exception | None) -> CallApp | Response:
        """Run the flow until it calls the application or returns its response; a failed port becomes a refusal."""
        flow = self._flow
        session = self.session
        try:
            effect = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
            while session.called or not isinstance(effect, CallApp):
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
        except PortError as failure:
            if failure is answer:  # the application's own
                raise
            return self.exchange.deny(store_refusal(failure))
        session.call()
        return effect

    def answer(self, effect: Effect[Any]) -> Any:
        """Answer one effect, in this thread."""
        if isinstance(effect, PortEffect):
            answer = effect.perform(self.guard.ports)
            if not isinstance(answer, Promise):
                return _at_once(answer)
            while isinstance(answer, Promise):
                answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
            return answer
        if isinstance(effect, ReadBody):
            return self.read_body(effect.limit)
        if isinstance(effect, Compute):
            return effect.call()
        if isinstance(effect, Ask):
            return _at_once(self.context.run(effect.call))
        if isinstance(effect, CallApp):
            self.session.call()  # says what is wrong with a second one
        raise LayerError(f"a layer yielded {type(effect).__name__}, which is no effect")

    def read_body(self, limit: int) -> Body | Unreadable:
        """Buffer the request's body once; the application reads it again from memory."""
        request = self.exchange.request
        known = request.body_read
        if not isinstance(known, Body):
            if self.session.called:
                raise LayerError("the application reads the body now: ReadBody belongs before proceed")
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
        read = sum(map(len, self._read))  # up to a smaller limit
        while read <= limit and (declared is None or read < declared):
            wanted = _READ_BYTES if declared is None else min(_READ_BYTES, declared - read)
            try:
                chunk = stream.read(wanted)
            except OSError as failure:
                self._gone = True
                raise ClientLeftError("the client left while its body was being read") from failure
            if not chunk:
                break
            self._read.append(chunk)
            read += len(chunk)
        if read > limit:
            return too_large(limit)
        if declared is not None and read != declared:
            return length_mismatch()
        return Body(b"".join(self._read))

    def settle(self, outcome: Outcome) -> bool:
        """End everything taken, innermost first. False where money could not be ended and ``strict`` said so."""
        session = self.session
        if session.settled:
            return True
        session.settle(outcome)
        sound = True
        interrupted: BaseException | None = None
        resolvers = self.exchange.resolvers
        while resolvers:
            resolver, strict = resolvers.pop()
            try:
                flow = resolver(outcome)
                if flow is not None:
                    self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - each resolver is isolated from the others
                log.error("a resolver failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))
                sound = sound and not strict
            except BaseException as failure:  # noqa: BLE001 - a server stops its worker by raising SystemExit
                interrupted = failure
        session.finish()
        if interrupted is not None:
            raise interrupted
        return sound

    def _drive(self, flow: Flow[None]) -> None:
        try:
            effect = flow.send(None)
            while True:
                try:
                    value = self.answer(effect)
                except Exception as failure:  # noqa: BLE001 - the flow decides what a failure means
                    effect = flow.throw(failure)
                else:
                    effect = flow.send(value)
        except StopIteration:
            return

    def observe(self) -> None:
        """Tell the outcome to whoever wants to hear it; once, after the hand-off."""
        if self._observed or self.session.outcome is None:
            return
        self._observed = True
        if not self.exchange.observers:
            return
        outcome = self.session.final()
        for observer in self.exchange.observers:
            try:
                flow = observer(outcome)
                if flow is not None:
                    self._drive(flow)
            except Exception as failure:  # noqa: BLE001 - an observer can neither delay nor change the outcome
                log.error("an observer failed: exchange=%s error=%s", self.exchange.id, describe_failure(failure))

    def _fail(self, failure: BaseException) -> None:
        error = None if isinstance(failure, ClientLeftError) and not self.session.called else failure
        self._close_flow()
        try:
            drained = self._draining and isinstance(failure, Exception)  # else it was stopped
            self.settle(self.session.conclude(error=error, left=self._gone, drained=drained))
        finally:
            self._stop_app()
            self.observe()

    def _close_flow(self) -> None:
        try:
            self._flow.close()
        except Exception as failure:  # noqa: BLE001 - what its layers took is ended by resolvers: nothing may stop these
            log.error(
                "a layer failed while it was being closed (it must not yield there, but register ends with "
                "exchange.resolve): exchange=%s error=%s",
                self.exchange.id,
                describe_failure(failure),
            )

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
        elif self._read:
            declared = declared_length(Headers(self._lines))
            bound = declared if isinstance(declared, int) else None
            environ["wsgi.input"] = BufferedReader(_Rejoined(b"".join(self._read), environ["wsgi.input"], bound))
        if request.headers.raw is not self._lines:
            _write_headers(environ, request.headers)
        _write_target(environ, request)
        return environ

    def _call_app(self) -> Iterable[bytes]:
        """Call the application up to its first bytes: until then an error page may take the place of its head."""
        try:
            self._iterable = self.context.run(self.app, self._inner_environ(), self._inner_start_response)
            self._iterator = self.context.run(iter, self._iterable)
            while not (self._head_seen and any(self._ready)):
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
            return self._answer_by_layer(step, error=failure)
        if not self._head_seen:
            raise AssertionError("the application returned without calling start_response")
        return self._answer_head()

    def _answer_head(self) -> Iterable[bytes]:
        step = self.advance(Response(int(self._status_line[:3]), Headers(self._raw)))
        assert isinstance(step, Response)
        if step.body is not None:
            return self._answer_by_layer(step)
        session = self.session
        session.respond(step)
        if not session.holds_head:
            self._start()
        if not session.transforms and isinstance(self._iterable, Sized) and not self._written:
            return _SizedBody(self, len(self._iterable))
        return _Body(self)

    def _inner_start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Callable[[bytes], object]:
        if exc_info is None:
            if self._head_seen:
                raise AssertionError("the application called start_response twice")
        elif self.session.response is not None or any(self._ready):
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # as PEP 3333 asks, against a reference cycle
        self._status_line = status
        self._head_lines = headers
        self._raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head_seen = True
        return self._write

    def _write(self, data: bytes) -> None:
        self._written = True
        self._ready.append(data)

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
            return self._ready.popleft() if self._ready else None
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
                self._start()
                raise StopIteration
            out = session.feed(chunk or b"", more=chunk is not None)
            if session.due:
                if session.cut is None and self.exchange.route.success is Success.RETURNED:
                    out += self._rest_of_app()
                if session.cut is None and not session.rewrites and not self.exchange.resolvers:
                    session.settle_bare(left=False)
                elif not self.settle(session.conclude()):
                    return self._break_off(settle_refusal())
            if session.cut is not None:
                return self._cut(out)
            if out or (chunk is not None and not session.rewrites):
                self._start(out)
                session.sent += len(out)
                return out

    def _rest_of_app(self) -> bytes:
        """What an application gives beyond its declared length, until it has returned."""
        rest = bytearray()
        while (chunk := self._next_of_app()) is not None:
            rest += self.session.feed(chunk, more=True)
        return bytes(rest)

    def _cut(self, tail: bytes) -> bytes:
        """End the response here: cleanly where its protocol can say so, else by breaking the connection off."""
        session = self.session
        assert session.cut is not None
        if not session.cut.tail or not self._started:
            return self._break_off(cut_refusal(session.cut.reason))
        self._stop_app()
        session.sent += len(tail)
        return tail

    def _head(self) -> tuple[str, list[tuple[str, str]]]:
        response = self.session.response
        assert response is not None
        lines = self._head_lines if response.headers.raw is self._raw else _response_lines(response.headers)
        same = self._status_line.startswith(str(response.status))
        return self._status_line if same else _status_line(response.status), lines

    def _start(self, out: bytes = b"") -> None:
        """Give the server the head, once."""
        if self._started:
            return
        self._started = True
        session = self.session
        if session.rewrites and session.end_seen:
            assert session.response is not None
            session.response.headers.set("content-length", str(len(out)))
        self.start_response(*self._head())

    def _stop_app(self) -> None:
        """The rest of the application's response is not wanted."""
        self._exhausted = True
        self._ready.clear()
        self.session.end_seen = True
        try:
            self._close_app()
        except Exception as failure:  # noqa: BLE001 - the response has ended otherwise already
            log.error(
                "an application failed while it was being closed: exchange=%s error=%s",
                self.exchange.id,
                describe_failure(failure),
            )

    def _break_off(self, denial: Deny) -> bytes:
        self._stop_app()
        refusal = self.exchange.deny(denial)
        if self._started:
            self.session.withhold(denial.reason, None)
            raise ResponseCut(denial.reason)
        self.session.withhold(denial.reason, refusal)
        return self._start_whole(refusal)

    def _answer_by_layer(self, response: Response, *, error: Exception | None = None) -> Iterable[bytes]:
        """A layer answers, and the application, where it was called, is closed.

        What was taken is ended before the answer leaves.
        """
        session = self.session
        if not session.refuse(response, error=error):
            assert session.cut is not None
            response = session.response = self.exchange.deny(cut_refusal(session.cut.reason))
        if not self.settle(session.conclude(error=error)):
            denial = settle_refusal()
            response = self.exchange.deny(denial)
            session.withhold(denial.reason, response)
        self._stop_app()
        return _Whole(self, self._start_whole(response))

    def _start_whole(self, response: Response) -> bytes:
        body = response.body or b""
        if response.status in {204, 304}:
            response.headers.remove("content-length")  # RFC 9110 8.6
        else:
            response.headers.set("content-length", str(len(body)))
        if self.session.bodiless(response):
            body = b""
        self._started = True
        self.start_response(_status_line(response.status), _response_lines(response.headers))
        self.session.sent += len(body)
        return body

    def close(self) -> None:
        """The server is done: a body not read to its end means that the client has left."""
        if self._closed:
            return
        session = self.session
        try:
            if not session.settled:
                self._gone = True
                drains = self.exchange.on_disconnect is OnDisconnect.DRAIN and self.exchange.resolvers
                if drains and self.guard.start_drain():
                    self._draining = True
                    try:
                        self._drain()
                    finally:
                        self.guard.end_drain()
                self.settle(session.conclude(left=True, drained=session.due))
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
        while not session.due and clock.monotonic_ns() < ends_ns:
            chunk = self._next_of_app()
            session.feed(chunk or b"", more=chunk is not None)

    def _close_app(self) -> None:
        """Close the application's iterable exactly once."""
        iterable, self._iterable = self._iterable, ()
        close = getattr(iterable, "close", None)
        if close is not None:
            self.context.run(close)


class _Rejoined(RawIOBase):
    """What was read of a request's body already, and then the rest of it: ``length`` bytes in all, if known."""

    def __init__(self, read: bytes, rest: Any, length: int | None) -> None:
        self._read = BytesIO(read)
        self._rest = rest
        self._left = length - len(read) if length is not None else None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from memory, then from the server's stream, and never ask that for more than there is."""
        data = self._read.read(len(buffer))
        if not data and self._left != 0:
            data = self._rest.read(len(buffer) if self._left is None else min(len(buffer), self._left))
            if self._left is not None:
                self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


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


def _write_headers(environ: Environ, headers: Headers) -> None:
    """Put changed request headers into the environ; several lines of one name are joined (RFC 9110 5.2, 6265 5.4)."""
    for name in [name for name in environ if name.startswith("HTTP_") or name in _UNPREFIXED]:
        del environ[name]
    for key, value in headers.raw:
        name = key.decode("latin-1").upper().replace("-", "_")
        name = name if name in _UNPREFIXED else f"HTTP_{name}"
        text = value.decode("latin-1")
        if name in environ:
            text = environ[name] + ("; " if name == "HTTP_COOKIE" else ", ") + text
        environ[name] = text


def _write_target(environ: Environ, request: Request) -> None:
    """Put a changed path and query string into the environ, and drop what servers add that says them again."""
    query = request.query.decode("latin-1")
    script = _text(environ.get("SCRIPT_NAME", ""))
    path_changed = request.path != (_text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")) or "/")
    if path_changed:
        mounted = request.path.startswith(script)
        path = request.path[len(script) :] if mounted else request.path
        environ["PATH_INFO"] = path.encode("utf-8", "replace").decode("latin-1")
        if not mounted:
            environ["SCRIPT_NAME"] = ""
    if path_changed or query != environ.get("QUERY_STRING", ""):
        environ["QUERY_STRING"] = query
        for name in _TARGETS:
            environ.pop(name, None)


def _response_lines(headers: Headers) -> list[tuple[str, str]]:
    return [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers.raw]


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
