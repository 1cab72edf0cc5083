"""A ledger in memory: for tests, for trying out, and for one process whose spending may be forgotten with it."""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Final

from tenantguard.adapters.ledger.backend import BESIDE_NS, DENIALS_MAX, OUTBOX_LEASE_NS, decide
from tenantguard.adapters.ledger.encoding import alert_json, balance, counts, denial_of, denial_row
from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.errors import PortError
from tenantguard.flow.ports import Correct, Denial, Entry, Grant, Notice, OpenHold, PlaceHold
from tenantguard.model.ledger import CarryOver, EntryKind, HoldState, OpenLeg
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import CLAIM_KEPT_NS, HOLDING, Books, account_key
from tenantguard.rules.windows import counts_until_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenantguard.flow.ports import Balance, LedgerCommand, System
    from tenantguard.rules.ledger import Account, AccountKey, Hold, Line

HISTORY_MAX: Final = 100_000


class _Posted:
    """A notice and what became of it."""

    __slots__ = ("due_ns", "kind", "made_ns", "payload", "tries")

    def __init__(self, kind: str, payload: str, made_ns: int) -> None:
        self.kind = kind
        self.payload = payload
        self.made_ns = made_ns
        self.due_ns = made_ns
        self.tries = 0

    def notice(self, seq: int) -> Notice:
        return Notice(seq, self.kind, json.loads(self.payload), self.made_ns, self.tries, self.due_ns)


class MemoryLedger:
    """Answers at once. Nothing is shared with other processes, and nothing outlives this one.

    It remembers at least the last ``history_max`` ended holds and entries; an older id can be placed, and an older
    external id charged, once more, and an older charge not be refunded. What is spent and held in a window that still
    counts is never forgotten: beyond twice ``history_max`` accounts, placing on a new one breaks with
    :class:`~tenantguard.errors.PortError`. Of notices nobody takes the last ``history_max`` are kept.
    """

    def __init__(self, system: System, *, history_max: int = HISTORY_MAX) -> None:
        self._clock = system.clock
        self._history_max = history_max
        self._accounts_max = 2 * history_max
        self._lock = threading.Lock()
        self._books = Books()
        self._spent_before: Counter[AccountKey] = Counter()
        self._granted_before: Counter[AccountKey] = Counter()
        self._forgotten = 0
        self._forget_at = 2 * history_max
        self._denials: deque[Denial] = deque(maxlen=DENIALS_MAX)
        self._posted: OrderedDict[int, _Posted] = OrderedDict()
        self._last_posted = 0

    def submit(self, command: LedgerCommand) -> LedgerPromise:
        """Decide ``command``; the promise is already kept."""
        promise = LedgerPromise(deadline_s=0.0)
        with self._lock:
            now_ns = self._clock.wall_ns()
            books = self._books
            if max(len(books.holds), len(books.lines)) > self._forget_at:
                self._forget(now_ns)
            answer = self._refuse_growth(command, now_ns) or decide(books, command, now_ns)
            if books.alerts or books.refusals:
                self._put_aside(now_ns)
            books.changed.clear()
            books.touched.clear()
            books.claimed.clear()
        if isinstance(answer, Exception):
            promise.fail(answer)
        else:
            promise.keep(answer)
        return promise

    def balances(self, tenant: TenantId | None = None, *, at_ns: int | None = None) -> list[Balance]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; what is remembered."""
        seen_ns = self._clock.wall_ns() if at_ns is None else at_ns
        with self._lock:
            found = [
                balance(account, seen_ns)
                for account in self._books.accounts.values()
                if tenant is None or account.tenant == tenant
            ]
        return found if at_ns is None else [each for each in found if counts(each, at_ns)]

    def entries(
        self,
        tenant: TenantId | None = None,
        limit: int = 100,
        *,
        after_seq: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> list[Entry]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; what is remembered."""
        with self._lock:
            first = max((after_seq or 0) - self._forgotten, 0)
            numbered = list(enumerate(self._books.lines[first:], self._forgotten + first + 1))
        if after_seq is None:
            numbered.reverse()
        found = [
            (seq, line)
            for seq, line in numbered
            if (tenant is None or line.tenant == tenant)
            and (since_ns is None or line.at_ns >= since_ns)
            and (until_ns is None or line.at_ns < until_ns)
        ]
        return [_entry(seq, line) for seq, line in found[: max(limit, 0)]]

    def holds(self, tenant: TenantId | None = None) -> list[OpenHold]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        with self._lock:
            holding = sorted(
                [hold for hold in self._books.holds.values() if hold.state in HOLDING], key=lambda hold: hold.id
            )
            return [_open(hold) for hold in holding if tenant is None or hold.tenant == tenant]

    def denials(self, tenant: TenantId | None = None, limit: int = 100) -> list[Denial]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; at most ``DENIALS_MAX`` are kept."""
        with self._lock:
            found = [denial for denial in reversed(self._denials) if tenant is None or denial.tenant == tenant]
        return found[: max(limit, 0)]

    def audit(self) -> list[str]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; what is remembered."""
        with self._lock:
            return list(self._broken())

    def outbox(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`; the lease is ``OUTBOX_LEASE_NS``."""
        with self._lock:
            now_ns = self._clock.wall_ns()
            due = [(seq, posted) for seq, posted in self._posted.items() if posted.due_ns <= now_ns][: max(limit, 0)]
            for _, posted in due:
                posted.due_ns = now_ns + OUTBOX_LEASE_NS
                posted.tries += 1
            return [posted.notice(seq) for seq, posted in due]

    def delivered(self, seq: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._lock:
            self._posted.pop(seq, None)

    def retry(self, seq: int, due_ns: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._lock:
            posted = self._posted.get(seq)
            if posted is not None:
                posted.due_ns = due_ns

    def notices(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        with self._lock:
            return [posted.notice(seq) for seq, posted in list(reversed(self._posted.items()))[: max(limit, 0)]]

    def close(self) -> None:
        """Nothing to release."""

    def _put_aside(self, now_ns: int) -> None:
        """Denials and notices, beside the books."""
        books = self._books
        self._denials.extend(denial_of(denial_row(refusal)) for refusal in books.refusals)
        while self._denials and self._denials[0].at_ns <= now_ns - BESIDE_NS:
            self._denials.popleft()
        for alert in books.alerts:
            self._last_posted += 1
            self._posted[self._last_posted] = _Posted("alert", alert_json(alert), now_ns)
        while len(self._posted) > self._history_max:
            self._posted.popitem(last=False)
        books.refusals.clear()
        books.alerts.clear()

    def _broken(self) -> Iterator[str]:
        books = self._books
        spent, granted = Counter(self._spent_before), Counter(self._granted_before)
        held: Counter[AccountKey] = Counter()
        charged: Counter[tuple[bytes, int]] = Counter()
        refunded: Counter[tuple[bytes, int]] = Counter()
        for line in books.lines:
            if line.kind is EntryKind.GRANT:
                granted[line.account.key] += line.amount
                continue
            spent[line.account.key] += line.amount
            if line.kind is EntryKind.CHARGE:
                charged[line.op, line.leg] += line.amount
            elif line.of is not None:
                refunded[line.of, line.leg] -= line.amount
        for hold in books.holds.values():
            if hold.state in HOLDING:
                for account, amount in hold.legs:
                    held[account.key] += amount
        for key, account in books.accounts.items():
            if account.spent != spent[key]:
                yield f"account {key}: spent {account.spent} and entries of {spent[key]}"
            if account.held != held[key]:
                yield f"account {key}: held {account.held} and open legs of {held[key]}"
            if sum(grant.amount for grant in account.grants) != granted[key]:
                yield f"account {key}: grants and their entries differ"
        booked = Counter((line.op, line.leg, line.kind) for line in books.lines)
        for (op, leg, kind), number in booked.items():
            if number > 1:
                yield f"{kind} {op.hex()} leg {leg}: {number} entries"
        for (op, leg), amount in refunded.items():
            if (op, leg) in charged and amount > charged[op, leg]:
                yield f"hold {op.hex()} leg {leg}: {amount} given back of {charged[op, leg]}"

    def _refuse_growth(self, command: LedgerCommand, now_ns: int) -> PortError | None:
        accounts = self._books.accounts
        if len(accounts) < self._accounts_max:
            return None
        if isinstance(command, PlaceHold):
            legs = command.legs
        elif isinstance(command, Grant | Correct):
            legs = (command.leg,)
        else:
            return None
        if all(account_key(leg, now_ns) in accounts for leg in legs):
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
        for claim, claimed in list(books.claims.items()):
            hold = books.holds.get(claimed.hold)
            if hold is None or (hold.state not in HOLDING and claimed.at_ns <= now_ns - CLAIM_KEPT_NS):
                del books.claims[claim]
        for line in books.lines[:-keep]:
            self._forget_line(line)
        self._forgotten += len(books.lines[:-keep])
        del books.lines[:-keep]
        self._forget_accounts(now_ns)
        self._forget_at = max(len(books.holds), len(books.lines)) + keep

    def _forget_line(self, line: Line) -> None:
        books = self._books
        before = self._granted_before if line.kind is EntryKind.GRANT else self._spent_before
        before[line.account.key] += line.amount
        if line.kind is not EntryKind.CHARGE:
            books.booked.pop(line.op, None)
        if line.source is not None and line.external_id is not None:
            books.charged.discard((line.source, line.external_id))

    def _forget_accounts(self, now_ns: int) -> None:
        books = self._books
        used = {line.account.key for line in books.lines}
        open_ended = [hold for hold in books.holds.values() if hold.state in HOLDING | {HoldState.EXPIRED}]
        used.update(account.key for hold in open_ended for account, _ in hold.legs)
        for key, account in list(books.accounts.items()):
            if key in used or not self._is_past(account, now_ns):
                continue
            if books.latest.get(account.line) is account:
                if account.terms.carry is not CarryOver.NONE:
                    continue
                del books.latest[account.line]
            account.previous = None
            del books.accounts[key]
            del self._spent_before[key]
            del self._granted_before[key]

    def _is_past(self, account: Account, now_ns: int) -> bool:
        until_ns = counts_until_ns(account.key[1], account.key[3])
        return until_ns is not None and until_ns <= now_ns


def _entry(seq: int, line: Line) -> Entry:
    budget, period, unit, starts_ns = line.account.key
    return Entry(
        seq,
        line.op,
        line.leg,
        line.kind,
        TenantId(line.tenant),
        budget,
        str(period),
        unit,
        starts_ns,
        line.amount,
        line.absorbed,
        line.at_ns,
        line.reason,
        json.loads(line.evidence),
        line.source,
        line.external_id,
        line.of,
    )


def _open(hold: Hold) -> OpenHold:
    legs = tuple(
        OpenLeg(account.key[0], str(account.key[1]), account.key[2], account.key[3], held)
        for account, held in hold.legs
    )
    return OpenHold(hold.id, hold.tenant or "", hold.state, hold.placed_ns, hold.reason, legs)
