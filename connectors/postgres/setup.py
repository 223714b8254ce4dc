"""Making slot and position: for a source that has none yet, and again after a gap.

An intent is stored first, a position without an anchor but with a nonce. A crash at any later point leaves it, and
whatever slot is found then is taken as it is: capture begins only where the nonce comes through the stream, and the
snapshot reads everything that lies before.
"""

from __future__ import annotations

import uuid

import structlog

from cdc.errors import FencedError, GapError
from cdc.log import Log
from cdc.source.history import begin_history, new_epoch
from cdc.source.plan import refuse_changes
from cdc.worker import REQUEST
from connectors.postgres.client import ReplicationConnection
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position, decode_position
from connectors.postgres.slot import check_slot_usable, create_slot, drop_slot, identify, slot_exists
from connectors.postgres.tables import Tables

log = structlog.get_logger()


def ensure_slot(name: str, config: PostgresConfig, tables: Tables, log_: Log, slot: str) -> None:
    """Make position, publication and slot where they are missing. Raises PermanentError, UnreachableError."""
    stored = log_.positions().get(name)
    position = decode_position(stored) if stored is not None else None
    if position is not None and position.anchor is not None:
        return
    tables.refresh()
    connection = ReplicationConnection(config)
    try:
        if position is None:
            position = _intend(name, tables, log_, connection, slot, None)
        if not slot_exists(connection, position.slot):
            create_slot(connection, position.slot)
    finally:
        connection.close()


def recreate(name: str, config: PostgresConfig, tables: Tables, log_: Log, slot: str, request: str) -> None:
    """After a gap: a new epoch, a slot that can be used, and all tables to be read again."""
    tables.refresh()
    connection = ReplicationConnection(config)
    try:
        position = _intend(name, tables, log_, connection, slot, request)
        if slot_exists(connection, slot):
            try:
                check_slot_usable(connection, slot)
                usable = not position.made  # ours begins anew as well: what it still holds may not be readable
            except GapError:
                usable = False
            if not usable:
                drop_slot(connection, slot)
        if not slot_exists(connection, slot):
            create_slot(connection, slot)
    finally:
        connection.close()
    log_.put_state(REQUEST, name, None)
    log.warning("history begins anew", source=name, epoch=position.epoch, tables=len(position.tables))


def _intend(
    name: str,
    tables: Tables,
    log_: Log,
    connection: ReplicationConnection,
    slot: str,
    request: str | None,
) -> Position:
    """Store the intent. `request` asks for all tables whatever ``snapshot.mode`` says."""

    def intent(found: bytes | None) -> bytes:
        before = decode_position(found) if found is not None else None
        if before is not None and request is None:
            raise FencedError(f"another process sets up source {name}", hint="run each source once only")
        identities = tables.identities()
        if before is not None:
            refuse_changes(before.tables, identities)
        epoch = new_epoch(log_, tables.topics())
        system_id, timeline, _ = identify(connection)
        plan, sequence = tables.on_log.plan_all(epoch, always=request is not None)
        position = Position(
            epoch,
            sequence,
            system_id,
            timeline,
            slot,
            uuid.uuid4().hex,
            snapshots=plan,
            tables=identities,
            schemas=before.schemas if before is not None else {},
            request=request,
            made=before.made if before is not None else not slot_exists(connection, slot),
        )
        return position.encode()

    return decode_position(begin_history(name, log_, intent))
