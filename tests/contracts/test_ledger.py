"""One suite over every ledger: whatever the commands, it answers as the pure rule does."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantguard.adapters.ledger.backend import OUTBOX_LEASE_NS, decide
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.postgres import PostgresLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import LayerError
from tenantguard.flow.ports import (
    Balance,
    Barred,
    Booked,
    Claim,
    Conflict,
    Correct,
    Denial,
    Drawn,
    Entry,
    Exhausted,
    FindClaim,
    Grant,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    OpenHold,
    PlaceHold,
    Refund,
    Repeated,
    Resolved,
    ResolveHold,
    System,
    Unbookable,
)
from tenantguard.model.ledger import (
    NEVER_NS,
    PLAIN,
    UNITS_MAX,
    Alert,
    CarryOver,
    Counted,
    EntryKind,
    OpenLeg,
    Terms,
    Threshold,
)
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import CLAIM_KEPT_NS, HOLDING, Books, read_alert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.effects import Promise
    from tenantguard.flow.ports import Ledger, LedgerCommand


START = 1_750_000_000 * 10**9
DAY_NS = 86_400 * 10**9
ACME, GLOBEX = TenantId("acme"), TenantId("globex")


class Clock:
    def __init__(self) -> None:
        self.now_ns = START

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


LEDGERS: dict[str, Callable[[System, str], Ledger]] = {
    "memory": lambda system, _folder: MemoryLedger(system),
    "sqlite": lambda system, folder: SQLiteLedger(Path(folder, "ledger.db"), system),
}


@contextmanager
def opened(kind: str, clock: Clock) -> Iterator[Ledger]:
    """A new ledger of this kind; once it is closed, nothing in it may be broken."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = LEDGERS[kind](System(clock, TimeOrderedIds()), folder)
        yield ledger
        ledger.close()
        assert ledger.audit() == []


@pytest.fixture(params=[*LEDGERS, "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        LEDGERS["postgres"] = lambda system, _folder: PostgresLedger(
            server.uri, system, schema=server.schema(), now_ns=system.clock.wall_ns
        )
    return str(request.param)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(kind: str, clock: Clock) -> Iterator[Ledger]:
    with opened(kind, clock) as ledger:
        yield ledger


def answer(promise: Promise[Any]) -> Any:
    assert promise.wait(30)
    return promise.result()


def leg(
    most: int,
    least: int | None = None,
    *,
    limit: int | None = 100,
    budget: tuple[str, ...] = ("b",),
    period: Period = Period.DAY,
    terms: Terms = PLAIN,
) -> Leg:
    return Leg(budget, period, "USD", limit, most, most if least is None else least, terms)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


# the pure rule

ROLLING = Period.parse("rolling 60 minutes / 4 buckets")
texts = st.sampled_from(["", "resp-1", "réponse", "\ud800"])
CARRYING = Terms(carry=CarryOver.UNUSED, cap=200)
OWING = Terms(strict=False, carry=CarryOver.DEBT, thresholds=(Threshold(80, Counted.COMMITTED), Threshold(100)))
terms = st.one_of(
    st.sampled_from([PLAIN, CARRYING, OWING]),
    st.builds(
        Terms,
        st.booleans(),
        st.sampled_from(CarryOver),
        st.sampled_from([0, 30, UNITS_MAX]),
        st.sampled_from([(), (Threshold(50),)]),
    ),
)
lines = st.one_of(
    st.tuples(st.just(("b",)), st.sampled_from([Period.DAY, Period.MINUTE, ROLLING]), st.just("USD")),
    st.just((("b",), Period.DAY, "USD")),
    st.tuples(
        st.sampled_from([("tenant", "acme", "month"), ("\N{SNOWMAN}", '"')]),
        st.sampled_from([Period.DAY, Period.MONTH, Period.LIFETIME]),
        st.sampled_from(["USD", "tokens"]),
    ),
)
legs = st.builds(
    lambda line, limit, least, more, terms: Leg(*line, limit, least + more, least, terms),
    lines,
    st.one_of(st.just(100), st.sampled_from([None, 0, 50, 2**63 - 1, 2**70])),
    st.one_of(st.integers(0, 60), st.integers(0, 60), st.sampled_from([2**63 - 1, 2**64])),
    st.integers(0, 60),
    terms,
)
tenants = st.sampled_from([ACME, GLOBEX])
keys = st.sampled_from(["key", "\ud800"])
claims = st.builds(Claim, keys, st.sampled_from([b"one", b"one", b"other"]))
shares = st.sampled_from([None, None, None, 25, 100, 1, 0])
used = st.one_of(st.integers(0, 90), st.integers(0, 90), st.just(2**65))
evidence = st.dictionaries(texts, st.integers() | texts, max_size=2)


@st.composite
def commands(draw: st.DrawFn, placed: dict[bytes, int]) -> LedgerCommand:
    """A command, mostly about a hold in ``placed`` (and how many legs it has), which a placing is added to."""
    some = st.sampled_from([*placed, *placed, hold(99)])
    what = draw(st.sampled_from("pppppprrrrrrrddfobbggcx")) if placed else "p"
    if what == "p":
        new = draw(st.sampled_from([hold(len(placed))] * 5 + list(placed)))
        asked = tuple(draw(st.lists(legs, min_size=1, max_size=3)))
        placed.setdefault(new, len(asked))
        on_orphan = draw(st.sampled_from(OnOrphan))
        return PlaceHold(new, draw(tenants), asked, on_orphan, draw(st.none() | claims), draw(shares))
    if what == "d":
        lease = draw(some)
        number = placed.get(lease, 1)
        portions = tuple([draw(st.integers(0, 30) | used) for _ in range(number)])
        amounts = None if draw(st.integers(0, 2)) == 0 else tuple([draw(used) for _ in range(number)])
        new = draw(st.sampled_from([hold(len(placed))] * 5 + list(placed)))
        placed.setdefault(new, number)
        review = draw(st.integers(0, 5)) == 0
        return ResolveHold(new, amounts, draw(texts), drawn=Drawn(lease, portions), review=review)
    if what in "rx":
        ending = draw(some)
        number = draw(st.integers(0, 3)) if what == "x" else placed.get(ending, 1)
        amounts = None if draw(st.integers(0, 4)) == 0 else tuple([draw(used) for _ in range(number)])
        outside = (draw(texts), draw(texts)) if draw(st.booleans()) else (None, None)
        sealed = draw(st.none() | st.tuples(keys, st.just(b"sealed")))
        review = draw(st.integers(0, 5)) == 0
        return ResolveHold(ending, amounts, draw(texts), draw(evidence), *outside, review, sealed)
    if what == "f":
        return FindClaim(draw(tenants), draw(claims))
    op = draw(st.one_of(st.integers(200, 230).map(hold), some))
    if what in "ob":
        charged = draw(some)
        amounts = None if draw(st.booleans()) else tuple([draw(st.integers(0, 40))] * placed.get(charged, 1))
        return Refund(op, charged, amounts, draw(texts), draw(evidence))
    if what == "g":
        expires = draw(st.sampled_from([None, None, None, START + 30 * 10**9, START + DAY_NS]))
        return Grant(op, draw(tenants), draw(legs), expires, draw(texts))
    return Correct(op, draw(tenants), draw(legs), draw(st.integers(-50, 50) | st.just(2**63)), draw(texts))


@st.composite
def stories(draw: st.DrawFn) -> list[list[LedgerCommand] | int | str]:
    """Commands that are queued at once, seconds that pass, and the ledger closed and opened."""
    placed: dict[bytes, int] = {}
    steps: list[list[LedgerCommand] | int | str] = []
    for what in draw(st.text("ccccttto", min_size=6, max_size=16)):
        if what == "c":
            steps.append([draw(commands(placed)) for _ in range(draw(st.integers(1, 6)))])
        elif what == "t":
            steps.append(draw(st.sampled_from([1, 60, 900, 86_400, 86_400, 3 * 86_400, 40 * 86_400])))
        else:
            steps.append("reopen")
    return steps


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stories())
def test_whatever_the_commands_a_ledger_answers_as_the_rule_does(
    kind: str, steps: list[list[LedgerCommand] | int | str]
) -> None:
    """Commands are queued several at a time, so a ledger may decide them in one transaction."""
    clock, books = Clock(), Books()
    with opened(kind, clock) as ledger:
        for step in steps:
            if isinstance(step, int):
                clock.now_ns += step * 10**9
            elif isinstance(step, str):
                ledger.close()
            else:
                expected = [decide(books, command, clock.now_ns) for command in step]
                promises = [ledger.submit(command) for command in step]
                for wanted, promise in zip(expected, promises, strict=True):
                    if isinstance(wanted, LayerError):
                        with pytest.raises(LayerError):
                            answer(promise)
                    else:
                        assert answer(promise) == wanted
        for tenant in (None, ACME, GLOBEX):
            assert ledger.balances(tenant) == _balances(books, tenant, clock.now_ns)
            assert ledger.entries(tenant, 1000) == _entries(books, tenant)
            assert ledger.entries(tenant, 1000, after_seq=0) == _entries(books, tenant)[::-1]
            assert ledger.holds(tenant) == _holds(books, tenant)
            denials = _denials(books, tenant)
            assert ledger.denials(tenant, 1000) == denials[: len(ledger.denials(tenant, 1000))]
        assert [read_alert(notice.payload) for notice in ledger.outbox(1000)] == books.alerts
        assert ledger.audit() == []


def _balances(books: Books, tenant: str | None, now_ns: int) -> list[Balance]:
    return [
        Balance(
            budget=account.key[0],
            period=str(account.key[1]),
            unit=account.key[2],
            tenant=account.tenant,
            limit=account.limit,
            spent=account.spent,
            held=account.held,
            granted=account.granted(min(now_ns, (account.window_ends_ns or now_ns + 1) - 1)),
            carried=account.carried,
            window_starts_ns=account.key[3],
            window_ends_ns=account.window_ends_ns,
        )
        for account in books.accounts.values()
        if tenant in {None, account.tenant}
    ]


def _entries(books: Books, tenant: str | None) -> list[Entry]:
    """Newest first."""
    found = [
        Entry(
            seq=seq,
            op=line.op,
            leg=line.leg,
            kind=line.kind,
            tenant=line.tenant,
            budget=line.account.key[0],
            period=str(line.account.key[1]),
            unit=line.account.key[2],
            window_starts_ns=line.account.key[3],
            amount=line.amount,
            absorbed=line.absorbed,
            at_ns=line.at_ns,
            reason=line.reason,
            evidence=json.loads(line.evidence),
            source=line.source,
            external_id=line.external_id,
            of=line.of,
        )
        for seq, line in enumerate(books.lines, 1)
        if tenant in {None, line.tenant}
    ]
    return found[::-1]


def _holds(books: Books, tenant: str | None) -> list[OpenHold]:
    return [
        OpenHold(
            hold.id,
            str(hold.tenant),
            hold.state,
            hold.placed_ns,
            hold.reason,
            tuple(OpenLeg(a.key[0], str(a.key[1]), a.key[2], a.key[3], held) for a, held in hold.legs),
        )
        for _, hold in sorted(books.holds.items())
        if hold.state in HOLDING and tenant in {None, hold.tenant}
    ]


def _denials(books: Books, tenant: str | None) -> list[Denial]:
    """Newest first; a ledger drops them after some time."""
    return [
        Denial(
            refusal.hold,
            refusal.tenant,
            refusal.account.key[0],
            str(refusal.account.key[1]),
            refusal.account.key[2],
            refusal.account.key[3],
            min(refusal.needed, UNITS_MAX),
            refusal.available,
            refusal.at_ns,
        )
        for refusal in reversed(books.refusals)
        if tenant in {None, refusal.tenant}
    ]


# the behaviours, one by one


def test_a_hold_is_settled_for_what_was_used(ledger: Ledger) -> None:
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10),)))) == Held((10,))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(0, 10)]
    settling = ResolveHold(hold(1), (7,), "completed", {"output": 3}, "openai", "resp-1")
    assert answer(ledger.submit(settling)) == Resolved(HoldState.SETTLED, (7,))
    assert [(balance.spent, balance.held) for balance in ledger.balances(ACME)] == [(7, 0)]
    (entry,) = ledger.entries(ACME)
    assert (entry.amount, entry.absorbed, entry.tenant, entry.unit) == (7, 0, ACME, "USD")
    assert (entry.evidence, entry.source, entry.external_id) == ({"output": 3}, "openai", "resp-1")
    assert entry.at_ns == START
    assert ledger.balances(GLOBEX) == []
    assert ledger.entries(GLOBEX) == []


def test_repeating_a_command_answers_as_the_first_time(ledger: Ledger) -> None:
    """A reply that was lost is asked for again under the same id."""
    placing = PlaceHold(hold(1), ACME, (leg(10),))
    settling = ResolveHold(hold(1), (7,), "completed")
    for _ in range(3):
        assert answer(ledger.submit(placing)) == Held((10,))
    for _ in range(3):
        assert answer(ledger.submit(settling)) == Resolved(HoldState.SETTLED, (7,))
        assert answer(ledger.submit(ResolveHold(hold(1), None, "failed"))) == Resolved(HoldState.SETTLED, (7,))
        assert answer(ledger.submit(placing)) == Held((10,))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(7, 0)]
    assert len(ledger.entries()) == 1


def test_ending_an_unknown_id_bars_a_later_placing(ledger: Ledger) -> None:
    """Design 3.3: mint the id, register the end, then take; the end may come first."""
    assert answer(ledger.submit(ResolveHold(hold(1), None, "cancelled"))) == Resolved(HoldState.VOIDED, ())
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10),)))) == Barred()
    assert ledger.balances() == []


def test_a_refusal_leaves_no_trace(ledger: Ledger) -> None:
    """Promise 5."""
    refused = answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(5, budget=("a",)), leg(101)))))
    assert isinstance(refused, Exhausted)
    assert (refused.leg, refused.needed, refused.available) == (1, 101, 100)
    assert ledger.balances() == []
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(100),)))) == Held((100,))


def test_an_account_shared_by_tenants_is_shown_to_none_of_them(ledger: Ledger) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10, budget=("global",)), leg(10)))))
    answer(ledger.submit(PlaceHold(hold(2), GLOBEX, (leg(10, budget=("global",)),))))
    assert [balance.budget for balance in ledger.balances(ACME)] == [("b",)]
    assert ledger.balances(GLOBEX) == []
    assert [(balance.budget, balance.held) for balance in ledger.balances()] == [(("global",), 20), (("b",), 10)]


def test_charges_add_up_for_each_tenant_and_an_unseen_one_has_none(ledger: Ledger) -> None:
    """E-45."""
    for number, tenant in enumerate((ACME, GLOBEX, ACME)):
        answer(ledger.submit(PlaceHold(hold(number), tenant, (leg(30, budget=("tenant", tenant)),))))
        answer(ledger.submit(ResolveHold(hold(number), (10 + number,), "completed")))
    assert [(balance.spent, balance.held) for balance in ledger.balances(ACME)] == [(22, 0)]
    assert [(balance.spent, balance.held) for balance in ledger.balances(GLOBEX)] == [(11, 0)]
    assert ledger.balances(TenantId("unseen")) == []
    assert ledger.entries(TenantId("unseen")) == []


def test_neither_reading_nor_a_new_window_resets_what_was_spent(kind: str) -> None:
    """E-48, which gives way: a total is never drained; a new window has an account of its own."""
    clock = Clock()
    with opened(kind, clock) as ledger:
        for number in range(2):
            answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(10),))))
            answer(ledger.submit(ResolveHold(hold(number), (10,), "completed")))
            read = [ledger.balances(ACME) for _ in range(3)]
            assert read[0] == read[1] == read[2]
            assert [balance.spent for balance in read[0]] == [10] * (number + 1)
            clock.now_ns += 86_400 * 10**9
        assert len(ledger.entries(ACME)) == 2


def test_entries_come_newest_first_and_no_more_than_asked_for(ledger: Ledger) -> None:
    for number in range(5):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(1),))))
        answer(ledger.submit(ResolveHold(hold(number), (1,), f"number {number}")))
    assert [entry.reason for entry in ledger.entries(ACME, 2)] == ["number 4", "number 3"]
    assert ledger.entries(limit=0) == []


def test_fifty_at_once_on_a_budget_with_room_for_one_admit_exactly_one(ledger: Ledger) -> None:
    """E+6."""
    promises: list[Promise[Any]] = []

    def ask(number: int) -> None:
        promises.append(ledger.submit(PlaceHold(hold(number), ACME, (leg(60),))))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [answer(promise) for promise in promises]
    assert sum(isinstance(each, Held) for each in answers) == 1
    assert sum(isinstance(each, Exhausted) for each in answers) == 49
    assert [balance.held for balance in ledger.balances()] == [60]


def test_a_promise_tells_each_of_its_waiters_once(ledger: Ledger) -> None:
    told: list[str] = []
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(1),)))
    promise.then(lambda: told.append("before"))
    assert promise.wait(30)
    promise.then(lambda: told.append("after"))
    answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1),))))
    assert sorted(told) == ["after", "before"]
    assert promise.wait(0)


def test_a_waiter_that_fails_keeps_nobody_else_waiting(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(1),)))
    promise.then(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert answer(promise) == Held((1,))
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1),)))) == Held((1,))
    assert "a call that waited for a store failed" in caplog.text


def test_what_a_waiter_returns_is_called_after_it(ledger: Ledger) -> None:
    """One loop that waits for many promises is woken once, so its bell comes back from each."""
    heard: list[str] = []
    rung = threading.Event()

    def bell() -> None:
        heard.append("bell")
        rung.set()

    def call() -> Callable[[], None]:
        heard.append("call")
        return bell

    ledger.submit(PlaceHold(hold(1), ACME, (leg(1),))).then(call)
    assert rung.wait(30)
    assert heard == ["call", "bell"]


def test_two_event_loops_wait_on_one_ledger(ledger: Ledger) -> None:
    """Design 3.9: bound to no event loop."""
    results: list[Any] = []

    async def ask(number: int) -> Any:
        loop = asyncio.get_running_loop()
        kept = loop.create_future()
        promise = ledger.submit(PlaceHold(hold(number), ACME, (leg(1),)))
        promise.then(lambda: loop.call_soon_threadsafe(kept.set_result, None) and None)
        await kept
        return promise.result()

    async def many(first: int) -> list[Any]:
        return await asyncio.gather(*(ask(first + number) for number in range(20)))

    threads = [
        threading.Thread(target=lambda first=first: results.extend(asyncio.run(many(first)))) for first in (0, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Held((1,))] * 40


def test_a_closed_ledger_is_usable_again(ledger: Ledger, kind: str) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10),))))
    ledger.close()
    ledger.close()
    assert answer(ledger.submit(ResolveHold(hold(1), (4,), "completed"))) == Resolved(HoldState.SETTLED, (4,))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(4, 0)]


# idempotency keys


def test_a_key_refuses_a_second_hold_while_the_first_is_open_or_charged(ledger: Ledger, clock: Clock) -> None:
    claim = Claim("key", b"asked")
    find = FindClaim(ACME, claim)
    assert answer(ledger.submit(find)) is None
    placed = ledger.submit(PlaceHold(hold(1), ACME, (leg(10),), claim=claim))
    open_one = Repeated(hold(1), HoldState.PENDING, (), None, ("USD",))
    assert answer(placed) == Held((10,))
    assert answer(ledger.submit(find)) == open_one
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(10),), claim=claim))) == open_one
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(10),), claim=Claim("key", b"else")))) == Conflict()
    assert answer(ledger.submit(PlaceHold(hold(3), GLOBEX, (leg(10),), claim=claim))) == Held((10,))
    answer(ledger.submit(ResolveHold(hold(1), (7,), "completed", answer=("key", b"sealed"))))
    charged = Repeated(hold(1), HoldState.SETTLED, (7,), b"sealed", ("USD",))
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(10),), claim=claim))) == charged
    clock.now_ns += CLAIM_KEPT_NS - 1
    assert answer(ledger.submit(find)) == charged
    clock.now_ns += 1
    assert answer(ledger.submit(PlaceHold(hold(4), ACME, (leg(10),), claim=claim))) == Held((10,))


def test_a_key_is_free_again_once_its_hold_was_voided(ledger: Ledger) -> None:
    claim = Claim("key", b"asked")
    for number in range(3):
        assert answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(10),), claim=claim))) == Held((10,))
        answer(ledger.submit(ResolveHold(hold(number), None, "failed")))


def test_what_is_refused_for_want_of_room_burns_no_key(ledger: Ledger) -> None:
    claim = Claim("key", b"asked")
    assert isinstance(answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(101),), claim=claim))), Exhausted)
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(10),), claim=claim))) == Held((10,))


# what operators book


def test_a_refund_gives_back_at_most_what_was_charged_and_in_its_window(ledger: Ledger, clock: Clock) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10), leg(20, budget=("other",))))))
    answer(ledger.submit(ResolveHold(hold(1), (10, 20), "completed")))
    clock.now_ns += DAY_NS
    first = Refund(hold(50), hold(1), (0, 15), "outage", {"ticket": 7})
    for _ in range(2):
        assert answer(ledger.submit(first)) == Booked((0, 15))
        ledger.close()
    assert isinstance(answer(ledger.submit(Refund(hold(51), hold(1), (0, 6), "again"))), Unbookable)
    assert answer(ledger.submit(Refund(hold(52), hold(1), None, "the rest"))) == Booked((10, 5))
    assert isinstance(answer(ledger.submit(Refund(hold(53), hold(1), None, "more"))), Unbookable)
    assert [balance.spent for balance in ledger.balances()] == [0, 0]
    refunds = [entry for entry in ledger.entries() if entry.kind is EntryKind.REFUND]
    assert [(entry.op, entry.leg, entry.amount, entry.of) for entry in refunds] == [
        (hold(52), 1, -5, hold(1)),
        (hold(52), 0, -10, hold(1)),
        (hold(50), 1, -15, hold(1)),
    ]
    assert {entry.window_starts_ns for entry in ledger.entries()} == {START - START % DAY_NS}


def test_a_grant_raises_the_limit_until_it_expires(ledger: Ledger, clock: Clock) -> None:
    granted = Grant(hold(50), ACME, leg(40), START + 10, "payment 7")
    for _ in range(2):
        assert answer(ledger.submit(granted)) == Booked((40,))
    assert [(balance.limit, balance.granted) for balance in ledger.balances()] == [(100, 40)]
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(130),)))) == Held((130,))
    clock.now_ns += 10
    assert isinstance(answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1),)))), Exhausted)
    assert [balance.granted for balance in ledger.balances()] == [0]
    assert [balance.granted for balance in ledger.balances(at_ns=START)] == [40]
    (entry,) = ledger.entries()
    assert (entry.kind, entry.amount, entry.reason) == (EntryKind.GRANT, 40, "payment 7")


def test_a_correction_changes_what_is_spent(ledger: Ledger) -> None:
    for number, amount in enumerate((30, -10)):
        assert answer(ledger.submit(Correct(hold(number), ACME, leg(0), amount, "invoice"))) == Booked((amount,))
    assert isinstance(answer(ledger.submit(Correct(hold(9), ACME, leg(0), -21, "invoice"))), Unbookable)
    assert [balance.spent for balance in ledger.balances()] == [20]
    assert [entry.amount for entry in ledger.entries(after_seq=0)] == [30, -10]


# leases


@pytest.mark.parametrize("reopened", [False, True])
def test_what_is_drawn_from_a_lease_is_charged_and_the_rest_goes_back(
    ledger: Ledger,
    reopened: bool,  # noqa: FBT001
) -> None:
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(80, 0), leg(9, 0)), share=25))) == Held((25, 9))
    for number in range(2, 5):
        if reopened:
            ledger.close()
        drawing = ResolveHold(hold(number), (5, 1), "completed", drawn=Drawn(hold(1), (10, 2)))
        for _ in range(2):
            settled = answer(ledger.submit(drawing))
            assert settled == Resolved(HoldState.SETTLED, (5, 1))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(18, 3)]
    answer(ledger.submit(ResolveHold(hold(1), None, "returned")))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(18, 0)]
    assert ledger.holds() == []


@pytest.mark.parametrize("reopened", [False, True])
def test_what_is_drawn_from_a_lease_that_has_ended_takes_what_the_limit_still_allows(
    ledger: Ledger,
    reopened: bool,  # noqa: FBT001
) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(80, 0),), share=25)))
    answer(ledger.submit(ResolveHold(hold(1), None, "returned")))
    answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(97),))))
    if reopened:
        ledger.close()
    drawing = ResolveHold(hold(3), (7,), "completed", drawn=Drawn(hold(1), (10,)))
    assert answer(ledger.submit(drawing)) == Resolved(HoldState.SETTLED, (3,))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(3, 97)]
    assert [entry.absorbed for entry in ledger.entries()] == [4]


def test_a_lease_is_refused_without_a_denial_and_drawing_from_nothing_bars(ledger: Ledger) -> None:
    assert isinstance(answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(80, 26),), share=25))), Exhausted)
    assert ledger.denials() == []
    drawing = ResolveHold(hold(2), (7,), "completed", drawn=Drawn(hold(1), (10,)))
    assert answer(ledger.submit(drawing)) == Resolved(HoldState.VOIDED, ())
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(7),)))) == Barred()


# windows


def test_what_was_left_over_is_carried_into_the_next_window(ledger: Ledger, clock: Clock) -> None:
    terms = Terms(carry=CarryOver.UNUSED, cap=50)
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(70, terms=terms),))))
    answer(ledger.submit(ResolveHold(hold(1), (60,), "completed")))
    clock.now_ns += DAY_NS
    ledger.close()
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(150, 0, terms=terms),)))) == Held((140,))
    assert [balance.carried for balance in ledger.balances()] == [0, 40]
    clock.now_ns += 3 * DAY_NS
    assert answer(ledger.submit(PlaceHold(hold(3), ACME, (leg(200, 0, terms=terms),)))) == Held((150,))


def test_a_rolling_period_counts_what_was_spent_in_each_of_its_parts(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(30, period=ROLLING),))))
        answer(ledger.submit(ResolveHold(hold(number), (30,), "completed")))
        clock.now_ns += 900 * 10**9
    ledger.close()
    refused = answer(ledger.submit(PlaceHold(hold(5), ACME, (leg(11, period=ROLLING),))))
    assert (refused.available, refused.spent) == (10, 90)
    assert [balance.spent for balance in ledger.balances(at_ns=clock.now_ns)] == [30, 30, 30]
    clock.now_ns += 2 * 900 * 10**9
    assert [balance.spent for balance in ledger.balances(at_ns=clock.now_ns)] == [30, 30]
    assert answer(ledger.submit(PlaceHold(hold(6), ACME, (leg(40, period=ROLLING),)))) == Held((40,))


def test_balances_of_a_time_are_those_that_counted_then(ledger: Ledger, clock: Clock) -> None:
    for number, period in enumerate((Period.DAY, Period.LIFETIME, Period.DAY)):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(10, period=period),))))
        clock.now_ns += DAY_NS
    shown = [[str(balance.period) for balance in ledger.balances(at_ns=START + day * DAY_NS)] for day in range(4)]
    assert shown == [["day", "lifetime"], ["lifetime"], ["lifetime", "day"], ["lifetime"]]


# alerts


def test_a_threshold_is_told_once_in_each_window(ledger: Ledger, clock: Clock) -> None:
    terms = Terms(thresholds=(Threshold(50), Threshold(80, Counted.COMMITTED)))
    for window in range(2):
        for number in range(4):
            op = hold(10 * window + number)
            answer(ledger.submit(PlaceHold(op, ACME, (leg(25, terms=terms),))))
            ledger.close()
            answer(ledger.submit(ResolveHold(op, (25,), "completed")))
        alerts = [read_alert(notice.payload) for notice in ledger.outbox()]
        starts_ns = START - START % DAY_NS + window * DAY_NS
        assert alerts == [
            Alert(("b",), Period.DAY, "USD", starts_ns, ACME, Threshold(50), 100, 50, 0, clock.now_ns),
            Alert(
                ("b",),
                Period.DAY,
                "USD",
                starts_ns,
                ACME,
                Threshold(80, Counted.COMMITTED),
                100,
                75,
                25,
                clock.now_ns,
            ),
        ]
        clock.now_ns += DAY_NS
        for notice in ledger.notices():
            ledger.delivered(notice.seq)
        assert ledger.notices() == []


def test_what_is_taken_from_the_outbox_comes_again_only_when_its_lease_ends(ledger: Ledger, clock: Clock) -> None:
    thresholds = tuple(Threshold(percent, Counted.COMMITTED) for percent in (1, 2, 3))
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(5, terms=Terms(thresholds=thresholds)),))))
    assert [(notice.seq, notice.tries, notice.kind) for notice in ledger.notices()] == [
        (3, 0, "alert"),
        (2, 0, "alert"),
        (1, 0, "alert"),
    ]
    assert [notice.seq for notice in ledger.outbox(2)] == [1, 2]
    assert [notice.seq for notice in ledger.outbox()] == [3]
    assert ledger.outbox() == []
    ledger.delivered(1)
    ledger.delivered(1)
    ledger.retry(2, clock.now_ns + 5)
    ledger.retry(3, NEVER_NS)
    clock.now_ns += 5
    assert [(notice.seq, notice.tries) for notice in ledger.outbox()] == [(2, 2)]
    assert ledger.outbox() == []
    clock.now_ns += OUTBOX_LEASE_NS
    assert [(notice.seq, notice.tries, notice.made_ns) for notice in ledger.outbox()] == [(2, 3, START)]
    ledger.delivered(2)
    assert [(notice.seq, notice.due_ns) for notice in ledger.notices()] == [(3, NEVER_NS)]
    ledger.retry(1, 0)
    ledger.retry(99, 0)
    ledger.delivered(99)
    assert ledger.outbox() == []


# what operators look at


def test_entries_are_read_page_by_page_and_bounded_in_time(ledger: Ledger, clock: Clock) -> None:
    for number in range(10):
        tenant = GLOBEX if number % 2 else ACME
        answer(ledger.submit(PlaceHold(hold(number), tenant, (leg(1),))))
        answer(ledger.submit(ResolveHold(hold(number), (1,), str(number))))
        clock.now_ns += 10
    read: list[str] = []
    after = 0
    while page := ledger.entries(ACME, 2, after_seq=after):
        assert len(page) <= 2
        read += [entry.reason for entry in page]
        after = page[-1].seq
    assert read == ["0", "2", "4", "6", "8"]
    bounds = {"since_ns": START + 20, "until_ns": START + 50}
    assert [entry.reason for entry in ledger.entries(after_seq=0, **bounds)] == ["2", "3", "4"]
    assert [entry.reason for entry in ledger.entries(ACME, **bounds)] == ["4", "2"]
    assert ledger.entries(limit=-1) == []


def test_holds_are_what_has_not_ended(ledger: Ledger) -> None:
    for number in range(4):
        answer(
            ledger.submit(PlaceHold(hold(number), GLOBEX if number == 3 else ACME, (leg(10), leg(2, budget=("x",)))))
        )
    answer(ledger.submit(ResolveHold(hold(0), (1, 1), "completed")))
    answer(ledger.submit(ResolveHold(hold(1), (1, 1), "no usage", review=True)))
    day_ns = START - START % DAY_NS
    legs = (OpenLeg(("b",), "day", "USD", day_ns, 10), OpenLeg(("x",), "day", "USD", day_ns, 2))
    assert ledger.holds(ACME) == [
        OpenHold(hold(1), ACME, HoldState.REVIEW, START, "no usage", legs),
        OpenHold(hold(2), ACME, HoldState.PENDING, START, None, legs),
    ]
    assert [open_hold.id for open_hold in ledger.holds()] == [hold(1), hold(2), hold(3)]
    assert answer(ledger.submit(ResolveHold(hold(1), (10, 0), "by hand"))) == Resolved(HoldState.SETTLED, (10, 0))
    answer(ledger.submit(PlaceHold(hold(9), ACME, ())))
    assert ledger.holds(ACME)[-1] == OpenHold(hold(9), ACME, HoldState.PENDING, START, None, ())


def test_a_placing_that_found_no_room_is_on_record(ledger: Ledger) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(60),))))
    for number in (2, 3):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(5, budget=("free",)), leg(2**70, 50)))))
    day_ns = START - START % DAY_NS
    assert ledger.denials(ACME, 1) == [Denial(hold(3), ACME, ("b",), "day", "USD", day_ns, 50, 40, START)]
    assert [denial.hold for denial in ledger.denials()] == [hold(3), hold(2)]
    assert ledger.denials(GLOBEX) == []
    assert ledger.denials(limit=0) == []


# what a ledger that was closed and opened must find again


def test_what_a_running_window_inherits_is_worked_out_anew_from_the_one_before(ledger: Ledger, clock: Clock) -> None:
    """What was still held there counted as spent; now that it is charged for less, more is left over."""
    terms = Terms(carry=CarryOver.UNUSED, cap=500)
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(70, terms=terms),))))
    clock.now_ns += DAY_NS
    answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1, terms=terms),))))
    assert [balance.carried for balance in ledger.balances()] == [0, 30]
    answer(ledger.submit(ResolveHold(hold(1), (20,), "completed")))
    ledger.close()
    answer(ledger.submit(PlaceHold(hold(3), ACME, (leg(1, terms=terms),))))
    assert [balance.carried for balance in ledger.balances()] == [0, 80]
    ledger.close()
    answer(ledger.submit(Grant(hold(50), ACME, leg(5, terms=terms), None, "paid")))
    assert [balance.carried for balance in ledger.balances()] == [0, 80]


def test_a_threshold_of_a_rolling_period_is_reached_by_settling(ledger: Ledger, clock: Clock) -> None:
    """What was spent in its other parts counts with it."""
    rolling = leg(45, period=ROLLING, terms=Terms(thresholds=(Threshold(90),)))
    for number in range(2):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (rolling,))))
        if number == 0:
            answer(ledger.submit(ResolveHold(hold(number), (45,), "completed")))
            clock.now_ns += 900 * 10**9
    ledger.close()
    assert ledger.notices() == []
    answer(ledger.submit(ResolveHold(hold(1), (45,), "completed")))
    (alert,) = [read_alert(notice.payload) for notice in ledger.notices()]
    assert (alert.spent, alert.ceiling, alert.threshold) == (90, 100, Threshold(90))


def test_a_correction_reaches_a_threshold_of_a_rolling_period(ledger: Ledger, clock: Clock) -> None:
    rolling = leg(0, period=ROLLING, terms=Terms(thresholds=(Threshold(90),)))
    for number in range(2):
        answer(ledger.submit(Correct(hold(number), ACME, rolling, 45, "invoice")))
        clock.now_ns += 900 * 10**9
        ledger.close()
    assert [read_alert(notice.payload).spent for notice in ledger.notices()] == [90]


def test_a_providers_response_is_charged_once_for_ever(ledger: Ledger) -> None:
    for number, state in enumerate((HoldState.SETTLED, HoldState.VOIDED)):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(10),))))
        settling = ResolveHold(hold(number), (7,), "completed", {}, "openai", "resp-1")
        assert answer(ledger.submit(settling)).state is state
        ledger.close()
    assert [balance.spent for balance in ledger.balances()] == [7]
