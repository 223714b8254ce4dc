"""Reading one chunk of a table, beside the stream (design, "Snapshot").

A transaction is in the binlog, and streamed to us, before it is visible to readers: for an instant always, and as long
as a replica does not answer under semi-synchronous replication. Rows that the stream changes from the chunk's begin on
are dropped by the caller; what came before must be visible to the read. So the read waits for it:

- MySQL adds a transaction to ``gtid_executed`` after it became visible, and has it in ``gtid_owned`` until then. What
  the read saw is in both of them afterwards, and before the end of the binlog.
- MariaDB: see :mod:`connectors.mysql.visibility`.

It never holds its transaction open because the log is slow: rows are read into memory, bounded.
"""

# ruff: noqa: S608 - names are quoted, values are literals of the key's types

from __future__ import annotations

import socket
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import ER

from cdc import faults
from cdc.errors import CdcError, PermanentError
from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange
from cdc.source.reader import ThreadedReader
from cdc.source.snapshot import Chunk, Keys, ReadLater
from connectors.mysql.catalogue import describe
from connectors.mysql.client import Address, Server, connect_reader, execute, packets, refused
from connectors.mysql.definitions import quote
from connectors.mysql.gtid import GtidSet, MariadbPosition
from connectors.mysql.history import owned_gtids
from connectors.mysql.keys import condition, key_columns, listed
from connectors.mysql.position import BinlogPlace, Executed, within
from connectors.mysql.select import select_list, split_row
from connectors.mysql.values import INTEGERS
from connectors.mysql.visibility import MariadbVisibility, without_binlog

LOCK_SECONDS: Final = 2
"""How long a chunk waits for a table that DDL has locked; then the read is tried again later."""
VISIBLE_SECONDS: Final = 2.0
"""How long it waits until what has been streamed is visible; then the same."""
WRONG_VALUE: Final = 1525
"""The error for a text that is no date."""
LOOK_SECONDS: Final = 0.02
"""How often MariaDB is asked for it."""


@dataclass
class MysqlChunk(Chunk):
    """`lines` are the rows as packets of the text protocol, see :mod:`connectors.mysql.select`."""

    captured: Executed = field(kw_only=True)
    """All that had been streamed, also in former connections, when the chunk began. The read sees all of it."""
    high: BinlogPlace | None = None
    """The result, like `seen`: when the stream has passed it on this server, all that the read saw was streamed."""
    seen: Executed | None = None
    """When the stream has executed all of it, on whatever server, the same."""


class ChunkReader(ThreadedReader[Connection, MysqlChunk]):
    """Reads chunks of the tables of a MySQL or MariaDB server."""

    driver_error = pymysql.Error

    def __init__(self, address: Address, server: Server, config: SnapshotConfig) -> None:
        super().__init__()
        self._address = address
        self._server = server
        self._config = config
        self._visibility = MariadbVisibility()

    def _connect(self) -> Connection:
        return connect_reader(self._address, LOCK_SECONDS)

    def _usable(self, connection: Connection) -> bool:
        return bool(connection.open)

    def _interrupt(self, connection: Connection) -> None:
        sock = connection._sock
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which another thread may be using

    def _end(self, connection: Connection) -> None:
        connection._force_close()

    def _meaning(self, error: Exception, chunk: MysqlChunk) -> CdcError:
        name = chunk.table.full_name
        match error.args[0] if error.args else 0:
            case ER.LOCK_WAIT_TIMEOUT:
                return ReadLater(f"{name}, which DDL has locked")
            case ER.TABLE_DEF_CHANGED:
                return ReadLater(f"{name}, which DDL has changed while it was read")
            case ER.NO_SUCH_TABLE | ER.BAD_DB_ERROR:
                return _gone(chunk)
            case ER.TABLEACCESS_DENIED_ERROR | ER.COLUMNACCESS_DENIED_ERROR:
                return refused(error, f"GRANT SELECT ON {chunk.table.quoted} TO …;")
        return refused(error)

    def _read(self, connection: Connection, chunk: MysqlChunk) -> None:
        began = time.monotonic()
        try:
            # 1. What has been streamed must be visible.
            self._begin(connection, chunk)
            # 2. From here on the table keeps its definition. MariaDB's may be newer than the snapshot: then it has the
            # rows so too, or refuses them (1412).
            execute(connection, f"SELECT 1 FROM {chunk.table.quoted} LIMIT 0")
            table = describe(connection, self._server, chunk.table.schema, chunk.table.name)
            if table is None:
                raise _gone(chunk)
            if table.problem or table.key != chunk.table.key:
                raise PermanentError(
                    f"table {chunk.table.full_name} changed its key while it was read",
                    hint="correct `tables`, or run `cdc snapshot` after restoring the key",
                )
            chunk.table, chunk.table_rows = table, table.rows
            # 3. The rows, and how those that follow are to be shared out.
            chunk.read_at = time.time_ns() // 1000
            if chunk.keys is None:
                self._read_rows(connection, chunk)
            else:
                self._read_listed(connection, chunk, chunk.keys)
            if chunk.rest and chunk.divide > 1 and connection.open:
                chunk.rest = self._divide(connection, chunk)
            faults.reach("snapshot.in_chunk")
        finally:
            if connection.open:
                execute(connection, "ROLLBACK")
        chunk.seconds = time.monotonic() - began
        # 4. High mark.
        if not self._server.mariadb:
            self._look(connection, chunk)
        chunk.marked_at = time.monotonic()

    def _begin(self, connection: Connection, chunk: MysqlChunk) -> None:
        """Begin a transaction that sees all that was captured; of MariaDB also the results `high` and `seen`.

        Raises ReadLater if it does not come about for some time.
        """
        if not self._server.mariadb:
            wait = "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)"
            [(late,)] = execute(connection, wait, str(chunk.captured), VISIBLE_SECONDS)
            if late:
                raise _invisible(chunk)
            # Its snapshot is that of the first read, when the table is locked: no DDL lies between them.
            execute(connection, "START TRANSACTION READ ONLY")
            return
        deadline = time.monotonic() + VISIBLE_SECONDS
        end: BinlogPlace | None = None
        while True:
            place = self._visibility.begin(connection)
            gtids = "SELECT BINLOG_GTID_POS(%s, %s), @@GLOBAL.gtid_binlog_pos"
            [(position, latest)] = execute(connection, gtids, *place)
            # It reads through the file, and fails at an event that is larger than max_allowed_packet. Then the place
            # is compared to an end of the binlog that has all that was captured.
            seen = MariadbPosition.parse(latest if position is None else position)
            chunk.high, chunk.seen = place, seen
            if within(chunk.captured, seen) and self._visibility.has_begun(connection, place):
                if position is not None or (end is not None and end <= place):
                    return
                end = end or BinlogPlace(*execute(connection, "SHOW MASTER STATUS")[0][:2])
            execute(connection, "ROLLBACK")
            if time.monotonic() > deadline or self._closing.wait(LOOK_SECONDS):
                raise _invisible(chunk)

    def _look(self, connection: Connection, chunk: MysqlChunk) -> None:
        """What MySQL has executed, and where its binlog ends: both have all that was visible before."""
        with nullcontext(connection) if connection.open else self._connection() as asked:
            # In this order: a transaction goes from the first to the second. The read may have seen it before.
            [(owned,)] = execute(asked, "SELECT @@GLOBAL.gtid_owned")
            [(executed,)] = execute(asked, "SELECT @@GLOBAL.gtid_executed")
            what = "BINARY LOG" if self._server.version >= (8, 2, 0) else "MASTER"
            ends = execute(asked, f"SHOW {what} STATUS")
        if not ends:
            raise without_binlog()
        chunk.seen = GtidSet.parse(executed) | owned_gtids(owned)
        chunk.high = BinlogPlace(*ends[0][:2])

    def _read_rows(self, connection: Connection, chunk: MysqlChunk) -> None:
        """The first rows of the chunk's range, in key order."""
        table, key = chunk.table, key_columns(chunk.table)
        expressions = select_list(table)
        where = condition(key, chunk.range)
        order = ", ".join(column.name for column in key)
        sql = f"SELECT {', '.join(expressions)} FROM {table.quoted}{where and ' WHERE '}{where} ORDER BY {order}"
        whole = _read(connection, f"{sql} LIMIT {chunk.limit}", chunk, self._config.chunk_bytes)
        if whole and len(chunk.lines) < chunk.limit:
            return
        texts = split_row(chunk.lines[-1])
        names = [column.name for column in table.columns]
        last = []
        for column in key:
            place = expressions.index(column.expression) if column.expression else names.index(column.column.name)
            last.append(column.text(texts[place] or b""))
        chunk.rest = [KeyRange(last, chunk.range.until)]

    def _read_listed(self, connection: Connection, chunk: MysqlChunk, keys: Keys) -> None:
        """The rows of the chunk's keys. A value that its column can't hold is that of no row, and spoils the query."""
        table = chunk.table
        where = listed(key_columns(table), keys.values())
        sql = f"SELECT {', '.join(select_list(table))} FROM {table.quoted} WHERE {where}"
        try:
            whole = _read(connection, sql, chunk, self._config.chunk_bytes)
            chunk.unfit = "" if whole else "the rows do not fit into one chunk"
        except pymysql.Error as error:
            if error.args[0] != WRONG_VALUE:
                raise
            chunk.unfit = "a listed value does not fit its column" if len(keys) > 1 else ""

    def _divide(self, connection: Connection, chunk: MysqlChunk) -> list[KeyRange]:
        """The rest of a large table in ranges of the same width, if its key begins with an integer.

        They may hold different numbers of rows. Readers take one after the other.
        """
        [rest] = chunk.rest
        name = chunk.table.key[0]
        parts = min(chunk.divide, chunk.table.bytes // self._config.chunk_bytes)
        integer = any(column.name == name and column.type in INTEGERS for column in chunk.table.columns)
        if parts < 2 or not integer or rest.after is None or rest.until is not None:
            return chunk.rest
        low = int(rest.after[0])
        [(high,)] = execute(connection, f"SELECT MAX({quote(name)}) FROM {chunk.table.quoted}")
        edges = {low + (int(high) - low) * part // parts for part in range(1, parts)} - {low, int(high)}
        return rest.divided([[str(edge)] for edge in sorted(edges)])


def _gone(chunk: MysqlChunk) -> ReadLater:
    """The statement is in the binlog too: what comes after it in the stream is then all that there is."""
    return ReadLater(f"{chunk.table.full_name}, which was dropped or renamed, until the binlog tells")


def _invisible(chunk: MysqlChunk) -> ReadLater:
    return ReadLater(
        f"{chunk.table.full_name}, until transactions that the binlog has are committed: a replica may not answer"
    )


def _read(connection: Connection, sql: str, chunk: MysqlChunk, most: int) -> bool:
    """The rows of a statement, up to `most` bytes, and whether that is all: where it is not the connection is closed,
    which ends the statement."""
    append = chunk.lines.append
    chunk.size = 0
    for row in packets(connection, sql):
        if chunk.size >= most:
            connection._force_close()
            return False
        append(row)
        chunk.size += len(row)
    return True
