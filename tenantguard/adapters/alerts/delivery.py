"""From the ledger's outbox to the senders: a thread of each process, each alert at least once, in no hurry.

Rules of this file
1. The ledger puts an alert into its outbox in the transaction that reaches the threshold, exactly once in a window.
   From there on it may be told twice, after a crash or where an answer was lost; its id tells receivers.
2. Which notices are due is the ledger's to say, by its clock. They are taken under a lease, so several processes
   share the work, and what a lost process took comes back.
3. One counts as delivered once every sender took it; within a process, one that took it does not get it again.
4. A try that fails is repeated after a wait that doubles from ``FIRST_WAIT_S`` to ``LONGEST_WAIT_S``, up to
   ``TRIES_MAX`` times, about half a day; then it is given up and stays in sight as failed.
5. No alert can stop the thread, and the thread can stop nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Final, Protocol

from tenantguard.adapters.alerts.payload import alert_id
from tenantguard.adapters.processes import watch
from tenantguard.errors import PortError
from tenantguard.model.ledger import NEVER_NS
from tenantguard.rules.ledger import read_alert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tenantguard.flow.ports import Outbox, System
    from tenantguard.model.ledger import Alert, Notice

POLL_S: Final = 5.0
"""How often the outbox is looked into: other processes put alerts there too."""

FIRST_WAIT_S: Final = 10
LONGEST_WAIT_S: Final = 3600
TRIES_MAX: Final = 20
TAKEN_MAX: Final = 8
"""Notices that are taken at once: few, since each may take as long as its senders' timeouts while the lease runs."""

_TOLD_MAX: Final = 10_000
_JOIN_S: Final = 0.05

_log: Final = logging.getLogger("tenantguard.alerts")


class Sender(Protocol):
    """Tells somebody of an alert."""

    name: str

    def send(self, alert: Alert, /) -> None:
        """Tell it once; raises :class:`~tenantguard.errors.PortError` where it was not taken. Bounded in time."""
        ...

    def close(self) -> None:
        """Give up what is under way in another thread; usable again afterwards."""
        ...


class Alerts:
    """Hands what is due in the outbox of ``ledger`` to every one of ``senders``.

    ``start`` begins the thread in this process, ``wake`` lets it look at once instead of within ``POLL_S`` seconds,
    ``deliver`` does one round in the calling thread. After a fork the child starts its own with its next ``start`` or
    ``wake``. ``close`` ends it, as the end of the process does; what was not told stays in the outbox.
    """

    def __init__(self, ledger: Outbox, senders: Sequence[Sender], system: System) -> None:
        self._ledger = ledger
        self._senders = tuple(senders)
        self._clock = system.clock
        self._begin()
        watch(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._woken = threading.Event()
        self._told: dict[int, set[str]] = {}  # by notice: the senders that took it

    def start(self) -> None:
        """Begin the thread where it does not run. Cheap, and never blocks on the world."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._closing, self._woken = threading.Event(), threading.Event()
                    self._thread = threading.Thread(
                        target=self._run, args=(self._closing, self._woken), name="tenantguard-alerts", daemon=True
                    )
                    self._thread.start()

    def wake(self) -> None:
        """Look into the outbox now; begins the thread where it does not run."""
        self.start()
        self._woken.set()

    def close(self) -> None:
        """End the thread, and the try that it is in."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._closing.set()
            self._woken.set()
        while thread.is_alive():
            for sender in self._senders:
                sender.close()  # again, for one that had not begun its try
            thread.join(_JOIN_S)

    def forget(self) -> None:
        """In a forked child: start over; the thread is the parent's."""
        self._begin()

    def deliver(self) -> int:
        """Tell what is due, once each; the number of alerts that every sender took.

        Raises :class:`PortError` where the ledger fails; what its lease held back is due again when that lapses.
        """
        return self._deliver(threading.Event())

    def _run(self, closing: threading.Event, woken: threading.Event) -> None:
        while not closing.is_set():
            woken.clear()
            try:
                self._deliver(closing)
            except PortError as failed:
                _log.warning("alerts wait: %s", failed)
            except Exception:  # noqa: BLE001 - whatever it is, the next round may do better
                _log.exception("alerts wait: the outbox cannot be read")
            woken.wait(POLL_S)

    def _deliver(self, closing: threading.Event) -> int:
        delivered = 0
        while not closing.is_set():
            notices = self._ledger.outbox(TAKEN_MAX)
            for notice in notices:
                if closing.is_set():
                    break
                if notice.kind == "alert" and self._tell(notice, closing):
                    delivered += 1
            if len(notices) < TAKEN_MAX:
                break
        return delivered

    def _tell(self, notice: Notice, closing: threading.Event) -> bool:
        """Whether it is told to all."""
        try:
            alert = read_alert(notice.payload)
        except Exception:  # noqa: BLE001 - perhaps a newer version's, whose process takes it when the lease lapses
            _log.error("notice %d of the outbox cannot be read as an alert", notice.seq)
            if notice.tries >= TRIES_MAX:
                self._ledger.retry(notice.seq, NEVER_NS)
            return False
        if len(self._told) > _TOLD_MAX:  # what other processes went on with
            self._told.clear()
        told = self._told.setdefault(notice.seq, set())
        failed = False
        for sender in self._senders:
            if sender.name in told:
                continue
            try:
                sender.send(alert)
            except Exception as problem:  # noqa: BLE001 - of a sender of the operator's: whatever it is
                if closing.is_set():  # given up by us: this was no try
                    return False
                failed = True
                shown = str(problem) if isinstance(problem, PortError) else type(problem).__name__
                _log.warning("alert %s was not taken by %s: %s", alert_id(alert), sender.name, shown)
            else:
                told.add(sender.name)
        if not failed:
            self._ledger.delivered(notice.seq)
        elif notice.tries < TRIES_MAX:
            self._ledger.retry(notice.seq, self._clock.wall_ns() + wait_ns(alert, notice.tries))
            return False
        else:
            _log.error("alert %s is given up after %d tries", alert_id(alert), notice.tries)
            self._ledger.retry(notice.seq, NEVER_NS)
        del self._told[notice.seq]
        return not failed


def wait_ns(alert: Alert, tries: int) -> int:
    """How long to wait after the last of ``tries``: between half of what doubles each time and all of it.

    Where in between is derived from the alert and the number of tries, so that alerts that failed together come
    apart, and a test knows when.
    """
    longest_s = min(FIRST_WAIT_S << min(tries - 1, 16), LONGEST_WAIT_S)
    digest = hashlib.blake2b(f"{alert_id(alert)}:{tries}".encode(), digest_size=4).digest()
    share = int.from_bytes(digest, "big")
    return longest_s * 500_000_000 + (longest_s * 500_000_000 * share >> 32)
