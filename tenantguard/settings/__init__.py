"""Settings: one TOML file and the environment, checked as a whole, and the guard that they describe."""

from __future__ import annotations

from tenantguard.settings.building import build, load, loopholes
from tenantguard.settings.ledgers import open_ledger
from tenantguard.settings.limits import open_limits
from tenantguard.settings.policies import ResolvedPolicy
from tenantguard.settings.problems import Problem, SettingsError
from tenantguard.settings.reading import Settings, parse_settings, read_settings
from tenantguard.settings.shapes import shown_ledger, shown_limits
from tenantguard.settings.targets import import_target

__all__ = [
    "Problem",
    "ResolvedPolicy",
    "Settings",
    "SettingsError",
    "build",
    "import_target",
    "load",
    "loopholes",
    "open_ledger",
    "open_limits",
    "parse_settings",
    "read_settings",
    "shown_ledger",
    "shown_limits",
]
