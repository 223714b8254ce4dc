"""What a sink has applied, as far as its consumer group says so, without being a member of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from cdc.cli.tap.remarks import Remarks
from cdc.log import Fetched, Log, LogReader, Record, TopicPartition

LOOK_SECONDS: Final = 0.5
"""How often it is looked what the sink has committed, while something waits for it."""
BEHIND_SECONDS: Final = 5.0
"""A sink that takes longer for a record is said to be behind."""

clock = time.monotonic


def applied(log: Log, name: str) -> dict[TopicPartition, int]:
    """The offsets below which sink `name` has applied everything; partitions that it has not begun are missing."""
    topics = log.topics()
    return {
        place: committed.offset
        for place, committed in log.committed(name).items()
        if place.topic in topics and topics[place.topic].id == committed.topic_id
    }


class Applied:
    """Holds records back until the sink has committed an offset beyond them. A gate of :mod:`cdc.cli.tap.topic`.

    Of each partition only what was read at once is held, it is not read on meanwhile.
    """

    def __init__(self, log: Log, name: str, remarks: Remarks) -> None:
        self._log = log
        self._name = name
        self._remarks = remarks
        self._held: dict[TopicPartition, list[Record]] = {}
        self._offsets: Mapping[TopicPartition, int] = {}
        self._looked = float("-inf")
        self._moved = clock()

    def __call__(self, reader: LogReader, fetched: list[Fetched]) -> list[Fetched]:
        """Take what was read, return what the sink has applied by now."""
        for part in fetched:
            if part.records:
                self._held.setdefault(TopicPartition(part.topic, part.partition), []).extend(part.records)
        if self._held and clock() - self._looked > LOOK_SECONDS:
            self._offsets = applied(self._log, self._name)
            self._looked = clock()
        released = [part for place in list(self._held) if (part := self._release(place)).records]
        reader.pause(self._held.keys())
        reader.resume(reader.position().keys() - self._held.keys())
        if released or not self._held:
            self._moved = clock()
        behind = clock() - self._moved > BEHIND_SECONDS
        self._remarks.waiting = f"sink {self._name} has not applied what is next on the log" if behind else ""
        return released

    def _release(self, place: TopicPartition) -> Fetched:
        held, end = self._held[place], self._offsets.get(place, 0)
        through = [record for record in held if record.offset < end]
        if len(through) == len(held):
            del self._held[place]
        else:
            self._held[place] = held[len(through) :]
        return Fetched(*place, through, end)
