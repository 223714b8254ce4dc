"""Arbitrary tables and rows events as MySQL and MariaDB would send them, for property tests."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from cdc.event import Operation
from cdc.formats.json import key_supported
from connectors.mysql.events import Rows
from connectors.mysql.rows import columns
from connectors.mysql.tablemap import ColumnType, GeometryType, MapColumn, TableMap
from connectors.mysql.temporal import FRACTION_BYTES
from schemas.table import TableSchema

UTF8, LATIN1, GBK = 255, 8, 28

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@dataclass(frozen=True)
class Some:
    """A column without its name, and contents of it; `prefix`: how many bytes the length before a content has."""

    column: MapColumn
    content: st.SearchStrategy[bytes]
    prefix: int = 0
    declared: str = ""


def column(type_: ColumnType, size: int = 0, scale: int = 0, **rest: object) -> MapColumn:
    return replace(MapColumn("", type_, size, scale, False), **rest)  # type: ignore[arg-type] - its own fields


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


points = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda srid, order, type_, x, y: (
            struct.pack(f"{order}i", srid) + struct.pack(f"{order}BIdd", order == "<", type_, x, y)
        ),
        st.integers(-(2**31), 2**31 - 1),
        st.sampled_from("<>"),
        st.sampled_from([1, 1, 2]),
        st.floats(),
        st.floats(),
    ),
)


def _days(calendar: tuple[int, int, int]) -> bytes:
    year, month, day = calendar
    return (year << 9 | month << 5 | day).to_bytes(3, "little")


calendars = st.tuples(st.integers(0, 9999), st.integers(0, 12), st.integers(0, 31))
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)).map(
    lambda c: c[0] << 12 | c[1] << 6 | c[2]
)


def fractions(digits: int) -> st.SearchStrategy[bytes]:
    size = FRACTION_BYTES[digits]
    return st.integers(0, 100**size - 1).map(lambda units: units.to_bytes(size, "big"))


def datetimes(digits: int) -> Some:
    content = st.builds(
        lambda c, clock, f: (1 << 39 | (c[0] * 13 + c[1]) << 22 | c[2] << 17 | clock).to_bytes(5, "big") + f,
        calendars,
        clocks,
        fractions(digits),
    )
    return Some(column(ColumnType.DATETIME2, digits), content)


def timestamps(digits: int) -> Some:
    seconds = st.integers(0, 2**32 - 1) | st.just(0)
    content = st.builds(lambda s, f: s.to_bytes(4, "big") + f, seconds, fractions(digits))
    return Some(column(ColumnType.TIMESTAMP2, digits), content)


def times(digits: int) -> Some:
    size = FRACTION_BYTES[digits]

    def pack(negative: bool, hours: int, clock: int, fraction: bytes) -> bytes:
        number = (hours << 12 | clock & 0xFFF) << 8 * size | int.from_bytes(fraction, "big")
        return ((0x800000 << 8 * size) + (-number if negative else number)).to_bytes(3 + size, "big")

    content = st.builds(pack, st.booleans(), st.integers(0, 838), clocks, fractions(digits))
    return Some(column(ColumnType.TIME2, digits), content)


_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


def decimals(precision: int, scale: int, unsigned: bool = False) -> Some:
    """Digits to bytes as the manual describes it, one group after the other."""

    def pack(negative: bool, digits: str) -> bytes:
        whole, fraction = digits[: precision - scale], digits[precision - scale :]
        first = len(whole) % 9
        parts = [whole[:first], *(whole[i : i + 9] for i in range(first, len(whole), 9))]
        parts += [fraction[i : i + 9] for i in range(0, len(fraction), 9)]
        packed = b"".join(int(part).to_bytes(_BYTES[len(part)], "big") for part in parts if part)
        if negative and int(digits):
            packed = bytes(byte ^ 0xFF for byte in packed)
        return bytes([packed[0] ^ 0x80]) + packed[1:]

    digits = st.integers(0, 10**precision - 1) | st.integers(0, 100).map(lambda n: min(n, 10**precision - 1))
    content = st.builds(pack, st.booleans(), digits.map(lambda n: f"{n:0{precision}}"))
    return Some(column(ColumnType.NEWDECIMAL, precision, scale, unsigned=unsigned), content)


def _compressed(content: bytes) -> bytes:
    return b"\x82" + len(content).to_bytes(2, "big") + zlib.compress(content)


MEMBERS = ("a", "ß'", "c", *(f"m{i}" for i in range(300)))
_DOCUMENTS = [b"", b"\4\0", b"\5\xff\xff", b"\x0b" + struct.pack("<d", 1.0), b"\x0c\2\xc3\xa4", b"\2\0\0\4\0"]

KINDS: list[Some] = [
    *(
        Some(column(type_, unsigned=unsigned), exactly(size))
        for type_, size in (
            (ColumnType.TINY, 1),
            (ColumnType.SHORT, 2),
            (ColumnType.INT24, 3),
            (ColumnType.LONG, 4),
            (ColumnType.LONGLONG, 8),
        )
        for unsigned in (True, False)
    ),
    Some(column(ColumnType.FLOAT, 4), st.floats(width=32).map(lambda f: struct.pack("<f", f))),
    Some(column(ColumnType.DOUBLE, 8), st.floats().map(lambda f: struct.pack("<d", f))),
    *(decimals(*size) for size in ((12, 2), (65, 30), (9, 9), (1, 0), (18, 9), (10, 0), (20, 10))),
    Some(column(ColumnType.YEAR), exactly(1)),
    Some(column(ColumnType.DATE), calendars.map(_days)),
    *(datetimes(digits) for digits in (0, 1, 3, 6)),
    *(timestamps(digits) for digits in (0, 2, 4, 6)),
    *(times(digits) for digits in (0, 3, 6)),
    Some(column(ColumnType.BIT, 1, 1), st.sampled_from([b"\0", b"\1"])),
    Some(column(ColumnType.BIT, 2, 3), st.integers(0, 2**11 - 1).map(lambda n: n.to_bytes(2, "big"))),
    Some(column(ColumnType.VARCHAR, 80, collation=UTF8), words.map(str.encode), 1),
    Some(column(ColumnType.VARCHAR, 2000, collation=UTF8), words.map(str.encode), 2),
    Some(column(ColumnType.STRING, 80, collation=UTF8), words.map(str.encode), 1),
    Some(column(ColumnType.STRING, 1020, collation=UTF8), words.map(str.encode), 2),
    Some(column(ColumnType.VARCHAR, 80, collation=LATIN1), st.binary(max_size=20), 1),
    Some(column(ColumnType.VARCHAR, 80, collation=GBK), st.just("漢字 a".encode("gbk")), 1),
    Some(column(ColumnType.STRING, 20), st.binary(max_size=20), 1),
    Some(column(ColumnType.VARCHAR, 20), st.binary(max_size=20), 1),
    *(Some(column(ColumnType.BLOB, size, collation=UTF8), words.map(str.encode), size) for size in (1, 2, 3, 4)),
    Some(column(ColumnType.BLOB, 2), st.binary(max_size=300), 2),
    Some(column(ColumnType.GEOMETRY, 4), st.binary(max_size=30), 4),
    Some(column(ColumnType.GEOMETRY, 4, geometry=GeometryType.POINT), points, 4),
    Some(column(ColumnType.ENUM, 2, collation=UTF8, members=MEMBERS), st.sampled_from([b"\0\0", b"\1\0", b"\0\1"])),
    Some(column(ColumnType.SET, 1, collation=UTF8, members=MEMBERS[:7]), st.integers(0, 127).map(lambda n: bytes([n]))),
    Some(column(ColumnType.JSON, 4), st.sampled_from(_DOCUMENTS), 4),
    Some(column(ColumnType.VECTOR, 4, dimension=9), st.lists(exactly(4), max_size=3).map(b"".join), 4),
    Some(column(ColumnType.STRING, 16), st.binary(max_size=16), 1, "uuid"),
    Some(column(ColumnType.VARCHAR, 12), st.lists(exactly(4), max_size=3).map(b"".join), 1, "vector"),
    Some(column(ColumnType.STRING, 4), st.binary(max_size=4), 1, "inet4"),
    Some(column(ColumnType.STRING, 16), st.binary(max_size=16), 1, "inet6"),
    Some(column(ColumnType.VARCHAR_COMPRESSED, 2000), st.binary(max_size=99).map(_compressed), 2),
    Some(column(ColumnType.BLOB_COMPRESSED, 2, collation=UTF8), words.map(lambda word: b"\0" + word.encode()), 2),
]


@dataclass(frozen=True)
class BinlogTable:
    """A table with all that a decoder is given of it."""

    map: TableMap
    schema: TableSchema
    declared: dict[str, str]
    kinds: tuple[Some, ...]

    @property
    def all(self) -> int:
        """The bitmap of all columns."""
        return (1 << len(self.kinds)) - 1


@st.composite
def binlog_tables(draw: st.DrawFn) -> BinlogTable:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=12))
    kinds.insert(draw(st.integers(0, len(kinds))), draw(st.sampled_from(KINDS[:10])))
    labels = draw(st.lists(names, min_size=len(kinds), max_size=len(kinds), unique=True))
    described = [
        replace(kind.column, name=name, nullable=draw(st.booleans())) for kind, name in zip(kinds, labels, strict=True)
    ]
    declared = {name: kind.declared for kind, name in zip(kinds, labels, strict=True) if kind.declared}
    table = TableMap(7, 0, "shop", "it%em", tuple(described), (), True)
    as_columns = columns(table, declared)
    able = [c.name for c in as_columns if key_supported(c.type, c.native) is None]
    key = tuple(draw(st.lists(st.sampled_from(able), min_size=1, max_size=2, unique=True)))
    profile = draw(st.sampled_from(["readable", "debezium"]))
    schema = TableSchema("p.shop.it%em", "shop", "it%em", as_columns, key, profile)
    return BinlogTable(table, schema, declared, tuple(kinds))


Cells = list[bytes | None]


@st.composite
def cells(draw: st.DrawFn, table: BinlogTable, odd: bool) -> Cells:
    """The contents of a row. `odd`: there may be nulls where the table map says that there are none."""
    found: Cells = []
    for kind, described in zip(table.kinds, table.map.columns, strict=True):
        nullable = (described.nullable or odd) and described.name not in table.schema.key
        content = None if nullable and draw(st.integers(0, 4)) == 0 else draw(kind.content)
        found.append(content)
    return found


@st.composite
def rows(draw: st.DrawFn, table: BinlogTable, sent: list[int], odd: bool) -> bytes:
    """A row with one image, or two of which the second differs in some columns from the first: the columns `sent`."""
    row = draw(cells(table, odd))
    images = [image(table, sent[0], row)]
    for bitmap in sent[1:]:
        changed = draw(st.integers(0, table.all))
        new = draw(cells(table, odd))
        images.append(image(table, bitmap, [new[i] if changed >> i & 1 else row[i] for i in range(len(row))]))
    return b"".join(images)


def image(table: BinlogTable, sent: int, row: Cells) -> bytes:
    """A row image with the columns `sent`."""
    nulls, parts, place = 0, [], 0
    for i, (kind, content) in enumerate(zip(table.kinds, row, strict=True)):
        if not sent >> i & 1:
            continue
        if content is None:
            nulls |= 1 << place
        else:
            parts.append((len(content).to_bytes(kind.prefix, "little") if kind.prefix else b"") + content)
        place += 1
    return nulls.to_bytes((place + 7) // 8, "little") + b"".join(parts)


@st.composite
def rows_events(
    draw: st.DrawFn, table: BinlogTable, complete: bool = True, odd: bool = False, whole_before: bool = False
) -> Rows:
    operation = draw(st.sampled_from([Operation.CREATE, Operation.UPDATE, Operation.DELETE]))
    sent = st.just(table.all) if complete else st.integers(1, table.all)
    before = None if operation is Operation.CREATE else table.all if whole_before else draw(sent)
    after = None if operation is Operation.DELETE else draw(sent)
    chosen = [bitmap for bitmap in (before, after) if bitmap is not None]
    body = b"".join(draw(st.lists(rows(table, chosen, odd), max_size=4)))
    return Rows(operation, 7, True, len(table.kinds), before, after, False, body)
