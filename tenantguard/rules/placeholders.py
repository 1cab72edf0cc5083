"""Placeholders: what stands where personal data stood, and the memory of one exchange that can undo it.

``<EMAIL_ADDRESS_k7f3q2abcd>`` is the entity and the first characters of a keyed hash (HMAC-SHA256, RFC 2104, in the
base32 alphabet of RFC 4648) of entity and value. Equal values of one tenant share a placeholder in every message and
turn; without the tenant's key nobody can test a guess or link two tenants.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final

from tenantguard.errors import ConfigurationError, LayerError

LITERAL: Final = "LITERAL"
"""The entity of text in a request that looks like a placeholder but is the user's own."""

KEY_BYTES_MIN: Final = 32
"""As long as the output of SHA-256, as RFC 2104 section 3 asks of the key of an HMAC."""

PLACEHOLDER_CHARS_MAX: Final = 63
_ENTITY_CHARS_MAX: Final = 40
_SUFFIX_CHARS: Final = (10, 15, 20)  # 50 bits; a longer one only where two values of one exchange collide
PLACEHOLDER: Final = re.compile(r"<[A-Z][A-Z0-9_]{0,39}_[a-z2-7]{10,20}>")
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9]+")


def tenant_key(key: bytes, tenant: str) -> bytes:
    """Derive one tenant's key from the guard's; a key of less than 32 bytes raises :class:`ConfigurationError`."""
    if len(key) < KEY_BYTES_MIN:
        raise ConfigurationError(f"the redaction key has {len(key)} bytes: it needs at least {KEY_BYTES_MIN}")
    return hmac.digest(key, b"tenantguard placeholder\0" + tenant.encode(), hashlib.sha256)


def name_of(entity: str) -> str:
    """An entity as it is written in a placeholder: capitals, digits and underscores, at most 40."""
    return _NOT_IN_A_NAME.sub("_", entity.upper())[:_ENTITY_CHARS_MAX].lstrip("_0123456789").rstrip("_") or "VALUE"


class Vault:
    """The placeholders of one exchange. Only what the request's own values were replaced by can be restored.

    It lives in memory, is never written anywhere, and its ``repr`` shows a count alone. At most ``most`` values can
    be restored (None: as many as there are); placeholders of further ones stay as they are.
    """

    __slots__ = ("_digests", "_key", "_most", "_values")

    def __init__(self, key: bytes, most: int | None = None) -> None:
        self._key = key
        self._most = most
        self._values: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def mint(self, entity: str, value: str) -> str:
        """The placeholder of a value of the request; from now on it can be restored."""
        token, digest = self._place(entity, value)
        if self._most is not None and len(self._values) >= self._most:
            return token
        self._values[token] = value
        self._digests[token] = digest
        return token

    def mask(self, entity: str, value: str) -> str:
        """The placeholder of a value that is not the request's: it cannot be restored, unless it was minted too."""
        return self._place(entity, value)[0]

    def value(self, token: str) -> str | None:
        """What ``token`` stands for, None where it was not minted in this exchange."""
        return self._values.get(token)

    @property
    def count(self) -> int:
        """How many values can be restored."""
        return len(self._values)

    def erase(self) -> None:
        """Forget every value. Placeholders that come later stay as they are."""
        self._values.clear()
        self._digests.clear()

    def _place(self, entity: str, value: str) -> tuple[str, str]:
        name = name_of(entity)
        digest = _digest(self._key, name, value)
        for length in _SUFFIX_CHARS:
            token = f"<{name}_{digest[:length]}>"
            if self._digests.get(token, digest) == digest:
                return token, digest
        raise LayerError("two values of one exchange have one placeholder")

    def __repr__(self) -> str:
        return f"Vault({len(self._values)} values)"


def _digest(key: bytes, entity: str, value: str) -> str:
    text = f"{entity}\0{value}".encode("utf-8", "surrogatepass")
    return base64.b32encode(hmac.digest(key, text, hashlib.sha256)).decode().rstrip("=").lower()
