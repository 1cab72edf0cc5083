"""One batch of commands in one transaction: what it locks and loads, and what it stores."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tenantguard.adapters.ledger import postgres_statements as sql
from tenantguard.adapters.ledger.backend import decide
from tenantguard.adapters.ledger.encoding import (
    KIND_NUMBERS,
    ON_ORPHAN,
    STATES,
    TEXTS,
    account_of,
    account_row,
    alert_json,
    alerted_json,
    denial_row,
    entry_row,
    grants_json,
    storable,
    stored_start,
    terms_json,
    terms_row,
    wanted,
    wanted_beside,
)
from tenantguard.adapters.ledger.postgres_link import binaries, binary, numbers, texts
from tenantguard.adapters.ledger.postgres_schema import LOCK_CLASS
from tenantguard.flow.ports import ResolveHold
from tenantguard.model.ledger import EntryKind, HoldState
from tenantguard.rules.ledger import Account, Books, Hold
from tenantguard.rules.ledger.books import Claimed
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tenantguard.adapters.ledger.encoding import LineKey, Wanted
    from tenantguard.adapters.ledger.postgres_link import Link, Statement
    from tenantguard.flow.ports import LedgerCommand
    from tenantguard.rules.ledger import AccountKey

_NUMBERS_KEPT_MAX: Final = 100_000
_REFUND: Final = KIND_NUMBERS[EntryKind.REFUND]


class BeginAgain(Exception):  # noqa: N818 - no error: another process was first, or a guess was wrong
    """What was loaded is not all that the batch needs; what that is is known now."""


class Known:
    """What one connection has learned, and its next batch uses.

    ``accounts``: by key the number, and that of the account before it where it has one; neither ever changes.
    ``ahead_ns``: how far the server's clock is ahead of this machine's. ``beside`` and ``previous`` are what a batch
    that begins again must load besides.
    """

    __slots__ = ("accounts", "ahead_ns", "beside", "previous")

    def __init__(self) -> None:
        self.accounts: dict[AccountKey, tuple[int, int | None]] = {}
        self.ahead_ns = 0
        self.beside: dict[LineKey, int] = {}
        self.previous: set[int] = set()

    def settle(self) -> None:
        """The batch is done: the next one needs something else."""
        self.beside.clear()
        self.previous.clear()
        if len(self.accounts) > _NUMBERS_KEPT_MAX:
            self.accounts.clear()


class Batch:
    """``commands``, and holds of lost processes, to be decided at the time that ``clock`` makes of the server's."""

    def __init__(
        self,
        db: Link,
        known: Known,
        commands: Sequence[LedgerCommand],
        orphans: Sequence[bytes],
        owner: bytes,
        clock: Callable[[int], int],
    ) -> None:
        self._db = db
        self._known = known
        self._commands = commands
        self._orphans = orphans
        self._owner = owner
        self._clock = clock
        self._books = Books()
        self._numbered: dict[int, Account] = {}
        self._terms: dict[int, tuple[Any, ...]] = {}
        self._claims: set[tuple[str, str]] = set()
        self._outside: dict[bytes, tuple[str, str]] = {}

    def apply(self, guess_ns: int) -> list[Any]:
        """Decide and commit, and return the answers. ``guess_ns`` is about the time.

        Raises :class:`BeginAgain` with the transaction still open.
        """
        now_ns = self._load(guess_ns)
        books = self._books
        for hold_id in self._orphans:
            hold = books.holds.get(hold_id)
            if hold is not None and hold.state is HoldState.PENDING:
                books.lose(hold_id, now_ns)
        answers = [decide(books, command, now_ns) for command in self._commands]
        self._store(now_ns)
        self._known.settle()
        return answers

    # loading

    def _load(self, guess_ns: int) -> int:
        """Lock and read what the batch names; the time at which it is decided."""
        need = wanted(self._books, self._commands, guess_ns)
        numbers_known, starts, unknown = self._located(need)
        asked = self._asked(need, numbers_known, starts, unknown)
        rows = dict(zip(asked, self._db.exchange(list(asked.values())), strict=True))
        now_ns = self._clock(rows["now"][0][0])
        if any(window(period, now_ns) != window(period, guess_ns) for period in {key[1] for key in need.accounts}):
            raise BeginAgain
        books = self._books
        self._take_accounts(rows["accounts"], unknown, need.inheriting)
        self._take_holds([*rows["holds"], *rows.get("claiming", ())], rows.get("refunded", ()))
        self._check_beside(need.rolling, now_ns)
        for tenant, key, hold, fingerprint, at_ns, answer in rows.get("claims", ()):
            self._claims.add((tenant, key))
            books.claims[tenant, key] = Claimed(hold, fingerprint, at_ns, answer)
        books.charged.update([self._outside[digest] for (digest,) in rows.get("outside", ())])
        for op, leg, kind, amount, legs in rows.get("booked", ()):
            amounts = list(books.booked.get(op, (0,) * legs))
            amounts[leg] = -amount if kind == _REFUND else amount
            books.booked[op] = tuple(amounts)
        return now_ns

    def _located(self, need: Wanted) -> tuple[set[int], dict[bytes, int], set[bytes]]:
        """Where the accounts are: by number; by line and first start; lines on which one may have to be made."""
        known = self._known
        by_number = set(known.previous)
        starts: dict[bytes, int] = {}
        unknown: set[bytes] = set()
        for key in dict.fromkeys(need.accounts):
            found = known.accounts.get(key)
            if found is not None:
                by_number.add(found[0])
                continue
            digest = line_digest(key[:3])
            unknown.add(digest)
            starts[digest] = min(stored_start(key[3]), starts.get(digest, stored_start(key[3])))
        for key in need.inheriting:
            found = known.accounts.get(key)
            if found is not None and found[1] is not None:
                by_number.add(found[1])
        for lines in (need.rolling, known.beside):
            for line, first_ns in lines.items():
                digest = line_digest(line)
                starts[digest] = min(first_ns, starts.get(digest, first_ns))
        return by_number, starts, unknown

    def _asked(
        self, need: Wanted, by_number: set[int], starts: dict[bytes, int], unknown: set[bytes]
    ) -> dict[str, Statement]:
        """The statements that lock and read, by what they give."""
        holds = binaries(list(dict.fromkeys([*need.holds, *self._orphans])))
        claims = binaries(sorted({claim_digest(*claim) for claim in need.claims}))
        answered = [each.id for each in self._commands if isinstance(each, ResolveHold) and each.answer is not None]
        asked: dict[str, Statement] = {"begin": ("BEGIN", ())}
        if unknown:
            locks = sorted(int.from_bytes(digest[:4], "big", signed=True) for digest in unknown)
            asked["lines"] = (sql.LOCK_LINES, (str(LOCK_CLASS), numbers(locks)))
        if starts or need.claims:
            lines = binaries(list(starts)), numbers(list(starts.values()))
            values = (numbers(list(by_number)), holds, claims, *lines, binaries(list(unknown)))
            asked["accounts"] = (sql.ACCOUNTS, values)
        else:
            asked["accounts"] = (sql.KNOWN_ACCOUNTS, (numbers(list(by_number)), holds))
        asked["now"] = (sql.NOW, ())
        asked["holds"] = (sql.HOLDS, (holds,))
        if need.claims or answered:
            asked["claims"] = (sql.CLAIMS, (claims, binaries(answered)))
        if need.claims:
            asked["claiming"] = (sql.CLAIMING, (claims,))
        if need.external_ids:
            self._outside = self._external()
            asked["outside"] = (sql.OUTSIDE, (binaries(list(self._outside)),))
        if need.booked:
            asked["booked"] = (sql.BOOKED, (binaries(need.booked),))
        if need.refunded:
            asked["refunded"] = (sql.REFUNDED, (binaries(need.refunded),))
        return asked

    def _take_accounts(
        self, rows: Iterable[tuple[Any, ...]], unknown: set[bytes], inheriting: Iterable[AccountKey]
    ) -> None:
        books, known, numbered = self._books, self._known, self._numbered
        before: dict[int, int] = {}
        for number, *row in rows:
            account = numbered[number] = account_of(number, row)
            books.accounts[account.key] = account
            self._terms[number] = terms_row(account)
            known.accounts[account.key] = (number, row[-1])
            if row[-1] is not None:
                before[number] = row[-1]
            if unknown and line_digest(account.line) in unknown:
                latest = books.latest.get(account.line)
                if latest is None or stored_start(latest.key[3]) < stored_start(account.key[3]):
                    books.latest[account.line] = account
        for number, previous in before.items():
            numbered[number].previous = numbered.get(previous)
        for key in inheriting:
            heir = books.accounts.get(key)
            if heir is not None and heir.previous is None and heir.number in before:
                known.previous.add(before[heir.number])
                raise BeginAgain

    def _take_holds(self, rows: Iterable[tuple[Any, ...]], refunded: Iterable[tuple[Any, ...]]) -> None:
        given: dict[bytes, dict[int, int]] = {}
        for hold_id, leg, amount in refunded:
            given.setdefault(hold_id, {})[leg] = amount
        numbered = self._numbered
        for hold_id, tenant, state, on_orphan, placed_ns, accounts, held, charged in rows:
            try:
                legs = tuple([(numbered[number], amount) for number, amount in zip(accounts, held, strict=True)])
            except KeyError:  # it was placed after the accounts had been looked for
                raise BeginAgain from None
            back = given.get(hold_id)
            self._books.holds[hold_id] = Hold(
                hold_id,
                tenant,
                legs,
                ON_ORPHAN[on_orphan],
                placed_ns,
                STATES[state],
                tuple(charged),
                refunded=() if back is None else tuple([back.get(leg, 0) for leg in range(len(legs))]),
            )

    def _check_beside(self, rolling: dict[LineKey, int], now_ns: int) -> None:
        """Begin again where a settling will look at other accounts than were loaded."""
        holds = self._books.holds
        ending = {each.id for each in self._commands if isinstance(each, ResolveHold)}.union(self._orphans)
        beside = wanted_beside([holds[each] for each in ending if each in holds], now_ns)
        known = self._known.beside
        for line, first_ns in beside.items():
            if first_ns < min(rolling.get(line, now_ns), known.get(line, now_ns)):
                known[line] = first_ns
                raise BeginAgain

    def _external(self) -> dict[bytes, tuple[str, str]]:
        """Sources and external ids of charges, by digest."""
        found = [
            (storable(each.source), storable(each.external_id))
            for each in self._commands
            if isinstance(each, ResolveHold) and each.source is not None and each.external_id is not None
        ]
        return {outside_digest(*each): each for each in found}

    # storing

    def _store(self, now_ns: int) -> None:
        """Write what changed, and commit."""
        books = self._books
        new = [account for account in books.touched.values() if not account.number]
        if new:
            self._store_new(new)
        writes = [
            *self._changed_accounts(),
            *self._changed_holds(),
            *self._new_entries(),
            *self._changed_claims(),
        ]
        if books.alerts:
            writes.append((sql.NEW_ALERTS, (str(now_ns), texts([alert_json(alert) for alert in books.alerts]))))
        if books.refusals:
            if not writes and not new:  # a refusal that is forgotten is no loss
                writes.append(("SET LOCAL synchronous_commit = off", ()))
            rows = [denial_row(refusal) for refusal in books.refusals]
            writes.append((sql.NEW_DENIALS, _columns(_DENIAL, rows)))
        self._db.exchange([*writes, ("COMMIT", ())])
        for account in new:
            previous = None if account.previous is None else account.previous.number
            self._known.accounts[account.key] = (account.number, previous)

    def _store_new(self, accounts: list[Account]) -> None:
        rows = [(line_digest(account.line), *account_row(account)) for account in accounts]
        (stored,) = self._db.exchange([(sql.NEW_ACCOUNTS, _columns(_ACCOUNT, rows))])
        given = {(bytes(line), starts_ns): number for number, line, starts_ns in stored}
        for account in accounts:
            account.number = given[line_digest(account.line), stored_start(account.key[3])]
            self._terms[account.number] = terms_row(account)
            self._numbered[account.number] = account

    def _changed_accounts(self) -> list[Statement]:
        amounts: list[tuple[Any, ...]] = []
        terms: list[tuple[Any, ...]] = []
        for account in self._books.touched.values():
            row = terms_row(account)
            if row == self._terms[account.number]:
                amounts.append((account.number, account.spent, account.held))
                continue
            terms.append(
                (
                    account.number,
                    account.spent,
                    account.held,
                    account.tenant and str(account.tenant),
                    account.limit,
                    account.carried,
                    grants_json(account.grants),
                    terms_json(account.terms),
                    alerted_json(account.alerted),
                )
            )
        return [*_many(sql.AMOUNTS, _AMOUNTS, amounts), *_many(sql.TERMS, _TERMS, terms)]

    def _changed_holds(self) -> list[Statement]:
        new: list[tuple[Any, ...]] = []
        ended: list[tuple[Any, ...]] = []
        for hold_id, before in self._books.changed.items():
            hold = self._books.holds[hold_id]
            state, charged = TEXTS[hold.state], numbers(hold.charged)
            if before is not None:
                ended.append((hold_id, state, charged, hold.reason, hold.resolved_ns))
                continue
            accounts = numbers([account.number for account, _ in hold.legs])
            held = numbers([amount for _, amount in hold.legs])
            tenant = None if hold.tenant is None else str(hold.tenant)
            new.append(
                (
                    hold_id, tenant, state, TEXTS[hold.on_orphan], hold.placed_ns, accounts, held, charged,
                    hold.reason, hold.resolved_ns,
                )
            )  # fmt: skip
        statements = [*_many(sql.ENDED_HOLDS, _ENDED, ended), *_many(sql.DRAWN_HOLDS, _DRAWN, self._drawn_from())]
        if new:
            statements.append((sql.NEW_HOLDS, (binary(self._owner), *_columns(_HOLD, new))))
        return statements

    def _drawn_from(self) -> list[tuple[Any, ...]]:
        """What the leases hold that were drawn from, if they had been stored before."""
        drawn = {
            each.drawn.lease for each in self._commands if isinstance(each, ResolveHold) and each.drawn is not None
        }
        changed, holds = self._books.changed, self._books.holds
        return [
            (lease, numbers([amount for _, amount in holds[lease].legs]))
            for lease in drawn
            if changed.get(lease) is not None
        ]

    def _new_entries(self) -> list[Statement]:
        first: set[bytes] = set()
        rows = []
        for line in self._books.lines:
            outside = None
            if line.source is not None and line.external_id is not None and line.op not in first:
                first.add(line.op)
                outside = outside_digest(line.source, line.external_id)
            rows.append((*entry_row(line, self._books), outside))
        return _many(sql.NEW_ENTRIES, _ENTRY, rows)

    def _changed_claims(self) -> list[Statement]:
        new: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        for tenant, key in sorted(self._books.claimed):
            claimed = self._books.claims[tenant, key]
            digest = claim_digest(tenant, key)
            rest = (claimed.hold, claimed.fingerprint, claimed.at_ns, claimed.answer)
            if (tenant, key) in self._claims:
                changed.append((digest, *rest))
            else:
                new.append((digest, str(tenant), key, *rest))
        return [*_many(sql.NEW_CLAIMS, _CLAIM, new), *_many(sql.CHANGED_CLAIMS, _CLAIM_CHANGE, changed)]


# digests: keys of one size, which an index takes whatever the length of what they stand for


@lru_cache(maxsize=16_384)
def line_digest(line: LineKey) -> bytes:
    """What identifies a line of accounts in every process."""
    budget, period, unit = line
    return _digest([*budget], str(period), unit)


def claim_digest(tenant: str, key: str) -> bytes:
    """What identifies a claim."""
    return _digest(str(tenant), key)


def outside_digest(source: str, external_id: str) -> bytes:
    """What identifies what a provider charges for."""
    return _digest(source, external_id)


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


# arrays

_B: Final = binaries
_N: Final = numbers
_T: Final = texts
_ACCOUNT: Final = (_B, _T, _T, _T, _N, _N, _T, _N, _N, _N, _N, _T, _T, _T, _N)
_AMOUNTS: Final = (_N, _N, _N)
_TERMS: Final = (_N, _N, _N, _T, _N, _N, _T, _T, _T)
_HOLD: Final = (_B, _T, _T, _T, _N, _T, _T, _T, _T, _N)
_ENDED: Final = (_B, _T, _T, _T, _N)
_DRAWN: Final = (_B, _T)
_ENTRY: Final = (_B, _N, _N, _N, _T, _N, _N, _N, _T, _N, _T, _T, _T, _T, _B, _B)
_CLAIM: Final = (_B, _T, _T, _B, _B, _N, _B)
_CLAIM_CHANGE: Final = (_B, _B, _B, _N, _B)
_DENIAL: Final = (_B, _T, _T, _T, _T, _N, _N, _N, _N)


def _columns(kinds: tuple[Callable[[Sequence[Any]], str], ...], rows: Sequence[tuple[Any, ...]]) -> tuple[str, ...]:
    """Rows as one array a column."""
    return tuple([encode(column) for encode, column in zip(kinds, zip(*rows, strict=True), strict=True)])


def _many(
    statement: str, kinds: tuple[Callable[[Sequence[Any]], str], ...], rows: Sequence[tuple[Any, ...]]
) -> list[Statement]:
    return [(statement, _columns(kinds, rows))] if rows else []
