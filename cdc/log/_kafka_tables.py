"""Reading the internal, compacted topics: a whole table by key, the last value of one key, or a stretch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from cdc.errors import TransientError
from cdc.log._kafka_client import error_of, explained

FIRST_STEP: Final = 1_000
"""How many offsets before the end the search for a position begins; each further step is eight times as long."""
STUCK_SECONDS: Final = 40.0
"""Longer than another source's open transaction can hold up a reader of committed records."""
FRESH_SECONDS: Final = 3600.0
"""Who last read a table so long ago begins anew: compaction may have taken tombstones that he missed."""

V = TypeVar("V")

Bounds = Callable[[str], tuple[int, int]]
"""Tells the first offset of a topic's only partition, and where to stop."""


def read(consumer: Consumer, topic: str, first: int, end: int) -> Generator[Message]:
    """The committed records of the offsets from `first` until `end`; waits for transactions open there."""
    if first >= end:
        return
    consumer.assign([TopicPartition(topic, 0, first)])
    at = stuck = first
    deadline = time.monotonic() + STUCK_SECONDS
    try:
        while at < end:
            for message in _arrived(consumer):
                error = message.error()
                if error is None:
                    if message.offset() < end:
                        yield message
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise explained(error, f"reading {topic}")
                at = max(at, message.offset() + (error is None))
            if at > stuck:
                stuck, deadline = at, time.monotonic() + STUCK_SECONDS
            elif time.monotonic() > deadline:
                raise TransientError(
                    f"Kafka: {topic} stayed at offset {at} of {end} for {STUCK_SECONDS:.0f} s",
                    hint="a transaction is open there: another source's, or one whose end a broker lost when killed"
                    " (kafka-transactions.sh find-hanging); it is tried again",
                )
    finally:
        consumer.unassign()


def _arrived(consumer: Consumer) -> list[Message]:
    """What is there, waiting a little for the first: `consume` alone waits until it has as many as it may return."""
    first = consumer.poll(0.1)
    return [] if first is None else [first, *consumer.consume(5_000, 0)]


def last_value(settings: Mapping[str, Any], topic: str, key: bytes, bounds: Bounds) -> bytes | None:
    """The committed value of `key`, searched from the topic's end backwards, in growing steps."""
    found: list[bytes | None] = []

    try:
        start, end = bounds(topic)
        consumer = Consumer(settings)
        try:
            step = FIRST_STEP
            while end > start and not found:
                first = max(start, end - step)
                found += [message.value() for message in read(consumer, topic, first, end) if message.key() == key]
                end, step = first, step * 8
        finally:
            consumer.close()
    except KafkaException as raised:
        raise explained(error_of(raised), f"reading {topic}") from raised
    return found[-1] if found else None


class Table(Generic[V]):
    """A compacted topic of one partition, as the latest value by key. A `read` goes on where the last one ended.

    `value` says what of a record is kept in memory.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        topic: str,
        bounds: Bounds,
        value: Callable[[Message], V],
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._bounds = bounds
        self._value = value
        self._consumer: Consumer | None = None
        self._at = -1
        self._stale = 0.0
        self._values: dict[bytes, V] = {}
        self._lock = threading.Lock()

    def read(self, least: int = 0) -> dict[bytes, V]:
        """All values that were committed when this was called, up to the first append that is open; waits for what is
        open below the offset `least`."""
        with self._lock:
            try:
                start, end = self._bounds(self._topic)
                now, end = time.monotonic(), max(end, least)
                if not start <= self._at <= end or now > self._stale:
                    self._at, self._values = start, {}
                if self._consumer is None:
                    self._consumer = Consumer(self._settings)
                for message in read(self._consumer, self._topic, self._at, end):
                    if message.value() is None:
                        self._values.pop(message.key(), None)
                    else:
                        self._values[message.key()] = self._value(message)
                self._at, self._stale = end, now + FRESH_SECONDS
            except KafkaException as raised:
                raise explained(error_of(raised), f"reading {self._topic}") from raised
            return dict(self._values)

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None
                self._at = -1
