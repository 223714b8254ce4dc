"""Rows of which the source did not send all columns, and filling them (design, "What compaction may take").

What is missing is filled before the append, or a compacted topic would lose the value for ever: first from earlier
rows of the same key in the batch, then by reading the row by its key, or by the one that the batch moves it to. What
is read counts only when the transaction that wrote the row, or moved it, is visible to the statement that reads: a row
that is streamed may not be visible yet, and would return an older value. A row that is gone by then stays incomplete: a
later event of its key mends it. One that was moved by a later batch is gone too, and what mends it is its old key's
delete: only that record lacks the value, the one under the new key has it.

Of what a batch lacks, which may be any number of times its size, a portion is held at once where capture can stop
after a row: that is appended before the next is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

from cdc.capture import Item
from cdc.event import UNCHANGED, Operation, Value
from cdc.formats.envelope import POSTGRESQL, SourceBlock, TransactionParts, plain_records, row_keys
from cdc.formats.json import decode
from cdc.log import Produced
from cdc.record import unpack_header
from schemas.table import TableSchema

KEYS_PER_QUERY: Final = 500
PORTION_BYTES: Final = 4 << 20
"""What is read and rendered at once; a row more than that."""


@dataclass(slots=True)
class Incomplete:
    """A row whose `after` has UNCHANGED columns, standing in the batch in place of its records.

    The fields are those of :func:`cdc.formats.envelope.plain_records`.
    """

    schema: TableSchema
    operation: Operation
    before: list[Value] | None
    after: list[Value] | None
    transaction: TransactionParts
    place: int | bytes
    version: int
    ordinal: int
    not_null: Collection[str]
    block: SourceBlock = POSTGRESQL
    writer: int = 0
    """The transaction that wrote it, where the connector reads each row against that."""
    unknown: Collection[int] = ()
    """Places of columns that may not be what they were: earlier rows do not tell their values."""
    settled: bool = False
    """Nothing more can be learnt by reading it."""
    moved: Incomplete | None = None
    """The later event of the batch under whose key the row can be read, where it is another than its own."""
    position: Any = None
    """The connector's position after this row, if capture can stop there."""

    @property
    def table(self) -> str:
        """``schema.table``."""
        return f"{self.schema.schema}.{self.schema.table}"

    @property
    def unread(self) -> bool:
        """It must be read yet."""
        return not self.settled and bool(self.missing())

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return sum(map(_size, self.after or ()))

    def missing(self) -> list[int]:
        """Places of the columns that are still UNCHANGED."""
        return [place for place, value in enumerate(self.after or ()) if value is UNCHANGED]

    def records(self) -> list[Produced]:
        """The finished records; what is still UNCHANGED is listed in them."""
        return plain_records(
            self.schema,
            self.operation,
            self.before,
            self.after,
            self.transaction,
            self.place,
            self.version,
            self.ordinal,
            self.not_null,
            self.block,
        )

    def keys(self) -> list[bytes]:
        """See :func:`cdc.formats.envelope.row_keys`. Raises DecodeError."""
        return row_keys(self.schema, self.operation, self.before, self.after)

    @property
    def readable(self) -> Incomplete:
        """The event under whose key the row can be read, once what wrote that event is visible."""
        return self.moved or self

    def key(self) -> tuple[Value, ...]:
        """The canonical values of the key by which it is read."""
        row = self.readable.after
        assert row is not None
        return tuple(row[self.schema.columns.index(self.schema.by_name[name])] for name in self.schema.key)


def record_keys(items: Iterable[Produced | Incomplete]) -> set[bytes]:
    """The keys of records, also of those that rows will become."""
    return {key for item in items for key in (item.keys() if isinstance(item, Incomplete) else (item.key,))}


def _size(value: Value) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 0


class Reselect(ABC):
    """Fills the incomplete rows of one batch."""

    @abstractmethod
    def _read(self, rows: Sequence[Incomplete], most: int) -> bool:
        """Read what is missing of rows of one schema, at most `KEYS_PER_QUERY`, and settle those that were read: all,
        or, where each has a position, the first ones, with one more than fit into `most` bytes.

        False: one was written by a transaction that is not visible yet. Raises UnreachableError.
        """

    def fill(self, items: Sequence[Item]) -> tuple[list[Item], list[Item], Any] | None:
        """Complete the first rows, as many as a portion has, and replace them by their records.

        Returns what can be appended, what comes after it and is still to be filled, and the position in between.
        None: not possible yet; call again. Raises UnreachableError.
        """
        runs = [cast(list[Produced | Incomplete], item) for item in items if isinstance(item, list)]
        rows = [row for run in runs for row in run if isinstance(row, Incomplete)]
        _fill_from_batch(runs)
        _follow(runs)
        if not self._read_portion(rows):
            return None
        if any(row.settled and row.missing() for row in rows):
            _fill_from_batch(runs)
        last = _last(rows)
        complete, rest = (items, []) if last is None else _split(items, last)
        return [_rendered(item) for item in complete], rest, last and last.position

    def _read_portion(self, rows: Sequence[Incomplete]) -> bool:
        groups: dict[bytes, list[Incomplete]] = {}
        for row in rows:
            if row.unread:
                groups.setdefault(row.schema.id, []).append(row)
        complete = True
        for group in groups.values():
            for start in range(0, len(group), KEYS_PER_QUERY):
                left = PORTION_BYTES - sum(row.size for row in rows if row.settled)
                if left <= 0 and rows[0].position is not None and not rows[0].unread:
                    return complete
                complete &= self._read(group[start : start + KEYS_PER_QUERY], max(left, 0))
        return complete


def _last(rows: Sequence[Incomplete]) -> Incomplete | None:
    """The last row of the portion, None when it has all."""
    size = 0
    for row, following in pairwise(rows):
        size += row.size
        if row.position is not None and (size >= PORTION_BYTES or following.unread):
            return row
    return None


def _split(items: Sequence[Item], last: Incomplete) -> tuple[list[Item], list[Item]]:
    """The items up to and with a row, and those after it."""
    for number, item in enumerate(items):
        for end, row in enumerate(item if isinstance(item, list) else (), 1):
            if cast(object, row) is last:
                assert isinstance(item, list)
                rest = [item[end:]] if end < len(item) else []
                return [*items[:number], item[:end]], [*rest, *items[number + 1 :]]
    raise ValueError("the row is not among the items")


def _rendered(item: Item) -> Item:
    if not isinstance(item, list):
        return item
    run = cast(list[Produced | Incomplete], item)
    return [record for one in run for record in (one.records() if isinstance(one, Incomplete) else (one,))]


def _fill_from_batch(runs: Sequence[list[Produced | Incomplete]]) -> None:
    """From the latest earlier row of the same key in the batch; after a key change, of the old key."""
    wanted = {item.schema.topic for run in runs for item in run if isinstance(item, Incomplete)}
    latest: dict[tuple[str, bytes], Produced | Incomplete] = {}
    schemas = {item.schema.id: item.schema for run in runs for item in run if isinstance(item, Incomplete)}
    for run in runs:
        for item in run:
            if isinstance(item, Incomplete):
                keys = item.keys()
                earlier = latest.get((item.schema.topic, keys[0]))
                # What was read is not kept for rows that are to be read: these may be in a later portion.
                was_read = isinstance(earlier, Incomplete) and earlier.settled
                if earlier is not None and (item.settled or not was_read) and item.missing():
                    _copy(item, earlier, schemas)
                latest[item.schema.topic, keys[-1]] = item
            elif item.topic in wanted:
                header = unpack_header(item.header)
                schema = schemas.get(header.schema_id)
                if schema is None:
                    latest.clear()  # a row that can't be told may be of any key
                elif item.value is not None and header.after_length:
                    latest[item.topic, item.key] = item


def _follow(runs: Sequence[list[Produced | Incomplete]]) -> None:
    """Tell of each row where the batch moves it to. What the batch deletes is not read: by its key there is nothing, or
    by now another row."""
    schemas = {item.schema.id for run in runs for item in run if isinstance(item, Incomplete)}
    later: dict[tuple[bytes, bytes], Incomplete | None] = {}
    for run in reversed(runs):
        for item in reversed(run):
            if isinstance(item, Incomplete):
                keys, schema_id = item.keys(), item.schema.id
                last = later.pop((schema_id, keys[-1]), item)
                item.settled = item.settled or last is None
                item.moved = None if last is item else last
                if last is not item or len(keys) > 1:
                    later[schema_id, keys[0]] = last
            else:
                header = unpack_header(item.header)
                if header.operation == b"d" and header.schema_id in schemas:
                    later[header.schema_id, item.key] = None


def _copy(row: Incomplete, earlier: Produced | Incomplete, schemas: dict[bytes, TableSchema]) -> None:
    """Take what `row` lacks from `earlier`, which has the row as it was before."""
    if isinstance(earlier, Incomplete):
        values = dict(zip(earlier.schema.by_name, earlier.after or (), strict=False))
    else:
        header = unpack_header(earlier.header)
        assert earlier.value is not None
        values = decode(schemas[header.schema_id], earlier.value[header.after_start :][: header.after_length])
    after = row.after
    assert after is not None
    for place in row.missing():
        if place not in row.unknown:
            after[place] = values.get(row.schema.columns[place].name, UNCHANGED)
