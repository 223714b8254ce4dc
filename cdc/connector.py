"""The connector contract: what the engine asks of a source database. It never looks inside a position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from cdc.capture import Item
from cdc.config.fields import Model
from cdc.findings import Finding as Finding
from cdc.findings import Severity as Severity
from cdc.log import Log, LogConfig
from cdc.worker import Control


class SourceConfig(Model):
    """What every source's configuration has; a connector's own model adds its fields."""

    type: str
    tables: Sequence[str] | Mapping[str, Any]
    """Patterns of ``schema.table`` to capture, ``!pattern`` leaves out; as a map from pattern to the table's options,
    whose type is the connector's own."""

    def disagreements(self, log: LogConfig) -> Iterable[tuple[str, str]]:  # noqa: ARG002 - for those that override it
        """Settings that do not go with the log's: each setting's key, and a sentence that says what to change."""
        return ()


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table, ``schema.table``. `problem`: why it cannot be captured; `fix`: the SQL that mends it."""

    name: str
    problem: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Outline:
    """What ``cdc init`` writes about a database.

    `settings` are those of the source that go with the grants, beside ``type``, ``url`` and ``tables``. `grants` is SQL
    for an administrator: the role, what it may do, and whatever else capturing the tables needs. `database` is the one
    that the role connects to, empty where a server takes it without.
    """

    tables: Sequence[FoundTable]
    settings: Mapping[str, Any]
    grants: str
    database: str = ""


class TableChanges(NamedTuple):
    """Tables, ``schema.table``, that a start takes up, each with whether its rows are read, and those it gives up."""

    added: Mapping[str, bool]
    removed: Sequence[str]


class Connector(ABC):
    """One source database. Creating it connects to nothing."""

    Config: ClassVar[type[SourceConfig]]

    schemes: ClassVar[Sequence[str]] = ()
    """Schemes of ``url`` by which ``cdc init`` knows this kind of database; without one it is not offered there."""

    @abstractmethod
    def __init__(self, name: str, config: SourceConfig, pipeline: str, topic_template: str, profile: str) -> None:
        """Take the configuration. `topic_template` as in ``log.topics.name``. Raises ConfigurationError."""

    def outline(self, role: str) -> Outline:
        """The tables that ``tables`` selects, and how `role` may come to capture them; changes nothing.

        For a connector that has `schemes`. Raises UnreachableError.
        """
        raise NotImplementedError

    @abstractmethod
    def preflight(self) -> list[Finding]:
        """Connect and look whether capture can work; changes nothing. Raises UnreachableError."""

    @abstractmethod
    def capture(self, log: Log, control: Control) -> None:
        """Capture until `control.stopping()`, or until caught up if so asked. See :mod:`cdc.capture`.

        Raises GapError, PermanentError, TransientError (the caller retries with a new call), FencedError.
        """

    @abstractmethod
    def tap(self, stopping: Callable[[], bool]) -> Generator[Sequence[Item], None, None]:
        """What the database sends from now on, as `capture` would append it, until `stopping()`: for ``cdc tap``.

        The first batch, an empty one, says that it has begun; from then on one comes at least every second, empty or
        not. A table's schema comes before its first record. Versions mean nothing, and columns that were not sent are
        left out. It has nothing to do with `capture`, which may run or not: no log, no position, and nothing in the
        database that outlives the generator or that the database waits for. Raises PermanentError, UnreachableError.
        """

    @abstractmethod
    def status(self, position: bytes | None) -> Mapping[str, Any]:
        """For ``cdc status``: ``position`` (printable), ``committed_at`` (seconds since 1970 of the last captured
        commit, or None), ``lag_bytes``, ``retained_bytes`` and ``warning`` as far as the database answers; otherwise
        ``error``. Never raises for a server that is down.
        """

    @abstractmethod
    def table_changes(self, position: bytes) -> TableChanges:
        """How the tables to capture, as configuration and database have them now, differ from those at `position`.

        Raises UnreachableError, and PermanentError where `capture` would.
        """

    @abstractmethod
    def row_schemas(self, position: bytes) -> Mapping[str, str]:
        """The id (hex) of the schema that the rows of each table, ``schema.table``, had last at `position`."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What ``cleanup`` would drop in the database, a sentence each. Raises UnreachableError."""

    @abstractmethod
    def cleanup(self) -> None:
        """Drop what :meth:`leftovers` lists, as far as we made it."""

    @abstractmethod
    def farewell(self) -> str:
        """What ``run`` says on leaving: what stays behind in the database and what it costs."""
