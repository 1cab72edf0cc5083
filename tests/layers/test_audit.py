"""The audit layer: one record an exchange, told by the flow alone."""

from __future__ import annotations

from typing import Any

import pytest

from tenantguard.flow.effects import CallApp
from tenantguard.flow.http import Ending, Outcome, Response
from tenantguard.flow.layer import stack
from tenantguard.flow.ports import Record, System
from tenantguard.layers.audit import Audit
from tenantguard.model.audit import AuditRecord
from tenantguard.model.charge import Charged
from tenantguard.model.money import Amount
from tenantguard.model.policy import Policy
from tenantguard.model.route import Route
from tenantguard.model.tenant import Identity, Tenant, TenantId
from tenantguard.testing import EPOCH_NS, ManualClock, SequentialIds, make_exchange


def audited(outcome: Outcome, *, method: str = "POST", facts: tuple[object, ...] = (), **options: Any) -> AuditRecord:
    clock = ManualClock()
    exchange = make_exchange(method, "/v1/a", facts=facts, system=System(clock, SequentialIds()), **options)
    flow = stack([Audit()])(exchange)
    assert isinstance(flow.send(None), CallApp)
    exchange.allow("gate", "open", width=3)
    clock.advance(0.25)
    with pytest.raises(StopIteration):
        flow.send(Response(200))
    (observer,) = exchange.observers
    telling: Any = observer(outcome)
    effect = telling.send(None)
    assert isinstance(effect, Record)
    with pytest.raises(StopIteration):
        telling.send(None)
    assert effect.record.exchange == exchange.id
    assert effect.record.decisions == tuple(exchange.decisions) != ()
    return effect.record


def test_a_record_has_every_field_in_its_place() -> None:
    acme = TenantId("acme")
    charged = Charged(Amount.parse("0.25 USD"), Amount.parse("0.50 USD"), "usage")
    told = audited(
        Outcome(Ending.CUT, status=200, received=11, sent=7, reason="response.length", error=ValueError("a secret")),
        facts=(Tenant(acme, Identity("acme-dev", acme)), Policy("gold", "r1"), charged),
        route=Route("POST /v1/*"),
    )
    assert told == AuditRecord(
        exchange=told.exchange,
        at_ns=EPOCH_NS + 250_000_000,
        took_ns=250_000_000,
        tenant="acme",
        identity="acme-dev",
        policy="gold",
        revision="r1",
        route="POST /v1/*",
        method="POST",
        decisions=told.decisions,
        ending="cut",
        status=200,
        received=11,
        sent=7,
        reason="response.length",
        error="ValueError",
        charge=charged,
    )


def test_what_nobody_found_is_absent_and_an_unknown_method_is_not_repeated() -> None:
    told = audited(Outcome(Ending.COMPLETED, status=204), method="jane@example.com")
    assert (told.tenant, told.identity, told.policy, told.revision) == (None, None, None, None)
    assert (told.reason, told.error, told.charge) == (None, None, None)
    assert (told.method, told.ending, told.status) == ("(other)", "completed", 204)
