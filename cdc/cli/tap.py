"""``cdc tap``: the events on the log as they pass."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cdc.cli.session import Session
from cdc.config.patterns import selects
from cdc.errors import ConfigurationError
from cdc.event import epoch_of, sequence_of
from cdc.log import Fetched, Log, Record, TopicPartition
from cdc.record import TOMBSTONE, Header, key_columns, unpack_header
from cdc.role import stop_on_signals
from schemas.table import TableSchema

POLL_SECONDS: Final = 0.25
OPERATIONS: Final = "cudrtsm"
_MARKERS: Final = b"ts"


@dataclass(frozen=True)
class Filter:
    """Which events to show; empty means all. `key` holds the columns that must be equal, as text."""

    tables: Sequence[str]
    operations: frozenset[str]
    key: Mapping[str, str] | str | None

    @classmethod
    def of(cls, tables: Sequence[str], operations: Sequence[str], key: str | None) -> Filter:
        """From the options as they were typed. Raises ConfigurationError."""
        letters = frozenset("".join(operations).replace(",", ""))
        if unknown := letters - set(OPERATIONS):
            raise ConfigurationError(
                f"unknown operation {''.join(sorted(unknown))}", hint=f"the letters are {' '.join(OPERATIONS)}"
            )
        return cls(tables, letters, None if key is None else _key(key))

    def passes(self, table: str, header: Header, key: bytes) -> bool:
        """Whether an event of `table` is to be shown."""
        if self.operations and header.operation.decode() not in self.operations:
            return False
        if self.tables and not selects(self.tables, table):
            return False
        if self.key is None:
            return True
        if header.operation in _MARKERS:
            return False
        columns = {name: _text(value) for name, value in key_columns(key).items()}
        if isinstance(self.key, str):
            return list(columns.values()) == [self.key]
        return columns == self.key


def tap(session: Session, wanted: Filter, limit: int | None, format_: str, start: str) -> None:
    """Print events until `limit` of them were shown, or a signal comes."""
    if format_ not in ("json", "diff") or start not in ("beginning", "end"):
        raise ConfigurationError(
            "--format is json or diff, --from is beginning or end", hint="see `cdc tap --help` for an example"
        )
    stop = threading.Event()
    stop_on_signals(stop.set)
    pipeline = session.pipeline()
    write = _json if format_ == "json" else _diff
    shown = 0
    with session.log(pipeline) as log:
        session.say(f"tapping {pipeline.name} from the {start}; Ctrl-C ends")
        for event in _events(log, wanted, start, stop):
            sys.stdout.write(write(event) + "\n")
            shown += 1
            if shown == limit:
                break
    sys.stdout.flush()
    session.say(f"{shown} event(s)")


@dataclass(frozen=True, slots=True)
class Tapped:
    """One event with its place on the log."""

    table: str
    place: TopicPartition
    record: Record
    header: Header


def _events(log: Log, wanted: Filter, start: str, stop: threading.Event) -> Iterator[Tapped]:
    tables = _Tables(log)
    known = set(log.topics())

    def assigned(partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """From the end, but a topic that came into being since has only events that happened since."""
        old = [place for place in partitions if start == "end" and place.topic in known]
        new = [place for place in partitions if place not in set(old)]
        return {**log.end_offsets(old), **log.start_offsets(new)}

    with closing(log.reader(None, lambda _: True, assigned, lambda _: None)) as reader:
        while not stop.is_set():
            for fetched in reader.poll(POLL_SECONDS):
                yield from _passing(fetched, wanted, tables)
            sys.stdout.flush()


def _passing(fetched: Fetched, wanted: Filter, tables: _Tables) -> Iterator[Tapped]:
    place = TopicPartition(fetched.topic, fetched.partition)
    for record in fetched.records:
        header = unpack_header(record.header)
        if header.flags & TOMBSTONE:
            continue  # its delete was shown
        table = tables.name(fetched.topic, header.schema_id)
        if wanted.passes(table, header, record.key):
            yield Tapped(table, place, record, header)


class _Tables:
    """Names of tables by schema id, read from the log when an id is met for the first time."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._schemas: Mapping[bytes, TableSchema] = {}
        self._by_topic: dict[str, str] = {}

    def name(self, topic: str, schema_id: bytes) -> str:
        if schema_id not in self._schemas and topic not in self._by_topic:
            self._schemas = self._log.schemas()
            self._by_topic = {one.topic: f"{one.schema}.{one.table}" for one in self._schemas.values()}
        return self._by_topic.get(topic, topic)


def _json(event: Tapped) -> str:
    marker = event.header.operation in _MARKERS
    document = {
        "table": event.table,
        "op": event.header.operation.decode(),
        "key": None if marker else msgspec.Raw(event.record.key),
        "epoch": epoch_of(event.header.version),
        "sequence": sequence_of(event.header.version),
        "topic": event.place.topic,
        "partition": event.place.partition,
        "offset": event.record.offset,
        "timestamp": event.record.timestamp,
        "value": None if marker or not event.record.value else msgspec.Raw(event.record.value),
    }
    return msgspec.json.encode(document).decode()


def _diff(event: Tapped) -> str:
    """One line for the event, one for each column that it changed."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.record.timestamp / 1000))
    operation = event.header.operation.decode()
    if event.header.operation in _MARKERS:
        return f"{clock} {operation} {event.table} (partition {event.place.partition})"
    envelope: dict[str, Any] = msgspec.json.decode(event.record.value) if event.record.value else {}
    before, after = envelope.get("before") or {}, envelope.get("after") or {}
    lines = [f"{clock} {operation} {event.table} {event.record.key.decode()}"]
    for column in dict.fromkeys([*before, *after]):
        old, new = before.get(column, _ABSENT), after.get(column, _ABSENT)
        if old == new or (operation == "u" and new is _ABSENT):
            continue
        if old is _ABSENT:
            lines.append(f"    + {column}: {_shown(new)}")
        elif new is _ABSENT:
            lines.append(f"    - {column}: {_shown(old)}")
        else:
            lines.append(f"    ~ {column}: {_shown(old)} -> {_shown(new)}")
    return "\n".join(lines)


_ABSENT: Final = object()


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(value: object) -> str:
    return value if isinstance(value, str) else _shown(value)


def _key(text: str) -> Mapping[str, str] | str:
    """``{"id":42}``, ``id=42,line=1``, or the value of a key of one column."""
    if text.startswith("{"):
        try:
            return {name: _text(value) for name, value in key_columns(text.encode()).items()}
        except Exception as error:
            raise ConfigurationError("--key is not a JSON object", hint="for example --key '{\"id\":42}'") from error
    if "=" in text:
        return dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return text
