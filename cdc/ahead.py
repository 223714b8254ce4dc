"""What comes later on the log for rows that a store refuses: one that was mended since replaces what was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from cdc.log import Fetched, Log, TopicPartition
from cdc.record import PARTIAL, unpack_header

POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows of one partition: `begin` is where what comes later begins, `keys` has the version of each row's key."""

    begin: int
    keys: Mapping[bytes, int]


Sought = dict[TopicPartition, Refused]


def replaced(log: Log, refused: Sought, going_on: Callable[[], bool]) -> set[tuple[TopicPartition, bytes]]:
    """Those of the `refused` rows that a later record makes needless: a complete row or a delete of the key, or a
    marker above its version. The log is read to its present end, or as long as `going_on`.

    A partial row that comes first decides that it is needed: it is to be completed from the refused one.

    Raises TransientError, GapError.
    """
    found: set[tuple[TopicPartition, bytes]] = set()
    sought = {place: dict(rows.keys) for place, rows in refused.items()}
    topics = {place.topic for place in refused}
    ends = log.end_offsets(list(refused))

    def assigned(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        starts, current = log.start_offsets(partitions), log.end_offsets(partitions)
        return {
            place: max(starts[place], refused[place].begin) if place in refused else current[place]
            for place in partitions
        }

    with closing(log.reader(None, topics.__contains__, assigned, lambda _: None)) as reader:
        while any(sought.values()) and going_on():
            for fetched in reader.poll(POLL_SECONDS):
                place = TopicPartition(fetched.topic, fetched.partition)
                found.update((place, key) for key in _replaced(fetched, sought.get(place, {})))
            position = reader.position()
            if position and all(position.get(place, 0) >= end for place, end in ends.items()):
                break
    return found


def _replaced(fetched: Fetched, sought: dict[bytes, int]) -> list[bytes]:
    """The keys of `sought` that the records replace; what is decided is no longer sought."""
    found: list[bytes] = []
    for record in fetched.records:
        if not sought:
            break
        header = unpack_header(record.header)
        if header.operation in (b"t", b"s"):
            older = [key for key, version in sought.items() if version < header.version]
        else:
            older = [record.key] if header.version > sought.get(record.key, header.version) else []
        for key in older:
            del sought[key]
        if not header.flags & PARTIAL:
            found += older
    return found
