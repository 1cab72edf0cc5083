"""The typed answer to "may this request go on": ``Allow`` or ``Deny``, with a stable dotted reason."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping


class Reason(StrEnum):
    """Why a request was refused or its response cut. The codes are public and stable."""

    IDENTITY_MISSING = "identity.missing"
    IDENTITY_INVALID = "identity.invalid"
    TENANT_MISSING = "tenant.missing"
    TENANT_INVALID = "tenant.invalid"
    TENANT_CONFLICT = "tenant.conflict"
    TENANT_UNKNOWN = "tenant.unknown"
    ROUTE_UNKNOWN = "route.unknown"
    RATE_EXCEEDED = "rate.exceeded"
    RATE_IMPOSSIBLE = "rate.impossible"
    CONCURRENCY_EXCEEDED = "concurrency.exceeded"
    CONCURRENCY_QUEUE_FULL = "concurrency.queue_full"
    CONCURRENCY_TIMEOUT = "concurrency.timeout"
    CONCURRENCY_DEADLINE = "concurrency.deadline"
    DEADLINE_INVALID = "deadline.invalid"
    BUDGET_EXHAUSTED = "budget.exhausted"
    QUOTA_EXHAUSTED = "quota.exhausted"
    OUTPUT_CEILING = "output.ceiling"
    IDEMPOTENCY_CONFLICT = "idempotency.conflict"
    IDEMPOTENCY_DONE = "idempotency.already_done"
    IDEMPOTENCY_IN_FLIGHT = "idempotency.in_flight"
    IDEMPOTENCY_INVALID = "idempotency.invalid"
    PRICE_UNKNOWN = "price.unknown"
    BODY_TOO_LARGE = "body.too_large"
    BODY_LENGTH_MISMATCH = "body.length_mismatch"
    BODY_MALFORMED = "body.malformed"
    BODY_ENCODED = "body.encoded"
    OUTPUT_UNBOUNDED = "output.unbounded"
    INPUT_UNBOUNDED = "input.unbounded"
    REDACTION_FAILED = "redaction.failed"
    SECRET_FOUND = "secret.found"  # noqa: S105 - no secret
    RESPONSE_UNREADABLE = "response.unreadable"
    STORE_UNAVAILABLE = "store.unavailable"
    SETTLE_FAILED = "settle.failed"


@frozen
class Allow:
    """A layer let the request on, and why (``matched_by``: the rule, bucket or budget that said so)."""

    layer: str
    matched_by: str
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["allow"] = "allow"


@frozen
class Deny:
    """A layer refused the request. ``message`` is for the caller: no internals, no personal data.

    ``retry_after_ms`` is set only where time alone will help, and is never earlier than that. ``details`` go to the
    audit record alone. ``members``, JSON-ready, are told to the caller where a refusal is written as problem details.
    """

    layer: str
    reason: str
    status: int
    message: str
    retry_after_ms: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["deny"] = "deny"
    members: Mapping[str, Any] = field(default_factory=dict)


Decision: TypeAlias = Allow | Deny
