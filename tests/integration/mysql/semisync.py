"""Semi-synchronous replication with a replica that does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import wait_until
from tests.servers.mariadb import MariaDbServer


@contextmanager
def unanswered(server: MariaDbServer, *statements: str) -> Iterator[None]:
    """`statements`, the last of which commits, are in the binlog but not committed until the end of the block."""
    mysql = server.name == "MySQL"
    if mysql and not server.execute("SELECT 1 FROM information_schema.plugins WHERE plugin_name LIKE 'rpl_semi%'"):
        server.execute("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
    prefix = "rpl_semi_sync_source" if mysql else "rpl_semi_sync_master"
    nobody = f"{prefix}_wait_no_{'replica' if mysql else 'slave'}"
    server.execute(f"SET GLOBAL {prefix}_timeout = 600000, GLOBAL {prefix}_wait_point = 'AFTER_SYNC'")
    server.execute(f"SET GLOBAL {nobody} = ON, GLOBAL {prefix}_enabled = ON")
    status = "SHOW BINARY LOG STATUS" if mysql else "SHOW MASTER STATUS"
    before = server.execute(status)[0][:2]
    thread = threading.Thread(target=server.execute, args=statements)
    thread.start()
    try:
        wait_until(lambda: server.execute(status)[0][:2] != before, what="the transaction in the binlog")
        yield
    finally:
        server.execute(f"SET GLOBAL {prefix}_enabled = OFF")
        thread.join()
