"""What a read of MariaDB sees, as a place in the binlog.

A consistent snapshot says where in the binlog it is: the transactions before that place, and no others, are visible to
it. Except that the place moves into another file before the transactions that filled the last one are visible; so a
file's first transaction, or its checkpoint, is waited for too.

MySQL says it by GTIDs: ``WAIT_FOR_EXECUTED_GTID_SET`` returns when a transaction is visible to what begins then.
"""

from __future__ import annotations

import pymysql
from pymysql.connections import Connection
from pymysql.constants import ER

from cdc.errors import PermanentError
from connectors.mysql.client import execute
from connectors.mysql.position import BinlogPlace


class MariadbVisibility:
    """Begins consistent snapshots of one server. Raises the driver's errors."""

    def __init__(self) -> None:
        self._begun = ""
        """The file in which transactions are visible."""

    def begin(self, connection: Connection) -> BinlogPlace:
        """Begin a transaction; the place of its snapshot. Raises PermanentError when the server writes no binlog."""
        execute(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        status = dict(execute(connection, "SHOW STATUS LIKE 'binlog_snapshot_%'"))
        if not status["Binlog_snapshot_file"]:
            raise without_binlog()
        return BinlogPlace(status["Binlog_snapshot_file"], int(status["Binlog_snapshot_position"]))

    def has_begun(self, connection: Connection, place: BinlogPlace) -> bool:
        """Whether a snapshot at `place` sees all that is in the files before that one."""
        if place.file != self._begun:
            try:
                events = execute(connection, "SHOW BINLOG EVENTS IN %s LIMIT 16", place.file)
            except pymysql.Error as error:
                if error.args[0] != ER.ERROR_WHEN_EXECUTING_COMMAND:
                    raise
                return True  # one is too large for it: that of a transaction
            for _, _, kind, _, end, what in events:
                if end <= place.position and (kind == "Gtid" or (kind == "Binlog_checkpoint" and what == place.file)):
                    self._begun = place.file
        return place.file == self._begun


def without_binlog() -> PermanentError:
    """The server writes none."""
    return PermanentError("the source's server writes no binlog", hint="set log_bin, and restart the server")
