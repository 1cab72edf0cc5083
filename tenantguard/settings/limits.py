"""From the address of a store of limits to the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError
from tenantguard.settings.shapes import shown_limits

if TYPE_CHECKING:
    from tenantguard.flow.ports import LimitStore, System
    from tenantguard.settings.shapes import LimitsShape


def open_limits(uri: str, system: System, bounds: LimitsShape, place: str) -> LimitStore:
    """The store of limits at ``uri``, which processes share. It connects with its first decision.

    :class:`ConfigurationError` names ``place``, which is where the address was written, and never a password.
    """
    try:
        from tenantguard.adapters.limits.redis.store import RedisLimits  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise ConfigurationError(
            f"{place}: {shown_limits(uri)!r} needs a driver: pip install 'tenantguard[redis]'"
        ) from missing
    try:
        return RedisLimits(
            uri,
            system.clock,
            deadline_ms=bounds.deadline_ms,
            processes=bounds.processes,
            lease=bounds.lease,
            coalesce=bounds.coalesce,
        )
    except ConfigurationError as wrong:
        raise ConfigurationError(f"{place}: {wrong}") from None
