"""The embedded log: SQLite files in one folder, for one machine. No server, nothing to install.

``source-NAME.db`` holds what one source wrote, records and position in one file, so that one SQLite transaction appends
both; ``groups.db`` holds what is the pipeline's: the catalogue of topics, committed offsets, states, the epoch counter.
Many processes read beside one writer per source (WAL mode); readers hold no transaction between polls.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from cdc.errors import PermanentError, TransientError
from cdc.log import (
    DELETE_RETENTION_SECONDS,
    Assigned,
    Committed,
    Log,
    LogConfig,
    LogReader,
    LogWriter,
    Revoked,
    Topic,
    TopicPartition,
)
from cdc.log._embedded_reader import EmbeddedReader, committed, offset_for_time
from cdc.log._embedded_writer import EmbeddedWriter
from cdc.log._sqlite import GROUPS_TABLES, connect, explaining, make, opened, transaction
from schemas.table import TableSchema


class EmbeddedConfig(LogConfig):
    """``log: {type: embedded, path: ./cdc-log}``."""

    type: Literal["embedded"] = "embedded"
    path: Path
    """Folder of the log; each pipeline has a folder of its own in it. On a local disk: SQLite's locks need one."""


class EmbeddedLog(Log):
    """See the module. Cheap to create; each call opens the files it needs.

    ``groups.db`` stays open beside that: who closes a file last writes its WAL back and deletes it, and with a state
    stored every two seconds that would be each time.
    """

    Config: ClassVar[type[LogConfig]] = EmbeddedConfig

    def __init__(self, config: LogConfig, pipeline: str) -> None:
        assert isinstance(config, EmbeddedConfig)
        self._partitions = config.topics.partitions
        self._cleanup = config.topics.cleanup
        self._folder = config.path / pipeline
        self._groups = self._folder / "groups.db"
        self._kept: sqlite3.Connection | None = None

    def topics(self) -> Mapping[str, Topic]:
        return {name: topic for name, (topic, _) in self._catalogue().items()}

    def create_topics(self, names: Collection[str]) -> None:
        self._make()
        with opened(self._groups) as connection, transaction(connection):
            connection.executemany(
                "INSERT OR IGNORE INTO topics VALUES (?, ?, ?, NULL)",
                [(name, uuid.uuid4().hex, self._partitions) for name in names],
            )

    def delete_retention(self, topics: Collection[str]) -> Mapping[str, float]:
        return dict.fromkeys(topics, DELETE_RETENTION_SECONDS if self._cleanup == "compact" else math.inf)

    def delete(self) -> None:
        for path in self._sources().values():
            with opened(path) as connection:
                connection.execute("UPDATE owner SET token = 'deleted', process = 0")
        if self._folder.exists():
            try:
                shutil.rmtree(self._folder)
            except OSError as error:
                raise PermanentError(
                    f"cannot delete the log folder {self._folder}: {error.strerror}", hint="delete it by hand"
                ) from error

    def writer(self, source: str) -> LogWriter:
        self._make()
        return EmbeddedWriter(self._folder, source, self._cleanup)

    def reader(
        self,
        group: str | None,
        topics: Callable[[str], bool],
        on_assigned: Assigned,
        on_revoked: Revoked,
        max_bytes: int = 8 << 20,
        *,
        alone: bool = False,
    ) -> LogReader:
        self._make()

        def wanted() -> Mapping[str, tuple[Topic, str | None]]:
            return {name: entry for name, entry in self._catalogue().items() if topics(name)}

        return EmbeddedReader(self._folder, group, wanted, on_assigned, on_revoked, max_bytes, alone)

    def committed(self, group: str) -> Mapping[TopicPartition, Committed]:
        return committed(self._groups, group) if self._groups.exists() else {}

    def start_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        heads = self._heads()
        return {tp: heads.get(tp, (0, 0))[0] for tp in partitions}

    def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        heads = self._heads()
        return {tp: heads.get(tp, (0, 0))[1] for tp in partitions}

    def offsets_for_time(self, partitions: Collection[TopicPartition], time: int) -> Mapping[TopicPartition, int]:
        found = dict.fromkeys(partitions, 0)
        for path in self._sources().values():
            with opened(path, read_only=True) as connection:
                rows = connection.execute("SELECT topic, partition, number, start_offset, next_offset FROM partitions")
                for topic, partition, number, start, end in rows.fetchall():
                    if (place := TopicPartition(topic, partition)) in found:
                        found[place] = offset_for_time(connection, number, start, end, time)
        return found

    def schemas(self) -> Mapping[bytes, TableSchema]:
        found: dict[bytes, TableSchema] = {}
        for path in self._sources().values():
            with opened(path, read_only=True) as connection:
                for schema_id, schema in connection.execute("SELECT id, schema FROM schemas"):
                    found[schema_id] = TableSchema.from_json(schema)
        return found

    def positions(self) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for source, path in self._sources().items():
            with opened(path, read_only=True) as connection:
                for (position,) in connection.execute("SELECT position FROM position"):
                    found[source] = position
        return found

    def prepared(self, source: str) -> Mapping[str, int]:
        with self._keeping(source) as connection:
            return dict(connection.execute("SELECT name, count(*) FROM prepared GROUP BY name") if connection else ())

    def prepared_parts(self, source: str, transaction: str) -> Iterator[bytes]:
        with self._keeping(source) as connection:
            if connection is None:
                return
            query = "SELECT id FROM prepared WHERE name = ? ORDER BY id"
            for number in connection.execute(query, (transaction,)).fetchall():
                found = connection.execute("SELECT part FROM parts WHERE id = ?", number).fetchone()
                if found is None:
                    raise TransientError(
                        f"the prepared transaction {transaction} was forgotten while it was read",
                        hint="it is tried again; run each source once only",
                    )
                yield found[0]

    def next_epoch(self, at_least: int = 1) -> int:
        self._make()
        with opened(self._groups) as connection:
            row = connection.execute("UPDATE epoch SET epoch = max(epoch + 1, ?) RETURNING epoch", (at_least,))
            (epoch,) = row.fetchall()[0]
        return int(epoch)

    def put_states(self, kind: str, states: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._make()
        with opened(self._groups) as connection, transaction(connection):
            for name, state in states.items():
                connection.execute("DELETE FROM states WHERE kind = ? AND name = ?", (kind, name))
                if state is not None:
                    connection.execute("INSERT INTO states VALUES (?, ?, ?)", (kind, name, json.dumps(state)))

    def states(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        if not self._groups.exists():
            return {}
        with opened(self._groups, read_only=True) as connection:
            rows = connection.execute("SELECT name, state FROM states WHERE kind = ?", (kind,)).fetchall()
        return {name: json.loads(state) for name, state in rows}

    def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _make(self) -> None:
        make(self._groups, GROUPS_TABLES)
        if self._kept is None:
            with explaining(self._groups):
                self._kept = connect(self._groups, read_only=True)
                self._kept.execute("SELECT epoch FROM epoch").fetchall()  # only now it is open

    def _sources(self) -> dict[str, Path]:
        return {path.stem.removeprefix("source-"): path for path in sorted(self._folder.glob("source-*.db"))}

    @contextlib.contextmanager
    def _keeping(self, source: str) -> Iterator[sqlite3.Connection | None]:
        """The file of `source`, None where it cannot hold prepared transactions: missing, or of an older version."""
        path = self._sources().get(source)
        if path is None:
            yield None
            return
        with opened(path, read_only=True) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'prepared'").fetchone()
            yield connection if known else None

    def _catalogue(self) -> dict[str, tuple[Topic, str | None]]:
        """The topics by name, each with the source that writes it, None before its first record."""
        if not self._groups.exists():
            return {}
        with opened(self._groups, read_only=True) as connection:
            rows = connection.execute("SELECT name, id, partitions, source FROM topics ORDER BY name").fetchall()
        return {row[0]: (Topic(*row[:3]), row[3]) for row in rows}

    def _heads(self) -> dict[TopicPartition, tuple[int, int]]:
        """First and next offset of each partition that has records."""
        heads: dict[TopicPartition, tuple[int, int]] = {}
        for path in self._sources().values():
            with opened(path, read_only=True) as connection, contextlib.closing(connection.cursor()) as cursor:
                cursor.execute("SELECT topic, partition, start_offset, next_offset FROM partitions")
                heads.update((TopicPartition(*row[:2]), row[2:]) for row in cursor)
        return heads


LOG = EmbeddedLog
