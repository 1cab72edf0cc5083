"""Alerts as signed messages to a receiver over HTTP.

Rules of this file
1. All of one try, from the name's look-up on, has one deadline: a receiver that drips bytes gains nothing by it. Only
   the look-up itself takes as long as this machine's resolver lets it.
2. Of an answer no more is read than its status, at most ``ANSWER_BYTES_MAX``. That is why this is no
   :mod:`http.client`, which gives every single read the whole timeout.
3. No redirect is followed and no proxy is used: a message goes where the operator said, or nowhere.
4. The URL may have a secret in its path, so it is never told, nor is what a receiver answers beside its status.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tenantguard.adapters.alerts.payload import payload
from tenantguard.adapters.alerts.signature import HEADER, SECRET_BYTES_MIN, sign
from tenantguard.errors import ConfigurationError, PortError

if TYPE_CHECKING:
    import ssl

    from tenantguard.flow.ports import Clock
    from tenantguard.model.ledger import Alert

TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 4096
_PORT: Final = "alerts"
_VISIBLE: Final = re.compile(r"[!-~]+")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (?P<status>[1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_INTERIM_END: Final = re.compile(rb"\r?\n\r?\n")


class WebhookSender:
    """Posts every alert as JSON to ``url``, signed with ``secret``; a status of 200 to 299 takes it.

    ``url`` is ``https://``; ``http://`` is refused but to this machine itself, unless ``allow_http``. One try takes
    ``timeout_s`` seconds at most. ``context`` replaces the usual check of certificates, for a private authority.
    Raises :class:`ConfigurationError` for what cannot work.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        secret: bytes | str,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
        allow_http: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._secret = secret.encode() if isinstance(secret, str) else secret
        if len(self._secret) < SECRET_BYTES_MIN:
            raise ConfigurationError(
                f"alerts: the webhook's secret has at least {SECRET_BYTES_MIN} bytes: write a random one"
            )
        if not 0 < timeout_s <= 60:
            raise ConfigurationError("alerts: the webhook's timeout is above 0 and at most 60 seconds")
        self._host, self._port, self._is_tls, self._target = _read(url, allow_http=allow_http)
        self._clock = clock
        self._timeout_ns = int(timeout_s * 1e9)
        self._context = context
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def __repr__(self) -> str:
        return f"WebhookSender({self._host!r})"

    def send(self, alert: Alert) -> None:
        """Try once; raises :class:`PortError` unless the receiver took it."""
        body = json.dumps(payload(alert), separators=(",", ":")).encode()
        try:
            status = self._post(body, self._clock.monotonic_ns() + self._timeout_ns)
        except TimeoutError:
            raise PortError(_PORT, "the webhook's receiver did not answer in time") from None
        except OSError as failed:  # of TLS as well
            raise PortError(_PORT, f"the webhook's receiver cannot be reached ({type(failed).__name__})") from None
        if status is None:
            raise PortError(_PORT, "the webhook's receiver answered with what is no HTTP")
        if 300 <= status < 400:
            raise PortError(_PORT, f"the webhook's receiver answered {status}; redirects are not followed")
        if not 200 <= status < 300:
            raise PortError(_PORT, f"the webhook's receiver answered {status}")

    def close(self) -> None:
        """Give up a try that is under way in another thread; usable again afterwards."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would touch its state

    def _post(self, body: bytes, deadline_ns: int) -> int | None:
        """The status of the answer, None where there is none."""
        connection = self._connect(deadline_ns)
        try:
            if self._is_tls:
                connection.settimeout(self._left_s(deadline_ns))
                connection = self._wrapped(connection)
            connection.settimeout(self._left_s(deadline_ns))
            connection.sendall(self._head(body) + body)
            return self._status(connection, deadline_ns)
        finally:
            with self._lock:
                self._socket = None
            connection.close()

    def _connect(self, deadline_ns: int) -> socket.socket:
        problem: OSError = OSError("no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            with self._lock:
                self._socket = connection
            try:
                connection.settimeout(self._left_s(deadline_ns))
                connection.connect(address)
            except OSError as failed:
                connection.close()
                problem = failed
            else:
                return connection
        with self._lock:
            self._socket = None
        raise problem

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        if self._context is None:
            import ssl  # noqa: PLC0415 - 10 ms, and 20 ms for a context, that only its user pays

            self._context = ssl.create_default_context()
        wrapped = self._context.wrap_socket(connection, server_hostname=self._host)
        with self._lock:
            self._socket = wrapped
        return wrapped

    def _head(self, body: bytes) -> bytes:
        usual = 443 if self._is_tls else 80
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = (
            f"POST {self._target} HTTP/1.1",
            f"Host: {host}" if self._port == usual else f"Host: {host}:{self._port}",
            "User-Agent: TenantGuard",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"{HEADER}: {sign(self._secret, body, self._clock.wall_ns() // 10**9)}",
            "Connection: close",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()

    def _status(self, connection: socket.socket, deadline_ns: int) -> int | None:
        answer, room = b"", ANSWER_BYTES_MAX
        while room:
            connection.settimeout(self._left_s(deadline_ns))
            received = connection.recv(room)
            answer += received
            room -= len(received)
            while (matched := _STATUS.match(answer)) is not None:
                status = int(matched["status"])
                if status >= 200:
                    return status
                end = _INTERIM_END.search(answer)
                if end is None:
                    break
                answer = answer[end.end() :]  # an interim answer
            if not received:
                return None
        return None

    def _left_s(self, deadline_ns: int) -> float:
        left_ns = deadline_ns - self._clock.monotonic_ns()
        if left_ns <= 0:
            raise TimeoutError
        return left_ns / 1e9


def _read(url: str, *, allow_http: bool) -> tuple[str, int, bool, str]:
    """Host, port, whether it speaks TLS, and path with query. The URL is never repeated."""
    problem = "alerts: the webhook must be a URL like 'https://example.com/alerts'"
    if _VISIBLE.fullmatch(url) is None:
        raise ConfigurationError(f"{problem}, in visible ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(problem) from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(problem)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigurationError(f"{problem}, without a user, password or fragment")
    is_tls = parts.scheme == "https"
    if not is_tls and not allow_http and not _is_loopback(host):
        raise ConfigurationError(
            "alerts: a webhook beyond this machine is https://, or what it tells can be read on the way; "
            "allow_http permits it all the same"
        )
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return host, port or (443 if is_tls else 80), is_tls, target


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
