"""The captured tables of a source, kept in step with their topics and with the stored position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from cdc.config.patterns import is_literal, selects
from cdc.errors import PermanentError
from cdc.event import SEQUENCE_BITS
from cdc.log import Log, TopicPartition, topic_name
from cdc.source.config import DatabaseConfig
from cdc.source.plan import TableIdentity, TableSnapshot, gap, refuse_changes

log = structlog.get_logger()


class Table(Protocol):
    """A captured table as its connector knows it."""

    @property
    def schema(self) -> str:
        """The schema's name."""

    @property
    def name(self) -> str:
        """The table's name in it."""

    @property
    def key(self) -> Sequence[str]:
        """The columns that make the record key."""


T = TypeVar("T", bound=Table)


class CatalogEntry(Protocol):
    """A table as the catalogue has it. `problem`: why it cannot be captured; `fix`: the SQL that mends it."""

    @property
    def full_name(self) -> str:
        """``schema.table``."""

    @property
    def problem(self) -> str:
        """Empty when it can be captured."""

    @property
    def fix(self) -> str:
        """See the class."""


E = TypeVar("E", bound=CatalogEntry)


def capturable(
    selected: Iterable[tuple[E, bool]],
    patterns: Collection[str],
    warn: Callable[[str, str], None],
    *,
    holder: str,
    unseen: str,
    hint: str,
) -> list[E]:
    """The tables that can be captured of those that `patterns` selected, each with whether it is a table at all.

    One that only a glob matches and that cannot be captured is left out, and `warn` is told what and how to mend it.
    Raises PermanentError for a table named literally that does not exist or cannot be captured, and when none is left:
    `holder` is what was looked through, `unseen` and `hint` say why a table may not have been seen there.
    """
    missing = {pattern for pattern in patterns if is_literal(pattern) and selects(patterns, pattern)}
    found: list[E] = []
    for table, ordinary in selected:
        name = table.full_name
        if not table.problem:
            found.append(table)
        elif name in missing:
            raise PermanentError(f"table {name} can't be captured: {table.problem}", hint=table.fix)
        elif ordinary:
            warn(f"table {name} is left out: {table.problem}", table.fix)
        missing.discard(name)
    for name in sorted(missing):
        raise PermanentError(f"table {name} does not exist {unseen}", hint=hint)
    if not found:
        raise PermanentError(f"no table of this {holder} can be captured", hint=f"see `tables` of the source; {hint}")
    return found


class SourceTables(ABC, Generic[T]):
    """Which tables are captured, and the topic of each. Changes nothing."""

    def __init__(self, config: DatabaseConfig, names: Mapping[str, str], topic_template: str, profile: str) -> None:
        """`names` fills the placeholders of `topic_template` other than schema and table."""
        self.config = config
        self._names = names
        self._template = topic_template
        self.profile = profile
        self.captured: dict[str, T] = {}
        """By ``schema.table``."""

    @abstractmethod
    def look(self) -> None:
        """Read from the database which tables are captured. Raises UnreachableError, PermanentError."""

    def topic(self, schema: str, table: str) -> str:
        """The topic of a table."""
        return topic_name(self._template, **self._names, schema=schema, table=table)

    def topics(self) -> dict[str, str]:
        """The topics of the captured tables, each with its table's name."""
        return {self.topic(table.schema, table.name): name for name, table in self.captured.items()}

    def refuse_shared_topics(self) -> None:
        """Characters that a topic's name may not have are replaced, which can make two names one."""
        owners: dict[str, str] = {}
        for name, table in self.captured.items():
            other = owners.setdefault(self.topic(table.schema, table.name), name)
            if other != name:
                raise PermanentError(
                    f"tables {other} and {name} would share the topic {self.topic(table.schema, table.name)}",
                    hint="capture them as two sources with {source} in log.topics.name, or rename one",
                )


class Topics:
    """The topics of captured tables on a log."""

    def __init__(self, log_: Log, tables: SourceTables[Any]) -> None:
        self._log = log_
        self._tables = tables

    def create(self) -> None:
        """Create those that do not exist."""
        self._log.create_topics(list(self._tables.topics()))

    def identities(self, published: Mapping[str, int]) -> dict[str, TableIdentity]:
        """What must not change beneath the captured tables; `published` by ``schema.table``."""
        known = self._log.topics()
        return {
            name: TableIdentity(
                known[topic].id,
                known[topic].partitions,
                self._tables.profile,
                list(self._tables.captured[name].key),
                published.get(name, 0),
            )
            for topic, name in self._tables.topics().items()
        }

    def reconciled(
        self,
        before: Mapping[str, TableIdentity],
        now: Mapping[str, TableIdentity],
        snapshots: Mapping[str, TableSnapshot],
        epoch: int,
        sequence: int,
        fence: Callable[[], str | None] = lambda: None,
    ) -> tuple[dict[str, TableSnapshot], int]:
        """The snapshots of a position with the tables that are captured `now`, and its next sequence number.

        New tables get a snapshot, those that are captured no more are forgotten. A table that was out of the source's
        log while it was being read, or is another one of that name, is read from its beginning. `fence` tells what a
        new table's snapshot must wait for. Raises PermanentError when the partitions of a topic, the profile or the
        key columns of its records changed, GapError when a topic was re-created or another table was out of the
        source's log meanwhile.
        """
        refuse_changes(before, now)
        for name in before.keys() - now.keys():
            log.warning("table is captured no more", table=name)
        added = [name for name in now if name not in before]
        for name, identity in now.items():
            if name not in before or before[name] == identity:
                continue
            if name in snapshots and replace(before[name], published=identity.published) == identity:
                log.warning("table is read from its beginning: it is another one now", table=name)
                added.append(name)
            else:
                raise gap(
                    f"the topic of {name} was deleted and created again, or got another name"
                    if before[name].topic_id != identity.topic_id
                    else f"table {name} was not in the publication for some time"
                )
        kept = {name: progress for name, progress in snapshots.items() if name in now}
        waited_for = fence() if added else None
        for name in added:
            if name in kept or self._tables.config.snapshot_mode(name) == "initial":
                kept[name], sequence = self.plan(name, epoch, sequence, waited_for)
        return kept, sequence

    def plan(self, name: str, epoch: int, sequence: int, fence: str | None = None) -> tuple[TableSnapshot, int]:
        """A snapshot of a table that begins now, and the next sequence number.

        Where the topic has records already, ghosts among them must go in the end: the number of that sweep is drawn
        here, the first after the position at which the snapshot begins.
        """
        table = self._tables.captured[name]
        topic = self._log.topics()[self._tables.topic(table.schema, table.name)]
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        if not any(self._log.end_offsets(partitions).values()):
            return TableSnapshot(None, fence=fence), sequence
        return TableSnapshot(epoch << SEQUENCE_BITS | sequence, fence=fence), sequence + 1

    def plan_all(self, epoch: int, *, always: bool) -> tuple[dict[str, TableSnapshot], int]:
        """Snapshots for a history that begins now, and its next sequence number; `always`: of every table, whatever
        ``snapshot.mode`` says."""
        plan: dict[str, TableSnapshot] = {}
        sequence = 1
        for name in self._tables.captured:
            if always or self._tables.config.snapshot_mode(name) == "initial":
                plan[name], sequence = self.plan(name, epoch, sequence)
        return plan, sequence
