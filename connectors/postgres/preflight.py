"""Looking, before the start, whether capture can work; every finding with the SQL that mends it."""

from __future__ import annotations

from typing import Any

import psycopg

from cdc.connector import Finding, Severity
from cdc.errors import GapError, PermanentError
from connectors.postgres.catalogue import captured_tables
from connectors.postgres.client import ReplicationConnection, connect, refused
from connectors.postgres.config import PostgresConfig
from connectors.postgres.slot import check_server, check_slot_usable, publish, slot_exists


def preflight(config: PostgresConfig, slot: str, publication: str) -> list[Finding]:
    """Connect, look, change nothing. Raises UnreachableError."""
    findings: list[Finding] = []

    def add(check: str, severity: Severity, message: str, fix: str = "") -> None:
        findings.append(Finding(f"postgres.{check}", severity, message, fix))

    with connect(config) as connection:
        try:
            _server(connection, add)
            _tables(connection, config, publication, add)
            _slots(connection, slot, add)
        except psycopg.Error as error:
            raise refused(error) from None
    if all(finding.severity is not Severity.ERROR for finding in findings):
        _replication(config, slot, add)
    return findings


def _server(connection: psycopg.Connection[Any], add: Any) -> None:
    version = connection.info.server_version
    try:
        check_server(connection)
        add("server", Severity.OK, f"PostgreSQL {version // 10000}.{version % 10000}, wal_level logical")
    except PermanentError as error:
        add("server", Severity.ERROR, str(error.args[0]), error.hint)
    row = connection.execute(
        "SELECT rolreplication OR rolsuper, current_user FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is not None and not row[0]:
        quoted = psycopg.sql.Identifier(row[1]).as_string(connection)
        add("role", Severity.ERROR, f"role {row[1]} may not replicate", f"ALTER ROLE {quoted} REPLICATION;")
    row = connection.execute("SELECT current_setting('max_slot_wal_keep_size')").fetchone()
    if row is not None and row[0] == "-1":
        add(
            "slot_limit",
            Severity.WARNING,
            "max_slot_wal_keep_size is -1: while capture is stopped its slot can fill the server's disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
        )


def _tables(connection: psycopg.Connection[Any], config: PostgresConfig, publication: str, add: Any) -> None:
    try:
        found = captured_tables(connection, config, lambda what, fix: add("table", Severity.WARNING, what, fix))
    except PermanentError as error:
        add("table", Severity.ERROR, str(error.args[0]), error.hint)
        return
    add("tables", Severity.OK, f"{len(found)} tables: {', '.join(table.full_name for table in found[:5])}")
    for table in found:
        row = connection.execute("SELECT has_table_privilege(%s, 'SELECT')", [table.oid]).fetchone()
        if row is not None and not row[0]:
            fix = f"GRANT SELECT ON {table.quoted} TO {connection.info.user};"
            add("select", Severity.ERROR, f"the role may not read {table.full_name}", fix)
    if config.publication.manage == "none":
        try:
            publish(connection, publication, found, manage=False)
            add("publication", Severity.OK, f"publication {publication} has these tables")
        except PermanentError as error:
            add("publication", Severity.ERROR, str(error.args[0]), error.hint)


def _slots(connection: psycopg.Connection[Any], slot: str, add: Any) -> None:
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE slot_name <> %s), current_setting('max_replication_slots')::int "
        "FROM pg_replication_slots",
        [slot],
    ).fetchone()
    if row is not None and row[0] >= row[1]:
        add(
            "slots",
            Severity.ERROR,
            f"all {row[1]} replication slots are in use",
            f"ALTER SYSTEM SET max_replication_slots = {row[1] + 4}; then restart the server",
        )


def _replication(config: PostgresConfig, slot: str, add: Any) -> None:
    connection = ReplicationConnection(config)
    try:
        if slot_exists(connection, slot):
            check_slot_usable(connection, slot)
            add("slot", Severity.OK, f"slot {slot} can be used")
        else:
            add("slot", Severity.OK, f"slot {slot} will be made")
    except (GapError, PermanentError) as error:
        add("slot", Severity.ERROR, str(error.args[0]), error.hint)
    finally:
        connection.close()
