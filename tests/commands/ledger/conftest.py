"""A folder with settings and a durable ledger, and the command line in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.flow.ports import System
from tests.commands.ledger.shop import SETTINGS, Line, Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tenantguard.toml").write_text(SETTINGS)
    made = Shop(tmp_path)
    monkeypatch.setattr(
        "tenantguard.commands.ledger.opening.real_system", lambda: System(made.clock, TimeOrderedIds())
    )
    yield made
    assert made.ledger.audit() == []
    made.ledger.close()


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(capsys)
