"""Tables that change while they are captured."""

from __future__ import annotations

import pytest

from cdc.errors import CdcError
from cdc.source.schemas import MISSED
from tests.integration.postgres.conftest import MakeSource
from tests.integration.postgres.support import Source, assert_dense
from tests.servers.postgres import Database

pytestmark = pytest.mark.xdist_group("postgres-ddl")

CHANGES = {
    "added, nullable": "ALTER TABLE item ADD note text",
    "dropped": "ALTER TABLE item DROP price",
    "renamed": "ALTER TABLE item RENAME name TO title",
    "added with a value": "ALTER TABLE item ADD note text NOT NULL DEFAULT 'none'",
    "widened": "ALTER TABLE item ALTER price TYPE numeric(14, 3)",
    "rewritten": "ALTER TABLE item ALTER price TYPE int USING (price * 100)::int",
    "dropped and added": "ALTER TABLE item DROP name; ALTER TABLE item ADD name int",
    "names moved on": "ALTER TABLE item RENAME name TO x; ALTER TABLE item RENAME price TO name",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_relation_that_changes_in_mid_stream(database: Database, source: MakeSource, change: str) -> None:
    database.execute("CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2))")
    shop = source(["public.item"])
    shop.capture()
    database.execute("INSERT INTO item SELECT n, 'row ' || n, n / 4.0 FROM generate_series(1, 20) n")
    with shop.running() as running:
        database.execute("UPDATE item SET price = price + 1 WHERE id < 5; DELETE FROM item WHERE id = 20")
        database.execute(CHANGES[change])
        database.execute("INSERT INTO item (id) VALUES (100)")
        database.execute("UPDATE item SET id = 101 WHERE id = 1; DELETE FROM item WHERE id = 2")
        running.catch_up()
    shop.assert_equal("public.item")
    shop.capture()
    shop.assert_equal("public.item")
    assert_dense(shop.records())
    rewrites = change not in ("added, nullable", "dropped")
    assert bool([r for r in shop.records() if r.operation == "s"]) == rewrites, "read again only where rows changed"


@pytest.mark.parametrize("change", ["added with a value", "dropped", "rewritten"])
def test_ddl_and_rows_of_one_transaction(database18: Database, source18: MakeSource, change: str) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2))")
    shop = source18(["public.item"])
    shop.capture()
    database18.execute("INSERT INTO item SELECT n, 'row ' || n, n / 4.0 FROM generate_series(1, 20) n")
    with database18.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO item (id) VALUES (100)")
        connection.execute(CHANGES[change].encode())
        connection.execute("INSERT INTO item (id) VALUES (101)")
    shop.capture()
    shop.assert_equal("public.item")


def test_ddl_behind_a_snapshot_is_noticed(database18: Database, source18: MakeSource) -> None:
    """A table whose rows only a snapshot has shown so far: its first row in the stream comes after the DDL."""
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2))")
    database18.execute("INSERT INTO item SELECT n, 'row ' || n, n / 4.0 FROM generate_series(1, 20) n")
    shop = source18(["public.item"])
    shop.capture()
    database18.execute(CHANGES["added with a value"])
    database18.execute("INSERT INTO item (id) VALUES (100)")
    shop.capture()
    shop.assert_equal("public.item")


def test_a_restart_after_ddl_does_not_read_the_table_again(database18: Database, source18: MakeSource) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY)")
    shop = source18(["public.item"])
    shop.capture()
    database18.execute("INSERT INTO item VALUES (1)")
    shop.capture()
    # The anchor shows the table as it was before; a transaction too big for an anchor shows it as it is now.
    database18.execute("ALTER TABLE item ADD note text NOT NULL DEFAULT 'none'")
    database18.execute("INSERT INTO item SELECT generate_series(1000, 3000)")
    process = shop.process("capture.before_acknowledge:kill:1", until_caught_up=False)
    assert process.wait() == -9
    shop.capture()
    reads = len([r for r in shop.events() if r.operation == "r"])
    shop.capture()
    assert len([r for r in shop.events() if r.operation == "r"]) == reads == 2002
    shop.assert_equal("public.item")


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id, part)",
        "ALTER TABLE item DROP CONSTRAINT item_pkey",
        "ALTER TABLE item REPLICA IDENTITY USING INDEX other",
        "ALTER TABLE item RENAME id TO number",
    ],
)
def test_a_key_that_changes_in_mid_stream_stops_capture(database18: Database, source18: MakeSource, ddl: str) -> None:
    database18.execute("CREATE TABLE item (id int PRIMARY KEY, part int NOT NULL, code int NOT NULL)")
    database18.execute("CREATE UNIQUE INDEX other ON item (code)")
    shop = source18(["public.item"])
    database18.execute("INSERT INTO item VALUES (1, 1, 1)")
    shop.capture()
    with shop.running() as running:
        running.catch_up()
        database18.execute(ddl)
        database18.execute("INSERT INTO item VALUES (2, 1, 2)")
        with pytest.raises(CdcError, match="`cdc snapshot`"):
            running.wait(lambda: False, seconds=20)
    assert [r.operation for r in shop.events()] == ["r"]


AWAY = "ALTER TABLE item RENAME TO away; UPDATE away SET name = 'changed' WHERE id = 1; DELETE FROM away WHERE id = 2"
RENAMES = {
    "away and back": [AWAY, "ALTER TABLE away RENAME TO item", "INSERT INTO item VALUES (9)"],
    "swapped": [
        "ALTER TABLE item RENAME TO x; ALTER TABLE other RENAME TO item; ALTER TABLE x RENAME TO other",
        "INSERT INTO item VALUES (9); INSERT INTO other VALUES (9)",
    ],
}


@pytest.mark.parametrize("change", RENAMES)
def test_rows_that_a_renamed_table_took_with_it_are_not_missed(
    database18: Database, source18: MakeSource, change: str
) -> None:
    shop = make_two(database18, source18)
    with shop.running() as running:
        running.catch_up()
        for statement in RENAMES[change]:
            database18.execute(statement)
        running.catch_up()
    shop.assert_equal("public.item")
    shop.assert_equal("public.other")


def test_rows_of_a_table_that_came_back_before_a_restart_are_not_missed(
    database18: Database, source18: MakeSource
) -> None:
    shop = make_two(database18, source18)
    with shop.running() as running:
        running.catch_up()
        database18.execute(AWAY)
        running.wait(lambda: shop.position.schemas["public.item"] == MISSED, "it to be noticed")
        database18.execute("ALTER TABLE away RENAME TO item")
    shop.capture()
    shop.assert_equal("public.item")


def make_two(database: Database, source: MakeSource) -> Source:
    for table in ("item", "other"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)")
        database.execute(f"INSERT INTO {table} SELECT n, '{table} ' || n FROM generate_series(1, 5) n")
    shop = source(["public.item", "public.other"])
    shop.capture()
    return shop
