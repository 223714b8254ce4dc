"""The catalogue says of a table what the binlog says; what cannot be captured is refused with what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cdc.errors import PermanentError
from connectors.mysql.catalogue import CatalogTable, captured_tables, describe, schema_columns, selected_tables
from connectors.mysql.client import Server, address, connect, identify
from connectors.mysql.config import MysqlConfig
from connectors.mysql.rows import columns
from connectors.mysql.tablemap import TableMap
from tests.integration.mysql.conftest import Binlog
from tests.integration.mysql.test_values import MARIADB, TYPES

pytestmark = pytest.mark.xdist_group("mysql")

FURTHER = {
    "float unsigned",
    "float(7,3)",
    "double(10,2) unsigned zerofill",
    "float(30)",
    "decimal(5) zerofill",
    "tinyint(1)",
    "int(4) unsigned zerofill",
    "boolean",
    "year NOT NULL",
    "char(0)",
    "char(255) CHARACTER SET utf8mb4",
    "national varchar(7)",
    "varchar(0)",
    "binary(0)",
    "varbinary(256)",
    "text(300)",
    "blob(70000)",
    "enum('')",
    "enum(' unsigned', 'COMPRESSED', 'a,b', '(', 'x''y', '\"', '\\\\', 'ä')",
    "enum('a\\nb', 'c\\rd', 'e\\tf', '`', '%', '?') CHARACTER SET latin1",
    "enum('語', 'ä') CHARACTER SET utf16",
    f"enum({','.join(repr(str(i)) for i in range(255))})",
    f"enum({','.join(repr(str(i)) for i in range(256))})",
    *(f"set({','.join(repr(str(i)) for i in range(count))})" for count in (8, 9, 17, 25, 33, 64)),
    *(f"{kind} {null}" for kind in ("geometry", "point", "linestring", "polygon") for null in ("", "NOT NULL")),
    *("multipoint", "multilinestring", "multipolygon", "geometrycollection"),
    "int INVISIBLE",
    "int AS (1 + 1) VIRTUAL",
    "int AS (1 + 1) STORED",
    "timestamp NOT NULL DEFAULT '2024-01-01'",
}
OF_MYSQL = {"json", "vector", "point SRID 4326", "int unsigned NOT NULL DEFAULT 1 INVISIBLE"}


class Catalogue:
    """What the product reads of the server's catalogue, beside its binlog."""

    def __init__(self, binlog: Binlog) -> None:
        self.binlog = binlog
        self.connection = connect(address(binlog.server.url, None, None))
        self.server: Server = identify(self.connection)

    def table(self, name: str = "item") -> CatalogTable:
        found = describe(self.connection, self.server, "shop", name)
        assert found is not None
        return found

    def captured(self, *patterns: str) -> tuple[list[str], list[str]]:
        """Names of the tables that are captured, and what is said of those that are left out."""
        config = MysqlConfig(type="mysql", url=self.binlog.server.url, tables=list(patterns))
        left_out: list[str] = []
        found = captured_tables(
            self.connection, self.server, config, lambda what, fix: left_out.append(f"{what} {fix}")
        )
        return [table.full_name for table in found], left_out

    def same_as_in_binlog(self, tables: int) -> None:
        """That many tables the binlog describes, and the catalogue describes them alike."""
        maps = {event.table: event for _, event in self.binlog.events() if isinstance(event, TableMap)}
        assert len(maps) == tables
        for name, described in maps.items():
            table = self.table(name)
            assert table.problem == ""
            assert table.columns == described.columns
            assert [(name, 0) for name in table.key] == [
                (described.columns[i].name, size) for i, size in described.primary_key
            ]
            assert schema_columns(table) == columns(described, table.declared)


@pytest.fixture
def catalogue(binlog: Binlog) -> Iterator[Catalogue]:
    made = Catalogue(binlog)
    with closing(made.connection):
        yield made


def test_every_type_is_described_as_the_binlog_has_it(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    types: list[str] = [
        *TYPES,
        *FURTHER,
        *(OF_MYSQL if binlog.mysql else MARIADB),
        *(["vector(3)"] * bool(binlog.vector())),
    ]
    binlog.execute("SET sql_mode = ''")
    for i in range(0, len(types), 20):
        described = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(types[i : i + 20]))
        table = f"t{i}"
        binlog.execute(f"CREATE TABLE {table} (`ïd` int, {described}, PRIMARY KEY (`ïd`)) DEFAULT CHARSET utf8mb4")
        given = ", ".join(f"ST_GeomFromText('{_shape(type_)}')" for type_ in types[i : i + 20] if _shape(type_))
        places = [f"c{i}" for i, type_ in enumerate(types[i : i + 20]) if _shape(type_)]
        binlog.execute(f"INSERT INTO {table} ({', '.join(['`ïd`', *places])}) VALUES (1{', ' * bool(given)}{given})")
    catalogue.same_as_in_binlog(-(-len(types) // 20))


def _shape(type_: str) -> str:
    """A value for a geometry that may not be NULL."""
    shapes = {"geometry": "POINT(1 1)", "point": "POINT(1 1)", "linestring": "LINESTRING(0 0,1 1)"}
    shapes["polygon"] = "POLYGON((0 0,1 0,1 1,0 0))"
    return shapes.get(type_.removesuffix(" NOT NULL"), "") if type_.endswith("NOT NULL") else ""


def test_every_collation_is_described_as_the_binlog_has_it(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    names = "collation_name FROM information_schema.collations"
    if not binlog.mysql:
        names = "full_collation_name FROM information_schema.collation_character_set_applicability"
    collations = [name for (name,) in binlog.execute(f"SELECT {names}") if name != "binary"]
    assert len(collations) > 200
    for i in range(0, len(collations), 100):
        kinds = ("varchar(3)", "text", "enum('a')", "set('a')")
        described = ", ".join(
            f"c{j} {kinds[j % 4]} CHARACTER SET {name.split('_')[0]} COLLATE {name}"
            for j, name in enumerate(collations[i : i + 100])
        )
        binlog.execute(f"CREATE TABLE t{i} (id int PRIMARY KEY, {described})", f"INSERT INTO t{i} (id) VALUES (1)")
    catalogue.same_as_in_binlog(-(-len(collations) // 100))


def test_keys_are_those_of_the_binlog(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    binlog.execute(
        "CREATE TABLE a (x int, y varchar(9), z bigint, UNIQUE (z), PRIMARY KEY (z, y))",
        "INSERT INTO a VALUES (1, 'y', 2)",
        "CREATE TABLE b (x int, PRIMARY KEY (x DESC))" if binlog.mysql else "CREATE TABLE b (x int PRIMARY KEY)",
        "INSERT INTO b VALUES (1)",
    )
    if binlog.mysql:
        binlog.execute(
            "SET sql_generate_invisible_primary_key = ON",
            "CREATE TABLE c (x varchar(9), INDEX ((upper(x))))",
            "INSERT INTO c (x) VALUES (1)",
        )
    else:
        binlog.execute(
            "CREATE TABLE c (x int, s date, e date, PERIOD FOR p (s, e), PRIMARY KEY (x, p WITHOUT OVERLAPS))",
            "INSERT INTO c VALUES (1, '2024-01-01', '2024-02-01')",
        )
    catalogue.same_as_in_binlog(3)
    assert catalogue.table("a").key == ("z", "y")
    assert catalogue.table("c").key == (("my_row_id",) if binlog.mysql else ("x", "e", "s"))


REFUSED: dict[str, tuple[str, str, str]] = {
    "CREATE TABLE item (a int)": (
        "it has no primary key, so nothing identifies its rows",
        "ADD COLUMN my_row_id",
        "ALTER TABLE item ADD COLUMN my_row_id bigint unsigned NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY",
    ),
    "CREATE TABLE item (a int NOT NULL, `b``c` int NOT NULL, UNIQUE (a, `b``c`))": (
        "it has no primary key",
        "ADD PRIMARY KEY (`a`, `b``c`);",
        "ALTER TABLE item ADD PRIMARY KEY (a, `b``c`)",
    ),
    "CREATE TABLE item (a int, b varchar(30), UNIQUE (a), UNIQUE (b(3)))": (
        "it has no primary key",
        "ADD PRIMARY KEY (…)",
        "ALTER TABLE item ADD PRIMARY KEY (a, b)",
    ),
    "CREATE TABLE item (a varchar(30), PRIMARY KEY (a(5)))": (
        "its key has only the beginning of column a",
        "DROP PRIMARY KEY, ADD PRIMARY KEY",
        "ALTER TABLE item DROP PRIMARY KEY, ADD PRIMARY KEY (a)",
    ),
    "CREATE TABLE item (a int PRIMARY KEY) ENGINE = MyISAM": ("its engine MyISAM", "ENGINE = InnoDB;", ""),
    "CREATE TABLE item (a int PRIMARY KEY) ENGINE = MEMORY": ("its engine MEMORY", "ENGINE = InnoDB;", ""),
    "CREATE TABLE item (a int PRIMARY KEY, e enum('x', '?') CHARACTER SET utf8mb4)": (
        "a member of column e has a question mark",
        "MODIFY COLUMN `e`",
        "ALTER TABLE item MODIFY COLUMN e enum('x', '?') CHARACTER SET latin1",
    ),
    "CREATE TABLE item (a int PRIMARY KEY, e enum('😀') CHARACTER SET utf8mb4)": (
        "a member of column e has a question mark",
        "MODIFY COLUMN `e`",
        "ALTER TABLE item MODIFY COLUMN e varchar(9)",
    ),
}
REFUSED_BY_MARIADB: dict[str, tuple[str, str, str]] = {
    "CREATE TABLE item (a int PRIMARY KEY) ENGINE = Aria": ("its engine Aria", "ENGINE = InnoDB;", ""),
    "CREATE TABLE item (a int PRIMARY KEY) WITH SYSTEM VERSIONING": (
        "it is system-versioned",
        "DROP SYSTEM VERSIONING;",
        "",
    ),
    "CREATE TABLE item (a int PRIMARY KEY, b text, UNIQUE same (b))": (
        "its unique index same is over values of any length",
        "DROP INDEX `same`, ADD UNIQUE INDEX `same`",
        "ALTER TABLE item DROP INDEX same, ADD UNIQUE INDEX same (b(200))",
    ),
    "CREATE TABLE item (a int PRIMARY KEY, t timestamp NULL)": (
        "column t has its times in the format of MariaDB 5.3",
        "ALTER TABLE `shop`.`item` FORCE;",
        "",
    ),
}
REFUSED_BY_MYSQL: dict[str, tuple[str, str, str]] = {
    "CREATE TABLE item (a int PRIMARY KEY) ENGINE = BLACKHOLE": ("its engine BLACKHOLE", "ENGINE = InnoDB;", ""),
    "CREATE TABLE item (a int NOT NULL) ENGINE = CSV": (
        "its engine CSV",
        "ENGINE = InnoDB;",
        "ALTER TABLE item ENGINE = InnoDB, ADD PRIMARY KEY (a)",
    ),
}


def refused(catalogue: Catalogue, statement: str, case: tuple[str, str, str]) -> None:
    """It is refused by what it names, and captured once that is mended."""
    problem, fix, mending = case
    binlog = catalogue.binlog
    old = " timestamp " in statement
    try:
        if old:
            binlog.execute("SET GLOBAL mysql56_temporal_format = OFF")
        binlog.execute(statement)
    finally:
        if old:
            binlog.execute("SET GLOBAL mysql56_temporal_format = ON")
    binlog.execute("CREATE TABLE good (a int PRIMARY KEY)")
    with pytest.raises(PermanentError, match=f"table shop.item can't be captured: {problem}") as refusal:
        catalogue.captured("shop.item")
    assert fix in refusal.value.hint
    names, left_out = catalogue.captured("shop.*")
    assert names == ["shop.good"]
    assert len(left_out) == 1
    assert left_out[0].startswith(f"table shop.item is left out: {problem}")
    binlog.execute(mending or refusal.value.hint.partition(";")[0])
    assert catalogue.captured("shop.item") == (["shop.item"], [])


@pytest.mark.parametrize("statement", REFUSED, ids=lambda s: s.partition("(")[2][:40])
def test_what_cannot_be_captured_says_why_and_what_mends_it(catalogue: Catalogue, statement: str) -> None:
    refused(catalogue, statement, REFUSED[statement])


@pytest.mark.parametrize("statement", REFUSED_BY_MARIADB, ids=lambda s: s.partition("(")[2][:40])
@pytest.mark.parametrize("binlog", ["mariadb"], indirect=True)
def test_what_cannot_be_captured_of_mariadb(catalogue: Catalogue, statement: str) -> None:
    refused(catalogue, statement, REFUSED_BY_MARIADB[statement])


@pytest.mark.parametrize("statement", REFUSED_BY_MYSQL, ids=lambda s: s.partition("(")[2][:40])
@pytest.mark.parametrize("binlog", ["mysql"], indirect=True)
def test_what_cannot_be_captured_of_mysql(catalogue: Catalogue, statement: str) -> None:
    refused(catalogue, statement, REFUSED_BY_MYSQL[statement])


def test_what_is_no_table_is_not_spoken_of_unless_it_is_named(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    binlog.execute("CREATE TABLE good (a int PRIMARY KEY)", "CREATE VIEW seen AS SELECT * FROM good")
    binlog.execute("CREATE TEMPORARY TABLE passing (a int PRIMARY KEY)")
    others = {"shop.seen": "it is not a table but a view", "mysql.db": "it is a table of the server itself"}
    if not binlog.mysql:
        binlog.execute("CREATE SEQUENCE numbers")
        others["shop.numbers"] = "it is not a table but a sequence"
    assert catalogue.captured("shop.*", "mysql.*", "information_schema.*") == (["shop.good"], [])
    for name, problem in others.items():
        with pytest.raises(PermanentError, match=f"table {name} can't be captured: {problem}"):
            catalogue.captured("shop.good", name)
    with pytest.raises(PermanentError, match=r"table shop.passing does not exist on this server"):
        catalogue.captured("shop.*", "shop.passing")
    with pytest.raises(PermanentError, match="no table of this server can be captured"):
        catalogue.captured("shop.none*")


def test_sizes_are_told_and_a_table_that_is_gone_is_none(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    binlog.execute("CREATE TABLE item (id int PRIMARY KEY, v varchar(300))")
    rows = ",".join(f"({i}, REPEAT('x', 300))" for i in range(1000))
    before = catalogue.table()
    binlog.execute(f"INSERT INTO item VALUES {rows}", "ANALYZE TABLE item")
    after = catalogue.table()
    assert before.rows == 0
    assert after.rows is not None
    assert 500 < after.rows < 1500
    assert before.bytes < 100_000 < after.bytes
    binlog.execute("DROP TABLE item")
    assert describe(catalogue.connection, catalogue.server, "shop", "item") is None


def test_names_that_differ_in_case_only_are_told_apart(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    binlog.execute("CREATE TABLE item (a int PRIMARY KEY)", "CREATE TABLE ITEM (b int PRIMARY KEY)")
    found = {table.name: table.key for table, _ in selected_tables(catalogue.connection, catalogue.server, ["shop.*"])}
    assert found == {"item": ("a",), "ITEM": ("b",)}
    assert (catalogue.table("item").key, catalogue.table("ITEM").key) == (("a",), ("b",))


def test_a_user_sees_the_tables_that_may_be_read(catalogue: Catalogue) -> None:
    binlog = catalogue.binlog
    binlog.execute("CREATE TABLE item (a int PRIMARY KEY, b int)", "CREATE TABLE secret (a int PRIMARY KEY)")
    binlog.execute("DROP USER IF EXISTS reader@localhost", "CREATE USER reader@localhost")
    binlog.execute("GRANT SELECT ON shop.item TO reader@localhost")
    url = binlog.server.url.replace("//cdc@", "//reader@").removesuffix("/mysql")
    try:
        with closing(connect(address(url, None, None))) as connection:
            found: list[Any] = list(selected_tables(connection, catalogue.server, ["*"]))
        ours = [table for table, ordinary in found if ordinary]
        assert [(table.full_name, table.key, len(table.columns)) for table in ours] == [("shop.item", ("a",), 2)]
    finally:
        binlog.execute("DROP USER reader@localhost")
