"""From a storage address of ``limits`` to the servers behind it."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from limits.errors import ConfigurationError as LimitsConfigurationError
from limits.storage import storage_from_string
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from tenantguard.adapters.promise import safely
from tenantguard.adapters.redis.breaker import Breaker
from tenantguard.adapters.redis.lane import QUEUE_MAX, Lane
from tenantguard.errors import ConfigurationError, PortError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.connection import ConnectionInterface

    from tenantguard.adapters.promise import Bell
    from tenantguard.adapters.redis.lane import Asked
    from tenantguard.adapters.redis.script import Script

SCHEMES: Final = tuple(
    f"{name}{kind}://" for name in ("redis", "valkey") for kind in ("", "s", "+unix", "+sentinel", "+cluster")
)
"""The addresses that are understood; those of Valkey mean the same, since it speaks the same."""

_END_S: Final = 5.0
_PORT: Final = 6379

log = logging.getLogger(__name__)


class Servers(Protocol):
    """Where commands go."""

    clustered: bool

    def slot_of(self, key: bytes) -> int:
        """The slot of a key, 0 where there is no cluster."""
        ...

    def breaker_of(self, slot: int) -> Breaker:
        """Whether the server of a slot is to be asked."""
        ...

    def submit(self, asked: Sequence[Asked]) -> bool:
        """Queue commands of one slot; False where too many wait."""
        ...

    def probe(self, slot: int) -> None:
        """Ask the server of a slot whether it is there."""
        ...

    def connection(self, slot: int, timeout_s: float) -> ConnectionInterface:
        """A connection of the caller's own to the server of a slot, made but not connected.

        Every read of it takes at most ``timeout_s``. :class:`OSError` where the server is not known yet.
        """
        ...

    def begin(self) -> None:
        """As new: also in a forked child."""
        ...

    def close(self) -> None:
        """Send what is queued, and end."""
        ...


def open_servers(
    uri: str,
    port: str,
    script: Script,
    monotonic_ns: Callable[[], int],
    deadline_s: float,
    options: Mapping[str, Any],
    *,
    links: int,
    together: bool,
    tidy: Callable[[], None] | None,
    test_now: Callable[[], bytes] | None,
) -> Servers:
    """The servers at ``uri``, which decide with ``script`` for the store ``port``. Nothing is connected yet.

    See :class:`~tenantguard.adapters.redis.lane.Lane` for ``links`` and what follows. ``options`` are those that
    ``limits`` gives to redis-py. :class:`ConfigurationError` for an address that nobody understands; it never shows a
    password.
    """
    if not uri.startswith(SCHEMES):
        named = urlsplit(uri.partition("//")[0] + "//").scheme
        raise ConfigurationError(
            f"{port}: {named}:// is no address of a store of {port}; write memory://, "
            "redis://host:6379/0, rediss://, redis+unix:///path, redis+sentinel://host:26379/name or "
            "redis+cluster://host:6379, or the same with valkey"
        )
    scheme, rest = uri.split("://", 1)
    plain = f"{scheme.replace('valkey', 'redis', 1)}://{rest}"
    if scheme.endswith(("+sentinel", "+cluster")) and "?" in rest:
        raise ConfigurationError(f"{port}: an address of {scheme}:// has no options: remove what is behind the '?'")
    if scheme.endswith("+cluster") and not _names_nodes(plain):
        raise ConfigurationError(f"{port}: cannot read the address of {scheme}://: each node in it is host:port")
    bounded = {"socket_timeout": deadline_s, "socket_connect_timeout": deadline_s, "protocol": 2, **options}

    unknown_option = ConfigurationError(
        f"{port}: an option in the address of {scheme}:// or beside it is none that redis-py's connections "
        "understand; remove it, or correct its value"
    )

    def client(**more: Any) -> Any:
        try:
            return storage_from_string(plain, **bounded, **more).storage  # type: ignore[union-attr]
        except (LimitsConfigurationError, ValueError):
            raise ConfigurationError(
                f"{port}: cannot read the address of {scheme}://; check its hosts, its ports and the values after '?'"
            ) from None
        except TypeError:
            raise unknown_option from None

    def lane(pool: Any, name: str, moved: Callable[[list[Asked]], None] | None = None) -> Lane:
        def make(**more: Any) -> Any:
            return pool.connection_class(**{**pool.connection_kwargs, **more})

        try:
            make()  # connects nothing, but reads every option
        except (RedisError, TypeError, ValueError):
            raise unknown_option from None
        return Lane(
            make,
            Breaker(port, name),
            monotonic_ns,
            deadline_s,
            script,
            links=links,
            together=together,
            tidy=tidy,
            test_now=test_now,
            moved=moved,
        )

    if scheme.endswith("+cluster"):
        return Cluster(port, client, lane, monotonic_ns)
    if scheme.endswith("+sentinel"):
        # Where one sentinel is gone, the next is asked at once.
        once = {**bounded, "retry": Retry(NoBackoff(), 0)}
        pool = client(sentinel_kwargs=once).connection_pool
    else:
        pool = client().connection_pool
    at = pool.connection_kwargs  # never the address itself, which may hold a password
    where = f" at {at['host']}:{at.get('port', _PORT)}" if "host" in at else ""
    return OneServer(lane(pool, f"{scheme}{where}"))


def _names_nodes(address: str) -> bool:
    """Whether hosts and ports can be read; ``limits`` does it only once it connects."""
    try:
        places = urlsplit(address).netloc.rpartition("@")[2].split(",")
        nodes = [urlsplit(f"//{place.strip()}") for place in places]
        return all(node.hostname and node.port for node in nodes)
    except ValueError:
        return False


class OneServer:
    """A server, or the master that sentinels name."""

    clustered = False

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.begin = lane.begin
        self.close = lane.close
        self.submit = lane.submit

    def slot_of(self, key: bytes) -> int:
        """0."""
        return 0

    def breaker_of(self, slot: int) -> Breaker:
        """That of the server."""
        return self._lane.breaker

    def probe(self, slot: int) -> None:
        """Ask it whether it is there."""
        self._lane.probe()

    def connection(self, slot: int, timeout_s: float) -> ConnectionInterface:
        """Another connection to it."""
        return self._lane.connection(timeout_s)


class Cluster:
    """The primaries of a cluster, each with a lane of its own.

    A thread finds out which slot belongs to whom: before the first command, and when a server says that a slot has
    moved. Until then what is submitted waits there.
    """

    clustered = True

    def __init__(
        self,
        port: str,
        client: Callable[[], Any],
        lane: Callable[[Any, str, Callable[[list[Asked]], None]], Lane],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._port = port
        self._new_client = client
        self._new_lane = lane
        self._monotonic_ns = monotonic_ns
        self._discovery = Breaker(port, "redis+cluster")
        self.begin()

    def begin(self) -> None:
        """As new; also in a forked child."""
        self._discovery.begin()
        self._lanes: dict[str, Lane] = {}
        self._slots: dict[int, Lane] = {}
        self._client: Any = None
        self._lost: SimpleQueue[list[Asked] | None] = SimpleQueue()
        self._mapper: threading.Thread | None = None
        self._starting = threading.Lock()

    def slot_of(self, key: bytes) -> int:
        """The slot of a key."""
        return int(key_slot(key))

    def breaker_of(self, slot: int) -> Breaker:
        """That of the slot's server; before it is known, that of finding out."""
        lane = self._slots.get(slot)
        return lane.breaker if lane is not None else self._discovery

    def submit(self, asked: Sequence[Asked]) -> bool:
        """Queue commands where their slot is."""
        lane = self._slots.get(asked[0].slot)
        if lane is None:
            if self._lost.qsize() >= QUEUE_MAX:
                return False
            self._map(list(asked))
            return True
        return lane.submit(asked)

    def probe(self, slot: int) -> None:
        """Ask the slot's server whether it is there; and whether another has its slots now."""
        lane = self._slots.get(slot)
        if lane is not None:
            lane.probe()
        self._map([])

    def connection(self, slot: int, timeout_s: float) -> ConnectionInterface:
        """Another connection to the slot's server."""
        lane = self._slots.get(slot)
        if lane is None:
            raise ConnectionError("it is not known yet which server has this slot")
        return lane.connection(timeout_s)

    def close(self) -> None:
        """Send what is queued, and end."""
        with self._starting:
            mapper, self._mapper = self._mapper, None
            if mapper is not None:
                self._lost.put(None)
        if mapper is not None:
            mapper.join(_END_S)
        for lane in list(self._lanes.values()):
            lane.close()
        self._lanes, self._slots = {}, {}
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _map(self, lost: list[Asked]) -> None:
        self._lost.put(lost)
        with self._starting:
            if self._mapper is None:
                mapper = threading.Thread(target=self._run, name=f"tenantguard-{self._port}-cluster", daemon=True)
                mapper.start()  # or it is tried again with the next command
                self._mapper = mapper

    def _run(self) -> None:
        while True:
            waiting = self._lost.get()
            if waiting is None:
                return
            bells: set[Bell] = set()
            ended = False
            while not self._lost.empty():
                more = self._lost.get()
                if more is None:
                    ended = True
                    break
                waiting += more
            try:
                self._discover()
                self._discovery.worked()
                for asked in waiting:
                    lane = self._slots.get(asked.slot)
                    if lane is None or not lane.submit((asked,)):
                        asked.lose(PortError(self._port, "no server has this slot"), bells)
            except Exception as failed:  # whatever it is, somebody waits, and the thread must live
                if not isinstance(failed, RedisError | RedisClusterException | OSError):
                    log.exception("%s: the servers of a cluster cannot be found out", self._port)
                self._discovery.failed(type(failed).__name__, self._monotonic_ns())
                problem = PortError(self._port, f"the cluster failed: {type(failed).__name__}")
                for asked in waiting:
                    asked.lose(problem, bells)
            for bell in bells:
                safely(bell)
            if ended:
                return

    def _discover(self) -> None:
        if self._client is None:
            self._client = self._new_client()
        else:
            self._client.nodes_manager.initialize()
        slots: dict[int, Lane] = {}
        left = set(self._lanes)
        for slot, nodes in self._client.nodes_manager.slots_cache.items():
            primary = nodes[0]
            left.discard(primary.name)
            lane = self._lanes.get(primary.name)
            if lane is None:
                connection = self._client.get_redis_connection(primary)
                lane = self._lanes[primary.name] = self._new_lane(
                    connection.connection_pool, f"redis+cluster at {primary.name}", self._map
                )
            slots[slot] = lane
        self._slots = slots
        for name in left:
            self._lanes.pop(name).end()
