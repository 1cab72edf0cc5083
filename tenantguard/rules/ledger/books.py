"""Accounts and holds, and what each command makes of them.

Rules of this file
1. Amounts are integers of at most 64 bits. Nothing is ever a float.
2. A command decides or nothing: it is checked whole before the first change.
3. Nothing here knows a clock, a thread or a database; ``now_ns`` is an argument.
4. No command makes ``spent + held`` of an account pass a strict limit that it brings: what does not fit is refused
   or, where it was used already, recorded as absorbed. A limit below what is spent only refuses what follows.
5. A charge belongs to the window of its hold, however late it comes; so does its refund.
6. Every command is known by its id: repeated, it answers as the first time. A lease answers what it holds.
7. A lease is a hold of which parts are given out by whoever placed it. A part becomes a hold when it is ended: it is
   drawn, and what all accounts hold together stays the same. What is drawn from a lease that has ended is late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tenantguard.errors import LayerError
from tenantguard.model.ledger import (
    UNITS_MAX,
    Barred,
    Booked,
    CarryOver,
    Conflict,
    EntryKind,
    Exhausted,
    Held,
    HoldState,
    OnOrphan,
    Repeated,
    Resolved,
    Unbookable,
)
from tenantguard.rules.ledger.accounts import Account, Grant, account_key, alerts, carried, room
from tenantguard.rules.ledger.states import HOLDING, OF_ORPHAN, TRANSITIONS, Input
from tenantguard.rules.windows import span, window

if TYPE_CHECKING:
    from tenantguard.model.ledger import Alert, Claim, Drawn, Leg
    from tenantguard.model.period import Period
    from tenantguard.rules.ledger.accounts import AccountKey

CLAIM_KEPT_NS: Final = 7 * 86_400 * 1_000_000_000
"""Seven days after its hold was placed an idempotency key is free again, unless that hold is still open."""

_PERCENT: Final = 100
_BARRED: Final = Barred()
_CONFLICT: Final = Conflict()


@dataclass(slots=True)
class Hold:
    """One hold: its legs as accounts with the amounts held, and how it ended. ``tenant`` None: barred.

    ``refunded`` is what was given back of each leg's charge, empty while that is nothing.
    """

    id: bytes
    tenant: str | None
    legs: tuple[tuple[Account, int], ...]
    on_orphan: OnOrphan
    placed_ns: int
    state: HoldState = HoldState.PENDING
    charged: tuple[int, ...] = ()
    reason: str | None = None
    resolved_ns: int | None = None
    refunded: tuple[int, ...] = ()


@dataclass(slots=True)
class Line:
    """One entry as the rule writes it: what the command ``op`` booked on ``account``, leg number ``leg`` of it.

    ``amount`` is signed: charges and grants add, refunds take away. ``of`` is the hold of a charge that is refunded.
    ``evidence`` is JSON text and means nothing to the rule.
    """

    op: bytes
    leg: int
    kind: EntryKind
    account: Account
    tenant: str
    amount: int
    absorbed: int
    at_ns: int
    reason: str
    evidence: str
    source: str | None = None
    external_id: str | None = None
    of: bytes | None = None


@dataclass(slots=True)
class Claimed:
    """Under a caller's idempotency key: which hold has it, what was asked, and the stored response if any."""

    hold: bytes
    fingerprint: bytes
    at_ns: int
    answer: bytes | None = None


@dataclass(slots=True)
class Refusal:
    """One placing that found no room, for the record."""

    hold: bytes
    tenant: str
    account: Account
    needed: int
    available: int
    at_ns: int


class Books:
    """Accounts and holds, and what a command makes of them.

    They hold everything (in memory) or what a batch of commands touches (loaded by a backend): every hold, account,
    claim, booked command and charged external id that the commands name and that exists must be in them, and

    * for a leg whose period rolls: every account of its :func:`span`,
    * for an account that is not there yet: the latest of its line, in ``latest``,
    * for a leg that carries over and an account that is there: its ``previous``,
    * for a hold that is settled, and a leg of it whose period rolls: every account that counts beside it now, if the
      settling is late or the account has thresholds.

    What was changed is collected for whoever stores it, and then forgotten by ``stored``: ``lines`` (entries),
    ``alerts``, ``refusals``, ``changed`` (holds that were placed, barred, ended or drawn from, with the state each
    was in at first, None: in none), ``touched`` (accounts) and ``claimed`` (claims that are new or got an answer).
    """

    __slots__ = (
        "accounts",
        "alerts",
        "booked",
        "changed",
        "charged",
        "claimed",
        "claims",
        "holds",
        "latest",
        "lines",
        "refusals",
        "touched",
    )

    def __init__(self) -> None:
        self.accounts: dict[AccountKey, Account] = {}
        self.latest: dict[tuple[tuple[str, ...], Period, str], Account] = {}
        self.holds: dict[bytes, Hold] = {}
        self.claims: dict[tuple[str, str], Claimed] = {}
        self.booked: dict[bytes, tuple[int, ...]] = {}
        self.charged: set[tuple[str, str]] = set()
        self.lines: list[Line] = []
        self.alerts: list[Alert] = []
        self.refusals: list[Refusal] = []
        self.changed: dict[bytes, HoldState | None] = {}
        self.touched: dict[int, Account] = {}
        self.claimed: set[tuple[str, str]] = set()

    def stored(self) -> None:
        """What was changed so far is stored."""
        self.lines.clear()
        self.alerts.clear()
        self.refusals.clear()
        self.changed.clear()
        self.touched.clear()
        self.claimed.clear()

    # holds

    def place(
        self,
        hold_id: bytes,
        tenant: str,
        legs: tuple[Leg, ...],
        on_orphan: OnOrphan,
        now_ns: int,
        claim: Claim | None = None,
        share: int | None = None,
    ) -> Held | Exhausted | Barred | Repeated | Conflict:
        """Hold between ``least`` and ``most`` on every leg, or nothing and name the first leg that has no room.

        A soft leg refuses nothing: near 2**63 it holds less than ``least``.

        A ``claim`` is the caller's own idempotency key: while the hold that has it is open, and for ``CLAIM_KEPT_NS``
        where it was settled, no other hold is placed under it. A ``share`` is for leases: as if only so many percent
        of what is left were there, and nobody is denied anything. Raises :class:`LayerError` where a leg's amounts
        are no amounts, or the share no share.
        """
        known = self.holds.get(hold_id)
        if known is not None:
            return _BARRED if known.tenant is None else Held(tuple([amount for _, amount in known.legs]))
        if share is not None and (type(share) is not int or not 1 <= share <= _PERCENT):
            raise LayerError(f"a share is a whole percentage from 1 to {_PERCENT}")
        if claim is not None:
            taken = self.taken(tenant, claim, now_ns)
            if taken is not None:
                return taken
        placed: list[tuple[Account, int]] = []
        new: list[Account] = []
        inheriting: list[tuple[Account, int]] = []
        for index, leg in enumerate(legs):
            _check_leg(leg)
            account = self.accounts.get(account_key(leg, now_ns))
            if account is None:
                account = self._new_account(leg, tenant, placed, now_ns)
                new.append(account)
            counting = (account, *self._beside(account, now_ns)) if leg.period.buckets else (account,)
            inherited = 0 if leg.terms.carry is CarryOver.NONE else carried(leg.terms, leg.limit, account)
            available = room(counting, leg.limit, leg.terms, inherited, now_ns)
            if placed:
                available = max(available - sum([amount for other, amount in placed if other is account]), 0)
            if share is not None:
                available = available * share // _PERCENT
            granted = min(leg.most, available)
            if granted < leg.least and leg.terms.strict:
                if share is None:
                    self.refusals.append(Refusal(hold_id, tenant, account, leg.least, available, now_ns))
                spent = sum([each.spent for each in counting])
                held = sum([each.held for each in counting])
                return Exhausted(index, leg.least, available, spent, held, account.window_ends_ns)
            placed.append((account, granted))
            if inheriting or inherited != account.carried:
                inheriting.append((account, inherited))
        for account in new:
            self._keep(account)
        for account, inherited in inheriting:
            account.carried = inherited
        for leg, (account, granted) in zip(legs, placed, strict=True):
            account.held += granted
            account.limit = _recorded(leg.limit)
            account.terms = leg.terms
            if account.tenant != tenant:
                account.tenant = None
            self.touched[id(account)] = account
            if leg.terms.thresholds:
                self._alert(account, now_ns)
        self.holds[hold_id] = Hold(hold_id, tenant, tuple(placed), on_orphan, now_ns)
        self.changed[hold_id] = None
        if claim is not None:
            self.claims[tenant, claim.key] = Claimed(hold_id, claim.fingerprint, now_ns)
            self.claimed.add((tenant, claim.key))
        return Held(tuple([granted for _, granted in placed]))

    def resolve(
        self,
        hold_id: bytes,
        amounts: tuple[int, ...] | None,
        reason: str,
        evidence: str,
        source: str | None,
        external_id: str | None,
        now_ns: int,
        *,
        review: bool = False,
        answer: tuple[str, bytes] | None = None,
        drawn: Drawn | None = None,
    ) -> Resolved:
        """Settle ``amounts`` or, where they are None, void; an id that nobody placed is barred.

        ``review`` leaves the hold as it is, for an operator to end. ``answer`` is a claim's key, and the response to
        keep under it where the hold has that claim. The second charge for one ``(source, external_id)`` is voided.
        A hold that is ``drawn`` from a lease begins here, if it is not known and the lease is. Raises
        :class:`LayerError` where ``amounts`` do not fit the legs.
        """
        hold = self.holds.get(hold_id)
        if hold is None and drawn is not None:
            hold = self._draw(hold_id, drawn, amounts, now_ns)
        if hold is None:
            self.holds[hold_id] = Hold(hold_id, None, (), OnOrphan.VOID, now_ns, HoldState.VOIDED, (), reason, now_ns)
            self.changed[hold_id] = None
            return Resolved(HoldState.VOIDED, ())
        if not TRANSITIONS[hold.state]:
            return Resolved(hold.state, hold.charged)
        if review:
            return self._end(hold, Input.REVIEW, reason, now_ns)
        if amounts is None:
            return self._end(hold, Input.VOID, reason, now_ns)
        _check_amounts(amounts, hold)
        outside = None if source is None or external_id is None else (source, external_id)
        if outside is not None and outside in self.charged:
            return self._end(hold, Input.VOID, "charged before", now_ns)
        lines_before = len(self.lines)
        resolved = self._end(hold, Input.SETTLE, reason, now_ns, amounts, evidence, outside)
        if outside is not None and len(self.lines) > lines_before:
            self.charged.add(outside)
        if answer is not None and hold.tenant is not None:
            self._keep_answer(hold, *answer)
        return resolved

    def lose(self, hold_id: bytes, now_ns: int) -> Resolved:
        """End a pending hold whose process was lost, as it said when it was placed."""
        hold = self.holds[hold_id]
        if hold.state is not HoldState.PENDING:
            return Resolved(hold.state, hold.charged)
        held = tuple([amount for _, amount in hold.legs])
        return self._end(hold, OF_ORPHAN[hold.on_orphan], "orphaned", now_ns, held)

    def taken(self, tenant: str, claim: Claim, now_ns: int) -> Repeated | Conflict | None:
        """What a placing under ``claim`` is refused with, None where the key is free."""
        claimed = self.claims.get((tenant, claim.key))
        hold = self.holds.get(claimed.hold) if claimed is not None else None
        if claimed is None or hold is None or hold.state in {HoldState.VOIDED, HoldState.EXPIRED}:
            return None
        if hold.state is HoldState.SETTLED and claimed.at_ns <= now_ns - CLAIM_KEPT_NS:
            return None
        if claimed.fingerprint != claim.fingerprint:
            return _CONFLICT
        units = tuple([account.key[2] for account, _ in hold.legs])
        return Repeated(hold.id, hold.state, hold.charged, claimed.answer, units)

    # what operators book

    def refund(
        self, op: bytes, hold_id: bytes, amounts: tuple[int, ...] | None, reason: str, evidence: str, now_ns: int
    ) -> Booked | Unbookable:
        """Give back ``amounts`` of what a settled hold was charged on each leg, None: all that was not given back."""
        booked = self.booked.get(op)
        if booked is not None:
            return Booked(booked)
        hold = self.holds.get(hold_id)
        if hold is None or hold.state is not HoldState.SETTLED:
            return Unbookable("nothing was charged under this hold")
        refunded = hold.refunded or (0,) * len(hold.legs)
        left = tuple([charged - given for charged, given in zip(hold.charged, refunded, strict=True)])
        if amounts is None:
            amounts = left
        _check_amounts(amounts, hold)
        if any(amount > rest for amount, rest in zip(amounts, left, strict=True)):
            return Unbookable("more than was charged and not given back yet")
        if not any(amounts):
            return Unbookable("nothing is left to give back")
        for account, _ in hold.legs:
            given = sum([amount for (other, _), amount in zip(hold.legs, amounts, strict=True) if other is account])
            if given > account.spent:
                return Unbookable("a correction has given it back already")
        for leg, ((account, _), amount) in enumerate(zip(hold.legs, amounts, strict=True)):
            if amount:
                account.spent -= amount
                self._keep(account)
                self._book(
                    op, leg, EntryKind.REFUND, account, hold.tenant, -amount, reason, evidence, now_ns, hold.id
                )
        hold.refunded = tuple([given + amount for given, amount in zip(refunded, amounts, strict=True)])
        self.booked[op] = amounts
        return Booked(amounts)

    def grant(
        self, op: bytes, tenant: str, leg: Leg, expires_ns: int | None, reason: str, evidence: str, now_ns: int
    ) -> Booked | Unbookable:
        """Raise the limit of ``leg``'s account by ``leg.most``, in the window that runs, until ``expires_ns``."""
        booked = self.booked.get(op)
        if booked is not None:
            return Booked(booked)
        _check_leg(leg)
        if leg.most == 0:
            return Unbookable("a grant of nothing")
        if expires_ns is not None and type(expires_ns) is not int:
            raise LayerError("a grant expires at a time in whole nanoseconds, or never")
        if expires_ns is not None and expires_ns <= now_ns:
            return Unbookable("the grant would have expired already")
        account = self._account(leg, tenant, now_ns)
        if sum([grant.amount for grant in account.grants]) + leg.most > UNITS_MAX:
            return Unbookable("grants of one window fit in 64 bits")
        account.grants = (*account.grants, Grant(leg.most, expires_ns))
        self._inherit(account, leg)
        self._keep(account)
        self._book(op, 0, EntryKind.GRANT, account, tenant, leg.most, reason, evidence, now_ns)
        self.booked[op] = (leg.most,)
        return Booked((leg.most,))

    def correct(
        self, op: bytes, tenant: str, leg: Leg, amount: int, reason: str, evidence: str, now_ns: int
    ) -> Booked | Unbookable:
        """Add ``amount``, which may be negative, to what is spent on ``leg``'s account in the window that runs."""
        booked = self.booked.get(op)
        if booked is not None:
            return Booked(booked)
        _check_leg(leg)
        if type(amount) is not int:
            raise LayerError("a correction is a whole number of units")
        if amount == 0:
            return Unbookable("a correction of nothing")
        account = self._account(leg, tenant, now_ns)
        if not 0 <= account.spent + amount <= UNITS_MAX - account.held:
            return Unbookable("an account cannot have spent less than nothing, or more than 64 bits hold")
        account.spent += amount
        self._inherit(account, leg)
        self._keep(account)
        self._book(op, 0, EntryKind.CORRECTION, account, tenant, amount, reason, evidence, now_ns)
        self._alert(account, now_ns)
        self.booked[op] = (amount,)
        return Booked((amount,))

    # the parts

    def _draw(self, hold_id: bytes, drawn: Drawn, amounts: tuple[int, ...] | None, now_ns: int) -> Hold | None:
        """A new hold of what is held for it under a lease, at most what that still holds; None for no such lease.

        Where the lease has ended its money was released, so the hold begins as one that expired.
        """
        lease = self.holds.get(drawn.lease)
        if lease is None or lease.tenant is None:
            return None
        if any(account.key[1].buckets for account, _ in lease.legs):
            raise LayerError("a lease holds nothing in a rolling period: what counts in it changes by itself")
        _check_amounts(drawn.portions, lease)
        if amounts is not None:
            _check_amounts(amounts, lease)
        legs: list[tuple[Account, int]] = []
        rest: list[tuple[Account, int]] = []
        for (account, held), portion in zip(lease.legs, drawn.portions, strict=True):
            taken = min(portion, held)
            legs.append((account, taken))
            rest.append((account, held - taken))
        hold = Hold(hold_id, lease.tenant, tuple(legs), OnOrphan.VOID, now_ns)
        if lease.state is HoldState.PENDING:
            lease.legs = tuple(rest)
            self.changed.setdefault(lease.id, HoldState.PENDING)
        else:
            hold.state = HoldState.EXPIRED
        self.holds[hold_id] = hold
        self.changed[hold_id] = None
        return hold

    def _keep_answer(self, hold: Hold, key: str, answer: bytes) -> None:
        claimed = self.claims.get((hold.tenant or "", key))
        if claimed is not None and claimed.hold == hold.id:
            claimed.answer = answer
            self.claimed.add((hold.tenant or "", key))

    def _end(
        self,
        hold: Hold,
        what: Input,
        reason: str,
        now_ns: int,
        amounts: tuple[int, ...] = (),
        evidence: str = "{}",
        outside: tuple[str, str] | None = None,
    ) -> Resolved:
        """Take one transition, if there is one, and answer how the hold stands."""
        before, after = hold.state, TRANSITIONS[hold.state].get(what)
        if after is None:
            return Resolved(before, hold.charged)
        holding = before in HOLDING
        if holding and after not in HOLDING:
            for account, held in hold.legs:
                account.held -= held
                self.touched[id(account)] = account
        charged = (0,) * len(hold.legs)
        if after is HoldState.SETTLED:
            charged = self._charge(hold, amounts, reason, evidence, outside, now_ns, late=not holding)
        self.changed.setdefault(hold.id, before)
        hold.state, hold.charged, hold.reason, hold.resolved_ns = after, charged, reason, now_ns
        return Resolved(after, charged)

    def _charge(
        self,
        hold: Hold,
        amounts: tuple[int, ...],
        reason: str,
        evidence: str,
        outside: tuple[str, str] | None,
        now_ns: int,
        *,
        late: bool,
    ) -> tuple[int, ...]:
        """Charge each leg at most what it held and, late, at most what its limit still allows; a soft one, all."""
        source, external_id = outside or (None, None)
        charged = []
        for index, ((account, held), asked) in enumerate(zip(hold.legs, amounts, strict=True)):
            if account.terms.strict:
                fits = min(asked, held)
                if late:
                    fits = min(fits, self._left_late(account, now_ns))
            else:
                fits = min(asked, UNITS_MAX - account.spent - account.held)
            account.spent += fits
            charged.append(fits)
            if asked:
                absorbed = min(asked - fits, UNITS_MAX) if asked > fits else 0
                self.lines.append(
                    Line(
                        hold.id, index, EntryKind.CHARGE, account, hold.tenant or "", fits, absorbed, now_ns, reason,
                        evidence, source, external_id,
                    )
                )  # fmt: skip
                self.touched[id(account)] = account
                if account.terms.thresholds:
                    self._alert(account, now_ns)
        return tuple(charged)

    def _left_late(self, account: Account, now_ns: int) -> int:
        counting = (account, *self._beside(account, now_ns))
        left = room(counting, account.limit, account.terms, account.carried, now_ns)
        ended = account.window_ends_ns is not None and account.window_ends_ns <= now_ns
        if ended and account.terms.carry is CarryOver.UNUSED:
            left = max(left - account.terms.cap, 0)
        return left

    def _alert(self, account: Account, now_ns: int) -> None:
        """Raise what the account calls for; a part of a rolling period that counts no more calls for nothing."""
        period, start_ns = account.key[1], account.key[3]
        if not account.terms.thresholds or (period.buckets and start_ns not in span(period, now_ns)):
            return
        self.alerts += alerts(account, now_ns, self._beside(account, now_ns))

    def _inherit(self, account: Account, leg: Leg) -> None:
        """What an operator books can be the first that a window sees."""
        if leg.terms.carry is not CarryOver.NONE:
            account.carried = carried(leg.terms, leg.limit, account)

    def _account(self, leg: Leg, tenant: str, now_ns: int) -> Account:
        """The leg's account, or a new one that is not in the books before the command succeeds."""
        return self.accounts.get(account_key(leg, now_ns)) or self._new_account(leg, tenant, [], now_ns)

    def _new_account(self, leg: Leg, tenant: str, placed: list[tuple[Account, int]], now_ns: int) -> Account:
        """A new account, or the one that another leg of this placing made."""
        key = account_key(leg, now_ns)
        for other, _ in placed:
            if other.key == key:
                return other
        account = Account(key, tenant, _recorded(leg.limit), window(leg.period, now_ns)[1], terms=leg.terms)
        latest = self.latest.get(account.line)
        if latest is not None and (latest.key[3] or 0) < (key[3] or 0):
            account.previous = latest
        return account

    def _beside(self, account: Account, now_ns: int) -> list[Account]:
        """The other accounts that count with this one now: none, but for a rolling period."""
        budget, period, unit, own = account.key
        if not period.buckets:
            return []
        found = [self.accounts.get((budget, period, unit, start)) for start in span(period, now_ns) if start != own]
        return [other for other in found if other is not None]

    def _keep(self, account: Account) -> None:
        self.touched[id(account)] = account
        if account.key in self.accounts:
            return
        self.accounts[account.key] = account
        latest = self.latest.get(account.line)
        if latest is None or (latest.key[3] or 0) < (account.key[3] or 0):
            self.latest[account.line] = account

    def _book(
        self,
        op: bytes,
        leg: int,
        kind: EntryKind,
        account: Account,
        tenant: str | None,
        amount: int,
        reason: str,
        evidence: str,
        now_ns: int,
        of: bytes | None = None,
    ) -> None:
        self.lines.append(
            Line(op, leg, kind, account, tenant or "", amount, 0, now_ns, reason, evidence, None, None, of)
        )


def _recorded(limit: int | None) -> int | None:
    """A limit as an account keeps it, within 64 bits."""
    return None if limit is None else min(max(limit, 0), UNITS_MAX)


def _check_leg(leg: Leg) -> None:
    if type(leg.most) is not int or type(leg.least) is not int or not 0 <= leg.least <= leg.most:
        raise LayerError("a leg asks for whole units, 0 <= least <= most")
    if leg.limit is not None and type(leg.limit) is not int:
        raise LayerError("a leg's limit is a whole number of units or None")


def _check_amounts(amounts: tuple[int, ...], hold: Hold) -> None:
    if len(amounts) != len(hold.legs):
        raise LayerError(f"the hold has {len(hold.legs)} legs and {len(amounts)} amounts were given")
    if any(type(amount) is not int or amount < 0 for amount in amounts):
        raise LayerError("amounts to settle are whole units, at least 0")
