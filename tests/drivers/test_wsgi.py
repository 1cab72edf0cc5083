"""What only the thread driver has to keep: the many ways in which a WSGI application may answer."""

from __future__ import annotations

import contextvars
import gc
import threading
from io import BytesIO
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from tenantguard.errors import ClientLeftError, ConfigurationError, LayerError, PortTimeout, ResponseCut
from tenantguard.flow.effects import Promise, ReadBody, ask
from tenantguard.flow.exchange import current
from tenantguard.flow.http import Cut
from tenantguard.flow.layer import check
from tenantguard.flow.ports import PortEffect
from tenantguard.guard import Guard
from tenantguard.testing import memory_ports
from tenantguard.wsgi import ENVIRON_KEY, WSGIGuard
from tests.drivers.world import App, AppError, Holding, Till, Watching, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def environ(**fields: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **fields,
    }


class Server:
    """A server's ``start_response``: keeps every head, and what is written."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, list[tuple[str, str]], Any]] = []
        self.written: list[bytes] = []
        self.body_begun = False

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and self.body_begun:
            raise exc_info[1]
        assert exc_info is not None or not self.heads, "start_response was called twice"
        self.heads.append((status, list(headers), exc_info))
        return self.written.append

    def run(self, app: Any, **fields: Any) -> list[bytes]:
        iterable = app(environ(**fields), self.start_response)
        chunks = []
        try:
            for chunk in iterable:
                self.body_begun = self.body_begun or bool(chunk)
                chunks.append(chunk)
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
        return chunks

    @property
    def status(self) -> str:
        return self.heads[-1][0]


def guarded(app: Any, layers: Iterable[Any] = (), *, till: Till | None = None, **options: Any) -> WSGIGuard:
    ports = memory_ports()
    ports.limits = till  # type: ignore[assignment]
    return WSGIGuard(app, guard=Guard(layers, ports=ports, **options))


class Transforming:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def handle(self, exchange: Any, proceed: Any) -> Any:
        response = yield from proceed(exchange)
        response.transforms.append(self._make())
        return response


class Upper:
    rewrites = True

    def feed(self, chunk: bytes) -> bytes | Cut:
        return chunk.upper()

    def finish(self) -> bytes | Cut:
        return b""


class CutAtOnce(Upper):
    def feed(self, chunk: bytes) -> bytes | Cut:
        return Cut("test.cut") if chunk else b""


LAYERS: list[list[Any]] = [[], [Holding()], [Holding(), Transforming(Upper)]]
same_with_any_layers = pytest.mark.parametrize("layers", LAYERS, ids=["none", "holding", "transforming"])


def loud(data: list[bytes], layers: list[Any]) -> list[bytes]:
    return [chunk.upper() for chunk in data] if len(layers) == 2 else data


# --- ways of answering ---


@same_with_any_layers
def test_what_is_written_comes_before_what_is_returned_and_in_order(layers: list[Any]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"one")
        write(b"two")

        def rest() -> Iterator[bytes]:
            write(b"three")
            yield b"four"
            write(b"five")

        return rest()

    till, server = Till(), Server()
    chunks = server.run(guarded(app, layers, till=till))
    assert chunks == loud([b"one", b"two", b"three", b"four", b"five"], layers)
    assert till.endings == (["completed"] if layers else [])


@same_with_any_layers
def test_start_response_may_be_called_when_the_first_chunk_is_asked_for(layers: list[Any]) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Made", [("x-a", "b")])
        yield b"one"
        yield b"two"

    server = Server()
    assert server.run(guarded(app, layers, till=Till())) == loud([b"one", b"two"], layers)
    assert (server.status, server.heads[0][1]) == ("201 Made", [("x-a", "b")])


def test_start_response_may_be_called_only_after_an_empty_chunk() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("200 OK", [])
        yield b"one"

    assert Server().run(guarded(app, [Holding()], till=Till())) == [b"", b"one"]


@pytest.mark.parametrize("answer", [[], (), iter([]), [b""], (x for x in [])])
@same_with_any_layers
def test_an_empty_answer_has_a_head(layers: list[Any], answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", [])
        return answer

    server = Server()
    assert b"".join(server.run(guarded(app, layers, till=Till()))) == b""
    assert server.status == "204 No Content"


@pytest.mark.parametrize("layers", LAYERS[:2], ids=["none", "holding"])
def test_a_list_of_one_keeps_its_length_so_that_servers_can_set_content_length(layers: list[Any]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"one"]

    iterable: Any = guarded(app, layers, till=Till())(environ(), Server().start_response)
    assert len(iterable) == 1
    assert list(iterable) == [b"one"]
    iterable.close()


def test_a_rewritten_list_has_no_length() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"one"]

    iterable: Any = guarded(app, [Transforming(Upper)])(environ(), Server().start_response)
    with pytest.raises(TypeError):
        len(iterable)
    iterable.close()


@pytest.mark.parametrize("layers", LAYERS[:2], ids=["none", "holding"])
def test_a_head_without_a_length_is_given_at_once(layers: list[Any]) -> None:
    """Middleware and servers exist that look for the head before they iterate."""
    server = Server()
    iterable: Any = guarded(App().wsgi, layers, till=Till())(environ(), server.start_response)
    assert server.status == "200 Whatever"
    iterable.close()


def test_a_status_line_that_nobody_changed_is_the_applications_own() -> None:
    server = Server()
    server.run(guarded(App(status=299).wsgi, [Holding()], till=Till()))
    assert server.status == "299 Whatever"


def test_a_changed_status_gets_its_own_phrase() -> None:
    class Changes:
        def __init__(self, status: int) -> None:
            self._status = status

        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            response.status = self._status
            return response

    for status, line in ((503, "503 Service Unavailable"), (599, "599 Unknown")):
        server = Server()
        server.run(guarded(App().wsgi, [Changes(status)]))
        assert server.status == line


@same_with_any_layers
def test_the_guard_obeys_the_protocol_and_lets_the_application_obey_it(layers: list[Any]) -> None:
    """wsgiref's validator stands on both sides."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"one", b"two"]

    server = Server()
    chunks = server.run(
        validator(guarded(validator(app), layers, till=Till())),
        **{"wsgi.errors": Errors(), "wsgi.input": Input(), "REMOTE_ADDR": "127.0.0.1"},
    )
    assert chunks == loud([b"one", b"two"], layers)


class Errors:
    def write(self, data: str) -> None: ...
    def flush(self) -> None: ...
    def writelines(self, lines: Any) -> None: ...


class Input(BytesIO):
    pass


# --- errors of the application ---


def test_an_application_that_answers_without_a_head_is_told_so() -> None:
    till = Till()
    with pytest.raises(AssertionError, match="start_response"):
        Server().run(guarded(lambda environ, start_response: [], [Holding()], till=till))
    assert till.endings == ["failed"]


def test_start_response_called_twice_is_the_applications_fault() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="twice"):
        Server().run(guarded(app))


def test_an_application_that_returns_nothing_fails_as_it_would_alone() -> None:
    till = Till()
    with pytest.raises(TypeError):
        Server().run(guarded(lambda environ, start_response: None, [Holding()], till=till))
    assert till.held == set()


def erring(at: int) -> Any:
    """An application that fails when ``at`` chunks have been given, and shows an error page as PEP 3333 describes."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("content-length", "6"), ("x-page", "good")])
        try:
            for number in range(2):
                if number == at:
                    raise AppError
                yield b"abc"
        except AppError:
            import sys

            start_response("500 Broken", [("content-length", "12"), ("x-page", "error")], sys.exc_info())
            yield b"an error page"[:12]

    return app


@same_with_any_layers
def test_an_error_page_before_the_first_chunk_takes_the_place_of_the_head(layers: list[Any]) -> None:
    till, watching, server = Till(), Watching(), Server()
    chunks = server.run(guarded(erring(0), [watching, *layers], till=till))
    assert chunks == loud([b"an error pag"], layers)
    assert server.status == "500 Broken"
    assert dict(server.heads[-1][1])["content-length"] == "12"
    assert (watching.outcome.ending, watching.outcome.status) == ("failed", 500)
    assert till.held == set()


@same_with_any_layers
def test_an_error_page_after_the_first_chunk_is_the_applications_own_exception(layers: list[Any]) -> None:
    till, watching, server = Till(), Watching(), Server()
    with pytest.raises(AppError):
        server.run(guarded(erring(1), [watching, *layers], till=till))
    assert watching.outcome.ending == "failed"
    assert till.held == set()


def lazily_erring(lengths: tuple[str | None, str | None]) -> Any:
    """The head came when the application was called; the error page when its first chunk was asked for."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-length", lengths[0])] if lengths[0] else [])

        def chunks() -> Iterator[bytes]:
            import sys

            try:
                raise AppError
            except AppError:
                headers = [("content-length", lengths[1])] if lengths[1] else []
                start_response("500 Broken", headers, sys.exc_info())
            yield b"error "
            yield b"page"

        return chunks()

    return app


@pytest.mark.parametrize("lengths", [(None, None), ("4", "10"), ("4", None), (None, "10"), ("100", "10")])
@same_with_any_layers
def test_an_error_page_before_the_first_chunk_is_the_only_head_that_layers_and_server_see(
    layers: list[Any], lengths: tuple[str | None, str | None]
) -> None:
    class Looks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            seen.append(response.status)
            return response

    seen: list[int] = []
    watching, server = Watching(), Server()
    chunks = server.run(guarded(lazily_erring(lengths), [watching, *layers, Looks()], till=Till()))
    assert chunks == loud([b"error ", b"page"], layers)
    assert server.status == "500 Broken"
    length = dict(server.heads[-1][1]).get("content-length")
    assert length == (lengths[1] if len(layers) < 2 else None)
    assert [exc_info for _, _, exc_info in server.heads] == [None]
    assert seen == [500]
    assert (watching.outcome.ending, watching.outcome.status) == ("failed", 500)


def test_an_error_page_after_written_bytes_is_the_applications_own_exception() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        import sys

        start_response("200 OK", [])(b"written")
        try:
            raise AppError
        except AppError:
            start_response("500 Broken", [], sys.exc_info())
        return [b"an error page"]

    with pytest.raises(AppError):
        Server().run(guarded(app, [Holding()], till=Till()))


def test_a_list_beside_written_bytes_has_no_length_that_a_server_could_take_for_all() -> None:
    """Servers give a response whose iterable has one chunk the length of the first bytes that they see."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"written and ")
        return [b"returned"]

    iterable: Any = guarded(app, [Holding()], till=Till())(environ(), Server().start_response)
    assert b"".join(iterable) == b"written and returned"
    assert not hasattr(iterable, "__len__")


def test_what_reading_the_request_raises_is_what_the_server_sees() -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise gone

    class Reads:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                yield from ReadBody(100)
            except ClientLeftError:
                seen.append("left")
                raise
            return (yield from proceed(exchange))

    gone = ConnectionResetError()
    seen: list[str] = []
    till, watching, app = Till(), Watching(), App()
    with pytest.raises(ConnectionResetError) as caught:
        Server().run(
            guarded(app.wsgi, [watching, Holding(), Reads()], till=till),
            **{"wsgi.input": Broken(), "CONTENT_LENGTH": "3", "REQUEST_METHOD": "POST"},
        )
    assert caught.value is gone
    assert (seen, app.calls) == (["left"], 0)
    assert (watching.outcome.ending, watching.outcome.called) == ("left", False)
    assert till.endings == ["left"]


# --- closing ---


@same_with_any_layers
def test_the_applications_iterable_is_closed_once(layers: list[Any]) -> None:
    app = App()
    iterable: Any = guarded(app.wsgi, layers, till=Till())(environ(), Server().start_response)
    list(iterable)
    assert app.closed == 0  # that is the server's to ask for
    iterable.close()
    iterable.close()
    del iterable
    gc.collect()
    assert app.closed == 1


@same_with_any_layers
def test_an_iterable_that_is_dropped_without_close_holds_nothing(layers: list[Any]) -> None:
    """Some servers never call close()."""
    till, watching, app = Till(), Watching(), App()
    iterable: Any = guarded(app.wsgi, [watching, *layers], till=till)(environ(), Server().start_response)
    next(iterable)
    assert len(till.held) == (1 if layers else 0)
    del iterable
    assert till.held == set()
    assert watching.outcome.ending == "left"
    assert app.closed == 1


def test_an_iterable_that_is_never_iterated_holds_nothing() -> None:
    till, app = Till(), App()
    guarded(app.wsgi, [Holding()], till=till)(environ(), Server().start_response)
    assert till.endings == ["left"]
    assert app.closed == 1


def test_settling_waits_for_nothing_that_close_does() -> None:
    till = Till()
    app = App(fails="end")
    server = Server()
    iterable: Any = guarded(app.wsgi, [Holding()], till=till)(environ(), server.start_response)
    list(iterable)
    assert till.endings == ["completed"]
    with pytest.raises(AppError):
        iterable.close()
    assert till.endings == ["completed"]


def test_nothing_is_given_after_close() -> None:
    iterable: Any = guarded(App().wsgi, [Holding()], till=Till())(environ(), Server().start_response)
    next(iterable)
    iterable.close()
    assert list(iterable) == []


def test_a_cut_application_that_cannot_even_be_closed_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = App(headers=[("content-length", "11")], fails="end")
    server = Server()
    chunks = server.run(guarded(app.wsgi, [Transforming(CutAtOnce)]))
    assert server.status == "502 Bad Gateway"
    assert b"test.cut" in chunks[0]
    assert "AppError" in caplog.text
    assert app.closed == 1


def test_an_application_that_fails_while_it_is_drained_has_failed_and_leaves_its_place() -> None:
    from tenantguard.model.route import OnDisconnect

    class Drains:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            exchange.on_disconnect = OnDisconnect.DRAIN
            return (yield from proceed(exchange))

    till, watching = Till(), Watching()
    app = App(fails=1)
    guard = guarded(app.wsgi, [watching, Drains(), Holding()], till=till, drains_max=1)
    iterable: Any = guard(environ(), Server().start_response)
    next(iterable)
    with pytest.raises(AppError):
        iterable.close()
    assert watching.outcome.ending == "failed"
    assert till.endings == ["failed"]
    assert guard.guard.start_drain()


def test_a_worker_that_is_told_to_stop_while_a_resolver_waits_ends_the_others_first() -> None:
    """gunicorn stops a worker by raising SystemExit in whatever it does."""
    till = Till()

    class Stopped:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            def stop(outcome: Any) -> None:
                raise SystemExit(1)

            exchange.resolve(stop)
            return (yield from proceed(exchange))

    with pytest.raises(SystemExit):
        Server().run(guarded(App().wsgi, [Holding(), Stopped()], till=till))
    assert till.held == set()


# --- context variables ---

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("COLOUR", default="none")


@same_with_any_layers
def test_context_variables_live_as_long_as_the_response(layers: list[Any]) -> None:
    """A token that was set when the application was called is reset when its iterable is closed."""
    notes: list[Any] = []

    class Body:
        def __init__(self) -> None:
            self.token = COLOUR.set("red")

        def __iter__(self) -> Iterator[bytes]:
            for _ in range(2):
                notes.append((COLOUR.get(), current().id))
                yield b"x"

        def close(self) -> None:
            COLOUR.reset(self.token)
            notes.append((COLOUR.get(), current().id))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body()

    Server().run(guarded(app, layers, till=Till()))
    assert [colour for colour, _ in notes] == ["red", "red", "none"]
    assert len({exchange for _, exchange in notes}) == 1
    assert COLOUR.get() == "none"


def test_two_responses_in_one_thread_have_contexts_of_their_own() -> None:
    ids: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(2):
            ids.append(current().id)
            yield b"x"

    guard = guarded(app)
    one: Any = guard(environ(), Server().start_response)
    two: Any = guard(environ(), Server().start_response)
    for _ in zip(one, two, strict=True):
        pass
    assert ids[0] == ids[2] != ids[1] == ids[3]
    with pytest.raises(LookupError):
        current()


# --- the environ ---


def test_a_way_around_the_guard_is_not_offered() -> None:
    found: list[bool] = []

    def app(environ: Any, start_response: Any) -> Any:
        found.append("wsgi.file_wrapper" in environ)
        start_response("200 OK", [])
        return []

    for layers in ([], [Watching()]):
        Server().run(guarded(app, layers), **{"wsgi.file_wrapper": FileWrapper})
    assert found == [True, False]


def test_the_exchange_travels_in_the_environ_and_the_servers_own_is_left_alone() -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        found.append(environ[ENVIRON_KEY])
        environ["theirs"] = 1
        start_response("200 OK", [])
        return []

    watching = Watching()
    given = environ()
    list(guarded(app, [watching])(given, Server().start_response))
    assert found == watching.exchanges
    assert ENVIRON_KEY not in given
    assert "theirs" not in given


def test_the_path_is_whole_and_utf8() -> None:
    watching = Watching()
    Server().run(guarded(App().wsgi, [watching]), SCRIPT_NAME="/app", PATH_INFO="/caf\xc3\xa9", QUERY_STRING="a=b")
    request = watching.exchanges[0].request
    assert (request.path, request.query, request.method) == ("/app/café", b"a=b", "GET")


def test_request_headers_are_read_from_the_environ() -> None:
    watching = Watching()
    Server().run(
        guarded(App().wsgi, [watching]),
        CONTENT_TYPE="text/plain",
        CONTENT_LENGTH="",
        HTTP_X_API_KEY="k",
        REMOTE_ADDR="10.0.0.1",
    )
    request = watching.exchanges[0].request
    assert request.headers.get("x-api-key") == "k"
    assert request.headers.get("content-type") == "text/plain"
    assert request.headers.get("content-length") is None
    assert request.client == "10.0.0.1"


class ReadsSome:
    def handle(self, exchange: Any, proceed: Any) -> Any:
        yield from ReadBody(4)
        return (yield from proceed(exchange))


def test_a_body_read_in_part_is_given_line_by_line_too_and_never_beyond_its_length() -> None:
    class Socket(BytesIO):
        """Reading more than the request would block."""

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert self.tell() + size <= 12
            return super().read(size)

    lines: list[bytes] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        lines.extend(environ["wsgi.input"])
        return []

    class Partly:
        """Nothing but reading tells that the body is too large."""

        def handle(self, exchange: Any, proceed: Any) -> Any:
            declared = exchange.request.headers.get("content-length")
            exchange.request.headers.remove("content-length")
            yield from ReadBody(4)
            exchange.request.headers.set("content-length", declared)
            return (yield from proceed(exchange))

    terminated = {"wsgi.input": BytesIO(b"one\ntwo\nsix\n"), "wsgi.input_terminated": True, "CONTENT_LENGTH": "12"}
    Server().run(guarded(app, [Partly()]), **terminated)
    Server().run(
        guarded(app, [ReadsSome()]), **{"wsgi.input": Socket(b"one\ntwo\nsix\n"[:8]), "CONTENT_LENGTH": "12"}
    )
    assert lines[:3] == [b"one\n", b"two\n", b"six\n"]


# --- layers ---


@check
async def asks_async(exchange: Any) -> Any:
    return refusal("no")


def test_a_layer_that_asks_async_code_is_refused_when_the_guard_is_put_around_the_application() -> None:
    with pytest.raises(ConfigurationError, match="asks_async"):
        guarded(App().wsgi, [asks_async])


def test_async_code_that_a_layer_asks_all_the_same_is_the_layers_fault() -> None:
    async def soon() -> None: ...

    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from ask(soon)
            return (yield from proceed(exchange))

    with pytest.raises(LayerError, match="async"):
        Server().run(guarded(App().wsgi, [Asks()]))


class Never(Promise[None]):
    port = "never"
    deadline_s = 0.01

    def wait(self, timeout_s: float) -> bool:
        return threading.Event().wait(timeout_s)


class AskNever(PortEffect[None]):
    def perform(self, ports: Any) -> Any:
        return Never()


def test_a_promise_that_nobody_keeps_fails_at_its_deadline() -> None:
    failures: list[Exception] = []

    class Waits:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                yield from AskNever()
            except PortTimeout as failure:
                failures.append(failure)
            return (yield from proceed(exchange))

    Server().run(guarded(App().wsgi, [Waits()]))
    assert [str(failure) for failure in failures] == ["never: no answer within 0.01 s"]


def test_a_broken_off_response_is_a_cut_that_the_server_sees() -> None:
    server = Server()
    with pytest.raises(ResponseCut, match=r"test\.cut"):
        server.run(guarded(App(headers=()).wsgi, [Transforming(CutAtOnce)]))
    assert not server.body_begun


def test_layers_alone_make_a_guard() -> None:
    assert Server().run(WSGIGuard(App().wsgi, layers=[Watching()])) == [b"hello ", b"world"]
    with pytest.raises(ConfigurationError):
        WSGIGuard(App().wsgi)
