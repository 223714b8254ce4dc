"""Rows and deletes of a write, gathered over all its partitions into what one statement each can bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Row
from schemas.table import TableSchema
from sinks._rows import columns_of
from sinks._sql_staging import MOST_KEY_BYTES, Changes
from sinks._warehouse import Kept, Succession

TOO_LONG = f"its key is longer than the {MOST_KEY_BYTES} bytes that an index takes"


class Gathered:
    """What one step of a write brings, of each partition one batch. `floors`: nothing below them is brought; rows that
    are not newer than the `newest_deletes` may be late.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        floors: Mapping[TopicPartition, int],
        newest_deletes: Mapping[TopicPartition, int],
        kept: Kept,
    ) -> None:
        self.rejected: list[Rejected] = []
        self._succession = Succession() if kept is Kept.SCD2 else None
        self._deletes: dict[str, Changes] = {}
        self._upserts: dict[tuple[bytes, frozenset[str] | None], Changes] = {}
        for batch in batches:
            place = TopicPartition(batch.topic, batch.partition)
            self._gather(batch, floors.get(place, 0), newest_deletes.get(place, 0))

    @property
    def deletes(self) -> list[Changes]:
        """By topic. For ``scd2`` these are the first changes of each key: they end what is held."""
        return list(self._deletes.values())

    @property
    def upserts(self) -> list[Changes]:
        """By schema, and partial rows by the columns that they bring."""
        return list(self._upserts.values())

    def _gather(self, batch: Batch, floor: int, newest_delete: int) -> None:
        schema: TableSchema | None = None
        for row in batch.rows:
            if row.version < floor:
                continue
            if len(row.key) > MOST_KEY_BYTES:
                if row.after is not None:  # a delete finds nothing
                    self._reject(batch, row, TOO_LONG)
                continue
            until: dict[int, int] = {}
            number = 0
            if row.after is not None:
                if row.partial or row.schema is not schema:
                    try:
                        changes = self._changes_of(batch.topic, row)
                    except msgspec.DecodeError:
                        self._reject(batch, row, "it is no row of its table")
                        continue
                    schema = None if row.partial else row.schema
                until, number = changes.until, changes.add(row, batch.partition)
                changes.late = changes.late or row.version <= newest_delete
            if row.after is None if self._succession is None else self._succession.add(batch.topic, row, until, number):
                deletes = self._deletes.get(batch.topic)
                if deletes is None:
                    deletes = self._deletes[batch.topic] = Changes(batch.topic)
                deletes.add(row._replace(after=None), batch.partition)

    def _changes_of(self, topic: str, row: Row) -> Changes:
        """Those that a row goes with. Raises msgspec.DecodeError."""
        assert row.schema is not None, "a row that is no delete has a schema"
        assert row.after is not None
        sent = frozenset(columns_of(row.after)) if row.partial else None
        changes = self._upserts.get((row.schema.id, sent))
        if changes is None:
            changes = self._upserts[row.schema.id, sent] = Changes(topic, row.schema, sent)
        return changes

    def _reject(self, batch: Batch, row: Row, reason: str) -> None:
        self.rejected.append(Rejected(batch.topic, batch.partition, row.offset, row.key, reason))
