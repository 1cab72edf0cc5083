"""Usage and cost reports of providers, read from CSV a line at a time.

Rules of this file
1. Numbers are read as the decimals that they are written as. A thousands separator, a currency sign or anything else
   that would have to be guessed is refused, with the line.
2. A report is recognised by its columns. Where those are others, ``--columns`` names them; what is unknown or missing
   is told with what was probably meant.
3. An empty cell is nothing: 0 tokens, no cost.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from tenantguard.commands.ledger.times import check_year
from tenantguard.errors import ConfigurationError
from tenantguard.model.money import known_currency
from tenantguard.model.usage import COUNT_MAX
from tenantguard.rules.reconcile import InvoiceLine

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FIELDS: Final = ("day", "model", "input", "output", "cost", "currency")
"""What ``--columns`` can name; ``input`` and ``output`` several, with ``+`` between."""

_EPOCH_DAY: Final = date(1970, 1, 1)
_COUNT: Final = re.compile(r"(?P<count>[0-9]{1,16})(?:\.0+)?")
_MONEY: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,30})?(?:[eE]-?[0-9]{1,2})?")
_SEPARATED: Final = re.compile(r"-?[0-9]{1,3}(?:[,' \u00a0\u202f][0-9]{3})+(?:\.[0-9]+)?|-?[0-9]+,[0-9]+")
_UNIX: Final = re.compile(r"[0-7]?[0-9]{9}(?:\.0+)?")
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DELIMITERS: Final = (",", ";", "\t")
_CELL_MAX: Final = 10_000
_LINE_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a report say what; ``fixed`` is the currency where none does."""

    day: str
    model: str | None = None
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    cost: str | None = None
    currency: str | None = None
    fixed: str | None = None

    @property
    def named(self) -> list[str]:
        """Every column that must be there."""
        one = [name for name in (self.day, self.model, self.cost, self.currency) if name is not None]
        return [*one, *self.input, *self.output]


_ANTHROPIC_INPUT: Final = (
    "usage_input_tokens_no_cache",
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read",
)
_KNOWN: Final[Mapping[str, tuple[Columns, ...]]] = {
    "openai": (
        Columns("start_time", "model", ("input_tokens",), ("output_tokens",)),
        Columns("start_time_iso", "model", ("input_tokens",), ("output_tokens",)),
        Columns("start_time", "line_item", cost="amount_value", currency="amount_currency"),
        Columns("start_time_iso", "line_item", cost="amount_value", currency="amount_currency"),
        Columns("start_time", cost="amount_value", currency="amount_currency"),
        Columns("start_time_iso", cost="amount_value", currency="amount_currency"),
    ),
    "anthropic": (
        Columns("usage_date_utc", "model_version", _ANTHROPIC_INPUT, ("usage_output_tokens",)),
        Columns("usage_date_utc", "model", cost="cost_usd", fixed="USD"),
    ),
    "generic": (
        Columns("day", "model", ("input_tokens",), ("output_tokens",), "cost", "currency"),
        Columns("date", "model", ("input_tokens",), ("output_tokens",), "cost", "currency"),
        Columns("day", "model", ("input_tokens",), ("output_tokens",)),
        Columns("date", "model", ("input_tokens",), ("output_tokens",)),
        Columns("day", "model", cost="cost", currency="currency"),
        Columns("date", "model", cost="cost", currency="currency"),
    ),
}
"""The reports of each provider: the first whose columns are all there. Of OpenAI the exports of usage (completions)
and of costs, of Anthropic those of tokens and of cost, as their consoles wrote them in 2026."""


def parse_columns(text: str, currency: str | None = None) -> Columns:
    """Read ``day=Date,model=SKU,input=Prompt+Cached,output=Completion,cost=Total``."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, column = part.partition("=")
        name, column = name.strip(), column.strip()
        if not equals or not column:
            raise ConfigurationError(
                f"--columns: cannot read {part!r}: write for example day=Date,model=Model,cost=Total"
            )
        if name not in FIELDS:
            raise ConfigurationError(f"--columns: there is no {name!r}; {_meant(name, FIELDS)}")
        if name in found:
            raise ConfigurationError(f"--columns: {name!r} stands twice")
        found[name] = column
    if "day" not in found or not found.keys() & {"input", "output", "cost"}:
        raise ConfigurationError("--columns: 'day' is needed, and 'input', 'output' or 'cost'")
    if "cost" in found and "currency" not in found and currency is None:
        raise ConfigurationError("--columns: a cost has a currency: name its column, or write --currency USD")
    return Columns(
        found["day"],
        found.get("model"),
        _several(found.get("input")),
        _several(found.get("output")),
        found.get("cost"),
        found.get("currency"),
        None if "currency" in found or currency is None else known_currency(currency),
    )


def read_invoice(
    path: str | os.PathLike[str],
    provider: str,
    *,
    columns: Columns | None = None,
    encoding: str | None = None,
) -> Iterator[InvoiceLine]:
    """The lines of a report. Raises :class:`ConfigurationError` with the line for whatever cannot be read."""
    try:
        with open(path, encoding=encoding or _encoding(path), newline="") as file:  # noqa: PTH123 - a path or text
            yield from _lines(_bounded(file, str(path)), str(path), provider, columns)
    except OSError as failed:
        raise ConfigurationError(f"{path}: cannot be read: {failed.strerror}") from None
    except LookupError:
        raise ConfigurationError(f"--encoding: there is no encoding {encoding!r}: write for example cp1252") from None
    except UnicodeError:
        raise ConfigurationError(
            f"{path}: is neither UTF-8 nor UTF-16: save it as UTF-8, or name its encoding with --encoding cp1252"
        ) from None


def _encoding(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - a path or text
        start = file.read(3)
    return next((name for bom, name in _BOMS if start.startswith(bom)), "utf-8")


def _bounded(file: Iterable[str], source: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if len(line) > _LINE_MAX:
            raise ConfigurationError(f"{source}: line {number}: is longer than any line of a report")
        yield line


def _lines(file: Iterator[str], source: str, provider: str, columns: Columns | None) -> Iterator[InvoiceLine]:
    first = next(file, "")
    delimiter = max(_DELIMITERS, key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    if len(header) < 2:
        raise ConfigurationError(f"{source}: line 1: this is no CSV with a header")
    found = columns if columns is not None else _recognised(header, source, provider)
    missing = [name for name in found.named if name not in header]
    if missing:
        told = "; ".join(f"there is no column {name!r}, {_meant(name, header)}" for name in missing)
        raise ConfigurationError(f"{source}: line 1: {told}")
    repeated = [name for name in found.named if header.count(name) > 1]
    if repeated:
        raise ConfigurationError(f"{source}: line 1: the column {repeated[0]!r} stands twice")
    places = {name: header.index(name) for name in found.named}
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield _line(f"{source}: line {reader.line_num + 1}", cells, found, places)
    except csv.Error as broken:
        raise ConfigurationError(f"{source}: line {reader.line_num + 1}: this is not CSV: {broken}") from None


def _recognised(header: Sequence[str], source: str, provider: str) -> Columns:
    for columns in _KNOWN[provider]:
        if set(columns.named) <= set(header):
            return columns
    nearest = min(_KNOWN[provider], key=lambda columns: len(set(columns.named) - set(header)))
    others = [name for name in header if name not in nearest.named] or header
    told = "; ".join(
        f"there is no column {name!r}, {_meant(name, others)}" for name in nearest.named if name not in header
    )
    raise ConfigurationError(
        f"{source}: line 1: is no report of {provider} that is known: {told}; name yours with --columns"
    )


def _line(place: str, cells: Sequence[str], columns: Columns, places: Mapping[str, int]) -> InvoiceLine:
    def cell(name: str) -> str:
        value = cells[places[name]].strip() if places[name] < len(cells) else ""
        if len(value) > _CELL_MAX:
            raise ConfigurationError(f"{place}: {name}: is longer than any name")
        return value

    model = "" if columns.model is None else cell(columns.model)
    if columns.model == "line_item":
        model = model.partition(",")[0].strip()  # "gpt-5-mini-2025-08-07, cached input"
    cost = None if columns.cost is None else _cost(f"{place}: {columns.cost}", cell(columns.cost))
    currency = columns.fixed
    if columns.currency is not None:
        currency = _currency(f"{place}: {columns.currency}", cell(columns.currency))
    return InvoiceLine(
        _day(f"{place}: {columns.day}", cell(columns.day)),
        model,
        _count(place, columns.input, cell),
        _count(place, columns.output, cell),
        cost,
        currency if cost is not None else None,
    )


def _day(place: str, text: str) -> int:
    """Days since 1970 in UTC of a date, a time or seconds since 1970."""
    try:
        if _UNIX.fullmatch(text):
            return int(text.partition(".")[0]) // 86_400
        at = datetime.fromisoformat(text)
        found = at.astimezone(UTC).date() if at.tzinfo is not None else at.date()
        check_year(found.year)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{place}: {text[:40]!r} is no day: write 2026-11-20, 2026-11-20T08:00:00Z or seconds since 1970"
        ) from None
    return (found - _EPOCH_DAY).days


def _count(place: str, names: Sequence[str], cell: Callable[[str], str]) -> int | None:
    if not names:
        return None
    total = 0
    for name in names:
        text = cell(name)
        matched = _COUNT.fullmatch(text)
        if text and matched is None:
            raise _unreadable(f"{place}: {name}", text, "a whole number of tokens")
        total += int(matched["count"]) if matched is not None else 0
    if total > COUNT_MAX:
        raise ConfigurationError(f"{place}: more than 2**53 tokens are no tokens")
    return total


def _cost(place: str, text: str) -> Fraction:
    if text and _MONEY.fullmatch(text) is None:
        raise _unreadable(place, text, "a decimal number, without a currency sign")
    return Fraction(Decimal(text)) if text else Fraction(0)


def _currency(place: str, text: str) -> str:
    try:
        return known_currency(text.upper())
    except ConfigurationError as wrong:
        raise ConfigurationError(f"{place}: {wrong}") from None


def _unreadable(place: str, text: str, wanted: str) -> ConfigurationError:
    if _SEPARATED.fullmatch(text):
        return ConfigurationError(
            f"{place}: {text!r} has a separator that may mean thousands or decimals: write 1234.56, without any other"
        )
    return ConfigurationError(f"{place}: {text[:40]!r} is not {wanted}")


def _several(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split("+") if part.strip())


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), [other.lower() for other in known], n=1, cutoff=0.5)
    if close:
        return f"did you mean {next(other for other in known if other.lower() == close[0])!r}?"
    return f"known are {', '.join(map(repr, known))}"
