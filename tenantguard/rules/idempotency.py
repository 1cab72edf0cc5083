"""Idempotency keys: how one is read, what a request under it asks, how a second one is refused, and what is kept.

A response is kept as one line of JSON (its status, those of its headers in ``_KEPT_HEADERS``, and when that was) and
then its body. What is kept is sealed before it leaves the process, and bound to who asked.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import BadRequestError
from tenantguard.model.decision import Deny, Reason
from tenantguard.model.frozen import frozen
from tenantguard.model.ledger import Claim, Conflict, HoldState
from tenantguard.model.money import Amount
from tenantguard.model.outcome import Ending
from tenantguard.rules.media import EVENT_STREAM, media_of
from tenantguard.rules.usage.decoder import JSON_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tenantguard.model.ledger import Repeated
    from tenantguard.model.outcome import Outcome
    from tenantguard.model.tenant import Tenant

KEY_HEADER: Final = "idempotency-key"
REPLAYED: Final = (b"idempotent-replayed", b"true")
"""The header line that says of a response that it is the kept one."""

KEEP_BYTES: Final = 256 * 1024
"""The longest body that is kept; a minute of a model's tokens, as events, is about as long."""

KEEP_S: Final = 24 * 60 * 60
"""How long it is given again: as long as the keys of payment services are known."""

RETRY_MS: Final = 1000

CREDENTIALS: Final = ("authorization", "cookie", "x-api-key", "api-key")
"""The headers by which an application tells its callers apart."""

_KEY: Final = re.compile(r"[!-+\--~]{1,255}")
"""Visible ASCII but the comma, at which servers join repeated header lines."""

_KEPT_HEADERS: Final = frozenset(
    {
        b"access-control-allow-credentials",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"cache-control",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-security-policy",
        b"content-type",
        b"location",
        b"request-id",
        b"tenantguard-max-output",
        b"vary",
        b"x-content-type-options",
        b"x-request-id",
    }
)  # what says how the body is to be read, and which response it was; never a cookie, a date or a limit's level

_ENDS: Final = {EVENT_STREAM: (b"\n\n", b"\r\n\r\n"), JSON_LINES: (b"\n",)}
"""With what a stream ends that is whole before its connection has ended."""


def read_key(lines: Iterable[str]) -> str | None:
    """Read the header's lines: one key, however often it is said, or None where there is no line.

    Raises :class:`BadRequestError` for two different keys, and for what is not 1 to 255 visible ASCII characters.
    """
    keys = {part.strip(" \t") for line in lines for part in line.split(",")}
    if not keys:
        return None
    if len(keys) > 1:
        raise BadRequestError("The request carries several different idempotency keys.")
    key = keys.pop()
    if _KEY.fullmatch(key) is None:
        raise BadRequestError("An idempotency key is 1 to 255 visible ASCII characters without a comma.")
    return key


def fingerprint(method: str, path: str, query: bytes, body: bytes) -> bytes:
    """What a request asks, in 16 bytes: two requests under one key with different ones are a mistake."""
    return _digest(16, method.encode("utf-8", "surrogatepass"), path.encode("utf-8", "surrogatepass"), query, body)


def binding(tenant: Tenant, claim: Claim, credentials: Iterable[str]) -> bytes:
    """To what a kept response is bound: who asked, with which ``credentials``, under which key, and for what.

    Several callers can share a tenant, and an application may answer each of them differently.
    """
    identity = tenant.identity.id if tenant.identity is not None else ""
    who = [text.encode("utf-8", "surrogatepass") for text in (tenant.id, identity, claim.key, *credentials)]
    return _digest(32, claim.fingerprint, *who)


def refusal(layer: str, answer: Repeated | Conflict) -> Deny:
    """Why the request under this key is refused: another has it, which is being served or was."""
    if isinstance(answer, Conflict):
        message = "This idempotency key was used for another request."
        return Deny(layer, Reason.IDEMPOTENCY_CONFLICT, 422, message)
    hold = answer.hold.hex()
    if answer.state is HoldState.REVIEW:
        message = (
            f"The request with this idempotency key was served, and its charge is being looked at (hold {hold})."
        )
        return Deny(layer, Reason.IDEMPOTENCY_IN_FLIGHT, 409, message, details={"hold": hold})
    if answer.state is not HoldState.SETTLED:
        message = "A request with this idempotency key is being served."
        return Deny(
            layer, Reason.IDEMPOTENCY_IN_FLIGHT, 409, message, retry_after_ms=RETRY_MS, details={"hold": hold}
        )
    charged = _charged(answer)
    price = f", charged {', '.join(charged)}" if charged else ""
    message = f"The request with this idempotency key was served already (hold {hold}{price})."
    members: dict[str, Any] = {"hold": hold, "state": answer.state.value, "charged": charged}
    return Deny(layer, Reason.IDEMPOTENCY_DONE, 409, message, details=members, members=members)


def raced(layer: str, answer: Repeated | Conflict) -> Deny:
    """The same for two requests that were on their way together: where an answer is kept, asking again gets it."""
    if isinstance(answer, Conflict) or answer.answer is None:
        return refusal(layer, answer)
    message = "A request with this idempotency key was served at this moment."
    details = {"hold": answer.hold.hex()}
    return Deny(layer, Reason.IDEMPOTENCY_IN_FLIGHT, 409, message, retry_after_ms=RETRY_MS, details=details)


@frozen
class Kept:
    """A response as it is given again; ``at_ns`` is when it was kept, in nanoseconds since 1970."""

    at_ns: int
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def keep(at_ns: int, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Kept:
    """A response without the headers that belong to its own moment and connection."""
    lines = [(name.lower(), value) for name, value in headers]
    return Kept(at_ns, status, tuple([line for line in lines if line[0] in _KEPT_HEADERS]), body)


def encode(kept: Kept) -> bytes:
    """Write it as bytes."""
    lines = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept.headers]
    head = {"at_ns": kept.at_ns, "status": kept.status, "headers": lines}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + kept.body


def decode(data: bytes) -> Kept:
    """Read what :func:`encode` wrote."""
    head, _, body = data.partition(b"\n")
    told = json.loads(head)
    lines = tuple([(name.encode("latin-1"), value.encode("latin-1")) for name, value in told["headers"]])
    return Kept(told["at_ns"], told["status"], lines, body)


class Recording:
    """Takes a response's body down as it leaves, and gives it, sealed, to whoever settles the request.

    A transform that rewrites nothing. What is longer than ``limit`` bytes is not kept; neither is what has not ended
    well: a retry of that is a new request, or is told that the first was charged. ``seal`` makes of a whole body the
    bytes to keep.
    """

    rewrites = False

    def __init__(
        self, key: str, seal: Callable[[bytes], bytes], headers: Iterable[tuple[bytes, bytes]], limit: int
    ) -> None:
        self._key = key
        self._seal = seal
        self._limit = limit
        self._ends = _ENDS.get(media_of(headers).type, ())
        self._finished = False
        self._body: bytearray | None = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes down."""
        body = self._body
        if body is not None:
            if len(body) + len(chunk) > self._limit:
                self._body = None
            else:
                body += chunk
        return chunk

    def finish(self) -> bytes:
        """The body has ended."""
        self._finished = True
        return b""

    def answer(self, outcome: Outcome) -> tuple[str, bytes] | None:
        """At the settling point: the key and the response to keep under it, or None; what was taken down is dropped.

        A stream settles at its protocol's own end, which may come before that of the body: then every byte of it
        must have passed by. Also kept is what a client that had left did not hear to its end.
        """
        body, self._body = self._body, None
        if body is None or outcome.status not in range(200, 300) or outcome.status == 206:
            return None
        if outcome.ending is not Ending.COMPLETED and not (outcome.ending is Ending.LEFT and outcome.ended):
            return None
        if not (self._finished or outcome.status == 204 or body.endswith(self._ends)):
            return None
        return self._key, self._seal(bytes(body))


def _charged(answer: Repeated) -> list[str]:
    """What was charged, once for each currency and unit: budgets of one currency are all charged the same."""
    charged: dict[str, int] = {}
    for unit, amount in zip(answer.units, answer.amounts, strict=False):
        charged[unit] = max(amount, charged.get(unit, 0))
    return [str(Amount(amount, unit)) if unit.isupper() else f"{amount} {unit}" for unit, amount in charged.items()]


def _digest(size: int, *parts: bytes) -> bytes:
    hashed = blake2b(digest_size=size)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()
