"""The servers whose binlogs are read, and what has been written to them since."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cdc.formats.envelope import plain_records
from cdc.log import Produced
from cdc.record import unpack_header
from connectors.mysql.binlog import MAGIC, read_file
from connectors.mysql.envelope import BLOCK, BinlogEnvelope
from connectors.mysql.events import BinlogEvent, Header, Rows
from connectors.mysql.rows import Row, columns, decode_rows
from connectors.mysql.tablemap import TableMap
from connectors.mysql.wire import compile_table_map
from schemas.table import TableSchema
from tests.integration.mysql.support import Source
from tests.servers.mariadb import MariaDbServer


class Binlog:
    """A connection to a server in a database of its own, and the binlog from here on."""

    def __init__(self, server: MariaDbServer, database: str) -> None:
        self.server = server
        self.mysql = server.name == "MySQL"
        self.connection = server.connect()
        self.execute(f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}", f"USE {database}")
        self.execute("SET time_zone = '+00:00'")
        self.rotate()

    def execute(self, *statements: str, values: Any = None) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        with closing(self.connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement, values)
            return list(cursor.fetchall())

    def vector(self) -> str:
        """The function that makes a vector of a text; empty where there is none (MariaDB before 11.7)."""
        if self.mysql:
            return "STRING_TO_VECTOR"
        return "VEC_FromText" if self.server.version() >= (11, 7) else ""

    def rotate(self) -> None:
        """Begin another file: what was written before is not looked at again."""
        self.execute("FLUSH LOGS")

    def events(self) -> Iterator[tuple[Header, BinlogEvent]]:
        """The events of the current file."""
        with self.server.binlog().open("rb") as file:
            assert file.read(4) == MAGIC
            file.seek(0)
            yield from read_file(file)

    def rows(self, declared: dict[str, str] | None = None) -> Iterator[tuple[TableMap, Row]]:
        """The rows of the current file."""
        tables: dict[int, TableMap] = {}
        for _, event in self.events():
            if isinstance(event, TableMap):
                tables[event.table_id] = event
            elif isinstance(event, Rows):
                table = tables[event.table_id]
                rows = list(decode_rows(table, event, declared or {}))
                everything = (1 << event.columns) - 1
                if table.complete and {event.before, event.after} <= {None, everything} and not event.partial:
                    same_from_generated_code(table, event, rows, declared or {})
                for row in rows:
                    yield table, row


def same_from_generated_code(table: TableMap, event: Rows, rows: list[Row], declared: dict[str, str]) -> None:
    """The generated path takes every row that a server sends, and makes of it what the plain one makes."""
    described = columns(table, declared)
    schema = TableSchema("p.shop.item", table.schema, table.table, described, (described[0].name,))
    functions = compile_table_map(table, schema, declared)
    function = {"c": functions.insert, "u": functions.update, "d": functions.delete}[event.operation]
    transaction = BinlogEnvelope("mysql", "shop").transaction(0, 1, 0, None, "bin.1", 0)
    records: list[Produced] = []
    end, version, _ = function(records.append, event.body, 0, transaction, b"4,", 1, 0, 0)
    assert end == len(event.body)
    expected: list[Produced] = []
    number = 1
    for i, row in enumerate(rows):
        expected += plain_records(schema, *row, transaction, b"4,%d" % i, number, i, block=BLOCK)
        number = unpack_header(expected[-1].header).version + 1
    assert records == expected
    assert version == number


def needs_image(server: MariaDbServer, image: str) -> None:
    """Skip the test where there is no such ``binlog_row_image``."""
    if image == "FULL_NODUP" and (server.name == "MySQL" or server.version() < (11, 4)):
        pytest.skip("MySQL, and MariaDB before 11.4, have no binlog_row_image FULL_NODUP")


@pytest.fixture(params=["mariadb", "mysql"])
def binlog(request: pytest.FixtureRequest) -> Iterator[Binlog]:
    """Of each server."""
    made = Binlog(request.getfixturevalue(f"{request.param}_source"), "shop")
    yield made
    made.connection.close()


@dataclass
class Database:
    """A schema of a server for one test, named `schema`."""

    server: MariaDbServer
    schema: str

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in a connection of their own; the rows of the last."""
        return self.server.execute(f"USE {self.schema}", *statements)

    def table(self, name: str) -> str:
        """``schema.table``."""
        return f"{self.schema}.{name}"


MakeSource = Callable[..., Source]


@pytest.fixture(params=["mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh schema of each server."""
    made = Database(request.getfixturevalue(f"{request.param}_source"), f"s{uuid.uuid4().hex[:8]}")
    made.server.execute(f"CREATE DATABASE {made.schema}")
    yield made
    made.server.execute(f"DROP DATABASE IF EXISTS {made.schema}")


@pytest.fixture
def source(database: Database, tmp_path: Path) -> MakeSource:
    """Makes a source of tables of the test's schema."""

    def make(*tables: str, **options: Any) -> Source:
        settings = {name: options.pop(name) for name in ("partitions", "profile") if name in options}
        url = database.server.url.rpartition("/")[0]
        return Source(url, tmp_path, {"tables": [database.table(name) for name in tables], **options}, **settings)

    return make
