"""When a batch is due, and what is in it."""

from __future__ import annotations

import time
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc import intake as module
from cdc.config.fields import BatchConfig
from cdc.intake import IDLE_SECONDS, Intake
from cdc.log import Fetched, Record, TopicPartition


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def fetched(first: int, count: int, *, partition: int = 0, size: int = 1) -> Fetched:
    records = [Record(offset, b"k", b"v" * size, b"", 0) for offset in range(first, first + count)]
    return Fetched("t", partition, records, first + count)


def intake(rows: int = 10, every: float = 0.2, size: int = 32 << 20) -> Intake:
    return Intake(BatchConfig.model_construct(rows=rows, bytes=size, every=every))


def write(intake: Intake, clock: Clock, seconds: float) -> None:
    intake.take()
    clock.now += seconds
    intake.written()


def test_nothing_is_due_when_nothing_came(clock: Clock) -> None:
    empty = intake()
    assert not empty.due(dry=False)
    assert empty.due(dry=True)  # the turn ends, with nothing to write
    assert empty.take() == []
    assert not empty
    assert empty.patience() == IDLE_SECONDS


def test_a_lone_record_is_due_at_once_when_the_log_is_dry(clock: Clock) -> None:
    lone = intake()
    lone.add([fetched(0, 1)])
    assert lone.patience() == 0
    assert not lone.due(dry=False)
    assert lone.due(dry=True)


def test_a_busy_store_is_left_alone_as_long_as_its_last_write_took(clock: Clock) -> None:
    busy = intake(every=0.2)
    busy.add([fetched(0, 1)])
    write(busy, clock, 0.05)
    busy.add([fetched(1, 1)])
    assert busy.patience() == pytest.approx(0.05)
    assert not busy.due(dry=True)
    clock.now += 0.051
    assert busy.due(dry=True)


def test_the_end_of_a_backlog_does_not_wait(clock: Clock) -> None:
    backlog = intake(rows=3, every=0.2)
    backlog.add([fetched(0, 4)])
    write(backlog, clock, 0.05)
    assert backlog.patience() == 0
    assert backlog.due(dry=True)
    write(backlog, clock, 0.05)
    backlog.add([fetched(4, 1)])
    assert not backlog.due(dry=True), "that batch was not full"


def test_no_record_waits_longer_than_every(clock: Clock) -> None:
    slow = intake(every=0.2)
    slow.add([fetched(0, 1)])
    write(slow, clock, 30)
    slow.add([fetched(1, 1)])
    clock.now += 0.19
    assert not slow.due(dry=True)
    assert slow.patience() == pytest.approx(0.01)
    clock.now += 0.02
    assert slow.due(dry=False)


def test_a_full_batch_is_due_by_rows_or_bytes(clock: Clock) -> None:
    full = intake(rows=3)
    full.add([fetched(0, 2)])
    assert not full.due(dry=False)
    full.add([fetched(2, 1)])
    assert full.due(dry=False)
    heavy = intake(size=100)
    heavy.add([fetched(0, 1, size=99)])
    assert not heavy.due(dry=False)
    heavy.add([fetched(1, 1, size=1)])
    assert heavy.due(dry=False)
    heavy.take()
    heavy.written()
    heavy.add([fetched(2, 1, size=99)])
    assert not heavy.due(dry=False)


def test_offsets_that_were_passed_without_a_record_wait_for_one_or_for_a_dry_log(clock: Clock) -> None:
    passed = intake(every=0.2)
    passed.add([Fetched("t", 0, [], 7)])
    assert passed.patience() == IDLE_SECONDS
    assert not passed.due(dry=False)
    assert passed.due(dry=True)
    clock.now += 0.2
    assert passed.due(dry=False)
    assert passed.take() == [Fetched("t", 0, [], 7)]


def test_partitions_that_went_to_another_reader_are_forgotten() -> None:
    shared = intake(rows=2)
    shared.add([fetched(0, 1), fetched(0, 4, partition=1)])
    shared.take()
    shared.drop([TopicPartition("t", 1)])
    assert shared.batch == [fetched(0, 1)]
    shared.written()
    assert not shared
    assert not shared.due(dry=False)


def test_a_batch_that_is_full_leaves_the_rest_with_its_offsets() -> None:
    full = intake(rows=3)
    full.add([fetched(0, 2), fetched(5, 3, partition=1)])
    assert full.take() == [fetched(0, 2), fetched(5, 1, partition=1)]
    full.written()
    assert full.take() == [fetched(6, 2, partition=1)]
    full.written()
    assert not full


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=20), st.integers(1, 12))
def test_every_record_is_taken_once_and_in_order(polls: list[tuple[int, int]], rows: int) -> None:
    cut = intake(rows=rows)
    ends = [0, 0, 0]
    parts = []
    for partition, count in polls:
        parts.append(fetched(ends[partition], count, partition=partition))
        ends[partition] += count
    cut.add(parts)
    batches: list[list[Fetched]] = []
    while cut:
        batches.append(list(cut.take()))
        cut.written()
    assert all(0 <= sum(len(part.records) for part in batch) <= rows for batch in batches)
    for partition in range(3):
        taken = [part for part in chain.from_iterable(batches) if part.partition == partition]
        assert [record.offset for part in taken for record in part.records] == list(range(ends[partition]))
        for part in taken:
            assert not part.records or part.next_offset == part.records[-1].offset + 1


def test_time_passes_for_real() -> None:
    real = intake(every=0.05)
    real.add([fetched(0, 1)])
    deadline = time.monotonic() + 5
    while not real.due(dry=False):
        assert time.monotonic() < deadline
