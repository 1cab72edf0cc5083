"""From the outbox to the senders: at least once, in no hurry, and nothing stops it."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.alerts.delivery import FIRST_WAIT_S, LONGEST_WAIT_S, TRIES_MAX, Alerts, wait_ns
from tenantguard.adapters.alerts.log import LogSender
from tenantguard.adapters.alerts.payload import alert_id
from tenantguard.adapters.alerts.webhook import WebhookSender
from tenantguard.adapters.ledger.encoding import alert_json
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import PortError
from tenantguard.model.ledger import NEVER_NS, Notice
from tenantguard.testing import manual_system
from tests.adapters.alerts.receiving import make_alert

if TYPE_CHECKING:
    from tenantguard.flow.ports import System
    from tenantguard.model.ledger import Alert
    from tests.adapters.alerts.receiving import Receiver

SECRET = "a secret of 16 bytes or more"
LEASE_NS = 60 * 10**9


@dataclass
class Box:
    """An outbox by the rules of the ledger's, in memory."""

    system: System
    payloads: dict[int, dict[str, Any]] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    due: dict[int, int] = field(default_factory=dict)
    fails: bool = False

    def put(self, *alerts: Alert) -> None:
        for alert in alerts:
            seq = len(self.due) + 1
            self.payloads[seq], self.due[seq] = json.loads(alert_json(alert)), 0

    def outbox(self, limit: int = 100) -> list[Notice]:
        if self.fails:
            raise PortError("ledger", "locked")
        now_ns = self.system.clock.wall_ns()
        taken = [seq for seq in self.payloads if self.due[seq] <= now_ns][:limit]
        for seq in taken:
            self.due[seq] = now_ns + LEASE_NS
            self.tries[seq] += 1
        return [Notice(seq, "alert", self.payloads[seq], 0, self.tries[seq]) for seq in taken]

    def delivered(self, seq: int) -> None:
        del self.payloads[seq]

    def retry(self, seq: int, due_ns: int) -> None:
        self.due[seq] = due_ns

    def notices(self, limit: int = 100) -> list[Notice]:
        raise NotImplementedError


@dataclass
class Telling:
    """A sender that fails when told to."""

    name: str
    failures: list[Exception] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    heard: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def send(self, alert: Alert) -> None:
        self.heard.release()
        if self.failures:
            raise self.failures.pop()
        self.told.append(alert_id(alert))

    def close(self) -> None:
        pass


@pytest.fixture
def system() -> System:
    return manual_system()


@pytest.fixture
def box(system: System) -> Box:
    return Box(system)


def test_what_is_due_is_told_to_every_sender_once(system: System, box: Box) -> None:
    box.put(*[make_alert(percent) for percent in range(1, 31)])
    first, second = Telling("first"), Telling("second")
    alerts = Alerts(box, [first, second], system)
    assert alerts.deliver() == 30
    assert alerts.deliver() == 0
    assert first.told == second.told
    assert len(set(first.told)) == 30
    assert not box.payloads


def test_a_sender_that_took_an_alert_does_not_get_it_again_when_another_failed(system: System, box: Box) -> None:
    box.put(make_alert())
    log, webhook = Telling("log"), Telling("webhook", [PortError("alerts", "down"), RuntimeError("worse")])
    alerts = Alerts(box, [log, webhook], system)
    for _ in range(3):
        alerts.deliver()
        system.clock.advance(LONGEST_WAIT_S)  # type: ignore[attr-defined]
    assert len(log.told) == len(webhook.told) == 1


def test_a_failure_is_tried_again_after_waits_that_double_and_in_the_end_given_up(system: System, box: Box) -> None:
    box.put(make_alert())
    failing = Telling("webhook", [PortError("alerts", "down")] * 100)
    alerts = Alerts(box, [failing], system)
    waits = []
    for tries in range(1, TRIES_MAX + 1):
        alerts.deliver()
        assert box.tries[1] == tries
        if tries < TRIES_MAX:
            wait_s = (box.due[1] - system.clock.wall_ns()) / 1e9
            waits.append(wait_s)
            system.clock.advance(wait_s - 1)  # type: ignore[attr-defined]
            alerts.deliver()
            assert box.tries[1] == tries
            system.clock.advance(1)  # type: ignore[attr-defined]
    for failures, wait_s in enumerate(waits):
        longest_s = min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S)
        assert longest_s / 2 <= wait_s <= longest_s
    assert box.due[1] == NEVER_NS
    assert 1 in box.payloads
    assert len(failing.failures) == 100 - TRIES_MAX


@given(st.integers(1, 100), st.integers(1, 10**6))
def test_a_wait_is_bounded_whatever_the_number_of_tries(percent: int, tries: int) -> None:
    wait = wait_ns(make_alert(percent), tries)
    assert FIRST_WAIT_S * 5 * 10**8 <= wait <= LONGEST_WAIT_S * 10**9
    assert wait == wait_ns(make_alert(percent), tries)


def test_what_a_lost_process_took_is_told_by_another(system: System, box: Box) -> None:
    box.put(make_alert())
    box.outbox(1)
    sender = Telling("log")
    alerts = Alerts(box, [sender], system)
    assert alerts.deliver() == 0
    system.clock.advance(61)  # type: ignore[attr-defined]
    assert alerts.deliver() == 1


def test_an_alert_that_cannot_be_read_keeps_no_other_back(
    system: System, box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version may have put it there."""
    box.put(make_alert(50), make_alert(80))
    box.payloads[1]["period"] = "fortnight"
    sender = Telling("log")
    alerts = Alerts(box, [sender], system)
    assert alerts.deliver() == 1
    assert list(box.payloads) == [1]
    for _ in range(TRIES_MAX):
        system.clock.advance(61)  # type: ignore[attr-defined]
        assert alerts.deliver() == 0
    assert box.due[1] == NEVER_NS
    assert "fortnight" not in caplog.text


def test_a_failing_ledger_is_told_to_who_delivers_and_does_not_end_the_thread(system: System, box: Box) -> None:
    sender = Telling("log")
    alerts = Alerts(box, [sender], system)
    box.fails = True
    with pytest.raises(PortError):
        alerts.deliver()
    alerts.start()
    alerts.wake()
    box.fails = False
    box.put(make_alert())
    alerts.wake()
    assert sender.heard.acquire(timeout=20)
    alerts.close()
    assert len(sender.told) == 1


def test_the_thread_begins_with_the_first_use_and_again_after_a_close(system: System, box: Box) -> None:
    sender = Telling("log")
    alerts = Alerts(box, [sender], system)
    before = threading.active_count()
    for _ in range(2):
        alerts.start()
        alerts.start()
        assert threading.active_count() == before + 1
        box.put(make_alert())
        alerts.wake()
        assert sender.heard.acquire(timeout=20)
        alerts.close()
        alerts.close()
        assert threading.active_count() == before
    assert len(sender.told) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own(system: System, box: Box) -> None:
    sender = Telling("log")
    alerts = Alerts(box, [sender], system)
    alerts.start()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            box.put(make_alert())
            alerts.wake()
            if sender.heard.acquire(timeout=20):
                alerts.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    alerts.close()


def test_closing_does_not_wait_for_a_receiver_that_hangs_and_the_alert_stays(
    system: System, box: Box, receiver: Receiver
) -> None:
    box.put(make_alert())
    receiver.answer = lambda connection: receiver.closing.wait()  # type: ignore[assignment, return-value]
    alerts = Alerts(box, [WebhookSender(receiver.url(), SECRET, system.clock, timeout_s=60)], system)
    alerts.start()
    receiver.heard.acquire()
    before_ns = SystemClock.monotonic_ns()
    alerts.close()
    assert SystemClock.monotonic_ns() - before_ns < 20 * 10**9
    assert 1 in box.payloads
    assert box.due[1] == system.clock.wall_ns() + LEASE_NS


def test_the_webhook_gets_the_same_id_at_every_try(system: System, box: Box, receiver: Receiver) -> None:
    box.put(make_alert())
    answers = [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 503 Busy\r\n\r\n", b""]
    receiver.answer = lambda connection: connection.sendall(answers.pop())
    alerts = Alerts(box, [WebhookSender(receiver.url(), SECRET, system.clock)], system)
    told = 0
    while answers:
        told += alerts.deliver()
        system.clock.advance(LONGEST_WAIT_S)  # type: ignore[attr-defined]
    assert told == 1
    assert len({json.loads(got.body)["id"] for got in receiver.got}) == 1
    assert len(receiver.got) == 3


def test_the_log_event_has_no_personal_data() -> None:
    with structlog.testing.capture_logs() as events:
        LogSender().send(make_alert())
    (event,) = events
    assert "jane" not in repr(event)
    assert event == {
        "event": "budget.alert",
        "log_level": "warning",
        "id": alert_id(make_alert()),
        "at": "2026-11-02T06:13:20.123456Z",
        "tenant": "acme",
        "scope": "identity",
        "period": "month in Europe/Berlin",
        "window_starts": "2026-10-31T23:00:00.000000Z",
        "unit": "USD",
        "threshold": 80,
        "of": "spent",
        "ceiling": "250.00",
        "spent": "200.000000001",
        "held": "0.50",
    }


def test_alerts_differ_in_their_ids() -> None:
    assert alert_id(make_alert(80)) != alert_id(make_alert(100))
    assert alert_id(make_alert(80)) == alert_id(make_alert(80))
