"""From a document to settings: every table for itself first, then what one says of another.

Rules of this file: a table that is wrong is noted and left out, and all others are still read, so that one run tells
everything; what is left out is still known by its name, so that nothing is reported twice.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from tenantguard.errors import ConfigurationError
from tenantguard.layers.tenant import TenantContext
from tenantguard.model.route import Route, RouteTable
from tenantguard.model.sections import RateSection, Strategy
from tenantguard.model.tenant import DEFAULT_TENANT, Identity
from tenantguard.rules.placeholders import KEY_BYTES_MIN
from tenantguard.settings.document import Document
from tenantguard.settings.layers import read_layers, wanted_layers
from tenantguard.settings.policies import ResolvedPolicy, read_policies
from tenantguard.settings.prices import check_money, read_prices, read_rates
from tenantguard.settings.problems import Problem, SettingsError, did_you_mean
from tenantguard.settings.shapes import (
    UNIT_SOURCES,
    AlertsShape,
    GuardShape,
    IdempotencyShape,
    KeyShape,
    LedgerShape,
    LimitsShape,
    PricingShape,
    ProxyShape,
    RedactionShape,
    RouteShape,
    Shape,
    TenancyShape,
    check,
    kind_of,
)
from tenantguard.settings.targets import import_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.model.policy import Policy
    from tenantguard.model.price import PriceBook
    from tenantguard.rules.rates import RateTable
    from tenantguard.settings.layers import LayerChoice
    from tenantguard.settings.lines import Path

S = TypeVar("S", bound=Shape)

TABLES: Final = (
    "alerts",
    "guard",
    "idempotency",
    "ledger",
    "limits",
    "policies",
    "prices",
    "pricing",
    "proxy",
    "rates",
    "redaction",
    "routes",
    "tenancy",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a guard is built from, checked. Relative paths count from ``folder``.

    ``readers`` are the functions that routes name as ``usage``, by that text.
    """

    source: str
    folder: FilePath
    guard: GuardShape
    ledger: LedgerShape
    limits: LimitsShape
    layers: tuple[LayerChoice, ...]
    tenancy: TenancyShape
    proxy: ProxyShape
    keys: Mapping[str, Identity] = field(repr=False)
    routes: RouteTable
    readers: Mapping[str, Callable[..., Any]]
    prices: PriceBook
    price_file: str | None
    rates: RateTable | None
    policies: Mapping[str, ResolvedPolicy]
    redaction_key: bytes | None = field(repr=False)
    idempotency_key: bytes | None = field(repr=False)
    alerts: AlertsShape
    alerts_secret: bytes | None = field(repr=False)

    @property
    def fallback(self) -> Policy | None:
        """The policy of tenants that have none of their own; None: they are refused."""
        name = self.tenancy.fallback
        return self.policies[name].policy if name is not None else None


def read_settings(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None, sections: Iterable[type] = ()
) -> Settings:
    """Read and check a settings file, with what ``environ`` (this process's by default) overrides in it.

    ``sections`` are the policy sections of a user's own layers: frozen dataclasses, whose key in a policy is their
    name (``QuietHoursSection`` is ``quiet_hours``). Raises :class:`SettingsError` with every problem there is.
    """
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as failed:
        raise SettingsError(str(path), [Problem(None, "", f"cannot be read: {failed.strerror}")]) from None
    except UnicodeDecodeError as failed:
        line = file.read_bytes().count(b"\n", 0, failed.start) + 1
        raise SettingsError(str(path), [Problem(line, "", "this is not UTF-8")]) from None
    return parse_settings(text, source=str(path), folder=file.parent, environ=environ, sections=sections)


def parse_settings(
    text: str,
    *,
    source: str = "settings",
    folder: FilePath | None = None,
    environ: Mapping[str, str] | None = None,
    sections: Iterable[type] = (),
) -> Settings:
    """As :func:`read_settings`, for a document in memory; relative paths in it count from ``folder``."""
    folder = folder if folder is not None else FilePath()
    document = Document(text, source, os.environ if environ is None else environ, folder)
    for name in document.data:
        if name not in TABLES:
            document.problem((name,), "unknown key", did_you_mean(name, TABLES) or f"known are {', '.join(TABLES)}")
    guard = _table(document, "guard", GuardShape)
    ledger = _table(document, "ledger", LedgerShape)
    limits = _table(document, "limits", LimitsShape)
    tenancy = _table(document, "tenancy", TenancyShape)
    proxy = _table(document, "proxy", ProxyShape)
    policies = read_policies(document, sections)
    _check_windows(document, guard, policies)
    keys = _read_keys(document, tenancy)
    routes = _read_routes(document)
    readers = _read_readers(document, routes)
    pricing = _table(document, "pricing", PricingShape)
    prices = read_prices(document, pricing, folder)
    rates = read_rates(document)
    redaction = _table(document, "redaction", RedactionShape)
    redaction_key = _read_secret(document, folder, "redaction", "key", redaction.key, redaction.key_file)
    idempotency = _table(document, "idempotency", IdempotencyShape)
    idempotency_key = _read_secret(document, folder, "idempotency", "key", idempotency.key, idempotency.key_file)
    alerts = _table(document, "alerts", AlertsShape)
    alerts_secret = _read_secret(document, folder, "alerts", "secret", alerts.secret, alerts.secret_file)
    _check_alerts(document, alerts, alerts_secret)
    layers = read_layers(document, guard, wanted_layers(policies, routes))
    names = {layer.name for layer in layers}
    if "tenant" in names:
        _check_tenancy(document, tenancy, policies)
    if "charge" in names and not document.has("guard", "ledger"):
        remedy = "write ledger = 'sqlite:///tenantguard.db', or 'memory://', which forgets everything at exit"
        document.problem(("guard", "ledger"), "is missing, and there is money to keep", remedy)
    check_money(document, routes, prices, policies, rates)
    document.raise_problems()
    return Settings(
        source=document.source,
        folder=folder,
        guard=guard,
        ledger=ledger,
        limits=limits,
        layers=layers,
        tenancy=tenancy,
        proxy=proxy,
        keys=MappingProxyType(keys),
        routes=RouteTable.of(routes.values()),
        readers=MappingProxyType(readers),
        prices=prices,
        price_file=pricing.file,
        rates=rates,
        policies=MappingProxyType(policies),
        redaction_key=redaction_key,
        idempotency_key=idempotency_key,
        alerts=alerts,
        alerts_secret=alerts_secret,
    )


# tables


def _table(document: Document, name: str, shape: type[S]) -> S:
    """What is right in a table that requires nothing; all that is wrong in it is noted."""
    return check(document, shape, document.data.get(name, {}), (name,), partly=True) or shape()


def _list(document: Document, value: object, path: Path) -> list[Any]:
    if isinstance(value, list):
        return value
    document.problem(path, f"must be a list of tables, is {kind_of(value)}", f"write [[{'.'.join(map(str, path))}]]")
    return []


def _read_keys(document: Document, tenancy: TenancyShape) -> dict[str, Identity]:
    keys: dict[str, Identity] = {}
    ids: set[str] = set()
    for index, value in enumerate(tenancy.keys):
        path = ("tenancy", "keys", index)
        shape = check(document, KeyShape, value, path)
        if shape is None:
            continue
        if shape.hash in keys:
            document.problem((*path, "hash"), f"is the key of {keys[shape.hash].id!r} too", "give each its own")
        if shape.id in ids:
            document.problem((*path, "id"), f"two keys have the id {shape.id!r}", "give each its own")
        ids.add(shape.id)
        keys[shape.hash] = Identity(shape.id, shape.tenant, shape.role)
    return keys


def _read_routes(document: Document) -> dict[int, Route]:
    routes: dict[int, Route] = {}
    seen: set[tuple[str, str]] = set()
    for index, value in enumerate(_list(document, document.data.get("routes", []), ("routes",))):
        path = ("routes", index)
        shape = check(document, RouteShape, value, path)
        if shape is None:
            continue
        fields = {name: getattr(shape, name) for name in shape.model_fields_set}
        fields["takes"] = tuple(shape.takes.items())
        route = document.attempt(partial(Route, **fields), path)
        if route is None:
            continue
        if (route.method, route.path) in seen:
            document.problem((*path, "match"), f"{route.match!r} is matched by an earlier route already")
        seen.add((route.method, route.path))
        routes[index] = route
    return routes


def _read_readers(document: Document, routes: Mapping[int, Route]) -> dict[str, Callable[..., Any]]:
    """The functions that routes name as ``usage``."""
    readers: dict[str, Callable[..., Any]] = {}
    for index, route in routes.items():
        if route.usage is not None and route.counts_units and not route.usage.startswith(UNIT_SOURCES):
            reader = document.attempt(partial(_reader, route.usage), ("routes", index, "usage"))
            if reader is not None:
                readers[route.usage] = reader
    return readers


def _reader(target: str) -> Callable[..., Any]:
    reader = import_target(target)
    if not callable(reader) or inspect.iscoroutinefunction(reader):
        raise ConfigurationError(f"{target!r} is no function that reads a document: write 'def', not 'async def'")
    return cast("Callable[..., Any]", reader)


def _read_secret(
    document: Document, folder: FilePath, table: str, key: str, given: str | None, file: str | None
) -> bytes | None:
    """The secret that a table has at ``key``, or in the file that it names at ``<key>_file``."""
    if file is None:
        return given.encode() if given is not None else None
    path = (table, f"{key}_file")
    if given is not None:
        document.problem(path, f"is given besides {table}.{key}", "give one of them")
    try:
        secret = (folder / file).read_bytes().strip()
    except OSError as failed:
        document.problem(path, f"cannot be read: {failed.strerror}")
        return None
    if len(secret) < KEY_BYTES_MIN:
        document.problem(path, f"holds fewer than {KEY_BYTES_MIN} bytes")
    return secret


def _check_windows(document: Document, guard: GuardShape, policies: Mapping[str, ResolvedPolicy]) -> None:
    """What counts in windows counts in one process."""
    if guard.limits == "memory://":
        return
    for name, resolved in policies.items():
        section = resolved.policy.section(RateSection)
        if section is None or resolved.origins[RateSection] != name:
            continue
        if any(rule.strategy is not Strategy.TOKEN_BUCKET for rule in section.rules):
            remedy = "leave out 'strategy', or write guard.limits = 'memory://'"
            document.problem(("policies", name, "rate"), "has windows, which are counted in one process", remedy)


def _check_alerts(document: Document, alerts: AlertsShape, secret: bytes | None) -> None:
    if alerts.webhook is None:
        if document.has("alerts", "webhook"):
            return  # it cannot be read, and that was said
        for key in ("secret", "secret_file", "timeout_s", "allow_http"):
            if document.has("alerts", key):
                document.problem(("alerts", key), "is never looked at: there is no webhook")
                return
        return
    if secret is None and not (document.has("alerts", "secret") or document.has("alerts", "secret_file")):
        remedy = "write alerts.secret or alerts.secret_file; receivers check the signature with it"
        document.problem(("alerts", "webhook"), "needs a secret to sign with", remedy)
    host = urlsplit(alerts.webhook).hostname or ""
    if alerts.webhook.startswith("http:") and not alerts.allow_http and host not in {"localhost", "127.0.0.1", "::1"}:
        document.problem(("alerts", "webhook"), "is not encrypted", "write https, or allow_http = true")


# what one table says of another


def _check_tenancy(document: Document, tenancy: TenancyShape, policies: Mapping[str, ResolvedPolicy]) -> None:
    if tenancy.fallback is not None and tenancy.fallback not in policies:
        document.problem(
            ("tenancy", "fallback"),
            f"there is no policy {tenancy.fallback!r}",
            did_you_mean(tenancy.fallback, policies),
        )
    if tenancy.mode == "single" or not tenancy.required:
        _check_served(document, str(DEFAULT_TENANT), tenancy, policies, ("tenancy",))
    if tenancy.mode == "single":
        for key in ("from", "keys"):
            if document.has("tenancy", key):
                document.problem(("tenancy", key), "is never looked at: mode = 'single' serves one tenant")
        return
    for index, value in enumerate(tenancy.keys):
        tenant = value.get("tenant") if isinstance(value, dict) else None
        if isinstance(tenant, str) and tenant:
            _check_served(document, tenant, tenancy, policies, ("tenancy", "keys", index, "tenant"))
    told = (("mode", "mode"), ("from", "sources"), ("keys", "keys"))
    if any(document.has("tenancy", key) and name not in tenancy.model_fields_set for key, name in told):
        return  # what is there cannot be read, and that was said
    for index, source in enumerate(tenancy.sources):
        make = partial(TenantContext, [source], trust_headers=tenancy.trust_headers)
        document.attempt(make, ("tenancy", "from", index))
    if "api-key" not in tenancy.sources:
        if tenancy.keys:
            document.problem(("tenancy", "keys"), "are never looked at: tenancy.from lacks 'api-key'")
    elif not tenancy.keys:
        remedy = "'tenantguard hash-key --new' makes one; mode = 'single' needs none"
        document.problem(("tenancy", "keys"), "are missing, so no API key would be valid", remedy)


def _check_served(
    document: Document, tenant: str, tenancy: TenancyShape, policies: Mapping[str, ResolvedPolicy], path: Path
) -> None:
    if tenant not in policies and tenancy.fallback is None:
        document.problem(
            path,
            f"the tenant {tenant!r} has no policy, and there is no tenancy.fallback",
            did_you_mean(tenant, policies) or f"write [policies.{tenant}]",
        )
