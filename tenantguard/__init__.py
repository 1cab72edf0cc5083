"""TenantGuard: each tenant's policy around any ASGI or WSGI application.

The public names, resolved on first use (PEP 562), so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenantguard.adapters.alerts.signature import verify_signature as verify_signature
    from tenantguard.asgi import ASGIGuard as ASGIGuard
    from tenantguard.errors import (
        ConfigurationError as ConfigurationError,
    )
    from tenantguard.errors import (
        LayerError as LayerError,
    )
    from tenantguard.errors import (
        PortError as PortError,
    )
    from tenantguard.errors import (
        TenantGuardError as TenantGuardError,
    )
    from tenantguard.flow.effects import Flow as Flow
    from tenantguard.flow.effects import ask as ask
    from tenantguard.flow.effects import compute as compute
    from tenantguard.flow.exchange import Exchange as Exchange
    from tenantguard.flow.exchange import current as current
    from tenantguard.flow.http import Outcome as Outcome
    from tenantguard.flow.http import Response as Response
    from tenantguard.flow.layer import Handler as Handler
    from tenantguard.flow.layer import Layer as Layer
    from tenantguard.flow.layer import check as check
    from tenantguard.flow.layer import observe as observe
    from tenantguard.guard import Guard as Guard
    from tenantguard.layers.audit import Audit as Audit
    from tenantguard.layers.charge import Charge as Charge
    from tenantguard.layers.concurrency import ConcurrencyLimit as ConcurrencyLimit
    from tenantguard.layers.rate_limit import RateLimit as RateLimit
    from tenantguard.layers.redaction import Redaction as Redaction
    from tenantguard.layers.tenant import TenantContext as TenantContext
    from tenantguard.model.decision import Allow as Allow
    from tenantguard.model.decision import Deny as Deny
    from tenantguard.model.decision import Reason as Reason
    from tenantguard.model.money import Amount as Amount
    from tenantguard.model.policy import Policy as Policy
    from tenantguard.model.route import Route as Route
    from tenantguard.model.tenant import Identity as Identity
    from tenantguard.model.tenant import Role as Role
    from tenantguard.model.tenant import Tenant as Tenant
    from tenantguard.model.tenant import TenantId as TenantId
    from tenantguard.model.usage import Usage as Usage
    from tenantguard.settings import load as load
    from tenantguard.wsgi import WSGIGuard as WSGIGuard

_HOMES = {
    "ASGIGuard": "asgi",
    "Allow": "model.decision",
    "Amount": "model.money",
    "Audit": "layers.audit",
    "Charge": "layers.charge",
    "ConcurrencyLimit": "layers.concurrency",
    "ConfigurationError": "errors",
    "Deny": "model.decision",
    "Exchange": "flow.exchange",
    "Flow": "flow.effects",
    "Guard": "guard",
    "Handler": "flow.layer",
    "Identity": "model.tenant",
    "Layer": "flow.layer",
    "LayerError": "errors",
    "Outcome": "flow.http",
    "Policy": "model.policy",
    "PortError": "errors",
    "RateLimit": "layers.rate_limit",
    "Reason": "model.decision",
    "Redaction": "layers.redaction",
    "Response": "flow.http",
    "Role": "model.tenant",
    "Route": "model.route",
    "Tenant": "model.tenant",
    "TenantContext": "layers.tenant",
    "TenantGuardError": "errors",
    "TenantId": "model.tenant",
    "Usage": "model.usage",
    "WSGIGuard": "wsgi",
    "ask": "flow.effects",
    "check": "flow.layer",
    "compute": "flow.effects",
    "current": "flow.exchange",
    "load": "settings",
    "observe": "flow.layer",
    "verify_signature": "adapters.alerts.signature",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names, as __all__ wants them
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
