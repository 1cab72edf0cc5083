"""Ports: who answers store commands, and the commands, which are data.

Every command is idempotent by its id: repeating one gives the first answer, and ending an id that the store does not
know does nothing but bar a later taking under that id. Commands carry no time: the store is the clock.
"""

# ruff: noqa: PLC0414, TC001 - the words of ledgers and slots are offered here beside their commands
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from tenantguard.errors import ConfigurationError
from tenantguard.flow.effects import Effect, Promise
from tenantguard.model.frozen import frozen
from tenantguard.model.ledger import Balance as Balance
from tenantguard.model.ledger import Barred as Barred
from tenantguard.model.ledger import Booked as Booked
from tenantguard.model.ledger import Claim as Claim
from tenantguard.model.ledger import Conflict as Conflict
from tenantguard.model.ledger import Denial as Denial
from tenantguard.model.ledger import Drawn as Drawn
from tenantguard.model.ledger import Entry as Entry
from tenantguard.model.ledger import Exhausted as Exhausted
from tenantguard.model.ledger import Held as Held
from tenantguard.model.ledger import HoldState as HoldState
from tenantguard.model.ledger import Leg as Leg
from tenantguard.model.ledger import Notice as Notice
from tenantguard.model.ledger import OnOrphan as OnOrphan
from tenantguard.model.ledger import OpenHold as OpenHold
from tenantguard.model.ledger import Repeated as Repeated
from tenantguard.model.ledger import Resolved as Resolved
from tenantguard.model.ledger import Unbookable as Unbookable
from tenantguard.model.sections import OnError, Strategy
from tenantguard.model.slots import Crowded as Crowded
from tenantguard.model.slots import Entered as Entered
from tenantguard.model.slots import NotEntered as NotEntered
from tenantguard.model.slots import SlotClaim as SlotClaim
from tenantguard.model.slots import Standing as Standing

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


@frozen
class Take:
    """``cost`` units from ``bucket`` (see :func:`~tenantguard.rules.bucket.bucket_key`), which refills at ``rate``.

    A ``shadow`` take refuses nothing: where it does not fit, nothing is taken from its bucket, and the answer says
    so. Its bucket is its own: no other take of a command draws on it, or a wait that is told may be too short.
    One of another ``strategy`` than the token bucket is for :class:`TakeWithWindows`.
    """

    bucket: str
    rate: Rate
    cost: int = 1
    shadow: bool = False
    strategy: Strategy = Strategy.TOKEN_BUCKET


Level: TypeAlias = tuple[int, int]
"""A bucket after a decision: whole units left, and nanoseconds until it is full again. A plain pair, of which every
decision makes one a bucket."""


@frozen
class Taken:
    """All takes were granted; ``levels`` in the order of the takes, each as its bucket is right after it.

    ``shadowed``: indexes of the shadow takes that would have refused. ``degraded``: a shared store could not be asked
    in time, and this was decided as ``on_error`` says.
    """

    levels: tuple[Level, ...]
    shadowed: tuple[int, ...] = ()
    degraded: bool = False


@frozen
class Shortage:
    """Nothing was taken. ``failing``: indexes of the takes that do not fit now; the longest wait among them.

    ``retry_after_ns`` is None where a cost exceeds its burst: waiting will never help. Else the same takes are
    granted after it, if nobody else takes meanwhile. ``shadowed`` and ``degraded`` are as in :class:`Taken`.
    """

    failing: tuple[int, ...]
    retry_after_ns: int | None
    levels: tuple[Level, ...]
    shadowed: tuple[int, ...] = ()
    degraded: bool = False


@frozen
class TakeTokens(PortEffect["Taken | Shortage"]):
    """Take from several buckets, all or none.

    With ``id`` None it is final at once: nothing can be returned or settled, and asking again takes again.
    ``on_error`` is for stores that machines share; where it is ``CLOSED`` they raise
    :class:`~tenantguard.errors.PortError`.
    """

    id: bytes | None
    takes: tuple[Take, ...]
    on_error: OnError = OnError.LOCAL

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


class TokenGrant:
    """What a store has ``taken`` in place, and can still be given back: the end of it needs no id."""

    __slots__ = ("taken",)

    taken: Taken

    def end(self, costs: tuple[int | None, ...] | None) -> None:
        """End it, at once; only the first end counts. ``costs`` are as in :class:`EndTokenGrant`."""
        raise NotImplementedError


@frozen
class TakeInPlace(PortEffect["Taken | TokenGrant | Shortage | None"]):
    """Take from several buckets, all or none: :class:`Taken` where that is ``final``, else a :class:`TokenGrant`.

    None where the store cannot answer without a wait: who waits may be cancelled, and then needs an id to give back
    what was taken.
    """

    takes: tuple[Take, ...]
    final: bool = True

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.take_in_place(self.takes, final=self.final)


@frozen
class EndTokenGrant(PortEffect[None]):
    """End what was taken in place: ``costs`` as in :class:`SettleTokens`, or None where all of it is given back."""

    grant: TokenGrant
    costs: tuple[int | None, ...] | None = ()

    def perform(self, ports: Ports) -> Any:
        """Ask the store that gave it."""
        del ports
        self.grant.end(self.costs)


@frozen
class TakeWithWindows(TakeTokens):
    """Take from buckets and count in windows, all or none. What was counted in a window is never given back.

    A window's level has, in place of the time until it is full, that until it has more.
    """

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store, which must be one that keeps windows."""
        if not isinstance(ports.limits, WindowStore):
            raise ConfigurationError(
                "a rate with a strategy needs a limit store that keeps windows: WindowLimits(MemoryLimits(clock))"
            )
        return ports.limits.execute_with_windows(self)


@frozen
class ReturnTokens(PortEffect[None]):
    """Give back everything taken under ``id``; an id never taken is barred."""

    id: bytes

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


@frozen
class SettleTokens(PortEffect[None]):
    """What was taken under ``id`` stays taken, as far as it was used; the store may forget the id.

    ``costs`` are the units that were used, one for each take in its order, None where it is as many as were taken;
    empty where that is so of all. What was not used is given back; what was used beyond is taken now and may leave
    the bucket in debt, by one burst at most. Only the first end of an id counts; an id never taken is barred.
    """

    id: bytes
    costs: tuple[int | None, ...] = ()

    def perform(self, ports: Ports) -> Any:
        """Ask the limit store."""
        return ports.limits.execute(self)


class LimitStore(Protocol):
    """Holds token buckets and answers commands atomically."""

    def execute(self, command: TakeTokens | ReturnTokens | SettleTokens, /) -> Any:
        """The command's answer, an awaitable of it or a :class:`Promise`."""
        ...

    def take_in_place(
        self, takes: tuple[Take, ...], /, *, final: bool = True
    ) -> Taken | TokenGrant | Shortage | None:
        """The answer to :class:`TakeInPlace`; None, and nothing taken, where that would be a wait."""
        ...

    def close(self) -> None:
        """Release connections and threads; usable again afterwards."""
        ...


@runtime_checkable
class WindowStore(Protocol):
    """A limit store that keeps windows beside its buckets."""

    def execute_with_windows(self, command: TakeWithWindows, /) -> Taken | Shortage:
        """The command's answer, at once."""
        ...


# slots


@frozen
class EnterSlot(PortEffect["Entered | Crowded"]):
    """Take a slot of every claim, all or none, or wait for them; the answer comes once that is decided.

    Who waits is answered by a promise whose deadline is the longest wait (a shared store may first promise whether
    anybody has to wait): a driver that raises
    :class:`~tenantguard.errors.PortTimeout` says that nothing came free, where a store that fails raises
    :class:`~tenantguard.errors.PortError` itself. Nobody polls: a slot is handed over.

    ``owner`` is who waits, the tenant: one owner's requests are served in the order in which they come, and owners
    take turns. Repeating an id that waits or is inside goes on with what it has. ``deadline_ns``, from now, is how
    long the request itself lets anybody wait, beside what the claims say. No two claims are for one key.
    """

    id: bytes
    owner: str
    claims: tuple[SlotClaim, ...]
    deadline_ns: int | None = None
    on_error: OnError = OnError.LOCAL

    def perform(self, ports: Ports) -> Any:
        """Ask the slot store."""
        return ports.slots.execute(self)


@frozen
class LeaveSlot(PortEffect[None]):
    """Give the slots of ``id`` to whoever is next, or its place in the queue up; an id never seen is barred."""

    id: bytes

    def perform(self, ports: Ports) -> Any:
        """Ask the slot store."""
        return ports.slots.execute(self)


class SlotStore(Protocol):
    """Holds slots and queues, and answers commands atomically, as :mod:`tenantguard.rules.slots` says.

    A store that machines share gives slots for a lease, and keeps its process's own alive by itself.
    """

    def execute(self, command: EnterSlot | LeaveSlot, /) -> Any:
        """The command's answer, an awaitable of it or a :class:`Promise`."""
        ...

    def standing(self, prefix: str = "") -> list[Standing]:
        """Who is inside and who waits, of keys that begin with ``prefix``: by key, those inside first. Blocks."""
        ...

    def close(self) -> None:
        """Release connections and threads, and whoever waits; usable again afterwards."""
        ...


# ledger


@frozen
class PlaceHold(PortEffect["Held | Exhausted | Barred | Repeated | Conflict"]):
    """Hold an amount on every leg, all or none, under a new time-ordered ``id``.

    Where it is refused nothing is kept, not even the id: asking again decides again, and there is nothing to end.
    ``claim`` is the caller's idempotency key: a second hold under it is refused while the first is open or charged.
    With a ``share`` the hold is a lease: it gets at most so many percent of what each leg has left, and where that is
    less than ``least`` it is refused without a denial on record.
    """

    id: bytes
    tenant: TenantId
    legs: tuple[Leg, ...]
    on_orphan: OnOrphan = OnOrphan.VOID
    claim: Claim | None = None
    share: int | None = None

    def perform(self, ports: Ports) -> Promise[Held | Exhausted | Barred | Repeated | Conflict]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@frozen
class ResolveHold(PortEffect["Resolved"]):
    """End a hold: settle ``amounts`` (one a leg, each at most what is held), or void it where ``amounts`` is None.

    The first resolution counts; a later one answers with the first. ``evidence`` is JSON-ready and goes onto the
    entries: usage, price version, ending. ``source`` and ``external_id`` (a provider's response id) charge once for
    ever: a second charge for the same pair is voided. ``review`` leaves the hold to an operator. ``answer`` is a
    claim's key and the response to keep under it, sealed. ``drawn`` is for a hold that was never placed: what it
    holds moves to it from a lease, and then it ends as any other.
    """

    id: bytes
    amounts: tuple[int, ...] | None
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    external_id: str | None = None
    review: bool = False
    answer: tuple[str, bytes] | None = None
    drawn: Drawn | None = None

    def perform(self, ports: Ports) -> Promise[Resolved]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@frozen
class FindClaim(PortEffect["Repeated | Conflict | None"]):
    """What a placing under ``claim`` would be refused with, None where the key is free; nothing is changed."""

    tenant: TenantId
    claim: Claim

    def perform(self, ports: Ports) -> Promise[Repeated | Conflict | None]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@frozen
class Refund(PortEffect["Booked | Unbookable"]):
    """Give back ``amounts`` (one a leg; None: all) of what ``hold`` was charged, in the window of that charge."""

    id: bytes
    hold: bytes
    amounts: tuple[int, ...] | None
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def perform(self, ports: Ports) -> Promise[Booked | Unbookable]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@frozen
class Grant(PortEffect["Booked | Unbookable"]):
    """Raise the limit of ``leg``'s account by ``leg.most`` in the window that runs, until ``expires_ns`` at most.

    A payment's own id as ``id`` tops up once, however often it is reported.
    """

    id: bytes
    tenant: TenantId
    leg: Leg
    expires_ns: int | None
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def perform(self, ports: Ports) -> Promise[Booked | Unbookable]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


@frozen
class Correct(PortEffect["Booked | Unbookable"]):
    """Add ``amount``, which may be negative, to what is spent on ``leg``'s account in the window that runs."""

    id: bytes
    tenant: TenantId
    leg: Leg
    amount: int
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def perform(self, ports: Ports) -> Promise[Booked | Unbookable]:
        """Ask the ledger."""
        return ports.ledger.submit(self)


LedgerCommand: TypeAlias = PlaceHold | ResolveHold | FindClaim | Refund | Grant | Correct


class LedgerBooks(Protocol):
    """What is in a ledger, for operators. Every method blocks, and reads what is durable."""

    def balances(self, tenant: TenantId | None = None, *, at_ns: int | None = None) -> list[Balance]:
        """Every account (of one tenant) in every window that was touched, oldest first; grants as they count now.

        With ``at_ns`` those that counted then, with the grants of then. An account that several tenants share
        belongs to none of them: only ``tenant=None`` lists it.
        """
        ...

    def entries(
        self,
        tenant: TenantId | None = None,
        limit: int = 100,
        *,
        after_seq: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> list[Entry]:
        """The latest ``limit`` entries (of one tenant), newest first.

        With ``after_seq`` the first ``limit`` behind that one (0: of all), oldest first: the ``seq`` of the last is
        where to go on. ``since_ns`` and ``until_ns`` (exclusive) bound when they were booked.
        """
        ...

    def holds(self, tenant: TenantId | None = None) -> list[OpenHold]:
        """What is held now (by one tenant), by id, which is oldest first."""
        ...

    def denials(self, tenant: TenantId | None = None, limit: int = 100) -> list[Denial]:
        """The latest ``limit`` placings (of one tenant) that found no room, newest first. Not all are kept."""
        ...

    def audit(self) -> list[str]:
        """Every broken invariant, as a sentence; an empty list is clean. Reads everything."""
        ...


class Outbox(Protocol):
    """What a ledger has to tell outside, each at least once, and in one transaction with what it tells of. Blocks.

    Who takes a notice has a lease of it: unless it is said to be delivered or put off, it comes again after that.
    """

    def outbox(self, limit: int = 100) -> list[Notice]:
        """Take at most ``limit`` notices that are due, oldest first; nobody else is given them meanwhile."""
        ...

    def delivered(self, seq: int) -> None:
        """This notice was told; it never comes again."""
        ...

    def retry(self, seq: int, due_ns: int) -> None:
        """This notice could not be told; it comes again at ``due_ns``, never where that is ``NEVER_NS``."""
        ...

    def notices(self, limit: int = 100) -> list[Notice]:
        """The latest ``limit`` notices that are not delivered, newest first, for operators; nothing is taken."""
        ...


class Delivery(Protocol):
    """Tells outside what is in an outbox, by a thread of its own."""

    def start(self) -> None:
        """Begin, where that has not happened in this process; cheap."""
        ...

    def close(self) -> None:
        """End; what was not told stays in the outbox."""
        ...


class Ledger(LedgerBooks, Outbox, Protocol):
    """Holds and charges money and units. ``submit`` never blocks; the promise is kept once the change is durable.

    A promise broken with :class:`~tenantguard.errors.PortError` says that the change is not durable yet: unless the
    queue was full the command stays queued and is tried again, as it does when its waiter gave up.
    """

    def submit(self, command: LedgerCommand, /) -> Promise[Any]:
        """Queue a command; a full queue breaks the promise with :class:`~tenantguard.errors.PortError`."""
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


@frozen
class Identify(PortEffect["Identity | None"]):
    """Who presents this credential, None for a credential that nobody knows. It is never shown."""

    credential: str

    def perform(self, ports: Ports) -> Identity | Awaitable[Identity | None] | None:
        """Ask the identity source."""
        return ports.identities.identify(self.credential)

    def __repr__(self) -> str:
        return "Identify()"


@frozen
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
    """Finds personal data in the texts of one body. Synchronous: it is called while a response streams.

    ``reach`` is the most characters that a match goes on after a plain word and white space (``hold.py`` says what is
    plain): a stream holds back so many. ``passed`` counts how often a bound on the work made it report more than it
    could look at.
    """

    reach: int

    @property
    def passed(self) -> int:
        """How often more was reported than could be looked at."""
        ...

    def clears(self, text: str) -> bool:
        """Whether certainly nothing is found in any part of ``text``; cheap, and may be wrongly False."""
        ...

    def detect(self, text: str, after: int = 0) -> list[Match]:
        """Matches in ``text``, by start, not overlapping; those that end at or before ``after`` may be missing."""
        ...


class Sealer(Protocol):
    """Encrypts what is kept of responses. Synchronous: it is called between a response's last chunk and its end."""

    def seal(self, data: bytes, bound_to: bytes) -> bytes:
        """``data`` so that nobody else can read it, to be opened for ``bound_to`` alone."""
        ...

    def open(self, sealed: bytes, bound_to: bytes) -> bytes | None:
        """What was sealed; None where it was sealed by another key or for something else, or was changed."""
        ...


class AuditSink(Protocol):
    """Takes records; never blocks and never fails an exchange."""

    def record(self, record: AuditRecord) -> None:
        """Take one record."""
        ...

    def close(self) -> None:
        """Write what is queued and release threads; usable again afterwards."""
        ...


@frozen
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
    alerts: Delivery | None = None
    slot_store: SlotStore | None = None

    @property
    def slots(self) -> SlotStore:
        """The slot store; :class:`ConfigurationError` where there is none."""
        if self.slot_store is None:
            raise ConfigurationError(
                "a layer asks for slots and there is no store of them: give Ports(slot_store=...)"
            )
        return self.slot_store

    def close(self) -> None:
        """Close every port; each opens again with its next use."""
        if self.alerts is not None:  # it asks the ledger
            self.alerts.close()
        self.limits.close()
        if self.slot_store is not None:
            self.slot_store.close()
        self.ledger.close()
        for sink in self.audits:
            sink.close()
