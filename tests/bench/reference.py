"""The databases' own tools at the same work: what ours is measured against."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from tests.servers.postgres import Database, Postgres


class Cost(NamedTuple):
    """What a run of a process cost: seconds on the clock, seconds of CPU."""

    seconds: float
    cpu: float


def make_slot(database: Database, name: str) -> None:
    """A slot that begins here."""
    database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")


def drain(server: Postgres, database: Database, slot: str, end: str, folder: Path) -> Cost:
    """``pg_recvlogical`` writes what `slot` has up to the LSN `end` to a file; the slot itself stays where it is."""
    copy = f"{slot}_copy"
    database.execute(f"SELECT pg_copy_logical_replication_slot('{slot}', '{copy}')")
    file = folder / "recvlogical.out"
    command = [
        _binary(server, "pg_recvlogical"), "-d", database.dsn, "--slot", copy, "--start", "--no-loop",
        "--endpos", end, "-o", "proto_version=1", "-o", "publication_names=reference", "-f", str(file),
    ]  # fmt: skip
    cost = run(command)
    size = file.stat().st_size
    file.unlink()
    database.execute(f"SELECT pg_drop_replication_slot('{copy}')")
    if size < 1000:
        raise AssertionError("pg_recvlogical received nothing")
    return cost


def copy_out(server: Postgres, database: Database) -> Cost:
    """psql reads the whole table by ``COPY … TO STDOUT``."""
    return run([_binary(server, "psql"), "-d", database.dsn, "-q", "-c", "COPY orders TO STDOUT"])


def _binary(server: Postgres, name: str) -> str:
    own = server.binaries / name
    return str(own) if os.access(own, os.X_OK) else shutil.which(name) or name


def run(command: list[str]) -> Cost:
    """Run a program to its end. Raises CalledProcessError."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(seconds, usage.ru_utime + usage.ru_stime)
