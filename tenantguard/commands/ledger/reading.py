"""What a ledger has: balances, entries, holds, alerts, and whether all of it agrees."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.alerts.payload import alert_id
from tenantguard.commands.ledger.opening import opened
from tenantguard.commands.ledger.showing import At, Sum, printable, with_progress
from tenantguard.commands.ledger.times import read_time
from tenantguard.errors import ConfigurationError
from tenantguard.model.ledger import NEVER_NS, UNITS_MAX, EntryKind
from tenantguard.model.period import Period
from tenantguard.rules.ledger import read_alert
from tenantguard.rules.statement import model_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from tenantguard.commands.ledger.opening import Desk
    from tenantguard.model.ledger import Balance, Entry, Notice, OpenHold

BALANCE: Final = (
    "budget", "period", "unit", "window_starts", "window_ends", "limit", "granted", "carried", "spent", "held", "left"
)  # fmt: skip
ENTRY: Final = (
    "seq", "at", "kind", "tenant", "budget", "unit", "amount", "absorbed", "model", "reason", "op", "leg", "of",
    "window_starts", "source", "external_id", "evidence",
)  # fmt: skip
ENTRY_TABLE: Final = ("seq", "at", "kind", "tenant", "budget", "amount", "absorbed", "model", "reason", "hold")
HOLD: Final = ("hold", "tenant", "state", "placed", "budget", "unit", "held", "reason")
_OF_HOLD: Final = {EntryKind.CHARGE, EntryKind.REFUND}
LIMIT_MAX: Final = 1_000_000
"""Rows that are read at once; a stretch of time is read a page at a time, and has no bound."""
ALERT: Final = (
    "seq", "state", "tries", "next_try", "raised", "tenant", "budget", "threshold", "of", "unit", "ceiling", "spent",
    "held", "id",
)  # fmt: skip


def balance(args: argparse.Namespace) -> int:
    """Print what every account has."""
    with opened(args) as desk:
        at_ns = desk.now_ns if args.at is None else read_time(args.at, desk.shown.zone)
        found = desk.ledger.balances(desk.tenant, at_ns=None if args.all else at_ns)
        rows = (_balance(one, left) for one, left in _with_left(found, apart=args.all))
        names = [name for name in BALANCE if desk.shown.format != "table" or name != "unit"]
        shown = (_chosen(names, BALANCE, row) for row in rows)
        desk.shown.print_rows(names, shown, nothing="no account was touched in this time")
    return 0


def entries(args: argparse.Namespace) -> int:
    """Print entries: the latest, or all of a stretch of time."""
    _check_limit(args.limit, 0, "0 (all)")
    with opened(args) as desk:
        stretch = desk.stretch(args)
        found: Iterable[Entry]
        if stretch is not None or not args.limit:
            bounds = {} if stretch is None else {"since_ns": stretch.from_ns, "until_ns": stretch.until_ns}
            found = with_progress(desk.entries(**bounds), "entries")
        else:
            found = reversed(desk.ledger.entries(desk.tenant, args.limit))
        table = desk.shown.format == "table"
        names = ENTRY_TABLE if table else ENTRY
        desk.shown.print_rows(
            names, ((_entry_table if table else _entry)(one) for one in found), nothing="nothing was booked"
        )
    return 0


def holds(args: argparse.Namespace) -> int:
    """Print what is held, a row for each account that a hold touches."""
    with opened(args) as desk:
        rows = (
            row
            for hold in desk.ledger.holds(desk.tenant)
            if not args.review or hold.state.value == "review"
            for row in _hold(hold)
        )
        names = [name for name in HOLD if desk.shown.format != "table" or name != "unit"]
        desk.shown.print_rows(names, (_chosen(names, HOLD, row) for row in rows), nothing="nothing is held")
    return 0


def audit(args: argparse.Namespace) -> int:
    """Check every invariant; 1 where one is broken."""
    with opened(args) as desk:
        broken = desk.ledger.audit()
        if desk.shown.format != "table":
            desk.shown.print_rows(("broken",), ((sentence,) for sentence in broken))
        elif not broken:
            print("everything in the ledger agrees")
        for sentence in broken if desk.shown.format == "table" else ():
            print(printable(sentence))
        if broken:
            count = len(broken)
            print(
                f"{count} invariant{' is' if count == 1 else 's are'} broken: keep a copy of the ledger as it is, "
                "and book what is missing with 'tenantguard ledger correct'",
                file=sys.stderr,
            )
    return 1 if broken else 0


def alerts(args: argparse.Namespace) -> int:
    """Print the alerts that were not delivered to everybody yet; 1 where some were given up."""
    _check_limit(args.limit, 1, "1")
    with opened(args) as desk:
        if args.retry is not None:
            return _retry(desk, args.retry)
        found = [notice for notice in desk.ledger.notices(args.limit) if notice.kind == "alert"]
        mine = (_alert(notice) for notice in found)
        rows = [row for row in mine if desk.tenant is None or row[ALERT.index("tenant")] == str(desk.tenant)]
        names = [name for name in ALERT if desk.shown.format != "table" or name not in {"unit", "id"}]
        desk.shown.print_rows(
            names, (_chosen(names, ALERT, row) for row in rows), nothing="every alert was delivered"
        )
        failed = sum(1 for row in rows if row[1] == "failed")
        if failed and desk.shown.format == "table":
            print(f"{failed} given up: tenantguard ledger alerts --retry SEQ", file=sys.stderr)
    return 1 if failed else 0


def _check_limit(limit: int, least: int, shown: str) -> None:
    if not least <= limit <= LIMIT_MAX:
        raise ConfigurationError(f"--limit is at least {shown} and at most {LIMIT_MAX}")


def _retry(desk: Desk, seq: int) -> int:
    known = {notice.seq for notice in desk.ledger.notices(UNITS_MAX)}
    if seq not in known:
        raise ConfigurationError(
            f"--retry: there is no undelivered alert {seq}: 'tenantguard ledger alerts' lists them"
        )
    desk.ledger.retry(seq, desk.now_ns)
    print(f"alert {seq} is due now: the guard's processes try it within seconds")
    return 0


def _with_left(found: list[Balance], *, apart: bool) -> Iterator[tuple[Balance, int | None]]:
    """Each account with what it has left; the windows of a rolling period that count now have that in common."""
    together: dict[tuple[tuple[str, ...], str, str], list[Balance]] = {}
    for one in found:
        if Period.parse(one.period).buckets:
            together.setdefault((one.budget, one.period, one.unit), []).append(one)
    for one in found:
        counting = together.get((one.budget, one.period, one.unit))
        yield one, _left([one]) if counting is None else None if apart else _left(counting)


def _left(counting: list[Balance]) -> int | None:
    """What is left on accounts that count together, under the limit of the latest; None without one."""
    latest = max(counting, key=lambda one: one.window_starts_ns or 0)
    if latest.limit is None:
        return None
    return latest.limit + latest.carried + sum(one.granted - one.spent - one.held for one in counting)


def _balance(one: Balance, left: int | None) -> Sequence[object]:
    unit = one.unit
    return (
        "/".join(one.budget),
        one.period,
        unit,
        _at(one.window_starts_ns),
        _at(one.window_ends_ns),
        None if one.limit is None else Sum(one.limit, unit),
        Sum(one.granted, unit),
        Sum(one.carried, unit),
        Sum(one.spent, unit),
        Sum(one.held, unit),
        None if left is None else Sum(left, unit),
    )


def _entry(entry: Entry) -> Sequence[object]:
    return (
        entry.seq,
        At(entry.at_ns),
        str(entry.kind),
        str(entry.tenant),
        "/".join(entry.budget),
        entry.unit,
        Sum(entry.amount, entry.unit),
        Sum(entry.absorbed, entry.unit),
        model_of(entry.evidence),
        entry.reason,
        entry.op.hex(),
        entry.leg,
        None if entry.of is None else entry.of.hex(),
        _at(entry.window_starts_ns),
        entry.source,
        entry.external_id,
        dict(entry.evidence),
    )


def _entry_table(entry: Entry) -> Sequence[object]:
    return (
        str(entry.seq),
        At(entry.at_ns),
        str(entry.kind),
        str(entry.tenant),
        "/".join(entry.budget),
        Sum(entry.amount, entry.unit),
        Sum(entry.absorbed, entry.unit) if entry.absorbed else None,
        model_of(entry.evidence),
        entry.reason,
        (entry.of or entry.op).hex() if entry.kind in _OF_HOLD else None,
    )


def _hold(hold: OpenHold) -> Iterator[Sequence[object]]:
    for leg in hold.legs:
        yield (
            hold.id.hex(),
            str(hold.tenant),
            str(hold.state),
            At(hold.placed_ns),
            "/".join(leg.budget),
            leg.unit,
            Sum(leg.held, leg.unit),
            hold.reason,
        )


def _alert(notice: Notice) -> Sequence[object]:
    alert = read_alert(notice.payload)
    failed = notice.due_ns >= NEVER_NS
    return (
        notice.seq,
        "failed" if failed else "waiting",
        notice.tries,
        None if failed else At(notice.due_ns),
        At(notice.made_ns),
        alert.tenant,
        "/".join(alert.budget),
        f"{alert.threshold.percent}%",
        str(alert.threshold.of),
        alert.unit,
        Sum(alert.ceiling, alert.unit),
        Sum(alert.spent, alert.unit),
        Sum(alert.held, alert.unit),
        alert_id(alert),
    )


def _at(ns: int | None) -> At | None:
    return None if ns is None else At(ns)


def _chosen(names: Sequence[str], of: Sequence[str], row: Sequence[object]) -> list[object]:
    return [row[of.index(name)] for name in names]
