"""What the server must send again before anything new, and how much of that is on the log already.

PostgreSQL never says that it lost data: a slot that was moved or made again just goes on later. So what comes first
must be what we have (design, "Capture" 3): with an intent its own message, later the anchor.
"""

from __future__ import annotations

from typing import Final

from cdc.errors import GapError
from cdc.source.plan import gap
from connectors.postgres.lsn import format_lsn
from connectors.postgres.pgoutput import Begin
from connectors.postgres.position import Anchor, OpenTransaction, Position

WHOLE: Final = 1 << 62
"""Rows to skip when the whole transaction is: so many that counting down never comes near zero."""


class Resumption:
    """From the stored position to the first row that is not on the log. Raises GapError when it does not come."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._begin = Begin(0, 0, 0)
        self._proved = False
        self._nonce_seen = False
        self.over = False
        """Everything from here on is new, apart from the rows that `begun` said are to be skipped."""

    def begun(self, begin: Begin) -> int:
        """How many rows of the transaction that begins are on the log; the caller skips them."""
        self._begin = begin
        position = self._position
        if self.over:
            return 0
        if position.anchor is None:
            return WHOLE
        if not self._proved:
            anchor = position.anchor
            if begin.final_lsn < anchor.commit_lsn:
                return WHOLE
            if (begin.xid, begin.final_lsn, begin.commit_time) != (anchor.xid, anchor.commit_lsn, anchor.commit_time):
                raise _anchor_missing(anchor)
            self._proved = True
        if begin.final_lsn <= position.commit_lsn:
            return WHOLE
        self.over = True
        if position.open is None:
            return 0
        if (begin.xid, begin.final_lsn) != (position.open.xid, position.open.commit_lsn):
            raise gap(f"transaction {position.open.xid} is on the log in part, and does not come again")
        return position.open.rows

    def skipped(self, lsn: bytes, ordinal: int) -> None:
        """The last row of a half-stored transaction was skipped: it must be the one that was stored last."""
        stored = self._position.open
        if stored is None or (int.from_bytes(lsn, "big"), ordinal) != (stored.lsn, stored.ordinal):
            raise gap(f"transaction {self._begin.xid} came again with other rows than are on the log")

    def committed(self, left: int) -> bool:
        """The transaction ends with `left` rows still to skip. True: it was passed over as a whole."""
        position = self._position
        if self._nonce_seen:
            self.over, self._nonce_seen = True, False
            return False
        if not left:
            return False
        if left < WHOLE >> 1:
            raise gap(f"transaction {self._begin.xid} has fewer rows than are on the log from it")
        if self._proved and position.open is None and self._begin.final_lsn >= position.commit_lsn:
            self.over = True
        return True

    def message(self, id_: str | None) -> None:
        """A message of ours passed; an intent waits for the one with its nonce."""
        self._nonce_seen = self._position.anchor is None and id_ == self._position.nonce

    def passed(self, wal_end: int) -> None:
        """The server says that it has sent everything up to `wal_end`."""
        anchor = self._position.anchor
        if not self.over and anchor is not None and not self._proved and wal_end > anchor.end_lsn:
            raise _anchor_missing(anchor)

    def half_stored(self, left: int) -> OpenTransaction | None:
        """The transaction that is on the log in part, as long as `left` of its rows are still to be skipped."""
        return self._position.open if left or not self.over else None


def _anchor_missing(anchor: Anchor) -> GapError:
    return gap(
        f"the server does not send transaction {anchor.xid} at {format_lsn(anchor.commit_lsn)} again, which is on "
        "the log: its history is not the one that was captured (restored from a backup, or the slot was moved)"
    )
