"""What the tests of delivery share: a source that writes to an embedded log, and a sink that runs beside the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from cdc.config.fields import SinkConfig
from cdc.delivery import deliver
from cdc.log import Log, LogWriter, Produced, TopicPartition, TopicsConfig
from cdc.log.embedded import EmbeddedConfig, EmbeddedLog
from cdc.record import LAYOUT, PARTIAL, TOMBSTONE, TRUNCATE_KEY, marker_header, pack_header
from cdc.sink import Sink
from cdc.worker import Control
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from tests.servers import wait_until

COLUMNS = (Column("id", LogicalType(Kind.INT32), "integer"), Column("note", LogicalType(Kind.STRING), "text"))
CONFIG = SinkConfig(type="memory")


def table(name: str, schema: str = "public", pipeline: str = "test") -> TableSchema:
    """A table of two columns."""
    return TableSchema(f"{pipeline}.{schema}.{name}", schema, name, COLUMNS, ("id",))


ORDERS, ITEMS = table("orders"), table("items")


def key(number: int) -> bytes:
    return b'{"id":%d}' % number


def row(number: int, note: str) -> bytes:
    return b'{"id":%d,"note":"%b"}' % (number, note.encode())


def embedded(path: Path, partitions: int = 2) -> EmbeddedLog:
    """The log in the folder `path`."""
    return EmbeddedLog(EmbeddedConfig(path=path, topics=TopicsConfig(partitions=partitions)), "test")


def started(log: Log) -> set[TopicPartition]:
    """The partitions on the list of those that the sink ``store`` has started."""
    places = (name.split("/") for name in log.states("started"))
    return {TopicPartition(topic, int(number)) for sink, topic, number in places if sink == "store"}


class Source:
    """Writes changes as capture does, versions rising from 1, and remembers what a store must hold in the end."""

    def __init__(self, log: Log, name: str = "shop") -> None:
        self._log = log
        self._writer: LogWriter = log.writer(name)
        self._writer.fence()
        self._known: set[TableSchema] = set()
        self.version = 0
        self.records = 0
        self.rows: dict[str, dict[bytes, bytes]] = {}

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def put(
        self, number: int, note: str, schema: TableSchema = ORDERS, *, with_schema: bool = True, partial: bool = False
    ) -> None:
        """Insert or update a row; `partial`: without its note."""
        self._prepare(schema, with_schema)
        after = b'{"id":%d}' % number if partial else row(number, note)
        header = pack_header(LAYOUT, b"u", PARTIAL if partial else 0, 0, self._next(), schema.id, 23, len(after))
        self._append(Produced(schema.topic, key(number), b'{"before":null,"after":' + after + b"}", header))
        self.rows[schema.topic][key(number)] = after

    def delete(self, number: int, schema: TableSchema = ORDERS) -> None:
        """Delete a row: the delete and its tombstone."""
        self._prepare(schema, True)
        version = self._next()
        header = pack_header(LAYOUT, b"d", 0, 0, version, schema.id, 0, 0)
        self._append(Produced(schema.topic, key(number), b'{"before":null,"after":null}', header))
        header = pack_header(LAYOUT, b"d", TOMBSTONE, 0, version, schema.id, 0, 0)
        self._append(Produced(schema.topic, key(number), None, header))
        self.rows[schema.topic].pop(key(number), None)

    def truncate(self, schema: TableSchema = ORDERS) -> None:
        """Empty a table."""
        self._prepare(schema, True)
        self._writer.append_marker(schema.topic, TRUNCATE_KEY, marker_header(b"t", self._next()))
        self.rows[schema.topic].clear()

    def foreign(self, schema: TableSchema = ORDERS) -> None:
        """A record that another program wrote."""
        self._prepare(schema, True)
        self._append(Produced(schema.topic, key(1), b"{}", b""))

    def announce(self, schema: TableSchema) -> None:
        """The schema record alone."""
        self._writer.append_schema(schema)

    def commit(self) -> None:
        """Make what was written readable."""
        wait_until(lambda: self._writer.commit(b"position %d" % self.version, 1.0), what="the log's commit")

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _prepare(self, schema: TableSchema, with_schema: bool) -> None:
        if schema not in self._known:
            self._log.create_topics([schema.topic])
            if with_schema:
                self._writer.append_schema(schema)
            self._known.add(schema)
            self.rows.setdefault(schema.topic, {})

    def _append(self, record: Produced) -> None:
        assert self._writer.append([record], 1.0) == 1
        self.records += 1


class Delivering(threading.Thread):
    """A sink's worker as a thread; `failure` is what ended it."""

    def __init__(self, log: Log, sink: Sink, config: SinkConfig = CONFIG, *, until_caught_up: bool = False) -> None:
        super().__init__(daemon=True)
        self.control = Control("sink/store", log, until_caught_up=until_caught_up)
        self.failure: BaseException | None = None
        self._arguments = ("store", sink, config, log, self.control)

    def run(self) -> None:
        try:
            with self.control:
                deliver(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.failure = error

    def end(self) -> None:
        """Wait until it has ended, and raise what ended it."""
        self.join(30)
        assert not self.is_alive(), "the sink did not end"
        if self.failure is not None:
            raise self.failure


@contextmanager
def delivering(log: Log, sink: Sink, config: SinkConfig = CONFIG) -> Iterator[Delivering]:
    """A sink that runs until the end of the block."""
    worker = Delivering(log, sink, config)
    worker.start()
    try:
        yield worker
    except BaseException as error:
        if worker.failure is not None:  # why the test waited in vain
            raise worker.failure from error
        raise
    finally:
        worker.control.stop()
        worker.join(30)
    worker.end()


def deliver_all(log: Log, sink: Sink, config: SinkConfig = CONFIG) -> Control:
    """Run a sink until it has caught up."""
    worker = Delivering(log, sink, config, until_caught_up=True)
    worker.start()
    try:
        worker.end()
    finally:
        worker.control.stop()
    return worker.control
