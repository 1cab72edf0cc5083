"""The charge layer as the script of its flow: no server, store, clock or mock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.errors import ConfigurationError
from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Body, Ending, Headers, Outcome, Response, Unreadable
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import Exhausted, Held, HoldState, PlaceHold, Resolved, ResolveHold
from tenantguard.layers.charge import Charge
from tenantguard.model.charge import Charged
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.price import PriceBook, TokenPrice, UnknownModel
from tenantguard.model.route import OnDisconnect, OnMissingUsage, Route
from tenantguard.model.sections import ACCOUNT_SCOPES, BudgetRule, BudgetSection, Scope
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.model.usage import Usage
from tenantguard.testing import Script, make_exchange

ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
PRICE = TokenPrice.parse(input="1 USD/1M", output="2 USD/1M", cache_read="0.1 USD/1M", cache_write="1.25 USD/1M")
BOOK = PriceBook({"small": PRICE})
BUDGET = Policy.of("acme", [BudgetSection((BudgetRule(Amount.parse("10 USD"), Period.MONTH),))])
CHAT = Route("POST /v1/chat/completions", usage="openai-chat", max_output=100)
JOBS = Route("POST /jobs", price=Amount.parse("0.25 USD"))
ENDS_OK = Outcome(Ending.COMPLETED, status=200, ended=True, sent=10)


def chat_body(**members: Any) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], **members}).encode()


def start(route: Route, *, body: bytes | None = None, policy: Policy = BUDGET, book: PriceBook = BOOK) -> Any:
    exchange = make_exchange("POST", "/", route=route, body=body, facts=(ACME, policy))
    script = Script(Charge(PriceTable(book)).handle(exchange, call_app))
    if isinstance(script.effect, ReadBody):
        script.answer(exchange.request.body_read)
    if isinstance(script.effect, Compute):
        script.answer(script.effect.call())
    return exchange, script


def respond(script: Any, body: bytes, content_type: str = "application/json", status: int = 200) -> Response:
    """Let the application answer, and its bytes pass the tap."""
    assert isinstance(script.effect, CallApp)
    headers = Headers([(b"content-type", content_type.encode())])
    script.answer(Response(status, headers))
    response: Response = script.result
    for transform in response.transforms:
        transform.feed(body)
        transform.finish()
    return response


def settle(exchange: Any, outcome: Outcome) -> ResolveHold:
    """Run the one resolver; it must end the hold."""
    ((resolver, strict),) = exchange.resolvers
    assert strict
    script = Script(resolver(outcome))
    command = script.effect
    assert isinstance(command, ResolveHold)
    amounts = command.amounts
    state = HoldState.VOIDED if amounts is None else HoldState.SETTLED
    script.answer(Resolved(state, amounts or (0,)))
    assert script.done
    return command


def usage_body(prompt: int, completion: int) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef",
            "model": "small",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        },
    ).encode()


def test_a_route_without_a_price_passes_untouched() -> None:
    exchange, script = start(Route("/free"))
    assert isinstance(script.effect, CallApp)
    assert exchange.resolvers == []


def test_a_price_per_request_is_held_before_the_application_runs_and_settled_after_it() -> None:
    exchange, script = start(JOBS)
    hold = script.effect
    assert isinstance(hold, PlaceHold)
    (leg,) = hold.legs
    assert (leg.budget, leg.unit, leg.limit) == (("tenant", "acme", "month"), "USD", 10_000_000_000)
    assert leg.most == leg.least == 250_000_000
    script.answer(Held((250_000_000,)))
    script.answer(Response(200))
    command = settle(exchange, ENDS_OK)
    assert (command.id, command.amounts) == (hold.id, (250_000_000,))
    assert exchange.get(Charged).amount == Amount.parse("0.25 USD")


def test_the_end_of_a_hold_is_registered_before_it_is_placed() -> None:
    """A request can be cancelled after the store took and before the layer hears."""
    exchange, script = start(JOBS)
    assert isinstance(script.effect, PlaceHold)
    assert len(exchange.resolvers) == 1
    script.close()
    command = settle(exchange, Outcome(Ending.FAILED, called=False))
    assert command.amounts is None


def test_an_exhausted_budget_is_refused_with_402_and_reports_both_numbers() -> None:
    """E-38."""
    exchange, script = start(JOBS)
    script.answer(
        Exhausted(0, needed=250_000_000, available=0, spent=9_900_000_000, held=100_000_000, window_ends_ns=1)
    )
    assert script.result.status == 402
    assert script.result.headers.get("retry-after") is None
    assert script.result.headers.get("x-should-retry") == "false"
    (denial,) = exchange.decisions
    assert denial.reason == Reason.BUDGET_EXHAUSTED
    assert (str(denial.details["spent"]), str(denial.details["limit"])) == ("9.90 USD", "10.00 USD")
    ((resolver, _),) = exchange.resolvers
    assert resolver(Outcome(Ending.REFUSED, called=False)) is None, "a refusal leaves no trace in the ledger"
    assert "9.90" not in script.result.body.decode()


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.REFUSED])
def test_what_failed_or_was_refused_is_never_charged(ending: Ending) -> None:
    """E+7."""
    exchange, script = start(JOBS)
    script.answer(Held((250_000_000,)))
    assert settle(exchange, Outcome(ending, status=500)).amounts is None
    assert exchange.get(Charged).basis == "nothing"


def test_a_decoded_call_holds_the_bytes_of_its_body_and_its_output_cap() -> None:
    exchange, script = start(CHAT, body=chat_body())
    hold = script.effect
    assert isinstance(hold, PlaceHold)
    sent = exchange.request.body
    assert json.loads(sent)["max_completion_tokens"] == 100
    dearest, output = 1_250_000_000, 2_000_000_000
    assert hold.legs[0].most == -(-(dearest * len(sent) + output * 100) // 1_000_000)


def test_a_decoded_call_is_charged_its_usage_at_the_models_price() -> None:
    """E-41 in our unit: a rate is per million tokens."""
    exchange, script = start(CHAT, body=chat_body())
    script.answer(Held((10**9,)))
    response = respond(script, usage_body(1000, 1000))
    assert response.marker is not None
    assert response.marker.ended
    assert settle(exchange, ENDS_OK).amounts == (1_000_000 + 2_000_000,)
    charged = exchange.get(Charged)
    assert (charged.basis, charged.usage) == ("usage", Usage(input_tokens=1000, output_tokens=1000, requests=1))


def test_an_explicit_zero_usage_costs_zero_and_a_missing_one_costs_the_hold() -> None:
    exchange, script = start(CHAT, body=chat_body())
    script.answer(Held((10**9,)))
    respond(script, usage_body(0, 0))
    assert settle(exchange, ENDS_OK).amounts == (0,)
    exchange, script = start(CHAT, body=chat_body())
    hold = script.effect.legs[0].most
    script.answer(Held((hold,)))
    respond(script, b'{"choices": []}')
    assert settle(exchange, ENDS_OK).amounts == (hold,)
    assert exchange.get(Charged).basis == "hold"


def test_a_route_may_void_what_reports_no_usage() -> None:
    route = Route(
        "POST /v1/chat/completions", usage="openai-chat", max_output=1, on_missing_usage=OnMissingUsage.VOID
    )
    exchange, script = start(route, body=chat_body())
    script.answer(Held((10**9,)))
    respond(script, b'{"choices": []}')
    assert settle(exchange, ENDS_OK).amounts is None


def test_an_unknown_model_is_refused_before_the_call_and_nothing_is_held() -> None:
    """E-46."""
    exchange, script = start(CHAT, body=chat_body(model="mystery"))
    assert script.result.status == 403
    assert exchange.decisions[0].reason == Reason.PRICE_UNKNOWN
    assert exchange.resolvers == []
    assert b"mystery" not in script.result.body


def test_an_unknown_model_goes_free_with_a_warning_where_that_was_chosen() -> None:
    """E-49."""
    exchange, script = start(CHAT, body=chat_body(model="mystery"), book=PriceBook(unknown=UnknownModel.WARN))
    assert isinstance(script.effect, CallApp)
    assert exchange.resolvers == []


def test_a_call_without_any_output_cap_is_refused() -> None:
    _, script = start(Route("/v1/chat/completions", usage="openai-chat"), body=chat_body())
    assert script.result.status == 400
    assert json.loads(script.result.body)["error"]["code"] == "output.unbounded"


def test_a_call_that_asks_for_more_than_can_be_priced_is_refused() -> None:
    route = Route("/v1/chat/completions", usage="openai-chat")
    _, script = start(route, body=chat_body(max_tokens=2**53, n=2**20))
    assert script.result.status == 400
    assert json.loads(script.result.body)["error"]["code"] == "output.unbounded"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 1}', b'{"model": "a", "model": "b"}', b"[" * 10_000],
)
def test_a_body_that_cannot_be_read_is_refused_with_400(body: bytes) -> None:
    """E-15."""
    exchange, script = start(CHAT, body=body)
    assert script.result.status == 400
    assert json.loads(script.result.body)["error"]["code"] == "body.malformed"
    assert exchange.resolvers == []


def test_a_body_too_large_is_refused_with_413() -> None:
    exchange = make_exchange("POST", "/", route=CHAT, facts=(ACME, BUDGET))
    script = Script(Charge(PriceTable(BOOK)).handle(exchange, call_app))
    script.answer(Unreadable(Reason.BODY_TOO_LARGE, 413, "too large"))
    assert script.result.status == 413


def test_the_application_is_asked_for_identity_bytes_on_a_decoded_route() -> None:
    exchange = make_exchange("POST", "/", route=CHAT, facts=(ACME, BUDGET), headers={"accept-encoding": "gzip"})
    exchange.request.body_read = Body(chat_body())
    script = Script(Charge(PriceTable(BOOK)).handle(exchange, call_app))
    script.answer(exchange.request.body_read)
    script.answer(script.effect.call())
    script.answer(Held((10**9,)))
    assert exchange.request.headers.get("accept-encoding") is None
    script.answer(Response(200, Headers([(b"content-encoding", b"gzip")])))
    assert script.result.status == 502


def test_an_error_of_the_application_is_relayed_without_a_tap() -> None:
    _, script = start(CHAT, body=chat_body())
    script.answer(Held((10**9,)))
    response = respond(script, b"{}", status=500)
    assert response.transforms == []
    assert response.marker is None


def test_units_are_held_at_their_most_and_charged_as_reported() -> None:
    cents = Amount.parse("0.04 USD")
    route = Route("POST /images", unit="images", unit_price=cents, max_units=10)
    exchange, script = start(route)
    assert script.effect.legs[0].most == 400_000_000
    script.answer(Held((400_000_000,)))
    exchange.report(images=3)
    assert settle(exchange, ENDS_OK).amounts == (120_000_000,)


def test_a_reported_price_replaces_the_computed_one() -> None:
    exchange, script = start(JOBS)
    script.answer(Held((250_000_000,)))
    exchange.report(price="0.02 USD")
    assert settle(exchange, ENDS_OK).amounts == (20_000_000,)


def test_every_budget_of_the_policy_is_a_leg_counted_over_its_scope() -> None:
    ten = Amount.parse("10 USD")
    scopes = [BudgetRule(ten, Period.DAY, scope) for scope in Scope if scope in ACCOUNT_SCOPES]
    _, script = start(JOBS, policy=Policy.of("acme", [BudgetSection(tuple(scopes))]))
    assert [leg.budget for leg in script.effect.legs] == [
        ("global", "day"),
        ("tenant", "acme", "day"),
        ("route", "acme", "POST /jobs", "day"),
        ("identity", "acme", "acme-dev", "day"),
    ]


def test_spending_without_a_budget_is_recorded_without_a_limit() -> None:
    _, script = start(JOBS, policy=EMPTY_POLICY)
    (leg,) = script.effect.legs
    assert leg.limit is None


def test_a_budget_in_another_currency_is_a_configuration_error() -> None:
    euros = Policy.of("acme", [BudgetSection((BudgetRule(Amount.parse("10 EUR"), Period.DAY),))])
    with pytest.raises(ConfigurationError, match="EUR"):
        start(JOBS, policy=euros)


def test_a_stream_cut_before_its_usage_is_charged_what_was_counted() -> None:
    exchange, script = start(CHAT, body=chat_body(stream=True))
    script.answer(Held((10**12,)))
    script.answer(Response(200, Headers([(b"content-type", b"text/event-stream")])))
    tap, _ceiling = script.result.transforms
    delta = {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
    tap.feed(b"data: " + json.dumps(delta).encode() + b"\n\n")
    command = settle(exchange, Outcome(Ending.CUT, status=200, reason="redaction.failed", sent=10))
    tokens_in = -(-len(exchange.request.body) // 4)
    assert command.amounts == (tokens_in * 1000 + 10 * 2000,)
    assert command.evidence["basis"] == "counted"


def test_a_request_priced_route_cut_before_its_first_byte_costs_nothing() -> None:
    exchange, script = start(JOBS)
    script.answer(Held((250_000_000,)))
    assert settle(exchange, Outcome(Ending.CUT, status=200, sent=0)).amounts is None


@pytest.mark.parametrize(
    ("on_disconnect", "ended", "expected"),
    [
        (None, True, 3_000_000),
        (None, False, "hold"),
        (OnDisconnect.VOID, True, None),
        (OnDisconnect.OBSERVED, True, 3_000_000),
    ],
)
def test_a_client_that_leaves_pays_what_its_route_says(
    on_disconnect: OnDisconnect | None,
    expected: object,
    *,
    ended: bool,
) -> None:
    """E+8."""
    route = Route("/v1/chat/completions", usage="openai-chat", max_output=100, on_disconnect=on_disconnect)
    exchange, script = start(route, body=chat_body())
    most = script.effect.legs[0].most
    script.answer(Held((most,)))
    if ended:
        respond(script, usage_body(1000, 1000))
    else:
        script.answer(Response(200))
    command = settle(exchange, Outcome(Ending.LEFT, status=200, ended=ended))
    wanted = most if expected == "hold" else expected
    assert command.amounts == (None if wanted is None else (wanted,))


def test_a_client_that_leaves_before_the_application_is_called_pays_nothing() -> None:
    exchange, script = start(CHAT, body=chat_body())
    script.answer(Held((10**12,)))
    assert settle(exchange, Outcome(Ending.LEFT, called=False)).amounts is None


def test_a_refusal_is_written_in_the_shape_of_the_provider() -> None:
    exchange, script = start(CHAT, body=chat_body())
    script.answer(Exhausted(0, needed=1, available=0, spent=0, held=0, window_ends_ns=None))
    assert json.loads(script.result.body)["error"]["type"] == "insufficient_quota"
    assert isinstance(exchange.decisions[0], Deny)
