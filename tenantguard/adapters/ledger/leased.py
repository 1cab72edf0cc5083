"""Leased admission: a process takes blocks of budget from a ledger, and places the holds of requests in memory.

Rules of this file
1. What is given out in memory is held in the ledger already: a block is an ordinary hold of this process. So nothing
   is overshot by any number of processes, and a crash leaves what any lost hold leaves.
2. A hold in memory is written once, when it ends: drawn from its block, and settled. One that is voided goes back
   into its block and is never written.
3. What no block covers is placed in the ledger, exactly. Nobody waits for a block.
4. Nobody is refused because of a block of the same process: such blocks are returned first, and then it is placed
   again. What other processes' blocks hold may refuse early.
5. A block is returned when nobody has used it for ``IDLE_S``, when its window has ended, when it no longer covers
   what is asked for, and when the ledger is closed. It is not given out from once the ledger has been silent for so
   long that this process may soon count as lost.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, runtime_checkable

from tenantguard.adapters.ledger.backend import LEASE_S
from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.adapters.ledger.writer import BEAT_S
from tenantguard.adapters.processes import watch
from tenantguard.errors import ConfigurationError
from tenantguard.flow.ports import Drawn, Exhausted, Held, HoldState, OnOrphan, PlaceHold, Resolved, ResolveHold
from tenantguard.model.ledger import PLAIN, CarryOver, Counted
from tenantguard.rules.ledger import account_key
from tenantguard.rules.windows import window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.flow.effects import Promise
    from tenantguard.flow.ports import (
        Balance,
        Denial,
        Entry,
        Ledger,
        LedgerCommand,
        Leg,
        Notice,
        OpenHold,
        System,
    )
    from tenantguard.model.ledger import Terms
    from tenantguard.model.tenant import TenantId
    from tenantguard.rules.ledger import AccountKey

    Key: TypeAlias = "tuple[TenantId, tuple[tuple[Any, ...], ...]]"
    """Which requests share a block: the tenant, and of each leg the account, the limit and the terms."""

SHARE: Final = 25
"""A block is at most this part of what is left, in percent: blocks shrink as a budget comes to its end."""

TARGET: Final = 64
"""A block is for so many requests like the one that asked for it, where its share allows that."""

GROWTH_MAX: Final = 16
"""Where a block was used up within a second the next is for twice as many, up to so many times the target."""

LEAST: Final = 2
"""A block for fewer requests than this is not worth its writing."""

IDLE_S: Final = 5.0
"""A block that nobody uses for so long is returned, at the next request or beat of the heart."""

PAUSE_S: Final = 0.1
"""After a block was refused, or had to be returned for want of room, placing stays exact for so long."""

SILENT_S: Final = LEASE_S - 2 * BEAT_S
"""After so long without an answer nothing more is given out. When it was answered, this process had renewed its lease
at most ``BEAT_S`` before; another ``BEAT_S`` are to spare."""

PAST_MAX: Final = 100_000
"""How many ids that were placed exactly or have ended are remembered, so that they are not placed once more."""

_SECOND_NS: Final = 1_000_000_000
_IDLE_NS: Final = int(IDLE_S * _SECOND_NS)
_PAUSE_NS: Final = int(PAUSE_S * _SECOND_NS)
_SILENT_NS: Final = int(SILENT_S * _SECOND_NS)
_RETURNED: Final = "lease returned"


@runtime_checkable
class Idling(Protocol):
    """A ledger that can say when it has nothing to do."""

    def when_idle(self, call: Callable[[], None], /) -> None:
        """Call ``call`` now and then while nothing is queued."""
        ...


class _Block:
    """One lease: ``free`` is what is left on each leg, None before the ledger has answered.

    ``requests`` is for how many it was asked, ``out`` how many holds in memory are under it; once it is ``over``
    nothing more is taken from it.
    """

    __slots__ = ("accounts", "asked_ns", "ends_ns", "free", "id", "key", "out", "over", "requests", "used_ns")

    def __init__(self, lease: bytes, key: Key, requests: int, ends_ns: int | None, asked_ns: int) -> None:
        self.id = lease
        self.key = key
        self.requests = requests
        self.accounts: tuple[AccountKey, ...] = tuple([part[:4] for part in key[1]])
        self.ends_ns = ends_ns
        self.asked_ns = self.used_ns = asked_ns
        self.free: list[int] | None = None
        self.out = 0
        self.over = False


class LeasedLedger:
    """``ledger``, with holds in memory under blocks that are at most ``share`` percent of what is left.

    Leased are plain budgets: strict, without carry-over, rolling period and thresholds on what is committed; and of
    these, holds without a claim that are void if their process is lost. All others are placed exactly. Windows are
    those of this machine's clock; of a ledger with a clock of its own they differ by as much as the clocks do.
    """

    def __init__(self, ledger: Ledger, system: System, *, share: int = SHARE, target: int = TARGET) -> None:
        if not 1 <= share <= 100 or target < LEAST:
            raise ConfigurationError(f"blocks are 1 to 100 percent of what is left, for {LEAST} requests or more")
        self._ledger = ledger
        self._clock = system.clock
        self._ids = system.ids
        self._share = share
        self._target = target
        self._begin()
        watch(self)
        if isinstance(ledger, Idling):
            ledger.when_idle(self._tend)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a promise can be kept while it is made
        self._blocks: dict[Key, _Block] = {}
        self._leased: dict[AccountKey, set[_Block]] = {}
        self._taken: dict[bytes, tuple[_Block, tuple[int, ...]]] = {}
        self._past: OrderedDict[bytes, Held | Drawn | None] = OrderedDict()
        self._paused: dict[AccountKey, int] = {}
        self._unsent: list[ResolveHold] = []
        self._heard_ns = self._tended_ns = 0
        self._listening = False

    def submit(self, command: LedgerCommand) -> Promise[Any]:
        """Answer at once from a block, else hand ``command`` on."""
        if isinstance(command, PlaceHold) and command.share is None:
            return self._place(command)
        if isinstance(command, ResolveHold) and command.drawn is None:
            return self._resolve(command)
        return self._ledger.submit(command)

    def close(self) -> None:
        """Return every block and close the ledger; what is held in memory stays held, and can still be ended."""
        with self._lock:
            self._return_all(self._blocks.values())
            self._send_again()
        self._ledger.close()

    def forget(self) -> None:
        """In a forked child: start over; blocks and the holds under them are the parent's."""
        self._begin()

    # placing

    def _place(self, command: PlaceHold) -> Promise[Any]:
        with self._lock:
            now_ns = self._tended()
            taken = self._taken.get(command.id)
            if taken is not None:
                return _kept(Held(taken[1]))
            past = self._past.get(command.id)
            if isinstance(past, Held):
                return _kept(past)
            wall_ns = self._clock.wall_ns()
            key = _key(command, wall_ns) if command.id not in self._past else None
            if key is None:
                legs = command.legs if self._leased else ()
                return self._place_exactly(command, [account_key(leg, wall_ns) for leg in legs], now_ns)
            block, requests = self._blocks.get(key), self._target
            if block is not None and block.free is not None:
                if self._take(block, block.free, command, now_ns):
                    return _kept(Held(self._taken[command.id][1]))
                if now_ns - block.asked_ns < _SECOND_NS:
                    requests = min(2 * block.requests, GROWTH_MAX * self._target)
                self._return(block)
                block = None
            accounts = [part[:4] for part in key[1]]
            promise = self._place_exactly(command, accounts, now_ns)
            if block is None and not any(self._paused.get(account, 0) > now_ns for account in accounts):
                self._ask(command, key, requests, wall_ns, now_ns)
            return promise

    def _take(self, block: _Block, free: list[int], command: PlaceHold, now_ns: int) -> bool:
        amounts = tuple([leg.most for leg in command.legs])
        rest = [left - amount for left, amount in zip(free, amounts, strict=True)]
        if min(rest) < 0:
            return False
        block.free = rest
        block.out += 1
        block.used_ns = now_ns
        self._taken[command.id] = block, amounts
        return True

    def _place_exactly(self, command: PlaceHold, accounts: Iterable[AccountKey], now_ns: int) -> Promise[Any]:
        """Place in the ledger: at first for all that is asked, if there are blocks that could make room for it."""
        self._remember(command.id, None)
        accounts = tuple(accounts)
        if not any(account in self._leased for account in accounts):
            promise = self._ledger.submit(command)
            self._listen(promise, now_ns)
            return promise
        whole = tuple([replace(leg, least=max(leg.least, leg.most)) for leg in command.legs])
        first = self._ledger.submit(replace(command, legs=whole, share=100))  # all that is left, and no denial yet
        self._listen(first, now_ns)
        answer = LedgerPromise(first.deadline_s)
        first.then(partial(self._answered, command, accounts, first, answer))
        return answer

    def _answered(
        self, command: PlaceHold, accounts: tuple[AccountKey, ...], first: Promise[Any], answer: LedgerPromise
    ) -> Callable[[], None] | None:
        if not _failed(first) and isinstance(first.result(), Exhausted):
            with self._lock:
                self._return_all([block for account in accounts for block in self._leased.get(account, ())])
                self._pause(accounts, _PAUSE_NS)
                again = self._ledger.submit(command)
            again.then(partial(_hand_on, again, answer))
            return None
        return _hand_on(first, answer)

    # ending

    def _resolve(self, command: ResolveHold) -> Promise[Any]:
        with self._lock:
            now_ns = self._tended()
            taken = self._taken.get(command.id)
            if taken is None:
                past = self._past.get(command.id)
                if past is None:  # placed in the ledger, or never: then it must not be placed later
                    self._remember(command.id, None)
                elif isinstance(past, Held):
                    return _kept(Resolved(HoldState.VOIDED, (0,) * len(past.amounts)))
                else:  # perhaps nothing came of it the first time
                    command = _drawn(command, past)
                promise = self._ledger.submit(command)
                self._listen(promise, now_ns)
                return promise
            block, portions = taken
            if command.amounts is None and not command.review and block.free is not None and not block.over:
                block.free = [left + portion for left, portion in zip(block.free, portions, strict=True)]
                self._end(command.id, block, Held(portions))
                return _kept(Resolved(HoldState.VOIDED, (0,) * len(portions)))
            drawn = Drawn(block.id, portions)
            promise = self._ledger.submit(_drawn(command, drawn))
            self._listen(promise, now_ns)
            if not _failed(promise):
                self._end(command.id, block, drawn)
            return promise

    def _end(self, hold_id: bytes, block: _Block, how: Held | Drawn) -> None:
        """A hold in memory has ended: voided, or drawn by what is queued."""
        del self._taken[hold_id]
        self._remember(hold_id, how)
        block.out -= 1
        if block.over and not block.out:
            self._send(ResolveHold(block.id, None, _RETURNED))

    def _remember(self, hold_id: bytes, how: Held | Drawn | None) -> None:
        self._past[hold_id] = how
        if len(self._past) > PAST_MAX:
            self._past.popitem(last=False)

    # blocks

    def _ask(self, command: PlaceHold, key: Key, requests: int, wall_ns: int, now_ns: int) -> None:
        """Ask the ledger for a block; ``command`` is the request that none covered."""
        ends = [end for leg in command.legs if (end := window(leg.period, wall_ns)[1]) is not None]
        block = _Block(self._ids.new(), key, requests, min(ends, default=None), now_ns)
        self._blocks[key] = block
        for account in block.accounts:
            self._leased.setdefault(account, set()).add(block)
        legs = tuple([replace(leg, most=requests * leg.most, least=LEAST * leg.most) for leg in command.legs])
        promise = self._ledger.submit(PlaceHold(block.id, command.tenant, legs, share=self._share))
        promise.then(partial(self._granted, block, promise))

    def _granted(self, block: _Block, promise: Promise[Any]) -> None:
        with self._lock:
            if block.over:
                return
            now_ns = self._clock.monotonic_ns()
            if _failed(promise) or now_ns - block.asked_ns > _SILENT_NS:
                self._pause(block.accounts, _IDLE_NS)
                self._return(block)
                return
            answer = promise.result()
            if not isinstance(answer, Held):
                self._pause(block.accounts, _PAUSE_NS)
                self._drop(block)
                return
            self._heard(block.asked_ns, now_ns)
            block.free = list(answer.amounts)
            block.used_ns = now_ns

    def _return(self, block: _Block) -> None:
        """Give back what is left of a block; what is out of it still ends under it."""
        self._drop(block)
        if not block.out:
            self._send(ResolveHold(block.id, None, _RETURNED))
        elif block.free is not None and any(block.free):
            self._send(
                ResolveHold(self._ids.new(), None, _RETURNED, drawn=Drawn(block.id, tuple(block.free))),
            )

    def _return_all(self, blocks: Iterable[_Block]) -> None:
        for block in dict.fromkeys(blocks):
            self._return(block)

    def _drop(self, block: _Block) -> None:
        block.over = True
        del self._blocks[block.key]
        for account in set(block.accounts):
            sharing = self._leased[account]
            sharing.remove(block)
            if not sharing:
                del self._leased[account]

    def _pause(self, accounts: Iterable[AccountKey], for_ns: int) -> None:
        until_ns = self._clock.monotonic_ns() + for_ns
        for account in accounts:
            self._paused[account] = until_ns

    def _send(self, command: ResolveHold) -> None:
        """Queue what nobody waits for; where the queue is full, again later."""
        if _failed(self._ledger.submit(command)):
            self._unsent.append(command)

    def _send_again(self) -> None:
        unsent, self._unsent = self._unsent, []
        for command in unsent:
            self._send(command)

    # time

    def _tend(self) -> None:
        """Return what is not used any more."""
        with self._lock:
            self._tended()

    def _tended(self) -> int:
        """The time, with every block gone that must not be given out from any more."""
        now_ns = self._clock.monotonic_ns()
        if self._blocks and now_ns - self._heard_ns > _SILENT_NS:
            self._return_all([block for block in self._blocks.values() if block.free is not None])
        if now_ns - self._tended_ns < _SECOND_NS:
            return now_ns
        self._tended_ns = now_ns
        wall_ns = self._clock.wall_ns()
        self._return_all(
            [
                block
                for block in self._blocks.values()
                if now_ns - block.used_ns >= _IDLE_NS or (block.ends_ns is not None and block.ends_ns <= wall_ns)
            ]
        )
        self._paused = {account: until_ns for account, until_ns in self._paused.items() if until_ns > now_ns}
        self._send_again()
        return now_ns

    def _listen(self, promise: Promise[Any], now_ns: int) -> None:
        """Hear of an answer now and then: it says that the ledger is there, and this process not lost."""
        if not self._listening and now_ns - self._heard_ns >= _SECOND_NS:
            self._listening = True
            promise.then(partial(self._hear, promise, now_ns))

    def _hear(self, promise: Promise[Any], asked_ns: int) -> None:
        with self._lock:
            self._listening = False
            if not _failed(promise):
                self._heard(asked_ns, self._clock.monotonic_ns())

    def _heard(self, asked_ns: int, now_ns: int) -> None:
        if now_ns - self._heard_ns > _SILENT_NS:
            self._return_all([block for block in self._blocks.values() if block.free is not None])
        self._heard_ns = max(asked_ns, self._heard_ns)

    # what the ledger answers

    def balances(self, tenant: TenantId | None = None, *, at_ns: int | None = None) -> list[Balance]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; blocks are a part of what is held."""
        return self._ledger.balances(tenant, at_ns=at_ns)

    def entries(
        self,
        tenant: TenantId | None = None,
        limit: int = 100,
        *,
        after_seq: int | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> list[Entry]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        return self._ledger.entries(tenant, limit, after_seq=after_seq, since_ns=since_ns, until_ns=until_ns)

    def holds(self, tenant: TenantId | None = None) -> list[OpenHold]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`; a block is one hold, whatever was given out from it."""
        return self._ledger.holds(tenant)

    def denials(self, tenant: TenantId | None = None, limit: int = 100) -> list[Denial]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        return self._ledger.denials(tenant, limit)

    def audit(self) -> list[str]:
        """See :class:`~tenantguard.flow.ports.LedgerBooks`."""
        return self._ledger.audit()

    def outbox(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        return self._ledger.outbox(limit)

    def delivered(self, seq: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        self._ledger.delivered(seq)

    def retry(self, seq: int, due_ns: int) -> None:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        self._ledger.retry(seq, due_ns)

    def notices(self, limit: int = 100) -> list[Notice]:
        """See :class:`~tenantguard.flow.ports.Outbox`."""
        return self._ledger.notices(limit)


def _key(command: PlaceHold, wall_ns: int) -> Key | None:
    """Which block could cover a placing, None where it has to be exact."""
    if command.claim is not None or command.on_orphan is not OnOrphan.VOID or not command.legs:
        return None
    parts = []
    for leg in command.legs:
        if not _is_plain(leg):
            return None
        parts.append((*account_key(leg, wall_ns), leg.limit, leg.terms))
    return command.tenant, tuple(parts)


def _is_plain(leg: Leg) -> bool:
    terms = leg.terms
    return (
        not leg.period.buckets
        and (terms is PLAIN or _are_plain(terms))
        and type(leg.most) is type(leg.least) is int
        and 0 <= leg.least <= leg.most
        and (leg.limit is None or type(leg.limit) is int)
    )


def _are_plain(terms: Terms) -> bool:
    early = any(threshold.of is Counted.COMMITTED for threshold in terms.thresholds)
    return terms.strict and terms.carry is CarryOver.NONE and not early


def _drawn(command: ResolveHold, drawn: Drawn) -> ResolveHold:
    """As ``replace``, at a third of its cost."""
    return ResolveHold(
        command.id,
        command.amounts,
        command.reason,
        command.evidence,
        command.source,
        command.external_id,
        command.review,
        command.answer,
        drawn,
    )


def _kept(answer: Any) -> LedgerPromise:
    promise = LedgerPromise(deadline_s=0.0)
    promise.keep(answer)
    return promise


def _failed(promise: Promise[Any]) -> bool:
    """Whether the promise is broken already."""
    if not promise.wait(0):
        return False
    try:
        promise.result()
    except Exception:  # noqa: BLE001 - whatever it is, who waits hears of it
        return True
    return False


def _hand_on(promise: Promise[Any], answer: LedgerPromise) -> Callable[[], None] | None:
    """Give the answer of ``promise`` to who waits for ``answer``, and return their bell."""
    bells: set[Callable[[], None]] = set()
    try:
        answer.keep(promise.result(), bells)
    except Exception as problem:  # noqa: BLE001 - it is theirs
        answer.fail(problem, bells)
    return bells.pop() if len(bells) == 1 else partial(_ring, bells)


def _ring(bells: set[Callable[[], None]]) -> None:
    for bell in bells:
        bell()
