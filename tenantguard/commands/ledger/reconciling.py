"""``tenantguard ledger reconcile``: a provider's report beside the entries."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import sys
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Final

from tenantguard.commands.ledger.invoices import parse_columns, read_invoice
from tenantguard.commands.ledger.opening import opened
from tenantguard.commands.ledger.showing import Day, with_progress
from tenantguard.errors import ConfigurationError
from tenantguard.model.pricing_section import parse_percent
from tenantguard.rules.reconcile import DAY_NS, Reconciliation

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from fractions import Fraction

    from tenantguard.rules.reconcile import Drift

_MEASURES: Final = {"input_tokens": "input", "output_tokens": "output", "cost": "cost"}


def reconcile(args: argparse.Namespace) -> int:
    """Print the drift; 1 where it is beyond the tolerance."""
    tolerance = parse_percent(args.tolerance)
    if args.columns is None and args.currency is not None:
        raise ConfigurationError("--currency goes with --columns: a known report says its own")
    columns = None if args.columns is None else parse_columns(args.columns, args.currency)
    with opened(args) as desk:
        found = Reconciliation(None if args.provider == "generic" else args.provider)
        for line in read_invoice(args.file, args.provider, columns=columns, encoding=args.encoding):
            found.invoiced(line)
        if found.first_day is None or found.last_day is None:
            raise ConfigurationError(f"{args.file}: has no line but its header")
        bounds = (found.first_day * DAY_NS, (found.last_day + 1) * DAY_NS)
        for entry in with_progress(desk.entries(since_ns=bounds[0], until_ns=bounds[1]), "entries"):
            found.entered(entry)
        rows = found.rows()
        beyond = [row.is_beyond(tolerance, found.measures) for row in rows]
        names = ["day", "model"]
        for measure in found.measures:
            short = _MEASURES[measure]
            names += [f"{short}_invoice", f"{short}_ledger", f"{short}_drift"]
        names += ["drift", "beyond"]
        named = desk.shown.format != "table" or "cost" in found.measures
        if named:
            names.insert(2, "currency")
        shown = [_row(row, found, named=named, is_beyond=marked) for row, marked in zip(rows, beyond, strict=True)]
        desk.shown.print_rows(names, shown)
        _tell(found, sum(beyond), args.tolerance)
    return 1 if any(beyond) else 0


def _row(row: Drift, found: Reconciliation, *, named: bool, is_beyond: bool) -> Sequence[object]:
    day = "all days" if row.day is None else Day(row.day * DAY_NS)
    cells: list[object] = [day, "all models" if row.model is None else row.model or "all models"]
    if named:
        cells.append(found.currency)
    for measure in found.measures:
        values = (getattr(row.invoice, measure), getattr(row.ledger, measure), row.of(measure))
        cells += [_decimal(value) if measure == "cost" else int(value) for value in values]
    shares = [share for measure in found.measures if (share := row.share(measure)) is not None]
    if len(shares) < len(found.measures):
        cells.append("only in ledger")
    else:
        cells.append(_percent(max(shares, key=abs)))
    cells.append("yes" if is_beyond else "no")
    return cells


def _tell(found: Reconciliation, beyond: int, tolerance: str) -> None:
    if found.foreign:
        print(f"{found.foreign} charges in another currency than {found.currency} are not compared", file=sys.stderr)
    if found.unreadable:
        print(f"{found.unreadable} charges do not say what the provider was owed", file=sys.stderr)
    if beyond:
        print(f"{beyond} rows differ by more than {tolerance}", file=sys.stderr)


def _decimal(value: Fraction) -> Decimal:
    """Exact, where a decimal is; else to 18 places: undoing a mark-up of 3 % leaves no decimal."""
    with localcontext() as exact:
        exact.prec = 60
        found = (Decimal(value.numerator) / Decimal(value.denominator)).quantize(Decimal("1e-18"))
        shown = f"{found:f}".rstrip("0").rstrip(".")
    return Decimal(shown)


def _percent(share: Fraction) -> str:
    return f"{Decimal(round(share * 10_000)).scaleb(-2):+.2f}%" if share else "0%"
