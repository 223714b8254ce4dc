"""The workload on a MySQL or MariaDB server, and its rows as the server itself prints them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from cdc.event import Value
from schemas.table import TableSchema
from schemas.types import Kind
from tests.faults.compare import Rows
from tests.faults.workload import ACCOUNTS, Workload
from tests.servers.mariadb import MariaDbServer

SCHEMA = """
CREATE DATABASE bank CHARACTER SET utf8mb4;
CREATE DATABASE "Odd Names" CHARACTER SET utf8mb4;
CREATE TABLE bank.accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE TABLE bank.items (
    kind varchar(20), number int, price decimal(12,3), made datetime(6) DEFAULT now(6), PRIMARY KEY (kind, number));
CREATE TABLE "Odd Names"."Döcs" (id char(36) PRIMARY KEY, "Title" text, body longtext, extra json);
CREATE TABLE bank.scratch (id int PRIMARY KEY, value double);
CREATE TABLE bank.ledger (number bigint PRIMARY KEY, changes int NOT NULL, what text NOT NULL);
"""


class MysqlWorkload(Workload):
    """See :class:`Workload`. Some transactions are prepared first, and some of these wait while another is committed.

    The driver's connections are in autocommit.
    """

    floats = (0.1, -2.5, 1048576.125)  # as every store prints them

    def __init__(self, server: MariaDbServer, seed: int) -> None:
        self._connection, self._other = server.connect(), server.connect()
        super().__init__(self._connection.cursor(), seed)
        self._sql.execute("SET sql_mode = 'ANSI_QUOTES', time_zone = '+00:00'")

    def close(self) -> None:
        """End its connections."""
        self._connection.close()
        self._other.close()

    def prepare(self) -> None:
        drop(self._sql)
        for statement in filter(str.strip, SCHEMA.split(";\n")):
            self._sql.execute(statement)
        self._many("INSERT INTO bank.accounts VALUES (%s, 1000, NULL)", [(i,) for i in range(1, ACCOUNTS + 1)])
        rows = [(i, i / 7) for i in range(1, 3001)]
        self._many("INSERT INTO bank.items (kind, number, price) VALUES ('old', %s, %s)", rows)

    def big(self, rows: int) -> None:
        def insert() -> None:
            first, self._next_item = self._next_item, self._next_item + rows
            numbers = range(first, self._next_item)
            self._many("INSERT INTO bank.items VALUES ('big', %s, %s, now(6))", [(n, n) for n in numbers])
            self._run("UPDATE bank.items SET price = price + 1 WHERE kind = 'big' AND number %% 3 = 0")

        self._transaction(insert)

    def _transaction(self, action: Callable[[], None]) -> None:
        if action == self._truncate:
            self._sql.execute("TRUNCATE bank.scratch")  # a transaction of its own
        self._rows = 0
        self._number += 1
        prepared = self._random.random() < 0.2
        self._sql.execute(f"XA START 'cdc {self._number}'" if prepared else "BEGIN")
        action()
        self._note(action.__name__)
        if not prepared:
            self._sql.execute("COMMIT")
            return
        name = f"'cdc {self._number}'"
        self._sql.execute(f"XA END {name}")
        if self._random.random() < 0.3:
            self._sql.execute(f"XA COMMIT {name} ONE PHASE")
            return
        self._sql.execute(f"XA PREPARE {name}")
        self._number += 1
        with self._other.cursor() as cursor:
            cursor.execute("INSERT INTO bank.ledger VALUES (%s, 1, 'between')", (self._number,))
        self._sql.execute(f"XA COMMIT {name}")

    def _run(self, statement: str, *parameters: object) -> None:
        known = tuple(p if isinstance(p, int | float) else str(p) for p in parameters)
        self._rows += self._sql.execute(statement, known)

    def _many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._rows += self._sql.executemany(statement, rows)

    def _copy(self) -> None:
        count = self._random.randrange(5, 200)
        first, self._next_item = self._next_item, self._next_item + count
        rows = [(f"k{n % 7}", n + 10_000, n / 8) for n in range(first, first + count)]
        self._many("INSERT INTO bank.items (kind, number, price) VALUES (%s, %s, %s)", rows)

    def _truncate(self) -> None:
        self._scratch = 0
        self._scribble()


def drop(cursor: Any) -> None:
    """Leave nothing of the workload."""
    for name in ("bank", "Odd Names"):
        cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")


def database_rows(server: MariaDbServer, schema: TableSchema) -> Rows:
    """The rows of a table by record key: read now, with the server's own text of each value."""
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        connection.decoders = {}
        names = ", ".join(f"`{column.name}`" for column in schema.columns)
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"SELECT {names} FROM `{schema.schema}`.`{schema.table}`")
        found = [
            {c.name: _canonical(c.type.kind, value) for c, value in zip(schema.columns, row, strict=True)}
            for row in cursor.fetchall()
        ]
    return {_key(schema, row): row for row in found}


def _key(schema: TableSchema, row: dict[str, Value]) -> bytes:
    return json.dumps({name: row[name] for name in schema.key}, separators=(",", ":"), ensure_ascii=False).encode()


def _canonical(kind: Kind, text: str | None) -> Value:
    if text is None:
        return None
    if kind in (Kind.INT32, Kind.INT64):
        return int(text)
    if kind is Kind.TIMESTAMP:
        whole, _, fraction = text.replace(" ", "T").partition(".")
        return f"{whole}.{fraction.rstrip('0')}" if fraction.rstrip("0") else whole
    return text
