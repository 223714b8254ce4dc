"""How far a sink is behind the log: records that it has not delivered, and the age of the oldest of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from cdc.config.fields import SinkConfig
from cdc.config.patterns import selects
from cdc.errors import GapError
from cdc.log import Log, TopicPartition

PATIENCE_SECONDS: Final = 5.0
"""How long the oldest unread records are waited for; one is read from each partition that lags."""
READ_BYTES: Final = 64 << 10


class Lag(NamedTuple):
    """Lag of one sink over all its partitions. `lag_seconds` is None when the oldest record could not be read."""

    lag_records: int
    lag_seconds: float | None
    partitions: int


def lag(log: Log, name: str, config: SinkConfig) -> Lag:
    """The lag of the sink `name` by the offsets that it committed; a partition not begun counts from its start."""
    tables = {schema.topic: f"{schema.schema}.{schema.table}" for schema in log.schemas().values()}
    partitions = [
        TopicPartition(topic.name, number)
        for topic in log.topics().values()
        if config.tables == ["*"] or (topic.name in tables and selects(config.tables, tables[topic.name]))
        for number in range(topic.partitions)
    ]
    committed = log.committed(name)
    starts, ends = log.start_offsets(partitions), log.end_offsets(partitions)
    unread = {
        place: (committed[place].offset if place in committed else starts[place], ends[place]) for place in partitions
    }
    behind = {place: begin for place, (begin, end) in unread.items() if begin < end}
    records = sum(ends[place] - begin for place, begin in behind.items())
    return Lag(records, _age(log, behind, ends) if behind else 0.0, len(partitions))


def _age(log: Log, behind: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> float | None:
    """Seconds since the oldest unread record was appended; 0 when only Kafka's own markers are unread."""
    topics = {place.topic for place in behind}
    waiting = set(behind)
    oldest: int | None = None

    def assigned(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {place: behind.get(place, ends.get(place, 0)) for place in partitions}

    deadline = time.monotonic() + PATIENCE_SECONDS
    with closing(log.reader(None, topics.__contains__, assigned, lambda _: None, READ_BYTES)) as reader:
        try:
            while waiting and time.monotonic() < deadline:
                for fetched in reader.poll(0.2):
                    place = TopicPartition(fetched.topic, fetched.partition)
                    if place not in waiting:
                        continue
                    if fetched.records:
                        first = fetched.records[0].timestamp
                        oldest = first if oldest is None else min(oldest, first)
                    if fetched.records or fetched.next_offset >= ends[place]:
                        waiting.discard(place)
                        reader.pause([place])
        except GapError:
            return None
    if oldest is None:
        return None if waiting else 0.0
    return round(max(0.0, time.time() - oldest / 1000), 3)
