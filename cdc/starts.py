"""Where a sink begins to read each partition, and when it must not: better no rows than rows with a gap in between."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cdc.errors import GapError
from cdc.log import Committed, Log, TopicPartition
from cdc.sink import Sink, StoredOffset

STARTED = "started"
"""State kind of the durable list of started partitions: ``{topic: {"id": …, "partitions": […]}}`` by sink."""


class Starts:
    """Decides the offset of every partition that is assigned to a sink.

    A sink goes on at the offset that is stored with the rows, or else committed to the log. Only a partition that it
    never started may begin at its start, and which these are is written down apart from the offsets: so a lost offset
    is told from a new partition. A partition goes on that list *after* its first offset is stored, otherwise a crash
    in between would look like a lost offset.
    """

    def __init__(self, name: str, sink: Sink, log: Log) -> None:
        self._name = name
        self._sink = sink
        self._log = log
        self._fresh: set[TopicPartition] = set()
        self.topic_ids: dict[str, str] = {}
        """Ids of the topics that were assigned, by name."""

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset to read each of `partitions` from. Raises GapError, and what the log and the sink raise."""
        topics = self._log.topics()
        stored = self._sink.offsets() if self._sink.owns_offsets else self._log.committed(self._name)
        started = self._started()
        first, end = self._log.start_offsets(partitions), self._log.end_offsets(partitions)
        offsets: dict[TopicPartition, int] = {}
        for place in partitions:
            topic = topics.get(place.topic)
            if topic is None:
                raise self._gap(place, "the topic was deleted")
            self.topic_ids[topic.name] = topic.id
            known: Committed | StoredOffset | None = stored.get(place)
            entry = started.get(topic.name, {"id": topic.id, "partitions": []})
            if entry["id"] != topic.id or (known is not None and known.topic_id != topic.id):
                raise self._gap(place, "the topic was deleted and made anew since it was last read")
            if known is not None:
                if not first[place] <= known.offset <= end[place]:
                    held = f"the log holds offsets {first[place]} to {end[place]}"
                    raise self._gap(place, f"{held}, but reading must go on at {known.offset}")
                offsets[place] = known.offset
            elif place.partition in entry["partitions"]:
                where = "in the store" if self._sink.owns_offsets else "on the log"
                raise self._gap(place, f"it was read before, but its offset is no longer {where}")
            else:
                offsets[place] = first[place]
            if place.partition not in entry["partitions"]:
                self._fresh.add(place)
        return offsets

    def fresh(self, place: TopicPartition) -> bool:
        """Whether `place` is not on the list of started partitions."""
        return place in self._fresh

    def stored(self, partitions: Collection[TopicPartition]) -> None:
        """Offsets of `partitions` are stored: put on the list those that are not on it. Durable on return."""
        new = self._fresh.intersection(partitions)
        if not new:
            return
        started = self._started()
        for topic in {place.topic for place in new}:
            listed = set(started.get(topic, {"partitions": []})["partitions"])
            listed |= {place.partition for place in new if place.topic == topic}
            started[topic] = {"id": self.topic_ids[topic], "partitions": sorted(listed)}
        self._log.put_state(STARTED, self._name, started)
        self._fresh -= new

    def _started(self) -> dict[str, Any]:
        return dict(self._log.states(STARTED).get(self._name, {}))

    def _gap(self, place: TopicPartition, what: str) -> GapError:
        return GapError(
            f"sink {self._name!r} cannot go on with partition {place.partition} of topic {place.topic!r}: {what}, "
            "so changes may be missing from the store",
            hint="fill the store anew from the log: empty it and give the sink another name; if the log itself lacks "
            "rows, begin anew with: cdc cleanup",
        )
