"""What becomes of a value: the operators of a policy, by the names that Presidio gives them."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from tenantguard.errors import ConfigurationError, PortError
from tenantguard.model.pii import Match
from tenantguard.model.redact_section import OTHERS, Operator, OperatorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ENCRYPTED: Final = re.compile(r"<(?P<entity>[A-Z][A-Z0-9_]{0,39}):(?P<sealed>[A-Za-z0-9_-]{22,})>")
"""What an encrypted value looks like: its entity, and base64 for URLs (RFC 4648) without padding."""

_HASH_LABEL: Final = b"tenantguard hash\0"


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

    def encrypted(self, text: str) -> list[Match]:
        """Where values stand that the tenant's own cipher encrypted: nothing is to be looked for in them."""
        if self.cipher is None or "<" not in text:
            return []
        found = (found for found in ENCRYPTED.finditer(text) if self.cipher.made(found[0]))
        return [Match("ENCRYPTED", *one.span(), 1.0) for one in found]


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

    def of(self, entity: str) -> Operator | None:
        """The operator of this entity; None where a placeholder takes the place of its values."""
        operator = self._table.get(entity, self._others)
        if operator is None or (operator.kind is OperatorKind.REPLACE and operator.value is None):
            return None
        return operator

    def text(self, operator: Operator, entity: str, value: str, keys: TenantKeys) -> str:
        """What stands in place of ``value``.

        ``hash`` is the HMAC-SHA256 of the value alone under a key of the tenant, in hexadecimal: equal values of one
        tenant have one hash, and without the key nobody can test a guess.
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
                return hmac.digest(keys.hash_key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()
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
