"""Tables that come into the file and leave it: said by ``cdc validate`` beforehand, applied by the next start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.integration.scripted import invoke
from tests.servers.postgres import Database, Server, create_database, drop_database

FILE = """\
version: 1
pipeline: shop
log: {{type: embedded, path: log}}
sources: {{db: {{type: postgres, url: "${{DATABASE_URL}}", tables: {source}}}}}
sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
  mirror: {{type: duckdb, path: mirror.duckdb, tables: {mirror}}}
"""
LEFT = "public.customers is delivered no more, its rows stay in the store as they are"


class Shop:
    """A user's folder, whose file changes."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database

    def configure(self, source: str, mirror: str) -> None:
        (self.folder / "cdc.yaml").write_text(FILE.format(source=source, mirror=mirror))

    def cdc(self, *arguments: str, code: int = 0) -> str:
        result = invoke(self.folder, {**os.environ, "DATABASE_URL": self.database.dsn}, *arguments)
        assert result.exit_code == code, result.output
        return result.stdout

    def run(self) -> None:
        for role in ("source/db", "sink/warehouse", "sink/mirror"):
            self.cdc("run", "--only", role, "--until-caught-up")

    def announced(self) -> list[tuple[str, str, str]]:
        """Part, severity and message of what a start is going to change."""
        findings = json.loads(self.cdc("validate", "--connect", "--json"))["result"]["findings"]
        return [(one["part"], one["severity"], one["message"]) for one in findings if "tables." in one["check"]]

    def stored(self, store: str) -> Mapping[str, list[Any]]:
        """The ids of the rows of each table."""
        with duckdb.connect(str(self.folder / f"{store}.duckdb"), read_only=True) as connection:
            tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall() if not name.startswith("_cdc")]
            return {
                name: sorted(row[0] for row in connection.execute(f'SELECT id FROM "{name}"').fetchall())
                for name in tables
            }


@pytest.fixture
def shop(postgres18: Server, tmp_path: Path) -> Iterator[Shop]:
    made = create_database(postgres18)
    made.execute("CREATE TABLE customers (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY KEY)")
    made.execute("INSERT INTO customers VALUES (1), (2); INSERT INTO orders VALUES (10), (20)")
    yield Shop(tmp_path, made)
    drop_database(made)


def test_a_table_is_added_removed_and_added_again(shop: Shop) -> None:
    shop.configure("[public.customers]", "[public.customers]")
    assert shop.announced() == []  # all of it is new
    shop.run()
    assert shop.announced() == []

    shop.configure("[public.customers, public.orders]", "[public.customers]")
    announced = [("source/db", "ok", "public.orders will be captured, its rows are read first")]
    assert shop.announced() == announced
    assert shop.announced() == announced, "looking changes nothing"
    shop.run()
    assert shop.announced() == []
    assert shop.stored("warehouse") == {"customers": [1, 2], "orders": [10, 20]}
    assert shop.stored("mirror") == {"customers": [1, 2]}

    shop.configure("[public.orders]", "[public.orders]")
    assert shop.announced() == [
        (
            "source/db",
            "warning",
            "public.customers will not be captured any more; what stays as it is: topic shop.public.customers and its "
            "rows in warehouse",
        ),
        ("sink/mirror", "warning", LEFT),
        ("sink/mirror", "ok", "public.orders will be delivered, from the beginning of topic shop.public.orders"),
    ]
    shop.database.execute("DELETE FROM customers WHERE id = 1; INSERT INTO customers VALUES (3)")
    shop.database.execute("DELETE FROM orders WHERE id = 10; INSERT INTO orders VALUES (30)")
    shop.run()
    assert shop.announced() == [("sink/mirror", "warning", LEFT)]
    assert shop.stored("warehouse") == {"customers": [1, 2], "orders": [20, 30]}
    assert shop.stored("mirror") == {"customers": [1, 2], "orders": [20, 30]}

    shop.configure("['public.*']", "['public.*']")
    gone = "; what is gone of its earlier rows is removed at the end of that"
    assert shop.announced() == [
        ("source/db", "ok", f"public.customers will be captured, its rows are read first{gone}")
    ]
    shop.run()
    for store in ("warehouse", "mirror"):
        assert shop.stored(store) == {"customers": [2, 3], "orders": [20, 30]}


def test_a_table_whose_rows_are_never_read(shop: Shop) -> None:
    shop.configure("{public.customers: }", "[public.customers]")
    shop.run()
    shop.configure("{public.customers: , public.orders: {snapshot: never}}", "[public.customers]")
    said = "public.orders will be captured from then on, its rows are not read (snapshot: never)"
    assert shop.announced() == [("source/db", "ok", said)]
    shop.run()
    shop.database.execute("INSERT INTO orders VALUES (30)")
    shop.run()
    assert shop.stored("warehouse")["orders"] == [30]
    shop.configure("{public.customers: }", "[public.customers]")
    shop.run()
    shop.configure("{public.customers: , public.orders: {snapshot: never}}", "[public.customers]")
    said = "public.orders will be captured again, but what happened to it meanwhile will not (snapshot: never)"
    assert shop.announced() == [("source/db", "warning", said)]


def test_a_dbas_publication_that_lacks_the_new_table(shop: Shop) -> None:
    shop.database.execute("CREATE PUBLICATION dba FOR TABLE customers")
    publication = ", publication: {name: dba, manage: none}"
    shop.configure("[public.customers]" + publication, "[public.customers]")
    shop.run()
    shop.configure("[public.customers, public.orders]" + publication, "[public.customers]")
    found = shop.cdc("validate", "--connect", code=5)
    assert 'ALTER PUBLICATION "dba" ADD TABLE ONLY "public"."orders";' in found
    shop.database.execute("ALTER PUBLICATION dba ADD TABLE ONLY public.orders")
    assert "publication dba has these tables" in shop.cdc("validate", "--connect")
