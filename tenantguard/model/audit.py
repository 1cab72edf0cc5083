"""The audit record: who, what, why, under which policy revision, and how it ended. Never a value from a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from tenantguard.model.charge import Charged
    from tenantguard.model.decision import Decision


@frozen
class AuditRecord:
    """One exchange, told once. Times are nanoseconds since 1970 (``at_ns``) and nanoseconds (``took_ns``)."""

    exchange: str
    at_ns: int
    took_ns: int
    tenant: str | None
    identity: str | None
    policy: str | None
    revision: str | None
    route: str
    method: str
    decisions: tuple[Decision, ...]
    ending: str
    status: int
    received: int
    sent: int
    reason: str | None = None
    error: str | None = None
    charge: Charged | None = None
