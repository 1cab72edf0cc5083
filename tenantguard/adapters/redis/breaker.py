"""Whether a server is asked at all: not while it fails, and then by one probe first."""

from __future__ import annotations

import logging
import random
import threading
from typing import Final

_FAILURES_MAX: Final = 3
_PAUSE_NS: Final = 250_000_000
_PAUSE_MAX_NS: Final = 4_000_000_000

log = logging.getLogger(__name__)


class Breaker:
    """Opens after three trips in a row that failed, and closes when a probe is answered.

    Between probes it pauses, twice as long each time, a quarter of a second at first and four at most; each pause is
    up to a quarter shorter or longer, so that processes that lost a server together do not come back together. A trip
    that fails right after a probe opens it again, with the pause that it had.
    """

    def __init__(self, port: str, name: str) -> None:
        self.port = port
        self.name = name
        self.begin()

    def begin(self) -> None:
        """As new; also in a forked child, where nobody brings the parent's probe to an end."""
        self.closed = True
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_ns = _PAUSE_NS
        self._probe_at = 0
        self._probing = False

    def failed(self, problem: str, now_ns: int) -> None:
        """A trip or a probe did not come back."""
        with self._lock:
            self._failures += 1
            self._probing = False
            if self._failures < _FAILURES_MAX:
                return
            self._probe_at = now_ns + int(self._pause_ns * random.uniform(0.75, 1.25))  # noqa: S311
            self._pause_ns = min(2 * self._pause_ns, _PAUSE_MAX_NS)
            was_closed, self.closed = self.closed, False
        if was_closed:
            log.warning("%s: %s does not answer (%s); deciding as on_error says", self.port, self.name, problem)

    def worked(self, *, probe: bool = False) -> None:
        """A trip, or a probe, was answered."""
        if self.closed and not self._failures:
            return
        with self._lock:
            self._probing = False
            if probe:
                self._failures = _FAILURES_MAX - 1
            else:
                self._failures, self._pause_ns = 0, _PAUSE_NS
            was_closed, self.closed = self.closed, True
        if not was_closed:
            log.warning("%s: %s answers again", self.port, self.name)

    def due(self, now_ns: int) -> bool:
        """Whether the caller is to probe now; one is told so."""
        if now_ns < self._probe_at:
            return False
        with self._lock:
            due = not (self.closed or self._probing) and now_ns >= self._probe_at
            self._probing = self._probing or due
        return due

    def retry_after_ns(self, now_ns: int) -> int:
        """Until the next probe, a quarter of a second at least."""
        return max(self._probe_at - now_ns, _PAUSE_NS)
