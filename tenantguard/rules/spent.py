"""What was just refused because it is spent, and is refused again without asking the ledger.

A flood of requests against a spent budget would otherwise keep the ledger's writer busy with answers that it has just
given. Only what no hold that ends could make room for is remembered, for ``KEPT_NS`` and never past its window: so a
top-up, a refund or a new limit that another request or process makes is seen within a tenth of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.model.ledger import Exhausted, Leg

KEPT_NS: Final = 100_000_000
LINES_MAX: Final = 4096
"""More lines than this are forgotten all together: they come back with the next refusal."""


@dataclass(slots=True)
class _Refused:
    leg: Leg
    answer: Exhausted
    until_ns: int


class Spent:
    """Remembers refusals. Times are monotonic nanoseconds (``now_ns``) and nanoseconds since 1970 (``wall_ns``)."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[tuple[tuple[str, ...], str], _Refused] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def remember(self, leg: Leg, answer: Exhausted, now_ns: int) -> None:
        """``leg`` was refused with ``answer``; keep that, if what is held has no part in it."""
        if answer.available + answer.held >= answer.needed:
            return
        if len(self._lines) >= LINES_MAX:
            self._lines.clear()
        self._lines[leg.budget, leg.unit] = _Refused(leg, answer, now_ns + KEPT_NS)

    def find(self, legs: Sequence[Leg], now_ns: int, wall_ns: int) -> tuple[int, Exhausted] | None:
        """The first of ``legs`` that would be refused as one was, with that answer."""
        for index, leg in enumerate(legs):
            refused = self._lines.get((leg.budget, leg.unit))
            if refused is None:
                continue
            if now_ns >= refused.until_ns:
                self._lines.pop((leg.budget, leg.unit), None)
                continue
            ends_ns = refused.answer.window_ends_ns
            same = leg.limit == refused.leg.limit and leg.terms == refused.leg.terms
            if same and leg.least >= refused.leg.least and (ends_ns is None or wall_ns < ends_ns):
                return index, refused.answer
        return None
