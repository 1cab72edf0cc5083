"""An alert as plain fields, as an outbox keeps it and as whoever delivers it reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantguard.model.ledger import Alert, Counted, Threshold
from tenantguard.model.period import Period

if TYPE_CHECKING:
    from collections.abc import Mapping


def alert_fields(alert: Alert) -> dict[str, Any]:
    """The fields of ``alert``, ready for JSON. Amounts are whole numbers of up to 63 bits."""
    return {
        "budget": alert.budget,
        "period": str(alert.period),
        "unit": alert.unit,
        "window_starts_ns": alert.window_starts_ns,
        "tenant": alert.tenant,
        "threshold": {"of": str(alert.threshold.of), "percent": alert.threshold.percent},
        "ceiling": alert.ceiling,
        "spent": alert.spent,
        "held": alert.held,
        "at_ns": alert.at_ns,
    }


def read_alert(told: Mapping[str, Any]) -> Alert:
    """The alert of which these are the fields."""
    return Alert(
        tuple(told["budget"]),
        Period.parse(told["period"]),
        told["unit"],
        told["window_starts_ns"],
        told["tenant"],
        Threshold(told["threshold"]["percent"], Counted(told["threshold"]["of"])),
        told["ceiling"],
        told["spent"],
        told["held"],
        told["at_ns"],
    )
