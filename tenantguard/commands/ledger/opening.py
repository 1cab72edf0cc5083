"""The ledger that a command is about, with what the settings say of it."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.system import real_system
from tenantguard.commands.ledger.showing import Shown
from tenantguard.commands.ledger.times import Stretch, check_zone, common_zone, read_stretch, read_time
from tenantguard.errors import BadRequestError, ConfigurationError, PortTimeout
from tenantguard.model.sections import BudgetSection, QuotaSection
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tenantguard.flow.ports import Ledger, LedgerCommand, System
    from tenantguard.model.ledger import Entry
    from tenantguard.model.policy import Policy
    from tenantguard.settings import Settings

SETTINGS_FILE: Final = "tenantguard.toml"
_WHO: Final = "'tenantguard ledger balance' shows who has accounts"
PAGE: Final = 1000
"""Entries that are read at once."""


@dataclass(frozen=True, slots=True)
class Desk:
    """An open ledger, who it is about, and how it is shown."""

    ledger: Ledger
    system: System
    settings: Settings | None
    tenant: TenantId | None
    shown: Shown

    @property
    def now_ns(self) -> int:
        """The time now."""
        return self.system.clock.wall_ns()

    @property
    def policy(self) -> Policy | None:
        """The policy of the tenant, None where no settings are read or they have none for it."""
        if self.settings is None or self.tenant is None:
            return None
        resolved = self.settings.policies.get(str(self.tenant))
        return self.settings.fallback if resolved is None else resolved.policy

    def book(self, command: LedgerCommand) -> Any:
        """The ledger's answer to ``command``, once it is durable."""
        promise = self.ledger.submit(command)
        if not promise.wait(promise.deadline_s):
            raise PortTimeout(promise.port, promise.deadline_s)
        return promise.result()

    def entries(
        self, *, after_seq: int = 0, since_ns: int | None = None, until_ns: int | None = None
    ) -> Iterator[Entry]:
        """Entries behind ``after_seq``, oldest first, a page at a time."""
        while True:
            page = self.ledger.entries(self.tenant, PAGE, after_seq=after_seq, since_ns=since_ns, until_ns=until_ns)
            yield from page
            if len(page) < PAGE:
                return
            after_seq = page[-1].seq

    def stretch(self, args: argparse.Namespace) -> Stretch | None:
        """What ``--period``, or ``--from`` and ``--to``, say; None for neither."""
        if args.period is not None:
            if args.since is not None or args.until is not None:
                raise ConfigurationError("write either --period, or --from and --to")
            return read_stretch(args.period, self.shown.zone, self.now_ns)
        if args.since is None and args.until is None:
            return None
        since_ns = 0 if args.since is None else read_time(args.since, self.shown.zone)
        until_ns = self.now_ns + 1 if args.until is None else read_time(args.until, self.shown.zone)
        if since_ns >= until_ns:
            raise ConfigurationError("--from must be before --to")
        return Stretch(since_ns, until_ns)


@contextmanager
def opened(args: argparse.Namespace, *, may_make: bool = False) -> Iterator[Desk]:
    """The ledger that ``args`` name; with ``may_make`` a file that is missing is made. Closed afterwards."""
    settings = _settings(args)
    system = real_system()
    tenant = _tenant(getattr(args, "tenant", None))
    ledger = _ledger(args, settings, system, may_make=may_make)
    try:
        zone = check_zone(args.zone) if args.zone is not None else None
        _tell_unknown(settings, tenant, ledger)
        desk = Desk(ledger, system, settings, tenant, Shown(args.format, args.locale, zone or "UTC"))
        if zone is None and tenant is not None:
            zone = common_zone(_periods(desk))
            desk = Desk(ledger, system, settings, tenant, Shown(args.format, args.locale, zone))
        yield desk
    finally:
        ledger.close()


def _periods(desk: Desk) -> list[str]:
    """The periods by which the tenant's budgets and quotas count."""
    periods = [balance.period for balance in desk.ledger.balances(desk.tenant, at_ns=desk.now_ns)]
    for section in (BudgetSection, QuotaSection) if desk.policy is not None else ():
        found: Any = desk.policy.section(section) if desk.policy is not None else None
        periods += [str(rule.per) for rule in (found.rules if found is not None else ())]
    return periods


def _tenant(name: str | None) -> TenantId | None:
    if name is None:
        return None
    try:
        return TenantId(name)
    except BadRequestError as wrong:
        raise ConfigurationError(f"--tenant: {wrong}") from None


def _tell_unknown(settings: Settings | None, tenant: TenantId | None, ledger: Ledger) -> None:
    """A tenant of whom nobody knows is likely a slip: say so, beside an answer that is empty."""
    if settings is None or tenant is None or settings.fallback is not None or str(tenant) in settings.policies:
        return
    if not ledger.entries(tenant, 1) and not ledger.balances(tenant):
        from tenantguard.settings.problems import did_you_mean  # noqa: PLC0415 - reading settings takes a while

        meant = did_you_mean(str(tenant), settings.policies) or _WHO
        print(f"neither the settings nor the ledger know the tenant {str(tenant)!r}; {meant}", file=sys.stderr)


def _settings(args: argparse.Namespace) -> Settings | None:
    path = args.config
    if path is None:
        if args.ledger is not None and not Path(SETTINGS_FILE).exists():
            return None
        if not Path(SETTINGS_FILE).exists():
            raise ConfigurationError(
                f"there is no {SETTINGS_FILE} here: name your settings with --config, or a ledger with --ledger"
            )
        path = SETTINGS_FILE
    from tenantguard.settings import import_target, read_settings  # noqa: PLC0415 - 200 ms

    return read_settings(path, sections=[import_target(name) for name in args.section])


def _ledger(args: argparse.Namespace, settings: Settings | None, system: System, *, may_make: bool) -> Ledger:
    from tenantguard.settings import open_ledger  # noqa: PLC0415 - reading settings takes a while
    from tenantguard.settings.shapes import POSTGRES, SQLITE, LedgerShape  # noqa: PLC0415

    uri, folder, place = args.ledger, Path(), "--ledger"
    bounds = settings.ledger if settings is not None else LedgerShape()
    if uri is None and settings is not None:
        uri, folder, place = settings.guard.ledger, settings.folder, f"{settings.source}: guard.ledger"
    if uri is None:
        raise ConfigurationError(f"{place} is missing: these settings keep no money")
    if uri.startswith(SQLITE):
        path = folder / uri.removeprefix(SQLITE)
        try:
            is_there = path.exists()
        except OSError as failed:
            raise ConfigurationError(f"{place}: {str(path)!r} cannot be read: {failed.strerror}") from None
        if not is_there and not may_make:
            raise ConfigurationError(
                f"{place}: there is no ledger at {str(path)!r} yet: it is made with the first use of the guard"
            )
    if uri == "memory://":
        raise ConfigurationError(
            f"{place} is 'memory://': it lives in the guard's process, and nobody else can read it"
        )
    if not uri.startswith((SQLITE, POSTGRES)):
        raise ConfigurationError(
            f"{place} must be 'sqlite:///<path>' or 'postgresql://<user>:<password>@<host>/<database>'"
        )
    return open_ledger(uri, folder, system, bounds, place)
