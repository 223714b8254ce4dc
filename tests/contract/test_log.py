"""What both logs promise to a writer, and what a reader sees of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from cdc.errors import CdcError, FencedError, TransientError
from cdc.log import Log, LogWriter, Produced, TopicPartition
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from tests.contract.logs import (
    HEADER,
    Place,
    append,
    append_and_commit,
    assert_times_tell_where_to_begin,
    beginning,
    commit,
    keys,
    read_all,
    read_until,
)
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("kafka")


def test_a_commit_makes_records_and_position_readable_together(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    assert writer.fence() is None
    append(writer, [place.record(n) for n in range(100)])
    assert log.positions() == {}
    commit(writer, b"p1")
    wait_until(lambda: log.positions() == {"shop": b"p1"}, seconds=10)
    assert len(keys(read_all(log))) == 100
    commit(writer, b"p2")
    writer.close()
    assert log.writer("shop").fence() == b"p2"


def _append_and_die(place: Place, *, committed: bool, count: int) -> None:
    writer = place.open().writer("shop")
    writer.fence()
    append(writer, [place.record(n, b"x" * 1000) for n in range(count)])
    if committed:
        commit(writer, b"second")
    else:
        threading.Event().wait(1.0)  # what a client holds in its queues gets out
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("committed", [False, True])
def test_kill_in_mid_append_leaves_nothing_and_after_the_commit_everything(
    log: Log, place: Place, committed: bool
) -> None:
    writer = log.writer("shop")
    writer.fence()
    append(writer, [place.record(0)])
    commit(writer, b"first")
    writer.close()
    count = 9000  # more than the embedded log keeps in memory
    process = multiprocessing.get_context("spawn").Process(
        target=_append_and_die, args=(place,), kwargs={"committed": committed, "count": count}
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    writer = log.writer("shop")
    assert writer.fence() == (b"second" if committed else b"first")
    assert len(keys(read_all(log))) == (count + 1 if committed else 1)
    append(writer, [place.record(1)])
    commit(writer, b"third")
    assert len(keys(read_all(log))) == (count + 2 if committed else 2)
    for partition, records in read_all(log).items():
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets)), partition


def test_a_fenced_writer_changes_nothing_any_more(log: Log, place: Place) -> None:
    old, new = log.writer("shop"), log.writer("shop")
    old.fence()
    append(old, [place.record(1)])
    commit(old, b"old")
    append(old, [place.record(2)])
    assert new.fence() == b"old"
    with pytest.raises(FencedError):
        commit(old, b"zombie")
    append(new, [place.record(3)])
    commit(new, b"new")
    assert keys(read_all(log)) == [b'{"id":1}', b'{"id":3}']
    wait_until(lambda: log.positions() == {"shop": b"new"}, seconds=10)


def test_a_fenced_writer_that_was_idle_is_refused_at_its_next_append(log: Log, place: Place) -> None:
    old, new = log.writer("shop"), log.writer("shop")
    for turn in (b"1", b"2", b"3"):  # an odd and an even number of commits
        if turn == b"1":
            old.fence()
        append(old, [place.record(1)])
        commit(old, turn)
    new.fence()
    with pytest.raises(FencedError):
        append_and_commit(old, [place.record(9, b"x" * 1000)] * 9000, b"zombie")
    assert b'{"id":9}' not in keys(read_all(log))


def test_a_writer_of_another_source_is_not_fenced(log: Log, place: Place) -> None:
    other = f"{place.pipeline}.public.others"
    log.create_topics([other])
    first, second = log.writer("first"), log.writer("second")
    first.fence()
    append(first, [place.record(1)])
    second.fence()
    append(second, [place.record(2, topic=other)])
    commit(second, b"b")
    commit(first, b"a")
    wait_until(lambda: log.positions() == {"first": b"a", "second": b"b"}, seconds=10)


def test_a_writer_closed_without_commit_leaves_nothing(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append(writer, [place.record(n, b"x" * 1000) for n in range(9000)])
    writer.close()
    writer.close()
    assert read_all(log) == {}
    assert log.positions() == {}
    with pytest.raises(TransientError):
        writer.append([place.record(1)], 1.0)


def test_equal_keys_share_a_partition_in_the_order_of_appending(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    sent = [place.record(n % 20, b"%d" % n) for n in range(1000)]
    for first in range(0, 1000, 100):
        append(writer, sent[first : first + 100])
        commit(writer, b"p")
    found = read_all(log)
    assert len(found) == 3
    homes: dict[bytes, set[TopicPartition]] = {}
    for partition, records in found.items():
        for record in records:
            homes.setdefault(record.key, set()).add(partition)
        values = [int(record.value or b"") for record in records]
        assert values == sorted(values)
    assert len(homes) == 20
    assert all(len(partitions) == 1 for partitions in homes.values())


def test_a_marker_stands_in_every_partition_after_what_precedes_it(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append(writer, [place.record(n, b"before") for n in range(3000)])
    writer.append_marker(place.topic, b"marker", HEADER)
    append(writer, [place.record(n, b"after") for n in range(3000)])
    writer.append_marker(place.topic, b"last", HEADER)
    commit(writer, b"p")
    found = read_all(log)
    assert len(found) == 3
    for records in found.values():
        values = [b"" if record.key in (b"marker", b"last") else record.value for record in records]
        half = values.index(b"")
        assert values == [b"before"] * half + [b""] + [b"after"] * half + [b""]
        assert records[half].value == b""
        assert records[half].header == HEADER


def test_null_and_empty_values_and_headers_come_back_as_they_went(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    header = bytes(range(32))
    append(writer, [Produced(place.topic, b"k", value, header) for value in (b"", None, b"\0\xff", None)])
    commit(writer, b"\0position\xff")
    (records,) = read_all(log).values()
    assert [record.value for record in records] == [b"", None, b"\0\xff", None]
    assert {record.header for record in records} == {header}
    assert all(record.timestamp > 1_700_000_000_000 for record in records)
    wait_until(lambda: log.positions() == {"shop": b"\0position\xff"}, seconds=10)


def test_schema_records_appear_with_the_commit(log: Log, place: Place) -> None:
    schema = TableSchema(place.topic, "public", "orders", (Column("id", LogicalType(Kind.INT64), "bigint"),), ("id",))
    writer = log.writer("shop")
    writer.fence()
    writer.append_schema(schema)
    append(writer, [place.record(1)])
    assert log.schemas() == {}
    commit(writer, b"p")
    wait_until(lambda: log.schemas() == {schema.id: schema}, seconds=10)
    writer.append_schema(schema)
    commit(writer, b"p")
    other = place.open()
    wait_until(lambda: other.schemas() == {schema.id: schema}, seconds=10)


def test_a_record_of_two_megabytes(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    large = os.urandom(2 << 20)
    append(writer, [place.record(n, large) for n in range(20)])
    commit(writer, b"p")
    values = [record.value for records in read_all(log).values() for record in records]
    assert values == [large] * 20


def test_a_topic_that_does_not_exist_is_an_error(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    with pytest.raises(CdcError, match="nowhere"):
        _mark(writer, f"{place.pipeline}.public.nowhere")


def _mark(writer: LogWriter, topic: str) -> None:
    writer.append_marker(topic, b"k", HEADER)
    commit(writer, b"p")


def test_epochs_rise_across_processes_and_start_where_asked(log: Log, place: Place) -> None:
    first = log.next_epoch()
    assert first >= 1
    assert place.open().next_epoch() == first + 1
    assert log.next_epoch(at_least=100) == 100
    assert log.next_epoch(at_least=50) == 101


def test_states_are_kept_by_kind_and_name(log: Log, place: Place) -> None:
    log.put_state("worker", "source/shop", {"state": "streaming"})
    log.put_state("worker", "sink/search", {"state": "failed", "error": "é"})
    log.put_state("started", "sink/search", {"partitions": [0, 1]})
    log.put_state("worker", "source/shop", {"state": "stopped"})
    other = place.open()
    assert other.states("worker") == {
        "source/shop": {"state": "stopped"},
        "sink/search": {"state": "failed", "error": "é"},
    }
    log.put_state("worker", "sink/search", None)
    assert other.states("worker") == {"source/shop": {"state": "stopped"}}
    assert other.states("started") == {"sink/search": {"partitions": [0, 1]}}
    assert other.states("nothing") == {}
    assert log.next_epoch() == 1


def test_reading_a_log_that_holds_nothing_yet(place: Place) -> None:
    log = place.open()
    assert log.topics() == {}
    assert log.positions() == {}
    assert log.schemas() == {}
    assert log.prepared("shop") == {}
    assert list(log.prepared_parts("shop", "a")) == []
    assert log.states("worker") == {}
    assert log.committed("sink/search") == {}
    log.close()
    log.close()


def test_delete_takes_everything_and_a_writer_that_lives_on_cannot_commit(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append(writer, [place.record(1)])
    commit(writer, b"p")
    log.put_state("worker", "source/shop", {})
    reader = log.reader("search", lambda _: True, beginning, lambda _: None)
    read_until(reader, lambda found: found)
    reader.commit(reader.position())
    reader.close()
    log.delete()
    fresh = place.open()
    wait_until(lambda: not fresh.topics(), what="the topics' end")
    with pytest.raises((CdcError, AssertionError)):  # refused, or never done
        append_and_commit(writer, [place.record(1)], b"p", seconds=3)
    assert fresh.positions() == {}
    assert fresh.states("worker") == {}
    assert fresh.committed("search") == {}


def test_a_topic_has_one_id_until_it_is_made_anew(log: Log, place: Place) -> None:
    topic = log.topics()[place.topic]
    assert topic.partitions == 3
    log.create_topics([place.topic])
    assert log.topics() == place.open(partitions=5).topics() == {place.topic: topic}


def test_two_sources_may_not_write_one_topic_of_the_embedded_log(log: Log, place: Place) -> None:
    if place.settings["type"] == "kafka":
        pytest.skip("Kafka cannot tell; the configuration's check does")
    first, second = log.writer("first"), log.writer("second")
    first.fence()
    second.fence()
    append(first, [place.record(1)])
    with pytest.raises(CdcError, match="first"):
        append(second, [place.record(1)])


def test_a_time_tells_where_to_begin(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    places = [TopicPartition(place.topic, number) for number in range(3)]
    assert log.offsets_for_time(places, 0) == beginning(places)
    for n in range(5):
        append_and_commit(writer, [place.record(number) for number in range(1000)], b"%d" % n)
        now = time.time()
        wait_until(lambda now=now: time.time() > now + 0.002, what="another millisecond")
    found = read_all(log)
    assert len({record.timestamp for records in found.values() for record in records}) >= 5
    assert_times_tell_where_to_begin(log, found)
    later = round(time.time() * 1000) + 60_000
    assert log.offsets_for_time(places, later) == log.end_offsets(places)
