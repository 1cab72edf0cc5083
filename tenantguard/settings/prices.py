"""What models cost, and what one currency is in another: ``[prices]``, ``[pricing]`` and ``[rates]``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenantguard.adapters.pricing.file import PriceFileError, parse_price_list, read_text
from tenantguard.model.money import known_currency
from tenantguard.model.price import PriceBook, PriceList, UnknownModel
from tenantguard.model.sections import BudgetSection
from tenantguard.model.token_price import KINDS, Tier, TokenPrice
from tenantguard.rules.rates import RateTable, parse_exchange_rate
from tenantguard.settings.problems import did_you_mean
from tenantguard.settings.shapes import (
    ExchangeShape,
    MultiplierShape,
    PriceShape,
    ServiceShape,
    TierShape,
    check,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction
    from pathlib import Path as FilePath

    from tenantguard.model.route import Route
    from tenantguard.model.token_price import Service
    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path
    from tenantguard.settings.policies import ResolvedPolicy
    from tenantguard.settings.shapes import PricingShape, TokenRatesShape

P = TypeVar("P", bound=ServiceShape)

_RATES: Final = (*KINDS, "request")
_ONE_CURRENCY: Final = "write all in one currency, or a table [rates]"


# prices


def read_prices(document: Document, pricing: PricingShape, folder: FilePath) -> PriceBook:
    """The price book: the models of ``[prices]``, and the file and the choices of ``[pricing]``."""
    models: dict[str, TokenPrice] = {}
    table = document.data.get("prices", {})
    if not isinstance(table, dict):
        document.problem(("prices",), f"must be a table of tables, is {kind_of(table)}", 'write [prices."<model>"]')
        table = {}
    for model, value in table.items():
        if not model:
            document.problem(("prices", model), "a model has a name")
            continue
        price = _read_price(document, value, ("prices", model))
        if price is not None:
            models[model] = price
    listed = _read_file(document, pricing, folder)
    default: TokenPrice | None = None
    if pricing.default is not None:
        default = _read_price(document, pricing.default, ("pricing", "default"))
        if default is None:
            return PriceBook(models)
    if (pricing.unknown_model is UnknownModel.DEFAULT) != (default is not None):
        document.problem(("pricing",), "unknown_model = 'default' and a table [pricing.default] go together")
        return PriceBook(models)
    return PriceBook(models, pricing.unknown_model, default, listed=listed, providers=tuple(pricing.providers))


def _read_file(document: Document, pricing: PricingShape, folder: FilePath) -> PriceList:
    """The prices of the file that ``pricing.file`` names; its problems are told under its own name."""
    if pricing.file is None:
        if pricing.providers and not document.has("pricing", "file"):
            document.problem(("pricing", "providers"), "is never looked at: there is no pricing.file")
        return PriceList()
    try:
        listed = parse_price_list(read_text(folder / pricing.file), pricing.file)
    except PriceFileError as wrong:
        missing = isinstance(wrong.__cause__, FileNotFoundError)
        remedy = f"'tenantguard prices update --output {pricing.file}' makes one" if missing else None
        for problem in wrong.problems:
            document.problem(("pricing", "file"), f"{pricing.file}: {problem}", remedy)
        return PriceList()
    sellers = {row.provider for row in listed.rows if row.provider is not None}
    for index, provider in enumerate(pricing.providers):
        if provider not in sellers:
            known = f"known are {', '.join(sorted(sellers))}" if sellers else None
            document.problem(
                ("pricing", "providers", index),
                f"no price in {pricing.file} is of {provider!r}",
                did_you_mean(provider, sellers) or known,
            )
    return listed


def _read_price(document: Document, value: object, path: Path) -> TokenPrice | None:
    shape, currency, tiers = _read_rates(document, PriceShape, value, path)
    services: list[tuple[str, Service]] = []
    for name, inner in _table_in(value, "services").items():
        service = _read_service(document, inner, (*path, "services", name), currency)
        if service is not None:
            services.append((name, service))
    if shape is None or currency is None:
        return None
    make = partial(
        TokenPrice,
        **_nanos(shape),
        currency=currency,
        tiers=tuple(tiers),
        services=tuple(sorted(services, key=_name)),
    )
    return document.attempt(make, path)


def _read_service(document: Document, value: object, path: Path, currency: str | None) -> Service | None:
    """What another service tier costs: a multiplier, or rates and tiers of its own."""
    if isinstance(value, dict) and "multiplier" in value:
        multiplier = check(document, MultiplierShape, value, path)
        return None if multiplier is None else multiplier.multiplier
    known = {"multiplier", *ServiceShape.model_fields}
    shape, own, tiers = _read_rates(document, ServiceShape, value, path, known)
    if shape is None or own is None or not _is_in(document, own, currency, path):
        return None
    return document.attempt(partial(TokenPrice, **_nanos(shape), currency=own, tiers=tuple(tiers)), path)


def _read_rates(
    document: Document, kind: type[P], value: object, path: Path, known: set[str] | None = None
) -> tuple[P | None, str | None, list[Tier]]:
    """A table of rates, their currency, and the tiers in it, which are read even where the rates are wrong."""
    shape = check(document, kind, value, path, known=known)
    currency = _currency(document, shape, path)
    tiers: list[Tier] = []
    listed: Any = value.get("tiers") if isinstance(value, dict) else None
    for index, inner in enumerate(listed if isinstance(listed, list) else ()):
        at = (*path, "tiers", index)
        tier = check(document, TierShape, inner, at)
        own = _currency(document, tier, at)
        if tier is not None and own is not None and _is_in(document, own, currency, at):
            made = document.attempt(partial(Tier, **_nanos(tier), above=tier.above), at)
            tiers += [] if made is None else [made]
    return shape, currency, tiers


def _currency(document: Document, shape: TokenRatesShape | None, path: Path) -> str | None:
    """The one currency of a table's rates; None after it was noted that there are several."""
    if shape is None:
        return None
    currencies: set[str] = {rate.currency for name in _RATES if (rate := getattr(shape, name)) is not None}
    if len(currencies) > 1:
        document.problem(path, "the rates of a price must be in one currency")
        return None
    return currencies.pop()


def _is_in(document: Document, own: str, currency: str | None, path: Path) -> bool:
    if currency is not None and own != currency:
        document.problem(path, f"is in {own}, and its price in {currency}: all rates of a price are in one currency")
    return own == currency


def _nanos(shape: TokenRatesShape) -> dict[str, Any]:
    return {name: rate.nanos for name in _RATES if (rate := getattr(shape, name)) is not None}


def _table_in(value: object, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _name(service: tuple[str, Service]) -> str:
    return service[0]


# exchange rates


def read_rates(document: Document) -> RateTable | None:
    """The table ``[rates]``, if there is one and it is right."""
    path = ("rates",)
    if not document.has(*path):
        return None
    value = document.data["rates"]
    if not isinstance(value, dict):
        document.problem(path, f"must be a table, is {kind_of(value)}")
        return None
    keys = ExchangeShape.model_fields.keys()
    shape = check(document, ExchangeShape, {key: value[key] for key in keys & value.keys()}, path)
    base = shape.base if shape is not None else value.get("base")
    if not isinstance(base, str):
        base = None  # that was told
    rates = {}
    for currency, text in value.items():
        if currency not in keys:
            rate = _read_exchange_rate(document, currency, text, base)
            if rate is not None:
                rates[currency] = rate
    if value.keys() <= keys:
        document.problem(path, "has no exchange rate", _example(base))
    return None if shape is None else document.attempt(partial(RateTable, shape.version, shape.base, rates), path)


def _example(base: str | None) -> str:
    return f"write for example EUR = '1.0876 {base or 'USD'}'"


def _read_exchange_rate(document: Document, currency: str, text: object, base: str | None) -> Fraction | None:
    path = ("rates", currency)
    if document.attempt(partial(known_currency, currency), path) is None:
        return None
    if not isinstance(text, str):
        document.problem(path, f"must be text in quotes, is {kind_of(text)}", _example(base))
        return None
    if base is None:
        return None
    if currency == base:
        document.problem(path, "is the base of the table, so it has no rate of its own", "leave it out")
        return None
    return document.attempt(partial(parse_exchange_rate, text, base), path)


# prices, budgets and rates together


def check_money(
    document: Document,
    routes: Mapping[int, Route],
    prices: PriceBook,
    policies: Mapping[str, ResolvedPolicy],
    rates: RateTable | None,
) -> None:
    """Note what cannot be charged: models without a price, and currencies that do not go together."""
    if prices.unknown is UnknownModel.REFUSE and not (document.has("prices") or document.has("pricing", "file")):
        for index, route in routes.items():
            if route.usage is not None and not route.counts_units:
                document.problem(
                    ("routes", index, "usage"),
                    "no model has a price, so every request would be refused",
                    "write [prices.\"<model>\"], pricing.file = 'prices.json', or pricing.unknown_model = 'warn', "
                    "which lets calls go free",
                )
    models = list(_model_currencies(prices))
    amounts = list(_route_currencies(routes))
    budgets = list(_budget_currencies(policies))
    if rates is not None:
        _check_known(document, [*models, *amounts, *budgets], rates)
        _check_routes(document, routes, models, amounts)
    elif not document.has("rates"):  # or what is there cannot be read, and that was said
        _check_one(document, [*models, *amounts], budgets)


def _model_currencies(prices: PriceBook) -> Iterator[tuple[str, Path]]:
    for model, price in prices.models.items():
        yield price.currency, ("prices", model)
    if prices.default is not None:
        yield prices.default.currency, ("pricing", "default")
    sellers = {*prices.providers, None}
    rows = [row for row in prices.listed.rows if not prices.providers or row.provider in sellers]
    for currency in sorted({row.price.currency for row in rows}):
        yield currency, ("pricing", "file")


def _route_currencies(routes: Mapping[int, Route]) -> Iterator[tuple[str, Path]]:
    for index, route in routes.items():
        for key, amount in (("price", route.price), ("unit_price", route.unit_price)):
            if amount is not None:
                yield amount.currency, ("routes", index, key)


def _budget_currencies(policies: Mapping[str, ResolvedPolicy]) -> Iterator[tuple[str, Path]]:
    for name, resolved in policies.items():
        section = resolved.policy.section(BudgetSection)
        if section is not None and section.rules and resolved.origins[BudgetSection] == name:
            yield section.rules[0].limit.currency, ("policies", name, "budget")


def _check_one(document: Document, priced: list[tuple[str, Path]], budgets: list[tuple[str, Path]]) -> None:
    """Without exchange rates there is one currency."""
    if not priced:
        return
    currency = priced[0][0]
    for other, path in priced:
        if other != currency:
            document.problem(path, f"is in {other}, and another price in {currency}", _ONE_CURRENCY)
    for other, path in budgets:
        if other != currency:
            document.problem(path, f"is in {other}, and the prices are in {currency}", _ONE_CURRENCY)


def _check_known(document: Document, placed: list[tuple[str, Path]], rates: RateTable) -> None:
    """Where there are several currencies, the table must know each."""
    if len({currency for currency, _ in placed}) < 2:
        return
    for currency, path in placed:
        if currency != rates.base and currency not in rates.rates:
            remedy = f"write \"{currency}\" = '<number> {rates.base}' there"
            document.problem(path, f"is in {currency}, for which [rates] has no rate", remedy)


def _check_routes(
    document: Document, routes: Mapping[int, Route], models: list[tuple[str, Path]], amounts: list[tuple[str, Path]]
) -> None:
    """What one request costs is a sum in one currency, before it is converted."""
    for own, path in amounts:
        route = routes[int(path[1])]
        others = {currency for currency, _ in models} - {own}
        if others and route.usage is not None and not route.counts_units:
            other = min(others)
            document.problem(path, f"is in {own}, and models are priced in {other}: a request is priced in one")
