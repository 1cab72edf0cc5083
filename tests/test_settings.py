from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.errors import ConfigurationError
from tenantguard.layers.audit import Audit
from tenantguard.model.ledger import OnOrphan
from tenantguard.model.money import Amount
from tenantguard.model.period import Period
from tenantguard.model.policy import EMPTY_POLICY
from tenantguard.model.price import TokenPrice, UnknownModel
from tenantguard.model.rate import Rate
from tenantguard.model.redact_section import Direction, Find, RedactSection, Restore
from tenantguard.model.route import Idempotency, OnDisconnect, Success
from tenantguard.model.sections import (
    BudgetRule,
    BudgetSection,
    RateRule,
    RateSection,
    Scope,
)
from tenantguard.model.tenant import Identity, Role, TenantId
from tenantguard.settings import Problem, SettingsError, build, load, loopholes, parse_settings, read_settings
from tenantguard.settings.reading import TABLES
from tenantguard.settings.shapes import (
    BudgetShape,
    ConcurrencyShape,
    GuardShape,
    KeyShape,
    LedgerShape,
    PriceShape,
    PricingShape,
    ProxyShape,
    QuotaShape,
    RateShape,
    RedactShape,
    RouteShape,
    TenancyShape,
)

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
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

REDACTED = Direction(Find(entities=("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER")))
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
    assert [layer.name for layer in read.layers] == ["audit", "tenant", "idempotency", "rate", "redaction", "charge"]
    assert read.keys == {HASH: Identity("acme-dev", TenantId("acme"), Role.EDITOR)}
    assert read.fallback is None
    (route,) = read.routes.routes
    assert (route.match, route.usage, route.max_output) == ("POST /v1/chat/completions", "openai-chat", 4096)
    assert read.prices.models == {"gpt-5-mini": TokenPrice(250_000_000, 2_000_000_000, 25_000_000, 0, "USD")}
    acme = read.policies["acme"].policy
    assert dict(acme.sections) == {
        RateSection: RateSection((RateRule(Rate(100, 10**9, 200)),)),
        BudgetSection: BudgetSection((BudgetRule(Amount(250 * 10**9, "USD"), Period.MONTH),)),
        RedactSection: RedactSection(REDACTED, REDACTED, Restore.ALL),
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
    assert acme.policy.section(RedactSection) == RedactSection(None, None)
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
        takes = { images = 2, jobs = 1 }
        idempotency = "replay"
        charge_once = false
        charge_reported = true
        on_orphan = "charge_hold"
        min_output = 8
        [[routes]]
        match = "GET /healthz"
        public = true
        """,
    )
    route = read.routes.find("POST", "/jobs/7")
    assert (route.price, route.unit, route.unit_price) == (Amount(10**7, "USD"), "page", Amount(10**6, "USD"))
    assert (route.success, route.on_disconnect, route.max_units) == (Success.RETURNED, OnDisconnect.OBSERVED, 500)
    assert (route.takes, route.idempotency) == ((("images", 2), ("jobs", 1)), Idempotency.REPLAY)
    assert (route.charge_once, route.charge_reported, route.on_orphan) == (False, True, OnOrphan.CHARGE_HOLD)
    assert route.min_output == 8
    assert read.routes.find("GET", "/healthz").public
    assert [layer.name for layer in read.layers] == ["audit", "tenant", "idempotency", "charge"]


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
    ("[xyz] # <-", "xyz", "known are alerts, guard, idempotency, ledger, limits, policies"),
    ('[guard]\n\nledgr = "memory://" # <-', "guard.ledgr", "did you mean 'ledger'?"),
    ("guard = 3 # <-", "guard", None),
    ('[guard]\nledger = "redis://localhost" # <-', "guard.ledger", None),
    ('[guard]\nledger = "sqlite:///" # <-', "guard.ledger", None),
    ('[guard]\nlimits = "memcached://localhost" # <-', "guard.limits", None),
    ("[guard]\nledger = 1 # <-", "guard.ledger", None),
    ('[guard]\nbody_limit = "100" # <-', "guard.body_limit", "write it without quotes"),
    ("[guard]\nbody_limit = 1.5 # <-", "guard.body_limit", None),
    ("[guard]\nbody_limit = 0 # <-", "guard.body_limit", None),
    ("[guard]\nbody_limit = true # <-", "guard.body_limit", None),
    ("[guard]\ndrain_s = inf # <-", "guard.drain_s", None),
    ("[guard]\ndrain_s = nan # <-", "guard.drain_s", None),
    ("[guard]\ndrains_max = -1 # <-", "guard.drains_max", None),
    ('[guard]\nlayers = "tenant" # <-', "guard.layers", "write it in [brackets]"),
    ("[guard]\nlayers = [] # <-", "guard.layers", "leave the key out"),
    ('[guard]\nlayers = [\n"tenant",\n"audti", # <-\n]', "guard.layers[1]", "did you mean 'audit'?"),
    ('[guard]\nlayers = ["tenant", "tenant"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", "no_such:thing"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", "json:no_such"] # <-', "guard.layers[1]", None),
    ('[guard]\nlayers = ["tenant", ":x"] # <-', "guard.layers[1]", None),
    ('[guard]\nledger = "memory://"\nlayers = ["charge", "tenant"] # <-', "guard.layers", None),
    ('[guard]\nlayers = ["rate", "tenant"] # <-', "guard.layers", None),
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
    ("[tenancy]\nmode = 'single'\nrequired = 'true' # <-", "tenancy.required", "write it without quotes"),
    ("[policies.deflt]\n[[routes]]\nmatch = 'x' # <-", "routes[0].match", None),
    ("[[routes]] # <-\nname = 'x'", "routes[0].match", None),
    ("[routes] # <-\nmatch = '/x'", "routes", "write [[routes]]"),
    ("[[routes]]\nmatch = '/x'\n[[routes]]\nmatch = '/x' # <-", "routes[1].match", None),
    ("[[routes]]\nmatch = '/x'\nusage = 'openai-caht' # <-", "routes[0].usage", "did you mean 'openai-chat'?"),
    ("[[routes]]\nmatch = '/x'\nmax_output = 0 # <-", "routes[0].max_output", None),
    ("[[routes]]\nmatch = '/x'\nprice = '1 usd' # <-", "routes[0].price", None),
    ("[[routes]]\nmatch = '/x'\nprice = 1 # <-", "routes[0].price", '"250.00 USD"'),
    ("[[routes]] # <-\nmatch = '/x'\nunit = 'page'", "routes[0]", None),
    ("[[routes]]\nmatch = '/x'\nsuccess = 'return' # <-", "routes[0].success", "did you mean 'returned'?"),
    (
        "[[routes]]\nmatch = '/x'\non_disconect = 'void' # <-",
        "routes[0].on_disconect",
        "did you mean 'on_disconnect'?",
    ),
    (
        "guard.ledger = 'memory://'\n[[routes]]\nmatch = '/x'\nusage = 'openai-chat' # <-",
        "routes[0].usage",
        'write [prices."<model>"]',
    ),
    (
        "[prices.m] # <-\ninput = '1 USD/1M'\noutput = '1 USD/1M'\ncache_read = '0 USD/1M'",
        "prices.m.cache_write",
        None,
    ),
    (f'[prices."gpt 5"]\n{PRICE}reasonin = "1 USD/1M" # <-', 'prices."gpt 5".reasonin', "did you mean 'reasoning'?"),
    (f"[prices.m]\n{PRICE}".replace('output = "1 USD/1M"', 'output = "1 USD" # <-'), "prices.m.output", None),
    (f"[prices.m] # <-\n{PRICE}".replace('output = "1 USD', 'output = "1 EUR'), "prices.m", None),
    (f"[prices.a]\n{PRICE}[prices.b] # <-\n{PRICE.replace('USD', 'EUR')}", "prices.b", "a table [rates]"),
    ("prices = 'free' # <-", "prices", 'write [prices."<model>"]'),
    ("[pricing] # <-\nunknown_model = 'default'", "pricing", None),
    (f"[pricing] # <-\n[pricing.default]\n{PRICE}", "pricing", None),
    ("[pricing]\nunknown_model = 'wran' # <-", "pricing.unknown_model", "did you mean 'warn'?"),
    ("[redaction]\nkey = 'short' # <-", "redaction.key", None),
    ("[redaction]\nkey_file = '/no/such/file' # <-", "redaction.key_file", None),
    ("[proxy]\nunknown_routes = 'refused' # <-", "proxy.unknown_routes", "did you mean 'refuse'?"),
    ("[policies]\nacme = 3 # <-", "policies.acme", None),
    ("[policies.'a b'] # <-", 'policies."a b"', None),
    ("[policies.default]\nrates = '1/second' # <-", "policies.default.rates", "did you mean 'rate'?"),
    ("[policies.acme]\ninherit = 'defalt' # <-", "policies.acme.inherit", "did you mean 'default'?"),
    ("[policies.acme]\ninherit = 'acme' # <-", "policies.acme.inherit", None),
    ("[policies.a]\ninherit = 'b' # <-\n[policies.b]\ninherit = 'a'", "policies.a.inherit", None),
    ("[policies.default]\nrate = '0/second' # <-", "policies.default.rate", None),
    ("[policies.default]\nrate = 5 # <-", "policies.default.rate", '"10/second"'),
    ("[policies.default]\nrate = [] # <-", "policies.default.rate", "leave the key out"),
    ("[policies.default]\nrate = [\n'1/second',\n'1/secnd', # <-\n]", "policies.default.rate[1]", None),
    (
        "[policies.default]\nrate = { limit = '1/second', scope = 'identiy' } # <-",
        "policies.default.rate.scope",
        "did you mean 'identity'?",
    ),
    (
        (
            "guard.ledger = 'memory://'\n[policies.default]\nbudget = [\n{ limit = '1 USD', per = 'day' },\n"
            "{ limit = '1 USD', per = 'dya' }, # <-\n]"
        ),
        "policies.default.budget[1].per",
        "did you mean 'day'?",
    ),
    (
        (
            "guard.ledger = 'memory://'\n[policies.default]\n"
            "budget = [{ limit = '1 USD', per = 'day' }, { limit = '1 EUR', per = 'month' }] # <-"
        ),
        "policies.default.budget",
        None,
    ),
    (
        (
            f"guard.ledger = 'memory://'\n[prices.m]\n{PRICE}[policies.default]\n"
            "budget = { limit = '1 EUR', per = 'day' } # <-"
        ),
        "policies.default.budget",
        "a table [rates]",
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
        (
            f"[[tenancy.keys]]\nid = 'a'\ntenant = 'default'\nhash = '{HASH}'\n"
            f"[[tenancy.keys]]\nid = 'b'\ntenant = 'default'\nhash = '{HASH}' # <-"
        ),
        "tenancy.keys[1].hash",
        "give each its own",
    ),
    (
        (
            f"[[tenancy.keys]]\nid = 'a'\ntenant = 'default'\nhash = '{HASH}'\n"
            f"[[tenancy.keys]]\nid = 'a' # <-\ntenant = 'default'\nhash = '{hash_key('b')}'"
        ),
        "tenancy.keys[1].id",
        "give each its own",
    ),
    (
        (
            "[tenancy]\nfrom = ['header:x-t']\ntrust_headers = true\n[[tenancy.keys]] # <-\n"
            f"id = 'a'\ntenant = 'default'\nhash = '{HASH}'"
        ),
        "tenancy.keys",
        None,
    ),
]


@pytest.mark.parametrize(
    ("text", "path", "suggestion"), BAD, ids=[f"{path}-{n}" for n, (_, path, _) in enumerate(BAD)]
)
def test_what_is_wrong_is_told_with_its_line_and_what_was_meant(text: str, path: str, suggestion: str | None) -> None:
    (line,) = [number for number, content in enumerate(text.split("\n"), 1) if content.endswith("# <-")]
    found = problems(text)
    assert [(problem.path, problem.line) for problem in found] == [(path, line)]
    told = found[0].suggestion
    assert (told is None) if suggestion is None else (told is not None and suggestion in told)
    assert "hunter2" not in str(found)


def test_policies_are_tables_by_name() -> None:
    with pytest.raises(SettingsError, match=r"x\.toml:1: policies: must be a table of tables, is a list"):
        parse_settings("policies = []", source="x.toml", environ={})


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("[x\n", 1), ('a = """\n\n', 3), ("a = 1\na = 2\n", 2), ("a = 'x'\n\n[a]", 3)],
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(SettingsError, match="this is not TOML") as refused:
        parse_settings(text, source="x.toml", environ={})
    assert [problem.line for problem in refused.value.problems] == [line]


EVERYTHING = """\
gaurd = 1
[guard]
ledger = "redis://x"
body_limit = "12"
layers = ["tenant", "rat", "rate", "charge", "redaction"]

[tenancy]
from = ["api-key", "header:x tenant"]
requird = true
[[tenancy.keys]]
id = "acme-dev"
tenant = "acmee"
hash = "my secret key"
[[tenancy.keys]]
id = "x"
tenant = "globex"

[[routes]]
match = "post /v1"
usage = "openai-caht"
max_output = 0

[prices."gpt-5-mini"]
input = "0.25 USD/1M"
output = 2.00
cache_read = "0.025 USD/1Mx"

[policies.default]
inherit = "acme"
rate = "10/secnd burst 20"

[policies.acme]
inherit = "default"
rate = [{ scop = "identity", limit = "0/second" }]
budget = { limit = "250.00 EUR", per = "monht" }
redact = { request = "off", response = "restore" }
"""


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(EVERYTHING, source="x.toml", environ={})
    assert [(problem.line, problem.path) for problem in refused.value.problems] == [
        (1, "gaurd"),
        (3, "guard.ledger"),
        (4, "guard.body_limit"),
        (5, "guard.layers[1]"),
        (8, "tenancy.from[1]"),
        (9, "tenancy.requird"),
        (12, "tenancy.keys[0].tenant"),
        (13, "tenancy.keys[0].hash"),
        (14, "tenancy.keys[1].hash"),
        (16, "tenancy.keys[1].tenant"),
        (19, "routes[0].match"),
        (20, "routes[0].usage"),
        (21, "routes[0].max_output"),
        (23, "prices.gpt-5-mini.cache_write"),
        (25, "prices.gpt-5-mini.output"),
        (26, "prices.gpt-5-mini.cache_read"),
        (29, "policies.default.inherit"),
        (30, "policies.default.rate"),
        (34, "policies.acme.rate[0].limit"),
        (34, "policies.acme.rate[0].scop"),
        (35, "policies.acme.budget.per"),
        (36, "policies.acme.redact"),
    ]
    told = str(refused.value)
    assert told.startswith("x.toml has 22 problems:\n  x.toml:1: gaurd: unknown key; did you mean 'guard'?\n")
    assert "my secret key" not in told


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = [
    "guard", "tenancy", "routes", "prices", "pricing", "policies", "redaction", "proxy", "ledger", "layers", "from",
    "keys", "mode", "match", "usage", "price", "input", "default", "inherit", "rate", "budget", "redact", "limit",
    "rates", "base", "version", "quota", "unit", "takes", "carry", "alerts", "tiers", "services", "file", "providers",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(KEYS), json_values | st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4)
    )
)
def test_whatever_stands_in_a_file_is_a_problem_and_never_a_crash(document: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    with pytest.raises(SettingsError) as refused:  # nothing that is drawn has a key for its tenants
        parse_settings(text, environ={})
    assert all(problem.line is None or problem.line <= len(document) for problem in refused.value.problems)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "2020-01-01" if value is None else json.dumps(value).replace("\x7f", "").replace("Infinity", "inf")


# the environment


def test_the_environment_overrides_the_file() -> None:
    read = parse(
        ISSUE.replace("redact =", "# redact ="),
        TENANTGUARD__GUARD__LEDGER="memory://",
        TENANTGUARD__GUARD__BODY_LIMIT="4096",
        TENANTGUARD__GUARD__DRAIN_S="2.5",
        TENANTGUARD__TENANCY__REQUIRED="false",
        TENANTGUARD__POLICIES__ACME__RATE='[{ limit = "7/second", scope = "route" }]',
        TENANTGUARD__POLICIES__DEFAULT__RATE="3/minute",
        TENANTGUARD__PRICES__GPT_5_MINI__INPUT="9 USD/1M",
        TENANTGUARD__PRICING='{ unknown_model = "warn" }',
        TENANTGUARD__REDACTION__KEY="1" * 31 + "a",
        TENANTGUARD__PROXY__UNKNOWN_ROUTES='"forward"',
        UNRELATED="x",
        TENANTGUARD_OTHER="x",
    )
    assert (read.guard.ledger, read.guard.body_limit, read.guard.drain_s) == ("memory://", 4096, 2.5)
    assert not read.tenancy.required
    assert read.policies["acme"].policy.section(RateSection) == RateSection((RateRule(Rate(7, 10**9), Scope.ROUTE),))
    assert read.policies["default"].policy.section(RateSection) == RateSection((RateRule(Rate(3, 60 * 10**9)),))
    assert read.prices.models["gpt-5-mini"].input == 9 * 10**9
    assert read.prices.unknown is UnknownModel.WARN
    assert read.redaction_key == b"1" * 31 + b"a"
    assert read.proxy.unknown_routes == "forward"
    assert "1" * 31 not in repr(read)


@pytest.mark.parametrize(
    ("variable", "value", "path", "message"),
    [
        ("TENANTGUARD__GARD__LEDGER", "memory://", "gard", "unknown key"),
        ("TENANTGUARD__GUARD__BODY_LIMIT", "much", "guard.body_limit", "whole number"),
        ("TENANTGUARD__GUARD__LAYERS", "[1", "guard.layers", "begins like TOML"),
        ("TENANTGUARD__GUARD__LAYERS", '["tenant"]\nx = 1', "guard.layers", "begins like TOML"),
        ("TENANTGUARD__GUARD__LIMITS__X", "1", "guard.limits", "is no table"),
        ("TENANTGUARD__POLICIES__NEW__RATE", "fast", "policies.new.rate", "cannot read the rate"),
        ("TENANTGUARD__", "1", '""', "unknown key"),
    ],
)
def test_a_problem_names_the_variable_that_it_comes_from(variable: str, value: str, path: str, message: str) -> None:
    (problem,) = problems('[guard]\nlimits = "memory://"', **{variable: value})
    assert (problem.variable, problem.line, problem.path) == (variable, None, path)
    assert message in problem.message
    with pytest.raises(SettingsError, match=f"environment variable {variable}: {path}"):
        parse('[guard]\nlimits = "memory://"', **{variable: value})


@pytest.mark.parametrize("other", ["TENANTGUARD__guard__ledger", "TENANTGUARD__Guard__Ledger"])
def test_two_variables_that_set_one_key_are_a_problem(other: str) -> None:
    variables = {"TENANTGUARD__GUARD__LEDGER": "memory://", other: "sqlite:///other.db"}
    (problem,) = problems("", **variables)
    assert problem.variable == other
    assert "sets guard.ledger, as TENANTGUARD__GUARD__LEDGER does" in problem.message


def test_a_variable_sets_a_key_of_a_table_that_another_sets() -> None:
    read = parse(
        SINGLE, TENANTGUARD__guard='{ body_limit = 5, ledger = "memory://" }', TENANTGUARD__GUARD__BODY_LIMIT="6"
    )
    assert (read.guard.body_limit, read.guard.ledger) == (6, "memory://")


def test_a_variable_that_may_mean_two_keys_is_a_problem() -> None:
    (problem,) = problems('[policies."a-b"]\n[policies."a.b"]\n', TENANTGUARD__POLICIES__A_B__RATE="1/second")
    assert problem.variable == "TENANTGUARD__POLICIES__A_B__RATE"
    assert "A_B means 'a-b' and 'a.b'" in problem.message


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000], ids=["digits", "depth"])
def test_what_python_cannot_hold_is_a_problem(value: str) -> None:
    with pytest.raises(SettingsError, match=r"x\.toml: cannot be read: a number has thousands of digits, or"):
        parse_settings(f"[guard]\nbody_limit = {value}\n", source="x.toml", environ={})
    (problem,) = problems("", TENANTGUARD__GUARD__BODY_LIMIT=value)
    assert problem.path == "guard.body_limit"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("guard.body_limit = '10'", "must be a whole number, is text; write it without quotes"),
        ("guard.body_limit = 'ten'", "must be a whole number, is text"),
        ("guard.layers = []", "is empty; leave the key out, or name at least one"),
        ("guard.layers = 'rate'", "must be a list, is text; write it in [brackets]"),
        ("[tenancy.keys]\nid = 'x'", "must be a list, is a table; write its name in [[two brackets]]"),
        (
            "policies.a.rate = 10",
            'must be text in quotes or a table, is a whole number; write for example "10/second"',
        ),
        ("policies.a.concurrency = '5'", "must be a whole number or a table, is text; write for example 5"),
        ("policies.a.redact = 'on'", 'must be a table, is text; write for example { response = "restore" }'),
    ],
)
def test_what_is_of_another_type_comes_with_the_remedy_that_would_help(written: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(written)
    assert [line for line in str(refused.value).splitlines() if line.endswith(f": {told}")]


# files


def test_a_file_is_read_with_the_environment_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTGUARD__GUARD__BODY_LIMIT", "5")
    file = tmp_path / "tenantguard.toml"
    file.write_bytes(b"\xef\xbb\xbf" + f"{SINGLE}[policies.default]\r\n".encode())
    read = read_settings(file)
    assert read.guard.body_limit == 5
    assert (read.source, read.folder) == (str(file), tmp_path)


def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file or directory"):
        read_settings(tmp_path / "nowhere.toml", environ={})
    (tmp_path / "latin.toml").write_bytes("a = 1\n# caf\u00e9".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"latin\.toml:2: this is not UTF-8"):
        read_settings(tmp_path / "latin.toml", environ={})


def test_the_key_of_placeholders_may_stand_in_a_file_beside_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(f"{SINGLE}[policies.default]\n[redaction]\nkey_file = 'secret'\n")
    (tmp_path / "secret").write_bytes(b"s" * 32 + b"\n")
    assert read_settings(file, environ={}).redaction_key == b"s" * 32
    (tmp_path / "secret").write_bytes(b"s" * 31)
    with pytest.raises(SettingsError, match="fewer than 32 bytes"):
        read_settings(file, environ={})
    with pytest.raises(SettingsError, match=r"besides redaction\.key"):
        read_settings(file, environ={"TENANTGUARD__REDACTION__KEY": "s" * 40})


# layers and sections of a user's own


class Own:
    name = "own"

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        return (yield from proceed(exchange))


own = Own()


def make_own() -> Own:
    return Own()


def broken() -> Own:
    raise RuntimeError("no")


not_a_layer = "text"


class Needy(Own):
    def __init__(self, what: str) -> None:
        self.what = what


class Speed(Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class DeliverySection:
    days: tuple[str, ...] = ("mon",)
    speed: Speed = Speed.SLOW
    codes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.days:
            raise ValueError("there is a day")


@dataclass(frozen=True, slots=True)
class QuietHoursSection:
    begin: int
    end: int = 24
    days: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.begin >= self.end:
            raise ConfigurationError("quiet hours begin before they end")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    import sys

    monkeypatch.setitem(sys.modules, "their_module", sys.modules[__name__])
    return "their_module"


@pytest.mark.parametrize("attribute", ["own", "Own", "make_own"])
def test_a_layer_of_a_users_own_stands_where_the_list_says(module: str, attribute: str) -> None:
    guard = build(parse(f'[guard]\nlayers = ["audit", "{module}:{attribute}", "tenant"]'))
    assert [type(layer).__name__ for layer in guard.layers] == ["Audit", "Own", "TenantContext"]
    assert isinstance(guard.layers[0], Audit)
    guard.close()


@pytest.mark.parametrize("attribute", ["broken", "not_a_layer"])
def test_what_makes_no_layer_is_told_by_its_name(module: str, attribute: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{module}:{attribute}.* is no layer"):
        build(parse(f'[guard]\nlayers = ["tenant", "{module}:{attribute}"]'))


@pytest.mark.parametrize(
    ("attribute", "told"),
    [
        ("not_a_layer", "is no layer, and cannot make one without arguments"),
        ("Needy", "is no layer, and cannot make one without arguments: missing a required argument: 'what'"),
        ("Later", "in the module that loads the settings it stands above that line"),
    ],
)
def test_a_layer_that_cannot_be_made_is_a_problem_with_its_line(attribute: str, told: str) -> None:
    (problem,) = problems(f'[guard]\nlayers = ["tenant", "{__name__}:{attribute}"]')
    assert (problem.line, problem.path) == (2, "guard.layers[1]")
    assert told in problem.message


def test_a_section_of_a_users_own_is_checked_and_inherited_like_the_others() -> None:
    text = f"{SINGLE}[policies.default]\nquiet_hours = {{ begin = 22 }}\n[policies.acme]\ninherit = 'default'\n"
    read = parse_settings(text, environ={}, sections=[QuietHoursSection])
    assert read.policies["acme"].policy.section(QuietHoursSection) == QuietHoursSection(22)
    assert read.policies["acme"].origins == {QuietHoursSection: "default"}
    for written, message in [
        ("{ begin = '22' }", "begin: must be a whole number"),
        ("{ begn = 22 }", "begn: unknown key; did you mean 'begin'"),
        ("{ begin = 24 }", "quiet hours begin before they end"),
        ("3", "must be a table"),
    ]:
        with pytest.raises(SettingsError, match=message):
            parse_settings(text.replace("{ begin = 22 }", written), environ={}, sections=[QuietHoursSection])
    with pytest.raises(SettingsError, match="quiet_hours: unknown key"):
        parse_settings(text, environ={})


def test_a_section_of_a_users_own_has_lists_and_words_as_dataclasses_do() -> None:
    text = f"{SINGLE}[policies.default]\ndelivery = {{ days = ['mon', 'tue'], speed = 'fast', codes = ['a'] }}\n"
    read = parse_settings(text, environ={}, sections=[DeliverySection])
    section = read.policies["default"].policy.section(DeliverySection)
    assert section == DeliverySection(("mon", "tue"), Speed.FAST, frozenset({"a"}))
    for written, message in [
        ("days = 'mon'", r"delivery\.days: must be a list, is text; write it in \[brackets\]"),
        ("days = [5]", r"delivery\.days\[0\]: must be text in quotes, is a whole number"),
        ("speed = 'quick'", r"delivery\.speed: must be 'fast' or 'slow'"),
        ("days = []", r"delivery: there is a day$"),
    ]:
        with pytest.raises(SettingsError, match=message):
            parse_settings(
                f"{SINGLE}[policies.default]\ndelivery = {{ {written} }}\n", environ={}, sections=[DeliverySection]
            )


def test_a_section_must_be_a_frozen_dataclass_with_a_key_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="frozen dataclass"):
        parse_settings("", environ={}, sections=[Own])
    with pytest.raises(ConfigurationError, match="built-in 'rate'"):
        parse_settings("", environ={}, sections=[RateSection])


# building


def test_a_guard_is_built_with_its_stores_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(ISSUE.replace("redact =", "# redact ="))
    guard = load(file, environ={})
    assert [getattr(layer, "name", "") for layer in guard.layers] == [
        "audit",
        "tenant",
        "idempotency",
        "rate",
        "charge",
    ]
    assert (tmp_path / "tenantguard.db").exists()
    assert guard.ports.identities.identify("k" * 20) == Identity("acme-dev", TenantId("acme"))
    assert guard.ports.policies.find(TenantId("globex")) is None
    guard.close()


def test_a_ledger_that_cannot_be_opened_is_told_when_the_guard_is_built(tmp_path: Path) -> None:
    (tmp_path / "tenantguard.db").write_text("not a database, but somebody's notes")
    file = tmp_path / "tenantguard.toml"
    file.write_text(ISSUE.replace("redact =", "# redact ="))
    with pytest.raises(ConfigurationError, match=r"tenantguard\.toml: guard\.ledger: the ledger file"):
        load(file, environ={})
    assert (tmp_path / "tenantguard.db").read_text() == "not a database, but somebody's notes"


def test_the_proxy_refuses_what_no_route_names_unless_told_to_forward() -> None:
    route = "[[routes]]\nmatch = '/x'\n"
    names = [getattr(layer, "name", "") for layer in build(parse(route), proxy=True).layers]
    assert names == ["audit", "tenant", "routes"]
    assert len(build(parse(route)).layers) == 2
    forward = "proxy.unknown_routes = 'forward'\n"
    assert len(build(parse(forward), proxy=True).layers) == 2
    with pytest.raises(ConfigurationError, match="refuse every request"):
        build(parse(""), proxy=True)


def test_what_weakens_the_guard_is_known_by_name() -> None:
    assert loopholes(parse("")) == []
    weak = parse(
        "guard.ledger = 'memory://'\npricing.unknown_model = 'warn'\nproxy.unknown_routes = 'forward'\n"
        "[tenancy]\nrequired = false\ntrust_headers = true\nfrom = ['header:x-tenant-id']\n"
        "[[routes]]\nmatch = '/healthz'\npublic = true\n",
    )
    keys = ["tenancy.trust_headers", "tenancy.required", "pricing.", "proxy.", "routes:", "guard.ledger"]
    assert all(found.startswith(key) for found, key in zip(loopholes(weak), keys, strict=True))


def test_the_documented_example_has_every_key_and_is_right() -> None:
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    read = parse_settings(text, environ={})
    assert read.tenancy.fallback == "default"
    document = tomllib.loads(text)
    assert document.keys() == set(TABLES)
    (key,) = document["tenancy"]["keys"]
    routes: dict[str, Any] = {}
    for route in document["routes"]:
        routes |= route
    quotas = document["policies"]["acme"]["quota"]
    slots = document["policies"]["acme"]["concurrency"]
    for table, shape in [
        (document["guard"], GuardShape),
        (document["ledger"], LedgerShape),
        (document["tenancy"], TenancyShape),
        (key, KeyShape),
        (document["proxy"], ProxyShape),
        (routes, RouteShape),
        (document["prices"]["gpt-5-mini"], PriceShape),
        (document["pricing"].keys() | {"file", "providers"}, PricingShape),  # of a file that there may not be
        (document["policies"]["acme"]["rate"][1], RateShape),
        (slots[0] | slots[1], ConcurrencyShape),
        (document["policies"]["acme"]["budget"][1], BudgetShape),
        (quotas[0] | quotas[1], QuotaShape),
        (document["policies"]["acme"]["redact"].keys() | {"known", "ner"}, RedactShape),  # of what there may not be
    ]:
        assert {*table} == {field.alias or name for name, field in shape.model_fields.items()}
    assert "# file =" in text
    assert "# providers =" in text
