"""Price files: published prices as JSON, pinned by a version that is derived from what they say.

A file is an object: ``format``, ``source``, ``source_version``, ``version`` and ``prices``, a list of rows. A rate is
a decimal in quotes, per million tokens, with at most nine decimals; the keys of a row are told in ``docs/prices.md``.
Reading is strict, and tells everything that is wrong at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantguard.errors import ConfigurationError
from tenantguard.model.money import NANOS, known_currency
from tenantguard.model.price import PriceList, PriceRow
from tenantguard.model.token_price import BASE_KINDS, KINDS, Tier, TokenPrice

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from tenantguard.model.token_price import Service

T = TypeVar("T")

FORMAT: Final = "tenantguard-prices/1"

_DECIMALS: Final = 9
_DIGITS: Final = 10
_NOISE: Final = 10**6
_RATES: Final = frozenset({*KINDS, "request"})
_ROW: Final = frozenset({"provider", "model", "aliases", "patterns", "from", "currency", "unpriced"})
_FILE: Final = ("format", "source", "source_version", "version", "prices")
_DECIMAL: Final = re.compile(r"\A[0-9]{1,10}(?:\.[0-9]{1,9})?\Z")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class PriceFileError(ConfigurationError):
    """A file of prices that cannot be used. ``problems`` has all that is wrong with it."""

    def __init__(self, source: str, problems: Iterable[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{source} has {count} problem{'' if count == 1 else 's'}:"
        super().__init__("\n  ".join([heading, *(f"{source}: {problem}" for problem in self.problems)]))


# reading


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file; :class:`PriceFileError` where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as failed:
        raise PriceFileError(str(path), [f"cannot be read: {failed.strerror}"]) from failed
    except UnicodeDecodeError:
        raise PriceFileError(str(path), ["this is not UTF-8; save it so"]) from None
    except ValueError:
        raise PriceFileError(str(path), ["no file has a null character in its name"]) from None


def parse_json(text: str, source: str, **options: Any) -> Any:
    """What ``text`` says; :class:`PriceFileError`, with the line, for what is no JSON, and for a key said twice."""
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(sorted({f"{name!r} stands twice in one object" for name in names if names.count(name) > 1}))
        return found

    try:
        value = json.loads(text, object_pairs_hook=once, **options)
    except json.JSONDecodeError as broken:
        place = f"line {broken.lineno}, column {broken.colno}"
        raise PriceFileError(source, [f"{place}: this is not JSON: {broken.msg}"]) from None
    except (ValueError, RecursionError):
        raise PriceFileError(source, ["this is not JSON that can be read: too deep, or a number too long"]) from None
    if twice:
        raise PriceFileError(source, [f"{problem}; keep one" for problem in twice])
    return value


def read_price_list(path: str | os.PathLike[str]) -> PriceList:
    """The prices in a price file, under its version. Raises :class:`PriceFileError` with every problem there is."""
    return parse_price_list(read_text(path), str(path))


def parse_price_list(text: str, source: str = "prices") -> PriceList:
    """As :func:`read_price_list`, for the text of a file."""
    document = parse_json(text, source)
    if not isinstance(document, dict):
        raise PriceFileError(source, [f"must be an object with the keys {', '.join(_FILE)}"])
    if document.get("format") != FORMAT:
        remedy = "make one with 'tenantguard prices update' or 'tenantguard prices import FILE'"
        raise PriceFileError(source, [f"format: must be {FORMAT!r}; {remedy}"])
    problems = [f"{name}: unknown key; known are {', '.join(_FILE)}" for name in sorted(document.keys() - {*_FILE})]
    problems += [
        f"{name}: must be text, and not empty"
        for name in ("source", "source_version")
        if not isinstance(document.get(name), str) or not document[name]
    ]
    values = document.get("prices")
    if not isinstance(values, list) or not values:
        raise PriceFileError(source, [*problems, "prices: must be a list of prices, and not empty"])
    rows = read_rows(((f"prices[{index}]", value) for index, value in enumerate(values)), problems)
    if problems:
        raise PriceFileError(source, problems)
    version = _version(document["source"], document["source_version"], rows)
    if document.get("version", version) != version:
        remedy = (
            "write changes into the settings, [prices.\"<model>\"], or remove the key 'version' to have it derived"
        )
        raise PriceFileError(
            source, [f"version: is not that of these prices, {version!r}: they were edited; {remedy}"]
        )
    return PriceList(rows, version)


def read_rows(values: Iterable[tuple[str, object]], problems: list[str]) -> tuple[PriceRow, ...]:
    """The rows that ``values`` say, each with its place; what is wrong with one is added to ``problems``."""
    rows = []
    seen: dict[tuple[str, str | None, int], str] = {}
    for place, value in values:
        row = _Row(place, problems).read(value)
        if row is None:
            continue
        for name in (row.model, *row.aliases, *row.patterns):
            key = (name, row.provider, row.from_ns)
            if key in seen:
                problems.append(
                    f"{_named(place, row.model)}: {name!r} has a price from the same time on in {seen[key]}; keep one"
                )
            seen[key] = place
        rows.append(row)
    return tuple(sorted(rows, key=_order))


def _named(place: str, model: str) -> str:
    return place if model in place else f"{place} ({model})"


class _Row:
    """Reads one row, and notes all that is wrong with it."""

    def __init__(self, place: str, problems: list[str]) -> None:
        self._place = place
        self._problems = problems
        self._wrong = False

    def read(self, value: object) -> PriceRow | None:
        if not isinstance(value, dict):
            self._problem("", "must be an object", 'write {"model": "...", "currency": "USD", "input": "0.25", ...}')
            return None
        model = self._text(value, "model")
        self._place = _named(self._place, model)
        self._unknown(value, "", _ROW | _RATES | {"tiers", "services"})
        provider = self._text(value, "provider") if "provider" in value else None
        from_ns = self._time(value)
        aliases, patterns, unpriced = (self._texts(value, key) for key in ("aliases", "patterns", "unpriced"))
        currency = self._attempt("currency", partial(known_currency, self._text(value, "currency") or "?"))
        price = self._price(value, "", currency or "XXX")
        if self._wrong or price is None:
            return None
        return self._attempt("", partial(PriceRow, model, price, provider, from_ns, aliases, patterns, unpriced))

    def _price(self, value: dict[str, Any], key: str, currency: str, *, own: bool = False) -> TokenPrice | None:
        rates = self._rates(value, key)
        tiers = []
        for index, tier in enumerate(self._list(value, key, "tiers")):
            place = f"{key}tiers[{index}]"
            if not isinstance(tier, dict):
                self._problem(place, "must be an object", 'write {"above": 200000, "input": "0.50", ...}')
                continue
            self._unknown(tier, f"{place}.", _RATES | {"above"})
            above = tier.get("above")
            read = self._rates(tier, f"{place}.")
            if type(above) is not int:
                self._problem(f"{place}.above", "must be a whole number of tokens", "without quotes")
            elif read is not None:
                made = self._attempt(place, partial(Tier, **read, above=above))
                tiers += [] if made is None else [made]
        services = [] if own else self._services(value, currency)
        if rates is None:
            return None
        return self._attempt(
            key, partial(TokenPrice, **rates, currency=currency, tiers=tuple(tiers), services=tuple(services))
        )

    def _services(self, value: dict[str, Any], currency: str) -> list[tuple[str, Service]]:
        services = value.get("services", {})
        if not isinstance(services, dict):
            self._problem("services", "must be an object", 'write {"batch": {"multiplier": "0.5"}}')
            return []
        read: list[tuple[str, Service]] = []
        for name in sorted(services):
            key, service = f"services.{name}", services[name]
            if not isinstance(service, dict):
                self._problem(key, "must be an object", 'write {"multiplier": "0.5"}, or rates')
            elif "multiplier" in service:
                self._unknown(service, f"{key}.", frozenset({"multiplier"}))
                multiplier = self._decimal(service["multiplier"], f"{key}.multiplier")
                if multiplier is not None:
                    read.append((name, Fraction(multiplier, NANOS)))
            else:
                self._unknown(service, f"{key}.", _RATES | {"tiers"})
                price = self._price(service, f"{key}.", currency, own=True)
                if price is not None:
                    read.append((name, price))
        return read

    def _rates(self, value: dict[str, Any], key: str) -> dict[str, int] | None:
        read: dict[str, int] = {}
        complete = True
        for name in (*KINDS, "request"):
            if name in value:
                rate = self._decimal(value[name], f"{key}{name}")
            elif name in BASE_KINDS:
                rate = None
                self._problem(f"{key}{name}", "is missing", 'write "0" if it is free')
            else:
                continue
            if rate is None:
                complete = False
            else:
                read[name] = rate
        return read if complete else None

    def _decimal(self, value: object, key: str) -> int | None:
        if not isinstance(value, str) or not _DECIMAL.match(value):
            remedy = (
                "in quotes, because JSON numbers lose digits" if isinstance(value, int | float) else 'like "0.25"'
            )
            self._problem(key, "must be a decimal with at most nine decimals", remedy)
            return None
        whole, _, fraction = value.partition(".")
        return int(whole + fraction.ljust(_DECIMALS, "0"))

    def _time(self, value: dict[str, Any]) -> int:
        text = value.get("from")
        if text is None:
            return 0
        nanos = parse_time(text) if isinstance(text, str) else None
        if nanos is None:
            self._problem("from", "must be a day or a time in UTC", 'write "2026-10-12" or "2026-10-12T08:00:00Z"')
        return nanos or 0

    def _text(self, value: dict[str, Any], key: str) -> str:
        text = value.get(key)
        if isinstance(text, str) and text:
            return text
        self._problem(key, "must be text, and not empty" if key in value else "is missing")
        return ""

    def _texts(self, value: dict[str, Any], key: str) -> tuple[str, ...]:
        texts = self._list(value, "", key)
        if all(isinstance(text, str) and text for text in texts):
            return tuple(sorted(texts))
        self._problem(key, "must be a list of texts, none of them empty")
        return ()

    def _list(self, value: dict[str, Any], key: str, name: str) -> list[Any]:
        found = value.get(name, [])
        if isinstance(found, list):
            return found
        self._problem(f"{key}{name}", "must be a list", "write it in [brackets]")
        return []

    def _unknown(self, value: dict[str, Any], key: str, known: frozenset[str]) -> None:
        for name in sorted(value.keys() - known):
            self._problem(f"{key}{name}", "unknown key", f"known are {', '.join(sorted(known))}")

    def _attempt(self, key: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ConfigurationError as wrong:
            self._problem(key.rstrip("."), str(wrong))
            return None

    def _problem(self, key: str, message: str, remedy: str | None = None) -> None:
        self._wrong = True
        told = f"{self._place}{': ' if key else ''}{key}: {message}"
        self._problems.append(f"{told}; {remedy}" if remedy else told)


def parse_time(text: str) -> int | None:
    """Nanoseconds since 1970 of a day, or of a time with ``Z`` or an offset; None for anything else."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        if len(text) > len("2026-10-12"):
            return None
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // _MICROSECOND * 1000


# writing


def render_price_list(rows: Iterable[PriceRow], *, source: str, source_version: str) -> str:
    """A price file with these rows, one a line, sorted: equal rows give equal files."""
    ordered = tuple(sorted(rows, key=_order))
    head = {
        "format": FORMAT,
        "source": source,
        "source_version": source_version,
        "version": _version(source, source_version, ordered),
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}," for name, value in head.items()]
    told = ",\n".join(f"    {json.dumps(describe(row), ensure_ascii=False)}" for row in ordered)
    return "\n".join(["{", *lines, '  "prices": [', told, "  ]", "}"]) + "\n"


def describe(row: PriceRow) -> dict[str, Any]:
    """A row as a price file says it."""
    told: dict[str, Any] = {} if row.provider is None else {"provider": row.provider}
    told["model"] = row.model
    for name in ("aliases", "patterns"):
        if getattr(row, name):
            told[name] = sorted(getattr(row, name))
    if row.from_ns:
        told["from"] = show_time(row.from_ns)
    told |= {"currency": row.price.currency, **_describe_price(row.price)}
    if row.price.services:
        told["services"] = {
            name: {"multiplier": _show_multiplier(service)}
            if isinstance(service, Fraction)
            else _describe_price(service)
            for name, service in sorted(row.price.services, key=lambda pair: pair[0])
        }
    if row.unpriced:
        told["unpriced"] = sorted(row.unpriced)
    return told


def show_time(nanos: int) -> str:
    """Nanoseconds since 1970 as :func:`parse_time` reads them."""
    time = _EPOCH + nanos // 1000 * _MICROSECOND
    text = time.isoformat().replace("+00:00", "Z")
    return text.removesuffix("T00:00:00Z")


def show_decimal(nanos: int) -> str:
    """Billionths as the shortest decimal: ``1_500_000_000`` is ``"1.5"``."""
    whole, fraction = divmod(nanos, NANOS)
    return f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")


def decimal_text(value: Decimal) -> str:
    """``value`` as a rate of a price file: at most nine decimals.

    A source that computes with floats says 0.18000000000000002 for 0.18, and 0.08333333333333334 for a twelfth. What
    differs from nine decimals by no more than a millionth of itself is rounded to them, half to even; what differs by
    more is finer than a price can be here, and raises :class:`ConfigurationError`, as what is negative or no number
    does.
    """
    if not value.is_finite() or value < 0:
        raise ConfigurationError("must be a finite number, at least 0")
    if not value:
        return "0"
    if value.adjusted() >= _DIGITS:
        raise ConfigurationError("is larger than a price can be here")
    exact = Fraction(value) if value.adjusted() >= -2 * _DECIMALS else Fraction(0)
    nanos = round(exact * NANOS)
    if not nanos or abs(exact * NANOS - nanos) * _NOISE > nanos:
        raise ConfigurationError("is finer than a billionth per million tokens")
    return show_decimal(nanos)


def _describe_price(price: TokenPrice) -> dict[str, Any]:
    told: dict[str, Any] = _describe_rates(price)
    if price.tiers:
        told["tiers"] = [{"above": tier.above, **_describe_rates(tier)} for tier in price.tiers]
    return told


def _describe_rates(rates: Any) -> dict[str, str]:
    told = {name: getattr(rates, name) for name in (*KINDS, "request")}
    return {
        name: show_decimal(rate) for name, rate in told.items() if rate is not None and (name, rate) != ("request", 0)
    }


def _show_multiplier(multiplier: Fraction) -> str:
    nanos = multiplier * NANOS
    if nanos.denominator != 1:
        raise ConfigurationError("a multiplier in a price file has at most nine decimals")
    return show_decimal(nanos.numerator)


def _order(row: PriceRow) -> tuple[str, str, int]:
    return (row.provider or "", row.model, row.from_ns)


def _version(source: str, source_version: str, rows: tuple[PriceRow, ...]) -> str:
    said = json.dumps([describe(row) for row in rows], sort_keys=True, separators=(",", ":"))
    return f"{source}-{source_version}-{hashlib.blake2s(said.encode(), digest_size=6).hexdigest()}"
