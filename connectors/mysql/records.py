"""From a rows event to records on the log: the generated way as far as it goes, the plain way for what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdc.compile import Append, CompiledRows, RowsFunction
from cdc.event import UNCHANGED, Operation
from cdc.formats.envelope import TransactionParts
from cdc.log import Produced
from cdc.source.incomplete import Incomplete
from connectors.mysql.cursor import Cursor
from connectors.mysql.envelope import BLOCK
from connectors.mysql.events import Rows
from connectors.mysql.nodup import completed, sizes
from connectors.mysql.rows import decode_row
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
    sizes: Sequence[tuple[int, int]]
    """See :func:`connectors.mysql.nodup.sizes`."""

    @property
    def not_null(self) -> list[str]:
        """Names of the NOT NULL columns."""
        return [column.name for column in self.map.columns if not column.nullable]

    @property
    def name(self) -> str:
        """``schema.table``."""
        return f"{self.map.schema}.{self.map.table}"

    @classmethod
    def of(cls, table: TableMap, schema: TableSchema, declared: Mapping[str, str]) -> KnownTable:
        """The table with its generated functions; the columns of `schema` are those of `table`, in order."""
        return cls(table, schema, declared, compile_table_map(table, schema, declared), sizes(table.columns))

    def produce(
        self,
        append: Append,
        rows: Rows,
        transaction: TransactionParts,
        place: bytes,
        version: int,
        ordinal: int,
        records: Callable[[Incomplete], Iterable[Produced]] = Incomplete.records,
    ) -> tuple[int, int]:
        """Append the records of an event; the version and the ordinal of the next row.

        `place` is the event's (:func:`connectors.mysql.envelope.event_place`), `records` makes what is appended of rows
        that the generated functions do not take, those without all values among them. Raises DecodeError when the
        bytes are no rows of this table, or a row has no key; records of the rows before it have been appended.
        """
        everything = (1 << len(self.map.columns)) - 1
        if rows.before == everything and rows.after not in (None, everything) and not rows.partial:
            rows = completed(rows, self.sizes)
        function = self._function(rows)
        first, start, body = ordinal, 0, rows.body
        if function is not None:
            start, version, ordinal = function(append, body, 0, transaction, place, version, ordinal, first)
        while start < len(body):
            cursor = Cursor(body, f"rows of {self.name}", start)
            row = self._row(cursor, rows, transaction, place + b"%d" % (ordinal - first), version, ordinal)
            for record in records(row):
                append(record)
            start, ordinal, version = cursor.place, ordinal + 1, version + len(row.keys())
            if function is not None:
                start, version, ordinal = function(append, body, start, transaction, place, version, ordinal, first)
        return version, ordinal

    def unsent_key(self, rows: Rows) -> list[str]:
        """Columns of the key that rows of an event come without: an INSERT that leaves them to their default, under
        ``binlog_row_image`` MINIMAL."""
        sent = rows.after if rows.operation is Operation.CREATE else rows.before
        numbers = [number for number, _ in self.map.primary_key]
        return [self.map.columns[number].name for number in numbers if not (sent or 0) >> number & 1]

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

    def _row(
        self, cursor: Cursor, rows: Rows, transaction: TransactionParts, place: bytes, version: int, ordinal: int
    ) -> Incomplete:
        operation, before, after = decode_row(self.map, rows, self.declared, cursor)
        sent = rows.after or 0
        if before is not None and after is not None:
            # What a new image lacks is what it was: the old image may have it (under MINIMAL the key).
            images = enumerate(zip(before, after, strict=True))
            after = [new if sent >> i & 1 else old for i, (old, new) in images]
        # An insert lacks what is the column's default; and what was sent is lost where it was differences from a
        # document that was not.
        unknown = [
            i
            for i, value in enumerate(after or ())
            if value is UNCHANGED and (operation is Operation.CREATE or sent >> i & 1)
        ]
        return Incomplete(
            self.schema,
            operation,
            before,
            after,
            transaction,
            place,
            version,
            ordinal,
            self.not_null,
            BLOCK,
            unknown=unknown,
        )
