"""Slot stores, asked as drivers ask them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.flow.effects import Promise
from tenantguard.flow.ports import Crowded, Entered, EnterSlot, LeaveSlot, SlotClaim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECOND: Final = 10**9
PATIENCE_S: Final = 20.0
_ids = itertools.count(1)


class Process:
    """A store, as one process has it."""

    def __init__(self, uri: str, **options: Any) -> None:
        self.store = RedisSlots(uri, **{"processes": 1, "deadline_ms": 1000, **options})
        self.waited_s: list[float] = []

    def enter(
        self,
        limit: int = 1,
        *,
        key: str = "acme|t",
        owner: str = "acme",
        queue: int = 1000,
        wait_s: int = 60,
        **terms: Any,
    ) -> tuple[bytes, Any]:
        """An id, and its answer, or the promise of its turn."""
        asked = next(_ids).to_bytes(16, "big")
        claims = (SlotClaim(key, limit, queue, wait_s * SECOND if queue else 0),)
        began = time.perf_counter()
        answer = self.store.execute(EnterSlot(asked, owner, claims, **terms))
        while isinstance(answer, Promise) and not answer.patient:
            answer = answer.result() if answer.wait(answer.deadline_s) else answer.late()
        self.waited_s.append(time.perf_counter() - began)
        return asked, answer

    def inside(self, *args: Any, **options: Any) -> bytes:
        """An id that is let in at once."""
        asked, answer = self.enter(*args, **options)
        assert isinstance(answer, Entered)
        return asked

    def waits(self, *args: Any, **options: Any) -> tuple[bytes, Promise[Any]]:
        """An id that waits, and its turn."""
        asked, turn = self.enter(*args, **options)
        assert isinstance(turn, Promise)
        return asked, turn

    def leave(self, left: bytes) -> None:
        assert self.store.execute(LeaveSlot(left)) is None

    def standing(self) -> list[tuple[bytes, bool]]:
        return [(each.id, each.holds) for each in self.store.standing()]

    def until(self, wanted: Callable[[], bool]) -> None:
        end = time.perf_counter() + PATIENCE_S
        while not wanted():
            assert time.perf_counter() < end, "it did not happen"
            time.sleep(0.002)

    def recovers(self) -> None:
        """Ask until the server decides again."""

        def is_back() -> bool:
            asked, answer = self.enter(1000, key="other|t")
            self.leave(asked)
            return isinstance(answer, Entered) and not answer.degraded

        self.until(is_back)


def turn(promise: Promise[Any]) -> Entered | Crowded:
    """The turn of who waits, once it comes."""
    while True:
        assert promise.wait(PATIENCE_S), "no turn came"
        answer = promise.result()
        if not isinstance(answer, Promise):
            return answer
        promise = answer


def watched(process: Process) -> list[Any]:
    """What is sent together from now on."""
    sent: list[Any] = []
    submit = process.store._servers.submit

    def watch(asked: Any) -> bool:
        sent.append(asked)
        return submit(asked)

    process.store._servers.submit = watch
    return sent


CHILD = """
import sys, time
from tenantguard.adapters.slots.redis.store import RedisSlots
from tenantguard.flow.ports import EnterSlot, SlotClaim
store = RedisSlots(sys.argv[1], lease_s=float(sys.argv[2]), deadline_ms=5000)
for number in range(int(sys.argv[3])):
    promise = store.execute(EnterSlot(b"child-%010d" % number, "acme", (SlotClaim(sys.argv[5], int(sys.argv[4])),)))
    assert promise.wait(10) and not promise.result().degraded
print("inside", flush=True)
time.sleep(60)
"""


def child(uri: str, lease_s: float, slots: int, limit: int, key: str = "acme|t") -> subprocess.Popen[bytes]:
    """Another process, which holds slots."""
    found = subprocess.Popen(
        [sys.executable, "-c", CHILD, uri, f"{lease_s}", f"{slots}", f"{limit}", key], stdout=subprocess.PIPE
    )
    assert found.stdout is not None
    assert found.stdout.readline() == b"inside\n"
    found.stdout.close()
    return found


@pytest.fixture
def process(redis: Any) -> Iterator[Callable[..., Process]]:
    """Stores on the shared server, or wherever ``uri`` says."""
    redis.flush()
    made: list[Process] = []

    def make(uri: str | None = None, **options: Any) -> Process:
        made.append(Process(uri or redis.uri, **options))
        return made[-1]

    yield make
    for each in made:
        each.store.close()
