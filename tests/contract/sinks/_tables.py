"""Tables, rows and batches for the suite, made as the log would hand them to a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import msgspec

from cdc.event import Value
from cdc.formats.json import decode, render
from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Row, Sink
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from tests.contract.sinks import PIPELINE

INT = LogicalType(Kind.INT64)
TEXT = LogicalType(Kind.STRING)
DECIMAL = LogicalType(Kind.DECIMAL, 12, 2)


@dataclass(frozen=True)
class Table:
    """A table of the source, and the rows that the log carries of it."""

    schema: TableSchema

    def key(self, **columns: Value) -> bytes:
        """The record key of a row."""
        types = self.schema.by_name
        members = (
            msgspec.json.encode(n) + b":" + render(types[n].type, "readable", columns[n]) for n in self.schema.key
        )
        return b"{" + b",".join(members) + b"}"

    def row(self, version: int, /, *, partial: bool = False, **columns: Value) -> Row:
        """A row; columns that are not named are null, or not sent when `partial`."""
        sent = [column for column in self.schema.columns if not partial or column.name in columns]
        members = (
            msgspec.json.encode(column.name) + b":" + render(column.type, self.schema.profile, columns.get(column.name))
            for column in sent
        )
        after = b"{" + b",".join(members) + b"}"
        return Row(self.key(**columns), version, after, self.schema, partial, version)

    def deleted(self, version: int, /, **columns: Value) -> Row:
        """A delete of the row with this key."""
        return Row(self.key(**columns), version, None, self.schema, False, version)

    def batch(
        self,
        *rows: Row,
        partition: int = 0,
        floor: int = 0,
        superseded: Sequence[bytes] = (),
        next_offset: int | None = None,
    ) -> Batch:
        """A batch of rows; reading goes on after the last of them unless told otherwise."""
        after = max((row.offset for row in rows), default=floor) + 1 if next_offset is None else next_offset
        return Batch(self.schema.topic, partition, floor, rows, superseded, after)

    def values(self, row: Row) -> dict[str, Value]:
        """What a store must hold after `row`: every column, None where the row has none."""
        assert row.after is not None
        return {**dict.fromkeys(self.schema.by_name), **decode(self.schema, row.after)}

    def with_columns(self, **types: LogicalType) -> Table:
        """The table as it is later, with further columns."""
        added = tuple(Column(name, type_, str(type_.kind)) for name, type_ in types.items())
        return Table(replace(self.schema, columns=self.schema.columns + added))

    def without_column(self, name: str) -> Table:
        """The table as it is later, with a column dropped."""
        kept = tuple(column for column in self.schema.columns if column.name != name)
        return Table(replace(self.schema, columns=kept))


def table(
    name: str = "items",
    types: dict[str, LogicalType] | None = None,
    *,
    key: Sequence[str] = ("id",),
    profile: str = "readable",
    schema: str = "public",
) -> Table:
    """A table; without `types` it has the columns ``id``, ``name``, ``price``, ``note``."""
    types = types or {"id": INT, "name": TEXT, "price": DECIMAL, "note": TEXT}
    columns = tuple(Column(column, type_, str(type_.kind)) for column, type_ in types.items())
    return Table(TableSchema(f"{PIPELINE}.{schema}.{name}", schema, name, columns, tuple(key), profile))


_claimed: WeakKeyDictionary[Sink, set[TopicPartition]] = WeakKeyDictionary()


def claim(sink: Sink, *batches: Batch) -> None:
    """Have `sink` claim the partitions of `batches`, as delivery does when the log assigns them."""
    partitions = {TopicPartition(batch.topic, batch.partition) for batch in batches}
    sink.claim(partitions)
    _claimed.setdefault(sink, set()).update(partitions)


def write(sink: Sink, *batches: Batch) -> list[Rejected]:
    """Hand `batches` to `sink` in one call; it claims the partitions that come to it for the first time."""
    places = {TopicPartition(batch.topic, batch.partition): batch for batch in batches}
    if new := [batch for place, batch in places.items() if place not in _claimed.get(sink, ())]:
        claim(sink, *new)
    return list(sink.write(batches, {batch.topic: f"id of {batch.topic}" for batch in batches}))
