"""A connection to the ledger's PostgreSQL that answers or fails in bounded time, and never tells the password.

Whatever fails is a :class:`ConfigurationError` (the operator's), a :class:`PortError` (the world's), or one of
psycopg's for a value that no database takes.
"""

from __future__ import annotations

import math
import os
import re
import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format

from tenantguard.adapters.ledger.postgres_schema import prepare
from tenantguard.errors import ConfigurationError, PortError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.pq.abc import PGresult

Statement: TypeAlias = tuple[str, tuple[str, ...]]
"""A text with ``$1`` and so on, and the values for them, written as PostgreSQL reads them."""

SPOILING: Final = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)
"""What one value of a batch can be to blame for."""

CONFLICTS: Final = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
"""Another process was first; the transaction is undone, and the same again will see what it did."""

_OLDEST: Final = 13
"""The oldest PostgreSQL that the statements are written for."""

_HOUR_S: Final = 3600.0
_TIMEOUTS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_ANSWER_SHARE: Final = 0.8
_SERVER_SHARE: Final = 0.75
_LOCK_SHARE: Final = 0.6
_CONNECT_S_LEAST: Final = 2
"""As libpq has it."""

_REFUSED: Final = (
    (r"permission denied|must be owner", "the role may not do what the ledger needs", "see docs/ledger-postgres.md"),
    (r"password|role .* does not exist", "the server does not accept this user", "correct user and password"),
    (r"pg_hba\.conf", "the server does not let this user in from here", "see its pg_hba.conf"),
    (r"database .* does not exist", "there is no such database", "create it"),
)
"""What an operator must mend. By the server's words: a connection that is refused carries no code."""


class NoAnswer(psycopg.OperationalError):
    """The server is silent; the connection is given up."""


class Link:
    """A connection that says many things at once, and is given up where the server is silent for ``patience_s``.

    Statements go through libpq's own functions: as an object of the driver each would cost three times as much, and
    a batch has eight.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.patience_s = _HOUR_S
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared: dict[str, bytes] = {}
        self._names = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)

    @property
    def closed(self) -> bool:
        """Whether the connection was closed or lost."""
        return self._connection.closed

    def close(self) -> None:
        """Say goodbye."""
        self._selector.close()
        self._connection.close()

    def leave(self) -> None:
        """In a forked child: close the copy of the socket, so that the server sees when the parent goes."""
        self._selector.close()
        os.close(self._pgconn.socket)

    def take_time(self) -> None:
        """Let what follows take as long as it takes: a migration, an operator's question."""
        self.patience_s = _HOUR_S
        self.rows("SELECT set_config(name, '0', false) FROM unnest($1::text[]) AS name", texts(_TIMEOUTS))

    def rows(self, text: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        return self.exchange([(text, values)])[0]

    def exchange(self, statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
        """The rows of every statement, in one round trip. After one that fails, the rest is not run.

        Each is prepared with its first use. Values are text, as PostgreSQL reads them.
        """
        pgconn = self._pgconn
        new: dict[str, bytes] = {}
        pgconn.enter_pipeline_mode()
        for text, values in statements:
            name = self._prepared.get(text) or new.get(text)
            if name is None:
                self._names += 1
                name = new[text] = f"s{self._names}".encode()
                pgconn.send_prepare(name, text.encode())
            pgconn.send_query_prepared(name, [value.encode() for value in values], result_format=Format.BINARY)
        pgconn.pipeline_sync()
        results = self._receive()
        pgconn.exit_pipeline_mode()
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise _error(result)
        self._prepared.update(new)
        return [self._loaded(result) for result in results if result.command_status]

    def _receive(self) -> list[PGresult]:
        """Send what is queued; all results up to the synchronisation."""
        pgconn = self._pgconn
        results: list[PGresult] = []
        sending = pgconn.flush() != 0
        self._watch(sending=sending)
        while True:
            if sending or pgconn.is_busy():
                if not self._selector.select(self.patience_s):
                    pgconn.finish()
                    raise NoAnswer(f"the server has not answered for {self.patience_s:g} s")
                pgconn.consume_input()
                if sending:
                    sending = pgconn.flush() != 0
                    self._watch(sending=sending)
                continue
            result = pgconn.get_result()
            if result is None:
                if pgconn.status == ConnStatus.BAD:
                    raise next(map(_error, results), psycopg.OperationalError("the connection was lost"))
            elif result.status == ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)

    def _watch(self, *, sending: bool) -> None:
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if sending else selectors.EVENT_READ
        if self._selector.get_key(self._pgconn.socket).events != events:
            self._selector.modify(self._pgconn.socket, events)

    def _loaded(self, result: PGresult) -> list[tuple[Any, ...]]:
        if result.status != ExecStatus.TUPLES_OK:
            return []
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)


def _error(result: PGresult) -> psycopg.Error:
    """What the server said, as psycopg's error of that kind."""
    state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    text = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b"").decode(
        "utf-8", "replace"
    )
    try:
        kind = errors.lookup(state)
    except KeyError:
        kind = psycopg.OperationalError
    return kind(text)


def _machine_failed(error: OSError) -> PortError:
    """What this machine had no more of: waiting for a socket takes a file descriptor beside that of the socket."""
    return PortError("ledger", f"no connection can be made: {error.strerror or type(error).__name__}")


class Database:
    """Where the ledger is. ``deadline_s`` bounds every exchange with it."""

    def __init__(self, uri: str, schema: str, deadline_s: float) -> None:
        if re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) is None or schema.startswith("pg_"):
            raise ConfigurationError("a schema's name is lower case letters, digits and '_': write 'tenantguard'")
        try:
            self._parameters = conninfo_to_dict(uri)
        except (psycopg.Error, UnicodeError):
            raise ConfigurationError(
                "the ledger's PostgreSQL address cannot be read: write postgresql://user:password@host:5432/database,"
                " with what is special in a user or password %-encoded"
            ) from None
        self._password = str(self._parameters.get("password") or "")
        self._schema = schema
        self._deadline_s = deadline_s
        self._prepared = False

    def __repr__(self) -> str:
        return f"Database(schema={self._schema!r})"

    def connect(self, *, hurried: bool = True) -> Link:
        """A new connection, the schema made and checked. ``hurried`` False waits for its answers however long.

        Raises :class:`ConfigurationError` for what can never work, :class:`PortError` for what fails now.
        """
        try:
            connection = psycopg.connect(**self._with_defaults(), autocommit=True)
        except psycopg.Error as error:
            raise self.explain(error) from None
        except OSError as error:
            raise _machine_failed(error) from None
        try:
            db = Link(connection)
        except OSError as error:
            connection.close()
            raise _machine_failed(error) from None
        try:
            self._set_up(db)
            if not self._prepared:
                self._check(connection)
                prepare(db, self._schema)
                self._set_up(db)
                self._prepared = True
            if not hurried:
                db.take_time()
                db.rows("SELECT set_config('enable_seqscan', 'on', false)")
        except psycopg.Error as error:
            db.close()
            raise self.explain(error) from None
        except BaseException:
            db.close()
            raise
        return db

    def explain(self, error: psycopg.Error) -> ConfigurationError | PortError:
        """What ``error`` is for us, without the password and in one line."""
        text = self._text(error)
        for words, problem, remedy in _REFUSED:
            if re.search(words, text):
                return ConfigurationError(f"the ledger's PostgreSQL: {problem} ({text}): {remedy}")
        return PortError("ledger", text)

    def _text(self, error: psycopg.Error) -> str:
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
        return text.replace(self._password, "***") if self._password else text

    def _with_defaults(self) -> dict[str, Any]:
        """The address, with what it does not say itself."""
        deadline_ms = math.ceil(self._deadline_s * 1000)
        return {
            "application_name": "tenantguard",
            "connect_timeout": max(_CONNECT_S_LEAST, math.ceil(self._deadline_s)),
            "tcp_user_timeout": deadline_ms,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "target_session_attrs": "read-write",
            **self._parameters,
            "client_encoding": "UTF8",
        }

    def _set_up(self, db: Link) -> None:
        """Statements are key lookups with plans that last; what nobody waits for any more ends on the server too."""
        db.patience_s = self._deadline_s * _ANSWER_SHARE
        settings = {
            "search_path": f"{self._schema}, pg_temp",
            "default_transaction_isolation": "read committed",
            "statement_timeout": self._share(_SERVER_SHARE),
            "lock_timeout": self._share(_LOCK_SHARE),
            "idle_in_transaction_session_timeout": self._share(1),
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
        }
        names = list(settings)
        db.rows(
            "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)",
            texts(names),
            texts([settings[name] for name in names]),
        )
        db.rows(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )

    def _share(self, share: float) -> str:
        return f"{math.ceil(self._deadline_s * share * 1000)}ms"

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        version = connection.info.server_version // 10_000
        if version < _OLDEST:
            raise ConfigurationError(
                f"the PostgreSQL ledger needs PostgreSQL {_OLDEST}, the server is {version}: upgrade it"
            )
        if connection.info.parameter_status("server_encoding") != "UTF8":
            raise ConfigurationError(
                "the ledger's database is not encoded in UTF-8: create one with ENCODING 'UTF8' and name it"
            )


@contextmanager
def port_errors(database: Database) -> Iterator[None]:
    """Turn what the database can fail with into :class:`PortError`; a value that it refuses passes through."""
    try:
        yield
    except ConfigurationError as error:
        raise PortError("ledger", str(error)) from error
    except SPOILING:
        raise
    except psycopg.Error as error:
        explained = database.explain(error)
        raise (explained if isinstance(explained, PortError) else PortError("ledger", str(explained))) from None


# array literals: text that the server reads, since the driver would ask each element how to adapt it


def numbers(values: Sequence[int | None]) -> str:
    """Whole numbers as a PostgreSQL array."""
    return f"{{{','.join(map(str, values)).replace('None', 'NULL')}}}"


def binary(value: bytes) -> str:
    """One byte string."""
    return f"\\x{value.hex()}"


def binaries(values: Sequence[bytes | None]) -> str:
    """Byte strings as a PostgreSQL array."""
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


def texts(values: Sequence[str | None]) -> str:
    """Texts as a PostgreSQL array. Its texts have no NUL: one is written out, as lone surrogates are."""
    try:
        joined = "\0".join(values)  # type: ignore[arg-type]  # whole columns at once: there are thirty in a batch
    except TypeError:
        return "{" + ",".join(["NULL" if value is None else texts([value])[1:-1] for value in values]) + "}"
    if joined.count("\0") >= len(values) > 0:
        return texts([value and value.replace("\0", "\\x00") for value in values])
    joined = joined.replace("\\", "\\\\").replace('"', '\\"').replace("\0", '","')
    return f'{{"{joined}"}}' if values else "{}"
