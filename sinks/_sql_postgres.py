"""PostgreSQL as a warehouse: a COPY of the rows into a typed table of the session, and one upsert from there.

===============================  ==================================================================================
logical type                     column
===============================  ==================================================================================
``uint64``                       ``numeric(20)``
``decimal`` with p, 0 ≤ s ≤ p    ``numeric(p,s)``; any other ``decimal``: ``numeric``
``string enum bits other``,      ``text``; one that contains NUL is rejected
``coordinates ewkb``
``json``                         ``json``: every character is kept
``bytes geometry point``         ``bytea``, a geometry as MySQL stores it: its SRID, then WKB
``array``                        an array of the element's type
any other                        the type of its name
===============================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Select, Table
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import Executable
from sqlalchemy.types import TypeEngine

from schemas.types import Kind, LogicalType
from sinks._sql_postgres_rows import Rows, cursor_of
from sinks._sql_server import Refused, SqlServer, Trouble
from sinks._sql_staging import Changes, moment
from sinks._sql_target import Target
from sinks._table_names import hashed
from sinks._widening import TypeNames

MOST_NAME_BYTES: Final = 63
MOST_DECIMAL_DIGITS: Final = 1000
CONNECT_SECONDS: Final = 10

_SESSION: Final = (
    "-c timezone=UTC -c datestyle=ISO -c client_min_messages=warning -c jit=off -c plan_cache_mode=force_custom_plan "
    "-c lock_timeout=30s -c idle_in_transaction_session_timeout=60s"
)
"""A process that hangs with a transaction open must not keep its successor out for longer than this."""
_SILENCE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
_TYPES: Final[Mapping[Kind, TypeEngine[Any]]] = {
    Kind.BOOLEAN: pg.BOOLEAN(),
    Kind.INT16: pg.SMALLINT(),
    Kind.INT32: pg.INTEGER(),
    Kind.INT64: pg.BIGINT(),
    Kind.UINT64: pg.NUMERIC(20, 0),
    Kind.DECIMAL: pg.NUMERIC(),
    Kind.FLOAT32: pg.REAL(),
    Kind.FLOAT64: pg.DOUBLE_PRECISION(),
    Kind.BYTES: pg.BYTEA(),
    Kind.GEOMETRY: pg.BYTEA(),
    Kind.POINT: pg.BYTEA(),
    Kind.JSON: pg.JSON(),
    Kind.UUID: pg.UUID(),
    Kind.DATE: pg.DATE(),
    Kind.TIME: pg.TIME(),
    Kind.TIMETZ: pg.TIME(timezone=True),
    Kind.TIMESTAMP: pg.TIMESTAMP(),
    Kind.TIMESTAMPTZ: pg.TIMESTAMP(timezone=True),
}
_DIALECT: Final = pg.dialect()  # type: ignore[no-untyped-call]
_COPY: Final = "COPY _cdc_incoming (number, key, version, partition, since) FROM STDIN (FORMAT BINARY)"
_COPY_TYPES: Final = ["int4", "text", "int8", "int4", "timestamptz"]


class PostgresServer(SqlServer):
    """PostgreSQL 14 or later."""

    driver = "postgresql+psycopg"
    errors = (DBAPIError, psycopg.Error)  # rows go around SQLAlchemy
    types = TypeNames(
        digits={"SMALLINT": 5, "INTEGER": 10, "BIGINT": 19},
        wider={
            "SMALLINT": {"INTEGER", "BIGINT", "REAL", "DOUBLE PRECISION"},
            "INTEGER": {"BIGINT", "DOUBLE PRECISION"},
            "REAL": {"DOUBLE PRECISION"},
        },
        text="TEXT",
        uuid="UUID",
        any_decimal="NUMERIC",
    )

    def connect_arguments(self, password: str | None, ca: Path | None, *, local: bool) -> dict[str, Any]:
        trusted = {"sslmode": "verify-full", "sslrootcert": str(ca or "system")} if ca or not local else {}
        return {
            "password": password,
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "cdc",
            "client_encoding": "UTF8",
            "options": _SESSION,
            **_SILENCE,
            **trusted,
        }

    def column_type(self, type_: LogicalType) -> TypeEngine[Any]:
        return _column_type(type_)

    def type_name(self, type_: TypeEngine[Any]) -> str:
        return _name(type_)

    def change_type(self, table: str, column: str, type_: str) -> str:
        return f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {type_} USING {column}::{type_}"

    def legal(self, name: str) -> str:
        encoded = name.encode()
        if len(encoded) <= MOST_NAME_BYTES:
            return name
        return hashed(encoded[: MOST_NAME_BYTES - 9].decode(errors="ignore"), name)

    def key(self, key: bytes) -> object:
        return key.decode()

    def fold(self, name: str) -> str:
        return name

    def stage(self, connection: Connection, changes: Changes, first: int) -> None:
        with cursor_of(connection) as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for number, (row, partition) in enumerate(zip(changes.rows, changes.partitions, strict=True), first):
                key = row.key.decode(errors="replace")  # one that is no text finds nothing
                copy.write_row((number, key, row.version, partition, moment(row.at)))

    def upsert(
        self,
        connection: Connection,
        target: Target,
        tombstones: Table,
        changes: Changes,
        names: Mapping[str, str],
        first: int,
    ) -> Sequence[Refused]:
        rows = Rows(self, connection, target, tombstones, changes, names, first)
        rows.write()
        return rows.unfit

    def remember(self, tombstones: Table, source: Select[Any]) -> Executable:
        statement = pg.insert(tombstones).from_select(list(source.selected_columns.keys()), source)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=[tombstones.c.topic, tombstones.c.key],
            set_={"version": new.version, "deleted_at": new.deleted_at},
            where=tombstones.c.version < new.version,
        )

    def trouble(self, error: BaseException) -> tuple[Trouble, str]:
        original = error.orig if isinstance(error, DBAPIError) else error
        state = (original.sqlstate if isinstance(original, psycopg.Error) else None) or ""
        if state[:2] in ("22", "23") or state == "54000":
            return Trouble.VALUE, state
        if not state and "certificate" in str(original):
            return Trouble.ACCESS, "its certificate is not trusted, or not for this host"
        if state[:2] in ("28", "3D"):
            return Trouble.ACCESS, state
        if not state and "authentication failed" in str(original):
            return Trouble.ACCESS, "credentials"
        if not state or state[:2] in ("08", "40", "53", "55", "57", "58", "XX") or state in ("25006", "25P03"):
            return Trouble.LATER, state or type(original).__name__
        return _TROUBLES.get(state, Trouble.OTHER), state


_TROUBLES: Final = {
    "3F000": Trouble.MISSING,
    "42P01": Trouble.MISSING,
    "42701": Trouble.LATER,  # another worker of the sink was the first to make it
    "42P06": Trouble.LATER,
    "42P07": Trouble.LATER,
}


def _column_type(type_: LogicalType) -> TypeEngine[Any]:
    if type_.element is not None:
        return pg.ARRAY(_column_type(type_.element))
    if type_.kind is Kind.DECIMAL and type_.precision is not None:
        scale = type_.scale or 0
        if 0 <= scale <= type_.precision <= MOST_DECIMAL_DIGITS:
            return pg.NUMERIC(type_.precision, scale)
    return _TYPES.get(type_.kind, pg.TEXT())


def _name(type_: TypeEngine[Any]) -> str:
    return type_.compile(dialect=_DIALECT)
