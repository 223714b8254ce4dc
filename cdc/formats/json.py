"""Column values as JSON, in the two value profiles (design, "The event and the log").

For each logical type there is a code fragment for the generator (:func:`rendering`, over the native form of
:class:`cdc.formats.Fragment`) and a plain function (:func:`render`, over the canonical value); a property test holds
them equal byte for byte. The ``debezium`` profile's values are in :mod:`cdc.formats.debezium`.

``readable``: numbers for integers, booleans and finite floats (digits as the database prints them); strings for
decimals, everything temporal, NaN and the infinities; base64 for bytes; JSON documents as strings, exactly as printed.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats import Fragment, debezium
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

dumps: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
"""Any JSON value, without spaces; text is UTF-8, not escaped."""

_INTEGERS: Final = frozenset({Kind.INT16, Kind.INT32, Kind.INT64, Kind.UINT64})
_FLOATS: Final = frozenset({Kind.FLOAT32, Kind.FLOAT64})
_TEXTS: Final = frozenset({Kind.STRING, Kind.JSON, Kind.ENUM, Kind.OTHER})

_NUMBER: Final = Fragment("v")
_QUOTED: Final = Fragment("b'\"%b\"' % v")
_BOOLEAN: Final = Fragment('b"true" if v else b"false"')
_FLOAT: Final = Fragment("v if v[-1] < 58 else b'\"%b\"' % v")  # NaN and Infinity end in letters
_TEXT: Final = Fragment("dumps(v.decode())", {"dumps": dumps})
_BYTES: Final = Fragment("b'\"%b\"' % base64(v, newline=False)", {"base64": b2a_base64})


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
        return _FLOAT
    if kind in _TEXTS:
        return _TEXT
    if kind is Kind.BOOLEAN:
        return _BOOLEAN
    if kind is Kind.BYTES:
        return _BYTES
    return _QUOTED


def _debezium(type_: LogicalType) -> Callable[[bytes], bytes] | None:
    """How the debezium profile renders a type's canonical text; None where it does as ``readable`` does."""
    coarse = type_.precision is not None and type_.precision <= 3
    match type_.kind:
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
    return None


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
        return b"%d" % value
    if isinstance(value, bytes):
        return dumps(b2a_base64(value, newline=False).decode())
    if not isinstance(value, str):
        raise ValueError(f"{value!r} cannot be rendered")
    function = _debezium(type_) if profile == "debezium" else None
    if function is not None:
        return function(value.encode())
    if type_.kind in _FLOATS and value not in ("NaN", "Infinity", "-Infinity"):
        return value.encode()
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


def key_supported(type_: LogicalType, native: str) -> str | None:
    """None when a column of this type can be part of the record key, otherwise why not."""
    if type_.kind in (Kind.JSON, Kind.ARRAY):
        return f"equal values of type {native} can be printed differently"
    if type_.kind is Kind.TIMETZ:
        return f"values of type {native} cannot be told apart once they are in UTC"
    if type_.kind is Kind.OTHER:
        return f"it is not known when two values of type {native} are equal"
    return None


_FIELDS: Final[dict[Kind, type]] = {
    Kind.BOOLEAN: bool,
    **dict.fromkeys(_INTEGERS, int),
    Kind.BYTES: bytes,
}


def decode(schema: TableSchema, after: bytes, partial: bool = False) -> dict[str, Value]:
    """The row in `after` (the JSON of a row in the profile of `schema`) as canonical values by column name.

    Columns that the source did not send are left out. `partial` (the header's flag of that name) says that there may
    be some: in the ``debezium`` profile their placeholder is looked for only then, a row may really contain it.

    Raises DecodeError when `after` is no such row.
    """
    try:
        return _decoder(schema)(after, partial)
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"a row of {schema.topic} does not fit its schema {schema.id.hex()}") from error


@lru_cache(1024)
def _decoder(schema: TableSchema) -> Callable[[bytes, bool], dict[str, Value]]:
    """One msgspec decoder per schema; only columns whose JSON is not yet the canonical value are touched again."""
    fields = [
        (f"c{index}", _field(column.type, schema.profile), msgspec.field(name=column.name, default=msgspec.UNSET))
        for index, column in enumerate(schema.columns)
    ]
    decode_struct = msgspec.json.Decoder(msgspec.defstruct("Row", fields)).decode
    columns = [
        (f"c{index}", column.name, _loader(column.type, schema.profile)) for index, column in enumerate(schema.columns)
    ]

    def decode_row(after: bytes, partial: bool) -> dict[str, Value]:
        row = decode_struct(after)
        missing = _missing(schema, after) if partial and schema.profile == "debezium" else ()
        values: dict[str, Value] = {}
        for attribute, name, load in columns:
            value = getattr(row, attribute)
            if value is not msgspec.UNSET and name not in missing:
                values[name] = value if load is None or value is None else load(value)
        return values

    return decode_row


_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _missing(schema: TableSchema, after: bytes) -> set[str]:
    """Names of the columns that hold the placeholder."""
    row = _decode_raw(after)
    return {
        column.name
        for column in schema.columns
        if column.name in row and bytes(row[column.name]) == debezium.placeholder(column.type)
    }


def _field(type_: LogicalType, profile: str) -> object:
    """What msgspec decodes a column into; ``Raw`` keeps the digits of floats and the shape of nested values."""
    kind = type_.kind
    if kind in _FIELDS:
        return _FIELDS[kind] | None | msgspec.UnsetType
    if kind in _FLOATS or kind is Kind.ARRAY:
        return msgspec.Raw | msgspec.UnsetType
    return Any if _debezium(type_) and profile == "debezium" else str | None | msgspec.UnsetType


def _loader(type_: LogicalType, profile: str) -> Callable[[Any], Value] | None:
    """From what msgspec decoded to the canonical value; None where that is the same."""
    kind = type_.kind
    if kind in _FLOATS:
        return _load_float
    if kind is Kind.ARRAY:
        return lambda raw: _load_array(type_, profile, raw)
    if profile != "debezium":
        return None
    match kind:
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
    return None


def _load_float(raw: msgspec.Raw) -> Value:
    text = bytes(raw)
    return None if text == b"null" else text.strip(b'"').decode()


_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _load_array(type_: LogicalType, profile: str, raw: msgspec.Raw) -> Value:
    if bytes(raw) == b"null":
        return None
    assert type_.element is not None
    return [
        _load_array(type_, profile, item) if bytes(item).startswith(b"[") else _load_item(type_.element, profile, item)
        for item in _decode_items(raw)
    ]


def _load_item(type_: LogicalType, profile: str, raw: msgspec.Raw) -> Value:
    item = msgspec.json.decode(raw, type=_field(type_, profile))
    load = _loader(type_, profile)
    return item if load is None or item is None else load(item)
