"""Values that the servers of the tests cannot have, and what is refused."""

from __future__ import annotations

import zlib

import pytest

from cdc.errors import DecodeError
from cdc.formats import debezium
from connectors.mysql import binary_json
from connectors.mysql.charsets import charset
from connectors.mysql.cursor import Cursor
from connectors.mysql.numbers import double_text, float_text
from connectors.mysql.tablemap import ColumnType, MapColumn
from connectors.mysql.values import column_type, layout, read
from schemas.types import Kind


def column(type_: ColumnType, size: int = 0, scale: int = 0, collation: int = 63) -> MapColumn:
    return MapColumn("secret_name", type_, size, scale, True, collation=collation)


@pytest.mark.parametrize(
    ("type_", "size", "content", "expected"),
    [
        (ColumnType.TIMESTAMP2, 0, "f48656ff", "2099-12-31T23:59:59Z"),
        (ColumnType.TIMESTAMP2, 0, "00000000", "0000-00-00T00:00:00Z"),
        (ColumnType.TIMESTAMP2, 3, "000000001388", "1970-01-01T00:00:00.5Z"),
        (ColumnType.TIME2, 3, "7f3747e12e", "-12:34:56.789"),
        (ColumnType.TIME2, 1, "7fffffce", "-00:00:00.5"),
        (ColumnType.DATETIME2, 0, "8000000000", "0000-00-00T00:00:00"),
        (ColumnType.DATE, 0, "000000", "0000-00-00"),
        (ColumnType.YEAR, 0, "00", 0),
        (ColumnType.YEAR, 0, "ff", 2155),
    ],
)
def test_times(type_: ColumnType, size: int, content: str, expected: object) -> None:
    found = column(type_, size)
    cursor = Cursor(bytes.fromhex(content), "a row")
    assert read(found, layout(found), cursor) == expected
    assert not cursor.left


@pytest.mark.parametrize(
    ("found", "content"),
    [
        (column(ColumnType.NEWDECIMAL, 9, 0), "ffffffff"),
        (column(ColumnType.DATE), "ffffff"),
        (column(ColumnType.DATETIME2), "ffffffffff"),
        (column(ColumnType.DATETIME2), "0000000000"),
        (column(ColumnType.DATETIME2, 6), "8000000000ffffff"),
        (column(ColumnType.TIME2), "ffffff"),
        (column(ColumnType.DATETIME), "ffffffffffffffff"),
        (column(ColumnType.TIME), "ffff7f"),
        (column(ColumnType.BIT, 1, 3), "08"),
        (column(ColumnType.ENUM, 1), "01"),
        (column(ColumnType.SET, 1), "01"),
        (column(ColumnType.VARCHAR, 9, collation=45), "01ff"),
        (column(ColumnType.VARCHAR, 9, collation=28), "0181"),
        (column(ColumnType.STRING, 1), "020000"),
        (column(ColumnType.VARCHAR_COMPRESSED, 9), "0381ff78"),
        (column(ColumnType.JSON, 1), "02ffff"),
        (column(ColumnType.VECTOR, 1), "03000000"),
        (column(ColumnType.LONG), "000000"),
    ],
)
def test_what_is_no_value_is_said_without_it(found: MapColumn, content: str) -> None:
    with pytest.raises(DecodeError) as raised:
        read(found, layout(found), Cursor(bytes.fromhex(content), "a row"))
    assert content not in str(raised.value)


@pytest.mark.parametrize(
    "found",
    [
        column(ColumnType.TIME2, 7),
        column(ColumnType.ENUM, 0),
        column(ColumnType.BLOB, 0),
        column(ColumnType.VARCHAR, 9, collation=9999),
    ],
)
def test_columns_that_cannot_be(found: MapColumn) -> None:
    with pytest.raises(DecodeError):
        layout(found)


@pytest.mark.parametrize("declared", ["uuid", "inet6"])
def test_a_declared_type_that_does_not_fit_is_not_believed(declared: str) -> None:
    assert column_type(column(ColumnType.STRING, 15), declared)[0].kind is Kind.BYTES
    assert column_type(column(ColumnType.STRING, 16), declared)[1] == declared


def test_compressed_values_without_wrapping() -> None:
    found = column(ColumnType.BLOB_COMPRESSED, 2)
    deflate = zlib.compressobj(wbits=-15)
    content = b"\x89\x04" + deflate.compress(b"text") + deflate.flush()
    row = len(content).to_bytes(2, "little") + content
    assert read(found, layout(found), Cursor(row, "a row")) == b"text"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1.5e-14, "0.000000000000015"),
        (1e-15, "0.000000000000001"),
        (1e-16, "1e-16"),
        (123456789012345.0, "123456789012345"),
        (1e15, "1e15"),
        (1234567890123456.7, "1234567890123456.8"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_floating_point_is_printed_as_the_server_does(number: float, text: str) -> None:
    assert double_text(number) == text


def test_single_precision_has_as_many_digits_as_it_needs() -> None:
    assert [float_text(number) for number in (0.10000000149011612, 16777216.0, 3.4028234663852886e38)] == [
        "0.1",
        "16777216",
        "3.4028235e38",
    ]


def test_a_document_that_repeats_itself_is_refused() -> None:
    """Each element of the array is the same 200 bytes: a few kilobytes would become megabytes."""
    count = 1000
    entries = b"".join(b"\x0c" + (4 + 3 * count).to_bytes(2, "little") for _ in range(count))
    size = 4 + 3 * count + 202
    document = b"\2" + count.to_bytes(2, "little") + size.to_bytes(2, "little") + entries + b"\xc8\1" + b"x" * 200
    with pytest.raises(ValueError, match="overlap"):
        binary_json.parse(document)


def test_unknown_collations_are_said() -> None:
    with pytest.raises(DecodeError, match="collation 5000"):
        charset(5000)


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        (debezium.date(b"0000-00-00"), b"null"),
        (debezium.date(b"2023-02-30"), b"null"),
        (debezium.timestamp_microseconds(b"2024-00-00T01:02:03"), b"null"),
        (debezium.timestamptz(b"0000-00-00T00:00:00Z", 3), b"null"),
        (debezium.time_microseconds(b"-838:59:58.999999"), b"-3020398999999"),
        (debezium.time_microseconds(b"100:00:00"), b"360000000000"),
        (debezium.unsigned(b"18446744073709551615"), b"-1"),
        (debezium.unsigned(b"9223372036854775807"), b"9223372036854775807"),
    ],
)
def test_debeziums_values(rendered: bytes, expected: bytes) -> None:
    assert rendered == expected
    if expected == b"-3020398999999":
        assert debezium.load_time(int(rendered), None) == "-838:59:58.999999"
