"""The ``sql`` sink on PostgreSQL, held to the sink contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import false, true

from cdc.event import Value
from cdc.sink import Row
from connectors.postgres.client import SESSION
from connectors.postgres.values import load
from schemas.table import TableSchema
from schemas.types import Kind, LogicalType
from sinks import _sql_postgres_rows, _sql_target, sql
from sinks._sql_tables import Tables
from sinks._warehouse import Kept
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table
from tests.servers.postgres import Postgres

SCHEMA = "replica"


class SqlPostgresStore(Store):
    """One server for all tests; the schema is dropped for each."""

    type = "sql"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._server: Postgres = request.getfixturevalue("warehouse")
        self.empty()

    def config(self) -> dict[str, Any]:
        return {"url": self._server.dsn, "schema": SCHEMA}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        sink: sql.SqlSink = self.sink()  # type: ignore[assignment]
        with sink._engine.connect() as connection:
            tables = Tables(connection, sink._server, SCHEMA, "{table}", "", Kept.HARD)
            target = tables.of_topic(connection, schema.topic)
        sink.close()
        if target is None:
            return {}
        names = tables.stored_names(schema, target.columns)
        held = [one for one in schema.columns if names[one.name] in target.columns]
        query = SQL("SELECT {} FROM {}").format(
            SQL(", ").join(Identifier(name) for name in ("_cdc_key", *(names[one.name] for one in held))),
            Identifier(SCHEMA, target.clause.name),
        )
        rows: dict[bytes, dict[str, Value]] = {}
        with self._server.connect(options=SESSION) as session:
            found = session.pgconn.exec_(query.as_bytes(session))
            for number in range(found.ntuples):
                key, *values = (found.get_value(number, place) for place in range(found.nfields))
                assert key is not None
                assert key not in rows, "a key has two rows"
                rows[key] = dict.fromkeys(schema.by_name)
                for one, value in zip(held, values, strict=True):
                    rows[key][one.name] = None if value is None else load(_in_postgres(one.type), value)
        return rows

    def cut(self) -> None:
        self._server.kill()

    def mend(self) -> None:
        self._server.start()

    def empty(self) -> None:
        self._server.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    def drop(self, schema: TableSchema) -> bool:
        self._server.execute(f'DROP TABLE {SCHEMA}."{schema.table}"')
        return True

    def stop(self) -> None:
        if not self._server.running():
            self._server.start()

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (_sql_postgres_rows, _sql_target):
            monkeypatch.setattr(module, "is_newer", lambda *_: true())
        monkeypatch.setattr(_sql_postgres_rows, "is_late", lambda *_: false())

    def holds(self, type_: LogicalType, value: Value) -> bool:
        return not (type_.kind is Kind.STRING and isinstance(value, str) and "\0" in value)

    def refused(self) -> Callable[[int], Row]:
        return lambda version: table().row(version, id=version, name="nul \0")


def _in_postgres(type_: LogicalType) -> LogicalType:
    """Geometries of MySQL's are bytes there."""
    return LogicalType(Kind.BYTES) if type_.kind in (Kind.GEOMETRY, Kind.POINT) else type_


STORE = SqlPostgresStore
