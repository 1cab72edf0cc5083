"""What the demo's numbers must be. Written down here or counted by the tour, never asked of the guard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tenantguard.model.money import Amount

RATES_NANOS: Final = {"gpt-demo": (1_000, 2_000), "claude-demo": (3_000, 15_000), "embed-demo": (100, 0)}
"""Billionths of a dollar for a token in and a token out, by model. The model server counts words."""

REPORT_NANOS: Final = 250_000_000
BURSTS: Final = {"acme": 100, "hasty": 2, "broke": 100, "crowd": 1000}
LIMITS_NANOS: Final = {"acme": 10_000_000_000, "hasty": 10_000_000_000, "broke": 10_000, "crowd": 2_500_000_000}
HASTY_UNIT_NS: Final = 2_000_000_000
"""How long one unit of hasty's bucket takes to come back, at 30 a minute."""


@dataclass(slots=True)
class Expected:
    """What the requests so far must have left behind.

    ``charges`` are tenants and billionths of a dollar, oldest first; ``taken`` the units gone from each bucket;
    ``hasty_unit_at_ns`` the two instants between which hasty's empty bucket had one unit again.
    """

    charges: list[tuple[str, int]] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    hasty_unit_at_ns: tuple[int, int] = (0, 0)

    def level(self, tenant: str) -> str:
        """What is left in a tenant's bucket, as it is told."""
        return f"{BURSTS[tenant] - self.taken[tenant]} of {BURSTS[tenant]} left"

    def spent(self, tenant: str) -> int:
        """Billionths of a dollar that a tenant has spent."""
        return sum(nanos for charged, nanos in self.charges if charged == tenant)


def usd(nanos: int) -> str:
    """Billionths of a dollar, written out."""
    return str(Amount(nanos, "USD"))
