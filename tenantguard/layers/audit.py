"""The audit layer: one record an exchange with every decision, after the hand-off."""

from __future__ import annotations

from http import HTTPMethod
from typing import TYPE_CHECKING, Final

from tenantguard.flow.ports import Record
from tenantguard.model.audit import AuditRecord
from tenantguard.model.charge import Charged
from tenantguard.model.policy import Policy
from tenantguard.model.tenant import Tenant

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Outcome, Response
    from tenantguard.flow.layer import Handler


_METHODS: Final = frozenset(HTTPMethod)


class Audit:
    """Record who asked, what was decided and why, under which policy revision, and how it ended.

    Put it outermost, so that refusals of every other layer are recorded too.
    """

    name = "audit"

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Register the record; it is written once the outcome is known."""
        exchange.observe(lambda outcome: self._record(exchange, outcome))
        return (yield from proceed(exchange))

    def _record(self, exchange: Exchange, outcome: Outcome) -> Flow[None]:
        tenant = exchange.find(Tenant)
        policy = exchange.find(Policy)
        clock = exchange.system.clock
        yield from Record(
            AuditRecord(
                exchange=exchange.id,
                at_ns=clock.wall_ns(),
                took_ns=clock.monotonic_ns() - exchange.started_ns,
                tenant=tenant.id if tenant is not None else None,
                identity=tenant.identity.id if tenant is not None and tenant.identity is not None else None,
                policy=policy.name if policy is not None else None,
                revision=policy.revision if policy is not None else None,
                route=exchange.route.name,
                method=exchange.request.method if exchange.request.method in _METHODS else "(other)",
                decisions=tuple(exchange.decisions),
                ending=outcome.ending.value,
                status=outcome.status,
                received=outcome.received,
                sent=outcome.sent,
                reason=outcome.reason,
                error=type(outcome.error).__name__ if outcome.error is not None else None,
                charge=exchange.find(Charged),
            ),
        )
