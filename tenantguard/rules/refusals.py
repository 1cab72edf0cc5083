"""How a refusal is written: RFC 9457 problem details, or the error object of the provider that a route speaks.

The provider shapes make the official SDKs raise their own typed errors and obey ``Retry-After`` (delta seconds,
RFC 9110 10.2.3, rounded up) or ``retry-after-ms``, which they read first. ``x-should-retry: false`` keeps them from
retrying what time alone will not mend.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
    401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error",
}  # fmt: skip

_ANTHROPIC_TYPES: Final = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip

_OTHER: Final = "invalid_request_error"
"""What both providers call the caller's other mistakes."""

_PROBLEM_TYPES: Final[dict[str, str]] = {
    # draft-ietf-httpapi-ratelimit-headers-11 section "problem types"; the first has the member violated-policies
    Reason.RATE_EXCEEDED: "https://iana.org/assignments/http-problem-types#quota-exceeded",
    Reason.CONCURRENCY_EXCEEDED: "https://iana.org/assignments/http-problem-types#quota-exceeded",
    Reason.CONCURRENCY_QUEUE_FULL: "https://iana.org/assignments/http-problem-types#quota-exceeded",
    Reason.STORE_UNAVAILABLE: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
    Reason.CONCURRENCY_TIMEOUT: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
    Reason.CONCURRENCY_DEADLINE: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
}


_END: Final = b'"}'
"""What follows the request's id, which is the last thing in a body that has it."""


class _Form(NamedTuple):
    """A refusal's body, without the request's id and what follows it where ``has_id``."""

    content_type: bytes
    body: bytes
    has_id: bool


def render_refusal(denial: Deny, dialect: Dialect, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of ``denial``. Only ``message``, the code and ``members`` reach the caller."""
    content_type, body = _body(denial, dialect, request_id)
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]
    if denial.retry_after_ms is not None:
        wait_ms = max(1, denial.retry_after_ms)
        headers.append((b"retry-after", b"%d" % -(-wait_ms // 1000)))
        headers.append((b"retry-after-ms", b"%d" % wait_ms))
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
    form = _form(dialect, denial.status, str(denial.reason), denial.message)
    if not form.has_id:
        return form.content_type, form.body
    end = _END
    if denial.members and dialect is Dialect.PROBLEM:  # extension members, RFC 9457 3.2
        end = b'",' + json.dumps(dict(denial.members), separators=(",", ":")).encode()[1:]
    return form.content_type, form.body + json.dumps(request_id)[1:-1].encode() + end


@lru_cache(maxsize=256)
def _form(dialect: Dialect, status: int, reason: str, message: str) -> _Form:
    """Everything but the id, written once: refusals come in floods, and are alike."""
    fields: dict[str, Any]
    if dialect is Dialect.OPENAI:
        error_type = _OPENAI_TYPES.get(status, _OTHER if status < 500 else "server_error")
        fields = {"error": {"message": message, "type": error_type, "param": None, "code": reason}}
        content_type = b"application/json"
    elif dialect is Dialect.ANTHROPIC:
        error_type = _ANTHROPIC_TYPES.get(status, _OTHER if status < 500 else "api_error")
        fields = {
            "type": "error",
            "error": {"type": error_type, "message": message, "code": reason},
            "request_id": "",
        }
        content_type = b"application/json"
    else:
        fields = {
            "type": _PROBLEM_TYPES.get(reason, "about:blank"),
            "title": _TITLES.get(status, "Refused"),
            "status": status,
            "detail": message,
            "code": reason,
            "instance": "urn:uuid:",
        }
        content_type = b"application/problem+json"
    body = json.dumps(fields, separators=(",", ":")).encode()
    if dialect is Dialect.OPENAI:
        return _Form(content_type, body, has_id=False)
    return _Form(content_type, body.removesuffix(_END), has_id=True)
