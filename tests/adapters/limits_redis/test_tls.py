"""A server behind TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tenantguard.adapters.system import SystemClock
from tenantguard.flow.ports import Taken
from tenantguard.model.rate import Rate

from .conftest import SECOND, Proxy, one

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Asked

HOUR = 3600 * SECOND
YEAR = dt.timedelta(days=365)


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "limits")])
    now = dt.datetime.fromtimestamp(SystemClock().wall_ns() // SECOND, dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - YEAR, now + YEAR)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "limits.pem"
    path.write_bytes(
        made.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


class Terminated(Proxy):
    """Takes TLS off, on the way to a server."""

    def __init__(self, port: int, certified: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certified)
        super().__init__(port)

    def prepared(self, near: socket.socket) -> socket.socket:
        return self._context.wrap_socket(near, server_side=True)


@pytest.fixture
def terminated(redis: Any, tmp_path: Path) -> Iterator[tuple[Proxy, Path]]:
    certified = certificate(tmp_path)
    between = Terminated(redis.port, certified)
    yield between, certified
    between.close()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_server_behind_tls_decides(
    asked: Callable[..., Asked], terminated: tuple[Proxy, Path], scheme: str
) -> None:
    between, certified = terminated
    store = asked(f"{scheme}://127.0.0.1:{between.port}/0?ssl_ca_certs={certified}", deadline_ms=10_000)
    take = one(Rate(1, HOUR, 3))
    answers = [store.take(take) for _ in range(5)]
    assert [isinstance(answer, Taken) for answer in answers] == [True] * 3 + [False] * 2
    assert not any(answer.degraded for answer in answers)
    assert between.links


def test_a_server_whose_certificate_nobody_trusts_decides_nothing(
    asked: Callable[..., Asked], terminated: tuple[Proxy, Path]
) -> None:
    """Nor does one that speaks no TLS."""
    between, _ = terminated
    for uri in (f"rediss://127.0.0.1:{between.port}/0", f"redis://127.0.0.1:{between.port}/0"):
        store = asked(uri, deadline_ms=1000)
        assert all(store.take(one(Rate(1, HOUR))).degraded for _ in range(4))
        assert not store.store._servers.breaker_of(0).closed
