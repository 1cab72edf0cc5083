"""The load: a process of its own with many connections, each in a closed loop.

    python -m benchmarks.load PORT SECONDS STATUS MARK CONNECTIONS SPREAD < REQUEST

The connections begin within SPREAD seconds, evenly. Every answer must have the status, and the mark somewhere in it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.proxy_app import CONNECTIONS, START_UP_S, _Messages, _run

if TYPE_CHECKING:
    from benchmarks.proxy_app import Server

WARM_UP_S: Final = 0.4


class _Caller(_Messages):
    """One connection: sends the next request as soon as it has a whole answer."""

    def __init__(self, request: bytes, status: bytes, mark: bytes, tally: dict[str, int], took_ns: list[int]) -> None:
        super().__init__()
        self._request = request
        self._begin = b"HTTP/1.1 " + status + b" "
        self._mark = mark
        self._tally = tally
        self._took_ns = took_ns
        self._sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send()

    def _send(self) -> None:
        self._sent_ns = time.perf_counter_ns()
        self.transport.write(self._request)

    def received(self, message: bytes) -> None:
        self._took_ns.append(time.perf_counter_ns() - self._sent_ns)
        right = message.startswith(self._begin) and self._mark in message
        self._tally["right" if right else "wrong"] += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._tally["lost"] += 1


def _serve(
    port: int, seconds: float, status: bytes, mark: bytes, connections: int, spread_s: float, request: bytes
) -> None:
    tally = {"right": 0, "wrong": 0, "lost": 0}
    took_ns: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(connections):
            made.append(
                await loop.create_connection(
                    lambda: _Caller(request, status, mark, tally, took_ns), "127.0.0.1", port
                )
            )
            if spread_s:
                await asyncio.sleep(spread_s / connections)
        await asyncio.sleep(seconds)
        took_ns.sort()
        percentiles = {f"p{part}_ns": took_ns[len(took_ns) * part // 100] if took_ns else 0 for part in (50, 99)}
        print(json.dumps(tally | percentiles), flush=True)
        for transport, _ in made:
            transport.abort()

    _run(main)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a load saw: right answers, and how long they took."""

    right: int
    p50_ms: float
    p99_ms: float


def _drive(
    port: int, seconds: float, request: bytes, status: int, mark: bytes, connections: int, spread_s: float = 0.0
) -> dict[str, int]:
    arguments = (str(port), str(seconds), str(status), mark.decode(), str(connections), str(spread_s))
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments],
        check=True,
        input=request,
        stdout=subprocess.PIPE,
        timeout=seconds + 2 * START_UP_S,
    )
    tally: dict[str, int] = json.loads(finished.stdout)
    return tally


def warm_up(server: Server, request: bytes, connections: int = CONNECTIONS) -> None:
    """Let a server serve for a moment, whatever it answers."""
    _drive(server.port, WARM_UP_S, request, 200, b"", connections)


def drive(
    server: Server,
    seconds: float,
    request: bytes,
    *,
    status: int = 200,
    mark: bytes = b"",
    connections: int = CONNECTIONS,
    spread_s: float = 0.0,
) -> Answered:
    """Load a server. An answer that is not as it should be ends the benchmark."""
    tally = _drive(server.port, seconds, request, status, mark, connections, spread_s)
    if tally["wrong"] or tally["lost"] or not tally["right"]:
        raise SystemExit(f"the server did not answer as it should: {tally}")
    return Answered(tally["right"], tally["p50_ns"] / 1e6, tally["p99_ns"] / 1e6)


def cpu_us(server: Server, seconds: float, request: bytes, *, status: int = 200, mark: bytes = b"") -> float:
    """Processor time of the server for one request."""
    before = server.cpu_ns()
    answered = drive(server, seconds, request, status=status, mark=mark)
    return (server.cpu_ns() - before) / answered.right / 1000


if __name__ == "__main__":
    _serve(
        int(sys.argv[1]),
        float(sys.argv[2]),
        sys.argv[3].encode(),
        sys.argv[4].encode(),
        int(sys.argv[5]),
        float(sys.argv[6]),
        sys.stdin.buffer.read(),
    )
