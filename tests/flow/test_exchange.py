"""The exchange: its id, facts, decisions, refusals, and what layers register on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tenantguard.errors import LayerError, TenantGuardError
from tenantguard.flow.exchange import CURRENT, Exchange, current
from tenantguard.flow.http import Request
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.money import Amount
from tenantguard.model.route import Dialect, Route
from tenantguard.testing import make_exchange, manual_system


@dataclass(frozen=True)
class Colour:
    name: str


class SubColour(Colour):
    pass


def test_an_id_is_minted_once_and_when_it_is_asked_for() -> None:
    system = manual_system()
    exchange = make_exchange(system=system)
    assert exchange.new_id() == (1).to_bytes(16, "big")
    assert exchange.id == exchange.id == (2).to_bytes(16, "big").hex()
    assert exchange.new_id() == (3).to_bytes(16, "big")


def test_an_inner_exchange_has_the_id_of_the_outer_one() -> None:
    system = manual_system()
    outer = make_exchange(system=system)
    inner = Exchange(Request("GET", "/"), system, outer=outer)
    assert inner.id == outer.id
    assert Exchange(Request("GET", "/"), system, outer=outer, id="given").id == "given"


def test_facts_are_kept_by_their_own_type_and_a_later_one_replaces() -> None:
    exchange = make_exchange(facts=(Colour("red"),))
    exchange.put(SubColour("pink"))
    assert exchange.get(Colour) == Colour("red")
    exchange.put(Colour("blue"))
    assert exchange.get(Colour) == exchange.find(Colour) == Colour("blue")
    assert exchange.get(SubColour) == SubColour("pink")
    assert exchange.find(str) is None


def test_a_fact_that_nobody_left_is_an_error_that_names_it() -> None:
    with pytest.raises(LayerError, match="no layer further out left a Colour"):
        make_exchange().get(Colour)


def test_decisions_are_kept_in_order() -> None:
    exchange = make_exchange()
    denial = Deny("b", "b.no", 403, "No.")
    exchange.allow("a", "rule 7", cost=3)
    exchange.deny(denial)
    assert exchange.decisions == [Allow("a", "rule 7", {"cost": 3}), denial]


@pytest.mark.parametrize(
    ("route", "dialect"),
    [
        (Route(), Dialect.PROBLEM),
        (Route(usage="openai-chat"), Dialect.OPENAI),
        (Route(usage="openai-embeddings"), Dialect.OPENAI),
        (Route(usage="anthropic-messages"), Dialect.ANTHROPIC),
        (Route(usage="openai-chat", dialect=Dialect.PROBLEM), Dialect.PROBLEM),
        (Route(dialect=Dialect.ANTHROPIC), Dialect.ANTHROPIC),
    ],
)
def test_a_refusal_is_written_as_its_route_speaks(route: Route, dialect: Dialect) -> None:
    exchange = make_exchange(route=route)
    assert exchange.dialect is dialect
    response = exchange.deny(Deny("rate", Reason.RATE_EXCEEDED, 429, "Slow down.", retry_after_ms=1500))
    assert response.status == 429
    assert response.headers.get("retry-after") == "2"
    body = json.loads(response.body or b"")
    code = {
        Dialect.PROBLEM: lambda: body["code"],
        Dialect.OPENAI: lambda: body["error"]["code"],
        Dialect.ANTHROPIC: lambda: body["error"]["code"],
    }[dialect]()
    assert code == "rate.exceeded"


def test_a_refusal_tells_nothing_of_its_details() -> None:
    response = make_exchange().deny(Deny("x", "x.no", 403, "No.", details={"why": "a secret"}))
    assert b"secret" not in (response.body or b"")


def test_resolvers_and_observers_are_kept_in_the_order_of_registration() -> None:
    exchange = make_exchange()
    first: Any = lambda outcome: None  # noqa: E731
    second: Any = lambda outcome: None  # noqa: E731
    exchange.resolve(first)
    exchange.resolve(second, strict=True)
    exchange.observe(first)
    assert exchange.resolvers == [(first, False), (second, True)]
    assert exchange.observers == [first]
    assert exchange.on_disconnect is None


def test_current_is_the_exchange_that_a_driver_has_set() -> None:
    with pytest.raises(LookupError, match="no guarded request"):
        current()
    exchange = make_exchange()
    token = CURRENT.set(exchange)
    try:
        assert current() is exchange
    finally:
        CURRENT.reset(token)


def test_it_knows_when_it_started() -> None:
    system = manual_system()
    system.clock.advance(2.5)  # type: ignore[attr-defined]
    assert make_exchange(system=system).started_ns == 3_500_000_000


def test_a_report_reaches_the_guards_further_out() -> None:
    system = manual_system()
    outer = make_exchange(system=system)
    inner = Exchange(Request("GET", "/"), system, outer=outer)
    inner.report(pages=2)
    inner.report(price="0.02 USD", images=1)
    from tenantguard.flow.exchange import Reported

    for exchange in (inner, outer):
        reported = exchange.get(Reported)
        assert dict(reported.units) == {"pages": 2, "images": 1}
        assert reported.price is not None
        assert reported.price.nanos == 20_000_000


def test_an_impossible_report_is_refused() -> None:
    for report in ({"price": "-1 USD"}, {"price": Amount(-1, "USD")}, {"price": "much"}, {"pages": -1}):
        with pytest.raises(TenantGuardError):
            make_exchange().report(**report)


def test_a_repr_shows_no_fact() -> None:
    assert repr(make_exchange(facts=(Colour("secret"),))) == "Exchange(Request(GET))"
