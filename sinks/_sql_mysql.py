"""MySQL and MariaDB as a warehouse: multi-row statements of values that are decoded here.

===============================  ==================================================================================
logical type                     column
===============================  ==================================================================================
``uint64``                       ``BIGINT UNSIGNED``
``decimal``, p ≤ 65, 0 ≤ s ≤ 30  ``DECIMAL(p,s)``; a NaN is rejected
other ``decimal``                ``LONGTEXT``, the digits as the database prints them
``float32 float64``              ``DOUBLE``; NaN and the infinities are rejected; MariaDB makes 0 of -0
``bytes geometry point``         ``LONGBLOB``, a geometry as MySQL stores it: its SRID, then WKB
``uuid``                         ``CHAR(36)``
``date``, ``time``               the same; a date BC, after the year 9999 or infinite is rejected
``timestamp timestamptz``        ``DATETIME(6)``, the latter in UTC; as for dates
``array``                        ``LONGTEXT``: a JSON array
``json`` and any other           ``LONGTEXT``: JSON as the database prints it, which the JSON functions take
===============================  ==================================================================================
"""

# ruff: noqa: S608 - names are quoted, values are parameters

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pymysql
from sqlalchemy import Connection, Select, Table, delete, func, insert, select, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import Executable
from sqlalchemy.types import TypeEngine

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats.json import decode, render
from cdc.sink import Row
from cdc.tls import trusting
from schemas.types import Kind, LogicalType
from sinks._sql_server import Refused, SqlServer, Trouble, refused
from sinks._sql_staging import INCOMING, Changes, is_late, moment
from sinks._sql_target import Target
from sinks._table_names import hashed
from sinks._warehouse import AT, DELETED, KEY, PARTITION, VALID_FROM, VALID_TO, VERSION, Kept
from sinks._widening import TypeNames

MOST_NAME_CHARACTERS: Final = 64
MOST_DECIMAL_DIGITS: Final = 65
MOST_DECIMAL_SCALE: Final = 30
STATEMENT_ROWS: Final = 1000
STATEMENT_BYTES: Final = 1 << 20
LARGEST_ROW: Final = 7 << 20
"""The server takes 16 MiB in a packet unless told otherwise, and quoting may double what it is sent."""

CONNECT_SECONDS: Final = 10
SILENCE_SECONDS: Final = 300
_SESSION: Final = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION', "
    "time_zone = '+00:00', innodb_lock_wait_timeout = 30, wait_timeout = 60"
)
"""A process that hangs with a transaction open must not keep its successor out for longer than this."""

NEWER: Final = f"VALUES({VERSION}) > {VERSION}"
"""When a row is written over the one that is held."""

_TYPES: Final[Mapping[Kind, TypeEngine[Any]]] = {
    Kind.BOOLEAN: mysql.TINYINT(1),
    Kind.INT16: mysql.SMALLINT(),
    Kind.INT32: mysql.INTEGER(),
    Kind.INT64: mysql.BIGINT(),
    Kind.UINT64: mysql.BIGINT(unsigned=True),
    Kind.FLOAT32: mysql.DOUBLE(),
    Kind.FLOAT64: mysql.DOUBLE(),
    Kind.BYTES: mysql.LONGBLOB(),
    Kind.GEOMETRY: mysql.LONGBLOB(),
    Kind.POINT: mysql.LONGBLOB(),
    Kind.UUID: mysql.CHAR(36),
    Kind.DATE: mysql.DATE(),
    Kind.TIME: mysql.TIME(fsp=6),
    Kind.TIMESTAMP: mysql.DATETIME(fsp=6),
    Kind.TIMESTAMPTZ: mysql.DATETIME(fsp=6),
}
_DIALECT: Final = mysql.dialect()
_WIDTH: Final = re.compile(r"(?<=INT)\(\d+\)")
_NOT_FINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_CALENDAR: Final = re.compile(r"\d{4}-\d\d-\d\d(?:T[\d:.]+Z?)?")

_VALUE: Final = frozenset({1048, 1062, 1264, 1265, 1292, 1366, 1367, 1406, 1411, 1452, 1690, 3140, 3819, 4025})
_LATER: Final = frozenset({1020, 1021, 1040, 1050, 1053, 1060, 1114, 1180, 1205, 1213, 1290, 1317, 1836, 1927, 3024})
_ACCESS: Final = frozenset({1044, 1045, 1049, 1130, 1251, 1698})


class MySqlServer(SqlServer):
    """MySQL 8 or later, MariaDB 10.6 or later."""

    driver = "mysql+pymysql"
    types = TypeNames(
        digits={"SMALLINT": 5, "INT": 10, "BIGINT": 19, "BIGINT UNSIGNED": 20},
        wider={"SMALLINT": {"INT", "BIGINT", "DOUBLE"}, "INT": {"BIGINT", "DOUBLE"}},
        text="LONGTEXT",
        uuid="CHAR(36)",
    )

    def connect_arguments(self, password: str | None, ca: Path | None, *, local: bool) -> dict[str, Any]:
        verified = ca is not None or not local
        return {
            "password": (password or "").encode(),  # PyMySQL would encode it in Latin-1
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "write_timeout": SILENCE_SECONDS,
            "charset": "utf8mb4",
            "init_command": _SESSION,
            **({"ssl": trusting(ca, "sink")} if verified else {}),
        }

    def column_type(self, type_: LogicalType) -> TypeEngine[Any]:
        return _column_type(type_)

    def type_name(self, type_: TypeEngine[Any]) -> str:
        return _name(type_.compile(dialect=_DIALECT))

    # SQLAlchemy's own inspection reads SHOW CREATE TABLE, and leaves quotes in names doubled.

    def comments(self, connection: Connection, schema: str) -> dict[str, str | None]:
        query = text("SELECT table_name, table_comment FROM information_schema.tables WHERE table_schema = :schema")
        return {name: comment or None for name, comment in connection.execute(query, {"schema": schema})}

    def columns(self, connection: Connection, schema: str, table: str) -> dict[str, str]:
        query = text(
            "SELECT column_name, column_type FROM information_schema.columns "
            "WHERE table_schema = :schema AND table_name = :table ORDER BY ordinal_position"
        )
        found = connection.execute(query, {"schema": schema, "table": table})
        return {name: _name(type_) for name, type_ in found}

    def change_type(self, table: str, column: str, type_: str) -> str:
        return f"ALTER TABLE {table} MODIFY COLUMN {column} {type_}"

    def rename(self, schema: str, table: str, name: str) -> str:
        return f"RENAME TABLE {schema}.{table} TO {schema}.{name}"

    def legal(self, name: str) -> str:
        taken = "".join(letter if letter <= "\uffff" else "_" for letter in name).rstrip(" ")
        if taken == name and len(name) <= MOST_NAME_CHARACTERS:
            return name
        return hashed(taken[: MOST_NAME_CHARACTERS - 9], name)

    def fold(self, name: str) -> str:
        letters = unicodedata.normalize("NFKD", name.casefold())
        return "".join(letter for letter in letters if not unicodedata.combining(letter))

    def stage(self, connection: Connection, changes: Changes, first: int) -> None:
        connection.execute(delete(INCOMING).where(INCOMING.c.number >= first))  # it outlives the transaction
        staged = [
            {
                "number": number,
                "key": row.key,
                "version": row.version,
                "partition": partition,
                "since": moment(row.at),
            }
            for number, (row, partition) in enumerate(zip(changes.rows, changes.partitions, strict=True), first)
        ]
        connection.execute(insert(INCOMING), staged)

    def upsert(
        self,
        connection: Connection,
        target: Target,
        tombstones: Table,
        changes: Changes,
        names: Mapping[str, str],
        first: int,
    ) -> Sequence[Refused]:
        late: set[int] = set()
        if changes.late:
            self.stage(connection, changes, first)
            after_delete = is_late(changes.topic, tombstones)
            late = set(connection.scalars(select(INCOMING.c.number).where(changes.staged_from(first), after_delete)))
        unfit: list[Refused] = []
        values: dict[int, tuple[Any, ...]] = {}
        for number, row in enumerate(changes.rows):
            if number + first not in late:
                try:
                    values[number] = (*_values(changes, row), *_own_values(changes, number, target.kept))
                except (DecodeError, ValueError) as error:
                    unfit.append((number, str(error.args[0])))
        statement = _Upsert(connection, target, changes, names)

        def attempt(numbers: Sequence[int]) -> None:
            for part in _parts(numbers, changes.rows):
                statement.execute([values[number] for number in part])

        reason = "it has a value that its column cannot hold"
        return [*unfit, *((number, reason) for number in refused(connection, self, list(values), attempt))]

    def remember(self, tombstones: Table, source: Select[Any]) -> Executable:
        statement = mysql.insert(tombstones).from_select(list(source.selected_columns.keys()), source)
        new, held = statement.inserted, tombstones.c
        return statement.on_duplicate_key_update(
            deleted_at=func.if_(new.version > held.version, new.deleted_at, held.deleted_at),
            version=func.greatest(new.version, held.version),
        )

    def trouble(self, error: BaseException) -> tuple[Trouble, str]:
        original = error.orig if isinstance(error, DBAPIError) else error
        code = original.args[0] if original is not None and original.args else 0
        if code in _VALUE:
            return Trouble.VALUE, str(code)
        if "CERTIFICATE_VERIFY_FAILED" in str(original):
            return Trouble.ACCESS, "its certificate is not trusted, or not for this host"
        if code in _ACCESS:
            return Trouble.ACCESS, str(code)
        if code in _LATER or code == 0 or 2000 <= code < 3000 or isinstance(original, pymysql.err.InterfaceError):
            return Trouble.LATER, str(code)
        return (Trouble.MISSING if code == 1146 else Trouble.OTHER), str(code)


class _Upsert:
    """``INSERT … ON DUPLICATE KEY UPDATE`` of many rows at once, with the version as its guard.

    SQLAlchemy would write one row each for MySQL 8. Assignments are made one after the other: the version's is last.
    """

    def __init__(self, connection: Connection, target: Target, changes: Changes, names: Mapping[str, str]) -> None:
        preparer = connection.dialect.identifier_preparer
        quoted = preparer.quote_identifier
        assert changes.schema is not None
        stored = [
            names[column.name]
            for column in changes.schema.columns
            if changes.sent is None or column.name in changes.sent
        ]
        columns = [*map(quoted, stored), KEY, VERSION, PARTITION]
        if target.kept is Kept.APPEND:
            columns.append(AT)
        elif target.kept is Kept.SCD2:
            columns += [VALID_FROM, VALID_TO]
        if target.kept.history:
            assignments = [f"{VERSION} = {VERSION}"]  # it is there already
        else:
            assignments = self._assignments(target, quoted, stored, names)
        self._connection = connection
        self._row = f"({', '.join(['%s'] * len(columns))})"
        self._head = f"INSERT INTO {preparer.format_table(target.clause)} ({', '.join(columns)}) VALUES "
        self._tail = f" ON DUPLICATE KEY UPDATE {', '.join(assignments)}"

    @staticmethod
    def _assignments(
        target: Target, quoted: Callable[[str], str], stored: Sequence[str], names: Mapping[str, str]
    ) -> list[str]:
        updates = {quoted(name): f"VALUES({quoted(name)})" for name in stored}
        updates |= {quoted(name): "NULL" for name in target.columns.keys() - names.values()}
        assignments = [f"{name} = IF({NEWER}, {new}, {name})" for name, new in updates.items()]
        if target.kept is Kept.SOFT:
            unsent = [quoted(name) for name in target.columns if quoted(name) not in updates]
            # What a deleted row had is not the new row's.
            assignments += [f"{name} = IF({NEWER} AND {DELETED}, NULL, {name})" for name in unsent]
            assignments.append(f"{DELETED} = IF({NEWER}, FALSE, {DELETED})")
        return [
            *assignments,
            f"{PARTITION} = IF({NEWER}, VALUES({PARTITION}), {PARTITION})",
            f"{VERSION} = GREATEST(VALUES({VERSION}), {VERSION})",
        ]

    def execute(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write `rows`."""
        sql = self._head + ", ".join([self._row] * len(rows)) + self._tail
        self._connection.exec_driver_sql(sql, tuple(value for row in rows for value in row))


def _parts(numbers: Sequence[int], rows: Sequence[Row]) -> Iterator[list[int]]:
    """`numbers` in parts that fit into one statement."""
    part: list[int] = []
    size = 0
    for number in numbers:
        if part and (len(part) >= STATEMENT_ROWS or size >= STATEMENT_BYTES):
            yield part
            part, size = [], 0
        part.append(number)
        size += len(rows[number].after or b"")
    yield part


def _name(type_: str) -> str:
    """A type's name, the same from SQLAlchemy, MySQL and MariaDB."""
    return _WIDTH.sub("", type_.upper().replace(", ", ",").replace("INTEGER", "INT"))


def _column_type(type_: LogicalType) -> TypeEngine[Any]:
    if type_.kind is Kind.DECIMAL and type_.precision is not None:
        scale = type_.scale or 0
        if 0 <= scale <= min(type_.precision, MOST_DECIMAL_SCALE) and type_.precision <= MOST_DECIMAL_DIGITS:
            return mysql.DECIMAL(type_.precision, scale)
    return _TYPES.get(type_.kind, mysql.LONGTEXT())


def _values(changes: Changes, row: Row) -> list[Any]:
    """The values that a row brings, as the driver takes them. Raises DecodeError, or ValueError if one does not fit."""
    schema = changes.schema
    assert schema is not None
    assert row.after is not None
    if len(row.after) > LARGEST_ROW:
        raise ValueError(f"it is larger than the {LARGEST_ROW} bytes that the server takes in a statement")
    values = decode(schema, row.after)
    fitting = []
    for column in schema.columns:
        if changes.sent is None or column.name in changes.sent:
            try:
                fitting.append(_value(column.type, values.get(column.name)))
            except ValueError:
                name = _name(_column_type(column.type).compile(dialect=_DIALECT))
                raise ValueError(f"column {column.name!r} has a value that the type {name} cannot hold") from None
    return fitting


def _own_values(changes: Changes, number: int, kept: Kept) -> list[Any]:
    row = changes.rows[number]
    own: list[Any] = [row.key, row.version, changes.partitions[number]]
    if kept.history:
        own.append(moment(row.at))
    if kept is Kept.SCD2:
        own.append(moment(changes.until.get(number)))
    return own


def _value(type_: LogicalType, value: Value) -> Any:
    if isinstance(value, list):
        return render(type_, "readable", value).decode()
    if not isinstance(value, str):
        return value
    match type_.kind:
        case Kind.FLOAT32 | Kind.FLOAT64 if value in _NOT_FINITE:
            raise ValueError
        case Kind.DECIMAL if value in _NOT_FINITE and isinstance(_column_type(type_), mysql.DECIMAL):
            raise ValueError
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            if not _CALENDAR.fullmatch(value):
                raise ValueError
            return value.removesuffix("Z")
    return value
