"""The words of the ledger: legs and their terms, holds and how they end, balances, entries, alerts.

Amounts are whole numbers from 0 to 2**63 - 1: billionths of a currency's unit, or whole units of anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError
from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.period import Period

UNITS_MAX: Final = 2**63 - 1
"""What an account can hold and spend at most: 64 bits, as every database stores them."""


NEVER_NS: Final = UNITS_MAX
"""When a notice that was given up is due."""

PERCENT_MAX: Final = 1000


class CarryOver(StrEnum):
    """What a window leaves to the next one."""

    NONE = "none"
    UNUSED = "unused"
    DEBT = "debt"


class Counted(StrEnum):
    """What an alert looks at: what was spent, or that and what is held."""

    SPENT = "spent"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Threshold:
    """Alert once in each window, when ``of`` reaches ``percent`` of the limit with what was carried over and granted.

    Above 100 only where the limit is soft.
    """

    percent: int
    of: Counted = Counted.SPENT

    def __post_init__(self) -> None:
        if type(self.percent) is not int or not 1 <= self.percent <= PERCENT_MAX:
            raise ConfigurationError(f"a threshold is a whole percentage from 1 to {PERCENT_MAX}, without '%'")

    @property
    def name(self) -> str:
        """``"spent:80"``: how an account remembers that it was reached."""
        return f"{self.of}:{self.percent}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a budget or quota says beside its limit; one object for all requests under it.

    Where it is not ``strict`` nothing is refused, and what was used is charged whole. ``cap`` bounds what is carried
    over as ``UNUSED``.
    """

    strict: bool = True
    carry: CarryOver = CarryOver.NONE
    cap: int = 0
    thresholds: tuple[Threshold, ...] = ()


PLAIN: Final = Terms()


@frozen
class Leg:
    """One account that a hold touches: ``most`` is asked for, ``least`` accepted.

    ``budget`` names the account line (``("tenant", "acme", "month")``), ``unit`` is a currency code or a unit's name,
    amounts are billionths of a currency's unit or whole units. ``limit`` None records without a limit.
    """

    budget: tuple[str, ...]
    period: Period
    unit: str
    limit: int | None
    most: int
    least: int
    terms: Terms = PLAIN


@frozen
class Claim:
    """A caller's idempotency ``key``, with a ``fingerprint`` of what it asks: another under this key is refused."""

    key: str
    fingerprint: bytes


@frozen
class Drawn:
    """Of a hold that was never placed in the ledger: its amounts, ``portions``, are held under ``lease``.

    A lease is a hold like any other; ``portions`` are one a leg of it.
    """

    lease: bytes
    portions: tuple[int, ...]


@frozen
class Held:
    """Placed: the amount held on each leg, in the order of the legs."""

    amounts: tuple[int, ...]


@frozen
class Exhausted:
    """Refused; nothing was held. ``leg`` is the index of the first that failed, ``window_ends_ns`` None for ever.

    ``available`` is what the leg had left (never below 0), ``spent`` and ``held`` are its account's.
    """

    leg: int
    needed: int
    available: int
    spent: int
    held: int
    window_ends_ns: int | None


@frozen
class Barred:
    """Refused; the id was ended before anything was placed under it, so nothing ever will be."""


@frozen
class Conflict:
    """Refused; the idempotency key belongs to a request that asked for something else."""


class HoldState(StrEnum):
    """The states of a hold. Each is entered at most once; the table is in ``rules/ledger/states.py``.

    ``settled`` and ``voided`` are final. ``expired`` holds nothing any more and still takes a late resolution;
    ``review`` goes on holding until it is resolved.
    """

    PENDING = "pending"
    SETTLED = "settled"
    VOIDED = "voided"
    EXPIRED = "expired"
    REVIEW = "review"

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to the hold any more."""
        return self in {HoldState.SETTLED, HoldState.VOIDED}


@frozen
class Repeated:
    """Refused; the idempotency key belongs to ``hold``, which is open or was charged ``amounts`` of ``units``.

    ``answer`` is the response that was kept, if any.
    """

    hold: bytes
    state: HoldState
    amounts: tuple[int, ...]
    answer: bytes | None = None
    units: tuple[str, ...] = ()


class OnOrphan(StrEnum):
    """What becomes of a hold whose process was lost."""

    VOID = "void"
    CHARGE_HOLD = "charge_hold"
    REVIEW = "review"


@frozen
class Resolved:
    """How a hold ended: the state it is in, and what was charged on each leg (0 where it was voided)."""

    state: HoldState
    amounts: tuple[int, ...]


@frozen
class Booked:
    """A refund, grant or correction is in the books: its amounts, for a refund one a leg of the hold."""

    amounts: tuple[int, ...]


@frozen
class Unbookable:
    """It is not, and nothing was changed; ``problem`` says why, to the operator who asked for it."""

    problem: str


class EntryKind(StrEnum):
    """What an entry books. Charges, refunds and corrections change what is spent, a grant the limit."""

    CHARGE = "charge"
    REFUND = "refund"
    CORRECTION = "correction"
    GRANT = "grant"


@frozen
class Balance:
    """An account in one window: amounts as in :class:`Leg`, ``limit`` as the last placing gave it.

    ``granted`` and ``carried`` (which may be owed: negative) are on top of the limit.
    """

    budget: tuple[str, ...]
    period: str
    unit: str
    tenant: str | None
    limit: int | None
    spent: int
    held: int
    granted: int
    carried: int
    window_starts_ns: int | None
    window_ends_ns: int | None


@frozen
class Entry:
    """One line of the ledger, never changed: what command ``op`` booked on an account.

    A charge's ``op`` is its hold, and ``leg`` the number of its leg; a refund names the hold in ``of``. ``amount`` is
    signed. ``absorbed`` was used but could not be charged: it lay above what was held or, for a late settling, above
    what the limit still allowed. ``reason`` and ``evidence`` are those of the command. ``seq`` orders entries.
    """

    seq: int
    op: bytes
    leg: int
    kind: EntryKind
    tenant: str
    budget: tuple[str, ...]
    period: str
    unit: str
    window_starts_ns: int | None
    amount: int
    absorbed: int
    at_ns: int
    reason: str
    evidence: Mapping[str, Any]
    source: str | None = None
    external_id: str | None = None
    of: bytes | None = None


@frozen
class OpenLeg:
    """What a hold that has not ended holds on one account."""

    budget: tuple[str, ...]
    period: str
    unit: str
    window_starts_ns: int | None
    held: int


@frozen
class OpenHold:
    """A hold that has not ended: pending, or put aside for an operator with a ``reason``."""

    id: bytes
    tenant: str
    state: HoldState
    placed_ns: int
    reason: str | None
    legs: tuple[OpenLeg, ...]


@frozen
class Denial:
    """A placing that found no room: the first account that had none, what was needed there and what was left."""

    hold: bytes
    tenant: str
    budget: tuple[str, ...]
    period: str
    unit: str
    window_starts_ns: int | None
    needed: int
    available: int
    at_ns: int


@frozen
class Notice:
    """Something that waits to be told outside: ``kind`` says what ``payload`` is (``"alert"``: an :class:`Alert`).

    ``seq`` is its name for ever: who is told of it twice sees the same. ``tries`` counts this one. ``due_ns`` is when
    it comes (again) where it is only looked at: ``NEVER_NS`` once it was given up.
    """

    seq: int
    kind: str
    payload: Mapping[str, Any]
    made_ns: int
    tries: int
    due_ns: int = 0


@frozen
class Alert:
    """An account reached a ``threshold``, for the first time in the window that begins at ``window_starts_ns``.

    ``ceiling`` is the limit with grants and what was carried over.
    """

    budget: tuple[str, ...]
    period: Period
    unit: str
    window_starts_ns: int | None
    tenant: str | None
    threshold: Threshold
    ceiling: int
    spent: int
    held: int
    at_ns: int
