"""HTTP/1.1 connections to one origin, on httptools' parser (extra ``proxy``; asyncio only).

As little as a reverse proxy needs, and all of it in bytes: aiohttp's client costs four times as much a request.
llhttp, which httptools wraps, is strict: what two readers may frame differently (both lengths, two lengths, folded
lines, control characters) is no answer. What comes after an answer is nobody's, and ends the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

if TYPE_CHECKING:
    from collections.abc import Callable

    Lines = list[tuple[bytes, bytes]]

READ_AHEAD_BYTES: Final = 128 * 1024
"""Once so much waits for the client, no more is read from the origin."""

HEAD_BYTES_MAX: Final = 64 * 1024

_BODILESS: Final = frozenset({204, 304})
_LINE_EXTRA: Final = len(b": \r\n")
_CLOSING_ROUNDS: Final = 10
"""Rounds of the loop in which an aborted transport closes; two are enough for a plain one."""


class InvalidAnswerError(ConnectionError):
    """What came is no HTTP/1.1 answer, or one that two readers may understand differently."""


class Connection(asyncio.Protocol):
    """One connection, which serves one exchange after the other. Whoever waits on it hears how it breaks off.

    ``status`` and ``headers`` (names in small letters) are the answer's head, once :meth:`answered` has returned;
    ``complete`` says that the answer has come to its own end. ``heard_at`` is when the origin last said something,
    in the loop's time, and ``is_paused`` that it is not listened to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._full: asyncio.Future[None] | None = None  # the origin takes nothing now
        self._failure: Exception | None = None
        self.is_lost = False
        self._goes_on = False  # after this exchange
        self.is_used = False
        self.heard_at = 0.0
        self.is_paused = False
        self.complete = True
        self._reset(bodiless=False)

    def _reset(self, *, bodiless: bool) -> None:
        self._bodiless = bodiless
        self._has_head = False
        self._ends_with_connection = False
        self._unread_bytes = 0  # of a head, a chunk's extension or a trailer, which may never end
        self._pieces: list[bytes] = []
        self._held = 0
        self.status = 0
        self.headers: Lines = []

    # the exchange

    def begin(self, request: bytes, *, bodiless: bool) -> None:
        """Send a request, or its beginning; ``bodiless`` where its answer has no body whatever its head says."""
        assert self._transport is not None
        self._reset(bodiless=bodiless)
        self.complete = False
        self.heard_at = self._loop.time()
        self._transport.write(request)

    async def write(self, piece: bytes) -> None:
        """Send more of the request, and wait until the origin takes more."""
        if self._transport is None or self._transport.is_closing():
            raise self._failure or ConnectionError("the connection is closed")
        self._transport.write(piece)
        if self._full is not None:
            await self._full

    async def answered(self) -> None:
        """Wait for the answer's head. Interim answers are passed over."""
        while not self._has_head:
            await self._more()

    async def read(self) -> bytes:
        """The body's bytes that have come since, as soon as there are some; empty only at its end."""
        while not self._pieces and not self.complete:
            await self._more()
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        self._held = 0
        if self.is_paused and self._transport is not None:
            self.is_paused = False
            self.heard_at = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def is_read(self) -> bool:
        """The answer is complete, and was read to its end."""
        return self.complete and not self._pieces

    @property
    def is_reusable(self) -> bool:
        """Another exchange can follow this one."""
        if not (self.is_read and self._goes_on and self._full is None and not self.is_paused):
            return False
        return self._transport is not None and not self._transport.is_closing()

    def fail(self, failure: Exception) -> None:
        """Break off: who waits hears ``failure``."""
        if not self.complete and self._failure is None:
            self._failure = failure
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close at once; what was not sent is not sent."""
        self._goes_on = False
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the origin."""
        self.heard_at = self._loop.time()
        parser = self._parser
        if parser is None:
            return
        was_complete = self.complete
        held = self._held
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.fail(InvalidAnswerError("no HTTP/1.1 answer"))
            return
        if was_complete:  # nobody has asked
            self.abort()
        else:
            self._unread_bytes = self._unread_bytes + len(data) if self._held == held else 0
            if self._unread_bytes > 2 * HEAD_BYTES_MAX:
                self.fail(InvalidAnswerError("the head, or what stands between the body's bytes, is too long"))
            elif self._bodiless and self._has_head:
                self._parser = HttpResponseParser(self)  # that one may wait for a body
        self._wake()

    def pause_writing(self) -> None:
        """The origin takes nothing for the moment."""
        self._full = self._loop.create_future()

    def resume_writing(self) -> None:
        """It takes more."""
        full, self._full = self._full, None
        if full is not None and not full.done():
            full.set_result(None)

    def eof_received(self) -> None:
        """The origin says no more, which ends an answer without a length."""
        assert self._transport is not None
        if self._ends_with_connection and not self.complete and _is_said(self._transport):
            self.complete = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self.is_lost = True
        self._parser = None  # which refers back here
        if not self.complete and self._failure is None:
            self._failure = exc or ConnectionError("the origin hung up")
        self._wake()
        self.resume_writing()
        self._gone(self)

    # what the parser tells

    def on_message_begin(self) -> None:
        """An answer begins; behind one that is complete it is nobody's."""
        if self.complete:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or of a trailer, which is dropped."""
        if not self._has_head:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        if parser is None or self._has_head:
            return
        self.status = parser.get_status_code()
        if 100 <= self.status < 200:
            return
        if sum(len(name) + len(value) + _LINE_EXTRA for name, value in self.headers) > HEAD_BYTES_MAX:
            self.fail(InvalidAnswerError("the head is too long"))
            return
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            self.fail(InvalidAnswerError("an unknown transfer coding"))
            return
        self._has_head = True
        self._goes_on = parser.should_keep_alive()
        if self._bodiless or self.status in _BODILESS:
            self._bodiless = True
            self.complete = True
        elif not codings:
            self._ends_with_connection = all(name != b"content-length" for name, _ in self.headers)

    def on_body(self, piece: bytes) -> None:
        """Bytes of the body."""
        if self.complete:  # of another answer, or of one that has none
            self.abort()
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._transport is None or self._transport.is_closing():
            return
        if self._held > READ_AHEAD_BYTES and not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer has come to its end; after an interim one the real one follows."""
        if self._has_head:
            self.complete = True
        else:
            self.headers = []


def _is_said(transport: asyncio.Transport) -> bool:
    """Whether the end is the origin's own: anybody on the way can close what carries TLS (RFC 9112 9.8)."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if secured is None:
        return True
    try:
        return not secured.read(1)
    except ssl.SSLError:
        return False


class Pool:
    """At most ``limit`` connections to ``host`` and ``port`` on the running event loop.

    One that is idle is kept for ``keepalive_s``. To connect, a wait for a free place included, takes at most
    ``connect_timeout_s``, or :class:`TimeoutError` is raised.
    """

    def __init__(
        self, host: str, port: int, *, secure: bool, limit: int, connect_timeout_s: float, keepalive_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._port = port
        self._ssl = ssl.create_default_context() if secure else None
        self._limit = limit
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_s = keepalive_s
        self._open: set[Connection] = set()
        self._connecting = 0
        self._promised = 0  # places of those whose turn it is to connect
        self._idle: deque[tuple[float, Connection]] = deque()  # by when they became so
        self._sweeping: asyncio.TimerHandle | None = None
        self._queue: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()  # the longest waiting first
        self.closed = False

    async def take(self) -> Connection:
        """A connection for one exchange, a used one where there is one; :meth:`give_back` it, whatever happened."""
        rested = self._rested()
        if rested is not None:
            return rested
        async with asyncio.timeout(self._connect_timeout_s):
            has_waited = False
            while len(self._open) + self._connecting + self._promised >= self._limit:
                given = await self._turn(first=has_waited)
                if given is None:
                    self._promised -= 1
                    break
                if given.is_reusable:
                    return given
                given.abort()  # it was lost on the way
                has_waited = True
            self._connecting += 1
            try:
                name = self._host if self._ssl is not None else None
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, self._gone),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=name,
                )
            except BaseException:
                self._call_next()
                raise
            finally:
                self._connecting -= 1
        if connection.is_lost:
            self._call_next()
            raise ConnectionError("the origin hung up")
        self._open.add(connection)
        return connection

    async def _turn(self, *, first: bool) -> Connection | None:
        """Wait for a connection, or for the promise of its place, which is None; longest, or ``first`` of all."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._queue[turn] = None
        if first:
            self._queue.move_to_end(turn, last=False)
        try:
            return await turn
        except BaseException:
            if turn in self._queue:
                del self._queue[turn]
            else:  # it was our turn
                self._hand_on(turn.result())
            raise

    def _hand_on(self, given: Connection | None) -> None:
        """Whose turn it was needs it no more."""
        if given is not None:
            self.give_back(given)
        else:
            self._promised -= 1
            self._call_next()

    def _rested(self) -> Connection | None:
        while self._idle:
            since, connection = self._idle.pop()
            if connection.is_reusable and self._loop.time() - since < self._keepalive_s:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        """The exchange is over: keep the connection where another can follow, else close it."""
        if not connection.is_reusable or self.closed:
            connection.abort()
            return
        connection.is_used = True
        if self._queue and self._call_next(connection):
            return
        self._idle.append((self._loop.time(), connection))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keepalive_s, self._sweep)

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self.closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in tuple(self._open):
            connection.abort()
        for _ in range(_CLOSING_ROUNDS):
            if self._open:
                await asyncio.sleep(0)

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._call_next()

    def _call_next(self, connection: Connection | None = None) -> bool:
        """Give whoever waits longest a connection, or promise the place of one; False where nobody waits.

        It is given at once, or a newcomer would take it before that one wakes.
        """
        while self._queue:
            turn, _ = self._queue.popitem(last=False)
            if not turn.done():
                self._promised += connection is None
                turn.set_result(connection)
                return True
        return False

    def _sweep(self) -> None:
        """Close what has been idle for too long, and come again for the next."""
        self._sweeping = None
        oldest = self._loop.time() - self._keepalive_s
        while self._idle and self._idle[0][0] <= oldest:
            self._idle.popleft()[1].abort()
        if self._idle:
            self._sweeping = self._loop.call_at(self._idle[0][0] + self._keepalive_s, self._sweep)
