"""CPU of a reverse proxy per request, against the least that aiohttp behind a bare ASGI app can cost.

    python -m benchmarks.proxy_app [NAME=MODULE:FACTORY ...]

Each target runs in a uvicorn process of its own. The load (16 connections, closed loop) and the model upstream are
two more processes, so that the CPU read from ``/proc`` (Linux) is the proxy's alone, all its threads included. Rounds
are interleaved, and the best of each target counts. A factory takes the upstream's URL and returns an ASGI
application; another one is compared by naming it on the command line, or by passing it to :func:`measure`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CONNECTIONS: Final = 16
DELTAS: Final = 20
DELTA_PAUSE_S: Final = 0.002
"""Between two deltas, so that each arrives by itself, as a model's do."""

API_KEY: Final = "sk-benchmark-0123456789abcdef"
WARM_UP_S: Final = 0.3
START_UP_S: Final = 30.0

BASELINE: Final = "pass-through"
TARGETS: Final = {
    BASELINE: "benchmarks.proxy_app:pass_through",
    "upstream_app": "benchmarks.proxy_app:upstream_app",
}


# --- the applications compared ---


def pass_through(upstream: str) -> Any:
    """The floor: a bare ASGI function on aiohttp's client, no more than the job needs, and no safety at all."""
    import aiohttp  # noqa: PLC0415 - only in the process that is measured

    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] != "http":
            return
        if session is None:
            session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"] if name != b"host"]
        url = upstream + scope["path"]
        async with session.request(
            scope["method"], url, headers=headers, data=body, allow_redirects=False
        ) as response:
            kept = [(name, value) for name, value in response.raw_headers if name.lower() != b"transfer-encoding"]
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def upstream_app(upstream: str) -> Any:
    """TenantGuard's reverse proxy, without a guard."""
    from tenantguard.proxy import upstream_app as proxy  # noqa: PLC0415 - as above

    return proxy(upstream)


# --- what is sent and answered ---


def request_bytes(*, stream: bool) -> bytes:
    """A chat request with a prompt of 200 bytes and the headers that the official SDK sends."""
    prompt = ("Summarise the meeting notes below in three short sentences for the team. " * 3)[:200]
    fields: dict[str, Any] = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 64,
    }
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        "Host: proxy.test\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\n"
        "Accept: application/json\r\n"
        "Content-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 2.0.0\r\n"
        "X-Stainless-Lang: python\r\n"
        "X-Stainless-Package-Version: 2.0.0\r\n"
        "X-Stainless-OS: Linux\r\n"
        "X-Stainless-Arch: x64\r\n"
        "X-Stainless-Runtime: CPython\r\n"
        "X-Stainless-Runtime-Version: 3.11.7\r\n"
        f"Authorization: Bearer {API_KEY}\r\n"
        "X-Stainless-Async: false\r\n"
        "x-stainless-retry-count: 0\r\n"
        "x-stainless-read-timeout: 600\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_IDENTITY: Final = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "gpt-5-mini"}
_USAGE: Final = {"prompt_tokens": 40, "completion_tokens": DELTAS, "total_tokens": 40 + DELTAS}


def _plain_answer() -> bytes:
    text = " ".join(f"word{number}" for number in range(DELTAS))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    fields = {**_IDENTITY, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(fields).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _streamed_answer() -> list[bytes]:
    def event(fields: Mapping[str, Any]) -> bytes:
        text = json.dumps({**_IDENTITY, "object": "chat.completion.chunk", **fields})
        return f"data: {text}\n\n".encode()

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    def delta(number: int) -> Mapping[str, Any]:
        fields = {"content": f"word{number} "} | ({"role": "assistant"} if number == 0 else {})
        reason = "stop" if number == DELTAS - 1 else None
        return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}], "usage": None}

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [chunk(event(delta(number))) for number in range(DELTAS)]
    pieces[0] = head + pieces[0]
    end = event({"choices": [], "usage": _USAGE}) + b"data: [DONE]\n\n"
    return [*pieces, chunk(end) + b"0\r\n\r\n"]


class _Messages(asyncio.Protocol):
    """Splits what arrives into HTTP messages and hands on each that is whole: a parser for our own bytes only."""

    def __init__(self) -> None:
        self._buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (length := self._message_length()) and len(self._buffer) >= length:
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            self.received(message)

    def _message_length(self) -> int:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return 0
        lowered = head.lower()
        mark = lowered.find(b"content-length:")
        if mark < 0:
            end = rest.find(b"0\r\n\r\n") if rest.startswith(b"0\r\n\r\n") else rest.find(b"\r\n0\r\n\r\n") + 2
            return len(head) + 4 + end + 5 if end >= 2 else 0
        return len(head) + 4 + int(lowered[mark + 15 :].split(b"\r\n", 1)[0])

    def received(self, message: bytes) -> None:
        """Take one whole message."""
        raise NotImplementedError


class _Model(_Messages):
    """The upstream: answers from memory."""

    plain: Final = _plain_answer()
    streamed: Final = _streamed_answer()

    def received(self, message: bytes) -> None:
        if b'"stream": true' in message or b'"stream":true' in message:
            self._stream(0)
        else:
            self.transport.write(self.plain)

    def _stream(self, number: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(self.streamed[number])
        if number + 1 < len(self.streamed):
            asyncio.get_running_loop().call_later(DELTA_PAUSE_S, self._stream, number + 1)


class _Caller(_Messages):
    """One connection of the load: sends the next request as soon as it has a whole, right answer."""

    def __init__(self, request: bytes, tally: dict[str, int], first: asyncio.Future[None]) -> None:
        super().__init__()
        self._request = request
        self._tally = tally
        self._first = first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(self._request)

    def received(self, message: bytes) -> None:
        right = message.startswith(b"HTTP/1.1 200 ") and b"word0" in message and b"word19" in message
        self._tally["right" if right else "wrong"] += 1
        if not self._first.done():
            self._first.set_result(None)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._tally["lost"] += 1


# --- the processes ---


def _run(main: Callable[[], Any]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - where it exists
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def _serve_model(fd: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Model, sock=socket.socket(fileno=fd))
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        _run(main)


def _serve_target(target: str, upstream: str, fd: int) -> None:
    import uvicorn  # noqa: PLC0415 - only in the process that is measured

    from tenantguard.commands.proxy import SERVER_OPTIONS, keep_for_good  # noqa: PLC0415

    module, _, name = target.partition(":")
    app = getattr(importlib.import_module(module), name)(upstream)
    keep_for_good()
    config = uvicorn.Config(app, **{**SERVER_OPTIONS, "log_level": "error"})
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


def _serve_load(port: int, seconds: float, *, stream: bool) -> None:
    tally = {"right": 0, "wrong": 0, "lost": 0}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        request = request_bytes(stream=stream)
        first = loop.create_future()
        made = [
            await loop.create_connection(lambda: _Caller(request, tally, first), "127.0.0.1", port)
            for _ in range(CONNECTIONS)
        ]
        await asyncio.wait_for(first, START_UP_S)
        await asyncio.sleep(seconds)
        print(json.dumps(tally), flush=True)
        for transport, _ in made:
            transport.abort()

    _run(main)


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens on a port of the loopback."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_ns(self) -> int:
        """CPU that its threads have used so far, in nanoseconds."""
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"))

    def rss_mb(self) -> float:
        """Memory that it holds, in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


@contextlib.contextmanager
def start(*arguments: str) -> Iterator[Server]:
    """Run ``python -m benchmarks.proxy_app ARGUMENTS FD`` with a listening socket; stop it at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # callers queue here until the process accepts them
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.proxy_app", *arguments, str(fd)],
            pass_fds=[fd],
        )
        port = listener.getsockname()[1]
    try:
        yield Server(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(port: int, seconds: float, *, stream: bool) -> int:
    """Drive a proxy from a process of its own; the number of right answers. Any other answer ends the benchmark."""
    command = [sys.executable, "-m", "benchmarks.proxy_app", "load", str(port), str(seconds), str(int(stream))]
    found = json.loads(
        subprocess.run(command, check=True, capture_output=True, timeout=seconds + 2 * START_UP_S).stdout
    )
    if found["wrong"] or found["lost"] or not found["right"]:
        raise SystemExit(f"the proxy did not answer as it should: {found}")
    return int(found["right"])


# --- the measurement ---


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds a request: without a stream, and for a stream of 20 deltas; and resident memory."""

    plain_us: float
    stream_us: float
    rss_mb: float


def measure(targets: Mapping[str, str], *, rounds: int = 3, seconds: float = 2.0) -> dict[str, Cost]:
    """The cost of each target, by name. ``targets`` maps a name to ``module:factory``."""
    best: dict[tuple[str, bool], float] = {}
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(start("model"))
        servers = {name: stack.enter_context(start("target", target, model.url)) for name, target in targets.items()}
        for server in servers.values():
            for stream in (False, True):
                load(server.port, WARM_UP_S, stream=stream)
        for _ in range(rounds):
            for name, server in servers.items():
                for stream in (False, True):
                    before = server.cpu_ns()
                    answered = load(server.port, seconds, stream=stream)
                    spent_us = (server.cpu_ns() - before) / answered / 1000
                    best[name, stream] = min(best.get((name, stream), spent_us), spent_us)
        return {name: Cost(best[name, False], best[name, True], servers[name].rss_mb()) for name in servers}


def print_table(costs: Mapping[str, Cost], baseline: str = BASELINE) -> None:
    """One line a target, with its ratio to the baseline."""
    base = costs[baseline]
    print(f"CPU a request, {CONNECTIONS} connections, 200-byte prompts, best of interleaved rounds")
    print(f"{'target':24} {'plain us':>9} {'ratio':>6} {f'{DELTAS}-delta us':>12} {'ratio':>6} {'RSS MB':>7}")
    for name, cost in costs.items():
        print(
            f"{name:24} {cost.plain_us:9.0f} {cost.plain_us / base.plain_us:6.2f} "
            f"{cost.stream_us:12.0f} {cost.stream_us / base.stream_us:6.2f} {cost.rss_mb:7.0f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="CPU a request of reverse proxies")
    parser.add_argument("targets", nargs="*", metavar="NAME=MODULE:FACTORY", help="further targets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load in a round")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    targets = TARGETS | dict(target.split("=", 1) for target in options.targets)
    print_table(measure(targets, rounds=options.rounds, seconds=options.seconds))
    print(f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["model"]:
        _serve_model(int(sys.argv[2]))
    elif sys.argv[1:2] == ["target"]:
        _serve_target(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["load"]:
        _serve_load(int(sys.argv[2]), float(sys.argv[3]), stream=sys.argv[4] == "1")
    else:
        main()
