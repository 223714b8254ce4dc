"""``python -m tests.bench.replication URL FILE POSITION``: mysql-replication merely decodes a binlog to its end.

It begins at that place, makes Python values of every row, as its users need them, and does nothing
with them. Prints rows and seconds.
"""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import urlsplit

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent


def main(url: str, file: str, position: str) -> None:
    """Decode; the last line of the output is JSON."""
    parts = urlsplit(url)
    reader = BinLogStreamReader(
        connection_settings={"host": parts.hostname, "port": parts.port, "user": parts.username, "passwd": ""},
        server_id=1234,
        log_file=file,
        log_pos=int(position),
        resume_stream=True,
        blocking=False,
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
        only_tables=["orders"],
    )
    began = time.monotonic()
    rows = sum(len(event.rows) for event in reader)
    print(json.dumps({"rows": rows, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
