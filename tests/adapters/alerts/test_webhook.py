"""The webhook against real receivers, kind and hostile."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tenantguard.adapters.alerts.payload import alert_id
from tenantguard.adapters.alerts.signature import verify_signature
from tenantguard.adapters.alerts.webhook import WebhookSender
from tenantguard.adapters.system import SystemClock
from tenantguard.errors import ConfigurationError, PortError
from tenantguard.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tenantguard.model.ledger import Alert
    from tests.adapters.alerts.receiving import Receiver

SECRET = "a secret of 16 bytes or more"
SHORT_S = 0.3


def webhook(url: str, timeout_s: float = 5.0) -> WebhookSender:
    return WebhookSender(url, SECRET, SystemClock(), timeout_s=timeout_s)


def test_a_receiver_gets_a_signed_message_with_exact_amounts(receiver: Receiver, alert: Alert) -> None:
    clock = ManualClock()
    WebhookSender(receiver.url(), SECRET, clock).send(alert)
    (got,) = receiver.got
    assert got.line == "POST /alerts?to=ops HTTP/1.1"
    assert got.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["Content-Type"] == "application/json"
    now = clock.wall_ns() / 1e9
    assert verify_signature(SECRET, got.headers["TenantGuard-Signature"], got.body, now)
    assert json.loads(got.body) == {
        "id": alert_id(alert),
        "type": "budget.alert",
        "at": "2026-11-02T06:13:20.123456Z",
        "tenant": "acme",
        "budget": ["identity", "acme", "jane@example.com", "month in Europe/Berlin"],
        "period": "month in Europe/Berlin",
        "window_starts": "2026-10-31T23:00:00.000000Z",
        "unit": "USD",
        "threshold": {"percent": 80, "of": "spent"},
        "ceiling": "250.00",
        "spent": "200.000000001",
        "held": "0.50",
    }


def test_every_try_has_the_same_id_and_a_signature_of_its_own_time(receiver: Receiver, alert: Alert) -> None:
    clock = ManualClock()
    sender = WebhookSender(receiver.url(), SECRET, clock)
    sender.send(alert)
    clock.advance(1000)
    sender.send(alert)
    first, second = receiver.got
    assert first.body == second.body
    assert first.headers["TenantGuard-Signature"] != second.headers["TenantGuard-Signature"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 404\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "redirects are not followed"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no HTTP"),
        (b"", "no HTTP"),
        (b"HTTP/1.1 200", "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + b"HTTP/1.1 200 OK\r\n\r\n", "no HTTP"),
    ],
)
def test_whatever_is_no_success_is_a_failure(answer: bytes, problem: str, receiver: Receiver, alert: Alert) -> None:
    receiver.answer = lambda connection: connection.sendall(answer)
    with pytest.raises(PortError, match=problem):
        webhook(receiver.url()).send(alert)
    assert len(receiver.got) == 1


def test_an_interim_answer_is_not_the_answer(receiver: Receiver, alert: Alert) -> None:
    receiver.answer = lambda connection: connection.sendall(
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    )
    webhook(receiver.url()).send(alert)


def drip(what: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def answer(connection: socket.socket, closing: threading.Event) -> None:
        while not closing.wait(SHORT_S / 10):
            connection.sendall(what)

    return answer


@pytest.mark.parametrize("what", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_receiver_that_stalls_or_drips_is_left_at_the_deadline(
    what: bytes, receiver: Receiver, alert: Alert
) -> None:
    receiver.answer = lambda connection: drip(what)(connection, receiver.closing)
    before_ns = SystemClock.monotonic_ns()
    with pytest.raises(PortError, match=r"in time|no HTTP"):
        webhook(receiver.url(), SHORT_S).send(alert)
    assert SystemClock.monotonic_ns() - before_ns < 10 * SHORT_S * 1e9


def test_the_handshake_has_what_the_connecting_left_of_the_time(alert: Alert) -> None:
    class Late(ManualClock):
        """It has taken nearly all of the time to connect."""

        looks = 0

        def monotonic_ns(self) -> int:
            self.looks += 1
            return 0 if self.looks <= 2 else 10 * 10**9 - 10**7

    before_ns = SystemClock.monotonic_ns()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/alerts"
        with pytest.raises(PortError, match="in time"):
            WebhookSender(url, SECRET, Late(), timeout_s=10).send(alert)
    assert SystemClock.monotonic_ns() - before_ns < 5 * 10**9


def test_a_receiver_that_answers_without_end_is_read_only_as_far_as_its_status(
    receiver: Receiver, alert: Alert
) -> None:
    sent = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not receiver.closing.is_set():
            sent.append(connection.send(b"x" * 65536))

    receiver.answer = answer
    webhook(receiver.url()).send(alert)


def test_nobody_listening_is_a_failure_that_does_not_tell_the_url(alert: Alert) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sender = webhook(f"http://127.0.0.1:{port}/hooks/T0KEN")
    with pytest.raises(PortError) as failed:
        sender.send(alert)
    assert "T0KEN" not in f"{failed.value}{failed.value.__cause__}{sender!r}"
    assert SECRET not in repr(sender)


def test_closing_gives_up_the_try_that_is_under_way(receiver: Receiver, alert: Alert) -> None:
    sender = webhook(receiver.url(), 60)
    receiver.answer = lambda connection: drip(b"")(connection, receiver.closing)
    failed: list[Exception] = []

    def send() -> None:
        try:
            sender.send(alert)
        except PortError as problem:
            failed.append(problem)

    thread = threading.Thread(target=send)
    thread.start()
    receiver.heard.acquire()
    sender.close()
    thread.join()
    assert failed
    receiver.answer = lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    sender.send(alert)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", path,
         "-keyout", path.with_suffix(".key")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix(".key").read_text())
    return path


def test_over_tls_the_certificate_must_be_one_that_is_trusted(
    receiver: Receiver, alert: Alert, certificate: Path
) -> None:
    receiver.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    receiver.context.load_cert_chain(certificate)
    url = receiver.url().replace("http://", "https://")
    with pytest.raises(PortError, match="SSLCertVerificationError"):
        webhook(url).send(alert)
    trusting = ssl.create_default_context(cafile=str(certificate))
    WebhookSender(url, SECRET, SystemClock(), context=trusting).send(alert)
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/alerts",
        "http://127.0.0.1.example.com/",
        "http://10.0.0.1/",
        "ftp://example.com/",
        "example.com/alerts",
        "https://",
        "https://user:hunter2@example.com/",
        "https://example.com/#part",
        "https://example.com/a b",
        "https://example.com/\r\nx-evil: 1",
        "https://exämple.com/",
        "https://example.com:99999/",
        "https://[::1/",
        "",
    ],
)
def test_a_url_that_is_unsafe_or_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        webhook(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://localhost:1/", "http://127.0.0.2/", "http://[::1]:8080/x", "https://h/"])
def test_plain_http_is_allowed_to_this_machine(url: str) -> None:
    webhook(url)


def test_plain_http_to_others_must_be_allowed_explicitly_and_a_secret_is_long() -> None:
    WebhookSender("http://example.com/", SECRET, SystemClock(), allow_http=True)
    with pytest.raises(ConfigurationError, match="16 bytes"):
        WebhookSender("https://example.com/", "short", SystemClock())
    with pytest.raises(ConfigurationError, match="timeout"):
        webhook("https://example.com/", 0)
