"""The sink contract: what a store must promise, and what it is given.

Adding a kind of store is one file in ``sinks/``: a configuration model, a class that implements :class:`Sink`, and a
last line ``SINK = MySink``. The contract suite (``tests/contract/test_sinks.py``) runs over every such file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from cdc.config.fields import SinkConfig
from cdc.findings import Finding
from cdc.log import TopicPartition
from schemas.table import TableSchema


class Row(NamedTuple):
    """The latest state of one key in a batch.

    `after` is the row as JSON in the value profile of `schema`, None for a delete. When `partial`, columns that the
    source did not send are absent from `after`, and keep what the store holds. `offset` is for error messages,
    `at` is when it was appended to the log, ms since 1970.
    """

    key: bytes
    version: int
    after: bytes | None
    schema: TableSchema | None
    partial: bool
    offset: int
    at: int = 0


class Batch(NamedTuple):
    """What one write brings to one partition of one topic, reduced to one row per key.

    Apply in this order: first the floor, then the rows. `floor` (0 = none) comes from a truncate or sweep marker:
    every row of this topic *and partition* that the store holds with a version below `floor` goes, and later writes
    below it must lose. Rows of the batch older than the floor are in `superseded` (keys with the floor's version), not
    in `rows`; a store that cannot check a floor atomically deletes those by key with the floor's version.

    `next_offset` is where reading goes on after this batch, `at` is when the marker was appended, ms since 1970.
    """

    topic: str
    partition: int
    floor: int
    rows: Sequence[Row]
    superseded: Sequence[bytes]
    next_offset: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that the store will never take, and why (without the row's values)."""

    topic: str
    partition: int
    offset: int
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """An offset kept by the store itself, with the id of the topic it belongs to."""

    offset: int
    topic_id: str


ANEW: Final = "fill the store anew from the log: empty it and give the sink another name"
"""What to do about a store that lacks rows."""


def accepted(batches: Sequence[Batch], rejected: Sequence[Rejected]) -> list[Batch]:
    """Those of `batches` whose offsets may be stored: of partitions in which no row was rejected."""
    parted = {(row.topic, row.partition) for row in rejected}
    return [batch for batch in batches if (batch.topic, batch.partition) not in parted]


class Sink(ABC):
    """One store. Plain synchronous code, used by one thread.

    Idempotence is the store's duty, and the contract's heart: whatever is written twice, late, out of order or by a
    process that should be dead, the store keeps for each key the row with the highest version. So a write lands only
    if its version is *greater* than what the store holds for the key, for the key's tombstone, and not below the floor
    of the key's (topic, partition). Deletes therefore leave a tombstone that keeps the version, for longer than any
    replay or zombie can last (see each sink).
    """

    Config: ClassVar[type[SinkConfig]]

    owns_offsets: ClassVar[bool] = False
    """True: offsets go to the store with the rows, in one transaction or once these are there, and on start reading
    begins at the store's offsets. A store that was emptied is told from a new one by that, and one that went back to an
    older state gets again what it lost."""

    every_change: bool = False
    """True: the store keeps history, so a batch brings all rows of a key, in order, and not only the latest."""

    single_worker: ClassVar[bool] = False
    """True: only one process may hold the store (an embedded one): `open` claims all of it."""

    @abstractmethod
    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        """Take the configuration; connect to nothing. Raises ConfigurationError when it cannot work."""

    def check(self) -> list[Finding]:
        """Look whether the store can be reached and used, changing and claiming nothing: for ``validate --connect``.

        Raises UnreachableError. By default nothing is looked at.
        """
        return []

    @abstractmethod
    def open(self) -> None:
        """Connect and create what is missing. A store for a single worker is claimed here: a new generation, so that
        writes of an older process of this sink lose (FencedError there).

        Raises UnreachableError (server gone, credentials), PermanentError (store unusable, with what to do).
        """

    def claim(self, partitions: Collection[TopicPartition]) -> None:  # noqa: B027 - nothing where `open` claims all
        """These partitions are fed by this process from now on: each gets a new generation, so that what their former
        process still writes to them loses (FencedError there), wherever the store can tell. Other partitions, and the
        processes that feed them, are left alone. Called whenever the log assigns some, before their offsets are asked
        for and before anything of them is written.

        Raises TransientError, PermanentError, and GapError when what holds the rows of their topics is there no more.
        """

    def offsets(self) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was claimed, or any, and ever started; for sinks that own their
        offsets."""
        return {}

    @abstractmethod
    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        """Apply `batches`. On return everything but the rejected rows is durable, as far as the store promises that.

        At least once per record, in order per key; an empty sequence and an empty batch are fine. Rows of one batch
        have distinct keys. A row that the store refuses for good is returned, and must not keep the others from being
        applied; what may succeed later raises TransientError, and nothing or any part of the batches may have been
        applied then: the same batches come again. A sink that owns its offsets stores each batch's `next_offset` with
        the topic's id from `topic_ids`, except in partitions with a rejected row: it is not passed over in silence.

        Raises TransientError, PermanentError, FencedError when another process claimed the store or one of the
        partitions, and GapError when the store no longer holds what it held: it was emptied, or went back to an older
        state.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything. Safe to call twice."""
