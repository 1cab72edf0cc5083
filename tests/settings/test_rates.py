"""``plan`` and ``rate`` of a policy: every form that they have, and what cannot be."""

from __future__ import annotations

import pytest

from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.limits.windows import WindowLimits
from tenantguard.model.rate import Rate
from tenantguard.model.sections import (
    Combine,
    Group,
    OnError,
    PlanSection,
    RateRule,
    RateSection,
    Scope,
    Signals,
    Strategy,
)
from tenantguard.settings import SettingsError, parse_settings
from tenantguard.settings.building import build, loopholes

SECOND = 10**9
ROUTES = """
[guard]
ledger = "memory://"

[tenancy]
mode = "single"

[[routes]]
match = "POST /chat"
name = "chat"
usage = "openai-chat"

[[routes]]
match = "POST /pictures"
takes = { pictures = 2 }

[pricing]
unknown_model = "warn"
"""


def section(rate: str, more: str = "") -> RateSection:
    read = parse_settings(f"{ROUTES}\n[policies.default]\n{more}\nrate = {rate}\n", environ={})
    found = read.policies["default"].policy.section(RateSection)
    assert found is not None
    return found


def problems(rate: str, more: str = "") -> str:
    with pytest.raises(SettingsError) as raised:
        section(rate, more)
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "rules"),
    [
        ('"10/second"', [RateRule(Rate(10, SECOND))]),
        ('"1000 tokens/min burst 2000"', [RateRule(Rate(1000, 60 * SECOND, 2000), unit="tokens")]),
        (
            '["1/s", "2 pictures/week"]',
            [RateRule(Rate(1, SECOND)), RateRule(Rate(2, 604_800 * SECOND), unit="pictures")],
        ),
        ('{ limit = "9/s", unit = "tokens" }', [RateRule(Rate(9, SECOND), unit="tokens")]),
        ('{ limit = "9 tokens/s", unit = "tokens" }', [RateRule(Rate(9, SECOND), unit="tokens")]),
        ('{ limit = "9/s", scope = "model", shadow = true }', [RateRule(Rate(9, SECOND), Scope.MODEL, shadow=True)]),
        (
            '{ limit = "9/s", scope = "group", group = { routes = ["chat"], models = ["m"] }, name = "both" }',
            [RateRule(Rate(9, SECOND), Scope.GROUP, group=Group(("chat",), ("m",)), name="both")],
        ),
        (
            '{ limit = "9/s", group = { routes = ["POST /pictures"] } }',
            [RateRule(Rate(9, SECOND), group=Group(("POST /pictures",)))],
        ),
        (
            '{ limit = "9/s", strategy = "moving-window" }',
            [RateRule(Rate(9, SECOND), strategy=Strategy.MOVING_WINDOW)],
        ),
    ],
)
def test_a_rate_is_text_a_table_or_a_list(written: str, rules: list[RateRule]) -> None:
    assert section(written) == RateSection(tuple(rules))


def test_a_table_with_rules_says_how_they_combine_and_what_a_failing_store_means() -> None:
    read = section('{ rules = ["1/s", "5/min"], combine = "override", on_error = "closed" }')
    assert len(read.rules) == 2
    assert (read.combine, read.on_error) == (Combine.OVERRIDE, OnError.CLOSED)
    assert section('{ rules = "1/s" }') == section('"1/s"')


@pytest.mark.parametrize(("strategy", "store"), [("token-bucket", MemoryLimits), ("fixed-window", WindowLimits)])
def test_windows_are_kept_where_a_policy_counts_in_them(strategy: str, store: type) -> None:
    text = f'{ROUTES}[policies.default]\nrate = ["1/s", {{ limit = "9/min", strategy = "{strategy}" }}]\n'
    guard = build(parse_settings(text, environ={}))
    assert type(guard.ports.limits) is store
    guard.close()


def test_a_plan_is_inherited_like_any_section() -> None:
    text = f'{ROUTES}[policies.gold]\nplan = "gold"\nrate = {{ limit = "9/s", scope = "plan" }}\n'
    text += '[policies.default]\ninherit = "gold"\n[policies.other]\ninherit = "gold"\nplan = "platinum"\n'
    read = parse_settings(text, environ={}).policies
    assert read["default"].policy.section(PlanSection) == PlanSection("gold")
    assert read["other"].policy.section(PlanSection) == PlanSection("platinum")


def test_who_inherits_a_rate_of_its_plan_may_name_the_plan() -> None:
    text = f'{ROUTES}[policies.base]\nrate = {{ limit = "9/s", scope = "plan" }}\n'
    parse_settings(f'{text}[policies.default]\ninherit = "base"\nplan = "gold"\n', environ={})
    with pytest.raises(SettingsError, match=r"policies\.default.* no plan"):
        parse_settings(f'{text}[policies.default]\ninherit = "base"\n', environ={})


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('"10/secnd"', "no granularity matched for secnd"),
        ('"5 tokns/s"', "did you mean 'tokens'"),
        ('{ limit = "5/s", unit = "picture" }', "did you mean 'pictures'"),
        ('{ limit = "5 tokens/s", unit = "pictures" }', "and the limit counts 'tokens'"),
        ('{ limit = "5/s", unit = "Tokens" }', "a name in lower case"),
        ('{ limit = "5/s", scope = "group" }', "needs a group"),
        ('{ limit = "5/s", group = {} }', "at least one route or model"),
        ('{ limit = "5/s", group = { routes = ["chad"] } }', "did you mean 'chat'"),
        ('{ limit = "5/s", group = ["chat"] }', "must be a table"),
        ('{ limit = "5/s", scope = "plan" }', "no plan"),
        ('{ limit = "5/s", name = "a b" }', "1 to 64 letters"),
        ('[{ limit = "5/s", name = "a" }, { limit = "5/min", name = "a" }]', "an earlier rate is called 'a'"),
        ('{ limit = "5/s", strategy = "fixed" }', "'fixed-window'"),
        ('{ limit = "5/s burst 9", strategy = "fixed-window" }', "has no burst"),
        ('{ limit = "5 tokens/s", strategy = "fixed-window" }', "gives nothing back"),
        ("{ rules = [] }", "is empty"),
        ('{ rules = "1/s", combine = "most" }', "must be 'all' or 'override'"),
        ('{ rules = "1/s", on_eror = "open" }', "did you mean 'on_error'"),
        ("5", 'must be text in quotes or a table, is a whole number; write for example "10/second"'),
    ],
)  # fmt: skip
def test_a_rate_that_cannot_be_is_told_with_a_remedy(written: str, told: str) -> None:
    assert told in problems(written)


def test_a_plan_has_a_name() -> None:
    assert "has a name" in problems('"1/s"', 'plan = ""')
    assert "must be text" in problems('"1/s"', "plan = 5")


@pytest.mark.parametrize("rate", ['"5 tokens/s"', '{ limit = "5/s", scope = "model" }'])
def test_what_no_request_can_meet_is_a_mistake(rate: str) -> None:
    text = f'[tenancy]\nmode = "single"\n[[routes]]\nmatch = "/a"\n[policies.default]\nrate = {rate}\n'
    with pytest.raises(SettingsError, match="write usage on"):
        parse_settings(text, environ={})


@pytest.mark.parametrize("scope", ["plan", "group", "model"])
def test_budgets_count_over_tenants_routes_and_keys_alone(scope: str) -> None:
    text = f'{ROUTES}[policies.default]\nbudget = {{ limit = "1 USD", per = "day", scope = "{scope}" }}\n'
    with pytest.raises(SettingsError, match="scope"):
        parse_settings(text, environ={})


def test_what_refuses_nothing_is_told_as_a_loophole() -> None:
    rate = '{ rules = { limit = "5 tokens/s", shadow = true }, on_error = "open" }'
    read = parse_settings(f"{ROUTES}\n[policies.default]\nrate = {rate}\n", environ={})
    told = [line for line in loopholes(read) if line.startswith("policies.")]
    assert told == [
        "policies.default: the rate of tokens, 5 per second, burst 5, is a shadow: it refuses nothing",
        "policies.default: rate.on_error = 'open': nothing is limited while the store of limits cannot be asked",
    ]


@pytest.mark.parametrize("signals", list(Signals))
def test_a_policy_says_how_its_limits_are_told(signals: Signals) -> None:
    assert section(f'{{ rules = "1/s", signals = "{signals}" }}').signals is signals
    assert section('"1/s"').signals is Signals.AUTO


def test_signals_that_nobody_knows_are_refused_with_those_there_are() -> None:
    told = problems('{ rules = "1/s", signals = "github" }')
    assert "signals" in told
    assert "legacy" in told
