"""PostgreSQL as a warehouse: a staged COPY of the rows' JSON, and one upsert that has the server parse it.

===============================  ==================================================================================
logical type                     column
===============================  ==================================================================================
``uint64``                       ``numeric(20)``
``decimal`` with p, 0 ≤ s ≤ p    ``numeric(p,s)``; any other ``decimal``: ``numeric``
``string enum other``            ``text``; one that contains NUL is rejected
``json``                         ``json``: every character is kept
``bytes``                        ``bytea``
``array``                        an array of the element's type
any other                        the type of its name
===============================  ==================================================================================

Rows are staged as they stand on the log. Those of the ``debezium`` profile, and of tables with names or types that
cannot be read from there, are rendered anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Select, Table, bindparam, case, cast, column, false, func, null, select, true
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import ColumnElement, Executable, quoted_name
from sqlalchemy.types import TypeEngine

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats.json import decode, render
from cdc.sink import Row
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from sinks._sql_server import Refused, SqlServer, Trouble, refused
from sinks._sql_staging import INCOMING, Changes, is_late, is_newer, moment
from sinks._sql_target import Target
from sinks._table_names import hashed
from sinks._warehouse import AT, DELETED, KEY, PARTITION, VALID_FROM, VALID_TO, VERSION, Kept
from sinks._widening import TypeNames

MOST_NAME_BYTES: Final = 63
MOST_DECIMAL_DIGITS: Final = 1000
CONNECT_SECONDS: Final = 10

_SESSION: Final = (
    "-c timezone=UTC -c datestyle=ISO -c jit=off -c plan_cache_mode=force_custom_plan "
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
    Kind.JSON: pg.JSON(),
    Kind.UUID: pg.UUID(),
    Kind.DATE: pg.DATE(),
    Kind.TIME: pg.TIME(),
    Kind.TIMETZ: pg.TIME(timezone=True),
    Kind.TIMESTAMP: pg.TIMESTAMP(),
    Kind.TIMESTAMPTZ: pg.TIMESTAMP(timezone=True),
}
_DIALECT: Final = pg.dialect()  # type: ignore[no-untyped-call]
_COPY: Final = "COPY _cdc_incoming (number, key, version, partition, since, until, after) FROM STDIN (FORMAT BINARY)"
_COPY_TYPES: Final = ["int4", "text", "int8", "int4", "timestamptz", "timestamptz", "text"]


class PostgresServer(SqlServer):
    """PostgreSQL 14 or later."""

    driver = "postgresql+psycopg"
    errors = (DBAPIError, psycopg.Error)  # COPY goes around SQLAlchemy
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

    def connect_arguments(self, ca: Path | None, *, local: bool) -> dict[str, Any]:
        trusted = {"sslmode": "verify-full", "sslrootcert": str(ca or "system")} if ca or not local else {}
        return {
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

    def stage(self, connection: Connection, changes: Changes, first: int) -> Sequence[Refused]:
        unfit: list[Refused] = []
        schema = changes.schema
        anew = schema is not None and not _as_on_the_log(schema)
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            write = copy.write_row
            for number, (row, partition) in enumerate(zip(changes.rows, changes.partitions, strict=True)):
                try:
                    after = _rendered(schema, row) if anew and schema is not None else row.after
                    staged = row.key.decode(), None if after is None else after.decode()
                except (DecodeError, UnicodeError):
                    unfit.append((number, "it is no row of its table"))
                else:
                    key, text = staged
                    times = (moment(row.at), moment(changes.until.get(number))) if row.at else (None, None)
                    write((first + number, key, row.version, partition, *times, text))
        return unfit

    def upsert(
        self,
        connection: Connection,
        target: Target,
        tombstones: Table,
        changes: Changes,
        names: Mapping[str, str],
        first: int,
    ) -> Sequence[Refused]:
        statement = _upsert(target, tombstones, changes, names)

        def attempt(numbers: Sequence[int]) -> None:
            connection.execute(statement, {"first": numbers[0], "last": numbers[-1]})

        unfit = refused(connection, self, range(first, first + len(changes.rows)), attempt)
        return [(number - first, self._reason(connection, changes, number)) for number in unfit]

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

    def _reason(self, connection: Connection, changes: Changes, number: int) -> str:
        """Why the row with this number is refused: the first column whose value the server does not take alone."""
        schema = changes.schema
        assert schema is not None

        def taken(tried: ColumnElement[Any], source: Any) -> bool:
            query = select(tried).select_from(source).where(INCOMING.c.number == number)
            return not refused(connection, self, [number], lambda _: connection.execute(query).close())

        if not taken(cast(INCOMING.c.after, pg.JSON), INCOMING):
            return "it is no row of its table"
        for position, one in enumerate(schema.columns):
            wire, (value,) = _parsed(schema, [(position, one)])
            if not taken(value, INCOMING.join(wire, true())):
                type_ = self.type_name(self.column_type(one.type))
                return f"column {one.name!r} has a value that PostgreSQL's type {type_} cannot hold"
        return "the table refuses it: a constraint or trigger of yours, or a row too large"


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


def _upsert(target: Target, tombstones: Table, changes: Changes, names: Mapping[str, str]) -> Executable:
    schema, new = changes.schema, INCOMING.c
    assert schema is not None
    brought = [(n, c) for n, c in enumerate(schema.columns) if changes.sent is None or c.name in changes.sent]
    wire, values = _parsed(schema, brought)
    stored = [names[column.name] for _, column in brought]
    own = {KEY: new.key, VERSION: new.version, PARTITION: new.partition}
    if target.kept is Kept.APPEND:
        own[AT] = new.since
    elif target.kept is Kept.SCD2:
        own |= {VALID_FROM: new.since, VALID_TO: new.until}
    source = (
        select(*values, *own.values())
        .select_from(INCOMING.join(wire, true()))
        .where(new.number.between(bindparam("first"), bindparam("last")))
    )
    if target.kept.history:
        return pg.insert(target.clause).from_select([*stored, *own], source).on_conflict_do_nothing()
    source = source.where(~is_late(schema.topic, tombstones))
    statement = pg.insert(target.clause).from_select([*stored, *own], source)
    held, excluded = target.clause.c, statement.excluded
    updates: dict[str, Any] = {name: excluded[name] for name in (*stored, VERSION, PARTITION)}
    updates |= dict.fromkeys(target.columns.keys() - names.values(), null())
    if target.kept is Kept.SOFT:
        for name in target.columns.keys() - updates.keys():  # what a deleted row had is not the new row's
            updates[name] = case((held[DELETED], null()), else_=held[name])
        updates[DELETED] = false()
    return statement.on_conflict_do_update(
        index_elements=[KEY], set_=updates, where=is_newer(excluded[VERSION], held[VERSION])
    )


def _parsed(schema: TableSchema, columns: Sequence[tuple[int, Column]]) -> tuple[Any, list[ColumnElement[Any]]]:
    """The staged rows' JSON as a row of `columns` (with their places in `schema`), and the values of its columns."""
    anew = not _as_on_the_log(schema)
    shape = [
        column(quoted_name(f"c{place}" if anew else one.name, True), _wire_type(one.type, anew=anew))
        for place, one in columns
    ]
    wire = (
        func.json_to_record(cast(INCOMING.c.after, pg.JSON))
        .table_valued(*shape)
        .render_derived(name="wire", with_types=True)
    )
    return wire, [_value(one.type, parsed, anew=anew) for (_, one), parsed in zip(columns, wire.c, strict=True)]


def _wire_type(type_: LogicalType, *, anew: bool) -> TypeEngine[Any]:
    """What the server's JSON parser makes of a value."""
    if type_.element is not None:
        return pg.ARRAY(_wire_type(type_.element, anew=anew))
    if type_.kind is Kind.JSON or (type_.kind is Kind.BYTES and not anew):
        return pg.TEXT()
    return _column_type(type_)


def _value(type_: LogicalType, parsed: ColumnElement[Any], *, anew: bool) -> ColumnElement[Any]:
    if type_.kind is Kind.BYTES and not anew:
        return func.decode(parsed, "base64")
    wire_type = _wire_type(type_, anew=anew)
    wanted = _column_type(type_)
    return parsed if _name(wire_type) == _name(wanted) else cast(parsed, wanted)


def _as_on_the_log(schema: TableSchema) -> bool:
    """Whether the server can read the rows of `schema` as they stand there."""
    return schema.profile == "readable" and not any(
        len(column.name.encode()) > MOST_NAME_BYTES
        or (column.type.element is not None and column.type.element.kind is Kind.BYTES)
        for column in schema.columns
    )


def _rendered(schema: TableSchema, row: Row) -> bytes:
    """A row as ``readable`` JSON under the names c0, c1 …, bytes in hex as PostgreSQL reads them."""
    assert row.after is not None
    values = decode(schema, row.after)
    return b"{%b}" % b",".join(
        b'"c%d":%b' % (place, render(column.type, "readable", _hex(values[column.name])))
        for place, column in enumerate(schema.columns)
        if column.name in values
    )


def _hex(value: Value) -> Value:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return [_hex(item) for item in value] if isinstance(value, list) else value
