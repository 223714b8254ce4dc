"""For tests of the engine and of plugins: a store in memory that keeps the sink contract to the letter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cdc.config.fields import SinkConfig
from cdc.errors import FencedError
from cdc.log import TopicPartition
from cdc.reduce import filled
from cdc.sink import Batch, Rejected, Row, Sink, StoredOffset


@dataclass
class MemoryStore:
    """What outlives a sink: give the same store to two sinks to have one of them fenced, or started again."""

    rows: dict[TopicPartition, dict[bytes, Row]] = field(default_factory=dict)
    """The last row of each key, deletes included: they are the tombstones."""
    floors: dict[TopicPartition, int] = field(default_factory=dict)
    offsets: dict[TopicPartition, StoredOffset] = field(default_factory=dict)
    generations: dict[TopicPartition, int] = field(default_factory=dict)

    def current(self, topic: str) -> dict[bytes, bytes]:
        """The rows of `topic` that a reader of the store would see: JSON by key."""
        return {
            key: row.after
            for place, rows in self.rows.items()
            if place.topic == topic
            for key, row in rows.items()
            if row.after is not None
        }


class MemorySink(Sink):
    """Keeps rows in a :class:`MemoryStore`."""

    Config = SinkConfig

    def __init__(
        self, name: str, config: SinkConfig, pipeline: str = "test", *, store: MemoryStore | None = None
    ) -> None:
        self.name, self.config, self.pipeline = name, config, pipeline
        self.store = MemoryStore() if store is None else store
        self._generations: dict[TopicPartition, int] = {}

    def open(self) -> None:
        """Nothing is to be made."""

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """Raise the generation of each partition."""
        for place in partitions:
            self._generations[place] = self.store.generations[place] = self.store.generations.get(place, 0) + 1

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches`; nothing is ever rejected."""
        places = {TopicPartition(batch.topic, batch.partition) for batch in batches}
        if any(self._generations.get(place) != self.store.generations.get(place) for place in places):
            raise FencedError("another process writes to this partition now")
        for batch in batches:
            self._apply(batch)
            if self.owns_offsets:
                place = TopicPartition(batch.topic, batch.partition)
                self.store.offsets[place] = StoredOffset(batch.next_offset, topic_ids[batch.topic])
        return []

    def close(self) -> None:
        """Nothing is held."""

    def _apply(self, batch: Batch) -> None:
        place = TopicPartition(batch.topic, batch.partition)
        rows = self.store.rows.setdefault(place, {})
        floor = self.store.floors[place] = max(self.store.floors.get(place, 0), batch.floor)
        for key in [key for key, row in rows.items() if row.version < floor]:
            del rows[key]
        for row in batch.rows:
            held = rows.get(row.key)
            if row.version < floor or (held is not None and row.version <= held.version):
                continue
            rows[row.key] = row if held is None else filled(row, held)


class MemorySinkWithOffsets(MemorySink):
    """The same for a store that keeps its offsets beside the rows."""

    owns_offsets = True

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """What was stored with the rows."""
        return dict(self.store.offsets)
