"""What the log's contract tests share: both implementations, and short ways to write and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc import registry
from cdc.log import Log, LogReader, LogWriter, Produced, Record, TopicPartition

HEADER = b"h" * 32


@dataclass(frozen=True)
class Place:
    """Where a log is: enough to open it again, from another process too."""

    settings: Mapping[str, Any]
    pipeline: str

    def open(self, **topics: Any) -> Log:
        kind = registry.load("cdc.log", self.settings["type"])
        config = kind.Config(**self.settings, topics={"partitions": 3, **topics})
        log: Log = kind(config, self.pipeline)
        return log

    @property
    def topic(self) -> str:
        return f"{self.pipeline}.public.orders"

    def record(self, number: int, value: bytes | None = b"v", topic: str = "") -> Produced:
        return Produced(topic or self.topic, b'{"id":%d}' % number, value, HEADER)


def append(writer: LogWriter, records: Sequence[Produced], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while records:
        records = records[writer.append(records, 1.0) :]
        assert time.monotonic() < deadline, "the log takes no records"


def append_and_commit(writer: LogWriter, records: Sequence[Produced], position: bytes, seconds: float = 20) -> None:
    append(writer, records, seconds)
    commit(writer, position, seconds)


def commit(writer: LogWriter, position: bytes, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not writer.commit(position, 1.0):
        assert time.monotonic() < deadline, "the log does not commit"


def append_prepared(writer: LogWriter, transaction: str, *parts: bytes, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    for part in parts:
        while not writer.append_prepared(transaction, part, 1.0):
            assert time.monotonic() < deadline, "the log takes no parts"


def beginning(partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    return dict.fromkeys(partitions, 0)


def read_until(
    reader: LogReader, done: Callable[[dict[TopicPartition, list[Record]]], object], seconds: float = 20
) -> dict[TopicPartition, list[Record]]:
    """Poll until `done`; all records by partition."""
    found: dict[TopicPartition, list[Record]] = {}
    deadline = time.monotonic() + seconds
    while not done(found):
        assert time.monotonic() < deadline, f"not read in time; so far {sum(map(len, found.values()))} records"
        for topic, partition, records, _ in reader.poll(0.1):
            if records:
                found.setdefault(TopicPartition(topic, partition), []).extend(records)
    return found


def reached(reader: LogReader, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether the reader stands at `ends`; it may be past them, as Kafka writes a commit's markers a moment later."""
    position = reader.position()
    return position.keys() == ends.keys() and all(position[tp] >= end for tp, end in ends.items())


def read_all(log: Log, group: str | None = None) -> dict[TopicPartition, list[Record]]:
    """Every committed record, up to the end of the log."""
    reader = log.reader(group, lambda _: True, beginning, lambda _: None)
    partitions = [TopicPartition(t.name, index) for t in log.topics().values() for index in range(t.partitions)]
    ends = log.end_offsets(partitions)
    try:
        return read_until(reader, lambda _: reached(reader, ends))
    finally:
        reader.close()


def keys(found: Mapping[TopicPartition, Sequence[Record]]) -> list[bytes]:
    return sorted(record.key for records in found.values() for record in records)


def assert_times_tell_where_to_begin(log: Log, found: Mapping[TopicPartition, Sequence[Record]]) -> None:
    """For some of the times at which `found`, which is all there is, was appended."""
    times = sorted({record.timestamp for records in found.values() for record in records})
    for time_ in (times[0] - 1, *times[:: len(times) // 8 + 1], times[-1], times[-1] + 1):
        for partition, offset in log.offsets_for_time(list(found), time_).items():
            older = [record for record in found[partition] if record.timestamp < time_]
            before = [record for record in found[partition] if record.offset < offset]
            if any(record.offset == offset for record in found[partition]):
                assert before == older
            else:  # the end, or a Kafka transaction's marker: its time may be later than that of what follows it
                assert before == older[: len(before)]
