"""Clients that load the servers, ask again under the same key whatever breaks, and remember what they were told."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.kill.world import KINDS, Kind

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

CALLERS: Final = 12
ANSWER_S: Final = 60.0
_EXCHANGE: Final = re.compile(rb'"(?:exchange|content)": "([^"]+)"')
_HOLD: Final = re.compile(rb"hold ([0-9a-f]{32})")


@dataclass(slots=True)
class Key:
    """One thing that a client wants done once: ``key`` is its idempotency key.

    ``acknowledged`` is the exchange whose response was seen to its end; ``charged`` the hold that was named as having
    been charged for an earlier try; ``refused`` says that there was no budget for it.
    """

    key: str
    kind: Kind
    tries: int = 0
    acknowledged: str = ""
    charged: str = ""
    refused: bool = False


@dataclass
class Load:
    """So many callers, who work while :meth:`go` allows it. ``addresses`` are the ports of the living servers."""

    random: random.Random
    addresses: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    unresolved: deque[Key] = field(default_factory=deque)
    fresh: list[Key] = field(default_factory=list)
    reviews: dict[str, Key] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._open = True
        self._tasks: list[asyncio.Task[None]] = []

    def go(self, *, new: bool = True) -> None:
        """Begin: what is unresolved first, then, where ``new``, ever more."""
        self._open = True
        self._tasks = [asyncio.create_task(self._call(new=new)) for _ in range(CALLERS)]

    async def pause(self) -> None:
        """Let everybody hear the answer to the request that is on its way, or that there is none."""
        self._open = False
        await self.rest()

    async def rest(self) -> None:
        """Wait until every caller has stopped by itself."""
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def ask(self, port: int, key: Key) -> None:
        """One try at one server."""
        key.tries += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                status, body, whole = await _exchange(port, key)
        except OSError:
            status, body, whole = 0, b"", False
        self._learn(key, status, body, whole=whole)

    def key(self, kind: Kind) -> Key:
        """A thing that nobody asked for yet."""
        key = Key(f"k{len(self.keys)}", kind)
        self.keys.append(key)
        return key

    async def _call(self, *, new: bool) -> None:
        while self._open and (self.unresolved or new):
            key = self.unresolved.popleft() if self.unresolved else self._next()
            if self.addresses:
                await self.ask(self.random.choice(self.addresses), key)
            else:
                self.unresolved.append(key)
            if key.tries > 1 or not self.addresses:
                await asyncio.sleep(0.01)

    def _next(self) -> Key:
        (kind,) = self.random.choices(KINDS, [kind.share for kind in KINDS])
        return self.key(kind)

    def _learn(self, key: Key, status: int, body: bytes, *, whole: bool) -> None:
        exchange, hold = _EXCHANGE.search(body), _HOLD.search(body)
        what = str(status)
        if not whole:
            self.unresolved.append(key)
            what = "broken off"
        elif status == 200 and exchange is not None:
            key.acknowledged = exchange[1].decode()
            self.fresh.append(key)
        elif status == 409 and b"served already" in body and hold is not None:
            key.charged = hold[1].decode()
        elif status == 409 and b"looked at" in body and hold is not None:
            self.reviews[hold[1].decode()] = key
            what = "409 in review"
        elif status == 402:
            key.refused = True
        elif status == 503 or (status == 409 and b"being served" in body):
            self.unresolved.append(key)
        else:
            raise AssertionError((status, body))
        self.answers[what] += 1


async def _exchange(port: int, key: Key) -> tuple[int, bytes, bool]:
    """Send a request; status, body, and whether the response was seen to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST {key.kind.path} HTTP/1.1\r\nhost: site\r\nconnection: close\r\ncontent-type: application/json\r\n"
            f"x-tenant: {key.kind.tenant}\r\nidempotency-key: {key.key}\r\n"
            f"content-length: {len(key.kind.body)}\r\n\r\n"
        )
        writer.write(head.encode() + key.kind.body)
        data = b"".join([chunk async for chunk in _chunks(reader)])
    finally:
        writer.close()
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return 0, b"", False
    body = data[head_end + 4 :]
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", data[:head_end])
    whole = len(body) == int(length[1]) if length is not None else b"data: [DONE]\n\n" in body
    return int(data[9:12]), body, whole


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        try:
            chunk = await reader.read(65_536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk
