"""The schemas that a source's tables have had: which are on the log, and which one the rows of each table have now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cdc.compile import CompiledRead
from schemas.table import TableSchema

MISSED: Final = ""
"""In the place of a schema's id."""


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
        self._reads: dict[bytes, tuple[tuple[object, ...], CompiledRead]] = {}

    def read(self, schema: TableSchema, *details: object) -> CompiledRead:
        """The function that renders a snapshot's lines; `details` are what else the connector makes it from."""
        made_from, read = self._reads.get(schema.id, (None, None))
        if read is None or made_from != details:  # a column may be nullable by now: the schema does not have that
            read = self._compile(schema, *details)
            self._reads[schema.id] = (details, read)
        return read

    def first_use(self, schema: TableSchema) -> TableSchema | None:
        """The schema if its record must be appended now, before the first row that refers to it."""
        if schema.id in self._on_log:
            return None
        self._on_log[schema.id] = schema
        return schema

    def changed(self, table: str, schema: TableSchema) -> bool:
        """Whether the rows of `table` were of another schema up to now."""
        return self.last.get(table, schema.id.hex()) != schema.id.hex()

    def missed(self, table: str) -> None:
        """Rows of `table` were passed over: those on the log must be read again."""
        self.last = {**self.last, table: MISSED}

    def take_missed(self) -> list[str]:
        """The tables of which this was said, which from now on is forgotten."""
        missed = [table for table, last in self.last.items() if last == MISSED]
        self.last = {table: last for table, last in self.last.items() if last != MISSED}
        return missed

    def comes_back(self, table: str, schema: TableSchema) -> str:
        """Says that rows must be read again since they may still have values, on the log, in a column that was dropped
        and made anew; empty when there is none."""
        old = self._old(table)
        if old is None:
            return ""
        earlier = [one for one in self._on_log.values() if one.topic == schema.topic]
        for column in schema.columns:
            if column.name not in old.by_name and any(column.name in one.by_name for one in earlier):
                return f"column {column.name} was dropped and comes back without its values"
        return ""

    def seen(self, table: str, schema: TableSchema, with_values: Callable[[Sequence[str]], bool]) -> str:
        """The rows of `table` are of this schema from now on. Says why those on the log must be read again.

        DDL may have changed them, and rows events tell nothing of that; empty when they need not be. A column dropped
        leaves the rows as they were, one added without a value for them too, which `with_values` tells. A column that
        went while another came may be a rename.
        """
        old = self._old(table)
        back = self.comes_back(table, schema)
        missed = self.last.get(table) == MISSED
        self.last = {**self.last, table: schema.id.hex()}
        if missed:
            return "rows changed while it had another name"
        if old is None or old.id == schema.id:
            return ""
        added = [column.name for column in schema.columns if column.name not in old.by_name]
        dropped = [column.name for column in old.columns if column.name not in schema.by_name]
        if back:
            return back
        if added and dropped:
            return f"column {dropped[0]} became {added[0]}"
        for column in schema.columns:
            if column.name in old.by_name and old.by_name[column.name].type != column.type:
                return f"column {column.name} is {column.native} now"
        if added and with_values(added):
            return f"column {added[0]} was added with a value for the rows that existed"
        return ""

    def _old(self, table: str) -> TableSchema | None:
        before = self.last.get(table)
        return self._on_log.get(bytes.fromhex(before)) if before is not None else None
