"""Whatever was compacted when, who reads on from anywhere ends up with the rows of the whole log."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc.config.fields import SinkConfig
from cdc.log import DELETE_RETENTION_SECONDS, Record, TopicPartition
from cdc.log import _embedded_cleaner as cleaner
from cdc.log._sqlite import connect
from cdc.record import LAYOUT, SWEEP_KEY, TOMBSTONE, TRUNCATE_KEY, marker_header, pack_header
from cdc.reduce import reduce
from cdc.starts import MARGIN
from cdc.testing import MemorySink
from tests.integration.delivered import ORDERS, Produced, embedded, key, row

KEYS = st.integers(0, 2)
CHANGE = st.one_of(
    st.tuples(st.just("put"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("move"), KEYS, KEYS),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("sweep"), st.integers(0, 8)),
)
ACTION = st.one_of(
    st.tuples(st.just("commit"), st.lists(CHANGE, min_size=1, max_size=6)),
    st.tuples(st.just("clean"), st.integers(1, 60)),
    st.tuples(st.just("wait"), st.floats(0.1, 0.6)),
    st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 4)),
    st.tuples(st.just("new reader"), st.integers(0, 1)),
)


class Reader:
    """Fills an empty store from the beginning; `complete` is the time up to which it is, as the engine sees it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._sink = MemorySink("store", SinkConfig(type="memory"))
        self._sink.open()
        self._reader = pipeline.log.reader(None, lambda _: True, lambda tps: dict.fromkeys(tps, 0), lambda _: None, 1)
        self._complete = pipeline.now

    def read(self, polls: int) -> None:
        for _ in range(polls):
            fetched = self._reader.poll(0)
            self._sink.write(reduce(fetched, {ORDERS.id: ORDERS}.__getitem__), {ORDERS.topic: "id"})
            if not fetched:
                self._complete = self._pipeline.now

    def read_all(self) -> dict[bytes, bytes]:
        ends = self._pipeline.log.end_offsets([TopicPartition(ORDERS.topic, 0), TopicPartition(ORDERS.topic, 1)])
        while self._reader.position() != ends:
            self.read(1)
        return self._sink.store.current(ORDERS.topic)

    def too_slow(self) -> bool:
        return self._pipeline.now - self._complete > DELETE_RETENTION_SECONDS * (1 - MARGIN)

    def close(self) -> None:
        self._reader.close()


class Pipeline:
    """A log, its source, its cleaner, two readers, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 1e9
        self.log = embedded(folder)
        self.log.create_topics([ORDERS.topic])
        self.writer = self.log.writer("shop")
        self.writer.fence()
        self.rows: dict[bytes, tuple[int, bytes]] = {}
        self._version, self._swept = itertools.count(1), 0
        self._connection = connect(folder / "test" / "source-shop.db")
        self._cleaner = cleaner.Cleaner(folder / "test" / "source-shop.db", "compact", lambda _: None)
        self._steps: Iterator[None] = iter(())
        self.readers = [Reader(self), Reader(self)]

    def do(self, action: tuple[Any, ...]) -> None:
        match action:
            case ("commit", changes):
                for change in changes:
                    self._change(change)
                assert self.writer.commit(b"p", 1.0)
            case ("clean", steps):
                self.clean(steps)
            case ("wait", share):
                self.now += share * DELETE_RETENTION_SECONDS
            case ("new reader", number):
                self._renew(number)
            case ("read", number, polls):
                if self.readers[number].too_slow():
                    self._renew(number)
                self.readers[number].read(polls)

    def clean(self, steps: int) -> None:
        """Go on with a pass, or begin the next."""
        for _ in range(steps):
            if next(self._steps, self) is self:
                self._steps = self._cleaner.steps(self._connection)

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self._steps = iter(())
        self._connection.close()
        self.writer.close()

    def _renew(self, number: int) -> None:
        self.readers[number].close()
        self.readers[number] = Reader(self)

    def _change(self, change: Sequence[Any]) -> None:
        match change:
            case ("put", number):
                self._put(number)
            case ("delete", number):
                self._delete(number)
            case ("move", old, new):
                self._delete(old)
                self._put(new)
            case ("truncate",):
                version = next(self._version)
                self.writer.append_marker(ORDERS.topic, TRUNCATE_KEY, marker_header(b"t", version))
                self._floor(version)
            case ("sweep", back):
                self._swept = max(self._swept, next(self._version) - back, 1)  # one snapshot follows the other
                self.writer.append_marker(ORDERS.topic, SWEEP_KEY, marker_header(b"s", self._swept))
                self._floor(self._swept)

    def _floor(self, version: int) -> None:
        self.rows = {key: held for key, held in self.rows.items() if held[0] >= version}

    def _put(self, number: int) -> None:
        version = next(self._version)
        after = row(number, f"{version}")
        header = pack_header(LAYOUT, b"u", 0, 0, version, ORDERS.id, 9, len(after))
        self.writer.append([Produced(ORDERS.topic, key(number), b'{"after":' + after + b"}", header)], 1.0)
        self.rows[key(number)] = version, after

    def _delete(self, number: int) -> None:
        version = next(self._version)
        for value, flags in ((b'{"after":null}', 0), (None, TOMBSTONE)):
            header = pack_header(LAYOUT, b"d", flags, 0, version, ORDERS.id, 0, 0)
            self.writer.append([Produced(ORDERS.topic, key(number), value, header)], 1.0)
        self.rows.pop(key(number), None)


@contextmanager
def pipeline() -> Iterator[Pipeline]:
    """One whose cleaner finds every record worth a pass, and takes a step for every few of them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.multiple(cleaner, DIRTY_RECORDS=1, STEP_BYTES=150, BLOCK_RECORDS=3))
        made = stack.enter_context(closing(Pipeline(folder)))
        stack.enter_context(patch.object(cleaner, "clock", lambda: made.now))
        yield made


ALL: Any = ("clean", 100)
READ_THEN_DELETED = [("commit", [("put", 1)]), ("read", 0, 4), ("commit", [("delete", 1), ("put", 2)])]


@settings(max_examples=25, deadline=None)
@given(st.lists(ACTION, max_size=30))
@example([*READ_THEN_DELETED, ALL, ("wait", 0.5), ALL])
@example([("commit", [("put", 1), ("put", 2)]), ("read", 0, 4), ("commit", [("truncate",), ("sweep", 3)]), ALL])
def test_who_reads_on_from_anywhere_has_the_rows_of_the_whole_log(actions: list[tuple[Any, ...]]) -> None:
    with pipeline() as made:
        for action in actions:
            made.do(action)
        expected = {key: after for key, (_, after) in made.rows.items()}
        for reader in [*made.readers, Reader(made)]:
            if not reader.too_slow():
                assert reader.read_all() == expected
            reader.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(CHANGE, max_size=40))
def test_one_record_of_each_key_is_left_and_in_the_end_no_tombstone(changes: list[tuple[Any, ...]]) -> None:
    with pipeline() as made:
        for change in changes:
            made.do(("commit", [change]))
        before = _all(made)
        made.clean(300)
        assert [(place, record.key) for place, record in _all(made)] == _last_of_each_key(before)
        made.now += DELETE_RETENTION_SECONDS
        made.clean(300)
        assert all(record.value is not None for _, record in _all(made))


def _all(made: Pipeline) -> list[tuple[int, Record]]:
    """All records by partition, in order."""
    with closing(made.log.reader(None, lambda _: True, lambda tps: dict.fromkeys(tps, 0), lambda _: None)) as reader:
        parts = sorted(reader.poll(0), key=lambda part: part.partition)
    return [(part.partition, record) for part in parts for record in part.records]


def _last_of_each_key(records: list[tuple[int, Record]]) -> list[tuple[int, bytes]]:
    last = {(partition, record.key): None for partition, record in reversed(records)}
    return sorted(last, key=lambda each: max(i for i, (p, record) in enumerate(records) if (p, record.key) == each))
