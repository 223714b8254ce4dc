"""What every command shares: which file, how to speak. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console, RenderableType

from cdc import logs
from cdc.config.load import find, load
from cdc.config.pipeline import Pipeline
from cdc.config.problems import InvalidConfiguration
from cdc.config.secrets import redact
from cdc.errors import CdcError
from cdc.log import Log

FINDING: Final = 5
"""Exit code of a command that found what it was asked to look for."""


@dataclass(frozen=True)
class Session:
    """One call of a command."""

    command: str
    file: Path | None
    profile: str | None
    json: bool
    colour: bool

    def pipeline(self) -> Pipeline:
        """The pipeline of the file and profile that were named, or of the default file. Raises ConfigurationError."""
        logs.configure(colours=self.colour)
        return load(find(self.file), profile=self.profile)

    @contextmanager
    def log(self, pipeline: Pipeline) -> Iterator[Log]:
        """The pipeline's log, for as long as the command needs it."""
        with closing(pipeline.open_log()) as log:
            yield log

    def say(self, text: str, style: str = "") -> None:
        """A line for people, on stderr."""
        self._console(sys.stderr).print(
            redact(text), style=style or None, markup=False, highlight=False, soft_wrap=True
        )

    def result(self, result: Mapping[str, Any], shown: RenderableType, *, ok: bool = True, summary: str = "") -> None:
        """What the command found out, on stdout: `shown` for people, or `result` in an envelope for ``--json``."""
        if self.json:
            self._envelope({"ok": ok, "summary": summary, "result": result, "error": None})
        elif isinstance(shown, str):
            self._console(sys.stdout).print(redact(shown), markup=False, highlight=False, soft_wrap=True)
        else:
            self._console(sys.stdout).print(shown)

    def failed(self, error: CdcError) -> None:
        """Show an error: what happened, and what to do next."""
        if self.json:
            found: dict[str, Any] = {"type": type(error).__name__, "message": str(error.args[0]), "hint": error.hint}
            if isinstance(error, InvalidConfiguration):
                found = {**found, "message": "the configuration is not valid", "problems": error.to_json()}
            found["exit_code"] = error.exit_code
            self._envelope({"ok": False, "summary": str(found["message"]), "result": None, "error": found})
            return
        if isinstance(error, InvalidConfiguration):
            self.say(str(error.args[0]))
            count = len(error.problems)
            files = ", ".join(dict.fromkeys(problem.place.file for problem in error.problems))
            self.say(f"{count} error{'s' if count > 1 else ''} in {files}", "bold red")
            return
        self.say(f"error: {error.args[0]}", "bold red")
        if error.hint:
            self.say(f"  -> {error.hint}")

    def broke(self, error: Exception) -> None:
        """Show what is a bug of ours: the traceback, without any value of a variable."""
        self.say("".join(traceback.format_exception(error)).rstrip())
        self.say("error: this is a bug in cdc; please report the lines above", "bold red")
        if self.json:
            found = {"type": type(error).__name__, "message": str(error), "hint": "this is a bug", "exit_code": 1}
            self._envelope({"ok": False, "summary": "a bug", "result": None, "error": found})

    def _console(self, stream: Any) -> Console:
        width = None if stream.isatty() else 200
        return Console(file=stream, no_color=not self.colour or None, width=width, emoji=False)

    def _envelope(self, parts: Mapping[str, Any]) -> None:
        document = redact(json.dumps({"command": self.command, **parts}, ensure_ascii=False, default=str))
        sys.stdout.write(document + "\n")
        sys.stdout.flush()
