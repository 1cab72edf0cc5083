"""Waiting on an event loop, asyncio's or trio's, for promises that other threads keep."""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tenantguard.flow.effects import Promise


_LINES_MAX: Final = 16
"""Deadlines that have a timer for all who wait so long: those of stores are few, callers may bring any number."""


class Mailbox:
    """Where one event loop waits for promises. It is woken once for all that are kept together.

    Promises of one deadline reach it in the order in which their waiting began, so one timer does for all of them: a
    timer for each would cost as much as the rest of the waiting.
    """

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]] = weakref.WeakKeyDictionary()
    _latest: ClassVar[Mailbox | None] = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._kept: deque[asyncio.Future[bool]] = deque()
        self._waiting: dict[float, dict[asyncio.Future[bool], float]] = {}
        self._bell = self._ring  # made once: a set finds the same object sooner

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """The mailbox of this loop."""
        latest = cls._latest
        if latest is not None and latest.loop() is loop:
            return latest
        mailbox = cls._of_loop.get(loop)
        if mailbox is None:
            mailbox = cls._of_loop[loop] = cls(loop)
        cls._latest = mailbox
        return mailbox

    async def wait(self, promise: Promise[Any], loop: asyncio.AbstractEventLoop) -> bool:
        """Wait on ``loop``, which is this mailbox's, until ``promise`` is kept; False at its deadline."""
        if promise.wait(0):
            return True
        future: asyncio.Future[bool] = loop.create_future()
        deadline_s = promise.deadline_s
        waiting = self._waiting.get(deadline_s)
        if waiting is None:
            if len(self._waiting) >= _LINES_MAX:
                return await self._wait_alone(promise, loop, future)
            waiting = self._waiting[deadline_s] = {}
            loop.call_later(deadline_s, self._sweep, deadline_s, waiting)
        waiting[future] = loop.time() + deadline_s
        promise.then(partial(self._post, future))
        try:
            return await future
        finally:
            del waiting[future]

    async def _wait_alone(
        self, promise: Promise[Any], loop: asyncio.AbstractEventLoop, future: asyncio.Future[bool]
    ) -> bool:
        """Wait with a timer of its own, which ends with the waiting."""
        timer = loop.call_later(promise.deadline_s, _end, future)
        promise.then(partial(self._post, future))
        try:
            return await future
        finally:
            timer.cancel()

    def _post(self, future: asyncio.Future[bool]) -> Callable[[], None]:
        """Deliver ``future`` when the bell that is returned is rung; from any thread."""
        self._kept.append(future)
        return self._bell

    def _ring(self) -> None:
        loop = self.loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # that loop has closed; nobody waits there any more
            self._kept.clear()

    def _deliver(self) -> None:
        while self._kept:
            future = self._kept.popleft()
            if not future.done():
                future.set_result(True)

    def _sweep(self, deadline_s: float, waiting: dict[asyncio.Future[bool], float]) -> None:
        """Wake whose deadline has passed, and come again for the next."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for future, deadline in waiting.items():
            if deadline > now:
                loop.call_at(deadline, self._sweep, deadline_s, waiting)
                return
            _end(future)
        del self._waiting[deadline_s]


def _end(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def kept(promise: Promise[Any]) -> Coroutine[Any, Any, bool]:
    """Wait until ``promise`` is kept; False at its deadline."""
    loop = asyncio._get_running_loop()  # noqa: SLF001 - as in library(), which would make it two system calls
    if loop is None:
        return _kept_trio(promise)
    return Mailbox.of(loop).wait(promise, loop)


async def _kept_trio(promise: Promise[Any]) -> bool:
    import trio  # noqa: PLC0415 - only where trio already runs the application

    if promise.wait(0):
        return True
    event = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def keep() -> None:
        try:
            token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            return

    promise.then(keep)
    with trio.move_on_after(promise.deadline_s) as scope:
        await event.wait()
    return not scope.cancelled_caught


_WORKERS: Final[RunVar[anyio.CapacityLimiter]] = RunVar("tenantguard.workers")


def workers() -> anyio.CapacityLimiter:
    """Who does our own CPU work for one event loop: one thread.

    More would only fight over the interpreter's lock, and anyio's own forty serve the application's plain functions.
    Twenty hostile bodies at once delay other tenants 1.2 s (median) with forty threads, 0.06 s with one.
    """
    try:
        return _WORKERS.get()
    except LookupError:
        _WORKERS.set(anyio.CapacityLimiter(1))
        return _WORKERS.get()


def library() -> str:
    """``asyncio`` or ``trio``.

    Asking asyncio itself is ten times cheaper than sniffing, and takes a system call; a trio that nobody has imported
    does not run.
    """
    if "trio" not in sys.modules or asyncio._get_running_loop() is not None:  # noqa: SLF001 - its cheap public twin raises
        return "asyncio"
    return "trio"
