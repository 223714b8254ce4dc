"""What is still to be read of tables, and what of them must stay as it is: parts of a source's position."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from cdc.errors import GapError, PermanentError

SNAPSHOT_COMMAND: Final = "cdc snapshot"


class KeyRange(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows whose key is greater than `after` (None: from the first one on) and at most `until` (None: to the last one).

    Both hold the key columns, or the first of them, as the connector writes them. With `keys`, record keys as JSON, it
    is these rows instead, whether or not they exist.
    """

    after: list[str] | None = None
    until: list[str] | None = None
    keys: list[str] | None = None

    def divided(self, at: Sequence[list[str]]) -> list[KeyRange]:
        """The same rows as ranges of their own, divided after the keys `at`, which rise."""
        edges = [self.after, *at, self.until]
        return [KeyRange(after, until) for after, until in itertools.pairwise(edges)]


class TableSnapshot(msgspec.Struct, frozen=True):
    """How far the snapshot of one table has come.

    `since` is the version that the sweep marker at its end will carry, None when the topic was empty at the start and
    there is nothing to sweep. `ranges` are still to be read, `rows` are on the log. `fence`: transactions that must
    have ended before the first chunk is read, as the connector writes them.
    """

    since: int | None
    ranges: list[KeyRange] = msgspec.field(default_factory=lambda: [KeyRange()])
    rows: int = 0
    fence: str | None = None

    @property
    def begun(self) -> bool:
        """Whether not all of the table is still to be read."""
        return KeyRange() not in self.ranges

    def advanced(self, read: KeyRange, rest: Sequence[KeyRange], rows: int) -> TableSnapshot:
        """What is left once so many rows of the range `read` are on the log too, and `rest` of it is not."""
        place = self.ranges.index(read)
        ranges = [*self.ranges[:place], *rest, *self.ranges[place + 1 :]]
        return msgspec.structs.replace(self, ranges=ranges, rows=self.rows + rows)


class TableIdentity(msgspec.Struct, frozen=True):
    """What must not change beneath a captured table: its topic, and the columns that make the record key.

    `published` says where the source's log has the table from, if that can change: another one means that it was out
    of the log for a while.
    """

    topic_id: str
    partitions: int
    profile: str
    key: list[str]
    published: int = 0


def refuse_changes(before: Mapping[str, TableIdentity], now: Mapping[str, TableIdentity]) -> None:
    """Raise PermanentError where records of a table would no longer agree with those that its topic holds.

    No snapshot mends that: whoever reads the topic finds a row in two partitions, or under two keys.
    """
    for name, table in now.items():
        old = before.get(name)
        if old is None or old.topic_id != table.topic_id:
            continue
        if old.key != table.key:
            back = f"make ({', '.join(old.key)}) the key again"
            what = f"the key of {name} changed from ({', '.join(old.key)}) to ({', '.join(table.key)})"
        elif old.partitions != table.partitions:
            back = "partitions cannot be taken away again"
            what = f"the topic of {name} has {table.partitions} partitions instead of {old.partitions}: keys moved"
        elif old.profile != table.profile:
            back = f"set log.format.profile back to {old.profile}"
            what = f"the value profile changed from {old.profile} to {table.profile}, and with it the record keys"
        else:
            continue
        raise PermanentError(
            what,
            hint=f"{back}; or begin new topics: put a number into log.topics.name, for example "
            f'"{{pipeline}}.v2.{{schema}}.{{table}}", give the sinks new names and empty stores, '
            f"and run `{SNAPSHOT_COMMAND}`",
        )


def gap(what: str, first: str = "") -> GapError:
    """A gap of a source, with the command that mends it, and what is to be done `first`."""
    return GapError(what, hint=f"{first}`{SNAPSHOT_COMMAND}` reads all tables again and goes on from there")
