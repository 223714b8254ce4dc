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
        self._fitting = incomplete.KEYS_PER_QUERY
        """How many rows are asked for: to count what one has, the server may have to read it."""

    def _read(self, rows: Sequence[Incomplete], most: int) -> bool:
        rows = rows[: self._fitting]
        schema = rows[0].schema
        places = sorted({place for row in rows for place in row.missing()})
        statement, parameters = _statement(schema, places, rows, most)
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
        self._fitting = max(1, min(incomplete.KEYS_PER_QUERY, 2 * result.ntuples))
        done = True
        for number in range(result.ntuples):
            row = rows[int(result.get_value(number, 0) or 0)]
            snapshot = DatabaseSnapshot.parse((result.get_value(number, 1) or b"").decode())
            if not snapshot.sees(row.readable.writer):
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
    schema: TableSchema, places: Sequence[int], rows: Sequence[Incomplete], most: int
) -> tuple[sql.Composed, list[bytes]]:
    """``SELECT number, snapshot, found, columns…`` for the rows' keys, and the parameters: one array per key column.

    The server counts, since the client would hold all that it sends.
    """
    keys = [row.key() for row in rows]
    types = [schema.by_name[name].type for name in schema.key]
    arrays = [
        _text_array([to_sql_text(types[place], key[place]) or "" for key in keys]) for place in range(len(schema.key))
    ]
    names = [sql.Identifier(f"k{place}") for place in range(len(schema.key))]
    values = [sql.Identifier("t", schema.columns[place].name) for place in places]
    statement = sql.SQL(
        "SELECT number, snapshot, found, {read} FROM ("
        "SELECT k.number - 1 AS number, pg_current_snapshot()::text AS snapshot, t.tableoid AS found, {columns}, "
        "sum({size}) OVER (ORDER BY k.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before "
        "FROM ROWS FROM ({unnest}) WITH ORDINALITY AS k ({names}, number) "
        "LEFT JOIN ONLY {table} t ON {match}) AS read WHERE coalesce(before, 0) <= {most}"
    ).format(
        read=sql.SQL(", ").join(sql.Identifier(f"c{place}") for place in places),
        columns=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(value, sql.Identifier(f"c{place}"))
            for value, place in zip(values, places, strict=True)
        ),
        size=sql.SQL(" + ").join(sql.SQL("coalesce(octet_length({}::text), 0)").format(value) for value in values),
        most=sql.Literal(most),
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
