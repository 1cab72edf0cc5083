"""``tenantguard check`` shows everything that is charged, and no password."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import spacy

from tenantguard.cli import main
from tests.settings.test_money import FILE, FOUR

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = f"""
tenancy.mode = "single"
[guard]
ledger = "postgresql://tg:hunter2@db:5432/ledger?password=hunter2"
[ledger]
deadline_s = 2.5
admission = "lease"
[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 4096
min_output = 128
takes = {{ images = 2, jobs = 1 }}
on_missing_usage = "estimate"
idempotency = "replay"
charge_once = false
charge_reported = true
on_orphan = "review"
[[routes]]
match = "/scans"
usage = "header:x-pages"
unit = "pages"
unit_price = "0.001 EUR"
max_units = 9
[[routes]]
match = "/free"
takes = {{ jobs = 1 }}
[prices.m]
{FOUR.replace(", ", chr(10))}
reasoning = "3 USD/1M"
request = "0.01 USD"
tiers = [{{ above = 200_000, {FOUR} }}]
services.batch = {{ multiplier = "0.5" }}
services.flex = {{ {FOUR}, tiers = [{{ above = 7, {FOUR} }}] }}
[pricing]
file = "prices.json"
providers = ["acme"]
[rates]
version = "2026-10-12"
base = "USD"
EUR = "1.0876 USD"
[policies.default]
pricing = {{ discount = "2.5%" }}
budget = [
  {{ limit = "250 EUR", per = "month in Europe/Berlin", carry = {{ unused = "50 EUR" }}, alerts = [50, 80] }},
  {{ limit = "9 EUR", per = "rolling 24 hours", mode = "soft", alerts = [{{ percent = 120, of = "committed" }}] }},
  {{ limit = "8 EUR", per = "day", carry = "debt", scope = "identity" }},
  {{ limit = "7 EUR", per = "lifetime" }},
]
quota = [{{ unit = "requests", limit = 10, per = "day" }}, {{ unit = "jobs", limit = 5, returned = true }}]
"""


BERLIN = "budget 250.00 EUR in each month in Europe/Berlin, for each tenant"
CHAT = (
    "takes 2 images and 1 jobs, min_output 128, on_missing_usage estimate, idempotency replay, charge_once false, "
    "charge_reported true, on_orphan review"
)
SOFT = "the budget by rolling 24 hours is soft: what goes beyond it is recorded, and not refused"


def test_check_shows_everything_that_is_charged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(SETTINGS)
    (tmp_path / "prices.json").write_text(json.dumps(FILE))
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "hunter2" not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for expected in [
        "layers audit > tenant > idempotency > charge",
        "ledger postgresql://tg@db:5432/ledger",
        "answers within 2.5 s, and at most 10000 holds wait to be written",
        "each process leases blocks of budget and places holds in memory",
        "pricing discount 2.5% on what models cost",
        f"{BERLIN}; what is unused is carried over, at most 50.00 EUR; alerts at 50%, 80%",
        "budget 9.00 EUR in rolling 24 hours, for each tenant; soft: nothing is refused; alerts at 120% committed",
        "budget 8.00 EUR in each day, for each identity; debt is carried over",
        "budget 7.00 EUR over the lifetime, for each tenant",
        "quota 10 requests in each day, for each tenant",
        "quota 5 jobs at a time, for each tenant",
        f"POST /v1/chat/completions usage openai-chat, at most 4096 tokens out, {CHAT}",
        "/scans usage header:x-pages, 0.001 EUR for each of at most 9 pages",
        "/free no price, takes 1 jobs",
        "m 1.00 USD 2.00 USD 0.10 USD 1.25 USD reasoning 3.00 USD, a request 0.01 USD",
        "above 200000 tokens 1.00 USD 2.00 USD 0.10 USD 1.25 USD",
        "batch 0.5 times",
        "flex 1.00 USD 2.00 USD 0.10 USD 1.25 USD",
        "above 7 tokens 1.00 USD 2.00 USD 0.10 USD 1.25 USD",
        "any other: refuse",
        "exchange rates (version 2026-10-12)",
        "1 EUR 1.0876 USD",
        f"weakens the guard: policies.default: {SOFT}",
    ]:
        assert expected in lines, out
    (listed,) = [line for line in lines if line.startswith("prices.json: ")]
    assert listed.startswith("prices.json: 1 price (version ours-1-")
    assert listed.endswith("), of acme")


def test_what_is_redacted_is_shown_each_way_and_by_route_and_no_listed_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text("""
[tenancy]
mode = "single"
[[routes]]
match = "POST /v1/chat"
name = "chat"
[policies.default.redact]
entities = ["EMAIL_ADDRESS"]
countries = ["DE"]
languages = ["de"]
response = "restore"
restore = ["text"]
skip = ["id"]
operators = { US_SSN = "redact" }
deny = { exact = ["Project Bluebird"] }
headers = ["x-user"]
[policies.default.redact.request]
query = true
on_error = "open"
secrets = "refuse"
fields = ["messages"]
[policies.default.redact.routes.chat]
response = "off"
""")
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    usual = "EMAIL_ADDRESS (score 0.4 and above); those of DE; in de; US_SSN: redact; 1 denied"
    special = "only messages; not id; also query, header x-user; secrets refuse; on_error open"
    assert f"redact request {usual}; {special}" in lines
    restored = "the request's own values restored in text"
    assert f"redact response {usual}; not id; also header x-user; {restored}" in lines
    assert "on chat response: off" in lines
    assert any(line.startswith("weakens the guard: policies.default.redact: on_error") for line in lines)
    assert "Bluebird" not in out


@pytest.mark.parametrize(
    ("redact", "told"),
    [
        ("{}", ["all entities (score 0.4 and above)"]),
        ('{ recognizers = ["EsNifRecognizer"], threshold = 0.75 }', ["EsNifRecognizer (score 0.75 and above)"]),
        ('{ phone_regions = ["DE"], context = false }', ["telephone numbers of DE", "whatever words are before"]),
        ("{ normalize = true, limit = 5_000_000 }", ["in any width", "at most 5000000 bytes"]),
        ('{ allow = { exact = ["Bluebird"], domains = ["a.io"] }, skip = ["a", "b"] }', ["2 allowed", "not a, b"]),
        ("{ keys = true, numbers = true, request = { path = true } }", ["also keys, numbers, path"]),
        ('{ secrets = "off" }', ["secrets off"]),
        ("{ entropy = false }", ["no random keys"]),
        ('{ unknown = "block", parity = "presidio" }', ["unknown block", "by Presidio's own engine"]),
        ('{ operators = { "*" = "hash" } }', ["*: hash"]),
    ],
)
def test_what_differs_from_usual_redaction_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], redact: str, told: list[str]
) -> None:
    file = tmp_path / "tenantguard.toml"
    file.write_text(f'[tenancy]\nmode = "single"\n[policies.default]\nredact = {redact}\n')
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "redact request" in line]
    said = " ".join(line.split()).removeprefix("redact request ").split("; ")
    usual = "all entities (score 0.4 and above)"
    assert said == (told if told[0].endswith("above)") else [usual, *told])
    assert "Bluebird" not in out


@pytest.mark.parametrize(("buffer", "told"), [(False, "not in streams"), (True, "streams kept whole for it")])
def test_it_is_shown_whether_names_are_found_in_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, buffer: bool, told: str
) -> None:
    spacy.blank("en").to_disk(tmp_path / "model")
    file = tmp_path / "tenantguard.toml"
    ner = json.dumps(str(tmp_path / "model"))
    response = "{ buffer = true }" if buffer else "{}"
    file.write_text(f'[tenancy]\nmode = "single"\n[policies.default.redact]\nner = {ner}\nresponse = {response}\n')
    assert main(["check", str(file)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "redact response" in line]
    assert f"names by a language model, {told}" in line


@pytest.mark.parametrize(
    ("restore", "told"),
    [('["text", "arguments"]', "values restored"), ('["arguments"]', "values restored in arguments of tools")],
)
def test_it_is_shown_where_values_are_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restore: str, told: str
) -> None:
    file = tmp_path / "tenantguard.toml"
    redact = f'{{ response = "restore", restore = {restore} }}'
    file.write_text(f'[tenancy]\nmode = "single"\n[policies.default]\nredact = {redact}\n')
    assert main(["check", str(file)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "redact response" in line]
    assert line.rstrip().endswith(told)
