"""A streaming reverse proxy as an ASGI application, on aiohttp's client (extra ``proxy``; asyncio only).

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

from tenantguard.errors import BadRequestError, ClientLeftError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import aiohttp
    from starlette.types import Message, Receive, Scope, Send

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

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 5.5: no part of a header's value

_NO_CONTENT: Final = frozenset({204, 304})

_AT_ONCE_BYTES: Final = 32 * 1024
"""A body up to this size is below asyncio's high-water mark (64 KiB): sending it never waits for the upstream."""

_PIECE_BYTES: Final = 64 * 1024

_READ_BYTES: Final = 64 * 1024
"""aiohttp stops reading from the upstream once twice as much waits for the client."""

_HEADER_BYTES_MAX: Final = 64 * 1024

_ROUND_S: Final = 0.05
"""Requests in flight are gone round this often, by one timer for all instead of two for each."""

_LOOK_FROM_ROUND: Final = 2
"""From then on (0.05 to 0.1 s) a client that leaves is noticed. Quick answers are spared the task that looks."""

_CHECK_EACH_ROUNDS: Final = 10
"""aiohttp 3.14 closes a connection whose chunks it cannot parse, but does not wake who reads the body: we look."""

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
        import aiohttp  # noqa: F401, PLC0415 - told here, not at the first request
    except ImportError:
        raise ConfigurationError("the reverse proxy needs aiohttp: pip install 'tenantguard[proxy]'") from None
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
        _base(url),
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        pool=pool,
        keepalive_s=keepalive_s,
        headers=added,
        forward_credentials=forward_credentials,
    )


def _base(url: str) -> str:
    """The upstream's URL without a closing slash; errors never quote it, for it may carry a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable:
        raise ConfigurationError("the upstream must be a URL like http://127.0.0.1:8000 or https://host/prefix")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("the upstream's URL must not carry credentials: give them as headers")
    if parts.query or parts.fragment or not _PATH.fullmatch((parts.path or "/").encode()):
        raise ConfigurationError("the upstream's URL must end with its path")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


class Upstream:
    """The reverse proxy to one upstream; made by :func:`upstream_app`, which checks the options.

    It has one aiohttp session for each event loop that it runs on, opened with the first request and closed when the
    lifespan ends, when :meth:`close` is awaited, or with the loop. WebSockets are refused.
    """

    def __init__(
        self,
        base: str,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        pool: int,
        keepalive_s: float,
        headers: Mapping[str, str],
        forward_credentials: bool,
    ) -> None:
        import aiohttp  # noqa: PLC0415 - heavy, and needed only by those who proxy

        self.read_timeout_s = read_timeout_s
        self.failures: Final = (aiohttp.ClientError, OSError)
        """What aiohttp raises when the upstream fails; a time-out is an OSError."""
        self._base = base
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_read=read_timeout_s)
        self._pool = pool
        self._keepalive_s = keepalive_s
        self._added = list(headers.items())
        self._dropped = _HOP_BY_HOP | _REPLACED | {name.encode() for name in headers}
        if not forward_credentials:
            self._dropped |= _CREDENTIALS
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}

    def __repr__(self) -> str:
        return f"Upstream({self._base!r})"

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
        """The session and the rounds of ``loop``, the running one."""
        home = self._homes.get(loop)
        if home is None:
            opening = self._open(loop)
            home = self._homes[loop] = _Home(await anext(opening), opening, _Rounds(loop))
        return home

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """Keep a session open for as long as this generator lives, which an event loop ends before it closes."""
        import aiohttp  # noqa: PLC0415 - as above

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._pool, keepalive_timeout=self._keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
        )
        try:
            yield session
        finally:
            self._homes.pop(loop, None)
            await session.close()

    def target(self, scope: Scope) -> str:
        """The upstream's URL for this request. :class:`BadRequestError` for a target that is open to two readings."""
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
        url = self._base + path.decode("ascii")
        return f"{url}?{query.decode('ascii')}" if query else url

    def request_headers(self, scope: Scope) -> list[tuple[str, str]]:
        """The header lines for the upstream. UnicodeDecodeError for a value that aiohttp could not send unchanged."""
        dropped = self._dropped
        nominated: set[bytes] = set()
        host = ""
        client = scope.get("client")
        chain = [client[0] if client else "unknown"]
        headers: list[tuple[str, str]] = []
        for name, value in scope["headers"]:
            if name not in dropped:
                headers.append((name.decode(), value.decode()))
            elif name == b"connection":
                if value not in _USUAL_CONNECTION:
                    nominated.update(token.strip().lower() for token in value.split(b","))
            elif name == b"host":
                host = value.decode()
            elif name == b"x-forwarded-for":
                chain.insert(-1, value.decode())
        if nominated:
            headers = [line for line in headers if line[0].encode() not in nominated]
        if host:
            headers.append(("x-forwarded-host", host))
        headers += (
            ("x-forwarded-for", ", ".join(chain)),
            ("x-forwarded-proto", scope.get("scheme", "http")),
            ("via", f"{scope.get('http_version', '1.1')} tenantguard"),  # RFC 9110 7.6.3: a gateway must say so
        )
        headers += self._added
        return headers


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

    session: aiohttp.ClientSession
    opening: AsyncGenerator[aiohttp.ClientSession, None]
    rounds: _Rounds


class _Relay:
    """One request on its way to the upstream, and its response on the way back."""

    __slots__ = (
        "_deadline",
        "_left",
        "_looking",
        "_loop",
        "_receive",
        "_response",
        "_rounds",
        "_send",
        "_sent",
        "_upstream",
        "_visits",
    )

    def __init__(self, upstream: Upstream, receive: Receive, send: Send) -> None:
        self._upstream = upstream
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._deadline = asyncio.timeout(None)
        self._rounds: _Rounds | None = None
        self._visits = 0
        self._sent = False  # the request, whole: what ``receive`` gives now is the client's leaving
        self._looking: asyncio.Task[None] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._left = False

    async def run(self, scope: Scope) -> None:
        """Pass the request on and the response back. :class:`UpstreamLost` where the response broke off."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return
        try:
            response = await self._ask(scope, message)
            if response is not None:
                await self._answer(response)
        finally:
            self._end_visits()
            if self._response is not None and not self._response.closed:
                self._response.close()

    # towards the upstream

    async def _ask(self, scope: Scope, message: Message) -> aiohttp.ClientResponse | None:
        """Send the request; the upstream's head, or None where there is nothing left to pass back."""
        method: str = scope["method"]
        if method in {"CONNECT", "TRACE"}:  # a tunnel is none of ours; an echo would show our own credentials
            await self._refuse("request.unsupported")
            return None
        upstream = self._upstream
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        try:
            url = upstream.target(scope)
            headers = upstream.request_headers(scope)
            session, _, self._rounds = await upstream.home(self._loop)
            self._rounds.add(self)
            data: bytes | AsyncGenerator[bytes, None] | None = body or None
            if more or len(body) > _AT_ONCE_BYTES:
                data = self._upload(body, more=more)
                length = _declared(scope) if more else str(len(body))
                if length is not None:
                    headers.append(("content-length", length))
            else:
                self._sent = True
            async with self._deadline:
                self._response = await session.request(method, url, headers=headers, data=data, allow_redirects=False)
        except upstream.failures as failure:
            if not self._left:
                await self._refuse(_problem(failure), failure)
            return None
        except ValueError:  # the target, a header or the length is none
            await self._refuse("request.invalid")
            return None
        if not _can_be_passed_on(self._response):
            await self._refuse("upstream.invalid")
            return None
        return self._response

    async def _upload(self, body: bytes, *, more: bool) -> AsyncGenerator[bytes, None]:
        """The request's body. The upstream has ``read_timeout_s`` to take each piece; the client has all its time."""
        while True:
            for start in range(0, len(body), _PIECE_BYTES):
                self._expect(self._loop.time() + self._upstream.read_timeout_s)
                yield body[start : start + _PIECE_BYTES]
            if not more:
                break
            self._expect(None)
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                raise ClientLeftError("the client left while its request was being passed on")
            body = message.get("body", b"")
            more = message.get("more_body", False)
        self._expect(self._loop.time() + self._upstream.read_timeout_s)
        self._sent = True

    def _expect(self, when: float | None) -> None:
        if self._response is None:
            self._deadline.reschedule(when)

    # back to the client

    async def _answer(self, response: aiohttp.ClientResponse) -> None:
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": _response_headers(response)},
        )
        content = response.content
        failures = (*self._upstream.failures, RuntimeError)  # the last where it was closed while we were sending
        more = True
        while more:
            try:
                chunk = await content.readany()
            except failures as failure:
                if self._left:
                    return
                raise UpstreamLost(f"the upstream's response broke off: {type(failure).__name__}") from None
            more = not content.at_eof()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

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
        """Look after the client, and after a connection to the upstream that has died unheard."""
        self._visits += 1
        if self._visits >= _LOOK_FROM_ROUND and self._sent and self._looking is None:
            self._looking = self._loop.create_task(self._until_client_leaves())
        response = self._response
        if self._visits % _CHECK_EACH_ROUNDS == 0 and response is not None and not response.content.is_eof():
            connection = response.connection
            if connection is not None and connection.closed:
                response.close()

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
        if self._response is None:
            self._deadline.reschedule(self._loop.time())
        else:
            self._response.close()


def _declared(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return str(value, "ascii")
    return None


def _can_be_passed_on(response: aiohttp.ClientResponse) -> bool:
    """Whether our own server would send this head: it hears of it only once the exchange has settled."""
    return 200 <= response.status <= 599 and not any(_CONTROL.search(value) for _, value in response.raw_headers)


def _response_headers(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    nominated: set[bytes] = set()
    framed = False
    for line in response.raw_headers:
        name = line[0].lower()
        if name not in _HOP_BY_HOP:
            headers.append((name, line[1]))
        elif name == b"transfer-encoding":
            framed = True
        elif name == b"connection" and line[1] not in _USUAL_CONNECTION:
            nominated.update(token.strip().lower() for token in line[1].split(b","))
    if framed or response.status in _NO_CONTENT:
        nominated.add(b"content-length")  # RFC 9112 6.3: not the body's length, or a body that is not there
    return [line for line in headers if line[0] not in nominated] if nominated else headers


def _problem(failure: Exception) -> str:
    import aiohttp  # noqa: PLC0415 - only to tell failures apart

    if isinstance(failure, TimeoutError):
        return "upstream.timeout"
    if isinstance(failure, aiohttp.ClientResponseError):
        return "upstream.invalid"
    return "upstream.unreachable"
