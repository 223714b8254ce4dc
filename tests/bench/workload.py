"""The rows of the bench: ten columns of everyday types, and how they come to be changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from tests.servers.postgres import Database

TABLE: Final = "public.orders"

_TABLE: Final = """
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12,2) NOT NULL, status text NOT NULL, note text,
  paid boolean NOT NULL, placed_at timestamptz NOT NULL, due date, details jsonb, reference uuid NOT NULL);
CREATE TABLE bench_end (id int PRIMARY KEY);
CREATE PUBLICATION reference FOR TABLE orders, bench_end;
"""
_ROW: Final = """
  id, (id % 5000)::int, (id % 100000) / 100.0, (ARRAY['new', 'paid', 'sent', 'done'])[1 + id % 4],
  CASE WHEN id % 10 > 0 THEN 'ordered "by phone" ' || md5(id::text) END, id % 3 = 0,
  timestamptz '2026-01-01 00:00:00.125+00' + (id % 100000000) * interval '1 second',
  date '2026-01-01' + (id % 365)::int,
  jsonb_build_object('source', 'web', 'items', id % 7, 'tags', jsonb_build_array('a', 'b')), md5(id::text)::uuid
"""
"""The row of an id."""

INSERTS, UPDATES, DELETES = 60, 35, 5
"""Changes of one transaction of the mixed backlog."""
PER_TRANSACTION: Final = INSERTS + UPDATES + DELETES

_MIXED: Final = f"""
DO $$
DECLARE oldest bigint; live bigint;
BEGIN
  FOR t IN 0 .. {{transactions}} - 1 LOOP
    INSERT INTO orders SELECT {_ROW} FROM generate_series(t * {INSERTS} + 1, (t + 1) * {INSERTS}) id;
    oldest := t * {DELETES} + 1;
    live := (t + 1) * {INSERTS} - oldest + 1;
    UPDATE orders SET amount = amount + 1, status = 'paid', paid = true
     WHERE id = ANY (ARRAY(SELECT oldest + k * live / {UPDATES} FROM generate_series(0, {UPDATES} - 1) k));
    DELETE FROM orders WHERE id BETWEEN oldest AND oldest + {DELETES} - 1;
    COMMIT;
  END LOOP;
END $$
"""
_ONE_BY_ONE: Final = f"""
DO $$ BEGIN
  FOR i IN 1 .. {{rows}} LOOP
    INSERT INTO orders SELECT {_ROW} FROM (VALUES (i::bigint)) x (id);
    COMMIT;
  END LOOP;
END $$
"""

_EQUAL: Final = """
SELECT count(*) FROM orders o JOIN jsonb_populate_recordset(NULL::orders, %s::jsonb) x USING (id)
 WHERE (o.customer, o.amount, o.status, o.note, o.paid, o.placed_at, o.due, o.details, o.reference)
   IS NOT DISTINCT FROM
       (x.customer, x.amount, x.status, x.note, x.paid, x.placed_at, x.due, (x.details #>> '{}')::jsonb, x.reference)
"""
"""The database itself reads the JSON of our rows; a jsonb column travels as text."""


def create(database: Database) -> None:
    """The table, and the publication that the references read."""
    with database.connect() as connection:
        connection.execute(_TABLE)


def mixed(database: Database, changes: int) -> dict[str, int]:
    """Write `changes` in transactions of 100: 60 inserts, 35 updates, 5 deletes. Returns how many of each."""
    transactions = changes // PER_TRANSACTION
    database.execute(_MIXED.format(transactions=transactions))
    return {"c": transactions * INSERTS, "u": transactions * UPDATES, "d": transactions * DELETES}


def bulk(database: Database, rows: int) -> dict[str, int]:
    """Insert `rows` in one statement."""
    database.execute(f"INSERT INTO orders SELECT {_ROW} FROM generate_series(1, {rows}) id")
    return {"c": rows}


def one_by_one(database: Database, rows: int) -> dict[str, int]:
    """Insert `rows` in as many transactions."""
    with database.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(_ONE_BY_ONE.format(rows=rows))
    return {"c": rows}


def insert_statement() -> str:
    """Inserts the row of the id that is its parameter."""
    return f"INSERT INTO orders SELECT {_ROW.replace('%', '%%')} FROM (VALUES (%s::bigint)) x (id)"


def end(database: Database) -> str:
    """Close the backlog by a row in a table of its own; returns the LSN at which a reader of the backlog is done."""
    with database.connect() as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        connection.execute("INSERT INTO bench_end SELECT 1 + count(*) FROM bench_end")
    assert row is not None
    return str(row[0])


def ids(database: Database) -> set[int]:
    """The ids that the table holds."""
    return {row[0] for row in database.execute("SELECT id FROM orders")}


def differing(database: Database, rows: Iterable[bytes]) -> int:
    """How many of `rows`, JSON objects as they are on the log, are not equal to the table's row, column by column."""
    documents = list(rows)
    with database.connect() as connection:
        found = connection.execute(_EQUAL, [json.dumps([json.loads(row) for row in documents])]).fetchone()
    assert found is not None
    return len(documents) - int(found[0])
