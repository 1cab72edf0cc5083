"""Clusters and sentinels, of real servers."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantguard.adapters.limits.redis.wire import redis_key
from tenantguard.flow.ports import ReturnTokens, SettleTokens, Shortage, Take, Taken, TakeTokens
from tenantguard.model.rate import Rate
from tenantguard.rules.bucket import bucket_key
from tests.conftest import Redis, free_port, server_binary

from .conftest import SECOND, one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Asked

HOUR = 3600 * SECOND
SLOTS = 16_384


class Cluster:
    """Three primaries."""

    def __init__(self, folder: Path) -> None:
        self.nodes = []
        for number in range(3):
            home = folder / str(number)
            home.mkdir()
            self.nodes.append(
                Redis(home, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", port=free_port(55_000))
            )
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            slots = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            assert node.ask("CLUSTER", "ADDSLOTS", *map(str, slots)) == b"+OK"
            for other in self.nodes:
                node.ask("CLUSTER", "MEET", "127.0.0.1", str(other.port))

    @property
    def uri(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def wait(self) -> None:
        while not all(self._knows(node) for node in self.nodes):
            time.sleep(0.01)

    def _knows(self, node: Redis) -> bool:
        import redis

        with redis.Redis(unix_socket_path=str(node.socket)) as client:
            info = client.execute_command("CLUSTER INFO")
            return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"

    def move(self, slot: int) -> None:
        """Give a slot, with what is in it, to another node."""
        import redis

        links = [redis.Redis(unix_socket_path=str(node.socket)) for node in self.nodes]
        names = [link.execute_command("CLUSTER", "MYID").decode() for link in links]
        source = slot * 3 // SLOTS
        target = (source + 1) % 3
        links[target].execute_command(f"CLUSTER SETSLOT {slot} IMPORTING {names[source]}")
        links[source].execute_command(f"CLUSTER SETSLOT {slot} MIGRATING {names[target]}")
        for key in links[source].execute_command(f"CLUSTER GETKEYSINSLOT {slot} 1000"):
            links[source].execute_command("MIGRATE", "127.0.0.1", self.nodes[target].port, key, 0, 1000)
        for link in (links[target], links[source]):
            link.execute_command(f"CLUSTER SETSLOT {slot} NODE {names[target]}")
        for link in links:
            link.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made.wait()
            yield made
        finally:
            for node in made.nodes:
                node.kill()


@pytest.fixture
def far(cluster: Cluster, asked: Callable[..., Asked]) -> Callable[..., Asked]:
    return lambda **options: asked(cluster.uri, **{"deadline_ms": 5000, **options})


def shared(scope: str, rate: Rate, cost: int = 1, **more: Any) -> Take:
    return Take(bucket_key("", scope, f"{scope}-{time.perf_counter_ns()}"), rate, cost, **more)


def test_tenants_of_every_node_are_limited(far: Callable[..., Asked]) -> None:
    store, other = far(), far()
    takes = [one(Rate(1, HOUR, 3)) for _ in range(30)]
    assert len({store.store.slot_of(redis_key(take.bucket)) * 3 // SLOTS for take in takes}) == 3
    for take in takes:
        assert store.admitted(take, 2) == 2
        assert other.admitted(take, 5) == 1


def test_what_tenants_share_goes_along_by_lease_and_nothing_is_admitted_beyond_it(far: Callable[..., Asked]) -> None:
    stores = [far(processes=2), far(processes=2)]
    everyone = shared("global", Rate(200, SECOND * 10**6, 40))
    plan = shared("plan", Rate(1000, SECOND, 1000))
    admitted = 0
    for number in range(120):
        answer = stores[number % 2].take(everyone, plan, one(Rate(1, HOUR, 1)))
        admitted += isinstance(answer, Taken)
    assert admitted == 40


def test_what_tenants_share_is_given_back_where_the_tenants_own_refuses(far: Callable[..., Asked]) -> None:
    store, other = far(), far()
    everyone, own = shared("global", Rate(1, HOUR, 20)), one(Rate(1, HOUR, 2))
    answers = [store.take(everyone, own) for _ in range(10)]
    assert sum(isinstance(answer, Taken) for answer in answers) == 2
    assert all(answer.failing == (1,) for answer in answers if isinstance(answer, Shortage))
    store.store.close()
    assert other.admitted(everyone, 30) == 18


def test_what_is_open_in_a_cluster_is_settled_and_returned(far: Callable[..., Asked]) -> None:
    store = far()
    everyone, own = shared("global", Rate(1, HOUR, 100)), one(Rate(1, HOUR, 100))
    takes = (Take(everyone.bucket, everyone.rate, 50), Take(own.bucket, own.rate, 50))
    for end, left in ((ReturnTokens, 100), (lambda taking: SettleTokens(taking, (10, 20)), 80)):
        taking = TakeTokens(store.new_id(), takes)
        assert isinstance(store.execute(taking), Taken)
        store.execute(end(taking.id or b""))
        assert store.level(own)[0] == left
    assert store.level(everyone)[0] in {89, 90}


def test_a_shadow_that_tenants_share_refuses_nothing(far: Callable[..., Asked]) -> None:
    store = far()
    dark = shared("global", Rate(1, HOUR, 2), shadow=True)
    answers = [store.take(dark, one(Rate(1, HOUR))) for _ in range(5)]
    assert all(isinstance(answer, Taken) for answer in answers)
    assert [answer.shadowed for answer in answers] == [(), (), (0,), (0,), (0,)]


def test_a_slot_that_moves_is_found_and_takes_its_buckets_along(far: Callable[..., Asked], cluster: Cluster) -> None:
    store = far()
    take = one(Rate(1, HOUR, 10))
    assert store.admitted(take, 4) == 4
    cluster.move(store.store.slot_of(redis_key(take.bucket)))
    assert store.admitted(take, 20) == 6


def test_a_node_that_hangs_is_decided_without_and_the_others_go_on(
    far: Callable[..., Asked], cluster: Cluster
) -> None:
    store = far(deadline_ms=100)
    rate = Rate(1, HOUR, 1000)
    takes = [one(rate) for _ in range(30)]
    store.recovers(takes[0])
    node_of = {take.bucket: store.store.slot_of(redis_key(take.bucket)) * 3 // SLOTS for take in takes}
    slots = store.store._servers._slots  # type: ignore[attr-defined]
    ports = [slots[SLOTS * number // 3 + 5].breaker.name for number in range(3)]
    assert [str(node.port) in name for node, name in zip(cluster.nodes, ports, strict=True)] == [True] * 3
    for take in takes:
        store.recovers(take)
    cluster.nodes[0].hang()
    try:
        for take in takes:
            if node_of[take.bucket] == 0:
                assert store.take(take).degraded
            else:
                store.recovers(take)
    finally:
        cluster.nodes[0].go_on()
    cluster.wait()
    for take in takes:
        store.recovers(take)


def test_a_cluster_that_is_not_there_is_decided_without(asked: Callable[..., Asked]) -> None:
    store = asked(f"redis+cluster://127.0.0.1:{free_port()}", deadline_ms=50)
    assert all(store.take(one(Rate(1, SECOND)), shared("global", Rate(1, SECOND))).degraded for _ in range(5))
    assert sorted(store.waited_s)[2] <= 0.055


# sentinels


@pytest.fixture
def sentinel(own_redis: Any) -> Iterator[tuple[Redis, Redis, int]]:
    """A master, its replica, and the port of a sentinel that watches them."""
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as folder:
        replica = Redis(Path(folder), "--replicaof", "127.0.0.1", str(own_redis.port))
        port = free_port()
        settings = Path(folder, "sentinel.conf")
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor limits 127.0.0.1 {own_redis.port} 1\n"
            "sentinel down-after-milliseconds limits 200\nsentinel failover-timeout limits 1000\n",
            encoding="ascii",
        )
        process = subprocess.Popen(
            [server_binary(), str(settings), "--sentinel"], cwd=folder, stdout=subprocess.DEVNULL
        )
        try:
            yield own_redis, replica, port
        finally:
            process.kill()
            process.wait()
            replica.kill()


def test_sentinels_say_who_the_master_is_also_after_it_died(
    sentinel: tuple[Redis, Redis, int], asked: Callable[..., Asked]
) -> None:
    import redis

    master, replica, port = sentinel
    with redis.Redis(port=port) as link:
        while True:
            try:
                if link.sentinel_slaves("limits"):
                    break
            except redis.RedisError:
                pass
            time.sleep(0.02)
    store = asked(f"redis+sentinel://127.0.0.1:{port}/limits", deadline_ms=200)
    take = one(Rate(1, HOUR, 10))
    assert store.admitted(take, 4) == 4
    assert not store.take(take).degraded
    with redis.Redis(unix_socket_path=str(replica.socket)) as link:
        while link.dbsize() < 1:
            time.sleep(0.01)
    master.kill()
    assert store.take(take).degraded
    store.recovers(Take(take.bucket, take.rate, 0))
    assert store.level(take)[0] in {5, 6}
