"""The embedded log is cleaned beside its writer and readers: killed at any moment, and never in their way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdc import starts
from cdc.errors import GapError
from cdc.log import DELETE_RETENTION_SECONDS, Expire, Log, TopicPartition
from cdc.log import _embedded_cleaner as cleaner
from cdc.log._embedded_reader import EmbeddedReader
from cdc.log._sqlite import connect
from cdc.testing import MemorySink
from tests.contract.logs import (
    Place,
    append_and_commit,
    assert_times_tell_where_to_begin,
    beginning,
    keys,
    read_all,
    read_until,
)
from tests.integration.delivered import CONFIG, ORDERS, Source, deliver_all, embedded, key
from tests.servers import wait_until

WEEK = Expire(expire="7d")  # type: ignore[arg-type]  # as in the file


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place({"type": "embedded", "path": str(tmp_path)}, "shop")


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "DIRTY_RECORDS", 1)


@pytest.fixture
def cleaners() -> Callable[[], list[threading.Thread]]:
    """The cleaners that run now. Writers that other tests left open are none of ours."""
    before = set(threading.enumerate())
    return lambda: [one for one in threading.enumerate() if one.name.startswith("cleaner") and one not in before]


def _file(place: Place) -> Path:
    return Path(place.settings["path"]) / place.pipeline / "source-shop.db"


def _clean(path: Path, cleanup: Any = "compact") -> None:
    """Everything that is due, at once."""
    with closing(connect(path)) as connection:
        for _ in cleaner.Cleaner(path, cleanup, lambda _: None).steps(connection):
            pass


def _filled(place: Place, rounds: int = 5, **topics: Any) -> Log:
    """A log in which every one of 1,000 keys was written in each round."""
    log = place.open(**topics)
    log.create_topics([place.topic])
    with closing(log.writer("shop")) as writer:
        writer.fence()
        for n in range(rounds):
            append_and_commit(writer, [place.record(i, b"%d " % n + b"x" * 500) for i in range(1000)], b"%d" % n)
    return log


def _values(log: Log) -> dict[bytes, bytes | None]:
    return {record.key: record.value for records in read_all(log).values() for record in records}


def test_the_last_record_of_each_key_stays_where_it_was_and_the_space_is_given_back(place: Place) -> None:
    log = _filled(place, rounds=20)
    before = read_all(log)
    size = _file(place).stat().st_size
    _clean(_file(place))
    found = read_all(log)
    assert len(keys(found)) == 1000
    for partition, records in found.items():
        assert set(records) <= set(before[partition])
        assert all(record.value is not None and record.value.startswith(b"19 ") for record in records)
    with closing(connect(_file(place))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert _file(place).stat().st_size < size / 8
    assert log.start_offsets(list(found)) == beginning(found)
    assert log.end_offsets(list(found)) == {place: records[-1].offset + 1 for place, records in before.items()}
    assert_times_tell_where_to_begin(log, found)


def _clean_and_die(path: Path) -> None:
    cleaner.DIRTY_RECORDS = 1  # type: ignore[misc]
    _clean(path)
    os._exit(0)  # not reached


@pytest.mark.parametrize("point", ["log.in_step:kill:1", "log.in_step:kill:7", "log.between_steps:kill:9"])
def test_kill_at_any_point_loses_nothing_and_the_next_pass_ends_it(
    place: Place, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _filled(place)
    expected = _values(log)
    monkeypatch.setenv("CDC_FAILPOINT", point)
    process = multiprocessing.get_context("spawn").Process(target=_clean_and_die, args=(_file(place),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert _values(log) == expected
    _clean(_file(place))
    assert _values(log) == expected
    assert len(keys(read_all(log))) == 1000


def test_a_busy_writer_and_its_readers_do_not_notice(
    place: Place, monkeypatch: pytest.MonkeyPatch, cleaners: Callable[[], list[threading.Thread]]
) -> None:
    monkeypatch.setattr(cleaner, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(cleaner, "BUSY_SHARE", 0.5)
    log = _filled(place, rounds=1)
    longest = 0.0
    found: dict[bytes, bytes | None] = {}
    with (
        closing(log.writer("shop")) as writer,
        closing(log.reader(None, lambda _: True, beginning, lambda _: None, max_bytes=20_000)) as reader,
    ):
        writer.fence()
        for n in range(150):
            began = time.monotonic()
            append_and_commit(writer, [place.record(i, b"%d" % n) for i in range(n % 7, 1000, 7)], b"%d" % n)
            longest = max(longest, time.monotonic() - began)
            for fetched in reader.poll(0):
                found |= {record.key: record.value for record in fetched.records}
        ends = log.end_offsets(list(reader.position()))
        while reader.position() != ends:
            for fetched in reader.poll(0):
                found |= {record.key: record.value for record in fetched.records}
        assert found == _values(log)
        wait_until(lambda: len(keys(read_all(log))) < 3000, what="the cleaner")
        assert _values(log) == found
    assert longest < 1.0
    assert not cleaners()


def test_a_fenced_writer_cleans_nothing_any_more(
    place: Place, monkeypatch: pytest.MonkeyPatch, cleaners: Callable[[], list[threading.Thread]]
) -> None:
    monkeypatch.setattr(cleaner, "LOOK_EVERY_SECONDS", 0.01)
    log = place.open(cleanup="keep")
    log.create_topics([place.topic])
    old, new = place.open().writer("shop"), log.writer("shop")
    old.fence()
    new.fence()
    for n in range(2):
        append_and_commit(new, [place.record(i) for i in range(100)], b"%d" % n)
    wait_until(lambda: len(cleaners()) == 0, what="the zombie's end")
    assert len(keys(read_all(log))) == 200
    old.close()
    new.close()


def test_a_reader_finds_its_place_in_a_hole(place: Place) -> None:
    """Also where the block before it is as large as all that the reader may return at once."""
    log = _filled(place, rounds=1)
    with closing(log.writer("shop")) as writer:
        writer.fence()
        for n in range(5):
            append_and_commit(writer, [place.record(i, b"x" * 500) for i in range(1000, 2000)], b"%d" % n)
    with closing(log.reader(None, lambda _: True, beginning, lambda _: None, max_bytes=1)) as reader:
        read_until(reader, lambda found: sum(map(len, found.values())) >= 3000)
        _clean(_file(place))
        ends = log.end_offsets(list(reader.position()))
        found = read_until(reader, lambda _: reader.position() == ends)
    assert keys(found) == sorted(b'{"id":%d}' % n for n in range(1000, 2000))


def _later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(cleaner, "clock", lambda: time.time() + seconds)
    monkeypatch.setattr(starts, "clock", lambda: time.time() + seconds)


def test_what_is_too_old_goes_and_a_reader_that_needs_it_has_a_gap(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _filled(place, cleanup={"expire": "7d"})
    partitions = [*read_all(log)]
    half = {tp: end // 2 for tp, end in log.end_offsets(partitions).items()}
    with closing(log.reader(None, lambda _: True, lambda _: half, lambda _: None, max_bytes=1)) as reader:
        reader.poll(0)
        _clean(_file(place), WEEK)
        assert len(keys(read_all(log))) == 5000
        _later(monkeypatch, 7 * 86400)
        _clean(_file(place), WEEK)
        with pytest.raises(GapError):
            reader.poll(0)
    assert log.start_offsets(partitions) == log.end_offsets(partitions)
    with closing(log.writer("shop")) as writer:
        writer.fence()
        append_and_commit(writer, [place.record(n, b"young") for n in range(10)], b"p")
    starts_at = log.start_offsets(partitions)
    with closing(log.reader(None, lambda _: True, lambda _: starts_at, lambda _: None)) as reader:
        found = read_until(reader, lambda found: sum(map(len, found.values())) == 10)
    assert {record.value for records in found.values() for record in records} == {b"young"}


def test_only_what_is_too_old_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _filled(place, rounds=1, cleanup={"expire": "7d"})
    newest = max(record.timestamp for records in read_all(log).values() for record in records) / 1000
    wait_until(lambda: time.time() > newest + 0.01)
    with closing(log.writer("shop")) as writer:
        writer.fence()
        append_and_commit(writer, [place.record(n, b"young") for n in range(10)], b"p")
    monkeypatch.setattr(cleaner, "clock", lambda: newest + 0.005 + 7 * 86400)
    _clean(_file(place), WEEK)
    starts_at = log.start_offsets([TopicPartition(place.topic, n) for n in range(3)])
    assert sum(starts_at.values()) == 1000
    with closing(log.reader(None, lambda _: True, lambda _: starts_at, lambda _: None)) as reader:
        assert len(keys(read_until(reader, lambda _: sum(reader.position().values()) == 1010))) == 10
    assert log.offsets_for_time(list(starts_at), 0) == starts_at


def test_records_that_go_in_the_moment_of_reading_are_not_skipped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _filled(place, cleanup={"expire": "7d"})
    _later(monkeypatch, 7 * 86400)
    real = EmbeddedReader._read

    def read(reader: EmbeddedReader, *arguments: Any) -> Any:
        _clean(_file(place), WEEK)
        with closing(log.writer("shop")) as writer:
            writer.fence()
            append_and_commit(writer, [place.record(n) for n in range(100)], b"p")
        return real(reader, *arguments)

    with closing(log.reader(None, lambda _: True, beginning, lambda _: None)) as reader:
        monkeypatch.setattr(EmbeddedReader, "_read", read)
        with pytest.raises(GapError):
            reader.poll(0)


def test_keep_keeps_everything(place: Place, cleaners: Callable[[], list[threading.Thread]]) -> None:
    log = _filled(place, cleanup="keep")
    with closing(log.writer("shop")) as writer:
        writer.fence()
        assert not cleaners()
    assert len(keys(read_all(log))) == 5000
    assert log.delete_retention([place.topic]) == {place.topic: float("inf")}


def test_a_sink_that_comes_after_the_tombstone_went_has_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there to read any more, and just therefore the row would stay in the store for ever."""
    log = embedded(tmp_path, partitions=1)
    sink = MemorySink("store", CONFIG)
    file = tmp_path / "test" / "source-shop.db"
    with Source(log) as source:
        source.put(1, "new")
        source.commit()
        deliver_all(log, sink)
        source.delete(1)
        source.commit()
        _clean(file)
        assert [len(records) for records in read_all(log).values()] == [1]
        _later(monkeypatch, DELETE_RETENTION_SECONDS)
        _clean(file)
        assert read_all(log) == {}
        with pytest.raises(GapError, match="keeps deletes for 7 days only"):
            deliver_all(log, MemorySink("store", CONFIG, store=sink.store))
        assert set(sink.store.current(ORDERS.topic)) == {key(1)}


def test_a_new_sink_is_told_that_the_log_does_not_have_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = embedded(tmp_path, partitions=1)
    with Source(log) as source:
        source.put(1, "old")
        source.commit()
        _later(monkeypatch, 7 * 86400)
        _clean(tmp_path / "test" / "source-shop.db", WEEK)
        source.put(2, "new")
        source.commit()
        with capture_logs() as said:
            sink = MemorySink("store", CONFIG)
            deliver_all(log, sink)
    assert set(sink.store.current(ORDERS.topic)) == {key(2)}
    [warning] = [each for each in said if each["event"] == "delivery.topic_begins_later"]
    assert warning["topic"] == ORDERS.topic
    assert "cdc snapshot" in warning["hint"]
