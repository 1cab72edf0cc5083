"""What ledger commands print: a table for people, CSV and JSON for programs.

Rules of this file
1. A table shows amounts as the locale writes them, with every decimal that they have; CSV and JSON have exact
   decimals and the unit beside them, and times with their offset.
2. Text that came from outside cannot speak to a terminal or a spreadsheet: what is not printable is written out, in
   JSON as JSON does, and a CSV cell never begins a formula.
3. Rows are printed as they come; a table measures its first ``MEASURED`` rows.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tenantguard.commands.ledger.times import exact_time, show_day, show_time
from tenantguard.errors import ConfigurationError
from tenantguard.model.money import Amount, exact_amount, is_currency
from tenantguard.model.period import UTC_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MEASURED: Final = 500
PROGRESS_EVERY: Final = 10_000
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""And as East Asian spreadsheets read them, in full width."""


class Sum(NamedTuple):
    """An amount of a ledger with its unit."""

    amount: int
    unit: str


class At(NamedTuple):
    """A time."""

    ns: int


class Day(NamedTuple):
    """The day that begins at a time."""

    ns: int


@dataclass(frozen=True, slots=True)
class Shown:
    """How things are shown. An unknown locale raises :class:`ConfigurationError`."""

    format: str = "table"
    locale: str = "en_US"
    zone: str = UTC_NAME

    def __post_init__(self) -> None:
        from babel.core import Locale, UnknownLocaleError  # noqa: PLC0415 - 30 ms; it comes with py-moneyed

        try:
            Locale.parse(self.locale)
        except (UnknownLocaleError, ValueError, TypeError):
            raise ConfigurationError(
                f"--locale: there is no locale {self.locale!r}: write for example en_US or de_DE"
            ) from None

    def text(self, value: object) -> str:
        """A value as a table shows it."""
        if value is None:
            return "-"
        if isinstance(value, Sum):
            return self.amount(value.amount, value.unit)
        if isinstance(value, At):
            return show_time(value.ns, self.zone)
        if isinstance(value, Day):
            return show_day(value.ns, self.zone)
        if isinstance(value, (int, Decimal)):
            return self._number(value)
        return printable(str(value))

    def amount(self, amount: int, unit: str) -> str:
        """``$0.000012`` or ``1,200 jobs``."""
        if not is_currency(unit):
            return f"{self._number(amount)} {printable(unit)}"
        from moneyed.l10n import format_money  # noqa: PLC0415 - 40 ms that only reports pay

        return str(format_money(Amount(amount, unit).money, locale=self.locale, decimal_quantization=False))

    def exact(self, value: object) -> Any:
        """A value as CSV and JSON have it: JSON-ready, an amount without its unit."""
        if isinstance(value, Sum):
            return exact_amount(value.amount, value.unit)
        if isinstance(value, At):
            return exact_time(value.ns, self.zone)
        if isinstance(value, Day):
            return show_day(value.ns, self.zone)
        if isinstance(value, Decimal):
            return f"{value:f}"
        if isinstance(value, tuple):
            return [self.exact(inner) for inner in value]
        if isinstance(value, dict):
            return {str(name): self.exact(inner) for name, inner in value.items()}
        return value

    def print_rows(
        self, names: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str = "nothing", indent: str = ""
    ) -> None:
        """Print rows under these names. A table without any says ``nothing``."""
        if self.format == "json":
            for row in rows:
                self.print_json(dict(zip(names, row, strict=True)))
        elif self.format == "csv":
            self.print_csv_row(names)
            for row in rows:
                self.print_csv_row(row)
        else:
            self._print_table(names, iter(rows), nothing, indent)

    def print_json(self, value: object) -> None:
        """Print one document on one line."""
        print(_json(self.exact(value)))

    def print_csv_row(self, row: Iterable[object]) -> None:
        """Print one line of CSV (RFC 4180, but for the line's end)."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([self._csv_cell(value) for value in row])
        print(line.getvalue(), end="")

    def _csv_cell(self, value: object) -> object:
        if isinstance(value, str):
            shown = printable(value)
            return f"'{shown}" if shown.startswith(_FORMULA) else shown
        exact = self.exact(value)
        return _json(exact) if isinstance(exact, (list, dict)) else exact

    def _print_table(self, names: Sequence[str], rows: Iterator[Sequence[object]], nothing: str, indent: str) -> None:
        first = list(islice(rows, MEASURED))
        if not first:
            print(f"{indent}{nothing}")
            return
        measured = [[self.text(value) for value in row] for row in first]
        header = [name.replace("_", " ") for name in names]
        widths = [max(map(len, column)) for column in zip(header, *measured, strict=True)]
        right = [
            any(isinstance(value, (int, Sum, Decimal)) for value in column) for column in zip(*first, strict=True)
        ]
        for cells in chain([header], measured, ([self.text(value) for value in row] for row in rows)):
            aligned = [
                cell.rjust(width) if ends else cell.ljust(width)
                for cell, width, ends in zip(cells, widths, right, strict=True)
            ]
            print(f"{indent}{'   '.join(aligned)}".rstrip())

    def _number(self, value: int | Decimal) -> str:
        from babel.numbers import format_decimal  # noqa: PLC0415 - 30 ms; it comes with py-moneyed

        return str(format_decimal(value, locale=self.locale, decimal_quantization=False))


def _json(value: object) -> str:
    """``value`` as JSON, readable where all of it is printable."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def printable(text: str) -> str:
    """``text`` with what is not printable written out, so that it cannot speak to a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def with_progress(things: Iterable[Any], what: str) -> Iterator[Any]:
    """The same things; on a terminal, standard error counts them while there are many."""
    shows = sys.stderr.isatty()
    count = 0
    for count, thing in enumerate(things, 1):
        if shows and count % PROGRESS_EVERY == 0:
            print(f"\r{count} {what} read", end="", file=sys.stderr, flush=True)
        yield thing
    if shows and count >= PROGRESS_EVERY:
        print(f"\r{count} {what} read", file=sys.stderr, flush=True)
