"""Encryption of what is kept of responses: AES-256-GCM, by the library ``cryptography``."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from tenantguard.errors import ConfigurationError

KEY_BYTES_MIN: Final = 32
"""As long as the key of the cipher."""

_NONCE_BYTES: Final = 12
_LABEL: Final = b"tenantguard kept response\0"


class AESGCMSealer:
    """Seals bytes so that only the same ``key`` opens them, for the purpose that they were sealed for.

    Every purpose has a cipher key of its own, derived by HMAC-SHA256 (RFC 2104), so that random nonces never come
    near the 2**32 messages that NIST SP 800-38D, 8.3, allows one key. ``key`` has at least 32 bytes, and is the same
    in all processes that share a ledger; a shorter one raises :class:`ConfigurationError`.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ConfigurationError(f"the idempotency key has {len(key)} bytes: it needs at least {KEY_BYTES_MIN}")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - 40 ms that only replaying routes pay
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        self._key = key
        self._cipher = AESGCM
        self._refused = InvalidTag

    def seal(self, data: bytes, bound_to: bytes) -> bytes:
        """Encrypt ``data``; only ``bound_to`` opens it again."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(self._derived(bound_to)).encrypt(nonce, data, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes | None:
        """Decrypt; None where the key or ``bound_to`` is another, or a byte was changed."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(self._derived(bound_to)).decrypt(nonce, rest, bound_to)
        except (self._refused, ValueError):  # ValueError: too short to be sealed
            return None

    def _derived(self, bound_to: bytes) -> bytes:
        return hmac.digest(self._key, _LABEL + bound_to, hashlib.sha256)
