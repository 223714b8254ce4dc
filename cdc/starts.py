"""Where a sink begins to read each partition, and when it must not: better no rows than rows with a gap in between."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from cdc.errors import GapError, PermanentError
from cdc.log import Committed, Fetched, Log, TopicPartition
from cdc.sink import ANEW, Sink, StoredOffset

STARTED: Final = "started"
"""State kind of the durable list of started partitions. Each is a state of its own, ``SINK/TOPIC/PARTITION``, so that
workers of one sink do not overwrite each other's: the topic's id, and the time (seconds since 1970) up to which the
store is complete."""
MARGIN: Final = 0.1
"""By this share of the time that the log keeps deletes a gap is called one earlier: clocks differ, and what is written
down is some minutes old."""

clock = time.time
logger = structlog.get_logger()


def started(log: Log) -> dict[tuple[str, TopicPartition], tuple[str, float]]:
    """The partitions that each sink has started: their topic's id, and the time up to which the store is complete."""
    found: dict[tuple[str, TopicPartition], tuple[str, float]] = {}
    for name, state in log.states(STARTED).items():
        if name.count("/") != 2:
            raise PermanentError(
                f"the log says of sink {name!r} where it began in a way that only an earlier release understood",
                hint="begin anew with: cdc cleanup",
            )
        sink, topic, number = name.split("/")
        found[sink, TopicPartition(topic, int(number))] = state["id"], state["complete"]
    return found


class Starts:
    """Decides the offset of every partition that is assigned to a sink, and knows how long it has been behind there.

    A sink goes on at the offset that is stored with the rows, or else committed to the log. Only a partition that it
    never started may begin at its start, and which these are is written down apart from the offsets: so a lost offset
    is told from a new partition. A partition goes on that list *after* its first offset is stored, otherwise a crash
    in between would look like a lost offset.

    A sink that is behind for longer than the log keeps deletes would miss some without any error. So beside each
    partition on the list stands the time up to which the store is complete: the latest of the moment it was started,
    the append time of the last record in the store, and the last moment when nothing was unread.
    """

    def __init__(self, name: str, sink: Sink, log: Log) -> None:
        self._name = name
        self._sink = sink
        self._log = log
        self._fresh: set[TopicPartition] = set()
        self._next: dict[TopicPartition, int] = {}
        self._complete: dict[TopicPartition, float] = {}
        self._kept: dict[str, float] = {}
        self.topic_ids: dict[str, str] = {}
        """Ids of the topics that were assigned, by name."""

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset to read each of `partitions` from. Raises GapError, and what the log and the sink raise."""
        now = clock()
        topics = self._log.topics()
        self._kept.update(self._log.delete_retention({place.topic for place in partitions} & topics.keys()))
        stored = self._sink.offsets() if self._sink.owns_offsets else self._log.committed(self._name)
        begun = {place: state for (sink, place), state in started(self._log).items() if sink == self._name}
        first, end = self._log.start_offsets(partitions), self._log.end_offsets(partitions)
        offsets: dict[TopicPartition, int] = {}
        incomplete: set[str] = set()
        for place in partitions:
            topic = topics.get(place.topic)
            if topic is None:
                raise self._gap(place, "the topic was deleted")
            self.topic_ids[topic.name] = topic.id
            known: Committed | StoredOffset | None = stored.get(place)
            id_, complete = begun.get(place, (topic.id, None))
            if id_ != topic.id or (known is not None and known.topic_id != topic.id):
                raise self._gap(place, "the topic was deleted and made anew since it was last read")
            if known is not None:
                if not first[place] <= known.offset <= end[place]:
                    held = f"the log holds offsets {first[place]} to {end[place]}"
                    raise self._gap(place, f"{held}, but reading must go on at {known.offset}")
                offsets[place] = known.offset
            elif complete is not None:
                where = "in the store" if self._sink.owns_offsets else "on the log"
                raise self._gap(place, f"it was read before, but its offset is no longer {where}")
            else:
                offsets[place] = first[place]
                incomplete |= {place.topic} if first[place] else set()
            if complete is None:
                self._fresh.add(place)
            self._next[place] = offsets[place]
            self._complete[place] = now if complete is None or offsets[place] >= end[place] else complete
        for name in sorted(incomplete):
            hint = "rows that did not change since are not there any more: `cdc snapshot` puts them on the log again"
            logger.warning("delivery.topic_begins_later", sink=self._name, topic=name, hint=hint)
        return offsets

    def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """`partitions` were given to another worker."""
        for place in partitions:
            self._fresh.discard(place)
            self._next.pop(place, None)

    def fresh(self, place: TopicPartition) -> bool:
        """Whether `place` is not on the list of started partitions."""
        return place in self._fresh

    def unread(self, fetched: Sequence[Fetched]) -> None:
        """Offsets that were unread were fetched. Raises GapError if they were unread for too long: what was deleted
        since may have been cleaned away."""
        now = clock()
        for part in fetched:
            place = TopicPartition(part.topic, part.partition)
            kept, complete = self._kept[part.topic], self._complete[place]
            if now - complete > kept * (1 - MARGIN):
                since = datetime.fromtimestamp(complete, UTC).isoformat(" ", "seconds")
                raise self._gap(
                    place,
                    f"it has been behind since {since}, and the log keeps deletes for {kept / 86400:.3g} days only",
                )

    def stored(self, batch: Sequence[Fetched]) -> None:
        """`batch` is in the store and its offsets are stored: put on the list those that are not on it.

        Durable on return, as far as the list goes; the times are written down by `remember`.
        """
        for part in batch:
            place = TopicPartition(part.topic, part.partition)
            self._next[place] = part.next_offset
            if part.records:
                self._complete[place] = max(self._complete[place], part.records[-1].timestamp / 1000)
        new = {TopicPartition(part.topic, part.partition) for part in batch} & self._fresh
        if new:
            self._write_down(new)
            self._fresh -= new

    def remember(self) -> None:
        """Write down up to when the store is complete. To be called every few minutes, and in the end."""
        places = self._next.keys() - self._fresh
        if not places:
            return
        now = clock()
        ends = self._log.end_offsets(places)
        self._complete.update((place, now) for place in places if self._next[place] >= ends[place])
        self._kept.update(self._log.delete_retention({place.topic for place in places}))
        self._write_down(places)

    def _write_down(self, places: Collection[TopicPartition]) -> None:
        states = {
            f"{self._name}/{place.topic}/{place.partition}": {
                "id": self.topic_ids[place.topic],
                "complete": round(self._complete[place], 3),
            }
            for place in places
        }
        self._log.put_states(STARTED, states)

    def _gap(self, place: TopicPartition, what: str) -> GapError:
        return GapError(
            f"sink {self._name!r} cannot go on with partition {place.partition} of topic {place.topic!r}: {what}, "
            "so changes may be missing from the store",
            hint=f"{ANEW}; if the log itself lacks rows, begin anew with: cdc cleanup",
        )
