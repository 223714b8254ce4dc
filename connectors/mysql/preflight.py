"""Looking, before the start, whether capture can work; every finding with the SQL that mends it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

from pymysql.connections import Connection

from cdc.connector import Finding, Severity
from cdc.errors import CdcError, GapError, PermanentError, UnreachableError
from connectors.mysql.catalogue import CatalogTable, captured_tables
from connectors.mysql.client import Address, Server, address, check_server, connect, current_account, identify, query
from connectors.mysql.config import MysqlConfig
from connectors.mysql.dump import READ_TIMEOUT, DumpConnection
from connectors.mysql.gtid import GtidSet, MariadbPosition
from connectors.mysql.settings import check_order, check_retention, check_settings, error, ok, warning


def preflight(config: MysqlConfig) -> list[Finding]:
    """Connect, look, change nothing. Raises UnreachableError, and PermanentError when `config` cannot be used."""
    where = address(config.url, config.password, config.ca)
    with closing(connect(where)) as connection:
        server = identify(connection)
        try:
            check_server(server)
        except PermanentError as refused:
            return [_finding("server", refused)]
        findings = list(_looked(connection, server, config))
    if all(finding.severity is not Severity.ERROR or finding.check not in _UNREADABLE for finding in findings):
        findings.append(_replication(where, config, server))
    return findings


_UNREADABLE: Final = frozenset({"mysql.log_bin", "mysql.server_id", "mysql.gtid_mode"})
"""Checks without which there is no binlog to ask for."""


def _looked(connection: Connection, server: Server, config: MysqlConfig) -> Iterator[Finding]:
    variables: dict[str, str] = dict(query(connection, "SHOW GLOBAL VARIABLES"))
    ((_, encryption),) = query(connection, "SHOW SESSION STATUS LIKE 'Ssl_version'")
    name = "MariaDB" if server.mariadb else "MySQL"
    yield ok("server", f"{name} {server.version_text}, {encryption or 'without TLS'}")
    yield from check_settings(server, variables)
    yield check_retention(server, variables, _bytes_per_second(connection))
    if server.mariadb:
        yield from check_order(variables)
    yield from _origins(connection, server, variables)
    tables: list[CatalogTable] = []
    left_out: list[Finding] = []
    try:
        tables = captured_tables(
            connection, server, config, lambda what, fix: left_out.append(warning("table", what, fix))
        )
        yield ok("tables", f"{len(tables)} tables: {', '.join(table.full_name for table in tables[:5])}")
    except PermanentError as refused:
        yield _finding("table", refused)
    yield from left_out
    user = current_account(connection)
    yield from _binlog(connection, server, user, tables)
    for table in tables:
        if not _readable(connection, table):
            yield error(
                "select",
                f"the user may not read all of {table.full_name}",
                f"GRANT SELECT ON {table.quoted} TO {user};",
            )
        elif server.mariadb or variables.get("innodb_native_foreign_keys", "ON") == "ON":
            yield from _cascades(connection, table)


def _bytes_per_second(connection: Connection) -> float:
    """How fast the binlog grows, on average since the server started; 0 where it does not say (MySQL)."""
    names = "'Binlog_bytes_written', 'Uptime'"
    status = dict(query(connection, f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})"))
    return int(status.get("Binlog_bytes_written", 0)) / max(1, int(status["Uptime"]))


def _origins(connection: Connection, server: Server, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Whether what comes from other servers is in the binlog."""
    updates = "log_slave_updates" if server.mariadb or server.version < (8, 0, 26) else "log_replica_updates"
    if variables[updates] != "ON" and _replicates(connection, server):
        yield error(
            "replica",
            f"the server is a replica and {updates} is OFF: what it replicates is not in its binlog",
            f"{updates} = ON in my.cnf, then restart the server; or capture from its source",
        )


def _replicates(connection: Connection, server: Server) -> bool:
    if server.mariadb:  # SHOW REPLICA STATUS wants a privilege that nothing else does
        ((_, running),) = query(connection, "SHOW GLOBAL STATUS LIKE 'Slaves_running'")
        return bool(running != "0")
    try:
        return bool(query(connection, "SHOW SLAVE STATUS" if server.version < (8, 0, 22) else "SHOW REPLICA STATUS"))
    except PermanentError:  # REPLICATION CLIENT is missing, which is a finding of its own
        return False


def _binlog(connection: Connection, server: Server, user: str, tables: Sequence[CatalogTable]) -> Iterator[Finding]:
    old = server.mariadb or server.version < (8, 2, 0)
    try:
        status = query(connection, "SHOW MASTER STATUS" if old else "SHOW BINARY LOG STATUS")
    except PermanentError:
        grant = f"GRANT REPLICATION CLIENT ON *.* TO {user};"
        yield error("privileges", "the user may not see where the binlog ends and what of it there is", grant)
        return
    for _, _, only, ignored, *_ in status:
        yield from _hidden(tables, _names(only), _names(ignored))


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split(",")) - {""}


def _hidden(tables: Sequence[CatalogTable], only: Collection[str], ignored: Collection[str]) -> Iterator[Finding]:
    """Tables that the server keeps out of its binlog."""
    name = "binlog_do_db" if only else "binlog_ignore_db"
    for table in tables:
        if table.schema not in only if only else table.schema in ignored:
            yield error(
                "filter",
                f"changes of {table.full_name} are not in the binlog, by the server's {name}",
                f"change {name} in my.cnf, then restart the server",
            )


def _readable(connection: Connection, table: CatalogTable) -> bool:
    try:
        query(connection, f"SELECT * FROM {table.quoted} LIMIT 0")  # noqa: S608 - it is quoted
    except PermanentError:
        return False
    return True


_FOREIGN_KEY: Final = re.compile(
    r"^  CONSTRAINT (`(?:[^`]|``)+`) (FOREIGN KEY \(.+?\) REFERENCES .+?\))((?: ON (?:DELETE|UPDATE) [A-Z ]+?)+),?$",
    re.MULTILINE,
)


def _cascades(connection: Connection, table: CatalogTable) -> Iterator[Finding]:
    """Foreign keys by which the engine changes rows without writing it to the binlog."""
    ((_, definition),) = query(connection, f"SHOW CREATE TABLE {table.quoted}")
    for name, key, rules in _FOREIGN_KEY.findall(definition):
        silent = [rule for rule in rules.split(" ON ") if rule.endswith(("CASCADE", "SET NULL"))]
        if silent:
            yield warning(
                "cascade",
                f"what the foreign key {name} of {table.full_name} does ON {' and ON '.join(silent)} is not in the "
                "binlog, and is not captured",
                f"ALTER TABLE {table.quoted} DROP FOREIGN KEY {name}, ADD {key}; and change these rows in the "
                "application, or by a BEFORE trigger of the other table, whose changes are in the binlog",
            )


def _replication(where: Address, config: MysqlConfig, server: Server) -> Finding:
    """Read the binlog from its end, under a number of our own: the one of `config` may be in use by ourselves."""
    try:
        if config.server_id != "auto":
            DumpConnection(where, config.server_id).close()
        connection = DumpConnection(where, "auto")
        try:
            variable = "gtid_binlog_pos" if server.mariadb else "gtid_executed"
            ((position,),) = connection.query(f"SELECT @@GLOBAL.{variable}")
            connection.start(MariadbPosition.parse(position) if server.mariadb else GtidSet.parse(position))
            while connection.receive() is None:
                connection.wait(READ_TIMEOUT)
        finally:
            connection.close()
    except (GapError, PermanentError, UnreachableError) as refused:
        return _finding("replication", refused)
    return ok("replication", "the binlog can be read")


def _finding(check: str, refused: CdcError) -> Finding:
    return error(check, str(refused.args[0]), refused.hint)
