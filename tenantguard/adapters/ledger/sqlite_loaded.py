"""What of a ledger's SQLite file is in memory: the books, loaded as far as commands touch them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger.encoding import (
    ACCOUNT_COLUMNS,
    KINDS,
    account_of,
    budget_json,
    stored_holds,
    stored_start,
    terms_row,
    wanted,
    wanted_beside,
)
from tenantguard.adapters.ledger.rows import select
from tenantguard.flow.ports import HoldState
from tenantguard.model.ledger import EntryKind
from tenantguard.rules.ledger import Books, Claimed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from tenantguard.adapters.ledger.encoding import LineKey, Wanted
    from tenantguard.flow.ports import LedgerCommand
    from tenantguard.rules.ledger import Account, AccountKey

_HOLDS: Final = """
    SELECT id, tenant, state, on_orphan, placed_ns, legs, 0 FROM hold WHERE id IN ({})
    UNION ALL SELECT id, tenant, state, 'void', ended_ns, legs, 0 FROM ended WHERE id IN ({})
    UNION ALL SELECT op, tenant, 'settled', 'void', at_ns, json_array(json_array(account, held, amount)), leg
    FROM entry WHERE op IN ({}) AND kind = 0
"""
"""Holds by id. Where entries alone tell of one, each is a row with its leg; else they repeat what its row says."""

_NEWEST: Final = """
    SELECT max(
        coalesce((SELECT max(id) FROM hold), x''), coalesce((SELECT max(id) FROM ended), x''),
        coalesce((SELECT max(op) FROM entry), x'')
    )
"""

_REFUNDED: Final = """
    SELECT of, leg, -sum(amount) FROM entry WHERE of IS NOT NULL AND of IN ({}) GROUP BY of, leg
"""
_ACCOUNTS: Final = f"SELECT id, {ACCOUNT_COLUMNS} FROM account WHERE "
_OF_LINE: Final = f"{_ACCOUNTS} budget = ? AND period = ? AND unit = ?"
_ACCOUNT: Final = f"{_OF_LINE} AND window_starts_ns = ?"
_LATEST: Final = f"{_OF_LINE} ORDER BY window_starts_ns DESC LIMIT 1"
_FROM: Final = f"{_OF_LINE} AND window_starts_ns >= ?"


class Loaded:
    """Books that have all that a batch touches, once that is loaded, and stay right while nobody else writes.

    ``numbered`` are the accounts that are there by their number, ``seldom`` is what each has stored that changes
    seldom.
    """

    def __init__(self) -> None:
        self.books = Books()
        self.numbered: dict[int, Account] = {}
        self.seldom: dict[int, tuple[Any, ...]] = {}
        self._previous: dict[int, int] = {}
        self._rolling: dict[LineKey, int] = {}
        self._newest: bytes | None = None  # no hold has a greater id; None: not asked yet

    def load(self, db: sqlite3.Connection, commands: Sequence[LedgerCommand], now_ns: int) -> list[bytes]:
        """Load what ``commands`` touch and is not there yet; return the ids of the holds that were asked for."""
        books = self.books
        want = wanted(books, commands, now_ns)
        asked = want.holds
        self.load_holds(db, asked)
        if want.booked:
            asked = asked + self._load_booked(db, want)
        if asked:
            there = [books.holds[hold_id] for hold_id in asked if hold_id in books.holds]
            for line, first_ns in wanted_beside(there, now_ns).items():
                self._load_rolling(db, line, first_ns)
        if want.claims or want.answers:
            answered = [(books.holds[hold_id].tenant, key) for hold_id, key in want.answers if hold_id in books.holds]
            claims = [(str(tenant), key) for tenant, key in answered if tenant is not None]
            asked = asked + self._load_claims(db, want.claims + claims)
        if want.external_ids:
            query = "SELECT source, external_id FROM entry WHERE external_id IN ({})"
            books.charged.update(select(db, query, want.external_ids))
        for key in want.accounts:
            self._load_account(db, key)
        for key in want.inheriting:
            self._load_previous(db, key)
        for line, first_ns in want.rolling.items():
            self._load_rolling(db, line, first_ns)
        return asked

    def load_orphans(self, db: sqlite3.Connection, ids: list[bytes], now_ns: int) -> None:
        """Load pending holds, and what settling them touches."""
        holds = self.books.holds
        self.load_holds(db, [hold_id for hold_id in ids if hold_id not in holds])
        for line, first_ns in wanted_beside([holds[hold_id] for hold_id in ids], now_ns).items():
            self._load_rolling(db, line, first_ns)

    def load_holds(self, db: sqlite3.Connection, ids: Sequence[bytes]) -> None:
        """Load holds by id, those of them that exist, with their accounts.

        Ids that are made in the order of time need no look-up: they are greater than all that are stored.
        """
        if not ids:
            return
        if self._newest is None:
            ((self._newest,),) = db.execute(_NEWEST).fetchall()
        newest = self._newest
        rows = select(db, _HOLDS, [hold_id for hold_id in ids if hold_id <= newest])
        if not rows:
            return
        found = stored_holds(rows)
        self._load_numbered(db, {leg[0] for hold in found.values() for leg in hold.legs.values()})
        for hold_id, hold in found.items():
            self.books.holds[hold_id] = hold.hold(self.numbered, {})

    def release(self, ids: Iterable[bytes]) -> None:
        """Let go of those of the holds that later commands are not likely to touch: all that are not pending."""
        holds = self.books.holds
        for hold_id in ids:
            hold = holds.get(hold_id)
            if hold is not None and hold.state is not HoldState.PENDING:
                del holds[hold_id]

    def stored(self, ids: Iterable[bytes]) -> None:
        """Holds of these ids were written."""
        if self._newest is not None:
            self._newest = max(self._newest, *ids)

    def release_others(self) -> None:
        """Let go of what one batch named, beside holds and accounts."""
        books = self.books
        books.latest.clear()
        books.claims.clear()
        books.booked.clear()
        books.charged.clear()

    def _load_booked(self, db: sqlite3.Connection, want: Wanted) -> list[bytes]:
        """What operators booked under these ids, and was given back of holds; the ids of holds that were loaded."""
        books = self.books
        query = "SELECT op, kind, leg, amount, of FROM entry WHERE op IN ({}) AND kind <> 0 ORDER BY op, leg"
        rows = select(db, query, want.booked)
        others = [of for _, _, _, _, of in rows if of is not None and of not in books.holds]
        self.load_holds(db, others)
        for op, kind, leg, amount, of in rows:
            if KINDS[kind] is not EntryKind.REFUND:
                books.booked[op] = (amount,)
                continue
            amounts = list(books.booked.get(op, (0,) * len(books.holds[of].legs)))
            amounts[leg] = -amount
            books.booked[op] = tuple(amounts)
        given: dict[bytes, dict[int, int]] = {}
        for of, leg, amount in select(db, _REFUNDED, want.refunded):
            given.setdefault(of, {})[leg] = amount
        for of, amounts_by_leg in given.items():
            hold = books.holds[of]
            hold.refunded = tuple([amounts_by_leg.get(leg, 0) for leg in range(len(hold.legs))])
        return others

    def _load_claims(self, db: sqlite3.Connection, claims: list[tuple[str, str]]) -> list[bytes]:
        """Claims, and the holds that have them; the ids of holds that were loaded."""
        books = self.books
        for claim in claims:
            query = "SELECT hold, fingerprint, at_ns, answer FROM claim WHERE tenant = ? AND key = ?"
            for row in db.execute(query, claim).fetchall():
                books.claims[claim] = Claimed(*row)
        holds = [claimed.hold for claimed in books.claims.values() if claimed.hold not in books.holds]
        self.load_holds(db, holds)
        return holds

    def _load_account(self, db: sqlite3.Connection, key: AccountKey) -> None:
        """The account, or the latest of its line where it is not there."""
        line = _line_values(key[:3])
        found = db.execute(_ACCOUNT, (*line, stored_start(key[3]))).fetchall()
        self._add(found)
        if not found:
            for account in self._add(db.execute(_LATEST, line).fetchall()):
                self.books.latest[key[:3]] = account

    def _load_previous(self, db: sqlite3.Connection, key: AccountKey) -> None:
        account = self.books.accounts.get(key)
        number = None if account is None else self._previous.get(account.number)
        if account is not None and account.previous is None and number is not None:
            self._load_numbered(db, {number})
            account.previous = self.numbered[number]

    def _load_rolling(self, db: sqlite3.Connection, line: LineKey, first_ns: int) -> None:
        """All accounts of a line from ``first_ns`` on; later ones are made here, or somebody else has written."""
        loaded_ns = self._rolling.get(line)
        if loaded_ns is None or first_ns < loaded_ns:
            self._add(db.execute(_FROM, (*_line_values(line), first_ns)).fetchall())
            self._rolling[line] = first_ns

    def _load_numbered(self, db: sqlite3.Connection, numbers: set[int]) -> None:
        self._add(select(db, f"{_ACCOUNTS} id IN ({{}})", sorted(numbers - self.numbered.keys())))

    def _add(self, rows: Iterable[tuple[Any, ...]]) -> list[Account]:
        found = []
        for number, *row in rows:
            account = self.numbered.get(number)
            if account is None:
                account = account_of(number, row)
                self.books.accounts[account.key] = self.numbered[number] = account
                self.seldom[number] = terms_row(account)
                if row[-1] is not None:
                    self._previous[number] = row[-1]
            found.append(account)
        return found


def _line_values(line: LineKey) -> tuple[str, str, str]:
    budget, period, unit = line
    return budget_json(budget), str(period), unit
