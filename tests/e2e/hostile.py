"""A guarded proxy between a client that sends whatever bytes it likes and an upstream that answers with any."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.commands.proxy import guarded_proxy
from tenantguard.model.tenant import TenantId
from tenantguard.settings import parse_settings
from tenantguard.testing.serving import serve
from tests.e2e.conftest import KEYS, SETTINGS, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tenantguard.guard import Guard

PATIENCE_S = 20.0


class ScriptedUpstream:
    """Answers every request with ``answer``, byte for byte, and closes. ``heads`` are what it was sent."""

    def __init__(self) -> None:
        self.answer = b""
        self.heads: queue.Queue[bytes] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE_S)
                self.heads.put(_read_request(connection))
                connection.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.partition(b":")[2]):
                body += connection.recv(65536) or b" " * 2**20
    return head


def talk(url: str, raw: bytes) -> bytes:
    """Send raw bytes and read to the end."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as connection:
        connection.sendall(raw)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


@dataclass
class Lab:
    """One guarded endpoint, and what it recorded."""

    url: str
    guard: Guard
    recorder: Recorder = field(default_factory=Recorder)

    def talk(self, raw: bytes) -> bytes:
        """Send raw bytes and read to the end."""
        return talk(self.url, raw)

    def account(self, tenant: str) -> tuple[int, int]:
        """What is spent and what is held, in billionths of a dollar."""
        found = self.guard.ports.ledger.balances(TenantId(tenant))
        return (found[0].spent, found[0].held) if found else (0, 0)


@contextlib.contextmanager
def lab(
    upstream: str, folder: Path, more: str = "", *, chat: str = "charge_once = false", **options: Any
) -> Iterator[Lab]:
    """Serve the guarded proxy to ``upstream``, with the settings of the end-to-end tests and ``more`` of them.

    ``chat`` are further keys of the route to the model: a scripted upstream says the same response id every time.
    """
    keys = "\n".join(
        f'[[tenancy.keys]]\nid = "{tenant}-dev"\ntenant = "{tenant}"\nhash = "{hash_key(key)}"'
        for tenant, key in KEYS.items()
    )
    text = SETTINGS.format(keys=keys, guard="", chat=chat) + more
    app = guarded_proxy(parse_settings(text, folder=folder, environ={}), upstream)
    recorder = Recorder()
    app.guard.ports.audits = (recorder,)
    with serve(app, **options) as url:
        yield Lab(url, app.guard, recorder)


def request(
    tenant: str,
    body: bytes,
    *lines: str,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    length: bool = True,
) -> bytes:
    """A request as raw bytes, after which the connection is closed."""
    head = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEYS[tenant]}", "connection: close"]
    head += [*lines, f"content-length: {len(body)}"] if length else lines
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body


def chat(text: str = "hi", **members: Any) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": text}], **members}).encode()
