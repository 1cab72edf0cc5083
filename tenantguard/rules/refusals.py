"""How a refusal is written: RFC 9457 problem details, or the error object of the provider that a route speaks.

The provider shapes make the official SDKs raise their own typed errors and obey ``Retry-After`` (delta seconds,
RFC 9110 10.2.3, rounded up) or ``retry-after-ms``, which they read first. ``x-should-retry: false`` keeps them from
retrying what time alone will not mend.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tenantguard.model.decision import Reason
from tenantguard.model.route import Dialect

if TYPE_CHECKING:
    from tenantguard.model.decision import Deny

_TITLES: Final = {
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    409: "Conflict", 413: "Content Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Content",
    429: "Too Many Requests", 502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip

_OPENAI_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 403: "permission_error",
    413: "invalid_request_error", 415: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 415: "invalid_request_error", 429: "rate_limit_error",
    503: "overloaded_error",
}  # fmt: skip

_PROBLEM_TYPES: Final[dict[str, str]] = {
    # draft-ietf-httpapi-ratelimit-headers-11 section "problem types"
    Reason.RATE_EXCEEDED: "https://iana.org/assignments/http-problem-types#quota-exceeded",
}


def render_refusal(denial: Deny, dialect: Dialect, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of ``denial``. Only ``message`` and the code reach the caller."""
    content_type, body = _body(denial, dialect, request_id)
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]
    if denial.retry_after_ms is not None:
        wait_ms = max(1, denial.retry_after_ms)
        headers.append((b"retry-after", str(-(-wait_ms // 1000)).encode()))
        headers.append((b"retry-after-ms", str(wait_ms).encode()))
    else:
        headers.append((b"x-should-retry", b"false"))
    if denial.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="tenantguard"'))
    headers.extend(denial.headers)
    return denial.status, headers, body


def render_error_event(denial: Deny, dialect: Dialect, request_id: str) -> bytes:
    """The server-sent event with which a stream of this dialect ends when it is cut."""
    _, body = _body(denial, dialect, request_id)
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + body + b"\n\n"


def _body(denial: Deny, dialect: Dialect, request_id: str) -> tuple[bytes, bytes]:
    fields: dict[str, Any]
    if dialect is Dialect.OPENAI:
        error_type = _OPENAI_TYPES.get(denial.status, "server_error")
        fields = {
            "error": {"message": denial.message, "type": error_type, "param": None, "code": str(denial.reason)},
        }
        content_type = b"application/json"
    elif dialect is Dialect.ANTHROPIC:
        error_type = _ANTHROPIC_TYPES.get(denial.status, "api_error")
        fields = {
            "type": "error",
            "error": {"type": error_type, "message": denial.message, "code": str(denial.reason)},
            "request_id": request_id,
        }
        content_type = b"application/json"
    else:
        fields = {
            "type": _PROBLEM_TYPES.get(denial.reason, "about:blank"),
            "title": _TITLES.get(denial.status, "Refused"),
            "status": denial.status,
            "detail": denial.message,
            "code": str(denial.reason),
            "instance": f"urn:uuid:{request_id}",
        }
        content_type = b"application/problem+json"
    return content_type, json.dumps(fields, separators=(",", ":")).encode()
