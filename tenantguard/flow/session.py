"""One exchange in progress, fed with events and obeyed by both drivers.

Rules of this file
1. Everything that decides when an exchange settles, and how it ended, lives here and nowhere else.
2. It knows no protocol: a driver turns ASGI messages or WSGI calls into events, and commands back into them.
3. It does no I/O and keeps no time.
4. An event that the table does not list is a fault: of a layer for ``call``, else of the driver.

=========  ==============================================================  =========
state      event                                                           next
=========  ==============================================================  =========
OPEN       ``call``: the flow asks for the application                     CALLED
OPEN       ``refuse``: a layer answers by itself                           HEADED
OPEN       ``settle``: the flow failed, or was cancelled                   SETTLING
CALLED     ``refuse``: a layer answers instead of the application          HEADED
CALLED     ``respond``: the application's head has passed the layers       HEADED
CALLED     ``settle``: the application failed, or returned without a head  SETTLING
HEADED     ``count``: bytes pass that nobody looks at                      HEADED
HEADED     ``settle_bare``: they have ended, and nothing was taken         DONE
HEADED     ``feed``: an empty chunk                                         HEADED
HEADED     ``feed``: the first bytes pass the transforms                   STREAMING
HEADED     ``settle``: a settling point before any bytes                   SETTLING
STREAMING  ``feed``: more bytes                                            STREAMING
STREAMING  ``settle_bare``: they have ended, and nothing was taken         DONE
STREAMING  ``settle``: a settling point                                    SETTLING
SETTLING   ``feed``: bytes after the settling point                        SETTLING
SETTLING   ``withhold``: money could not be ended                          SETTLING
SETTLING   ``finish``: every resolver has run                              DONE
DONE       ``count``: bytes after the end                                  DONE
DONE       ``feed``: bytes after the settling point                        DONE
DONE       ``withhold``: money could not be ended                          DONE
=========  ==============================================================  =========

Settling points: the chunk that carries the protocol's terminal marker, the chunk that completes
``content-length``, the final chunk, the end or failure of the application, a cut, the end of a drain, cancellation.
What ``feed`` returned at a settling point is held by the driver until resolvers have run; no other chunk ever is.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from tenantguard.errors import LayerError
from tenantguard.flow.http import Cut, Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.exchange import Exchange
    from tenantguard.flow.http import RawHeaders, Response, Transform

SUCCESS: Final = range(200, 400)
"""The statuses of a response that may be charged."""

CLEAN_CLOSES: Final = frozenset({1000, 1001})
"""The close codes of a WebSocket that ended as it should: normal closure, going away (RFC 6455 7.4.1)."""

_DESCRIBING: Final = (
    "content-length",
    "etag",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "accept-ranges",
)  # headers that describe the application's own bytes, wrong once these are rewritten


def _length_of(headers: RawHeaders) -> int | None:
    """How long a response says that it is, by its first ``content-length``; None where that is no plain number."""
    for name, value in headers:
        if len(name) == 14 and name.lower() == b"content-length":
            return int(value) if value.isdigit() else None
    return None


_UNREAD: Final = -1


class State(IntEnum):
    """Where an exchange stands; see the table above."""

    OPEN = 0
    CALLED = 1
    HEADED = 2
    STREAMING = 3
    SETTLING = 4
    DONE = 5


_OPEN, _CALLED, _HEADED, _STREAMING, _SETTLING, _DONE = State  # a look-up in an Enum costs more than a comparison


class Session:
    """The state machine of one exchange.

    ``due`` says that what ``feed`` just returned must be held until the exchange has settled; ``cut`` says that the
    stream ends here. ``holds_head`` says that the head must wait for the first bytes, so that a failure can still
    become a clean refusal. ``bare`` says that nothing rewrites the response and nothing ends with it.
    """

    # What few exchanges look at stands on the class. What all look at is set: it is found in a quarter of the time.
    rewrites = False
    work = 1
    _declared: int | None = None
    end_seen = False
    due = False
    cut: Cut | None = None

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.state: State = _OPEN
        self.called = False
        self.response: Response | None = None
        self.transforms: Sequence[Transform] = ()
        self.bare = False
        self.holds_head = False
        self.received = 0
        self.sent = 0
        self.outcome: Outcome | None = None

    @property
    def settled(self) -> bool:
        """The outcome was decided; resolvers run or have run."""
        return self.state >= _SETTLING

    def call(self) -> None:
        """The flow asks for the application."""
        if self.state is not _OPEN:
            raise LayerError("proceed was called a second time, or outside of handle")
        self.state = _CALLED
        self.called = True

    def respond(self, response: Response) -> None:
        """The application's head has passed the layers on its way out."""
        assert self.state is _CALLED
        self.state = _HEADED
        self.response = response
        self._declared = _UNREAD
        if response.transforms or response.marker is not None:
            if self.bodiless(response):
                response.marker = None
            elif response.transforms:
                self._declared = _length_of(response.headers.raw)  # before it is dropped
                self._enlist(response)
        self.bare = not self.transforms and not self.exchange.resolvers and response.marker is None
        self.holds_head = not self.bare and (self.declared is not None or self.bodiless(response))

    @property
    def declared(self) -> int | None:
        """How long the response says that it is; read when it is first asked for: most end with their last chunk."""
        if self._declared == _UNREAD:
            response = self.response
            assert response is not None
            self._declared = None if self.bodiless(response) else _length_of(response.headers.raw)
        return self._declared

    def refuse(self, response: Response, *, error: BaseException | None = None) -> bool:
        """A layer answers, for ``error`` of the application where it is given; the body is whole.

        It passes the transforms of the layers further out. False where one of these cut it: then nothing of it may
        leave.
        """
        assert self.state <= _CALLED
        self.state = _HEADED
        self.response = response
        if response.transforms and response.body and not self.bodiless(response):
            self._enlist(response)
            response.body = self._transform(response.body, ending=True)
            if self.cut is not None:
                return False
        if self.called and error is None:
            self.cut = Cut(self._denial() or "response.replaced")
        return True

    def bodiless(self, response: Response) -> bool:
        """HTTP gives this response no body (RFC 9110 6.4.1)."""
        return self.exchange.request.method == "HEAD" or response.status in {204, 304} or response.status < 200

    def feed(self, chunk: bytes, *, more: bool) -> bytes:
        """Take body bytes of the application; return what may leave, and set ``due`` or ``cut``."""
        assert self.state >= _HEADED
        if chunk and self.state is _HEADED:
            self.state = _STREAMING
        self.received += len(chunk)
        if self.end_seen:
            return self._after_end(chunk)
        declared = self.declared
        complete = declared is not None and self.received >= declared
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
        """Count body bytes that pass untouched; True where they are the last, and the exchange ends with them."""
        assert self.state is _HEADED or self.state is _DONE
        length = len(chunk)
        self.received = received = self.received + length
        self.sent += length
        if more and (self.declared is None or received < self.declared):
            return False
        self.end_seen = True
        return self.state is _HEADED

    def settle_bare(self, *, left: bool) -> None:
        """Nothing was taken that must end; the outcome matters to observers alone."""
        assert self.state is _HEADED or self.state is _STREAMING
        if self.exchange.observers:
            self.outcome = self.conclude(left=left)
        self.state = _DONE
        self.due = False

    def settle(self, outcome: Outcome) -> None:
        """The settling point was reached; resolvers run now.

        A rewritten response that ended short of its length is cut: its new length would call it whole.
        """
        assert not self.settled, "an exchange settles once"
        if self.rewrites and self.end_seen and self.cut is None and self.received < (self.declared or 0):
            self.cut = Cut("response.length")
        self.outcome = outcome
        self.state = _SETTLING
        self.due = False

    def withhold(self, reason: str, response: Response | None) -> None:
        """What was held never leaves; ``response`` does instead, where the head is not out."""
        assert self.settled
        self.cut = Cut(reason)
        if response is not None:
            self.response = response
        if self.outcome is not None:
            status = self.response.status if self.response is not None else 0
            self.outcome = replace(self.outcome, ending=Ending.CUT, reason=reason, status=status)

    def finish(self) -> None:
        """Every resolver has run."""
        assert self.state is _SETTLING
        self.state = _DONE

    def conclude(self, *, error: BaseException | None = None, left: bool = False, drained: bool = False) -> Outcome:
        """How the exchange ends if it ends now. ``left``: the client is known to have gone.

        ``drained``: the application has not heard of that, so that it ended or failed by itself.
        """
        ended = self._ended()
        failed_unheard = drained and (error is not None or not ended)
        ending, reason = self._ending(error, left=left and not failed_unheard, ended=ended)
        return self._outcome(ending, reason, error, ended=ended)

    def conclude_socket(self, code: int | None, *, left: bool, error: BaseException | None = None) -> Outcome:
        """How a WebSocket ends if it ends now, closed with ``code`` by the client (``left``) or the application."""
        accepted = self.response is not None and self.response.status == 101 and self.cut is None
        if not accepted:
            return self.conclude(error=error, left=left)
        if error is not None:
            return self._outcome(Ending.FAILED, type(error).__name__, error, ended=self._ended())
        if code is None:
            return self._outcome(Ending.FAILED, "response.unfinished", None, ended=self._ended())
        self.end_seen = code in CLEAN_CLOSES
        if self.end_seen:
            return self._outcome(Ending.COMPLETED, None, None, ended=self._ended())
        ending = Ending.LEFT if left else Ending.FAILED
        return self._outcome(ending, f"websocket.{code}", None, ended=self._ended())

    def final(self) -> Outcome:
        """The outcome as observers hear it: with what was sent after settling. Only once settled."""
        outcome = self.outcome
        assert outcome is not None
        if outcome.sent == self.sent:
            return outcome
        return Outcome(  # a third of the time of dataclasses.replace
            outcome.ending,
            outcome.called,
            outcome.status,
            outcome.received,
            self.sent,
            outcome.ended,
            outcome.reason,
            outcome.error,
        )

    def _enlist(self, response: Response) -> None:
        self.transforms = response.transforms
        rewrites, work = False, 0
        for transform in self.transforms:
            rewrites = rewrites or transform.rewrites
            work = max(work, getattr(transform, "work", 1))
        self.rewrites, self.work = rewrites, work
        if rewrites:
            response.headers.remove(*_DESCRIBING)

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

    def _outcome(self, ending: Ending, reason: str | None, error: BaseException | None, *, ended: bool) -> Outcome:
        status = self.response.status if self.response is not None else 0
        return Outcome(ending, self.called, status, self.received, self.sent, ended, reason, error)

    def _ended(self) -> bool:
        marker = self.response.marker if self.response is not None else None
        if marker is not None:
            return marker.ended and not marker.failed
        return self.end_seen and (self.declared is None or self.received == self.declared)

    def _denial(self) -> str | None:
        """Why the last decision refused this request, if it did."""
        decisions = self.exchange.decisions
        return decisions[-1].reason if decisions and decisions[-1].kind == "deny" else None

    def _ending(self, error: BaseException | None, *, left: bool, ended: bool) -> tuple[Ending, str | None]:
        response = self.response
        failure = type(error).__name__ if error is not None else None
        if self.cut is not None:
            return Ending.CUT, self.cut.reason
        if not self.called:
            if left:
                return Ending.LEFT, None
            return (Ending.REFUSED, self._denial()) if failure is None else (Ending.FAILED, failure)
        if response is not None and response.status not in SUCCESS:
            return Ending.FAILED, failure or "response.status"
        if response is not None and response.marker is not None and response.marker.failed:
            return Ending.FAILED, "response.error_event"
        if left:
            return Ending.LEFT, None
        if failure is not None:
            return Ending.FAILED, failure
        if response is None or not (ended or self.end_seen):
            return Ending.FAILED, "response.unfinished"
        if not ended:
            return Ending.FAILED, "response.marker_missing" if response.marker is not None else "response.length"
        return Ending.COMPLETED, None
