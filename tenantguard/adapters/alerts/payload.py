"""What is told of an alert: one id at every try, and fields that are plain JSON."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tenantguard.model.money import exact_amount

if TYPE_CHECKING:
    from tenantguard.model.ledger import Alert

TYPE: Final = "budget.alert"
"""The kind of message, for receivers that hear of other things as well."""

_NS: Final = 1_000_000_000


def alert_id(alert: Alert) -> str:
    """32 hexadecimal digits: the same for one alert whoever delivers it and however often, another for any other."""
    said = [alert.budget, str(alert.period), alert.unit, alert.window_starts_ns, alert.threshold.name, alert.at_ns]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def payload(alert: Alert) -> dict[str, Any]:
    """The alert as a receiver gets it: amounts are exact decimals as text, times are RFC 3339 in UTC."""
    return {
        "id": alert_id(alert),
        "type": TYPE,
        "at": time_text(alert.at_ns),
        "tenant": alert.tenant,
        "budget": list(alert.budget),
        "period": str(alert.period),
        "window_starts": None if alert.window_starts_ns is None else time_text(alert.window_starts_ns),
        "unit": alert.unit,
        "threshold": {"percent": alert.threshold.percent, "of": str(alert.threshold.of)},
        "ceiling": exact_amount(alert.ceiling, alert.unit),
        "spent": exact_amount(alert.spent, alert.unit),
        "held": exact_amount(alert.held, alert.unit),
    }


def time_text(at_ns: int) -> str:
    """``2026-11-20T17:30:00.123456Z``."""
    seconds, rest = divmod(at_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
