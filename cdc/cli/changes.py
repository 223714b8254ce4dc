"""What the next start changes about the tables, so that ``cdc validate --connect`` says it beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from cdc.config.patterns import selects
from cdc.config.pipeline import Pipeline
from cdc.findings import Finding, Severity
from cdc.log import Log, topic_name
from cdc.starts import started
from schemas.table import TableSchema

_ADDED = "tables.added"
_REMOVED = "tables.removed"


@dataclass(frozen=True)
class Stored:
    """What the log holds of a pipeline: the sources' positions, the tables, and the topics that each sink has begun."""

    positions: Mapping[str, bytes]
    tables: Collection[TableSchema]
    begun: Mapping[str, Collection[str]]

    @classmethod
    def on(cls, log: Log) -> Self:
        """Read it. Raises UnreachableError."""
        begun: dict[str, set[str]] = {}
        for sink, place in started(log):
            begun.setdefault(sink, set()).add(place.topic)
        return cls(log.positions(), log.schemas().values(), begun)


def source_changes(pipeline: Pipeline, name: str, stored: Stored) -> Iterator[Finding]:
    """Tables that a source takes up or gives up at its next start. Raises UnreachableError, PermanentError."""
    if name not in stored.positions:
        return  # its first start: everything is new
    changes = pipeline.connector(name).table_changes(stored.positions[name])
    names = {"pipeline": pipeline.name, "source": name}
    topics = {
        f"{table.schema}.{table.table}": table.topic
        for table in stored.tables
        if table.topic == topic_name(pipeline.log.topics.name, **names, schema=table.schema, table=table.table)
    }
    for table, read in changes.added.items():
        before = "; what is gone of its earlier rows is removed at the end of that" if table in topics else ""
        if read:
            yield Finding(_ADDED, Severity.OK, f"{table} will be captured, its rows are read first{before}")
        elif table in topics:
            message = f"{table} will be captured again, but what happened to it meanwhile will not (snapshot: never)"
            yield Finding(_ADDED, Severity.WARNING, message, f"cdc snapshot {table}")
        else:
            message = f"{table} will be captured from then on, its rows are not read (snapshot: never)"
            yield Finding(_ADDED, Severity.OK, message)
    for table in changes.removed:
        stores = [sink for sink, config in pipeline.sinks.items() if selects(config.tables, table)]
        left = [f"topic {topics[table]}"] if table in topics else []
        left += [f"its rows in {', '.join(stores)}"] if stores else []
        yield Finding(
            _REMOVED,
            Severity.WARNING,
            f"{table} will not be captured any more; what stays as it is: {' and '.join(left) or 'nothing'}",
            f"put it back under `tables` of {name}, and its rows are read again; or delete by hand what stays",
        )


def sink_changes(pipeline: Pipeline, name: str, stored: Stored) -> Iterator[Finding]:
    """Tables that a sink begins or ceases to receive at its next start."""
    begun = stored.begun.get(name, ())
    for topic, table in sorted({(table.topic, f"{table.schema}.{table.table}") for table in stored.tables}):
        wanted = selects(pipeline.sinks[name].tables, table)
        if wanted and begun and topic not in begun:
            yield Finding(_ADDED, Severity.OK, f"{table} will be delivered, from the beginning of topic {topic}")
        elif not wanted and topic in begun:
            message = f"{table} is delivered no more, its rows stay in the store as they are"
            yield Finding(_REMOVED, Severity.WARNING, message, "delete them by hand, or put it back under `tables`")
