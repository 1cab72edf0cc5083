"""Waiting on an event loop, asyncio's or trio's, for promises that other threads keep."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenantguard.flow.effects import Promise


class Mailbox:
    """Wakes one event loop once for all promises that are kept together."""

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]] = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._kept: deque[asyncio.Future[bool]] = deque()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """The mailbox of this loop."""
        mailbox = cls._of_loop.get(loop)
        if mailbox is None:
            mailbox = cls._of_loop[loop] = cls(loop)
        return mailbox

    def post(self, future: asyncio.Future[bool]) -> Callable[[], None]:
        """Deliver ``future`` when the bell that is returned is rung; from any thread."""
        self._kept.append(future)
        return self._ring

    def _ring(self) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # that loop has closed; nobody waits there any more
            self._kept.clear()

    def _deliver(self) -> None:
        while self._kept:
            _wake(self._kept.popleft(), kept=True)


def _wake(future: asyncio.Future[bool], *, kept: bool) -> None:
    if not future.done():
        future.set_result(kept)


async def kept(promise: Promise[Any]) -> bool:
    """Wait until ``promise`` is kept; False at its deadline."""
    if promise.wait(0):
        return True
    if library() == "trio":
        return await _kept_trio(promise)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    promise.then(partial(Mailbox.of(loop).post, future))
    deadline = loop.call_later(promise.deadline_s, partial(_wake, future, kept=False))
    try:
        return await future
    finally:
        deadline.cancel()


async def _kept_trio(promise: Promise[Any]) -> bool:
    import trio  # noqa: PLC0415 - only where trio already runs the application

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
    """``asyncio`` or ``trio``; asking asyncio itself is ten times cheaper than sniffing."""
    return "asyncio" if asyncio._get_running_loop() is not None else "trio"  # noqa: SLF001 - its cheap public twin raises
