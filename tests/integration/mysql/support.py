"""A MySQL or MariaDB source under test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pymysql

from connectors.mysql import MysqlConnector
from connectors.mysql.client import address, connect, identify, query
from connectors.mysql.config import MysqlConfig
from connectors.mysql.history import binlog_state
from connectors.mysql.position import Position, decode_position, parse_executed, within
from tests.integration import sources
from tests.integration.sources import PIPELINE, SOURCE
from tests.integration.sources import assert_dense as assert_dense


class Source(sources.Source):
    """See :class:`tests.integration.sources.Source`."""

    module = "tests.integration.mysql.support"

    @property
    def connector(self) -> MysqlConnector:
        config = MysqlConfig.model_validate({"type": "mysql", "url": self.dsn, **self.options})
        return MysqlConnector(SOURCE, config, PIPELINE, self.topics, self.profile)

    @property
    def position(self) -> Position:
        return decode_position(self.log.positions()[SOURCE])

    def connect(self) -> Any:
        """A connection for SQL, as the connector has them."""
        return closing(connect(address(self.dsn, None, None)))

    def database_rows(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        """See :class:`tests.integration.sources.Source`. For numbers, text and times."""
        key = self.position.tables[table].key
        schema, _, name = table.partition(".")
        with self.connect() as connection:
            connection.decoders = {}
            connection.use_unicode = True
            cursor = connection.cursor(pymysql.cursors.DictCursor)
            cursor.execute(f"SELECT * FROM `{schema}`.`{name}`")
            temporal = {column[0] for column in cursor.description if column[1] in (7, 12)}
            rows = [
                {n: v.replace(" ", "T", 1) if n in temporal and v else v for n, v in row.items()}
                for row in cursor.fetchall()
            ]
        return {tuple(row[column] for column in key): row for row in rows}

    def catch_up_condition(self) -> Callable[[], bool]:
        """The stored position has all that the server has executed."""
        with self.connect() as connection:
            state = binlog_state(lambda sql, *values: query(connection, sql, *values), identify(connection))

        def there() -> bool:
            stored = self.log.positions().get(SOURCE)
            if stored is None:
                return False
            position = decode_position(stored)
            executed = parse_executed(position.executed, mariadb=position.mariadb)
            return within(state.executed, executed) and not position.snapshots

        return there


if __name__ == "__main__":
    sys.exit(sources.main(Source))
