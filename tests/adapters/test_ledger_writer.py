"""The group-commit writer over a backend whose every move a test decides, and the promise that it keeps."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.ledger import writer as writer_module
from tenantguard.adapters.ledger.promise import LedgerPromise
from tenantguard.adapters.ledger.writer import BATCH_MAX, Writer
from tenantguard.asgi.waiting import kept
from tenantguard.errors import LayerError, PortError
from tenantguard.flow.ports import PlaceHold, ResolveHold
from tenantguard.model.tenant import TenantId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tenantguard.adapters.ledger.backend import Command

ACME = TenantId("acme")


class Scripted:
    """Answers each command with its id. ``gate`` holds ``apply`` back; ``failures`` are raised first, in order."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.idle = threading.Event()
        self.failures: list[Exception] = []
        self.poison: set[bytes] = set()
        self.batches: list[list[bytes]] = []
        self.closed = 0

    def apply(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            self.idle.set()
        self.entered.set()
        assert self.gate.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        if self.poison & {command.id for command in commands}:
            raise OverflowError("a number that no database takes")
        if commands:
            self.batches.append([command.id for command in commands])
        return [LayerError("wrong") if command.id == b"wrong" else command.id for command in commands]

    def close(self) -> None:
        self.closed += 1

    def forget(self) -> None:
        raise AssertionError


@pytest.fixture
def backend() -> Scripted:
    return Scripted()


@pytest.fixture
def writer(backend: Scripted) -> Iterator[Writer]:
    writer = Writer(backend, deadline_s=5.0, queue_max=4)
    yield writer
    backend.gate.set()
    writer.close()


def placing(number: int) -> PlaceHold:
    return PlaceHold(number.to_bytes(16, "big"), ACME, ())


def ending(number: int) -> ResolveHold:
    return ResolveHold(number.to_bytes(16, "big"), None, "failed")


def block(backend: Scripted, writer: Writer) -> LedgerPromise:
    """Have the writer wait inside ``apply`` with one operation."""
    backend.entered.clear()
    backend.gate.clear()
    promise = writer.submit(placing(0))
    assert backend.entered.wait(30)
    return promise


def test_all_that_came_meanwhile_is_committed_together_and_in_order(backend: Scripted) -> None:
    writer = Writer(backend, deadline_s=5.0, queue_max=2 * BATCH_MAX)
    block(backend, writer)
    promises = [writer.submit(placing(number)) for number in range(1, BATCH_MAX + 11)]
    backend.gate.set()
    for promise in promises:
        assert promise.wait(30)
    writer.close()
    assert [len(batch) for batch in backend.batches] == [1, BATCH_MAX, 10]
    assert [each for batch in backend.batches for each in batch] == sorted(
        each for batch in backend.batches for each in batch
    )


def test_a_full_queue_refuses_placings_at_once_and_still_takes_endings(backend: Scripted, writer: Writer) -> None:
    """What was taken must be able to end."""
    block(backend, writer)
    accepted = [writer.submit(placing(number)) for number in range(1, 4)]
    refused = writer.submit(placing(4))
    assert refused.wait(0)
    with pytest.raises(PortError, match="retry"):
        refused.result()
    ends = [writer.submit(ending(number)) for number in range(4)]
    assert writer.submit(ending(9)).wait(0)
    backend.gate.set()
    for promise in accepted + ends:
        assert promise.wait(30)
        promise.result()
    assert [len(batch) for batch in backend.batches] == [1, 7]


def test_an_operation_whose_waiter_gave_up_is_still_committed(backend: Scripted, writer: Writer) -> None:
    block(backend, writer)
    promise = writer.submit(placing(1))
    assert not promise.wait(0.001)
    backend.gate.set()
    assert writer.submit(placing(2)).wait(30)
    assert promise.wait(0)
    assert promise.result() == placing(1).id
    assert promise.deadline_s == 5.0
    assert promise.port == "ledger"


def test_a_failing_database_is_heard_at_once_and_the_operation_is_tried_again(
    backend: Scripted, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_PAUSE_FIRST_S", 0.001)
    first = block(backend, writer)
    second = writer.submit(ending(1))
    backend.failures = [PortError("ledger", "disk full")]
    backend.gate.set()
    for promise in (first, second):
        assert promise.wait(30)
        with pytest.raises(PortError, match="disk full"):
            promise.result()
    third = writer.submit(ending(2))
    assert third.wait(30)
    writer.close()
    assert [each for batch in backend.batches for each in batch] == [placing(0).id, ending(1).id, ending(2).id]


def test_a_database_that_does_not_answer_is_asked_for_nothing_more(backend: Scripted) -> None:
    now_ns = [1]
    writer = Writer(backend, deadline_s=5.0, queue_max=4, monotonic_ns=lambda: now_ns[0])
    first = block(backend, writer)
    now_ns[0] += 5 * 10**9
    waiting = writer.submit(placing(1))
    assert not waiting.wait(0)
    now_ns[0] += 1
    refused = writer.submit(placing(2))
    assert refused.wait(0)
    with pytest.raises(PortError, match="has not answered for 5 s"):
        refused.result()
    backend.gate.set()
    assert first.wait(30)
    assert waiting.wait(30)
    again = writer.submit(placing(3))
    assert again.wait(30)
    writer.close()
    assert [each for batch in backend.batches for each in batch] == [placing(0).id, placing(1).id, placing(3).id]


def test_an_operation_that_cannot_be_stored_spoils_no_other(backend: Scripted, writer: Writer) -> None:
    block(backend, writer)
    backend.poison = {placing(2).id}
    promises = [writer.submit(placing(number)) for number in range(1, 4)]
    backend.gate.set()
    for promise in promises:
        assert promise.wait(30)
    assert [promises[0].result(), promises[2].result()] == [placing(1).id, placing(3).id]
    with pytest.raises(PortError, match="OverflowError"):
        promises[1].result()
    last = writer.submit(placing(5))
    assert last.wait(30)


def test_an_answer_that_is_an_error_breaks_only_its_own_promise(backend: Scripted, writer: Writer) -> None:
    block(backend, writer)
    wrong = writer.submit(PlaceHold(b"wrong", ACME, ()))
    right = writer.submit(placing(1))
    backend.gate.set()
    assert wrong.wait(30)
    assert right.wait(30)
    with pytest.raises(LayerError):
        wrong.result()
    assert right.result() == placing(1).id


def test_closing_finishes_what_is_queued_and_a_later_operation_starts_anew(backend: Scripted, writer: Writer) -> None:
    block(backend, writer)
    promises = [writer.submit(placing(number)) for number in range(1, 4)]
    closing = threading.Thread(target=writer.close)
    closing.start()
    backend.gate.set()
    closing.join(30)
    assert not closing.is_alive()
    assert [promise.wait(0) for promise in promises] == [True] * 3
    assert backend.closed == 1
    assert writer.submit(placing(9)).wait(30)
    writer.close()
    writer.close()
    assert backend.closed == 2


def test_what_comes_while_closing_is_not_lost(backend: Scripted, writer: Writer) -> None:
    block(backend, writer)
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert writer._leaving.wait(30)
    late = writer.submit(placing(1))
    backend.gate.set()
    closing.join(30)
    assert late.wait(30)
    assert late.result() == placing(1).id


def test_closing_while_the_database_fails_gives_up_and_says_so(
    backend: Scripted, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    promises = [block(backend, writer), writer.submit(ending(0)), writer.submit(placing(1))]
    backend.failures = [PortError("ledger", "disk full")] * 5
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert writer._leaving.wait(30)
    backend.gate.set()
    closing.join(30)
    assert not closing.is_alive()
    for promise in promises:
        assert promise.wait(0)
        with pytest.raises(PortError, match="disk full"):
            promise.result()
    assert "3 operations lost" in caplog.text
    assert writer.submit(placing(2)).wait(30)


def test_an_idle_writer_lets_the_heart_beat(
    backend: Scripted, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BEAT_S", 0.001)
    assert writer.submit(placing(1)).wait(30)
    assert backend.idle.wait(30)
    backend.failures = [PortError("ledger", "locked")]
    backend.idle.clear()
    assert backend.idle.wait(30)
    assert writer.submit(placing(2)).wait(30)


def test_no_thread_runs_before_the_first_operation(backend: Scripted) -> None:
    writer = Writer(backend, deadline_s=5.0, queue_max=4)
    assert writer._thread is None
    writer.close()
    assert backend.closed == 0


# turns of an event loop


def test_what_one_turn_of_a_loop_asks_is_committed_together(backend: Scripted) -> None:
    """No thread is woken, and at first none runs, before the turn is over."""
    writer = Writer(backend, deadline_s=30.0, queue_max=100)

    async def ask(number: int) -> None:
        promise = writer.submit(placing(number))
        assert backend.batches == before
        assert await kept(promise)

    async def turns() -> None:
        await asyncio.gather(*(ask(number) for number in range(5)))
        before.append([placing(number).id for number in range(5)])
        assert backend.batches == before
        await ask(5)

    before: list[list[bytes]] = []
    asyncio.run(turns())
    writer.close()
    assert [len(batch) for batch in backend.batches] == [5, 1]


def test_who_blocks_a_loop_for_an_answer_is_not_kept_waiting_for_the_end_of_its_turn(writer: Writer) -> None:
    async def block_the_loop() -> bool:
        return writer.submit(placing(1)).wait(30)

    assert asyncio.run(block_the_loop())


def test_what_waits_for_the_end_of_a_turn_counts_as_queued(writer: Writer) -> None:
    async def ask() -> list[LedgerPromise]:
        return [writer.submit(placing(number)) for number in range(5)]

    refused = asyncio.run(ask())[-1]
    assert refused.wait(0)
    with pytest.raises(PortError, match="retry"):
        refused.result()


def asked_in_a_turn_that_never_ends(writer: Writer) -> LedgerPromise:
    promises: list[LedgerPromise] = []
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: promises.append(writer.submit(placing(1))))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    return promises[0]


def test_what_a_loop_asked_that_was_stopped_is_committed_at_the_end(backend: Scripted, writer: Writer) -> None:
    promise = asked_in_a_turn_that_never_ends(writer)
    assert not promise.wait(0)
    writer.close()
    assert promise.wait(0)
    assert backend.batches == [[placing(1).id]]


def test_what_a_loop_asked_that_was_stopped_is_committed_at_the_next_beat(
    backend: Scripted, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BEAT_S", 0.01)
    assert writer.submit(placing(0)).wait(30)
    promise = asked_in_a_turn_that_never_ends(writer)
    told = threading.Event()
    promise.then(told.set)
    assert told.wait(30)
    assert backend.batches == [[placing(0).id], [placing(1).id]]


# promises


def test_the_first_answer_of_a_promise_counts() -> None:
    promise = LedgerPromise(1.0)
    promise.fail(PortError("ledger", "locked"))
    promise.keep("late")
    with pytest.raises(PortError, match="locked"):
        promise.result()


def test_many_threads_waiting_on_one_promise_are_all_told() -> None:
    promise = LedgerPromise(1.0)
    told: list[bool] = []
    threads = [threading.Thread(target=lambda: told.append(promise.wait(30))) for _ in range(20)]
    for thread in threads:
        thread.start()
    promise.keep("answer")
    for thread in threads:
        thread.join()
    assert told == [True] * 20
