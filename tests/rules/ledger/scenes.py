"""What the tests of the ledger's rule say often: legs, commands with the usual arguments, and conservation."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tenantguard.model.ledger import PLAIN, UNITS_MAX, EntryKind, HoldState, Leg, OnOrphan
from tenantguard.model.period import Period

if TYPE_CHECKING:
    from tenantguard.model.ledger import (
        Barred,
        Booked,
        Claim,
        Conflict,
        Exhausted,
        Held,
        Repeated,
        Resolved,
        Terms,
        Unbookable,
    )
    from tenantguard.rules.ledger import Account, Books

NOW = 1_750_000_000 * 10**9
HOUR = 3600 * 10**9
DAY = 24 * HOUR
HOLD = b"hold-00000000001"
OTHER = b"hold-00000000002"
THIRD = b"hold-00000000003"
OP = b"op-0000000000001"
OP2 = b"op-0000000000002"
ACME = "acme"


def leg(
    most: int,
    least: int | None = None,
    *,
    limit: int | None = 100,
    budget: str = "b",
    period: Period = Period.DAY,
    terms: Terms = PLAIN,
) -> Leg:
    return Leg((budget,), period, "USD", limit, most, most if least is None else least, terms)


def place(
    books: Books,
    *legs: Leg,
    hold: bytes = HOLD,
    tenant: str = ACME,
    on_orphan: OnOrphan = OnOrphan.VOID,
    now: int = NOW,
    claim: Claim | None = None,
) -> Held | Exhausted | Barred | Repeated | Conflict:
    return books.place(hold, tenant, legs, on_orphan, now, claim)


def settle(
    books: Books,
    *asked: int,
    hold: bytes = HOLD,
    outside: str | None = None,
    now: int = NOW,
    answer: tuple[str, bytes] | None = None,
) -> Resolved:
    source = None if outside is None else "provider"
    return books.resolve(hold, asked, "completed", "{}", source, outside, now, answer=answer)


def void(books: Books, hold: bytes = HOLD, now: int = NOW) -> Resolved:
    return books.resolve(hold, None, "failed", "{}", None, None, now)


def review(books: Books, hold: bytes = HOLD, now: int = NOW) -> Resolved:
    return books.resolve(hold, None, "nobody knows", "{}", None, None, now, review=True)


def charge(books: Books, amount: int, hold: bytes, now: int = NOW, **words: object) -> None:
    """Place and settle in one go, whatever the account is."""
    place(books, leg(amount, **words), hold=hold, now=now)  # type: ignore[arg-type]
    assert settle(books, amount, hold=hold, now=now).amounts == (amount,)


def refund(books: Books, *amounts: int, op: bytes = OP, hold: bytes = HOLD, now: int = NOW) -> Booked | Unbookable:
    return books.refund(op, hold, amounts or None, "a complaint", "{}", now)


def grant(
    books: Books, given: Leg, expires: int | None = None, *, op: bytes = OP, now: int = NOW
) -> Booked | Unbookable:
    return books.grant(op, ACME, given, expires, "a top-up", "{}", now)


def correct(
    books: Books, amount: int, on: Leg | None = None, *, op: bytes = OP, now: int = NOW
) -> Booked | Unbookable:
    return books.correct(op, ACME, on or leg(0), amount, "an invoice", "{}", now)


def account_at(books: Books, number: int = -1) -> Account:
    """The account of the ``number``-th window that was touched, in the order of time."""
    return sorted(books.accounts.values(), key=lambda account: account.key[3] or 0)[number]


def only_account(books: Books) -> Account:
    (account,) = books.accounts.values()
    return account


def conserved(books: Books) -> None:
    """What accounts say follows from entries and open holds, and fits in 64 bits."""
    spent: Counter[int] = Counter()
    granted: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for line in books.lines:
        (granted if line.kind is EntryKind.GRANT else spent)[id(line.account)] += line.amount
        assert 0 <= line.absorbed <= UNITS_MAX
    for hold in books.holds.values():
        if hold.state in {HoldState.PENDING, HoldState.REVIEW}:
            for account, amount in hold.legs:
                held[id(account)] += amount
    for account in books.accounts.values():
        assert (account.spent, account.held) == (spent[id(account)], held[id(account)])
        assert account.spent >= 0
        assert account.spent + account.held <= UNITS_MAX
        assert sum(given.amount for given in account.grants) <= granted[id(account)]
    entries = Counter((line.op, line.leg, line.kind) for line in books.lines)
    assert not entries or max(entries.values()) == 1
    for hold in books.holds.values():
        if hold.refunded:
            assert all(0 <= back <= out for back, out in zip(hold.refunded, hold.charged, strict=True))


def picture(books: Books) -> object:
    """All that the books say, as a value: two pictures are equal where a command changed nothing."""
    return (
        {
            key: (a.tenant, a.limit, a.spent, a.held, a.carried, tuple((g.amount, g.expires_ns) for g in a.grants),
                  a.terms, a.alerted)
            for key, a in books.accounts.items()
        },
        {key: (h.state, h.charged, h.refunded, [n for _, n in h.legs]) for key, h in books.holds.items()},
        {key: (c.hold, c.fingerprint, c.answer) for key, c in books.claims.items()},
        dict(books.booked), set(books.charged), len(books.lines), len(books.alerts),
    )  # fmt: skip
