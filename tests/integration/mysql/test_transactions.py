"""XA, savepoints, rollbacks, tables made of queries, statements that are in the binlog instead of rows."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from cdc.errors import GapError
from connectors.mysql.chunk import ChunkReader
from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.support import Source, assert_dense

pytestmark = pytest.mark.xdist_group("mysql")


@pytest.fixture
def shop(database: Database, source: MakeSource) -> Source:
    """A source of a table without rows."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, n int)")
    shop = source("item")
    shop.capture()
    return shop


def prepare(database: Database, xid: str, *statements: str) -> None:
    """Prepare an XA transaction of `statements` and leave it."""
    database.execute(f"XA START '{xid}'", *statements, f"XA END '{xid}'", f"XA PREPARE '{xid}'")


@pytest.mark.parametrize("restarts", [False, True], ids=["at once", "over restarts"])
def test_a_prepared_transaction_counts_when_it_is_committed(database: Database, shop: Source, restarts: bool) -> None:
    table = database.table("item")
    prepare(database, "one", "INSERT INTO item VALUES (1, 1), (2, 2)", "UPDATE item SET n = 3 WHERE id = 2")
    if restarts:
        shop.capture()
        assert shop.events() == []
        assert list(shop.log.prepared("shop")) == [f"{b'one'.hex()}..1"]
    prepare(database, "two", "INSERT INTO item VALUES (5, 5)")
    database.execute("INSERT INTO item VALUES (9, 9)")
    if restarts:
        shop.capture()
        assert [event.after["id"] for event in shop.events()] == [9]
    database.execute("XA COMMIT 'one'", "XA ROLLBACK 'two'")
    shop.capture()
    assert [event.after["id"] for event in shop.events()] == [9, 1, 2, 2]
    shop.assert_equal(table)
    assert_dense(shop.records())
    assert shop.log.prepared("shop") == {}


def test_one_phase(database: Database, shop: Source) -> None:
    database.execute("INSERT INTO item VALUES (8, 8)")
    database.execute("XA START 'x'", "INSERT INTO item VALUES (1, 1)", "XA END 'x'", "XA COMMIT 'x' ONE PHASE")
    shop.capture()
    shop.assert_equal(database.table("item"))


def test_prepared_before_anything_was_captured(database: Database, source: MakeSource) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, n int)", "INSERT INTO item VALUES (1, 1)")
    prepare(database, "early", "INSERT INTO item VALUES (2, 2)")
    shop = source("item")
    shop.capture()
    database.execute("XA COMMIT 'early'")
    shop.capture()
    shop.assert_equal(database.table("item"))


def test_a_savepoint_that_is_rolled_back_to(database: Database, shop: Source) -> None:
    database.execute(
        "BEGIN",
        "INSERT INTO item VALUES (1, 1)",
        "SAVEPOINT a",
        "INSERT INTO item VALUES (2, 2)",
        "ROLLBACK TO a",
        "INSERT INTO item VALUES (3, 3)",
        "COMMIT",
    )
    shop.capture()
    assert [event.after["id"] for event in shop.events()] == [1, 3]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("to", ["", " TO a"], ids=["whole", "to a savepoint"])
def test_rows_that_were_rolled_back_are_in_the_binlog(database: Database, shop: Source, to: str) -> None:
    """MariaDB writes them where a table without transactions was changed too; MySQL refuses that with GTIDs."""
    database.execute("CREATE TABLE plain (id int PRIMARY KEY) ENGINE = MyISAM")
    database.execute(
        "BEGIN",
        "INSERT INTO item VALUES (1, 1)",
        "SAVEPOINT a",
        "INSERT INTO item VALUES (2, 2)",
        "INSERT INTO plain VALUES (1)",
        f"ROLLBACK{to}",
        "COMMIT",
    )
    database.execute("INSERT INTO item VALUES (3, 3)")
    shop.capture()
    shop.assert_equal(database.table("item"))


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_prepared_transaction_that_was_rolled_back_in_part(database: Database, shop: Source) -> None:
    """Its rows come out long after the savepoint was gone back to."""
    database.execute("CREATE TABLE plain (id int PRIMARY KEY) ENGINE = MyISAM")
    undone = ["SAVEPOINT a", "INSERT INTO item VALUES (2, 2)", "INSERT INTO plain VALUES (1)", "ROLLBACK TO a"]
    prepare(database, "one", "INSERT INTO item VALUES (1, 1)", *undone)
    shop.capture()
    database.execute("XA COMMIT 'one'")
    shop.capture()
    shop.assert_equal(database.table("item"))


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_rows_that_are_rolled_back_while_a_chunk_is_read(
    database: Database, source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream has nothing newer of them than what was read."""
    database.execute("CREATE TABLE item (id int PRIMARY KEY, n int)", "INSERT INTO item VALUES (1, 1), (2, 2)")
    begin = ChunkReader._begin
    temporary = ["CREATE TEMPORARY TABLE t (id int)", "DROP TEMPORARY TABLE t"]
    transactions = iter([["BEGIN", "UPDATE item SET n = 9 WHERE id = 1", *temporary, "ROLLBACK"]])

    def meanwhile(self: ChunkReader, *chunk: Any) -> None:
        for statements in transactions:
            database.execute(*statements)
        begin(self, *chunk)

    monkeypatch.setattr(ChunkReader, "_begin", meanwhile)
    shop = source("item")
    shop.capture()
    shop.assert_equal(database.table("item"))


def test_a_table_made_of_a_query(database: Database, shop: Source) -> None:
    database.execute("INSERT INTO item VALUES (1, 1), (2, 2)", "DROP TABLE IF EXISTS copy")
    database.execute("RENAME TABLE item TO old", "CREATE TABLE item (PRIMARY KEY (id)) SELECT id, n + 1 AS n FROM old")
    shop.capture()
    shop.assert_equal(database.table("item"))


DML = ["INSERT INTO item VALUES (8, 8)", "UPDATE item SET n = 4", "DELETE FROM item", "REPLACE INTO item VALUES (1, 2)"]


@pytest.mark.parametrize("statement", DML)
def test_a_change_without_row_events_is_a_gap_until_a_snapshot(
    database: Database, shop: Source, statement: str
) -> None:
    database.execute("INSERT INTO item VALUES (1, 1)")
    shop.capture()
    database.execute("SET SESSION binlog_format = STATEMENT", statement)
    with pytest.raises(GapError, match=f"{statement.split()[0]} changed rows with binlog_format"):
        shop.capture()
    shop.request_snapshot()
    shop.capture()
    shop.assert_equal(database.table("item"))


def test_a_compressed_transaction(database: Database, shop: Source) -> None:
    if database.server.name == "MySQL":
        compressed = "SET SESSION binlog_transaction_compression = ON"
    else:
        compressed = "SET GLOBAL log_bin_compress = ON"
    rows = ", ".join(f"({n}, {n})" for n in range(2000))
    with closing(database.server.connect(database.schema)) as connection:
        cursor: Any = connection.cursor()
        try:
            cursor.execute(compressed)
            cursor.execute(f"INSERT INTO item VALUES {rows}")
        finally:
            if database.server.name != "MySQL":
                cursor.execute("SET GLOBAL log_bin_compress = OFF")
    shop.capture()
    assert len(shop.events()) == 2000
    shop.assert_equal(database.table("item"))
