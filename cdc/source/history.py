"""Beginning a source's history: its epoch, and the first position, which is stored before anything else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cdc.errors import TransientError
from cdc.event import epoch_of
from cdc.log import Log, TopicPartition
from cdc.record import unpack_header

COMMIT_SECONDS: Final = 1.0
STORE_SECONDS: Final = 30.0
TAIL_RECORDS: Final = (1, 100, 10_000)
"""How far from the end of a partition its last record is looked for; commit markers lie in between."""


def begin_history(name: str, log_: Log, first: Callable[[bytes | None], bytes]) -> bytes:
    """Store the position that `first` makes of the one that source `name` has on the log, and wait until it is read.

    Raises TransientError when the log does not take it, FencedError, and what `first` raises.
    """
    writer = log_.writer(name)
    try:
        position = first(writer.fence())
        for transaction in log_.prepared(name):  # their rows are those of the history that ends here
            writer.forget_prepared(transaction)
        patience = Retrying(
            stop=stop_after_delay(STORE_SECONDS), wait=wait_fixed(0.02), retry=retry_if_result(_not_yet)
        )
        patience(writer.commit, position, COMMIT_SECONDS)
        # What is committed may become readable a little later, and what starts now reads it.
        patience(lambda: log_.positions().get(name) == position)
        return position
    except RetryError:
        raise TransientError("the log does not take the position of a new source", hint="it is tried again") from None
    finally:
        writer.close()


def _not_yet(done: bool) -> bool:
    return not done


def new_epoch(log_: Log, topics: Collection[str]) -> int:
    """An epoch above that of any record in `topics`, and above every other that was given."""
    return log_.next_epoch(at_least=_highest_epoch(log_, topics) + 1)


def _highest_epoch(log_: Log, topics: Collection[str]) -> int:
    """The highest epoch of any record in `topics`, 0 without records."""
    existing = log_.topics()
    names = set(topics) & set(existing)
    partitions = [TopicPartition(name, number) for name in names for number in range(existing[name].partitions)]
    ends = {partition: end for partition, end in log_.end_offsets(partitions).items() if end}
    starts = log_.start_offsets(list(ends))
    highest = 0
    for depth in TAIL_RECORDS:
        if not ends:
            break
        offsets = {partition: max(starts[partition], end - depth) for partition, end in ends.items()}
        seen = _epochs(log_, offsets, ends)
        highest = max([highest, *seen.values()])
        ends = {p: end for p, end in ends.items() if p not in seen and offsets[p] > starts[p]}
    return highest


def _epochs(
    log_: Log, offsets: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The highest epoch between the given offsets and the ends, of partitions that have records there."""
    seen: dict[TopicPartition, int] = {}
    topics = {partition.topic for partition in ends}
    everything = log_.topics()

    def start(_: object) -> dict[TopicPartition, int]:
        past = {TopicPartition(t, n): 1 << 62 for t in topics for n in range(everything[t].partitions)}
        current = log_.end_offsets(list(past))
        return {partition: offsets.get(partition, current[partition]) for partition in past}

    reader = log_.reader(None, lambda topic: topic in topics, start, lambda _: None)
    try:
        while True:
            for fetched in reader.poll(0.2):
                partition = TopicPartition(fetched.topic, fetched.partition)
                for record in fetched.records:
                    epoch = epoch_of(unpack_header(record.header).version)
                    seen[partition] = max(seen.get(partition, 0), epoch)
            positions = reader.position()
            if positions and all(positions.get(partition, 0) >= end for partition, end in ends.items()):
                return seen
    finally:
        reader.close()
