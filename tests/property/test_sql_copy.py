"""Lines of COPY: what PostgreSQL reads from them is the row, whichever way they were made."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import DecodeError
from cdc.formats.json import decode, dumps, render
from connectors.postgres import arrays
from connectors.postgres.values import load
from schemas.types import Kind, LogicalType
from sinks._sql_copy import line_of
from tests.property.rows import Table, images, mutated, tables

FLOATS = (Kind.FLOAT32, Kind.FLOAT64)
ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def values_of(table: Table, data: st.DataObject) -> dict[str, Any]:
    """A row's canonical values by column; those that were not sent are left out."""
    sent = zip(table.schema.columns, data.draw(images(table)), strict=True)
    return {
        column.name: None if text is None else load(column.type, text)
        for column, text in sent
        if text is None or isinstance(text, bytes)
    }


def rendered(table: Table, values: dict[str, Any]) -> bytes:
    """The row as it stands on the log."""
    types = table.schema.by_name
    members = (
        b"%b:%b" % (dumps(name), render(types[name].type, table.schema.profile, value))
        for name, value in values.items()
    )
    return b"{%b}" % b",".join(members)


def read(type_: LogicalType, cell: bytes) -> Any:
    """What PostgreSQL takes a cell for: its text, and that of each item."""
    if cell == rb"\N":
        return None
    text = re.sub(rb"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), cell, flags=re.DOTALL)
    return comparable(type_, arrays.parse(text, bytes.decode) if type_.kind is Kind.ARRAY else text.decode())


def comparable(type_: LogicalType, value: Any) -> Any:
    """A canonical value as text, floats as such."""
    if isinstance(value, list):
        element = type_ if type_.element is None else type_.element
        return [comparable(element, item) for item in value]
    if value is None or isinstance(value, bool):
        return {None: None, True: "true", False: "false"}[value]
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return repr(float(value)) if type_.kind in FLOATS else str(value)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_line_holds_the_row(data: st.DataObject) -> None:
    table = data.draw(tables())
    values = values_of(table, data)
    columns = [column for column in table.schema.columns if column.name in values]
    after = rendered(table, values)
    cells = line_of(table.schema, columns)(after).split(b"\t")
    found = [read(column.type, cell) for column, cell in zip(columns, cells, strict=True)]
    held = decode(table.schema, after)  # the debezium profile loses some values' last zeros, and zones
    assert found == [comparable(column.type, held[column.name]) for column in columns]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_row_never_make_two_lines(data: st.DataObject) -> None:
    table = data.draw(tables())
    after = data.draw(mutated(rendered(table, values_of(table, data))))
    try:
        line = line_of(table.schema, table.schema.columns)(after)
    except (DecodeError, UnicodeError):
        return
    assert line.count(b"\t") == len(table.schema.columns) - 1
    assert b"\n" not in line
    assert b"\r" not in line
