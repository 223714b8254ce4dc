"""The generated path equals the plain one, byte for byte, or leaves the row to it."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Operation
from cdc.formats.envelope import Envelope, plain_records
from cdc.formats.json import decode as decode_row
from cdc.record import PARTIAL, key_columns, unpack_header
from connectors.postgres.pgoutput import decode
from connectors.postgres.values import load
from connectors.postgres.wire import compile_copy, compile_relation, row_values
from schemas.types import Kind
from tests.property.rows import Table, frame, images, messages, mutated, tables

ENVELOPE = Envelope("postgresql", 'na"me', "db%s")
TRANSACTION = ENVELOPE.transaction(77, 1_700_000_000_123_456, 4711, 1_700_000_001_999_999_999)
READING = ENVELOPE.reading(1_700_000_000_123_456, 1_700_000_001_999_999_999)
LSN = 0x16_B374_D848
VERSION = 3 << 48 | 9


def compiled(table: Table, message: bytes) -> tuple[int, list[Any]]:
    """Versions used and records of the generated path."""
    functions = compile_relation(table.relation, table.schema, table.not_null)
    function = {73: functions.insert, 85: functions.update, 68: functions.delete}[message[0]]
    records: list[Any] = []
    return function(records.append, frame(LSN, message), 30, TRANSACTION, VERSION, 5), records


def plain(table: Table, message: bytes) -> list[Any]:
    """Records of the plain path. Raises DecodeError."""
    row = row_values(table.relation, table.schema, decode(message))  # type: ignore[arg-type] - row messages only
    return plain_records(table.schema, *row, TRANSACTION, LSN, VERSION, 5, table.not_null)


def has_null_where_there_should_be_none(table: Table, message: bytes) -> bool:
    """The column was declared NOT NULL, and is no longer."""
    _, before, after = row_values(table.relation, table.schema, decode(message))  # type: ignore[arg-type]
    images = [image for image in (before, after) if image is not None]
    return any(
        value is None and column.name in table.not_null
        for image in images
        for column, value in zip(table.schema.columns, image, strict=True)
    )


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_streamed_rows(data: st.DataObject) -> None:
    table = data.draw(tables())
    message = data.draw(messages(table))
    expected = plain(table, message)
    used, records = compiled(table, message)
    if used == 0:
        assert records == []
        partial = any(unpack_header(record.header).flags & PARTIAL for record in expected)
        assert partial or has_null_where_there_should_be_none(table, message)
    else:
        assert records == expected
        assert used == len({unpack_header(record.header).version for record in records})


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_that_do_not_fit_are_left_to_the_plain_path(data: st.DataObject) -> None:
    table = data.draw(tables())
    message = data.draw(messages(table))
    message = message[:5] + data.draw(mutated(message[5:]))
    used, records = compiled(table, message)
    if used == 0:
        assert records == []
        return
    decode(message)  # frames that do not fit never pass
    try:
        expected = plain(table, message)
    except DecodeError:
        return  # a text that the type never prints: the generated path takes the server's word for it
    assert records == expected


def copy_line(image: list[Any]) -> bytes:
    """The row as COPY's text format has it."""
    escapes = {8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 92: b"\\\\"}
    fields = (
        b"\\N" if value is None else b"".join(escapes.get(byte, bytes([byte])) for byte in value) for value in image
    )
    return b"\t".join(fields)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_rows_of_a_snapshot(data: st.DataObject) -> None:
    table = data.draw(tables())
    rows = data.draw(st.lists(images(table), max_size=3))
    rows = [[value if isinstance(value, bytes) else None for value in row] for row in rows]
    records: list[Any] = []
    lines = [copy_line(row) for row in rows]
    following = compile_copy(table.schema).read(records.append, lines, READING, VERSION, set())
    assert following == VERSION + len(rows)
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        values = [
            None if text is None else load(column.type, text)
            for column, text in zip(table.schema.columns, row, strict=True)
        ]
        expected = plain_records(table.schema, Operation.READ, None, values, READING, None, VERSION + number, 0)
        assert [record] == expected
    again: list[Any] = []
    skip = {record.key for record in records[:1]}
    compile_copy(table.schema).read(again.append, lines, READING, VERSION, skip)
    assert [record.key for record in again] == [record.key for record in records if record.key not in skip]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_what_is_on_the_log_is_the_row(data: st.DataObject) -> None:
    table = data.draw(tables())
    message = data.draw(messages(table))
    _, _, after = row_values(table.relation, table.schema, decode(message))  # type: ignore[arg-type] - row messages only
    record = plain(table, message)[-1]
    header = unpack_header(record.header)
    assert list(key_columns(record.key)) == list(table.schema.key)
    if after is None:
        assert (record.value, header.after_length) == (None, 0)
        return
    row = record.value[header.after_start :][: header.after_length]
    decoded = decode_row(table.schema, row, bool(header.flags & PARTIAL))
    sent = {c.name: v for c, v in zip(table.schema.columns, after, strict=True) if v is not UNCHANGED}
    assert set(decoded) == set(sent)
    for column in table.schema.columns:
        if column.name not in sent or (table.schema.profile == "debezium" and _lossy(column.type)):
            continue
        assert decoded[column.name] == sent[column.name]


def _lossy(type_: Any) -> bool:
    kind = (type_.element or type_).kind
    return kind is Kind.TIMETZ or (kind is Kind.DECIMAL and (type_.element or type_).scale is None)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_decoding_arbitrary_rows_raises_one_error(data: st.DataObject) -> None:
    table = data.draw(tables())
    values = plain(table, data.draw(messages(table)))[0].value
    with contextlib.suppress(DecodeError):
        decode_row(table.schema, data.draw(st.one_of(st.binary(), mutated(values))), data.draw(st.booleans()))
