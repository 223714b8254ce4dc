"""What kinds of SQL servers do each in a way of their own; all else is said in SQLAlchemy's terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Connection, Select, Table, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import Executable
from sqlalchemy.types import TypeEngine

from schemas.types import LogicalType
from sinks._sql_staging import Changes
from sinks._sql_target import Target
from sinks._widening import TypeNames

DUPLICATES: Final = frozenset({"23505", "1007", "1062"})
"""What two workers are told that make the same table, schema or row at the same time: to one of them it is there."""


class Trouble(Enum):
    """What an error of the server means."""

    VALUE = auto()  # a row that no column can hold
    LATER = auto()  # passes by itself
    ACCESS = auto()  # credentials, or no such database
    MISSING = auto()  # a table is not there
    OTHER = auto()


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
    def connect_arguments(self, password: str | None, ca: Path | None, *, local: bool) -> dict[str, Any]:
        """What the driver needs to know besides address and user.

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

    def rename(self, schema: str, table: str, name: str) -> str:
        """The SQL that gives a table another name (all quoted)."""
        return f"ALTER TABLE {schema}.{table} RENAME TO {name}"

    @abstractmethod
    def legal(self, name: str) -> str:
        """`name` if the server takes it as a name, otherwise one like it with a hash."""

    def key(self, key: bytes) -> object:
        """A record key as the driver takes it."""
        return key

    @abstractmethod
    def fold(self, name: str) -> str:
        """Equal for names that the server does not tell apart."""

    @abstractmethod
    def stage(self, connection: Connection, changes: Changes, first: int) -> None:
        """Put deletes into :data:`INCOMING`, numbered from `first`."""

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
        """Write the rows that are newer than what `target` and the tombstones hold; into a history, those that are not
        there yet. `names`: stored by column; `first`: nothing has been staged from there on. Returns those that cannot
        be written.

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
    except server.errors as error:
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
