"""The audit layer: one record an exchange with every decision, after the hand-off."""

from __future__ import annotations

from functools import partial
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


_METHODS: Final = frozenset(method.value for method in HTTPMethod)


class Audit:
    """Record who asked, what was decided and why, under which policy revision, and how it ended.

    Put it outermost, so that refusals of every other layer are recorded too.
    """

    name = "audit"

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Register the record; it is written once the outcome is known."""
        exchange.observe(partial(_record, exchange))
        return (yield from proceed(exchange))


def _record(exchange: Exchange, outcome: Outcome) -> Flow[None]:
    tenant = exchange.find(Tenant)
    identity = tenant.identity if tenant is not None else None
    policy = exchange.find(Policy)
    clock = exchange.system.clock
    method = exchange.request.method
    yield Record(
        AuditRecord(  # by position, which costs a third of names
            exchange.id,
            clock.wall_ns(),
            clock.monotonic_ns() - exchange.started_ns,
            tenant.id if tenant is not None else None,
            identity.id if identity is not None else None,
            policy.name if policy is not None else None,
            policy.revision if policy is not None else None,
            exchange.route.name,
            method if method in _METHODS else "(other)",
            tuple(exchange.decisions),
            outcome.ending.value,
            outcome.status,
            outcome.received,
            outcome.sent,
            outcome.reason,
            type(outcome.error).__name__ if outcome.error is not None else None,
            exchange.find(Charged),
        ),
    )
