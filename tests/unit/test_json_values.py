"""Values as the two profiles render them: what Debezium's documentation and tests say, and the way back."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from typing import Any

import pytest

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats import debezium
from cdc.formats.json import decode, key_supported, render
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

TEXTS = LogicalType(Kind.ARRAY, element=LogicalType(Kind.STRING))
NUMBERS = LogicalType(Kind.ARRAY, element=LogicalType(Kind.DECIMAL, 6, 2))


def wkb(byte_order: str, x: float, y: float) -> bytes:
    """Of a point."""
    return struct.pack(f"{byte_order}BIdd", byte_order == "<", 1, x, y)


def _struct(wkb: str, srid: int | None) -> dict[str, Any]:
    return {"wkb": b64encode(bytes.fromhex(wkb)).decode(), "srid": srid}


def _point(x: float | str, y: float | str, wkb: str, srid: int | None) -> dict[str, Any]:
    return {"x": x, "y": y, **_struct(wkb, srid)}


READABLE: list[tuple[LogicalType, Value, Any]] = [
    (LogicalType(Kind.BOOLEAN), True, True),
    (LogicalType(Kind.INT64), 2**63 - 1, 2**63 - 1),
    (LogicalType(Kind.UINT64), 2**64 - 1, 2**64 - 1),
    (LogicalType(Kind.DECIMAL), "1.10", "1.10"),
    (LogicalType(Kind.FLOAT64), "1.5", 1.5),
    (LogicalType(Kind.FLOAT64), "NaN", "NaN"),
    (LogicalType(Kind.FLOAT64), "-Infinity", "-Infinity"),
    (LogicalType(Kind.FLOAT64), "-0", -0.0),
    (LogicalType(Kind.FLOAT64), "1e+20", 1e20),
    (LogicalType(Kind.STRING), 'é"\\\n', 'é"\\\n'),
    (LogicalType(Kind.BYTES), b"\0\xff", "AP8="),
    (LogicalType(Kind.BYTES, 11), b"\4\1", "BAE="),
    (LogicalType(Kind.BITS, 4), "0011", "0011"),
    (LogicalType(Kind.BITS, 1), "1", "1"),
    (LogicalType(Kind.GEOMETRY), b"\1\0\0\0\1\7", "AQAAAAEH"),
    (LogicalType(Kind.POINT), b"\1\0\0\0\1\1", "AQAAAAEB"),
    (LogicalType(Kind.COORDINATES), "(1,NaN)", "(1,NaN)"),
    (LogicalType(Kind.EWKB), "010700000000000000", "010700000000000000"),
    (LogicalType(Kind.JSON), '{"a":  1}', '{"a":  1}'),
    (LogicalType(Kind.DATE), "0044-03-15 BC", "0044-03-15 BC"),
    (LogicalType(Kind.TIMESTAMP), "2026-01-31T12:00:00.5", "2026-01-31T12:00:00.5"),
    (LogicalType(Kind.TIMESTAMPTZ), "infinity", "infinity"),
    (TEXTS, [["a", None], ["NULL", ""]], [["a", None], ["NULL", ""]]),
]

DEBEZIUM: list[tuple[LogicalType, Value, Any]] = [
    (LogicalType(Kind.DECIMAL, 5, 2), "1.10", "bg=="),
    (LogicalType(Kind.DECIMAL, 5, 2), "-1.28", "gA=="),
    (LogicalType(Kind.DECIMAL, 5, 2), "1.28", "AIA="),
    (LogicalType(Kind.DECIMAL, 5, 0), "0", "AA=="),
    (LogicalType(Kind.DECIMAL, 5, -2), "12300", "ew=="),
    (LogicalType(Kind.DECIMAL, 5, 2), "NaN", "NAN"),
    (LogicalType(Kind.DECIMAL), "-Infinity", "NEGATIVE_INFINITY"),
    (LogicalType(Kind.DECIMAL), "1.1", {"scale": 1, "value": "Cw=="}),
    (LogicalType(Kind.DECIMAL), "100", {"scale": 0, "value": "ZA=="}),
    (LogicalType(Kind.DATE), "1970-01-02", 1),
    (LogicalType(Kind.DATE), "2016-11-04 BC", -1455184),
    (LogicalType(Kind.DATE), "infinity", -2147472692),
    (LogicalType(Kind.TIME, 3), "00:00:01.5", 1500),
    (LogicalType(Kind.TIME), "24:00:00", 86400000000),
    (LogicalType(Kind.TIMETZ), "11:51:30.123789+00", "11:51:30.123789Z"),
    (LogicalType(Kind.TIMETZ), "24:00:00+00", "24:00:00Z"),
    (LogicalType(Kind.TIMESTAMP, 3), "1970-01-01T00:00:01.001", 1001),
    (LogicalType(Kind.TIMESTAMP), "1969-12-31T23:59:59.999999", -1),
    (LogicalType(Kind.TIMESTAMP), "infinity", 9223372036825200000),
    (LogicalType(Kind.TIMESTAMP), "-infinity", -9223372036832400000),
    (LogicalType(Kind.TIMESTAMPTZ), "2020-04-01T11:51:02Z", "2020-04-01T11:51:02.000000Z"),
    (LogicalType(Kind.TIMESTAMPTZ, 0), "2020-04-01T11:51:02Z", "2020-04-01T11:51:02Z"),
    (LogicalType(Kind.TIMESTAMPTZ, 3), "12020-04-01T11:51:02.5Z", "+12020-04-01T11:51:02.500Z"),
    (LogicalType(Kind.TIMESTAMPTZ), "4714-12-31T23:59:59.999999Z BC", "-4713-12-31T23:59:59.999999Z"),
    (LogicalType(Kind.TIMESTAMPTZ), "-infinity", "-infinity"),
    (LogicalType(Kind.BYTES, 11), b"\4\1", "AQQ="),
    (LogicalType(Kind.BYTES, 11), b"\0\1", "AQA="),
    (LogicalType(Kind.BITS, 1), "1", True),
    (LogicalType(Kind.BITS, 1), "0", False),
    (LogicalType(Kind.BITS, 2), "11", "Aw=="),
    (LogicalType(Kind.BITS, 2), "00", ""),
    (LogicalType(Kind.BITS, 11), "10000000001", "AQQ="),
    (LogicalType(Kind.BITS, 17), "00000000000000001", "AQ=="),
    (LogicalType(Kind.ARRAY, element=LogicalType(Kind.BITS, 3)), ["001", None], ["AQ==", None]),
    (LogicalType(Kind.GEOMETRY), bytes.fromhex("00000000 0107000000 00000000"), _struct("010700000000000000", None)),
    (LogicalType(Kind.GEOMETRY), bytes.fromhex("e6100000 0007000000 00000000"), _struct("000700000000000000", 4326)),
    (LogicalType(Kind.GEOMETRY), bytes.fromhex("ffffffff 0107000000 00000000"), _struct("010700000000000000", -1)),
    (LogicalType(Kind.GEOMETRY), bytes.fromhex("00000000 01010000"), "AAAAAAEBAAA="),
    (LogicalType(Kind.GEOMETRY), b"", ""),
    (LogicalType(Kind.POINT), bytes(4) + wkb("<", 1, 2.5), _point(1.0, 2.5, wkb("<", 1, 2.5).hex(), None)),
    (LogicalType(Kind.POINT), b"\1\0\0\0" + wkb(">", -0.0, 1e300), _point(-0.0, 1e300, wkb(">", -0.0, 1e300).hex(), 1)),
    (
        LogicalType(Kind.POINT),
        bytes(4) + wkb("<", math.nan, -math.inf),
        _point("NaN", "-Infinity", wkb("<", math.nan, -math.inf).hex(), None),
    ),
    (LogicalType(Kind.POINT), b"", ""),
    (LogicalType(Kind.POINT), b"\0\0\0\0\1", "AAAAAAE="),
    (LogicalType(Kind.POINT), bytes(4) + b"\1\7" + bytes(19), "AAAAAAEHAAAAAAAAAAAAAAAAAAAAAAAAAA=="),
    (LogicalType(Kind.COORDINATES), "(1,2.5)", _point(1.0, 2.5, wkb("<", 1, 2.5).hex(), None)),
    (LogicalType(Kind.COORDINATES), "(-0,1e+20)", _point(-0.0, 1e20, wkb("<", -0.0, 1e20).hex(), None)),
    (
        LogicalType(Kind.COORDINATES),
        "(Infinity,NaN)",
        _point("Infinity", "NaN", wkb("<", math.inf, math.nan).hex(), None),
    ),
    (LogicalType(Kind.EWKB), "010700000000000000", _struct("010700000000000000", None)),
    (LogicalType(Kind.EWKB), "0107000020E610000000000000", _struct("0107000020E610000000000000", 4326)),
    (LogicalType(Kind.EWKB), "002000000100000005" + "00" * 16, _struct("002000000100000005" + "00" * 16, 5)),
    (LogicalType(Kind.EWKB), "(a,b)", "(a,b)"),
    (LogicalType(Kind.ARRAY, element=LogicalType(Kind.EWKB)), ["(a,b)", None], ["(a,b)", None]),
    (NUMBERS, ["1.10", None], ["bg==", None]),
]


def row(type_: LogicalType, profile: str) -> TableSchema:
    return TableSchema("t", "public", "t", (Column("c", type_, "?"),), (), profile)


@pytest.mark.parametrize(("type_", "value", "expected"), READABLE)
def test_readable(type_: LogicalType, value: Value, expected: Any) -> None:
    rendered = render(type_, "readable", value)
    assert json.loads(rendered) == expected
    assert decode(row(type_, "readable"), b'{"c":' + rendered + b"}") == {"c": value}


@pytest.mark.parametrize(("type_", "value", "expected"), DEBEZIUM)
def test_debezium(type_: LogicalType, value: Value, expected: Any) -> None:
    rendered = render(type_, "debezium", value)
    assert json.loads(rendered) == expected
    assert decode(row(type_, "debezium"), b'{"c":' + rendered + b"}") == {"c": value}


def test_geometries_are_debeziums_letter_by_letter() -> None:
    made = b'{"x":1.0,"y":1.0,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAPA/","srid":null}'  # as its documentation prints it
    assert render(LogicalType(Kind.COORDINATES), "debezium", "(1,1)") == made
    assert render(LogicalType(Kind.POINT), "debezium", bytes(4) + wkb("<", 1, 1)) == made
    bare = b'{"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAPA/","srid":null}'
    assert render(LogicalType(Kind.GEOMETRY), "debezium", bytes(4) + wkb("<", 1, 1)) == bare
    assert render(LogicalType(Kind.EWKB), "debezium", wkb("<", 1, 1).hex().upper()) == bare


def test_debezium_moves_a_time_to_utc() -> None:
    type_ = LogicalType(Kind.TIMETZ)
    assert render(type_, "debezium", "01:00:00.5+02:00:30") == b'"22:59:30.5Z"'
    assert render(type_, "debezium", "23:00:00-01") == b'"00:00:00Z"'


def test_numbers_beyond_pythons_limit() -> None:
    value = "9" * 20_000 + ".01"
    rendered = render(LogicalType(Kind.DECIMAL), "debezium", value)
    schema = row(LogicalType(Kind.DECIMAL), "debezium")
    assert decode(schema, b'{"c":' + rendered + b"}") == {"c": value}


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (LogicalType(Kind.STRING), "__debezium_unavailable_value"),
        (LogicalType(Kind.BYTES), "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="),
        (TEXTS, ["__debezium_unavailable_value"]),
        (LogicalType(Kind.ARRAY, element=LogicalType(Kind.INT32)), list(b"__debezium_unavailable_value")),
        (LogicalType(Kind.DECIMAL), "__debezium_unavailable_value"),
    ],
)
def test_placeholders(type_: LogicalType, expected: Any) -> None:
    assert json.loads(debezium.placeholder(type_)) == expected
    schema = row(type_, "debezium")
    assert decode(schema, b'{"c":' + debezium.placeholder(type_) + b"}", partial=True) == {}


@pytest.mark.parametrize(
    "type_", [*(LogicalType(kind) for kind in Kind if kind is not Kind.ARRAY), LogicalType(Kind.BITS, 1)]
)
def test_a_fabricated_zero_is_a_value_of_its_type(type_: LogicalType) -> None:
    schema = row(type_, "debezium")
    decoded = decode(schema, b'{"c":' + debezium.fabricated(type_) + b"}")
    assert decoded["c"] is not None


@pytest.mark.parametrize("after", [b"", b"[]", b"null", b'{"c":[1]}', b'{"c":"x"', b'{"c":{"scale":1e9}}'])
def test_what_is_no_row_is_refused(after: bytes) -> None:
    with pytest.raises(DecodeError, match="does not fit its schema"):
        decode(row(LogicalType(Kind.DECIMAL), "debezium"), after)


def test_types_that_cannot_be_a_key_say_why() -> None:
    assert key_supported(LogicalType(Kind.STRING), "citext") is None
    assert key_supported(LogicalType(Kind.DECIMAL), "numeric") is None
    for kind in (Kind.JSON, Kind.ARRAY, Kind.OTHER, Kind.TIMETZ, Kind.BITS, Kind.COORDINATES, Kind.EWKB):
        assert "the type" in (key_supported(LogicalType(kind), "the type") or "")
