"""PostgreSQL's text of a value, as the stream and COPY print it, to canonical values and back.

Assumes the session settings timezone UTC, datestyle ISO, extra_float_digits 3, bytea_output hex, intervalstyle
postgres. For each logical type there is a plain function (:func:`load`) and a code fragment for the generator
(:func:`fragment`), which a property test holds equal.

Known gaps: an array whose lower bounds are not 1 loses them.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats import Fragment
from connectors.postgres import arrays
from schemas.types import Kind, LogicalType


@dataclass(frozen=True, slots=True)
class CatalogType:
    """What ``pg_type`` knows of a type that is not built in.

    `oid` is the element's type for an array, the base type for a domain; `modifier` is the domain's own (-1 = none).
    """

    kind: Literal["base", "enum", "domain", "array"]
    name: str
    oid: int = 0
    modifier: int = -1


Lookup = Callable[[int], CatalogType | None]

_SIMPLE: Final[dict[int, tuple[Kind, str]]] = {
    16: (Kind.BOOLEAN, "boolean"),
    17: (Kind.BYTES, "bytea"),
    19: (Kind.STRING, "name"),
    20: (Kind.INT64, "bigint"),
    21: (Kind.INT16, "smallint"),
    23: (Kind.INT32, "integer"),
    25: (Kind.STRING, "text"),
    26: (Kind.INT64, "oid"),
    114: (Kind.JSON, "json"),
    600: (Kind.COORDINATES, "point"),
    700: (Kind.FLOAT32, "real"),
    701: (Kind.FLOAT64, "double precision"),
    1082: (Kind.DATE, "date"),
    2950: (Kind.UUID, "uuid"),
    3802: (Kind.JSON, "jsonb"),
}
_LENGTH: Final = {1042: "character", 1043: "character varying"}
_TEMPORAL: Final = {
    1083: (Kind.TIME, "time", "without time zone"),
    1266: (Kind.TIMETZ, "time", "with time zone"),
    1114: (Kind.TIMESTAMP, "timestamp", "without time zone"),
    1184: (Kind.TIMESTAMPTZ, "timestamp", "with time zone"),
}
_NUMERIC: Final = 1700
_BIT: Final = 1560
_ARRAYS: Final = {
    1000: 16,
    1001: 17,
    1003: 19,
    1005: 21,
    1007: 23,
    1009: 25,
    1014: 1042,
    1015: 1043,
    1016: 20,
    1021: 700,
    1022: 701,
    1028: 26,
    1115: 1114,
    1182: 1082,
    1183: 1083,
    1185: 1184,
    1231: 1700,
    1561: _BIT,
    1563: 1562,
    1270: 1266,
    199: 114,
    2951: 2950,
    3807: 3802,
}
"""Built-in array types by oid, and the oid of their elements."""
_EXTENSIONS: Final = {"citext": Kind.STRING, "geometry": Kind.EWKB, "geography": Kind.EWKB}
"""Types that the extensions citext and PostGIS bring."""


def logical_type(type_oid: int, type_modifier: int, lookup: Lookup) -> tuple[LogicalType, str]:
    """The logical type of a column and PostgreSQL's own name of its type, as ``format_type`` prints it.

    `lookup` is asked for types that are not built in, and may answer None: such a column is Kind.OTHER. Domains are
    their base type under the domain's name.
    """
    if type_oid in _SIMPLE:
        kind, native = _SIMPLE[type_oid]
        return LogicalType(kind), native
    if type_oid in _LENGTH:
        length = f"({type_modifier - 4})" if type_modifier >= 4 else ""
        name = "bpchar" if type_oid == 1042 and not length else _LENGTH[type_oid]
        return LogicalType(Kind.STRING), name + length
    if type_oid in _TEMPORAL:
        kind, name, zone = _TEMPORAL[type_oid]
        if type_modifier < 0:
            return LogicalType(kind), f"{name} {zone}"
        return LogicalType(kind, precision=type_modifier), f"{name}({type_modifier}) {zone}"
    if type_oid == _NUMERIC:
        return _numeric(type_modifier)
    if type_oid == _BIT and type_modifier > 0:  # of any other bit string Debezium's form would lose the length
        return LogicalType(Kind.BITS, type_modifier), f"bit({type_modifier})"
    if type_oid in _ARRAYS:
        return _array(_ARRAYS[type_oid], type_modifier, lookup)
    found = lookup(type_oid)
    if found is None:
        return LogicalType(Kind.OTHER), f"type {type_oid}"
    if found.kind == "enum":
        return LogicalType(Kind.ENUM), found.name
    if found.kind == "domain":
        base, _ = logical_type(found.oid, found.modifier, lookup)
        return base, found.name
    if found.kind == "array":
        return _array(found.oid, type_modifier, lookup)
    return LogicalType(_EXTENSIONS.get(found.name.rpartition(".")[2], Kind.OTHER)), found.name


def _numeric(modifier: int) -> tuple[LogicalType, str]:
    if modifier < 4:
        return LogicalType(Kind.DECIMAL), "numeric"
    precision = (modifier - 4) >> 16 & 0xFFFF
    # Since PostgreSQL 15 the scale is an 11-bit number with a sign; before, 0 to 1000 in the same bits.
    scale = ((modifier - 4 & 0x7FF) ^ 1024) - 1024
    return LogicalType(Kind.DECIMAL, precision, scale), f"numeric({precision},{scale})"


def _array(element_oid: int, modifier: int, lookup: Lookup) -> tuple[LogicalType, str]:
    element, native = logical_type(element_oid, modifier, lookup)
    if native == "box":  # the one type whose arrays are delimited by semicolons
        return LogicalType(Kind.OTHER), "box[]"
    if element.kind is Kind.COORDINATES:  # of which Debezium has no arrays
        element = LogicalType(Kind.OTHER)
    return LogicalType(Kind.ARRAY, element=element), native + "[]"


_NUMBER: Final = r"-?\d+(\.\d+)?"
_FLOAT: Final = _NUMBER + r"(e[+-]\d+)?|NaN|-?Infinity"
_DATE: Final = r"\d{4,7}-\d\d-\d\d"
_TIME: Final = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
_PRINTED: Final = {
    Kind.DECIMAL: _NUMBER + "|NaN|-?Infinity",
    Kind.FLOAT32: _FLOAT,
    Kind.FLOAT64: _FLOAT,
    Kind.UUID: "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    Kind.BITS: "[01]*",
    Kind.COORDINATES: rf"\(({_FLOAT}),({_FLOAT})\)",
    Kind.DATE: _DATE + "( BC)?|-?infinity",
    Kind.TIME: _TIME,
    Kind.TIMETZ: _TIME + r"[+-]\d\d(:\d\d){0,2}",
    Kind.TIMESTAMP: f"{_DATE} {_TIME}( BC)?|-?infinity",
    Kind.TIMESTAMPTZ: rf"{_DATE} {_TIME}\+00( BC)?|-?infinity",
}
"""What the server prints for types whose text is not arbitrary."""
_GEOMETRIES: Final = re.compile(rb"[{}:0-9A-FNUL]+")
"""An array of PostGIS's, which are delimited by colons."""
_PATTERNS: Final = {kind: re.compile(pattern.encode()) for kind, pattern in _PRINTED.items()}


def load(type_: LogicalType, text: bytes) -> Value:
    """The canonical value of PostgreSQL's `text`. Raises DecodeError when it is not what the type prints."""
    try:
        return _load(type_, text)
    except ValueError as error:  # UnicodeDecodeError and binascii.Error are ValueErrors
        raise DecodeError(f"{len(text)} bytes are not the text of a {type_.kind} value") from error


def _load(type_: LogicalType, text: bytes) -> Value:
    pattern = _PATTERNS.get(type_.kind)
    if pattern is not None and pattern.fullmatch(text) is None:
        raise ValueError
    match type_.kind:
        case Kind.BOOLEAN:
            if text not in (b"t", b"f"):
                raise ValueError
            return text == b"t"
        case Kind.INT16 | Kind.INT32 | Kind.INT64 | Kind.UINT64:
            number = int(text)
            if b"%d" % number != text:
                raise ValueError
            return number
        case Kind.BYTES:
            if text[:2] != b"\\x":
                raise ValueError
            return unhexlify(text[2:])
        case Kind.TIMESTAMP:
            return text.decode().replace(" ", "T", 1)
        case Kind.TIMESTAMPTZ:
            return text.decode().replace(" ", "T", 1).replace("+00", "Z", 1)
        case Kind.ARRAY:
            assert type_.element is not None
            return _load_array(type_.element, text)
        case _:
            return text.decode()


def _load_array(element: LogicalType, text: bytes) -> Value:
    if element.kind is Kind.EWKB and _GEOMETRIES.fullmatch(text):
        text = text.replace(b":", b",")
    return arrays.parse(text, lambda item: _load(element, item))


_FRAGMENTS: Final[dict[Kind, Fragment]] = {
    Kind.BOOLEAN: Fragment('v == b"t"'),
    Kind.BYTES: Fragment("unhexlify(v[2:])", {"unhexlify": unhexlify}),
    Kind.TIMESTAMP: Fragment('v.replace(b" ", b"T", 1)'),
    Kind.TIMESTAMPTZ: Fragment('v.replace(b" ", b"T", 1).replace(b"+00", b"Z", 1)'),
}


def fragment(type_: LogicalType, name: str) -> Fragment:
    """Code that turns the text ``v`` into the native form of `type_`; `name` is unique to the column."""
    if type_.kind is Kind.ARRAY:
        element = type_.element
        assert element is not None
        return Fragment(f"{name}_array(v)", {f"{name}_array": lambda text: _load_array(element, text)})
    return _FRAGMENTS.get(type_.kind, Fragment("v"))


def to_sql_text(type_: LogicalType, value: Value) -> str | None:
    """The reverse of :func:`load`: text that PostgreSQL casts back to the same value; None for SQL NULL."""
    if value is None:
        return None
    match type_.kind:
        case Kind.BOOLEAN:
            return "t" if value else "f"
        case Kind.BYTES:
            assert isinstance(value, bytes)
            return "\\x" + value.hex()
        case Kind.TIMESTAMP:
            return str(value).replace("T", " ", 1)
        case Kind.TIMESTAMPTZ:
            return str(value).replace("T", " ", 1).replace("Z", "+00", 1)
        case Kind.ARRAY:
            assert isinstance(value, list)
            assert type_.element is not None
            return arrays.literal(type_.element, value, to_sql_text)
        case _:
            return str(value)
