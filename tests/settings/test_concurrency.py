"""``concurrency`` of a policy: every form that it has, and what cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantguard.cli import main
from tenantguard.layers.concurrency import ConcurrencyLimit
from tenantguard.model.concurrency import ConcurrencyRule, ConcurrencySection, WhenFull
from tenantguard.model.sections import Combine, Group, OnError, Scope
from tenantguard.settings import SettingsError, parse_settings
from tenantguard.settings.building import build, loopholes

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 10**9
ROUTES = """
[guard]
ledger = "memory://"
deadline_header = "X-Request-Timeout-Ms"

[tenancy]
mode = "single"

[[routes]]
match = "POST /chat"
name = "chat"
usage = "openai-chat"

[pricing]
unknown_model = "warn"
"""


def text_of(concurrency: str, more: str = "") -> str:
    return f"{ROUTES}\n[policies.default]\n{more}\nconcurrency = {concurrency}\n"


def section(concurrency: str, more: str = "") -> ConcurrencySection:
    found = parse_settings(text_of(concurrency, more), environ={}).policies["default"].policy
    read = found.section(ConcurrencySection)
    assert read is not None
    return read


def problems(concurrency: str) -> str:
    with pytest.raises(SettingsError) as raised:
        section(concurrency)
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "rules"),
    [
        ("5", [ConcurrencyRule(5)]),
        ("[5, { limit = 2, scope = 'route' }]", [ConcurrencyRule(5), ConcurrencyRule(2, Scope.ROUTE)]),
        (
            '{ limit = 1, when_full = "reject", by = ["a.b", "c"], name = "x" }',
            [ConcurrencyRule(1, when_full=WhenFull.REJECT, by=("a.b", "c"), name="x")],
        ),
        (
            '{ limit = 1, queue = 7, wait_s = 0.5, weight = 3, group = { routes = ["chat"] } }',
            [ConcurrencyRule(1, queue=7, wait_ns=SECOND // 2, weight=3, group=Group(("chat",)))],
        ),
        ('{ limit = 1, scope = "model" }', [ConcurrencyRule(1, Scope.MODEL)]),
    ],
)
def test_it_is_a_number_a_table_or_a_list(written: str, rules: list[ConcurrencyRule]) -> None:
    """A-31."""
    assert section(written) == ConcurrencySection(tuple(rules))


def test_a_table_with_rules_says_how_they_combine_and_what_a_failing_store_means() -> None:
    read = section('{ rules = [1, 5], combine = "override", on_error = "closed" }')
    assert len(read.rules) == 2
    assert (read.combine, read.on_error) == (Combine.OVERRIDE, OnError.CLOSED)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("0", "greater than or equal to 1"),
        ("-1", "greater than or equal to 1"),
        ("true", "must be a whole number or a table"),
        ("1.5", "must be a whole number or a table"),
        ("[]", "is empty"),
        ("{ limit = true }", "must be a whole number"),
        ("{ queue = 5 }", "limit: is missing"),
        ("{ limit = 1, queue = 0 }", "greater than or equal to 1"),
        ("{ limit = 1, wait_s = 0 }", "greater than 0"),
        ("{ limit = 1, wait_s = 3601 }", "less than or equal to 3600"),
        ("{ limit = 1, weight = 0 }", "greater than or equal to 1"),
        ('{ limit = 1, when_full = "cancel" }', "must be 'reject' or 'queue'"),
        ('{ limit = 1, when_full = "reject", queue = 5 }', "lets nobody"),
        ('{ limit = 1, when_full = "reject", wait_s = 5 }', "lets nobody"),
        ('{ limit = 1, scope = "group" }', "needs a group"),
        ('{ limit = 1, scope = "plan" }', "concurrency of its plan, and no plan"),
        ('{ limit = 1, group = { routes = ["chad"] } }', "did you mean 'chat'"),
        ('{ limit = 1, by = ["a b"] }', "paths like"),
        ("{ limit = 1, limits = 2 }", "did you mean 'limit'"),
        ('[{ limit = 1, name = "a" }, { limit = 2, name = "a" }]', "an earlier concurrency is called 'a'"),
    ],
)
def test_what_cannot_be_is_told(written: str, told: str) -> None:
    """A-31, A+7."""
    assert told in problems(written)


def test_a_limit_by_model_needs_a_route_that_calls_one() -> None:
    text = '[tenancy]\nmode = "single"\n[policies.default]\nconcurrency = { limit = 1, scope = "model" }\n'
    with pytest.raises(SettingsError, match="no route has the usage of one"):
        parse_settings(text, environ={})


def test_a_header_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match="must be the name of a header"):
        parse_settings(text_of("5"), environ={"TENANTGUARD__GUARD__DEADLINE_HEADER": "x timeout"})


def test_a_policy_with_it_brings_the_layer_after_the_rates() -> None:
    guard = build(parse_settings(text_of("5", 'rate = "5/second"'), environ={}))
    names = [str(getattr(layer, "name", "")) for layer in guard.layers]
    assert names[names.index("rate") + 1] == "concurrency"
    (layer,) = [layer for layer in guard.layers if isinstance(layer, ConcurrencyLimit)]
    assert layer._deadline_header == "x-request-timeout-ms"
    assert guard.ports.slots.standing() == []
    guard.close()


def test_what_limits_nothing_when_its_store_fails_is_told_as_a_loophole() -> None:
    settings = parse_settings(text_of('{ rules = 5, on_error = "open" }'), environ={})
    assert any("concurrency.on_error = 'open'" in told for told in loopholes(settings))


def test_the_check_shows_what_each_tenant_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tenantguard.toml"
    rules = """[
      { limit = 9, scope = "global", weight = 2 },
      { limit = 1, by = ["user"], group = { routes = ["chat"] }, when_full = "reject" },
    ]"""
    table = f'{{ rules = {rules}, combine = "override", on_error = "closed" }}'
    file.write_text(text_of(table.replace("\n", " ")))
    assert main(["check", str(file)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "concurrency 9 at a time, for everybody together; 100 wait, 30 s at most; weight 2" in shown
    assert "concurrency 1 at a time, for each tenant; by user; of chat" in shown
    assert "concurrencies combine override, on error closed" in shown
