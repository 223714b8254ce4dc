"""What the server's catalogue says about the tables to capture: which there are, what identifies their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from cdc.config.patterns import selects
from cdc.formats.json import key_supported
from cdc.source.tables import capturable
from connectors.postgres.config import PostgresConfig
from connectors.postgres.values import CatalogType, logical_type


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """One column as ``pg_attribute`` has it."""

    name: str
    type_oid: int
    type_modifier: int
    nondeterministic: bool
    """True under a collation in which different bytes can be equal."""
    not_null: bool


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """One table of the server.

    `identity` is ``relreplident``: ``d`` default, ``f`` full, ``i`` index, ``n`` nothing. `key` names the columns of a
    non-deferrable unique index that the replica identity contains; empty when there is none, and `problem` and `fix`
    then say why and which SQL mends it.
    """

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[CatalogColumn, ...]
    key: tuple[str, ...]
    problem: str = ""
    fix: str = ""

    @property
    def full_name(self) -> str:
        """``schema.table``, unquoted: as in the configuration."""
        return f"{self.schema}.{self.name}"

    @property
    def not_null(self) -> frozenset[str]:
        """Names of the NOT NULL columns."""
        return frozenset(column.name for column in self.columns if column.not_null)

    @property
    def quoted(self) -> str:
        """``"schema"."table"`` for SQL."""
        return sql.Identifier(self.schema, self.name).as_string()


_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relreplident::text, c.relkind::text, c.relpersistence::text, c.relispartition,
       (SELECT json_agg(json_build_array(a.attname, a.atttypid::bigint, a.atttypmod,
                        coalesce(NOT co.collisdeterministic, false), a.attnotnull) ORDER BY a.attnum)
          FROM pg_attribute a LEFT JOIN pg_collation co ON co.oid = a.attcollation
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
       (SELECT json_agg(json_build_object('name', i.relname, 'primary', x.indisprimary, 'identity', x.indisreplident,
                        'immediate', x.indimmediate, 'usable', x.indisvalid AND x.indpred IS NULL
                                     AND x.indexprs IS NULL AND k.all_not_null,
                        'columns', k.names) ORDER BY x.indisprimary DESC, i.relname)
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
          CROSS JOIN LATERAL (
              SELECT json_agg(a.attname ORDER BY k.place) AS names, bool_and(a.attnotnull) AS all_not_null
                FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
               WHERE k.place <= x.indnkeyatts) k
         WHERE x.indrelid = c.oid AND x.indisunique),
       (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''),
       current_setting('server_version_num')::int
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


_TYPE = """
SELECT t.typtype::text, format_type(t.oid, NULL), t.typbasetype::bigint, t.typtypmod, t.typelem::bigint,
       t.typcategory = 'A' AND t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
  FROM pg_type t WHERE t.oid = %s
"""


def captured_tables(
    connection: psycopg.Connection[Any], config: PostgresConfig, warn: Callable[[str, str], None]
) -> list[CatalogTable]:
    """The tables that the configuration names, each with its key: see :func:`cdc.source.tables.capturable`."""
    patterns = list(config.tables)
    selected = selected_tables(connection, patterns)
    return capturable(
        selected,
        patterns,
        warn,
        holder="database",
        unseen="in this database, or the role may not see it",
        hint="check the spelling of `tables`; names are case-sensitive, as in pg_class",
    )


def selected_tables(
    connection: psycopg.Connection[Any], patterns: Sequence[str]
) -> Iterator[tuple[CatalogTable, bool]]:
    """What `patterns` select, by name, with what is wrong with each; and whether it is a table, not a view or so."""
    for row in connection.execute(_TABLES + " ORDER BY n.nspname, c.relname").fetchall():
        table = _table(row)
        if selects(patterns, table.full_name):
            yield _with_key_types_checked(connection, table), row[4] in ("r", "p")


def describe(connection: psycopg.Connection[Any], oid: int) -> CatalogTable | None:
    """The table as the current snapshot has it; None when it is gone."""
    row = connection.execute(_TABLES + " AND c.oid = %s", [oid]).fetchone()
    return _table(row) if row is not None else None


def look_up_type(connection: psycopg.Connection[Any], oid: int) -> CatalogType | None:
    """What the catalogue says about a type; None when it is gone."""
    row = connection.execute(_TYPE, [oid]).fetchone()
    if row is None:
        return None
    kind, name, base, modifier, element, is_array = row
    if kind == "e":
        return CatalogType("enum", name)
    if kind == "d":
        return CatalogType("domain", name, base, modifier)
    if is_array:
        return CatalogType("array", name, element)
    return CatalogType("base", name)


def _with_key_types_checked(connection: psycopg.Connection[Any], table: CatalogTable) -> CatalogTable:
    """The table, with a problem when equal values of a key column may be printed differently."""
    for column in table.columns:
        if column.name in table.key:
            lookup = partial(look_up_type, connection)
            reason = key_supported(*logical_type(column.type_oid, column.type_modifier, lookup))
            if reason is not None:
                problem = f"key column {column.name} can't identify rows on the log: {reason}"
                fix = f"give {table.quoted} a key of another type, and let its REPLICA IDENTITY be that key"
                return replace(table, key=(), problem=problem, fix=fix)
    return table


def _table(row: tuple[Any, ...]) -> CatalogTable:
    oid, schema, name, identity, kind, persistence, is_partition, columns, indexes, generated, version = row
    quoted = sql.Identifier(schema, name).as_string()
    key, problem, fix = _key(quoted, identity, indexes or [], generated or [])
    if kind == "p" or is_partition:
        problem, fix = "partitioned tables are not captured by this release", "capture an unpartitioned table"
    elif kind != "r":
        problem, fix = "it is not an ordinary table", "capture the tables beneath it"
    elif persistence != "p":
        problem, fix = "it is unlogged: its changes are not in the WAL", f"ALTER TABLE {quoted} SET LOGGED;"
    elif identity == "f" and generated and version >= 180000 and not problem:
        problem = f"with {generated[0]} generated and REPLICA IDENTITY FULL, its UPDATE and DELETE fail once published"
        fix = f"ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT; with its primary key"
    described = tuple(CatalogColumn(*column) for column in columns or [])
    loose = {column.name for column in described if column.nondeterministic}
    if not problem and loose & set(key):
        problem = f"key column {min(loose & set(key))} has a nondeterministic collation: equal keys can differ in bytes"
        fix = f"give {quoted} a unique key with a deterministic collation"
    return CatalogTable(oid, schema, name, identity, described, () if problem else key, problem, fix)


def _key(
    quoted: str, identity: str, indexes: list[dict[str, Any]], generated: list[str]
) -> tuple[tuple[str, ...], str, str]:
    """The key columns under a replica identity, or what is wrong and the SQL that mends it.

    The stream has no `generated` columns.
    """
    computed = [index for index in indexes if set(generated) & set(index["columns"])]
    usable = [index for index in indexes if index["usable"] and index["immediate"] and index not in computed]
    if identity == "i":
        chosen = [index for index in usable if index["identity"]]
    elif identity == "d":
        chosen = [index for index in usable if index["primary"]]
    elif identity == "f":
        chosen = usable
    else:
        chosen = []
    if chosen:
        return tuple(chosen[0]["columns"]), "", ""
    if usable:
        name = sql.Identifier(usable[0]["name"]).as_string()
        use = "DEFAULT" if usable[0]["primary"] else f"USING INDEX {name}"
        return (), "its replica identity contains no unique key", f"ALTER TABLE {quoted} REPLICA IDENTITY {use};"
    deferrable = next((index for index in indexes if not index["immediate"]), None)
    if deferrable is not None:
        name = sql.Identifier(deferrable["name"]).as_string()
        columns = ", ".join(sql.Identifier(column).as_string() for column in deferrable["columns"])
        kind = "PRIMARY KEY" if deferrable["primary"] else "UNIQUE"
        return (
            (),
            f"its only key, {deferrable['name']}, is deferrable: the server sends no key for its rows",
            f"ALTER TABLE {quoted} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} ({columns});",
        )
    if computed:
        return (
            (),
            f"its only key, {computed[0]['name']}, has a generated column, which the server does not send",
            f"ALTER TABLE {quoted} REPLICA IDENTITY USING INDEX …; with a unique index on other columns, NOT NULL",
        )
    return (
        (),
        "it has no primary key, so nothing identifies its rows",
        f"ALTER TABLE {quoted} ADD PRIMARY KEY (…); or, with a unique index on columns that are NOT NULL: "
        f"ALTER TABLE {quoted} REPLICA IDENTITY USING INDEX …;",
    )
