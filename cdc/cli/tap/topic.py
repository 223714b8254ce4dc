"""The events on the log: all of them, or those that a sink has applied."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

from cdc.cli.tap.event import Event, Filter, Place
from cdc.errors import CdcError, GapError
from cdc.log import Fetched, Log, LogReader, TopicPartition
from cdc.record import unpack_header

POLL_SECONDS: Final = 0.25
READ_BYTES: Final = 1 << 20
"""What is read at once."""
REFRESH_SECONDS: Final = 1.0
"""The log's schemas are not read more often than this for topics that are not known yet."""

Gate = Callable[[LogReader, list[Fetched]], list[Fetched]]
"""Takes what was read, returns what may be shown now."""


class Tables:
    """The tables of topics, read from the log when a topic is met for the first time."""

    def __init__(self, log: Log, selects: Callable[[str], bool]) -> None:
        self._log = log
        self._selects = selects
        self._names: dict[str, str] = {}
        self._read_at = float("-inf")

    def name(self, topic: str) -> str | None:
        """``schema.table``; None as long as the log does not say."""
        if topic not in self._names and time.monotonic() - self._read_at >= REFRESH_SECONDS:
            self._names = {one.topic: f"{one.schema}.{one.table}" for one in self._log.schemas().values()}
            self._read_at = time.monotonic()
        return self._names.get(topic)

    def wanted(self, topic: str) -> bool:
        """Whether the topic's table is known and selected."""
        name = self.name(topic)
        return name is not None and self._selects(name)

    def partitions(self) -> list[TopicPartition]:
        """All that there are now, of tables that are not selected too: they may not be known yet."""
        return [
            TopicPartition(topic.name, number)
            for topic in self._log.topics().values()
            for number in range(topic.partitions)
        ]


def events(
    log: Log,
    tables: Tables,
    wanted: Filter,
    begin: Mapping[TopicPartition, int],
    gate: Gate,
    stopping: Callable[[], bool],
) -> Generator[Sequence[Event], None, None]:
    """What `wanted` lets through, from `begin` on; partitions that come into being later from their beginning."""

    def assigned(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        starts = log.start_offsets(partitions)
        return {place: max(start, begin.get(place, 0)) for place, start in starts.items()}

    yield []
    with closing(log.reader(None, tables.wanted, assigned, lambda _: None, READ_BYTES)) as reader:
        while not stopping():
            try:
                fetched = reader.poll(POLL_SECONDS)
            except GapError as error:
                raise CdcError(str(error.args[0]), hint="start `cdc tap` again: it begins with what is there") from None
            yield [event for part in gate(reader, fetched) for event in _passing(part, wanted, tables)]


def _passing(part: Fetched, wanted: Filter, tables: Tables) -> Iterator[Event]:
    table = tables.name(part.topic) or part.topic
    for record in part.records:
        header = unpack_header(record.header)
        if wanted.passes(header, record.key):
            place = Place(part.topic, part.partition, record.offset, record.timestamp)
            yield Event(table, header, record.key, record.value, place)


def everything(_: LogReader, fetched: list[Fetched]) -> list[Fetched]:
    """The gate at the log itself."""
    return fetched
