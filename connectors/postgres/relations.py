"""Relation messages: from the server's description of a table to its schema on the log and its generated functions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from cdc.compile import Append, CompiledTable, RowFunction
from cdc.errors import PermanentError
from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.source.plan import gap
from cdc.source.schemas import Schemas
from connectors.postgres import wire
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.pgoutput import Relation
from connectors.postgres.tables import CapturedTables
from connectors.postgres.values import logical_type
from schemas.table import Column, TableSchema

log = structlog.get_logger()

_ADDED_WITH_VALUES = """
SELECT a.attname FROM pg_attribute a
 WHERE a.attrelid = %s AND NOT a.attisdropped AND a.attname = ANY (%s) AND (a.atthasdef OR a.atthasmissing)
"""


Touched = Callable[[str, Collection[bytes]], None]


@dataclass(frozen=True, slots=True)
class Known:
    """A captured table as the stream describes it now."""

    relation: Relation
    table: CatalogTable
    schema: TableSchema
    compiled: CompiledTable


class News(NamedTuple):
    """What a relation message brought: a schema that is not on the log yet; rows that DDL changed without events."""

    name: str
    schema: TableSchema | None
    changed: bool
    resync: str


def _watching(function: RowFunction, table: str, touched: Touched) -> RowFunction:
    """The same function, but `touched` hears of the keys."""

    def watched(append: Append, m: bytes, i: int, transaction: TransactionParts, version: int, ordinal: int) -> int:
        records: list[Produced] = []
        used = function(records.append, m, i, transaction, version, ordinal)
        touched(table, [record.key for record in records])
        for record in records:
            append(record)
        return used

    return watched


class Relations:
    """All relations that the stream has described, by oid."""

    def __init__(self, tables: CapturedTables, schemas: Schemas) -> None:
        self._tables = tables
        self._schemas = schemas
        self.known: dict[int, Known] = {}
        self._names = {table.oid: name for name, table in tables.captured.items()}
        """What each was called last."""
        self.compiled: dict[bytes, CompiledTable] = {}
        """What the hot loop looks up: by the oid's four bytes. Tables that are not captured are missing."""
        self.watched: Collection[str] = ()
        """The tables whose keys are being watched."""
        self._touched: Touched

    def update(self, relation: Relation, *, skipped: bool, logged: bool) -> News | None:
        """A table is described (again); None when it is not captured, or nothing is new about it.

        `skipped`: the rows that follow are passed over, `logged`: because they are on the log already, and so is what
        the description brought. Raises PermanentError when the table's key is gone, GapError when it is another one.
        """
        name = f"{relation.namespace}.{relation.name}"
        table = self._tables.captured.get(name)
        before = self._names.get(relation.oid, name)
        self._names[relation.oid] = name
        if before != name:
            self._renamed(before, name)
        if table is None:
            self.compiled.pop(relation.oid.to_bytes(4, "big"), None)
            return None
        sent = {column.name for column in relation.columns if column.in_identity}
        if skipped and not set(table.key) <= sent:
            self.compiled.pop(relation.oid.to_bytes(4, "big"), None)
            self.known.pop(relation.oid, None)
            return None
        if not set(table.key) <= sent:
            raise PermanentError(
                f"the replica identity of {name} no longer has its key ({', '.join(table.key)})",
                hint=f"ALTER TABLE {table.quoted} REPLICA IDENTITY DEFAULT; with its primary key; then `cdc snapshot`",
            )
        if not skipped and relation.replica_identity != "f" and set(table.key) != sent:
            raise gap(f"the key of {name} changed from ({', '.join(table.key)}) to ({', '.join(sorted(sent))})")
        schema = self.schema(table, [(c.name, c.type_oid, c.type_modifier) for c in relation.columns])
        compiled = wire.compile_relation(relation, schema, table.not_null)
        self.known[relation.oid] = Known(relation, table, schema, compiled)
        self._install(relation.oid)
        if logged:
            return None
        changed = self._schemas.changed(name, schema)
        resync = self.changed(table, schema)
        return News(name, self._schemas.first_use(schema), changed, resync)

    def _renamed(self, before: str, name: str) -> None:
        """Rows follow under another name: under either, what is on the log is no longer what the table has."""
        for one in {before, name} & self._tables.captured.keys():
            log.warning("table was renamed: it is read again when rows of it change", table=one, renamed=(before, name))
            self._schemas.missed(one)

    def watch(self, names: Collection[str], touched: Touched) -> None:
        """Tell `touched` the keys of all records of the tables `names` from now on, and no others any more."""
        self.watched, self._touched = names, touched
        for oid in self.known:
            self._install(oid)

    def _install(self, oid: int) -> None:
        known = self.known[oid]
        compiled = known.compiled
        name = known.table.full_name
        if name in self.watched:
            compiled = CompiledTable(
                _watching(compiled.insert, name, self._touched),
                _watching(compiled.update, name, self._touched),
                _watching(compiled.delete, name, self._touched),
                compiled.source,
            )
        self.compiled[oid.to_bytes(4, "big")] = compiled

    def schema(self, table: CatalogTable, columns: list[tuple[str, int, int]]) -> TableSchema:
        """The schema of rows with these columns (name, type oid, type modifier)."""
        described = []
        for name, type_oid, type_modifier in columns:
            type_, native = logical_type(type_oid, type_modifier, self._tables.lookup)
            described.append(Column(name, type_, native))
        topic = self._tables.topic(table.schema, table.name)
        return TableSchema(topic, table.schema, table.name, tuple(described), table.key, self._tables.profile)

    def changed(self, table: CatalogTable, schema: TableSchema) -> str:
        """The rows of `table` are of this schema from now on: see :meth:`cdc.source.schemas.Schemas.seen`."""
        return self._schemas.seen(
            table.full_name,
            schema,
            lambda added: bool(self._tables.rows(_ADDED_WITH_VALUES, [table.oid, list(added)])),
        )
