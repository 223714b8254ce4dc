"""The disk of the embedded log is full for a while: nothing is lost, and it goes on by itself when there is room."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc.errors import TransientError
from cdc.log import LogWriter
from tests.contract.logs import HEADER, append_and_commit, beginning, keys, read_all
from tests.integration.delivered import ORDERS, Produced, embedded
from tests.integration.scripted import Scripted, scripted

__all__ = ["scripted"]


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        self.path = path
        self._filler = path / "filler"
        self._filler.write_bytes(bytes(8 << 20))

    def fill(self) -> None:
        """Use up all that is free."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    os.fsync(filler.fileno())
            except OSError:
                return

    def free(self) -> None:
        """Make room, more than `fill` took."""
        self._filler.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "log")
    yield disk
    disk.unmount()


def _records(count: int) -> list[Produced]:
    return [Produced(ORDERS.topic, b'{"id":%d}' % n, b"x" * 1000, HEADER) for n in range(count)]


def _append_for_ever(writer: LogWriter, committed: list[bytes]) -> None:
    for n in itertools.count():
        append_and_commit(writer, _records(100), b"%d" % n)
        committed.append(b"%d" % n)


def test_what_was_committed_stays_and_the_next_writer_goes_on(disk: Disk) -> None:
    log = embedded(disk.path)
    log.create_topics([ORDERS.topic])
    with closing(log.reader("store", lambda _: True, beginning, lambda _: None)) as reader:
        reader.poll(0)
        committed: list[bytes] = []
        writer = log.writer("shop")
        writer.fence()
        with pytest.raises(TransientError, match="no space left"):
            _append_for_ever(writer, committed)
        assert len(committed) > 3
        disk.fill()
        for refused in (
            lambda: log.writer("another").fence(),
            lambda: log.put_state("worker", "sink/store", {"error": "x" * 100_000}),
            lambda: log.reader("another", lambda _: True, beginning, lambda _: None),
        ):
            for _ in range(2):
                with pytest.raises(TransientError, match="no space left"):
                    refused()
        disk.free()
        writer = log.writer("shop")
        assert writer.fence() == committed[-1]
        assert len(keys(read_all(log))) == len(committed) * 100
        append_and_commit(writer, _records(1), b"p")
        writer.close()
        log.reader("another", lambda _: True, beginning, lambda _: None).close()
        assert len(keys(read_all(log))) == len(committed) * 100 + 1


def test_a_pipeline_goes_on_when_there_is_room_again(disk: Disk, scripted: Scripted) -> None:
    scripted.insert(10)
    scripted.start("run")
    scripted.delivered("one", "two")
    disk.fill()
    scripted.insert(2000)
    scripted.says("no space left for the log file")
    disk.free()
    scripted.delivered("one", "two")
