"""``python -m tests.bench.writer DSN RATE SECONDS``: one-row transactions at a fixed rate.

The id of each row is the monotonic clock (ns) right before its INSERT, which commits by itself, was sent: what is
measured from it includes the commit, and so is an upper bound of what passes after it. Prints how many were written,
and in how many seconds. When the server falls behind, the writer does not hurry to catch up.
"""

from __future__ import annotations

import json
import sys
import time

import psycopg

from tests.bench import workload


def main(dsn: str, rate: str, seconds: str) -> None:
    """Write; the last line of the output is JSON."""
    statement, interval = workload.insert_statement(), 1 / float(rate)
    written = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        began = due = time.monotonic()
        while due - began < float(seconds):
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            due = max(due, now - 0.1) + interval
            connection.execute(statement, [time.monotonic_ns()], prepare=True)
            written += 1
        took = time.monotonic() - began
    print(json.dumps({"written": written, "seconds": took}))


if __name__ == "__main__":
    main(*sys.argv[1:])
