"""What is on a log, read as any consumer reads it, and what must be true of it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from cdc.event import SEQUENCE_BITS
from cdc.log import Log, Record, TopicPartition
from cdc.record import KEY_CHANGE, TOMBSTONE, unpack_header

Partitions = dict[TopicPartition, list[Record]]


def read_all(log: Log) -> Partitions:
    """Every committed record of every data topic, in order, partition by partition."""
    found: Partitions = defaultdict(list)
    reader = log.reader(None, lambda _: True, lambda assigned: dict(log.start_offsets(list(assigned))), lambda _: None)
    try:
        while True:
            for fetched in reader.poll(0.5):
                found[TopicPartition(fetched.topic, fetched.partition)] += fetched.records
            position = reader.position()
            ends = log.end_offsets(list(position))
            if position and all(position[partition] >= end for partition, end in ends.items()):
                return found
    finally:
        reader.close()


@dataclass(frozen=True)
class Transaction:
    """What the log has of one source transaction."""

    rows: int
    ledger: dict[str, object] | None


def transactions(partitions: Partitions) -> Mapping[object, Transaction]:
    """Streamed row events by transaction id or GTID; both halves of a key change count as one."""
    rows: Counter[object] = Counter()
    ledgers: dict[object, dict[str, object]] = {}
    for partition, records in partitions.items():
        for record in records:
            header = unpack_header(record.header)
            if header.operation not in (b"c", b"u", b"d") or header.flags & TOMBSTONE:
                continue
            if header.operation == b"d" and header.flags & KEY_CHANGE:
                continue
            assert record.value is not None
            event = json.loads(record.value)
            id_ = event["source"].get("txId") or event["source"]["gtid"]
            rows[id_] += 1
            if partition.topic.endswith(".ledger"):
                ledgers[id_] = event["after"]
    return {id_: Transaction(count, ledgers.get(id_)) for id_, count in rows.items()}


def check_versions(partitions: Partitions) -> None:
    """Each number was used for one content only, none is missing, and per key they only rise."""
    contents: dict[int, set[tuple[str, bytes, bytes]]] = defaultdict(set)
    copies: Counter[tuple[int, bool, int]] = Counter()
    for partition, records in partitions.items():
        latest: dict[bytes, int] = {}
        for record in records:
            header = unpack_header(record.header)
            marker = header.operation in (b"t", b"s")
            tombstone = bool(header.flags & TOMBSTONE)
            contents[header.version].add((partition.topic, record.key, header.operation))
            copies[header.version, tombstone, partition.partition if marker else -1] += 1
            if header.operation != b"s":
                before = latest.get(record.key, 0)
                assert header.version > before or (tombstone and header.version == before), (partition, record.key)
                latest[record.key] = header.version
    doubled = [version for version, found in contents.items() if len(found) > 1]
    assert not doubled, f"{len(doubled)} versions have two contents"
    repeated = [version for version, count in copies.items() if count > 1]
    assert not repeated, f"{len(repeated)} records are on the log more than once"
    sequences: dict[int, list[int]] = defaultdict(list)
    for version in contents:
        sequences[version >> SEQUENCE_BITS].append(version & (1 << SEQUENCE_BITS) - 1)
    for epoch, numbers in sequences.items():
        assert min(numbers) == 1, f"epoch {epoch} begins with {min(numbers)}"
        assert max(numbers) == len(numbers), f"epoch {epoch} lacks {max(numbers) - len(numbers)} numbers"
