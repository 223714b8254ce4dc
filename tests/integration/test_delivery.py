"""Delivery on a real log: what is on the log comes to be in the store, and nothing is skipped in silence."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc import ahead, delivery, tables
from cdc.config.fields import BatchConfig, SinkConfig
from cdc.errors import FencedError, GapError, PermanentError, RebalancingError, TransientError
from cdc.log import Fetched, LogReader, TopicPartition
from cdc.log._embedded_reader import EmbeddedReader
from cdc.log.embedded import EmbeddedLog
from cdc.reduce import key_hash
from cdc.sink import Batch, Rejected, StoredOffset, accepted
from cdc.testing import MemorySink, MemorySinkWithOffsets, MemoryStore
from cdc.worker import Control, State
from schemas.table import TableSchema
from tests.integration.delivered import (
    CONFIG,
    ITEMS,
    ORDERS,
    Delivering,
    Source,
    deliver_all,
    delivering,
    embedded,
    key,
    row,
    started,
    table,
)
from tests.servers import wait_until


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    return embedded(tmp_path)


@pytest.fixture
def source(log: EmbeddedLog) -> Iterator[Source]:
    with Source(log) as source:
        yield source


@pytest.fixture(params=[MemorySink, MemorySinkWithOffsets])
def kind(request: pytest.FixtureRequest) -> type[MemorySink]:
    """A sink whose offsets the log keeps, and one that keeps its own."""
    found: type[MemorySink] = request.param
    return found


class Strict(MemorySinkWithOffsets):
    """A sink that never takes a row whose note is ``bad``."""

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        refused = [(batch, row) for batch in batches for row in batch.rows if row.after and b'"bad"' in row.after]
        rejected = [Rejected(b.topic, b.partition, row.offset, row.key, "too bad") for b, row in refused]
        taken = [b._replace(rows=[row for row in b.rows if (b, row) not in refused]) for b in batches]
        super().write(accepted(taken, rejected), topic_ids)
        offsets = dict(self.store.offsets)
        super().write([batch for batch in taken if batch not in accepted(taken, rejected)], topic_ids)
        self.store.offsets = offsets
        return rejected


class Trial(MemorySink):
    """A sink that remembers how often it was written to, and does first what the test says."""

    def __init__(
        self, before: Callable[[int], None] = lambda _: None, store: MemoryStore | None = None, **options: Any
    ) -> None:
        super().__init__("store", CONFIG, store=store)
        self.before = before
        self.writes: list[list[Batch]] = []
        self.closed = False

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        self.writes.append(list(batches))
        self.before(len(self.writes))
        return super().write(batches, topic_ids)

    def close(self) -> None:
        self.closed = True

    def rows_written(self) -> int:
        return sum(len(batch.rows) for batches in self.writes for batch in batches)


def failing(times: int) -> Callable[[int], None]:
    """Fails the first `times` writes."""

    def before(write: int) -> None:
        if write <= times:
            raise TransientError(f"the store is away ({write})", hint="it comes back")

    return before


def state(log: EmbeddedLog) -> Mapping[str, Any]:
    return log.states("worker").get("sink/store", {})


def holds(store: MemoryStore, source: Source) -> Callable[[], bool]:
    return lambda: all(store.current(topic) == rows for topic, rows in source.rows.items())


def test_what_is_on_the_log_comes_to_be_in_the_store(log: EmbeddedLog, source: Source, kind: type[MemorySink]) -> None:
    for number in range(50):
        source.put(number, "new")
        source.put(number, "item", ITEMS)
    source.truncate(ITEMS)
    for number in range(0, 50, 2):
        source.put(number, "changed")
        source.delete(number + 1)
    source.put(7, "item", ITEMS)
    source.commit()
    sink = kind("store", CONFIG)
    assert deliver_all(log, sink).caught_up
    assert holds(sink.store, source)()
    assert len(sink.store.current(ORDERS.topic)) == 25
    assert sink.store.current(ITEMS.topic) == {key(7): row(7, "item")}
    ends = log.end_offsets(list(log.committed("store")))
    assert {place: at.offset for place, at in log.committed("store").items()} == ends
    assert len(ends) == 4
    assert state(log)["state"] == "streaming"


def test_it_goes_on_where_it_left_off(log: EmbeddedLog, source: Source, kind: type[MemorySink]) -> None:
    source.put(1, "first")
    source.commit()
    first = kind("store", CONFIG)
    deliver_all(log, first)
    source.put(2, "second")
    source.commit()
    seen: list[int] = []

    class Second(kind):  # type: ignore[misc, valid-type]  # a parameter of the test
        def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
            seen.extend(row.version for batch in batches for row in batch.rows)
            written: Sequence[Rejected] = super().write(batches, topic_ids)
            return written

    deliver_all(log, Second("store", CONFIG, store=first.store))
    assert seen == [2]
    assert holds(first.store, source)()


def test_a_change_arrives_at_once_while_the_log_is_quiet(log: EmbeddedLog, source: Source) -> None:
    """No batch is held back for others when none are there, however long a record may wait."""
    source.put(0, "first")
    source.commit()
    sink = Trial()
    slow = SinkConfig(type="memory", batch=BatchConfig.model_construct(rows=10_000, every=60.0))
    with delivering(log, sink, slow):
        wait_until(holds(sink.store, source), seconds=10)
        for number in range(1, 20):
            source.put(number, "next")
            source.commit()
            wait_until(holds(sink.store, source), seconds=10)


def test_no_batch_has_more_records_than_configured(log: EmbeddedLog, source: Source) -> None:
    for number in range(100):
        source.put(number, "new")
    source.commit()
    sink = Trial()
    deliver_all(log, sink, SinkConfig(type="memory", batch=BatchConfig(rows=7)))
    assert holds(sink.store, source)()
    assert max(sum(len(batch.rows) for batch in batches) for batches in sink.writes) == 7


def test_stopping_drains_what_was_polled(log: EmbeddedLog, source: Source) -> None:
    for number in range(100):
        source.put(number, "new")
    source.commit()
    writing, go_on = threading.Event(), threading.Event()

    def before(_: int) -> None:
        writing.set()
        assert go_on.wait(30)

    sink = Trial(before)
    worker = Delivering(log, sink, SinkConfig(type="memory", batch=BatchConfig(rows=60)))
    worker.start()
    assert writing.wait(30)
    worker.control.stop()
    go_on.set()
    worker.end()
    assert holds(sink.store, source)()
    assert sum(at.offset for at in log.committed("store").values()) == 100
    assert sink.closed


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], {"test.public.orders", "test.public.items", "test.sales.orders"}),
        (["public.*"], {"test.public.orders", "test.public.items"}),
        (["*", "!public.items"], {"test.public.orders", "test.sales.orders"}),
        (["!*.orders"], {"test.public.items"}),
    ],
)
def test_only_selected_tables_are_read(
    log: EmbeddedLog, source: Source, patterns: list[str], expected: set[str]
) -> None:
    for schema in (ORDERS, ITEMS, table("orders", "sales")):
        source.put(1, "new", schema)
    source.commit()
    sink = Trial()
    deliver_all(log, sink, SinkConfig(type="memory", tables=patterns))
    assert {place.topic for place in sink.store.rows} == expected
    assert {place.topic for place in log.committed("store")} == expected


def test_a_topic_that_appears_later_is_read(log: EmbeddedLog, source: Source, kind: type[MemorySink]) -> None:
    source.put(1, "new")
    source.commit()
    sink = kind("store", CONFIG)
    with delivering(log, sink, SinkConfig(type="memory", tables=["public.*", "!public.hidden"])):
        wait_until(holds(sink.store, source))
        source.put(1, "item", ITEMS)
        source.commit()
        wait_until(holds(sink.store, source))
        source.put(1, "hidden", table("hidden"))
        source.put(2, "item", ITEMS)
        source.commit()
        wait_until(lambda: sink.store.current(ITEMS.topic) == source.rows[ITEMS.topic])
    assert sink.store.current("test.public.hidden") == {}
    assert started(log) == {TopicPartition(topic, number) for topic in (ORDERS.topic, ITEMS.topic) for number in (0, 1)}


@pytest.mark.parametrize("patterns", [["*"], ["public.*"]])
def test_empty_topics_are_caught_up_with(log: EmbeddedLog, kind: type[MemorySink], patterns: list[str]) -> None:
    config = SinkConfig(type="memory", tables=patterns)
    assert deliver_all(log, kind("store", CONFIG), config).caught_up
    log.create_topics([ORDERS.topic])
    sink = kind("store", CONFIG)
    assert deliver_all(log, sink, config).caught_up
    # Started in the meantime, and still without a row: nothing is missing when it starts again.
    assert deliver_all(log, kind("store", CONFIG, store=sink.store), config).caught_up


def test_catching_up_waits_for_what_the_store_does_not_have_yet(log: EmbeddedLog, source: Source) -> None:
    for number in range(30):
        source.put(number, "new")
    source.commit()
    sink = Trial(failing(3))
    assert deliver_all(log, sink, SinkConfig(type="memory", batch=BatchConfig(rows=5))).caught_up
    assert holds(sink.store, source)()


def test_a_log_that_is_slow_to_answer_is_not_taken_for_its_end(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "At the end" is judged by the reader's position, not by polls that bring nothing."""
    source.put(1, "new")
    source.commit()
    silent = 0.0
    real_reader = log.reader

    def reader(*arguments: Any, **options: Any) -> LogReader:
        made = real_reader(*arguments, **options)
        poll = made.poll

        def slow(timeout: float) -> list[Fetched]:
            nonlocal silent
            if silent >= 1.0:
                return poll(timeout)
            for part in poll(0):  # the first one assigns the partitions
                made.seek(TopicPartition(part.topic, part.partition), part.next_offset - len(part.records))
            silent += timeout
            time.sleep(timeout)
            return []

        monkeypatch.setattr(made, "poll", slow)
        return made

    monkeypatch.setattr(log, "reader", reader)
    sink = Trial()
    deliver_all(log, sink)
    assert holds(sink.store, source)()


def test_a_write_that_fails_comes_again_until_it_succeeds(
    log: EmbeddedLog, source: Source, kind: type[MemorySink]
) -> None:
    source.put(1, "new")
    source.commit()
    back = threading.Event()

    class Away(kind):  # type: ignore[misc, valid-type]  # a parameter of the test
        def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
            if not back.is_set():
                raise TransientError("the store is away", hint="it comes back")
            written: Sequence[Rejected] = super().write(batches, topic_ids)
            return written

    sink = Away("store", CONFIG)
    with delivering(log, sink):
        wait_until(lambda: state(log).get("state") == "retrying")
        assert state(log)["error"] == "the store is away\n  -> it comes back"
        assert log.committed("store") == {}
        assert log.states("started") == {}
        source.put(2, "meanwhile")
        source.commit()
        back.set()
        wait_until(holds(sink.store, source))
        wait_until(lambda: state(log)["state"] == "streaming")
        assert state(log)["error"] == ""


def test_partitions_are_paused_and_polled_while_a_store_is_away(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group puts out members that do not poll; what is polled meanwhile must stay on the log, not in memory."""
    monkeypatch.setattr(delivery, "FIRST_PAUSE_SECONDS", 0.5)
    source.put(1, "new")
    source.commit()
    polls: list[tuple[int, int]] = []
    real_reader = log.reader

    def reader(*arguments: Any, **options: Any) -> LogReader:
        made = real_reader(*arguments, **options)
        poll, pause, resume, paused = made.poll, made.pause, made.resume, set[TopicPartition]()

        def counted(timeout: float) -> Any:
            assert timeout <= 0.5
            fetched = poll(timeout)
            polls.append((len(paused), sum(len(part.records) for part in fetched)))
            return fetched

        def pause_too(places: Collection[TopicPartition]) -> None:
            pause(places)
            paused.update(places)

        def resume_too(places: Collection[TopicPartition]) -> None:
            resume(places)
            paused.difference_update(places)

        monkeypatch.setattr(made, "poll", counted)
        monkeypatch.setattr(made, "pause", pause_too)
        monkeypatch.setattr(made, "resume", resume_too)
        return made

    monkeypatch.setattr(log, "reader", reader)

    def before(write: int) -> None:
        if write == 1:
            for number in range(2, 200):
                source.put(number, "meanwhile")
            source.commit()
        failing(3)(write)

    sink = Trial(before)
    with delivering(log, sink):
        wait_until(holds(sink.store, source))
    during = [records for paused, records in polls if paused]
    assert len(during) >= 3
    assert set(during) == {0}
    assert {paused for paused, _ in polls} == {0, 2}
    assert sink.writes[0] == sink.writes[3]
    assert sum(len(batch.rows) for batch in sink.writes[3]) == 1


def test_a_stop_ends_the_wait_for_a_store(log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_SECONDS", 1e9)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 1e9)
    source.put(1, "new")
    source.commit()
    sink = Trial(failing(1_000_000))
    worker = Delivering(log, sink)
    worker.start()
    wait_until(lambda: state(log).get("state") == "retrying")
    worker.control.stop()
    with pytest.raises(TransientError, match="away"):
        worker.end()
    assert log.committed("store") == {}
    assert sink.closed


def test_a_zombie_is_told_so_and_changes_nothing(log: EmbeddedLog, source: Source) -> None:
    source.put(1, "old")
    source.commit()
    writing, go_on = threading.Event(), threading.Event()

    def before(write: int) -> None:
        if write == 1:
            writing.set()
            assert go_on.wait(30)

    zombie = Trial(before)
    worker = Delivering(log, zombie)
    worker.start()
    assert writing.wait(30)
    # Another process claims the partitions while the first one sleeps within its write.
    successor = MemorySink("store", CONFIG, store=zombie.store)
    successor.claim([TopicPartition(ORDERS.topic, number) for number in (0, 1)])
    go_on.set()
    with pytest.raises(FencedError):
        worker.end()
    assert zombie.store.current(ORDERS.topic) == {}
    assert log.committed("store") == {}
    deliver_all(log, MemorySink("store", CONFIG, store=zombie.store))
    assert holds(zombie.store, source)()


def test_a_row_that_the_store_refuses_stops_the_sink_and_is_named(log: EmbeddedLog, source: Source) -> None:
    for number in range(5):
        source.put(number, "secret")
    source.commit()

    class Refusing(Trial):
        def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
            super().write(batches, topic_ids)
            bad = [(batch, row) for batch in batches for row in batch.rows if row.key == key(3)]
            return [Rejected(b.topic, b.partition, row.offset, row.key, "too long") for b, row in bad]

    sink = Refusing()
    with pytest.raises(PermanentError) as caught:
        deliver_all(log, sink)
    (place, stored) = next((place, rows[key(3)]) for place, rows in sink.store.rows.items() if key(3) in rows)
    expected = f"record {stored.offset} in partition {place.partition} of topic 'test.public.orders'"
    assert expected in str(caught.value)
    assert key_hash(key(3)) in str(caught.value)
    assert "too long" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert '"id"' not in str(caught.value)
    # The others are in the store; offsets stay, so that the row is not passed over.
    assert holds(sink.store, source)()
    assert log.committed("store") == {}


ONE = SinkConfig(type="memory", batch=BatchConfig(rows=1))


@pytest.mark.parametrize("mended", ["put", "delete", "truncate"])
def test_a_refused_row_that_a_later_batch_replaces_is_passed_over(
    log: EmbeddedLog, source: Source, mended: str
) -> None:
    for number in range(20):
        source.put(number, "good")
    source.put(3, "bad")
    source.put(4, "bad")
    for number in range(20, 40):
        source.put(number, "good")
    source.commit()
    store = MemoryStore()
    with pytest.raises(PermanentError, match=r"mend or delete .*cdc run --only sink/store.*'!public.orders'"):
        deliver_all(log, Strict("store", ONE, store=store), ONE)
    for number in (3, 4):
        if mended == "put":
            source.put(number, "bad")
            source.put(number, "mended")
        elif mended == "delete":
            source.delete(number)
    if mended == "truncate":
        source.truncate()
    source.put(50, "good")
    source.commit()
    deliver_all(log, Strict("store", ONE, store=store), ONE)
    assert holds(store, source)()


def test_a_refused_row_is_needed_where_what_comes_later_is_partial_or_older(log: EmbeddedLog, source: Source) -> None:
    source.put(1, "good")
    source.put(1, "bad")
    source.commit()
    [place] = [
        place for place, end in log.end_offsets([TopicPartition(ORDERS.topic, n) for n in (0, 1)]).items() if end
    ]
    sought = {place: ahead.Refused(0, {key(1): 2})}
    source.put(1, "", partial=True)
    source.put(1, "mended")
    source.commit()
    assert ahead.replaced(log, sought, lambda: True) == set()
    later = {place: ahead.Refused(3, {key(1): 2})}
    assert ahead.replaced(log, later, lambda: True) == {(place, key(1))}
    assert ahead.replaced(log, later, lambda: False) == set()


def test_a_history_needs_each_row(log: EmbeddedLog, source: Source) -> None:
    source.put(1, "bad")
    source.put(1, "mended")
    source.commit()
    sink = Strict("store", ONE)
    sink.every_change = True
    with pytest.raises(PermanentError, match="keeps every change"):
        deliver_all(log, sink, ONE)


def test_a_record_that_is_not_ours_stops_the_sink(log: EmbeddedLog, source: Source) -> None:
    source.foreign()
    source.commit()
    with pytest.raises(
        PermanentError, match=r"record 0 in partition \d of topic 'test.public.orders' has no cdc header"
    ):
        deliver_all(log, Trial())


def test_a_schema_that_comes_later_than_its_row_is_waited_for(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.put(1, "new", with_schema=False)
    source.commit()
    looks: list[int] = []
    real_schemas = log.schemas

    def schemas() -> Mapping[bytes, TableSchema]:
        looks.append(1)
        return real_schemas()

    monkeypatch.setattr(log, "schemas", schemas)
    sink = Trial()
    with delivering(log, sink):
        wait_until(lambda: len(looks) > 3)
        assert sink.writes == []
        assert state(log) == {}
        source.announce(ORDERS)
        source.commit()
        wait_until(holds(sink.store, source))


def test_a_schema_that_does_not_come_is_said_and_retried(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PATIENCE_SECONDS", 0.1)
    source.put(1, "new", with_schema=False)
    source.commit()
    sink = Trial()
    with delivering(log, sink):
        wait_until(lambda: state(log).get("state") == "retrying")
        assert ORDERS.id.hex() in state(log)["error"]
        assert sink.writes == []
        source.announce(ORDERS)
        source.commit()
        wait_until(holds(sink.store, source))


def test_a_topic_that_was_made_anew_is_a_gap(tmp_path: Path, kind: type[MemorySink]) -> None:
    log = embedded(tmp_path)
    sink = kind("store", CONFIG)
    with Source(log) as source:
        source.put(1, "old")
        source.commit()
        deliver_all(log, sink)
    offsets, states = log.committed("store"), log.states("started")
    log.delete()
    with Source(log) as source:
        for number in range(10):
            source.put(number, "new")
        source.commit()
        # Only the topic was deleted; what the group and we know of it is still there.
        log.put_states("started", states)
        with pytest.raises(GapError, match="made anew") as caught:
            deliver_all(log, kind("store", CONFIG, store=sink.store))
    assert "test.public.orders" in str(caught.value)
    assert caught.value.hint
    assert offsets
    assert sink.store.current(ORDERS.topic) == {key(1): row(1, "old")}


def test_a_store_that_went_back_while_it_was_written_to_gets_again_what_it_lost(
    log: EmbeddedLog, source: Source
) -> None:
    class Back(MemorySinkWithOffsets):
        def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
            raise GapError("went back")

    source.put(1, "kept")
    source.commit()
    sink = MemorySinkWithOffsets("store", CONFIG)
    deliver_all(log, sink)
    source.put(2, "lost")
    source.commit()
    with pytest.raises(TransientError, match="went back"):
        deliver_all(log, Back("store", CONFIG, store=sink.store))
    deliver_all(log, MemorySinkWithOffsets("store", CONFIG, store=sink.store))
    assert holds(sink.store, source)


def test_a_lost_offset_is_a_gap(log: EmbeddedLog, source: Source, kind: type[MemorySink]) -> None:
    source.put(1, "old")
    source.commit()
    state = {"id": log.topics()[ORDERS.topic].id, "complete": 1.0}
    log.put_states("started", {f"store/{ORDERS.topic}/{number}": state for number in (0, 1)})
    sink = kind("store", CONFIG)
    with pytest.raises(GapError, match="offset is no longer"):
        deliver_all(log, sink)
    assert sink.store.current(ORDERS.topic) == {}


def test_an_offset_of_another_topic_of_that_name_is_a_gap(log: EmbeddedLog, source: Source) -> None:
    source.put(1, "old")
    source.commit()
    sink = MemorySinkWithOffsets("store", CONFIG)
    deliver_all(log, sink)
    log.put_states("started", dict.fromkeys(log.states("started")))
    sink.store.offsets = {place: StoredOffset(at.offset, "another") for place, at in sink.store.offsets.items()}
    with pytest.raises(GapError, match="made anew"):
        deliver_all(log, MemorySinkWithOffsets("store", CONFIG, store=sink.store))


def test_offsets_of_a_topics_former_life_are_not_its_end(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader looks for new topics once a second; until then only the store says how far it is."""
    look = EmbeddedReader._look

    def then_made(reader: EmbeddedReader) -> None:
        look(reader)
        if not source.rows:
            source.put(1, "new")
            source.commit()

    monkeypatch.setattr(EmbeddedReader, "_look", then_made)
    sink = MemorySinkWithOffsets("store", CONFIG)
    sink.store.offsets = {TopicPartition(ORDERS.topic, number): StoredOffset(9, "former") for number in (0, 1)}
    with pytest.raises(GapError, match="made anew"):
        deliver_all(log, sink)


def test_an_offset_past_the_end_is_a_gap(log: EmbeddedLog, source: Source) -> None:
    source.put(1, "old")
    source.commit()
    sink = MemorySinkWithOffsets("store", CONFIG)
    deliver_all(log, sink)
    place, known = next((place, known) for place, known in sink.store.offsets.items() if known.offset)
    sink.store.offsets[place] = StoredOffset(known.offset + 1, known.topic_id)
    with pytest.raises(GapError, match="reading must go on at 2") as caught:
        deliver_all(log, MemorySinkWithOffsets("store", CONFIG, store=sink.store))
    assert f"partition {place.partition} of topic 'test.public.orders'" in str(caught.value)


def test_a_new_partition_of_a_known_topic_is_no_gap(log: EmbeddedLog, source: Source, kind: type[MemorySink]) -> None:
    """A sink that was killed after its first commit, before the partition was on the list, goes on at its offset."""
    source.put(1, "old")
    source.commit()
    sink = kind("store", CONFIG)
    deliver_all(log, sink)
    log.put_states("started", dict.fromkeys(log.states("started")))
    source.put(2, "new")
    source.commit()
    deliver_all(log, kind("store", CONFIG, store=sink.store))
    assert holds(sink.store, source)()
    assert started(log) == {TopicPartition(ORDERS.topic, 0), TopicPartition(ORDERS.topic, 1)}


def test_a_sink_with_its_own_offsets_does_not_need_the_logs(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_reader = log.reader

    def reader(*arguments: Any, **options: Any) -> LogReader:
        made = real_reader(*arguments, **options)

        def commit(offsets: Mapping[TopicPartition, int]) -> None:
            raise TransientError("no group coordinator")

        monkeypatch.setattr(made, "commit", commit)
        return made

    monkeypatch.setattr(log, "reader", reader)
    source.put(1, "new")
    source.commit()
    owner = MemorySinkWithOffsets("store", CONFIG)
    deliver_all(log, owner)
    assert holds(owner.store, source)()
    log.put_states("started", dict.fromkeys(log.states("started")))
    with pytest.raises(TransientError, match="coordinator"):
        deliver_all(log, MemorySink("store", CONFIG))


def test_two_workers_are_caught_up_although_the_logs_offsets_are_behind_the_stores(
    log: EmbeddedLog, source: Source, tmp_path: Path
) -> None:
    """Killed between the store's transaction and the commit, with partitions that go to different workers."""
    for number in range(20):
        source.put(number, "new")
    source.commit()
    first = MemorySinkWithOffsets("store", CONFIG)
    deliver_all(log, first)
    with closing(sqlite3.connect(next(tmp_path.rglob("groups.db")))) as groups, groups:
        groups.execute("UPDATE offsets SET offset = offset - 1")
    sinks = [MemorySinkWithOffsets("store", CONFIG, store=first.store) for _ in range(2)]
    workers = [Delivering(log, sink) for sink in sinks]
    for worker in workers:
        worker.start()
    wait_until(lambda: len({member for (member,) in owners(tmp_path)}) == 2, what="each worker's share")
    for worker in workers:
        worker.control.until_caught_up = True
    for worker in workers:
        worker.end()


def owners(folder: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(next(folder.rglob("groups.db")))) as groups:
        return groups.execute("SELECT member FROM owners").fetchall()


def test_a_store_that_cannot_be_opened_is_left_to_the_caller(log: EmbeddedLog) -> None:
    class Unreachable(Trial):
        def open(self) -> None:
            raise TransientError("connection refused")

    sink = Unreachable()
    with pytest.raises(TransientError, match="refused"):
        deliver_all(log, sink)
    assert sink.closed


def test_a_store_that_is_back_is_not_said_to_be_away(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "POLL_EVERY_SECONDS", 0.0)
    for number in range(20):
        source.put(number, "new")
    source.commit()
    said: list[str] = []
    report = Control.report

    def reported(control: Control, state: State, error: str = "", progress: Mapping[str, Any] | None = None) -> None:
        said.append(state.value)
        report(control, state, error, progress)

    monkeypatch.setattr(Control, "report", reported)
    deliver_all(log, Trial(failing(1)), SinkConfig(type="memory", batch=BatchConfig(rows=1)))
    # Before the failure, too, there may be a batch: of first offsets alone, which the store is not asked about.
    back = said.index("streaming", said.index("retrying"))
    assert set(said[back:]) == {"streaming"}


def test_a_backlog_is_polled_around_while_a_slow_store_writes_it(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "POLL_EVERY_SECONDS", 0.0)
    for number in range(20):
        source.put(number, "new")
    source.commit()
    sink = Trial(lambda _: time.sleep(0.001))
    deliver_all(log, sink, SinkConfig(type="memory", batch=BatchConfig(rows=1)))
    assert holds(sink.store, source)()
    assert sink.rows_written() == 20


def test_a_commit_waits_for_the_end_of_a_rebalance(
    log: EmbeddedLog, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are in the store and stay this worker's: there is no reason to leave the group and write them again."""
    source.put(1, "new")
    source.commit()
    refused = iter(range(2))
    commit = EmbeddedReader.commit

    def committing(reader: EmbeddedReader, offsets: Mapping[TopicPartition, int]) -> None:
        if next(refused, None) is not None:
            raise RebalancingError("not now")
        commit(reader, offsets)

    monkeypatch.setattr(EmbeddedReader, "commit", committing)
    sink = MemorySink("store", CONFIG)
    assert deliver_all(log, sink).caught_up
    assert holds(sink.store, source)()
    committed = {place: at.offset for place, at in log.committed("store").items()}
    assert committed
    assert committed == log.end_offsets(list(committed))
    assert next(refused, None) is None
