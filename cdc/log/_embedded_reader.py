"""The embedded log's reader: looks at the sources' files, holding no transaction between polls."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cdc.errors import GapError
from cdc.log import Assigned, Committed, Fetched, LogReader, Record, Revoked, Topic, TopicPartition
from cdc.log._embedded_group import Membership
from cdc.log._sqlite import OFFSET_BITS, connect, explaining, opened, transaction

LOOK_EVERY_SECONDS: Final = 1.0
"""How often the reader looks for new topics and files."""
SHORTEST_NAP: Final = 0.0005
LONGEST_NAP: Final = 0.02
NAP_SHARE: Final = 0.02
"""Between two looks at the files while nothing comes: this share of the time that nothing has come for, so that a
record that comes after a second of silence waits 20 ms at most, and one that comes amid others not noticeably."""

_decode = msgspec.msgpack.Decoder(list[Record]).decode
_BLOCKS: Final = """
SELECT records FROM blocks
WHERE id >= (SELECT ifnull(max(id), ?2) FROM blocks WHERE id BETWEEN ?1 AND ?2) AND id < ?3 ORDER BY id
"""
"""From the block that holds row id ?2 on; ?1 begins the partition, ?3 ends what is committed."""
_BLOCK: Final = "SELECT records FROM blocks WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1"
"""The last block that begins at row id ?2 or before; ?1 begins the partition."""


@dataclass(slots=True)
class _Place:
    """An assigned partition: where reading is, and where its records lie (`file` is None before the first one)."""

    next_offset: int
    topic_id: str
    file: str | None = None
    number: int = 0
    end: int = 0
    paused: bool = False


class _File:
    """A source's file, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = connect(path, read_only=True)
        self._version = -1
        self.heads: dict[tuple[str, int], tuple[int, int, int]] = {}

    def changed(self) -> bool:
        """Whether somebody committed since the last call; then `heads` is read anew."""
        version = self.connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return False
        self._load()
        self._version = version
        return True

    def forget(self) -> None:
        """Read `heads` anew, and let the next `changed` be true."""
        self._load()
        self._version = -1

    def _load(self) -> None:
        rows = self.connection.execute("SELECT topic, partition, number, start_offset, next_offset FROM partitions")
        self.heads = {(row[0], row[1]): row[2:] for row in rows.fetchall()}


class EmbeddedReader(LogReader):
    """Reads the partitions of the matching topics: all of them, or this process's share of a group's."""

    def __init__(
        self,
        folder: Path,
        group: str | None,
        wanted: Callable[[], Mapping[str, tuple[Topic, str | None]]],
        on_assigned: Assigned,
        on_revoked: Revoked,
        max_bytes: int,
        alone: bool,
    ) -> None:
        self._folder = folder
        self._groups = folder / "groups.db"
        self._group = group
        self._wanted = wanted
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._max_bytes = max_bytes
        self._places: dict[TopicPartition, _Place] = {}
        self._files: dict[str, _File] = {}
        self._looked = float("-inf")
        self._first = 0
        self._fetched_at = float("-inf")
        self._membership = None if group is None else Membership(folder, group, alone=alone)

    def poll(self, timeout: float) -> list[Fetched]:
        deadline = time.monotonic() + timeout
        drained = False
        while True:
            now = time.monotonic()
            if now - self._looked >= LOOK_EVERY_SECONDS:
                self._look()
                self._looked = now
                drained = False
            with explaining(self._folder):
                fetched = self._fetch(drained)
            drained = True
            now = time.monotonic()
            if fetched:
                self._fetched_at = now
            if fetched or now >= deadline:
                return fetched
            nap = min(max(SHORTEST_NAP, (now - self._fetched_at) * NAP_SHARE), LONGEST_NAP)
            time.sleep(min(nap, deadline - now))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._group is None:
            raise ValueError("a reader without a group has nothing to commit")
        rows = [(self._group, tp.topic, tp.partition, at, self._places[tp].topic_id) for tp, at in offsets.items()]
        with opened(self._groups) as connection, transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?)", rows)

    def position(self) -> Mapping[TopicPartition, int]:
        return {tp: place.next_offset for tp, place in self._places.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        for tp in partitions:
            self._places[tp].paused = True

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        for tp in partitions:
            self._places[tp].paused = False

    def seek(self, partition: TopicPartition, offset: int) -> None:
        place = self._places[partition]
        self._check(partition, place, offset)
        place.next_offset = offset

    def close(self) -> None:
        membership, self._membership = self._membership, None
        try:
            if membership is not None and self._places:
                self._on_revoked(list(self._places))
        finally:
            self._places = {}
            for file in self._files.values():
                file.connection.close()
            self._files = {}
            if membership is not None:
                membership.leave()

    def _look(self) -> None:
        """Find new topics, and take or let go partitions; notice topics that are gone or were made anew."""
        wanted = self._wanted()
        for tp, place in self._places.items():
            still = wanted.get(tp.topic)
            if still is None or still[0].id != place.topic_id:
                raise _gap(tp, "was deleted" if still is None else "was deleted and made anew")
        every = [
            TopicPartition(name, index) for name, (topic, _) in wanted.items() for index in range(topic.partitions)
        ]
        taken = self._shared(every)
        new: dict[TopicPartition, _Place] = {}
        moved = False
        for name, (topic, source) in wanted.items():
            file = None if source is None else f"source-{source}.db"
            if file is not None and file not in self._files and (self._folder / file).exists():
                with explaining(self._folder / file):
                    self._files[file] = _File(self._folder / file)
            for index in range(topic.partitions):
                tp = TopicPartition(name, index)
                if tp in taken:
                    new[tp] = _Place(0, topic.id)
                elif tp not in self._places:
                    continue
                place = new.get(tp) or self._places[tp]
                moved |= place.file != file
                place.file = file
        if moved or new:
            with explaining(self._folder):
                for known in self._files.values():
                    known.forget()
        if new:
            self._start(new)

    def _shared(self, partitions: list[TopicPartition]) -> set[TopicPartition]:
        """Let go what is no longer this reader's share of `partitions`; returns what it has taken now."""
        if self._membership is None:
            return set(partitions) - self._places.keys()
        share = self._membership.share(partitions)
        if gone := [tp for tp in self._places if tp not in share]:
            self._on_revoked(gone)
            for tp in gone:
                del self._places[tp]
            self._membership.release(gone)
        wanted = share - self._places.keys()
        return self._membership.take(wanted) if wanted else set()

    def _start(self, new: Mapping[TopicPartition, _Place]) -> None:
        stored: Mapping[TopicPartition, Committed] = {}
        if self._group is not None:
            stored = committed(self._groups, self._group)
        for tp, offset in self._on_assigned(list(new)).items():
            place = new[tp]
            known = stored.get(tp)
            if known is not None and known.offset == offset and known.topic_id != place.topic_id:
                raise _gap(tp, "was deleted and made anew since the offset was committed")
            self._check(tp, place, offset)
            place.next_offset = offset
        self._places.update(new)

    def _check(self, tp: TopicPartition, place: _Place, offset: int) -> None:
        start = 0
        if place.file in self._files:
            place.number, start, place.end = self._files[place.file].heads.get(tp, (0, 0, 0))
        if not start <= offset <= place.end:
            raise _gap(tp, f"has offsets {start} to {place.end}, which {offset} is not among")

    def _fetch(self, drained: bool) -> list[Fetched]:
        """What there is; `drained`: there was nothing a moment ago, so only a file that changed is worth a look."""
        changed = [name for name, file in self._files.items() if file.changed()]
        if drained and not changed:
            return []
        if changed:
            for tp, place in self._places.items():
                if place.file in changed:
                    self._check(tp, place, place.next_offset)
        ready = [(tp, place) for tp, place in self._places.items() if place.next_offset < place.end]
        ready = [(tp, place) for tp, place in ready if not place.paused]
        fetched: list[Fetched] = []
        budget = self._max_bytes
        # Begin with another partition each time, so that a long one does not starve the rest.
        self._first = (self._first + 1) % max(len(ready), 1)
        for tp, place in ready[self._first :] + ready[: self._first]:
            end = place.end
            records, size = self._read(place, budget)
            if not records or records[0].offset > place.next_offset:
                # Compaction made this hole. If age did, the start has moved on: in the same transaction, so look again.
                assert place.file is not None
                self._files[place.file].forget()
                self._check(tp, place, place.next_offset)
            place.next_offset = records[-1].offset + 1 if records else end
            fetched.append(Fetched(tp.topic, tp.partition, records, place.next_offset))
            budget -= size
            if budget <= 0:
                break
        return fetched

    def _read(self, place: _Place, budget: int) -> tuple[list[Record], int]:
        assert place.file is not None
        first = place.number << OFFSET_BITS
        bounds = (first, first | place.next_offset, first | place.end)
        size = 0
        records: list[Record] = []
        cursor = self._files[place.file].connection.execute(_BLOCKS, bounds)
        for (block,) in cursor:
            found = _decode(block)
            if found[0].offset < place.next_offset:
                found = [record for record in found if record.offset >= place.next_offset]
            records += found
            size += len(block) if found else 0
            if size >= budget:
                break
        cursor.close()
        return records, size


def committed(groups: Path, group: str) -> dict[TopicPartition, Committed]:
    """The committed offsets of `group`."""
    with opened(groups, read_only=True) as connection:
        rows = connection.execute(
            "SELECT topic, partition, offset, topic_id FROM offsets WHERE consumer_group = ?", (group,)
        ).fetchall()
    return {TopicPartition(topic, index): Committed(offset, topic_id) for topic, index, offset, topic_id in rows}


def offset_for_time(connection: sqlite3.Connection, number: int, start: int, end: int, time: int) -> int:
    """The offset of the first record of partition `number`, between `start` and `end`, that was appended at `time` (ms
    since 1970) or later; `end` without one. Blocks lie in the order of time, so few of them are looked at."""
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        bounds = (number << OFFSET_BITS, number << OFFSET_BITS | middle)
        row = connection.execute(_BLOCK, bounds).fetchone()
        records = [] if row is None else _decode(row[0])
        if not records or records[-1].timestamp < time:
            low = max(middle, records[-1].offset if records else 0) + 1
        elif records[0].timestamp >= time:
            high = max(low, records[0].offset)
        else:
            return next(record.offset for record in records if record.timestamp >= time)
    return low


def _gap(tp: TopicPartition, what: str) -> GapError:
    return GapError(
        f"partition {tp.partition} of topic {tp.topic!r} {what}", hint="start the sink again: it says what is missing"
    )
