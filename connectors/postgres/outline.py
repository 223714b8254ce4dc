"""What the catalogue offers to somebody who sets up a pipeline, and the SQL that an administrator runs for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from cdc.connector import FoundTable, Outline
from connectors.postgres.catalogue import CatalogTable, selected_tables
from connectors.postgres.client import connect, refused
from connectors.postgres.config import PostgresConfig


def outline(config: PostgresConfig, publication: str, role: str) -> Outline:
    """Read the catalogue, change nothing. Raises UnreachableError, PermanentError."""
    try:
        with connect(config) as connection:
            tables = [table for table, ordinary in selected_tables(connection, list(config.tables)) if ordinary]
            grants = _grants(connection, [table for table in tables if not table.problem], publication, role)
            database = connection.info.dbname
    except psycopg.Error as error:
        raise refused(error) from None
    found = [FoundTable(table.full_name, table.problem, table.fix) for table in tables]
    return Outline(found, {"publication": {"name": publication, "manage": "none"}}, grants, database)


def _grants(connection: psycopg.Connection[Any], tables: Sequence[CatalogTable], publication: str, role: str) -> str:
    def quoted(name: str) -> str:
        return sql.Identifier(name).as_string()

    def there(statement: str, name: str) -> bool:
        return connection.execute(statement.encode(), [name]).fetchone() is not None

    known_role = there("SELECT FROM pg_roles WHERE rolname = %s", role)
    published = there("SELECT FROM pg_publication WHERE pubname = %s", publication)
    logical = there("SELECT FROM pg_settings WHERE name = 'wal_level' AND setting = %s", "logical")
    readable = ",\n    ".join(table.quoted for table in tables)
    captured = ",\n    ".join(f"ONLY {table.quoted}" for table in tables)
    lines = [
        "-- For example: psql -f FILE DATABASE",
        f"{'ALTER' if known_role else 'CREATE'} ROLE {quoted(role)} LOGIN REPLICATION;",
        f"-- Its password, in psql:  \\password {quoted(role)}",
        f"GRANT CONNECT ON DATABASE {quoted(connection.info.dbname)} TO {quoted(role)};",
        *(f"GRANT USAGE ON SCHEMA {quoted(one)} TO {quoted(role)};" for one in sorted({t.schema for t in tables})),
        f"GRANT SELECT ON\n    {readable}\n    TO {quoted(role)};",
        f"{'ALTER' if published else 'CREATE'} PUBLICATION {quoted(publication)} {'SET' if published else 'FOR'} TABLE",
        f"    {captured};",
        "-- So that a pipeline that is stopped for long does not fill the server's disk:",
        "-- ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
    ]
    if not logical:
        lines += ["-- Needed, and a restart of the server after it:", "-- ALTER SYSTEM SET wal_level = 'logical';"]
    return "\n".join(lines) + "\n"
