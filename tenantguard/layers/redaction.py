"""The redaction layer: personal data out of the request before the application sees a byte, and out of the response.

What is redacted: the strings of JSON bodies (values, not keys and not numbers), plain text responses, and event
streams while they stream. A body that cannot be read (another type of text, an unknown charset, a content encoding)
is refused; pictures, sound, archives and the like pass by their type, and so do such values in base64 inside of JSON.
The query string, the path and headers are not redacted. Whatever fails, nothing raw leaves: a request is refused, a
response cut.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, Protocol

from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Cut, Unreadable
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.route import Dialect
from tenantguard.model.sections import RedactRequest, RedactResponse, RedactSection
from tenantguard.model.tenant import Tenant
from tenantguard.rules.media import EVENT_STREAM, media_of
from tenantguard.rules.placeholders import Vault, tenant_key
from tenantguard.rules.redaction.bodies import JSON_BYTES_MAX, JsonBody, NoBody, TextBody
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.json_text import ANY_JSON, LLM_JSON, rewrite_json
from tenantguard.rules.redaction.rule import MalformedTextError, RequestMask, ResponseScrub
from tenantguard.rules.refusals import render_error_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Request, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Detector
    from tenantguard.rules.media import Media
    from tenantguard.rules.redaction.json_text import Shape

_NAME: Final = "redaction"
_PLAIN: Final = frozenset({"text/plain", "text/markdown", "text/csv"})
_BINARY: Final = re.compile(
    r"(?!image/svg)(?:image|audio|video|font)/[^/]+|application/(?:octet-stream|pdf|zip|gzip|x-tar|wasm)",
)
_WORK: Final = 64
"""A body counts as so many times its size when it is decided where to search it: a byte of it can take 80 us."""

_TENANTS: Final = 1024
"""Of so many tenants the derived key is kept: deriving it costs 2 us."""

_DESCRIBING: Final = ("content-md5", "digest", "content-digest", "repr-digest")


class _Rewriting(Protocol):
    def feed(self, chunk: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Redaction:
    """Redact requests and responses as the policy's :class:`~tenantguard.model.sections.RedactSection` says.

    ``detector_for`` gives the detector of a section for one request, or for its response; it is called for each that
    has text, so it looks up what was built with the guard. ``key`` (at least 32 bytes, the same in every process) is
    what tenants' placeholders are derived from. A JSON request has at most ``request_limit`` bytes, a JSON response
    at most ``response_limit``.
    """

    name = _NAME
    requires = (Tenant, Policy)

    def __init__(
        self,
        detector_for: Callable[[RedactSection], Detector],
        key: bytes,
        *,
        request_limit: int = BODY_LIMIT_BYTES,
        response_limit: int = JSON_BYTES_MAX,
    ) -> None:
        tenant_key(key, "")  # refuses a short key now
        self._detector_for = detector_for
        self._key_of = lru_cache(maxsize=_TENANTS)(partial(tenant_key, key))
        self._request_limit = request_limit
        self._response_limit = response_limit

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Mask the request before ``proceed``, add the response's transform after it."""
        section = exchange.get(Policy).section(RedactSection)
        if section is None or (section.request is RedactRequest.OFF and section.response is RedactResponse.OFF):
            return (yield from proceed(exchange))
        if exchange.request.protocol == "websocket":
            message = "This tenant's messages are redacted, which is not possible over a WebSocket."
            return exchange.deny(Deny(_NAME, Reason.REDACTION_FAILED, 403, message))
        vault = Vault(self._key_of(exchange.get(Tenant).id))
        if section.request is RedactRequest.REPLACE:
            denial = yield from self._mask(exchange, section, vault)
            if vault.count:
                exchange.observe(lambda _: vault.erase())
            if denial is not None:
                return exchange.deny(denial)
        if section.response is RedactResponse.OFF:
            return (yield from proceed(exchange))
        exchange.request.headers.remove("accept-encoding", "range", "if-range")
        response = yield from proceed(exchange)
        return (yield from self._scrub(exchange, response, section, vault))

    def _mask(self, exchange: Exchange, section: RedactSection, vault: Vault) -> Flow[Deny | None]:
        request = exchange.request
        content = media_of(request.headers.raw)
        if content.problem is None and _BINARY.fullmatch(content.type) and not _is_model_call(exchange):
            exchange.allow(_NAME, "request.binary")
            return None
        body = yield from ReadBody(self._request_limit)
        if isinstance(body, Unreadable):
            return Deny(_NAME, body.reason, body.status, body.message)
        if not body.data:
            exchange.allow(_NAME, "request", replaced={})
            return None
        if content.problem is not None or not (content.type == "" or content.is_json):
            problem = content.problem or "is of a type that cannot be redacted: send JSON"
            return Deny(_NAME, Reason.BODY_ENCODED, 415, f"The request body {problem}.")
        escape = section.response is RedactResponse.RESTORE
        rule = RequestMask(self._detector_for(section).detect, vault, escape=escape)
        shape = LLM_JSON if _is_model_call(exchange) else ANY_JSON
        masked = yield from compute(partial(_masked, body.data, rule, shape), len(body.data) * _WORK)
        if isinstance(masked, Deny):
            return masked
        if masked != body.data:
            request.body = masked
            request.headers.remove(*_DESCRIBING)
        exchange.allow(_NAME, "request", replaced=dict(rule.replaced))
        return None

    def _scrub(self, exchange: Exchange, response: Response, section: RedactSection, vault: Vault) -> Flow[Response]:
        if _is_empty(exchange.request, response):
            return response
        if response.body is not None and exchange.decisions and exchange.decisions[-1].kind == "deny":
            return response  # a refusal of a layer further in
        content = media_of(response.headers.raw)
        readable = content.problem is None and response.status != 206
        if readable and _BINARY.fullmatch(content.type):
            return response
        detect = self._detector_for(section).detect  # a caller cannot use up what the response needs
        rule = ResponseScrub(detect, vault, restore=section.response is RedactResponse.RESTORE)
        body = self._body(content, rule, exchange) if readable else None
        if body is None:
            return exchange.deny(_failure(Reason.RESPONSE_UNREADABLE))
        transform = _FailClosed(body, exchange, stream=isinstance(body, EventStream))
        if response.body is None:
            exchange.resolve(lambda _: exchange.allow(_NAME, "response", replaced=dict(rule.replaced)))
            response.transforms.append(transform)
            return response
        whole = yield from compute(partial(transform.whole, response.body), len(response.body) * _WORK)
        if isinstance(whole, Cut):
            return exchange.deny(_failure(Reason(whole.reason)))
        response.body = whole
        response.headers.remove("etag", *_DESCRIBING)
        response.headers.set("content-length", str(len(whole)))
        exchange.allow(_NAME, "response", replaced=dict(rule.replaced))
        return response

    def _body(self, content: Media, rule: ResponseScrub, exchange: Exchange) -> _Rewriting | None:
        """How a body of this type is redacted; None if it cannot be."""
        if content.type == "":
            return NoBody()
        if content.is_json:
            return JsonBody(rule, LLM_JSON if _is_model_call(exchange) else ANY_JSON, self._response_limit)
        if content.type == EVENT_STREAM:
            return EventStream(rule, protocol=_is_model_call(exchange))
        return TextBody(rule) if content.type in _PLAIN else None


class _FailClosed:
    """A body's rewriting as a transform. Whatever it raises, the response ends there and nothing raw leaves.

    An event stream ends with the error event of its dialect, anything else by closing the connection.
    """

    __slots__ = ("_body", "_exchange", "_stream")
    rewrites = True
    work = _WORK

    def __init__(self, body: _Rewriting, exchange: Exchange, *, stream: bool) -> None:
        self._body = body
        self._exchange = exchange
        self._stream = stream

    def feed(self, chunk: bytes) -> bytes | Cut:
        """Take the next bytes; return what may leave."""
        try:
            return self._body.feed(chunk)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
            return self._cut(failure)

    def finish(self) -> bytes | Cut:
        """The body has ended; return the rest of it."""
        try:
            return self._body.finish()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
            return self._cut(failure)

    def whole(self, data: bytes) -> bytes | Cut:
        """A whole body at once."""
        try:
            return self._body.feed(data) + self._body.finish()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
            return self._cut(failure)

    def _cut(self, failure: Exception) -> Cut:
        """Of any failure the reason is told, never the text, which may be personal."""
        malformed = isinstance(failure, MalformedTextError)
        reason = Reason.RESPONSE_UNREADABLE if malformed else Reason.REDACTION_FAILED
        if not self._stream:
            return Cut(reason)
        exchange = self._exchange
        return Cut(reason, render_error_event(_failure(reason), exchange.dialect, exchange.id))


def _masked(data: bytes, rule: RequestMask, shape: Shape) -> bytes | Deny:
    try:
        return rewrite_json(data, rule, shape)
    except MalformedTextError as error:
        return Deny(_NAME, Reason.BODY_MALFORMED, 400, f"The request body cannot be read: {error}.")
    except Exception as error:  # noqa: BLE001 - its text may be personal, and is told to nobody
        message = "The request could not be redacted, so it was not passed on."
        return Deny(_NAME, Reason.REDACTION_FAILED, 503, message, details={"error": type(error).__name__})


def _is_empty(request: Request, response: Response) -> bool:
    """Whether the response has no body, by HTTP or by its own word."""
    if request.method == "HEAD" or response.status in {204, 304} or response.status < 200:
        return True
    return response.headers.get("content-length") == "0" if response.body is None else not response.body


def _failure(reason: Reason) -> Deny:
    problem = "is in a form that cannot" if reason is Reason.RESPONSE_UNREADABLE else "could not"
    return Deny(_NAME, reason, 502, f"The response {problem} be redacted, so it was not passed on.")


def _is_model_call(exchange: Exchange) -> bool:
    return exchange.route.usage is not None or exchange.dialect is not Dialect.PROBLEM
