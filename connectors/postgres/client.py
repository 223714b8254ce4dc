"""Connections: one for SQL, one for the replication stream.

The stream speaks the streaming replication protocol (PostgreSQL manual, 54.4) over psycopg's libpq binding, since
psycopg 3 has no replication API.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc.errors import ConfigurationError, GapError, PermanentError, UnreachableError
from cdc.tls import is_on_this_machine
from connectors.postgres.config import PostgresConfig
from connectors.postgres.lsn import format_lsn
from connectors.postgres.pgoutput import standby_status

SESSION: Final = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex "
    "-c search_path=pg_catalog"
)
"""Settings under which the server prints values the way that ``values.py`` reads them, and finds no stranger's
functions before its own."""

LIMITS: Final = (
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
"""The server's limits on sessions, which are for those of applications: the first would end a chunk's read. The last,
since PostgreSQL 17, would end the stream in each large transaction, as sending it is a transaction of ours: the source
would never get past it."""
_UNLIMITED: Final = f"SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN {LIMITS}"  # noqa: S608 - ours

CONNECT_TIMEOUT_SECONDS: Final = 10
STOP_SECONDS: Final = 0.1
"""How soon a command that takes long is cancelled."""
SILENCE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
"""A network that went silent is a lost connection after half a minute (seconds; the last one milliseconds)."""


def conninfo(config: PostgresConfig, **extra: Any) -> str:
    """libpq's connection string. TLS is verified unless the server is on this machine or the URL says otherwise.

    Raises ConfigurationError when the URL is no PostgreSQL URL or holds a password.
    """
    try:
        parameters = conninfo_to_dict(config.url)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "the source's url is not a PostgreSQL URL", hint="postgresql://user@host:5432/database"
        ) from None
    if config.password is not None:
        parameters["password"] = config.password.get_secret_value()
    if "sslmode" not in parameters and not _is_local(str(parameters.get("host", ""))):
        parameters["sslmode"] = "verify-full"
        parameters.setdefault("sslrootcert", "system")
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_SECONDS)
    parameters.setdefault("application_name", "cdc")
    for name, value in SILENCE.items():
        parameters.setdefault(name, value)
    parameters["client_encoding"] = "UTF8"
    parameters["options"] = f"{parameters.get('options') or ''} {SESSION}".strip()
    return make_conninfo(**{**parameters, **extra})


def _is_local(host: str) -> bool:
    return not host or host.startswith(("/", "@")) or is_on_this_machine(host)


def connect(config: PostgresConfig) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection for SQL, in autocommit.

    Its own messages in the WAL must not wait for a standby that is lost, hence ``synchronous_commit = local``.
    Raises UnreachableError.
    """
    try:
        connection = psycopg.connect(conninfo(config), autocommit=True)
        connection.execute("SET synchronous_commit = local")
        connection.execute(_UNLIMITED)
    except psycopg.Error as error:
        raise unreachable(str(error)) from None
    return connection


def unreachable(text: str) -> UnreachableError:
    """The error for a server that refuses or does not answer; `text` is libpq's, which has no secrets in it."""
    line = " ".join(text.split()) or "connection closed"
    hint = "check that the server runs and that url, user and password of the source are right"
    if "pg_hba" in line:
        hint = "add to pg_hba.conf: hostssl DATABASE USER ADDRESS scram-sha-256; then SELECT pg_reload_conf();"
    elif "REPLICATION" in line and "role" in line:
        hint = "ALTER ROLE … REPLICATION;"
    return UnreachableError(f"PostgreSQL: {line}", hint=hint)


def refused(error: psycopg.Error, fix: str = "") -> UnreachableError | PermanentError:
    """The error for SQL that failed: a lost connection, or a statement that the server refuses; `fix` is its hint."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or error.sqlstate is None:
        return unreachable(str(error))
    return PermanentError(f"PostgreSQL: {error.diag.message_primary} (SQLSTATE {error.sqlstate})", hint=fix)


RECEIVE_BYTES: Final = 256 << 10
"""Room of libpq's buffer: it takes as much from the socket at once. 16 KiB at first, which makes a backlog a tenth
slower."""


class ReplicationConnection:
    """A connection in replication mode: SQL first, then the stream.

    After :meth:`start` it is in COPY_BOTH mode; `receive` is then the connection's own ``get_copy_data``.
    """

    def __init__(self, config: PostgresConfig) -> None:
        self._connection = pq.PGconn.connect(conninfo(config, replication="database").encode())
        if self._connection.status != pq.ConnStatus.OK:
            error = self._connection.error_message.decode("utf-8", "replace")
            self._connection.finish()
            raise unreachable(error)
        self.receive = self._connection.get_copy_data
        """``receive(1)`` → (length, bytes): length 0 when nothing is there, -1 at the end of the stream. psycopg.Error
        when the connection broke."""
        self.query(_UNLIMITED)

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run one statement by the simple protocol; rows as the server prints them.

        Raises PermanentError with the server's message for a refused statement, UnreachableError for a lost connection.
        """
        result = self._connection.exec_(sql.encode())
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise self._failure(result)
        return [
            tuple(
                value.decode() if (value := result.get_value(row, column)) is not None else None
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]

    def run(self, command: str, stopping: Callable[[], bool]) -> bool:
        """Run a command that may take long. False: it was cancelled, since `stopping()`. Raises as `query` does."""
        connection = self._connection
        try:
            connection.send_query(command.encode())
            while connection.is_busy():
                if stopping():
                    connection.get_cancel().cancel()
                    return False
                self.wait(STOP_SECONDS)
            results = list(iter(connection.get_result, None))
        except psycopg.Error as error:
            raise unreachable(str(error)) from None
        for result in results:
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise self._failure(result)
        return True

    def start(self, slot: str, publication: str, lsn: int) -> None:
        """``START_REPLICATION`` with pgoutput, protocol 1 (whole transactions, at their commit).

        Raises UnreachableError when the slot is in use by another connection, PermanentError when it can't be used.
        """
        self.query(f"SELECT repeat(' ', {RECEIVE_BYTES})")  # the buffer grows with the largest message, and stays so
        name = '"' + publication.replace('"', '""') + '"'
        literal = "'" + name.replace("'", "''") + "'"
        result = self._connection.exec_(
            f'START_REPLICATION SLOT "{slot}" LOGICAL {format_lsn(lsn)} '
            f"(proto_version '1', publication_names {literal}, messages 'true')".encode()
        )
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._failure(result)
        self._connection.nonblocking = 1

    def wait(self, seconds: float) -> bool:
        """Wait until the server has sent something; False when the time is over. Raises UnreachableError."""
        ready, _, _ = select.select([self._connection.socket], [], [], seconds)
        if ready:
            try:
                self._connection.consume_input()
            except psycopg.Error as error:
                raise unreachable(str(error)) from None
        return bool(ready)

    def feedback(self, write: int, flush: int) -> None:
        """Standby status update: WAL up to `flush` may be discarded, up to `write` it was received."""
        try:
            self._connection.put_copy_data(standby_status(write, flush, int(time.time() * 1_000_000)))
            self._connection.flush()
        except psycopg.Error as error:
            raise unreachable(str(error)) from None

    def end_of_stream(self) -> UnreachableError | PermanentError | GapError:
        """The error that ended the stream, after ``receive`` returned -1."""
        return self._failure(self._connection.get_result())

    def close(self) -> None:
        """Close; the slot is free for others at once. Safe to call twice."""
        self._connection.finish()

    def _failure(self, result: pq.abc.PGresult | None) -> UnreachableError | PermanentError | GapError:
        if result is None:
            return unreachable(self._connection.error_message.decode("utf-8", "replace"))
        text = result.error_message.decode("utf-8", "replace")
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        if state == "55006":
            return UnreachableError(
                f"PostgreSQL: {' '.join(text.split())}", hint="another process captures this source; this one waits"
            )
        if state.startswith("XX"):
            return UnreachableError(
                f"PostgreSQL failed internally: {' '.join(text.split())}",
                hint="tried again; if it stays, see the server's log, drop the slot, then `cdc snapshot`",
            )
        if state == "42704":  # a publication is looked up as the catalogue was when the row was written
            return GapError(
                f"PostgreSQL: {' '.join(text.split())}",
                hint="rows were written while the publication was missing: `cdc snapshot` reads all tables again",
            )
        if state[:2] in ("08", "57", "53") or not state or self._connection.status != pq.ConnStatus.OK:
            return unreachable(text)
        return PermanentError(f"PostgreSQL: {' '.join(text.split())} (SQLSTATE {state})")
