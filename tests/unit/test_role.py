"""How long a worker waits, and when it counts as running."""

from __future__ import annotations

import time

import pytest

from cdc.role import LONGEST_PAUSE_SECONDS, full_jitter
from cdc.worker import SILENT_SECONDS, State, running


def test_pauses_are_random_and_their_limit_doubles_up_to_half_a_minute() -> None:
    for failures, limit in ((1, 0.5), (2, 1.0), (5, 8.0), (9, LONGEST_PAUSE_SECONDS), (5000, LONGEST_PAUSE_SECONDS)):
        pauses = [full_jitter(failures) for _ in range(300)]
        assert 0 <= min(pauses) < limit / 10
        assert limit * 0.9 < max(pauses) <= limit


@pytest.mark.parametrize("state", State)
def test_a_worker_runs_unless_it_ended_or_fell_silent(state: State) -> None:
    ended = state in (State.STOPPED, State.FAILED, State.NEEDS_REBUILD)
    assert running({"state": state.value, "at": time.time()}) is not ended
    assert running({"state": state.value, "at": time.time() - SILENT_SECONDS - 1}) is False
    assert running(None) is False
