"""The examples run as they say they do, and everything that they print is checked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantguard.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

WEB_TOUR = """\
a stranger                              401 identity.invalid
acme orders 3 pages                     200 served acme
acme orders too many: costs nothing     422 refused by the application itself
acme asks for a quote                   200 served acme
acme orders 1 page                      200 served acme
acme's fifth request in the hour        429 rate.exceeded, Retry-After: 900
globex orders 3 pages                   200 served globex
globex has too little left for the next 402 budget.exhausted
acme: 0.032 USD spent, 0.00 USD held
globex: 0.016 USD spent, 0.00 USD held
"""
"""acme: 0.01 + 3 x 0.002, nothing, 0.004, 0.01 + 0.002. globex: 0.01 + 3 x 0.002 of 0.04, and the next holds 0.03."""

LAYER_TOUR = """\
the layer's three tests pass
00:00 UTC, acme    200, Retry-After: none
00:00 UTC, globex  503, Retry-After: 21600
06:00 UTC, acme    200, Retry-After: none
06:00 UTC, globex  200, Retry-After: none
"""

REDACTION_TOUR = """\
acme asks:      Write to ann@example.com or call +1 415 555 2671 about card 4111 1111 1111 1111.
the model sees: Write to <EMAIL_ADDRESS_*> or call <PHONE_NUMBER_*> about card ************** 1111.
acme reads:     Write to ann@example.com or call +1 415 555 2671 about card ************** 1111.
globex sends one: 403 The request holds a secret (URL_PASSWORD, body messages[0].content), which may not be sent here.
"""

RATES_TOUR = """\
acme: a picture  200 rendered, "tenant-60s";r=2;t=20
acme: a picture  200 rendered, "tenant-60s";r=1;t=10
acme: a picture  200 rendered, "tenant-60s";r=0;t=10
acme: a picture  429 rate.exceeded, "tenant-60s";r=0;t=10, Retry-After: 10
acme: a film     422 rate.impossible

rendered now: globex 1, globex 2; 4 wait
globex 6 comes too:   429 concurrency.queue_full, Retry-After: 1
begun in this order:  globex 1, globex 2, globex 3, initech 1, globex 4, globex 5
"""

QUOTAS_TOUR = """\
acme orders a report                 200 report 1
acme asks again, under the same key  200 report 1
acme orders another                  200 report 2
acme orders another                  200 report 3
acme orders another                  402 quota.exhausted
globex orders a report               200 report 4
globex orders a report               402 budget.exhausted
acme opens a second one meanwhile    402 quota.exhausted
acme's session ends                  200 goodbye
acme opens a third one, afterwards   200 goodbye

alert: acme has spent 2.40 EUR, 20% of 10.00 EUR is reached
alert: acme has spent 3 reports, 100% of 3 reports is reached

$ tenantguard ledger refund HOLD --reason 'the report was empty'
€0.80 given back on tenant/acme/month in Europe/Berlin
1 reports given back on tenant/acme/day in Europe/Berlin
id HOLD

$ tenantguard ledger grant --tenant globex --amount '5 EUR' --id invoice-81 --reason 'a top-up'
€5.00 granted on tenant/globex/month in Europe/Berlin

$ tenantguard ledger audit
everything in the ledger agrees

tenant/acme/month in Europe/Berlin   spent 1.60 EUR    left 8.40 EUR
tenant/acme/day in Europe/Berlin     spent 2 reports   left 1 reports
tenant/globex/month in Europe/Berlin spent 0.80 EUR    left 5.20 EUR
tenant/globex/day in Europe/Berlin   spent 1 reports   left 2 reports
tenant/acme/lifetime                 spent 0 sessions  left 1 sessions
"""
"""A report is 1.00 USD, 0.80 EUR: acme paid three and got one back, globex had 1.00 EUR."""

TEXT = "Write to jane.roe@example.com about card 4012888888881881"

MODEL_TOUR = f"""\
acme says:                 {TEXT}
acme is answered:          {TEXT}
the model was told:        Write to <EMAIL_ADDRESS_*> about card <CREDIT_CARD_*>
with the credential:       Bearer sk-of-the-provider
acme, in a stream:         {TEXT}
globex:                    Hello
globex, once more:         429 rate.exceeded, Retry-After: 3600
initech, without money:    402 budget.exhausted
calls that the model got:  3
acme: 0.000027 USD spent, 0.00 USD held
globex: 0.00000225 USD spent, 0.00 USD held
"""
"""Six tokens in at 0.25 USD and six out at 2 USD a million, twice; one of each."""


def run(*arguments: str | Path, cwd: Path, first: Path | None = None) -> str:
    """What a Python of its own prints; it must end well, and warn of nothing."""
    paths = [*([str(first)] if first is not None else []), str(ROOT)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TENANTGUARD__")}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=inherited | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """A tour leaves nothing beside the examples."""
    before = set(EXAMPLES.glob("*.db*"))
    yield
    assert set(EXAMPLES.glob("*.db*")) == before


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("fastapi_app.py", WEB_TOUR),
        ("flask_app.py", WEB_TOUR),
        ("django_app.py", WEB_TOUR),
        ("custom_layer.py", LAYER_TOUR),
        ("llm_proxy.py", MODEL_TOUR),
        ("quotas.py", QUOTAS_TOUR),
        ("rates.py", RATES_TOUR),
        ("redaction.py", REDACTION_TOUR),
    ],
)
def test_an_example_shows_what_it_says(name: str, printed: str, tmp_path: Path) -> None:
    assert _steady(run(EXAMPLES / name, cwd=tmp_path)) == printed


def test_the_proxy_is_shown_without_the_openai_sdk_too(tmp_path: Path) -> None:
    (tmp_path / "openai.py").write_text("raise ImportError('not installed')")
    assert _steady(run(EXAMPLES / "llm_proxy.py", cwd=tmp_path, first=tmp_path)) == MODEL_TOUR


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("fastapi_app", "FastAPI"),
        ("flask_app", "Flask"),
        ("django_app", "ASGIGuard"),
        ("custom_layer", "ASGIGuard"),
        ("quotas", "ASGIGuard"),
        ("redaction", "ASGIGuard"),
    ],
)
def test_what_a_server_is_told_to_serve_is_there(module: str, kind: str, tmp_path: Path) -> None:
    program = (
        f"import os, {module}\n"
        f"os.environ['TENANTGUARD__GUARD__LEDGER'] = 'sqlite:///{tmp_path}/ledger.db'\n"
        f"print(type({module}.serve()).__name__)\n"
    )
    assert run("-c", program, cwd=tmp_path, first=EXAMPLES).splitlines()[-1] == kind
    assert f"{module}:serve" in (EXAMPLES / f"{module}.py").read_text()


def test_the_layers_own_tests_are_tests(tmp_path: Path) -> None:
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "custom_layer.py", cwd=ROOT)
    assert "3 passed" in printed


def test_every_example_is_shown() -> None:
    web = {"fastapi_app.py", "flask_app.py", "django_app.py", "tour.py"}
    shown = web | {"custom_layer.py", "llm_proxy.py", "quotas.py", "rates.py", "redaction.py"}
    assert {file.name for file in EXAMPLES.glob("*.py")} == shown


@pytest.mark.parametrize(
    "name", ["tenantguard.toml", "llm_proxy.toml", "quotas.toml", "rates.toml", "redaction.toml"]
)
def test_the_settings_of_the_examples_are_right(name: str) -> None:
    assert read_settings(EXAMPLES / name, environ={}).keys


def _steady(printed: str) -> str:
    """What was printed, but for placeholders and ids, which each process makes anew, and for seconds that passed."""
    printed = re.sub(r"(<[A-Z_]+_)[a-z2-7]{10}>", r"\1*>", printed)
    printed = re.sub(r"\b[0-9a-f]{32}\b", "HOLD", printed)
    printed = re.sub(r"(?<=Retry-After: )89\d\b", "900", printed)
    return re.sub(r"(?<=Retry-After: )359\d\b", "3600", printed)
