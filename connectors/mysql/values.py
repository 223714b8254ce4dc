"""A value's bytes in a row, to its canonical value; and the logical type of a column.

This is the plain way: one small function for each type. :mod:`connectors.mysql.wire` has the same as code for the
generator, and a property test holds them equal.

Types, where it is not obvious: every integer has the smallest signed kind that holds it (``bigint unsigned``:
``uint64``), ``year`` is an integer (0 is the year 0000), ``bit(1)`` is a boolean and ``bit(n)`` its bytes as the
server sends them, with the number of bits as their precision, a ``set`` is text with commas, geometries other than
``point`` are all of kind ``geometry``, a vector an array of ``float32``. MariaDB says nothing of ``uuid``, ``inet4``,
``inet6``, ``vector`` in the binlog, where they are ``binary`` and ``varbinary``: who knows better passes the name of
the type as `declared`.

Times have no precision, whatever the column's: they are durations, signed and up to 838 hours, and Debezium has them
in microseconds.

Known gap: a ``time``, ``datetime`` or ``timestamp`` in the format of MariaDB 5.3 (``SHOW CREATE TABLE`` says so) is
read, but one with a fraction cannot be told from one without: most of its values are refused, and such a table must
not be captured.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import takewhile
from typing import Final
from uuid import UUID

from cdc.errors import DecodeError
from cdc.event import Value
from connectors.mysql import binary_json
from connectors.mysql.charsets import BINARY, charset
from connectors.mysql.cursor import Cursor
from connectors.mysql.decoding import inflate
from connectors.mysql.numbers import decimal_size, decimal_text, double_text, float_text
from connectors.mysql.tablemap import ColumnType, GeometryType, MapColumn
from connectors.mysql.temporal import FRACTION_BYTES, date_text, datetime_text, time_text, timestamp_text
from schemas.types import Kind, LogicalType

INTEGERS: Final = {
    ColumnType.TINY: (1, "tinyint", Kind.INT16, Kind.INT16),
    ColumnType.SHORT: (2, "smallint", Kind.INT16, Kind.INT32),
    ColumnType.INT24: (3, "mediumint", Kind.INT32, Kind.INT32),
    ColumnType.LONG: (4, "int", Kind.INT32, Kind.INT64),
    ColumnType.LONGLONG: (8, "bigint", Kind.INT64, Kind.UINT64),
}
"""Bytes, name, and kind of the signed and of the unsigned."""
_BLOBS: Final = {1: "tiny", 2: "", 3: "medium", 4: "long"}
_STRINGS: Final = {ColumnType.VARCHAR, ColumnType.VARCHAR_COMPRESSED, ColumnType.VAR_STRING, ColumnType.STRING}
BINARIES: Final = {"uuid": 16, "inet4": 4, "inet6": 16}
"""Bytes of MariaDB's types that the binlog has as ``binary``."""
DECLARED: Final = frozenset({*BINARIES, "vector"})
"""MariaDB's types that the binlog has as bytes."""
_COMPRESSED: Final = " /*M!100301 COMPRESSED*/"
_VECTOR: Final = LogicalType(Kind.ARRAY, element=LogicalType(Kind.FLOAT32))
_NUMBER: Final = struct.Struct("<f")
"""Of a vector."""


def is_text(column: MapColumn) -> bool:
    """Whether a string or blob is text."""
    return column.collation != BINARY


def declared_type(column: MapColumn, declared: str) -> str:
    """`declared` if it is a type that the binlog has as the binary strings that this column has, else nothing."""
    if declared == "vector":
        fits = column.type is ColumnType.VARCHAR and column.size % _NUMBER.size == 0
    else:
        fits = column.type is ColumnType.STRING and BINARIES.get(declared) == column.size
    return declared if fits and not is_text(column) else ""


def column_type(column: MapColumn, declared: str = "") -> tuple[LogicalType, str]:
    """The logical type of a column, and the server's own name of its type."""
    match declared_type(column, declared):
        case "uuid":
            return LogicalType(Kind.UUID), declared
        case "inet4" | "inet6":
            return LogicalType(Kind.STRING), declared
        case "vector":
            return _VECTOR, f"vector({column.size // _NUMBER.size})"
    unsigned = " unsigned" * column.unsigned
    type_ = column.type
    fraction = f"({column.size})" if column.size else ""
    if type_ in INTEGERS:
        _, name, kind, unsigned_kind = INTEGERS[type_]
        return LogicalType(unsigned_kind if column.unsigned else kind), name + unsigned
    if type_ in _STRINGS:
        return _string_type(column)
    if type_ in (ColumnType.BLOB, ColumnType.BLOB_COMPRESSED):
        compressed = _COMPRESSED if type_ is ColumnType.BLOB_COMPRESSED else ""
        name = _BLOBS.get(column.size, "") + ("text" if is_text(column) else "blob") + compressed
        return LogicalType(Kind.STRING if is_text(column) else Kind.BYTES), name
    match type_:
        case ColumnType.FLOAT:
            return LogicalType(Kind.FLOAT32), "float" + unsigned
        case ColumnType.DOUBLE:
            return LogicalType(Kind.FLOAT64), "double" + unsigned
        case ColumnType.NEWDECIMAL:
            name = f"decimal({column.size},{column.scale}){unsigned}"
            return LogicalType(Kind.DECIMAL, column.size, column.scale), name
        case ColumnType.YEAR:
            return LogicalType(Kind.INT16), "year"
        case ColumnType.DATE:
            return LogicalType(Kind.DATE), "date"
        case ColumnType.TIME | ColumnType.TIME2:
            return LogicalType(Kind.TIME), "time" + fraction
        case ColumnType.DATETIME | ColumnType.DATETIME2:
            return LogicalType(Kind.TIMESTAMP, column.size), "datetime" + fraction
        case ColumnType.TIMESTAMP | ColumnType.TIMESTAMP2:
            return LogicalType(Kind.TIMESTAMPTZ, column.size), "timestamp" + fraction
        case ColumnType.BIT:
            bits = _bits(column)
            return LogicalType(Kind.BOOLEAN) if bits == 1 else LogicalType(Kind.BYTES, bits), f"bit({bits})"
        case ColumnType.ENUM | ColumnType.SET:
            members = ",".join("'" + member.replace("'", "''") + "'" for member in column.members)
            enum = type_ is ColumnType.ENUM
            return LogicalType(Kind.ENUM if enum else Kind.STRING), f"{'enum' if enum else 'set'}({members})"
        case ColumnType.JSON:
            return LogicalType(Kind.JSON), "json"
        case ColumnType.VECTOR:
            return _VECTOR, f"vector({column.dimension})"
    point = column.geometry is GeometryType.POINT
    return LogicalType(Kind.POINT if point else Kind.GEOMETRY), column.geometry.name.lower()


def _bits(column: MapColumn) -> int:
    return column.size * 8 if column.scale == 0 else column.size * 8 - 8 + column.scale


def _string_type(column: MapColumn) -> tuple[LogicalType, str]:
    varying = "var" * (column.type is not ColumnType.STRING)
    compressed = _COMPRESSED if column.type is ColumnType.VARCHAR_COMPRESSED else ""
    size = column.size - bool(compressed)  # one byte more, for the header
    if not is_text(column):
        return LogicalType(Kind.BYTES), f"{varying}binary({size}){compressed}"
    return LogicalType(Kind.STRING), f"{varying}char({size // charset(column.collation).width}){compressed}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a value lies in a row: `size` bytes, or after a length of `prefix` bytes; and what these bytes mean.

    `convert` raises ValueError, LookupError, struct.error or DecodeError where they are no value.
    """

    size: int
    prefix: int
    convert: Callable[[bytes], Value]


ODD: Final = (ValueError, LookupError, struct.error, DecodeError)
"""What :attr:`Layout.convert` may raise."""


def read(column: MapColumn, layout: Layout, c: Cursor) -> Value:
    """The value that begins at `c`. Raises DecodeError, whatever the bytes."""
    content = c.take(c.integer(layout.prefix) if layout.prefix else layout.size)
    try:
        return layout.convert(content)
    except ODD as error:
        raise c.error(f"column {column.name}: not a value of {column_type(column)[1][:40]}") from error


def layout(column: MapColumn, declared: str = "") -> Layout:
    """How values of a column lie in a row. Raises DecodeError when it is a column that cannot be."""
    type_ = column.type
    if type_ in INTEGERS:
        size, signed = INTEGERS[type_][0], not column.unsigned
        return Layout(size, 0, lambda v: int.from_bytes(v, "little", signed=signed))
    if found := declared_type(column, declared):
        if found == "vector":
            return Layout(0, length_size(column), _vector)
        return Layout(0, length_size(column), lambda v: declared_text(declared, _padded(v, column.size)))
    match type_:
        case ColumnType.FLOAT:
            return Layout(4, 0, lambda v: float_text(struct.unpack("<f", v)[0]))
        case ColumnType.DOUBLE:
            return Layout(8, 0, lambda v: double_text(struct.unpack("<d", v)[0]))
        case ColumnType.NEWDECIMAL:
            precision, scale = column.size, column.scale
            return Layout(decimal_size(precision, scale), 0, lambda v: decimal_text(v, precision, scale))
        case ColumnType.YEAR:
            return Layout(1, 0, lambda v: 1900 + v[0] if v[0] else 0)
        case ColumnType.DATE:
            return Layout(3, 0, _date)
        case ColumnType.TIME:
            return Layout(3, 0, _old_time)
        case ColumnType.DATETIME:
            return Layout(8, 0, _old_datetime)
        case ColumnType.TIMESTAMP:
            return Layout(4, 0, lambda v: timestamp_text(int.from_bytes(v, "little")))
        case ColumnType.TIME2 | ColumnType.DATETIME2 | ColumnType.TIMESTAMP2:
            return _fractional(column)
        case ColumnType.BIT:
            return Layout(column.size, 0, lambda v: _bit(v, _bits(column)))
        case ColumnType.ENUM | ColumnType.SET:
            return _enumerated(column)
        case ColumnType.JSON:
            return Layout(0, column.size, binary_json.document_text)
        case ColumnType.VECTOR:
            return Layout(0, column.size, _vector)
    return _string(column)


def length_size(column: MapColumn) -> int:
    """How many bytes the length of a string, blob or geometry has."""
    if column.type in _STRINGS:
        return 1 if column.size < 256 else 2
    return column.size


def _string(column: MapColumn) -> Layout:
    prefix = length_size(column)
    if not 1 <= prefix <= 4:
        raise DecodeError(f"column {column.name}: a length of {prefix} bytes")
    decode = charset(column.collation).decode if is_text(column) else None
    if column.type in (ColumnType.VARCHAR_COMPRESSED, ColumnType.BLOB_COMPRESSED):
        return Layout(0, prefix, lambda v: _text(uncompressed(v), decode))
    if column.type is ColumnType.STRING and decode is None:
        return Layout(0, prefix, lambda v: _padded(v, column.size))
    return Layout(0, prefix, lambda v: _text(v, decode))


def _text(content: bytes, decode: Callable[[bytes], str] | None) -> Value:
    return content if decode is None else decode(content)


def _padded(content: bytes, size: int) -> bytes:
    """The zeros at the end of BINARY are not sent."""
    if len(content) > size:
        raise ValueError
    return content.ljust(size, b"\0")


def uncompressed(content: bytes) -> bytes:
    """The value of a COMPRESSED column of MariaDB. Raises DecodeError."""
    cursor = Cursor(content, "a compressed value")
    if not content:
        return content
    first = cursor.integer(1)
    if first == 0:
        return cursor.rest()
    if first & 0xF0 != 0x80:
        raise cursor.error("unknown compression")
    length = cursor.big(first & 7)
    return inflate(cursor, length, -zlib.MAX_WBITS if first & 8 else zlib.MAX_WBITS)


def declared_text(declared: str, content: bytes) -> str:
    """The text of one of MariaDB's types that the binlog has as bytes."""
    if declared == "inet4":
        return str(IPv4Address(content))
    if declared == "inet6":
        return _inet6(content)
    if content[6] & 0x80 and 0 < content[8] < 0x60:  # versions 1 to 5 are stored with the node first, the time last
        content = content[12:] + content[10:12] + content[8:10] + content[6:8] + content[:6]
    return str(UUID(bytes=content))


def _inet6(content: bytes) -> str:
    """As the server prints it: the first of the longest gaps is left out, also one of a single zero."""
    words = struct.unpack(">8H", content)
    gaps = [(sum(1 for _ in takewhile(lambda word: word == 0, words[i:])), -i) for i in range(8)]
    length, start = max(gaps)
    if not length:
        return ":".join(f"{word:x}" for word in words)
    before, after = words[:-start], words[-start + length :]
    if not before and (length == 6 or (length == 5 and after[0] == 0xFFFF)):
        return f"::{'ffff:' * (length == 5)}{IPv4Address(content[12:])}"
    return ":".join(f"{word:x}" for word in before) + "::" + ":".join(f"{word:x}" for word in after)


def _date(v: bytes) -> str:
    packed = int.from_bytes(v, "little")
    return date_text(packed >> 9, packed >> 5 & 15, packed & 31)


def _old_time(v: bytes) -> str:
    number = int.from_bytes(v, "little", signed=True)
    hours, rest = divmod(abs(number), 10_000)
    minutes, seconds = divmod(rest, 100)
    if minutes > 59 or seconds > 59:
        raise ValueError
    return time_text(hours << 12 | minutes << 6 | seconds, negative=number < 0)


def _old_datetime(v: bytes) -> str:
    day, moment = divmod(int.from_bytes(v, "little"), 1_000_000)
    hour, minute, second = moment // 10_000, moment // 100 % 100, moment % 100
    if hour > 23 or minute > 59 or second > 59 or day % 100 > 31 or day // 100 % 100 > 12:
        raise ValueError
    packed_day = (day // 10_000 * 13 + day // 100 % 100) << 5 | day % 100
    return datetime_text(packed_day << 17 | hour << 12 | minute << 6 | second)


def _fractional(column: MapColumn) -> Layout:
    if column.size > 6:
        raise DecodeError(f"column {column.name}: {column.size} digits of a fraction")
    size = FRACTION_BYTES[column.size]

    def time(v: bytes) -> str:
        number = int.from_bytes(v, "big") - (0x800000 << 8 * size)
        packed, fraction = divmod(abs(number), 1 << 8 * size)
        return time_text(packed, fraction, size, negative=number < 0)

    def datetime(v: bytes) -> str:
        packed = int.from_bytes(v[:5], "big") - 0x8000000000
        if packed < 0:
            raise ValueError
        return datetime_text(packed, int.from_bytes(v[5:], "big"), size)

    def timestamp(v: bytes) -> str:
        return timestamp_text(int.from_bytes(v[:4], "big"), int.from_bytes(v[4:], "big"), size)

    match column.type:
        case ColumnType.TIME2:
            return Layout(3 + size, 0, time)
        case ColumnType.DATETIME2:
            return Layout(5 + size, 0, datetime)
    return Layout(4 + size, 0, timestamp)


def _bit(v: bytes, bits: int) -> Value:
    if int.from_bytes(v, "big") >> bits:
        raise ValueError
    return v == b"\1" if bits == 1 else v


def _enumerated(column: MapColumn) -> Layout:
    if not 1 <= column.size <= 8:
        raise DecodeError(f"column {column.name}: an enum or set of {column.size} bytes")
    members = column.members
    if column.type is ColumnType.ENUM:
        numbered = ("", *members)
        return Layout(column.size, 0, lambda v: numbered[int.from_bytes(v, "little")])
    return Layout(column.size, 0, lambda v: _set(members, int.from_bytes(v, "little")))


def _set(members: tuple[str, ...], chosen: int) -> str:
    if chosen >> len(members):
        raise ValueError
    return ",".join(member for i, member in enumerate(members) if chosen >> i & 1)


def _vector(v: bytes) -> list[Value]:
    return [float_text(number) for (number,) in _NUMBER.iter_unpack(v)]
