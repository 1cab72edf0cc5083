"""The tenant layer: which credential, whose it is, which tenant, under which policy.

Rules of this file: a request that carries contradictory claims is refused, never resolved by precedence; strict mode
never falls back; the credential goes into the one effect that asks whose it is and nowhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from tenantguard.errors import BadRequestError, ConfigurationError, PortError
from tenantguard.flow.ports import FindPolicy, Identify
from tenantguard.model.decision import Allow, Deny, Reason
from tenantguard.model.policy import EMPTY_POLICY, Policy
from tenantguard.model.tenant import DEFAULT_TENANT, Tenant, TenantId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Headers, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.model.tenant import Identity

_HEADER_NAME: Final = re.compile(r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
"""A ``token``, RFC 9110 5.6.2."""

_SPACE: Final = " \t"
"""What may stand around a value, RFC 9110 5.6.3; ``str.strip`` takes bytes of UTF-8 letters with it."""

_ANYBODY: Final = Tenant(DEFAULT_TENANT)

_API_KEY_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"api-key"})


class TenantContext:
    """Finds the tenant of a request and leaves the facts :class:`Tenant` and :class:`Policy`.

    ``sources`` says where a tenant may come from: ``"api-key"`` (``Authorization: Bearer``, ``x-api-key`` or
    ``api-key``) and ``"header:<name>"``, a header that names the tenant outright and is believed only with
    ``trust_headers=True``, since whoever reaches the guard can write it. Where a request carries several, all must
    name the same tenant.

    ``required=False`` serves a request that carries no claim at all as tenant ``default``; a claim that is wrong is
    refused all the same. ``mode="single"`` serves every request as tenant ``default`` and looks at no header.
    A public route is served to anybody, as tenant ``default`` under the empty policy.

    Raises :class:`ConfigurationError` for a source that is unknown, a header name that is illegal, and a header
    source without ``trust_headers``.
    """

    name = "tenant"
    provides = (Tenant, Policy)

    def __init__(
        self,
        sources: Iterable[str] = ("api-key",),
        *,
        required: bool = True,
        trust_headers: bool = False,
        mode: Literal["strict", "single"] = "strict",
    ) -> None:
        self._single = mode == "single"
        self._required = required
        self._keys = False
        self._header_names: dict[bytes, str] = {}
        for source in () if self._single else sources:
            if source == "api-key":
                self._keys = True
            else:
                name = _header_name(source)
                if not trust_headers:
                    raise ConfigurationError(
                        f"{source!r} believes whoever writes that header: set trust_headers = true if only a proxy "
                        "of yours can reach this guard, and it overwrites the header",
                    )
                self._header_names[name.encode()] = source
        self._looked_at = frozenset(self._header_names) | (_API_KEY_HEADERS if self._keys else frozenset())
        if not (self._single or self._looked_at):
            raise ConfigurationError("name at least one source of tenants: 'api-key' or 'header:<name>'")

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Find tenant and policy, or refuse with 400, 401, 403 or 503."""
        policy: Policy | None
        if exchange.route.public:
            tenant, matched_by, policy = _ANYBODY, "public", EMPTY_POLICY
        else:
            claimed = self._claimed(exchange.request.headers)
            if isinstance(claimed, Deny):
                return exchange.deny(claimed)
            credential, tenant, matched_by = claimed
            try:
                if credential is not None:
                    identity: Identity | None = yield Identify(credential)
                    if identity is None:
                        return exchange.deny(self._refuse(Reason.IDENTITY_INVALID, 401, "The API key is not valid."))
                    if matched_by and tenant.id != identity.tenant:
                        message = "The tenant header names another tenant than the API key."
                        return exchange.deny(self._refuse(Reason.TENANT_CONFLICT, 400, message))
                    tenant, matched_by = Tenant(identity.tenant, identity), f"key:{identity.id}"
                policy = yield FindPolicy(tenant.id)
            except PortError as failed:
                details = {"port": failed.port}
                message = "Tenants cannot be looked up at the moment."
                return exchange.deny(Deny(self.name, Reason.STORE_UNAVAILABLE, 503, message, details=details))
            if policy is None:
                details = {"tenant": str(tenant.id), "matched_by": matched_by}
                message = "This tenant is not served here."
                return exchange.deny(Deny(self.name, Reason.TENANT_UNKNOWN, 403, message, details=details))
        exchange.put(tenant)
        exchange.put(policy)
        exchange.decisions.append(_allowed(tenant.id, matched_by, policy.name, policy.revision))
        return (yield from proceed(exchange))

    def _claimed(self, headers: Headers) -> tuple[str | None, Tenant, str] | Deny:
        """The credential, if any; the tenant that holds without one, and what named it, ``""`` for nothing."""
        if self._single:
            return None, _ANYBODY, "single"
        credentials, claims = self._read(headers)
        if len(credentials) > 1:
            return self._refuse(Reason.TENANT_CONFLICT, 400, "The request carries several different credentials.")
        if len(claims) > 1:
            return self._refuse(Reason.TENANT_CONFLICT, 400, "The request names several different tenants.")
        tenant, source = _ANYBODY, ""
        if claims:
            ((value, source),) = claims.items()
            try:
                tenant = Tenant(TenantId(value.encode("latin-1").decode()))
            except (BadRequestError, UnicodeDecodeError):
                return self._refuse(Reason.TENANT_INVALID, 400, "The tenant header holds no valid tenant id.")
        if credentials:
            return credentials.pop(), tenant, source
        if source:
            return None, tenant, source
        if not self._required:
            return None, tenant, "anonymous"
        if self._keys:
            return self._refuse(
                Reason.IDENTITY_MISSING,
                401,
                "Send an API key as 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
            )
        return self._refuse(Reason.TENANT_MISSING, 400, "The tenant header is missing.")

    def _read(self, headers: Headers) -> tuple[set[str], dict[str, str]]:
        """The different credentials, and the different tenant ids with their source, in one pass.

        Servers may join repeated lines with commas, so a comma separates here too: no key and no tenant id that
        comes in a header contains one.
        """
        credentials: set[str] = set()
        claims: dict[str, str] = {}
        looked_at = self._looked_at
        for raw_name, raw_value in headers.raw:
            name = raw_name.lower()
            if name not in looked_at:
                continue
            for value in raw_value.decode("latin-1").split(","):
                if name in self._header_names:
                    claims[value.strip(_SPACE)] = self._header_names[name]
                elif name != b"authorization":
                    credentials.add(value.strip(_SPACE))
                else:
                    scheme, _, token = value.strip(_SPACE).partition(" ")
                    if scheme.lower() == "bearer":
                        credentials.add(token.strip(_SPACE))
        return credentials, claims

    def _refuse(self, reason: Reason, status: int, message: str) -> Deny:
        return Deny(self.name, reason, status, message)


@lru_cache(maxsize=4096)
def _allowed(tenant: TenantId, matched_by: str, policy: str, revision: str) -> Allow:
    """The decision on one caller's requests: the same for all of them."""
    return Allow(TenantContext.name, matched_by, {"tenant": str(tenant), "policy": policy, "revision": revision})


def _header_name(source: str) -> str:
    """The header name in ``"header:<name>"``, in lower case. :class:`ConfigurationError` if it can be none."""
    kind, separator, name = source.partition(":")
    if kind != "header" or not separator:
        raise ConfigurationError(f"no tenant comes from {source!r}: write 'api-key' or 'header:<name>'")
    if not _HEADER_NAME.match(name):
        raise ConfigurationError(f"{name!r} is no legal header name: write for example 'header:x-tenant-id'")
    if name.lower().encode() in _API_KEY_HEADERS:
        raise ConfigurationError(f"the header {name!r} carries credentials, not tenant ids")
    return name.lower()
