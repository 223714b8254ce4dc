"""Table maps: from the binlog's description of a table to its schema on the log and its generated functions."""

from __future__ import annotations

from typing import Any

from cdc.source.plan import gap
from cdc.source.tables import SourceTables
from connectors.mysql.catalogue import CatalogTable, schema_columns
from connectors.mysql.records import KnownTable
from connectors.mysql.rows import columns
from connectors.mysql.tablemap import TableMap
from schemas.table import Column, TableSchema


class Relations:
    """All captured tables that the stream has described."""

    def __init__(self, tables: SourceTables[CatalogTable]) -> None:
        self._tables = tables
        self._compiled: dict[tuple[Any, ...], KnownTable] = {}
        self._by_map: dict[int, tuple[TableMap, KnownTable | None]] = {}

    def known(self, map_: TableMap) -> KnownTable | None:
        """The table that `map_` describes; None when it is not captured.

        Raises GapError when its rows cannot be read, or have another key than those on the log.
        """
        found = self._by_map.get(id(map_))
        if found is None or found[0] is not map_:
            found = self._by_map[id(map_)] = (map_, self._known(map_))
        return found[1]

    def forget(self) -> None:
        """Which tables are captured, or what is known of them, may have changed."""
        self._by_map.clear()

    def _known(self, map_: TableMap) -> KnownTable | None:
        if len(self._by_map) > 4096:  # a server that opens its tables anew numbers them anew
            self._by_map.clear()
        table = self._tables.captured.get(f"{map_.schema}.{map_.table}")
        if table is None:
            return None
        if not map_.complete:
            raise gap(
                f"rows of {table.full_name} were written without binlog_row_metadata = FULL: their columns are unknown",
                "SET GLOBAL binlog_row_metadata = FULL; and the same in my.cnf; then ",
            )
        key = [map_.columns[number].name for number, length in map_.primary_key if not length]
        if key != list(table.key):
            raise gap(
                f"the key of {table.full_name} changed from ({', '.join(table.key)}) to ({', '.join(key) or 'none'})"
            )
        schema = self.schema(table, columns(map_, table.declared))
        same = (schema.id, map_.columns)
        if same not in self._compiled:
            self._compiled[same] = KnownTable.of(map_, schema, table.declared)
        return self._compiled[same]

    def schema(self, table: CatalogTable, described: tuple[Column, ...] | None = None) -> TableSchema:
        """The schema of rows with these columns; by default those that the catalogue has."""
        topic = self._tables.topic(table.schema, table.name)
        described = schema_columns(table) if described is None else described
        return TableSchema(topic, table.schema, table.name, described, table.key, self._tables.profile)
