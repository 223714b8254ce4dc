"""Delivery from Kafka: what is different there."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from confluent_kafka.admin import AdminClient

from cdc import ahead
from cdc.errors import GapError, TransientError
from cdc.log import TopicPartition
from cdc.log._kafka_client import KafkaConfig
from cdc.log.kafka import KafkaLog
from cdc.sink import Batch, Rejected
from cdc.testing import MemorySink, MemorySinkWithOffsets, MemoryStore
from schemas.table import TableSchema
from tests.integration.delivered import CONFIG, Source, deliver_all, delivering, key, row, started, table
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("kafka")


class Pipeline:
    """A pipeline of its own on the shared broker."""

    def __init__(self, bootstrap: str) -> None:
        self.name = f"delivery{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.orders = table("orders", pipeline=self.name)
        self.log = self.open()

    def open(self) -> KafkaLog:
        config = KafkaConfig.model_validate({"bootstrap": self.bootstrap, "topics": {"partitions": 4}})
        return KafkaLog(config, self.name)


@pytest.fixture
def pipeline(kafka: str) -> Iterator[Pipeline]:
    pipeline = Pipeline(kafka)
    yield pipeline
    pipeline.log.delete()
    pipeline.log.close()


@pytest.fixture
def source(pipeline: Pipeline) -> Iterator[Source]:
    with Source(pipeline.log) as source:
        yield source


def holds(store: MemoryStore, source: Source, schema: TableSchema) -> Callable[[], bool]:
    return lambda: store.current(schema.topic) == source.rows[schema.topic]


def test_looking_ahead_for_what_replaces_a_refused_row_ends_at_the_end(pipeline: Pipeline, source: Source) -> None:
    """Which commit markers follow there, in the row's partition as in others."""
    for note in ("first", "second"):
        source.put(1, note, pipeline.orders)
        source.put(2, note, pipeline.orders)
        source.commit()
    places = [TopicPartition(pipeline.orders.topic, number) for number in range(4)]
    every = {place: ahead.Refused(0, {key(1): 1, key(2): 2}) for place in places}
    assert {found for _, found in ahead.replaced(pipeline.log, every, lambda: True)} == {key(1), key(2)}
    last = {place: ahead.Refused(0, {key(1): 3, key(2): 4}) for place in places}
    assert ahead.replaced(pipeline.log, last, lambda: True) == set()


@pytest.mark.parametrize("kind", [MemorySink, MemorySinkWithOffsets])
def test_the_end_is_behind_the_last_commit_marker(pipeline: Pipeline, source: Source, kind: type[MemorySink]) -> None:
    """The last record's offset + 1 falls short of the end: a sink that waits for more would never be caught up."""
    for number in range(40):
        source.put(number, "new", pipeline.orders)
        if number % 10 == 9:
            source.delete(number - 5, pipeline.orders)
            source.commit()
    sink = kind("store", CONFIG)
    assert deliver_all(pipeline.log, sink).caught_up
    assert holds(sink.store, source, pipeline.orders)()
    committed = pipeline.log.committed("store")
    assert len(committed) == 4
    assert {place: at.offset for place, at in committed.items()} == pipeline.log.end_offsets(list(committed))
    if sink.owns_offsets:  # what expires behind an idle sink is nothing that it would miss
        assert {place: at.offset for place, at in sink.store.offsets.items()} == pipeline.log.end_offsets(committed)
    source.truncate(pipeline.orders)
    source.put(1, "after", pipeline.orders)
    source.commit()
    assert deliver_all(pipeline.log, kind("store", CONFIG, store=sink.store)).caught_up
    assert holds(sink.store, source, pipeline.orders)()


def test_a_topic_that_was_made_anew_is_a_gap(pipeline: Pipeline, source: Source) -> None:
    source.put(1, "old", pipeline.orders)
    source.commit()
    sink = MemorySink("store", CONFIG)
    deliver_all(pipeline.log, sink)
    topic = pipeline.orders.topic
    old = pipeline.log.topics()[topic].id
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap})
    admin.delete_topics([topic])[topic].result(30)

    def made_anew() -> bool:
        pipeline.log.create_topics([topic])
        found = pipeline.log.topics().get(topic)
        return found is not None and found.id != old

    wait_until(made_anew)
    with pytest.raises(GapError, match="made anew"):
        deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
    assert sink.store.current(topic)


class Member(MemorySink):
    """One of several workers of a sink, which writes when `away` is not set."""

    def __init__(self, store: MemoryStore, lock: threading.Lock) -> None:
        super().__init__("store", CONFIG, store=store)
        self.away = threading.Event()
        self.tried = 0
        self.batches: list[Batch] = []
        self._lock = lock

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        self.tried += 1
        if self.away.is_set():
            raise TransientError("the store is away")
        with self._lock:
            self.batches += batches
            return super().write(batches, topic_ids)

    def partitions(self) -> set[int]:
        return {batch.partition for batch in self.batches if batch.rows}


def test_partitions_move_to_another_worker_while_the_store_is_away(pipeline: Pipeline, source: Source) -> None:
    """One that cannot write goes on polling, so it stays a member, and gives away what it holds when it is asked to."""
    for number in range(100):
        source.put(number, "new", pipeline.orders)
    source.commit()
    store, lock = MemoryStore(), threading.Lock()
    first, second = Member(store, lock), Member(store, lock)
    first.away.set()
    with delivering(pipeline.log, first):
        wait_until(lambda: first.tried > 0)
        with delivering(pipeline.open(), second):
            wait_until(lambda: len(second.partitions()) == 2)
            assert first.partitions() == set()
            first.away.clear()
            wait_until(holds(store, source, pipeline.orders))
            assert first.partitions() | second.partitions() == {0, 1, 2, 3}
            assert not first.partitions() & second.partitions()
            for number in range(100):
                source.put(number, "changed", pipeline.orders)
            source.commit()
            wait_until(holds(store, source, pipeline.orders))
    assert row(7, "changed") in store.current(pipeline.orders.topic).values()
    assert started(pipeline.log) == {TopicPartition(pipeline.orders.topic, number) for number in range(4)}
