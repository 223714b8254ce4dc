"""Making slot and position: for a source that has none yet, and again after a gap.

An intent is stored first, a position without an anchor but with a nonce. A crash at any later point leaves it, and
whatever slot is found then is taken as it is: capture begins only where the nonce comes through the stream, and the
snapshot reads everything that lies before.
"""

from __future__ import annotations

import uuid
from typing import Final

import structlog
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cdc.errors import FencedError, GapError, TransientError
from cdc.event import epoch_of
from cdc.log import Log, TopicPartition
from cdc.record import unpack_header
from cdc.worker import REQUEST
from connectors.postgres.client import ReplicationConnection
from connectors.postgres.config import PostgresConfig
from connectors.postgres.position import Position, TableSnapshot, decode_position
from connectors.postgres.slot import check_slot_usable, create_slot, drop_slot, identify, slot_exists
from connectors.postgres.tables import Tables, refuse_changes

log = structlog.get_logger()

COMMIT_SECONDS: Final = 1.0
INTENT_SECONDS: Final = 30.0
TAIL_RECORDS: Final = (1, 100, 10_000)
"""How far from the end of a partition its last record is looked for; commit markers lie in between."""


def ensure_slot(name: str, config: PostgresConfig, tables: Tables, log_: Log, slot: str) -> None:
    """Make position, publication and slot where they are missing. Raises PermanentError, UnreachableError."""
    stored = log_.positions().get(name)
    position = decode_position(stored) if stored is not None else None
    if position is not None and position.anchor is not None:
        return
    tables.refresh()
    connection = ReplicationConnection(config)
    try:
        if position is None:
            position = _intend(name, config, tables, log_, connection, slot, None)
        if not slot_exists(connection, position.slot):
            create_slot(connection, position.slot)
    finally:
        connection.close()


def recreate(name: str, config: PostgresConfig, tables: Tables, log_: Log, slot: str, request: str) -> None:
    """After a gap: a new epoch, a slot that can be used, and all tables to be read again."""
    tables.refresh()
    connection = ReplicationConnection(config)
    try:
        position = _intend(name, config, tables, log_, connection, slot, request)
        if slot_exists(connection, slot):
            try:
                check_slot_usable(connection, slot)
                usable = not position.made  # ours begins anew as well: what it still holds may not be readable
            except GapError:
                usable = False
            if not usable:
                drop_slot(connection, slot)
        if not slot_exists(connection, slot):
            create_slot(connection, slot)
    finally:
        connection.close()
    log_.put_state(REQUEST, name, None)
    log.warning("history begins anew", source=name, epoch=position.epoch, tables=len(position.tables))


def _intend(
    name: str,
    config: PostgresConfig,
    tables: Tables,
    log_: Log,
    connection: ReplicationConnection,
    slot: str,
    request: str | None,
) -> Position:
    """Store the intent. `request` asks for all tables whatever ``snapshot.mode`` says."""
    writer = log_.writer(name)
    try:
        found = writer.fence()
        before = decode_position(found) if found is not None else None
        if before is not None and request is None:
            raise FencedError(f"another process sets up source {name}", hint="run each source once only")
        identities = tables.identities()
        if before is not None:
            refuse_changes(before, identities)
        epoch = log_.next_epoch(at_least=_highest_epoch(tables, log_) + 1)
        system_id, timeline, _ = identify(connection)
        sequence = 1
        plan: dict[str, TableSnapshot] = {}
        for table in tables.captured:
            if request is not None or config.snapshot_mode(table) == "initial":
                plan[table], sequence = tables.plan(table, epoch, sequence)
        position = Position(
            epoch,
            sequence,
            system_id,
            timeline,
            slot,
            uuid.uuid4().hex,
            snapshots=plan,
            tables=identities,
            schemas=before.schemas if before is not None else {},
            request=request,
            made=before.made if before is not None else not slot_exists(connection, slot),
        )
        encoded = position.encode()
        patience = Retrying(
            stop=stop_after_delay(INTENT_SECONDS), wait=wait_fixed(0.02), retry=retry_if_result(_not_yet)
        )
        patience(writer.commit, encoded, COMMIT_SECONDS)
        # What is committed may become readable a little later, and what starts now reads it.
        patience(lambda: log_.positions().get(name) == encoded)
        return position
    except RetryError:
        raise TransientError("the log does not take the position of a new source", hint="it is tried again") from None
    finally:
        writer.close()


def _not_yet(done: bool) -> bool:
    return not done


def _highest_epoch(tables: Tables, log_: Log) -> int:
    """The highest epoch of any record in the captured tables' topics, 0 without records."""
    existing = log_.topics()
    names = {tables.topic(table.schema, table.name) for table in tables.captured.values()} & set(existing)
    partitions = [TopicPartition(name, number) for name in names for number in range(existing[name].partitions)]
    ends = {partition: end for partition, end in log_.end_offsets(partitions).items() if end}
    starts = log_.start_offsets(list(ends))
    highest = 0
    for depth in TAIL_RECORDS:
        if not ends:
            break
        offsets = {partition: max(starts[partition], end - depth) for partition, end in ends.items()}
        seen = _epochs(log_, offsets, ends)
        highest = max([highest, *seen.values()])
        ends = {p: end for p, end in ends.items() if p not in seen and offsets[p] > starts[p]}
    return highest


def _epochs(
    log_: Log, offsets: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The highest epoch between the given offsets and the ends, of partitions that have records there."""
    seen: dict[TopicPartition, int] = {}
    topics = {partition.topic for partition in ends}
    everything = log_.topics()

    def start(_: object) -> dict[TopicPartition, int]:
        past = {TopicPartition(t, n): 1 << 62 for t in topics for n in range(everything[t].partitions)}
        current = log_.end_offsets(list(past))
        return {partition: offsets.get(partition, current[partition]) for partition in past}

    reader = log_.reader(None, lambda topic: topic in topics, start, lambda _: None)
    try:
        while True:
            for fetched in reader.poll(0.2):
                partition = TopicPartition(fetched.topic, fetched.partition)
                for record in fetched.records:
                    epoch = epoch_of(unpack_header(record.header).version)
                    seen[partition] = max(seen.get(partition, 0), epoch)
            positions = reader.position()
            if positions and all(positions.get(partition, 0) >= end for partition, end in ends.items()):
                return seen
    finally:
        reader.close()
