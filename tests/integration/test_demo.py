"""The demo does what README's first line promises, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cdc.demo.compare import differences
from tests.servers import wait_until

pytestmark = pytest.mark.xdist_group("demo")


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    folder.chmod(0o755)
    for parent in folder.parents[:2]:
        parent.chmod(0o755)  # the demo's database runs as nobody when we are root
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cdc", "demo", *options],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "200"},
        )


def left_behind(folder: Path) -> list[str]:
    """Files in the folder, and processes that have to do with it."""
    files = [path.name for path in folder.iterdir() if path.name != "output"]
    lines = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return files + [line for line in lines if str(folder) in line]


def test_unattended_every_store_equals_the_database(tmp_path: Path) -> None:
    demo = start(tmp_path, "--duration", "12")
    assert demo.wait(200) == 0, (tmp_path / "output").read_text()[-3000:]
    output = (tmp_path / "output").read_text()
    assert output.count("equal to the database") == 3
    assert "GET customers:1 = {" in output
    assert "lag" in output
    assert left_behind(tmp_path) == []


def test_interrupted_it_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    demo = start(tmp_path)
    output = tmp_path / "output"
    wait_until(lambda: " shop.orders " in output.read_text(), seconds=120, what="the first event")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(120) == 0, output.read_text()[-3000:]
    assert left_behind(tmp_path) == []


def test_differences_are_seen() -> None:
    expected = {(1,): {"id": 1, "v": "a"}, (2,): {"id": 2, "v": "b"}, (3,): {"id": 3, "v": None}}
    found = {(1,): {"id": 1, "v": "a"}, (2,): {"id": 2, "v": "x"}, (4,): {"id": 4, "v": "d"}}
    assert differences(expected, found) == (1, 1, 1)
    assert differences(expected, expected) == (0, 0, 0)
