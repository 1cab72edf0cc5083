"""From the address of a store of limits or slots to the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantguard.errors import ConfigurationError
from tenantguard.settings.shapes import shown_limits

if TYPE_CHECKING:
    from tenantguard.flow.ports import LimitStore, SlotStore, System
    from tenantguard.settings.shapes import LimitsShape


def open_limits(uri: str, system: System, bounds: LimitsShape, place: str) -> LimitStore:
    """The store of limits at ``uri``, which processes share. It connects with its first decision.

    :class:`ConfigurationError` names ``place``, which is where the address was written, and never a password.
    """
    try:
        from tenantguard.adapters.limits.redis.store import RedisLimits  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise _without_driver(uri, place) from missing
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


def open_slots(uri: str, system: System, bounds: LimitsShape, place: str) -> SlotStore:
    """The store of slots at ``uri``, which processes share; as :func:`open_limits`."""
    try:
        from tenantguard.adapters.slots.redis.store import RedisSlots  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise _without_driver(uri, place) from missing
    try:
        return RedisSlots(
            uri,
            system.clock,
            deadline_ms=bounds.deadline_ms,
            processes=bounds.processes,
            lease_s=bounds.slot_lease_s,
        )
    except ConfigurationError as wrong:
        raise ConfigurationError(f"{place}: {wrong}") from None


def _without_driver(uri: str, place: str) -> ConfigurationError:
    return ConfigurationError(f"{place}: {shown_limits(uri)!r} needs a driver: pip install 'tenantguard[redis]'")
