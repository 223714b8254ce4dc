"""Whether the rows that were moved are the right ones. A rate without this means nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cdc.config.pipeline import Pipeline
from cdc.log import Fetched, Log, TopicPartition
from cdc.record import TOMBSTONE, unpack_header
from tests.bench import workload
from tests.servers.postgres import Database

SAMPLES = 2000
COMPARED_TOGETHER = 20_000


def log_holds(pipeline: Pipeline, database: Any, expected: Mapping[str, int], table: Any = workload) -> None:
    """The log has so many events of each operation (``c u d r``), each version once and without a gap, a tombstone
    after each delete, per key rising versions, and in the end the rows of the table, whose functions are those of the
    module `table`. Raises AssertionError.
    """
    log = pipeline.open_log()
    try:
        operations: Counter[str] = Counter()
        tombstones = 0
        versions: list[int] = []
        rows: dict[bytes, bytes | None] = {}
        last: dict[bytes, int] = {}
        for part in everything(log):
            for record in part.records:
                header = unpack_header(record.header)
                if header.flags & TOMBSTONE:
                    assert record.value is None, "a tombstone has a value"
                    assert header.version == last.get(record.key), "a tombstone has not its delete's version"
                    tombstones += 1
                    continue
                assert record.value is not None
                assert header.version > last.get(record.key, 0), "versions of a key do not rise"
                operations[header.operation.decode()] += 1
                versions.append(header.version)
                last[record.key] = header.version
                start, length = header.after_start, header.after_length
                rows[record.key] = record.value[start : start + length] if length else None
    finally:
        log.close()
    found = dict(operations)
    assert found == dict(expected), f"the log has {found} events, the database made {dict(expected)}"
    assert tombstones == expected.get("d", 0), f"{tombstones} tombstones"
    versions.sort()
    assert versions == list(range(versions[0], versions[0] + len(versions))), "a version is missing or there twice"
    live = {key: row for key, row in rows.items() if row is not None}
    wanted = {b'{"id":%d}' % id_ for id_ in table.ids(database)}
    assert live.keys() == wanted, f"{len(live.keys() ^ wanted)} keys differ from the table's"
    sample = list(live.values())[:: max(1, len(live) // SAMPLES)]
    wrong = table.differing(database, sample)
    assert wrong == 0, f"{wrong} of {len(sample)} rows differ from the table's"


def store_holds(database: Database, rows: Iterable[bytes], where: str) -> None:
    """Each row of the table is among `rows` of a store, equal in every column, and no other. Raises AssertionError."""
    held = list(rows)
    ids = {json.loads(row)["id"] for row in held}
    wanted = workload.ids(database)
    assert len(ids) == len(held), f"{where} has a row twice"
    assert ids == wanted, f"{where}: {len(wanted - ids)} rows are missing, {len(ids - wanted)} are left over"
    for start in range(0, len(held), COMPARED_TOGETHER):
        wrong = workload.differing(database, held[start : start + COMPARED_TOGETHER])
        assert wrong == 0, f"{where}: {wrong} rows differ from the table's"


def everything(log: Log) -> Iterator[Fetched]:
    """All records of the log, partition by partition in order."""
    partitions = [TopicPartition(topic.name, n) for topic in log.topics().values() for n in range(topic.partitions)]
    ends = log.end_offsets(partitions)
    reader = log.reader(None, lambda _: True, lambda new: dict.fromkeys(new, 0), lambda _: None)
    try:
        while True:
            yield from reader.poll(1.0)
            positions = reader.position()
            if positions and all(positions.get(partition, 0) >= end for partition, end in ends.items()):
                return
    finally:
        reader.close()
