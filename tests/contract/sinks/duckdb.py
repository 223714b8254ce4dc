"""DuckDB under the contract suite: a file in the test's folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc.event import Value
from cdc.sink import Row
from schemas.table import TableSchema
from schemas.types import Kind, LogicalType
from sinks import _duckdb_rows
from sinks._duckdb_table import Tables, quoted, stored_names
from sinks._warehouse import Kept
from tests.contract.sinks import Store
from tests.contract.sinks._tables import table


class DuckDBStore(Store):
    type = "duckdb"

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._path = folder / "warehouse.duckdb"
        self._reader: subprocess.Popen[bytes] | None = None

    def config(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def rows(self, schema: TableSchema) -> dict[bytes, dict[str, Value]]:
        with duckdb.connect(str(self._path)) as connection:
            held = Tables(connection, "main", "{table}", "", Kept.HARD).of_topic(connection, schema.topic)
            if held is None:
                return {}
            names = stored_names(schema, held)
            selected = ["_cdc_key"]
            for column in schema.columns:
                stored = quoted(names[column.name])
                selected.append(_canonical(column.type, stored) if names[column.name] in held.columns else "NULL")
            found = connection.execute(f"SELECT {', '.join(selected)} FROM {held.sql}").fetchall()
        rows = {
            key.encode(): {c.name: value for c, value in zip(schema.columns, values, strict=True)}
            for key, *values in found
        }
        assert len(rows) == len(found), "a key has two rows"
        return rows

    def cut(self) -> None:
        """Another process reads the file, and goes on reading."""
        program = (
            "import duckdb, sys, time\nwhile True:\n try: held = duckdb.connect(sys.argv[1], read_only=True); break"
        )
        program += "\n except duckdb.IOException: time.sleep(0.001)\nprint('open', flush=True); time.sleep(600)"
        self._reader = subprocess.Popen([sys.executable, "-c", program, str(self._path)], stdout=subprocess.PIPE)
        assert self._reader.stdout is not None
        assert self._reader.stdout.readline() == b"open\n"

    def mend(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader.communicate()
            self._reader = None

    def stop(self) -> None:
        self.mend()

    def empty(self) -> None:
        self._path.unlink()

    def drop(self, schema: TableSchema) -> bool:
        with duckdb.connect(str(self._path)) as connection:
            connection.execute(f'DROP TABLE "{schema.table}"')
        return True

    def without_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_duckdb_rows, "NEWER", "true")
        monkeypatch.setattr(_duckdb_rows, "LATE", "false")

    def holds(self, type_: LogicalType, value: Value) -> bool:
        if isinstance(value, list):
            return not any(isinstance(item, list) for item in value)
        if type_.kind is Kind.DECIMAL and type_.precision == 5:
            return value != "NaN"
        if type_.kind is Kind.TIMESTAMPTZ and isinstance(value, str):
            return not value.startswith("294276")
        return True

    def refused(self) -> Callable[[int], Row]:
        return lambda version: table().row(version, id=version, name="bad", price="NaN")


def _canonical(type_: LogicalType, sql: str) -> str:
    """SQL for a column as a canonical value."""
    if type_.element is not None:
        return f"list_transform({sql}, lambda item: {_canonical(type_.element, 'item')})"
    match type_.kind:
        case Kind.DATE:
            return f"regexp_replace({sql}::VARCHAR, ' \\(BC\\)$', ' BC')"
        case Kind.TIMESTAMP:
            return _moment(f"{sql}::VARCHAR")
        case Kind.TIMESTAMPTZ:
            return _moment(f"regexp_replace({sql}::VARCHAR, '\\+00$', 'Z')")
        case Kind.FLOAT32 | Kind.FLOAT64:
            number = f"regexp_replace({sql}::VARCHAR, '\\.0$', '')"
            for name, canonical in (("nan", "NaN"), ("-inf", "-Infinity"), ("inf", "Infinity")):
                number = f"CASE WHEN {sql}::VARCHAR = '{name}' THEN '{canonical}' ELSE {number} END"
            return number
        case Kind.DECIMAL | Kind.UUID | Kind.TIME | Kind.TIMETZ:
            return f"{sql}::VARCHAR"
    return sql


def _moment(sql: str) -> str:
    era = f"regexp_replace({sql}, '^([0-9-]+) \\(BC\\) (.*)$', '\\1T\\2 BC')"
    return f"CASE WHEN contains({sql}, '(BC)') THEN {era} ELSE replace({sql}, ' ', 'T') END"


STORE = DuckDBStore
