"""How far a snapshot has come: its lines, its report, and the terminal of ``cdc run``."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from cdc import progress
from cdc.cli.screen import Screen
from cdc.progress import SnapshotProgress, sentence


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_are_those_of_the_last_half_minute(clock: list[float]) -> None:
    found = SnapshotProgress()
    found.read("public.a", 1000, 100_000)
    assert found.of("public.a", 1000) == {"rows": 1000, "estimate": 100_000}
    for n in range(1, 61):
        clock[0] += 1
        found.read("public.a", 1000 + n * 100 + max(0, n - 30) * 400, 100_000)
    shown = found.of("public.a", 0)
    assert shown["rows_per_second"] == pytest.approx(500, rel=0.1)
    assert shown["seconds_left"] == pytest.approx((100_000 - 19_000) / 500, rel=0.1)


def test_an_estimate_that_is_passed_is_none(clock: list[float]) -> None:
    found = SnapshotProgress()
    found.read("public.a", 10, 5)
    clock[0] += 2
    found.read("public.a", 30, 5)
    assert found.of("public.a", 30) == {"rows": 30, "rows_per_second": 10}


def test_a_table_that_begins_anew_has_no_negative_rate(clock: list[float]) -> None:
    found = SnapshotProgress()
    for rows in (1000, 2000, 100):
        clock[0] += 1
        found.read("public.a", rows, None)
    assert "rows_per_second" not in found.of("public.a", 100)


def test_a_line_from_time_to_time_and_one_at_the_end(clock: list[float]) -> None:
    found = SnapshotProgress()
    with capture_logs() as lines:
        for rows in range(100, 2600, 100):
            found.read("public.a", rows, 2500)
            clock[0] += 1
        found.done("public.a", 2500)
    kinds = [(line["event"], line["rows"]) for line in lines]
    assert kinds == [
        ("snapshot.progress", 100),
        ("snapshot.progress", 1100),
        ("snapshot.progress", 2100),
        ("snapshot.table_done", 2500),
    ]


def test_what_is_waited_for_gets_a_line_if_it_lasts(clock: list[float]) -> None:
    found = SnapshotProgress()
    with capture_logs() as lines:
        for second in range(45):
            clock[0] += 1
            found.waits("x" if second % 25 else "")
    assert [line["what"] for line in lines] == ["x"] * 3


def test_the_sentence() -> None:
    assert sentence({"rows": 1234}) == "1,234 rows read"
    whole = {"rows": 1234, "estimate": 9000, "rows_per_second": 50, "seconds_left": 155}
    assert sentence(whole) == "1,234 of about 9,000 rows read, 50 rows/s, 0:02:35 left"


def _lines(*events: dict[str, Any] | str) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    screen = Screen(console, colours=False)
    for event in events:
        screen.line(event if isinstance(event, str) else json.dumps(event))
    screen.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _event(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "level": "info", "timestamp": "2026-01-02T03:04:05Z", "worker": "source/db", **fields}


def test_progress_moves_a_bar_per_table() -> None:
    text = _lines(
        _event("snapshot.progress", table="public.a", rows=10, estimate=100),
        _event("snapshot.progress", table="public.b", rows=20, estimate=100),
        _event("snapshot.table_done", table="public.a", rows=100),
        _event("snapshot.progress", table="public.b", rows=90, estimate=100),
    )
    assert "public.a" in text
    assert "10 of about 100 rows read" in text
    assert "90 of about 100 rows read" in text
    assert "snapshot.table_done" in text
    after = text.partition("90 of about")[2]
    assert "public.b" in after
    assert "public.a" not in after, "the bar of a table that is done has gone"


def test_other_lines_are_shown_as_they_are() -> None:
    odd = [
        "%3|FAIL|rdkafka#producer-1| refused",
        "[]",
        "{",
        '{"event": 5}',
        '{"event": "x"}',
        "null",
        "\x1b[31mred\x1b[0m",
    ]
    text = _lines(*odd, _event("worker.retrying", error="no answer", hint=None))
    for line in [*odd[:-1], "red"]:
        assert line in text
    assert "worker.retrying" in text
    assert "error='no answer'" in text
    assert "source/db" in text
