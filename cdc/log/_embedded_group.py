"""A consumer group of the embedded log: several processes of one machine share the partitions.

A member is alive as long as it holds the lock on a file of its own, which the system lets go when the process ends,
however it ends. Shares follow from who is alive: partitions in order are dealt out to the members in the order in
which they joined. A partition is taken only once its former owner has let it go or is dead; who owns it is a row in
``groups.db``.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

from cdc.errors import TransientError
from cdc.log import TopicPartition
from cdc.log._sqlite import GROUP_TABLES, explaining, opened, transaction


class Membership:
    """One process in a group, from joining to `leave`."""

    def __init__(self, folder: Path, group: str, *, alone: bool) -> None:
        """Join. Raises TransientError when `alone` is wanted and others live."""
        self._folder = folder
        self._groups = folder / "groups.db"
        self._group = group
        self._lock = -1
        try:
            self._join(alone=alone)
        except BaseException:
            if self._lock >= 0:
                os.close(self._lock)
            raise

    def share(self, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Which of `partitions` are to be this member's, as of now."""
        with opened(self._groups, read_only=True) as connection:
            members = [number for number in self._known(connection) if self._lives(number)]
        if self._number not in members:
            raise TransientError(f"{self._groups} was made anew while it was read", hint="it is tried again")
        return set(sorted(partitions)[members.index(self._number) :: len(members)])

    def take(self, wanted: Collection[TopicPartition]) -> set[TopicPartition]:
        """Own those of `wanted` that nobody alive owns; returns them."""
        with opened(self._groups) as connection, transaction(connection):
            dead = [(self._group, number) for number in self._known(connection) if not self._lives(number)]
            for table in ("owners", "members"):
                connection.executemany(f"DELETE FROM {table} WHERE consumer_group = ? AND member = ?", dead)  # noqa: S608
            for _, number in dead:
                self._path(number).unlink(missing_ok=True)
            rows = connection.execute("SELECT topic, partition FROM owners WHERE consumer_group = ?", (self._group,))
            free = set(wanted) - {TopicPartition(*row) for row in rows.fetchall()}
            connection.executemany(
                "INSERT INTO owners VALUES (?, ?, ?, ?)", [(self._group, *place, self._number) for place in free]
            )
        return free

    def release(self, partitions: Collection[TopicPartition]) -> None:
        """Let others have `partitions`."""
        with opened(self._groups) as connection, transaction(connection):
            connection.executemany(
                "DELETE FROM owners WHERE consumer_group = ? AND topic = ? AND partition = ? AND member = ?",
                [(self._group, *place, self._number) for place in partitions],
            )

    def leave(self) -> None:
        """Be no member any more: what this one owned is free."""
        try:
            with explaining(self._path(self._number)):
                self._path(self._number).unlink(missing_ok=True)
        finally:
            os.close(self._lock)

    def _join(self, *, alone: bool) -> None:
        with opened(self._groups) as connection, transaction(connection):
            for table in GROUP_TABLES:
                connection.execute(table)
            known = self._known(connection)
            living = [number for number in known if self._lives(number)]
            if alone and living:
                raise TransientError(
                    f"process {known[living[0]]} reads the embedded log as group {self._group!r} already, and this "
                    "store has room for one",
                    hint="stop that process; a store that is a server can be fed by several",
                )
            self._number = max(known, default=0) + 1
            with explaining(self._path(self._number)):
                self._lock = os.open(self._path(self._number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            connection.execute("INSERT INTO members VALUES (?, ?, ?)", (self._group, self._number, os.getpid()))

    def _known(self, connection: sqlite3.Connection) -> dict[int, int]:
        """Process ids by member, in the order in which they joined; some may be dead."""
        rows = connection.execute(
            "SELECT member, process FROM members WHERE consumer_group = ? ORDER BY member", (self._group,)
        )
        return dict(rows.fetchall())

    def _path(self, number: int) -> Path:
        return self._folder / f"group-{self._group}.{number}.lock"

    def _lives(self, number: int) -> bool:
        with explaining(self._path(number)):
            try:
                lock = os.open(self._path(number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(lock)
        return False
