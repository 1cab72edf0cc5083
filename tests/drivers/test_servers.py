"""Real servers, each a process of its own on the loopback: workers, forks, streams and clients that leave."""

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
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard import load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
SETTINGS = """
[guard]
ledger = "sqlite:///ledger.db"
layers = ["tests.drivers.reporting:Reporting", "tenant", "charge"]

[tenancy]
mode = "single"

[[routes]]
match = "/**"
price = "0.01 USD"

[policies.default]
budget = { limit = "1.00 USD", per = "lifetime" }
"""

UVICORN = [sys.executable, "-m", "uvicorn", "tests.drivers.served_site:asgi", "--host", "127.0.0.1", "--port", "0"]
GUNICORN = [sys.executable, "-m", "gunicorn", "tests.drivers.served_site:wsgi", "--bind", "127.0.0.1:0", "--preload"]
GUNICORN += ["--worker-class", "sync", "--no-control-socket", "--graceful-timeout", "5"]

SERVERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "uvicorn": ([*UVICORN, "--timeout-graceful-shutdown", "5"], {}),
    "uvicorn with two workers": ([*UVICORN, "--workers", "2", "--timeout-graceful-shutdown", "5"], {}),
    "gunicorn, preloaded, with two workers": ([*GUNICORN, "--workers", "2"], {"SITE_PRELOAD": "1"}),
}


@contextmanager
def serving(directory: Path, command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """Run a server until the block ends; yield its port."""
    (directory / "guard.toml").write_text(SETTINGS)
    variables = {
        **os.environ,
        **environment,
        "SITE_SETTINGS": str(directory / "guard.toml"),
        "PYTHONWARNINGS": "error",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    port: list[int] = []
    known = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"(?:running on|Listening at:) http://127\.0\.0\.1:(\d+)", line)
            if found is not None:
                port.append(int(found[1]))
                known.set()
        known.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        known.wait(PATIENCE_S)
        assert port, "".join(lines)
        wait_for(port[0])
        yield port[0]
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
    assert "Traceback" not in "".join(lines), "".join(lines)
    assert process.returncode in {0, -signal.SIGTERM}  # uvicorn passes the signal on once it has shut down


def wait_for(port: int) -> None:
    """A server with workers says where it runs before these listen there."""
    for _ in range(int(PATIENCE_S / 0.02)):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
        else:
            return
    raise AssertionError("the server never listened")


def get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path, headers={"connection": "close"})
    return connection.getresponse()


@contextmanager
def listening() -> Iterator[tuple[int, socket.socket]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        yield listener.getsockname()[1], listener


def heard(listener: socket.socket) -> str:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(PATIENCE_S)
        return connection.recv(100).decode()


@pytest.mark.parametrize(("command", "environment"), SERVERS.values(), ids=SERVERS.keys())
def test_a_real_server(tmp_path: Path, command: list[str], environment: dict[str, str]) -> None:
    """Requests succeed, streams arrive as they are made, leaving is seen, and the ledger is right to the cent."""
    answers: list[dict[str, Any]] = []
    with serving(tmp_path, command, environment) as port:
        for _ in range(6):
            with get(port, "/plain") as response:
                assert response.status == 200
                answers.append(json.loads(response.read()))

        with listening() as (gate, listener), get(port, f"/gated?gate={gate}") as response:
            first = json.loads(response.readline())  # before the application goes on, which it does at our word
            answers.append(first)
            if "gunicorn" in " ".join(command):  # one worker is kept busy, so the other one answers
                with get(port, "/plain") as other:
                    answers.append(json.loads(other.read()))
                assert answers[-1]["pid"] != first["pid"]
            connection, _ = listener.accept()
            connection.close()
            assert response.read() == b"end\n"

        with listening() as (where, listener):
            with closing(get(port, f"/endless?report={where}")) as response:
                assert response.status == 200
                response.read1(1000)
            assert heard(listener) == "left"

        with listening() as (where, listener), get(port, f"/plain?report={where}") as response:
            answers.append(json.loads(response.read()))
            assert heard(listener) == "completed"

    assert len({answer["id"] for answer in answers}) == len(answers)
    guard = load(tmp_path / "guard.toml")
    try:
        (balance,) = guard.ports.ledger.balances()
    finally:
        guard.close()
    paid = len(answers) + ("SITE_PRELOAD" in environment)
    assert (balance.spent, balance.held) == (paid * 10_000_000, 0)
