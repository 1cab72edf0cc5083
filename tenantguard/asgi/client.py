"""The client's side of an HTTP exchange: its body, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from tenantguard.asgi.run import Run
from tenantguard.asgi.waiting import library
from tenantguard.errors import ClientLeftError, LayerError
from tenantguard.flow.http import (
    Body,
    Unreadable,
    declared_length,
    length_mismatch,
    too_large,
)
from tenantguard.model.route import OnDisconnect

if TYPE_CHECKING:
    from starlette.types import Message


DISCONNECT: Final = "http.disconnect"

PEEK_ROUNDS: Final = 2
"""Rounds of the loop in which a message that is there is given: one for the task, one for a checkpoint of its own."""


READ_AHEAD_BYTES: Final = 65_536
"""How much of a body is kept while its request waits for its turn: a disconnect stands behind it."""

_MESSAGES_PEEKED: Final = 2
"""The end of a body that nobody read may stand before the disconnect."""


class ClientWatch(Run):
    """What an HTTP exchange hears from its client: the body, read once and replayed, and that the client has left."""

    _head: Message | None = None  # held until the first bytes leave
    _receiving = 0
    _looking: anyio.Event | None = None  # for the client, at this moment
    _gone = False  # the client has left
    _draining = False
    _drain_place = False  # among the guard's ``drains_max``
    _drain_ends_ns = 0
    _replay: deque[Message] | None = None  # what was received, but not by the application

    async def read_body(self, limit: int) -> Body | Unreadable:
        """Buffer the request's body once; what was read is replayed to the application either way."""
        request = self.exchange.request
        known = request.body_read
        if not isinstance(known, Body):
            if self.session.called:
                raise LayerError("the application reads the body now: ReadBody belongs before proceed")
            known = request.body_read = await self._buffer_body(limit)
        if isinstance(known, Body) and len(known.data) > limit:
            return too_large(limit)
        return known

    async def _buffer_body(self, limit: int) -> Body | Unreadable:
        declared = declared_length(self.exchange.request.headers)
        if isinstance(declared, Unreadable):
            return declared
        if declared is not None and declared > limit:
            return too_large(limit)
        given = self._replay or ()  # read up to a smaller limit
        data: bytes | bytearray = b"".join([message.get("body", b"") for message in given])
        more = not given or given[-1].get("more_body", False)
        while more and len(data) <= limit:
            message = await (self.receive() if self._peeked is None else self.next_message())
            if message["type"] == DISCONNECT:
                self._gone = True
                raise ClientLeftError("the client left while its body was being read")
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            if not data:
                data = bytes(chunk)
            elif chunk:  # one buffer, however small the pieces: a message for each could take a hundred times as much
                data = data if isinstance(data, bytearray) else bytearray(data)
                data += chunk
        body = bytes(data)
        self._replay = deque([{"type": "http.request", "body": body, "more_body": more}])
        if len(body) > limit:
            return too_large(limit)
        if declared is not None and declared != len(body):
            return length_mismatch()
        return Body(body)

    async def _receive(self) -> Message:
        while self._looking is not None:  # one reader at a time, or messages would change places
            await self._looking.wait()
        if self._replay:
            return self._replay.popleft()
        if self._draining:
            return await self._parked_disconnect()
        self._receiving += 1
        try:
            message = await self.next_message()
        finally:
            self._receiving -= 1
        if message["type"] == DISCONNECT and not self.session.settled and self._client_left():
            return await self._parked_disconnect()
        return message

    def _client_left(self) -> bool:
        """The client has gone. True where the application is to finish unheard, so that real usage is charged."""
        self._gone = True
        exchange = self.exchange
        if self.session.settled or exchange.on_disconnect is not OnDisconnect.DRAIN or not exchange.resolvers:
            return False
        if not self._draining and self.guard.start_drain():
            self._draining = self._drain_place = True
            clock = self.guard.ports.system.clock
            self._drain_ends_ns = clock.monotonic_ns() + int(self.guard.drain_s * 1e9)
        return self._draining

    def _drain_left_s(self) -> float:
        return (self._drain_ends_ns - self.guard.ports.system.clock.monotonic_ns()) / 1e9

    async def _end_drain(self) -> None:
        self._give_up_drain()
        await self.settle(self.session.conclude(left=True))
        self.raise_cancelled()

    def _give_up_drain(self) -> None:
        if self._drain_place:
            self._drain_place = False
            self.guard.end_drain()

    async def _parked_disconnect(self) -> Message:
        """While draining, the application hears that the client left only once settled, or at the bound."""
        if not self.session.settled:
            with anyio.move_on_after(max(0.0, self._drain_left_s())):
                await self.settled_event().wait()
            if not self.session.settled:
                await self._end_drain()
        return {"type": DISCONNECT}

    async def client_left(self) -> bool:
        """Wait until the client has left; False where it would have to be told to send, or sends much."""
        if self.exchange.request.headers.get("expect") is not None:
            return False
        ahead = 0
        while not self._gone and ahead <= READ_AHEAD_BYTES:
            message = await self.read_ahead()
            self._keep(message)
            ahead += len(message.get("body", b""))
        return self._gone

    def _sees_client(self) -> bool:
        """Whether ``_gone`` is all that is to be known at the settling point, without waiting."""
        if self._gone or self._receiving or self.exchange.on_disconnect is None or not self.exchange.resolvers:
            return True
        if self._head is not None and self.exchange.request.headers.get("expect") is not None:
            return True  # reading would tell a client that waits with its body to send it
        return self._peeked is None and self._look_at_once()

    async def _client_gone(self, rounds: int = PEEK_ROUNDS) -> bool:
        """Look for the client at the settling point; what was read is replayed."""
        if self._sees_client():
            return self._gone
        if self._looking is not None:
            await self._looking.wait()
            return self._gone
        self._looking = anyio.Event()
        try:
            await self._look(rounds)
        finally:
            self._looking.set()
            self._looking = None
        return self._gone

    def _look_at_once(self) -> bool:
        """Look for the client where the server tells without being awaited: a fiftieth of a task that reads.

        uvicorn's request keeps a flag, hypercorn's messages wait in a queue. False where ``receive`` is another's.
        """
        server = getattr(self.receive, "__self__", None)
        if type(server) is asyncio.Queue:
            for _ in range(_MESSAGES_PEEKED):
                if server.empty() or not self._keep(server.get_nowait()):
                    break
            return True
        if type(server).__module__.startswith("uvicorn.protocols."):
            left = getattr(server, "disconnected", None)
            if isinstance(left, bool):
                self._gone = left
                return True
        return False

    async def _look(self, rounds: int) -> None:
        for _ in range(_MESSAGES_PEEKED):
            message = await self._peek(rounds)
            if message is None or not self._keep(message):
                return

    def _keep(self, message: Message) -> bool:
        """Keep what was read for the application. True where a disconnect may stand behind it."""
        if self._replay is None:
            self._replay = deque()
        self._replay.append(message)
        if message["type"] == DISCONNECT:
            self._gone = True
        return not self._gone and not message.get("more_body", False)

    async def _look_for_client(self) -> None:
        """Middleware further out cancels what runs in it when its client leaves: then that is why."""
        try:
            with anyio.CancelScope(shield=True):
                await self._client_gone(5 * PEEK_ROUNDS)  # that middleware hands messages on by tasks of its own
        except asyncio.CancelledError:
            return

    async def _peek(self, rounds: int) -> Message | None:
        if library() == "trio":
            found: list[Message] = []

            async def read() -> None:
                found.append(await self.receive())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for _ in range(rounds + 1):  # trio runs the tasks of one round in random order
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            return found[0] if found else None
        if self._peeked is None:
            self._peeked = asyncio.ensure_future(self.receive())
        for _ in range(rounds):
            await asyncio.sleep(0)
            if self._peeked.done():
                peeked, self._peeked = self._peeked, None
                return peeked.result()
        return None
