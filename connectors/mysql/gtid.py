"""GTID sets: which transactions have been executed. MySQL's and MariaDB's, which are quite different things.

MySQL (https://dev.mysql.com/doc/refman/en/replication-gtids-concepts.html): sets of numbers per source, and since 8.3
per tag: ``3e11fa47-…:1-5:7:tag:1-3``. MariaDB (https://mariadb.com/kb/en/gtid/): the last GTID of each replication
domain, ``0-1-100``: a position, which contains what its domain had before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from cdc.errors import DecodeError
from connectors.mysql.cursor import Cursor

_MAXIMUM: Final = (1 << 63) - 2
"""The greatest number of a transaction."""
_TAG: Final = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL: Final = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")

Interval = tuple[int, int]
"""First and last number, both included."""


class Source(NamedTuple):
    """Where transactions have been numbered: a server's UUID and a tag, mostly empty."""

    uuid: UUID
    tag: str = ""


class Gtid(NamedTuple):
    """MySQL's identifier of one transaction."""

    source: Source
    number: int

    def __str__(self) -> str:
        tag = f":{self.source.tag}" if self.source.tag else ""
        return f"{self.source.uuid}{tag}:{self.number}"


def _merge(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers in as few intervals as possible, in order."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _minus(intervals: Iterable[Interval], others: Iterable[Interval]) -> tuple[Interval, ...]:
    left: list[Interval] = []
    for first, last in intervals:
        for other_first, other_last in others:
            if other_last < first or other_first > last:
                continue
            if other_first > first:
                left.append((first, other_first - 1))
            first = other_last + 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


@dataclass(frozen=True, slots=True)
class GtidSet:
    """MySQL's set. Equal sets are equal and are printed alike, as the server prints them."""

    sources: Mapping[Source, tuple[Interval, ...]]
    """Intervals in order, none empty, none touching the next; no source without any."""

    @classmethod
    def of(cls, sources: Mapping[Source, Iterable[Interval]]) -> GtidSet:
        """The set of these intervals, in any order, overlapping or not."""
        merged = {source: _merge(intervals) for source, intervals in sources.items()}
        return cls({source: merged[source] for source in sorted(merged) if merged[source]})

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """From the server's text, e.g. ``@@gtid_executed``. Raises DecodeError when it is none."""
        sources: dict[Source, list[Interval]] = {}
        for part in re.sub(r"\s", "", text).split(","):
            if not part:
                continue
            uuid, *rest = part.split(":")
            source = Source(_uuid(uuid))
            if not rest:
                raise DecodeError(f"no interval in {part!r} of a GTID set")
            for item in rest:
                if _TAG.fullmatch(item.lower()):
                    source = Source(source.uuid, item.lower())
                else:
                    sources.setdefault(source, []).append(_interval(item))
        return cls.of(sources)

    @classmethod
    def decode(cls, content: bytes) -> GtidSet:
        """From the body of a PREVIOUS_GTIDS event. Raises DecodeError, whatever the bytes."""
        cursor = Cursor(content, "PREVIOUS_GTIDS event")
        count = cursor.integer(8)
        tagged = count >> 56 == 1
        if tagged:
            count = count >> 8 & (1 << 48) - 1
        sources: dict[Source, list[Interval]] = {}
        for _ in range(count):
            uuid = UUID(bytes=cursor.take(16))
            tag = cursor.text(cursor.integer(1) >> 1) if tagged else ""
            intervals = sources.setdefault(Source(uuid, tag), [])
            for _ in range(cursor.integer(8)):
                first, after = cursor.integer(8), cursor.integer(8)
                if not 0 < first < after <= _MAXIMUM + 1:
                    raise cursor.error(f"{first} to {after} is no interval")
                intervals.append((first, after - 1))
        cursor.finish()
        return cls.of(sources)

    def encode(self) -> bytes:
        """As COM_BINLOG_DUMP_GTID takes it: the reverse of :meth:`decode`."""
        tagged = any(source.tag for source in self.sources)
        count = len(self.sources)
        parts = [(1 << 56 | count << 8 | 1 if tagged else count).to_bytes(8, "little")]
        for source, intervals in self.sources.items():
            parts.append(source.uuid.bytes)
            if tagged:
                parts.append(bytes([len(source.tag) << 1]) + source.tag.encode())
            parts.append(len(intervals).to_bytes(8, "little"))
            parts += [first.to_bytes(8, "little") + (last + 1).to_bytes(8, "little") for first, last in intervals]
        return b"".join(parts)

    def __str__(self) -> str:
        printed: dict[UUID, str] = {}
        for (uuid, tag), intervals in self.sources.items():
            text = "".join(f":{first}" if first == last else f":{first}-{last}" for first, last in intervals)
            printed[uuid] = printed.get(uuid, str(uuid)) + (f":{tag}" if tag else "") + text
        return ",".join(printed.values())

    def __hash__(self) -> int:
        return hash(str(self))

    def __bool__(self) -> bool:
        return bool(self.sources)

    def __contains__(self, gtid: Gtid) -> bool:
        return any(first <= gtid.number <= last for first, last in self.sources.get(gtid.source, ()))

    def __le__(self, other: GtidSet) -> bool:
        """Whether `other` has all that this one has (``GTID_SUBSET``)."""
        return not self - other

    def __or__(self, other: GtidSet) -> GtidSet:
        both = {source: [*self.sources.get(source, ()), *intervals] for source, intervals in other.sources.items()}
        return GtidSet.of({**self.sources, **both})

    def __sub__(self, other: GtidSet) -> GtidSet:
        """What this one has and `other` has not (``GTID_SUBTRACT``)."""
        return GtidSet.of({s: _minus(intervals, other.sources.get(s, ())) for s, intervals in self.sources.items()})

    def add(self, gtid: Gtid) -> GtidSet:
        """The set with one transaction more."""
        intervals = self.sources.get(gtid.source, ())
        if intervals and gtid.number == intervals[-1][1] + 1:  # nearly always
            changed = (*intervals[:-1], (intervals[-1][0], gtid.number))
            return GtidSet({**self.sources, gtid.source: changed})
        return self | GtidSet({gtid.source: ((gtid.number, gtid.number),)})


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise DecodeError(f"{text[:40]!r} in a GTID set is no UUID") from error


def _interval(text: str) -> Interval:
    matched = _INTERVAL.fullmatch(text)
    if matched is not None:
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if 0 < first <= last <= _MAXIMUM:
            return first, last
    raise DecodeError(f"{text[:40]!r} is no interval of a GTID set")


class MariadbGtid(NamedTuple):
    """MariaDB's identifier of one transaction: replication domain, server id, sequence number."""

    domain: int
    server_id: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server_id}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> MariadbGtid:
        """From the server's text. Raises DecodeError when it is none."""
        parts = text.strip().split("-")
        if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
            domain, server_id, sequence = map(int, parts)
            if domain < 1 << 32 and server_id < 1 << 32 and sequence < 1 << 64:
                return cls(domain, server_id, sequence)
        raise DecodeError(f"{text[:70]!r} is no MariaDB GTID")


@dataclass(frozen=True, slots=True)
class MariadbPosition:
    """The last GTID of each domain (``@@gtid_binlog_pos``): all that these domains had up to it."""

    last: Mapping[int, MariadbGtid]

    @classmethod
    def of(cls, gtids: Iterable[MariadbGtid]) -> MariadbPosition:
        """The position of these; of several in a domain the last with the highest number counts."""
        last: dict[int, MariadbGtid] = {}
        for gtid in gtids:
            if gtid.domain not in last or gtid.sequence >= last[gtid.domain].sequence:
                last[gtid.domain] = gtid
        return cls({domain: last[domain] for domain in sorted(last)})

    @classmethod
    def parse(cls, text: str) -> MariadbPosition:
        """From the server's text. Raises DecodeError when it is none."""
        return cls.of(MariadbGtid.parse(part) for part in text.split(",") if part.strip())

    def __str__(self) -> str:
        return ",".join(map(str, self.last.values()))

    def __hash__(self) -> int:
        return hash(str(self))

    def __bool__(self) -> bool:
        return bool(self.last)

    def __contains__(self, gtid: MariadbGtid) -> bool:
        return gtid.domain in self.last and gtid.sequence <= self.last[gtid.domain].sequence

    def __le__(self, other: MariadbPosition) -> bool:
        """Whether `other` is at or past this one in each of its domains."""
        return all(gtid in other for gtid in self.last.values())

    def __or__(self, other: MariadbPosition) -> MariadbPosition:
        return MariadbPosition.of([*self.last.values(), *other.last.values()])

    def __sub__(self, other: MariadbPosition) -> MariadbPosition:
        """The domains in which this one is past `other`."""
        return MariadbPosition.of(gtid for gtid in self.last.values() if gtid not in other)

    def add(self, gtid: MariadbGtid) -> MariadbPosition:
        """The position after `gtid`: the stream's order counts, not the numbers (they may start anew)."""
        return MariadbPosition(dict(sorted({**self.last, gtid.domain: gtid}.items())))
