"""What the statements in a binlog mean for tables, as frozen classes; :mod:`connectors.mysql.statements` reads them.

Names are as they are written: with ``lower_case_table_names`` the tables' own may differ from them in case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Union

from connectors.mysql.events import XaId


class TableName(NamedTuple):
    """Where a table is."""

    schema: str
    table: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """All rows are gone."""

    table: TableName


@dataclass(frozen=True, slots=True)
class Dropped:
    """The table is gone, if there was one."""

    table: TableName


@dataclass(frozen=True, slots=True)
class SchemaDropped:
    """All tables of a schema are gone."""

    schema: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """The table is found elsewhere from now on."""

    table: TableName
    to: TableName


@dataclass(frozen=True, slots=True)
class Created:
    """There is such a table now; it may have been there before (IF NOT EXISTS). It is empty, or its rows follow as
    events, unless a ``Changed`` says otherwise."""

    table: TableName


@dataclass(frozen=True, slots=True)
class Changed:
    """`rows`: they may differ from what events said of them, so they must be read again. `definition`: columns or
    unique keys may be others."""

    table: TableName
    rows: bool
    definition: bool


Effect = Union[Truncated, Dropped, SchemaDropped, Renamed, Created, Changed]  # noqa: UP007 - evaluated at run time


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction is committed."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """The transaction is rolled back: MariaDB has its rows in the binlog all the same where a table without
    transactions (a temporary one too) was changed as well."""


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A savepoint is set; an older one of that name, in whatever case, is forgotten."""

    name: str


@dataclass(frozen=True, slots=True)
class RollbackTo:
    """What the transaction did after the savepoint is undone. In MariaDB's binlog the rows of it may stand before this
    statement (see ``Rollback``); MySQL takes them out."""

    name: str


@dataclass(frozen=True, slots=True)
class Xa:
    """START (or BEGIN), END, PREPARE, COMMIT or ROLLBACK of an XA transaction."""

    command: str
    xa: XaId


@dataclass(frozen=True, slots=True)
class RowsWithoutEvents:
    """Rows of some table are changed by the statement itself, and no events tell which: not of ROW format. `kind` is
    its first word."""

    kind: str


@dataclass(frozen=True, slots=True)
class Ddl:
    """What becomes of tables, in this order."""

    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class Harmless:
    """No rows and no definition of a table that can be captured are touched."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Anything may have happened, to any table."""


Statement = Union[  # noqa: UP007 - evaluated at run time
    Begin, Commit, Rollback, Savepoint, RollbackTo, Xa, RowsWithoutEvents, Ddl, Harmless, Unknown
]
