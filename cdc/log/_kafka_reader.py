"""The Kafka log's reader: a consumer whose offsets carry the identity of their topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from cdc.errors import CdcError, GapError, TransientError
from cdc.log import Assigned, Committed, Fetched, LogReader, Record, Revoked, Topic, TopicPartition
from cdc.log._kafka_client import CONSUMER_QUEUE_KIB, KafkaConfig, consumer_settings, error_of, explained
from cdc.record import HEADER

if TYPE_CHECKING:
    from cdc.log.kafka import KafkaLog

LOOK_EVERY_SECONDS: Final = 2.0
"""How often the reader looks for new topics."""
CHUNK: Final = 2_000
"""How many records are taken from the client at once, at most."""
_GONE: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_PASSING: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError.UNKNOWN_TOPIC_OR_PART}


_record: Callable[[tuple[int, bytes, bytes | None, bytes, int]], Record] = partial(tuple.__new__, Record)
"""A Record of a tuple of its fields, without the detour over a Python function."""


class KafkaReader(LogReader):
    """With a group: subscribed, sharing partitions cooperatively. Without: all partitions of the matching topics."""

    def __init__(
        self,
        log: KafkaLog,
        config: KafkaConfig,
        group: str | None,
        topics: Callable[[str], bool],
        on_assigned: Assigned,
        on_revoked: Revoked,
        max_bytes: int,
    ) -> None:
        self._log = log
        self._group = group
        self._matches = topics
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._max_bytes = max_bytes
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._taken: set[TopicPartition] = set()
        """Partitions that were taken away in this very poll: whoever has them now reads their records again."""
        self._topics: dict[str, Topic] = {}
        self._usual = 1000.0
        self._looked = float("-inf")
        self._failure: BaseException | None = None
        self._consumer: Consumer | None = Consumer(
            consumer_settings(config)
            | {
                "group.id": log.group_id(group or "-"),
                "partition.assignment.strategy": "cooperative-sticky",
                "queued.max.messages.kbytes": min(max_bytes >> 10, CONSUMER_QUEUE_KIB) or 1,
            }
        )

    def poll(self, timeout: float) -> list[Fetched]:
        consumer = self._alive()
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_SECONDS:
            self._look(consumer)
            self._looked = now
        # The first message wakes us; what has arrived beside it is taken without waiting.
        messages = self._consume(consumer, 1, timeout)
        fetched: dict[tuple[str, int], list[Record]] = {}
        moved: dict[tuple[str, int], int] = {}
        size = 0
        self._taken.clear()
        while messages:
            taken = self._sort(messages, fetched, moved)
            size += taken
            if size >= self._max_bytes:
                break
            self._usual += (taken / len(messages) - self._usual) / 4
            fitting = int((self._max_bytes - size) / (self._usual + 1)) + 1
            messages = self._consume(consumer, min(fitting, CHUNK), 0)
            for gone in self._taken:  # if it came back at once, it begins where its offset was committed
                fetched.pop(gone, None)
                moved.pop(gone, None)
            self._taken.clear()
        batches: list[Fetched] = []
        for (topic, partition), records in fetched.items():
            place = TopicPartition(topic, partition)
            if place not in self._next:
                continue  # another reader's by now
            next_offset = max(records[-1].offset + 1 if records else 0, moved.get(place, 0))
            if records or next_offset > self._next[place]:
                self._next[place] = next_offset
                batches.append(Fetched(topic, partition, records, next_offset))
        return batches

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._group is None:
            raise ValueError("a reader without a group has nothing to commit")
        places = [Place(*tp, offset, self._topics[tp.topic].id) for tp, offset in offsets.items()]
        if not places:
            return
        try:
            results = self._alive().commit(offsets=places, asynchronous=False)
        except KafkaException as raised:
            raise explained(error_of(raised), "committing offsets", otherwise=TransientError) from raised
        for place in results:
            if place.error is not None:
                raise explained(place.error, "committing offsets", otherwise=TransientError)

    def position(self) -> Mapping[TopicPartition, int]:
        return dict(self._next)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        fresh = set(partitions) - self._paused
        self._alive().pause([Place(*tp) for tp in fresh])
        self._paused |= fresh

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        held = self._paused & set(partitions)
        self._alive().resume([Place(*tp) for tp in held])
        self._paused -= held

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._next:
            raise ValueError(f"{partition} is not assigned")
        try:
            self._alive().seek(Place(*partition, offset))
        except KafkaException as raised:
            raise explained(error_of(raised), "seeking", otherwise=TransientError) from raised
        self._next[partition] = offset

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            if self._group is not None and self._next:
                self._consumer = consumer  # the callback may still commit
                self._on_revoked(list(self._next))
        finally:
            self._consumer = None
            self._next = {}
            consumer.close()

    def _look(self, consumer: Consumer) -> None:
        """Find topics that came into being; notice those that are gone or were made anew."""
        wanted = {name: topic for name, topic in self._log.topics().items() if self._matches(name)}
        for name, topic in self._topics.items():
            if name not in wanted:
                raise _gap(name, "was deleted")
            if wanted[name].id != topic.id:
                raise _gap(name, "was deleted and made anew")
        if wanted.keys() == self._topics.keys():
            return
        fresh = [topic for name, topic in wanted.items() if name not in self._topics]
        self._topics = wanted
        if self._group is not None:
            consumer.subscribe(list(wanted), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
            return
        places = [Place(topic.name, index) for topic in fresh for index in range(topic.partitions)]
        self._assign(consumer, places)

    def _assigned(self, consumer: Consumer, places: list[Place]) -> None:
        try:
            self._assign(consumer, places)
        except BaseException as error:  # noqa: BLE001 - raised again by poll, out of the client's reach
            self._failure = error

    def _assign(self, consumer: Consumer, places: Sequence[Place]) -> None:
        new = [TopicPartition(place.topic, place.partition) for place in places]
        if not new:
            return
        starts = self._on_assigned(new)
        stored: Mapping[TopicPartition, Committed] = {} if self._group is None else self._log.committed(self._group)
        first, end = self._log.start_offsets(new), self._log.end_offsets(new)
        for tp in new:
            offset, known = starts[tp], stored.get(tp)
            if known is not None and known.offset == offset and known.topic_id != self._topics[tp.topic].id:
                raise _gap(tp.topic, "was deleted and made anew since its offsets were committed")
            if not first[tp] <= offset <= end[tp]:
                raise _gap(tp.topic, f"has offsets {first[tp]} to {end[tp]} in partition {tp.partition}, not {offset}")
            self._next[tp] = offset
        consumer.incremental_assign([Place(*tp, starts[tp]) for tp in new])

    def _revoked(self, _: Consumer, places: list[Place]) -> None:
        gone = [TopicPartition(place.topic, place.partition) for place in places]
        try:
            if held := [tp for tp in gone if tp in self._next]:
                self._on_revoked(held)
        except BaseException as error:  # noqa: BLE001 - as above
            self._failure = error
        self._forget(gone)
        self._paused -= set(gone)

    def _lost(self, _: Consumer, places: list[Place]) -> None:
        """Others may be at work on these already, so nothing is committed any more."""
        self._failure = TransientError(
            f"Kafka took {len(places)} partitions away: nothing was heard from this reader for too long",
            hint="it joins again by itself; if this repeats, the store is too slow for a batch this large",
        )
        self._forget([TopicPartition(place.topic, place.partition) for place in places])

    def _forget(self, gone: Sequence[TopicPartition]) -> None:
        self._taken.update(gone)
        for tp in gone:
            self._next.pop(tp, None)

    def _consume(self, consumer: Consumer, count: int, timeout: float) -> list[Message]:
        try:
            messages: list[Message] = consumer.consume(count, timeout)
        except KafkaException as raised:
            raise explained(error_of(raised), "reading", otherwise=TransientError) from raised
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return messages

    def _sort(
        self,
        messages: list[Message],
        fetched: dict[tuple[str, int], list[Record]],
        moved: dict[tuple[str, int], int],
    ) -> int:
        """Add `messages` to `fetched` by partition, and to `moved` where a partition's end was reached."""
        size = 0
        topic, partition = "", -1
        new = _record
        append: Callable[[Record], None]
        for message in messages:
            if message.error() is not None:
                tp = self._event(message)
                if tp is not None:
                    fetched.setdefault(tp, [])
                    moved[tp] = message.offset()
                continue
            if message.partition() != partition or message.topic() != topic:
                topic, partition = message.topic(), message.partition()
                append = fetched.setdefault((topic, partition), []).append
            value, headers = message.value(), message.headers()
            header = headers[0][1] if headers and headers[0][0] == HEADER else _header(headers)
            append(new((message.offset(), message.key() or b"", value, header, message.timestamp()[1])))
            size += 200 if value is None else 200 + len(value)
        return size

    def _event(self, message: Message) -> TopicPartition | None:
        """A partition's end, or trouble."""
        error = message.error()
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            return TopicPartition(message.topic(), message.partition())
        if code in _GONE:
            raise _gap(message.topic(), f"no longer has the next offset of partition {message.partition()}")
        if code in _PASSING:
            self._looked = float("-inf")  # look at once whether the topic is still the same
            return None
        raise explained(error, "reading", otherwise=TransientError)

    def _alive(self) -> Consumer:
        if self._consumer is None:
            raise TransientError("Kafka: this reader is closed", hint="open a new one")
        return self._consumer


def _header(headers: list[tuple[str, bytes]] | None) -> bytes:
    return dict(headers or ()).get(HEADER, b"")


def _gap(topic: str, what: str) -> CdcError:
    return GapError(f"topic {topic!r} {what}", hint="start the sink again: it says what is missing")
