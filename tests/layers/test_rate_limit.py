"""The rate limit layer: the script of its flow, and whole requests against the store in memory."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.errors import ConfigurationError, LayerError, PortError
from tenantguard.flow.effects import CallApp, ReadBody
from tenantguard.flow.http import Ending, Headers, Outcome, Response
from tenantguard.flow.layer import call_app, check, stack
from tenantguard.flow.ports import (
    EndTokenGrant,
    ReturnTokens,
    SettleTokens,
    Shortage,
    Take,
    TakeInPlace,
    Taken,
    TakeTokens,
    TakeWithWindows,
    TokenGrant,
)
from tenantguard.guard import Guard
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.rate import Rate
from tenantguard.model.route import Dialect, Route
from tenantguard.model.sections import Combine, Group, OnError, RateRule, RateSection, Scope, Signals, Strategy
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.usage import make_decoder
from tenantguard.testing import ManualClock, Script, make_exchange, memory_ports

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.layer import Handler, Layer

SECOND = 10**9
ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
GLOBEX = Tenant(TenantId("globex"))
CHAT = Route("POST /chat", name="chat")
TEN = Rate(10, SECOND)
ALL_SCOPES = (
    RateRule(Rate(1000, SECOND), Scope.GLOBAL),
    RateRule(Rate(10, SECOND, 20), Scope.TENANT),
    RateRule(Rate(100, 60 * SECOND), Scope.ROUTE),
    RateRule(Rate(5, SECOND), Scope.IDENTITY),
)
REFUSED = Outcome(Ending.REFUSED, called=False)
SERVED = Outcome(Ending.COMPLETED, status=200)


def policy(*rules: RateRule) -> Policy:
    return Policy.of("acme", [RateSection(rules)])


def further_in(exchange: Exchange) -> Flow[Response]:
    """A layer that may refuse what was taken."""
    return (yield from call_app(exchange))


def start(layer: RateLimit, *facts: object, route: Route = CHAT) -> tuple[Exchange, Script[Response]]:
    """Until the layer takes under an id, from a store that must be waited for."""
    exchange, script = start_in_place(layer, *facts, route=route)
    if isinstance(script.effect, TakeInPlace):
        script.answer(None)
    return exchange, script


def start_in_place(layer: RateLimit, *facts: object, route: Route = CHAT) -> tuple[Exchange, Script[Response]]:
    exchange = make_exchange(route=route, facts=facts)
    return exchange, Script(layer.handle(exchange, further_in))


def asked(layer: RateLimit, *facts: object, route: Route = CHAT) -> list[str]:
    _, script = start(layer, *facts, route=route)
    assert isinstance(script.effect, TakeTokens)
    return [take.bucket for take in script.effect.takes]


def serve(script: Script[Response]) -> None:
    """The application answers, and what was taken stays so."""
    assert isinstance(script.answer(Response(200)), SettleTokens)
    script.answer(None)


def headers_of(response: Response) -> tuple[str | None, str | None]:
    return response.headers.get("ratelimit-policy"), response.headers.get("ratelimit")


# the script


def test_it_takes_one_unit_then_calls_the_application() -> None:
    exchange, script = start(RateLimit(), ACME, policy(RateRule(TEN)))
    assert isinstance(script.effect, TakeTokens)
    assert script.effect.takes == (Take("acme|tenant|tenant-1s", TEN),)
    assert isinstance(script.answer(Taken(((9, SECOND // 10),))), CallApp)
    assert exchange.decisions == [Allow("rate", "tenant-1s", {"remaining": 9})]
    serve(script)
    assert headers_of(script.result) == ('"tenant-1s";q=10;w=1', '"tenant-1s";r=9;t=1')


@pytest.mark.parametrize("of", [EMPTY_POLICY, policy()])
def test_without_a_rule_it_does_nothing(of: Policy) -> None:
    exchange, script = start(RateLimit(), ACME, of)
    assert isinstance(script.effect, CallApp)
    assert not exchange.resolvers
    assert not exchange.decisions
    assert exchange.new_id() == (1).to_bytes(16, "big")
    script.answer(Response(200))
    assert headers_of(script.result) == (None, None)


def test_every_scope_is_asked_in_one_command() -> None:
    assert asked(RateLimit(), ACME, policy(*ALL_SCOPES)) == [
        "|global|global-1s",
        "acme|tenant|tenant-1s",
        "acme|route|route-60s|chat",
        "acme|identity|identity-1s|acme-dev",
    ]


def test_the_end_is_registered_before_anything_is_taken() -> None:
    exchange, script = start(RateLimit("10/second"))
    assert isinstance(script.effect, TakeTokens)
    script.close()
    ((resolver, strict),) = exchange.resolvers
    flow = resolver(REFUSED)
    assert flow is not None
    assert Script(flow).effect == ReturnTokens(script.effect.id)
    assert not strict


@pytest.mark.parametrize("ending", list(Ending))
@pytest.mark.parametrize("called", [False, True])
def test_units_stay_taken_once_the_application_was_called(ending: Ending, *, called: bool) -> None:
    exchange, script = start(RateLimit("10/second"))
    assert isinstance(script.effect, TakeTokens)
    flow = exchange.resolvers[0][0](Outcome(ending, called=called))
    assert flow is not None
    end = Script(flow)
    assert end.effect == (SettleTokens(script.effect.id) if called else ReturnTokens(script.effect.id))
    end.answer(None)
    assert end.done


def test_a_shortage_is_refused_with_a_wait_that_is_rounded_up() -> None:
    """E-28, E+3."""
    exchange, script = start(RateLimit(), ACME, policy(*ALL_SCOPES))
    levels = ((999, 10**6), (0, 2_100_000_000), (99, SECOND), (0, 2 * SECOND + 1))
    script.answer(Shortage((1, 3), 1_200_000_001, levels))
    response = script.result
    assert response.status == 429
    assert response.headers.get("retry-after") == "2"
    assert response.headers.get("retry-after-ms") == "1201"
    assert response.headers.get("ratelimit") == '"identity-1s";r=0;t=2'
    assert response.headers.get("ratelimit-policy") == (
        '"global-1s";q=1000;w=1, "tenant-1s";q=10;w=1;tenantguard-burst=20, "route-60s";q=100;w=60, '
        '"identity-1s";q=5;w=1'
    )
    assert response.body is not None
    assert json.loads(response.body)["code"] == "rate.exceeded"
    (denial,) = exchange.decisions
    assert isinstance(denial, Deny)
    assert denial.details == {"failing": ["tenant-1s", "identity-1s"]}


def test_what_no_waiting_helps_is_refused_without_a_wait() -> None:
    """E-31 as a decision."""
    exchange, script = start(RateLimit("10/second"))
    script.answer(Shortage((0,), None, ((10, 0),)))
    assert script.result.status == 422
    assert script.result.headers.get("retry-after") is None
    assert script.result.headers.get("x-should-retry") == "false"
    assert isinstance(exchange.decisions[0], Deny)
    assert exchange.decisions[0].reason == Reason.RATE_IMPOSSIBLE


def test_headers_can_be_left_out() -> None:
    layer = RateLimit("10/second", signals="none")
    _, served = start(layer)
    served.answer(Taken(((9, 1),)))
    serve(served)
    _, refused = start(layer)
    refused.answer(Shortage((0,), 1, ((0, 1),)))
    assert headers_of(served.result) == headers_of(refused.result) == (None, None)
    assert refused.result.headers.get("retry-after") == "1"


def test_the_tightest_limit_is_reported() -> None:
    exchange, script = start(RateLimit(), ACME, policy(*ALL_SCOPES))
    script.answer(Taken(((3, 1), (2, 1), (2, 1), (4, 1))))
    serve(script)
    assert script.result.headers.get("ratelimit") == '"route-60s";r=2;t=2'
    assert isinstance(exchange.decisions[0], Allow)
    assert exchange.decisions[0].matched_by == "route-60s"


@given(
    rate=st.builds(Rate, st.integers(1, 1000), st.integers(1, 3600).map(lambda s: s * SECOND), st.integers(0, 1000)),
    taken=st.integers(1, 1000),
)
def test_the_window_never_promises_more_than_the_rate(rate: Rate, taken: int) -> None:
    """``r`` units within ``t`` seconds are no faster than the refill; an empty bucket has one unit after ``t``."""
    ports = memory_ports()
    ports.limits.execute(TakeTokens(b"id", (Take("acme|tenant|layer-x", rate, min(taken, rate.burst)),)))
    answer = ports.limits.execute(TakeTokens(b"look", (Take("acme|tenant|layer-x", rate, 0),)))
    _, script = start(RateLimit(rate))
    script.answer(answer)
    serve(script)
    state = script.result.headers.get("ratelimit") or ""
    units, window_s = (int(part.split("=")[1]) for part in state.split(";")[1:])
    assert units == answer.levels[0][0]
    assert window_s >= 1
    assert units * rate.period_ns <= window_s * SECOND * rate.amount
    if units == 0:
        assert isinstance(ports.system.clock, ManualClock)
        ports.system.clock.advance(window_s)
        later = ports.limits.execute(TakeTokens(b"then", (Take("acme|tenant|layer-x", rate, 0),)))
        assert later.levels[0][0] >= 1


def test_once_the_application_answers_nothing_is_left_to_end() -> None:
    """A response that nothing waits for passes the faster."""
    exchange, script = start(RateLimit("10/second"))
    assert isinstance(script.effect, TakeTokens)
    taking = script.effect.id
    script.answer(Taken(((9, SECOND // 10),)))
    assert script.answer(Response(200)) == SettleTokens(taking or b"")
    assert len(exchange.resolvers) == 1
    script.answer(None)
    assert script.done
    assert not exchange.resolvers


def test_where_settling_fails_it_is_tried_again_at_the_end() -> None:
    exchange, script = start(RateLimit("10/second"))
    script.answer(Taken(((9, SECOND // 10),)))
    script.answer(Response(200))
    script.fail(PortError("limits", "late"))
    assert script.result.status == 200
    assert len(exchange.resolvers) == 1


@pytest.mark.parametrize("body", [b"from a cache", b"", None])
def test_a_layer_that_answers_in_place_of_the_application_decides_nothing_about_the_units(body: bytes | None) -> None:
    def answers(exchange: Exchange) -> Flow[Response]:
        return Response(200, body=body)
        yield

    exchange = make_exchange()
    script = Script(RateLimit("10/second").handle(exchange, answers))
    script.answer(granted())
    assert script.done
    assert len(exchange.resolvers) == 1


@pytest.mark.parametrize("body", [b"no", None])
def test_what_a_request_took_is_given_back_where_a_layer_of_the_users_refuses_it(body: bytes | None) -> None:
    class Refuses:
        def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
            return Response(403, body=body)
            yield

    ports = memory_ports()
    guard = Guard([RateLimit("1/hour"), Refuses()], ports=ports)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    heads: list[str] = []
    for _ in range(2):
        assert b"".join(guard.wsgi(None)(environ, lambda status, _: heads.append(status))) == (body or b"")
    assert heads == ["403 Forbidden"] * 2
    assert isinstance(ports.limits, MemoryLimits)
    assert ports.limits.snapshot() == {}


# a store that answers in place


def granted() -> TokenGrant:
    grant = TokenGrant()
    grant.taken = Taken(((9, SECOND // 10),))
    return grant


def test_what_is_granted_in_place_is_settled_by_its_grant_once_the_application_answers() -> None:
    exchange, script = start_in_place(RateLimit("10/second"))
    assert script.effect == TakeInPlace((Take("|tenant|layer-tenant-1s", TEN),), final=False)
    grant = granted()
    assert isinstance(script.answer(grant), CallApp)
    assert len(exchange.resolvers) == 1
    assert script.answer(Response(200)) == EndTokenGrant(grant)
    script.answer(None)
    assert headers_of(script.result) == ('"layer-tenant-1s";q=10;w=1', '"layer-tenant-1s";r=9;t=1')
    assert not exchange.resolvers
    assert exchange.new_id() == (1).to_bytes(16, "big"), "it needs no id"


@pytest.mark.parametrize("called", [False, True])
def test_what_is_granted_in_place_is_given_back_unless_the_application_was_called(*, called: bool) -> None:
    exchange, script = start_in_place(RateLimit("10/second"))
    grant = granted()
    script.answer(grant)
    ((resolver, strict),) = exchange.resolvers
    flow = resolver(Outcome(Ending.LEFT, called=called))
    assert flow is not None
    assert Script(flow).effect == EndTokenGrant(grant, () if called else None)
    assert not strict


def test_what_is_refused_in_place_leaves_nothing_to_end() -> None:
    exchange, script = start_in_place(RateLimit("10/second"))
    script.answer(Shortage((0,), SECOND, ((0, SECOND),)))
    assert script.result.status == 429
    assert not exchange.resolvers


# the last layer


def innermost(layer: RateLimit, *facts: object) -> tuple[Exchange, Script[Response]]:
    exchange = make_exchange(route=CHAT, facts=facts)
    return exchange, Script(layer.handle(exchange, call_app))


def test_where_no_layer_further_in_can_refuse_a_take_is_final() -> None:
    exchange, script = innermost(RateLimit("10/second"))
    assert script.effect == TakeInPlace((Take("|tenant|layer-tenant-1s", TEN),))
    assert isinstance(script.answer(Taken(((9, SECOND // 10),))), CallApp)
    assert not exchange.resolvers
    script.answer(Response(200))
    assert headers_of(script.result) == ('"layer-tenant-1s";q=10;w=1', '"layer-tenant-1s";r=9;t=1')


def test_a_store_that_must_be_waited_for_takes_under_an_id() -> None:
    """Who waits may be cancelled, and then gives back what was taken."""
    exchange, script = innermost(RateLimit("10/second"))
    assert isinstance(script.answer(None), TakeTokens)
    ((resolver, _),) = exchange.resolvers
    flow = resolver(Outcome(Ending.LEFT, called=False))
    assert flow is not None
    assert isinstance(Script(flow).effect, ReturnTokens)


def test_fields_of_one_value_take_the_place_of_the_application_s() -> None:
    route = Route("POST /v1/chat", dialect=Dialect.OPENAI)
    exchange = make_exchange(route=route)
    script = Script(RateLimit("10/second").handle(exchange, call_app))
    script.answer(Taken(((9, SECOND // 10),)))
    theirs = [(b"X-RateLimit-Limit-Requests", b"500"), (b"x-ratelimit-limit-tokens", b"7000")]
    script.answer(Response(200, Headers(theirs)))
    assert script.result.headers.all("x-ratelimit-limit-requests") == ["10"]
    assert script.result.headers.get("x-ratelimit-reset-requests") == "100ms"
    assert script.result.headers.get("x-ratelimit-limit-tokens") == "7000"


def test_a_policy_says_how_its_limits_are_told_and_the_layer_has_the_last_word() -> None:
    section = RateSection((RateRule(TEN),), signals=Signals.LEGACY)
    told = []
    for layer in (RateLimit(), RateLimit(signals="ietf")):
        _, script = innermost(layer, ACME, Policy.of("acme", [section]))
        script.answer(Shortage((0,), SECOND // 10, ((0, SECOND),)))
        assert script.result.headers.get("retry-after-ms") == "100"
        told.append([script.result.headers.get(name) for name in ("x-ratelimit-remaining", "ratelimit")])
    assert told == [["0", None], [None, '"tenant-1s";r=0;t=1']]


def test_a_refusal_names_the_policies_that_it_violates_unless_nothing_is_told() -> None:
    bodies = []
    for layer in (RateLimit("10/second"), RateLimit("10/second", signals="none")):
        _, script = innermost(layer)
        script.answer(Shortage((0,), 1, ((0, SECOND),)))
        bodies.append(json.loads(script.result.body or b""))
    assert bodies[0]["violated-policies"] == ["layer-tenant-1s"]
    assert "violated-policies" not in bodies[1]


def test_windows_are_counted_under_an_id_beside_their_buckets() -> None:
    rule = RateRule(TEN, strategy=Strategy.FIXED_WINDOW)
    _, script = innermost(RateLimit(), ACME, policy(rule))
    assert isinstance(script.effect, TakeWithWindows)


# which bucket


def test_two_rules_of_one_scope_have_buckets_of_their_own() -> None:
    rules = (RateRule(TEN), RateRule(Rate(100, 60 * SECOND)), RateRule(Rate(3, SECOND, 30)))
    buckets = asked(RateLimit(), ACME, policy(*rules))
    assert buckets == [f"acme|tenant|{name}" for name in ("tenant-1s", "tenant-60s", "tenant-1s-2")]


def test_a_new_amount_goes_on_with_the_same_bucket_and_a_new_period_does_not() -> None:
    layer = RateLimit()
    before = asked(layer, ACME, policy(RateRule(TEN)))
    assert asked(layer, ACME, policy(RateRule(Rate(20, SECOND, 50)))) == before
    assert asked(layer, ACME, policy(RateRule(Rate(10, 60 * SECOND)))) != before


def test_parts_of_a_key_never_run_together() -> None:
    layer = RateLimit("10/second", by=Scope.ROUTE)
    left = asked(layer, Tenant(TenantId("acme/eu")), route=Route("/chat", name="chat"))
    right = asked(layer, Tenant(TenantId("acme")), route=Route("/chat", name="eu/chat"))
    assert left != right


@pytest.mark.parametrize(
    ("by", "fact", "bucket"),
    [
        (Scope.GLOBAL, ACME, "|global|layer-global-1s"),
        (Scope.TENANT, ACME, "acme|tenant|layer-tenant-1s"),
        (Scope.TENANT, None, "|tenant|layer-tenant-1s"),
        (Scope.ROUTE, ACME, "acme|route|layer-route-1s|chat"),
        (Scope.ROUTE, None, "|route|layer-route-1s|chat"),
        (Scope.IDENTITY, ACME, "acme|identity|layer-identity-1s|acme-dev"),
        (Scope.IDENTITY, GLOBEX, "globex|identity|layer-identity-1s"),
        (Scope.IDENTITY, None, "|identity|layer-identity-1s"),
    ],
)
def test_a_layer_with_a_rate_counts_by_what_is_known(by: Scope, fact: Tenant | None, bucket: str) -> None:
    facts = () if fact is None else (fact,)
    assert asked(RateLimit("10/second", by=by), *facts) == [bucket]


def test_a_layer_with_a_rate_stands_alone_and_one_without_needs_a_policy() -> None:
    stack([RateLimit("10/second")])
    stack([RateLimit(TEN)])
    with pytest.raises(ConfigurationError, match="Tenant"):
        stack([RateLimit()])
    with pytest.raises(LayerError, match="Policy"):
        start(RateLimit())


def test_an_impossible_rate_is_refused_when_the_layer_is_made() -> None:
    """E-33."""
    with pytest.raises(ConfigurationError):
        RateLimit("0/second")
    with pytest.raises(ConfigurationError):
        RateLimit("10/second burst 0")


def test_periods_below_a_second_have_no_window() -> None:
    _, script = start(RateLimit(Rate(3, 1_500_000_000)))
    script.answer(Taken(((2, 1),)))
    serve(script)
    assert headers_of(script.result) == (
        '"layer-tenant-1500000000ns";q=3',
        '"layer-tenant-1500000000ns";r=2;t=1',
    )


# whole requests


class Facts:
    """Stands where the tenant layer would; the facts are on the exchange already."""

    provides = (Tenant, Policy)

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        return (yield from proceed(exchange))


class Requests:
    """Layers with a store: answers their effects as a driver does, and ends what they took."""

    def __init__(self, *layers: Layer) -> None:
        self.ports = memory_ports()
        self.handler = stack([Facts(), *layers])
        self.calls = 0

    def send(self, *facts: object) -> Response:
        exchange = make_exchange(route=CHAT, facts=facts, system=self.ports.system)
        called = False
        script = Script(self.handler(exchange))
        while not script.done:
            if isinstance(script.effect, CallApp):
                called = True
                self.calls += 1
                script.answer(Response(200))
            else:
                script.answer(self.perform(script.effect))
        for resolver, _ in reversed(exchange.resolvers):
            flow = resolver(SERVED if called else REFUSED)
            end = Script(flow) if flow is not None else None
            while end is not None and not end.done:
                end.answer(self.perform(end.effect))
        return script.result

    def perform(self, effect: Any) -> Any:
        return effect.call() if hasattr(effect, "call") else effect.perform(self.ports)

    def statuses(self, times: int, *facts: object) -> list[int]:
        return [self.send(*facts).status for _ in range(times)]

    def wait(self, seconds: float) -> None:
        assert isinstance(self.ports.system.clock, ManualClock)
        self.ports.system.clock.advance(seconds)


def test_exactly_a_burst_of_requests_reaches_the_application() -> None:
    """E-27, E-28, E-37: what the rate refuses, no further layer and no application sees."""
    requests = Requests(RateLimit("1/second burst 5"))
    assert requests.statuses(8) == [200] * 5 + [429] * 3
    assert requests.calls == 5


def test_tenants_do_not_affect_each_other() -> None:
    """E-30."""
    requests = Requests(RateLimit("2/minute"))
    assert requests.statuses(3, ACME) == [200, 200, 429]
    assert requests.statuses(3, GLOBEX) == [200, 200, 429]


def test_who_waits_as_the_refusal_says_is_served() -> None:
    """E+3."""
    requests = Requests(RateLimit("7/minute"))
    requests.statuses(7)
    refused = requests.send()
    wait_ms = int(refused.headers.get("retry-after-ms") or "")
    assert int(refused.headers.get("retry-after") or "") == -(-wait_ms // 1000) == 9
    assert refused.headers.get("ratelimit") == '"layer-tenant-60s";r=0;t=9'
    requests.wait((wait_ms - 1) / 1000)
    assert requests.send().status == 429
    requests.wait(0.001)
    assert requests.send().status == 200


def test_refused_requests_take_nothing() -> None:
    requests = Requests(RateLimit("1/second"))
    requests.send()
    for _ in range(100):
        assert requests.send().status == 429
    requests.wait(1)
    assert requests.send().status == 200


def test_several_scopes_are_taken_all_or_none() -> None:
    shared = (RateRule(Rate(100, 60 * SECOND), Scope.GLOBAL), RateRule(Rate(2, 60 * SECOND)))
    requests = Requests(RateLimit())
    assert requests.statuses(50, ACME, policy(*shared)) == [200] * 2 + [429] * 48
    answer = requests.send(GLOBEX, policy(*shared[:1]))
    assert answer.headers.get("ratelimit") == '"global-60s";r=97;t=59'


def test_a_request_that_a_later_layer_refuses_leaves_no_trace() -> None:
    """E-40."""

    @check
    def budget(_: Exchange) -> Deny:
        return Deny("budget", Reason.BUDGET_EXHAUSTED, 402, "Spent.")

    requests = Requests(RateLimit(), budget)
    assert requests.statuses(50, ACME, policy(*ALL_SCOPES)) == [402] * 50
    assert requests.ports.limits.snapshot() == {}  # type: ignore[attr-defined]
    assert "0 open ids" in repr(requests.ports.limits)


def test_a_flood_of_refusals_leaves_nothing_in_the_store() -> None:
    """Which remembers what it answered to an id until that ends, a refusal too."""

    @check
    def passes(_: Exchange) -> None:
        return None

    requests = Requests(RateLimit(), passes)
    assert requests.statuses(50, ACME, policy(RateRule(Rate(2, 60 * SECOND)))) == [200] * 2 + [429] * 48
    assert "0 open ids" in repr(requests.ports.limits)


def test_one_layer_alone_is_middleware() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def get(app: Any) -> tuple[int, dict[bytes, bytes]]:
        heads: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                heads.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        return heads[0]["status"], dict(heads[0]["headers"])

    async def visit() -> list[tuple[int, bytes]]:
        guarded = Guard([RateLimit("2/second")], ports=memory_ports()).asgi(app)
        answers = [await get(guarded) for _ in range(3)]
        return [(status, headers[b"ratelimit"]) for status, headers in answers]

    assert asyncio.run(visit()) == [
        (200, b'"layer-tenant-1s";r=1;t=1'),
        (200, b'"layer-tenant-1s";r=0;t=1'),
        (429, b'"layer-tenant-1s";r=0;t=1'),
    ]


def test_a_websocket_takes_a_unit_when_it_connects() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    async def connect(app: Any) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "websocket", "path": "/", "headers": [], "query_string": b""}, receive, send)
        return sent

    async def visit() -> list[list[Any]]:
        guarded = Guard([RateLimit("2/minute")], ports=memory_ports()).asgi(app)
        return [await connect(guarded) for _ in range(3)]

    first, second, third = asyncio.run(visit())
    assert [message["type"] for message in first] == ["websocket.accept", "websocket.close"]
    assert (b"ratelimit", b'"layer-tenant-60s";r=0;t=30') in second[0]["headers"]
    assert third == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_a_refusal_further_in_says_nothing_of_units_that_are_about_to_come_back() -> None:
    exchange = make_exchange(facts=(ACME,))

    @check
    def closed(_: Exchange) -> Deny:
        return Deny("closed", "closed", 403, "closed")

    script = Script(stack([RateLimit("10/second"), closed])(exchange))
    script.answer(Taken(((9, SECOND),)))
    script.answer(None if script.effect is None else script.effect.call())  # type: ignore[attr-defined]
    assert script.result.status == 403
    assert headers_of(script.result) == (None, None)


# tokens, models, shadows


MODEL = Route("POST /chat", name="chat", usage="openai-chat", max_output=1000)
MINUTE = 60 * SECOND


def tokens(amount: int, burst: int = 0, **more: Any) -> RateRule:
    return RateRule(Rate(amount, MINUTE, burst), unit="tokens", **more)


class Calls:
    """Calls of a model with a rate of tokens, each answered and ended as is said."""

    def __init__(self, *rules: RateRule, combine: Combine = Combine.ALL) -> None:
        self.ports = memory_ports()
        self.layer = RateLimit()
        self.policy = Policy.of("acme", [RateSection(rules, combine)])

    def begin(self, route: Route = MODEL, **members: object) -> tuple[Exchange, Script[Response]]:
        body = json.dumps({"model": "gpt-5", "messages": [], **members}).encode()
        exchange = make_exchange(
            "POST",
            "/chat",
            headers={"accept-encoding": "gzip"},
            body=body,
            route=route,
            facts=(ACME, self.policy),
            system=self.ports.system,
        )
        script = Script(self.layer.handle(exchange, call_app))
        while not (script.done or isinstance(script.effect, CallApp)):
            self.answer(script, exchange)
        return exchange, script

    def answer(self, script: Script[Any], exchange: Exchange) -> None:
        effect: Any = script.effect
        if isinstance(effect, ReadBody):
            script.answer(exchange.request.body_read)
        else:
            script.answer(effect.call() if hasattr(effect, "call") else effect.perform(self.ports))

    def end(self, exchange: Exchange, outcome: Outcome) -> None:
        for resolver, _ in reversed(exchange.resolvers):
            flow = resolver(outcome)
            end = Script(flow) if flow is not None else None
            while end is not None and not end.done:
                self.answer(end, exchange)

    def call(self, document: object, ending: Ending = Ending.COMPLETED, status: int = 200, **members: object) -> int:
        exchange, script = self.begin(**members)
        if script.done:
            return script.result.status
        response = Response(status, Headers([(b"content-type", b"application/json")]))
        script.answer(response)
        for transform in response.transforms:
            transform.feed(json.dumps(document).encode())
            transform.finish()
        self.end(exchange, Outcome(ending, status=status, ended=ending is Ending.COMPLETED))
        return response.status

    def left(self) -> int:
        exchange, script = self.begin(max_tokens=1)
        assert isinstance(script.effect, CallApp)
        self.end(exchange, REFUSED)
        decision = exchange.decisions[0]
        assert isinstance(decision, Allow)
        return int(decision.details["remaining"]) + 1 + PROMPT


PROMPT = -(-len(json.dumps({"model": "gpt-5", "messages": [], "max_tokens": 1})) // 4)


def used(count: int) -> object:
    return {"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 0}}


def test_tokens_are_reserved_by_estimate_and_settled_with_what_was_used() -> None:
    calls = Calls(tokens(1000))
    assert calls.left() == 1000
    assert calls.call(used(30), max_tokens=500) == 200
    assert calls.left() == 970


def test_what_is_reserved_counts_for_others_until_then() -> None:
    """Requests at one time never use more than there is."""
    calls = Calls(tokens(1000))
    begun = [calls.begin(max_tokens=400) for _ in range(5)]
    assert [script.done for _, script in begun] == [False, False, True, True, True]
    assert begun[2][1].result.status == 429
    for exchange, script in begun:
        calls.end(exchange, REFUSED if script.done else Outcome(Ending.FAILED, status=500))
    assert calls.left() == 1000


def test_a_failed_call_uses_nothing_and_its_request_counts() -> None:
    calls = Calls(tokens(1000), RateRule(Rate(10, MINUTE), name="requests"))
    assert calls.call(used(30), Ending.FAILED, 500, max_tokens=500) == 500
    assert calls.ports.limits.snapshot() == {"acme|tenant|requests": 6 * SECOND}  # type: ignore[attr-defined]


def test_more_than_was_estimated_is_owed() -> None:
    calls = Calls(tokens(1000))
    assert calls.call(used(1500), max_tokens=10) == 200
    exchange, script = calls.begin(max_tokens=10)
    assert script.result.status == 429
    assert isinstance(exchange.decisions[0], Deny)
    assert (exchange.decisions[0].retry_after_ms or 0) > 30_000


def test_without_a_cap_a_first_request_always_fits() -> None:
    """A default estimate above the limit would refuse it for ever."""
    calls = Calls(tokens(60))
    assert calls.call(used(20)) == 200
    assert calls.left() == 40


def test_a_request_that_asks_for_more_than_a_burst_can_never_be_granted() -> None:
    calls = Calls(tokens(60))
    assert calls.call(used(20), max_tokens=80, max_completion_tokens=5) == 422
    assert calls.left() == 60


def test_without_any_usage_the_reservation_stays() -> None:
    calls = Calls(tokens(1000))
    calls.call({"object": "chat.completion"}, max_tokens=90)
    assert calls.left() == 1000 - 90 - PROMPT


def test_an_answer_that_cannot_be_read_has_no_known_usage_so_none_is_asked_for() -> None:
    exchange, _ = Calls(tokens(1000)).begin()
    assert exchange.request.headers.get("accept-encoding") is None


def test_the_decoder_of_a_layer_further_in_is_used() -> None:
    calls = Calls(tokens(1000))
    exchange, script = calls.begin(max_tokens=500)
    response = Response(200)
    response.marker = decoder = make_decoder("openai-chat", content_type="application/json")
    script.answer(response)
    assert response.transforms == []
    decoder.feed(json.dumps(used(11)).encode())
    decoder.finish()
    calls.end(exchange, SERVED)
    assert calls.left() == 989


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 5}'])
def test_a_call_that_cannot_be_read_is_refused_and_takes_nothing(body: bytes) -> None:
    exchange = make_exchange("POST", body=body, route=MODEL, facts=(ACME, policy(tokens(10))))
    script = Script(RateLimit().handle(exchange, call_app))
    script.answer(exchange.request.body_read)
    effect: Any = script.effect
    script.answer(effect.call())
    assert script.result.status == 400
    assert not exchange.resolvers


def test_a_model_has_a_bucket_of_its_own_and_a_group_one_for_all() -> None:
    calls = Calls(
        RateRule(Rate(1, MINUTE), Scope.MODEL, name="each"),
        RateRule(Rate(3, MINUTE), Scope.GROUP, group=Group(models=("a", "b", "c", "d")), name="together"),
    )
    statuses = [calls.call(used(1), model=model) for model in ("a", "a", "b", "c", "d", "e")]
    assert statuses == [200, 429, 200, 200, 429, 200]


def test_a_shadow_refuses_nothing_stands_in_no_header_and_is_told() -> None:
    requests = Requests(RateLimit())
    dark = RateRule(Rate(1, MINUTE), Scope.IDENTITY, shadow=True)
    rules = policy(dark, RateRule(Rate(9, MINUTE)))
    answers = [requests.send(ACME, rules) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert headers_of(answers[2]) == ('"tenant-60s";q=9;w=60', '"tenant-60s";r=6;t=40')
    exchange, script = start(RateLimit(), ACME, rules)
    assert isinstance(script.effect, TakeTokens)
    script.answer(requests.ports.limits.execute(script.effect))
    assert exchange.decisions == [Allow("rate", "tenant-60s", {"remaining": 5, "shadowed": ["identity-60s"]})]


def test_with_shadows_alone_there_is_no_header() -> None:
    answer = Requests(RateLimit()).send(ACME, policy(RateRule(Rate(1, MINUTE), shadow=True)))
    assert headers_of(answer) == (None, None)


def test_a_decision_that_a_failing_store_did_not_take_says_so() -> None:
    exchange, script = start(RateLimit("10/second"))
    script.answer(Taken(((9, 1),), degraded=True))
    assert exchange.decisions == [Allow("rate", "layer-tenant-1s", {"remaining": 9, "degraded": True})]


def test_what_a_failing_store_means_goes_with_the_command() -> None:
    section = RateSection((RateRule(TEN),), on_error=OnError.CLOSED)
    _, script = start(RateLimit(), ACME, Policy.of("acme", [section]))
    assert isinstance(script.effect, TakeTokens)
    assert script.effect.on_error is OnError.CLOSED


def test_the_most_specific_rate_takes_the_place_of_the_wider_ones() -> None:
    calls = Calls(
        RateRule(Rate(1, MINUTE)),
        RateRule(Rate(3, MINUTE), Scope.ROUTE, group=Group(("chat",))),
        combine=Combine.OVERRIDE,
    )
    assert [calls.call(used(1)) for _ in range(4)] == [200, 200, 200, 429]


def test_a_unit_of_the_route_is_taken_as_often_as_it_says() -> None:
    route = Route("POST /pictures", name="pictures", takes=(("pictures", 2),))
    _, script = start(RateLimit(), ACME, policy(RateRule(TEN, unit="pictures")), route=route)
    assert isinstance(script.effect, TakeTokens)
    assert script.effect.takes == (Take("acme|tenant|tenant-pictures-1s", TEN, 2),)


def test_routes_of_one_name_take_what_each_of_them_says() -> None:
    layer, of = RateLimit(), policy(RateRule(TEN, unit="pictures"))
    for pictures in (2, 3):
        route = Route(f"POST /pictures/{pictures}", name="pictures", takes=(("pictures", pictures),))
        _, script = start(layer, ACME, of, route=route)
        assert isinstance(script.effect, TakeTokens)
        assert script.effect.takes == (Take("acme|tenant|tenant-pictures-1s", TEN, pictures),)


def test_a_layer_can_limit_tokens_by_itself() -> None:
    layer = RateLimit("100 tokens/minute")
    exchange, script = start(layer, route=CHAT)  # it has no usage
    assert isinstance(script.effect, CallApp)
    assert not exchange.resolvers
    _, script = start(layer, route=MODEL)
    assert isinstance(script.effect, ReadBody)
