"""A streaming reverse proxy as an ASGI application (extra ``proxy``; asyncio only).

Rules of this file
1. What a guard judged is what the upstream gets: a request target that two readers may understand differently is
   refused, and nothing but the headers named here is dropped, replaced or added.
2. A response that broke off never looks complete: the final message is sent only after its own end was read.
3. Nothing about the upstream, its address, credentials or error texts, reaches a caller or a log.
4. Nothing is buffered beyond one read: each chunk waits until the one before it was taken, in both directions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

from tenantguard.errors import BadRequestError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.types import Message, Receive, Scope, Send

    from tenantguard.adapters.http_client import Connection, Pool

log = logging.getLogger("tenantguard.proxy")

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    },
)  # RFC 9110 7.6.1 and 11.7

_REPLACED: Final = frozenset(
    {b"content-length", b"expect", b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"},
)  # ``expect``: reading the body has made our own server send 100 Continue (RFC 9110 10.1.1)

_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key", b"api-key"})

_USUAL_CONNECTION: Final = frozenset({b"keep-alive", b"close"})

_PATH: Final = re.compile(rb'/[!"$-;=@-~]*')  # visible ASCII without # < > ?
_QUERY: Final = re.compile(rb'[!"$-;=?-~]*')

_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2

_NO_CONTENT: Final = frozenset({204, 304})

_AT_ONCE_BYTES: Final = 32 * 1024
"""A body up to this size is below asyncio's high-water mark (64 KiB): sending it never waits for the upstream."""

_PIECE_BYTES: Final = 64 * 1024

_ROUND_S: Final = 0.05
"""Requests in flight are gone round this often, by one timer for all instead of two for each."""

_LOOK_FROM_ROUND: Final = 2
"""From then on (0.05 to 0.1 s) a client that leaves is noticed. Quick answers are spared the task that looks."""

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Sent once more where a kept connection turns out to be closed (RFC 9110 9.2.2, RFC 9112 9.3.1)."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
"""These say that they have none (RFC 9110 8.6)."""

_PROBLEMS: Final = {
    "request.invalid": (400, "Bad Request", "The request's target or a header cannot be passed on."),
    "request.unsupported": (501, "Not Implemented", "This method is not passed on."),
    "upstream.invalid": (502, "Bad Gateway", "The upstream's answer was not valid HTTP."),
    "upstream.unreachable": (502, "Bad Gateway", "The upstream could not be reached, or hung up."),
    "upstream.timeout": (504, "Gateway Timeout", "The upstream did not answer in time."),
}


class UpstreamLost(ConnectionError):  # noqa: N818 - named like the builtin ConnectionError it is
    """The upstream's response broke off after its head was passed on; what the client has is not whole."""


def upstream_app(
    url: str,
    *,
    connect_timeout_s: float = 5.0,
    read_timeout_s: float = 600.0,
    pool: int = 1000,
    keepalive_s: float = 4.0,
    headers: Mapping[str, str] | None = None,
    forward_credentials: bool = False,
) -> Upstream:
    """Return an ASGI application that passes every HTTP request on to ``url`` and streams the response back.

    ``connect_timeout_s`` bounds connecting, the wait for a free place among ``pool`` connections included;
    ``read_timeout_s`` bounds each silence of the upstream, before its head and between its bytes. An idle connection
    is kept for ``keepalive_s``: less than the 5 s after which common servers (uvicorn, Node.js) close it themselves,
    because a request that meets such a close is lost.

    ``headers`` replace the caller's of the same name, for instance ``{"authorization": "Bearer ..."}``. The caller's
    own ``authorization``, ``x-api-key`` and ``api-key`` are dropped unless ``forward_credentials`` says that they are
    meant for the upstream. :class:`~tenantguard.errors.ConfigurationError` for whatever cannot work.
    """
    try:
        import httptools  # noqa: F401, PLC0415 - told here, not at the first request
    except ImportError:
        raise ConfigurationError("the reverse proxy needs httptools: pip install 'tenantguard[proxy]'") from None
    for option, number in (
        ("connect_timeout_s", connect_timeout_s),
        ("read_timeout_s", read_timeout_s),
        ("pool", pool),
        ("keepalive_s", keepalive_s),
    ):
        if not number > 0:
            raise ConfigurationError(f"{option} must be greater than 0, not {number!r}")
    added = {name.lower(): value for name, value in (headers or {}).items()}
    for name, value in added.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"the upstream header {name!r} has a name or value that no header can have")
        if name.encode() in (_HOP_BY_HOP | _REPLACED) - {b"host"}:
            raise ConfigurationError(f"the upstream header {name!r} is the proxy's own")
    return Upstream(
        _Origin.of(url),
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        pool=pool,
        keepalive_s=keepalive_s,
        headers=added,
        forward_credentials=forward_credentials,
    )


class _Origin(NamedTuple):
    """Where requests go: the host as it is connected to and as it is named, and the path before every path."""

    url: str
    secure: bool
    host: str
    port: int
    authority: bytes
    prefix: bytes

    @classmethod
    def of(cls, url: str) -> _Origin:
        """Read the upstream's URL; errors never quote it, for it may carry a password."""
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if ":" not in host:  # no IPv6 address
                host = host.encode("idna").decode()
            usable = parts.scheme in {"http", "https"} and bool(host) and parts.port != 0
        except ValueError:
            parts, host, usable = urlsplit(""), "", False
        if not usable:
            raise ConfigurationError("the upstream must be a URL like http://127.0.0.1:8000 or https://host/prefix")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("the upstream's URL must not carry credentials: give them as headers")
        if parts.query or parts.fragment or not _PATH.fullmatch((parts.path or "/").encode()):
            raise ConfigurationError("the upstream's URL must end with its path")
        path = parts.path.rstrip("/")
        usual = 443 if parts.scheme == "https" else 80
        port = parts.port or usual
        authority = f"[{host}]" if ":" in host else host
        if port != usual:
            authority = f"{authority}:{port}"
        whole = f"{parts.scheme}://{parts.netloc}{path}"
        return cls(whole, parts.scheme == "https", host, port, authority.encode(), path.encode())


class Upstream:
    """The reverse proxy to one upstream; made by :func:`upstream_app`, which checks the options.

    It has one pool of connections for each event loop that it runs on, made with the first request and closed when
    the lifespan ends, when :meth:`close` is awaited, or with the loop. WebSockets are refused.
    """

    def __init__(
        self,
        origin: _Origin,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        pool: int,
        keepalive_s: float,
        headers: Mapping[str, str],
        forward_credentials: bool,
    ) -> None:
        self.read_timeout_s = read_timeout_s
        self._origin = origin
        self._connect_timeout_s = connect_timeout_s
        self._pool = pool
        self._keepalive_s = keepalive_s
        given = {name.encode(): value.encode() for name, value in headers.items()}
        self._host = b"host: " + given.pop(b"host", origin.authority)
        self._added = [b"%b: %b" % line for line in given.items()]
        self._dropped = _HOP_BY_HOP | _REPLACED | {name.encode() for name in headers}
        if not forward_credentials:
            self._dropped |= _CREDENTIALS
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}

    def __repr__(self) -> str:
        return f"Upstream({self._origin.url!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        kind = scope["type"]
        if kind == "http":
            await _Relay(self, receive, send).run(scope)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": ""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def close(self) -> None:
        """Close this event loop's connections; the next request opens new ones."""
        home = self._homes.pop(asyncio.get_running_loop(), None)
        if home is not None:
            await home.opening.aclose()

    async def home(self, loop: asyncio.AbstractEventLoop) -> _Home:
        """The connections and the rounds of ``loop``, the running one."""
        home = self._homes.get(loop)
        if home is None:
            opening = self._open(loop)
            home = self._homes[loop] = _Home(await anext(opening), opening, _Rounds(loop))
        return home

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[Pool, None]:
        """Keep a pool open for as long as this generator lives, which an event loop ends before it closes."""
        from tenantguard.adapters.http_client import Pool  # noqa: PLC0415 - needed only by those who proxy

        origin = self._origin
        pool = Pool(
            origin.host,
            origin.port,
            secure=origin.secure,
            limit=self._pool,
            connect_timeout_s=self._connect_timeout_s,
            keepalive_s=self._keepalive_s,
        )
        try:
            yield pool
        finally:
            self._homes.pop(loop, None)
            await pool.close()

    def target(self, scope: Scope) -> bytes:
        """The target that the upstream gets. :class:`BadRequestError` for one that is open to two readings."""
        path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        mounted = scope.get("root_path")
        if mounted:
            path = path.removeprefix(quote(mounted).encode()) or b"/"
        query: bytes = scope.get("query_string", b"")
        if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
            raise BadRequestError("the request target has characters that none may have")
        decoded: str = scope["path"]
        if "\\" in decoded:  # a slash to some
            raise BadRequestError("the request target has a backslash")
        if "/." in decoded and any(part.partition(";")[0] in {".", ".."} for part in decoded.split("/")):
            raise BadRequestError("the request target has dot segments")
        target = self._origin.prefix + path
        return b"%b?%b" % (target, query) if query else target

    def request_head(self, scope: Scope, method: str, length: int | None, *, chunked: bool) -> bytes:
        """The head for the upstream. The body has ``length`` bytes; where that is None, chunks or none at all.

        :class:`BadRequestError` for a target or a header that could be read as another.
        """
        dropped = self._dropped
        nominated: set[bytes] = set()
        host = b""
        client = scope.get("client")
        chain = [client[0].encode() if client else b"unknown"]
        kept: list[tuple[bytes, bytes]] = []
        for line in scope["headers"]:
            name = line[0]
            if name not in dropped:
                kept.append(line)
            elif name == b"connection":
                if line[1] not in _USUAL_CONNECTION:
                    nominated.update(token.strip().lower() for token in line[1].split(b","))
            elif name == b"host":
                host = line[1]
            elif name == b"x-forwarded-for":
                chain.insert(-1, line[1])
        if nominated:
            kept = [line for line in kept if line[0] not in nominated]
        lines = [b"%b %b HTTP/1.1" % (method.encode(), self.target(scope)), self._host]
        lines += [b"%b: %b" % line for line in kept]
        if host:
            lines.append(b"x-forwarded-host: " + host)
        lines += (
            b"x-forwarded-for: " + b", ".join(chain),
            b"x-forwarded-proto: " + scope.get("scheme", "http").encode(),
            b"via: %b tenantguard"
            % scope.get("http_version", "1.1").encode(),  # RFC 9110 7.6.3: a gateway must say so
            *self._added,
        )
        if length is not None:
            lines.append(b"content-length: %d" % length)
        elif chunked:
            lines.append(b"transfer-encoding: chunked")
        head = b"\r\n".join(lines)
        breaks = len(lines) - 1
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise BadRequestError("a header has a line break")
        return head + b"\r\n\r\n"


class _Rounds:
    """Goes round what is in flight on one event loop, for as long as there is something."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._relays: set[_Relay] = set()
        self._next: asyncio.TimerHandle | None = None

    def add(self, relay: _Relay) -> None:
        """Call ``relay.visit`` in every round from now on."""
        self._relays.add(relay)
        if self._next is None:
            self._next = self._loop.call_later(_ROUND_S, self._go)

    def remove(self, relay: _Relay) -> None:
        """Call it no more."""
        self._relays.discard(relay)

    def _go(self) -> None:
        self._next = None
        for relay in tuple(self._relays):
            relay.visit()
        if self._relays:
            self._next = self._loop.call_later(_ROUND_S, self._go)


class _Home(NamedTuple):
    """What one event loop has of an upstream."""

    pool: Pool
    opening: AsyncGenerator[Pool, None]
    rounds: _Rounds


class _Relay:
    """One request on its way to the upstream, and its response on the way back."""

    __slots__ = (
        "_connection", "_left", "_looking", "_loop", "_pool", "_receive", "_rounds", "_send", "_sent", "_turn_since",
        "_unread", "_uploading", "_upstream", "_visits",
    )  # fmt: skip

    def __init__(self, upstream: Upstream, receive: Receive, send: Send) -> None:
        self._upstream = upstream
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._pool: Pool | None = None
        self._rounds: _Rounds | None = None
        self._visits = 0
        self._sent = False  # the request, whole: what ``receive`` gives now is the client's leaving
        self._turn_since: float | None = None  # since when it is the upstream's turn
        self._uploading: asyncio.Task[None] | None = None
        self._unread: Exception | None = None  # of ``receive``, in place of the body's rest
        self._looking: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._left = False

    async def run(self, scope: Scope) -> None:
        """Pass the request on and the response back. :class:`UpstreamLost` where the response broke off."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return
        try:
            connection = await self._ask(scope, message)
            if connection is not None:
                await self._answer(connection)
        finally:
            self._end_visits()
            self._release()

    # towards the upstream

    async def _ask(self, scope: Scope, message: Message) -> Connection | None:
        """Send the request; the connection, once its answer's head is there; None where that is told already."""
        method: str = scope["method"].upper()  # as a guard reads it, and its routes
        if method in {"CONNECT", "TRACE"}:  # a tunnel is none of ours; an echo would show our own credentials
            await self._refuse("request.unsupported")
            return None
        upstream = self._upstream
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        try:
            length = _declared(scope) if more else len(body) if body or method in _WITH_BODY else None
            head = upstream.request_head(scope, method, length, chunked=more)
        except ValueError:  # the target, a header or the length is none
            await self._refuse("request.invalid")
            return None
        self._pool, _, self._rounds = await upstream.home(self._loop)
        self._rounds.add(self)
        at_once = not more and len(body) <= _AT_ONCE_BYTES
        self._sent = at_once
        while True:
            try:
                connection = self._connection = await self._pool.take()
                if self._left:
                    return None
                self._turn_since = self._loop.time()
                connection.begin(head + body if at_once else head, bodiless=method == "HEAD")
                if not at_once:
                    self._uploading = self._loop.create_task(self._upload(connection, body, length, more=more))
                await connection.answered()
            except OSError as failure:
                if self._left:
                    return None
                if self._unread is not None:
                    raise self._unread from None
                if at_once and method in _REPEATABLE and self._was_stale():
                    self._release()
                    continue
                await self._refuse(_problem(failure), failure)
                return None
            if not 200 <= connection.status <= 599:  # our own server would not send it, once the exchange has settled
                await self._refuse("upstream.invalid")
                return None
            return connection

    def _was_stale(self) -> bool:
        connection = self._connection
        return connection is not None and connection.is_used and connection.is_lost and not connection.status

    async def _upload(self, connection: Connection, body: bytes, length: int | None, *, more: bool) -> None:
        """The request's body. The upstream has ``read_timeout_s`` to take each piece; the client has all its time."""
        left = length
        try:
            while True:
                if left is not None:
                    left -= len(body)
                    if left < 0 or (left and not more):  # the rest would be read as another request, or waited for
                        connection.fail(ConnectionAbortedError("the body is not as long as it was declared"))
                        return
                for start in range(0, len(body), _PIECE_BYTES):
                    piece = body[start : start + _PIECE_BYTES]
                    self._turn_since = self._loop.time()
                    await connection.write(piece if left is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
                if not more:
                    break
                self._turn_since = None
                try:
                    message = await self._receive()
                except Exception as failure:  # noqa: BLE001 - of middleware, which is to have it back
                    self._unread = failure
                    connection.fail(ConnectionAbortedError("the body's rest cannot be read"))
                    return
                if message["type"] == "http.disconnect":
                    self._leave()
                    return
                body = message.get("body", b"")
                more = message.get("more_body", False)
            self._turn_since = self._loop.time()
            if left is None:
                await connection.write(b"0\r\n\r\n")
            self._sent = True
        except OSError:  # who waits for the answer hears it
            return

    # back to the client

    async def _answer(self, connection: Connection) -> None:
        await self._send(
            {"type": "http.response.start", "status": connection.status, "headers": _response_headers(connection)},
        )
        more = True
        while more:
            try:
                chunk = await connection.read()
            except OSError as failure:
                if self._left:
                    return
                if self._unread is not None:
                    raise self._unread from None
                raise UpstreamLost(f"the upstream's response broke off: {type(failure).__name__}") from None
            more = not connection.is_read
            if not more:
                self._release()  # the last message may have to wait for a ledger
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    def _release(self) -> None:
        """Give the connection back; one whose exchange is not at its end is closed."""
        connection, self._connection = self._connection, None
        if self._uploading is not None and not self._uploading.done():
            self._uploading.cancel()
            if connection is not None:
                connection.abort()
        if connection is not None and self._pool is not None:
            self._pool.give_back(connection)

    async def _refuse(self, code: str, failure: Exception | None = None) -> None:
        self._end_visits()
        status, title, detail = _PROBLEMS[code]
        if failure is not None:
            log.warning("no response from the upstream: code=%s error=%s", code, type(failure).__name__)
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code})
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body.encode(), "more_body": False})

    # what happens meanwhile

    def visit(self) -> None:
        """Look after the client, and after an upstream that has fallen silent."""
        self._visits += 1
        if self._visits >= _LOOK_FROM_ROUND and self._sent and self._looking is None:
            self._looking = self._loop.create_task(self._until_client_leaves())
        connection, since = self._connection, self._turn_since
        if connection is None or since is None or connection.complete or connection.is_paused:
            return
        if self._loop.time() - max(since, connection.heard_at) > self._upstream.read_timeout_s:
            connection.fail(TimeoutError("the upstream is silent"))

    def _end_visits(self) -> None:
        if self._rounds is not None:
            self._rounds.remove(self)
        if self._looking is not None:
            self._looking.cancel()

    async def _until_client_leaves(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        """Abort what waits for the upstream: nobody will read it."""
        self._left = True
        if self._connection is not None:
            self._connection.fail(ConnectionAbortedError("the client left"))


def _declared(scope: Scope) -> int | None:
    """How long the body says that it is. ValueError for what is no number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit():
                raise BadRequestError("the declared length is no number")
            return int(value)
    return None


def _response_headers(connection: Connection) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    nominated: set[bytes] = set()
    framed = False
    for line in connection.headers:
        name = line[0]
        if name not in _HOP_BY_HOP:
            headers.append(line)
        elif name == b"transfer-encoding":
            framed = True
        elif name == b"connection" and line[1] not in _USUAL_CONNECTION:
            nominated.update(token.strip().lower() for token in line[1].split(b","))
    if framed or connection.status in _NO_CONTENT:
        nominated.add(b"content-length")  # RFC 9112 6.3: not the body's length, or a body that is not there
    return [line for line in headers if line[0] not in nominated] if nominated else headers


def _problem(failure: Exception) -> str:
    from tenantguard.adapters.http_client import InvalidAnswerError  # noqa: PLC0415 - only to tell failures apart

    if isinstance(failure, TimeoutError):
        return "upstream.timeout"
    return "upstream.invalid" if isinstance(failure, InvalidAnswerError) else "upstream.unreachable"
