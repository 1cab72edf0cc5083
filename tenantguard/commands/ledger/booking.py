"""What operators book: refunds, grants, corrections, and how a hold in review ends.

Rules of this file
1. Everything is known by an id, and booked once however often it is asked for: a payment's own id for a grant, one
   that is printed for everything else.
2. Nothing is guessed: where several accounts could be meant, the command names them and changes nothing.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from tenantguard.commands.ledger.opening import opened
from tenantguard.commands.ledger.showing import printable
from tenantguard.commands.ledger.times import read_time
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.flow.ports import Correct, Grant, Refund, ResolveHold
from tenantguard.model.ledger import UNITS_MAX, EntryKind, HoldState, Leg, Unbookable
from tenantguard.model.money import Amount, is_currency
from tenantguard.model.period import Period
from tenantguard.model.sections import QuotaSection
from tenantguard.model.tenant import Tenant
from tenantguard.rules.legs import LegPlan

if TYPE_CHECKING:
    import argparse

    from tenantguard.commands.ledger.opening import Desk
    from tenantguard.model.ledger import Booked, Entry, OpenHold

_UNITS: Final = re.compile(r"(?P<count>[0-9]{1,19}) +(?P<unit>[a-z][a-z0-9_.-]{0,63})")
_SLACK_NS: Final = 3600 * 10**9
_TEXT_MAX: Final = 500
_ID_MAX: Final = 200


def operation_id(*parts: str) -> bytes:
    """16 bytes that are the same for the same ``parts``: how a payment's own id becomes that of an operation."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "backslashreplace"), digest_size=16).digest()


def refund(args: argparse.Namespace) -> int:
    """Give back what a hold was charged, or a part."""
    hold, asked = _hold_id(args.hold), None if args.amount is None else _amount(args.amount)
    reason, own_id = _reason(args.reason), _own_id(args.id)
    with opened(args) as desk:
        charges = _charges(desk, hold)
        if not charges:
            told = (
                "is open: it ends with 'tenantguard ledger resolve'" if _open(desk, hold) else "was charged nothing"
            )
            raise ConfigurationError(f"HOLD: {args.hold} {told}")
        amounts = None
        if asked is not None:
            amounts = _shares(desk, hold, charges, *asked)
        name = own_id if own_id is not None else desk.system.ids.new().hex()
        op = operation_id("refund", hold.hex(), name)
        booked = _booked(desk, Refund(op, hold, amounts, reason, {"id": name}), name)
        units = {entry.leg: entry for entry in charges}
        for leg, amount in enumerate(booked):
            if amount and leg in units:
                print(f"{desk.shown.amount(amount, units[leg].unit)} given back on {_name(units[leg].budget)}")
        print(f"id {printable(name)}")
        return _as_asked(desk, booked, amounts, asked)


def grant(args: argparse.Namespace) -> int:
    """Raise the limit of a tenant's account in its running window."""
    amount, unit = _amount(args.amount)
    reason, payment = _reason(args.reason), _own_id(args.id)
    with opened(args, may_make=True) as desk:
        leg = _line(desk, unit, args.budget, most=amount, limited=True)
        expires_ns = None if args.expires is None else read_time(args.expires, desk.shown.zone)
        if expires_ns is not None and expires_ns <= desk.now_ns:
            raise ConfigurationError("--expires is past already")
        assert desk.tenant is not None
        assert payment is not None
        op = operation_id("grant", desk.tenant, payment)
        booked = _booked(desk, Grant(op, desk.tenant, leg, expires_ns, reason, {"payment": payment}), payment)
        print(f"{desk.shown.amount(booked[0], unit)} granted on {_name(leg.budget)}")
        return _as_asked(desk, booked, (amount,), (amount, unit))


def correct(args: argparse.Namespace) -> int:
    """Add to what is spent on a tenant's account, or take away."""
    text = args.amount.strip()
    amount, unit = _amount(text.removeprefix("-").lstrip())
    amount = -amount if text.startswith("-") else amount
    reason, own_id = _reason(args.reason), _own_id(args.id)
    with opened(args, may_make=True) as desk:
        leg = _line(desk, unit, args.budget, most=0, limited=False)
        assert desk.tenant is not None
        name = own_id if own_id is not None else desk.system.ids.new().hex()
        op = operation_id("correct", desk.tenant, name)
        booked = _booked(desk, Correct(op, desk.tenant, leg, amount, reason, {"id": name}), name)
        print(f"{desk.shown.amount(booked[0], unit)} booked on {_name(leg.budget)}\nid {printable(name)}")
        return _as_asked(desk, booked, (amount,), (amount, unit))


def resolve(args: argparse.Namespace) -> int:
    """End a hold that waits for an operator."""
    hold_id, reason = _hold_id(args.hold), _reason(args.reason)
    with opened(args) as desk:
        hold = _open(desk, hold_id)
        if hold is None:
            raise ConfigurationError(f"HOLD: {args.hold} is not open: it has ended, or there is none")
        if hold.state is not HoldState.REVIEW:
            raise ConfigurationError(
                f"HOLD: {args.hold} is {hold.state}: its process ends it, or its lapsed lease; "
                "'tenantguard ledger holds --review' lists those that wait for you"
            )
        amounts = None if args.void else _settled(desk, hold, args.charge)
        answer = desk.book(ResolveHold(hold_id, amounts, reason, {"basis": "operator"}))
        if answer.state is HoldState.VOIDED:
            print("nothing is charged, and what was held is free again")
        for leg, charged in zip(hold.legs, answer.amounts, strict=True):
            if charged:
                print(f"{desk.shown.amount(charged, leg.unit)} charged on {_name(leg.budget)}")
        if answer.state is not (HoldState.VOIDED if args.void else HoldState.SETTLED):
            print("it was ended by somebody else meanwhile")
            return 1
    return 0


# what was asked for


def _reason(text: str) -> str:
    if not text.strip() or len(text) > _TEXT_MAX:
        raise ConfigurationError(
            f"--reason is a sentence for who reads the entry later, of 1 to {_TEXT_MAX} characters"
        )
    return text


def _own_id(text: str | None) -> str | None:
    """What ``--id`` says; without it None. An empty shell variable would make all that is booked one."""
    if text is not None and (not text.strip() or len(text) > _ID_MAX):
        raise ConfigurationError(
            f"--id: {text[:20]!r} is blank or longer than {_ID_MAX} characters: "
            "write the one id by which you know this"
        )
    return text


def _hold_id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        found = b""
    if len(found) != 16:
        raise ConfigurationError(
            f"HOLD: {text!r} is no hold: write the 32 digits that 'tenantguard ledger entries' shows"
        )
    return found


def _amount(text: str, option: str = "--amount") -> tuple[int, str]:
    """``50 USD`` or ``100 jobs``, above nothing."""
    units = _UNITS.fullmatch(text.strip())
    if units is not None:
        amount, unit = int(units["count"]), units["unit"]
    else:
        try:
            money = Amount.parse(text)
        except ConfigurationError as wrong:
            raise ConfigurationError(f"{option}: {wrong}, or '100 jobs'") from None
        amount, unit = money.nanos, money.currency
    if not 0 < amount <= UNITS_MAX:
        raise ConfigurationError(f"{option}: {text!r} is not above nothing, or more than a ledger holds")
    return amount, unit


def _line(desk: Desk, unit: str, name: str | None, *, most: int, limited: bool) -> Leg:
    """The account that is meant: one of the tenant's policy, or one that it has already."""
    tenant = desk.tenant
    assert tenant is not None
    found: dict[str, Leg] = {}
    if desk.policy is not None:
        plan = LegPlan(desk.policy)
        legs: list[Leg] = []
        if is_currency(unit) and plan.currency in {None, unit}:
            legs = plan.money(Tenant(tenant), "", unit, most, 0)
        elif unit in plan.units:
            legs = [leg for leg, _ in plan.quotas(Tenant(tenant), "", {unit: most})]
        for leg in legs:
            if leg.budget[0] in {"tenant", "global"}:
                found[_name(leg.budget)] = Leg(leg.budget, leg.period, leg.unit, leg.limit, most, 0, leg.terms)
    for one in desk.ledger.balances(tenant, at_ns=desk.now_ns):
        if one.unit == unit:
            leg = Leg(one.budget, Period.parse(one.period), unit, one.limit, most, 0)
            found.setdefault(_name(one.budget), leg)
    if limited:
        found = {known: leg for known, leg in found.items() if leg.limit is not None}
    chosen = [known for known in found if (known == name if name is not None else found[known].budget[0] == "tenant")]
    if len(chosen) == 1:
        return found[chosen[0]]
    if not found:
        limit = " with a limit" if limited else ""
        others = sorted({one.unit for one in desk.ledger.balances(tenant, at_ns=desk.now_ns)} - {unit})
        has = f", but in {', '.join(others)}" if others else ""
        remedy = "name the settings that give it one" if desk.settings is None else "its policy must give it one"
        raise ConfigurationError(f"{tenant} has no account in {unit}{limit}{has}: {remedy}")
    known = ", ".join(f"'{other}'" for other in sorted(found))
    raise ConfigurationError(f"--budget: say which account is meant: {known}")


# holds and their charges


def _open(desk: Desk, hold_id: bytes) -> OpenHold | None:
    return next((hold for hold in desk.ledger.holds(desk.tenant) if hold.id == hold_id), None)


def _charges(desk: Desk, hold_id: bytes) -> list[Entry]:
    """What the hold was charged. An id begins with its time, and so does the search, unless the clocks disagree."""
    placed_ns = int.from_bytes(hold_id[:6], "big") * 1_000_000
    starts = [placed_ns - _SLACK_NS, 0] if hold_id[6] >> 4 == 7 and placed_ns < desk.now_ns else [0]
    found: list[Entry] = []
    for since_ns in starts:
        for entry in desk.entries(since_ns=max(since_ns, 0)):
            if entry.op == hold_id and entry.kind is EntryKind.CHARGE:
                found.append(entry)
            elif found:
                break  # they are booked together
        if found:
            break
    return found


def _shares(desk: Desk, hold: bytes, charges: list[Entry], asked: int, unit: str) -> tuple[int, ...]:
    """``asked`` of every leg in that unit: budgets were charged the same money side by side."""
    if all(entry.unit != unit for entry in charges):
        known = ", ".join(sorted({entry.unit for entry in charges}))
        raise ConfigurationError(f"--amount: nothing was charged in {unit}, but in {known}")
    most = max(entry.amount for entry in charges if entry.unit == unit)
    if asked > most:
        raise ConfigurationError(f"--amount: no more than {desk.shown.amount(most, unit)} was charged")
    # a settled hold answers how it ended, with an amount for every leg, and changes no more
    ended = desk.book(ResolveHold(hold, None, "asked"))
    shares = [0] * len(ended.amounts)
    for entry in charges:
        if entry.unit == unit:
            shares[entry.leg] = min(asked, entry.amount)
    return tuple(shares)


def _settled(desk: Desk, hold: OpenHold, text: str) -> tuple[int, ...]:
    """What each leg of a hold in review is settled with: the money asked for, and the units that were taken."""
    if text.strip() == "all":
        asked, unit = UNITS_MAX, ""
    else:
        asked, unit = _amount(text, "--charge")
        held = [leg.held for leg in hold.legs if leg.unit == unit]
        if not held:
            raise ConfigurationError(f"--charge: nothing is held in {unit}")
        if asked > max(held):
            raise ConfigurationError(f"--charge: no more than {desk.shown.amount(max(held), unit)} is held")
    returned = _returned(desk, hold)
    amounts = []
    for leg in hold.legs:
        if leg.unit in returned:
            amounts.append(0)
        elif leg.unit == unit or not unit:
            amounts.append(min(asked, leg.held))
        else:
            amounts.append(0 if is_currency(leg.unit) else leg.held)
    return tuple(amounts)


def _returned(desk: Desk, hold: OpenHold) -> set[str]:
    """The units of the hold that come back: only the policy knows which, and only those of a lifetime can."""
    lasting = {leg.unit for leg in hold.legs if not is_currency(leg.unit) and leg.period == Period.LIFETIME.text}
    if not lasting:
        return set()
    policy = None
    if desk.settings is not None:
        resolved = desk.settings.policies.get(str(hold.tenant))
        policy = desk.settings.fallback if resolved is None else resolved.policy
    section = None if policy is None else policy.section(QuotaSection)
    if section is None:
        raise ConfigurationError(
            f"the hold has {', '.join(sorted(lasting))}: name the settings with --config, which say if they come back"
        )
    return {rule.unit for rule in section.rules if rule.returned} & lasting


# answers


def _booked(desk: Desk, command: Refund | Grant | Correct, name: str) -> tuple[int, ...]:
    """The amounts that were booked. ``name`` is what ``--id`` repeats it under."""
    try:
        answer: Booked | Unbookable = desk.book(command)
    except PortError as failed:
        told = f"{failed.problem}; it may be booked all the same: repeat this with --id {name}, which books it once"
        raise PortError(failed.port, told) from failed
    if isinstance(answer, Unbookable):
        raise ConfigurationError(f"not booked: {answer.problem}")
    return answer.amounts


def _as_asked(
    desk: Desk, booked: tuple[int, ...], asked: tuple[int, ...] | None, shown: tuple[int, str] | None
) -> int:
    """0, or 1 where this id had been booked before with another amount."""
    if asked is None or shown is None or booked == asked:
        return 0
    print(f"this id was booked before, with the amount above; {desk.shown.amount(*shown)} was not booked")
    return 1


def _name(budget: tuple[str, ...]) -> str:
    return printable("/".join(budget))
