"""What DDL means for the captured tables once all of a statement is done."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from connectors.mysql.statement import (
    Changed,
    Created,
    Dropped,
    Effect,
    Renamed,
    SchemaDropped,
    TableName,
    Truncated,
)


@dataclass
class Consequences:
    """Captured tables, ``schema.table``: `emptied` have lost all rows, `resync` are to be read again, of `changed` the
    definition may be another one."""

    emptied: list[str] = field(default_factory=list)
    resync: dict[str, str] = field(default_factory=dict)
    """With why."""
    changed: set[str] = field(default_factory=set)


def consequences(effects: Iterable[Effect], captured: Collection[str]) -> Consequences:
    """The consequences of `effects`, in their order.

    A table that another takes the place of in the same statement (as gh-ost and pt-online-schema-change do it) has not
    lost its rows: it is read again.
    """
    found = Consequences()
    gone: dict[str, None] = {}
    for effect in effects:
        match effect:
            case SchemaDropped(schema):
                gone |= dict.fromkeys(name for name in captured if name.partition(".")[0] == schema)
            case Renamed(table, to):
                gone[_name(table)] = None
                gone.pop(_name(to), None)
                found.resync[_name(to)] = f"{_name(table)} took its name"
                found.resync.pop(_name(table), None)
            case Dropped(table):
                gone[_name(table)] = None
                found.resync.pop(_name(table), None)
            case Truncated(table):
                found.emptied.append(_name(table))
            case Created(table):
                found.changed.add(_name(table))
            case Changed(table, rows, definition):
                if rows:
                    found.resync[_name(table)] = "DDL may have changed its rows"
                if rows or definition:
                    found.changed.add(_name(table))
    found.emptied += [name for name in gone if name not in found.emptied]
    return Consequences(
        [name for name in found.emptied if name in captured],
        {name: why for name, why in found.resync.items() if name in captured},
        {name for name in found.changed | found.resync.keys() | gone.keys() if name in captured},
    )


def _name(table: TableName) -> str:
    return f"{table.schema}.{table.table}"
