"""Slots in a cluster: they are on one node, and may move to another."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenantguard.flow.ports import Crowded, Entered
from tests.adapters.limits_redis.test_many_servers import Cluster

from .conftest import turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Process


def test_turns_are_told_in_a_cluster_also_after_the_slots_have_moved(process: Callable[..., Process]) -> None:
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.wait()
            here, there = [process(cluster.uri, deadline_ms=5000, lease_s=4) for _ in range(2)]
            first = here.inside()
            second, promise = there.waits()
            here.leave(first)
            assert isinstance(turn(promise), Entered)
            _, last = here.waits()
            cluster.move(here.store.slot)
            refused: Any = there.enter(queue=0)[1]
            assert isinstance(refused, Crowded)
            assert not refused.degraded
            there.leave(second)
            entered = turn(last)
            assert isinstance(entered, Entered)
            assert not entered.degraded
            for each in (here, there):
                each.store.close()
        finally:
            for node in cluster.nodes:
                node.kill()
