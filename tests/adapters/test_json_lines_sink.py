"""Audit records as lines of JSON: many in a write, each line whole, none lost unnoticed."""

from __future__ import annotations

import errno
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantguard.adapters.audits.events import event_of
from tenantguard.adapters.audits.json_lines import JSONLinesSink
from tenantguard.model.audit import AuditRecord
from tenantguard.model.charge import Charged
from tenantguard.model.decision import Allow, Deny
from tenantguard.model.money import Amount

if TYPE_CHECKING:
    from pathlib import Path


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


class File:
    """Takes ``room`` bytes, then fails until there is more, as a full disk does."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.data = b""
        self.writes = 0

    def write(self, data: bytes) -> int | None:
        self.writes += 1
        if not self.room:
            raise OSError(errno.ENOSPC, "no room for acme")
        taken = data[: self.room]
        self.room -= len(taken)
        self.data += taken
        return len(taken)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


@given(st.text(min_size=1), st.dictionaries(st.text(), st.text() | st.integers() | st.none()), st.booleans())
def test_a_line_has_what_the_event_has(name: str, details: dict[str, Any], charged: bool) -> None:  # noqa: FBT001
    half = Charged(Amount.parse("0.25 USD"), Amount.parse("0.50 USD"), "usage") if charged else None
    told = record(name, charge=half, decisions=(Allow("a", name, details), Deny("b", name, 402, name)))
    file = File()
    JSONLinesSink(file).write([told])
    assert file.lines() == [{"event": "exchange", **event_of(told)}]


def test_what_gathered_goes_out_in_one_write() -> None:
    file = File()
    sink = JSONLinesSink(file)
    sink.write([record(str(number)) for number in range(300)])
    assert (file.writes, [line["exchange"] for line in file.lines()]) == (1, [str(number) for number in range(300)])


def test_closed_it_has_written_everything_and_can_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with path.open("ab", buffering=0) as file:
        sink = JSONLinesSink(file)
        sink.close()
        for turn in (1, 2):
            for number in range(1500):
                sink.record(record(f"{turn}-{number}"))
            sink.close()
            lines = path.read_text().splitlines()
            assert len(lines) == 1500 * turn
        assert json.loads(lines[-1])["exchange"] == "2-1499"
        assert sink.dropped == 0


def test_many_threads_that_record_while_it_is_closed_lose_nothing() -> None:
    file = File()
    sink = JSONLinesSink(file)
    started = threading.Barrier(5)

    def work(name: int) -> None:
        started.wait(20)
        for number in range(300):
            sink.record(record(f"{name}-{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    started.wait(20)
    while any(thread.is_alive() for thread in threads):
        sink.close()
    sink.close()
    assert (len({line["exchange"] for line in file.lines()}), sink.dropped) == (1200, 0)


@pytest.mark.parametrize("room", range(0, 400, 7))
def test_a_full_disk_costs_counted_records_and_no_line_is_torn(room: int, caplog: pytest.LogCaptureFixture) -> None:
    file = File(room)
    sink = JSONLinesSink(file)
    sink.write([record("a"), record("b")])
    sink.write([record("c")])
    file.room = 1 << 30
    sink.write([record("d"), record("e")])
    whole = []
    for line in file.data.splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            assert len(line) <= room
    names = [line["exchange"] for line in whole]
    assert names[-2:] == ["d", "e"]
    assert 5 <= len(names) + sink.dropped <= 6  # a line that lacked nothing but its end is counted as dropped
    assert [line.get("records_dropped") for line in whole[-2:]] == [sink.dropped or None, None]
    assert "acme" not in caplog.text


def test_a_pipe_that_takes_nothing_now_drops_instead_of_waiting() -> None:
    class Full(File):
        def write(self, data: bytes) -> int | None:
            return None

    sink = JSONLinesSink(Full())
    sink.write([record("a"), record("b")])
    assert sink.dropped == 2


def test_a_file_that_was_closed_costs_counted_records_and_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "audit.jsonl").open("ab", buffering=0) as file:
        sink = JSONLinesSink(file)
    for _ in range(2):
        sink.record(record())
    sink.close()
    assert sink.dropped == 2


def test_details_that_are_no_json_are_shown_or_cost_their_record_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Shown:
        def __repr__(self) -> str:
            return "<shown>"

    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError("a secret")

    file = File()
    sink = JSONLinesSink(file)
    for name, detail in (("shown", Shown()), ("unshown", Unshown()), ("next", 1)):
        sink.write([record(name, decisions=(Allow("mine", "x", {"detail": detail}),))])
    assert [(line["exchange"], line.get("records_dropped")) for line in file.lines()] == [
        ("shown", None),
        ("next", 1),
    ]
    assert file.lines()[0]["decisions"][0]["detail"] == "<shown>"
    assert "secret" not in caplog.text
