"""Effects: questions that a suspended flow asks the outside world, each typed by its answer.

A layer writes ``answer = yield from SomeEffect(...)``. The driver that runs the flow (ASGI, WSGI, a test's script)
answers. An answer may be a value, an awaitable, or a :class:`Promise` that another thread keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from tenantguard.errors import PortTimeout
from tenantguard.flow.http import Body, Response, Unreadable
from tenantguard.model.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

COMPUTE_IN_PLACE_BYTES: Final = 65_536
"""Our own CPU work up to this size runs in place on an event loop; a hop to a worker costs about 100 us."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Flow: TypeAlias = "Generator[Effect[Any], Any, T]"


class Promise(Generic[T]):
    """An answer that another thread will give.

    ``port`` and ``deadline_s`` say whose it is and how long a driver may wait; past that the driver goes on with
    :meth:`late`, and the answer, when it comes, is dropped. What either gives may be another promise, to be waited
    for in its turn. ``patient`` says that the wait is a request's own, in a queue, and may be long: a driver that can
    see its client leave stops waiting then, with :class:`~tenantguard.errors.ClientLeftError`.
    """

    __slots__ = ()
    port: str
    deadline_s: float
    patient = False

    def then(self, call: Callable[[], Callable[[], None] | None]) -> None:
        """Call ``call`` once the answer is there: at once if it is, else from the answering thread.

        What ``call`` returns, if anything, is called once after all promises that are kept together, however many
        returned it: waking an event loop once instead of a hundred times halves what an answer costs.
        """
        raise NotImplementedError

    def wait(self, timeout_s: float) -> bool:
        """Block until the answer is there; False if ``timeout_s`` seconds passed first."""
        raise NotImplementedError

    def result(self) -> T:
        """The answer, or the exception it failed with. Only once it is there."""
        raise NotImplementedError

    def late(self) -> T:
        """What is answered to who has waited for ``deadline_s`` in vain: :class:`~tenantguard.errors.PortTimeout`."""
        raise PortTimeout(self.port, self.deadline_s)


class Effect(Generic[T_co]):
    """A question to the outside world. ``answer = yield from effect``."""

    __slots__ = ()

    def __iter__(self) -> Generator[Effect[Any], Any, T_co]:
        answer: T_co = yield self
        return answer


class CallApp(Effect[Response]):
    """Call the application; answered when it starts its response. Layers yield it through ``proceed``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "CallApp()"


CALL_APP: Final = CallApp()


@frozen
class ReadBody(Effect[Body | Unreadable]):
    """Read the request's body, at most ``limit`` bytes, once for all layers.

    Answered by the :class:`~tenantguard.flow.http.Body`, the same object every time, or by what is wrong with it.
    """

    limit: int


@frozen
class Ask(Effect[T_co]):
    """Call user code: ``async def`` is awaited, ``def`` runs in a bounded worker, in place when ``inline``."""

    call: Callable[[], Any]
    inline: bool = False


@frozen
class Compute(Effect[T_co]):
    """Do our own CPU work of about ``size`` bytes: in place when small, else in a worker."""

    call: Callable[[], T_co]
    size: int


def ask(call: Callable[[], Awaitable[T]] | Callable[[], T], *, inline: bool = False) -> Flow[T]:
    """Ask user code, written ``answer = yield from ask(partial(decide, request))``."""
    answer: T = yield Ask(call, inline)
    return answer


def compute(call: Callable[[], T], size: int) -> Flow[T]:
    """Compute, written ``text = yield from compute(partial(scrub, body), len(body))``."""
    answer: T = yield Compute(call, size)
    return answer
