"""One suite over every ledger: whatever the commands, it answers as the pure rule does."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantguard.adapters.ledger.backend import decide
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import TimeOrderedIds
from tenantguard.errors import LayerError
from tenantguard.flow.ports import (
    Balance,
    Barred,
    Entry,
    Exhausted,
    Held,
    HoldState,
    Leg,
    OnOrphan,
    PlaceHold,
    Resolved,
    ResolveHold,
    System,
)
from tenantguard.model.sections import Period
from tenantguard.model.tenant import TenantId
from tenantguard.rules.ledger import Books

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.effects import Promise
    from tenantguard.flow.ports import Ledger

    class AuditedLedger(Ledger, Protocol):
        def audit(self) -> list[str]: ...


START = 1_750_000_000 * 10**9
ACME, GLOBEX = TenantId("acme"), TenantId("globex")


class Clock:
    def __init__(self) -> None:
        self.now_ns = START

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


@contextmanager
def opened(kind: str, clock: Clock) -> Iterator[AuditedLedger]:
    """A new ledger of this kind; once it is closed, nothing in it may be broken."""
    system = System(clock, TimeOrderedIds())
    with tempfile.TemporaryDirectory() as folder:
        ledger: AuditedLedger = (
            MemoryLedger(system) if kind == "memory" else SQLiteLedger(Path(folder, "ledger.db"), system)
        )
        yield ledger
        ledger.close()
        assert ledger.audit() == []


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ledger(kind: str) -> Iterator[AuditedLedger]:
    with opened(kind, Clock()) as ledger:
        yield ledger


def answer(promise: Promise[Any]) -> Any:
    assert promise.wait(30)
    return promise.result()


def leg(most: int, least: int | None = None, *, limit: int | None = 100, budget: tuple[str, ...] = ("b",)) -> Leg:
    return Leg(budget, Period.DAY, "USD", limit, most, most if least is None else least)


def hold(number: int) -> bytes:
    return number.to_bytes(16, "big")


# the pure rule

texts = st.sampled_from(["", "resp-1", "réponse", "\ud800"])
legs = st.lists(
    st.builds(
        lambda budget, period, unit, limit, least, more: Leg(budget, period, unit, limit, least + more, least),
        st.sampled_from([("b",), ("tenant", "acme", "month"), ("\N{SNOWMAN}", '"')]),
        st.sampled_from([Period.MINUTE, Period.MONTH, Period.LIFETIME]),
        st.sampled_from(["USD", "tokens"]),
        st.sampled_from([None, 0, 50, 100, 2**63 - 1, 2**70]),
        st.one_of(st.integers(0, 60), st.sampled_from([2**63 - 1, 2**64])),
        st.integers(0, 60),
    ),
    max_size=3,
).map(tuple)
holds = st.integers(0, 6).map(hold)
commands = st.one_of(
    st.builds(PlaceHold, holds, st.sampled_from([ACME, GLOBEX]), legs, st.sampled_from(OnOrphan)),
    st.builds(
        ResolveHold,
        holds,
        st.one_of(st.none(), st.lists(st.integers(0, 90) | st.just(2**65), max_size=3).map(tuple)),
        texts,
        st.dictionaries(texts, st.integers() | texts, max_size=2),
        st.one_of(st.none(), texts),
        st.one_of(st.none(), texts),
    ),
)
steps = st.lists(
    st.one_of(
        st.lists(commands, min_size=1, max_size=8),
        st.sampled_from([1, 20, 3_600, 40 * 86_400]),
        st.just("reopen"),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_whatever_the_commands_a_ledger_answers_as_the_rule_does(
    kind: str, steps: list[list[PlaceHold | ResolveHold] | int | str]
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
            assert ledger.balances(tenant) == _balances(books, tenant)
            assert ledger.entries(tenant, 1000) == _entries(books, tenant)
        assert ledger.audit() == []


def _balances(books: Books, tenant: str | None) -> list[Balance]:
    return [
        Balance(
            budget=account.key[0],
            unit=account.key[2],
            limit=account.limit,
            spent=account.spent,
            held=account.held,
            window_starts_ns=account.key[3],
            window_ends_ns=account.window_ends_ns,
        )
        for account in books.accounts.values()
        if tenant in {None, account.tenant}
    ]


def _entries(books: Books, tenant: str | None) -> list[Entry]:
    return [
        Entry(
            hold=line.hold.id,
            leg=line.leg,
            tenant=str(line.hold.tenant),
            budget=line.hold.legs[line.leg][0].key[0],
            unit=line.hold.legs[line.leg][0].key[2],
            amount=line.amount,
            absorbed=line.absorbed,
            at_ns=line.at_ns,
            reason=line.reason,
            evidence=json.loads(line.evidence),
            source=line.source,
            external_id=line.external_id,
        )
        for line in reversed(books.lines)
        if tenant in {None, line.hold.tenant}
    ]


# the behaviours, one by one


def test_a_hold_is_settled_for_what_was_used(ledger: AuditedLedger) -> None:
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


def test_repeating_a_command_answers_as_the_first_time(ledger: AuditedLedger) -> None:
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


def test_ending_an_unknown_id_bars_a_later_placing(ledger: AuditedLedger) -> None:
    """Design 3.3: mint the id, register the end, then take; the end may come first."""
    assert answer(ledger.submit(ResolveHold(hold(1), None, "cancelled"))) == Resolved(HoldState.VOIDED, ())
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10),)))) == Barred()
    assert ledger.balances() == []


def test_a_refusal_leaves_no_trace(ledger: AuditedLedger) -> None:
    """Promise 5."""
    refused = answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(5, budget=("a",)), leg(101)))))
    assert isinstance(refused, Exhausted)
    assert (refused.leg, refused.needed, refused.available) == (1, 101, 100)
    assert ledger.balances() == []
    assert answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(100),)))) == Held((100,))


def test_an_account_shared_by_tenants_is_shown_to_none_of_them(ledger: AuditedLedger) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10, budget=("global",)), leg(10)))))
    answer(ledger.submit(PlaceHold(hold(2), GLOBEX, (leg(10, budget=("global",)),))))
    assert [balance.budget for balance in ledger.balances(ACME)] == [("b",)]
    assert ledger.balances(GLOBEX) == []
    assert [(balance.budget, balance.held) for balance in ledger.balances()] == [(("global",), 20), (("b",), 10)]


def test_charges_add_up_for_each_tenant_and_an_unseen_one_has_none(ledger: AuditedLedger) -> None:
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


def test_entries_come_newest_first_and_no_more_than_asked_for(ledger: AuditedLedger) -> None:
    for number in range(5):
        answer(ledger.submit(PlaceHold(hold(number), ACME, (leg(1),))))
        answer(ledger.submit(ResolveHold(hold(number), (1,), f"number {number}")))
    assert [entry.reason for entry in ledger.entries(ACME, 2)] == ["number 4", "number 3"]
    assert ledger.entries(limit=0) == []


def test_fifty_at_once_on_a_budget_with_room_for_one_admit_exactly_one(ledger: AuditedLedger) -> None:
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


def test_a_promise_tells_each_of_its_waiters_once(ledger: AuditedLedger) -> None:
    told: list[str] = []
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(1),)))
    promise.then(lambda: told.append("before"))
    assert promise.wait(30)
    promise.then(lambda: told.append("after"))
    answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1),))))
    assert sorted(told) == ["after", "before"]
    assert promise.wait(0)


def test_a_waiter_that_fails_keeps_nobody_else_waiting(
    ledger: AuditedLedger, caplog: pytest.LogCaptureFixture
) -> None:
    promise = ledger.submit(PlaceHold(hold(1), ACME, (leg(1),)))
    promise.then(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert answer(promise) == Held((1,))
    assert answer(ledger.submit(PlaceHold(hold(2), ACME, (leg(1),)))) == Held((1,))
    assert "a call that waited for the ledger failed" in caplog.text


def test_what_a_waiter_returns_is_called_after_it(ledger: AuditedLedger) -> None:
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


def test_two_event_loops_wait_on_one_ledger(ledger: AuditedLedger) -> None:
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


def test_a_closed_ledger_is_usable_again(ledger: AuditedLedger, kind: str) -> None:
    answer(ledger.submit(PlaceHold(hold(1), ACME, (leg(10),))))
    ledger.close()
    ledger.close()
    assert answer(ledger.submit(ResolveHold(hold(1), (4,), "completed"))) == Resolved(HoldState.SETTLED, (4,))
    assert [(balance.spent, balance.held) for balance in ledger.balances()] == [(4, 0)]
