"""Filling the columns that a row image lacks, under ``binlog_row_image`` MINIMAL and NOBLOB.

A row is read as a chunk of a snapshot is, and once all that was streamed is visible: then the read sees what the event
made of the row, or something later.
"""

# ruff: noqa: S608 - names are quoted, values are literals of the key's types

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import pymysql
from pymysql.connections import Connection
from pymysql.constants import ER

from cdc.compile import CompiledRead
from cdc.event import UNCHANGED, Value
from cdc.formats.envelope import TransactionParts
from cdc.formats.json import decode
from cdc.log import Produced
from cdc.record import unpack_header
from cdc.source import incomplete
from cdc.source.incomplete import Incomplete
from connectors.mysql.catalogue import CatalogTable, describe, schema_columns
from connectors.mysql.client import Address, Server, connect_reader, execute, packets, refused
from connectors.mysql.definitions import quote
from connectors.mysql.keys import ODD, KeyColumn, key_columns
from connectors.mysql.position import BinlogPlace, Executed
from connectors.mysql.select import compile_select, select_list
from connectors.mysql.tablemap import MapColumn
from connectors.mysql.visibility import MariadbVisibility
from schemas.table import TableSchema

VISIBLE_SECONDS: Final = 1.0
"""How long one attempt waits until what has been streamed is visible."""
LOCK_SECONDS: Final = 1
"""How long it waits for a table that DDL has locked."""
COMPILED: Final = 100
"""How many functions are kept: there is one for each set of columns that was read together."""

_NOT_NOW: Final = (ER.LOCK_WAIT_TIMEOUT, ER.TABLE_DEF_CHANGED)
_GONE: Final = (ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR)
_DENIED: Final = (ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR)
_NOWHERE: Final = TransactionParts(b"", b"", b"", b"}")


class Reselect(incomplete.Reselect):
    """See :class:`cdc.source.incomplete.Reselect`."""

    def __init__(self, address: Address, server: Server, streamed: Callable[[], tuple[Executed, BinlogPlace]]) -> None:
        """`streamed` tells what the rows belong to: transactions, and where in the binlog the last of them is."""
        self._address = address
        self._server = server
        self._streamed = streamed
        self._visibility = MariadbVisibility()
        self._connection: Connection | None = None
        self._compiled: dict[tuple[bytes, tuple[MapColumn, ...]], CompiledRead] = {}

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._connection is not None:
            self._connection._force_close()

    def _read(self, rows: Sequence[Incomplete], most: int) -> bool:  # noqa: ARG002 - a rows event is not divided
        if self._connection is None or not self._connection.open:
            self._connection = connect_reader(self._address, LOCK_SECONDS)
        connection = self._connection
        try:
            try:
                if not self._begin(connection):
                    return False
                self._read_rows(connection, rows)
            finally:
                with suppress(pymysql.Error):
                    execute(connection, "ROLLBACK")
        except pymysql.Error as error:
            code = error.args[0] if error.args else 0
            if code in _NOT_NOW:
                return False
            if code not in _GONE:
                table = f"{quote(rows[0].schema.schema)}.{quote(rows[0].schema.table)}"
                raise refused(error, f"GRANT SELECT ON {table} TO …;" if code in _DENIED else "") from None
        for row in rows:
            row.settled = True
        return True

    def _begin(self, connection: Connection) -> bool:
        """Begin a transaction; whether it sees all that was streamed."""
        executed, place = self._streamed()
        if self._server.mariadb:
            snapshot = self._visibility.begin(connection)
            return place <= snapshot and (
                place.file == snapshot.file or self._visibility.has_begun(connection, snapshot)
            )
        [(late,)] = execute(connection, "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", str(executed), VISIBLE_SECONDS)
        if not late:
            execute(connection, "START TRANSACTION READ ONLY")
        return not late

    def _read_rows(self, connection: Connection, rows: Sequence[Incomplete]) -> None:
        """Fill in what there is of the rows. What is gone, or of another type by now, is not: later events, or the
        table that is read again for its DDL, mend that."""
        schema = rows[0].schema
        execute(connection, f"SELECT 1 FROM {quote(schema.schema)}.{quote(schema.table)} LIMIT 0")  # keeps DDL out
        table = describe(connection, self._server, schema.schema, schema.table)
        if table is None or table.key != schema.key:
            return
        table, reading = _columns(table, schema, {place for row in rows for place in row.missing()})
        found = {
            tuple(values[name] for name in schema.key): values
            for values in self._select(connection, table, reading, [row.key() for row in rows])
        }
        for row in rows:
            values = found.get(row.key())  # what the server takes for the same key may be another one
            if values is not None:
                assert row.after is not None
                for place in row.missing():
                    row.after[place] = values.get(schema.columns[place].name, UNCHANGED)

    def _select(
        self, connection: Connection, table: CatalogTable, reading: TableSchema, keys: Sequence[tuple[Value, ...]]
    ) -> list[dict[str, Value]]:
        """The rows with these keys."""
        columns = key_columns(table)
        one_of = " OR ".join(_is_row(columns, key) for key in keys)
        expressions = ", ".join(select_list(table))
        lines = packets(connection, f"SELECT {expressions} FROM {table.quoted} FORCE INDEX (PRIMARY) WHERE {one_of}")
        same = (reading.id, table.columns)
        if same not in self._compiled:
            if len(self._compiled) >= COMPILED:
                self._compiled.clear()
            self._compiled[same] = compile_select(reading, table)
        records: list[Produced] = []
        self._compiled[same].read(records.append, lines, _NOWHERE, 0, frozenset())
        found = []
        for record in records:
            header = unpack_header(record.header)
            assert record.value is not None
            found.append(decode(reading, record.value[header.after_start :][: header.after_length]))
        return found


def _is_row(columns: Sequence[KeyColumn], key: Sequence[Value]) -> str:
    """The condition that a row has this key."""
    try:
        return f"({' AND '.join(column.matches(value) for column, value in zip(columns, key, strict=True))})"
    except ODD:
        return "FALSE"  # the column is of another type by now


def _columns(table: CatalogTable, schema: TableSchema, places: set[int]) -> tuple[CatalogTable, TableSchema]:
    """What is to be read of a table: its key, and the columns at `places` of `schema` that are still of their type."""
    wanted = {schema.columns[place].name: schema.columns[place].type for place in places}
    types = {column.name: column.type for column in schema_columns(table)}
    part = replace(
        table,
        columns=tuple(
            column
            for column in table.columns
            if column.name in table.key or wanted.get(column.name) == types[column.name]
        ),
    )
    return part, TableSchema("", table.schema, table.name, schema_columns(part), table.key)
