"""The ``sql`` sink on MariaDB, held to the sink contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import cast, false, select, true
from sqlalchemy.dialects.mysql import CHAR

from cdc.event import Value
from cdc.formats.json import decode
from cdc.sink import Row
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks import _sql_mysql, _sql_target, sql
from sinks._sql_tables import Tables
from sinks._warehouse import Kept
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table
from tests.servers.mariadb import MariaDbServer

DATABASE = "replica"

_FINITE_ONLY = (Kind.FLOAT32, Kind.FLOAT64)
_CALENDAR = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
_PRINTED = (*_CALENDAR, Kind.TIME, Kind.DECIMAL)


class SqlMariaDbStore(Store):
    """One server for all tests; the database is dropped for each."""

    type = "sql"
    fixture = "mariadb"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.server: MariaDbServer = request.getfixturevalue(self.fixture)
        self.empty()

    def config(self) -> dict[str, Any]:
        return {"url": self.server.url, "schema": DATABASE}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        sink: sql.SqlSink = self.sink()  # type: ignore[assignment]
        with sink._engine.connect() as connection:
            tables = Tables(connection, sink._server, DATABASE, "{table}", "", Kept.HARD)
            target = tables.of_topic(connection, schema.topic)
            if target is None:
                return {}
            names = tables.stored_names(schema, target.columns)
            held = [one for one in schema.columns if names[one.name] in target.columns]
            columns = target.clause.c
            values = [
                cast(columns[names[one.name]], CHAR) if one.type.kind in _PRINTED else columns[names[one.name]]
                for one in held
            ]
            found = connection.execute(select(columns["_cdc_key"], *values)).fetchall()
        sink.close()
        rows = {
            key: {
                **dict.fromkeys(schema.by_name),
                **{one.name: _canonical(one, value) for one, value in zip(held, values, strict=True)},
            }
            for key, *values in found
        }
        assert len(rows) == len(found), "a key has two rows"
        return rows

    def cut(self) -> None:
        self.server.kill()

    def mend(self) -> None:
        self.server.start()

    def empty(self) -> None:
        self.server.execute(f"DROP DATABASE IF EXISTS {DATABASE}")

    def drop(self, schema: TableSchema) -> bool:
        self.server.execute(f"DROP TABLE {DATABASE}.`{schema.table}`")
        return True

    def stop(self) -> None:
        self.server.start().execute(f"DROP DATABASE IF EXISTS {DATABASE}")

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sql_target, "is_newer", lambda *_: true())
        monkeypatch.setattr(_sql_mysql, "NEWER", "TRUE")
        monkeypatch.setattr(_sql_mysql, "is_late", lambda *_: false())

    def holds(self, type_: LogicalType, value: Value) -> bool:
        if not isinstance(value, str):
            return True
        if type_.kind in _FINITE_ONLY or (type_.kind is Kind.DECIMAL and type_.precision == 5):
            return value not in ("NaN", "Infinity", "-Infinity")
        if type_.kind in _CALENDAR:
            return "infinity" not in value and "BC" not in value and value.index("-") == 4
        return True

    def held_as(self, type_: LogicalType, value: Value) -> Value:
        return "0" if type_.kind in _FINITE_ONLY and value == "-0" else value

    def refused(self) -> Callable[[int], Row]:
        return lambda version: table().row(version, id=version, name="bad", price="NaN")


def _canonical(column: Column, value: Any) -> Value:
    match column.type.kind:
        case _ if value is None:
            return None
        case Kind.BOOLEAN:
            return bool(value)
        case Kind.FLOAT32 | Kind.FLOAT64:
            return repr(value).removesuffix(".0")
        case Kind.ARRAY:
            alone = TableSchema("", "", "", (replace(column, name="v"),), ())
            return decode(alone, b'{"v":%b}' % value.encode())["v"]
        case Kind.TIME | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            text: str = value.rstrip("0").rstrip(".") if "." in value else value
            return text.replace(" ", "T") + ("Z" if column.type.kind is Kind.TIMESTAMPTZ else "")
    return value  # type: ignore[no-any-return]


STORE = SqlMariaDbStore
