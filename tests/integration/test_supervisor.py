"""The supervisor: workers start again, fail alone, end together."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.integration.scripted import Scripted, scripted
from tests.servers import wait_until

__all__ = ["scripted"]


def test_every_row_reaches_every_sink_and_a_signal_drains(scripted: Scripted) -> None:
    scripted.insert(10)
    run = scripted.start("run")
    scripted.delivered("one", "two")
    scripted.insert(5)
    scripted.delivered("one", "two")
    run.send_signal(signal.SIGTERM)
    assert run.wait(20) == 0
    assert "source/db: the script stays" in scripted.stderr
    assert [scripted.state(role) for role in ("source/db", "sink/one", "sink/two")] == ["stopped"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_aborts(scripted: Scripted, number: signal.Signals) -> None:
    scripted.insert(1)
    run = scripted.start("run")
    scripted.delivered("one")
    worker = psutil.Process(scripted.pid("one"))
    worker.suspend()  # so that the drain cannot end
    run.send_signal(number)
    wait_until(lambda: "run.draining" in scripted.stderr)
    run.send_signal(number)
    assert run.wait(10) == 128 + number
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, what="the worker's end")


def test_until_caught_up_ends_when_the_sinks_have_what_the_sources_brought(scripted: Scripted) -> None:
    scripted.insert(200)
    result = scripted.spawn("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert (scripted.stored("one"), scripted.stored("two")) == (200, 200)


def test_until_caught_up_returns_the_worst_code_and_lets_the_others_finish(scripted: Scripted) -> None:
    scripted.insert(3)
    scripted.fail("two", "gap")
    result = scripted.spawn("run", "--until-caught-up")
    assert (result.returncode, scripted.stored("one")) == (6, 3)


def test_a_worker_that_was_killed_starts_again(scripted: Scripted) -> None:
    scripted.insert(3)
    scripted.start("run")
    scripted.delivered("one", "two")
    first = scripted.pid("db")
    os.kill(first, signal.SIGKILL)
    scripted.insert(3)
    scripted.delivered("one", "two")
    assert scripted.pid("db") != first


def test_transient_errors_are_retried_for_ever(scripted: Scripted) -> None:
    scripted.insert(1)
    scripted.fail("one", "transient")
    scripted.start("run")
    scripted.delivered("two")
    scripted.reaches("sink/one", "retrying")
    scripted.insert(1)
    scripted.delivered("two")  # undisturbed
    scripted.fail("one", None)
    scripted.delivered("one")


def test_a_worker_that_cannot_go_on_is_failed_and_the_others_go_on(scripted: Scripted) -> None:
    scripted.insert(1)
    scripted.fail("one", "permanent")
    run = scripted.start("run")
    scripted.reaches("sink/one", "failed")
    scripted.insert(4)
    scripted.delivered("two")
    assert run.poll() is None


@pytest.mark.parametrize(
    ("word", "code", "state"),
    [("permanent", 1, "failed"), ("bug", 1, "failed"), ("fenced", 1, "failed"), ("gap", 6, "needs_rebuild")],
)
def test_how_a_sink_ends(scripted: Scripted, word: str, code: int, state: str) -> None:
    scripted.fail("one", word)
    assert scripted.cdc("run", "--only", "sink/one").exit_code == code
    shown = scripted.json("status")["result"]["sinks"]["one"]
    assert shown["state"] == state
    assert "told to fail" in shown["error"]


def test_a_fenced_source_takes_its_role_again(scripted: Scripted) -> None:
    scripted.fail("db", "fenced")
    scripted.start("run")
    scripted.reaches("source/db", "retrying")
    scripted.fail("db", None)
    scripted.insert(2)
    scripted.delivered("one")


def test_a_gap_waits_for_a_snapshot_that_somebody_asks_for(scripted: Scripted) -> None:
    scripted.insert(2)
    scripted.fail("db", "gap")
    run = scripted.start("run")
    scripted.reaches("source/db", "needs_snapshot")
    assert scripted.stored("one") == 0
    assert scripted.cdc("snapshot").exit_code == 0
    scripted.delivered("one", "two")
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 0


def test_workers_die_with_the_supervisor(scripted: Scripted) -> None:
    scripted.insert(1)
    run = scripted.start("run")
    scripted.delivered("one", "two")
    workers = psutil.Process(run.pid).children(recursive=True)
    assert len(workers) == 3
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_one_role_runs_in_the_process_itself(scripted: Scripted) -> None:
    scripted.insert(2)
    source = scripted.start("run", "--only", "source/db")
    wait_until(lambda: (scripted.folder / "db" / "pid").exists())
    assert scripted.pid("db") == source.pid
    scripted.run_to_the_end("sink/two")
    assert (scripted.stored("one"), scripted.stored("two")) == (0, 2)
    source.send_signal(signal.SIGTERM)
    assert source.wait(20) == 0


def test_the_only_role_with_a_gap_ends_when_stopped(scripted: Scripted) -> None:
    scripted.fail("db", "gap")
    source = scripted.start("run", "--only", "source/db")
    scripted.reaches("source/db", "needs_snapshot")
    source.send_signal(signal.SIGTERM)
    assert source.wait(20) == 0


def test_a_role_that_does_not_exist_is_refused(scripted: Scripted) -> None:
    result = scripted.cdc("run", "--only", "sink/onee")
    assert result.exit_code == 2
    assert "did you mean sink/one?" in result.stderr


def test_on_a_terminal_the_lines_of_all_workers_are_for_people(scripted: Scripted) -> None:
    scripted.insert(2)
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "cdc", "run", "--until-caught-up"]
    process = subprocess.Popen(
        command, cwd=scripted.folder, env=scripted.environment, stdin=subprocess.DEVNULL, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody writes to the terminal any more
        while read := os.read(main, 4096):
            shown += read
    os.close(main)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "pipeline shop: source/db, sink/one, sink/two" in text
    for role in ("source/db", "sink/one", "sink/two"):
        assert re.search(rf"^\S*\d\d:\d\d:\d\d.*worker\.ended.*{role}", text, re.MULTILINE), text
    assert "source/db: the script stays" in text
    assert scripted.stored("two") == 2
