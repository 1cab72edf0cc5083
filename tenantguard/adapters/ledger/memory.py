"""A ledger in memory: for tests, for trying out, and for one process whose spending may be forgotten with it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.ledger.backend import decide
from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.errors import PortError
from tenantguard.flow.ports import Balance, Entry, PlaceHold
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import HOLDING, Books, account_key

if TYPE_CHECKING:
    from tenantguard.adapters.ledger.backend import Command
    from tenantguard.flow.ports import System
    from tenantguard.rules.ledger import AccountKey, Line

HISTORY_MAX: Final = 100_000


class MemoryLedger:
    """Answers at once. Nothing is shared with other processes, and nothing outlives this one.

    It remembers at least the last ``history_max`` ended holds and entries; an older id can be placed, and an older
    external id charged, once more. What is spent and held in a window that still runs is never forgotten: beyond
    twice ``history_max`` accounts, placing on a new one breaks with :class:`~tenantguard.errors.PortError`.
    """

    def __init__(self, system: System, *, history_max: int = HISTORY_MAX) -> None:
        self._clock = system.clock
        self._history_max = history_max
        self._accounts_max = 2 * history_max
        self._lock = threading.Lock()
        self._books = Books()
        self._spent_before: Counter[AccountKey] = Counter()
        self._forget_at = 2 * history_max

    def submit(self, command: Command) -> LedgerPromise:
        """Decide ``command``; the promise is already kept."""
        promise = LedgerPromise(deadline_s=0.0)
        with self._lock:
            now_ns = self._clock.wall_ns()
            if len(self._books.holds) > self._forget_at:
                self._forget(now_ns)
            answer = self._refuse_growth(command, now_ns) or decide(self._books, command, now_ns)
        if isinstance(answer, Exception):
            promise.fail(answer)
        else:
            promise.keep(answer)
        return promise

    def balances(self, tenant: TenantId | None = None) -> list[Balance]:
        """Every account (of one tenant) in every window that was touched and is remembered, oldest first."""
        with self._lock:
            return [
                Balance(
                    account.key[0],
                    account.key[2],
                    account.limit,
                    account.spent,
                    account.held,
                    account.key[3],
                    account.window_ends_ns,
                )
                for account in self._books.accounts.values()
                if tenant is None or account.tenant == tenant
            ]

    def entries(self, tenant: TenantId | None = None, limit: int = 100) -> list[Entry]:
        """The latest ``limit`` entries (of one tenant), newest first."""
        with self._lock:
            lines = [line for line in self._books.lines if tenant is None or line.hold.tenant == tenant]
        return [_entry(line) for line in reversed(lines[-limit:])] if limit > 0 else []

    def audit(self) -> list[str]:
        """Every broken invariant, as a sentence; none is broken in an empty list."""
        with self._lock:
            books = self._books
            spent = Counter(self._spent_before)
            for line in books.lines:
                spent[line.hold.legs[line.leg][0].key] += line.amount
            held: Counter[AccountKey] = Counter()
            for hold in books.holds.values():
                if hold.state in HOLDING:
                    for account, amount in hold.legs:
                        held[account.key] += amount
            charges = Counter((line.hold.id, line.leg) for line in books.lines)
            broken = [
                f"account {key}: spent {account.spent} and entries of {spent[key]}"
                for key, account in books.accounts.items()
                if account.spent != spent[key]
            ]
            broken += [
                f"account {key}: held {account.held} and open legs of {held[key]}"
                for key, account in books.accounts.items()
                if account.held != held[key]
            ]
            broken += [f"hold {hold.hex()} leg {leg}: {n} entries" for (hold, leg), n in charges.items() if n > 1]
            return broken

    def close(self) -> None:
        """Nothing to release."""

    def _refuse_growth(self, command: Command, now_ns: int) -> PortError | None:
        accounts = self._books.accounts
        if len(accounts) < self._accounts_max or not isinstance(command, PlaceHold):
            return None
        if all(account_key(leg, now_ns) in accounts for leg in command.legs):
            return None
        self._forget(now_ns)
        if len(accounts) < self._accounts_max:
            return None
        return PortError("ledger", f"{self._accounts_max} accounts are in use, as many as memory may hold")

    def _forget(self, now_ns: int) -> None:
        """Drop the oldest ended holds and entries, and the accounts of past windows that nothing refers to."""
        books, keep = self._books, self._history_max
        ended = [hold_id for hold_id, hold in books.holds.items() if hold.state not in HOLDING]
        for hold_id in ended[:-keep]:
            del books.holds[hold_id]
        for line in books.lines[:-keep]:
            self._spent_before[line.hold.legs[line.leg][0].key] += line.amount
            if line.source is not None and line.external_id is not None:
                books.charged.discard((line.source, line.external_id))
        del books.lines[:-keep]
        used = {line.hold.legs[line.leg][0].key for line in books.lines}
        for key, account in list(books.accounts.items()):
            past = account.window_ends_ns is not None and account.window_ends_ns <= now_ns
            if past and not account.held and key not in used:
                del books.accounts[key]
                del self._spent_before[key]
        self._forget_at = len(books.holds) + keep


def _entry(line: Line) -> Entry:
    account = line.hold.legs[line.leg][0]
    return Entry(
        line.hold.id,
        line.leg,
        TenantId(line.hold.tenant or ""),
        account.key[0],
        account.key[2],
        line.amount,
        line.absorbed,
        line.at_ns,
        line.reason,
        json.loads(line.evidence),
        line.source,
        line.external_id,
    )
