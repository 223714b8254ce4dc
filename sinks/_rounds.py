"""Batches in steps, for stores that apply many of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cdc.log import TopicPartition
from cdc.sink import Batch


def rounds(batches: Sequence[Batch]) -> list[list[Batch]]:
    """The batches in as few steps as their order allows: one of each partition in a step, so that no key is in it twice
    and no floor comes between its rows.
    """
    steps: list[list[Batch]] = []
    seen: Counter[TopicPartition] = Counter()
    for batch in batches:
        place = TopicPartition(batch.topic, batch.partition)
        if seen[place] == len(steps):
            steps.append([])
        steps[seen[place]].append(batch)
        seen[place] += 1
    return steps
