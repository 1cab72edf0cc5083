"""The idempotency layer as the script of its flow: alone, and before what a request takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.adapters.sealing import AESGCMSealer
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Body, Ending, Headers, Outcome, Response, Unreadable
from tenantguard.flow.layer import call_app, stack
from tenantguard.flow.ports import (
    Exhausted,
    FindClaim,
    Held,
    PlaceHold,
    Resolved,
    ResolveHold,
    ReturnTokens,
    Taken,
    TakeTokens,
)
from tenantguard.flow.session import Session
from tenantguard.layers.charge import Charge
from tenantguard.layers.idempotency import Idempotency
from tenantguard.layers.rate_limit import RateLimit
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.ledger import Claim, Conflict, HoldState, Repeated
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.price import PriceBook
from tenantguard.model.route import Dialect, OnMissingUsage, Route
from tenantguard.model.route import Idempotency as OnKey
from tenantguard.model.sections import QuotaRule, QuotaSection
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.idempotency import Recording, fingerprint
from tenantguard.testing import Script, make_exchange

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.layer import Handler

ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
PRICE = Amount.parse("0.25 USD")
NANOS = PRICE.nanos
JOBS = Route("POST /jobs", price=PRICE)
REPLAYED = Route("POST /jobs", price=PRICE, idempotency=OnKey.REPLAY)
BODY = b'{"job": 1}'
SEALER = AESGCMSealer(b"a key for tests alone, of 32 bytes or more")
HOLD = bytes(range(16))
SERVED = Outcome(Ending.COMPLETED, status=200, ended=True, sent=10)


class Facts:
    """Stands where the tenant layer does: what that leaves is on the exchange already."""

    provides = (Tenant, Policy)

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        return (yield from proceed(exchange))


def make(route: Route = JOBS, *, key: str | None = "k-1", policy: Policy = EMPTY_POLICY, **more: Any) -> Exchange:
    headers = {**({} if key is None else {"Idempotency-Key": key}), **more.pop("headers", {})}
    return make_exchange("POST", "/jobs", route=route, headers=headers, facts=(ACME, policy), **more)


def run(exchange: Exchange, layer: Any = None, body: bytes = BODY) -> Script[Response]:
    """The flow until something else is asked than for the body."""
    layers = layer if isinstance(layer, list) else [layer or Idempotency(SEALER)]
    script = Script(stack([Facts(), *layers])(exchange))
    if isinstance(script.effect, ReadBody):
        exchange.request.body_read = exchange.request.body_read or Body(body)
        script.answer(exchange.request.body_read)
    if isinstance(script.effect, Compute):
        script.answer(script.effect.call())
    return script


def serve(
    script: Script[Response], exchange: Exchange, body: bytes = b'{"ok":true}', status: int = 200, **headers: str
) -> None:
    """Let the application answer, and its whole body pass the layers' transforms."""
    assert isinstance(script.effect, CallApp)
    lines = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in lines.items()]
    script.answer(Response(status, Headers(raw)))
    session = Session(exchange)
    session.call()
    session.respond(script.result)
    assert session.feed(body, more=False) == body


def settle(exchange: Exchange, outcome: Outcome = SERVED) -> ResolveHold:
    (resolver, _), *_ = [pair for pair in exchange.resolvers if pair[1]]
    script = Script(resolver(outcome))
    command = script.effect
    assert isinstance(command, ResolveHold)
    voided = command.amounts is None
    script.answer(Resolved(HoldState.VOIDED if voided else HoldState.SETTLED, command.amounts or (0,)))
    return command


def problem(script: Script[Response]) -> Any:
    assert script.result.body is not None
    return json.loads(script.result.body)


def kept_answer(body: bytes = b'{"ok":true}', **headers: str) -> bytes:
    """What serving and settling a first request keeps."""
    exchange = make(REPLAYED)
    script = run(exchange, [Idempotency(SEALER), Charge(PriceTable(PriceBook({})))])
    script.answer(None)
    script.answer(Held((NANOS,)))
    serve(script, exchange, body, **headers)
    command = settle(exchange)
    assert command.answer is not None
    assert command.answer[0] == "k-1"
    return command.answer[1]


# which requests are asked about


@pytest.mark.parametrize(
    "exchange",
    [
        make(key=None),
        make(Route("POST /jobs", price=PRICE, idempotency=OnKey.OFF)),
        make(Route("POST /jobs")),
        make(Route("POST /jobs"), key="no key, but nothing is taken either"),
    ],
)
def test_without_a_key_or_anything_to_take_a_request_passes_untouched(exchange: Exchange) -> None:
    script = run(exchange)
    assert isinstance(script.effect, CallApp)
    assert exchange.find(Claim) is None
    assert exchange.request.body_read is None


def test_a_key_claims_what_the_request_asks_before_anything_is_taken() -> None:
    exchange = make()
    script = run(exchange)
    claim = Claim("k-1", fingerprint("POST", "/jobs", b"", BODY))
    assert script.effect == FindClaim(ACME.id, claim)
    assert exchange.get(Claim) == claim
    script.answer(None)
    assert isinstance(script.effect, CallApp)
    assert exchange.decisions == [Allow("idempotency", "new")]


def test_a_request_that_takes_units_of_a_quota_is_asked_about_too() -> None:
    quotas = Policy.of("acme", [QuotaSection((QuotaRule("requests", 10, Period.DAY),))])
    script = run(make(Route("POST /jobs"), policy=quotas))
    assert isinstance(script.effect, FindClaim)


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "a,b"])
def test_a_malformed_key_is_refused_with_400(key: str) -> None:
    exchange = make(key=key)
    script = run(exchange)
    assert script.result.status == 400
    assert problem(script)["code"] == "idempotency.invalid"
    assert exchange.find(Claim) is None


def test_a_body_that_cannot_be_read_is_refused_as_elsewhere() -> None:
    exchange = make()
    script = Script(Idempotency().handle(exchange, call_app))
    assert script.effect == ReadBody(10 * 1024 * 1024)
    script.answer(Unreadable(Reason.BODY_TOO_LARGE, 413, "too large"))
    assert script.result.status == 413
    assert problem(script)["code"] == "body.too_large"


def test_a_ledger_that_does_not_answer_is_the_drivers_to_refuse() -> None:
    script = run(make())
    with pytest.raises(PortError):
        script.fail(PortError("ledger", "down"))


# the second request


def test_the_second_request_is_refused_and_told_the_charge() -> None:
    """S+5."""
    exchange = make()
    script = run(exchange)
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), units=("USD",)))
    assert (script.result.status, script.result.headers.get("retry-after")) == (409, None)
    told = problem(script)
    assert (told["code"], told["hold"], told["charged"]) == ("idempotency.already_done", HOLD.hex(), ["0.25 USD"])
    assert exchange.resolvers == []
    (denial,) = exchange.decisions
    assert isinstance(denial, Deny)
    assert "k-1" not in repr(denial)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
def test_where_a_provider_is_spoken_its_message_tells_the_charge(dialect: Dialect) -> None:
    script = run(make(Route("POST /jobs", price=PRICE, dialect=dialect)))
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), units=("USD",)))
    assert "charged 0.25 USD" in problem(script)["error"]["message"]


def test_a_request_that_asks_for_something_else_under_the_same_key_is_refused_with_422() -> None:
    script = run(make())
    script.answer(Conflict())
    assert script.result.status == 422
    assert problem(script)["code"] == "idempotency.conflict"


@pytest.mark.parametrize("route", [JOBS, REPLAYED])
def test_while_the_first_is_in_flight_the_second_is_told_to_wait_a_second(route: Route) -> None:
    script = run(make(route))
    script.answer(Repeated(HOLD, HoldState.PENDING, ()))
    assert (script.result.status, script.result.headers.get("retry-after")) == (409, "1")
    assert problem(script)["code"] == "idempotency.in_flight"


def test_of_two_that_pass_together_the_ledger_lets_one_hold_and_the_other_takes_nothing() -> None:
    """S+5."""
    exchange = make()
    script = run(exchange, [Idempotency(), RateLimit("10/second"), Charge(PriceTable(PriceBook({})))])
    script.answer(None)
    script.answer(None)
    assert isinstance(script.effect, TakeTokens)
    script.answer(Taken(((9, 1),)))
    hold = script.effect
    assert isinstance(hold, PlaceHold)
    assert hold.claim == exchange.get(Claim)
    script.answer(Repeated(HOLD, HoldState.PENDING, ()))
    assert (script.result.status, script.result.headers.get("retry-after")) == (409, "1")
    refused = Outcome(Ending.REFUSED, called=False)
    ended = [resolver(refused) for resolver, _ in reversed(exchange.resolvers)]
    assert ended[0] is None, "no hold, so nothing to end"
    assert isinstance(Script(ended[1]).effect, ReturnTokens)


def test_a_retry_takes_no_token_no_quota_and_no_money() -> None:
    """S+5: what is asked of the outside is who has the key, and nothing more."""
    exchange = make()
    script = run(exchange, [Idempotency(), RateLimit("10/second"), Charge(PriceTable(PriceBook({})))])
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), units=("USD",)))
    assert script.result.status == 409
    assert exchange.resolvers == []


# the kept response


def test_a_kept_response_is_given_again_and_says_so() -> None:
    answer = kept_answer(b'{"ok":true}', set_cookie="a=b", date="today", location="/jobs/1")
    assert b"ok" not in answer
    exchange = make(REPLAYED)
    script = run(exchange)
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), answer, ("USD",)))
    response = script.result
    assert (response.status, response.body) == (200, b'{"ok":true}')
    assert response.headers.raw == [
        (b"content-type", b"application/json"),
        (b"location", b"/jobs/1"),
        (b"idempotent-replayed", b"true"),
    ]
    assert exchange.decisions == [Allow("idempotency", "replay", {"hold": HOLD.hex()})]


def replayed(exchange: Exchange, answer: bytes, layer: Idempotency | None = None) -> bool:
    script = run(exchange, layer or Idempotency(SEALER))
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), answer, ("USD",)))
    if script.result.status == 200:
        return True
    assert problem(script)["code"] == "idempotency.already_done"
    return False


def test_a_response_is_given_again_to_nobody_but_who_asked_first() -> None:
    answer = kept_answer()
    assert replayed(make(REPLAYED), answer)
    assert not replayed(make(REPLAYED, headers={"cookie": "session=other"}), answer)
    assert not replayed(make(REPLAYED, headers={"authorization": "Bearer other"}), answer)
    colleague = make(REPLAYED)
    colleague.put(Tenant(ACME.id, Identity("acme-ops", ACME.id)))
    assert not replayed(colleague, answer)


def test_a_response_is_kept_for_a_day() -> None:
    answer = kept_answer()
    for elapsed, expected in ((86_399.0, True), (86_400.0, False)):
        exchange = make(REPLAYED)
        exchange.system.clock.advance(elapsed)  # type: ignore[attr-defined]
        assert replayed(exchange, answer) is expected
    exchange = make(REPLAYED)
    exchange.system.clock.advance(5)  # type: ignore[attr-defined]
    assert not replayed(exchange, answer, Idempotency(SEALER, keep_s=5))


def test_a_response_sealed_by_another_key_counts_as_not_kept() -> None:
    other = Idempotency(AESGCMSealer(b"another key for tests alone, of 32 bytes"))
    assert not replayed(make(REPLAYED), kept_answer(), other)


def test_a_route_that_refuses_repetitions_gives_no_kept_response() -> None:
    assert not replayed(make(JOBS), kept_answer())


def test_a_route_that_keeps_responses_without_a_key_to_encrypt_them_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="POST /jobs"):
        run(make(REPLAYED), Idempotency())


def settled(exchange: Exchange, script: Script[Response], outcome: Outcome = SERVED, **answer: Any) -> ResolveHold:
    script.answer(None)
    assert isinstance(script.effect, PlaceHold)
    script.answer(Held(tuple([leg.most for leg in script.effect.legs])))
    serve(script, exchange, **answer)
    return settle(exchange, outcome)


def charged(layer: Idempotency) -> list[Any]:
    return [layer, Charge(PriceTable(PriceBook({})))]


def test_a_body_beyond_the_bound_is_charged_and_not_kept() -> None:
    for size, is_kept in ((10, True), (11, False)):
        exchange = make(REPLAYED)
        command = settled(exchange, run(exchange, charged(Idempotency(SEALER, keep_bytes=10))), body=b"x" * size)
        assert command.amounts == (NANOS,)
        assert (command.answer is not None) is is_kept


def test_without_replay_nothing_is_taken_down() -> None:
    exchange = make(JOBS)
    script = run(exchange, charged(Idempotency(SEALER)))
    command = settled(exchange, script)
    assert (command.amounts, command.answer) == ((NANOS,), None)
    assert exchange.find(Recording) is None


def test_what_is_not_charged_is_not_kept() -> None:
    """So the key is free again: the rule forgets the claim of a voided hold."""
    exchange = make(REPLAYED)
    command = settled(exchange, run(exchange, charged(Idempotency(SEALER))), Outcome(Ending.FAILED, status=500))
    assert (command.amounts, command.answer) == (None, None)


def test_a_head_without_its_body_is_not_kept() -> None:
    exchange = make(REPLAYED)
    exchange.request.method = "HEAD"
    script = run(exchange, charged(Idempotency(SEALER)))
    script.answer(None)
    script.answer(Held((NANOS,)))
    script.answer(Response(200))
    assert script.result.transforms == []
    assert settle(exchange).answer is None


def test_a_refusal_of_a_layer_further_in_is_not_kept() -> None:
    exchange = make(REPLAYED)
    script = run(exchange, charged(Idempotency(SEALER)))
    script.answer(None)
    script.answer(Exhausted(0, 1, 0, 0, 0, None))
    assert script.result.status == 402
    assert exchange.find(Recording) is None


def test_what_waits_for_an_operator_is_not_kept() -> None:
    route = Route(
        "POST /jobs", usage="json:pages", unit="pages", unit_price=PRICE, max_units=2,
        on_missing_usage=OnMissingUsage.REVIEW, idempotency=OnKey.REPLAY,
    )  # fmt: skip
    exchange = make(route)
    script = run(exchange, charged(Idempotency(SEALER)))
    command = settled(exchange, script)
    assert command.review
    assert command.answer is None


def test_two_in_a_race_on_a_replaying_route_are_told_to_ask_again() -> None:
    exchange = make(REPLAYED)
    script = run(exchange, charged(Idempotency(SEALER)))
    script.answer(None)
    script.answer(Repeated(HOLD, HoldState.SETTLED, (NANOS,), b"sealed", ("USD",)))
    assert (script.result.status, script.result.headers.get("retry-after")) == (409, "1")
