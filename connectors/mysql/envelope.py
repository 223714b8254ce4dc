"""The parts of Debezium's ``source`` block that its MySQL and MariaDB connectors have.

``db`` stands beside ``table``, not before the times: it is the table's, and so is put into the generated code.
"""

from __future__ import annotations

from typing import Final

from cdc import __version__
from cdc.formats.envelope import SourceBlock, TransactionParts, processed
from cdc.formats.json import dumps

BLOCK: Final = SourceBlock(schema="db", sequence=False, place=b"%b%d", end=b',"query":null')


class BinlogEnvelope:
    """What the ``source`` block says of one source: `connector` (``mysql``, ``mariadb``) and its `name`."""

    def __init__(self, connector: str, name: str) -> None:
        source = (dumps(__version__), dumps(connector), dumps(name))
        self._begin = b'"source":{"version":%b,"connector":%b,"name":%b,"ts_ms":' % source

    def transaction(
        self, commit_time: int, server_id: int, thread_id: int, gtid: str | None, file: str, now: int
    ) -> TransactionParts:
        """The parts for a streamed transaction: `commit_time` is µs, `now` (when we process it) ns since 1970.

        `thread_id` is 0 where it is not known, `gtid` None where the server has none.
        """
        head = b'%b%d,"snapshot":"false","sequence":null,"ts_us":%d,"ts_ns":%d,' % (
            self._begin,
            commit_time // 1000,
            commit_time,
            commit_time * 1000,
        )
        thread = b"%d" % thread_id if thread_id else b"null"
        ids = b'"server_id":%d,"thread":%b,"gtid":%b,"file":%b,"pos":' % (server_id, thread, dumps(gtid), dumps(file))
        return TransactionParts(head, b"", ids, processed(now))

    def reading(self, read_time: int, now: int) -> TransactionParts:
        """The parts for rows that a snapshot read at `read_time` (µs since 1970)."""
        head = b'%b%d,"snapshot":"incremental","sequence":null,"ts_us":%d,"ts_ns":%d,' % (
            self._begin,
            read_time // 1000,
            read_time,
            read_time * 1000,
        )
        ids = b'"server_id":0,"thread":null,"gtid":null,"file":"","pos":0,"row":0'
        return TransactionParts(head, b"", ids, processed(now))


def event_place(position: int) -> bytes:
    """What begins the place of each row of the event that ends at `position` of its file."""
    return b'%d,"row":' % position
