"""How rows get into a table of PostgreSQL: as lines of COPY into the session's table, and from there by one upsert.

So that the server reads each value once, the session's table has columns of the rows' types: of each type as many as
any row so far had. It is one table whatever comes, for the server empties all there are after each transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy import Connection, Table, bindparam, case, cast, false, literal_column, null, select
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateTable, DropTable
from sqlalchemy.sql.expression import ColumnElement

from cdc.errors import DecodeError
from schemas.types import LogicalType
from sinks._sql_copy import NULL, line_of
from sinks._sql_server import Refused, SqlServer, refused
from sinks._sql_staging import INCOMING, Changes, is_late, is_newer, moment
from sinks._sql_target import Target
from sinks._warehouse import AT, DELETED, KEY, PARTITION, VALID_FROM, VALID_TO, VERSION, Kept

ROWS_TOGETHER: Final = 2000
"""So many rows are one statement; while the server is at it, the next ones are made ready."""

_NO_ROW: Final = "it is no row of its table"
_DIALECT: Final = PGDialect_psycopg()  # type: ignore[no-untyped-call]


def cursor_of(connection: Connection) -> psycopg.Cursor[Any]:
    """A cursor of the driver, for what SQLAlchemy does not do."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.cursor()


class Rows:
    """The rows of `changes` on their way to `target`. In the session's table they are numbered from `first` on."""

    def __init__(
        self,
        server: SqlServer,
        connection: Connection,
        target: Target,
        tombstones: Table,
        changes: Changes,
        names: Mapping[str, str],
        first: int,
    ) -> None:
        schema = changes.schema
        assert schema is not None
        self.unfit: list[Refused] = []
        self._server = server
        self._connection = connection
        self._changes = changes
        self._first = first
        self._history = target.kept.history
        self._columns = [one for one in schema.columns if changes.sent is None or one.name in changes.sent]
        self._statements = _statements(
            server,
            target,
            changes.topic,
            tombstones if changes.late else None,
            tuple(one.type for one in self._columns),
            tuple(names[one.name] for one in self._columns),
            frozenset(target.columns.keys() - names.values()),
        )
        self._values = line_of(schema, self._columns)
        self._lines: dict[int, bytes] = {}
        self._made = 0

    def write(self) -> None:
        """Write the rows, but those that turn out to be `unfit`."""
        for start in range(0, len(self._changes.rows), ROWS_TOGETHER):
            self._make(start + ROWS_TOGETHER)
            numbers = list(self._lines)[:ROWS_TOGETHER]
            for number in self._refused(numbers):
                self.unfit.append((number, self._reason(number)))
            for number in numbers:
                del self._lines[number]

    def _refused(self, numbers: Sequence[int]) -> list[int]:
        try:
            return refused(self._connection, self._server, numbers, self._attempt)
        except psycopg.errors.TooManyColumns:  # so many kinds of rows have come: the session's table starts over
            self._connection.execute(DropTable(INCOMING))
            self._connection.execute(CreateTable(INCOMING))
            return refused(self._connection, self._server, numbers, self._attempt)

    def _make(self, until: int) -> None:
        """Make the lines of the rows up to number `until`."""
        changes, values, lines = self._changes, self._values, self._lines
        made, self._made = self._made, max(self._made, until)
        times = b""
        for number, row in enumerate(changes.rows[made:until], made):
            assert row.after is not None, "it is no delete"
            if self._history:
                times = self._times(number)
            key = row.key.replace(b"\\", b"\\\\")  # JSON has nothing else that COPY would take for something else
            own = self._first + number, key, row.version, changes.partitions[number], times
            try:
                lines[number] = b"%d\t%b\t%d\t%d\t%b%b\n" % (*own, values(row.after))
            except (DecodeError, UnicodeError):
                self.unfit.append((number, _NO_ROW))

    def _times(self, number: int) -> bytes:
        """Since when a row of a history is current, and until when."""
        times = moment(self._changes.rows[number].at), moment(self._changes.until.get(number))
        return b"".join(b"%b\t" % (NULL if time is None else time.isoformat().encode()) for time in times)

    def _attempt(self, numbers: Sequence[int]) -> None:
        own = ["number", "key", "version", "partition", *(("since", "until") if self._history else ())]
        self._copy([*own, *self._statements.columns], b"".join([self._lines[number] for number in numbers]))
        between = {"first": self._first + numbers[0], "last": self._first + numbers[-1]}
        with cursor_of(self._connection) as cursor, cursor.connection.pipeline():
            cursor.execute(self._statements.upsert, {**self._statements.parameters, **between})
            self._make(numbers[-1] + 1 + ROWS_TOGETHER)

    def _reason(self, number: int) -> str:
        """Why a row is refused: the first column whose value the server does not take alone."""
        schema, after = self._changes.schema, self._changes.rows[number].after
        assert schema is not None
        assert after is not None
        for place, one in enumerate(self._columns):
            try:
                value = line_of(schema, [one])(after)
            except (DecodeError, UnicodeError):
                return _NO_ROW

            def alone(_: Sequence[int], place: int = place, value: bytes = value) -> None:
                self._copy(["number", self._statements.columns[place]], b"%d\t%b\n" % (self._first + number, value))
                query = select(self._statements.values[place]).where(INCOMING.c.number == self._first + number)
                self._connection.execute(query).close()

            if refused(self._connection, self._server, [number], alone):
                type_ = self._server.type_name(self._server.column_type(one.type))
                return f"column {one.name!r} has a value that PostgreSQL's type {type_} cannot hold"
        return "the table refuses it: a constraint or trigger of yours, or a row too large"

    def _copy(self, columns: Sequence[str], lines: bytes) -> None:
        with cursor_of(self._connection) as cursor:
            cursor.execute(self._statements.provide)
            with cursor.copy(f"COPY {INCOMING.name} ({', '.join(columns)}) FROM STDIN") as copy:
                copy.write(lines)


class _Statements(NamedTuple):
    """For rows of one shape and one target."""

    columns: list[str]
    """Of the session's table, those that take the values; quoted."""
    provide: str
    """Sees to it that they are there."""
    values: list[ColumnElement[Any]]
    """What is in them, as the target has it."""
    upsert: str
    parameters: Mapping[str, Any]


@lru_cache(1024)
def _statements(
    server: SqlServer,
    target: Target,
    topic: str,
    tombstones: Table | None,
    types: tuple[LogicalType, ...],
    stored: tuple[str, ...],
    foreign: frozenset[str],
) -> _Statements:
    """`stored` are the target's columns of these types, `foreign` those that the rows' schema does not know. Rows may
    come after a delete that is among the `tombstones`, if there are any.
    """
    columns, added, values = [], [], []
    had: Counter[str] = Counter()
    for type_ in types:
        wanted, unsized = server.column_type(type_), server.column_type(_unsized(type_))
        kind = server.type_name(unsized)
        name = f'"{kind} {had[kind]}"'
        had[kind] += 1
        columns.append(name)
        added.append(f"ADD COLUMN IF NOT EXISTS {name} {kind}")
        taken: ColumnElement[Any] = literal_column(name, unsized)
        values.append(taken if server.type_name(wanted) == kind else cast(taken, wanted))
    late = false() if tombstones is None else is_late(topic, tombstones)
    upsert = _upsert(target, values, stored, foreign, late).compile(dialect=_DIALECT)
    return _Statements(columns, f"ALTER TABLE {INCOMING.name} {', '.join(added)}", values, upsert.string, upsert.params)


def _unsized(type_: LogicalType) -> LogicalType:
    """Of a family of types, the one that holds all values."""
    element = None if type_.element is None else _unsized(type_.element)
    return replace(type_, precision=None, scale=None, element=element)


def _upsert(
    target: Target,
    values: Sequence[ColumnElement[Any]],
    stored: Sequence[str],
    foreign: frozenset[str],
    late: ColumnElement[bool],
) -> pg.Insert:
    new = INCOMING.c
    own = {KEY: new.key, VERSION: new.version, PARTITION: new.partition}
    if target.kept is Kept.APPEND:
        own[AT] = new.since
    elif target.kept is Kept.SCD2:
        own |= {VALID_FROM: new.since, VALID_TO: new.until}
    source = select(*values, *own.values()).where(new.number.between(bindparam("first"), bindparam("last")))
    if target.kept.history:
        return pg.insert(target.clause).from_select([*stored, *own], source).on_conflict_do_nothing()
    statement = pg.insert(target.clause).from_select([*stored, *own], source.where(~late))
    held, excluded = target.clause.c, statement.excluded
    updates: dict[str, Any] = {name: excluded[name] for name in (*stored, VERSION, PARTITION)}
    updates |= dict.fromkeys(foreign, null())
    if target.kept is Kept.SOFT:
        for name in target.columns.keys() - updates.keys():  # what a deleted row had is not the new row's
            updates[name] = case((held[DELETED], null()), else_=held[name])
        updates[DELETED] = false()
    return statement.on_conflict_do_update(
        index_elements=[KEY], set_=updates, where=is_newer(excluded[VERSION], held[VERSION])
    )
