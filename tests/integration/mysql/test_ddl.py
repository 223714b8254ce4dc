"""DDL in the binlog: what it does to rows on the log, and from which row on."""

from __future__ import annotations

from contextlib import closing

import pymysql
import pytest

from cdc.errors import CdcError
from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.support import Source

pytestmark = pytest.mark.xdist_group("mysql")


@pytest.fixture
def shop(database: Database, source: MakeSource) -> Source:
    """A source whose table has two rows, both on the log."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, n int, name varchar(20))")
    database.execute("INSERT INTO item VALUES (1, 10, 'a'), (2, 20, 'b')")
    shop = source("item")
    shop.capture()
    return shop


HARMLESS = {
    "add column": ["ALTER TABLE item ADD COLUMN more int"],
    "drop column": ["ALTER TABLE item DROP COLUMN n"],
    "index": ["ALTER TABLE item ADD INDEX (name)", "DROP INDEX name ON item"],
    "comment": ["ALTER TABLE item COMMENT 'x'"],
}


@pytest.mark.parametrize("ddl", HARMLESS.values(), ids=HARMLESS.keys())
def test_ddl_that_changes_no_row_reads_nothing_again(database: Database, shop: Source, ddl: list[str]) -> None:
    database.execute(*ddl, "INSERT INTO item (id, name) VALUES (3, 'c')")
    shop.capture()
    assert [event.operation for event in shop.events()] == ["r", "r", "c"]
    shop.assert_equal(database.table("item"))


def test_what_a_statement_has_told_is_known_after_a_restart(database: Database, shop: Source) -> None:
    """The rows that come later have another definition, which by itself might mean anything."""
    database.execute("ALTER TABLE item ADD COLUMN more int")
    shop.capture()
    database.execute("INSERT INTO item VALUES (3, 30, 'c', 3)")
    shop.capture()
    assert [event.operation for event in shop.events()] == ["r", "r", "c"]
    shop.assert_equal(database.table("item"))


CHANGING = {
    "default": ["ALTER TABLE item ADD COLUMN more int NOT NULL DEFAULT 5"],
    "type": ["ALTER TABLE item MODIFY n varchar(10)"],
    "rename": ["ALTER TABLE item CHANGE n amount int"],
    "in front": ["ALTER TABLE item ADD COLUMN first varchar(9) DEFAULT 'x' FIRST"],
    "several": ["ALTER TABLE item ADD COLUMN a int DEFAULT 1, DROP COLUMN n", "ALTER TABLE item CHANGE a b bigint"],
    "convert": ["ALTER TABLE item CONVERT TO CHARACTER SET latin1"],
}


@pytest.mark.parametrize("ddl", CHANGING.values(), ids=CHANGING.keys())
def test_ddl_that_changes_rows_has_them_read_again(database: Database, shop: Source, ddl: list[str]) -> None:
    database.execute("DELETE FROM item WHERE id = 1", *ddl, "UPDATE item SET name = 'd' WHERE id = 2")
    database.execute("INSERT INTO item (id, name) VALUES (3, 'c')")
    shop.capture()
    shop.assert_equal(database.table("item"))
    assert "s" in [record.operation for record in shop.records()]


def test_each_row_has_the_columns_that_it_was_written_with(database: Database, shop: Source) -> None:
    """Several definitions lie in the binlog before anything of it is read; the catalogue has only the last."""
    for n in range(3):
        database.execute(f"ALTER TABLE item ADD COLUMN c{n} int", f"INSERT INTO item (id, c{n}) VALUES ({10 + n}, {n})")
    database.execute("ALTER TABLE item DROP COLUMN c0")
    shop.capture()
    created = [event.after for event in shop.events() if event.operation == "c"]
    assert [sorted(row) for row in created] == [
        ["c0", "id", "n", "name"],
        ["c0", "c1", "id", "n", "name"],
        ["c0", "c1", "c2", "id", "n", "name"],
    ]
    shop.assert_equal(database.table("item"))


@pytest.mark.parametrize("statement", ["TRUNCATE TABLE item", "DROP TABLE item"])
def test_a_table_that_is_emptied(database: Database, shop: Source, statement: str) -> None:
    database.execute(statement, "CREATE TABLE IF NOT EXISTS item (id int PRIMARY KEY, n int, name varchar(20))")
    database.execute("INSERT INTO item VALUES (7, 7, 'g')")
    shop.capture()
    assert [record.operation for record in shop.records()][-1] == "c"
    assert "t" in [record.operation for record in shop.records()]
    shop.assert_equal(database.table("item"))


def test_a_table_that_another_takes_the_place_of(database: Database, shop: Source) -> None:
    """As gh-ost and pt-online-schema-change do it."""
    database.execute(
        "CREATE TABLE item_new LIKE item",
        "ALTER TABLE item_new ADD COLUMN more int NOT NULL DEFAULT 3",
        "INSERT INTO item_new SELECT id, n, name, 4 FROM item",
        "DELETE FROM item_new WHERE id = 1",
        "RENAME TABLE item TO item_old, item_new TO item",
        "DROP TABLE item_old",
        "INSERT INTO item VALUES (3, 1, 'c', 1)",
    )
    shop.capture()
    assert "t" not in [record.operation for record in shop.records()], "the stores are not emptied on the way"
    shop.assert_equal(database.table("item"))


PARTITIONS = {
    "drop": ["ALTER TABLE part DROP PARTITION p0"],
    "truncate": ["ALTER TABLE part TRUNCATE PARTITION p1"],
    "exchange": ["ALTER TABLE part EXCHANGE PARTITION p0 WITH TABLE other"],
    "reorganize": ["ALTER TABLE part REORGANIZE PARTITION p0, p1 INTO (PARTITION p2 VALUES LESS THAN (20))"],
    "add": ["ALTER TABLE part ADD PARTITION (PARTITION p9 VALUES LESS THAN (90))"],
}


@pytest.mark.parametrize("ddl", PARTITIONS.values(), ids=PARTITIONS.keys())
def test_maintenance_of_partitions(database: Database, source: MakeSource, ddl: list[str]) -> None:
    database.execute(
        "CREATE TABLE part (id int PRIMARY KEY, n int) PARTITION BY RANGE (id) "
        "(PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20))",
        "CREATE TABLE other (id int PRIMARY KEY, n int)",
        "INSERT INTO part VALUES (1, 1), (2, 2), (11, 11)",
        "INSERT INTO other VALUES (5, 5)",
    )
    shop = source("part", "other")
    shop.capture()
    database.execute(*ddl, "INSERT INTO part VALUES (12, 12)")
    shop.capture()
    shop.assert_equal(database.table("part"), database.table("other"))


def test_a_column_that_comes_back_has_lost_its_values(database: Database, shop: Source) -> None:
    for statement in ("DROP COLUMN n", "ADD COLUMN n int"):
        database.execute(f"ALTER TABLE item {statement}", "UPDATE item SET name = 'x' WHERE id = 2")
        shop.capture()
    shop.assert_equal(database.table("item"))


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_an_alter_in_two_phases_that_fails_changes_nothing(database: Database, shop: Source) -> None:
    with closing(database.server.connect(database.schema)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION binlog_alter_two_phase = ON")
        cursor.execute("INSERT INTO item VALUES (3, 10, 'c')")
        with pytest.raises(pymysql.err.IntegrityError):
            cursor.execute("ALTER TABLE item ADD UNIQUE (n), ALGORITHM = COPY")
        cursor.execute("ALTER TABLE item ADD COLUMN more int DEFAULT 7")
        cursor.execute("INSERT INTO item VALUES (4, 40, 'd', 8)")
    shop.capture()
    shop.assert_equal(database.table("item"))
    assert len({record.version for record in shop.records() if record.operation == "s"}) == 1


def test_a_key_that_changes_is_a_gap(database: Database, shop: Source) -> None:
    database.execute(
        "ALTER TABLE item DROP PRIMARY KEY, ADD PRIMARY KEY (id, name)", "INSERT INTO item VALUES (4, 4, 'd')"
    )
    with pytest.raises(CdcError, match=r"the key of .* changed"):
        shop.capture()
