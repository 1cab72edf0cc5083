"""One test, two runs: every rule of the walk of a request, under both drivers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantguard.errors import ConfigurationError, LayerError, PortError, ResponseCut
from tenantguard.flow.effects import Effect, ReadBody, ask, compute
from tenantguard.flow.exchange import current
from tenantguard.flow.http import Body, Cut, Response, Unreadable
from tenantguard.flow.layer import check, observe
from tenantguard.model.decision import Allow, Deny
from tenantguard.model.route import Dialect, OnDisconnect, Route, Success
from tests.drivers.world import App, AppError, Holding, Seen, TakeFromTill, Watching, World, refusal

if TYPE_CHECKING:
    from collections.abc import Callable


class Trace:
    """Notes the order in which layers see a request and its response."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self._notes = notes

    def handle(self, exchange: Any, proceed: Any) -> Any:
        self._notes.append(f"{self.name} in")
        response = yield from proceed(exchange)
        self._notes.append(f"{self.name} out {response.status}")
        response.headers.add("x-passed", self.name)
        return response


class Layer:
    """A layer from two functions: before the application, and with its response."""

    def __init__(
        self,
        before: Callable[[Any], Any] = lambda exchange: None,
        after: Callable[[Any, Response], Any] = lambda exchange, response: response,
    ) -> None:
        self._before = before
        self._after = after

    def handle(self, exchange: Any, proceed: Any) -> Any:
        answer = self._before(exchange)
        if answer is not None:
            return answer
        response = yield from proceed(exchange)
        return self._after(exchange, response)


class Upper:
    """A transform that holds everything back by one byte."""

    rewrites = True

    def __init__(self) -> None:
        self._back = b""

    def feed(self, chunk: bytes) -> bytes | Cut:
        data = self._back + chunk.upper()
        self._back = data[-1:]
        return data[:-1]

    def finish(self) -> bytes | Cut:
        return self._back + b"!"


class Tap:
    """Only reads."""

    rewrites = False

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.finished = 0

    def feed(self, chunk: bytes) -> bytes | Cut:
        self.seen.append(chunk)
        return chunk

    def finish(self) -> bytes | Cut:
        self.finished += 1
        return b""


class Done:
    """A tap and marker that waits for the terminal marker of a protocol."""

    rewrites = False

    def __init__(self, failing: bytes = b"[ERROR]") -> None:
        self.ended = False
        self.failed = False
        self._failing = failing

    def feed(self, chunk: bytes) -> bytes | Cut:
        self.ended = self.ended or b"[DONE]" in chunk
        self.failed = self.failed or self._failing in chunk
        return chunk

    def finish(self) -> bytes | Cut:
        return b""


class CutAt:
    """Cuts when it sees a word."""

    rewrites = True

    def __init__(self, word: bytes, tail: bytes = b"") -> None:
        self._word = word
        self._tail = tail

    def feed(self, chunk: bytes) -> bytes | Cut:
        return Cut("test.cut", self._tail) if self._word in chunk else chunk

    def finish(self) -> bytes | Cut:
        return b""


class Breaking:
    rewrites = True

    def feed(self, chunk: bytes) -> bytes | Cut:
        if b"bad" in chunk:
            raise ValueError("secret")
        return chunk

    def finish(self) -> bytes | Cut:
        return b""


def adding(*transforms: Any) -> Layer:
    def after(exchange: Any, response: Response) -> Response:
        response.transforms.extend(transforms)
        return response

    return Layer(after=after)


def marking(marker: Any) -> Layer:
    def after(exchange: Any, response: Response) -> Response:
        response.transforms.append(marker)
        response.marker = marker
        return response

    return Layer(after=after)


# --- layers, facts, decisions ---


def test_layers_run_outermost_first_on_the_way_in_and_last_on_the_way_out(world: World) -> None:
    notes: list[str] = []
    seen = world.run([Trace("a", notes), Trace("b", notes), Trace("c", notes)])
    assert notes == ["a in", "b in", "c in", "c out 200", "b out 200", "a out 200"]
    assert [value for key, value in seen.lines if key == "x-passed"] == ["c", "b", "a"]
    assert (seen.status, seen.chunks, seen.ended, seen.broken) == (200, [b"hello ", b"world"], True, None)


@dataclass(frozen=True)
class Colour:
    name: str


def test_a_fact_reaches_the_layers_further_in_and_the_application(world: World) -> None:
    found: list[Any] = []
    leaves = Layer(before=lambda exchange: exchange.put(Colour("red")))
    finds = Layer(before=lambda exchange: found.append(exchange.get(Colour)))
    app = App(inside=lambda: current().get(Colour))
    world.run([leaves, finds], app)
    assert found == [Colour("red")]
    assert app.found == Colour("red")


def test_a_fact_that_nobody_left_is_the_layers_fault(world: World) -> None:
    seen = world.run([Layer(before=lambda exchange: exchange.get(Colour))])
    assert isinstance(seen.broken, LayerError)
    assert "Colour" in str(seen.broken)


def test_current_is_the_innermost_exchange_inside_the_application_and_nothing_outside(world: World) -> None:
    app = App(inside=lambda: (current(), current().decisions[-1], current().route.name))
    watching = Watching()

    def allow(exchange: Any) -> None:
        exchange.allow("test", "because")

    world.run([watching, Layer(before=allow)], app, routes=[Route(match="/**", name="all")])
    assert app.found == (watching.exchanges[0], Allow("test", "because"), "all")
    with pytest.raises(LookupError):
        current()


def test_nested_guards_share_an_id_and_the_inner_one_knows_the_outer(world: World) -> None:
    outer, inner = Watching(), Watching()
    app = App()
    world.run([world.guard([outer]), world.guard([inner])], app)
    exchange = inner.exchanges[0]
    assert app.exchange is exchange
    assert exchange.outer is outer.exchanges[0]
    assert exchange.outer.outer is None
    assert exchange.id == outer.exchanges[0].id
    assert inner.outcome.ending == outer.outcome.ending == "completed"


def test_two_requests_have_different_ids(world: World) -> None:
    watching = Watching()
    guard = world.guard([watching])
    world.run([guard])
    world.run([guard])
    assert watching.exchanges[0].id != watching.exchanges[1].id


def test_an_exception_of_a_layer_reaches_the_server_and_the_application_is_not_called(world: World) -> None:
    def fail(exchange: Any) -> None:
        raise AppError("in the layer")

    app = App()
    seen = world.run([Holding(), Layer(before=fail)], app)
    assert isinstance(seen.broken, AppError)
    assert app.calls == 0
    assert world.till.endings == ["failed"]
    assert world.till.held == set()


def test_a_layer_that_fails_on_the_way_out_fails_the_exchange(world: World) -> None:
    def fail(exchange: Any, response: Response) -> Response:
        raise AppError("in the layer")

    watching = Watching()
    seen = world.run([watching, Holding(), Layer(after=fail)])
    assert isinstance(seen.broken, AppError)
    assert seen.heads == 0
    assert watching.outcome.ending == "failed"
    assert watching.outcome.reason == "AppError"
    assert world.till.held == set()


def test_calling_proceed_twice_is_the_layers_fault_and_nothing_stays_held(world: World) -> None:
    class Twice:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from proceed(exchange)
            return (yield from proceed(exchange))

    app = App()
    seen = world.run([Holding(), Twice()], app)
    assert isinstance(seen.broken, LayerError)
    assert "proceed" in str(seen.broken)
    assert app.calls == 1
    assert seen.heads == 0
    assert world.till.held == set()
    assert world.till.endings == ["failed"]


def test_a_layer_may_catch_its_second_proceed(world: World) -> None:
    class Twice:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            try:
                yield from proceed(exchange)
            except LayerError:
                response.headers.set("x-caught", "yes")
            return response

    seen = world.run([Twice()])
    assert (seen.header("x-caught"), seen.body) == ("yes", b"hello world")


def test_yielding_what_is_no_effect_is_the_layers_fault(world: World) -> None:
    class Odd:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield 42
            return (yield from proceed(exchange))

    seen = world.run([Odd()])
    assert isinstance(seen.broken, LayerError)
    assert "int" in str(seen.broken)


def test_an_effect_of_an_unknown_kind_is_the_layers_fault(world: World) -> None:
    class Unknown(Effect[None]):
        __slots__ = ()

    class Odd:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from Unknown()
            return (yield from proceed(exchange))

    assert isinstance(world.run([Odd()]).broken, LayerError)


def test_returning_what_is_no_response_is_the_layers_fault(world: World) -> None:
    class Nothing:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            yield from proceed(exchange)

    seen = world.run([Nothing()])
    assert isinstance(seen.broken, LayerError)
    assert "Response" in str(seen.broken)


def test_a_handle_that_is_no_generator_is_refused_when_the_guard_is_built(world: World) -> None:
    class Plain:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            return proceed(exchange)

    with pytest.raises(ConfigurationError, match="Plain"):
        world.guard([Plain()])


def test_a_class_in_place_of_a_layer_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"Holding is a class: give a layer made of it, Holding\(\.\.\.\)"):
        world.guard([Holding])


def test_ask_runs_user_code_where_the_exchange_is_current(world: World) -> None:
    found: list[Any] = []

    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            found.append((yield from ask(current)))
            found.append((yield from ask(current, inline=True)))
            found.append((yield from compute(lambda: 6 * 7, 1)))
            found.append((yield from compute(lambda: 6 * 7, 1_000_000)))
            return (yield from proceed(exchange))

    watching = Watching()
    world.run([watching, Asks()])
    assert found == [watching.exchanges[0], watching.exchanges[0], 42, 42]


def test_what_an_effect_raises_is_raised_at_the_layers_own_line(world: World) -> None:
    def fail() -> None:
        raise AppError("asked")

    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            for question in (ask(fail), ask(fail, inline=True), compute(fail, 1)):
                try:
                    yield from question
                except AppError:
                    continue
                raise AssertionError("nothing was raised")
            return (yield from proceed(exchange))

    assert world.run([Asks()]).broken is None


def test_check_and_observe_make_layers_of_functions(world: World) -> None:
    told: list[Any] = []

    @check
    def only_get(exchange: Any) -> Deny | None:
        return None if exchange.request.method == "GET" else refusal("method.closed", 403)

    @observe
    def tell(exchange: Any, outcome: Any) -> None:
        told.append((exchange.request.method, outcome.ending, outcome.reason))

    assert world.run([tell, only_get]).status == 200
    assert world.run([tell, only_get], method="POST").status == 403
    assert told == [("GET", "completed", None), ("POST", "refused", "method.closed")]


# --- refusing ---


def test_a_refusal_before_the_application_is_answered_whole_and_the_application_is_not_called(world: World) -> None:
    app = App()
    watching = Watching()
    denial = refusal("test.no", 402)
    seen = world.run([watching, Holding(), Layer(before=lambda exchange: exchange.deny(denial))], app)
    assert (seen.status, seen.header("content-type")) == (402, "application/problem+json")
    assert seen.header("content-length") == str(len(seen.body))
    assert seen.ended
    assert seen.broken is None
    assert app.calls == 0
    assert world.till.held == set()
    assert watching.exchanges[0].decisions == [denial]
    outcome = watching.outcome
    assert (outcome.ending, outcome.called, outcome.status, outcome.reason) == ("refused", False, 402, "test.no")
    assert (outcome.received, outcome.sent, outcome.ended) == (0, len(seen.body), False)


def test_what_a_refused_request_took_is_returned_before_its_answer_leaves(world: World) -> None:
    denies = Layer(before=lambda exchange: exchange.deny(refusal("test.no")))
    seen = world.run([Holding(), denies], probe=lambda: set(world.till.held))
    assert seen.head_probe == set()
    assert seen.probes == [set()]


def test_a_refusal_speaks_the_dialect_of_its_route(world: World) -> None:
    denies = Layer(before=lambda exchange: exchange.deny(refusal("test.no")))
    seen = world.run([denies], routes=[Route(match="/**", dialect=Dialect.OPENAI)])
    assert b'"error"' in seen.body
    assert seen.header("content-type") == "application/json"


def test_the_answer_to_head_has_no_body_and_says_its_length(world: World) -> None:
    denies = Layer(before=lambda exchange: exchange.deny(refusal("test.no")))
    seen = world.run([denies], method="HEAD")
    assert seen.body == b""
    assert int(seen.header("content-length") or 0) > 0


def test_a_layers_answer_without_content_has_no_length(world: World) -> None:
    """RFC 9110 8.6: no content-length in a 204."""

    def empty(exchange: Any, response: Response) -> Response:
        response.status = 204
        response.body = b""
        return response

    for layer in (Layer(before=lambda exchange: Response(204, body=b"")), Layer(after=empty)):
        seen = world.run([layer], App(headers=[("content-length", "11")]))
        assert (seen.status, seen.header("content-length"), seen.body, seen.ended) == (204, None, b"", True)


def test_a_layers_whole_answer_passes_the_transforms_of_the_layers_further_out(world: World) -> None:
    answers = Layer(before=lambda exchange: Response(200, body=b"from the cache"))
    seen = world.run([adding(Upper()), answers])
    assert seen.body == b"FROM THE CACHE!"
    assert seen.header("content-length") == "15"


def test_a_layers_whole_answer_that_is_cut_does_not_leave(world: World) -> None:
    answers = Layer(before=lambda exchange: Response(200, body=b"from the cache"))
    watching = Watching()
    seen = world.run([watching, adding(CutAt(b"cache")), answers])
    assert seen.status == 502
    assert b"cache" not in seen.body
    assert watching.outcome.ending == "cut"


def test_a_layer_may_replace_the_response_when_it_sees_the_head(world: World) -> None:
    app = App(headers=[("content-length", "11"), ("x-app", "yes")])
    watching = Watching()

    def block(exchange: Any, response: Response) -> Response:
        assert response.headers.get("x-app") == "yes"
        denied: Response = exchange.deny(refusal("test.blocked", 451))
        return denied

    seen = world.run([watching, Holding(), Layer(after=block)], app)
    assert (seen.status, seen.heads, seen.header("x-app"), seen.broken) == (451, 1, None, None)
    assert b"hello" not in seen.body
    assert app.stopped is None
    assert watching.exchanges[0].decisions[-1].reason == "test.blocked"  # type: ignore[union-attr]
    outcome = watching.outcome
    assert (outcome.ending, outcome.called, outcome.status, outcome.reason) == ("cut", True, 451, "test.blocked")
    assert world.till.held == set()
    assert app.chunks_made == (2 if world.protocol == "asgi" else 1)
    assert app.closed == (0 if world.protocol == "asgi" else 1)


@pytest.mark.parametrize("success", Success)
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("chunks", [[b"hello"], [b"hello", b" w"]])
def test_a_rewritten_response_that_ends_short_of_its_length_never_looks_whole(
    world: World, chunks: list[bytes], success: Success, *, holds: bool
) -> None:
    watching = Watching()
    app = App(headers=[("content-length", "11")], chunks=chunks, whole=True)
    layers = [watching, *([Holding()] if holds else []), adding(Upper())]
    seen = world.run(layers, app, routes=[Route(match="/**", success=success)])
    headed = bool(seen.chunks) and seen.status == 200
    assert seen.ended != headed
    assert (seen.status, type(seen.broken)) == ((200, ResponseCut) if headed else (502, type(None)))
    assert (watching.outcome.ending, watching.outcome.reason) == ("cut", "response.length")
    assert world.till.endings == (["failed"] if holds else [])


def test_a_replaced_body_has_its_own_length(world: World) -> None:
    def replace(exchange: Any, response: Response) -> Response:
        response.body = b"short"
        return response

    seen = world.run([Layer(after=replace)], App(headers=[("content-length", "11"), ("x-app", "yes")]))
    assert (seen.body, seen.header("content-length"), seen.header("x-app")) == (b"short", "5", "yes")


def test_what_a_replaced_response_took_is_ended_before_the_replacement_leaves(world: World) -> None:
    replaces = Layer(after=lambda exchange, response: Response(200, body=b"other"))
    seen = world.run([Holding(), replaces], probe=lambda: set(world.till.held))
    assert (seen.head_probe, seen.probes) == (set(), [set()])
    assert world.till.endings == ["cut"]


# --- reading the body ---


class Reads:
    def __init__(self, limit: int = 1000, replace: bytes | None = None, *, lenient: bool = False) -> None:
        self.limit = limit
        self.bodies: list[Body | Unreadable] = []
        self._replace = replace
        self._lenient = lenient

    def handle(self, exchange: Any, proceed: Any) -> Any:
        body = yield from ReadBody(self.limit)
        self.bodies.append(body)
        if isinstance(body, Unreadable) and not self._lenient:
            return exchange.deny(Deny("test", body.reason, body.status, body.message))
        if self._replace is not None:
            exchange.request.body = self._replace
        return (yield from proceed(exchange))


def test_the_body_is_read_once_for_all_layers_and_then_by_the_application(world: World) -> None:
    first, second, app = Reads(), Reads(), App(reads=True)
    world.run(
        [first, second],
        app,
        method="POST",
        headers=[("content-length", "9")],
        body=[b'{"a"', b":", b"[1] "[:3], b"}"],
    )
    assert first.bodies[0] is second.bodies[0]
    assert isinstance(first.bodies[0], Body)
    assert first.bodies[0].json() is first.bodies[0].json()
    assert app.body == b'{"a":[1]}'
    assert app.request_headers["content-length"] == "9"


def test_the_application_reads_a_replaced_body_under_mended_headers(world: World) -> None:
    app = App(reads=True)
    world.run(
        [Reads(replace=b"something longer")],
        app,
        method="POST",
        headers=[
            ("content-length", "3"),
            ("content-encoding", "gzip"),
            ("content-type", "text/plain"),
            ("x-other", "kept"),
        ],
        body=[b"abc"],
    )
    assert app.body == b"something longer"
    assert app.request_headers["content-length"] == "16"
    assert app.request_headers["content-type"] == "text/plain"
    assert app.request_headers["x-other"] == "kept"
    assert "content-encoding" not in app.request_headers


def test_a_replaced_chunked_body_gets_a_length(world: World) -> None:
    app = App(reads=True)
    headers = [("transfer-encoding", "chunked")]
    world.run([Reads(replace=b"plain")], app, method="POST", headers=headers, body=[b"ab", b"c"])
    assert app.body == b"plain"
    assert app.request_headers["content-length"] == "5"
    assert "transfer-encoding" not in app.request_headers


def test_a_declared_gigabyte_is_refused_without_reading_a_byte(world: World) -> None:
    app = App()
    headers = [("content-length", str(10**9))]
    seen = world.run([Reads(1000)], app, method="POST", headers=headers, body=[b"x" * 100])
    assert (seen.status, app.calls, seen.read) == (413, 0, 0)
    assert b"body.too_large" in seen.body
    assert b"1000 bytes" in seen.body


def test_a_body_longer_than_the_limit_is_refused_while_it_is_read(world: World) -> None:
    app = App()
    headers = [("transfer-encoding", "chunked")]
    seen = world.run([Reads(10)], app, method="POST", headers=headers, body=[b"x" * 6] * 100)
    assert (seen.status, app.calls) == (413, 0)
    assert seen.read == (12 if world.protocol == "asgi" else 600)  # a thread reads in larger pieces


def test_a_body_of_another_length_than_declared_is_refused(world: World) -> None:
    seen = world.run([Reads()], method="POST", headers=[("content-length", "5")], body=[b"abc"])
    assert seen.status == 400
    assert b"body.length_mismatch" in seen.body


@pytest.mark.parametrize("length", ["five", "-1", "1.0", "", " 3 ", "٣", "9" * 30, "+3"])
def test_a_content_length_that_is_no_number_is_refused(world: World, length: str) -> None:
    if world.protocol == "wsgi" and not (length and length.isascii()):
        length = "x"  # an empty CONTENT_LENGTH means none (PEP 3333), and an environ is latin-1
    if world.protocol == "asgi" and not length.isascii():
        length = "\xb2"
    seen = world.run([Reads()], method="POST", headers=[("content-length", length)], body=[b"abc"])
    assert seen.status == 400


def test_a_request_without_a_body_is_read_as_empty(world: World) -> None:
    reads, app = Reads(), App(reads=True)
    assert world.run([reads], app).status == 200
    assert isinstance(reads.bodies[0], Body)
    assert reads.bodies[0].data == b""
    assert app.body == b""


def test_a_body_that_one_layer_found_too_large_is_whole_for_a_more_generous_one_and_for_the_application(
    world: World,
) -> None:
    strict, generous, app = Reads(4, lenient=True), Reads(100), App(reads=True)
    body = [b"abcdef", b"ghi", b"j"]
    world.run([strict, generous], app, method="POST", headers=[("transfer-encoding", "chunked")], body=body)
    assert isinstance(strict.bodies[0], Unreadable)
    assert isinstance(generous.bodies[0], Body)
    assert generous.bodies[0].data == b"abcdefghij"


def test_a_body_that_was_too_large_for_a_layer_that_lets_it_pass_reaches_the_application_whole(world: World) -> None:
    app = App(reads=True)
    body = [b"abcdef", b"ghi", b"j" * 200_000]
    headers = [("content-length", "200009")]
    world.run([Reads(4, lenient=True)], app, method="POST", headers=headers, body=body)
    assert app.body == b"".join(body)


def test_a_body_that_was_read_in_part_reaches_the_application_whole(world: World) -> None:
    class Half:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            exchange.request.headers.remove("content-length")  # so that only reading tells
            yield from ReadBody(4)
            exchange.request.headers.set("content-length", "200009")
            return (yield from proceed(exchange))

    app = App(reads=True)
    body = [b"abcdef", b"ghi", b"j" * 200_000]
    headers = [("content-length", "200009"), ("transfer-encoding", "chunked")]
    world.run([Half()], app, method="POST", headers=headers, body=body)
    assert app.body == b"".join(body)


def test_reading_the_body_after_proceed_is_the_layers_fault(world: World) -> None:
    class Late:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            response = yield from proceed(exchange)
            yield from ReadBody(10)
            return response

    seen = world.run([Late()], App(reads=True))
    assert isinstance(seen.broken, LayerError)


def test_headers_that_a_layer_adds_reach_the_application(world: World) -> None:
    def mend(exchange: Any) -> None:
        exchange.request.headers.add("x-tenant", "acme")
        exchange.request.headers.add("x-tenant", "eu")
        exchange.request.headers.remove("accept-encoding")

    app = App()
    headers = [("accept-encoding", "gzip"), ("host", "example.com"), ("content-type", "a/b")]
    world.run([Layer(before=mend)], app, headers=headers)
    assert app.request_headers["host"] == "example.com"
    assert app.request_headers["content-type"] == "a/b"
    assert app.request_headers["x-tenant"] == ("eu" if world.protocol == "asgi" else "acme, eu")
    assert "accept-encoding" not in app.request_headers


# --- transforms ---

DESCRIBING = [("etag", '"1"'), ("digest", "x"), ("content-md5", "y"), ("accept-ranges", "bytes"), ("x-kept", "z")]


def test_transforms_pass_the_apps_bytes_from_the_innermost_layer_outwards(world: World) -> None:
    class Wrap:
        rewrites = True

        def __init__(self, sign: bytes) -> None:
            self._sign = sign

        def feed(self, chunk: bytes) -> bytes | Cut:
            return self._sign + chunk + self._sign if chunk else b""

        def finish(self) -> bytes | Cut:
            return b"."

    seen = world.run([adding(Wrap(b"*")), adding(Wrap(b"-"))], App(chunks=[b"a", b"b"]))
    assert seen.body == b"*-a-**-b-**.*."


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    whole=st.booleans(),
    sized=st.booleans(),
)
def test_any_chunking_gives_the_same_bytes(
    world: World, data: bytes, cuts: list[int], *, whole: bool, sized: bool
) -> None:
    edges = [0, *sorted(cuts), 40]
    chunks = [data[start:end] for start, end in pairwise(edges)]
    headers = [("content-length", str(len(data)))] if sized else []
    seen = world.run([adding(Upper())], App(chunks=chunks, headers=headers, whole=whole))
    assert seen.body == data.upper() + b"!"
    assert seen.ended
    assert seen.header("content-length") in {None, str(len(data) + 1)}


def test_a_rewritten_body_loses_the_headers_that_described_it(world: World) -> None:
    seen = world.run([adding(Upper())], App(headers=[("content-length", "11"), *DESCRIBING]))
    assert seen.lines == [("x-kept", "z")]
    assert seen.body == b"HELLO WORLD!"


def test_a_rewritten_body_that_comes_whole_keeps_an_exact_length(world: World) -> None:
    seen = world.run([adding(Upper())], App(headers=[("content-length", "5")], chunks=[b"hello"]))
    assert seen.header("content-length") == "6"
    assert seen.body == b"HELLO!"


def test_a_tap_sees_the_bytes_and_changes_nothing(world: World) -> None:
    tap = Tap()
    app = App(headers=[("content-length", "11"), *DESCRIBING], chunks=[b"hello ", b"", b"world"])
    seen = world.run([adding(tap)], app)
    assert seen.lines == [("content-length", "11"), *DESCRIBING]
    assert seen.chunks == [b"hello ", b"world"]
    assert b"".join(tap.seen) == b"hello world"
    assert tap.finished == 1


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_no_transform_runs_for_a_response_that_has_no_body(world: World, method: str, status: int) -> None:
    upper = Upper()
    app = App(status=status, headers=[("content-length", "11"), *DESCRIBING], chunks=[])
    watching = Watching()
    seen = world.run([watching, Holding(), adding(upper), marking(Done())], app, method=method)
    assert (seen.status, seen.body, seen.ended) == (status, b"", True)
    assert seen.lines == [("content-length", "11"), *DESCRIBING]
    assert watching.outcome.ending == "completed"
    assert watching.outcome.ended


def test_bytes_beyond_the_declared_length_never_pass_transforms_that_have_finished(world: World) -> None:
    app = App(headers=[("content-length", "5")], chunks=[b"hello", b"secret"])
    seen = world.run([adding(Upper())], app)
    assert seen.body == b"HELLO!"
    assert isinstance(seen.broken, ResponseCut)


def test_a_large_chunk_is_rewritten_as_well(world: World) -> None:
    seen = world.run([Holding(), adding(Upper())], App(chunks=[b"x" * 200_000]))
    assert seen.body == b"X" * 200_000 + b"!"


# --- cuts ---


def test_a_cut_with_a_tail_ends_a_stream_cleanly_and_stops_the_application(world: World) -> None:
    app = App(chunks=[b"good ", b"bad ", b"more"])
    watching = Watching()
    seen = world.run([watching, Holding(), adding(CutAt(b"bad", b"<stopped>"))], app)
    assert seen.chunks == [b"good ", b"<stopped>"]
    assert (seen.status, seen.ended, seen.broken) == (200, True, None)
    if world.protocol == "asgi":
        assert isinstance(app.stopped, ResponseCut)
    else:
        assert app.closed == 1
    assert app.chunks_made == 2
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.status, outcome.ended) == ("cut", "test.cut", 200, False)
    assert (outcome.received, outcome.sent) == (9, 14)
    assert world.till.endings == ["cut"]


def test_the_tail_passes_the_transforms_further_out_and_what_lies_further_in_is_dropped(world: World) -> None:
    app = App(chunks=[b"good ", b"bad ", b"more"])
    seen = world.run([adding(Upper()), adding(CutAt(b"B", b"tail")), adding(Upper())], app)
    assert seen.body == b"GOODTAIL!"


def test_a_cut_without_a_tail_breaks_the_connection_off(world: World) -> None:
    app = App(chunks=[b"good ", b"bad ", b"more"])
    watching = Watching()
    seen = world.run([watching, Holding(), adding(CutAt(b"bad"))], app)
    assert seen.chunks == [b"good "]
    assert not seen.ended
    assert isinstance(seen.broken, ResponseCut)
    assert (watching.outcome.ending, watching.outcome.reason, watching.outcome.status) == ("cut", "test.cut", 200)
    assert watching.exchanges[0].decisions[-1].reason == "test.cut"  # type: ignore[union-attr]


@pytest.mark.parametrize("tail", [b"", b"tail"])
def test_a_cut_before_the_head_has_left_is_a_clean_502(world: World, tail: bytes) -> None:
    app = App(headers=[("content-length", "8")], chunks=[b"all ", b"bad "])

    class HoldBack:
        rewrites = True

        def feed(self, chunk: bytes) -> bytes | Cut:
            return Cut("test.cut", tail) if b"bad" in chunk else b""

        def finish(self) -> bytes | Cut:
            return b""

    watching = Watching()
    seen = world.run([watching, Holding(), adding(HoldBack())], app)
    assert (seen.status, seen.heads, seen.ended, seen.broken) == (502, 1, True, None)
    assert b"test.cut" in seen.body
    assert b"bad" not in seen.body
    assert seen.header("content-length") == str(len(seen.body))
    assert (watching.outcome.ending, watching.outcome.status) == ("cut", 502)


def test_a_transform_that_raises_cuts_and_tells_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = App(chunks=[b"good ", b"bad ", b"more"])
    watching = Watching()
    seen = world.run([watching, Holding(), adding(Breaking())], app)
    assert seen.chunks == [b"good "]
    assert isinstance(seen.broken, ResponseCut)
    assert (watching.outcome.ending, watching.outcome.reason) == ("cut", "transform.ValueError")
    assert "secret" not in caplog.text
    assert "secret" not in str(seen.broken)


def test_a_transform_that_raises_in_finish_cuts(world: World) -> None:
    class Late(Upper):
        def finish(self) -> bytes | Cut:
            raise ValueError("late")

    seen = world.run([Holding(), adding(Late())], App(headers=[("content-length", "5")], chunks=[b"hello"]))
    assert seen.status == 502
    assert world.till.endings == ["cut"]


def test_a_cut_that_a_transform_further_out_cuts_again_breaks_off(world: World) -> None:
    app = App(chunks=[b"good ", b"bad "])
    seen = world.run([adding(CutAt(b"tail")), adding(CutAt(b"bad", b"tail"))], app)
    assert seen.chunks == [b"good "]
    assert isinstance(seen.broken, ResponseCut)


# --- settling ---


def held(world: World) -> Callable[[], int]:
    return lambda: len(world.till.held)


def test_the_chunk_with_the_terminal_marker_is_held_until_the_resolvers_have_committed(world: World) -> None:
    app = App(chunks=[b"one", b"two", b"[DONE]", b"after"])
    seen = world.run([Holding(), marking(Done())], app, probe=held(world))
    assert seen.chunks == [b"one", b"two", b"[DONE]", b"after"]
    assert seen.probes == [1, 1, 0, 0]
    assert seen.head_probe == 1
    assert world.till.endings == ["completed"]


def test_the_chunk_that_completes_the_declared_length_is_held_and_no_other(world: World) -> None:
    app = App(headers=[("content-length", "9")], chunks=[b"one", b"two", b"end"])
    seen = world.run([Holding()], app, probe=held(world))
    assert seen.probes == [1, 1, 0]
    assert world.till.endings == ["completed"]


def test_without_a_length_the_end_itself_is_held_and_no_chunk_is(world: World) -> None:
    seen = world.run([Holding()], App(chunks=[b"one", b"two", b"end"]), probe=held(world))
    assert seen.probes == [1, 1, 1]
    assert seen.end_probe == 0
    assert world.till.endings == ["completed"]


def test_a_plain_response_leaves_once_its_charge_is_committed(world: World) -> None:
    app = App(headers=[("content-length", "5")], chunks=[b"hello"], whole=True)
    seen = world.run([Holding()], app, probe=held(world))
    assert (seen.head_probe, seen.probes, seen.end_probe) == (0, [0], 0)


def test_a_head_without_a_length_leaves_at_once(world: World) -> None:
    seen = world.run([Holding()], App(), probe=held(world))
    assert seen.head_probe == 1


@pytest.mark.parametrize(
    ("app", "ending", "reason", "ended"),
    [
        (App(), "completed", None, True),
        (App(whole=True), "completed", None, True),
        (App(chunks=[]), "completed", None, True),
        (App(headers=[("content-length", "11")]), "completed", None, True),
        (App(headers=[("content-length", "0")], chunks=[]), "completed", None, True),
        (App(status=302, chunks=[]), "completed", None, True),
        (App(headers=[("content-length", "12")]), "failed", "response.length", False),
        (App(headers=[("content-length", "10")]), "failed", "response.length", False),
        (App(status=500), "failed", "response.status", True),
        (App(status=404), "failed", "response.status", True),
        (App(fails="head"), "failed", "AppError", False),
        (App(fails=0), "failed", "AppError", False),
        (App(fails=1), "failed", "AppError", False),
        (App(fails=2), "failed", "AppError", False),
        (App(fails="end"), "completed", None, True),
    ],
)
def test_outcome(world: World, app: App, ending: str, reason: str | None, *, ended: bool) -> None:
    app = App(status=app.status, headers=app.headers, chunks=app.chunks, fails=app.fails, whole=app.whole)
    watching = Watching()
    seen = world.run([watching, Holding()], app)
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.ended, outcome.called) == (ending, reason, ended, True)
    began = app.fails != "head" and (app.fails != 0 or world.protocol == "asgi")  # a head of WSGI leaves with bytes
    assert outcome.status == (app.status if began else 0)
    assert world.till.endings == [ending]
    assert world.till.held == set()
    assert outcome.sent == len(seen.body)
    made = app.chunks[: app.chunks_made]
    assert outcome.received == len(b"".join(made))
    assert outcome.error is (app.fault if app.fails is not None and ending == "failed" else None)
    assert seen.broken is (app.fault if app.fails is not None else None)
    if world.protocol == "wsgi":
        assert app.closed == (0 if app.fails == "head" else 1)


@pytest.mark.parametrize(
    ("chunks", "ending", "reason", "ended"),
    [
        ([b"x", b"[DONE]"], "completed", None, True),
        ([b"x"], "failed", "response.marker_missing", False),
        ([b"x", b"[ERROR]"], "failed", "response.error_event", False),
        ([b"x", b"[ERROR][DONE]"], "failed", "response.error_event", False),
    ],
)
def test_outcome_of_a_decoded_stream(
    world: World, chunks: list[bytes], ending: str, reason: str | None, *, ended: bool
) -> None:
    watching = Watching()
    world.run([watching, Holding(), marking(Done())], App(chunks=chunks))
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.ended) == (ending, reason, ended)


def test_a_failure_behind_the_terminal_marker_stays_completed(world: World) -> None:
    app = App(chunks=[b"x", b"[DONE]"], fails=2)
    watching = Watching()
    seen = world.run([watching, Holding(), marking(Done())], app)
    assert seen.broken is app.fault
    assert watching.outcome.ending == "completed"


def test_a_failing_application_gives_its_own_exception_to_layers_and_server(world: World) -> None:
    caught: list[Exception] = []

    class Sees:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                return (yield from proceed(exchange))
            except AppError as fault:
                caught.append(fault)
                raise

    app = App(fails="head")
    assert world.run([Sees()], app).broken is app.fault
    assert caught == [app.fault]


def test_a_layer_may_answer_for_an_application_that_failed_before_its_head(world: World) -> None:
    class Answers:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                return (yield from proceed(exchange))
            except AppError:
                return exchange.deny(refusal("upstream.failed", 502))

    watching = Watching()
    app = App(fails="head")
    seen = world.run([watching, Holding(), Answers()], app, probe=held(world))
    assert (seen.status, seen.ended, seen.broken, seen.probes) == (502, True, None, [0])
    outcome = watching.outcome
    assert (outcome.ending, outcome.status, outcome.reason) == ("failed", 502, "AppError")
    assert outcome.error is app.fault


def test_a_port_error_of_the_application_itself_is_its_own(world: World) -> None:
    app = App(fails="head", fault=PortError("theirs", "down"))
    assert world.run([Holding()], app).broken is app.fault


@pytest.mark.parametrize("fails", ["head", 0, 1])
def test_a_base_exception_passes_and_ends_the_exchange(world: World, fails: str | int) -> None:
    app = App(fails=fails, fault=GeneratorExit() if fails == "head" else KeyboardInterrupt())
    watching = Watching()
    if world.protocol == "asgi":
        app.fault = type("Stop", (BaseException,), {})()
    assert world.run([watching, Holding()], app).broken is app.fault
    assert watching.outcome.ending == "failed"
    assert world.till.held == set()


def test_a_failing_application_with_a_length_sends_no_head_so_that_the_server_can_answer(world: World) -> None:
    app = App(headers=[("content-length", "11")], fails=0)
    seen = world.run([Holding()], app)
    assert (seen.heads, seen.broken) == (0, app.fault)


# --- resolvers and observers ---


class Registers:
    def __init__(self, *resolvers: tuple[Any, bool], observers: tuple[Any, ...] = ()) -> None:
        self._resolvers = resolvers
        self._observers = observers

    def handle(self, exchange: Any, proceed: Any) -> Any:
        for resolver, strict in self._resolvers:
            exchange.resolve(resolver, strict=strict)
        for observer in self._observers:
            exchange.observe(observer)
        return (yield from proceed(exchange))


def test_resolvers_run_innermost_first_once_and_each_in_its_own_peace(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def note(name: str) -> Any:
        return lambda outcome: ran.append(name)

    def fail(outcome: Any) -> None:
        ran.append("failing")
        raise AppError("a secret of a tenant")

    def fail_flow(outcome: Any) -> Any:
        ran.append("failing flow")
        yield from compute(lambda: None, 1)
        raise AppError("a secret of a tenant")

    layers = [
        Registers((note("a1"), False), (note("a2"), False)),
        Registers((fail, False)),
        Registers((fail_flow, False)),
    ]
    seen = world.run([*layers, Registers((note("d"), False))])
    assert ran == ["d", "failing flow", "failing", "a2", "a1"]
    assert (seen.status, seen.body, seen.ended, seen.broken) == (200, b"hello world", True, None)
    assert caplog.text.count("a resolver failed") == 2
    assert "secret" not in caplog.text


def test_a_resolver_may_register_another_one(world: World) -> None:
    ran: list[str] = []

    class Chains:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            def first(outcome: Any) -> None:
                ran.append("first")
                exchange.resolve(lambda outcome: ran.append("second"))

            exchange.resolve(first)
            return (yield from proceed(exchange))

    world.run([Chains()])
    assert ran == ["first", "second"]


def test_a_resolver_that_the_application_registers_while_it_streams_runs(world: World) -> None:
    ran: list[str] = []

    def chunks() -> Any:
        yield b"one"
        current().resolve(lambda outcome: ran.append(outcome.ending.value))
        yield b"two"

    class Stream:
        def __iter__(self) -> Any:
            return chunks()

        def __len__(self) -> int:
            return 2

    world.run([], App(chunks=Stream()))  # type: ignore[arg-type]
    assert ran == ["completed"]


def test_a_strict_failure_before_the_head_becomes_a_clean_503(world: World) -> None:
    world.till.break_ending = PortError("ledger", "down for tenant acme")
    app = App(headers=[("content-length", "5")], chunks=[b"hello"], whole=True)
    watching = Watching()
    seen = world.run([watching, Holding(strict=True)], app)
    assert (seen.status, seen.heads, seen.ended, seen.broken) == (503, 1, True, None)
    assert b"settle.failed" in seen.body
    assert b"acme" not in seen.body
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.status) == ("cut", "settle.failed", 503)
    assert outcome.sent == len(seen.body)
    assert watching.exchanges[0].decisions[-1].reason == "settle.failed"  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204)])
def test_a_strict_failure_of_a_response_without_a_body_is_a_clean_503_too(
    world: World, method: str, status: int
) -> None:
    world.till.break_ending = PortError("ledger", "down")
    seen = world.run([Holding(strict=True)], App(status=status, chunks=[]), method=method)
    assert (seen.status, seen.ended, seen.broken) == (503, True, None)


def test_a_strict_failure_after_the_head_breaks_the_stream_off_before_its_last_chunk(world: World) -> None:
    world.till.break_ending = PortError("ledger", "down")
    app = App(chunks=[b"one", b"[DONE]"])
    watching = Watching()
    seen = world.run([watching, Holding(strict=True), marking(Done())], app)
    assert seen.chunks == [b"one"]
    assert not seen.ended
    assert isinstance(seen.broken, ResponseCut)
    outcome = watching.outcome
    assert (outcome.ending, outcome.reason, outcome.status, outcome.sent) == ("cut", "settle.failed", 200, 3)


def test_a_strict_failure_withholds_a_refusal_too(world: World) -> None:
    world.till.break_ending = PortError("ledger", "down")
    denies = Layer(before=lambda exchange: exchange.deny(refusal("test.no", 402)))
    seen = world.run([Holding(strict=True), denies])
    assert seen.status == 503
    assert b"settle.failed" in seen.body


def test_a_soft_failure_goes_on(world: World) -> None:
    world.till.break_ending = PortError("ledger", "down")
    watching = Watching()
    seen = world.run([watching, Holding(strict=False)], App(headers=[("content-length", "11")]))
    assert (seen.status, seen.body, seen.ended, seen.broken) == (200, b"hello world", True, None)
    assert watching.outcome.ending == "completed"


def test_observers_hear_the_outcome_after_the_hand_off_each_in_its_own_peace(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, Any]] = []
    seen_now: list[Seen] = []

    def tell(name: str) -> Any:
        return lambda outcome: told.append((name, outcome.sent))

    def fail(outcome: Any) -> None:
        told.append(("failing", outcome.sent))
        raise AppError("a secret")

    def flow(outcome: Any) -> Any:
        value = yield from compute(lambda: outcome.sent, 1)
        told.append(("flow", value))

    probe: Callable[[], Any] = lambda: list(told)  # noqa: E731
    seen = world.run([Registers(observers=(tell("a"), fail, flow, tell("b")))], probe=probe)
    seen_now.append(seen)
    assert told == [("a", 11), ("failing", 11), ("flow", 11), ("b", 11)]
    assert seen.probes == [[], []]
    if world.protocol == "asgi":
        assert seen.end_probe == []
    assert seen.broken is None
    assert caplog.text.count("an observer failed") == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize("taking", [PortError("limits", "down at 10.0.0.1"), None])
def test_a_port_that_fails_in_a_layer_is_refused_closed(world: World, taking: Exception | None) -> None:
    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            if taking is None:
                response = yield from proceed(exchange)
                world.till.break_taking = PortError("limits", "down at 10.0.0.1")
                yield from TakeFromTill(b"x")
                return response
            return (yield from proceed(exchange))

    world.till.break_taking = taking
    watching = Watching()
    seen = world.run([watching, Asks(), *([Holding()] if taking is not None else [])])
    assert (seen.status, seen.ended, seen.broken) == (503, True, None)
    assert b"store.unavailable" in seen.body
    assert b"10.0.0.1" not in seen.body
    denial = watching.exchanges[0].decisions[-1]
    assert isinstance(denial, Deny)
    assert denial.details["port"] == "limits"
    assert watching.outcome.ending == ("refused" if taking is not None else "cut")
    assert watching.outcome.reason == "store.unavailable"


def test_a_port_that_fails_while_a_layer_handles_a_failed_application_is_refused_closed(world: World) -> None:
    class Asks:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                return (yield from proceed(exchange))
            except AppError:
                yield from TakeFromTill(b"x")
                raise

    world.till.break_taking = PortError("limits", "down")
    seen = world.run([Asks()], App(fails="head"))
    assert (seen.status, seen.broken) == (503, None)


def test_a_layer_may_go_on_without_a_port_that_failed(world: World) -> None:
    class Open:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                yield from TakeFromTill(b"x")
            except PortError:
                exchange.allow("test", "failed.open")
            return (yield from proceed(exchange))

    world.till.break_taking = PortError("limits", "down")
    assert world.run([Open()]).status == 200


def test_a_layer_that_yields_while_it_is_closed_is_named_and_everything_ends_all_the_same(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                return (yield from proceed(exchange))
            finally:
                yield from compute(lambda: None, 1)

    class Rude:
        def handle(self, exchange: Any, proceed: Any) -> Any:
            try:
                return (yield from proceed(exchange))
            except GeneratorExit:
                raise ValueError("rude") from None

    for layer in (Stubborn(), Rude()):
        app = App(fails="head", fault=type("Stop", (BaseException,), {})())
        assert world.run([Holding(), layer], app).broken is app.fault
        assert world.till.held == set()
    assert caplog.text.count("must not yield") == 2


# --- clients that leave ---


def test_a_client_that_leaves_is_no_success(world: World) -> None:
    app = App(chunks=[b"one", b"two", b"three"])
    watching = Watching()
    world.run([watching, Holding()], app, leave_after=1)
    outcome = watching.outcome
    assert (outcome.ending, outcome.ended, outcome.called) == ("left", False, True)
    assert outcome.sent == 3
    assert world.till.endings == ["left"]
    assert world.till.held == set()


class DrainedHolding:
    def handle(self, exchange: Any, proceed: Any) -> Any:
        exchange.on_disconnect = OnDisconnect.DRAIN
        return (yield from Holding().handle(exchange, proceed))


def test_a_drained_application_finishes_unheard_and_its_end_is_seen(world: World) -> None:
    app = App(chunks=[b"one", b"two", b"[DONE]", b"rest"])
    watching = Watching()
    done = Done()
    seen = world.run([watching, DrainedHolding(), marking(done)], app, leave_after=1)
    assert seen.chunks == [b"one"]
    assert seen.broken is None
    assert app.stopped is None
    assert done.ended
    outcome = watching.outcome
    assert (outcome.ending, outcome.ended, outcome.sent) == ("left", True, 3)
    assert outcome.received == len(b"onetwo[DONE]") or world.protocol == "asgi"
    assert world.till.endings == ["left"]


@pytest.mark.parametrize("fails", [2, None])
def test_an_application_that_breaks_off_by_itself_while_it_is_drained_has_failed(
    world: World, fails: int | None
) -> None:
    """It has not heard that its client left, so that is not why: nothing is charged for a response that failed."""
    app = App(chunks=[b"one", b"two", b"three"], fails=fails)
    watching = Watching()
    seen = world.run([watching, DrainedHolding(), marking(Done())], app, leave_after=1)
    assert seen.chunks == [b"one"]
    assert (watching.outcome.ending, watching.outcome.ended) == ("failed", False)
    assert world.till.endings == ["failed"]


def test_a_drain_that_finds_no_place_is_none(world: World) -> None:
    app = App(chunks=[b"one", b"two", b"[DONE]"])
    watching = Watching()
    world.run([watching, DrainedHolding(), marking(Done())], app, leave_after=1, drains_max=0)
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", False)


def test_a_drain_leaves_its_place_when_it_ends(world: World) -> None:
    def mark(exchange: Any, response: Response) -> Response:
        response.marker = Done()
        response.transforms.append(response.marker)  # type: ignore[arg-type]
        return response

    guard = world.guard([DrainedHolding(), Layer(after=mark)], drains_max=1)
    for _ in range(3):
        app = App(chunks=[b"one", b"two", b"[DONE]"])
        world.run([guard], app, leave_after=1)
        assert app.chunks_made == 3
    assert guard.start_drain()


def test_a_drain_is_bounded_in_time(world: World) -> None:
    clock = world.ports.system.clock
    done = Done()

    class Slow:
        def __len__(self) -> int:
            return 1000

        def __iter__(self) -> Any:
            for _ in range(1000):
                clock.advance(10)  # type: ignore[attr-defined]
                yield b"tick"

    app = App(chunks=Slow())  # type: ignore[arg-type]
    watching = Watching()
    guard = world.guard([watching, DrainedHolding(), marking(done)], drain_s=30.0)
    seen = world.run([guard], app, leave_after=1)
    assert 3 <= app.chunks_made <= 6
    assert seen.broken is None
    assert (watching.outcome.ending, watching.outcome.ended) == ("left", False)
    assert world.till.endings == ["left"]


# --- success = "returned" ---

RETURNED = [Route(match="/**", success=Success.RETURNED)]


@pytest.mark.parametrize("headers", [[], [("content-length", "11")]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_returned_route_holds_the_end_until_the_application_has_returned(
    world: World, headers: list[tuple[str, str]], *, whole: bool
) -> None:
    app = App(headers=headers, whole=whole)
    seen = world.run([Holding()], app, routes=RETURNED, probe=held(world))
    assert (seen.body, seen.ended, seen.broken) == (b"hello world", True, None)
    assert seen.end_probe == 0
    assert world.till.endings == ["completed"]


def test_on_a_returned_route_a_failure_behind_the_last_byte_is_no_success(world: World) -> None:
    app = App(headers=[("content-length", "11")], fails=2)
    seen = world.run([Holding()], app, routes=RETURNED, probe=held(world))
    assert seen.broken is app.fault
    assert not seen.ended
    assert seen.body == b"hello "
    assert world.till.endings == ["failed"]
