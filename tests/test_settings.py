from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.errors import ConfigurationError
from tenantguard.flow.effects import Flow
from tenantguard.layers.audit import Audit
from tenantguard.model.money import Amount
from tenantguard.model.policy import EMPTY_POLICY
from tenantguard.model.price import TokenPrice, UnknownModel
from tenantguard.model.rate import Rate
from tenantguard.model.route import OnDisconnect, Success
from tenantguard.model.sections import (
    BudgetRule,
    BudgetSection,
    Period,
    RateRule,
    RateSection,
    RedactRequest,
    RedactResponse,
    RedactSection,
    Scope,
)
from tenantguard.model.tenant import Identity, Role, TenantId
from tenantguard.settings import Problem, SettingsError, build, load, loopholes, parse_settings, read_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response
    from tenantguard.flow.layer import Handler
    from tenantguard.settings import Settings

HASH = hash_key("k" * 20)

ISSUE = f"""
[guard]
ledger = "sqlite:///tenantguard.db"
limits = "memory://"

[tenancy]
from = ["api-key"]
required = true

[[tenancy.keys]]
id = "acme-dev"
tenant = "acme"
hash = "{HASH}"

[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 4096

[prices."gpt-5-mini"]
input = "0.25 USD/1M"
output = "2.00 USD/1M"
cache_read = "0.025 USD/1M"
cache_write = "0 USD/1M"

[policies.default]
rate = "10/second burst 20"

[policies.acme]
inherit = "default"
rate = "100/second burst 200"
budget = {{ limit = "250.00 USD", per = "month" }}
redact = {{ request = "replace", response = "restore", entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"] }}
"""

SINGLE = '\n[tenancy]\nmode = "single"\n'
PRICE = 'input = "1 USD/1M"\noutput = "1 USD/1M"\ncache_read = "1 USD/1M"\ncache_write = "1 USD/1M"\n'


def parse(text: str, **environ: str) -> Settings:
    """The settings of ``text``, served to one tenant unless it says otherwise."""
    if "tenancy" not in text:
        text += SINGLE
    if "[policies.default]" not in text:
        text += "\n[policies.default]\n"
    return parse_settings(text, source="x.toml", environ=environ)


def problems(text: str, **environ: str) -> list[Problem]:
    with pytest.raises(SettingsError) as refused:
        parse(text, **environ)
    return refused.value.problems


def test_the_example_of_the_documentation_is_read_whole() -> None:
    read = parse(ISSUE)
    assert [layer.name for layer in read.layers] == ["audit", "tenant", "rate", "redaction", "charge"]
    assert read.keys == {HASH: Identity("acme-dev", TenantId("acme"), Role.EDITOR)}
    assert read.fallback is None
    (route,) = read.routes.routes
    assert (route.match, route.usage, route.max_output) == ("POST /v1/chat/completions", "openai-chat", 4096)
    assert read.prices.models == {"gpt-5-mini": TokenPrice(250_000_000, 2_000_000_000, 25_000_000, 0, "USD")}
    acme = read.policies["acme"].policy
    assert dict(acme.sections) == {
        RateSection: RateSection((RateRule(Rate(100, 10**9, 200)),)),
        BudgetSection: BudgetSection((BudgetRule(Amount(250 * 10**9, "USD"), Period.MONTH),)),
        RedactSection: RedactSection(
            RedactRequest.REPLACE, RedactResponse.RESTORE, ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"), 0.4
        ),
    }
    assert read.policies["default"].policy.section(RateSection) == RateSection((RateRule(Rate(10, 10**9, 20)),))


def test_a_policy_takes_from_its_parents_what_it_does_not_write_itself() -> None:
    read = parse(
        """
        [policies.default]
        rate = "1/second"
        redact = {}
        [policies.plan]
        inherit = "default"
        rate = ["2/second", { limit = "1/second", scope = "identity" }]
        [policies.acme]
        inherit = "plan"
        redact = { request = "off", response = "off" }
        """,
    )
    acme = read.policies["acme"]
    assert acme.origins == {RateSection: "plan", RedactSection: "acme"}
    assert acme.inherits == "plan"
    section = acme.policy.section(RateSection)
    assert section is not None
    assert [rule.scope for rule in section.rules] == [Scope.TENANT, Scope.IDENTITY]
    assert acme.policy.section(RedactSection) == RedactSection(RedactRequest.OFF, RedactResponse.OFF)
    assert acme.policy.name == "acme"


def test_a_route_says_what_its_requests_cost_and_how_they_end() -> None:
    read = parse(
        """
        guard = { ledger = "memory://" }
        [[routes]]
        match = "/jobs/*"
        name = "jobs"
        price = "0.01 USD"
        unit = "page"
        unit_price = "0.001 USD"
        max_units = 500
        success = "returned"
        on_disconnect = "observed"
        on_missing_usage = "void"
        dialect = "problem"
        [[routes]]
        match = "GET /healthz"
        public = true
        """,
    )
    route = read.routes.find("POST", "/jobs/7")
    assert (route.price, route.unit, route.unit_price) == (Amount(10**7, "USD"), "page", Amount(10**6, "USD"))
    assert (route.success, route.on_disconnect, route.max_units) == (Success.RETURNED, OnDisconnect.OBSERVED, 500)
    assert read.routes.find("GET", "/healthz").public
    assert [layer.name for layer in read.layers] == ["audit", "tenant", "charge"]


def test_a_fallback_serves_tenants_without_a_policy() -> None:
    """E-18: only an explicit fallback does."""
    text = f'[[tenancy.keys]]\nid = "g"\ntenant = "globex"\nhash = "{HASH}"\n[policies.default]\n'
    (problem,) = problems(text)
    assert (problem.path, problem.line) == ("tenancy.keys[0].tenant", 3)
    assert problem.suggestion == "write [policies.globex]"
    assert parse(f'tenancy.fallback = "default"\n{text}').fallback == EMPTY_POLICY.having(name="default")


def test_prices_for_all_other_models_are_an_explicit_choice() -> None:
    read = parse(f'[pricing]\nunknown_model = "default"\n[pricing.default]\n{PRICE}')
    assert read.prices.unknown is UnknownModel.DEFAULT
    assert read.prices.default == TokenPrice(10**9, 10**9, 10**9, 10**9, "USD")
    assert parse('pricing.unknown_model = "warn"').prices.unknown is UnknownModel.WARN
    assert parse("").prices.unknown is UnknownModel.REFUSE


# what is wrong: a file whose line with the mark has the problem, its path, and what is suggested

BAD: list[tuple[str, str, str | None]] = [
    ("\ngaurd = 1 # <-", "gaurd", "did you mean 'guard'?"),
    ("[xyz] # <-", "xyz", "known are guard, policies"),
    ('[guard]\n\nledgr = "memory://" # <-', "guard.ledgr", "did you mean 'ledger'?"),
    ("guard = 3 # <-", "guard", None),
    ('[guard]\nledger = "redis://localhost" # <-', "guard.ledger", None),
    ('[guard]\nledger = "sqlite:///" # <-', "guard.ledger", None),
    ('[guard]\nlimits = "redis://localhost" # <-', "guard.limits", None),
    ("[guard]\nledger = 1 # <-", "guard.ledger", None),
    ('[guard]\nbody_limit = "100" # <-', "guard.body_limit", "write it without quotes"),
    ("[guard]\nbody_limit = 1.5 # <-", "guard.body_limit", None),
    ("[guard]\nbody_limit = 0 # <-", "guard.body_limit", None),
    ("[guard]\nbody_limit = true # <-", "guard.body_limit", None),
    ("[guard]\ndrain_s = inf # <-", "guard.drain_s", None),
    ("[guard]\ndrain_s = nan # <-", "guard.drain_s", None),
    ("[guard]\ndrains_max = -1 # <-", "guard.drains_max", None),
    ('[guard]\nlayers = "tenant" # <-', "guard.layers", "write it in [brackets]"),
    ("[guard]\nlayers = [] # <-", "guard.layers", None),
    ('[guard]\nlayers = [\n"tenant",\n"audti", # <-\n]', "guard.layers[1]", "did you mean 'audit'?"),
    ('[guard]\nlayers = ["tenant", "tenant"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", "no_such:thing"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", "json:no_such"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", ":x"] # <-', "guard.layers[1]", None),
    ('[guard]\nledger = "memory://"\nlayers = ["charge", "tenant"] # <-', "guard.layers", None),
    ('guard.layers = ["tenant"]\n[policies.default]\nrate = "1/second" # <-', "policies.default.rate", None),
    (
        'guard.layers = ["tenant"]\n[[routes]] # <-\nmatch = "/x"\nprice = "1 USD"',
        "routes[0]",
        None,
    ),
    ('[policies.default]\nbudget = { limit = "1 USD", per = "day" }\n[guard] # <-', "guard.ledger", "sqlite:///"),
    ("[tenancy]\nmode = 'sinlge' # <-", "tenancy.mode", "did you mean 'single'?"),
    ("[tenancy]\nmode = 'single'\nfrom = ['api-key'] # <-", "tenancy.from", None),
    ("[tenancy]\nfrom = ['header:x-tenant-id'] # <-", "tenancy.from[0]", None),
    ("[tenancy]\nfrom = ['header:x tenant'] # <-\ntrust_headers = true", "tenancy.from[0]", None),
    ("[tenancy]\ntrust_headers = true\nfrom = ['cookie'] # <-", "tenancy.from[0]", None),
    ("[tenancy] # <-\nfrom = ['api-key']", "tenancy.keys", "tenantguard hash-key --new"),
    ("[tenancy]\nmode = 'single'\nfallback = 'defualt' # <-", "tenancy.fallback", "did you mean 'default'?"),
    ("[tenancy]\nmode = 'single'\nrequired = 'yes' # <-", "tenancy.required", "write it without quotes"),
    ("[policies.deflt]\n[[routes]]\nmatch = 'x' # <-", "routes[0].match", None),
    ("[[routes]] # <-\nname = 'x'", "routes[0].match", None),
    ("[routes] # <-\nmatch = '/x'", "routes", "write [[routes]]"),
    ("[[routes]]\nmatch = '/x'\n[[routes]]\nmatch = '/x' # <-", "routes[1].match", None),
    ("[[routes]]\nmatch = '/x'\nusage = 'openai-caht' # <-", "routes[0].usage", "did you mean 'openai-chat'?"),
    ("[[routes]]\nmatch = '/x'\nmax_output = 0 # <-", "routes[0].max_output", None),
    ("[[routes]]\nmatch = '/x'\nprice = '1 usd' # <-", "routes[0].price", None),
    ("[[routes]]\nmatch = '/x'\nprice = 1 # <-", "routes[0].price", None),
    ("[[routes]] # <-\nmatch = '/x'\nunit = 'page'", "routes[0]", None),
    ("[[routes]]\nmatch = '/x'\nsuccess = 'return' # <-", "routes[0].success", "did you mean 'returned'?"),
    ("[[routes]]\nmatch = '/x'\non_disconect = 'void' # <-", "routes[0].on_disconect", "did you mean 'on_disconnect'?"),
    (
        "guard.ledger = 'memory://'\n[[routes]]\nmatch = '/x'\nusage = 'openai-chat' # <-",
        "routes[0].usage",
        'write [prices."<model>"]',
    ),
    ("[prices.m] # <-\ninput = '1 USD/1M'\noutput = '1 USD/1M'\ncache_read = '0 USD/1M'", "prices.m.cache_write", None),
    (f'[prices."gpt 5"]\n{PRICE}reasoning = "1 USD/1M" # <-', 'prices."gpt 5".reasoning', "known are cache_read"),
    (f"[prices.m]\n{PRICE}".replace('output = "1 USD/1M"', 'output = "1 USD" # <-'), "prices.m.output", None),
    (f"[prices.m] # <-\n{PRICE}".replace('output = "1 USD', 'output = "1 EUR'), "prices.m", None),
    (f"[prices.a]\n{PRICE}[prices.b] # <-\n{PRICE.replace('USD', 'EUR')}", "prices.b", None),
    ("prices = 'free' # <-", "prices", None),
    ("[pricing] # <-\nunknown_model = 'default'", "pricing", None),
    (f"[pricing] # <-\n[pricing.default]\n{PRICE}", "pricing", None),
    ("[pricing]\nunknown_model = 'wran' # <-", "pricing.unknown_model", "did you mean 'warn'?"),
    ("[redaction]\nkey = 'short' # <-", "redaction.key", None),
    ("[redaction]\nkey_file = '/no/such/file' # <-", "redaction.key_file", None),
    ("[proxy]\nunknown_routes = 'refused' # <-", "proxy.unknown_routes", "did you mean 'refuse'?"),
    ("policies = [] # <-", "policies", None),
    ("[policies]\nacme = 3 # <-", "policies.acme", None),
    ("[policies.'a b'] # <-", 'policies."a b"', None),
    ("[policies.default]\nrates = '1/second' # <-", "policies.default.rates", "did you mean 'rate'?"),
    ("[policies.acme]\ninherit = 'defalt' # <-", "policies.acme.inherit", "did you mean 'default'?"),
    ("[policies.acme]\ninherit = 'acme' # <-", "policies.acme.inherit", None),
    ("[policies.a]\ninherit = 'b' # <-\n[policies.b]\ninherit = 'a'", "policies.a.inherit", None),
    ("[policies.default]\nrate = '0/second' # <-", "policies.default.rate", None),
    ("[policies.default]\nrate = 5 # <-", "policies.default.rate", None),
    ("[policies.default]\nrate = [] # <-", "policies.default.rate", "leave the key out"),
    ("[policies.default]\nrate = [\n'1/second',\n'1/secnd', # <-\n]", "policies.default.rate[1]", None),
    (
        "[policies.default]\nrate = { limit = '1/second', scope = 'identiy' } # <-",
        "policies.default.rate.scope",
        "did you mean 'identity'?",
    ),
    (
        "guard.ledger = 'memory://'\n[policies.default]\nbudget = [\n{ limit = '1 USD', per = 'day' },\n"
        "{ limit = '1 USD', per = 'dya' }, # <-\n]",
        "policies.default.budget[1].per",
        "did you mean 'day'?",
    ),
    (
        "guard.ledger = 'memory://'\n[policies.default]\n"
        "budget = [{ limit = '1 USD', per = 'day' }, { limit = '1 EUR', per = 'month' }] # <-",
        "policies.default.budget",
        None,
    ),
    (
        f"guard.ledger = 'memory://'\n[prices.m]\n{PRICE}[policies.default]\n"
        "budget = { limit = '1 EUR', per = 'day' } # <-",
        "policies.default.budget",
        None,
    ),
    (
        "[policies.default.redact]\nrequest = 'off'\nresponse = 'restore'".replace("]\n", "] # <-\n", 1),
        "policies.default.redact",
        None,
    ),
    ("[policies.default.redact]\nthreshold = 1.5 # <-", "policies.default.redact.threshold", None),
    (
        "[policies.default.redact]\nentities = ['EMAIL_ADRESS'] # <-",
        "policies.default.redact.entities[0]",
        "did you mean 'EMAIL_ADDRESS'?",
    ),
    (
        f"[[tenancy.keys]]\nid = 'a'\nhash = '{HASH}'\ntenant = 'acmee' # <-\n[policies.acme]",
        "tenancy.keys[0].tenant",
        "did you mean 'acme'?",
    ),
    (
        f"[[tenancy.keys]]\nid = 'a'\nhash = '{HASH}'\ntenant = 'default'\nrole = 'editr' # <-",
        "tenancy.keys[0].role",
        "did you mean 'editor'?",
    ),
    (
        "[[tenancy.keys]]\nid = 'a'\ntenant = 'default'\nhash = 'hunter2' # <-",
        "tenancy.keys[0].hash",
        None,
    ),
    (
        f"[[tenancy.keys]]\nid = 'a'\ntenant = 'default'\nhash = '{HASH}'\n"
        f"[[tenancy.keys]]\nid = 'b'\ntenant = 'default'\nhash = '{HASH}' # <-",
        "tenancy.keys[1].hash",
        "give each its own",
    ),
    (
        f"[[tenancy.keys]]\nid = 'a'\ntenant = 'default'\nhash = '{HASH}'\n"
        f"[[tenancy.keys]]\nid = 'a' # <-\ntenant = 'default'\nhash = '{hash_key('b')}'",
        "tenancy.keys[1].id",
        "give each its own",
    ),
    (
        "[tenancy]\nfrom = ['header:x-t']\ntrust_headers = true\n[[tenancy.keys]] # <-\n"
        f"id = 'a'\ntenant = 'default'\nhash = '{HASH}'",
        "tenancy.keys",
        None,
    ),
]


@pytest.mark.parametrize(("text", "path", "suggestion"), BAD, ids=[f"{path}-{n}" for n, (_, path, _) in enumerate(BAD)])
def test_what_is_wrong_is_told_with_its_line_and_what_was_meant(text: str, path: str, suggestion: str | None) -> None:
    (line,) = [number for number, content in enumerate(text.split("\n"), 1) if content.endswith("# <-")]
    found = problems(text)
    assert [(problem.path, problem.line) for problem in found] == [(path, line)]
    told = found[0].suggestion
    assert (told is None) if suggestion is None else (told is not None and suggestion in told)
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("[x\n", 1), ('a = """\n\n', 3), ("a = 1\na = 2\n", 2), ("a = 'x'\n\n[a]", 3)],
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(SettingsError, match="this is not TOML") as refused:
        parse_settings(text, source="x.toml", environ={})
    assert [problem.line for problem in refused.value.problems] == [line]


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    texts = [text for text, _, _ in BAD if text.startswith(("[policies.a", "[[routes]]", "[prices.", "[redaction]"))]
    merged = "\n".join(texts[:1] + [text for text in texts[1:] if text.split("\n")[0] not in "\n".join(texts[:1])])
    try:
        found = problems(merged)
    except KeyError:  # pragma: no cover - the texts above exclude it
        raise
    assert len(found) >= 2
