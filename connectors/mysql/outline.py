"""What the catalogue offers to somebody who sets up a pipeline, and the SQL that an administrator runs for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from cdc.connector import FoundTable, Outline, Severity
from connectors.mysql.catalogue import CatalogTable, selected_tables
from connectors.mysql.client import Server, account, address, check_server, connect, identify, query
from connectors.mysql.config import MysqlConfig
from connectors.mysql.settings import check_settings

_ADVICE: Final = {Severity.ERROR: "Needed", Severity.WARNING: "Advised"}


def outline(config: MysqlConfig, role: str) -> Outline:
    """Read the catalogue, change nothing; `role` is the user's name. Raises UnreachableError, PermanentError."""
    with closing(connect(address(config.url, config.password, config.ca))) as connection:
        server = identify(connection)
        check_server(server)
        tables = [table for table, ordinary in selected_tables(connection, server, list(config.tables)) if ordinary]
        variables = dict(query(connection, "SHOW GLOBAL VARIABLES"))
    grants = [*_grants([table for table in tables if not table.problem], account(role, "%"))]
    grants += _settings(server, variables)
    found = [FoundTable(table.full_name, table.problem, table.fix) for table in tables]
    return Outline(found, {}, "\n".join(grants) + "\n")


def _grants(tables: Sequence[CatalogTable], user: str) -> Iterator[str]:
    yield "-- For example: mysql < FILE"
    yield "-- In place of % better the host that it comes from."
    yield f"CREATE USER IF NOT EXISTS {user} ACCOUNT LOCK;"
    yield f"-- Its password:  ALTER USER {user} IDENTIFIED BY '…' ACCOUNT UNLOCK;"
    yield f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user};"
    for table in tables:
        yield f"GRANT SELECT ON {table.quoted} TO {user};"
    yield "-- So that snapshot.max_active_sessions sees the sessions of others:"
    yield f"-- GRANT PROCESS ON *.* TO {user};"


def _settings(server: Server, variables: dict[str, str]) -> Iterator[str]:
    """What the server lacks, as comments."""
    for finding in check_settings(server, variables):
        yield f"-- {_ADVICE[finding.severity]}: {finding.message}"
        yield f"--   {finding.fix}"
