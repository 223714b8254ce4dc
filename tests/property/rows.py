"""Arbitrary tables and rows as PostgreSQL would send them, for property tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st

from cdc.formats.json import key_supported
from connectors.postgres.pgoutput import Relation, RelationColumn
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def _era(text: str, before_christ: bool) -> str:
    return text + " BC" if before_christ else text


def _fraction(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _clock(value: time) -> str:
    return _fraction(value.isoformat("microseconds"))


def _printed_array(items: list[bytes | None]) -> bytes:
    """As array_out prints it, everything quoted."""
    quoted = [
        b"NULL" if item is None else b'"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"' for item in items
    ]
    return b"{" + b",".join(quoted) + b"}"


infinities = st.sampled_from(["infinity", "-infinity"])
dates = st.builds(_era, st.dates(min_value=date(1, 1, 1)).map(date.isoformat), st.booleans())
moments = st.builds(
    lambda d, t, bc, zone: _era(f"{d} {t}{zone}", bc),
    st.dates().map(date.isoformat),
    st.times().map(_clock),
    st.booleans(),
    st.just(""),
)
zoned = st.builds(
    lambda d, t, bc: _era(f"{d} {t}+00", bc), st.dates().map(date.isoformat), st.times().map(_clock), st.booleans()
)
zones = st.sampled_from(["+00", "+02", "-08", "+05:30", "-15:59:59"])
specials = st.sampled_from(["NaN", "Infinity", "-Infinity"])
decimals = st.decimals(allow_nan=False, allow_infinity=False).map(lambda value: format(value, "f"))
floats = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: repr(value).removesuffix(".0"))
printed_floats = st.one_of(floats, specials, st.just("-0"))


def fixed(scale: int) -> st.SearchStrategy[str]:
    """Numbers with exactly `scale` digits after the point."""
    numbers = st.integers(-(10**30), 10**30).map(Decimal)
    return numbers.map(lambda n: format(Decimal((n.as_tuple().sign, n.as_tuple().digits, -scale)), "f"))


def cut(digits: int) -> st.SearchStrategy[str]:
    """Times with at most `digits` of a fraction."""
    return st.times().map(lambda t: _fraction(t.isoformat("microseconds")[: 9 + digits]))


_SIMPLE: list[tuple[LogicalType, str, st.SearchStrategy[str]]] = [
    (LogicalType(Kind.BOOLEAN), "boolean", st.sampled_from("tf")),
    (LogicalType(Kind.INT16), "smallint", st.integers(-(2**15), 2**15 - 1).map(str)),
    (LogicalType(Kind.INT64), "bigint", st.integers(-(2**63), 2**63 - 1).map(str)),
    (LogicalType(Kind.DECIMAL), "numeric", st.one_of(decimals, specials)),
    (LogicalType(Kind.DECIMAL, 40, 2), "numeric(40,2)", st.one_of(fixed(2), specials)),
    (LogicalType(Kind.DECIMAL, 40, 0), "numeric(40,0)", st.one_of(fixed(0), specials)),
    (LogicalType(Kind.FLOAT64), "double precision", printed_floats),
    (LogicalType(Kind.STRING), "text", words),
    (LogicalType(Kind.STRING), "citext", words),
    (LogicalType(Kind.STRING), "bpchar", words),
    (LogicalType(Kind.BYTES), "bytea", st.binary(max_size=20).map(lambda value: "\\x" + value.hex())),
    (LogicalType(Kind.BITS, 1), "bit(1)", st.sampled_from("01")),
    (LogicalType(Kind.BITS, 12), "bit(12)", st.text("01", min_size=12, max_size=12)),
    (LogicalType(Kind.COORDINATES), "point", st.builds("({},{})".format, printed_floats, printed_floats)),
    (LogicalType(Kind.EWKB), "geometry", st.one_of(words, st.binary(max_size=40).map(lambda v: v.hex().upper()))),
    (LogicalType(Kind.JSON), "jsonb", words),
    (LogicalType(Kind.UUID), "uuid", st.uuids().map(UUID.__str__)),
    (LogicalType(Kind.DATE), "date", st.one_of(dates, infinities)),
    (LogicalType(Kind.TIME), "time", st.one_of(st.times().map(_clock), st.just("24:00:00"))),
    (LogicalType(Kind.TIME, 3), "time(3)", cut(3)),
    (LogicalType(Kind.TIMETZ), "timetz", st.builds(str.__add__, st.times().map(_clock), zones)),
    (LogicalType(Kind.TIMESTAMP), "timestamp", st.one_of(moments, infinities)),
    (LogicalType(Kind.TIMESTAMP, 0), "timestamp(0)", st.datetimes().map(lambda d: str(d.replace(microsecond=0)))),
    (LogicalType(Kind.TIMESTAMPTZ), "timestamptz", st.one_of(zoned, infinities)),
    (
        LogicalType(Kind.TIMESTAMPTZ, 0),
        "timestamptz(0)",
        st.datetimes(timezones=st.just(UTC)).map(lambda d: datetime.isoformat(d.replace(microsecond=0), " ")[:-3]),
    ),
    (LogicalType(Kind.ENUM), "mood", words),
    (LogicalType(Kind.OTHER), "inet", words),
]


@dataclass(frozen=True)
class TypeCase:
    """A type, and the texts that the server prints for it."""

    type: LogicalType
    native: str
    texts: st.SearchStrategy[bytes]


SIMPLE = [TypeCase(type_, native, texts.map(str.encode)) for type_, native, texts in _SIMPLE]
ARRAYS = [
    TypeCase(
        LogicalType(Kind.ARRAY, element=case.type),
        case.native + "[]",
        st.lists(st.none() | case.texts, max_size=4).map(_printed_array),
    )
    for case in SIMPLE
]
TYPES = [*SIMPLE, *ARRAYS]
KEY_TYPES = [case for case in SIMPLE if key_supported(case.type, case.native) is None]


@dataclass(frozen=True)
class Table:
    """An arbitrary table: its schema, the relation message that describes it, and its columns' types."""

    schema: TableSchema
    relation: Relation
    cases: tuple[TypeCase, ...]
    not_null: frozenset[str]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of one to eight columns, keys of one or two, both profiles, three replica identities."""
    keys = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=2))
    others = draw(st.lists(st.sampled_from(TYPES), max_size=6))
    column_names = draw(
        st.lists(names, min_size=len(keys) + len(others), max_size=len(keys) + len(others), unique=True)
    )
    cases = (*keys, *others)
    key = tuple(draw(st.permutations(column_names[: len(keys)])))
    identity = draw(st.sampled_from("dfi"))
    columns = tuple(Column(name, case.type, case.native) for name, case in zip(column_names, cases, strict=True))
    flags = [int(identity == "f" or place < len(keys)) for place in range(len(cases))]
    schema = TableSchema(draw(names), draw(names), draw(names), columns, key, draw(st.sampled_from(PROFILES)))
    described = tuple(RelationColumn(flag, name, 0, -1) for flag, name in zip(flags, column_names, strict=True))
    relation = Relation(5, schema.schema, schema.table, identity, described)
    return Table(schema, relation, cases, frozenset(draw(st.lists(st.sampled_from(column_names)))))


PROFILES = ["readable", "debezium"]
UNSENT = object()
"""A TOASTed value that was not sent."""
Sent = bytes | object | None


@st.composite
def images(draw: st.DrawFn, table: Table, old: bool = False) -> list[Sent]:
    """One row image; an old one has the columns of the replica identity only."""
    image: list[Sent] = []
    for column, case in zip(table.relation.columns, table.cases, strict=True):
        if old and not column.in_identity:
            image.append(None)
        elif column.name in table.schema.key:
            image.append(draw(case.texts))
        else:
            image.append(draw(st.one_of(case.texts, st.none(), *([] if old else [st.just(UNSENT)]))))
    return image


def wire(image: list[Sent]) -> bytes:
    """The image as TupleData of the protocol."""
    parts = [struct.pack(">H", len(image))]
    for value in image:
        if isinstance(value, bytes):
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
        else:
            parts.append(b"n" if value is None else b"u")
    return b"".join(parts)


@st.composite
def messages(draw: st.DrawFn, table: Table) -> bytes:
    """An insert, update or delete of the table, as a pgoutput message."""
    kind = draw(st.sampled_from("IUUD"))
    oid = struct.pack(">I", 5)
    identity = b"O" if table.relation.replica_identity == "f" else b"K"
    new = b"N" + wire(draw(images(table)))
    if kind == "I":
        return b"I" + oid + new
    old = identity + wire(draw(images(table, old=True)))
    if kind == "D":
        return b"D" + oid + old
    return b"U" + oid + (old if draw(st.booleans()) else b"") + new


def frame(lsn: int, message: bytes) -> bytes:
    """The XLogData frame around a message."""
    return b"w" + struct.pack(">QQQ", lsn, lsn, 0) + message


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The same with one change: a byte replaced, bytes cut out or put in, or the end missing."""
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    kind = draw(st.sampled_from(["replace", "cut", "insert", "end"]))
    if kind == "end":
        return content[:place]
    if kind == "cut":
        return content[:place] + content[place + draw(st.integers(1, 4)) :]
    extra = draw(st.binary(min_size=1, max_size=4))
    return content[:place] + extra + content[place + (len(extra) if kind == "replace" else 0) :]
