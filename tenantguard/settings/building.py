"""From settings to a guard: every port opened or ready to open, every layer made."""

from __future__ import annotations

import inspect
import secrets
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, cast

from tenantguard.adapters.alerts.delivery import Alerts
from tenantguard.adapters.alerts.log import LogSender
from tenantguard.adapters.alerts.webhook import WebhookSender
from tenantguard.adapters.audits.structlog import StructlogSink
from tenantguard.adapters.identity.keys import ApiKeys
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.pricing.table import PriceTable
from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.adapters.system import real_system
from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Ports
from tenantguard.guard import Guard
from tenantguard.layers.routes import KnownRoutes
from tenantguard.model.concurrency import ConcurrencySection
from tenantguard.model.price import UnknownModel
from tenantguard.model.redact_section import OnError as RedactOnError
from tenantguard.model.redact_section import RedactSection
from tenantguard.model.route import Idempotency
from tenantguard.model.sections import (
    BudgetSection,
    Mode,
    OnError,
    QuotaSection,
    RateSection,
    Strategy,
)
from tenantguard.rules.placeholders import KEY_BYTES_MIN
from tenantguard.settings.layers import LayerChoice
from tenantguard.settings.ledgers import open_ledger
from tenantguard.settings.limits import open_limits, open_slots
from tenantguard.settings.reading import Settings, read_settings
from tenantguard.settings.redact import directions_of, functions_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from tenantguard.adapters.alerts.delivery import Sender
    from tenantguard.flow.layer import Layer
    from tenantguard.flow.ports import Ledger, LimitStore, SlotStore, System
    from tenantguard.layers.redaction import Redaction
    from tenantguard.model.sections import BudgetRule, QuotaRule
    from tenantguard.rules.redaction.text.operators import Cipher
    from tenantguard.settings.policies import ResolvedPolicy


def load(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None, sections: Iterable[type] = ()
) -> Guard:
    """Build the guard that a settings file describes; see :func:`~tenantguard.settings.reading.read_settings`.

    Raises :class:`~tenantguard.settings.problems.SettingsError` with every problem in the file, and
    :class:`~tenantguard.errors.ConfigurationError` where what it names cannot be opened or built.
    """
    return build(read_settings(path, environ=environ, sections=sections))


def build(settings: Settings, *, proxy: bool = False) -> Guard:
    """Build a guard. What weakens its safety was asked for in the settings, and is logged here once more.

    With ``proxy`` it refuses what no route names, unless ``proxy.unknown_routes`` is ``"forward"``.
    """
    system = real_system()
    layers = [_layer(choice, settings) for choice in (_behind_proxy(settings) if proxy else settings.layers)]
    policies = {name: resolved.policy for name, resolved in settings.policies.items()}
    limits, slots = _limits(settings, system), _slots(settings, system)
    uri, place = settings.guard.ledger or "memory://", f"{settings.source}: guard.ledger"
    ledger = open_ledger(uri, settings.folder, system, settings.ledger, place)  # last: it is open from now on
    ports = Ports(
        system=system,
        limits=limits,
        ledger=ledger,
        policies=StaticPolicies(policies, fallback=settings.fallback),
        identities=ApiKeys(settings.keys),
        audits=(StructlogSink(),),
        alerts=_alerts(settings, ledger, system),
        slot_store=slots,
    )
    guard = Guard(
        layers,
        routes=settings.routes,
        ports=ports,
        drain_s=settings.guard.drain_s,
        drains_max=settings.guard.drains_max,
        return_wait_s=settings.guard.return_wait_s,
    )
    _warn(settings)
    return guard


def _limits(settings: Settings, system: System) -> LimitStore:
    """Token buckets where the settings say, and windows beside them where a policy counts in some."""
    uri, place = settings.guard.limits, f"{settings.source}: guard.limits"
    if uri != "memory://":
        return open_limits(uri, system, settings.limits, place)
    buckets = MemoryLimits(system.clock)
    policies = [resolved.policy for resolved in settings.policies.values()]
    rates = [section for policy in policies if (section := policy.section(RateSection)) is not None]
    if all(rule.strategy is Strategy.TOKEN_BUCKET for section in rates for rule in section.rules):
        return buckets
    from tenantguard.adapters.limits.windows import WindowLimits  # noqa: PLC0415 - it takes limits along

    return WindowLimits(buckets, system.clock)


def _slots(settings: Settings, system: System) -> SlotStore:
    """Where the settings say, which is where limits are."""
    uri, key = settings.guard.slots, "slots"
    if uri is None:
        uri, key = settings.guard.limits, "limits"
    if uri == "memory://":
        return MemorySlots(system.clock)
    return open_slots(uri, system, settings.limits, f"{settings.source}: guard.{key}")


def loopholes(settings: Settings) -> list[str]:
    """What these settings allow that weakens the guard, each by its key and what follows."""
    found = []
    if settings.tenancy.trust_headers:
        found.append("tenancy.trust_headers: whoever reaches this guard can name any tenant")
    if not settings.tenancy.required:
        found.append("tenancy.required = false: requests without a credential are served as tenant 'default'")
    if settings.prices.unknown is UnknownModel.WARN:
        found.append("pricing.unknown_model = 'warn': calls to models without a price go free")
    if settings.proxy.unknown_routes == "forward":
        found.append("proxy.unknown_routes = 'forward': requests that no route names are passed on without a price")
    found += [
        f"policies.{name}: {what} is soft: what goes beyond it is recorded, and not refused"
        for name, resolved in settings.policies.items()
        for what in _soft(resolved)
    ]
    found += [
        f"policies.{name}.redact: on_error = 'open' passes on what could not be redacted, as it is"
        for name, resolved in settings.policies.items()
        if _fails_open(resolved)
    ]
    found += [
        f"policies.{name}: {what}" for name, resolved in settings.policies.items() for what in _lenient(resolved)
    ]
    found += [f"routes: {route.match!r} is public" for route in settings.routes.routes if route.public]
    found += [
        f"routes: {wider.match!r} is free and covers {route.match!r}: another spelling of that path may go free"
        for route, wider in settings.routes.ways_around()
    ]
    if settings.alerts.allow_http:
        found.append("alerts.allow_http: whoever is on the way can read the alerts")
    if settings.guard.ledger == "memory://":
        found.append("guard.ledger = 'memory://': what was spent is forgotten at exit")
    return found


def _fails_open(resolved: ResolvedPolicy) -> bool:
    """Whether this policy itself says that what cannot be redacted passes."""
    section = resolved.policy.section(RedactSection)
    if section is None or resolved.origins[RedactSection] != resolved.policy.name:
        return False
    return any(direction.on_error is RedactOnError.OPEN for direction in directions_of(section))


def _soft(resolved: ResolvedPolicy) -> list[str]:
    """The budgets and quotas that this policy writes itself and that refuse nothing."""
    budgets, quotas = resolved.policy.section(BudgetSection), resolved.policy.section(QuotaSection)
    own = {kind for kind, origin in resolved.origins.items() if origin == resolved.policy.name}
    soft = []
    if budgets is not None and BudgetSection in own:
        soft += [f"the budget by {rule.per}" for rule in budgets.rules if rule.mode is Mode.SOFT]
    if quotas is not None and QuotaSection in own:
        soft += [f"the quota of {rule.unit!r} by {rule.per}" for rule in quotas.rules if rule.mode is Mode.SOFT]
    return soft


def _lenient(resolved: ResolvedPolicy) -> list[str]:
    """What the limits that this policy writes itself let through."""
    told: list[str] = []
    rates, slots = resolved.policy.section(RateSection), resolved.policy.section(ConcurrencySection)
    own = {kind for kind, origin in resolved.origins.items() if origin == resolved.policy.name}
    if rates is not None and RateSection in own:
        shadows = [rule for rule in rates.rules if rule.shadow]
        told += [f"the rate of {rule.unit}, {rule.rate}, is a shadow: it refuses nothing" for rule in shadows]
        if rates.on_error is OnError.OPEN:
            told.append("rate.on_error = 'open': nothing is limited while the store of limits cannot be asked")
    if slots is not None and ConcurrencySection in own and slots.on_error is OnError.OPEN:
        told.append("concurrency.on_error = 'open': nothing is limited while the store of slots cannot be asked")
    return told


def _behind_proxy(settings: Settings) -> list[LayerChoice]:
    """The layers, and after the tenant layer the one that refuses what no route names."""
    choices = list(settings.layers)
    names = [choice.name for choice in choices]
    if settings.proxy.unknown_routes == "forward" or "routes" in names:
        return choices
    if not settings.routes.routes:
        raise ConfigurationError(
            f"{settings.source}: there are no [[routes]], so the proxy would refuse every request; "
            "write one for each path that it serves, or proxy.unknown_routes = 'forward'",
        )
    # after whoever finds the tenant, so that strangers learn nothing about paths
    place = max((at for at, name in enumerate(names, 1) if name in {"audit", "tenant"}), default=0)
    choices.insert(place, LayerChoice("routes", KnownRoutes))
    return choices


def _warn(settings: Settings) -> None:
    found = loopholes(settings)
    if found:
        import structlog  # noqa: PLC0415 - only who has something to say pays for it

        structlog.get_logger("tenantguard").warning("settings.loopholes", source=settings.source, loopholes=found)


def _alerts(settings: Settings, ledger: Ledger, system: System) -> Alerts | None:
    """Who tells of alerts, where some policy has any."""
    rules: list[BudgetRule | QuotaRule] = []
    for resolved in settings.policies.values():
        budgets, quotas = resolved.policy.section(BudgetSection), resolved.policy.section(QuotaSection)
        rules += [*(budgets.rules if budgets is not None else ()), *(quotas.rules if quotas is not None else ())]
    if not any(rule.thresholds for rule in rules):
        return None
    shape = settings.alerts
    senders: list[Sender] = [LogSender()]
    if shape.webhook is not None and settings.alerts_secret is not None:
        senders.append(
            WebhookSender(
                shape.webhook,
                settings.alerts_secret,
                system.clock,
                timeout_s=shape.timeout_s,
                allow_http=shape.allow_http,
            )
        )
    return Alerts(ledger, senders, system)


def _layer(choice: LayerChoice, settings: Settings) -> Layer:
    """A built-in layer, or a user's: the layer itself, or what its class or function makes without arguments."""
    make = _MAKERS.get(choice.name)
    if make is not None:
        return make(choice.target, settings)
    if inspect.isclass(choice.target) or not hasattr(choice.target, "handle"):
        try:
            return cast("Layer", choice.target())
        except Exception as failed:
            raise ConfigurationError(
                f"{settings.source}: guard.layers: {choice.name!r} is no layer, and made none when called without "
                f"arguments: {type(failed).__name__}: {failed}",
            ) from failed
    return cast("Layer", choice.target)


def _tenant(layer: Any, settings: Settings) -> Layer:
    tenancy = settings.tenancy
    made: Layer = layer(
        tenancy.sources, required=tenancy.required, trust_headers=tenancy.trust_headers, mode=tenancy.mode
    )
    return made


def _charge(layer: Any, settings: Settings) -> Layer:
    made: Layer = layer(
        PriceTable(settings.prices),
        rates=settings.rates,
        readers=settings.readers,
        body_limit=settings.guard.body_limit,
    )
    return made


def _redaction(layer: Any, settings: Settings) -> Layer:
    from tenantguard.adapters.encodings import available_decoders  # noqa: PLC0415 - only who redacts decodes
    from tenantguard.adapters.pii.detectors import detector_for  # noqa: PLC0415 - takes seconds

    sections = [section for one in settings.policies.values() if (section := one.policy.section(RedactSection))]
    built = cache(detector_for)  # bounded by the policies; one that was dropped would be loaded again in a request
    key = settings.redaction_key or secrets.token_bytes(KEY_BYTES_MIN)
    made: Redaction = layer(
        lambda find: built(find).bounded(),
        key,
        request_limit=settings.guard.body_limit,
        functions={name: function for section in sections for name, function in functions_of(section).items()},
        cipher_for=partial(_cipher, key),
        decoders=available_decoders(),
    )
    for section in sections:
        made.prepare(section)  # now, and not in the first request
    return made


def _cipher(key: bytes, tenant: str) -> Cipher:
    from tenantguard.adapters.encryption import ValueCipher  # noqa: PLC0415 - only who encrypts pays for it

    return ValueCipher(key, tenant)


def _idempotency(layer: Any, settings: Settings) -> Layer:
    sealer = None
    if any(route.idempotency is Idempotency.REPLAY for route in settings.routes.routes):
        from tenantguard.adapters.sealing import AESGCMSealer  # noqa: PLC0415 - only who keeps responses encrypts

        sealer = AESGCMSealer(settings.idempotency_key or secrets.token_bytes(KEY_BYTES_MIN))
    made: Layer = layer(sealer, body_limit=settings.guard.body_limit)
    return made


_MAKERS: Final[dict[str, Callable[[Any, Settings], Layer]]] = {
    "audit": lambda layer, _settings: layer(),
    "tenant": _tenant,
    "idempotency": _idempotency,
    "rate": lambda layer, settings: layer(body_limit=settings.guard.body_limit),
    "concurrency": lambda layer, settings: layer(
        deadline_header=settings.guard.deadline_header, body_limit=settings.guard.body_limit
    ),
    "redaction": _redaction,
    "charge": _charge,
    "routes": lambda layer, _settings: layer(),
}
