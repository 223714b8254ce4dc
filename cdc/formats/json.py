"""Column values as JSON, in the two value profiles (design, "The event and the log").

For each logical type there is a code fragment for the generator (:func:`rendering`, over the native form of
:class:`cdc.formats.Fragment`) and a plain function (:func:`render`, over the canonical value); a property test holds
them equal byte for byte. The ``debezium`` profile's values are in :mod:`cdc.formats.debezium` and
:mod:`cdc.formats.geometries`.

``readable``: numbers for integers and finite floats, with the digits that the database prints (but ``-0.0``); strings
for decimals, everything temporal, NaN and the infinities; base64 for bytes; JSON documents as strings, as printed.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats import Fragment, debezium, geometries
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

dumps: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
"""Any JSON value, without spaces; text is UTF-8, not escaped."""

_INTEGERS: Final = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.UINT64})
_FLOATS: Final = frozenset({Kind.FLOAT32, Kind.FLOAT64})
_TEXTS: Final = frozenset({Kind.STRING, Kind.JSON, Kind.ENUM, Kind.OTHER, Kind.BITS, Kind.COORDINATES, Kind.EWKB})
_BINARIES: Final = frozenset({Kind.BYTES, Kind.GEOMETRY, Kind.POINT})

_NUMBER: Final = Fragment("v")
_QUOTED: Final = Fragment("v", quoted=True)
_BOOLEAN: Final = Fragment('b"true" if v else b"false"')
_TEXT: Final = Fragment("dumps(v.decode())", {"dumps": dumps})
_BYTES: Final = Fragment("base64(v, newline=False)", {"base64": b2a_base64}, quoted=True)


def rendering(type_: LogicalType, profile: str, name: str) -> Fragment:
    """Code that turns the native form ``v`` of `type_` into JSON bytes; `name` is unique to the column."""
    kind = type_.kind
    if kind is Kind.ARRAY:
        return Fragment(f"{name}_json(v)", {f"{name}_json": lambda value: render(type_, profile, value)})
    if profile == "debezium":
        function = _debezium(type_)
        if function is not None:
            return Fragment(f"{name}_json(v)", {f"{name}_json": function})
    if kind in _INTEGERS:
        return _NUMBER
    if kind in _FLOATS:
        # The last byte tells finite numbers, which end in a digit, from the rest.
        return Fragment('v if v[-1] < 58 and v != b"-0" else render_float(v)', {"render_float": _render_float})
    if kind in _TEXTS:
        return _TEXT
    if kind is Kind.BOOLEAN:
        return _BOOLEAN
    if kind in _BINARIES:
        return _BYTES
    return _QUOTED


def _debezium(type_: LogicalType) -> Callable[[bytes], bytes] | None:
    """How the debezium profile renders a type's canonical text or bytes; None where it does as ``readable`` does."""
    coarse = type_.precision is not None and type_.precision <= 3
    match type_.kind:
        case Kind.UINT64:
            return debezium.unsigned
        case Kind.DECIMAL:
            scale = type_.scale
            return debezium.variable_decimal if scale is None else lambda v: debezium.decimal(v, scale)
        case Kind.DATE:
            return debezium.date
        case Kind.TIME:
            return debezium.time_milliseconds if coarse else debezium.time_microseconds
        case Kind.TIMETZ:
            return debezium.timetz
        case Kind.TIMESTAMP:
            return debezium.timestamp_milliseconds if coarse else debezium.timestamp_microseconds
        case Kind.TIMESTAMPTZ:
            precision = 6 if type_.precision is None else type_.precision
            return lambda v: debezium.timestamptz(v, precision)
        case Kind.BITS:
            return debezium.bit if type_.precision == 1 else debezium.bits
        case Kind.BYTES if type_.precision is not None:
            return debezium.little_endian
        case Kind.GEOMETRY:
            return geometries.geometry
        case Kind.POINT:
            return geometries.point
        case Kind.COORDINATES:
            return geometries.coordinates
        case Kind.EWKB:
            return geometries.ewkb
    return None


def _render_float(v: bytes) -> bytes:
    if v in (b"NaN", b"Infinity", b"-Infinity"):
        return b'"%b"' % v
    return b"-0.0" if v == b"-0" else v  # a reader would take -0 for an integer, and lose its sign


def render(type_: LogicalType, profile: str, value: Value) -> bytes:
    """The JSON of a canonical value. Raises ValueError when it is not one of `type_`."""
    if value is None:
        return b"null"
    if isinstance(value, list):
        element = type_.element if type_.element is not None else type_
        # A further dimension is a list within the list: its elements are of the same type.
        items = (render(type_ if isinstance(item, list) else element, profile, item) for item in value)
        return b"[" + b",".join(items) + b"]"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        number = b"%d" % value
        return debezium.unsigned(number) if profile == "debezium" and type_.kind is Kind.UINT64 else number
    function = _debezium(type_) if profile == "debezium" else None
    if isinstance(value, bytes):
        return dumps(b2a_base64(value, newline=False).decode()) if function is None else function(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} cannot be rendered")
    if function is not None:
        return function(value.encode())
    if type_.kind in _FLOATS:
        return _render_float(value.encode())
    return dumps(value)


def key_form(column: Column) -> Fragment | None:
    """Code that turns a native value into the one that stands for all that the database deems equal to it, for the
    record key; None when equal values are always printed alike.

    ``numeric`` without a scale loses trailing zeros, a float's ``-0`` becomes ``0``, ``bpchar`` without a length loses
    trailing blanks, ``citext`` becomes lower case as far as ASCII goes: what other letters become depends on the
    database's locale, and two rows must never fall together.
    """
    function = _key_form(column)
    return None if function is None else Fragment(f"{function.__name__}(v)", {function.__name__: function})


def key_value(column: Column, value: Value) -> Value:
    """The same for a canonical value."""
    function = _key_form(column)
    return function(value.encode()).decode() if function is not None and isinstance(value, str) else value


def _key_form(column: Column) -> Callable[[bytes], bytes] | None:
    if column.type.kind in _FLOATS:
        return _unsigned_zero
    if column.type.kind is Kind.DECIMAL and column.type.scale is None:
        return _without_trailing_zeros
    return {"citext": _lower, "bpchar": _without_trailing_blanks}.get(column.native.rpartition(".")[2])


def _unsigned_zero(v: bytes) -> bytes:
    return b"0" if v == b"-0" else v


def _without_trailing_zeros(v: bytes) -> bytes:
    return v.rstrip(b"0").rstrip(b".") if b"." in v else v


def _without_trailing_blanks(v: bytes) -> bytes:
    return v.rstrip(b" ")


def _lower(v: bytes) -> bytes:
    return v.lower()


def render_key(type_: LogicalType, profile: str, value: Value) -> bytes:
    """The JSON of a canonical value in the record key: dates that the profile has as null are text there, or two rows
    would fall together. Raises ValueError as :func:`render`."""
    rendered = render(type_, profile, value)
    return dumps(value) if rendered == b"null" else rendered


def has_nulls(type_: LogicalType, profile: str) -> bool:
    """Whether the profile may have a value of this type as null."""
    return profile == "debezium" and type_.kind in (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def key_supported(type_: LogicalType, native: str) -> str | None:
    """None when a column of this type can be part of the record key, otherwise why not."""
    if type_.kind in (Kind.JSON, Kind.ARRAY):
        return f"equal values of type {native} can be printed differently"
    if type_.kind is Kind.TIMETZ:
        return f"values of type {native} cannot be told apart once they are in UTC"
    if type_.kind in (Kind.OTHER, Kind.BITS, Kind.COORDINATES, Kind.EWKB):
        return f"it is not known when two values of type {native} are equal"
    return None


def decode(schema: TableSchema, after: bytes, partial: bool = False) -> dict[str, Value]:
    """The row in `after` (the JSON of a row in the profile of `schema`) as canonical values by column name.

    Columns that the source did not send are left out. `partial` (the header's flag of that name) says that there may
    be some: in the ``debezium`` profile their placeholder is looked for only then, a row may really contain it.

    Raises DecodeError when `after` is no such row.
    """
    try:
        row = _decode_object(after)
        if partial and schema.profile == "debezium":
            for name, placeholder in _placeholders(schema):
                if name in row and row[name] == placeholder:
                    del row[name]
        for name, load in _loaders(schema):
            value = row.get(name)
            if value is not None:
                row[name] = load(value)
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DecodeError(f"a row of {schema.topic} does not fit its schema {schema.id.hex()}") from error
    return row


# Most JSON values are canonical values already; floats must keep their digits.
_decode_object: Final = msgspec.json.Decoder(dict[str, Any], float_hook=str).decode


@lru_cache(1024)
def _loaders(schema: TableSchema) -> list[tuple[str, Callable[[Any], Value]]]:
    """The columns whose JSON is not yet the canonical value, and what makes it one."""
    loaders = ((column.name, _loader(column.type, schema.profile)) for column in schema.columns)
    return [(name, load) for name, load in loaders if load is not None]


@lru_cache(1024)
def _placeholders(schema: TableSchema) -> list[tuple[str, object]]:
    return [(column.name, msgspec.json.decode(debezium.placeholder(column.type))) for column in schema.columns]


def _loader(type_: LogicalType, profile: str) -> Callable[[Any], Value] | None:
    """From JSON to the canonical value; None where that is the same."""
    kind = type_.kind
    if kind in _FLOATS:
        return _load_float
    if kind in _BINARIES and profile != "debezium":
        return a2b_base64
    if kind is Kind.BYTES:
        return a2b_base64 if type_.precision is None else debezium.load_little_endian
    if kind is Kind.ARRAY and type_.element is not None:
        load_item = _loader(type_.element, profile)
        return None if load_item is None else lambda items: _load_items(items, load_item)
    if profile != "debezium":
        return None
    match kind:
        case Kind.UINT64:
            return debezium.load_unsigned
        case Kind.DECIMAL:
            return lambda value: debezium.load_decimal(value, type_.scale)
        case Kind.DATE:
            return debezium.load_date
        case Kind.TIME:
            return lambda value: debezium.load_time(value, type_.precision)
        case Kind.TIMETZ:
            return debezium.load_timetz
        case Kind.TIMESTAMP:
            return lambda value: debezium.load_timestamp(value, type_.precision)
        case Kind.TIMESTAMPTZ:
            return debezium.load_timestamptz
        case Kind.BITS:
            return lambda value: debezium.load_bits(value, type_.precision)
        case Kind.GEOMETRY | Kind.POINT:
            return geometries.load_geometry
        case Kind.COORDINATES:
            return geometries.load_coordinates
        case Kind.EWKB:
            return geometries.load_ewkb
    return None


def _load_float(value: int | str) -> str:
    return "-0" if value == "-0.0" else str(value)


def _load_items(items: list[Any], load: Callable[[Any], Value]) -> Value:
    return [
        item if item is None else _load_items(item, load) if isinstance(item, list) else load(item) for item in items
    ]
