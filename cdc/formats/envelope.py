"""The envelope around a row: Debezium's, byte by byte, and the plain way to a finished record.

    {"before":…,"after":…,"source":{…},"transaction":null,"op":"c","ts_ms":…,"ts_us":…,"ts_ns":…}

What is the same for all rows of a transaction is formatted once (:class:`TransactionParts`), what is the same for all
rows of a table is part of the generated code. :func:`plain_records` makes the same records from canonical values: the
oracle of the generated path, and the way of rows that need a closer look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cdc import __version__
from cdc.errors import DecodeError
from cdc.event import UNCHANGED, Operation, Value
from cdc.formats import debezium
from cdc.formats.json import dumps, key_value, render, render_key
from cdc.log import Produced
from cdc.record import KEY_CHANGE, LAYOUT, PARTIAL, TOMBSTONE, pack_header
from schemas.table import Column, TableSchema

BEFORE: Final = b'{"before":'
AFTER: Final = b',"after":'


class TransactionParts(NamedTuple):
    """The parts of the envelope that are the same for all rows of one transaction, in their order.

    Between `head` and `middle` stands the row's LSN, between `middle` and `ids` the table, and after `ids` the LSN
    again. Rows read by a snapshot have no LSN: there `middle` is empty and `ids` complete.
    """

    head: bytes
    middle: bytes
    ids: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """What one kind of database has in its ``source`` block that others have not."""

    schema: str = "schema"
    """The member that names the table's schema."""
    sequence: bool = True
    """Whether the row's place also stands in ``sequence``, between `head` and `middle`."""
    place: bytes = b"%b"
    """The template of the row's place in generated code."""
    end: bytes = b',"xmin":null'
    """Members after the row's place."""


POSTGRESQL: Final = SourceBlock()


class Envelope:
    """What the ``source`` block says of one source: `connector` (``postgresql``), its `name`, its `database`."""

    def __init__(self, connector: str, name: str, database: str) -> None:
        source = (dumps(__version__), dumps(connector), dumps(name))
        self._begin = b'"source":{"version":%b,"connector":%b,"name":%b,"ts_ms":' % source
        database_part = b',"db":%b,"sequence":"' % dumps(database)
        self._streamed = b',"snapshot":"false"' + database_part
        self._read = b',"snapshot":"incremental"' + database_part + b'[null,null]",'

    def transaction(self, xid: int, commit_time: int, last_commit_lsn: int | None, now: int) -> TransactionParts:
        """The parts for a streamed transaction.

        `commit_time` is µs, `now` (when we process it) ns since 1970; `last_commit_lsn` is that of the transaction
        before it, None if there was none.
        """
        last = b"null" if last_commit_lsn is None else b'\\"%d\\"' % last_commit_lsn
        return TransactionParts(
            b'%b%d%b[%b,\\"' % (self._begin, commit_time // 1000, self._streamed, last),
            b'\\"]","ts_us":%d,"ts_ns":%d,' % (commit_time, commit_time * 1000),
            b'"txId":%d,"lsn":' % xid,
            processed(now),
        )

    def reading(self, read_time: int, now: int) -> TransactionParts:
        """The parts for rows that a snapshot read at `read_time` (µs since 1970)."""
        times = b'"ts_us":%d,"ts_ns":%d,' % (read_time, read_time * 1000)
        head = b"%b%d%b%b" % (self._begin, read_time // 1000, self._read, times)
        return TransactionParts(head, b"", b'"txId":null,"lsn":null', processed(now))


def processed(now: int) -> bytes:
    """The end of the envelope: `now` is ns since 1970."""
    return b'"ts_ms":%d,"ts_us":%d,"ts_ns":%d}' % (now // 1_000_000, now // 1000, now)


def table_part(schema: TableSchema, block: SourceBlock) -> bytes:
    """The part of ``source`` that names the table."""
    return b'%b:%b,"table":%b,' % (dumps(block.schema), dumps(schema.schema), dumps(schema.table))


def operation_part(operation: Operation, block: SourceBlock, unchanged: Sequence[str] = ()) -> bytes:
    """From the end of ``source`` to the operation. `unchanged` names columns that the source did not send."""
    listed = b',"unchanged":%b' % dumps(unchanged) if unchanged else b""
    return b'%b%b},"transaction":null,"op":"%b",' % (block.end, listed, operation.encode())


def absent(column: Column, profile: str, not_null: Collection[str], old: bool) -> bytes | None:
    """What stands for a column that was not sent; None: it is left out.

    In an `old` image the debezium profile fabricates null, or the zero of the type where the column is NOT NULL.
    """
    if profile != "debezium":
        return None
    if not old:
        return debezium.placeholder(column.type)
    return debezium.fabricated(column.type) if column.name in not_null else b"null"


def row_keys(
    schema: TableSchema, operation: Operation, before: Sequence[Value] | None, after: Sequence[Value] | None
) -> list[bytes]:
    """The record keys of one row event, each of which takes a version: two where an update changes the key, the old
    one first. The values are those of :func:`plain_records`.

    Raises DecodeError when a key column is null or was not sent.
    """
    values = before if operation is Operation.DELETE else after
    if values is None:
        raise DecodeError(f"a row of {schema.topic} came without any values")
    key = _key(schema, values)
    if operation is Operation.UPDATE and before is not None and _has_key(schema, before):
        old = _key(schema, before)
        return [old, key] if old != key else [key]
    return [key]


def _has_key(schema: TableSchema, values: Sequence[Value]) -> bool:
    places = [schema.columns.index(schema.by_name[name]) for name in schema.key]
    return all(values[place] is not None and values[place] is not UNCHANGED for place in places)


def _key(schema: TableSchema, values: Sequence[Value]) -> bytes:
    row = {column.name: value for column, value in zip(schema.columns, values, strict=True)}
    for name in schema.key:
        if row[name] is None or row[name] is UNCHANGED:
            raise DecodeError(f"a row of {schema.topic} came without its key column {name}")
    return record_key(schema, row)


def plain_records(
    schema: TableSchema,
    operation: Operation,
    before: Sequence[Value] | None,
    after: Sequence[Value] | None,
    transaction: TransactionParts,
    lsn: int | bytes | None,
    version: int,
    ordinal: int,
    not_null: Collection[str] = (),
    block: SourceBlock = POSTGRESQL,
) -> list[Produced]:
    """The records of one row event: canonical values in the order of the schema, UNCHANGED where nothing was sent.

    A delete is followed by its tombstone; an update that changes the key is a delete with its tombstone and a create,
    which take `version` and ``version + 1``. `lsn` is the row's place as the `block` has it, None for a row that a
    snapshot read. `not_null` names the NOT NULL columns, for the defaults that the debezium profile fabricates.

    Raises DecodeError when a key column is null or was not sent.
    """
    place = b"" if lsn is None else lsn if isinstance(lsn, bytes) else b"%d" % lsn
    records = _Records(schema, transaction, place, ordinal, not_null, block)
    if operation is Operation.DELETE:
        return records.delete(before, version, 0)
    if len(row_keys(schema, operation, before, after)) > 1:
        created = records.row(Operation.CREATE, None, after, version + 1, KEY_CHANGE)
        return [*records.delete(before, version, KEY_CHANGE), created]
    return [records.row(operation, before, after, version, 0)]


def record_key(schema: TableSchema, row: Mapping[str, Value]) -> bytes:
    """The key of a row's records, from the canonical values of its key columns. Raises ValueError for values that
    cannot be rendered."""
    members = []
    for name in schema.key:
        column = schema.by_name[name]
        members.append(dumps(name) + b":" + render_key(column.type, schema.profile, key_value(column, row[name])))
    return b"{" + b",".join(members) + b"}"


@dataclass(frozen=True, slots=True)
class _Records:
    """What the records of one event have in common."""

    schema: TableSchema
    transaction: TransactionParts
    place: bytes
    ordinal: int
    not_null: Collection[str]
    block: SourceBlock

    def image(self, values: Sequence[Value] | None, old: bool) -> bytes:
        if values is None:
            return b"null"
        members = []
        for column, value in zip(self.schema.columns, values, strict=True):
            if value is UNCHANGED:
                rendered = absent(column, self.schema.profile, self.not_null, old)
            else:
                rendered = render(column.type, self.schema.profile, value)
            if rendered is not None:
                members.append(dumps(column.name) + b":" + rendered)
        return b"{" + b",".join(members) + b"}"

    def row(
        self,
        operation: Operation,
        before: Sequence[Value] | None,
        after: Sequence[Value] | None,
        version: int,
        flags: int,
    ) -> Produced:
        values = before if after is None else after
        if values is None:
            raise DecodeError(f"a row of {self.schema.topic} came without any values")
        key = _key(self.schema, values)
        image = self.image(after, old=False)
        beginning = BEFORE + self.image(before, old=True) + AFTER
        columns = self.schema.columns
        unchanged = [c.name for c, value in zip(columns, after or (), strict=False) if value is UNCHANGED]
        head, middle, ids, tail = self.transaction
        sequence = self.place if self.block.sequence else b""
        table = table_part(self.schema, self.block)
        end = operation_part(operation, self.block, unchanged)
        rest = (b",", head, sequence, middle, table, ids, self.place, end, tail)
        place = (len(beginning), len(image)) if after is not None else (0, 0)
        header = pack_header(
            LAYOUT,
            operation.encode(),
            flags | (PARTIAL if unchanged else 0),
            self.ordinal,
            version,
            self.schema.id,
            *place,
        )
        return Produced(self.schema.topic, key, b"".join((beginning, image, *rest)), header)

    def delete(self, before: Sequence[Value] | None, version: int, flags: int) -> list[Produced]:
        deleted = self.row(Operation.DELETE, before, None, version, flags)
        header = pack_header(LAYOUT, b"d", flags | TOMBSTONE, self.ordinal, version, self.schema.id, 0, 0)
        return [deleted, Produced(self.schema.topic, deleted.key, None, header)]
