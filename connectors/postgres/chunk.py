"""Reading one chunk of a table, beside the stream: low mark, read, high mark (design, "Snapshot").

Each chunk is read in a thread of its own. It never holds its transaction open because the log is slow: rows are read
into memory, bounded, and the transaction ends before the high mark is written.
"""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import pq, sql

from cdc import faults
from cdc.errors import CdcError, PermanentError
from cdc.source.plan import KeyRange
from cdc.source.reader import ThreadedReader
from cdc.source.snapshot import Chunk, Keys, ReadLater, gone
from connectors.postgres.catalogue import CatalogTable, describe, look_up_type
from connectors.postgres.client import connect, unreachable
from connectors.postgres.config import PostgresConfig
from connectors.postgres.values import logical_type, to_sql_text
from connectors.postgres.visibility import DatabaseSnapshot
from connectors.postgres.wire import unescape
from schemas.types import LogicalType

MESSAGE_PREFIX: Final = "cdc"
"""Prefix of our own logical messages: marks and heartbeats."""
LOCK_TIMEOUT: Final = "2s"
"""How long a chunk waits for a table that is being rewritten; then the read is tried again later."""
SAMPLE_PAGES: Final = 100
"""Pages of a table that are looked at to see how its keys are spread."""
SAMPLE_BYTES: Final = 1 << 20
"""Most bytes of keys that such a look keeps."""
_PAGE_BYTES: Final = 8192

_LOOK: Final = """
SELECT pg_current_snapshot()::text, pg_relation_size(oid), nullif(reltuples, -1)::bigint FROM pg_class WHERE oid = %s
"""


@dataclass
class PostgresChunk(Chunk):
    """`lines` are the rows in COPY's text format without their newline, `table` is how the table looked in the
    `snapshot` that read them."""

    snapshot: DatabaseSnapshot | None = None

    def mark(self, which: str) -> str:
        """The message that marks this chunk's ``low`` or ``high`` end in the WAL."""
        return json.dumps({"chunk": self.id, "mark": which})


class ChunkReader(ThreadedReader[psycopg.Connection[Any], PostgresChunk]):
    """Reads chunks of PostgreSQL's tables."""

    driver_error = psycopg.Error

    def __init__(self, config: PostgresConfig) -> None:
        super().__init__()
        self._config = config

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._config)

    def _usable(self, connection: psycopg.Connection[Any]) -> bool:
        return not connection.closed

    def _interrupt(self, connection: psycopg.Connection[Any]) -> None:
        try:
            connection.cancel_safe(timeout=1)
        except psycopg.Error:
            connection.pgconn.finish()

    def _end(self, connection: psycopg.Connection[Any]) -> None:
        connection.close()

    def _meaning(self, error: Exception, chunk: PostgresChunk) -> CdcError:
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return ReadLater(f"{chunk.table.full_name}, which DDL has locked")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return unreachable(str(error))
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return gone(chunk.table.full_name)
        assert isinstance(error, psycopg.Error)
        return PermanentError(
            f"reading {chunk.table.full_name}: {error.diag.message_primary}",
            hint=f"GRANT SELECT ON {chunk.table.quoted} TO …;" if error.sqlstate == "42501" else "",
        )

    def _read(self, connection: psycopg.Connection[Any], chunk: PostgresChunk) -> None:
        # 1. Low mark.
        self._emit(connection, chunk.mark("low"))
        began = time.monotonic()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            # 2. Lock before the first snapshot: a COPY that waits behind a rewrite returns no rows, without an error.
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            connection.execute(f"LOCK TABLE ONLY {chunk.table.quoted} IN ACCESS SHARE MODE")
            # 3. The snapshot that orders this read against the stream, and the table as that snapshot has it.
            row = connection.execute(_LOOK, [chunk.table.oid]).fetchone()
            table = describe(connection, chunk.table.oid)
            if row is None or table is None or table.full_name != chunk.table.full_name:
                raise gone(chunk.table.full_name)  # what is locked is another one
            chunk.snapshot, size, chunk.table_rows = DatabaseSnapshot.parse(row[0]), row[1], row[2]
            if table.problem or table.key != chunk.table.key:
                raise PermanentError(
                    f"table {chunk.table.full_name} changed its key while it was read",
                    hint="correct `tables`, or run `cdc snapshot` after restoring the key",
                )
            chunk.table = table
            # 4. The rows, and how those that follow are to be shared out.
            chunk.read_at = time.time_ns() // 1000
            if chunk.keys is None:
                self._copy(connection, chunk)
            else:
                self._copy_listed(connection, chunk, chunk.keys)
            if chunk.rest and chunk.divide > 1:
                chunk.rest = self._divide(connection, chunk, size or 0)
            faults.reach("snapshot.in_chunk")
        finally:
            if connection.pgconn.status == pq.ConnStatus.OK:
                connection.execute("ROLLBACK")
        chunk.seconds = time.monotonic() - began
        # 5. High mark: what was committed before it is in the stream before it.
        chunk.done.set()
        chunk.marked_at = time.monotonic()
        self._emit(connection, chunk.mark("high"))

    def _emit(self, connection: psycopg.Connection[Any], content: str) -> None:
        connection.execute("SELECT pg_logical_emit_message(true, %s, %s)", [MESSAGE_PREFIX, content])

    def _copy(self, connection: psycopg.Connection[Any], chunk: PostgresChunk) -> None:
        """The first rows of the chunk's range, in key order."""
        names = [column.name for column in chunk.table.columns]
        limit = sql.SQL(" LIMIT {}").format(sql.Literal(chunk.limit))
        statement = _select(chunk.table, names, chunk.range, sql.SQL(""), limit)
        chunk.lines, chunk.size, whole = _copied(connection, statement, self._config.snapshot.chunk_bytes)
        if whole and len(chunk.lines) < chunk.limit:
            return
        values = chunk.lines[-1].split(b"\t")
        last = [(unescape(values[names.index(name)]) or b"").decode() for name in chunk.table.key]
        chunk.rest = [KeyRange(last, chunk.range.until)]

    def _copy_listed(self, connection: psycopg.Connection[Any], chunk: PostgresChunk, keys: Keys) -> None:
        """The rows of the chunk's keys. A value that its column can't hold is that of no row, and spoils the query."""
        if not keys:
            return
        try:
            statement = _select_listed(chunk.table, _key_types(connection, chunk.table), keys)
            chunk.lines, chunk.size, whole = _copied(connection, statement, self._config.snapshot.chunk_bytes)
            chunk.unfit = "" if whole else "the rows do not fit into one chunk"
        except psycopg.DataError:
            chunk.unfit = "a listed value does not fit its column" if len(keys) > 1 else ""

    def _divide(self, connection: psycopg.Connection[Any], chunk: PostgresChunk, size: int) -> list[KeyRange]:
        """The rest of the table, which has `size` bytes, in ranges that a sample of its pages says are equal."""
        [rest] = chunk.rest
        parts = min(chunk.divide, size // self._config.snapshot.chunk_bytes)
        share = min(100.0, 100.0 * SAMPLE_PAGES * _PAGE_BYTES / max(size, 1))
        sample = sql.SQL(" TABLESAMPLE SYSTEM ({})").format(sql.Literal(share))
        statement = _select(chunk.table, chunk.table.key, rest, sample, sql.SQL(""))
        lines = _copied(connection, statement, SAMPLE_BYTES)[0] if parts > 1 else []
        edges = dict.fromkeys(lines[len(lines) * part // parts] for part in range(1, parts) if lines)
        return rest.divided([[(unescape(value) or b"").decode() for value in edge.split(b"\t")] for edge in edges])


def _copied(connection: psycopg.Connection[Any], query: sql.Composed, most: int) -> tuple[list[bytes], int, bool]:
    """The rows of a query as lines of COPY's text format, up to `most` bytes; their size, and whether it is all."""
    raw = connection.pgconn
    result = raw.exec_(f"COPY ({query.as_string(connection)}) TO STDOUT".encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    lines: list[bytes] = []
    size, whole = 0, True
    while True:
        length, line = raw.get_copy_data(1)
        if length > 0:
            if size >= most:  # the rest is read past: the next chunk asks for fewer
                whole = False
                continue
            lines.append(bytes(line[:-1]))
            size += length
        elif length == 0:
            select.select([raw.socket], [], [], 10)
            raw.consume_input()
        else:
            break
    while (end := raw.get_result()) is not None:
        if end.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.COPY_OUT):
            raise psycopg.errors.error_from_result(end)
    return lines, size, whole


def _key_types(connection: psycopg.Connection[Any], table: CatalogTable) -> list[LogicalType]:
    columns = {column.name: column for column in table.columns}
    lookup = partial(look_up_type, connection)
    return [logical_type(columns[name].type_oid, columns[name].type_modifier, lookup)[0] for name in table.key]


def _select_listed(table: CatalogTable, types: Sequence[LogicalType], keys: Keys) -> sql.Composed:
    """The rows that have one of the keys: literals without a type become values of the columns'."""
    columns = list(zip(table.key, types, strict=True))
    texts = [[to_sql_text(type_, key[name]) for name, type_ in columns] for key in keys.values()]
    rows = [sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, row))) for row in texts]
    return sql.SQL("SELECT {} FROM ONLY {} WHERE ({}) IN ({})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
        sql.Identifier(table.schema, table.name),
        sql.SQL(", ").join(map(sql.Identifier, table.key)),
        sql.SQL(", ").join(rows),
    )


def _select(
    table: CatalogTable, columns: Iterable[str], range_: KeyRange, sample: sql.Composable, limit: sql.Composable
) -> sql.Composed:
    """Columns of the rows of `range_` in key order; row-wise comparison finds its ends (index order, no OFFSET)."""
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    row = sql.SQL("ROW({})" if len(table.key) > 1 else "({})")
    ends = [(" > ", range_.after), (" <= ", range_.until)]
    conditions = [
        row.format(key) + sql.SQL(operator) + row.format(sql.SQL(", ").join(map(sql.Literal, end)))
        for operator, end in ends
        if end is not None
    ]
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    return sql.SQL("SELECT {} FROM ONLY {}{}{} ORDER BY {}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Identifier(table.schema, table.name),
        sample,
        where,
        key,
        limit,
    )
