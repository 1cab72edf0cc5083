"""Whatever the README and the documentation show is run, and what they list is all that there is.

How a page is run: its blocks in order, in a folder of their own. A ``toml`` block is checked as settings and becomes
``tenantguard.toml`` there; without ``[tenancy]`` it is a part of a file, and what it needs besides is added. The
``python`` blocks share one module, ``myapp``, whose tests are run. Nothing can be left out: a block in any other
language fails.
"""

from __future__ import annotations

import ast
import asyncio
import enum
import json
import re
import shlex
import sys
import tomllib
import types
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic_core import PydanticUndefined

import tenantguard
from tenantguard.adapters.audits.structlog import event_of
from tenantguard.adapters.pii.presidio import PresidioDetector
from tenantguard.guard import Guard
from tenantguard.model.audit import AuditRecord
from tenantguard.model.charge import Charged
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.money import Amount
from tenantguard.model.route import Dialect
from tenantguard.model.tenant import TenantId
from tenantguard.proxy import _PROBLEMS, upstream_app
from tenantguard.rules.refusals import render_refusal
from tenantguard.rules.usage import DECODERS
from tenantguard.settings import parse_settings
from tenantguard.settings.layers import BUILT_IN
from tenantguard.settings.policies import _READERS
from tenantguard.settings.reading import TABLES
from tenantguard.settings.shapes import (
    AlertsShape,
    BudgetShape,
    ConcurrenciesShape,
    ConcurrencyShape,
    ExchangeShape,
    GuardShape,
    IdempotencyShape,
    KeyShape,
    LedgerShape,
    LimitsShape,
    MarkupShape,
    PolicyShape,
    PriceShape,
    PricingShape,
    ProxyShape,
    QuotaShape,
    RateShape,
    RatesShape,
    RedactionShape,
    RedactShape,
    RouteShape,
    TenancyShape,
)
from tenantguard.testing import model_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.settings.shapes import Shape

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "toml", "sh", "json"}

_FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start("text")), found["language"].strip(), found["text"])
        for found in _FENCE.finditer(text)
    ]


def table_under(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, header and rule aside."""
    section = (ROOT / page).read_text().partition(f"\n{heading}\n")[2]
    assert section, f"{page} has no heading {heading!r}"
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert found, f"{page} has no table under {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[0].splitlines()[2:]]


def codes(cell: str) -> list[str]:
    """What stands in `backticks`."""
    return re.findall(r"`([^`]+)`", cell)


# running the pages


class Page:
    """A page that is being run."""

    def __init__(self, folder: Path) -> None:
        self.module = types.ModuleType("myapp")
        self.guards: list[Guard] = []
        self._folder = folder

    def run(self, block: Block) -> None:
        if block.language == "toml":
            self._configure(block)
        elif block.language == "python":
            program = "\n" * block.line + block.text  # so that a failure tells the line of the page
            exec(compile(program, block.page, "exec"), self.module.__dict__)
            self.guards += [value for value in vars(self.module).values() if isinstance(value, Guard)]
            for name in [name for name in vars(self.module) if name.startswith("test_")]:
                vars(self.module).pop(name)()

    def _configure(self, block: Block) -> None:
        text = completed(block.text)
        own = [value for value in vars(self.module).values() if getattr(value, "__module__", "") == "myapp"]
        sections = [value for value in own if isinstance(value, type) and value.__name__.endswith("Section")]
        parse_settings(text, source=f"{block.page}:{block.line}", folder=self._folder, environ={}, sections=sections)
        (self._folder / "tenantguard.toml").write_text(text)


def completed(text: str) -> str:
    """A part of a settings file with what it needs to be whole: one tenant, a ledger, prices."""
    document = tomllib.loads(text)
    if "tenancy" in document:
        return text
    policies = [*document.get("policies", {"default": {}})]
    added = [f'tenancy = {{ mode = "single", fallback = "{policies[0]}" }}']
    if "guard" not in document:
        added.append('guard.ledger = "sqlite:///tenantguard.db"')
    if "policies" not in document:
        added.append("policies.default = {}")
    if document.keys().isdisjoint({"prices", "pricing"}):
        added.append('pricing.unknown_model = "warn"')
    return "\n".join([*added, text])


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page to be run in a folder of its own, free of this machine's settings."""
    (tmp_path / "redaction.key").write_text("a key for tests alone, of 32 bytes or more")
    monkeypatch.chdir(tmp_path)
    made = Page(tmp_path)
    monkeypatch.setitem(sys.modules, "myapp", made.module)
    yield made
    for guard in made.guards:
        guard.close()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_shows_runs(path: Path, page: Page) -> None:
    for block in blocks_of(path):
        page.run(block)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_is_in_a_language_that_is_checked(path: Path) -> None:
    assert {block.language for block in blocks_of(path)} <= LANGUAGES
    rest = _FENCE.sub("", path.read_text())
    assert "```" not in rest
    assert "~~~" not in rest


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for found in _LINK.finditer(path.read_text()):
        target = (path.parent / found["path"]).resolve() if found["path"] else path
        assert target.exists(), found[0]
        if found["anchor"]:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert found["anchor"] in {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings}


def test_the_index_names_every_page() -> None:
    linked = {found["path"] for found in _LINK.finditer((ROOT / "docs" / "index.md").read_text())}
    assert {path.name for path in PAGES if path.parent.name == "docs"} - {"index.md"} <= linked


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_exists_with_the_options_that_are_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tenantguard.cli import main

    for block in blocks_of(path):
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
            for command in re.split(r"&&|\|", line):
                words = shlex.split(command)
                if not words or Path(words[0]).name != "tenantguard":
                    continue
                with pytest.raises(SystemExit) as left:
                    main([words[1], "--help"])
                assert left.value.code == 0
                known = capsys.readouterr().out
                assert all(word in known for word in words if word.startswith("--")), command


def test_the_commands_of_the_readme_are_those_of_the_check() -> None:
    shown = " ".join(block.text for block in blocks_of(ROOT / "README.md") if block.language == "sh")
    check = (ROOT / ".ci" / "run").read_text().replace('"$venv/bin/', ".venv/bin/").replace('"', "")
    for command in (
        "pip install --require-hashes -r .ci/requirements.txt",
        "pip install --no-deps --no-build-isolation -e .",
    ):
        assert command in shown
        assert command in check.replace(" --quiet", "")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", shown)) <= set(extras)


# the quickstarts of the README


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_a_quickstart_serves_and_charges_what_the_readme_says(framework: str, page: Page) -> None:
    blocks = blocks_of(ROOT / "README.md")
    settings = next(block for block in blocks if block.language == "toml")
    program = next(block for block in blocks if f"from {framework} import" in block.text)
    key = re.search(r"authorization: (Bearer \w+)", "".join(block.text for block in blocks if block.language == "sh"))
    assert key is not None
    page.run(settings)
    page.run(program)
    app: Any = page.module.app  # type: ignore[attr-defined]
    headers = {"authorization": key[1]}
    guard: Guard = app.wsgi_app.guard if framework == "flask" else app.user_middleware[0].kwargs["guard"]
    page.guards.append(guard)
    guard.ports.audits = ()  # whose thread would print after this test has ended
    if framework == "flask":
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://test") as client:
            response = client.post("/reports", headers=headers)
    else:

        async def post() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await client.post("/reports", headers=headers)

        response = asyncio.run(post())
    assert response.json() == {"tenant": "acme"}
    (balance,) = guard.ports.ledger.balances(TenantId("acme"))
    assert (balance.spent, balance.held) == (16_000_000, 0)
    assert "0.016 USD; 0.03 USD is held" in (ROOT / "README.md").read_text()


# settings.md

SHAPES: dict[str, type[Shape]] = {
    "### `[guard]`": GuardShape,
    "### `[ledger]`": LedgerShape,
    "### `[limits]`": LimitsShape,
    "### `[tenancy]`": TenancyShape,
    "### `[[tenancy.keys]]`": KeyShape,
    "### `[[routes]]`": RouteShape,
    '### `[prices."<model>"]` and `[pricing.default]`': PriceShape,
    "### `[pricing]`": PricingShape,
    "### `[rates]`": ExchangeShape,
    "### `[redaction]`": RedactionShape,
    "### `[idempotency]`": IdempotencyShape,
    "### `[alerts]`": AlertsShape,
    "### `[proxy]`": ProxyShape,
    "### `[policies.<tenant>]`": PolicyShape,
    "### `rate` with `rules`": RatesShape,
    "### An element of `rate`": RateShape,
    "### `concurrency` with `rules`": ConcurrenciesShape,
    "### An element of `concurrency`": ConcurrencyShape,
    "### An element of `budget`": BudgetShape,
    "### An element of `quota`": QuotaShape,
    "### `pricing` of a policy": MarkupShape,
    "### `redact`": RedactShape,
}


@pytest.mark.parametrize("heading", SHAPES)
def test_every_key_of_the_settings_is_described_with_its_default_and_its_values(heading: str) -> None:
    shape = SHAPES[heading]
    rows = {codes(row[0])[0]: row for row in table_under("docs/settings.md", heading)}
    sections = rows.keys() & _READERS.keys() if shape is PolicyShape else set()
    assert rows.keys() - sections == {field.alias or name for name, field in shape.model_fields.items()}
    assert sections == (_READERS.keys() if shape is PolicyShape else set())
    for name, field in shape.model_fields.items():
        _, _, default, meaning = rows[field.alias or name]
        if field.default is PydanticUndefined:
            assert default == "required"
        elif field.default is None:
            assert default == "none"
        else:
            assert tomllib.loads(f"value = {codes(default)[0]}")["value"] == field.default
        for value in _values(field.annotation):
            assert value in codes(meaning), f"{name} = {value!r} is not described"


def test_every_table_decoder_and_layer_is_described() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    headings = " ".join(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert all(f"[{name}" in headings for name in TABLES)
    assert all(f"`{name}`" in text for name in [*DECODERS, *BUILT_IN])


def _values(annotation: Any) -> list[str]:
    """The values that a key with this type can have, where they can be counted."""
    if isinstance(annotation, type) and issubclass(annotation, enum.StrEnum):
        return [member.value for member in annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for inner in typing.get_args(annotation) for value in _values(inner)]


# decisions.md


def test_every_reason_is_described_with_every_status_that_the_code_gives_it() -> None:
    described = {
        codes(row[0])[0]: set(map(int, row[1].split(", "))) for row in table_under("docs/decisions.md", "## Codes")
    }
    assert described.keys() == {reason.value for reason in Reason}
    given: dict[str, set[int]] = {}
    for file in Path(tenantguard.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call):
                statuses = [
                    arg.value for arg in call.args if isinstance(arg, ast.Constant) and type(arg.value) is int
                ]
                for name in (arg.attr for arg in call.args if _is_reason(arg)):
                    given.setdefault(Reason[name].value, set()).update(statuses)
    assert len(given) >= len(Reason) - 2
    assert all(statuses <= described[reason] for reason, statuses in given.items()), given


def _is_reason(node: ast.expr) -> typing.TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"


def test_refusals_are_written_as_shown() -> None:
    shown = [
        json.loads(block.text) for block in blocks_of(ROOT / "docs" / "decisions.md") if block.language == "json"
    ]
    denial = Deny("rate", Reason.RATE_EXCEEDED, 429, "Too many requests. Try again in 3 s.", retry_after_ms=2500)
    dialects = (Dialect.PROBLEM, Dialect.OPENAI, Dialect.ANTHROPIC)
    written = [
        json.loads(render_refusal(denial, dialect, "01972f0e6c6b7c6e8f3f4f0f5a5b5c5d")[2]) for dialect in dialects
    ]
    assert shown == written


def test_the_audit_event_has_the_fields_that_are_described() -> None:
    described = {name for row in table_under("docs/decisions.md", "## The audit event") for name in codes(row[0])}
    nothing = Amount(0, "USD")
    charge = Charged(nothing, nothing, "nothing")
    record = AuditRecord(**{field.name: 0 for field in fields(AuditRecord)} | {"decisions": (), "charge": charge})
    assert described == event_of(record).keys()


def test_every_other_reason_of_an_ending_is_described() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    source = (Path(tenantguard.__file__).parent / "flow" / "session.py").read_text()
    found = set(re.findall(r'"(response\.\w+)"', source))
    assert found
    assert all(f"`{reason}`" in text for reason in found)


# proxy.md, redaction.md, testing.md


def test_the_failures_and_bounds_of_the_proxy_are_described() -> None:
    described = {codes(row[0])[0]: int(row[1]) for row in table_under("docs/proxy.md", "## Failures")}
    assert described == {code: status for code, (status, _, _) in _PROBLEMS.items()}
    bounds = {codes(row[0])[0]: float(row[1]) for row in table_under("docs/proxy.md", "## Time-outs and bounds")}
    defaults = upstream_app.__kwdefaults__
    assert bounds == {name: default for name, default in defaults.items() if type(default) in {int, float}}


def test_the_entities_that_are_found_by_default_are_listed() -> None:
    text = (ROOT / "docs" / "redaction.md").read_text()
    listed = text.partition("by default in English: ")[2].partition(". Others")[0]
    assert codes(listed) == PresidioDetector().entities


def test_the_behaviours_of_the_model_server_are_listed() -> None:
    rows = table_under("docs/testing.md", "## A model, and real servers")
    documented = {re.sub(r"[=-](\w|NNN)$", "", codes(row[0])[0]) for row in rows}
    pattern = re.search(r"\(\?P<name>([^(]*)", model_server._BEHAVIOUR.pattern)
    assert pattern is not None
    assert documented == {name.rstrip("-") for name in pattern[1].split("|")}
