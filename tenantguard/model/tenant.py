"""Who is served and charged: tenants and the identities that act for them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from tenantguard.errors import BadRequestError

TENANT_ID_CHARS_MAX: Final = 128


class TenantId(str):
    """A tenant's name: a string that is never empty, at most 128 characters, printable, without spaces.

    It is a ``str``: it serialises as a bare JSON string and finds plain string keys in a mapping. Anything else
    raises :class:`BadRequestError`; the message never repeats the value, since it came from outside.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Validate ``value``; there is no unchecked way to build one."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise BadRequestError("a tenant id must be a string")
        if not value.strip():
            raise BadRequestError("a tenant id must be non-empty")
        if len(value) <= TENANT_ID_CHARS_MAX and not value.isascii():
            value = unicodedata.normalize("NFC", value)
        if len(value) > TENANT_ID_CHARS_MAX:
            raise BadRequestError(f"a tenant id has at most {TENANT_ID_CHARS_MAX} characters")
        if not value.isprintable() or any(letter.isspace() for letter in value):
            raise BadRequestError("a tenant id has only printable characters and no spaces")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"TenantId({str(self)!r})"


DEFAULT_TENANT: Final = TenantId("default")
"""The tenant of single-tenant mode; one shared object."""


class Role(StrEnum):
    """What an identity may do within its tenant."""

    VIEWER = "viewer"
    EDITOR = "editor"
    TENANT_ADMIN = "tenant_admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who acts: the public id of a credential (never the credential), and the tenant that it acts for."""

    id: str
    tenant: TenantId
    role: Role = Role.EDITOR


@dataclass(frozen=True, slots=True)
class Tenant:
    """The tenant of one exchange, a fact that the tenant layer leaves for the layers further in."""

    id: TenantId
    identity: Identity | None = None
