"""The bench's table and its changes on MySQL and MariaDB: the same rows as :mod:`tests.bench.workload` has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from tests.bench.workload import DELETES, INSERTS, PER_TRANSACTION, UPDATES
from tests.servers.mariadb import MariaDbServer

SCHEMA: Final = "bench"
TABLE: Final = f"{SCHEMA}.orders"

_UUID: Final = "INSERT(INSERT(INSERT(INSERT(LEFT(SHA2(id, 256), 32), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')"
_ROW: Final = f"""
  id, id % 5000, (id % 100000) / 100.0, ELT(1 + id % 4, 'new', 'paid', 'sent', 'done'),
  IF(id % 10 > 0, CONCAT('ordered "by phone" ', LEFT(SHA2(id, 256), 32)), NULL), id % 3 = 0,
  TIMESTAMP '2026-01-01 00:00:00.125' + INTERVAL (id % 100000000) SECOND,
  DATE '2026-01-01' + INTERVAL (id % 365) DAY,
  JSON_OBJECT('source', 'web', 'items', id % 7, 'tags', JSON_ARRAY('a', 'b')), {_UUID}
"""
"""The row of an id."""
_TABLES: Final = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, amount decimal(12,2) NOT NULL, "
    "status varchar(10) NOT NULL, note text, paid bool NOT NULL, placed_at timestamp(6) NOT NULL, due date, "
    "details json, reference char(36) NOT NULL)",
    "CREATE TABLE numbers (n int PRIMARY KEY)",
    f"INSERT INTO numbers VALUES {', '.join(f'({n})' for n in range(1000))}",
    f"""CREATE PROCEDURE mixed(transactions int) BEGIN
      DECLARE t, oldest, live bigint DEFAULT 0;
      WHILE t < transactions DO
        START TRANSACTION;
        INSERT INTO orders SELECT {_ROW} FROM (SELECT t * {INSERTS} + n + 1 AS id FROM numbers WHERE n < {INSERTS}) x;
        SET oldest = t * {DELETES} + 1;
        SET live = (t + 1) * {INSERTS} - oldest + 1;
        UPDATE numbers k STRAIGHT_JOIN orders o ON o.id = oldest + k.n * live DIV {UPDATES}
           SET o.amount = o.amount + 1, o.status = 'paid', o.paid = true WHERE k.n < {UPDATES};
        DELETE FROM orders WHERE id BETWEEN oldest AND oldest + {DELETES} - 1;
        COMMIT;
        SET t = t + 1;
      END WHILE;
    END""",
    f"""CREATE PROCEDURE one_by_one(many int) BEGIN
      DECLARE i int DEFAULT 1;
      WHILE i <= many DO
        INSERT INTO orders SELECT {_ROW} FROM (SELECT i AS id) x;
        SET i = i + 1;
      END WHILE;
    END""",
)


def create(server: MariaDbServer) -> None:
    """The table, empty, and what fills it."""
    server.execute(f"DROP DATABASE IF EXISTS {SCHEMA}", f"CREATE DATABASE {SCHEMA}", f"USE {SCHEMA}", *_TABLES)


def mixed(server: MariaDbServer, changes: int) -> dict[str, int]:
    """As :func:`tests.bench.workload.mixed`."""
    transactions = changes // PER_TRANSACTION
    server.execute(f"USE {SCHEMA}", f"CALL mixed({transactions})")
    return {"c": transactions * INSERTS, "u": transactions * UPDATES, "d": transactions * DELETES}


def bulk(server: MariaDbServer, rows: int) -> dict[str, int]:
    """Insert `rows` in one statement."""
    ids = f"SELECT a.n * 1000 + b.n + 1 AS id FROM numbers a STRAIGHT_JOIN numbers b WHERE a.n * 1000 + b.n < {rows}"
    server.execute(f"USE {SCHEMA}", f"INSERT INTO orders SELECT {_ROW} FROM ({ids}) x")
    return {"c": rows}


def compressed(server: MariaDbServer, rows: int) -> dict[str, int]:
    """The same, in a compressed transaction (MySQL)."""
    ids = f"SELECT a.n * 1000 + b.n + 1 AS id FROM numbers a STRAIGHT_JOIN numbers b WHERE a.n * 1000 + b.n < {rows}"
    insert = f"INSERT INTO orders SELECT {_ROW} FROM ({ids}) x"
    server.execute(f"USE {SCHEMA}", "SET SESSION binlog_transaction_compression = ON", insert)
    return {"c": rows}


def one_by_one(server: MariaDbServer, rows: int) -> dict[str, int]:
    """Insert `rows` in as many transactions."""
    server.execute(f"USE {SCHEMA}", f"CALL one_by_one({rows})")
    return {"c": rows}


def insert_statement() -> str:
    """Inserts the row of the id that is its parameter."""
    return f"INSERT INTO {TABLE} SELECT {_ROW.replace('%', '%%')} FROM (SELECT %s AS id) x"


def ids(server: MariaDbServer) -> set[int]:
    """The ids that the table holds."""
    return {row[0] for row in server.execute(f"SELECT id FROM {TABLE}")}


def differing(server: MariaDbServer, rows: Iterable[bytes]) -> int:
    """How many of `rows`, JSON objects as they are on the log, are not equal to the table's row, column by column."""
    documents: dict[int, dict[str, Any]] = {row["id"]: row for row in map(json.loads, rows)}
    wanted = ", ".join(map(str, documents))
    found = server.execute(
        "SET time_zone = '+00:00'",
        "SELECT id, customer, CAST(amount AS char), status, note, paid, CAST(placed_at AS char), CAST(due AS char), "
        f"CAST(details AS char), reference FROM {TABLE} WHERE id IN ({wanted})",
    )
    same = 0
    for id_, customer, amount, status, note, paid, placed_at, due, details, reference in found:
        row = documents[id_]
        placed = f"{placed_at.replace(' ', 'T').rstrip('0').rstrip('.')}Z"
        same += row == {
            "id": id_,
            "customer": customer,
            "amount": amount,
            "status": status,
            "note": note,
            "paid": paid,
            "placed_at": placed,
            "due": due,
            "details": details,
            "reference": reference,
        }
    return len(documents) - same
