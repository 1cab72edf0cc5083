"""The guarded proxy against the least that a proxy in Python can cost: CPU a request, refusals, memory, start-up.

    python -m benchmarks.proxy

The proxy keeps its ledger in a durable SQLite file and writes its decisions as JSON lines into a file. Pass-through,
proxies, load and model server are a process each (``benchmarks/proxy_app.py``); rounds are interleaved. All run under
the server options and the garbage collector's settings of ``tenantguard proxy``.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import cpu_us, warm_up
from benchmarks.proxy_app import API_KEY, CONNECTIONS, DELTAS, START_UP_S, Server, request_bytes, start
from benchmarks.rounds import Samples, Target, print_table, print_targets, progress
from tenantguard.adapters.identity.keys import hash_key

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS: Final = 5
SECONDS: Final = 1.0
STARTS: Final = 3

PASS_THROUGH: Final = "pass-through"
UNGUARDED: Final = "proxy without a guard"
GUARDED: Final = "guarded"
REDACTING: Final = "guarded, redacting"
REFUSALS: Final = {
    "401": b"sk-unknown-0123456789abcdefg",
    "402": b"sk-poor-0123456789abcdefghij",
    "429": b"sk-limited-0123456789abcdefg",
}
"""Keys as long as ``API_KEY``, each of which is refused for another reason."""

_SETTINGS: Final = """
[guard]
ledger = "sqlite:///{ledger}.db"

[redaction]
key = "a key for benchmarks alone, of 32 bytes"

{keys}

[[routes]]
match = "POST /v1/chat/completions"
usage = "openai-chat"
max_output = 64

[prices.gpt-5-mini]
input = "0.25 USD/1M"
output = "2 USD/1M"
cache_read = "0.025 USD/1M"
cache_write = "0.25 USD/1M"

[policies.acme]
rate = "1000000/second burst 1000000"
budget = {{ limit = "1000000 USD", per = "month" }}
{redact}

[policies.poor]
budget = {{ limit = "0.000001 USD", per = "month" }}

[policies.limited]
rate = "1/day"
"""
_REDACT: Final = (
    'redact = { request = "replace", response = "restore",'
    ' entities = ["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"] }'
)


def guarded(upstream_and_settings: str) -> Any:
    """``URL PATH``: the proxy to that upstream, guarded as ``tenantguard proxy`` does it; in the measured process."""
    from tenantguard.commands.proxy import guarded_proxy  # noqa: PLC0415
    from tenantguard.settings import read_settings  # noqa: PLC0415

    upstream, _, path = upstream_and_settings.partition(" ")
    lines = Path(path).with_suffix(".jsonl").open("ab", buffering=0)
    return guarded_proxy(read_settings(path), upstream, lines=lines)


def _write_settings(folder: Path, name: str, redact: str) -> Path:
    owners = {"acme": API_KEY.encode(), "poor": REFUSALS["402"], "limited": REFUSALS["429"]}
    keys = "\n".join(
        f'[[tenancy.keys]]\nid = "{tenant}-dev"\ntenant = "{tenant}"\nhash = "{hash_key(key.decode())}"'
        for tenant, key in owners.items()
    )
    path = folder / f"{name}.toml"
    path.write_text(_SETTINGS.format(keys=keys, redact=redact, ledger=name), encoding="utf-8")
    return path


def _requests(targets: list[Target], plain: Path, redacting: Path) -> None:
    """CPU a request, relayed and refused."""
    samples, streams = Samples(), Samples()
    request, stream = request_bytes(stream=False), request_bytes(stream=True)
    refused = {status: request.replace(API_KEY.encode(), key) for status, key in REFUSALS.items()}
    with ExitStack() as stack:
        progress("proxies are started")
        model = stack.enter_context(start("model"))
        servers = {
            PASS_THROUGH: stack.enter_context(start("target", "benchmarks.proxy_app:pass_through", model.url)),
            UNGUARDED: stack.enter_context(start("target", "benchmarks.proxy_app:upstream_app", model.url)),
            GUARDED: stack.enter_context(start("target", "benchmarks.proxy:guarded", f"{model.url} {plain}")),
            REDACTING: stack.enter_context(start("target", "benchmarks.proxy:guarded", f"{model.url} {redacting}")),
        }
        for server in servers.values():
            warm_up(server, request)
            warm_up(server, stream)
        for sent in refused.values():
            warm_up(servers[GUARDED], sent)
        for number in range(ROUNDS):
            progress(f"proxies, round {number + 1} of {ROUNDS}")
            for name, server in servers.items():
                samples.add(name, cpu_us(server, SECONDS, request, mark=b"word19"))
                streams.add(name, cpu_us(server, SECONDS, stream, mark=b"word19"))
            for status, sent in refused.items():
                samples.add(f"refused with {status}", cpu_us(servers[GUARDED], SECONDS / 2, sent, status=int(status)))
        memory = {name: server.rss_mb() for name, server in servers.items()}
    rows = []
    for name in samples.rounds:
        row = [name, f"{samples.median(name):.0f}", f"{samples.ratio(name, PASS_THROUGH):.2f}", "", "", ""]
        if name in servers:
            row[3:] = [
                f"{streams.median(name):.0f}",
                f"{streams.ratio(name, PASS_THROUGH):.2f}",
                f"{memory[name]:.0f}",
            ]
        rows.append(row)
    print_table(
        f"CPU of the process for one request: {CONNECTIONS} connections, 200-byte prompts, durable ledger",
        ("", "us", "x pass-through", f"{DELTAS}-delta us", "x pass-through", "RSS MiB"),
        rows,
    )
    for what, found in (("a request", samples), (f"a stream of {DELTAS} deltas", streams)):
        ratio = found.ratio(GUARDED, PASS_THROUGH)
        targets.append(Target(f"guarded proxy, {what}, to pass-through", "<= 3x", f"{ratio:.2f}x", ratio <= 3))
    for status in REFUSALS:
        ratio = samples.ratio(f"refused with {status}", PASS_THROUGH)
        targets.append(Target(f"a refusal with {status}, to pass-through", "<= 1x", f"{ratio:.2f}x", ratio <= 1))


def _start_up(plain: Path, redacting: Path) -> None:
    """The command itself: how long until it answers, and what it takes."""
    rows = []
    for name, path in ((GUARDED, plain), (REDACTING, redacting)):
        progress(f"start-up, {name}")
        found = [_started(path) for _ in range(STARTS)]
        rows.append(
            [
                name,
                *(
                    f"{statistics.median(column):.{digits}f}"
                    for column, digits in zip(zip(*found, strict=True), (2, 2, 0), strict=True)
                ),
            ]
        )
    print_table(
        "tenantguard proxy, from its start to its first answer",
        ("", "wall s", "CPU s", "RSS MiB"),
        rows,
    )


def _started(settings: Path) -> tuple[float, float, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from tenantguard.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["proxy", "--config", str(settings), "--upstream", "http://127.0.0.1:9", "--port", str(port)]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=subprocess.DEVNULL)
    try:
        for _ in _until(began + START_UP_S):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("POST", "/v1/chat/completions")
                if connection.getresponse().status != 401:
                    raise SystemExit("the proxy let a request without a key in")
                break
            except ConnectionRefusedError:
                continue
            finally:
                connection.close()
        wall = time.monotonic() - began
        server = Server(process.pid, port)
        return wall, server.cpu_ns() / 1e9, server.rss_mb()
    finally:
        process.terminate()
        process.wait(10)


def _until(end: float) -> Iterator[None]:
    while time.monotonic() < end:
        yield
        time.sleep(0.01)
    raise SystemExit("the proxy did not start")


def run() -> list[Target]:
    """Measure, print the tables and return what was aimed at."""
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="proxy-", dir=Path.cwd()) as name:
        folder = Path(name)
        plain, redacting = _write_settings(folder, "plain", ""), _write_settings(folder, "redacting", _REDACT)
        _requests(targets, plain, redacting)
        _start_up(plain, redacting)
    return targets


if __name__ == "__main__":
    print_targets(run())
