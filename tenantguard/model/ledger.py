"""The words of the ledger: legs, holds and how they end, balances, entries.

Amounts are whole numbers from 0 to 2**63 - 1: billionths of a currency's unit, or whole units of anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.sections import Period

UNITS_MAX: Final = 2**63 - 1
"""What an account can hold and spend at most: 64 bits, as every database stores them."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Held:
    """Placed: the amount held on each leg, in the order of the legs."""

    amounts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Barred:
    """Refused; the id was ended before anything was placed under it, so nothing ever will be."""


class HoldState(StrEnum):
    """The states of a hold. Each is entered at most once; the table is in ``rules/ledger.py``.

    ``settled`` and ``voided`` are final. ``expired`` holds nothing any more and still takes a late resolution;
    ``review`` goes on holding until it is resolved.
    """

    PENDING = "pending"
    SETTLED = "settled"
    VOIDED = "voided"
    EXPIRED = "expired"
    REVIEW = "review"


class OnOrphan(StrEnum):
    """What becomes of a hold whose process was lost."""

    VOID = "void"
    CHARGE_HOLD = "charge_hold"
    REVIEW = "review"


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a hold ended: the state it is in, and what was charged on each leg (0 where it was voided)."""

    state: HoldState
    amounts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Balance:
    """An account in one window: amounts as in :class:`Leg`, ``limit`` as the last placing gave it."""

    budget: tuple[str, ...]
    unit: str
    limit: int | None
    spent: int
    held: int
    window_starts_ns: int | None
    window_ends_ns: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger, never changed: what settling ``hold`` charged on the account of its ``leg``.

    ``absorbed`` was used but could not be charged: it lay above what was held or, for a late settling, above what
    the limit still allowed. ``reason`` and ``evidence`` are those of the resolution.
    """

    hold: bytes
    leg: int
    tenant: str
    budget: tuple[str, ...]
    unit: str
    amount: int
    absorbed: int
    at_ns: int
    reason: str
    evidence: Mapping[str, Any]
    source: str | None
    external_id: str | None
