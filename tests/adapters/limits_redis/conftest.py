"""A store, asked as drivers ask it; and a wire that can be cut, slowed and made mute."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis as redis_py

from tenantguard.adapters.limits.redis.store import RedisLimits
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Shortage, Take, Taken, TakeTokens
from tenantguard.rules.bucket import bucket_key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from tenantguard.adapters.redis.script import Script
    from tenantguard.model.rate import Rate

SECOND: Final = 10**9
TOLERANCE_S: Final = 0.005
BUSY_S: Final = 2.0
"""What a machine with other work may add to one wait in ten; the others have the real tolerance."""

_ids = itertools.count(1)


class Asked:
    """A store, and how long its answers took. It waits long, or beside other work its server would be too slow."""

    def __init__(self, uri: str, **options: Any) -> None:
        options.setdefault("processes", 1)
        options.setdefault("deadline_ms", 5000)
        self.store = RedisLimits(uri, **options)
        self.waited_s: list[float] = []

    def execute(self, command: Any) -> Any:
        began = time.perf_counter()
        answer = self.store.execute(command)
        if isinstance(answer, Promise):
            answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
        self.waited_s.append(time.perf_counter() - began)
        return answer

    def take(self, *takes: Take, **options: Any) -> Taken | Shortage:
        answer: Taken | Shortage = self.execute(TakeTokens(None, takes, **options))
        return answer

    def admitted(self, take: Take, tries: int) -> int:
        return sum(isinstance(self.take(take), Taken) for _ in range(tries))

    def level(self, take: Take) -> tuple[int, int]:
        answer: Taken | Shortage = self.execute(TakeTokens(None, (Take(take.bucket, take.rate, 0),)))
        return answer.levels[0]

    def until(self, wanted: Callable[[], bool], patience_s: float = 8) -> None:
        end = time.perf_counter() + patience_s
        while not wanted():
            assert time.perf_counter() < end, "it did not happen"
            time.sleep(0.002)

    def recovers(self, take: Take) -> None:
        """Ask until a server decides again."""
        self.until(lambda: not self.take(take).degraded)

    @staticmethod
    def new_id() -> bytes:
        return os.urandom(16)


def one(rate: Rate, owner: str | None = None, cost: int = 1) -> Take:
    return Take(bucket_key(owner or f"tenant-{next(_ids)}", "tenant"), rate, cost)


def in_time(waited_s: Sequence[float], deadline_s: float = 0.05) -> None:
    """Nine of ten are as punctual as this machine, with the other work that it has, lets any wait be."""
    waits = sorted(waited_s)
    usual = waits[len(waits) * 9 // 10 - 1]
    assert usual <= deadline_s + TOLERANCE_S or usual <= deadline_s + TOLERANCE_S + 2 * _lateness_s()
    assert waits[-1] <= deadline_s + BUSY_S


def _lateness_s() -> float:
    """The most that a wait of 50 ms for nothing takes longer, of ten."""
    late = []
    for _ in range(10):
        began = time.perf_counter()
        threading.Event().wait(0.05)
        late.append(time.perf_counter() - began - 0.05)
    return max(late)


def crowd_in_time(crowd: Callable[[], Coroutine[Any, Any, float]]) -> None:
    """In the best of ten crowds the last is answered within 50 ms, or as late as who only sleeps beside them."""

    async def lateness_s() -> float:
        async def sleep() -> float:
            began = time.perf_counter()
            await asyncio.sleep(0.05)
            return time.perf_counter() - began

        slept, last = await asyncio.gather(asyncio.gather(*[sleep() for _ in range(50)]), crowd())
        return last - max(slept)

    assert any(asyncio.run(lateness_s()) <= TOLERANCE_S for _ in range(10))


@contextmanager
def linked(server: Any, script: Script) -> Iterator[tuple[Any, Any]]:
    """A connection to a server that has a script and nothing else, and a client of it."""
    server.flush()
    client = redis_py.Redis(unix_socket_path=str(server.socket))
    client.script_load(script.text)
    pool = client.connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    connection.connect()
    yield connection, client
    connection.disconnect()
    client.close()


class Proxy:
    """Passes bytes on to a server, as long as it should. ``held`` says that some have come that do not pass."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.passes = threading.Event()
        self.passes.set()
        self.held = threading.Event()
        self.delay_s = 0.0
        self.links = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Every connection is gone, and new ones are closed at once."""
        self.refuses = True
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def mend(self) -> None:
        self.refuses = False

    def close(self) -> None:
        self.passes.set()
        self._listening.close()
        self.cut()

    refuses = False

    def prepared(self, near: socket.socket) -> socket.socket:
        """A connection that was accepted, as it is used."""
        return near

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.links += 1
            if self.refuses:
                near.close()
                continue
            try:
                near = self.prepared(near)
            except OSError:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [near, far]
            if self.refuses:  # it was cut meanwhile
                self.cut()
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if not self.passes.is_set():
                    self.held.set()
                self.passes.wait()
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


@pytest.fixture
def asked(redis: Any) -> Iterator[Callable[..., Asked]]:
    """Stores on the shared server, or wherever ``uri`` says."""
    made: list[Asked] = []

    def make(uri: str | None = None, **options: Any) -> Asked:
        made.append(Asked(uri or redis.uri, **options))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


@pytest.fixture
def proxy(redis: Any) -> Iterator[Proxy]:
    between = Proxy(redis.port)
    yield between
    between.close()
