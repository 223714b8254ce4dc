"""What a sink keeps beside its rows: offsets, generations, floors and tombstones, in the transaction of the rows.

The row of ``_cdc_offsets`` with an empty topic says whose the tables are (`topic_id` is the sink), and counts the
generations that were drawn. Each partition's row has the newest generation that claimed or wrote it, and the version
of the newest delete in it: what is newer need not be looked up among the tombstones.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.sql.expression import quoted_name

from cdc.errors import FencedError, GapError, PermanentError
from cdc.log import TopicPartition
from cdc.sink import Batch, StoredOffset
from sinks._sql_server import SqlServer
from sinks._sql_staging import INCOMING, KEY_TYPE, TABLE_OPTIONS, Changes

PURGE_EVERY_SECONDS: Final = 3600.0


class Ledger:
    """The sink's own tables in `schema`; `owner` is ``pipeline:sink``. All methods work within a transaction."""

    def __init__(self, server: SqlServer, schema: str, owner: str, where: str) -> None:
        self._server = server
        self._owner = owner
        self._schema = schema
        self._where = where
        self.newest_deletes: dict[TopicPartition, int] = {}
        """By partition of the running transaction: no tombstone there has a higher version."""
        self._drawn = 0
        self._generations: dict[TopicPartition, int] = {}
        self._purge_at = 0.0
        self._metadata = MetaData(schema=quoted_name(schema, True))
        self._offsets = self._table(
            "_cdc_offsets",
            *_partition(),
            Column("topic_id", String(255), nullable=False),
            Column("next_offset", BigInteger, nullable=False),
            Column("generation", BigInteger, nullable=False),
            Column("newest_delete", BigInteger, nullable=False, server_default=text("0")),
            Column("started", DateTime, nullable=False, server_default=func.now()),
        )
        self._floors = self._table("_cdc_floors", *_partition(), Column("version", BigInteger, nullable=False))
        self.tombstones = self._table(
            "_cdc_tombstones",
            Column("topic", String(255), primary_key=True),
            Column("key", KEY_TYPE, primary_key=True),
            Column("partition", Integer, nullable=False),
            Column("version", BigInteger, nullable=False),
            Column("deleted_at", BigInteger, nullable=False),
        )
        self._tables = self._table("_cdc_tables", Column("topic", String(255), primary_key=True))
        self._claim = and_(self._offsets.c.topic == "", self._offsets.c.partition == -1)

    def open(self, connection: Connection) -> None:
        """Make the tables. Raises PermanentError when they are another sink's."""
        self._metadata.create_all(connection)
        owner = connection.scalar(select(self._offsets.c.topic_id).where(self._claim).with_for_update())
        if owner is None:
            claim = {"topic": "", "partition": -1, "topic_id": self._owner, "next_offset": 0, "generation": 0}
            connection.execute(insert(self._offsets), claim)
        elif owner != self._owner:
            raise PermanentError(
                f"{self._where}: schema {self._schema} belongs to {owner} (pipeline:sink)",
                hint="give this sink a schema of its own, for example schema: replica",
            )

    def claim(self, connection: Connection, partitions: Collection[TopicPartition]) -> None:
        """Draw a generation that nobody had, for `partitions`. Raises GapError when it is not newer than the last."""
        held = self._offsets.c
        connection.execute(update(self._offsets).where(self._claim).values(generation=held.generation + 1))
        drawn = connection.scalar(select(held.generation).where(self._claim))
        if drawn is None or drawn <= self._drawn:
            raise self.gap()
        places = sorted(partitions)
        connection.execute(
            update(self._offsets).where(tuple_(held.topic, held.partition).in_(places)).values(generation=drawn)
        )
        self._drawn = drawn
        self._generations.update(dict.fromkeys(places, drawn))

    def made(self, connection: Connection) -> set[str]:
        """The topics whose tables were made."""
        return set(connection.scalars(select(self._tables.c.topic)))

    def add_made(self, connection: Connection, topics: Collection[str]) -> None:
        """Remember that the tables of `topics` were made."""
        connection.execute(insert(self._tables), [{"topic": topic} for topic in sorted(topics)])

    def offsets(self, connection: Connection) -> Mapping[TopicPartition, StoredOffset]:
        """Where reading goes on, per partition that was ever started."""
        held = self._offsets.c
        found = connection.execute(
            select(held.topic, held.partition, held.next_offset, held.topic_id).where(
                held.partition >= 0, held.topic_id != ""
            )
        )
        return {TopicPartition(topic, number): StoredOffset(*stored) for topic, number, *stored in found}

    def fence(self, connection: Connection, batches: Sequence[Batch]) -> list[TopicPartition]:
        """Lock the partitions of `batches` for the rest of the transaction; returns those that were never started.

        Raises FencedError when a newer generation has one of them, GapError when the store is older than it was.
        """
        held = self._offsets.c
        drawn = connection.scalar(select(held.generation).where(self._claim))
        if drawn is None or drawn < self._drawn:
            raise self.gap()
        places = _places(batches)
        found = connection.execute(
            select(held.topic, held.partition, held.generation, held.newest_delete)
            .where(tuple_(held.topic, held.partition).in_(places))
            .order_by(held.topic, held.partition)
            .with_for_update()
        ).fetchall()
        if any(generation > self._generations[TopicPartition(*place)] for *place, generation, _ in found):
            raise FencedError(f"{self._where}: another process of this sink took a partition over")
        started = {TopicPartition(topic, number): newest for topic, number, _, newest in found}
        self.newest_deletes = {place: started.get(place, 0) for place in places}
        return sorted({*places} - started.keys())

    def begin(self, connection: Connection, batches: Sequence[Batch]) -> dict[TopicPartition, int]:
        """The same, for a transaction that ends with :meth:`store`; returns the floors."""
        if started := self.fence(connection, batches):
            first = {"topic_id": "", "next_offset": 0}
            generations = self._generations
            connection.execute(
                insert(self._offsets),
                [{**place._asdict(), **first, "generation": generations[place]} for place in started],
            )
        held = self._floors.c
        found = connection.execute(
            select(held.topic, held.partition, held.version).where(
                tuple_(held.topic, held.partition).in_(_places(batches))
            )
        )
        return {TopicPartition(topic, number): version for topic, number, version in found}

    def raise_floor(self, connection: Connection, batch: Batch, floors: dict[TopicPartition, int]) -> None:
        """Raise the floor of a partition, and forget the deletes below it."""
        place = TopicPartition(batch.topic, batch.partition)
        held, tombstones = self._floors.c, self.tombstones.c
        if place in floors:
            raised = update(self._floors).where(held.topic == place.topic, held.partition == place.partition)
            connection.execute(raised.values(version=batch.floor))
        else:
            connection.execute(insert(self._floors), {**place._asdict(), "version": batch.floor})
        floors[place] = batch.floor
        connection.execute(
            delete(self.tombstones).where(
                tombstones.topic == place.topic,
                tombstones.partition == place.partition,
                tombstones.version < batch.floor,
            )
        )

    def remember(self, connection: Connection, deletes: Changes, first: int) -> None:
        """Keep the versions of staged deletes, for rows that come late."""
        for row, number in zip(deletes.rows, deletes.partitions, strict=True):
            place = TopicPartition(deletes.topic, number)
            self.newest_deletes[place] = max(self.newest_deletes[place], row.version)
        new = INCOMING.c
        source = select(
            literal(deletes.topic).label("topic"),
            new.key,
            new.partition,
            new.version,
            literal(int(time.time())).label("deleted_at"),
        ).where(deletes.staged_from(first))
        connection.execute(self._server.remember(self.tombstones, source))

    def store(
        self, connection: Connection, batches: Sequence[Batch], accepted: Sequence[Batch], topic_ids: Mapping[str, str]
    ) -> None:
        """Store who wrote `batches`, and where reading goes on after those that were `accepted`."""
        held = self._offsets.c
        statement = update(self._offsets).where(
            held.topic == bindparam("of_topic"), held.partition == bindparam("of_partition")
        )
        stored: dict[TopicPartition, dict[str, Any]] = {
            place: {
                "of_topic": place.topic,
                "of_partition": place.partition,
                "generation": self._generations[place],
                "newest_delete": self.newest_deletes[place],
            }
            for place in _places(batches)
        }
        for batch in accepted:
            after = {"topic_id": topic_ids[batch.topic], "next_offset": batch.next_offset}
            stored[TopicPartition(batch.topic, batch.partition)].update(after)
        for passed in (True, False):
            if rows := [row for row in stored.values() if ("next_offset" in row) is passed]:
                connection.execute(statement, rows)

    def purge(self, connection: Connection, tombstone_ttl: float) -> None:
        """Forget deletes that nothing can be older than any more, from time to time."""
        if time.monotonic() < self._purge_at:
            return
        old = self.tombstones.c.deleted_at < int(time.time() - tombstone_ttl)
        connection.execute(delete(self.tombstones).where(old))
        self._purge_at = time.monotonic() + PURGE_EVERY_SECONDS

    def gap(self) -> GapError:
        """The error for a store that lost what it held."""
        return GapError(
            f"{self._where} no longer holds what was written: schema {self._schema} was emptied, or is an older copy",
            hint="start the sink again: it goes on at the offsets that the store has now, or says what is missing",
        )

    def _table(self, name: str, *columns: Column[Any]) -> Table:
        return Table(name, self._metadata, *columns, **TABLE_OPTIONS)


def _places(batches: Sequence[Batch]) -> list[TopicPartition]:
    return list({TopicPartition(batch.topic, batch.partition): None for batch in batches})


def _partition() -> tuple[Column[Any], Column[Any]]:
    return Column("topic", String(255), primary_key=True), Column(
        "partition", Integer, primary_key=True, autoincrement=False
    )
