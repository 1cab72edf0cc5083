"""The redaction layer: personal data out of the request before the application sees a byte, and out of the response.

A request goes through once: its head where the policy says so, then its body, decoded and read whole. The response is
rewritten as it streams: first what the application wrote is replaced, then the request's own values are put back. The
messages of a WebSocket are rewritten each by itself. What cannot be redacted is refused, and whatever fails, nothing
raw leaves, unless the policy says ``on_error = "open"``.
"""

from __future__ import annotations

from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tenantguard.errors import ConfigurationError
from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Body, Cut, Unreadable
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.policy import Policy
from tenantguard.model.redact_section import Direction, Find, RedactSection, Restore
from tenantguard.model.route import Dialect
from tenantguard.model.tenant import Tenant
from tenantguard.rules.encodings import decoding
from tenantguard.rules.media import content_of
from tenantguard.rules.placeholders import Vault, tenant_key
from tenantguard.rules.redaction.bodies import JSON_BYTES_MAX, Passing, Refused, WholeBody, binary_kind, body_for
from tenantguard.rules.redaction.buffered import NAMES_WORK, Buffered, Naming, with_names
from tenantguard.rules.redaction.events import EventStream
from tenantguard.rules.redaction.frames import MessageText
from tenantguard.rules.redaction.heads import redact_path, redact_query, redact_raw_path, redact_value
from tenantguard.rules.redaction.json_lines import JsonArray, JsonLines
from tenantguard.rules.redaction.json_text import ANY_JSON, LLM_JSON
from tenantguard.rules.redaction.plan import Plan
from tenantguard.rules.redaction.text.operators import TenantKeys
from tenantguard.rules.redaction.text.rule import (
    Identifiers,
    MalformedTextError,
    RequestMask,
    ResponseScrub,
    SecretFoundError,
)
from tenantguard.rules.refusals import render_error_event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Headers, Request, Response
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Detector
    from tenantguard.rules.encodings import Decoder, Decompressor
    from tenantguard.rules.media import Content
    from tenantguard.rules.redaction.multipart import Rewriting
    from tenantguard.rules.redaction.text.operators import Cipher
    from tenantguard.rules.redaction.text.rule import Detecting, Replacing, TextRule

_NAME: Final = "redaction"
_WORK: Final = 8
"""A body counts as so many times its size when it is decided where to search it: a byte of it can take 5 us."""

_LONG: Final = 1 << 30
"""The size of what takes seconds: it is never done where requests are served."""

_TENANTS: Final = 1024
"""Of so many tenants the derived keys are kept: deriving one costs 2 us."""

_PLANS: Final = 4096
"""So many directions are kept ready: those of all policies that are served."""

_SOCKET_VALUES: Final = 65_536
"""So many values of a WebSocket can be restored: it may stay open for ever."""

_WHOLE: Final = (WholeBody, JsonArray)
_DESCRIBING: Final = ("content-md5", "digest", "content-digest", "repr-digest")
_NO_FUNCTIONS: Final[Mapping[str, Any]] = MappingProxyType({})
_UNREADY: Final = Deny(
    _NAME, Reason.REDACTION_FAILED, 503, "What the policy of this tenant says of redaction cannot be done."
)


class Redaction:
    """Redact requests and responses as the policy's :class:`~tenantguard.model.redact_section.RedactSection` says.

    ``detector_for`` gives what finds a :attr:`~tenantguard.model.redact_section.Find.searched` in one body; it is
    called for each, so it looks up what :meth:`prepare` had it build. ``key`` (at least 32 bytes, the same in every
    process) is what tenants' placeholders and hashes are derived from. ``functions`` are those that custom operators
    name, ``cipher_for`` makes the cipher of a tenant by its id, and ``decoders`` undo encodings beside gzip and
    deflate. A request has at most ``request_limit`` bytes, a response that must be whole ``response_limit``, where
    the policy says nothing else.
    """

    name = _NAME
    requires = (Tenant, Policy)

    def __init__(
        self,
        detector_for: Callable[[Find], Detector],
        key: bytes,
        *,
        request_limit: int = BODY_LIMIT_BYTES,
        response_limit: int = JSON_BYTES_MAX,
        functions: Mapping[str, Callable[[str], str]] = _NO_FUNCTIONS,
        cipher_for: Callable[[str], Cipher] | None = None,
        decoders: Mapping[str, Callable[[], Decompressor]] = _NO_FUNCTIONS,
    ) -> None:
        tenant_key(key, "")  # refuses a short key now
        self._detector_for = detector_for
        self._ring = _KeyRing(key, cipher_for)
        self._encrypts = cipher_for is not None
        self._request_limit = request_limit
        self._response_limit = response_limit
        self._functions = functions
        self._decoders = decoders
        self._plan = lru_cache(maxsize=_PLANS)(self._compile)
        self._ways: dict[int, _Ways] = {}

    def prepare(self, section: RedactSection) -> None:
        """Build all that the section needs, so that no request waits for it.

        Raises :class:`ConfigurationError` for what cannot be.
        """
        for one in (section, *(route for _, route in section.routes)):
            for direction, limit in ((one.request, self._request_limit), (one.response, self._response_limit)):
                if direction is not None:
                    self._make_ready(self._plan(direction, limit))

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Mask the request before ``proceed``, add the response's rewriting after it."""
        section = exchange.get(Policy).section(RedactSection)
        section = section.of(exchange.route.name) if section is not None else None
        if section is None or section.off:
            return (yield from proceed(exchange))
        ways = self._ways_of(section)
        for plan in ways.plans:
            if not plan.ready and not (yield from compute(partial(self._try_ready, plan), _LONG)):
                return exchange.deny(_UNREADY)
        walk = _Walk(exchange, ways, self._ring, self._identifiers)
        if ways.inward is not None:
            denial = yield from self._mask(walk, ways.inward)
            if walk.remembers:
                vault = walk.vault
                exchange.observe(lambda _: vault.erase())
            if denial is not None:
                return exchange.deny(denial)
        if ways.outward is not None:
            exchange.request.headers.remove("accept-encoding", "range", "if-range")
        response = yield from proceed(exchange)
        if response.status == 101 and response.body is None and exchange.request.protocol == "websocket":
            return self._join(walk, response)
        if ways.outward is None:
            return response
        return (yield from self._scrub(walk, ways.outward, response))

    # what is ready

    def _ways_of(self, section: RedactSection) -> _Ways:
        """The section's plans. They are looked up by the very object first: to hash long lists takes long."""
        ways = self._ways.get(id(section))
        if ways is None:
            if len(self._ways) >= _PLANS:
                self._ways.clear()
            inward = self._plan(section.request, self._request_limit) if section.request is not None else None
            outward = self._plan(section.response, self._response_limit) if section.response is not None else None
            ways = self._ways[id(section)] = _Ways.of(section, inward, outward)
        return ways

    def _compile(self, direction: Direction, limit: int) -> Plan:
        plan = Plan(direction, self._functions, limit)
        if plan.encrypts and not self._encrypts:
            raise ConfigurationError("redact: the operator 'encrypt' needs a cipher, and there is none")
        return plan

    def _detector(self, plan: Plan) -> Detecting:
        return plan.around(self._detector_for(plan.find))

    def _identifiers(self, plan: Plan) -> Identifiers | None:
        find = plan.identifiers
        return plan.identifying(lambda: self._detector_for(find)) if find is not None else None

    def _make_ready(self, plan: Plan) -> None:
        """Build what the plan needs (seconds); :class:`ConfigurationError` for what cannot be."""
        detector = self._detector_for(plan.find)
        if plan.find.ner and not isinstance(detector, Naming):
            raise ConfigurationError("redact: there is a language model, and the detector finds no names")
        if plan.identifiers is not None:
            self._detector_for(plan.identifiers)
        plan.ready = True

    def _try_ready(self, plan: Plan) -> bool:
        """Whether the plan is ready: one of a policy that came while requests are served is made so, once."""
        if plan.ready is None:
            try:
                self._make_ready(plan)
            except ConfigurationError:
                plan.ready = False
        return bool(plan.ready)

    # the request

    def _mask(self, walk: _Walk, plan: Plan) -> Flow[Deny | None]:
        exchange = walk.exchange
        request = exchange.request
        content = content_of(request.headers.raw)
        is_socket = request.protocol == "websocket"
        read: Body | Unreadable | None = Body(b"") if is_socket else None
        if read is None and not content.type:  # most requests without a body name no type
            read = yield ReadBody(plan.limit_bytes)
        if isinstance(read, Body) and not read.data and not plan.reads_heads:
            if not is_socket:
                exchange.allow(_NAME, "request", replaced={})
            return None
        detector = self._detector_for(plan.find)
        rule = walk.mask(plan.around(detector))
        body: Rewriting | None = None
        decoder: Decoder | None = None
        is_call = _is_model_call(exchange)
        terms = plan.terms(model_call=is_call)
        found = body_for(content, rule, terms)
        if read is None and isinstance(found, Passing) and not is_call:
            read = Body(b"")  # it passes unread
        if read is None:
            read = yield ReadBody(plan.limit_bytes)
        if isinstance(read, Unreadable):
            return Deny(_NAME, read.reason, read.status, read.message)
        if read.data:
            if isinstance(found, Passing) and is_call:
                found = Refused("is of a type that cannot be redacted: send JSON")
            if isinstance(found, Refused):
                return self._unreadable(walk, plan, found.problem)
            if not isinstance(found, Passing):
                decoder = self._decoder(content, plan.limit_bytes)
                if content.encodings and decoder is None:
                    return self._unreadable(walk, plan, "is encoded in a way that cannot be read: send it plain")
                body = found
                if plan.find.ner:
                    rule, body = with_names(walk.mask, plan, detector, content, terms)
        if body is not None or plan.reads_heads:
            work = partial(_masked, request, decoder, body, read.data, rule, plan)
            masked = yield from compute(work, len(read.data) * _work(body))
            if isinstance(masked, Deny):
                return masked
            if isinstance(masked, _Failed):
                exchange.allow(_NAME, "request.open", error=masked.kind, **_counts(rule))
                return None
            masked.write(request)
        exchange.allow(_NAME, "request", **_counts(rule))
        return None

    def _unreadable(self, walk: _Walk, plan: Plan, problem: str) -> Deny | None:
        if plan.passes_unreadable:
            walk.exchange.allow(_NAME, "request.open", error=str(Reason.BODY_ENCODED))
            return None
        return Deny(_NAME, Reason.BODY_ENCODED, 415, f"The request body {problem}.")

    def _decoder(self, content: Content, limit: int | None) -> Decoder | None:
        return decoding(content.encodings, self._decoders, limit=limit) if content.encodings else None

    # the response

    def _scrub(self, walk: _Walk, plan: Plan, response: Response) -> Flow[Response]:
        exchange = walk.exchange
        if response.body is not None and exchange.decisions and exchange.decisions[-1].kind == "deny":
            return response  # a refusal of a layer further in
        is_empty = _is_empty(exchange.request, response)
        if is_empty and not plan.direction.headers:
            return response
        content = content_of(response.headers.raw)
        if not plan.direction.headers and response.status != 206 and (kind := binary_kind(content)):
            exchange.allow(_NAME, "response", replaced={}, skipped={kind: 1})
            return response
        detector = self._detector_for(plan.find)  # a caller cannot use up what the response needs
        replacing = plan.replacing(walk.keys)
        rule = walk.scrub(plan.around(detector), replacing)
        if plan.direction.headers and (failure := _scrub_headers(response.headers, rule, plan)) is not None:
            return exchange.deny(failure)
        if is_empty:
            exchange.allow(_NAME, "response", **_counts(rule))
            return response
        decoder = self._decoder(content, None)
        readable = response.status != 206 and not (content.encodings and decoder is None)
        terms = plan.terms(model_call=_is_model_call(exchange))
        found = body_for(content, rule, terms)
        if isinstance(found, Passing) and response.status != 206:
            exchange.allow(_NAME, "response", **_counts(rule))
            return response
        if not readable or isinstance(found, (Passing, Refused)):
            if plan.passes_unreadable:
                exchange.allow(_NAME, "response.open", error=str(Reason.RESPONSE_UNREADABLE))
                return response
            return exchange.deny(_failure(Reason.RESPONSE_UNREADABLE))
        is_whole = response.body is not None or isinstance(found, _WHOLE)
        if plan.find.ner and (is_whole or plan.direction.buffer):
            rule, found = with_names(partial(walk.scrub, replacing=replacing), plan, detector, content, terms)
        transform = _FailClosed(decoder, found, exchange, plan)
        if decoder is not None:
            response.headers.remove("content-encoding")
        if response.body is None:
            exchange.resolve(lambda _: _tell(exchange, transform, rule))
            response.transforms.append(transform)
            return response
        whole = yield from compute(partial(transform.whole, response.body), len(response.body) * transform.work)
        if isinstance(whole, Cut):
            return exchange.deny(transform.failure or _failure(Reason(whole.reason)))
        response.body = whole
        response.headers.remove("etag", *_DESCRIBING)
        response.headers.set("content-length", str(len(whole)))
        _tell(exchange, transform, rule)
        return response

    # a WebSocket

    def _join(self, walk: _Walk, response: Response) -> Response:
        frames = _SocketFrames(walk, self._detector)
        if (refusal := frames.head(response.headers)) is not None:
            return walk.exchange.deny(refusal)
        response.frames = (*response.frames, frames)
        walk.exchange.resolve(lambda _: frames.tell())
        return response


class _Ways(NamedTuple):
    """A section's two directions made ready; the section is kept, so that its id stays taken."""

    section: RedactSection
    inward: Plan | None
    outward: Plan | None
    plans: tuple[Plan, ...]
    encrypts: bool
    escapes: bool
    restores: bool
    restores_arguments: bool

    @classmethod
    def of(cls, section: RedactSection, inward: Plan | None, outward: Plan | None) -> _Ways:
        """Those of a section with these plans."""
        plans = tuple(plan for plan in (inward, outward) if plan is not None)
        encrypts = any(plan.encrypts for plan in plans)
        restore = section.restore
        text, arguments = Restore.TEXT in restore, Restore.ARGUMENTS in restore
        return cls(section, inward, outward, plans, encrypts, bool(restore), text, arguments)


class _KeyRing:
    """What is derived from the guard's key for tenants; deriving costs, so that of the latest is kept."""

    def __init__(self, key: bytes, cipher_for: Callable[[str], Cipher] | None) -> None:
        self.key_of = lru_cache(maxsize=_TENANTS)(partial(tenant_key, key))
        self.keys_of = lru_cache(maxsize=_TENANTS)(self._keys)
        self._cipher_for = cipher_for

    def _keys(self, tenant: str, encrypts: bool) -> TenantKeys:  # noqa: FBT001 - a key of a cache
        cipher = self._cipher_for(tenant) if encrypts and self._cipher_for is not None else None
        return TenantKeys.of(self.key_of(tenant), cipher)


class _Walk:
    """One exchange on its way in and out. What only a text needs is made with the first one: many have none."""

    __slots__ = ("_identifiers", "_keys", "_ring", "_vault", "exchange", "ways")

    def __init__(
        self,
        exchange: Exchange,
        ways: _Ways,
        ring: _KeyRing,
        identifiers: Callable[[Plan], Identifiers | None],
    ) -> None:
        self.exchange = exchange
        self.ways = ways
        self._ring = ring
        self._identifiers = identifiers
        self._vault: Vault | None = None
        self._keys: TenantKeys | None = None

    @property
    def vault(self) -> Vault:
        """What can be restored of this exchange."""
        if self._vault is None:
            most = _SOCKET_VALUES if self.exchange.request.protocol == "websocket" else None
            self._vault = Vault(self._ring.key_of(str(self.exchange.get(Tenant).id)), most)
        return self._vault

    @property
    def remembers(self) -> bool:
        """Whether there are values to forget once the exchange is over, or may be."""
        return bool(self._vault is not None and self._vault.count) or self.exchange.request.protocol == "websocket"

    @property
    def keys(self) -> TenantKeys:
        """What the tenant's values are hashed and encrypted with."""
        if self._keys is None:
            self._keys = self._ring.keys_of(str(self.exchange.get(Tenant).id), self.ways.encrypts)
        return self._keys

    def mask(self, detector: Detecting, replacing: Replacing | None = None) -> RequestMask:
        plan = self.ways.inward
        assert plan is not None
        return RequestMask(
            detector,
            self.vault,
            escape=self.ways.escapes,
            replacing=replacing if replacing is not None else plan.replacing(self.keys),
            identifiers=self._identifiers(plan),
        )

    def scrub(self, detector: Detecting, replacing: Replacing | None = None) -> ResponseScrub:
        plan = self.ways.outward
        assert plan is not None
        return ResponseScrub(
            detector,
            self.vault,
            restore=self.ways.restores,
            restore_arguments=self.ways.restores_arguments,
            replacing=replacing if replacing is not None else plan.replacing(self.keys),
            identifiers=self._identifiers(plan),
        )


class _Failed(NamedTuple):
    """Redaction failed, and the policy lets everything pass as it is."""

    kind: str


class _Masked(NamedTuple):
    """What a request becomes; None where a part of it stays."""

    body: bytes | None
    headers: dict[str, list[str]]
    query: bytes
    path: str
    raw_path: bytes | None

    def write(self, request: Request) -> None:
        """Put it in place of what the caller sent."""
        if self.body is not None:
            request.body = self.body
            request.headers.remove(*_DESCRIBING)
        for name, values in self.headers.items():
            request.headers.remove(name)
            for value in values:
                request.headers.add(name, value)
        request.query, request.path, request.raw_path = self.query, self.path, self.raw_path


class _FailClosed:
    """A body's rewriting as a transform. Whatever it raises, the response ends there and nothing raw leaves.

    A stream ends with the error event or line of its protocol, anything else by closing the connection. Where the
    plan says ``open``, a response that fails before anything of it has left passes as it is; later it ends all the
    same, since what was replaced and what was held back cannot be told apart any more. So does one that cannot be
    decoded.
    """

    __slots__ = ("_body", "_decoder", "_exchange", "_open", "_plain", "_plan", "_raw", "failed", "failure", "work")
    rewrites = True

    def __init__(self, decoder: Decoder | None, body: Rewriting, exchange: Exchange, plan: Plan) -> None:
        self._decoder = decoder
        self._body = body
        self._exchange = exchange
        self._plan = plan
        self.work = _work(body)
        self._raw: list[bytes] | None = [] if plan.fails_open else None
        self._open = False
        self._plain = decoder is None and self._raw is None
        self.failed = ""
        self.failure: Deny | None = None

    def feed(self, chunk: bytes) -> bytes | Cut:
        """Take the next bytes; return what may leave."""
        if self._plain and chunk:
            try:
                return self._body.feed(chunk)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
                return self._end(failure)
        return self._through(chunk, last=False)

    def finish(self) -> bytes | Cut:
        """The body has ended; return the rest of it."""
        return self._through(b"", last=True)

    def whole(self, data: bytes) -> bytes | Cut:
        """A whole body at once."""
        return self._through(data, last=True)

    def _through(self, chunk: bytes, *, last: bool) -> bytes | Cut:
        try:
            if self._decoder is not None:
                chunk = self._decoder.feed(chunk) + (self._decoder.finish() if last else b"")
        except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
            self._raw = None
            return self._end(failure)
        if self._open:
            return chunk
        if self._raw is not None:
            self._raw.append(chunk)
        try:
            out = (self._body.feed(chunk) if chunk else b"") + (self._body.finish() if last else b"")
        except Exception as failure:  # noqa: BLE001 - whatever it is, the response ends
            return self._end(failure)
        if out:
            self._raw = None
        return out

    def _end(self, failure: Exception) -> bytes | Cut:
        """Of any failure the kind is told, never the text, which may be personal."""
        self.failed = type(failure).__name__
        exchange = self._exchange
        malformed = isinstance(failure, MalformedTextError)
        if isinstance(failure, SecretFoundError):
            self.failure = _secret_in_response(failure)
        elif self._raw is not None and (self._plan.passes_unreadable or not malformed):
            raw, self._raw, self._open = b"".join(self._raw), None, True
            return raw
        else:
            self.failure = _failure(Reason.RESPONSE_UNREADABLE if malformed else Reason.REDACTION_FAILED)
        said = b""
        body = self._body.second if isinstance(self._body, Buffered) else self._body
        if isinstance(body, EventStream | JsonLines | JsonArray):
            said = body.failure(str(self.failure.reason), self.failure.message)
        if not said and isinstance(body, EventStream):
            said = render_error_event(self.failure, exchange.dialect, exchange.id)
        return Cut(self.failure.reason, said)


class _SocketFrames:
    """The messages of a WebSocket, each redacted by itself with a detector of its own, so that none is too much."""

    __slots__ = ("_detector", "_inward", "_outward", "_shape", "_walk")
    work = _WORK

    def __init__(self, walk: _Walk, detector: Callable[[Plan], Detecting]) -> None:
        self._walk = walk
        self._detector = detector
        self._shape = LLM_JSON if _is_model_call(walk.exchange) else ANY_JSON
        ways = walk.ways
        self._inward = ways.inward.replacing(walk.keys) if ways.inward is not None else None
        self._outward = ways.outward.replacing(walk.keys) if ways.outward is not None else None

    def head(self, headers: Headers) -> Deny | None:
        """Rewrite the headers with which the socket is accepted; what cannot be is a reason not to accept it."""
        plan = self._walk.ways.outward
        if plan is None or not plan.direction.headers:
            return None
        return _scrub_headers(headers, self._walk.scrub(self._detector(plan), self._outward), plan)

    def inbound(self, message: str | bytes) -> str | bytes | Cut:
        """What the application receives."""
        plan = self._walk.ways.inward
        if plan is None:
            return message
        return self._through(message, plan, lambda: self._walk.mask(self._detector(plan), self._inward))

    def outbound(self, message: str | bytes) -> str | bytes | Cut:
        """What the client receives."""
        plan = self._walk.ways.outward
        if plan is None:
            return message
        return self._through(message, plan, lambda: self._walk.scrub(self._detector(plan), self._outward))

    def _through(self, message: str | bytes, plan: Plan, rule: Callable[[], TextRule]) -> str | bytes | Cut:
        try:
            scope = plan.terms(model_call=False).whole
            return MessageText(rule(), self._shape, plan.direction.unknown, scope).message(message)
        except SecretFoundError:
            return Cut(Reason.SECRET_FOUND, code=_POLICY_VIOLATION)
        except Exception as failure:  # noqa: BLE001 - whatever it is, nothing raw passes
            malformed = isinstance(failure, MalformedTextError)
            if plan.passes_unreadable or (plan.fails_open and not malformed):
                return message
            if malformed:
                return Cut(Reason.BODY_MALFORMED, code=_UNSUPPORTED_DATA)
            return Cut(Reason.REDACTION_FAILED)

    def tell(self) -> None:
        """Record what was replaced both ways."""
        for name, replacing in (("messages.in", self._inward), ("messages.out", self._outward)):
            if replacing is not None:
                kept = {"kept": dict(replacing.kept)} if replacing.kept else {}
                self._walk.exchange.allow(_NAME, name, replaced=dict(replacing.replaced), **kept)


_UNSUPPORTED_DATA: Final = 1003  # RFC 6455 7.4.1
_POLICY_VIOLATION: Final = 1008


def _masked(
    request: Request, decoder: Decoder | None, body: Rewriting | None, data: bytes, rule: RequestMask, plan: Plan
) -> _Masked | Deny | _Failed:
    """The request rewritten. It is changed by whoever waits for this, since this may run elsewhere."""
    place = "head"
    try:
        direction = plan.direction
        headers: dict[str, list[str]] = {}
        for name in direction.headers:
            place = f"header {name}"
            values = request.headers.all(name)
            new = [redact_value(value.encode("latin-1"), rule).decode("latin-1") for value in values]
            if new != values:
                headers[name] = new
        place = "query"
        query = redact_query(request.query, rule, plan.scope) if direction.query else request.query
        place = "path"
        path, raw_path = _masked_path(request, rule) if direction.path else (request.path, request.raw_path)
        place = "body"
        written = data
        if body is not None:
            plain = data if decoder is None else decoder.feed(data) + decoder.finish()
            written = body.feed(plain) + body.finish()
    except SecretFoundError as found:
        return _secret_in_request(found, place)
    except Exception as error:  # noqa: BLE001 - its text may be personal, and is told to nobody
        malformed = isinstance(error, MalformedTextError)
        if plan.passes_unreadable or (plan.fails_open and not malformed):
            return _Failed(type(error).__name__)
        if malformed:
            return Deny(_NAME, Reason.BODY_MALFORMED, 400, f"The request {place} cannot be read: {error}.")
        message = "The request could not be redacted, so it was not passed on."
        return Deny(_NAME, Reason.REDACTION_FAILED, 503, message, details={"error": type(error).__name__})
    return _Masked(written if written != data else None, headers, query, path, raw_path)


def _work(body: Rewriting | None) -> int:
    return NAMES_WORK if isinstance(body, Buffered) else _WORK


def _masked_path(request: Request, rule: TextRule) -> tuple[str, bytes | None]:
    if request.raw_path is None:
        return redact_path(request.path, rule), None
    raw = redact_raw_path(request.raw_path, rule)
    if raw == request.raw_path:
        return request.path, raw
    return unquote_to_bytes(raw).decode("utf-8", "replace"), raw


def _scrub_headers(headers: Headers, rule: ResponseScrub, plan: Plan) -> Deny | None:
    """Rewrite the headers that the plan names; what cannot be is a reason to send nothing."""
    try:
        for name in plan.direction.headers:
            values = headers.all(name)
            new = [redact_value(value.encode("latin-1"), rule).decode("latin-1") for value in values]
            if new != values:
                headers.remove(name)
                for value in new:
                    headers.add(name, value)
    except SecretFoundError as found:
        return _secret_in_response(found)
    except Exception:  # noqa: BLE001 - its text may be personal, and is told to nobody
        return None if plan.fails_open else _failure(Reason.REDACTION_FAILED)
    return None


def _tell(exchange: Exchange, transform: _FailClosed, rule: ResponseScrub) -> None:
    """Record what became of a response: that it was redacted, that it passed in spite of a failure, or a secret."""
    if transform.failure is not None:
        if transform.failure.reason == Reason.SECRET_FOUND:
            exchange.decisions.append(transform.failure)
        return
    if transform.failed:
        exchange.allow(_NAME, "response.open", error=transform.failed, **_counts(rule))
    else:
        exchange.allow(_NAME, "response", **_counts(rule))


def _counts(rule: RequestMask | ResponseScrub) -> dict[str, Any]:
    """What was replaced, by entity; and what stayed, was not looked at, or could not be, where there is such."""
    counts: dict[str, Any] = {"replaced": dict(rule.replaced)}
    if rule.kept:
        counts["kept"] = dict(rule.kept)
    if rule.skipped:
        counts["skipped"] = dict(rule.skipped)
    if rule.passed:
        counts["passed"] = rule.passed
    return counts


def _secret_in_request(found: SecretFoundError, place: str) -> Deny:
    where = " ".join(part for part in (place, found.location) if part)
    message = f"The request holds a secret ({found.kind}, {where}), which may not be sent here."
    return Deny(_NAME, Reason.SECRET_FOUND, 403, message, details={"secret": found.kind, "location": where})


def _secret_in_response(found: SecretFoundError) -> Deny:
    message = f"The response holds a secret ({found.kind}), so it was not passed on."
    details = {"secret": found.kind, "location": found.location or "response"}
    return Deny(_NAME, Reason.SECRET_FOUND, 502, message, details=details)


def _is_empty(request: Request, response: Response) -> bool:
    """Whether the response has no body, by HTTP or by its own word."""
    if request.method == "HEAD" or response.status in {204, 304} or response.status < 200:
        return True
    if response.body is not None:
        return not response.body
    headers = response.headers
    if headers.get("content-length") != "0":
        return False
    return headers.all("content-length") == ["0"] and not headers.all("transfer-encoding")


def _failure(reason: Reason) -> Deny:
    problem = "is in a form that cannot" if reason is Reason.RESPONSE_UNREADABLE else "could not"
    return Deny(_NAME, reason, 502, f"The response {problem} be redacted, so it was not passed on.")


def _is_model_call(exchange: Exchange) -> bool:
    return exchange.route.usage is not None or exchange.dialect is not Dialect.PROBLEM
