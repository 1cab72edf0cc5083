"""SIGTERM: what is on its way ends or is settled, nothing is charged twice, and nothing stays held."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import real_system
from tenantguard.flow.ports import ResolveHold, System

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
PRICE = 10_000_000
SETTINGS = """
[guard]
ledger = "sqlite:///ledger.db"
layers = ["tenant", "charge"]

[tenancy]
mode = "single"

[[routes]]
match = "/**"
price = "0.01 USD"
on_disconnect = "drain"

[policies.default]
budget = { limit = "1.00 USD", per = "lifetime" }
"""
UVICORN = [sys.executable, "-m", "uvicorn", "tests.drivers.served_site:asgi", "--host", "127.0.0.1", "--port", "0"]
GUNICORN = [sys.executable, "-m", "gunicorn", "tests.drivers.served_site:wsgi", "--bind", "127.0.0.1:0"]
GUNICORN += ["--worker-class", "gthread", "--threads", "4", "--no-control-socket"]


class Server:
    """A server in a process of its own."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        (folder / "guard.toml").write_text(SETTINGS)
        variables = {**os.environ, "SITE_SETTINGS": str(folder / "guard.toml")}
        self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.port = 0
        self._known, self._leaving = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._known.wait(PATIENCE_S)
        assert self.port, "".join(self.lines)

    def close(self) -> None:
        """End it, however it is; its workers, which end with it, hold the other end of its errors."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def request(self, path: str) -> http.client.HTTPResponse:
        for last in (attempt == 500 for attempt in range(501)):  # a server says where it is before it listens there
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            try:
                connection.request("GET", path, headers={"connection": "close"})
            except ConnectionRefusedError:
                connection.close()
                if last:
                    raise
                threading.Event().wait(0.02)
            else:
                return connection.getresponse()
        raise AssertionError

    def wait_until_leaving(self) -> None:
        """Until it has told that it obeys the signal."""
        assert self._leaving.wait(PATIENCE_S), "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"(?:running on|Listening at:) http://127\.0\.0\.1:(\d+)", line)
            if found is not None:
                self.port = int(found[1])
                self._known.set()
            if "Shutting down" in line or "Handling signal: term" in line:
                self._leaving.set()
        self._known.set()


class Gated:
    """A request whose response has begun, and which the application ends at our word."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(PATIENCE_S)
        self.response = stack.enter_context(server.request(f"/gated?gate={listener.getsockname()[1]}"))
        self.id = json.loads(self.response.readline())["id"]
        self.gate, _ = listener.accept()
        stack.callback(self.gate.close)

    def release(self) -> None:
        self.gate.close()

    def rest(self) -> bytes | None:
        """What came after the beginning, None where it broke off."""
        try:
            return self.response.read()
        except (http.client.IncompleteRead, ConnectionError):
            return None


class Later:
    """This machine's clock, half a minute on: the lease of whoever was lost has lapsed."""

    def __init__(self) -> None:
        self._real = real_system().clock

    def monotonic_ns(self) -> int:
        return self._real.monotonic_ns() + 30 * 10**9

    def wall_ns(self) -> int:
        return self._real.wall_ns() + 30 * 10**9


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, folder: Path, command: list[str]) -> Server:
    return stack.enter_context(closing(Server(folder, command)))


def booked(folder: Path, *, later: bool = False) -> tuple[set[str], int, int, int]:
    """The exchanges that are charged, how many entries that makes, and what is spent and held."""
    system = System(Later(), real_system().ids) if later else real_system()
    ledger = SQLiteLedger(folder / "ledger.db", system)
    if later:  # whoever writes looks for the lost
        promise = ledger.submit(ResolveHold(bytes(16), None, "looks around"))
        assert promise.wait(PATIENCE_S)
    entries = ledger.entries()
    (balance,) = ledger.balances()
    ledger.close()
    assert ledger.audit() == []
    return {entry.evidence["exchange"] for entry in entries}, len(entries), balance.spent, balance.held


@pytest.mark.parametrize(
    "command",
    [
        [*UVICORN, "--timeout-graceful-shutdown", "20"],
        [*UVICORN, "--timeout-graceful-shutdown", "20", "--workers", "2"],
        [*GUNICORN, "--graceful-timeout", "20"],
    ],
    ids=["uvicorn", "uvicorn with two workers", "gunicorn with threads"],
)
def test_what_is_on_its_way_at_sigterm_ends_and_is_charged_once(
    tmp_path: Path, stack: ExitStack, command: list[str]
) -> None:
    server = started(stack, tmp_path, command)
    with server.request("/plain") as response:
        before = json.loads(response.read())["id"]
    requests = [Gated(server, stack) for _ in range(3)]
    server.process.send_signal(signal.SIGTERM)
    server.wait_until_leaving()
    for request in requests:
        request.release()
    assert [request.rest() for request in requests] == [b"end\n"] * 3
    server.process.wait(PATIENCE_S)
    expected = {before, *(request.id for request in requests)}
    assert booked(tmp_path) == (expected, 4, 4 * PRICE, 0)


def test_what_outlasts_the_grace_period_of_uvicorn_is_voided(tmp_path: Path, stack: ExitStack) -> None:
    """A cancelled application has failed: nothing is charged, and nothing is held, with no lease to wait for."""
    server = started(stack, tmp_path, [*UVICORN, "--timeout-graceful-shutdown", "1"])
    with server.request("/plain") as response:
        before = json.loads(response.read())["id"]
    finished, *stuck = [Gated(server, stack) for _ in range(4)]
    server.process.send_signal(signal.SIGTERM)
    finished.release()
    assert finished.rest() == b"end\n"
    assert [request.rest() for request in stuck] == [None] * 3
    server.process.wait(PATIENCE_S)
    assert booked(tmp_path) == ({before, finished.id}, 2, 2 * PRICE, 0)


def test_a_drain_that_the_grace_period_ends_is_settled(tmp_path: Path, stack: ExitStack) -> None:
    """The client has left a route that is drained, so it pays; the same where the application came to its end."""
    server = started(stack, tmp_path, [*UVICORN, "--timeout-graceful-shutdown", "1"])
    finished, stuck, heard = [Gated(server, stack) for _ in range(3)]
    finished.response.close()
    stuck.response.close()
    server.process.send_signal(signal.SIGTERM)
    finished.release()
    assert heard.rest() is None
    server.process.wait(PATIENCE_S)
    assert booked(tmp_path) == ({finished.id, stuck.id}, 2, 2 * PRICE, 0)


def test_what_outlasts_the_grace_period_of_gunicorn_comes_free_with_its_lease(
    tmp_path: Path, stack: ExitStack
) -> None:
    """A thread cannot be cancelled: gunicorn kills the worker, and what it held ends as ``on_orphan`` says."""
    server = started(stack, tmp_path, [*GUNICORN, "--graceful-timeout", "1"])
    finished, *stuck = [Gated(server, stack) for _ in range(3)]
    server.process.send_signal(signal.SIGTERM)
    finished.release()
    assert finished.rest() == b"end\n"
    server.process.wait(PATIENCE_S)
    for request in stuck:
        request.release()
        assert request.rest() is None
    assert booked(tmp_path) == ({finished.id}, 1, PRICE, 2 * PRICE)
    assert booked(tmp_path, later=True) == ({finished.id}, 1, PRICE, 0)
