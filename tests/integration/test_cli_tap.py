"""``cdc tap``, as a user calls it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from cdc.cli.tap import sink as module
from cdc.cli.tap.remarks import Remarks
from cdc.cli.tap.sink import Applied
from cdc.log.embedded import EmbeddedConfig, EmbeddedLog
from schemas.table import Column, TableSchema
from schemas.types import Kind, LogicalType
from tests.contract.logs import beginning, commit
from tests.integration.scripted import Scripted, scripted
from tests.servers import wait_until

__all__ = ["scripted"]


def delivered(scripted: Scripted, rows: int) -> None:
    scripted.insert(rows)
    scripted.run_to_the_end()


def shown(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ids(text: str) -> list[int]:
    return sorted(event["key"]["id"] for event in shown(text))


def end(process: subprocess.Popen[str]) -> None:
    """What a user does who has seen enough."""
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_tap_writes_events_to_stdout_and_all_else_to_stderr(scripted: Scripted) -> None:
    delivered(scripted, 20)
    result = scripted.cdc("tap", "--from", "beginning", "--limit", "20")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["key"]["id"] for event in events} == set(range(1, 21))
    assert {(event["table"], event["op"], event["epoch"]) for event in events} == {("public.items", "c", 1)}
    assert events[0]["value"]["after"]["v"] == f"value {events[0]['key']['id']}"
    assert "tapping shop" in result.stderr
    assert "20 event(s)" in result.stderr


@pytest.mark.parametrize("key", ["7", "id=7", '{"id":7}'])
def test_tap_by_key(scripted: Scripted, key: str) -> None:
    delivered(scripted, 20)
    result = scripted.cdc(
        "tap", "--from", "beginning", "--limit", "1", "--key", key, "--op", "c", "--table", "public.*"
    )
    assert json.loads(result.stdout)["key"] == {"id": 7}


def test_tap_as_diff(scripted: Scripted) -> None:
    delivered(scripted, 1)
    result = scripted.cdc("tap", "--from", "beginning", "--limit", "1", "--format", "diff")
    head, *columns = result.stdout.splitlines()
    assert head.endswith(' c public.items {"id": 1}')
    assert columns == ["    + id: 1", '    + v: "value 1"']


def test_tap_from_the_end_shows_only_what_comes_and_a_signal_ends_it(scripted: Scripted) -> None:
    delivered(scripted, 5)
    tap = scripted.start("tap")
    wait_until(lambda: "tapping shop" in scripted.stderr)
    scripted.insert(1)
    output = scripted.folder / "out"

    def seen() -> bool:
        scripted.insert(1)  # the reader may not have taken its place yet when the first ones come
        scripted.run_to_the_end("source/db")
        return bool(output.read_text())

    wait_until(seen)
    tap.send_signal(signal.SIGINT)
    assert tap.wait(10) == 0
    assert all(json.loads(line)["key"]["id"] > 5 for line in output.read_text().splitlines())


def test_tap_into_a_pipe_that_closes(scripted: Scripted) -> None:
    delivered(scripted, 3000)
    command = f"{sys.executable} -m cdc tap --from beginning 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=scripted.folder,
        env=scripted.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.splitlines()[1] == "0"
    assert "Traceback" not in scripted.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--op", "x"),
        ("--format", "yaml"),
        ("--from", "yesterday"),
        ("--from", "-3"),
        ("--key", "{x"),
        ("--since", "10"),
        ("--since", "soon"),
        ("--since", "2999-01-01"),
        ("--since", "1h", "--from", "beginning"),
        ("--at", "source", "--from", "end"),
        ("--at", "source", "--since", "1h"),
        ("--at", "warehouse"),
        ("--at", "sink"),
        ("--at", "sink/tow"),
        ("--from", "0"),
    ],
)
def test_what_is_refused_says_what_to_do(scripted: Scripted, arguments: tuple[str, ...]) -> None:
    result = scripted.cdc("tap", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr
    assert "  -> " in result.stderr


def test_a_part_that_is_not_there_or_not_the_only_one(scripted: Scripted) -> None:
    assert "did you mean sink/two?" in scripted.cdc("tap", "--at", "sink/tow").stderr
    assert "--at sink/one or sink/two" in scripted.cdc("tap", "--at", "sink").stderr


def test_help_has_an_example_for_each_place(scripted: Scripted) -> None:
    text = scripted.cdc("tap", "--help").stdout
    for example in ("cdc tap --at topic ", "cdc tap --at source ", "cdc tap --at sink/"):
        assert example in text


# -- where to begin ----------------------------------------------------------------------------------------------------


def test_from_an_offset_in_each_partition(scripted: Scripted) -> None:
    delivered(scripted, 20)
    everything = shown(scripted.cdc("tap", "--from", "beginning", "--limit", "20").stdout)
    expected = {(event["partition"], event["offset"]) for event in everything if event["offset"] >= 3}
    result = scripted.cdc("tap", "--from", "3", "--limit", str(len(expected)))
    assert {(event["partition"], event["offset"]) for event in shown(result.stdout)} == expected
    assert 0 < len(expected) < 20
    assert "has the offsets" not in result.stderr


def test_an_offset_is_for_one_table(scripted: Scripted) -> None:
    delivered(scripted, 20)
    with closing(EmbeddedLog(EmbeddedConfig(path=scripted.folder / "log"), "shop")) as log:
        column = Column("id", LogicalType(Kind.INT64), "bigint")
        log.create_topics(["shop.public.others"])
        with closing(log.writer("other")) as writer:
            writer.fence()
            writer.append_schema(TableSchema("shop.public.others", "public", "others", (column,), ("id",)))
            commit(writer, b"p")
    result = scripted.cdc("tap", "--from", "0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has these topics: shop.public.items, shop.public.others" in result.stderr
    assert ids(scripted.cdc("tap", "--from", "0", "--table", "*.items", "--limit", "20").stdout) == list(range(1, 21))


def test_from_an_offset_that_is_gone_it_begins_with_what_is_there_and_says_so(scripted: Scripted) -> None:
    delivered(scripted, 20)
    ends = {event["partition"]: 0 for event in shown(scripted.cdc("tap", "--since", "1h", "--limit", "20").stdout)}
    assert sorted(ends) == [0, 1]
    with closing(sqlite3.connect(scripted.folder / "log" / "shop" / "source-db.db")) as file, file:
        file.execute("UPDATE partitions SET start_offset = 2 WHERE partition = 1")  # as the cleaner does
    result = scripted.cdc("tap", "--from", "0", "--limit", "18")
    assert min(event["offset"] for event in shown(result.stdout) if event["partition"] == 1) == 2
    assert min(event["offset"] for event in shown(result.stdout) if event["partition"] == 0) == 0
    assert re.search(r"partition 1 has the offsets 2 to \d+ now: it is shown from 2 on", result.stderr)
    assert "partition 0" not in result.stderr


def test_from_an_offset_that_is_still_to_come(scripted: Scripted) -> None:
    delivered(scripted, 2)
    tap = scripted.start("tap", "--from", "1000")
    scripted.says("tapping shop")
    assert scripted.stderr.count("has the offsets 0 to ") == 2
    scripted.insert(1)
    scripted.run_to_the_end("source/db")
    wait_until(lambda: ids(scripted.stdout) == [3])
    end(tap)


@pytest.mark.parametrize("form", ["utc", "offset", "local"])
def test_since_a_time(scripted: Scripted, form: str) -> None:
    delivered(scripted, 5)
    between = time.time() + 0.01
    wait_until(lambda: time.time() > between + 0.01)
    delivered(scripted, 5)
    moment = datetime.fromtimestamp(between, UTC)
    text = {
        "utc": moment.isoformat().replace("+00:00", "Z"),
        "offset": moment.isoformat(),
        "local": datetime.fromtimestamp(between).isoformat(),
    }[form]
    result = scripted.cdc("tap", "--since", text, "--limit", "5")
    assert ids(result.stdout) == [6, 7, 8, 9, 10]
    assert f"from what was appended since {text}" in result.stderr


def test_since_so_long_ago(scripted: Scripted) -> None:
    delivered(scripted, 5)
    assert ids(scripted.cdc("tap", "--since", "10m", "--limit", "5").stdout) == [1, 2, 3, 4, 5]


# -- at a source -------------------------------------------------------------------------------------------------------


def test_a_source_is_shown_although_nothing_runs(scripted: Scripted) -> None:
    scripted.insert(2)
    tap = scripted.start("tap", "--at", "source")
    scripted.says("tapping shop at source/db from now on")
    scripted.insert(2)
    wait_until(lambda: ids(scripted.stdout) == [3, 4])
    end(tap)
    event = shown(scripted.stdout)[0]
    assert (event["table"], event["op"], event["value"]["after"]["v"]) == ("public.items", "c", "value 3")
    on_log = ("epoch", "sequence", "topic", "partition", "offset", "timestamp")
    assert [event[name] for name in on_log] == [None] * 6
    assert not (scripted.folder / "log").exists()


def test_a_source_by_table_key_and_operation_as_diff(scripted: Scripted) -> None:
    arguments = ("--at", "source/db", "--key", "2", "--op", "c", "--table", "public.*", "--format", "diff")
    tap = scripted.start("tap", *arguments, "--limit", "1")
    scripted.says("tapping shop")
    scripted.insert(3)
    assert tap.wait(20) == 0
    head, *columns = scripted.stdout.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d c public.items {\"id\": 2}", head)
    assert columns == ["    + id: 2", '    + v: "value 2"']


def test_a_source_that_fails_is_an_error(scripted: Scripted) -> None:
    scripted.fail("db", "unreachable")
    result = scripted.cdc("tap", "--at", "source")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "told to fail: unreachable" in result.stderr


# -- at a sink ---------------------------------------------------------------------------------------------------------


def test_a_sink_is_shown_once_it_has_committed(scripted: Scripted) -> None:
    scripted.insert(5)
    scripted.run_to_the_end("source/db")
    tap = scripted.start("tap", "--at", "sink/one", "--from", "beginning")
    scripted.says("tapping shop at sink/one from the beginning")
    scripted.run_to_the_end("sink/two")
    assert ids(scripted.cdc("tap", "--at", "sink/two", "--from", "beginning", "--limit", "5").stdout) == [1, 2, 3, 4, 5]
    assert scripted.stdout == ""
    assert list((scripted.folder / "log" / "shop").glob("group-one*")) == []  # no member
    scripted.run_to_the_end("sink/one")
    wait_until(lambda: ids(scripted.stdout) == [1, 2, 3, 4, 5])
    end(tap)


def test_the_end_of_a_sink_is_what_it_has_applied(scripted: Scripted) -> None:
    delivered(scripted, 3)
    scripted.insert(2)
    scripted.run_to_the_end("source/db")
    tap = scripted.start("tap", "--at", "sink/one")
    scripted.says("tapping shop")
    scripted.run_to_the_end("sink/one")
    wait_until(lambda: ids(scripted.stdout) == [4, 5])
    end(tap)


def test_a_sink_shows_the_tables_that_it_receives(scripted: Scripted) -> None:
    delivered(scripted, 3)
    one = "one: {type: folder,"
    scripted.file.write_text(scripted.file.read_text().replace(one, f'{one} tables: ["!public.items"],'))
    result = scripted.cdc("tap", "--at", "sink/one", "--from", "0")
    assert result.exit_code == 2
    assert "what is selected has these topics: none yet" in result.stderr


def test_a_sink_that_is_behind_is_told_of(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "clock", lambda: now[0])
    scripted.insert(5)
    scripted.run_to_the_end("source/db")
    remarks = Remarks(0, lambda _: None)
    with closing(EmbeddedLog(EmbeddedConfig(path=scripted.folder / "log"), "shop")) as log:
        gate = Applied(log, "one", remarks)
        with closing(log.reader(None, lambda _: True, beginning, lambda _: None)) as reader:
            for at, expected in ((0.0, ""), (4.9, ""), (5.1, "sink one has not applied what is next on the log")):
                now[0] = at
                assert gate(reader, reader.poll(0)) == []
                assert remarks.waiting == expected
            scripted.run_to_the_end("sink/one")
            now[0] = 6.0
            assert sum(len(part.records) for part in gate(reader, reader.poll(0))) == 5
            assert remarks.waiting == ""


# -- how much is shown -------------------------------------------------------------------------------------------------


def counts(scripted: Scripted) -> tuple[int, int]:
    """How many events were shown, and how many left out as last said."""
    said = re.findall(r"(\d+) left out", scripted.stderr)
    return len(scripted.stdout.splitlines()), int(said[-1]) if said else 0


@pytest.mark.parametrize("at", ["topic", "sink/one", "source"])
def test_a_rate_shows_some_and_counts_the_rest(scripted: Scripted, at: str) -> None:
    if at != "source":
        delivered(scripted, 3000)
    began = time.monotonic()
    tap = scripted.start("tap", "--at", at, "--rate", "5", *(() if at == "source" else ("--from", "beginning")))
    scripted.says("tapping shop")
    if at == "source":
        scripted.insert(3000)
    wait_until(lambda: sum(counts(scripted)) == 3000, what="all of them read")
    end(tap)
    number, _ = counts(scripted)
    assert 0 < number <= 5 * (time.monotonic() - began + 1)
    assert scripted.stderr.splitlines()[-1] == (
        f"{number} event(s), {3000 - number} left out (more than 5 a second: --rate)"
    )


def test_a_terminal_has_a_rate_unless_told_otherwise(scripted: Scripted) -> None:
    delivered(scripted, 3000)
    for arguments, expected in (((), "100 event(s), 2900 left out"), (("--rate", "0"), "3000 event(s)")):
        ours, theirs = pty.openpty()
        err = scripted.folder / "err"
        with err.open("w") as errors:
            command = [sys.executable, "-m", "cdc", "tap", "--from", "beginning", *arguments]
            tap = subprocess.Popen(
                command, cwd=scripted.folder, env=scripted.environment, stdout=theirs, stderr=errors, text=True
            )
        scripted.processes.append(tap)
        os.close(theirs)
        lines = 0
        while lines < int(expected.split()[0]):
            lines += os.read(ours, 65536).count(b"\n")
        end(tap)
        os.close(ours)
        assert expected in scripted.stderr.splitlines()[-1]


def test_a_signal_ends_it_although_nobody_takes_what_it_writes(scripted: Scripted) -> None:
    delivered(scripted, 3000)
    with (scripted.folder / "err").open("w") as err:
        command = [sys.executable, "-m", "cdc", "tap", "--from", "beginning"]
        tap = subprocess.Popen(
            command, cwd=scripted.folder, env=scripted.environment, stdout=subprocess.PIPE, stderr=err, text=True
        )
    scripted.processes.append(tap)
    scripted.says("tapping shop")
    assert tap.stdout is not None
    end(tap)
    assert re.fullmatch(r"\d+ event\(s\)", scripted.stderr.splitlines()[-1])
