"""When an append is committed: at once while there is little, seldom while there is much."""

from __future__ import annotations

import pytest

from cdc import capture as module
from cdc.capture import LOADED_COMMIT_SECONDS, Pace


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_place_without_records_is_stored_when_the_source_is_silent(clock: Clock) -> None:
    pace = Pace()
    assert not pace.open
    assert pace.due(more=False)


def test_all_that_there_is_is_committed_at_once(clock: Clock) -> None:
    pace = Pace()
    pace.appended()
    assert pace.open
    assert pace.due(more=False)


def test_a_backlog_waits_for_more(clock: Clock) -> None:
    pace = Pace()
    pace.appended()
    assert not pace.due(more=True)
    clock.now += LOADED_COMMIT_SECONDS * 0.9
    pace.appended()
    assert not pace.due(more=True), "what comes later does not begin the time anew, nor end it"
    clock.now += LOADED_COMMIT_SECONDS * 0.2
    assert pace.due(more=True)
    pace.committed()
    pace.appended()
    assert not pace.due(more=True)


def test_the_source_is_waited_for_shortly_while_an_append_is_open(clock: Clock) -> None:
    pace = Pace()
    idle = pace.patience()
    pace.appended()
    assert pace.patience() < idle / 10
    pace.committed()
    assert not pace.open
    assert pace.patience() == idle
