"""From a rows event to records on the log: the generated way as far as it goes, the plain way for what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdc.compile import Append, CompiledRows, RowsFunction
from cdc.event import UNCHANGED, Operation, Value
from cdc.formats.envelope import TransactionParts, plain_records
from cdc.log import Produced
from cdc.record import unpack_header
from connectors.mysql.cursor import Cursor
from connectors.mysql.envelope import BLOCK
from connectors.mysql.events import Rows
from connectors.mysql.rows import Row, decode_row
from connectors.mysql.tablemap import TableMap
from connectors.mysql.wire import compile_table_map
from schemas.table import TableSchema


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A captured table as the stream describes it now."""

    map: TableMap
    schema: TableSchema
    declared: Mapping[str, str]
    """See :func:`connectors.mysql.rows.columns`."""
    compiled: CompiledRows

    @property
    def name(self) -> str:
        """``schema.table``."""
        return f"{self.map.schema}.{self.map.table}"

    @classmethod
    def of(cls, table: TableMap, schema: TableSchema, declared: Mapping[str, str]) -> KnownTable:
        """The table with its generated functions; the columns of `schema` are those of `table`, in order."""
        return cls(table, schema, declared, compile_table_map(table, schema, declared))

    def produce(
        self, append: Append, rows: Rows, transaction: TransactionParts, place: bytes, version: int, ordinal: int
    ) -> tuple[int, int]:
        """Append the records of an event; the version and the ordinal of the next row.

        `place` is the event's (:func:`connectors.mysql.envelope.event_place`). Raises DecodeError when the bytes are
        no rows of this table, or a row has no key; records of the rows before it have been appended.
        """
        function = self._function(rows)
        first, start, body = ordinal, 0, rows.body
        if function is not None:
            start, version, ordinal = function(append, body, 0, transaction, place, version, ordinal, first)
        while start < len(body):
            cursor = Cursor(body, f"rows of {self.map.schema}.{self.map.table}", start)
            records = self._plain(cursor, rows, transaction, place + b"%d" % (ordinal - first), version, ordinal)
            for record in records:
                append(record)
            start, ordinal = cursor.place, ordinal + 1
            version = unpack_header(records[-1].header).version + 1
            if function is not None:
                start, version, ordinal = function(append, body, start, transaction, place, version, ordinal, first)
        return version, ordinal

    def _function(self, rows: Rows) -> RowsFunction | None:
        """The generated one, if the event has all columns."""
        count = len(self.map.columns)
        everything = (1 << count) - 1
        if rows.partial or rows.columns != count or not {rows.before, rows.after} <= {None, everything}:
            return None
        match rows.operation:
            case Operation.CREATE:
                return self.compiled.insert
            case Operation.UPDATE:
                return self.compiled.update
        return self.compiled.delete

    def _plain(
        self, cursor: Cursor, rows: Rows, transaction: TransactionParts, place: bytes, version: int, ordinal: int
    ) -> list[Produced]:
        operation, before, after = _filled(decode_row(self.map, rows, self.declared, cursor))
        not_null = [column.name for column in self.map.columns if not column.nullable]
        return plain_records(
            self.schema, operation, before, after, transaction, place, version, ordinal, not_null, BLOCK
        )


def _filled(row: Row) -> Row:
    """What a new image lacks is what it was: the old image may have it (under MINIMAL the key)."""
    operation, before, after = row
    if before is None or after is None:
        return row
    filled: list[Value] = [old if new is UNCHANGED else new for old, new in zip(before, after, strict=True)]
    return operation, before, filled
