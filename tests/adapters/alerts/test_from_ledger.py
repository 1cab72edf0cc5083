"""From a charge to a receiver: each threshold is told once in a window, by whichever process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.alerts.delivery import LONGEST_WAIT_S, TRIES_MAX, Alerts
from tenantguard.adapters.alerts.signature import verify_signature
from tenantguard.adapters.alerts.webhook import WebhookSender
from tenantguard.adapters.ledger.memory import MemoryLedger
from tenantguard.adapters.ledger.postgres import PostgresLedger
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.flow.ports import PlaceHold, ResolveHold
from tenantguard.model.ledger import NEVER_NS, Leg, Terms, Threshold
from tenantguard.model.period import Period
from tenantguard.model.tenant import TenantId
from tenantguard.testing import manual_system

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenantguard.flow.ports import Ledger, System
    from tests.adapters.alerts.receiving import Receiver

SECRET = "a secret of 16 bytes or more"
TERMS = Terms(thresholds=(Threshold(50), Threshold(100)))


@pytest.fixture
def system() -> System:
    return manual_system()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, system: System, tmp_path: Path) -> Iterator[Ledger]:
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger(system)
    elif request.param == "sqlite":
        made = SQLiteLedger(tmp_path / "ledger.db", system)
    else:
        server = request.getfixturevalue("postgres")
        made = PostgresLedger(
            server.uri, system, deadline_s=30.0, schema=server.schema(), now_ns=system.clock.wall_ns
        )
    yield made
    made.close()


def charge(ledger: Ledger, system: System, dollars: int) -> None:
    hold = system.ids.new()
    nanos = dollars * 10**9
    leg = Leg(("tenant", "acme", "day"), Period.DAY, "USD", 100 * 10**9, nanos, nanos, TERMS)
    for command in (PlaceHold(hold, TenantId("acme"), (leg,)), ResolveHold(hold, (nanos,), "completed")):
        promise = ledger.submit(command)
        assert promise.wait(20)
        promise.result()


def webhook(receiver: Receiver, system: System) -> WebhookSender:
    return WebhookSender(receiver.url(), SECRET, system.clock)


def test_each_threshold_is_told_once_in_a_window(ledger: Ledger, system: System, receiver: Receiver) -> None:
    alerts = [Alerts(ledger, [webhook(receiver, system)], system) for _ in range(2)]
    for day in range(2):
        for dollars in (49, 1, 10, 40):
            charge(ledger, system, dollars)
            for one in alerts:
                one.deliver()
        system.clock.advance(86_400)  # type: ignore[attr-defined]
        assert len(receiver.got) == 2 * (day + 1)
    told = [json.loads(got.body) for got in receiver.got]
    assert [(one["threshold"]["percent"], one["spent"]) for one in told] == [(50, "50.00"), (100, "100.00")] * 2
    assert len({one["id"] for one in told}) == 4
    assert ledger.notices() == []


def test_a_receiver_that_comes_back_gets_what_it_missed(ledger: Ledger, system: System, receiver: Receiver) -> None:
    answers = [b"HTTP/1.1 500 No\r\n\r\n", b"", b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n"]
    receiver.answer = lambda connection: connection.sendall(answers.pop() if answers else b"HTTP/1.1 200 OK\r\n\r\n")
    alerts = Alerts(ledger, [webhook(receiver, system)], system)
    charge(ledger, system, 60)
    while not alerts.deliver():
        (waiting,) = ledger.notices()
        assert waiting.due_ns > system.clock.wall_ns()
        system.clock.advance(LONGEST_WAIT_S)  # type: ignore[attr-defined]
    assert len(receiver.got) == 4
    assert len({got.body for got in receiver.got}) == 1
    last = receiver.got[-1]
    now_s = (system.clock.wall_ns()) / 1e9
    assert verify_signature(SECRET, last.headers["TenantGuard-Signature"], last.body, now_s)


def test_an_alert_that_nobody_takes_is_given_up_and_stays_in_sight(
    ledger: Ledger, system: System, receiver: Receiver
) -> None:
    receiver.answer = lambda connection: connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
    alerts = Alerts(ledger, [webhook(receiver, system)], system)
    charge(ledger, system, 60)
    for _ in range(TRIES_MAX + 5):
        assert alerts.deliver() == 0
        system.clock.advance(LONGEST_WAIT_S)  # type: ignore[attr-defined]
    assert len(receiver.got) == TRIES_MAX
    (failed,) = ledger.notices()
    assert (failed.due_ns, failed.tries) == (NEVER_NS, TRIES_MAX)
    receiver.answer = lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    ledger.retry(failed.seq, system.clock.wall_ns())
    assert alerts.deliver() == 1
    assert ledger.notices() == []


def test_the_thread_tells_what_the_process_charged(ledger: Ledger, system: System, receiver: Receiver) -> None:
    alerts = Alerts(ledger, [webhook(receiver, system)], system)
    alerts.start()
    charge(ledger, system, 60)
    alerts.wake()
    assert receiver.heard.acquire(timeout=20)
    alerts.close()
