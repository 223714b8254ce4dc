"""Every type: what is in the binlog is what the server says. hypothesis drives, the server is the oracle."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.formats.json import render
from connectors.mysql.rows import columns
from schemas.types import Kind, LogicalType
from tests.integration.mysql.conftest import Binlog

pytestmark = pytest.mark.xdist_group("mysql")

Oracle = Callable[[Any], Any]
Case = tuple[st.SearchStrategy[Any], str, Oracle]
"""Values to insert, the expression that asks the server for what became of them, and its canonical form."""

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
small = st.text(st.characters(max_codepoint=0x2FF, exclude_characters="\0"), max_size=20)


def same(value: Any) -> Any:
    return value


def fraction(text: str) -> str:
    return re.sub(r"(\.\d*?)0+$", r"\1", text).removesuffix(".") if "." in text else text


def moment(text: str) -> str:
    return fraction(text).replace(" ", "T")


def zoned(text: str) -> str:
    return moment(text) + "Z"


def single(number: float) -> Any:
    return struct.pack("<f", number)


def integers(bits: int, signed: bool) -> Case:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.sampled_from([low, high]), "v", same


def decimals(precision: int, scale: int) -> Case:
    top = 10**precision - 1
    numbers = (st.integers(-top, top) | st.integers(-200, 200)).map(
        lambda n: f"{'-' * (n < 0)}{abs(n) // 10**scale}.{abs(n) % 10**scale:0{scale}}" if scale else str(n)
    )
    return numbers, "CAST(v AS CHAR)", same


days = st.one_of(
    st.dates().map(str),
    st.sampled_from(["0000-00-00", "2024-00-00", "2024-12-00", "0000-01-01", "2023-02-30", "9999-12-31", "1000-01-01"]),
)


def clocks(digits: int) -> st.SearchStrategy[str]:
    return st.times().map(lambda t: t.isoformat("microseconds")[: 9 + digits if digits else 8])


def times(digits: int) -> Case:
    texts = st.builds(
        lambda negative, hours, rest: f"{'-' * negative}{hours}{rest[2:]}",
        st.booleans(),
        st.integers(0, 837),
        clocks(digits),
    )
    edges = st.sampled_from(["-838:59:59", "838:59:59", "00:00:00", "-00:00:00.5", "-12:34:56.789", "-0:0:1"])
    return texts | edges, "CAST(v AS CHAR)", fraction


def datetimes(digits: int) -> Case:
    return st.builds("{} {}".format, days, clocks(digits)), "CAST(v AS CHAR)", moment


def timestamps(digits: int) -> Case:
    seconds = st.integers(1, 2**31 - 1) | st.sampled_from([1, 2**31 - 1])
    texts = st.builds(lambda s, c: f"{s}{c[8:]}", seconds.map(_seconds), clocks(digits))
    return texts | st.just("0000-00-00 00:00:00"), "CAST(v AS CHAR)", zoned


def _seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def boolean(value: bytes) -> bool:
    return value == b"\1"


def bits(count: int) -> Case:
    return st.integers(0, 2**count - 1), "v", boolean if count == 1 else same


finite = st.floats(allow_nan=False, allow_infinity=False)
bytes_ = st.binary(max_size=30) | st.sampled_from([b"", b"\0", b"a\0\0", b"\0\0a"])
SET = [f"m{i}" for i in range(40)]
ENUM = ["", "ß", "a'b", *(f"e{i}" for i in range(300))]


def quoted(members: list[str]) -> str:
    return ",".join("'" + member.replace("'", "''") + "'" for member in members)


def strings() -> Case:
    return words, "CONVERT(v USING utf8mb4)", same


TYPES: dict[str, Case] = {
    **{
        f"{name}{unsigned}": integers(size, not unsigned)
        for name, size in (("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64))
        for unsigned in ("", " unsigned")
    },
    **{
        f"decimal({precision},{scale})": decimals(precision, scale)
        for precision, scale in (
            (65, 30),
            (65, 0),
            (1, 0),
            (1, 1),
            (9, 9),
            (10, 1),
            (18, 9),
            (20, 10),
        )
    },
    "decimal(12,2) unsigned": (st.integers(0, 10**12 - 1).map(lambda n: f"{n / 100:.2f}"), "CAST(v AS CHAR)", same),
    "double": (finite, "v", same),
    "float": (st.floats(allow_nan=False, allow_infinity=False, width=32), "v * 1e0", single),
    "bit(1)": bits(1),
    "bit(7)": bits(7),
    "bit(8)": bits(8),
    "bit(33)": bits(33),
    "bit(64)": bits(64),
    "year": (st.integers(1901, 2155) | st.just(0), "v + 0", int),
    "date": (days, "CAST(v AS CHAR)", same),
    **{f"time({digits})": times(digits) for digits in range(7)},
    **{f"datetime({digits})": datetimes(digits) for digits in range(7)},
    **{f"timestamp({digits}) NULL": timestamps(digits) for digits in range(7)},
    "char(30)": strings(),
    "char(200) CHARACTER SET utf8mb4": strings(),
    "varchar(30)": strings(),
    "varchar(300)": strings(),
    "varchar(10) CHARACTER SET latin1": (small, "CONVERT(v USING utf8mb4)", same),
    "tinytext": strings(),
    "text": strings(),
    "mediumtext": strings(),
    "longtext": strings(),
    "binary(30)": (bytes_, "v", same),
    "binary(255)": (bytes_, "v", same),
    "varbinary(30)": (bytes_, "v", same),
    "varbinary(300)": (bytes_, "v", same),
    "tinyblob": (bytes_, "v", same),
    "blob": (bytes_, "v", same),
    "mediumblob": (bytes_, "v", same),
    "longblob": (st.binary(max_size=70_000), "v", same),
    f"enum({quoted(ENUM)})": (st.sampled_from([*ENUM, "not one"]), "CONVERT(v USING utf8mb4)", same),
    f"set({quoted(SET)})": (st.sets(st.sampled_from(SET)).map(",".join), "CONVERT(v USING utf8mb4)", same),
    "enum('ä','ö') CHARACTER SET latin1": (st.sampled_from(["ä", "ö", ""]), "CONVERT(v USING utf8mb4)", same),
    "set('ä','ö') CHARACTER SET utf16": (st.sampled_from(["ä", "ö", "ä,ö", ""]), "CONVERT(v USING utf8mb4)", same),
}

inets = st.ip_addresses(v=6).map(str) | st.sampled_from(
    ["::", "::1", "::ffff:1.2.3.4", "::1.2.3.4", "1::", "1:0:0:2::"]
)
uuids = st.uuids().map(str) | st.uuids(version=1).map(str) | st.just("00000000-0000-0000-0000-000000000000")
MARIADB: dict[str, Case] = {
    "decimal(38,38)": decimals(38, 38),
    "inet4": (st.ip_addresses(v=4).map(str) | st.just("0.0.0.0"), "CAST(v AS CHAR)", same),
    "inet6": (inets, "CAST(v AS CHAR)", same),
    "uuid": (uuids, "CAST(v AS CHAR)", same),
    "text COMPRESSED": (words | words.map(lambda word: word * 50), "v", same),
    "varchar(2000) COMPRESSED": (words | words.map(lambda word: word * 50), "v", same),
    "blob COMPRESSED": (bytes_ | bytes_.map(lambda value: value * 50), "v", same),
    "varbinary(2000) COMPRESSED": (bytes_ | bytes_.map(lambda value: value * 50), "v", same),
    "json": (st.just('{"a":  [1, "x"]}'), "v", same),
}


def check(binlog: Binlog, type_: str, case: Case, name: str = "v", examples: int = 4, value: str = "%s") -> None:
    strategy, expression, oracle = case
    binlog.execute("SET sql_mode = 'ALLOW_INVALID_DATES'")
    binlog.execute(f"CREATE TABLE item (id bigint PRIMARY KEY AUTO_INCREMENT, v {type_})")

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.none() | strategy, min_size=1, max_size=40))
    def run(values: list[Any]) -> None:
        binlog.rotate()
        binlog.execute("DELETE FROM item")
        place = ",".join([f"({value})"] * len(values))
        binlog.execute(f"INSERT IGNORE INTO item (v) VALUES {place}", values=values)
        expected = binlog.execute(f"SELECT id, {expression} FROM item ORDER BY id")
        rows = [row for _, row in binlog.rows({"v": type_}) if row[0] == "c"]
        decoded = [after for _, _, after in rows if after is not None]
        assert [row[0] for row in decoded] == [row[0] for row in expected]
        for (_, printed), (_, ours) in zip(expected, decoded, strict=True):
            if printed is None:
                assert ours is None
            elif oracle is single:
                assert single(float(ours)) == single(printed)  # type: ignore[arg-type] - a number's text
            elif type_ == "double":
                assert float(ours) == printed  # type: ignore[arg-type] - a number's text
            else:
                assert ours == oracle(printed)

    run()


def test_bits_as_debezium_has_them(binlog: Binlog) -> None:
    sizes = (2, 8, 9, 33, 64)
    described = ", ".join(f"v{size} bit({size})" for size in sizes)
    binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, flag bit, {described})")
    for id_, number in enumerate((0, 1, 2**64 - 1)):
        values = ", ".join(str(number & 2**size - 1) for size in (1, *sizes))
        binlog.execute(f"INSERT INTO item VALUES ({id_}, {values})")
    reverse = ", ".join(f"TO_BASE64(REVERSE(CAST(v{size} AS BINARY)))" for size in sizes)
    expected = {
        id_: [flag == 1, *rest] for id_, flag, *rest in binlog.execute(f"SELECT id, flag + 0, {reverse} FROM item")
    }
    found = {}
    for table, (_, _, after) in binlog.rows():
        assert after is not None
        described_ = columns(table, {})
        rendered = [render(c.type, "debezium", value) for c, value in zip(described_, after, strict=True)]
        found[after[0]] = [json.loads(one) for one in rendered[1:]]
    assert found == expected


SHAPES = [
    ("POINT(1.5 -2)", "point"),
    ("LINESTRING(0 0, 1 1, 80 -0.1)", "linestring"),
    ("POLYGON((0 0, 4 0, 4 4, 0 0), (1 0.5, 2 0.5, 2 1, 1 0.5))", "polygon"),
    ("MULTIPOINT(1 1, 2 2)", "multipoint"),
    ("MULTILINESTRING((0 0, 1 1), (2 2, 3 3))", "multilinestring"),
    ("MULTIPOLYGON(((0 0, 4 0, 4 4, 0 0)), ((5 5, 6 5, 6 6, 5 5)))", "multipolygon"),
    ("GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))", "geometrycollection"),
    ("GEOMETRYCOLLECTION EMPTY", "geometry"),
    ("POINT(3 4)", "geometry"),
]


@pytest.mark.parametrize("srid", [0, 3857, 4326])
def test_geometries_as_debezium_has_them(binlog: Binlog, srid: int) -> None:
    described = ", ".join(f"v{i} {type_}" for i, (_, type_) in enumerate(SHAPES))
    values = ", ".join(f"ST_GeomFromText('{shape}', {srid})" for shape, _ in SHAPES)
    binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, {described})")
    binlog.execute(f"INSERT INTO item VALUES (1, {values})")
    # MySQL says and takes latitudes first where the SRID has them first, and stores them second.
    order = ", 'axis-order=long-lat'" if binlog.mysql and srid else ""
    wkb = ", ".join(f"TO_BASE64(ST_AsBinary(v{i}{order})), ST_SRID(v{i})" for i in range(len(SHAPES)))
    x, y = ("ST_Longitude", "ST_Latitude") if binlog.mysql and srid == 4326 else ("ST_X", "ST_Y")
    *said, first, second = binlog.execute(f"SELECT {wkb}, {x}(v0), {y}(v0) FROM item")[0]
    structs = [
        {"wkb": one.replace("\n", ""), "srid": number or None}
        for one, number in zip(said[::2], said[1::2], strict=True)
    ]
    structs[0] = {"x": first, "y": second, **structs[0]}
    ((table, (_, _, after)),) = list(binlog.rows())
    assert after is not None
    for column, value, expected in zip(columns(table, {})[1:], after[1:], structs, strict=True):
        assert json.loads(render(column.type, "debezium", value)) == expected
        assert list(json.loads(render(column.type, "debezium", value))) == list(expected)
        assert render(column.type, "readable", value) == render(LogicalType(Kind.BYTES), "readable", value)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    finite,
    st.sampled_from([0.1, 1e15, 1e16, 123456789012345.6, 1e-5, 1e-14, 1e-15, 1e-16, 5e-324, 1e22, -0.0, 1.7e308]),
    words,
    st.sampled_from(['"', "\\", "\n\r\t\b\f\x01\x1f\x7f", "☃", "😀", "x" * 200, "y" * 70_000]),
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)
big = st.one_of(
    st.integers(3000, 6000).map(lambda n: {str(i): i for i in range(n)}),
    st.just([[i, str(i), {"i": i * 100_000}] for i in range(4000)]),
)
MYSQL: dict[str, Case] = {
    "json": (documents.map(lambda d: json.dumps(d, ensure_ascii=False)), "CAST(v AS CHAR CHARACTER SET utf8mb4)", same),
    "JSON": (big.map(json.dumps), "CAST(v AS CHAR CHARACTER SET utf8mb4)", same),
}
OPAQUE = [
    "CAST(%s AS DECIMAL(65,30))",
    "CAST(%s AS DECIMAL(12,2))",
    "CAST(CAST(%s AS DECIMAL(20)) AS UNSIGNED)",
    "CAST('2024-02-29' AS DATE)",
    "CAST('2024-02-29 23:59:59.000001' AS DATETIME(6))",
    "TIMESTAMP('0000-00-00 00:00:00')",
    "CAST('-838:59:59' AS TIME)",
    "CAST('-00:00:00.5' AS TIME(6))",
    "CAST('12:34:56.789' AS TIME(3))",
    "CAST(x'00ff80' AS BINARY)",
    "CAST(REPEAT('long ', 100) AS BINARY)",
    "b'101'",
    "ST_GeomFromText('POINT(1 2)')",
    "CAST(%s AS DOUBLE)",
    "CAST(%s AS FLOAT)",
    "MAKEDATE(2024, 60)",
    "_latin1 x'e4'",
]


def known(type_: str) -> str:
    return type_ if len(type_) < 50 else type_[:12]


@pytest.mark.parametrize("type_", TYPES, ids=known)
def test_types_of_both(binlog: Binlog, type_: str) -> None:
    check(binlog, type_, TYPES[type_])


@pytest.mark.parametrize("type_", MARIADB, ids=known)
@pytest.mark.parametrize("binlog", ["mariadb"], indirect=True)
def test_types_of_mariadb(binlog: Binlog, type_: str) -> None:
    check(binlog, type_, MARIADB[type_])


@pytest.mark.parametrize("type_", MYSQL, ids=known)
@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_types_of_mysql(binlog: Binlog, type_: str) -> None:
    check(binlog, type_, MYSQL[type_], examples=10 if type_ == "json" else 2)


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
@pytest.mark.parametrize("number", ["0", "1.5", "-12345678.91", "123456789012345678901234567890.5", "1e-20"])
def test_values_in_json_that_json_does_not_have(binlog: Binlog, number: str) -> None:
    binlog.execute("SET sql_mode = ''", "CREATE TABLE item (id int PRIMARY KEY AUTO_INCREMENT, v json)")
    for expression in OPAQUE:
        value = expression.replace("%s", number)
        binlog.execute(f"INSERT INTO item (v) VALUES (JSON_ARRAY({value}, JSON_OBJECT('a', {value})))")
    expected = [printed for (printed,) in binlog.execute("SELECT CAST(v AS CHAR) FROM item ORDER BY id")]
    assert [after[1] for _, (_, _, after) in binlog.rows() if after is not None] == expected
