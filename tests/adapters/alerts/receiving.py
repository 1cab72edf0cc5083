"""A receiver of webhooks on loopback: what it got, and what it answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tenantguard.model.ledger import Alert, Threshold
from tenantguard.model.period import Period

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

OK = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
PATIENCE_S = 20.0


@dataclass
class Got:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Reads each request whole and hands its connection to ``answer``."""

    answer: Callable[[socket.socket], None] = lambda connection: connection.sendall(OK)
    context: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)
    heard: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, path: str = "/alerts?to=ops") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in list(self._threads):
            thread.join()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with plain, suppress(OSError):
            plain.settimeout(PATIENCE_S)
            connection = self.context.wrap_socket(plain, server_side=True) if self.context else plain
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                line, *lines = head.decode().split("\r\n")
                headers = dict(one.lower().split(": ", 1) for one in lines)
                while len(body) < int(headers["content-length"]):
                    body += connection.recv(65536)
                self.got.append(Got(line, headers | dict(one.split(": ", 1) for one in lines), body))
                self.heard.release()
                self.answer(connection)


def make_alert(percent: int = 80) -> Alert:
    return Alert(
        budget=("identity", "acme", "jane@example.com", "month in Europe/Berlin"),
        period=Period.parse("month in Europe/Berlin"),
        unit="USD",
        window_starts_ns=1_793_487_600 * 10**9,
        tenant="acme",
        threshold=Threshold(percent),
        ceiling=250 * 10**9,
        spent=200_000_000_001,
        held=5 * 10**8,
        at_ns=1_793_600_000_123_456_789,
    )
