"""Rows as the servers write them: metadata, row images, partial documents, character sets, compression."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.event import UNCHANGED
from connectors.mysql.charsets import charset
from connectors.mysql.events import Payload, Query, Rows
from connectors.mysql.rows import columns
from connectors.mysql.tablemap import GeometryType, TableMap
from schemas.types import Kind, LogicalType
from tests.integration.mysql.conftest import Binlog, needs_image

pytestmark = pytest.mark.xdist_group("mysql")


def table(binlog: Binlog) -> TableMap:
    """The last that the binlog describes."""
    return [event for _, event in binlog.events() if isinstance(event, TableMap)][-1]


def test_a_table_map_tells_all_of_a_table(binlog: Binlog) -> None:
    binlog.execute(
        """CREATE TABLE `tä ble` (
          `näme` varchar(20) NOT NULL, b text, u int unsigned NOT NULL, y year, s smallint, f float unsigned,
          e enum('a''b', 'ß') CHARACTER SET latin1, st set('x', 'y', 'ü'), g geometry, p point NOT NULL,
          hidden int INVISIBLE, made int GENERATED ALWAYS AS (u + 1) STORED, l varchar(5) CHARACTER SET latin1,
          d decimal(10, 3), big bigint unsigned, t3 datetime(3), ts timestamp NULL,
          PRIMARY KEY (u, `näme`(7))) DEFAULT CHARSET utf8mb4""",
        "INSERT INTO `tä ble` (`näme`, u, p) VALUES ('x', 1, POINT(1, 2))",
    )
    found = table(binlog)
    assert (found.schema, found.table, found.complete) == ("shop", "tä ble", True)
    by_name = {column.name: column for column in found.columns}
    assert [(found.columns[i].name, size) for i, size in found.primary_key] == [("u", 0), ("näme", 7)]
    assert {name for name, column in by_name.items() if column.unsigned} == {
        "y",
        "u",
        "f",
        "big",
    }  # a year counts as a number
    assert {name for name, column in by_name.items() if not column.nullable} == {"näme", "u", "p"}
    assert {name for name, column in by_name.items() if not column.visible} <= {"hidden"}
    assert (by_name["e"].members, by_name["st"].members) == (("a'b", "ß"), ("x", "y", "ü"))
    assert (by_name["g"].geometry, by_name["p"].geometry) == (GeometryType.GEOMETRY, GeometryType.POINT)
    assert charset(by_name["l"].collation).name == "latin1"
    described = {column.name: (column.native, column.type) for column in columns(found, {})}
    assert described == {
        "näme": ("varchar(20)", LogicalType(Kind.STRING)),
        "b": ("text", LogicalType(Kind.STRING)),
        "u": ("int unsigned", LogicalType(Kind.INT64)),
        "y": ("year", LogicalType(Kind.INT16)),
        "s": ("smallint", LogicalType(Kind.INT16)),
        "f": ("float unsigned", LogicalType(Kind.FLOAT32)),
        "e": ("enum('a''b','ß')", LogicalType(Kind.ENUM)),
        "st": ("set('x','y','ü')", LogicalType(Kind.STRING)),
        "g": ("geometry", LogicalType(Kind.GEOMETRY)),
        "p": ("point", LogicalType(Kind.POINT)),
        "hidden": ("int", LogicalType(Kind.INT32)),
        "made": ("int", LogicalType(Kind.INT32)),
        "l": ("varchar(5)", LogicalType(Kind.STRING)),
        "d": ("decimal(10,3)", LogicalType(Kind.DECIMAL, 10, 3)),
        "big": ("bigint unsigned", LogicalType(Kind.UINT64)),
        "t3": ("datetime(3)", LogicalType(Kind.TIMESTAMP, 3)),
        "ts": ("timestamp", LogicalType(Kind.TIMESTAMPTZ, 0)),
    }
    ((_, (_, _, after)),) = list(binlog.rows())
    (stored,) = binlog.execute("SELECT p FROM `tä ble`")
    assert after is not None
    assert (after[0], after[2], after[9], after[11]) == ("x", 1, stored[0], 2)


@pytest.mark.parametrize("odd", [1, 4])
def test_collations_come_as_a_list_or_as_exceptions_from_a_default(binlog: Binlog, odd: int) -> None:
    names = [f"CHARACTER SET latin1 /* {i} */" if i < odd else "" for i in range(8)]
    described = ", ".join(f"t{i} text {name}, b{i} blob, g{i} geometry" for i, name in enumerate(names))
    binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, {described}) DEFAULT CHARSET utf8mb4")
    binlog.execute("INSERT INTO item (id) VALUES (1)")
    found = {column.name: charset(column.collation).name for column in table(binlog).columns}
    assert [found[f"t{i}"] for i in range(8)] == ["latin1"] * odd + ["utf8mb4"] * (8 - odd)
    assert {found[f"{name}{i}"] for name in "bg" for i in range(8)} == {"binary"}


def test_without_full_metadata_a_table_map_says_so(binlog: Binlog) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)", "SET GLOBAL binlog_row_metadata = MINIMAL")
    try:
        binlog.execute("INSERT INTO item VALUES (1)")
    finally:
        binlog.execute("SET GLOBAL binlog_row_metadata = FULL")
    assert not table(binlog).complete


@pytest.mark.parametrize("rows", [1, 1000])
def test_inserts_updates_and_deletes(binlog: Binlog, rows: int) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY, n int, v varchar(300))")
    values = ",".join(f"({i}, {'NULL' if i % 3 else i}, REPEAT('x', {i % 300}))" for i in range(rows))
    binlog.execute(f"INSERT INTO item VALUES {values}", "UPDATE item SET n = id + 1", "DELETE FROM item")
    first = [[i, None if i % 3 else i, "x" * (i % 300)] for i in range(rows)]
    second = [[i, i + 1, v] for i, _, v in first]
    changes = [row for _, row in binlog.rows()]
    assert changes == [
        *(("c", None, row) for row in first),
        *(("u", old, new) for old, new in zip(first, second, strict=True)),
        *(("d", row, None) for row in second),
    ]


@pytest.mark.parametrize(
    ("image", "before", "after"),
    [
        ("MINIMAL", [1, UNCHANGED, UNCHANGED], [UNCHANGED, UNCHANGED, 2]),
        ("NOBLOB", [1, UNCHANGED, 1], [1, UNCHANGED, 2]),
        ("FULL_NODUP", [1, "x", 1], [UNCHANGED, UNCHANGED, 2]),
    ],
)
def test_what_a_row_image_lacks_is_unchanged(binlog: Binlog, image: str, before: list[Any], after: list[Any]) -> None:
    needs_image(binlog.server, image)
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY, b text, n int)", "INSERT INTO item VALUES (1, 'x', 1)")
    binlog.rotate()
    binlog.execute(f"SET binlog_row_image = {image}", "UPDATE item SET n = 2", "DELETE FROM item")
    updated, deleted = [row for _, row in binlog.rows()]
    assert updated == ("u", before, after)
    assert deleted[1] is not None
    assert deleted[1][0] == 1


CHANGES = [
    "JSON_SET(v, '$.a', 2, '$.b[1]', 'two', '$.\"a b\"', CAST('1.50' AS DECIMAL(5,2)))",
    "JSON_REPLACE(v, '$.c.d[0].e', CAST('2024-02-29' AS DATE))",
    "JSON_REMOVE(v, '$.b[0]')",
    "JSON_SET(v, '$.new', 1, '$.aa', JSON_ARRAY(), '$.\"q\\\\\"t\"', 1.0, '$.ä', NULL)",
    "JSON_SET(v, '$.b[9]', 7)",
    "JSON_REMOVE(v, '$.c.d', '$.a')",
    "JSON_SET(v, '$.c', 'short')",
    "v",
]


@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_partial_documents(binlog: Binlog) -> None:
    binlog.execute(
        "CREATE TABLE item (id int PRIMARY KEY, w json, v json, x json, n int)",
        "SET binlog_row_value_options = PARTIAL_JSON",
    )
    document = '{"a": 1, "b": [1, 2, 3], "c": {"d": [{"e": "long enough to be replaced"}]}, "a b": 0.1}'
    padding = "x" * 200
    binlog.execute(f"INSERT INTO item VALUES (1, '{{}}', JSON_SET('{document}', '$.pad', '{padding}'), '[1]', 0)")
    binlog.rotate()
    expected = []
    for change in CHANGES:
        binlog.execute(f"UPDATE item SET v = {change}, x = JSON_SET(x, '$[0]', n), n = n + 1")
        expected.append(binlog.execute("SELECT CAST(v AS CHAR), CAST(x AS CHAR) FROM item")[0])
    assert any(isinstance(event, Rows) and event.partial for _, event in binlog.events())
    images = [after for _, (_, _, after) in binlog.rows() if after is not None]
    assert [(after[2], after[3]) for after in images] == expected


def test_vectors(binlog: Binlog) -> None:
    made = binlog.vector()
    type_ = "vector(3)" if made else "varbinary(12)"  # which is what MariaDB's binlog has
    value = f"{made}('[1.5,-0.1,3e10]')" if made else "0x0000c03fcdccccbd7684df50"
    binlog.execute(
        f"CREATE TABLE item (id int PRIMARY KEY, t text, v {type_}, l varchar(9) CHARACTER SET latin1)",
        f"INSERT INTO item VALUES (1, 'ä', {value}, 'ö'), (2, NULL, NULL, NULL)",
    )
    declared = {} if binlog.mysql else {"v": "vector"}
    assert columns(table(binlog), declared)[2].native == "vector(3)"
    assert [after for _, (_, _, after) in binlog.rows(declared)] == [
        [1, "ä", ["1.5", "-0.1", "30000000000"], "ö"],
        [2, None, None, None],
    ]


@pytest.mark.parametrize("setting", ["NONE", "CRC32"])
def test_checksums_may_be_switched(binlog: Binlog, setting: str) -> None:
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY)", f"SET GLOBAL binlog_checksum = {setting}")
    try:
        binlog.execute("INSERT INTO item VALUES (1)")
        assert [after for _, (_, _, after) in binlog.rows()] == [[1]]
    finally:
        binlog.execute("SET GLOBAL binlog_checksum = CRC32")


def test_compressed_rows_and_statements(binlog: Binlog) -> None:
    long = "x" * 3000
    binlog.execute(f"CREATE TABLE item (id int PRIMARY KEY, v text COMMENT '{'y' * 300}')")
    if binlog.mysql:
        binlog.execute("SET binlog_transaction_compression = ON")
    else:
        binlog.execute("SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress_min_len = 10")
    try:
        binlog.execute(
            "BEGIN",
            f"INSERT INTO item VALUES (1, '{long}'), (2, NULL)",
            "UPDATE item SET id = id + 2",
            "DELETE FROM item",
            "COMMIT",
            f"ALTER TABLE item COMMENT '{'z' * 300}'",
        )
    finally:
        if not binlog.mysql:
            binlog.execute("SET GLOBAL log_bin_compress = OFF")
    events = list(binlog.events())
    if binlog.mysql:
        assert any(isinstance(event, Payload) for _, event in events)
    else:
        assert {header.type for header, _ in events} > {165, 166, 167, 168}
    assert "z" * 300 in [event.sql for _, event in events if isinstance(event, Query)][-1]
    assert [row for _, row in binlog.rows()] == [
        ("c", None, [1, long]),
        ("c", None, [2, None]),
        ("u", [1, long], [3, long]),
        ("u", [2, None], [4, None]),
        ("d", [3, long], None),
        ("d", [4, None], None),
    ]


def test_every_character_of_every_character_set(binlog: Binlog) -> None:
    binlog.execute(
        "CREATE TABLE digit (d binary(1))",
        "INSERT INTO digit VALUES " + ",".join(f"(x'{byte:02x}')" for byte in range(256)),
    )
    sets = binlog.execute(
        "SELECT character_set_name, maxlen, MIN(id) FROM information_schema.character_sets"
        " JOIN information_schema.collations USING (character_set_name)"
        " WHERE id IS NOT NULL AND character_set_name <> 'binary' GROUP BY character_set_name, maxlen"
    )
    assert len(sets) >= 39
    for name, width, collation in sets:
        known = charset(collation)
        assert (known.name, known.width) == (name, width)
        # MySQL does not see that half a character of eucjpms is none
        sources = ["SELECT d s FROM digit" + " WHERE d < x'80'" * (name == "eucjpms")]
        if width > 1:
            low = "x'30'" if name in ("big5", "cp932", "euckr", "gb18030", "gb2312", "gbk", "sjis") else "x'a1'"
            sources += [f"SELECT CONCAT(a.d, b.d) s FROM digit a, digit b WHERE a.d > x'80' AND b.d >= {low}"]
        if name in ("ujis", "eucjpms"):
            sources += ["SELECT CONCAT(x'8f', a.d, b.d) s FROM digit a, digit b WHERE a.d > x'a0' AND b.d > x'a0'"]
        if name.startswith("u") and name not in ("ujis",):
            texts = "a", "ä€", "😀" if width == 4 else "語"
            sources = [f"SELECT CAST(CONVERT('{text}' USING {name}) AS BINARY) s" for text in texts]
        pairs = binlog.execute(
            " UNION ALL ".join(
                f"SELECT s, CONVERT(CONVERT(s USING {name}) USING utf8mb4), CAST(CONVERT(s USING {name}) AS BINARY)"
                f" FROM ({source}) t"
                for source in sources
            )
        )
        wrong = [(s, text) for s, text, stored in pairs if text is not None and s == stored and known.decode(s) != text]
        assert not wrong, name


def test_text_in_every_character_set(binlog: Binlog) -> None:
    sets = [name for (name,) in binlog.execute("SELECT character_set_name FROM information_schema.character_sets")]
    sets.remove("binary")
    described = ", ".join(
        f"{name} varchar(40) CHARACTER SET {name}, {name}_t text CHARACTER SET {name}" for name in sets
    )
    binlog.execute("SET sql_mode = ''", f"CREATE TABLE item (id int PRIMARY KEY, {described})")
    texts = ["plain", "äöüß é", "Привет", "漢字かな カナ", "한글", "ไทย", "עברית", "Ελληνικά", "😀", "€ ‰ ~ \\ ¥", ""]
    for i, text in enumerate(texts):
        values = ", ".join(["%s"] * 2 * len(sets))
        binlog.execute(f"INSERT INTO item VALUES ({i}, {values})", values=[text] * 2 * len(sets))
    printed = [list(row) for row in binlog.execute("SELECT * FROM item ORDER BY id")]
    assert [after for _, (_, _, after) in binlog.rows()] == printed


@pytest.mark.parametrize("binlog", ["mariadb"], indirect=True)
def test_times_of_old_tables(binlog: Binlog) -> None:
    binlog.execute("SET GLOBAL mysql56_temporal_format = OFF", "SET sql_mode = ''")
    try:
        binlog.execute("CREATE TABLE item (id int, t time, d datetime, s timestamp NULL)")
    finally:
        binlog.execute("SET GLOBAL mysql56_temporal_format = ON")
    binlog.execute(
        "INSERT INTO item VALUES (1, '-12:34:56', '2024-02-29 23:59:58', '2024-02-29 23:59:58')",
        "INSERT INTO item VALUES (2, '838:59:59', '2024-00-00 01:02:03', '0000-00-00')",
    )
    assert [after for _, (_, _, after) in binlog.rows()] == [
        [1, "-12:34:56", "2024-02-29T23:59:58", "2024-02-29T23:59:58Z"],
        [2, "838:59:59", "2024-00-00T01:02:03", "0000-00-00T00:00:00Z"],
    ]


def test_every_collation_is_known(binlog: Binlog) -> None:
    numbers = binlog.execute("SELECT id, character_set_name FROM information_schema.collations WHERE id IS NOT NULL")
    if not binlog.mysql:
        numbers = binlog.execute(
            "SELECT id, character_set_name FROM information_schema.collation_character_set_applicability"
        )
    assert len(numbers) > 200
    for number, name in numbers:
        assert charset(number).name == name
