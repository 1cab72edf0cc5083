"""Alerts as structlog events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.adapters.alerts.payload import payload

if TYPE_CHECKING:
    from tenantguard.model.ledger import Alert


class LogSender:
    """Writes the event ``budget.alert`` of the logger ``tenantguard``, at level warning.

    It names the tenant and the scope of the budget, not the identity or route that the budget counts: an identity's
    name may be a person's. ``tenantguard ledger alerts`` shows it.
    """

    name = "log"

    def send(self, alert: Alert) -> None:
        """Log it."""
        import structlog  # noqa: PLC0415 - 40 ms that only a guard in use pays

        fields = payload(alert)
        threshold = fields.pop("threshold")
        fields |= {"threshold": threshold["percent"], "of": threshold["of"], "scope": fields.pop("budget")[0]}
        structlog.get_logger("tenantguard").warning(fields.pop("type"), **fields)

    def close(self) -> None:
        """Nothing to release."""
