"""The snapshot of tables while the stream runs: which chunk is next, and which of its rows may go to the log.

Several chunks are read side by side, of one table or of several. A table's first chunk finds out whether the rest is
worth dividing; its ranges are then independent of each other. Rows whose key was touched while their chunk was read
are dropped: the stream has something newer, or will not say more. What else orders a read against the stream is the
connector's part (design, "Snapshot"). A list of keys is read in the same way, as a range of its own.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from cdc.errors import CdcError, DecodeError, TransientError
from cdc.event import Value
from cdc.formats.json import decode
from cdc.source.config import SnapshotConfig
from cdc.source.plan import KeyRange, TableSnapshot
from schemas.table import TableSchema

log = structlog.get_logger()

FIRST_CHUNK_ROWS: Final = 2_000
CHUNK_ROWS: Final = (200, 500_000)
CHUNK_KEYS: Final = 1_000
"""How many listed keys a chunk reads at most."""
RANGES_PER_READER: Final = 4
"""Into how many ranges a large table is divided: more than there are readers, so that they end at about one time."""
LOOK_EVERY_SECONDS: Final = 0.2
"""How often the database is asked whether what is waited for has come about."""


Keys = Mapping[bytes, Mapping[str, Value]]
"""Record keys, each with its columns' values."""


class ReadLater(CdcError):
    """A table cannot be read now; the message says what is waited for. It is tried again, other tables meanwhile."""


def gone(table: str) -> TransientError:
    """What to raise when `table` (``schema.table``) is there no more, or another one has its name."""
    return TransientError(
        f"table {table} was dropped or renamed while it was read",
        hint="capture starts again by itself with the tables that exist then: the others go on, a new one of that name "
        "is read from its beginning; what was read of the old one stays on the log and in the stores until then",
    )


@dataclass
class Chunk:
    """One chunk: what to read, and once `done` is set what was read.

    It reads the first rows of `range`: `limit` at most, fewer when ``chunk_bytes`` is full. `lines` are the rows as
    the connector's generated function takes them. `rest` is what is left of the range, in `divide` ranges of about the
    same size if that is worth it. `table` is how the table looked when it was read, `table_rows` how many rows
    the server believes it has, None when nobody knows.

    With `keys` it reads the rows that have one of these. What the database deems equal to one, though its bytes are
    others, may be read as well. `unfit` then says why fewer must be read at once: what was read is not used.
    """

    table: Any
    range: KeyRange
    limit: int
    id: str
    divide: int = 1
    keys: Keys | None = None
    unfit: str = ""
    lines: list[bytes] = field(default_factory=list)
    rest: list[KeyRange] = field(default_factory=list)
    table_rows: int | None = None
    seconds: float = 0.0
    size: int = 0
    read_at: int = 0
    """When it was read, µs since 1970."""
    marked_at: float = 0.0
    """When its high mark was written, by the monotonic clock."""
    error: CdcError | None = None
    done: threading.Event = field(default_factory=threading.Event)


C = TypeVar("C", bound=Chunk)
_Read = TypeVar("_Read", bound=Chunk, contravariant=True)


class Reader(Protocol[_Read]):
    """Reads chunks, each in a thread."""

    def begin(self, chunk: _Read) -> None:
        """Start reading `chunk`; its result, or its `error`, is there when ``chunk.done`` is set."""

    def close(self) -> None:
        """End running reads. Safe to call twice."""


@dataclass
class Reading(Generic[C]):
    """A chunk that is being read, and what the stream showed of its table meanwhile."""

    chunk: C
    watched: bool = False
    """The stream tells of the keys that it changes, from here on until the chunk goes to the log."""
    touched: set[bytes] = field(default_factory=set)
    size: int = 0
    broken: str = ""
    """Why the chunk must be read again; empty when it need not."""

    @property
    def table(self) -> str:
        """``schema.table``."""
        return str(self.chunk.table.full_name)


class Snapshots(ABC, Generic[C]):
    """Drives the chunks. Called by the stream only, in its thread.

    `active` asks the database for the number of sessions of others that run a statement. `watch` is called with the
    names of the tables whose keys the stream is to watch now. `schema` tells that of a table's rows.
    """

    def __init__(
        self,
        config: SnapshotConfig,
        reader: Reader[C],
        active: Callable[[], int],
        watch: Callable[[Collection[str]], None],
        schema: Callable[[Any], TableSchema],
    ) -> None:
        self._config = config
        self._reader = reader
        self._active = active
        self._watch = watch
        self._schema = schema
        self._readings: dict[str, Reading[C]] = {}
        self._rows: dict[str, int] = {}
        self._keys = CHUNK_KEYS
        self._locked: dict[str, float] = {}
        self._number = 0
        self._look_at = 0.0
        self._late = False
        self.waiting_for = ""
        """What the next chunk waits for, for the operator; empty when it is being read."""

    @abstractmethod
    def _may_read(self, progress: TableSnapshot) -> str:
        """What must come about before another chunk of a table may be read; empty when it may be."""

    @abstractmethod
    def _chunk(self, table: Any, range_: KeyRange, limit: int, id_: str) -> C:
        """A chunk that is about to be read."""

    def _idle(self) -> None:
        """Nothing is to be read any more."""
        self.waiting_for = ""

    def poll(self, plan: Mapping[str, TableSnapshot], tables: Mapping[str, Any], run: str, *, behind: bool) -> None:
        """Begin the chunks that are due; `behind`: there is more to read of the stream now.

        Raises what a chunk's reader raised.
        """
        self._check_readers()
        if not plan and not self._readings:
            self._idle()
            return
        now = time.monotonic()
        if now < self._look_at:
            return
        self._late = self._late and behind
        for name, progress, range_ in self._due(plan, now):
            if len(self._readings) == self._config.readers:
                return
            self.waiting_for = self._throttled() or self._may_read(progress)
            if self.waiting_for:
                self._look_at = now + LOOK_EVERY_SECONDS
                return
            self._number += 1
            chunk = self._chunk(tables[name], range_, self._limit(name, range_), f"{run}.{self._number}")
            if range_.keys is not None:
                chunk.keys = _decoded(range_.keys[: chunk.limit], self._schema(tables[name]))
                chunk.rest = [KeyRange(keys=left)] if (left := range_.keys[chunk.limit :]) else []
            elif not progress.begun and self._config.readers > 1:
                chunk.divide = self._config.readers * RANGES_PER_READER
            self._begun(chunk)
            self._reader.begin(chunk)

    def _limit(self, name: str, range_: KeyRange) -> int:
        return self._rows.get(name, FIRST_CHUNK_ROWS) if range_.keys is None else self._keys

    def _begun(self, chunk: C) -> None:
        self._readings[chunk.id] = Reading(chunk)

    def _due(self, plan: Mapping[str, TableSnapshot], now: float) -> Iterator[tuple[str, TableSnapshot, KeyRange]]:
        """Ranges of which the next chunk may be read, in order."""
        taken = [(reading.table, reading.chunk.range) for reading in self._readings.values()]
        for name, progress in plan.items():
            if self._locked.get(name, now) <= now:
                yield from ((name, progress, one) for one in progress.ranges if (name, one) not in taken)

    def _throttled(self) -> str:
        """Whether the database has more important things to do than to be read, or we have."""
        most = self._config.max_active_sessions
        if self._late:
            return "the stream, whose changes come late"
        if most is not None and (active := self._active()) > most:
            return f"the database: {active} sessions are active, more than max_active_sessions ({most})"
        return ""

    def _check_readers(self) -> None:
        """A chunk that failed is begun again later, or its error is raised."""
        for reading in [one for one in self._readings.values() if one.chunk.error is not None]:
            error = reading.chunk.error
            assert error is not None
            self._drop(reading)
            if not isinstance(error, ReadLater):
                raise error
            self.waiting_for = str(error)
            self._locked[reading.table] = time.monotonic() + 1.0

    def touched(self, table: str, keys: Collection[bytes]) -> None:
        """Keys of a watched table that the stream changed."""
        for reading in self._readings.values():
            if reading.table != table or not reading.watched:
                continue
            reading.touched.update(keys)
            reading.size += sum(map(len, keys))
            if reading.size > self._config.chunk_bytes:
                reading.broken = "more keys were changed meanwhile than fit"
                reading.touched.clear()
                reading.size = 0

    def broken(self, table: str, why: str) -> None:
        """`table` was truncated, or its definition changed: chunks of it that are being read are void."""
        for reading in self._readings.values():
            if reading.table == table:
                reading.broken = why

    def _passed(self, reading: Reading[C], why: str) -> tuple[C, set[bytes]] | None:
        """The stream has passed all that the chunk's read saw. The chunk, and the keys to drop from it; None where it
        is to be read again, because it was broken or because of `why`."""
        chunk = reading.chunk
        self._drop(reading)
        self._late = time.monotonic() - chunk.marked_at > self._config.max_lag
        why = reading.broken or why or chunk.unfit
        self._adapt(chunk, smaller="fit" in why)
        if why:
            log.info("snapshot.chunk_discarded", table=reading.table, why=why)
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS
            self.waiting_for = f"{reading.table} to be read again: {why}"
            return None
        return chunk, reading.touched

    def _adapt(self, chunk: C, *, smaller: bool) -> None:
        """Rows for the table's next chunk, from what this one cost."""
        if chunk.keys is not None:
            count = len(chunk.keys)
            fitting = int(count * self._config.chunk_bytes * 0.8 / max(chunk.size, 1))
            self._keys = max(1, count // 2 if smaller else min(CHUNK_KEYS, fitting, chunk.limit * 2))
            return
        rows = chunk.limit
        if smaller:
            rows = rows // 2
        elif chunk.lines:
            by_time = len(chunk.lines) * self._config.chunk_time_target / max(chunk.seconds, 0.001)
            by_size = len(chunk.lines) * self._config.chunk_bytes * 0.8 / chunk.size
            rows = int(min(by_time, by_size, rows * 8))
        self._rows[chunk.table.full_name] = max(CHUNK_ROWS[0], min(CHUNK_ROWS[1], rows))

    def _drop(self, reading: Reading[C]) -> None:
        del self._readings[reading.chunk.id]
        self._watch_tables()

    def _watch_tables(self) -> None:
        self._watch({reading.table for reading in self._readings.values() if reading.watched})

    def close(self) -> None:
        """End running reads. Safe to call twice."""
        self._reader.close()


def _decoded(keys: Sequence[str], schema: TableSchema) -> Keys:
    """The keys, without those that are none of `schema` any more."""
    found: dict[bytes, Mapping[str, Value]] = {}
    for key in keys:
        try:
            found[key.encode()] = decode(schema, key.encode())
        except DecodeError:
            log.error("snapshot.key_unreadable", table=f"{schema.schema}.{schema.table}")
    return found
