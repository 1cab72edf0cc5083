"""Ports: who answers store commands, and the commands, which are data.

Every command is idempotent by its id: repeating one gives the first answer, and ending an id that the store does not
know does nothing but bar a later taking under that id. Commands carry no time: the store is the clock.
"""

# ruff: noqa: PLC0414 - the ledger's words are offered here beside its commands
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tenantguard.flow.effects import Effect, Promise
from tenantguard.model.ledger import Balance as Balance
from tenantguard.model.ledger import Barred as Barred
from tenantguard.model.ledger import Entry as Entry
from tenantguard.model.ledger import Exhausted as Exhausted
from tenantguard.model.ledger import Held as Held
from tenantguard.model.ledger import HoldState as HoldState
from tenantguard.model.ledger import Leg as Leg
from tenantguard.model.ledger import OnOrphan as OnOrphan
from tenantguard.model.ledger import Resolved as Resolved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from tenantguard.model.audit import AuditRecord
    from tenantguard.model.pii import Match
    from tenantguard.model.policy import Policy
    from tenantguard.model.rate import Rate
    from tenantguard.model.tenant import Identity, TenantId
    from tenantguard.rules.pricing import Quote


T_co = TypeVar("T_co", covariant=True)


class PortEffect(Effect[T_co]):
    """An effect that a port answers. Users add effects by subclassing this; no driver changes."""

    __slots__ = ()

    def perform(self, ports: Ports) -> T_co | Awaitable[T_co] | Promise[T_co]:
        """Ask the port. An awaitable is answered by asynchronous drivers only."""
        raise NotImplementedError


class Clock(Protocol):
    """Time, injected. Monotonic nanoseconds for durations, nanoseconds since 1970 for records."""

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        ...


class Ids(Protocol):
    """Time-ordered ids."""

    def new(self) -> bytes:
        """A new id of 16 bytes, later than all before it in this process."""
        ...


@dataclass(frozen=True, slots=True)
class System:
    """Clock and ids of one guard."""

    clock: Clock
    ids: Ids


# limits


@dataclass(frozen=True, slots=True)
class Take:
    """``cost`` units from ``bucket`` (a tuple key: scope kind, then its parts), which refills at ``rate``."""

    bucket: tuple[str, ...]
    rate: Rate
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after a decision: whole units left, and nanoseconds until it is full again."""

    remaining: int
    full_in_ns: int


@dataclass(frozen=True, slots=True)
class Taken:
    """All takes were granted; ``levels`` in the order of the takes."""

    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Nothing was taken. ``failing``: indexes of the takes that do not fit now; the longest wait among them.

    ``retry_after_ns`` is None where a cost exceeds its burst: waiting will never help.
    """

    failing: tuple[int, ...]
    retry_after_ns: int | None
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class TakeTokens(PortEffect["Taken | Shortage"]):
    """Take from several buckets, all or none."""

    id: bytes
    takes: tuple[Take, ...]

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


@dataclass(frozen=True, slots=True)
class ReturnTokens(PortEffect[None]):
    """Give back everything taken under ``id``; an id never taken is barred."""

    id: bytes

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


@dataclass(frozen=True, slots=True)
class KeepTokens(PortEffect[None]):
    """What was taken under ``id`` stays taken; the store may forget the id."""

    id: bytes

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


class LimitStore(Protocol):
    """Holds token buckets and answers commands atomically."""

    def execute(self, command: TakeTokens | ReturnTokens | KeepTokens, /) -> Any:
        """The command's answer, an awaitable of it or a :class:`Promise`."""
        ...

    def close(self) -> None:
        """Release connections and threads; usable again afterwards."""
        ...


# ledger


@dataclass(frozen=True, slots=True)
class PlaceHold(PortEffect["Held | Exhausted | Barred"]):
    """Hold an amount on every leg, all or none, under a new time-ordered ``id``.

    Where it is refused nothing is kept, not even the id: asking again decides again, and there is nothing to end.
    """

    id: bytes
    tenant: TenantId
    legs: tuple[Leg, ...]
    on_orphan: OnOrphan = OnOrphan.VOID

    def perform(self, ports: Ports) -> Promise[Held | Exhausted | Barred]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@dataclass(frozen=True, slots=True)
class ResolveHold(PortEffect["Resolved"]):
    """End a hold: settle ``amounts`` (one a leg, each at most what is held), or void it where ``amounts`` is None.

    The first resolution counts; a later one answers with the first. ``evidence`` is JSON-ready and goes onto the
    entries: usage, price version, ending. ``source`` and ``external_id`` (a provider's response id) charge once for
    ever: a second charge for the same pair is voided.
    """

    id: bytes
    amounts: tuple[int, ...] | None
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    external_id: str | None = None

    def perform(self, ports: Ports) -> Promise[Resolved]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


class Ledger(Protocol):
    """Holds and charges money and units. ``submit`` never blocks; the promise is kept once the change is durable.

    A promise broken with :class:`~tenantguard.errors.PortError` says that the change is not durable yet: unless the
    queue was full the command stays queued and is tried again, as it does when its waiter gave up.
    """

    def submit(self, command: PlaceHold | ResolveHold, /) -> Promise[Any]:
        """Queue a command; a full queue breaks the promise with :class:`~tenantguard.errors.PortError`."""
        ...

    def balances(self, tenant: TenantId | None = None) -> list[Balance]:
        """Every account (of one tenant) in every window that was touched, oldest first. Blocks.

        An account that several tenants share belongs to none of them: only ``tenant=None`` lists it.
        """
        ...

    def entries(self, tenant: TenantId | None = None, limit: int = 100) -> list[Entry]:
        """The latest ``limit`` entries (of one tenant), newest first. Blocks."""
        ...

    def close(self) -> None:
        """Finish what is queued and release threads and files; usable again afterwards."""
        ...


# identities, policies, detection, audit


class IdentitySource(Protocol):
    """Knows credentials. Comparison takes constant time."""

    def identify(self, credential: str) -> Identity | Awaitable[Identity | None] | None:
        """Who this credential belongs to, or None."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Identify(PortEffect["Identity | None"]):
    """Who presents this credential, None for a credential that nobody knows. It is never shown."""

    credential: str

    def perform(self, ports: Ports) -> Identity | Awaitable[Identity | None] | None:
        """Ask the identity source."""
        return ports.identities.identify(self.credential)

    def __repr__(self) -> str:
        return "Identify()"


@dataclass(frozen=True, slots=True)
class FindPolicy(PortEffect["Policy | None"]):
    """The policy of a tenant, None for a tenant that nobody knows."""

    tenant: TenantId

    def perform(self, ports: Ports) -> Policy | Awaitable[Policy | None] | None:
        """Ask the policy source."""
        return ports.policies.find(self.tenant)


class PolicySource(Protocol):
    """Knows policies."""

    def find(self, tenant: TenantId) -> Policy | Awaitable[Policy | None] | None:
        """The policy of ``tenant`` as it is now, or the fallback if one was configured, or None."""
        ...


class PriceSource(Protocol):
    """Knows what models cost."""

    def quote(self, model: str) -> Quote | None:
        """The price at which a call to ``model`` is held and charged; None refuses it."""
        ...


class Detector(Protocol):
    """Finds personal data in one text. Synchronous: it is called while a response streams."""

    def detect(self, text: str) -> list[Match]:
        """Matches in ``text``, by start, not overlapping."""
        ...


class AuditSink(Protocol):
    """Takes records; never blocks and never fails an exchange."""

    def record(self, record: AuditRecord) -> None:
        """Take one record."""
        ...

    def close(self) -> None:
        """Write what is queued and release threads; usable again afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Record(PortEffect[None]):
    """Write one audit record."""

    record: AuditRecord

    def perform(self, ports: Ports) -> None:
        """Hand it to every sink."""
        for sink in ports.audits:
            sink.record(self.record)


@dataclass(slots=True)
class Ports:
    """Everything outside, as one guard sees it."""

    system: System
    limits: LimitStore
    ledger: Ledger
    policies: PolicySource
    identities: IdentitySource
    audits: Iterable[AuditSink] = ()

    def close(self) -> None:
        """Close every port; each opens again with its next use."""
        self.limits.close()
        self.ledger.close()
        for sink in self.audits:
            sink.close()
