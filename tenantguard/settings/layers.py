"""``guard.layers``: which layers there are, the built-in and the user's own, and in which order."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from tenantguard.errors import ConfigurationError
from tenantguard.flow.layer import Layer, stack
from tenantguard.model.concurrency import ConcurrencySection
from tenantguard.model.pricing_section import PricingSection
from tenantguard.model.redact_section import RedactSection
from tenantguard.model.route import Idempotency
from tenantguard.model.sections import BudgetSection, QuotaSection, RateSection
from tenantguard.settings.problems import did_you_mean
from tenantguard.settings.targets import import_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.route import Route
    from tenantguard.settings.document import Document
    from tenantguard.settings.lines import Path
    from tenantguard.settings.policies import ResolvedPolicy
    from tenantguard.settings.shapes import GuardShape

BUILT_IN: Final = {
    "audit": "tenantguard.layers.audit:Audit",
    "tenant": "tenantguard.layers.tenant:TenantContext",
    "routes": "tenantguard.layers.routes:KnownRoutes",
    "idempotency": "tenantguard.layers.idempotency:Idempotency",
    "rate": "tenantguard.layers.rate_limit:RateLimit",
    "concurrency": "tenantguard.layers.concurrency:ConcurrencyLimit",
    "redaction": "tenantguard.layers.redaction:Redaction",
    "charge": "tenantguard.layers.charge:Charge",
}
"""The built-in layers by the names that settings give them, in the default order."""

_APPLIED_BY: Final[dict[type, str]] = {
    RateSection: "rate",
    ConcurrencySection: "concurrency",
    RedactSection: "redaction",
    BudgetSection: "charge",
    QuotaSection: "charge",
    PricingSection: "charge",
}
_KEYS: Final[dict[type, str]] = {
    RateSection: "rate",
    ConcurrencySection: "concurrency",
    RedactSection: "redact",
    BudgetSection: "budget",
    QuotaSection: "quota",
    PricingSection: "pricing",
}


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One layer of the stack: its name in the settings, and the class, function or layer that the name stands for."""

    name: str
    target: Any


def wanted_layers(policies: Mapping[str, ResolvedPolicy], routes: Mapping[int, Route]) -> dict[str, Path]:
    """The layers that something in the settings needs, and what that is."""
    wanted: dict[str, Path] = {}
    for name, resolved in policies.items():
        for section, layer in _APPLIED_BY.items():
            if resolved.origins.get(section) == name:
                wanted.setdefault(layer, ("policies", name, _KEYS[section]))
    for index, route in routes.items():
        if route.is_priced:
            wanted.setdefault("charge", ("routes", index))
        if route.idempotency is Idempotency.REPLAY:
            wanted.setdefault("idempotency", ("routes", index, "idempotency"))
    return wanted


def read_layers(document: Document, guard: GuardShape, wanted: Mapping[str, Path]) -> tuple[LayerChoice, ...]:
    """The stack that ``guard.layers`` names, or the default one: audit, tenant and what is wanted.

    What is charged is safe to be asked for twice by default, so the idempotency layer comes with the charge layer.
    """
    if guard.layers is None:
        always = {"audit", "tenant", *(["idempotency"] if "charge" in wanted else [])}
        names = [name for name in BUILT_IN if name in always or name in wanted]
        return tuple(LayerChoice(name, import_target(BUILT_IN[name])) for name in names)
    path = ("guard", "layers")
    choices: list[LayerChoice] = []
    for index, name in enumerate(guard.layers):
        at = (*path, index)
        if name in BUILT_IN:
            if any(choice.name == name for choice in choices):
                document.problem(at, f"the layer {name!r} is there already")
            choices.append(LayerChoice(name, import_target(BUILT_IN[name])))
        elif ":" in name:
            target = document.attempt(partial(_own_layer, name), at)
            if target is not None:
                choices.append(LayerChoice(name, target))
        else:
            known = f"known are {', '.join(BUILT_IN)}; a layer of your own is 'module:attr'"
            document.problem(at, f"there is no layer {name!r}", did_you_mean(name, BUILT_IN) or known)
    for layer, reason in wanted.items():
        if layer not in guard.layers:
            document.problem(reason, f"never applies: guard.layers lacks {layer!r}")
    _check_idempotency(document, guard.layers)
    # A class tells what it requires and provides as well as its instances do.
    ordered = [cast("Layer", choice.target) for choice in choices if hasattr(choice.target, "handle")]
    document.attempt(partial(stack, ordered), path)
    return tuple(choices)


def _own_layer(name: str) -> Any:
    """A user's layer, or what makes one without arguments."""
    target = import_target(name)
    if inspect.isclass(target) or not hasattr(target, "handle"):
        try:
            inspect.signature(target).bind()
        except TypeError as wrong:
            raise ConfigurationError(
                f"{name!r} is no layer, and cannot make one without arguments: {wrong}"
            ) from None
        except ValueError:
            pass  # it does not say what it takes
    return target


def _check_idempotency(document: Document, names: list[str]) -> None:
    """A request that is repeated must take nothing, so it is recognised before anything is taken."""
    if "idempotency" not in names:
        return
    place = names.index("idempotency")
    for taker in ("rate", "concurrency", "redaction", "charge"):
        if taker in names[:place]:
            document.problem(
                ("guard", "layers", place), f"must stand before {taker!r}", "put it right after 'tenant'"
            )
            return
    if "charge" not in names:
        document.problem(
            ("guard", "layers", place), "never applies: guard.layers lacks 'charge', which keeps the keys"
        )
