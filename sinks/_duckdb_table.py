"""Tables of a DuckDB file that mirror tables of a source: what they and their columns are called, how they grow.

A table says in its comment whose rows it holds, so that two tables of the source never mix, and no table is taken that
somebody else made. DuckDB's names know no upper and lower case: a column whose name is taken gets a hash behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

import duckdb

from cdc.errors import PermanentError
from schemas.table import TableSchema
from sinks import _table_names
from sinks._duckdb_types import column_type, holds
from sinks._warehouse import AT, DELETED, KEY, OWN_COLUMNS, PARTITION, VALID_FROM, VALID_TO, VERSION, Kept, dropped

_TIME: Final = "TIMESTAMP WITH TIME ZONE"
_OWN: Final = {KEY: "VARCHAR NOT NULL", VERSION: "BIGINT NOT NULL", PARTITION: "INTEGER NOT NULL"}
_DELETED: Final = {DELETED: "BOOLEAN DEFAULT false"}
_OWN_OF: Final = {
    Kept.HARD: _OWN,
    Kept.SOFT: {**_OWN, **_DELETED},
    Kept.APPEND: {**_OWN, **_DELETED, AT: f"{_TIME} NOT NULL"},
    Kept.SCD2: {**_OWN, VALID_FROM: f"{_TIME} NOT NULL", VALID_TO: _TIME},
}


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """`value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is now. `sql` is its full quoted name, `columns` the types of the source's columns by name."""

    sql: str
    columns: Mapping[str, str]
    kept: Kept


class Tables:
    """The tables of one schema of the file, as they are in a transaction. They are read once: nobody else writes the
    file while a sink's generation lasts. After a transaction that failed, what was read is to be forgotten.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, schema: str, template: str, where: str, kept: Kept
    ) -> None:
        self._schema = schema
        self._template = template
        self._where = where
        self._kept = kept
        found = connection.execute(
            "SELECT table_name, comment FROM duckdb_tables() "
            "WHERE database_name = current_database() AND lower(schema_name) = lower(?)",
            [schema],
        ).fetchall()
        self._owners: dict[str, tuple[str, str | None]] = {name.casefold(): (name, comment) for name, comment in found}
        self._names = {comment: name for name, comment in found if comment}
        self._tables: dict[str, Table] = {}
        self._prepared: set[bytes] = set()
        self._followed: set[str] = set()

    def of_topic(self, connection: duckdb.DuckDBPyConnection, topic: str) -> Table | None:
        """The table with the rows of `topic`, None if there is none yet."""
        name = self._names.get(self._kept.comment(topic))
        if name is None:
            return None
        if name not in self._tables:
            columns = connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
                "AND lower(schema_name) = lower(?) AND table_name = ? ORDER BY column_index",
                [self._schema, name],
            ).fetchall()
            own = {column: kind for column, kind in columns if column not in OWN_COLUMNS}
            self._tables[name] = Table(self._sql(name), own, self._kept)
        return self._tables[name]

    def require(self, topics: Set[str]) -> None:
        """Raises GapError when the table of one of `topics`, all of which were made, is gone."""
        for comment in sorted(self._kept.comment(topic) for topic in topics):
            if comment not in self._names:
                raise dropped(self._where, comment)

    def follow(self, connection: duckdb.DuckDBPyConnection, topic: str) -> None:
        """Let the table of `topic` mark deletes, if these were hard before."""
        if self._kept is Kept.SOFT and topic not in self._followed:
            if (table := self.of_topic(connection, topic)) is not None:
                connection.execute(f"ALTER TABLE {table.sql} ADD COLUMN IF NOT EXISTS {DELETED} {_DELETED[DELETED]}")
            self._followed.add(topic)

    def prepare(self, connection: duckdb.DuckDBPyConnection, schema: TableSchema) -> None:
        """Make the table for rows of `schema`, or change it as these need it.

        Raises PermanentError when another owner has the table, or a column cannot take the values.
        """
        if schema.id in self._prepared:
            return
        name = self._template.format(schema=schema.schema, table=schema.table)
        current = self._names.get(self._kept.comment(schema.topic))
        if current not in (None, name):
            raise PermanentError(
                f"{self._where}: the rows of {schema.topic} are in table {current}, and are to go to {name} now",
                hint=f"ALTER TABLE {self._sql(str(current))} RENAME TO {quoted(name)}",
            )
        table = self.of_topic(connection, schema.topic)
        statements = self._creation(name, schema) if table is None else self._changes(name, table, schema)
        for statement in statements:
            connection.execute(statement)
        if statements:
            self._tables.pop(name, None)
        self._prepared.add(schema.id)

    def _sql(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"

    def _creation(self, name: str, schema: TableSchema) -> list[str]:
        if (owned := self._owners.get(name.casefold())) is not None:
            raise PermanentError(
                f"{self._where}: table {owned[0]} exists and is not for {schema.topic}: {owned[1] or 'made by others'}",
                hint="give each table of the source one of its own, for example table: '{schema}_{table}'",
            )
        comment = self._kept.comment(schema.topic)
        self._owners[name.casefold()] = (name, comment)
        self._names[comment] = name
        names = stored_names(schema, Table(name, {}, self._kept))
        columns = [f"{quoted(names[column.name])} {column_type(column.type)}" for column in schema.columns]
        columns += [f"{column} {kind}" for column, kind in _OWN_OF[self._kept].items()]
        return [
            f"CREATE TABLE {self._sql(name)} ({', '.join(columns)})",
            f"COMMENT ON TABLE {self._sql(name)} IS {text(comment)}",
        ]

    def _changes(self, name: str, table: Table, schema: TableSchema) -> list[str]:
        names = stored_names(schema, table)
        statements = []
        for column in schema.columns:
            stored, wanted = names[column.name], column_type(column.type)
            held = table.columns.get(stored)
            if held is None:
                statements.append(f"ALTER TABLE {table.sql} ADD COLUMN {quoted(stored)} {wanted}")
            elif not holds(held, wanted):
                statement = f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(stored)} TYPE {wanted}"
                if not holds(wanted, held):
                    raise PermanentError(
                        f"{self._where}: column {stored} of table {name} is {held} and cannot take what is now "
                        f"{column.native} in the database ({wanted} here)",
                        hint=f"convert it, then start the sink again: {statement}",
                    )
                statements.append(statement)
        return statements


def stored_names(schema: TableSchema, table: Table) -> dict[str, str]:
    """What each column of `schema` is called in `table`."""
    return _table_names.stored_names(schema.by_name, table.columns, OWN_COLUMNS)
