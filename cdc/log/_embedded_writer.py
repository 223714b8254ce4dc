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

import msgspec

from cdc.errors import ConfigurationError, FencedError, TransientError
from cdc.log import Cleanup, LogWriter, Produced
from cdc.log._embedded_cleaner import Cleaner
from cdc.log._sqlite import (
    BLOCK_RECORDS,
    CLEANED_TABLE,
    OFFSET_BITS,
    PREPARED_TABLES,
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

_encode = msgspec.msgpack.Encoder().encode


class _Pending:
    """What was collected for the partitions of one topic, as :class:`cdc.log.Record`'s tuples, and what comes next."""

    __slots__ = ("next_offsets", "numbers", "records")

    def __init__(self, heads: Sequence[tuple[int, int]]) -> None:
        self.numbers = [number for number, _ in heads]
        self.next_offsets = [offset for _, offset in heads]
        self.records: list[list[tuple[int, bytes, bytes | None, bytes, int]]] = [[] for _ in heads]


class EmbeddedWriter(LogWriter):
    """Appends for one source.

    No lock is held between calls: records of an open append are collected, or written above the partitions' next
    offsets where no reader looks, and the commit moves these offsets together with the position. Each transaction
    first compares the ownership token, so that a process that slept through a take-over changes nothing any more.
    Whoever writes the file also cleans it, in a thread beside.
    """

    def __init__(self, folder: Path, source: str, cleanup: Cleanup) -> None:
        self._path = folder / f"source-{source}.db"
        self._groups = folder / "groups.db"
        self._source = source
        self._token = uuid.uuid4().hex
        self._connection: sqlite3.Connection | None = None
        self._topics: dict[str, _Pending] = {}
        self._bytes = 0
        self._staged: dict[int, int] = {}
        self._schemas: list[tuple[bytes, bytes]] = []
        self._next_part = 0
        self._parts: list[tuple[int, bytes]] = []
        self._prepared: list[tuple[str, int]] = []
        self._forgotten: list[tuple[str, int]] = []
        self._cleaner = Cleaner(self._path, cleanup, self._check_owner)

    def fence(self) -> bytes | None:
        make(self._path, SOURCE_TABLES)
        with explaining(self._path):
            connection = self._connection = connect(self._path)
            connection.execute(f"PRAGMA busy_timeout={FENCE_SECONDS * 1000:.0f}")
            connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
            with transaction(connection):
                for table in (CLEANED_TABLE, *PREPARED_TABLES):
                    connection.execute(table)
                connection.execute("UPDATE owner SET token = ?, process = ?", (self._token, os.getpid()))
                heads = connection.execute("SELECT number, next_offset FROM partitions").fetchall()
                connection.executemany(
                    "DELETE FROM blocks WHERE id >= ? AND id < ?",
                    [(number << OFFSET_BITS | offset, number + 1 << OFFSET_BITS) for number, offset in heads],
                )
                connection.execute("DELETE FROM parts WHERE id NOT IN (SELECT id FROM prepared)")
                (self._next_part,) = connection.execute("SELECT ifnull(max(id), 0) + 1 FROM parts").fetchone()
                found = connection.execute("SELECT position FROM position").fetchone()
        self._cleaner.start()
        return None if found is None else found[0]

    def append(self, records: Sequence[Produced], timeout: float) -> int:
        size = self._bytes
        now = time.time_ns() // 1_000_000
        current = ""
        for taken, (topic, key, value, header) in enumerate(records):
            if size > STAGE_BYTES:
                if not self._write(None, timeout):
                    self._bytes = size
                    return taken
                size = 0
            if topic != current:
                pending = self._topics.get(topic) or self._start(topic)
                offsets, lists, partitions = pending.next_offsets, pending.records, len(pending.numbers)
                current = topic
            partition = crc32(key) % partitions
            offset = offsets[partition]
            offsets[partition] = offset + 1
            lists[partition].append((offset, key, value, header, now))
            size += RECORD_OVERHEAD if value is None else RECORD_OVERHEAD + len(value)
        self._bytes = size
        return len(records)

    def append_marker(self, topic: str, key: bytes, header: bytes) -> None:
        pending = self._topics.get(topic) or self._start(topic)
        now = time.time_ns() // 1_000_000
        for partition, offset in enumerate(pending.next_offsets):
            pending.records[partition].append((offset, key, b"", header, now))
            pending.next_offsets[partition] = offset + 1
            self._bytes += RECORD_OVERHEAD

    def append_schema(self, schema: TableSchema) -> None:
        self._schemas.append((schema.id, schema.to_json()))

    def append_prepared(self, transaction: str, part: bytes, timeout: float) -> bool:
        self._alive()
        if self._bytes > STAGE_BYTES and not self._write(None, timeout):
            return False
        self._parts.append((self._next_part, part))
        self._prepared.append((transaction, self._next_part))
        self._next_part += 1
        self._bytes += RECORD_OVERHEAD + len(part)
        return True

    def forget_prepared(self, transaction: str) -> None:
        self._alive()
        self._forgotten.append((transaction, self._next_part))

    def commit(self, position: bytes, timeout: float) -> bool:
        return self._write(position, timeout)

    def close(self) -> None:
        self._cleaner.stop()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._topics = {}

    def _write(self, position: bytes | None, timeout: float) -> bool:
        """Write what was collected; with a `position` make the append readable. False: the file was locked."""
        connection = self._alive()
        blocks, moved = self._blocks()
        try:
            connection.execute(f"PRAGMA busy_timeout={timeout * 1000:.0f}")
            # Staged records need not be on disk yet: the commit that makes them readable syncs the same file.
            connection.execute(f"PRAGMA synchronous={'NORMAL' if position is None else 'FULL'}")
            with transaction(connection):
                self._check_owner(connection)
                connection.executemany("INSERT INTO blocks VALUES (?, ?)", blocks)
                connection.executemany("INSERT INTO parts VALUES (?, ?)", self._parts)
                if position is not None:
                    connection.executemany(
                        "UPDATE partitions SET next_offset = ?2 WHERE number = ?1", {**self._staged, **moved}.items()
                    )
                    connection.executemany("INSERT OR IGNORE INTO schemas VALUES (?, ?)", self._schemas)
                    connection.executemany("INSERT INTO prepared VALUES (?, ?)", self._prepared)
                    connection.executemany(
                        "DELETE FROM parts WHERE id IN (SELECT id FROM prepared WHERE name = ? AND id < ?)",
                        self._forgotten,
                    )
                    connection.executemany("DELETE FROM prepared WHERE name = ? AND id < ?", self._forgotten)
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
        for pending in self._topics.values():
            for records in pending.records:
                records.clear()
        self._parts.clear()
        self._bytes = 0
        if position is None:
            self._staged.update(moved)
        else:
            self._staged.clear()
            self._schemas.clear()
            self._prepared.clear()
            self._forgotten.clear()
        return True

    def _blocks(self) -> tuple[list[tuple[int, bytes]], dict[int, int]]:
        """What was collected as rows of `blocks`, and by partition number the next offset after it."""
        blocks: list[tuple[int, bytes]] = []
        moved: dict[int, int] = {}
        for pending in self._topics.values():
            for partition, records in enumerate(pending.records):
                if not records:
                    continue
                number = pending.numbers[partition]
                moved[number] = pending.next_offsets[partition]
                for first in range(0, len(records), BLOCK_RECORDS):
                    block = records[first : first + BLOCK_RECORDS]
                    blocks.append((number << OFFSET_BITS | block[0][0], _encode(block)))
        return blocks, moved

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

    def _start(self, topic: str) -> _Pending:
        """Learn the partitions of `topic`, which this writer is about to write for the first time.

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
        pending = self._topics[topic] = _Pending(heads)
        return pending

    @staticmethod
    def _register(connection: sqlite3.Connection, topic: str, topic_id: str, partitions: int) -> None:
        """Enter a new topic, in place of an older one of the same name."""
        for (number,) in connection.execute("SELECT number FROM partitions WHERE topic = ?", (topic,)).fetchall():
            bounds = (number << OFFSET_BITS, number + 1 << OFFSET_BITS)
            connection.execute("DELETE FROM blocks WHERE id >= ? AND id < ?", bounds)
            connection.execute("DELETE FROM cleaned WHERE number = ?", (number,))
        connection.execute("DELETE FROM partitions WHERE topic = ?", (topic,))
        connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?)", (topic, topic_id))
        connection.executemany(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?)", [(topic, index) for index in range(partitions)]
        )
