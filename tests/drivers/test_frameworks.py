"""Guards around, inside and between real frameworks and their middleware."""

from __future__ import annotations

import gzip
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import a2wsgi
import anyio
import fastapi
import flask
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from tenantguard import Deny, RateLimit, TenantContext, check, current
from tenantguard.asgi import ASGIGuard
from tenantguard.guard import Guard
from tenantguard.model.route import OnDisconnect, Success
from tenantguard.model.route import Route as GuardRoute
from tenantguard.testing import memory_ports
from tenantguard.wsgi import WSGIGuard
from tests.drivers.asgi_client import Answer, call
from tests.drivers.world import AppError, Holding, Till, Watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

SPECS = ["2.3", "2.4"]
"""Starlette streams differently from ASGI 2.4 on, where ``send`` raises when the client has left."""


class PassThrough(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-base"] = "yes"
        return response


class Site:
    """A Starlette application with a guard somewhere."""

    def __init__(
        self, *layers: Any, success: Success = Success.ENDED, on_disconnect: OnDisconnect | None = None
    ) -> None:
        self.till = Till()
        self.watching = Watching()
        self.after: list[list[str]] = []
        self.seen: dict[str, Any] = {}
        self.made = 0
        ports = memory_ports()
        ports.limits = self.till  # type: ignore[assignment]
        disconnecting = [_OnDisconnect(on_disconnect)] if on_disconnect is not None else []
        self.guard = Guard(
            [self.watching, *disconnecting, Holding(), *layers],
            ports=ports,
            routes=[GuardRoute(match="/**", success=success)],
        )

    @property
    def middleware(self) -> Middleware:
        return Middleware(ASGIGuard, guard=self.guard)

    def app(self, *middleware: Middleware) -> Starlette:
        routes = [
            Route("/json", self.json),
            Route("/echo", self.echo, methods=["POST"]),
            Route("/stream", self.stream),
            Route("/background", self.background),
            Route("/file", self.file),
            Route("/fails", self.fails),
            Route("/midway", self.midway),
            Mount("/sub", routes=[Route("/json", self.json)]),
            WebSocketRoute("/socket", self.socket),
        ]
        return Starlette(routes=routes, middleware=list(middleware))

    async def json(self, request: Request) -> JSONResponse:
        exchange = current()
        self.seen = {"exchange": exchange, "state": request.state.tenantguard, "held": len(self.till.held)}
        return JSONResponse({"path": exchange.request.path, "filler": "x" * 600})

    async def echo(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    async def stream(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(5):
                self.made += 1
                yield b"chunk %d " % number * 100
                await anyio.lowlevel.checkpoint()

        return StreamingResponse(chunks(), media_type="text/plain")

    async def background(self, request: Request) -> JSONResponse:
        async def later() -> None:
            self.after.append(list(self.till.endings))

        return JSONResponse({}, background=BackgroundTask(later))

    async def file(self, request: Request) -> FileResponse:
        return FileResponse(__file__)

    async def fails(self, request: Request) -> JSONResponse:
        raise AppError

    async def midway(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            raise AppError

        return StreamingResponse(chunks())

    async def socket(self, socket: Any) -> None:
        await socket.accept()
        await socket.send_text(socket.state.tenantguard.id)
        await socket.close()


class _OnDisconnect:
    def __init__(self, on_disconnect: OnDisconnect) -> None:
        self._on_disconnect = on_disconnect

    def handle(self, exchange: Any, proceed: Any) -> Any:
        exchange.on_disconnect = self._on_disconnect
        return (yield from proceed(exchange))


BASE = Middleware(PassThrough)
GZIP = Middleware(GZipMiddleware, minimum_size=100)

PLACES: dict[str, Any] = {
    "around the application": lambda site: site.guard.asgi(site.app()),
    "as middleware": lambda site: site.app(site.middleware),
    "around an application with BaseHTTPMiddleware": lambda site: site.guard.asgi(site.app(BASE)),
    "outside of BaseHTTPMiddleware": lambda site: site.app(site.middleware, BASE),
    "inside of BaseHTTPMiddleware": lambda site: site.app(BASE, site.middleware),
    "between two of them": lambda site: site.app(BASE, site.middleware, BASE),
    "outside of GZipMiddleware": lambda site: site.app(site.middleware, GZIP),
    "inside of GZipMiddleware": lambda site: site.app(GZIP, site.middleware),
    "inside of both": lambda site: site.app(GZIP, BASE, site.middleware),
    "outside of both": lambda site: site.app(site.middleware, GZIP, BASE),
    "around a mounted application": lambda site: Starlette(routes=[Mount("/", site.guard.asgi(site.app()))]),
    "as a mount's middleware": lambda site: Starlette(
        routes=[Mount("/", routes=site.app().routes, middleware=[site.middleware])]
    ),
}
any_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
any_spec = pytest.mark.parametrize("spec_version", SPECS)


def plain(answer: Answer) -> bytes:
    return gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body


ACCEPTS = {"accept-encoding": "gzip"}


@any_place
@any_spec
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_guard_works_anywhere_in_starlette(place: Any, spec_version: str, backend: str) -> None:
    site = Site()
    app = place(site)

    def get(path: str, **options: Any) -> Answer:
        return call(app, path, spec_version=spec_version, backend=backend, headers=ACCEPTS, **options)

    answer = get("/json")
    assert (answer.status, answer.raised, answer.ended) == (200, None, True)
    assert b'"path":"/json"' in plain(answer)
    assert site.seen["exchange"] is site.seen["state"] is site.watching.exchanges[0]
    assert site.seen["held"] == 1

    answer = get("/stream")
    assert (answer.status, answer.raised, answer.ended) == (200, None, True)
    assert plain(answer) == b"".join(b"chunk %d " % number * 100 for number in range(5))

    answer = get("/echo", method="POST", body=b"what was said")
    assert plain(answer) == b"what was said"
    assert get("/sub/json").status == 200
    assert get("/file").status == 200
    assert site.till.endings == ["completed"] * 5

    answer = get("/background")
    assert answer.status == 200
    assert site.after == [["completed"] * 6]  # settled before background work, and not waiting for it

    answer = get("/fails")
    assert answer.status == 500
    assert isinstance(answer.raised, AppError)
    assert site.till.endings[6:] == ["failed"]
    assert site.till.held == set()
    assert len(site.watching.outcomes) == 7

    site.till.refuse = True
    answer = get("/json")
    assert (answer.status, answer.ended) == (402, True)
    assert b"till.empty" in plain(answer)


@any_spec
def test_chunks_pass_as_they_come(spec_version: str) -> None:
    site = Site()
    answer = call(site.guard.asgi(site.app()), "/stream", spec_version=spec_version, probe=lambda: site.made)
    assert answer.probes == [1, 2, 3, 4, 5]


@any_place
@any_spec
def test_a_client_that_leaves_starlette_is_no_success(place: Any, spec_version: str) -> None:
    site = Site()
    call(place(site), "/stream", spec_version=spec_version, leave_after=1)
    assert site.till.held == set()
    assert site.till.endings == ["left"]
    assert site.watching.outcome.ending == "left"


@any_spec
def test_a_drained_starlette_stream_is_seen_to_its_end(spec_version: str) -> None:
    site = Site(on_disconnect=OnDisconnect.DRAIN)
    answer = call(site.guard.asgi(site.app()), "/stream", spec_version=spec_version, leave_after=1)
    assert answer.raised is None
    assert site.made == 5
    assert (site.watching.outcome.ending, site.watching.outcome.ended) == ("left", True)


@any_spec
def test_a_stream_that_fails_midway_is_a_failure(spec_version: str) -> None:
    site = Site()
    answer = call(site.guard.asgi(site.app()), "/midway", spec_version=spec_version)
    assert (answer.body, answer.ended) == (b"one", False)
    assert isinstance(answer.raised, AppError)
    assert site.till.endings == ["failed"]


@any_spec
def test_a_failure_behind_base_http_middleware_looks_like_a_clean_end_unless_the_route_asks_for_the_return(
    spec_version: str,
) -> None:
    """An honest limit: without a length or a decoder nothing else tells (E-case: more_body=False, then the error)."""
    for success, ending in ((Success.ENDED, "completed"), (Success.RETURNED, "failed")):
        site = Site(success=success)
        answer = call(site.guard.asgi(site.app(BASE)), "/midway", spec_version=spec_version)
        assert isinstance(answer.raised, AppError)
        assert site.till.endings == [ending]
        assert answer.ended == (ending == "completed")


@any_place
@pytest.mark.parametrize("path", ["/json", "/stream", "/background", "/file"])
def test_a_returned_route_works_anywhere_in_starlette(place: Any, path: str) -> None:
    site = Site(success=Success.RETURNED)
    answer = call(place(site), path, headers=ACCEPTS)
    assert (answer.status, answer.ended, answer.raised) == (200, True, None)
    assert site.till.endings == ["completed"]
    if path == "/background":
        assert site.after == [[]]


def test_one_layer_alone_is_middleware() -> None:
    """The default ports: this machine's clock, so the rate is one that no test machine is slow enough for."""
    site = Site()
    app = site.app(Middleware(ASGIGuard, layers=[RateLimit("1/hour")]))
    assert [call(app, "/json").status for _ in range(2)] == [200, 429]


def test_guards_nest_in_one_application() -> None:
    outer, inner = Site(), Site()
    app = outer.guard.asgi(inner.app(inner.middleware))
    assert call(app, "/json").status == 200
    exchange = inner.seen["exchange"]
    assert exchange is inner.watching.exchanges[0]
    assert exchange.outer is outer.watching.exchanges[0]
    assert exchange.id == exchange.outer.id
    assert outer.till.endings == inner.till.endings == ["completed"]


def test_a_starlette_websocket_knows_its_exchange() -> None:
    site = Site()
    sent: list[Any] = []
    incoming = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        return incoming.pop(0) if incoming else await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/socket",
        "headers": [],
        "query_string": b"",
        "root_path": "",
        "client": None,
        "subprotocols": [],
        "extensions": {},
    }
    anyio.run(site.app(site.middleware), scope, receive, send)
    assert sent[1]["text"] == site.watching.exchanges[0].id
    assert site.watching.outcome.ending == "completed"


# --- FastAPI ---


def whose() -> str:
    return current().id


async def resource() -> AsyncIterator[str]:
    yield current().id
    RELEASED.append(current().id)


RELEASED: list[str] = []


def test_fastapi_handlers_of_every_kind_know_their_exchange() -> None:
    app = fastapi.FastAPI()
    site = Site()

    @app.get("/sync")
    def sync(request: fastapi.Request, mine: Annotated[str, fastapi.Depends(whose)]) -> dict[str, bool]:
        return {"same": mine == current().id == request.state.tenantguard.id}

    @app.get("/async")
    async def asynchronous(mine: Annotated[str, fastapi.Depends(resource)]) -> dict[str, bool]:
        return {"same": mine == current().id}

    @app.post("/body")
    async def body(data: dict[str, int]) -> int:
        return sum(data.values())

    @app.get("/teapot")
    async def teapot() -> None:
        raise fastapi.HTTPException(418)

    app.add_middleware(ASGIGuard, guard=site.guard)
    for path in ("/sync", "/async"):
        assert call(app, path).body == b'{"same":true}'
    headers = {"content-type": "application/json"}
    assert call(app, "/body", method="POST", body=b'{"a": 1, "b": 2}', headers=headers).body == b"3"
    assert call(app, "/body", method="POST", body=b"[]", headers=headers).status == 422
    assert call(app, "/teapot").status == 418
    assert site.till.endings == ["completed", "completed", "completed", "failed", "failed"]
    assert [site.watching.exchanges[1].id] == RELEASED


@pytest.mark.parametrize(("outside", "statuses"), [(True, [200, 401]), (False, [401, 401])])
def test_preflights_have_no_key_and_are_answered_by_what_stands_around_the_guard(
    *, outside: bool, statuses: list[int]
) -> None:
    app = fastapi.FastAPI()
    guard = partial(app.add_middleware, ASGIGuard, guard=Guard([TenantContext()], ports=memory_ports()))
    cors = partial(app.add_middleware, CORSMiddleware, allow_origins=["https://a.test"])
    for add in (guard, cors) if outside else (cors, guard):
        add()
    asked = {"origin": "https://a.test", "access-control-request-method": "GET"}
    answers = [call(app, "/", method=method, headers=asked) for method in ("OPTIONS", "GET")]
    assert [answer.status for answer in answers] == statuses
    assert all(("access-control-allow-origin" in answer.headers) is outside for answer in answers)


def test_a_fastapi_application_is_refused_for() -> None:
    app = fastapi.FastAPI()

    @app.get("/")
    def root() -> str:
        raise AssertionError("not to be reached")

    @check
    async def closed(exchange: Any) -> Deny:
        return Deny("door", "door.closed", 403, "Closed.")

    app.add_middleware(ASGIGuard, guard=Guard([closed], ports=memory_ports()))
    answer = call(app, "/")
    assert answer.status == 403
    assert b'"code":"door.closed"' in answer.body


# --- Flask ---


def flask_site() -> tuple[flask.Flask, Till, Watching, list[str]]:
    app = flask.Flask("site")
    till, watching = Till(), Watching()
    notes: list[str] = []

    @app.get("/plain")
    def root() -> dict[str, bool]:
        return {"same": current().id == flask.request.environ["tenantguard.exchange"].id}

    @app.post("/echo")
    def echo() -> bytes:
        return flask.request.get_data()

    @app.get("/stream")
    def stream() -> flask.Response:
        def chunks() -> Iterator[str]:
            for number in range(3):
                notes.append(f"made {number} held {len(till.held)}")
                yield f"{flask.request.path} {current().request.method} {number}\n"

        return flask.Response(flask.stream_with_context(chunks()))

    @app.get("/file")
    def file() -> flask.Response:
        return flask.send_file(__file__)

    @app.get("/fails")
    def fails() -> str:
        raise AppError

    @app.get("/midway")
    def midway() -> flask.Response:
        def chunks() -> Iterator[str]:
            yield "one"
            raise AppError

        return flask.Response(chunks())

    ports = memory_ports()
    ports.limits = till  # type: ignore[assignment]
    app.wsgi_app = WSGIGuard(app.wsgi_app, guard=Guard([watching, Holding()], ports=ports))  # type: ignore[method-assign]
    return app, till, watching, notes


def test_flask_answers_as_before_and_pays() -> None:
    app, till, _, notes = flask_site()
    client = app.test_client()
    assert client.get("/plain").json == {"same": True}
    assert client.post("/echo", data=b"said").data == b"said"
    assert client.get("/stream").data == b"/stream GET 0\n/stream GET 1\n/stream GET 2\n"
    assert notes == ["made 0 held 1", "made 1 held 1", "made 2 held 1"]
    assert client.get("/file").data == Path(__file__).read_bytes()
    assert client.head("/file").status_code == 200
    assert till.endings == ["completed"] * 5
    assert client.get("/fails").status_code == 500
    assert client.get("/nowhere").status_code == 404
    with pytest.raises(AppError):
        client.get("/midway").get_data()
    assert till.endings[5:] == ["failed"] * 3
    assert till.held == set()
    till.refuse = True
    refused = client.get("/plain")
    assert (refused.status_code, refused.json["code"]) == (402, "till.empty")  # type: ignore[index]


def test_a_flask_client_that_never_closes_its_response_leaves_nothing_held() -> None:
    """Flask's own test client does not call close()."""
    app, till, watching, _ = flask_site()
    response = app.test_client().get("/stream")
    next(response.response)  # type: ignore[call-overload]
    assert len(till.held) == 1
    del response
    assert till.endings == ["left"]
    assert watching.outcome.ending == "left"


def test_a_guarded_flask_application_runs_behind_a2wsgi_and_another_guard() -> None:
    app, till, watching, _ = flask_site()
    outer = Site()
    middleware = a2wsgi.WSGIMiddleware(app)
    try:
        both = outer.guard.asgi(middleware)
        answer = call(both, "/stream")
        assert (answer.status, answer.raised) == (200, None)
        assert answer.body == b"/stream GET 0\n/stream GET 1\n/stream GET 2\n"
        assert call(both, "/echo", method="POST", body=b"said", headers={"content-length": "4"}).body == b"said"
        assert call(both, "/plain").body == b'{"same":true}\n'
    finally:
        middleware.executor.shutdown()
    assert till.endings == outer.till.endings == ["completed"] * 3
    assert watching.exchanges[0].outer is None


# --- Django ---


def test_django_under_both_protocols() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.drivers.django_site"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
