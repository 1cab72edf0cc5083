"""Encryption of values that redaction replaces: AES-SIV (RFC 5297), by the library ``cryptography``.

It needs no nonce: equal values of one entity and tenant have one ciphertext, so that records can still be joined, and
nobody without the key can make, change or read one. That two are equal is all that can be seen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from tenantguard.errors import ConfigurationError
from tenantguard.rules.placeholders import KEY_BYTES_MIN, name_of
from tenantguard.rules.redaction.text.operators import ENCRYPTED

_LABEL: Final = b"tenantguard encrypted value\0"


class ValueCipher:
    """Encrypts values of one tenant as ``<EMAIL_ADDRESS:base64url>``, and decrypts them again.

    ``key`` is that of the guard's redaction, at least 32 bytes; a shorter one is a :class:`ConfigurationError`. The
    key of the cipher (512 bits) is derived from it for the tenant by HMAC-SHA512 (RFC 2104).
    """

    def __init__(self, key: bytes, tenant: str) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ConfigurationError(f"the redaction key has {len(key)} bytes: it needs at least {KEY_BYTES_MIN}")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - 40 ms that only who encrypts pays
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

        self._cipher = AESSIV(hmac.digest(key, _LABEL + tenant.encode(), hashlib.sha512))
        self._refused = InvalidTag

    def encrypt(self, entity: str, value: str) -> str:
        """The value encrypted, bound to its entity."""
        name = name_of(entity)
        sealed = self._cipher.encrypt(value.encode("utf-8", "surrogatepass"), [name.encode()])
        return f"<{name}:{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}>"

    def decrypt(self, text: str) -> str:
        """``text`` with every value that this cipher encrypted put back; what it did not stays as it is."""
        return ENCRYPTED.sub(lambda found: self._opened(found[1], found[2]) or found[0], text)

    def made(self, text: str) -> bool:
        """Whether ``text`` is a value that this cipher encrypted, and nothing else."""
        found = ENCRYPTED.fullmatch(text)
        return found is not None and self._opened(found[1], found[2]) is not None

    def _opened(self, entity: str, sealed: str) -> str | None:
        try:
            data = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
            return self._cipher.decrypt(data, [entity.encode()]).decode("utf-8", "surrogatepass")
        except (self._refused, ValueError, binascii.Error):
            return None

    def __repr__(self) -> str:
        return "ValueCipher()"
