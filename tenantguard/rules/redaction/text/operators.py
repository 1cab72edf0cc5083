"""What becomes of a value: the operators of a policy, by the names that Presidio gives them."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import OTHERS, Kept, Operator, OperatorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ENCRYPTED: Final = re.compile(r"<(?P<entity>[A-Z][A-Z0-9_]{0,39}):(?P<sealed>[A-Za-z0-9_-]{22,})>")
"""What an encrypted value looks like: its entity, and base64 for URLs (RFC 4648) without padding."""

HASHED: Final = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])")
"""What a hashed value looks like."""

_HASH_LABEL: Final = b"tenantguard hash\0"
_MARK_LABEL: Final = b"mark\0"
_HASH_BYTES: Final = 28
_MARK_BYTES: Final = 4


class Cipher(Protocol):
    """Encrypts the values of one tenant so that only its key opens them: a port, filled by an adapter."""

    def encrypt(self, entity: str, value: str) -> str:
        """The value as text that may stand in its place, an :data:`ENCRYPTED`."""
        ...

    def made(self, text: str) -> bool:
        """Whether an :data:`ENCRYPTED` is of this cipher."""
        ...


class TenantKeys(NamedTuple):
    """What values of one tenant are hashed and encrypted with; ``cipher`` None: nothing is encrypted."""

    hash_key: bytes
    cipher: Cipher | None

    @classmethod
    def of(cls, tenant_key: bytes, cipher: Cipher | None = None) -> TenantKeys:
        """The keys that follow from a tenant's: another for each purpose (HMAC-SHA256, RFC 2104)."""
        return cls(hmac.digest(tenant_key, _HASH_LABEL, hashlib.sha256), cipher)

    def hashed(self, value: str) -> str:
        """The value's hash and its mark, in hexadecimal: 28 bytes of HMAC-SHA256, and 4 of the hash's own.

        The mark tells a hash that comes back from a text that only looks like one.
        """
        digest = hmac.digest(self.hash_key, value.encode("utf-8", "surrogatepass"), hashlib.sha256)[:_HASH_BYTES]
        return (digest + self._mark(digest)).hex()

    def made(self, text: str) -> list[Match]:
        """Where values stand that were hashed or encrypted for this tenant: nothing is to be looked for in them."""
        spans = []
        if self.cipher is not None and "<" in text:
            spans += [found.span() for found in ENCRYPTED.finditer(text) if self.cipher.made(found[0])]
        if self.hash_key:
            spans += [found.span() for found in HASHED.finditer(text) if self._is_hash(bytes.fromhex(found[0]))]
        return [Match("MADE", *span, 1.0) for span in sorted(spans)]

    def _is_hash(self, made: bytes) -> bool:
        return hmac.compare_digest(made[_HASH_BYTES:], self._mark(made[:_HASH_BYTES]))

    def _mark(self, digest: bytes) -> bytes:
        return hmac.digest(self.hash_key, _MARK_LABEL + digest, hashlib.sha256)[:_MARK_BYTES]


class Operators:
    """The operator of each entity. ``functions`` are the user's own, by the target that an operator names.

    A function that is not there is a :class:`ConfigurationError`.
    """

    __slots__ = ("_functions", "_others", "_table")

    def __init__(
        self, table: Iterable[tuple[str, Operator]] = (), functions: Mapping[str, Callable[[str], str]] | None = None
    ) -> None:
        self._table = dict(table)
        self._others = self._table.pop(OTHERS, None)
        self._functions = functions or {}
        for operator in [*self._table.values(), self._others]:
            if operator is not None and operator.function and operator.function not in self._functions:
                raise ConfigurationError(f"nobody gave the function {operator.function!r} of a custom operator")

    @property
    def encrypts(self) -> bool:
        """Whether any value is encrypted."""
        operators = [*self._table.values(), self._others]
        return any(operator is not None and operator.kind is OperatorKind.ENCRYPT for operator in operators)

    def kept(self, never: frozenset[str] = frozenset()) -> Kept:
        """The entities whose values stay as they are, those of ``never`` aside."""
        keeps = {entity for entity, operator in self._table.items() if operator.kind is OperatorKind.KEEP} - never
        if self._others is None or self._others.kind is not OperatorKind.KEEP:
            return Kept(frozenset(keeps))
        return Kept((frozenset(self._table) - keeps) | never, others=True)

    def of(self, entity: str) -> Operator | None:
        """The operator of this entity; None where a placeholder takes the place of its values."""
        operator = self._table.get(entity, self._others)
        if operator is None or (operator.kind is OperatorKind.REPLACE and operator.value is None):
            return None
        return operator

    def text(self, operator: Operator, entity: str, value: str, keys: TenantKeys) -> str:
        """What stands in place of ``value``.

        ``hash`` is keyed by the tenant and of the value alone: equal values of one tenant have one hash, and without
        the key nobody can test a guess.
        """
        match operator.kind:
            case OperatorKind.REPLACE:
                return operator.value or ""
            case OperatorKind.REDACT:
                return ""
            case OperatorKind.KEEP:
                return value
            case OperatorKind.MASK:
                return _masked(operator, value)
            case OperatorKind.HASH:
                return keys.hashed(value)
            case OperatorKind.ENCRYPT:
                if keys.cipher is None:
                    raise PortError("cipher", "there is none, and a value is to be encrypted")
                return keys.cipher.encrypt(entity, value)
            case OperatorKind.CUSTOM:
                return self._own(operator.function, value)

    def _own(self, target: str, value: str) -> str:
        """What a user's function makes of a value. What it raises is told by its type: it may hold the value."""
        failure = ""
        made: object = None
        try:
            made = self._functions[target](value)
        except Exception as error:  # noqa: BLE001 - the user's own
            failure = type(error).__name__
        if failure:
            raise PortError("operator", f"{target} failed with {failure}")
        if not isinstance(made, str):
            raise PortError("operator", f"{target} returned no text")
        return made


def _masked(operator: Operator, value: str) -> str:
    count = len(value) if operator.count is None else min(operator.count, len(value))
    written = operator.char * count
    return value[: len(value) - count] + written if operator.from_end else written + value[count:]
