"""Rows and deletes of a write, gathered over all its partitions into what one statement each can bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Row
from sinks._rows import columns_of
from sinks._sql_staging import MOST_KEY_BYTES, Changes
from sinks._warehouse import Kept, Succession

TOO_LONG = f"its key is longer than the {MOST_KEY_BYTES} bytes that an index takes"


class Gathered:
    """What one step of a write brings, of each partition one batch. `floors`: nothing below them is brought."""

    def __init__(self, batches: Sequence[Batch], floors: Mapping[TopicPartition, int], kept: Kept) -> None:
        self.rejected: list[Rejected] = []
        self._succession = Succession() if kept is Kept.SCD2 else None
        self._deletes: dict[str, Changes] = {}
        self._upserts: dict[tuple[bytes, frozenset[str] | None], Changes] = {}
        for batch in batches:
            floor = floors.get(TopicPartition(batch.topic, batch.partition), 0)
            for row in batch.rows:
                if row.version >= floor:
                    self._add(batch, row)

    @property
    def deletes(self) -> list[Changes]:
        """By topic. For ``scd2`` these are the first changes of each key: they end what is held."""
        return list(self._deletes.values())

    @property
    def upserts(self) -> list[Changes]:
        """By schema, and partial rows by the columns that they bring."""
        return list(self._upserts.values())

    def _add(self, batch: Batch, row: Row) -> None:
        if len(row.key) > MOST_KEY_BYTES:
            if row.after is not None:  # a delete finds nothing
                self._reject(batch, row, TOO_LONG)
            return
        until: dict[int, int] = {}
        number = 0
        if row.after is not None:
            assert row.schema is not None, "a row that is no delete has a schema"
            try:
                sent = frozenset(columns_of(row.after)) if row.partial else None
            except msgspec.DecodeError:
                self._reject(batch, row, "it is no row of its table")
                return
            changes = self._upserts.get((row.schema.id, sent))
            if changes is None:
                changes = self._upserts[row.schema.id, sent] = Changes(batch.topic, row.schema, sent)
            until, number = changes.until, changes.add(row, batch.partition)
        if row.after is None if self._succession is None else self._succession.add(batch.topic, row, until, number):
            deletes = self._deletes.get(batch.topic)
            if deletes is None:
                deletes = self._deletes[batch.topic] = Changes(batch.topic)
            deletes.add(row._replace(after=None), batch.partition)

    def _reject(self, batch: Batch, row: Row, reason: str) -> None:
        self.rejected.append(Rejected(batch.topic, batch.partition, row.offset, row.key, reason))
