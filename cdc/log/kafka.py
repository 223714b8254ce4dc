"""The Kafka log: a transactional producer per source, consumer groups, compacted internal topics."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Final

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
)
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import NewTopic, OffsetSpec

from cdc.errors import FencedError, PermanentError, TransientError, UnreachableError
from cdc.findings import Finding, Severity
from cdc.log import (
    DELETE_RETENTION_SECONDS,
    Assigned,
    Committed,
    Log,
    LogConfig,
    LogReader,
    LogWriter,
    Revoked,
    Topic,
    TopicPartition,
)
from cdc.log._kafka_admin import Admin
from cdc.log._kafka_client import (
    CALL_SECONDS,
    KafkaConfig,
    consumer_settings,
    error_of,
    explained,
    producer_settings,
)
from cdc.log._kafka_prepared import PreparedTopic
from cdc.log._kafka_reader import KafkaReader
from cdc.log._kafka_settings import INTERNAL, Examiner, creation, delete_retention, settings
from cdc.log._kafka_tables import Table, last_value
from cdc.log._kafka_writer import KafkaWriter
from schemas.table import TableSchema

_EPOCH_KEY: Final = b'["epoch"]'

logger = structlog.get_logger()


class KafkaLog(Log):
    """See the module. One AdminClient, made on first use; readers and writers have clients of their own."""

    Config: ClassVar[type[LogConfig]] = KafkaConfig

    def __init__(self, config: LogConfig, pipeline: str) -> None:
        assert isinstance(config, KafkaConfig)
        self._config = config
        self._pipeline = pipeline
        self._positions, self._schemas, self._states = (
            f"{pipeline}.{name}" for name in ("_positions", "_schemas", "_states")
        )
        self._is_ours = re.compile(_pattern(config.topics.name, pipeline)).fullmatch
        self._admin = Admin(config)
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        # Internal topics are read to their end, and that it is the end is said by a fetch that found nothing more.
        settings = consumer_settings(config) | {"group.id": self.group_id("-"), "fetch.wait.max.ms": 5}
        self._reading = settings
        self._tables = {
            topic: Table[bytes](settings, topic, self._admin.committed_bounds, Message.value)
            for topic in (self._positions, self._schemas, self._states)
        }
        self._prepared = PreparedTopic(
            settings, f"{pipeline}._prepared", self._admin.bounds, self._admin.committed_bounds
        )
        self._internal = (*self._tables, self._prepared.name)

    def group_id(self, group: str) -> str:
        """The name that Kafka knows `group` by."""
        return f"{self._pipeline}.{group}"

    def topics(self) -> Mapping[str, Topic]:
        names = [name for name in self._admin.names() if self._is_ours(name) and name not in self._internal]
        return self._admin.described(names)

    def create_topics(self, names: Collection[str]) -> None:
        there = self._admin.names()
        missing = [name for name in names if name not in there]
        internal = [name for name in self._internal if name not in there]
        if names:
            self._refuse_what_loses(there & {*names, *self._internal})
        if not missing and not internal:
            return
        replicas = self._config.topics.replicas or min(3, self._admin.brokers())
        made = settings(self._config.topics.cleanup, replicas)
        new = [NewTopic(name, self._config.topics.partitions, replicas, config=made) for name in missing]
        new += [NewTopic(name, 1, replicas, config=INTERNAL) for name in internal]
        if not self._config.topics.create:
            commands = [creation(topic, self._config.bootstrap) for topic in new]
            raise PermanentError(
                f"Kafka lacks these topics, and log.topics.create is false: {', '.join(missing + internal)}",
                hint="\n".join(["set log.topics.create: true, or create them:", *commands]),
            )
        self._admin.create(new)

    def check(self) -> list[Finding]:
        return self._examined({name for name in self._admin.names() if self._is_ours(name) or name in self._internal})

    def delete_retention(self, topics: Collection[str]) -> Mapping[str, float]:
        found = {name: delete_retention(each) for name, each in self._admin.settings(topics).items()}
        return {name: found.get(name, DELETE_RETENTION_SECONDS) for name in topics}

    def delete(self) -> None:
        names = [name for name in self._admin.names() if self._is_ours(name) or name in self._internal]
        self._admin.delete(names)
        self._admin.delete_groups(f"{self._pipeline}.")

    def writer(self, source: str) -> LogWriter:
        def position() -> bytes | None:
            return last_value(self._reading, self._positions, source.encode(), self._admin.bounds)

        self.create_topics(())
        own_id = f"{self._pipeline}.{source}"
        return KafkaWriter(self._config, own_id, source, self._positions, self._schemas, self._prepared, position)

    def reader(
        self,
        group: str | None,
        topics: Callable[[str], bool],
        on_assigned: Assigned,
        on_revoked: Revoked,
        max_bytes: int = 8 << 20,
        *,
        alone: bool = False,  # noqa: ARG002 - a broker lets anybody join; the store refuses
    ) -> LogReader:
        return KafkaReader(self, self._config, group, topics, on_assigned, on_revoked, max_bytes)

    def committed(self, group: str) -> Mapping[TopicPartition, Committed]:
        # Not by the AdminClient: where the coordinator is still being found, its request kills the whole process
        # (librdkafka issue 5040). A consumer, which need not join the group for this, waits and asks again.
        places = [Place(topic.name, i) for topic in self.topics().values() for i in range(topic.partitions)]
        if not places:
            return {}
        consumer = Consumer(self._reading | {"group.id": self.group_id(group)})
        try:
            found = consumer.committed(places, timeout=CALL_SECONDS)
        except KafkaException as raised:
            raise explained(error_of(raised), f"reading the offsets of group {group}") from raised
        finally:
            consumer.close()
        return {
            TopicPartition(place.topic, place.partition): Committed(place.offset, place.metadata or "")
            for place in found
            if place.error is None and place.offset >= 0
        }

    def start_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._admin.offsets(partitions, OffsetSpec.earliest())

    def end_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._admin.offsets(partitions, OffsetSpec.latest())

    def offsets_for_time(self, partitions: Collection[TopicPartition], time: int) -> Mapping[TopicPartition, int]:
        ends = self.end_offsets(partitions)  # first: what is appended meanwhile is later than `time`
        found = self._admin.offsets(partitions, OffsetSpec.for_timestamp(time))
        return {tp: offset if offset >= 0 else ends[tp] for tp, offset in found.items()}

    def schemas(self) -> Mapping[bytes, TableSchema]:
        return {key: TableSchema.from_json(value) for key, value in self._table(self._schemas).items()}

    def positions(self) -> Mapping[str, bytes]:
        return {key.decode(): value for key, value in self._table(self._positions).items()}

    def prepared(self, source: str) -> Mapping[str, int]:
        kept = self._prepared.kept(source) if self._prepared.name in self._admin.names() else {}
        return {transaction: len({place.part for place in places}) for transaction, places in kept.items()}

    def prepared_parts(self, source: str, transaction: str) -> Iterator[bytes]:
        if self._prepared.name in self._admin.names():
            yield from self._prepared.parts(source, transaction)

    def next_epoch(self, at_least: int = 1) -> int:
        self.create_topics(())
        # The transactional id makes reading the counter and writing it back one step: a second process fences us.
        producer = Producer(producer_settings(self._config) | {"transactional.id": f"{self._pipeline}._epoch"})
        try:
            producer.init_transactions(CALL_SECONDS)
            epoch = max(int(self._table(self._states).get(_EPOCH_KEY, b"0")) + 1, at_least)
            producer.begin_transaction()
            producer.produce(self._states, b"%d" % epoch, _EPOCH_KEY)
            producer.commit_transaction(CALL_SECONDS)
        except KafkaException as raised:
            error = explained(error_of(raised), "drawing an epoch", otherwise=TransientError)
            if isinstance(error, FencedError):
                error = TransientError(
                    "Kafka: two processes drew an epoch at the same moment", hint="it is tried again"
                )
            raise error from raised
        return epoch

    def put_states(self, kind: str, states: Mapping[str, Mapping[str, Any] | None]) -> None:
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failures.append(error)

        with self._lock:
            if self._producer is None:
                self._producer = Producer(producer_settings(self._config) | {"message.timeout.ms": 10_000})
                made = True
            else:
                made = False
            producer = self._producer
        if made:
            self.create_topics(())
        try:
            for name, state in states.items():
                value = None if state is None else json.dumps(state).encode()
                producer.produce(self._states, value, json.dumps([kind, name]).encode(), on_delivery=delivered)
            left = producer.flush(CALL_SECONDS)
        except (KafkaException, BufferError) as raised:
            raise TransientError("Kafka: storing a state failed", hint="it is tried again") from raised
        if failures:
            raise explained(failures[0], "storing a state")
        if left:
            raise UnreachableError("Kafka: storing a state timed out", hint="check whether the brokers are up")

    def states(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for key, value in self._table(self._states).items():
            match json.loads(key):
                case [found_kind, name] if found_kind == kind:
                    found[name] = json.loads(value)
        return found

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        self._prepared.close()
        with self._lock:
            self._producer = None
        self._admin.close()

    def _table(self, topic: str) -> Mapping[bytes, bytes]:
        return self._tables[topic].read() if topic in self._admin.names() else {}

    def _examined(self, names: Collection[str]) -> list[Finding]:
        examiner = Examiner(self._config.topics.cleanup, self._config.bootstrap)
        topics, settings_of = self._admin.found(names), self._admin.settings(names)
        findings: list[Finding] = []
        for name, topic in sorted(topics.items()):
            if name not in settings_of:
                message = f"may not read the settings of topic {name}"
                findings.append(Finding("log.topic", Severity.WARNING, message, "grant DescribeConfigs on it"))
            elif name in self._internal:
                findings += examiner.internal(name, settings_of[name])
            else:
                replicas = min(len(partition.replicas) for partition in topic.partitions)
                findings += examiner.topic(name, replicas, settings_of[name])
        return findings

    def _refuse_what_loses(self, names: Collection[str]) -> None:
        """Raise PermanentError if one of these topics is set so that records would be lost; tell of lesser trouble."""
        for one in self._examined(names):
            if one.severity is Severity.ERROR:
                raise PermanentError(one.message, hint=one.fix)
            logger.warning("log.topic_settings", finding=one.message, fix=one.fix)


def _pattern(template: str, pipeline: str) -> str:
    """The regular expression that the names of this pipeline's data topics match."""
    parts = re.split(r"\{(\w+)\}", template)
    pieces = [re.escape(parts[0])]
    for field, text in zip(parts[1::2], parts[2::2], strict=True):
        pieces.append(re.escape(pipeline) if field == "pipeline" else ".+")
        pieces.append(re.escape(text))
    return "".join(pieces)


LOG = KafkaLog
