"""How rows lie in what a SELECT yields, for the generator: a snapshot's rows.

A row is a packet of the text protocol: for each column its text after a length, or the byte 0xFB for null
(https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html). The session
prints in UTC and UTF-8. What is selected, and the code here, make of it what the stream makes of the binlog's bytes.
"""

from __future__ import annotations

from typing import Final

from cdc.compile import CompiledRead, Wire, compile_read
from cdc.formats import Fragment
from connectors.mysql.catalogue import CatalogTable
from connectors.mysql.definitions import quote
from connectors.mysql.envelope import BLOCK
from connectors.mysql.keys import key_columns
from connectors.mysql.numbers import float_text
from connectors.mysql.tablemap import ColumnType, MapColumn
from connectors.mysql.values import INTEGERS, declared_type, layout
from schemas.table import TableSchema

_NULL: Final = 0xFB
_LENGTHS: Final = {0xFC: 2, 0xFD: 3, 0xFE: 8}

_TAKE: Final = """i = e + 1
if x > 250:
    x, i = length(m, i, x)
e = i + x
"""
_NEXT: Final = "x = m[e]\n" + _TAKE
_VALUE: Final = _NEXT + "{convert}\n{{value}}"
_NULLABLE: Final = """
x = m[e]
if x == 251:
    e += 1
    {{null}}
else:
    {convert}
    {{value}}
"""
_UNPADDED: Final = """if v[0] == 48 and len(v) > 1:
    v = v.lstrip(b"0") or b"0\""""
_UNPADDED_DECIMAL: Final = """if v[0] == 48:
    v = v.lstrip(b"0")
    if not v or v[0] == 46:
        v = b"0" + v"""
"""ZEROFILL, which nobody else tells of, pads what is printed."""
_FRACTION: Final = """if v[-1] == 48:
    v = v.rstrip(b"0").rstrip(b".")"""


def select_list(table: CatalogTable) -> list[str]:
    """What is to be selected: an expression for each column, then those that the ends of ranges need."""
    rows = [_expression(column) for column in table.columns]
    return rows + [column.expression for column in key_columns(table) if column.expression]


def split_row(row: bytes) -> list[bytes | None]:
    """The texts of a row. Raises ValueError or LookupError when it is none."""
    texts: list[bytes | None] = []
    i = 0
    while i < len(row):
        size, i = row[i], i + 1
        if size == _NULL:
            texts.append(None)
            continue
        if size > _NULL:
            size, i = _length(row, i, size)
        texts.append(row[i : i + size])
        i += size
    if i != len(row):
        raise ValueError
    return texts


def compile_select(schema: TableSchema, table: CatalogTable) -> CompiledRead:
    """The function that turns rows of :func:`select_list` into records; `schema` has the same columns, in order."""
    more = len(select_list(table)) - len(table.columns)
    names: dict[str, object] = {"length": _length, "single": _single}
    codes = []
    for index, column in enumerate(table.columns):
        declared = table.declared.get(column.name, "")
        codes.append(_code(index, column, declared))
        if f"convert{index}" in codes[index]:
            names[f"convert{index}"] = layout(column, declared).convert
    wire = Wire(
        lambda *_: Fragment("v"),
        open="e = 0",
        value=lambda index: codes[index],
        close=_NEXT * more + "if e != len(m):\n    raise ValueError",
        block=BLOCK,
        names=names,
    )
    return compile_read(schema, wire)


def _length(m: bytes, i: int, first: int) -> tuple[int, int]:
    """A length that does not fit into its `first` byte, and where it ends. Raises LookupError for a null."""
    size = _LENGTHS[first]
    return int.from_bytes(m[i : i + size], "little"), i + size


def _expression(column: MapColumn) -> str:
    name = quote(column.name)
    # The server prints six digits of a float, and of double(10, 2) two decimals, but all of what is computed.
    return f"{name} * 1e0" if column.type in (ColumnType.FLOAT, ColumnType.DOUBLE) else name


def _code(index: int, column: MapColumn, declared: str) -> str:
    """See :attr:`cdc.compile.Wire.value`."""
    convert = _conversion(index, column, declared)
    if column.nullable:
        return _NULLABLE.format(convert=(_TAKE + convert).replace("\n", "\n    "))
    return _VALUE.format(convert=convert)


def _conversion(index: int, column: MapColumn, declared: str) -> str:
    """Code that makes the native form of the text, which is between ``i`` and ``e``."""
    whole = "v = m[i:e]"
    if found := declared_type(column, declared):
        return f"v = convert{index}(m[i:e])" if found == "vector" else whole
    if column.type in INTEGERS or column.type is ColumnType.YEAR:
        return f"{whole}\n{_UNPADDED}" if column.unsigned or column.type is ColumnType.YEAR else whole
    fraction = f"\n{_FRACTION}" if column.size else ""
    match column.type:
        case ColumnType.NEWDECIMAL:
            return f"{whole}\n{_UNPADDED_DECIMAL}" if column.unsigned else whole
        case ColumnType.FLOAT:
            return "v = single(m[i:e])"
        case ColumnType.TIME | ColumnType.TIME2:
            return whole + fraction
        case ColumnType.DATETIME | ColumnType.DATETIME2:
            return f'v = m[i : i + 10] + b"T" + m[i + 11 : e]{fraction}'
        case ColumnType.TIMESTAMP | ColumnType.TIMESTAMP2:
            return f'v = m[i : i + 10] + b"T" + m[i + 11 : e]{fraction}\nv += b"Z"'
        case ColumnType.BIT:
            return 'v = m[i:e] == b"\\1"' if (column.size, column.scale) == (1, 1) else whole
        case ColumnType.VECTOR:
            return f"v = convert{index}(m[i:e])"
    return whole


def _single(text: bytes) -> bytes:
    return float_text(float(text)).encode()
