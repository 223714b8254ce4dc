"""What the server's variables say about capturing from it; every finding with the SQL that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cdc.connector import Finding, Severity
from connectors.mysql.client import Server

SHORTEST_RETENTION: Final = 3 * 86_400
"""Seconds that the binlog should be kept at least: a pipeline may stop on a Friday evening."""

_GTID_ON: Final = (
    "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; "
    "SET PERSIST gtid_mode = ON_PERMISSIVE; and when the status Ongoing_anonymous_transaction_count is 0 on every "
    "server: SET PERSIST gtid_mode = ON;"
)

_IMAGES: Final = {"MINIMAL": "columns", "NOBLOB": "columns", "FULL_NODUP": "generated columns, and nothing else"}
"""What rows lack under a ``binlog_row_image``. New images lack more under FULL_NODUP, which old ones have."""

_RECONNECT: Final = " (open connections keep theirs: let them reconnect)"


def check_settings(server: Server, variables: Mapping[str, str]) -> Iterator[Finding]:
    """What is wrong with the server's variables."""

    def change(name: str, value: str) -> str:
        if server.mariadb:
            return f"SET GLOBAL {name} = {value}; and {name} = {value} in my.cnf, for after a restart"
        return f"SET PERSIST {name} = {value};"

    if variables["log_bin"] != "ON":
        yield error("log_bin", "the server writes no binlog", "log_bin = ON in my.cnf, then restart the server")
    if server.server_id == 0:
        yield error("server_id", "server_id is 0: nobody may read the binlog", change("server_id", "1"))
    needed = {
        "binlog_format": ("ROW", "changes are written as statements, which cannot be captured"),
        "binlog_row_metadata": ("FULL", "the binlog does not tell what columns are called"),
    }
    for name, (value, meaning) in needed.items():
        if variables.get(name) != value:
            sessions = "" if name.endswith("metadata") else _RECONNECT
            yield error(name, f"{name} is {variables.get(name, 'missing')}: {meaning}", change(name, value) + sessions)
    if server.gtid_mode != "ON":
        yield error(
            "gtid_mode", f"gtid_mode is {server.gtid_mode}: a place in the binlog has no name that stays", _GTID_ON
        )
    if (image := variables.get("binlog_row_image")) in _IMAGES:
        yield warning(
            "binlog_row_image",
            f"binlog_row_image is {image}: rows in the binlog lack {_IMAGES[image]}, and each such row is read again "
            "by its key",
            change("binlog_row_image", "FULL") + _RECONNECT,
        )
    if options := variables.get("binlog_row_value_options"):
        yield warning(
            "binlog_row_value_options",
            f"binlog_row_value_options is {options}: rows whose JSON documents a session changes in part are read "
            "again by their key when its own binlog_row_image is not FULL",
            change("binlog_row_value_options", "''"),
        )
    for name, loss in (
        ("sync_binlog", "the binlog may lose what was captured already"),
        ("innodb_flush_log_at_trx_commit", "tables may lose what was committed"),
    ):
        if variables[name] != "1":
            yield warning(
                name, f"{name} is {variables[name]}: when the server's machine crashes, {loss}", change(name, "1")
            )


def check_retention(server: Server, variables: Mapping[str, str], rate: float) -> Finding:
    """Whether the binlog is kept for long enough, when `rate` bytes are written in a second."""
    kept = retention(variables, rate)
    if kept is None:
        return ok("retention", "the server does not purge its binlog by itself")
    if kept >= SHORTEST_RETENTION:
        return ok("retention", f"the binlog is kept for {kept / 3600:.0f} hours: a pipeline may stop for so long")
    fix = f"SET {'GLOBAL' if server.mariadb else 'PERSIST'} binlog_expire_logs_seconds = 604800;"
    if int(variables.get("max_binlog_total_size", 0)):
        fix += " and a larger max_binlog_total_size"
    return warning(
        "retention",
        f"the binlog is kept for {kept / 3600:.1f} hours only: a pipeline that stops for longer reads all tables again",
        fix,
    )


def retention(variables: Mapping[str, str], rate: float) -> float | None:
    """For how many seconds the binlog is kept when `rate` bytes are written in one; None: until it is purged by hand.

    Files are purged as a whole: of a limit by size, one of them does not count.
    """
    limits = []
    age = float(variables["binlog_expire_logs_seconds"]) or 86_400 * float(variables.get("expire_logs_days", 0))
    if age and variables.get("binlog_expire_logs_auto_purge", "ON") == "ON":
        limits.append(age)
    size = int(variables.get("max_binlog_total_size", 0))
    if size and rate:
        limits.append(max(0, size - int(variables["max_binlog_size"])) / rate)
    return min(limits, default=None)


def check_order(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Whether GTIDs of MariaDB rise."""
    writers = [gtid.split("-")[0] for gtid in variables["gtid_binlog_state"].split(",")]
    if variables["gtid_strict_mode"] != "ON" and len(set(writers)) < len(writers):
        yield warning(
            "gtid_strict_mode",
            "several servers have written to one replication domain, and gtid_strict_mode is OFF: a transaction may "
            "get a number below those that were captured, and would be passed over",
            "SET GLOBAL gtid_strict_mode = ON; and gtid_strict_mode = ON in my.cnf, for after a restart; or a "
            "gtid_domain_id of its own for each server that is written to",
        )


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(f"mysql.{check}", Severity.OK, message)


def warning(check: str, message: str, fix: str) -> Finding:
    """Capture works, but."""
    return Finding(f"mysql.{check}", Severity.WARNING, message, fix)


def error(check: str, message: str, fix: str) -> Finding:
    """Capture can't work."""
    return Finding(f"mysql.{check}", Severity.ERROR, message, fix)
