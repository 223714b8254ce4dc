"""Reading one chunk of a table, beside the stream: low mark, read, high mark (design, "Snapshot").

The reader is a thread with a connection of its own. It never holds a chunk's transaction open because the log is slow:
rows are read into memory, bounded, and the transaction ends before the high mark is written.
"""

from __future__ import annotations

import json
import select
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import pq, sql

from cdc import faults
from cdc.errors import CdcError, PermanentError
from connectors.postgres.catalogue import CatalogTable, describe
from connectors.postgres.client import connect, unreachable
from connectors.postgres.config import PostgresConfig
from connectors.postgres.visibility import DatabaseSnapshot
from connectors.postgres.wire import unescape

MESSAGE_PREFIX: Final = "cdc"
"""Prefix of our own logical messages: marks and heartbeats."""
LOCK_TIMEOUT: Final = "2s"
"""How long a chunk waits for a table that is being rewritten; then the read is tried again later."""


@dataclass
class Chunk:
    """One chunk: what to read, and once `done` is set what was read.

    `after` holds the key columns of the row that the chunk begins after, None for the first chunk. `limit` rows at
    most, fewer when `chunk_bytes` is full. `lines` are rows in COPY's text format without their newline; `last`: there
    are no more rows after them. `table` is how the table looked in the snapshot that read them.
    """

    table: CatalogTable
    after: list[str] | None
    limit: int
    id: str
    lines: list[bytes] = field(default_factory=list)
    snapshot: DatabaseSnapshot | None = None
    last_key: list[str] | None = None
    last: bool = False
    seconds: float = 0.0
    size: int = 0
    read_at: int = 0
    """When it was read, µs since 1970."""
    error: CdcError | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def mark(self, which: str) -> str:
        """The message that marks this chunk's ``low`` or ``high`` end in the WAL."""
        return json.dumps({"chunk": self.id, "mark": which})


class LockNotAvailable(CdcError):
    """The table is locked by DDL; try again."""


class ChunkReader:
    """Reads chunks one after the other, each in a thread that ends with it."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._connection: psycopg.Connection[Any] | None = None
        self._thread: threading.Thread | None = None

    def begin(self, chunk: Chunk) -> None:
        """Start reading `chunk`; its result, or its `error`, is there when ``chunk.done`` is set."""
        self._thread = threading.Thread(target=self._run, args=(chunk,), name="chunk reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connection; a running read fails. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.cancel_safe(timeout=1)
            except psycopg.Error:
                connection.pgconn.finish()
        if self._thread is not None:
            self._thread.join()
        if connection is not None:
            connection.close()

    def _run(self, chunk: Chunk) -> None:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._config)
            self._read(self._connection, chunk)
        except CdcError as error:
            chunk.error = error
        except psycopg.errors.LockNotAvailable:
            chunk.error = LockNotAvailable(f"table {chunk.table.full_name} is locked by DDL")
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            chunk.error = unreachable(str(error))
        except psycopg.Error as error:
            chunk.error = PermanentError(
                f"reading {chunk.table.full_name}: {error.diag.message_primary}",
                hint=f"GRANT SELECT ON {chunk.table.quoted} TO …;" if error.sqlstate == "42501" else "",
            )
        finally:
            chunk.done.set()

    def _read(self, connection: psycopg.Connection[Any], chunk: Chunk) -> None:
        # 1. Low mark.
        self._emit(connection, chunk.mark("low"))
        began = time.monotonic()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            # 2. Lock before the first snapshot: a COPY that waits behind a rewrite returns no rows, without an error.
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            connection.execute(f"LOCK TABLE ONLY {chunk.table.quoted} IN ACCESS SHARE MODE")
            # 3. The snapshot that orders this read against the stream, and the table as that snapshot has it.
            row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            chunk.snapshot = DatabaseSnapshot.parse(row[0] if row else "")
            table = describe(connection, chunk.table.oid)
            if table is None or table.problem or table.key != chunk.table.key:
                raise PermanentError(
                    f"table {chunk.table.full_name} changed its key or was dropped while it was read",
                    hint="correct `tables`, or run `cdc snapshot` after restoring the key",
                )
            chunk.table = table
            # 4. The rows.
            chunk.read_at = time.time_ns() // 1000
            self._copy(connection, chunk)
            faults.reach("snapshot.in_chunk")
        finally:
            if connection.pgconn.status == pq.ConnStatus.OK:
                connection.execute("ROLLBACK")
        chunk.seconds = time.monotonic() - began
        # 5. High mark: what was committed before it is in the stream before it.
        chunk.done.set()
        self._emit(connection, chunk.mark("high"))

    def _emit(self, connection: psycopg.Connection[Any], content: str) -> None:
        connection.execute("SELECT pg_logical_emit_message(true, %s, %s)", [MESSAGE_PREFIX, content])

    def _copy(self, connection: psycopg.Connection[Any], chunk: Chunk) -> None:
        statement = _select(chunk).as_string(connection)
        raw = connection.pgconn
        result = raw.exec_(f"COPY ({statement}) TO STDOUT".encode())
        if result.status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(result)
        lines, size, full = chunk.lines, 0, False
        most = self._config.snapshot.chunk_bytes
        while True:
            length, line = raw.get_copy_data(1)
            if length > 0:
                if full:
                    continue
                lines.append(bytes(line[:-1]))
                size += length
                full = size >= most  # the rest of the chunk's rows is read past: the next chunk asks for fewer
            elif length == 0:
                select.select([raw.socket], [], [], 10)
                raw.consume_input()
            else:
                break
        while (end := raw.get_result()) is not None:
            if end.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.COPY_OUT):
                raise psycopg.errors.error_from_result(end)
        chunk.size = size
        chunk.last = not full and len(lines) < chunk.limit
        if lines:
            names = [column.name for column in chunk.table.columns]
            values = lines[-1].split(b"\t")
            chunk.last_key = [(unescape(values[names.index(name)]) or b"").decode() for name in chunk.table.key]


def _select(chunk: Chunk) -> sql.Composed:
    """The chunk's rows in key order; row-wise comparison continues after the last key (index order, no OFFSET)."""
    table = chunk.table
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    where: sql.Composable = sql.SQL("")
    if chunk.after is not None:
        after = sql.SQL(", ").join(map(sql.Literal, chunk.after))
        where = sql.SQL(" WHERE ({}) > ({})").format(key, after)
        if len(table.key) > 1:
            where = sql.SQL(" WHERE ROW({}) > ROW({})").format(key, after)
    return sql.SQL("SELECT {} FROM ONLY {}{} ORDER BY {} LIMIT {}").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
        sql.Identifier(table.schema, table.name),
        where,
        key,
        sql.Literal(chunk.limit),
    )
