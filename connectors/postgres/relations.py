"""Relation messages: from the server's description of a table to its schema on the log and its generated functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cdc.compile import Append, CompiledRead, CompiledTable, RowFunction
from cdc.errors import PermanentError
from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.source.plan import gap
from connectors.postgres import wire
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.pgoutput import Relation
from connectors.postgres.tables import CapturedTables
from connectors.postgres.values import logical_type
from schemas.table import Column, TableSchema

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

    def __init__(self, tables: CapturedTables, on_log: Mapping[bytes, TableSchema], last: dict[str, str]) -> None:
        """`on_log`: the schemas that the log has. `last`: the id (hex) of the one that each table's rows had last."""
        self._tables = tables
        self._on_log = dict(on_log)
        self.last = last
        """The id (hex) of the schema that each table's rows had last, for the position. Replaced, never changed."""
        self._reads: dict[bytes, CompiledRead] = {}
        self.known: dict[int, Known] = {}
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
        changed = self.last.get(name, schema.id.hex()) != schema.id.hex()
        resync = self.seen(table, schema)
        return News(name, self.first_use(schema), changed, resync)

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

    def read(self, schema: TableSchema) -> CompiledRead:
        """The function that renders a snapshot's lines."""
        if schema.id not in self._reads:
            self._reads[schema.id] = wire.compile_copy(schema)
        return self._reads[schema.id]

    def first_use(self, schema: TableSchema) -> TableSchema | None:
        """The schema if its record must be appended now, before the first row that refers to it."""
        if schema.id in self._on_log:
            return None
        self._on_log[schema.id] = schema
        return schema

    def seen(self, table: CatalogTable, schema: TableSchema) -> str:
        """The rows of `table` are of this schema from now on. Says why those on the log must be read again.

        DDL may have changed them, and the stream has no events for that; empty when they need not be. A column dropped
        leaves the rows as they were, one added without a default too. A column that went while another came may be a
        rename.
        """
        before = self.last.get(table.full_name)
        self.last = {**self.last, table.full_name: schema.id.hex()}
        old = self._on_log.get(bytes.fromhex(before)) if before is not None else None
        if old is None or old.id == schema.id:
            return ""
        added = [column.name for column in schema.columns if column.name not in old.by_name]
        dropped = [column.name for column in old.columns if column.name not in schema.by_name]
        if added and dropped:
            return f"column {dropped[0]} became {added[0]}"
        for column in schema.columns:
            if column.name in old.by_name and old.by_name[column.name].type != column.type:
                return f"column {column.name} is {column.native} now"
        if added and self._tables.rows(_ADDED_WITH_VALUES, [table.oid, added]):
            return f"column {added[0]} was added with a value for the rows that existed"
        return ""
