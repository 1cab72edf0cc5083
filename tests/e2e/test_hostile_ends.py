"""The served proxy killed and stopped with holds in flight: nothing is charged twice, and nothing stays held."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.adapters.ledger.postgres import LEASE_S
from tenantguard.adapters.ledger.sqlite import SQLiteLedger
from tenantguard.adapters.system import TimeOrderedIds, real_system
from tenantguard.flow.ports import ResolveHold, System
from tenantguard.testing import ManualClock
from tenantguard.testing.model_server import ModelServer
from tenantguard.testing.serving import serve
from tests.e2e.conftest import KEYS
from tests.e2e.hostile import PATIENCE_S, chat, request, talk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 4
COST = 3 * 1_000 + 3 * 2_000
SETTINGS = f"""
[guard]
ledger = "sqlite:///ledger.db"

[[tenancy.keys]]
id = "plain-dev"
tenant = "plain"
hash = "{hash_key(KEYS["plain"])}"

[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 50

[prices.small]
input = "1 USD/1M"
output = "2 USD/1M"
cache_read = "0.1 USD/1M"
cache_write = "1 USD/1M"

[policies.plain]
budget = {{ limit = "10.00 USD", per = "lifetime" }}
"""


@contextmanager
def proxy(folder: Path, upstream: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command as a process of its own, and its URL. Whoever uses it ends it."""
    (folder / "tenantguard.toml").write_text(SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from tenantguard.cli import main; raise SystemExit(main())", "proxy"]
    command += ["--config", str(folder / "tenantguard.toml"), "--upstream", upstream, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--grace", "1"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(int(PATIENCE_S / 0.05)):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
                break
            except ConnectionRefusedError:
                threading.Event().wait(0.05)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def send_slow(url: str, model: ModelServer) -> list[threading.Thread]:
    """Requests that are all being answered, half of them in a stream, when this returns."""
    seen = len(model.requests)

    def ask(number: int) -> None:
        talk(url, request("plain", chat("one two three", stream=number % 2 == 0), "x-behaviour: slow=60"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    for _ in range(int(PATIENCE_S / 0.01)):
        if len(model.requests) == seen + IN_FLIGHT:
            break
        threading.Event().wait(0.01)
    assert all(received.waiting.wait(PATIENCE_S) for received in model.requests[seen:])
    return threads


def account(ledger: SQLiteLedger) -> tuple[int, int]:
    (balance,) = ledger.balances()
    return balance.spent, balance.held


def test_a_killed_proxy_charges_nothing_twice_and_its_holds_are_released(tmp_path: Path) -> None:
    """A lost process's holds stay until its lease has lapsed; a stopped one's are ended at once."""
    model = ModelServer()
    ledger = SQLiteLedger(tmp_path / "ledger.db", real_system())
    with serve(model) as upstream:
        with proxy(tmp_path, upstream) as (process, url):
            assert talk(url, request("plain", chat("one two three"))).startswith(b"HTTP/1.1 200 ")
            threads = send_slow(url, model)
            spent, held = account(ledger)
            assert (spent, held > 0) == (COST, True)
            process.kill()
            process.wait()
        for thread in threads:
            thread.join()
        assert account(ledger) == (COST, held)

        with proxy(tmp_path, upstream) as (process, url):
            assert talk(url, request("plain", chat("one two three"))).startswith(b"HTTP/1.1 200 ")
            assert account(ledger) == (2 * COST, held)
            threads = send_slow(url, model)
            assert account(ledger) == (2 * COST, 2 * held)
            process.terminate()
            assert process.wait(PATIENCE_S) == -signal.SIGTERM
        for thread in threads:
            thread.join()
        assert account(ledger) == (2 * COST, held)
        model.release()
    ledger.close()

    later = ManualClock(time.time_ns() + int((LEASE_S + 1) * 1e9))
    ids = TimeOrderedIds()
    with closing(SQLiteLedger(tmp_path / "ledger.db", System(later, ids))) as ledger:
        assert ledger.submit(ResolveHold(ids.new(), None, "failed")).wait(PATIENCE_S)
        assert account(ledger) == (2 * COST, 0)
        assert [entry.amount for entry in ledger.entries()] == [COST, COST]
        assert ledger.audit() == []
