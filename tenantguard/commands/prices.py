"""``tenantguard prices``: make a pinned price file, look into it, and compare two."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tenantguard.adapters.pricing.compiled import Compiled
    from tenantguard.model.price import PriceList, PriceRow

_EPILOG: Final = """\
examples:
  tenantguard prices update --provider openai --provider anthropic
  tenantguard prices show gpt-5-mini --at 2026-10-12
  tenantguard prices import our-prices.csv --output contract.json
  tenantguard prices diff prices.json contract.json

The guard reads the file that the settings name, and what they say themselves wins over it:
  [pricing]
  file = "prices.json"
  providers = ["openai", "anthropic"]   # whose price counts where several sell a model
  [prices."gpt-5-mini"]
  ...

exit codes: 0 done, 1 diff: something differs, show: the model has no price, 2 a file or the arguments are wrong
"""

_UPDATE: Final = """\
Writes what the installed package genai-prices knows (pip install 'tenantguard[prices]'). No network is used: newer
prices come with a newer package. The same package always gives the same file, and its version is derived from its
content; commit it, and read the diff before a new one is used.
"""

_IMPORT: Final = """\
A CSV has a header line. Needed are model, currency, and in each line input, output, cache_read, cache_write: decimals
per million tokens. The other columns:
  provider, aliases, patterns (several with spaces between; * is any text, # a digit), from (2026-10-12, in UTC)
  cache_write_1h, audio_input, image_input, audio_output, image_output, reasoning (per million), request (per request)
  above     the line has the rates of requests with more input tokens than this
  service   the line has the rates of this service tier (batch, flex, priority), or its multiplier

  provider,model,currency,above,service,multiplier,input,output,cache_read,cache_write
  acme,large,USD,,,,3,15,0.3,3.75
  acme,large,USD,200000,,,6,22.5,0.6,7.5
  acme,large,USD,,batch,0.5,,,,

A JSON is an object by model, in the manner of LiteLLM's: input_cost_per_token, output_cost_per_token,
cache_read_input_token_cost and so on, per token, in USD.
"""

Row: TypeAlias = tuple[str, ...]


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "prices",
        help="make, show and compare files of model prices",
        description="Make a pinned, versioned file of model prices, look into it, and compare two.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    update = _action(actions, "update", "make a price file from the package genai-prices", _UPDATE)
    update.add_argument("--provider", action="append", default=[], help="only its prices; may be repeated (all)")
    _output(update)
    imported = _action(
        actions, "import", "make a price file from a CSV, or a JSON in the manner of LiteLLM's", _IMPORT
    )
    imported.add_argument("file", metavar="FILE", help="a .csv or .json")
    _output(imported)
    show = _action(actions, "show", "print the prices that hold, or all that is known of one model")
    show.add_argument("model", metavar="MODEL", nargs="?", help="a model's name, as requests write it")
    show.add_argument("--file", default="prices.json", help="the price file (prices.json)")
    show.add_argument("--provider", help="only its prices")
    show.add_argument("--at", metavar="TIME", type=_time, help="as of this day or time, 2026-10-12, in UTC (now)")
    diff = _action(actions, "diff", "print what differs between two price files")
    diff.add_argument("before", metavar="A")
    diff.add_argument("after", metavar="B")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for. Raises where a file is wrong."""
    if args.action == "show":
        return _show(args)
    if args.action == "diff":
        return _diff(args)
    if args.action == "update":
        from tenantguard.adapters.pricing.genai import compile_genai  # noqa: PLC0415

        _write(compile_genai(args.provider), args.output)
    else:
        from tenantguard.adapters.pricing.imports import import_prices  # noqa: PLC0415

        _write(import_prices(args.file), args.output)
    return 0


def _action(actions: Any, name: str, told: str, text: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=told,
        description=f"{told[0].upper()}{told[1:]}.\n\n{text}".rstrip(),
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


_EXAMPLES: Final = {
    "update": "example:\n  tenantguard prices update --provider openai --output prices.json",
    "import": "example:\n  tenantguard prices import our-prices.csv --output prices.json",
    "show": "examples:\n  tenantguard prices show --provider openai\n"
    "  tenantguard prices show gpt-5-mini --at 2026-10-12\n\n"
    "exit codes: 0 done, 1 the model has no price, 2 a file or the arguments are wrong",
    "diff": "example:\n  tenantguard prices diff prices.json new.json\n\n"
    "exit codes: 0 nothing differs, 1 something does, 2 a file is wrong",
}


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", default="prices.json", help="where to (prices.json)")


def _time(text: str) -> int:
    from tenantguard.adapters.pricing.file import parse_time  # noqa: PLC0415

    nanos = parse_time(text)
    if nanos is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day or time in UTC: write 2026-10-12 or 2026-10-12T08:00:00Z"
        )
    return nanos


def _write(compiled: Compiled, path: str) -> None:
    """Replace the file as a whole: who reads it meanwhile has the old one or the new one."""
    from tenantguard.adapters.pricing.file import parse_price_list, render_price_list  # noqa: PLC0415
    from tenantguard.errors import ConfigurationError  # noqa: PLC0415

    text = render_price_list(compiled.rows, source=compiled.source, source_version=compiled.source_version)
    version = parse_price_list(text, path).version
    target = Path(path)
    if not target.name:
        raise ConfigurationError(f"--output: {path!r} is no file: write for example --output prices.json")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    except OSError as failed:
        with suppress(OSError):
            draft.unlink()
        raise ConfigurationError(f"{path}: cannot be written: {failed.strerror}") from None
    for told in compiled.left_out:
        print(f"left out: {told}", file=sys.stderr)
    models = len({(row.provider, row.model) for row in compiled.rows})
    print(f"{path}: {len(compiled.rows)} prices of {models} models, version {version}")


# show


def _show(args: argparse.Namespace) -> int:
    from tenantguard.adapters.pricing.file import read_price_list  # noqa: PLC0415
    from tenantguard.adapters.system import SystemClock  # noqa: PLC0415
    from tenantguard.errors import ConfigurationError  # noqa: PLC0415

    with suppress(OSError):  # what cannot even be looked for cannot be read either, which is told there
        if not Path(args.file).exists():
            makes = f"'tenantguard prices update --output {args.file}' makes one"
            raise ConfigurationError(f"there is no {args.file}: {makes}")
    prices = read_price_list(args.file)
    now_ns = SystemClock.wall_ns() if args.at is None else args.at
    if args.model is not None:
        return _show_model(prices, args.model, args.provider, now_ns)
    rows = [row for row in _in_force(prices, now_ns) if args.provider in {None, row.provider}]
    print(f"version {prices.version}, for a million tokens")
    header = ("provider", "model", "input", "output", "cache read", "cache write", "currency", "besides")
    _print_table([header, *(_line(row) for row in rows)])
    return 0


def _in_force(prices: PriceList, now_ns: int) -> Iterator[PriceRow]:
    latest: dict[tuple[str | None, str], PriceRow] = {}
    for row in prices.rows:
        if row.from_ns <= now_ns:
            known = latest.get((row.provider, row.model))
            if known is None or known.from_ns < row.from_ns:
                latest[row.provider, row.model] = row
    yield from latest.values()


def _line(row: PriceRow) -> Row:
    price = row.price
    besides = [f"above {tier.above} tokens" for tier in price.tiers]
    besides += [name for name, _ in price.services]
    besides += ["request"] if price.request else []
    return (row.provider or "any", row.model, *_rates(price), price.currency, ", ".join(besides))


def _show_model(prices: PriceList, model: str, provider: str | None, now_ns: int) -> int:
    sellers = [row for row in prices.sellers(model, now_ns) if provider in {None, row.provider}]
    if not sellers:
        import difflib  # noqa: PLC0415 - only those who mistype pay

        close = difflib.get_close_matches(model, {row.model for row in prices.rows}, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        print(f"{model}: has no price here as of this time; pricing.unknown_model says what becomes of a call{meant}")
        return 1
    for row in sellers:
        _print_row(row, "" if row.names(model) else f", by the pattern of {row.model}")
    others = [
        row
        for row in prices.rows
        for seller in sellers
        if row.model == seller.model and row.provider == seller.provider and row.from_ns > now_ns
    ]
    for row in others:
        _print_row(row, ", later")
    if prices.find(model, () if provider is None else (provider,), now_ns) is None:
        told = ", ".join(repr(row.provider) for row in sellers)
        print(f"\nThese differ, so pricing.providers must say whose price counts: {told}.")
    print(f"\nversion {prices.version}")
    return 0


def _print_row(row: PriceRow, told: str) -> None:
    from tenantguard.adapters.pricing.file import show_decimal, show_time  # noqa: PLC0415
    from tenantguard.rules.pricing import exact_text  # noqa: PLC0415

    since = f", from {show_time(row.from_ns)}" if row.from_ns else ""
    print(f"\n{row.model}, {row.provider or 'any provider'}{since}{told}, {row.price.currency} for a million tokens")
    lines: list[Row] = [("", "input", "output", "cache read", "cache write", "besides")]
    for name, service in (("standard", row.price), *row.price.services):
        if isinstance(service, Fraction):
            lines.append((f"  {name}", f"x {exact_text(service)}"))
            continue
        lines.append((f"  {name}", *_rates(service), _others(service)))
        lines += [(f"    above {tier.above} tokens", *_rates(tier), _others(tier)) for tier in service.tiers]
    _print_table(lines)
    if row.price.request:
        print(f"  {show_decimal(row.price.request)} a request")
    for told_as, names in (("also", row.aliases), ("and what matches", row.patterns), ("not priced", row.unpriced)):
        if names:
            print(f"  {told_as}: {', '.join(names)}")


def _rates(rates: Any) -> Row:
    from tenantguard.adapters.pricing.file import show_decimal  # noqa: PLC0415
    from tenantguard.model.token_price import BASE_KINDS  # noqa: PLC0415

    return tuple(show_decimal(getattr(rates, kind)) for kind in BASE_KINDS)


def _others(rates: Any) -> str:
    from tenantguard.adapters.pricing.file import show_decimal  # noqa: PLC0415
    from tenantguard.model.token_price import BASE_KINDS, KINDS  # noqa: PLC0415

    said = [(kind, getattr(rates, kind)) for kind in KINDS if kind not in BASE_KINDS]
    return ", ".join(f"{kind.replace('_', ' ')} {show_decimal(rate)}" for kind, rate in said if rate is not None)


# diff


def _diff(args: argparse.Namespace) -> int:
    from tenantguard.adapters.pricing.file import describe, read_price_list  # noqa: PLC0415

    before, after = (
        {(row.provider or "", row.model, row.from_ns): row for row in read_price_list(path).rows}
        for path in (args.before, args.after)
    )
    differing = 0
    for key in sorted(before.keys() | after.keys()):
        old, new = (describe(book[key]) if key in book else {} for book in (before, after))
        if old == new:
            continue
        differing += 1
        sign = "+" if not old else "-" if not new else "~"
        since = (new or old).get("from")
        print(f"{sign} {key[0] or 'any'} {key[1]}{f' from {since}' if since else ''}")
        changes = list(_changes("", old, new))
        for place, was, now in changes if sign == "~" else []:
            print(f"    {place}: {was} -> {now}")
    print(f"{differing} of {len(before.keys() | after.keys())} prices differ" if differing else "nothing differs")
    return 1 if differing else 0


def _changes(place: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """What differs, by the path of a price file."""
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(one, dict) for one in (*old, *new)):
        old, new = ({f"[above {tier['above']}]": tier for tier in tiers} for tiers in (old, new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield place, _shown(old), _shown(new)
        return
    for name in sorted(old.keys() | new.keys()):
        dotted = name if not place or name.startswith("[") else f".{name}"
        yield from _changes(f"{place}{dotted}", old.get(name), new.get(name))


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_table(rows: Iterable[Row]) -> None:
    """Print rows in columns as wide as their widest cell."""
    listed = list(rows)
    widths = [max(len(row[column]) for row in listed if column < len(row)) for column in range(max(map(len, listed)))]
    for row in listed:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
