"""The ``sql`` sink on MySQL, held to the sink contract: on the server whose binlog other tests read."""

from __future__ import annotations

from cdc.event import Value
from schemas.types import LogicalType
from tests.contract.sinks.sql_mariadb import SqlMariaDbStore


class SqlMySqlStore(SqlMariaDbStore):
    """As on MariaDB."""

    fixture = "mysql_source"

    def held_as(self, type_: LogicalType, value: Value) -> Value:
        return value


STORE = SqlMySqlStore
