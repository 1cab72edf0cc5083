"""Prices from files of others: a CSV in the words of a price file, or a JSON in the manner of LiteLLM's.

Numbers are read as the decimals that they are written as, never as floats.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from decimal import Decimal, InvalidOperation
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.pricing.compiled import Compiled
from tenantguard.adapters.pricing.file import PriceFileError, decimal_text, parse_json, read_rows, read_text
from tenantguard.errors import ConfigurationError
from tenantguard.model.token_price import KINDS

if TYPE_CHECKING:
    import os

    from tenantguard.model.price import PriceRow

_RATES: Final = (*KINDS, "request")
_LISTS: Final = ("aliases", "patterns")
COLUMNS: Final = ("provider", "model", *_LISTS, "from", "currency", "above", "service", "multiplier", *_RATES)
"""The columns of a CSV. ``model`` and ``currency`` are needed in every line, the rest as in a price file."""

_MILLION: Final = 1_000_000
_LITELLM: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_image_token": "image_output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_request": "request",
}
_LITELLM_KEY: Final = re.compile(
    rf"\A(?P<kind>{'|'.join(sorted(_LITELLM, key=len, reverse=True))})"
    r"(?:_above_(?P<above>[0-9]{1,5})k_tokens)?(?:_(?P<service>batches|flex|priority))?\Z"
)
_LITELLM_SERVICES: Final = {"batches": "batch", "flex": "flex", "priority": "priority"}
_LITELLM_WRITERS: Final = frozenset({"chat", "completion", "responses"})
_LITELLM_SAMPLE: Final = "sample_spec"


def import_prices(path: str | os.PathLike[str]) -> Compiled:
    """The prices of a file, ``.csv`` or ``.json``; the source is its name, the version a digest of what it says.

    Raises :class:`PriceFileError` with every problem there is.
    """
    name = PurePath(path).name
    readers = {".csv": _from_csv, ".json": _from_litellm}
    reader = readers.get(PurePath(path).suffix.lower())
    if reader is None:
        raise PriceFileError(str(path), ["must be a .csv, or a .json in the manner of LiteLLM's"])
    text = read_text(path)
    version = hashlib.blake2s(text.encode(), digest_size=6).hexdigest()
    problems: list[str] = []
    rows, left_out = reader(text, str(path), problems)
    if not rows and not problems:
        problems.append("has no price in it")
    if problems:
        raise PriceFileError(str(path), problems)
    return Compiled(rows, name, version, left_out)


# CSV


def _from_csv(text: str, source: str, problems: list[str]) -> tuple[tuple[PriceRow, ...], tuple[str, ...]]:
    """One line a set of rates: those of a model, of a tier of it (``above``), or of a service tier (``service``)."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, dict[str, str]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        unknown = sorted({name for name in header if name not in COLUMNS})
        if unknown or len(set(header)) < len(header) or not {"model", "currency"} <= set(header):
            told = f"unknown columns {', '.join(map(repr, unknown))}" if unknown else "columns must differ"
            needed = "model and currency are needed"
            raise PriceFileError(source, [f"line 1: {told}; known are {', '.join(COLUMNS)}, and {needed}"])
        for cells in reader:
            if len(cells) > len(header):
                problems.append(f"line {reader.line_num}: has {len(cells)} cells under {len(header)} columns")
            elif any(cell.strip() for cell in cells):
                said = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if cell.strip()}
                lines.append((reader.line_num, said))
    except csv.Error as broken:
        raise PriceFileError(source, [f"line {reader.line_num}: this is not CSV: {broken}"]) from None
    values: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
    for number, said in lines:
        _add_line(f"line {number}", said, values, problems)
    return read_rows(values.values(), problems), ()


def _add_line(
    place: str, said: dict[str, str], values: dict[tuple[str, ...], tuple[str, dict[str, Any]]], problems: list[str]
) -> None:
    """Put the rates of a line where they belong: a row of its own, or one in the row of its model."""
    key = tuple(said.get(name, "") for name in ("provider", "model", "from"))
    rates: dict[str, str] = {name: said[name] for name in (*_RATES, "multiplier") if name in said}
    service, above = said.get("service"), said.get("above")
    shared: dict[str, Any] = {name: said[name].split() for name in _LISTS if name in said}
    shared |= {"currency": said["currency"]} if "currency" in said else {}
    if service is None and above is None:
        if key in values:
            problems.append(f"{place}: the model has these rates in {values[key][0]}; add above, service or from")
            return
        row: dict[str, Any] = {name: said[name] for name in ("provider", "model", "from") if name in said}
        values[key] = (place, row | shared | rates)
        return
    if key not in values:
        problems.append(
            f"{place}: the line of the model's own rates must come first, with the same provider and from"
        )
        return
    target = values[key][1]
    for name, value in shared.items():
        if value != target.get(name):
            problems.append(
                f"{place}: {name}: differs from the line of the model's own rates; write the same, or none"
            )
    if service is not None:
        target = target.setdefault("services", {}).setdefault(service, {})
    if above is None:
        if target:
            problems.append(f"{place}: the service tier {service!r} has rates already; keep one line")
        target |= rates
    elif above.isascii() and above.isdigit() and len(above) < 16:
        target.setdefault("tiers", []).append({"above": int(above), **rates})
    else:
        problems.append(f"{place}: above: must be a whole number of tokens")


# LiteLLM


def _from_litellm(text: str, source: str, problems: list[str]) -> tuple[tuple[PriceRow, ...], tuple[str, ...]]:
    """An object by model: costs by token under keys that name the kind, the tier and the service tier."""
    document = parse_json(text, source, parse_float=Decimal, parse_int=Decimal)
    if not isinstance(document, dict):
        raise PriceFileError(source, ["must be an object with a key for each model"])
    values = []
    left_out = []
    for key in sorted(document):
        said = document[key]
        if key == _LITELLM_SAMPLE:
            continue
        if not isinstance(said, dict):
            problems.append(f"{key!r}: must be an object")
        elif said.get("input_cost_per_token") is None:
            left_out.append(f"{key}: has no price of input tokens")
        elif said.get("output_cost_per_token") is None and said.get("mode") in _LITELLM_WRITERS:
            left_out.append(f"{key}: has no price of output tokens")
        else:
            values.append((repr(key), _litellm_row(key, said, problems)))
    return read_rows(values, problems), tuple(left_out)


def _litellm_row(key: str, said: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    found: dict[tuple[str | None, int | None], dict[str, str]] = {}
    unpriced = set()
    for name, value in sorted(said.items()):
        if value is None:
            continue
        matched = _LITELLM_KEY.match(name)
        if matched is None:
            if "cost" in name:
                unpriced.add(name)
            continue
        kind = _LITELLM[matched["kind"]]
        above = int(matched["above"]) * 1000 if matched["above"] else None
        service = _LITELLM_SERVICES[matched["service"]] if matched["service"] else None
        rate = _litellm_rate(value, 1 if kind == "request" else _MILLION)
        if rate is None:
            problems.append(f"{key!r}: {name}: must be a number, at least 0, with at most 15 decimals")
        else:
            found.setdefault((service, above), {})[kind] = rate
    standard = found.pop((None, None), {})
    row: dict[str, Any] = {"model": key, "currency": "USD", "unpriced": sorted(unpriced), **_completed(standard)}
    provider = said.get("litellm_provider")
    if isinstance(provider, str) and provider:
        row |= {"provider": provider, "model": key.removeprefix(f"{provider}/") or key}
    services = {
        service: {**standard, **found.get((service, None), {})} for service, _ in found if service is not None
    }
    row["services"] = {service: _completed(own) for service, own in services.items()}
    for (service, above), rates in sorted(found.items(), key=lambda pair: pair[0][1] or 0):
        if above is not None:
            target, own = (row, standard) if service is None else (row["services"][service], services[service])
            target.setdefault("tiers", []).append({"above": above, **_completed({**own, **rates})})
    return row


def _completed(rates: dict[str, str]) -> dict[str, str]:
    """All rates that must be said: without a price of output a model makes none, and cached tokens cost as others."""
    usual = rates.get("input", "0")
    return {"output": "0", "cache_read": usual, "cache_write": usual, **rates}


def _litellm_rate(value: object, times: int) -> str | None:
    """A rate by the million of a cost by the token, which some files put in quotes."""
    try:
        return decimal_text(Decimal(value) * times) if isinstance(value, Decimal | str) else None
    except (ConfigurationError, InvalidOperation):
        return None
