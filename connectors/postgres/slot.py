"""Publication and slot: making them, and proving at every connect that the slot still continues our position."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from cdc.errors import PermanentError, UnreachableError
from cdc.source.plan import gap
from connectors.postgres.catalogue import CatalogTable
from connectors.postgres.client import ReplicationConnection
from connectors.postgres.lsn import format_lsn, parse_lsn
from connectors.postgres.position import Position

OLDEST_VERSION: Final = 140000
_SLOT: Final = sql.SQL(
    "SELECT plugin, database, current_database(), wal_status, confirmed_flush_lsn, "
    "coalesce(to_jsonb(s) ->> 'invalidation_reason', '') FROM pg_replication_slots s WHERE slot_name = {}"
)
_STANDBY: Final = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Raises PermanentError when the server is too old, does not write logical WAL, or would take us for a standby;
    UnreachableError when it is one itself, which a failover may change."""
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        raise PermanentError(
            f"PostgreSQL {version // 10000} is too old: 14 to 18 are supported", hint="upgrade the server"
        )
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        raise UnreachableError(
            "this server is a standby: our marks can't be written into its WAL",
            hint="let the url name the primary; of several hosts in it target_session_attrs=read-write takes that one",
        )
    row = connection.execute("SELECT current_setting('wal_level')").fetchone()
    if row is not None and row[0] != "logical":
        raise PermanentError(
            f"wal_level is {row[0]!r}: the WAL has no row changes in it",
            hint="ALTER SYSTEM SET wal_level = 'logical'; then restart the server",
        )
    row = connection.execute(
        "SELECT current_setting('synchronous_standby_names'), current_setting('application_name')"
    ).fetchone()
    if row is not None and counts_as_standby(*row):
        raise PermanentError(
            f"synchronous_standby_names ({row[0]}) makes a synchronous standby of whoever reads the WAL as {row[1]!r}: "
            "commits would wait for us, or count as safe when they are not",
            hint="ALTER SYSTEM SET synchronous_standby_names to a list of the standbys' names (not *, not ours, which "
            "application_name in the url changes); then SELECT pg_reload_conf();",
        )


def counts_as_standby(names: str, application: str) -> bool:
    """Whether ``synchronous_standby_names`` means a connection with the name `application` (manual, 19.6.2)."""
    found = [quoted.replace('""', '"') or plain for quoted, plain in _STANDBY.findall(names)]
    return any(name == "*" or name.lower() == application.lower() for name in found)


def publish(connection: psycopg.Connection[Any], name: str, tables: Sequence[CatalogTable], manage: bool) -> None:
    """Make the publication hold exactly `tables`, all operations.

    A publication that a DBA owns (`manage` False) is only checked. Raises PermanentError with the SQL.
    """
    identifier = sql.Identifier(name)
    wanted = {table.full_name: table for table in tables}
    listed = _only(tables)
    row = connection.execute(
        "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, to_jsonb(p) ->> 'pubgencols' "
        "FROM pg_publication p WHERE pubname = %s",
        [name],
    ).fetchone()
    create = sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(identifier, listed)
    if row is None:
        if not manage:
            raise PermanentError(f"publication {name} does not exist", hint=create.as_string(connection) + ";")
        _execute(connection, create)
        return
    all_tables, complete, generated = row
    if not complete:
        fix = sql.SQL("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')").format(identifier)
        raise PermanentError(
            f"publication {name} leaves out kinds of changes: stores would drift", hint=fix.as_string(connection) + ";"
        )
    if generated == "s":  # since PostgreSQL 18
        fix = sql.SQL("ALTER PUBLICATION {} SET (publish_generated_columns = none)").format(identifier)
        raise PermanentError(
            f"publication {name} has generated columns, which a snapshot does not read",
            hint=fix.as_string(connection) + ";",
        )
    if all_tables:
        return
    _refuse_parts(connection, name, wanted)
    present = {
        f"{schema}.{table}"
        for schema, table in connection.execute(
            "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s", [name]
        ).fetchall()
    }
    added = set(wanted) - present
    if added and not manage:
        missing = _only([wanted[full_name] for full_name in sorted(added)])
        fix = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(identifier, missing)
        raise PermanentError(
            f"publication {name} lacks {', '.join(sorted(added))}", hint=fix.as_string(connection) + ";"
        )
    if manage and present != set(wanted):
        _execute(connection, sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(identifier, listed))


def _refuse_parts(connection: psycopg.Connection[Any], name: str, wanted: Collection[str]) -> None:
    """A publication of some rows or columns only would show a row leaving its filter as deleted, and a snapshot, which
    reads whole rows, would bring it back. Raises PermanentError."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname, to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs' "
        "FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
        [name],
    )
    for schema, table, condition, columns in rows.fetchall():
        if f"{schema}.{table}" in wanted and (condition or columns):
            what = "a row filter" if condition else "a list of columns"
            fix = sql.SQL("ALTER PUBLICATION {0} DROP TABLE {1}; ALTER PUBLICATION {0} ADD TABLE ONLY {1}").format(
                sql.Identifier(name), sql.Identifier(schema, table)
            )
            raise PermanentError(
                f"publication {name} has {what} for {schema}.{table}, which is not supported",
                hint=fix.as_string(connection) + ";",
            )


def _only(tables: Sequence[CatalogTable]) -> sql.Composed:
    """``ONLY "s"."a", ONLY "s"."b"``: without their inheritance children."""
    return sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in tables)


def _execute(connection: psycopg.Connection[Any], statement: sql.Composed) -> None:
    try:
        connection.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported) as error:
        raise PermanentError(
            f"PostgreSQL: {error.diag.message_primary}",
            hint=f"let a superuser run: {statement.as_string(connection)}; and set publication.manage: none",
        ) from None


def slot_exists(connection: ReplicationConnection, slot: str) -> bool:
    """Whether a slot of that name exists, whoever made it."""
    return bool(connection.query(_SLOT.format(sql.Literal(slot)).as_string()))


def create_slot(connection: ReplicationConnection, slot: str) -> None:
    """Make the logical slot; waits until transactions that run now have ended. Raises PermanentError."""
    connection.query(f'CREATE_REPLICATION_SLOT "{slot}" LOGICAL pgoutput NOEXPORT_SNAPSHOT')


def create_temporary_slot(connection: ReplicationConnection, slot: str, stopping: Callable[[], bool]) -> bool:
    """Make one that goes with the connection. It waits in the same way; False: `stopping()` came true meanwhile."""
    return connection.run(f'CREATE_REPLICATION_SLOT "{slot}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT', stopping)


def drop_slot(connection: ReplicationConnection, slot: str) -> None:
    """Drop the slot. Raises UnreachableError while another connection uses it."""
    connection.query(f'DROP_REPLICATION_SLOT "{slot}"')


def identify(connection: ReplicationConnection) -> tuple[str, int, int]:
    """System identifier, timeline, and the server's flush LSN."""
    row = connection.query("IDENTIFY_SYSTEM")[0]
    return str(row[0]), int(row[1] or 0), parse_lsn(row[2] or "")


def check_slot_usable(connection: ReplicationConnection, slot: str) -> int:
    """The slot's ``confirmed_flush_lsn``.

    Raises GapError when the slot is missing or lost, PermanentError when it is of another database or plugin.
    """
    rows = connection.query(_SLOT.format(sql.Literal(slot)).as_string())
    if not rows:
        raise gap(f"slot {slot} is gone: what was written since is lost to the stream")
    plugin, database, here, wal_status, confirmed, reason = rows[0]
    if plugin != "pgoutput" or database != here:
        raise PermanentError(
            f"slot {slot} is of plugin {plugin} in database {database}, needed is pgoutput in {here}",
            hint="set slot.name of the source to another name",
        )
    if why := _invalidated(wal_status, reason):
        raise gap(f"slot {slot} was invalidated ({why})")
    if confirmed is None:
        raise gap(f"slot {slot} was never finished by its maker")
    return parse_lsn(confirmed)


def check_continuity(connection: ReplicationConnection, position: Position) -> None:
    """Everything about the server and the slot that can be compared with the stored position before streaming.

    That the anchor comes again is the last proof, and the stream's. Raises GapError.
    """
    system_id, timeline, flushed = identify(connection)
    if system_id != position.system_id:
        raise gap(f"this is another server: system identifier {system_id} instead of {position.system_id}")
    if timeline != position.timeline:
        raise gap(f"the server is on timeline {timeline}, the position on {position.timeline}: a failover or a restore")
    confirmed = check_slot_usable(connection, position.slot)
    if position.anchor is None:
        return  # an intent: wherever the slot stands, capture begins where the nonce comes through
    anchor = position.anchor.commit_lsn
    if confirmed > anchor:
        raise gap(
            f"slot {position.slot} stands at {format_lsn(confirmed)}, beyond our position {format_lsn(anchor)}: "
            "it was re-created, or somebody else read from it"
        )
    stored = max(anchor, position.commit_lsn)
    if stored > flushed:
        raise gap(
            f"the server's WAL ends at {format_lsn(flushed)}, before our position {format_lsn(stored)}: "
            "the database was restored from an older copy"
        )


class SlotState(NamedTuple):
    """What a slot is worth: `retained` is the WAL that the server keeps for it, bytes; `invalidated` says why nothing
    can be read from it any more, and is empty while something can."""

    retained: int
    invalidated: str


def slot_state(connection: psycopg.Connection[Any], slot: str) -> SlotState | None:
    """How the slot is; None without one."""
    row = connection.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status, "
        "to_jsonb(s) ->> 'invalidation_reason' FROM pg_replication_slots s WHERE slot_name = %s",
        [slot],
    ).fetchone()
    if row is None:
        return None
    retained, wal_status, reason = row
    invalidated = _invalidated(wal_status, reason)
    # Most of those that were invalidated still have an LSN, from which nothing is kept.
    return SlotState(0 if invalidated else int(retained or 0), invalidated)


def _invalidated(wal_status: str | None, reason: str | None) -> str:
    """Why the server has given the slot up, empty when it has not. Before PostgreSQL 17 it gives no reason."""
    return reason or ("the WAL it needs was removed" if wal_status == "lost" else "")
