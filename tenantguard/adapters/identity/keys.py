"""API keys, known by their SHA-256 digests alone.

A fast, unsalted hash is right for keys that :func:`new_key` made: 256 random bits cannot be guessed, whatever a guess
costs, and each request pays a microsecond. It would be wrong for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Final

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenantguard.model.tenant import Identity

_HASH: Final = re.compile(r"\Asha256:[0-9a-f]{64}\Z")
_KEY: Final = re.compile(r"\A[!-+\--~]+\Z")
"""Visible ASCII but the comma, at which servers join repeated header lines."""


def hash_key(key: str) -> str:
    """``"sha256:<64 hex digits>"``, as settings hold it. :class:`ConfigurationError` if no header could carry it."""
    if not _KEY.match(key):
        raise ConfigurationError("an API key has only visible ASCII characters, and neither spaces nor commas")
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def new_key() -> str:
    """A new key of 256 random bits, ``tg_...``."""
    return f"tg_{secrets.token_urlsafe(32)}"


def read_hash(text: str) -> bytes:
    """The digest in ``"sha256:<64 hex digits>"``. :class:`ConfigurationError`, which never repeats ``text``."""
    if not _HASH.match(text):
        raise ConfigurationError(
            "a key's hash is 'sha256:' and 64 lower-case hex digits, as 'tenantguard hash-key' prints it",
        )
    return bytes.fromhex(text.removeprefix("sha256:"))


class ApiKeys:
    """Knows identities by the hashes of their keys: ``ApiKeys({hash_key(key): Identity("acme-dev", tenant)})``.

    Looking up a digest tells nothing through time: which bits of a digest agree with a stored one cannot be steered
    by the caller, who chooses the key and not its SHA-256, and says nothing about the stored key. The one comparison
    of the digest that was found takes constant time besides.

    Two identities with one id raise :class:`ConfigurationError`: the audit could not tell them apart.
    """

    def __init__(self, keys: Mapping[str, Identity]) -> None:
        self._by_digest: dict[bytes, tuple[bytes, Identity]] = {}
        ids: set[str] = set()
        for text, identity in keys.items():
            digest = read_hash(text)
            if identity.id in ids:
                raise ConfigurationError(f"two keys have the id {identity.id!r}: give each its own")
            ids.add(identity.id)
            self._by_digest[digest] = (digest, identity)

    def identify(self, credential: str) -> Identity | None:
        """Who this key belongs to, or None."""
        presented = hashlib.sha256(credential.encode()).digest()
        stored, identity = self._by_digest.get(presented, (b"", None))
        return identity if hmac.compare_digest(stored, presented) else None

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._by_digest)} keys)"
