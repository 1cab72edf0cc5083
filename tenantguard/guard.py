"""The guard: layers composed once, the ports that answer them, and the bounds that both drivers keep."""

from __future__ import annotations

import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.layer import layer_name, stack
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.route import RouteTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.flow.layer import Layer
    from tenantguard.flow.ports import Ports
    from tenantguard.model.route import Route

log = logging.getLogger("tenantguard")


class Guard:
    """Layers, outermost first, around any application.

    ``routes`` tells requests apart; ``ports`` default to memory. Leaving clients are drained at most ``drain_s``
    seconds each and ``drains_max`` at a time; a response whose success is ``returned`` waits at most
    ``return_wait_s`` seconds for the application to return. A stack that cannot work raises
    :class:`~tenantguard.errors.ConfigurationError` here.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        routes: RouteTable | Iterable[Route] = (),
        ports: Ports | None = None,
        drain_s: float = 30.0,
        drains_max: int = 100,
        return_wait_s: float = 10.0,
    ) -> None:
        self.layers = tuple(layers)
        for layer in self.layers:
            if isinstance(layer, type):
                name = layer.__name__
                raise ConfigurationError(f"{name} is a class: give a layer made of it, {name}(...)")
        self.handler = stack(self.layers)
        self.routes = routes if isinstance(routes, RouteTable) else RouteTable.of(routes)
        self.ports = ports if ports is not None else default_ports()
        self.drain_s = drain_s
        self.return_wait_s = return_wait_s
        self._drains_left = drains_max
        self._drains_lock = threading.Lock()

    def asgi(self, app: Any) -> Any:
        """Put this guard around an ASGI application."""
        # Drivers stand above the guard, so it knows them by name only.
        return importlib.import_module("tenantguard.asgi").ASGIGuard(app, guard=self)

    def wsgi(self, app: Any) -> Any:
        """Put this guard around a WSGI application; layers that ask ``async def`` code are refused."""
        return importlib.import_module("tenantguard.wsgi").WSGIGuard(app, guard=self)

    def refuse_asynchronous(self) -> None:
        """Raise where a layer can only run on an event loop."""
        for layer in self.layers:
            if getattr(layer, "asynchronous", False):
                raise ConfigurationError(
                    f"{layer_name(layer)} asks async code and cannot run under WSGI: make it a plain function",
                )

    def start_drain(self) -> bool:
        """Take a place among the drained; False when all are taken."""
        with self._drains_lock:
            if self._drains_left <= 0:
                return False
            self._drains_left -= 1
            return True

    def end_drain(self) -> None:
        """Leave that place."""
        with self._drains_lock:
            self._drains_left += 1

    def close(self) -> None:
        """Close every port; each opens again with its next use."""
        self.ports.close()


def default_ports() -> Ports:
    """Memory for limits, slots and ledger, this machine's clock, nobody known, decisions to structlog."""
    from tenantguard.adapters.audits.structlog import StructlogSink  # noqa: PLC0415 - a guard with ports has no use of it
    from tenantguard.adapters.identity.keys import ApiKeys  # noqa: PLC0415
    from tenantguard.adapters.ledger.memory import MemoryLedger  # noqa: PLC0415
    from tenantguard.adapters.limits.memory import MemoryLimits  # noqa: PLC0415
    from tenantguard.adapters.policies.static import StaticPolicies  # noqa: PLC0415
    from tenantguard.adapters.slots.memory import MemorySlots  # noqa: PLC0415
    from tenantguard.adapters.system import real_system  # noqa: PLC0415
    from tenantguard.flow.ports import Ports  # noqa: PLC0415

    system = real_system()
    return Ports(
        system=system,
        limits=MemoryLimits(system.clock),
        ledger=MemoryLedger(system),
        policies=StaticPolicies({}),
        identities=ApiKeys({}),
        audits=(StructlogSink(),),
        slot_store=MemorySlots(system.clock),
    )


def store_refusal(failure: PortError) -> Deny:
    """A port that failed is refused closed; its problem stays inside."""
    return Deny(
        "guard",
        Reason.STORE_UNAVAILABLE,
        503,
        "A service that decides about this request is not available. Try again.",
        retry_after_ms=1000,
        details={"port": failure.port, "problem": failure.problem},
    )


def settle_refusal() -> Deny:
    """Money could not be ended, and its layer was strict: the response is withheld."""
    return Deny(
        "guard",
        Reason.SETTLE_FAILED,
        503,
        "The charge for this request could not be recorded, so its response is withheld. Try again.",
        retry_after_ms=1000,
    )


def cut_refusal(reason: str) -> Deny:
    """A response was cut before its first byte left."""
    return Deny("guard", reason, 502, "The response could not be delivered safely and was withheld.")


def describe_failure(failure: BaseException) -> str:
    """What of an exception may be logged: never its text, which may quote a tenant's values."""
    return f"{type(failure).__name__}({failure.port})" if isinstance(failure, PortError) else type(failure).__name__


def resolve_guard(guard: Guard | None, layers: Iterable[Layer] | None) -> Guard:
    """The guard of ``Middleware(ASGIGuard, guard=...)`` or ``Middleware(ASGIGuard, layers=[...])``."""
    if guard is not None and layers is None:
        return guard
    if layers is not None and guard is None:
        return Guard(layers)
    raise ConfigurationError("give either guard=... or layers=[...]")
