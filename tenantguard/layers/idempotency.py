"""The idempotency layer: of the requests under one ``Idempotency-Key``, one is served and charged.

It stands before everything that a request takes: a second request takes no token, no quota and no money. It asks the
ledger who has the key; what decides is the hold that is placed under it, further in. So a key is free again where
nothing was charged: after a refusal, a failure, a hold that was voided.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tenantguard.errors import BadRequestError, ConfigurationError
from tenantguard.flow.effects import ReadBody, compute
from tenantguard.flow.http import BODY_LIMIT_BYTES, Headers, Response, Unreadable
from tenantguard.flow.ports import Claim, FindClaim
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.ledger import Conflict
from tenantguard.model.policy import Policy
from tenantguard.model.route import Idempotency as OnKey
from tenantguard.model.sections import QuotaSection
from tenantguard.model.tenant import Tenant
from tenantguard.rules.idempotency import (
    CREDENTIALS,
    KEEP_BYTES,
    KEEP_S,
    KEY_HEADER,
    REPLAYED,
    Recording,
    binding,
    decode,
    encode,
    fingerprint,
    keep,
    read_key,
    refusal,
)

if TYPE_CHECKING:
    from tenantguard.flow.effects import Flow
    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.layer import Handler
    from tenantguard.flow.ports import Clock, Sealer
    from tenantguard.rules.idempotency import Kept

_NANOS_PER_SECOND: Final = 10**9


class Idempotency:
    """Refuse, or answer as the first, what comes a second time under an ``Idempotency-Key``.

    It leaves the :class:`~tenantguard.model.ledger.Claim` for whoever places the hold; a request that can cost
    nothing has none, and its key says nothing. To know one request from another the body is read, up to
    ``body_limit`` bytes.

    On routes that ask for ``replay``, responses of at most ``keep_bytes`` are kept for ``keep_s`` seconds, encrypted
    by ``sealer``; such a route without one raises :class:`ConfigurationError`.
    """

    name = "idempotency"
    requires = (Tenant, Policy)

    def __init__(
        self,
        sealer: Sealer | None = None,
        *,
        body_limit: int = BODY_LIMIT_BYTES,
        keep_bytes: int = KEEP_BYTES,
        keep_s: int = KEEP_S,
    ) -> None:
        self._sealer = sealer
        self._body_limit = body_limit
        self._keep_bytes = keep_bytes
        self._keep_ns = keep_s * _NANOS_PER_SECOND

    def handle(self, exchange: Exchange, proceed: Handler) -> Flow[Response]:
        """Claim the key, or answer for the request that has it."""
        lines = exchange.request.headers.all(KEY_HEADER)
        if not lines or exchange.route.idempotency is OnKey.OFF or not _takes(exchange):
            return (yield from proceed(exchange))
        claim = yield from self._claim(exchange, lines)
        if isinstance(claim, Deny):
            return exchange.deny(claim)
        envelope = self._envelope(exchange, claim)
        exchange.put(claim)
        found = yield from FindClaim(exchange.get(Tenant).id, claim)
        if found is None:
            exchange.allow(self.name, "new")
            response = yield from proceed(exchange)
            if envelope is not None and response.body is None:
                recording = Recording(
                    claim.key, partial(envelope.seal, response), response.headers.raw, self._keep_bytes
                )
                response.transforms.append(recording)
                exchange.put(recording)
            return response
        if envelope is not None and not isinstance(found, Conflict) and found.answer is not None:
            kept = envelope.open(found.answer)
            if kept is not None:
                exchange.allow(self.name, "replay", hold=found.hold.hex())
                return Response(kept.status, Headers([*kept.headers, REPLAYED]), kept.body)
        return exchange.deny(refusal(self.name, found))

    def _claim(self, exchange: Exchange, lines: list[str]) -> Flow[Claim | Deny]:
        request = exchange.request
        try:
            key = read_key(lines)
        except BadRequestError as wrong:
            return Deny(self.name, Reason.IDEMPOTENCY_INVALID, 400, str(wrong))
        assert key is not None
        body = yield from ReadBody(self._body_limit)
        if isinstance(body, Unreadable):
            return Deny(self.name, body.reason, body.status, body.message)
        asked = partial(fingerprint, request.method, request.path, request.query, body.data)
        return Claim(key, (yield from compute(asked, len(body.data))))

    def _envelope(self, exchange: Exchange, claim: Claim) -> _Envelope | None:
        """In what the response to this request is kept, None where it is not."""
        route, request = exchange.route, exchange.request
        if route.idempotency is not OnKey.REPLAY or request.method == "HEAD" or request.protocol != "http":
            return None
        if self._sealer is None:
            raise ConfigurationError(
                f"route {route.name!r} keeps responses, and there is nothing to encrypt them with"
            )
        credentials = [f"{name}:{value}" for name in CREDENTIALS for value in request.headers.all(name)]
        bound_to = binding(exchange.get(Tenant), claim, credentials)
        return _Envelope(self._sealer, bound_to, exchange.system.clock, self._keep_ns)


class _Envelope:
    """In what the response to one request is kept: opened by the same caller for the same request, for a time."""

    __slots__ = ("_bound_to", "_clock", "_keep_ns", "_sealer")

    def __init__(self, sealer: Sealer, bound_to: bytes, clock: Clock, keep_ns: int) -> None:
        self._sealer = sealer
        self._bound_to = bound_to
        self._clock = clock
        self._keep_ns = keep_ns

    def seal(self, response: Response, body: bytes) -> bytes:
        kept = keep(self._clock.wall_ns(), response.status, response.headers.raw, body)
        return self._sealer.seal(encode(kept), self._bound_to)

    def open(self, answer: bytes) -> Kept | None:
        opened = self._sealer.open(answer, self._bound_to)
        if opened is None:
            return None
        kept = decode(opened)
        return kept if self._clock.wall_ns() - kept.at_ns < self._keep_ns else None


def _takes(exchange: Exchange) -> bool:
    """Whether the request can take money or units of a quota."""
    return exchange.route.is_priced or exchange.get(Policy).section(QuotaSection) is not None
