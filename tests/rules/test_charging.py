"""What an exchange may cost and what its ending costs: bounds that hold, and the table of ``docs/charging.md``."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenantguard.model.charge import Reported
from tenantguard.model.money import Amount
from tenantguard.model.outcome import Ending, Outcome
from tenantguard.model.price import TokenPrice
from tenantguard.model.route import OnDisconnect, OnMissingUsage, Route
from tenantguard.model.token_price import Tier
from tenantguard.model.usage import Usage
from tenantguard.rules.charging import Bill, Price, is_callers_own, on_disconnect, price_of
from tenantguard.rules.pricing import Quote
from tenantguard.rules.rates import Conversion
from tenantguard.rules.usage import UnitSource, make_decoder

CHAT = Route("POST /chat", usage="openai-chat")
PAGES = Route("POST /pages", unit="pages", unit_price=Amount(7, "USD"), max_units=10, price=Amount(3, "USD"))
FLAT = Route("POST /jobs", price=Amount(500, "USD"))
EURO = Conversion("USD", "EUR", Fraction(9, 10), "v1")
DOLLAR_A_TOKEN = TokenPrice(10**6, 2 * 10**6, 0, 0, "USD")  # 1 and 2 nanos a token
HELD = 9_999

completed = Outcome(Ending.COMPLETED, status=200, received=9, sent=9, ended=True)
left = Outcome(Ending.LEFT, status=200, received=9, sent=4)
left_ended = replace(left, ended=True)
cut = Outcome(Ending.CUT, status=200, received=9, sent=4)


def bill(route: Route = CHAT, price: TokenPrice | None = DOLLAR_A_TOKEN, **more: Any) -> Bill:
    made = Bill(route, "USD", quote=None if price is None else Quote("m", price, "v1", "model"), held_nanos=HELD)
    made.input_bytes, made.output_tokens = 100, 50
    if route.price is not None:
        made.flat_nanos = route.price.nanos
    if route.unit_price is not None:
        made.unit_nanos = route.unit_price.nanos
    for name, value in more.items():
        setattr(made, name, value)
    return made


def decoded(route: Route = CHAT, usage: dict[str, Any] | None = None, **more: Any) -> Bill:
    """A bill whose decoder has read a whole document, with or without usage."""
    made = bill(route, **more)
    decoder = make_decoder("openai-chat", content_type="application/json")
    document = {"id": "r", "model": "m", "choices": [{"finish_reason": "stop", "message": {"content": "hi"}}]}
    decoder.feed(json.dumps(document | ({} if usage is None else {"usage": usage})).encode())
    decoder.finish()
    made.decoder = decoder
    return made


def streamed(text: str, **more: Any) -> Bill:
    """A bill whose decoder has seen a stream begin, and no end."""
    made = bill(**more)
    made.decoder = make_decoder("openai-chat", content_type="text/event-stream")
    made.decoder.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
    return made


def end(made: Bill, outcome: Outcome, choice: OnDisconnect = OnDisconnect.DRAIN, **told: Any) -> Price:
    return price_of(made, outcome, choice, Reported(**told) if told else None)


USED = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
COST = 10 * 1 + 4 * 2


# the endings


def test_a_completed_response_costs_what_it_used() -> None:
    """E-41, E-74."""
    assert end(decoded(usage=USED), completed)[:2] == (COST, "usage")


def test_usage_of_zero_is_a_value_and_costs_nothing_but_the_request() -> None:
    """E-47."""
    price = end(decoded(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), completed)
    assert price[:2] == (0, "usage")
    priced = replace(CHAT, price=Amount(5, "USD"))
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert end(decoded(priced, zero), completed)[:2] == (5, "usage")


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.FAILED, Ending.LOST])
@pytest.mark.parametrize("made", [bill(FLAT, None), bill(PAGES, None), decoded(usage=USED), decoded()])
@pytest.mark.parametrize("choice", list(OnDisconnect))
def test_what_was_refused_or_failed_costs_nothing(ending: Ending, made: Bill, choice: OnDisconnect) -> None:
    """E+7: an exception or an error status leaves nothing charged."""
    assert end(made, Outcome(ending, status=500), choice) == Price(None, "nothing")


def test_a_price_for_the_request_is_due_when_it_completes() -> None:
    assert end(bill(FLAT, None), completed)[:2] == (500, "price")


def test_reported_units_cost_their_price_each() -> None:
    assert end(bill(PAGES, None), completed, units={"pages": 4, "images": 9}) == Price(3 + 28, "units", None, 4)
    assert end(bill(PAGES, None), completed) == Price(3, "units")


def test_a_reported_price_replaces_ours_in_the_currency_of_the_hold() -> None:
    made = decoded(usage=USED)
    assert end(made, completed, price=Amount(77, "USD"))[:2] == (77, "reported")
    made.conversion = EURO
    assert end(made, completed, price=Amount(77, "EUR"))[:2] == (77, "reported")
    assert end(made, completed, price=Amount(77, "USD"))[:2] == (70, "reported")
    assert end(made, completed, price=Amount(77, "JPY"))[:2] == (HELD, "hold")


def test_reported_usage_counts_before_what_was_decoded() -> None:
    told = Usage(input_tokens=1, output_tokens=1)
    assert end(decoded(usage=USED), completed, usage=told)[:3] == (3, "reported", told)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (HELD, "hold")),
        (OnMissingUsage.CHARGE_HOLD, (HELD, "hold")),
        (OnMissingUsage.VOID, (None, "nothing")),
        (OnMissingUsage.REVIEW, (None, "review")),
        (OnMissingUsage.ESTIMATE, (25 + 24 * 2, "counted")),  # of 98 bytes in, 94 out
    ],
)
def test_usage_that_is_missing_costs_what_the_route_says(
    choice: OnMissingUsage | None, expected: tuple[int | None, str]
) -> None:
    price = end(decoded(replace(CHAT, on_missing_usage=choice)), completed)
    assert price[:2] == expected
    assert price.review is (choice is OnMissingUsage.REVIEW)


def test_an_application_that_counts_a_unit_and_says_no_number_costs_nothing_unless_the_route_says_so() -> None:
    counting = replace(PAGES, usage="header:x-pages")
    for route, expected in (
        (counting, Price(None, "nothing")),
        (replace(counting, on_missing_usage=OnMissingUsage.CHARGE_HOLD), Price(HELD, "hold", None, 10)),
    ):
        made = bill(route, None)
        made.decoder = UnitSource.parse("header:x-pages").decoder("pages", content_type="text/plain", values=())
        made.decoder.finish()
        assert end(made, completed) == expected
        assert end(made, completed, units={"pages": 2})[:2] == (3 + 14, "units")


def test_what_a_protocol_announced_counts_before_what_is_estimated() -> None:
    made = bill(replace(CHAT, usage="anthropic-messages"))
    made.decoder = make_decoder("anthropic-messages", content_type="text/event-stream")
    for kind, event in (
        ("message_start", {"message": {"id": "r", "model": "m", "usage": {"input_tokens": 70, "output_tokens": 1}}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "x" * 12}}),
    ):
        text = json.dumps({"type": kind} | event)
        made.decoder.feed(f"event: {kind}\ndata: {text}\n\n".encode())
    price = end(made, cut)
    assert price[:2] == (70 + 2 * 3, "counted")


def test_a_client_that_left_pays_what_the_route_says() -> None:
    """E+7, E+8: a stream aborted by the client is charged for what was seen so far where so configured."""
    whole = decoded(usage=USED)
    assert end(whole, left_ended)[:2] == (COST, "usage")
    assert end(whole, left)[:2] == (HELD, "hold"), "the drain gave up before the end"
    assert end(whole, left_ended, OnDisconnect.VOID) == Price(None, "nothing")
    assert end(whole, left, OnDisconnect.OBSERVED)[:2] == (COST, "counted")
    begun = streamed("x" * 40)
    assert end(begun, left, OnDisconnect.OBSERVED)[:2] == (25 + 2 * 10, "counted")
    assert end(bill(FLAT, None), left, OnDisconnect.OBSERVED) == Price(None, "nothing")
    assert end(bill(FLAT, None), left_ended, OnDisconnect.DRAIN)[:2] == (500, "price")


@pytest.mark.parametrize("choice", list(OnDisconnect))
def test_a_client_that_left_before_the_application_was_called_pays_nothing(choice: OnDisconnect) -> None:
    for made in (decoded(usage=USED), bill(FLAT, None)):
        assert end(made, replace(left, called=False), choice) == Price(None, "nothing")


def test_units_that_were_seen_are_due_from_a_client_that_left() -> None:
    counting = replace(PAGES, usage="header:x-pages")
    made = bill(counting, None)
    made.decoder = UnitSource.parse("header:x-pages").decoder("pages", content_type="text/plain", values=("4",))
    made.decoder.finish()
    assert made.decoder.usage is not None
    assert end(made, completed)[:4] == (3 + 28, "usage", made.decoder.usage, 4)
    observed = end(made, left, OnDisconnect.OBSERVED)
    assert (observed.nanos, observed.units) == (3 + 28, 4)


def test_a_response_that_was_cut_costs_what_had_been_used() -> None:
    assert end(decoded(usage=USED), cut)[:2] == (COST, "usage")
    assert end(streamed("x" * 40), cut)[:2] == (25 + 2 * 10, "counted")
    assert end(bill(FLAT, None), cut)[:2] == (500, "price")
    assert end(bill(FLAT, None), replace(cut, sent=0)) == Price(None, "nothing")


def test_a_response_that_had_failed_by_itself_and_was_cut_costs_nothing() -> None:
    assert end(decoded(usage=USED, failed=True), cut) == Price(None, "nothing")
    failed = decoded(usage=USED)
    assert failed.decoder is not None
    failed.decoder.failed = True
    assert end(failed, cut) == Price(None, "nothing")
    broken = streamed("x" * 40)
    assert broken.decoder is not None
    broken.decoder.finish()
    assert broken.decoder.broken
    assert end(broken, cut) == Price(None, "nothing")


def test_what_happens_when_the_client_leaves_follows_from_usage_unless_the_route_says_it() -> None:
    assert on_disconnect(CHAT) is OnDisconnect.DRAIN
    assert on_disconnect(FLAT) is OnDisconnect.VOID
    for choice, route in product(OnDisconnect, (CHAT, FLAT)):
        assert on_disconnect(replace(route, on_disconnect=choice)) is choice


# bounds

rates = st.integers(0, 10**8)
maybe = st.one_of(st.none(), rates)
others = {
    "cache_write_1h": maybe, "audio_input": maybe, "image_input": maybe, "audio_output": maybe, "image_output": maybe,
    "reasoning": maybe, "request": st.integers(0, 10**4),
}  # fmt: skip
tiers = st.builds(Tier, rates, rates, rates, rates, st.integers(0, 3000), **others)
plain_prices = st.builds(
    TokenPrice, rates, rates, rates, rates, st.just("USD"), **others,
    tiers=st.one_of(st.just(()), tiers.map(lambda tier: (tier,))),
)  # fmt: skip
services = st.one_of(st.fractions(0, 4, max_denominator=8), plain_prices)
prices = st.builds(
    lambda price, flex, fast: replace(price, services=(("flex", flex), ("fast", fast))),
    plain_prices, services, services,
)  # fmt: skip
routes = st.sampled_from([CHAT, PAGES, FLAT, replace(PAGES, usage="openai-chat")])
conversions = st.one_of(
    st.none(),
    st.builds(Conversion, st.just("USD"), st.just("EUR"), st.fractions("1/9", 9, max_denominator=99), st.just("v")),
)
bills = st.builds(
    lambda price, route, factor, **more: bill(
        route, **more, quote=None if price is None else Quote("m", price, "v", "model", factor=factor)
    ),
    st.one_of(st.none(), plain_prices, prices), routes, st.fractions(0, 3, max_denominator=20),
    conversion=conversions, input_bytes=st.integers(0, 6000), output_tokens=st.integers(0, 5000),
    service_tier=st.sampled_from([None, "flex", "default"]),
)  # fmt: skip


@settings(deadline=None)
@given(bills, st.integers(0, 5000), st.integers(0, 5000))
def test_more_output_is_never_bounded_by_less(made: Bill, fewer: int, more: int) -> None:
    assume(fewer <= more)
    assert 0 <= made.bound(fewer) <= made.bound(more)


@settings(deadline=None)
@given(bills, st.data())
def test_affordable_is_the_most_that_an_amount_bounds(made: Bill, data: st.DataObject) -> None:
    least = data.draw(st.integers(0, made.output_tokens))
    nanos = data.draw(st.integers(made.bound(least), max(made.bound(least), made.bound(made.output_tokens) + 5)))
    most = made.affordable(nanos, least)
    assert least <= most <= made.output_tokens
    assert made.bound(most) <= nanos
    assert most == made.output_tokens or made.bound(most + 1) > nanos


@settings(deadline=None, max_examples=300)
@given(bills, st.data())
def test_no_usage_within_the_bounds_costs_more_than_was_bounded(made: Bill, data: st.DataObject) -> None:
    def split(total: int, parts: int) -> list[int]:
        cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=parts, max_size=parts)))
        return [after - before for before, after in zip([0, *cuts], cuts, strict=False)]

    inputs = split(made.input_bytes, 5)
    outputs = split(made.output_tokens, 3)
    service_tier = made.service_tier
    if service_tier is None:
        service_tier = data.draw(st.sampled_from([None, "flex", "fast", "standard", "unheard of"]))
    usage = Usage(
        inputs[0], outputs[0], inputs[1], inputs[2],
        cache_write_1h_tokens=inputs[3], audio_input_tokens=inputs[4], audio_output_tokens=outputs[1],
        image_output_tokens=outputs[2],
        reasoning_tokens=data.draw(st.integers(0, outputs[0])),
        image_input_tokens=data.draw(st.integers(0, inputs[0])),
        service_tier=data.draw(st.sampled_from([None, service_tier])),
    )  # fmt: skip
    units = data.draw(st.integers(0, made.route.max_units or 0))
    assert made.cost(usage, units) <= made.bound(made.output_tokens)
    assert made.cost(None, units) <= made.bound(made.output_tokens)


def test_a_bound_counts_the_request_its_units_and_the_dearest_tokens() -> None:
    price = TokenPrice(10**6, 2 * 10**6, 3 * 10**6, 0, "USD", reasoning=5 * 10**6, request=11)
    made = bill(replace(PAGES, usage="openai-chat"), price)
    assert made.bound(50) == 3 + 7 * 10 + 11 + 100 * 3 + 50 * 5
    made.conversion = EURO
    assert made.bound(50) == -(-(3 + 70 + 11 + 300 + 250) * 9 // 10)


@pytest.mark.parametrize(("nanos", "affordable"), [(100 + 16, 8), (100 + 17, 8), (100 + 18, 9), (10**9, 50)])
def test_affordable_is_what_the_amount_covers_to_the_token(nanos: int, affordable: int) -> None:
    assert bill().affordable(nanos, 8) == affordable
    assert bill(output_tokens=8).affordable(nanos, 8) == 8


def test_money_is_converted_once_and_rounded_up() -> None:
    made = bill(PAGES, None, conversion=EURO)
    assert made.held_in == "EUR"
    assert made.cost(None, 1) == 9
    assert made.bound(0) == -(-73 * 9 // 10)


def test_what_a_provider_says_that_it_costs_is_charged_only_where_the_route_says_so() -> None:
    told = Usage(input_tokens=10, output_tokens=4, reported_cost=Amount(5, "USD"))
    assert bill().cost(told, 0) == COST
    assert bill(replace(CHAT, charge_reported=True)).cost(told, 0) == 5
    foreign = replace(told, reported_cost=Amount(5, "EUR"))
    assert bill(replace(CHAT, charge_reported=True)).cost(foreign, 0) == COST


def test_evidence_says_which_price_and_what_was_used() -> None:
    made = decoded(usage=USED, conversion=EURO)
    price = end(made, completed)
    told = made.evidence(price)
    assert (told["model"], told["price_version"], told["served_model"]) == ("m", "v1", "m")
    assert told["exchange_rate"]["rate"] == "9/10"
    assert (told["usage"]["input"], told["usage"]["output"]) == (10, 4)
    assert json.loads(json.dumps(told)) == told


THIRDS = Fraction(4, 3)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([None, EURO]))
def test_the_exact_cost_is_told_where_it_was_rounded_to_the_charge(
    read: int, written: int, euro: Conversion | None
) -> None:
    """Worked out anew in fractions: 1 and 2 nanos a token, and a third more for this tenant."""
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    made = decoded(usage=usage, conversion=euro)
    assert made.quote is not None
    made.quote = replace(made.quote, factor=THIRDS)
    price = end(made, completed)
    told = made.evidence(price)
    exact = (read + 2 * written) * THIRDS * (1 if euro is None else euro.rate)
    assert price.nanos is not None
    assert abs(price.nanos - exact) < 1
    if exact.denominator == 1:
        assert "exact_cost" not in told
    else:
        assert Fraction(told["exact_cost"]) * 10**9 == exact
    assert told["price_factor"] == "4/3"


def test_evidence_of_a_figure_that_others_reported_has_no_cost_by_tokens_and_no_markup_that_was_not_applied() -> None:
    marked = decoded(usage={"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10})
    assert marked.quote is not None
    marked.quote = replace(marked.quote, factor=THIRDS)
    own = end(marked, completed, price=Amount(5_000, "USD"))
    assert own[:2] == (5_000, "reported")
    assert not {"exact_cost", "price_factor"} & marked.evidence(own).keys()
    providers = bill(replace(CHAT, charge_reported=True))
    assert providers.quote is not None
    providers.quote = replace(providers.quote, factor=THIRDS)
    usage = Usage(input_tokens=10, reported_cost=Amount(3_000, "USD"))
    charged = Price(providers.cost(usage, 0), "usage", usage)
    assert charged.nanos == 4_000
    told = providers.evidence(charged)
    assert "exact_cost" not in told
    assert told["price_factor"] == "4/3"


def test_evidence_has_the_counts_that_are_always_told_and_those_that_are_there() -> None:
    made = bill()
    assert made.evidence(Price(0, "usage", Usage()))["usage"] == {
        "input": 0,
        "output": 0,
        "cache_read": 0,
        "cache_write": 0,
    }
    full = Usage(
        1, 2, 3, 4, cache_write_1h_tokens=5, units={"images": 6}, service_tier="flex", reported_cost=Amount(7, "USD")
    )
    assert made.evidence(Price(0, "usage", full))["usage"] == {
        "input": 1, "output": 2, "cache_read": 3, "cache_write": 4, "cache_write_1h": 5, "units": {"images": 6},
        "service_tier": "flex", "reported_cost": "0.000000007 USD",
    }  # fmt: skip
    assert "usage" not in made.evidence(Price(0, "price"))
    assert Bill(FLAT) == Bill(FLAT, "", 0, 0, None, None, 0, 0, 0, None, 0, None, failed=False)


def test_a_model_that_no_settings_hold_is_not_written_down_as_it_came() -> None:
    made = bill()
    assert made.quote is not None
    made.quote = replace(made.quote, model="alice@example.com says", matched_by="default")
    assert made.evidence(Price(0, "price"))["model"] == "(withheld)"


@pytest.mark.parametrize(
    ("response_id", "headers", "own"),
    [
        ("chatcmpl-7f3a91bc", [], False),
        ("chatcmpl-7f3a91bc", [(b"host", b"models.example"), (b"accept", b"application/json")], False),
        ("chatcmpl-7f3a91bc", [(b"host", b"models.example"), (b"x-request-id", b"7F3A-91BC")], True),
        ("chatcmpl-7f3a91bc", [(b"traceparent", b"00-7f3a91bc-01"), (b"accept", b"application/json")], True),
        ("resp_7f3a91bc4d2e", [(b"x-trace", b"91bc4d"), (b"accept", b"text/html")], True),
        ("resp_7f3a91bc4d2e", [(b"x-short", b"91bc4"), (b"accept", b"text/html")], False),
        ("msg_7f3a91bc", [(b"x-first", b"trace-7f3a"), (b"x-second", b"91bc-trace")], False),
        ("msg_", [(b"accept", b"text/html")], True),
    ],
)
def test_an_id_that_stands_in_a_header_or_has_one_in_it_is_the_callers_own(
    response_id: str, headers: list[tuple[bytes, bytes]], *, own: bool
) -> None:
    assert is_callers_own(response_id, headers) is own
