"""One budget or quota in one window: how much of it is left, what it inherits, and when it calls for attention.

Rules of this file
1. What is left is ``limit + granted + carried - spent - held``, never below 0. Of a rolling period every window that
   counts is spent, held and granted. A soft limit has always room; it is only measured.
2. What a window leaves to the next is worked out whenever something is placed on the next, from the window before as
   it stands: what is still held there counts as spent, so a late settling can only raise what was carried over.
3. A late settling of a hold that had been released takes nothing of what its window, once that has ended, leaves to
   the next.
4. An alert is raised once in a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.model.ledger import PLAIN, UNITS_MAX, Alert, CarryOver, Counted
from tenantguard.model.period import Step
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tenantguard.model.ledger import Leg, Terms
    from tenantguard.model.period import Period

_MINUTE_NS: Final = 60_000_000_000

Line: TypeAlias = "tuple[tuple[str, ...], Period, str]"
"""Budget, period and unit: what all windows of one budget have in common."""

AccountKey: TypeAlias = "tuple[tuple[str, ...], Period, str, int | None]"
"""A line, and the start of the window."""


@dataclass(slots=True)
class Grant:
    """``amount`` on top of the limit until ``expires_ns`` (None: as long as the window)."""

    amount: int
    expires_ns: int | None


@dataclass(slots=True)
class Account:
    """One line in one window.

    ``tenant`` is None once several share it; ``limit`` and ``terms`` are those of the last placing, ``previous`` is
    the last window before this one that was touched, loaded where something is carried over. ``number`` is a
    backend's, 0 while new.
    """

    key: AccountKey
    tenant: str | None
    limit: int | None
    window_ends_ns: int | None
    spent: int = 0
    held: int = 0
    number: int = 0
    carried: int = 0
    grants: tuple[Grant, ...] = ()
    terms: Terms = PLAIN
    alerted: frozenset[str] = frozenset()
    previous: Account | None = None

    @property
    def line(self) -> Line:
        """What this account has in common with those of other windows."""
        return self.key[:3]

    def granted(self, now_ns: int) -> int:
        """What grants add to the limit at ``now_ns``."""
        return sum(grant.amount for grant in self.grants if grant.expires_ns is None or grant.expires_ns > now_ns)


def account_key(leg: Leg, now_ns: int) -> AccountKey:
    """The account that ``leg`` touches when it is placed at ``now_ns``."""
    return leg.budget, leg.period, leg.unit, window(leg.period, now_ns)[0]


def ceiling(limit: int | None, inherited: int, accounts: Iterable[Account], now_ns: int) -> int:
    """The most that may be spent and held under ``limit``; without one, what 64 bits carry. Never below 0."""
    if limit is None:
        return UNITS_MAX
    limit += inherited
    for account in accounts:
        if account.grants:
            limit += account.granted(now_ns)
    return min(max(limit, 0), UNITS_MAX)


def room(accounts: Sequence[Account], limit: int | None, terms: Terms, inherited: int, now_ns: int) -> int:
    """What is left under ``limit`` on ``accounts``: one, or all that count in a rolling period."""
    left = UNITS_MAX if limit is None or not terms.strict else ceiling(limit, inherited, accounts, now_ns)
    for account in accounts:
        left -= account.spent + account.held
    return max(left, 0)


def carried(terms: Terms, limit: int | None, account: Account) -> int:
    """What ``account`` inherits from the window before it: 0 or more that was unused, 0 or less that is owed.

    What is owed is counted with every grant of the window before, what was unused with those that lasted to its end.
    """
    previous = account.previous
    if previous is None or previous.window_ends_ns is None or previous.limit is None or terms.carry is CarryOver.NONE:
        return 0
    ended_ns = previous.window_ends_ns
    owes = terms.carry is CarryOver.DEBT
    granted = sum(grant.amount for grant in previous.grants) if owes else previous.granted(ended_ns - 1)
    left = previous.limit + previous.carried + granted - previous.spent - previous.held
    starts_ns = account.key[3]
    if limit is None or starts_ns is None or ended_ns >= starts_ns:
        return _left_over(terms, left)
    return _left_over(terms, _left_over(terms, left) + max(limit, 0) * _windows(account.key[1], ended_ns, starts_ns))


def _left_over(terms: Terms, left: int) -> int:
    if terms.carry is CarryOver.UNUSED:
        return min(max(left, 0), terms.cap, UNITS_MAX)
    return max(min(left, 0), -UNITS_MAX)


@lru_cache(maxsize=1024)
def _windows(period: Period, from_ns: int, to_ns: int) -> int:
    """How many windows lie between two starts. Of minutes and hours, which a day can cut short, no more than that."""
    if period.step is Step.MINUTE:
        return (to_ns - from_ns) // (period.count * _MINUTE_NS)
    number = 0
    while from_ns < to_ns:
        number += 1
        from_ns = window(period, from_ns)[1] or to_ns
    return number


_PERCENT: Final = 100


def alerts(account: Account, now_ns: int, beside: Sequence[Account] = ()) -> list[Alert]:
    """The alerts that the account calls for now, for the first time in its window; they count as raised.

    ``beside`` are the other accounts that count in a rolling period. Without a limit there is nothing to reach.
    """
    if account.limit is None:
        return []
    raised: list[Alert] = []
    counting = (account, *beside)
    seen = frozenset().union(*[each.alerted for each in counting])
    spent = sum(each.spent for each in counting)
    committed = spent + sum(each.held for each in counting)
    most = ceiling(account.limit, account.carried, counting, now_ns)
    for threshold in account.terms.thresholds:
        amount = spent if threshold.of is Counted.SPENT else committed
        if amount > 0 and threshold.name not in seen and amount * _PERCENT >= threshold.percent * most:
            account.alerted |= {threshold.name}
            budget, period, unit, starts_ns = account.key
            tenant, held = account.tenant, committed - spent
            raised.append(Alert(budget, period, unit, starts_ns, tenant, threshold, most, spent, held, now_ns))
    return raised
