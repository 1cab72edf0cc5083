"""What was just refused because it is spent, and is refused again without asking the ledger.

A flood of requests against a spent budget would otherwise keep the ledger's writer busy with answers that it has just
given. Only what no hold that ends could make room for is remembered, for ``KEPT_NS`` and never past its window: so a
top-up, a refund or a new limit that another request or process makes is seen within a tenth of a second. A request
that is repeated, as programs do that try again, is known by what it says, and refused before it is priced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from tenantguard.model.decision import Deny
    from tenantguard.model.ledger import Exhausted, Leg

KEPT_NS: Final = 100_000_000
LINES_MAX: Final = 4096
"""More lines, or requests, than this are forgotten all together: they come back with the next refusal."""


@dataclass(slots=True)
class _Refused:
    leg: Leg
    answer: Exhausted
    until_ns: int

    def counts(self, now_ns: int, wall_ns: int) -> bool:
        """Whether the moment, and the window, have not passed."""
        ends_ns = self.answer.window_ends_ns
        return now_ns < self.until_ns and (ends_ns is None or wall_ns < ends_ns)


class Spent:
    """Remembers refusals. Times are monotonic nanoseconds (``now_ns``) and nanoseconds since 1970 (``wall_ns``)."""

    __slots__ = ("_lines", "_requests")

    def __init__(self) -> None:
        self._lines: dict[tuple[tuple[str, ...], str], _Refused] = {}
        self._requests: dict[Hashable, tuple[_Refused, Deny]] = {}

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
            if not refused.counts(now_ns, wall_ns):
                del self._lines[leg.budget, leg.unit]
                continue
            same = leg.limit == refused.leg.limit and leg.terms == refused.leg.terms
            if same and leg.least >= refused.leg.least:
                return index, refused.answer
        return None

    def keep(self, request: Hashable, leg: Leg, denial: Deny) -> None:
        """``request`` is refused with ``denial`` for the sake of ``leg``, which :meth:`find` has found.

        ``request`` has in it all that decides what it costs and who pays.
        """
        refused = self._lines.get((leg.budget, leg.unit))
        if refused is None:
            return
        if len(self._requests) >= LINES_MAX:
            self._requests.clear()
        self._requests[request] = refused, denial

    def again(self, request: Hashable, now_ns: int, wall_ns: int) -> Deny | None:
        """What ``request`` was refused with, while that is remembered."""
        kept = self._requests.get(request)
        if kept is None:
            return None
        refused, denial = kept
        if refused.counts(now_ns, wall_ns):
            return denial
        del self._requests[request]
        return None
