"""Making the position of a source that has none yet, and again after a gap."""

from __future__ import annotations

import structlog

from cdc.errors import FencedError
from cdc.log import Log
from cdc.source.history import begin_history, new_epoch
from cdc.source.plan import refuse_changes
from cdc.worker import REQUEST
from connectors.mysql.history import binlog_state, identity
from connectors.mysql.position import Position, decode_position
from connectors.mysql.tables import Tables

log = structlog.get_logger()


def ensure_position(name: str, tables: Tables, log_: Log) -> None:
    """Without a position capture begins where the server stands now. Raises PermanentError, UnreachableError."""
    if log_.positions().get(name) is None:
        _begin(name, tables, log_, None)


def begin_anew(name: str, tables: Tables, log_: Log, request: str) -> None:
    """After a gap: a new epoch from where the server stands now, and all tables to be read again."""
    position = _begin(name, tables, log_, request)
    log_.put_state(REQUEST, name, None)
    log.warning("history begins anew", source=name, epoch=position.epoch, tables=len(position.tables))


def _begin(name: str, tables: Tables, log_: Log, request: str | None) -> Position:
    """`request` asks for all tables whatever ``snapshot.mode`` says."""
    tables.refresh()

    def first(found: bytes | None) -> bytes:
        before = decode_position(found) if found is not None else None
        if before is not None and request is None:
            raise FencedError(f"another process sets up source {name}", hint="run each source once only")
        identities = tables.on_log.identities({})
        if before is not None:
            refuse_changes(before.tables, identities)
        epoch = new_epoch(log_, tables.topics())
        plan, sequence = tables.on_log.plan_all(epoch, always=request is not None)
        state = binlog_state(tables.rows, tables.server)
        return Position(
            epoch,
            sequence,
            tables.server.mariadb,
            identity(tables.server),
            str(state.executed),
            state.end,
            snapshots=plan,
            tables=identities,
            schemas=before.schemas if before is not None else {},
            request=request,
        ).encode()

    return decode_position(begin_history(name, log_, first))
