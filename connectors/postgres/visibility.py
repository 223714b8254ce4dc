"""Which transactions a database snapshot sees.

A transaction is in the WAL, and streamed, before readers see it; what a read may be compared with is the reader's own
snapshot (``pg_current_snapshot()``, PostgreSQL manual 9.27.9).
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc.errors import DecodeError


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """``xmin:xmax:xip``: all below `xmin` have ended, those in `running` ran, of `xmax` and later none had
    ended: they may have begun all the same."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> DatabaseSnapshot:
        """Raises DecodeError when `text` is not of the form ``10:20:10,14``."""
        try:
            xmin, xmax, running = text.split(":")
            return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))
        except ValueError as error:
            raise DecodeError("not a pg_snapshot") from error

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def ended(self, xid: int) -> bool:
        """Whether the transaction (64-bit id) had ended, and its rows, if committed, are seen."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def full_xid(self, xid: int) -> int:
        """The 64-bit id of a 32-bit one from the stream: the one nearest to `xmax`."""
        full = self.xmax & ~0xFFFFFFFF | xid
        if full > self.xmax + (1 << 31):
            full -= 1 << 32
        elif full < self.xmax - (1 << 31):
            full += 1 << 32
        return full

    def sees(self, xid: int) -> bool:
        """`ended` for the 32-bit id of a transaction that was streamed, which means that it committed."""
        return self.ended(self.full_xid(xid))
