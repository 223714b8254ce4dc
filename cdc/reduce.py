"""From records to rows: what a batch brings to each key, in the least that a store can be told.

A batch is reduced to one row per key, the one with the highest version, as if the records had been applied one after
the other. Records that are superseded within the batch cost a look at their header, nothing more; values are taken out
of the envelope as bytes and parsed only where a partial row must be filled.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, cast

import msgspec

from cdc.errors import DecodeError, PermanentError
from cdc.formats.debezium import placeholder
from cdc.log import Fetched, Record, TopicPartition
from cdc.record import LAYOUT, NO_SCHEMA, PARTIAL, TOMBSTONE, unpack_header
from cdc.sink import Batch, Row
from schemas.table import TableSchema

SchemaOf = Callable[[bytes], TableSchema]
"""The schema of an id. Raises TransientError when it is not known yet."""

_HEADER_BYTES: Final = 32
_unpack: Final = struct.Struct(">xBB5xQ8sII").unpack
"""Operation, flags, version, schema id, start and length of ``after``; the layout was looked at before."""
_DELETE: Final = ord("d")
_new_row: Final[Callable[[tuple[Any, ...]], Row]] = partial(tuple.__new__, Row)

_COMPLETE, _PARTIAL, _MARKER, _MESSAGE = range(4)


def _kind(operation: int, flags: int) -> int:
    if operation in b"ts":
        return _MARKER
    if operation in b"m":
        return _MESSAGE
    return _PARTIAL if flags & PARTIAL else _COMPLETE


_KINDS: Final[Mapping[bytes, int]] = {
    bytes((LAYOUT, operation, flags)): _kind(operation, flags) for operation in b"cudrmts" for flags in range(256)
}
"""What a record is, by the first three bytes of its header: layout, operation, flags."""


def reduce(fetched: Iterable[Fetched], schema_of: SchemaOf) -> list[Batch]:
    """One batch per partition in `fetched`, each key once. Partitions come in the order in which they were first met.

    A partial row is filled from older rows of its key in the batch, and is no longer partial when nothing that it
    lacks can come from the store: all columns are there, or the older row was a delete. Columns that are then still
    absent have no value.

    Raises PermanentError or DecodeError naming topic, partition and offset of a record that is not ours or not
    readable, and what `schema_of` raises.
    """
    partitions: dict[TopicPartition, list[Fetched]] = {}
    for part in fetched:
        partitions.setdefault(TopicPartition(part.topic, part.partition), []).append(part)
    return [_reduce(place, parts, schema_of) for place, parts in partitions.items()]


def history(fetched: Iterable[Fetched], schema_of: SchemaOf) -> list[Batch]:
    """All rows in `fetched`, for a store that keeps every change. A marker begins a new batch of its partition.

    Partial rows are filled, and errors raised, as by :func:`reduce`.
    """
    partitions: dict[TopicPartition, list[Batch]] = {}
    latest: dict[tuple[TopicPartition, bytes], Row] = {}
    known = lru_cache(schema_of)
    for part in fetched:
        place = TopicPartition(part.topic, part.partition)
        batches = partitions.setdefault(place, [Batch(*place, 0, [], [], 0)])
        for record in part.records:
            kind = _kind_of(place, record)
            if kind == _MARKER:
                floor = unpack_header(record.header).version
                for gone in [which for which, row in latest.items() if which[0] == place and row.version < floor]:
                    del latest[gone]
                batches.append(Batch(*place, floor, [], [], 0, record.timestamp))
            elif kind < _MARKER:
                (row,) = _rows(place, {record.key: record}, {}, known)
                before = latest.get((place, record.key))
                if before is None or row.version > before.version:  # not the tombstone behind its delete
                    latest[place, record.key] = row = row if before is None else filled(row, before)
                    cast(list[Row], batches[-1].rows).append(row)
        batches[:] = [batch._replace(next_offset=part.next_offset) for batch in batches]
    return [batch for batches in partitions.values() for batch in batches]


def key_hash(key: bytes) -> str:
    """A short name for a key that does not show it, for messages."""
    return hashlib.blake2b(key, digest_size=6).hexdigest()


def _reduce(place: TopicPartition, parts: list[Fetched], schema_of: SchemaOf) -> Batch:
    latest: dict[bytes, Record] = {}
    chains: dict[bytes, list[Record]] = {}
    superseded: dict[bytes, None] = {}
    floor = bytes(8)
    kinds = _KINDS
    hold = latest.setdefault
    for part in parts:
        for record in part.records:
            header = record[3]
            kind = kinds.get(header[:3])
            if kind is None or len(header) != _HEADER_BYTES:
                raise _foreign(place, record)
            if kind < _MARKER:
                key = record[1]
                held = hold(key, record)
                # Versions are compared as they stand in the header: big-endian.
                if held is not record and header[8:16] > held[3][8:16]:
                    latest[key] = record
                    if kind == _PARTIAL:
                        chains.setdefault(key, [held]).append(record)
                    elif chains:
                        chains.pop(key, None)
            elif kind == _MARKER and header[8:16] > floor:
                floor = header[8:16]
                _supersede(floor, latest, chains, superseded)
    if any(floor):
        _supersede(floor, latest, chains, superseded)
    rows = _rows(place, latest, chains, schema_of)
    return Batch(
        *place,
        int.from_bytes(floor),
        rows,
        [key for key in superseded if key not in latest],
        parts[-1].next_offset,
    )


def _kind_of(place: TopicPartition, record: Record) -> int:
    kind = _KINDS.get(record.header[:3])
    if kind is None or len(record.header) != _HEADER_BYTES:
        raise _foreign(place, record)
    return kind


def _supersede(
    floor: bytes, latest: dict[bytes, Record], chains: dict[bytes, list[Record]], superseded: dict[bytes, None]
) -> None:
    """Move what is older than `floor` from `latest` to `superseded`."""
    for key in [key for key, record in latest.items() if record.header[8:16] < floor]:
        del latest[key]
        chains.pop(key, None)
        superseded[key] = None


def _rows(
    place: TopicPartition, latest: dict[bytes, Record], chains: dict[bytes, list[Record]], schema_of: SchemaOf
) -> list[Row]:
    rows: list[Row] = []
    add = rows.append
    schemas: dict[bytes, TableSchema | None] = {NO_SCHEMA: None}
    for key, record in latest.items():
        offset, _, value, header, at = record
        operation, flags, version, schema_id, start, length = _unpack(header)
        try:
            schema = schemas[schema_id]
        except KeyError:
            schema = schemas[schema_id] = schema_of(schema_id)
        if operation == _DELETE or (value is None and flags & TOMBSTONE):
            add(_new_row((key, version, None, schema, False, offset, at)))
            continue
        end = start + length
        # The bytes of "after" are the JSON object { … }.
        if not value or not length or end > len(value) or value[start] != 0x7B or value[end - 1] != 0x7D or not schema:
            raise _unreadable(place, record)
        if flags & PARTIAL:
            row = Row(key, version, _sent(schema, value[start:end]), schema, True, offset, at)
            for older in reversed(chains.get(key, [])[:-1]):
                row = filled(row, *_rows(place, {key: older}, {}, schema_of))
            add(row)
        else:
            add(_new_row((key, version, value[start:end], schema, False, offset, at)))
    return rows


_columns: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _sent(schema: TableSchema, after: bytes) -> bytes:
    """`after` without the placeholders that stand for columns which the source did not send."""
    if schema.profile != "debezium":
        return after
    columns = _columns(after)
    absent = [c.name for c in schema.columns if c.name in columns and bytes(columns[c.name]) == placeholder(c.type)]
    return msgspec.json.encode({name: columns[name] for name in columns if name not in absent}) if absent else after


def filled(row: Row, older: Row) -> Row:
    """`row`, and if it is partial, the columns that it lacks from the `older` row of its key, byte by byte.

    A column whose type has changed since is not carried over.
    """
    if not row.partial:
        return row
    if older.after is None or older.schema is None:
        return row._replace(partial=False)
    assert row.after is not None
    assert row.schema is not None
    held, columns = _columns(older.after), _columns(row.after)
    types = {column.name: column.type for column in older.schema.columns}
    both: dict[str, msgspec.Raw] = {}
    lacking = False
    for column in row.schema.columns:
        name = column.name
        if name in columns:
            both[name] = columns[name]
        elif name in held and types.get(name) == column.type and older.schema.profile == row.schema.profile:
            both[name] = held[name]
        else:
            lacking = lacking or older.partial or name in held
    return row._replace(after=msgspec.json.encode(both), partial=lacking)


def _foreign(place: TopicPartition, record: Record) -> PermanentError:
    """What to say of a record whose header is not ours."""
    where = f"record {record.offset} in partition {place.partition} of topic {place.topic!r}"
    try:
        header = unpack_header(record.header)
        what = f"has the unknown operation {header.operation!r}"
    except DecodeError as error:
        what = f"was not written by this service: {error}" if record.header else "has no cdc header"
    return PermanentError(
        f"{where} {what}",
        hint="only this service may write to its topics; find the other producer, or give it a topic of its own",
    )


def _unreadable(place: TopicPartition, record: Record) -> DecodeError:
    return DecodeError(
        f"record {record.offset} in partition {place.partition} of topic {place.topic!r} "
        f"(key {key_hash(record.key)}) has no row where its header says",
        hint="the value was changed on its way; read the log anew with a new sink, or take a new snapshot",
    )
