"""Filling the columns that the server left out: unchanged TOAST values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import pq, sql

from cdc.event import UNCHANGED
from cdc.source import incomplete
from cdc.source.incomplete import Incomplete
from connectors.postgres.client import refused
from connectors.postgres.tables import Tables
from connectors.postgres.values import load, to_sql_text
from connectors.postgres.visibility import DatabaseSnapshot
from schemas.table import TableSchema

_GONE: Final = {"42703", "42P01", "42804", "22P02"}
_LOCKED: Final = "55P03"


class Reselect(incomplete.Reselect):
    """See :class:`cdc.source.incomplete.Reselect`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def _read(self, rows: Sequence[Incomplete]) -> bool:
        schema = rows[0].schema
        places = sorted({place for row in rows for place in row.missing()})
        statement, parameters = _statement(schema, places, rows)
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
            table = sql.Identifier(schema.schema, schema.table).as_string(connection)
            raise refused(error, f"GRANT SELECT ON {table} TO …;" if error.sqlstate == "42501" else "")
        done = True
        for number in range(result.ntuples):
            row = rows[int(result.get_value(number, 0) or 0)]
            snapshot = DatabaseSnapshot.parse((result.get_value(number, 1) or b"").decode())
            if not snapshot.sees(row.writer):
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
    schema: TableSchema, places: Sequence[int], rows: Sequence[Incomplete]
) -> tuple[sql.Composed, list[bytes]]:
    """``SELECT number, snapshot, found, columns…`` for the rows' keys, and the parameters: one array per key column."""
    keys = [row.key() for row in rows]
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
        table=sql.Identifier(schema.schema, schema.table),
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
