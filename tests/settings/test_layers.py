"""Where the idempotency layer stands, and what becomes of its secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantguard.settings import SettingsError, build, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
[guard]
ledger = "memory://"
%s
[[tenancy.keys]]
id = "a"
tenant = "acme"
hash = "sha256:bfc2119d93df4a17efc9b3ea4504f7b15263d63a9d969934376f23039b18fca4"
[policies.acme]
rate = "10/second"
"""
PRICED = '[[routes]]\nmatch = "/jobs"\nprice = "0.01 USD"\n'
REPLAYED = PRICED + 'idempotency = "replay"\n'


def names(text: str) -> list[str]:
    return [layer.name for layer in parse_settings(text, environ={}).layers]


def test_what_is_charged_recognises_repetitions_before_anything_is_taken() -> None:
    assert names(HEAD % "" + PRICED) == ["audit", "tenant", "idempotency", "rate", "charge"]


def test_what_is_not_charged_has_no_keys_to_keep() -> None:
    assert names(HEAD % "") == ["audit", "tenant", "rate"]


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ('["tenant", "rate", "idempotency", "charge"]', "guard.layers[2]: must stand before 'rate'"),
        ('["tenant", "charge", "idempotency"]', "guard.layers[2]: must stand before 'charge'"),
        ('["tenant", "rate", "charge"]', "routes[0].idempotency: never applies: guard.layers lacks 'idempotency'"),
    ],
)
def test_an_order_that_cannot_work_is_told_with_its_place(layers: str, problem: str) -> None:
    with pytest.raises(SettingsError) as told:
        parse_settings(HEAD % f"layers = {layers}" + REPLAYED, environ={})
    assert problem in str(told.value)


def test_a_list_of_layers_without_it_is_right_where_no_route_asks_for_replay() -> None:
    assert names(HEAD % 'layers = ["tenant", "rate", "charge"]' + PRICED) == ["tenant", "rate", "charge"]


def test_the_secret_of_kept_responses_comes_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32 + b"\n")
    text = HEAD % "" + REPLAYED + '[idempotency]\nkey_file = "secret"\n'
    settings = parse_settings(text, folder=tmp_path, environ={})
    assert settings.idempotency_key == b"s" * 32
    assert "ssss" not in repr(settings)
    build(settings).close()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('webhook = "https://example.com/x"', "alerts.webhook: needs a secret to sign with"),
        ('webhook = "ftp://example.com/x"', "alerts.webhook: must be 'https://<host>/<path>'"),
        (f'webhook = "http://example.com/x"\nsecret = "{"s" * 32}"', "alerts.webhook: is not encrypted"),
        (f'secret = "{"s" * 32}"', "alerts.secret: is never looked at: there is no webhook"),
        ('webhook = "https://example.com/x"\nsecret = "short"', "alerts.secret: "),
    ],
)
def test_a_webhook_that_nobody_could_trust_is_told(table: str, problem: str) -> None:
    with pytest.raises(SettingsError) as told:
        parse_settings(HEAD % "" + f"[alerts]\n{table}\n", environ={})
    assert problem in str(told.value)
    assert "ssss" not in str(told.value)


@pytest.mark.parametrize("webhook", ["https://example.com:99999/x", "https://[secret", "https:///x"])
def test_a_webhook_that_is_no_address_is_one_problem(webhook: str) -> None:
    with pytest.raises(SettingsError) as told:
        parse_settings(HEAD % "" + f'[alerts]\nwebhook = "{webhook}"\nsecret = "{"s" * 32}"\n', environ={})
    assert [(problem.path, problem.message) for problem in told.value.problems] == [
        ("alerts.webhook", "must be 'https://<host>/<path>'")
    ]


def test_alerts_go_to_the_log_and_to_the_webhook_that_is_named() -> None:
    text = HEAD % "" + f'[alerts]\nwebhook = "http://127.0.0.1:9/x"\nsecret = "{"s" * 32}"\n'
    text += '[policies.other]\nbudget = { limit = "1 USD", per = "day", alerts = [80] }\n'
    settings = parse_settings(text, environ={})
    assert "ssss" not in repr(settings)
    guard = build(settings)
    assert guard.ports.alerts is not None
    guard.close()
