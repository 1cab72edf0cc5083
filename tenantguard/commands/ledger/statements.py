"""``tenantguard ledger statement``: what a tenant began with, was charged, and ended with."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from tenantguard.commands.ledger.opening import opened
from tenantguard.commands.ledger.showing import At, Day, Sum, printable, with_progress
from tenantguard.errors import ConfigurationError
from tenantguard.rules.statement import BY, Statement

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from tenantguard.commands.ledger.opening import Desk
    from tenantguard.commands.ledger.showing import Shown
    from tenantguard.rules.statement import Part, Section, Sums

CATCH_UPS: Final = 20
"""How often what was booked meanwhile is read again before a busy account is said to be busy."""

WINDOWS_SHOWN: Final = 62
"""Windows of one account that a table lists: two months of days."""

WINDOW: Final = (
    "window_starts", "window_ends", "limit", "granted", "carried", "opening", "charged", "refunded", "corrected",
    "closing", "later", "held", "left",
)  # fmt: skip
GROUP: Final = (
    "entries", "charged", "refunded", "corrected", "spent", "absorbed", "input_tokens", "output_tokens"
)  # fmt: skip


def statement(args: argparse.Namespace) -> int:
    """Print it; 1 where entries and accounts do not agree."""
    by = tuple(part.strip() for part in args.by.split(",") if part.strip())
    if not set(by) <= set(BY) or len(set(by)) < len(by):
        raise ConfigurationError(f"--by: write some of {','.join(BY)}, each once")
    with opened(args) as desk:
        stretch = desk.stretch(args)
        if stretch is None:
            raise ConfigurationError("--period is missing: write for example --period 2026-11 or --period month")
        made = Statement(*stretch, by=by, zone=desk.shown.zone)
        _read(desk, made)
        sections = [made.sections[key] for key in sorted(made.sections)]
        if args.budget is not None:
            names = sorted({"/".join(section.budget) for section in sections})
            sections = [section for section in sections if "/".join(section.budget) == args.budget]
            if not sections:
                raise ConfigurationError(f"--budget: this stretch has {' and '.join(map(repr, names)) or 'none'}")
        show = {"table": _print_table, "csv": _print_csv, "json": _print_json}[desk.shown.format]
        show(desk, made, sections)
        problems = made.problems()
        for problem in problems:
            print(
                f"does not agree: {printable(problem)}; run 'tenantguard ledger audit', or choose a time that has "
                "ended if charges come in all the time",
                file=sys.stderr,
            )
    return 1 if problems else 0


def _read(desk: Desk, made: Statement) -> None:
    """Accounts, then entries, then both again until nothing was booked between them."""
    made.look(desk.ledger.balances(desk.tenant))
    since_ns, last_seq = made.reads_from_ns, 0
    for entry in with_progress(desk.entries(since_ns=since_ns), "entries"):
        made.add(entry)
        last_seq = entry.seq
    for _ in range(CATCH_UPS):
        made.look(desk.ledger.balances(desk.tenant))
        new = False
        for entry in desk.entries(after_seq=last_seq, since_ns=since_ns):
            made.add(entry)
            last_seq, new = entry.seq, True
        if not new:
            return


def _print_table(desk: Desk, made: Statement, sections: list[Section]) -> None:
    shown = desk.shown
    until = "now" if made.until_ns > desk.now_ns else shown.text(At(made.until_ns))
    print(f"statement of {desk.tenant}, {shown.text(At(made.from_ns))} to {until} ({shown.zone})")
    if not sections:
        print("\nno account was touched in this time")
    for section in sections:
        money, parts = section.unit, _parts(section)
        print(f"\n{shown.text('/'.join(section.budget))} in {shown.text(money)}")
        if section.is_shared:
            print("  shared with other tenants: this is the part of one")
        elif len(parts) > WINDOWS_SHOWN:
            print(f"  {len(parts)} windows: --format csv lists them")
        else:
            shown.print_rows(WINDOW, (_window(part, money) for part in parts), indent="  ")
        print()
        rows: list[Sequence[object]] = [
            (*_group_key(key, made.by), *_sums(sums, money)) for key, sums in _groups(section)
        ]
        total = ("total", *[""] * (len(made.by) - 1))[: len(made.by)]
        rows.append((*total, *_sums(section.booked, money)))
        shown.print_rows((*made.by, *GROUP), rows, indent="  ")


def _print_csv(desk: Desk, made: Statement, sections: list[Section]) -> None:
    """One table: the windows of each account first, then its groups; ``row`` says which."""
    groups = [name for name in GROUP if name not in WINDOW]
    head = ("row", "budget", "unit", *WINDOW, *made.by, *groups)
    desk.shown.print_csv_row(head)
    for section in sections:
        for what, row in _csv_rows(section, made.by):
            found: dict[str, object] = {"row": what, "budget": "/".join(section.budget), "unit": section.unit, **row}
            desk.shown.print_csv_row([found.get(name, "") for name in head])


def _csv_rows(section: Section, by: tuple[str, ...]) -> Iterator[tuple[str, dict[str, object]]]:
    for part in _parts(section):
        yield "window", dict(zip(WINDOW, _window(part, section.unit), strict=True))
    for key, sums in _groups(section):
        yield "group", dict(zip((*by, *GROUP), (*_group_key(key, by), *_sums(sums, section.unit)), strict=True))
    yield "total", dict(zip(GROUP, _sums(section.booked, section.unit), strict=True))


def _print_json(desk: Desk, made: Statement, sections: list[Section]) -> None:
    told: dict[str, Any] = {
        "tenant": str(desk.tenant),
        "from": At(made.from_ns),
        "until": At(made.until_ns),
        "zone": desk.shown.zone,
        "accounts": tuple(_json_section(section, made.by, desk.shown) for section in sections),
        "agrees": not made.problems(),
    }
    desk.shown.print_json(told)


def _json_section(section: Section, by: tuple[str, ...], _shown: Shown) -> dict[str, Any]:
    return {
        "budget": "/".join(section.budget),
        "period": section.period,
        "unit": section.unit,
        "shared": section.is_shared,
        "windows": tuple(dict(zip(WINDOW, _window(part, section.unit), strict=True)) for part in _parts(section)),
        "groups": tuple(
            dict(zip((*by, *GROUP), (*_group_key(key, by), *_sums(sums, section.unit)), strict=True))
            for key, sums in _groups(section)
        ),
        "total": dict(zip(GROUP, _sums(section.booked, section.unit), strict=True)),
    }


def _parts(section: Section) -> list[Part]:
    return sorted(section.parts.values(), key=lambda part: part.starts_ns or 0)


def _groups(section: Section) -> list[tuple[Any, Sums]]:
    return sorted(section.groups.items(), key=lambda group: [(part is None, str(part)) for part in group[0]])


def _group_key(key: tuple[Any, ...], by: tuple[str, ...]) -> list[object]:
    return [Day(part) if what == "day" and part is not None else part for what, part in zip(by, key, strict=True)]


def _window(part: Part, unit: str) -> tuple[object, ...]:
    balance, booked = part.balance, part.booked
    return (
        None if part.starts_ns is None else At(part.starts_ns),
        None if part.ends_ns is None else At(part.ends_ns),
        None if balance is None or balance.limit is None else Sum(balance.limit, unit),
        None if balance is None else Sum(balance.granted, unit),
        None if balance is None else Sum(balance.carried, unit),
        Sum(part.before, unit),
        Sum(booked.charged, unit),
        Sum(booked.refunded, unit),
        Sum(booked.corrected, unit),
        Sum(part.closing, unit),
        Sum(part.after, unit),
        None if balance is None else Sum(balance.held, unit),
        None if part.left is None else Sum(part.left, unit),
    )


def _sums(sums: Sums, unit: str) -> tuple[object, ...]:
    return (
        sums.entries,
        Sum(sums.charged, unit),
        Sum(sums.refunded, unit),
        Sum(sums.corrected, unit),
        Sum(sums.spent, unit),
        Sum(sums.absorbed, unit),
        sums.input_tokens,
        sums.output_tokens,
    )
