"""The demo does what README's first line promises, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cdc.demo.compare import differences
from cdc.demo.mysql import start_mysql
from cdc.demo.servers import Processes
from cdc.errors import ConfigurationError
from tests.servers import wait_until
from tests.servers.mariadb import mariadb_binary
from tests.servers.postgres import new_folder

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the demo's database can reach, which runs as nobody when we are root."""
    made = new_folder()
    yield made
    shutil.rmtree(made)


@contextmanager
def started(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output").open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "cdc", "demo", *options],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "200", "CDC_PROFILE": "somebody-elses"},
        )
    try:
        yield demo
    finally:
        demo.kill()
        demo.wait()


def left_behind(folder: Path) -> list[str]:
    """Files in the folder, and processes that have to do with it."""
    files = [path.name for path in folder.iterdir() if path.name != "output"]
    lines = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return files + [line for line in lines if str(folder) in line]


@pytest.mark.parametrize(("source", "seconds"), [("postgres", "12"), ("mysql", "6")])
def test_unattended_every_store_equals_the_database(folder: Path, source: str, seconds: str) -> None:
    if source == "mysql":
        mariadb_binary()
    with started(folder, "--duration", seconds, "--source", source) as demo:
        assert demo.wait(200) == 0, (folder / "output").read_text()[-3000:]
    output = (folder / "output").read_text()
    assert output.count("equal to the database") == 3
    assert "GET customers:1 = {" in output
    assert "lag" in output
    assert left_behind(folder) == []


def test_interrupted_it_leaves_no_process_and_no_file(folder: Path) -> None:
    output = folder / "output"
    with started(folder) as demo:
        wait_until(lambda: " shop.orders " in output.read_text(), seconds=120, what="the first event")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(120) == 0, output.read_text()[-3000:]
    assert left_behind(folder) == []


def test_without_a_server_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cdc.demo.mysql.PLACES", (str(tmp_path),))
    with pytest.raises(ConfigurationError) as refused:
        start_mysql(Processes(tmp_path), tmp_path)
    assert "apt-get install mariadb-server" in refused.value.hint


def test_differences_are_seen() -> None:
    expected = {(1,): {"id": 1, "v": "a"}, (2,): {"id": 2, "v": "b"}, (3,): {"id": 3, "v": None}}
    found = {(1,): {"id": 1, "v": "a"}, (2,): {"id": 2, "v": "x"}, (4,): {"id": 4, "v": "d"}}
    assert differences(expected, found) == (1, 1, 1)
    assert differences(expected, expected) == (0, 0, 0)
