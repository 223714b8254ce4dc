"""Rows of MySQL and MariaDB: the generated path equals the plain one, byte for byte, or leaves the row to it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Operation
from cdc.formats.envelope import plain_records, record_key
from cdc.formats.json import decode as decode_row
from cdc.record import key_columns, unpack_header
from connectors.mysql.cursor import Cursor
from connectors.mysql.envelope import BLOCK, BinlogEnvelope, event_place
from connectors.mysql.events import Rows
from connectors.mysql.records import KnownTable
from connectors.mysql.rows import decode_row as decode_plainly
from connectors.mysql.rows import decode_rows
from connectors.mysql.wire import compile_table_map
from schemas.types import Kind
from tests.property.binlog_rows import BinlogTable, binlog_tables, rows_events
from tests.property.rows import mutated

TRANSACTION = BinlogEnvelope("mariadb", 'na"me').transaction(1_700_000_000_123_456, 1, 9, "0-1-5", "bin.1", 77)
PLACE = event_place(4711)
VERSION, FIRST = 3 << 48 | 9, 5


def compiled(table: BinlogTable, rows: Rows) -> tuple[int, int, int, list[Any]]:
    """Where it stopped, next version, next ordinal, records."""
    functions = compile_table_map(table.map, table.schema, table.declared)
    name = {Operation.CREATE: "insert", Operation.UPDATE: "update", Operation.DELETE: "delete"}[rows.operation]
    records: list[Any] = []
    function = getattr(functions, name)
    return *function(records.append, rows.body, 0, TRANSACTION, PLACE, VERSION, FIRST, FIRST), records


def plain(table: BinlogTable, rows: Rows, end: int | None = None) -> tuple[int, int, list[Any]]:
    """Next version, next ordinal and records of the rows up to `end`. Raises DecodeError."""
    cursor = Cursor(rows.body, "rows")
    version, ordinal = VERSION, FIRST
    records: list[Any] = []
    while cursor.place < (cursor.end if end is None else end):
        operation, before, after = decode_plainly(table.map, rows, table.declared, cursor)
        if before is not None and after is not None:
            after = [old if new is UNCHANGED else new for old, new in zip(before, after, strict=True)]
        place = PLACE + b"%d" % (ordinal - FIRST)
        not_null = [column.name for column in table.map.columns if not column.nullable]
        row = operation, before, after
        made = plain_records(table.schema, *row, TRANSACTION, place, version, ordinal, not_null, BLOCK)
        records += made
        version = unpack_header(made[-1].header).version + 1
        ordinal += 1
    return version, ordinal, records


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_rows(data: st.DataObject) -> None:
    table = data.draw(binlog_tables())
    rows = data.draw(rows_events(table))
    stopped, *rest = compiled(table, rows)
    assert stopped == len(rows.body)
    assert tuple(rest) == plain(table, rows)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_bytes_that_do_not_fit_are_left_to_the_plain_path(data: st.DataObject) -> None:
    table = data.draw(binlog_tables())
    rows = data.draw(rows_events(table))
    rows = rows._replace(body=data.draw(mutated(rows.body)))
    stopped, *rest = compiled(table, rows)
    try:
        expected = plain(table, rows, stopped)
    except DecodeError:
        return  # a value that no server sends: the generated path takes the server's word for it
    assert tuple(rest) == expected


@given(st.data(), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_every_row_finds_its_way(data: st.DataObject, complete: bool, whole_before: bool) -> None:
    """Rows that the generated functions do not take are decoded plainly, and they go on after them. Whole old images
    complete the new ones, as under MariaDB's FULL_NODUP."""
    table = data.draw(binlog_tables())
    rows = data.draw(rows_events(table, complete=complete, odd=True, whole_before=whole_before))
    known = KnownTable.of(table.map, table.schema, table.declared)
    records: list[Any] = []
    try:
        expected = plain(table, rows)
    except DecodeError:
        assert not complete
        with pytest.raises(DecodeError, match="without its key"):
            known.produce(records.append, rows, TRANSACTION, PLACE, VERSION, FIRST)
        return
    following = known.produce(records.append, rows, TRANSACTION, PLACE, VERSION, FIRST)
    assert (*following, records) == expected


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_arbitrary_rows_raise_one_error(data: st.DataObject) -> None:
    table = data.draw(binlog_tables())
    rows = data.draw(rows_events(table, complete=False))
    assert all(image is None or len(image) == len(table.kinds) for row in decode(table, rows) for image in row[1:])
    with contextlib.suppress(DecodeError):
        decode(table, rows._replace(body=data.draw(st.one_of(st.binary(), mutated(rows.body)))))
    with contextlib.suppress(DecodeError):
        known = KnownTable.of(table.map, table.schema, table.declared)
        body = data.draw(mutated(rows.body))
        known.produce([].append, rows._replace(body=body), TRANSACTION, PLACE, VERSION, FIRST)
    with contextlib.suppress(DecodeError):
        decode(table, rows._replace(partial=True, columns=data.draw(st.integers(0, 20))))


def decode(table: BinlogTable, rows: Rows) -> list[Any]:
    return list(decode_rows(table.map, rows, table.declared))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_on_the_log_is_the_row(data: st.DataObject) -> None:
    table = data.draw(binlog_tables())
    rows = data.draw(rows_events(table))
    for row in decode(table, rows):
        _, before, after = row
        record = plain_records(table.schema, *row, TRANSACTION, PLACE, VERSION, 0, block=BLOCK)[-1]
        header = unpack_header(record.header)
        image = before if after is None else after
        assert image is not None
        names = [column.name for column in table.schema.columns]
        key = {name: image[names.index(name)] for name in table.schema.key}
        assert None not in key_columns(record.key).values()
        read_key = decode_row(table.schema, record.key)
        assert record_key(table.schema, read_key) == record.key
        for name, value in key.items():  # the year 0 comes back as 1 BC
            assert read_key[name] == value or (str(value).startswith("0000") and str(read_key[name]).endswith(" BC"))
        if after is None:
            assert record.value is None
            continue
        read = decode_row(table.schema, (record.value or b"")[header.after_start :][: header.after_length])
        for column, value in zip(table.schema.columns, after, strict=True):
            if table.schema.profile == "readable" or column.type.kind not in _TEMPORAL:
                assert read[column.name] == value


_TEMPORAL = {Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ}
"""Of these Debezium has no zero and no partial dates."""
