"""The load: a process of its own with many connections, each in a closed loop.

    python -m benchmarks.load PORT SECONDS STATUS MARK < REQUEST

Every answer must have the status, and the mark somewhere in it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.proxy_app import CONNECTIONS, START_UP_S, _Messages, _run

if TYPE_CHECKING:
    from benchmarks.proxy_app import Server

WARM_UP_S: Final = 0.4


class _Caller(_Messages):
    """One connection: sends the next request as soon as it has a whole answer."""

    def __init__(self, request: bytes, status: bytes, mark: bytes, tally: dict[str, int]) -> None:
        super().__init__()
        self._request = request
        self._begin = b"HTTP/1.1 " + status + b" "
        self._mark = mark
        self._tally = tally

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(self._request)

    def received(self, message: bytes) -> None:
        right = message.startswith(self._begin) and self._mark in message
        self._tally["right" if right else "wrong"] += 1
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._tally["lost"] += 1


def _serve(port: int, seconds: float, status: bytes, mark: bytes, request: bytes) -> None:
    tally = {"right": 0, "wrong": 0, "lost": 0}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: _Caller(request, status, mark, tally), "127.0.0.1", port)
            for _ in range(CONNECTIONS)
        ]
        await asyncio.sleep(seconds)
        print(json.dumps(tally), flush=True)
        for transport, _ in made:
            transport.abort()

    _run(main)


def _drive(port: int, seconds: float, request: bytes, status: int, mark: bytes) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.load", str(port), str(seconds), str(status), mark.decode()]
    finished = subprocess.run(
        command, check=True, input=request, stdout=subprocess.PIPE, timeout=seconds + 2 * START_UP_S
    )
    tally: dict[str, int] = json.loads(finished.stdout)
    return tally


def warm_up(server: Server, request: bytes) -> None:
    """Let a server serve for a moment, whatever it answers."""
    _drive(server.port, WARM_UP_S, request, 200, b"")


def cpu_us(server: Server, seconds: float, request: bytes, *, status: int = 200, mark: bytes = b"") -> float:
    """Processor time of the server for one request. An answer that is not as it should be ends the benchmark."""
    before = server.cpu_ns()
    tally = _drive(server.port, seconds, request, status, mark)
    spent = server.cpu_ns() - before
    if tally["wrong"] or tally["lost"] or not tally["right"]:
        raise SystemExit(f"the server did not answer as it should: {tally}")
    return spent / tally["right"] / 1000


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode(), sys.stdin.buffer.read())
