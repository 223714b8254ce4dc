"""How rows lie in PostgreSQL's bytes, for the generator, and the plain way through the same bytes.

A streamed row is a whole XLogData frame: ``w``, start LSN, end LSN, clock, then the pgoutput message. Generated
functions begin at the byte after the relation's oid, which tells the kind of the row image (``N K O``). A snapshot's
row is a line of COPY's text format, without its newline.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from typing import Final

from cdc.compile import CompiledRead, CompiledTable, Wire, compile_read, compile_table
from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Operation, Unchanged, Value
from connectors.postgres.pgoutput import Delete, Insert, Relation, Update, WireTuple
from connectors.postgres.values import fragment, load
from schemas.table import TableSchema

_OPEN: Final = """
if m[i : i + 3] != {begin!r}:
    raise ValueError
i += 3
"""
_VALUE: Final = """
x = m[i]
if x == 116:
    e = i + 5 + length(m, i)[0]
    v = m[i + 5 : e]
    i = e
    {value}
elif x == 110:
    i += 1
    {null}
else:
    raise ValueError
"""
_SKIP: Final = """
if m[i] != 110:
    raise ValueError
i += 1
"""
_CLOSE: Final = """
if i != len(m):
    raise ValueError
"""


def compile_relation(relation: Relation, schema: TableSchema, not_null: Collection[str] = ()) -> CompiledTable:
    """The functions of a table as `relation` describes it; the columns of `schema` are those of the relation, in order.

    `not_null` names the NOT NULL columns, for the defaults that the debezium profile fabricates.
    """
    count = len(relation.columns).to_bytes(2, "big")
    old_kind = b"O" if relation.replica_identity == "f" else b"K"
    wire = Wire(
        fragment,
        open=_OPEN.format(begin=b"N" + count),
        value=lambda _: _VALUE,
        close=_CLOSE,
        open_old=_OPEN.format(begin=old_kind + count),
        skip=_SKIP,
        has_old="m[i] != 78",
        lsn='lsn = b"%d" % start(m)',
        names={"length": struct.Struct(">xI").unpack_from, "start": struct.Struct(">xQ").unpack_from},
    )
    return compile_table(schema, wire, old_columns(relation), not_null)


def old_columns(relation: Relation) -> list[str]:
    """Names of the columns that the old image of an update or delete has."""
    full = relation.replica_identity == "f"
    return [column.name for column in relation.columns if full or column.in_identity]


def row_values(
    relation: Relation, schema: TableSchema, message: Insert | Update | Delete
) -> tuple[Operation, list[Value] | None, list[Value] | None]:
    """Operation, before and after of a row message as canonical values, UNCHANGED for what was not sent.

    The plain way through what the generated functions read. Raises DecodeError when message and schema do not fit.
    """
    if isinstance(message, Insert):
        return Operation.CREATE, None, _load(schema, message.new)
    old = None
    if message.old is not None:
        sent = [column.name for column in relation.columns] if message.old_kind == b"O" else old_columns(relation)
        old = _load(schema, message.old, sent)
    if isinstance(message, Update):
        return Operation.UPDATE, old, _load(schema, message.new)
    return Operation.DELETE, old, None


def _load(schema: TableSchema, values: WireTuple, sent: Collection[str] | None = None) -> list[Value]:
    if len(values) != len(schema.columns):
        raise DecodeError(f"a row of {schema.topic} has {len(values)} columns instead of {len(schema.columns)}")
    loaded: list[Value] = []
    for column, value in zip(schema.columns, values, strict=True):
        if sent is not None and column.name not in sent:
            loaded.append(UNCHANGED)
        elif value is None or isinstance(value, Unchanged):
            loaded.append(value)
        else:
            loaded.append(load(column.type, value))
    return loaded


_COPY_OPEN: Final = """
f = m.split(b"\\t")
if len(f) != {count}:
    raise ValueError
if b"\\\\" in m:
    if m.count(b"\\\\") == m.count(b"\\\\N"):
        # each backslash begins a null: nothing else is escaped
        f = [None if v == b"\\\\N" else v for v in f]
    else:
        f = [unescape(v) for v in f]
"""
_COPY_VALUE: Final = """
v = f[INDEX]
if v is None:
    {null}
else:
    {value}
"""


def compile_copy(schema: TableSchema) -> CompiledRead:
    """The function that turns lines of COPY's text format, without their newline, into records."""
    wire = Wire(
        fragment,
        open=_COPY_OPEN.format(count=len(schema.columns)),
        value=lambda index: _COPY_VALUE.replace("INDEX", str(index)),
        names={"unescape": unescape},
    )
    return compile_read(schema, wire)


_ESCAPED: Final = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_CONTROL: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def unescape(field: bytes) -> bytes | None:
    r"""A field of COPY's text format: None for ``\N``, otherwise the value's text (manual, COPY, "Text Format")."""
    if field == b"\\N":
        return None
    return _ESCAPED.sub(_unescaped, field) if b"\\" in field else field


def _unescaped(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, character = match.groups()
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    return _CONTROL.get(character, character)
