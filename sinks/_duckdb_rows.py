"""Rows and deletes of a write, gathered over all its partitions, as statements that DuckDB applies in one go each.

Rows go to DuckDB as they stand on the log, and its parser reads their JSON. That is not possible for the ``debezium``
profile, partial rows, and names that DuckDB cannot tell apart; and not wanted when a value was refused. These rows are
decoded and rendered anew, and each value is tried by itself, so that only the row it stands in is rejected.
"""

# ruff: noqa: S608 - names are quoted, values are parameters or Arrow

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from cdc.errors import DecodeError
from cdc.event import Value
from cdc.formats.json import decode, render
from cdc.sink import Batch, Rejected, Row
from schemas.table import TableSchema
from sinks._duckdb_table import Table, quoted, stored_names, text
from sinks._duckdb_types import column_type, value, wire_type
from sinks._warehouse import (
    AT,
    DELETED,
    KEY,
    PARTITION,
    VALID_FROM,
    VALID_TO,
    VERSION,
    Kept,
    Succession,
)

VALUE_ERRORS: Final = (duckdb.DataError, duckdb.InvalidInputException, pa.ArrowInvalid)
"""What is raised when a value does not fit its column."""

_NUMBERS: Final = pa.list_(pa.int64())

NEWER: Final = f"new.{VERSION} > held.{VERSION}"
LATE: Final = "tombstone.version >= incoming.version"
"""When a row is written over the one that is held, and when it comes too late after a delete."""


@dataclass(slots=True)
class Deletes:
    """Deletes of one topic; for ``scd2``, all that end what is held."""

    topic: str
    keys: list[bytes] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    since: list[int] = field(default_factory=list)

    def apply(self, connection: duckdb.DuckDBPyConnection, table: Table | None, kept: Kept) -> None:
        """Delete older rows, or what else a delete is there; remember the versions for those that come late."""
        since = pa.array(self.since, pa.int64())
        with _incoming(connection, self.keys, self.versions, self.partitions, since=since):
            if table is not None:
                connection.execute(self._deletion(table))
            if not kept.history:
                connection.execute(
                    "MERGE INTO _cdc_tombstones AS held USING incoming AS new "
                    "ON held.topic = ? AND held.key = new.key "
                    "WHEN MATCHED AND new.version > held.version THEN UPDATE SET version = new.version, deleted_at = ? "
                    "WHEN NOT MATCHED THEN INSERT VALUES (?, new.partition, new.key, new.version, ?)",
                    [self.topic, int(time.time()), self.topic, int(time.time())],
                )

    def _deletion(self, table: Table) -> str:
        new = f"(SELECT key AS {KEY}, version AS {VERSION}, {moment('since')} AS at FROM incoming) AS new"
        older = f"held.{KEY} = new.{KEY} AND {NEWER}"
        match table.kept:
            case Kept.HARD:
                return f"DELETE FROM {table.sql} AS held USING {new} WHERE {older}"
            case Kept.SOFT:
                marked = f"{DELETED} = true, {VERSION} = new.{VERSION}"
                return f"UPDATE {table.sql} AS held SET {marked} FROM {new} WHERE {older}"
            case Kept.SCD2:
                ended = f"SET {VALID_TO} = new.at FROM {new} WHERE {older} AND held.{VALID_TO} IS NULL"
                return f"UPDATE {table.sql} AS held {ended}"
        own = {KEY: "new.key", VERSION: "new.version", PARTITION: "new.partition", AT: moment("new.since")}
        source = (
            f"(FROM incoming ANTI JOIN {table.sql} AS same ON same.{KEY} = key AND same.{VERSION} = version) AS new "
            f"ASOF LEFT JOIN {table.sql} AS last ON last.{KEY} = new.key AND new.version > last.{VERSION}"
        )
        return repeated(table, own, source)


def moment(milliseconds: str) -> str:
    """SQL for a time of the log."""
    return f"to_timestamp({milliseconds} / 1000.0)"


def repeated(table: Table, own: Mapping[str, str], source: str) -> str:
    """INSERT of rows of `source`, where `last` is an earlier row of `table`, as deletes."""
    columns = {**{quoted(name): f"last.{quoted(name)}" for name in table.columns}, **own, DELETED: "true"}
    return f"INSERT INTO {table.sql} ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM {source}"


@dataclass(slots=True)
class Upserts:
    """Rows of one topic and schema. `checked`: each value is tried by itself."""

    schema: TableSchema
    checked: bool
    rows: list[Row] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    until: dict[int, int] = field(default_factory=dict)
    """For rows that are superseded by later ones of the same write: when, by their number here."""

    def apply(self, connection: duckdb.DuckDBPyConnection, table: Table) -> list[Rejected]:
        """Merge the rows that are newer than what `table` holds; returns those that it cannot hold."""
        if self.checked:
            return self._apply_checked(connection, table)
        names = [column.name for column in self.schema.columns]
        keys, versions = [row.key for row in self.rows], [row.version for row in self.rows]
        afters = [row.after for row in self.rows if row.after is not None]  # none is a delete
        extra = {"after": _texts(afters), **self._times(table, range(len(self.rows)))}
        with _incoming(connection, keys, versions, self.partitions, **extra):
            values = [value(column.type, f"wire.{quoted(column.name)}", flat=False) for column in self.schema.columns]
            connection.execute(self._statement(table, self._source(values, names, also=self._own(table))))
        return []

    def _times(self, table: Table, numbers: Sequence[int]) -> dict[str, pa.Array]:
        """When rows came, and until when they are current, for a table that wants to know."""
        if not table.kept.history:
            return {}
        since = pa.array([self.rows[number].at for number in numbers], pa.int64())
        return {"since": since, "until": pa.array([self.until.get(number) for number in numbers], pa.int64())}

    def _own(self, table: Table) -> str:
        return f"{moment('since')} AS since, {moment('until')} AS until" if table.kept.history else ""

    def _apply_checked(self, connection: duckdb.DuckDBPyConnection, table: Table) -> list[Rejected]:
        rejected: list[Rejected] = []
        numbers: list[int] = []
        afters: list[bytes] = []
        sent: list[list[int]] = []
        for number, row in enumerate(self.rows):
            try:
                after, columns = _rendered(self.schema, row)
            except (DecodeError, ValueError) as error:
                rejected.append(self._rejected(number, str(error.args[0])))
            else:
                numbers.append(number)
                afters.append(after)
                sent.append(columns if row.partial else [])
        names = [f"c{number}" for number in range(len(self.schema.columns))]
        keys, versions = [self.rows[n].key for n in numbers], [self.rows[n].version for n in numbers]
        partitions = [self.partitions[n] for n in numbers]
        partial = pa.array([self.rows[n].partial for n in numbers], pa.bool_())
        extra = {"number": pa.array(numbers, pa.int64()), "partial": partial, "sent": pa.array(sent, _NUMBERS)}
        extra |= self._times(table, numbers)
        wanted = [
            value(column.type, f"wire.{name}", flat=True)
            for column, name in zip(self.schema.columns, names, strict=True)
        ]
        tried = [f"TRY({sql})" for sql in wanted]
        failed = " ".join(
            f"WHEN wire.{name} IS NOT NULL AND {sql} IS NULL THEN {number}"
            for number, (name, sql) in enumerate(zip(names, tried, strict=True))
        )
        refused = f"CASE WHEN wire IS NULL THEN -1 {failed} END AS refused, number, partial, sent"
        with _incoming(connection, keys, versions, partitions, after=_texts(afters), **extra):
            also = ", ".join(filter(None, (refused, self._own(table))))
            source = self._source(tried, names, also=also, wrap="TRY({})")
            connection.execute(f"CREATE OR REPLACE TEMP TABLE staged AS {source}")
        for number, column in connection.execute(
            "SELECT number, refused FROM staged WHERE refused IS NOT NULL ORDER BY number"
        ).fetchall():
            rejected.append(self._rejected(number, self._reason(column)))
        connection.execute(self._statement(table, "SELECT * FROM staged WHERE refused IS NULL", partial=True))
        connection.execute("DROP TABLE staged")
        return rejected

    def _source(self, values: Sequence[str], names: Sequence[str], *, also: str = "", wrap: str = "{}") -> str:
        """SELECT of the rows in the view ``incoming`` that no floor or delete forbids, their columns as c0, c1 …"""
        shape = {name: wire_type(column.type) for name, column in zip(names, self.schema.columns, strict=True)}
        parsed = wrap.format(f"from_json_strict(after, {text(msgspec.json.encode(shape).decode())})")
        selected = [f"key AS {KEY}", f"version AS {VERSION}", f"partition AS {PARTITION}"]
        selected += [f"{sql} AS c{number}" for number, sql in enumerate(values)]
        selected += [also] if also else []
        topic = text(self.schema.topic)
        return (
            f"SELECT {', '.join(selected)} FROM (SELECT incoming.*, {parsed} AS wire FROM incoming "
            f"ANTI JOIN _cdc_floors AS floor ON floor.topic = {topic} "
            "AND floor.partition = incoming.partition AND floor.version > incoming.version "
            f"ANTI JOIN _cdc_tombstones AS tombstone ON tombstone.topic = {topic} "
            f"AND tombstone.key = incoming.key AND {LATE})"
        )

    def _statement(self, table: Table, source: str, *, partial: bool = False) -> str:
        return (self._append if table.kept.history else self._merge)(table, source, partial=partial)

    def _append(self, table: Table, source: str, *, partial: bool) -> str:
        """INSERT of what is new in `source`; columns that were not sent are those of the row that was current."""
        names = stored_names(self.schema, table)
        columns = {KEY: f"new.{KEY}", VERSION: f"new.{VERSION}", PARTITION: f"new.{PARTITION}"}
        live = f"last.{VALID_TO} IS NULL"
        if table.kept is Kept.APPEND:
            columns |= {AT: "new.since", DELETED: "false"}
            live = f"NOT last.{DELETED}"
        else:
            columns |= {VALID_FROM: "new.since", VALID_TO: "new.until"}
        for number, column in enumerate(self.schema.columns):
            stored = quoted(names[column.name])
            kept = f"new.partial AND NOT list_contains(new.sent, {number})"
            before = f"CASE WHEN {live} THEN last.{stored} END"
            columns[stored] = f"CASE WHEN {kept} THEN {before} ELSE new.c{number} END" if partial else f"new.c{number}"
        before = f"ASOF LEFT JOIN {table.sql} AS last ON last.{KEY} = new.{KEY} AND new.{VERSION} > last.{VERSION}"
        return (
            f"INSERT INTO {table.sql} ({', '.join(columns)}) SELECT {', '.join(columns.values())} "
            f"FROM (FROM ({source}) AS new ANTI JOIN {table.sql} AS same "
            f"ON same.{KEY} = new.{KEY} AND same.{VERSION} = new.{VERSION}) AS new {before if partial else ''}"
        )

    def _merge(self, table: Table, source: str, *, partial: bool) -> str:
        """MERGE of `source`; columns that a row's schema no longer has become null, those not sent stay."""
        names = stored_names(self.schema, table)
        columns = {KEY: f"new.{KEY}", VERSION: f"new.{VERSION}", PARTITION: f"new.{PARTITION}"}
        updates = dict(columns)
        for number, column in enumerate(self.schema.columns):
            stored = names[column.name]
            held, sql = table.columns[stored], f"new.c{number}"
            if held != column_type(column.type):
                sql = f"CAST({sql} AS {held})"
            columns[quoted(stored)] = updates[quoted(stored)] = sql
            if partial:
                kept = f"new.partial AND NOT list_contains(new.sent, {number})"
                before = f"held.{quoted(stored)}"
                if table.kept is Kept.SOFT:  # what a deleted row had is not the new row's
                    before = f"CASE WHEN NOT held.{DELETED} THEN {before} END"
                updates[quoted(stored)] = f"CASE WHEN {kept} THEN {before} ELSE {sql} END"
        gone = table.columns.keys() - names.values()
        updates |= {quoted(stored): "NULL" for stored in gone}
        if table.kept is Kept.SOFT:
            columns[DELETED] = updates[DELETED] = "false"
        assignments = ", ".join(f"{name} = {sql}" for name, sql in updates.items())
        return (
            f"MERGE INTO {table.sql} AS held USING ({source}) AS new ON held.{KEY} = new.{KEY} "
            f"WHEN MATCHED AND {NEWER} THEN UPDATE SET {assignments} "
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"
        )

    def _reason(self, number: int) -> str:
        if number < 0:
            return "it is no row of its table"
        column = self.schema.columns[number]
        return f"column {column.name!r} has a value that DuckDB's type {column_type(column.type)} cannot hold"

    def _rejected(self, number: int, reason: str) -> Rejected:
        row = self.rows[number]
        return Rejected(self.schema.topic, self.partitions[number], row.offset, row.key, reason)


@dataclass(slots=True)
class Gathered:
    """What one step of a write brings, by topic, and for rows by schema."""

    deletes: list[Deletes]
    upserts: list[Upserts]


def gathered(batches: Sequence[Batch], kept: Kept, *, checked: bool) -> Gathered:
    """The rows and deletes of `batches`, of each partition of which there is one only."""
    deletes: dict[str, Deletes] = {}
    upserts: dict[tuple[bytes, bool], Upserts] = {}
    succession = Succession() if kept is Kept.SCD2 else None
    for batch in batches:
        schema: TableSchema | None = None
        for row in batch.rows:
            until: dict[int, int] = {}
            number = 0
            if row.after is not None:
                if row.schema is not schema or row.partial:
                    assert row.schema is not None, "a row that is no delete has a schema"
                    schema = None if row.partial else row.schema
                    tried = checked or row.partial or not _readable_by_duckdb(row.schema)
                    place = (row.schema.id, tried)
                    if place not in upserts:
                        upserts[place] = Upserts(row.schema, tried)
                    into = upserts[place]
                until, number = into.until, len(into.rows)
                into.rows.append(row)
                into.partitions.append(batch.partition)
            if row.after is None if succession is None else succession.add(batch.topic, row, until, number):
                gone = deletes.setdefault(batch.topic, Deletes(batch.topic))
                gone.keys.append(row.key)
                gone.versions.append(row.version)
                gone.partitions.append(batch.partition)
                gone.since.append(row.at)
    return Gathered(list(deletes.values()), list(upserts.values()))


def _readable_by_duckdb(schema: TableSchema) -> bool:
    names = {column.name.casefold() for column in schema.columns}
    return schema.profile == "readable" and len(names) == len(schema.columns) and "" not in names


def _rendered(schema: TableSchema, row: Row) -> tuple[bytes, list[int]]:
    """A row as ``readable`` JSON under the names c0, c1 …, all of them, and the numbers of the columns it brings.

    Raises DecodeError, or ValueError for an array of several dimensions.
    """
    assert row.after is not None
    values: Mapping[str, Value] = decode(schema, row.after)
    members, sent = [], []
    for number, column in enumerate(schema.columns):
        canonical = values.get(column.name)
        if isinstance(canonical, list) and any(isinstance(item, list) for item in canonical):
            raise ValueError(f"column {column.name!r} has an array of several dimensions, which a LIST cannot hold")
        if column.name in values:
            sent.append(number)
        members.append(b'"c%d":%b' % (number, render(column.type, "readable", canonical)))
    return b"{%b}" % b",".join(members), sent


def _texts(values: Sequence[bytes]) -> pa.Array:
    """The texts as Arrow has them, one after the other: joined here, that takes a third of what Arrow takes.

    Raises pa.ArrowInvalid when one is not UTF-8.
    """
    offsets = array("i", accumulate(map(len, values), initial=0))
    texts = pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))
    texts.validate(full=True)
    return texts


@contextmanager
def _incoming(
    connection: duckdb.DuckDBPyConnection,
    keys: Sequence[bytes],
    versions: Sequence[int],
    partitions: Sequence[int],
    **columns: Any,
) -> Iterator[None]:
    """The view ``incoming``, for as long as it is used; after an error the connection is closed with it."""
    identities = {
        "key": _texts(keys),
        "version": pa.array(versions, pa.int64()),
        "partition": pa.array(partitions, pa.int32()),
    }
    connection.register("incoming", pa.table({**identities, **columns}))
    yield
    connection.unregister("incoming")
