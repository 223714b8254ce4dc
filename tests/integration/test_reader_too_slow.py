"""A sink that is away for longer than the log keeps deletes has a gap, and only then, on both logs.

Nobody waits for days: the guard's clock is ahead of ours.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from cdc import delivery, starts
from cdc.errors import GapError, TransientError
from cdc.log import DELETE_RETENTION_SECONDS, Log, TopicPartition
from cdc.log._kafka_client import KafkaConfig
from cdc.log.kafka import KafkaLog
from cdc.sink import Batch, Rejected
from cdc.testing import MemorySink, MemorySinkWithOffsets
from schemas.table import TableSchema
from tests.integration.delivered import CONFIG, Source, deliver_all, delivering, embedded, key, table
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("kafka")

HOUR = 3600.0


@dataclass
class Pipeline:
    """A log with one topic that keeps deletes for so many seconds, and what writes to it."""

    log: Log
    orders: TableSchema
    kept: float
    source: Source

    def put(self, number: int) -> None:
        self.source.put(number, "new", self.orders)
        self.source.commit()

    def complete(self) -> float:
        """The time up to which the sink is complete in its partition, as written down; 0 if it is not."""
        started = self.log.states("started").get(f"store/{self.orders.topic}/0")
        return float(started["complete"]) if started else 0.0

    def keys(self, sink: MemorySink) -> set[bytes]:
        return set(sink.store.current(self.orders.topic))


def _kafka(bootstrap: str) -> tuple[Log, TableSchema]:
    """A topic whose setting somebody changed to an hour."""
    name = f"slow{uuid.uuid4().hex[:8]}"
    log = KafkaLog(KafkaConfig.model_validate({"bootstrap": bootstrap, "topics": {"partitions": 1}}), name)
    orders = table("orders", pipeline=name)
    log.create_topics([orders.topic])
    entry = ConfigEntry("delete.retention.ms", str(round(HOUR * 1000)), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, orders.topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.incremental_alter_configs([resource])[resource].result(10)
    wait_until(lambda: log.delete_retention([orders.topic]) == {orders.topic: HOUR}, what="the topic's setting")
    return log, orders


@pytest.fixture(params=["embedded", "kafka"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    if request.param == "kafka":
        log, orders = _kafka(request.getfixturevalue("kafka"))
        kept = HOUR
    else:
        log, orders = embedded(tmp_path, partitions=1), table("orders")
        kept = DELETE_RETENTION_SECONDS
    with Source(log) as source:
        yield Pipeline(log, orders, kept, source)
    log.delete()
    log.close()


class Clock:
    """The guard's clock, some seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(starts, "clock", clock)
    return clock


@pytest.mark.parametrize("kind", [MemorySink, MemorySinkWithOffsets])
def test_one_that_was_away_for_too_long_has_a_gap(pipeline: Pipeline, clock: Clock, kind: type[MemorySink]) -> None:
    pipeline.put(1)
    sink = kind("store", CONFIG)
    deliver_all(pipeline.log, sink)
    pipeline.put(2)
    clock.ahead = 0.8 * pipeline.kept
    deliver_all(pipeline.log, kind("store", CONFIG, store=sink.store))
    assert pipeline.keys(sink) == {key(1), key(2)}
    pipeline.put(3)
    clock.ahead = 2 * pipeline.kept
    before = pipeline.log.committed("store")
    for _ in range(2):
        with pytest.raises(GapError, match=r"keeps deletes for [\d.]+ days only") as caught:
            deliver_all(pipeline.log, kind("store", CONFIG, store=sink.store))
        assert pipeline.orders.topic in str(caught.value)
        assert "give the sink another name" in caught.value.hint
    assert pipeline.keys(sink) == {key(1), key(2)}
    assert pipeline.log.committed("store") == before


def test_what_it_read_last_counts_as_well_as_when_it_was_there(pipeline: Pipeline, clock: Clock) -> None:
    """Written down is the later of both; a record's append time does not turn it back."""
    pipeline.put(1)
    sink = MemorySink("store", CONFIG)
    began = time.time()
    deliver_all(pipeline.log, sink)
    assert began <= pipeline.complete() <= time.time()
    clock.ahead = 0.5 * pipeline.kept
    pipeline.put(2)
    deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
    assert pipeline.complete() >= began + 0.5 * pipeline.kept


def test_an_idle_topic_is_no_gap_however_long(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that was away all the time, and finds nothing unread, goes on with the next record."""
    pipeline.put(1)
    sink = MemorySink("store", CONFIG)
    deliver_all(pipeline.log, sink)
    clock.ahead = 10 * pipeline.kept
    assigned = threading.Event()
    real = starts.Starts.assigned

    def noticed(self: starts.Starts, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        offsets = real(self, places)
        assigned.set()
        return offsets

    monkeypatch.setattr(starts.Starts, "assigned", noticed)
    with delivering(pipeline.log, MemorySink("store", CONFIG, store=sink.store)):
        assert assigned.wait(30)
        pipeline.put(2)
        wait_until(lambda: pipeline.keys(sink) == {key(1), key(2)})


def test_runs_from_time_to_time_are_no_gap(pipeline: Pipeline, clock: Clock) -> None:
    """Each writes down that it stood at the end, also where it found nothing to do."""
    sink = MemorySink("store", CONFIG)
    pipeline.put(1)
    for _ in range(3):
        deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
        clock.ahead += 0.8 * pipeline.kept
    pipeline.put(2)
    deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
    assert pipeline.keys(sink) == {key(1), key(2)}


def test_a_sink_that_waits_at_the_end_of_an_idle_topic_is_no_gap(
    pipeline: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "REMEMBER_EVERY_SECONDS", 0.1)
    pipeline.put(1)
    sink = MemorySink("store", CONFIG)
    with delivering(pipeline.log, sink):
        wait_until(lambda: pipeline.keys(sink) == {key(1)})
        for _ in range(3):
            clock.ahead += 0.8 * pipeline.kept
            until = clock()
            wait_until(lambda until=until: pipeline.complete() >= until, what="that to be written down")
        pipeline.put(2)
        wait_until(lambda: pipeline.keys(sink) == {key(1), key(2)})
    clock.ahead += 0.8 * pipeline.kept
    pipeline.put(3)
    deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
    assert pipeline.keys(sink) == {key(1), key(2), key(3)}


def test_a_sink_that_begins_with_an_empty_store_is_no_gap(pipeline: Pipeline, clock: Clock) -> None:
    """A new one, or one that is filled anew: all it reads is old, and it is complete from its beginning on."""
    pipeline.put(1)
    pipeline.put(2)
    clock.ahead = 10 * pipeline.kept
    sink = MemorySink("store", CONFIG)
    deliver_all(pipeline.log, sink)
    clock.ahead += 0.8 * pipeline.kept
    pipeline.put(3)
    deliver_all(pipeline.log, MemorySink("store", CONFIG, store=sink.store))
    assert pipeline.keys(sink) == {key(1), key(2), key(3)}


class Slow(MemorySink):
    """Its first write takes a while, and then may fail once."""

    def __init__(self, meanwhile: Callable[[], None], *, fails: bool) -> None:
        super().__init__("store", CONFIG)
        self._meanwhile, self._fails, self._writes = meanwhile, fails, 0

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        self._writes += 1
        if self._writes == 1:
            self._meanwhile()
            if self._fails:
                raise TransientError("the store is away")
        return super().write(batches, topic_ids)


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_falls_behind_while_it_runs_has_a_gap(pipeline: Pipeline, clock: Clock, fails: bool) -> None:
    """The store is slow, or away, for longer than deletes are kept, and changes pile up."""

    def meanwhile() -> None:
        clock.ahead = 2 * pipeline.kept
        pipeline.put(2)

    pipeline.put(1)
    sink = Slow(meanwhile, fails=fails)
    with pytest.raises(GapError, match="keeps deletes for"):
        deliver_all(pipeline.log, sink)
    assert pipeline.keys(sink) == {key(1)}
