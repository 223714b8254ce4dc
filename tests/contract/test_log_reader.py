"""What both logs promise to a reader: offsets, groups, and that nothing missing goes unnoticed."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from cdc.errors import GapError, TransientError
from cdc.log import Log, LogWriter, TopicPartition
from tests.contract.logs import Place, append, append_and_commit, beginning, commit, keys, reached, read_until
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("kafka")


def _writer(log: Log) -> LogWriter:
    writer = log.writer("shop")
    writer.fence()
    return writer


def _ignore(_: Sequence[TopicPartition]) -> None:
    """Nothing to do when partitions go."""


def _partitions(place: Place) -> list[TopicPartition]:
    return [TopicPartition(place.topic, index) for index in range(3)]


def _recreate_topic(log: Log, place: Place) -> None:
    """Delete the topic and make it again under its name, as an operator would."""
    old = log.topics()[place.topic].id
    if place.settings["type"] == "kafka":
        client = AdminClient({"bootstrap.servers": place.settings["bootstrap"]})
        client.delete_topics([place.topic])[place.topic].result(10)
        wait_until(lambda: place.topic not in log.topics(), what="the topic's end")
    else:
        connection = sqlite3.connect(Path(place.settings["path"]) / place.pipeline / "groups.db")
        with connection:
            connection.execute("DELETE FROM topics")
        connection.close()
    log.create_topics([place.topic])
    assert log.topics()[place.topic].id != old


def test_what_is_not_committed_is_not_read(log: Log, place: Place) -> None:
    writer = _writer(log)
    reader = log.reader(None, lambda _: True, beginning, _ignore)
    append_and_commit(writer, [place.record(1)], b"p")
    append(writer, [place.record(n, b"x" * 1000) for n in range(100, 9000)])
    found = read_until(reader, lambda found: found)
    for _ in range(5):
        assert not [batch for batch in reader.poll(0.1) if batch.records]
    assert keys(found) == [b'{"id":1}']
    commit(writer, b"q")
    assert len(keys(read_until(reader, lambda found: sum(map(len, found.values())) >= 8900))) == 8900
    reader.close()
    reader.close()


def test_the_position_at_the_end_is_the_end_offset(log: Log, place: Place) -> None:
    writer = _writer(log)
    for n in range(4):
        append_and_commit(writer, [place.record(n)] * 3, b"p")
    append(writer, [place.record(n) for n in range(50)])
    writer.close()  # aborted records at the end
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    ends = log.end_offsets(_partitions(place))
    read_until(reader, lambda _: reached(reader, ends))

    def stands_at_the_end() -> bool:
        assert not [batch for batch in reader.poll(0.05) if batch.records]
        return reader.position() == log.end_offsets(_partitions(place))

    wait_until(stands_at_the_end, what="position() == end_offsets()")
    assert sum(ends.values()) >= 12
    assert log.start_offsets(_partitions(place)) == beginning(_partitions(place))
    reader.close()


def test_a_group_goes_on_where_it_committed(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_and_commit(writer, [place.record(n) for n in range(100)], b"p")
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    read_until(reader, lambda found: sum(map(len, found.values())) == 100)
    reached = dict(reader.position())
    reader.commit(reached)
    reader.close()
    append_and_commit(writer, [place.record(n) for n in range(100, 200)], b"q")
    stored = place.open().committed("search")
    assert {tp: entry.offset for tp, entry in stored.items()} == reached
    assert {entry.topic_id for entry in stored.values()} == {log.topics()[place.topic].id}

    def where_it_was(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {tp: log.committed("search")[tp].offset for tp in partitions}

    reader = log.reader("search", lambda _: True, where_it_was, _ignore)
    found = read_until(reader, lambda found: sum(map(len, found.values())) == 100)
    assert keys(found) == sorted(b'{"id":%d}' % n for n in range(100, 200))
    reader.close()
    assert log.committed("other") == {}


def test_assignment_tells_the_partitions_and_leaving_gives_them_back(log: Log, place: Place) -> None:
    assigned: list[TopicPartition] = []
    revoked: list[TopicPartition] = []

    def on_assigned(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        assigned.extend(partitions)
        return beginning(partitions)

    def on_revoked(partitions: Sequence[TopicPartition]) -> None:
        revoked.extend(partitions)
        reader.commit(reader.position())

    append_and_commit(_writer(log), [place.record(1)], b"p")
    reader = log.reader("search", lambda name: name == place.topic, on_assigned, on_revoked)
    read_until(reader, lambda found: found)
    assert sorted(assigned) == _partitions(place)
    assert revoked == []
    reader.close()
    assert sorted(revoked) == _partitions(place)
    assert set(log.committed("search")) == set(_partitions(place))


def test_an_error_in_a_callback_reaches_the_caller_of_poll(log: Log, place: Place) -> None:
    def refuse(_: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        raise GapError("no")

    reader = log.reader("search", lambda _: True, refuse, _ignore)
    with pytest.raises(GapError):
        read_until(reader, lambda _: False)
    reader.close()


def test_a_topic_that_comes_into_being_later_is_found(log: Log, place: Place) -> None:
    reader = log.reader("search", lambda name: name.endswith("s"), beginning, _ignore)
    read_until(reader, lambda _: reader.position())
    later, unwanted = f"{place.pipeline}.public.items", f"{place.pipeline}.public.other"
    log.create_topics([later, unwanted])
    writer = _writer(log)
    append_and_commit(writer, [place.record(1), place.record(2, topic=later), place.record(3, topic=unwanted)], b"p")
    found = read_until(reader, lambda found: len(found) == 2)
    assert {tp.topic for tp in found} == {place.topic, later}
    assert {tp.topic for tp in reader.position()} == {place.topic, later}
    reader.close()


def test_pause_resume_and_seek(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_and_commit(writer, [place.record(n) for n in range(300)], b"p")
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    read_until(reader, lambda found: sum(map(len, found.values())) == 300)
    held, *others = _partitions(place)
    reader.pause([held])
    append_and_commit(writer, [place.record(n) for n in range(300)], b"q")
    ends = log.end_offsets(_partitions(place))
    found = read_until(reader, lambda _: all(reader.position()[tp] >= ends[tp] for tp in others))
    assert sorted(found) == others
    assert not any(batch.records for _ in range(5) for batch in reader.poll(0.1))
    reader.pause([held])
    reader.resume([held, others[0]])
    found = read_until(reader, lambda _: reached(reader, ends))
    assert list(found) == [held]
    reader.seek(held, 5)
    found = read_until(reader, lambda _: reached(reader, ends))
    assert [record.offset for record in found[held]][:3] == [5, 6, 7]
    reader.close()


def test_a_reader_returns_no_more_than_it_was_allowed_to_at_once(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_and_commit(writer, [place.record(n, b"x" * 10_000) for n in range(1000)], b"p")
    reader = log.reader(None, lambda _: True, beginning, _ignore, max_bytes=1 << 20)
    sizes: list[int] = []
    while sum(sizes) < 1000:
        sizes.append(sum(len(batch.records) for batch in reader.poll(1.0)))
    assert max(sizes) < 500
    reader.close()


@pytest.mark.parametrize("offset", [-1, 1000])
def test_an_offset_outside_the_log_is_a_gap(log: Log, place: Place, offset: int) -> None:
    append_and_commit(_writer(log), [place.record(1)], b"p")
    reader = log.reader("search", lambda _: True, lambda tps: dict.fromkeys(tps, offset), _ignore)
    with pytest.raises(GapError):
        read_until(reader, lambda _: False)
    reader.close()


def test_an_offset_of_a_topic_that_was_made_anew_is_a_gap(log: Log, place: Place) -> None:
    append_and_commit(_writer(log), [place.record(n) for n in range(30)], b"p")
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    read_until(reader, lambda found: sum(map(len, found.values())) == 30)
    reader.commit(reader.position())
    reader.close()
    _recreate_topic(log, place)
    append_and_commit(_writer(log), [place.record(n) for n in range(300)], b"p")  # more: the offsets exist again

    def where_it_was(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {tp: log.committed("search")[tp].offset for tp in partitions}

    reader = log.reader("search", lambda _: True, where_it_was, _ignore)
    if log.committed("search"):  # Kafka may have dropped the offsets along with the topic
        with pytest.raises(GapError):
            read_until(reader, lambda _: False)
    reader.close()


def test_a_topic_made_anew_under_a_reader_is_a_gap(log: Log, place: Place) -> None:
    append_and_commit(_writer(log), [place.record(n) for n in range(30)], b"p")
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    read_until(reader, lambda found: sum(map(len, found.values())) == 30)
    _recreate_topic(log, place)
    with pytest.raises(GapError):
        read_until(reader, lambda _: False)
    reader.close()


def _commit_often(place: Place, count: int) -> None:
    writer = place.open().writer("shop")
    writer.fence()
    for n in range(count):
        append_and_commit(writer, [place.record(n, b"%d" % n)], b"%d" % n)


def test_a_reader_beside_a_busy_writer_sees_each_record_once_in_order(log: Log, place: Place) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_commit_often, args=(place, 150))
    process.start()
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    found = read_until(reader, lambda found: sum(map(len, found.values())) >= 150, seconds=60)
    process.join(30)
    assert process.exitcode == 0
    for records in found.values():
        numbers = [int(record.value or b"") for record in records]
        assert numbers == sorted(set(numbers))
    assert sum(map(len, found.values())) == 150
    reader.close()


def test_two_readers_of_one_group_share_the_partitions(log: Log, place: Place) -> None:
    writer = _writer(log)
    append_and_commit(writer, [place.record(n) for n in range(30)], b"p")
    revoked: list[TopicPartition] = []
    first = log.reader("search", lambda _: True, beginning, revoked.extend)
    read_until(first, lambda _: len(first.position()) == 3)
    stop = threading.Event()

    def keep_polling() -> None:
        while not stop.is_set():
            first.poll(0.05)

    thread = threading.Thread(target=keep_polling)
    thread.start()
    second = log.reader("search", lambda _: True, beginning, _ignore)
    try:
        read_until(second, lambda _: second.position() and len(second.position()) + len(first.position()) == 3)
    finally:
        stop.set()
        thread.join()
    assert not second.position().keys() & first.position().keys()
    assert set(revoked) == set(second.position())
    # Who leaves gives back what it had; whose turn it is then has it at the latest with its next look.
    first.close()
    read_until(second, lambda _: len(second.position()) == 3)
    second.close()


def _read_and_hang(place: Place, reading: Event) -> None:
    reader = place.open().reader("search", lambda _: True, beginning, _ignore)
    while True:
        reader.poll(0.05)
        if reader.position():
            reading.set()


def test_what_a_killed_reader_had_goes_to_the_others(log: Log, place: Place) -> None:
    append_and_commit(_writer(log), [place.record(n) for n in range(30)], b"p")
    context = multiprocessing.get_context("spawn")
    reading = context.Event()
    other = context.Process(target=_read_and_hang, args=(place, reading))
    other.start()
    try:
        wait_until(reading.is_set, what="the other process's first record")
    finally:
        other.kill()
        other.join()
    reader = log.reader("search", lambda _: True, beginning, _ignore)
    found = read_until(reader, lambda found: sum(map(len, found.values())) == 30, seconds=60)
    assert len(found) == 3
    reader.close()


def test_a_group_with_room_for_one(log: Log, place: Place) -> None:
    if place.settings["type"] == "kafka":
        pytest.skip("a broker lets anybody join: there the store refuses")
    append_and_commit(_writer(log), [place.record(0)], b"p")
    first = log.reader("search", lambda _: True, beginning, _ignore, alone=True)
    with pytest.raises(TransientError, match="room for one"):
        log.reader("search", lambda _: True, beginning, _ignore, alone=True)
    first.close()
    log.reader("search", lambda _: True, beginning, _ignore, alone=True).close()
