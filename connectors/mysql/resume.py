"""What the server sends again before anything new, and how much of that is on the log already.

GTIDs alone do not prove that a history is the one that was captured: a server that was restored from a backup gives
the same numbers to other transactions. So the anchor is asked for again, and must be what it was (design, "Capture" 3).
"""

from __future__ import annotations

from typing import Final

from cdc.source.plan import gap
from connectors.mysql.gtid import MariadbGtid, MariadbPosition
from connectors.mysql.history import Continuation
from connectors.mysql.position import AnyGtid, OpenTransaction, Position, has, parse_executed

WHOLE: Final = 1 << 62
"""Events to skip when the whole transaction is: so many that counting down never comes near zero."""


class Resumption:
    """From the stored position to the first event that is not on the log. Raises GapError when it does not come."""

    def __init__(self, position: Position, continuation: Continuation) -> None:
        self._position = position
        self._executed = parse_executed(position.executed, mariadb=position.mariadb)
        self._continuation = continuation
        self._proved = not continuation.anchored
        self.over = False
        """Everything from here on is new, apart from the events that `begun` said are to be skipped."""

    def begun(self, gtid: AnyGtid, time: int) -> int:
        """How many rows events of the transaction that begins are on the log; the caller skips them.

        `time`: when it was committed first, µs since 1970.
        """
        if self.over:
            return 0
        position = self._position
        anchor = position.anchor
        if has(self._executed, gtid):
            if isinstance(self._executed, MariadbPosition) and isinstance(gtid, MariadbGtid):
                last = self._executed.last[gtid.domain]
                if last.sequence == gtid.sequence and last != gtid:
                    raise gap(f"the server has transaction {gtid} instead of {last}, which was lost in a failover")
            if anchor is not None and anchor.gtid == str(gtid):
                if anchor.time != time:
                    raise gap(
                        f"transaction {gtid} is not the one that is on the log: the server was restored from a backup "
                        "and has given its numbers again"
                    )
                self._proved = True
            return WHOLE
        # On a replica that took over, transactions of several origins may lie in another order.
        if not self._proved and not self._continuation.moved:
            raise gap(
                f"the server does not send transaction {anchor.gtid if anchor else ''} again, which is on the log"
            )
        self.over = True
        if position.open is None:
            return 0
        if position.open.gtid != str(gtid):
            raise gap(f"transaction {position.open.gtid} is on the log in part, and does not come again")
        return position.open.events

    def committed(self, left: int) -> bool:
        """The transaction ends with `left` events still to skip. True: it was passed over as a whole."""
        if 0 < left < WHOLE >> 1:
            raise gap("a transaction came again with fewer rows than are on the log from it")
        return left > 0

    def half_stored(self, left: int) -> OpenTransaction | None:
        """The transaction that is on the log in part, as long as `left` of its events are still to be skipped."""
        return self._position.open if left or not self.over else None
