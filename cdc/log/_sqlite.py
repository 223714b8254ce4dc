"""The files of the embedded log: making, opening and describing what goes wrong with them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cdc.errors import CdcError, PermanentError, TransientError

OFFSET_BITS: Final = 40
"""A block's row id is ``partition number << 40 | offset of its first record``: a partition lies together, in order."""
BLOCK_RECORDS: Final = 256
"""The most records of a block."""

SOURCE_TABLES: Final = """
CREATE TABLE owner (token TEXT NOT NULL, process INTEGER NOT NULL);
INSERT INTO owner VALUES ('', 0);
CREATE TABLE topics (name TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE partitions (
  number INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
  start_offset INTEGER NOT NULL DEFAULT 0, next_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition));
CREATE TABLE blocks (id INTEGER PRIMARY KEY, records BLOB NOT NULL);
CREATE TABLE position (position BLOB NOT NULL);
CREATE TABLE schemas (id BLOB PRIMARY KEY, schema BLOB NOT NULL) WITHOUT ROWID;
"""
"""One file per source. `blocks` holds runs of consecutive records (MessagePack, a list of `Record`): a row for each
record would cost three times as much. A record is readable once its offset is below its partition's `next_offset`: what
lies above belongs to an append that is still open, or was given up."""

CLEANED_TABLE: Final = """
CREATE TABLE IF NOT EXISTS cleaned (
  number INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, records INTEGER NOT NULL,
  horizon INTEGER NOT NULL, horizon_at INTEGER)
"""
"""In the source's file too: how far each partition was compacted, see :mod:`cdc.log._embedded_cleaner`."""

PREPARED_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS parts (id INTEGER PRIMARY KEY, part BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS prepared (name TEXT, id INTEGER, PRIMARY KEY (name, id)) WITHOUT ROWID",
)
"""In the source's file too: the parts of prepared transactions, and which transaction has which. A part that none has
belongs to an append that is still open, or was given up."""

GROUPS_TABLES: Final = """
CREATE TABLE topics (name TEXT PRIMARY KEY, id TEXT NOT NULL, partitions INTEGER NOT NULL, source TEXT) WITHOUT ROWID;
CREATE TABLE offsets (
  consumer_group TEXT, topic TEXT, partition INTEGER, offset INTEGER NOT NULL, topic_id TEXT NOT NULL,
  PRIMARY KEY (consumer_group, topic, partition)) WITHOUT ROWID;
CREATE TABLE states (kind TEXT, name TEXT, state TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE epoch (epoch INTEGER NOT NULL);
INSERT INTO epoch VALUES (0);
"""
"""One file per pipeline: what several processes write, seldom."""

FULL_BYTES: Final = 1 << 20
"""An I/O error where less than this is free is put down to that."""

GROUP_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS members (consumer_group TEXT, member INTEGER, process INTEGER, "
    "PRIMARY KEY (consumer_group, member)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS owners (consumer_group TEXT, topic TEXT, partition INTEGER, member INTEGER NOT NULL, "
    "PRIMARY KEY (consumer_group, topic, partition)) WITHOUT ROWID",
)
"""Beside them, who reads as which group: made by who joins, older files have none."""

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_busy(error: sqlite3.Error) -> bool:
    """Whether `error` says that another process held the file for longer than we wanted to wait."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _BUSY


def explained(error: sqlite3.Error, path: Path) -> CdcError:
    """`error` as one of our own, naming the file and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return TransientError(
            f"the log file {path} is locked by another process", hint="it is tried again; see who holds it with: fuser"
        )
    if code == sqlite3.SQLITE_FULL or _is_full(path):
        return _no_space(path)
    if code in _DAMAGED:
        return PermanentError(
            f"the log file {path} is damaged: {error}",
            hint="restore it from a backup, or move it away and take a new snapshot",
        )
    return TransientError(
        f"the log file {path} cannot be used: {error}", hint="look at the disk and the file's permissions"
    )


def _is_full(path: Path) -> bool:
    """Whether the file system of `path` is: SQLite says "disk I/O error" where it cannot make a file beside it."""
    try:
        return shutil.disk_usage(path.parent).free < FULL_BYTES
    except OSError:
        return False


def _no_space(path: Path) -> TransientError:
    return TransientError(f"no space left for the log file {path}", hint="free disk space; it is tried again")


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Errors of SQLite leave as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise explained(error, path) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(path) from error
        raise TransientError(
            f"the log file {path} cannot be used: {error.strerror}", hint="look at the disk and the file's permissions"
        ) from error


def make(path: Path, tables: str) -> None:
    """Make the file `path` with `tables` unless it exists; nobody ever sees it half made."""
    if path.exists():
        return
    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.executescript(
                "PRAGMA page_size=16384; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; "
                f"BEGIN; {tables} COMMIT;"
            )
        finally:
            connection.close()
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open an existing log file. Raises sqlite3.OperationalError when it is not there.

    A commit on this connection returns when the disk has it. The threads that use it take turns.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=10
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-4096")
        if read_only:
            connection.execute("PRAGMA query_only=1")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for a moment, errors explained."""
    with explaining(path):
        connection = connect(path, read_only=read_only)
        try:
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: committed at the end, or rolled back by an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
