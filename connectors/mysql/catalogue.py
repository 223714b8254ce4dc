"""What the server's catalogue says about the tables to capture: which there are, what identifies their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from pymysql.connections import Connection

from cdc.config.patterns import selects
from cdc.formats.json import key_supported
from cdc.source.tables import capturable
from connectors.mysql.charsets import BINARY
from connectors.mysql.client import Server, query
from connectors.mysql.config import MysqlConfig
from connectors.mysql.definitions import Definition, Indescribable, described, quote
from connectors.mysql.rows import columns
from connectors.mysql.tablemap import MapColumn
from connectors.mysql.values import DECLARED, column_type
from schemas.table import Column

SYSTEM_SCHEMAS: Final = frozenset({"information_schema", "mysql", "ndbinfo", "performance_schema", "sys"})
ELSEWHERE: Final = frozenset({"CONNECT", "FEDERATED", "SPIDER"})
"""Engines whose rows are on another server."""


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """One table of the server.

    `columns` are those of its row images, as the binlog describes them. `key` names those of the primary key; empty
    when it cannot identify rows on the log, and `problem` and `fix` then say why and which SQL mends it.
    """

    schema: str
    name: str
    columns: tuple[MapColumn, ...] = ()
    key: tuple[str, ...] = ()
    declared: Mapping[str, str] = field(default_factory=dict)
    """Columns whose type the binlog does not tell: ``uuid``, ``inet4``, ``inet6`` or ``vector`` by name."""
    rows: int | None = None
    """How many there are, as the server estimates."""
    bytes: int = 0
    """What they take, without secondary indexes, as the server estimates."""
    problem: str = ""
    fix: str = ""

    @property
    def full_name(self) -> str:
        """``schema.table``, unquoted: as in the configuration."""
        return f"{self.schema}.{self.name}"

    @property
    def not_null(self) -> frozenset[str]:
        """Names of the NOT NULL columns."""
        return frozenset(column.name for column in self.columns if not column.nullable)

    @property
    def row_bytes(self) -> int:
        """How much a row takes on average, as far as is known."""
        return self.bytes // self.rows if self.rows else 0

    @property
    def quoted(self) -> str:
        """The name as SQL has it, between backquotes."""
        return f"{quote(self.schema)}.{quote(self.name)}"


def schema_columns(table: CatalogTable) -> tuple[Column, ...]:
    """The columns as the schema on the log has them: as from the binlog."""
    return columns(table, table.declared)


def captured_tables(
    connection: Connection, server: Server, config: MysqlConfig, warn: Callable[[str, str], None]
) -> list[CatalogTable]:
    """The tables that the configuration names, each with its key: see :func:`cdc.source.tables.capturable`."""
    patterns = list(config.tables)
    selected = selected_tables(connection, server, patterns)
    return capturable(
        selected,
        patterns,
        warn,
        holder="server",
        unseen="on this server, or the user may not see it",
        hint="check the spelling of `tables` (upper and lower case too); the user must have SELECT on the table",
    )


def selected_tables(
    connection: Connection, server: Server, patterns: Sequence[str]
) -> Iterator[tuple[CatalogTable, bool]]:
    """What `patterns` select, by name, with what is wrong with each; and whether it is a table, not a view or so."""
    rows = [row for row in query(connection, _TABLES + " ORDER BY 1, 2") if selects(patterns, f"{row[0]}.{row[1]}")]
    details = {schema: _details(connection, server, schema) for schema in {row[0] for row in rows} - SYSTEM_SCHEMAS}
    for row in rows:
        schema, name, kind = row[:3]
        ordinary = schema not in SYSTEM_SCHEMAS and kind in ("BASE TABLE", "SYSTEM VERSIONED")
        yield _table(row, details.get(schema, {}).get(name, _Details())), ordinary


def describe(connection: Connection, server: Server, schema: str, name: str) -> CatalogTable | None:
    """The table as it is now; None when it is gone."""
    for row in query(connection, _TABLES + " AND table_schema = %s AND table_name = %s", schema, name):
        if row[:2] == (schema, name):  # the server's comparison may know no case
            return _table(row, _details(connection, server, schema, name).get(name, _Details()))
    return None


_TABLES: Final = """
SELECT /*+ SET_VAR(information_schema_stats_expiry = 0) */
       table_schema, table_name, table_type, engine, table_rows, data_length
  FROM information_schema.tables WHERE table_type <> 'TEMPORARY'
"""
_COLUMNS: Final = """
SELECT table_schema, table_name, column_name, data_type, column_type, is_nullable, character_octet_length,
       numeric_precision, numeric_scale, datetime_precision, collation_name, extra
  FROM information_schema.columns WHERE table_schema = %s{} ORDER BY ordinal_position
"""
_INDEXES: Final = """
SELECT table_schema, table_name, index_name, column_name, sub_part, index_type
  FROM information_schema.statistics WHERE non_unique = 0 AND table_schema = %s{} ORDER BY seq_in_index
"""


@dataclass
class _Details:
    """What more is known of a table. `problem` is that of a column, with a clause of ALTER TABLE."""

    columns: list[MapColumn] = field(default_factory=list)
    declared: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, list[_IndexColumn]] = field(default_factory=lambda: defaultdict(list))
    """The unique ones by name."""
    problem: tuple[str, str] = ("", "")


class _IndexColumn(NamedTuple):
    """`name` is None for an expression, `length` is in characters, None: all of them."""

    name: str | None
    length: int | None
    kind: str


def _details(connection: Connection, server: Server, schema: str, name: str | None = None) -> dict[str, _Details]:
    """By name of the table, of one or of all of a schema."""
    where, values = (" AND table_name = %s", (schema, name)) if name is not None else ("", (schema,))
    numbers = _collations(connection, server)
    found: dict[str, _Details] = defaultdict(_Details)
    for _, table, *row in _of(schema, query(connection, _COLUMNS.format(where), *values)):
        *first, collation, extra = row
        column = Definition._make([*first, numbers.get(collation, BINARY), extra])
        details = found[table]
        try:
            details.columns.append(described(column, mariadb=server.mariadb))
        except Indescribable as error:
            details.problem = error.problem, error.clause
        if column.data_type in DECLARED:
            details.declared[column.name] = column.data_type
    for _, table, index, *row in _of(schema, query(connection, _INDEXES.format(where), *values)):
        found[table].indexes[index].append(_IndexColumn(*row))
    return found


def _of(schema: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those of one schema: the servers' own comparison may know no case."""
    return [row for row in rows if row[0] == schema]


def _collations(connection: Connection, server: Server) -> dict[str, int]:
    """The number of each collation, under the name that columns have it by."""
    if server.mariadb and server.version >= (10, 10, 0):  # one number for each character set
        names = "full_collation_name, id FROM information_schema.collation_character_set_applicability"
    else:
        names = "collation_name, id FROM information_schema.collations"
    return dict(query(connection, f"SELECT {names}"))


def _table(row: tuple[Any, ...], details: _Details) -> CatalogTable:
    schema, name, kind, engine, rows, size = row
    table = CatalogTable(schema, name, tuple(details.columns), (), details.declared, rows, size or 0)
    problem, fix = _unfit(table, kind, engine, details)
    if problem:
        return replace(table, problem=problem, fix=fix)
    key, problem, fix = _key(table, details.indexes)
    return replace(table, key=key, problem=problem, fix=fix)


def _unfit(table: CatalogTable, kind: str, engine: str | None, details: _Details) -> tuple[str, str]:
    """Why a table cannot be captured whatever its key, and what mends it."""
    alter = f"ALTER TABLE {table.quoted}"
    if table.schema in SYSTEM_SCHEMAS:
        return "it is a table of the server itself", "capture tables of your own"
    if kind == "SYSTEM VERSIONED":
        return (
            "it is system-versioned: its binlog has the rows of the past among those of today",
            f"{alter} DROP SYSTEM VERSIONING; which throws the past away",
        )
    if kind != "BASE TABLE":
        return f"it is not a table but a {kind.lower()}", "capture the tables beneath it"
    if engine is None:
        return "the server can't open it", f"CHECK TABLE {table.quoted};"
    if engine in ELSEWHERE:
        return f"its engine {engine} has its rows elsewhere", "capture it at the server that has them"
    if engine != "InnoDB":
        return f"its engine {engine} has no transactions, or no snapshots of them", f"{alter} ENGINE = InnoDB;"
    if details.problem[0]:
        return details.problem[0], f"{alter} {details.problem[1]};"
    if not table.columns:
        return "its columns can't be seen", f"GRANT SELECT ON {table.quoted} TO the user of the source's url;"
    for name, index in details.indexes.items():
        if any(column.kind == "HASH" for column in index):
            old = quote(name)
            return (
                f"its unique index {name} is over values of any length, for which the binlog has a column of its own",
                f"{alter} DROP INDEX {old}, ADD UNIQUE INDEX {old} (…); with a length, such as `column`(255)",
            )
    return "", ""


def _key(table: CatalogTable, indexes: Mapping[str, Sequence[_IndexColumn]]) -> tuple[tuple[str, ...], str, str]:
    """The columns of the primary key, or what is wrong and the SQL that mends it."""
    alter = f"ALTER TABLE {table.quoted}"
    again = f"{alter} DROP PRIMARY KEY, ADD PRIMARY KEY (…);"
    by_name = {column.name: column for column in table.columns}
    key = []
    for part in indexes.get("PRIMARY", ()):
        column = by_name[str(part.name)]
        if part.length is not None:
            return (), f"its key has only the beginning of column {column.name}", f"{again} with the whole column"
        declared = table.declared.get(column.name, "")
        reason = key_supported(*column_type(column, declared))
        if reason is not None:
            problem = f"key column {column.name} can't identify rows on the log: {reason}"
            return (), problem, f"{again} with columns of other types"
        key.append(column.name)
    if key:
        return tuple(key), "", ""
    for index in indexes.values():
        names = [part.name for part in index if part.name in table.not_null and part.length is None]
        if len(names) == len(index):
            columns = ", ".join(quote(str(name)) for name in names)
            return (), "it has no primary key", f"{alter} ADD PRIMARY KEY ({columns});"
    return (
        (),
        "it has no primary key, so nothing identifies its rows",
        f"{alter} ADD PRIMARY KEY (…); or, where no columns identify a row: {alter} "
        "ADD COLUMN my_row_id bigint unsigned NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY; as MySQL does by itself "
        "for new tables under sql_generate_invisible_primary_key = ON",
    )
