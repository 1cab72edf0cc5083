"""One exchange in progress, fed with events and obeyed by both drivers.

Rules of this file
1. Everything that decides when an exchange settles, and how it ended, lives here and nowhere else.
2. It knows no protocol: a driver turns ASGI messages or WSGI calls into events, and commands back into them.
3. It does no I/O and keeps no time.

=========  ==============================================  =========================================
state      event                                           next
=========  ==============================================  =========================================
OPEN       ``call``: the flow asks for the application     CALLED
OPEN       ``refuse``: a layer answered by itself          HEADED
CALLED     ``respond``: the application's head came        HEADED
CALLED     ``refuse``: a layer answered for a failure      HEADED
HEADED     ``feed``: body bytes                            STREAMING
any above  ``settle`` at the first settling point          SETTLING
SETTLING   ``settled``: every resolver has run             DONE
=========  ==============================================  =========================================

Settling points: the chunk that carries the protocol's terminal marker, the chunk that completes
``content-length``, the final chunk, the end or failure of the application, a cut, the end of a drain, cancellation.
What ``feed`` returned at a settling point is held by the driver until resolvers have run; no other chunk ever is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from tenantguard.errors import LayerError
from tenantguard.flow.http import Cut, Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import Response, Transform

SUCCESS: Final = range(200, 400)
"""The statuses of a response that may be charged."""

_DESCRIBING: Final = (
    "content-length",
    "etag",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "accept-ranges",
)  # headers that describe the application's own bytes, wrong once these are rewritten


class State(IntEnum):
    """Where an exchange stands; see the table above."""

    OPEN = 0
    CALLED = 1
    HEADED = 2
    STREAMING = 3
    SETTLING = 4
    DONE = 5


class Session:
    """The state machine of one exchange.

    ``due`` says that what ``feed`` just returned must be held until the exchange has settled; ``cut`` says that the
    stream ends here. ``holds_head`` says that the head must wait for the first bytes, so that a failure can still
    become a clean refusal.
    """

    # Defaults stand on the class: an exchange pays for the fields that it changes.
    state = State.OPEN
    called = False
    response: Response | None = None
    transforms: Sequence[Transform] = ()
    rewrites = False
    bare = False
    holds_head = False
    declared: int | None = None
    received = 0
    sent = 0
    end_seen = False
    due = False
    cut: Cut | None = None
    outcome: Outcome | None = None

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    @property
    def settled(self) -> bool:
        """The outcome was decided; resolvers run or have run."""
        return self.state >= State.SETTLING

    def call(self) -> None:
        """The flow asks for the application."""
        if self.state is not State.OPEN:
            raise LayerError("a layer called proceed twice for one exchange")
        self.state = State.CALLED
        self.called = True

    def respond(self, response: Response) -> None:
        """The application's head has passed the layers on its way out."""
        self.state = State.HEADED
        self.response = response
        length = response.headers.get("content-length")
        if length is not None and length.isascii() and length.isdigit():
            self.declared = int(length)
        if self.exchange.request.method == "HEAD" or response.status in {204, 304} or response.status < 200:
            response.marker = None
            self.declared = None
        elif response.transforms:
            self.transforms = response.transforms
            self.rewrites = any(transform.rewrites for transform in self.transforms)
            if self.rewrites:
                response.headers.remove(*_DESCRIBING)
        self.bare = not self.transforms and not self.exchange.resolvers and response.marker is None
        self.holds_head = self.declared is not None and not self.bare

    def refuse(self, response: Response) -> None:
        """A layer answered instead of the application; the body is whole."""
        self.state = State.HEADED
        self.response = response

    def feed(self, chunk: bytes, *, more: bool) -> bytes:
        """Take body bytes of the application; return what may leave, and set ``due`` or ``cut``."""
        if self.state is State.HEADED:
            self.state = State.STREAMING
        self.received += len(chunk)
        if self.end_seen:
            return self._after_end(chunk)
        complete = self.declared is not None and self.received >= self.declared
        ending = complete or not more
        if self.transforms:
            chunk = self._transform(chunk, ending=ending)
        if ending and self.cut is None:
            self.end_seen = True
        if not self.settled:
            marker = self.response.marker if self.response is not None else None
            self.due = ending or self.cut is not None or (marker is not None and marker.ended)
        return chunk

    def count(self, chunk: bytes, *, more: bool) -> bool:
        """Count body bytes that pass untouched; True at the end of the body."""
        length = len(chunk)
        self.received += length
        self.sent += length
        if not more or (self.declared is not None and self.received >= self.declared):
            self.end_seen = True
        return self.end_seen

    def settle_bare(self, *, left: bool) -> None:
        """Nothing was taken that must end; the outcome matters to observers alone."""
        if self.exchange.observers:
            self.outcome = self.conclude(left=left)
        self.state = State.DONE

    def _after_end(self, chunk: bytes) -> bytes:
        """Bytes beyond ``content-length`` or the end: never past transforms that have finished."""
        if chunk and self.rewrites:
            self.cut = Cut("response.too_long")
            return b""
        return chunk

    def _transform(self, chunk: bytes, *, ending: bool) -> bytes:
        position = 0
        try:
            for position, transform in enumerate(self.transforms):
                out = transform.feed(chunk)
                if ending and not isinstance(out, Cut):
                    rest = transform.finish()
                    out = rest if isinstance(rest, Cut) else out + rest
                if isinstance(out, Cut):
                    return self._cut_at(position, out)
                chunk = out
        except Exception as failure:  # noqa: BLE001 - whatever a transform raises, nothing raw may leave
            return self._cut_at(position, Cut(f"transform.{type(failure).__name__}"))
        return chunk

    def _cut_at(self, position: int, cut: Cut) -> bytes:
        """What lies further in is dropped unflushed; the tail passes what lies further out."""
        self.cut = cut
        data = cut.tail
        try:
            for transform in self.transforms[position + 1 :]:
                out = transform.feed(data)
                rest = transform.finish()
                if isinstance(out, Cut) or isinstance(rest, Cut):
                    self.cut = Cut(cut.reason)
                    return b""
                data = out + rest
        except Exception:  # noqa: BLE001 - the response is being cut already
            self.cut = Cut(cut.reason)
            return b""
        return data

    def conclude(self, *, error: BaseException | None = None, left: bool = False) -> Outcome:
        """How the exchange ends if it ends now. ``left``: the client is known to have gone."""
        ending, reason = self._ending(error, left=left)
        return Outcome(
            ending,
            called=self.called,
            status=self.response.status if self.response is not None else 0,
            received=self.received,
            sent=self.sent,
            ended=self._ended(),
            reason=reason,
            error=error,
        )

    def settle(self, outcome: Outcome) -> None:
        """The settling point was reached; resolvers run now."""
        assert not self.settled, "an exchange settles once"
        self.outcome = outcome
        self.state = State.SETTLING
        self.due = False

    def finish(self) -> None:
        """Every resolver has run."""
        self.state = State.DONE

    def _ended(self) -> bool:
        marker = self.response.marker if self.response is not None else None
        if marker is not None:
            return marker.ended and not marker.failed
        return self.end_seen and (self.declared is None or self.received == self.declared)

    def _ending(self, error: BaseException | None, *, left: bool) -> tuple[Ending, str | None]:
        response = self.response
        if self.cut is not None:
            return Ending.CUT, self.cut.reason
        if not self.called:
            if left:
                return Ending.LEFT, None
            return (Ending.REFUSED, None) if error is None else (Ending.FAILED, type(error).__name__)
        if response is not None and response.status not in SUCCESS:
            return Ending.FAILED, "response.status"
        if response is not None and response.marker is not None and response.marker.failed:
            return Ending.FAILED, "response.error_event"
        if left:
            return Ending.LEFT, None
        if error is not None:
            return Ending.FAILED, type(error).__name__
        if response is None or not (self._ended() or self.end_seen):
            return Ending.FAILED, "response.unfinished"
        if not self._ended():
            return Ending.FAILED, "response.marker_missing" if response.marker is not None else "response.length"
        return Ending.COMPLETED, None
