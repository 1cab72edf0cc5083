"""What placing, settling, voiding and losing a hold mean: the one integer rule behind every ledger.

Rules of this file
1. Every decision about money is taken here. A backend loads what a command touches into :class:`Books`, lets them
   decide, and stores what changed; it decides nothing itself.
2. A command changes all that it decides or nothing: it is checked whole before the first change.
3. Nothing here knows a clock, a thread or a database; ``now_ns`` is an argument.
4. ``spent + held`` of an account passes the limit that a command brings by no command: what does not fit is refused
   or, where it was used already, recorded as absorbed. A limit below what is spent only refuses what follows.
5. A charge belongs to the window of its hold, however late it comes.

The states of a hold, and where each input leads. An empty place changes nothing and answers as the first time:

    state      place             settle             void       expire    review
    (none)     pending/refused   barred             barred
    pending                      settled            voided     expired   review
    expired                      settled, late      voided
    review                       settled            voided
    settled
    voided
    barred     refused

``barred`` is a voided hold under which nothing was ever placed. A process that was lost *expires* its holds, settles
them whole or puts them in *review*, as each hold said when it was placed. A late settling finds its money released:
it charges what the limit still allows and absorbs the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from tenantguard.errors import LayerError
from tenantguard.model.ledger import UNITS_MAX, Barred, Exhausted, Held, HoldState, OnOrphan, Resolved
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from tenantguard.model.ledger import Leg
    from tenantguard.model.sections import Period

AccountKey: TypeAlias = "tuple[tuple[str, ...], Period, str, int | None]"
"""Budget, period, unit and start of the window."""


class Input(StrEnum):
    """What can happen to a hold once it is there."""

    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    REVIEW = "review"


TRANSITIONS: Final[dict[HoldState, dict[Input, HoldState]]] = {
    HoldState.PENDING: {
        Input.SETTLE: HoldState.SETTLED,
        Input.VOID: HoldState.VOIDED,
        Input.EXPIRE: HoldState.EXPIRED,
        Input.REVIEW: HoldState.REVIEW,
    },
    HoldState.EXPIRED: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED},
    HoldState.REVIEW: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED},
    HoldState.SETTLED: {},
    HoldState.VOIDED: {},
}

HOLDING: Final = frozenset({HoldState.PENDING, HoldState.REVIEW})
"""The states in which a hold's amounts are part of their accounts' ``held``."""

_OF_ORPHAN: Final = {
    OnOrphan.VOID: Input.EXPIRE,
    OnOrphan.CHARGE_HOLD: Input.SETTLE,
    OnOrphan.REVIEW: Input.REVIEW,
}

_BARRED: Final = Barred()


@dataclass(slots=True)
class Account:
    """One budget in one window. ``tenant`` is None once several share it; ``number`` is a backend's, 0 while new."""

    key: AccountKey
    tenant: str | None
    limit: int | None
    window_ends_ns: int | None
    spent: int = 0
    held: int = 0
    number: int = 0


@dataclass(slots=True)
class Hold:
    """One hold: its legs as accounts with the amounts held, and how it ended. ``tenant`` None: barred."""

    id: bytes
    tenant: str | None
    legs: tuple[tuple[Account, int], ...]
    on_orphan: OnOrphan
    placed_ns: int
    state: HoldState = HoldState.PENDING
    charged: tuple[int, ...] = ()
    reason: str | None = None
    resolved_ns: int | None = None


@dataclass(slots=True)
class Line:
    """One entry as the rule writes it: what settling ``hold`` charged on its leg number ``leg``.

    ``evidence`` is JSON text and means nothing to the rule.
    """

    hold: Hold
    leg: int
    amount: int
    absorbed: int
    at_ns: int
    reason: str
    evidence: str
    source: str | None
    external_id: str | None


class Books:
    """Accounts and holds, and what a command makes of them.

    They hold everything (in memory) or what a batch of commands touches (loaded by a backend): every hold, account
    and charged external id that the commands name and that exists must be in them. ``lines`` collects the entries
    made.
    """

    __slots__ = ("accounts", "charged", "holds", "lines")

    def __init__(self) -> None:
        self.accounts: dict[AccountKey, Account] = {}
        self.holds: dict[bytes, Hold] = {}
        self.charged: set[tuple[str, str]] = set()
        self.lines: list[Line] = []

    def place(
        self, hold_id: bytes, tenant: str, legs: tuple[Leg, ...], on_orphan: OnOrphan, now_ns: int
    ) -> Held | Exhausted | Barred:
        """Hold between ``least`` and ``most`` on every leg, or nothing and name the first leg that has no room.

        Raises :class:`LayerError` where a leg's amounts are no amounts.
        """
        known = self.holds.get(hold_id)
        if known is not None:
            return _BARRED if known.tenant is None else Held(tuple(amount for _, amount in known.legs))
        placed: list[tuple[Account, int]] = []
        for index, leg in enumerate(legs):
            _check_leg(leg)
            account = self._account(leg, tenant, placed, now_ns)
            available = _available(account, leg.limit)
            if placed:
                available = max(available - sum(amount for other, amount in placed if other is account), 0)
            granted = min(leg.most, available)
            if granted < leg.least:
                return Exhausted(index, leg.least, available, account.spent, account.held, account.window_ends_ns)
            placed.append((account, granted))
        for leg, (account, granted) in zip(legs, placed, strict=True):
            account.held += granted
            account.limit = _recorded(leg.limit)
            if account.tenant != tenant:
                account.tenant = None
            self.accounts[account.key] = account
        self.holds[hold_id] = Hold(hold_id, tenant, tuple(placed), on_orphan, now_ns)
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
    ) -> Resolved:
        """Settle ``amounts`` or, where they are None, void; an id that nobody placed is barred.

        The second charge for one ``(source, external_id)`` is voided. Raises :class:`LayerError` where ``amounts``
        do not fit the legs.
        """
        hold = self.holds.get(hold_id)
        if hold is None:
            self.holds[hold_id] = Hold(hold_id, None, (), OnOrphan.VOID, now_ns, HoldState.VOIDED, (), reason, now_ns)
            return Resolved(HoldState.VOIDED, ())
        if not TRANSITIONS[hold.state]:
            return Resolved(hold.state, hold.charged)
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
        return resolved

    def lose(self, hold_id: bytes, now_ns: int) -> Resolved:
        """End a hold whose process was lost, as it said when it was placed."""
        hold = self.holds[hold_id]
        held = tuple(amount for _, amount in hold.legs)
        return self._end(hold, _OF_ORPHAN[hold.on_orphan], "orphaned", now_ns, held)

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
        charged = (0,) * len(hold.legs)
        if after is HoldState.SETTLED:
            charged = self._charge(hold, amounts, reason, evidence, outside, now_ns, late=not holding)
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
        """Charge each leg at most what it held and, late, at most what its limit still allows."""
        source, external_id = outside or (None, None)
        charged = []
        for index, ((account, held), asked) in enumerate(zip(hold.legs, amounts, strict=True)):
            fits = min(asked, held)
            if late:
                fits = min(fits, _available(account, account.limit))
            account.spent += fits
            charged.append(fits)
            if asked:
                absorbed = min(asked - fits, UNITS_MAX)
                self.lines.append(Line(hold, index, fits, absorbed, now_ns, reason, evidence, source, external_id))
        return tuple(charged)

    def _account(self, leg: Leg, tenant: str, placed: list[tuple[Account, int]], now_ns: int) -> Account:
        """The leg's account, or a new one that is not in the books before the placing succeeds."""
        key = account_key(leg, now_ns)
        account = self.accounts.get(key)
        if account is None:
            account = next((other for other, _ in placed if other.key == key), None)
        return account or Account(key, tenant, None, window(leg.period, now_ns)[1])


def account_key(leg: Leg, now_ns: int) -> AccountKey:
    """The account that ``leg`` touches when it is placed at ``now_ns``."""
    return leg.budget, leg.period, leg.unit, window(leg.period, now_ns)[0]


def _available(account: Account, limit: int | None) -> int:
    """What is left under ``limit``, never below 0; without one, what 64 bits still carry."""
    ceiling = UNITS_MAX if limit is None else min(limit, UNITS_MAX)
    return max(ceiling - account.spent - account.held, 0)


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
