"""Prices from the data that the installed package ``genai-prices`` (extra ``prices``) carries. No network is used.

How its data becomes rows:

- A model's identifier and the names that it equals are exact names; what begins, ends or contains is a pattern, and
  so is a regular expression of literal text and digits. Other conditions are left out: fewer names match, never more.
- Each start date in the data is a row. Where a price depends on the time of day, the dearest of the day is taken.
- A kind without a price of its own costs what the kind around it does, as in that package: cached tokens ``input``.
  A model without a price of output tokens (it makes none, or embeds) has 0 for it.
- ``service_tier``, ``speed`` and ``processing`` become service tiers by their value.
- What is priced by other things than tokens and requests is told as ``unpriced`` in the row. A model without a price
  of input tokens is left out.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from importlib import metadata
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.pricing.compiled import Compiled
from tenantguard.adapters.pricing.file import PriceFileError, decimal_text, read_rows, show_time
from tenantguard.errors import ConfigurationError
from tenantguard.model.token_price import STANDARD_TIERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from decimal import Decimal

    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider

PACKAGE: Final = "genai-prices"

_KINDS: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
    "output_reasoning_mtok": "reasoning",
}
_REQUESTS: Final = "requests_kcount"
_SERVICES: Final = frozenset({"service_tier", "speed", "processing"})
_CURRENCY: Final = "USD"  # the package prices in no other
_EVER: Final = date.min
_TOKEN: Final = re.compile(
    r"\\d(?:\{(?P<digits>[0-9]{1,2})\})?|\\(?P<escaped>[^A-Za-z0-9])|\[(?P<any>[-@_.:/]+)\]|(?P<plain>[A-Za-z0-9_/:@=-])"
)


def compile_genai(providers: Collection[str] = ()) -> Compiled:
    """The prices of the installed package; only of these ``providers``, if any are named.

    Raises :class:`ConfigurationError` where the package is missing, or knows no provider of that name.
    """
    try:
        from genai_prices.data import providers as known  # noqa: PLC0415 - takes 0.3 s and 90 MB
    except ImportError:
        raise ConfigurationError(
            "the package genai-prices is not installed: run \"pip install 'tenantguard[prices]'\""
        ) from None
    return compile_providers(known, metadata.version(PACKAGE), providers)


def compile_providers(known: Iterable[Provider], version: str, providers: Collection[str] = ()) -> Compiled:
    """As :func:`compile_genai`, for data at hand."""
    by_id = {provider.id: provider for provider in known}
    missing = sorted(set(providers) - by_id.keys())
    if missing:
        told = ", ".join(map(repr, missing))
        raise ConfigurationError(f"{PACKAGE} {version} has no provider {told}: known are {', '.join(sorted(by_id))}")
    values: list[tuple[str, dict[str, Any]]] = []
    left_out: list[str] = []
    for provider in (by_id[name] for name in sorted(providers or by_id)):
        for model in sorted(provider.models, key=lambda model: model.id):
            place = f"{provider.id} {model.id}"
            try:
                rows = list(_rows(provider, model))
            except ConfigurationError as wrong:
                left_out.append(f"{place}: a price {wrong}")
                continue
            if rows:
                values += [(place, row) for row in rows]
            else:
                left_out.append(f"{place}: has no price of input tokens")
    problems: list[str] = []
    made = read_rows(values, problems)
    if problems:
        raise PriceFileError(f"{PACKAGE} {version}", problems)
    return Compiled(made, PACKAGE, version, tuple(left_out))


# names


def _names(provider: Provider, model: ModelInfo) -> tuple[list[str], list[str]]:
    """The exact names of a model beside its identifier, and the patterns of others."""
    aliases: set[str] = set()
    patterns: set[str] = set()
    for clause in _clauses(model.match):
        kind, text = next(iter(vars(clause).items()))
        if kind == "regex":
            patterns.update(_from_regex(text))
        elif kind == "equals":
            aliases.add(text)
        elif kind in _AROUND and not set("*#") & set(text):
            before, after = _AROUND[kind]
            patterns.add(f"{before}{text}{after}")
    exact = {name for name in patterns if not set("*#") & set(name)}
    aliases = {name for name in aliases | exact if name != model.id and provider.find_model(name) is model}
    return sorted(aliases), sorted(patterns - exact)


_AROUND: Final = {"starts_with": ("", "*"), "ends_with": ("*", ""), "contains": ("*", "*")}


def _clauses(clause: Any) -> Iterator[Any]:
    """The conditions of which one is enough."""
    inner = vars(clause).get("or_")
    if inner is None:
        yield clause
    else:
        for one in inner:
            yield from _clauses(one)


def _from_regex(regex: str) -> Iterator[str]:
    """The patterns that say what ``regex`` says; none where it says more than literal text and digits."""
    if not regex.startswith("^"):
        return
    ended = regex.endswith("$")
    text = regex[1:-1] if ended else regex[1:]
    choices: list[list[str]] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return
        at = token.end()
        if token["any"] is not None:
            choices.append(list(token["any"]))
        else:
            choices.append([token["escaped"] or token["plain"] or "#" * int(token["digits"] or 1)])
    for chosen in product(*choices):
        yield "".join(chosen) + ("" if ended else "*")


# prices


def _rows(provider: Provider, model: ModelInfo) -> Iterator[dict[str, Any]]:
    """The rows of a model, one for each time from which it costs something else."""
    aliases, patterns = _names(provider, model)
    conditional = _conditional(model)
    variants = model.price_variants or []
    starts = {_start(one) for one in (*conditional, *variants)}
    before: dict[str, Any] | None = None
    for start in sorted({_EVER, *starts}):
        prices = _prices(conditional, start)
        standard = _table(prices)
        if standard is None:
            continue
        services: dict[str, Any] = {}
        unpriced = {name for price in prices for name in price if name not in _KINDS and name != _REQUESTS}
        if len(prices) > 1:
            unpriced.add("time_of_day")
        for when in _contexts(variants, start):
            (key, name), *others = when
            if others or key not in _SERVICES:
                unpriced.add(" ".join(f"{key}={value}" for key, value in when))
            elif name not in STANDARD_TIERS:
                own = _table([{**price, **_overrides(variants, start, when)} for price in prices])
                if own != standard:
                    services[name] = own
        row = {**standard, "services": services, "unpriced": sorted(unpriced)}
        if row != before:
            since = {} if start == _EVER else {"from": show_time(_nanos(start))}
            named = {"provider": provider.id, "model": model.id, "aliases": aliases, "patterns": patterns}
            yield {**named, **since, "currency": _CURRENCY, **row}
        before = row


def _conditional(model: ModelInfo) -> list[ConditionalPrice]:
    from genai_prices.types import ConditionalPrice  # noqa: PLC0415 - only who compiles has it

    return model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]


def _start(priced: Any) -> date:
    start: date = getattr(priced.constraint, "start_date", _EVER)
    return start


def _prices(conditional: list[ConditionalPrice], day: date) -> list[dict[str, Any]]:
    """What holds on ``day``: the last price that has begun, and those after it that hold for a part of the day."""
    found: list[dict[str, Any]] = []
    for one in reversed(conditional):
        if one.constraint is not None and not hasattr(one.constraint, "start_date"):
            found.append(_said(one.prices))
        elif _start(one) <= day:
            return [*found, _said(one.prices)]
    return found or [_said(conditional[0].prices)]


def _contexts(variants: list[Any], day: date) -> list[tuple[tuple[str, str], ...]]:
    return sorted({tuple(sorted(variant.when.items())) for variant in variants if _start(variant) <= day})


def _overrides(variants: list[Any], day: date, when: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What is priced otherwise in a context; of each kind the first that says it."""
    found: dict[str, Any] = {}
    for variant in variants:
        if tuple(sorted(variant.when.items())) == when and _start(variant) <= day:
            found = {**_said(variant.prices), **found}
    return found


def _said(prices: ModelPrice) -> dict[str, Any]:
    return {name: value for name, value in vars(prices).items() if value is not None}


def _table(prices: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Rates and tiers, of several prices the dearest; None where there is no rate of input."""
    if any("input_mtok" not in price for price in prices):
        return None
    starts = sorted(
        {tier.start for price in prices for value in price.values() for tier in getattr(value, "tiers", ())}
    )
    tiers = [{"above": start, **_rates(prices, start)} for start in starts]
    return {**_rates(prices, None), **({"tiers": tiers} if tiers else {})}


def _rates(prices: list[dict[str, Any]], above: int | None) -> dict[str, str]:
    rates: dict[str, Decimal] = {}
    for price in prices:
        said = {_KINDS[name]: _at(value, above) for name, value in price.items() if name in _KINDS}
        if _REQUESTS in price:
            said["request"] = _at(price[_REQUESTS], above) / 1000
        cached = {"cache_read": said["input"], "cache_write": said["input"]}
        for name, rate in {"output": said["input"] * 0, **cached, **said}.items():
            rates[name] = max(rate, rates.get(name, rate))
    return {name: decimal_text(rate) for name, rate in rates.items()}


def _at(value: Any, above: int | None) -> Decimal:
    """The price for input above so many tokens."""
    rate: Decimal = getattr(value, "base", value)
    for tier in getattr(value, "tiers", ()):
        if above is not None and tier.start <= above:
            rate = tier.price
    return rate


def _nanos(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9
