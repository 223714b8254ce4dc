"""When an append is committed: at once while there is little, seldom while there is much."""

from __future__ import annotations

import pytest

from cdc import capture as module
from cdc.capture import BACKLOG_RECORDS, LOADED_COMMIT_SECONDS, Pace
from cdc.log import Produced

RECORD = Produced("t", b"k", b"v", b"")


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
    assert pace.due(dry=True)


def test_a_little_is_committed_at_once(clock: Clock) -> None:
    pace = Pace()
    pace.appended([[RECORD]])
    assert pace.open
    assert pace.due(dry=False)


def test_a_backlog_waits_for_more(clock: Clock) -> None:
    pace = Pace()
    pace.appended([[RECORD] * BACKLOG_RECORDS])
    assert not pace.due(dry=False)
    clock.now += LOADED_COMMIT_SECONDS * 0.9
    pace.appended([[RECORD]])
    assert not pace.due(dry=False), "what comes later does not begin the time anew, nor end it"
    clock.now += LOADED_COMMIT_SECONDS * 0.2
    assert pace.due(dry=False)


def test_a_backlog_that_dries_up_is_committed(clock: Clock) -> None:
    pace = Pace()
    pace.appended([[RECORD] * BACKLOG_RECORDS])
    assert pace.due(dry=True)


def test_the_source_is_waited_for_shortly_while_an_append_is_open(clock: Clock) -> None:
    pace = Pace()
    idle = pace.patience()
    pace.appended([[RECORD]])
    assert pace.patience() < idle / 10
    pace.committed()
    assert not pace.open
    assert pace.patience() == idle
