"""DuckDB: each table of the source as a table of a file, typed, for analysis.

Rows, deletes, floors, offsets and the sink's generation are one transaction. DuckDB itself parses the rows' JSON and
merges them. What a late write loses against: the row's version, that of the delete in ``_cdc_tombstones`` (kept for
`tombstone_ttl`), the floor of its partition in ``_cdc_floors``, and the generation in ``_cdc_offsets``.

Only one process can hold the file, so each write opens it, applies its batches and closes it; in between others may
read. A write that meets a reader is tried again later.

Each table has three columns of ours: ``_cdc_key`` (the record key), ``_cdc_version``, ``_cdc_partition``. It needs no
index: a merge reads the keys of the table once, which costs less than keeping an index up to some ten million rows.
Types, and values that a column cannot hold: see :mod:`sinks._duckdb_types`.
"""

# ruff: noqa: S608 - names are quoted, values are parameters or Arrow

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import duckdb
from pydantic import Field

from cdc import faults
from cdc.config.fields import BatchConfig, ByteSize, Duration, SinkConfig
from cdc.errors import FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.findings import Finding, Severity
from cdc.log import TopicPartition
from cdc.sink import ANEW, Batch, Rejected, Sink, StoredOffset, accepted
from sinks._duckdb_rows import VALUE_ERRORS, gathered, moment, repeated
from sinks._duckdb_table import Table, Tables, quoted
from sinks._rounds import rounds
from sinks._warehouse import AT, DELETED, KEY, PARTITION, VALID_TO, VERSION, Kept, WarehouseConfig

PURGE_EVERY_SECONDS: Final = 3600.0


_TABLES: Final = """
CREATE TABLE IF NOT EXISTS _cdc_offsets (
    topic VARCHAR, partition INTEGER, topic_id VARCHAR NOT NULL, next_offset BIGINT NOT NULL,
    generation BIGINT NOT NULL, started TIMESTAMP NOT NULL DEFAULT current_timestamp, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS _cdc_floors (
    topic VARCHAR, partition INTEGER, version BIGINT NOT NULL, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS _cdc_tombstones (
    topic VARCHAR NOT NULL, partition INTEGER NOT NULL, key VARCHAR NOT NULL, version BIGINT NOT NULL,
    deleted_at BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS _cdc_tables (topic VARCHAR PRIMARY KEY);
"""
_CLAIM: Final = "FROM _cdc_offsets WHERE topic = '' AND partition = -1"
"""The row that says whose these tables are: `topic_id` is the sink, `generation` that of its latest `open`."""


class LargeBatch(BatchConfig):
    """Every write opens, syncs and closes the file: few large ones are faster."""

    rows: int = Field(default=100_000, gt=0)
    """Most rows of one write."""
    bytes: Annotated[ByteSize, Field(gt=0)] = 80 << 20
    """Most bytes of their values, as they are on the log."""
    every: Duration = 1.0
    """Longest time that a record waits for others."""


class DuckDBConfig(WarehouseConfig):
    """Configuration of a DuckDB sink."""

    path: Path = Field(examples=["warehouse.duckdb"])
    """The database file; its folder must exist."""
    schema_: Annotated[str, Field(alias="schema", min_length=1)] = "main"
    """Schema of the file that the tables are made in. A second sink on the same file needs one of its own."""
    batch: LargeBatch = LargeBatch()


class DuckDBSink(Sink):
    """Rows as typed tables in a DuckDB file; the module's description says what is promised, and how."""

    Config = DuckDBConfig
    owns_offsets = True
    single_worker = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, DuckDBConfig)
        self._config = config
        self._kept = config.kept
        self.every_change = config.kept.history
        self._path = config.path.absolute()
        self._where = f"sink {name}: {self._path}"
        self._owner = f"{pipeline}:{name}"
        self._schema = quoted(config.schema_)
        self._generation = 0
        self._purge_at = 0.0
        self._tables: Tables | None = None
        self._made: set[str] = set()

    def check(self) -> list[Finding]:
        """Whether the file is there or can be made, and is one of DuckDB's."""
        if not self._path.parent.is_dir():
            fix = f"mkdir -p {self._path.parent}"
            return [Finding("folder", Severity.ERROR, f"the folder of {self._path} does not exist", fix)]
        if self._path.exists():
            with self._border(UnreachableError), duckdb.connect(str(self._path), read_only=True):
                return [Finding("file", Severity.OK, f"{self._path} can be read")]
        return [Finding("file", Severity.OK, f"{self._path} will be made")]

    def open(self) -> None:
        """Make the file and its tables of ours, and claim it. Raises UnreachableError while others hold the file."""
        if not self._path.parent.is_dir():
            raise PermanentError(f"{self._where}: its folder does not exist", hint=f"mkdir -p {self._path.parent}")
        with self._border(UnreachableError), self._transaction() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
            connection.execute(f"USE {self._schema}")
            connection.execute(_TABLES)
            claims = connection.execute(f"SELECT topic_id, generation {_CLAIM}").fetchall()
            owner, generation = claims[0] if claims else (self._owner, 0)
            if owner != self._owner:
                raise PermanentError(
                    f"{self._where}: schema {self._config.schema_} belongs to {owner} (pipeline:sink)",
                    hint="give this sink a schema of its own, for example schema: replica",
                )
            self._generation, self._tables = generation + 1, None
            connection.execute(
                "INSERT OR REPLACE INTO _cdc_offsets (topic, partition, topic_id, next_offset, generation) "
                "VALUES ('', -1, ?, 0, ?)",
                [self._owner, self._generation],
            )

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """`open` has claimed the file. Raises GapError when the table of one of `partitions` was dropped."""
        with self._border(UnreachableError), self._transaction() as connection:
            self._fence(connection)
            self._read_tables(connection).require({partition.topic for partition in partitions} & _made(connection))

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was ever started."""
        with self._border(UnreachableError), duckdb.connect(str(self._path)) as connection:
            found = connection.execute(
                f"SELECT topic, partition, next_offset, topic_id FROM {self._schema}._cdc_offsets WHERE partition >= 0"
            ).fetchall()
        return {TopicPartition(topic, number): StoredOffset(*stored) for topic, number, *stored in found}

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches` and their offsets in one transaction."""
        if not batches:
            return []
        with self._border(TransientError):
            try:
                return self._apply(batches, topic_ids, checked=False)
            except duckdb.CatalogException:
                # Somebody else changed a table: now they are read anew.
                return self._apply(batches, topic_ids, checked=False)
            except VALUE_ERRORS:
                # Some row has a value that its column cannot hold: now each is looked at, to find which.
                return self._apply(batches, topic_ids, checked=True)

    def close(self) -> None:
        """Nothing is held between writes."""

    def _apply(self, batches: Sequence[Batch], topic_ids: Mapping[str, str], *, checked: bool) -> list[Rejected]:
        rejected: list[Rejected] = []
        tables, self._tables = self._tables, None  # to be forgotten, should anything go wrong
        with self._transaction() as connection:
            self._fence(connection)
            if tables is None:
                tables = self._read_tables(connection)
                self._made = _made(connection)
                tables.require({batch.topic for batch in batches} & self._made)
            steps = [(together, gathered(together, self._kept, checked=checked)) for together in rounds(batches)]
            # DuckDB changes a table only as long as the transaction has not changed its rows.
            for topic in {batch.topic for batch in batches}:
                tables.follow(connection, topic)
            for _, gathering in steps:
                for group in gathering.upserts:
                    tables.prepare(connection, group.schema)
                    if (made := group.schema.topic) not in self._made:
                        connection.execute("INSERT INTO _cdc_tables VALUES (?)", [made])
                        self._made.add(made)
            for together, gathering in steps:
                for batch in together:
                    if batch.floor:
                        _sweep(connection, tables.of_topic(connection, batch.topic), batch)
                for group in gathering.upserts:
                    table = tables.of_topic(connection, group.schema.topic)
                    assert table is not None, "it has been prepared"
                    rejected += group.apply(connection, table)
                for deletes in gathering.deletes:
                    deletes.apply(connection, tables.of_topic(connection, deletes.topic), self._kept)
            faults.reach("sink.between_rows_and_offsets")
            _store_offsets(connection, accepted(batches, rejected), topic_ids, self._generation)
            self._purge(connection)
        self._tables = tables
        return rejected

    def _read_tables(self, connection: duckdb.DuckDBPyConnection) -> Tables:
        return Tables(connection, self._config.schema_, self._config.table, self._where, self._kept)

    def _fence(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute(f"USE {self._schema}")
            claims = connection.execute(f"SELECT generation {_CLAIM}").fetchall()
        except duckdb.CatalogException as error:
            raise GapError(
                f"{self._where} no longer holds what was written: it was deleted or replaced",
                hint=ANEW,
            ) from error
        if claims != [(self._generation,)]:
            raise FencedError(f"{self._where}: another process of this sink took over")

    def _purge(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Forget deletes that nothing can be older than any more."""
        if time.monotonic() < self._purge_at:
            return
        connection.execute(
            "DELETE FROM _cdc_tombstones WHERE deleted_at < ?", [int(time.time() - self._config.tombstone_ttl)]
        )
        self._purge_at = time.monotonic() + PURGE_EVERY_SECONDS

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction in the file, which is open for that long only."""
        with duckdb.connect(str(self._path)) as connection:
            connection.begin()
            yield connection  # closing rolls back what is not committed
            connection.commit()

    @contextmanager
    def _border(self, unreachable: type[TransientError]) -> Iterator[None]:
        """Turn DuckDB's errors into ours; their text may hold values of a row, so it is shown for files only."""
        try:
            yield
        except duckdb.TransactionException as error:
            raise TransientError(f"{self._where}: another transaction changed the same rows") from error
        except duckdb.ConnectionException as error:
            raise unreachable(f"{self._where} is open in this process with other settings") from error
        except duckdb.IOException as error:
            first = str(error).partition("\n")[0]
            if "lock" in first:
                raise unreachable(
                    f"{self._where} is in use by another process ({first})",
                    hint="it is tried again by itself; whoever reads the file should close it soon",
                ) from error
            if "No space left" in first:
                raise TransientError(f"{self._where}: the disk is full") from error
            raise PermanentError(f"{self._where} cannot be used: {first}", hint="see `path`") from error
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.DependencyException) as error:
            first = str(error).partition("\n")[0]
            raise PermanentError(f"{self._where}: a table was changed by others: {first}") from error
        except duckdb.Error as error:
            raise PermanentError(f"{self._where}: DuckDB failed ({type(error).__name__})") from error


def _sweep(connection: duckdb.DuckDBPyConnection, table: Table | None, batch: Batch) -> None:
    """Raise the partition's floor, and delete what lies below."""
    connection.execute(
        "INSERT INTO _cdc_floors VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET version = greatest(version, excluded.version)",
        [batch.topic, batch.partition, batch.floor],
    )
    connection.execute(
        "DELETE FROM _cdc_tombstones WHERE topic = ? AND partition = ? AND version < ?",
        [batch.topic, batch.partition, batch.floor],
    )
    if table is not None:
        statement = _swept(table)
        connection.execute(statement, {"partition": batch.partition, "floor": batch.floor, "at": batch.at})


def _swept(table: Table) -> str:
    """The statement that deletes what lies below a floor."""
    below = f"{PARTITION} = $partition AND {VERSION} < $floor AND $at IS NOT NULL"
    match table.kept:
        case Kept.HARD:
            return f"DELETE FROM {table.sql} WHERE {below}"
        case Kept.SOFT:
            return f"UPDATE {table.sql} SET {DELETED} = true, {VERSION} = $floor WHERE {below} AND NOT {DELETED}"
        case Kept.SCD2:
            return f"UPDATE {table.sql} SET {VALID_TO} = {moment('$at')} WHERE {below} AND {VALID_TO} IS NULL"
    own = {KEY: f"last.{KEY}", VERSION: "$floor", PARTITION: f"last.{PARTITION}", AT: moment("$at")}
    newer = f"newer.{KEY} = last.{KEY} AND newer.{VERSION} > last.{VERSION}"
    live = f"(FROM {table.sql} WHERE {below} AND NOT {DELETED}) AS last"
    return repeated(table, own, f"{live} ANTI JOIN {table.sql} AS newer ON {newer}")


def _made(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The topics whose tables were made."""
    return {topic for (topic,) in connection.execute("FROM _cdc_tables").fetchall()}


def _store_offsets(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[Batch], topic_ids: Mapping[str, str], generation: int
) -> None:
    if not batches:
        return
    offsets = {(b.topic, b.partition): (topic_ids[b.topic], b.next_offset, generation) for b in batches}
    connection.execute(
        "INSERT INTO _cdc_offsets (topic, partition, topic_id, next_offset, generation) "
        f"VALUES {', '.join(['(?, ?, ?, ?, ?)'] * len(offsets))} "
        "ON CONFLICT DO UPDATE SET topic_id = excluded.topic_id, next_offset = excluded.next_offset, "
        "generation = excluded.generation",
        [value for place, stored in offsets.items() for value in (*place, *stored)],
    )


SINK = DuckDBSink
