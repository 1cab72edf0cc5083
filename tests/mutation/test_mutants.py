"""Every mutant of the ledger's rule, of legs, charging and streams is noticed by a sentence of their tests.

The modules under ``tenantguard/rules`` are compiled from their text with one fault in it, the test files are run anew
against them in this process, and one sentence at least must fail. Properties (Hypothesis) are left out: each fault
must be noticed by a sentence that fails every time.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import tenantguard.rules.redaction.events  # noqa: F401 - a package is there before its modules are made anew
from tests.mutation.mutants import MUTANTS, Mutant
from tests.rules.redaction.conftest import Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
RULES = ROOT / "tenantguard" / "rules"
MODULES = {
    "tenantguard.rules.ledger.states": "ledger/states.py",
    "tenantguard.rules.ledger.accounts": "ledger/accounts.py",
    "tenantguard.rules.ledger.books": "ledger/books.py",
    "tenantguard.rules.ledger": "ledger/__init__.py",
    "tenantguard.rules.legs": "legs.py",
    "tenantguard.rules.charging": "charging.py",
    "tenantguard.rules.redaction.events.moulds": "redaction/events/moulds.py",
    "tenantguard.rules.redaction.events.json_events": "redaction/events/json_events.py",
    "tenantguard.rules.redaction.events.stream": "redaction/events/stream.py",
}
"""What is made anew for each mutant, each after what it imports."""

LEDGER_TESTS = tuple(sorted((ROOT / "tests" / "rules" / "ledger").glob("test_*.py")))
GLANCE_TESTS = (ROOT / "tests/rules/redaction/test_glance.py",)
TESTS = {
    "legs.py": (ROOT / "tests/rules/test_legs.py",),
    "charging.py": (ROOT / "tests/rules/test_charging.py",),
    "redaction/events/moulds.py": GLANCE_TESTS,
    "redaction/events/json_events.py": GLANCE_TESTS,
    "redaction/events/stream.py": GLANCE_TESTS,
}


def source(file: str) -> str:
    return (RULES / file).read_text(encoding="utf-8")


@lru_cache
def compiled(path: Path) -> CodeType:
    return compile(path.read_text(encoding="utf-8"), str(path), "exec")


@contextmanager
def modules(mutant: Mutant | None) -> Iterator[None]:
    """Give every import of :data:`MODULES` a fresh module, with the mutant's fault in its text."""
    kept = {name: sys.modules.pop(name, None) for name in MODULES}
    try:
        for name, file in MODULES.items():
            path = RULES / file
            spec = spec_from_file_location(name, path)
            assert spec is not None
            module = sys.modules[name] = module_from_spec(spec)
            place(name, module)
            if file.endswith("__init__.py"):
                module.__path__ = [str(path.parent)]
            if mutant is not None and mutant.file == file:
                exec(compile(source(file).replace(mutant.old, mutant.new), str(path), "exec"), vars(module))
            else:
                exec(compiled(path), vars(module))
        yield
    finally:
        for name, module_before in kept.items():
            if module_before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module_before
                place(name, module_before)


def place(name: str, module: ModuleType) -> None:
    """Let the package of a module, where there is one, give this one."""
    package, _, last = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], last, module)


def sentences(path: Path) -> Iterator[Callable[[], Any]]:
    """The tests of a file as calls, one for each set of parameters; no properties."""
    module = ModuleType(f"mutated_{path.stem}")
    sys.modules[module.__name__] = module
    try:
        exec(compiled(path), vars(module))
        for name, test in list(vars(module).items()):
            if name.startswith("test_") and not hasattr(test, "hypothesis"):
                shared = {"tools": Tools()} if "tools" in signature(test).parameters else {}
                for given in parameters(test):
                    yield partial(test, **shared, **given)
    finally:
        del sys.modules[module.__name__]


def parameters(test: Any) -> list[dict[str, Any]]:
    """What ``pytest.mark.parametrize`` gives to a test."""
    rows: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", ()):
        names, values = mark.args
        if isinstance(names, str):
            names, values = (names,), [(value,) for value in values]
        rows = [row | dict(zip(names, value, strict=True)) for row in rows for value in values]
    return rows


def noticed(mutant: Mutant | None, files: tuple[Path, ...]) -> str | None:
    """What the first sentence that fails says, None where none does."""
    with modules(mutant):
        for path in files:
            for sentence in sentences(path):
                try:
                    sentence()
                except (Exception, pytest.fail.Exception) as failure:  # noqa: BLE001 - whatever a fault brings about
                    return f"{path.name}: {type(failure).__name__}: {failure}"
    return None


@pytest.mark.parametrize("files", [LEDGER_TESTS, *TESTS.values()], ids=["ledger", *TESTS])
def test_without_a_fault_no_sentence_fails(files: tuple[Path, ...]) -> None:
    assert noticed(None, files) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_noticed(mutant: Mutant) -> None:
    found = source(mutant.file).count(mutant.old)
    assert found == 1, (
        f"the text of the mutant {mutant.name!r} stands {found} times in tenantguard/rules/{mutant.file}: the rule "
        "was changed, so change `old` and `new` in tests/mutation/mutants.py to the same fault in the new text"
    )
    assert noticed(mutant, TESTS.get(mutant.file, LEDGER_TESTS)) is not None, (
        f"no sentence notices this fault: {mutant.name}. Write one that does"
    )


def test_the_mutants_are_many_and_each_has_a_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    assert {mutant.file for mutant in MUTANTS} == {*MODULES.values()} - {"ledger/__init__.py"}
