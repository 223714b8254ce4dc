"""The place in a PostgreSQL source up to which everything is on the log; stored with each append."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from cdc.errors import DecodeError


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


class KeyRange(msgspec.Struct, frozen=True):
    """Rows whose key is greater than `after` (None: from the first one on) and at most `until` (None: to the last one).

    Both hold the key columns as the server prints them.
    """

    after: list[str] | None = None
    until: list[str] | None = None

    def divided(self, at: Sequence[list[str]]) -> list[KeyRange]:
        """The same rows as ranges of their own, divided after the keys `at`, which rise."""
        edges = [self.after, *at, self.until]
        return [KeyRange(after, until) for after, until in itertools.pairwise(edges)]


class TableSnapshot(msgspec.Struct, frozen=True):
    """How far the snapshot of one table has come.

    `since` is the version that the sweep marker at its end will carry, None when the topic was empty at the start and
    there is nothing to sweep. `ranges` are still to be read, `rows` are on the log. `fence`: transactions that must
    have ended before the first chunk is read.
    """

    since: int | None
    ranges: list[KeyRange] = msgspec.field(default_factory=lambda: [KeyRange()])
    rows: int = 0
    fence: str | None = None

    def advanced(self, read: KeyRange, rest: Sequence[KeyRange], rows: int) -> TableSnapshot:
        """What is left once so many rows of the range `read` are on the log too, and `rest` of it is not."""
        place = self.ranges.index(read)
        ranges = [*self.ranges[:place], *rest, *self.ranges[place + 1 :]]
        return msgspec.structs.replace(self, ranges=ranges, rows=self.rows + rows)


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


class TableIdentity(msgspec.Struct, frozen=True):
    """What must not change beneath a captured table: its topic, and the columns that make the record key.

    `published` is the oid of the table's place in the publication: another one means that it was out of it for a while.
    """

    topic_id: str
    partitions: int
    profile: str
    key: list[str]
    published: int


_decoder = msgspec.json.Decoder(Position)


def decode_position(encoded: bytes) -> Position:
    """The reverse of :meth:`Position.encode`. Raises DecodeError."""
    try:
        return _decoder.decode(encoded)
    except msgspec.MsgspecError as error:
        raise DecodeError("the stored position is not one of a postgres source") from error
