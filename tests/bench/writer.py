"""``python -m tests.bench.writer DSN RATE SECONDS``: one-row transactions at a fixed rate, into either database.

The id of each row is the monotonic clock (ns) right before its INSERT, which commits by itself, was sent: what is
measured from it includes the commit, and so is an upper bound of what passes after it. Prints how many were written,
and in how many seconds. When the server falls behind, the writer does not hurry to catch up.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pymysql

from tests.bench import orders, workload


def main(dsn: str, rate: str, seconds: str) -> None:
    """Write; the last line of the output is JSON."""
    interval = 1 / float(rate)
    written = 0
    with _inserting(dsn) as insert:
        began = due = time.monotonic()
        while due - began < float(seconds):
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            due = max(due, now - 0.1) + interval
            insert(time.monotonic_ns())
            written += 1
        took = time.monotonic() - began
    print(json.dumps({"written": written, "seconds": took}))


@contextlib.contextmanager
def _inserting(dsn: str) -> Iterator[Callable[[int], object]]:
    """Inserts the row of an id, which commits by itself."""
    if dsn.startswith(("mysql", "mariadb")):
        url = urlsplit(dsn)
        address = {"host": url.hostname, "port": url.port, "user": url.username, "autocommit": True}
        with pymysql.connect(**address) as other, other.cursor() as cursor:
            statement = orders.insert_statement()
            yield lambda id_: cursor.execute(statement, [id_])
        return
    with psycopg.connect(dsn, autocommit=True) as connection:
        statement = workload.insert_statement()
        yield lambda id_: connection.execute(statement, [id_], prepare=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
