"""What the charge layer does beyond one price: lowered caps, quotas, currencies, ceilings, reviews, claims."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.flow.effects import CallApp, Compute, ReadBody
from tenantguard.flow.http import Cut, Ending, Headers, Outcome, Response
from tenantguard.flow.layer import call_app
from tenantguard.flow.ports import (
    Claim,
    Conflict,
    Exhausted,
    Held,
    HoldState,
    OnOrphan,
    PlaceHold,
    Repeated,
    Resolved,
    ResolveHold,
)
from tenantguard.layers.charge import MAX_OUTPUT_HEADER, Charge
from tenantguard.model.charge import Charged
from tenantguard.model.decision import Reason
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import Policy
from tenantguard.model.price import PriceBook, TokenPrice
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.route import OnMissingUsage, Route
from tenantguard.model.sections import BudgetRule, BudgetSection, Mode, QuotaRule, QuotaSection, Threshold
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.rules.rates import RateTable
from tenantguard.testing import Script, make_exchange

ACME = Tenant(TenantId("acme"), Identity("acme-dev", TenantId("acme")))
PRICE = TokenPrice.parse(input="1 USD/1M", output="2 USD/1M", cache_read="0.1 USD/1M", cache_write="1.25 USD/1M")
BOOK = PriceBook({"small": PRICE})
BUDGET = BudgetSection((BudgetRule(Amount.parse("10 USD"), Period.MONTH),))
CHAT = Route("POST /v1/chat/completions", usage="openai-chat", max_output=1000)
JOBS = Route("POST /jobs", price=Amount.parse("0.25 USD"), takes=(("jobs", 2),))
ENDS_OK = Outcome(Ending.COMPLETED, status=200, ended=True, sent=10)
EVENTS = [(b"content-type", b"text/event-stream")]


def chat_body(**members: Any) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], **members}).encode()


def start(
    route: Route,
    *sections: object,
    body: bytes | None = None,
    rates: RateTable | None = None,
    facts: tuple[object, ...] = (),
) -> Any:
    policy = Policy.of("acme", sections)
    exchange = make_exchange("POST", "/", route=route, body=body, facts=(ACME, policy, *facts))
    script = Script(Charge(PriceTable(BOOK), rates=rates).handle(exchange, call_app))
    if isinstance(script.effect, ReadBody):
        script.answer(exchange.request.body_read)
    if isinstance(script.effect, Compute):
        script.answer(script.effect.call())
    return exchange, script


def settle(exchange: Any, outcome: Outcome = ENDS_OK) -> ResolveHold:
    ((resolver, _),) = exchange.resolvers
    script = Script(resolver(outcome))
    command = script.effect
    assert isinstance(command, ResolveHold)
    script.answer(Resolved(HoldState.VOIDED if command.amounts is None else HoldState.SETTLED, command.amounts or ()))
    return command


def hold_of(script: Any) -> PlaceHold:
    assert isinstance(script.effect, PlaceHold)
    return script.effect


# the output cap


def test_a_budget_that_buys_less_output_lowers_the_cap_and_says_so() -> None:
    exchange, script = start(CHAT, BUDGET, body=chat_body(max_tokens=500))
    (leg,) = hold_of(script).legs
    assert leg.least < leg.most
    affordable = leg.most - 2_000 * 400  # 400 tokens less, at 2 USD a million
    script.answer(Held((affordable,)))
    assert isinstance(script.effect, CallApp)
    assert json.loads(exchange.request.body)["max_tokens"] == 100
    script.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    assert script.result.headers.get(MAX_OUTPUT_HEADER) == "100"


def test_a_budget_that_buys_it_all_changes_and_says_nothing() -> None:
    exchange, script = start(CHAT, BUDGET, body=chat_body(max_tokens=500))
    script.answer(Held((hold_of(script).legs[0].most,)))
    assert json.loads(exchange.request.body)["max_tokens"] == 500
    script.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    assert script.result.headers.get(MAX_OUTPUT_HEADER) is None


def test_the_cap_is_lowered_over_all_choices_together() -> None:
    exchange, script = start(CHAT, BUDGET, body=chat_body(max_tokens=500, n=2))
    script.answer(Held((hold_of(script).legs[0].most - 2_000 * 401,)))
    assert json.loads(exchange.request.body)["max_tokens"] == 299


def test_no_cap_is_lowered_below_what_the_route_calls_useful() -> None:
    _, script = start(replace(CHAT, min_output=300), BUDGET, body=chat_body(max_tokens=200))
    (leg,) = hold_of(script).legs
    assert leg.least == leg.most


def test_the_charge_of_a_lowered_call_never_passes_what_was_granted() -> None:
    exchange, script = start(CHAT, BUDGET, body=chat_body(max_tokens=500))
    granted = hold_of(script).legs[0].most - 2_000 * 400
    script.answer(Held((granted,)))
    script.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    settle(exchange)  # usage is missing, so the whole hold is charged
    assert exchange.get(Charged).amount.nanos == granted


# quotas


QUOTAS = QuotaSection(
    (
        QuotaRule("requests", 100, Period.DAY),
        QuotaRule("jobs", 10, Period.MONTH, thresholds=(Threshold(80),)),
        QuotaRule("sessions", 3, Period.LIFETIME, returned=True),
    )
)


def test_a_request_takes_the_units_of_its_route_with_its_money() -> None:
    exchange, script = start(JOBS, BUDGET, QUOTAS)
    money, requests, jobs = hold_of(script).legs
    assert (money.unit, money.most) == ("USD", 250_000_000)
    assert (requests.unit, requests.limit, requests.most, requests.least) == ("requests", 100, 1, 1)
    assert (jobs.unit, jobs.most, jobs.budget) == ("jobs", 2, ("tenant", "acme", "month"))
    assert jobs.terms.thresholds == (Threshold(80),)
    script.answer(Held((250_000_000, 1, 2)))
    script.answer(Response(200))
    assert settle(exchange).amounts == (250_000_000, 1, 2)


def test_units_that_come_back_are_held_and_settled_with_nothing() -> None:
    route = Route("/chat-room", takes=(("sessions", 1),))
    exchange, script = start(route, QuotaSection((QUOTAS.rules[2],)))
    (sessions,) = hold_of(script).legs
    assert (sessions.unit, sessions.period) == ("sessions", Period.LIFETIME)
    script.answer(Held((1,)))
    script.answer(Response(200))
    assert settle(exchange).amounts == (0,)
    assert exchange.find(Charged) is None


def test_a_quota_counts_requests_of_routes_without_a_price_too() -> None:
    exchange, script = start(Route("/free"), QuotaSection((QUOTAS.rules[0],)))
    assert [leg.unit for leg in hold_of(script).legs] == ["requests"]
    script.answer(Held((1,)))
    script.answer(Response(500))
    assert settle(exchange, Outcome(Ending.FAILED, status=500)).amounts is None


def test_an_exhausted_quota_says_which() -> None:
    exchange, script = start(JOBS, BUDGET, QUOTAS)
    script.answer(Exhausted(2, needed=2, available=1, spent=9, held=0, window_ends_ns=1))
    assert script.result.status == 402
    denial = exchange.decisions[-1]
    assert denial.reason == Reason.QUOTA_EXHAUSTED
    assert (denial.details["unit"], denial.details["spent"], denial.details["limit"]) == ("jobs", 9, 10)


def test_reported_units_are_settled_as_they_were_used() -> None:
    route = Route("/draw", unit="images", unit_price=Amount.parse("0.02 USD"), max_units=4)
    exchange, script = start(route, BUDGET, QuotaSection((QuotaRule("images", 50, Period.DAY),)))
    assert [leg.most for leg in hold_of(script).legs] == [80_000_000, 4]
    script.answer(Held((80_000_000, 4)))
    exchange.report(images=3)
    script.answer(Response(200))
    assert settle(exchange).amounts == (60_000_000, 3)


def test_a_soft_budget_brings_terms_that_refuse_nothing() -> None:
    soft = BudgetSection((BudgetRule(Amount.parse("1 USD"), Period.DAY, mode=Mode.SOFT),))
    _, script = start(JOBS, soft)
    (leg,) = hold_of(script).legs
    assert not leg.terms.strict


def test_what_a_soft_budget_cannot_hold_lowers_no_cap() -> None:
    soft = BudgetRule(Amount.parse("1 USD"), Period.DAY, mode=Mode.SOFT)
    both = BudgetSection((*BUDGET.rules, soft))
    exchange, script = start(CHAT, both, body=chat_body(max_tokens=500))
    script.answer(Held((hold_of(script).legs[0].most, 0)))
    assert json.loads(exchange.request.body)["max_tokens"] == 500


# currencies and mark-ups


def test_prices_in_another_currency_are_held_and_charged_in_the_budgets_own() -> None:
    euros = BudgetSection((BudgetRule(Amount.parse("10 EUR"), Period.MONTH),))
    rates = RateTable.parse("2026-11-20", "USD", {"EUR": "1.25 USD"})
    exchange, script = start(JOBS, euros, rates=rates)
    (leg,) = hold_of(script).legs
    assert (leg.unit, leg.most) == ("EUR", 200_000_000)
    script.answer(Held((200_000_000,)))
    script.answer(Response(200))
    command = settle(exchange)
    assert command.amounts == (200_000_000,)
    assert command.evidence["exchange_rate"]["version"] == "2026-11-20"
    assert exchange.get(Charged).amount == Amount.parse("0.20 EUR")


def test_a_reported_price_is_converted_by_the_same_rate() -> None:
    euros = BudgetSection((BudgetRule(Amount.parse("10 EUR"), Period.MONTH),))
    rates = RateTable.parse("2026-11-20", "USD", {"EUR": "1.25 USD"})
    exchange, script = start(JOBS, euros, rates=rates)
    script.answer(Held((200_000_000,)))
    exchange.report(price="0.10 USD")
    script.answer(Response(200))
    assert settle(exchange).amounts == (80_000_000,)


def test_a_mark_up_makes_tokens_dearer_and_is_recorded() -> None:
    _, plain = start(CHAT, BUDGET, body=chat_body())
    exchange, marked = start(CHAT, BUDGET, PricingSection(markup=Fraction(1, 2)), body=chat_body())
    assert hold_of(marked).legs[0].most == hold_of(plain).legs[0].most * 3 // 2
    marked.answer(Held((hold_of(marked).legs[0].most,)))
    marked.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    assert settle(exchange).evidence["price_factor"] == "1.5"


# endings


def test_missing_usage_can_be_left_to_an_operator() -> None:
    exchange, script = start(replace(CHAT, on_missing_usage=OnMissingUsage.REVIEW), BUDGET, body=chat_body())
    script.answer(Held((hold_of(script).legs[0].most,)))
    script.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    command = settle(exchange)
    assert (command.amounts, command.review) == (None, True)


def test_missing_usage_can_be_estimated_from_the_bytes() -> None:
    exchange, script = start(replace(CHAT, on_missing_usage=OnMissingUsage.ESTIMATE), BUDGET, body=chat_body())
    script.answer(Held((hold_of(script).legs[0].most,)))
    script.answer(Response(200, Headers([(b"content-type", b"application/json")])))
    command = settle(exchange)
    assert command.evidence["basis"] == "counted"
    assert command.amounts == (-(-len(exchange.request.body) // 4) * 1_000,)


def test_a_stream_that_ignores_its_cap_is_cut_with_an_error_event() -> None:
    _, script = start(CHAT, BUDGET, body=chat_body(max_tokens=10, stream=True))
    script.answer(Held((hold_of(script).legs[0].most,)))
    script.answer(Response(200, Headers(EVENTS)))
    tap, ceiling = script.result.transforms
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 500)
    assert ceiling.feed(tap.feed(event)) == event
    for _ in range(4):
        cut = ceiling.feed(tap.feed(event))
    assert isinstance(cut, Cut)
    assert json.loads(cut.tail.partition(b"data: ")[2])["error"]["code"] == "output.ceiling"


def test_a_stream_that_says_itself_that_it_passed_its_cap_is_cut_there() -> None:
    _, script = start(CHAT, BUDGET, body=chat_body(max_tokens=10, stream=True))
    script.answer(Held((hold_of(script).legs[0].most,)))
    script.answer(Response(200, Headers(EVENTS)))
    tap, ceiling = script.result.transforms

    def event(total: int) -> bytes:
        delta = {"choices": [{"index": 0, "delta": {"content": "some text "}}]}
        usage = {"prompt_tokens": 5, "completion_tokens": total, "total_tokens": 5 + total}
        return f"data: {json.dumps({**delta, 'usage': usage})}\n\n".encode()

    for total in (4, 8, 10):
        assert not isinstance(ceiling.feed(tap.feed(event(total))), Cut)
    assert isinstance(ceiling.feed(tap.feed(event(11))), Cut)


def test_usage_that_a_header_tells_is_priced_by_the_unit() -> None:
    route = Route("/scan", usage="header:x-pages", unit="pages", unit_price=Amount.parse("0.01 USD"), max_units=100)
    exchange, script = start(route, BUDGET)
    script.answer(Held((1_000_000_000,)))
    script.answer(Response(200, Headers([(b"content-type", b"application/pdf"), (b"x-pages", b"7")])))
    (tap,) = script.result.transforms
    tap.feed(b"%PDF")
    tap.finish()
    command = settle(exchange)
    assert (command.amounts, command.evidence["basis"]) == ((70_000_000,), "usage")


# claims


def test_a_claim_is_part_of_the_hold() -> None:
    claim = Claim("key-1", b"fingerprint")
    _, script = start(replace(JOBS, on_orphan=OnOrphan.REVIEW), BUDGET, facts=(claim,))
    hold = hold_of(script)
    assert (hold.claim, hold.on_orphan) == (claim, OnOrphan.REVIEW)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Conflict(), 422),
        (Repeated(b"h" * 16, HoldState.PENDING, ()), 409),
        (Repeated(b"h" * 16, HoldState.SETTLED, (5,)), 409),
    ],
)
def test_a_claim_that_another_hold_has_is_refused_and_leaves_no_trace(answer: object, status: int) -> None:
    exchange, script = start(JOBS, BUDGET, facts=(Claim("key-1", b"fingerprint"),))
    script.answer(answer)
    assert script.result.status == status
    ((resolver, _),) = exchange.resolvers
    assert resolver(Outcome(Ending.REFUSED, called=False)) is None


def test_a_flood_against_a_spent_budget_asks_the_ledger_once() -> None:
    layer = Charge(PriceTable(BOOK))
    policy = Policy.of("acme", (BUDGET,))

    def ask(*facts: object) -> tuple[Any, Any]:
        exchange = make_exchange("POST", "/", route=JOBS, facts=(ACME, policy, *facts))
        return exchange, Script(layer.handle(exchange, call_app))

    first, script = ask()
    script.answer(Exhausted(0, needed=250_000_000, available=0, spent=10**10, held=0, window_ends_ns=None))
    second, script = ask()
    assert script.result.status == 402
    assert second.decisions[-1].details == first.decisions[-1].details
    assert second.resolvers == []
    _, script = ask(Claim("key-1", b"fingerprint"))
    assert isinstance(script.effect, PlaceHold)


class CountedPrices:
    def __init__(self) -> None:
        self.asked = 0

    def quote(self, model: str) -> Any:
        self.asked += 1
        return PriceTable(BOOK).quote(model)


def test_the_same_request_against_a_spent_budget_is_refused_before_it_is_priced_again() -> None:
    prices = CountedPrices()
    layer = Charge(prices)
    policy, other = Policy.of("acme", (BUDGET,)), Policy.of("acme", (BUDGET,))

    def ask(body: bytes, *facts: object, policy: Policy = policy, route: Route = CHAT) -> tuple[Any, Any]:
        exchange = make_exchange("POST", "/", route=route, body=body, facts=(ACME, policy, *facts))
        script = Script(layer.handle(exchange, call_app))
        script.answer(exchange.request.body_read)
        if isinstance(script.effect, Compute):
            script.answer(script.effect.call())
        return exchange, script

    first, script = ask(chat_body())
    script.answer(Exhausted(0, needed=1, available=0, spent=10**10, held=0, window_ends_ns=None))
    for _ in range(3):
        again, script = ask(chat_body())
        assert script.result.status == 402
        assert again.decisions[-1] == first.decisions[-1]
        assert prices.asked == 2
    ask(chat_body(max_tokens=900))
    ask(chat_body(), policy=other)
    ask(chat_body(), route=replace(CHAT, image_tokens=1))
    ask(chat_body(), Tenant(TenantId("acme"), Identity("another", TenantId("acme"))))
    assert prices.asked == 6
    _, script = ask(chat_body(), Claim("key-1", b"fingerprint"))
    assert isinstance(script.effect, PlaceHold)


# what a request brings


def with_parts(*parts: dict[str, Any]) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": list(parts)}]}).encode()


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
DOCUMENT = {"type": "file", "file": {"file_id": "file-1"}}


def test_pictures_are_part_of_the_hold() -> None:
    plain = with_parts({"type": "text", "text": "x"})
    _, without = start(CHAT, BUDGET, body=plain)
    _, with_picture = start(replace(CHAT, image_tokens=1000), BUDGET, body=with_parts(PICTURE))
    dearest_nanos = 1_250  # a token, for writing to the cache
    difference = len(with_parts(PICTURE)) - len(plain) + 1000
    assert hold_of(with_picture).legs[0].most - hold_of(without).legs[0].most == difference * dearest_nanos


def test_a_file_by_reference_is_refused_unless_the_route_says_how_large_it_may_be() -> None:
    exchange, script = start(CHAT, BUDGET, body=with_parts(DOCUMENT))
    assert script.result.status == 400
    assert exchange.decisions[-1].reason == Reason.INPUT_UNBOUNDED
    _, script = start(replace(CHAT, file_tokens=100_000), BUDGET, body=with_parts(DOCUMENT))
    assert hold_of(script).legs[0].most > 100_000 * 1_250
