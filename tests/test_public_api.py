"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tenantguard

HEAVY = [
    "anyio", "asyncio", "genai_prices", "limits", "moneyed", "presidio_analyzer", "presidio_anonymizer", "pydantic",
    "pydantic_settings", "spacy", "sqlite3", "starlette", "structlog",
]  # fmt: skip
NEVER_BEFORE_A_GUARD_NEEDS_THEM = ["genai_prices", "presidio_analyzer", "presidio_anonymizer", "spacy", "starlette"]
IMPORT_CPU_S = 0.150


def in_a_fresh_process(code: str) -> Any:
    """What ``code`` leaves in ``found``."""
    whole = f"import json, sys, time\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", whole],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", tenantguard.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(tenantguard, name)
    assert value is getattr(tenantguard, name)
    assert name in dir(tenantguard)
    if name not in {"Flow", "Handler"}:  # aliases of types
        assert value.__name__ == name
        assert value.__doc__


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = tenantguard.nothing_like_it  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(tenantguard.__file__).read_text())
    told = {
        alias.asname: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(told) == set(tenantguard.__all__)
    for name, module in told.items():
        assert module is not None
        assert getattr(importlib.import_module(module), str(name)) is getattr(tenantguard, str(name))


def test_importing_the_package_imports_nothing_heavy() -> None:
    found = in_a_fresh_process(f"import tenantguard\nfound = [name for name in {HEAVY} if name in sys.modules]")
    assert found == []


def test_importing_the_package_takes_less_than_150_ms_of_cpu() -> None:
    code = "start = time.process_time()\nimport tenantguard\nfound = time.process_time() - start"
    assert min(in_a_fresh_process(code) for _ in range(3)) < IMPORT_CPU_S


def test_a_guard_of_ones_own_layers_needs_nothing_of_what_redaction_and_prices_need() -> None:
    code = f"""
from tenantguard import ASGIGuard, Deny, Exchange, Guard, Response, WSGIGuard, check, current, observe

@check
def door(exchange):
    return None

Guard([door]).asgi(None)
Guard([door]).wsgi(None)
found = [name for name in {NEVER_BEFORE_A_GUARD_NEEDS_THEM} if name in sys.modules]
"""
    assert in_a_fresh_process(code) == []
