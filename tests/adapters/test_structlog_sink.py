"""Audit records as structlog events: one an exchange, none lost unnoticed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tenantguard.adapters.audits.structlog import StructlogSink, add_exchange, event_of
from tenantguard.flow.exchange import CURRENT
from tenantguard.flow.layer import check
from tenantguard.guard import Guard
from tenantguard.layers.audit import Audit
from tenantguard.model.audit import AuditRecord
from tenantguard.model.charge import Charged
from tenantguard.model.decision import Allow, Deny
from tenantguard.model.money import Amount
from tenantguard.model.tenant import Tenant, TenantId
from tenantguard.testing import make_exchange, memory_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenantguard.flow.exchange import Exchange


def record(exchange: str = "e1", **fields: Any) -> AuditRecord:
    usual: dict[str, Any] = {
        "exchange": exchange,
        "at_ns": 1,
        "took_ns": 1_234_567,
        "tenant": "acme",
        "identity": None,
        "policy": None,
        "revision": None,
        "route": "/**",
        "method": "GET",
        "decisions": (),
        "ending": "completed",
        "status": 200,
        "received": 0,
        "sent": 0,
    }
    return AuditRecord(**{**usual, **fields})


class Log:
    """What reaches structlog's last processor. ``before`` is called with every event, in the thread that logs."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.before: Callable[[Any], None] = lambda event: None

    def __call__(self, _logger: Any, method: str, event: Any) -> Any:
        self.before(event)
        self.events.append({**event, "level": method})
        raise structlog.DropEvent


@pytest.fixture
def log() -> Iterator[Log]:
    usual = structlog.get_config()
    log = Log()
    structlog.configure(processors=[log])
    yield log
    structlog.configure(**usual)


def test_every_exchange_is_one_event_with_all_its_decisions(log: Log) -> None:
    @check
    def gate(exchange: Exchange) -> Deny | None:
        exchange.allow("gate", "an open door")
        return Deny("gate", "gate.closed", 403, "No.") if exchange.request.path == "/no" else None

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def visit() -> None:
        async def send(message: Any) -> None:
            pass

        for path in ("/yes", "/no"):
            await guard.asgi(app)({"type": "http", "method": "GET", "path": path, "headers": []}, None, send)

    sink = StructlogSink()
    ports = memory_ports()
    ports.audits = (sink,)
    guard = Guard([Audit(), gate], ports=ports)
    asyncio.run(visit())
    guard.close()
    assert [(event["event"], event["level"], event["ending"], event["status"]) for event in log.events] == [
        ("exchange", "info", "completed", 200),
        ("exchange", "info", "refused", 403),
    ]
    allowed = {"kind": "allow", "layer": "gate", "matched_by": "an open door"}
    denied = {"kind": "deny", "layer": "gate", "reason": "gate.closed", "status": 403}
    assert [event["decisions"] for event in log.events] == [[allowed], [allowed, denied]]


def test_an_event_leaves_out_what_is_absent_and_writes_money_out() -> None:
    half = Charged(Amount.parse("0.25 USD"), Amount.parse("0.50 USD"), "usage")
    decisions = (Allow("rate", "tenant-1s", {"remaining": 9}), Deny("charge", "budget.exhausted", 402, "No."))
    event = event_of(record(charge=half, decisions=decisions))
    assert (event["charged"], event["held"], event["charge_basis"]) == ("0.25 USD", "0.50 USD", "usage")
    assert event["took_ms"] == 1.235
    assert event["decisions"][0]["remaining"] == 9
    assert not {"identity", "policy", "reason", "error"} & event.keys()


def test_beyond_its_queue_records_are_dropped_and_the_next_event_says_how_many(log: Log) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def wait(_: Any) -> None:
        writing.set()
        assert go_on.wait(20)

    log.before = wait
    sink = StructlogSink(queue_max=2)
    sink.record(record("first"))
    assert writing.wait(20)
    for number in range(5):
        sink.record(record(f"later {number}"))
    assert sink.dropped == 3
    go_on.set()
    sink.close()
    told = [(event["exchange"], event.get("records_dropped")) for event in log.events]
    assert told == [("first", None), ("later 0", 3), ("later 1", None)]


def test_a_processor_that_fails_ends_nothing_but_its_record(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Any) -> None:
        if event["exchange"] == "bad":
            raise ValueError(event["tenant"])

    log.before = fail
    sink = StructlogSink()
    for name in ("good", "bad", "next"):
        sink.record(record(name))
    sink.close()
    assert [(event["exchange"], event.get("records_dropped")) for event in log.events] == [
        ("good", None),
        ("next", 1),
    ]
    assert "ValueError" in caplog.text
    assert "acme" not in caplog.text


def test_closed_it_has_written_everything_and_can_be_used_again(log: Log) -> None:
    sink = StructlogSink()
    sink.close()
    for turn in (1, 2):
        for number in range(100):
            sink.record(record(f"{turn}-{number}"))
        sink.close()
        assert len(log.events) == 100 * turn
    assert sink.dropped == 0


def test_at_exit_and_after_a_fork_everything_is_written() -> None:
    code = """
import os, threading
import structlog
from tenantguard.adapters.audits.structlog import StructlogSink
from tenantguard.model.audit import AuditRecord
written = threading.Event()
def write(logger, method, event):
    os.write(1, f"{event['exchange']}\\n".encode())
    written.set()
    raise structlog.DropEvent
structlog.configure(processors=[write])
sink = StructlogSink()
def record(name):
    sink.record(AuditRecord(name, 1, 1, None, None, None, None, "/", "GET", (), "completed", 200, 0, 0))
record("before")
assert written.wait(20)
if child := os.fork():
    os.waitpid(child, 0)
    record("parent")
else:
    record("child")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["before", "child", "parent"]


def test_the_applications_own_events_carry_their_exchange_and_tenant() -> None:
    exchange = make_exchange(facts=(Tenant(TenantId("acme")),))
    assert add_exchange(None, "info", {"event": "paid"}) == {"event": "paid"}
    token = CURRENT.set(exchange)
    try:
        told = add_exchange(None, "info", {"event": "paid"})
        assert told == {"event": "paid", "exchange": exchange.id, "tenant": "acme"}
        assert add_exchange(None, "info", {"tenant": "its own"})["tenant"] == "its own"
    finally:
        CURRENT.reset(token)
    bare = make_exchange()
    token = CURRENT.set(bare)
    try:
        assert add_exchange(None, "info", {}) == {"exchange": bare.id}
    finally:
        CURRENT.reset(token)


def test_amounts_among_the_details_are_written_as_the_charge_is() -> None:
    """A log that knows no amounts would write ``Amount(nanos=...)``."""
    held = Amount(557_660, "EUR")
    deny = Deny("charge", "budget.exhausted", 402, "no", details={"held": held, "limit": 8})
    allowed, denied = event_of(record(decisions=(Allow("charge", "hold", {"held": held}), deny)))["decisions"]
    assert (allowed["held"], denied["held"], denied["limit"]) == ("0.00055766 EUR", "0.00055766 EUR", 8)
