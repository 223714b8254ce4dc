"""Filling the columns that the server left out: unchanged TOAST values (design, "What compaction may take").

Every UNCHANGED is filled before the append, or a compacted topic would lose the value for ever: first from earlier
rows of the same key in the batch, then by reading just those columns by key. What is read counts only when the
transaction that wrote the row is visible to the statement that reads: a row that is streamed may not be visible yet,
and would return an older value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq, sql

from cdc.event import UNCHANGED, Operation, Value
from cdc.formats.envelope import TransactionParts, plain_records
from cdc.formats.json import decode
from cdc.log import Produced
from cdc.record import unpack_header
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.client import refused
from connectors.postgres.tables import Tables
from connectors.postgres.values import load, to_sql_text
from connectors.postgres.visibility import DatabaseSnapshot
from schemas.table import TableSchema

KEYS_PER_QUERY: Final = 500
_GONE: Final = {"42703", "42P01", "42804", "22P02"}
_LOCKED: Final = "55P03"


@dataclass(slots=True)
class Incomplete:
    """A row whose `after` has UNCHANGED columns, standing in the batch in place of its records."""

    table: CatalogTable
    schema: TableSchema
    operation: Operation
    before: list[Value] | None
    after: list[Value] | None
    transaction: TransactionParts
    xid: int
    lsn: int
    version: int
    ordinal: int
    settled: bool = False

    def missing(self) -> list[int]:
        """Places of the columns that are still UNCHANGED."""
        return [place for place, value in enumerate(self.after or ()) if value is UNCHANGED]

    def records(self) -> list[Produced]:
        """The finished records; what is still UNCHANGED is listed in them."""
        return plain_records(
            self.schema,
            self.operation,
            self.before,
            self.after,
            self.transaction,
            self.lsn,
            self.version,
            self.ordinal,
            self.table.not_null,
        )

    def key(self, *, old: bool) -> tuple[Value, ...]:
        """The key's canonical values; the old row's when it has them."""
        row = self.before if (old and self.before is not None) or self.after is None else self.after
        assert row is not None
        values = tuple(self._at(row, name) for name in self.schema.key)
        if old and any(value is UNCHANGED or value is None for value in values):
            return self.key(old=False)
        return values

    def _at(self, row: Sequence[Value], name: str) -> Value:
        return row[self.schema.columns.index(self.schema.by_name[name])]


class Reselect:
    """Fills the incomplete rows of one batch."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def fill(self, runs: Sequence[list[Produced | Incomplete]]) -> bool:
        """Complete the rows in place and replace them by their records.

        False: a transaction that wrote one of them is not visible yet; call again. Raises UnreachableError.
        """
        rows = [item for run in runs for item in run if isinstance(item, Incomplete)]
        self._fill_from_batch(runs)
        groups: dict[bytes, list[Incomplete]] = {}
        for row in rows:
            if row.missing() and not row.settled:
                groups.setdefault(row.schema.id, []).append(row)
        complete = True
        for group in groups.values():
            for start in range(0, len(group), KEYS_PER_QUERY):
                complete &= self._read(group[start : start + KEYS_PER_QUERY])
        if not complete:
            return False
        self._fill_from_batch(runs)
        for run in runs:
            if any(isinstance(item, Incomplete) for item in run):
                run[:] = [
                    record for item in run for record in (item.records() if isinstance(item, Incomplete) else (item,))
                ]
        return True

    def _fill_from_batch(self, runs: Sequence[list[Produced | Incomplete]]) -> None:
        """From the latest earlier row of the same key in the batch; after a key change, of the old key."""
        wanted = {item.schema.topic for run in runs for item in run if isinstance(item, Incomplete)}
        latest: dict[tuple[str, tuple[Value, ...]], Produced | Incomplete] = {}
        schemas = {item.schema.id: item.schema for run in runs for item in run if isinstance(item, Incomplete)}
        for run in runs:
            for item in run:
                if isinstance(item, Incomplete):
                    earlier = latest.get((item.schema.topic, item.key(old=True)))
                    if earlier is not None and item.missing():
                        _copy(item, earlier, schemas)
                    latest[item.schema.topic, item.key(old=False)] = item
                elif item.topic in wanted:
                    header = unpack_header(item.header)
                    schema = schemas.get(header.schema_id)
                    if schema is None:
                        latest.clear()  # a row that can't be told may be of any key
                    elif item.value is not None and header.after_length:
                        after = decode(schema, item.value[header.after_start :][: header.after_length])
                        latest[item.topic, tuple(after.get(name, UNCHANGED) for name in schema.key)] = item

    def _read(self, rows: Sequence[Incomplete]) -> bool:
        """Read the missing columns of rows of one schema; False when a writer is not visible yet."""
        table, schema = rows[0].table, rows[0].schema
        places = sorted({place for row in rows for place in row.missing()})
        statement, parameters = _statement(table, schema, places, rows)
        connection = self._tables.sql()
        result = connection.pgconn.exec_params(statement.as_bytes(connection), parameters)
        if result.status != pq.ExecStatus.TUPLES_OK:
            error = psycopg.errors.error_from_result(result)
            if error.sqlstate in _GONE:
                for row in rows:  # a column, or the table, is gone: a later event of the key mends it
                    row.settled = True
                return True
            if error.sqlstate == _LOCKED:
                return False
            raise refused(error, f"GRANT SELECT ON {table.quoted} TO …;" if error.sqlstate == "42501" else "")
        done = True
        for number in range(result.ntuples):
            row = rows[int(result.get_value(number, 0) or 0)]
            snapshot = DatabaseSnapshot.parse((result.get_value(number, 1) or b"").decode())
            if not snapshot.sees(row.xid):
                done = False
                continue
            row.settled = True
            if result.get_value(number, 2) is None:
                continue  # deleted since: its delete follows in the stream
            after = row.after
            assert after is not None
            for index, place in enumerate(places):
                if after[place] is UNCHANGED:
                    text = result.get_value(number, 3 + index)
                    after[place] = None if text is None else load(schema.columns[place].type, text)
        return done


def _statement(
    table: CatalogTable, schema: TableSchema, places: Sequence[int], rows: Sequence[Incomplete]
) -> tuple[sql.Composed, list[bytes]]:
    """``SELECT number, snapshot, found, columns…`` for the rows' keys, and the parameters: one array per key column."""
    keys = [row.key(old=False) for row in rows]
    types = [schema.by_name[name].type for name in schema.key]
    arrays = [
        _text_array([to_sql_text(types[place], key[place]) or "" for key in keys]) for place in range(len(schema.key))
    ]
    names = [sql.Identifier(f"k{place}") for place in range(len(schema.key))]
    statement = sql.SQL(
        "SELECT k.number - 1, pg_current_snapshot()::text, t.tableoid, {columns} "
        "FROM ROWS FROM ({unnest}) WITH ORDINALITY AS k ({names}, number) "
        "LEFT JOIN ONLY {table} t ON {match}"
    ).format(
        columns=sql.SQL(", ").join(sql.Identifier("t", schema.columns[place].name) for place in places),
        unnest=sql.SQL(", ").join(sql.SQL(f"unnest(${place + 1}::text[])") for place in range(len(schema.key))),
        names=sql.SQL(", ").join(names),
        table=sql.Identifier(table.schema, table.name),
        match=sql.SQL(" AND ").join(
            sql.SQL("{} = {}::{}").format(
                sql.Identifier("t", name), sql.Identifier("k", f"k{place}"), sql.SQL(schema.by_name[name].native)
            )
            for place, name in enumerate(schema.key)
        ),
    )
    return statement, arrays


def _text_array(values: Sequence[str]) -> bytes:
    """The literal of a text array (manual, 8.15.2)."""
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return ("{" + ",".join(quoted) + "}").encode()


def _copy(row: Incomplete, earlier: Produced | Incomplete, schemas: dict[bytes, TableSchema]) -> None:
    """Take what `row` lacks from `earlier`, which has the row as it was before."""
    if isinstance(earlier, Incomplete):
        values = dict(zip(earlier.schema.by_name, earlier.after or (), strict=False))
    else:
        header = unpack_header(earlier.header)
        assert earlier.value is not None
        values = decode(schemas[header.schema_id], earlier.value[header.after_start :][: header.after_length])
    after = row.after
    assert after is not None
    for place in row.missing():
        after[place] = values.get(row.schema.columns[place].name, UNCHANGED)
