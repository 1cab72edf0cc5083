"""The way to one server: a thread or two with a connection each, and one queue.

A trip takes whatever waits, so that under load one call of the script decides for many and alone a decision leaves at
once. While all connections are out, what comes waits: there is no timer. A thread is bound to no event loop, serves
those of asyncio and trio and threads that block alike, and nobody's answer depends on it: who waits for longer than
its deadline decides by itself.
"""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tenantguard.adapters.promise import safely
from tenantguard.adapters.redis.script import KEYS_MAX, NOW_SIZE, read_now
from tenantguard.errors import PortError, PortTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.connection import ConnectionInterface

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.redis.breaker import Breaker
    from tenantguard.adapters.redis.script import Script

BATCH_MAX: Final = 128
QUEUE_MAX: Final = 20_000
"""How many may wait for a server, or for word of where it is."""

_END_S: Final = 5.0

_IDLE_S: Final = 1.0
_TIDY_NS: Final = 50_000_000
_FRESH_NS: Final = 100_000_000
"""A connection that was used so lately is not looked at before it is used again: servers close those that idle."""

log = logging.getLogger(__name__)


class Asked(Protocol):
    """One command on its way. ``size`` bytes of a reply are its answer, once :meth:`answer` has read it."""

    keys: bytes
    count: int
    command: bytes
    size: int
    slot: int
    begun_ns: int

    def leave(self) -> bool:
        """Whether it is still wanted."""
        ...

    def answer(self, reply: bytes, at: int, now: int, sent_ns: int, bells: set[Bell]) -> None:
        """The server decided at ``now``, in its ticks, after ``sent_ns`` of this machine."""
        ...

    def lose(self, problem: PortError, bells: set[Bell] | None) -> None:
        """There will be no answer; whether the server has decided is not known."""
        ...


class Probe:
    """Asks a server whether it is there."""


class Lane:
    """Sends commands to one server, which decides them with ``script``.

    With one of ``links`` they arrive in the order in which they were submitted. ``moved`` is called with those that
    another server of a cluster is to decide. ``together`` puts commands of one slot into one call, without it each
    has its own. ``tidy`` is called now and then, twenty times a second where much comes and about once where nothing
    does. ``test_now`` is the time of the script in tests.
    """

    def __init__(
        self,
        make: Callable[..., ConnectionInterface],
        breaker: Breaker,
        monotonic_ns: Callable[[], int],
        deadline_s: float,
        script: Script,
        *,
        links: int,
        together: bool,
        tidy: Callable[[], None] | None = None,
        test_now: Callable[[], bytes] | None = None,
        moved: Callable[[list[Asked]], None] | None = None,
    ) -> None:
        self.breaker = breaker
        self._port = breaker.port
        self._script = script
        self._links = links
        self._monotonic_ns = monotonic_ns
        self._tidy = tidy
        self._tidy_at = 0
        self._make = make
        self._deadline_ns = int(deadline_s * 1e9)
        self._together = together
        self._test_now = test_now
        self._moved = moved
        self.begin()

    def begin(self) -> None:
        """As new; also in a forked child, where the threads of the parent do not exist."""
        self.breaker.begin()
        self._queue: SimpleQueue[Sequence[Asked] | Probe | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._seen: tuple[int, int] | None = None

    def submit(self, asked: Sequence[Asked] | Probe) -> bool:
        """Queue commands that leave together; False where too many wait."""
        if self._queue.qsize() >= QUEUE_MAX:
            return False
        self._queue.put(asked)
        if not self._threads:
            self._start()
        return True

    def connection(self, timeout_s: float) -> ConnectionInterface:
        """Another connection to the server, made but not connected; every read of it takes so long at most."""
        return self._make(socket_timeout=timeout_s)

    def probe(self) -> None:
        """Ask whether the server is there."""
        if not self.submit(Probe()):
            self.breaker.failed("too many wait", self._monotonic_ns())

    def end(self) -> list[threading.Thread]:
        """Let the threads, which are the answer, send what is queued and end."""
        with self._starting:
            threads, self._threads = self._threads, []
            for _ in threads:
                self._queue.put(None)
        return threads

    def close(self) -> None:
        """Send what is queued, and end the threads."""
        for thread in self.end():
            thread.join(_END_S)

    def _start(self) -> None:
        with self._starting:
            if self._threads:
                return
            for number in range(self._links):
                thread = threading.Thread(target=self._run, name=f"tenantguard-{self._port}-{number}", daemon=True)
                thread.start()  # or it is tried again with the next command
                self._threads.append(thread)

    def _run(self) -> None:
        link = _Link(self._make, self._monotonic_ns)
        idle_s = _IDLE_S if self._tidy is not None else None
        queue = self._queue
        try:
            link.connect()  # while the other may already be out with the first command
        except Exception:  # noqa: BLE001 - the first trip will say what it is
            link.drop()
        while True:
            batch: list[Asked] = []
            keys, probes, ended = 0, False, False
            try:
                following = queue.get(timeout=idle_s)
            except Empty:
                self._tidy_up()
                continue
            try:
                while True:
                    if following is None:
                        ended = True
                        break
                    if isinstance(following, Probe):
                        probes = True
                    else:
                        batch += following
                        keys += (
                            sum([asked.count for asked in following]) if len(following) > 1 else following[0].count
                        )
                    if len(batch) >= BATCH_MAX or keys >= KEYS_MAX:
                        break
                    following = queue.get_nowait()
            except Empty:
                pass
            bells: set[Bell] = set()
            self._travel(link, batch, bells)
            for bell in bells:
                safely(bell)
            if probes:
                self._probe(link)
            if ended:
                link.drop()
                return
            self._tidy_up()

    def _tidy_up(self) -> None:
        if self._tidy is not None:
            now_ns = self._monotonic_ns()
            if now_ns >= self._tidy_at:
                self._tidy_at = now_ns + _TIDY_NS
                safely(self._tidy)

    def _probe(self, link: _Link) -> None:
        try:
            link.ping()
        except Exception as failed:  # noqa: BLE001 - whatever it is, the thread must live
            link.drop()
            self.breaker.failed(type(failed).__name__, self._monotonic_ns())
        else:
            self.breaker.worked(probe=True)

    def _travel(self, link: _Link, batch: list[Asked], bells: set[Bell]) -> None:
        wanted = [asked for asked in batch if asked.leave()]
        if not wanted:
            return
        groups = self._groups(wanted)
        began = self._monotonic_ns()
        try:
            self._trip(link, groups, bells)
        except Exception as failed:  # whatever it is, somebody waits, and the thread must live
            if not isinstance(failed, RedisError | OSError):
                log.exception("%s: a trip to the server failed", self._port)
            link.drop()
            problem = (
                PortTimeout(self._port, self._deadline_ns / 1e9)
                if isinstance(failed, TimeoutError | RedisTimeoutError)
                else PortError(self._port, f"the server failed: {type(failed).__name__}")
            )
            self.breaker.failed(type(failed).__name__, self._monotonic_ns())
            for group in groups:
                for asked in group:
                    asked.lose(problem, bells)
        else:
            if self._monotonic_ns() - began > self._deadline_ns:
                self.breaker.failed("too slow", self._monotonic_ns())
            elif not groups:  # all were answered
                self.breaker.worked()

    def _groups(self, batch: list[Asked]) -> list[list[Asked]]:
        if not self._together:
            return [[asked] for asked in batch]
        by_slot: dict[int, list[Asked]] = {}
        for asked in batch:
            by_slot.setdefault(asked.slot, []).append(asked)
        return list(by_slot.values())

    def _trip(self, link: _Link, groups: list[list[Asked]], bells: set[Bell]) -> None:
        """Ask, and take from ``groups`` those that were answered."""
        now = self._test_now() if self._test_now is not None else b""
        last_us = self._last_us(groups) if not now else None
        for form in (self._script.call, self._script.loading_call):
            calls = [
                form(
                    [asked.keys for asked in group],
                    sum([asked.count for asked in group]),
                    [asked.command for asked in group],
                    last_us,
                    now,
                )
                for group in groups
            ]
            sent_ns = link.send(b"".join(calls))
            unknown: list[list[Asked]] = []
            refused: list[tuple[list[Asked], ResponseError]] = []
            moved: list[Asked] = []
            leaving: list[Asked] = []
            while groups:
                group = groups[0]
                try:
                    reply = link.read()
                except NoScriptError:
                    unknown.append(group)
                except MovedError as problem:
                    if self._moved is None:
                        refused.append((group, problem))
                    else:
                        moved += group
                except (AskError, TryAgainError):  # a slot on its way to another server, which is soon there
                    leaving += group
                except ResponseError as problem:
                    refused.append((group, problem))
                else:
                    self._deliver(group, reply, sent_ns, bells)
                del groups[0]
            if moved and self._moved is not None:
                self._moved(moved)
            for asked in leaving:
                asked.lose(PortError(self._port, "the slot moves to another server"), bells)
            groups += unknown
            if refused:
                groups += [group for group, _ in refused]
                raise refused[0][1]
            if not unknown:
                return

    def _deliver(self, group: list[Asked], reply: bytes, sent_ns: int, bells: set[Bell]) -> None:
        now = read_now(reply)
        self._seen = (now, sent_ns)
        at = NOW_SIZE
        for asked in group:
            asked.answer(reply, at, now, sent_ns, bells)
            at += asked.size

    def _last_us(self, groups: list[list[Asked]]) -> int | None:
        """When the youngest of these is given up, by the server's clock; None where that is not known yet.

        What a server that hung reads when it comes back was given up long ago, and must take nothing then.
        """
        if self._seen is None:
            return None
        server_ticks, sent_ns = self._seen
        youngest = max(asked.begun_ns for group in groups for asked in group)
        return server_ticks // 10**12 + (youngest + self._deadline_ns - sent_ns) // 1000


class _Link:
    """A connection that is made when it is needed."""

    def __init__(self, make: Callable[[], ConnectionInterface], monotonic_ns: Callable[[], int]) -> None:
        self._make = make
        self._monotonic_ns = monotonic_ns
        self._connection: ConnectionInterface | None = None
        self._used_ns = 0

    def send(self, packed: bytes) -> int:
        """Send commands; the answer is when that began."""
        connection = self.connect()
        sent_ns = self._used_ns = self._monotonic_ns()
        connection.send_packed_command([packed], check_health=False)  # type: ignore[no-untyped-call]
        return sent_ns

    def read(self) -> bytes:
        """The next reply."""
        assert self._connection is not None
        reply = self._connection.read_response(disable_decoding=True)
        assert isinstance(reply, bytes)
        return reply

    def ping(self) -> None:
        """Raise where the server is not there."""
        connection = self.connect()
        connection.send_command("PING")  # type: ignore[no-untyped-call]
        connection.read_response()

    def drop(self) -> None:
        """Close the connection; replies that are still to come belong to nobody."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def connect(self) -> ConnectionInterface:
        """Connect, where that has not happened, or where the server has closed a connection that idled."""
        if self._connection is not None and self._is_stale(self._connection):
            self.drop()
        connection = self._connection
        if connection is None:
            connection = self._make()
            connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection
        return connection

    def _is_stale(self, connection: ConnectionInterface) -> bool:
        if self._monotonic_ns() - self._used_ns < _FRESH_NS:
            return False
        try:
            return connection.can_read()  # nothing is to come
        except (RedisError, OSError):
            return True
