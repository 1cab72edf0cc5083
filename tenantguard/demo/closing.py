"""The tables at the end of the tour: buckets, budgets and the ledger, each row against what it must be."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from tenantguard.demo.expected import BURSTS, HASTY_UNIT_NS, LIMITS_NANOS, usd
from tenantguard.demo.report import Row
from tenantguard.demo.world import TENANTS

if TYPE_CHECKING:
    from tenantguard.demo.expected import Expected
    from tenantguard.demo.report import Report
    from tenantguard.demo.world import World
    from tenantguard.flow.ports import Entry


def tell_buckets(world: World, report: Report, expected: Expected) -> None:
    """What is left in every tenant's bucket."""
    report.step("Buckets")
    rows = []
    for tenant in TENANTS:
        if tenant == "hasty":
            right = _compare_hasty(world, report, expected)
        else:
            right = report.compare(tenant, expected.level(tenant), world.level(tenant))
        rows.append(Row((tenant, str(world.rate(tenant)), world.level(tenant)), right))
    report.table(("tenant", "rate", "now"), rows)


def _compare_hasty(world: World, report: Report, expected: Expected) -> bool:
    """Hasty's bucket fills while we speak: the unit that came back was taken, and then one comes every 2 s."""
    earliest_ns, latest_ns = expected.hasty_unit_at_ns
    begun_ns = world.clock.monotonic_ns()
    units = world.bucket("hasty")[0]
    least = min(BURSTS["hasty"], (begun_ns - latest_ns) // HASTY_UNIT_NS)
    most = min(BURSTS["hasty"], (world.clock.monotonic_ns() - earliest_ns) // HASTY_UNIT_NS)
    return report.compare("hasty", min(max(units, least), most), units)


def tell_budgets(world: World, report: Report, expected: Expected) -> None:
    """What every tenant may spend, has spent, and has held, which is nothing while nothing is in flight."""
    report.step("Budgets")
    rows = []
    for tenant in TENANTS:
        rule = world.budget(tenant)
        spent, held = world.balance(tenant)
        right = report.compare(f"{tenant}, limit", usd(LIMITS_NANOS[tenant]), str(rule.limit))
        right &= report.compare(f"{tenant}, spent", usd(expected.spent(tenant)), usd(spent))
        right &= report.compare(f"{tenant}, held", usd(0), usd(held))
        left = usd(rule.limit.nanos - spent - held)
        rows.append(Row((tenant, str(rule.per), str(rule.limit), usd(spent), usd(held), left), right))
    report.table(("tenant", "per", "limit", "spent", "held", "left"), rows)


def tell_ledger(world: World, report: Report, expected: Expected) -> None:
    """Every entry; those that are alike and follow one another share a row."""
    report.step("Ledger, newest first")
    entries = world.entries()
    charges = Counter(expected.charges)
    seen = Counter((entry.tenant, entry.amount) for entry in entries)
    rows = []
    for line, group in groupby(entries, key=_line):
        alike = list(group)
        charge = alike[0].tenant, alike[0].amount
        right = report.compare(f"{charge[0]}, charges of {usd(charge[1])}", charges[charge], seen[charge])
        rows.append(Row((f"{len(alike)} x", *line), right))
    report.table(("", "tenant", "charged", "tokens in, out", "route", "ended"), rows)
    report.check("entries", len(expected.charges), len(entries))
    total = sum(nanos for _, nanos in expected.charges)
    report.check("their sum", usd(total), usd(sum(entry.amount for entry in entries)))
    report.check("inconsistencies", 0, len(world.audit()))


def _line(entry: Entry) -> tuple[str, ...]:
    usage = entry.evidence.get("usage")
    tokens = f"{usage['input']}, {usage['output']}" if usage else ""
    return entry.tenant, usd(entry.amount), tokens, str(entry.evidence["route"]), entry.reason
