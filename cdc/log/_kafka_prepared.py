"""The prepared transactions of all sources, in one compacted internal topic.

A part lies there as one record or several, so that a topic of Kafka's own default size takes it; their key is the
source, the transaction, and their place. Who looks a transaction up keeps places and offsets in memory, never values.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, Message

from cdc.errors import TransientError
from cdc.log import Produced
from cdc.log._kafka_client import error_of, explained
from cdc.log._kafka_tables import Bounds, Table, read

PIECE_BYTES: Final = 512 << 10
"""A record's largest value: half of what topics take by default."""


class Place(NamedTuple):
    """Where a record belongs in its transaction; both count from 0."""

    part: int
    piece: int


class PreparedTopic:
    """Makes the records of the topic `name`, and reads them."""

    def __init__(self, settings: Mapping[str, Any], name: str, bounds: Bounds, committed_bounds: Bounds) -> None:
        self.name = name
        self._settings = settings
        self._bounds = bounds
        self._table = Table(settings, name, committed_bounds, Message.offset)
        self._ends: dict[str, int] = {}

    def pieces(self, source: str, transaction: str, part: int, value: bytes) -> Iterator[tuple[Place, Produced]]:
        """The records that hold `value` as the part of that number."""
        for piece, first in enumerate(range(0, max(len(value), 1), PIECE_BYTES)):
            place = Place(part, piece)
            yield place, self._record(source, transaction, place, value[first : first + PIECE_BYTES])

    def tombstones(self, source: str, transaction: str, places: Collection[Place]) -> Iterator[Produced]:
        """The records that make the topic forget those at `places`."""
        return (self._record(source, transaction, place, None) for place in places)

    def fenced(self, source: str) -> dict[str, dict[Place, int]]:
        """`kept` of all that was ever committed; call it while `source` has no append open."""
        self._ends[source] = self._bounds(self.name)[1]
        return self.kept(source)

    def committed(self, source: str, end: int) -> None:
        """What a writer of `source` appended up to the offset `end` is committed: from now on `kept` waits for it."""
        self._ends[source] = end

    def kept(self, source: str) -> dict[str, dict[Place, int]]:
        """The transactions of `source`: of each the places of its records in their order, with their offsets."""
        found: dict[str, dict[Place, int]] = {}
        for key, offset in sorted(self._table.read(self._ends.get(source, 0)).items(), key=itemgetter(1)):
            of, transaction, part, piece = json.loads(key)
            if of == source:
                found.setdefault(transaction, {})[Place(part, piece)] = offset
        return found

    def parts(self, source: str, transaction: str) -> Iterator[bytes]:
        """The parts of a transaction in their order, one at a time in memory."""
        kept = self.kept(source).get(transaction, {})
        with closing(self._values(transaction, deque(kept.values()))) as values:
            for _, places in groupby(kept, lambda place: place.part):
                yield b"".join([next(values) for _ in places])

    def close(self) -> None:
        """Release the connection."""
        self._table.close()

    def _record(self, source: str, transaction: str, place: Place, value: bytes | None) -> Produced:
        return Produced(self.name, json.dumps([source, transaction, *place]).encode(), value, b"")

    def _values(self, transaction: str, offsets: deque[int]) -> Generator[bytes]:
        """What lies at `offsets`, which rise."""
        consumer = Consumer(self._settings)
        try:
            with closing(read(consumer, self.name, offsets[0], offsets[-1] + 1)) as messages:
                for message in messages:
                    if message.offset() == offsets[0]:
                        offsets.popleft()
                        yield message.value()
        except KafkaException as raised:
            raise explained(error_of(raised), f"reading {self.name}") from raised
        finally:
            consumer.close()
        raise TransientError(
            f"the prepared transaction {transaction} was forgotten while it was read",
            hint="it is tried again; run each source once only",
        )
