"""What every database of the ledger has in common: how values are written into columns, and what a batch must load.

Pure functions: nothing here knows a connection or a dialect. JSON columns are text, in the shortest form that is
unambiguous; a column that says what nearly every row says is NULL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tenantguard.errors import LayerError
from tenantguard.flow.ports import FindClaim, PlaceHold, Refund, ResolveHold
from tenantguard.model.ledger import (
    PLAIN,
    UNITS_MAX,
    Alert,
    Balance,
    CarryOver,
    Counted,
    Denial,
    Entry,
    EntryKind,
    HoldState,
    Notice,
    OnOrphan,
    OpenHold,
    OpenLeg,
    Terms,
    Threshold,
)
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import Account, Grant, Hold, account_key, alert_fields
from tenantguard.rules.windows import counts_until_ns, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tenantguard.flow.ports import LedgerCommand
    from tenantguard.model.ledger import Leg
    from tenantguard.rules.ledger import AccountKey, Books, Line, Refusal

LineKey: TypeAlias = "tuple[tuple[str, ...], Period, str]"
"""Budget, period and unit: what the windows of one account have in common."""

Numbers: TypeAlias = "dict[int, Account]"
"""Accounts by a database's own number."""

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
_compact_or_text: Final = json.JSONEncoder(default=str, separators=(",", ":")).encode

KINDS: Final = (EntryKind.CHARGE, EntryKind.REFUND, EntryKind.CORRECTION, EntryKind.GRANT)
"""An entry's kind is stored as its place in here; a charge is 0, which costs SQLite nothing. Never reorder."""

KIND_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}

TEXTS: Final = {choice: str(choice) for kind in (HoldState, OnOrphan) for choice in kind}
"""Plain text for a state or a choice: a driver takes it without asking how to adapt it."""

STATES: Final = {str(state): state for state in HoldState}
ON_ORPHAN: Final = {str(choice): choice for choice in OnOrphan}


# values


def storable(value: str) -> str:
    """Text without NUL and lone surrogates, which JSON can carry and databases cannot: they are written out."""
    if "\0" in value:
        value = value.replace("\0", "\\x00")
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def evidence_json(evidence: Mapping[str, Any]) -> str:
    """Evidence as JSON; what JSON does not know is written as text. Raises :class:`LayerError` where it is none."""
    if not evidence:
        return "{}"
    try:
        return _compact_or_text(dict(evidence))
    except (TypeError, ValueError):
        raise LayerError("evidence must be JSON: a mapping with text as keys and no cycles") from None


def budget_json(budget: tuple[str, ...]) -> str:
    """A budget's parts as JSON, in ASCII: the same budget is always the same text."""
    return json.dumps(budget)


@lru_cache(maxsize=4096)
def budget_of(text: str) -> tuple[str, ...]:
    """The inverse of :func:`budget_json`."""
    return tuple(json.loads(text))


def stored_start(starts_ns: int | None) -> int:
    """A window's start as a column that is part of a unique key: 0 for a lifetime."""
    return starts_ns or 0


def start_of(period: str, stored: int) -> int | None:
    """The inverse of :func:`stored_start`."""
    return None if period == Period.LIFETIME.text else stored


@lru_cache(maxsize=1024)
def terms_json(terms: Terms) -> str | None:
    """Terms as JSON, None for plain ones."""
    if terms == PLAIN:
        return None
    thresholds = [[str(threshold.of), threshold.percent] for threshold in terms.thresholds]
    return _compact({"strict": terms.strict, "carry": str(terms.carry), "cap": terms.cap, "thresholds": thresholds})


@lru_cache(maxsize=1024)
def terms_of(text: str | None) -> Terms:
    """The inverse of :func:`terms_json`; one object for all accounts under the same terms."""
    if text is None:
        return PLAIN
    found = json.loads(text)
    thresholds = tuple(Threshold(percent, Counted(of)) for of, percent in found["thresholds"])
    return Terms(found["strict"], CarryOver(found["carry"]), found["cap"], thresholds)


def grants_json(grants: tuple[Grant, ...]) -> str | None:
    """Grants as JSON, None for none."""
    return _compact([[grant.amount, grant.expires_ns] for grant in grants]) if grants else None


def grants_of(text: str | None) -> tuple[Grant, ...]:
    """The inverse of :func:`grants_json`."""
    return () if text is None else tuple(Grant(amount, expires) for amount, expires in json.loads(text))


def alerted_json(alerted: frozenset[str]) -> str | None:
    """The thresholds that were reached as JSON, None for none."""
    return _compact(sorted(alerted)) if alerted else None


def alerted_of(text: str | None) -> frozenset[str]:
    """The inverse of :func:`alerted_json`."""
    return frozenset() if text is None else frozenset(json.loads(text))


def alert_json(alert: Alert) -> str:
    """What the outbox keeps of an alert, and hands on."""
    return _compact(alert_fields(alert))


# holds


def legs_json(hold: Hold) -> str:
    """The legs of a hold as JSON: account number, held and, once it ended, charged."""
    if hold.charged:
        legs = [
            f"[{account.number},{held},{charged}]"
            for (account, held), charged in zip(hold.legs, hold.charged, strict=True)
        ]
    else:
        legs = [f"[{account.number},{held}]" for account, held in hold.legs]
    return f"[{','.join(legs)}]"


@dataclass(slots=True)
class StoredHold:
    """A hold as a database tells of it; its accounts are loaded before it becomes a :class:`Hold`."""

    id: bytes
    tenant: str | None
    state: HoldState
    on_orphan: OnOrphan
    placed_ns: int
    legs: dict[int, list[int]] = field(default_factory=dict)

    def hold(self, accounts: Numbers, refunded: Mapping[int, int]) -> Hold:
        """The hold, with what was given back by leg."""
        legs = [leg for _, leg in sorted(self.legs.items())]
        held = tuple([(accounts[number], amount) for number, amount, *_ in legs])
        charged = tuple([amount for _, _, *rest in legs for amount in rest])
        given = tuple([refunded.get(leg, 0) for leg in sorted(self.legs)]) if refunded else ()
        return Hold(self.id, self.tenant, held, self.on_orphan, self.placed_ns, self.state, charged, refunded=given)


def stored_holds(rows: Iterable[tuple[Any, ...]]) -> dict[bytes, StoredHold]:
    """Holds by id from rows of ``id, tenant, state, on_orphan, placed_ns, legs, number of the first leg``.

    Of one that entries alone tell of, each row is a leg; else the entries repeat what the row says.
    """
    found: dict[bytes, StoredHold] = {}
    for hold_id, tenant, state, on_orphan, placed_ns, text, first in rows:
        known = found.get(hold_id)
        if known is None:
            known = StoredHold(hold_id, tenant, STATES[state], ON_ORPHAN[on_orphan], placed_ns)
            found[hold_id] = known
        for leg, stored in enumerate(json.loads(text), first):
            known.legs[leg] = stored
    return found


# accounts

ACCOUNT_COLUMNS: Final = (
    "budget, period, unit, window_starts_ns, window_ends_ns, tenant, ceiling, spent, held, carried, grants, terms,"
    " alerted, previous"
)
"""The columns of an account behind its number, in the order of :func:`account_row` and :func:`account_of`."""


def account_row(account: Account) -> tuple[Any, ...]:
    """An account as a new row, in the order of ``ACCOUNT_COLUMNS``."""
    budget, period, unit, starts_ns = account.key
    return (
        budget_json(budget),
        str(period),
        unit,
        stored_start(starts_ns),
        account.window_ends_ns,
        account.tenant and str(account.tenant),
        account.limit,
        account.spent,
        account.held,
        account.carried,
        grants_json(account.grants),
        terms_json(account.terms),
        alerted_json(account.alerted),
        account.previous and account.previous.number,
    )


def account_of(number: int, row: Sequence[Any]) -> Account:
    """An account from its columns, in the order of ``ACCOUNT_COLUMNS``; its ``previous`` is left to the loader."""
    budget, period, unit, starts_ns, ends_ns, tenant, ceiling, spent, held, carried, grants, terms, alerted, _ = row
    key = (budget_of(budget), Period.parse(period), unit, start_of(period, starts_ns))
    return Account(
        key, tenant, ceiling, ends_ns, spent, held, number, carried, grants_of(grants), terms_of(terms),
        alerted_of(alerted),
    )  # fmt: skip


def terms_row(account: Account) -> tuple[Any, ...]:
    """What changes seldom on an account: ``tenant, ceiling, carried, grants, terms, alerted``.

    To be compared with what was stored, so that a database writes ``spent`` and ``held`` alone where it can.
    """
    return account.tenant, account.limit, account.carried, account.grants, account.terms, account.alerted


def balance(account: Account, at_ns: int) -> Balance:
    """An account as it is shown. Grants count as they did at ``at_ns``, at the latest when the window ended."""
    budget, period, unit, starts_ns = account.key
    ends_ns = account.window_ends_ns
    return Balance(
        budget,
        str(period),
        unit,
        account.tenant,
        account.limit,
        account.spent,
        account.held,
        account.granted(at_ns if ends_ns is None else min(at_ns, ends_ns - 1)) if account.grants else 0,
        account.carried,
        starts_ns,
        ends_ns,
    )


def counts(balance: Balance, at_ns: int) -> bool:
    """Whether an account counted at ``at_ns``."""
    if balance.window_starts_ns is None:
        return True
    until_ns = counts_until_ns(Period.parse(balance.period), balance.window_starts_ns)
    return balance.window_starts_ns <= at_ns and (until_ns is None or at_ns < until_ns)


# entries

ENTRY_COLUMNS: Final = (
    "op, leg, kind, account, tenant, held, amount, absorbed, unit, at_ns, reason, evidence, source, external_id, of"
)
"""The columns of an entry behind its number, in the order of :func:`entry_row`."""

SHOWN_COLUMNS: Final = (
    "seq, op, leg, kind, e.tenant, budget, period, e.unit, window_starts_ns, amount, absorbed, at_ns, reason,"
    " evidence, source, external_id, of"
)
"""The columns of ``entry e JOIN account a ON a.id = e.account``, in the order of :func:`entry_of`."""


def entry_row(line: Line, books: Books) -> tuple[Any, ...]:
    """An entry as a new row, in the order of ``ENTRY_COLUMNS``. A charge repeats what its leg held."""
    charges = line.kind is EntryKind.CHARGE
    return (
        line.op,
        line.leg,
        0 if charges else KIND_NUMBERS[line.kind],
        line.account.number,
        str(line.tenant),
        books.holds[line.op].legs[line.leg][1] if charges else 0,
        line.amount,
        line.absorbed,
        line.account.key[2],
        line.at_ns,
        line.reason,
        line.evidence,
        line.source,
        line.external_id,
        line.of,
    )


def entry_of(row: Sequence[Any]) -> Entry:
    """An entry from the columns ``SHOWN_COLUMNS``."""
    seq, op, leg, kind, tenant, budget, period, unit, starts_ns, amount, absorbed, at_ns, reason, evidence = row[:14]
    return Entry(
        seq, op, leg, KINDS[kind], TenantId(tenant), budget_of(budget), period, unit, start_of(period, starts_ns),
        amount, absorbed, at_ns, reason, json.loads(evidence), *row[14:],
    )  # fmt: skip


# refusals

DENIAL_COLUMNS: Final = "hold, tenant, budget, period, unit, window_starts_ns, needed, available, at_ns"
"""The columns of a refusal, in the order of :func:`denial_row` and :func:`denial_of`."""


def denial_row(refusal: Refusal) -> tuple[Any, ...]:
    """A refusal as a new row. What was needed can be more than 64 bits hold."""
    budget, period, unit, starts_ns = refusal.account.key
    return (
        refusal.hold, str(refusal.tenant), budget_json(budget), str(period), unit, stored_start(starts_ns),
        min(refusal.needed, UNITS_MAX), refusal.available, refusal.at_ns,
    )  # fmt: skip


def denial_of(row: Sequence[Any]) -> Denial:
    """A refusal from the columns ``DENIAL_COLUMNS``."""
    hold, tenant, budget, period, unit, starts_ns, needed, available, at_ns = row
    return Denial(
        hold, TenantId(tenant), budget_of(budget), period, unit, start_of(period, starts_ns), needed, available, at_ns
    )


# open holds

OPEN_COLUMNS: Final = "h.id, h.tenant, state, placed_ns, reason, budget, period, unit, window_starts_ns"
"""The columns of ``hold h`` and the account of a leg, which :func:`open_holds` reads with what is held on it."""


def open_holds(rows: Iterable[Sequence[Any]]) -> list[OpenHold]:
    """Holds from ``OPEN_COLUMNS`` and the amount held, a row for each leg in order; of one without, one."""
    holds: dict[bytes, OpenHold] = {}
    legs: dict[bytes, list[OpenLeg]] = {}
    for hold_id, tenant, state, placed_ns, reason, budget, period, unit, starts_ns, held in rows:
        if hold_id not in holds:
            holds[hold_id] = OpenHold(hold_id, TenantId(tenant), STATES[state], placed_ns, reason, ())
            legs[hold_id] = []
        if budget is not None:
            legs[hold_id].append(OpenLeg(budget_of(budget), period, unit, start_of(period, starts_ns), held))
    return [replace(hold, legs=tuple(legs[hold_id])) for hold_id, hold in holds.items()]


# notices

NOTICE_COLUMNS: Final = "seq, kind, payload, made_ns, tries, due_ns"
"""The columns of a notice, in the order of :func:`notice_of`."""


def notice_of(row: Sequence[Any]) -> Notice:
    """A notice from the columns ``NOTICE_COLUMNS``."""
    seq, kind, payload, made_ns, tries, due_ns = row
    return Notice(seq, kind, json.loads(payload), made_ns, tries, due_ns)


# what a batch must load


class Wanted:
    """What a batch names. Load it in the order of the fields, what is in the books already excepted.

    ``holds`` by id; ``refunded``: those of them of which the sums given back by leg are needed; ``booked``: ids of
    refunds, grants and corrections, whose entries (and for a refund the hold in ``of``) tell what they booked;
    ``claims`` by tenant and key, and the holds that they point to; ``external_ids`` of charges; ``accounts`` by key,
    or, where they are not there yet, the latest of their line; ``inheriting``: accounts of which ``previous`` is
    needed, where they are there; ``rolling``: lines with the first start of a window that counts, all accounts from
    there on.

    Of holds that were loaded, :func:`wanted_beside` wants more, and ``answers`` the claims of their tenants: by hold,
    the key under which a settling keeps the response.
    """

    __slots__ = (
        "accounts",
        "answers",
        "booked",
        "claims",
        "external_ids",
        "holds",
        "inheriting",
        "refunded",
        "rolling",
    )

    def __init__(self) -> None:
        self.holds: list[bytes] = []
        self.refunded: list[bytes] = []
        self.booked: list[bytes] = []
        self.claims: list[tuple[str, str]] = []
        self.answers: list[tuple[bytes, str]] = []
        self.external_ids: list[str] = []
        self.accounts: list[AccountKey] = []
        self.inheriting: list[AccountKey] = []
        self.rolling: dict[LineKey, int] = {}


def wanted(books: Books, commands: Iterable[LedgerCommand], now_ns: int) -> Wanted:
    """What ``commands`` name and ``books`` do not have; ``rolling`` lines are named whether they do or not."""
    found = Wanted()
    holds, accounts = books.holds, books.accounts
    for command in commands:
        if isinstance(command, PlaceHold):
            if command.id not in holds:
                found.holds.append(command.id)
            if command.claim is not None:
                found.claims.append((str(command.tenant), storable(command.claim.key)))
            for leg in command.legs:
                key = account_key(leg, now_ns)
                if key not in accounts:
                    found.accounts.append(key)
                if leg.terms is not PLAIN or leg.period.buckets:
                    _want_others(found, leg, key, now_ns)
        elif isinstance(command, ResolveHold):
            hold = holds.get(command.id)
            if hold is None:
                found.holds.append(command.id)
            else:
                _want_beside(found.rolling, hold, now_ns)
            if command.drawn is not None and command.drawn.lease not in holds:
                found.holds.append(command.drawn.lease)
            if command.answer is not None:
                found.answers.append((command.id, storable(command.answer[0])))
            if command.external_id is not None and command.source is not None:
                found.external_ids.append(storable(command.external_id))
        elif isinstance(command, FindClaim):
            found.claims.append((str(command.tenant), storable(command.claim.key)))
        elif isinstance(command, Refund):
            found.booked.append(command.id)
            found.refunded.append(command.hold)
            if command.hold not in holds:
                found.holds.append(command.hold)
        else:
            found.booked.append(command.id)
            key = account_key(command.leg, now_ns)
            if key not in accounts:
                found.accounts.append(key)
            _want_others(found, command.leg, key, now_ns)
    return found


def wanted_beside(holds: Iterable[Hold], now_ns: int) -> dict[LineKey, int]:
    """Of holds that may be settled: the rolling lines that this looks at, as ``rolling`` in :class:`Wanted`."""
    found: dict[LineKey, int] = {}
    for hold in holds:
        _want_beside(found, hold, now_ns)
    return found


def _want_beside(rolling: dict[LineKey, int], hold: Hold, now_ns: int) -> None:
    for account, _ in hold.legs:
        if account.key[1].buckets and (account.terms.thresholds or hold.state is HoldState.EXPIRED):
            _roll(rolling, account.key, now_ns)


def _want_others(found: Wanted, leg: Leg, key: AccountKey, now_ns: int) -> None:
    """The accounts that count beside that of ``key``, or before it."""
    if leg.terms.carry is not CarryOver.NONE:
        found.inheriting.append(key)
    if leg.period.buckets:
        _roll(found.rolling, key, now_ns)


def _roll(rolling: dict[LineKey, int], key: AccountKey, now_ns: int) -> None:
    line = key[:3]
    first_ns = span(key[1], now_ns)[0] or 0
    rolling[line] = min(first_ns, rolling.get(line, first_ns))
