"""What tests need, of users too: a manual clock, sequential ids, the script of a flow, everything in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tenantguard.adapters.identity.keys import ApiKeys
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.limits.memory import MemoryLimits
from tenantguard.adapters.policies.static import StaticPolicies
from tenantguard.adapters.slots.memory import MemorySlots
from tenantguard.flow.exchange import Exchange
from tenantguard.flow.http import Body, Headers, Request
from tenantguard.flow.ports import Ports, System

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.flow.effects import Effect, Flow
    from tenantguard.flow.ports import IdentitySource, PolicySource
    from tenantguard.model.audit import AuditRecord
    from tenantguard.model.route import Route

T = TypeVar("T")

EPOCH_NS = 1_798_761_600_000_000_000
"""2027-01-01T00:00:00Z, where manual clocks start."""


class ManualClock:
    """Time that stands still until ``advance`` is called."""

    def __init__(self, wall_ns: int = EPOCH_NS) -> None:
        self._elapsed_ns = 0
        self._wall_ns = wall_ns

    def monotonic_ns(self) -> int:
        """Nanoseconds advanced so far, from one second on."""
        return 1_000_000_000 + self._elapsed_ns

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self._wall_ns + self._elapsed_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed_ns += round(seconds * 1e9)


class SequentialIds:
    """Ids that count up from 1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def new(self) -> bytes:
        """The next id."""
        with self._lock:
            self._last += 1
            return self._last.to_bytes(16, "big")


class RecordingSink:
    """An audit sink that keeps its records in ``records``."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def record(self, record: AuditRecord) -> None:
        """Keep one record."""
        self.records.append(record)

    def close(self) -> None:
        """Nothing to release."""


def manual_system() -> System:
    """A manual clock and sequential ids."""
    return System(ManualClock(), SequentialIds())


def memory_ports(
    system: System | None = None,
    *,
    policies: PolicySource | None = None,
    identities: IdentitySource | None = None,
) -> Ports:
    """Every port in memory on one (manual) system; audit records are kept by a :class:`RecordingSink`."""
    system = system if system is not None else manual_system()
    return Ports(
        system=system,
        limits=MemoryLimits(system.clock),
        ledger=MemoryLedger(system),
        policies=policies if policies is not None else StaticPolicies({}),
        identities=identities if identities is not None else ApiKeys({}),
        audits=(RecordingSink(),),
        slot_store=MemorySlots(system.clock),
    )


def make_exchange(
    method: str = "GET",
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    route: Route | None = None,
    facts: tuple[object, ...] = (),
    system: System | None = None,
) -> Exchange:
    """An exchange for the unit test of one layer, with the facts that layers further out would have left."""
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    request = Request(method, path, headers=Headers(lines))
    if body is not None:
        request.body_read = Body(body)
    system = system if system is not None else manual_system()
    exchange = Exchange(request, system, route=route) if route is not None else Exchange(request, system)
    for fact in facts:
        exchange.put(fact)
    return exchange


class Script(Generic[T]):
    """A flow run by hand: look at its ``effect``, ``answer`` it, and read its ``result`` once it has one.

    No server, store, clock or mock: the flow is the script.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._result: list[T] = []
        self.effect: Effect[Any] | None = None
        self._step(lambda: flow.send(None))

    def answer(self, value: object) -> Effect[Any] | None:
        """Answer the pending effect; return the next one, or None when the flow has ended."""
        return self._step(lambda: self._flow.send(value))

    def fail(self, failure: BaseException) -> Effect[Any] | None:
        """Let the pending effect fail."""
        return self._step(lambda: self._flow.throw(failure))

    def close(self) -> None:
        """End the flow where it stands, as a cancellation does."""
        self._flow.close()

    @property
    def done(self) -> bool:
        """The flow has returned."""
        return bool(self._result)

    @property
    def result(self) -> T:
        """What the flow returned."""
        assert self._result, f"the flow still waits for the answer to {self.effect!r}"
        return self._result[0]

    def _step(self, resume: Callable[[], Effect[Any]]) -> Effect[Any] | None:
        try:
            self.effect = resume()
        except StopIteration as stop:
            self.effect = None
            self._result.append(stop.value)
        return self.effect
