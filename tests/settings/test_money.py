"""Budgets, quotas, prices and rates of exchange in a settings file, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from tenantguard import ASGIGuard
from tenantguard.adapters.ledger.leased import LeasedLedger
from tenantguard.errors import ConfigurationError
from tenantguard.layers.charge import Charge
from tenantguard.model.ledger import CarryOver, Counted, Threshold
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.sections import (
    BudgetRule,
    BudgetSection,
    Carry,
    Mode,
    QuotaRule,
    QuotaSection,
    Scope,
)
from tenantguard.model.token_price import Tier, TokenPrice
from tenantguard.model.usage import Usage
from tenantguard.rules.rates import RateTable
from tenantguard.settings import Problem, SettingsError, build, loopholes, parse_settings, shown_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tenantguard.settings import Settings

SINGLE = 'tenancy = { mode = "single" }\nguard.ledger = "memory://"\n'
FOUR = 'input = "1 USD/1M", output = "2 USD/1M", cache_read = "0.1 USD/1M", cache_write = "1.25 USD/1M"'
PRICE = f"prices.m = {{ {FOUR} }}\n"


def parse(text: str, folder: Path | None = None) -> Settings:
    if "[policies.default]" not in text:
        text += "\n[policies.default]\n"
    return parse_settings(SINGLE + text, source="x.toml", folder=folder, environ={})


def problem(text: str, folder: Path | None = None) -> Problem:
    """The one problem of ``text``, whose line is the one with the mark."""
    with pytest.raises(SettingsError) as refused:
        parse(text, folder)
    (found,) = refused.value.problems
    lines = (SINGLE + text).split("\n")
    assert [found.line] == [number for number, line in enumerate(lines, 1) if line.endswith("# <-")], found
    return found


def section(text: str, kind: type) -> Any:
    return parse(f"[policies.default]\n{text}").policies["default"].policy.section(kind)


# budgets


def test_a_budget_says_how_strict_it_is_what_it_carries_over_and_when_it_alerts() -> None:
    written = """budget = [
        { limit = "10 USD", per = "month in Europe/Berlin", carry = { unused = "5 USD" }, alerts = [50, 80] },
        { limit = "1 USD", per = "day", mode = "soft", alerts = [{ percent = 120, of = "committed" }, 9] },
        { limit = "2 USD", per = "day", scope = "identity", carry = "debt" },
        { limit = "3 USD", per = "week", carry = "none", mode = "strict", alerts = [] },
    ]"""
    assert section(written, BudgetSection) == BudgetSection(
        (
            BudgetRule(
                Amount.parse("10 USD"),
                Period.parse("month in Europe/Berlin"),
                carry=Carry(CarryOver.UNUSED, Amount.parse("5 USD")),
                thresholds=(Threshold(50), Threshold(80)),
            ),
            BudgetRule(
                Amount.parse("1 USD"),
                Period.DAY,
                mode=Mode.SOFT,
                thresholds=(Threshold(120, Counted.COMMITTED), Threshold(9)),
            ),
            BudgetRule(Amount.parse("2 USD"), Period.DAY, Scope.IDENTITY, carry=Carry(CarryOver.DEBT)),
            BudgetRule(Amount.parse("3 USD"), Period.WEEK),
        )
    )


@pytest.mark.parametrize(
    ("written", "path", "suggestion"),
    [
        ('mode = "sotf"', ".mode", "did you mean 'soft'?"),
        ('carry = "unused"', ".carry", 'write for example { unused = "50.00 USD" }'),
        ('carry = "dept"', ".carry", "did you mean 'debt'?"),
        ("carry = 5", ".carry", None),
        ("carry = []", ".carry", None),
        ('carry = { unsued = "5 USD" }', ".carry.unsued", "did you mean 'unused'?"),
        ("carry = { unused = 5 }", ".carry.unused", None),
        ('carry = { unused = "5 EUR" }', "", None),
        ('carry = { unused = "0 USD" }', "", None),
        ("alerts = 80", ".alerts", None),
        ("alerts = [50, 0]", ".alerts[1]", None),
        ("alerts = [true]", ".alerts[0]", None),
        ("alerts = [80.5]", ".alerts[0]", None),
        ('alerts = ["80%"]', ".alerts[0]", None),
        ("alerts = [{ percnt = 80 }]", ".alerts[0].percnt", "did you mean 'percent'?"),
        ('alerts = [{ percent = 80, of = "spend" }]', ".alerts[0].of", "did you mean 'spent'?"),
        ("alerts = [{ percent = 1001 }]", ".alerts[0].percent", None),
        ("alerts = [101]", "", None),
        ("alerts = [80, 80]", "", None),
    ],
)
def test_what_is_wrong_with_a_budget_is_told(written: str, path: str, suggestion: str | None) -> None:
    text = f'[policies.default]\nbudget = {{ limit = "1 USD", per = "day", {written} }} # <-'
    with pytest.raises(SettingsError) as refused:
        parse(text)
    told = next(found for found in refused.value.problems if found.path == f"policies.default.budget{path}")
    assert told.line == text.count("\n") + SINGLE.count("\n") + 1
    assert suggestion is None or suggestion in (told.suggestion or "")
    others = [found for found in refused.value.problems if found is not told]
    assert all("is missing" in found.message for found in others), "nothing is told twice"


def test_two_budgets_of_one_policy_never_share_an_account() -> None:
    found = problem(
        '[policies.default]\nbudget = [\n{ limit = "1 USD", per = "60 minutes" },\n{ limit = "9 USD", per = "day" },'
        '\n{ limit = "2 USD", per = "hour", mode = "soft" }, # <-\n]'
    )
    assert found.path == "policies.default.budget[2]"
    assert "one account" in found.message


def test_a_soft_budget_is_told_among_what_weakens_the_guard() -> None:
    read = parse(
        '[policies.default]\nbudget = { limit = "1 USD", per = "day", mode = "soft" }\n'
        'quota = { unit = "requests", limit = 1, per = "day", mode = "soft" }\n[policies.acme]\ninherit = "default"\n'
    )
    assert [found for found in loopholes(read) if "soft" in found] == [
        "policies.default: the budget by day is soft: what goes beyond it is recorded, and not refused",
        "policies.default: the quota of 'requests' by day is soft: what goes beyond it is recorded, and not refused",
    ]


# quotas


def test_a_quota_counts_units_that_are_used_up_or_come_back() -> None:
    read = parse(
        '[[routes]]\nmatch = "/sessions"\ntakes = { sessions = 1 }\n'
        '[[routes]]\nmatch = "/pages"\nunit = "pages"\nunit_price = "0 USD"\nmax_units = 3\n'
        "[policies.default]\nquota = [\n"
        '{ unit = "requests", limit = 1000, per = "day", carry = { unused = 100 }, alerts = [90] },\n'
        '{ unit = "sessions", limit = 5, returned = true, scope = "identity" },\n'
        '{ unit = "pages", limit = 0, per = "month", mode = "soft" },\n]'
    )
    assert read.policies["default"].policy.section(QuotaSection) == QuotaSection(
        (
            QuotaRule("requests", 1000, Period.DAY, carry=Carry(CarryOver.UNUSED, 100), thresholds=(Threshold(90),)),
            QuotaRule("sessions", 5, Period.LIFETIME, Scope.IDENTITY, returned=True),
            QuotaRule("pages", 0, Period.MONTH, mode=Mode.SOFT),
        )
    )


def test_a_policy_with_a_quota_needs_the_charge_layer_and_a_ledger() -> None:
    text = '[policies.default]\nquota = { unit = "requests", limit = 1, per = "day" }\n'
    assert "charge" in {layer.name for layer in parse(text).layers}
    with pytest.raises(SettingsError, match=r"guard\.ledger: is missing"):
        parse_settings(f'tenancy = {{ mode = "single" }}\n{text}', environ={})
    with pytest.raises(SettingsError, match="lacks 'charge'"):
        parse(f'guard.layers = ["tenant"]\n{text}')
    with pytest.raises(SettingsError, match="lacks 'charge'"):
        parse('guard.layers = ["tenant"]\n[policies.default]\npricing = { markup = "1%" }')


@pytest.mark.parametrize(
    ("written", "path", "suggestion"),
    [
        ('unit = "session", limit = 5, per = "day"', ".unit", "did you mean 'sessions'?"),
        ('unit = "tokens", limit = 5, per = "day"', ".unit", "known are requests, sessions"),
        ('unit = "sessions", limit = 5', ".per", None),
        ('unit = "sessions", limit = -1, per = "day"', ".limit", None),
        ('unit = "sessions", limit = "5", per = "day"', ".limit", "write it without quotes"),
        ('unit = "sessions", limit = 5, per = "dya"', ".per", "did you mean 'day'?"),
        ('unit = "sessions", limit = 5, per = "day", returned = true', "", None),
        ('unit = "sessions", limit = 5, per = "day", carry = { unused = "5 USD" }', ".carry.unused", None),
        ('unit = "sessions", limit = 5, per = "day", carry = { unused = 0 }', ".carry.unused", None),
        ('unit = "sessions", limit = 5, per = "day", carry = "unused"', ".carry", "{ unused = 100 }"),
        ('unit = "sessions", limit = 5, per = "day", kind = "tokens"', ".kind", None),
        ('unit = "sessions", limit = 5, returned = true, alerts = [80]', "", None),
    ],
)
def test_a_quota_that_does_not_exist_is_a_configuration_error(
    written: str, path: str, suggestion: str | None
) -> None:
    """A+7."""
    routes = '[[routes]]\nmatch = "/sessions"\ntakes = { sessions = 1 }\n'
    found = problem(f"{routes}[policies.default]\nquota = [\n{{ {written} }}, # <-\n]")
    assert found.path == f"policies.default.quota[0]{path}"
    assert suggestion is None or suggestion in (found.suggestion or "")


def test_a_unit_of_a_route_that_is_wrong_otherwise_is_known_all_the_same() -> None:
    found = problem(
        '[[routes]]\nmatch = "/x"\ntakes = { sessions = 1 }\nsucess = "ended" # <-\n'
        '[policies.default]\nquota = { unit = "sessions", limit = 5, returned = true }'
    )
    assert found.path == "routes[0].sucess"


def test_two_quotas_of_a_unit_differ_in_period_or_scope() -> None:
    found = problem(
        '[policies.default]\nquota = [\n{ unit = "requests", limit = 5, per = "day" },\n'
        '{ unit = "requests", limit = 6, per = "day" }, # <-\n]'
    )
    assert found.path == "policies.default.quota[1]"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("takes = { images = 0 }", "takes.images"),
        ("takes = { images = 1.0 }", "takes.images"),
        ('takes = { "" = 1 }', "takes"),
        ('takes = ["images"]', "takes"),
        ("min_output = 0", "min_output"),
        ('idempotency = "replya"', "idempotency"),
        ('charge_once = "no"', "charge_once"),
        ("charge_reported = 1", "charge_reported"),
        ('on_orphan = "drop"', "on_orphan"),
        ('on_missing_usage = "guess"', "on_missing_usage"),
        ('usage = "header:x pages"', "usage"),
        ('usage = "json:"', "usage"),
        ('usage = "json:a..b"', "usage"),
    ],
)
def test_what_is_wrong_with_a_route_is_told(written: str, path: str) -> None:
    assert problem(f'[[routes]]\nmatch = "/x"\n{written} # <-').path == f"routes[0].{path}"


def test_every_request_takes_one_of_requests_already() -> None:
    assert problem('[[routes]] # <-\nmatch = "/x"\ntakes = { requests = 2 }').path == "routes[0]"


# usage that an application says


def pages(document: dict[str, Any]) -> Usage | None:
    return Usage(units={"pages": document["pages"]}) if "pages" in document else None


async def no_function(document: dict[str, Any]) -> Usage | None:
    return None


UNIT = 'unit = "pages"\nunit_price = "0.01 USD"\nmax_units = 9\n'


@pytest.mark.parametrize("usage", ["header:x-pages", "json:usage.pages", "json:0.pages"])
def test_a_route_says_where_a_response_has_its_units(usage: str) -> None:
    read = parse(f'[[routes]]\nmatch = "/x"\nusage = "{usage}"\n{UNIT}')
    assert read.routes.routes[0].usage == usage
    assert problem(f'[[routes]] # <-\nmatch = "/x"\nusage = "{usage}"').path == "routes[0]"


def test_a_function_reads_usage_once_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "their_usage", sys.modules[__name__])
    text = f'[[routes]]\nmatch = "/x"\nusage = "their_usage:pages" # <-\n{UNIT}'
    read = parse(text)
    assert read.readers == {"their_usage:pages": pages}
    guard = build(read)
    (charge,) = [layer for layer in guard.layers if isinstance(layer, Charge)]
    assert charge._readers == {"their_usage:pages": pages}
    guard.close()
    for target in ("their_usage:no_function", "their_usage:UNIT", "their_usage:absent", "no_such_module:x", "a b:c"):
        assert problem(text.replace("their_usage:pages", target)).path == "routes[0].usage"


def serve(usage: str, answer: Response) -> tuple[httpx.Response, list[int]]:
    """What a client gets from an application that answers so, and what each account was then charged."""
    guard = build(
        parse(
            f'[[routes]]\nmatch = "/x"\nusage = "{usage}"\n{UNIT}'
            '[policies.default]\nbudget = { limit = "1 USD", per = "day" }\n'
            'quota = { unit = "pages", limit = 10, per = "day" }\n'
        )
    )
    guard.ports.audits = ()

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(ASGIGuard(answer, guard=guard))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/x")

    got = asyncio.run(get())
    balances = guard.ports.ledger.balances()
    guard.close()
    assert all(balance.held == 0 for balance in balances)
    return got, [balance.spent for balance in balances]


@pytest.mark.parametrize(
    ("usage", "answer", "spent"),
    [
        ("their_usage:pages", JSONResponse({"pages": 3}), [3 * 10**7, 3]),
        ("their_usage:pages", JSONResponse({"pages": 0}), [0, 0]),
        ("their_usage:pages", JSONResponse({}), [0, 0]),
        ("json:usage.pages", JSONResponse({"usage": {"pages": 2}}), [2 * 10**7, 2]),
        ("header:x-pages", Response(b"%PDF", headers={"x-pages": "4"}, media_type="application/pdf"), [4 * 10**7, 4]),
        ("header:x-pages", Response(b"%PDF", media_type="application/pdf"), [0, 0]),
        ("header:x-pages", Response(status_code=500, headers={"x-pages": "4"}), [0, 0]),
    ],
)
def test_units_that_a_response_tells_are_charged_and_counted(
    usage: str, answer: Response, spent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "their_usage", sys.modules[__name__])
    got, charged = serve(usage, answer)
    assert (got.status_code, got.content) == (answer.status_code, answer.body)
    assert charged == spent


@pytest.mark.parametrize("document", [{"pages": "three"}, {"pages": -1}])
def test_a_response_whose_usage_a_function_cannot_read_is_withheld(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "their_usage", sys.modules[__name__])
    got, _ = serve("their_usage:pages", JSONResponse(document))
    assert got.status_code == 502
    assert b"pages" not in got.content


# prices


def test_a_price_has_rates_by_kind_tiers_and_service_tiers() -> None:
    read = parse(
        f"""
        [prices.m]
        {FOUR.replace(", ", chr(10))}
        cache_write_1h = "2 USD/1M"
        audio_input = "10 USD/1M"
        image_input = "3 USD/1M"
        audio_output = "20 USD/1M"
        image_output = "8 USD/1M"
        reasoning = "0 USD/1M"
        request = "0.01 USD"
        tiers = [{{ above = 200_000, {FOUR.replace('"1 ', '"2 ')}, request = "0.02 USD" }}]
        services.batch = {{ multiplier = "0.5" }}
        services.priority = {{ {FOUR}, tiers = [{{ above = 0, {FOUR} }}] }}
        """
    )
    base = (10**9, 2 * 10**9, 10**8, 1_250_000_000)
    assert read.prices.models["m"] == TokenPrice(
        *base,
        "USD",
        cache_write_1h=2 * 10**9,
        audio_input=10**10,
        image_input=3 * 10**9,
        audio_output=2 * 10**10,
        image_output=8 * 10**9,
        reasoning=0,
        request=10**7,
        tiers=(Tier(2 * 10**9, *base[1:], above=200_000, request=2 * 10**7),),
        services=(
            ("batch", Fraction(1, 2)),
            ("priority", TokenPrice(*base, "USD", tiers=(Tier(*base, above=0),))),
        ),
    )


@pytest.mark.parametrize(
    ("written", "path", "suggestion"),
    [
        ('cache_wirte_1h = "1 USD/1M"', ".cache_wirte_1h", "did you mean 'cache_write_1h'?"),
        ('request = "1 USD/1M"', ".request", None),
        ('reasoning = "1 USD"', ".reasoning", None),
        ('reasoning = "1 EUR/1M"', "", None),
        ("tiers = { above = 1 }", ".tiers", None),
        ("tiers = [3]", ".tiers[0]", None),
        (f"tiers = [{{ {FOUR} }}]", ".tiers[0].above", None),
        (f"tiers = [{{ above = 1.5, {FOUR} }}]", ".tiers[0].above", None),
        (f"tiers = [{{ above = -1, {FOUR} }}]", ".tiers[0].above", None),
        (f"tiers = [{{ above = 1, {FOUR}, inputs = 3 }}]", ".tiers[0].inputs", "did you mean 'input'?"),
        (f"tiers = [{{ above = 1, {FOUR.replace('USD', 'EUR')} }}]", ".tiers[0]", None),
        (f"tiers = [{{ above = 2, {FOUR} }}, {{ above = 2, {FOUR} }}]", "", None),
        ("services = 3", ".services", None),
        ("services = { batch = 0.5 }", ".services.batch", None),
        ("services = { batch = { multiplier = 0.5 } }", ".services.batch.multiplier", None),
        ('services = { batch = { multiplier = "-1" } }', ".services.batch.multiplier", None),
        (f'services = {{ batch = {{ multiplier = "1", {FOUR[:18]} }} }}', ".services.batch.input", None),
        ('services = { batch = { multiplyer = "1" } }', ".services.batch.multiplyer", "did you mean 'multiplier'?"),
        (f"services = {{ default = {{ {FOUR} }} }}", "", None),
        (f"services = {{ flex = {{ {FOUR.replace('USD', 'EUR')} }} }}", ".services.flex", None),
        (f"services = {{ flex = {{ {FOUR}, tiers = [{{ above = 1 }}] }} }}", ".services.flex.tiers[0].input", None),
    ],
)
def test_what_is_wrong_with_a_price_is_told(written: str, path: str, suggestion: str | None) -> None:
    text = f"prices.m = {{ {FOUR}, {written} }}"
    with pytest.raises(SettingsError) as refused:
        parse(text)
    told = next(found for found in refused.value.problems if found.path == f"prices.m{path}")
    assert told.line == SINGLE.count("\n") + 1
    assert suggestion is None or suggestion in (told.suggestion or "")


FILE = {
    "format": "tenantguard-prices/1",
    "source": "ours",
    "source_version": "1",
    "prices": [
        {
            "provider": "acme",
            "model": "large",
            "currency": "USD",
            "input": "3",
            "output": "15",
            "cache_read": "0.3",
            "cache_write": "3.75",
        }
    ],
}


def test_a_price_file_stands_behind_the_prices_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(FILE))
    text = (
        f'{PRICE}[pricing]\nfile = "prices.json"\nproviders = ["acme"]\n'
        '[[routes]]\nmatch = "/x"\nusage = "openai-chat"\nmax_output = 1'
    )
    read = parse(text, tmp_path)
    assert read.prices.providers == ("acme",)
    assert [row.model for row in read.prices.listed.rows] == ["large"]
    assert read.prices.version.startswith("ours-1-")
    assert read.price_file == "prices.json"
    assert parse(text.removeprefix(PRICE), tmp_path).prices.models == {}


def test_the_problems_of_a_price_file_are_told_under_its_own_name(tmp_path: Path) -> None:
    text = '[pricing]\nfile = "prices.json" # <-'
    missing = problem(text, tmp_path)
    assert missing.message == "prices.json: cannot be read: No such file or directory"
    assert missing.suggestion == "'tenantguard prices update --output prices.json' makes one"
    (tmp_path / "prices.json").write_text("{\n?")
    assert problem(text, tmp_path).message.startswith("prices.json: line 2, column 1: this is not JSON")
    (tmp_path / "prices.json").write_text(json.dumps(FILE | {"prices": [{"model": "m"}, 3]}))
    with pytest.raises(SettingsError) as refused:
        parse(text, tmp_path)
    assert len(refused.value.problems) > 4
    assert all(found.message.startswith("prices.json: prices[") for found in refused.value.problems)


@pytest.mark.parametrize("name", ["p" * 300 + ".json", "prices\\u0000.json"])
def test_a_price_file_that_no_file_can_be_is_a_problem_without_a_remedy(name: str, tmp_path: Path) -> None:
    found = problem(f'[pricing]\nfile = "{name}" # <-', tmp_path)
    assert found.path == "pricing.file"
    assert found.suggestion is None


def test_a_provider_must_be_one_of_the_price_file(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps(FILE))
    found = problem('[pricing]\nfile = "prices.json"\nproviders = [\n"acme",\n"acem", # <-\n]', tmp_path)
    assert (found.path, found.suggestion) == ("pricing.providers[1]", "did you mean 'acme'?")
    assert problem('[pricing]\nproviders = ["acme"] # <-').path == "pricing.providers"


# a tenant's mark-up or discount


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('markup = "15%"', PricingSection(markup=Fraction(15, 100))),
        ('discount = "2.5%"', PricingSection(discount=Fraction(25, 1000))),
        ("", PricingSection()),
    ],
)
def test_a_policy_marks_prices_up_or_down(written: str, expected: PricingSection) -> None:
    assert section(f"pricing = {{ {written} }}", PricingSection) == expected


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ('markup = "15"', ".markup"),
        ("markup = 0.15", ".markup"),
        ('discount = "101%"', ""),
        ('markup = "1%", discount = "1%"', ""),
        ('markups = "1%"', ".markups"),
    ],
)
def test_an_impossible_mark_up_is_told(written: str, path: str) -> None:
    assert problem(f"[policies.default]\npricing = {{ {written} }} # <-").path == f"policies.default.pricing{path}"


# currencies

RATES = '[rates]\nversion = "2026-10-12"\nbase = "USD"\nEUR = "1.0876 USD"\n'
IN_EUROS = '[policies.default]\nbudget = { limit = "1 EUR", per = "day" }'


def test_a_table_of_rates_lets_prices_and_budgets_be_in_different_currencies() -> None:
    read = parse(f"{PRICE}{RATES}{IN_EUROS}")
    assert read.rates == RateTable("2026-10-12", "USD", {"EUR": Fraction("1.0876")})
    guard = build(read)
    (charge,) = [layer for layer in guard.layers if isinstance(layer, Charge)]
    assert charge._rates is read.rates
    guard.close()
    assert problem(f"{PRICE}{IN_EUROS} # <-").path == "policies.default.budget"


def test_every_currency_in_use_needs_a_rate() -> None:
    found = problem(f"{PRICE}{RATES}{IN_EUROS.replace('EUR', 'GBP')} # <-")
    assert (found.path, found.suggestion) == (
        "policies.default.budget",
        "write \"GBP\" = '<number> USD' there",
    )
    assert parse(f"{RATES}{IN_EUROS.replace('EUR', 'GBP')}").rates is not None  # nothing to convert


def test_one_request_is_priced_in_one_currency() -> None:
    route = '[[routes]]\nmatch = "/x"\nusage = "openai-chat"\nmax_output = 1\nprice = "1 EUR"'
    assert problem(f"{PRICE}{RATES}{route} # <-").path == "routes[0].price"
    assert parse(f"{PRICE}{RATES}{route.replace('EUR', 'USD')}\n{IN_EUROS}").rates is not None


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("rates = 3 # <-", "rates"),
        ('[rates]\nversion = "2026 10" # <-\nbase = "USD"\nEUR = "1 USD"', "rates.version"),
        ('[rates]\nversion = 2026-10-12 # <-\nbase = "USD"\nEUR = "1 USD"', "rates.version"),
        ('[rates]\nversion = "1"\nbase = "USDD" # <-', "rates.base"),
        ('[rates] # <-\nversion = "1"\nEUR = "1 USD"', "rates.base"),
        ('[rates] # <-\nversion = "1"\nbase = "USD"', "rates"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = "1.1" # <-', "rates.EUR"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = 1.1 # <-', "rates.EUR"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = "1.1 GBP" # <-', "rates.EUR"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = "0 USD" # <-', "rates.EUR"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = "1 USD"\nUSD = "1 USD" # <-', "rates.USD"),
        ('[rates]\nversion = "1"\nbase = "USD"\nEUR = "1 USD"\nEuro = "1 USD" # <-', "rates.Euro"),
    ],
)
def test_a_wrong_table_of_rates_is_told(written: str, path: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(written)
    lines = (SINGLE + written).split("\n")
    (line,) = [number for number, text in enumerate(lines, 1) if text.endswith("# <-")]
    assert (path, line) in [(found.path, found.line) for found in refused.value.problems]


# the ledger


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://tg:hunter2@db:5432/ledger", "postgresql://tg@db:5432/ledger"),
        ("postgresql://tg:hun%40ter2@[::1]/ledger?sslmode=require", "postgresql://tg@[::1]/ledger"),
        ("postgresql://a,b:1/ledger?password=hunter2", "postgresql://a,b:1/ledger"),
        ("postgresql://postgres:@/postgres?host=/tmp/pg", "postgresql://postgres@/postgres"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("memory://", "memory://"),
        ("postgresql://tg:hunter2/x@db", "postgresql://"),
    ],
)
def test_a_ledger_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert shown_ledger(uri) == shown
    if "@db" not in uri or uri.endswith("ledger"):
        read = parse_settings(
            f'tenancy = {{ mode = "single" }}\nguard.ledger = "{uri}"\n[policies.default]', environ={}
        )
        assert read.guard.ledger == uri
        assert "hunter2" not in repr(read)


@pytest.mark.parametrize(
    "uri",
    [
        "postgres://tg:hunter2@db/ledger",
        "postgresql://tg:hunter2@db",
        "postgresql://tg:hunter2@db/",
        "postgresql://tg:hunter2@x@db/ledger",
        "postgresql://tg:hunter2/x@db/ledger",
        "postgresql://tg:hunter2?x@db/ledger",
        "postgresql://tg:12#hunter2@db/ledger",
        "postgresql://tg:hunter2 @db/ledger",
        "postgresql+psycopg://tg:hunter2@db/ledger",
        "postgresql://tg:hunter2@db:99999/ledger",
    ],
)
@pytest.mark.parametrize("variable", [True, False])
def test_no_problem_repeats_a_password(uri: str, *, variable: bool) -> None:
    text = "[policies.default]\ntenancy.mode = 'single'"
    environ = {"TENANTGUARD__GUARD__LEDGER": uri} if variable else {}
    text = f"tenancy = {{ mode = 'single' }}\n{'' if variable else f'guard.ledger = {uri!r}'}\n[policies.default]"
    with pytest.raises(SettingsError, match=r"guard\.ledger: must be") as refused:
        parse_settings(text, environ=environ)
    assert not re.search("hunter2", str(refused.value))


def test_a_ledger_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "tenantguard.adapters.ledger.postgres", raising=False)
    read = parse_settings(
        "tenancy = { mode = 'single' }\nguard.ledger = 'postgresql://tg:hunter2@localhost/x'\n[policies.default]",
        environ={},
    )
    with pytest.raises(ConfigurationError, match=r"pip install 'tenantguard\[postgres\]'") as refused:
        build(read)
    assert "hunter2" not in str(refused.value)


def test_the_bounds_of_a_ledger_are_those_that_it_has_by_itself() -> None:
    import inspect

    from tenantguard.adapters.ledger.postgres import PostgresLedger
    from tenantguard.adapters.ledger.sqlite import SQLiteLedger
    from tenantguard.settings.shapes import LedgerShape

    for ledger in (SQLiteLedger, PostgresLedger):
        own = inspect.signature(ledger).parameters
        assert LedgerShape().deadline_s == own["deadline_s"].default
        assert LedgerShape().queue_max == own["queue_max"].default


def test_the_bounds_of_a_ledger_are_given_to_it(tmp_path: Path) -> None:
    text = "guard.ledger = 'sqlite:///x.db'\nledger = { deadline_s = 0.5, queue_max = 7 }\n"
    read = parse_settings(f"{text}tenancy = {{ mode = 'single' }}\n[policies.default]", folder=tmp_path, environ={})
    assert (read.ledger.deadline_s, read.ledger.queue_max) == (0.5, 7)
    guard = build(read)
    assert guard.ports.ledger._writer._queue_max == 7  # type: ignore[attr-defined]
    guard.close()
    for wrong in ("deadline_s = 0", "deadline_s = inf", "queue_max = 0", "queue_max = 1.5", "queue = 1"):
        assert problem(f"[ledger]\n{wrong} # <-").path == f"ledger.{wrong.partition(' ')[0]}"


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "memory://"])
def test_a_ledger_is_leased_where_the_settings_ask_for_it(tmp_path: Path, uri: str) -> None:
    text = f"guard.ledger = '{uri}'\nledger.admission = 'lease'\ntenancy.mode = 'single'\n[policies.default]"
    guard = build(parse_settings(text, folder=tmp_path, environ={}))
    assert isinstance(guard.ports.ledger, LeasedLedger)
    guard.close()
    assert problem("[ledger]\nadmission = 'leased' # <-").path == "ledger.admission"


def test_rates_without_a_base_are_told_so_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        parse('[rates]\nversion = "v1"\nEUR = "1.0876 USD"', tmp_path)
    assert [(found.path, found.message) for found in refused.value.problems] == [("rates.base", "is missing")]
