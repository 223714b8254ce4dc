"""How many events ``cdc tap`` shows, and which."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.cli.tap import rate as module
from cdc.cli.tap.rate import Rate


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "clock", clock)
    return clock


def some(rate: Rate, count: int, limit: int | None = None) -> list[int]:
    """Which of the events 0 to `count` are shown."""
    events: Any = range(count)
    return list(rate.some(events, limit))


def test_without_a_rate_all_are_shown(clock: Clock) -> None:
    assert some(Rate(0), 5) == [0, 1, 2, 3, 4]
    assert some(Rate(0), 5, limit=3) == [0, 1, 2]


def test_what_fits_is_shown_whole_and_of_more_an_even_choice(clock: Clock) -> None:
    assert some(Rate(10), 10) == list(range(10))
    chosen = some(Rate(10), 1000)
    assert {later - earlier for earlier, later in itertools.pairwise(chosen)} == {100}


def test_of_more_than_are_wanted_the_first_are_shown(clock: Clock) -> None:
    assert some(Rate(10), 1000, limit=3) == [0, 1, 2]
    assert len(some(Rate(10), 1000, limit=30)) == 10


@settings(deadline=None)
@given(st.integers(1, 200), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 500)), max_size=30))
def test_in_no_second_are_there_more(rate: int, batches: list[tuple[float, int]]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "clock", clock)
        limited = Rate(rate)
        shown: list[tuple[float, int]] = []
        for seconds, count in batches:
            clock.now += seconds
            shown.append((clock.now, len(some(limited, count))))
    for begin, _ in shown:
        assert sum(count for at, count in shown if begin <= at < begin + 1 - 1e-9) <= rate


def test_a_flood_is_shown_at_the_rate_without_long_breaks(clock: Clock) -> None:
    limited = Rate(100)
    counts = []
    for _ in range(50):
        counts.append(len(some(limited, 10_000)))
        clock.now += 0.1
    assert counts[0] == 100
    assert counts[1:10] == [0] * 9  # the first second is used up
    assert all(9 <= count <= 11 for count in counts[11:])
    assert sum(counts[10:]) >= 380
