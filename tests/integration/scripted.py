"""A pipeline of the plugin in ``plugin/``, run by the real command line in processes of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from cdc.cli.main import app
from cdc.config import secrets
from cdc.log.embedded import EmbeddedConfig, EmbeddedLog
from tests.servers import wait_until

PLUGIN = Path(__file__).with_name("plugin")

FILE = """\
version: 1
pipeline: shop
log: {type: embedded, path: "${FOLDER}/log", topics: {partitions: 2}}
sources:
  db: {type: script, tables: [public.items], folder: "${FOLDER}/db", url: "${DB_URL:-}"}
sinks:
  one: {type: folder, folder: "${FOLDER}/one", batch: {every: 10ms}}
  two: {type: folder, folder: "${FOLDER}/two", batch: {every: 10ms}}
"""


def invoke(folder: Path, environment: Mapping[str, str], *arguments: str, stdin: str | None = None) -> Result:
    """Run a command to its end in `folder`, in this process: it starts a hundred times faster."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.root.handlers[:]
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setattr(secrets, "_known", set())
        try:
            return CliRunner().invoke(app, arguments, input=stdin, env=environment)
        finally:
            structlog.reset_defaults()
            structlog.contextvars.clear_contextvars()
            logging.root.handlers[:] = root
            for number, handler in handlers.items():
                signal.signal(number, handler)


class Scripted:
    """The pipeline in a folder of its own, and what a user does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cdc.yaml"
        self.file.write_text(FILE)
        for part in ("db", "one", "two"):
            (folder / part).mkdir()
        (folder / "db" / "rows.jsonl").touch()
        self.environment = {**os.environ, "FOLDER": str(folder), "PYTHONPATH": str(PLUGIN)}
        self.processes: list[subprocess.Popen[str]] = []
        self._rows = 0

    def cdc(self, *arguments: str) -> Result:
        """Run a command to its end, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(PLUGIN))
            return invoke(self.folder, self.environment, *arguments)

    def spawn(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "cdc", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def json(self, *arguments: str) -> Any:
        """The document that a command prints with ``--json``."""
        return json.loads(self.cdc(*arguments, "--json").stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that stays; its output is in ``out`` and ``err`` of the folder."""
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "cdc", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run_to_the_end(self, *roles: str) -> None:
        """Have the roles (default: all) catch up, one after the other."""
        for role in roles or ("source/db", "sink/one", "sink/two"):
            result = self.cdc("run", "--only", role, "--until-caught-up")
            assert result.exit_code == 0, result.stderr

    @property
    def stderr(self) -> str:
        """What the command started last has said so far."""
        return (self.folder / "err").read_text()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return (self.folder / "out").read_text()

    def insert(self, count: int) -> None:
        """Add rows to the source."""
        with (self.folder / "db" / "rows.jsonl").open("a") as file:
            for _ in range(count):
                self._rows += 1
                file.write(json.dumps({"id": self._rows, "v": f"value {self._rows}"}) + "\n")

    def stored(self, sink: str) -> int:
        """How many rows a sink holds."""
        path = self.folder / sink / "rows.json"
        return len(json.loads(path.read_text())) if path.exists() else 0

    def delivered(self, *sinks: str) -> None:
        """Wait until the sinks hold every row."""
        for sink in sinks:
            wait_until(lambda sink=sink: self.stored(sink) == self._rows, what=f"{sink} holding {self._rows} rows")

    def requests(self) -> Mapping[str, Mapping[str, Any]]:
        """What ``cdc snapshot`` has stored."""
        with closing(EmbeddedLog(EmbeddedConfig(path=self.folder / "log"), "shop")) as log:
            return log.states("snapshot_request")

    def fail(self, part: str, word: str | None) -> None:
        """Tell the source or a sink which error to meet, or to meet none."""
        file = self.folder / part / "fail"
        if word is None:
            file.unlink(missing_ok=True)
        else:
            file.with_suffix(".new").write_text(word)
            file.with_suffix(".new").rename(file)

    def pid(self, part: str) -> int:
        """Process of the worker of a part."""
        return int((self.folder / part / "pid").read_text())

    def state(self, role: str) -> str:
        """What a worker last said about itself."""
        with closing(EmbeddedLog(EmbeddedConfig(path=self.folder / "log"), "shop")) as log:
            return str(log.states("worker").get(role, {}).get("state"))

    def report(self, role: str, report: Mapping[str, Any]) -> None:
        """Say something in a worker's name."""
        with closing(EmbeddedLog(EmbeddedConfig(path=self.folder / "log"), "shop")) as log:
            log.put_state("worker", role, report)

    def kill(self, part: str) -> None:
        """Kill the worker of a part."""
        os.kill(self.pid(part), signal.SIGKILL)

    def says(self, text: str) -> None:
        """Wait until the command started last has said that on stderr."""
        wait_until(lambda: text in self.stderr, what=f"stderr containing {text!r}")

    def reaches(self, role: str, state: str) -> None:
        """Wait until a worker says that it is in that state."""
        wait_until(lambda: self.state(role) == state, what=f"{role} being {state}")


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    """A pipeline whose processes are killed at the end."""
    pipeline = Scripted(tmp_path)
    yield pipeline
    for process in pipeline.processes:
        process.kill()
        process.wait()
