"""The place in a PostgreSQL source up to which everything is on the log; stored with each append."""

from __future__ import annotations

import msgspec

from cdc.errors import DecodeError
from cdc.source.plan import TableIdentity, TableSnapshot


class Anchor(msgspec.Struct, frozen=True):
    """A small transaction that is on the log whole, and that the server must send again after every reconnect.

    The slot is acknowledged only up to `commit_lsn`, the beginning of its commit record, so that its coming again
    proves that nothing lies between what we have and what we get (design, "Capture" 3). `commit_time` is microseconds
    since 1970.
    """

    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time: int


class OpenTransaction(msgspec.Struct, frozen=True):
    """How far a transaction that is split over several appends has come.

    `rows` counts its row messages as they come from the server, before any filter; `lsn` and `ordinal` (among the
    changes of that LSN, from 0) name the last of them.
    """

    xid: int
    commit_lsn: int
    rows: int
    lsn: int
    ordinal: int


class Position(msgspec.Struct, frozen=True):
    """See the module. `anchor` None: slot and publication are being made (an intent), nothing was captured yet.

    `epoch` and `sequence` give the next record its version. `commit_lsn` is the last transaction that is whole on the
    log (≥ the anchor's: a huge one is no anchor). `snapshots` are those still to do, in order, by ``schema.table``;
    `tables` names every captured table with its topic's id and key columns. `schemas` is the id
    (hex) of the schema that each table's rows had last. `request` is the snapshot request that was taken up last.
    `made`: the slot is ours to drop, not a DBA's.
    """

    epoch: int
    sequence: int
    system_id: str
    timeline: int
    slot: str
    nonce: str
    anchor: Anchor | None = None
    commit_lsn: int = 0
    open: OpenTransaction | None = None
    snapshots: dict[str, TableSnapshot] = {}
    tables: dict[str, TableIdentity] = {}
    schemas: dict[str, str] = {}
    request: str | None = None
    made: bool = True

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(Position)


def decode_position(encoded: bytes) -> Position:
    """The reverse of :meth:`Position.encode`. Raises DecodeError."""
    try:
        return _decoder.decode(encoded)
    except msgspec.MsgspecError as error:
        raise DecodeError("the stored position is not one of a postgres source") from error
