"""What kinds of SQL servers do each in a way of their own; all else is said in SQLAlchemy's terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    delete,
    inspect,
    update,
)
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import ColumnElement, Executable, TableClause
from sqlalchemy.types import TypeEngine

from cdc.sink import Rejected, Row
from schemas.table import TableSchema
from schemas.types import LogicalType
from sinks._widening import TypeNames

KEY, VERSION, PARTITION, DELETED = "_cdc_key", "_cdc_version", "_cdc_partition", "_cdc_deleted"
OWN_COLUMNS: Final = (KEY, VERSION, PARTITION, DELETED)

MOST_KEY_BYTES: Final = 2000
"""Longer keys fit no index of PostgreSQL's or InnoDB's."""

KEY_TYPE: Final = Text(collation="C").with_variant(VARBINARY(MOST_KEY_BYTES), "mysql")

TABLE_OPTIONS: Final[Mapping[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

INCOMING: Final = Table(
    "_cdc_incoming",
    MetaData(),
    Column("number", Integer, nullable=False),
    Column("key", KEY_TYPE, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("after", Text),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)
"""Staged rows and deletes of the transaction, numbered; a session's own. `after` is used by PostgreSQL only."""


def is_newer(new: ColumnElement[int], held: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a version is written over the one that is held."""
    return new > held


def is_late(topic: str, tombstones: Table) -> ColumnElement[bool]:
    """Whether what is in :data:`INCOMING` comes too late after a delete."""
    held, new = tombstones.c, INCOMING.c
    return and_(held.topic == topic, held.key == new.key, held.version >= new.version)


class Trouble(Enum):
    """What an error of the server means."""

    VALUE = auto()  # a row that no column can hold
    LATER = auto()  # passes by itself
    ACCESS = auto()  # credentials, or no such database
    MISSING = auto()  # a table is not there
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Target:
    """A table as it is now: `columns` are the types of the source's columns by name; `soft`: it marks deletes."""

    clause: TableClause
    columns: Mapping[str, str]
    soft: bool

    def delete(self, connection: Connection, these: ColumnElement[bool]) -> None:
        """Delete rows that are older than `these` of the staged deletes."""
        held, new = self.clause.c, INCOMING.c
        older = and_(held[KEY] == new.key, is_newer(new.version, held[VERSION]), these)
        self._delete(connection, older, new.version)

    def sweep(self, connection: Connection, partition: int, floor: int) -> None:
        """Delete rows of a partition below `floor`."""
        held = self.clause.c
        below = and_(held[PARTITION] == partition, held[VERSION] < floor)
        self._delete(connection, and_(below, ~held[DELETED]) if self.soft else below, floor)

    def _delete(self, connection: Connection, these: ColumnElement[bool], version: ColumnElement[int] | int) -> None:
        if self.soft:
            held = self.clause.c
            connection.execute(update(self.clause).where(these).values({held[DELETED]: True, held[VERSION]: version}))
        else:
            connection.execute(delete(self.clause).where(these))


@dataclass(slots=True)
class Changes:
    """Rows of one schema that bring the same columns (`sent`), or deletes of one topic (no schema)."""

    topic: str
    schema: TableSchema | None = None
    sent: frozenset[str] | None = None
    """Names of the columns that the rows bring, None: all of them."""
    rows: list[Row] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)

    def staged_from(self, first: int) -> ColumnElement[bool]:
        """What of :data:`INCOMING` is these, if they were numbered from `first`."""
        return INCOMING.c.number.between(first, first + len(self.rows) - 1)

    def rejected(self, number: int, reason: str) -> Rejected:
        """The row with that number, rejected."""
        row = self.rows[number]
        return Rejected(self.topic, self.partitions[number], row.offset, row.key, reason)


Refused = tuple[int, str]
"""The number of a row in its :class:`Changes`, and why no column can hold it."""


class SqlServer(ABC):
    """One kind of server."""

    driver: ClassVar[str]
    """SQLAlchemy's name of dialect and driver."""
    errors: ClassVar[tuple[type[Exception], ...]] = (DBAPIError,)
    """What is raised when the server refuses something or is gone."""
    types: ClassVar[TypeNames]

    @abstractmethod
    def connect_arguments(self, ca: Path | None, *, local: bool) -> dict[str, Any]:
        """What the driver needs to know besides address and credentials.

        TLS is verified unless the server is on this machine (`local`), against `ca` if there is one.
        """

    @abstractmethod
    def column_type(self, type_: LogicalType) -> TypeEngine[Any]:
        """The column's type."""

    @abstractmethod
    def type_name(self, type_: TypeEngine[Any]) -> str:
        """What a type is called, as :meth:`columns` has it, too."""

    def comments(self, connection: Connection, schema: str) -> dict[str, str | None]:
        """The tables of a schema with their comments."""
        found = inspect(connection).get_multi_table_comment(schema=schema)
        return {name: comment["text"] for (_, name), comment in found.items()}

    def columns(self, connection: Connection, schema: str, table: str) -> dict[str, str]:
        """The columns of a table with their types."""
        found = inspect(connection).get_columns(table, schema=schema)
        return {column["name"]: self.type_name(column["type"]) for column in found}

    @abstractmethod
    def change_type(self, table: str, column: str, type_: str) -> str:
        """The SQL that gives a column (quoted, like the table) another type."""

    @abstractmethod
    def legal(self, name: str) -> str:
        """`name` if the server takes it as a name, otherwise one like it with a hash."""

    @abstractmethod
    def fold(self, name: str) -> str:
        """Equal for names that the server does not tell apart."""

    @abstractmethod
    def stage(self, connection: Connection, changes: Changes, first: int) -> Sequence[Refused]:
        """Put `changes` into :data:`INCOMING`, numbered from `first`; returns those that cannot be put there."""

    @abstractmethod
    def upsert(
        self,
        connection: Connection,
        target: Target,
        tombstones: Table,
        changes: Changes,
        names: Mapping[str, str],
        first: int,
    ) -> Sequence[Refused]:
        """Write the staged rows that are newer than what `target` and the tombstones hold. `names`: stored by column.

        Columns that the rows' schema does not have become null, those that a partial row does not bring stay.
        """

    @abstractmethod
    def remember(self, tombstones: Table, source: Select[Any]) -> Executable:
        """The statement that puts the rows of the SELECT `source` into `tombstones`, where they are newer."""

    @abstractmethod
    def trouble(self, error: BaseException) -> tuple[Trouble, str]:
        """What an error of SQLAlchemy's or the driver's means, and its code."""


def refused(
    connection: Connection, server: SqlServer, numbers: Sequence[int], attempt: Callable[[Sequence[int]], None]
) -> list[int]:
    """Make `attempt` on all of `numbers`, or on ever smaller parts of them; returns those that the server refuses."""
    if not numbers:
        return []
    try:
        with connection.begin_nested():
            attempt(numbers)
    except DBAPIError as error:
        if server.trouble(error)[0] is not Trouble.VALUE:
            raise
        if len(numbers) == 1:
            return list(numbers)
        middle = len(numbers) // 2
        return [
            number
            for part in (numbers[:middle], numbers[middle:])
            for number in refused(connection, server, part, attempt)
        ]
    return []
