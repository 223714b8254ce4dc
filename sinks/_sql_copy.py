"""Rows of the log as lines of PostgreSQL's COPY, in its text format.

The row's JSON need not be parsed for that: what it escapes in a string, COPY escapes alike, all but ``\\uXXXX``. So one
regular expression, made for the row's columns, checks it and cuts the values out. A row that does not match, and each
row of the ``debezium`` profile and of a table with bytes, geometries or arrays, is decoded and written value by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from cdc.event import Value
from cdc.formats.json import decode, dumps
from schemas.table import Column, TableSchema
from schemas.types import Kind

NULL: Final = b"\\N"

_CHARACTERS: Final = rb'[^"\\\x00-\x1f]*+'
_STRING: Final = rb'(?:"(%b(?:\\["\\/bfnrt]%b)*+)"|null)' % (_CHARACTERS, _CHARACTERS)
_NUMBER: Final = rb"(?:(-?[0-9]++)|null)"
_FLOAT: Final = rb'(?:null|"?([-+.0-9A-Za-z]++)"?)'
_PATTERNS: Final = {
    Kind.BOOLEAN: rb"(?:(true|false)|null)",
    Kind.INT16: _NUMBER,
    Kind.INT32: _NUMBER,
    Kind.INT64: _NUMBER,
    Kind.UINT64: _NUMBER,
    Kind.FLOAT32: _FLOAT,
    Kind.FLOAT64: _FLOAT,
}
"""Of the values that are no strings."""
_CONVERTED: Final = frozenset({Kind.BYTES, Kind.GEOMETRY, Kind.POINT, Kind.ARRAY})
"""Kinds that COPY has in another form than JSON."""
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def line_of(schema: TableSchema, columns: Sequence[Column]) -> Callable[[bytes], bytes]:
    """A function that turns a row of `schema` into the values of `columns`, with tabs between them.

    It raises DecodeError when that is no row of `schema`, UnicodeError when it has half a character.
    """
    plain = _plain(schema, columns)
    if schema.profile != "readable" or any(column.type.kind in _CONVERTED for column in columns):
        return plain
    match = re.compile(rb"\{%b\}" % b",".join(map(_member, columns))).fullmatch

    def line(after: bytes) -> bytes:
        found = match(after)
        return plain(after) if found is None else b"\t".join(found.groups(NULL))

    return line


def _text(value: Value) -> str:
    """A canonical value, not None, as PostgreSQL reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list):
        return f"{{{','.join(map(_item, value))}}}"
    return str(value)


def _item(item: Value) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list):
        return _text(item)
    quoted = _text(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _plain(schema: TableSchema, columns: Sequence[Column]) -> Callable[[bytes], bytes]:
    names = [column.name for column in columns]

    def plain(after: bytes) -> bytes:
        row = decode(schema, after)
        values = (row.get(name) for name in names)
        return b"\t".join(NULL if value is None else _text(value).translate(_ESCAPES).encode() for value in values)

    return plain


def _member(column: Column) -> bytes:
    return re.escape(dumps(column.name)) + b":" + _PATTERNS.get(column.type.kind, _STRING)
