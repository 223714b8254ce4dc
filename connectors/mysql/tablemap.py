"""TABLE_MAP events: what the rows that follow look like.

https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html. Names,
signedness, character sets and the rest are there with ``binlog_row_metadata=FULL`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from connectors.mysql.charsets import BINARY, charset
from connectors.mysql.cursor import Cursor


class ColumnType(IntEnum):
    """How a column's bytes lie in a row. The two ``COMPRESSED`` are MariaDB's."""

    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    TIMESTAMP = 7
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    YEAR = 13
    VARCHAR = 15
    BIT = 16
    TIMESTAMP2 = 17
    DATETIME2 = 18
    TIME2 = 19
    BLOB_COMPRESSED = 140
    VARCHAR_COMPRESSED = 141
    VECTOR = 242
    JSON = 245
    NEWDECIMAL = 246
    ENUM = 247
    SET = 248
    BLOB = 252
    VAR_STRING = 253
    STRING = 254
    GEOMETRY = 255


_NUMERIC: Final = frozenset(
    {
        ColumnType.TINY,
        ColumnType.SHORT,
        ColumnType.INT24,
        ColumnType.LONG,
        ColumnType.LONGLONG,
        ColumnType.NEWDECIMAL,
        ColumnType.FLOAT,
        ColumnType.DOUBLE,
        ColumnType.YEAR,
    }
)
"""Types that the list of signedness has an entry for."""
_CHARACTER: Final = frozenset(
    {
        ColumnType.STRING,
        ColumnType.VAR_STRING,
        ColumnType.VARCHAR,
        ColumnType.BLOB,
        ColumnType.BLOB_COMPRESSED,
        ColumnType.VARCHAR_COMPRESSED,
        ColumnType.VECTOR,
    }
)
"""Types that the lists of character sets have an entry for; with MariaDB geometries have one too."""
_ENUMERATED: Final = frozenset({ColumnType.ENUM, ColumnType.SET})
_ONE_BYTE: Final = frozenset(
    {
        ColumnType.FLOAT,
        ColumnType.DOUBLE,
        ColumnType.BLOB,
        ColumnType.BLOB_COMPRESSED,
        ColumnType.GEOMETRY,
        ColumnType.JSON,
        ColumnType.VECTOR,
        ColumnType.TIMESTAMP2,
        ColumnType.DATETIME2,
        ColumnType.TIME2,
    }
)
"""Types with one byte of metadata: the size of the length, or the digits of the fraction."""


class GeometryType(IntEnum):
    """What a GEOMETRY column may hold."""

    GEOMETRY = 0
    POINT = 1
    LINESTRING = 2
    POLYGON = 3
    MULTIPOINT = 4
    MULTILINESTRING = 5
    MULTIPOLYGON = 6
    GEOMETRYCOLLECTION = 7


@dataclass(frozen=True, slots=True)
class MapColumn:
    """One column.

    `size` is the metadata: bytes at most (strings, bit), bytes of the length (blobs, JSON, geometry, vectors), bytes
    of the number (enum, set, float, double), fractional digits (temporal), precision (decimal, whose `scale` is
    apart); for bit, `scale` is the number of bits in the last, incomplete byte.
    """

    name: str
    type: ColumnType
    size: int
    scale: int
    nullable: bool
    unsigned: bool = False
    collation: int = BINARY
    members: tuple[str, ...] = ()
    """Of an enum or set."""
    geometry: GeometryType = GeometryType.GEOMETRY
    visible: bool = True
    dimension: int = 0
    """Of a vector: how many numbers at most."""


@dataclass(frozen=True, slots=True)
class TableMap:
    """A table, as the rows events with this `table_id` have it, until the id is given to another."""

    table_id: int
    flags: int
    schema: str
    table: str
    columns: tuple[MapColumn, ...]
    primary_key: tuple[tuple[int, int], ...]
    """Number of the column, and how many characters of it belong to the key (0: all); empty where there is none."""
    complete: bool
    """Whether the metadata are FULL; otherwise columns have no names, and nothing else can be relied upon."""


@lru_cache(1024)
def decode_table_map(body: bytes, *, mariadb: bool) -> TableMap:
    """Decode the event's body, without header and checksum. Raises DecodeError, whatever the bytes.

    One comes before the rows of each transaction: for bytes that were seen before it is the same object.
    """
    cursor = Cursor(body, "TABLE_MAP event")
    table_id, flags = cursor.integer(6), cursor.integer(2)
    schema = _name(cursor)
    table = _name(cursor)
    cursor.what = f"TABLE_MAP event of {schema}.{table}"
    count = cursor.length()
    types = cursor.take(count)
    metadata = Cursor(cursor.take(cursor.length()), f"column metadata of {schema}.{table}")
    plain = [_type(code, metadata) for code in types]
    metadata.finish()
    nullable = cursor.bits(count)
    character = _CHARACTER | {ColumnType.GEOMETRY} if mariadb else _CHARACTER
    optional = _Optional(cursor, [type_ for type_, _, _ in plain], character)
    names = optional.names
    columns = tuple(
        MapColumn(
            names[i] if names is not None else f"@{i + 1}",
            type_,
            size,
            scale,
            bool(nullable >> i & 1),
            i in optional.unsigned,
            optional.collations.get(i, BINARY),
            optional.members.get(i, ()),
            optional.geometries.get(i, GeometryType.GEOMETRY),
            i not in optional.hidden,
            optional.dimensions.get(i, 0),
        )
        for i, (type_, size, scale) in enumerate(plain)
    )
    return TableMap(table_id, flags, schema, table, columns, optional.primary_key, names is not None)


def _name(cursor: Cursor) -> str:
    name = cursor.text(cursor.length())
    if cursor.take(1) != b"\0":
        raise cursor.error("a name does not end")
    return name


def _type(code: int, metadata: Cursor) -> tuple[ColumnType, int, int]:
    """The real type, `size` and `scale` of a column whose type is sent as `code`."""
    try:
        type_ = ColumnType(code)
    except ValueError as error:
        raise metadata.error(f"a column of the unknown type {code}") from error
    if type_ in _ONE_BYTE:
        return type_, metadata.integer(1), 0
    if type_ in (ColumnType.VARCHAR, ColumnType.VARCHAR_COMPRESSED):
        return type_, metadata.integer(2), 0
    if type_ is ColumnType.NEWDECIMAL:
        precision, scale = metadata.integer(1), metadata.integer(1)
        if not 0 < precision <= 65 or scale > min(precision, 38):
            raise metadata.error(f"a decimal({precision},{scale})")
        return type_, precision, scale
    if type_ is ColumnType.BIT:
        rest, whole = metadata.integer(1), metadata.integer(1)
        return type_, whole + (rest > 0), rest
    if type_ in (ColumnType.STRING, ColumnType.VAR_STRING, ColumnType.ENUM, ColumnType.SET):
        return _string(metadata.integer(1), metadata.integer(1), metadata)
    return type_, 0, 0


def _string(real: int, size: int, metadata: Cursor) -> tuple[ColumnType, int, int]:
    """CHAR, BINARY, ENUM and SET: the real type comes in the metadata, with two bits of the length in it."""
    if real & 0x30 != 0x30:
        size |= (real & 0x30 ^ 0x30) << 4
        real |= 0x30
    if real not in (ColumnType.STRING, ColumnType.VAR_STRING, ColumnType.ENUM, ColumnType.SET):
        raise metadata.error(f"a string of the unknown type {real}")
    return ColumnType(real), size, 0


class _Optional:
    """The optional metadata, by number of the column."""

    def __init__(self, cursor: Cursor, types: list[ColumnType], character: frozenset[ColumnType]) -> None:
        self._types = types
        self.unsigned: set[int] = set()
        self.names: list[str] | None = None
        self.collations: dict[int, int] = {}
        self.members: dict[int, tuple[str, ...]] = {}
        self.geometries: dict[int, GeometryType] = {}
        self.primary_key: tuple[tuple[int, int], ...] = ()
        self.hidden: set[int] = set()
        self.dimensions: dict[int, int] = {}
        self._members: list[tuple[int, list[bytes]]] = []
        readers: dict[int, Callable[[Cursor], None]] = {
            1: self._signedness,
            2: lambda field: self._default_charset(field, character),
            3: lambda field: self._column_charset(field, character),
            4: self._column_names,
            5: lambda field: self._strings(field, ColumnType.SET),
            6: lambda field: self._strings(field, ColumnType.ENUM),
            7: self._geometry,
            8: self._simple_key,
            9: self._prefix_key,
            10: lambda field: self._default_charset(field, _ENUMERATED),
            11: lambda field: self._column_charset(field, _ENUMERATED),
            12: self._visibility,
            13: self._dimension,
        }
        while cursor.left:
            kind = cursor.integer(1)
            field = Cursor(cursor.take(cursor.length()), f"{cursor.what}, metadata field {kind}")
            if kind in readers:  # the server adds fields from time to time, each describes more
                readers[kind](field)
                field.finish()
        for index, strings in self._members:
            decode = charset(self.collations.get(index, BINARY)).decode
            try:
                self.members[index] = tuple(decode(string) for string in strings)
            except UnicodeDecodeError as error:
                raise cursor.error("a member of an enum or set is not in its character set") from error

    def _of(self, kinds: Iterable[ColumnType]) -> list[int]:
        return [index for index, type_ in enumerate(self._types) if type_ in kinds]

    def _flags(self, field: Cursor, indices: list[int]) -> set[int]:
        """The columns whose bit is set; here the highest bit of a byte comes first."""
        bits = field.take((len(indices) + 7) // 8)
        return {index for i, index in enumerate(indices) if bits[i >> 3] & 0x80 >> (i & 7)}

    def _signedness(self, field: Cursor) -> None:
        self.unsigned = self._flags(field, self._of(_NUMERIC))

    def _visibility(self, field: Cursor) -> None:
        everything = list(range(len(self._types)))
        self.hidden = set(everything) - self._flags(field, everything)

    def _default_charset(self, field: Cursor, kinds: frozenset[ColumnType]) -> None:
        indices = self._of(kinds)
        self.collations.update(dict.fromkeys(indices, field.length()))
        while field.left:
            index = self._index(field, indices)
            self.collations[index] = field.length()

    def _column_charset(self, field: Cursor, kinds: frozenset[ColumnType]) -> None:
        self.collations.update({index: field.length() for index in self._of(kinds)})

    def _index(self, field: Cursor, indices: list[int]) -> int:
        number = field.length()
        if number >= len(indices):
            raise field.error(f"there is no column {number}")
        return indices[number]

    def _column_names(self, field: Cursor) -> None:
        self.names = [field.text(field.length()) for _ in self._types]
        if len(set(self.names)) < len(self.names):
            raise field.error("two columns have the same name")

    def _strings(self, field: Cursor, kind: ColumnType) -> None:
        for index in self._of({kind}):
            self._members.append((index, [field.take(field.length()) for _ in range(field.length())]))

    def _geometry(self, field: Cursor) -> None:
        for index in self._of({ColumnType.GEOMETRY}):
            code = field.length()
            if code >= len(GeometryType):
                raise field.error(f"unknown geometry type {code}")
            self.geometries[index] = GeometryType(code)

    def _simple_key(self, field: Cursor) -> None:
        everything = list(range(len(self._types)))
        key = []
        while field.left:
            key.append((self._index(field, everything), 0))
        self.primary_key = tuple(key)

    def _prefix_key(self, field: Cursor) -> None:
        everything = list(range(len(self._types)))
        key = []
        while field.left:
            key.append((self._index(field, everything), field.length()))
        self.primary_key = tuple(key)

    def _dimension(self, field: Cursor) -> None:
        for index in self._of({ColumnType.VECTOR}):
            self.dimensions[index] = field.length()
