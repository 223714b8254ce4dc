"""What only the embedded log has to stand: locked and lost files, a full disk, old readers of new files."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import sqlite3
import time
from pathlib import Path

import pytest

from cdc.errors import GapError, PermanentError, TransientError
from cdc.log import Log, LogWriter, Produced
from tests.contract.logs import (
    Place,
    append,
    append_and_commit,
    append_prepared,
    beginning,
    commit,
    keys,
    read_all,
    read_until,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place({"type": "embedded", "path": str(tmp_path)}, "shop")


@pytest.fixture
def log(place: Place) -> Log:
    log = place.open()
    log.create_topics([place.topic])
    return log


def _file(place: Place, name: str = "source-shop.db") -> Path:
    return Path(place.settings["path"]) / place.pipeline / name


def test_what_is_stored_again_and_again_makes_no_files_each_time(log: Log, place: Place) -> None:
    log.put_state("worker", "source/shop", {"state": "streaming"})
    wal = _file(place, "groups.db-wal").stat()
    log.put_state("worker", "source/shop", {"state": "stopped"})
    assert _file(place, "groups.db-wal").stat().st_ino == wal.st_ino
    log.close()
    assert not _file(place, "groups.db-wal").exists()


def test_a_locked_file_leaves_calls_short_and_loses_nothing(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(0)], b"p")
    records = [place.record(n, b"x" * 1000) for n in range(1, 20_000)]
    locker = sqlite3.connect(_file(place), isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    taken = writer.append(records, 0.2)
    assert writer.append(records[taken:], 0.2) == 0
    assert writer.commit(b"q", 0.2) is False
    assert 0.4 < time.monotonic() - began < 2
    assert 0 < taken < 10_000  # what is held in memory
    locker.execute("ROLLBACK")
    append(writer, records[taken:])
    commit(writer, b"q")
    assert len(keys(read_all(log))) == 20_000


def test_a_locked_file_takes_only_so_many_parts_of_a_prepared_transaction(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    locker = sqlite3.connect(_file(place), isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    part, taken, began = b"x" * 1_000_000, 0, time.monotonic()
    while writer.append_prepared("a", part, 0.2):
        taken += 1
    assert 0.2 < time.monotonic() - began < 2
    assert 0 < taken < 10  # what is held in memory
    locker.execute("ROLLBACK")
    append_prepared(writer, "a", b"last")
    commit(writer, b"p")
    assert list(log.prepared_parts("shop", "a")) == [part] * taken + [b"last"]


def test_a_file_of_a_version_that_kept_no_prepared_transactions(log: Log, place: Place) -> None:
    log.writer("shop").fence()
    connection = sqlite3.connect(_file(place))
    with connection:
        connection.executescript("DROP TABLE prepared; DROP TABLE parts")
    connection.close()
    assert log.prepared("shop") == {}
    assert list(log.prepared_parts("shop", "a")) == []
    writer = log.writer("shop")
    writer.fence()
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    assert log.prepared("shop") == {"a": 1}


def test_no_part_stays_in_the_file_for_nobody(log: Log, place: Place) -> None:
    def held() -> int:
        connection = sqlite3.connect(_file(place))
        (count,) = connection.execute("SELECT count(*) FROM parts").fetchone()
        connection.close()
        return int(count)

    writer = log.writer("shop")
    writer.fence()
    append_prepared(writer, "a", *[b"x" * 1_000_000] * 9)
    assert held() > 0
    writer.close()
    writer = log.writer("shop")
    writer.fence()
    assert held() == 0
    append_prepared(writer, "a", b"1")
    commit(writer, b"p")
    assert held() == 1
    writer.forget_prepared("a")
    commit(writer, b"q")
    assert held() == 0


def test_the_parts_of_a_transaction_that_is_forgotten_meanwhile_do_not_just_end(log: Log) -> None:
    writer = log.writer("shop")
    writer.fence()
    append_prepared(writer, "a", b"1", b"2")
    commit(writer, b"p")
    parts = log.prepared_parts("shop", "a")
    assert next(parts) == b"1"
    writer.forget_prepared("a")
    commit(writer, b"q")
    with pytest.raises(TransientError, match="forgotten"):
        next(parts)


def test_a_reader_does_not_hold_up_the_writer_nor_the_file_s_upkeep(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    reader = log.reader(None, lambda _: True, beginning, lambda _: None, max_bytes=1000)
    for n in range(30):
        append_and_commit(writer, [place.record(i, b"x" * 1000) for i in range(1000)], b"%d" % n)
        reader.poll(0.1)
    assert _file(place, "source-shop.db-wal").stat().st_size < 24 << 20  # 30 MB went through it
    reader.close()


def _append_for_ever(writer: LogWriter, records: list[Produced]) -> None:
    for n in itertools.count():
        append_and_commit(writer, records, b"full %d" % n)


def _append_until_the_disk_is_full(place: Place) -> None:
    writer = place.open().writer("shop")
    writer.fence()
    size = _file(place).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + (8 << 20), resource.RLIM_INFINITY))
    with pytest.raises(TransientError, match="source-shop"):
        _append_for_ever(writer, [place.record(i, b"x" * 1000) for i in range(1000)])
    with pytest.raises(TransientError):
        writer.commit(b"later", 1.0)


def test_a_full_disk_is_transient_and_what_was_committed_stays(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(i) for i in range(10)], b"p")
    writer.close()
    process = multiprocessing.get_context("spawn").Process(target=_append_until_the_disk_is_full, args=(place,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    writer = log.writer("shop")
    position = writer.fence()
    assert position is not None
    assert position != b"later"
    commits = int(position.removeprefix(b"full ")) + 1 if position != b"p" else 0
    assert len(keys(read_all(log))) == 10 + commits * 1000
    append_and_commit(writer, [place.record(99)], b"r")
    assert len(keys(read_all(log))) == 11 + commits * 1000


def test_a_lost_file_is_noticed_by_its_readers(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(n) for n in range(30)], b"p")
    writer.close()
    reader = log.reader("search", lambda _: True, beginning, lambda _: None)
    read_until(reader, lambda found: sum(map(len, found.values())) == 30)
    reader.commit(reader.position())
    reader.close()
    for path in _file(place).parent.glob("source-shop.db*"):
        path.unlink()
    writer = log.writer("shop")
    assert writer.fence() is None
    append_and_commit(writer, [place.record(n) for n in range(300)], b"p")  # more: the offsets exist again
    stored = log.committed("search")
    reader = log.reader("search", lambda _: True, lambda tps: {tp: stored[tp].offset for tp in tps}, lambda _: None)
    with pytest.raises(GapError):
        read_until(reader, lambda _: False)


def test_next_offsets_do_not_depend_on_what_the_file_still_holds(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(n) for n in range(30)], b"p")
    writer.close()
    ends = log.end_offsets([*read_all(log)])
    connection = sqlite3.connect(_file(place))
    with connection:
        connection.execute("DELETE FROM blocks")  # as compaction might
    connection.close()
    writer = log.writer("shop")
    writer.fence()
    append_and_commit(writer, [place.record(n) for n in range(30)], b"q")
    for partition, records in read_all(log).items():
        assert records[0].offset == ends[partition]


def test_a_damaged_file_is_not_retried(log: Log, place: Place) -> None:
    log.writer("shop").fence()
    _file(place).write_bytes(b"no database" * 1000)
    with pytest.raises(PermanentError, match="source-shop"):
        log.writer("shop").fence()


def test_a_value_of_a_record_is_in_no_message(log: Log, place: Place) -> None:
    writer = log.writer("shop")
    writer.fence()
    append(writer, [place.record(1, b"s3cret")])
    other = sqlite3.connect(_file(place))
    with other:
        other.execute("DROP TABLE blocks")
    other.close()
    with pytest.raises(TransientError) as caught:
        writer.commit(b"p", 1.0)
    assert "s3cret" not in str(caught.value)
