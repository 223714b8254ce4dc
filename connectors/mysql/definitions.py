"""A column as ``information_schema`` has it, to what the binlog says of it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from connectors.mysql.charsets import charset
from connectors.mysql.tablemap import ColumnType, GeometryType, MapColumn
from connectors.mysql.values import BINARIES, INTEGERS


class Definition(NamedTuple):
    """A row of ``information_schema.columns``; `collation` is the collation's number."""

    name: str
    data_type: str
    column_type: str
    nullable: str
    octets: int | None
    precision: int | None
    scale: int | None
    fraction: int | None
    collation: int
    extra: str


class Indescribable(Exception):
    """A column that the binlog has otherwise than can be told; and what an ALTER TABLE does about it."""

    def __init__(self, problem: str, clause: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.clause = clause


_BLOBS: Final = {"tiny": 1, "": 2, "medium": 3, "long": 4}
_FIXED: Final = {
    **{name: (type_, 0) for type_, (_, name, _, _) in INTEGERS.items()},
    **{name: (ColumnType.STRING, size) for name, size in BINARIES.items()},
    **{prefix + kind: (ColumnType.BLOB, size) for prefix, size in _BLOBS.items() for kind in ("text", "blob")},
    **{kind.name.lower(): (ColumnType.GEOMETRY, 4) for kind in GeometryType},
    "geomcollection": (ColumnType.GEOMETRY, 4),
    "float": (ColumnType.FLOAT, 4),
    "double": (ColumnType.DOUBLE, 8),
    "year": (ColumnType.YEAR, 0),
    "date": (ColumnType.DATE, 0),
    "json": (ColumnType.JSON, 4),
    "vector": (ColumnType.VECTOR, 4),
}
"""Types of one size. ``json`` is MySQL's: MariaDB has it as ``longtext``."""
_STRINGS: Final = {
    "char": ColumnType.STRING,
    "binary": ColumnType.STRING,
    "varchar": ColumnType.VARCHAR,
    "varbinary": ColumnType.VARCHAR,
}
_TIMES: Final = {"time": ColumnType.TIME2, "datetime": ColumnType.DATETIME2, "timestamp": ColumnType.TIMESTAMP2}
_MEMBER: Final = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED: Final = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPES: Final = {None: "'", "0": "\0", "n": "\n", "r": "\r"}


def described(column: Definition, *, mariadb: bool) -> MapColumn:
    """The column as a TABLE_MAP event with full metadata has it. Raises Indescribable."""
    kind = column.data_type
    members = _members(column) if kind in ("enum", "set") else ()
    if "mariadb-5.3" in column.column_type and not members:
        raise Indescribable(f"column {column.name} has its times in the format of MariaDB 5.3", "FORCE")
    type_, size, scale = _type(column, len(members))
    if type_ is None:
        raise Indescribable(f"the type {kind} of column {column.name} is not captured", _modify(column))
    if mariadb and type_ is ColumnType.VECTOR:
        type_, size = ColumnType.VARCHAR, column.octets or 0
    if "COMPRESSED" in column.column_type and type_ is ColumnType.VARCHAR:
        type_, size = ColumnType.VARCHAR_COMPRESSED, size + 1  # for the header
    elif "COMPRESSED" in column.column_type and type_ is ColumnType.BLOB:
        type_ = ColumnType.BLOB_COMPRESSED
    geometry = "geometrycollection" if kind == "geomcollection" else kind
    return MapColumn(
        column.name,
        type_,
        size,
        scale,
        column.nullable == "YES",
        kind == "year" or (not members and " unsigned" in column.column_type),
        column.collation,
        members,
        GeometryType[geometry.upper()] if type_ is ColumnType.GEOMETRY else GeometryType.GEOMETRY,
        mariadb or "INVISIBLE" not in column.extra,  # MariaDB's binlog does not tell
        (column.octets or 0) // 4 if type_ is ColumnType.VECTOR else 0,
    )


def _type(column: Definition, members: int) -> tuple[ColumnType | None, int, int]:
    """Type, size and scale of :class:`MapColumn`."""
    kind, precision = column.data_type, column.precision or 0
    if kind in _FIXED:
        return *_FIXED[kind], 0
    if kind in _STRINGS:
        return _STRINGS[kind], column.octets or 0, 0
    if kind in _TIMES:
        return _TIMES[kind], column.fraction or 0, 0
    match kind:
        case "decimal":
            return ColumnType.NEWDECIMAL, precision, column.scale or 0
        case "bit":
            return ColumnType.BIT, (precision + 7) // 8, precision % 8
        case "enum":
            return ColumnType.ENUM, 1 if members < 256 else 2, 0
        case "set":
            size = (members + 7) // 8
            return ColumnType.SET, size if size < 5 else 8, 0
    return None, 0, 0


def _members(column: Definition) -> tuple[str, ...]:
    """Of an enum or set. The catalogue is in three-byte UTF-8, other characters are question marks there."""
    texts = _MEMBER.findall(column.column_type)
    members = tuple(_ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), text) for text in texts)
    if charset(column.collation).width > 3 and any("?" in member for member in members):
        raise Indescribable(
            f"a member of column {column.name} has a question mark, or a character for which the server's catalogue "
            "has one",
            f"{_modify(column)}, in a character set that has no such characters, for example latin1",
        )
    return members


def _modify(column: Definition) -> str:
    return f"MODIFY COLUMN {quote(column.name)} …"


def quote(name: str) -> str:
    """A name as SQL has it, between backquotes."""
    return "`" + name.replace("`", "``") + "`"
