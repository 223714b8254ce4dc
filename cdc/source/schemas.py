"""The schemas that a source's tables have had: which are on the log, and which one the rows of each table have now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cdc.compile import CompiledRead
from schemas.table import TableSchema


class Schemas:
    """See the module."""

    def __init__(
        self, on_log: Mapping[bytes, TableSchema], last: Mapping[str, str], compile_read: Callable[..., CompiledRead]
    ) -> None:
        """`on_log`: the schemas that the log has. `last`: the id (hex) of the one that each table's rows had last."""
        self._on_log = dict(on_log)
        self.last = dict(last)
        """The id (hex) of the schema that each table's rows had last, for the position. Replaced, never changed."""
        self._compile = compile_read
        self._reads: dict[bytes, CompiledRead] = {}

    def read(self, schema: TableSchema, *details: object) -> CompiledRead:
        """The function that renders a snapshot's lines; `details` are what else the connector makes it from."""
        if schema.id not in self._reads:
            self._reads[schema.id] = self._compile(schema, *details)
        return self._reads[schema.id]

    def first_use(self, schema: TableSchema) -> TableSchema | None:
        """The schema if its record must be appended now, before the first row that refers to it."""
        if schema.id in self._on_log:
            return None
        self._on_log[schema.id] = schema
        return schema

    def seen(self, table: str, schema: TableSchema, with_values: Callable[[Sequence[str]], bool]) -> str:
        """The rows of `table` are of this schema from now on. Says why those on the log must be read again.

        DDL may have changed them, and rows events tell nothing of that; empty when they need not be. A column dropped
        leaves the rows as they were, one added without a value for them too, which `with_values` tells. A column that
        went while another came may be a rename.
        """
        before = self.last.get(table)
        self.last = {**self.last, table: schema.id.hex()}
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
        if added and with_values(added):
            return f"column {added[0]} was added with a value for the rows that existed"
        return ""
