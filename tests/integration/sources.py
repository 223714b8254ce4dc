"""A source under test: capture in this thread, in another one, or in a process of its own; and the log, folded."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from cdc.connector import Connector
from cdc.errors import CdcError, TransientError
from cdc.formats.json import decode
from cdc.log import Log, LogWriter, Record, TopicPartition, topic_name
from cdc.log.embedded import EmbeddedConfig, EmbeddedLog
from cdc.record import PARTIAL, TOMBSTONE, Header, unpack_header
from cdc.worker import Control
from tests.servers import wait_until

SOURCE = "shop"
PIPELINE = "test"
TOPICS = "{pipeline}.{schema}.{table}"


class Logged(NamedTuple):
    """A record of the log with its header decoded."""

    topic: str
    partition: int
    record: Record
    header: Header

    @property
    def operation(self) -> str:
        return self.header.operation.decode()

    @property
    def version(self) -> int:
        return self.header.version

    @property
    def envelope(self) -> dict[str, Any]:
        """The value as a reader of Debezium topics sees it."""
        assert self.record.value
        document: dict[str, Any] = json.loads(self.record.value)
        return document

    @property
    def after(self) -> dict[str, Any]:
        row: dict[str, Any] = self.envelope["after"]
        return row


@dataclass
class Source:
    """One configured source. `options` are the connector's, as they would stand in YAML."""

    dsn: str
    folder: Path
    options: dict[str, Any]
    partitions: int = 3
    profile: str = "readable"
    topics: str = TOPICS
    log: Log = field(init=False)
    module: ClassVar[str]
    """Runs :func:`main`."""

    def __post_init__(self) -> None:
        self.log = EmbeddedLog(self.log_config(), PIPELINE)

    def log_config(self) -> EmbeddedConfig:
        topics = {"partitions": self.partitions, "cleanup": "keep"}
        return EmbeddedConfig.model_validate({"path": self.folder / "log", "topics": topics})

    def changed(self, **options: Any) -> Source:
        """The same source after its YAML was edited."""
        settings = {name: options.pop(name) for name in ("dsn", "partitions", "profile", "topics") if name in options}
        return type(self)(
            settings.get("dsn", self.dsn),
            self.folder,
            {**self.options, **options},
            settings.get("partitions", self.partitions),
            settings.get("profile", self.profile),
            settings.get("topics", self.topics),
        )

    @property
    def connector(self) -> Connector:
        """A new one."""
        raise NotImplementedError

    def catch_up_condition(self) -> Callable[[], bool]:
        """Tells whether all that the database holds now is on the log."""
        raise NotImplementedError

    def database_rows(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The rows of a table in the database, by the same key, values in the same form."""
        raise NotImplementedError

    def capture(self, seconds: float = 20) -> None:
        """Capture until caught up, here; errors are raised as a supervisor would see them, transient ones too."""
        with Control(f"source/{SOURCE}", self.log, until_caught_up=True) as control:
            timer = threading.Timer(seconds, control.stop)
            timer.start()
            try:
                self.connector.capture(self.log, control)
            finally:
                timer.cancel()
        assert control.caught_up, f"not caught up after {seconds} s: {self.log.states('worker')}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        """Capture in a thread until the end of the block; what is transient is tried again, as a supervisor does."""
        running = Running(self)
        running.thread.start()
        try:
            yield running
        finally:
            running.control.stop()
            running.thread.join(60)
            assert not running.thread.is_alive(), "capture does not stop"

    def process(
        self, failpoint: str = "", patches: Mapping[str, Any] | None = None, until_caught_up: bool = True
    ) -> Process:
        """Capture in a process of its own, to be killed. `patches`: ``module:NAME`` → value, of constants."""
        return Process(self, failpoint, patches or {}, until_caught_up)

    def request_snapshot(self, *tables: str) -> None:
        """What ``cdc snapshot`` stores."""
        self.log.put_state("snapshot_request", SOURCE, {"id": uuid.uuid4().hex, "tables": list(tables)})

    def request_keys(self, table: str, *keys: bytes | str) -> None:
        """What ``cdc snapshot TABLE --keys`` stores, as one part."""
        id_ = str(time.time_ns())
        listed = [key.decode() if isinstance(key, bytes) else key for key in keys]
        self.log.put_state("snapshot_request", f"{SOURCE}/{id_}", {"id": id_, "tables": [table], "keys": listed})

    # -- the log, read back --------------------------------------------------------------------------------------------

    def records(self, table: str | None = None) -> list[Logged]:
        """All committed records (of ``schema.table``), by version, then partition and offset."""
        topic = None if table is None else self.topic(table)
        topics = [name for name in self.log.topics() if topic in (None, name)]
        partitions = [TopicPartition(name, n) for name in topics for n in range(self.log.topics()[name].partitions)]
        ends = self.log.end_offsets(partitions)
        found: list[Logged] = []
        reader = self.log.reader(None, topics.__contains__, lambda _: dict.fromkeys(partitions, 0), lambda _: None)
        try:
            while partitions and any(reader.position().get(tp, 0) < end for tp, end in ends.items()):
                for fetched in reader.poll(1.0):
                    found += [
                        Logged(fetched.topic, fetched.partition, record, unpack_header(record.header))
                        for record in fetched.records
                    ]
        finally:
            reader.close()
        _check_order(found)
        return sorted(found, key=lambda logged: (logged.version, logged.partition, logged.record.offset))

    def topic(self, table: str) -> str:
        """The topic of ``schema.table``."""
        schema, name = table.split(".", 1)
        return topic_name(self.topics, pipeline=PIPELINE, source=SOURCE, schema=schema, table=name)

    def events(self, table: str | None = None) -> list[Logged]:
        """The records without tombstones and markers."""
        return [r for r in self.records(table) if not r.header.flags & TOMBSTONE and r.operation in "crudm"]

    def rows(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        """What a store holds after the whole log: the rows of a table by key, values as :func:`as_text` has them."""
        schemas = self.log.schemas()
        held: dict[bytes, tuple[int, tuple[Any, ...], dict[str, Any]]] = {}
        floor = 0
        for logged in self.records(table):
            key, header, record = logged.record.key, logged.header, logged.record
            if logged.operation in "ts":
                if logged.operation == "t":
                    held = {k: row for k, row in held.items() if row[0] >= header.version}
                floor = max(floor, header.version)
            elif not record.value:
                continue
            elif logged.operation == "d":
                held.pop(key, None)
            else:
                schema = schemas[header.schema_id]
                partial = bool(header.flags & PARTIAL)
                after = record.value[header.after_start :][: header.after_length]
                row = {name: as_text(value) for name, value in decode(schema, after, partial).items()}
                if partial and key in held:
                    row = {**held[key][2], **row}
                held[key] = header.version, tuple(row[name] for name in schema.key), row
        return {key: row for version, key, row in held.values() if version >= floor}

    def assert_equal(self, *tables: str) -> None:
        """The folded log equals the database, row by row. A row from before a column was added has it as null."""
        for table in tables:
            expected, found = self.database_rows(table), self.rows(table)
            assert found.keys() == expected.keys(), f"{table}: keys differ"
            for key, row in expected.items():
                assert {name: found[key].get(name) for name in row} == row, f"{table}: row {key} differs"

    def differs(self, table: str) -> bool:
        """Whether the folded log is not the database."""
        try:
            self.assert_equal(table)
        except AssertionError:
            return True
        return False


def as_text(value: Any) -> Any:
    """A canonical value as PostgreSQL's text, near enough to compare."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return value


def _check_order(found: list[Logged]) -> None:
    """What holds for every log: per partition the version of rows only rises, and no version has two contents."""
    last: dict[tuple[str, int], int] = {}
    contents: set[tuple[int, bool]] = set()
    for logged in sorted(found, key=lambda r: (r.topic, r.partition, r.record.offset)):
        tombstone = bool(logged.header.flags & TOMBSTONE)
        if logged.operation in "ts":
            continue
        place = logged.topic, logged.partition
        before = last.get(place, 0)
        assert logged.version > before or (tombstone and logged.version == before), "a version fell, or came twice"
        last[place] = logged.version
        assert (logged.version, tombstone) not in contents, f"version {logged.version} stands on the log twice"
        contents.add((logged.version, tombstone))


def assert_dense(records: list[Logged]) -> None:
    """Within each epoch the sequence has no gap."""
    epochs: dict[int, set[int]] = {}
    for logged in records:
        epochs.setdefault(logged.version >> 48, set()).add(logged.version & (1 << 48) - 1)
    for epoch, sequences in epochs.items():
        missing = set(range(1, max(sequences) + 1)) - sequences
        assert not missing, f"epoch {epoch} lacks {sorted(missing)[:10]} of {max(sequences)}"


class Running:
    """A capture thread. `errors` are the transient ones it went on after; `fatal` is what ended it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.control = Control(f"source/{SOURCE}", source.log)
        self.errors: list[TransientError] = []
        self.fatal: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="capture under test")

    def _run(self) -> None:
        with self.control:
            self._capture()

    def _capture(self) -> None:
        while not self.control.stopping():
            try:
                self.source.connector.capture(self.source.log, self.control)
            except TransientError as error:
                self.errors.append(error)
                self.control.wait(0.2)
            except BaseException as error:  # noqa: BLE001 - kept for the test
                self.fatal = error
                return

    def wait(self, condition: Callable[[], object], what: str = "the condition", seconds: float = 20) -> None:
        """Wait for `condition`; an end of the capture meanwhile is the test's failure."""

        def true() -> bool:
            if self.fatal is not None:
                raise self.fatal
            return bool(condition())

        try:
            wait_until(true, seconds=seconds, what=what)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}; {self.source.log.states('worker')}; {self.errors[-3:]}")

    def catch_up(self, seconds: float = 20) -> None:
        """Wait until all that the database holds now is on the log."""
        self.wait(self.source.catch_up_condition(), "capture to catch up", seconds)


def count_fences(monkeypatch: pytest.MonkeyPatch, log_: Log) -> list[str]:
    """From now on, the sources whose log is taken over."""
    fences: list[str] = []
    original = log_.writer

    def writer(name: str) -> LogWriter:
        made = original(name)
        fence = made.fence
        made.fence = lambda: (fences.append(name), fence())[1]  # type: ignore[method-assign]  # counts the calls
        return made

    monkeypatch.setattr(log_, "writer", writer)
    return fences


class Process:
    """A capture process, ended at the latest by :meth:`end`."""

    def __init__(self, source: Source, failpoint: str, patches: Mapping[str, Any], until_caught_up: bool) -> None:
        task = {
            "dsn": source.dsn,
            "folder": str(source.folder),
            "options": source.options,
            "partitions": source.partitions,
            "profile": source.profile,
            "patches": dict(patches),
            "until_caught_up": until_caught_up,
        }
        self._output = source.folder / f"process-{uuid.uuid4().hex[:8]}.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", source.module, json.dumps(task)],
                env={**os.environ, "CDC_FAILPOINT": failpoint},
                cwd=Path(__file__).parents[2],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float = 60) -> int:
        """Its exit code; negative: the signal that ended it."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            pytest.fail(f"capture did not end: {self.output()[-3000:]}")

    def output(self) -> str:
        return self._output.read_text()

    def peak(self) -> float:
        """Most memory that it ever had, MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


def main(kind: type[Source]) -> int:
    """What a capture process runs."""
    task = json.loads(sys.argv[1])
    for name, value in task["patches"].items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    source = kind(task["dsn"], Path(task["folder"]), task["options"], task["partitions"], task["profile"])
    with Control(f"source/{SOURCE}", source.log, until_caught_up=task["until_caught_up"]) as control:
        signal.signal(signal.SIGTERM, lambda *_: control.stop())
        return _capture(source, control)


def _capture(source: Source, control: Control) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            source.connector.capture(source.log, control)
            return 0
        except TransientError as error:
            print(error, flush=True)
            control.wait(0.2)
        except CdcError as error:
            print(error, flush=True)
            return error.exit_code
    return 1
