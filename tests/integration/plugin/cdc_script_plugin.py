"""A source that is a file and a store that is a file, found by entry points like any third party's plugin.

Both do as they are told by a file ``fail`` in their folder: its word decides which error they meet next.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cdc.capture import Item
from cdc.config.fields import Secret, SinkConfig, Url
from cdc.connector import Connector, SourceConfig, TableChanges
from cdc.errors import FencedError, GapError, PermanentError, TransientError, UnreachableError
from cdc.event import version
from cdc.findings import Finding, Severity
from cdc.log import Log, Produced
from cdc.record import LAYOUT, pack_header
from cdc.sink import Batch, Rejected, Sink
from cdc.worker import Control, State
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType

ERRORS = {
    "transient": TransientError,
    "unreachable": UnreachableError,
    "permanent": PermanentError,
    "gap": GapError,
    "fenced": FencedError,
    "bug": RuntimeError,
}


def fail_if_told(folder: Path, *leaks: str) -> None:
    """Raise what the file ``fail`` says, with secrets in the message as a careless driver would have them."""
    try:
        word = (folder / "fail").read_text().strip()
    except FileNotFoundError:
        return
    if word == "exit":
        os._exit(1)
    message = f"told to fail: {word}, connecting with {' and '.join(leaks)}"
    try:
        raise ValueError(message)
    except ValueError as cause:
        raise ERRORS[word](message) from cause


class ScriptConfig(SourceConfig):
    type: str
    tables: list[str]
    folder: Path
    url: Url = ""
    password: Secret | None = None


class ScriptConnector(Connector):
    Config: ClassVar[type[SourceConfig]] = ScriptConfig

    def __init__(self, name: str, config: SourceConfig, pipeline: str, topic_template: str, profile: str) -> None:
        assert isinstance(config, ScriptConfig)
        self._name, self._config, self._folder = name, config, config.folder
        topic = topic_template.format(pipeline=pipeline, source=name, schema="public", table="items")
        columns = (Column("id", LogicalType(Kind.INT64), "bigint"), Column("v", LogicalType(Kind.STRING), "text"))
        self._schema = TableSchema(topic, "public", "items", columns, ("id",), profile)

    def _leaks(self) -> list[str]:
        password = self._config.password
        return [self._config.url, password.get_secret_value() if password else "", repr(self._config)]

    def preflight(self) -> list[Finding]:
        fail_if_told(self._folder, *self._leaks())
        return [
            Finding("script.file", Severity.OK, "readable"),
            Finding("script.size", Severity.WARNING, "small", "write more"),
        ]

    def capture(self, log: Log, control: Control) -> None:
        if self._name in log.states("snapshot_request"):
            (self._folder / "fail").unlink(missing_ok=True)
            (self._folder / "snapshot").write_text(json.dumps(log.states("snapshot_request")[self._name]))
            log.put_state("snapshot_request", self._name, None)
        fail_if_told(self._folder, *self._leaks())
        log.create_topics([self._schema.topic])
        writer = log.writer(self._name)
        try:
            done = int(writer.fence() or 0)
            (self._folder / "pid").write_text(str(os.getpid()))
            while not control.stopping():
                fail_if_told(self._folder, *self._leaks())
                lines = (self._folder / "rows.jsonl").read_text().splitlines()[done:]
                if lines:
                    if done == 0:
                        writer.append_schema(self._schema)
                    records = [self._record(done + n + 1, json.loads(line)) for n, line in enumerate(lines)]
                    while records:
                        records = records[writer.append(records, 1.0) :]
                    done += len(lines)
                    while not writer.commit(str(done).encode(), 1.0):
                        control.report(State.STREAMING)
                control.report(State.STREAMING, progress={"position": str(done)})
                control.caught_up = True
                if control.until_caught_up and not lines:
                    return
                control.wait(0.02)
        finally:
            writer.close()

    def _record(self, number: int, row: dict[str, Any]) -> Produced:
        after = json.dumps(row).encode()
        before = b'{"before":null,"after":'
        key = json.dumps({"id": row["id"]}).encode()
        header = pack_header(LAYOUT, b"c", 0, 0, version(1, number), self._schema.id, len(before), len(after))
        return Produced(self._schema.topic, key, before + after + b',"op":"c"}', header)

    def tap(self, stopping: Callable[[], bool]) -> Generator[Sequence[Item], None, None]:
        fail_if_told(self._folder, *self._leaks())
        file = self._folder / "rows.jsonl"
        done = len(file.read_text().splitlines())
        yield []
        yield [self._schema]
        while not stopping():
            lines = file.read_text().splitlines()[done:]
            yield [[self._record(done + n + 1, json.loads(line)) for n, line in enumerate(lines)]]
            done += len(lines)
            time.sleep(0.02)

    def status(self, position: bytes | None) -> Mapping[str, Any]:
        lines = len((self._folder / "rows.jsonl").read_text().splitlines())
        stored = int(position or 0)
        return {"position": str(stored), "lag_bytes": lines - stored, "retained_bytes": 5 << 30, "warning": "much WAL"}

    def table_changes(self, position: bytes) -> TableChanges:
        return TableChanges({}, [])

    def row_schemas(self, position: bytes) -> Mapping[str, str]:
        return {"public.items": self._schema.id.hex()}

    def leftovers(self) -> list[str]:
        return ["slot script"]

    def cleanup(self) -> None:
        (self._folder / "cleaned").touch()

    def farewell(self) -> str:
        return "the script stays"


class FolderConfig(SinkConfig):
    folder: Path
    url: Url = ""
    token: Secret | None = None


class FolderSink(Sink):
    Config: ClassVar[type[SinkConfig]] = FolderConfig
    single_worker = True

    def __init__(self, name: str, config: SinkConfig, pipeline: str) -> None:
        assert isinstance(config, FolderConfig)
        self._config, self._folder = config, config.folder
        self._rows: dict[str, Any] = {}

    def _leaks(self) -> list[str]:
        token = self._config.token
        return [self._config.url, token.get_secret_value() if token else "", repr(self._config)]

    def check(self) -> list[Finding]:
        fail_if_told(self._folder, *self._leaks())
        return [Finding("folder.exists", Severity.OK, "there")]

    def open(self) -> None:
        fail_if_told(self._folder, *self._leaks())
        (self._folder / "pid").write_text(str(os.getpid()))
        if (self._folder / "rows.json").exists():
            self._rows = json.loads((self._folder / "rows.json").read_text())

    def write(self, batches: Sequence[Batch], topic_ids: Mapping[str, str]) -> Sequence[Rejected]:
        fail_if_told(self._folder, *self._leaks())
        for batch in batches:
            for row in batch.rows:
                self._rows[row.key.decode()] = json.loads(row.after or b"null")
        (self._folder / "rows.new").write_text(json.dumps(self._rows))
        (self._folder / "rows.new").rename(self._folder / "rows.json")
        return []

    def close(self) -> None:
        pass
