"""The thread that hears of turns: it lives as long as its store."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

from tenantguard.adapters.slots.redis.keeper import Keeper
from tenantguard.adapters.slots.redis.wire import SCRIPT
from tests.adapters.limits_redis.conftest import linked


class Stumbling:
    """A store that fails when it is first asked for a beat, as where no thread can be started."""

    def __init__(self) -> None:
        self.heard: SimpleQueue[bytes | Exception] = SimpleQueue()
        self._stumbles = True

    def beat_when_due(self) -> float:
        if self._stumbles:
            self._stumbles = False
            raise RuntimeError("can't start new thread")
        return 60.0

    def is_reachable(self) -> bool:
        return True

    def read(self, message: bytes) -> None:
        self.heard.put(message)

    def unheard(self, failure: Exception) -> None:
        self.heard.put(failure)


def test_a_beat_that_fails_ends_no_listening(redis: Any) -> None:
    """Nor the beats, without which all that the process holds is lost after a lease."""
    store = Stumbling()
    with linked(redis, SCRIPT) as (_, client):
        pool = client.connection_pool
        keeper = Keeper(store, b"turns", lambda: pool.connection_class(**pool.connection_kwargs))
        try:
            client.rpush("turns", b"a turn")
            assert isinstance(store.heard.get(timeout=20), RuntimeError)
            assert store.heard.get(timeout=20) == b"a turn"
        finally:
            keeper.end()
