"""The events as the database sends them, before they are on the log.

A database must not wait for whoever watches it: a thread reads on whatever becomes of the events, and what has not
been taken when the buffer is full is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Final

from cdc.capture import Item, Marker
from cdc.cli.tap.event import Event, Filter
from cdc.cli.tap.remarks import Remarks
from cdc.connector import Connector
from cdc.record import unpack_header
from schemas.table import TableSchema

TAKE_SECONDS: Final = 0.25
END_SECONDS: Final = 5.0
"""How long the end waits for the database to be let go."""
BUFFER_BYTES: Final = 8 << 20
EVENT_BYTES: Final = 500
"""What an event costs in memory beside its bytes."""
WAITING: Final = "the database begins as soon as the transactions that run now have ended"


class Buffer:
    """Events between one thread that must not wait and one that may."""

    def __init__(self, remarks: Remarks) -> None:
        self._remarks = remarks
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._bytes = 0
        self._ended = False
        self._error: Exception | None = None
        self.begun = False
        """Whether `put` was called, with events or without."""

    def put(self, events: Sequence[Event]) -> None:
        """Add what there is room for."""
        with self._changed:
            self.begun = True
            for event in events:
                if self._bytes >= BUFFER_BYTES:
                    self._remarks.dropped += 1
                    continue
                self._events.append(event)
                self._bytes += EVENT_BYTES + len(event.key) + len(event.value or b"")
            self._changed.notify()

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()

    def take(self) -> Sequence[Event] | None:
        """All there is, waiting a moment for the first of it; None after the end. Raises the error that ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended, TAKE_SECONDS)
            if not self._events and self._error is not None:
                raise self._error
            if not self._events and self._ended:
                return None
            taken, self._events, self._bytes = self._events, [], 0
            return taken


def events(
    connector: Connector, wanted: Filter, remarks: Remarks, stopping: Callable[[], bool]
) -> Generator[Sequence[Event], None, None]:
    """What `wanted` lets through, from now on."""
    buffer = Buffer(remarks)
    enough = threading.Event()

    def read() -> None:
        error: Exception | None = None
        try:
            passing = _Passing(wanted)
            with closing(connector.tap(enough.is_set)) as batches:
                for items in batches:
                    buffer.put(passing(items))
        except Exception as raised:  # noqa: BLE001 - raised again by `take`
            error = raised
        buffer.end(error)

    thread = threading.Thread(target=read, name="source", daemon=True)
    thread.start()
    try:
        while not stopping() and (taken := buffer.take()) is not None:
            remarks.waiting = "" if buffer.begun else WAITING
            if buffer.begun:
                yield taken
    finally:
        enough.set()
        thread.join(END_SECONDS)


class _Passing:
    """Picks the events to show from what a source sends."""

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._tables: dict[str, str] = {}

    def __call__(self, items: Sequence[Item]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if isinstance(item, TableSchema):
                name = f"{item.schema}.{item.table}"
                if self._wanted.selects(name):
                    self._tables[item.topic] = name
            elif isinstance(item, Marker):
                events += self._event(item.topic, item.header, item.key, None)
            elif isinstance(item, list):
                for record in item:
                    events += self._event(record.topic, record.header, record.key, record.value)
        return events

    def _event(self, topic: str, header: bytes, key: bytes, value: bytes | None) -> Iterator[Event]:
        table, decoded = self._tables.get(topic), unpack_header(header)
        if table is not None and self._wanted.passes(decoded, key):
            yield Event(table, decoded, key, value)
