"""What a process decides by itself, while the server also lets some in."""

from __future__ import annotations

from typing import Any

from tenantguard.adapters.slots.redis.local import LocalSlots
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, NotEntered, SlotClaim
from tenantguard.testing import ManualClock

SECOND = 10**9


def entering(number: int, limit: int = 4) -> EnterSlot:
    return EnterSlot(number.to_bytes(16, "big"), "acme", (SlotClaim("acme|t", limit, 10, 60 * SECOND),))


def test_a_share_that_has_grown_lets_in_who_waits_and_tells_it() -> None:
    """Fewer processes are left when the server is back, and what it lets in says so first."""
    local = LocalSlots(ManualClock(), 100)
    assert isinstance(local.enter(entering(1), 4), Entered)
    waits: Any = local.enter(entering(2), 4)
    local.hold(entering(3), 1)
    assert waits.wait(0)
    assert waits.result() == Entered(0, degraded=True)


def test_who_has_waited_too_long_is_told_also_where_the_server_lets_another_in() -> None:
    clock = ManualClock()
    local = LocalSlots(clock, 100)
    local.enter(entering(1, 1), 1)
    waits: Any = local.enter(entering(2, 1), 1)
    clock.advance(60)
    local.hold(entering(3, 1), 1)
    assert waits.wait(0)
    told = waits.result()
    assert isinstance(told, Crowded)
    assert told.reason is NotEntered.WAITED
