"""Rows events to canonical values: the plain way, and the schema that they have on the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, Protocol

from cdc.event import UNCHANGED, Operation, Value
from connectors.mysql import binary_json
from connectors.mysql.cursor import Cursor
from connectors.mysql.events import Rows
from connectors.mysql.tablemap import ColumnType, MapColumn, TableMap
from connectors.mysql.values import ODD, column_type, layout, read
from schemas.table import Column

Row = tuple[Operation, list[Value] | None, list[Value] | None]
"""Operation, before and after, UNCHANGED for what was not sent, or as differences from what was not."""


class Described(Protocol):
    """A table whose columns are known, from the binlog or from the catalogue."""

    @property
    def columns(self) -> tuple[MapColumn, ...]:
        """As the binlog has them."""


def columns(table: Described, declared: Mapping[str, str]) -> tuple[Column, ...]:
    """The columns as the schema has them. `declared` has the names of types that the binlog does not tell (MariaDB's
    ``uuid``, ``inet4``, ``inet6``, ``vector``) by name of the column."""
    described = []
    for column in table.columns:
        type_, native = column_type(column, declared.get(column.name, ""))
        described.append(Column(column.name, type_, native))
    return tuple(described)


def decode_rows(table: TableMap, rows: Rows, declared: Mapping[str, str]) -> Iterator[Row]:
    """The rows of an event. Raises DecodeError, whatever the bytes: then some rows may have been yielded."""
    cursor = Cursor(rows.body, f"rows of {table.schema}.{table.table}")
    while cursor.left:
        yield decode_row(table, rows, declared, cursor)


def decode_row(table: TableMap, rows: Rows, declared: Mapping[str, str], cursor: Cursor) -> Row:
    """The row that begins at `cursor`, which is moved to its end. Raises DecodeError, whatever the bytes."""
    if len(table.columns) != rows.columns:
        raise cursor.error(f"{rows.columns} columns instead of {len(table.columns)}")
    begin = cursor.place
    before = after = None
    documents: _Documents = {}
    if rows.before is not None:
        before = _image(table, declared, cursor, rows.before, documents)
    if rows.after is not None:
        partial = _partial(table, cursor) if rows.partial else 0
        after = _image(table, declared, cursor, rows.after, documents, partial)
    if cursor.place == begin:
        raise cursor.error("rows without any bytes")
    return rows.operation, before, after


_Documents = dict[int, bytes]
"""The JSON documents of an old image, by number of the column."""
_DIFFERENCES: Final = 1


def _partial(table: TableMap, cursor: Cursor) -> int:
    """Which columns come as differences: there is a bit for each JSON column of the table."""
    options = cursor.length()
    if options & ~_DIFFERENCES:
        raise cursor.error(f"unknown options {options}")
    if not options:
        return 0
    documents = [i for i, column in enumerate(table.columns) if column.type is ColumnType.JSON]
    bits = cursor.bits(len(documents))
    return sum(1 << index for i, index in enumerate(documents) if bits >> i & 1)


def _image(
    table: TableMap, declared: Mapping[str, str], cursor: Cursor, sent: int, documents: _Documents, partial: int = 0
) -> list[Value]:
    nulls = cursor.bits(sent.bit_count())
    values: list[Value] = []
    for i, column in enumerate(table.columns):
        if not sent >> i & 1:
            values.append(UNCHANGED)
            continue
        null, nulls = nulls & 1, nulls >> 1
        if null:
            values.append(None)
        elif partial >> i & 1:
            values.append(_changed(column, cursor, documents.get(i)))
        else:
            begin = cursor.place
            values.append(read(column, _layout(column, declared.get(column.name, "")), cursor))
            if column.type is ColumnType.JSON:
                documents.setdefault(i, cursor.content[begin + column.size : cursor.place])
    return values


_layout = lru_cache(4096)(layout)


def _changed(column: MapColumn, cursor: Cursor, document: bytes | None) -> Value:
    """A JSON value of which differences from `document` were sent."""
    content = cursor.take(cursor.integer(column.size))
    if document is None:
        return UNCHANGED
    try:
        tree = binary_json.parse(document)
        return binary_json.text(binary_json.apply(tree, binary_json.parse_differences(content)))
    except ODD as error:
        raise cursor.error(f"column {column.name}: not differences of its JSON document") from error
