"""The rows of a database, as every store must have them in the end."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql

from cdc.event import Value
from cdc.formats.envelope import Envelope
from cdc.formats.json import decode
from cdc.log import Produced
from cdc.record import unpack_header
from connectors.postgres.client import SESSION
from connectors.postgres.wire import compile_copy
from schemas.table import TableSchema
from tests.servers.postgres import Database

Rows = dict[bytes, dict[str, Value]]


def database_rows(database: Database, schema: TableSchema) -> Rows:
    """The rows of a table by record key: read now, by COPY, with the server's own text of each value."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in schema.columns)
    statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(
        columns, sql.Identifier(schema.schema, schema.table)
    )
    connection: psycopg.Connection[Any]
    with database.connect(options=SESSION) as connection, connection.cursor().copy(statement) as copy:
        lines = b"".join(bytes(chunk) for chunk in copy).split(b"\n")[:-1]
    records: list[Produced] = []
    parts = Envelope("postgresql", "oracle", database.name).reading(0, time.time_ns())
    compile_copy(schema).read(records.append, lines, parts, 1, set())
    return {record.key: decode(schema, _after(record)) for record in records}


def _after(record: Produced) -> bytes:
    header = unpack_header(record.header)
    assert record.value is not None
    return record.value[header.after_start : header.after_start + header.after_length]


def assert_equal(store: str, schema: TableSchema, expected: Rows, found: Rows) -> None:
    """Row by row, value by value; says how many differ, and one of them."""
    missing = expected.keys() - found.keys()
    extra = found.keys() - expected.keys()
    stale = [key for key in expected.keys() & found.keys() if expected[key] != found[key]]
    example = (stale and (expected[stale[0]], found[stale[0]])) or sorted(missing)[:1] or sorted(extra)[:1]
    differing = len(missing) + len(extra) + len(stale)
    assert differing == 0, (
        f"{store} differs from {schema.schema}.{schema.table}: missing {len(missing)}, extra {len(extra)}, "
        f"stale {len(stale)}; for example {example}"
    )
