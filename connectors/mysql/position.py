"""The place in a MySQL or MariaDB source up to which everything is on the log; stored with each append."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Union

import msgspec

from cdc.errors import DecodeError
from cdc.source.plan import TableIdentity, TableSnapshot
from connectors.mysql.gtid import Gtid, GtidSet, MariadbGtid, MariadbPosition

AnyGtid = Union[Gtid, MariadbGtid]  # noqa: UP007 - evaluated at run time
Executed = Union[GtidSet, MariadbPosition]  # noqa: UP007
"""What has been executed: the two servers' ways to say it."""

_NUMBER: Final = re.compile(r"(\d+)$")


class BinlogPlace(NamedTuple):
    """A place in the binlog of one server: `position` bytes into `file`. Places are ordered as that binlog is."""

    file: str = ""
    position: int = 0

    @property
    def _order(self) -> tuple[int, int]:
        matched = _NUMBER.search(self.file)  # the number of digits may grow
        return (int(matched[1]) if matched else 0, self.position)

    def __lt__(self, other: tuple[object, ...]) -> bool:
        return self._order < BinlogPlace._make(other)._order

    def __le__(self, other: tuple[object, ...]) -> bool:
        return self._order <= BinlogPlace._make(other)._order

    def __gt__(self, other: tuple[object, ...]) -> bool:
        return self._order > BinlogPlace._make(other)._order

    def __ge__(self, other: tuple[object, ...]) -> bool:
        return self._order >= BinlogPlace._make(other)._order

    def __str__(self) -> str:
        return f"{self.file}:{self.position}"


class Anchor(msgspec.Struct, frozen=True):
    """A small transaction that is on the log whole, and that the server must send again after every reconnect.

    `time` is when it was committed first, µs since 1970, whichever server it was; `before` is what had been executed
    before it. That it comes again, with the same time, proves that the server's history is the one that was captured
    (design, "Capture" 3): a server that was restored from a backup gives its numbers to other transactions.
    """

    gtid: str
    time: int
    before: str


class OpenTransaction(msgspec.Struct, frozen=True):
    """How far a transaction that is split over several appends has come: `events` counts its rows events, before any
    filter (or the parts of a prepared one that have been published)."""

    gtid: str
    events: int


class Position(msgspec.Struct, frozen=True):
    """See the module.

    `executed` is what has been executed up to here, as the server prints it; `server` identifies the server that
    `place`, the end of the last transaction in its binlog, belongs to. `epoch` and `sequence` give the next record its
    version. `snapshots` are those still to do, in order, by ``schema.table``; `tables` names every captured table with
    its topic's id and key columns. `schemas` is the id (hex) of the schema that each table's rows had last; `explained`
    are the tables of which a statement has told what it did, before rows came that have another one. `request` is the
    snapshot request that was taken up last. `committed_at`: when the last transaction was committed, µs since
    1970, 0 before the first one.
    """

    epoch: int
    sequence: int
    mariadb: bool
    server: str
    executed: str
    place: BinlogPlace = BinlogPlace()
    committed_at: int = 0
    anchor: Anchor | None = None
    open: OpenTransaction | None = None
    snapshots: dict[str, TableSnapshot] = {}
    tables: dict[str, TableIdentity] = {}
    schemas: dict[str, str] = {}
    explained: list[str] = []
    request: str | None = None

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


_decoder = msgspec.json.Decoder(Position)


def decode_position(encoded: bytes) -> Position:
    """The reverse of :meth:`Position.encode`. Raises DecodeError."""
    try:
        return _decoder.decode(encoded)
    except msgspec.MsgspecError as error:
        raise DecodeError("the stored position is not one of a mysql source") from error


def parse_executed(text: str, *, mariadb: bool) -> Executed:
    """What has been executed, from the server's text. Raises DecodeError."""
    return MariadbPosition.parse(text) if mariadb else GtidSet.parse(text)


def beyond(one: Executed, other: Executed) -> Executed:
    """What `one` has and `other` has not."""
    if isinstance(one, GtidSet) and isinstance(other, GtidSet):
        return one - other
    if isinstance(one, MariadbPosition) and isinstance(other, MariadbPosition):
        return one - other
    raise TypeError("GTIDs of MySQL and of MariaDB do not compare")


def within(one: Executed, other: Executed) -> bool:
    """Whether `other` has all that `one` has."""
    return not beyond(one, other)


def added(executed: Executed, gtid: AnyGtid) -> Executed:
    """With one transaction more, the next in the stream."""
    if isinstance(executed, GtidSet) and isinstance(gtid, Gtid):
        return executed.add(gtid)
    if isinstance(executed, MariadbPosition) and isinstance(gtid, MariadbGtid):
        return executed.add(gtid)
    raise TypeError("GTIDs of MySQL and of MariaDB do not mix")


def has(executed: Executed, gtid: AnyGtid) -> bool:
    """Whether the transaction is among them."""
    if isinstance(executed, GtidSet) and isinstance(gtid, Gtid):
        return gtid in executed
    if isinstance(executed, MariadbPosition) and isinstance(gtid, MariadbGtid):
        return gtid in executed
    raise TypeError("GTIDs of MySQL and of MariaDB do not compare")
