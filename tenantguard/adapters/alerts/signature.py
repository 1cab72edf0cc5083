"""The signature of a webhook: who has the secret can tell that a message is ours, new and unchanged.

``TenantGuard-Signature: t=<unix>,v1=<hex>``, where ``v1`` is the HMAC-SHA-256 of ``<unix>.<body>``. The scheme is the
one that receivers know from payment providers; the time is signed, so that a message cannot be sent again later.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

HEADER: Final = "TenantGuard-Signature"
SECRET_BYTES_MIN: Final = 16
TOLERANCE_S: Final = 300
_HEADER_MAX: Final = 1024
_DIGITS_MAX: Final = 12


def sign(secret: bytes, body: bytes, at_s: int) -> str:
    """The header's value for ``body``, sent at ``at_s`` seconds since 1970."""
    return f"t={at_s},v1={_digest(secret, body, str(at_s))}"


def verify_signature(
    secret: bytes | str, header: str, body: bytes, now: float, *, tolerance_s: int = TOLERANCE_S
) -> bool:
    """Whether ``header`` signs ``body`` with ``secret``, at most ``tolerance_s`` seconds from ``now`` on either side.

    ``header`` is the value of ``TenantGuard-Signature``, ``body`` the bytes as they came, ``now`` seconds since 1970.
    Takes the same time for every wrong signature, and raises for none. Several ``v1`` are allowed, one of which must
    be right, so that a secret can be replaced.
    """
    if len(header) > _HEADER_MAX or not header.isascii():
        return False
    at: str | None = None
    signatures = []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            if at is not None:
                return False
            at = value
        elif name == "v1":
            signatures.append(value)
    if at is None or not at.isdigit() or len(at) > _DIGITS_MAX:
        return False
    expected = _digest(secret.encode() if isinstance(secret, str) else secret, body, at)
    right = False
    for signature in signatures:
        right |= hmac.compare_digest(signature, expected)
    return right and abs(now - int(at)) <= tolerance_s


def _digest(secret: bytes, body: bytes, at: str) -> str:
    return hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
