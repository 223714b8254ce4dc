"""The terminal of ``cdc run``: the workers' lines, and below them a bar for each table that a snapshot reads."""

from __future__ import annotations

import datetime
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from cdc import logs
from cdc.progress import sentence

_STDERR: Final = 2


class _Console(Console):
    """Leaves the cursor alone: whoever is killed can't give it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002 - rich's signature
        return False


class _Line(msgspec.Struct):
    """What a line of ours has, as :mod:`cdc.logs` writes it."""

    event: str
    level: str
    timestamp: datetime.datetime
    worker: str = ""
    table: str = ""


class Screen:
    """Shows lines that are no progress as they are, and moves bars by those that are."""

    def __init__(self, console: Console, colours: bool) -> None:
        self._render = logs.terminal_renderer(colours)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        self._progress = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
        self._bars: dict[tuple[str, str], TaskID] = {}

    def line(self, line: str) -> None:
        """A line of this process or of a worker."""
        try:
            known = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError:
            self._print(line)
            return
        event, bar = msgspec.json.decode(line), (known.worker, known.table)
        if known.event == "snapshot.progress":
            self._move(bar, event)
            return
        if known.event == "snapshot.table_done" and bar in self._bars:
            self._progress.remove_task(self._bars.pop(bar))
            if not self._bars:
                self._progress.stop()
        event["timestamp"] = f"{known.timestamp.astimezone():%H:%M:%S}"
        self._print(self._render(None, event["level"], event))

    def raw(self, line: str) -> None:
        """A line as it is."""
        self._progress.console.file.write(line)

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def _print(self, line: str) -> None:
        self._progress.console.print(Text.from_ansi(line), soft_wrap=True)

    def _move(self, bar: tuple[str, str], event: Mapping[str, Any]) -> None:
        if bar not in self._bars:
            self._progress.start()
            self._bars[bar] = self._progress.add_task(bar[1], total=None, shown="")
        self._progress.update(
            self._bars[bar],
            completed=event["rows"],
            total=event.get("estimate"),
            shown=sentence(event),
            refresh=True,
        )


@contextmanager
def screen(colours: bool) -> Iterator[None]:
    """Whatever this process and its children write to stderr goes through a :class:`Screen` on the terminal there."""
    terminal, (read_end, write_end) = os.dup(_STDERR), os.pipe()
    console = _Console(file=os.fdopen(terminal, "w"), no_color=not colours)
    shown = Screen(console, colours)
    reader = threading.Thread(target=_read, args=(read_end, shown), daemon=True)
    os.dup2(write_end, _STDERR)
    os.close(write_end)
    os.environ[logs.SCREEN] = "1"
    logs.configure()
    reader.start()
    try:
        yield
    finally:
        del os.environ[logs.SCREEN]
        sys.stderr.flush()
        os.dup2(terminal, _STDERR)  # the last writer is gone, unless a worker is still there
        logs.configure(colours=colours)
        reader.join(1)
        shown.close()


def _read(read_end: int, shown: Screen) -> None:
    """Nobody who writes may ever wait for us, so whatever goes wrong with a line, the next one is read."""
    with os.fdopen(read_end, errors="replace") as lines:
        for line in lines:
            try:
                shown.line(line.rstrip("\n"))
            except Exception:  # noqa: BLE001 - whatever it is, the line is shown as it came
                shown.raw(line)
