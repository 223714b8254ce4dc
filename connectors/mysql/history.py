"""What a server's binlog holds, and whether that still continues a stored position."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from cdc.errors import PermanentError
from cdc.source.plan import gap
from connectors.mysql.client import Server
from connectors.mysql.gtid import GtidSet, MariadbPosition
from connectors.mysql.position import BinlogPlace, Executed, Position, beyond, parse_executed, within

Query = Callable[..., list[tuple[Any, ...]]]
"""Runs one statement; its rows."""

COMMIT_SECONDS: Final = 2.0
"""How long a captured transaction may take to be known to the server: one that has just been started recovers."""

_THREAD: Final = re.compile(r"#\d+")
"""Who owns a transaction, in ``gtid_owned``."""


class BinlogState(NamedTuple):
    """`executed`: MySQL's are committed, MariaDB's in the binlog. `known`: these, and those that MySQL may have written
    into the binlog and not committed yet. `purged`: what of it the binlog has no longer. `end`: where the binlog ends.
    """

    executed: Executed
    known: Executed
    purged: Executed
    end: BinlogPlace


def identity(server: Server) -> str:
    """What tells a server from others of its topology."""
    return str(server.uuid) if server.uuid is not None else f"server_id {server.server_id}"


def binlog_end(query: Query, server: Server) -> BinlogPlace:
    """Where the binlog ends now. Raises PermanentError when there is none."""
    known = not server.mariadb and server.version >= (8, 2, 0)
    rows = query("SHOW BINARY LOG STATUS" if known else "SHOW MASTER STATUS")
    if not rows:
        raise PermanentError("the server writes no binlog", hint="set log_bin in the server's my.cnf and restart it")
    return BinlogPlace(str(rows[0][0]), int(rows[0][1]))


def binlog_state(query: Query, server: Server) -> BinlogState:
    """Ask the server. Raises PermanentError when its GTIDs are off or it writes no binlog."""
    if server.gtid_mode != "ON":
        raise PermanentError(
            f"gtid_mode is {server.gtid_mode}: transactions have no identity",
            hint="SET GLOBAL enforce_gtid_consistency = ON; then SET GLOBAL gtid_mode = OFF_PERMISSIVE, ON_PERMISSIVE, "
            "ON, one after the other; and the same in my.cnf",
        )
    end = binlog_end(query, server)
    if not server.mariadb:
        # In this order: a transaction goes from the first to the second.
        [(owned,)] = query("SELECT @@GLOBAL.gtid_owned")
        [(executed, purged)] = query("SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged")
        committed = GtidSet.parse(executed)
        return BinlogState(committed, committed | owned_gtids(owned), GtidSet.parse(purged), end)
    first = query("SHOW BINARY LOGS")[0][0]
    [(latest, purged)] = query("SELECT @@GLOBAL.gtid_binlog_pos, BINLOG_GTID_POS(%s, 4)", first)
    written = MariadbPosition.parse(latest)
    return BinlogState(written, written, MariadbPosition.parse(purged or ""), end)


def owned_gtids(text: str) -> GtidSet:
    """MySQL's ``gtid_owned``: the transactions that sessions are about to commit."""
    return GtidSet.parse(_THREAD.sub("", text))


class Continuation(NamedTuple):
    """How to go on from a position: ask for what is not in `start`. `anchored`: the position's anchor comes first.
    `moved`: this is another server than before, or its binlog was made anew."""

    start: Executed
    anchored: bool
    moved: bool


def check_continuity(query: Query, server: Server, position: Position) -> Continuation:
    """Everything about the server that can be compared with the stored position before streaming.

    That the anchor comes again is the last proof, and the stream's. Raises GapError.
    """
    if server.mariadb != position.mariadb:
        there, here = ("MariaDB", "MySQL") if position.mariadb else ("MySQL", "MariaDB")
        raise gap(f"this is another server: the position is of {there}, and this is {here}")
    executed = parse_executed(position.executed, mariadb=server.mariadb)
    state = binlog_state(query, server)
    moved = identity(server) != position.server or state.end < position.place
    if not moved:
        patience = Retrying(
            stop=stop_after_delay(COMMIT_SECONDS),
            wait=wait_fixed(0.05),
            retry=retry_if_result(lambda state: not within(executed, state.known)),
            retry_error_callback=lambda last: last.outcome.result() if last.outcome is not None else state,
        )
        state = patience(binlog_state, query, server)
    if lost := beyond(executed, state.known):
        raise gap(
            f"the server lacks transactions that were captured ({lost}): "
            + ("they were lost in a failover, or its binlog was reset" if moved else "it is an older copy")
        )
    if missing := beyond(state.purged, executed):
        raise gap(f"the server has purged binlogs with transactions that were not captured ({missing})")
    anchor = position.anchor
    if anchor is None:
        return Continuation(executed, anchored=False, moved=moved)
    start = parse_executed(anchor.before, mariadb=server.mariadb)
    if isinstance(start, GtidSet) and isinstance(executed, GtidSet):
        start = executed - GtidSet.parse(anchor.gtid)
    if not within(state.purged, start):
        return Continuation(executed, anchored=False, moved=moved)  # the anchor was purged since: nothing is missing
    return Continuation(start, anchored=True, moved=moved)
