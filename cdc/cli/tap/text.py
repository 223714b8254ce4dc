"""How an event is written: one line of JSON, or what it changed for people to read."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from cdc.cli.tap.event import MARKERS, Event, Place
from cdc.event import epoch_of, sequence_of


def as_json(event: Event) -> str:
    """One line. What an event has only on the log is null before: version, place and time of the append."""
    marker = event.header.operation in MARKERS
    on_log: dict[str, Any] = dict.fromkeys(_ON_LOG)
    if event.place is not None:
        version = event.header.version
        on_log = {"epoch": epoch_of(version), "sequence": sequence_of(version), **event.place._asdict()}
    document = {
        "table": event.table,
        "op": event.header.operation.decode(),
        "key": None if marker else msgspec.Raw(event.key),
        **on_log,
        "value": None if marker or not event.value else msgspec.Raw(event.value),
    }
    return msgspec.json.encode(document).decode()


def as_diff(event: Event) -> str:
    """One line for the event, one for each column that it changed. The clock is the append's, otherwise it is now."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.place.timestamp / 1000 if event.place else None))
    operation = event.header.operation.decode()
    if event.header.operation in MARKERS:
        where = f" (partition {event.place.partition})" if event.place else ""
        return f"{clock} {operation} {event.table}{where}"
    envelope: dict[str, Any] = msgspec.json.decode(event.value) if event.value else {}
    before, after = envelope.get("before") or {}, envelope.get("after") or {}
    unchanged = envelope.get("source", {}).get("unchanged", ())
    lines = [f"{clock} {operation} {event.table} {event.key.decode()}"]
    for column in dict.fromkeys([*before, *after]):
        old, new = before.get(column, _ABSENT), after.get(column, _ABSENT)
        if old == new or column in unchanged or (operation == "u" and new is _ABSENT):
            continue
        if old is _ABSENT:
            lines.append(f"    + {column}: {_shown(new)}")
        elif new is _ABSENT:
            lines.append(f"    - {column}: {_shown(old)}")
        else:
            lines.append(f"    ~ {column}: {_shown(old)} -> {_shown(new)}")
    return "\n".join(lines)


FORMATS: Final = {"json": as_json, "diff": as_diff}

_ON_LOG: Final = ("epoch", "sequence", *Place._fields)
_ABSENT: Final = object()


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
