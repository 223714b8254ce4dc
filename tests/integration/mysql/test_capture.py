"""Snapshot and stream together: what stands on the log in the end is what the database holds."""

from __future__ import annotations

import pytest

from tests.integration.mysql.conftest import Database, MakeSource
from tests.integration.mysql.support import assert_dense

pytestmark = pytest.mark.xdist_group("mysql")

ITEM = "CREATE TABLE item (id int PRIMARY KEY, name varchar(40), price decimal(10,2), at datetime(6))"


def test_rows_that_exist_are_read_and_changes_follow(database: Database, source: MakeSource) -> None:
    database.execute(ITEM, "INSERT INTO item VALUES (1, 'a', 1.5, '2024-02-29 12:00:00.5'), (2, NULL, NULL, NULL)")
    shop = source("item")
    shop.capture()
    assert [event.operation for event in shop.events()] == ["r", "r"]
    database.execute("INSERT INTO item VALUES (3, 'c', 3, NULL)", "UPDATE item SET name = 'b' WHERE id = 2")
    database.execute("DELETE FROM item WHERE id = 1", "UPDATE item SET id = 4 WHERE id = 3")
    shop.capture()
    assert [event.operation for event in shop.events()] == ["r", "r", "c", "u", "d", "d", "c"]
    shop.assert_equal(database.table("item"))
    assert_dense(shop.records())


@pytest.mark.parametrize("image", ["FULL", "MINIMAL"])
def test_changes_while_tables_are_read(database: Database, source: MakeSource, image: str) -> None:
    database.execute(ITEM)
    rows = ", ".join(f"({n}, 'x{n}', {n}, NULL)" for n in range(3000))
    database.execute(f"INSERT INTO item VALUES {rows}")
    shop = source("item", snapshot={"chunk_bytes": "16KiB"})
    with shop.running() as running:
        for n in range(40):
            database.execute(
                f"SET SESSION binlog_row_image = {image}",
                f"UPDATE item SET name = 'y', price = price + 1 WHERE id % 50 = {n % 50}",
                f"DELETE FROM item WHERE id = {n * 7}",
                f"INSERT INTO item VALUES ({n + 10_000}, 'z', 1, NULL)",
            )
        running.wait(lambda: not shop.position.snapshots, "the end of the snapshot")
        running.catch_up()
    shop.assert_equal(database.table("item"))
    assert_dense(shop.records())
