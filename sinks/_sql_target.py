"""A table of an SQL database that takes rows of a source's table: what becomes there of deletes, markers, partial rows.

See :mod:`sinks._warehouse` for what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.sql.expression import ColumnElement, FromClause, TableClause

from cdc.sink import Batch, Row
from sinks._sql_staging import INCOMING, KEY_TYPE, TIME_TYPE, is_newer, moment
from sinks._warehouse import AT, DELETED, KEY, PARTITION, VALID_FROM, VALID_TO, VERSION, Kept


def own_columns(kept: Kept) -> list[Column[Any]]:
    """The columns of ours that a table has besides the source's."""
    columns: list[Column[Any]] = [
        Column(KEY, KEY_TYPE, primary_key=True),
        Column(VERSION, BigInteger, nullable=False, primary_key=kept.history, autoincrement=False),
        Column(PARTITION, Integer, nullable=False),
    ]
    if kept in (Kept.SOFT, Kept.APPEND):
        columns.append(Column(DELETED, Boolean(create_constraint=False), nullable=False, server_default=false()))
    if kept is Kept.APPEND:
        columns.append(Column(AT, TIME_TYPE, nullable=False))
    if kept is Kept.SCD2:
        columns += [Column(VALID_FROM, TIME_TYPE, nullable=False), Column(VALID_TO, TIME_TYPE)]
    return columns


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A table as it is now; `columns` are the types of the source's columns by name."""

    clause: TableClause
    columns: Mapping[str, str]
    kept: Kept

    def delete(self, connection: Connection, these: ColumnElement[bool]) -> None:
        """Delete what is older than `these` of the staged deletes, or what else a delete is here."""
        held, new = self.clause.c, INCOMING.c
        if self.kept is Kept.APPEND:
            last = self.clause.alias("last")
            before = and_(last.c[KEY] == new.key, last.c[VERSION] < new.version, ~self._between(last, new.version))
            same = self.clause.alias("same")
            known = exists().where(same.c[KEY] == new.key, same.c[VERSION] == new.version).correlate(INCOMING)
            self._repeat(
                connection,
                last,
                [new.key, new.version, new.partition, new.since],
                INCOMING.outerjoin(last, before),
                and_(these, ~known),
            )
            return
        older = and_(held[KEY] == new.key, is_newer(new.version, held[VERSION]), these)
        match self.kept:
            case Kept.HARD:
                connection.execute(delete(self.clause).where(older))
            case Kept.SOFT:
                marked = update(self.clause).where(older).values({held[DELETED]: true(), held[VERSION]: new.version})
                connection.execute(marked)
            case Kept.SCD2:
                ended = update(self.clause).where(older, held[VALID_TO].is_(None)).values({held[VALID_TO]: new.since})
                connection.execute(ended)

    def sweep(self, connection: Connection, batch: Batch) -> None:
        """Delete what lies below the floor of `batch`, in its partition."""
        held, at = self.clause.c, moment(batch.at)
        below = and_(held[PARTITION] == batch.partition, held[VERSION] < batch.floor)
        match self.kept:
            case Kept.HARD:
                connection.execute(delete(self.clause).where(below))
            case Kept.SOFT:
                marked = {held[DELETED]: true(), held[VERSION]: batch.floor}
                connection.execute(update(self.clause).where(below, ~held[DELETED]).values(marked))
            case Kept.SCD2:
                ended = update(self.clause).where(below, held[VALID_TO].is_(None)).values({held[VALID_TO]: at})
                connection.execute(ended)
            case Kept.APPEND:
                last = self.clause.alias("last")
                live = and_(
                    last.c[PARTITION] == batch.partition,
                    last.c[VERSION] < batch.floor,
                    ~last.c[DELETED],
                    ~self._between(last, None),
                )
                own = [last.c[KEY], literal(batch.floor), last.c[PARTITION], literal(at, TIME_TYPE)]
                self._repeat(connection, last, own, last, live)

    def complete(self, connection: Connection, row: Row, key: object, missing: Sequence[str]) -> None:
        """Give a partial row of a history the columns that it did not bring, from the row that was current before."""
        held, last = self.clause.c, self.clause.alias("last")
        older = and_(last.c[KEY] == key, last.c[VERSION] < row.version)
        if self.kept is Kept.SCD2:
            older = and_(older, last.c[VALID_TO].is_(None))
        before = connection.scalar(select(func.max(last.c[VERSION])).where(older))
        if before is not None and missing:
            live = ~last.c[DELETED] if self.kept is Kept.APPEND else true()
            connection.execute(
                update(self.clause)
                .where(held[KEY] == key, held[VERSION] == row.version)
                .where(last.c[KEY] == held[KEY], last.c[VERSION] == before, live)
                .values({held[name]: last.c[name] for name in missing})
            )

    def _between(self, last: FromClause, version: ColumnElement[int] | None) -> ColumnElement[bool]:
        """Whether there is a row of the same key as `last` that is newer, and older than `version` if there is one."""
        newer = self.clause.alias("newer")
        found = and_(newer.c[KEY] == last.c[KEY], newer.c[VERSION] > last.c[VERSION])
        if version is None:
            return exists().where(found).correlate(last)
        return exists().where(found, newer.c[VERSION] < version).correlate(last, INCOMING)

    def _repeat(
        self,
        connection: Connection,
        last: FromClause,
        own: Sequence[ColumnElement[Any]],
        source: FromClause,
        these: ColumnElement[bool],
    ) -> None:
        """Append rows of `last` as deletes; `own` are their key, version, partition and time."""
        names = [*self.columns, KEY, VERSION, PARTITION, AT, DELETED]
        values = [last.c[name] for name in self.columns]
        repeated = select(*values, *own, true()).select_from(source).where(these)
        connection.execute(insert(self.clause).from_select(names, repeated))
