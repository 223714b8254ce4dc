"""What is asked of the brokers about topics, offsets and groups, with our errors instead of the client's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from cdc.errors import TransientError
from cdc.log import Topic, TopicPartition
from cdc.log._kafka_client import CALL_SECONDS, KafkaConfig, LeaderlessError, admin_settings, error_of, explained
from cdc.log._kafka_settings import DEFAULTS

_UNREADABLE: Final = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART}


class Admin:
    """One AdminClient, made on first use; any thread may call. Raises what :func:`explained` makes of its errors."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: AdminClient | None = None

    def names(self) -> set[str]:
        """The names of all topics."""
        listed = self._call(lambda client: client.list_topics(timeout=CALL_SECONDS), "listing topics")
        return set(listed.topics)

    def brokers(self) -> int:
        """How many brokers there are."""
        return len(self._call(lambda client: client.list_topics(timeout=CALL_SECONDS), "listing brokers").brokers)

    def described(self, names: Collection[str]) -> dict[str, Topic]:
        """Those of `names` that exist."""
        return {
            name: Topic(name, str(found.topic_id), len(found.partitions)) for name, found in self.found(names).items()
        }

    def found(self, names: Collection[str]) -> dict[str, Any]:
        """The client's descriptions of those of `names` that exist."""
        if not names:
            return {}
        request = TopicCollection(list(names))
        topics: dict[str, Any] = {}
        for name, future in self._call(lambda client: client.describe_topics(request), "describing topics").items():
            found = self._result(future, f"describing topic {name}", unless=(KafkaError.UNKNOWN_TOPIC_OR_PART,))
            if found is not None:
                topics[name] = found
        return topics

    def settings(self, names: Collection[str]) -> dict[str, dict[str, str]]:
        """The settings of `names`, but of those that we may not look at."""
        request = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not request:
            return {}
        found: dict[str, dict[str, str]] = {}
        answers = self._call(lambda client: client.describe_configs(request), "describing settings")
        for resource, future in answers.items():
            doing = f"describing the settings of topic {resource.name}"
            answer = self._result(future, doing, unless=_UNREADABLE)
            if answer is not None:
                told = {name: entry.value for name, entry in answer.items() if name in DEFAULTS and entry.value}
                found[resource.name] = DEFAULTS | told
        return found

    def create(self, topics: Sequence[NewTopic]) -> None:
        """Create topics; one that is there already is fine. Returns when all brokers' answers know them."""
        created = self._call(
            lambda client: client.create_topics([*topics], operation_timeout=CALL_SECONDS), "creating topics"
        )
        for name, future in created.items():
            self._result(future, f"creating topic {name}", unless=(KafkaError.TOPIC_ALREADY_EXISTS,))
        self._wait_for([topic.topic for topic in topics])

    def delete(self, names: Collection[str]) -> None:
        """Delete topics; one that is gone already is fine."""
        if not names:
            return
        deleted = self._call(lambda client: client.delete_topics([*names], operation_timeout=CALL_SECONDS), "deleting")
        for name, future in deleted.items():
            self._result(future, f"deleting topic {name}", unless=(KafkaError.UNKNOWN_TOPIC_OR_PART,))

    def delete_groups(self, prefix: str) -> None:
        """Delete the consumer groups whose names begin with `prefix`."""
        listed = self._result(
            self._call(lambda client: client.list_consumer_groups(), "listing groups"), "listing groups"
        )
        groups = [group.group_id for group in listed.valid if group.group_id.startswith(prefix)]
        if groups:
            for group, future in self._call(lambda client: client.delete_consumer_groups(groups), "deleting").items():
                self._result(future, f"deleting group {group}", unless=(KafkaError.GROUP_ID_NOT_FOUND,))

    def bounds(self, topic: str) -> tuple[int, int]:
        """First offset and high watermark of an internal topic's only partition."""
        place = TopicPartition(topic, 0)
        return self._bounds(place, IsolationLevel.READ_UNCOMMITTED)

    def committed_bounds(self, topic: str) -> tuple[int, int]:
        """The same, up to the first transaction that is open."""
        return self._bounds(TopicPartition(topic, 0), IsolationLevel.READ_COMMITTED)

    def offsets(
        self,
        partitions: Collection[TopicPartition],
        spec: OffsetSpec,
        level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[TopicPartition, int]:
        """The offset that `spec` means in each of `partitions`; waits a while for one that has no leader."""
        if not partitions:
            return {}
        request = {Place(*tp): spec for tp in partitions}
        doing = f"listing offsets of {next(iter(partitions)).topic}"
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            futures = self._call(lambda client: client.list_offsets(request, isolation_level=level), doing)
            try:
                answers = {TopicPartition(p.topic, p.partition): self._result(f, doing) for p, f in futures.items()}
                return {tp: answer.offset for tp, answer in answers.items()}
            except LeaderlessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Let go of the client; another call makes a new one."""
        with self._lock:
            self._client = None

    def _bounds(self, place: TopicPartition, level: IsolationLevel) -> tuple[int, int]:
        first = self.offsets([place], OffsetSpec.earliest())[place]
        return first, self.offsets([place], OffsetSpec.latest(), level)[place]

    def _wait_for(self, names: Collection[str]) -> None:
        """A topic that was created is known to the brokers a little later."""
        deadline = time.monotonic() + CALL_SECONDS
        while len(found := self.described(names)) < len(names):
            if time.monotonic() > deadline:
                raise TransientError("Kafka: new topics do not appear", hint="look at the brokers' health")
            time.sleep(0.01)
        self.offsets(
            [TopicPartition(topic.name, i) for topic in found.values() for i in range(topic.partitions)],
            OffsetSpec.latest(),
        )

    def _call(self, call: Callable[[AdminClient], Any], doing: str) -> Any:
        with self._lock:
            if self._client is None:
                self._client = AdminClient(admin_settings(self._config))
            client = self._client
        try:
            return call(client)
        except KafkaException as raised:
            raise explained(error_of(raised), doing) from raised

    @staticmethod
    def _result(future: Future[Any], doing: str, *, unless: Collection[int] = ()) -> Any:
        """The future's result; None for an error whose code is in `unless`."""
        try:
            return future.result(CALL_SECONDS * 2)
        except KafkaException as raised:
            if error_of(raised).code() in unless:
                return None
            raise explained(error_of(raised), doing) from raised
