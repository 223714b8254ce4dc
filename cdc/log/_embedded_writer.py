"""The embedded log's writer: one source's file, appended to by whoever holds its ownership token."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

from cdc.errors import ConfigurationError, FencedError, TransientError
from cdc.log import LogWriter, Produced
from cdc.log._sqlite import (
    OFFSET_BITS,
    OFFSET_MASK,
    SOURCE_TABLES,
    connect,
    explained,
    explaining,
    is_busy,
    make,
    opened,
    transaction,
)
from schemas.table import TableSchema

FENCE_SECONDS: Final = 30.0
STAGE_BYTES: Final = 4 << 20
"""An append that grows beyond this goes to the file, where nobody can read it before the commit."""
RECORD_OVERHEAD: Final = 200
"""What a record costs in memory beside its value, bytes."""

_Row = tuple[int, bytes, bytes | None, bytes, int]


class EmbeddedWriter(LogWriter):
    """Appends for one source.

    No lock is held between calls: records of an open append are collected, or written above the partitions' next
    offsets where no reader looks, and the commit moves these offsets together with the position. Each transaction
    first compares the ownership token, so that a process that slept through a take-over changes nothing any more.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._path = folder / f"source-{source}.db"
        self._groups = folder / "groups.db"
        self._source = source
        self._token = uuid.uuid4().hex
        self._connection: sqlite3.Connection | None = None
        self._next: dict[str, list[int]] = {}
        self._moved: dict[int, int] = {}
        self._rows: list[_Row] = []
        self._bytes = 0
        self._schemas: list[tuple[bytes, bytes]] = []

    def fence(self) -> bytes | None:
        make(self._path, SOURCE_TABLES)
        with explaining(self._path):
            connection = self._connection = connect(self._path)
            connection.execute(f"PRAGMA busy_timeout={FENCE_SECONDS * 1000:.0f}")
            connection.execute("PRAGMA wal_autocheckpoint=1000")
            connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
            with transaction(connection):
                connection.execute("UPDATE owner SET token = ?, process = ?", (self._token, os.getpid()))
                heads = connection.execute("SELECT number, next_offset FROM partitions").fetchall()
                connection.executemany(
                    "DELETE FROM records WHERE id >= ? AND id < ?",
                    [(number << OFFSET_BITS | offset, number + 1 << OFFSET_BITS) for number, offset in heads],
                )
                found = connection.execute("SELECT position FROM position").fetchone()
        return None if found is None else found[0]

    def append(self, records: Sequence[Produced], timeout: float) -> int:
        rows, size = self._rows, self._bytes
        now = time.time_ns() // 1_000_000
        current = ""
        ids: list[int] = []
        count = 0
        for taken, (topic, key, value, header) in enumerate(records):
            if size > STAGE_BYTES:
                self._bytes = size
                if not self._stage(timeout):
                    return taken
                rows, size = self._rows, 0
            if topic != current:
                ids = self._next.get(topic) or self._start(topic)
                count = len(ids)
                current = topic
            partition = crc32(key) % count
            at = ids[partition]
            ids[partition] = at + 1
            rows.append((at, key, value, header, now))
            size += RECORD_OVERHEAD if value is None else RECORD_OVERHEAD + len(value)
        self._bytes = size
        return len(records)

    def append_marker(self, topic: str, key: bytes, header: bytes) -> None:
        ids = self._next.get(topic) or self._start(topic)
        now = time.time_ns() // 1_000_000
        for partition, at in enumerate(ids):
            self._rows.append((at, key, b"", header, now))
            ids[partition] = at + 1
            self._bytes += RECORD_OVERHEAD

    def append_schema(self, schema: TableSchema) -> None:
        self._schemas.append((schema.id, schema.to_json()))

    def commit(self, position: bytes, timeout: float) -> bool:
        if not self._write(position, timeout):
            return False
        self._moved.clear()
        self._schemas.clear()
        return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._rows, self._bytes = [], 0

    def _stage(self, timeout: float) -> bool:
        return self._write(None, timeout)

    def _write(self, position: bytes | None, timeout: float) -> bool:
        """Write what was collected, and with a `position` make the append readable. False: the file was locked."""
        connection = self._alive()
        rows = self._rows
        rows.sort()
        moved = {at >> OFFSET_BITS: (at & OFFSET_MASK) + 1 for at, *_ in rows}
        try:
            connection.execute(f"PRAGMA busy_timeout={timeout * 1000:.0f}")
            # Staged records need not be on disk yet: the commit that makes them readable syncs the same file.
            connection.execute(f"PRAGMA synchronous={'NORMAL' if position is None else 'FULL'}")
            with transaction(connection):
                self._check_owner(connection)
                connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
                if position is not None:
                    connection.executemany(
                        "UPDATE partitions SET next_offset = ?2 WHERE number = ?1", {**self._moved, **moved}.items()
                    )
                    connection.executemany("INSERT OR IGNORE INTO schemas VALUES (?, ?)", self._schemas)
                    connection.execute("DELETE FROM position")
                    connection.execute("INSERT INTO position VALUES (?)", (position,))
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            self.close()
            raise explained(error, self._path) from error
        except FencedError:
            self.close()
            raise
        self._moved.update(moved)
        self._rows, self._bytes = [], 0
        return True

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        token, process = connection.execute("SELECT token, process FROM owner").fetchone()
        if token != self._token:
            raise FencedError(
                f"process {process} writes the log of source {self._source!r} now", hint="run each source once only"
            )

    def _alive(self) -> sqlite3.Connection:
        if self._connection is None:
            raise TransientError(f"the log's writer of source {self._source!r} is closed", hint="open a new one")
        return self._connection

    def _start(self, topic: str) -> list[int]:
        """The next row id of each partition of `topic`, which this source is about to write for the first time.

        The catalogue says which source a topic belongs to. The file is told first, so that a topic which the catalogue
        gives to us but our file does not know means: the file was lost. Then the topic starts anew, under a new id.
        """
        connection = self._alive()
        with opened(self._groups) as groups, explaining(self._path):
            with transaction(groups):
                found = groups.execute("SELECT id, partitions, source FROM topics WHERE name = ?", (topic,)).fetchone()
                if found is None:
                    raise TransientError(f"topic {topic!r} does not exist", hint="it is created when the source starts")
                topic_id, partitions, source = found
                if source not in (None, self._source):
                    raise ConfigurationError(
                        f"sources {source!r} and {self._source!r} both write topic {topic!r}",
                        hint="use {source} in log.topics.name",
                    )
                known = connection.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()
                if known != (topic_id,):
                    if source is not None:
                        topic_id = uuid.uuid4().hex
                    with transaction(connection):
                        self._check_owner(connection)
                        self._register(connection, topic, topic_id, partitions)
                groups.execute("UPDATE topics SET source = ?, id = ? WHERE name = ?", (self._source, topic_id, topic))
            heads = connection.execute(
                "SELECT number, next_offset FROM partitions WHERE topic = ? ORDER BY partition", (topic,)
            ).fetchall()
        ids = self._next[topic] = [number << OFFSET_BITS | offset for number, offset in heads]
        return ids

    @staticmethod
    def _register(connection: sqlite3.Connection, topic: str, topic_id: str, partitions: int) -> None:
        """Enter a new topic, in place of an older one of the same name."""
        for (number,) in connection.execute("SELECT number FROM partitions WHERE topic = ?", (topic,)).fetchall():
            first = number << OFFSET_BITS
            connection.execute("DELETE FROM records WHERE id >= ? AND id < ?", (first, first + OFFSET_MASK))
        connection.execute("DELETE FROM partitions WHERE topic = ?", (topic,))
        connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?)", (topic, topic_id))
        connection.executemany(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?)", [(topic, index) for index in range(partitions)]
        )
