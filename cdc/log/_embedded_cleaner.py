"""The embedded log's cleaner: takes what is superseded, or too old, out of a source's file.

It works beside the writer and the readers in short steps, and holds nothing between two of them. A step writes what
the file must hold then or nothing at all, so it may be killed at any moment: the next pass begins anew.

*Compaction* is Kafka's: of the records of one key the last one stays, a tombstone for as long as a reader may be away.
Offsets never change, they just have holes. Markers have keys of their own, so none hides a marker of another kind.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from cdc import faults
from cdc.errors import CdcError, FencedError, TransientError
from cdc.log import DELETE_RETENTION_SECONDS, Cleanup, Expire, Record
from cdc.log._sqlite import BLOCK_RECORDS, OFFSET_BITS, connect, explaining, transaction
from cdc.record import PARTIAL

LOOK_EVERY_SECONDS: Final = 10.0
"""How often it is looked whether anything is due."""
DIRTY_RECORDS: Final = 10_000
"""A partition is compacted once so many records, and more than it had after the last time, were added to it."""
STEP_BYTES: Final = 256 << 10
"""What one step reads; it is written back in a transaction of some milliseconds."""
KEYS_BYTES: Final = 32 << 20
"""What the keys of one pass may take in memory; the rest is left to the next pass."""
KEY_OVERHEAD: Final = 160
"""What a key costs in memory beside its bytes."""
VACUUM_PAGES: Final = 64
"""How many free pages one step gives back."""
SLACK: Final = 8
"""Free pages are given back to the file system but for a SLACK-th of the file: some are needed soon."""
BUSY_SHARE: Final = 0.05
"""Of the time, while the source is writing."""

clock = time.time
logger = structlog.get_logger()

_decode = msgspec.msgpack.Decoder(list[Record]).decode
_encode = msgspec.msgpack.Encoder().encode


class _Partition(NamedTuple):
    """A partition as a pass found it. All below `cleaned` was compacted before, and `left` records stayed; tombstones
    below `horizon` stand alone since `horizon_at` (ms since 1970, None: there are none)."""

    number: int
    topic_id: str
    next_offset: int
    cleaned: int
    left: int
    horizon: int
    horizon_at: int | None


_PARTITIONS: Final = """
SELECT p.number, t.id, p.next_offset, ifnull(c.next_offset, 0), ifnull(c.records, 0), ifnull(c.horizon, 0), c.horizon_at
FROM partitions p JOIN topics t ON t.name = p.topic LEFT JOIN cleaned c ON c.number = p.number
"""


class Cleaner:
    """Cleans one source's file as `cleanup` says, as long as `check_owner` does not raise."""

    def __init__(self, path: Path, cleanup: Cleanup, check_owner: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._cleanup = cleanup
        self._check_owner = check_owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"cleaner of {path.stem}", daemon=True)

    def start(self) -> None:
        """Clean from now on in a thread of its own, whenever something is due."""
        if self._cleanup != "keep":
            self._thread.start()

    def stop(self) -> None:
        """End the thread, after its current step. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def steps(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Do what is due; between two steps nothing is held. Raises sqlite3.Error and what `check_owner` raises."""
        for row in connection.execute(_PARTITIONS).fetchall():
            partition = _Partition(*row)
            if isinstance(self._cleanup, Expire):
                yield from self._expire(connection, partition, self._cleanup.expire)
            elif _due(partition):
                yield from self._compact(connection, partition)
        yield from _give_back(connection)

    def _run(self) -> None:
        failing = False
        while not self._stop.wait(LOOK_EVERY_SECONDS) and self._path.exists():
            try:
                with explaining(self._path):
                    self._clean()
                failing = False
            except FencedError:
                return
            except CdcError as error:
                if not failing:
                    logger.warning("log.not_cleaned", error=str(error.args[0]))
                failing = True

    def _clean(self) -> None:
        """The steps, each followed by a rest: as long as it took, or many times that while the source is writing."""
        with closing(connect(self._path)) as connection:
            connection.execute("PRAGMA synchronous=NORMAL")  # a step that a power failure undoes is done again
            version, began = -1, time.monotonic()
            for _ in self.steps(connection):
                took = time.monotonic() - began
                before, version = version, connection.execute("PRAGMA data_version").fetchone()[0]
                if self._stop.wait(took if version == before else took / BUSY_SHARE):
                    return
                began = time.monotonic()

    def _compact(self, connection: sqlite3.Connection, partition: _Partition) -> Iterator[None]:
        # 1. The last offset of each key that was added since the last pass, as many as fit into memory.
        latest: dict[bytes, int] = {}
        head, size = partition.cleaned, 0
        while head < partition.next_offset and size < KEYS_BYTES:
            records = _read(connection, partition.number, head, partition.next_offset)[1]
            if not records:
                head = partition.next_offset
                break
            before = len(latest)
            for record in records:
                # What lacks columns does not replace what has them.
                if not record.header[2:3] or not record.header[2] & PARTIAL:
                    latest[record.key] = record.offset
            size += (len(latest) - before) * (KEY_OVERHEAD + len(records[-1].key))
            head = records[-1].offset + 1
            yield
        # 2. Without what these supersede, and without tombstones whose time is up.
        purge = partition.horizon if _purging(partition) else 0
        at, left, tombstones = 0, 0, 0
        while at < head:
            ids, records = _read(connection, partition.number, at, head)
            if not records:
                break
            at = records[-1].offset + 1
            kept = [
                record
                for record in records
                if latest.get(record.key, 0) <= record.offset and (record.value is not None or record.offset >= purge)
            ]
            left += len(kept)
            tombstones += sum(record.value is None for record in kept)
            if len(kept) < len(records) or len(ids) > 2 * (len(kept) // BLOCK_RECORDS + 1):
                with self._writing(connection, partition):
                    connection.execute("DELETE FROM blocks WHERE id BETWEEN ? AND ?", (ids[0], ids[-1]))
                    connection.executemany("INSERT INTO blocks VALUES (?, ?)", _blocks(partition.number, kept))
                    faults.reach("log.in_step")
            faults.reach("log.between_steps")
            yield
        # 3. From now on the tombstones stand alone: who has read an older record of their key has its time from here.
        now = round(clock() * 1000)
        horizon, since = partition.horizon, partition.horizon_at
        if purge or since is None:
            horizon, since = head, now
        with self._writing(connection, partition):
            values = (partition.number, head, left, horizon, since if tombstones else None)
            connection.execute("INSERT OR REPLACE INTO cleaned VALUES (?, ?, ?, ?, ?)", values)
        yield

    def _expire(self, connection: sqlite3.Connection, partition: _Partition, seconds: float) -> Iterator[None]:
        oldest = (clock() - seconds) * 1000
        first = partition.number << OFFSET_BITS
        query = "SELECT id, records FROM blocks WHERE id >= ? AND id < ? ORDER BY id"
        while True:
            last: tuple[int, int] | None = None
            size = 0
            with closing(connection.execute(query, (first, first | partition.next_offset))) as cursor:
                for block_id, block in cursor:
                    record = _decode(block)[-1]
                    if record.timestamp >= oldest or size >= STEP_BYTES:
                        break
                    last = block_id, record.offset
                    size += len(block)
            if last is None:
                return
            with self._writing(connection, partition):
                connection.execute("DELETE FROM blocks WHERE id BETWEEN ? AND ?", (first, last[0]))
                connection.execute(
                    "UPDATE partitions SET start_offset = ? WHERE number = ?", (last[1] + 1, partition.number)
                )
                faults.reach("log.in_step")
            yield

    @contextmanager
    def _writing(self, connection: sqlite3.Connection, partition: _Partition) -> Iterator[None]:
        """A transaction on a partition that is still the one that was read, in a file that is still ours."""
        with transaction(connection):
            self._check_owner(connection)
            query = "SELECT t.id FROM partitions p JOIN topics t ON t.name = p.topic WHERE p.number = ?"
            found = connection.execute(query, (partition.number,)).fetchone()
            if found != (partition.topic_id,):
                raise TransientError("a topic was made anew while it was cleaned", hint="it is tried again")
            yield


def _due(partition: _Partition) -> bool:
    return partition.next_offset - partition.cleaned >= max(DIRTY_RECORDS, partition.left) or _purging(partition)


def _purging(partition: _Partition) -> bool:
    """Whether nobody can need the tombstones below the horizon any more."""
    return partition.horizon_at is not None and partition.horizon_at / 1000 <= clock() - DELETE_RETENTION_SECONDS


def _read(connection: sqlite3.Connection, number: int, at: int, end: int) -> tuple[list[int], list[Record]]:
    """The blocks of a partition between two offsets, up to `STEP_BYTES` of them: their ids and records."""
    first = number << OFFSET_BITS
    ids: list[int] = []
    records: list[Record] = []
    size = 0
    query = "SELECT id, records FROM blocks WHERE id >= ? AND id < ? ORDER BY id"
    with closing(connection.execute(query, (first | at, first | end))) as cursor:
        for block_id, block in cursor:
            ids.append(block_id)
            records += _decode(block)
            size += len(block)
            if size >= STEP_BYTES:
                break
    return ids, records


def _blocks(number: int, records: list[Record]) -> Iterator[tuple[int, bytes]]:
    for first in range(0, len(records), BLOCK_RECORDS):
        block = records[first : first + BLOCK_RECORDS]
        yield number << OFFSET_BITS | block[0].offset, _encode(block)


def _give_back(connection: sqlite3.Connection) -> Iterator[None]:
    """Free pages to the file system. A file that was made without auto_vacuum keeps them for what comes."""
    while True:
        free, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
        if free * SLACK <= pages or connection.execute("PRAGMA auto_vacuum").fetchone() != (2,):
            return
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")  # execute() would free one page only
        yield
