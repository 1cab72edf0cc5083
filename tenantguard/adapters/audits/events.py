"""An audit record as the fields of one event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantguard.model.money import Amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.audit import AuditRecord
    from tenantguard.model.decision import Decision


def event_of(record: AuditRecord) -> dict[str, Any]:
    """The fields of one event: what a record holds, without what is absent."""
    event: dict[str, Any] = {
        "exchange": record.exchange,
        "at_ns": record.at_ns,
        "took_ms": round(record.took_ns / 1e6, 3),
    }
    if record.tenant is not None:
        event["tenant"] = record.tenant
    if record.identity is not None:
        event["identity"] = record.identity
    if record.policy is not None:
        event["policy"] = record.policy
    if record.revision is not None:
        event["revision"] = record.revision
    event["route"] = record.route
    event["method"] = record.method
    event["ending"] = record.ending
    event["status"] = record.status
    event["received"] = record.received
    event["sent"] = record.sent
    if record.reason is not None:
        event["reason"] = record.reason
    if record.error is not None:
        event["error"] = record.error
    event["decisions"] = [_decision(decision) for decision in record.decisions]
    charge = record.charge
    if charge is not None:
        event["charged"] = str(charge.amount)
        event["held"] = str(charge.held)
        event["charge_basis"] = charge.basis
    return event


def _decision(decision: Decision) -> Mapping[str, Any]:
    shown: dict[str, Any]
    if decision.kind == "allow":
        shown = {"kind": "allow", "layer": decision.layer, "matched_by": decision.matched_by}
    else:
        shown = {
            "kind": "deny",
            "layer": decision.layer,
            "reason": str(decision.reason),
            "status": decision.status,
        }
    for name, value in decision.details.items():  # amounts as ``charged`` has them: a log may know none
        shown[name] = str(value) if isinstance(value, Amount) else value
    return shown
