"""Tables of an SQL database that mirror tables of a source: what they are called, how they grow.

A table says in its comment whose rows it holds, so that two tables of the source never mix, and no table is taken that
somebody else made. What a column is called if the database cannot take or tell apart its name: see
:mod:`sinks._table_names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    Table,
    column,
    table,
)
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.expression import quoted_name

from cdc.errors import PermanentError
from schemas.table import TableSchema
from sinks._sql_server import SqlServer
from sinks._sql_staging import TABLE_OPTIONS
from sinks._sql_target import Target, own_columns
from sinks._table_names import stored_names
from sinks._warehouse import OWN_COLUMNS, Kept, dropped


class Tables:
    """The tables of one schema, as they were found and have been changed since. Several workers may change them: what
    was read is to be forgotten whenever something goes wrong.
    """

    def __init__(
        self, connection: Connection, server: SqlServer, schema: str, template: str, where: str, kept: Kept
    ) -> None:
        self._server = server
        self._schema = quoted_name(schema, True)
        self._template = template
        self._where = where
        self._kept = kept
        self._owners = server.comments(connection, schema)
        self._names = {comment: name for name, comment in self._owners.items() if comment}
        self._targets: dict[str, Target] = {}
        self._prepared: set[bytes] = set()
        self._followed: set[str] = set()

    def is_ready(self, topics: Set[str], schemas: Iterable[TableSchema]) -> bool:
        """Whether the tables are known to be ready for rows of `schemas` and deletes of `topics`."""
        return topics <= self._followed and all(schema.id in self._prepared for schema in schemas)

    def require(self, topics: Set[str]) -> None:
        """Raises GapError when the table of one of `topics`, all of which were made, is gone."""
        for comment in sorted(self._comment(topic) for topic in topics):
            if comment not in self._names:
                raise dropped(self._where, comment)

    def prepare(self, connection: Connection, topics: Set[str], schemas: Iterable[TableSchema]) -> None:
        """Make the tables ready. MySQL commits each change of a table at once.

        Raises PermanentError when another owner has a table, or a column cannot take the values.
        """
        for topic in topics - self._followed:
            target = self.of_topic(connection, topic)
            if target is not None and self._kept is Kept.SOFT:  # deletes may have been hard before
                missing = [one for one in own_columns(self._kept) if one.name not in target.clause.c]
                self._add(connection, target.clause.name, missing)
                del self._targets[target.clause.name]
            self._followed.add(topic)
        for schema in schemas:
            if schema.id not in self._prepared:
                self._prepare(connection, schema)

    def of_topic(self, connection: Connection, topic: str) -> Target | None:
        """The table with the rows of `topic`, None if there is none yet."""
        name = self._names.get(self._comment(topic))
        if name is None:
            return None
        if name not in self._targets:
            types = self._server.columns(connection, self._schema, name)
            clause = table(
                quoted_name(name, True), *(column(quoted_name(one, True)) for one in types), schema=self._schema
            )
            columns = {one: type_ for one, type_ in types.items() if one not in OWN_COLUMNS}
            self._targets[name] = Target(clause, columns, self._kept)
        return self._targets[name]

    def stored_names(self, schema: TableSchema, columns: Mapping[str, str]) -> dict[str, str]:
        """What each column of `schema` is called in a table that has `columns`."""
        return stored_names(schema.by_name, columns, OWN_COLUMNS, fold=self._server.fold, legal=self._server.legal)

    def _prepare(self, connection: Connection, schema: TableSchema) -> None:
        name = self._server.legal(self._template.format(schema=schema.schema, table=schema.table))
        current = self._names.get(self._comment(schema.topic))
        if current not in (None, name):
            raise PermanentError(
                f"{self._where}: the rows of {schema.topic} are in table {current}, and are to go to {name} now",
                hint=self._server.rename(
                    *(self._quoted(connection, one) for one in (self._schema, str(current), name))
                ),
            )
        target = self.of_topic(connection, schema.topic)
        if target is None:
            self._create(connection, name, schema)
        else:
            self._change(connection, name, target, schema)
        self._targets.pop(name, None)
        self._prepared.add(schema.id)

    def _create(self, connection: Connection, name: str, schema: TableSchema) -> None:
        for owned, comment in self._owners.items():
            if self._server.fold(owned) == self._server.fold(name):
                raise PermanentError(
                    f"{self._where}: table {owned} exists and is not for {schema.topic}: {comment or 'made by others'}",
                    hint="give each table of the source one of its own, for example table: '{schema}_{table}'",
                )
        names = self.stored_names(schema, {})
        columns: list[Column[Any]] = [
            Column(quoted_name(names[one.name], True), self._server.column_type(one.type)) for one in schema.columns
        ]
        columns += own_columns(self._kept)
        comment = self._comment(schema.topic)
        Table(
            quoted_name(name, True), MetaData(), *columns, schema=self._schema, comment=comment, **TABLE_OPTIONS
        ).create(connection)
        self._owners[name] = comment
        self._names[comment] = name

    def _change(self, connection: Connection, name: str, target: Target, schema: TableSchema) -> None:
        server, names = self._server, self.stored_names(schema, target.columns)
        added: list[Column[Any]] = []
        statements = []
        for one in schema.columns:
            type_ = server.column_type(one.type)
            stored, wanted = names[one.name], server.type_name(type_)
            held = target.columns.get(stored)
            if held is None:
                added.append(Column(quoted_name(stored, True), type_))
            elif not server.types.holds(held, wanted):
                statement = server.change_type(self._sql(connection, name), self._quoted(connection, stored), wanted)
                if not server.types.holds(wanted, held):
                    raise PermanentError(
                        f"{self._where}: column {stored} of table {name} is {held} and cannot take what is now "
                        f"{one.native} in the database ({wanted} here)",
                        hint=f"convert it, then start the sink again: {statement}",
                    )
                statements.append(statement)
        self._add(connection, name, added)
        for statement in statements:
            connection.exec_driver_sql(statement)

    def _add(self, connection: Connection, name: str, columns: Sequence[Column[Any]]) -> None:
        for new in columns:
            definition = CreateColumn(new).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {self._sql(connection, name)} ADD COLUMN {definition}")

    def _sql(self, connection: Connection, name: str) -> str:
        return f"{self._quoted(connection, self._schema)}.{self._quoted(connection, name)}"

    def _quoted(self, connection: Connection, name: str) -> str:
        return connection.dialect.identifier_preparer.quote_identifier(name)

    def _comment(self, topic: str) -> str:
        """Whose rows a table holds, in letters that every server keeps."""
        return self._kept.comment(topic.encode("ascii", "backslashreplace").decode())
