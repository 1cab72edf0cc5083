"""The token bucket: a pure integer rule over one number per bucket.

A bucket is kept as the *theoretical arrival time* (TAT) of the generic cell rate algorithm (ITU-T I.371), which is the
token bucket written as one instant: the bucket is full once ``now >= tat``, and holds ``burst - (tat - now) / em``
units before, where one unit comes back every ``em`` nanoseconds. It loses no fraction of a refill however often it is
asked, survives a change of its rate, and a return is one subtraction.

To stay exact in integers where ``period_ns`` is no multiple of ``amount``, the TAT counts *ticks* of
``1 / amount`` nanoseconds: then a unit is exactly ``period_ns`` ticks.

Rules of this file
1. Integers in, integers out; ``now_ns`` never goes back for one store (the store sees to it).
2. Asking for nothing always succeeds and changes nothing; what is refused changes nothing.
3. A cost above the burst can never fit: that is ``None``, no wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantguard.model.rate import Rate


@dataclass(frozen=True, slots=True)
class Verdict:
    """What taking would mean: the new TAT in nanoseconds if it fits, else how long to wait (None: for ever)."""

    fits: bool
    tat_ns: int
    retry_after_ns: int | None
    remaining: int
    full_in_ns: int


def take(tat_ns: int, rate: Rate, cost: int, now_ns: int) -> Verdict:
    """Try to take ``cost`` units at ``now_ns`` from a bucket at ``tat_ns`` (0 for a bucket never used)."""
    raise NotImplementedError
