"""A store in a file, for tests that kill the process which writes to it.

``python -m tests.integration.sqlite_sink FOLDER KIND`` delivers what is on the log in FOLDER until caught up.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdc import faults
from cdc.config.fields import BatchConfig, SinkConfig
from cdc.delivery import deliver
from cdc.errors import FencedError
from cdc.log import TopicPartition
from cdc.sink import Batch, Rejected, Sink, StoredOffset
from cdc.worker import Control
from tests.integration.delivered import embedded

TABLES = """
CREATE TABLE IF NOT EXISTS kept (topic, partition, key, version, after, PRIMARY KEY (topic, key));
CREATE TABLE IF NOT EXISTS floors (topic, partition, floor, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS offsets (topic, partition, next_offset, topic_id, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS generation (number);
CREATE TABLE IF NOT EXISTS landed (topic, key, version, UNIQUE (topic, key, version));
CREATE TABLE IF NOT EXISTS writes (records);
"""
LAND = """
INSERT INTO kept VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version, after = excluded.after
WHERE excluded.version > version RETURNING version
"""


class SqliteSink(Sink):
    """Rows in a SQLite file; `landed` tells every version that ever got in, and refuses a second time."""

    Config = SinkConfig

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        self._path = Path(pipeline)
        self._generation = 0

    def open(self) -> None:
        self._store = sqlite3.connect(self._path, isolation_level=None)
        self._store.executescript(TABLES)
        self._store.execute("INSERT INTO generation SELECT ifnull(max(number), 0) + 1 FROM generation")
        (self._generation,) = self._store.execute("SELECT max(number) FROM generation").fetchone()

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        self._store.execute("BEGIN IMMEDIATE")
        if (self._generation,) != self._store.execute("SELECT max(number) FROM generation").fetchone():
            raise FencedError("another process writes to this store now")
        for batch in batches:
            self._apply(batch)
        self._store.execute("INSERT INTO writes VALUES (?)", (sum(len(batch.rows) for batch in batches),))
        faults.reach("sink.between_rows_and_offsets")
        if self.owns_offsets:
            for batch in batches:
                stored = (batch.topic, batch.partition, batch.next_offset, topic_ids[batch.topic])
                self._store.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)", stored)
        self._store.execute("COMMIT")
        return []

    def close(self) -> None:
        self._store.close()

    def _apply(self, batch: Batch) -> None:
        place = (batch.topic, batch.partition)
        if batch.floor:
            self._store.execute("INSERT OR REPLACE INTO floors VALUES (?, ?, ?)", (*place, batch.floor))
            gone = "DELETE FROM kept WHERE topic = ? AND partition = ? AND version < ?"
            self._store.execute(gone, (*place, batch.floor))
        found = self._store.execute("SELECT floor FROM floors WHERE topic = ? AND partition = ?", place).fetchone()
        for row in batch.rows:
            if found is not None and row.version < found[0]:
                continue
            for (version,) in self._store.execute(LAND, (*place, row.key, row.version, row.after)).fetchall():
                self._store.execute("INSERT INTO landed VALUES (?, ?, ?)", (batch.topic, row.key, version))


class SqliteSinkWithOffsets(SqliteSink):
    """The same with its offsets in the same transaction as the rows."""

    owns_offsets = True

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        rows = self._store.execute("SELECT topic, partition, next_offset, topic_id FROM offsets").fetchall()
        return {TopicPartition(topic, partition): StoredOffset(at, topic_id) for topic, partition, at, topic_id in rows}


KINDS = {"plain": SqliteSink, "with_offsets": SqliteSinkWithOffsets}


def main(folder: Path, kind: str) -> None:
    """Deliver until caught up, in batches small enough to be interrupted between."""
    log = embedded(folder)
    config = SinkConfig(type="sqlite", batch=BatchConfig(rows=10))
    sink = KINDS[kind]("store", config, str(folder / "store.db"))
    with Control("sink/store", log, until_caught_up=True) as control:
        deliver("store", sink, config, log, control)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
