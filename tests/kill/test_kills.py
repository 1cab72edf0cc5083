"""Servers under load, and PostgreSQL itself, are killed again and again; no charge is lost or doubled.

The long run is ``python -m tests.kill``.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.flow.ports import OnOrphan
from tests.kill.killing import Figures, Killing

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 20
DATABASE_KILLS = 4

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the servers are forked, and killed by a signal")


def assert_sound(figures: Figures) -> None:
    """0 lost, 0 doubled, every orphan ended as its route says, nothing held, audit clean, budgets kept."""
    assert figures.broken == []
    assert (figures.lost, figures.doubled) == (0, 0)


def test_a_server_on_sqlite_that_is_killed_again_and_again_loses_and_doubles_no_charge(tmp_path: Path) -> None:
    """L-6, design 3.3: by turns one server and two that share the file, killed alone or together."""
    figures = asyncio.run(Killing(tmp_path, str(tmp_path / "ledger.db"), seed=1).servers(KILLS))
    assert_sound(figures)
    assert figures.kills >= KILLS
    assert figures.acknowledged >= 5 * KILLS // 2
    assert figures.retried > 0
    assert figures.orphans.keys() == set(OnOrphan)


def test_a_server_on_postgresql_that_is_killed_again_and_again_loses_and_doubles_no_charge(
    tmp_path: Path, own_postgres: Any
) -> None:
    """The same over a database that lives on."""
    figures = asyncio.run(Killing(tmp_path, own_postgres.uri, seed=2).servers(KILLS))
    assert_sound(figures)
    assert figures.kills >= KILLS
    assert figures.acknowledged >= 5 * KILLS // 2
    assert figures.retried > 0
    assert figures.orphans.keys() == set(OnOrphan)


def test_a_postgresql_that_is_killed_under_load_loses_and_doubles_no_charge(
    tmp_path: Path, own_postgres: Any
) -> None:
    """By turns an immediate shutdown and SIGKILL for all of its processes; what was ambiguous is done again by id."""
    figures = asyncio.run(Killing(tmp_path, own_postgres.uri, 3, own_postgres).databases(DATABASE_KILLS))
    assert_sound(figures)
    assert figures.kills == DATABASE_KILLS
    assert figures.acknowledged >= 5 * DATABASE_KILLS
    assert figures.answers["503"] > 0
